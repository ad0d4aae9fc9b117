"""Figures of runs show what was recorded, in readable units, and say so when there is little to show."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from made_runs import BROKEN, GIB, make_run
from wslab.lab.runs import Run
from wslab.view import plots
from wslab.view.plots_frame import Plot, image_bytes
from wslab.view.plots_run import memory_by_connections, per_second, percentiles, stretch, user_bytes


@pytest.fixture
def held(tmp_path: Path) -> Run:
    return Run.load(make_run(tmp_path, 100_000))


def line(ax: Axes, name: str) -> Line2D:
    (found,) = [artist for artist in ax.lines if artist.get_gid() == name]
    return found


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def tick_labels(plot: Plot, ax: Axes, which: str) -> list[str]:
    image_bytes(plot, "png")
    axis = ax.xaxis if which == "x" else ax.yaxis
    return [label.get_text() for label in axis.get_ticklabels()]


def test_memory_of_kernel_and_both_ends_is_drawn_over_the_connections_that_were_open(held: Run) -> None:
    ax = plots.memory_over_connections(held).axes[0]
    kernel = line(ax, "kernel")
    assert max(kernel.get_xdata()) == 100_000
    assert max(kernel.get_ydata()) == pytest.approx(100_000 * 8380)
    parts = sum(max(line(ax, name).get_ydata()) for name in ("kernel", "server", "swarm"))
    assert max(line(ax, "total").get_ydata()) == pytest.approx(parts)


def test_memory_is_labelled_in_binary_units_and_connections_in_thousands(held: Run) -> None:
    plot = plots.memory_over_connections(held)
    ax = plot.axes[0]
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "connections open")
    assert "100k" in tick_labels(plot, ax, "x")
    assert "256 MiB" in tick_labels(plot, ax, "y")
    (legend,) = [ax.get_legend()]
    assert "kernel\n8.2 KiB a connection" in [text.get_text() for text in legend.get_texts()]


def test_the_floor_among_several_runs_becomes_the_dashed_line(held: Run, tmp_path: Path) -> None:
    floor = Run.load(make_run(tmp_path, 100_001, server="tcp_floor"))
    ax = plots.memory_over_connections([floor, held]).axes[0]
    dashed = line(ax, "floor")
    assert dashed.get_linestyle() == "--"
    assert max(dashed.get_ydata()) == pytest.approx(memory_by_connections(floor)["total"].max())


def test_a_ramp_too_short_for_a_line_says_so(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 1_000))
    run.samples["swarm_connections_open"] = 1_000
    assert "too soon for a line" in texts(plots.memory_over_connections(run).axes[0])[-1]


def test_kernel_memory_counts_from_the_last_sample_before_the_ramp(held: Run) -> None:
    held.samples.loc[held.samples["phase"] == "start", "memory_kernel_bytes"] += 50_000_000
    assert memory_by_connections(held)["kernel"].max() == pytest.approx(100_000 * 8380 - 50_000_000)


def test_pss_is_interpolated_where_it_was_read_and_rss_stands_in_where_it_was_not() -> None:
    samples = pd.DataFrame({"a_pss_bytes": [10.0, None, 30.0, None, 50.0], "a_rss_bytes": [99.0] * 5}, index=range(5))
    assert list(user_bytes(samples, "a")) == [10, 20, 30, 40, 50]
    assert list(user_bytes(samples.assign(a_pss_bytes=None), "a")) == [99] * 5


def test_cpu_is_drawn_as_cores_busy_with_the_number_of_cores(held: Run) -> None:
    cpu, memory = plots.cpu_memory_over_time(held).axes
    assert cpu.get_ylabel() == "cores busy"
    assert 1.7 < max(line(cpu, "total").get_ydata()[1:]) < 2.1
    assert "all 2 cores" in cpu.get_legend_handles_labels()[1]
    assert memory.get_xlabel().startswith("seconds since the start")


def test_the_reserve_is_a_line_in_the_memory_panel(held: Run) -> None:
    _, memory = plots.cpu_memory_over_time(held).axes
    levels = {drawn.get_label(): list(drawn.get_ydata()) for drawn in memory.lines}
    assert levels["reserve, ramp stops"] == [GIB, GIB]


def test_phases_are_named_above_the_upper_panel(held: Run) -> None:
    upper, lower = plots.connections_over_time(held).axes
    assert [text for text in texts(upper) if text in ("ramp", "hold", "verify")] == ["ramp", "hold", "verify"]
    assert texts(lower) == []


def test_the_rate_is_the_difference_over_the_time_between_samples() -> None:
    rates = per_second(pd.Series([0, 100, 400], index=[0.0, 1.0, 3.0]))
    assert list(rates[1:]) == [100.0, 150.0]


def test_a_break_is_marked_where_it_happened_with_the_name_of_its_limit(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 1_000_000, outcome="broke", reached=262_144, findings=(BROKEN,)))
    ax = plots.connections_over_time(run).axes[0]
    assert list(line(ax, "break").get_ydata()) == [262_144]
    assert "conntrack at 262k" in texts(ax)


SPANS = [("start", 0.0, 0.5), ("ramp", 0.5, 1.5), ("hold", 1.5, 99.0), ("verify", 99.0, 99.8)]


def test_a_short_phase_is_drawn_wide_enough_to_be_read() -> None:
    (seconds, places), stretched = stretch(SPANS, 100.0)
    at = dict(zip(seconds, places, strict=True))
    assert stretched
    assert (at[0.0], at[100.0]) == (0.0, 1.0)
    assert seconds == sorted(seconds)
    assert places == sorted(places)
    assert min(at[1.5] - at[0.5], at[99.8] - at[99.0]) > 0.1
    assert at[99.0] - at[1.5] > 0.5
    assert not stretch([("ramp", 0.0, 50.0), ("hold", 50.0, 100.0)], 100.0)[1]


def test_the_time_axis_of_a_short_ramp_shows_it_and_names_round_seconds(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 10_000))
    run.manifest["phases"] = [
        {"name": name, "started_seconds": start, "ended_seconds": end} for name, start, end in SPANS
    ]
    plot = plots.connections_over_time(run)
    lower = plot.axes[1]
    assert "short phases are drawn wider" in lower.get_xlabel()
    shown = [float(text) for text in tick_labels(plot, lower, "x")]
    assert shown == sorted(set(shown))
    assert {20.0, 40.0} <= set(shown)
    left, right = (lower.transData.transform((at, 0))[0] for at in (0.5, 1.5))
    assert right - left > 0.1 * lower.bbox.width


def test_several_runs_have_one_colour_a_quantity_and_one_line_a_run(tmp_path: Path) -> None:
    runs = [Run.load(make_run(tmp_path, count, second=n)) for n, count in enumerate((10_000, 50_000, 100_000))]
    for draw, name in (
        (plots.connections_over_time, "server"),
        (plots.cpu_memory_over_time, "server"),
        (plots.memory_over_connections, "kernel"),
        (plots.latency, "roundtrip"),
    ):
        plot = draw(runs)
        ax = plot.axes[0]
        drawn = [artist for artist in ax.lines if artist.get_gid() == name]
        assert len(drawn) == 3
        assert len({artist.get_color() for artist in drawn}) == 1
        assert len({str(artist._dash_pattern) for artist in drawn}) == 3  # type: ignore[attr-defined]
        named = [text.get_text() for text in ax.get_legend().get_texts()]
        assert sum(word.startswith(("10k lean, ", "50k lean, ", "100k lean, ")) for word in named) == 3
        assert all(run.run_id in plot.get_supxlabel() for run in runs)


def test_several_runs_are_laid_over_each_other_where_their_ramps_begin(tmp_path: Path) -> None:
    runs = [Run.load(make_run(tmp_path, 10_000, second=n)) for n in (1, 2)]
    starts = [next(p["started_seconds"] for p in run.phases if p["name"] == "ramp") for run in runs]
    upper, lower = plots.connections_over_time(runs).axes
    drawn = [artist for artist in upper.lines if artist.get_gid() == "swarm"]
    for artist, run, start in zip(drawn, runs, starts, strict=True):
        assert list(artist.get_xdata()) == pytest.approx(run.samples.index - start)
    assert lower.get_xlabel() == "seconds since the ramp began"


def test_latency_is_drawn_by_percentile_in_milliseconds(held: Run) -> None:
    plot = plots.latency(held)
    ax = plot.axes[0]
    assert tick_labels(plot, ax, "x")[:3] == ["50 %", "90 %", "99 %"]
    assert "10 ms" in tick_labels(plot, ax, "y")
    assert ax.get_xlim()[0] > ax.get_xlim()[1]
    assert line(ax, "handshake").get_xdata()[0] == 1.0


def test_percentiles_count_how_many_were_at_least_as_slow() -> None:
    table = pd.DataFrame({"kind": ["roundtrip"] * 3, "bucket_seconds": [0.2, 0.1, 0.2], "count": [1, 6, 3]})
    above, seconds = percentiles(table, "roundtrip")
    assert list(zip(above, seconds, strict=True)) == [(1.0, 0.1), (0.4, 0.2)]


@pytest.mark.parametrize("draw", [draw for _, _, draw in plots.RUN_FIGURES])
def test_a_run_that_recorded_nothing_is_drawn_without_complaint(tmp_path: Path, draw) -> None:
    run_dir = make_run(tmp_path, 1_000)
    for name in ("samples.csv", "latency.csv", "events.jsonl"):
        (run_dir / name).unlink()
    plot = draw(Run.load(run_dir))
    assert image_bytes(plot, "png").startswith(b"\x89PNG")
    assert any(text.get_gid() in ("note", "remark") for ax in plot.axes for text in ax.texts)


def test_figures_carry_machine_kernel_date_and_run(held: Run) -> None:
    for _, _, plot in plots.run_figures(held):
        caption = plot.get_supxlabel()
        assert all(part in caption for part in ("Made-up CPU", "2 cores", "6.18.5-made", "2025-01-02", held.run_id))
