"""Figures across stages: where each limit ends a climb on this machine, and what each stage cost."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wslab.core.records import BROKE, HELD, Certainty
from wslab.lab.tables import bytes_text, count_text
from wslab.view.plots_frame import (
    COLOURS,
    PAGE_INCHES,
    Plot,
    bytes_axis,
    count_axis,
    figure,
    new_plot,
    note,
    side_note,
    stage_lines,
)
from wslab.view.plots_run import FLOOR_SERVER, as_list, caption_of
from wslab.view.plots_theme import ON_COLOUR

if TYPE_CHECKING:
    from wslab.lab.runs import Run

# Ceilings far above anything that is tried would squeeze the interesting ones together; they end at the edge instead.
HIGHEST_SHOWN = 10_000_000
# Characters a line of what stands beside the bars.
LIFT_WIDTH, TITLE_WIDTH, FOLDED_WIDTH = 34, 36, 128
# Inches: a row, and what title, axis, key and caption take together.
ROW_HEIGHT, FRAME_HEIGHT = 0.62, 2.0
# More keys than these, of the longest words, are wider than the axes and take two lines.
KEYS_A_LINE = 4
# A single stage would otherwise be one bar as wide as the figure.
SLOTS = 3
FLOOR_LABEL = "floor, raw TCP"
FREE, ROOT = "#56b4e9", "#0072b2"


class Mark(NamedTuple):
    """How a run is marked: the outcome decides, whatever else was found."""

    marker: str
    colour: str
    label: str


MARKS = {
    HELD: Mark("o", COLOURS["kernel"], "held, measured"),
    BROKE: Mark("X", COLOURS["break"], "broke, measured"),
}
ENDED_EARLY = Mark("D", COLOURS["floor"], "ended early, measured")
# The fields of a ceiling that are drawn, with defaults for those that an older run did not record.
ROW_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("limit", "scope", "side", "title", "note", "lift"), ""),
    "ceiling_connections": None,
    "binding": True,
    "needs_root": False,
}


@figure
def where_things_break(
    ceilings: Iterable[Any] | None = None, measured: Run | Sequence[Run] = (), caption: str = ""
) -> Plot:
    """Draw the ceiling in connections of every limit that binds on this machine, lowest first, and what runs reached.

    Limits that do not bind as planned are named below, each with its ceiling, and have no bar unless a run broke there.

    Args:
        ceilings: rows of a preflight, as records or as mappings; those without a number are left out. None takes those
            of the largest stage that was measured.
        measured: recorded runs; where a limit broke, its bar is marked, and the top line shows all of them.
        caption: machine and kernel; taken from the last measured run when empty.
    """
    given = as_list(measured)
    if ceilings is None:
        planned = max((run for run in given if run.preflight), key=lambda run: run.connections, default=None)
        ceilings = planned.preflight if planned else ()
    known = sorted((row for row in map(_as_row, ceilings) if row["ceiling_connections"]), key=_ceiling)
    # A run that is given twice, because nothing was lifted and it was not repeated, is drawn once.
    runs = sorted({run.run_id: run for run in given}.values(), key=_reached)
    found = [
        (place, at, finding)
        for run in runs
        for finding in run.breaks
        if (place := _row_of(known, finding, at := int(finding.get("at_connections") or _reached(run)))) is not None
    ]
    met = {place for place, *_ in found}
    rows = [row for place, row in enumerate(known) if row["binding"] or place in met]
    folded = [row for place, row in enumerate(known) if not row["binding"] and place not in met]
    breaks = [(next(n for n, row in enumerate(rows) if row is known[place]), at, one) for place, at, one in found]
    caption = caption or caption_of(runs)
    below = _folded_text(folded)
    height = FRAME_HEIGHT + ROW_HEIGHT * max(3, len(rows) + bool(runs)) + 0.16 * below.count("\n")
    caption = "\n".join(filter(None, (below, caption)))
    plot = new_plot("Where a climb in connections ends on this machine", caption, size=(PAGE_INCHES, height))
    ax = plot.axes[0]
    lowest = min([_ceiling(row) for row in rows] + [_reached(run) for run in runs if _reached(run)], default=10_000)
    left = 1_000 if lowest > 1_500 else max(1.0, lowest / 3)
    right = min(HIGHEST_SHOWN, max([2_000_000, *(2.2 * _ceiling(row) for row in rows)]))
    ax.set_xlim(left, right)
    first = 1 if runs else 0
    for place, row in enumerate(rows):
        _draw_ceiling(ax, place + first, row, left, right, gap=13 if place in {broken for broken, *_ in breaks} else 5)
    if runs:
        _draw_measured(ax, runs)
    for place, at, finding in breaks:
        # What is only inferred is drawn hollow.
        inferred = finding.get("certainty") == Certainty.INFERRED
        style: dict[str, Any] = {
            "markerfacecolor": "white" if inferred else COLOURS["break"],
            "markersize": 10,
            "markeredgecolor": COLOURS["break"] if inferred else "white",
            "zorder": 6,
            "gid": "break",
        }
        ax.plot([at], [place + first], "X", **style)
    count_axis(ax, "x", "connections, both ends on this machine", log=True)
    ax.set_xlim(left, right)
    stage_lines(ax)
    if not rows:
        note(ax, "No ceilings are known.")
    labels = [_row_label(row) for row in rows]
    ax.set_yticks(range(first + len(rows)), [*(["measured here"] if runs else []), *labels])
    ax.set_ylim(first + len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0, labelsize=8.5)
    ax.grid(visible=False, axis="y")
    keys = _keys(rows, runs)
    if keys:
        # Above the names of the stages.
        where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 1.9}
        ax.legend(
            handles=keys,
            ncols=len(keys) if len(keys) <= KEYS_A_LINE else KEYS_A_LINE - 1,
            columnspacing=1.2,
            handlelength=1.4,
            **where,
        )
    return plot


def _folded_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in a few lines which limits do not bind as planned, and where they would."""
    names = [
        f"{row['limit']}{' of ' + row['scope'] if row['scope'] else ''} at {count_text(_ceiling(row))}" for row in rows
    ]
    told = ", ".join(dict.fromkeys(names))
    return (
        textwrap.fill(f"Do not bind here as planned, and why is in the preflight: {told}.", FOLDED_WIDTH)
        if told
        else ""
    )


