"""Who was busy: whether the swarm, the server or the whole machine had no CPU left, from the samples alone.

A figure counts when it holds for at least half of the samples of some phase, so that one busy second is not a verdict.
The generator is asked before the server: a server that has time to spare is never the bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from wslab.core.timeline import ACTIVE, Record

# One process at 90 % of a core has no time to spare: the rest goes to scheduling and to the sampling error of 1 Hz.
BUSY = 0.90
# A server below this share of a core would have taken more work.
SPARE = 0.70
# Below this share of a core the server does nothing but wait.
IDLE = 0.05
# A swarm that is later than this behind its own schedule does not keep it.
LAG_SECONDS = 0.25
# The share of idle time below which the machine has no CPU left.
MACHINE_IDLE = 0.10
# How much more CPU than the server the swarm must take before a full machine is blamed on the swarm.
SWARM_OUTWEIGHS = 2.0

MACHINE_KINDS = ("user", "nice", "system", "irq", "softirq", "iowait", "steal", "idle")

Pair = tuple[Record, Record]


def generator_limited(samples: Sequence[Record]) -> bool:
    """Return whether the swarm was the bottleneck: busy, or late, while the server had time to spare."""
    return _holds(samples, _swarm_only)


def server_busy(samples: Sequence[Record]) -> bool:
    """Return whether a server shard was busy while the swarm had time to spare."""
    return _holds(samples, lambda pair: busiest(pair, "server") >= BUSY > busiest(pair, "swarm"))


def machine_busy(samples: Sequence[Record]) -> bool:
    """Return whether the machine had no CPU left."""
    return _holds(samples, _machine_full)


def server_idle(samples: Sequence[Record], phase: str) -> bool:
    """Return whether the server did nothing but wait for at least half of a phase."""
    return _lasts(pairs_of(samples, phase), lambda pair: busiest(pair, "server") < IDLE)


def busiest(pair: Pair, side: str) -> float:
    """Return the CPU share of the busiest process of one end over an interval; 0 when it was not measured."""
    return float(pair[1].get(f"{side}_cpu_fraction_max") or 0.0)


def machine_idle(pair: Pair) -> float | None:
    """Return the share of the machine's CPU time that was idle between two samples; None when it was not measured."""
    spent = [_spent(pair, f"cpu_{kind}_seconds") for kind in MACHINE_KINDS]
    total = sum(part or 0.0 for part in spent)
    waiting = (spent[MACHINE_KINDS.index("idle")] or 0.0) + (spent[MACHINE_KINDS.index("iowait")] or 0.0)
    return waiting / total if total > 0 else None


def pairs_of(samples: Sequence[Record], phase: str) -> list[Pair]:
    """Return the intervals that ended in a phase."""
    return [pair for pair in pairwise(samples) if pair[1].get("phase") == phase]


def _holds(samples: Sequence[Record], test: Callable[[Pair], bool]) -> bool:
    return any(_lasts(pairs_of(samples, phase), test) for phase in ACTIVE)


def _lasts(pairs: Sequence[Pair], test: Callable[[Pair], bool]) -> bool:
    return bool(pairs) and 2 * sum(map(test, pairs)) >= len(pairs)


def _swarm_only(pair: Pair) -> bool:
    if pair[1].get("server_cpu_fraction_max") is None or busiest(pair, "server") >= SPARE:
        return False
    if busiest(pair, "swarm") >= BUSY:
        return True
    late = float(pair[1].get("swarm_lag_seconds_max") or 0.0) > LAG_SECONDS
    # Many small processes on a full machine are all late; only what takes most of the CPU is the cause.
    return late and (not _machine_full(pair) or _cpu(pair, "swarm") >= SWARM_OUTWEIGHS * _cpu(pair, "server"))


def _machine_full(pair: Pair) -> bool:
    idle = machine_idle(pair)
    return idle is not None and idle < MACHINE_IDLE


def _cpu(pair: Pair, side: str) -> float:
    return sum(_spent(pair, f"{side}_cpu_{kind}_seconds") or 0.0 for kind in ("user", "system"))


def _spent(pair: Pair, name: str) -> float | None:
    before, after = pair[0].get(name), pair[1].get(name)
    return None if before is None or after is None else max(0.0, float(after) - float(before))
