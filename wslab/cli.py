"""The command line: each command calls the rooms and prints what comes of it; what can be typed is in `cli_arguments`.

1. Every command takes `--json`: standard output is then one JSON document and nothing else, progress goes to standard
   error. What is refused leaves standard output empty.
2. Exit status: 0 held or done, 1 broke, 2 bad input, 3 crashed, 130 interrupted.
3. Heavy imports stand inside the commands that need them, so that `wslab --help` answers at once.
4. A relative path counts from where the command was typed; in the rooms it counts from the project.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wslab.cli_arguments import BAD_INPUT, parse
from wslab.cli_output import EXIT_STATUS, print_json, report_run, say, show
from wslab.core.quantities import BadInput, parse_count, refuse
from wslab.core.stage import PARAMETERS, Stage

CRASHED, INTERRUPTED = EXIT_STATUS["crashed"], EXIT_STATUS["aborted"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # A script's background jobs start with SIGINT ignored; what asks a load to stop must stop it there, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, end_like_interrupt)
    try:
        options = parse(arguments)
        status = 0 if options is None else COMMANDS[options.command](options)
        sys.stdout.flush()
        return status
    except BadInput as error:
        say(f"wslab: {' '.join(str(error).split())}")
        return BAD_INPUT
    except KeyboardInterrupt:
        say("wslab: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        say(f"wslab: {error}")
        return CRASHED
    except Exception:
        # A programmer's error: its traceback is wanted, Python's exit status for it would say that a limit broke.
        sys.excepthook(*sys.exc_info())
        return CRASHED


def end_like_interrupt(number: int, frame: Any) -> None:
    """Have a request to terminate end things in the same good order as Ctrl-C, whoever handles that just now."""
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, frame)


# Commands.


def preflight(options: argparse.Namespace) -> int:
    """Say what this machine allows."""
    from wslab.lab.preflight import preflight as look

    return show(look(options.connections), options.json)


def stage(options: argparse.Namespace) -> int:
    """Run one stage."""
    from wslab.tune.apply import run_stage
    from wslab.view.live import live_view

    return report_run(run_stage(on_event=live_view(), **given(options)), options.json)


def swarm(options: argparse.Namespace) -> int:
    """Load a server that runs already."""
    from wslab.tune.apply import run_stage
    from wslab.view.live import live_view

    target = {"target": options.url, "operate_target": options.i_operate_this_target}
    if not options.url:
        raise refuse("URL", options.url, "a URL such as ws://127.0.0.1:9000/path")
    return report_run(run_stage(on_event=live_view(), **target, **given(options)), options.json)


def sweep(options: argparse.Namespace) -> int:
    """Run several stages through the notebook."""
    if options.breaks:
        return sweep_breaks(options)
    counts = parse_counts(options.stages, "stages")
    Stage.of(**given(options))  # Refused at once: loading papermill takes seconds.
    from wslab.view.workbook import sweep as run_sweep

    result = run_sweep(counts, keep_going=options.keep_going, **given(options))
    return show(result, options.json, EXIT_STATUS[result.outcome])


def sweep_breaks(options: argparse.Namespace) -> int:
    """Break limits on purpose."""
    from wslab.breaks.notebook import sweep_breaks as break_limits

    atlas = break_limits(options.breaks, given(options).get("data_dir", ""), say=say)
    return show(atlas, options.json, atlas.status)


def serve(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from wslab.lab.serving import Serving

    with Serving(options.kind, host=options.host, port=options.port, shards=options.shards) as serving:
        line = {"url": serving.url, "pids": serving.pids}
        text = json.dumps(line) if options.json else f"{options.kind} serves at {serving.url}; Ctrl-C ends it"
        print(text, flush=True)
        how = serving.wait(lambda line: say(f"wslab: {line}"))
    say(f"wslab: {how}")
    return CRASHED


def tune(options: argparse.Namespace) -> int:
    """Say which kernel settings a target needs."""
    from wslab.tune.advice import tune as look
    from wslab.tune.apply import apply, revert

    found = None if options.revert else look(**given(options))
    for path in found.write(options.write) if found and options.write else []:
        say(f"written: {path}")
    if found and options.apply and found.settings:
        say(found.difference() + "\n")
    result = revert() if found is None else apply(found, options.all) if options.apply else found
    return show(result, options.json, result.status)


def runs(options: argparse.Namespace) -> int:
    """List recorded runs."""
    from wslab.lab.runs import list_runs, runs_table

    found = list_runs(absolute(options.data_dir))
    if options.json:
        print_json([run.as_dict() for run in found])
    elif not found:
        print("no recorded runs yet; `wslab stage --connections 10k` makes one")
    else:
        print(runs_table(found).to_string())
    return 0


def report(options: argparse.Namespace) -> int:
    """Write the report of recorded runs; where there are none yet, of those that come with the project."""
    from wslab.lab.runs import list_runs
    from wslab.lab.store import data_folder
    from wslab.view.publish import report as publish

    folder = data_folder(absolute(options.data_dir))
    found = list_runs(folder, or_reference=not options.data_dir)
    if not found:
        raise BadInput(f"no recorded runs in {folder}; `wslab stage --connections 10k` makes one")
    out = Path(absolute(options.out) or folder / "report")
    try:
        path = publish(found, out)
    except OSError as problem:
        raise BadInput(f"out={out} cannot be written: {problem.strerror or problem}") from problem
    print_json({"report": str(path)}) if options.json else print(path)
    return 0


def ps(options: argparse.Namespace) -> int:
    """List processes of wslab that run."""
    from wslab.lab.registry import list_processes

    found = list_processes()
    if options.json:
        print_json([process.as_dict() for process in found])
    elif not found:
        print("no processes of wslab run")
    for process in [] if options.json else found:
        state = "its caller has died" if process.orphaned else ""
        print(f"{process.pid:>8}  {process.role:<10}  {process.run_dir}  {state}".rstrip())
    return 0


def clean(options: argparse.Namespace) -> int:
    """End what earlier runs have left behind, and put back the settings of those that were killed."""
    from wslab.lab.registry import clean as end_leftovers
    from wslab.tune.apply import revert

    ended, reverted = end_leftovers(), revert(abandoned=True)
    if options.json:
        print_json({"ended": [process.as_dict() for process in ended], **reverted.as_dict()})
    else:
        said = [f"ended {len(ended)} process{'es' * (len(ended) != 1)}"] if ended else []
        said += [reverted.text()] if reverted.changes else []
        print("\n".join(said) or "nothing was left behind")
    return reverted.status


def bench(options: argparse.Namespace) -> int:
    """Measure the lean server against the floor."""
    from wslab.lab.bench import bench as measure

    counts = parse_counts(options.connections, "connections")
    result = measure(counts, parse_count(options.repetitions, "repetitions"), say=say)
    return show(result, options.json, EXIT_STATUS[result.outcome])


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    command.__name__: command
    for command in (preflight, stage, sweep, serve, swarm, tune, runs, report, ps, clean, bench)
}


# What was typed.


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the stage parameters that were given on the command line."""
    names = {parameter.name for parameter in PARAMETERS}
    parameters = {name: value for name, value in vars(options).items() if name in names}
    if "data_dir" in parameters:
        parameters["data_dir"] = absolute(parameters["data_dir"])
    return parameters


def absolute(path: str) -> str:
    """Return a path that was typed as an absolute one; nothing stays nothing."""
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def parse_counts(text: str, name: str) -> list[int]:
    """Return the numbers of a list such as `10k,100k`.

    Raises:
        BadInput: it is no such list.
    """
    try:
        return [parse_count(part, name) for part in text.split(",")]
    except BadInput:
        accepted = "whole numbers from 1 to 1G with commas between them, such as 10k,100k,1M"
        raise refuse(name, text, accepted) from None


if __name__ == "__main__":
    sys.exit(main())
