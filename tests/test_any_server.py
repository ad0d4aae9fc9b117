"""Servers that are not ours, for real: watched from outside, measured, named at their own limits, and ended or left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventually import eventually
from wslab.lab import registry, store
from wslab.lab.experiment import run_stage
from wslab.machine.process import alive
from wslab.machine.procfs import read_pss
from wslab.machine.trees import listeners

FAULTY = Path(__file__).parent / "data" / "faulty_server.py"


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield
    assert registry.list_processes() == []


def command(behaviour: str, before: str = "") -> str:
    """Return the command line of the small server; `before` is run by the shell that starts it."""
    return f"sh -c '{before} exec {sys.executable} {FAULTY} {{port}} {behaviour}'"


def test_memory_a_connection_agrees_with_a_reading_of_the_whole_tree_from_outside(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def tree_bytes() -> int:
        return sum(read_pss(pid) or 0 for pid in seen["pids"])

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "processes_ready" and event["role"] == "server":
            seen["pids"] = event["pids"][1:]
        elif event["event"] == "processes_ready" and event["role"] == "swarm":
            seen["before"] = tree_bytes()
        elif event["event"] == "phase_started" and event["phase"] == "verify":
            seen["after"] = tree_bytes()

    # Large enough a connection that the pages which Python itself shares with others do not matter.
    # Slow enough that few connections are open when the first reading with all processes is taken.
    asked = {"connections": 400, "ramp_rate": 400, "hold_seconds": 1.5}
    run = run_stage(on_event=on_event, server=command("leaks"), data_dir=tmp_path, **asked)
    assert (run.outcome, run.findings) == ("held", [])
    own = (seen["after"] - seen["before"]) / 400
    figure = run.summary["server_user_bytes_per_connection"]
    assert figure == pytest.approx(own, rel=0.05)
    assert 90_000 < figure < 130_000
    done = run.as_dict()
    assert done["server_pids"] == seen["pids"]
    assert done["server_command"] == run.asked["server"]
    held = [sample for sample in store.read_samples(run.run_dir) if sample["phase"] == "hold"][-1]
    assert held["server_processes"] == len(seen["pids"]) == 1
    assert held["server_fds"] >= 400
    assert held["server_cpu_user_seconds"] > 0
    assert held["server_connections_open"] is None


def test_the_fd_limit_of_a_server_is_predicted_met_and_named_with_its_pid(tmp_path: Path) -> None:
    server = command("echo", before="ulimit -n 120;")
    swarm = {"handshake_timeout_seconds": 1.0}
    run = run_stage(server=server, connections=200, hold_seconds=0.5, data_dir=tmp_path, specs={"swarm": swarm})
    assert run.outcome == "broke"
    first = run.findings[0]
    (pid,) = run.as_dict()["server_pids"]
    assert (first["limit"], first["side"]) == ("fd_limit", "server")
    assert f"pid {pid}" in first["evidence"]
    assert " of 120" in first["evidence"]
    (row,) = [
        row
        for row in run.preflight
        if (row["limit"], row["side"], row["scope"]) == ("fd_limit", "server", "as planned")
    ]
    assert run.summary["connections_open"] == first["at_connections"]
    assert row["ceiling_connections"] == pytest.approx(first["at_connections"], abs=1)
    assert row["value"] == 120


def test_a_server_that_dies_under_load_is_named_with_its_last_lines(tmp_path: Path) -> None:
    run = run_stage(server=command("dies 50"), connections=200, hold_seconds=5.0, data_dir=tmp_path)
    assert run.outcome == "broke"
    (finding,) = run.findings
    assert finding["limit"] == "server_died"
    assert "exit code 7" in finding["evidence"]
    assert "cannot serve any more" in finding["evidence"]
    # The death is noticed at once, and no hold is waited for.
    holds = [phase for phase in run.manifest["phases"] if phase["name"] == "hold"]
    assert all(phase["ended_seconds"] - phase["started_seconds"] < 1.0 for phase in holds)


def test_a_server_that_cannot_be_tested_is_a_result_and_no_crash(tmp_path: Path) -> None:
    run = run_stage(server=command("exits"), connections=10, data_dir=tmp_path)
    assert (run.outcome, run.findings[0]["limit"], run.findings[0]["at_connections"]) == ("broke", "server_died", 0)
    assert "giving up" in run.findings[0]["evidence"]
    assert "giving up" in (run.run_dir / "logs" / "server.log").read_text("utf-8")


def test_a_server_that_runs_already_is_found_by_its_port_watched_and_left_alone(tmp_path: Path) -> None:
    server = subprocess.Popen([sys.executable, str(FAULTY), "0", "echo"])
    try:
        port = eventually(lambda: [one.port for one in listeners() if _owned(one.inode, server.pid)])[0]
        run = run_stage(server=f"ws://127.0.0.1:{port}", connections=20, hold_seconds=1.0, data_dir=tmp_path)
        assert (run.outcome, run.findings) == ("held", [])
        assert run.as_dict()["server_pids"] == [server.pid]
        held = [sample for sample in store.read_samples(run.run_dir) if sample["phase"] == "hold"][-1]
        assert held["server_processes"] == 1
        assert held["server_fds"] >= 20
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()


def test_a_killed_caller_leaves_no_server_behind(tmp_path: Path) -> None:
    arguments = ["--server", command("daemon"), "--connections", "10", "--hold-seconds", "60"]
    caller = subprocess.Popen(
        [sys.executable, "-m", "wslab", "stage", *arguments, "--data-dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    entries = eventually(lambda: [entry for entry in registry.list_processes() if entry.role == "swarm"])
    server = [entry for entry in registry.list_processes() if entry.role == "server"]
    caller.kill()
    caller.wait()
    assert len(server) >= 2  # its keeper, and the process that stayed
    eventually(lambda: not any(alive(one.pid, one.start_ticks) for one in (*entries, *server)), 10.0)
    eventually(lambda: not registry.list_processes())


def _owned(inode: int, pid: int) -> bool:
    folder = f"/proc/{pid}/fd"
    return f"socket:[{inode}]" in [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
