"""Dialling, compiled: connections are begun on schedule, and each sends its request.

1. A dial is a socket, a bind without a port, a connect that does not block, and the request written behind it at once.
2. A request has fields of its own (`slots`) where the path or a header asks for them; it is then put together anew.
"""

from __future__ import annotations

import numpy as np

from wslab.core import pacer
from wslab.load import scoreboard as board
from wslab.load.engine import libc
from wslab.load.engine.compiling import njit
from wslab.load.engine.state import CONNECTING, DIAL_FAILED, EPOLL, ERROR, FD, PARTLY_SENT, SIZE, START, UPGRADING
from wslab.load.engine.swarm_connection import gone, note_lag
from wslab.load.engine.swarm_words import (
    ADDRESS_BYTES,
    BEGAN,
    BURST,
    CHECK_NS,
    CONNECTIONS,
    DIALLED,
    DIALLING,
    FAMILY,
    FIRST_NUMBER,
    HEX_BYTES,
    HEX_SEED,
    KEY_AT,
    KEY_SEED,
    PENDING_MAX,
    PORTS_AT_BIND,
    RAMP_DONE,
    RATE,
    SLOT_HEX,
    START_AFTER,
    TOP,
)
from wslab.load.engine.wire import drawn, write_key

HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8).copy()
due = njit(pacer.due)


@njit
def dial_failed(fd, error, by_epoll, w):
    """Leave the loop because a connection could not be dialled."""
    if fd >= 0:
        libc.close(fd)
    w[ERROR], w[SIZE] = error, by_epoll
    return DIAL_FAILED


@njit
def write_hello(serial, w, hello, slots, out):
    """Write the request of a connection with its own fields to `out`; return its bytes.

    A number has as many digits as it needs, so that the request is put together from the pieces between its fields.
    """
    at, taken = 0, 0
    for n in range(0, slots.size, 2):
        size = slots[n] - taken
        libc.memcpy(out.ctypes.data + at, hello.ctypes.data + taken, size)
        at, taken = at + size, slots[n]
        if slots[n + 1] == SLOT_HEX:
            bits = drawn(w[KEY_SEED] ^ HEX_SEED, serial)
            for k in range(HEX_BYTES):
                out[at + k] = HEX_DIGITS[(bits >> np.uint64(4 * k)) & np.uint64(15)]
            at += HEX_BYTES
        else:
            number, digits = w[FIRST_NUMBER] + serial, 1
            power = np.int64(10)
            while power <= number:
                power, digits = power * 10, digits + 1
            for k in range(digits):
                out[at + digits - 1 - k] = 48 + number % 10
                number //= 10
            at += digits
    libc.memcpy(out.ctypes.data + at, hello.ctypes.data + taken, hello.size - taken)
    return at + hello.size - taken


@njit
def say_hello(websocket, fd, serial, w, hello, slots, buffer):
    """Write the request of a connection; 0, or an errno; EINPROGRESS when a part of it is left for Python to send."""
    if websocket:
        write_key(w[KEY_SEED], serial, hello, w[KEY_AT])
    request, size = hello.ctypes.data, hello.size
    if slots.size:
        request, size = buffer.ctypes.data, write_hello(serial, w, hello, slots, buffer)
    sent = libc.write(fd, request, size)
    if sent == size:
        return 0
    if sent < 0:
        return libc.errno()
    if not slots.size:
        libc.memcpy(buffer.ctypes.data, request, size)
    w[FD], w[START], w[SIZE] = fd, sent, size - sent
    return libc.EINPROGRESS


