"""Recorded runs load as tables, whole or half-written, and show themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from made_runs import BROKEN, ceiling_rows, make_run
from wslab.core.quantities import BadInput
from wslab.lab.run_list import list_runs
from wslab.lab.runs import Run, ceilings_table, load_run, runs_table


def test_samples_are_a_table_of_numbers_by_elapsed_seconds(tmp_path: Path) -> None:
    samples = Run.load(make_run(tmp_path, 50_000)).samples
    assert samples.index.name == "elapsed_seconds"
    assert samples["swarm_connections_open"].max() == 50_000
    assert set(samples["phase"]) == {"start", "ramp", "hold", "verify", "drain"}


def test_what_was_not_read_is_missing_and_not_zero(tmp_path: Path) -> None:
    samples = Run.load(make_run(tmp_path)).samples
    assert samples["server_pss_bytes"].isna().sum() == len(samples) // 2
    assert samples["conntrack_count"].isna().all()


def test_the_knee_of_a_climb_stands_among_the_figures_with_what_ended_it(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path))
    assert not [words for words, _ in run.figures() if "knee" in words]
    knee = {"messages_per_second": 58_000.0, "roundtrip_seconds_p99": 0.004, "latency_bound": 0.1}
    run.summary["knee"] = {**knee, "limited_by": "generator", "why": "p99 300 ms at 64,000 messages/s"}
    shown = dict(run.figures())
    assert shown["messages at the knee, p99 within 100 ms"] == "58k/s"
    assert shown["what ended the climb"] == "the generator: p99 300 ms at 64,000 messages/s"
    run.summary["knee"] = {**dict.fromkeys(knee), "latency_bound": 0.1, "limited_by": None, "why": "no step was kept"}
    assert dict(run.figures())["what ended the climb"] == "no step was kept"


def test_a_run_that_was_proved_by_ping_does_not_speak_of_echoes(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path))
    assert dict(run.figures())["verified by their own echo"] == "100,000"
    run.summary["proof"] = "ping"
    assert dict(run.figures())["verified by a pong of their own"] == "100,000"
    assert "verified by their own echo" not in dict(run.figures())


def test_a_last_line_torn_by_a_death_is_left_out(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 50_000)
    whole = len(Run.load(run_dir).samples)
    for name, torn in (("samples.csv", "99.0,17"), ("latency.csv", "99,round"), ("events.jsonl", '{"elapsed_sec')):
        with open(run_dir / name, "a") as file:
            file.write(torn)
    run = Run.load(run_dir)
    assert len(run.samples) == whole
    assert set(run.latency["kind"]) == {"handshake", "roundtrip"}
    assert run.events[-1]["event"] == "phase_ended"


def test_a_folder_with_nothing_but_a_manifest_loads(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 50_000)
    for name in ("samples.csv", "latency.csv", "events.jsonl"):
        (run_dir / name).unlink()
    run = Run.load(run_dir)
    assert len(run.samples) == len(run.latency) == len(run.events) == 0
    assert "swarm_connections_open" in run.samples.columns


def test_phases_come_from_the_events_while_the_manifest_has_none(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 50_000)
    recorded = Run.load(run_dir).phases
    manifest = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps({**manifest, "phases": []}))
    assert Run.load(run_dir).phases == recorded


def test_a_folder_that_is_not_a_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        Run.load(tmp_path)


DAMAGED = (
    *("", "{", "[]", "null", "7", "{}", "\x00\x01", "[" * 100_000),
    '{"outcome": 5}',
    '{"outcome": "held", "schema_version": "2"}',
    '{"outcome": "held", "stage": []}',
    '{"outcome": "held", "stage": {"effective": {"connections": "many"}}}',
    '{"outcome": "held", "created_at": 5}',
    '{"outcome": "held", "summary": 5}',
    '{"outcome": "held", "summary": {"ramp_seconds": "long"}}',
    '{"outcome": "broke", "findings": ["x"]}',
    '{"outcome": "broke", "findings": [{"limit": "link", "at_connections": "many"}]}',
    '{"outcome": "held", "phases": [{"name": 5}]}',
    '{"outcome": "held", "limits": {"cpu_count": "two"}}',
    '{"outcome": "running", "caller": {"pid": "x"}}',
)


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: text[:70] or "empty")
def test_a_damaged_manifest_is_named_in_one_line_and_costs_its_run_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    good, bad = make_run(tmp_path, 1_000, second=1), make_run(tmp_path, 2_000, second=2)
    (bad / "run.json").write_text(text)
    with pytest.raises(BadInput, match=rf"{bad.name}/run\.json is damaged: ") as caught:
        load_run(bad)
    assert "\n" not in str(caught.value)
    assert [run.run_dir for run in list_runs(tmp_path)] == [good]
    (record,) = caplog.records
    assert bad.name in record.getMessage()


@pytest.mark.parametrize("version", [0, 3, 99])
def test_a_run_of_an_unknown_schema_is_not_taken_for_one_of_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, version: int
) -> None:
    known, newer = make_run(tmp_path, 1_000, second=1), make_run(tmp_path, 2_000, second=2)
    manifest = json.loads((newer / "run.json").read_text())
    (newer / "run.json").write_text(json.dumps(manifest | {"schema_version": version}))
    with pytest.raises(BadInput, match=rf"has schema version {version}, and this version of wslab reads 1 to 2: "):
        load_run(newer)
    assert [run.run_dir for run in list_runs(tmp_path)] == [known]
    assert newer.name in caplog.text


def test_a_manifest_that_cannot_be_read_is_named_as_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_run(tmp_path, 1_000)
    (tmp_path / "runs" / "odd" / "run.json").mkdir(parents=True)
    assert [run.connections for run in list_runs(tmp_path)] == [1_000]
    assert "odd" in caplog.text


def test_damaged_lines_in_the_midst_cost_themselves_alone(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 50_000)
    whole = Run.load(run_dir)
    samples, latency, events = whole.samples, whole.latency, whole.events
    for name in ("samples.csv", "latency.csv", "events.jsonl"):
        lines = (run_dir / name).read_text().split("\n")
        lines[5:5] = ["garbled", '"', "\x00,[]"]
        (run_dir / name).write_text("\n".join(lines))
    run = Run.load(run_dir)
    assert run.samples.equals(samples)
    assert run.latency.equals(latency)
    assert run.events == events


def test_runs_are_listed_newest_last_and_other_folders_left_out(tmp_path: Path) -> None:
    later, earlier = make_run(tmp_path, 1_000, second=9), make_run(tmp_path, 100_000, second=3)
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / ".executing-1.ipynb").touch()
    assert [run.run_dir for run in list_runs(tmp_path)] == [earlier, later]


def test_reference_runs_stand_in_only_when_asked_for_and_needed(tmp_path: Path) -> None:
    make_run(tmp_path, 1_000)
    (tmp_path / "runs").rename(tmp_path / "reference")
    assert list_runs(tmp_path) == []
    assert [run.connections for run in list_runs(tmp_path, or_reference=True)] == [1_000]
    make_run(tmp_path, 2_000)
    assert [run.connections for run in list_runs(tmp_path, or_reference=True)] == [2_000]
    # One run is too few to compare.
    assert [run.connections for run in list_runs(tmp_path, or_reference=True, at_least=2)] == [1_000, 2_000]
    assert [run.connections for run in list_runs(tmp_path, at_least=2)] == [2_000]


def test_a_run_is_found_by_its_name_or_its_folder(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 1_000)
    assert load_run(run_dir).run_dir == load_run(run_dir.name, tmp_path).run_dir == run_dir


def test_a_run_is_found_by_the_beginning_of_its_name_and_as_the_latest(tmp_path: Path) -> None:
    first, second = make_run(tmp_path, 1_000, second=1), make_run(tmp_path, 2_000, second=2)
    assert load_run("20250102T030401", tmp_path).run_dir == first
    assert load_run("latest", tmp_path).run_dir == second


def test_a_run_is_loaded_by_a_folder_of_the_project_from_wherever_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = "tests/data/broken-conntrack"
    assert load_run(folder).run_dir == project_root / folder


@pytest.mark.parametrize(
    ("asked", "answer"),
    [("20250102T0304", "2 recorded runs begin with"), ("20250102T030401Z-3k", "did you mean 20250102T030401Z-1k")],
)
def test_a_name_that_is_not_clear_suggests_the_nearest(tmp_path: Path, asked: str, answer: str) -> None:
    make_run(tmp_path, 1_000, second=1)
    make_run(tmp_path, 2_000, second=2)
    with pytest.raises(FileNotFoundError, match=answer):
        load_run(asked, tmp_path)


def test_a_run_that_was_not_alone_says_so_on_its_card_in_its_text_and_under_its_figures(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 1_000)
    assert not Run.load(run_dir).disturbed_by
    assert "isturbed" not in Run.load(run_dir).caption + Run.load(run_dir).text() + Run.load(run_dir)._repr_html_()
    manifest = json.loads((run_dir / "run.json").read_text())
    manifest["summary"]["disturbed_by"] = [{"by": "cpu", "amount": 0.9, "text": "others used 0.9 of 2 cores"}]
    (run_dir / "run.json").write_text(json.dumps(manifest))
    run = Run.load(run_dir)
    assert "others used 0.9 of 2 cores" in run.text()
    assert "others used 0.9 of 2 cores" in run._repr_html_()
    assert "disturbed" in run.caption
    assert runs_table([run]).loc[run.run_id, "disturbed"] == "cpu"
    assert run.as_dict()["disturbed_by"] == manifest["summary"]["disturbed_by"]


def test_the_json_of_a_run_is_its_summary_with_outcome_findings_and_folder(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 1_000_000, outcome="broke", reached=262_144, findings=(BROKEN,)))
    document = run.as_dict()
    assert document["outcome"] == "broke"
    assert document["connections_open"] == 262_144
    assert document["findings"] == [BROKEN]
    assert document["run_dir"] == str(run.run_dir)


def test_a_run_shows_outcome_figures_evidence_and_machine(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 1_000_000, outcome="broke", reached=262_144, findings=(BROKEN,)))
    for shown in (run._repr_html_(), run.text()):
        assert all(text in shown for text in ("broke", "262,144", "8.2 KiB", BROKEN["evidence"], "Made-up CPU"))
    assert repr(run) == f"Run({run.run_id}: broke by conntrack)"


def test_findings_of_a_run_that_held_are_remarks(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 1_000, findings=(BROKEN,)))
    assert (run.breaks, run.broken_limits, repr(run)) == ([], "", f"Run({run.run_id}: held)")
    assert runs_table([run])["finding"].tolist() == [""]
    assert f"remark: {BROKEN['limit']}" in run.text()
    assert f"Remark: <b>{BROKEN['limit']}</b>" in run._repr_html_()
    assert run.as_dict()["findings"] == [BROKEN]


def test_the_table_of_a_run_has_words_and_units(tmp_path: Path) -> None:
    table = Run.load(make_run(tmp_path, 100_000)).table()
    assert table.loc["connections opened", "value"] == "17k/s"
    assert table.loc["round trip, 99 %", "value"] == "12.3 ms"
    assert "handshake, median" not in table.index


def test_the_table_of_runs_has_one_row_a_run_with_plain_numbers(tmp_path: Path) -> None:
    runs = [Run.load(make_run(tmp_path, n, second=n // 10_000)) for n in (10_000, 100_000)]
    table = runs_table(runs)
    assert list(table["connections_open"]) == [10_000, 100_000]
    assert list(table["stage"]) == ["10k", "100k"]
    assert list(runs_table([]).columns) == list(table.columns)
    full = runs_table(runs, full=True)
    assert set(table.columns) < set(full.columns)
    assert list(full["server_shards"]) == [6, 6]


def test_ceilings_are_listed_with_those_that_bind_first() -> None:
    table = ceilings_table(ceiling_rows())
    assert table["limit"].iloc[0] == "fd_limit"
    assert table["limit"].iloc[-1] == "file_max"
    assert table["ceiling_connections"].isna().sum() == 1
