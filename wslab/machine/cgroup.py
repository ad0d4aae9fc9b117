"""Control groups: the limits that those of a process set, and groups of our own, made and removed.

Reading:

1. A group is bound by all groups above it, so each limit is looked for from the process's own group up to the mount.
2. The ancestor that counts is the one with the least room left, not the one with the smallest limit.
3. Version 1 has a tree a controller, version 2 one tree for all, and a machine may have both: each controller is
   looked for in its own tree first, then in the unified one.
4. In a container the path in `/proc/self/cgroup` may be the host's, and the mount may start at the container's own
   group. The walk upwards then passes folders that are not there and finds the limits at the mount.

Making:

5. Groups are made directly below the mount of each controller, beside the groups of the machine. So a name is enough
   to find one again.
6. Version 1 has a tree a controller, so that a role may get two groups; version 2 has one tree.
7. In version 2 the controllers must be enabled in `cgroup.subtree_control` of the mount. That is never changed here:
   disabling them again later could lift the limits of groups that are not ours.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from wslab.machine.files import read_text
from wslab.machine.formats import naming, parse_cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CGROUPS = Path("/sys/fs/cgroup")

# The period of a quota. During most of the kernel's default of 100 ms a small quota stops everything: echoes come in
# bursts, and a window of 0.2 s has two periods. With 20 ms it has ten, and 0.05 CPUs are still 1 ms, the kernel's least
# quota.
CPU_PERIOD_US = 20_000

# A process that was killed leaves its control group when the kernel has torn it down, sockets first.
REMOVE_SECONDS = 3.0
_POLL_SECONDS = 0.02

# Version 1 has no word for "unlimited": it shows the largest page-aligned number that fits.
_V1_UNLIMITED = 1 << 62

# Limit, use and the line of memory.stat with the cache that is dropped first: version 2, then version 1.
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
        period_seconds: how often the quota is given; a group that has used it waits for the next period.
    """

    folder: Path
    cpus: float
    period_seconds: float


def read_cgroup(proc: Path = Path("/proc"), cgroups: Path = CGROUPS, pid: int | str = "self") -> CgroupLimits:
    """Read the limits of a process.

    Args:
        proc: where /proc is.
        cgroups: where the cgroup tree or trees are mounted.
        pid: the process; the current one unless given.
    """
    groups = _groups(pid, proc)
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
    # A group outside of our namespace is shown as /../name: only the mount can be seen from here.
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


# A file of a group, and what is written to it.
Bound = tuple[str, int | str]


def _number_to(file: str) -> Callable[[float], tuple[Bound, ...]]:
    return lambda value: ((file, int(value)),)


def _quota_1(cpus: float) -> tuple[Bound, ...]:
    return (("cpu.cfs_period_us", CPU_PERIOD_US), ("cpu.cfs_quota_us", round(cpus * CPU_PERIOD_US)))


def _quota_2(cpus: float) -> tuple[Bound, ...]:
    return (("cpu.max", f"{round(cpus * CPU_PERIOD_US)} {CPU_PERIOD_US}"),)


# The controllers that groups are made of: how a bound is written in version 1, and in version 2.
_CONTROLLERS = {
    "memory": (_number_to("memory.limit_in_bytes"), _number_to("memory.max")),
    "pids": (_number_to("pids.max"), _number_to("pids.max")),
    "cpu": (_quota_1, _quota_2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A control group to be made.

    Attributes:
        role: the processes that are put into it, such as `server`.
        path: its folder.
        bounds: files in it and what is written to them, in this order.
    """

    role: str
    path: Path
    bounds: tuple[Bound, ...]

    def make(self) -> None:
        """Make the group and bind it.

        Raises:
            OSError: the kernel refuses; the text says what.
        """
        self.path.mkdir()
        for name, value in self.bounds:
            # Without O_CREAT: in a wrong place this must fail and not create a file.
            descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, str(value).encode())
            except OSError as problem:
                raise OSError(f"{self.path / name} = {value} is refused by the kernel: {problem.strerror}") from problem
            finally:
                os.close(descriptor)


def groups_for(bounds: Mapping[str, Mapping[str, float]], name: str, cgroups: Path = CGROUPS) -> list[Group]:
    """Return the groups that these bounds need; none of them is made yet.

    Args:
        bounds: controller (`memory` in bytes, `pids`, `cpu` in CPUs), role, and the most that it may have.
        name: what the names of the groups begin with.
        cgroups: where the cgroup trees are mounted.

    Raises:
        OSError: this machine has no place for them; the text says why in one line.
    """
    groups: dict[tuple[str, Path], list[Bound]] = {}
    for controller, wanted in bounds.items():
        for role in sorted(wanted):
            tree, version = _tree(controller, cgroups)
            written = _CONTROLLERS[controller][version - 1]
            groups.setdefault((role, tree / f"{name}-{role}"), []).extend(written(wanted[role]))
    return [Group(role=role, path=path, bounds=tuple(bounds)) for (role, path), bounds in groups.items()]


def remove_groups(name: str, cgroups: Path | None = None) -> None:
    """Remove the groups of this name in every tree that groups are made in; those that are not there are no error.

    Args:
        name: their name.
        cgroups: where the cgroup trees are mounted; None for this machine's.

    Raises:
        OSError: one has not become empty in time.
    """
    root = cgroups or CGROUPS
    deadline = time.monotonic() + REMOVE_SECONDS
    for tree in (*_CONTROLLERS, "unified", ""):
        while (root / tree / name).is_dir():
            try:
                os.rmdir(root / tree / name)
            except FileNotFoundError:
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL_SECONDS)


def _tree(controller: str, cgroups: Path) -> tuple[Path, int]:
    """Return where groups with this controller are made, and the version."""
    own = cgroups / controller
    if (own / "cgroup.procs").exists():
        return _writable(own), 1
    unified = cgroups / "unified" if (cgroups / "unified").is_dir() else cgroups
    offered = (read_text(unified / "cgroup.controllers") or "").split()
    if controller not in offered:
        raise FileNotFoundError(f"the {controller} controller of control groups is not there, see {unified}")
    if controller not in (read_text(unified / "cgroup.subtree_control") or "").split():
        raise PermissionError(
            f"the {controller} controller is not enabled in cgroup.subtree_control of {unified}; "
            f"if its groups are yours: echo +{controller} | sudo tee {unified}/cgroup.subtree_control"
        )
    return _writable(unified), 2


def _writable(tree: Path) -> Path:
    if not os.access(tree, os.W_OK):
        raise PermissionError(f"no control group can be made in {tree}")
    return tree
