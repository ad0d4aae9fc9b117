"""What the swarm says and expects to hear: WebSocket, or the bare bytes of the floor.

The compiled loop makes and compares the plain bytes; a dialect gives it the request, and knows what hears the rest.
"""

from __future__ import annotations

import os
import re

from wslab.core.target import parse_url
from wslab.load.engine.wire_format import KEY_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from wslab.load.swarm.client_slowpath import Exchange
    from wslab.load.swarm.talk import Talk

ACCEPT_HEADER = b"\r\nSec-WebSocket-Accept: "
# Fields of a request that differ for each connection, in the order of the loop's `SLOT_` names.
FIELDS = (b"{n}", b"{hex}")
FIELD = re.compile(rb"\{n\}|\{hex\}")


class WebSocket:
    """RFC 6455, client side, without extensions.

    Args:
        authority: host and port, as in the URL.
        path: of the request, with its query; it may have fields, and so may the values of headers.
        headers: further headers, as `Name: value`.
        subprotocol: that is asked for; empty for none.
        talk: the application protocol.

    Attributes:
        hello: an upgrade request without its fields, with room for a key at `key_at`.
        slots: where its fields stand, and which: pairs of a position in `hello` and an index of `FIELDS`.
    """

    websocket = True

    def __init__(
        self,
        authority: str,
        path: str,
        *,
        headers: Sequence[str] = (),
        subprotocol: str = "",
        talk: Talk | None = None,
    ) -> None:
        self.subprotocol, self.talk = subprotocol, talk
        own_host = any(header.lower().startswith("host:") for header in headers)
        host = () if own_host else (f"Host: {authority}",)
        lines = [f"GET {path} HTTP/1.1", *host, "Upgrade: websocket", "Connection: Upgrade", *headers]
        lines += [f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []
        head, self.slots = b"", []
        text = "\r\n".join([*lines, "Sec-WebSocket-Key: "]).encode()
        taken = 0
        for field in FIELD.finditer(text):
            head += text[taken : field.start()]
            taken = field.end()
            self.slots.append((len(head), FIELDS.index(field.group())))
        head += text[taken:]
        self.hello = head + bytes(KEY_BYTES) + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self.key_at = len(head)

    @property
    def listens(self) -> bool:
        """Whether Python has to see what the server says."""
        return self.talk is not None

    def exchange(self, key: bytes | None, size: int) -> Exchange:
        """Return what looks after a connection in transition; `key` as long as its upgrade is unanswered."""
        from wslab.load.swarm.client_slowpath import Exchange

        return Exchange(key, self.subprotocol, self.talk)

    def request(self, key: bytes, number: int) -> bytes:
        """Return the request of one connection."""
        whole, taken, parts = self.hello, 0, []
        whole = whole[: self.key_at] + key + whole[self.key_at + KEY_BYTES :]
        for at, which in self.slots:
            parts += [whole[taken:at], (b"%d" % number, os.urandom(8).hex().encode())[which]]
            taken = at
        return b"".join([*parts, whole[taken:]])


def accept_at(answer: bytes) -> int | None:
    """Return where the accept value stands in an answer that the library has judged good; None in an unusual one."""
    head, found, _ = answer.partition(ACCEPT_HEADER)
    if found and answer.find(b"\r\n\r\n") == len(answer) - 4:
        return len(head) + len(found)
    return None


class Parts:
    """The floor's counterpart of an `Exchange`: messages have a known size, and nothing marks their end."""

    closing = upgraded = entered = False
    pongs: tuple[bytes, ...] = ()

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

    websocket = listens = False
    hello = b"\x01"
    key_at = 0
    slots: tuple[tuple[int, int], ...] = ()
    talk: Talk | None = None

    def exchange(self, key: bytes | None, size: int) -> Parts:
        """Return what collects messages of `size` bytes that come in parts."""
        return Parts(size)


def dialect_of(url: str, spec: Mapping[str, Any] | None = None) -> WebSocket | Tcp:
    """Return the dialect that a URL asks for.

    Args:
        url: where the swarm dials.
        spec: the swarm's SPEC; of it `path` (instead of the URL's), `headers`, `subprotocol` and `protocol`, a row of
            `wslab.core.protocols` as JSON.
    """
    spec = spec or {}
    _, _, path, authority = parse_url(url)
    if url.startswith("tcp:"):
        return Tcp()
    row, talk = spec.get("protocol") or {}, None
    if row:
        from wslab.core.protocols import Protocol
        from wslab.load.swarm.talk import Talk

        protocol = Protocol.from_record(row)
        talk = Talk(protocol) if protocol.listens or protocol.heartbeat else None
    path = spec.get("path") or (row.get("path") if path == "/" else "") or path
    subprotocol = spec.get("subprotocol") or row.get("subprotocol") or ""
    return WebSocket(authority, path, headers=spec.get("headers") or (), subprotocol=subprotocol, talk=talk)