def _as_row(ceiling: Any) -> dict[str, Any]:
    row = dict(ceiling) if isinstance(ceiling, Mapping) else {name: getattr(ceiling, name) for name in ROW_DEFAULTS}
    return {**ROW_DEFAULTS, **row}


def _ceiling(row: Mapping[str, Any]) -> float:
    return float(row["ceiling_connections"])


def _reached(run: Run) -> int:
    return int(run.summary.get("connections_open") or 0)


def _row_label(row: Mapping[str, Any]) -> str:
    which = ", ".join(filter(None, (row["side"], row["scope"])))
    return "\n".join(
        [f"{row['limit']}{f' ({which})' if which else ''}", *textwrap.wrap(str(row["title"]), TITLE_WIDTH)]
    )


def _row_of(rows: Sequence[Mapping[str, Any]], finding: Mapping[str, Any], at: int) -> int | None:
    """Return the place of the row that a finding belongs to: its limit and side, the ceiling next to it."""
    named = [place for place, row in enumerate(rows) if row["limit"] == finding.get("limit")]
    same_side = [place for place in named if rows[place]["side"] in ("", finding.get("side"))]
    return min(same_side or named, key=lambda place: abs(_ceiling(rows[place]) - at), default=None)


def _draw_ceiling(ax: Axes, place: int, row: Mapping[str, Any], left: float, right: float, gap: int) -> None:
    ceiling = _ceiling(row)
    end = min(ceiling, right)
    colour = ROOT if row["needs_root"] else FREE
    # A pale bar has an edge that can be told from the page.
    look: dict[str, Any] = {"facecolor": colour, "edgecolor": ROOT, "linewidth": 0.8}
    ax.barh(place, end - left, left=left, height=0.5, zorder=2, gid=f"ceiling {row['limit']}", **look)
    inside = end > right / 4
    ax.annotate(
        f"{count_text(ceiling)}{' ▶' if ceiling > right else ''}",
        (end, place),
        xytext=(-gap if inside else gap, 0),
        textcoords="offset points",
        ha="right" if inside else "left",
        va="center",
        fontsize=9,
        weight="bold",
        color="white" if inside and colour == ROOT else "black",
        gid=ON_COLOUR if inside else None,
        zorder=4,
    )
    side_note(ax, place, textwrap.fill(str(row["lift"] or ""), LIFT_WIDTH))


