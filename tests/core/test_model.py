"""The model: a line with its uncertainty, where it ends on a machine, and how it compares with a larger stage."""

from __future__ import annotations

import random
from math import inf
from typing import Any

import pytest

from core.hosts import GIB, host
from wslab.core.model import (
    Estimate,
    Memory,
    compared_with,
    ends_on,
    fit,
    machine_of,
    memory_on,
    memory_points,
    rate_on,
    student,
)
from wslab.core.plan import MEMBER_BYTES, process_bytes, resolve
from wslab.core.stage import Stage

STAGE = Stage(connections=15_000, memory_reserve=0)


def noisy(slope: float, at_zero: float, scatter: float, counts: list[int], seed: int) -> list[tuple[float, float]]:
    dice = random.Random(seed)
    return [(n, at_zero + slope * n + dice.gauss(0, scatter)) for n in counts]


def alone(line: Any) -> Memory:
    """Return the memory of connections whose number takes no further process."""
    return Memory(line=line, further=lambda connections: 0.0)


def summary(count: int, *, total: float, start: float = 100e6, **more: Any) -> dict[str, Any]:
    """Return the memory of a run in which both ends began with `start` and it all grew to `total`."""
    return {
        "connections": count,
        "connections_open": count,
        "plateau_connections": count,
        "plateau_connections_at_start": 0,
        "kernel_bytes_at_start": 0,
        "server_user_bytes_at_start": start / 2,
        "swarm_user_bytes_at_start": start / 2,
        "server_user_bytes": start / 2,
        "swarm_user_bytes": start / 2,
        "kernel_bytes": total - start,
        **more,
    }


def test_a_line_through_exact_points_has_their_slope_and_no_uncertainty() -> None:
    line = fit([(0, 100.0), (1000, 1100.0), (2000, 2100.0)])
    assert line is not None
    assert (line.slope, line.at_zero, line.slope_margin) == (pytest.approx(1.0), pytest.approx(100.0), pytest.approx(0))
    assert line.at(5000).value == pytest.approx(5100)
    assert alone(line).reaches(10_100).value == pytest.approx(10_000, abs=1)


def test_two_points_give_a_line_whose_uncertainty_is_not_known() -> None:
    line = fit([(0, 0.0), (10, 100.0)])
    assert line is not None
    assert line.at(20) == Estimate(value=200.0)
    assert alone(line).reaches(50) == Estimate(value=pytest.approx(5.0, abs=1))
    assert line.at(20).covers(200) is None


def test_points_at_one_place_give_no_line_and_a_line_that_does_not_rise_reaches_nothing() -> None:
    assert fit([(10, 1.0), (10, 2.0)]) is None
    assert fit([]) is None
    flat = fit([(0, 5.0), (10, 5.0), (20, 5.0)])
    assert flat is not None
    assert alone(flat).reaches(100).value == inf


def test_the_bounds_cover_a_new_measurement_as_often_as_they_say() -> None:
    counts = [0, 0, 0, 15_000, 15_000, 15_000]
    covered = 0
    for seed in range(400):
        line = fit(noisy(9000, 1e8, 5e6, counts, seed))
        assert line is not None
        covered += bool(line.at(30_000).covers(noisy(9000, 1e8, 5e6, [30_000], 1000 + seed)[0][1]))
    assert 0.92 <= covered / 400 <= 0.98


def test_the_bounds_widen_away_from_the_points_and_where_a_level_is_reached_they_enclose_it() -> None:
    line = fit(noisy(9000, 1e8, 5e6, [0, 0, 0, 15_000, 15_000, 15_000], 1))
    assert line is not None
    near, far = line.at(15_000), line.at(1_000_000)
    assert near.low is not None
    assert far.low is not None
    assert far.value - far.low > near.value - near.low
    reached = alone(line).reaches(16 * GIB)
    assert reached.low is not None
    assert reached.high is not None
    assert reached.low < reached.value < reached.high


def test_students_quantile_is_the_wider_one_between_two_entries() -> None:
    assert (student(1), student(4), student(11), student(10_000)) == (12.706, 2.776, 2.228, 2.000)


def test_the_points_of_a_run_are_its_first_reading_and_its_plateau() -> None:
    assert memory_points(summary(1000, total=109e6)) == [(0.0, 100e6), (1000.0, 109e6)]
    assert memory_points({"plateau_connections": 1000}) == []
    # What was read a moment after the ramp began counts with the connections that were open by then.
    late = summary(1000, total=109e6) | {"plateau_connections_at_start": 200, "kernel_bytes_at_start": 2e6}
    assert memory_points(late)[0] == (200.0, 102e6)


