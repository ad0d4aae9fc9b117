"""The command line: one function per command, with its options; each calls the rooms and prints the result.

1. Every command takes `--json`: standard output is then one JSON document and nothing else, progress goes to standard
   error. What is refused leaves standard output empty.
2. Exit status: 0 held or done, 1 broke, 2 bad input, 3 crashed, 130 interrupted. A recorded run keeps its own status
   when its result cannot be printed; for a result that is not recorded, that is a crash.
3. Heavy imports stand inside the commands that need them, so that `wslab --help` answers at once.
4. A relative path counts from where the command was typed; in the rooms it counts from the project.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from wslab.cli_options import (
    COMPLETE_VARIABLE,
    command,
    commands,
    complete_directories,
    complete_words,
    data_dir_option,
    directory_option,
    parameter_file_option,
    refusal_text,
    stage_options,
)
from wslab.cli_output import lost_output, open_standard_streams, print_json, say
from wslab.cli_signals import ignore_signals, take_signals
from wslab.core.explanations import EXPLANATIONS
from wslab.core.protocols import SUFFIX
from wslab.core.quantities import BadInput, parse_count, refuse
from wslab.core.records import ABORTED, BROKE, CRASHED, HELD, OUTCOMES, RUNNING
from wslab.core.servers import SERVER_KINDS
from wslab.core.target import CONSENT_OPTION

EXIT_STATUS = {HELD: 0, BROKE: 1, CRASHED: 3, ABORTED: 130}
BAD_INPUT = 2
DEFAULT_STAGES = "10k,100k,700k,1M"
DEFAULT_SCENARIOS = "200"
# Parameters that make no sense where the server is somebody else's.
SERVER_PARAMETERS = ("server", "server_dir", "server_port", "server_ready_seconds", "server_shards", "memory_cap")
# Parameters that no kernel setting depends on; and `connections`, which has another default there.
UNTUNED_PARAMETERS = (
    *("connections", "server", "server_dir", "server_port", "server_pid", "server_ready_seconds"),
    *("ramp_rate", "hold_seconds", "memory_cap", "data_dir", "label", "tune", "beside"),
    *("workload", "proof", "protocol", "path", "headers", "subprotocol"),
)

# Parameters that are not the same for all servers of a comparison, or mean nothing there.
UNCOMPARED_PARAMETERS = ("connections", "server", "server_port", "server_pid", "label", "tune")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    open_standard_streams()
    take_signals()
    if os.environ.get(COMPLETE_VARIABLE):
        commands.main([], prog_name="wslab", complete_var=COMPLETE_VARIABLE)
    try:
        status = run(sys.argv[1:] if arguments is None else arguments)
        lost = lost_output()
        if lost:
            say(f"wslab: the result cannot be written to standard output: {lost.strerror}")
            status = status or EXIT_STATUS[CRASHED]
    except KeyboardInterrupt:  # A further one, while the first was being reported.
        status = EXIT_STATUS[ABORTED]
    if status == EXIT_STATUS[ABORTED]:
        ignore_signals()
        # CPython ends by SIGINT instead of with this status when an interrupt once passed through code given as text,
        # such as that of a dataclass, whoever caught it; executing other such code makes it forget that.
        exec("")
    return status


def run(arguments: Sequence[str]) -> int:
    """Run one command, say on standard error what went wrong with it, and return its exit status."""
    try:
        with commands.make_context("wslab", list(arguments)) as context:
            status: int = commands.invoke(context)
            return status
    except click.exceptions.Exit as leaving:  # After the help, and the like.
        return leaving.exit_code
    except (BadInput, click.ClickException) as error:
        text = refusal_text(error) if isinstance(error, click.ClickException) else " ".join(str(error).split())
        say(f"wslab: {text}")
        return BAD_INPUT
    except KeyboardInterrupt:
        say("wslab: interrupted")
        return EXIT_STATUS[ABORTED]
    except OSError as error:
        say(f"wslab: {error}")
        return EXIT_STATUS[CRASHED]
    except Exception:
        # A programmer's error: its traceback is wanted, Python's exit status for it would say that a limit broke.
        sys.excepthook(*sys.exc_info())
        return EXIT_STATUS[CRASHED]


# Commands.


@command(example="wslab preflight --connections 3M")
@click.option("--connections", metavar="N", help="Say whether so many fit, such as 700k.")
@click.option("--server", metavar="SERVER", help="For this server: a kind, a command, or a ws:// address.")
def preflight(connections: str | None, server: str | None, as_json: bool) -> int:
    """Show what this machine allows."""
    from wslab.lab.preflight import preflight as look

    return show(look(connections, **({"server": server} if server else {})), as_json)


@command(example="wslab stage --connections 15k --server 'node my.js --port {port}'")
@click.option(CONSENT_OPTION, "operate_target", is_flag=True, help="Dial a server that is not on loopback.")
@click.option("--cluster", metavar="ADDRESS", help="Run over the hosts of this Dask scheduler: tcp://10.0.0.1:8786.")
@click.option(
    "--server-on", metavar="NAME", help="With --cluster: worker of the server, or resource:NAME; default the largest."
)
@click.option(
    "--swarm-on", metavar="LIST", help="With --cluster: workers of the swarm, or resource:NAME; default all others."
)
@click.option(
    "--swarm-addresses", metavar="LIST", help="With --cluster: addresses to dial from, each on the host that has it."
)
@parameter_file_option
@stage_options()
def stage(
    operate_target: bool,
    cluster: str | None,
    server_on: str | None,
    swarm_on: str | None,
    swarm_addresses: str | None,
    file: str,
    as_json: bool,
    **parameters: Any,
) -> int:
    """Run one stage."""
    asked = {"operate_target": operate_target, **given(parameters, file)}
    if cluster is not None:
        placed = {"server_on": server_on, "swarm_on": swarm_on, "swarm_addresses": swarm_addresses}
        asked |= {"cluster": cluster, **{name: given or "" for name, given in placed.items()}}
    elif server_on or swarm_on or swarm_addresses:
        raise BadInput("--server-on, --swarm-on and --swarm-addresses go with --cluster: see wslab stage --help")
    return run_one(as_json, asked)


@command(
    example="wslab sweep --stages 10k,100k",
    details="A file of parameters may hold `stages`, `keep_going` and `matrix`: lists of values by parameter, of which "
    "every combination is a climb of its own. Cut short, the same command with --resume goes on.",
)
@click.option("--stages", metavar="LIST", help=f"Their connections; default {DEFAULT_STAGES}.")
@click.option("--resume", is_flag=True, help="Go on with the last sweep that asked for the same, after what held.")
@parameter_file_option
@click.option("--keep-going", is_flag=True, help="Go on after a stage that broke.")
@click.option(
    "--breaks",
    metavar="[LIST]",
    is_flag=False,
    flag_value="all",
    help="Instead of stages: break limits on purpose, name and lift each; all, or names such as conntrack. Limits that "
    "the whole machine shares, such as nr_open, are broken only when they are named; the run reports which those are. "
    "random: lower limits at random, and measure how the diagnosis names them.",
)
@click.option("--count", metavar="N", help=f"Scenarios of --breaks random; default {DEFAULT_SCENARIOS}.")
@click.option("--seed", metavar="N", help="What they are drawn from; default 1. The same seed gives the same ones.")
@stage_options(without=("connections",))
def sweep(
    stages: str | None,
    resume: bool,
    file: str,
    keep_going: bool,
    breaks: str | None,
    count: str | None,
    seed: str | None,
    as_json: bool,
    **parameters: Any,
) -> int:
    """Run several stages through the notebook."""
    if breaks == "random":
        return sweep_random(count, seed, given(parameters).get("data_dir", ""), as_json)
    if count or seed:
        raise BadInput("--count and --seed belong to --breaks random: see wslab sweep --help")
    if breaks is not None:
        return sweep_breaks(breaks, given(parameters).get("data_dir", ""), as_json)
    asked = given(parameters, file, sweep=True)
    matrix, filed, going = asked.pop("matrix", None), asked.pop("stages", None), asked.pop("keep_going", False)
    filed = DEFAULT_STAGES if filed is None else listed(filed)
    counts = parse_counts(filed if stages is None else stages, "stages")
    from wslab.view.parameters import planned

    planned(counts, matrix, asked)  # Refused at once: loading papermill takes seconds.
    from wslab.lab.compiled import ensure_compiled

    ensure_compiled(say)  # Here, as a notebook's kernel says what it does on its own page only.
    from wslab.view.workbook import sweep as run_sweep

    result = run_sweep(counts, keep_going=keep_going or going is True, matrix=matrix, resume=resume, **asked)
    return show(result, as_json, EXIT_STATUS[result.outcome], kept="the runs")


def sweep_breaks(breaks: str, data_dir: str, as_json: bool) -> int:
    """Break limits on purpose."""
    from wslab.breaks.notebook import sweep_breaks as break_limits

    atlas = break_limits(breaks, data_dir, say=say)
    return show(atlas, as_json, atlas.status, kept=str(atlas.folder))


def sweep_random(count: str | None, seed: str | None, data_dir: str, as_json: bool) -> int:
    """Measure the diagnosis on random scenarios."""
    scenarios = parse_count(count or DEFAULT_SCENARIOS, "count")
    from wslab.breaks.notebook import sweep_random as run_scenarios

    result = run_scenarios(scenarios, parse_count(seed or 1, "seed"), data_dir, say=say)
    return show(result, as_json, result.status, kept=str(result.folder))


@command(example="wslab serve lean --port 9000", details=f"KIND is one of: {', '.join(SERVER_KINDS)}.")
@click.argument("kind", metavar="KIND", shell_complete=complete_words(SERVER_KINDS))
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Where to listen; default 127.0.0.1.")
@click.option("--port", default="0", metavar="N", help="Default 0: any that is free.")
@click.option("--shards", default="auto", metavar="N", help="Server processes; default one a core.")
def serve(kind: str, host: str, port: str, shards: str, as_json: bool) -> int:
    """Serve until interrupted."""
    from wslab.lab.serving import Serving

    with Serving(kind, host=host, port=port, shards=shards, say=lambda line: say(f"wslab: {line}")) as serving:
        line = {"url": serving.url, "pids": serving.pids}
        text = json.dumps(line) if as_json else f"{kind} serves at {serving.url}; Ctrl-C ends it"
        print(text, flush=True)
        how = serving.wait(lambda line: say(f"wslab: {line}"))
    say(f"wslab: {how}")
    return EXIT_STATUS[CRASHED]


@command(example="wslab swarm ws://127.0.0.1:9000 --connections 10k")
@click.argument("url", metavar="URL")
@click.option(CONSENT_OPTION, "operate_target", is_flag=True, help="Dial a target that is not loopback.")
@parameter_file_option
@stage_options(without=SERVER_PARAMETERS)
def swarm(url: str, operate_target: bool, file: str, as_json: bool, **parameters: Any) -> int:
    """Load a server that runs already, at the ws:// address URL."""
    if not url:
        raise refuse("URL", url, "a URL such as ws://127.0.0.1:9000/path")
    return run_one(as_json, {**given(parameters, file), "target": url, "operate_target": operate_target})


