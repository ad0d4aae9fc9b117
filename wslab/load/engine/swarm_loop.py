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
5. A request has fields of its own (`slots`) where the path or a header asks for them; it is then put together anew.
6. Failures are counted in Python, in one place: the loop says what happened to which descriptor.
"""

from __future__ import annotations

import numpy as np
from numba import types

from wslab.core import histogram, pacer
from wslab.load import scoreboard as board
from wslab.load.engine import libc
from wslab.load.engine.compiling import njit, records
from wslab.load.engine.state import (
    BYTES,
    COMMAND,
    COMMANDS,
    CONNECTING,
    DIAL_FAILED,
    EPOLL,
    ERROR,
    EVENT_FD,
    EVENT_WORDS,
    EVENTS,
    EVENTS_PER_WAIT,
    FD,
    GONE,
    HALF,
    KEPT,
    NEXT,
    NONE,
    OPEN,
    OVERDUE,
    PARTLY_SENT,
    PLAIN,
    PROVED,
    SIZE,
    SLOW,
    SPEAK,
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
from wslab.load.engine.swarm_words import (
    ACCEPT_AT,
    ADDRESS_BYTES,
    ANSWER_BYTES,
    BEGAN,
    BURST,
    CHECK_AT,
    CHECK_NS,
    CHECKED,
    CLIMB_DONE,
    CONNECTIONS,
    COUNTS_UNASKED,
    CURSOR,
    DIALLED,
    DIALLING,
    DUE,
    ECHO_TIMEOUT_NS,
    FAILURES_IN_A_ROW,
    FAMILY,
    FANS_OUT,
    FIRST_NUMBER,
    HEARS,
    HEX_BYTES,
    HEX_SEED,
    KEY_AT,
    KEY_SEED,
    MESSAGE_BYTES,
    MESSAGE_RATE,
    MESSAGE_SEED,
    NEVER,
    NEXT_AT,
    OFFER_MIN,
    OWED_MAX,
    PASSES,
    PENDING_MAX,
    PORTS_AT_BIND,
    RAMP_DONE,
    RATE,
    SAYS,
    SERIAL,
    SLOT_HEX,
    SOUGHT,
    START_AFTER,
    TALK_UNTIL,
    TALKING,
    TELLS,
    TIMEOUT_NS,
    TOP,
    VERIFY_DONE,
    VERIFYING,
    WINDOW,
)
from wslab.load.engine.wire import accept_value, drawn, header_size, seed_of, write_frame, write_key
from wslab.load.engine.wire_format import ACCEPT_BYTES, BINARY, TEXT

HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8).copy()

due = njit(pacer.due)
bucket_of = njit(histogram.bucket_of)


@njit
def record(kind, ns, row):
    """Add a latency to a histogram of the scoreboard."""
    row[kind + bucket_of(ns * 1e-9)] += 1


@njit
def note_lag(ns, row):
    """Publish how far behind the schedule this worker is, if it is the worst since the recorder looked."""
    row[board.LAG_US] = max(row[board.LAG_US], ns // 1000)


@njit
def gone(fd, error, w):
    """Leave the loop because a connection is broken or has ended."""
    w[FD], w[ERROR] = fd, error
    return GONE


@njit
def wait_for(fd, w, conn, event):
    """Ask for what a connection waits for."""
    mask = libc.EPOLLIN
    if conn[fd].state & (KEPT | HALF):
        mask |= libc.EPOLLOUT
    libc.watch(w[EPOLL], libc.EPOLL_CTL_MOD, fd, mask, event)


# Dialling.


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


@njit
def opened(fd, w, row, conn, pair):
    """Count a connection as open."""
    conn[fd].state = (conn[fd].state & ~STATE) | OPEN
    row[board.PENDING] -= 1
    row[board.OPEN] += 1
    row[board.OPENED] += 1
    w[FAILURES_IN_A_ROW] = 0
    record(board.HANDSHAKE, libc.clock(pair) - conn[fd].scheduled, row)


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


# Talking.


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


@njit
def echoed(fd, w, row, conn, pair):
    """Count a right echo."""
    c = conn[fd]
    c.state = (c.state & ~STATE) | OPEN
    c.got = 0
    w[DUE] -= 1
    row[board.RECEIVED] += 1
    record(board.ROUNDTRIP, libc.clock(pair) - c.scheduled, row)
    if w[VERIFYING] and not c.state & PROVED:
        c.state |= PROVED
        row[board.VERIFIED] += 1


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
