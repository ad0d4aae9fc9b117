"""What a lay-out that was given by hand had met is lifted by leaving it to the plan."""

from __future__ import annotations

from typing import Any

import pytest

from wslab.core.lifting import AUTO, LIFTS, lifts
from wslab.core.limits import LIMITS
from wslab.core.stage import Stage

ASKED = Stage.of(source_addresses=1, server_shards=1, swarm_workers=1, memory_cap="1GiB").as_dict()


def finding(limit: str, side: str) -> dict[str, Any]:
    return {"limit": limit, "side": side}


@pytest.mark.parametrize(
    ("limit", "side", "changes"),
    [
        ("ephemeral_ports", "swarm", {"source_addresses": "auto"}),
        ("time_wait", "kernel", {"source_addresses": "auto"}),
        ("fd_limit", "server", {"server_shards": "auto"}),
        ("fd_limit", "swarm", {"swarm_workers": "auto"}),
        ("nr_open", "server", {"server_shards": "auto"}),
        # A bound that the caller has set is not taken away.
        ("memory_reserve", "machine", {}),
        ("epoll_watches", "kernel", {}),
    ],
)
def test_each_limit_of_a_lay_out_has_its_lift_and_no_other_has_one(
    limit: str, side: str, changes: dict[str, str]
) -> None:
    assert lifts([finding(limit, side)], ASKED) == changes


def test_two_limits_are_lifted_at_once() -> None:
    found = [finding("fd_limit", "server"), finding("ephemeral_ports", "swarm")]
    assert lifts(found, ASKED) == {"server_shards": "auto", "source_addresses": "auto"}


def test_a_limit_that_no_lay_out_lifts_would_be_met_again() -> None:
    assert lifts([finding("conntrack", "kernel"), finding("fd_limit", "server")], ASKED) == {}


def test_what_the_plan_chose_already_cannot_be_lifted_by_choosing_it_again() -> None:
    assert lifts([finding(limit, side) for limit, side in LIFTS], Stage().as_dict()) == {}


def test_a_lift_is_for_a_limit_there_is_and_a_value_that_a_stage_takes() -> None:
    assert {limit for limit, _ in LIFTS} <= {limit.name for limit in LIMITS}
    Stage.of(**dict.fromkeys(LIFTS.values(), AUTO))
