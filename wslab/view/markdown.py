"""Recorded runs as a Markdown table, for a README or a text of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from wslab.lab.display import bytes_text, rate_text, seconds_text, whole_text
from wslab.lab.runs import Run

HEADINGS = (
    "stage",
    "server",
    "outcome",
    "open",
    "proved by echo",
    "failed",
    "ramp",
    "opened",
    "echoed",
    "memory of both ends",
    "of the kernel",
    "run",
)
# Columns up to here are words; all others but the last are numbers.
WORDS = 3


def results_table(runs: Sequence[Run]) -> str:
    """Return one row a run, in the order given.

    Memory is per connection: of all server and swarm processes together, and of the kernel.
    """
    aligned = [":--" if index < WORDS or name == HEADINGS[-1] else "--:" for index, name in enumerate(HEADINGS)]
    return "\n".join(_line(cells) for cells in (HEADINGS, aligned, *map(_cells, runs))) + "\n"


def _cells(run: Run) -> tuple[str, ...]:
    figures = run.summary
    ends = [figures.get(f"{end}_user_bytes_per_connection") for end in ("server", "swarm")]
    return (
        run.name,
        run.server,
        run.outcome,
        whole_text(figures.get("connections_open")),
        whole_text(figures.get("connections_verified")),
        whole_text(figures.get("connections_failed")),
        seconds_text(figures.get("ramp_seconds")),
        rate_text(figures.get("connections_per_second")),
        rate_text(figures.get("verify_messages_per_second")),
        bytes_text(None if None in ends else sum(size for size in ends if size is not None)),
        bytes_text(figures.get("kernel_bytes_per_connection")),
        f"`{run.run_id}`",
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
