"""What a connection is, and what a loop and Python tell each other: the words that both loops share.

The low bits of a connection's `state` say what it is; the flags above say who looks after it. The control words are an
array of 64-bit integers; those after `BOTH` belong to one loop only.
"""

from __future__ import annotations

import numpy as np

# What a connection is.
(
    NONE,  # the descriptor is no connection
    CONNECTING,  # dialled; the handshake of TCP is still under way
    UPGRADING,  # connected; the upgrade is not answered yet
    OPEN,
    WAITING,  # open, and the echo of a message is due
    LEAVING,  # half-closed by us; its peer's end is awaited
) = range(6)
STATE = 0x07  # mask of the above
# Flags.
SLOW = 0x08  # a Python object looks after it, so all that is read from it goes there
KEPT = 0x10  # Python keeps bytes until the peer takes more; EPOLLOUT is asked for
HALF = 0x20  # the loop has not sent all of its message yet; EPOLLOUT is asked for
PROVED = 0x40  # its own echo came back in the verify phase

# A connection of a shard, 16 bytes: `since` is when it came to be what it is, in ns of the monotonic clock.
SERVER_CONNECTION = np.dtype([("state", np.uint8), ("since", np.int64)], align=True)
# A connection of a worker, 40 bytes. `serial` numbers its key or its message; `sent` and `got` are bytes of the frame
# under way; `scheduled` and `started` are in ns. `owed` messages are due and wait for the echo of the one under way;
# `owed_at` is when the first of them was due.
SWARM_CONNECTION = np.dtype(
    [
        ("state", np.uint8),
        ("owed", np.uint16),
        ("serial", np.uint32),
        ("sent", np.uint32),
        ("got", np.uint32),
        ("scheduled", np.int64),
        ("started", np.int64),
        ("owed_at", np.int64),
    ],
    align=True,
)

# Why a loop returns to Python.
(
    COMMAND,  # the command descriptor is readable
    BYTES,  # SIZE bytes of FD are in the buffer and are not plain
    WRITABLE,  # FD takes more of what Python keeps for it
    PARTLY_SENT,  # of the SIZE bytes at START of the buffer FD took none yet: Python keeps them
    GONE,  # FD is broken or has ended (ERROR)
    TICK,  # time for what is done now and then
    ACCEPT_FAILED,  # a connection could not be taken (ERROR)
    DIAL_FAILED,  # a connection could not be dialled (ERROR; SIZE is 1 when epoll refused it)
    OVERDUE,  # FD has waited too long for an answer
    SPEAK,  # a message is due on FD, and Python makes it
    MAIL,  # another shard has something for this one
) = range(11)

# Control words of both loops.
(
    EPOLL,  # the loop's own epoll
    COMMANDS,  # descriptor of the commands or the lifeline
    EVENTS,  # events of the last epoll_wait
    NEXT,  # the next of them to be looked at
    FD,
    SIZE,
    START,
    ERROR,
    PLAIN,  # 0: nothing is plain, everything goes to Python
    WAIT_MS,  # longest wait for events
    TICK_AT,  # when the next TICK is due, ns
    TICK_NS,
    BOTH,
) = range(13)

EVENTS_PER_WAIT = 256
READ_BYTES = 16384


def words(count: int) -> np.ndarray:
    """Return control words, all 0 but what a loop needs to start."""
    control = np.zeros(count, np.int64)
    control[PLAIN] = 1
    return control
