"""Stages as notebooks: the copy ends in the run folder, and a kernel that dies is told by its manifest and signal.

A tiny template stands in for the real one: it writes a run folder and ends as its label says.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

import made_runs
from eventually import eventually
from wslab.core.quantities import BadInput
from wslab.core.stage import PARAMETERS, Stage
from wslab.lab.runs import Run
from wslab.view import kernel, workbook
from wslab.view.kernel import how_it_died, interrupts_go_to
from wslab.view.workbook import Executed, Sweep, check_parameters, run_notebook, sweep

RECORD = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(data_dir) / "runs" / f"20250101T000000Z-{connections}-{os.getpid():04x}"
if label != "nothing":
    folder.mkdir()
    ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    outcome = {"break": "broke", "abort": "aborted", "lifted": "broke", "lifted, stopped": "broke"}.get(label, "held")
    manifest = {"run_id": folder.name, "outcome": "running", "caller": {"pid": os.getpid(), "start_ticks": ticks},
                "stage": {"asked": {"connections": connections}, "effective": {}}}
    (folder / "run.json").write_text(json.dumps(manifest))
"""
END = """
if label == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if label == "raise":
    raise RuntimeError("no more")
if label.startswith("interrupt"):
    try:
        os.kill(os.getppid(), signal.SIGINT)
        for _ in range(600):  # An interrupt that comes just before one long sleep would be noticed after it.
            time.sleep(0.1)
    except KeyboardInterrupt:
        outcome = "aborted"
        if label == "interrupt, kill":
            os.kill(os.getpid(), signal.SIGKILL)
if label != "nothing":
    (folder / "run.json").write_text(json.dumps({**manifest, "outcome": outcome, "ended_at": "now"}))
if label.startswith("lifted"):
    second = folder.with_name(folder.name.replace("000000Z", "000001Z"))
    second.mkdir()
    if label == "lifted, stopped":
        try:
            os.kill(os.getppid(), signal.SIGINT)
            for _ in range(600):
                time.sleep(0.1)
        except KeyboardInterrupt:
            pass
    (second / "run.json").write_text(json.dumps({**manifest, "run_id": second.name, "outcome": "held"}))
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parameters = nbformat.v4.new_code_cell("\n".join(f"{p.name} = {p.default!r}" for p in PARAMETERS))
    parameters.metadata["tags"] = ["parameters"]
    cells = [parameters, nbformat.v4.new_code_cell(RECORD), nbformat.v4.new_code_cell(END)]
    kernel = {"kernelspec": {"name": "not-installed-anywhere", "language": "python", "display_name": "-"}}
    path = tmp_path_factory.mktemp("template") / "tiny.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture
def stage(tmp_path: Path):
    def make(label: str = "") -> Stage:
        return Stage.of(connections=7, data_dir=tmp_path, label=label)

    return make


def silent(prefix: str):
    return lambda event: None


def leftovers(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "runs").iterdir() if path.name.startswith(".")]


def test_the_executed_copy_ends_in_the_folder_of_its_run(template: Path, stage, tmp_path: Path) -> None:
    done = run_notebook(stage(), template, silent)
    assert (done.outcome, done.reason) == ("held", "")
    assert done.run is not None
    injected = [
        cell.source
        for cell in nbformat.read(done.run.run_dir / "stage.ipynb", 4).cells
        if "injected-parameters" in cell.metadata.get("tags", [])
    ]
    assert "connections = 7" in injected[0]
    assert leftovers(tmp_path) == []


def test_a_kernel_that_is_killed_is_told_by_its_signal_and_kept_in_the_manifest(
    template: Path, stage, tmp_path: Path
) -> None:
    done = run_notebook(stage("kill"), template, silent)
    assert done.outcome == "crashed"
    assert done.reason.startswith("the notebook's kernel was killed by signal 9 (SIGKILL)")
    assert done.run is not None
    assert json.loads((done.run.run_dir / "run.json").read_text())["outcome"] == "crashed"
    assert leftovers(tmp_path) == []


def test_a_notebook_that_fails_after_its_run_says_so_and_keeps_the_outcome_of_the_run(
    template: Path, stage, tmp_path: Path
) -> None:
    done = run_notebook(stage("raise"), template, silent)
    assert done.run is not None
    assert "RuntimeError: no more" in done.reason
    assert (done.run.run_dir / "stage.ipynb").is_file()
    assert leftovers(tmp_path) == []


def test_a_notebook_that_records_no_run_has_crashed_and_leaves_nothing(template: Path, stage, tmp_path: Path) -> None:
    done = run_notebook(stage("nothing"), template, silent)
    assert (done.outcome, done.reason, done.run) == ("crashed", "the notebook recorded no run", None)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_damaged_run_folder_that_appears_meanwhile_is_left_alone(template: Path, stage, tmp_path: Path) -> None:
    def view(prefix: str):
        (tmp_path / "runs" / "0-damaged").mkdir()
        (tmp_path / "runs" / "0-damaged" / "run.json").write_text("{")
        return silent(prefix)

    assert run_notebook(stage(), template, view).outcome == "held"


def test_an_interrupt_reaches_the_kernel_and_the_stage_is_aborted(template: Path, stage) -> None:
    before = signal.getsignal(signal.SIGINT)
    done = run_notebook(stage("interrupt"), template, silent)
    assert done.outcome == "aborted"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stage_that_was_run_again_is_judged_by_what_was_asked_for(template: Path, stage) -> None:
    done = run_notebook(stage("lifted"), template, silent)
    assert done.run is not None
    assert (done.outcome, "000000Z" in done.run.run_id) == ("broke", True)


def test_an_interrupt_while_it_is_run_again_ends_the_sweep_as_well(template: Path, stage) -> None:
    done = run_notebook(stage("lifted, stopped"), template, silent)
    assert (done.outcome, done.reason) == ("aborted", "stopped by the user")


def test_a_stage_whose_kernel_is_killed_after_an_interrupt_was_stopped_by_the_user(
    template: Path, stage, tmp_path: Path
) -> None:
    done = run_notebook(stage("interrupt, kill"), template, silent)
    assert (done.outcome, done.reason) == ("aborted", "stopped by the user")
    assert done.run is not None
    assert json.loads((done.run.run_dir / "run.json").read_text())["outcome"] == "aborted"
    assert leftovers(tmp_path) == []


@pytest.fixture
def kernels() -> Iterator[list[subprocess.Popen[bytes]]]:
    """The list of kernels, ended at last."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def shell(script: str) -> subprocess.Popen[bytes]:
    """Start a process in the place of a kernel, and wait until its script has said something."""
    process = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline()
    return process


