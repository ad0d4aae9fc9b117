"""The talking half of a swarm worker: messages on schedule, and the proof that every connection is alive.

A connection has an entry in `waiting` only while an echo is due. The next connection to talk on is found in `state`
with `bytearray.find`, so that no list of connections is kept. Each payload differs from all others of its worker, and
its echo is compared byte for byte.
"""

from __future__ import annotations

import errno
from time import monotonic

from wslab.load.scoreboard import PHASE_DONE, PHASES, ROUNDTRIP
from wslab.load.swarm.dialler import BURST, CHECK_SECONDS, ECHO, HELD, PROVED, Dialler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wslab.load.swarm.client_slowpath import Exchange
    from wslab.load.swarm.dialects import Parts, Tcp, WebSocket
    from wslab.load.swarm.task import Task

VERIFY_DONE = PHASES.index("verify")
HELD_BYTE, PROVED_BYTE = bytes((HELD,)), bytes((PROVED,))
FILLER = bytes(range(256))
# Workers take turns rather than all talking at the same instant: multiples of the golden ratio spread them evenly.
GOLDEN = 0.6180339887


class Talker(Dialler):
    """Sends messages on open connections and checks what comes back."""

    def __init__(self, task: Task, index: int, row: memoryview[int], dialect: WebSocket | Tcp) -> None:
        super().__init__(task, index, row, dialect)
        # An echo that is due: (scheduled_at, started_at, its bytes, its payload).
        self.waiting: dict[int, tuple[float, float, bytes, bytes]] = {}
        self.late: dict[int, bytes] = {}  # payload of an echo that was given up; it may still come
        self.sent = self.received = self.messages_failed = self.messages_unasked = self.verified = 0
        self.talking = self.verifying = False
        self.next_at = 0.0  # when the next message of the hold phase is due
        self.cursor = 0
        self.passes = 1
        self.sought = HELD_BYTE
        self.filler = FILLER * (task.message_bytes // len(FILLER) + 1)

    def start_verifying(self, passes: int) -> None:
        """Begin to prove every open connection by an echo of its own, `passes` times."""
        self.state = self.state.replace(PROVED_BYTE, HELD_BYTE)  # what an earlier round has proved
        self.verified = 0
        self.talking, self.verifying = False, True
        self.passes, self.cursor, self.sought = passes, 0, HELD_BYTE

    def start_talking(self, now: float) -> None:
        """Begin the messages of the hold phase, each worker a different part of an interval later."""
        self.talking, self.cursor = self.task.message_rate > 0, 0
        rate = self.task.message_rate * self.open
        self.next_at = now + (self.index * GOLDEN % 1.0 / rate if rate > 0 else 0.0)

    def talk_as_scheduled(self, now: float) -> float:
        """Send the messages that are due in the hold phase; return the seconds until the next one is."""
        rate = self.task.message_rate * self.open
        if rate <= 0:
            return CHECK_SECONDS
        for _ in range(BURST):
            at = self.next_at
            if at > now:
                return min(CHECK_SECONDS, at - now)
            self.next_at = at + 1 / rate  # Step by step: the rate falls when connections are lost.
            self.note_lag(now - at)
            fd = self.state.find(HELD_BYTE, self.cursor)
            if fd < 0:
                fd = self.state.find(HELD_BYTE)
            self.cursor = fd + 1
            if fd in self.waiting:
                # Its last message is unanswered although a whole round has passed since.
                self.messages_failed += 1
                self.count_failure(ECHO, errno.EBUSY)
            elif fd >= 0:
                self.say(fd, at, now)
        return 0.0

    def verify_more(self, now: float) -> None:
        """Keep the window full of messages, one for each connection and pass, until all are through."""
        while len(self.waiting) < self.task.window:
            fd = self.state.find(self.sought, self.cursor)
            if fd < 0:
                if self.waiting:
                    return
                self.passes -= 1
                self.cursor, self.sought = 0, PROVED_BYTE
                if self.passes <= 0:
                    self.verifying = False
                    self.row[PHASE_DONE] = VERIFY_DONE
                    return
                continue
            self.cursor = fd + 1
            if fd not in self.waiting:  # Else the echo of a message from the hold phase is its proof.
                self.say(fd, now, now)

    def say(self, fd: int, at: float, now: float) -> None:
        """Send one message, unlike any other of this worker, that was due `at`."""
        self.sent += 1
        payload = self.payload(self.sent, fd)
        data, echo = self.dialect.message(payload)
        self.waiting[fd] = (at, now, echo, payload)
        self.send(fd, data)

    def payload(self, number: int, fd: int) -> bytes:
        """Return the payload of this worker's message `number`, sent on connection `fd`."""
        return (b"%d:%d:%d " % (self.index, number, fd) + self.filler)[: self.task.message_bytes]

    def heard(self, fd: int, data: bytes) -> None:
        """Compare what came with the echo that is due; what is not exactly that is looked at in full."""
        due = self.waiting.get(fd)
        if due is None or data != due[2] or fd in self.exchanges:
            self.hear_in_full(fd, data)
            return
        del self.waiting[fd]
        self.echoed(fd, due[0])

    def echoed(self, fd: int, scheduled_at: float) -> None:
        """Count a right echo."""
        self.received += 1
        self.record(ROUNDTRIP, monotonic() - scheduled_at)
        if self.verifying and self.state[fd] == HELD:
            self.state[fd] = PROVED
            self.verified += 1

    def hear_in_full(self, fd: int, data: bytes) -> None:
        """Put together what came in parts, answer pings, notice closes and wrong echoes."""
        exchange = self.exchange_of(fd, None)
        self.attend(fd, exchange, exchange.receive(data))

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
        elif exchange.settled:
            del self.exchanges[fd]

    def judge_message(self, fd: int, message: bytes) -> None:
        """Count a message as the echo that is due, as one that nobody asked for, or as wrong."""
        due = self.waiting.get(fd)
        if due is not None and due[3] == message:
            del self.waiting[fd]
            self.echoed(fd, due[0])
        elif self.late.get(fd) == message:
            del self.late[fd]  # It was counted as failed when it was given up.
        elif due is None or self.said_before(fd, message):
            self.messages_unasked += 1
        else:
            self.waiting.pop(fd, None)
            self.messages_failed += 1
            self.count_failure(ECHO, errno.EBADMSG, f"echo of {len(message)} bytes, not the one that is due")

    def said_before(self, fd: int, message: bytes) -> bool:
        """Tell whether this is a message that was sent on this very connection, and so the echo of an earlier one."""
        parts = message.split(b" ", 1)[0].split(b":")
        number = int(parts[1]) if len(parts) == 3 and parts[1].isdigit() and len(parts[1]) < 20 else 0
        return 0 < number <= self.sent and message == self.payload(number, fd)

    def lost(self, fd: int, error: int, detail: str = "") -> None:
        """Close a connection that failed; the echo that was due on it failed with it."""
        if self.waiting.pop(fd, None) is not None:
            self.messages_failed += 1
        self.late.pop(fd, None)
        if fd not in self.connecting and fd not in self.upgrading and self.state[fd] == PROVED:
            self.verified -= 1
        super().lost(fd, error, detail)

    def give_up_echoes(self, now: float) -> None:
        """Count the echoes that are overdue as failed; their connections stay open, unproved."""
        for fd, (_, started_at, _, payload) in list(self.waiting.items()):
            if now - started_at < self.task.echo_timeout:
                break  # The table is in the order of sending.
            del self.waiting[fd]
            self.late[fd] = payload
            self.messages_failed += 1
            self.count_failure(ECHO, errno.ETIMEDOUT)
