"""Figures of recorded runs: memory over connections, the course of a run over time, latencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from wslab.lab.series import per_second
from wslab.lab.tables import bytes_text, count_text, finding_name
from wslab.view.plots_frame import (
    COLOURS,
    Plot,
    bytes_axis,
    count_axis,
    figure,
    new_plot,
    note,
    remark,
    seconds_axis,
    side_legend,
    stage_lines,
)

if TYPE_CHECKING:
    from wslab.lab.runs import Run

FLOOR_SERVER = "tcp_floor"
# The others are not shaded.
PHASE_SHADES = {"ramp": "#f0f0f0", "climb": "#e6e6e6", "verify": "#f0f0f0"}
# The least share of the time axis that a phase is drawn over, however short it was.
PHASE_WIDTH, EDGE_WIDTH = 0.14, 0.05
EDGES = ("start", "drain", "done")
# Several runs in one figure: the colour is that of the quantity, the line that of the run.
RUN_LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)))
# With fewer readings a line through the PSS would be a guess between two points.
PSS_READINGS_NEEDED = 3
# With fewer different numbers of connections a line shows nothing.
COUNTS_NEEDED = 3
QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


def as_list(runs: Run | Sequence[Run]) -> list[Run]:
    """Return one run or several as a list."""
    return list(runs) if isinstance(runs, Sequence) else [runs]


@figure
def memory_over_connections(runs: Run | Sequence[Run], floor: Run | None = None) -> Plot:
    """Draw what both ends and the kernel use over the connections open, beside the raw-TCP floor.

    Args:
        runs: one run or several; runs of the floor among them become the floor.
        floor: a run of `tcp_floor`; its whole memory is the dashed line.
    """
    given = as_list(runs)
    shown = [run for run in given if run.server != FLOOR_SERVER] or given
    floor = floor or next((run for run in reversed(given) if run.server == FLOOR_SERVER and run not in shown), None)
    plot = new_plot("Memory over open connections", caption_of(shown), size=(9.0, 5.2))
    ax = plot.axes[0]
    counts = 0
    for number, run in enumerate(shown):
        parts = memory_by_connections(run)
        counts = max(counts, parts.index.nunique())
        for name in ("total", "kernel", "server", "swarm"):
            series = parts[name]
            look: dict[str, Any] = {"linestyle": run_line(number), "color": COLOURS[name], "gid": name}
            look["label"] = _memory_label(run, name) if number == len(shown) - 1 else None
            ax.plot(series.index, series.to_numpy(), marker="o", markersize=3, **look)
    if floor is not None:
        total = memory_by_connections(floor)["total"]
        style: dict[str, Any] = {"color": COLOURS["floor"], "linestyle": "--", "linewidth": 1.2, "gid": "floor"}
        ax.plot(total.index, total.to_numpy(), label=_memory_label(floor, "total", "floor, raw TCP"), **style)
    count_axis(ax, "x", "connections open", log=True)
    bytes_axis(ax, "y", "memory in use since the start", log=True)
    stage_lines(ax)
    _name_runs(ax, shown)
    side_legend(ax)
    if counts < COUNTS_NEEDED:
        remark(ax, "The ramp was over within a sample or two, too soon for a line: a stage of 100k or more shows one.")
    return plot


def memory_by_connections(run: Run) -> pd.DataFrame:
    """Return bytes of `total`, `kernel`, `server` and `swarm` during ramp and hold, indexed by connections open.

    The kernel's share is what it uses more than at the last sample before the ramp.
    """
    samples = run.samples
    before = samples.loc[samples["phase"] == "start", "memory_kernel_bytes"].dropna()
    rising = samples[samples["phase"].isin(["ramp", "hold"]) & (samples["swarm_connections_open"] > 0)]
    base = before.iloc[-1] if len(before) else samples["memory_kernel_bytes"].min()
    parts = pd.DataFrame(
        {
            "kernel": (rising["memory_kernel_bytes"] - base).clip(lower=0),
            "server": user_bytes(rising, "server"),
            "swarm": user_bytes(rising, "swarm"),
        }
    )
    parts.insert(0, "total", parts.sum(axis=1))
    parts.index = pd.Index(rising["swarm_connections_open"], name="connections_open")
    return parts.where(parts > 0)


def user_bytes(samples: pd.DataFrame, side: str) -> pd.Series:
    """Return the memory of one end's processes: PSS between its readings, RSS where PSS was hardly read."""
    proportional = samples[f"{side}_pss_bytes"]
    if proportional.notna().sum() >= PSS_READINGS_NEEDED:
        return proportional.astype(float).interpolate(method="index", limit_direction="both")
    return samples[f"{side}_rss_bytes"].astype(float)


