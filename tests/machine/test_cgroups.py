"""Control groups of our own: where they would be made, in captured trees of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from wslab.breaks.enclosure import Enclosure
from wslab.breaks.groups import groups_of

QUOTA = Enclosure(cpu_quota={"server": 0.05, "swarm": 1.5}, processes={"swarm": 5})
BOUND = Enclosure(memory_bytes={"server": 64 << 20}, processes={"server": 9, "swarm": 5})


def version_1(root: Path) -> Path:
    for controller in ("memory", "pids", "cpu"):
        (root / controller).mkdir()
        (root / controller / "cgroup.procs").touch()
    return root


def version_2(root: Path, handed_down: str) -> Path:
    (root / "cgroup.controllers").write_text("cpu memory pids\n", "ascii")
    (root / "cgroup.subtree_control").write_text(f"{handed_down}\n", "ascii")
    return root


def test_in_version_1_a_role_has_a_group_in_the_tree_of_each_controller(tmp_path: Path) -> None:
    groups = groups_of(BOUND, "wslab-1", version_1(tmp_path))
    assert [(group.role, str(group.path.relative_to(tmp_path)), group.bounds) for group in groups] == [
        ("server", "memory/wslab-1-server", (("memory.limit_in_bytes", 64 << 20),)),
        ("server", "pids/wslab-1-server", (("pids.max", 9),)),
        ("swarm", "pids/wslab-1-swarm", (("pids.max", 5),)),
    ]


def test_in_version_2_a_role_has_one_group(tmp_path: Path) -> None:
    groups = groups_of(BOUND, "wslab-1", version_2(tmp_path, "memory pids"))
    assert [(group.role, group.path.name, group.bounds) for group in groups] == [
        ("server", "wslab-1-server", (("memory.max", 64 << 20), ("pids.max", 9))),
        ("swarm", "wslab-1-swarm", (("pids.max", 5),)),
    ]


def test_a_cpu_quota_is_two_files_in_version_1_the_period_first(tmp_path: Path) -> None:
    groups = groups_of(QUOTA, "wslab-1", version_1(tmp_path))
    assert [(group.role, str(group.path.relative_to(tmp_path)), group.bounds) for group in groups] == [
        ("swarm", "pids/wslab-1-swarm", (("pids.max", 5),)),
        ("server", "cpu/wslab-1-server", (("cpu.cfs_period_us", 20_000), ("cpu.cfs_quota_us", 1000))),
        ("swarm", "cpu/wslab-1-swarm", (("cpu.cfs_period_us", 20_000), ("cpu.cfs_quota_us", 30_000))),
    ]


def test_a_cpu_quota_is_one_text_in_version_2(tmp_path: Path) -> None:
    groups = groups_of(QUOTA, "wslab-1", version_2(tmp_path, "cpu pids"))
    assert [(group.role, group.path.name, group.bounds) for group in groups] == [
        ("swarm", "wslab-1-swarm", (("pids.max", 5), ("cpu.max", "30000 20000"))),
        ("server", "wslab-1-server", (("cpu.max", "1000 20000"),)),
    ]


def test_a_controller_that_is_not_handed_down_is_named_with_the_command_that_does_it(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match=r"memory controller is not handed down by .* echo \+memory \| sudo tee"):
        groups_of(BOUND, "wslab-1", version_2(tmp_path, "pids"))


def test_a_machine_without_control_groups_says_so_only_when_they_are_asked_for(tmp_path: Path) -> None:
    assert groups_of(Enclosure(fd_limit={"server": 300}), "wslab-1", tmp_path) == []
    with pytest.raises(FileNotFoundError, match="memory controller of control groups is not there"):
        groups_of(BOUND, "wslab-1", tmp_path)