@command(example="wslab tune --connections 2M")
@click.option("--connections", metavar="N", help="Default: as many as the memory holds.")
@click.option("--apply", "write_now", is_flag=True, help="Write what is needed, without asking again.")
@click.option("--revert", "put_back", is_flag=True, help="Put back what was written.")
@click.option("--all", "recommended", is_flag=True, help="With --apply: what is recommended, too.")
@directory_option("--write", "write_into", help="Write files that make the settings permanent into this folder.")
@stage_options(without=UNTUNED_PARAMETERS)
def tune(
    connections: str | None,
    write_now: bool,
    put_back: bool,
    recommended: bool,
    write_into: str,
    as_json: bool,
    **parameters: Any,
) -> int:
    """Show which kernel settings a target needs."""
    if write_now and put_back:
        raise BadInput("--apply and --revert exclude each other: see wslab tune --help")
    from wslab.tune.advice import tune as look
    from wslab.tune.apply import apply, revert

    found = None if put_back else look(connections, **given(parameters))
    for path in found.write(write_into) if found and write_into else []:
        say(f"written: {path}")
    if found and write_now and found.settings:
        say(found.difference() + "\n")
    result = revert() if found is None else apply(found, recommended) if write_now else found
    return show(result, as_json, result.status)


def recorded_runs(context: click.Context, _: click.Parameter, typed: str) -> list[Any]:
    """Complete the ID of a recorded run."""
    from click.shell_completion import CompletionItem

    from wslab.lab.store import run_folders

    folders = run_folders(absolute(context.params.get("data_dir") or ""))
    return [CompletionItem(folder.name) for folder in folders if folder.name.startswith(typed)]


