"""What all figures share: style, colours, axes in readable units, captions, and how they are saved.

1. Figures are made without pyplot: no global state is changed, no figure stays open, no display is needed.
2. One colour a quantity, from the Okabe-Ito palette, the same in every figure; its pale ones are darkened until a line
   in them can be told from a white page.
3. Every figure carries its machine, kernel, date and run below, so that it can be published alone.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from html import escape
from math import log2
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from wslab.lab.tables import bytes_text, count_text, seconds_text
from wslab.view import plots_theme

STYLE = Path(__file__).with_name("wslab.mplstyle")
STAGE_LINES = (10_000, 100_000, 700_000, 1_000_000)
# 700k and 1M are close on a long axis: their names lean away from each other, by so many points.
LEANING = {700_000: ("right", 7), 1_000_000: ("left", -3)}
COLOURS = {
    "total": "#000000",
    "connections": "#000000",
    "server": "#0072b2",
    "swarm": "#c28500",
    "kernel": "#009e73",
    "headroom": "#3399d6",
    "handshake": "#cc79a7",
    "roundtrip": "#332288",
    "floor": "#777777",
    "break": "#d55e00",
}
SHORT_LOG_SPAN = 150
# The text width of a page of two columns, as journals of ACM and IEEE have it.
PAPER_INCHES = 7.0
# README and a cell of a notebook show no more without making the text smaller.
PAGE_INCHES = 9.6
P = ParamSpec("P")


class BinaryLocator(MaxNLocator):
    """Places ticks at round numbers of KiB, MiB or GiB instead of round numbers of bytes."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        """Return the ticks from `vmin` to `vmax`, in bytes."""
        unit = 1024.0 ** max(0, int(log2(max(abs(vmin), abs(vmax), 1.0)) // 10))
        return [tick * unit for tick in super().tick_values(vmin / unit, vmax / unit)]


# Shows the one of two images that suits the page: JupyterLab's theme, that of VS Code, else the reader's own choice.
_DARK_PAGES = ('[data-jp-theme-light="false"]', "body.vscode-dark")
_OTHER_PAGES = "body:not([data-jp-theme-light]):not([class*=vscode])"
THEME_STYLE = (
    f"{','.join(f'{page} .wslab-light' for page in _DARK_PAGES)}{{display:none!important}}"
    f"{','.join(f'{page} .wslab-dark' for page in _DARK_PAGES)}{{display:block!important}}"
    f"@media screen and (prefers-color-scheme:dark){{{_OTHER_PAGES} .wslab-light{{display:none!important}}"
    f"{_OTHER_PAGES} .wslab-dark{{display:block!important}}}}"
)


class Plot(Figure):
    """A figure that a notebook shows as one image, whatever matplotlib backend is set, for a light or a dark page."""

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
        width, height = (round(inches * 100) for inches in self.get_size_inches())
        light = data_uri(image_bytes(self, "png", transparent=True), "png")
        page = two_images(
            light, data_uri(image_bytes(self, "png", dark=True, transparent=True), "png"), self.title, width
        )
        bundle = {
            "text/html": f"<style>{THEME_STYLE}</style>{page}",
            "image/png": base64.b64encode(image_bytes(self, "png")).decode("ascii"),
            "text/plain": repr(self),
        }
        return bundle, {"image/png": {"width": width, "height": height}}

    @property
    def title(self) -> str:
        """What the figure shows."""
        return str(self.get_suptitle())

    def __repr__(self) -> str:
        return f"Plot({self.title!r})"


@contextmanager
def styled() -> Iterator[None]:
    """Apply the project's style on top of matplotlib's defaults, for as long as the context lasts."""
    with matplotlib.style.context(STYLE, after_reset=True):
        yield


def figure(draw: Callable[P, Plot]) -> Callable[P, Plot]:
    """Make a drawing function draw in the project's style."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Plot:
        with styled():
            return draw(*args, **kwargs)

    return drawn


def new_plot(title: str, caption: str, *, rows: int = 1, columns: int = 1, size: tuple[float, float]) -> Plot:
    """Return an empty figure with its title above and its caption below; its axes are in `.axes`.

    Args:
        title: what it shows.
        caption: machine, kernel, date and run.
        rows: axes stacked over each other; they share their x axis.
        columns: axes beside each other.
        size: width and height in inches.
    """
    plot = Plot(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08))
    plot.subplots(rows, columns, sharex=rows > 1 and columns == 1)
    plot.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    plot.supxlabel(caption, x=0.01, ha="left", fontsize=8, color="#555555")
    return plot


def count_axis(ax: Axes, which: str, label: str, *, log: bool = False) -> None:
    """Show counts as `700k` on the axis `which` ("x" or "y")."""
    _unit_axis(ax, which, label, count_text, log=log)


def bytes_axis(ax: Axes, which: str, label: str, *, log: bool = False) -> None:
    """Show bytes as KiB or GiB, with ticks at powers of two."""
    _unit_axis(ax, which, label, bytes_text, log=log, base=2.0)


def seconds_axis(ax: Axes, which: str, label: str, *, log: bool = False) -> None:
    """Show seconds as µs, ms or s."""
    _unit_axis(ax, which, label, seconds_text, log=log)
    if which == "x" and not log:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4))  # Their names are long.


