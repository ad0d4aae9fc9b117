"""How much of each setting a stage demands: the amounts behind the table of remedies.

An amount takes what the stage asks for and the host it asks it of, and is None where the host has enough. Capacities
come from the table of limits, so that a setting is needed exactly where preflight says that its limit ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wslab.core.limit import ONE_PROCESS, PLANNED, Limit, left_of, tracking_unlikely
from wslab.core.limit_table import CAPACITIES
from wslab.core.plan import FDS_RESERVED, Plan, cores, process_capacity

Host = Mapping[str, Any]
Value = int | str
Amount = Callable[["Demand"], Value | None]

# What a target takes is known to a few per cent; the rest of the machine lives in the remainder.
MARGIN_PERCENT = 10
# Most of the kernel's limits are signed ints.
INT_MOST = (1 << 31) - 1
# Processes and threads of everybody else: a desktop has about a thousand.
PROCESSES_OF_OTHERS = 1024
# Supervisor, recorder, the first processes of server and swarm, and threads of a notebook that may yet start.
PROCESSES_OF_FLEET = 64
# The ports that need no privilege.
PORTS_WIDEST, PORTS_WIDEST_COUNT = "1024 65535", 65535 - 1024 + 1
# The default of Linux since 5.4, and the backlog that the built-in servers ask for.
QUEUE = 4096
DEVICE_BACKLOG = 10_000
ENTRIES_PER_BUCKET = 4
# The kernel rounds the hash table up to whole pages; a value that is one already stays as it was written.
BUCKETS_STEP = 4096
# Messages up to a page sit in the one page that a socket with data is charged anyway.
PAGE_BYTES = 4096
# Replies may stall for a retransmission; what is sent meanwhile waits in buffers.
STALL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a stage asks of a host beside its layout."""

    host: Host
    plan: Plan
    message_bytes: int = 32
    message_rate: float = 0.0