@command(example="wslab runs")
@click.argument("run_id", metavar="[ID]", default="", shell_complete=recorded_runs)
@data_dir_option
@click.option("--stage", metavar="N", help="Only those that asked for so many connections, such as 700k.")
@click.option("--server", metavar="KIND", help="Only those of this server: a kind, or a part of a command or URL.")
@click.option("--outcome", metavar="WORD", help=f"Only those that ended so: {', '.join(OUTCOMES)}.")
@click.option("--label", metavar="TEXT", help="Only those with this in their label.")
@click.option("--since", metavar="WHEN", help="Only those begun since then: a date, or 90min, 2h, 3d, 1w ago.")
@click.option("--diagnose", is_flag=True, help="Judge the run with ID again, with today's rules.")
@click.option("--relabel", metavar="TEXT", help="Give the run with ID another label.")
@click.option("--delete", is_flag=True, help="Delete the run with ID, its whole folder.")
def runs(
    run_id: str,
    data_dir: str,
    diagnose: bool,
    relabel: str | None,
    delete: bool,
    as_json: bool,
    **filters: str | None,
) -> int:
    """List recorded runs, or show the run whose ID begins with ID."""
    wanted = [
        name for name, given in (("diagnose", diagnose), ("relabel", relabel is not None), ("delete", delete)) if given
    ]
    filtered = [name for name, value in filters.items() if value is not None]
    if wanted and not run_id:
        raise BadInput(f"--{wanted[0]} needs the ID of a run: `wslab runs` lists them")
    if run_id and filtered:
        raise BadInput(f"--{filtered[0]} is for the list of runs, and {run_id} is one of them")
    if len(wanted) > 1:
        raise BadInput(f"--{wanted[0]} and --{wanted[1]} exclude each other")
    if delete or relabel is not None:
        return change_run(run_id, absolute(data_dir), relabel, as_json)
    if run_id:
        return show_run(find_run(run_id, absolute(data_dir)), diagnose, as_json)
    from wslab.lab.run_list import list_runs

    found = list_runs(absolute(data_dir), **filters)  # type: ignore[arg-type]
    if as_json:
        print_json([one.as_dict() for one in found])
    elif not found and not filtered:
        print("no recorded runs yet; `wslab stage --connections 10k` makes one")
    else:
        print(found)
    return 0


