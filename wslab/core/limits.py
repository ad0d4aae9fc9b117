"""The table of limits: one row holds all that is known of a limit.

A limit that has a number in connections is linear: a host has a supply of units, a connection takes a fixed number of
them, and the ceiling is the quotient. One host runs both ends, so that a connection is two sockets, two descriptors and
two epoll watches. A limit on a rate (a queue, a buffer, CPU) has no supply: ten thousand connections a second overflow
a queue that a million an hour never fill.

1. The names are the vocabulary of preflight, findings and figures.
2. A limit of a process has two rows: for the processes as planned, and for one process alone (`scope`).
3. `exempt` says why a limit does not bind on a host; it is then shown and not counted.
4. `lifts` are the ways to lift it, the best first. Preflight, remedies in findings, `wslab tune`, the second run with
   the limit lifted, and the walls of a run are derived from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wslab.core import settings as need
from wslab.core.host import Host
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
    fd_limit,
    left,
    ports_per_address,
    process_capacity,
)
from wslab.core.settings import ADVICE, CGROUP, CONNTRACK_CHAIN, PARAMETER, RECOMMENDED, RLIMIT, SYSCTL, Lift, joined

PLANNED, ONE_PROCESS = "as planned", "one process"


def no_exemption(host: Host, plan: Plan) -> str:
    """Return no exemption."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit.

    Attributes:
        name: its name in preflight, findings and figures.
        side: `server`, `swarm`, `kernel` or `machine`.
        title: what it is, for people.
        reads: where its value is read.
        value: its value among the host's limits; None when it has none.
        supply: units that this host has for connections; None when it has no number or it is not known.
        units_per_connection: units that one connection takes, as planned.
        exempt: says why it does not bind here; empty when it does.
        remedy: what lifts it, one sentence.
        lifts: the same in commands, the best first.
        scope: `as planned` or `one process` for a limit of a process, else empty.
        wall: what runs out, where it is one of the walls that every climb meets; see `wslab.core.ceilings.walls`.
    """

    name: str
    side: str
    title: str
    reads: str
    value: Callable[[Host], float | None] = lambda host: None
    supply: Callable[[Host, Plan], int | None] = lambda host, plan: None
    units_per_connection: Callable[[Plan], int] = lambda plan: 1
    exempt: Callable[[Host, Plan], str] = no_exemption
    remedy: str
    lifts: tuple[Lift, ...] = ()
    scope: str = ""
    wall: str = ""

    def ceiling(self, host: Host, plan: Plan) -> int | None:
        """Return the connections at which it ends; None when it has no number in connections."""
        supply = self.supply(host, plan)
        return None if supply is None else supply // self.units_per_connection(plan)

    @property
    def needs_root(self) -> bool:
        """Whether the best way to lift it takes root."""
        return bool(self.lifts) and self.lifts[0].is_setting


def open_files_of_one(host: Host, plan: Plan) -> int | None:
    """Return the connections of one process whose fd limit is raised as far as it goes."""
    return left(host.nr_open, FDS_RESERVED)


def ports(host: Host, plan: Plan) -> int:
    """Return the ports that all source addresses have towards the listener, at each of its addresses."""
    return bound_ports(host, plan) * plan.destinations


def bound_ports(host: Host, plan: Plan) -> int:
    """Return the ports of all source addresses, whatever they are used for."""
    return ports_per_address(host, plan.listener_ports) * len(plan.source_addresses)


def bucket_entries(host: Host, plan: Plan) -> int | None:
    """Return how many entries the hash table takes before its chains get long."""
    return None if host.conntrack_buckets is None else host.conntrack_buckets * CONNTRACK_CHAIN


def memory_above_reserve(host: Host, plan: Plan) -> int | None:
    """Return the memory that the ramp may use."""
    # The memory of shards and workers is part of the bytes per connection, where it is not much.
    return left(host.memory_headroom_bytes, plan.memory_reserve_bytes + FLEET_BYTES + plan.start_bytes)


def group_memory(host: Host, plan: Plan) -> int | None:
    """Return what is left of the memory of a control group.

    A group that holds only one end is charged for that end's part of each connection and for its processes. The result
    is then the memory that both ends would take for as many connections.
    """
    room, role = left(host.memory_cgroup_limit_bytes, host.memory_cgroup_used_bytes), host.memory_cgroup_of
    if room is None or not role:
        return left(room, plan.start_bytes)
    accepted = SERVER_GROUP_BYTES_V2 if host.cgroup_version == 2 else SERVER_GROUP_BYTES
    accepted += plan.bytes_per_connection - BYTES_PER_CONNECTION
    if host.server_fd_limit is not None:  # What its processes take is in use already.
        return room // accepted * plan.bytes_per_connection
    if role == "server":
        room, processes, each = max(0, room - plan.start_bytes), plan.server_shards, accepted
    else:
        processes, each = plan.swarm_workers, SWARM_GROUP_BYTES
    return max(0, room - MASTER_BYTES - processes * MEMBER_BYTES) // each * plan.bytes_per_connection


def foreign_memory(host: Host, plan: Plan) -> str:
    """Explain that only the kernel's part of a connection is known of a server that is not ours."""
    if host.memory_cgroup_of == "server" and host.server_fd_limit is not None:
        return "without the memory that the server itself takes for a connection, which a run measures"
    return ""


