"""The parts of RFC 6455 that both ends of the load implement: the accept value of a handshake, and where frames end.

Frames are not decoded here. A connection's protocol object can be dropped at a frame boundary only, so the bytes of an
incomplete frame have to wait outside of it, and the Sans-I/O protocols do not report where a frame ends.
"""

from __future__ import annotations

from binascii import b2a_base64

try:
    # The bare implementation: hashlib would map OpenSSL into every process and take three times as long for 60 bytes.
    from _sha1 import sha1
except ImportError:
    from hashlib import sha1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
OPCODES = (0x0, 0x1, 0x2, 0x8, 0x9, 0xA)


def accept_value(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455, 4.2.2)."""
    return b2a_base64(sha1(key + GUID).digest(), newline=False)


def frame_ends(data: bytes, *, masked: bool, bytes_max: int) -> Iterator[int]:
    """Yield where each whole frame of `data` ends; bytes behind the last of them are an incomplete frame.

    As soon as a header is seen that the protocol refuses without looking at the payload (an unknown opcode, a wrong
    mask bit, more than `bytes_max` bytes of payload), all that is left counts as one frame. This does not hold for what
    the protocol refuses only after the payload (reserved bits, a control frame that is too long): it would keep the
    incomplete frame, which is lost when the protocol object is dropped.
    """
    position = 0
    while len(data) - position >= 2:
        first, second = data[position], data[position + 1]
        if first & 0x0F not in OPCODES or bool(second & 0x80) is not masked:
            yield len(data)
            return
        size, header = second & 0x7F, 2
        if size > 125:
            header += 2 if size == 126 else 8
            if len(data) - position < header:
                return
            size = int.from_bytes(data[position + 2 : position + header], "big")
        if size > bytes_max:
            yield len(data)
            return
        end = position + header + (4 if masked else 0) + size
        if len(data) < end:
            return
        yield end
        position = end
