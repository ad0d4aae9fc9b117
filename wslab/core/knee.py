"""The knee: how many messages a second a server answers before latency passes a bound, found by climbing in steps.

A step is a schedule of a certain rate and length over all open connections. Its latencies count from when each message
was due, and it is over when all are answered, so a step beyond the knee shows the whole delay that it caused.

1. The rate grows by `FACTOR` until a step is not kept; then the gap to the best kept step is halved (geometrically)
   until it is below `GAP`.
2. A step is kept when p99 is within the bound and answers keep up with the schedule.
3. A step that kept up and was only late is repeated once: a single stall of another program looks the same.
4. `Climb` decides the rates while the load runs; `knee_of` tells afterwards, from what was recorded, where the knee was
   and which side was at its limit just beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import sqrt
from typing import Any

from wslab.core.quantities import parse_number
from wslab.core.saturation import Pair, bottleneck, busiest, cpu_seconds, pressure, swarm_lag_seconds
from wslab.core.timeline import Record

AUTO = "auto"
# The event that a step is recorded as.
STEP_EVENT = "message_step"
# The first rate is far below what any server takes; the least is below what is worth measuring, the most above any.
RATE_FIRST, RATE_LEAST, RATE_MOST = 1000.0, 50.0, 16_000_000.0
FACTOR, GAP = 4.0, 1.12
# A step that only brackets the knee is short; one that measures it has a few samples of both ends.
SEARCH_SECONDS, MEASURE_SECONDS = 1.0, 2.0
# A p99 of fewer messages is the largest value and says nothing about the rate.
MESSAGES_LEAST = 100
STEPS_MOST = 40
# Answers that come at less than this share of the offered rate do not keep up.
RATE_KEPT = 0.90
# A late step in which something waited for a CPU for at least this share of the time is the machine's.
WAITS = 0.5
# The recorder notices the end of a step within this time.
BOUNDARY_SECONDS = 0.2
QUANTILES = ("p50", "p99", "p999")


def held_rate(message_rate: object) -> float:
    """Return the messages/s per connection of the hold phase; the climb has a phase of its own, after an idle hold."""
    return 0.0 if message_rate == AUTO else parse_number(message_rate or 0, "message_rate", "")


def most_rate(message_rate: object) -> float:
    """Return the messages/s per connection to provide for: at the knee any connection may have one under way."""
    return 1.0 if message_rate == AUTO else held_rate(message_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a climb, as measured.

    Attributes:
        number: from 1.
        messages_per_second: offered, over all connections.
        seconds: length of the schedule.
        connections_open: connections that it was spread over.
        messages_due: messages of the schedule.
        messages_answered: answers by the end of the schedule.
        answered_per_second: their rate.
        messages_unanswered: messages without an answer when the step was given up.
        roundtrip_seconds_p50, roundtrip_seconds_p99, roundtrip_seconds_p999: from when a message was due; None where
            the message of that rank was never answered.
        started_seconds, ended_seconds: the schedule, on the run's clock.
        settled_seconds: when the last answer had come, or the step was given up.
    """

    number: int
    messages_per_second: float
    seconds: float
    connections_open: int
    messages_due: int
    messages_answered: int
    answered_per_second: float
    messages_unanswered: int
    roundtrip_seconds_p50: float | None
    roundtrip_seconds_p99: float | None
    roundtrip_seconds_p999: float | None
    started_seconds: float
    ended_seconds: float
    settled_seconds: float

    def keeps_up(self) -> bool:
        """Return whether answers came at the rate of the schedule."""
        return self.answered_per_second >= RATE_KEPT * self.messages_per_second and not self.messages_unanswered

    def is_kept(self, latency_bound: float) -> bool:
        """Return whether the answers kept up and 99 % of them came within `latency_bound` seconds."""
        p99 = self.roundtrip_seconds_p99
        return self.keeps_up() and p99 is not None and p99 <= latency_bound

    def as_dict(self) -> dict[str, Any]:
        """Return the step as it is written to JSON."""
        return asdict(self)


class Climb:
    """Chooses the rate of each step from how the steps before it went.

    Args:
        latency_bound: seconds that p99 may take.
    """

    def __init__(self, latency_bound: float) -> None:
        self.latency_bound = latency_bound
        self.low: float = 0.0  # the largest rate that was kept
        self.high: float | None = None  # the smallest rate that was not
        self.steps = 0
        self._again: float | None = None

    def next(self) -> tuple[float, float] | None:
        """Return rate (messages/s over all connections) and seconds of the next step; None when the knee is found."""
        rate = self._again or self._rate()
        if rate is None or self.steps >= STEPS_MOST:
            return None
        seconds = SEARCH_SECONDS if self.high is None or not self.low else MEASURE_SECONDS
        return rate, max(seconds, MESSAGES_LEAST / rate)

    def took(self, step: Step) -> None:
        """Take note of how a step went."""
        self.steps += 1
        repeated, self._again = self._again is not None, None
        if step.is_kept(self.latency_bound):
            self.low = max(self.low, step.messages_per_second)
        elif step.keeps_up() and not repeated:
            self._again = step.messages_per_second
        else:
            self.high = min(self.high or step.messages_per_second, step.messages_per_second)

    def _rate(self) -> float | None:
        if self.high is None:
            rate = self.low * FACTOR if self.low else RATE_FIRST
            return rate if rate <= RATE_MOST else None
        if not self.low:
            return self.high / FACTOR if self.high / FACTOR >= RATE_LEAST else None
        return sqrt(self.low * self.high) if self.high > GAP * self.low else None


