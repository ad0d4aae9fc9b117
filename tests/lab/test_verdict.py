"""The verdict: one word and one sentence for what the events of a run say."""

from __future__ import annotations

from typing import Any

import pytest

from core.made import layout
from wslab.core.evidence import Evidence
from wslab.core.records import Finding
from wslab.lab import verdict
from wslab.lab.verdict import judge, reached

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


def evidence(events: list[Event], *, aborted: bool = False, **stage: Any) -> Evidence:
    return Evidence(stage={"connections": ASKED, **stage}, plan=layout(), events=events, aborted=aborted)


def died(role: str, *, expected: bool = False) -> Event:
    return {"event": "process_exited", "role": role, "pid": 7, "exit_code": None, "signal": 9, "expected": expected}


def found(limit: str) -> list[Finding]:
    return [Finding(limit=limit, side="machine", at_connections=1, evidence="", remedy="")]


SENT = {"messages_sent": 1000, "messages_received": 1000, "messages_failed": 0, "messages_unasked": 0}
ERROR = {"event": "error", "message": "no port"}


@pytest.mark.parametrize(
    ("events", "findings", "outcome", "reason"),
    [
        (phases(), [], "held", ""),
        ([*phases(), died("server", expected=True)], [], "held", ""),
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
    events: list[Event], findings: list[Finding], outcome: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "diagnose", lambda evidence: findings)
    told = judge(evidence(events))
    assert told.outcome == outcome
    assert told.reason.startswith(reason)
    assert bool(told.reason) == bool(reason)


@pytest.mark.parametrize(
    ("counts", "stage", "reason"),
    [
        ({"messages_failed": 4}, {}, "4 of 1,000 messages failed"),
        ({"messages_unasked": 1000}, {}, "1,000 unasked messages came from the server"),
        ({"messages_sent": 100, "messages_received": 100}, {"message_rate": 1}, "of 100 messages a second answered"),
    ],
)
def test_messages_that_were_missed_break_a_run_and_a_broken_run_has_a_finding(
    counts: Event, stage: Event, reason: str
) -> None:
    hold = [
        {"elapsed_seconds": 2.0, "event": "phase_started", "phase": "hold"},
        {"elapsed_seconds": 12.0, "event": "phase_ended", "phase": "hold", "connections_open": ASKED, **SENT, **counts},
    ]
    ramp, verify = phases()[:2], phases()[2:]
    verify[-1] |= {**SENT, **counts}
    told = judge(evidence([*ramp, *hold, *verify], **stage))
    assert told.outcome == "broke"
    assert reason in told.reason
    assert len(told.findings) == 1


def test_echoes_that_came_after_they_had_been_given_up_are_not_unasked() -> None:
    events = phases()
    table = [{"phase": "echo", "errno": 110, "name": "ETIMEDOUT", "count": 40, "first_seconds": 2.5}]
    events[-1] |= {**SENT, "messages_failed": 40, "messages_unasked": 30}
    told = judge(evidence([*events, {"elapsed_seconds": 3.0, "event": "failures", "table": table}]))
    assert told.outcome == "broke"
    assert "server_protocol" not in [finding.limit for finding in told.findings]


@pytest.mark.parametrize("counts", [{}, {"messages_failed": 1}, {"messages_unasked": 1}])
def test_one_message_in_a_thousand_breaks_nothing_and_a_held_run_has_no_finding(counts: Event) -> None:
    events = phases()
    events[-1] |= {**SENT, **counts}
    told = judge(evidence(events))
    assert (told.outcome, told.findings) == ("held", ())


def test_a_run_without_a_verify_phase_did_not_hold() -> None:
    told = judge(evidence(phases()[:2]))
    assert (told.outcome, [finding.limit for finding in told.findings]) == ("broke", ["unknown"])


def test_what_the_user_ended_is_aborted_and_says_how_far_it_came() -> None:
    events = phases(opened=40, stopped_by="caller")[:2]
    told = judge(evidence(events, aborted=True), aborted="stopped by the user")
    assert (told.outcome, told.reason) == ("aborted", "stopped by the user; 40 of 100 connections opened")
    assert told.findings == ()


def test_a_crash_on_the_callers_side_counts_before_everything_else() -> None:
    told = judge(evidence(phases()), crashed="disk full", aborted="stopped")
    assert (told.outcome, told.reason) == ("crashed", "disk full")


def test_connections_that_were_lost_are_told() -> None:
    events = phases()
    events[-1] |= {"connections_open": 97, "connections_closed": 3, "connections_verified": 97}
    assert reached(evidence(events)) == "100 of 100 connections opened, 3 lost, 97 verified"
