"""One process of the swarm: the compiled loop, the commands of the master, and the slow path.

1. An open connection is its descriptor and a record of 40 bytes; see `wslab.load.engine.swarm_loop`. What is not
   plain on it goes through an exchange, which is dropped when nothing is in transition.
2. All failures are counted here, in `count_failure`, by phase and errno; the first of a kind is reported.
3. When FAILURES_IN_A_ROW attempts have failed and none has succeeded in between, the worker stops dialling: what broke
   is known by then.
"""

from __future__ import annotations

import _socket
import errno
import os
import resource
import select
import sys
from time import monotonic_ns

import numpy as np

from wslab.load import scoreboard as board
from wslab.load.engine import cache, state
from wslab.load.engine.state import CONNECTING, HALF, KEPT, NONE, OPEN, PROVED, SLOW, STATE, UPGRADING, WAITING
from wslab.load.kept import Kept
from wslab.load.prefork import emit
from wslab.load.swarm.dialects import ACCEPT_BYTES, KEY_BYTES, accept_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wslab.load.swarm.client_slowpath import Exchange
    from wslab.load.swarm.dialects import Parts, Tcp, WebSocket
    from wslab.load.swarm.task import Task

loop = cache.load("swarm_loop")

FAILURES_IN_A_ROW = 100
# Room for what a peer had to say for itself; an event must fit into one atomic write to a pipe.
DETAIL_CHARS = 200
CONNECT, UPGRADE, ECHO, HOLD = range(len(board.FAILURE_PHASES))
# Workers take turns rather than all talking at the same instant: multiples of the golden ratio spread them evenly.
GOLDEN = 0.6180339887
NS = 1_000_000_000
READ_BYTES = 1 << 16
IDLE_MS = 60_000
# Descriptors of a worker that are no connections, and some to spare.
OTHER_DESCRIPTORS = 1024


