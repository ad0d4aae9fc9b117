"""Sizes and numbers of what goes over the wire, for compiled code and for Python alike.

Keys, masks and payloads come from a counter-based generator (SplitMix64: Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014): the value of a counter under a seed. It is a bijection of the counter, so no
two blocks of a worker are alike, and any part of any payload can be made again from its number.
"""

from __future__ import annotations

KEY_BYTES, ACCEPT_BYTES = 24, 28
TEXT, BINARY, PING, PONG = 0x81, 0x82, 0x89, 0x8A  # first bytes of frames that are a whole message
# Payload blocks a message may have; a message and its block together are one counter.
BLOCK_BITS = 24
GOLDEN = 0x9E3779B97F4A7C15
CONNECTION_STEP = 0xD1B54A32D192ED03
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def header_size(size: int, first: int) -> int:
    """Return the bytes of an unmasked frame's header; bare bytes have none, and no first byte (0)."""
    if not first:
        return 0
    return 2 if size < 126 else 4 if size < 65536 else 10


def serial_on(seed: int, fd: int, payload: bytes) -> int | None:
    """Return the number of the message of a connection that a payload looks like; None = none, or it is short.

    Args:
        seed: of the messages of the worker.
        fd: descriptor of the connection.
        payload: of a message.
    """
    if len(payload) < 8:
        return None
    return serial_of((seed + fd * CONNECTION_STEP) % (1 << 64), int.from_bytes(payload[:8], "little"))


def serial_of(seed: int, block: int) -> int | None:
    """Return the number of the message whose first block this is, under the seed of its connection; None = of none."""
    z = block
    z = _unshift(z, 31) * pow(MIX_2, -1, 1 << 64) % (1 << 64)
    z = _unshift(z, 27) * pow(MIX_1, -1, 1 << 64) % (1 << 64)
    counter = (_unshift(z, 30) - seed) * pow(GOLDEN, -1, 1 << 64) % (1 << 64)
    serial, rest = divmod(counter, 1 << BLOCK_BITS)
    return None if rest else serial


def _unshift(value: int, bits: int) -> int:
    """Solve `value == x ^ (x >> bits)` for x, of 64 bits."""
    x = value
    for _ in range(64 // bits):
        x = value ^ (x >> bits)
    return x
