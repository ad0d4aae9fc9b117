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
import struct
import sys
from itertools import chain
from time import monotonic_ns

from wslab.load import scoreboard as board
from wslab.load.engine import cache, state
from wslab.load.engine import swarm_words as loop
from wslab.load.engine.state import CONNECTING, HALF, KEPT, NONE, OPEN, PROVED, SLOW, STATE, UPGRADING, WAITING
from wslab.load.engine.wire_format import ACCEPT_BYTES, BINARY, KEY_BYTES, PING, PONG, header_size, serial_on
from wslab.load.kept import Kept
from wslab.load.precedent import Precedent
from wslab.load.prefork import emit
from wslab.load.swarm.dialects import accept_at
from wslab.load.swarm.task import PING as BY_PING
from wslab.load.swarm.task import PING_BYTES_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wslab.load.swarm.client_slowpath import Exchange
    from wslab.load.swarm.dialects import Parts, Tcp, WebSocket
    from wslab.load.swarm.task import Task

compiled = cache.load("swarm_loop")

FAILURES_IN_A_ROW = 100
# Room for what a peer had to say for itself; an event must fit into one atomic write to a pipe.
DETAIL_CHARS = 200
CONNECT, UPGRADE, ECHO, HOLD = range(len(board.FAILURE_PHASES))
# Workers take turns rather than all talking at the same instant: multiples of the golden ratio spread them evenly.
GOLDEN = 0.6180339887
NS = 1_000_000_000
READ_BYTES = 1 << 16
ANSWER_BYTES = 1 << 14  # a longer answer is left to the library each time
IDLE_MS = 60_000
# Few enough for any server, and enough that no two are alike.
BROADCAST_BYTES_MIN = 16
# So often a part of the connections gets its heartbeat, where the protocol has the client send them.
BEAT_SECONDS = 0.1
# By less than this the times of messages, which are added up in floating point, may come early: the one that would be
# due at the very end of a schedule belongs to the next.
ROUNDING_NS = 1000
# Descriptors of a worker that are no connections, and some to spare.
OTHER_DESCRIPTORS = 1024


