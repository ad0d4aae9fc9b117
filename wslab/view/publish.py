"""The report: recorded runs as one HTML file that opens offline, with figures and tables beside it as files.

1. Figures are embedded in the page, for light and for dark readers; it has no script and loads nothing.
2. Figures are also written as SVG and PNG, the table as CSV and as Markdown, to be used in other texts; the page as a
   PDF where there is a browser to print it.
3. Each run under `runs/` also gets a `report.html` and `figures/` in its own folder; nothing is written into the
   reference runs that come with the project.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from wslab.lab import store
from wslab.lab.runs import Run, runs_table
from wslab.lab.tables import Table, bytes_text, csv_cell, outcome_badge
from wslab.view.plots import run_figures
from wslab.view.plots_frame import THEME_STYLE, Plot, data_uri, image_bytes, save_figure, save_for_paper, two_images
from wslab.view.plots_run import FLOOR_SERVER, memory_over_connections
from wslab.view.plots_stages import stages_overview, where_things_break

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PRINT_SECONDS = 90
_STYLE = Path(__file__).with_name("report.css")
# The columns of a table of runs: heading, and the key of a figure or a function that returns the cell.
Columns = tuple[tuple[str, str | Callable[[Run], str]], ...]
_ABOUT: Columns = (
    ("stage", lambda run: run.name),
    ("server", lambda run: run.server),
    ("outcome", lambda run: run.outcome),
)
PAGE_COLUMNS: Columns = (
    *_ABOUT,
    ("open", "connections_open"),
    ("opened", "connections_per_second"),
    ("a connection", "total_bytes_per_connection"),
    ("round trip 99 %", "roundtrip_seconds_p99"),
    ("date", lambda run: run.created_at[:10]),
    ("what broke", lambda run: run.broken_limits),
)
RESULTS_COLUMNS: Columns = (
    *_ABOUT,
    ("open", "connections_open"),
    ("proved by echo", "connections_verified"),
    ("failed", "connections_failed"),
    ("ramp", "ramp_seconds"),
    ("opened", "connections_per_second"),
    ("echoed", "verify_messages_per_second"),
    ("memory of both ends", lambda run: bytes_text(_both_ends(run))),
    ("of the kernel", "kernel_bytes_per_connection"),
    ("run", lambda run: f"`{run.run_id}`"),
)
_WORDS = ("stage", "server", "outcome", "date", "what broke", "run")


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was written; it is a path to its page.

    Attributes:
        page: the page that opens offline.
        pdf: the same as a PDF; None where none was asked for or could be made.
        note: why there is no PDF, in one sentence; empty where there is nothing to say.
    """

    page: Path
    pdf: Path | None = None
    note: str = ""

    def __fspath__(self) -> str:
        return str(self.page)

    def __str__(self) -> str:
        return str(self.page)

    def _repr_html_(self) -> str:
        links = " · ".join(
            f'<a href="{escape(os.path.relpath(path))}" target="_blank">{escape(str(path))}</a>'
            for path in (self.page, self.pdf)
            if path is not None
        )
        return f"<div>The report: {links}</div>" + (f"<div>{escape(self.note)}</div>" if self.note else "")


def report(runs: Run | Sequence[Run], out: str | Path = "", *, pdf: bool = False, paper: bool = False) -> Report:
    """Write the report of recorded runs: one page, and beside it every figure and table as files.

    Args:
        runs: the runs, oldest first; of several machines each has figures of its own.
        out: folder for the report, or the name of an `.html` file; empty for `report` in the project's data folder.
        pdf: also print it to a PDF, where Chromium is installed.
        paper: also write each figure as a PDF for a paper: as wide as a page of two columns, with a serif face.

    Returns:
        Where it is.
    """
    chosen = [runs] if isinstance(runs, Run) else list(runs)
    target = Path(out) if str(out) else store.data_folder() / "report"
    page = target if target.suffix == ".html" else target / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    details = [_details(run) for run in chosen]
    runs_table(chosen, full=True).map(csv_cell).rename(index=csv_cell).to_csv(page.parent / "runs.csv")
    (page.parent / "results.md").write_text(results_table(chosen), encoding="utf-8")
    body = [_heading(chosen)]
    machines = _by_machine(chosen)
    for number, (machine, theirs) in enumerate(machines.items(), start=1):
        body += [f"<h2 class=machine>{escape(machine)}</h2>"] if len(machines) > 1 else []
        for name, (heading, words), plot in _overview_figures(theirs):
            file = name if number == 1 else f"{name}-{number}"
            figure = _figure(_render(plot, page.parent / "figures", file), heading, words, theirs[-1].caption)
            body.append(f"<h2>{escape(heading)}</h2>{figure}")
            if paper:
                save_for_paper(plot, page.parent / "paper", file)
    table = f"<div class=scroll>{_table(chosen, PAGE_COLUMNS).html()}</div>"
    body += ["<h2>All runs</h2>", table, "<h2>Run by run</h2>", *reversed(details)]
    page.write_text(_page(_title(chosen), body), encoding="utf-8")
    printed, note = print_page(page) if pdf else (None, "")
    return Report(page, printed, note)


