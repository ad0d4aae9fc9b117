"""Control groups in trees of both versions: the limits of a process, and where groups of our own are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from wslab.machine.cgroup import CgroupLimits, CpuQuota, groups_for, read_cgroup, read_quotas

DATA = Path(__file__).parents[1] / "data"
GIB = 1 << 30
QUOTA = {"pids": {"swarm": 5}, "cpu": {"server": 0.05, "swarm": 1.5}}
BOUND = {"memory": {"server": 64 << 20}, "pids": {"server": 9, "swarm": 5}}


def read_tree(name: str) -> CgroupLimits:
    return read_cgroup(DATA / name / "proc", DATA / name / "cgroup")


def make(root: Path, membership: str, files: dict[str, str]) -> CgroupLimits:
    for name, text in {
        "proc/self/cgroup": membership,
        **{f"cgroup/{name}": text for name, text in files.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return read_cgroup(root / "proc", root / "cgroup")


def test_the_ancestor_with_the_least_room_counts_not_the_smallest_limit() -> None:
    found = read_tree("proc-cgroup2")
    assert found.version == 2
    # Of the 7 GiB in use 1 GiB is file cache that would be dropped first.
    assert (found.memory_limit_bytes, found.memory_used_bytes) == (8 * GIB, 6 * GIB)
    assert (found.pids_limit, found.pids_used) == (84000, 850)
    assert found.cpus == 4.0


def test_a_container_finds_its_limits_at_the_mount() -> None:
    found = read_tree("proc-container")
    assert (found.memory_limit_bytes, found.memory_used_bytes) == (2 * GIB, GIB - GIB // 4)
    assert (found.pids_limit, found.cpus) == (512, 1.5)


def test_the_quotas_of_a_process_are_those_of_its_group_and_of_all_above_it(tmp_path: Path) -> None:
    for name, text in {
        "proc/42/cgroup": "2:cpu,cpuacct:/jobs/one/inner\n0::/jobs\n",
        "cgroup/cpu/jobs/one/inner/cpu.cfs_quota_us": "-1\n",
        "cgroup/cpu/jobs/one/inner/cpu.cfs_period_us": "100000\n",
        "cgroup/cpu/jobs/one/cpu.cfs_quota_us": "1000\n",
        "cgroup/cpu/jobs/one/cpu.cfs_period_us": "20000\n",
        "cgroup/cpu/jobs/cpu.cfs_quota_us": "150000\n",
        "cgroup/cpu/jobs/cpu.cfs_period_us": "100000\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    jobs = tmp_path / "cgroup/cpu/jobs"
    assert read_quotas(42, tmp_path / "proc", tmp_path / "cgroup") == [
        CpuQuota(folder=jobs / "one", cpus=0.05, period_seconds=0.02),
        CpuQuota(folder=jobs, cpus=1.5, period_seconds=0.1),
    ]
    assert read_quotas(43, tmp_path / "proc", tmp_path / "cgroup") == []


def test_version_one_without_limits_shows_none() -> None:
    found = read_tree("proc-cgroup1")
    assert found.version == 1
    assert (found.memory_limit_bytes, found.memory_used_bytes, found.pids_limit, found.cpus) == (None,) * 4


def test_version_one_limits_are_found_under_their_joined_mount(tmp_path: Path) -> None:
    found = make(
        tmp_path,
        "3:memory:/jobs/one\n2:cpu,cpuacct:/jobs\n1:pids:/jobs/one\n",
        {
            "memory/jobs/one/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/jobs/one/memory.usage_in_bytes": "1000\n",
            "memory/jobs/memory.limit_in_bytes": "4096000\n",
            "memory/jobs/memory.usage_in_bytes": "3000000\n",
            "memory/jobs/memory.stat": "cache 9\ninactive_file 1\ntotal_inactive_file 1000000\n",
            "cpu,cpuacct/jobs/cpu.cfs_quota_us": "250000\n",
            "cpu,cpuacct/jobs/cpu.cfs_period_us": "100000\n",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "pids/jobs/one/pids.max": "64\n",
            "pids/jobs/one/pids.current": "3\n",
        },
    )
    assert found == CgroupLimits(
        version=1, memory_limit_bytes=4096000, memory_used_bytes=2000000, pids_limit=64, pids_used=3, cpus=2.5
    )


def test_a_container_that_sees_the_path_of_its_host_finds_its_limits_at_the_mount(tmp_path: Path) -> None:
    found = make(
        tmp_path,
        "4:memory:/docker/0123abcd\n",
        {"memory/memory.limit_in_bytes": "2147483648\n", "memory/memory.usage_in_bytes": "1000\n"},
    )
    assert (found.memory_limit_bytes, found.memory_used_bytes) == (2 * GIB, 1000)


def test_a_group_outside_of_the_namespace_falls_back_to_the_mount(tmp_path: Path) -> None:
    found = make(tmp_path, "0::/../other\n", {"memory.max": "4096\n", "other/memory.max": "1\n"})
    assert found.memory_limit_bytes == 4096


def test_with_both_versions_each_controller_is_found_in_its_own_tree(tmp_path: Path) -> None:
    found = make(
        tmp_path,
        "2:memory:/\n0::/task\n",
        {"memory/memory.limit_in_bytes": "8192\n", "unified/task/pids.max": "9\n", "unified/task/pids.current": "1\n"},
    )
    assert (found.version, found.memory_limit_bytes, found.pids_limit) == (1, 8192, 9)


def test_a_machine_without_cgroups_has_no_limits(tmp_path: Path) -> None:
    assert read_cgroup(tmp_path / "proc", tmp_path / "cgroup").version is None


@pytest.mark.parametrize(("name", "text"), [("memory.max", "lots\n"), ("cpu.max", "fast 100000\n"), ("pids.max", "\n")])
def test_a_malformed_limit_is_refused_by_name(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=name):
        make(tmp_path, "0::/\n", {name: text})


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
    groups = groups_for(BOUND, "wslab-1", version_1(tmp_path))
    assert [(group.role, str(group.path.relative_to(tmp_path)), group.bounds) for group in groups] == [
        ("server", "memory/wslab-1-server", (("memory.limit_in_bytes", 64 << 20),)),
        ("server", "pids/wslab-1-server", (("pids.max", 9),)),
        ("swarm", "pids/wslab-1-swarm", (("pids.max", 5),)),
    ]


def test_in_version_2_a_role_has_one_group(tmp_path: Path) -> None:
    groups = groups_for(BOUND, "wslab-1", version_2(tmp_path, "memory pids"))
    assert [(group.role, group.path.name, group.bounds) for group in groups] == [
        ("server", "wslab-1-server", (("memory.max", 64 << 20), ("pids.max", 9))),
        ("swarm", "wslab-1-swarm", (("pids.max", 5),)),
    ]


def test_a_cpu_quota_is_two_files_in_version_1_the_period_first(tmp_path: Path) -> None:
    groups = groups_for(QUOTA, "wslab-1", version_1(tmp_path))
    assert [(group.role, str(group.path.relative_to(tmp_path)), group.bounds) for group in groups] == [
        ("swarm", "pids/wslab-1-swarm", (("pids.max", 5),)),
        ("server", "cpu/wslab-1-server", (("cpu.cfs_period_us", 20_000), ("cpu.cfs_quota_us", 1000))),
        ("swarm", "cpu/wslab-1-swarm", (("cpu.cfs_period_us", 20_000), ("cpu.cfs_quota_us", 30_000))),
    ]


def test_a_cpu_quota_is_one_text_in_version_2(tmp_path: Path) -> None:
    groups = groups_for(QUOTA, "wslab-1", version_2(tmp_path, "cpu pids"))
    assert [(group.role, group.path.name, group.bounds) for group in groups] == [
        ("swarm", "wslab-1-swarm", (("pids.max", 5), ("cpu.max", "30000 20000"))),
        ("server", "wslab-1-server", (("cpu.max", "1000 20000"),)),
    ]


def test_a_controller_that_is_not_handed_down_is_named_with_the_command_that_does_it(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match=r"memory controller is not enabled in .* echo \+memory \| sudo tee"):
        groups_for(BOUND, "wslab-1", version_2(tmp_path, "pids"))


def test_a_machine_without_control_groups_says_so_only_when_they_are_asked_for(tmp_path: Path) -> None:
    assert groups_for({"memory": {}}, "wslab-1", tmp_path) == []
    with pytest.raises(FileNotFoundError, match="memory controller of control groups is not there"):
        groups_for(BOUND, "wslab-1", tmp_path)
