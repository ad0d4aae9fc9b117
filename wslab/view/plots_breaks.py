"""The figures of limits that were broken on purpose: one after the other, and at random."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from wslab.view.plots_frame import COLOURS, PAGE_INCHES, Plot, count_axis, figure, new_plot, note, side_note

# Inches: what title, axis, key and caption take together, and a row.
FRAME_HEIGHT, ROW_HEIGHT = 2.1, 0.52
# Characters a line of what stands beside a row.
REMEDY_WIDTH = 44
# The largest mark of the key, in points: longer ones would reach into the axes.
KEY_MARK = 10
# What is right where no limit was to bind.
RIGHT_NAME = {"healthy": "nothing"}


class Measured(Protocol):
    """A break as it was measured, as far as it is drawn; see `wslab.breaks.atlas.BreakResult`."""

    @property
    def name(self) -> str: ...
    @property
    def limit(self) -> str: ...
    @property
    def side(self) -> str: ...
    @property
    def remedy(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def tolerance(self) -> float | None: ...
    @property
    def asked(self) -> int: ...
    @property
    def predicted(self) -> int | None: ...
    @property
    def measured(self) -> int | None: ...
    @property
    def off_by(self) -> float | None: ...
    @property
    def held(self) -> bool: ...


class Named(Protocol):
    """How random scenarios were named; see `wslab.breaks.confusion.Confusion`."""

    @property
    def matrix(self) -> Mapping[str, Mapping[str, int]]: ...
    @property
    def sentence(self) -> str: ...
    @property
    def caption(self) -> str: ...


class MeasuredAtlas(Protocol):
    """The breaks that were run, and the folder that they are recorded in."""

    @property
    def folder(self) -> Path: ...
    @property
    def run(self) -> Sequence[Measured]: ...


@figure
def predicted_and_measured(atlas: MeasuredAtlas) -> Plot:
    """Draw the breaks that have a number: the ceiling predicted, the count at which it broke, and the load that held.

    Args:
        atlas: what was measured; breaks that were skipped or have no number are left out.
    """
    shown = [result for result in atlas.run if result.predicted and result.measured is not None]
    caption = " · ".join(filter(None, (next((item.caption for item in shown), ""), atlas.folder.name)))
    height = FRAME_HEIGHT + ROW_HEIGHT * max(3, len(shown))
    plot = new_plot("Where limits were predicted to break, and where they did", caption, size=(PAGE_INCHES, height))
    ax = plot.axes[0]
    for place, result in enumerate(shown):
        _draw(ax, place, result)
    count_axis(ax, "x", "connections, or processes where named so, both ends on this machine", log=True)
    if shown:
        counts = [count for item in shown for count in (item.predicted, item.measured, item.asked) if count]
        ax.set_xlim(min(counts) / 2, max(counts) * 2)
    else:
        note(ax, "No break with a number was run.")
    ax.set_yticks(range(len(shown)), [_label(result) for result in shown])
    ax.set_ylim(max(3, len(shown)) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    if shown:
        legend = ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, borderaxespad=0.2)
        for line in legend.legend_handles:
            if isinstance(line, Line2D):
                line.set_markersize(min(KEY_MARK, line.get_markersize()))
    return plot


@figure
def expected_and_named(result: Named) -> Plot:
    """Draw how often each limit that bound first was given which name: on the diagonal where the name was right.

    Args:
        result: what was measured; a healthy scenario is named rightly when nothing was found.
    """
    matrix = result.matrix
    expected = list(matrix)
    others = sorted(
        {name for names in matrix.values() for name in names} - {RIGHT_NAME.get(row, row) for row in expected}
    )
    names = [*(RIGHT_NAME.get(row, row) for row in expected), *others]
    size = (min(PAGE_INCHES, 4.6 + 0.62 * max(6, len(names))), 3.4 + 0.42 * max(4, len(expected)))
    caption = "\n".join(filter(None, (result.sentence, result.caption)))
    plot = new_plot("The limit that bound first, and the one that was named first", caption, size=size)
    ax = plot.axes[0]
    for place, row in enumerate(expected):
        total = sum(matrix[row].values())
        for name, count in matrix[row].items():
            right = name == RIGHT_NAME.get(row, row)
            colour = COLOURS["server"] if right else COLOURS["break"]
            box: dict[str, Any] = {"color": colour, "alpha": 0.25 + 0.75 * count / total, "linewidth": 0}
            at = names.index(name)
            ax.add_patch(Rectangle((at - 0.46, place - 0.44), 0.92, 0.88, gid=f"{row} named {name}", **box))
            ax.annotate(str(count), (at, place), ha="center", va="center", weight="bold", color="black")
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(expected)), expected)
    ax.set_xlim(-0.6, max(1, len(names)) - 0.4)
    ax.set_ylim(max(1, len(expected)) - 0.4, -0.6)
    ax.set_xlabel("named first, number of scenarios")
    ax.set_ylabel("bound first")
    ax.tick_params(length=0)
    if not expected:
        note(ax, "No scenario was run.")
    return plot


def _label(result: Measured) -> str:
    where = f"{result.side}, processes" if result.unit == "processes" else result.side
    return f"{result.name}\n{where}" if result.name == result.limit else f"{result.name}\n{result.limit}, {where}"


def _draw(ax: Axes, place: int, result: Measured) -> None:
    predicted, measured = float(result.predicted or 0), float(result.measured or 0)
    tolerance = result.tolerance or 0.0
    names = {"predicted": "predicted", "break": "broke", "held": "same load held, remedied", "band": "tolerance"}
    labels = names if place == 0 else dict.fromkeys(names)
    low = predicted * (1 - tolerance)
    band: dict[str, Any] = {"color": "#bbbbbb", "zorder": 1, "gid": f"tolerance {result.name}"}
    ax.barh(place, 2 * predicted * tolerance, left=low, height=0.7, label=labels["band"], **band)
    tick: dict[str, Any] = {"markersize": 20, "markeredgewidth": 2, "zorder": 3, "gid": f"predicted {result.name}"}
    ax.plot([predicted], [place], "|", color=COLOURS["total"], label=labels["predicted"], **tick)
    cross: dict[str, Any] = {"markersize": 10, "markeredgecolor": "white", "zorder": 5, "gid": f"broke {result.name}"}
    ax.plot([measured], [place], "X", color=COLOURS["break"], label=labels["break"], **cross)
    if result.held and result.unit == "connections":
        circle: dict[str, Any] = {"markersize": 9, "zorder": 4, "gid": f"held {result.name}"}
        ax.plot([result.asked], [place], "o", color=COLOURS["kernel"], label=labels["held"], **circle)
    numbers = f"predicted {result.predicted:,}, broke at {result.measured:,} ({result.off_by:.1%} off)"
    remedied = textwrap.fill(f"{'held' if result.held else 'not held'} with {result.remedy}", REMEDY_WIDTH)
    side_note(ax, place, f"{numbers}\n{remedied}")