def _draw_measured(ax: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        mark = _mark(run)
        if _reached(run):
            style: dict[str, Any] = {"markersize": 10, "zorder": 6, "gid": f"measured {run.outcome}"}
            ax.plot([_reached(run)], [0], mark.marker, color=mark.colour, **style)
    ax.axhline(0.5, color="#cccccc", linewidth=0.8)


def _mark(run: Run) -> Mark:
    return MARKS.get(run.outcome, ENDED_EARLY)


def _keys(rows: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> list[Patch | Line2D]:
    """Return the legend: every colour and every mark that occurs."""
    keys: list[Patch | Line2D] = []
    for root, colour, words in ((False, FREE, "lifted without root"), (True, ROOT, "lifting it needs root")):
        if any(bool(row["needs_root"]) == root for row in rows):
            keys.append(Patch(facecolor=colour, edgecolor=ROOT, linewidth=0.8, label=f"ceiling, {words}"))
    for mark in dict.fromkeys(map(_mark, runs)):
        style: dict[str, Any] = {"linestyle": "", "markersize": 9}
        keys.append(Line2D([], [], marker=mark.marker, color=mark.colour, label=mark.label, **style))
    return keys


@figure
def stages_overview(runs: Run | Sequence[Run]) -> Plot:
    """Draw bytes per connection (left) and connections per second (right) a stage, each beside the raw-TCP floor.

    Of several runs of one server at one stage the latest is shown.
    """
    latest = {(run.connections, run.server): run for run in as_list(runs) if _reached(run)}
    shown = [run for key, run in sorted(latest.items()) if run.server != FLOOR_SERVER]
    floors = {run.connections: run for run in latest.values() if run.server == FLOOR_SERVER}
    caption = shown[-1].machine.line if shown else ""
    dates = sorted({run.created_at[:10] for run in shown})
    caption += f" · {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "") if dates else ""
    plot = new_plot("What a stage costs and how fast it opens", caption, columns=2, size=(PAGE_INCHES, 4.8))
    memory, rate = plot.axes
    several = len({run.server for run in shown}) > 1
    names = [_stage_label(run, several) for run in shown]
    _draw_costs(memory, shown, floors)
    if not shown:
        note(memory, "No runs are recorded yet.")
    for place, run in enumerate(shown):
        value = run.summary.get("connections_per_second") or 0.0
        rate.bar(place, value, width=0.6, color="#555555", label="connections opened" if not place else None)
        floor = _floor_tick(rate, place, floors.get(run.connections), "connections_per_second")
        _bar_label(rate, place, max(value, floor), f"{count_text(value)}/s")
    bytes_axis(memory, "y", "bytes per connection, both ends")
    count_axis(rate, "y", "connections/s")
    for ax in (memory, rate):
        ax.set_xticks(range(len(shown)), names)
        ax.set_xlabel("stage: connections asked for")
        ax.set_xlim(-0.6, max(len(shown), SLOTS) - 0.4)
        ax.grid(visible=False, axis="x")
        ax.margins(y=0.12)
        drawn = sorted(zip(*ax.get_legend_handles_labels(), strict=True), key=lambda pair: pair[1] == FLOOR_LABEL)
        handles, labels = [handle for handle, _ in drawn], [label for _, label in drawn]
        where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
        ax.legend(handles, labels, ncols=4, columnspacing=1.2, handlelength=1.6, **where)
    return plot


def _stage_label(run: Run, several: bool) -> str:
    ended = "" if run.outcome == "held" else f"{run.outcome} at {count_text(_reached(run))}"
    return "\n".join(filter(None, (run.name, run.server if several else "", ended)))


def _draw_costs(ax: Axes, shown: Sequence[Run], floors: Mapping[int, Run]) -> None:
    parts = (("kernel", "kernel"), ("server_user", "server"), ("swarm_user", "swarm"))
    for place, run in enumerate(shown):
        base = 0.0
        for key, name in parts:
            value = run.summary.get(f"{key}_bytes_per_connection") or 0.0
            label = name if not place else None
            ax.bar(place, value, width=0.6, bottom=base, color=COLOURS[name], label=label, gid=name)
            base += value
        floor = _floor_tick(ax, place, floors.get(run.connections), "total_bytes_per_connection")
        _bar_label(ax, place, max(base, floor), bytes_text(base))


def _bar_label(ax: Axes, place: int, top: float, text: str) -> None:
    ax.annotate(text, (place, top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9)


def _floor_tick(ax: Axes, place: int, floor: Run | None, key: str) -> float:
    """Mark the floor of a stage across its bar and return its value; 0 where there is none."""
    value: float | None = floor.summary.get(key) if floor else None
    if value is not None:
        known = any(line.get_label() == FLOOR_LABEL for line in ax.lines)
        style: dict[str, Any] = {
            "color": "black",
            "linestyle": (0, (3, 1.5)),
            "linewidth": 1.8,
            "gid": "floor",
            "zorder": 5,
        }
        ax.plot([place - 0.42, place + 0.42], [value, value], label=None if known else FLOOR_LABEL, **style)
    return value or 0.0
