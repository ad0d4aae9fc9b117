"""The loop of a server shard: accept, upgrade, echo; WebSocket, or the bare bytes of the floor.

1. The plain request is one whose bytes around its key have been judged good before: Python puts them into `known`.
2. The plain message is a single, masked, unfragmented data frame. One whose end was not read with its header is put
   together in a block (see `blocks`), and an echo of such that the peer does not take at once goes from there.
3. Shards take turns to accept: only the first TURNS that have descriptors left wait on the listener, because every
   process that waits there costs each new connection a wake-up. `door` is shared by the shards of a server: who is
   full or dead, how many each has accepted, and who waits on the listener. Who becomes full wakes those that are next.
4. A shard stops waiting on the listener before accept would fail for want of descriptors, and looks again after a
   connection has ended, or at the next tick.
"""

from __future__ import annotations

import numpy as np
from numba import types

from wslab.load import scoreboard as board
from wslab.load.engine import blocks, libc
from wslab.load.engine.compiling import njit, records
from wslab.load.engine.server_words import (
    ACCEPT_AT,
    ACCEPTED,
    ACCEPTING,
    ACCEPTS_PER_EVENT,
    AT_THE_DOOR,
    BLOCK_BYTES,
    BLOCK_BYTES_MAX,
    CAPACITY,
    FANS_OUT,
    FREE,
    FULL,
    HELD,
    INDEX,
    KNOWN,
    LEAVING_COUNT,
    LETTER_BOX,
    LISTENER,
    LOOK_AGAIN,
    MESSAGE_BYTES_MAX,
    OUT_OF_TURN,
    ROOM,
    TOP,
    TURNS,
    WAKER,
)
from wslab.load.engine.state import (
    ACCEPT_FAILED,
    BLOCK,
    BYTES,
    COMMAND,
    COMMANDS,
    EPOLL,
    ERROR,
    EVENT_FD,
    EVENT_WORDS,
    EVENTS,
    EVENTS_PER_WAIT,
    FD,
    GONE,
    KEPT,
    LEAVING,
    MAIL,
    NEXT,
    NO_TEXT,
    NONE,
    OPEN,
    PARTLY_SENT,
    PLAIN,
    READ_BYTES,
    SERVER_CONNECTION,
    SIZE,
    SLOW,
    START,
    STATE,
    TICK,
    TICK_AT,
    TICK_NS,
    TOO_MUCH,
    UPGRADING,
    WAIT_MS,
    WRITABLE,
)
from wslab.load.engine.wire import accept_value, header_size, is_key, is_text, unmask
from wslab.load.engine.wire_format import BINARY, KEY_BYTES, PING, PONG, TEXT

_words, _board_row, _table = types.int64[::1], types.int64[::1], records(SERVER_CONNECTION)
_door = types.int64[:, ::1]


@njit
def before_me(w, door):
    """Count the shards with a smaller number that can accept."""
    count = 0
    for other in range(w[INDEX]):
        if door[ROOM, other] == FREE:
            count += 1
    return count


@njit
def accept_if_in_turn(w, row, event, door):
    """Wait for new connections, or stop it, as the turn and the room for more of them say."""
    w[LOOK_AGAIN] = 0
    room = w[HELD] < w[CAPACITY]
    if not room and door[ROOM, w[INDEX]] == FREE:
        door[ROOM, w[INDEX]] = FULL
    elif room and door[ROOM, w[INDEX]] == FULL:
        door[ROOM, w[INDEX]] = FREE
    row[board.AT_LIMIT] = 0 if room else 1
    wanted = room and (w[OUT_OF_TURN] == 1 or before_me(w, door) < w[TURNS])
    if wanted and not w[ACCEPTING]:
        mask = libc.EPOLLIN | libc.EPOLLEXCLUSIVE
        # It fails when another process took the last epoll watch of this user; the next tick tries again.
        if libc.watch(w[EPOLL], libc.EPOLL_CTL_ADD, w[LISTENER], mask, event) == 0:
            w[ACCEPTING] = door[AT_THE_DOOR, w[INDEX]] = 1
    elif not wanted and w[ACCEPTING]:
        libc.watch(w[EPOLL], libc.EPOLL_CTL_DEL, w[LISTENER], 0, event)
        w[ACCEPTING] = door[AT_THE_DOOR, w[INDEX]] = 0


