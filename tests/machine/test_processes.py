"""Processes watched from outside, and their CPU quotas: in made trees, and real children."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from eventually import eventually
from isolated import needs
from wslab.breaks.enclosure import Enclosure
from wslab.breaks.isolation import Isolation
from wslab.machine.enter import enter
from wslab.machine.formats import PAGE_BYTES, TICKS_PER_SECOND
from wslab.machine.processes import Group, Process, Throttle, cpu_clock

BOUND = Enclosure(cpu_quota={"server": 0.05})


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the journal apart from that of the person who runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


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


def test_processes_that_are_stopped_or_blocked_are_counted(proc: FakeProc) -> None:
    for pid, state in enumerate("STDDZ", start=1):
        proc.put(pid, state=state)
    found = Group(proc.root).read(range(1, 6), 0.0)
    assert (found["processes"], found["processes_stopped"], found["processes_blocked"]) == (4, 1, 2)


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


BUSY = "while True: pass"


def test_the_cpu_clock_of_a_busy_thread_goes_as_fast_as_time_and_no_faster() -> None:
    def advance() -> tuple[float, float]:
        """Return by how much the clock and the time of its readings advanced over some 50 ms."""
        first = cpu_clock(child.pid)
        assert first is not None
        eventually(lambda: time.monotonic() > first[1] + 0.05)
        second = cpu_clock(child.pid)
        assert second is not None
        return second[0] - first[0], second[1] - first[1]

    with subprocess.Popen([sys.executable, "-c", BUSY]) as child:
        eventually(lambda: (cpu_clock(child.pid) or (0,))[0] > 0.01)
        # Who is interrupted between the halves of a reading measures something else; that does not happen each time.
        found = [advance() for _ in range(5)]
        child.kill()
    assert all(used > 0 for used, _ in found)
    # Finer than a tick of 10 ms, and each reading has its own time.
    assert any(used <= passed * 1.001 + 0.0004 for used, passed in found)
    assert cpu_clock(child.pid) is None


def test_cpu_time_is_that_of_the_clock_divided_as_stat_has_it_and_never_falls(proc: FakeProc) -> None:
    clock = iter([(1.0, 10.0), (1.007, 11.0), (1.02, 12.0)])
    proc.put(1)
    process = Process(1, proc.root, lambda _: next(clock))
    found = []
    for user, system in ((0.75, 0.25), (0.76, 0.25), (0.75, 0.26)):
        proc.put(1, user=round(user * TICKS_PER_SECOND), system=round(system * TICKS_PER_SECOND))
        process.refresh()
        found.append((process.cpu_user_seconds, process.cpu_system_seconds))
    assert [sum(one) for one in found] == pytest.approx([1.0, 1.007, 1.02])
    assert found[0] == (0.75, 0.25)
    assert all(later >= earlier for a, b in pairwise(found) for earlier, later in zip(a, b, strict=True))


def test_the_share_of_the_busiest_is_over_the_time_between_its_own_readings(proc: FakeProc) -> None:
    group = Group(proc.root)
    clock = iter([(1.0, 10.0), (1.5, 10.5)])
    group._clock = lambda _: next(clock)
    proc.put(1)
    group.read_clocks([1])
    group.read([1], 10.0)
    group.read_clocks([1])
    # The rest of the sample took its time.
    assert group.read([1], 10.4)["cpu_fraction_max"] == 1.0


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


def test_a_process_without_a_free_descriptor_is_told_by_its_own_limit_as_it_is_now() -> None:
    code = "import os, sys; [os.dup(0) for _ in range(9)]; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        group = Group()
        group.read([process.pid], 0.0)
        assert group.at_fd_limit() == []
        fds = len(os.listdir(f"/proc/{process.pid}/fd"))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (fds + 1, fds + 1))
        group.read([process.pid], 1.0)
        assert group.at_fd_limit() == [(process.pid, fds, fds + 1)]
        process.stdin.close()


def test_an_empty_group_is_all_zeros() -> None:
    found = Group().read([], 0.0)
    assert (found["processes"], found["rss_bytes"], found["fds"], found["fds_max"]) == (0, 0, 0, None)
    assert Group().pss_bytes() == 0


class FakeGroups:
    """Trees of /proc and of version 2 in which the test says how much of a quota was used up."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.cgroups.mkdir()

    def join(self, pid: int, group: str) -> None:
        (self.proc / str(pid)).mkdir(parents=True, exist_ok=True)
        (self.proc / str(pid) / "cgroup").write_text(f"0::/{group}\n")

    def put(self, group: str, bound: str, throttled: int = 0, periods: int = 0) -> None:
        folder = self.cgroups / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(f"{bound}\n")
        (folder / "cpu.stat").write_text(f"usage_usec 9\nnr_periods {periods}\nnr_throttled {throttled}\n")

    def throttle(self, *pids: int) -> Throttle:
        made = Throttle(self.proc, self.cgroups)
        for pid in pids:
            made.add(pid)
        return made