def _unit_axis(
    ax: Axes, which: str, label: str, text: Callable[[float], str], *, log: bool, base: float = 10.0
) -> None:
    axis = ax.xaxis if which == "x" else ax.yaxis
    if log:
        (ax.set_xscale if which == "x" else ax.set_yscale)("log")
        low, high = ax.get_xlim() if which == "x" else ax.get_ylim()
        if not 0 < low < high:  # Nothing is plotted, and a log axis cannot be drawn without positive limits.
            low, high = 1.0, 10.0
            (ax.set_xlim if which == "x" else ax.set_ylim)(low, high)
        # Powers of ten alone would leave a short axis with one labelled tick.
        subs = (1.0, 2.0, 5.0) if base == 10.0 and high < SHORT_LOG_SPAN * low else (1.0,)
        axis.set_major_locator(LogLocator(base=base, subs=subs, numticks=9))
        axis.set_minor_formatter(NullFormatter())
    elif base == 2.0:
        axis.set_major_locator(BinaryLocator(nbins=6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_label_text(label)


def stage_lines(ax: Axes) -> None:
    """Draw the named stages as thin vertical lines, each named above the axes, where they fall inside."""
    low, high = ax.get_xlim()
    for connections in STAGE_LINES:
        if low <= connections <= high:
            ax.axvline(connections, color="#aaaaaa", linewidth=0.9, linestyle=(0, (2, 3)), zorder=1, gid="stage")
            side, shift = LEANING.get(connections, ("center", 0))
            ax.annotate(
                count_text(connections),
                (connections, 1.0),
                xycoords=ax.get_xaxis_transform(),
                xytext=(shift, 3),
                textcoords="offset points",
                ha=side,
                fontsize=8,
                color="#666666",
            )


def side_legend(ax: Axes) -> None:
    """Put the legend to the right of the axes, where it can hide nothing; none when there is nothing to name."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), alignment="left")


def side_note(ax: Axes, place: float, text: str, colour: str = "#333333") -> None:
    """Write small text to the right of the axes, level with `place` on the y axis."""
    ax.annotate(
        text,
        (1.0, place),
        xycoords=ax.get_yaxis_transform(),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.7,
        color=colour,
        annotation_clip=False,
    )


def remark(ax: Axes, text: str) -> None:
    """Write above the axes what has to be known to read them; it crosses nothing there."""
    ax.annotate(
        text, (0.0, 1.0), xycoords="axes fraction", xytext=(0, 18), textcoords="offset points", fontsize=9, gid="remark"
    )


def note(ax: Axes, text: str) -> None:
    """Write into the middle of the axes why they show little or nothing."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="#666666", gid="note")


def image_bytes(plot: Figure, kind: str, *, dark: bool = False, transparent: bool = False) -> bytes:
    """Return a figure as the bytes of a PNG or SVG file; the same figure gives the same bytes.

    Args:
        plot: the figure.
        kind: `png` or `svg`.
        dark: with the colours for a dark page.
        transparent: without a background of its own.
    """
    buffer = io.BytesIO()
    metadata: Mapping[str, str | None] = {"Date": None} if kind == "svg" else {"Software": None}
    with styled(), plots_theme.dark(plot) if dark else nullcontext():
        plot.savefig(buffer, format=kind, metadata=dict(metadata), transparent=transparent)
    return buffer.getvalue()


def save_for_paper(plot: Figure, folder: str | Path, name: str) -> Path:
    """Write a figure as `name.pdf`: as wide as the text of a page of two columns, in a serif face, with its fonts.

    Returns:
        The path written; the folder is made when it is missing.
    """
    path = Path(folder) / f"{name}.pdf"
    path.parent.mkdir(parents=True, exist_ok=True)
    with styled(), plots_theme.smaller(plot, PAPER_INCHES), matplotlib.rc_context({"pdf.fonttype": 42}):
        buffer = io.BytesIO()
        plot.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    path.write_bytes(buffer.getvalue())
    return path


def data_uri(image: bytes, kind: str) -> str:
    """Return an image as an address that holds it."""
    form = "svg+xml" if kind == "svg" else kind
    return f"data:image/{form};base64,{base64.b64encode(image).decode('ascii')}"


def two_images(light: str, dark: str, words: str, width: int | None = None) -> str:
    """Return HTML of an image for light pages and one for dark pages; `THEME_STYLE` shows the one that suits.

    Args:
        light: address of the image; it is shown where the style is not taken.
        dark: address of the other.
        words: what it shows, for those who do not see it.
        width: in pixels at most; None for the width of the page.
    """
    size = f"width:{width}px;max-width:100%" if width else "width:100%"
    return "".join(
        f'<img class="wslab-{page}" alt="{escape(words)}" src="{address}" style="{size};height:auto;display:{shown}">'
        for page, address, shown in (("light", light, "block"), ("dark", dark, "none"))
    )


def save_figure(plot: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write a figure as `name.svg` and `name.png`, and for dark pages as `name-dark.svg`.

    Returns:
        The paths written; the folder is made when it is missing.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    paths = [target / file for file in (f"{name}.svg", f"{name}.png", f"{name}-dark.svg")]
    layout = plot.get_layout_engine()
    try:
        for path in paths:
            path.write_bytes(image_bytes(plot, path.suffix[1:], dark=path.stem.endswith("-dark")))
            # The layout takes as long to compute as the drawing, and it is the same for the next format.
            plot.set_layout_engine("none")
    finally:
        plot.set_layout_engine(layout)
    return paths
