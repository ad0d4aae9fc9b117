"""Who was busy: whether the swarm, the server or the whole machine had no CPU left, from the samples alone.

1. A condition counts when at least half of the samples of some phase meet it, so one busy second decides nothing.
2. An end is busy when one of its processes fills a core, or when its control group has used up its CPU quota and waits.
   Only an end that is neither has time to spare.
3. The generator is asked before the server: a server that has time to spare is never the bottleneck.
4. Where others fill the machine, or the kernel does with handling packets, neither end is the bottleneck, whichever
   was the later: the machine is. The kernel handles a packet in the time of the process that sends it.
5. A miss is explained from the phases in which it happened: a ramp at full speed fills the cores and says nothing about
   the hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from wslab.core.disturbance import foreign_cores
from wslab.core.timeline import ACTIVE, Record

# One process at 90 % of a core has no time to spare: the rest goes to scheduling and to the sampling error of 1 Hz.
BUSY = 0.90
# A sample counts as throttled from this share of its periods on. A load that fits its quota is throttled in few
# periods, one that does not in nearly all; half is far from both.
THROTTLED = 0.5
# A server below this share of a core would have taken more work.
SPARE = 0.70
# Below this share of a core the server does nothing but wait.
IDLE = 0.05
# A swarm that is further behind its schedule than this does not keep it.
LAG_SECONDS = 0.25
# The share of idle time below which the machine has no CPU left.
MACHINE_IDLE = 0.10
# How much more CPU than the server the swarm must take before a full machine is blamed on the swarm.
SWARM_OUTWEIGHS = 2.0
# The share of all CPU time that others must take before a full machine is theirs to blame, and no end of the load.
OTHERS_TAKE = 0.25
# The share of all CPU time in soft interrupts from which on the handling of packets is what a full machine does.
PACKETS_TAKE = 0.5

MACHINE_KINDS = ("user", "nice", "system", "irq", "softirq", "iowait", "steal", "idle")

ENDS = ("server", "swarm")

Pair = tuple[Record, Record]


def generator_limited(samples: Sequence[Record], phases: Sequence[str] = ACTIVE) -> bool:
    """Return whether the swarm was the bottleneck: busy, or late, while the server had time to spare."""
    return _holds(samples, phases, _swarm_only)


def server_busy(samples: Sequence[Record], phases: Sequence[str] = ACTIVE) -> bool:
    """Return whether the server was busy while the swarm had time to spare."""
    return _holds(samples, phases, _server_only)


def machine_busy(samples: Sequence[Record], phases: Sequence[str] = ACTIVE) -> bool:
    """Return whether the machine had no idle CPU, or one end no CPU quota left while the other was busy as well."""
    return _holds(samples, phases, lambda pair: _machine_full(pair) or _quota_full(pair))


def throttled(samples: Sequence[Record], side: str, phases: Sequence[str] = ACTIVE) -> bool:
    """Return whether the CPU quota of one end was used up."""
    return _holds(samples, phases, lambda pair: is_throttled(pair, side))


def cpu_pressure(samples: Sequence[Record], phases: Sequence[str] = ACTIVE) -> float | None:
    """Return the share of time in which something waited for a CPU, in the worst phase; None if not read."""
    shares = (pressure(pairs_of(samples, phase)) for phase in phases)
    return max((share for share in shares if share is not None), default=None)


def bottleneck(pairs: Sequence[Pair]) -> str | None:
    """Return which side was at its limit over some intervals: `generator`, `server`, `machine`; None where none was.

    Where both ends fill a core and the machine has cores to spare, the generator is blamed when it was late.
    """
    if _lasts(pairs, _swarm_only):
        return "generator"
    if _lasts(pairs, _server_only):
        return "server"
    if _lasts(pairs, lambda pair: _machine_full(pair) or _quota_full(pair)):
        return "machine"
    if _lasts(pairs, lambda pair: _is_busy(pair, "server")):
        return "generator" if (swarm_lag_seconds(pairs) or 0.0) > LAG_SECONDS else "server"
    return None


def headroom(pairs: Sequence[Pair]) -> float | None:
    """Return the share of a core that the busiest worker of the swarm had left, at the median; None if not read."""
    shares = sorted(busiest(pair, "swarm") for pair in pairs if pair[1].get("swarm_cpu_fraction_max") is not None)
    return max(0.0, 1.0 - shares[len(shares) // 2]) if shares else None


def swarm_lag_seconds(pairs: Sequence[Pair]) -> float | None:
    """Return the largest lag of the swarm behind its schedule, in seconds; None if not read."""
    return max((lag for _, after in pairs if (lag := after.get("swarm_lag_seconds_max")) is not None), default=None)


def cpu_seconds(pairs: Sequence[Pair], side: str) -> float | None:
    """Return the CPU time of one end over some intervals, in seconds; None where its processes are not watched."""
    known = [pair for pair in pairs if pair[1].get(f"{side}_cpu_user_seconds") is not None]
    known = [pair for pair in known if pair[1].get(f"{side}_processes") != 0]
    return sum(_cpu(pair, side) for pair in known) if known else None


def pressure(pairs: Sequence[Pair]) -> float | None:
    """Return the share of time in which something waited for a CPU; None if not read."""
    waited = [part for pair in pairs if (part := _spent(pair, "psi_cpu_some_seconds")) is not None]
    seconds = sum(_spent(pair, "elapsed_seconds") or 0.0 for pair in pairs)
    return min(1.0, sum(waited) / seconds) if waited and seconds else None


def server_idle(samples: Sequence[Record], phase: str) -> bool:
    """Return whether the server did nothing but wait for work for at least half of a phase."""
    return _lasts(
        pairs_of(samples, phase), lambda pair: busiest(pair, "server") < IDLE and not is_throttled(pair, "server")
    )


def busiest(pair: Pair, side: str) -> float:
    """Return the CPU share of the busiest process of one end over an interval; 0 when it was not measured."""
    return float(pair[1].get(f"{side}_cpu_fraction_max") or 0.0)


def is_throttled(pair: Pair, side: str) -> bool:
    """Return whether one end waited for its CPU quota in most periods of an interval; False without a quota."""
    return float(pair[1].get(f"{side}_cpu_throttled_fraction") or 0.0) >= THROTTLED


def machine_idle(pair: Pair) -> float | None:
    """Return the share of the machine's CPU time that was idle between two samples; None when it was not measured."""
    spent = [_spent(pair, f"cpu_{kind}_seconds") for kind in MACHINE_KINDS]
    total = sum(part or 0.0 for part in spent)
    waiting = (spent[MACHINE_KINDS.index("idle")] or 0.0) + (spent[MACHINE_KINDS.index("iowait")] or 0.0)
    return waiting / total if total > 0 else None


