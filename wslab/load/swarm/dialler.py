"""The dialling half of a swarm worker: open connections on schedule, count every failure by phase and errno.

1. Dialling is a socket, a bind without a port, a connect that does not block, and the request written behind it at
   once: over loopback the handshake of TCP is over by the time connect returns. Where it is not, EPOLLOUT tells.
2. A connection has an entry in `connecting` or `upgrading` only while an answer is due. An open one is its descriptor
   and one byte in `state`.
3. Schedules are open loop: latency counts from when a connection was due. `lag` is how far this process runs behind
   its schedule, which is its own fault and never the server's.
4. When FAILURES_IN_A_ROW attempts have failed and none has succeeded in between, the worker stops dialling: what broke
   is known by then.
5. SO_LINGER 0 from the start: the drain resets every connection, and no TIME_WAIT is left behind.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
from math import log
from select import EPOLLIN, EPOLLOUT
from time import monotonic

from wslab.core.histogram import MAX_SECONDS, MIN_SECONDS, OFFSET, SCALE
from wslab.core.pacer import due, scheduled_at
from wslab.load import scoreboard
from wslab.load.connections import Connections
from wslab.load.prefork import emit
from wslab.load.scoreboard import FAILURE_PHASES, HANDSHAKE, LAG_US, PHASE_DONE, PHASES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wslab.load.swarm.client_slowpath import Exchange
    from wslab.load.swarm.dialects import Parts, Tcp, WebSocket
    from wslab.load.swarm.task import Task

IP_BIND_ADDRESS_NO_PORT = 24
STREAM_NONBLOCKING = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
LINGER_ZERO = struct.pack("ii", 1, 0)
# Dials or messages in one go before replies are looked at.
BURST = 16
FAILURES_IN_A_ROW = 100
# Room for what a peer had to say for itself; an event must fit into one atomic write to a pipe.
DETAIL_CHARS = 200
# A worker that waits for answers looks this often for those that are overdue.
CHECK_SECONDS = 0.25
RAMP_DONE = PHASES.index("ramp")
CONNECT, UPGRADE, ECHO, HOLD = range(len(FAILURE_PHASES))
NONE, HELD, PROVED = range(3)  # values of `state`


class Dialler(Connections):
    """Opens connections.

    A client reads on while it is sending: its peer may echo a long message before it has all of it.

    Args:
        task: what to do.
        index: number of this worker, from 0.
        row: this process's row of the board.
        dialect: what is said on a connection.
    """

    slow_mask = EPOLLIN | EPOLLOUT

    def __init__(self, task: Task, index: int, row: memoryview[int], dialect: WebSocket | Tcp) -> None:
        super().__init__()
        self.task, self.index, self.row, self.dialect = task, index, row, dialect
        # Until the answer is there: (scheduled_at, started_at), and (scheduled_at, started_at, what was said).
        self.connecting: dict[int, tuple[float, float]] = {}
        self.upgrading: dict[int, tuple[float, float, bytes]] = {}
        self.exchanges: dict[int, Exchange | Parts] = {}
        self.state = bytearray(self.epoll.fileno() + task.connections + 64)
        self.dialled = self.open = self.opened = self.failed = self.closed = 0
        self.failures_in_a_row = 0
        self.dialling, self.began = False, 0.0

    def dial_what_is_due(self, now: float) -> float:
        """Dial up to a burst of connections; return the seconds until more are due."""
        task = self.task
        room = task.pending_max - len(self.connecting) - len(self.upgrading)
        left = task.connections - self.dialled
        expected = due(now - self.began, task.rate, task.start_after)
        ready = left if expected is None else min(left, expected - self.dialled)
        for _ in range(min(room, ready, BURST)):
            at = now
            if task.rate is not None:
                at = self.began + scheduled_at(self.dialled, task.rate, task.start_after)
                self.note_lag(now - at)
            self.dialled += 1
            self.dial(at, now)
            if not self.dialling:
                return CHECK_SECONDS
        if self.dialled >= task.connections:
            self.end_of_dialling()
            return CHECK_SECONDS
        if task.rate is None:
            return 0.0 if room > BURST else CHECK_SECONDS
        if ready > BURST and room > BURST:
            return 0.0
        next_at = self.began + scheduled_at(self.dialled, task.rate, task.start_after)
        return min(CHECK_SECONDS, max(0.001, next_at - monotonic()))

    def dial(self, at: float, now: float) -> None:
        """Begin one connection that was due `at`; it may take its time from `now` on, however late it begins."""
        task = self.task
        try:
            dialling = _socket.socket(task.family, STREAM_NONBLOCKING, 0)
            dialling.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, LINGER_ZERO)
            if task.sources:
                if not task.ports_at_bind:
                    dialling.setsockopt(_socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                dialling.bind((task.sources[self.dialled % len(task.sources)], 0))
            error = dialling.connect_ex(task.address if not task.destinations else self.destination())
        except OSError as failure:
            self.fail(CONNECT, failure.errno or 0)
            return
        if error not in (0, errno.EINPROGRESS):
            self.fail(CONNECT, error)
            return
        fd = dialling.detach()
        if fd >= len(self.state):
            self.state.extend(bytes(fd + 64 - len(self.state)))
        hello, remembered = self.dialect.hello()
        try:
            self.epoll.register(fd, EPOLLIN)
        except OSError as failure:
            os.close(fd)
            self.fail(CONNECT, failure.errno or 0, "epoll_ctl")
            return
        try:
            os.write(fd, hello)
        except BlockingIOError:
            self.connecting[fd] = (at, now)
            self.epoll.modify(fd, EPOLLOUT)
        except OSError as failure:
            os.close(fd)
            self.fail(CONNECT, failure.errno or 0)
        else:
            self.upgrading[fd] = (at, now, remembered)

    def destination(self) -> tuple[object, ...]:
        """Return the address of the server that is dialled next, so that every source meets every one of them."""
        return self.task.destinations[self.dialled // max(1, len(self.task.sources)) % len(self.task.destinations)]

    def connected(self, fd: int) -> None:
        """Send the request on a connection that was still under way when it was dialled."""
        hello, remembered = self.dialect.hello()
        self.upgrading[fd] = (*self.connecting.pop(fd), remembered)
        self.epoll.modify(fd, EPOLLIN)
        self.send(fd, hello)

    def answered(self, fd: int, data: bytes) -> None:
        """Judge the answer to an upgrade."""
        if self.dialect.greeted(data, self.upgrading[fd][2]):
            self.opened_one(fd)
        else:
            self.judge_in_full(fd, data)

    def opened_one(self, fd: int) -> None:
        """Count a connection as open."""
        at = self.upgrading.pop(fd)[0]
        self.state[fd] = HELD
        self.open += 1
        self.opened += 1
        self.failures_in_a_row = 0
        self.record(HANDSHAKE, monotonic() - at)

    def judge_in_full(self, fd: int, data: bytes) -> None:
        """Let the library judge an answer that is not known yet, or not whole."""
        if not self.dialect.websocket:
            self.lost(fd, errno.EPROTO, f"unexpected answer {data[:20]!r}")
            return
        exchange: Exchange = self.exchange_of(fd, self.upgrading[fd][2])  # type: ignore[assignment]
        reply = exchange.receive(data)
        if exchange.refusal:
            self.lost(fd, errno.EPROTO, exchange.refusal)
        elif exchange.upgraded:
            self.dialect.remember(exchange.answer)  # type: ignore[union-attr]
            self.opened_one(fd)
            self.attend(fd, exchange, reply)

    def attend(self, fd: int, exchange: Exchange | Parts, reply: bytes) -> None:
        """See to what an exchange has brought on an open connection."""
        raise AssertionError("the talking half defines this")

    def end_of_dialling(self) -> None:
        """Say that the ramp is over once no attempt is under way any more."""
        if not self.connecting and not self.upgrading:
            self.dialling = False
            self.row[PHASE_DONE] = RAMP_DONE

    def exchange_of(self, fd: int, key: bytes | None) -> Exchange | Parts:
        """Return the exchange of a connection in transition, made when there is none yet."""
        if fd not in self.exchanges:
            self.exchanges[fd] = self.dialect.exchange(key, self.task.message_bytes)
        return self.exchanges[fd]

    # Failures.

    def lost(self, fd: int, error: int, detail: str = "") -> None:
        """Close a connection that failed, in whatever phase it is."""
        if self.connecting.pop(fd, None) is not None:
            self.fail(CONNECT, error, detail)
        elif self.upgrading.pop(fd, None) is not None:
            self.fail(UPGRADE, error, detail)
        else:
            self.state[fd] = NONE
            self.open -= 1
            self.closed += 1
            self.count_failure(HOLD, error, detail)
        self.exchanges.pop(fd, None)
        self.unsent.pop(fd, None)
        os.close(fd)

    def fail(self, phase: int, error: int, detail: str = "") -> None:
        """Count an attempt that ended without an open connection."""
        self.failed += 1
        self.failures_in_a_row += 1
        self.count_failure(phase, error, detail)
        if self.failures_in_a_row >= FAILURES_IN_A_ROW and self.dialling:
            self.dialling = False
            self.row[PHASE_DONE] = RAMP_DONE

    def count_failure(self, phase: int, error: int, detail: str = "") -> None:
        """Count a failure by phase and errno, and report the first of its kind."""
        if scoreboard.count_failure(self.row, phase, error):
            emit(
                "failure",
                phase=FAILURE_PHASES[phase],
                errno=error,
                detail=(detail or os.strerror(error))[:DETAIL_CHARS],
            )

    def error_of(self, fd: int) -> int:
        """Return the pending error of a descriptor that epoll calls broken."""
        view = _socket.socket(self.task.family, _socket.SOCK_STREAM, 0, fd)
        error = view.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        view.detach()
        return error or errno.ECONNRESET

    # Figures.

    def record(self, histogram: int, seconds: float) -> None:
        """Add a latency to a histogram of the board; `bucket_of` written out, as this runs for every answer."""
        seconds = MIN_SECONDS if seconds < MIN_SECONDS else seconds if seconds < MAX_SECONDS else MAX_SECONDS
        self.row[histogram + int(log(seconds) * SCALE + OFFSET)] += 1

    def note_lag(self, seconds: float) -> None:
        """Publish how far behind the schedule this worker is, if it is the worst since the recorder looked."""
        lag = int(seconds * 1e6)
        if lag > self.row[LAG_US]:
            self.row[LAG_US] = lag
