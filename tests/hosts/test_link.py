"""The way to a relay, with an actor that is made up: what its answers say of its host's clock."""

from __future__ import annotations

import time
from typing import Any

import pytest

from wslab.hosts import cluster
from wslab.hosts.cluster import DaskLink, moved


@pytest.mark.parametrize(
    ("least", "most", "moves"),
    [
        (4.9, 5.2, 0.0),
        (5.05, 5.2, 0.0),
        (5.3, 5.6, 0.2),
        (4.0, 4.6, -0.3),
        (-9.0, 20.0, 0.0),
    ],
    ids=["as before", "within what was uncertain", "ahead", "back", "a slow answer tells nothing"],
)
def test_a_clock_has_moved_by_what_no_delay_can_explain(least: float, most: float, moves: float) -> None:
    assert moved(least, most, 5.0, 0.1) == pytest.approx(moves)


class Done:
    """A call that has its answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:
        return self.answer


class Actor:
    """A relay on a host whose clock is ahead by so many seconds."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead

    def clock(self) -> Done:
        return Done(time.monotonic() + self.ahead)

    def poll(self) -> Done:
        return Done({"events": [], "files": {}, "ended": "", "clock": time.monotonic() + self.ahead})


def test_each_answer_says_whether_the_clock_of_the_host_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.0)
    actor = Actor(ahead=100.0)
    link = DaskLink("h1", Done(actor))
    link.poll()
    assert link.moved_seconds == 0.0
    actor.ahead = 97.0
    link.poll()
    assert link.moved_seconds == pytest.approx(-3.0, abs=0.5)
