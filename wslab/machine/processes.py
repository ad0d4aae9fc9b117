"""Processes watched from outside: their CPU, the quotas that throttle them, memory and descriptors.

1. A process that has ended keeps its last CPU time, so that the sum over a group never falls.
2. The files of a process stay open. They belong to that process alone, so a later process with the same pid is never
   mistaken for it, and a reading costs half.
3. PSS is read only when asked for: the kernel walks every page of every process for it.
4. CPU time is the kernel's own clock of a process, in nanoseconds; each reading has its own time, so that a share over
   a short interval is true and a thread never has more than a core. `stat` counts in ticks of 10 ms and tells only how
   the time divides into user and system.

CPU quotas:

5. A quota is CPU time per period. A group that has used its quota waits for the next period, and the kernel counts
   each period that ended with a process waiting (`nr_throttled` in cpu.stat).
6. The share is that of all periods that have passed. The kernel's own count, `nr_periods`, leaves out those in which
   the group was idle: a group that works for 30 ms a second, and waits in most of these, would seem to wait always.
7. A quota of any group above binds as well, so the one that throttled most counts.
8. The groups of a process are looked up once. A sample then reads one small file per quota.
"""

from __future__ import annotations

import time
from pathlib import Path

from wslab.machine import formats
from wslab.machine.cgroup import CGROUPS, CpuQuota, read_quotas
from wslab.machine.files import OpenFile
from wslab.machine.procfs import PROC, read_fd_count, read_pss, read_soft_fd_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Values = dict[str, int | float | None]
    Clock = Callable[[int], tuple[float, float] | None]

# Over a shorter window the share of one CPU would be mostly chance: the kernel lets a process run for milliseconds.
FRACTION_WINDOW_SECONDS = 0.2
# A shorter window has too few periods to judge by: by default a period takes 0.1 s.
THROTTLE_WINDOW_SECONDS = 0.2

# A server may keep a descriptor back for the moment in which it has none left, as libuv does, and one for a log.
FDS_KEPT_BACK = 2

_ENDED_STATES = frozenset("ZXx")
_STOPPED_STATES = frozenset("Tt")
_BLOCKED_STATE = "D"


# Of <linux/posix-timers_types.h>: the clock of a process is named by its pid.
_CPUCLOCK_SCHED = 2
# A reading that took longer was interrupted, so that its time is not known well enough; it is made again.
_READING_SECONDS, _READINGS = 0.0002, 3


def cpu_clock(pid: int) -> tuple[float, float] | None:
    """Return the CPU time of all threads of a process and the monotonic time of this reading, both in seconds.

    None when there is no such process. A zombie still has its time.
    """
    clock = (~pid << 3) | _CPUCLOCK_SCHED
    readings = []
    for _ in range(_READINGS):
        before = time.monotonic()
        try:
            used = time.clock_gettime_ns(clock)
        except OSError:
            return None
        after = time.monotonic()
        readings.append((after - before, used / 1e9, (before + after) / 2))
        if after - before < _READING_SECONDS:
            break
    _, seconds, at = min(readings)
    return seconds, at


