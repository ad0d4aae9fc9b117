"""The files of /proc that wslab reads, and the limits of this machine gathered from them.

1. `read_x(root)` reads one file with the parser `parse_x` of `wslab.machine.formats`; `root` is any copy of /proc.
2. A file that is not there gives None; a malformed one raises `ValueError` naming it.
3. Nothing here costs more when more connections are open: no listing of descriptors, no `/proc/net/tcp`.
"""

from __future__ import annotations

import os
from pathlib import Path

from wslab.core.host import Host
from wslab.machine import formats
from wslab.machine.cgroup import CGROUPS, read_cgroup
from wslab.machine.files import read_text
from wslab.machine.sockets import bound_ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PROC = Path("/proc")


def _read(path: Path, parse: Callable[[str], formats.T]) -> formats.T | None:
    text = read_text(path)
    return None if text is None else parse(text)


def read_meminfo(root: Path = PROC) -> dict[str, int] | None:
    """Return the memory table in bytes; `MemFree` includes the free pages of the per-CPU lists.

    Pages that a CPU has just freed stay in a list of its own, hundreds of MiB after a large run, and the next one takes
    them from there: without them a connection would seem to cost nothing at first.
    """
    table = _read(root / "meminfo", formats.parse_meminfo)
    if table is not None:
        table["MemFree"] += _read(root / "zoneinfo", formats.parse_cpu_lists) or 0
    return table


def headroom_bytes(meminfo: dict[str, int], proc_cache: int | None = None) -> int:
    """Return the memory that can still be used: what is free, plus the file cache and the inodes of /proc if known.

    This is not MemAvailable, which counts the dentries and inodes of sockets as reclaimable, while open sockets pin
    them: at 2.7 million connections it promised 6.8 GB while 0.6 GB was left.
    """
    file_cache = meminfo["Buffers"] + meminfo["Cached"] - meminfo.get("Shmem", 0)
    return meminfo["MemFree"] + file_cache + (proc_cache or 0)


def read_headroom(root: Path = PROC) -> int | None:
    """Return the headroom as it is now, see `headroom_bytes`."""
    meminfo = read_meminfo(root)
    return None if meminfo is None else headroom_bytes(meminfo, _read(root / "slabinfo", formats.parse_proc_cache))


def read_vmstat(root: Path = PROC) -> dict[str, int] | None:
    """Return the counters of the memory manager."""
    return _read(root / "vmstat", formats.parse_vmstat)


def read_file_nr(root: Path = PROC) -> tuple[int, int] | None:
    """Return the file handles in use on the machine, and the most there may be."""
    return _read(root / "sys/fs/file-nr", formats.parse_file_nr)


def read_sockstat(root: Path = PROC) -> dict[str, dict[str, int]] | None:
    """Return the socket counts of this network namespace by protocol."""
    return _read(root / "net/sockstat", formats.parse_sockstat)


def read_pss(pid: int | str, root: Path = PROC) -> int | None:
    """Return the proportional bytes of a process. Expensive: the kernel walks its pages."""
    return _read(root / str(pid) / "smaps_rollup", formats.parse_smaps_rollup)


def read_fd_count(pid: int | str, root: Path = PROC) -> int | None:
    """Return how many descriptors a process has open, without listing them; None before Linux 6.2.

    Since 6.2 the size of the folder `/proc/PID/fd` is that number; before, it is 0.
    """
    try:
        return os.stat(root / str(pid) / "fd").st_size or None
    except OSError:
        return None


def read_status(pid: int | str = "self", root: Path = PROC) -> dict[str, str] | None:
    """Return the lines of a process's status."""
    return _read(root / str(pid) / "status", formats.parse_status)


def read_limits(pid: int | str = "self", root: Path = PROC) -> dict[str, tuple[int | None, int | None]] | None:
    """Return the soft and hard resource limits of a process; those of `self` are what a child gets."""
    return _read(root / str(pid) / "limits", formats.parse_limits)


def read_soft_fd_limit(pid: int | str = "self", root: Path = PROC) -> int | None:
    """Return how many descriptors a process may have open; None where that is not known or there is no limit."""
    return ((read_limits(pid, root) or {}).get("Max open files") or (None, None))[0]


def read_ints(name: str, count: int, root: Path = PROC) -> tuple[int, ...] | tuple[None, ...]:
    """Return the `count` whole numbers of a file such as `sys/net/ipv4/tcp_mem`, or as many Nones."""

    @formats.naming(name)
    def parse(text: str) -> tuple[int, ...]:
        values = tuple(map(int, text.split()))
        if len(values) != count:
            raise ValueError(f"{count} numbers expected")
        return values

    return _read(root / name, parse) or (None,) * count


