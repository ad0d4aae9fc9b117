"""Processes watched from outside: in a made tree of /proc, and real children."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wslab.machine.formats import PAGE_BYTES, TICKS_PER_SECOND
from wslab.machine.processes import Group


class FakeProc:
    """A tree of /proc in which the test says how processes fare."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(
        self, pid: int, *, user: int = 0, system: int = 0, pages: int = 0, pss_kib: int = 0, state: str = "S"
    ) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(f"{pid} (x) {state} {'0 ' * 10}{user} {system} {'0 ' * 20}\n")
        (folder / "statm").write_text(f"9 {pages} 0 0 0 0 0\n")
        (folder / "smaps_rollup").write_text(f"Pss: {pss_kib} kB\n")


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()


def test_a_group_adds_up_its_processes(proc: FakeProc) -> None:
    proc.put(1, user=100, system=50, pages=10, pss_kib=3)
    proc.put(2, user=10, system=5, pages=1, pss_kib=4)
    group = Group(proc.root)
    found = group.read([1, 2], 0.0)
    assert found["processes"] == 2
    assert found["cpu_user_seconds"] == 110 / TICKS_PER_SECOND
    assert found["cpu_system_seconds"] == 55 / TICKS_PER_SECOND
    assert found["rss_bytes"] == 11 * PAGE_BYTES
    assert group.pss_bytes() == 7 * 1024


def test_the_quota_of_its_processes_is_told_as_they_come(proc: FakeProc, tmp_path: Path) -> None:
    group = Group(proc.root, tmp_path / "cgroup")
    proc.put(1)
    assert group.read([1], 0.0)["cpu_quota_fraction"] is None
    proc.put(2)
    (proc.root / "2/cgroup").write_text("0::/a\n")
    (tmp_path / "cgroup/a").mkdir(parents=True)
    (tmp_path / "cgroup/a/cpu.max").write_text("50000 100000\n")
    stat = tmp_path / "cgroup/a/cpu.stat"
    stat.write_text("nr_throttled 3\n")
    assert group.read([1, 2], 1.0)["cpu_quota_fraction"] == 0.5
    stat.write_text("nr_throttled 12\n")
    found = group.read([1, 2], 2.0)
    assert (found["cpu_throttled_fraction"], found["cpu_throttled_total"]) == (pytest.approx(0.9), 9)


def test_the_busiest_process_is_measured_over_the_real_interval(proc: FakeProc) -> None:
    group = Group(proc.root)
    proc.put(1)
    proc.put(2, user=5000)
    assert group.read([1, 2], 10.0)["cpu_fraction_max"] is None
    proc.put(1, user=TICKS_PER_SECOND, system=TICKS_PER_SECOND // 2)
    assert group.read([1, 2], 12.0)["cpu_fraction_max"] == 0.75


def test_readings_close_together_look_back_to_one_that_is_old_enough(proc: FakeProc) -> None:
    group = Group(proc.root)
    proc.put(1)
    group.read([1], 0.0)
    proc.put(1, user=TICKS_PER_SECOND)
    group.read([1], 1.0)
    proc.put(1, user=TICKS_PER_SECOND + 1)
    assert group.read([1], 1.01)["cpu_fraction_max"] == pytest.approx(1.0, rel=0.01)


def test_a_process_that_just_appeared_does_not_count_as_busy(proc: FakeProc) -> None:
    group = Group(proc.root)
    proc.put(1)
    group.read([1], 0.0)
    proc.put(2, user=900)
    assert group.read([1, 2], 1.0)["cpu_fraction_max"] == 0.0


def test_a_zombie_keeps_its_cpu_time_and_counts_for_nothing_else(proc: FakeProc) -> None:
    group = Group(proc.root)
    proc.put(1, user=30, pages=5)
    proc.put(2, user=12, pages=7)
    group.read([1, 2], 0.0)
    proc.put(2, user=13, state="Z")
    found = group.read([1, 2], 1.0)
    assert (found["processes"], found["rss_bytes"]) == (1, 5 * PAGE_BYTES)
    assert found["cpu_user_seconds"] == 43 / TICKS_PER_SECOND
    assert group.living == {1}


def test_a_process_that_vanished_is_skipped(sleeper: subprocess.Popen[bytes]) -> None:
    group = Group()
    both = [sleeper.pid, os.getpid()]
    assert group.read(both, 0.0)["processes"] == 2
    sleeper.send_signal(signal.SIGKILL)
    sleeper.wait()
    found = group.read(both, 1.0)
    assert found["processes"] == 1
    assert found["rss_bytes"] > 0
    assert group.pss_bytes() > 0


def test_descriptors_of_a_real_process_are_counted(sleeper: subprocess.Popen[bytes]) -> None:
    if os.stat("/proc/self/fd").st_size == 0:
        pytest.skip("Linux before 6.2 does not tell")
    found = Group().read([sleeper.pid, os.getpid()], 0.0)
    assert found["fds"] > found["fds_max"] >= 3


def test_an_empty_group_is_all_zeros() -> None:
    found = Group().read([], 0.0)
    assert (found["processes"], found["rss_bytes"], found["fds"], found["fds_max"]) == (0, 0, 0, None)
    assert Group().pss_bytes() == 0