def _memory_label(run: Run, name: str, words: str = "") -> str:
    key = {"total": "total_bytes_per_connection", "kernel": "kernel_bytes_per_connection"}.get(
        name, f"{name}_user_bytes_per_connection"
    )
    slope = run.summary.get(key)
    words = words or {"total": "all together"}.get(name, name)
    return words if slope is None else f"{words}\n{bytes_text(slope)} a connection"


@figure
def cpu_memory_over_time(runs: Run | Sequence[Run]) -> Plot:
    """Draw the CPU cores busy (above) and the memory used and left (below) over time, phases shaded.

    Args:
        runs: one run, or several, which are then drawn from the moment in which the ramp began.
    """
    shown = as_list(runs)
    plot = new_plot(f"CPU and memory of {_stages(shown)}", caption_of(shown), rows=2, size=(9.0, 6.2))
    cpu, memory = plot.axes
    for number, run in enumerate(shown):
        samples = run.samples
        busy = samples.filter(regex=r"^cpu_(user|nice|system|irq|softirq|steal)_seconds$").sum(axis=1)
        draw = Line(shown, number)
        draw.rate(cpu, per_second(busy), "total", "all processes")
        for side in ("server", "swarm"):
            used = samples[f"{side}_cpu_user_seconds"] + samples[f"{side}_cpu_system_seconds"]
            draw.rate(cpu, per_second(used), side, side)
        draw.rate(cpu, per_second(samples["cpu_softirq_seconds"]), "kernel", "kernel, packets\n(soft interrupts)")
        draw.level(memory, samples["memory_headroom_bytes"], "headroom", "headroom left")
        draw.level(memory, samples["memory_kernel_bytes"], "kernel", "kernel")
        for side in ("server", "swarm"):
            draw.level(memory, user_bytes(samples, side), side, side)
    for cores in dict.fromkeys(run.machine.cpu_count for run in shown if run.machine.cpu_count):
        cpu.axhline(cores, color="#888888", linewidth=1.0, linestyle="--", label=f"all {cores} cores")
    cpu.set_ylabel("cores busy")
    cpu.set_ylim(bottom=0)
    for reserve in dict.fromkeys(run.stage.get("memory_reserve") for run in shown):
        if isinstance(reserve, int | float) and reserve > 0:
            memory.axhline(reserve, color=COLOURS["break"], linewidth=1.0, linestyle="--", label="reserve, ramp stops")
    bytes_axis(memory, "y", "memory")
    memory.set_ylim(bottom=0)
    _finish_time_axes(shown, [cpu, memory])
    return plot


@figure
def connections_over_time(runs: Run | Sequence[Run]) -> Plot:
    """Draw the connections open (above) and how many opened each second (below), and where a limit broke.

    Args:
        runs: one run, or several, which are then drawn from the moment in which the ramp began.
    """
    shown = as_list(runs)
    plot = new_plot(f"Connections of {_stages(shown)}", caption_of(shown), rows=2, size=(9.0, 5.6))
    counts, rates = plot.axes
    for number, run in enumerate(shown):
        samples, draw = run.samples, Line(shown, number)
        draw.level(counts, samples["server_connections_open"], "server", "open at the server")
        draw.level(counts, samples["swarm_connections_open"], "swarm", "open at the swarm")
        if len(shown) == 1:  # Both ends count the same, and one line would hide the other.
            counts.lines[-1].set_linestyle((0, (4, 3)))
        draw.rate(rates, per_second(samples["swarm_connections_opened"]), "connections", "opened a second")
        _mark_breaks(run, counts, draw.start)
    several = len(shown) > 1
    for number, asked in enumerate(dict.fromkeys(run.connections for run in shown if run.connections)):
        # Lines that look the same are named once.
        words = None if several and number else "asked for" if several else f"asked: {count_text(asked)}"
        counts.axhline(asked, color="#888888", linewidth=1.0, linestyle=":", label=words)
    count_axis(counts, "y", "connections")
    counts.set_ylim(bottom=0)
    count_axis(rates, "y", "connections/s")
    rates.set_ylim(bottom=0)
    _finish_time_axes(shown, [counts, rates])
    return plot


def caption_of(runs: Sequence[Run]) -> str:
    """Return the caption of a figure of some runs: that of one, else machines, dates and runs."""
    if len(runs) <= 1:
        return runs[0].caption if runs else ""
    machines = dict.fromkeys(run.machine.line for run in runs)
    dates = sorted({run.created_at[:10] for run in runs})
    disturbed = sum(bool(run.disturbed_by) for run in runs)
    told = [*machines, " to ".join(dict.fromkeys((dates[0], dates[-1]))), f"{len(runs)} runs"]
    told += [f"{disturbed} of them disturbed by others"] if disturbed else []
    return "\n".join(
        [" · ".join(told), ", ".join(run.run_id for run in runs)] if len(runs) <= 3 else [" · ".join(told)]
    )


