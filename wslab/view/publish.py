"""The report: recorded runs as one HTML file that opens offline, with figures and tables beside it as files.

1. Figures are embedded in the page; it has no script and loads nothing.
2. Figures are also written as SVG and PNG, the table as CSV and as Markdown, to be used in other texts.
3. Each run under `runs/` also gets a `report.html` and `figures/` in its own folder; nothing is written into the
   reference runs that come with the project.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from wslab.lab import store
from wslab.lab.runs import Run, runs_table
from wslab.lab.tables import Table, bytes_text, csv_cell, outcome_badge
from wslab.view.plots import run_figures
from wslab.view.plots_frame import Plot, image_bytes, save_figure
from wslab.view.plots_run import FLOOR_SERVER, memory_over_connections
from wslab.view.plots_stages import stages_overview, where_things_break

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


def report(runs: Run | Sequence[Run], out: str | Path = "") -> Path:
    """Write the report of recorded runs.

    Args:
        runs: the runs, oldest first.
        out: folder for the report, or the name of an `.html` file; empty for `report` in the project's data folder.

    Returns:
        The path of the page.
    """
    chosen = [runs] if isinstance(runs, Run) else list(runs)
    target = Path(out) if str(out) else store.data_folder() / "report"
    page = target if target.suffix == ".html" else target / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    details = [_details(run) for run in chosen]
    runs_table(chosen, full=True).map(csv_cell).rename(index=csv_cell).to_csv(page.parent / "runs.csv")
    (page.parent / "results.md").write_text(results_table(chosen), encoding="utf-8")
    body = [_heading(chosen)]
    for name, (heading, words), plot in _overview_figures(chosen):
        image = _figure(_render(plot, page.parent / "figures", name), heading)
        body.append(f"<h2>{escape(heading)}</h2><p>{escape(words)}</p>{image}")
    table = f"<div class=scroll>{_table(chosen, PAGE_COLUMNS).html()}</div>"
    body += ["<h2>All runs</h2>", table, "<h2>Run by run</h2>", *reversed(details)]
    page.write_text(_page("How many WebSocket connections this machine holds", body), encoding="utf-8")
    return page


def run_report(run: Run) -> Path:
    """Write `report.html` and `figures/` into a run folder and return the path of the page."""
    return _write_run_page(run, _run_body(run, run.run_dir / "figures"))


CEILINGS = (
    "Where things break",
    "Each bar ends where that limit ends a climb on this machine, lowest first; to the right stands what lifts it. "
    "Grey limits do not apply as the stage was planned. Circles and crosses are measured.",
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


def _heading(runs: Sequence[Run]) -> str:
    title = "<h1>How many WebSocket connections this machine holds</h1>"
    if not runs:
        return f"{title}<p class=lead>No runs are recorded yet: <code>wslab sweep</code> makes some.</p>"
    machines = dict.fromkeys(" · ".join(filter(None, (run.machine.line, run.machine.versions))) for run in runs)
    lines = "".join(f"<div class=quiet>{escape(line)}</div>" for line in machines)
    return f"{title}<p class=lead>{' '.join(_conclusions(runs))}</p>{lines}"


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
    drawn = run_figures(run)
    if run.preflight:
        drawn.append(("ceilings", CEILINGS[1], where_things_break(measured=[run])))
    images = [f"<p>{escape(words)}</p>{_figure(_render(plot, folder, name), name)}" for name, words, plot in drawn]
    return run._repr_html_() + "".join(images)


def _render(plot: Plot, folder: Path | None, name: str) -> bytes:
    """Return a figure as SVG, and write it as SVG and PNG where there is a folder for it."""
    if folder is None:
        return image_bytes(plot, "svg")
    svg, _ = save_figure(plot, folder, name)
    return svg.read_bytes()


def _figure(svg: bytes, words: str) -> str:
    """Return a figure as an embedded image: ids of several SVGs in one page would clash."""
    data = base64.b64encode(svg).decode("ascii")
    return f'<figure><img alt="{escape(words)}" src="data:image/svg+xml;base64,{data}"></figure>'


def _page(title: str, body: Sequence[str]) -> str:
    style = _STYLE.read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body>{chr(10).join(body)}</body></html>\n"
    )
