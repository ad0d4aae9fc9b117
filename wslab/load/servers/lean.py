"""The reference server: an epoll echo server for which an idle WebSocket costs its file descriptor and no more.

The plain case has a fast path, and only the plain case:

1. A request that differs from one already validated in nothing but its key. The first of a kind is parsed and judged
   in full by the websockets library; what stands before and after its key is then remembered, and the next request
   with the same bytes there needs only its key checked.
2. A whole, single, unfragmented, masked data frame that was read in one piece.

Everything else (partial requests, bad ones, fragments, several frames at once, control frames, protocol errors)
goes through a `Conversation` around the library's Sans-I/O protocol, dropped as soon as nothing is in transition.
"""

from __future__ import annotations

from binascii import Error as NotBase64
from binascii import a2b_base64

from wslab.load.rfc6455 import accept_value
from wslab.load.servers.shard import Shard
from wslab.load.servers.sharded import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

    from wslab.load.servers.conversation import Conversation

KEY_HEADER = b"\r\nSec-WebSocket-Key: "
KEY_BYTES = 24
ANSWER_HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
ANSWER_TAIL = b"\r\n\r\n"
TIMEOUT_ANSWER = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
# Requests seen so far are few in practice: one a client program. The bound is for clients that vary theirs.
REMEMBERED_REQUESTS = 64

TEXT, BINARY = 0x81, 0x82
# First two bytes of a short masked data frame -> (header of its echo, bytes of the whole frame).
SHORT_FRAMES = {
    bytes((kind, 0x80 | size)): (bytes((kind, size)), size + 6) for kind in (TEXT, BINARY) for size in range(126)
}
# The same for frames with a 16-bit length, which is there for payloads of 126 bytes or more.
MEDIUM_BYTES_MIN = 126 + 8
MEDIUM_FRAMES = {bytes((kind, 0xFE)): bytes((kind, 126)) for kind in (TEXT, BINARY)}


class LeanShard(Shard):
    """A shard that speaks WebSocket and echoes every message."""

    def __init__(self, listener: socket, lifeline: int, row: memoryview[int]) -> None:
        from websockets.speedups import apply_mask

        from wslab.load.servers.conversation import Conversation

        super().__init__(listener, lifeline, row)
        self.apply_mask = apply_mask
        self.converse = Conversation
        self.conversations: dict[int, Conversation] = {}
        self.requests: dict[bytes, bytes] = {}  # what stands before the key -> what stands after it

    def greet(self, fd: int, data: bytes) -> None:
        """Answer an upgrade request."""
        head, _, rest = data.partition(KEY_HEADER)
        if self.requests.get(head) != rest[KEY_BYTES:] or fd in self.conversations:
            self.greet_in_full(fd, data)
            return
        key = rest[:KEY_BYTES]
        try:
            plain = len(a2b_base64(key, strict_mode=True)) == 16
        except NotBase64:
            plain = False
        if not plain:
            self.greet_in_full(fd, data)
            return
        self.opened_one(fd)
        self.send(fd, ANSWER_HEAD + accept_value(key) + ANSWER_TAIL)

    def greet_in_full(self, fd: int, data: bytes) -> None:
        """Let the library parse and judge a request, or the next part of one."""
        conversation = self.conversations.get(fd)
        if conversation is not None:
            self.carry_on(fd, conversation, data)
            return
        conversation = self.conversations[fd] = self.converse(greeting=True)
        self.carry_on(fd, conversation, data)
        if conversation.open:
            self.remember(data)  # Only a request that came whole: the last part of one proves nothing by itself.

    def talk(self, fd: int, data: bytes) -> None:
        """Echo a message."""
        short = SHORT_FRAMES.get(data[:2])
        if short is not None and len(data) == short[1]:
            header, body = short[0], self.apply_mask(data[6:], data[2:6])
        elif (
            len(data) >= MEDIUM_BYTES_MIN
            and (medium := MEDIUM_FRAMES.get(data[:2])) is not None
            and len(data) == (data[2] << 8 | data[3]) + 8
        ):
            header, body = medium + data[2:4], self.apply_mask(data[8:], data[4:8])
        else:
            self.talk_in_full(fd, data)
            return
        if (data[0] == TEXT and not is_text(body)) or fd in self.conversations:
            self.talk_in_full(fd, data)
            return
        self.messages += 1
        self.send(fd, header + body)

    def talk_in_full(self, fd: int, data: bytes) -> None:
        """Let the library handle whatever is not a single plain message."""
        conversation = self.conversations.get(fd)
        if conversation is None:
            conversation = self.conversations[fd] = self.converse(greeting=False)
        self.carry_on(fd, conversation, data)

    def carry_on(self, fd: int, conversation: Conversation, data: bytes) -> None:
        """Feed a conversation, send what it says, and drop it when nothing is in transition any more."""
        was_open = conversation.open
        reply = conversation.receive(data)
        if conversation.open and not was_open:
            self.opened_one(fd)
        self.messages += conversation.take_messages()
        if reply:
            self.send(fd, reply)
        if fd not in self.conversations:
            return  # Sending found the peer gone.
        if conversation.over:
            del self.conversations[fd]
            self.leave(fd)
        elif conversation.settled:
            del self.conversations[fd]

    def remember(self, request: bytes) -> None:
        """Keep a request that has been judged good, its key cut out, if it is of the plain form."""
        head, found, rest = request.partition(KEY_HEADER)
        tail = rest[KEY_BYTES:]
        whole = request.startswith(b"GET ") and request.find(b"\r\n\r\n") == len(request) - 4
        if found and whole and tail.startswith(b"\r\n"):
            if len(self.requests) >= REMEMBERED_REQUESTS:
                self.requests.clear()
            self.requests[head] = tail

    def too_slow(self, fd: int) -> bytes:
        """Answer a client that did not finish its request in time."""
        return TIMEOUT_ANSWER

    def forget(self, fd: int) -> None:
        """Drop the conversation of a connection that is about to be closed."""
        self.conversations.pop(fd, None)


def is_text(body: bytes) -> bool:
    """Tell whether `body` is valid UTF-8."""
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


if __name__ == "__main__":
    import wslab.load.servers.conversation  # noqa: F401  before the fork, so that all shards share the pages

    main(LeanShard, "ws")
