"""Standard streams that cannot end a run: results go to standard output, all else to standard error.

1. Descriptors 0, 1 and 2 are open before anything else is opened, so that no file of a run takes the number of a
   standard stream and gets what is printed.
2. What cannot be written (the reader is gone, the disk is full, the terminal is closed) is dropped; the first error of
   standard output is kept, so that the command can say that its result was lost.
3. Characters that an encoding lacks are printed as question marks.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from typing import Any

STDOUT, STDERR = 1, 2


class Stream(io.TextIOWrapper):
    """A standard stream whose errors are kept instead of raised.

    After the first error its descriptor leads to `/dev/null`, so that nothing fails again when Python ends.

    Attributes:
        problem: the first error; None while everything was written.
    """

    problem: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write the text, or drop it."""
        try:
            return super().write(text)
        except OSError as problem:
            self._give_up(problem)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        try:
            super().flush()
        except OSError as problem:
            self._give_up(problem)

    def _give_up(self, problem: OSError) -> None:
        self.problem = self.problem or problem
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def open_standard_streams() -> None:
    """Open what is closed of descriptors 0, 1 and 2, and have `sys.stdout` and `sys.stderr` write through `Stream`.

    A stream that has replaced Python's own is left as it is.
    """
    closed = open_descriptors()
    for descriptor, name in ((STDOUT, "stdout"), (STDERR, "stderr")):
        present = getattr(sys, name)
        if present is not getattr(sys, f"__{name}__"):
            continue
        binary = io.BufferedWriter(io.FileIO(descriptor, "wb", closefd=False))
        at_once = descriptor == STDERR or binary.isatty()
        stream = Stream(binary, present.encoding if present else "utf-8", errors="replace", line_buffering=at_once)
        if descriptor in closed:
            stream.problem = OSError(errno.EBADF, "it is closed")
        setattr(sys, name, stream)


def open_descriptors() -> list[int]:
    """Open `/dev/null` as each of the descriptors 0, 1 and 2 that is closed, and return which those were."""
    closed = []
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.append(os.open(os.devnull, os.O_RDWR))  # The lowest number that is free, which is this one.
            os.set_inheritable(closed[-1], True)
    return closed


def lost_output() -> OSError | None:
    """Return why a part of standard output could not be written, and forget it; None when nothing was lost.

    A reader that has left, such as `head`, has had what it wanted.
    """
    sys.stdout.flush()
    if not isinstance(sys.stdout, Stream):
        return None
    problem, sys.stdout.problem = sys.stdout.problem, None
    return None if isinstance(problem, BrokenPipeError) else problem


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(document, indent=2, default=str))


def say(line: str) -> None:
    """Print a line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)
