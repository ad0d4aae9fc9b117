"""Certainty: what the kernel's own word proves, what its counters count, and what is only inferred from the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.made import ASKED, evidence, exited, failure, rising
from wslab.core.diagnosis import RULES, Rule, diagnose
from wslab.core.records import Certainty, Finding
from wslab.core.ruled_out import COUNTERS_OF, ERRNO_OF
from wslab.core.rules import finding

TIMEOUTS = [failure("connect", "ETIMEDOUT", 500)]
SLOW = {"hold": {"messages_received": 1000}, "verify": {"messages_received": 101_000}}


DROPS, OVERFLOWS = rising(9, 60), rising(17, 300)
FAST = {"ramp_rate": 50_000}

HOW_KNOWN: list[tuple[str, str, dict[str, Any]]] = [
    ("file_max", "proved", {"opened": 9, "failures": [failure("connect", "ENFILE", 1)]}),
    ("epoll_watches", "proved", {"opened": 9, "failures": [failure("connect", "ENOSPC", 1)]}),
    ("ephemeral_ports", "proved", {"opened": 9, "failures": [failure("connect", "EADDRNOTAVAIL", 1)]}),
    ("server_died", "proved", {"opened": 9, "told": {"extra": [exited("server", exit_code=1)]}}),
    ("fd_limit", "counted", {"opened": 9, "columns": {"server_shards_at_limit": 6}}),
    ("conntrack", "counted", {"columns": {"conntrack_drops_total": DROPS}, "failures": TIMEOUTS}),
    # A few packets were dropped, which is a part of the five hundred attempts that timed out.
    ("conntrack", "inferred", {"columns": {"conntrack_drops_total": rising(9, 10)}, "failures": TIMEOUTS}),
    ("accept_queue", "counted", {"columns": {"listen_overflows_total": OVERFLOWS}, "failures": TIMEOUTS}),
    # A rate was missed and nothing failed: no counter says how many connections a second an overflow costs.
    ("accept_queue", "inferred", {"opened": ASKED, "columns": {"listen_overflows_total": OVERFLOWS}, "stage": FAST}),
    ("server_cpu", "inferred", {"opened": ASKED, "told": SLOW, "columns": {"server_cpu_fraction_max": 1.0}}),
    ("unknown", "inferred", {"opened": 9}),
]


@pytest.mark.parametrize(("limit", "certainty", "run"), HOW_KNOWN)
def test_a_finding_says_how_it_is_known(limit: str, certainty: str, run: dict[str, Any]) -> None:
    first = diagnose(evidence(**{"opened": 99_500, **run}))[0]
    assert (first.limit, first.as_dict()["certainty"]) == (limit, certainty)
    assert bool(first.ruled_out) == (certainty == "inferred")


def test_what_is_inferred_lists_the_limits_whose_proof_was_looked_for_and_did_not_appear() -> None:
    columns = {"server_cpu_fraction_max": 1.0, "softnet_drops_total": rising(5, 1)}
    (found,) = diagnose(evidence(told=SLOW, columns=columns))
    assert found.limit == "server_cpu"
    assert set(found.ruled_out) == {*COUNTERS_OF, *ERRNO_OF, "fd_limit", "generator", "machine_cpu"} - {
        "device_backlog"
    }


def test_a_counter_that_was_not_read_rules_nothing_out() -> None:
    run = evidence(told=SLOW, columns={"server_cpu_fraction_max": 1.0})
    unread = {"conntrack_drops_total": None, "server_shards_at_limit": None}
    blind = replace(run, samples=[{**sample, **unread} for sample in run.samples])
    (seeing,), (found,) = diagnose(run), diagnose(blind)
    assert set(seeing.ruled_out) - set(found.ruled_out) == {"conntrack", "fd_limit"}


def test_a_rule_states_its_certainty_or_has_that_of_its_rank() -> None:
    def one(run: Any) -> Any:
        yield finding(run, "conntrack", "kernel", "made up")

    def known(**fields: Any) -> list[Finding]:
        return Rule(limits=("conntrack",), test=one, **fields).findings(evidence(opened=9))

    assert [known(rank=rank)[0].certainty for rank in (0, 1, 2)] == ["proved", "counted", "inferred"]
    assert known(rank=0, certainty=Certainty.COUNTED)[0].certainty == "counted"


def test_no_rule_that_compares_is_worded_as_proved() -> None:
    assert all(rule.certainty is not Certainty.PROVED for rule in RULES if rule.rank > 1)
