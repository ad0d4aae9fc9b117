"""Break limits on purpose, one after the other: predict, break, name, remedy, and run the same load again.

1. A ceiling is predicted from what the run read inside its enclosure before anything was started: it is the row of
   that limit in the preflight of the broken run.
2. What cannot be done here is skipped by name, with the reason; the others run.
3. Results are written as they come; an interrupt ends the atlas and keeps what was measured.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wslab.core.breaks import KILL_SHARD, STOP_SHARDS, Break, Trial, find_breaks
from wslab.core.enclosure import Enclosure
from wslab.core.limit import processes_room
from wslab.core.records import ABORTED
from wslab.lab import store
from wslab.lab.atlas import RESULTS, Atlas, BreakResult
from wslab.lab.experiment import run_stage
from wslab.machine.isolation import obstacle
from wslab.machine.procfs import read_host

if TYPE_CHECKING:
    from wslab.lab.runs import Run

Event = dict[str, Any]


def run_breaks(
    breaks: str = "all", data_dir: str = "", *, say: Callable[[str], None] | None = None
) -> Atlas:
    """Break limits on purpose and return what was predicted, measured and named.

    Args:
        breaks: names, separated by commas, or `all`.
        data_dir: the data folder; empty for the project's own. Runs go to a folder of this atlas in `breaks` there.
        say: called with a line of progress for each break.

    Returns:
        The atlas, saved.

    Raises:
        BadInput: there is no such break, or the data folder cannot be written.
    """
    chosen = find_breaks(breaks)
    folder = store.data_folder(data_dir) / "breaks" / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    store.check_writable(folder)
    say = say or (lambda line: None)
    results: list[BreakResult] = []
    for number, item in enumerate(chosen, 1):
        say(f"{number}/{len(chosen)} {item.name}: {item.title}")
        results.append(run_break(item, folder))
        say(f"{number}/{len(chosen)} {results[-1].line}")
        atlas = Atlas(folder=folder, results=tuple(results))
        atlas.save()
    return atlas


def run_break(item: Break, folder: Path) -> BreakResult:
    """Run both trials of a break.

    Args:
        item: the break.
        folder: data folder of the runs.

    Raises:
        KeyboardInterrupt: the user has ended it; nothing is left running.
    """
    about = {"name": item.name, "limit": item.limit, "side": item.side, "title": item.title, "remedy": item.remedy}
    about |= {"unit": item.unit, "tolerance": item.tolerance, "then": item.then}
    reason = item.infeasible or next(filter(None, map(_in_the_way, item.trials)), "")
    if reason or item.broken is None or item.remedied is None:
        return BreakResult(**about, skipped=reason)
    started = time.monotonic()
    broken = _run(item.broken, folder, f"{item.name}: broken")
    remedied = _run(item.remedied, folder, f"{item.name}: remedied")
    predicted, measured = (predict(item, broken), measure(item, broken)) if item.unit else (None, None)
    return BreakResult(
        **about,
        asked=broken.connections,
        predicted=predicted,
        measured=measured,
        outcome=broken.outcome,
        findings=tuple(broken.findings),
        next_limits=next_limits(item, broken),
        held=remedied.outcome == "held",
        remedied_reason=remedied.reason,
        remedied_findings=tuple(remedied.findings),
        seconds=time.monotonic() - started,
        run_dirs=(str(broken.run_dir), str(remedied.run_dir)),
        caption=broken.machine.line,
    )
