"""Figures of a comparison: what each server costs, its latency up to the knee and beyond, and where it ends.

A bar or a point that is hatched or hollow is the generator's limit, and so the least that the server can do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log2
from statistics import median
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from wslab.core.comparison import FLOOR, label
from wslab.lab.tables import bytes_text, count_text, seconds_text
from wslab.view.plots_frame import (
    COLOURS,
    PAGE_INCHES,
    Plot,
    bytes_axis,
    count_axis,
    figure,
    new_plot,
    note,
    seconds_axis,
    side_legend,
    side_note,
)

# The palette of all figures, and a marker each, so that lines differ without colour as well.
LINES = (
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#c28500", "v"),
    ("#332288", "P"),
    ("#3399d6", "X"),
)
# How wide a letter of a value is, as a share of the longest bar.
LETTER_SHARE = 0.025
FLOOR_LINE = (COLOURS["floor"], "*")
HATCH = "////"
# How much of its colour the range of a prediction has.
BAND = 0.45
# Steps of several climbs whose rates differ by less than this part of an octave are one point of a line.
RATES_AN_OCTAVE = 3
ROW_HEIGHT, FRAME_HEIGHT = 0.42, 2.0


class Compared(Protocol):
    """What was measured of several servers."""

    @property
    def caption(self) -> str: ...
    @property
    def results(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def entries(self) -> Sequence[Mapping[str, Any]]: ...


@figure
def servers_side_by_side(comparison: Compared) -> Plot:
    """Draw rate, messages at the knee, memory and CPU of each server, with the range over the repetitions.

    Args:
        comparison: what was measured; the dashed line is the floor, and servers that never held are left out.
    """
    shown = [one for one in comparison.results if any(f["median"] is not None for f in one["figures"].values())]
    height = FRAME_HEIGHT + 2 * ROW_HEIGHT * max(3, len(shown)) + 1.0
    title = "Servers side by side, medians and ranges"
    plot = new_plot(title, comparison.caption, rows=2, columns=2, size=(PAGE_INCHES, height))
    opened, knee, memory, cpu = plot.axes
    _bars(opened, shown, "connections_per_second", "#555555")
    _bars(knee, shown, "knee_messages_per_second", COLOURS["roundtrip"])
    _stacked(memory, shown)
    _bars(cpu, shown, "server_cpu_seconds_per_message", COLOURS["server"], text=seconds_text)
    count_axis(opened, "x", "connections opened a second")
    count_axis(knee, "x", "messages/s at the knee")
    bytes_axis(memory, "x", "memory a connection")
    seconds_axis(cpu, "x", "CPU of the server for one message")
    for ax in plot.axes:
        ax.set_yticks(range(len(shown)), [label(one["server"]) for one in shown])
        ax.set_ylim(max(3, len(shown)) - 0.4, -0.6)
        ax.set_xlim(0, 1.25 * ax.get_xlim()[1])
        ax.tick_params(axis="y", length=0)
        ax.tick_params(axis="x", labelbottom=True)
        ax.grid(visible=False, axis="y")
    if not shown:
        note(opened, "No server held.")
    keys: list[Any] = [Patch(facecolor="white", edgecolor="#555555", hatch=HATCH, label="at least: the swarm's limit")]
    keys += [Line2D([], [], color="black", linestyle=(0, (3, 1.5)), label="floor, raw TCP")]
    parts = [Patch(color=COLOURS[part], label=part) for part in ("server", "kernel")]
    for ax, handles in ((opened, keys), (memory, parts)):
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, borderaxespad=0.2)
    return plot


def _bars(
    ax: Axes,
    shown: Sequence[Mapping[str, Any]],
    key: str,
    colour: str,
    text: Callable[[float | None], str] = count_text,
) -> None:
    floor = next((one["figures"][key]["median"] for one in shown if one["server"] == FLOOR), None) or 0.0
    letter = LETTER_SHARE * max((one["figures"][key]["max"] or 0.0 for one in shown), default=0.0)
    for place, result in enumerate(shown):
        one = result["figures"][key]
        if one["median"] is None:
            ax.annotate("not measured", (0, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
            continue
        limited = one["limited_by"] == "generator"
        look: dict[str, Any] = {"facecolor": "white", "edgecolor": colour, "hatch": HATCH} if limited else {}
        ax.barh(place, one["median"], height=0.6, gid=f"{key} {result['server']}", **(look or {"color": colour}))
        _range(ax, place, one)
        words = f"{'≥' if limited else ''}{text(one['median'])}"
        # A value that the line of the floor would cross stands behind the line.
        crossed = one["max"] < floor < one["max"] + letter * (len(words) + 1)
        _value(ax, place, floor if crossed else one["max"], words)
        if result["server"] == FLOOR:
            ax.axvline(one["median"], color="black", linestyle=(0, (3, 1.5)), linewidth=1.0, gid="floor")


def _stacked(ax: Axes, shown: Sequence[Mapping[str, Any]]) -> None:
    for place, result in enumerate(shown):
        server, kernel = (
            result["figures"][f"{part}_bytes_per_connection"]["median"] or 0.0 for part in ("server_user", "kernel")
        )
        server = max(0.0, server)
        ax.barh(place, server, height=0.6, color=COLOURS["server"], gid=f"server {result['server']}")
        ax.barh(place, kernel, left=server, height=0.6, color=COLOURS["kernel"], gid=f"kernel {result['server']}")
        _value(ax, place, server + kernel, f"{bytes_text(server)} + {bytes_text(kernel)}")


def _range(ax: Axes, place: int, one: Mapping[str, Any]) -> None:
    if one["max"] > one["min"]:
        ax.plot([one["min"], one["max"]], [place, place], color="black", linewidth=1.4, marker="|", markersize=7)


def _value(ax: Axes, place: int, at: float, text: str) -> None:
    ax.annotate(text, (at, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)


@figure
def latency_to_the_knee(comparison: Compared) -> Plot:
    """Draw p99 of the round trip over messages/s, step by step, up to the knee of each server and beyond.

    Args:
        comparison: what was measured. Filled points were within the bound; latency counts from when a message was due,
            so a point beyond the knee shows the delay of the whole backlog.
    """
    plot = new_plot("Latency up to the knee and beyond", comparison.caption, size=(PAGE_INCHES, 5.2))
    ax = plot.axes[0]
    steps = {one["server"]: _steps(comparison, one["server"]) for one in comparison.results}
    lines = iter(LINES)
    bounds = set[float]()
    for server, taken in steps.items():
        if not taken:
            continue
        colour, marker = FLOOR_LINE if server == FLOOR else next(lines, LINES[-1])
        ax.plot(*_middle(taken), color=colour, linewidth=1.4, gid=f"knee {server}")
        # The key shows what tells a server from the others: its colour and its mark.
        ax.plot(
            [], [], marker, linestyle="-", color=colour, linewidth=1.4, markersize=5, label=label(server), gid="key"
        )
        for limited, gid in ((False, "step"), (True, "generator")):
            these = [step for step in taken if (step["limited_by"] == "generator") == limited]
            places = [step["messages_per_second"] for step in these], [step["roundtrip_seconds_p99"] for step in these]
            face = "white" if limited else colour
            ax.plot(
                *places, marker, color=colour, markersize=5, alpha=0.75, gid=f"{gid} {server}", markerfacecolor=face
            )
    for entry in comparison.entries:
        if knee := entry["summary"].get("knee"):
            bounds.add(knee["latency_bound"])
    for bound in bounds:
        ax.axhline(
            bound, color="#333333", linewidth=1.0, linestyle="--", gid="bound", label=f"bound, {seconds_text(bound)}"
        )
    if not any(steps.values()):
        note(ax, "No climb was recorded.")
    count_axis(ax, "x", "messages/s offered over all connections; hollow where the swarm was the limit", log=True)
    seconds_axis(ax, "y", "round trip, p99", log=True)
    side_legend(ax)
    return plot


def _middle(steps: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Return a line through the steps: medians of p99 over rates that are about the same."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for step in steps:
        groups.setdefault(round(RATES_AN_OCTAVE * log2(step["messages_per_second"])), []).append(step)
    rates = [median(step["messages_per_second"] for step in group) for group in groups.values()]
    return rates, [median(step["roundtrip_seconds_p99"] for step in group) for group in groups.values()]


def _steps(comparison: Compared, server: str) -> list[Mapping[str, Any]]:
    """Return the steps of all climbs of a server by rate, those without a p99 left out."""
    found = [
        step
        for entry in comparison.entries
        if entry["server"] == server
        for step in (entry["summary"].get("knee") or {}).get("steps") or ()
        if step["roundtrip_seconds_p99"]
    ]
    return sorted(found, key=lambda step: float(step["messages_per_second"]))


@figure
def where_servers_end(comparison: Compared) -> Plot:
    """Draw where each server ends here and on the other machine, with the bounds of the prediction.

    Args:
        comparison: what was measured; a cross is a larger stage that broke, a circle one that held.
    """
    shown = [one for one in comparison.results if one["model"]]
    places = [("here", COLOURS["server"], -0.17), ("there", COLOURS["swarm"], 0.17)]
    size = (PAGE_INCHES, FRAME_HEIGHT + ROW_HEIGHT * max(3, len(shown)) * 1.4)
    plot = new_plot("Where each server ends, as predicted from its stages", comparison.caption, size=size)
    ax = plot.axes[0]
    for name, colour, shift in places:
        words = "on this machine" if name == "here" else "on the other machine"
        told = False
        for place, result in enumerate(shown):
            for end in (result["model"].get(name) or [])[:1]:
                at = end["at_connections"]
                if at["value"] is None:
                    continue
                y = place + shift
                if at["low"] is not None:
                    ax.plot([at["low"], at["high"] or at["value"] * 10], [y, y], color=colour, linewidth=5, alpha=BAND)
                look: dict[str, Any] = {"markersize": 8, "label": None if told else words, "gid": f"end {name}"}
                ax.plot([at["value"]], [y], "|", color=colour, markeredgewidth=3, **look)
                told = True
    checked = set[str]()
    for place, result in enumerate(shown):
        check = result["model"].get("check")
        if check and check["measured_connections"]:
            broke = bool(check["measured_limits"])
            colour = COLOURS["break"] if broke else COLOURS["kernel"]
            words = "broke, measured" if broke else "held, measured"
            mark: dict[str, Any] = {"color": colour, "gid": "check", "label": None if words in checked else words}
            ax.plot([check["measured_connections"]], [place], "X" if broke else "o", **mark)
            checked.add(words)
        ends = [_end_text(name, result["model"].get(name) or []) for name, _, _ in places]
        side_note(ax, place, "\n".join(filter(None, ends)))
    count_axis(ax, "x", "connections, both ends on one machine", log=True)
    ax.set_yticks(range(len(shown)), [label(one["server"]) for one in shown])
    ax.set_ylim(max(3, len(shown)) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    if shown:
        keys = [
            *ax.get_legend_handles_labels()[0],
            Patch(color=COLOURS["floor"], alpha=BAND, label="range of the prediction"),
        ]
        ax.legend(handles=keys, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(keys), borderaxespad=0.2)
    else:
        note(ax, "Nothing held that could be fitted.")
    return plot


def _end_text(name: str, ends: Sequence[Mapping[str, Any]]) -> str:
    first = next(iter(ends), None)
    return f"{name}: {first['limit']} at {count_text(first['at_connections']['value'])}" if first else ""


# The figures of one comparison: file name, what to conclude from it, function.
COMPARISON_FIGURES: tuple[tuple[str, str, Callable[[Compared], Plot]], ...] = (
    (
        "servers",
        "Longer is better above, shorter below. A hatched bar is the swarm's limit: the server can do at least that.",
        servers_side_by_side,
    ),
    (
        "knee",
        "Each line stays flat as long as its server keeps up, and rises steeply at its knee.",
        latency_to_the_knee,
    ),
    (
        "ends",
        "The wide band is the uncertainty of the prediction; the mark on it is what was measured to check it.",
        where_servers_end,
    ),
)
