"""The command line as a person or a script meets it: what is printed where, which exit status, what is refused how."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import made_runs
from eventually import eventually
from wslab import cli, cli_signals
from wslab.cli_options import commands
from wslab.core.quantities import BadInput
from wslab.core.records import Finding
from wslab.core.servers import SERVER_KINDS
from wslab.core.stage import PARAMETERS
from wslab.lab import experiment, registry
from wslab.lab.findings import Findings
from wslab.lab.runs import Run
from wslab.machine.journal import TUNING, Journal
from wslab.view import publish, workbook

PLENTY = "900M"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test state, data and a current folder of its own, and put the handlers of signals back."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("WSLAB_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    taken = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    hook = sys.unraisablehook
    before = {number: signal.getsignal(number) for number in taken}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def wslab(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Return a function that runs one command in this process."""

    def run(*arguments: str) -> Said:
        try:
            status = cli.main(arguments)
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        captured = capsys.readouterr()
        return Said(status=status, out=captured.out, err=captured.err)

    return run


def started(*arguments: str, env_add: dict[str, str] | None = None, **settings: Any) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    command = [sys.executable, "-m", "wslab", *arguments]
    paths = [str(Path(cli.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(env_add or {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **{**pipes, **settings})


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Help.


def test_without_a_command_the_help_is_shown(wslab: Callable[..., Said]) -> None:
    said = wslab()
    assert said.status == 0
    assert all(name in said.out for name in commands.commands)


@pytest.mark.parametrize("name", commands.commands)
def test_each_command_has_help_with_an_example_that_parses(wslab: Callable[..., Said], name: str) -> None:
    said = wslab(name, "--help")
    assert said.status == 0
    assert "--json" in said.out
    typed = shlex.split(said.out.partition("example: ")[2])
    assert typed[1] == name
    with commands.make_context("wslab", typed[1:]) as context:
        found, command, rest = commands.resolve_command(context, [*context._protected_args, *context.args])
        assert found == name
        assert command is not None
        command.make_context(name, rest, parent=context).close()


@pytest.mark.parametrize("name", ["", *commands.commands])
def test_the_help_fits_into_80_columns(wslab: Callable[..., Said], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = wslab(*filter(None, [name]), "--help").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith("...") and "Usage" not in line]


def test_every_parameter_of_a_stage_is_an_option_with_its_help_default_and_example(wslab: Callable[..., Said]) -> None:
    text = " ".join(wslab("stage", "--help").out.split())
    for parameter in PARAMETERS:
        option = "--header" if parameter.name == "headers" else f"--{parameter.name.replace('_', '-')}"
        assert f"{option} " in text
        assert parameter.help[1:] in text
    assert "such as 1M (default 10000)" in text
    assert "(default 1GiB)" in text


def test_the_help_loads_nothing_heavy() -> None:
    heavy = {"pandas", "numpy", "matplotlib", "papermill", "websockets", "asyncio", "IPython", "subprocess", "difflib"}
    code = "import sys, wslab.cli as cli; cli.main(['stage', '--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert heavy.isdisjoint(loaded.stdout.split())


def completions(line: str, tmp_path: Path) -> list[str]:
    """Return what bash is told to complete, through the script that `--print-completion` prints."""
    command = tmp_path / "wslab"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m wslab "$@"\n', "utf-8")
    command.chmod(0o755)
    with started("--print-completion", "bash") as process:
        script, _ = process.communicate(timeout=20)
    code = (
        f'{script}\ncompopt() {{ COMPREPLY+=("$*"); }}\n'
        f'COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _wslab_completion {command}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", code, "bash", *line.split(" ")],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
        env=environment,
    )
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("wslab sta", ["stage"]),
        ("wslab serve ", [*SERVER_KINDS]),
        ("wslab stage --server l", ["lean"]),
        ("wslab stage --memory-c", ["--memory-cap"]),
        ("wslab report --out ", ["-o", "dirnames"]),
        ("wslab runs 20250101T000001Z-1", ["20250101T000001Z-1k-a3f9"]),
    ],
)
def test_a_shell_completes_commands_options_and_values(line: str, completed: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "data" / "runs" / "20250101T000001Z-1k-a3f9"
    folder.mkdir(parents=True)
    (folder / "run.json").touch()
    assert completions(line, tmp_path) == completed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed_for_each_shell(wslab: Callable[..., Said], shell: str) -> None:
    said = wslab("--print-completion", shell)
    assert said.status == 0
    assert f"{shell}_complete" in said.out


# Refusals: one line, status 2, nothing printed, nothing written, nothing started.


@pytest.mark.parametrize(
    "arguments",
    [
        *(["stage", "--connections", value] for value in ("-5", "0", "0.5", "nan", "inf", "", "x", "1e400", PLENTY)),
        *(["preflight", "--connections", value] for value in ("-5", "0.5", "")),
        *(["sweep", "--stages", value] for value in ("10k,,x", "", "5,-1", "0")),
        *(["bench", "--connections", value] for value in ("10k,,x", "", f"10k,{PLENTY}")),
        ["bench", "--repetitions", "0"],
        ["compare"],
        ["compare", "--servers", "lean,asynico"],
        ["compare", "--servers", "lean", "--server", ""],
        ["compare", "--servers", "lean", "--connections", "10k,,x"],
        ["compare", "--servers", "lean", "--repetitions", "0"],
        ["compare", "--servers", "lean", "--memory", "16GiB"],
        ["compare", "--servers", "lean", "--latency-bound", "0"],
        ["compare", "--recorded", "/nowhere"],
        ["bench", "--repetitions", "1.5"],
        ["stage", "--server", "apache"],
        ["stage", "--server", "apache", "--json"],
        ["stage", "--conections", "5"],
        ["stage", "--conn", "5"],
        ["stage", "surplus"],
        ["stage", "--hold-seconds"],
        ["stage", "--hold-seconds", "-1"],
        ["stage", "--memory-cap", "much"],
        ["sweep", "--server", "apache"],
        ["sweep", "--count", "5"],
        ["sweep", "--breaks", "all", "--seed", "5"],
        ["sweep", "--breaks", "random", "--count", "many"],
        ["sweep", "--hold-seconds", "nan"],
        ["serve"],
        ["serve", "apache"],
        ["serve", "lean", "--port", "65536"],
        ["serve", "lean", "--port", "-1"],
        ["serve", "lean", "--shards", "0"],
        ["serve", "lean", "--shards", "1G"],
        ["serve", "lean", "--host", ""],
        ["swarm"],
        ["swarm", ""],
        ["swarm", "ws://example.org"],
        ["swarm", "ws://example.org", "--json"],
        ["swarm", "ws://example.org", "--i-operate"],
        ["swarm", "http://127.0.0.1:9000"],
        ["swarm", "ws://127.0.0.1:99999"],
        ["swarm", "ws://nobody.invalid", "--i-operate-this-target"],
        ["stage", "--source-addresses", "1G"],
        ["stage", "--connections", "1M", "--server-shards", "1M"],
        ["swarm", "ws://127.0.0.1:9000", "--server", "lean"],
        ["tune", "--connections", "0"],
        ["tune", "--apply", "--revert"],
        ["report"],
        ["report", "--data-dir", "nothing-there"],
        ["nonsense"],
        ["--nonsense"],
        ["--print-completion", "tcsh"],
        ["stge"],
        ["report", "--out", "--json"],
        ["tune", "--write", "--apply"],
        ["stage", "--json=yes"],
        ["runs", "1999"],
        ["attach"],
        ["attach", "1999"],
        ["stop"],
        ["stage", "-f", "no-such-file.yaml"],
        ["sweep", "-f", "/dev/null", "--stages", "x"],
        ["runs", "--diagnose"],
        ["notebooks"],
        ["notebooks", ""],
        ["notebooks", "/dev/null/below"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_leaves_nothing(
    wslab: Callable[..., Said], arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wslab.lab.store.reference_folder", lambda: tmp_path / "no-reference")
    said = wslab(*arguments)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("wslab")
    assert said.err.count("\n") == 1
    assert files_below(tmp_path) == []
    assert registry.list_processes() == []


@pytest.mark.parametrize("place", ["a-file", "a-file/below"])
@pytest.mark.parametrize("command", [["stage"], ["sweep", "--stages", "5"], ["swarm", "ws://127.0.0.1:9"]])
def test_a_data_folder_that_cannot_be_written_is_refused(
    wslab: Callable[..., Said], command: list[str], place: str, tmp_path: Path
) -> None:
    (tmp_path / "here" / "a-file").touch()
    said = wslab(*command, "--data-dir", place)
    assert (said.status, said.out) == (2, "")
    assert said.err.splitlines() == [f"wslab: data_dir={tmp_path}/here/{place} cannot be written: Not a directory"]
    assert files_below(tmp_path) == ["here/a-file"]


def test_a_stage_beyond_the_memory_is_told_how_many_it_can_hold(wslab: Callable[..., Said]) -> None:
    assert (
        "connections=900M needs about 7.2 TiB of memory; this machine can hold about "
        in wslab("stage", "--connections", PLENTY).err
    )


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (["stage", "--conections", "5"], "unknown option --conections of wslab stage: did you mean --connections?"),
        (["stage", "--conn=5"], "unknown option --conn of wslab stage: did you mean --connections?"),
        (["--jsn"], "unknown option --jsn: see wslab --help"),
        (["stge"], "unknown command stge: did you mean stage?"),
        (["nonsense"], "unknown command nonsense: see wslab --help"),
        (["serve"], "wslab serve needs KIND: see wslab serve --help"),
        (["report", "--out", "--json"], "option --out of wslab report needs a value"),
        (["ps", "all"], "all is one word too many: see wslab ps --help"),
        (["swarm", "ws://example.org"], "if it is yours to load, add --i-operate-this-target"),
        (["sweep", "--stages", "10k,,x"], "stages=10k,,x is not accepted: whole numbers"),
    ],
)
def test_a_refusal_says_what_to_type_instead(wslab: Callable[..., Said], typed: list[str], answer: str) -> None:
    assert answer in wslab(*typed).err


def test_a_million_is_a_million_however_it_is_written(wslab: Callable[..., Said]) -> None:
    answers = [json.loads(wslab("preflight", "--connections", text, "--json").out) for text in ("1e6", "1M", "1000000")]
    assert {answer["connections"] for answer in answers} == {1_000_000}


def test_a_busy_port_is_refused_and_leaves_nothing(wslab: Callable[..., Said]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        said = wslab("serve", "lean", "--port", str(port))
    assert (said.status, said.out) == (2, "")
    assert said.err == f"wslab: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert registry.list_processes() == []


# Exit status and output of a stage, with a recorded run in the place of a load.


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Have stages end with a made run of an outcome, and keep what they were asked for."""

    def end_as(outcome: str) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []
        made = made_runs.make_run(tmp_path / "made", 1000, outcome=outcome)

        def run_stage(**parameters: Any) -> Run:
            asked.append(parameters)
            return Run.load(made)

        monkeypatch.setattr(experiment, "run_stage", run_stage)
        monkeypatch.setattr(publish, "run_report", lambda run: run.run_dir)
        return asked

    return end_as


@pytest.mark.parametrize(("outcome", "status"), [("held", 0), ("broke", 1), ("crashed", 3), ("aborted", 130)])
@pytest.mark.parametrize("command", [["stage"], ["swarm", "ws://127.0.0.1:9"]], ids=lambda command: command[0])
def test_the_exit_status_tells_the_outcome_and_json_is_one_document(
    wslab: Callable[..., Said], recorded: Any, command: list[str], outcome: str, status: int
) -> None:
    recorded(outcome)
    said = wslab(*command, "--json")
    assert (said.status, said.err) == (status, "")
    document = json.loads(said.out)
    assert document["outcome"] == outcome
    assert wslab(*command).out.startswith(f"{outcome}: ")


def test_parameters_come_from_a_file_and_those_that_are_typed_count_more(
    wslab: Callable[..., Said], recorded: Any, tmp_path: Path
) -> None:
    (tmp_path / "here" / "p.yaml").write_text("connections: 5k\nhold_seconds: 3\ndata_dir: of-the-file\n")
    asked = recorded("held")
    assert wslab("stage", "-f", "p.yaml", "--connections", "7k").status == 0
    (parameters,) = asked
    data_dir = str(tmp_path / "here" / "of-the-file")
    assert {key: parameters[key] for key in ("connections", "hold_seconds", "data_dir")} == {
        "connections": "7k",
        "hold_seconds": 3,
        "data_dir": data_dir,
    }


def test_a_file_of_a_sweep_holds_stages_and_a_matrix(
    wslab: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def sweep(stages: Any, **parameters: Any) -> workbook.Sweep:
        asked.append((stages, parameters))
        return workbook.Sweep(executed=())

    monkeypatch.setattr(workbook, "sweep", sweep)
    text = "stages: [5k, 10k]\nkeep_going: true\nmatrix: {server_shards: [1, 2]}\nhold_seconds: 3\n"
    (tmp_path / "here" / "night.yaml").write_text(text)
    assert wslab("sweep", "-f", "night.yaml", "--resume").status == 0
    assert wslab("sweep", "-f", "night.yaml", "--stages", "1k").status == 0
    common = {"matrix": {"server_shards": [1, 2]}, "keep_going": True, "hold_seconds": 3}
    assert asked == [
        ([5_000, 10_000], {**common, "resume": True}),
        ([1_000], {**common, "resume": False}),
    ]


def test_a_relative_data_folder_counts_from_where_it_was_typed(
    wslab: Callable[..., Said], recorded: Any, tmp_path: Path
) -> None:
    asked = recorded("held")
    wslab("stage", "--connections", "1e3", "--data-dir", "mine")
    assert (asked[0]["data_dir"], asked[0]["connections"]) == (f"{tmp_path}/here/mine", "1e3")


def test_consent_to_a_target_is_passed_on_only_when_given(wslab: Callable[..., Said], recorded: Any) -> None:
    asked = recorded("held")
    wslab("swarm", "ws://example.org", "--i-operate-this-target")
    wslab("swarm", "ws://example.org")
    assert [(given["target"], given["operate_target"]) for given in asked] == [
        ("ws://example.org", True),
        ("ws://example.org", False),
    ]


@pytest.mark.parametrize("error", [ValueError("no\nfont"), KeyboardInterrupt()], ids=["failure", "interrupt"])
def test_figures_that_cannot_be_drawn_change_nothing_about_the_run(
    wslab: Callable[..., Said], recorded: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(run: Run) -> None:
        raise error

    recorded("broke")
    monkeypatch.setattr(publish, "run_report", fail)
    said = wslab("stage", "--json")
    assert said.status == 1
    assert json.loads(said.out)["outcome"] == "broke"
    assert said.err.count("\n") == 1
    assert "figures" in said.err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (BadInput("not so"), 2, "wslab: not so"),
        (KeyboardInterrupt(), 130, "wslab: interrupted"),
        (OSError(28, "No space left on device"), 3, "wslab: [Errno 28] No space left on device"),
        (ZeroDivisionError("ours"), 3, "ZeroDivisionError: ours"),
    ],
)
def test_whatever_ends_a_command_has_its_own_status(
    wslab: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, words: str
) -> None:
    def fail(**options: Any) -> int:
        raise error

    monkeypatch.setattr(commands.commands["ps"], "callback", fail)
    said = wslab("ps", "--json")
    assert (said.status, said.out) == (status, "")
    assert said.err.splitlines()[-1] == words


def test_output_that_nobody_reads_is_no_failure() -> None:
    process = started("preflight")
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")


def test_a_request_to_terminate_goes_where_an_interrupt_would_go() -> None:
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    cli_signals.end_like_interrupt(signal.SIGTERM, None)
    assert came == [signal.SIGINT]


# The other commands.


def test_preflight_answers_whether_so_many_fit(wslab: Callable[..., Said]) -> None:
    assert wslab("preflight", "--connections", "1").out.startswith("1 fits")
    beyond = json.loads(wslab("preflight", "--connections", PLENTY, "--json").out)
    assert beyond["fits"] is False
    assert json.loads(wslab("preflight", "--json").out)["fits"] is None


def test_runs_are_filtered_labelled_and_deleted(wslab: Callable[..., Said], tmp_path: Path) -> None:
    first = made_runs.make_run(tmp_path / "data", 1000, second=1)
    second = made_runs.make_run(tmp_path / "data", 2000, second=2, outcome="broke")
    listed = json.loads(wslab("runs", "--outcome", "broke", "--stage", "2k", "--json").out)
    assert [one["run_id"] for one in listed] == [second.name]
    assert wslab("runs", "--server", "asyncio").out == "no recorded runs\n"
    assert wslab("runs", first.name, "--relabel", "after tuning").out == f"{first.name}: label: after tuning\n"
    assert wslab("runs", "--label", "tuning").out.splitlines()[1].endswith("after tuning")
    assert json.loads(wslab("runs", first.name, "--delete", "--json").out)["deleted"] is True
    assert [one["run_id"] for one in json.loads(wslab("runs", "--json").out)] == [second.name]
    for words, refusal in (
        (("--delete",), "--delete needs the ID of a run"),
        ((second.name, "--delete", "--diagnose"), "--diagnose and --delete exclude each other"),
        ((second.name, "--server", "lean"), "--server is for the list of runs"),
        (("--since", "soon"), "since=soon cannot be used"),
    ):
        said = wslab("runs", *words)
        assert (said.status, said.out) == (2, "")
        assert refusal in said.err


def test_runs_are_listed_from_the_folder_that_was_typed(wslab: Callable[..., Said], tmp_path: Path) -> None:
    assert wslab("runs").out == "no recorded runs yet; `wslab stage --connections 10k` makes one\n"
    assert json.loads(wslab("runs", "--json").out) == []
    made = made_runs.make_run(tmp_path / "here" / "mine", 1000)
    (listed,) = json.loads(wslab("runs", "--data-dir", "mine", "--json").out)
    assert listed["run_dir"] == str(made)
    assert made.name in wslab("runs", "--data-dir", "mine").out


def test_one_run_is_shown_by_the_beginning_of_its_id(wslab: Callable[..., Said], tmp_path: Path) -> None:
    first = made_runs.make_run(tmp_path / "data", 1000)
    second = made_runs.make_run(tmp_path / "data", 2000, outcome="broke")
    assert wslab("runs", first.name).out.startswith("held: 1k connections")
    unique = next(second.name[:n] for n in range(1, 99) if not first.name.startswith(second.name[:n]))
    assert json.loads(wslab("runs", unique, "--json").out)["run_id"] == second.name
    said = wslab("runs", "20")
    assert (said.status, said.out) == (2, "")
    assert first.name in said.err


def test_a_run_is_judged_again_beside_what_was_recorded(
    wslab: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_runs.make_run(tmp_path / "data", 1000, outcome="broke")
    found = Finding(
        limit="accept_queue", side="kernel", at_connections=7, evidence="overflows 0 -> 9", remedy="backlog"
    )
    monkeypatch.setattr(Run, "diagnose", lambda self: Findings([found]))
    document = json.loads(wslab("runs", made.name, "--diagnose", "--json").out)
    assert document == {
        "run_id": made.name,
        "outcome": "broke",
        "findings": json.loads(json.dumps([found.as_dict()])),
        "recorded_findings": Run.load(made).findings,
    }
    text = wslab("runs", made.name, "--diagnose").out
    assert "accept_queue (kernel): overflows 0 -> 9" in text
    assert all(finding["limit"] in text for finding in document["recorded_findings"])


def test_notebooks_are_copied_and_not_overwritten_unasked(wslab: Callable[..., Said], tmp_path: Path) -> None:
    copies = json.loads(wslab("notebooks", "mine", "--json").out)["notebooks"]
    assert f"{tmp_path}/here/mine/10-stage.ipynb" in copies
    (tmp_path / "here/mine/10-stage.ipynb").write_text("my own", "utf-8")
    said = wslab("notebooks", "mine")
    assert (said.status, said.out) == (2, "")
    assert "10-stage.ipynb" in said.err
    assert (tmp_path / "here/mine/10-stage.ipynb").read_text("utf-8") == "my own"
    assert wslab("notebooks", "mine", "--force").out.splitlines() == copies
    assert json.loads((tmp_path / "here/mine/10-stage.ipynb").read_text("utf-8"))["cells"]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Path]]:
    """Replace the drawing of a report by a note of what it was asked for."""
    asked: list[tuple[list[str], Path]] = []

    def report(runs: list[Run], out: Path, *, pdf: bool, paper: bool) -> publish.Report:
        asked.append(([run.run_id for run in runs], out))
        page = out / "index.html"
        return publish.Report(page, page.with_suffix(".pdf") if pdf else None, "in print" if paper else "")

    monkeypatch.setattr(publish, "report", report)
    return asked


def test_a_report_stands_beside_its_runs_or_where_it_is_wanted(
    wslab: Callable[..., Said], published: list[tuple[list[str], Path]], tmp_path: Path
) -> None:
    made = made_runs.make_run(tmp_path / "here" / "mine", 1000)
    here = tmp_path / "here"
    other = made_runs.make_run(tmp_path / "here" / "mine", 2000, second=9)
    both, report = [made.name, other.name], f"{here}/mine/report/index"
    assert wslab("report", "--data-dir", "mine").out == f"{report}.html\n{report}.pdf\n"
    said = wslab("report", "--data-dir", "mine", "--out", "o", "--json", "--no-pdf", "--paper")
    assert json.loads(said.out) == {"report": f"{here}/o/index.html", "pdf": None}
    assert said.err == "in print\n"
    wslab("report", "--data-dir", "mine", "--runs", f"latest, {made.name[:-2]}")
    wslab("report", "--runs", f"mine/runs/{made.name}", "--out", "o")
    assert [runs for runs, _ in published] == [both, both, [other.name, made.name], [made.name]]
    assert [folder for _, folder in published[:2]] == [here / "mine" / "report", here / "o"]
    refused = wslab("report", "--runs", "2031")
    assert (refused.status, refused.out) == (2, "")


def test_a_report_without_runs_of_ones_own_shows_those_of_the_project(
    wslab: Callable[..., Said],
    published: list[tuple[list[str], Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = made_runs.make_run(tmp_path / "made", 1000)
    monkeypatch.setattr("wslab.lab.store.reference_folder", lambda: reference.parent)
    assert wslab("report").status == 0
    assert published[0][0] == [reference.name]


def test_a_report_that_cannot_be_written_is_refused(wslab: Callable[..., Said], tmp_path: Path) -> None:
    made_runs.make_run(tmp_path / "data", 1000)
    (tmp_path / "here" / "a-file").touch()
    said = wslab("report", "--out", "a-file/below")
    assert (said.status, said.out) == (2, "")
    assert said.err == f"wslab: out={tmp_path}/here/a-file/below cannot be written: Not a directory\n"


def test_clean_puts_back_what_a_killed_stage_has_set(
    wslab: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "sys"
    (root / "fs").mkdir(parents=True)
    (root / "fs" / "nr_open").write_text("1\n")
    (root / "fs" / "file-max").write_text("1\n")
    monkeypatch.setattr("wslab.machine.sysctls.SYSCTLS", root)
    Journal().write({"fs.file-max": "2"})
    pid = os.fork()
    if not pid:
        Journal(TUNING, "session").write({"fs.nr_open": "2"})
        os._exit(0)
    os.waitpid(pid, 0)
    assert wslab("clean").out == "fs.nr_open: 2 -> 1\n"
    assert [(root / "fs" / name).read_text().strip() for name in ("nr_open", "file-max")] == ["1", "2"]
    assert wslab("clean").out == "nothing was left behind\n"
    assert json.loads(wslab("clean", "--json").out) == {"ended": [], "changes": [], "elsewhere": [], "done": True}


def test_ps_says_that_nothing_runs(wslab: Callable[..., Said]) -> None:
    assert wslab("ps").out == "no processes of wslab are running\n"
    assert json.loads(wslab("ps", "--json").out) == []


@pytest.mark.parametrize(
    ("end", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)], ids=lambda value: str(value)
)
def test_a_server_serves_until_it_is_ended_and_leaves_nothing(
    wslab: Callable[..., Said], end: signal.Signals, status: int
) -> None:
    # A script's background job, which starts with SIGINT ignored.
    process = started("serve", "lean", "--json", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    with process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert line["url"].startswith("ws://127.0.0.1:")
        assert [entry["pid"] for entry in json.loads(wslab("ps", "--json").out)] == line["pids"]
        process.send_signal(end)
        out, _ = process.communicate(timeout=5)
        assert out == ""
    assert process.returncode == status
    eventually(lambda: not registry.list_processes(), 5.0)


def test_a_server_that_is_killed_ends_the_command_with_a_crash(wslab: Callable[..., Said]) -> None:
    with started("serve", "tcp_floor", "--json", "--shards", "1") as process:
        assert process.stdout is not None
        pids = json.loads(process.stdout.readline())["pids"]
        os.kill(pids[0], signal.SIGKILL)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 3
    assert err == "wslab: the server ended by itself (signal 9)\n"
    eventually(lambda: not registry.list_processes(), 5.0)


# Whoever reads the output, and however it is interrupted: real processes.

SMALL = ["stage", "--connections", "20", "--message-rate", "0", "--server-shards", "1", "--swarm-workers", "1"]


def recorded_outcomes(tmp_path: Path) -> list[str]:
    """Return the outcomes of the runs in the data folder."""
    return [json.loads(path.read_text("utf-8"))["outcome"] for path in tmp_path.glob("data/runs/2*/run.json")]


@pytest.mark.parametrize(
    ("redirection", "variables", "said"),
    [
        ("2>&- >/dev/null", {}, ""),
        ("2>/dev/full >/dev/null", {}, ""),
        ("<&- >&- 2>&-", {}, ""),
        (">&-", {}, "it is closed; it is recorded in"),
        (">/dev/full", {}, "No space left on device; it is recorded in"),
        (">/dev/null", {"PYTHONIOENCODING": "ascii"}, "held"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_does_not_depend_on_who_reads_its_output(
    tmp_path: Path, redirection: str, variables: dict[str, str], said: str
) -> None:
    command = [sys.executable, "-m", "wslab", *SMALL, "--hold-seconds", "0"]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1]), **variables}
    shell = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *command]
    done = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert recorded_outcomes(tmp_path) == ["held"]
    assert "Traceback" not in done.stderr
    assert said in (done.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize("gone", ["stdout", "stderr"])
def test_a_run_goes_on_when_a_reader_leaves(tmp_path: Path, gone: str) -> None:
    with started(*SMALL, "--hold-seconds", "0", "--json") as process:
        getattr(process, gone).close()
        rest = process.stderr if gone == "stdout" else process.stdout
        assert rest is not None
        text = rest.read()
    assert process.returncode == 0
    assert recorded_outcomes(tmp_path) == ["held"]
    if gone == "stderr":
        assert json.loads(text)["outcome"] == "held"


def test_descriptors_that_are_closed_at_the_start_are_not_given_to_other_files(tmp_path: Path) -> None:
    code = (
        "import os, sys; from wslab.cli_output import open_standard_streams as o; o(); file = open(sys.argv[1], 'w');"
        "print('result'); print('progress', file=sys.stderr); file.write(str(file.fileno()))"
    )
    path = tmp_path / "a-file"
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code, str(path)]
    subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}, check=True, timeout=30
    )
    assert int(path.read_text("utf-8")) > 2


def test_a_result_that_is_only_printed_and_cannot_be_is_a_crash() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full, started("ps", stdout=full) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 3
    assert said.count("\n") == 1


def test_output_fits_an_encoding_that_lacks_its_characters() -> None:
    with started("notebooks", "m\u00f6re", env_add={"PYTHONIOENCODING": "ascii"}) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert "m?re" in out


@pytest.mark.parametrize(
    ("number", "times"), [(signal.SIGHUP, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2), (signal.SIGINT, 20)]
)
def test_signals_end_a_stage_that_is_saved_and_printed(tmp_path: Path, number: signal.Signals, times: int) -> None:
    with started(*SMALL, "--hold-seconds", "60", "--json") as process:
        eventually(
            lambda: any('"hold"' in path.read_text() for path in tmp_path.glob("data/runs/2*/events.jsonl")), 20.0
        )
        for _ in range(times):
            process.send_signal(number)
            select.select([], [], [], 0.01)  # One that is pending already would not count.
        out, err = process.communicate(timeout=20)
    assert (process.returncode, json.loads(out)["outcome"]) == (130, "aborted")
    assert recorded_outcomes(tmp_path) == ["aborted"]
    assert "Traceback" not in err
    assert registry.list_processes() == []


def test_nohup_is_honoured() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        cli_signals.take_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_raises_twice_and_not_while_a_module_is_imported(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "interrupted_module.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.2)\nwhole = True\n", "utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    cli_signals.take_signals()

    def import_and_wait() -> None:
        assert import_module("interrupted_module").whole
        select.select([], [], [], 10.0)

    with pytest.raises(KeyboardInterrupt):
        import_and_wait()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    assert sys.modules["interrupted_module"].whole
