"""What the cgroups of a process allow it: memory, processes and CPU.

1. A group is bound by all groups above it, so each limit is looked for from the process's own group up to the mount.
2. The ancestor that counts is the one with the least room left, not the one with the smallest limit.
3. Version 1 has a tree a controller, version 2 one tree for all, and a machine may have both: each controller is
   looked for in its own tree first, then in the unified one.
4. In a container the path in `/proc/self/cgroup` may be the host's, and the mount may start at the container's own
   group. The walk upwards then passes folders that are not there and finds the limits at the mount.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wslab.machine.files import read_text
from wslab.machine.formats import naming, parse_cgroup

CGROUPS = Path("/sys/fs/cgroup")

# Version 1 has no word for "unlimited": it shows the largest page-aligned number that fits.
_V1_UNLIMITED = 1 << 62

# Limit, use and the line of memory.stat with the cache that yields at once: version 2, then version 1.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLimits:
    """The limits in force; None where there is none.

    Attributes:
        version: 1 or 2 by the tree that has the memory controller, None without cgroups.
        memory_limit_bytes: the most memory the tightest group may use.
        memory_used_bytes: what that group uses now, without the file cache that would be dropped first.
        pids_limit: the most processes and threads in the tightest group.
        pids_used: how many that group has now.
        cpus: CPU time a second, in CPUs.
    """

    version: int | None
    memory_limit_bytes: int | None
    memory_used_bytes: int | None
    pids_limit: int | None
    pids_used: int | None
    cpus: float | None


@dataclass(frozen=True, slots=True)
class CpuQuota:
    """The CPU time that a group may use.

    Attributes:
        folder: the group.
        cpus: CPU time a second, in CPUs.
        period_seconds: what the quota is given for; who has used it up waits for the next one.
    """

    folder: Path
    cpus: float
    period_seconds: float


def read_cgroup(proc: Path = Path("/proc"), cgroups: Path = CGROUPS) -> CgroupLimits:
    """Read the limits of the current process.

    Args:
        proc: where /proc is.
        cgroups: where the cgroup tree or trees are mounted.
    """
    groups = _groups("self", proc)
    memory = _tightest([_memory(group) for group in _upwards("memory", groups, cgroups)])
    pids = _tightest(
        [(_number(group / "pids.max"), _number(group / "pids.current")) for group in _upwards("pids", groups, cgroups)]
    )
    return CgroupLimits(
        version=1 if "memory" in groups else 2 if "" in groups else None,
        memory_limit_bytes=memory[0],
        memory_used_bytes=memory[1],
        pids_limit=pids[0],
        pids_used=pids[1],
        cpus=min((quota.cpus for quota in _quotas(groups, cgroups)), default=None),
    )


def read_quotas(pid: int | str, proc: Path = Path("/proc"), cgroups: Path = CGROUPS) -> list[CpuQuota]:
    """Return the CPU quotas that bind a process: that of its own group first, then those of the groups above it."""
    return _quotas(_groups(pid, proc), cgroups)


def _groups(pid: int | str, proc: Path) -> dict[str, tuple[str, str]]:
    text = read_text(proc / str(pid) / "cgroup")
    return {} if text is None else parse_cgroup(text)


def _quotas(groups: dict[str, tuple[str, str]], cgroups: Path) -> list[CpuQuota]:
    found = (_quota(group) for group in _upwards("cpu", groups, cgroups))
    return [quota for quota in found if quota is not None]


def _upwards(controller: str, groups: dict[str, tuple[str, str]], cgroups: Path) -> list[Path]:
    """Return the folders that may limit this process, its own group first and the mount last."""
    if controller in groups:
        joined, path = groups[controller]
        # Distributions mount cpu and cpuacct together and link each name to the folder; minimal ones do not link.
        mount = next((cgroups / name for name in (controller, joined) if (cgroups / name).is_dir()), None)
    elif "" in groups:
        path = groups[""][1]
        mount = cgroups / "unified" if (cgroups / "unified").is_dir() else cgroups
    else:
        mount = None
    if mount is None:
        return []
    # A group outside of our namespace is shown as /../name: nothing of it can be seen from here but the mount.
    parts = [] if "/.." in path else [part for part in path.split("/") if part]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _tightest(pairs: list[tuple[int | None, int | None]]) -> tuple[int | None, int | None]:
    """Return the (limit, used) with the least room left, or two Nones where nothing is limited."""
    limited = [(limit, used) for limit, used in pairs if limit is not None]
    return min(limited, key=lambda pair: pair[0] - (pair[1] or 0), default=(None, None))


def _memory(group: Path) -> tuple[int | None, int | None]:
    for limit_file, used_file, cache_line in _MEMORY_FILES:
        limit, used = _number(group / limit_file), _number(group / used_file)
        if limit is None or limit >= _V1_UNLIMITED:
            continue
        stat = dict(line.split(None, 1) for line in (read_text(group / "memory.stat") or "").splitlines())
        return limit, None if used is None else max(0, used - int(stat.get(cache_line, 0)))
    return None, None


def _quota(group: Path) -> CpuQuota | None:
    quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    text = read_text(group / "cpu.max")
    if text is not None:
        words = text.split()
        quota, period = naming(str(group / "cpu.max"))(_or_unlimited)(words[0]), int(words[1])
    if quota is None or quota <= 0 or not period:
        return None
    return CpuQuota(folder=group, cpus=quota / period, period_seconds=period / 1e6)


def _number(path: Path) -> int | None:
    """Return the number in a file; None where it is absent or says that there is no limit."""
    text = read_text(path)
    return None if text is None else naming(str(path))(_or_unlimited)(text)


def _or_unlimited(text: str) -> int | None:
    return None if text.strip() == "max" else int(text)