def processes_hold(host: Host, plan: Plan) -> int | None:
    """Return how many connections the processes that may be forked can hold; each end takes half of them."""
    most = processes_room(host)
    return None if most is None else most // 2 * process_capacity(host)


def processes_room(host: Host) -> int | None:
    """Return how many processes may be forked; None when nothing is known to limit them."""
    counts = [host.pid_max, host.threads_max, left(host.pids_cgroup_max, host.pids_cgroup_used)]
    # RLIMIT_NPROC does not bind root.
    counts.append(host.nproc_soft if host.uid else None)
    return min((count for count in counts if count is not None and count >= 0), default=None)


def tracking_unlikely(host: Host, plan: Plan) -> str:
    """Explain why conntrack is assumed not to bind unless tracking is confirmed."""
    if host.conntrack_tracking:
        return ""
    if host.conntrack_tracking is False:
        return "loopback is not tracked"
    if host.conntrack_count:
        return f"only if loopback is tracked like the {host.conntrack_count:,} connections in it"
    return "only if a stateful firewall rule is loaded"


def slows_only(host: Host, plan: Plan) -> str:
    """Explain that long hash chains cost time and end nothing."""
    return tracking_unlikely(host, plan) or "slows new connections and ends none"


def root_exempt(host: Host, plan: Plan) -> str:
    """Explain that root is exempt; the kernel asks for CAP_SYS_ADMIN."""
    return "root is exempt" if host.uid == 0 else ""


def port_chosen_late(host: Host, plan: Plan) -> str:
    """Explain why bind takes no port."""
    return "" if plan.ports_at_bind else "the swarm sets IP_BIND_ADDRESS_NO_PORT"


def server_descriptors(host: Host, plan: Plan) -> int:
    """Return the descriptors that the server has for connections."""
    return plan.server_shards * process_capacity(host) if host.server_fds_free is None else host.server_fds_free


def server_elsewhere(host: Host, plan: Plan) -> str:
    """Explain that nothing is known of the server's processes, or that a server may raise the limit it inherits."""
    if host.server_fd_limit is None:
        return "" if plan.server_shards else "the server runs already; nothing is known of its processes"
    most = fd_limit(host)
    if host.server_processes is None and host.server_fd_limit < most:
        return f"what the server inherits; it may raise its own limit to {most:,}"
    return ""


def single_process(host: Host, plan: Plan) -> str:
    """Explain that this is the limit of one process and not of the plan."""
    return "for one process alone; shards and workers multiply it"


# Lifts that more than one limit has.

_ADDRESSES = Lift(kind=PARAMETER, key="source_addresses", value=need.addresses)
_SHARDS = Lift(kind=PARAMETER, key="server_shards", value=need.shards)
_WORKERS = Lift(kind=PARAMETER, key="swarm_workers", value=need.workers)
_SLOW_RAMP = Lift(kind=PARAMETER, key="ramp_rate", value=lambda n: need.SLOW_RAMP)


def _nofile(value: Callable[[need.Need], int]) -> Lift:
    return Lift(
        kind=RLIMIT,
        key="nofile",
        value=value,
        present=lambda host: host.fd_hard,
        why="descriptors of the fullest of the processes that were asked for",
        per_container=True,
    )


