"""Recorded runs are filtered, shown as a table with units, labelled and deleted."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from made_runs import BROKEN, make_run
from wslab.core.quantities import BadInput
from wslab.lab import store
from wslab.lab.run_list import RunList, delete, list_runs, relabel
from wslab.lab.runs import Run, load_run


def change(run_dir: Path, **asked: Any) -> None:
    """Give a made-up run other parameters, and a time at which it began."""
    manifest = json.loads((run_dir / "run.json").read_text())
    manifest["created_at"] = asked.pop("created_at", manifest["created_at"])
    for part in manifest["stage"].values():
        part.update(asked)
    (run_dir / "run.json").write_text(json.dumps(manifest))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    made = [
        make_run(tmp_path, 1_000, second=1),
        make_run(tmp_path, 700_000, second=2, outcome="broke", reached=262_144, findings=(BROKEN,)),
        make_run(tmp_path, 1_000, second=3, server="asyncio_tuned"),
        make_run(tmp_path, 2_000, second=4),
    ]
    change(made[0], created_at="2026-11-20T10:00:00Z", label="before tuning")
    change(made[1], created_at="2026-11-24T10:00:00Z")
    change(made[2], created_at="2026-11-24T11:30:00Z")
    now = datetime.now(UTC) - timedelta(hours=1)
    change(made[3], created_at=now.strftime("%Y-%m-%dT%H:%M:%SZ"), server="node chat.js --port {port}")
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "connections"),
    [
        ({}, [1_000, 700_000, 1_000, 2_000]),
        ({"stage": "700k"}, [700_000]),
        ({"stage": 1000}, [1_000, 1_000]),
        ({"server": "lean"}, [1_000, 700_000]),
        ({"server": "asyncio"}, []),  # A kind is not the beginning of another.
        ({"server": "chat.js"}, [2_000]),
        ({"outcome": "broke"}, [700_000]),
        ({"label": "tuning"}, [1_000]),
        ({"since": "2026-11-24"}, [700_000, 1_000, 2_000]),
        ({"since": "2026-11-24T11:00"}, [1_000, 2_000]),
        ({"since": "2026-11-24T13:00+02:00"}, [1_000, 2_000]),
        ({"since": datetime(2026, 11, 24, 11)}, [1_000, 2_000]),
        ({"since": "2h"}, [2_000]),
        ({"since": "30min"}, []),
        ({"stage": "1k", "server": "lean"}, [1_000]),
    ],
)
def test_only_those_that_are_wanted_are_listed(runs: Path, wanted: dict[str, Any], connections: list[int]) -> None:
    assert [run.connections for run in list_runs(runs, **wanted)] == connections


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"outcome": "held?"}, "outcome=held? is unknown: known are held, broke"),
        ({"since": "yesterday"}, "since=yesterday cannot be used: it takes a date"),
        ({"since": "99999999999w"}, "cannot be used"),
        ({"stage": "many"}, "stage=many is not accepted"),
    ],
)
def test_a_filter_that_cannot_be_used_is_refused_in_one_line(runs: Path, wanted: dict[str, str], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        list_runs(runs, **wanted)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_shows_itself_with_units_and_what_broke(runs: Path) -> None:
    shown = list_runs(runs)
    heading, first, second, *_ = repr(shown).splitlines()
    assert heading.split()[:4] == ["run", "stage", "server", "outcome"]
    assert heading.endswith("label")
    assert first.endswith("before tuning")
    assert " conntrack " in second
    assert "/s" in second
    assert "KiB" in second
    assert "background:#c04e00" in shown._repr_html_()
    assert f'white-space:nowrap">{shown[0].run_id}</td>' in shown._repr_html_()
    assert isinstance(shown[:2], RunList)
    assert isinstance(shown[0], Run)
    assert "label" not in repr(shown[1:]).splitlines()[0]
    assert repr(RunList()) == "no recorded runs"


def test_a_label_can_be_given_later_and_is_found_then(runs: Path) -> None:
    (run,) = list_runs(runs, outcome="broke")
    assert relabel(run, "as shipped").label == "as shipped"
    assert [one.run_id for one in list_runs(runs, label="as shipped")] == [run.run_id]
    assert not (run.run_dir / store.RESERVE).exists()
    with pytest.raises(BadInput, match="one line of at most"):
        relabel(run, "two\nlines")
    assert load_run(run.run_id, runs).label == "as shipped"


def test_what_is_relabelled_or_deleted_may_be_named_by_the_beginning_of_its_id(runs: Path) -> None:
    first, *others = list_runs(runs)
    assert relabel(first.run_id[:18], "renamed", runs).label == "renamed"
    assert relabel(first.run_dir, "again").label == "again"
    delete(first.run_id[:18], data_dir=runs)
    assert [run.run_id for run in list_runs(runs)] == [run.run_id for run in others]
    with pytest.raises(BadInput, match="3 recorded runs begin with 20250102"):
        delete("20250102", runs)
    with pytest.raises(BadInput, match="no recorded runs begin with 1999"):
        relabel("1999", "x", runs)
    assert len(list_runs(runs)) == len(others)


def test_a_run_is_deleted_but_not_one_in_progress_or_of_the_project(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = list_runs(runs)
    delete(first)
    assert not first.run_dir.exists()
    assert len(list_runs(runs)) == 3
    second.outcome = "running"
    with pytest.raises(BadInput, match="is in progress"):
        delete(second)
    with pytest.raises(BadInput, match="is in progress"):
        relabel(second, "x")
    monkeypatch.setattr(store, "reference_folder", lambda: second.run_dir.parent)
    second.outcome = "held"
    with pytest.raises(BadInput, match="is a reference run, which came with the project; it is not deleted"):
        delete(second)
    with pytest.raises(BadInput, match="is a reference run, which came with the project; it keeps its label"):
        relabel(second, "x")
    assert second.run_dir.exists()
    assert load_run(second.run_dir).label == ""
