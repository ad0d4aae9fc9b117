"""Reading whole trees of /proc: captured ones, this machine's, and empty ones."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wslab.machine import procfs

DATA = Path(__file__).parents[1] / "data"
CAPTURED = DATA / "proc-cgroup1/proc"

_KEYS = """
    fd_soft fd_hard nr_open file_max file_used port_low port_high ports_reserved ports_taken
    somaxconn syn_backlog syncookies conntrack_max conntrack_count
    conntrack_buckets epoll_watches_max memory_total_bytes memory_headroom_bytes
    memory_cgroup_limit_bytes memory_cgroup_used_bytes cgroup_version tcp_mem_pages_low tcp_mem_pages_pressure
    tcp_mem_pages_high pid_max threads_max nproc_soft pids_cgroup_max pids_cgroup_used
    netdev_max_backlog time_wait cpu_count cpu_quota uid kernel cpu_model page_bytes
"""
# Where the load runs is found out by who makes its place, and what its server has once that runs.
HOST_KEYS = {*_KEYS.split(), "conntrack_tracking", "memory_cgroup_of"}
HOST_KEYS |= {"server_fd_limit", "server_fds_free", "server_processes", "server_backlog", "server_uid"}

READERS: list[Callable[[Path], object]] = [
    procfs.read_meminfo,
    procfs.read_vmstat,
    procfs.read_file_nr,
    procfs.read_sockstat,
    lambda root: procfs.read_pss("self", root),
    lambda root: procfs.read_status(root=root),
    lambda root: procfs.read_limits(root=root),
]


def read_tree(name: str) -> dict[str, int | float | str | None]:
    return procfs.read_host(DATA / name / "proc", DATA / name / "cgroup").as_dict()


@pytest.mark.parametrize("read", READERS)
def test_every_reader_reads_the_captured_tree(read: Callable[[Path], object]) -> None:
    assert read(CAPTURED) is not None


@pytest.mark.parametrize("read", READERS)
def test_every_reader_gives_none_where_its_file_is_missing(read: Callable[[Path], object], tmp_path: Path) -> None:
    assert read(tmp_path) is None


def test_the_captured_tree_shows_what_the_files_say() -> None:
    assert "oom_kill" in procfs.read_vmstat(CAPTURED)
    assert procfs.read_limits(root=CAPTURED)["Max open files"] == (20000, 20000)


def test_headroom_is_free_memory_and_file_cache_without_shared_memory() -> None:
    table = {"MemFree": 100, "Buffers": 10, "Cached": 50, "Shmem": 20, "MemAvailable": 999}
    assert procfs.headroom_bytes(table) == 140


def test_the_host_of_the_captured_tree() -> None:
    host = read_tree("proc-cgroup1")
    assert host.keys() == HOST_KEYS
    assert (host["fd_soft"], host["fd_hard"], host["nr_open"]) == (20000, 20000, 1048576)
    assert (host["port_low"], host["port_high"], host["somaxconn"]) == (32768, 60999, 4096)
    assert (host["conntrack_max"], host["conntrack_buckets"]) == (262144, 262144)
    assert (host["cpu_count"], host["uid"], host["cpu_model"]) == (2, 0, "AMD EPYC")
    assert host["cgroup_version"] == 1


def test_the_host_of_a_desktop_with_cgroup_two() -> None:
    host = read_tree("proc-cgroup2")
    assert host.keys() == HOST_KEYS
    assert (host["fd_soft"], host["fd_hard"], host["nproc_soft"]) == (1024, 524288, 127000)
    assert (host["cpu_count"], host["uid"], host["kernel"]) == (8, 1000, "6.8.0-45-generic")
    assert host["memory_headroom_bytes"] == (9000000 + 400000 + 12000000 - 500000) * 1024
    assert host["time_wait"] == 12
    assert host["conntrack_max"] is None


def test_the_host_of_a_container_has_gaps_and_no_guesses() -> None:
    host = read_tree("proc-container")
    assert host.keys() == HOST_KEYS
    assert [host[key] for key in ("tcp_mem_pages_high", "netdev_max_backlog", "cpu_model", "nproc_soft")] == [None] * 4
    assert (host["memory_cgroup_limit_bytes"], host["pids_cgroup_max"], host["cpu_quota"]) == (2 << 30, 512, 1.5)


def test_an_empty_machine_has_every_key_and_no_value(tmp_path: Path) -> None:
    host = procfs.read_host(tmp_path, tmp_path).as_dict()
    assert host.keys() == HOST_KEYS
    assert {key for key, value in host.items() if value is not None} == {"page_bytes"}


def test_this_machine_agrees_with_what_the_system_calls_say() -> None:
    host = procfs.read_host().as_dict()
    assert (host["fd_soft"], host["fd_hard"]) == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert host["cpu_count"] == len(os.sched_getaffinity(0))
    assert host["uid"] == os.geteuid()
    assert host["kernel"] == os.uname().release


def test_reading_the_host_is_quick_enough_for_a_prompt() -> None:
    def seconds() -> float:
        before = time.process_time()
        procfs.read_host()
        return time.process_time() - before

    assert min(seconds() for _ in range(5)) < 0.05


def test_wrong_count_of_numbers_is_refused_by_the_name_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "tcp_mem").write_text("1 2\n")
    with pytest.raises(ValueError, match="malformed tcp_mem"):
        procfs.read_ints("tcp_mem", 3, tmp_path)


def test_descriptors_are_counted_without_listing_them() -> None:
    if os.stat("/proc/self/fd").st_size == 0:
        pytest.skip("Linux before 6.2 does not tell")
    before = procfs.read_fd_count("self")
    reader, writer = os.pipe()
    assert procfs.read_fd_count("self") == before + 2
    os.close(reader)
    os.close(writer)


def test_a_process_that_has_ended_reads_as_none() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    assert procfs.read_fd_count(child.pid) is None
    assert procfs.read_pss(child.pid) is None


@pytest.mark.parametrize(
    ("text", "reserved"), [("\n", 0), ("32768-38767\n", 6000), ("80,32768,60990-61010\n", 11), ("1-32767\n", 0)]
)
def test_reserved_ports_are_counted_where_they_are_in_the_range(tmp_path: Path, text: str, reserved: int) -> None:
    folder = tmp_path / "sys/net/ipv4"
    folder.mkdir(parents=True)
    (folder / "ip_local_port_range").write_text("32768\t60999\n", "ascii")
    (folder / "ip_local_reserved_ports").write_text(text, "ascii")
    host = procfs.read_host(tmp_path, tmp_path)
    assert (host.ports_reserved, host.ports_taken) == (reserved, None)


def test_a_listener_takes_a_port_of_the_range_from_connect() -> None:
    before = procfs.read_host().ports_taken
    with socket.create_server(("127.0.0.1", 0)):
        taken = procfs.read_host().ports_taken
    assert before is not None
    assert taken is not None
    assert taken >= 1
