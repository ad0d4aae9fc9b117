"""How figures look: on a light and on a dark page, at the size at which they are seen, for all of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from breaks.test_plots_breaks import PORTS, PROCESSES
from made_runs import BROKEN, ceiling_rows, make_run, make_run_over_hosts
from view.test_plots_compare import Made
from wslab.breaks.atlas import Atlas
from wslab.lab.compare import Comparison
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

# The width of a cell of a notebook and of a README, in pixels, and the pixels that a browser gives an inch of an SVG.
SEEN_WIDTH = 850
PIXELS_AN_INCH = 96
DATA = Path(__file__).parents[1] / "data"
REFERENCE = Path(__file__).parents[2] / "data" / "reference"
# A server that is not ours, with a ramp of a third of a second.
FOREIGN = "broken-command_fd_limit"
NAMES = tuple(
    f"{name} ({side})"
    for name, side in (
        ("ephemeral_ports", "swarm"),
        ("conntrack", "kernel"),
        ("fd_limit", "server"),
        ("fd_limit", "swarm"),
        ("file_max", "kernel"),
        ("epoll_watches", "kernel"),
        ("memory_cgroup", "machine"),
        ("memory_reserve", "machine"),
        ("firewall", "kernel"),
        ("link", "kernel"),
        ("accept_queue", "server"),
    )
)
LEAST_TEXT = 9.0  # pixels, as seen


def drawn(folder: Path) -> Iterator[tuple[str, Plot]]:
    """Yield every figure, of runs that held and that broke, of one and of several."""
    held = [Run.load(make_run(folder, count, second=n)) for n, count in enumerate((10_000, 100_000, 1_000_000))]
    broke = Run.load(make_run(folder, 700_000, second=9, outcome="broke", reached=262_144, findings=(BROKEN,)))
    stopped = Run.load(make_run(folder, 50_000, second=7, outcome="aborted", reached=20_000))
    floor = Run.load(make_run(folder, 100_000, second=8, server="tcp_floor"))
    for name, _, draw in plots.RUN_FIGURES:
        yield name, draw(broke)
        yield f"{name} of several", draw(held)
    yield "ceilings", plots.where_things_break(ceiling_rows(), [*held, broke, stopped])
    yield "stages", plots.stages_overview([*held, broke, floor])
    for name, _, compared in COMPARISON_FIGURES:
        yield name, compared(Made(limited_by="generator"))
    yield "breaks", plots.predicted_and_measured(Atlas(folder=folder, results=(PORTS, PROCESSES)))
    yield "names", plots.expected_and_named(Names(NAMES))
    yield "hosts", plots.hosts_over_time(Run.load(make_run_over_hosts(folder, 20_000, second=6)))
    yield from of_reference()
    foreign = Run.load(DATA / FOREIGN)
    yield "ceilings of a foreign server", plots.where_things_break(measured=foreign)
    yield "connections of a foreign server", plots.connections_over_time(foreign)


def of_reference() -> Iterator[tuple[str, Plot]]:
    """Yield the figures of what was really measured: the four stages, seven servers, the breaks on purpose."""
    found = [Run.load(path.parent) for path in sorted(REFERENCE.glob("2*/run.json"))]
    served = [run for run in found if run.server != "tcp_floor"]
    yield "reference ceilings", plots.where_things_break(measured=served)
    yield "reference stages", plots.stages_overview(found)
    yield "reference cpu and memory", plots.cpu_memory_over_time(served)
    yield "reference memory of a short ramp", plots.memory_over_connections(served[0])
    yield "reference connections of a short ramp", plots.connections_over_time(served[0])
    comparison = Comparison.load(REFERENCE / "servers")
    for name, _, compared in COMPARISON_FIGURES:
        yield f"reference {name}", compared(comparison)
    yield "reference breaks", plots.predicted_and_measured(Atlas.load(REFERENCE / "breaks"))


class Names:
    """Random scenarios, with the names that the first limit of each was given."""

    sentence, caption = "51 of 55 named rightly", "a machine"

    def __init__(self, names: tuple[str, ...]) -> None:
        self.matrix = {one: {one: 4, other: 1} for one, other in pairwise((*names, names[0]))}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plot]:
    found = dict(drawn(tmp_path_factory.mktemp("data")))
    for plot in found.values():
        FigureCanvasAgg(plot)
        plot.draw_without_rendering()
        plot.set_layout_engine("none")  # It takes as long as drawing does, and nothing moves any more.
    return found


@functools.cache
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
            lines = [
                (line.get_gid() or line.get_label(), line.get_path().transformed(line.get_transform()))
                for line in ax.lines
                if isinstance(line, Line2D) and len(line.get_xdata()) > 1 and line.get_gid() != "stage"
            ]
            for text in ax.texts:
                if text not in written(plot) or text.get_gid() == "note":
                    continue
                box = text.get_window_extent()
                through += [
                    f"{name}: {text.get_text()!r} and {line}"
                    for line, path in lines
                    if path.intersects_bbox(box, filled=False)
                ]
    assert through == []


def test_text_is_large_enough_at_the_size_at_which_it_is_seen(figures: dict[str, Plot]) -> None:
    small = []
    for name, plot in figures.items():
        shown = min(1.0, SEEN_WIDTH / (PIXELS_AN_INCH * plot.get_figwidth()))
        for text in written(plot):
            pixels = text.get_fontsize() / 72 * PIXELS_AN_INCH * shown
            if pixels < LEAST_TEXT:
                small.append(f"{name}: {text.get_text()!r} has {pixels:.1f} px")
    assert small == []


@pytest.mark.parametrize("colour", [*COLOURS.values(), *(colour for colour, _ in LINES)])
def test_every_colour_can_be_told_from_both_pages(colour: str) -> None:
    assert contrast(on_dark(colour), DARK_PAGE) >= MARK_CONTRAST
    assert contrast(colour, LIGHT_PAGE) >= MARK_CONTRAST


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


def test_what_a_legend_names_can_be_told_apart(figures: dict[str, Plot]) -> None:
    def look(handle: Any) -> tuple[Any, ...]:
        if isinstance(handle, Line2D):
            return "line", to_rgba(handle.get_color()), str(handle._dash_pattern), handle.get_marker()  # type: ignore[attr-defined]
        return "bar", handle.get_facecolor(), handle.get_hatch()

    alike = []
    for name, plot in figures.items():
        for ax in plot.axes:
            legend = ax.get_legend()
            looks = [look(handle) for handle in legend.legend_handles] if legend else []
            alike += [f"{name}: {words}" for words in looks if looks.count(words) > 1]
    assert alike == []