@njit
def stop_accepting(w, row, event, door):
    """Wait for no more connections, until some have ended or the next tick; wake others if too few are left."""
    me = w[INDEX]
    if w[ACCEPTING]:
        libc.watch(w[EPOLL], libc.EPOLL_CTL_DEL, w[LISTENER], 0, event)
        w[ACCEPTING] = door[AT_THE_DOOR, me] = 0
    if w[HELD] >= w[CAPACITY]:
        row[board.AT_LIMIT] = 1
        door[ROOM, me] = FULL
    there, elsewhere = 0, 0
    for other in range(door.shape[1]):
        if door[ROOM, other] == FREE and other != me:
            if door[AT_THE_DOOR, other]:
                there += 1
            else:
                elsewhere += 1
    if there < w[TURNS] and elsewhere:
        event[0] = 1
        event[1] = 0
        libc.write(w[WAKER], event.ctypes.data, 8)


@njit(types.int64(types.int64, _words, _board_row, types.int32[::1], _door))
def accept_failed(error, w, row, event, door):
    """Step back from the listener after accept or epoll_ctl has failed; return the reason to leave the loop, or -1.

    Without a descriptor it is this process that is full, earlier than its limit said (`fs.nr_open` is lower by now):
    nobody else is to blame, and nothing is counted.
    """
    if error == libc.EMFILE:
        w[CAPACITY] = max(1, w[HELD])
    stop_accepting(w, row, event, door)
    if error == libc.EMFILE:
        row[board.AT_LIMIT] = 1
        return -1
    w[ERROR] = error
    return ACCEPT_FAILED


@njit
def close_connection(fd, w, row, conn):
    """Close a connection and count it as what it was."""
    if conn[fd].state & BLOCK:
        blocks.end(fd, w, conn)
    what = conn[fd].state & STATE
    if what == UPGRADING:
        row[board.PENDING] -= 1
        row[board.FAILED] += 1
    elif what == LEAVING:
        w[LEAVING_COUNT] -= 1
    else:
        row[board.OPEN] -= 1
        row[board.CLOSED] += 1
    conn[fd].state = NONE
    libc.close(fd)
    w[HELD] -= 1
    if not w[ACCEPTING]:
        w[LOOK_AGAIN] = 1


@njit
def gone(fd, error, w, row, conn):
    """See a connection off; return the reason to leave the loop when Python keeps something of it, or -1."""
    if conn[fd].state & (SLOW | KEPT):
        w[FD], w[ERROR] = fd, error
        return GONE
    close_connection(fd, w, row, conn)
    return -1


@njit
def send(fd, buffer, start, size, w, row, conn):
    """Send from the buffer; return the reason to leave the loop when not all was taken, or -1."""
    sent = libc.write(fd, buffer.ctypes.data + start, size)
    if sent == size:
        return -1
    if sent < 0:
        error = libc.errno()
        if error != libc.EAGAIN:
            return gone(fd, error, w, row, conn)
        sent = 0
    w[FD], w[START], w[SIZE] = fd, start + sent, size - sent
    return PARTLY_SENT


@njit
def to_python(fd, size, w):
    """Hand the bytes in the buffer to Python."""
    w[FD], w[SIZE] = fd, size
    return BYTES


