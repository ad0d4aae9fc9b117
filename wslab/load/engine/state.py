"""What a connection is, and what a loop and Python tell each other: the words that both loops share.

The low bits of a connection's `state` say what it is; the flags above say who looks after it. The control words are an
array of 64-bit integers; those after `BOTH` belong to one loop only.
"""

from __future__ import annotations

import mmap
import os
from itertools import accumulate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
BLOCK = 0x80  # the loop has a block of memory for a message on it that comes or goes in parts; see `blocks`

# A connection of a shard, 16 bytes: `since` is when it came to be what it is, in ns of the monotonic clock; with BLOCK,
# it is the address of the block, as no open connection is asked since when it is one. Names of fields with their kinds
# as `memoryview.cast` and NumPy call them, laid out as C does.
SERVER_CONNECTION = {"state": "B", "since": "q"}
# A connection of a worker, 40 bytes. `serial` numbers its key or its message; `sent` and `got` are bytes of the frame
# under way; `scheduled` and `started` are in ns. `owed` messages are due and wait for the echo of the one under way;
# `owed_at` is when the first of them was due.
SWARM_CONNECTION = {
    "state": "B",
    "owed": "H",
    "serial": "I",
    "sent": "I",
    "got": "I",
    "scheduled": "q",
    "started": "q",
    "owed_at": "q",
}

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
    NO_TEXT,  # the block of FD has a whole text message, of SIZE bytes, which is not UTF-8
    TOO_MUCH,  # blocks take more memory than they may
) = range(13)

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
    ROOM_1,  # room for what the kernel writes: a clock, an error
    ROOM_2,
    EVENT_1,  # room for one epoll event
    EVENT_2,
    BOTH,
) = range(17)

EVENTS_PER_WAIT = 256
READ_BYTES = 16384
# struct epoll_event in 32-bit words: packed on x86-64, with a hole behind `events` elsewhere.
EVENT_WORDS, EVENT_FD = (3, 1) if os.uname().machine == "x86_64" else (4, 2)

_BYTES = {"B": 1, "H": 2, "I": 4, "i": 4, "q": 8, "d": 8}
_CACHE_LINE = 64


def offsets(record: dict[str, Any]) -> tuple[dict[str, int], int]:
    """Return where in a record each field stands, and the bytes of the whole, both as C aligns them."""
    at, places = 0, {}
    for name, kind in record.items():
        at += -at % _BYTES[kind]
        places[name] = at
        at += _BYTES[kind]
    return places, at + -at % max(map(_BYTES.__getitem__, record.values()))


def fields(table: memoryview, record: dict[str, Any]) -> dict[str, memoryview[int]]:
    """Return a view of each field of the records in `table` (bytes), one item a record."""
    places, size = offsets(record)
    return {
        name: table.cast(kind)[places[name] // _BYTES[kind] :: size // _BYTES[kind]] for name, kind in record.items()
    }


def allocate(*arrays: tuple[Any, int]) -> list[Any]:
    """Return arrays of zeros, each of a kind and so many items: one stretch of memory, of which only used pages count.

    It is this process's alone, also where its parent had one, and is not made of huge pages.
    """
    sizes = [_BYTES[kind] * count for kind, count in arrays]
    ends = list(accumulate(size + -size % _CACHE_LINE for size in sizes))
    memory = mmap.mmap(-1, ends[-1], flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    except OSError:
        pass  # A kernel without huge pages does not know the word.
    view = memoryview(memory)
    starts = [0, *ends]
    return [view[at : at + size].cast(kind) for at, size, (kind, _) in zip(starts, sizes, arrays, strict=False)]
