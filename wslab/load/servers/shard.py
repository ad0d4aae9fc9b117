"""One shard of a server: the compiled loop, and the slow path for what the loop hands out.

What a shard knows of an idle connection is its descriptor and 16 bytes in an array; there is no object, no dictionary
entry and no buffer for it. Only a connection in transition has more:

1. A connection that is not upgraded yet has `greeting_seconds` for it.
2. Bytes that the peer has not taken yet are kept. While there are any, nothing more is read from that peer, which
   bounds them; a peer that takes none of them for `send_seconds` is closed.
3. A large message that comes or goes in parts has a block of memory of its own in the loop, until it has gone.
4. A connection that needs more than the fast path has a `Conversation`, dropped when nothing is in transition.
5. A connection that we leave is half-closed and waits for its peer's end, at most LEAVING_SECONDS.

All that peers make a shard keep has one budget, `memory_bytes`. When it is exceeded, those that hold the most are
closed: with close code 1009, or status 503 before the upgrade.
"""

from __future__ import annotations

import mmap
import os
import resource
import select
import socket
from collections import deque
from time import monotonic_ns

from wslab.load.engine import cache, state
from wslab.load.engine import server_words as loop
from wslab.load.engine.state import BLOCK, KEPT, LEAVING, SLOW, STATE, UPGRADING
from wslab.load.engine.wire_format import KEY_BYTES
from wslab.load.kept import Kept
from wslab.load.precedent import Precedent
from wslab.load.scoreboard import (
    CAPACITY,
    CLOSED,
    FAILED,
    FAILURE_PHASES,
    PENDING,
    PID,
    RECEIVED,
    ROLE,
    ROLE_SERVER,
    SENT,
    count_failure,
)
from wslab.load.scoreboard import (
    OPEN as OPEN_COUNT,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wslab.load.servers.conversation import Conversation

compiled = cache.load("server_loop")

GREETING_SECONDS = 10.0
SEND_SECONDS = 60.0
LEAVING_SECONDS = 2.0
TICK_SECONDS = 1.0
MEMORY_BYTES = 256 << 20
MEMORY_MIN = 4 << 20  # one message and its echo, and some more
# Shedding goes on until so much of the budget is in use, so that it is not done again for the next byte.
SHED_DOWN_TO = 0.75
# Freed memory is given back to the machine when a shard kept as much as this since it last did.
RETURN_BYTES = 4 << 20
MMAP_BYTES = 1 << 17
# Descriptors that stay free for the interpreter (an import, a traceback) when a shard is full.
FDS_KEPT_FREE = 16
# Records for so many descriptors at most: address space, and pages only for those that are used.
TABLE_MAX = 1 << 22
# A message of the largest size that a conversation takes, and its header.
MAIL_BYTES_MAX = (1 << 20) + 10
NS = 1_000_000_000
CONNECT = FAILURE_PHASES.index("connect")

KEY_HEADER = b"\r\nSec-WebSocket-Key: "
TIMEOUT_ANSWER = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Door:
    """What the shards of one server share besides the scoreboard: who accepts, how to wake the others, a good request.

    Args:
        shards: how many there are.
        fan_out: a message goes to every connection of every shard; `boxes` then has a pair of sockets for each.
    """

    def __init__(self, shards: int, *, fan_out: bool = False) -> None:
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        self.boxes = [socket.socketpair(socket.AF_UNIX, kind) for _ in range(shards)] if fan_out else []
        self.shards = shards
        self.words = memoryview(mmap.mmap(-1, 8 * 3 * shards)).cast("q", (3, shards))
        self.waker = os.eventfd(0, os.EFD_NONBLOCK)
        self.request = Precedent(loop.KNOWN_BYTES)

    def lock(self, index: int) -> None:
        """Note that a shard is dead, and let all others look whether it is their turn."""
        self.words[loop.ROOM, index] = loop.DEAD
        self.words[loop.AT_THE_DOOR, index] = 0
        os.eventfd_write(self.waker, 1)

    def unlock(self, index: int) -> None:
        """Note that a dead shard is about to have a successor."""
        self.words[loop.ROOM, index] = loop.FREE


class Shard:
    """The event loop of one server process, made by the master: `begin` is called in the process itself.

    What is made before the fork is shared by all; a forked process gets its own copy of each page that it writes to,
    and Python writes to every object that it looks at.

    Args:
        listener: the listening socket that all shards share, non-blocking.
        row: the process's row of the scoreboard.
        websocket: speak WebSocket; else echo bytes, of which the first opens a connection.
        index, door: number of this shard, and what it shares with the others.
        greeting_seconds: how long a connection may take to be upgraded.
        send_seconds: how long a peer may take nothing of what is sent to it.
        memory_bytes: how much peers may make this shard keep.
        plain: False sends everything through the slow path.
    """

    def __init__(
        self,
        listener: socket.socket,
        row: memoryview[int],
        *,
        websocket: bool = True,
        index: int = 0,
        door: Door | None = None,
        greeting_seconds: float = GREETING_SECONDS,
        send_seconds: float = SEND_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        plain: bool = True,
    ) -> None:
        self.listener, self.row = listener, row
        self.greeting_ns, self.send_ns = int(greeting_seconds * NS), int(send_seconds * NS)
        self.memory_bytes = memory_bytes
        self.door = door or Door(1)
        if websocket:
            from wslab.load.servers.conversation import Conversation

            self.converse = Conversation
        self.kept = Kept()
        self.taken_at: dict[int, int] = {}  # when a slow peer last took something, ns
        self.conversations: dict[int, Conversation] = {}
        self.conversation_bytes = 0
        self.most_bytes = 0  # kept at any time since memory was last given back
        self.accepted_before = -1  # by the others, at the last tick
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        record = state.offsets(state.SERVER_CONNECTION)[1]
        memory = state.allocate(
            *(("q", loop.WORDS), ("I", 80), ("B", len(loop.ANSWER)), ("i", state.EVENTS_PER_WAIT * state.EVENT_WORDS)),
            *(("q", 2 * loop.KNOWN_REQUESTS), ("B", state.READ_BYTES), ("B", loop.KNOWN_REQUESTS * loop.KNOWN_BYTES)),
            ("B", record * min(soft, TABLE_MAX)),
        )
        self.words, scratch, answer, self.events, self.known_sizes, self.view, self.known, self.table = memory
        self.fields = state.fields(self.table, state.SERVER_CONNECTION)
        self.states = self.fields["state"]
        answer[:] = loop.ANSWER
        words = self.words
        words[loop.LISTENER], words[loop.WAKER] = listener.fileno(), self.door.waker
        words[loop.INDEX], words[loop.LOOK_AGAIN] = index, 1
        words[state.WAIT_MS], words[state.TICK_NS] = int(TICK_SECONDS * 1000), int(TICK_SECONDS * NS)
        words[state.PLAIN], words[loop.TURNS] = plain, max(2, os.cpu_count() or 2)
        self.fans_out = bool(self.door.boxes)
        words[loop.FANS_OUT] = self.fans_out
        words[loop.LETTER_BOX] = self.door.boxes[index][0].fileno() if self.fans_out else -1
        self.posts: list[bytes] = []  # frames that came in and are for everybody
        self.unposted: deque[tuple[int, bytes]] = deque()  # messages for other shards that their boxes had no room for
        known = self.known.cast("B", (loop.KNOWN_REQUESTS, loop.KNOWN_BYTES))
        known_sizes = self.known_sizes.cast("B").cast("q", (loop.KNOWN_REQUESTS, 2))
        self.websocket = websocket
        self.loop = (compiled.lean_loop if websocket else compiled.floor_loop).bind(
            *(words, row, self.table, self.events, self.view, known, known_sizes, answer, scratch, self.door.words)
        )
        self.open = compiled.open_counted.bind(row, self.table)
        self.greet_again = compiled.greet_again.bind(
            *(words, row, self.table, self.view, known, known_sizes, answer, scratch)
        )
        self.close_counted = compiled.close_counted.bind(words, row, self.table, self.events)
        self.next_since = compiled.next_since.bind(words, self.table)
        self.next_block = compiled.next_block.bind(words, self.table)
        self.block_bytes = compiled.block_bytes.bind(self.table)
        self.block_moved_at = compiled.block_moved_at.bind(self.table)
        self.end_block = compiled.end_block.bind(words, self.table)
        self.actions: dict[int, Callable[[], object]] = {
            state.BYTES: self.receive_and_post if self.fans_out else self.receive_bytes,
            state.WRITABLE: self.flush,
            state.PARTLY_SENT: self.keep_the_rest,
            state.GONE: lambda: self.close(words[state.FD]),
            state.TICK: self.tick,
            state.MAIL: self.take_mail,
            state.NO_TEXT: self.judge_block,
            state.TOO_MUCH: self.shed,
            state.ACCEPT_FAILED: lambda: count_failure(row, CONNECT, words[state.ERROR]),
        }

    def begin(self, lifeline: int) -> None:
        """Be the shard of this process.

        Args:
            lifeline: descriptor whose end means that the master is gone.
        """
        self.lifeline, self.epoll = lifeline, select.epoll()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        words, row = self.words, self.row
        words[state.EPOLL], words[state.COMMANDS] = self.epoll.fileno(), lifeline
        words[loop.CAPACITY] = soft - self.epoll.fileno() - 1 - FDS_KEPT_FREE
        self.epoll.register(lifeline, select.EPOLLIN)
        if self.fans_out:
            self.epoll.register(words[loop.LETTER_BOX], select.EPOLLIN)
        self.epoll.register(self.door.waker, select.EPOLLIN | select.EPOLLET)  # Each write wakes all, and nobody reads.
        row[PID], row[ROLE], row[CAPACITY] = os.getpid(), ROLE_SERVER, words[loop.CAPACITY]

    def run(self) -> None:
        """Serve until the lifeline ends."""
        while self.step() != state.COMMAND:
            pass
        # A byte on the lifeline says that the swarm is about to reset all connections. To close a million one by one
        # would take the cores that the reset needs; the kernel does it in one go when this process ends.
        while os.read(self.lifeline, 1):
            pass

    def step(self) -> int:
        """Let the loop run until something is for Python, see to it, and return what it was."""
        self.words[loop.BLOCK_BYTES_MAX] = self.memory_bytes - self.kept.size - self.conversation_bytes
        reason: int = self.loop()
        if reason != state.COMMAND:
            self.actions[reason]()
        return reason

    # The slow path.

    def receive_bytes(self) -> None:
        """Let the library handle whatever is not a known request or a single plain message."""
        fd, size = self.words[state.FD], self.words[state.SIZE]
        if self.states[fd] == UPGRADING and self.follow_precedent():
            reason = self.greet_again(fd, size)
            if reason != state.BYTES:
                if reason >= 0:
                    self.actions[reason]()
                return
        self.converse_with(fd, bytes(self.view[:size]))

    def judge_block(self) -> None:
        """Let the library say what is wrong with a text message."""
        fd, size = self.words[state.FD], self.words[state.SIZE]
        text = bytearray(size)
        compiled.copy_block(fd, self.table, text)
        self.end_block(fd)
        self.converse_with(fd, self.converse.text_as_sent(text))

    def converse_with(self, fd: int, data: bytes) -> None:
        """Let the library answer what has come from a connection."""
        conversation = self.conversations.get(fd)
        known_before = conversation is not None
        greeting = self.states[fd] & STATE == UPGRADING
        if conversation is None:
            conversation = self.conversations[fd] = self.converse(greeting=bool(greeting), echoes=not self.fans_out)
            self.states[fd] |= SLOW
        else:
            self.conversation_bytes -= conversation.size
        reply = conversation.receive(data)
        self.conversation_bytes += conversation.size
        if greeting and conversation.open:
            self.open(fd)
            if not known_before:
                self.remember(data)  # Only a request that came whole: the last part of one proves nothing by itself.
        messages = conversation.take_messages()
        self.row[RECEIVED] += messages
        if self.fans_out:
            self.posts += conversation.posts
            conversation.posts.clear()
        else:
            self.row[SENT] += messages
        if reply:
            self.send(fd, reply)
        if fd not in self.conversations:
            return  # Sending found the peer gone.
        if conversation.over:
            self.drop_conversation(fd)
            self.leave(fd)
        elif conversation.settled:
            self.drop_conversation(fd)
        self.shed()

    # Broadcasts.

    def receive_and_post(self) -> None:
        """Take what has come, and then send the messages that were in it to everybody."""
        self.receive_bytes()
        posts, self.posts = self.posts, []
        for frame in posts:
            self.post(frame)

    def post(self, frame: bytes) -> None:
        """Send a frame to every connection of every shard."""
        for index in range(len(self.door.boxes)):
            if index != self.words[loop.INDEX]:
                self.unposted.append((index, frame))
        self.empty_out_tray()
        self.fan_out(frame)

    def empty_out_tray(self) -> None:
        """Hand frames to other shards as far as their boxes have room; a dead shard's has none, and needs none."""
        for _ in range(len(self.unposted)):
            index, frame = self.unposted.popleft()
            try:
                self.door.boxes[index][1].send(frame)
            except BlockingIOError:
                if self.door.words[loop.ROOM, index] != loop.DEAD:
                    self.unposted.append((index, frame))
            except OSError:
                pass  # More than a box takes (some 200 KB): it reaches the connections of this shard only.

    def take_mail(self) -> None:
        """Send what other shards have posted."""
        try:
            frame = self.door.boxes[self.words[loop.INDEX]][0].recv(MAIL_BYTES_MAX)
        except BlockingIOError:
            return
        self.fan_out(frame)

    def fan_out(self, frame: bytes) -> None:
        """Send a frame to every connection of this shard; what one does not take at once is kept for it."""
        send_from, fd = compiled.fan_out.bind(self.words, self.row, self.table, bytearray(frame)), -1
        while (fd := send_from(fd + 1)) >= 0:
            sent = self.words[state.START]
            if sent < 0:
                self.close(fd)
            else:
                self.keep(fd, frame[sent:])
        self.shed()

    # What is judged once.

    def follow_precedent(self) -> bool:
        """Remember what the first shard has judged good, when this one knows nothing; False if that is nothing."""
        if self.words[loop.KNOWN] or not self.words[state.PLAIN]:
            return False
        known = self.door.request.known()
        if known is not None:
            self.remember_at(*known)
        return known is not None

    def remember(self, request: bytes) -> None:
        """Keep a request that has been judged good, its key cut out, if it is of the plain form."""
        head, found, rest = request.partition(KEY_HEADER)
        whole = request.startswith(b"GET ") and request.find(b"\r\n\r\n") == len(request) - 4
        if not found or not whole or len(request) > loop.KNOWN_BYTES or not rest[KEY_BYTES:].startswith(b"\r\n"):
            return
        at = len(head) + len(KEY_HEADER)
        if self.words[loop.INDEX] == 0:
            self.door.request.publish(request, at)
        self.remember_at(request, at)

    def remember_at(self, request: bytes, at: int) -> None:
        """Keep a request whose key stands at `at`."""
        number = self.words[loop.KNOWN]
        if number >= loop.KNOWN_REQUESTS:  # For clients that vary their requests; programs have one each.
            number = 0
        place = number * loop.KNOWN_BYTES
        self.known[place : place + len(request)] = request
        self.known_sizes[2 * number], self.known_sizes[2 * number + 1] = at, len(request)
        self.words[loop.KNOWN] = number + 1

    def send(self, fd: int, data: bytes) -> None:
        """Send what the peer takes now and keep the rest until it takes more."""
        if fd not in self.kept:
            try:
                sent = os.write(fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close(fd)
                return
            if sent == len(data):
                return
            data = data[sent:]
        self.keep(fd, data)

    def keep(self, fd: int, data: bytes | memoryview) -> None:
        """Keep bytes until the peer takes them. With EPOLLOUT alone, nothing more is read from it until then."""
        if fd not in self.kept:
            self.taken_at[fd] = monotonic_ns()
            self.states[fd] |= KEPT
            self.epoll.modify(fd, select.EPOLLOUT)
        self.kept.add(fd, data)

    def keep_the_rest(self) -> None:
        """Keep what the loop could not send."""
        words = self.words
        start, size = words[state.START], words[state.SIZE]
        self.keep(words[state.FD], self.view[start : start + size])
        self.shed()

    def flush(self) -> None:
        """Send more of what a slow peer has not taken yet, and read from it again once all is gone."""
        fd = self.words[state.FD]
        try:
            taken = self.kept.flush(fd)
        except OSError:
            self.close(fd)
            return
        if taken:
            self.taken_at[fd] = monotonic_ns()
        if fd in self.kept:
            return
        del self.taken_at[fd]
        self.states[fd] &= ~KEPT & 0xFF
        self.epoll.modify(fd, select.EPOLLIN)
        if self.states[fd] & STATE == LEAVING:
            self.half_close(fd)

    # Ends.

    def leave(self, fd: int) -> None:
        """Say no more on this connection: half-close it once all is sent, and wait for the peer's end."""
        what = self.states[fd] & STATE
        if what == LEAVING:
            return
        if what == UPGRADING:
            self.row[PENDING] -= 1
            self.row[FAILED] += 1
        else:
            self.row[OPEN_COUNT] -= 1
            self.row[CLOSED] += 1
        self.states[fd] = LEAVING | (self.states[fd] & KEPT)
        self.fields["since"][fd] = monotonic_ns()
        self.words[loop.LEAVING_COUNT] += 1
        if fd not in self.kept:
            self.half_close(fd)

    def half_close(self, fd: int) -> None:
        """Send the end of the stream; the descriptor stays open, so that what is under way is not lost to a reset."""
        view = socket.socket(self.listener.family, socket.SOCK_STREAM, 0, fd)
        try:
            view.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        view.detach()

    def drop_conversation(self, fd: int) -> None:
        """Forget the conversation of a connection."""
        conversation = self.conversations.pop(fd, None)
        if conversation is not None:
            self.conversation_bytes -= conversation.size
            self.states[fd] &= ~SLOW & 0xFF

    def close(self, fd: int) -> None:
        """Close a connection and forget all of it."""
        self.drop_conversation(fd)
        self.kept.drop(fd)
        self.taken_at.pop(fd, None)
        self.close_counted(fd)

    # Memory.

    def held_bytes(self) -> int:
        """Return how much peers make this shard keep now."""
        block_bytes: int = self.words[loop.BLOCK_BYTES]
        return self.kept.size + self.conversation_bytes + block_bytes

    def blocks(self, taken_before: int = 0) -> Iterator[int]:
        """Yield the connections with a block; with a moment (ns), those whose peer took nothing of an echo since."""
        fd = -1
        while (fd := self.next_block(fd + 1, taken_before)) >= 0:
            yield fd

    def shed(self) -> None:
        """Close those that hold the most until the budget is kept."""
        held = self.held_bytes()
        self.most_bytes = max(self.most_bytes, held)
        if held <= self.memory_bytes:
            return
        sizes = dict.fromkeys([*self.kept.peers(), *self.conversations], 0)
        for fd in sizes:
            conversation = self.conversations.get(fd)
            sizes[fd] = self.kept.of(fd) + (conversation.size if conversation is not None else 0)
        sizes.update((fd, self.block_bytes(fd)) for fd in self.blocks())
        for fd in sorted(sizes, key=sizes.__getitem__, reverse=True):
            if self.held_bytes() <= self.memory_bytes * SHED_DOWN_TO:
                return
            conversation = self.conversations.get(fd)
            if self.states[fd] & BLOCK and not self.block_moved_at(fd):
                self.end_block(fd)
                conversation = self.converse(greeting=False)
            if conversation is None or fd in self.kept:
                self.close(fd)  # It takes nothing, so there is nothing to tell it.
                continue
            self.send(fd, conversation.shed())
            if self.states[fd]:
                self.drop_conversation(fd)
                self.leave(fd)

    # Now and then.

    def tick(self) -> None:
        """Once a second: end what took too long, see that somebody accepts, give memory back."""
        now = monotonic_ns()
        if self.row[PENDING] or self.words[loop.LEAVING_COUNT]:
            for fd in self.those(UPGRADING, now - self.greeting_ns):
                if self.websocket:
                    self.send(fd, TIMEOUT_ANSWER)
                if self.states[fd] & STATE == UPGRADING:
                    self.drop_conversation(fd)
                    self.leave(fd)
            for fd in self.those(LEAVING, now - int(LEAVING_SECONDS * NS)):
                self.close(fd)
        for fd, taken_at in list(self.taken_at.items()):
            if now - taken_at >= self.send_ns:
                self.close(fd)
        if self.words[loop.BLOCK_BYTES]:
            for fd in self.blocks(now - self.send_ns):
                self.close(fd)
        self.look_after_the_door()
        self.empty_out_tray()
        self.most_bytes = max(self.most_bytes, self.words[loop.BLOCK_BYTES_MOST])
        if self.most_bytes >= RETURN_BYTES and self.held_bytes() < self.most_bytes // 2:
            compiled.return_memory(MMAP_BYTES)
            self.most_bytes = self.held_bytes()
            self.words[loop.BLOCK_BYTES_MOST] = 0

    def those(self, what: int, since: int) -> Iterator[int]:
        """Yield the connections that have been `what` since that moment (ns) or longer."""
        fd = -1
        while (fd := self.next_since(fd + 1, what, since)) >= 0:
            yield fd

    def look_after_the_door(self) -> None:
        """Accept out of turn while connections wait and those before this shard have accepted none for a tick."""
        words = self.words
        words[loop.LOOK_AGAIN] = 1
        accepted = [self.door.words[loop.ACCEPTED, index] for index in range(self.door.shards)]
        others = sum(accepted) - accepted[words[loop.INDEX]]
        stands_still, self.accepted_before = others == self.accepted_before, others
        if words[loop.ACCEPTING] and not words[loop.OUT_OF_TURN]:
            return
        poll = select.poll()
        poll.register(self.listener.fileno(), select.POLLIN)
        if not words[loop.OUT_OF_TURN]:
            words[loop.OUT_OF_TURN] = stands_still and bool(poll.poll(0))
        elif not stands_still:
            words[loop.OUT_OF_TURN] = 0


def memory_for(shards: int) -> int:
    """Return how much the peers of one of so many shards may make it keep: together a quarter of what is left here."""
    from wslab.machine.cgroup import read_cgroup
    from wslab.machine.procfs import read_headroom

    left = read_headroom() or MEMORY_BYTES * 4 * shards
    group = read_cgroup()
    if group.memory_limit_bytes is not None:
        left = min(left, group.memory_limit_bytes - (group.memory_used_bytes or 0))
    return max(MEMORY_MIN, min(MEMORY_BYTES, left // 4 // shards))
