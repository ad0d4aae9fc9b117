"""The run folder: where it is, that it is never half a manifest, and that a torn line costs only itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from wslab.core.records import header
from wslab.core.stage import BadInput
from wslab.lab import store
from wslab.machine.process import start_ticks


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return store.create_run(tmp_path, "10k")


def append_event(run_dir: Path, event: dict[str, object]) -> None:
    with open(run_dir / store.EVENTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def test_a_run_folder_is_named_by_time_and_stage_and_is_never_shared(tmp_path: Path) -> None:
    folders = [store.create_run(tmp_path, "10k") for _ in range(50)]
    assert len(set(folders)) == 50
    assert folders[0].parent == tmp_path / "runs"
    stamp, stage, unique = folders[0].name.split("-")
    assert (len(stamp), stamp[8], stamp[-1], stage, len(unique)) == (16, "T", "Z", "10k", 4)
    assert (folders[0] / "logs").is_dir()


def test_a_manifest_comes_back_as_it_was_written_and_leaves_nothing_beside_it(run_dir: Path) -> None:
    for outcome in ("broke", "held"):
        store.write_manifest(run_dir, {"outcome": outcome, "figure": 1.5, "none": None})
    assert store.read_manifest(run_dir) == {"outcome": "held", "figure": 1.5, "none": None}
    store.release(run_dir)
    assert sorted(path.name for path in run_dir.iterdir()) == ["logs", "run.json"]


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(run_dir: Path) -> None:
    store.write_manifest(run_dir, {"outcome": "held"})
    circular: dict[str, object] = {}
    circular["self"] = circular
    with pytest.raises(ValueError, match="Circular"):
        store.write_manifest(run_dir, circular)
    assert store.read_manifest(run_dir) == {"outcome": "held"}


def test_a_folder_without_a_manifest_is_not_a_run(run_dir: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.read_manifest(run_dir)


def test_a_run_is_running_while_its_caller_lives(run_dir: Path) -> None:
    caller = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
    store.write_manifest(run_dir, {"outcome": "running", "caller": caller})
    assert store.read_manifest(run_dir)["outcome"] == "running"


@pytest.mark.parametrize("caller", [{"pid": os.getpid(), "start_ticks": 1}, {"pid": 2**22 + 1, "start_ticks": 1}, None])
def test_a_run_whose_caller_is_gone_has_crashed(run_dir: Path, caller: dict[str, int] | None) -> None:
    store.write_manifest(run_dir, {"outcome": "running", "caller": caller})
    assert store.read_manifest(run_dir)["outcome"] == "crashed"
    assert store.read_manifest(run_dir)["reason"] == "the calling process died"
    (run_dir / "events.jsonl").write_text('{"elapsed_seconds": 12.34, "event": "caller_gone"}\n', "utf-8")
    assert store.read_manifest(run_dir)["reason"] == "the calling process died 12.3 s after the start"
    assert json.loads((run_dir / "run.json").read_text("utf-8"))["outcome"] == "running"


def test_a_torn_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    tail = store.Tail(path)
    assert tail.lines() == []
    path.write_text("one\ntw")
    assert tail.lines() == ["one"]
    path.write_text("one\ntwo\n")
    assert tail.lines() == ["two"]
    assert tail.lines() == []


def test_events_are_read_in_order_without_a_torn_last_line(run_dir: Path) -> None:
    assert store.read_events(run_dir) == []
    lines = [json.dumps({"elapsed_seconds": at, "event": name}) + "\n" for at, name in ((1, "a"), (2, "b"))]
    (run_dir / "events.jsonl").write_text("".join(lines) + '{"elapsed_seconds": 3, "eve', "utf-8")
    assert [event["event"] for event in store.read_events(run_dir)] == ["a", "b"]


def test_samples_are_typed_and_empty_cells_are_none_and_a_torn_row_is_left_out(run_dir: Path) -> None:
    cells = {"elapsed_seconds": "1.5", "phase": "ramp", "server_fds": "20"}
    rows = [",".join(header()), ",".join(cells.get(name, "") for name in header()), "2.5,17000"]
    (run_dir / "samples.csv").write_text("\n".join(rows), encoding="utf-8")
    (sample,) = store.read_samples(run_dir)
    assert (sample["elapsed_seconds"], sample["phase"], sample["server_fds"]) == (1.5, "ramp", 20)
    assert sample["swarm_fds"] is None


@pytest.mark.parametrize("damaged", ["garbled", '"', "1.7,2,3", "1.7,ramp,two,9", "\x00\ufffd,,,", "1.7", ",,,"])
def test_a_damaged_row_costs_itself_alone(run_dir: Path, damaged: str) -> None:
    rows = ["elapsed_seconds,kind,bucket_seconds,count", "1.0,roundtrip,0.002,7", damaged, "2.0,roundtrip,0.003,9"]
    (run_dir / "latency.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert [(row["elapsed_seconds"], row["count"]) for row in store.read_latency(run_dir)] == [(1.0, 7), (2.0, 9)]


def test_without_its_first_line_a_table_is_read_by_the_documented_columns(run_dir: Path) -> None:
    (run_dir / "latency.csv").write_text("elap\x00,kind\n1.0,handshake,0.002,7\n", encoding="utf-8")
    assert [row["count"] for row in store.read_latency(run_dir)] == [7]


@pytest.mark.parametrize("damaged", ["garbled", "[]", "null", '{"event": 5}', '{"a": 1}', '{"event"', "[" * 100_000])
def test_a_damaged_event_costs_itself_alone(run_dir: Path, damaged: str) -> None:
    lines = ['{"event": "a"}', damaged, '{"event": "b", "elapsed_seconds": "x"}', '{"event": "c"}']
    (run_dir / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [event["event"] for event in store.read_events(run_dir)] == ["a", "c"]


def test_latency_is_typed_and_an_absent_file_is_no_rows(run_dir: Path) -> None:
    assert store.read_latency(run_dir) == store.read_samples(run_dir) == []
    text = "elapsed_seconds,kind,bucket_seconds,count\n1.0,handshake,0.002,7\n"
    (run_dir / "latency.csv").write_text(text, encoding="utf-8")
    row = {"elapsed_seconds": 1.0, "kind": "handshake", "bucket_seconds": 0.002, "count": 7}
    assert store.read_latency(run_dir) == [row]


def test_the_data_folder_is_what_was_asked_for_else_the_variable_else_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "notebooks").mkdir(parents=True)
    (project / "pyproject.toml").touch()
    monkeypatch.setattr(store, "__file__", str(project / "wslab" / "lab" / "store.py"))
    monkeypatch.delenv(store.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.chdir(project / "notebooks")
    assert store.data_folder() == project / "data"
    assert store.data_folder("elsewhere") == project / "elsewhere"
    assert store.reference_folder() == project / "data" / "reference"
    monkeypatch.setenv(store.DATA_DIR_VARIABLE, str(tmp_path / "mine"))
    assert store.data_folder() == tmp_path / "mine"
    assert store.data_folder(tmp_path / "asked") == tmp_path / "asked"


def test_an_installed_package_uses_the_project_or_else_the_folder_that_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "__file__", str(tmp_path / "site" / "wslab" / "lab" / "store.py"))
    monkeypatch.delenv(store.DATA_DIR_VARIABLE, raising=False)
    inside = tmp_path / "work" / "notebooks"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert store.data_folder() == inside / "data"
    (tmp_path / "work" / "pyproject.toml").touch()
    assert store.data_folder() == tmp_path / "work" / "data"


def test_a_data_folder_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"data_dir=.*file cannot be written: Not a directory"):
        store.check_writable(tmp_path / "file")
    store.check_writable(tmp_path / "new" / "data")
    assert list((tmp_path / "new" / "data" / "runs").iterdir()) == []
