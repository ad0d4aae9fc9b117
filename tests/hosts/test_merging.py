"""Counts add up over hosts, samples meet on one clock, and a finding names the host on which its limit bound."""

from __future__ import annotations

from typing import Any

from core.made import evidence, failure, rising
from wslab.hosts.merging import HOST_LOST, find, merge_counts, merge_failures, merge_samples

OPEN = {"connections_open": 5, "connections_closed": 1, "messages_sent": 3}
LOST = {
    "elapsed_seconds": 7.0,
    "event": HOST_LOST,
    "host": "h2",
    "role": "swarm",
    "why": "its Dask worker is gone",
    "host_connections_open": 500,
    "connections_open": 500,
}


def failed(name: str, count: int, at: float | None) -> dict[str, Any]:
    return {"phase": "connect", "errno": {"ETIMEDOUT": 110, "EADDRNOTAVAIL": 99}[name], "name": name} | {
        "count": count,
        "first_seconds": at,
    }


def test_counts_add_up_and_what_a_lost_host_held_is_closed() -> None:
    assert merge_counts([OPEN, OPEN]) == {"connections_open": 10, "connections_closed": 2, "messages_sent": 6}
    assert merge_counts([OPEN], [OPEN]) == {"connections_open": 5, "connections_closed": 7, "messages_sent": 6}


def test_failures_add_up_and_the_first_of_a_kind_is_the_first_anywhere() -> None:
    tables = [[failed("ETIMEDOUT", 2, 5.0)], [failed("ETIMEDOUT", 3, 4.0), failed("EADDRNOTAVAIL", 1, None)]]
    assert merge_failures(tables) == [failed("EADDRNOTAVAIL", 1, None), failed("ETIMEDOUT", 5, 4.0)]


def test_a_sample_of_the_whole_sums_the_swarm_and_keeps_the_servers_kernel() -> None:
    def row(at: float, opened: int, busy: float, overflows: int) -> dict[str, Any]:
        return {
            "elapsed_seconds": at,
            "swarm_connections_open": opened,
            "swarm_cpu_fraction_max": busy,
            "listen_overflows_total": overflows,
        }

    server = [row(1.0, 0, 0.0, 7), row(2.0, 0, 0.0, 9)]
    merged = merge_samples(server, [[row(2.1, 10, 0.2, 1)], [row(1.2, 3, 0.5, 1), row(1.9, 4, 0.1, 2)]])
    assert [one["swarm_connections_open"] for one in merged] == [3, 14]
    assert [one["swarm_cpu_fraction_max"] for one in merged] == [0.5, 0.2]
    assert [one["listen_overflows_total"] for one in merged] == [7, 9]
    assert merge_samples(server, [[]])[0]["swarm_connections_open"] is None


def test_a_run_that_held_has_no_finding() -> None:
    assert find(evidence(), "h0", {"h1": evidence()}) == []


def test_a_limit_of_a_swarm_host_is_named_with_that_host() -> None:
    short = evidence(50_000, failures=[failure("connect", "EADDRNOTAVAIL", 50_000)])
    found = find(short, "h0", {"h1": evidence(), "h2": short})
    assert [(name, one.limit) for name, one in found] == [("h2", "ephemeral_ports")]
    assert found[0][1].evidence.startswith("on h2: ")


def test_a_limit_of_the_server_is_named_with_its_host() -> None:
    failures = [failure("connect", "ETIMEDOUT", 50_000)]
    overflows = {"listen_overflows_total": rising(17, 9_000)}
    found = find(
        evidence(50_000, failures=failures, columns=overflows), "h0", {"h1": evidence(50_000, failures=failures)}
    )
    assert [(name, one.limit) for name, one in found] == [("h0", "accept_queue")]


def test_a_lost_host_is_the_finding_and_nothing_is_guessed_beside_it() -> None:
    found = find(evidence(50_000, told={"extra": [LOST]}), "h0", {"h1": evidence(50_000), "h2": evidence(50_000)})
    assert [(name, one.limit, one.certainty) for name, one in found] == [("h2", HOST_LOST, "proved")]
    assert found[0][1].evidence == "host h2 is lost: its Dask worker is gone; it held 500 connections"
