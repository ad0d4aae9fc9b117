"""Coming back to a run: it is found, shown to its end and stopped from another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from eventually import eventually
from made_runs import make_run
from wslab.core.quantities import BadInput
from wslab.lab.fleet import child_environment
from wslab.lab.runs import Run
from wslab.machine.process import start_ticks
from wslab.view import attach as attaching
from wslab.view.attach import Interrupted, attach, find_run, unless_interrupted


def going(data_dir: Path, second: int = 0) -> Path:
    """Write a run whose caller is this process and that has not ended."""
    run_dir = make_run(data_dir, 10_000, outcome="running", second=second)
    manifest = json.loads((run_dir / "run.json").read_text())
    manifest["caller"] = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
    (run_dir / "run.json").write_text(json.dumps(manifest))
    return run_dir


def end(run_dir: Path, outcome: str = "held") -> None:
    manifest = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps({**manifest, "outcome": outcome}))


def test_the_run_in_progress_is_shown_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wslab.view.follow.POLL_SECONDS", 0.01)
    make_run(tmp_path, 20_000, second=1)
    run_dir = going(tmp_path)
    seen: list[dict[str, Any]] = []

    def view(event: Any) -> None:
        seen.append(dict(event))
        if event.get("event") == "sample" and event["phase"] == "drain":
            end(run_dir)

    run = attach(data_dir=tmp_path, on_event=view)
    assert (run.run_dir, run.outcome) == (run_dir, "held")
    assert (seen[0]["event"], seen[0]["watched"]) == ("run_created", True)
    assert (seen[0]["run_dir"], seen[0]["connections"]) == (str(run_dir), 10_000)
    assert {"phase_started", "sample"} <= {event["event"] for event in seen}
    assert (seen[-1]["event"], seen[-1]["outcome"]) == ("run_ended", "held")


def test_an_interrupt_ends_the_watching_and_not_the_run(tmp_path: Path) -> None:
    run_dir = going(tmp_path)

    def view(event: Any) -> None:
        raise KeyboardInterrupt

    run = attach(data_dir=tmp_path, on_event=view)
    assert (run.run_dir, run.outcome) == (run_dir, "running")


def test_a_run_that_has_ended_shows_its_last_frame_at_once(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 20_000)
    seen: list[str] = []
    assert attach(run_dir.name[:18], tmp_path, on_event=lambda event: seen.append(event["event"])).run_dir == run_dir
    assert seen[-1] == "run_ended"


def test_without_a_run_in_progress_the_latest_is_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 20_000)
    with pytest.raises(BadInput, match=f"no run is in progress.*{run_dir.name}"):
        attach(data_dir=tmp_path)


def test_of_several_runs_in_progress_one_has_to_be_named(tmp_path: Path) -> None:
    first, second = going(tmp_path, 1), going(tmp_path, 2)
    with pytest.raises(BadInput, match=f"2 runs are in progress.*{first.name}, {second.name}"):
        find_run(data_dir=tmp_path)
    assert find_run(second.name, tmp_path) == second


def test_a_run_that_is_not_in_progress_is_not_stopped(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 20_000)
    with pytest.raises(BadInput, match=r"not in progress: held"):
        attaching.stop(run_dir.name, tmp_path)


def test_run_all_ends_at_a_run_that_was_stopped_and_goes_on_after_any_other(tmp_path: Path) -> None:
    held = Run.load(make_run(tmp_path, 20_000))
    assert unless_interrupted(held) is held
    stopped = Run.load(make_run(tmp_path, 20_000, outcome="aborted", second=1))
    with pytest.raises(Interrupted, match=stopped.run_id) as raised:
        unless_interrupted(stopped)
    assert len(raised.value._render_traceback_()) == 2


def test_a_stage_is_watched_refused_beside_and_stopped_from_other_processes(tmp_path: Path, nothing_left: None) -> None:
    environment = child_environment()
    stage = [sys.executable, "-m", "wslab", "stage", "--connections", "50", "--hold-seconds", "60", "--json"]
    stage += ["--data-dir", str(tmp_path)]
    with subprocess.Popen(stage, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as load:
        phases: list[str] = []

        def watch() -> None:
            attach(on_event=lambda event: phases.append(str(event.get("phase"))))

        # Found by the registry alone: the data folder is not named.
        eventually(attaching.in_progress, 60.0)
        watching = threading.Thread(target=watch)
        watching.start()
        eventually(lambda: "hold" in phases, 60.0)
        again = [*stage[:-2], "--data-dir", str(tmp_path / "other")]
        refused = subprocess.run(again, env=environment, capture_output=True, text=True, timeout=60)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert "--beside" in refused.stderr
        stop = subprocess.run([*stage[:3], "stop"], env=environment, capture_output=True, text=True, timeout=60)
        assert stop.returncode == 0
        told, _ = load.communicate(timeout=60)
        watching.join(30)
    document = json.loads(told)
    assert (load.returncode, document["outcome"]) == (130, "aborted")
    assert "aborted" in stop.stdout
