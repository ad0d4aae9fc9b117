"""The frame of all figures: style, files and display, without any change to matplotlib's global state."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import pytest

from wslab.view.plots_frame import (
    COLOURS,
    BinaryLocator,
    Plot,
    bytes_axis,
    count_axis,
    figure,
    image_bytes,
    new_plot,
    save_figure,
    stage_lines,
)


@figure
def sketch() -> Plot:
    plot = new_plot("A title", "a caption", size=(4.0, 3.0))
    plot.axes[0].plot([1_000, 2_000_000], [1, 2])
    count_axis(plot.axes[0], "x", "connections", log=True)
    return plot


def test_drawing_and_saving_leave_the_settings_of_matplotlib_as_they_were(tmp_path: Path) -> None:
    before = matplotlib.rcParams.copy()
    save_figure(sketch(), tmp_path, "sketch")
    assert matplotlib.rcParams == before


def test_no_figure_is_kept_open(tmp_path: Path) -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    open_before = pyplot.get_fignums() if pyplot else []
    save_figure(sketch(), tmp_path, "sketch")
    assert (pyplot.get_fignums() if pyplot else []) == open_before


def test_the_same_figure_gives_the_same_files(tmp_path: Path) -> None:
    first, second = (save_figure(sketch(), tmp_path / name, "sketch") for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert [path.name for path in first] == ["sketch.svg", "sketch.png"]


def test_a_figure_that_was_saved_can_be_laid_out_again(tmp_path: Path) -> None:
    plot = sketch()
    layout = plot.get_layout_engine()
    save_figure(plot, tmp_path, "sketch")
    assert plot.get_layout_engine() is layout


def test_the_background_is_white_whatever_the_viewer_has(tmp_path: Path) -> None:
    plot = sketch()
    assert plot.get_facecolor() == (1.0, 1.0, 1.0, 1.0)
    assert b"fill: #ffffff" in image_bytes(plot, "svg")


def test_a_notebook_gets_an_image_and_no_backend_is_asked() -> None:
    data, metadata = sketch()._repr_mimebundle_()
    assert data["image/png"].startswith("iVBOR")
    assert data["text/plain"] == "Plot('A title')"
    assert metadata["image/png"] == {"width": 400, "height": 300}


def test_stage_lines_stand_where_they_fall_inside() -> None:
    ax = sketch().axes[0]
    stage_lines(ax)
    assert [line.get_xdata()[0] for line in ax.lines if line.get_gid() == "stage"] == [1e4, 1e5, 7e5, 1e6]
    assert [text.get_text() for text in ax.texts] == ["10k", "100k", "700k", "1M"]


@pytest.mark.parametrize(("highest", "step"), [(9.5 * 1024, 2048), (23 * 1024**3, 5 * 1024**3)])
def test_ticks_of_bytes_fall_on_round_binary_numbers(highest: float, step: float) -> None:
    ticks = BinaryLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(0, highest)
    assert ticks[1] - ticks[0] == step


def test_an_axis_without_data_can_be_drawn() -> None:
    plot = new_plot("Empty", "", size=(4.0, 3.0))
    bytes_axis(plot.axes[0], "y", "memory", log=True)
    assert image_bytes(plot, "png").startswith(b"\x89PNG")


def test_the_two_ends_the_kernel_and_a_break_have_colours_of_their_own() -> None:
    names = ("total", "server", "swarm", "kernel", "break", "floor")
    assert len({COLOURS[name] for name in names}) == len(names)