def read_host(root: Path = PROC, cgroups: Path = CGROUPS) -> Host:
    """Return the limits of this machine and process, None for what is not there.

    They are effective values: what a process started from here gets. Takes a few milliseconds.

    Args:
        root: where /proc is.
        cgroups: where the cgroup trees are mounted.
    """
    found = _process_limits(root) | _kernel_limits(root) | _network_limits(root) | _cgroup_limits(root, cgroups)
    return Host(**found)


def _process_limits(root: Path) -> dict[str, Any]:
    limits = read_limits(root=root) or {}
    status = read_status(root=root) or {}
    cpus = status.get("Cpus_allowed_list")
    fd_soft, fd_hard = limits.get("Max open files", (None, None))
    return {
        "fd_soft": fd_soft,
        "fd_hard": fd_hard,
        "nproc_soft": limits.get("Max processes", (None, None))[0],
        "uid": int(status["Uid"].split()[1]) if "Uid" in status else None,
        # The CPUs that this process may run on, after taskset and cpusets, not those of the machine.
        "cpu_count": None if cpus is None else _length(cpus),
        "page_bytes": formats.PAGE_BYTES,
    }


def _kernel_limits(root: Path) -> dict[str, Any]:
    meminfo = read_meminfo(root)
    file_used, file_max = read_file_nr(root) or (None, None)
    models = [line for line in (read_text(root / "cpuinfo") or "").splitlines() if line.startswith("model name")]
    release = read_text(root / "sys/kernel/osrelease")
    return {
        "nr_open": read_ints("sys/fs/nr_open", 1, root)[0],
        "file_max": file_max,
        "file_used": file_used,
        "epoll_watches_max": read_ints("sys/fs/epoll/max_user_watches", 1, root)[0],
        "memory_total_bytes": meminfo["MemTotal"] if meminfo else None,
        "memory_headroom_bytes": read_headroom(root),
        "pid_max": read_ints("sys/kernel/pid_max", 1, root)[0],
        "threads_max": read_ints("sys/kernel/threads-max", 1, root)[0],
        "kernel": None if release is None else release.strip(),
        "cpu_model": models[0].split(":", 1)[1].strip() if models else None,
    }


def _network_limits(root: Path) -> dict[str, Any]:
    tcp_mem = read_ints("sys/net/ipv4/tcp_mem", 3, root)
    tcp = (read_sockstat(root) or {}).get("TCP")
    return {
        **_ports(root, tcp["alloc"] if tcp else 0),
        "somaxconn": read_ints("sys/net/core/somaxconn", 1, root)[0],
        "syn_backlog": read_ints("sys/net/ipv4/tcp_max_syn_backlog", 1, root)[0],
        "syncookies": read_ints("sys/net/ipv4/tcp_syncookies", 1, root)[0],
        "conntrack_max": read_ints("sys/net/netfilter/nf_conntrack_max", 1, root)[0],
        "conntrack_count": read_ints("sys/net/netfilter/nf_conntrack_count", 1, root)[0],
        "conntrack_buckets": read_ints("sys/net/netfilter/nf_conntrack_buckets", 1, root)[0],
        "tcp_mem_pages_low": tcp_mem[0],
        "tcp_mem_pages_pressure": tcp_mem[1],
        "tcp_mem_pages_high": tcp_mem[2],
        "netdev_max_backlog": read_ints("sys/net/core/netdev_max_backlog", 1, root)[0],
        "time_wait": tcp["tw"] if tcp else None,
    }


def _ports(root: Path, sockets: int) -> dict[str, int | None]:
    """Return the ephemeral range, and how many of its ports connect passes over; see `wslab.core.plan`."""
    low, high = read_ints("sys/net/ipv4/ip_local_port_range", 2, root)
    reserved = taken = None
    if low is not None and high is not None:
        spans = _read(root / "sys/net/ipv4/ip_local_reserved_ports", formats.parse_ports)
        kept = {port for first, last in spans or () for port in range(max(low, first), min(high, last) + 1)}
        reserved = None if spans is None else len(kept)
        # A copy of /proc knows nothing of sockets.
        bound = bound_ports(sockets) if root == PROC else None
        taken = None if bound is None else sum(low <= port <= high and port not in kept for port in bound)
    return {"port_low": low, "port_high": high, "ports_reserved": reserved, "ports_taken": taken}


def _cgroup_limits(root: Path, cgroups: Path) -> dict[str, Any]:
    found = read_cgroup(root, cgroups)
    return {
        "cgroup_version": found.version,
        "memory_cgroup_limit_bytes": found.memory_limit_bytes,
        "memory_cgroup_used_bytes": found.memory_used_bytes,
        "pids_cgroup_max": found.pids_limit,
        "pids_cgroup_used": found.pids_used,
        "cpu_quota": found.cpus,
    }


def _length(cpus: str) -> int:
    """Return how many CPUs a list such as `0-3,8` names."""
    spans = [span.split("-") for span in cpus.split(",")]
    return sum(int(span[-1]) - int(span[0]) + 1 for span in spans)