def change_run(run_id: str, data_dir: str, label: str | None, as_json: bool) -> int:
    """Give a run another label, or delete it where there is none."""
    from wslab.lab.run_list import delete, relabel

    run = find_run(run_id, data_dir)
    if label is None:
        delete(run)
    else:
        relabel(run, label)
    told = "deleted" if label is None else f"label: {label}"
    print_json({"run_id": run.run_id, "deleted": label is None, "label": label}) if as_json else print(
        f"{run.run_id}: {told}"
    )
    return 0


@command(example="wslab attach")
@click.argument("run_id", metavar="[ID]", default="", shell_complete=recorded_runs)
@data_dir_option
def attach(run_id: str, data_dir: str, as_json: bool) -> int:
    """Show a run in progress until it ends.

    Without an ID it is the one that is in progress. Ctrl-C ends the watching only.
    """
    from wslab.view.attach import attach as watch
    from wslab.view.attach import describe

    found = watch(run_id, absolute(data_dir))
    if found.outcome == RUNNING:
        say(describe(found))
        return EXIT_STATUS[ABORTED]
    return show(found, as_json, EXIT_STATUS.get(found.outcome, 0), kept=str(found.run_dir))


@command(example="wslab stop")
@click.argument("run_id", metavar="[ID]", default="", shell_complete=recorded_runs)
@data_dir_option
def stop(run_id: str, data_dir: str, as_json: bool) -> int:
    """Stop a run in progress.

    Without an ID it is the one that is in progress. What it recorded stays.
    """
    from wslab.view.attach import describe
    from wslab.view.attach import stop as end

    found = end(run_id, absolute(data_dir), say=say)
    print_json({"run_id": found.run_id, "outcome": found.outcome}) if as_json else print(describe(found))
    return 0 if found.outcome != RUNNING else EXIT_STATUS[CRASHED]


