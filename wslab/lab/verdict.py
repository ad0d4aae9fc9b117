"""How a run ended, in one word and one sentence, from its events and findings.

The questions are asked in this order, because a later one makes no sense once an earlier one has its answer:

1. Did something of ours fail, and no limit of the machine explains it? Then it crashed.
2. Did the user end it? Then it was aborted.
3. Is everything open and verified that was asked for, with no failure? Then it held.
4. Else it broke.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wslab.core.records import ABORTED, BROKE, CRASHED, HELD, Finding
from wslab.core.timeline import last_phase, timeline

# Limits that end processes, or keep them from being started: what died of them did not crash by itself.
DEADLY_LIMITS = ("memory_machine", "memory_cgroup", "process_limit")
OWN_ROLES = ("supervisor", "swarm", "recorder")


def verdict(
    asked: int,
    events: Sequence[Mapping[str, Any]],
    findings: Sequence[Finding] = (),
    *,
    crashed: str = "",
    aborted: str = "",
) -> tuple[str, str]:
    """Return the outcome of a run and its reason.

    Args:
        asked: connections asked for.
        events: everything that happened.
        findings: what the diagnosis found.
        crashed: what went wrong on the caller's side, empty if nothing did.
        aborted: who ended the run early, empty if nobody did.
    """
    explained = any(finding.limit in DEADLY_LIMITS for finding in findings)
    crash = crashed or _error(events) or _death(events, OWN_ROLES)
    if crash and not explained:
        return CRASHED, crash
    where = reached(asked, events)
    if aborted:
        return ABORTED, f"{aborted}; {where}"
    verify = last_phase(timeline(events), "verify")
    end = verify.end if verify else {}
    complete = end.get("connections_open") == end.get("connections_verified") == asked
    spotless = not (end.get("connections_failed") or end.get("stopped_by") or _death(events, ("server", *OWN_ROLES)))
    if complete and spotless:
        return HELD, ""
    names = ", ".join(dict.fromkeys(finding.limit for finding in findings))
    return BROKE, f"{names}: {where}" if names else where


def reached(asked: int, events: Sequence[Mapping[str, Any]]) -> str:
    """Return in words how far a run came."""
    phases = timeline(events)
    ramp, verify = last_phase(phases, "ramp"), last_phase(phases, "verify")
    if ramp is None:
        return f"none of {asked:,} connections was tried"
    parts = [f"{ramp.end.get('connections_open', 0):,} of {asked:,} connections opened"]
    ends = [phase.end for phase in phases if phase.end and phase.name != "drain"]
    if ends and ends[-1].get("connections_failed"):
        parts.append(f"{ends[-1]['connections_failed']:,} failed")
    if ends and ends[-1].get("connections_closed"):
        parts.append(f"{ends[-1]['connections_closed']:,} lost")
    if verify and verify.end:
        parts.append(f"{verify.end.get('connections_verified', 0):,} verified")
    return ", ".join(parts)


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
