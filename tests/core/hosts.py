"""The hosts that the tests of the core plan for: literal limits of one real machine, and changes to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wslab.core.host import Host

GIB = 1 << 30

# Two cores, 24 GiB, root without CAP_SYS_RESOURCE, so that the hard fd limit stays at 20,000.
LIMITS: dict[str, Any] = {
    "fd_soft": 1024,
    "fd_hard": 20_000,
    "nr_open": 1_048_576,
    "file_max": 2_466_170,
    "file_used": 1_170,
    "port_low": 32_768,
    "port_high": 60_999,
    "somaxconn": 4096,
    "syn_backlog": 1024,
    "syncookies": 1,
    "conntrack_max": 262_144,
    "conntrack_count": 144,
    "conntrack_buckets": 65_536,
    "conntrack_tracking": None,
    "epoll_watches_max": 5_491_511,
    "memory_total_bytes": 24 * GIB,
    "memory_headroom_bytes": 22 * GIB,
    "memory_cgroup_limit_bytes": None,
    "memory_cgroup_used_bytes": None,
    "tcp_mem_pages_low": 286_000,
    "tcp_mem_pages_pressure": 381_000,
    "tcp_mem_pages_high": 572_000,
    "pid_max": 32_768,
    "threads_max": 192_000,
    "nproc_soft": None,
    "pids_cgroup_max": None,
    "pids_cgroup_used": None,
    "netdev_max_backlog": 1000,
    "tw_buckets_max": 131_072,
    "time_wait": 0,
    "cpu_count": 2,
    "cpu_quota": None,
    "uid": 0,
    "page_bytes": 4096,
}


HOST = Host(**LIMITS)


def host(**changes: Any) -> Host:
    """Return the host with some of its limits changed."""
    return replace(HOST, **changes)