@njit
def greet(fd, size, w, row, conn, buffer, known, known_sizes, answer, scratch):
    """Answer an upgrade request that is known but for its key."""
    for n in range(w[KNOWN]):
        head = known_sizes[n, 0]
        if known_sizes[n, 1] != size:
            continue
        tail = head + KEY_BYTES
        there, here = known[n].ctypes.data, buffer.ctypes.data
        if libc.memcmp(there, here, head) or libc.memcmp(there + tail, here + tail, size - tail):
            continue
        if not is_key(buffer, head):
            break
        accept_value(buffer, head, answer, ACCEPT_AT, scratch)
        opened(fd, row, conn)
        libc.memcpy(here, answer.ctypes.data, answer.size)
        return send(fd, buffer, 0, answer.size, w, row, conn)
    return to_python(fd, size, w)


@njit
def opened(fd, row, conn):
    """Count a connection as open."""
    conn[fd].state = (conn[fd].state & ~STATE) | OPEN
    row[board.PENDING] -= 1
    row[board.OPEN] += 1
    row[board.OPENED] += 1


@njit
def talk(fd, size, w, row, conn, buffer):
    """Echo a message that is one whole frame, and answer such a ping."""
    first, second = buffer[0], buffer[1]
    if first == PING and 0x80 <= second < 0xFE and size == 6 + (second & 0x7F):
        unmask(buffer, 6, size - 6, 2)
        buffer[4], buffer[5] = PONG, second & 0x7F
        return send(fd, buffer, 4, size - 4, w, row, conn)
    if first < TEXT or first > BINARY or second < 0x80 or size < 6 or w[FANS_OUT]:
        return to_python(fd, size, w)
    payload = np.int64(second & 0x7F)
    header = 2
    if payload > 125:
        header = 4 if payload == 126 else 10
        if size < header + 4:
            return to_python(fd, size, w)
        payload = np.int64(0)
        for n in range(2, header):
            payload = (payload << 8) | np.int64(buffer[n])
        # A length that would do with fewer bytes, one that is negative, and a message that is too long.
        if header_size(payload, first) != header or payload > MESSAGE_BYTES_MAX:
            return to_python(fd, size, w)
    if size != header + 4 + payload:
        if size > header + 4 + payload:
            return to_python(fd, size, w)
        return begin_block(fd, header, payload, size, w, conn, buffer)
    start = header + 4
    ascii = unmask(buffer, start, payload, header)
    if first == TEXT and not ascii and not is_text(buffer, start, payload):
        unmask(buffer, start, payload, header)  # As it came: the library judges it and says why.
        return to_python(fd, size, w)
    row[board.RECEIVED] += 1
    row[board.SENT] += 1
    # The header of the echo takes the place of the mask. From the end, as the two overlap.
    for n in range(header - 1, 0, -1):
        buffer[4 + n] = buffer[n]
    buffer[5] &= 0x7F
    buffer[4] = first
    return send(fd, buffer, 4, header + payload, w, row, conn)


@njit
def begin_block(fd, header, payload, size, w, conn, buffer):
    """Put what has come of a message into a block; return the reason to leave the loop, or -1."""
    mask = np.int64(0)
    for n in range(4):
        mask |= np.int64(buffer[header + n]) << (8 * n)
    block = blocks.begin(payload, buffer[0], mask, w)
    if block == 0:
        return to_python(fd, size, w)
    conn[fd].state |= BLOCK
    conn[fd].since = block
    start = header + 4
    libc.memcpy(block + blocks.PAYLOAD_AT, buffer.ctypes.data + start, size - start)
    blocks.come(block, size - start, w)
    return TOO_MUCH if w[BLOCK_BYTES] > w[BLOCK_BYTES_MAX] else -1