@pytest.fixture
def groups(tmp_path: Path) -> FakeGroups:
    return FakeGroups(tmp_path)


def test_the_share_is_of_the_periods_that_have_gone_by_and_not_only_of_those_with_work(groups: FakeGroups) -> None:
    groups.join(7, "a")
    groups.put("a", "20000 100000", throttled=40, periods=90)
    throttle = groups.throttle(7)
    assert throttle.read(10.0) == {
        "cpu_quota_fraction": 0.2,
        "cpu_throttled_fraction": None,
        "cpu_throttled_total": 0,
    }
    groups.put("a", "20000 100000", throttled=43, periods=94)
    found = throttle.read(11.0)
    assert found["cpu_throttled_fraction"] == pytest.approx(0.3)
    assert found["cpu_throttled_total"] == 3, "what was before belongs to others"


def test_readings_of_a_quota_close_together_look_back_to_one_that_is_old_enough(groups: FakeGroups) -> None:
    groups.join(7, "a")
    groups.put("a", "1000 20000")
    throttle = groups.throttle(7)
    throttle.read(0.0)
    groups.put("a", "1000 20000", throttled=25)
    throttle.read(1.0)
    groups.put("a", "1000 20000", throttled=26)
    assert throttle.read(1.04)["cpu_throttled_fraction"] == pytest.approx(0.5)


def test_a_period_that_ended_just_in_time_does_not_make_more_than_all(groups: FakeGroups) -> None:
    groups.join(7, "a")
    groups.put("a", "1000 100000")
    throttle = groups.throttle(7)
    throttle.read(0.0)
    groups.put("a", "1000 100000", throttled=3)
    assert throttle.read(0.25)["cpu_throttled_fraction"] == 1.0


def test_a_group_above_that_waits_more_counts_and_the_tightest_quota_is_told(groups: FakeGroups) -> None:
    groups.join(7, "above/own")
    groups.put("above", "50000 100000", throttled=4)
    groups.put("above/own", "30000 100000", throttled=1)
    throttle = groups.throttle(7)
    throttle.read(0.0)
    groups.put("above", "50000 100000", throttled=12)
    found = throttle.read(1.0)
    assert found == {
        "cpu_quota_fraction": 0.3,
        "cpu_throttled_fraction": pytest.approx(0.8),
        "cpu_throttled_total": 8,
    }


def test_a_quota_that_binds_several_processes_is_counted_once(groups: FakeGroups) -> None:
    for pid in (7, 8):
        groups.join(pid, "a")
    groups.put("a", "1000 20000")
    throttle = groups.throttle(7, 8)
    groups.put("a", "1000 20000", throttled=5)
    assert throttle.read(0.0)["cpu_throttled_total"] == 5


def test_a_group_that_comes_later_does_not_bring_its_past(groups: FakeGroups) -> None:
    groups.join(7, "a")
    groups.put("a", "1000 20000")
    throttle = groups.throttle(7)
    throttle.read(0.0)
    groups.join(8, "b")
    groups.put("b", "1000 20000", throttled=90_000)
    throttle.add(8)
    assert throttle.read(1.0)["cpu_throttled_total"] == 0


@pytest.mark.parametrize("bound", ["max 100000", None])
def test_without_a_quota_nothing_is_told(groups: FakeGroups, bound: str | None) -> None:
    groups.join(7, "a")
    if bound:
        groups.put("a", bound)
    assert set(groups.throttle(7, 9).read(0.0).values()) == {None}


@needs(BOUND)
def test_a_process_that_never_rests_waits_in_nearly_all_periods_of_its_quota() -> None:
    with Isolation(BOUND, f"wslab-test-{os.getpid()}") as isolation:
        entry = isolation.spec("server")["enclosure"]
        command = [sys.executable, "-c", "while True: pass"]
        with subprocess.Popen(command, preexec_fn=lambda: enter(entry)) as child:
            try:
                throttle = Throttle()
                throttle.add(child.pid)
                began, first = time.monotonic(), throttle.read(time.monotonic())
                eventually(lambda: time.monotonic() > began + 1.0)
                last = throttle.read(time.monotonic())
            finally:
                child.kill()
    assert first["cpu_quota_fraction"] == 0.05
    # The quota is for 20 ms each.
    assert last["cpu_throttled_total"] - first["cpu_throttled_total"] > 30
    assert last["cpu_throttled_fraction"] > 0.7


@needs(BOUND)
def test_a_group_that_is_removed_keeps_its_count() -> None:
    with Isolation(BOUND, f"wslab-test-{os.getpid()}") as isolation:
        entry = isolation.spec("server")["enclosure"]
        with subprocess.Popen(["sleep", "60"], preexec_fn=lambda: enter(entry)) as child:
            throttle = Throttle()
            throttle.add(child.pid)
            child.kill()
        before = throttle.read(time.monotonic())["cpu_throttled_total"]
    assert throttle.read(time.monotonic())["cpu_throttled_total"] == before is not None
