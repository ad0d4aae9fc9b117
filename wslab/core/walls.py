"""The walls on the road to many connections, as a run met or passed them, and where they stand on a stock machine.

A plain set-up is one server process, one client process and one source address. Each wall has a place for it on the
machine of the run and on a stock one, so that what the run did about it can be read beside the number it avoided.

A stock machine is a fresh Linux of 16 GiB: the port range, the conntrack table and fs.nr_open are the kernel's own
defaults, epoll watches are its default for that memory, and the fd limit of a process is raised as far as it goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wslab.core.plan import BYTES_PER_CONNECTION, memory_left, ports_per_address, process_capacity
from wslab.core.quantities import counted, format_bytes

STOCK_MEMORY_BYTES = 16 << 30
# fs/eventpoll.c: a 25th of low memory, at 184 bytes a watch.
STOCK_WATCHES = STOCK_MEMORY_BYTES // 25 // 184
STOCK: Mapping[str, Any] = {"port_low": 32768, "port_high": 60999, "fd_hard": 1 << 20, "nr_open": 1 << 20}
# nf_conntrack_core.c, for every machine of more than 4 GiB.
STOCK_CONNTRACK = 1 << 18

# Other names under which a run meets the same wall.
_ALSO = {
    "ephemeral_ports": ("time_wait", "bind_ports"),
    "memory_machine": ("memory_reserve", "memory_cgroup"),
    "fd_limit": ("nr_open",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wall:
    """One wall.

    Attributes:
        limit: its name.
        title: what runs out, for a plain set-up; short enough for a column of a table.
        here: connections at which a plain set-up meets it on the machine of the run; None when it is not known.
        stock: the same on a stock machine.
        told: what the run did about it, or that it met it.
        met: whether the run broke there.
    """

    limit: str
    title: str
    here: int | None
    stock: int
    told: str
    met: bool = False


def walls(
    limits: Mapping[str, Any],
    layout: Mapping[str, Any],
    summary: Mapping[str, Any],
    findings: Sequence[Mapping[str, Any]] = (),
) -> list[Wall]:
    """Return the walls, the nearest on a stock machine first.

    Args:
        limits: the limits that the run read.
        layout: the stage as it was carried out: `source_addresses`, `server_shards`, `swarm_workers`, `memory_reserve`.
        summary: figures of the run: `connections_open`, `total_bytes_per_connection`.
        findings: what the run was ended by.
    """
    at = {str(finding["limit"]): finding.get("at_connections") for finding in findings}
    found = _walls(limits, layout, int(summary.get("connections_open") or 0), summary)
    return sorted((_as_met(wall, at) for wall in found), key=lambda wall: wall.stock)


def _as_met(wall: Wall, at: Mapping[str, Any]) -> Wall:
    """Return a wall as a run met it, under whatever name; as it is where none was met."""
    for name in (wall.limit, *_ALSO.get(wall.limit, ())):
        if name in at:
            told = f"met at {at[name] or 0:,}" + (f" ({name})" if name != wall.limit else "")
            return replace(wall, told=told, met=True)
    return wall


def _walls(
    limits: Mapping[str, Any], layout: Mapping[str, Any], reached: int, summary: Mapping[str, Any]
) -> Iterator[Wall]:
    def past(place: int | None, words: str) -> str:
        if place is None:
            return "not known here"
        return words if reached > place else "not reached"

    ports = ports_per_address(limits)
    addresses = counted(int(layout.get("source_addresses") or 1), "source address", "es")
    yield Wall(
        limit="ephemeral_ports",
        title="the ports of one source address",
        here=ports,
        stock=ports_per_address(STOCK),
        told=past(ports, f"passed with {addresses}"),
    )
    table = limits.get("conntrack_max")
    yield Wall(
        limit="conntrack",
        title="the conntrack table, under a stateful rule",
        here=table,
        stock=STOCK_CONNTRACK,
        # With more connections than entries, they cannot be tracked.
        told=past(table, "passed: loopback is not tracked here"),
    )
    one = process_capacity(limits)
    shards = counted(int(layout.get("server_shards") or 1), "shard")
    workers = counted(int(layout.get("swarm_workers") or 1), "worker")
    yield Wall(
        limit="fd_limit",
        title="the descriptors of one process",
        here=one,
        stock=process_capacity(STOCK),
        told=past(one, f"passed with {shards} and {workers}"),
    )
    reserve = int(layout.get("memory_reserve") or 0)
    measured = summary.get("total_bytes_per_connection")
    each = float(measured or BYTES_PER_CONNECTION)
    left = memory_left(limits, reserve)
    yield Wall(
        limit="memory_machine",
        title=f"memory, {_each(each, bool(measured))}",
        here=None if left is None else int(left / each),
        stock=max(0, int((STOCK_MEMORY_BYTES - reserve) / each)),
        told=f"took {format_bytes(int(each * reached))}" if measured and reached else "not reached",
    )
    watches = limits.get("epoll_watches_max")
    both_ends = None if watches is None else watches // 2
    yield Wall(
        limit="epoll_watches",
        title="the epoll watches of one user",
        here=both_ends,
        stock=STOCK_WATCHES // 2,
        told=past(both_ends, "passed"),
    )


def _each(bytes_each: float, measured: bool) -> str:
    return f"at {format_bytes(int(bytes_each))} a connection" + ("" if measured else " as a rule")
