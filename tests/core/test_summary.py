"""Summary: rates from the phases' own times, memory from the plateau, and None for what was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from core.made import ASKED, events, layout, rising, samples
from wslab.core.summary import quantile_seconds, summarize

STAGE = {"connections": ASKED, "message_rate": 0.01}
PLAN = layout(swarm_workers=7)
KEYS = {
    "connections",
    "connections_open",
    "connections_failed",
    "connections_verified",
    "ramp_seconds",
    "connections_per_second",
    "messages_per_second",
    "roundtrip_seconds_p50",
    "roundtrip_seconds_p99",
    "roundtrip_seconds_p999",
    "server_user_bytes_per_connection",
    "swarm_user_bytes_per_connection",
    "kernel_bytes_per_connection",
    "total_bytes_per_connection",
    "server_shards",
    "swarm_workers",
    "generator_limited",
}


def trip(at: float, seconds: float, count: int, kind: str = "roundtrip") -> dict[str, Any]:
    return {"elapsed_seconds": at, "kind": kind, "bucket_seconds": seconds, "count": count}


def figures(**given: Any) -> dict[str, Any]:
    """Return the figures of the made-up run with some of its records replaced."""
    return summarize(
        {**STAGE, **given.get("stage", {})},
        PLAN,
        given.get("samples", samples()),
        given.get("latency", []),
        given.get("events", events()),
    )


def test_a_summary_has_the_keys_of_the_command_line_and_is_flat() -> None:
    found = figures()
    assert set(found) >= KEYS
    assert all(value is None or isinstance(value, int | float | bool) for value in found.values())


def test_counts_are_those_at_the_end_of_the_phases() -> None:
    found = figures(samples=samples(60_000), events=events(60_000))
    assert (found["connections"], found["connections_open"]) == (ASKED, 60_000)
    assert (found["connections_failed"], found["connections_verified"]) == (40_000, 60_000)
    assert (found["server_shards"], found["swarm_workers"]) == (6, 7)


def test_a_ramp_between_two_samples_still_has_its_rate() -> None:
    told = events(ramp={"elapsed_seconds": 2.625})
    found = figures(events=told)
    assert found["ramp_seconds"] == 0.625
    assert found["connections_per_second"] == 160_000


def test_a_ramp_that_never_ended_has_no_rate_and_its_samples_tell_the_most() -> None:
    told = [event for event in events() if event["event"] != "phase_ended"][:2]
    found = figures(events=told, samples=samples(60_000))
    assert (found["ramp_seconds"], found["connections_per_second"]) == (None, None)
    assert found["connections_open"] == 60_000


@pytest.mark.parametrize(
    ("stage", "told", "rate"),
    [
        ({}, {}, 1000.0),  # 4,000 messages in the 4 s of the hold
        ({"message_rate": 0}, {}, 50_000.0),  # 100,000 echoes in the 2 s of the verify phase
        ({}, {"hold": {"elapsed_seconds": 6.5}}, 50_000.0),  # Half a second is too short to judge.
    ],
)
def test_messages_are_those_on_schedule_or_else_those_of_verify(
    stage: dict[str, Any], told: dict[str, Any], rate: float
) -> None:
    found = figures(stage=stage, events=events(**told))
    assert found["messages_per_second"] == rate
    assert found["verify_messages_per_second"] == 50_000.0


def test_round_trips_are_those_of_the_hold() -> None:
    # The hold lasts from second 6 to second 10; the verify phase after it is a burst, and slower.
    latency = [trip(7.0, 0.001, 98), trip(8.0, 0.010, 1), trip(9.5, 0.020, 1), trip(11.0, 5.0, 1000)]
    found = figures(latency=latency)
    assert [found[f"roundtrip_seconds_{name}"] for name in ("p50", "p99", "p999")] == [0.001, 0.010, 0.020]


def test_round_trips_are_those_of_verify_when_nothing_was_sent_in_the_hold() -> None:
    assert figures(latency=[trip(11.0, 0.5, 10)])["roundtrip_seconds_p50"] == 0.5


def test_handshakes_have_percentiles_of_their_own() -> None:
    found = figures(latency=[trip(3.0, 0.002, 1, "handshake"), trip(4.0, 0.004, 3, "handshake")])
    assert (found["handshake_seconds_p50"], found["handshake_seconds_p99"]) == (0.004, 0.004)
    assert found["roundtrip_seconds_p50"] is None


@pytest.mark.parametrize(
    ("quantile", "expected"), [(0.25, 0.001), (0.5, 0.001), (0.51, 0.002), (0.75, 0.002), (0.99, 0.004), (1.0, 0.004)]
)
def test_a_quantile_weighs_buckets_by_their_counts(quantile: float, expected: float) -> None:
    rows = [trip(1.0, 0.004, 1), trip(1.0, 0.001, 1), trip(2.0, 0.001, 1), trip(2.0, 0.002, 1)]
    assert quantile_seconds(rows, quantile) == expected


def test_no_latency_has_no_quantile() -> None:
    assert quantile_seconds([], 0.5) is None


def memory(**columns: Any) -> dict[str, Any]:
    """Return the figures of a run whose kernel memory grows by 840 MB, with PSS in the second second of the hold."""
    rows = samples(
        memory_kernel_bytes=[2_000_000_000, *[2_840_000_000] * 9, 2_100_000_000],
        server_rss_bytes=900_000_000,
        swarm_rss_bytes=900_000_000,
    )
    for row in rows[:2]:
        row["memory_kernel_bytes"] = 2_000_000_000
    rows[7] |= {"server_pss_bytes": 20_000_000, "swarm_pss_bytes": 30_000_000} | columns
    return figures(samples=rows)


def test_bytes_per_connection_come_from_the_plateau_with_pss_against_the_time_before_the_ramp() -> None:
    found = memory()
    assert found["server_user_bytes_per_connection"] == 200.0
    assert found["swarm_user_bytes_per_connection"] == 300.0
    assert found["kernel_bytes_per_connection"] == 8400.0
    assert found["total_bytes_per_connection"] == 8900.0


def test_of_a_foreign_server_the_growth_since_the_beginning_of_the_ramp_counts() -> None:
    rows = samples(server_processes=1)
    rows[1] |= {"server_pss_bytes": 50_000_000, "server_processes": 1}
    rows[2] |= {"server_pss_bytes": 49_000_000, "swarm_connections_open": 1_000}  # The swarm shares pages by now.
    rows[7] |= {"server_pss_bytes": 544_000_000}
    found = figures(samples=rows, stage={"server": "node my.js"})
    assert found["server_user_bytes_per_connection"] == 5000.0
    # That it shrank says nothing about a connection.
    rows[7] |= {"server_pss_bytes": 48_000_000}
    assert figures(samples=rows, stage={"server": "node my.js"})["server_user_bytes_per_connection"] is None


def test_rss_stands_in_where_pss_was_not_read() -> None:
    found = memory(server_pss_bytes=None, swarm_pss_bytes=None)
    assert found["server_user_bytes_per_connection"] == 9000.0


def test_a_missing_part_leaves_no_total() -> None:
    found = figures()
    assert found["kernel_bytes_per_connection"] is None
    assert found["total_bytes_per_connection"] is None


def test_without_a_hold_the_sample_with_all_connections_is_the_plateau() -> None:
    rows = [row for row in samples(server_rss_bytes=10_000_000) if row["phase"] != "hold"]
    assert figures(samples=rows)["server_user_bytes_per_connection"] == 100.0


def test_cpu_per_connection_is_that_of_the_ramp() -> None:
    found = figures()
    # 0.4 s of CPU a second over the four seconds of the ramp.
    assert found["server_cpu_seconds_per_connection"] == pytest.approx(1.6 / ASKED)
    assert found["swarm_cpu_seconds_per_connection"] == pytest.approx(2.0 / ASKED)


def test_cpu_per_message_is_that_of_the_verify_phase() -> None:
    found = figures()
    assert found["server_cpu_seconds_per_message"] > 0
    # The same load at both ends but for their CPU: 0.4 and 0.5 s a second.
    ratio = found["swarm_cpu_seconds_per_message"] / found["server_cpu_seconds_per_message"]
    assert ratio == pytest.approx(0.5 / 0.4)
    assert figures(events=[])["server_cpu_seconds_per_message"] is None


def test_the_least_headroom_is_that_under_load() -> None:
    found = figures(samples=samples(memory_headroom_bytes=[9, 8, 7, 6, 6, 6, 6, 5, 6, 6, 1]))
    assert found["memory_headroom_bytes_min"] == 5


def test_a_busy_swarm_beside_an_idle_server_is_told() -> None:
    assert figures()["generator_limited"] is False
    busy = samples(swarm_cpu_fraction_max=0.97, server_cpu_fraction_max=0.4, swarm_lag_seconds_max=rising(0, 1))
    assert figures(samples=busy)["generator_limited"] is True


def test_a_run_that_recorded_nothing_has_figures_without_values() -> None:
    found = summarize({"connections": 5}, layout(), [], [], [])
    assert found["connections"] == 5
    assert found["connections_open"] == 0
    assert found["connections_per_second"] is None
    assert found["generator_limited"] is False