def test_an_interrupt_before_there_is_a_kernel_reaches_it_when_it_has_started(
    kernels: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "REPEAT_SECONDS", 0.02)
    with interrupts_go_to(kernels):
        os.kill(os.getpid(), signal.SIGINT)
        kernels.append(shell("echo ready; exec sleep 60"))
        assert kernels[0].wait(10) == -signal.SIGINT


def test_an_interrupt_comes_again_until_a_run_is_recorded(
    kernels: list, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernel, "REPEAT_SECONDS", 0.1)
    told = tmp_path / "told"
    told.write_text("0")
    # A shell that has not run in between takes two signals for one, so only those that it has counted are asked for.
    kernels.append(shell(f"trap 'n=$((n+1)); echo $n >{told}' INT; echo ready; while :; do sleep 0.01; done"))

    def counted() -> int:
        return int(told.read_text() or 0)

    with interrupts_go_to(kernels, lambda: counted() >= 3):
        os.kill(os.getpid(), signal.SIGINT)
        eventually(lambda: counted() >= 3)
        time.sleep(0.3)  # One more may be on its way.
        reached = counted()
        time.sleep(0.5)
        assert counted() == reached


def test_impatience_kills_a_kernel_that_does_not_end(kernels: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "PATIENCE_SECONDS", 0.0)
    kernels.append(shell("trap '' INT; echo ready; exec sleep 60"))
    with interrupts_go_to(kernels) as came:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert kernels[0].wait(10) == -signal.SIGKILL
    assert len(came) == 3


