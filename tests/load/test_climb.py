"""The steps of a climb on a made-up swarm: what is asked of it, what is recorded, and when a step is given up."""

from __future__ import annotations

from typing import Any

import pytest

from wslab.core.histogram import bucket_of
from wslab.core.knee import STEP_EVENT
from wslab.load import scoreboard as words
from wslab.load.climb import CLIMB_DONE, GIVE_UP_SECONDS, SETTLE_SECONDS, MessageClimb
from wslab.load.scoreboard import ROLE_SWARM, ROUNDTRIP, Scoreboard

OPEN = 100


class Swarm:
    """Answers up to `capacity` messages a second, in order, and gives up none; also stands in for the reports.

    Args:
        capacity: messages/s.
        lost: this share of the messages never comes back.
    """

    epoch = 0.0

    def __init__(self, capacity: float, lost: float = 0.0) -> None:
        self.capacity, self.lost = capacity, lost
        self.board = Scoreboard.create(1)
        self.row = self.board.row(0)
        self.row[words.ROLE], self.row[words.OPEN], self.row[words.TARGET] = ROLE_SWARM, OPEN, OPEN
        self.now, self.rate, self.until, self.waiting = 0.0, 0.0, 0.0, 0.0
        self.commands: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []

    def send(self, command: dict[str, Any]) -> None:
        self.commands.append(command)
        if command["cmd"] == "step":
            self.row[words.PHASE_DONE] = 0
            self.rate, self.until = command["messages_per_second"] * OPEN, self.now + command["seconds"]

    def event(self, name: str, **fields: Any) -> None:
        assert name == STEP_EVENT
        self.steps.append(fields)

    def pass_time(self, seconds: float) -> None:
        """Let messages become due and be answered, in the order in which they were due."""
        due = self.rate * max(0.0, min(seconds, self.until - self.now))
        self.now += seconds
        kept = min(self.waiting + due * (1 - self.lost), self.capacity * seconds)
        self.waiting += due * (1 - self.lost) - kept
        self.row[words.SENT] += round(due)
        self.row[words.RECEIVED] += round(kept)
        self.row[ROUNDTRIP + bucket_of(0.001 + self.waiting / self.capacity)] += round(kept)
        if self.now >= self.until:
            self.row[words.PHASE_DONE] = CLIMB_DONE

    def climb(self, bound: float = 0.1) -> None:
        """Go through a whole climb."""
        climb = MessageClimb(self, self.board, bound, self.send, self.now)  # type: ignore[arg-type]
        while not climb.is_over(self.now):
            self.pass_time(0.125)
            assert self.now < 500


def test_the_rate_is_shared_by_the_connections_and_the_knee_is_found() -> None:
    swarm = Swarm(8000.0)
    swarm.climb()
    assert swarm.commands[0] == {"cmd": "step", "messages_per_second": 1000 / OPEN, "seconds": 1.0}
    assert [step["number"] for step in swarm.steps] == list(range(1, len(swarm.steps) + 1))
    best = max(step["messages_per_second"] for step in swarm.steps if step["roundtrip_seconds_p99"] <= 0.1)
    assert best == pytest.approx(8000, rel=0.15)
    assert {step["connections_open"] for step in swarm.steps} == {OPEN}
    assert swarm.board.words[words.STEP] == 2 * len(swarm.steps)  # Each begins and ends a sample.


def test_a_step_beyond_the_knee_counts_the_delay_of_the_whole_backlog() -> None:
    swarm = Swarm(2000.0)
    swarm.climb()
    (first,) = [step for step in swarm.steps if step["messages_per_second"] == 4000]
    assert first["answered_per_second"] == pytest.approx(2000, rel=0.1)
    assert first["messages_due"] == 4000
    assert first["settled_seconds"] - first["started_seconds"] == pytest.approx(2.0, abs=0.3)
    assert first["roundtrip_seconds_p99"] == pytest.approx(1.0, rel=0.15)
    assert first["messages_unanswered"] == 0


def test_messages_that_never_come_back_end_a_step_and_are_counted() -> None:
    swarm = Swarm(1e6, lost=0.2)
    climb = MessageClimb(swarm, swarm.board, 0.1, swarm.send, 0.0)  # type: ignore[arg-type]
    while not swarm.steps:
        climb.is_over(swarm.now)
        swarm.pass_time(0.125)
    (step,) = swarm.steps
    assert step["messages_unanswered"] == 200
    assert (step["roundtrip_seconds_p50"], step["roundtrip_seconds_p99"]) == (pytest.approx(0.001, rel=0.02), None)
    assert {"cmd": "quiet"} in swarm.commands
    waited = step["settled_seconds"] - step["ended_seconds"]
    assert SETTLE_SECONDS < GIVE_UP_SECONDS <= waited < GIVE_UP_SECONDS + 1


def test_without_a_connection_there_is_nothing_to_climb() -> None:
    swarm = Swarm(1000.0)
    swarm.row[words.OPEN] = 0
    swarm.climb()
    assert swarm.commands == swarm.steps == []
