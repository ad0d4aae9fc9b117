"""What goes over the wire, compiled: accept values, keys, masks, payloads, frames and UTF-8.

Keys, masks and payloads come from the generator that `wire_format` describes.
"""

from __future__ import annotations

import numpy as np

from wslab.load.engine import wire_format
from wslab.load.engine.compiling import njit
from wslab.load.engine.wire_format import KEY_BYTES

GUID = np.frombuffer(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", np.uint8).copy()
ALPHABET = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8).copy()
IN_ALPHABET = np.isin(np.arange(256, dtype=np.uint8), ALPHABET)
# 60 bytes are hashed, key and GUID; SHA-1 pads them to two blocks of 64.
PADDING = np.zeros(128 - KEY_BYTES - 36, np.uint8)
PADDING[0] = 0x80
PADDING[-2], PADDING[-1] = divmod(60 * 8, 256)
BLOCK_BITS, GOLDEN = np.uint64(wire_format.BLOCK_BITS), np.uint64(wire_format.GOLDEN)
CONNECTION_STEP = np.uint64(wire_format.CONNECTION_STEP)
MIX_1, MIX_2 = np.uint64(wire_format.MIX_1), np.uint64(wire_format.MIX_2)

header_size = njit(wire_format.header_size)


@njit(forceinline=True)
def _turn(value, bits):
    """Rotate 32 bits to the left."""
    return np.uint32((value << np.uint32(bits)) | (value >> np.uint32(32 - bits)))


@njit
def accept_value(key, at, out, out_at, scratch):
    """Write the Sec-WebSocket-Accept of the key at `key[at:]` to `out[out_at:]` (RFC 6455, 4.2.2).

    `scratch` is room for 80 words of 32 bits.
    """
    h0, h1, h2 = np.uint32(0x67452301), np.uint32(0xEFCDAB89), np.uint32(0x98BADCFE)
    h3, h4 = np.uint32(0x10325476), np.uint32(0xC3D2E1F0)
    for block in range(2):
        for t in range(16):
            value = np.uint32(0)
            for byte in range(block * 64 + t * 4, block * 64 + t * 4 + 4):
                if byte < 24:
                    more = np.uint32(key[at + byte])
                elif byte < 60:
                    more = np.uint32(GUID[byte - 24])
                else:
                    more = np.uint32(PADDING[byte - 60])
                value = np.uint32((value << np.uint32(8)) | more)
            scratch[t] = value
        for t in range(16, 80):
            scratch[t] = _turn(np.uint32(scratch[t - 3] ^ scratch[t - 8] ^ scratch[t - 14] ^ scratch[t - 16]), 1)
        a, b, c, d, e = h0, h1, h2, h3, h4
        for t in range(80):
            if t < 20:
                f, k = (b & c) | (~b & d), np.uint32(0x5A827999)
            elif t < 40:
                f, k = b ^ c ^ d, np.uint32(0x6ED9EBA1)
            elif t < 60:
                f, k = (b & c) | (b & d) | (c & d), np.uint32(0x8F1BBCDC)
            else:
                f, k = b ^ c ^ d, np.uint32(0xCA62C1D6)
            total = np.uint32(_turn(a, 5) + np.uint32(f) + e + k + scratch[t])
            e, d, c, b, a = d, c, _turn(b, 30), a, total
        h0, h1, h2 = np.uint32(h0 + a), np.uint32(h1 + b), np.uint32(h2 + c)
        h3, h4 = np.uint32(h3 + d), np.uint32(h4 + e)
    digest = (h0, h1, h2, h3, h4)
    for n in range(7):
        value = np.uint32(0)
        for byte in range(3 * n, 3 * n + 3):
            part = np.uint32(0)
            if byte < 20:
                part = (digest[byte >> 2] >> np.uint32(24 - 8 * (byte & 3))) & np.uint32(255)
            value = np.uint32((value << np.uint32(8)) | part)
        for m in range(4):
            out[out_at + 4 * n + m] = ALPHABET[(value >> np.uint32(18 - 6 * m)) & np.uint32(63)]
    out[out_at + 27] = 61  # "="


@njit
def is_key(data, at):
    """Tell whether the 24 bytes at `data[at:]` are 16 bytes in Base64."""
    for n in range(22):
        if not IN_ALPHABET[data[at + n]]:
            return False
    return data[at + 22] == 61 and data[at + 23] == 61


@njit(forceinline=True)
def drawn(seed, counter):
    """Return 64 bits that only this counter of this seed has."""
    z = np.uint64(np.uint64(seed) + np.uint64(counter) * GOLDEN)
    z = np.uint64((z ^ (z >> np.uint64(30))) * MIX_1)
    z = np.uint64((z ^ (z >> np.uint64(27))) * MIX_2)
    return np.uint64(z ^ (z >> np.uint64(31)))