@pytest.mark.parametrize("server", ["lean", "node_ws"])
def test_a_larger_stage_has_more_processes_than_the_line_has_seen(server: str) -> None:
    of, here = Stage.of(connections=15_000, server=server), host(fd_hard=20_000)
    line = fit(noisy(9000, 1e8, 1e4, [0, 0, 15_000, 15_000], 1))
    assert line is not None
    memory = memory_on(here, of, line, resolve(of, here))
    assert memory is not None
    assert memory.at(15_000) == line.at(15_000)
    assert resolve(Stage.of(connections=30_000, server=server), here).server_shards == 2
    more = 2 * MEMBER_BYTES + process_bytes(server)
    seen, by_line = memory.at(30_000), line.at(30_000)
    assert seen.value == by_line.value + more
    assert (seen.low, seen.high) == (by_line.low, by_line.high + 2 * more)
    assert memory.reaches(16 * GIB).value < alone(line).reaches(16 * GIB).value


def line_of(each: float = 9000.0) -> Any:
    return alone(fit([(0.0, 100e6), (15_000.0, 100e6 + 15_000 * each)]))


def test_memory_ends_where_the_line_meets_what_is_left() -> None:
    ends = {end.limit: end for end in ends_on(machine_of(16 * GIB, 6), STAGE, line_of(), None, 0.0)}
    assert ends["memory_machine"].at_connections.value == pytest.approx((16 * GIB - 100e6) / 9000, abs=1)
    assert ends["epoll_watches"].at_connections.value == pytest.approx(16 * GIB / 25 / 184 / 2, rel=0.01)


def test_a_server_of_one_process_ends_at_its_descriptors_and_one_of_several_does_not() -> None:
    def first(server: str) -> str:
        of = Stage.of(connections=15_000, server=server, memory_reserve=0)
        return ends_on(machine_of(64 * GIB, 6), of, line_of(), None, 0.0)[0].limit

    assert first("node my.js") == "fd_limit"
    assert first("lean") != "fd_limit"


def test_the_cpu_ends_where_the_knee_is_shared_by_all_connections() -> None:
    rate = Estimate(value=50_000.0, low=40_000.0, high=60_000.0)
    end = ends_on(machine_of(16 * GIB, 6), STAGE, line_of(), rate, 0.1)[0]
    assert (end.limit, end.at_connections) == ("machine_cpu", Estimate(value=500_000, low=400_000, high=600_000))


def test_messages_grow_with_the_cores_unless_the_server_is_one_process() -> None:
    here, there = host(cpu_count=2), host(cpu_count=6)
    rate = Estimate(value=10_000.0, low=9_000.0, high=11_000.0)
    assert rate_on(there, here, "lean", rate, 20e-6).value == 30_000
    assert rate_on(there, here, "node my.js", rate, 50e-6).value == 20_000
    assert rate_on(there, here, "node my.js", rate, None).value == 10_000


def test_a_prediction_stands_beside_the_larger_stage_that_it_has_not_seen() -> None:
    line = alone(fit([(0, 100e6), (0, 101e6), (15_000, 235e6), (15_000, 236e6)]))
    ends = ends_on(machine_of(16 * GIB, 6), STAGE, line, None, 0.0)
    told = compared_with(ends, line, summary(30_000, total=371e6), [])
    assert (told["predicted_limit"], told["measured_limits"], told["within"]) == (None, [], True)
    assert told["error"] == pytest.approx(-0.0013, abs=0.001)
    assert compared_with(ends, line, summary(30_000, total=471e6), [])["within"] is False


def test_a_predicted_limit_stands_beside_the_limit_that_was_met() -> None:
    few = host(fd_hard=20_000, fd_soft=20_000, memory_headroom_bytes=16 * GIB)
    of = Stage.of(connections=15_000, server="node my.js", memory_reserve=0)
    ends = ends_on(few, of, line_of(), None, 0.0)
    met = summary(30_000, total=280e6, connections_open=19_930, plateau_connections=19_930)
    told = compared_with(ends, line_of(), met, ["fd_limit"])
    assert (told["predicted_limit"], told["measured_limits"]) == ("fd_limit", ["fd_limit"])
    assert told["predicted_connections"] == pytest.approx(told["measured_connections"], rel=0.02)
