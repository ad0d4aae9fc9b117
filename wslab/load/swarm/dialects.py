"""What the swarm says and expects to hear: WebSocket, or the bare bytes of the floor.

A dialect makes the bytes to send and judges the bytes that come back. The plain case is decided here by comparing
bytes; what is not plain (`None`) goes to an exchange.

1. `hello()` -> (bytes to send, what to remember until the answer is there).
2. `greeted(data, remembered)` -> True if this is the whole, right answer, else None.
3. `message(payload)` -> (bytes to send, bytes of the plain echo).
4. `exchange(key, size)` -> the object that hears what is not plain.
"""

from __future__ import annotations

import os
from binascii import b2a_base64

from wslab.core.target import parse_url
from wslab.load.rfc6455 import accept_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wslab.load.swarm.client_slowpath import Exchange

ACCEPT_HEADER = b"\r\nSec-WebSocket-Accept: "
ACCEPT_BYTES = 28
# Random bytes are drawn from the kernel this many draws at a time; each key and each mask is still used once.
DRAWS = 1024


def drawn(size: int) -> Iterator[bytes]:
    """Yield fresh random strings of `size` bytes for ever."""
    while True:
        pool = os.urandom(size * DRAWS)
        for start in range(0, len(pool), size):
            yield pool[start : start + size]


class WebSocket:
    """RFC 6455, client side, without extensions."""

    websocket = True

    def __init__(self, authority: str, path: str) -> None:
        from websockets.speedups import apply_mask

        self.apply_mask: Callable[[bytes, bytes], bytes] = apply_mask
        self.head = (
            f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: "
        ).encode()
        self.tail = b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self.keys = drawn(16)
        self.masks = drawn(4)
        # What stood before and after the accept value in the last answer that the library has judged good.
        self.answer = (b"", b"")

    def hello(self) -> tuple[bytes, bytes]:
        """Return an upgrade request with a fresh random key, and the key."""
        key = b2a_base64(next(self.keys), newline=False)
        return self.head + key + self.tail, key

    def greeted(self, data: bytes, key: bytes) -> bool | None:
        """Return True if `data` is an answer known to be good with the accept value of this key, else None."""
        head, tail = self.answer
        accept = accept_value(key)
        return True if head and data == head + accept + tail else None

    def remember(self, answer: bytes) -> None:
        """Keep an answer that the library has judged good, its accept value cut out."""
        head, found, rest = answer.partition(ACCEPT_HEADER)
        if found and answer.find(b"\r\n\r\n") == len(answer) - 4:
            self.answer = (head + found, rest[ACCEPT_BYTES:])

    def exchange(self, key: bytes | None, size: int) -> Exchange:
        """Return what looks after a connection in transition; `key` as long as its upgrade is unanswered."""
        from wslab.load.swarm.client_slowpath import Exchange

        return Exchange(key)

    def message(self, payload: bytes) -> tuple[bytes, bytes]:
        """Return `payload` as a masked binary frame, and the frame of its echo."""
        size = len(payload)
        if size < 126:
            start, length = bytes((0x82, 0x80 | size)), bytes((0x82, size))
        elif size < 65536:
            length = b"\x82\x7e" + size.to_bytes(2, "big")
            start = b"\x82\xfe" + length[2:]
        else:
            length = b"\x82\x7f" + size.to_bytes(8, "big")
            start = b"\x82\xff" + length[2:]
        mask = next(self.masks)
        return start + mask + self.apply_mask(payload, mask), length + payload


class Parts:
    """The floor's counterpart of an `Exchange`: messages have a known size, and nothing marks their end."""

    closing = False

    def __init__(self, size: int) -> None:
        self.size = size
        self.waiting = b""
        self.messages: list[bytes] = []

    @property
    def settled(self) -> bool:
        """Whether no message is incomplete."""
        return not self.waiting

    def receive(self, data: bytes) -> bytes:
        """Take what was read; whole messages are then in `messages`. There is never anything to be written."""
        self.waiting += data
        while len(self.waiting) >= self.size:
            self.messages.append(self.waiting[: self.size])
            self.waiting = self.waiting[self.size :]
        return b""


class Tcp:
    """The floor: one byte opens a connection, a message is bytes echoed."""

    websocket = False

    def hello(self) -> tuple[bytes, bytes]:
        """Return the byte that opens a connection; the same byte is the answer."""
        return b"\x01", b"\x01"

    def greeted(self, data: bytes, byte: bytes) -> bool | None:
        """Return True if the byte has come back, else None."""
        return True if data == byte else None

    def exchange(self, key: bytes | None, size: int) -> Parts:
        """Return what collects messages of `size` bytes that come in parts."""
        return Parts(size)

    def message(self, payload: bytes) -> tuple[bytes, bytes]:
        """Return `payload` twice: as sent and as expected back."""
        return payload, payload


def dialect_of(url: str) -> WebSocket | Tcp:
    """Return the dialect that a URL asks for."""
    _, _, path, authority = parse_url(url)
    return Tcp() if url.startswith("tcp:") else WebSocket(authority, path)
