"""The phases of a run as the supervisor runs them: ramp, hold, climb (where the knee is asked for), verify, drain.

1. A phase always ends: because the swarm says that it is done, by a bound of memory, by the death of a process, or
   because no counter has moved for too long. `stopped_by` in `phase_ended` says which; null is the swarm, or the caller
   in a hold.
2. A ramp that is cut short is halted: what is open stays open, what is in flight settles, then the swarm says so.
3. Once a process has died unexpectedly, no later phase puts load on; draining is always possible.
4. The memory reserve is compared with the headroom (free memory and file cache), because MemAvailable counts what open
   sockets pin.
5. While connections are still being opened, too little memory halts the ramp and what is open stays open, so that it
   can be measured. In later phases there is nothing left to halt: at half the reserve everything stops, before the
   kernel chooses what to kill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from errno import errorcode
from typing import Any

from wslab.load import scoreboard as words
from wslab.load.children import Child
from wslab.load.climb import MessageClimb
from wslab.load.messages import Reports
from wslab.load.scoreboard import ROLE_SWARM, Scoreboard
from wslab.machine import procfs

GUARD_SECONDS = 0.2
PROGRESS_SECONDS = 0.25
NO_PROGRESS_SECONDS = 60.0
RAMP_PROGRESS = 0.01  # of the connections asked for
VERIFY_PROGRESS = 0.05  # of the connections that are open
HALT_SECONDS = 15.0  # longer than a handshake in flight may take
EMERGENCY_FRACTION = 0.5  # of the reserve
DRAIN_SECONDS = 30.0  # a million resets take seconds

LOADED = ("ramp", "hold", "climb", "verify")
PHASES = (*LOADED, "drain")
_NEVER = float("inf")


def read_headroom() -> int:
    """Return the memory headroom, in bytes."""
    return procfs.read_headroom() or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A memory bound that was reached: the event to report and why the phase ends."""

    event: str
    stopped_by: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGuard:
    """The bounds on the machine's memory.

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
    """Detects that a counter has not grown for too long.

    Attributes:
        seconds: how long that is.
        since: when it had last grown by enough.
        step: how much is enough.
    """

    seconds: float
    since: float
    step: int = 1
    _last: int | None = field(default=None)

    def over(self, counter: int, now: float) -> bool:
        """Note the counter and return whether it has not grown by `step` for `seconds`."""
        if self._last is None or counter >= self._last + self.step:
            self._last, self.since = counter, now
        return now - self.since >= self.seconds


def least_progress(connections: int, ramp_rate: float | None, seconds: float) -> int:
    """Return by how many open connections a ramp has to grow within `seconds` so as not to be given up.

    One that opens less than a hundredth of what was asked for, or half of what its rate would, stands still: a server
    that is busy with what is open already, or that closes as many as it takes, would keep it going for hours.
    """
    enough = connections * RAMP_PROGRESS
    return max(1, int(enough if ramp_rate is None else min(enough, ramp_rate * seconds / 2)))


class Phases:
    """Runs the phases of one run; made before the load starts, because it notes how much memory is left then.

    Args:
        reports: where events go.
        scoreboard: the counters of the load.
        start: the command that started the run: `swarm` for its `ramp_rate` and `latency_bound`,
            `memory_reserve_bytes`, `memory_cap_bytes` and `no_progress_seconds`.
    """

    def __init__(self, reports: Reports, scoreboard: Scoreboard, start: Mapping[str, Any]) -> None:
        self.name = "start"
        self.active = False
        self.swarm: Child | None = None  # there is no phase before it is ready
        self._reports, self._scoreboard = reports, scoreboard
        self._guard = MemoryGuard(
            reserve_bytes=start["memory_reserve_bytes"],
            cap_bytes=start.get("memory_cap_bytes"),
            baseline_bytes=read_headroom(),
        )
        rate = start["swarm"].get("ramp_rate")
        # A slow ramp may go longer without a new connection.
        self._patience_seconds = start.get("no_progress_seconds", NO_PROGRESS_SECONDS) + (2 / rate if rate else 0.0)
        self._ramp_step = least_progress(start["swarm"].get("connections", 1), rate, self._patience_seconds)
        self._patience = Patience(seconds=self._patience_seconds, since=0.0)
        self._stopped_by: str | None = None  # why the running phase is being cut short
        self._broken: str | None = None  # why no load may be put on any more
        self._deadline = _NEVER
        self._next_guard = self._next_progress = 0.0
        self._latency_bound = start["swarm"].get("latency_bound", 0.0)
        self._climb: MessageClimb | None = None
        self._follows = False

    @property
    def started(self) -> bool:
        """Return whether all processes have become ready."""
        return self.swarm is not None or self._follows

    def follow(self) -> None:
        """Take the phases from the caller alone: the swarm is on other hosts."""
        self._follows = True

    @property
    def draining(self) -> bool:
        """Return whether the swarm was asked to end, so that its exit is expected."""
        return self.name in ("drain", "done")

    def begin(self, name: str, now: float) -> None:
        """Begin a phase; one that is still running ends first."""
        if self.active:
            self.end(None if self.name == "hold" else "caller")
        self.name = self._scoreboard.phase = name
        self.active, self._stopped_by = True, None
        verify_step = max(1, int(VERIFY_PROGRESS * self._scoreboard.total(words.OPEN, ROLE_SWARM)))
        step = {"ramp": self._ramp_step, "verify": verify_step}.get(name, 1)
        self._patience = Patience(seconds=self._patience_seconds, since=now, step=step)
        self._deadline = now + DRAIN_SECONDS if name == "drain" else _NEVER
        self._next_guard = now
        self._reports.event("phase_started", phase=name)
        if self._broken and name in LOADED:
            self.end(self._broken)
        elif self._follows:
            return  # The next phase, `halt` or a bound of memory ends it.
        elif self.swarm is None or self.swarm.ended:
            self.end(self._broken)
        elif name == "climb":
            self._climb = MessageClimb(self._reports, self._scoreboard, self._latency_bound, self.swarm.send, now)
        else:
            self.swarm.send({"cmd": name, **({"passes": 1} if name == "verify" else {})})

    def cut(self, stopped_by: str, now: float) -> None:
        """End the running phase early; the first reason counts."""
        if not self.active or self._stopped_by:
            return
        self._stopped_by = stopped_by
        if self.name == "ramp" and self.swarm and not self.swarm.ended:
            self.swarm.send({"cmd": "halt"})
            self._deadline = now + HALT_SECONDS
        else:
            self.end(stopped_by)

    def swarm_says_done(self, name: str) -> None:
        """End the phase that the swarm says it has completed; one that has ended already is ignored."""
        if self.active and name == self.name:
            self.end(self._stopped_by)

    def lost(self, role: str, now: float) -> None:
        """Act on the unexpected death of a process."""
        self._broken = self._broken or f"{role}_died"
        if self.name in LOADED:
            self.cut(self._broken, now)

    def swarm_ended(self) -> None:
        """Act on the end of the swarm, after which nobody else could end a phase."""
        if self.active:
            self.end(self._stopped_by or self._broken)

    def end(self, stopped_by: str | None) -> None:
        """Report the end of the running phase, with what failed so far and the counts."""
        self.active, self._deadline = False, _NEVER
        firsts = self._scoreboard.first_failures()
        table = [
            {
                "phase": phase,
                "errno": number,
                "name": errorcode.get(number, str(number)),
                "count": count,
                "first_seconds": self._elapsed(firsts.get((phase, number))),
            }
            for (phase, number), count in sorted(self._scoreboard.failures().items())
        ]
        if table:
            self._reports.event("failures", table=table)
        self._reports.event("phase_ended", phase=self.name, stopped_by=stopped_by, **self.counts())
        if self.name == "drain":
            self.name = self._scoreboard.phase = "done"

    def tick(self, now: float) -> bool:
        """Do what is due; False when memory is so short that everything has to stop at once."""
        if not self.active:
            return True
        safe = True
        if now >= self._deadline:
            self.end(self._stopped_by or "no_progress")
        elif self.name == "climb" and self._climb and self._climb.is_over(now):
            self.end(None)
        elif self.name in LOADED and now >= self._next_guard:
            self._next_guard = now + GUARD_SECONDS
            safe = self._watch(now)
        if self.active and now >= self._next_progress:
            self._next_progress = now + PROGRESS_SECONDS
            self._reports.figure("progress", phase=self.name, headroom_bytes=read_headroom(), **self.counts())
        return safe

    def _watch(self, now: float) -> bool:
        """Compare memory and progress with their bounds."""
        ramping = self.name == "ramp"
        breach = None if self._stopped_by else self._guard.check(read_headroom(), ramping=ramping)
        if breach is not None:
            open_now = self._scoreboard.total(words.OPEN, ROLE_SWARM)
            self._reports.event(breach.event, **breach.fields, connections_open=open_now)
            self.cut(breach.stopped_by, now)
            return ramping
        # Attempts that failed, and connections that were closed again, are no progress of a ramp.
        moving = None if self._follows else {"ramp": words.OPEN, "verify": words.VERIFIED}.get(self.name)
        if moving is not None and self._patience.over(self._scoreboard.total(moving, ROLE_SWARM), now):
            self.cut("no_progress", now)
        return True

    def counts(self) -> dict[str, int]:
        """Return the connections and messages as the swarm counts them."""
        rows = self._scoreboard.of(ROLE_SWARM)
        return {
            "connections_open": sum(row[words.OPEN] for row in rows),
            "connections_failed": sum(row[words.FAILED] for row in rows),
            "connections_closed": sum(row[words.CLOSED] for row in rows),
            "connections_verified": sum(row[words.VERIFIED] for row in rows),
            "messages_sent": sum(row[words.SENT] for row in rows),
            "messages_received": sum(row[words.RECEIVED] for row in rows),
            "messages_failed": sum(row[words.MESSAGES_FAILED] for row in rows),
            "messages_unasked": sum(row[words.MESSAGES_UNASKED] for row in rows),
            "messages_repeated": sum(row[words.MESSAGES_REPEATED] for row in rows),
        }

    def _elapsed(self, monotonic_ns: int | None) -> float | None:
        """Return seconds on the run's clock for a reading of CLOCK_MONOTONIC, None for none."""
        return round(monotonic_ns / 1e9 - self._reports.epoch, 6) if monotonic_ns else None
