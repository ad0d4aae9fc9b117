"""What follows from the table of limits on one host: ceilings in order, whether a stage fits, and what lifts a limit.

1. `ceilings` answers "what breaks first here"; `fits` says it in one sentence for one stage.
2. `settings_for`, `remedy`, `relaxed` and the commands of a ceiling use the same lifts of the same row with the same
   need, so preflight, findings, `wslab tune` and a second run never give different numbers.
3. `walls` compares a run with a plain set-up of one server process, one client process and one source address, on its
   own machine and on a stock one: a fresh Linux of 16 GiB. There the port range, the conntrack table and fs.nr_open are
   the kernel's own defaults, epoll watches are its default for that memory, and the fd limit of a process is raised as
   far as it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from wslab.core.host import Host
from wslab.core.limits import LIMITS, ONE_PROCESS, Limit
from wslab.core.plan import (
    Plan,
    loopback_addresses,
    memory_left,
)
from wslab.core.quantities import about_count, counted, format_bytes, format_count
from wslab.core.settings import CGROUP, NEEDED, PARAMETER, RLIMIT, SYSCTL, Lift, Need, Setting, command_of

# Words for limits whose names do not read well in a sentence.
WORDS = {
    "memory_machine": "memory",
    "memory_reserve": "memory above the reserve",
    "memory_cgroup": "memory of the control group",
    "file_max": "fs.file-max",
}
# The value that leaves a parameter to the plan, and the layout parameters that take it, each with its side.
AUTO = "auto"
LAYOUT: Mapping[str, str] = {"server_shards": "server", "swarm_workers": "swarm", "source_addresses": "swarm"}
# The order in which settings must be written: no fd limit can be set above fs.nr_open, which is a sysctl.
_WRITTEN = (SYSCTL, RLIMIT, CGROUP)


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
        binding: whether it binds here; if not, `note` says why.
        note: what to know about it on this host, may be empty.
        lift: what lifts it.
        needs_root: whether that takes root.
        commands: the commands that lift it.
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
        host: the host's limits.
        plan: the layout of the stage, which decides the limits that depend on processes and addresses.
    """
    rows = [_ceiling(limit, Need(host=host, plan=plan)) for limit in LIMITS]
    return sorted(rows, key=lambda row: (row.ceiling_connections is None, row.ceiling_connections or 0))


def fits(host: Host, plan: Plan) -> Fit:
    """Say whether the planned number of connections fits below every limit that binds on this host."""
    wanted = format_count(plan.connections)
    rows = [row for row in ceilings(host, plan) if row.binding and row.ceiling_connections is not None]
    broken = tuple(row for row in rows if (row.ceiling_connections or 0) < plan.connections)
    if broken:
        ends = "; ".join(f"{_ends(row)} at {about_count(row.ceiling_connections or 0)} ({row.lift})" for row in broken)
        return Fit(fits=False, sentence=f"{wanted} does not fit: {ends}", broken=broken)
    if host.memory_headroom_bytes is None:
        return Fit(fits=True, sentence=f"{wanted} fits", broken=())
    taken = plan.start_bytes + plan.connections * plan.bytes_per_connection
    spare = format_bytes(max(0, host.memory_headroom_bytes - taken))
    return Fit(fits=True, sentence=f"{wanted} fits with {spare} to spare", broken=())


def settings_for(need: Need) -> list[Setting]:
    """Return the settings that have to change for a planned stage, in the order in which they must be written.

    Connections count as tracked when the conntrack table has entries. These may be left over from rules that are gone,
    but a table that is too large costs little. `ceilings` draws no such conclusion.
    """
    tracking = need.host.conntrack_tracking
    if tracking is None and need.host.conntrack_count:
        need = replace(need, host=replace(need.host, conntrack_tracking=True))
    found: dict[str, Setting] = {}
    for limit in LIMITS:
        for lift in limit.lifts:
            setting = _setting(limit, lift, need)
            if setting is not None and _before(setting, found.get(setting.key)):
                found[setting.key] = setting
    return sorted(found.values(), key=lambda setting: _WRITTEN.index(setting.kind))


def remedy(need: Need, limit: str, side: str) -> str:
    """Return what lifts a limit, with the command for this stage; empty for a limit that is not in the table."""
    rows = [row for row in LIMITS if row.name == limit]
    # The planned row of the same side fits best; the one of a single process is the last resort.
    rows.sort(key=lambda row: (row.scope == ONE_PROCESS, row.side != side))
    return ": ".join([rows[0].remedy, *_commands(rows[0], need, side)[:1]]) if rows else ""