def test_interrupts_in_quick_succession_leave_a_kernel_its_time(kernels: list) -> None:
    kernels.append(shell("trap 'n=$((n+1)); echo' INT; echo ready; sleep 0.2; [ $n -gt 0 ] && exit 7"))
    with interrupts_go_to(kernels) as came:
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGINT)
        assert kernels[0].poll() is None
    assert len(came) == 20


def test_interrupts_raise_when_no_kernel_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "PATIENCE_SECONDS", 0.0)
    with interrupts_go_to([]):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stage_far_beyond_the_memory_is_told_before_anything_starts(template: Path, tmp_path: Path) -> None:
    done = run_notebook(Stage.of(connections="900M", data_dir=tmp_path), template, silent)
    assert done.outcome == "broke"
    assert done.reason.startswith("not started: connections=900M needs about")


def test_parameters_that_the_template_does_not_declare_are_refused(template: Path) -> None:
    with pytest.raises(BadInput, match=r"unknown parameter colour: tiny\.ipynb"):
        check_parameters(template, {"connections": 1, "colour": "red"})


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Replace the execution of notebooks by outcomes: a stage above 100 connections breaks, at 500 it is aborted."""
    ran: list[str] = []

    def execute(stage: Stage, template: Path) -> workbook.Executed:
        ran.append(stage.name)
        outcome = "aborted" if stage.connections == 500 else "broke" if stage.connections > 100 else "held"
        run = made_runs.make_run(tmp_path, 1_000 + stage.connections, outcome=outcome, second=len(ran))
        return workbook.Executed(stage=stage.name, outcome=outcome, reason="", run=workbook.Run.load(run))

    monkeypatch.setattr(workbook, "run_notebook", execute)
    monkeypatch.setattr(workbook, "report", lambda runs, out: Path(out) / "index.html")
    assert list(inspect.signature(execute).parameters) == list(inspect.signature(run_notebook).parameters)[:2]
    return ran


def test_a_sweep_stops_at_the_first_break_and_names_the_rest(
    fake_runs: list[str], template: Path, tmp_path: Path
) -> None:
    done = sweep(["50", 200, 1e2], template=template, data_dir=tmp_path)
    assert fake_runs == ["50", "200"]
    assert (done.outcome, done.skipped) == ("broke", ("100",))
    assert done.report == str(tmp_path / "report" / "index.html")


def test_a_sweep_goes_on_when_asked_but_not_after_an_abort(
    fake_runs: list[str], template: Path, tmp_path: Path
) -> None:
    done = sweep([200, 50, 500, 60], keep_going=True, template=template, data_dir=tmp_path)
    assert fake_runs == ["200", "50", "500"]
    assert done.outcome == "aborted"


def test_a_break_ends_its_climb_of_a_matrix_and_the_next_begins(
    fake_runs: list[str], template: Path, tmp_path: Path
) -> None:
    done = sweep([50, 200, 300], matrix={"server_shards": [1, 2]}, template=template, data_dir=tmp_path)
    assert fake_runs == ["50", "200"] * 2
    assert done.skipped == ("300 server_shards=1", "300 server_shards=2")
    assert "server_shards=2" in done.text()


def test_a_sweep_that_was_cut_short_goes_on_after_the_last_good_stage(
    fake_runs: list[str], template: Path, tmp_path: Path
) -> None:
    common = {"keep_going": True, "resume": True, "template": template, "data_dir": tmp_path}
    first = sweep([50, 60, 500, 70], **common)
    assert (first.outcome, fake_runs) == ("aborted", ["50", "60", "500"])
    again = sweep([50, 60, 500, 70], **common)
    assert fake_runs == ["50", "60", "500", "500"]
    assert [one.reason for one in again.executed] == ["taken over", "taken over", ""]
    assert [run.run_id for run in again.runs[:2]] == [run.run_id for run in first.runs[:2]]


def test_only_a_sweep_that_asked_for_the_same_is_gone_on_with(
    fake_runs: list[str], template: Path, tmp_path: Path
) -> None:
    sweep([50], resume=True, template=template, data_dir=tmp_path)
    sweep([50], resume=True, template=template, data_dir=tmp_path, hold_seconds=7)
    sweep([50], resume=False, template=template, data_dir=tmp_path)
    (tmp_path / "sweeps" / "99999999T999999Z-none.json").write_text("{")
    sweep([50], resume=True, template=template, data_dir=tmp_path)
    assert fake_runs == ["50"] * 3


@pytest.mark.parametrize(
    ("stages", "parameters"), [(["10k"], {"colour": "red"}), (["50", "x"], {}), (["50"], {"hold_seconds": -1})]
)
def test_a_sweep_refuses_bad_input_before_the_first_stage(
    fake_runs: list[str], template: Path, stages: list[str], parameters: dict
) -> None:
    with pytest.raises(BadInput):
        sweep(stages, template=template, **parameters)
    assert fake_runs == []


@pytest.mark.parametrize(
    ("returncode", "oom_kills", "said"),
    [
        (None, 0, ""),
        (0, 1, ""),
        (1, 0, "the notebook's kernel ended with exit status 1"),
        (-15, 3, "the notebook's kernel was killed by signal 15 (SIGTERM)"),
        (-9, 2, "when memory ran out: oom_kill in /proc/vmstat rose by 2 meanwhile"),
        (-9, 0, "so memory had not run out"),
    ],
)
def test_what_ended_a_kernel_is_said_with_its_evidence(returncode: int | None, oom_kills: int, said: str) -> None:
    sentence = how_it_died(returncode, oom_kills)
    assert sentence.endswith(said)
    assert bool(sentence) == bool(said)


def executed(*outcomes: str) -> tuple[Executed, ...]:
    return tuple(Executed(stage="1k", outcome=outcome, reason="") for outcome in outcomes)


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        ([], "held"),
        (["held", "held"], "held"),
        (["held", "broke"], "broke"),
        (["broke", "aborted"], "aborted"),
        (["crashed", "broke", "held"], "crashed"),
    ],
)
def test_the_outcome_of_a_sweep_is_its_worst(outcomes: list[str], worst: str) -> None:
    assert Sweep(executed=executed(*outcomes)).outcome == worst


def test_a_sweep_as_json_has_the_figures_of_each_run(tmp_path: Path) -> None:
    run = Run.load(made_runs.make_run(tmp_path, 10_000))
    sweep = Sweep(executed=(Executed(stage="10k", outcome="held", reason="", run=run),), skipped=("1M",))
    document = json.loads(json.dumps(sweep.as_dict()))
    assert document["outcome"] == "held"
    assert document["skipped"] == ["1M"]
    assert document["stages"][0]["connections_open"] == 10_000
    assert document["stages"][0]["run_dir"] == str(run.run_dir)


def test_a_sweep_as_text_names_what_was_not_run_and_the_report() -> None:
    text = Sweep(executed=executed("broke"), skipped=("700k", "1M"), report="/x/index.html").text()
    assert "not run: 700k, 1M; --keep-going runs them too" in text
    assert text.endswith("report: /x/index.html")


def test_a_stage_without_a_run_has_a_row_all_the_same() -> None:
    sweep = Sweep(executed=(Executed(stage="1k", outcome="crashed", reason="it died"),))
    assert sweep.table().loc["1k", "outcome"] == "crashed"
    assert "it died" in sweep._repr_html_()
