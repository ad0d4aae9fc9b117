"""The functions of libc that the loops call, with their constants.

Pointers are integers here. What a function returns is as in C: -1 for an error, whose number `errno` then has. Linked
by name, not by address, so that code which calls them can be kept on disk.
"""

from __future__ import annotations

import numpy as np
from numba import types

from wslab.load.engine.compiling import njit
from wslab.load.engine.state import EVENT_1, EVENT_FD, EVENT_WORDS, EVENTS, NEXT, ROOM_1

i32, word = types.int32, types.intp

_errno_location = types.ExternalFunction("__errno_location", types.CPointer(i32)())
_clock_gettime = types.ExternalFunction("clock_gettime", i32(i32, word))
accept4 = types.ExternalFunction("accept4", i32(i32, word, word, i32))
bind = types.ExternalFunction("bind", i32(i32, word, i32))
close = types.ExternalFunction("close", i32(i32))
connect = types.ExternalFunction("connect", i32(i32, word, i32))
epoll_ctl = types.ExternalFunction("epoll_ctl", i32(i32, i32, i32, word))
epoll_wait = types.ExternalFunction("epoll_wait", i32(i32, word, i32, i32))
free = types.ExternalFunction("free", types.void(word))
getsockopt = types.ExternalFunction("getsockopt", i32(i32, i32, i32, word, word))
malloc = types.ExternalFunction("malloc", word(word))
malloc_trim = types.ExternalFunction("malloc_trim", i32(word))
mallopt = types.ExternalFunction("mallopt", i32(i32, i32))
memcmp = types.ExternalFunction("memcmp", i32(word, word, word))
memcpy = types.ExternalFunction("memcpy", word(word, word, word))
read = types.ExternalFunction("read", word(i32, word, word))
setsockopt = types.ExternalFunction("setsockopt", i32(i32, i32, i32, word, i32))
socket = types.ExternalFunction("socket", i32(i32, i32, i32))
write = types.ExternalFunction("write", word(i32, word, word))

EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLEXCLUSIVE = 0x1, 0x4, 0x8, 0x10, 1 << 28
EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD = 1, 2, 3
SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC = 1, 0o4000, 0o2000000
SOL_SOCKET, SO_ERROR, SO_LINGER, IP_BIND_ADDRESS_NO_PORT = 1, 4, 13, 24
CLOCK_MONOTONIC = 1
M_MMAP_THRESHOLD = -3
EAGAIN, EINPROGRESS, ECONNRESET, ESHUTDOWN, EMFILE = 11, 115, 104, 108, 24
ENFILE, ENOBUFS, ENOMEM = 23, 105, 12
NS = 1_000_000_000


@njit
def rooms(w):
    """Return room for one event, and room for two words, within the control words."""
    return w[EVENT_1 : EVENT_1 + 2].view(np.int32), w[ROOM_1 : ROOM_1 + 2]


@njit
def errno():
    """Return the number of the last error."""
    return np.int64(_errno_location()[0])


@njit
def clock(two_words):
    """Return the monotonic clock in ns; `two_words` is room for what the kernel writes."""
    _clock_gettime(CLOCK_MONOTONIC, two_words.ctypes.data)
    return two_words[0] * NS + two_words[1]


@njit
def watch(epoll, operation, fd, mask, event):
    """Add, change or remove what is waited for on a descriptor; `event` is room for one event. 0, or an errno."""
    event[0] = np.int32(mask)
    event[EVENT_FD] = np.int32(fd)
    if epoll_ctl(epoll, operation, fd, event.ctypes.data) < 0:
        return errno()
    return 0


@njit
def socket_error(fd, two_words):
    """Return the pending error of a descriptor that epoll calls broken; `two_words` is room for the answer."""
    two_words[0] = 0
    two_words[1] = 4
    getsockopt(fd, SOL_SOCKET, SO_ERROR, two_words.ctypes.data, two_words.ctypes.data + 8)
    return two_words[0] if two_words[0] else ECONNRESET


@njit
def untell(fd, w, events):
    """Forget what the kernel has told of a descriptor already: it may be another connection by the next look."""
    for n in range(w[NEXT], w[EVENTS]):
        if events[n * EVENT_WORDS + EVENT_FD] == fd:
            events[n * EVENT_WORDS + EVENT_FD] = -1
