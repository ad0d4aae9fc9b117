"""How long CPU quotas kept processes waiting: in made trees of both versions, and a real process that never rests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventually import eventually
from isolated import needs
from wslab.breaks.enclosure import Enclosure
from wslab.breaks.isolation import Isolation
from wslab.machine.enter import enter
from wslab.machine.throttle import Throttle

BOUND = Enclosure(cpu_quota={"server": 0.05})


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


def test_readings_close_together_look_back_to_one_that_is_old_enough(groups: FakeGroups) -> None:
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
