"""Talking, compiled: messages are sent on schedule or to verify, one at a time on a connection; see `swarm_loop`."""

from __future__ import annotations

import numpy as np

from wslab.load import scoreboard as board
from wslab.load.engine import libc
from wslab.load.engine.compiling import njit
from wslab.load.engine.state import FD, HALF, KEPT, OPEN, PROVED, SPEAK, STATE, WAITING
from wslab.load.engine.swarm_connection import gone, note_lag, wait_for
from wslab.load.engine.swarm_words import (
    BURST,
    CHECK_NS,
    CLIMB_DONE,
    CURSOR,
    DUE,
    MESSAGE_BYTES,
    MESSAGE_RATE,
    MESSAGE_SEED,
    NEXT_AT,
    OFFER_MIN,
    OWED_MAX,
    PASSES,
    SAYS,
    SERIAL,
    SOUGHT,
    TALK_UNTIL,
    TALKING,
    TELLS,
    TOP,
    VERIFY_DONE,
    VERIFYING,
    WINDOW,
)
from wslab.load.engine.wire import header_size, seed_of, write_frame


@njit
def say(websocket, fd, at, now, w, row, conn, event, frame):
    """Send a message, unlike any other of this worker, that was due `at`; return the reason to leave, or -1."""
    row[board.SENT] += 1
    w[SERIAL] += 1
    w[DUE] += 1
    c = conn[fd]
    c.serial, c.sent, c.got = w[SERIAL], 0, 0
    c.scheduled, c.started = at, now
    c.state = (c.state & ~STATE) | WAITING
    if w[TELLS]:
        w[FD] = fd
        return SPEAK
    if c.state & KEPT:
        c.state |= HALF  # Behind what Python still has to send.
        return -1
    return send_more(websocket, fd, w, conn, event, frame)


@njit
def send_more(websocket, fd, w, conn, event, frame):
    """Send what the peer takes of the message under way; return the reason to leave the loop, or -1."""
    c = conn[fd]
    size = w[MESSAGE_BYTES]
    total = header_size(size, w[SAYS]) + size + (4 if websocket else 0)
    offer = OFFER_MIN
    while c.sent < total:
        count = write_frame(seed_of(w[MESSAGE_SEED], fd), c.serial, size, True, w[SAYS], c.sent, offer, frame)
        offer = min(2 * offer, frame.size)
        sent = libc.write(fd, frame.ctypes.data, count)
        if sent < 0:
            error = libc.errno()
            if error != libc.EAGAIN:
                return gone(fd, error, w)
            sent = 0
        c.sent += np.uint32(sent)
        if sent < count:
            if not c.state & HALF:
                c.state |= HALF
                wait_for(fd, w, conn, event)
            return -1
    if c.state & HALF:
        c.state &= ~HALF
        wait_for(fd, w, conn, event)
    return -1


@njit
def is_busy(fd, conn):
    """Tell whether a connection has to wait with its next message."""
    return (conn[fd].state & STATE) == WAITING or conn[fd].state & HALF


@njit
def next_open(start, sought, w, conn):
    """Return the first descriptor from `start` on that is an open connection, proved as `sought` says; -1 = none."""
    for fd in range(start, w[TOP]):
        what = conn[fd].state & STATE
        if what in (OPEN, WAITING) and (sought < 0 or (conn[fd].state & PROVED) == sought):
            return fd
    return -1


@njit
def talk_as_scheduled(websocket, w, reals, row, conn, event, pair, frame):
    """Send the messages that are due in the hold phase; return the reason to leave, or -1 - ns until the next one."""
    rate = reals[MESSAGE_RATE] * row[board.OPEN]
    now = libc.clock(pair)
    if rate <= 0 and now < w[TALK_UNTIL]:
        return -1 - CHECK_NS
    for _ in range(BURST):
        at = np.int64(reals[NEXT_AT])
        if (at if rate > 0 else now) >= w[TALK_UNTIL]:
            w[TALKING] = 0  # What is owed is still sent when its turn comes.
            row[board.PHASE_DONE] = CLIMB_DONE
            return -1 - CHECK_NS
        if at > now:
            return -1 - min(CHECK_NS, at - now)
        reals[NEXT_AT] += 1e9 / rate  # Step by step: the rate falls when connections are lost.
        note_lag(now - at, row)
        fd = next_open(w[CURSOR], -1, w, conn)
        if fd < 0:
            fd = next_open(0, -1, w, conn)
        if fd < 0:
            continue
        w[CURSOR] = fd + 1
        if is_busy(fd, conn):
            if not conn[fd].owed:
                conn[fd].owed_at = at
            conn[fd].owed = min(OWED_MAX, conn[fd].owed + 1)
            continue
        reason = say(websocket, fd, at, now, w, row, conn, event, frame)
        if reason >= 0:
            return reason
    return -1


@njit
def say_what_is_owed(websocket, fd, w, reals, row, conn, event, pair, frame):
    """Send the message that had to wait for the end of the last one; return the reason to leave the loop, or -1."""
    if not conn[fd].owed or is_busy(fd, conn):
        return -1
    at = conn[fd].owed_at
    conn[fd].owed -= np.uint16(1)
    # A connection's turn comes once in 1/MESSAGE_RATE seconds.
    conn[fd].owed_at = at + np.int64(1e9 / reals[MESSAGE_RATE])
    return say(websocket, fd, at, libc.clock(pair), w, row, conn, event, frame)


@njit
def verify_more(websocket, w, row, conn, event, pair, frame):
    """Keep the window full of messages, one for each connection and pass; return the reason to leave, or -1."""
    while w[DUE] < w[WINDOW]:
        fd = next_open(w[CURSOR], w[SOUGHT], w, conn)
        if fd < 0:
            if w[DUE]:
                return -1
            w[PASSES] -= 1
            w[CURSOR], w[SOUGHT] = 0, PROVED
            if w[PASSES] <= 0:
                w[VERIFYING] = 0
                row[board.PHASE_DONE] = VERIFY_DONE
                return -1
            continue
        w[CURSOR] = fd + 1
        if not is_busy(fd, conn):  # Else the echo of a message from the hold phase is its proof.
            now = libc.clock(pair)
            reason = say(websocket, fd, now, now, w, row, conn, event, frame)
            if reason >= 0:
                return reason
    return -1
