"""Blocks: the memory of messages that come or go in parts, compiled; a connection of a shard has one at most.

1. A block is taken from the C library when a plain data frame has begun whose end has not come, and freed when its echo
   has gone, or with its connection. Its address stands in the record of the connection.
2. It begins with words on the message. The payload stands at PAYLOAD_AT and is unmasked as it comes; the header of the
   echo is written right before it. While the payload comes, only the rest of its frame is read, into its place.
3. What counts as memory in use is what has come. A page that was never written to is none, so a peer that announces a
   large message holds no more than it has sent, and at most a page (OVERHEAD_BYTES) beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from wslab.load.engine import libc
from wslab.load.engine.compiling import njit
from wslab.load.engine.server_words import BLOCK_BYTES, BLOCK_BYTES_MOST
from wslab.load.engine.state import BLOCK
from wslab.load.engine.wire import header_byte, header_size, is_text
from wslab.load.engine.wire_format import TEXT

# Words at the beginning of a block.
(
    PAYLOAD,  # bytes of the payload
    GOT,  # of them that have come
    SENT,  # bytes of the echo that have gone
    FIRST,  # first byte of the frame
    MASK,  # twice, as 64 bits
    SEEN,  # all of the payload so far, 64 bits at a time, or-ed: ASCII if no byte of it is above 127
    MOVED_AT,  # when the peer last took something of the echo, ns
    BLOCK_WORDS,
) = range(8)
PAYLOAD_AT = 80  # behind the words and the longest header, and aligned as `malloc` aligns
OVERHEAD_BYTES = 4096 + PAYLOAD_AT
NOT_ASCII = np.uint64(0x8080808080808080)


def _pointer_to(kind: types.Type) -> Any:
    """Return a function that makes a pointer to items of a kind from an address."""

    def pointer(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(address), generate

    return intrinsic(pointer)


words_of, wide_at, bytes_at = map(_pointer_to, (types.int64, types.uint64, types.uint8))


@njit
def begin(payload, first, mask, w):
    """Return a new block for a message; 0 = there is no memory.

    Args:
        payload: its bytes.
        first: first byte of its frame.
        mask: its four bytes, the first of them lowest.
        w: control words of the loop.
    """
    block = libc.malloc(PAYLOAD_AT + payload)
    if block == 0:
        return 0
    words = words_of(block)
    words[PAYLOAD], words[FIRST] = payload, first
    words[GOT], words[SENT], words[SEEN], words[MOVED_AT] = 0, 0, 0, 0
    words[MASK] = np.int64(np.uint64(mask) | (np.uint64(mask) << np.uint64(32)))
    w[BLOCK_BYTES] += OVERHEAD_BYTES
    return block


@njit
def end(fd, w, conn):
    """Free the block of a connection."""
    block = conn[fd].since
    w[BLOCK_BYTES] -= OVERHEAD_BYTES + words_of(block)[GOT]
    conn[fd].state &= ~BLOCK
    libc.free(block)


@njit
def come(block, size, w):
    """Unmask the `size` bytes that have come behind those that had; tell whether the message is whole."""
    words = words_of(block)
    data = bytes_at(block + PAYLOAD_AT)
    wide = wide_at(block + PAYLOAD_AT)
    mask, seen = np.uint64(words[MASK]), np.uint64(words[SEEN])
    n, stop = words[GOT], words[GOT] + size
    while n < stop and n & 7:
        data[n] ^= np.uint8(mask >> np.uint64(8 * (n & 3)))
        seen |= np.uint64(data[n])
        n += 1
    if n < stop:
        for k in range(n >> 3, stop >> 3):
            value = wide[k] ^ mask
            wide[k] = value
            seen |= value
        n = stop & ~7
        while n < stop:
            data[n] ^= np.uint8(mask >> np.uint64(8 * (n & 3)))
            seen |= np.uint64(data[n])
            n += 1
    words[GOT], words[SEEN] = stop, np.int64(seen)
    w[BLOCK_BYTES] += size
    w[BLOCK_BYTES_MOST] = max(w[BLOCK_BYTES_MOST], w[BLOCK_BYTES])
    return stop == words[PAYLOAD]


@njit
def is_good(block):
    """Tell whether a whole message is what its frame says: text is UTF-8."""
    words = words_of(block)
    if words[FIRST] != TEXT or not np.uint64(words[SEEN]) & NOT_ASCII:
        return True
    return is_text(bytes_at(block + PAYLOAD_AT), 0, words[PAYLOAD])


@njit
def turn_round(block):
    """Write the header of the echo before the payload."""
    words = words_of(block)
    size, first = words[PAYLOAD], words[FIRST]
    header = header_size(size, first)
    out = bytes_at(block + PAYLOAD_AT - header)
    for n in range(header):
        out[n] = header_byte(n, header, first, size, False)
