"""A made-up run, healthy unless told otherwise: two seconds before, four of ramp, four of hold, two of verify."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from core.hosts import GIB, host
from wslab.core.evidence import Evidence
from wslab.core.plan import Plan

ASKED = 100_000
SECONDS = {"start": 2, "ramp": 4, "hold": 4, "verify": 2, "drain": 1}

# What a sample holds while all goes well; cumulative counters begin anywhere, as they run since boot.
QUIET: dict[str, Any] = {
    "listen_overflows_total": 17,
    "listen_drops_total": 17,
    "syn_cookies_total": 3,
    "syn_drops_total": 0,
    "syn_retransmits_total": 40,
    "retransmits_total": 90,
    "tcp_memory_pressures_total": 1,
    "tcp_aborts_on_memory_total": 0,
    "tcp_memory_bytes": 8_192,
    "tcp_time_wait": 4,
    "softnet_drops_total": 5,
    "conntrack_count": 144,
    "conntrack_max": 262_144,
    "conntrack_drops_total": 9,
    "oom_kills_total": 2,
    "file_handles": 1_170,
    "memory_headroom_bytes": 20 * GIB,
    "server_shards_at_limit": 0,
    "server_fds_max": 16_730,
    "server_cpu_fraction_max": 0.45,
    "swarm_cpu_fraction_max": 0.50,
    "swarm_lag_seconds_max": 0.002,
    "swarm_connections_pending": 0,
}


def phases() -> list[tuple[str, int, int]]:
    """Return name, first and last second of each phase."""
    spans, at = [], 0
    for name, seconds in SECONDS.items():
        spans.append((name, at, at + seconds))
        at += seconds
    return spans


def samples(opened: int = ASKED, **columns: Any) -> list[dict[str, Any]]:
    """Return a sample a second.

    Args:
        opened: connections open at the end of the ramp.
        **columns: a value for all samples from the ramp on; a list gives one for each second from the ramp on.
    """
    rows = []
    for name, start, end in phases():
        for second in range(start, end):
            share = min(1.0, max(0.0, (second - 1) / SECONDS["ramp"]))
            row = {
                "elapsed_seconds": float(second),
                "phase": name,
                **QUIET,
                "swarm_connections_open": int(opened * share),
                "server_connections_opened": int(opened * share),
                "cpu_user_seconds": 100.0 + 0.5 * second,
                "cpu_system_seconds": 100.0 + 0.5 * second,
                "cpu_idle_seconds": 500.0 + 1.0 * second,
                "server_cpu_user_seconds": 0.2 * second,
                "server_cpu_system_seconds": 0.2 * second,
                "swarm_cpu_user_seconds": 0.3 * second,
                "swarm_cpu_system_seconds": 0.2 * second,
            }
            since = second - SECONDS["start"]
            if since >= 0:
                row |= {key: value[since] if isinstance(value, list) else value for key, value in columns.items()}
            rows.append(row)
    return rows


def rising(first: float, step: float) -> list[float]:
    """Return one value for each second from the ramp on."""
    return [first + step * second for second in range(sum(SECONDS.values()) - SECONDS["start"])]


def events(opened: int = ASKED, **changes: Any) -> list[dict[str, Any]]:
    """Return the events of a run.

    Args:
        opened: connections open when the ramp ended.
        **changes: fields of a `phase_ended` event by phase name, and `extra`: more events.
    """
    told: list[dict[str, Any]] = [
        {"elapsed_seconds": 0.1, "event": "processes_ready", "role": "server", "pids": [10, 11]},
    ]
    messages = 0
    for name, start, end in phases():
        if name == "start":
            continue
        messages += {"hold": int(opened * 0.01 * SECONDS["hold"]), "verify": opened}.get(name, 0)
        counts = {
            "connections_open": 0 if name == "drain" else opened,
            "connections_failed": ASKED - opened,
            "connections_verified": opened if name in ("verify", "drain") else 0,
            "messages_sent": messages,
            "messages_received": messages,
            "stopped_by": None,
        }
        told.append({"elapsed_seconds": float(start), "event": "phase_started", "phase": name})
        told.append(
            {"elapsed_seconds": float(end), "event": "phase_ended", "phase": name, **counts, **changes.get(name, {})}
        )
    return told + list(changes.get("extra", ()))


def failure(phase: str, name: str, count: int, first_seconds: float | None = None) -> dict[str, Any]:
    """Return a row of the failure table."""
    return {"phase": phase, "errno": 0, "name": name, "count": count, "first_seconds": first_seconds}


def failed_table(failures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the event that tells all failures of a run."""
    return {"elapsed_seconds": 12.0, "event": "failures", "table": failures}


def layout(**changes: Any) -> Plan:
    """Return the layout of the run."""
    plan = Plan(
        connections=ASKED,
        server_shards=6,
        swarm_workers=6,
        connections_per_shard=-(-ASKED // 6),
        connections_per_worker=-(-ASKED // 6),
        source_addresses=("127.0.0.2",) * 13,
        pending_max=1024,
    )
    return replace(plan, **changes)


def exited(role: str, *, signal: int | None = None, exit_code: int | None = None) -> dict[str, Any]:
    """Return the event of a process that ended without being told to."""
    return {
        "elapsed_seconds": 4.0,
        "event": "process_exited",
        "role": role,
        "pid": 4711,
        "signal": signal,
        "exit_code": exit_code,
        "expected": False,
    }


def evidence(
    opened: int = ASKED,
    *,
    columns: dict[str, Any] | None = None,
    told: dict[str, Any] | None = None,
    failures: list[dict[str, Any]] | None = None,
    aborted: bool = False,
    stage: dict[str, Any] | None = None,
    plan: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
) -> Evidence:
    """Return the evidence of a run: healthy when everything that was asked for is open and nothing is given."""
    return Evidence(
        stage={"connections": ASKED, "ramp_rate": "max", "message_rate": 0.01, **(stage or {})},
        plan=layout(**(plan or {})),
        host=host(**(limits or {})),
        samples=samples(opened, **(columns or {})),
        events=[*events(opened, **(told or {})), *([failed_table(failures)] if failures else [])],
        aborted=aborted,
    )
