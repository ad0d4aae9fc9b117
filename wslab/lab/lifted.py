"""The same stage once more, with the limit lifted that its own lay-out had met."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wslab.core.lifting import lifts
from wslab.core.records import BROKE
from wslab.lab.experiment import run_stage

if TYPE_CHECKING:
    from wslab.lab.runs import Run


def run_lifted(run: Run, *, on_event: Callable[[dict[str, Any]], None] | None = None) -> Run:
    """Run a broken stage again with what lifts its limit and takes no root: more addresses, shards or workers.

    Args:
        run: a recorded run.
        on_event: called with every event and sample as it comes, for a live view.

    Returns:
        The new run; the one given when it did not break, when no lay-out lifts what it broke at, or when it ran against
        a server of the caller's or in an enclosure, which another run would not have.

    Raises:
        BadInput: the stage is out of reach of this machine's memory, or its data folder cannot be written.
    """
    changes = lifts(run.findings, run.asked) if run.outcome == BROKE else {}
    elsewhere = run.stage.get("target") or run.manifest.get("enclosure") or run.manifest.get("specs")
    if elsewhere or not changes:
        return run
    return run_stage(on_event=on_event, **{**run.asked, **changes, "label": f"{run.run_id} lifted"})
