"""The limits of a host: one typed record.

A value is None where the host does not have the limit or it cannot be read. Sizes are in bytes, TCP's memory thresholds
in pages, CPU time in CPUs; everything else is a count. `wslab.machine` fills the record in, the run folder stores it
whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The limits of one host, as a process started there finds them.

    Attributes:
        fd_soft: soft RLIMIT_NOFILE.
        fd_hard: hard RLIMIT_NOFILE; load processes raise their soft limit to it.
        nproc_soft: soft RLIMIT_NPROC.
        uid: effective user.
        cpu_count: CPUs that a process may run on.
        cpu_quota: CPU time a second that the control group may use, in CPUs.
        page_bytes: size of a page.
        nr_open: fs.nr_open, the largest fd limit that a process can have.
        file_max: fs.file-max, open files of the whole system.
        file_used: open files of the whole system at the moment.
        epoll_watches_max: fs.epoll.max_user_watches, a limit per user.
        memory_total_bytes: memory of the machine.
        memory_headroom_bytes: free memory and file cache; see `wslab.machine.procfs.headroom_bytes`.
        pid_max: kernel.pid_max.
        threads_max: kernel.threads-max.
        kernel: release of the kernel.
        cpu_model: name of the CPU.
        port_low: first ephemeral port.
        port_high: last ephemeral port.
        ports_reserved: ports of that range that ip_local_reserved_ports takes away.
        ports_taken: ports of that range that sockets of others are bound to by name, such as listeners.
        somaxconn: net.core.somaxconn, the longest accept queue.
        syn_backlog: net.ipv4.tcp_max_syn_backlog.
        syncookies: net.ipv4.tcp_syncookies.
        conntrack_max: entries of the connection tracking table.
        conntrack_count: entries in use.
        conntrack_buckets: hash buckets of the table.
        conntrack_tracking: whether the load's connections are tracked; None where that is not known.
        tcp_mem_pages_low: net.ipv4.tcp_mem, first number.
        tcp_mem_pages_pressure: second number.
        tcp_mem_pages_high: third number.
        netdev_max_backlog: packets that may wait for one CPU.
        time_wait: connections in TIME_WAIT.
        cgroup_version: version of the control groups that limit memory, 1 or 2.
        memory_cgroup_limit_bytes: memory limit of the tightest control group.
        memory_cgroup_used_bytes: memory that this group uses.
        memory_cgroup_of: `server` or `swarm` where only that end is in the group; None where both are.
        pids_cgroup_max: processes and threads that the tightest control group may have.
        pids_cgroup_used: processes and threads that it has.
        server_fd_limit: soft RLIMIT_NOFILE of the processes of a server that is not ours: what it inherits or, once it
            runs, the lowest of its serving processes; None where the server is ours.
        server_fds_free: descriptors that its serving processes together have free.
        server_processes: how many serving processes it has; None before it runs.
        server_backlog: length of the accept queue that it asked for.
        server_uid: user that it runs as.
    """

    fd_soft: int | None = None
    fd_hard: int | None = None
    nproc_soft: int | None = None
    uid: int | None = None
    cpu_count: int | None = None
    cpu_quota: float | None = None
    page_bytes: int | None = None
    nr_open: int | None = None
    file_max: int | None = None
    file_used: int | None = None
    epoll_watches_max: int | None = None
    memory_total_bytes: int | None = None
    memory_headroom_bytes: int | None = None
    pid_max: int | None = None
    threads_max: int | None = None
    kernel: str | None = None
    cpu_model: str | None = None
    port_low: int | None = None
    port_high: int | None = None
    ports_reserved: int | None = None
    ports_taken: int | None = None
    somaxconn: int | None = None
    syn_backlog: int | None = None
    syncookies: int | None = None
    conntrack_max: int | None = None
    conntrack_count: int | None = None
    conntrack_buckets: int | None = None
    conntrack_tracking: bool | None = None
    tcp_mem_pages_low: int | None = None
    tcp_mem_pages_pressure: int | None = None
    tcp_mem_pages_high: int | None = None
    netdev_max_backlog: int | None = None
    time_wait: int | None = None
    cgroup_version: int | None = None
    memory_cgroup_limit_bytes: int | None = None
    memory_cgroup_used_bytes: int | None = None
    memory_cgroup_of: str | None = None
    pids_cgroup_max: int | None = None
    pids_cgroup_used: int | None = None
    server_fd_limit: int | None = None
    server_fds_free: int | None = None
    server_processes: int | None = None
    server_backlog: int | None = None
    server_uid: int | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Host:
        """Return the host that a run folder holds; keys of another version of wslab are left out."""
        return cls(**{item.name: record[item.name] for item in fields(cls) if item.name in record})

    def as_dict(self) -> dict[str, Any]:
        """Return the record as it is written to JSON."""
        return asdict(self)
