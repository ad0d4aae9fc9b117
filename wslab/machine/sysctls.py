"""Settings of the kernel, read and written by their names in sysctl(8).

1. Settings of the whole machine that wslab writes, and puts back, are those in `WRITABLE` and no others: a name that
   comes from a file is looked up there before it becomes a path.
2. A setting of the whole machine is lowered by one process at a time. The claim is an flock on the setting's own file:
   every process of the machine sees it, and it ends with the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

SYSCTLS = Path("/proc/sys")

CONNTRACK_MAX = "net.netfilter.nf_conntrack_max"
CONNTRACK_BUCKETS = "net.netfilter.nf_conntrack_buckets"
EPOLL_WATCHES = "fs.epoll.max_user_watches"
NR_OPEN = "fs.nr_open"
FILE_MAX = "fs.file-max"
DEVICE_BACKLOG = "net.core.netdev_max_backlog"
TCP_MEM = "net.ipv4.tcp_mem"

# What a target may need raised, and what a break lowers for the whole machine.
WRITABLE = frozenset(
    (
        *(CONNTRACK_MAX, CONNTRACK_BUCKETS, EPOLL_WATCHES, NR_OPEN, FILE_MAX, DEVICE_BACKLOG, TCP_MEM),
        *("net.ipv4.ip_local_port_range", "net.ipv4.tcp_max_syn_backlog"),
        *("net.core.somaxconn", "kernel.pid_max", "kernel.threads-max"),
    )
)
_NUMBERS = re.compile(r"\d+( \d+)*")


def is_writable(name: str, value: str) -> bool:
    """Return whether wslab writes such a setting, and whether the value is one or more numbers, as all of them have."""
    return name in WRITABLE and _NUMBERS.fullmatch(value) is not None


def sysctl_path(name: str) -> Path:
    """Return the file of a setting such as `net.core.somaxconn`."""
    return SYSCTLS / name.replace(".", "/")


def read_sysctl(name: str) -> str:
    """Return the value as text, fields separated by one space."""
    return " ".join(sysctl_path(name).read_text("ascii").split())


def find_sysctl(name: str) -> str | None:
    """Return the value, as `read_sysctl` does; None where there is no such setting or it may not be read."""
    try:
        return read_sysctl(name)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None


def write_sysctl(name: str, value: str | int) -> None:
    """Write a value, in one write, because the kernel takes each as a whole value."""
    descriptor = os.open(sysctl_path(name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{value}\n".encode("ascii"))
    finally:
        os.close(descriptor)


def claim_sysctl(name: str) -> int:
    """Claim a setting of the whole machine and return the descriptor that holds the claim.

    Raises:
        BlockingIOError: another process has claimed it.
    """
    descriptor = os.open(sysctl_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
