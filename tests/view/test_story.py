"""A run is told in sentences: how it ended, the walls on its way, what it cost, and what comes next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from made_runs import BROKEN, make_run
from wslab.lab.runs import Run
from wslab.view.story import story


def reference(project_root: Path, name: str) -> Run:
    runs = [Run.load(path.parent) for path in sorted((project_root / "data/reference").glob("*/run.json"))]
    return next(run for run in runs if run.name == name and run.server == "lean")


def test_the_story_of_each_reference_stage_tells_the_walls_that_it_passed(project_root: Path) -> None:
    told = {name: repr(story(reference(project_root, name))) for name in ("10k", "100k", "700k", "1M")}
    assert "No wall of a plain set-up is so near" in told["10k"]
    for name in ("100k", "700k", "1M"):
        assert "for the ports of one source address; this run passed with" in told[name]
        assert "source addresses" in told[name]
        assert "for the descriptors of one process; this run passed with" in told[name]
    assert "conntrack" not in told["100k"]
    for name in ("700k", "1M"):
        assert "for the conntrack table, under a stateful rule; this run passed: loopback is not tracked" in told[name]
        assert "belong to the kernel and no process shows them" in told[name]
        assert "The limit that ends a larger climb here is memory_reserve, at 2." in told[name]


def test_the_story_of_a_run_that_broke_begins_with_what_bound_first(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 1_000_000, outcome="broke", reached=262_144, findings=(BROKEN,)))
    first, *rest = story(run).paragraphs
    assert first.startswith(
        "1,000,000 connections were asked for, and 262,144 were open at the end. What bound first is"
    )
    assert f"conntrack on the side of the kernel: {BROKEN['evidence']}." in first
    assert not any("larger climb" in paragraph for paragraph in rest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outcome": "aborted", "reason": "stopped by the user"}, "stopped before its end: stopped by the user"),
        ({"outcome": "crashed"}, "cut short by an accident: no reason was recorded"),
        ({"summary": {"proof": "ping"}}, "each returned a pong of its own"),
        ({"summary": {"hold_limited_by": "generator"}}, "How fast it answered messages was the limit of the swarm"),
        (
            {"summary": {"disturbed_by": [{"by": "cpu", "text": "others used 1 of 2 cores"}]}},
            "not all of that is the server's: others used 1 of 2 cores",
        ),
    ],
)
def test_what_else_there_is_to_say_is_said(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    run_dir = make_run(tmp_path, 50_000)
    manifest = json.loads((run_dir / "run.json").read_text())
    manifest["summary"].update(change.pop("summary", {}))
    (run_dir / "run.json").write_text(json.dumps({**manifest, **change}))
    assert words in repr(story(Run.load(run_dir)))


def test_the_story_of_lifting_says_why_nothing_was_repeated_or_what_the_second_run_reached(tmp_path: Path) -> None:
    held = Run.load(make_run(tmp_path, 10_000, second=1))
    broke = Run.load(make_run(tmp_path, 100_000, second=2, outcome="broke", reached=28_000, findings=(BROKEN,)))
    stopped = Run.load(make_run(tmp_path, 10_000, second=3, outcome="aborted"))
    assert story(held, held).paragraphs == ("Nothing to lift: the stage held, so it was not run again.",)
    assert "no layout lifts conntrack" in repr(story(broke, broke))
    assert "the stage was was" not in repr(story(stopped, stopped))
    first, second = story(broke, held).paragraphs
    assert first == "With conntrack lifted by the layout, the same load held at 10,000."
    assert second.startswith("10,000 connections were asked for. All of them were opened")


def test_text_of_a_run_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    finding = {**BROKEN, "evidence": "<script>alert(1)</script>"}
    run = Run.load(make_run(tmp_path, 1_000, outcome="broke", findings=(finding,)))
    assert "<script>" not in story(run)._repr_html_()
