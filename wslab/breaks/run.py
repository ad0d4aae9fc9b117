"""Break limits on purpose, one after the other: predict, break, name, remedy, and run the same load again.

1. A ceiling is predicted from the limits that the run read inside its enclosure before anything was started: it is the
   row of that limit in the preflight of the broken run.
2. A break that cannot be made here is skipped with the reason, and the others run. Machine-wide limits are broken only
   when named.
3. Results are written as they come; an interrupt ends the atlas and keeps what was measured.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wslab.breaks.atlas import Atlas, BreakResult
from wslab.breaks.enclosure import Enclosure
from wslab.breaks.isolation import enclosed, obstacle
from wslab.breaks.table import find_breaks, split_names
from wslab.breaks.trial import KILL_SHARD, STOP_SHARDS, Break, Trial
from wslab.core.host import Host
from wslab.core.limits import processes_room
from wslab.core.quantities import BadInput
from wslab.core.records import ABORTED
from wslab.core.timeline import last_phase, timeline
from wslab.lab import store
from wslab.lab.compiled import ensure_compiled
from wslab.lab.experiment import run_stage
from wslab.lab.place import this_machine
from wslab.lab.tables import seconds_text
from wslab.machine.procfs import read_host
from wslab.machine.sysctls import FILE_MAX

if TYPE_CHECKING:
    from wslab.lab.runs import Run

_FORKED = re.compile(r"cannot start (?:worker|shard) (\d+) of")


def run_breaks(
    breaks: str = "all", data_dir: str = "", *, recorded: str = "", say: Callable[[str], None] | None = None
) -> Atlas:
    """Break limits on purpose and return what was predicted, measured and named.

    Args:
        breaks: names, separated by commas; `all` skips those that lower a setting of the whole machine.
        data_dir: the data folder; empty for the project's own. The runs go to a folder of this atlas in `breaks` there.
        recorded: folder of an atlas to load instead of breaking anything.
        say: called with a line of progress at the begin and the end of each break.

    Returns:
        The atlas, saved.

    Raises:
        BadInput: there is no such break, or the data folder cannot be written.
    """
    if recorded:
        return Atlas.load(recorded)
    chosen = find_breaks(breaks)
    named = split_names(breaks)
    folder = store.data_folder(data_dir) / "breaks" / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    store.check_writable(folder)
    ensure_compiled(say or (lambda line: None))
    atlas = Atlas(folder=folder)
    reasons = [_reason_to_skip(item, asked_for=item.name in named) for item in chosen]
    for number, (item, reason) in enumerate(zip(chosen, reasons, strict=True), 1):
        place = f"{number}/{len(chosen)}"
        if say and not reason:
            say(f"{place} {item.name}: {item.title}{_time_left(atlas, reasons[number - 1 :].count(''))}")
        try:
            result = run_break(item, folder, skipped=reason)
        except BadInput as problem:  # The kernel refuses what looked possible: the others can still run.
            result = run_break(item, folder, skipped=str(problem))
        atlas = replace(atlas, results=(*atlas.results, result))
        atlas.save()
        if say:
            say(f"{place} {atlas.results[-1].line}")
    return atlas


def _time_left(atlas: Atlas, breaks: int) -> str:
    """Say how long so many breaks will take, from those that were run; empty before the first."""
    seconds = [result.seconds for result in atlas.run]
    return f" (about {seconds_text(round(breaks * sum(seconds) / len(seconds)))} left)" if seconds else ""


def run_break(item: Break, folder: Path, skipped: str = "") -> BreakResult:
    """Run the trials of a break.

    Args:
        item: the break.
        folder: data folder of the runs.
        skipped: why it is not to be run; empty to run it.

    Raises:
        KeyboardInterrupt: the user has ended it; nothing is left running.
    """
    about: dict[str, Any] = {
        key: getattr(item, key) for key in ("name", "limit", "side", "title", "remedy", "unit", "tolerance", "then")
    }
    if skipped or item.broken is None or item.remedied is None:
        return BreakResult(**about, skipped=skipped)
    started = time.monotonic()
    broken = run_trial(item.broken, folder, f"{item.name}: broken")
    between = run_trial(item.between, folder, f"{item.name}: first remedy") if item.between else None
    remedied = run_trial(item.remedied, folder, f"{item.name}: remedied")
    return BreakResult(
        **about,
        asked=broken.connections,
        predicted=predict(item, broken) if item.unit else None,
        measured=measure(item, broken) if item.unit else None,
        findings=tuple(broken.findings),
        next_limit=next_limit(item, broken),
        then_findings=tuple(between.findings) if between else (),
        held=remedied.outcome == "held" and not remedied.findings,
        held_reason=remedied.reason,
        seconds=round(time.monotonic() - started, 1),
        run_dirs=tuple(str(run.run_dir) for run in (broken, between, remedied) if run),
        caption=broken.machine.line,
    )


def run_trial(trial: Trial, folder: Path, label: str) -> Run:
    """Run one trial of a break and return its run.

    Raises:
        KeyboardInterrupt: the user has ended it.
    """
    parameters = dict(trial.parameters)
    if trial.headroom_used_bytes:
        parameters["memory_reserve"] = (read_host().memory_headroom_bytes or 0) - trial.headroom_used_bytes
    enclosure = _on_our_cpus(trial.enclosure)
    if trial.files_left and enclosure:
        used = read_host().file_used
        if used is None:
            raise BadInput("how many files are open on this machine is not known")
        most = used + trial.files_left
        enclosure = replace(enclosure, global_sysctls={**enclosure.global_sysctls, FILE_MAX: most})
    run = run_stage(
        **parameters,
        data_dir=str(folder),
        label=label,
        place=enclosed(enclosure) if enclosure else this_machine,
        specs=trial.specs,
        on_event=ShardAct(trial.act) if trial.act else None,
    )
    if run.outcome == ABORTED:
        raise KeyboardInterrupt
    return run


class ShardAct:
    """Stops or kills server shards when the hold begins; called with each event of the run.

    Args:
        act: `STOP_SHARDS` stops all of them, `KILL_SHARD` kills one.
    """

    def __init__(self, act: str) -> None:
        self.act = act
        self.shards: list[int] = []

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Note the shards when they are ready, and act on them when the hold begins."""
        if event["event"] == "processes_ready" and event.get("role") == "server":
            _, *self.shards = event["pids"]
        elif event["event"] == "phase_started" and event.get("phase") == "hold":
            for pid in self.shards if self.act == STOP_SHARDS else self.shards[-1:]:
                os.kill(pid, {STOP_SHARDS: signal.SIGSTOP, KILL_SHARD: signal.SIGKILL}[self.act])


