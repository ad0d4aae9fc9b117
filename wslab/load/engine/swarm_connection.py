"""A connection of a swarm worker, compiled: it opens, waits, has its echo or is lost, and this is recorded."""

from __future__ import annotations

from wslab.core import histogram
from wslab.load import scoreboard as board
from wslab.load.engine import libc
from wslab.load.engine.compiling import njit
from wslab.load.engine.state import EPOLL, ERROR, FD, GONE, HALF, KEPT, OPEN, PROVED, STATE
from wslab.load.engine.swarm_words import DUE, FAILURES_IN_A_ROW, VERIFYING

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