def pairs_of(samples: Sequence[Record], phase: str) -> list[Pair]:
    """Return the intervals that began in a phase.

    A sample is taken when a phase begins. What it measured since the one before it is the end of the phase before.
    """
    return [pair for pair in pairwise(samples) if pair[0].get("phase") == phase]


def _holds(samples: Sequence[Record], phases: Sequence[str], test: Callable[[Pair], bool]) -> bool:
    return any(_lasts(pairs_of(samples, phase), test) for phase in phases)


def _lasts(pairs: Sequence[Pair], test: Callable[[Pair], bool]) -> bool:
    return bool(pairs) and 2 * sum(map(test, pairs)) >= len(pairs)


def _quota_full(pair: Pair) -> bool:
    return all(_is_busy(pair, side) for side in ENDS) and any(is_throttled(pair, side) for side in ENDS)


def _is_busy(pair: Pair, side: str) -> bool:
    return busiest(pair, side) >= BUSY or is_throttled(pair, side)


def others_fill(pair: Pair) -> bool:
    """Return whether the machine had no idle CPU, and others than the load took a large part of it."""
    foreign = foreign_cores(*pair)
    total = sum(_spent(pair, f"cpu_{kind}_seconds") or 0.0 for kind in MACHINE_KINDS)
    seconds = _spent(pair, "elapsed_seconds") or 0.0
    return foreign is not None and _machine_full(pair) and foreign * seconds >= OTHERS_TAKE * total > 0


def packets_fill(pair: Pair) -> bool:
    """Return whether the machine had no idle CPU, and spent most of its time on packets."""
    total = sum(_spent(pair, f"cpu_{kind}_seconds") or 0.0 for kind in MACHINE_KINDS)
    return _machine_full(pair) and (_spent(pair, "cpu_softirq_seconds") or 0.0) >= PACKETS_TAKE * total > 0


def packets_filled(samples: Sequence[Record], phases: Sequence[str] = ACTIVE) -> bool:
    """Return whether the handling of packets filled the machine for at least half of a phase."""
    return _holds(samples, phases, packets_fill)


def others_filled(samples: Sequence[Record], phases: Sequence[str] = ACTIVE) -> bool:
    """Return whether others filled the machine for at least half of a phase."""
    return _holds(samples, phases, others_fill)


def _server_only(pair: Pair) -> bool:
    if (others_fill(pair) or packets_fill(pair)) and not is_throttled(pair, "server"):
        return False
    return _is_busy(pair, "server") and not _is_busy(pair, "swarm")


def _swarm_only(pair: Pair) -> bool:
    unknown = pair[1].get("server_cpu_fraction_max") is None
    if (others_fill(pair) or packets_fill(pair)) and not is_throttled(pair, "swarm"):
        return False
    if unknown or busiest(pair, "server") >= SPARE or is_throttled(pair, "server"):
        return False
    if _is_busy(pair, "swarm"):
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
