"""What a run did second by second: rates, latencies, and CPU as shares beside the cumulative columns."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from wslab.core.quantities import BadInput, refuse
from wslab.core.records import SAMPLE_COLUMNS, Column
from wslab.lab.shown import Shown

HANDSHAKE, ROUNDTRIP = KINDS = ("handshake", "roundtrip")
SIDES = ("server", "swarm")
# What the machine's CPUs do when they are not idle.
BUSY_KINDS = ("user", "nice", "system", "irq", "softirq", "steal")
IDLE_KINDS = ("idle", "iowait")

# Computed from the recorded columns when a run is loaded.
DERIVED_COLUMNS: tuple[Column, ...] = tuple(
    Column(name=name, unit="fraction", meaning=f"{meaning} over the interval that ends here", source="computed")
    for name, meaning in (
        ("server_cpu_fraction", "CPU of all server processes, 1.0 is one core,"),
        ("swarm_cpu_fraction", "CPU of all swarm processes, 1.0 is one core,"),
        ("lab_cpu_fraction", "CPU of recorder, supervisor and caller, 1.0 is one core,"),
        ("cpu_busy_fraction", "share of all CPUs that was not idle"),
    )
)


def per_second(cumulative: pd.Series) -> pd.Series:
    """Return the rate of a cumulative column, indexed by the end of each interval; its first value is missing."""
    seconds = pd.Series(cumulative.index, index=cumulative.index, dtype=float)
    return cumulative.astype(float).diff() / seconds.diff()


def with_fractions(samples: pd.DataFrame) -> pd.DataFrame:
    """Return samples with `DERIVED_COLUMNS` behind the recorded ones."""
    derived = {
        f"{side}_cpu_fraction": per_second(samples[f"{side}_cpu_user_seconds"] + samples[f"{side}_cpu_system_seconds"])
        for side in SIDES
    }
    derived["lab_cpu_fraction"] = per_second(samples["lab_cpu_seconds"])
    busy, idle = (
        samples[[f"cpu_{kind}_seconds" for kind in kinds]].sum(axis=1, min_count=1).diff()
        for kinds in (BUSY_KINDS, IDLE_KINDS)
    )
    derived["cpu_busy_fraction"] = busy / (busy + idle)
    return samples.assign(**derived)


def rates(samples: pd.DataFrame) -> pd.DataFrame:
    """Return what happened per second in the interval that ends at each sample.

    Columns: `phase`, `connections_per_second` (opened), `messages_per_second` (answered) and `failures_per_second`
    (attempts and messages); index `elapsed_seconds`.
    """
    failed = samples[["swarm_connections_failed", "swarm_messages_failed"]].sum(axis=1, min_count=1)
    return pd.DataFrame(
        {
            "phase": samples["phase"],
            "connections_per_second": per_second(samples["swarm_connections_opened"]),
            "messages_per_second": per_second(samples["swarm_messages_received"]),
            "failures_per_second": per_second(failed),
        }
    )


def percentiles(latency: pd.DataFrame, quantiles: Sequence[float], kind: str = ROUNDTRIP) -> pd.DataFrame:
    """Return latencies at some quantiles, of what ended in each second.

    Args:
        latency: increments of the histogram, as `Run.latency` has them.
        quantiles: each above 0 and at most 1.
        kind: `handshake` or `roundtrip`.

    Returns:
        Seconds, one column a quantile named `p50`, `p99`, `p99.9`; index `elapsed_seconds`. Each is off by at most 1 %.

    Raises:
        BadInput: a quantile or the kind cannot be used.
    """
    if kind not in KINDS:
        raise BadInput(f"kind={kind!r} is unknown: known are {', '.join(KINDS)}")
    for quantile in quantiles:
        number = isinstance(quantile, int | float) and not isinstance(quantile, bool)
        if not number or not 0 < quantile <= 1:
            raise BadInput(
                f"quantile {quantile!r} cannot be used: it takes a number above 0 and at most 1, such as 0.99"
            )
    chosen = latency[latency["kind"] == kind]
    counts = chosen.groupby(["elapsed_seconds", "bucket_seconds"])["count"].sum().reset_index()
    seconds = counts.groupby("elapsed_seconds")["count"]
    reached = seconds.cumsum() / seconds.transform("sum")
    found = {}
    for quantile in quantiles:
        # The first bucket of each second with so large a share at or below it; what a sum of shares rounds is let be.
        enough = counts[reached >= quantile - 1e-9]
        found[f"p{100 * quantile:g}"] = enough.groupby("elapsed_seconds")["bucket_seconds"].first()
    return pd.DataFrame(found, index=pd.Index(sorted(counts["elapsed_seconds"].unique()), name="elapsed_seconds"))


def columns(containing: str = "") -> Shown:
    """Explain the columns of `Run.samples`: `unit`, `meaning`, and `source`, where each is read; index the name.

    Args:
        containing: show only those with this in their name, such as `memory`.

    Raises:
        BadInput: there is none, or this is no text.
    """
    if not isinstance(containing, str):
        raise refuse("containing", containing, "a part of a column's name, such as memory")
    found = [column for column in (*SAMPLE_COLUMNS, *DERIVED_COLUMNS) if containing in column.name]
    if not found:
        raise BadInput(f"no column has {containing!r} in its name; wslab.columns() shows all of them")
    rows = [(column.name, column.unit, column.meaning, column.source) for column in found]
    return Shown(rows, columns=["column", "unit", "meaning", "source"]).set_index("column")
