"""How a run ended: its outcome, the reason in one sentence, and what the diagnosis found.

`wslab.core.evidence` decides what was asked for and missed. The questions here are asked in this order, because a later
one makes no sense once an earlier one has its answer:

1. Did something of ours fail, and no limit of the machine explains it? Then it crashed.
2. Did the user end it? Then it was aborted.
3. Was nothing missed? Then it held, and has no findings.
4. Else it broke.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wslab.core.diagnosis import diagnose
from wslab.core.evidence import Evidence
from wslab.core.records import ABORTED, BROKE, CRASHED, HELD, Finding
from wslab.core.timeline import last_phase, timeline
from wslab.lab.tables import finding_name

# Limits that end processes, or keep them from starting: a process that dies of one did not crash by itself.
DEADLY_LIMITS = ("memory_machine", "memory_cgroup", "process_limit")
OWN_ROLES = ("supervisor", "swarm", "recorder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The end of a run: `held`, `broke`, `aborted` or `crashed`, why, and what was found."""

    outcome: str
    reason: str
    findings: tuple[Finding, ...] = ()


def judge(evidence: Evidence, *, crashed: str = "", aborted: str = "") -> Verdict:
    """Judge a run by what it recorded.

    Args:
        evidence: what was recorded.
        crashed: what went wrong on the caller's side, empty if nothing did.
        aborted: who ended the run early, empty if nobody did.
    """
    findings = tuple(diagnose(evidence))
    outcome, reason = _outcome(evidence, findings, crashed, aborted)
    if outcome in (ABORTED, CRASHED):
        # A run that ended early is no evidence of an unknown limit.
        findings = tuple(finding for finding in findings if finding.limit != "unknown")
    return Verdict(outcome=outcome, reason=reason, findings=findings)


def _outcome(evidence: Evidence, findings: Sequence[Finding], crashed: str, aborted: str) -> tuple[str, str]:
    explained = any(finding.limit in DEADLY_LIMITS for finding in findings)
    crash = crashed or _error(evidence.events) or _death(evidence.events, OWN_ROLES)
    if crash and not explained:
        return CRASHED, crash
    where = reached(evidence)
    if aborted:
        return ABORTED, f"{aborted}; {where}"
    if not evidence.misses:
        return HELD, ""
    names = ", ".join(dict.fromkeys(finding_name(finding.as_dict()) for finding in findings))
    return BROKE, f"{names}: {where}" if names else where


def reached(evidence: Evidence) -> str:
    """Return in words how far a run came, and what it missed beside connections."""
    phases = timeline(evidence.events)
    ramp, verify = last_phase(phases, "ramp"), last_phase(phases, "verify")
    if ramp is None:
        return f"none of {evidence.asked:,} connections was tried"
    parts = [f"{ramp.end.get('connections_open', 0):,} of {evidence.asked:,} connections opened"]
    ends = [phase.end for phase in phases if phase.end and phase.name != "drain"]
    if ends and ends[-1].get("connections_failed"):
        parts.append(f"{ends[-1]['connections_failed']:,} failed")
    if ends and ends[-1].get("connections_closed"):
        parts.append(f"{ends[-1]['connections_closed']:,} lost")
    if verify and verify.end:
        parts.append(f"{verify.end.get('connections_verified', 0):,} verified")
    return ", ".join([*parts, *evidence.missed_beside_connections])


def _error(events: Sequence[Mapping[str, Any]]) -> str:
    """Return the first error; what a server says while it is under load is about the server, and not a crash."""
    tried = last_phase(timeline(events), "ramp") is not None
    errors = [event for event in events if event.get("event") == "error"]
    return next((str(event.get("message")) for event in errors if not (tried and event.get("role") == "server")), "")


def _death(events: Sequence[Mapping[str, Any]], roles: Sequence[str]) -> str:
    for event in events:
        if event.get("event") == "process_exited" and not event.get("expected") and event.get("role") in roles:
            how = f"exit code {event['exit_code']}" if event.get("signal") is None else f"signal {event['signal']}"
            return f"a process of the {event['role']} ended by itself (pid {event['pid']}, {how})"
    return ""
