"""The scoreboard: one piece of shared memory in which every process of a run keeps its counters.

The supervisor creates it as a memfd, so that it has no name, needs no clean-up and vanishes with the last process
that holds it. Server, swarm and recorder inherit its descriptor. Each process writes its own row only; a word is 64
bits and aligned, so a reader sees the old value or the new one and never half of each. Two exceptions: the row of a
process that died is corrected by its master, and a master writes there what the next command is about.

1. A row is `ROW_WORDS` words: the named counters, two tables of failures (phase x errno: how many, and when first),
   then two latency histograms.
2. Pages of a row that are never written cost nothing, so all rows have the same shape whatever their role.
3. Imported by every shard and worker: it imports `os`, `mmap`, `time` and nothing else.
"""

from __future__ import annotations

import mmap
import os
from time import monotonic_ns

from wslab.core.histogram import BUCKETS

PHASES = ("start", "ramp", "hold", "climb", "verify", "drain", "done")
FAILURE_PHASES = ("connect", "upgrade", "echo", "hold")
ERRNOS = 136  # Linux errno values end at 133.

ROLE_NONE, ROLE_SERVER, ROLE_SWARM = 0, 1, 2

# Words of the header.
PHASE = 0
STEP = 1  # counts the beginnings and ends of the steps of a climb
PORT = 2  # of the server, 0 before it is known
HEADER_WORDS = 8

# Words of a row.
(
    PID,
    ROLE,
    CAPACITY,  # connections that this process may hold
    TARGET,  # connections that this process was asked for (swarm)
    PENDING,  # dialled or accepted, not open yet
    OPEN,  # open now
    OPENED,  # opened so far
    FAILED,  # attempts that ended without an open connection
    CLOSED,  # connections lost after they were open
    VERIFIED,  # connections whose own echo came back in the verify phase
    SENT,  # messages sent
    RECEIVED,  # messages received, each checked
    MESSAGES_FAILED,  # messages that were lost, late or came back changed
    MESSAGES_UNASKED,  # messages from the server that answer nothing: a second echo, a greeting
    LAG_US,  # largest lag behind the schedule since the recorder last took it
    AT_LIMIT,  # 1 while a shard does not accept because its descriptors are used up
    PHASE_DONE,  # the last command that this worker has completed, as an index of PHASES
    MESSAGE_RATE,  # messages that a connection is sent in 1e9 seconds while the worker talks; set by the master
    TALK_NS,  # how long it talks, 0 = until the next command; set by the master
) = range(19)
FAILURES = 19  # how many, by phase and errno
FIRST_FAILURES = FAILURES + len(FAILURE_PHASES) * ERRNOS  # CLOCK_MONOTONIC of the first of each in ns, 0 = none yet
HANDSHAKE = FIRST_FAILURES + len(FAILURE_PHASES) * ERRNOS
ROUNDTRIP = HANDSHAKE + BUCKETS
ROW_WORDS = ROUNDTRIP + BUCKETS


