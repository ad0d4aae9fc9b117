"""Figures on a dark page: the same figure with its colours changed for as long as it is drawn.

1. Figures are designed for a light page. Greys change places with their opposites; a colour is made lighter where it
   could not be told from a dark page, and stays what it is otherwise, so that a quantity has one colour in both.
2. What stands on a coloured bar keeps its colour: the bar does.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

Rgba = tuple[float, float, float, float]

LIGHT_PAGE, DARK_PAGE = "#ffffff", "#121212"
# The least contrast to its page of a mark and of text, as WCAG 2 counts it.
MARK_CONTRAST, TEXT_CONTRAST = 3.0, 4.5
# Faces of the standard library of figures, each for the characters that the one before lacks.
SERIF = ["STIXGeneral", "DejaVu Serif", "DejaVu Sans"]
# The `gid` of text that stands on a coloured bar.
ON_COLOUR = "on colour"
_GREY = 0.08  # the largest difference between the parts of what still is a grey


def contrast(colour: Any, page: Any) -> float:
    """Return the contrast ratio of two colours, 1 to 21, as WCAG 2 defines it; transparency is not looked at."""
    brighter, darker = sorted((_luminance(to_rgba(colour)), _luminance(to_rgba(page))), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(colour: Rgba) -> float:
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def on_dark(colour: Any, least: float = MARK_CONTRAST) -> Rgba:
    """Return a colour of a figure as it is drawn on a dark page.

    Args:
        colour: as matplotlib has it.
        least: the contrast that it has to have, unless it is a faint grey.
    """
    red, green, blue, alpha = to_rgba(colour)
    if max(red, green, blue) - min(red, green, blue) < _GREY:
        grey = 0.93 - 0.86 * (red + green + blue) / 3
        return (grey, grey, grey, alpha)
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    while contrast((red, green, blue), DARK_PAGE) < least and lightness < 1.0:
        lightness = min(1.0, lightness + 0.02)
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return (red, green, blue, alpha)


@contextmanager
def dark(figure: Figure) -> Iterator[None]:
    """Give a figure its colours for a dark page, for as long as the context lasts."""
    figure.draw_without_rendering()  # Ticks are made by the first drawing.
    undo: list[tuple[Callable[[Any], None], Any]] = []

    def change(artist: Artist, *names: str, least: float = MARK_CONTRAST) -> None:
        # All of them are read first: the colour of a marker may be that of its line.
        for name, before in [(name, getattr(artist, f"get_{name}")()) for name in names]:
            after = _changed(before, least)
            if after is not None:
                put: Callable[[Any], None] = getattr(artist, f"set_{name}")
                undo.append((put, before))
                put(after)

    try:
        for artist in figure.findobj():
            if isinstance(artist, Text):
                if artist.get_gid() != ON_COLOUR:
                    change(artist, "color", least=TEXT_CONTRAST)
            elif isinstance(artist, Line2D):
                change(artist, "color", "markeredgecolor", "markerfacecolor")
            elif isinstance(artist, Patch | Collection):
                change(artist, "edgecolor", "facecolor")
        yield
    finally:
        for put, before in reversed(undo):
            put(before)


@contextmanager
def smaller(figure: Figure, inches: float) -> Iterator[None]:
    """Make a figure so wide, with text in proportion and in a serif face, for as long as the context lasts."""
    width, height = figure.get_size_inches()
    scale = min(1.0, inches / width)
    texts = [artist for artist in figure.findobj(Text) if isinstance(artist, Text)]
    before = [(text, text.get_fontsize(), text.get_fontfamily()) for text in texts]
    try:
        figure.set_size_inches(width * scale, height * scale)
        for text in texts:
            text.set_fontsize(text.get_fontsize() * scale)
            text.set_fontfamily(SERIF)
        yield
    finally:
        figure.set_size_inches(width, height)
        for text, size, family in before:
            text.set_fontsize(size)
            text.set_fontfamily(family)


def _changed(colour: Any, least: float) -> Any:
    """Return a colour, or each of an array of them, for a dark page; None for what is not drawn."""
    if isinstance(colour, str) and colour in ("none", "auto"):
        return None
    if getattr(colour, "ndim", 1) == 2:
        return [on_dark(one, least) for one in colour] if len(colour) else None
    return on_dark(colour, least)