def print_page(page: Path) -> tuple[Path | None, str]:
    """Print a page to a PDF beside it with Chromium; return its path, or None and why there is none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return None, "No PDF: Chromium is not installed; any browser prints the page"
    pdf = page.with_suffix(".pdf")
    options = [
        "--headless",
        "--disable-gpu",
        "--no-pdf-header-footer",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *options, f"--user-data-dir={profile}", f"--print-to-pdf={pdf}", page.resolve().as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PRINT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as problem:
            return None, f"No PDF: {Path(browser).name} did not print the page: {type(problem).__name__}"
    if done.returncode or not pdf.is_file():
        return None, f"No PDF: {Path(browser).name} ended with exit status {done.returncode}"
    return pdf, ""


def run_report(run: Run) -> Path:
    """Write `report.html` and `figures/` into a run folder and return the path of the page."""
    return _write_run_page(run, _run_body(run, run.run_dir / "figures"))


CEILINGS = (
    "Where things break",
    "Each bar ends where that limit ends a climb on this machine, lowest first; to the right stands what lifts it. "
    "What does not bind as the stage was planned is named below. Circles and crosses are measured.",
)
STAGES = (
    "What a stage costs",
    "Bytes per connection are the sum of both ends and the kernel. The dashed line is the raw-TCP floor: the same "
    "processes without WebSocket. Bytes that stay level and a rate that does not fall mean that nothing got worse "
    "with the number.",
)
MEMORY = (
    "Memory over connections",
    "Straight lines side by side: every further connection costs the same. The kernel's part appears in no process.",
)


def _overview_figures(runs: Sequence[Run]) -> list[tuple[str, tuple[str, str], Plot]]:
    """Return (file name, (heading, what to conclude), figure) for what several runs show together."""
    figures = []
    served = [run for run in runs if run.server != FLOOR_SERVER]
    measured = [run for run in served if run.summary.get("connections_open")]
    if any(run.preflight for run in served):
        figures.append(("where-things-break", CEILINGS, where_things_break(measured=served)))
    if measured:
        figures.append(("stages", STAGES, stages_overview(runs)))
        largest = max(measured, key=lambda run: int(run.summary["connections_open"]))
        floors = [run for run in runs if run.server == FLOOR_SERVER and run.connections == largest.connections]
        if len(largest.samples) > 1:
            plot = memory_over_connections(largest, floor=floors[-1] if floors else None)
            figures.append(("memory", MEMORY, plot))
    return figures


def _by_machine(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each machine, in the order in which the machines first occur."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.machine.line, []).append(run)
    return found


def _title(runs: Sequence[Run]) -> str:
    several = len(_by_machine(runs)) > 1
    return f"How many WebSocket connections {'these machines hold' if several else 'this machine holds'}"


def _heading(runs: Sequence[Run]) -> str:
    title = f"<h1>{_title(runs)}</h1>"
    if not runs:
        return f"{title}<p class=lead>No runs are recorded yet: <code>wslab sweep</code> makes some.</p>"
    parts = [title]
    for machine, theirs in _by_machine(runs).items():
        versions = dict.fromkeys(filter(None, (run.machine.versions for run in theirs)))
        parts.append(f"<p class=lead>{' '.join(_conclusions(theirs))}</p>")
        parts += [f"<div class=quiet>{escape(line)}</div>" for line in (machine, *versions)]
    return "".join(parts)


def _conclusions(runs: Sequence[Run]) -> list[str]:
    """Return sentences: what held, what it cost and what broke first."""
    served = [run for run in runs if run.server != FLOOR_SERVER]
    held = [run for run in served if run.outcome == "held"]
    sentences = []
    if held:
        best = max(held, key=lambda run: run.connections)
        sentences.append(
            f"<b>{best.connections:,} connections held</b>, opened at {best.figure('connections_per_second')}, "
            f"each taking {best.figure('total_bytes_per_connection')} with both ends and the kernel counted."
        )
    for run in served:
        if run.outcome == "broke":
            limits = escape(run.broken_limits or "unknown")
            sentences.append(f"The {run.name} stage broke at {run.figure('connections_open')}: <b>{limits}</b>.")
    return sentences or ["No stage has held yet."]


def results_table(runs: Sequence[Run]) -> str:
    """Return the runs as a Markdown table, one row a run, in the order given.

    Memory is per connection: of all server and swarm processes together, and of the kernel.
    """
    return _table(runs, RESULTS_COLUMNS).markdown()


def _table(runs: Sequence[Run], columns: Columns) -> Table:
    headings = tuple(heading for heading, _ in columns)
    rows = [[run.figure(cell) if isinstance(cell, str) else cell(run) for _, cell in columns] for run in runs]
    numbers = tuple(index for index, heading in enumerate(headings) if heading not in _WORDS)
    return Table(headings=headings, rows=rows, numbers=numbers)


def _both_ends(run: Run) -> float | None:
    """Return the user memory a connection of server and swarm together, in bytes; None where one is not known."""
    server, swarm = (run.summary.get(f"{end}_user_bytes_per_connection") for end in ("server", "swarm"))
    return None if server is None or swarm is None else server + swarm


def _details(run: Run) -> str:
    """Return the section of one run; a run under `runs/` also gets a page in its own folder."""
    summary = f"{outcome_badge(run.outcome)} {run.name} · {escape(run.server)} · {escape(run.run_id)}"
    own = run.run_dir.parent.name == "runs"
    body = _run_body(run, run.run_dir / "figures" if own else None)
    if own:
        _write_run_page(run, body)
    return f"<details><summary>{summary}</summary><div>{body}</div></details>"


def _write_run_page(run: Run, body: str) -> Path:
    page = run.run_dir / "report.html"
    title = f"{run.name} connections: {run.outcome}"
    page.write_text(_page(title, [f"<h1>{escape(title)}</h1>", body]), encoding="utf-8")
    return page


def _run_body(run: Run, folder: Path | None) -> str:
    images = [
        _figure(_render(plot, folder, name), plot.title, words, run.caption) for name, words, plot in _figures_of(run)
    ]
    return run._repr_html_() + "".join(images)


def _figures_of(run: Run) -> list[tuple[str, str, Plot]]:
    """Return (file name, what to conclude, figure) for what one run shows."""
    drawn = run_figures(run)
    if run.preflight:
        drawn.append(("ceilings", CEILINGS[1], where_things_break(measured=[run])))
    return drawn


def _render(plot: Plot, folder: Path | None, name: str) -> tuple[bytes, bytes]:
    """Return a figure as SVG for light and for dark pages, and write its files where there is a folder for it."""
    if folder is None:
        return image_bytes(plot, "svg"), image_bytes(plot, "svg", dark=True)
    light, _, dark = save_figure(plot, folder, name)
    return light.read_bytes(), dark.read_bytes()


def _figure(images: tuple[bytes, bytes], heading: str, words: str, caption: str) -> str:
    """Return a figure with what to conclude from it, as embedded images: ids of several SVGs in one page would clash.

    Args:
        images: for light and for dark pages.
        heading: what it shows.
        words: what to conclude from it, printed with it.
        caption: machine and run, for those who do not see the figure.
    """
    light, dark = (data_uri(image, "svg") for image in images)
    image = two_images(light, dark, f"{heading}. {words} {caption}")
    return f"<figure>{image}<figcaption>{escape(words)}</figcaption></figure>"


def _page(title: str, body: Sequence[str]) -> str:
    style = _STYLE.read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}{THEME_STYLE}\n</style></head>\n<body>{chr(10).join(body)}</body></html>\n"
    )
