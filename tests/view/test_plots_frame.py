"""The frame of all figures: style, files and display, without any change to matplotlib's global state."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib
import pytest

from wslab.view.plots_frame import (
    COLOURS,
    PAPER_INCHES,
    BinaryLocator,
    Plot,
    bytes_axis,
    count_axis,
    figure,
    image_bytes,
    new_plot,
    save_figure,
    save_for_paper,
    stage_lines,
)
from wslab.view.plots_theme import DARK_PAGE


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
    assert [path.name for path in first] == ["sketch.svg", "sketch.png", "sketch-dark.svg"]


def test_a_figure_that_was_saved_can_be_laid_out_again(tmp_path: Path) -> None:
    plot = sketch()
    layout = plot.get_layout_engine()
    save_figure(plot, tmp_path, "sketch")
    assert plot.get_layout_engine() is layout


def test_a_file_has_a_background_of_its_own_and_an_embedded_image_none() -> None:
    plot = sketch()
    assert b"fill: #ffffff" in image_bytes(plot, "svg")
    assert DARK_PAGE.encode() in image_bytes(plot, "svg", dark=True)
    assert b"fill: #ffffff" not in image_bytes(plot, "svg", dark=True)
    for dark in (False, True):
        image = image_bytes(plot, "svg", dark=dark, transparent=True)
        assert DARK_PAGE.encode() not in image
        assert b"fill: #ffffff" not in image


def test_a_figure_for_a_paper_is_as_wide_as_its_text_and_the_figure_stays_as_it_was(tmp_path: Path) -> None:
    plot = new_plot("A title", "a caption", size=(10.0, 5.0))
    before = image_bytes(plot, "svg")
    data = save_for_paper(plot, tmp_path / "paper", "sketch").read_bytes()
    assert data.startswith(b"%PDF")
    assert f"/MediaBox [ 0 0 {72 * PAPER_INCHES:g} {36 * PAPER_INCHES:g} ]".encode() in data
    assert b"STIXGeneral" in data
    assert image_bytes(plot, "svg") == before


def test_a_notebook_gets_an_image_for_each_theme_and_no_backend_is_asked() -> None:
    data, metadata = sketch()._repr_mimebundle_()
    page = data["text/html"]
    assert page.startswith("<style>")
    images = re.findall(
        r'<img class="wslab-(\w+)" alt="A title" src="data:image/png;base64,(\w+)[^>]*display:(\w+)">', page
    )
    assert [(name, shown) for name, _, shown in images] == [("light", "block"), ("dark", "none")]
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
