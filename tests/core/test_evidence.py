"""Evidence: counters quoted with both values, errors counted by phase and name, misses in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.made import evidence, exited, failure, layout, rising
from wslab.core.evidence import Evidence


def test_a_counter_is_quoted_under_its_kernel_name_with_both_values() -> None:
    run = evidence(columns={"listen_overflows_total": rising(17, 400)})
    assert run.quote("listen_overflows_total") == "ListenOverflows 17 → 4,017"
    assert run.delta("listen_overflows_total") == 4000


def test_what_was_not_read_is_quoted_as_such_and_did_not_rise() -> None:
    run = Evidence(stage={"connections": 1}, plan=layout(), samples=[{"phase": "ramp", "conntrack_drops_total": None}])
    assert run.quote("conntrack_drops_total") == "nf_conntrack drop not read"
    assert run.delta("conntrack_drops_total") == 0


def test_what_the_drain_does_to_a_counter_is_not_evidence() -> None:
    run = evidence(columns={"listen_overflows_total": [17] * 11})
    late = {"phase": "drain", "elapsed_seconds": 14.0, "listen_overflows_total": 900}
    after = Evidence(stage=run.stage, plan=run.plan, samples=[*run.samples, late])
    assert after.delta("listen_overflows_total") == 0


def test_errors_are_counted_by_phase_and_name() -> None:
    run = evidence(
        failures=[failure("connect", "EMFILE", 3), failure("connect", "ETIMEDOUT", 4), failure("echo", "ETIMEDOUT", 5)]
    )
    assert run.errors() == 12
    assert run.errors("connect") == 7
    assert run.errors(names="ETIMEDOUT EMFILE") == 12
    assert run.errors("echo hold", "ETIMEDOUT") == 5
    assert run.timeouts == 9
    assert run.quote_errors("connect") == "connect EMFILE × 3, connect ETIMEDOUT × 4"


def test_only_a_death_that_nobody_asked_for_counts() -> None:
    asked = {**exited("server", exit_code=0), "expected": True}
    assert evidence(told={"extra": [asked]}).deaths("server") == []
    assert len(evidence(told={"extra": [exited("server", signal=9)]}).deaths("server")) == 1


@pytest.mark.parametrize(
    ("run", "misses"),
    [
        ({}, []),
        ({"opened": 99_999}, ["99,999 of 100,000 connections opened"]),
        ({"told": {"verify": {"connections_verified": 99_998}}}, ["99,998 of 100,000 connections verified"]),
        ({"told": {"verify": {"connections_open": 99_000}}}, ["1,000 connections lost by the end of verify"]),
        ({"told": {"hold": {"stopped_by": "memory_reserve"}}}, ["hold cut short by memory_reserve"]),
        ({"told": {"hold": {"stopped_by": "caller"}}}, []),
        ({"told": {"extra": [exited("server", signal=11)]}}, ["1 server process ended"]),
        ({"stage": {"ramp_rate": "50k"}}, ["25,000 of 50,000 connections a second"]),
        ({"stage": {"ramp_rate": 36_000}}, []),  # One second of grace: 100k at 36k/s would take 2.8 s, it took 4.
        ({"stage": {"ramp_rate": 38_000}}, ["25,000 of 38,000 connections a second"]),
        ({"told": {"hold": {"messages_received": 3601}}}, []),  # 4,000 were due
        ({"told": {"hold": {"messages_received": 3599}}}, ["900 of 1,000 messages a second answered"]),
        # On a slow link, what was sent in the last moments is still on its way.
        ({"told": {"hold": {"messages_received": 3599}}, "columns": {"link_roundtrip_seconds_min": 0.04}}, []),
        (
            {"told": {"hold": {"messages_received": 3000}}, "columns": {"link_roundtrip_seconds_min": 0.04}},
            ["750 of 1,000 messages a second answered"],
        ),
        # A few lost SYNs are sent again after one second or three; many are no bad luck.
        ({"stage": {"ramp_rate": 38_000}, "columns": {"syn_retransmits_total": 60}}, []),
        (
            {"stage": {"ramp_rate": 38_000}, "columns": {"syn_retransmits_total": 9_000}},
            ["25,000 of 38,000 connections a second"],
        ),
    ],
)
def test_a_miss_is_said_in_words(run: dict[str, Any], misses: list[str]) -> None:
    assert evidence(**run).misses == misses


@pytest.mark.parametrize(
    ("run", "phases"),
    [
        ({}, ()),
        ({"opened": 99_999}, ("ramp",)),
        ({"stage": {"ramp_rate": "50k"}}, ("ramp",)),
        ({"told": {"hold": {"messages_received": 3599}}}, ("hold",)),
        ({"told": {"hold": {"stopped_by": "memory_reserve"}}}, ("hold",)),
        ({"told": {"verify": {"connections_verified": 99_998}}}, ("verify",)),
        ({"told": {"verify": {"connections_verified": 9}, "hold": {"messages_received": 9}}}, ("hold", "verify")),
        ({"told": {"extra": [exited("server", signal=11)]}}, ("ramp",)),  # in the fourth second
    ],
)
def test_what_was_missed_was_missed_in_a_phase(run: dict[str, Any], phases: tuple[str, ...]) -> None:
    assert evidence(**run).missed_in == phases


def test_counters_that_were_read_at_a_failure_narrow_the_time_in_which_they_rose() -> None:
    run = evidence(columns={"conntrack_drops_total": rising(9, 40)})
    coarse = run.rose_within("conntrack_drops_total")
    assert coarse == (2.0, 3.0)
    looks = [
        {"event": "counters", "elapsed_seconds": 2.4, "conntrack_drops_total": 9, "softnet_drops_total": None},
        {"event": "counters", "elapsed_seconds": 2.6, "conntrack_drops_total": 10, "softnet_drops_total": None},
    ]
    fine = replace(run, events=[*run.events, *looks])
    assert fine.rose_within("conntrack_drops_total") == (2.4, 2.6)
    assert fine.became_within("conntrack_drops_total", 30) == (2.6, 3.0)
    assert fine.rose_within("softnet_drops_total") is None
