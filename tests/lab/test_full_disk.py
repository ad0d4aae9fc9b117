"""A run whose disk fills up, or whose folder goes away: it goes on to its drain and says what could not be written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_load import commands
from small_disk import fill, needs_root, small_disk
from wslab.core.quantities import BadInput
from wslab.lab import store
from wslab.lab.experiment import run_stage
from wslab.lab.runs import Run

Event = dict[str, Any]


pytestmark = pytest.mark.usefixtures("nothing_left")


def run(data_dir: Path, act: Callable[[Path], object]) -> tuple[Run, list[Event]]:
    """Run a small stage with the real recorder, and do something to the run folder when the ramp begins."""
    heard: list[Event] = []

    def on_event(event: Event) -> None:
        heard.append(event)
        if event["event"] == "phase_started" and event["phase"] == "ramp":
            act(Path(heard[0]["run_dir"]))

    load = commands()
    del load["recorder"]
    run_ = run_stage(
        on_event=on_event,
        commands=load,
        specs={"recorder": {"interval_seconds": 0.02}},
        data_dir=str(data_dir),
        connections=20,
        hold_seconds=1,
        memory_reserve=0,
    )
    return run_, heard


def test_nothing_is_left_aside_when_a_run_is_over(tmp_path: Path) -> None:
    run_, _ = run(tmp_path, lambda run_dir: None)
    assert run_.outcome == "held"
    names = {path.name for path in run_.run_dir.iterdir()}
    assert names == {"run.json", "events.jsonl", "samples.csv", "latency.csv", "logs"}


@needs_root
def test_a_disk_that_fills_up_is_the_outcome_and_what_was_recorded_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        run_, heard = run(disk, lambda run_dir: fill(disk))
        assert run_.outcome == "crashed"
        assert run_.reason.endswith("cannot be written: No space left on device")
        assert str(run_.run_dir) in run_.reason
        on_disk = json.loads((run_.run_dir / "run.json").read_text("utf-8"))
        assert (on_disk["outcome"], on_disk["reason"]) == (run_.outcome, run_.reason)
        unwritten = [Path(event["file"]).name for event in heard if event["event"] == "error"]
        assert "samples.csv" in unwritten
        assert len(set(unwritten)) == len(unwritten)
        ended = [event["phase"] for event in heard if event["event"] == "phase_ended"]
        assert ended == ["ramp", "hold", "verify", "drain"]
        assert store.read_samples(run_.run_dir)
        assert store.read_events(run_.run_dir)[0]["event"] == "process_started"
        assert run_.as_dict()["outcome"] == "crashed"


@needs_root
@pytest.mark.parametrize("options", ["size=64k", "size=4m,nr_inodes=4", "size=4m,nr_inodes=5"])
def test_a_disk_without_room_for_a_run_is_bad_input_and_nothing_is_left(tmp_path: Path, options: str) -> None:
    with small_disk(tmp_path / "disk", options) as disk:
        with pytest.raises(BadInput, match=r"data_dir=.*disk cannot take a run: No space left on device"):
            run(disk, lambda run_dir: None)
        assert list((disk / "runs").iterdir()) == []


@needs_root
def test_a_disk_without_inodes_for_the_records_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    # Root, runs, the run folder, logs, the manifest and what is set aside: one is left, for the supervisor's log.
    with small_disk(tmp_path / "disk", "size=4m,nr_inodes=7") as disk:
        run_, _ = run(disk, lambda run_dir: None)
        assert (run_.outcome, Run.load(run_.run_dir).outcome) == ("crashed", "crashed")
        assert run_.reason.endswith("cannot be written: No space left on device")


def test_a_run_folder_that_is_removed_is_the_outcome_of_the_run_that_is_returned(tmp_path: Path) -> None:
    run_, heard = run(tmp_path, shutil.rmtree)
    assert (run_.outcome, run_.reason.rpartition(": ")[2]) == ("crashed", "No such file or directory")
    assert str(run_.run_dir / "run.json") in run_.reason
    assert {Path(event["file"]).name for event in heard if event["event"] == "error"} >= {"samples.csv", "events.jsonl"}
    assert not run_.run_dir.exists()


@needs_root
def test_a_manifest_on_a_disk_that_became_read_only_leaves_the_old_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        run_dir = store.create_run(disk, "10k")
        store.write_manifest(run_dir, {"outcome": "running"})
        assert os.system(f"mount -o remount,ro {disk}") == 0
        with pytest.raises(store.NotRecorded) as failed:
            store.write_manifest(run_dir, {"outcome": "held"})
        assert str(failed.value) == f"{run_dir}/run.json cannot be written: Read-only file system"
        store.release(run_dir)
        assert json.loads((run_dir / "run.json").read_text("utf-8")) == {"outcome": "running"}


@needs_root
def test_a_manifest_needs_neither_space_nor_an_inode_again_and_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        run_dir = store.create_run(disk, "10k")
        for outcome in ("running", "broke", "held"):
            fill(disk)
            store.write_manifest(run_dir, {"outcome": outcome, "findings": ["x" * 100_000]})
            assert json.loads((run_dir / "run.json").read_text("utf-8"))["outcome"] == outcome
