"""What is printed: results on standard output, as text or as one JSON document, all else on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

EXIT_STATUS = {"held": 0, "broke": 1, "crashed": 3, "aborted": 130}


def show(result: Any, as_json: bool, status: int = 0) -> int:
    """Print a result as one JSON document or as text, and return the exit status."""
    print_json(result.as_dict()) if as_json else print(result.text())
    return status


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(document, indent=2, default=str))


def say(line: str) -> None:
    """Print a line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def report_run(run: Any, as_json: bool) -> int:
    """Print what came of a run, write its page and figures, and return its exit status.

    The figures can be drawn anew at any time: that they cannot be drawn now changes nothing about the run.
    """
    show(run, as_json)
    sys.stdout.flush()
    if run.outcome in ("held", "broke"):
        try:
            from wslab.view.publish import run_report

            run_report(run)
        except KeyboardInterrupt:
            say("wslab: interrupted while drawing the figures; `wslab report` draws them")
        except Exception as problem:
            say(f"wslab: the figures cannot be drawn: {type(problem).__name__}: {' '.join(str(problem).split())}")
    return EXIT_STATUS[run.outcome]