def _stages(runs: Sequence[Run]) -> str:
    return f"the {runs[0].name} stage" if len(runs) == 1 else f"{len(runs)} runs"


def run_line(number: int) -> Any:
    """Return the kind of line of a run among several: solid for the first."""
    return RUN_LINES[number % len(RUN_LINES)]


class Line:
    """Draws the quantities of one run among several: the colour is that of the quantity, the line that of the run."""

    def __init__(self, runs: Sequence[Run], number: int) -> None:
        self.named, self.style, self.several = number == 0, run_line(number), len(runs) > 1
        phases = runs[number].phases
        # Several runs are laid over each other where their ramps begin.
        ramp = next((phase["started_seconds"] for phase in phases if phase["name"] == "ramp"), 0.0)
        self.start = ramp if len(runs) > 1 else 0.0

    def level(self, ax: Axes, series: pd.Series, name: str, label: str, **more: Any) -> None:
        """Draw what was read at each moment."""
        look = {"color": COLOURS[name], "linestyle": self.style, "gid": name, **more}
        ax.plot(series.index - self.start, series.to_numpy(dtype=float), label=label if self.named else None, **look)

    def rate(self, ax: Axes, series: pd.Series, name: str, label: str) -> None:
        """Draw what holds for the interval that ends at each moment."""
        alone: dict[str, Any] = {"drawstyle": "steps-pre"}
        self.level(ax, series, name, label, **({"linewidth": 1.2} if self.several else alone))


def _name_runs(ax: Axes, runs: Sequence[Run]) -> None:
    """Put the runs into the legend, each with its kind of line; none where there is only one."""
    for number, run in enumerate(runs) if len(runs) > 1 else ():
        words = f"{run.name} {run.server}, {run.run_id.rsplit('-', 1)[-1]}"
        ax.plot([], [], color="#555555", linewidth=1.2, linestyle=run_line(number), label=words, gid="run")


def _mark_breaks(run: Run, ax: Axes, start: float = 0.0) -> None:
    opened = run.samples["swarm_connections_open"]
    reached = int(opened.max()) if len(opened) else 0
    for finding in run.breaks:
        level = min(int(finding.get("at_connections") or reached), reached)
        at = opened.index[opened >= level]
        if not len(at):
            continue
        ax.plot([at[0] - start], [level], "X", color=COLOURS["break"], markersize=10, zorder=5, gid="break")
        text = f"{finding_name(finding)} at {count_text(level)}"
        # Below the line, which stays level from here on.
        ax.annotate(
            text,
            (at[0] - start, level),
            xytext=(8, -16),
            textcoords="offset points",
            color=COLOURS["break"],
            weight="bold",
        )


def _finish_time_axes(runs: Sequence[Run], axes: Sequence[Axes]) -> None:
    for ax in axes:
        _name_runs(ax, runs)
        side_legend(ax)
        if not any(len(run.samples) for run in runs):
            note(ax, "No samples were recorded.")
    if len(runs) == 1:
        draw_phases(runs[0], axes)
    else:
        ends = [run.samples.index[-1] - Line(runs, number).start for number, run in enumerate(runs) if len(run.samples)]
        axes[0].set_xlim(min(0.0, -0.02 * max(ends, default=1.0)), max([1.0, *ends]))
        axes[-1].set_xlabel("seconds since the ramp began")


