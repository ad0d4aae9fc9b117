"""Figures of recorded runs: memory over connections, the course of a run over time, latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

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
    seconds_axis,
    side_legend,
    stage_lines,
)

if TYPE_CHECKING:
    from wslab.lab.runs import Run

FLOOR_SERVER = "tcp_floor"
PHASE_SHADES = {
    "start": "#ffffff",
    "ramp": "#f1f4f8",
    "hold": "#ffffff",
    "climb": "#e9eef4",
    "verify": "#f1f4f8",
    "drain": "#ffffff",
}
# With fewer readings a line through the PSS would be a guess between two points.
PSS_READINGS_NEEDED = 3
# With fewer different numbers of connections a line shows nothing.
COUNTS_NEEDED = 3
QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


@figure
def memory_over_connections(runs: Run | Sequence[Run], floor: Run | None = None) -> Plot:
    """Draw what both ends and the kernel use over the connections open, beside the raw-TCP floor.

    Args:
        runs: one run or several; runs of the floor among them become the floor.
        floor: a run of `tcp_floor`; its whole memory is the dashed line.
    """
    given = list(runs) if isinstance(runs, Sequence) else [runs]
    shown = [run for run in given if run.server != FLOOR_SERVER] or given
    floor = floor or next((run for run in reversed(given) if run.server == FLOOR_SERVER and run not in shown), None)
    plot = new_plot("Memory over open connections", shown[-1].caption if shown else "", size=(9.0, 5.2))
    ax = plot.axes[0]
    counts = 0
    for number, run in enumerate(shown):
        parts = memory_by_connections(run)
        counts = max(counts, parts.index.nunique())
        for name in ("total", "kernel", "server", "swarm"):
            series = parts[name]
            label = _memory_label(run, name) if number == len(shown) - 1 else None
            ax.plot(series.index, series.to_numpy(), "o-", markersize=3, color=COLOURS[name], label=label, gid=name)
    if floor is not None:
        total = memory_by_connections(floor)["total"]
        style: dict[str, Any] = {"color": COLOURS["floor"], "linestyle": "--", "gid": "floor"}
        ax.plot(total.index, total.to_numpy(), label=_memory_label(floor, "total", "floor, raw TCP"), **style)
    count_axis(ax, "x", "connections open", log=True)
    bytes_axis(ax, "y", "memory in use since the start", log=True)
    stage_lines(ax)
    side_legend(ax)
    if counts < COUNTS_NEEDED:
        note(ax, "The ramp was over within a sample or two, too soon for a line:\na stage of 100k or more shows one.")
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
def cpu_memory_over_time(run: Run) -> Plot:
    """Draw the CPU cores busy (above) and the memory used and left (below) over time, phases shaded."""
    plot = new_plot(f"CPU and memory of the {run.name} stage", run.caption, rows=2, size=(9.0, 6.2))
    cpu, memory = plot.axes
    samples = run.samples
    busy = samples.filter(regex=r"^cpu_(user|nice|system|irq|softirq|steal)_seconds$").sum(axis=1)
    _line(cpu, per_second(busy), "total", "all processes")
    for side in ("server", "swarm"):
        used = samples[f"{side}_cpu_user_seconds"] + samples[f"{side}_cpu_system_seconds"]
        _line(cpu, per_second(used), side, side)
    _line(cpu, per_second(samples["cpu_softirq_seconds"]), "kernel", "kernel, packets\n(soft interrupts)")
    cores = run.machine.cpu_count
    if cores:
        cpu.axhline(cores, color="#888888", linewidth=1.0, linestyle="--", label=f"all {cores} cores")
    cpu.set_ylabel("cores busy")
    cpu.set_ylim(bottom=0)

    _line(memory, samples["memory_headroom_bytes"], "headroom", "headroom left")
    _line(memory, samples["memory_kernel_bytes"], "kernel", "kernel")
    for side in ("server", "swarm"):
        _line(memory, user_bytes(samples, side), side, side)
    reserve = run.stage.get("memory_reserve")
    if isinstance(reserve, int | float) and reserve > 0:
        memory.axhline(reserve, color=COLOURS["break"], linewidth=1.0, linestyle="--", label="reserve, ramp stops")
    bytes_axis(memory, "y", "memory")
    memory.set_ylim(bottom=0)
    _finish_time_axes(run, [cpu, memory])
    return plot


@figure
def connections_over_time(run: Run) -> Plot:
    """Draw the connections open (above) and how many opened each second (below), and where a limit broke."""
    plot = new_plot(f"Connections of the {run.name} stage", run.caption, rows=2, size=(9.0, 5.6))
    counts, rates = plot.axes
    samples = run.samples
    _line(counts, samples["server_connections_open"], "server", "open at the server")
    _line(counts, samples["swarm_connections_open"], "swarm", "open at the swarm")
    counts.lines[-1].set_linestyle((0, (4, 3)))
    if run.connections:
        counts.axhline(run.connections, color="#888888", linewidth=1.0, linestyle=":", label=f"asked: {run.name}")
    count_axis(counts, "y", "connections")
    counts.set_ylim(bottom=0)
    _line(rates, per_second(samples["swarm_connections_opened"]), "connections", "opened a second")
    count_axis(rates, "y", "connections/s")
    rates.set_ylim(bottom=0)
    _mark_breaks(run, counts)
    _finish_time_axes(run, [counts, rates])
    return plot


def _line(ax: Axes, series: pd.Series, name: str, label: str) -> None:
    ax.plot(series.index, series.to_numpy(dtype=float), color=COLOURS[name], label=label, gid=name)


def _mark_breaks(run: Run, ax: Axes) -> None:
    opened = run.samples["swarm_connections_open"]
    reached = int(opened.max()) if len(opened) else 0
    for finding in run.breaks:
        level = min(int(finding.get("at_connections") or reached), reached)
        at = opened.index[opened >= level]
        if not len(at):
            continue
        ax.plot([at[0]], [level], "X", color=COLOURS["break"], markersize=10, zorder=5, gid="break")
        text = f"{finding_name(finding)} at {count_text(level)}"
        ax.annotate(
            text, (at[0], level), xytext=(8, -16), textcoords="offset points", color=COLOURS["break"], weight="bold"
        )


def _finish_time_axes(run: Run, axes: Sequence[Axes]) -> None:
    ends = [phase.get("ended_seconds") or 0.0 for phase in run.phases]
    last = max([1.0, *ends, *run.samples.index[-1:].astype(float)])
    for number, ax in enumerate(axes):
        for phase in run.phases:
            start, end = phase["started_seconds"], phase.get("ended_seconds") or last
            ax.axvspan(start, end, color=PHASE_SHADES.get(phase["name"], "#ffffff"), zorder=0, linewidth=0)
            ax.axvline(start, color="#cccccc", linewidth=0.8, zorder=0.5)
            # A name over a phase too short for it would run into its neighbour's.
            if number == 0 and end - start > 0.045 * last:
                ax.annotate(
                    phase["name"],
                    ((start + end) / 2, 1.0),
                    xycoords=ax.get_xaxis_transform(),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color="#666666",
                )
        side_legend(ax)
        ax.set_xlim(0, last)
        if not len(run.samples):
            note(ax, "No samples were recorded.")
    axes[-1].set_xlabel("seconds since the start")


@figure
def latency(run: Run) -> Plot:
    """Draw handshake and round-trip latencies by percentile, on an axis that spreads out the slowest few."""
    plot = new_plot(f"Latency in the {run.name} stage", run.caption, size=(9.0, 4.8))
    ax = plot.axes[0]
    smallest = 0.1
    for kind, words in (("handshake", "handshake:\nconnect and upgrade"), ("roundtrip", "round trip\nof a message")):
        above, seconds = percentiles(run.latency, kind)
        if len(above):
            smallest = min(smallest, float(above.min()))
            ax.plot(above, seconds, color=COLOURS[kind], label=words, drawstyle="steps-post", gid=kind)
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
