"""A server that is somebody else's program: when it is ready, what is said when it is not, and that all of it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventually import eventually
from wslab.load.children import Child
from wslab.load.servers import output
from wslab.load.servers.output import Output
from wslab.machine.process import alive, start_ticks
from wslab.machine.trees import descendants

FAULTY = Path(__file__).parents[1] / "data" / "faulty_server.py"
READY_SECONDS = 20.0
SHORT_SECONDS = 0.8

Start = Callable[..., "Program"]


class Program:
    """A program under watch, with the events that its keeper sends."""

    def __init__(self, folder: Path, behaviour: str, **spec: Any) -> None:
        command = f"{sys.executable} {FAULTY} {{port}} {behaviour}"
        self.log = folder / "server.log"
        given = {"command_line": command, "ready_seconds": READY_SECONDS, "log": str(self.log), **spec}
        module = [sys.executable, "-m", "wslab.load.servers.command"]
        self.keeper = Child("server", [*module, json.dumps(given)], log=folder / "keeper.log")
        self.seen: dict[int, int] = {}

    def event(self, name: str) -> dict[str, Any]:
        """Return the next event, which has to be of this name; note which processes there are then."""
        (event,) = eventually(lambda: self.keeper.events()[0])[:1]
        assert event.pop("event") == name, event
        self.seen |= {pid: start_ticks(pid) or -1 for pid in descendants(self.keeper.pid)}
        return event

    def left(self) -> list[int]:
        """Return the processes of the program that still run."""
        return [pid for pid, ticks in self.seen.items() if alive(pid, ticks)]

    def end(self) -> None:
        """End the keeper as its owner does, and check that nothing is left."""
        self.keeper.close_stdin()
        if not self.keeper.ended:
            select.select([self.keeper.pidfd], [], [], 10.0)
            self.keeper.reap()
        self.keeper.stdout.close()
        eventually(lambda: not self.left(), 5.0)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    programs: list[Program] = []

    def begin(behaviour: str, **spec: Any) -> Program:
        programs.append(Program(tmp_path, behaviour, **spec))
        return programs[-1]

    yield begin
    for program in programs:
        program.end()


@pytest.mark.parametrize(
    ("behaviour", "limit", "said"),
    [
        ("exits", "server_died", "exit code 3"),
        ("deaf", "server_unreachable", "none of its processes listens on any port"),
        ("elsewhere", "server_unreachable", "--server-port"),
        ("busy", "server_silent", "answers nothing"),
        ("http500", "server_refused", "HTTP 500"),
        ("redirect", "server_refused", "a redirect to ws://127.0.0.1:1/there"),
        ("wrong_key", "server_protocol", "Sec-WebSocket-Accept"),
        ("tls", "server_protocol", "TLS"),
    ],
)
def test_a_server_that_does_not_get_ready_is_named_by_what_it_did(
    start: Start, behaviour: str, limit: str, said: str
) -> None:
    failed = start(behaviour, ready_seconds=SHORT_SECONDS).event("server_failed")
    assert failed["limit"] == limit
    assert said in failed["message"]


def test_the_last_lines_of_a_server_that_ended_are_quoted(start: Start) -> None:
    failed = start("exits").event("server_failed")
    assert failed["last_lines"] == "reading the configuration | no such file: settings.json | giving up"
    assert (failed["exit_code"], failed["signal"]) == (3, None)


def test_an_answer_that_stays_wrong_is_final_long_before_the_time_is_over(start: Start) -> None:
    assert start("http500", ready_seconds=600.0).event("server_failed")["limit"] == "server_refused"


def test_a_command_that_cannot_be_started_says_why(start: Start) -> None:
    failed = start("echo", command_line="/nowhere/at/all {port}").event("server_failed")
    assert "/nowhere/at/all: No such file or directory" in failed["message"]


def test_a_ready_server_is_announced_with_its_whole_tree_and_its_limits(start: Start) -> None:
    program = start("workers", fd_limit=200)
    ready = program.event("ready")
    keeper, *tree = ready["pids"]
    assert keeper == program.keeper.pid
    assert sorted(tree) == sorted(descendants(keeper))
    assert len(tree) == 2
    limits = ready["limits"]
    assert (limits["server_fd_limit"], limits["server_processes"]) == (200, 2)
    assert 2 * 180 < limits["server_fds_free"] < 2 * 200
    assert limits["server_backlog"] == 512


def test_a_server_that_forks_and_lets_its_first_process_end_is_kept_and_ended(start: Start) -> None:
    program = start("daemon")
    _, child = program.event("ready")["pids"]
    program.end()
    assert child in program.seen


def test_without_a_placeholder_the_port_is_in_the_environment(start: Start) -> None:
    program = start("echo", command_line=f"sh -c 'exec {sys.executable} {FAULTY} $PORT echo'")
    assert program.event("ready")["url"].startswith("ws://127.0.0.1:")


def test_the_probe_asks_as_the_connections_of_the_swarm_do(start: Start) -> None:
    failed = start("guards", ready_seconds=SHORT_SECONDS).event("server_failed")
    assert (failed["limit"], "HTTP 401" in failed["message"]) == ("server_refused", True)
    entry = {"path": "/chat/{n}", "headers": ["Host: here", "Token: secret"]}
    assert start("guards", entry=entry).event("ready")


def test_the_end_of_a_ready_server_is_noticed_within_a_second(start: Start) -> None:
    program = start("echo")
    _, pid = program.event("ready")["pids"]
    os.kill(pid, signal.SIGKILL)
    (event,) = eventually(lambda: program.keeper.events()[0], 1.0)
    assert (event["event"], event["pid"], event["signal"]) == ("process_exited", pid, signal.SIGKILL)


def test_a_stopped_server_is_ended_as_well(start: Start) -> None:
    program = start("workers")
    for pid in program.event("ready")["pids"][1:]:
        os.kill(pid, signal.SIGSTOP)
    program.end()


def test_a_killed_keeper_takes_the_server_along(start: Start) -> None:
    program = start("echo")
    program.event("ready")
    program.keeper.kill()
    select.select([program.keeper.pidfd], [], [], 10.0)
    program.keeper.reap()
    eventually(lambda: not program.left(), 5.0)


def test_a_server_that_prints_much_fills_no_disk(start: Start) -> None:
    program = start(f"prints {32 << 20}")
    program.event("ready")
    program.end()
    text = program.log.read_bytes()
    assert len(text) < output.HEAD_BYTES + 2 * output.TAIL_BYTES
    left_out = (32 << 20) - output.HEAD_BYTES - output.TAIL_BYTES
    assert f"\n[{left_out:,} bytes are left out here]\n".encode() in text


def test_the_beginning_and_the_end_of_what_was_printed_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "HEAD_BYTES", 10)
    monkeypatch.setattr(output, "TAIL_BYTES", 6)
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    kept = Output(str(path))
    kept.take(b"0123")
    kept.take(b"456789abc")
    kept.write_end()
    assert path.read_bytes() == b"before\n0123456789abc"
    kept.take(b"defghijk")
    kept.write_end()
    assert path.read_bytes() == b"before\n0123456789\n[5 bytes are left out here]\nfghijk"
    assert kept.last_lines() == "fghijk"
