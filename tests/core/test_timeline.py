"""Timeline: phases with their own times and counts, whole or cut short."""

from __future__ import annotations

from typing import Any

import pytest

from core.made import events, samples
from wslab.core.timeline import last_phase, messages_between, open_at_plateau, sample_after, sample_before, timeline


def test_phases_come_in_order_with_their_times() -> None:
    written = [phase.as_dict() for phase in timeline(events())]
    assert written[0] == {"name": "ramp", "started_seconds": 2.0, "ended_seconds": 6.0}
    assert [row["name"] for row in written] == ["ramp", "hold", "verify", "drain"]


def test_a_phase_that_was_cut_short_has_no_end() -> None:
    cut = timeline(events()[:2])
    assert [(phase.name, phase.ended_seconds, phase.seconds) for phase in cut] == [("ramp", None, None)]


def test_an_end_without_a_beginning_is_no_phase() -> None:
    assert timeline([{"event": "phase_ended", "phase": "ramp", "elapsed_seconds": 1.0}]) == []


def test_the_last_phase_of_a_name_counts() -> None:
    twice = timeline(events() + events(hold={"elapsed_seconds": 99.0}))
    hold = last_phase(twice, "hold")
    assert hold is not None
    assert hold.ended_seconds == 99.0
    assert last_phase(twice, "start") is None


@pytest.mark.parametrize(("name", "count"), [("ramp", 0), ("hold", 4000), ("verify", 100_000), ("drain", 0)])
def test_messages_of_a_phase_are_those_since_the_phase_before(name: str, count: int) -> None:
    phases = timeline(events())
    phase = last_phase(phases, name)
    assert phase is not None
    assert messages_between(phases, phase) == count


def test_messages_that_were_not_counted_are_none() -> None:
    phases = timeline([{"event": "phase_started", "phase": "hold", "elapsed_seconds": 1.0}])
    assert messages_between(phases, phases[0]) is None


@pytest.mark.parametrize(("told", "opened"), [(events(60_000), 60_000), ([], 70_000)])
def test_the_plateau_is_what_the_ramp_reached_or_the_most_that_was_seen(told: list[Any], opened: int) -> None:
    assert open_at_plateau(timeline(told), samples(70_000)) == opened


def test_samples_are_found_by_time() -> None:
    rows = samples()
    before, after = sample_before(rows, 2.5), sample_after(rows, 2.5)
    assert before is not None
    assert after is not None
    assert (before["elapsed_seconds"], after["elapsed_seconds"]) == (2.0, 3.0)
    assert sample_before(rows, -1.0) is None
    assert sample_after(rows, 1e9) is None