@njit(forceinline=True)
def dial(websocket, at, now, w, row, conn, event, pair, sources, destinations, hello, slots, buffer):
    """Begin one connection that was due `at`; return the reason to leave the loop, or -1.

    It is a socket, a bind without a port, a connect that does not block, and the request written behind it at once:
    over loopback the handshake of TCP is over by the time connect returns. Where it is not, EPOLLOUT tells.
    """
    number = w[DIALLED]
    w[DIALLED] += 1
    fd = libc.socket(w[FAMILY], libc.SOCK_STREAM | libc.SOCK_NONBLOCK | libc.SOCK_CLOEXEC, 0)
    if fd < 0:
        return dial_failed(fd, libc.errno(), 0, w)
    if fd >= conn.size:
        return dial_failed(fd, libc.EMFILE, 0, w)
    pair[0] = 1  # struct linger: on, 0 seconds: the drain resets, and no TIME_WAIT is left behind.
    libc.setsockopt(fd, libc.SOL_SOCKET, libc.SO_LINGER, pair.ctypes.data, 8)
    size = w[ADDRESS_BYTES]
    count = sources.size // size
    if count:
        if not w[PORTS_AT_BIND]:
            libc.setsockopt(fd, 0, libc.IP_BIND_ADDRESS_NO_PORT, pair.ctypes.data, 4)
        if libc.bind(fd, sources.ctypes.data + number % count * size, size) < 0:
            return dial_failed(fd, libc.errno(), 0, w)
    place = number // max(1, count) % (destinations.size // size)
    if libc.connect(fd, destinations.ctypes.data + place * size, size) < 0:
        error = libc.errno()
        if error != libc.EINPROGRESS:
            return dial_failed(fd, error, 0, w)
    error = libc.watch(w[EPOLL], libc.EPOLL_CTL_ADD, fd, libc.EPOLLIN, event)
    if error:
        return dial_failed(fd, error, 1, w)
    error = say_hello(websocket, fd, number, w, hello, slots, buffer)
    state = UPGRADING
    if error == libc.EAGAIN:
        state = CONNECTING
        libc.watch(w[EPOLL], libc.EPOLL_CTL_MOD, fd, libc.EPOLLOUT, event)
    elif error and error != libc.EINPROGRESS:
        return dial_failed(fd, error, 0, w)
    c = conn[fd]
    c.state, c.owed, c.serial = state, 0, number
    c.sent, c.got = 0, 0
    c.scheduled, c.started = at, now
    row[board.PENDING] += 1
    w[TOP] = max(w[TOP], fd + 1)
    return PARTLY_SENT if error == libc.EINPROGRESS else -1


@njit(forceinline=True)
def dial_what_is_due(websocket, w, reals, row, conn, event, pair, sources, destinations, hello, slots, buffer):
    """Dial up to a burst of connections; return the reason to leave the loop, or -1 - ns until more are due."""
    now = libc.clock(pair)
    room = w[PENDING_MAX] - row[board.PENDING]
    left = w[CONNECTIONS] - w[DIALLED]
    rate, offset = reals[RATE], reals[START_AFTER]
    ready = left
    if rate > 0:
        ready = min(left, due((now - w[BEGAN]) * 1e-9, rate, offset) - w[DIALLED])
    for _ in range(min(room, ready, BURST)):
        at = now
        if rate > 0:
            at = w[BEGAN] + np.int64((offset + w[DIALLED] / rate) * 1e9)
            note_lag(now - at, row)
        reason = dial(websocket, at, now, w, row, conn, event, pair, sources, destinations, hello, slots, buffer)
        if reason >= 0:
            return reason
    if w[DIALLED] >= w[CONNECTIONS]:
        if row[board.PENDING] == 0:
            w[DIALLING] = 0
            row[board.PHASE_DONE] = RAMP_DONE
        return -1 - CHECK_NS
    if room > BURST and (rate <= 0 or ready > BURST):
        return -1
    if rate <= 0:
        return -1 - CHECK_NS
    next_at = w[BEGAN] + np.int64((offset + w[DIALLED] / rate) * 1e9)
    return -1 - min(CHECK_NS, max(libc.NS // 1000, next_at - libc.clock(pair)))


@njit
def connected(websocket, fd, w, row, conn, event, hello, slots, buffer):
    """Send the request on a connection that was still under way when it was dialled."""
    conn[fd].state = UPGRADING
    libc.watch(w[EPOLL], libc.EPOLL_CTL_MOD, fd, libc.EPOLLIN, event)
    error = say_hello(websocket, fd, conn[fd].serial, w, hello, slots, buffer)
    if error == libc.EINPROGRESS:
        return PARTLY_SENT
    if error:
        return gone(fd, error, w)
    return -1
