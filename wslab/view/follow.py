"""Follows a run through its folder and passes its events and samples to a live view.

The run may be in another process, such as a notebook's kernel: only files are shared.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wslab.core.records import RUNNING, SAMPLE_COLUMNS
from wslab.lab import store
from wslab.view.progress import Progress

POLL_SECONDS = 0.5
NO_RUN = {"event": "run_ended", "outcome": "ended", "reason": "no run was recorded"}

View = Callable[[Mapping[str, Any]], None]


class Follower:
    """Reads the events and samples that a run folder has gained, in order of time.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._events = store.EventReader(run_dir)
        self._samples = store.TableReader(run_dir / store.SAMPLES, SAMPLE_COLUMNS)

    def begin(self) -> dict[str, Any]:
        """Return the first event of the run, from its manifest.

        Raises:
            FileNotFoundError: the folder is no run.
            BadInput: its manifest is damaged.
        """
        asked = (store.read_manifest(self.run_dir).get("stage") or {}).get("asked") or {}
        return {**store.run_created(self.run_dir, asked), "watched": True}

    def news(self) -> list[dict[str, Any]]:
        """Return what was added since the last call, as events."""
        samples = [{"event": "sample", **row} for row in self._samples.read()]
        return sorted([*self._events.read(), *samples], key=lambda event: event.get("elapsed_seconds") or 0.0)

    def end(self) -> dict[str, Any]:
        """Return the last event of the run: its outcome, `running` while it has not ended."""
        manifest = store.read_manifest(self.run_dir)
        return {"event": "run_ended", "outcome": manifest["outcome"], "reason": manifest.get("reason") or ""}


def watch(run_dir: Path, view: View, *, poll_seconds: float = POLL_SECONDS) -> None:
    """Pass a run to a view until it has ended.

    Raises:
        FileNotFoundError: the folder is no run.
        BadInput: its manifest is damaged.
    """
    follower = Follower(run_dir)
    view(follower.begin())
    while True:
        end = follower.end()  # Before the news: what was recorded until the end is then all there.
        for event in follower.news():
            view(event)
        if end["outcome"] != RUNNING:
            view(end)
            return
        time.sleep(poll_seconds)


def last_progress(run_dir: Path) -> Progress:
    """Return where a recorded run stood at its end, from its folder.

    Raises:
        FileNotFoundError: the folder is no run.
        BadInput: its manifest is damaged.
    """
    follower, progress = Follower(run_dir), Progress()
    for event in (follower.begin(), *follower.news(), follower.end()):
        progress.take(event)
    return progress


@contextmanager
def follow(find: Callable[[], Path | None], view: View, target: int) -> Iterator[None]:
    """Pass a run to a view for as long as the context lasts: `run_created` first, `run_ended` last.

    Args:
        find: returns the run folder as soon as there is one.
        view: takes events.
        target: connections asked for.
    """
    ended = threading.Event()

    def work() -> None:
        follower: Follower | None = None
        while True:
            last = ended.wait(POLL_SECONDS)
            run_dir = find() if follower is None else None
            if run_dir is not None:
                follower = Follower(run_dir)
                view(follower.begin())
            for event in follower.news() if follower else ():
                if event["event"] != "stopped":
                    view(event)
            if last:
                view(follower.end() if follower else NO_RUN)
                return

    view({"event": "run_created", "connections": target})
    thread = threading.Thread(target=work, name="wslab-follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
