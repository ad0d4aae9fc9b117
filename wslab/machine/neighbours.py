"""Who else used the machine between two looks at it: the other processes, by the CPU time and descriptors they gained.

1. A look reads `/proc/PID/stat` of every process once: some 20 microseconds each, so it is taken a few times in a run.
2. A process that began and ended between two looks is charged to the parent that waited for it, less what its dead
   children had used before the first look.
3. Descriptors are counted by the size of `/proc/PID/fd`, and never listed. They stand for the sockets of a process.
4. What belongs to a run is everything below its supervisor and all else that the caller names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from wslab.machine import formats
from wslab.machine.files import read_text
from wslab.machine.procfs import PROC, read_fd_count

# Those with less are left out: a hundredth of a core, and what a program opens now and then.
CORES_MIN, DESCRIPTORS_MIN = 0.01, 100
# Processes that are told of, those that gained most first.
NAMED_MOST = 5


class Seen(NamedTuple):
    """One process as a look found it: CPU times in seconds, that of `waited` being of children that have ended."""

    name: str
    parent: int
    start_ticks: int
    used: float
    waited: float
    fds: int


Look = dict[int, Seen]


def look(root: Path = PROC) -> Look:
    """Return every process that may be seen, by pid."""
    found: Look = {}
    for name in filter(str.isdecimal, os.listdir(root)):
        text = read_text(root / name / "stat")
        if text is None:
            continue  # It has ended.
        command, parent, start_ticks, used, waited = formats.parse_pid_family(text)
        found[int(name)] = Seen(command, parent, start_ticks, used, waited, read_fd_count(name, root) or 0)
    return found


def gained(before: Look, after: Look, seconds: float, ours: Iterable[int], top: Iterable[int]) -> list[dict[str, Any]]:
    """Return the other processes that gained most between two looks.

    Args:
        before: the first look.
        after: the second.
        seconds: time between them.
        ours: processes that belong to the run.
        top: processes below which all belong to the run.

    Returns:
        Mappings `{pid, name, cpu_seconds, cores, fds}`; `cores` are over the whole time, and `fds` is how many more
        (or, below 0, fewer) descriptors the process has open than before. Most CPU first, then most descriptors.
    """
    known = after | before  # The parent of one that has ended is that which it had.
    own = set(ours) | {pid for pid in known if _is_below(pid, set(top), known)}
    lost: dict[int, float] = {}
    for pid, seen in before.items():
        if not _same(seen, after.get(pid)):
            lost[seen.parent] = lost.get(seen.parent, 0.0) + seen.used + seen.waited
    rows: list[dict[str, Any]] = []
    for pid, seen in after.items():
        if pid in own:
            continue
        earlier = before.get(pid)
        first = earlier if earlier is not None and _same(seen, earlier) else seen._replace(used=0.0, waited=0.0, fds=0)
        children = max(0.0, seen.waited - first.waited - lost.get(pid, 0.0))
        cpu, fds = seen.used - first.used + children, seen.fds - first.fds
        if cpu >= CORES_MIN * seconds or abs(fds) >= DESCRIPTORS_MIN:
            cores = round(cpu / seconds, 3) if seconds > 0 else 0.0
            rows.append({"pid": pid, "name": seen.name, "cpu_seconds": round(cpu, 3), "cores": cores, "fds": fds})
    busy = sorted(rows, key=lambda row: -row["cpu_seconds"])[:NAMED_MOST]
    wide = sorted(rows, key=lambda row: -abs(row["fds"]))[:NAMED_MOST]
    return busy + [row for row in wide if row not in busy and abs(row["fds"]) >= DESCRIPTORS_MIN]


def _same(seen: Seen, other: Seen | None) -> bool:
    return other is not None and seen.start_ticks == other.start_ticks


def _is_below(pid: int, top: set[int], known: Look) -> bool:
    for _ in range(len(known)):
        if pid in top:
            return True
        if pid not in known:
            return False
        pid = known[pid].parent
    return False
