"""Process trees and listening sockets: which processes belong to a server that is not ours.

1. The children of a process are listed by the kernel for each of its threads (`/proc/PID/task/TID/children`). Such a
   list may miss one while another ends, so a reader keeps the processes that it knows until they have ended.
2. Listening sockets come from the kernel's socket diagnosis, which walks the listeners only; `/proc/net/tcp` lists
   every connection and is read only where that is not there.
3. The owner of a socket is the process that has its inode open. Only root can look into other users' processes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from wslab.machine.cgroup import CGROUPS, read_cgroup
from wslab.machine.files import read_text
from wslab.machine.process import user_of
from wslab.machine.procfs import PROC, read_fd_count, read_soft_fd_limit
from wslab.machine.sockets import Listener, diagnosed_listeners

# Of <net/tcp_states.h>.
_TCP_LISTEN = 10


def descendants(pid: int, root: Path = PROC) -> list[int]:
    """Return the children of a process, their children and so on; not the process itself."""
    found: list[int] = []
    open_pids, known = [pid], {pid}
    while open_pids:
        new = [child for child in _children(open_pids.pop(), root) if child not in known]
        known.update(new)
        open_pids += new
        found += new
    return found


def with_descendants(pids: Iterable[int], root: Path = PROC) -> list[int]:
    """Return processes and all below them, each once, those that were named first."""
    named = list(pids)
    return list(dict.fromkeys([*named, *(below for pid in named for below in descendants(pid, root))]))


def _children(pid: int, root: Path) -> list[int]:
    try:
        threads = os.listdir(root / str(pid) / "task")
    except OSError:
        return []
    lists = (read_text(root / str(pid) / "task" / thread / "children") for thread in threads)
    return [int(child) for text in lists if text for child in text.split()]


def listeners(port: int = 0, root: Path = PROC) -> list[Listener]:
    """Return the listening TCP sockets of this network namespace, of one port or, with 0, of all."""
    try:
        return diagnosed_listeners(port)
    except OSError:
        listed = [found for name in ("tcp", "tcp6") for found in _listed(read_text(root / "net" / name) or "")]
        return [found for found in listed if port in (0, found.port)]


def _listed(text: str) -> list[Listener]:
    """Return the listening sockets of `/proc/net/tcp` or `tcp6`."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) != _TCP_LISTEN:
            continue
        address, port = fields[1].split(":")
        # Each group of four bytes is in the order of the CPU.
        packed = b"".join(bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
        shown = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
        waiting = int(fields[4].split(":")[1], 16)
        found.append(Listener(address=shown, port=int(port, 16), inode=int(fields[9]), waiting=waiting))
    return found


def owners(inodes: Iterable[int], pids: Iterable[int] | None = None, root: Path = PROC) -> list[int]:
    """Return the processes that have one of these sockets open, in the order of their pids.

    Args:
        inodes: the sockets.
        pids: processes to look into; None for all of the machine.
        root: where /proc is.
    """
    wanted = {f"socket:[{inode}]" for inode in inodes}
    candidates = sorted(int(name) for name in os.listdir(root) if name.isdecimal()) if pids is None else sorted(pids)
    return [pid for pid in candidates if wanted and _has_open(pid, wanted, root)]


def _has_open(pid: int, wanted: set[str], root: Path) -> bool:
    folder = root / str(pid) / "fd"
    try:
        names = os.listdir(folder)
    except OSError:  # It has ended, or is another user's.
        return False
    for name in names:
        try:
            if os.readlink(folder / name) in wanted:
                return True
        except OSError:
            continue
    return False


def server_limits(
    pids: Iterable[int], port: int, root: Path = PROC, cgroups: Path = CGROUPS
) -> dict[str, int | str | None]:
    """Return the limits of a server that is not ours, as its own processes have them.

    Its serving processes are those that have the listening socket open, and what they started: a program that only
    starts the server, such as npm, holds no connection.

    Returns:
        `server_fd_limit`: the lowest soft limit of descriptors of a serving process.
        `server_fds_free`: descriptors that all of them together have free.
        `server_processes`: how many there are.
        `server_backlog`: the length of the accept queue that the server asked for, 0 where that is not known.
        `server_uid`: the user that they run as.
        `memory_cgroup_limit_bytes`, `memory_cgroup_used_bytes` and `memory_cgroup_of` (`server`): of a control group
        that binds the server and not the caller.
        Empty where none of them can be looked into.
    """
    known = sorted(set(pids))
    found = listeners(port, root)
    holders = owners([one.inode for one in found], known, root) or known
    serving = sorted(with_descendants(holders, root))
    fd_limits, free = [], []
    for pid in serving:
        limit = read_soft_fd_limit(pid, root)
        fds = read_fd_count(pid, root)
        if limit is not None:
            fd_limits.append(limit)
            free.append(max(0, limit - (fds or 0)))
    if not fd_limits:
        return {}
    return _own_group(serving[0], root, cgroups) | {
        "server_fd_limit": min(fd_limits),
        "server_fds_free": sum(free),
        "server_processes": len(serving),
        "server_backlog": max((one.backlog for one in found), default=0),
        "server_uid": user_of(serving[0]),
    }


def _own_group(pid: int, root: Path, cgroups: Path) -> dict[str, int | str | None]:
    """Return the memory limit of a process's control group, where it is another one than that of the caller."""
    group, ours = read_cgroup(root, cgroups, pid), read_cgroup(root, cgroups)
    if group.memory_limit_bytes is None or group.memory_limit_bytes == ours.memory_limit_bytes:
        return {}
    return {
        "memory_cgroup_limit_bytes": group.memory_limit_bytes,
        "memory_cgroup_used_bytes": group.memory_used_bytes,
        "memory_cgroup_of": "server",
    }
