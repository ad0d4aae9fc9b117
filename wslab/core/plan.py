"""How a stage is laid out on a host: processes, source addresses, handshakes in flight, and whether memory holds it.

One host runs both ends. Every process of an end has its own descriptor limit, so an end needs at least as many
processes as it takes for the limit to fit; beyond that more processes than half the cores only cost memory. All shards
accept from one shared queue, so a shard that is full leaves the rest to the others.

The plan has one form from the stage to the run folder: its `server_shards` and `swarm_workers` are the parameters of
the stage with every `auto` replaced by a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from wslab.core.host import Host
from wslab.core.quantities import about_count, format_bytes, format_count
from wslab.core.servers import (
    SERVER_KINDS,
    backlog_of,
    is_command,
    is_foreign,
    is_url,
    pending_within,
    serves_in_one_process,
)

if TYPE_CHECKING:
    from wslab.core.stage import Stage

# Descriptors that a process needs for itself: standard streams, listener, epoll, scoreboard, logs, with room to spare.
FDS_RESERVED = 64
# The recorder keeps two files open for each process that it watches, and needs `FDS_RECORDER` for everything else.
FDS_WATCHING = 2
FDS_RECORDER = 24
MASTERS = 2  # one forks the shards, one the workers
FDS_LEAST = FDS_RECORDER + FDS_WATCHING * (MASTERS + 2)

# What one connection costs on a host that runs both ends with their processes, measured on Linux 6.18 at 0.7M to 2.8M;
# the largest reference runs agree.
KERNEL_BYTES_PER_CONNECTION = 8480
USER_BYTES_PER_CONNECTION = 270
BYTES_PER_CONNECTION = KERNEL_BYTES_PER_CONNECTION + USER_BYTES_PER_CONNECTION

# What a control group that holds one end alone is charged for a connection, measured the same way over 500 to 16,000
# connections. The rest of what a connection costs is charged to nobody: a socket that the kernel made for the listener
# is charged to the process that accepts it in version 2 alone. Version 1 on Linux 6.18, version 2 on 6.12.
SERVER_GROUP_BYTES, SERVER_GROUP_BYTES_V2 = 1490, 3925
SWARM_GROUP_BYTES = 4175
# What the group is charged for processes: the first one of an end, and (`MEMBER_BYTES`) each shard or worker.
MASTER_BYTES = 16 << 20
# Supervisor, recorder and the first processes of both ends, which share much of their memory.
FLEET_BYTES = 44 << 20
MEMBER_BYTES = 3 << 19

# Connections from one source address. A third of the usual port range: the kernel finds a free port at the first try.
ADDRESS_SPAN = 8000

# The most source addresses of a swarm: enough for 100 million connections, and few enough for a command line.
ADDRESSES_MOST = 4096

# Handshakes in flight over all workers: a quarter of the default somaxconn, far from overflowing the accept queue.
PENDING_MOST = 1024

_LOOPBACK_ADDRESSES = 254 * (1 << 16) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The layout of one stage.

    Attributes:
        connections: connections asked for.
        server_shards: server processes; 0 where the server is not ours.
        swarm_workers: client processes.
        connections_per_shard: what a shard holds when all hold the same, rounded up.
        connections_per_worker: what the fullest worker opens.
        source_addresses: loopback addresses that the swarm dials from.
        pending_max: handshakes that all workers together may have in flight.
        memory_reserve_bytes: memory of the machine that the ramp leaves alone.
        destinations: addresses of the server that the swarm dials.
        ports_at_bind: whether bind chooses the port, which is then in use towards all destinations.
        listener_ports: ephemeral ports that the server's own listener takes from every source address.
        bytes_per_connection: memory of a connection, both ends together; see `bytes_per_connection`.
        start_bytes: memory of the server's processes before the first connection, where it is much.
    """

    connections: int
    server_shards: int
    swarm_workers: int
    connections_per_shard: int
    connections_per_worker: int
    source_addresses: tuple[str, ...]
    pending_max: int
    memory_reserve_bytes: int = 0
    destinations: int = 1
    ports_at_bind: bool = False
    listener_ports: int = 0
    bytes_per_connection: int = BYTES_PER_CONNECTION
    start_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as it is written to JSON."""
        return asdict(self) | {"source_addresses": list(self.source_addresses)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Plan:
        """Return the plan that a run folder holds."""
        return cls(**{**record, "source_addresses": tuple(record["source_addresses"])})


def resolve(stage: Stage, host: Host) -> Plan:
    """Replace every `auto` of a stage by a number that fits this host; given numbers are kept.

    Only processes that would have no connection are left out. A server that serves in one process gets one shard, and
    one that runs already none; a user's command is taken to be one process unless `server_shards` is given.
    """
    connections = stage.connections
    least = max(cores(host) // 2, 1, -(-connections // process_capacity(host)))
    least = min(least, processes_most(host) // 2)
    own = 1 if serves_in_one_process(stage.server) else least
    shards = own if stage.server_shards == "auto" else int(stage.server_shards)
    workers = least if stage.swarm_workers == "auto" else int(stage.swarm_workers)
    shards, workers = 0 if is_url(stage.server) else min(shards, connections), min(workers, connections)
    addresses = (
        -(-connections // address_span(host)) if stage.source_addresses == "auto" else int(stage.source_addresses)
    )
    addresses = min(addresses, ADDRESSES_MOST)
    queues = [queue for queue in (host.somaxconn, backlog_of(stage.server)) if queue]
    return Plan(
        connections=connections,
        server_shards=shards,
        swarm_workers=workers,
        connections_per_shard=-(-connections // max(1, shards)),
        connections_per_worker=-(-connections // workers),
        source_addresses=loopback_addresses(addresses),
        pending_max=pending_within(PENDING_MOST, min(queues, default=None)),
        memory_reserve_bytes=stage.memory_reserve,
        # The kernel gives a server that is started for the stage an ephemeral port, which connect then never chooses.
        listener_ports=1 if not is_url(stage.server) and stage.server_port == "auto" else 0,
        bytes_per_connection=bytes_per_connection(stage.server),
        start_bytes=shards * process_bytes(stage.server),
    )


def before_start(stage: Stage, host: Host) -> Host:
    """Return the host with what a server that is not ours would inherit, as long as it does not run.

    A user's command starts with the soft fd limit of the caller; a server kind starts with the hard one.
    """
    if is_url(stage.server) or not is_foreign(stage.server):
        return host
    limit = host.fd_soft if is_command(stage.server) and host.fd_soft is not None else fd_limit(host)
    free = resolve(stage, host).server_shards * max(1, limit - FDS_RESERVED)
    return replace(host, server_fd_limit=limit, server_fds_free=free)


def left(limit: int | None, used: int | None) -> int | None:
    """Return what is left of a capacity after what is in use already; None where the capacity is not known."""
    return None if limit is None else max(0, limit - (used or 0))


def cores(host: Host) -> int:
    """Return the number of CPUs that can be used: the affinity, or the quota of the control group if that is less."""
    count = host.cpu_count or 1
    quota = host.cpu_quota
    return max(1, min(count, int(quota + 0.5))) if quota else int(count)


def process_capacity(host: Host) -> int:
    """Return how many connections one process can hold: the hard fd limit, to which soft is raised, less its own."""
    return max(1, fd_limit(host) - FDS_RESERVED)


def processes_most(host: Host) -> int:
    """Return how many shards and workers together can be watched within the fd limit of one process; at least two."""
    return max(2, (fd_limit(host) - FDS_RECORDER) // FDS_WATCHING - MASTERS)


def fd_limit(host: Host) -> int:
    """Return the hard fd limit of a process, to which the soft one is raised; `fs.nr_open` where there is none."""
    hard, most = host.fd_hard, host.nr_open or 1 << 20
    return int(most if hard is None or hard < 0 else min(hard, most))


def ports_in_range(host: Host) -> int:
    """Return how many ports the ephemeral range has, whoever uses them."""
    low, high = host.port_low, host.port_high
    if low is None or high is None:
        low, high = 32768, 60999
    return max(1, int(high) - int(low) + 1)


def ports_per_address(host: Host, listener_ports: int = 0) -> int:
    """Return how many ports one source address has towards one destination, as connect chooses them.

    It passes over reserved ports, and over those that a socket is bound to by name, whatever its address: those of
    others, and `listener_ports` of the server's own listener.
    """
    return max(1, ports_in_range(host) - (host.ports_reserved or 0) - (host.ports_taken or 0) - listener_ports)


def address_span(host: Host) -> int:
    """Return how many connections a source address is given: few of its ports, so that a free one is found at once."""
    return min(ADDRESS_SPAN, max(1, ports_per_address(host) // 2))


def loopback_addresses(count: int) -> tuple[str, ...]:
    """Return `count` addresses from 127.0.0.2 upwards, without last octets 0 and 255, which look like networks."""
    hosts = range(1, min(count, _LOOPBACK_ADDRESSES) + 1)
    return tuple(f"127.{n // 254 >> 8}.{n // 254 & 255}.{n % 254 + 1}" for n in hosts)


def bytes_per_connection(server: str) -> int:
    """Return the memory that a connection takes on a host that runs both ends.

    Of a server that is no kind of the table, what its own processes take is not known before a run, and not counted.
    """
    return BYTES_PER_CONNECTION + (SERVER_KINDS[server].connection_bytes if server in SERVER_KINDS else 0)


def process_bytes(server: str) -> int:
    """Return the memory of one process of the server before the first connection, where it is much and known."""
    return SERVER_KINDS[server].process_bytes if server in SERVER_KINDS else 0


def memory_holds(host: Host, server: str, reserve_bytes: int = 0) -> int | None:
    """Return how many connections to a server the memory of this host can hold, leaving a reserve; None if not known.

    The processes of the server are counted as if each held as many connections as it can.
    """
    left = memory_left(host, reserve_bytes)
    each = bytes_per_connection(server) + process_bytes(server) // process_capacity(host)
    return None if left is None else left // each


def memory_left(host: Host, reserve_bytes: int = 0) -> int | None:
    """Return the memory of this host, or of the control group if that is less, above a reserve; None if not known."""
    headroom = host.memory_headroom_bytes
    if headroom is None:
        return None
    group = left(host.memory_cgroup_limit_bytes, host.memory_cgroup_used_bytes)
    if group is not None:
        headroom = min(headroom, group)
    return max(0, int(headroom) - reserve_bytes)


def refusal(stage: Stage, host: Host) -> str | None:
    """Return one line that says why a stage is out of reach of this host, or None when it may be tried.

    It is out of reach when memory is too small, or the descriptors that its processes need before the first connection
    are too few. The reserve is not counted: a ramp that stops at the reserve is a result.
    """
    limit, most = fd_limit(host), processes_most(host)
    if limit < FDS_LEAST:
        return f"the fd limit of {limit} (ulimit -Hn) is too low: the processes of a stage need {FDS_LEAST} each"
    plan = resolve(stage, host)
    if plan.server_shards + plan.swarm_workers > most:
        return (
            f"{plan.server_shards} server_shards and {plan.swarm_workers} swarm_workers cannot be watched within the "
            f"fd limit of {limit} (ulimit -Hn): {most} processes can"
        )
    holds = memory_holds(host, stage.server)
    if holds is None:
        return None
    if stage.connections > holds:
        need = format_bytes(plan.start_bytes + stage.connections * plan.bytes_per_connection)
        return (
            f"connections={format_count(stage.connections)} needs about {need} of memory; "
            f"this machine can hold about {about_count(holds)}"
        )
    # Only processes given as a number; those of `auto` are part of the bytes per connection.
    asked = [("server_shards", stage.server_shards), ("swarm_workers", stage.swarm_workers)]
    for name, count in asked:
        processes = 0 if count == "auto" else min(int(count), stage.connections)
        most = holds * plan.bytes_per_connection // MEMBER_BYTES
        if processes > most:
            need = format_bytes(processes * MEMBER_BYTES)
            return f"{name}={count} needs about {need} of memory; this machine can hold about {about_count(most)}"
    return None
