"""Put a process into its enclosure.

There are two steps, because Python may be installed where only root can read it:

1. `enter` is called between fork and exec. Network namespace, control groups, limits and CPUs are inherited from there.
2. `become` is called when everything is imported and before anything is forked. Another user may not be able to import
   anything after that.

Load processes import this, so it imports little itself.
"""

from __future__ import annotations

import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_CLONE_NEWNET = 0x40000000


def enter(entry: Mapping[str, Any]) -> None:
    """Move the calling process into the namespace and groups of an enclosure, and set its limits and CPUs.

    Args:
        entry: `netns` (path or None), `cgroups` (folders), `fd_limit`, `processes_limit` and `cpus`; none is needed.

    Raises:
        OSError: the kernel refuses, or what is named is not there.
    """
    for group in entry.get("cgroups") or ():
        with open(os.path.join(group, "cgroup.procs"), "wb", buffering=0) as file:
            file.write(b"0")
    if entry.get("netns"):
        enter_netns(entry["netns"])
    for name, limit in (("fd_limit", resource.RLIMIT_NOFILE), ("processes_limit", resource.RLIMIT_NPROC)):
        most = entry.get(name)
        if most is not None:
            _, hard = resource.getrlimit(limit)
            # Raising a hard limit needs a privilege, so it is only lowered.
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(limit, (most, most))
    if entry.get("cpus"):
        os.sched_setaffinity(0, entry["cpus"])


def enter_netns(path: str) -> None:
    """Move the calling thread into a network namespace."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns = getattr(os, "setns", None)  # from Python 3.12 on
        if setns is not None:
            setns(descriptor, _CLONE_NEWNET)
            return
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


def become(uid: int) -> None:
    """Run as another user from here on, with the group of the same number and no other; there is no way back.

    Modules that would be imported later are imported first: a codec of the resolver, and what prints a traceback.
    """
    import encodings.idna  # noqa: F401
    import traceback  # noqa: F401

    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
