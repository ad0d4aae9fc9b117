"""Processes watched from outside: their CPU, the quota of it, memory and descriptors.

1. A process that has ended keeps its last CPU time, so that the sum over a group never runs backwards.
2. The files of a process stay open. They belong to that process alone, so a pid that the kernel gives out again is
   never mistaken for it, and a reading costs half.
3. PSS is read only when asked for: the kernel walks every page of every process for it.
"""

from __future__ import annotations

from pathlib import Path

from wslab.machine import formats
from wslab.machine.cgroup import CGROUPS
from wslab.machine.files import OpenFile
from wslab.machine.procfs import PROC, read_fd_count, read_pss
from wslab.machine.throttle import Throttle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Values = dict[str, int | float | None]

# CPU times come in ticks of 10 ms: over a shorter window than this the share of one CPU would be mostly rounding.
FRACTION_WINDOW_SECONDS = 0.2

_ENDED_STATES = frozenset("ZXx")


class Process:
    """One process; `refresh` brings its figures up to date.

    Attributes:
        pid: its number.
        alive: whether it could be read the last time; a zombie counts as ended.
        cpu_user_seconds: CPU time in user mode, kept after its end.
        cpu_system_seconds: CPU time in the kernel, kept after its end.
        rss_bytes: resident memory, 0 after its end.
        fds: open descriptors; None after its end and before Linux 6.2.
    """

    def __init__(self, pid: int, root: Path = PROC) -> None:
        self.pid = pid
        self.alive = True
        self.cpu_user_seconds = self.cpu_system_seconds = 0.0
        self.rss_bytes = 0
        self.fds: int | None = None
        self._root = root
        self._stat = OpenFile(root / str(pid) / "stat")
        self._statm = OpenFile(root / str(pid) / "statm")

    def refresh(self) -> None:
        """Read the process as it is now."""
        if not self.alive:
            return
        stat, statm = self._stat.read(), self._statm.read()
        state = "X"
        if stat is not None:
            state, self.cpu_user_seconds, self.cpu_system_seconds, _ = formats.parse_pid_stat(stat)
        if statm is None or state in _ENDED_STATES:
            self.alive, self.rss_bytes, self.fds = False, 0, None
            self._stat.close()
            self._statm.close()
            return
        self.rss_bytes = formats.parse_statm(statm)
        self.fds = read_fd_count(self.pid, self._root)


class Group:
    """The processes of one end of the load, as they come and go.

    Args:
        root: where /proc is.
        cgroups: where the cgroup trees are mounted.
    """

    def __init__(self, root: Path = PROC, cgroups: Path = CGROUPS) -> None:
        self._root = root
        self._throttle = Throttle(root, cgroups)
        self._processes: dict[int, Process] = {}
        self._past: list[tuple[float, dict[int, float]]] = []

    def read(self, pids: Iterable[int], now: float) -> Values:
        """Return what the processes use, all of them together.

        Args:
            pids: processes to watch from now on; those named before stay.
            now: monotonic time in seconds.

        Returns:
            `processes`, `cpu_user_seconds`, `cpu_system_seconds`, `cpu_fraction_max` (None without a past of
            `FRACTION_WINDOW_SECONDS`), `rss_bytes`, `fds`, `fds_max`, and what `Throttle.read` returns.
        """
        for pid in pids:
            if pid not in self._processes:
                self._processes[pid] = Process(pid, self._root)
                self._throttle.add(pid)
        for process in self._processes.values():
            process.refresh()
        living = [process for process in self._processes.values() if process.alive]
        fds = [process.fds for process in living if process.fds is not None]
        return {
            "processes": len(living),
            "cpu_user_seconds": sum(process.cpu_user_seconds for process in self._processes.values()),
            "cpu_system_seconds": sum(process.cpu_system_seconds for process in self._processes.values()),
            "cpu_fraction_max": self._busiest(now),
            "rss_bytes": sum(process.rss_bytes for process in living),
            "fds": sum(fds) if len(fds) == len(living) else None,
            "fds_max": max(fds) if fds and len(fds) == len(living) else None,
            **self._throttle.read(now),
        }

    def pss_bytes(self) -> int | None:
        """Return the proportional set size of all processes together; None when not one of them tells it."""
        sizes = [read_pss(pid, self._root) for pid in self.living]
        told = [size for size in sizes if size is not None]
        return sum(told) if told or not sizes else None

    @property
    def living(self) -> frozenset[int]:
        """Return the processes that were alive at the last reading."""
        return frozenset(process.pid for process in self._processes.values() if process.alive)

    def _busiest(self, now: float) -> float | None:
        """Return the largest share of one CPU that a process used since the last reading that is old enough."""
        used = {pid: process.cpu_user_seconds + process.cpu_system_seconds for pid, process in self._processes.items()}
        while len(self._past) > 1 and now - self._past[1][0] >= FRACTION_WINDOW_SECONDS:
            del self._past[0]
        before, base = self._past[0] if self._past else (now, {})
        self._past.append((now, used))
        if now - before < FRACTION_WINDOW_SECONDS:
            return None
        return max(((used[pid] - base[pid]) / (now - before) for pid in base), default=None)