@command(example="wslab report --out report")
@data_dir_option
@directory_option("--out", help="Folder for the report; default data/report.")
@click.option("--runs", metavar="LIST", help="Only these: IDs or their beginnings, latest, or folders, commas between.")
@click.option("--paper", is_flag=True, help="Also write each figure as a PDF as wide as the text of a paper.")
@click.option("--no-pdf", is_flag=True, help="Do not print the page to a PDF.")
def report(data_dir: str, out: str, runs: str | None, paper: bool, no_pdf: bool, as_json: bool) -> int:
    """Write the report of recorded runs.

    That is a page, a PDF, figures and tables.

    Where there are none yet, it shows those that come with the project. Runs of several machines each have figures of
    their own.
    """
    from wslab.lab.run_list import list_runs
    from wslab.lab.runs import load_run
    from wslab.lab.store import data_folder
    from wslab.view.publish import report as publish

    folder = data_folder(absolute(data_dir))
    if runs is None:
        found = list(list_runs(folder, or_reference=not data_dir))
    else:
        names = [name.strip() for name in runs.split(",") if name.strip()]
        found = [load_run(absolute(name) if "/" in name else name, absolute(data_dir)) for name in names]
    if not found:
        raise BadInput(f"no recorded runs in {folder}; `wslab stage --connections 10k` makes one")
    into = Path(absolute(out) or folder / "report")
    try:
        written = publish(found, into, pdf=not no_pdf, paper=paper)
    except OSError as problem:
        raise BadInput(f"out={into} cannot be written: {problem.strerror or problem}") from problem
    if written.note:
        say(written.note)
    pdf = str(written.pdf) if written.pdf else None
    print_json({"report": str(written), "pdf": pdf}) if as_json else print(*filter(None, (written, pdf)), sep="\n")
    return 0


@command(example="wslab explain conntrack")
@click.argument("limit", metavar="[LIMIT]", default="", shell_complete=complete_words(EXPLANATIONS))
@click.option("--all", "whole", is_flag=True, help="All limits, with all that is known of each.")
@click.option("--markdown", is_flag=True, help="With --all: as a page of documentation.")
def explain(limit: str, whole: bool, markdown: bool, as_json: bool) -> int:
    """Explain a limit, or list all of them.

    How it looks to a user, what proves it, what looks alike, and what lifts it.
    """
    from wslab.lab.explain import explain as explain_one
    from wslab.lab.explain import explain_all

    if (limit and whole) or (markdown and not whole):
        raise BadInput("LIMIT and --all exclude each other, and --markdown goes with --all: see wslab explain --help")
    return show(explain_one(limit) if limit else explain_all(whole=whole, page=markdown), as_json)


@command(example="wslab notebooks my-notebooks")
@click.argument("folder", metavar="DIR", shell_complete=complete_directories)
@click.option("--force", is_flag=True, help="Replace notebooks of the same name.")
def notebooks(folder: str, force: bool, as_json: bool) -> int:
    """Copy the project's notebooks into the folder DIR."""
    from wslab.view.notebooks import copy_notebooks

    if not folder:
        raise refuse("DIR", folder, "a folder for the notebooks")
    paths = [str(path) for path in copy_notebooks(Path(absolute(folder)), force)]
    print_json({"notebooks": paths}) if as_json else print("\n".join(paths))
    return 0


