"""One record from those of several hosts: counts that add up, samples on one clock, findings that name their host.

1. A sample of the whole has the kernel, the machine and the server as the server's host recorded them; of the swarm,
   counts, bytes and CPU time are sums over its hosts, and what is a maximum or a share is the largest.
2. The samples of each host stay as they are in `hosts/NAME/` of the run folder.
3. A limit that bound on a host of the swarm is proved by that host's own records, with its part of the load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wslab.core.diagnosis import diagnose
from wslab.core.evidence import Evidence
from wslab.core.records import SAMPLE_COLUMNS, Certainty, Finding

Record = Mapping[str, Any]

HOST_LOST = "host_lost"
# What stops the load when a host is gone: as after the death of a process, no phase puts load on any more.
HOST_DIED = "host_died"

# Samples are due at the same whole seconds on all hosts; this is how late one may be.
LATE_SECONDS = 0.5
_LARGEST = ("_max", "_fraction")
_SWARM = tuple(column.name for column in SAMPLE_COLUMNS if column.name.startswith("swarm_"))
_SUMMED = tuple(name for name in _SWARM if not name.endswith(_LARGEST))


def merge_counts(counts: Iterable[Record], lost: Iterable[Record] = ()) -> dict[str, int]:
    """Add the counts of the swarm's hosts; what was open on a host that is lost counts as closed."""
    total: dict[str, int] = {}
    gone = [{**row, "connections_open": 0, "connections_closed": _closed(row)} for row in lost]
    for row in [*counts, *gone]:
        for key, value in row.items():
            if key.startswith(("connections_", "messages_")) and isinstance(value, int):
                total[key] = total.get(key, 0) + value
    return total


def _closed(row: Record) -> int:
    return int(row.get("connections_closed") or 0) + int(row.get("connections_open") or 0)


def merge_failures(tables: Iterable[Sequence[Record]]) -> list[dict[str, Any]]:
    """Add the failures of the swarm's hosts, by phase and errno; each first came when it first came anywhere."""
    merged: dict[tuple[str, int], dict[str, Any]] = {}
    for row in (row for table in tables for row in table):
        known = merged.setdefault((row["phase"], row["errno"]), {**row, "count": 0})
        known["count"] += row["count"]
        times = [at for at in (known["first_seconds"], row["first_seconds"]) if at is not None]
        known["first_seconds"] = min(times, default=None)
    return [merged[key] for key in sorted(merged)]


def merge_sample(server: Record, swarm: Sequence[Record]) -> dict[str, Any]:
    """Return the sample of the whole, see the rules of the module."""
    merged = dict(server)
    for name in _SWARM:
        values = [row[name] for row in swarm if row.get(name) is not None]
        merged[name] = None if not values else sum(values) if name in _SUMMED else max(values)
    return merged


def merge_samples(server: Sequence[Record], swarm: Sequence[Sequence[Record]]) -> list[dict[str, Any]]:
    """Return the samples of the whole: one for each of the server's host, with the last ones of the others by then."""
    merged, at = [], [0] * len(swarm)
    for sample in server:
        until = float(sample.get("elapsed_seconds") or 0.0) + LATE_SECONDS
        for number, rows in enumerate(swarm):
            while at[number] < len(rows) and float(rows[at[number]].get("elapsed_seconds") or 0.0) <= until:
                at[number] += 1
        merged.append(merge_sample(sample, [rows[n - 1] for rows, n in zip(swarm, at, strict=True) if n]))
    return merged


def find(whole: Evidence, server: str, parts: Mapping[str, Evidence]) -> list[tuple[str, Finding]]:
    """Return the findings over all hosts, each with the name of its host and that name in its evidence.

    Args:
        whole: the records of the whole, with the limits of the server's host.
        server: name of the server's host.
        parts: the records of each host of the swarm, by its name.
    """
    if not whole.misses:
        return []
    hosts = [str(event["host"]) for event in whole.named(HOST_LOST)]
    judged = diagnose(whole)
    lost = [(name, one) for one in judged for name in hosts if one.evidence.startswith(f"host {name} is lost: ")]
    own = [(name, one) for name, part in parts.items() for one in diagnose(part)]
    own = [(name, one) for name, one in own if one.side != "server" and one.limit != "unknown"]
    proved = [(name, one) for name, one in own if one.certainty is not Certainty.INFERRED]
    elsewhere = {one.limit for _, one in proved}
    common = [(server, one) for one in judged if one.limit not in {*elsewhere, HOST_LOST}]
    known = [(name, one) for name, one in common if one.limit != "unknown"]
    if proved:  # An errno comes before CPU time that may explain.
        known = [(name, one) for name, one in known if one.certainty is not Certainty.INFERRED]
    if lost:  # What is cut short by the loss of a host is no proof of another limit.
        known = [(name, one) for name, one in known if one.certainty is Certainty.PROVED]
    else:
        proved = proved or ([] if known else own)
    named = [(name, replace(one, evidence=f"on {name}: {one.evidence}")) for name, one in [*proved, *known]]
    return [*lost, *named] or [(name, replace(one, evidence=f"on {name}: {one.evidence}")) for name, one in common]
