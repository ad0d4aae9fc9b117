"""Control groups of our own: where they can be made, and the files that bind them.

1. They are made directly below the mount of each controller, beside the groups of the machine.
2. Version 1 has a tree a controller, so a role may get two groups; version 2 has one tree.
3. In version 2 the mount must have handed the controllers down. That is never changed here: to take it back later
   could lift the bounds of groups that are not ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wslab.breaks.enclosure import ROLES, Enclosure
from wslab.machine.cgroup import CGROUPS
from wslab.machine.files import read_text

# What a quota is given for. The kernel's own choice is 100 ms, for most of which a small quota stops everything: echoes
# come in bursts, and a window of 0.2 s sees two periods. With 20 ms it sees ten, and 0.05 CPUs are still the 1 ms that
# the kernel takes for the least quota.
CPU_PERIOD_US = 20_000

# A file of a group, and what is written to it.
Bound = tuple[str, int | str]


def _number_in(file: str) -> Callable[[float], tuple[Bound, ...]]:
    return lambda value: ((file, int(value)),)


def _quota_1(cpus: float) -> tuple[Bound, ...]:
    return (("cpu.cfs_period_us", CPU_PERIOD_US), ("cpu.cfs_quota_us", round(cpus * CPU_PERIOD_US)))


def _quota_2(cpus: float) -> tuple[Bound, ...]:
    return (("cpu.max", f"{round(cpus * CPU_PERIOD_US)} {CPU_PERIOD_US}"),)


# Controller, the field of an enclosure, how it is written in version 1, in version 2.
_BOUNDS = (
    ("memory", "memory_bytes", _number_in("memory.limit_in_bytes"), _number_in("memory.max")),
    ("pids", "processes", _number_in("pids.max"), _number_in("pids.max")),
    ("cpu", "cpu_quota", _quota_1, _quota_2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A control group to be made.

    Attributes:
        role: who is put into it.
        path: its folder.
        bounds: files in it and what is written to them, in this order.
    """

    role: str
    path: Path
    bounds: tuple[Bound, ...]

    def make(self) -> None:
        """Make the group and bind it."""
        self.path.mkdir()
        for name, value in self.bounds:
            # An existing file of the kernel's only: in a wrong place this must fail, not create.
            descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, str(value).encode())
            except OSError as problem:
                raise OSError(f"{self.path / name} = {value} is refused by the kernel: {problem.strerror}") from problem
            finally:
                os.close(descriptor)


def groups_of(enclosure: Enclosure, name: str, cgroups: Path = CGROUPS) -> list[Group]:
    """Return the groups that an enclosure takes; none of them is made yet.

    Args:
        enclosure: the bounds.
        name: what the names of the groups begin with.
        cgroups: where the cgroup trees are mounted.

    Raises:
        OSError: this machine has no place for them; the text says why in one line.
    """
    groups: dict[tuple[str, Path], list[Bound]] = {}
    for controller, field, written_1, written_2 in _BOUNDS:
        wanted = getattr(enclosure, field)
        for role in (role for role in ROLES if role in wanted):
            tree, version = _tree(controller, cgroups)
            folder = tree / f"{name}-{role}"
            written = written_1 if version == 1 else written_2
            groups.setdefault((role, folder), []).extend(written(wanted[role]))
    return [Group(role=role, path=path, bounds=tuple(bounds)) for (role, path), bounds in groups.items()]


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
            f"the {controller} controller is not handed down by {unified}; "
            f"if its groups are yours: echo +{controller} | sudo tee {unified}/cgroup.subtree_control"
        )
    return _writable(unified), 2


def _writable(tree: Path) -> Path:
    if not os.access(tree, os.W_OK):
        raise PermissionError(f"no control group can be made in {tree}")
    return tree
