"""Control groups of our own: where they can be made, and the files that bind them.

1. They are made directly below the mount of each controller, beside the groups of the machine.
2. Version 1 has a tree a controller, so a role may get two groups; version 2 has one tree.
3. In version 2 the mount must have handed the controllers down. That is never changed here: to take it back later
   could lift the bounds of groups that are not ours.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from wslab.core.enclosure import ROLES, Enclosure
from wslab.machine.cgroup import CGROUPS
from wslab.machine.files import read_text

# Controller, the bound's name in version 1, in version 2.
_BOUNDS = (
    ("memory", "memory.limit_in_bytes", "memory.max"),
    ("pids", "pids.max", "pids.max"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A control group to be made.

    Attributes:
        role: who is put into it.
        path: its folder.
        bounds: files in it and what is written to them.
    """

    role: str
    path: Path
    bounds: tuple[tuple[str, int], ...]

    def make(self) -> None:
        """Make the group and bind it."""
        self.path.mkdir()
        for name, value in self.bounds:
            # An existing file of the kernel's only: in a wrong place this must fail, not create.
            descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, str(value).encode())
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
    groups: dict[tuple[str, Path], list[tuple[str, int]]] = {}
    for controller, file_1, file_2 in _BOUNDS:
        wanted = {"memory": enclosure.memory_bytes, "pids": enclosure.processes}[controller]
        for role in (role for role in ROLES if role in wanted):
            tree, version = _tree(controller, cgroups)
            folder = tree / f"{name}-{role}"
            groups.setdefault((role, folder), []).append((file_1 if version == 1 else file_2, wanted[role]))
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
