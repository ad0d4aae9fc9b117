"""Limits explained: every name that a finding can have, with nothing that the tables or recorded runs contradict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wslab.core.diagnosis import RULES, diagnose
from wslab.core.evidence import Evidence
from wslab.core.explanations import EXPLANATIONS
from wslab.core.limits import LIMITS
from wslab.core.quantities import BadInput
from wslab.lab import store
from wslab.lab.explain import explain, explain_all

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "data/reference/limits.md"


def recorded_evidence() -> dict[str, list[str]]:
    """Return the evidence that today's rules find in the recorded breaks, by limit."""
    found: dict[str, list[str]] = {}
    for folder in (ROOT / "tests" / "data").glob("broken-*"):
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        evidence = Evidence.recorded(run, store.read_samples(folder), store.read_events(folder))
        for finding in diagnose(evidence)[:1]:
            found.setdefault(finding.limit, []).append(finding.evidence)
    return found


def test_every_name_of_a_finding_or_a_preflight_is_explained() -> None:
    names = {name for rule in RULES for name in rule.limits} | {limit.name for limit in LIMITS}
    assert set(EXPLANATIONS) == names


def test_what_looks_alike_is_explained_as_well() -> None:
    assert {name for row in EXPLANATIONS.values() for name in row.look_alikes} <= set(EXPLANATIONS)


def test_every_example_was_found_in_a_recorded_run() -> None:
    found = recorded_evidence()
    examples = {name: row.example for name, row in EXPLANATIONS.items() if row.example}
    assert len(examples) > 20
    for name, example in examples.items():
        assert any(example in evidence for evidence in found[name]), name


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_a_limit_is_told_whole(name: str) -> None:
    told = explain(name)
    headings = {heading for heading, text in told.sections() if text.strip(". ")}
    assert {"What it is", "How it looks", "Where it is read", "What proves it", "What lifts it"} <= headings
    assert told.text().startswith(f"{name}: {told.title}")
    assert told.as_dict()["lifts"] == list(told.lifts)


def test_the_commands_that_lift_a_limit_are_those_of_its_row() -> None:
    assert "wslab stage --source-addresses" in explain("ephemeral_ports").lifts
    assert "sysctl net.ipv4.ip_local_port_range" in explain("ephemeral_ports").lifts
    assert 'ulimit -n "$(ulimit -Hn)"' in explain("fd_limit").lifts


@pytest.mark.parametrize(("typed", "says"), [("contrack", "did you mean conntrack\\?"), ("zzz", "wslab explain")])
def test_an_unknown_limit_is_refused(typed: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        explain(typed)


def test_the_page_of_the_docs_is_what_the_tables_say() -> None:
    written = explain_all(whole=True, page=True).text() + "\n"
    assert PAGE.read_text(encoding="utf-8") == written, "wslab explain --all --markdown > data/reference/limits.md"