def relaxed(findings: Iterable[Mapping[str, Any]], asked: Mapping[str, Any]) -> dict[str, str]:
    """Return the layout parameters to set to `auto` so that the limits at which a run broke are lifted.

    This undoes what was given by hand and takes no root. A bound that the caller has set, such as a memory cap, stays.

    Args:
        findings: those of the run, each with `limit` and `side`.
        asked: the stage as it was asked for.

    Returns:
        The changed parameters; empty if any finding is not lifted by one of them.
    """
    changes: dict[str, str] = {}
    for finding in findings:
        key = _layout_parameter(str(finding["limit"]), str(finding["side"]))
        if key is None:
            return {}
        if asked.get(key) != AUTO:
            changes[key] = AUTO
    return changes


def ceiling_of(host: Host, plan: Plan, limit: str, side: str) -> int | None:
    """Return the connections at which a limit ends as planned; None when it has no number in connections."""
    rows = [row for row in LIMITS if row.name == limit]
    rows.sort(key=lambda row: (row.side != side, row.scope == ONE_PROCESS))
    return rows[0].ceiling(host, plan) if rows else None


def _layout_parameter(limit: str, side: str) -> str | None:
    keys = [lift.key for row in LIMITS if row.name == limit for lift in row.lifts if lift.key in LAYOUT]
    own = [key for key in keys if LAYOUT[key] == side]
    return next(iter(own if side in LAYOUT.values() else keys), None)


def _setting(limit: Limit, lift: Lift, need: Need) -> Setting | None:
    present = lift.present(need.host)
    if not lift.is_setting or present is None or not lift.raises(need):
        return None
    if not (_ends_below(limit, need) if lift.when is None else lift.when(need)):
        return None
    return Setting(
        key=lift.key,
        kind=lift.kind,
        rank=lift.rank,
        limit=limit.name,
        present=present,
        needed=lift.amount(need),
        why=lift.why,
        needs_root=True,
        per_container=lift.per_container,
    )


def _before(new: Setting, old: Setting | None) -> bool:
    """Return whether a setting replaces another of the same key: needed before recommended, then the larger value."""
    if old is None or old.rank != new.rank:
        return old is None or new.rank == NEEDED
    return isinstance(new.needed, int) and isinstance(old.needed, int) and new.needed > old.needed


def _ends_below(limit: Limit, need: Need) -> bool:
    ceiling = limit.ceiling(need.host, need.plan)
    ends = ceiling is not None and ceiling < need.plan.connections
    return ends and not limit.exempt(need.host, need.plan)


def _ends(row: Ceiling) -> str:
    words = WORDS.get(row.limit, row.limit.replace("_", " "))
    if row.scope:
        words += f" of the {row.side}"
    return words + (" end" if row.limit in ("epoll_watches", "ephemeral_ports") else " ends")


def _ceiling(limit: Limit, need: Need) -> Ceiling:
    ceiling = limit.ceiling(need.host, need.plan)
    note = limit.exempt(need.host, need.plan)
    return Ceiling(
        limit=limit.name,
        scope=limit.scope,
        side=limit.side,
        title=limit.title,
        reads=limit.reads,
        value=limit.value(need.host),
        ceiling_connections=ceiling,
        binding=ceiling is not None and not note,
        note=note,
        lift=limit.remedy,
        needs_root=limit.needs_root,
        commands=tuple(_commands(limit, _raised(need, ceiling))),
    )


