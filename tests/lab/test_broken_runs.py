"""Runs that were broken on purpose on a real machine: the diagnosis names the limit that was lowered, and no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wslab.breaks.table import BREAKS
from wslab.breaks.trial import Break
from wslab.core.diagnosis import RULES, diagnose
from wslab.core.evidence import Evidence
from wslab.core.records import Finding
from wslab.lab import store

DATA = Path(__file__).parents[1] / "data"
RECORDED = [item for item in BREAKS if not item.infeasible]

every_break = pytest.mark.parametrize("item", RECORDED, ids=lambda item: item.name)


def recorded(name: str, **changes: Any) -> Evidence:
    """Return what was recorded of a break, with some of the evidence replaced."""
    folder = DATA / f"broken-{name}"
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    evidence = Evidence.recorded(run, store.read_samples(folder), store.read_events(folder))
    return replace(evidence, **changes)


def without_failures(name: str) -> Evidence:
    return recorded(name, events=[event for event in recorded(name).events if event["event"] != "failures"])


def names(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.limit, finding.side) for finding in findings]


@every_break
def test_the_limit_that_was_lowered_is_named_first_and_none_that_was_not(item: Break) -> None:
    findings = diagnose(recorded(item.name))
    assert names(findings)[0] == (item.limit, item.side)
    assert {finding.limit for finding in findings} <= {item.limit, item.then or item.limit}
    assert all(finding.evidence and finding.remedy for finding in findings)


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        # In a virtual machine of 420 MiB, whose kernel ended a worker for want of memory.
        ("memory_machine", "machine", "by signal 9; vmstat oom_kill 0 → 1; least memory headroom 9.4 MiB"),
        # Against a server that speaks no WebSocket.
        ("server_protocol", "server", "upgrade EPROTO × 112; no upgrade"),
        # A port that nothing listens on, while both cores were busy with something else.
        ("server_refused", "server", "connect ECONNREFUSED × 100; sockets that listen on its port: 0; OutRsts "),
        # In a namespace that knows no way to the server's address.
        ("server_unreachable", "server", "connect ENETUNREACH × 100"),
        # Over three hosts, of which the Dask worker of one was killed in the hold.
        ("host_lost", "swarm", "host h2 is lost: its Dask worker is gone: Unable to contact Actor's worker"),
        # Against a server that closes each connection after two and a half seconds.
        ("server_closed", "server", "closed with code 1001 (idle for too long); hold ESHUTDOWN × 200"),
    ],
)
def test_what_was_met_elsewhere_is_named_as_well(name: str, side: str, words: str) -> None:
    (finding,) = diagnose(recorded(name))
    assert (finding.limit, finding.side) == (name, side)
    assert words in finding.evidence


def test_every_limit_that_a_rule_can_name_was_met_for_real() -> None:
    named = {finding.limit for folder in DATA.glob("broken-*") for finding in diagnose(recorded(folder.name[7:]))}
    assert named == {limit for rule in RULES for limit in rule.limits} - {"unknown"}


@pytest.mark.parametrize(
    ("name", "limit", "words"),
    [
        ("command_fd_limit", "fd_limit", "pid 10488 1,024 of 1,024"),
        ("command_memory_cgroup", "memory_cgroup", "KiB a connection"),
        ("command_stops_reading", "server_silent", "server_fds 5 → 105"),
        ("unready_refused", "server_refused", "HTTP 500"),
        ("unready_unreachable", "server_unreachable", "none of its processes listens"),
        ("unready_closed", "server_closed", "during the handshake"),
    ],
)
def test_a_server_of_the_users_is_named_from_what_was_seen_of_it_from_outside(
    name: str, limit: str, words: str
) -> None:
    first = diagnose(recorded(name))[0]
    assert first.limit == limit
    assert words in first.evidence


def test_where_the_next_limit_was_met_as_well_it_is_named_next() -> None:
    findings = diagnose(recorded("fd_limit_before_ports"))
    assert names(findings) == [("fd_limit", "server"), ("ephemeral_ports", "swarm")]


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("conntrack_before_ports", ["conntrack", "ephemeral_ports"]),
        ("ports_before_conntrack", ["ephemeral_ports"]),
        # Attempts that a rule drops, or that a full shard does not take, use up what comes next while they wait.
        ("firewall_before_fd_limit", ["firewall", "fd_limit"]),
        ("firewall_before_time_wait", ["firewall", "time_wait"]),
        ("fd_limit_before_time_wait", ["fd_limit", "time_wait"]),
    ],
)
@pytest.mark.parametrize("timed", [True, False])
def test_of_two_limits_that_are_close_the_one_that_bound_first_is_named_first(
    name: str, limits: list[str], timed: bool
) -> None:
    run = recorded(name)
    events = [dict(event) for event in run.events]
    for event in events if not timed else ():
        # As a run had it that did not record when each failure came first.
        event["table"] = [{**row, "first_seconds": None} for row in event.get("table") or ()]
    assert [finding.limit for finding in diagnose(replace(run, events=events))] == limits


def test_shards_that_are_full_while_others_have_room_are_not_what_broke() -> None:
    (finding,) = diagnose(recorded("conntrack_at_stock_size"))
    assert (finding.limit, finding.at_connections) == ("conntrack", 262_137)
    assert max(sample["server_shards_at_limit"] for sample in recorded("conntrack_at_stock_size").samples) == 9


def test_a_limit_that_ended_a_process_is_told_at_the_connections_that_it_had_by_then() -> None:
    (finding,) = diagnose(recorded("memory_cgroup"))
    assert finding.at_connections > 15_000


@pytest.mark.parametrize("name", ["ephemeral_ports", "bind_ports", "epoll_watches", "fd_limit_swarm"])
def test_without_its_errno_a_limit_is_not_named(name: str) -> None:
    (limit,) = {item.limit for item in RECORDED if item.name == name}
    assert limit not in {finding.limit for finding in diagnose(without_failures(name))}


UNREADABLE = {"event": "firewall", "rules": None}


@pytest.mark.parametrize(
    ("name", "kind", "certainty"),
    [
        ("firewall_refuses", "refused", "proved"),
        # Its rule has no counter.
        ("firewall_drops", "dropped", "inferred"),
        ("firewall_limits_rate", "rate-limited", "proved"),
    ],
)
def test_a_firewall_is_named_by_its_rule_and_without_root_by_elimination(name: str, kind: str, certainty: str) -> None:
    run = recorded(name)
    (read,) = diagnose(run)
    assert (read.limit, read.certainty) == ("firewall", certainty)
    assert read.evidence.startswith(f"{kind}: ")
    assert 'rule of inet wslab in: "tcp flags' in read.evidence
    unread = [UNREADABLE if event["event"] == "firewall" else event for event in run.events]
    (inferred,) = diagnose(replace(run, events=unread))
    assert (inferred.limit, inferred.certainty) == ("firewall", "inferred")
    assert "by elimination" in inferred.evidence
    # Root who sees no such rule has ruled it out, except where an attempt was refused while the server listened.
    none = [{"event": "firewall", "rules": []} if event["event"] == "firewall" else event for event in run.events]
    assert [one.limit for one in diagnose(replace(run, events=none))] == [
        "firewall" if kind == "refused" else "unknown"
    ]


@pytest.mark.parametrize(("name", "role"), [("server_cpu", "server"), ("generator", "swarm")])
def test_an_end_that_used_up_its_cpu_quota_is_named_with_it_and_lifted_by_a_larger_one(name: str, role: str) -> None:
    (finding,) = diagnose(recorded(name))
    assert f"{role} throttled in up to 100% of the periods of its CPU quota of 0.05 (nr_throttled " in finding.evidence
    assert finding.remedy.startswith(f"a larger CPU quota of the control group, now 0.05 for the {role}: ")


def test_a_server_that_used_little_cpu_is_not_busy_without_its_quota() -> None:
    samples = [{**sample, "server_cpu_throttled_fraction": None} for sample in recorded("server_cpu").samples]
    assert "server_cpu" not in {finding.limit for finding in diagnose(recorded("server_cpu", samples=samples))}
