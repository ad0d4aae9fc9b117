"""Live views of a run: one for a notebook, one for a terminal, plain lines for everything else.

A view is a callable that takes the events of a run as they come. It reads the counts from `progress` and from `sample`
events, so it also works for a run that is followed through its folder.

1. A notebook's frame is updated in place, at most twice a second; the last one stays in the saved notebook.
2. Nothing is written to standard output: that belongs to results.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from html import escape
from typing import Any, TextIO

from wslab.core.quantities import format_count
from wslab.lab.tables import bytes_text, count_text, seconds_text, whole_text

NOTEBOOK_SECONDS = 0.5
TERMINAL_SECONDS = 0.25
PLAIN_SECONDS = 5.0
# The rate is that of the last seconds: long enough to be steady, short enough to show a stall.
RATE_SECONDS = 3.0


class Progress:
    """Where a run stands, from its events.

    Attributes:
        phase: the phase it is in.
        target: connections asked for, 0 while not known.
        open: connections open.
        failed: attempts that failed.
        verified: connections verified.
        headroom_bytes: memory left on the machine, None while not known.
        note: what has to be done before the run begins, empty once it has begun.
    """

    def __init__(self) -> None:
        self.phase = "start"
        self.target = 0
        self.open = self.failed = self.verified = 0
        self.headroom_bytes: float | None = None
        self.note = ""
        self._seen: deque[tuple[float, int]] = deque()

    def take(self, event: Mapping[str, Any]) -> bool:
        """Process one event and return whether it must be shown at once."""
        name = event.get("event")
        self.note = str(event.get("message", "")) if name == "compiling" else ""
        if name == "run_created":
            self.target = int(event.get("connections") or self.target)
        if name == "phase_started":
            self._seen.clear()
        if name in ("phase_started", "progress", "sample") and event.get("phase"):
            self.phase = str(event["phase"])
        prefix = "swarm_" if name == "sample" else ""
        if event.get(f"{prefix}connections_open") is not None and self.phase not in ("drain", "done"):
            self.open = int(event[f"{prefix}connections_open"])
            self.failed = int(event.get(f"{prefix}connections_failed") or 0)
            self.verified = int(event.get(f"{prefix}connections_verified") or 0)
            self._note(float(event.get("elapsed_seconds") or 0.0))
        self.headroom_bytes = event.get("headroom_bytes") or event.get("memory_headroom_bytes") or self.headroom_bytes
        if name == "phase_ended" and self.phase == "drain":
            self.phase = "done"
        return name in ("compiling", "phase_ended", "stopped", "error")

    def _note(self, at: float) -> None:
        done = self.verified if self.phase == "verify" else self.open
        self._seen.append((at, done))
        while self._seen[-1][0] - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Connections opened, or verified, a second over the last seconds; None while nothing moves."""
        if len(self._seen) < 2:
            return None
        (since, before), (now, after) = self._seen[0], self._seen[-1]
        return (after - before) / (now - since) if after > before and now > since else None

    @property
    def seconds_left(self) -> float | None:
        """Time until the phase is done at this rate; None where it cannot be estimated."""
        rate, done = self.rate, self.verified if self.phase == "verify" else self.open
        return max(0, self.target - done) / rate if rate and self.target and self.phase in ("ramp", "verify") else None

    @property
    def share(self) -> float:
        """Share of the connections asked for that are open, 0 to 1."""
        return min(1.0, self.open / self.target) if self.target else 0.0

    @property
    def line(self) -> str:
        """The whole state in one line."""
        if self.note:
            return self.note
        of = f" of {format_count(self.target)}" if self.target else ""
        parts = [f"{self.phase:<6} {whole_text(self.open)}{of} open"]
        if self.phase == "verify":
            parts.append(f"{whole_text(self.verified)} verified")
        if self.phase in ("ramp", "verify") and self.rate:
            parts.append(f"{count_text(self.rate)}/s")
        if self.seconds_left:
            parts.append(f"{seconds_text(self.seconds_left)} left")
        if self.failed:
            parts.append(f"{whole_text(self.failed)} failed")
        if self.headroom_bytes is not None:
            parts.append(f"{bytes_text(self.headroom_bytes)} memory left")
        return " · ".join(parts)


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

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Process one event of the run."""
        ended = self.progress.take(event)
        last = event.get("event") == "stopped" or (ended and self.progress.phase == "done")
        now = self._clock()
        if ended or now >= self._due:
            self._due = now + self._interval
            self._screen(self.progress, last)


def live_view(*, prefix: str = "") -> Live:
    """Return the view that suits where this runs: a notebook, a terminal, or a file or pipe.

    Args:
        prefix: text before each line, such as the name of the stage.
    """
    if _in_notebook():
        return Live(notebook_screen(prefix), NOTEBOOK_SECONDS)
    if sys.stderr.isatty():
        return Live(terminal_screen(sys.stderr, prefix), TERMINAL_SECONDS)
    return Live(plain_screen(sys.stderr, prefix), PLAIN_SECONDS)


def terminal_screen(stream: TextIO, prefix: str = "") -> Screen:
    """Return a screen that rewrites one line, and leaves it when the run has ended."""
    left = False

    def show(progress: Progress, last: bool) -> None:
        nonlocal left
        if left:
            return
        left = last
        stream.write(f"\r{prefix}{progress.line}\x1b[K{chr(10) if last else ''}")
        stream.flush()

    return show


def plain_screen(stream: TextIO, prefix: str = "") -> Screen:
    """Return a screen that writes a line a frame, and none twice."""
    before = ""

    def show(progress: Progress, last: bool) -> None:
        nonlocal before
        if progress.line != before:
            before = progress.line
            stream.write(f"{prefix}{before}\n")
            stream.flush()

    return show


def notebook_screen(prefix: str = "") -> Screen:
    """Return a screen that updates one output of the running cell."""
    from IPython import display as output

    def frame(progress: Progress) -> Any:
        return output.HTML(frame_html(progress, prefix))  # type: ignore[no-untyped-call]

    handle = output.display(frame(Progress()), display_id=True)  # type: ignore[no-untyped-call]

    def show(progress: Progress, last: bool) -> None:
        handle.update(frame(progress))

    return show


def frame_html(progress: Progress, prefix: str = "") -> str:
    """Return one frame for a notebook: a bar and the line."""
    bar = (
        '<div style="background:rgba(127,127,127,.25);border-radius:3px;height:8px;max-width:40em;margin:4px 0">'
        f'<div style="background:#0072b2;border-radius:3px;height:8px;width:{100 * progress.share:.1f}%"></div></div>'
    )
    return f'{bar}<div style="font-variant-numeric:tabular-nums">{escape(prefix + progress.line)}</div>'


def _in_notebook() -> bool:
    """Return whether this runs in a Jupyter kernel; IPython is not imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