def _raised(need: Need, ceiling: int | None) -> Need:
    """Return the need of the stage or, if it fits already, that of about twice as many connections as fit."""
    if ceiling is None or ceiling < need.plan.connections:
        return need
    step = 10 ** max(0, len(str(ceiling)) - 2)
    return replace(need, plan=replace(need.plan, connections=2 * max(1, -(-ceiling // step) * step)))


def _commands(limit: Limit, need: Need, side: str = "") -> list[str]:
    """Return the commands that lift a limit, the best first; all parameters of the stage go into one command."""
    lifts = [lift for lift in limit.lifts if side not in LAYOUT.values() or LAYOUT.get(lift.key, side) == side]
    options = [lift for lift in lifts if lift.kind == PARAMETER]
    commands = []
    for lift in lifts:
        if lift.kind == PARAMETER:
            if lift is options[0]:
                commands.append(_stage_command(options, need))
        elif not lift.is_setting:
            commands.append(lift.command)
        elif lift.raises(need):
            commands.append(command_of(lift.kind, lift.key, lift.amount(need)))
    return commands


def _stage_command(options: Sequence[Lift], need: Need) -> str:
    given = " ".join(f"--{lift.key.replace('_', '-')} {lift.amount(need)}" for lift in options)
    return f"wslab stage --connections {format_count(need.plan.connections)} {given}"


# The walls of a run

STOCK_MEMORY_BYTES = 16 << 30
STOCK = Host(
    port_low=32768,
    port_high=60999,
    fd_hard=1 << 20,
    nr_open=1 << 20,
    memory_headroom_bytes=STOCK_MEMORY_BYTES,
    # fs/eventpoll.c: a 25th of low memory, at 184 bytes a watch.
    epoll_watches_max=STOCK_MEMORY_BYTES // 25 // 184,
    # nf_conntrack_core.c, for every machine of more than 4 GiB.
    conntrack_max=1 << 18,
)
# Other names under which a run meets the same wall.
_ALSO = {
    "ephemeral_ports": ("time_wait", "bind_ports"),
    "memory_machine": ("memory_reserve", "memory_cgroup"),
    "fd_limit": ("nr_open",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wall:
    """A limit that a plain set-up meets.

    Attributes:
        limit: its name.
        title: what runs out, for a plain set-up; short enough for a column of a table.
        here: connections at which a plain set-up meets it on the machine of the run; None when it is not known.
        stock: the same on a stock machine.
        told: how the run passed it, or that it met it.
    """

    limit: str
    title: str
    here: int | None
    stock: int
    told: str


def walls(host: Host, plan: Plan, summary: Mapping[str, Any], findings: Sequence[Mapping[str, Any]] = ()) -> list[Wall]:
    """Return the walls of a climb, the nearest on a stock machine first.

    Args:
        host: the limits that the run read.
        plan: the layout of the run.
        summary: figures of the run: `connections_open`, `total_bytes_per_connection`.
        findings: those of the run.
    """
    at = {str(finding["limit"]): finding.get("at_connections") for finding in findings}
    # The server of a plain set-up has a port of its own choice, outside the range.
    one = loopback_addresses(1)
    plain = replace(plan, server_shards=1, swarm_workers=1, source_addresses=one, listener_ports=0)
    found = []
    for limit in LIMITS:
        if not limit.wall:
            continue
        here, stock = (_place(limit, machine, plain, summary) for machine in (host, STOCK))
        wall = Wall(
            limit=limit.name,
            title=_title(limit, plan, summary),
            here=here,
            stock=stock or 0,
            told=_told(limit.name, here, plan, summary),
        )
        found.append(_as_met(wall, at))
    return sorted(found, key=lambda wall: wall.stock)


def _measured(summary: Mapping[str, Any]) -> float | None:
    return summary.get("total_bytes_per_connection")


def _place(limit: Limit, host: Host, plan: Plan, summary: Mapping[str, Any]) -> int | None:
    """Return where a plain set-up meets a wall; for memory, at the bytes per connection that the run measured."""
    if limit.name == "memory_machine":
        left = memory_left(host, plan.memory_reserve_bytes)
        return None if left is None else int(left / float(_measured(summary) or plan.bytes_per_connection))
    return limit.ceiling(host, plan)


def _title(limit: Limit, plan: Plan, summary: Mapping[str, Any]) -> str:
    if limit.name != "memory_machine":
        return limit.wall
    each = format_bytes(int(_measured(summary) or plan.bytes_per_connection))
    return f"{limit.wall}, at {each} a connection" + ("" if _measured(summary) else " as a rule")


def _told(name: str, here: int | None, plan: Plan, summary: Mapping[str, Any]) -> str:
    """Return how the run passed a wall that it did not meet."""
    reached = int(summary.get("connections_open") or 0)
    if name == "memory_machine":
        each = _measured(summary)
        return f"took {format_bytes(int(each * reached))}" if each and reached else "not reached"
    if here is None:
        return "not known here"
    if reached <= here:
        return "not reached"
    shards, workers = counted(plan.server_shards, "shard"), counted(plan.swarm_workers, "worker")
    how = {
        "ephemeral_ports": f" with {counted(len(plan.source_addresses), 'source address', 'es')}",
        # With more connections than entries, they cannot be tracked.
        "conntrack": ": loopback is not tracked here",
        "fd_limit": f" with {shards} and {workers}",
    }
    return "passed" + how.get(name, "")


def _as_met(wall: Wall, at: Mapping[str, Any]) -> Wall:
    """Return the wall, marked as met if the run broke at it under any of its names."""
    for name in (wall.limit, *_ALSO.get(wall.limit, ())):
        if name in at:
            told = f"met at {at[name] or 0:,}" + (f" ({name})" if name != wall.limit else "")
            return replace(wall, told=told)
    return wall
