"""The command line: argument parsing, and what is printed; the work is done in the rooms.

1. Every command takes `--json`: standard output is then one JSON document and nothing else, progress goes to standard
   error.
2. Exit status: 0 held or done, 1 broke, 2 bad input, 3 crashed, 130 interrupted.
3. Heavy imports stand inside the commands that need them, so that `wslab --help` answers at once.
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

from wslab.core.quantities import BadInput, parse_count
from wslab.core.stage import PARAMETERS, SERVER_KINDS
from wslab.core.target import CONSENT_OPTION

EXIT_STATUS = {"held": 0, "broke": 1, "crashed": 3, "aborted": 130}
BAD_INPUT, CRASHED, INTERRUPTED = 2, 3, 130
DEFAULT_STAGES = "10k,100k,700k,1M"
# Parameters that make no sense where the server is somebody else's.
SERVER_PARAMETERS = ("server", "server_shards", "memory_cap")
# Parameters that no kernel setting depends on; and the target, which has another default there.
UNTUNED_PARAMETERS = ("connections", "server", "ramp_rate", "hold_seconds", "memory_cap", "data_dir", "label", "tune")


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> Any:
        """Print one line and leave with status 2."""
        self.exit(BAD_INPUT, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "command"):
        parser.print_help()
        return 0
    # Being terminated ends things in the same good order as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
        return status
    except BadInput as error:
        print(f"wslab: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("wslab: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


# Commands.


def preflight(options: argparse.Namespace) -> int:
    """Say what this machine allows."""
    from wslab.lab.preflight import preflight as look

    result = look(**({"connections": options.connections} if options.connections else {}))
    if options.json:
        print_json(result.as_dict())
    else:
        print(result.text())
    return 0


def stage(options: argparse.Namespace) -> int:
    """Run one stage."""
    from wslab.lab.experiment import run_stage
    from wslab.view.live import live_view

    return report_run(run_stage(on_event=live_view(), **given(options)), options.json)


def swarm(options: argparse.Namespace) -> int:
    """Load a server that runs already."""
    from wslab.lab.experiment import run_stage
    from wslab.view.live import live_view

    target = {"target": options.url, "operate_target": options.i_operate_this_target}
    run = run_stage(on_event=live_view(), **target, **given(options))
    return report_run(run, options.json)


def sweep(options: argparse.Namespace) -> int:
    """Run several stages through the notebook."""
    from wslab.view.workbook import sweep as run_sweep

    result = run_sweep(options.stages.split(","), keep_going=options.keep_going, **given(options))
    if options.json:
        print_json(result.as_dict())
    else:
        print(result.text())
    return EXIT_STATUS[result.outcome]


def serve(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from wslab.lab.serving import Serving

    shards = options.shards if options.shards == "auto" else parse_count(options.shards, "shards")
    with Serving(options.kind, host=options.host, port=options.port, shards=shards) as serving:
        line = {"url": serving.url, "pids": serving.pids}
        text = json.dumps(line) if options.json else f"{options.kind} serves at {serving.url}; Ctrl-C ends it"
        print(text, flush=True)
        return serving.wait()


def tune(options: argparse.Namespace) -> int:
    """Say which kernel settings a target needs."""
    from wslab.lab.tune import tune as look
    from wslab.lab.tuned import apply, revert

    found = None if options.revert else look(**given(options))
    for path in found.write(options.write) if found and options.write else []:
        say(f"written: {path}")
    if found and options.apply and found.settings:
        say(found.difference() + "\n")
    result = revert() if found is None else apply(found, options.all) if options.apply else found
    print_json(result.as_dict()) if options.json else print(result.text())
    return result.status


def runs(options: argparse.Namespace) -> int:
    """List recorded runs."""
    from wslab.lab.runs import list_runs, runs_table

    found = list_runs(options.data_dir or None)
    if options.json:
        print_json([run.as_dict() for run in found])
    elif not found:
        print("no recorded runs yet; `wslab stage --connections 10k` makes one")
    else:
        print(runs_table(found).to_string())
    return 0


def report(options: argparse.Namespace) -> int:
    """Write the report of recorded runs."""
    from wslab.lab.runs import list_runs
    from wslab.view.publish import report as publish

    path = publish(list_runs(options.data_dir or None), options.out)
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
    """End what earlier runs have left behind."""
    from wslab.lab.registry import clean as end_leftovers

    ended = end_leftovers()
    if options.json:
        print_json({"ended": [process.as_dict() for process in ended]})
    else:
        print(f"ended {len(ended)} processes" if ended else "nothing was left behind")
    return 0


def bench(options: argparse.Namespace) -> int:
    """Measure the lean server against the floor."""
    from wslab.lab.bench import bench as measure

    counts = [parse_count(text, "connections") for text in options.connections.split(",")]
    result = measure(counts, parse_count(options.repetitions, "repetitions"), say=say)
    if options.json:
        print_json(result.as_dict())
    else:
        print(result.text())
    return 0


# Arguments.


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="wslab",
        description="How many WebSocket connections can this server hold on this machine, what breaks first, "
        "and what do I change?",
        epilog="example: wslab stage --connections 100k",
    )
    parser.add_argument("--version", action="version", version=f"wslab {version()}")
    parser.add_argument(
        "--print-completion", action=PrintCompletion, help="print a completion script for bash, zsh or tcsh"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)

    def add(command: Callable[[argparse.Namespace], int], example: str) -> Parser:
        summary = (command.__doc__ or "").rstrip(".")
        added = commands.add_parser(
            command.__name__, help=summary[0].lower() + summary[1:], description=summary, epilog=f"example: {example}"
        )
        added.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
        added.set_defaults(command=command)
        return added

    add(preflight, "wslab preflight --connections 3M").add_argument(
        "--connections", metavar="N", help="say whether so many fit, such as 700k"
    )
    add_parameters(add(stage, "wslab stage --connections 1M --hold-seconds 30"))
    sweeping = add(sweep, "wslab sweep --stages 10k,100k")
    sweeping.add_argument("--stages", default=DEFAULT_STAGES, metavar="LIST", help="default %(default)s")
    sweeping.add_argument("--keep-going", action="store_true", help="go on after a stage that broke")
    add_parameters(sweeping, without=("connections",))
    serving = add(serve, "wslab serve lean --port 9000")
    serving.add_argument("kind", metavar="KIND", help="server kind: " + ", ".join(SERVER_KINDS))
    serving.add_argument("--host", default="127.0.0.1", help="default %(default)s")
    serving.add_argument("--port", default="0", help="default %(default)s: any that is free")
    serving.add_argument("--shards", default="auto", metavar="N", help="server processes; default one a core")
    swarming = add(swarm, "wslab swarm ws://127.0.0.1:9000 --connections 10k")
    swarming.add_argument("url", metavar="URL", help="a ws:// URL")
    swarming.add_argument(CONSENT_OPTION, action="store_true", help="dial a target that is not loopback")
    add_parameters(swarming, without=SERVER_PARAMETERS)
    tuning = add(tune, "wslab tune --connections 2M")
    tuning.add_argument("--connections", metavar="N", default=argparse.SUPPRESS, help="default what the memory holds")
    doing = tuning.add_mutually_exclusive_group()
    doing.add_argument("--apply", action="store_true", help="write what is needed; it asks nothing more")
    doing.add_argument("--revert", action="store_true", help="put back what was written")
    tuning.add_argument("--all", action="store_true", help="with --apply: what is recommended, too")
    tuning.add_argument("--write", default="", metavar="DIR", help="write the files to keep into this folder")
    add_parameters(tuning, without=UNTUNED_PARAMETERS)
    with_data_dir(add(runs, "wslab runs"))
    reporting = with_data_dir(add(report, "wslab report --out report"))
    reporting.add_argument("--out", default="", metavar="DIR", help="folder for the report; default data/report")
    add(ps, "wslab ps")
    add(clean, "wslab clean")
    benching = add(bench, "wslab bench --connections 100k --repetitions 5")
    benching.add_argument("--connections", default="10k,100k", metavar="LIST", help="default %(default)s")
    benching.add_argument("--repetitions", default="5", metavar="N", help="default %(default)s")
    return parser


def add_parameters(parser: Parser, without: tuple[str, ...] = ()) -> None:
    """Add the parameters of a stage as options; they are parsed where notebooks' parameters are, by `Stage.of`."""
    for parameter in PARAMETERS:
        if parameter.name in without:
            continue
        # A flag may stand without a value.
        flag: dict[str, Any] = {"nargs": "?", "const": True} if isinstance(parameter.default, bool) else {}
        option = parser.add_argument(
            "--" + parameter.name.replace("_", "-"),
            **flag,
            metavar="X",
            default=argparse.SUPPRESS,
            help=f"{parameter.help}, such as {parameter.example} (default {parameter.default or 'none'})".replace(
                "%", "%%"
            ),
        )
        if parameter.name == "server":
            option.complete = {"bash": "", "zsh": ""}  # type: ignore[attr-defined]


