"""A server by itself: it serves, it is registered, and it is gone with whoever asked for it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from eventually import eventually
from wslab.core.quantities import BadInput
from wslab.core.servers import SERVER_KINDS, Need, ServerKind
from wslab.core.stage import Stage
from wslab.lab import registry, serving
from wslab.lab.running import check_server
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


LISTENS = """
import sys
from websockets.sync.server import serve
serve(lambda connection: None, sys.argv[1], int(sys.argv[2])).serve_forever()
"""


@pytest.fixture
def commanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a server kind whose command runs a few lines of Python, and returns its name."""

    def command(source: str, **fields: Any) -> str:
        program = tmp_path / "program.py"
        program.write_text(source, "utf-8")
        line = f"{sys.executable} {program} {{host}} {{port}}"
        kind = ServerKind(name="commanded", command=line, folder=str(tmp_path), summary="", **fields)
        monkeypatch.setitem(SERVER_KINDS, "commanded", kind)
        return "commanded"

    return command


def test_a_kind_that_is_a_command_is_served_and_ended_as_well(commanded) -> None:
    with Serving(commanded(LISTENS)) as server:
        assert ask(server.url, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 4")
        keeper, program = server.pids
        assert {entry.pid for entry in registry.list_processes()} == {keeper, program}
        os.kill(program, signal.SIGKILL)
        assert server.wait() == "the server ended by itself (signal 9)"
    assert registry.list_processes() == []


def test_a_command_that_does_not_come_up_is_told_with_its_last_words(commanded) -> None:
    with pytest.raises(BadInput, match=r"exit code 3.*no luck today") as refused:
        Serving(commanded("import sys; print('no luck today'); sys.exit(3)")).__enter__()
    assert "\n" not in str(refused.value)
    assert registry.list_processes() == []


@pytest.mark.parametrize(
    "need", [{"program": "no-such-program"}, {"module": "no_such_module"}, {"path": "no-such-folder/file"}]
)
def test_what_a_kind_needs_is_named_with_the_command_that_installs_it(commanded, tmp_path: Path, need) -> None:
    kind = commanded(LISTENS, needs=(Need(install="fetch it into {folder}", **need),))
    with pytest.raises(BadInput) as refused:
        Serving(kind)
    (name,) = need.values()
    assert name in str(refused.value)
    assert str(refused.value).endswith(f"fetch it into {tmp_path}")
    with pytest.raises(BadInput, match=name):
        check_server(Stage.of(server=kind))


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
