"""A comparison: order of the repetitions, ratios within them, marks, and what is said of a server that did not hold."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from core.hosts import host
from wslab.core.comparison import FIGURES, FLOOR, limited_by, results, schedule, split_servers, worst
from wslab.core.quantities import BadInput
from wslab.core.stage import Stage

STAGE = Stage(connections=1000)


@pytest.mark.parametrize(
    ("typed", "servers"),
    [
        ("lean,asyncio", ["lean", "asyncio"]),
        ("lean, asyncio,lean", ["lean", "asyncio"]),
        ('lean,"node my.js --list a,b --port {port}"', ["lean", "node my.js --list a,b --port {port}"]),
        ("node my.js,ws://127.0.0.1:9000/x", ["node my.js", "ws://127.0.0.1:9000/x"]),
    ],
)
def test_servers_are_split_at_commas_outside_quotes(typed: str, servers: list[str]) -> None:
    assert split_servers(typed) == servers
    assert split_servers("lean", ["node a, b"]) == ["lean", "node a, b"]


@pytest.mark.parametrize("typed", ["", "lean,asynico", 'lean,"node my.js'])
def test_a_list_that_cannot_be_used_is_refused(typed: str) -> None:
    with pytest.raises(BadInput):
        split_servers(typed)


def test_every_repetition_measures_each_server_once_and_none_is_always_last() -> None:
    names = ["a", "b", "c"]
    order = schedule(names, [10], 6)
    turns = [[server for repetition, server, _ in order if repetition == wanted] for wanted in range(6)]
    assert all(sorted(turn) == names for turn in turns)
    assert {tuple(turn) for turn in turns} == {tuple(turn) for turn in turns}
    assert sorted(turn[-1] for turn in turns) == sorted(2 * names)
    followed = [pair for turn in turns for pair in pairwise(turn)]
    assert all(followed.count((a, b)) == 2 for a in names for b in names if a != b)


def test_two_servers_take_turns() -> None:
    assert [server for _, server, _ in schedule(["a", "b"], [10], 3)] == ["a", "b", "b", "a", "a", "b"]


def entry(server: str, repetition: int, rate: float | None, outcome: str = "held", **more: Any) -> dict[str, Any]:
    summary = {"connections": 1000, "connections_per_second": rate, "ramp_limited_by": more.get("ramp_limited_by")}
    return {
        "role": more.get("role", "measure"),
        "repetition": repetition,
        "server": server,
        "connections": 1000,
        "outcome": outcome,
        "reason": more.get("reason", ""),
        "limits": more.get("limits", []),
        "summary": summary | more.get("summary", {}),
    }


def test_ratios_are_taken_within_a_repetition() -> None:
    entries = [entry(FLOOR, 0, 100.0), entry("lean", 0, 50.0), entry("lean", 1, 900.0), entry(FLOOR, 1, 1000.0)]
    floor, lean = results([FLOOR, "lean"], entries, STAGE, host())
    one = lean["figures"]["connections_per_second"]
    assert (one["median"], one["min"], one["max"], one["values"]) == (475, 50, 900, [50, 900])
    assert one["ratios"][FLOOR]["values"] == [0.5, 0.9]
    assert floor["figures"]["connections_per_second"]["ratios"]["lean"]["values"] == [2.0, pytest.approx(1000 / 900)]


def test_a_stage_that_did_not_hold_has_no_figures_and_the_others_keep_theirs() -> None:
    entries = [
        *(entry(FLOOR, 0, 100.0), entry("lean", 0, 7.0, "crashed", reason="signal 9"), entry("asyncio", 0, 20.0)),
        *(entry(FLOOR, 1, 100.0), entry("lean", 1, 50.0), entry("asyncio", 1, 30.0)),
    ]
    _, lean, other = results([FLOOR, "lean", "asyncio"], entries, STAGE, host())
    assert (lean["outcome"], lean["said"]) == ("crashed", "crashed: signal 9")
    assert lean["figures"]["connections_per_second"]["values"] == [None, 50]
    assert lean["figures"]["connections_per_second"]["ratios"][FLOOR]["values"] == [0.5]
    assert (other["outcome"], other["figures"]["connections_per_second"]["median"]) == ("held", 25)


def test_a_server_that_cannot_be_started_says_why_and_one_that_was_not_reached_that() -> None:
    entries = [entry(FLOOR, 0, 1.0), entry("picows", 0, None, "refused", reason="needs picows: pip install picows")]
    _, picows, lean = results([FLOOR, "picows", "lean"], entries, STAGE, host())
    assert (picows["outcome"], picows["said"]) == ("refused", "refused: needs picows: pip install picows")
    assert (picows["model"], lean["outcome"], lean["said"]) == (None, "aborted", "not measured")


def test_a_figure_is_the_generators_when_it_was_in_half_of_the_repetitions() -> None:
    entries = [
        entry("lean", 0, 1.0, ramp_limited_by="generator"),
        entry("lean", 1, 1.0, ramp_limited_by=None),
        entry("asyncio", 0, 1.0, ramp_limited_by="generator"),
        *(entry("asyncio", number, 1.0, ramp_limited_by="server") for number in (1, 2)),
    ]
    lean, other = results(["lean", "asyncio"], entries, STAGE, host())
    assert lean["figures"]["connections_per_second"]["limited_by"] == "generator"
    assert other["figures"]["connections_per_second"]["limited_by"] == "server"


def test_a_cost_is_nobodys_limit_and_the_knee_has_its_own() -> None:
    by_key = {figure.key: figure for figure in FIGURES}
    told = {"ramp_limited_by": "machine", "knee": {"limited_by": "server"}}
    assert limited_by(by_key["connections_per_second"], told) == "machine"
    assert limited_by(by_key["knee_messages_per_second"], told) == "server"
    assert limited_by(by_key["kernel_bytes_per_connection"], told) is None


def test_memory_of_a_server_is_its_growth_and_not_its_interpreter() -> None:
    sizes = {
        "plateau_connections": 1000,
        "plateau_connections_at_start": 200,
        "server_user_bytes": 50_000_000,
        "server_user_bytes_at_start": 42_000_000,
    }
    (found,) = results(["lean"], [entry("lean", 0, 1.0, summary=sizes)], STAGE, host())
    assert found["figures"]["server_user_bytes_per_connection"]["median"] == 10_000


def test_latency_is_compared_at_a_light_load_that_is_the_same_for_all_and_told_at_each_ones_knee() -> None:
    def climbed(light: float, knee: float) -> dict[str, Any]:
        steps = [{"messages_per_second": rate, "roundtrip_seconds_p99": light * rate} for rate in (1000.0, 4000.0)]
        return {"knee": {"messages_per_second": 4000.0, "roundtrip_seconds_p99": knee, "steps": steps}}

    entries = [
        entry(FLOOR, 0, 1.0, summary=climbed(1e-6, 0.05)),
        entry("lean", 0, 1.0, summary=climbed(3e-6, 0.09)),
    ]
    lean = results([FLOOR, "lean"], entries, STAGE, host())[1]["figures"]
    assert lean["light_roundtrip_seconds_p99"]["median"] == pytest.approx(0.003)
    assert lean["light_roundtrip_seconds_p99"]["ratios"][FLOOR]["median"] == pytest.approx(3.0)
    assert (lean["knee_roundtrip_seconds_p99"]["median"], lean["knee_roundtrip_seconds_p99"]["ratios"]) == (0.09, {})


def test_the_worst_outcome_of_several() -> None:
    assert worst(["held", "held"]) == "held"
    assert worst(["held", "refused"]) == "broke"
    assert worst(["broke", "crashed"]) == "crashed"
    assert worst([]) == "held"