def with_data_dir(parser: Parser) -> Parser:
    """Add the option for where recorded runs are."""
    parser.add_argument("--data-dir", default="", metavar="DIR", help="folder of the recorded runs")
    return parser


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the stage parameters that were given on the command line."""
    names = {parameter.name for parameter in PARAMETERS}
    return {name: value for name, value in vars(options).items() if name in names}


# Output.


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(document, indent=2, default=str))


def say(line: str) -> None:
    """Print a line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def report_run(run: Any, as_json: bool) -> int:
    """Write the page and the figures of a run, print what came of it and return its exit status."""
    from wslab.view.publish import run_report

    if run.outcome in ("held", "broke"):
        run_report(run)
    if as_json:
        print_json(run.as_dict())
    else:
        print(run.text())
    return EXIT_STATUS[run.outcome]


def version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("wslab")
    except PackageNotFoundError:
        return f"(not installed, {Path(__file__).parent})"


class PrintCompletion(argparse.Action):
    """Prints a shell completion script; the library for it is loaded only then."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(metavar="SHELL", choices=("bash", "zsh", "tcsh"), **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the script for the shell that was named."""
        import shtab

        print(shtab.complete(parser, _[1]))
        parser.exit(0)


if __name__ == "__main__":
    sys.exit(main())
