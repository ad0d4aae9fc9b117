"""The settings that a target needs on a host: which one, its present value, the value needed, and what it lifts.

1. What the plan solves by itself (more processes, more source addresses) is no setting: nothing is asked of anybody.
2. A capacity is `needed` when the table of limits says that it ends below the target. Its value is what the target
   takes, and a tenth more, rounded up to two digits; on top of what others use already.
3. What makes a ramp smoother or the load lighter and decides nothing is `recommended`.
4. No value is ever lowered, and memory cannot be set: how much it holds is told beside the settings.
"""

from __future__ import annotations

from wslab.core import demand
from wslab.core.demand import INT_MOST, Demand, Host
from wslab.core.plan import Plan
from wslab.core.remedy import CGROUP, NEEDED, RECOMMENDED, RLIMIT, SYSCTL, Remedy, Setting, numbers, value

__all__ = ["CGROUP", "NEEDED", "RECOMMENDED", "REMEDIES", "RLIMIT", "SYSCTL", "Remedy", "Setting", "remedies"]

# PID_MAX_LIMIT of include/linux/threads.h.
PID_MOST = 1 << 22


def remedies(host: Host, plan: Plan, message_bytes: int = 32, message_rate: float = 0.0) -> list[Setting]:
    """Return the settings that have to change for a planned stage, in the order in which they must be written.

    Args:
        host: the host's limits as the machine layer reads them.
        plan: the layout of the stage on it.
        message_bytes: size of a message.
        message_rate: messages per second and connection.
    """
    host = {**host, "conntrack_tracking": _tracking(host)}
    asked = Demand(host=host, plan=plan, message_bytes=message_bytes, message_rate=message_rate)
    found = (_setting(remedy, asked) for remedy in REMEDIES)
    return [setting for setting in found if setting is not None]


def _setting(remedy: Remedy, asked: Demand) -> Setting | None:
    present, needed = remedy.present(asked.host), remedy.amount(asked)
    if present is None or needed is None:
        return None
    if isinstance(needed, int) and isinstance(present, int):
        needed = min(needed, remedy.most)
        if needed <= present:
            return None
    return Setting(
        key=remedy.key,
        kind=remedy.kind,
        rank=remedy.rank,
        limit=remedy.limit,
        present=present,
        needed=needed,
        why=remedy.why,
        needs_root=True,
        per_container=remedy.per_container,
    )


def _tracking(host: Host) -> bool | None:
    """Tell whether connections are tracked: known, or concluded from entries in the table of this namespace.

    Entries may be left over from rules that are gone. A table that is too large costs little, so that tuning goes by
    them; what ends a climb is not concluded from them.
    """
    known: bool | None = host.get("conntrack_tracking")
    return (True if host.get("conntrack_count") else None) if known is None else known


# nr_open stands before nofile: no limit of a process can be set above it.
REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        key="fs.nr_open",
        limit="nr_open",
        present=value("nr_open"),
        amount=demand.fds_needed,
        # The kernel refuses more than INT_MAX rounded down to a multiple of 64.
        most=INT_MOST - 63,
        why="the fd limit of a process cannot be set above it",
    ),
    Remedy(
        key="nofile",
        kind=RLIMIT,
        limit="fd_limit",
        present=value("fd_hard"),
        amount=demand.fds_needed,
        why="descriptors of the fullest of the processes that were asked for",
        per_container=True,
    ),
    Remedy(
        key="nofile",
        kind=RLIMIT,
        rank=RECOMMENDED,
        limit="fd_limit",
        present=value("fd_hard"),
        amount=demand.fds_recommended,
        why="fewer, fatter processes; each costs about 4 MB",
        per_container=True,
    ),
    Remedy(
        key="fs.file-max",
        limit="file_max",
        present=value("file_max"),
        amount=demand.capacity("file_max"),
        why="two open files a connection, beside those of others",
    ),
    Remedy(
        key="fs.epoll.max_user_watches",
        limit="epoll_watches",
        present=value("epoll_watches_max"),
        amount=demand.capacity("epoll_watches"),
        why="two watches a connection, both ends under one user",
    ),
    Remedy(
        key="net.netfilter.nf_conntrack_max",
        limit="conntrack",
        present=value("conntrack_max"),
        amount=demand.capacity("conntrack"),
        why="one entry a connection; connections are tracked here",
    ),
    Remedy(
        key="net.netfilter.nf_conntrack_buckets",
        rank=RECOMMENDED,
        limit="conntrack_buckets",
        present=value("conntrack_buckets"),
        amount=demand.buckets,
        why="long chains make every packet dearer",
    ),
    Remedy(
        key="net.ipv4.ip_local_port_range",
        limit="ephemeral_ports",
        present=numbers("port_low", "port_high"),
        amount=demand.ports,
        why="ports of the source addresses that were asked for",
        per_container=True,
    ),
    Remedy(
        key="kernel.pid_max",
        limit="process_limit",
        present=value("pid_max"),
        amount=demand.processes(lambda host: host.get("pid_max")),
        most=PID_MOST,
        why="server shards and swarm workers, beside the processes of others",
    ),
    Remedy(
        key="kernel.threads-max",
        limit="process_limit",
        present=value("threads_max"),
        amount=demand.processes(lambda host: host.get("threads_max")),
        why="server shards and swarm workers, beside the threads of others",
    ),
    Remedy(
        key="nproc",
        kind=RLIMIT,
        limit="process_limit",
        present=value("nproc_soft"),
        amount=demand.processes(demand.nproc),
        why="server shards and swarm workers, beside this user's other processes",
        per_container=True,
    ),
    Remedy(
        key="pids.max",
        kind=CGROUP,
        limit="process_limit",
        present=value("pids_cgroup_max"),
        amount=demand.tasks,
        why="server shards and swarm workers, beside the others of the control group",
        per_container=True,
    ),
    Remedy(
        key="net.core.somaxconn",
        rank=RECOMMENDED,
        limit="accept_queue",
        present=value("somaxconn"),
        amount=demand.accept_queue,
        why="a short accept queue slows the ramp: handshakes in flight are kept to half of it",
        per_container=True,
    ),
    Remedy(
        key="net.ipv4.tcp_max_syn_backlog",
        rank=RECOMMENDED,
        limit="syn_queue",
        present=value("syn_backlog"),
        amount=demand.syn_queue,
        why="without SYN cookies, further handshakes are dropped at three quarters of it",
        per_container=True,
    ),
    Remedy(
        key="net.core.netdev_max_backlog",
        rank=RECOMMENDED,
        limit="device_backlog",
        present=value("netdev_max_backlog"),
        amount=demand.device_backlog,
        why="the handshakes in flight could fill the backlog of a CPU",
    ),
    Remedy(
        key="net.ipv4.tcp_mem",
        rank=RECOMMENDED,
        limit="tcp_mem",
        present=numbers("tcp_mem_pages_low", "tcp_mem_pages_pressure", "tcp_mem_pages_high"),
        amount=demand.tcp_mem,
        why="large messages that wait in buffers during a stall of a second",
    ),
)
