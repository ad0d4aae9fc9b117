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

    A watch is a `tfd:` line in /proc/PID/fdinfo (proc_pid_fdinfo(5)). Where the answer is not exact it is too high: an
    epoll instance that processes share is counted for each of them, and a process that may not be looked at, such as
    one with more capabilities, counts as if it watched every descriptor that it has open.

    Args:
        root: where /proc is.

    Raises:
        OSError: that cannot be said, because a process may not be listed or too many descriptors are open.
    """
    watches: Counter[int] = Counter()
    seen = 0
    for pid in filter(str.isdigit, os.listdir(root)):
        try:
            descriptors = os.listdir(root / pid / "fd")
            seen += len(descriptors)
            if seen > DESCRIPTORS_MOST:
                raise OSError(f"more than {DESCRIPTORS_MOST:,} descriptors are open, too many to count epoll watches")
            status = read_status(pid, root)
            held = _watches(root / pid, descriptors)
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has ended.
        except PermissionError as problem:
            raise OSError(f"the descriptors of process {pid} may not be listed to count epoll watches") from problem
        if held and status:
            watches[int(status["Uid"].split()[0])] += held
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


def _watches(process: Path, descriptors: list[str]) -> int:
    """Return how many watches the epoll instances among these descriptors hold."""
    found = 0
    for descriptor in descriptors:
        try:
            if os.readlink(process / "fd" / descriptor) != _EPOLL:
                continue
        except FileNotFoundError:
            continue  # It has been closed.
        except PermissionError:
            return len(descriptors)
        text = read_text(process / "fdinfo" / descriptor) or ""
        found += sum(line.startswith("tfd:") for line in text.splitlines())
    return found
