"""The report opens offline, says what held and what broke, and leaves its figures and table as files."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from made_runs import BROKEN, make_run
from wslab.lab.runs import Run
from wslab.view import publish
from wslab.view.plots import RUN_FIGURES
from wslab.view.publish import Report, report, results_table, run_report

ENDS = (".svg", ".png", "-dark.svg")


class Links(HTMLParser):
    """Collects everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset")]


def parsed(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text("utf-8"))
    return links


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    data_dir = tmp_path_factory.mktemp("data")
    held = make_run(data_dir, 100_000, second=1)
    broke = make_run(data_dir, 1_000_000, outcome="broke", reached=262_144, second=2, findings=(BROKEN,))
    return [Run.load(held), Run.load(broke)]


@pytest.fixture(scope="module")
def page(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(runs, tmp_path_factory.mktemp("report")).page


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures of each run, which take most of the time, where a test asks for nothing of them."""
    monkeypatch.setattr(publish, "_figures_of", lambda run: [])


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    """Leave out all figures."""
    monkeypatch.setattr(publish, "_overview_figures", lambda runs: [])


def test_the_page_holds_all_that_it_shows_and_runs_no_script(page: Path) -> None:
    links = parsed(page)
    assert links.loaded
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links.loaded)
    assert not {"script", "link", "iframe"} & set(links.tags)
    assert not re.search(r"url\(|@import", page.read_text("utf-8"))


def test_the_page_says_first_what_held_and_what_broke(page: Path) -> None:
    text = re.sub(r"<[^>]+>", "", page.read_text("utf-8").partition("Where things break")[0])
    assert "100,000 connections held, opened at 17k/s, each taking 8.8 KiB" in text
    assert "The 1M stage broke at 262,144: conntrack." in text
    assert "Made-up CPU" in text


def test_each_run_is_there_with_its_evidence_and_remedy(page: Path, runs: list[Run]) -> None:
    text = page.read_text("utf-8")
    assert all(run.run_id in text for run in runs)
    assert BROKEN["evidence"] in text
    assert BROKEN["remedy"] in text


def test_figures_and_the_table_are_written_beside_the_page(page: Path) -> None:
    names = {path.name for path in (page.parent / "figures").iterdir()}
    assert {f"{name}{end}" for name in ("where-things-break", "stages", "memory") for end in ENDS} == names
    with open(page.parent / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["connections_open"] for row in rows] == ["100000", "262144"]


def test_each_figure_is_there_for_light_and_dark_readers_with_words_and_a_caption(page: Path) -> None:
    text = page.read_text("utf-8")
    light, dark = (re.findall(rf'<img class="wslab-{theme}" alt="([^"]+)"', text) for theme in ("light", "dark"))
    assert light == dark
    assert len(light) == 3 + 2 * (len(RUN_FIGURES) + 1)
    assert all("Made-up CPU" in words for words in light)
    assert text.count("<figure>") == text.count("<figcaption>") == len(light)
    assert "prefers-color-scheme" in text
    assert "color-scheme: light dark" in text


@pytest.mark.usefixtures("undrawn")
def test_the_same_runs_give_the_same_report(runs: list[Run], tmp_path: Path) -> None:
    first, again = (report(runs[:1], tmp_path / name, paper=True).page.parent for name in "ab")
    for name in ("index.html", "runs.csv", "results.md", "figures/stages.svg", "figures/stages-dark.svg"):
        assert (again / name).read_bytes() == (first / name).read_bytes()
    papers = {path.name: path.read_bytes() for path in (first / "paper").iterdir()}
    assert papers == {path.name: path.read_bytes() for path in (again / "paper").iterdir()}
    assert set(papers) == {"where-things-break.pdf", "stages.pdf", "memory.pdf"}


@pytest.mark.usefixtures("undrawn")
def test_runs_of_several_machines_have_figures_of_their_own(tmp_path: Path, runs: list[Run]) -> None:
    other = Run.load(make_run(tmp_path, 50_000))
    other.host["cpu_model"] = "Another CPU"
    page = report([*runs, other], tmp_path / "report").page
    text = page.read_text("utf-8")
    assert "How many WebSocket connections these machines hold" in text
    assert text.count("<h2 class=machine>") == 2
    assert "50,000 connections held" in text
    assert {"stages.svg", "stages-2.svg"} <= {path.name for path in (page.parent / "figures").iterdir()}


def test_a_notebook_shows_links_to_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = Report(tmp_path / "r/index.html", note="No PDF: why")._repr_html_()
    assert f'<a href="r/index.html" target="_blank">{tmp_path}/r/index.html</a>' in shown
    assert "No PDF: why" in shown
    assert Path(Report(tmp_path / "r/index.html")) == tmp_path / "r/index.html"


@pytest.mark.parametrize(
    ("program", "note"),
    [
        (None, "No PDF: Chromium is not installed"),
        ("#!/bin/sh\nexit 3\n", "No PDF: chromium ended with exit status 3"),
        ("#!/bin/sh\nexit 0\n", "No PDF: chromium ended with exit status 0"),
        ('#!/bin/sh\nfor o; do case $o in --print-to-pdf=*) echo %PDF >"${o#*=}";; esac; done\n', ""),
    ],
)
def test_a_page_is_printed_where_there_is_a_browser_and_else_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, note: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if program:
        (tmp_path / "chromium").write_text(program)
        (tmp_path / "chromium").chmod(0o755)
    written = report([], tmp_path / "report", pdf=True)
    assert written.note.startswith(note)
    assert bool(written.note) == bool(note)
    assert (written.pdf is None) == bool(note)
    assert written.pdf is None or written.pdf.read_text() == "%PDF\n"


def test_each_run_gets_a_page_and_figures_of_its_own(page: Path, runs: list[Run]) -> None:
    for run in runs:
        assert run.outcome in (run.run_dir / "report.html").read_text("utf-8")
        names = [*(name for name, _, _ in RUN_FIGURES), "ceilings"]
        files = {path.name for path in (run.run_dir / "figures").iterdir()}
        assert files == {f"{name}{end}" for name in names for end in ENDS}


@pytest.mark.usefixtures("undrawn")
def test_runs_that_come_with_the_project_stay_as_they_are(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, 1_000)
    (tmp_path / "runs").rename(tmp_path / "reference")
    run = Run.load(tmp_path / "reference" / run_dir.name)
    before = sorted(path.name for path in run.run_dir.iterdir())
    report([run], tmp_path / "report")
    assert sorted(path.name for path in run.run_dir.iterdir()) == before


@pytest.mark.usefixtures("bare")
def test_text_of_a_run_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    finding = {**BROKEN, "evidence": "<script>alert(1)</script>"}
    run = Run.load(make_run(tmp_path, 1_000, outcome="broke", findings=(finding,)))
    assert "script" not in parsed(run_report(run)).tags


def test_without_runs_the_page_says_how_to_make_some(tmp_path: Path) -> None:
    page = report([], tmp_path / "empty.html").page
    assert page == tmp_path / "empty.html"
    assert "No runs are recorded yet" in page.read_text("utf-8")


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("server", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)"])
def test_text_that_a_spreadsheet_would_run_is_quoted_in_the_table(tmp_path: Path, server: str) -> None:
    report([Run.load(make_run(tmp_path, 1_000, server=server))], tmp_path / "report")
    with open(tmp_path / "report" / "runs.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["server"] == f"'{server}"
    assert row["connections_open"] == "1000"
    assert float(row["server_user_bytes_per_connection"]) > 0


def test_the_markdown_table_keeps_its_columns_whatever_a_server_is_called(tmp_path: Path) -> None:
    head, rule, row = results_table([Run.load(make_run(tmp_path, 1_000, server="a | b"))]).splitlines()
    assert head.count("|") == rule.count("|") == row.replace(r"\|", "").count("|")
    assert r"a \| b" in row


@pytest.mark.usefixtures("bare")
def test_what_was_found_in_a_run_that_held_is_a_remark_and_no_break(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 100_000, findings=(BROKEN,)))
    page = report([run], tmp_path / "report").page.read_text("utf-8")
    assert "100,000 connections held" in page
    assert f"Remark: <b>{BROKEN['limit']}</b>" in page
    assert f"{BROKEN['limit']}</td>" not in page
