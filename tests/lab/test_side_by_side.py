"""Runs side by side: figures with units, ratios to the first, and what else differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from made_runs import make_run
from wslab.core.quantities import BadInput
from wslab.lab.run_list import list_runs
from wslab.lab.runs import Run
from wslab.lab.side_by_side import compare


def made(
    folder: Path, number: int, connections: int = 50_000, summary: dict[str, Any] | None = None, **more: Any
) -> Run:
    """Return a made-up run with some figures of its own."""
    run_dir = make_run(folder, connections, second=number)
    manifest = json.loads((run_dir / "run.json").read_text())
    manifest["summary"].update(summary or {})
    for key, value in more.items():
        manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
    (run_dir / "run.json").write_text(json.dumps(manifest))
    return Run.load(run_dir)


def test_figures_are_numbers_and_ratios_those_to_the_first(tmp_path: Path) -> None:
    first = made(tmp_path, 1, summary={"ramp_seconds": 2.0, "messages_failed": 0})
    second = made(tmp_path, 2, summary={"ramp_seconds": 3.0, "messages_failed": 7, "roundtrip_seconds_p99": None})
    found = compare(first, second)
    assert found.figures.loc["ramp_seconds"].tolist() == [2.0, 3.0]
    assert found.ratios.loc["ramp_seconds"].tolist() == [1.0, 1.5]
    assert found.ratios.loc["messages_failed"].isna().all()
    lines = {line.split("  ")[0]: line.split() for line in found.text().splitlines()}
    assert lines["time to open them"][-3:] == ["3", "s", "1.50"]
    assert lines["round trip, 99 %"][-2:] == ["–", "–"]
    assert found.as_dict()["ratios"][second.run_id]["messages_failed"] is None
    assert found.warnings == ()


def test_figures_and_ratios_are_shown_without_exponents_and_stay_numbers(tmp_path: Path) -> None:
    summary = {"memory_headroom_bytes_min": 15_634_758_528, "roundtrip_seconds_p50": 0.0000812}
    found = compare(made(tmp_path, 1, summary=summary), made(tmp_path, 2))
    for shown in (repr(found.figures), found.figures._repr_html_(), repr(found.figures.loc[list(summary)])):
        assert "15,634,758,528" in shown
        assert "0.0000812" in shown
        assert "e+" not in shown
    assert set(found.figures.dtypes.map(str)) == set(found.ratios.dtypes.map(str)) == {"float64"}
    assert "e+" not in repr(found.ratios)


def test_what_differs_besides_is_told(tmp_path: Path) -> None:
    first = made(tmp_path, 1)
    other_host = made(tmp_path, 2, host={"kernel": "7.0.1"}, wslab_version="9.9")
    other_stage = made(tmp_path, 3, 60_000, outcome="broke")
    assert [one.split(":")[0] for one in compare(first, other_host).warnings] == ["machine", "version of wslab"]
    (connections, outcome) = compare(first, other_stage).warnings
    assert connections == f"parameter connections: 50000 in {first.run_id}; 60000 in {other_stage.run_id}"
    assert outcome == f"{other_stage.run_id} did not hold: broke"
    disturbed = made(tmp_path, 4, summary={"disturbed_by": [{"by": "cpu", "text": "others used 1 of 2 cores"}]})
    assert compare(first, disturbed).warnings == (f"{disturbed.run_id} was disturbed: others used 1 of 2 cores",)
    assert "others used 1 of 2 cores" in compare(first, disturbed)._repr_html_()


def test_runs_are_given_as_such_by_their_names_or_as_a_list(tmp_path: Path) -> None:
    first, second = made(tmp_path, 1), made(tmp_path, 2)
    for given in ((first, second), ([first, second],), (list_runs(tmp_path),), (first.run_id, second.run_dir)):
        assert [run.run_id for run in compare(*given, data_dir=tmp_path).runs] == [first.run_id, second.run_id]


def test_fewer_than_two_different_runs_are_refused(tmp_path: Path) -> None:
    run = made(tmp_path, 1)
    for given in ((), ([],), (run,)):
        with pytest.raises(BadInput, match="takes two runs or more"):
            compare(*given)
    with pytest.raises(BadInput, match="there twice"):
        compare(run, run.run_dir)