@command(example="wslab ps")
def ps(as_json: bool) -> int:
    """List processes of wslab that run."""
    from wslab.lab.registry import list_processes

    found = list_processes()
    if as_json:
        print_json([process.as_dict() for process in found])
    elif not found:
        print("no processes of wslab are running")
    for process in [] if as_json else found:
        state = "its caller has died" if process.orphaned else ""
        print(f"{process.pid:>8}  {process.role:<10}  {process.run_dir}  {state}".rstrip())
    return 0


@command(example="wslab clean")
def clean(as_json: bool) -> int:
    """Clean up what killed runs left behind."""
    from wslab.lab.registry import clean as end_leftovers
    from wslab.tune.apply import revert

    ended, reverted = end_leftovers(), revert(abandoned=True)
    if as_json:
        print_json({"ended": [process.as_dict() for process in ended], **reverted.as_dict()})
    else:
        said = [f"ended {len(ended)} process{'es' * (len(ended) != 1)}"] if ended else []
        said += [reverted.text()] if reverted.changes else []
        print("\n".join(said) or "nothing was left behind")
    return reverted.status


@command(example="wslab bench --connections 100k --repetitions 5")
@click.option("--connections", metavar="LIST", default="10k,100k", help="Default 10k,100k.")
@click.option("--repetitions", metavar="N", default="5", help="Default 5.")
def bench(connections: str, repetitions: str, as_json: bool) -> int:
    """Measure the lean server against the floor."""
    from wslab.lab.bench import bench as measure

    counts = parse_counts(connections, "connections")
    result = measure(counts, parse_count(repetitions, "repetitions"), say=say)
    return show(result, as_json, EXIT_STATUS[result.outcome])


@command(example="wslab compare --servers lean,asyncio,node_ws --connections 15k --memory 16GiB --cpus 6")
@click.option(
    "--servers",
    metavar="LIST",
    default="",
    help="Kinds, commands and addresses with commas between them, quotes around one with a comma in it.",
)
@click.option("--server", "more", metavar="X", multiple=True, help="One more, as it stands; may be repeated.")
@click.option("--connections", metavar="LIST", default="15k", help="Compared at the largest; default 15k.")
@click.option("--repetitions", metavar="N", default="3", help="Default 3.")
@click.option("--check", metavar="N", help="Connections of a larger stage that the prediction is checked against.")
@click.option("--memory", metavar="X", help="Size of another machine to predict for, such as 16GiB.")
@click.option("--cpus", metavar="N", help="Its CPUs.")
@click.option("--messages-each", metavar="X", default="0.1", help="Messages/s a connection to predict for.")
@directory_option("--recorded", help="Show a comparison that was recorded in this folder.")
@stage_options(without=UNCOMPARED_PARAMETERS)
def compare(
    servers: str,
    more: tuple[str, ...],
    connections: str,
    repetitions: str,
    check: str | None,
    memory: str | None,
    cpus: str | None,
    messages_each: str,
    recorded: str,
    as_json: bool,
    **parameters: Any,
) -> int:
    """Measure several servers side by side.

    The floor is measured with them, so that every figure is a ratio as well. Messages climb to the knee unless
    --message-rate says otherwise.
    """
    from wslab.core.comparison import split_servers

    names = [] if recorded else split_servers(servers, more)
    from wslab.view.comparison import compare_servers as measure

    sizes = {"check": check, "memory": memory, "cpus": cpus, "messages_each": messages_each}
    counts = [] if recorded else [names, connections, repetitions]
    result = measure(*counts, **sizes, recorded=absolute(recorded), say=say, **given(parameters))
    return show(result, as_json, EXIT_STATUS[result.outcome], kept=str(result.folder))


# What several commands do.


def show(result: Any, as_json: bool, status: int = 0, kept: str = "") -> int:
    """Print a result as one JSON document or as text, and return the exit status.

    Args:
        result: has `as_dict()` and `text()`.
        as_json: which of them.
        status: the exit status.
        kept: where the result is recorded; it is then not lost when it cannot be printed.
    """
    if status == EXIT_STATUS[ABORTED]:
        ignore_signals()  # What was interrupted has ended, and the result is still wanted.
    print_json(result.as_dict()) if as_json else print(result.text())
    lost = lost_output() if kept else None
    if lost:
        say(f"wslab: the result cannot be written to standard output: {lost.strerror}; it is recorded in {kept}")
    return status


