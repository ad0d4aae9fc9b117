"""The guard of a running phase: when memory gets short, or when nothing moves any more.

Both only tell; what to do about it is for the phases to decide.

1. The reserve is compared with the headroom (free memory and file cache), because MemAvailable counts what open
   sockets pin.
2. While connections are still being opened, a breach halts the ramp and what is open stays open, so that it can be
   measured. Later on there is nothing left to halt: at half the reserve everything stops, before the kernel chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wslab.machine import procfs

EMERGENCY_FRACTION = 0.5


def read_headroom() -> int:
    """Return the memory that can still be had, in bytes."""
    return procfs.read_headroom() or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A memory bound that was reached: the event to report and why the phase ends."""

    event: str
    stopped_by: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGuard:
    """Bounds on the machine's memory.

    Attributes:
        reserve_bytes: headroom that the load must leave.
        cap_bytes: memory that the load may use; None for no cap.
        baseline_bytes: headroom before the load began.
    """

    reserve_bytes: int
    cap_bytes: int | None
    baseline_bytes: int

    def check(self, headroom_bytes: int, *, ramping: bool) -> Breach | None:
        """Return the bound that is breached, the reserve first because it protects others."""
        reserve = self.reserve_bytes if ramping else self.reserve_bytes * EMERGENCY_FRACTION
        if headroom_bytes < reserve:
            fields = {"headroom_bytes": headroom_bytes, "reserve_bytes": self.reserve_bytes}
            return Breach(event="memory_reserve_reached", stopped_by="memory_reserve", fields=fields)
        used_bytes = self.baseline_bytes - headroom_bytes
        if ramping and self.cap_bytes is not None and used_bytes >= self.cap_bytes:
            fields = {"used_bytes": used_bytes, "cap_bytes": self.cap_bytes}
            return Breach(event="memory_cap_reached", stopped_by="memory_cap", fields=fields)
        return None


@dataclass(slots=True, kw_only=True)
class Patience:
    """Tell when a counter has stood still for too long."""

    seconds: float
    since: float
    _last: int = field(default=-1)

    def over(self, counter: int, now: float) -> bool:
        """Note the counter and tell whether it has not moved for `seconds`."""
        if counter != self._last:
            self._last, self.since = counter, now
        return now - self.since >= self.seconds
