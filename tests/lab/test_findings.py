"""Findings are a list as before, and show themselves in a terminal and in a notebook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from made_runs import BROKEN, make_run
from wslab.core.records import Finding
from wslab.lab.findings import Findings
from wslab.lab.runs import Run

RECORD = Finding(limit="fd_limit", side="server", at_connections=5, evidence="EMFILE <1>", remedy="raise it")
BROKEN_RUN = Path(__file__).parents[1] / "data" / "broken-conntrack"


@pytest.mark.parametrize("found", [RECORD, RECORD.as_dict()], ids=["record", "mapping"])
def test_a_finding_shows_limit_side_evidence_and_remedy(found: Finding) -> None:
    shown = Findings([found])
    assert repr(shown) == "fd_limit (server): EMFILE <1>\n  remedy: raise it"
    html = shown._repr_html_()
    assert "<b>fd_limit</b> (server) at 5 connections" in html
    assert "EMFILE &lt;1&gt;" in html
    assert "raise it" in html


def test_a_finding_of_a_run_that_held_is_a_remark() -> None:
    shown = Findings([RECORD], "held")
    assert repr(shown).startswith("remark: fd_limit")
    assert repr(shown[:1]).startswith("remark: fd_limit")
    assert "Remark: <b>fd_limit</b>" in shown._repr_html_()


def test_none_are_told_as_such() -> None:
    assert repr(Findings()) == "no findings"
    assert Findings()._repr_html_() == "<i>no findings</i>"


def test_the_findings_of_a_run_are_indexed_and_written_as_before(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 700_000, outcome="broke", reached=262_144, findings=(BROKEN,)))
    assert run.findings == [BROKEN]
    assert run.findings[0]["limit"] == "conntrack"
    assert json.loads(json.dumps(run.findings)) == [BROKEN]
    assert "conntrack (kernel): nf_conntrack_count reached" in repr(run.findings)
    assert type(run.as_dict()["findings"]) is list


def test_what_is_found_again_shows_itself_the_same_way() -> None:
    found = Run.load(BROKEN_RUN).diagnose()
    assert found[0].limit == "conntrack"
    assert "<b>conntrack</b> (kernel, counted)" in found._repr_html_()
    assert repr(found).startswith("conntrack (kernel, counted): ")
