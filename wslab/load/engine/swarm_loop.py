"""The loop of a swarm worker: dial on schedule, upgrade, send messages on schedule, compare their echoes byte for byte.

1. Schedules are open loop: latency counts from when a connection or a message was due, the clock is read in here, and
   `LAG_US` says how far this process runs behind. A message that is due while the last one on its connection is
   unanswered waits for it, and its latency counts from when it was due.
2. The answer to an upgrade is plain when it differs from one that the library has judged good in its accept value only.
3. An echo is plain when its bytes, in whatever parts they come, are those that the number of its message gives. A
   message that its peer does not take at once is made again from there on. So nothing is kept of either. Where life is
   proved by ping, the message is a ping and its echo the pong; `SAYS` and `HEARS` are the first bytes of the two.
4. Whole data frames that answer nothing are counted in here where they cannot be an echo that comes late: behind the
   answer to an upgrade, and everywhere where life is proved by ping.
5. A ping of the server's, alone in what was read, is answered in here: keepalive comes to every connection.
6. Failures are counted in Python, in one place: the loop says what happened to which descriptor.
"""

from __future__ import annotations

import numpy as np
from numba import types

from wslab.load import scoreboard as board
from wslab.load.engine import libc
from wslab.load.engine.compiling import njit, records
from wslab.load.engine.dialling import connected, dial_what_is_due
from wslab.load.engine.state import (
    BYTES,
    COMMAND,
    COMMANDS,
    CONNECTING,
    EPOLL,
    EVENT_FD,
    EVENT_WORDS,
    EVENTS,
    EVENTS_PER_WAIT,
    FD,
    HALF,
    KEPT,
    NEXT,
    NONE,
    OPEN,
    OVERDUE,
    PARTLY_SENT,
    PLAIN,
    SIZE,
    SLOW,
    START,
    STATE,
    SWARM_CONNECTION,
    TICK,
    TICK_AT,
    TICK_NS,
    UPGRADING,
    WAIT_MS,
    WAITING,
    WRITABLE,
)
from wslab.load.engine.swarm_connection import echoed, gone, opened, wait_for
from wslab.load.engine.swarm_words import (
    ACCEPT_AT,
    ANSWER_BYTES,
    CHECK_AT,
    CHECK_NS,
    CHECKED,
    COUNTS_UNASKED,
    DIALLING,
    DUE,
    ECHO_TIMEOUT_NS,
    HEARS,
    KEY_AT,
    KEY_SEED,
    MESSAGE_BYTES,
    MESSAGE_SEED,
    NEVER,
    TALKING,
    TIMEOUT_NS,
    TOP,
    VERIFYING,
)
from wslab.load.engine.talking import next_open, say_what_is_owed, send_more, talk_as_scheduled, verify_more
from wslab.load.engine.unasked import count_unasked, hash_of, note_broadcast, only_counts
from wslab.load.engine.wire import accept_value, drawn, header_size, seed_of, write_frame, write_key
from wslab.load.engine.wire_format import ACCEPT_BYTES, PING, PONG


@njit
def is_answer(fd, w, conn, buffer, answer, hello, accept, scratch):
    """Tell whether the buffer begins with the known answer, with the accept value of this connection's key."""
    at = w[ACCEPT_AT]
    tail = at + ACCEPT_BYTES
    there, here = answer.ctypes.data, buffer.ctypes.data
    if libc.memcmp(there, here, at) or libc.memcmp(there + tail, here + tail, w[ANSWER_BYTES] - tail):
        return False
    write_key(w[KEY_SEED], conn[fd].serial, hello, w[KEY_AT])
    accept_value(hello, w[KEY_AT], accept, 0, scratch)
    return libc.memcmp(accept.ctypes.data, here + at, ACCEPT_BYTES) == 0


@njit
def answered(fd, size, w, row, conn, pair, buffer, frame, answer, hello, accept, scratch):
    """Count a connection as open if the buffer has the known answer, and behind it only whole data frames."""
    behind = w[ANSWER_BYTES]
    if behind == 0 or size < behind:
        return False
    if size > behind and not only_counts(behind, size, 0, w, buffer, frame):
        return False
    if not is_answer(fd, w, conn, buffer, answer, hello, accept, scratch):
        return False
    opened(fd, w, row, conn, pair)
    count_unasked(behind, size, w, row, pair, buffer)
    return True


