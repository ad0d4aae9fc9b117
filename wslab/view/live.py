"""Live views of a run: one for a notebook, one for a terminal, plain lines for everything else.

A view is a callable that takes the events of a run as they come; what they come to is `Progress`.

1. A notebook's frame is updated in place once a second, and when a phase begins or ends. It is HTML with one small SVG
   and no script; the last one stays in the saved notebook and says how the run ended.
2. A frame that is not replaced for `SILENT_SECONDS` shows that by itself: its kernel has died or is not connected.
3. Nothing is written to standard output: that belongs to results.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from wslab.core.records import LATENCY_COLUMNS
from wslab.lab import store
from wslab.view.frame import frame_html
from wslab.view.progress import Progress
from wslab.view.stop_button import offer_stop

NOTEBOOK_SECONDS = 1.0
TERMINAL_SECONDS = 0.25
PLAIN_SECONDS = 5.0

Screen = Callable[[Progress, bool], None]


class Live:
    """A view: takes events, and shows a frame when one is due.

    Args:
        screen: shows a frame; its second argument is whether the run has ended.
        interval_seconds: least time between two frames.
        clock: monotonic time in seconds.
    """

    def __init__(self, screen: Screen, interval_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress = Progress()
        self._screen, self._interval, self._clock = screen, interval_seconds, clock
        self._due = float("-inf")
        self._latencies: store.TableReader | None = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Process one event of the run."""
        at_once = self.progress.take(event)
        if event.get("event") == "run_created" and self.progress.run_dir:
            self._latencies = store.TableReader(Path(self.progress.run_dir) / store.LATENCY, LATENCY_COLUMNS)
        if event.get("event") == "sample" and self._latencies is not None:
            self.progress.take_latencies(self._latencies.read())
        now = self._clock()
        if at_once or now >= self._due:
            self._due = now + self._interval
            self._screen(self.progress, event.get("event") == "run_ended")


def live_view(*, prefix: str = "") -> Live:
    """Return the view that suits where this runs: a notebook, a terminal, or a file or pipe.

    Args:
        prefix: text before each line, such as the name of the stage.
    """
    if in_notebook():
        return Live(notebook_screen(prefix), NOTEBOOK_SECONDS)
    if sys.stderr.isatty():
        return Live(terminal_screen(sys.stderr, prefix), TERMINAL_SECONDS)
    return Live(plain_screen(sys.stderr, prefix), PLAIN_SECONDS)


def terminal_screen(stream: TextIO, prefix: str = "") -> Screen:
    """Return a screen of a bar and a line of facts, cut to the width of the terminal; the bar is left at the end."""
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # No thread of its own, so that an interrupt always reaches the code that waits.
    tqdm.set_lock(threading.RLock())  # Nor a lock between processes.
    common: dict[str, Any] = {"file": stream, "mininterval": 0, "nrows": 24}
    bars: list[Any] = []

    def draw(bar: Any, text: str) -> None:
        # Text goes into the format, where a percent sign or a comma of a library's own does not come between.
        bar.bar_format, bar.ncols = text, _columns(stream)
        bar.refresh()

    def show(progress: Progress, last: bool) -> None:
        if not bars:
            size = {"ncols": _columns(stream), "bar_format": prefix or " "}
            bars.extend([tqdm(total=100, **common, **size), tqdm(total=100, position=1, leave=False, **common, **size)])
        bar, below = bars
        if bar.disable:
            return
        bar.n = round(100 * progress.phase_share)
        state = f"{prefix}{progress.phase:<6}"
        if last:
            below.close()
            draw(bar, f"{state} {progress.count_words}")
            bar.close()
            bar.disable = True
            return
        draw(bar, f"{state} {{percentage:3.0f}}%|{{bar:16}}| {progress.count_words}")
        draw(below, " " * (len(state) + 1) + " · ".join(progress.details))

    return show


def _columns(stream: TextIO) -> int:
    """Return the width of a terminal in characters; 80 where it is not known."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def plain_screen(stream: TextIO, prefix: str = "") -> Screen:
    """Return a screen that writes the folder of the run once, then a line a frame, and none twice."""
    before = folder = ""

    def show(progress: Progress, last: bool) -> None:
        nonlocal before, folder
        if progress.run_dir != folder:
            folder = progress.run_dir
            stream.write(f"{prefix}recorded in {folder}\n")
        if progress.line != before:
            before = progress.line
            stream.write(f"{prefix}{before}\n")
        stream.flush()

    return show


def notebook_screen(prefix: str = "") -> Screen:
    """Return a screen that updates one output of the running cell, with a Stop button where there can be one.

    The frame says in any case how to stop the run.
    """
    from IPython import display as output

    handle: Any = None
    offered = False
    take_away: Callable[[], None] | None = None

    def show(progress: Progress, last: bool) -> None:
        nonlocal handle, offered, take_away
        if progress.run_dir and not offered and not last:
            offered, take_away = True, offer_stop(progress.run_dir)
        if last and take_away is not None:
            take_away()
            take_away = None
        frame = output.HTML(frame_html(progress, prefix))  # type: ignore[no-untyped-call]
        if handle is None:
            handle = output.display(frame, display_id=True)  # type: ignore[no-untyped-call]
        else:
            handle.update(frame)

    return show


def in_notebook() -> bool:
    """Return whether this runs in a Jupyter kernel; IPython is not imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
