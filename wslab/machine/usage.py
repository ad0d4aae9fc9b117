"""How much of a limit the users of this machine have taken, asked before a setting of the whole machine is lowered.

This lists descriptors, which costs more the more there are: it is for breaks, not for the preflight of a stage, and
gives up at `DESCRIPTORS_MOST`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from wslab.machine import formats
from wslab.machine.files import read_text
from wslab.machine.procfs import PROC, read_status

# Some 5 microseconds each to look at.
DESCRIPTORS_MOST = 200_000

_EPOLL = "anon_inode:[eventpoll]"


def epoll_watches_by_user(root: Path = PROC) -> dict[int, int]:
    """Return how many epoll watches the processes of each user hold, by uid.

    An epoll instance that processes share is counted once for each of them, so that this may be too much, never too
    little. Kernel source: a watch is a `tfd:` line in /proc/PID/fdinfo (proc_pid_fdinfo(5)).

    Args:
        root: where /proc is.

    Raises:
        OSError: that cannot be said, because a process may not be looked at or too many descriptors are open.
    """
    watches: Counter[int] = Counter()
    seen = 0
    for pid in filter(str.isdigit, os.listdir(root)):
        try:
            descriptors = os.listdir(root / pid / "fd")
            seen += len(descriptors)
            if seen > DESCRIPTORS_MOST:
                raise OSError(f"more than {DESCRIPTORS_MOST:,} descriptors are open on this machine")
            found = sum(_watches(root / pid, descriptor) for descriptor in descriptors)
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has ended.
        except PermissionError as problem:
            raise OSError(f"the descriptors of process {pid} may not be looked at") from problem
        if found:
            status = read_status(pid, root)
            watches[int(status["Uid"].split()[0]) if status else 0] += found
    return dict(watches)


def tracked_most(root: Path = PROC) -> int:
    """Return how many connections are tracked in the network namespace that has the most of them; 0 without any.

    Every namespace that a process is in is looked at, through that process.

    Args:
        root: where /proc is.
    """
    entries: dict[str, int] = {}
    for pid in filter(str.isdigit, os.listdir(root)):
        try:
            namespace = os.readlink(root / pid / "ns/net")
        except OSError:
            continue  # It has ended, or has no namespace any more.
        if namespace not in entries:
            text = read_text(root / pid / "net/stat/nf_conntrack")
            entries[namespace] = formats.parse_conntrack_stat(text)["entries"] if text else 0
    return max(entries.values(), default=0)


def _watches(process: Path, descriptor: str) -> int:
    try:
        if os.readlink(process / "fd" / descriptor) != _EPOLL:
            return 0
    except (FileNotFoundError, ProcessLookupError):
        return 0  # It has been closed.
    text = read_text(process / "fdinfo" / descriptor) or ""
    return sum(line.startswith("tfd:") for line in text.splitlines())
