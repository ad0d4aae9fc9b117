"""What SIGINT, SIGTERM and SIGHUP do to a command: it ends in good order, and its result is still printed."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

# An interrupt that has to wait comes again after so long.
AGAIN_SECONDS = 0.05


class Interrupts:
    """The handler of SIGINT.

    1. The first raises `KeyboardInterrupt`: a stage drains and is saved. The second does so again, and the stage skips
       the draining. Further ones change nothing: what is left to do takes seconds, and must not be left half done.
    2. One that comes while a module is imported waits for the end of that: libraries such as numpy cannot be imported
       again after half an import.
    3. One that Python drops, because it was raised where nothing can be raised, such as in a finalizer, comes again.
    """

    def __init__(self) -> None:
        self._came = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle one signal."""
        if self._came >= 2:
            return
        if importing(frame):
            self._come_again()
            return
        self._came += 1
        raise KeyboardInterrupt

    def unraisable(self, dropped: Any) -> None:
        """Receive an exception that Python drops, as `sys.unraisablehook` does."""
        if dropped.exc_type is KeyboardInterrupt:
            self._came -= 1
            self._come_again()
        else:
            sys.__unraisablehook__(dropped)

    def _come_again(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)


def take_signals() -> None:
    """Have SIGINT, SIGTERM and SIGHUP end a command in good order."""
    interrupts = Interrupts()
    # A script's background jobs start with SIGINT ignored; what asks a load to stop must stop it there, too.
    signal.signal(signal.SIGINT, interrupts)
    sys.unraisablehook = interrupts.unraisable
    signal.signal(signal.SIGTERM, end_like_interrupt)
    signal.signal(signal.SIGALRM, end_like_interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # As nohup has it.
        signal.signal(signal.SIGHUP, hang_up)


def ignore_signals() -> None:
    """Ignore further signals while the result is printed, and repeat no interrupt."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def importing(frame: FrameType | None) -> bool:
    """Return whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def end_like_interrupt(number: int, frame: FrameType | None) -> None:
    """Call the present handler of SIGINT, so that things end in the same good order as on Ctrl-C."""
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, frame)


def hang_up(number: int, frame: FrameType | None) -> None:
    """End things when the terminal is closed, for which both the shell and the kernel may send a signal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_like_interrupt(number, frame)