def run_one(as_json: bool, parameters: dict[str, Any]) -> int:
    """Run a stage, print its result, write its page and figures, and return its exit status."""
    from wslab.view.live import live_view

    run_it: Callable[..., Any]
    if "cluster" in parameters:
        from wslab.hosts.run import run_over

        run_it = run_over
    else:
        from wslab.tune.apply import run_stage

        run_it = run_stage

    view, folders = live_view(), list[str]()

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "run_created":
            folders.append(event["run_dir"])
        view(event)

    try:
        done = run_it(on_event=on_event, **parameters)
        if done.outcome == ABORTED:
            ignore_signals()
    except KeyboardInterrupt:
        ignore_signals()
        if not folders:
            raise
        from wslab.lab.runs import Run  # The interrupt came after the run was saved.

        done = Run.load(folders[0])
    status = show(done, as_json, EXIT_STATUS.get(done.outcome, EXIT_STATUS[ABORTED]), kept=str(done.run_dir))
    if done.outcome in (HELD, BROKE):
        draw_figures(done)
    return status


def draw_figures(done: Any) -> None:
    """Write the page and the figures of a run.

    They can be drawn again at any time, so a failure here changes nothing about the run.
    """
    try:
        from wslab.view.publish import run_report

        run_report(done)
    except KeyboardInterrupt:
        say("wslab: interrupted while drawing the figures; `wslab report` draws them")
    except Exception as problem:
        say(f"wslab: the figures cannot be drawn: {type(problem).__name__}: {' '.join(str(problem).split())}")


def show_run(recorded: Any, diagnose: bool, as_json: bool) -> int:
    """Print a recorded run; or what today's rules find in it, beside what was recorded."""
    if not diagnose:
        return show(recorded, as_json)
    findings = recorded.diagnose()
    if as_json:
        ends = {"run_id": recorded.run_id, "outcome": recorded.outcome}
        today = [finding.as_dict() for finding in findings]
        print_json({**ends, "findings": today, "recorded_findings": recorded.findings})
        return 0
    print(f"{recorded.run_id}: {recorded.outcome}")
    for title, found in (("found by today's rules", findings), ("recorded", recorded.findings)):
        print(f"{title}:{'' if found else ' nothing'}")
        print(*found.lines(), sep="\n", end="\n" if found else "")
    return 0


def find_run(run_id: str, data_dir: str) -> Any:
    """Load the recorded run whose ID begins so.

    Raises:
        BadInput: there is none, or more than one.
    """
    from wslab.lab.runs import Run
    from wslab.lab.store import find_run as find

    return Run.load(find(run_id, data_dir))


# What was typed.


def given(options: dict[str, Any], file: str = "", *, sweep: bool = False) -> dict[str, Any]:
    """Return the stage parameters that were given: on the command line, and else in a file of parameters.

    Raises:
        BadInput: the file cannot be used.
    """
    parameters = {name: value for name, value in options.items() if value is not None and value != ()}
    if file:
        from wslab.view.parameters import read_parameters

        parameters = {**read_parameters(absolute(file), sweep=sweep), **parameters}
    if "data_dir" in parameters:
        parameters["data_dir"] = absolute(parameters["data_dir"])
    if parameters.get("protocol", "").endswith(SUFFIX):
        parameters["protocol"] = absolute(parameters["protocol"])
    if "server" in parameters or "server_dir" in parameters:
        parameters["server_dir"] = absolute(parameters.get("server_dir") or ".")
    return parameters


def listed(value: object) -> str:
    """Return a list as it would be typed; text and nothing stay as they are."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value or "")


def absolute(path: str) -> str:
    """Return a typed path as an absolute one; an empty text stays empty."""
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def parse_counts(text: str, name: str) -> list[int]:
    """Return the numbers of a list such as `10k,100k`.

    Raises:
        BadInput: it is not such a list.
    """
    try:
        return [parse_count(part, name) for part in text.split(",")]
    except BadInput:
        accepted = "whole numbers from 1 to 1G with commas between them, such as 10k,100k,1M"
        raise refuse(name, text, accepted) from None


if __name__ == "__main__":
    sys.exit(main())