def round_up(value: int) -> int:
    """Round up to two digits: 4,400,001 to 4,500,000."""
    step: int = 10 ** max(0, len(str(value)) - 2)
    return -(-value // step) * step


def _with_margin(value: int) -> int:
    return -(-value * (100 + MARGIN_PERCENT) // 100)


def capacity(name: str) -> Amount:
    """Return how much of a limit the target needs when the limit ends below it."""
    (limit,) = (limit for limit in CAPACITIES if limit.name == name and limit.scope != ONE_PROCESS)

    def amount(demand: Demand) -> int | None:
        if not _short(limit, demand):
            return None
        used = int(demand.host[limit.key]) - int(limit.supply(demand.host, demand.plan) or 0)
        return round_up(max(0, used) + _with_margin(demand.plan.connections * limit.units_per_connection))

    return amount


def _short(limit: Limit, demand: Demand) -> bool:
    supply = limit.supply(demand.host, demand.plan)
    reached = supply is None or supply // limit.units_per_connection >= demand.plan.connections
    return not reached and not limit.exempt(demand.host, demand.plan)


def fds_needed(demand: Demand) -> int | None:
    """Return the fd limit of the fullest process, when the processes that were asked for cannot hold the target."""
    fullest = {"server": demand.plan.connections_per_shard, "swarm": demand.plan.connections_per_worker}
    planned = [limit for limit in CAPACITIES if limit.name == "fd_limit" and limit.scope == PLANNED]
    short = [fullest[limit.side] for limit in planned if _short(limit, demand)]
    return _fds(max(short), demand.host) if short else None


def _fds(connections: int, host: Host) -> int:
    """Return the fd limit of a process; the margin is no reason to exceed fs.nr_open."""
    bare, wanted = connections + FDS_RESERVED, round_up(_with_margin(connections) + FDS_RESERVED)
    most = int(host.get("nr_open") or INT_MOST)
    return min(wanted, most) if bare <= most else wanted


def fds_recommended(demand: Demand) -> int | None:
    """Return the fd limit with which no more processes are needed than the cores can use."""
    host, plan = demand.host, demand.plan
    useful = max(1, cores(host) // 2)
    if fds_needed(demand) is not None or -(-plan.connections // process_capacity(host)) <= useful:
        return None
    wanted = round_up(_with_margin(-(-plan.connections // useful)) + FDS_RESERVED)
    return min(wanted, int(host.get("nr_open") or INT_MOST))


def ports(demand: Demand) -> str | None:
    """Return the widest range where the source addresses that were asked for have too few ports, and it is enough."""
    (limit,) = (limit for limit in CAPACITIES if limit.name == "ephemeral_ports")
    enough = PORTS_WIDEST_COUNT * len(demand.plan.source_addresses) >= demand.plan.connections
    return PORTS_WIDEST if enough and _short(limit, demand) else None


def processes(limit: Callable[[Host], int | None]) -> Amount:
    """Return how many processes there must be room for beside those of others, when there is not."""

    def amount(demand: Demand) -> int | None:
        ours, most = demand.plan.shards + demand.plan.workers, limit(demand.host)
        if most is None or most < 0 or most >= ours + PROCESSES_OF_OTHERS:
            return None
        return round_up(_with_margin(ours) + PROCESSES_OF_OTHERS)

    return amount


def tasks(demand: Demand) -> int | None:
    """Return the same for the control group, whose present number of processes is known."""
    ours, room = demand.plan.shards + demand.plan.workers, left_of(demand.host, "pids_cgroup_max", "pids_cgroup_used")
    if room is None or room >= ours + PROCESSES_OF_FLEET:
        return None
    used = int(demand.host["pids_cgroup_max"]) - room
    return round_up(used + _with_margin(ours) + PROCESSES_OF_FLEET)


def nproc(host: Host) -> int | None:
    """Return the processes that this user may have, None where that does not bind."""
    # The kernel does not hold root to RLIMIT_NPROC.
    return host.get("nproc_soft") if host.get("uid") else None


def buckets(demand: Demand) -> int | None:
    """Return the hash buckets with which the chains stay short, in whole pages."""
    host, connections = demand.host, demand.plan.connections
    present = host.get("conntrack_buckets")
    if present is None or tracking_unlikely(host, demand.plan) or present * ENTRIES_PER_BUCKET >= connections:
        return None
    return -(-_with_margin(connections) // ENTRIES_PER_BUCKET // BUCKETS_STEP) * BUCKETS_STEP


def _in_flight(demand: Demand) -> int:
    return min(demand.plan.pending_max, demand.plan.connections)


def accept_queue(demand: Demand) -> int | None:
    """Return the usual length where the queue is short: handshakes in flight are kept to half of it."""
    return QUEUE if demand.plan.connections > int(demand.host.get("somaxconn") or QUEUE) else None


def syn_queue(demand: Demand) -> int | None:
    """Return the usual length; with SYN cookies the kernel does not look at this limit."""
    backlog = int(demand.host.get("syn_backlog") or QUEUE)
    return None if demand.host.get("syncookies") or backlog >= 2 * _in_flight(demand) else QUEUE


def device_backlog(demand: Demand) -> int | None:
    """Return a longer backlog where handshakes in flight could fill that of one CPU."""
    backlog = int(demand.host.get("netdev_max_backlog") or DEVICE_BACKLOG)
    return DEVICE_BACKLOG if _in_flight(demand) > backlog * cores(demand.host) else None


def tcp_mem(demand: Demand) -> str | None:
    """Return room for the messages that a stall leaves in buffers, at most half of the machine's memory.

    The kernel's own proportions are kept: pressure at two thirds of the high mark, low at half of it.
    """
    host, pages = demand.host, -(-demand.message_bytes // PAGE_BYTES)
    marks = [host.get(f"tcp_mem_pages_{mark}") for mark in ("low", "pressure", "high")]
    if pages <= 1 or None in marks:
        return None
    waiting = int(demand.plan.connections * min(1.0, demand.message_rate * STALL_SECONDS))
    # A message is buffered at the sender until it is acknowledged, and at the receiver until it is read.
    high = round_up(_with_margin(waiting * pages * 2))
    high = min(high, int(host.get("memory_total_bytes") or 0) // int(host.get("page_bytes") or PAGE_BYTES) // 2)
    wanted = (high // 2, high * 2 // 3, high)
    if high <= int(marks[2] or 0):
        return None
    return " ".join(str(max(new, int(old or 0))) for new, old in zip(wanted, marks, strict=True))
