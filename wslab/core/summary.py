"""The figures of a run: rates, percentiles and bytes per connection, only from what was recorded.

Rates come from the phases' own times, since a ramp may be over between two samples. Memory comes from the plateau, the
last sample of the hold phase that has a PSS, against the last sample before the ramp. A figure that was not measured is
None, never 0.

The keys are those of `wslab stage --json`; units stand in their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wslab.core.knee import held_rate, knee_of
from wslab.core.plan import Plan
from wslab.core.saturation import bottleneck, generator_limited, headroom, pairs_of
from wslab.core.servers import DEFAULT_SERVER, is_foreign
from wslab.core.timeline import (
    ACTIVE,
    Phase,
    Record,
    active,
    count_before_drain,
    last_phase,
    messages_between,
    open_at_plateau,
    sample_after,
    sample_before,
    timeline,
)

QUANTILES = {"p50": 0.50, "p99": 0.99, "p999": 0.999}
# A shorter hold has too few messages for a rate.
HOLD_SECONDS_MIN = 1.0
# With fewer connections, other processes change the kernel's memory more than the connections do.
KERNEL_CONNECTIONS_MIN = 2000
# What the memory of a server that is not ours is compared with: a reading with at most this share of the connections.
FEW_CONNECTIONS = 0.1
# A rank like 0.07 * 100 comes out just above 7; without this tolerance it would pick the next latency.
ROUNDING = 1e-6


def summarize(
    stage: Mapping[str, Any],
    plan: Plan,
    samples: Sequence[Record],
    latency: Iterable[Record],
    events: Sequence[Record],
) -> dict[str, Any]:
    """Return the figures of a run.

    Args:
        stage: the parameters asked for.
        plan: the layout.
        samples: one mapping a second.
        latency: rows `{elapsed_seconds, kind, bucket_seconds, count}`.
        events: everything that happened, in order.

    Returns:
        A flat mapping but for `knee`, which is there after a climb; None where something was not measured. For each
        phase it has the side that was at its limit, and what the busiest worker had left of a core.
    """
    phases = timeline(events)
    opened = open_at_plateau(phases, samples)
    ramp, verify = last_phase(phases, "ramp"), last_phase(phases, "verify")
    ramp_seconds = ramp.seconds if ramp else None
    rows = list(latency)
    knee = knee_of(events, samples, float(stage.get("latency_bound") or 0.0))
    headrooms = [sample["memory_headroom_bytes"] for sample in active(samples) if sample.get("memory_headroom_bytes")]
    return {
        "connections": int(stage["connections"]),
        "connections_open": opened,
        "connections_failed": count_before_drain(phases, samples, "connections_failed") or 0,
        "connections_verified": count_before_drain(phases, samples, "connections_verified") or 0,
        "ramp_seconds": ramp_seconds,
        "connections_per_second": opened / ramp_seconds if ramp_seconds else None,
        **_messages(stage, phases, opened),
        "messages_failed": count_before_drain(phases, samples, "messages_failed") or 0,
        "messages_unasked": count_before_drain(phases, samples, "messages_unasked") or 0,
        **_percentiles("roundtrip", _roundtrips(rows, phases)),
        **_percentiles("handshake", [row for row in rows if row["kind"] == "handshake"]),
        **_bytes_per_connection(samples, phases, opened, is_foreign(str(stage.get("server") or DEFAULT_SERVER))),
        **_plateau_bytes(samples, phases, opened),
        "memory_headroom_bytes_min": min(headrooms, default=None),
        **_cpu_per("connection", samples, ramp, opened),
        **_cpu_per("message", samples, verify, messages_between(phases, verify) if verify else None),
        "server_shards": plan.server_shards,
        "swarm_workers": plan.swarm_workers,
        "generator_limited": generator_limited(samples),
        **{f"{name}_limited_by": bottleneck(pairs_of(samples, name)) for name in ACTIVE},
        **{f"{name}_swarm_headroom_fraction": headroom(pairs_of(samples, name)) for name in ACTIVE},
        **({"knee": knee} if knee else {}),
    }


def quantile_seconds(rows: Iterable[Record], quantile: float) -> float | None:
    """Return the latency below which `quantile` (0 to 1) of the recorded ones lie; None when there are none."""
    counts: dict[float, int] = {}
    for row in rows:
        counts[row["bucket_seconds"]] = counts.get(row["bucket_seconds"], 0) + int(row["count"])
    left = quantile * sum(counts.values())
    for seconds in sorted(counts):
        left -= counts[seconds]
        if left <= ROUNDING:
            return seconds
    return None


def _percentiles(kind: str, rows: Sequence[Record]) -> dict[str, float | None]:
    return {f"{kind}_seconds_{name}": quantile_seconds(rows, quantile) for name, quantile in QUANTILES.items()}


def _roundtrips(rows: Sequence[Record], phases: Sequence[Phase]) -> list[Record]:
    """Return the round trips of the hold phase, which were on schedule, or else those of the verify phase."""
    trips = [row for row in rows if row["kind"] == "roundtrip"]
    hold = last_phase(phases, "hold")
    if hold is None:
        return trips
    end = float("inf") if hold.ended_seconds is None else hold.ended_seconds
    return [row for row in trips if hold.started_seconds < row["elapsed_seconds"] <= end] or trips


def _messages(stage: Mapping[str, Any], phases: Sequence[Phase], opened: int) -> dict[str, float | None]:
    """Return the rate of answered messages on schedule, or that of the verify phase when none were asked for.

    The offered rate is what was due while the connections were held; None when no messages were due.
    """
    verify_rate = _message_rate(phases, "verify")
    hold = last_phase(phases, "hold")
    rate = held_rate(stage.get("message_rate"))
    scheduled = hold is not None and (hold.seconds or 0.0) >= HOLD_SECONDS_MIN and rate > 0
    hold_rate = _message_rate(phases, "hold") if scheduled else None
    return {
        "messages_per_second": verify_rate if hold_rate is None else hold_rate,
        "messages_offered_per_second": rate * opened if scheduled else None,
        "verify_messages_per_second": verify_rate,
    }


def _message_rate(phases: Sequence[Phase], name: str) -> float | None:
    phase = last_phase(phases, name)
    answered = messages_between(phases, phase) if phase else None
    return answered / phase.seconds if phase and phase.seconds and answered is not None else None


def _bytes_per_connection(
    samples: Sequence[Record], phases: Sequence[Phase], opened: int, foreign: bool
) -> dict[str, float | None]:
    """Return what a connection costs: memory of each end's processes, of the kernel, and the sum.

    Of a server that is not ours, what it took before the ramp is subtracted.
    """
    plateau, baseline = _plateau(samples, opened), _baseline(samples, phases)
    count = (plateau or {}).get("swarm_connections_open") or opened
    ends: dict[str, float | None] = {"server_user": None, "swarm_user": None, "kernel": None}
    if plateau and count:
        for side in ("server", "swarm"):
            size = plateau.get(f"{side}_pss_bytes")
            size = plateau.get(f"{side}_rss_bytes") if size is None else size
            # Where the target is somebody else's server, no process of this end is ours.
            ends[f"{side}_user"] = size / count if size and plateau.get(f"{side}_processes") != 0 else None
        if foreign:
            ends["server_user"] = _slope(samples, plateau)
        now, then = plateau.get("memory_kernel_bytes"), (baseline or {}).get("memory_kernel_bytes")
        if now is not None and then is not None and count >= KERNEL_CONNECTIONS_MIN:
            ends["kernel"] = (now - then) / count
    parts = [part for part in ends.values() if part is not None]
    ends["total"] = sum(parts) if len(parts) == len(ends) else None
    return {f"{name}_bytes_per_connection": size for name, size in ends.items()}


def _plateau_bytes(samples: Sequence[Record], phases: Sequence[Phase], opened: int) -> dict[str, float | None]:
    """Return the memory of both ends and of the kernel at the plateau, and at the first reading of all processes.

    That reading may come a moment after the ramp has begun, so it has a number of connections of its own.
    """
    plateau = _plateau(samples, opened) or {}
    kernel = (_baseline(samples, phases) or {}).get("memory_kernel_bytes")
    columns = [f"{side}_pss_bytes" for side in ("server", "swarm")]
    alive = [f"{side}_processes" for side in ("server", "swarm")]
    first = next(
        (
            sample
            for sample in samples
            if all(sample.get(name) == plateau.get(name) for name in alive)
            and all(sample.get(name) is not None for name in columns)
        ),
        {},
    )
    found: dict[str, float | None] = {}
    for sample, at in ((plateau, ""), (first if first is not plateau else {}, "_at_start")):
        found[f"plateau_connections{at}"] = sample.get("swarm_connections_open")
        known = sample.get("memory_kernel_bytes")
        found[f"kernel_bytes{at}"] = None if known is None or kernel is None else known - kernel
        for column, number, side in zip(columns, alive, ("server", "swarm"), strict=True):
            found[f"{side}_user_bytes{at}"] = sample.get(column) if sample.get(number) else None
    return found


def _slope(samples: Sequence[Record], plateau: Record) -> float | None:
    """Return by how much the server's processes grew for a connection, from the beginning of the ramp to the plateau.

    The last reading with few connections counts: the processes of the swarm are there by then, and a page that the
    server shares with them counts less.
    """
    column = "server_rss_bytes" if plateau.get("server_pss_bytes") is None else "server_pss_bytes"
    most = plateau.get("swarm_connections_open") or 0
    few = [
        sample
        for sample in samples
        if sample.get("phase") in ("start", "ramp")
        and sample.get("server_processes")
        and sample.get(column) is not None
        and (sample.get("swarm_connections_open") or 0) <= FEW_CONNECTIONS * most
    ]
    if not few or plateau.get(column) is None or not most:
        return None
    grown = plateau[column] - few[-1][column]
    # With few connections the server gives back more elsewhere than they take, and nothing can be said.
    return grown / (most - (few[-1].get("swarm_connections_open") or 0)) if grown > 0 else None


def _plateau(samples: Sequence[Record], opened: int) -> Record | None:
    """Return the sample that memory is read from: of the hold phase, with PSS if any has it."""
    held = [sample for sample in samples if sample.get("phase") == "hold"]
    measured = [sample for sample in held if sample.get("server_pss_bytes") is not None]
    if measured or held:
        return (measured or held)[-1]
    return next(
        (sample for sample in reversed(active(samples)) if sample.get("swarm_connections_open") == opened > 0), None
    )


def _baseline(samples: Sequence[Record], phases: Sequence[Phase]) -> Record | None:
    ramp = last_phase(phases, "ramp")
    return sample_before(samples, ramp.started_seconds) if ramp else None


def _cpu_per(what: str, samples: Sequence[Record], phase: Phase | None, count: float | None) -> dict[str, float | None]:
    """Return the CPU time of each end over a phase, in seconds, for one of `count` connections or messages."""
    before = sample_before(samples, phase.started_seconds) if phase else None
    after = sample_after(samples, phase.ended_seconds) if phase and phase.ended_seconds is not None else None
    costs: dict[str, float | None] = {}
    for side in ("server", "swarm"):
        # Before the ramp there may be no process yet, and so no CPU time.
        start = _cpu_seconds(before, side) or 0.0
        end = _cpu_seconds(after, side)
        # The CPU time of processes that are not ours is not known.
        known = end is not None and count and (after or {}).get(f"{side}_processes") != 0
        costs[f"{side}_cpu_seconds_per_{what}"] = ((end or 0.0) - start) / count if known and count else None
    return costs


def _cpu_seconds(sample: Record | None, side: str) -> float | None:
    parts = [(sample or {}).get(f"{side}_cpu_{kind}_seconds") for kind in ("user", "system")]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None
