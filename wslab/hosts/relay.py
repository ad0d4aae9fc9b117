"""What runs inside a Dask worker: a look at its host, and the relay between a supervisor there and the caller.

1. The supervisor's standard input is held by the worker's process: when that dies, everything on the host stops.
2. The relay is a Dask actor. It stops everything when nobody has asked it for `LEASE_SECONDS`: the caller, the
   scheduler or the network between is gone then, and which of them makes no difference here.
3. Files of the run are written on this host first and handed over as they grow, so that a host that is lost later
   leaves its samples with the caller.
"""

from __future__ import annotations

import platform
import shutil
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from wslab.lab import registry
from wslab.lab.compiled import ensure_compiled
from wslab.lab.fleet import Fleet, FleetEnded
from wslab.machine.addresses import addresses_towards, own_addresses
from wslab.machine.procfs import read_host

LEASE_SECONDS = 5.0
WATCH_SECONDS = 0.5
# A command that is to take effect later than this came with a wrong clock.
WAIT_SECONDS_MOST = 5.0
FILES = ("samples.csv", "latency.csv", "events.jsonl", "logs/supervisor.log", "logs/server.log", "logs/swarm.log")


def look(server: str) -> dict[str, Any]:
    """Return what the caller has to know of this host before it places a stage.

    Args:
        server: address of the server's host.

    Returns:
        `host`, the limits as `Host` has them; `node`, the name of the machine; `version` of wslab; `beside`, the runs
        in progress; `towards`, the addresses from which this host can dial the server; `own`, all that it has.

    Raises:
        BadInput: the event loops cannot be compiled here.
    """
    ensure_compiled(lambda line: None)
    return {
        "host": read_host().as_dict(),
        "node": platform.node(),
        "version": metadata.version("wslab"),
        "beside": registry.other_runs(),
        "towards": addresses_towards(server),
        "own": own_addresses(),
    }


class Relay:
    """A supervisor on this host, for a caller elsewhere.

    Args:
        folder: where the run's files are kept until they are handed over; they are removed at the end.
        run_id: id of the run, the same on all hosts.
        lease_seconds: how long nobody may ask before everything is stopped.
    """

    def __init__(self, folder: str, run_id: str, lease_seconds: float = LEASE_SECONDS) -> None:
        self.run_dir = Path(folder) / f"wslab-{time.monotonic_ns():x}" / run_id
        self.run_dir.mkdir(parents=True)
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._offsets = dict.fromkeys(FILES, 0)
        self._ended = ""
        self._over = False
        self._asked_at = time.monotonic()
        self._fleet = Fleet(self.run_dir)
        self._fleet.__enter__()
        threading.Thread(target=self._watch, name="wslab-lease", daemon=True).start()

    def clock(self) -> float:
        """Return this host's monotonic clock, in seconds."""
        self._asked_at = time.monotonic()
        return self._asked_at

    def command(self, name: str, fields: Mapping[str, Any], at: float | None = None) -> None:
        """Pass a command to the supervisor, at a time of this host's monotonic clock unless that is None."""
        if at is not None:
            time.sleep(min(max(0.0, at - time.monotonic()), WAIT_SECONDS_MOST))
        with self._lock:
            if not self._over:
                own = {"run_dir": str(self.run_dir)} if name == "start" else {}
                self._fleet.send(name, **fields, **own)

    def poll(self) -> dict[str, Any]:
        """Return what is new, and this host's `clock`.

        Returns:
            `events`, `files` (name: bytes that were appended), `ended` (how; empty if it runs), and `clock`, monotonic.
        """
        with self._lock:
            news = self._news()
        return {**news, "clock": self.clock()}

    def stop(self) -> dict[str, Any]:
        """Stop everything on this host, and return what `poll` has not."""
        with self._lock:
            if self._over:
                return {"events": [], "files": {}, "ended": self._ended}
            self._over = True
            self._fleet.stop()
            self._ended = self._ended or "stopped"
            news = self._news()
            shutil.rmtree(self.run_dir.parent, ignore_errors=True)
        return news

    def _news(self) -> dict[str, Any]:
        events = []
        try:
            while not self._ended and (event := self._fleet.next_event(0.0)) is not None:
                events.append(event)
        except FleetEnded as problem:
            self._ended = str(problem)
        return {
            "events": events,
            "files": {name: data for name in FILES if (data := self._new(name))},
            "ended": self._ended,
        }

    def _new(self, name: str) -> bytes:
        """Return the whole lines that a file has gained."""
        try:
            with open(self.run_dir / name, "rb") as file:
                file.seek(self._offsets[name])
                data = file.read()
        except FileNotFoundError:
            return b""
        data = data[: data.rfind(b"\n") + 1]
        self._offsets[name] += len(data)
        return data

    def _watch(self) -> None:
        while not self._over:
            if time.monotonic() - self._asked_at > self._lease_seconds:
                self.stop()
            time.sleep(WATCH_SECONDS)
