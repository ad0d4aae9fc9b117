"""Follows a run from outside, through its folder, and feeds a live view with what it finds there.

The run may be in another process, such as a notebook's kernel; all that is shared is the disk.
"""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wslab.core.records import from_cells
from wslab.lab import store

POLL_SECONDS = 0.5

View = Callable[[Mapping[str, Any]], None]


class Tail:
    """The lines that were added to a file since the last look; a line without its end is left for the next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def lines(self) -> list[str]:
        """Return the new whole lines; none when there is no file yet."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode("utf-8", errors="replace").splitlines()


class Follower:
    """Reads the events and samples that a run folder has gained, in order of time.

    Args:
        run_dir: the run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._events, self._samples = Tail(run_dir / store.EVENTS), Tail(run_dir / store.SAMPLES)
        self._names: list[str] = []

    def news(self) -> list[dict[str, Any]]:
        """Return what was added since the last call, as events."""
        events = [json.loads(line) for line in self._events.lines() if line.strip()]
        rows = list(csv.reader(self._samples.lines()))
        if rows and not self._names:
            self._names = rows.pop(0)
        events += [{"event": "sample", **from_cells(row, self._names)} for row in rows]
        return sorted(events, key=lambda event: event.get("elapsed_seconds") or 0.0)


@contextmanager
def follow(find: Callable[[], Path | None], view: View, target: int) -> Iterator[None]:
    """Feed a view with a run for as long as the context lasts; it gets `run_created` first and `stopped` last.

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
            for event in follower.news() if follower else ():
                if event["event"] != "stopped":
                    view(event)
            if last:
                view({"event": "stopped"})
                return

    view({"event": "run_created", "connections": target})
    thread = threading.Thread(target=work, name="wslab-follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