class Worker:
    """The event loop of one swarm process.

    Args:
        task: what to do.
        index: number of this worker, from 0.
        commands: descriptor that one-byte commands come from; its end means that the master is gone.
        row: this process's row of the scoreboard.
        dialect: what is said on a connection.
        plain: False sends everything through the slow path.
    """

    def __init__(
        self,
        task: Task,
        index: int,
        commands: int,
        row: memoryview[int],
        dialect: WebSocket | Tcp,
        *,
        plain: bool = True,
    ) -> None:
        self.task, self.index, self.commands, self.row, self.dialect = task, index, commands, row, dialect
        self.kept = Kept()
        self.exchanges: dict[int, Exchange | Parts] = {}
        self.late: dict[int, int] = {}  # number of a message whose echo was given up; it may still come
        self.epoll = select.epoll()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        row[board.PID], row[board.ROLE], row[board.TARGET] = os.getpid(), board.ROLE_SWARM, task.connections
        row[board.CAPACITY] = limit - self.epoll.fileno() - 1
        self.words = words = state.words(loop.WORDS)
        words[state.EPOLL], words[state.COMMANDS] = self.epoll.fileno(), commands
        words[state.WAIT_MS], words[state.TICK_AT] = IDLE_MS, loop.NEVER
        words[state.PLAIN] = plain
        words[loop.FAMILY], words[loop.PORTS_AT_BIND] = task.family, task.ports_at_bind
        words[loop.CONNECTIONS], words[loop.PENDING_MAX], words[loop.WINDOW] = (
            task.connections,
            task.pending_max,
            task.window,
        )
        words[loop.TIMEOUT_NS], words[loop.ECHO_TIMEOUT_NS] = int(task.timeout * NS), int(task.echo_timeout * NS)
        words[loop.KEY_SEED], words[loop.MESSAGE_SEED] = np.frombuffer(os.urandom(16), np.int64)
        words[loop.HELLO_BYTES], words[loop.KEY_AT] = len(dialect.hello), dialect.key_at
        words[loop.MESSAGE_BYTES] = task.message_bytes
        self.reals = np.zeros(loop.REALS, np.float64)
        self.reals[loop.RATE], self.reals[loop.START_AFTER] = task.rate or 0.0, task.start_after
        row[board.MESSAGE_RATE] = round(task.message_rate * NS)
        self.table = np.zeros(min(limit, task.connections + OTHER_DESCRIPTORS), state.SWARM_CONNECTION)
        self.states = self.table["state"]
        self.events = np.zeros(state.EVENTS_PER_WAIT * loop.EVENT_WORDS, np.int32)
        self.buffer, self.frame = np.zeros(READ_BYTES, np.uint8), np.zeros(READ_BYTES, np.uint8)
        self.view = self.buffer.data
        self.answer = np.zeros(READ_BYTES, np.uint8)
        sources = addresses(task.family, [(source, 0) for source in task.sources])
        destinations = addresses(task.family, list(task.destinations) or [task.address])
        words[loop.ADDRESS_BYTES] = destinations.shape[1]
        self.shared = (words, np.frombuffer(row, np.int64), self.table)
        self.arguments = (
            *(words, self.reals, self.shared[1], self.table, self.events, self.buffer, self.frame),
            *(sources, destinations, np.frombuffer(dialect.hello, np.uint8).copy(), self.answer),
            *(np.zeros(ACCEPT_BYTES, np.uint8), np.zeros(80, np.uint32)),
        )
        self.loop = loop.websocket_loop if dialect.websocket else loop.floor_loop
        self.actions: dict[int, Callable[[], object]] = {
            state.BYTES: self.receive_bytes,
            state.WRITABLE: self.flush,
            state.PARTLY_SENT: self.keep_the_rest,
            state.GONE: lambda: self.lost(int(words[state.FD]), int(words[state.ERROR])),
            state.TICK: lambda: None,
            state.DIAL_FAILED: lambda: self.fail(
                CONNECT, int(words[state.ERROR]), "epoll_ctl" if words[state.SIZE] else ""
            ),
            state.OVERDUE: lambda: self.give_up(int(words[state.FD])),
        }
        if commands >= 0:
            self.epoll.register(commands, select.EPOLLIN)

    def run(self) -> None:
        """Obey commands until the master is gone or says to drain."""
        while self.step() != state.COMMAND or self.obey(os.read(self.commands, 64)):
            pass

    @classmethod
    def rehearse(cls, task: Task, dialect: WebSocket | Tcp) -> None:
        """Call the loop once, before workers are forked.

        The first call with arrays of a new type makes Numba look into its types, which would cost each worker 7 MB of
        pages that it shares otherwise.
        """
        worker = cls(task, 0, -1, memoryview(bytearray(8 * board.ROW_WORDS)).cast("Q"), dialect)
        worker.words[state.TICK_AT] = worker.words[state.WAIT_MS] = 0
        worker.step()
        worker.epoll.close()

    def step(self) -> int:
        """Let the loop run until something is for Python, see to it unless it is a command, and return what it was."""
        reason: int = self.loop(*self.arguments)
        if reason != state.COMMAND:
            self.actions[reason]()
        return reason

    def act(self, reason: int) -> None:
        """See to what a helper of the loop has for Python; below 0 it is nothing."""
        if reason >= 0:
            self.actions[reason]()

    # Commands.

    def obey(self, commands: bytes) -> bool:
        """Carry out commands; False when it is time to go."""
        for command in map(chr, commands):
            if command == "R":
                self.words[loop.BEGAN] = monotonic_ns()
                self.words[loop.DIALLING] = 1
            elif command == "H":
                self.halt()
            elif command == "T":
                self.start_talking()
            elif command == "Q":
                self.words[loop.TALKING] = 0
                self.table["owed"] = 0
            elif command == "D":
                return False
            else:
                self.start_verifying(int(command))
        return bool(commands)

    def halt(self) -> None:
        """Dial no more; the ramp is over once the attempts under way are."""
        if self.words[loop.DIALLING]:
            self.words[loop.CONNECTIONS] = self.words[loop.DIALLED]
        else:
            self.row[board.PHASE_DONE] = loop.RAMP_DONE

    def start_talking(self) -> None:
        """Begin messages at the rate that stands in the row, each worker a different part of an interval later."""
        each, seconds, now = self.row[board.MESSAGE_RATE] / NS, self.row[board.TALK_NS], monotonic_ns()
        rate = each * self.row[board.OPEN]
        self.words[loop.TALKING] = each > 0
        self.words[loop.TALK_UNTIL] = now + seconds if seconds else loop.NEVER
        self.reals[loop.MESSAGE_RATE] = each
        self.reals[loop.NEXT_AT] = now + (self.index * GOLDEN % 1.0 / rate * NS if rate > 0 else 0.0)

    def start_verifying(self, passes: int) -> None:
        """Begin to prove every open connection by an echo of its own, `passes` times."""
        self.states &= ~PROVED & 0xFF  # what an earlier round has proved
        self.table["owed"] = 0
        self.row[board.VERIFIED] = 0
        self.words[loop.TALKING], self.words[loop.VERIFYING] = 0, 1
        self.words[loop.PASSES], self.words[loop.CURSOR], self.words[loop.SOUGHT] = passes, 0, 0

    # The slow path.

    def receive_bytes(self) -> None:
        """Let an exchange have what is not plain."""
        fd, data = int(self.words[state.FD]), bytes(self.view[: self.words[state.SIZE]])
        if self.states[fd] & STATE == UPGRADING:
            self.judge_answer(fd, data)
        else:
            exchange = self.exchange_of(fd)
            self.attend(fd, exchange, exchange.receive(data))

    def judge_answer(self, fd: int, data: bytes) -> None:
        """Let the library judge an answer that is not known yet, or not whole."""
        exchange = self.exchanges.get(fd)
        if exchange is None:
            if not self.dialect.websocket and data == self.dialect.hello:
                loop.open_counted(fd, *self.shared)
                return
            exchange = self.exchanges[fd] = self.dialect.exchange(self.key(fd), loop.NEVER)
            self.states[fd] |= SLOW
        reply = exchange.receive(data)
        if exchange.upgraded:
            self.remember(bytes(exchange.answer))  # type: ignore[union-attr]
            loop.open_counted(fd, *self.shared)
            self.attend(fd, exchange, reply)
        elif exchange.refusal:
            self.lost(fd, errno.EPROTO, exchange.refusal)

    def key(self, fd: int) -> bytes:
        """Return the key that was sent on a connection."""
        key = np.zeros(KEY_BYTES, np.uint8)
        loop.key_of(self.words[loop.KEY_SEED], self.table[fd]["serial"], key, 0)
        return bytes(key)

    def remember(self, answer: bytes) -> None:
        """Let the loop know an answer that the library has judged good."""
        at = accept_at(answer)
        if at is not None and len(answer) <= len(self.answer):
            self.answer[: len(answer)] = np.frombuffer(answer, np.uint8)
            self.words[loop.ANSWER_BYTES], self.words[loop.ACCEPT_AT] = len(answer), at

    def exchange_of(self, fd: int) -> Exchange | Parts:
        """Return the exchange of an open connection; a new one hears first what the loop has taken of an echo."""
        exchange = self.exchanges.get(fd)
        if exchange is None:
            exchange = self.exchanges[fd] = self.dialect.exchange(None, self.task.message_bytes)
            self.states[fd] |= SLOW
            record = self.table[fd]
            if record["got"]:
                exchange.receive(self.part(fd, int(record["serial"]), 0, int(record["got"])))
                record["got"] = 0
        return exchange

    def part(self, fd: int, serial: int, offset: int, size: int) -> bytes:
        """Return a part of the echo of a connection's message."""
        out = np.zeros(size, np.uint8)
        loop.echo_part(self.words, fd, serial, self.dialect.websocket, offset, size, out)
        return bytes(out)

    def payload(self, fd: int, serial: int) -> bytes:
        """Return the payload of a connection's message."""
        header = loop.header_size(self.task.message_bytes, self.dialect.websocket)
        return self.part(fd, serial, header, self.task.message_bytes)

    def said_before(self, fd: int, message: bytes) -> bool:
        """Tell whether this is a message that was sent on this very connection, and so the echo of an earlier one."""
        serial = loop.serial_on(self.words, fd, message)
        if serial is None or not 0 < serial <= self.words[loop.SERIAL]:
            return False
        return message == self.payload(fd, serial)

    def attend(self, fd: int, exchange: Exchange | Parts, reply: bytes) -> None:
        """See to what an exchange has brought on an open connection; drop it when nothing is in transition."""
        for message in exchange.messages:
            self.judge_message(fd, message)
        exchange.messages.clear()
        if reply:
            self.send(fd, reply)
        if fd not in self.exchanges:
            return  # Sending found the peer gone.
        if exchange.closing:
            self.lost(fd, exchange.error, exchange.farewell)  # type: ignore[union-attr]
            return
        if exchange.settled:
            self.drop_exchange(fd)
        self.act(loop.next_message(self.dialect.websocket, fd, self.words, self.reals, *self.shared[1:], self.frame))

    def judge_message(self, fd: int, message: bytes) -> None:
        """Count a message: the echo that is due, one that comes late, one nobody asked for, or a wrong one."""
        due = self.states[fd] & STATE == WAITING
        if due and message == self.payload(fd, int(self.table[fd]["serial"])):
            loop.echo_counted(fd, *self.shared)
        elif fd in self.late and message == self.payload(fd, self.late[fd]):
            del self.late[fd]  # It was counted as failed when it was given up.
        elif not due or self.said_before(fd, message):
            self.row[board.MESSAGES_UNASKED] += 1
        else:
            self.no_echo(fd)
            self.count_failure(ECHO, errno.EBADMSG, f"echo of {len(message)} bytes, not the one that is due")

    def drop_exchange(self, fd: int) -> None:
        """Forget the exchange of a connection."""
        if self.exchanges.pop(fd, None) is not None:
            self.states[fd] &= ~SLOW & 0xFF

    def send(self, fd: int, data: bytes) -> None:
        """Send what the peer takes now, behind what waits for it already, and keep the rest."""
        if not self.states[fd] & (KEPT | HALF):
            try:
                sent = os.write(fd, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.lost(fd, error.errno or 0)
                return
            if sent == len(data):
                return
            data = data[sent:]
        self.keep(fd, data)

    def keep(self, fd: int, data: bytes | memoryview) -> None:
        """Keep bytes until the peer takes them; it is read from meanwhile, as it may echo before it has all."""
        self.kept.add(fd, data)
        self.states[fd] |= KEPT
        loop.wait_again(fd, self.words, self.table)

    def keep_the_rest(self) -> None:
        """Keep what the loop could not send of a request."""
        start, size = int(self.words[state.START]), int(self.words[state.SIZE])
        self.keep(int(self.words[state.FD]), self.view[start : start + size])

    def flush(self) -> None:
        """Send more of what a slow peer has not taken yet."""
        fd = int(self.words[state.FD])
        try:
            self.kept.flush(fd)
        except OSError as error:
            self.lost(fd, error.errno or 0)
            return
        if fd not in self.kept:
            self.states[fd] &= ~KEPT & 0xFF
            loop.wait_again(fd, self.words, self.table)

    # Failures.

    def no_echo(self, fd: int) -> None:
        """Count the message whose echo is due as failed."""
        self.states[fd] = OPEN | (self.states[fd] & (~STATE & 0xFF))
        self.words[loop.DUE] -= 1
        self.row[board.MESSAGES_FAILED] += 1

    def give_up(self, fd: int) -> None:
        """End what has waited too long for an answer; after a missing echo the connection stays open, unproved."""
        if self.states[fd] & STATE != WAITING:
            self.lost(fd, errno.ETIMEDOUT)
            return
        if self.table[fd]["got"]:
            self.exchange_of(fd)
        self.late[fd] = int(self.table[fd]["serial"])
        self.no_echo(fd)
        self.count_failure(ECHO, errno.ETIMEDOUT)
        self.act(loop.next_message(self.dialect.websocket, fd, self.words, self.reals, *self.shared[1:], self.frame))

    def lost(self, fd: int, error: int, detail: str = "") -> None:
        """Close a connection that failed, in whatever phase it is; the echo that was due on it failed with it."""
        what, row = self.states[fd] & STATE, self.row
        if what == WAITING:
            self.no_echo(fd)
        if self.states[fd] & PROVED:
            row[board.VERIFIED] -= 1
        self.exchanges.pop(fd, None)
        self.late.pop(fd, None)
        self.kept.drop(fd)
        self.states[fd] = NONE
        self.table[fd]["owed"] = 0
        # The kernel may have told of it already, and the descriptor may be another connection by then.
        told = self.events[loop.EVENT_FD :: loop.EVENT_WORDS][self.words[state.NEXT] : self.words[state.EVENTS]]
        told[told == fd] = -1
        os.close(fd)
        if what in (CONNECTING, UPGRADING):
            row[board.PENDING] -= 1
            self.fail(CONNECT if what == CONNECTING else UPGRADE, error, detail)
        else:
            row[board.OPEN] -= 1
            row[board.CLOSED] += 1
            self.count_failure(HOLD, error, detail)

    def fail(self, phase: int, error: int, detail: str = "") -> None:
        """Count an attempt that ended without an open connection."""
        self.row[board.FAILED] += 1
        self.words[loop.FAILURES_IN_A_ROW] += 1
        self.count_failure(phase, error, detail)
        if self.words[loop.FAILURES_IN_A_ROW] >= FAILURES_IN_A_ROW and self.words[loop.DIALLING]:
            self.halt()

    def count_failure(self, phase: int, error: int, detail: str = "") -> None:
        """Count a failure by phase and errno, and report the first of its kind."""
        if board.count_failure(self.row, phase, error):
            emit(
                "failure",
                phase=board.FAILURE_PHASES[phase],
                errno=error,
                detail=(detail or os.strerror(error))[:DETAIL_CHARS],
            )


def addresses(family: int, pairs: list[tuple[object, ...]]) -> np.ndarray:
    """Return socket addresses as the kernel takes them, shape `(len(pairs), bytes of one)`.

    Args:
        family: AF_INET or AF_INET6.
        pairs: host, port and for IPv6 perhaps flow and scope, as `socket.connect` takes them.
    """
    size = 16 if family == _socket.AF_INET else 28
    table = np.zeros((len(pairs), size), np.uint8)
    for row, (host, port, *more) in zip(table, pairs, strict=True):
        flow, scope = (*more, 0, 0)[:2]
        packed = family.to_bytes(2, sys.byteorder) + int(port).to_bytes(2, "big")  # type: ignore[call-overload]
        if family == _socket.AF_INET:
            packed += _socket.inet_pton(family, host)  # type: ignore[arg-type]
        else:
            packed += flow.to_bytes(4, "big") + _socket.inet_pton(family, host) + scope.to_bytes(4, sys.byteorder)  # type: ignore
        row[: len(packed)] = np.frombuffer(packed, np.uint8)
    return table