@njit
def is_ping(size, buffer):
    """Tell whether the buffer holds one whole ping and nothing else."""
    return size >= 2 and buffer[0] == PING and buffer[1] < 126 and size == 2 + np.int64(buffer[1])


@njit
def pong(fd, size, w, pair, buffer):
    """Answer the ping in the buffer (RFC 6455, 5.5.3); return the reason to leave the loop, or -1."""
    mask = drawn(w[MESSAGE_SEED], libc.clock(pair))
    # The mask comes between header and payload. From the end, as the two overlap.
    for n in range(size - 3, -1, -1):
        buffer[6 + n] = buffer[2 + n] ^ np.uint8(mask >> np.uint64(8 * (n & 3)))
    for n in range(4):
        buffer[2 + n] = np.uint8(mask >> np.uint64(8 * n))
    buffer[0] = PONG
    buffer[1] |= 0x80
    sent = libc.write(fd, buffer.ctypes.data, size + 4)
    if sent == size + 4:
        return -1
    if sent < 0:
        error = libc.errno()
        if error != libc.EAGAIN:
            return gone(fd, error, w)
        sent = 0
    w[FD], w[START], w[SIZE] = fd, sent, size + 4 - sent
    return PARTLY_SENT


@njit(forceinline=True)
def receive(websocket, fd, size, w, reals, row, conn, event, pair, buffer, frame, answer, hello, accept, scratch):
    """Take what was read from a connection; return the reason to leave the loop, or -1."""
    state = conn[fd].state
    what = state & STATE
    if w[PLAIN] and not state & SLOW:
        if what == WAITING:
            total = header_size(w[MESSAGE_BYTES], w[HEARS]) + w[MESSAGE_BYTES]
            got = conn[fd].got
            seed = seed_of(w[MESSAGE_SEED], fd)
            if size <= total - got:
                write_frame(seed, conn[fd].serial, w[MESSAGE_BYTES], False, w[HEARS], got, size, frame)
                if libc.memcmp(frame.ctypes.data, buffer.ctypes.data, size) == 0:
                    conn[fd].got = np.uint32(got + size)
                    if got + size < total:
                        return -1
                    echoed(fd, w, row, conn, pair)
                    return say_what_is_owed(websocket, fd, w, reals, row, conn, event, pair, frame)
            if w[COUNTS_UNASKED] and got == 0:
                write_frame(seed, conn[fd].serial, w[MESSAGE_BYTES], False, w[HEARS], 0, total, frame)
                if only_counts(0, size, total, w, buffer, frame):
                    if count_unasked(0, size, w, row, pair, buffer):
                        echoed(fd, w, row, conn, pair)
                        return say_what_is_owed(websocket, fd, w, reals, row, conn, event, pair, frame)
                    return -1
        elif what == UPGRADING:
            if not websocket:
                if size == 1 and buffer[0] == hello[0]:
                    opened(fd, w, row, conn, pair)
                    return -1
            elif answered(fd, size, w, row, conn, pair, buffer, frame, answer, hello, accept, scratch):
                return -1
        elif what == OPEN and w[COUNTS_UNASKED] and only_counts(0, size, 0, w, buffer, frame):
            count_unasked(0, size, w, row, pair, buffer)
            return -1
        if (
            websocket
            and what in (OPEN, WAITING)
            and conn[fd].got == 0
            and not state & (KEPT | HALF)
            and is_ping(size, buffer)
        ):
            return pong(fd, size, w, pair, buffer)
    w[FD], w[SIZE] = fd, size
    return BYTES


# The loop.


@njit
def overdue(now, w, row, conn):
    """Find a connection that has waited too long for an answer; return the reason to leave the loop, or -1."""
    if row[board.PENDING] + w[DUE] > 0:
        for fd in range(w[CHECKED], w[TOP]):
            what = conn[fd].state & STATE
            if what in (NONE, OPEN):
                continue
            patience = w[ECHO_TIMEOUT_NS] if what == WAITING else w[TIMEOUT_NS]
            if now - conn[fd].started >= patience:
                w[CHECKED], w[FD] = fd + 1, fd
                return OVERDUE
    w[CHECKED] = 0
    w[CHECK_AT] = now + CHECK_NS
    return -1


