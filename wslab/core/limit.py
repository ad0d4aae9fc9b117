"""What a limit is, and what a host has for connections: the supply of each, and the reasons why one does not bind.

A limit that has a number in connections is linear: a host has a supply of units, a connection takes a fixed number of
them, and the ceiling is the quotient. One host runs both ends, so that a connection is two sockets, two descriptors
and two epoll watches.

Every function here takes the host's limits and the plan of a stage. A supply is a number of units, or None where the
host does not tell; a reason is a phrase, or empty where the limit binds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wslab.core.plan import (
    BYTES_PER_CONNECTION,
    FDS_RESERVED,
    FLEET_BYTES,
    MASTER_BYTES,
    MEMBER_BYTES,
    SERVER_GROUP_BYTES,
    SERVER_GROUP_BYTES_V2,
    SWARM_GROUP_BYTES,
    Plan,
    ports_per_address,
    process_capacity,
)

Host = Mapping[str, Any]

PLANNED, ONE_PROCESS = "as planned", "one process"

# Entries in one hash chain on average, above which each packet pays noticeably for its look-up.
CONNTRACK_CHAIN = 4


def binds(host: Host, plan: Plan) -> str:
    """Say nothing: the limit binds on every host."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit.

    Attributes:
        name: word for it in preflight, findings and figures.
        side: `server`, `swarm`, `kernel` or `machine`.
        title: what it is, for people.
        reads: where its value is read.
        key: its value among the host's limits; empty when it has none.
        supply: units that this host has for connections; None when it has no number or it is not known.
        units_per_connection: units that one connection takes.
        exempt: says why it does not bind here; empty when it does.
        lift: what lifts it, one sentence.
        needs_root: whether lifting it takes root.
        commands: what to type; `{units}` is the value needed, `{addresses}` and `{processes}` are counts.
        scope: `as planned` or `one process` for a limit of a process, else empty.
    """

    name: str
    side: str
    title: str
    reads: str
    key: str = ""
    supply: Callable[[Host, Plan], int | None] = lambda host, plan: None
    units_per_connection: int = 1
    exempt: Callable[[Host, Plan], str] = binds
    lift: str
    needs_root: bool = False
    commands: tuple[str, ...] = ()
    scope: str = ""


def left_of(host: Host, most: str, used: str) -> int | None:
    """Return what is left of a limit after what is in use already."""
    limit = host.get(most)
    return None if limit is None else max(0, int(limit) - int(host.get(used) or 0))


def open_files_of_one(host: Host, plan: Plan) -> int | None:
    """Return the connections of one process whose fd limit is raised as far as it goes."""
    limit = host.get("nr_open")
    return None if limit is None else max(0, int(limit) - FDS_RESERVED)


def ports(host: Host, plan: Plan) -> int:
    """Return the ports that all source addresses have towards the listener, at each of its addresses."""
    return bound_ports(host, plan) * plan.destinations


def bound_ports(host: Host, plan: Plan) -> int:
    """Return the ports of all source addresses, whatever they are used for."""
    return ports_per_address(host) * len(plan.source_addresses)


def bucket_entries(host: Host, plan: Plan) -> int | None:
    """Return how many entries the hash table takes before its chains get long."""
    buckets = host.get("conntrack_buckets")
    return None if buckets is None else int(buckets) * CONNTRACK_CHAIN


def memory_above_reserve(host: Host, plan: Plan) -> int | None:
    """Return the memory that the ramp may use."""
    headroom = host.get("memory_headroom_bytes")
    # Shards and workers are in what a connection takes.
    return None if headroom is None else max(0, int(headroom) - plan.memory_reserve_bytes - FLEET_BYTES)


def group_memory(host: Host, plan: Plan) -> int | None:
    """Return what is left of the memory of a control group.

    A group with one end alone in it is charged for that end's part of each connection, and for its processes: what is
    left is given as the memory that both ends would take for as many connections.
    """
    left, role = left_of(host, "memory_cgroup_limit_bytes", "memory_cgroup_used_bytes"), host.get("memory_cgroup_of")
    if left is None or not role:
        return left
    accepted = SERVER_GROUP_BYTES_V2 if host.get("cgroup_version") == 2 else SERVER_GROUP_BYTES
    processes, each = (plan.shards, accepted) if role == "server" else (plan.workers, SWARM_GROUP_BYTES)
    return max(0, left - MASTER_BYTES - processes * MEMBER_BYTES) // each * BYTES_PER_CONNECTION


def processes_hold(host: Host, plan: Plan) -> int | None:
    """Return how many connections the processes that may be forked can hold; each end takes half of them."""
    most = processes_room(host)
    return None if most is None else most // 2 * process_capacity(host)


def processes_room(host: Host) -> int | None:
    """Return how many processes may be forked; None when nothing is known to limit them."""
    counts = [host.get("pid_max"), host.get("threads_max"), left_of(host, "pids_cgroup_max", "pids_cgroup_used")]
    # RLIMIT_NPROC does not bind root.
    counts.append(host.get("nproc_soft") if host.get("uid") else None)
    known = [int(count) for count in counts if count is not None and count >= 0]
    return min(known, default=None)


def tracking_unlikely(host: Host, plan: Plan) -> str:
    """Say why the connection tracking table does not bind, as long as it is not known to."""
    tracking, entries = host.get("conntrack_tracking"), host.get("conntrack_count") or 0
    if tracking:
        return ""
    if tracking is False:
        return "loopback is not tracked"
    if entries:
        return f"only if loopback is tracked like the {entries:,} connections in it"
    return "only if a stateful firewall rule is loaded"


def slows_only(host: Host, plan: Plan) -> str:
    """Say that long hash chains cost time and end nothing."""
    return tracking_unlikely(host, plan) or "slows new connections and ends none"


def root_exempt(host: Host, plan: Plan) -> str:
    """Say that root is exempt; the kernel asks for CAP_SYS_ADMIN."""
    return "root is exempt" if host.get("uid") == 0 else ""


def port_chosen_late(host: Host, plan: Plan) -> str:
    """Say why ports are not taken by bind."""
    return "" if plan.ports_at_bind else "the swarm sets IP_BIND_ADDRESS_NO_PORT"


def single_process(host: Host, plan: Plan) -> str:
    """Say that this is the limit of one process and not of the plan."""
    return "for one process alone; shards and workers multiply it"