CAPACITIES: tuple[Limit, ...] = (
    Limit(
        name="fd_limit",
        side="server",
        scope=PLANNED,
        title="file descriptors of all server shards",
        reads="RLIMIT_NOFILE, /proc/self/limits",
        value=lambda host: host.fd_hard if host.server_fd_limit is None else host.server_fd_limit,
        supply=server_descriptors,
        exempt=server_elsewhere,
        remedy="more server shards, each has a limit of its own; or a higher hard limit",
        lifts=(_SHARDS, _nofile(need.fds_of_shard)),
    ),
    Limit(
        name="fd_limit",
        side="swarm",
        scope=PLANNED,
        title="file descriptors of all swarm workers",
        reads="RLIMIT_NOFILE, /proc/self/limits",
        value=lambda host: host.fd_hard,
        supply=lambda host, plan: plan.swarm_workers * process_capacity(host),
        remedy="more swarm workers, each has a limit of its own; or a higher hard limit",
        lifts=(_WORKERS, _nofile(need.fds_of_worker)),
    ),
    Limit(
        name="fd_limit",
        side="server",
        scope=ONE_PROCESS,
        title="file descriptors of one process",
        reads="RLIMIT_NOFILE, /proc/self/limits",
        value=lambda host: host.fd_hard,
        supply=lambda host, plan: process_capacity(host),
        exempt=single_process,
        remedy="raise soft to hard, without root; or a higher hard limit, with root, at most fs.nr_open",
        lifts=(
            Lift(
                kind=RLIMIT,
                key="nofile",
                rank=RECOMMENDED,
                value=need.fds_of_few,
                present=lambda host: host.fd_hard,
                when=need.too_many_processes,
                why="fewer, larger processes; each costs about 4 MB",
                per_container=True,
            ),
            Lift(kind=ADVICE, command='ulimit -n "$(ulimit -Hn)"'),
        ),
        wall="the descriptors of one process",
    ),
    Limit(
        name="nr_open",
        side="kernel",
        scope=ONE_PROCESS,
        title="fs.nr_open, the most that the fd limit of one process can be set to",
        reads="/proc/sys/fs/nr_open",
        value=lambda host: host.nr_open,
        supply=open_files_of_one,
        exempt=single_process,
        remedy="raise it before the fd limit; without root, more shards and workers",
        lifts=(
            Lift(
                kind=SYSCTL,
                key="fs.nr_open",
                value=need.open_files_of_one,
                present=lambda host: host.nr_open,
                when=need.above_nr_open,
                most=need.NR_OPEN_MOST,
                why="the fd limit of a process cannot be set above it",
            ),
            _SHARDS,
            _WORKERS,
        ),
    ),
    Limit(
        name="file_max",
        side="kernel",
        title="fs.file-max, open files of the whole system",
        reads="/proc/sys/fs/file-nr fields 1 and 3",
        value=lambda host: host.file_max,
        supply=lambda host, plan: left(host.file_max, host.file_used),
        units_per_connection=lambda plan: 2,
        exempt=root_exempt,
        remedy="raise fs.file-max",
        lifts=(
            Lift(
                kind=SYSCTL,
                key="fs.file-max",
                value=lambda n: need.room_for(2, n.host.file_max, n.host.file_used, n),
                present=lambda host: host.file_max,
                why="two open files a connection, beside those of others",
            ),
        ),
    ),
    Limit(
        name="ephemeral_ports",
        side="swarm",
        title="ephemeral ports of all source addresses towards one listener",
        reads="/proc/sys/net/ipv4/ip_local_port_range, less ip_local_reserved_ports and bound ports (sock_diag)",
        value=lambda host: host.port_low,
        supply=ports,
        remedy="more source addresses, all of 127/8 is free; or a wider port range",
        lifts=(
            _ADDRESSES,
            Lift(
                kind=SYSCTL,
                key="net.ipv4.ip_local_port_range",
                value=need.ports_widest,
                present=lambda host: joined(host.port_low, host.port_high),
                when=need.ports_enough,
                why="ports of the source addresses that were asked for",
                per_container=True,
            ),
        ),
        wall="the ports of one source address",
    ),
    Limit(
        name="bind_ports",
        side="swarm",
        title="ports of all source addresses when bind takes one at once",
        reads="/proc/sys/net/ipv4/ip_local_port_range",
        value=lambda host: host.port_low,
        supply=bound_ports,
        exempt=port_chosen_late,
        remedy="setsockopt IP_BIND_ADDRESS_NO_PORT (24) before bind, so that connect chooses the port",
    ),
    Limit(
        name="conntrack",
        side="kernel",
        title="entries of the connection tracking table",
        reads="/proc/sys/net/netfilter/nf_conntrack_max and nf_conntrack_count",
        value=lambda host: host.conntrack_max,
        supply=lambda host, plan: left(host.conntrack_max, host.conntrack_count),
        exempt=tracking_unlikely,
        remedy="raise nf_conntrack_max in the first network namespace, or do not track this traffic",
        lifts=(
            Lift(
                kind=SYSCTL,
                key="net.netfilter.nf_conntrack_max",
                value=lambda n: need.room_for(1, n.host.conntrack_max, n.host.conntrack_count, n),
                present=lambda host: host.conntrack_max,
                why="one entry a connection; connections are tracked here",
            ),
            Lift(
                kind=ADVICE,
                command="echo 'table inet untracked "
                "{ chain out { type filter hook output priority raw; oif lo notrack; }; }' | sudo nft -f -",
            ),
        ),
        wall="the conntrack table, under a stateful rule",
    ),
    Limit(
        name="conntrack_buckets",
        side="kernel",
        title="hash buckets of the connection tracking table, at four entries each",
        reads="/proc/sys/net/netfilter/nf_conntrack_buckets",
        value=lambda host: host.conntrack_buckets,
        supply=bucket_entries,
        exempt=slows_only,
        remedy="raise the hash size to a quarter of nf_conntrack_max or more",
        lifts=(
            Lift(
                kind=SYSCTL,
                key="net.netfilter.nf_conntrack_buckets",
                rank=RECOMMENDED,
                value=need.buckets,
                present=lambda host: host.conntrack_buckets,
                when=need.chains_long,
                why="long hash chains make every packet cost more",
            ),
        ),
    ),
    Limit(
        name="epoll_watches",
        side="kernel",
        title="epoll watches of one user, both ends under the same one",
        reads="/proc/sys/fs/epoll/max_user_watches",
        value=lambda host: host.epoll_watches_max,
        supply=lambda host, plan: host.epoll_watches_max,
        units_per_connection=lambda plan: 2,
        remedy="raise fs.epoll.max_user_watches, or run the server as another user",
        lifts=(
            Lift(
                kind=SYSCTL,
                key="fs.epoll.max_user_watches",
                value=lambda n: need.room_for(2, n.host.epoll_watches_max, 0, n),
                present=lambda host: host.epoll_watches_max,
                why="two watches a connection, both ends under one user",
            ),
        ),
        wall="the epoll watches of one user",
    ),
    Limit(
        name="memory_machine",
        side="machine",
        title="memory left: free and file cache",
        reads="/proc/meminfo MemFree+Buffers+Cached-Shmem",
        value=lambda host: host.memory_headroom_bytes,
        supply=lambda host, plan: left(host.memory_headroom_bytes, plan.start_bytes),
        units_per_connection=lambda plan: plan.bytes_per_connection,
        remedy="more memory, or the swarm on another machine",
        wall="memory",
    ),
    Limit(
        name="memory_reserve",
        side="machine",
        title="memory above the reserve, where the ramp stops",
        reads="/proc/meminfo, less the parameter memory_reserve",
        value=lambda host: host.memory_headroom_bytes,
        supply=memory_above_reserve,
        units_per_connection=lambda plan: plan.bytes_per_connection,
        remedy="a smaller reserve, more memory, or the swarm on another machine",
        lifts=(Lift(kind=PARAMETER, key="memory_reserve", value=lambda n: need.SMALL_RESERVE),),
    ),
    Limit(
        name="memory_cgroup",
        side="machine",
        title="memory of the control group",
        reads="cgroup v2 memory.max and memory.current; v1 memory.limit_in_bytes and memory.usage_in_bytes",
        value=lambda host: host.memory_cgroup_limit_bytes,
        supply=group_memory,
        units_per_connection=lambda plan: plan.bytes_per_connection,
        exempt=foreign_memory,
        remedy="raise the memory limit of the container or control group",
        lifts=(
            Lift(
                kind=CGROUP,
                key="memory.max",
                value=need.group_bytes,
                present=lambda host: host.memory_cgroup_limit_bytes,
                most=1 << 62,
                why="memory of both ends and of the kernel for them",
                per_container=True,
            ),
        ),
    ),
    Limit(
        name="process_limit",
        side="machine",
        title="processes: the least of pid_max, threads-max, pids.max and RLIMIT_NPROC",
        reads="/proc/sys/kernel/pid_max, threads-max, cgroup pids.max, /proc/self/limits",
        value=lambda host: host.pid_max,
        supply=processes_hold,
        remedy="fewer, larger processes: a higher fd limit for each; or a higher limit of processes",
        lifts=(
            Lift(
                kind=SYSCTL,
                key="kernel.pid_max",
                value=need.processes,
                present=lambda host: host.pid_max,
                when=lambda n: need.processes_short(n.host.pid_max, n),
                most=need.PID_MOST,
                why="server shards and swarm workers, beside the processes of others",
            ),
            Lift(
                kind=SYSCTL,
                key="kernel.threads-max",
                value=need.processes,
                present=lambda host: host.threads_max,
                when=lambda n: need.processes_short(n.host.threads_max, n),
                why="server shards and swarm workers, beside the threads of others",
            ),
            Lift(
                kind=RLIMIT,
                key="nproc",
                value=need.processes,
                present=lambda host: host.nproc_soft,
                when=need.nproc_short,
                why="server shards and swarm workers, beside this user's other processes",
                per_container=True,
            ),
            Lift(
                kind=CGROUP,
                key="pids.max",
                value=need.tasks,
                present=lambda host: host.pids_cgroup_max,
                when=need.tasks_short,
                why="server shards and swarm workers, beside the others of the control group",
                per_container=True,
            ),
        ),
    ),
)