class Worker:
    """The event loop of one swarm process, made by the master: `begin` is called in the process itself.

    What is made before the fork is shared by all; a forked process gets its own copy of each page that it writes to,
    and Python writes to every object that it looks at.

    Args:
        task: what to do.
        index: number of this worker, from 0.
        row: the process's row of the scoreboard.
        dialect: what is said on a connection.
        precedent: the answer that one worker has judged good, for all.
        plain: False sends everything through the slow path.
    """

    def __init__(
        self,
        task: Task,
        index: int,
        row: memoryview[int],
        dialect: WebSocket | Tcp,
        precedent: Precedent | None = None,
        *,
        plain: bool = True,
    ) -> None:
        self.task, self.index, self.row, self.dialect = task, index, row, dialect
        self.precedent = precedent or Precedent(ANSWER_BYTES)
        self.kept = Kept()
        self.exchanges: dict[int, Exchange | Parts] = {}
        self.late: dict[int, int] = {}  # number of a message whose echo was given up; it may still come
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        hello, connections = len(dialect.hello), min(limit, task.connections + OTHER_DESCRIPTORS)
        sources = addresses(task.family, [(source, 0) for source in task.sources])
        destinations = addresses(task.family, list(task.destinations) or [task.address])
        memory = state.allocate(
            *(("q", loop.WORDS), ("d", loop.REALS), ("I", 80), ("B", ACCEPT_BYTES), ("B", hello)),
            *(
                ("i", state.EVENTS_PER_WAIT * state.EVENT_WORDS),
                ("B", READ_BYTES),
                ("B", READ_BYTES),
                ("B", ANSWER_BYTES),
            ),
            ("B", state.offsets(state.SWARM_CONNECTION)[1] * connections),
        )
        self.words, self.reals, scratch, accept, self.hello, self.events, self.view, frame, self.answer, table = memory
        self.fields = state.fields(table, state.SWARM_CONNECTION)
        self.states = self.fields["state"]
        self.hello[:] = dialect.hello
        words = self.words
        words[state.WAIT_MS], words[state.TICK_AT] = IDLE_MS, loop.NEVER
        words[state.PLAIN] = plain
        words[loop.ADDRESS_BYTES] = address_bytes(task.family)
        words[loop.FAMILY], words[loop.PORTS_AT_BIND] = task.family, task.ports_at_bind
        words[loop.CONNECTIONS], words[loop.PENDING_MAX], words[loop.WINDOW] = (
            task.connections,
            task.pending_max,
            task.window,
        )
        words[loop.TIMEOUT_NS], words[loop.ECHO_TIMEOUT_NS] = int(task.timeout * NS), int(task.echo_timeout * NS)
        words[loop.KEY_SEED], words[loop.MESSAGE_SEED] = struct.unpack("qq", os.urandom(16))
        words[loop.KEY_AT], words[loop.FIRST_NUMBER] = dialect.key_at, task.first
        by_ping = task.proof == BY_PING
        self.tells = (
            dialect.talk if dialect.talk is not None and dialect.talk.protocol.message and not by_ping else None
        )
        words[loop.TELLS] = self.tells is not None
        if dialect.websocket:
            words[loop.SAYS], words[loop.HEARS] = (PING, PONG) if by_ping else (BINARY, BINARY)
        words[loop.FANS_OUT] = task.broadcast
        words[loop.COUNTS_UNASKED] = by_ping and not dialect.listens
        self.message_bytes = min(task.message_bytes, PING_BYTES_MAX) if by_ping else task.message_bytes
        words[loop.MESSAGE_BYTES] = self.message_bytes
        self.reals[loop.RATE], self.reals[loop.START_AFTER] = task.rate or 0.0, task.start_after
        row[board.MESSAGE_RATE] = round(task.message_rate * NS)
        shared = (words, row, table)
        slots = bytearray(struct.pack(f"{2 * len(dialect.slots)}q", *chain.from_iterable(dialect.slots)))
        self.loop = (compiled.websocket_loop if dialect.websocket else compiled.floor_loop).bind(
            *(words, self.reals, row, table, self.events, self.view, frame),
            *(sources, destinations, self.hello, slots, self.answer, accept, scratch),
        )
        self.open_counted = compiled.open_counted.bind(*shared)
        self.open_if_known = compiled.open_if_known.bind(
            *(*shared, self.view, frame, self.answer, self.hello, accept, scratch)
        )
        self.echo_counted = compiled.echo_counted.bind(*shared)
        self.next_message = compiled.next_message.bind(words, self.reals, row, table, frame)
        self.wait_again = compiled.wait_again.bind(words, table)
        self.untell = compiled.untell.bind(words, self.events)
        self.first_open = compiled.first_open.bind(words, table)
        self.begin_anew = compiled.begin_anew.bind(words, table)
        self.actions: dict[int, Callable[[], object]] = {
            state.BYTES: self.receive_bytes,
            state.WRITABLE: self.flush,
            state.PARTLY_SENT: self.keep_the_rest,
            state.GONE: lambda: self.lost(words[state.FD], words[state.ERROR]),
            state.TICK: self.tick,
            state.SPEAK: self.speak,
            state.DIAL_FAILED: lambda: self.fail(CONNECT, words[state.ERROR], "epoll_ctl" if words[state.SIZE] else ""),
            state.OVERDUE: lambda: self.give_up(words[state.FD]),
        }
        self.heartbeat = dialect.talk.protocol.heartbeat_seconds if dialect.talk is not None else 0.0
        self.beaten = 0  # descriptors that this round of heartbeats is through with
        if self.heartbeat:
            words[state.TICK_NS], words[state.TICK_AT] = int(BEAT_SECONDS * NS), 0
            words[state.WAIT_MS] = int(BEAT_SECONDS * 1000)

    def begin(self, commands: int) -> None:
        """Be the worker of this process.

        Args:
            commands: descriptor that one-byte commands come from; its end means that the master is gone.
        """
        self.commands, self.epoll = commands, select.epoll()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        row, words = self.row, self.words
        words[state.EPOLL], words[state.COMMANDS] = self.epoll.fileno(), commands
        row[board.PID], row[board.ROLE], row[board.TARGET] = os.getpid(), board.ROLE_SWARM, self.task.connections
        row[board.CAPACITY] = limit - self.epoll.fileno() - 1
        if commands >= 0:
            self.epoll.register(commands, select.EPOLLIN)

    def run(self) -> None:
        """Obey commands until the master is gone or says to drain."""
        while self.step() != state.COMMAND or self.obey(os.read(self.commands, 64)):
            pass

    def step(self) -> int:
        """Let the loop run until something is for Python, see to it unless it is a command, and return what it was."""
        reason: int = self.loop()
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
                self.begin_anew(0)
            elif command == "B":
                self.broadcast()
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
        self.words[loop.TALK_UNTIL] = now + seconds - ROUNDING_NS if seconds else loop.NEVER
        self.reals[loop.MESSAGE_RATE] = each
        self.reals[loop.NEXT_AT] = now + (self.index * GOLDEN % 1.0 / rate * NS if rate > 0 else 0.0)

    def broadcast(self) -> None:
        """Send a message that no other is like on the first open connection, for the server to send to all."""
        fd = self.first_open()
        if fd < 0 or self.states[fd] & HALF:
            return
        payload = os.urandom(max(BROADCAST_BYTES_MIN, self.task.message_bytes))
        talk = self.dialect.talk
        if talk is not None and talk.protocol.message:
            frame, expected = talk.message(payload), talk.echo(payload)
        else:
            expected = payload.hex()[: len(payload)].encode()
            frame = self.text_frame(expected.decode())
        self.row[board.BROADCAST_SENT] = compiled.hash_of_message(bytearray(expected))
        self.row[board.BROADCAST_SENT_NS] = monotonic_ns()
        self.send(fd, frame)

    def text_frame(self, text: str) -> bytes:
        """Return the frame of a text message."""
        from wslab.load.swarm.talk import text_frame  # The floor does without the library.

        return text_frame(text)

    def start_verifying(self, passes: int) -> None:
        """Begin to prove every open connection by an echo of its own, `passes` times."""
        self.begin_anew(PROVED)  # by an earlier round
        self.row[board.VERIFIED] = 0
        self.words[loop.TALKING], self.words[loop.VERIFYING] = 0, 1
        self.words[loop.PASSES], self.words[loop.CURSOR], self.words[loop.SOUGHT] = passes, 0, 0

    # The slow path.

    def receive_bytes(self) -> None:
        """Let an exchange have what is not plain."""
        fd, size = self.words[state.FD], self.words[state.SIZE]
        if self.states[fd] == UPGRADING and self.follow_precedent() and self.open_if_known(fd, size):
            return
        data = bytes(self.view[:size])
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
                self.open_counted(fd)
                return
            exchange = self.exchanges[fd] = self.dialect.exchange(self.key(fd), loop.NEVER)
            self.states[fd] |= SLOW
        reply = exchange.receive(data)
        if exchange.entered:
            if not self.dialect.listens:
                self.remember(bytes(exchange.answer))  # type: ignore[union-attr]
            self.open_counted(fd)
            self.attend(fd, exchange, reply)
        elif exchange.upgraded and not exchange.refusal:
            if reply:
                self.send(fd, reply)
            if exchange.closing and fd in self.exchanges:
                self.lost(fd, exchange.error, exchange.farewell)  # type: ignore[union-attr]
        elif exchange.refusal:
            self.lost(fd, errno.EPROTO, exchange.refusal)

    def key(self, fd: int) -> bytes:
        """Return the key that was sent on a connection."""
        key = bytearray(KEY_BYTES)
        compiled.key_of(self.words[loop.KEY_SEED], self.fields["serial"][fd], key)
        return bytes(key)

    def follow_precedent(self) -> bool:
        """Remember what the first worker has judged good, when this one knows nothing; False if that is nothing."""
        if self.words[loop.ANSWER_BYTES] or not self.words[state.PLAIN]:
            return False
        known = self.precedent.known()
        if known is not None:
            self.remember_at(*known)
        return known is not None

    def remember(self, answer: bytes) -> None:
        """Let the loop know an answer that the library has judged good."""
        at = accept_at(answer)
        if at is not None and len(answer) <= len(self.answer):
            if self.index == 0:
                self.precedent.publish(answer, at)
            self.remember_at(answer, at)

    def remember_at(self, answer: bytes, at: int) -> None:
        """Let the loop know an answer whose accept value stands at `at`."""
        self.answer[: len(answer)] = answer
        self.words[loop.ANSWER_BYTES], self.words[loop.ACCEPT_AT] = len(answer), at

    def exchange_of(self, fd: int) -> Exchange | Parts:
        """Return the exchange of an open connection; a new one hears first what the loop has taken of an echo."""
        exchange = self.exchanges.get(fd)
        if exchange is None:
            exchange = self.exchanges[fd] = self.dialect.exchange(None, self.message_bytes)
            self.states[fd] |= SLOW
            got = self.fields["got"]
            if got[fd]:
                exchange.receive(self.part(fd, self.fields["serial"][fd], 0, got[fd]))
                got[fd] = 0
        return exchange

    def part(self, fd: int, serial: int, offset: int, size: int) -> bytes:
        """Return a part of the echo of a connection's message."""
        out = bytearray(size)
        compiled.echo_part(fd, serial, offset, size, self.words, out)
        return bytes(out)

    def payload(self, fd: int, serial: int) -> bytes:
        """Return the payload of a connection's message."""
        header = header_size(self.message_bytes, self.words[loop.HEARS])
        return self.part(fd, serial, header, self.message_bytes)

    def echo(self, fd: int, serial: int) -> bytes:
        """Return what comes back for a connection's message."""
        payload = self.payload(fd, serial)
        return payload if self.tells is None else self.tells.echo(payload)

    def speak(self) -> None:
        """Send a message of the load that the application protocol dresses up."""
        assert self.tells is not None
        fd = self.words[state.FD]
        self.send(fd, self.tells.message(self.payload(fd, self.fields["serial"][fd])))

    def tick(self) -> None:
        """Send heartbeats to the part of the connections whose turn it is."""
        if not self.heartbeat:
            return
        top = self.words[loop.TOP]
        share = 1 + int(top * BEAT_SECONDS / self.heartbeat)
        for fd in range(self.beaten, min(top, self.beaten + share)):
            if self.states[fd] & STATE in (OPEN, WAITING) and not self.states[fd] & HALF:
                self.send(fd, self.dialect.talk.heartbeat())  # type: ignore[union-attr]
        self.beaten = self.beaten + share if self.beaten + share < top else 0

    def said_before(self, fd: int, message: bytes) -> bool:
        """Tell whether this is a message that was sent on this very connection, and so the echo of an earlier one."""
        start = message if self.tells is None else self.tells.payload_start(message)
        serial = serial_on(self.words[loop.MESSAGE_SEED], fd, start)
        if serial is None or not 0 < serial <= self.words[loop.SERIAL]:
            return False
        return message == self.echo(fd, serial)

    def attend(self, fd: int, exchange: Exchange | Parts, reply: bytes) -> None:
        """See to what an exchange has brought on an open connection; drop it when nothing is in transition."""
        by_ping = self.task.proof == BY_PING
        for message in exchange.messages:
            if by_ping:
                self.row[board.MESSAGES_UNASKED] += 1
                if self.task.broadcast:
                    compiled.broadcast_counted(bytearray(message), self.words, self.row)
            else:
                self.judge_message(fd, message)
        exchange.messages.clear()
        if exchange.pongs:
            self.judge_pongs(fd, exchange)  # type: ignore[arg-type]
        if reply:
            self.send(fd, reply)
        if fd not in self.exchanges:
            return  # Sending found the peer gone.
        if exchange.closing:
            self.lost(fd, exchange.error, exchange.farewell)  # type: ignore[union-attr]
            return
        if exchange.settled:
            self.drop_exchange(fd)
        self.act(self.next_message(self.dialect.websocket, fd))

    def judge_message(self, fd: int, message: bytes) -> None:
        """Count a message: the echo that is due, one that comes late or again, one nobody asked for, or a wrong one.

        While an echo is due, a message that is none is a wrong echo when it has the size of the right one. One of
        another size is the server's own where the server has sent such before; else it is a wrong echo too.
        """
        if self.is_due(fd, message):
            return
        row, due = self.row, self.states[fd] & STATE == WAITING
        if self.said_before(fd, message):
            row[board.MESSAGES_UNASKED] += 1
            row[board.MESSAGES_REPEATED] += 1
        elif not due or self.speaks_first(fd, len(message)):
            row[board.MESSAGES_UNASKED] += 1
        else:
            self.wrong_echo(fd, f"echo of {len(message)} bytes, not the one that is due")

    def judge_pongs(self, fd: int, exchange: Exchange) -> None:
        """Count pongs: the one that is due, or a wrong one; others mean nothing (RFC 6455, 5.5.3)."""
        pongs, exchange.pongs = exchange.pongs, []
        for pong in pongs if self.task.proof == BY_PING else ():
            wrong = not self.is_due(fd, pong) and len(pong) == self.message_bytes and not self.said_before(fd, pong)
            if wrong and self.states[fd] & STATE == WAITING:
                self.wrong_echo(fd, f"pong of {len(pong)} bytes, not the one that is due")

    def is_due(self, fd: int, message: bytes) -> bool:
        """Count the echo that is due, or the one that comes after it was given up; tell whether it is one of them."""
        if self.states[fd] & STATE == WAITING and message == self.echo(fd, self.fields["serial"][fd]):
            self.echo_counted(fd)
            return True
        if fd in self.late and message == self.echo(fd, self.late[fd]):
            del self.late[fd]  # It was counted as failed when it was given up.
            return True
        return False

    def speaks_first(self, fd: int, size: int) -> bool:
        """Tell whether a message of this size may be the server's own, as it has sent some that answer nothing."""
        own = self.row[board.MESSAGES_UNASKED] - self.row[board.MESSAGES_REPEATED]
        return own > 0 and size != len(self.echo(fd, self.fields["serial"][fd]))

    def wrong_echo(self, fd: int, detail: str) -> None:
        """Count the message that is due as failed, as something else came back for it."""
        self.no_echo(fd)
        self.count_failure(ECHO, errno.EBADMSG, detail)

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
        self.wait_again(fd)

    def keep_the_rest(self) -> None:
        """Keep what the loop could not send of a request."""
        start, size = self.words[state.START], self.words[state.SIZE]
        self.keep(self.words[state.FD], self.view[start : start + size])

    def flush(self) -> None:
        """Send more of what a slow peer has not taken yet."""
        fd = self.words[state.FD]
        try:
            self.kept.flush(fd)
        except OSError as error:
            self.lost(fd, error.errno or 0)
            return
        if fd not in self.kept:
            self.states[fd] &= ~KEPT & 0xFF
            self.wait_again(fd)

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
        if self.fields["got"][fd]:
            self.exchange_of(fd)
        self.late[fd] = self.fields["serial"][fd]
        self.no_echo(fd)
        self.count_failure(ECHO, errno.ETIMEDOUT)
        self.act(self.next_message(self.dialect.websocket, fd))

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
        self.fields["owed"][fd] = 0
        self.untell(fd)
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


def address_bytes(family: int) -> int:
    """Return the bytes of a socket address as the kernel takes it."""
    return 16 if family == _socket.AF_INET else 28


def addresses(family: int, pairs: list[tuple[object, ...]]) -> bytearray:
    """Return socket addresses as the kernel takes them, one behind the other.

    Args:
        family: AF_INET or AF_INET6.
        pairs: host, port and for IPv6 perhaps flow and scope, as `socket.connect` takes them.
    """
    table = bytearray()
    for host, port, *more in pairs:
        flow, scope = (*more, 0, 0)[:2]
        packed = family.to_bytes(2, sys.byteorder) + int(port).to_bytes(2, "big")  # type: ignore[call-overload]
        if family == _socket.AF_INET:
            packed += _socket.inet_pton(family, host)  # type: ignore[arg-type]
        else:
            packed += flow.to_bytes(4, "big") + _socket.inet_pton(family, host) + scope.to_bytes(4, sys.byteorder)  # type: ignore
        table += packed.ljust(address_bytes(family), b"\0")
    return table
