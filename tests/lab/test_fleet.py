"""The fleet: what it started is gone afterwards, whichever way the caller leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eventually import eventually
from fake_load import commands
from wslab.lab import fleet as fleet_module
from wslab.lab import registry
from wslab.lab.fleet import Fleet, FleetEnded

OWNER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_fleet import begin
from wslab.lab.fleet import Fleet
with Fleet(Path(sys.argv[1])) as fleet:
    begin(fleet)
    print("on", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "wslab" / "processes"


def begin(fleet: Fleet, **behaviours: str) -> list[dict[str, Any]]:
    """Start two shards and two workers and return the events until all are ready."""
    own = commands(**behaviours)
    fleet.send(
        "start",
        run_dir=str(fleet.run_dir),
        memory_reserve_bytes=0,
        server={"shards": 2, "command": own["server"]},
        swarm={"workers": 2, "connections": 10**6, "command": own["swarm"]},
        recorder={"command": own["recorder"]},
    )
    return until(fleet, "started")


def until(fleet: Fleet, name: str) -> list[dict[str, Any]]:
    seen = []
    while (event := fleet.next_event(15.0)) is not None:
        seen.append(event)
        if event["event"] == name:
            return seen
    raise AssertionError(f"no {name} among {seen}")


def recorded(run_dir: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (run_dir / "events.jsonl").read_text("utf-8").splitlines()]


def test_while_it_lasts_all_processes_are_registered_and_afterwards_none_is_left(tmp_path: Path, state: Path) -> None:
    with Fleet(tmp_path) as fleet:
        begin(fleet)
        entries = registry.list_processes()
        assert sorted(entry.role for entry in entries) == ["recorder", *["server"] * 3, "supervisor", *["swarm"] * 3]
        assert {entry.run_dir for entry in entries} == {str(tmp_path)}
    assert registry.list_processes() == []
    assert list(state.iterdir()) == []
    assert recorded(tmp_path)[-1] == "stopped"
    assert "caller_gone" not in recorded(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_inside_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    def leave_in_a_ramp() -> None:
        with Fleet(tmp_path) as fleet:
            begin(fleet, swarm="slow")
            fleet.send("ramp")
            raise error

    with pytest.raises(error):
        leave_in_a_ramp()
    assert registry.list_processes() == []
    assert recorded(tmp_path)[-1] == "stopped"


def test_an_interrupt_while_leaving_still_ends_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Fleet, "_await_end", interrupted)
    with pytest.raises(KeyboardInterrupt), Fleet(tmp_path) as fleet:
        begin(fleet)
    assert registry.list_processes() == []


def test_events_come_one_by_one_and_waiting_ends_in_time(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        assert fleet.next_event(0.05) is None
        begin(fleet, swarm="slow")
        fleet.send("ramp")
        assert until(fleet, "progress")[0] == {"elapsed_seconds": pytest.approx(0, abs=60)} | {
            "event": "phase_started",
            "phase": "ramp",
        }


@pytest.mark.parametrize("stopped", [False, True])
def test_a_supervisor_that_is_killed_is_told_and_what_it_owned_is_ended(tmp_path: Path, stopped: bool) -> None:
    with Fleet(tmp_path) as fleet:
        events = begin(fleet)
        if stopped:
            pids = next(event["pids"] for event in events if event["event"] == "processes_ready" and "url" in event)
            os.kill(pids[1], signal.SIGSTOP)
        os.kill(fleet.pid, signal.SIGKILL)
        with pytest.raises(FleetEnded, match="the supervisor ended \\(signal SIGKILL\\)"):
            until(fleet, "never")
        fleet.send("ramp")
    assert registry.list_processes() == []


def test_a_supervisor_that_does_not_answer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "STOP_SECONDS", 0.3)
    with Fleet(tmp_path) as fleet:
        begin(fleet)
        os.kill(fleet.pid, signal.SIGSTOP)
    assert registry.list_processes() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_caller_that_dies_leaves_nothing_after_five_seconds(
    tmp_path: Path, project_root: Path, number: signal.Signals
) -> None:
    tests = str(Path(__file__).parent)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), tests],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(project_root), str(project_root / "tests")])},
    )
    assert owner.stdout is not None
    with owner.stdout:
        assert owner.stdout.readline() == b"on\n"
    assert len(registry.list_processes()) == 8
    owner.send_signal(number)
    owner.wait(5.0)
    assert len(registry.leftovers()) == len(registry.list_processes())
    eventually(lambda: not registry.list_processes(), 5.0)
    assert "caller_gone" in recorded(tmp_path)


def test_an_interrupt_of_the_callers_terminal_does_not_reach_the_fleet(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        begin(fleet)
        assert os.getsid(fleet.pid) == fleet.pid != os.getsid(0)


def test_after_the_end_nobody_can_be_spoken_to(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        pass
    fleet.stop()
    with pytest.raises(FleetEnded):
        fleet.send("ramp")
