"""Random scenarios: the same for the same seed, the first limit computed from what was lowered, some healthy."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from wslab.breaks.scenario import ALONE, COUNTABLE, Scenario, draw

SERIES = [draw(number, seed=7) for number in range(1, 401)]
TOGETHER = [one for one in SERIES if one.lowered[0].ceiling is not None]


def test_a_scenario_follows_from_the_seed_and_its_number() -> None:
    assert draw(17, seed=7) == SERIES[16]
    assert draw(17, seed=8) != SERIES[16]


def test_every_limit_is_drawn_and_some_scenarios_are_healthy() -> None:
    first = Counter(one.first.limit for one in SERIES if one.first)
    assert set(first) == {name.split()[0] for name in (*COUNTABLE, *ALONE)}
    assert 0.1 < sum(one.healthy for one in SERIES) / len(SERIES) < 0.3
    assert {len(one.lowered) for one in TOGETHER} == {1, 2, 3}
    assert any(one.busy for one in SERIES)


@pytest.mark.parametrize("one", TOGETHER[:60], ids=lambda one: str(one.number))
def test_the_limit_with_the_lowest_ceiling_is_the_first(one: Scenario) -> None:
    ceilings = [limit.ceiling or 0 for limit in one.lowered]
    asked = one.trial.parameters["connections"]
    assert ceilings == sorted(ceilings)
    assert all(higher >= 1.05 * lower for lower, higher in pairwise(ceilings))
    assert asked < ceilings[0] if one.healthy else asked > ceilings[-1]
    assert (one.first is None) == one.healthy


def test_nothing_of_the_whole_machine_is_lowered() -> None:
    assert not [one.title for one in SERIES if one.trial.shared]
