"""Who else used the machine: from two looks at made-up processes, and one at the real ones."""

from __future__ import annotations

import os

from wslab.machine.neighbours import Look, Seen, gained, look


def seen(
    name: str = "x", parent: int = 1, *, used: float = 0.0, waited: float = 0.0, fds: int = 0, ticks: int = 1
) -> Seen:
    return Seen(name, parent, ticks, used, waited, fds)


def names(before: Look, after: Look, ours: tuple[int, ...] = (), top: tuple[int, ...] = ()) -> dict[str, float]:
    return {row["name"]: row["cores"] for row in gained(before, after, 2.0, ours, top)}


def test_cpu_is_what_was_used_between_the_two_looks() -> None:
    before = {5: seen("old", used=100.0), 6: seen("idle", used=3.0)}
    after = {5: seen("old", used=101.0), 6: seen("idle", used=3.0), 7: seen("new", used=0.5)}
    assert names(before, after) == {"old": 0.5, "new": 0.25}


def test_what_belongs_to_the_run_is_left_out_with_all_below_it() -> None:
    after = {
        10: seen("supervisor", used=1.0),
        11: seen("server", parent=10, used=1.0),
        12: seen("worker", parent=11, used=1.0),
        13: seen("caller", used=1.0),
        14: seen("neighbour", parent=13, used=1.0),
    }
    assert names({}, after, ours=(13,), top=(10,)) == {"neighbour": 0.5}


def test_what_has_ended_is_charged_to_who_waited_for_it_without_what_it_used_before() -> None:
    before = {5: seen("make", used=1.0), 6: seen("cc1", parent=5, used=40.0)}
    # One compiler ended that had used 40 s before, and several came and went.
    after = {5: seen("make", used=1.0, waited=41.5)}
    assert names(before, after) == {"make": 0.75}


def test_a_pid_that_is_used_again_is_another_process() -> None:
    before = {5: seen("old", used=100.0, ticks=1)}
    after = {5: seen("new", used=1.0, ticks=2)}
    assert names(before, after) == {"new": 0.5}


def test_who_opened_or_closed_many_descriptors_is_told_without_cpu() -> None:
    before = {5: seen("nginx", fds=10), 6: seen("leaver", fds=5_000), 7: seen("shell", fds=3)}
    after = {5: seen("nginx", fds=4_000), 6: seen("leaver", fds=20), 7: seen("shell", fds=9)}
    rows = gained(before, after, 2.0, (), ())
    assert {row["name"]: row["fds"] for row in rows} == {"nginx": 3_990, "leaver": -4_980}


def test_few_are_told_of_and_those_with_most_first() -> None:
    after = {pid: seen(f"p{pid}", used=float(pid)) for pid in range(1, 20)}
    assert list(names({}, after)) == ["p19", "p18", "p17", "p16", "p15"]


def test_a_look_finds_this_process_below_its_parent() -> None:
    found = look()[os.getpid()]
    assert found.parent == os.getppid()
    assert found.used > 0
