"""Every kind of server holds connections that the swarm opens and proves, says what it holds, and leaves nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from load.rig import DEADLINE_SECONDS, REQUEST, Peer, Program, frame, gone, until
from wslab.core.servers import SERVER_KINDS, ServerKind
from wslab.load import scoreboard as words
from wslab.load.scoreboard import ROLE_SERVER, ROLE_SWARM, Scoreboard
from wslab.load.servers import sharded
from wslab.load.supervisor import COMMAND_MODULE

CONNECTIONS = 200
SHARDS, WORKERS = 2, 1
FOREIGN = [name for name, kind in SERVER_KINDS.items() if kind.command]
# Those with a program of ours around somebody's library; the compiled loops have tests of their own.
WRAPPED = [name for name, kind in SERVER_KINDS.items() if kind.module and name not in ("lean", "tcp_floor")]
FILES = Path(sharded.__file__).parent


def skip_without_needs(kind: ServerKind) -> None:
    """Skip a test, by the name of what is missing, where a kind cannot be started."""
    for need in kind.needs:
        missing = (
            (need.program and shutil.which(need.program) is None)
            or (need.module and importlib.util.find_spec(need.module) is None)
            or (need.path and not (FILES / kind.folder / need.path).exists())
        )
        if missing:
            pytest.skip(f"{kind.name} needs {need.name}")


@contextmanager
def serving(name: str, board: Scoreboard, **options: Any) -> Iterator[tuple[Program, str]]:
    """Run a server of a kind as the supervisor does, with its counters on the board."""
    kind = SERVER_KINDS[name]
    skip_without_needs(kind)
    module = (kind.module or COMMAND_MODULE).removeprefix("wslab.load.")
    spec = {"shards": SHARDS, "board_fd": board.fd, "board_row": 0, **kind.defaults}
    spec |= {"command_line": kind.command, "folder": kind.folder} if kind.command else {}
    with Program.of(module, spec, pass_fds=(board.fd,), **options) as server:
        yield server, server.wait_for("ready")["url"]


@pytest.fixture
def board() -> Iterator[Scoreboard]:
    """Return a scoreboard that a server and a swarm can inherit."""
    board = Scoreboard.create(SHARDS + 1 + WORKERS + 1)
    os.set_inheritable(board.fd, True)
    yield board
    os.close(board.fd)


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.partition("://")[2].partition("/")[0].rpartition(":")
    return host, int(port)


def exchange_messages(peer: Peer) -> None:
    """Open a connection and have all kinds of messages echoed, and a ping answered."""
    peer.upgrade()
    for payload in (b"", b"one", b"x" * (1 << 20)):  # A stage may ask for messages of this size.
        peer.send(frame(2, payload))
        assert peer.frame() == (0x82, payload)
    peer.send(frame(1, "größer".encode()))
    assert peer.frame() == (0x81, "größer".encode())
    peer.send(frame(1, b"in ", fin=False) + frame(0, b"parts"))
    parts = [peer.frame()]
    while not parts[-1][0] & 0x80:
        parts.append(peer.frame())
    assert b"".join(part for _, part in parts) == b"in parts"
    peer.send(frame(9, b"alive?"))
    assert peer.frame() == (0x8A, b"alive?")


@pytest.mark.parametrize("name", [*WRAPPED, *FOREIGN])
def test_what_the_swarm_opens_is_held_and_proved_and_nothing_is_left(board: Scoreboard, name: str) -> None:
    with serving(name, board) as (server, url):
        spec = {"url": url, "connections": CONNECTIONS, "workers": WORKERS, "board_fd": board.fd}
        with Program.of("swarm.master", {**spec, "board_row": SHARDS + 1}, pass_fds=(board.fd,)) as swarm:
            swarm.wait_for("ready")
            for phase in ("ramp", "verify"):
                swarm.tell(phase)
                swarm.wait_for("phase_ended", phase=phase)
            until(lambda: board.total(words.VERIFIED, ROLE_SWARM) == CONNECTIONS)
            assert board.total(words.MESSAGES_FAILED, ROLE_SWARM) == 0
            if name in WRAPPED:
                assert board.total(words.OPEN, ROLE_SERVER) == CONNECTIONS
                assert board.total(words.SENT, ROLE_SERVER) == board.total(words.SENT, ROLE_SWARM) == CONNECTIONS
                assert all(board.row(index)[words.OPEN] for index in range(SHARDS))
            server.tell("drain")
            swarm.tell("drain")
            assert swarm.process.wait(DEADLINE_SECONDS) == 0
        pids = [
            *server.wait_for("ready")["pids"],
            *(event["pid"] for event in server.all_of("process_started")),
        ]
        assert len(pids) >= 1 + SHARDS
        assert server.end() == 0
        assert set(server.stderr().split()) <= {url}
    assert all(map(gone, pids))
    assert board.failures() == {}


@pytest.mark.parametrize("name", [*WRAPPED, *FOREIGN])
def test_messages_of_every_kind_come_back_and_a_ping_is_answered(board: Scoreboard, name: str) -> None:
    with serving(name, board) as (_, url):
        with Peer(address_of(url)) as peer:
            exchange_messages(peer)
            counted = [board.total(word, ROLE_SERVER) for word in (words.OPEN, words.RECEIVED, words.SENT)]
            assert counted == ([1, 5, 5] if name in WRAPPED else [0, 0, 0])
            peer.send(frame(8, b"\x03\xe8"))
            assert peer.rest() == b"\x88\x02\x03\xe8"
        if name in WRAPPED:
            until(lambda: [board.total(word, ROLE_SERVER) for word in (words.OPEN, words.CLOSED)] == [0, 1])


@pytest.mark.parametrize("name", WRAPPED)
def test_a_shard_that_has_used_up_its_descriptors_says_so(board: Scoreboard, name: str) -> None:
    limit = 64
    with serving(name, board, fd_limit=limit) as (_, url):
        peers = [Peer(address_of(url)) for _ in range(SHARDS * limit)]
        try:
            for peer in peers:
                peer.send(REQUEST)
            until(lambda: all(board.row(index)[words.AT_LIMIT] for index in range(SHARDS)))
            until(lambda: SHARDS < board.total(words.OPEN, ROLE_SERVER) < SHARDS * limit)
        finally:
            for peer in peers:
                peer.socket.close()
