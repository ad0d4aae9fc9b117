"""The figures across stages: each ceiling at its number, breaks marked on their limit, costs beside the floor."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes

from made_runs import BROKEN, CEILINGS, ceiling_rows, make_run
from wslab.lab.preflight import preflight
from wslab.lab.runs import Run
from wslab.view import plots
from wslab.view.plots_frame import COLOURS, image_bytes
from wslab.view.plots_run import FLOOR_SERVER


@pytest.fixture
def broke(tmp_path: Path) -> Run:
    return Run.load(make_run(tmp_path, 1_000_000, outcome="broke", reached=262_144, findings=(BROKEN,)))


def bars(ax: Axes) -> dict[str, float]:
    return {patch.get_gid().removeprefix("ceiling "): patch.get_x() + patch.get_width() for patch in ax.patches}


def labels(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_every_limit_with_a_number_has_a_bar_that_ends_there_lowest_first() -> None:
    ax = plots.where_things_break(ceiling_rows()).axes[0]
    numbered = [(row[0], row[2]) for row in CEILINGS if row[2] and row[0] != "file_max"]
    assert bars(ax) == pytest.approx(dict(numbered))
    assert [label.split()[0] for label in labels(ax)] == [name for name, _ in sorted(numbered, key=lambda row: row[1])]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_the_stages_are_marked_on_a_log_axis() -> None:
    ax = plots.where_things_break(ceiling_rows()).axes[0]
    assert ax.get_xscale() == "log"
    assert [line.get_xdata()[0] for line in ax.lines if line.get_gid() == "stage"] == [1e4, 1e5, 7e5, 1e6]


def test_what_lifts_a_limit_stands_beside_it_and_what_does_not_bind_is_folded_away() -> None:
    plot = plots.where_things_break(ceiling_rows(), caption="a machine")
    texts = [text.get_text().replace("\n", " ") for text in plot.axes[0].texts]
    assert "more source addresses" in texts
    below = plot.get_supxlabel().splitlines()
    assert below[-1] == "a machine"
    assert " ".join(below[:-1]).endswith("why is in the preflight: file_max at 1.2M.")


def test_a_limit_that_should_not_bind_has_a_bar_where_a_run_broke_at_it(tmp_path: Path) -> None:
    finding = {**BROKEN, "limit": "file_max", "at_connections": 1_199_000}
    run = Run.load(make_run(tmp_path, 2_000_000, outcome="broke", reached=1_199_000, findings=(finding,)))
    ax = plots.where_things_break(ceiling_rows(), run).axes[0]
    (mark,) = [line for line in ax.lines if line.get_gid() == "break"]
    assert labels(ax)[int(mark.get_ydata()[0])].startswith("file_max")


def test_a_break_is_marked_on_the_bar_of_its_limit(broke: Run) -> None:
    ax = plots.where_things_break(ceiling_rows(), [broke]).axes[0]
    (mark,) = [line for line in ax.lines if line.get_gid() == "break"]
    place = next(place for place, label in enumerate(labels(ax)) if label.startswith("conntrack"))
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (262_144, place)


def test_a_limit_of_both_ends_is_marked_on_the_side_that_broke() -> None:
    rows = [
        {
            "limit": "fd_limit",
            "side": side,
            "title": "t",
            "ceiling_connections": 20_000,
            "lift": "",
            "needs_root": False,
        }
        for side in ("server", "swarm")
    ]
    run = Run(Path("x"), {"outcome": "broke", "findings": [{**BROKEN, "limit": "fd_limit", "side": "swarm"}]})
    ax = plots.where_things_break(rows, [run]).axes[0]
    (mark,) = [line for line in ax.lines if line.get_gid() == "break"]
    assert labels(ax)[int(mark.get_ydata()[0])].startswith("fd_limit (swarm)")


def test_measured_stages_are_on_the_top_line(broke: Run, tmp_path: Path) -> None:
    held = Run.load(make_run(tmp_path, 100_000))
    ax = plots.where_things_break(ceiling_rows(), [broke, held]).axes[0]
    measured = {line.get_gid(): line.get_xdata()[0] for line in ax.lines if str(line.get_gid()).startswith("measured")}
    assert measured == {"measured held": 100_000, "measured broke": 262_144}
    assert labels(ax)[0] == "measured here"


def test_a_run_that_held_is_drawn_so_whatever_was_found_in_it(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 300_000, findings=(BROKEN,)))
    ax = plots.where_things_break(ceiling_rows(), [run]).axes[0]
    (mark,) = [line for line in ax.lines if str(line.get_gid()).startswith("measured")]
    assert (mark.get_gid(), mark.get_marker(), mark.get_color()) == ("measured held", "o", COLOURS["kernel"])
    course = plots.connections_over_time(run).axes[0]
    assert "break" not in {line.get_gid() for line in [*ax.lines, *course.lines]}


@pytest.mark.parametrize("outcome", ["aborted", "crashed"])
def test_a_run_that_ended_early_is_drawn_neither_as_held_nor_as_broken(tmp_path: Path, outcome: str) -> None:
    run = Run.load(make_run(tmp_path, 100_000, outcome=outcome))
    ax = plots.where_things_break(ceiling_rows(), [run]).axes[0]
    (mark,) = [line for line in ax.lines if line.get_gid() == f"measured {outcome}"]
    assert mark.get_color() not in (COLOURS["kernel"], COLOURS["break"])
    assert "ended early, measured" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_ceiling_far_out_ends_at_the_edge_and_says_its_number() -> None:
    row = {**ceiling_rows()[0], "limit": "process_limit", "ceiling_connections": 326_000_000}
    ax = plots.where_things_break([row]).axes[0]
    assert bars(ax)["process_limit"] == ax.get_xlim()[1]
    assert "326M ▶" in [text.get_text() for text in ax.texts]


def test_the_preflight_of_this_machine_can_be_drawn() -> None:
    look = preflight("10k")
    ax = plots.where_things_break(look.ceilings, caption=look.machine.line).axes[0]
    shown = [row for row in look.ceilings if row.ceiling_connections and row.binding]
    assert len(ax.patches) == len(shown)
    assert ax.figure.get_supxlabel().splitlines()[-1] == look.machine.line


def test_the_cost_of_a_stage_is_stacked_and_the_floor_is_a_line_across(tmp_path: Path) -> None:
    runs = [Run.load(make_run(tmp_path, n, second=n // 10_000)) for n in (10_000, 100_000)]
    floor = Run.load(make_run(tmp_path, 100_000, server="tcp_floor", second=50))
    memory, rate = plots.stages_overview([*runs, floor]).axes
    tops = sorted(patch.get_y() + patch.get_height() for patch in memory.patches if patch.get_gid() == "swarm")
    totals = sorted(run.summary["total_bytes_per_connection"] for run in runs)
    assert tops == pytest.approx(totals, rel=0.01)
    (line,) = [line for line in memory.lines if line.get_gid() == "floor"]
    assert line.get_ydata()[0] == floor.summary["total_bytes_per_connection"]
    assert [patch.get_height() for patch in rate.patches] == [17_000.0, 17_000.0]
    assert (memory.get_ylabel(), rate.get_ylabel()) == ("bytes per connection, both ends", "connections/s")


def test_the_rate_of_a_stage_stands_clear_of_the_line_of_a_faster_floor(tmp_path: Path) -> None:
    runs = [
        Run.load(make_run(tmp_path, 100_000, server=server, second=n))
        for n, server in enumerate(("lean", FLOOR_SERVER))
    ]
    _, rate = plots.stages_overview(runs).axes
    (label,) = [text for text in rate.texts if text.get_text() == "17k/s"]
    assert label.xy[1] == runs[1].summary["connections_per_second"]


def test_a_stage_that_broke_says_where(broke: Run) -> None:
    memory, _ = plots.stages_overview([broke]).axes
    assert [label.get_text() for label in memory.get_xticklabels()] == ["1M\nbroke at 262k"]


def test_of_two_runs_of_a_stage_the_latest_is_shown(tmp_path: Path) -> None:
    old, new = (Run.load(make_run(tmp_path, 10_000, second=second)) for second in (1, 2))
    new.summary["connections_per_second"] = 5.0
    _, rate = plots.stages_overview([old, new]).axes
    assert [patch.get_height() for patch in rate.patches] == [5.0]


def test_nothing_recorded_says_so() -> None:
    plot = plots.stages_overview([])
    assert [text.get_text() for text in plot.axes[0].texts] == ["No runs are recorded yet."]
    assert image_bytes(plot, "png").startswith(b"\x89PNG")


def test_no_ceilings_say_so() -> None:
    plot = plots.where_things_break([])
    assert [text.get_text() for text in plot.axes[0].texts if text.get_gid() == "note"] == ["No ceilings are known."]
    assert image_bytes(plot, "png").startswith(b"\x89PNG")


def test_without_a_preflight_the_ceilings_are_those_of_the_largest_stage(tmp_path: Path) -> None:
    small, large = (Run.load(make_run(tmp_path, n, second=n // 10_000)) for n in (10_000, 100_000))
    small.preflight = [{**ceiling_rows()[0], "limit": "nr_open"}]
    ax = plots.where_things_break(measured=[large, small]).axes[0]
    assert "nr_open" not in bars(ax)
    assert "conntrack" in bars(ax)
