"""Start a server as one listening socket and a crew of shards that share it."""

from __future__ import annotations

import os
import socket
import sys
from time import monotonic

from wslab.load.prefork import Crew, emit, read_spec, settle
from wslab.load.scoreboard import ROLE_SERVER, Scoreboard, vacate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BACKLOG = 4096
# A shard that died has a successor after this many seconds; twice as many each time that it dies again within CALM.
RESTART_SECONDS, CALM_SECONDS = 0.1, 10.0
RESTARTS_IN_A_ROW = 4


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """Return a non-blocking listening socket; accepted connections inherit its TCP_NODELAY."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind((host, port))
    listener.listen(backlog)
    listener.setblocking(False)
    return listener


class Shards:
    """What the shards of one kind of server do, and what their master does for them; kinds derive from it.

    Args:
        listener: the listening socket, which shards inherit, non-blocking.
        spec: what the server was started with.
    """

    def __init__(self, listener: socket.socket, spec: dict[str, Any]) -> None:
        self.listener, self.spec = listener, spec

    def run(self, index: int, lifeline: int, row: memoryview[int]) -> None:
        """Serve, in the process of shard `index`, until the lifeline ends; count in `row` of the scoreboard."""
        raise NotImplementedError

    def started(self) -> bool:
        """Return, once all shards are forked, whether they can be connected to."""
        return True

    def died(self, index: int) -> None:
        """Note that a shard is dead."""

    def succeeded(self, index: int) -> None:
        """Note that a dead shard is about to have a successor."""


def serve(
    load: Callable[[], type[Shards]], *, scheme: str = "ws", open_listener: Callable[..., socket.socket] = listen
) -> int:
    """Run a server as its SPEC says, until standard input ends; return the exit status.

    The SPEC: `host`, `port` (0 = any free one), `shards`, `backlog`, what the kind itself understands, and `board_fd`,
    `board_row` where a supervisor keeps the counters; `uid` is the user to serve as; with `restart`, a shard that dies
    has a successor. The one command is `drain`: the clients are about to reset their connections.
    One line `{"event": "ready", "url", "pids"}` says that it accepts.

    Args:
        load: imports what the shards need and returns their class.
        scheme: of the URL.
        open_listener: takes host, port and backlog and returns the socket that shards inherit.
    """
    spec = read_spec()
    try:
        # Before the fork, so that all shards share it, and before another user takes over, who may not read it.
        kind = load()
    except ImportError as error:
        emit("error", message=f"the server cannot start: {error}")
        return 1
    settle(spec.get("uid"))
    host, port, count = spec.get("host", "127.0.0.1"), spec.get("port", 0), spec.get("shards", 1)
    try:
        listener = open_listener(host, port, spec.setdefault("backlog", BACKLOG))
    except (OSError, OverflowError, UnicodeError) as error:
        emit("error", message=f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}")
        return 1
    fd, first = spec.get("board_fd"), spec.get("board_row", 0)
    board = Scoreboard.create(first + count + 1) if fd is None else Scoreboard.attach(fd)
    shards = kind(listener, spec)

    def work(index: int, lifeline: int) -> None:
        shards.run(index, lifeline, board.enter(first + index, ROLE_SERVER))

    def on_crash(index: int) -> None:
        vacate(board.row(first + index))
        shards.died(index)
        if spec.get("restart"):
            successors.died(index)

    crew = Crew(work, on_crash)
    successors = Successors(crew, shards.succeeded)
    try:
        crew.fork(count)
    except OSError as error:
        emit("error", message=f"cannot start shard {len(crew.pids) + 1} of {count}: {error.strerror}")
        crew.stop()
        return 1
    board.enter(first + count, ROLE_SERVER)  # The master's own row, for its memory and CPU time belong to the server.
    if not shards.started():
        emit("error", message=f"a shard of the server cannot listen on {host}:{port}")
        crew.stop()
        return 1
    address = listener.getsockname()
    if not spec.get("restart"):
        listener.close()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    emit("ready", url=f"{scheme}://{shown}:{address[1]}", pids=[os.getpid(), *crew.pids])
    crew.watch(lambda command: crew.tell(b"D") if command["cmd"] == "drain" else None, successors.start_those_due)
    all_died = not crew.watched
    crew.stop()
    return 1 if all_died else 0


class Successors:
    """Starts a shard in the place of one that died, later each time that it dies again soon.

    Args:
        crew: the shards.
        on_start: called with the index of a shard before its successor is forked.
    """

    def __init__(self, crew: Crew, on_start: Callable[[int], None]) -> None:
        self.crew, self.on_start = crew, on_start
        self.due: dict[int, float] = {}  # index -> when its successor is to be started
        self.deaths: dict[int, tuple[int, float]] = {}  # index -> how often in a row, and when last

    def died(self, index: int) -> None:
        """Plan the successor of a shard, or say that it has had too many."""
        now = monotonic()
        count, last = self.deaths.get(index, (0, 0.0))
        count = count + 1 if now - last < CALM_SECONDS else 1
        self.deaths[index] = count, now
        if count > RESTARTS_IN_A_ROW:
            emit("error", message=f"shard {index + 1} died {count} times in a row and is not started again")
            return
        self.due[index] = now + RESTART_SECONDS * 2 ** (count - 1)

    def start_those_due(self) -> float | None:
        """Start whom it is time for; return the seconds until the next one is due, None when there is none."""
        now = monotonic()
        for index in [index for index, at in self.due.items() if at <= now]:
            del self.due[index]
            self.on_start(index)
            try:
                emit("process_started", pid=self.crew.fork_member(index))
            except OSError as error:
                emit("error", message=f"cannot start shard {index + 1} again: {error.strerror}")
                self.died(index)
        return max(0.0, min(self.due.values()) - now) if self.due else None


def main(load: Callable[[], type[Shards]], **options: Any) -> None:
    """Run `serve` as a program."""
    sys.exit(serve(load, **options))
