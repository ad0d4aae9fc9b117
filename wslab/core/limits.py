"""Preflight: the ceiling of each limit on this host in connections, in order, and whether a stage fits below them.

`ceilings` answers "what breaks first here, and what lifts it"; `fits` says it in one sentence for one stage.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from wslab.core.limit import ONE_PROCESS, PLANNED, Host, Limit
from wslab.core.limit_table import LIMITS
from wslab.core.plan import Plan, address_span, estimate_bytes, process_capacity
from wslab.core.quantities import about_count, format_bytes, format_count

__all__ = ["LIMITS", "ONE_PROCESS", "PLANNED", "Ceiling", "Fit", "Host", "Limit", "ceilings", "fits"]

# What a command raises a limit to, beyond the bare need: the rest of the machine uses some of it too.
MARGIN_PERCENT = 5

# How a sentence calls a limit whose name does not read like words.
WORDS = {
    "memory_machine": "memory",
    "memory_reserve": "memory above the reserve",
    "memory_cgroup": "memory of the control group",
    "file_max": "fs.file-max",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """How far one limit lets this host go.

    Attributes:
        limit: name of the limit.
        scope: `as planned` or `one process` for a limit of a process, else empty.
        side: `server`, `swarm`, `kernel` or `machine`.
        title: what it is, for people.
        reads: where its value was read.
        value: the value as read; None when it is not there.
        ceiling_connections: connections at which it ends; None when it has no number in connections.
        binding: whether it counts here; if not, `note` says why.
        note: what to know about it on this host, may be empty.
        lift: what lifts it.
        needs_root: whether that takes root.
        commands: what to type for it.
    """

    limit: str
    scope: str
    side: str
    title: str
    reads: str
    value: float | None
    ceiling_connections: int | None
    binding: bool
    note: str
    lift: str
    needs_root: bool
    commands: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the row as it is written to JSON."""
        return asdict(self) | {"commands": list(self.commands)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether a stage fits this host: the answer, a sentence, and the limits that end it, lowest ceiling first."""

    fits: bool
    sentence: str
    broken: tuple[Ceiling, ...]


def ceilings(host: Host, plan: Plan) -> list[Ceiling]:
    """Return the ceiling of every limit on a host, lowest first; those without a number come last.

    Args:
        host: the host's limits as the machine layer reads them.
        plan: the layout of the stage, which decides the limits that depend on processes and addresses.
    """
    rows = [_ceiling(limit, host, plan) for limit in LIMITS]
    return sorted(rows, key=lambda row: (row.ceiling_connections is None, row.ceiling_connections or 0))


def fits(host: Host, plan: Plan) -> Fit:
    """Say whether the planned number of connections fits below every limit that binds on this host."""
    wanted = format_count(plan.connections)
    rows = [row for row in ceilings(host, plan) if row.binding and row.ceiling_connections is not None]
    broken = tuple(row for row in rows if (row.ceiling_connections or 0) < plan.connections)
    if broken:
        ends = "; ".join(f"{_ends(row)} at {about_count(row.ceiling_connections or 0)} ({row.lift})" for row in broken)
        return Fit(fits=False, sentence=f"{wanted} does not fit: {ends}", broken=broken)
    headroom = host.get("memory_headroom_bytes")
    if headroom is None:
        return Fit(fits=True, sentence=f"{wanted} fits", broken=())
    spare = format_bytes(max(0, headroom - estimate_bytes(plan.connections)))
    return Fit(fits=True, sentence=f"{wanted} fits with {spare} to spare", broken=())


def _ends(row: Ceiling) -> str:
    words = WORDS.get(row.limit, row.limit.replace("_", " "))
    if row.scope:
        words += f" of the {row.side}"
    return words + (" end" if row.limit in ("epoll_watches", "ephemeral_ports") else " ends")


def _ceiling(limit: Limit, host: Host, plan: Plan) -> Ceiling:
    supply = limit.supply(host, plan)
    ceiling = None if supply is None else supply // limit.units_per_connection
    note = limit.exempt(host, plan)
    return Ceiling(
        limit=limit.name,
        scope=limit.scope,
        side=limit.side,
        title=limit.title,
        reads=limit.reads,
        value=host.get(limit.key) if limit.key else None,
        ceiling_connections=ceiling,
        binding=ceiling is not None and not note,
        note=note,
        lift=limit.lift,
        needs_root=limit.needs_root,
        commands=_commands(limit, host, plan, supply, ceiling),
    )


def _commands(limit: Limit, host: Host, plan: Plan, supply: int | None, ceiling: int | None) -> tuple[str, ...]:
    """Fill in what the stage needs; where it already fits, what about twice the present ceiling would need."""
    target = plan.connections
    if ceiling is not None and ceiling >= target:
        step = 10 ** max(0, len(str(ceiling)) - 2)
        target = 2 * max(1, -(-ceiling // step) * step)
    units = target * limit.units_per_connection * (100 + MARGIN_PERCENT) // 100
    if limit.name in ("file_max", "conntrack") and supply is not None:
        units += int(host.get(limit.key) or 0) - supply  # What others use already.
    counts = {
        "connections": format_count(plan.connections),
        "units": units,
        "buckets": -(-target // 4),
        "addresses": -(-target // address_span(host)),
        "processes": max(plan.shards + 1, -(-target // process_capacity(host))),
    }
    return tuple(command.format(**counts) for command in limit.commands)
