"""Findings as people see them: what is inferred says so, in a terminal, on a card and in the reason of a run."""

from __future__ import annotations

from typing import Any

import pytest

from core.made import evidence, failure
from wslab.lab.tables import finding_lines, finding_name, findings_html
from wslab.lab.verdict import judge

FOUND = {"limit": "server_cpu", "side": "server", "at_connections": 500, "evidence": "busy", "remedy": "more shards"}
INFERRED = {**FOUND, "certainty": "inferred", "ruled_out": ["conntrack", "accept_queue"]}


@pytest.mark.parametrize("certainty", ["proved", "counted", "inferred"])
def test_a_finding_is_shown_with_its_certainty(certainty: str) -> None:
    found = {**FOUND, "certainty": certainty}
    assert f"(server, {certainty})" in finding_lines(found)[0]
    assert f"(server, {certainty})" in findings_html([found])
    assert ("inferred" in finding_name(found)) == (certainty == "inferred")


def test_what_was_ruled_out_is_shown_with_what_is_inferred() -> None:
    assert "conntrack, accept_queue" in "\n".join(finding_lines(INFERRED))
    assert "conntrack, accept_queue" in findings_html([INFERRED])


def test_a_finding_that_was_recorded_without_certainty_is_shown_without() -> None:
    assert finding_lines(FOUND)[0] == "  server_cpu (server): busy"
    assert finding_name(FOUND) == "server_cpu"


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ({"opened": 9, "failures": [failure("connect", "EADDRNOTAVAIL", 1)]}, "ephemeral_ports: "),
        ({"columns": {"server_cpu_fraction_max": 1.0}, "stage": {"ramp_rate": 50_000}}, "server_cpu (inferred): "),
        ({"opened": 9}, "unknown: "),
    ],
)
def test_the_reason_of_a_run_words_only_what_is_known_as_known(run: dict[str, Any], reason: str) -> None:
    assert judge(evidence(**run)).reason.startswith(reason)