@njit
def receive_block(fd, now, w, row, conn, event):
    """Read more of the message in a block, and echo it once it is whole; return the reason to leave, or -1."""
    block = conn[fd].since
    words = blocks.words_of(block)
    got, payload = words[blocks.GOT], words[blocks.PAYLOAD]
    size = libc.read(fd, block + blocks.PAYLOAD_AT + got, payload - got)
    if size <= 0:
        error = libc.errno() if size < 0 else 0
        return -1 if error == libc.EAGAIN else gone(fd, error, w, row, conn)
    if not blocks.come(block, size, w):
        return TOO_MUCH if w[BLOCK_BYTES] > w[BLOCK_BYTES_MAX] else -1
    if not blocks.is_good(block):
        w[FD], w[SIZE] = fd, payload
        return NO_TEXT
    row[board.RECEIVED] += 1
    row[board.SENT] += 1
    blocks.turn_round(block)
    return send_block(fd, now, w, row, conn, event)


@njit
def send_block(fd, now, w, row, conn, event):
    """Send what the peer takes of the echo in a block; return the reason to leave the loop, or -1.

    With EPOLLOUT alone, nothing more is read from the peer until it has taken all.
    """
    block = conn[fd].since
    words = blocks.words_of(block)
    header = header_size(words[blocks.PAYLOAD], words[blocks.FIRST])
    sent, left = words[blocks.SENT], header + words[blocks.PAYLOAD] - words[blocks.SENT]
    taken = libc.write(fd, block + blocks.PAYLOAD_AT - header + sent, left)
    if taken < 0:
        error = libc.errno()
        if error != libc.EAGAIN:
            return gone(fd, error, w, row, conn)
        taken = 0
    waited = words[blocks.MOVED_AT] > 0
    if taken == left:
        blocks.end(fd, w, conn)
        if waited:
            libc.watch(w[EPOLL], libc.EPOLL_CTL_MOD, fd, libc.EPOLLIN, event)
        return -1
    words[blocks.SENT] = sent + taken
    if taken or not waited:
        words[blocks.MOVED_AT] = now
    if not waited:
        libc.watch(w[EPOLL], libc.EPOLL_CTL_MOD, fd, libc.EPOLLOUT, event)
    return TOO_MUCH if w[BLOCK_BYTES] > w[BLOCK_BYTES_MAX] else -1


@njit(forceinline=True)
def receive(websocket, fd, size, w, row, conn, buffer, known, known_sizes, answer, scratch):
    """Take what was read from a connection; return the reason to leave the loop, or -1."""
    state = conn[fd].state
    if state == LEAVING:
        return -1
    if not websocket:
        if (state & STATE) == UPGRADING:
            opened(fd, row, conn)
            size_of_message = size - 1
        else:
            size_of_message = size
        if size_of_message:
            row[board.RECEIVED] += 1
            row[board.SENT] += 1
        return send(fd, buffer, 0, size, w, row, conn)
    if state & SLOW or not w[PLAIN]:
        return to_python(fd, size, w)
    if state == OPEN:
        return talk(fd, size, w, row, conn, buffer)
    return greet(fd, size, w, row, conn, buffer, known, known_sizes, answer, scratch)


@njit(forceinline=True)
def take(websocket, now, w, row, conn, event, buffer, known, known_sizes, answer, scratch, door):
    """Accept a burst, and greet at once whoever has already spoken; return the reason to leave the loop, or -1."""
    for _ in range(ACCEPTS_PER_EVENT):
        if w[HELD] >= w[CAPACITY]:
            stop_accepting(w, row, event, door)
            return -1
        fd = libc.accept4(w[LISTENER], 0, 0, libc.SOCK_NONBLOCK | libc.SOCK_CLOEXEC)
        if fd < 0:
            error = libc.errno()
            if error == libc.EAGAIN:
                return -1
            if error == libc.EMFILE or error == libc.ENFILE or error == libc.ENOBUFS or error == libc.ENOMEM:
                return accept_failed(error, w, row, event, door)
            continue  # The peer left between its connect and our accept.
        if fd >= conn.size:
            libc.close(fd)
            return accept_failed(libc.EMFILE, w, row, event, door)
        error = libc.watch(w[EPOLL], libc.EPOLL_CTL_ADD, fd, libc.EPOLLIN, event)
        if error:
            libc.close(fd)
            row[board.FAILED] += 1
            return accept_failed(error, w, row, event, door)
        w[HELD] += 1
        w[TOP] = max(w[TOP], fd + 1)
        door[ACCEPTED, w[INDEX]] += 1
        row[board.PENDING] += 1
        conn[fd].state = UPGRADING
        conn[fd].since = now
        size = libc.read(fd, buffer.ctypes.data, READ_BYTES)
        if size > 0:
            reason = receive(websocket, fd, size, w, row, conn, buffer, known, known_sizes, answer, scratch)
        elif size < 0 and libc.errno() == libc.EAGAIN:
            continue
        else:
            reason = gone(fd, 0, w, row, conn)
        if reason >= 0:
            return reason
    return -1


