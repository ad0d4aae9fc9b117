"""An application protocol as a worker uses it: what is heard is matched, what is said is made.

It is the same for all connections; a connection's own part of it is whether it is ready, which its `Exchange` knows.
"""

from __future__ import annotations

import re

from websockets.frames import Frame, Opcode

from wslab.core.protocols import PAYLOAD, Protocol


class Talk:
    """An application protocol.

    Args:
        protocol: its row.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.replies = [(_pattern(heard), said) for heard, said in protocol.replies]
        self.ready, self.refused = _pattern(protocol.ready), _pattern(protocol.refused)
        self.head, _, self.tail = protocol.echo.encode().partition(PAYLOAD.encode())

    def reply_to(self, text: str) -> str | None:
        """Return what is answered to a message, empty for nothing; None for a message of no such kind."""
        return next((said for pattern, said in self.replies if pattern.fullmatch(text)), None)

    def message(self, payload: bytes) -> bytes:
        """Return the frame of the message of the load with this payload."""
        return text_frame(self.protocol.message.replace(PAYLOAD, as_text(payload)))

    def heartbeat(self) -> bytes:
        """Return the frame of a heartbeat."""
        return text_frame(self.protocol.heartbeat)

    def echo(self, payload: bytes) -> bytes:
        """Return what comes back for the message with this payload."""
        return self.protocol.echo.replace(PAYLOAD, as_text(payload)).encode()

    def payload_start(self, message: bytes) -> bytes:
        """Return how the payload begins that a message brings back, as bytes; empty where it brings none."""
        inside = message[len(self.head) : len(message) - len(self.tail)]
        if not message.startswith(self.head) or not message.endswith(self.tail):
            return b""
        try:
            return bytes.fromhex(inside[: len(inside) & ~1].decode())
        except ValueError:
            return b""


def _pattern(text: str) -> re.Pattern[str]:
    """Return the expression for a text in which `*` stands for any text."""
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def as_text(payload: bytes) -> str:
    """Return as many characters as a payload has bytes."""
    return payload.hex()[: len(payload)]


def text_frame(text: str) -> bytes:
    """Return the frame of a text message as a client sends it."""
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)
