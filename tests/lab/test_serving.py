"""A server by itself: it serves, it is registered, and it is gone with whoever asked for it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from eventually import eventually
from wslab.core.quantities import BadInput
from wslab.core.servers import SERVER_KINDS, ServerKind
from wslab.lab import registry, serving
from wslab.lab.serving import SHARDS_MOST, ServerDied, Serving


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "wslab" / "processes"


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a server kind of a few lines of Python and returns its name."""

    def pretend(source: str) -> str:
        (tmp_path / "pretended.py").write_text(source, "utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        kind = ServerKind(name="pretended", module="pretended", summary="")
        monkeypatch.setitem(SERVER_KINDS, "pretended", kind)
        return "pretended"

    return pretend


def ask(url: str, question: bytes) -> bytes:
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(question)
        return connection.recv(1000)


def test_it_serves_is_registered_and_leaves_nothing(state: Path) -> None:
    with Serving("tcp_floor", shards="2") as server:
        assert server.url.startswith("tcp://127.0.0.1:")
        assert ask(server.url, b"?") == b"?"
        entries = registry.list_processes()
        assert [(entry.pid, entry.role) for entry in entries] == [(pid, "server") for pid in sorted(server.pids)]
        assert len(entries) == 3
    assert registry.list_processes() == []
    assert list(state.iterdir()) == []


def test_auto_is_one_shard_a_core() -> None:
    with Serving("lean") as server:
        assert len(server.pids) == 1 + len(os.sched_getaffinity(0))
        assert ask(server.url, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 426 ")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_inside_ends_it(error: type[BaseException]) -> None:
    with pytest.raises(error), Serving("tcp_floor", shards=1):
        raise error
    assert registry.list_processes() == []


def test_a_server_that_is_killed_says_how_it_ended_and_takes_its_shards_along() -> None:
    with Serving("tcp_floor", shards=1) as server:
        os.kill(server.pids[0], signal.SIGKILL)
        assert server.wait() == "the server ended by itself (signal 9)"
    assert registry.list_processes() == []


def test_shards_that_die_are_told_with_their_signal_and_have_successors_until_they_die_in_a_row() -> None:
    told: list[str] = []

    def say(line: str) -> None:
        told.append(line)
        if "started in its place" in line:
            os.kill(int(line.rpartition("pid ")[2].rstrip(")")), signal.SIGKILL)

    with Serving("tcp_floor", shards=1) as server:
        os.kill(server.pids[1], signal.SIGKILL)
        assert server.wait(say) == "all shards of the server have died"
    died = [line for line in told if "has died" in line]
    assert len(died) > 2
    assert all("signal 9" in line and line.endswith("0 of 1 are left") for line in died)
    assert registry.list_processes() == []


def test_an_interrupt_of_the_callers_terminal_does_not_reach_the_server() -> None:
    with Serving("tcp_floor", shards=1) as server:
        assert os.getsid(server.pids[0]) == server.pids[0] != os.getsid(0)


def test_a_file_of_the_users_does_not_stand_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wslab.py").write_text("raise SystemExit('mine')", "utf-8")
    monkeypatch.chdir(tmp_path)
    with Serving("tcp_floor", shards=1) as server:
        assert server.url


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "apache"}, "server=apache is not accepted: one of lean, tcp_floor"),
        ({"port": 65536}, "port=65536 is not accepted"),
        ({"port": "-1"}, "port=-1 is not accepted"),
        ({"port": "http"}, "port=http is not accepted"),
        ({"host": ""}, "host='' is not accepted"),
        ({"host": "127.0.0.1 "}, "host=127.0.0.1 is not accepted"),
        ({"shards": 0}, "shards=0 is not accepted"),
        ({"shards": "two"}, "shards=two is not accepted"),
        ({"shards": SHARDS_MOST + 1}, "shards=1025 is not accepted"),
        ({"host": "192.0.2.1"}, "cannot listen on 192.0.2.1:0"),
        ({"host": "x" * 70}, "cannot listen on xxxx"),
    ],
)
def test_what_cannot_be_served_is_refused_and_nothing_is_left(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as refused, Serving(**{"kind": "tcp_floor", "shards": 1, **given}):
        pass
    assert str(refused.value).startswith(message)
    assert registry.list_processes() == []


def test_a_port_in_use_is_refused() -> None:
    with Serving("tcp_floor", shards=1) as server:
        port = server.url.rpartition(":")[2]
        with pytest.raises(BadInput, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            Serving("lean", port=port, shards=1).__enter__()


def test_a_server_that_dies_at_once_is_no_fault_of_the_caller(pretended) -> None:
    with (
        pytest.raises(ServerDied, match=r"the server did not start \(exit code 7\)"),
        Serving(pretended("raise SystemExit(7)")),
    ):
        pass
    assert registry.list_processes() == []


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "START_SECONDS", 0.2)
    with (
        pytest.raises(ServerDied, match="the server has said nothing"),
        Serving(pretended("import sys; sys.stdin.read()")),
    ):
        pass
    eventually(lambda: not registry.list_processes())


def test_a_server_that_does_not_end_is_killed(pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "STOP_SECONDS", 0.2)
    stubborn = """
import json, os, signal
print(json.dumps({"event": "ready", "url": "ws://127.0.0.1:1", "pids": [os.getpid()]}), flush=True)
while True:
    signal.pause()
"""
    with Serving(pretended(stubborn)) as server:
        assert server.pids
    assert registry.list_processes() == []
