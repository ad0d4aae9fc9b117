"""The value of Sec-WebSocket-Accept, which both ends of the load compute for every handshake (RFC 6455, 4.2.2)."""

from __future__ import annotations

from binascii import b2a_base64

try:
    # The bare implementation: hashlib would map OpenSSL into every process and take three times as long for 60 bytes.
    from _sha1 import sha1
except ImportError:
    from hashlib import sha1

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_value(key: bytes) -> bytes:
    """Return the value that answers a Sec-WebSocket-Key."""
    return b2a_base64(sha1(key + GUID).digest(), newline=False)