@njit(forceinline=True)
def do_what_is_due(websocket, w, reals, row, conn, event, pair, buffer, frame, sources, destinations, hello, slots):
    """Dial, talk, verify and give up as the schedules say; return the reason to leave, or -1 - ms until more is due."""
    wait = -1
    if w[DIALLING]:
        reason = dial_what_is_due(
            websocket, w, reals, row, conn, event, pair, sources, destinations, hello, slots, buffer
        )
        if reason >= 0:
            return reason
        wait = -1 - reason
    if w[TALKING]:
        reason = talk_as_scheduled(websocket, w, reals, row, conn, event, pair, frame)
        if reason >= 0:
            return reason
        wait = -1 - reason if wait < 0 else min(wait, -1 - reason)
    elif w[VERIFYING]:
        reason = verify_more(websocket, w, row, conn, event, pair, frame)
        if reason >= 0:
            return reason
    if wait < 0 and (w[VERIFYING] or row[board.PENDING] or w[DUE]):
        wait = CHECK_NS
    now = libc.clock(pair)
    if now >= w[CHECK_AT]:
        reason = overdue(now, w, row, conn)
        if reason >= 0:
            return reason
    return -1 - (w[WAIT_MS] if wait < 0 else min(w[WAIT_MS], (wait + 999_999) // 1_000_000))


@njit(forceinline=True)
def work(
    websocket, w, reals, row, conn, events, buffer, frame, sources, destinations, hello, slots, answer, accept, scratch
):
    """Do what is due and take what comes until something is for Python; return the reason."""
    event, pair = libc.rooms(w)
    while True:
        if w[NEXT] >= w[EVENTS]:
            reason = do_what_is_due(
                websocket, w, reals, row, conn, event, pair, buffer, frame, sources, destinations, hello, slots
            )
            if reason >= 0:
                return reason
            count = libc.epoll_wait(w[EPOLL], events.ctypes.data, EVENTS_PER_WAIT, -1 - reason)
            w[NEXT] = 0
            w[EVENTS] = max(count, 0)  # EINTR is nothing but a wait without events.
        while w[NEXT] < w[EVENTS]:
            at = w[NEXT] * EVENT_WORDS
            w[NEXT] += 1
            mask, fd = events[at], np.int64(events[at + EVENT_FD])
            reason = -1
            if fd < 0:
                continue  # closed by Python after the kernel had told of it
            if fd == w[COMMANDS]:
                return COMMAND
            state = conn[fd].state
            if mask & libc.EPOLLERR:
                return gone(fd, libc.socket_error(fd, pair), w)
            if mask & libc.EPOLLOUT:
                if (state & STATE) == CONNECTING:
                    reason = connected(websocket, fd, w, row, conn, event, hello, slots, buffer)
                elif state & HALF and (conn[fd].sent > 0 or not state & KEPT):
                    reason = send_more(websocket, fd, w, conn, event, frame)
                    if reason < 0:
                        reason = say_what_is_owed(websocket, fd, w, reals, row, conn, event, pair, frame)
                elif state & KEPT:
                    w[FD] = fd
                    reason = WRITABLE
                if reason < 0 and mask & (libc.EPOLLIN | libc.EPOLLHUP):
                    mask = libc.EPOLLIN
            if reason < 0 and not mask & libc.EPOLLOUT:
                size = libc.read(fd, buffer.ctypes.data, buffer.size)
                if size > 0:
                    reason = receive(
                        websocket, fd, size, w, reals, row, conn, event, pair, buffer, frame, answer, hello, accept,
                        scratch,
                    )  # fmt: skip
                elif size == 0:
                    reason = gone(fd, libc.ESHUTDOWN, w)
                else:
                    error = libc.errno()
                    if error != libc.EAGAIN:
                        reason = gone(fd, error, w)
            if reason >= 0:
                return reason
        if w[TICK_AT] < NEVER and libc.clock(pair) >= w[TICK_AT]:
            w[TICK_AT] = libc.clock(pair) + w[TICK_NS]
            return TICK


_bytes, _words = types.uint8[::1], types.int64[::1]
_table = records(SWARM_CONNECTION)
_arguments = (
    _words,
    types.float64[::1],  # reals
    _words,  # row
    _table,  # conn
    types.int32[::1],  # events
    _bytes,  # buffer
    _bytes,  # frame
    _bytes,  # sources
    _bytes,  # destinations
    _bytes,  # hello
    _words,  # slots
    _bytes,  # answer
    _bytes,  # accept
    types.uint32[::1],  # scratch
)


@njit(types.int64(*_arguments), nogil=True)
def websocket_loop(
    w, reals, row, conn, events, buffer, frame, sources, destinations, hello, slots, answer, accept, scratch
):
    """Speak WebSocket; see `work`."""
    return work(
        True, w, reals, row, conn, events, buffer, frame, sources, destinations, hello, slots, answer, accept, scratch
    )


@njit(types.int64(*_arguments), nogil=True)
def floor_loop(
    w, reals, row, conn, events, buffer, frame, sources, destinations, hello, slots, answer, accept, scratch
):
    """Speak the bytes of the floor; see `work`."""
    return work(
        False, w, reals, row, conn, events, buffer, frame, sources, destinations, hello, slots, answer, accept, scratch
    )


# What the slow path does with a connection the same way as the loop does.


@njit(types.void(types.int64, _words, _words, _table))
def open_counted(fd, w, row, conn):
    """Count a connection as open; see `opened`."""
    opened(fd, w, row, conn, libc.rooms(w)[1])


@njit(types.int64(types.int64, types.int64, _words, _words, _table, *5 * (_bytes,), types.uint32[::1]))
def open_if_known(fd, size, w, row, conn, buffer, frame, answer, hello, accept, scratch):
    """Count a connection as open if its answer is the known one; 1 if it is so. See `answered`."""
    return 1 if answered(fd, size, w, row, conn, libc.rooms(w)[1], buffer, frame, answer, hello, accept, scratch) else 0


@njit(types.void(types.int64, _words, _words, _table))
def echo_counted(fd, w, row, conn):
    """Count a right echo; see `echoed`."""
    echoed(fd, w, row, conn, libc.rooms(w)[1])


@njit(types.int64(types.boolean, types.int64, _words, types.float64[::1], _words, _table, _bytes))
def next_message(websocket, fd, w, reals, row, conn, frame):
    """Send the message that had to wait; see `say_what_is_owed`."""
    event, pair = libc.rooms(w)
    return say_what_is_owed(websocket, fd, w, reals, row, conn, event, pair, frame)


@njit(types.void(types.int64, _words, _table))
def wait_again(fd, w, conn):
    """Ask for what a connection waits for; see `wait_for`."""
    wait_for(fd, w, conn, libc.rooms(w)[0])


@njit(types.int64(types.int64, types.int64, types.int64, types.int64, _words, _bytes))
def echo_part(fd, serial, offset, limit, w, out):
    """Write a part of the echo of a message; see `write_frame`."""
    return write_frame(seed_of(w[MESSAGE_SEED], fd), serial, w[MESSAGE_BYTES], False, w[HEARS], offset, limit, out)


@njit(types.int64(_words, _table))
def first_open(w, conn):
    """Return the descriptor of an open connection; -1 = there is none."""
    return next_open(0, -1, w, conn)


@njit(types.void(_bytes, _words, _words))
def broadcast_counted(message, w, row):
    """Count one more connection that has a broadcast; see `note_broadcast`."""
    note_broadcast(hash_of(message, 0, message.size), libc.clock(libc.rooms(w)[1]), row)


@njit(types.int64(_bytes))
def hash_of_message(message):
    """Return the hash of a whole message; see `hash_of`."""
    return hash_of(message, 0, message.size)


@njit(types.void(types.int64, types.int64, _bytes))
def key_of(seed, serial, out):
    """Write the key of a dial; see `write_key`."""
    write_key(seed, serial, out, 0)


@njit(types.void(types.int64, _words, types.int32[::1]))
def untell(fd, w, events):
    """Forget what the kernel has told of a descriptor; see `wslab.load.engine.libc`."""
    libc.untell(fd, w, events)


@njit(types.void(types.int64, _words, _table))
def begin_anew(flag, w, conn):
    """Forget what messages are owed, and a flag of every connection."""
    for fd in range(w[TOP]):
        conn[fd].owed = 0
        conn[fd].state &= ~flag