RATES: tuple[Limit, ...] = (
    Limit(
        name="accept_queue",
        side="server",
        title="connections that wait to be accepted: min(backlog, net.core.somaxconn)",
        reads="/proc/sys/net/core/somaxconn",
        value=lambda host: host.somaxconn,
        remedy="a larger backlog in the server (asyncio has 100, Node 511); then net.core.somaxconn",
        lifts=(
            Lift(
                kind=SYSCTL,
                key="net.core.somaxconn",
                rank=RECOMMENDED,
                value=lambda n: need.queue(n.host.somaxconn),
                present=lambda host: host.somaxconn,
                when=need.accept_queue_short,
                why="a short accept queue slows the ramp: handshakes in flight are kept to half of it",
                per_container=True,
            ),
        ),
    ),
    Limit(
        name="syn_queue",
        side="kernel",
        title="half-open connections of a listener: min(backlog, somaxconn, tcp_max_syn_backlog)",
        reads="/proc/sys/net/ipv4/tcp_max_syn_backlog",
        value=lambda host: host.syn_backlog,
        remedy="a slower ramp, or a larger backlog",
        lifts=(
            _SLOW_RAMP,
            Lift(
                kind=SYSCTL,
                key="net.ipv4.tcp_max_syn_backlog",
                rank=RECOMMENDED,
                value=lambda n: need.queue(n.host.syn_backlog),
                present=lambda host: host.syn_backlog,
                when=need.syn_queue_short,
                why="without SYN cookies, further handshakes are dropped at three quarters of it",
                per_container=True,
            ),
        ),
    ),
    Limit(
        name="tcp_mem",
        side="kernel",
        title="socket buffers of all TCP connections, in pages; idle connections take none",
        reads="/proc/sys/net/ipv4/tcp_mem third number, /proc/net/sockstat mem",
        value=lambda host: host.tcp_mem_pages_high,
        remedy="smaller or staggered messages; or a higher tcp_mem",
        lifts=(
            Lift(
                kind=SYSCTL,
                key="net.ipv4.tcp_mem",
                rank=RECOMMENDED,
                value=need.tcp_mem,
                present=lambda host: joined(
                    host.tcp_mem_pages_low, host.tcp_mem_pages_pressure, host.tcp_mem_pages_high
                ),
                when=need.tcp_mem_short,
                why="large messages that wait in buffers during a stall of a second",
            ),
        ),
    ),
    Limit(
        name="device_backlog",
        side="kernel",
        title="packets that wait for a CPU: net.core.netdev_max_backlog",
        reads="/proc/sys/net/core/netdev_max_backlog",
        value=lambda host: host.netdev_max_backlog,
        remedy="a slower ramp or fewer messages; or a longer backlog",
        lifts=(
            _SLOW_RAMP,
            Lift(
                kind=SYSCTL,
                key="net.core.netdev_max_backlog",
                rank=RECOMMENDED,
                value=need.device_backlog,
                present=lambda host: host.netdev_max_backlog,
                when=need.device_backlog_short,
                why="the handshakes in flight could fill the backlog of a CPU",
            ),
        ),
    ),
    Limit(
        name="time_wait",
        side="kernel",
        title="closed connections that still keep their port for 60 s",
        reads="/proc/net/sockstat tw",
        value=lambda host: host.time_wait,
        remedy="close with a reset, as the drain phase does; or other source addresses; or wait 60 s",
        lifts=(_ADDRESSES,),
    ),
    Limit(
        name="firewall",
        side="kernel",
        title="a rule that refuses, drops or rate-limits packets between swarm and server",
        reads="nft -j list ruleset, iptables-save -c (root); else TCPSynRetrans while no other counter of drops moves",
        remedy="change the rule that is quoted, or let this traffic pass before it",
        lifts=(Lift(kind=ADVICE, command="sudo nft -a list ruleset; sudo iptables-save -c"),),
    ),
    Limit(
        name="link",
        side="kernel",
        title="the link to the server: its rate, the queue in front of it, and what is lost on it",
        reads="the queueing discipline by netlink: backlog, drops, overlimits; RetransSegs, tcp_info min_rtt",
        remedy="fewer or smaller messages, or a faster link: see the queueing discipline",
        lifts=(
            Lift(kind=PARAMETER, key="message_rate", value=lambda n: need.FEW_MESSAGES),
            Lift(kind=ADVICE, command="tc -s qdisc show"),
        ),
    ),
    Limit(
        name="server_refused",
        side="server",
        title="a port that nothing listens on",
        reads="ECONNREFUSED, Tcp OutRsts, sock_diag listeners",
        remedy="start the server, or dial the port that it listens on",
        lifts=(Lift(kind=ADVICE, command="ss -ltnp"),),
    ),
    Limit(
        name="server_unreachable",
        side="server",
        title="a server that no route leads to",
        reads="EHOSTUNREACH, ENETUNREACH",
        remedy="mend the route, or dial an address that is up",
        lifts=(Lift(kind=ADVICE, command="ip route get ADDRESS"),),
    ),
    Limit(
        name="server_closed",
        side="server",
        title="connections that the server ends by itself",
        reads="the code and reason of its close frames, ESHUTDOWN, ECONNRESET",
        remedy="look in the server for what ends connections: an idle timeout, a limit of its own, an error",
    ),
    Limit(
        name="server_cpu",
        side="server",
        title="CPU of the busiest server shard",
        reads="/proc/PID/stat",
        remedy="fewer messages, or more server shards while cores are idle",
        lifts=(_SHARDS, Lift(kind=PARAMETER, key="message_rate", value=lambda n: need.FEW_MESSAGES)),
    ),
    Limit(
        name="machine_cpu",
        side="machine",
        title="CPU of the whole machine, which both ends share",
        reads="/proc/stat",
        value=lambda host: host.cpu_count,
        remedy="more cores, fewer messages, or the swarm on another machine",
    ),
    Limit(
        name="generator",
        side="swarm",
        title="the swarm itself, when it is slower than the server",
        reads="/proc/PID/stat and the lag behind the schedule",
        remedy="more swarm workers while cores are idle, or the swarm on another machine",
        lifts=(_WORKERS,),
    ),
)

LIMITS: tuple[Limit, ...] = (*CAPACITIES, *RATES)
