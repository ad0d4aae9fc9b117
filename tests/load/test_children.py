"""A child of the supervisor: its lines, its end, and that only its own processes are ever ended with it."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventually import eventually
from wslab.load.children import Child

SPEAKING = """
import json, os, sys, time
pid = os.fork()
if pid == 0:
    time.sleep(60)
    os._exit(0)
print("starting", flush=True)
print(json.dumps({"event": "ready", "pids": [os.getpid(), pid]}), flush=True)
print(json.dumps({"event": "echo", "line": sys.stdin.readline()}), flush=True)
sys.stdin.read()
os.kill(pid, 9)
os.waitpid(pid, 0)
sys.exit(3)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    child = Child("server", [sys.executable, "-c", SPEAKING], log=tmp_path / "server.log")
    yield child
    child.close_stdin()
    if not child.ended:
        child.kill()
        child.reap()
    child.stdout.close()


def heard(child: Child) -> dict[str, object]:
    """Return the next event."""
    return eventually(lambda: child.events()[0])[0]


def test_a_child_takes_commands_and_what_is_no_event_goes_to_its_log(child: Child) -> None:
    assert heard(child)["event"] == "ready"
    child.send({"cmd": "ramp"})
    assert heard(child) == {"event": "echo", "line": '{"cmd": "ramp"}\n'}
    assert "not an event: starting" in child.log.read_text("utf-8")


def test_a_child_ends_when_its_stdin_is_closed_and_says_how(child: Child) -> None:
    heard(child)
    child.close_stdin()
    child.send({"cmd": "late"})
    select.select([child.pidfd], [], [], 10.0)
    assert child.reap() == (3, None)
    assert child.gone()


def test_a_child_is_gone_only_with_the_processes_that_it_announced(child: Child) -> None:
    pids = heard(child)["pids"]
    assert isinstance(pids, list)
    child.adopt(pids)
    os.kill(child.pid, signal.SIGKILL)
    select.select([child.pidfd], [], [], 10.0)
    assert child.reap() == (None, signal.SIGKILL)
    assert not child.gone()
    child.kill()
    eventually(child.gone)


def test_a_process_that_is_older_than_the_child_is_not_taken_for_its_own(child: Child) -> None:
    heard(child)
    child.adopt([os.getpid(), 1, 0, 2**22 + 1])
    child.kill()
    select.select([child.pidfd], [], [], 10.0)
    assert child.reap() == (None, signal.SIGKILL)
    assert child.gone()
