"""How long the CPU quotas of control groups kept processes waiting.

1. A quota is CPU time for a period. Who has used it up waits for the next period, and the kernel counts each period
   that ended with somebody waiting (`nr_throttled` in cpu.stat).
2. The share is taken of all periods that have gone by. The kernel's own count, `nr_periods`, leaves out those in which
   the group was idle: a group that works for 30 ms a second, and waits in most of these, would seem to wait always.
3. A quota of any group above binds as well, so that the one that kept its processes waiting most counts.
4. The groups of a process are looked up once. A sample is one small file a quota, and none without.
"""

from __future__ import annotations

from pathlib import Path

from wslab.machine import formats
from wslab.machine.cgroup import CGROUPS, CpuQuota, read_quotas
from wslab.machine.files import OpenFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    Values = dict[str, int | float | None]

# A shorter window than this has too few periods: they take 0.1 s where nobody has chosen otherwise.
WINDOW_SECONDS = 0.2


class Throttle:
    """The CPU quotas of the processes of one end.

    Args:
        root: where /proc is.
        cgroups: where the cgroup trees are mounted.
    """

    def __init__(self, root: Path = Path("/proc"), cgroups: Path = CGROUPS) -> None:
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
            `cpu_quota_fraction` (1.0 is one core), `cpu_throttled_total` and `cpu_throttled_fraction` (None without a
            past of `WINDOW_SECONDS`); all None without a quota.
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
        # What was before belongs to nobody of ours: a group that comes later must not look like a jump.
        self._first = self._count() or 0
        self.throttled = 0
        self._past: list[tuple[float, int]] = []

    def read(self, now: float) -> float | None:
        """Return the share of throttled periods since the last reading that is old enough."""
        count = self._count()
        if count is not None:  # A group that is gone keeps its count.
            self.throttled = count - self._first
        while len(self._past) > 1 and now - self._past[1][0] >= WINDOW_SECONDS:
            del self._past[0]
        at, before = self._past[0] if self._past else (now, 0)
        self._past.append((now, self.throttled))
        if now - at < WINDOW_SECONDS:
            return None
        # Periods are not in step with samples, so that one more than fits may have ended.
        return min(1.0, (self.throttled - before) * self._period_seconds / (now - at))

    def _count(self) -> int | None:
        text = self._stat.read()
        return None if text is None else formats.parse_cpu_stat(text).get("nr_throttled", 0)