def predict(item: Break, run: Run) -> int | None:
    """Return the count at which the limit should bind, from the limits read before the load was started."""
    if item.unit == "processes":
        return processes_room(Host.from_record(run.limits))
    return predict_limit(item.counted_by or item.limit, item.side, run)


def predict_limit(limit: str, side: str, run: Run) -> int | None:
    """Return the connections at which a limit should bind, by the preflight of a run."""
    named = [row for row in run.preflight if row["limit"] == limit and row["binding"]]
    # A limit of both ends has a row each; one of a control group has the side of those that are in it.
    ours = [row for row in named if row["side"] == side] or named
    return min((row["ceiling_connections"] for row in ours), default=None)


def measure(item: Break, run: Run) -> int | None:
    """Return the count at which the limit bound."""
    if item.unit == "processes":
        # Processes are counted from 0, and the master, which forks the others, is one more.
        told = [_FORKED.match(str(event.get("message"))) for event in run.events if event["event"] == "error"]
        return next((int(match[1]) for match in told if match), None)
    return measure_connections(run)


def measure_connections(run: Run) -> int | None:
    """Return the connections that were opened; None when the ramp did not end."""
    ramp = last_phase(timeline(run.events), "ramp")
    # Connections that were lost with a process that was killed had been opened before.
    return ramp.end["connections_open"] + ramp.end["connections_closed"] if ramp and ramp.end else None


def next_limit(item: Break, run: Run) -> str:
    """Return the limit with the next ceiling, by the preflight of the broken run."""
    rows = [row for row in run.preflight if row["binding"] and row["limit"] != item.limit]
    return min(rows, key=lambda row: int(row["ceiling_connections"]))["limit"] if rows else ""


def _reason_to_skip(item: Break, asked_for: bool) -> str:
    if item.infeasible:
        return item.infeasible
    if item.shared and not asked_for:
        return f"it lowers {', '.join(item.shared)} for everybody on this machine; it runs when it is named"
    return next(filter(None, map(reason_to_skip_trial, item.trials)), "")


def reason_to_skip_trial(trial: Trial) -> str:
    """Return why a trial cannot be made here, empty when nothing is known to be in the way."""
    enclosure = trial.enclosure
    here = len(os.sched_getaffinity(0))
    if 0 < trial.cpus_most < here:
        return f"its load fills {trial.cpus_most} CPUs, and there are {here}"
    if enclosure is None:
        return ""
    needed = 1 + max(_cpus_of(enclosure), default=0)
    if needed > here:
        return f"it takes {needed} CPUs, and there is {here}"
    return obstacle(enclosure)


def _on_our_cpus(enclosure: Enclosure | None) -> Enclosure | None:
    """Return the enclosure with its CPUs numbered as they are here; in the table they are counted from 0."""
    if enclosure is None or not _cpus_of(enclosure):
        return enclosure
    here = sorted(os.sched_getaffinity(0))
    cpus = {role: tuple(here[cpu] for cpu in cpus) for role, cpus in enclosure.cpus.items()}
    packet_cpu = None if enclosure.packet_cpu is None else here[enclosure.packet_cpu]
    return replace(enclosure, cpus=cpus, packet_cpu=packet_cpu)


def _cpus_of(enclosure: Enclosure) -> list[int]:
    """Return the CPUs that an enclosure names."""
    named = [cpu for cpus in enclosure.cpus.values() for cpu in cpus]
    return named if enclosure.packet_cpu is None else [*named, enclosure.packet_cpu]
