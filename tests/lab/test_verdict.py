"""The verdict: one word and one sentence for what the events of a run say."""

from __future__ import annotations

from typing import Any

import pytest

from wslab.core.records import Finding
from wslab.lab.verdict import reached, verdict

Event = dict[str, Any]
ASKED = 100


def phases(
    *, opened: int = ASKED, verified: int = ASKED, failed: int = 0, stopped_by: str | None = None
) -> list[Event]:
    """Return the events of a run through ramp and verify."""
    counts = {"connections_open": opened, "connections_failed": failed}
    return [
        {"elapsed_seconds": 1.0, "event": "phase_started", "phase": "ramp"},
        {"elapsed_seconds": 2.0, "event": "phase_ended", "phase": "ramp", "stopped_by": stopped_by, **counts},
        {"elapsed_seconds": 2.0, "event": "phase_started", "phase": "verify"},
        {
            "elapsed_seconds": 3.0,
            "event": "phase_ended",
            "phase": "verify",
            "stopped_by": None,
            "connections_verified": verified,
            **counts,
        },
    ]


def died(role: str, *, expected: bool = False) -> Event:
    return {"event": "process_exited", "role": role, "pid": 7, "exit_code": None, "signal": 9, "expected": expected}


def found(limit: str) -> list[Finding]:
    return [Finding(limit=limit, side="machine", at_connections=1, evidence="", remedy="")]


ERROR = {"event": "error", "message": "no port"}


@pytest.mark.parametrize(
    ("events", "findings", "outcome", "reason"),
    [
        (phases(), [], "held", ""),
        ([*phases(), died("server", expected=True)], [], "held", ""),
        (phases(), found("generator"), "held", ""),
        (phases(verified=99), [], "broke", "100 of 100 connections opened, 99 verified"),
        (phases(opened=90, verified=90, failed=10), found("ephemeral_ports"), "broke", "ephemeral_ports: 90 of 100"),
        (phases(failed=1), [], "broke", "100 of 100 connections opened, 1 failed, 100 verified"),
        ([*phases(), died("server")], found("server_died"), "broke", "server_died: 100 of 100"),
        ([*phases(), {**ERROR, "role": "server"}], [], "held", ""),
        (
            [*phases(), died("swarm")],
            found("generator"),
            "crashed",
            "a process of the swarm ended by itself",
        ),
        ([*phases(), died("recorder")], [], "crashed", "a process of the recorder ended by itself"),
        ([*phases(), died("swarm")], found("memory_cgroup"), "broke", "memory_cgroup: 100 of 100"),
        ([ERROR], [], "crashed", "no port"),
        ([ERROR], found("process_limit"), "broke", "process_limit: none of 100 connections was tried"),
        ([], [], "broke", "none of 100 connections was tried"),
    ],
)
def test_the_events_of_a_run_have_one_outcome(
    events: list[Event], findings: list[Finding], outcome: str, reason: str
) -> None:
    told = verdict(ASKED, events, findings)
    assert told[0] == outcome
    assert told[1].startswith(reason)
    assert bool(told[1]) == bool(reason)


def test_what_the_user_ended_is_aborted_and_says_how_far_it_came() -> None:
    events = phases(opened=40, stopped_by="caller")[:2]
    told = verdict(ASKED, events, aborted="stopped by the user")
    assert told == ("aborted", "stopped by the user; 40 of 100 connections opened")


def test_a_crash_on_the_callers_side_counts_before_everything_else() -> None:
    assert verdict(ASKED, phases(), crashed="disk full", aborted="stopped") == ("crashed", "disk full")


def test_connections_that_were_lost_are_told() -> None:
    events = phases()
    events[-1] |= {"connections_open": 97, "connections_closed": 3, "connections_verified": 97}
    assert reached(ASKED, events) == "100 of 100 connections opened, 3 lost, 97 verified"
