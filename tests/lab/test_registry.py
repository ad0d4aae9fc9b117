"""The registry: it tells what is alive, ends that and nothing else, and is never in the way."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventually import eventually
from wslab.lab import registry
from wslab.machine.process import alive, start_ticks

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "wslab" / "processes"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes that do nothing for a minute."""
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str = "import time; print('on', flush=True); time.sleep(60)") -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == b"on\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_group_is_listed_with_all_its_processes_until_it_is_removed(start: Start, state: Path) -> None:
    supervisor, shard = start(), start()
    registration = registry.register("supervisor", supervisor.pid, "/data/runs/x")
    registration.add("server", [shard.pid, shard.pid])
    assert [(entry.role, entry.pid) for entry in registry.list_processes()] == [
        ("supervisor", supervisor.pid),
        ("server", shard.pid),
    ]
    entry = registry.list_processes()[0]
    assert (entry.run_dir, entry.start_ticks, entry.orphaned) == ("/data/runs/x", start_ticks(supervisor.pid), False)
    assert [path.name for path in state.iterdir()] == [f"{supervisor.pid}-{start_ticks(supervisor.pid)}.json"]
    registration.remove()
    assert registry.list_processes() == []
    assert list(state.iterdir()) == []


def test_other_runs_are_those_whose_supervisor_and_caller_live(start: Start, state: Path) -> None:
    supervisor, server = start(), start()
    registry.register("supervisor", supervisor.pid, "/data/runs/x")
    registry.register("server", server.pid)  # `wslab serve` is no run.
    assert registry.other_runs() == ["x"]
    assert registry.other_runs("/data/runs/x") == []


def test_a_run_whose_caller_died_is_waited_for_and_not_counted(
    start: Start, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = start()
    registry.register("supervisor", supervisor.pid, "/data/runs/x")
    (record,) = state.iterdir()
    record.write_text(record.read_text().replace(f'"pid": {os.getpid()}', '"pid": 999999999'))
    monkeypatch.setattr(registry, "ENDING_SECONDS", 0.0)
    assert registry.other_runs() == []


def test_stopping_a_run_asks_its_supervisor_alone(start: Start, state: Path) -> None:
    supervisor, shard = start(), start()
    registry.register("supervisor", supervisor.pid, "/data/runs/x").add("server", [shard.pid])
    assert not registry.stop_run("/data/runs/y")
    assert registry.stop_run("/data/runs/x")
    assert supervisor.wait(10) == -signal.SIGTERM
    assert shard.poll() is None


def test_a_process_that_has_ended_is_not_listed_and_an_empty_record_is_swept_away(start: Start, state: Path) -> None:
    process = start()
    registry.register("server", process.pid)
    process.kill()
    eventually(lambda: not registry.list_processes())  # A zombie counts as ended.
    assert list(state.iterdir()) == []


def test_a_pid_that_was_given_to_another_process_is_neither_listed_nor_ended(start: Start, state: Path) -> None:
    process = start()
    registry.register("server", process.pid)
    (path,) = state.iterdir()
    record = json.loads(path.read_text("utf-8"))
    record["processes"][0]["start_ticks"] -= 1
    path.write_text(json.dumps(record), encoding="utf-8")
    assert registry.clean(registry.list_processes()) == []
    stranger = registry.ProcessEntry(pid=process.pid, start_ticks=1, role="server")
    assert registry.clean([stranger]) == []
    assert process.poll() is None


def test_clean_ends_what_is_alive_and_forgets_it(start: Start, state: Path) -> None:
    process, bystander = start(), start()
    registry.register("swarm", process.pid)
    assert [entry.pid for entry in registry.clean(registry.list_processes())] == [process.pid]
    assert process.wait(5.0) == -signal.SIGTERM
    assert bystander.poll() is None
    assert list(state.iterdir()) == []


def test_clean_kills_what_does_not_hear_or_is_stopped(
    start: Start, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "TERM_SECONDS", 0.2)
    stubborn, stopped = start(STUBBORN), start()
    stopped.send_signal(signal.SIGSTOP)
    registry.register("server", stubborn.pid).add("server", [stopped.pid])
    assert len(registry.clean(registry.list_processes())) == 2
    assert stubborn.wait(5.0) == -signal.SIGKILL
    assert stopped.wait(5.0) in (-signal.SIGKILL, -signal.SIGTERM)
    assert list(state.iterdir()) == []


def test_a_leftover_is_what_has_no_caller_any_more(start: Start, state: Path) -> None:
    kept, left = start(), start()
    registry.register("server", kept.pid)
    registry.register("server", left.pid)
    path = state / f"{left.pid}-{start_ticks(left.pid)}.json"
    record = json.loads(path.read_text("utf-8")) | {"caller": {"pid": 2**22 + 1, "start_ticks": 1}}
    path.write_text(json.dumps(record), encoding="utf-8")
    assert [entry.pid for entry in registry.leftovers()] == [left.pid]
    assert len(registry.list_processes()) == 2
    assert [entry.pid for entry in registry.clean()] == [left.pid]
    assert [entry.pid for entry in registry.list_processes()] == [kept.pid]


def test_a_file_that_is_no_record_is_told_and_passed_over(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    state.mkdir(parents=True)
    (state / "1-1.json").write_text('{"caller"', encoding="utf-8")
    assert registry.list_processes() == []
    assert "1-1.json is not a record of processes" in caplog.text


def test_a_folder_that_cannot_be_written_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("wslab.machine.state.ROOT_STATE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        registration = registry.register("supervisor", os.getpid())
        registration.remove()
    assert "the processes of this run are not registered" in caplog.text
    assert [entry.pid for entry in registration.entries()] == [os.getpid()]
    assert registry.list_processes() == []


def test_the_entries_of_this_process_are_believed(state: Path) -> None:
    registry.register("supervisor", os.getpid())
    (entry,) = registry.list_processes()
    assert alive(entry.pid, entry.start_ticks)
    assert entry.as_dict()["role"] == "supervisor"


def test_a_process_of_another_user_than_was_recorded_is_neither_listed_nor_ended(
    start: Start, state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = start()
    registry.register("server", process.pid)
    monkeypatch.setattr(registry, "user_of", lambda pid: 12345)
    assert registry.clean(registry.list_processes()) == []
    assert f"process {process.pid} is left alone" in caplog.text
    assert process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become another user")
def test_a_process_that_has_become_another_user_since_it_was_recorded_is_ended(start: Start, state: Path) -> None:
    code = "import os, sys, time; os.setuid(65534); print('on', flush=True); time.sleep(60)"
    process, other = start(code), start()
    registration = registry.register("server", other.pid)
    registration.add("server", [process.pid])
    assert {entry.pid for entry in registry.clean(registry.list_processes())} == {process.pid, other.pid}
    assert process.wait(5.0) == -signal.SIGTERM
