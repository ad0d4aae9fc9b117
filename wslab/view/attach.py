"""Come back to a run: show the live view of one that is in progress elsewhere, stop it, or end a notebook with it.

Everything here works from the run folder and from the registry of processes, so it does not matter which process, which
notebook or which terminal started the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from wslab.core.quantities import BadInput
from wslab.core.records import ABORTED, RUNNING
from wslab.lab import registry, store
from wslab.lab.runs import Run
from wslab.view.follow import View, watch
from wslab.view.live import live_view

# A run that is stopped ends within six seconds, and is then judged and saved; a million sockets take a while to close.
STOP_SECONDS = 60.0
# A run in progress that is not registered here, such as in a container, is looked for among so many.
NEWEST = 10

Result = TypeVar("Result")


def attach(run: str | Path = "", data_dir: str | Path = "", *, on_event: View | None = None) -> Run:
    """Show the live view of a run until it ends, from any process, and return the run.

    An interrupt ends the watching only: the run goes on.

    Args:
        run: its id, the beginning of that, its folder, or `latest`; empty for the run that is in progress.
        data_dir: the data folder; empty for the project's own. A run in progress is found wherever it is recorded.
        on_event: gets the events instead of a live view.

    Raises:
        BadInput: no run is in progress, or several are, or there is none of this name.
    """
    run_dir = find_run(run, data_dir)
    try:
        watch(run_dir, on_event or live_view())
    except KeyboardInterrupt:
        pass
    return Run.load(run_dir)


def find_run(run: str | Path = "", data_dir: str | Path = "") -> Path:
    """Return the folder of a run: the one in progress unless one is named.

    Raises:
        BadInput: no run is in progress, or several are, or there is none of this name.
    """
    going = in_progress(data_dir)
    if not run:
        if len(going) == 1:
            return going[0]
        if not going:
            newest = store.newest_run(store.run_folders(data_dir))
            latest = f"; the latest is {newest.name}: wslab.load_run('latest')" if newest else ""
            raise BadInput(f"no run is in progress on this machine{latest}")
        raise BadInput(f"{len(going)} runs are in progress, name one: {', '.join(path.name for path in going)}")
    named = [path for path in going if path.name.startswith(str(run))]
    return named[0] if len(named) == 1 else store.find_run(run, data_dir)


def in_progress(data_dir: str | Path = "") -> list[Path]:
    """Return the folders of the runs in progress, oldest first: those registered here, and those of the data folder."""
    registered = [Path(entry.run_dir) for entry in registry.list_processes() if entry.role == "supervisor"]
    recorded = sorted((store.data_folder(data_dir) / "runs").glob(f"*/{store.MANIFEST}"))
    recorded = [path.parent for path in recorded[-NEWEST:]]
    return sorted({path for path in [*registered, *recorded] if _is_running(path)}, key=lambda path: path.name)


def stop(run: str | Path = "", data_dir: str | Path = "", *, say: Callable[[str], None] | None = None) -> Run:
    """Stop a run in progress and return it, saved as `aborted` by the process that started it.

    Args:
        run: as in `attach`.
        data_dir: as in `attach`.
        say: called with a line when the run was asked to stop.

    Raises:
        BadInput: no such run is in progress, or its processes cannot be signalled from here.
    """
    run_dir = find_run(run, data_dir)
    if not _is_running(run_dir):
        raise BadInput(f"{run_dir.name} is not in progress: {store.read_manifest(run_dir)['outcome']}")
    if not registry.stop_run(run_dir):
        caller = (store.read_manifest(run_dir).get("caller") or {}).get("pid")
        raise BadInput(f"{run_dir.name} is not registered for this user; what started it is process {caller}")
    if say:
        say(f"stopping {run_dir.name}")
    deadline = time.monotonic() + STOP_SECONDS
    while _is_running(run_dir) and time.monotonic() < deadline:
        time.sleep(0.1)
    return Run.load(run_dir)


def _is_running(run_dir: Path) -> bool:
    try:
        return bool(store.read_manifest(run_dir)["outcome"] == RUNNING)
    except (BadInput, OSError):
        return False


class Interrupted(KeyboardInterrupt):
    """Ends *Run All Cells* after an interrupted run; a notebook shows it as one line."""

    def _render_traceback_(self) -> list[str]:
        return str(self).split(". ", 1)


def unless_interrupted(run: Result) -> Result:
    """Return a run, to be shown; end *Run All Cells* here when it was stopped by the user.

    Raises:
        Interrupted: the run was stopped. It is recorded, and every cell below can be run by hand.
    """
    if getattr(run, "outcome", "") == ABORTED:
        run_id, reason = getattr(run, "run_id", ""), getattr(run, "reason", "")
        raise Interrupted(f"{run_id}: {reason}. The run is recorded; the cells below were not run, and can be.")
    return run


def describe(run: Any) -> str:
    """Return in one line how a watched run stands, for a terminal."""
    if run.outcome == RUNNING:
        return f"{run.run_id} goes on; `wslab stop` ends it"
    return f"{run.run_id}: {run.outcome}"
