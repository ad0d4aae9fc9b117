"""A process's own limits and priority, and how it is distinguished from a later one with the same pid.

1. Imported by every load process: it imports `os` and `resource` and nothing else.
2. Nothing here fails because a privilege is missing: the caller gets what the kernel grants and reads how much that is.
3. The kernel reuses pids, so a process is identified by its pid and its start time together.
"""

from __future__ import annotations

import os
import resource

# Positions after the closing bracket of the command in /proc/PID/stat, see proc_pid_stat(5): fields 3 and 22.
_STATE = 0
_START_TICKS = 19
# BITS_PER_LONG: the kernel's table of descriptors grows by so many, and never beyond fs.nr_open (fs/file.c).
_TABLE_STEP = 64
_MADV_DONTNEED, _MADV_PAGEOUT = 4, 21  # asm-generic/mman-common.h
_DEAD_STATES = (b"Z", b"X", b"x")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def raise_fd_limit() -> int:
    """Raise the soft limit on descriptors to the hard one and return the soft limit in force.

    The kernel refuses any hard limit above `fs.nr_open`, also one that was granted before `fs.nr_open` was lowered, and
    opens no descriptor above it; the limit is then brought down to it. Where that is refused as well, it stays as it
    was.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _nr_open() // _TABLE_STEP * _TABLE_STEP
    wanted = hard if 0 <= hard <= most or not most else most
    if wanted != soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (OSError, ValueError):
            pass
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def prefer_as_oom_victim(score: int = 900) -> None:
    """Make this process the first to be killed when memory runs out, so that the notebook is not.

    Args:
        score: -1000 (never) to 1000 (first); raising it needs no privilege. A refusal is ignored.
    """
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError:
        pass


def lower_priority(nice: int) -> None:
    """Add `nice` to this process's niceness; a refusal is ignored."""
    try:
        os.nice(nice)
    except OSError:
        pass


def adopt_orphans() -> None:
    """Become the parent of processes below this one whose own parent ends, so that none of them can get away."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, or at once when it has died already; for after a fork.

    Args:
        parent: pid of the parent.
    """
    _prctl(_PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    import ctypes  # Shards and workers do without it.

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or None when there is no such process.

    The value does not change while the process lives. A zombie still has one.
    """
    fields = _stat_fields(pid)
    return int(fields[_START_TICKS]) if fields else None


def alive(pid: int, ticks: int) -> bool:
    """Return whether the process with this pid and start time still runs; a zombie does not."""
    fields = _stat_fields(pid)
    return bool(fields) and int(fields[_START_TICKS]) == ticks and fields[_STATE] not in _DEAD_STATES


def user_of(pid: int) -> int | None:
    """Return the real uid of a process, or None when there is no such process.

    It is not the owner of /proc/PID, which is root for every process that has changed its user.
    """
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            text = file.read(4096)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text[text.index(b"\nUid:") :].split(None, 2)[1])


def _stat_fields(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat that follow the command, or nothing when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read(4096)
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The command may contain spaces and brackets, so only the last bracket ends it.
    return text[text.rindex(b")") + 1 :].split()


def _nr_open() -> int:
    try:
        with open("/proc/sys/fs/nr_open", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def release_text(library: str) -> None:
    """Give back the pages of a library's code and constants; what is still used comes back from its file.

    A compiler takes some 80 MB of them while it starts and is not needed again. Pages that were written to stay: code
    is never written to, and of the rest the kernel reclaims only what is as in the file. A refusal is ignored.

    Args:
        library: part of the library's file name.
    """
    import ctypes  # Whoever has such a library has loaded this as well.

    libc = ctypes.CDLL(None)
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        lines = [line.split(None, 5) for line in file]
    for span, mode, *rest in lines:
        if mode[1] == "-" and library in os.path.basename(rest[-1].strip()):
            start, end = (int(part, 16) for part in span.split("-"))
            advice = _MADV_DONTNEED if mode[2] == "x" else _MADV_PAGEOUT
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)
