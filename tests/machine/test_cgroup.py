"""The limits of control groups, in trees of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from wslab.machine.cgroup import CgroupLimits, CpuQuota, read_cgroup, read_quotas

DATA = Path(__file__).parents[1] / "data"
GIB = 1 << 30


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
