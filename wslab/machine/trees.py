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
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wslab.machine.cgroup import CGROUPS, read_cgroup
from wslab.machine.files import read_text
from wslab.machine.process import user_of
from wslab.machine.procfs import PROC, read_fd_count, read_limits

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20  # linux/netlink.h, linux/sock_diag.h
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TCP_LISTEN = 10
_NLMSG_HEADER = struct.Struct("=IHHII")
# struct inet_diag_req_v2: family, protocol, extensions, padding, states, and an empty socket identity.
_REQUEST = struct.Struct("=BBBBI48x")
# struct inet_diag_msg: family, state, then the port (in network order), addresses, cookie, queues, uid, inode.
_FOUND = struct.Struct("=BB2x2s2x16s16x12x4xIIII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listening TCP socket.

    Attributes:
        address: where it listens, such as `127.0.0.1` or `::`.
        port: its port.
        inode: what identifies it among the descriptors of a process.
        waiting: connections in its accept queue.
        backlog: the most that this queue holds; 0 where the kernel does not say.
    """

    address: str
    port: int
    inode: int
    waiting: int = 0
    backlog: int = 0


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


def _children(pid: int, root: Path) -> list[int]:
    try:
        threads = os.listdir(root / str(pid) / "task")
    except OSError:
        return []
    lists = (read_text(root / str(pid) / "task" / thread / "children") for thread in threads)
    return [int(child) for text in lists if text for child in text.split()]


def listeners(root: Path = PROC) -> list[Listener]:
    """Return the listening TCP sockets of this network namespace."""
    try:
        return [found for family in (socket.AF_INET, socket.AF_INET6) for found in _diagnosed(family)]
    except OSError:
        return [found for name in ("tcp", "tcp6") for found in _listed(read_text(root / "net" / name) or "")]


def _diagnosed(family: int) -> list[Listener]:
    found: list[Listener] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as link:
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _TCP_LISTEN)
        size = _NLMSG_HEADER.size + len(request)
        link.send(_NLMSG_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 0, 0) + request)
        while True:
            data = link.recv(1 << 16)
            while len(data) >= _NLMSG_HEADER.size:
                length, kind, _, _, _ = _NLMSG_HEADER.unpack_from(data)
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    raise OSError("the kernel has no diagnosis of TCP sockets")
                found.append(_listener(data[_NLMSG_HEADER.size : length]))
                data = data[(length + 3) // 4 * 4 :]


def _listener(message: bytes) -> Listener:
    family, _, port, address, waiting, backlog, _, inode = _FOUND.unpack_from(message)
    packed = address[:4] if family == socket.AF_INET else address
    return Listener(
        address=socket.inet_ntop(family, packed),
        port=int.from_bytes(port, "big"),
        inode=inode,
        waiting=waiting,
        backlog=backlog,
    )


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
    found = [one for one in listeners(root) if one.port == port]
    holders = owners([one.inode for one in found], known, root) or known
    serving = sorted({*holders, *(below for pid in holders for below in descendants(pid, root))})
    fd_limits, free = [], []
    for pid in serving:
        limit = ((read_limits(pid, root) or {}).get("Max open files") or (None, None))[0]
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
