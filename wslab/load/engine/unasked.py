"""Messages that answer nothing, compiled: whole data frames that cannot be an echo which comes late are counted."""

from __future__ import annotations

import numpy as np

from wslab.load import scoreboard as board
from wslab.load.engine import libc
from wslab.load.engine.compiling import njit
from wslab.load.engine.swarm_words import FANS_OUT
from wslab.load.engine.wire_format import BINARY, TEXT


@njit
def frame_end(start, size, buffer):
    """Return where the short unmasked frame at `start` ends; 0 when it is long or not whole."""
    if size - start < 2:
        return 0
    payload, header = np.int64(buffer[start + 1]), 2
    if payload == 126:
        if size - start < 4:
            return 0
        payload, header = (np.int64(buffer[start + 2]) << 8) | np.int64(buffer[start + 3]), 4
    elif payload > 126:
        return 0
    end = start + header + payload
    return end if end <= size else 0


@njit
def only_counts(start, size, echo, w, buffer, frame):
    """Tell whether all from `start` on are whole data frames, and once the echo that is due.

    Args:
        start, size: the part of the buffer.
        echo: bytes of the echo that is due, as it stands in `frame`; 0 = none is due.
        w, buffer, frame: those of the loop.
    """
    missing = echo
    while start < size:
        end = frame_end(start, size, buffer)
        if end == 0:
            return False
        first = buffer[start]
        if first != TEXT and first != BINARY:
            here = buffer.ctypes.data + start
            if end - start != missing or libc.memcmp(here, frame.ctypes.data, missing):
                return False
            missing = 0
        start = end
    return True


@njit
def hash_of(data, start, end):
    """Return a hash of 63 bits of the bytes from `start` to `end` (FNV-1a)."""
    value = np.uint64(0xCBF29CE484222325)
    for n in range(start, end):
        value = np.uint64((value ^ np.uint64(data[n])) * np.uint64(0x100000001B3))
    return np.int64(value >> np.uint64(1))


@njit
def note_broadcast(message, now, row):
    """Count one more connection that has a broadcast."""
    if row[board.BROADCAST] != message:
        row[board.BROADCAST_COUNT] = 0
        row[board.BROADCAST], row[board.BROADCAST_FIRST_NS] = message, now
    row[board.BROADCAST_LAST_NS] = now
    row[board.BROADCAST_COUNT] += 1


@njit
def count_unasked(start, size, w, row, pair, buffer):
    """Count the data frames from `start` on, which answer nothing; tell whether there is another one among them."""
    other = False
    while start < size:
        end = frame_end(start, size, buffer)
        if buffer[start] == TEXT or buffer[start] == BINARY:
            row[board.MESSAGES_UNASKED] += 1
            if w[FANS_OUT]:
                payload = start + (2 if buffer[start + 1] < 126 else 4)
                note_broadcast(hash_of(buffer, payload, end), libc.clock(pair), row)
        else:
            other = True
        start = end
    return other