@njit(forceinline=True)
def serve(websocket, w, row, conn, events, buffer, known, known_sizes, answer, scratch, door):
    """Serve until something is for Python; return the reason."""
    event, pair = libc.rooms(w)
    while True:
        if w[NEXT] >= w[EVENTS]:
            if w[LOOK_AGAIN]:
                accept_if_in_turn(w, row, event, door)
            count = libc.epoll_wait(w[EPOLL], events.ctypes.data, EVENTS_PER_WAIT, w[WAIT_MS])
            w[NEXT] = 0
            w[EVENTS] = max(count, 0)  # EINTR is nothing but a wait without events.
        now = libc.clock(pair)
        while w[NEXT] < w[EVENTS]:
            at = w[NEXT] * EVENT_WORDS
            w[NEXT] += 1
            mask, fd = events[at], np.int64(events[at + EVENT_FD])
            reason = -1
            if fd < 0:
                continue  # closed by Python after the kernel had told of it
            if fd == w[LISTENER]:
                reason = take(websocket, now, w, row, conn, event, buffer, known, known_sizes, answer, scratch, door)
            elif fd == w[COMMANDS]:
                return COMMAND
            elif fd == w[WAKER]:
                w[LOOK_AGAIN] = 1
            elif fd == w[LETTER_BOX]:
                return MAIL
            elif mask & libc.EPOLLERR:
                reason = gone(fd, libc.socket_error(fd, pair), w, row, conn)
            elif mask & libc.EPOLLOUT:
                if not conn[fd].state & BLOCK:
                    w[FD] = fd
                    return WRITABLE
                reason = send_block(fd, now, w, row, conn, event)
            elif conn[fd].state & BLOCK:
                reason = receive_block(fd, now, w, row, conn, event)
            else:
                size = libc.read(fd, buffer.ctypes.data, READ_BYTES)
                if size > 0:
                    reason = receive(websocket, fd, size, w, row, conn, buffer, known, known_sizes, answer, scratch)
                else:
                    error = libc.errno() if size < 0 else 0
                    if error != libc.EAGAIN:
                        reason = gone(fd, error, w, row, conn)
            if reason >= 0:
                return reason
        if now >= w[TICK_AT]:
            w[TICK_AT] = now + w[TICK_NS]
            return TICK


_arguments = (
    _words,
    _board_row,
    _table,
    types.int32[::1],  # events
    types.uint8[::1],  # buffer
    types.uint8[:, ::1],  # known
    types.int64[:, ::1],  # known_sizes
    types.uint8[::1],  # answer
    types.uint32[::1],  # scratch
    _door,
)


@njit(types.int64(*_arguments), nogil=True)
def lean_loop(w, row, conn, events, buffer, known, known_sizes, answer, scratch, door):
    """Serve WebSocket; see `serve`."""
    return serve(True, w, row, conn, events, buffer, known, known_sizes, answer, scratch, door)


@njit(types.int64(*_arguments), nogil=True)
def floor_loop(w, row, conn, events, buffer, known, known_sizes, answer, scratch, door):
    """Echo bytes; see `serve`."""
    return serve(False, w, row, conn, events, buffer, known, known_sizes, answer, scratch, door)