class Process:
    """One process; `refresh` brings its figures up to date.

    Attributes:
        pid: its pid.
        alive: whether it could be read the last time; a zombie counts as ended.
        cpu_user_seconds: CPU time in user mode, kept after its end.
        cpu_system_seconds: CPU time in the kernel, kept after its end.
        read_at: monotonic time in seconds at which these were read; None where the process has no clock.
        rss_bytes: resident memory, 0 after its end.
        stopped: whether it is stopped, by a signal or a debugger.
        blocked: whether it waits in the kernel for what no signal interrupts, such as a disk or file server.
        fds: open descriptors; None after its end and before Linux 6.2.
    """

    def __init__(self, pid: int, root: Path = PROC, clock: Clock | None = None) -> None:
        self.pid = pid
        self.alive = True
        self.read_at: float | None = None
        self._clock = clock
        self._clocked: float | None = None
        self.cpu_user_seconds = self.cpu_system_seconds = 0.0
        self.rss_bytes = 0
        self.stopped = self.blocked = False
        self.fds: int | None = None
        self._root = root
        self._stat = OpenFile(root / str(pid) / "stat")
        # The resident size in `stat` lags by up to 128 KiB a CPU; the one in `statm` is exact.
        self._statm = OpenFile(root / str(pid) / "statm")

    def read_clock(self) -> None:
        """Read the CPU clock alone, for the next `refresh`."""
        reading = self._clock(self.pid) if self._clock is not None and self.alive else None
        if reading is not None:
            self._clocked, self.read_at = reading

    def refresh(self) -> None:
        """Read the process as it is now, and its clock unless `read_clock` has just done so."""
        if not self.alive:
            return
        if self._clocked is None:
            self.read_clock()
        stat, statm = self._stat.read(), self._statm.read()
        state = "X"
        if stat is not None:
            state, user, system, _ = formats.parse_pid_stat(stat)
            self._count(user, user + system if self._clocked is None else self._clocked)
        elif self._clocked is not None:  # It has ended between the two.
            self._count(self.cpu_user_seconds, self._clocked)
        self._clocked = None
        if statm is None or state in _ENDED_STATES:
            self.alive = self.stopped = self.blocked = False
            self.rss_bytes, self.fds = 0, None
            self._stat.close()
            self._statm.close()
            return
        self.stopped, self.blocked = state in _STOPPED_STATES, state == _BLOCKED_STATE
        self.rss_bytes = formats.parse_statm(statm)
        self.fds = read_fd_count(self.pid, self._root)

    def _count(self, user: float, total: float) -> None:
        """Take the CPU time in all, divided as `stat` has it as far as neither part falls."""
        total = max(total, self.cpu_user_seconds + self.cpu_system_seconds)
        user = min(max(user, self.cpu_user_seconds), total - self.cpu_system_seconds)
        self.cpu_user_seconds, self.cpu_system_seconds = user, total - user


class Group:
    """The processes of one end of the load, as they come and go.

    Args:
        root: where /proc is.
        cgroups: where the cgroup trees are mounted.
    """

    def __init__(self, root: Path = PROC, cgroups: Path = CGROUPS) -> None:
        self._root = root
        self._throttle = Throttle(root, cgroups)
        # The clocks are those of this machine: a made tree has none.
        self._clock = cpu_clock if root == PROC else None
        self._processes: dict[int, Process] = {}
        self._past: list[tuple[float, dict[int, tuple[float, float]]]] = []

    def read_clocks(self, pids: Iterable[int]) -> None:
        """Read the CPU clocks alone, one right after the other, for the next `read`.

        Args:
            pids: processes to watch from now on; those named before stay.
        """
        for pid in pids:
            if pid not in self._processes:
                self._processes[pid] = Process(pid, self._root, self._clock)
                self._throttle.add(pid)
        for process in self._processes.values():
            process.read_clock()

    def read(self, pids: Iterable[int], now: float) -> Values:
        """Return what the processes use, all of them together.

        Args:
            pids: processes to watch from now on; those named before stay.
            now: monotonic time in seconds.

        Returns:
            `processes`, `processes_stopped`, `processes_blocked`, `cpu_user_seconds`, `cpu_system_seconds`,
            `cpu_fraction_max` (None during the first `FRACTION_WINDOW_SECONDS`), `rss_bytes`, `fds`, `fds_max`, and
            what `Throttle.read` returns.
        """
        new = [pid for pid in pids if pid not in self._processes]
        if new:
            self.read_clocks(new)
        for process in self._processes.values():
            process.refresh()
        living = [process for process in self._processes.values() if process.alive]
        fds = [process.fds for process in living if process.fds is not None]
        return {
            "processes": len(living),
            "processes_stopped": sum(process.stopped for process in living),
            "processes_blocked": sum(process.blocked for process in living),
            "cpu_user_seconds": sum(process.cpu_user_seconds for process in self._processes.values()),
            "cpu_system_seconds": sum(process.cpu_system_seconds for process in self._processes.values()),
            "cpu_fraction_max": self._busiest(now),
            "rss_bytes": sum(process.rss_bytes for process in living),
            "fds": sum(fds) if len(fds) == len(living) else None,
            "fds_max": max(fds) if fds and len(fds) == len(living) else None,
            **self._throttle.read(now),
        }

    def pss_bytes(self) -> int | None:
        """Return the proportional set size of all processes together; None when it can be read for none of them."""
        sizes = [read_pss(pid, self._root) for pid in self.living]
        told = [size for size in sizes if size is not None]
        return sum(told) if told or not sizes else None

    def at_fd_limit(self) -> list[tuple[int, int, int]]:
        """Return the processes that have no descriptor left within their own soft limit, or next to none.

        The limit is read each time: a program may raise its own.

        Returns:
            For each its pid, its open descriptors and its limit.
        """
        full = []
        for process in self._processes.values():
            if not process.alive or process.fds is None:
                continue
            limit = read_soft_fd_limit(process.pid, self._root)
            if limit is not None and process.fds >= limit - FDS_KEPT_BACK:
                full.append((process.pid, process.fds, limit))
        return full

    @property
    def living(self) -> frozenset[int]:
        """Return the processes that were alive at the last reading."""
        return frozenset(process.pid for process in self._processes.values() if process.alive)

    @property
    def pids(self) -> frozenset[int]:
        """Return all processes that were watched, also those that have ended."""
        return frozenset(self._processes)

    def _busiest(self, now: float) -> float | None:
        """Return the largest share of one CPU that a process used since the last reading that is old enough."""
        used = {
            pid: (process.cpu_user_seconds + process.cpu_system_seconds, process.read_at or now)
            for pid, process in self._processes.items()
        }
        while len(self._past) > 1 and now - self._past[1][0] >= FRACTION_WINDOW_SECONDS:
            del self._past[0]
        before, base = self._past[0] if self._past else (now, {})
        self._past.append((now, used))
        if now - before < FRACTION_WINDOW_SECONDS:
            return None
        shares = []
        for pid, (seconds, at) in base.items():
            # One that has ended was not read again, and has used no more.
            until = used[pid][1] if used[pid][1] > at else now
            shares.append((used[pid][0] - seconds) / (until - at))
        return max(shares, default=None)


