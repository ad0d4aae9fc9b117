"""Compile the event loops, so that no stage has to: `python -m wslab.load.engine`, which `make setup` runs.

Says a line for each loop that has to be compiled, and nothing when all are there. Exit status 1, and why on standard
error, when one cannot be compiled.
"""

from __future__ import annotations

import os
import sys

from wslab.load.engine import cache


def say(line: str) -> None:
    """Write a line to standard output, whoever reads it."""
    print(line, flush=True)


def main() -> int:
    """Compile what is not kept yet, all loops at once; return the exit status."""
    wanted = [loop for loop in cache.LOOPS if cache.kept(loop) is None]
    if wanted and cache.place() is None:
        say(f"the compiled event loops cannot be kept in any of {', '.join(cache.folders())}: each stage compiles them")
        return 0
    children = []
    for loop in wanted:
        pid = os.fork()
        if pid == 0:
            try:
                cache.fill(loop, say)
            except ImportError as problem:
                print(problem, file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(pid)
    return max((min(1, os.waitpid(pid, 0)[1]) for pid in children), default=0)


if __name__ == "__main__":
    sys.exit(main())