@njit(forceinline=True)
def seed_of(seed, fd):
    """Return the seed of the messages of one connection, so that they differ from those of all others."""
    return np.int64(np.uint64(seed) + np.uint64(fd) * CONNECTION_STEP)


@njit
def write_key(seed, serial, out, at):
    """Write the Sec-WebSocket-Key of a dial to `out[at:]`: 16 bytes in Base64."""
    first = drawn(seed, np.uint64(2) * np.uint64(serial))
    second = drawn(seed, np.uint64(2) * np.uint64(serial) + np.uint64(1))
    for n in range(22):
        left = n * 6
        if left + 6 <= 64:
            bits = first >> np.uint64(58 - left)
        elif left < 64:
            bits = (first << np.uint64(left - 58)) | (second >> np.uint64(122 - left))
        elif left + 6 <= 128:
            bits = second >> np.uint64(122 - left)
        else:
            bits = second << np.uint64(4)  # two bits are left; the other four are zero
        out[at + n] = ALPHABET[bits & np.uint64(63)]
    out[at + 22] = 61
    out[at + 23] = 61


@njit(forceinline=True)
def header_byte(n, header, first, size, masked):
    """Return byte `n` of the `header` bytes before the mask and payload of a frame with this first byte."""
    if n == 0:
        return np.uint8(first)
    if n == 1:
        return np.uint8((0x80 if masked else 0) | (size if header == 2 else 126 if header == 4 else 127))
    return np.uint8((size >> (8 * (header - 1 - n))) & 255)


@njit
def write_frame(seed, serial, size, masked, first, offset, limit, out):
    """Write up to `limit` bytes of the frame of a message to `out`, from byte `offset` of the frame on.

    Returns how many were written. `first` is the first byte of the frame; where it is 0, the frame is the bare payload.
    """
    header = header_size(size, first)
    start = header + (4 if masked and first else 0)
    total = start + size
    count = min(limit, total - offset)
    mask = np.uint64(0)
    if masked and first:
        mask = drawn(seed, ~np.uint64(serial)) & np.uint64(0xFFFFFFFF)
        mask |= mask << np.uint64(32)
    written = 0
    while written < count and offset + written < start:
        n = offset + written
        if n < header:
            out[written] = header_byte(n, header, first, size, masked)
        else:
            out[written] = (mask >> np.uint64(8 * (n - header))) & np.uint64(255)
        written += 1
    base = np.uint64(serial) << BLOCK_BITS
    while written < count:
        position = offset + written - start
        block = drawn(seed, base + np.uint64(position >> 3)) ^ mask
        inside = position & 7
        if inside == 0 and count - written >= 8:
            # Without a sign, an index is not looked at for being one from the end.
            for n in range(8):
                out[np.uint64(written) + np.uint64(n)] = np.uint8(block >> np.uint64(8 * n))
            written += 8
            continue
        block >>= np.uint64(8 * inside)
        for _ in range(min(8 - inside, count - written)):
            out[written] = block & np.uint64(255)
            block >>= np.uint64(8)
            written += 1
    return count


@njit
def unmask(data, start, size, mask_at):
    """Apply the mask at `data[mask_at:]` to `size` bytes from `start`; tell whether all of them are ASCII then."""
    m0, m1, m2, m3 = data[mask_at], data[mask_at + 1], data[mask_at + 2], data[mask_at + 3]
    seen = np.uint8(0)
    whole = size & ~3
    for n in range(start, start + whole, 4):
        a, b, c, d = data[n] ^ m0, data[n + 1] ^ m1, data[n + 2] ^ m2, data[n + 3] ^ m3
        data[n], data[n + 1], data[n + 2], data[n + 3] = a, b, c, d
        seen |= a | b | c | d
    for n in range(whole, size):
        data[start + n] ^= data[mask_at + (n & 3)]
        seen |= data[start + n]
    return seen < 128


@njit
def is_text(data, start, size):
    """Tell whether `size` bytes from `start` are UTF-8 (RFC 3629)."""
    n, end = start, start + size
    while n < end:
        first = data[n]
        if first < 0x80:
            n += 1
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= first <= 0xDF:
            more = 1
        elif 0xE0 <= first <= 0xEF:
            more = 2
            if first == 0xE0:
                low = 0xA0
            elif first == 0xED:
                high = 0x9F
        elif 0xF0 <= first <= 0xF4:
            more = 3
            if first == 0xF0:
                low = 0x90
            elif first == 0xF4:
                high = 0x8F
        else:
            return False
        if n + more >= end:
            return False
        if data[n + 1] < low or data[n + 1] > high:
            return False
        for k in range(2, more + 1):
            if data[n + k] < 0x80 or data[n + k] > 0xBF:
                return False
        n += more + 1
    return True
