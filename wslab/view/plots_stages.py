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
from wslab.view.plots_frame import COLOURS, Plot, bytes_axis, count_axis, figure, new_plot, note, side_note, stage_lines
from wslab.view.plots_run import FLOOR_SERVER

if TYPE_CHECKING:
    from wslab.lab.runs import Run

# Ceilings far above anything that is tried would squeeze the interesting ones together; they end at the edge instead.
HIGHEST_SHOWN = 10_000_000
LIFT_WIDTH = 50
TITLE_WIDTH = 44
LIFT_LINES = 2
# Inches: what title, axis, key and caption take together, and how far below the axes the key begins.
FRAME_HEIGHT, KEYS_BELOW = 2.1, 0.55
# A single stage would otherwise be one bar as wide as the figure.
SLOTS = 3
FLOOR_LABEL = "floor, raw TCP"
FREE, ROOT, NOT_BINDING = "#56b4e9", "#0072b2", "#d4d4d4"


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
def where_things_break(ceilings: Iterable[Any] | None = None, measured: Sequence[Run] = (), caption: str = "") -> Plot:
    """Draw every limit's ceiling in connections on this machine, lowest first, and what runs reached.

    Args:
        ceilings: rows of a preflight, as records or as mappings; those without a number are left out. None takes those
            of the largest stage that was measured.
        measured: recorded runs; where a limit broke, its bar is marked, and the top line shows all of them.
        caption: machine and kernel; taken from the last measured run when empty.
    """
    if ceilings is None:
        planned = max((run for run in measured if run.preflight), key=lambda run: run.connections, default=None)
        ceilings = planned.preflight if planned else ()
    rows = sorted((row for row in map(_as_row, ceilings) if row["ceiling_connections"]), key=_ceiling)
    # A run that is given twice, because nothing was lifted and it was not repeated, is drawn once.
    runs = sorted({run.run_id: run for run in measured}.values(), key=_reached)
    caption = caption or (runs[-1].caption if runs else "")
    height = FRAME_HEIGHT + 0.52 * max(3, len(rows) + bool(runs))
    plot = new_plot("Where a climb in connections ends on this machine", caption, size=(13.0, height))
    ax = plot.axes[0]
    lowest = min([_ceiling(row) for row in rows] + [_reached(run) for run in runs if _reached(run)], default=10_000)
    left = 1_000 if lowest > 1_500 else max(1.0, lowest / 3)
    right = min(HIGHEST_SHOWN, max([2_000_000, *(2.2 * _ceiling(row) for row in rows)]))
    ax.set_xlim(left, right)
    first = 1 if runs else 0
    breaks = [
        (place, at, finding)
        for run in runs
        for finding in run.breaks
        if (place := _row_of(rows, finding, at := int(finding.get("at_connections") or _reached(run)))) is not None
    ]
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
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    below = -KEYS_BELOW / (height - FRAME_HEIGHT)
    keys = _keys(runs)
    ax.legend(handles=keys, loc="upper center", bbox_to_anchor=(0.5, below), borderaxespad=0, ncols=len(keys))
    return plot


def _as_row(ceiling: Any) -> dict[str, Any]:
    row = dict(ceiling) if isinstance(ceiling, Mapping) else {name: getattr(ceiling, name) for name in ROW_DEFAULTS}
    return {**ROW_DEFAULTS, **row}


def _ceiling(row: Mapping[str, Any]) -> float:
    return float(row["ceiling_connections"])


def _reached(run: Run) -> int:
    return int(run.summary.get("connections_open") or 0)


def _row_label(row: Mapping[str, Any]) -> str:
    which = ", ".join(filter(None, (row["side"], row["scope"])))
    title = textwrap.shorten(str(row["title"]), TITLE_WIDTH, placeholder=" …")
    return f"{row['limit']}{f' ({which})' if which else ''}\n{title}"


def _row_of(rows: Sequence[Mapping[str, Any]], finding: Mapping[str, Any], at: int) -> int | None:
    """Return the place of the row that a finding belongs to: its limit and side, the ceiling next to it."""
    named = [place for place, row in enumerate(rows) if row["limit"] == finding.get("limit")]
    same_side = [place for place in named if rows[place]["side"] in ("", finding.get("side"))]
    return min(same_side or named, key=lambda place: abs(_ceiling(rows[place]) - at), default=None)


def _draw_ceiling(ax: Axes, place: int, row: Mapping[str, Any], left: float, right: float, gap: int) -> None:
    ceiling = _ceiling(row)
    end = min(ceiling, right)
    colour = (ROOT if row["needs_root"] else FREE) if row["binding"] else NOT_BINDING
    ax.barh(place, end - left, left=left, height=0.5, color=colour, zorder=2, gid=f"ceiling {row['limit']}")
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
        zorder=4,
    )
    lift = row["lift"] if row["binding"] else f"does not bind here: {row['note']}"
    lines = textwrap.wrap(str(lift or ""), LIFT_WIDTH)
    if len(lines) > LIFT_LINES:
        lines = [
            *lines[: LIFT_LINES - 1],
            textwrap.shorten(" ".join(lines[LIFT_LINES - 1 :]), LIFT_WIDTH, placeholder=" …"),
        ]
    side_note(ax, place, "\n".join(lines), "#333333" if row["binding"] else "#777777")


def _draw_measured(ax: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        mark = _mark(run)
        if _reached(run):
            style: dict[str, Any] = {"markersize": 10, "zorder": 6, "gid": f"measured {run.outcome}"}
            ax.plot([_reached(run)], [0], mark.marker, color=mark.colour, **style)
    ax.axhline(0.5, color="#cccccc", linewidth=0.8)


def _mark(run: Run) -> Mark:
    return MARKS.get(run.outcome, ENDED_EARLY)


def _keys(runs: Sequence[Run]) -> list[Patch | Line2D]:
    """Return the legend: every colour of a bar; with measured runs also held, broke and any other mark that occurs."""
    keys: list[Patch | Line2D] = [
        Patch(color=FREE, label="ceiling, lifted without root"),
        Patch(color=ROOT, label="ceiling, lifting it needs root"),
        Patch(color=NOT_BINDING, label="does not bind here"),
    ]
    for mark in dict.fromkeys((*MARKS.values(), *map(_mark, runs))) if runs else ():
        style: dict[str, Any] = {"linestyle": "", "markersize": 9}
        keys.append(Line2D([], [], marker=mark.marker, color=mark.colour, label=mark.label, **style))
    return keys


@figure
def stages_overview(runs: Sequence[Run]) -> Plot:
    """Draw bytes per connection (left) and connections per second (right) a stage, each beside the raw-TCP floor.

    Of several runs of one server at one stage the latest is shown.
    """
    latest = {(run.connections, run.server): run for run in runs if _reached(run)}
    shown = [run for key, run in sorted(latest.items()) if run.server != FLOOR_SERVER]
    floors = {run.connections: run for run in latest.values() if run.server == FLOOR_SERVER}
    caption = shown[-1].machine.line if shown else ""
    dates = sorted({run.created_at[:10] for run in shown})
    caption += f" · {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "") if dates else ""
    plot = new_plot("What a stage costs and how fast it opens", caption, columns=2, size=(11.0, 4.8))
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