def knee_of(events: Sequence[Record], samples: Sequence[Record], latency_bound: float) -> dict[str, Any] | None:
    """Return the knee of a recorded climb; None where there was none.

    Args:
        events: everything that happened; steps are events named `STEP_EVENT`.
        samples: one mapping a second, and at both ends of each step.
        latency_bound: seconds that p99 may take.

    Returns:
        `messages_per_second` (None where no step was kept), `messages_per_second_per_connection`, its percentiles and
        CPU time a message of both ends, `limited_by` (`server`, `generator`, `machine`, or None where neither end was
        busy or no step failed), `why` in words, `latency_bound`, and `steps`, each with what both ends did meanwhile.
    """
    steps = [_observed(event, samples, latency_bound) for event in events if event.get("event") == STEP_EVENT]
    if not steps:
        return None
    failed = [step for step in steps if not step["kept"]]
    # A rate that was not kept at first and was when repeated is kept.
    kept = [step for step in steps if step["kept"]]
    best = max(kept, key=lambda step: step["messages_per_second"], default=None)
    low = best["messages_per_second"] if best else 0.0
    beyond = sorted((step for step in failed if step["messages_per_second"] > low), key=_rate_of)
    side = next((step["limited_by"] for step in beyond if step["limited_by"]), None)
    return {
        "messages_per_second": best and best["messages_per_second"],
        "messages_per_second_per_connection": best and low / max(1, best["connections_open"]),
        **{f"roundtrip_seconds_{name}": best and best[f"roundtrip_seconds_{name}"] for name in QUANTILES},
        **{f"{end}_cpu_seconds_per_message": best and _cpu_each(best, end) for end in ("server", "swarm")},
        "limited_by": side,
        "why": _why(best, beyond, side, latency_bound),
        "swarm_headroom_fraction": best and _headroom(best),
        "latency_bound": latency_bound,
        "steps": steps,
    }


def _rate_of(step: Mapping[str, Any]) -> float:
    return float(step["messages_per_second"])


def _observed(event: Record, samples: Sequence[Record], latency_bound: float) -> dict[str, Any]:
    """Return a step with what the samples say about both ends during its schedule."""
    fields = {name: event.get(name) for name in Step.__dataclass_fields__}
    step = Step(**fields)  # type: ignore[arg-type]
    begun, ended = step.started_seconds, step.ended_seconds + BOUNDARY_SECONDS
    pairs = [
        (before, after)
        for before, after in pairwise(samples)
        if before.get("phase") == "climb"
        and (before.get("elapsed_seconds") or 0.0) >= begun
        and (after.get("elapsed_seconds") or 0.0) <= ended
    ]
    kept = step.is_kept(latency_bound)
    return step.as_dict() | {
        "kept": kept,
        "limited_by": None if kept else bottleneck(pairs) or _by_waiting(pairs),
        **{
            f"{end}_cpu_fraction_max": max((busiest(p, end) for p in pairs), default=None)
            for end in ("server", "swarm")
        },
        **{f"{end}_cpu_seconds": cpu_seconds(pairs, end) for end in ("server", "swarm")},
        "cpu_pressure_fraction": pressure(pairs),
        "swarm_lag_seconds_max": swarm_lag_seconds(pairs),
    }


def _by_waiting(pairs: Sequence[Pair]) -> str | None:
    """Return `machine` where something waited for a CPU most of the time, though no process filled one.

    With many processes on few cores each has little to do and all wait for each other's turns.
    """
    return "machine" if (pressure(pairs) or 0.0) >= WAITS else None


def _cpu_each(step: Mapping[str, Any], end: str) -> float | None:
    seconds, answered = step[f"{end}_cpu_seconds"], step["messages_answered"]
    return seconds / answered if seconds and answered else None


def _headroom(step: Mapping[str, Any]) -> float | None:
    busy = step["swarm_cpu_fraction_max"]
    return None if busy is None else max(0.0, 1.0 - float(busy))


def _why(
    best: Mapping[str, Any] | None, beyond: Sequence[Mapping[str, Any]], side: str | None, latency_bound: float
) -> str:
    if not beyond:
        return f"every rate up to {_rate_of(best):,.0f}/s was kept" if best else "no step was kept"
    step = next((step for step in beyond if step["limited_by"] == side), beyond[0])
    p99, rate = step["roundtrip_seconds_p99"], _rate_of(step)
    if step["answered_per_second"] < RATE_KEPT * rate:
        what = f"{step['answered_per_second']:,.0f} of {rate:,.0f} messages/s answered"
    elif p99 is None:
        what = f"{step['messages_unanswered']:,} messages unanswered at {rate:,.0f}/s"
    else:
        what = f"p99 {p99 * 1e3:,.0f} ms at {rate:,.0f} messages/s, bound {latency_bound * 1e3:,.0f} ms"
    busy = ", ".join(
        f"{name} {value:.0%}"
        for name, value in (
            ("busiest server process", step["server_cpu_fraction_max"]),
            ("busiest swarm process", step["swarm_cpu_fraction_max"]),
            ("CPU pressure", step["cpu_pressure_fraction"]),
        )
        if value is not None
    )
    lag = step["swarm_lag_seconds_max"]
    late = f", swarm late by up to {lag * 1e3:,.0f} ms" if lag else ""
    return f"{what}: {busy}{late}" if busy else what