def draw_phases(run: Run, axes: Sequence[Axes]) -> None:
    """Shade and name the phases of a run, and give each of them room enough to be seen."""
    ends = [phase.get("ended_seconds") or 0.0 for phase in run.phases]
    last = max([1.0, *ends, *run.samples.index[-1:].astype(float)])
    starts = [(phase["name"], float(phase["started_seconds"])) for phase in run.phases]
    # A phase lasts until the next one begins.
    spans = [(name, at, after) for (name, at), (_, after) in pairwise([*starts, ("", last)])]
    places, stretched = stretch(spans, last)
    for number, ax in enumerate(axes):
        if stretched:
            ax.set_xscale("function", functions=(_along(*places), _along(*reversed(places))))
        for name, start, end in spans:
            if name in PHASE_SHADES:
                ax.axvspan(start, end, color=PHASE_SHADES[name], zorder=0, linewidth=0)
            ax.axvline(start, color="#cccccc", linewidth=0.8, zorder=0.5)
            middle = float(np.interp((start + end) / 2, *places))
            if number == 0 and np.interp(end, *places) - np.interp(start, *places) >= EDGE_WIDTH:
                ax.text(
                    middle, 1.01, name, transform=ax.transAxes, ha="center", va="bottom", fontsize=8.5, color="#666666"
                )
        ax.set_xlim(0, last)
        if stretched:
            ax.xaxis.set_major_locator(FixedLocator(_ticks(places)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:.4g}"))
    words = "; short phases are drawn wider" if stretched else ""
    axes[-1].set_xlabel(f"seconds since the start{words}")


Places = tuple[list[float], list[float]]


def stretch(spans: Sequence[tuple[str, float, float]], last: float) -> tuple[Places, bool]:
    """Return where moments stand on an axis on which no phase is too narrow to be read.

    Args:
        spans: name, first and last second of each phase.
        last: the last second of the run.

    Returns:
        Seconds and their places from 0 to 1, both rising; and whether they are stretched at all.
    """
    bounds = sorted({0.0, last, *(at for _, start, end in spans for at in (start, end) if 0 <= at <= last)})
    names = {start: name for name, start, _ in spans}
    widths = []
    for low, high in pairwise(bounds):
        least = EDGE_WIDTH / 2 if names.get(low, "start") in EDGES else PHASE_WIDTH
        widths.append(max((high - low) / last, least))
    narrow = any(width > (high - low) / last for width, (low, high) in zip(widths, pairwise(bounds), strict=True))
    places = [0.0, *(float(at) for at in np.cumsum(widths) / sum(widths))]
    return (bounds, places), narrow


def _along(known: Sequence[float], wanted: Sequence[float]) -> Callable[[Any], Any]:
    """Return the straight pieces from one scale to another, going on beyond its ends."""
    x, y = np.asarray(known), np.asarray(wanted)

    def forward(values: Any) -> Any:
        values = np.asarray(values, dtype=float)
        slopes = np.diff(y) / np.diff(x)
        piece = np.clip(np.searchsorted(x, values, side="right") - 1, 0, len(slopes) - 1)
        return y[piece] + slopes[piece] * (values - x[piece])

    return forward


def _ticks(places: Places) -> list[float]:
    """Return seconds for ticks: round ones in each phase that has room for them, and where phases begin."""
    ticks: list[float] = []
    for (low, high), (left, right) in zip(pairwise(places[0]), pairwise(places[1]), strict=True):
        inside = MaxNLocator(nbins=max(1, int((right - left) / 0.09)), steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks += [float(at) for at in inside if low <= at < high]
    kept: list[float] = []
    for at in sorted({*ticks, places[0][-1]}):
        if not kept or np.interp(at, *places) - np.interp(kept[-1], *places) >= 0.055:
            kept.append(at)
    return kept


@figure
def latency(runs: Run | Sequence[Run]) -> Plot:
    """Draw handshake and round-trip latencies by percentile, on an axis that spreads out the slowest few.

    Args:
        runs: one run or several.
    """
    shown_runs = as_list(runs)
    plot = new_plot(f"Latency in {_stages(shown_runs)}", caption_of(shown_runs), size=(9.0, 4.8))
    ax = plot.axes[0]
    smallest = 0.1
    for number, run in enumerate(shown_runs):
        for kind, words in (
            ("handshake", "handshake:\nconnect and upgrade"),
            ("roundtrip", "round trip\nof a message"),
        ):
            above, seconds = percentiles(run.latency, kind)
            if len(above):
                smallest = min(smallest, float(above.min()))
                look: dict[str, Any] = {"color": COLOURS[kind], "linestyle": run_line(number), "gid": kind}
                look["label"] = words if number == 0 else None
                ax.plot(above, seconds, drawstyle="steps-post", **look)
    ax.set_xscale("log")
    ax.set_xlim(1.0, max(smallest, 1e-6))
    shown = [quantile for quantile in QUANTILES if 1 - quantile >= smallest * 0.99]
    ax.xaxis.set_major_locator(FixedLocator([1 - quantile for quantile in shown]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda above, _: f"{100 * (1 - above):.6g} %"))
    if not ax.lines:
        note(ax, "No latencies were recorded.")
    ax.set_xlabel("percentile: this share of them was at most as slow")
    seconds_axis(ax, "y", "latency", log=True)
    _name_runs(ax, shown_runs)
    side_legend(ax)
    return plot


def percentiles(table: pd.DataFrame, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (share of latencies above, seconds), both sorted from the fastest, for one kind of latency."""
    counts = table[table["kind"] == kind].groupby("bucket_seconds")["count"].sum().sort_index()
    if not len(counts):
        return np.array([]), np.array([])
    total = float(counts.sum())
    at_least = total - counts.cumsum().to_numpy(dtype=float) + counts.to_numpy(dtype=float)
    return at_least / total, counts.index.to_numpy(dtype=float)
