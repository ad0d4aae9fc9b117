"""How figures look: on a light and on a dark page, at the size at which they are seen, for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from breaks.test_plots_breaks import PORTS, PROCESSES
from made_runs import BROKEN, ceiling_rows, make_run
from view.test_plots_compare import Made
from wslab.breaks.atlas import Atlas
from wslab.lab.runs import Run
from wslab.view import plots
from wslab.view.plots_compare import COMPARISON_FIGURES, LINES
from wslab.view.plots_frame import COLOURS, Plot, image_bytes
from wslab.view.plots_theme import (
    DARK_PAGE,
    LIGHT_PAGE,
    MARK_CONTRAST,
    ON_COLOUR,
    TEXT_CONTRAST,
    contrast,
    dark,
    on_dark,
)

# The width of a cell of a notebook and of a README, in pixels.
SEEN_WIDTH = 900
LEAST_TEXT = 9.0  # pixels, as seen


def drawn(folder: Path) -> Iterator[tuple[str, Plot]]:
    """Yield every figure, of runs that held and that broke, of one and of several."""
    held = [Run.load(make_run(folder, count, second=n)) for n, count in enumerate((10_000, 100_000, 1_000_000))]
    broke = Run.load(make_run(folder, 700_000, second=9, outcome="broke", reached=262_144, findings=(BROKEN,)))
    floor = Run.load(make_run(folder, 100_000, second=8, server="tcp_floor"))
    for name, _, draw in plots.RUN_FIGURES:
        yield name, draw(broke)
        yield f"{name} of several", draw(held)
    yield "ceilings", plots.where_things_break(ceiling_rows(), [*held, broke])
    yield "stages", plots.stages_overview([*held, broke, floor])
    for name, _, compared in COMPARISON_FIGURES:
        yield name, compared(Made(limited_by="generator"))
    yield "breaks", plots.predicted_and_measured(Atlas(folder=folder, results=(PORTS, PROCESSES)))


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plot]:
    found = dict(drawn(tmp_path_factory.mktemp("data")))
    for plot in found.values():
        FigureCanvasAgg(plot)
        plot.draw_without_rendering()
    return found


def written(plot: Plot) -> list[Text]:
    """Return the texts of a figure that can be seen."""
    texts = [text for text in plot.findobj(Text) if isinstance(text, Text)]
    return [text for text in texts if text.get_text().strip() and text.get_visible() and _is_shown(text, plot)]


def _is_shown(text: Text, plot: Plot) -> bool:
    """Return whether a text is no label of a tick outside its axis, which is kept and not drawn."""
    for ax in plot.axes:
        for axis, place in ((ax.xaxis, 0), (ax.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if text in (tick.label1, tick.label2):
                    outside = not low <= text.get_position()[place] <= high
                    return not outside and (
                        tick.label1.get_visible() if text is tick.label1 else tick.label2.get_visible()
                    )
    return True


def test_no_text_is_cut_off(figures: dict[str, Plot]) -> None:
    cut = []
    for name, plot in figures.items():
        canvas = plot.bbox
        for text in written(plot):
            box = text.get_window_extent()
            if box.x0 < -1 or box.y0 < -1 or box.x1 > canvas.x1 + 1 or box.y1 > canvas.y1 + 1:
                cut.append(f"{name}: {text.get_text()!r}")
            if "…" in text.get_text():
                cut.append(f"{name}: {text.get_text()!r}")
    assert cut == []


def test_no_two_texts_lie_over_each_other(figures: dict[str, Plot]) -> None:
    over = []
    for name, plot in figures.items():
        boxes = [
            (text.get_text(), text.get_window_extent()) for text in written(plot) if text.get_rotation() in (0, 90)
        ]
        for number, (one, box) in enumerate(boxes):
            for other, another in boxes[number + 1 :]:
                width = min(box.x1, another.x1) - max(box.x0, another.x0)
                height = min(box.y1, another.y1) - max(box.y0, another.y0)
                if width > 1 and height > 1.5:
                    over.append(f"{name}: {one!r} and {other!r}")
    assert over == []


def test_no_sentence_is_drawn_through_a_line(figures: dict[str, Plot]) -> None:
    through = []
    for name, plot in figures.items():
        for ax in plot.axes:
            points = [
                (line.get_gid(), line.get_transform().transform(line.get_xydata()))
                for line in ax.lines
                if isinstance(line, Line2D) and len(line.get_xdata()) > 2
            ]
            for text in ax.texts:
                if len(text.get_text()) < 20 or text not in written(plot):
                    continue
                box = text.get_window_extent()
                through += [f"{name}: {text.get_text()!r} and {gid}" for gid, at in points if box.count_contains(at)]
    assert through == []


def test_text_is_large_enough_at_the_size_at_which_it_is_seen(figures: dict[str, Plot]) -> None:
    small = []
    for name, plot in figures.items():
        shown = min(1.0, SEEN_WIDTH / (100 * plot.get_figwidth()))
        for text in written(plot):
            pixels = text.get_fontsize() / 72 * 100 * shown
            if pixels < LEAST_TEXT:
                small.append(f"{name}: {text.get_text()!r} has {pixels:.1f} px")
    assert small == []


@pytest.mark.parametrize("colour", [*COLOURS.values(), *(colour for colour, _ in LINES)])
def test_every_colour_can_be_told_from_both_pages(colour: str) -> None:
    assert contrast(on_dark(colour), DARK_PAGE) >= MARK_CONTRAST
    assert contrast(colour, LIGHT_PAGE) >= 2.0


def test_text_is_legible_on_both_pages(figures: dict[str, Plot]) -> None:
    def faint(plot: Plot, page: str) -> list[str]:
        texts = [text for text in written(plot) if text.get_gid() != ON_COLOUR]
        return [text.get_text() for text in texts if contrast(text.get_color(), page) < MARK_CONTRAST]

    for name, plot in figures.items():
        assert (name, faint(plot, LIGHT_PAGE)) == (name, [])
        with dark(plot):
            assert (name, faint(plot, DARK_PAGE)) == (name, [])


def test_text_on_a_bar_can_be_read_in_both_themes(figures: dict[str, Plot]) -> None:
    def look(plot: Plot) -> Iterator[float]:
        for ax in plot.axes:
            for text in ax.texts:
                if text.get_gid() == ON_COLOUR:
                    _, y = text.xy  # type: ignore[attr-defined]
                    (bar,) = [
                        patch
                        for patch in ax.patches
                        if isinstance(patch, Rectangle) and patch.get_y() < y < patch.get_y() + patch.get_height()
                    ]
                    yield contrast(text.get_color(), bar.get_facecolor())

    plot = figures["ceilings"]
    light = list(look(plot))
    with dark(plot):
        assert min(light + list(look(plot))) >= TEXT_CONTRAST
    assert light


def test_greys_change_places_and_a_legible_colour_stays_what_it_is() -> None:
    assert contrast(on_dark("#ffffff"), DARK_PAGE) < 1.05
    assert contrast(on_dark("#000000"), DARK_PAGE) > 12
    assert contrast(on_dark("#e4e4e4"), DARK_PAGE) < 1.5
    assert on_dark("#56b4e9")[:3] == pytest.approx((0x56 / 255, 0xB4 / 255, 0xE9 / 255))
    assert contrast(on_dark("#332288"), DARK_PAGE) >= MARK_CONTRAST
    assert on_dark((0.0, 0.0, 0.0, 0.25))[3] == 0.25


def test_a_figure_has_its_colours_back_after_it_was_drawn_for_a_dark_page(figures: dict[str, Plot]) -> None:
    def colours(name: str, *, dark: bool = False) -> list[bytes]:
        return re.findall(rb"#[0-9a-f]{6}", image_bytes(figures[name], "svg", dark=dark))

    for name in ("ceilings", "connections", "servers"):
        before = colours(name)
        assert colours(name, dark=True) != before
        assert colours(name) == before


def test_a_marker_keeps_the_colour_of_its_line_on_a_dark_page(figures: dict[str, Plot]) -> None:
    total = next(line for line in figures["memory"].axes[0].lines if line.get_gid() == "total")
    with dark(figures["memory"]):
        assert total.get_color() == total.get_markerfacecolor() == total.get_markeredgecolor()
        assert contrast(total.get_color(), DARK_PAGE) > 12
