"""What bound first: every pair of limits that have a number, each 10 % under the other, in both orders.

At 20,000 connections a second, 10 % of them are opened in less time than passes between two samples. A limit that
refuses shows at once; one that holds attempts up shows late, and the attempts that wait use up the other limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from core.made import ASKED, evidence, failed_table, failure
from wslab.core.diagnosis import diagnose
from wslab.core.evidence import Evidence
from wslab.core.order import without_aftermath
from wslab.core.plan import FDS_RESERVED
from wslab.core.records import Finding

LOWER, HIGHER = 70_000, 77_000
REFUSED_AT = 3.9  # seconds; the sample before was taken at 3, the one after at 4
SHARDS, WORKERS = {LOWER: 10, HIGHER: 11}, {LOWER: 10, HIGHER: 11}
FDS = LOWER // 10 + FDS_RESERVED

Change = Callable[[int], dict[str, Any]]


def ports(ceiling: int) -> dict[str, Any]:
    return {
        "limits": {"port_low": 20_000, "port_high": 20_000 + ceiling // 2 - 1},
        "plan": {"source_addresses": ["127.0.0.2"] * 2},
    }


def with_listener(ceiling: int) -> dict[str, Any]:
    return {**ports(ceiling), "plan": {**ports(ceiling)["plan"], "ports_at_bind": True}}


def closed_before(ceiling: int) -> dict[str, Any]:
    return {**ports(ASKED), "columns": {"tcp_time_wait": ASKED - ceiling}}


# Each limit: its side, what gives it a ceiling, and the errno that it refuses with; empty where it holds attempts up.
LIMITS: dict[str, tuple[str, Change, str]] = {
    "ephemeral_ports": ("swarm", ports, "EADDRNOTAVAIL"),
    "bind_ports": ("swarm", with_listener, "EADDRINUSE"),
    "time_wait": ("kernel", closed_before, "EADDRNOTAVAIL"),
    "fd_limit swarm": (
        "swarm",
        lambda n: {"limits": {"fd_hard": FDS}, "plan": {"swarm_workers": WORKERS[n]}},
        "EMFILE",
    ),
    "epoll_watches": ("kernel", lambda n: {"limits": {"epoll_watches_max": 2 * n}}, "ENOSPC"),
    "file_max": ("kernel", lambda n: {"limits": {"file_max": 2 * n, "file_used": 0, "uid": 1000}}, "ENFILE"),
    "fd_limit server": ("server", lambda n: {"limits": {"fd_hard": FDS}, "plan": {"server_shards": SHARDS[n]}}, ""),
    "conntrack": ("kernel", lambda n: {"limits": {"conntrack_max": n, "conntrack_tracking": True}}, ""),
    "firewall": ("kernel", lambda n: {}, ""),
}
# What a limit that holds attempts up shows, from the sample at 4 s on.
SHOWN: dict[str, dict[str, Any]] = {
    "fd_limit server": {"server_shards_at_limit": [0, 0, *[10] * 9], "server_fds_max": [100, 5000, *[FDS] * 9]},
    "conntrack": {
        "conntrack_drops_total": [9, 9, *[30_000] * 9],
        "conntrack_max": LOWER,
        "conntrack_count": [144, 144, *[LOWER] * 9],
    },
    "firewall": {"syn_retransmits_total": [40, 40, *[30_000] * 9], "server_listeners": 1, "server_accept_queue": 0},
}
UNREAD = {"event": "firewall", "rules": None}
# Two that one setting bounds.
OF_PORTS = {"ephemeral_ports", "bind_ports", "time_wait"}
PAIRS = [pair for pair in permutations(LIMITS, 2) if not set(pair) <= OF_PORTS]


def met(first: str, second: str) -> Evidence:
    """Return a run in which one limit bound at LOWER and the other has its ceiling at HIGHER."""
    given: dict[str, dict[str, Any]] = {"limits": {"fd_hard": 1_000_000}, "plan": {}, "columns": {}}
    # Where both ends have limits of their own, the processes of the other end have descriptors to spare.
    for name, ceiling in ((second, HIGHER), (first, LOWER)):
        for part, values in LIMITS[name][1](ceiling).items():
            given[part] |= values
    if given["limits"]["fd_hard"] == FDS:
        given["plan"] = {"server_shards": 40, "swarm_workers": 40, **given["plan"]}
    errno, errno_next = LIMITS[first][2], LIMITS[second][2]
    if errno:
        failures = [failure("connect", errno, 300, REFUSED_AT)]
    else:
        given["columns"] |= SHOWN[first]
        failures = [failure("connect", "ETIMEDOUT", HIGHER - LOWER, 13.5)]
        # The attempts that wait have the rest of what the other limit allows, so that further ones are refused.
        failures += [failure("connect", errno_next, 300, REFUSED_AT)] if errno_next else []
    return evidence(LOWER, failures=failures, told={"extra": [UNREAD]}, **given)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_limits_that_are_close_the_one_that_bound_first_is_named_first(first: str, second: str) -> None:
    found = diagnose(met(first, second))
    assert (found[0].limit, found[0].side) == (first.split()[0], LIMITS[first][0])
    assert {one.limit for one in found} <= {first.split()[0], second.split()[0]}


@pytest.mark.parametrize("name", [name for name, (_, _, errno) in LIMITS.items() if errno])
def test_a_limit_that_open_connections_used_up_is_not_a_consequence_of_attempts_that_time_out(name: str) -> None:
    run = met(name, "firewall")
    late = failed_table([*run.failures, failure("upgrade", "ETIMEDOUT", 200, 13.5)])
    found = diagnose(replace(run, events=[*run.events, late]))
    assert found[0].limit == name.split()[0]


def test_where_nothing_explains_why_attempts_waited_what_they_used_up_is_named() -> None:
    waited = [failure("connect", "EADDRNOTAVAIL", 300, 3.9), failure("connect", "ETIMEDOUT", 7000, 13.5)]
    busy = {"swarm_cpu_fraction_max": 1.0, "server_cpu_fraction_max": 0.3}
    found = diagnose(evidence(LOWER, failures=waited, columns=busy, **ports(HIGHER)))
    assert [one.limit for one in found] == ["ephemeral_ports"]


def test_a_server_that_died_is_not_said_to_refuse_as_well() -> None:
    def found(limit: str) -> Finding:
        return Finding(limit=limit, side="server", at_connections=50, evidence="e", remedy="r")

    died, refused, full = found("server_died"), found("server_refused"), found("fd_limit")
    assert without_aftermath([refused, died, full]) == [died, full]
    assert without_aftermath([refused, full]) == [refused, full]