@njit(types.void(types.int64, _words, _board_row, _table, types.int32[::1]))
def close_counted(fd, w, row, conn, events):
    """Close a connection from Python; see `close_connection`."""
    libc.untell(fd, w, events)
    close_connection(fd, w, row, conn)


@njit(types.void(types.int64, _board_row, _table))
def open_counted(fd, row, conn):
    """Count a connection as open from Python; see `opened`."""
    opened(fd, row, conn)


@njit(types.int64(types.int64, _words, _board_row, _table, types.uint8[::1]))
def fan_out(start, w, row, conn, frame):
    """Send a frame to all open connections from descriptor `start` on, until one of them does not take all of it.

    Returns its descriptor, with what it took in START (below 0: an error, which is in ERROR); -1 = there is none.
    """
    for fd in range(start, w[TOP]):
        state = conn[fd].state
        if (state & STATE) != OPEN:
            continue
        row[board.SENT] += 1
        sent = 0
        if not state & KEPT:
            sent = libc.write(fd, frame.ctypes.data, frame.size)
            if sent == frame.size:
                continue
            if sent < 0:
                w[ERROR] = libc.errno()
                if w[ERROR] == libc.EAGAIN:
                    sent = 0
        w[START] = sent
        return fd
    return -1


@njit(types.void(types.int64))
def return_memory(threshold):
    """Give freed memory back to the machine, and have blocks of `threshold` bytes or more given back at once."""
    libc.mallopt(libc.M_MMAP_THRESHOLD, threshold)
    libc.malloc_trim(0)


@njit(types.int64(types.int64, types.int64, _words, _board_row, _table, *_arguments[4:9]))
def greet_again(fd, size, w, row, conn, buffer, known, known_sizes, answer, scratch):
    """Answer the request in the buffer if it is known by now; see `greet`."""
    return greet(fd, size, w, row, conn, buffer, known, known_sizes, answer, scratch)


@njit(types.int64(types.int64, types.int64, types.int64, _words, _table))
def next_since(start, what, since, w, conn):
    """Return the first descriptor from `start` on that has been `what` since `since` (ns) or earlier; -1 = none."""
    for fd in range(start, w[TOP]):
        if (conn[fd].state & STATE) == what and conn[fd].since <= since:
            return fd
    return -1


# Blocks, for Python.


@njit(types.int64(types.int64, types.int64, _words, _table))
def next_block(start, taken_before, w, conn):
    """Return the first descriptor from `start` on with a block, of whose echo nothing was taken since that moment (ns).

    Where it is 0, it is the first one with a block; -1 = there is none.
    """
    for fd in range(start, w[TOP]):
        if conn[fd].state & BLOCK:
            moved_at = blocks.words_of(conn[fd].since)[blocks.MOVED_AT]
            if not taken_before or 0 < moved_at <= taken_before:
                return fd
    return -1


@njit(types.int64(types.int64, _table))
def block_bytes(fd, conn):
    """Return how much memory the block of a connection takes, about."""
    return blocks.OVERHEAD_BYTES + blocks.words_of(conn[fd].since)[blocks.GOT]


@njit(types.int64(types.int64, _table))
def block_moved_at(fd, conn):
    """Return when the peer last took something of the echo in a block, in ns; 0 = it has all that there is."""
    return blocks.words_of(conn[fd].since)[blocks.MOVED_AT]


@njit(types.void(types.int64, _table, types.uint8[::1]))
def copy_block(fd, conn, out):
    """Copy the payload in a block, unmasked."""
    libc.memcpy(out.ctypes.data, conn[fd].since + blocks.PAYLOAD_AT, out.size)


@njit(types.void(types.int64, _words, _table))
def end_block(fd, w, conn):
    """Free the block of a connection; see `blocks`."""
    blocks.end(fd, w, conn)