class Scoreboard:
    """Counters shared by the processes of one run.

    Args:
        fd: a memfd of the right size; the scoreboard keeps the mapping, not the descriptor.
        rows: number of process rows.
    """

    def __init__(self, fd: int, rows: int) -> None:
        self.fd = fd
        self.rows = rows
        self.words = memoryview(mmap.mmap(fd, _size(rows))).cast("Q")

    @classmethod
    def create(cls, rows: int) -> Scoreboard:
        """Create a scoreboard of `rows` rows in a new, inheritable memfd."""
        fd = os.memfd_create("wslab-scoreboard", 0)
        os.ftruncate(fd, _size(rows))
        return cls(fd, rows)

    @classmethod
    def attach(cls, fd: int) -> Scoreboard:
        """Map the scoreboard that an inherited descriptor refers to."""
        return cls(fd, (os.fstat(fd).st_size // 8 - HEADER_WORDS) // ROW_WORDS)

    def row(self, index: int) -> memoryview[int]:
        """Return the words of one process, writable, shape `(ROW_WORDS,)`."""
        start = HEADER_WORDS + index * ROW_WORDS
        return self.words[start : start + ROW_WORDS]

    @property
    def phase(self) -> str:
        """Return the phase that the supervisor last announced."""
        return PHASES[self.words[PHASE]]

    @phase.setter
    def phase(self, name: str) -> None:
        self.words[PHASE] = PHASES.index(name)

    @property
    def moment(self) -> tuple[int, int]:
        """Return phase and step as numbers, which change when something else begins to be measured."""
        return self.words[PHASE], self.words[STEP]

    def next_step(self) -> None:
        """Announce that a step of a climb begins or ends."""
        self.words[STEP] += 1

    @property
    def port(self) -> int:
        """Return the port of the server, 0 before it is known."""
        return self.words[PORT]

    @port.setter
    def port(self, number: int) -> None:
        self.words[PORT] = number

    def enter(self, index: int, role: int) -> memoryview[int]:
        """Claim row `index` for this process and return the row."""
        row = self.row(index)
        row[PID], row[ROLE] = os.getpid(), role
        return row

    def total(self, word: int, role: int) -> int:
        """Return the sum of one counter over all processes of a role."""
        return sum(row[word] for row in self.of(role))

    def of(self, role: int) -> list[memoryview[int]]:
        """Return the rows of all processes of a role."""
        return [row for row in map(self.row, range(self.rows)) if row[ROLE] == role]

    def failures(self) -> dict[tuple[str, int], int]:
        """Return how many connections or attempts each (phase, errno) ended, over all processes."""
        counts: dict[tuple[str, int], int] = {}
        for key, count in self._entries(FAILURES):
            counts[key] = counts.get(key, 0) + count
        return counts

    def first_failures(self) -> dict[tuple[str, int], int]:
        """Return when each (phase, errno) was first counted by any process: CLOCK_MONOTONIC, in nanoseconds."""
        firsts: dict[tuple[str, int], int] = {}
        for key, at in self._entries(FIRST_FAILURES):
            firsts[key] = min(at, firsts.get(key, at))
        return firsts

    def _entries(self, table: int) -> list[tuple[tuple[str, int], int]]:
        """Return what is not zero in a table of failures, one entry a process."""
        return [
            ((FAILURE_PHASES[offset // ERRNOS], offset % ERRNOS), value)
            for row in map(self.row, range(self.rows))
            if row[ROLE]
            for offset, value in enumerate(row[table : table + len(FAILURE_PHASES) * ERRNOS])
            if value
        ]

    def histogram(self, kind: int) -> list[int]:
        """Return one latency histogram (`HANDSHAKE` or `ROUNDTRIP`) summed over the swarm, shape `(BUCKETS,)`."""
        rows = [row[kind : kind + BUCKETS].tolist() for row in self.of(ROLE_SWARM)]
        return [sum(counts) for counts in zip(*rows, strict=True)] if rows else [0] * BUCKETS


def count_failure(row: memoryview[int], phase: int, error: int) -> bool:
    """Count a failure in the row of this process, and return whether it is the first of its kind there.

    Args:
        row: the row of this process.
        phase: index in FAILURE_PHASES.
        error: the errno; one that Linux does not know counts as the last of the table.
    """
    offset = phase * ERRNOS + min(error, ERRNOS - 1)
    row[FAILURES + offset] += 1
    if row[FIRST_FAILURES + offset]:
        return False
    row[FIRST_FAILURES + offset] = monotonic_ns()
    return True


def vacate(row: memoryview[int]) -> None:
    """Correct the row of a process that has died: its connections are lost, not open."""
    row[CLOSED] += row[OPEN]
    row[FAILED] += row[PENDING]
    row[OPEN] = row[PENDING] = row[VERIFIED] = row[AT_LIMIT] = 0


def _size(rows: int) -> int:
    return (HEADER_WORDS + rows * ROW_WORDS) * 8
