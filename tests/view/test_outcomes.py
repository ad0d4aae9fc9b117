"""A sweep's outcome is its worst, and it reads as text, table and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from made_runs import make_run
from wslab.lab.runs import Run
from wslab.view.outcomes import Executed, Sweep


def stages(*outcomes: str) -> tuple[Executed, ...]:
    return tuple(Executed(stage="1k", outcome=outcome, reason="") for outcome in outcomes)


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        ([], "held"),
        (["held", "held"], "held"),
        (["held", "broke"], "broke"),
        (["broke", "aborted"], "aborted"),
        (["crashed", "broke", "held"], "crashed"),
    ],
)
def test_the_outcome_of_a_sweep_is_its_worst(outcomes: list[str], worst: str) -> None:
    assert Sweep(executed=stages(*outcomes)).outcome == worst


def test_a_sweep_as_json_has_the_figures_of_each_run(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 10_000))
    sweep = Sweep(executed=(Executed(stage="10k", outcome="held", reason="", run=run),), skipped=("1M",))
    document = json.loads(json.dumps(sweep.as_dict()))
    assert document["outcome"] == "held"
    assert document["skipped"] == ["1M"]
    assert document["stages"][0]["connections_open"] == 10_000
    assert document["stages"][0]["run_dir"] == str(run.run_dir)


def test_a_sweep_as_text_names_what_was_not_run_and_the_report() -> None:
    text = Sweep(executed=stages("broke"), skipped=("700k", "1M"), report="/x/index.html").text()
    assert "not run: 700k, 1M; --keep-going runs them too" in text
    assert text.endswith("report: /x/index.html")


def test_a_stage_without_a_run_has_a_row_all_the_same() -> None:
    sweep = Sweep(executed=(Executed(stage="1k", outcome="crashed", reason="it died"),))
    assert sweep.table().loc["1k", "outcome"] == "crashed"
    assert "it died" in sweep._repr_html_()
