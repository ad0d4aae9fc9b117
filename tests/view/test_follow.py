"""A run is followed from outside: what its folder gains is passed on once, in order of time."""

from __future__ import annotations

from pathlib import Path

from made_runs import make_run
from wslab.view.follow import Follower, follow


def test_events_and_samples_come_in_the_order_of_time_and_once(tmp_path: Path) -> None:
    follower = Follower(make_run(tmp_path, 20_000))
    news = follower.news()
    times = [event["elapsed_seconds"] for event in news]
    assert times == sorted(times)
    assert {"phase_started", "sample"} <= {event["event"] for event in news}
    assert max(event.get("swarm_connections_open") or 0 for event in news) == 20_000
    assert follower.news() == []


def test_a_view_is_told_the_beginning_the_run_and_the_end(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 20_000)
    seen: list[dict] = []
    with follow(lambda: run_dir, seen.append, 20_000):
        pass
    names = [event["event"] for event in seen]
    assert (names[0], names[-1]) == ("run_created", "run_ended")
    assert "sample" in names


def test_a_run_that_never_begins_is_no_mistake() -> None:
    seen: list[dict] = []
    with follow(lambda: None, seen.append, 5):
        pass
    assert [event["event"] for event in seen] == ["run_created", "run_ended"]