class Throttle:
    """The CPU quotas of the processes of one end.

    Args:
        root: where /proc is.
        cgroups: where the cgroup trees are mounted.
    """

    def __init__(self, root: Path = PROC, cgroups: Path = CGROUPS) -> None:
        self._root, self._cgroups = root, cgroups
        self._quotas: dict[Path, _Counted] = {}

    def add(self, pid: int) -> None:
        """Watch the quotas that bind a process, too."""
        for quota in read_quotas(pid, self._root, self._cgroups):
            if quota.folder not in self._quotas:
                self._quotas[quota.folder] = _Counted(quota)

    def read(self, now: float) -> Values:
        """Return how the quotas bind.

        Args:
            now: monotonic time in seconds.

        Returns:
            `cpu_quota_fraction` (1.0 is one core), `cpu_throttled_total` and `cpu_throttled_fraction` (None during the
            first `THROTTLE_WINDOW_SECONDS`); all None without a quota.
        """
        shares = [quota.read(now) for quota in self._quotas.values()]
        return {
            "cpu_quota_fraction": min((quota.cpus for quota in self._quotas.values()), default=None),
            "cpu_throttled_fraction": max((share for share in shares if share is not None), default=None),
            "cpu_throttled_total": sum(quota.throttled for quota in self._quotas.values()) if shares else None,
        }


class _Counted:
    """One quota, and the periods in which it was used up."""

    def __init__(self, quota: CpuQuota) -> None:
        self.cpus = quota.cpus
        self._period_seconds = quota.period_seconds
        self._stat = OpenFile(quota.folder / "cpu.stat")
        # Earlier periods are not ours: a group that is added later must not look like a jump.
        self._first = self._count() or 0
        self.throttled = 0
        self._past: list[tuple[float, int]] = []

    def read(self, now: float) -> float | None:
        """Return the share of throttled periods since the last reading that is old enough."""
        count = self._count()
        if count is not None:  # A group that is gone keeps its count.
            self.throttled = count - self._first
        while len(self._past) > 1 and now - self._past[1][0] >= THROTTLE_WINDOW_SECONDS:
            del self._past[0]
        at, before = self._past[0] if self._past else (now, 0)
        self._past.append((now, self.throttled))
        if now - at < THROTTLE_WINDOW_SECONDS:
            return None
        # Periods are not in step with samples, so that one more than fits may have ended.
        return min(1.0, (self.throttled - before) * self._period_seconds / (now - at))

    def _count(self) -> int | None:
        text = self._stat.read()
        return None if text is None else formats.parse_cpu_stat(text).get("nr_throttled", 0)
