"""Where a run stands: the facts that every live view shows, from the events and samples of the run.

1. Counts come from `progress` and from `sample` events, so a run that is followed through its folder shows the same.
2. Rates are those of the last seconds, percentiles those of the last recorded interval.
3. What a later phase will take is estimated from the ramp, by the shares that recorded runs had.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wslab.core.disturbance import difference, foreign_cores
from wslab.core.quantities import format_count
from wslab.core.records import RUNNING
from wslab.core.summary import quantile_seconds
from wslab.lab.tables import MISSING, bytes_text, count_text, rate_text, seconds_text, whole_text

# A rate needs two samples, which are a second apart, and is to show a stall at once.
RATE_SECONDS = 1.6
# CPU times are counted in ticks of 10 ms.
CPU_SECONDS_MIN = 0.5
# Verifying and draining take so much of the time of the ramp: runs of 100k to 1M against the lean server.
VERIFY_SHARE, DRAIN_SHARE = 0.35, 0.2
HISTORY_MAX = 200
PHASES = ("ramp", "hold", "verify", "drain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What is counted at one moment, for rates."""

    at: float
    open: int
    verified: int
    messages: int


class Progress:
    """Where a run stands.

    Attributes:
        run_dir: its folder, empty while not known.
        watched: whether it belongs to another process, so that an interrupt here does not stop it.
        phase: the phase it is in: `start`, one of `PHASES`, `saving`, or its outcome once it has ended.
        reason: why it ended as it did, one sentence.
        note: what has to be done before the run begins, empty once it has begun.
        target: connections asked for, 0 while not known.
        open: connections open; in the drain as many as there were at its begin.
        still_open: connections open, in the drain too.
        failed: attempts that failed.
        lost: connections that were closed by the other end.
        verified: connections verified.
        headroom_bytes: memory left on the machine, None while not known.
        history: (seconds, connections open), at most `HISTORY_MAX` of them.
        phases: (seconds, name) of the phases that have begun.
    """

    def __init__(self) -> None:
        self.run_dir = ""
        self.watched = False
        self.phase, self.reason, self.note = "start", "", ""
        self.ended = False
        self.target = 0
        self.hold_seconds: float | None = None
        self.open = self.failed = self.verified = self.still_open = self.lost = 0
        self.headroom_bytes: float | None = None
        self.seconds = 0.0
        self.history: list[tuple[float, int]] = []
        self.phases: list[tuple[float, str]] = []
        self._seen: deque[Counts] = deque()
        self._ramp_seconds: float | None = None
        self._sample: Mapping[str, Any] = {}
        self._cores: dict[str, float] = {}
        self._memory: dict[str, float] = {}
        self._shared: dict[str, float] = {}  # of RSS, what several processes count
        self._quantiles: dict[str, tuple[float | None, float | None]] = {}

    def take(self, event: Mapping[str, Any]) -> bool:
        """Process one event and return whether it must be shown at once."""
        name = event.get("event")
        self.note = str(event.get("message", "")) if name == "compiling" else ""
        if name == "run_created":
            self.run_dir = str(event.get("run_dir") or self.run_dir)
            self.target = int(event.get("connections") or self.target)
            self.hold_seconds = event.get("hold_seconds", self.hold_seconds)
            self.watched = bool(event.get("watched"))
        self.seconds = float(event.get("elapsed_seconds") or self.seconds)
        if name == "phase_started":
            self._seen.clear()
            self._quantiles.clear()
            self.phases.append((self.seconds, str(event.get("phase"))))
        if name in ("phase_started", "progress", "sample") and event.get("phase") and not self.ended:
            self.phase = str(event["phase"])
        self._count(event, "swarm_" if name == "sample" else "")
        if name == "sample":
            self._use(event)
        self.headroom_bytes = event.get("headroom_bytes") or event.get("memory_headroom_bytes") or self.headroom_bytes
        if name == "phase_ended" and self.phase == "ramp" and self.phases:
            self._ramp_seconds = self.seconds - self.phases[-1][0]
        if (name == "phase_ended" and self.phase == "drain") or name == "stopped" or self.phase == "done":
            self.phase = "saving"
        if name == "run_ended" and event.get("outcome") != RUNNING:
            self.ended, self.phase, self.reason = True, str(event.get("outcome")), str(event.get("reason") or "")
        return name in ("compiling", "run_created", "phase_started", "phase_ended", "stopped", "error", "run_ended")

    def take_latencies(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take the rows that the latency table has gained; those of its last interval count."""
        gained = list(rows)
        for kind in {row["kind"] for row in gained}:
            ours = [row for row in gained if row["kind"] == kind]
            last = max(row["elapsed_seconds"] for row in ours)
            ours = [row for row in ours if row["elapsed_seconds"] == last]
            self._quantiles[kind] = (quantile_seconds(ours, 0.5), quantile_seconds(ours, 0.99))

    def _count(self, event: Mapping[str, Any], prefix: str) -> None:
        opened = event.get(f"{prefix}connections_open")
        if opened is None or self.ended:
            return
        self.still_open = int(opened)
        if self.phase in (*PHASES[:3], "start"):
            self.open = int(opened)
            self.failed = int(event.get(f"{prefix}connections_failed") or 0)
            self.lost = int(event.get(f"{prefix}connections_closed") or 0)
            self.verified = int(event.get(f"{prefix}connections_verified") or 0)
        received = int(event.get(f"{prefix}messages_received") or 0)
        self._seen.append(Counts(at=self.seconds, open=self.still_open, verified=self.verified, messages=received))
        while self._seen[-1].at - self._seen[0].at > RATE_SECONDS:
            self._seen.popleft()
        if not self.history or self.seconds > self.history[-1][0]:
            self.history.append((self.seconds, self.still_open))
        if len(self.history) > HISTORY_MAX:
            del self.history[1:-1:2]

    def _use(self, sample: Mapping[str, Any]) -> None:
        """Take CPU and memory of both ends from a sample."""
        for side in ("server", "swarm"):
            rss, pss = sample.get(f"{side}_rss_bytes"), sample.get(f"{side}_pss_bytes")
            if rss:  # PSS is read now and then only; since then the processes have grown as their RSS has.
                shared = rss - pss if pss else self._shared.get(side, 0)
                self._shared[side], self._memory[side] = shared, max(0, rss - shared)
        before, seconds = self._sample, sample["elapsed_seconds"] - self._sample.get("elapsed_seconds", 0.0)
        if before and seconds < CPU_SECONDS_MIN:
            return
        self._sample = sample
        if not before:
            return
        sums: dict[str, tuple[str, ...]] = {"server": ("server_cpu_user_seconds", "server_cpu_system_seconds")}
        sums["swarm"] = ("swarm_cpu_user_seconds", "swarm_cpu_system_seconds")
        sums["all"] = tuple(name for name in sample if name.startswith("cpu_") and name.endswith("_seconds"))
        for who, names in sums.items():
            used = difference(before, sample, names)
            if names and used is not None:
                self._cores[who] = max(0.0, used / seconds)
        others = foreign_cores(before, sample) if {"lab_cpu_seconds"} <= before.keys() & sample.keys() else None
        if others is not None:
            self._cores["others"] = max(0.0, others)

    # What the phase does.

    def _rate(self, what: str, sign: int = 1) -> float | None:
        if len(self._seen) < 2:
            return None
        first, last = self._seen[0], self._seen[-1]
        moved = sign * (getattr(last, what) - getattr(first, what))
        return moved / (last.at - first.at) if moved > 0 and last.at > first.at else None

    @property
    def rate(self) -> float | None:
        """Connections opened, verified or closed a second, whichever the phase does; None while nothing moves."""
        what = {"verify": "verified"}.get(self.phase, "open")
        return self._rate(what, -1 if self.phase == "drain" else 1)

    @property
    def message_rate(self) -> float | None:
        """Messages that came back a second; None while none do."""
        return self._rate("messages")

    @property
    def seconds_left(self) -> float | None:
        """Time until the phase is done; None where it cannot be told."""
        if self.phase == "hold" and self.hold_seconds is not None and self.phases:
            return max(0.0, self.hold_seconds - (self.seconds - self.phases[-1][0]))
        todo = {"ramp": self.target - self.open, "verify": self.open - self.verified, "drain": self.still_open}
        rate = self.rate
        return max(0, todo[self.phase]) / rate if rate and self.target and self.phase in todo else None

    @property
    def seconds_left_in_all(self) -> float | None:
        """Time until the whole run is done, as far as that can be told; None while it cannot."""
        here = self.seconds_left
        if self.phase not in PHASES or here is None or self.hold_seconds is None:
            return None
        ramp = self._ramp_seconds or (self.target / self.rate if self.phase == "ramp" and self.rate else 0.0)
        takes = {"ramp": ramp, "hold": self.hold_seconds, "verify": VERIFY_SHARE * ramp, "drain": DRAIN_SHARE * ramp}
        return here + sum(takes[name] for name in PHASES[PHASES.index(self.phase) + 1 :])

    @property
    def share(self) -> float:
        """Share of the connections asked for that are open, 0 to 1."""
        return min(1.0, self.open / self.target) if self.target else 0.0

    @property
    def phase_share(self) -> float:
        """Share of the phase that is done, 0 to 1."""
        if self.ended or self.phase == "saving":
            return self.share
        if self.phase == "hold" and self.hold_seconds and self.seconds_left is not None:
            return 1 - self.seconds_left / self.hold_seconds
        if self.phase in ("verify", "drain"):
            done = self.verified if self.phase == "verify" else self.open - self.still_open
            return min(1.0, done / self.open) if self.open else 0.0
        return self.share

    # In words.

    @property
    def heading(self) -> str:
        """Phase, countdown of the phase, and how long all will take."""
        if self.ended:
            return f"{self.phase}{f': {self.reason}' if self.reason else ''}"
        return " · ".join([self.phase, *self._times()])

    def facts(self) -> list[tuple[str, str]]:
        """Return the facts as (name, text), always the same names, so that nothing jumps on a screen."""
        handshakes = self.phase in ("start", "ramp")
        p50, p99 = self._quantiles.get("handshake" if handshakes else "roundtrip", (None, None))
        latency = f"{seconds_text(p50)} / {seconds_text(p99)}"
        moving = {"verify": "verified", "drain": "closed"}.get(self.phase, "opened")
        many = {"verify": self.verified, "drain": self.open - self.still_open}.get(self.phase, self.open)
        cores = f" of {self._cores['all']:.0f}" if self._cores.get("all") else ""
        both = [f"{side} {self._cores[side]:.2f}" for side in ("server", "swarm", "others") if side in self._cores]
        memory = [f"{side} {bytes_text(self._memory[side])}" for side in ("server", "swarm") if side in self._memory]
        return [
            ("open", f"{whole_text(self.open)}{f' of {format_count(self.target)}' if self.target else ''}"),
            ("failed", whole_text(self.failed) + (f", {whole_text(self.lost)} lost" if self.lost else "")),
            (moving, f"{whole_text(many)} · {rate_text(self.rate)}" if self.rate else whole_text(many)),
            ("messages", rate_text(self.message_rate)),
            (f"{'handshake' if handshakes else 'round trip'} p50 / p99", latency),
            ("CPU cores", " · ".join(both) + cores if both else MISSING),
            ("memory", " · ".join(memory) or MISSING),
            ("memory left", bytes_text(self.headroom_bytes)),
        ]

    @property
    def line(self) -> str:
        """The whole state in one line."""
        if self.note:
            return self.note
        return " · ".join([f"{self.phase:<6} {self.count_words}", *self.details])

    @property
    def count_words(self) -> str:
        """Connections, and the time that is left; once it has ended the reason."""
        if self.note:
            return self.note
        of = f" of {format_count(self.target)}" if self.target else ""
        parts = [f"{whole_text(self.open)}{of} open"]
        if self.phase == "verify":
            parts.append(f"{whole_text(self.verified)} verified")
        if self.phase == "drain":
            parts.append(f"{whole_text(self.still_open)} still open")
        if self.phase in ("ramp", "verify") and self.rate:
            parts.append(f"{count_text(self.rate)}/s")
        parts += self._times()
        if self.failed:
            parts.append(f"{whole_text(self.failed)} failed")
        if self.lost:
            parts.append(f"{whole_text(self.lost)} lost")
        return " · ".join([*parts, *([self.reason] if self.reason else [])])

    def _times(self) -> list[str]:
        whole = self.seconds_left_in_all
        parts = [] if self.seconds_left is None else [f"{_countdown(self.seconds_left)} left"]
        return parts + ([] if whole is None or self.phase == "drain" else [f"about {_countdown(whole)} for all"])

    @property
    def details(self) -> list[str]:
        """Messages, percentiles, CPU and memory, those that are known."""
        named = self.facts()[3:7]
        words = [f"{name} {text}" for name, text in named if not text.startswith(MISSING)]
        left = [] if self.headroom_bytes is None else [f"{bytes_text(self.headroom_bytes)} memory left"]
        return ([] if self.ended or self.phase == "saving" else words) + left


def _countdown(seconds: float) -> str:
    """Return a time that is left, in whole seconds."""
    return seconds_text(float(round(seconds))) if seconds >= 0.5 else "0 s"
