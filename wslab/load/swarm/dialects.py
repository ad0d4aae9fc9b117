"""What the swarm says and expects to hear: WebSocket, or the bare bytes of the floor.

The compiled loop makes and compares the plain bytes; a dialect gives it the request, and knows what hears the rest.
"""

from __future__ import annotations

from wslab.core.target import parse_url
from wslab.load.engine.wire_format import KEY_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wslab.load.swarm.client_slowpath import Exchange

ACCEPT_HEADER = b"\r\nSec-WebSocket-Accept: "


class WebSocket:
    """RFC 6455, client side, without extensions.

    Attributes:
        hello: an upgrade request, with room for a key at `key_at`.
    """

    websocket = True

    def __init__(self, authority: str, path: str) -> None:
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: "
        ).encode()
        self.hello = head + bytes(KEY_BYTES) + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self.key_at = len(head)

    def exchange(self, key: bytes | None, size: int) -> Exchange:
        """Return what looks after a connection in transition; `key` as long as its upgrade is unanswered."""
        from wslab.load.swarm.client_slowpath import Exchange

        return Exchange(key)


def accept_at(answer: bytes) -> int | None:
    """Return where the accept value stands in an answer that the library has judged good; None in an unusual one."""
    head, found, _ = answer.partition(ACCEPT_HEADER)
    if found and answer.find(b"\r\n\r\n") == len(answer) - 4:
        return len(head) + len(found)
    return None


class Parts:
    """The floor's counterpart of an `Exchange`: messages have a known size, and nothing marks their end."""

    closing = upgraded = False

    def __init__(self, size: int) -> None:
        self.size = size
        self.waiting = bytearray()
        self.messages: list[bytes] = []

    @property
    def settled(self) -> bool:
        """Whether no message is incomplete."""
        return not self.waiting

    @property
    def refusal(self) -> str:
        """What is wrong with an answer that was not the byte that opens a connection."""
        return f"unexpected answer {bytes(self.waiting[:20])!r}"

    def receive(self, data: bytes) -> bytes:
        """Take what was read; whole messages are then in `messages`. There is never anything to be written."""
        self.waiting += data
        while len(self.waiting) >= self.size:
            self.messages.append(bytes(self.waiting[: self.size]))
            del self.waiting[: self.size]
        return b""


class Tcp:
    """The floor: one byte opens a connection, a message is bytes echoed."""

    websocket = False
    hello = b"\x01"
    key_at = 0

    def exchange(self, key: bytes | None, size: int) -> Parts:
        """Return what collects messages of `size` bytes that come in parts."""
        return Parts(size)


def dialect_of(url: str) -> WebSocket | Tcp:
    """Return the dialect that a URL asks for."""
    _, _, path, authority = parse_url(url)
    return Tcp() if url.startswith("tcp:") else WebSocket(authority, path)
