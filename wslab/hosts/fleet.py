"""The supervisors of several hosts as one: commands go to all of them, and their events become those of one run.

`Experiment` conducts it like the supervisor of one host.

1. The server's host starts first; the others when its server accepts.
2. A phase begins at one moment on all hosts, by the offset of each clock, and ends when all that are left have ended
   it. Its counts are sums.
3. A host that stops answering, or whose supervisor ends without saying why, is lost: that is an event, the phase ends
   early on the others, and the run goes on to its drain.
4. A host whose clock has moved against the caller's by more than `CLOCK_SECONDS` is told once, as an event. The run
   goes on: each host keeps its own time, and only what is compared between hosts is off by as much.
5. Files of each host are kept as they come, in `hosts/NAME/`; samples of the whole as well, and
   at the end both they and the latencies are written once more from those of the hosts, second by second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from wslab.core.disturbance import CLOCK_MOVED
from wslab.core.records import LATENCY_COLUMNS, SAMPLE_COLUMNS, Column, header, to_cells
from wslab.hosts.merging import HOST_DIED, HOST_LOST, merge_counts, merge_failures, merge_sample, merge_samples
from wslab.hosts.placing import Placing, Share, server_start, swarm_start
from wslab.lab import store
from wslab.lab.experiment import SAY_WHY
from wslab.lab.fleet import Fleet, FleetEnded
from wslab.machine.line_file import LineFile

# Longer than a command takes to the farthest host.
LEAD_SECONDS = 0.2
POLL_SECONDS = 0.05
# A supervisor kills after three seconds what has not ended, and is killed itself after six.
STOP_SECONDS = 10.0
# Samples of the hosts are put together by the second: a clock that moves by less changes nothing that is shown.
CLOCK_SECONDS = 0.1
PHASES = ("ramp", "hold", "climb", "verify", "drain")
SERVER, SWARM = "server", "swarm"
OPEN = "swarm_connections_open"

Event = dict[str, Any]


class HostGone(Exception):
    """A host does not answer any more; the text says how that was seen."""


class Link(Protocol):
    """The way to the relay on one host.

    Attributes:
        name: name of the host.
        offset_seconds: its monotonic clock less that of the caller.
        uncertainty_seconds: how far that may be off.
        moved_seconds: how much its clock has moved since that was measured, at least; 0 when it may not have moved.
    """

    name: str
    offset_seconds: float
    uncertainty_seconds: float
    moved_seconds: float

    def command(self, name: str, fields: Mapping[str, Any], at: float | None = None) -> None:
        """Send a command, to take effect at a time of the caller's monotonic clock; does not wait."""

    def poll(self) -> dict[str, Any] | None:
        """Return what is new, see `Relay.poll`; None when nothing has arrived. Does not wait.

        Raises:
            HostGone: nothing will come any more.
        """

    def stop(self) -> None:
        """Ask for the end of everything on that host; does not wait."""

    def stopped(self, seconds: float) -> dict[str, Any]:
        """Return what was new at the end; empty when the host does not say within so many seconds."""


class OneHost:
    """What is known of one host during a run.

    Args:
        link: the way to it.
        role: `server` or `swarm`.
        folder: where its files are kept.
        share: its part of the swarm; None for the server's host.
    """

    def __init__(self, link: Link, role: str, folder: Path, share: Share | None = None) -> None:
        self.link, self.role, self.folder, self.share = link, role, folder, share
        self.started = self.gone = self.said_why = self.clock_moved = False
        self.counts: Event = {}
        self.failures: list[Event] = []
        self.sample: Event = {}
        self.lost_seconds: float | None = None
        self.ended: dict[str, Event] = {}
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    @property
    def latest(self) -> Event:
        """Its last sample, with the connections that are open as they were counted since."""
        counted = self.counts.get("elapsed_seconds", 0.0) > self.sample["elapsed_seconds"]
        opened = 0 if self.gone else self.counts["connections_open"] if counted else None
        return self.sample if opened is None else {**self.sample, OPEN: opened}

    def samples(self) -> list[Event]:
        """Return its samples as they were kept; after the last of a host that was lost, nothing is open there."""
        rows: list[Event] = store.read_samples(self.folder)
        if rows and self.lost_seconds is not None:
            rows.append({**rows[-1], "elapsed_seconds": self.lost_seconds, OPEN: 0})
        return rows

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Append what its files have gained.

        Raises:
            OSError: they cannot be written.
        """
        for name, data in files.items():
            with open(self.folder / name, "ab") as file:
                file.write(data)


class HostsFleet(Fleet):
    """The supervisors of a placed stage.

    Args:
        run_dir: folder of the run, on the caller's host.
        placing: where the stage runs.
        server: the way to the server's host.
        swarm: the ways to the swarm's hosts, in the order of the shares.
    """

    def __init__(self, run_dir: Path, placing: Placing, server: Link, swarm: Sequence[Link]) -> None:
        super().__init__(run_dir)
        self._placing = placing
        folder = run_dir / "hosts"
        # The folder of a host that runs both ends has a name of its own for each.
        both = {link.name for link in swarm} & {server.name}
        self.server = OneHost(server, SERVER, folder / (f"{server.name}-server" if both else server.name))
        self.swarm = [
            OneHost(link, SWARM, folder / link.name, share) for link, share in zip(swarm, placing.shares, strict=True)
        ]
        self._events_file: LineFile | None = None
        self._samples_file: LineFile
        self._waiting: list[Event] = []
        self._start: Event = {}
        self._epoch = time.monotonic()
        self._phase = self._url = ""
        self._open_phase = self._all_started = self._stopping = False
        self._stopped_by: str | None = None

    def __enter__(self) -> HostsFleet:
        self._events_file = LineFile(self.run_dir / store.EVENTS)
        self._samples_file = LineFile(self.run_dir / store.SAMPLES)
        self._samples_file.append([",".join(header()) + "\n"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def hosts(self) -> list[OneHost]:
        """All hosts, the server's first."""
        return [self.server, *self.swarm]

    def send(self, cmd: str, **fields: Any) -> None:
        """Send a command to the hosts that it concerns."""
        if cmd == "start":
            self._epoch = time.monotonic()
            self._start = {key: value for key, value in fields.items() if key != "run_dir"}
            self._begin(self.server, server_start(self._start, self._placing))
        elif cmd in PHASES:
            if self._open_phase:  # A hold ends when the next phase begins.
                for host in self._left():
                    host.ended.setdefault(self._phase, {"stopped_by": None, **host.counts})
                self._end_phase()
            self._phase, self._open_phase, self._stopped_by = cmd, True, None
            at = time.monotonic() + LEAD_SECONDS + max(host.link.uncertainty_seconds for host in self.hosts)
            for host in self._alive():
                host.link.command(cmd, {}, at)
            self._record("phase_started", at, phase=cmd)
            self._end_when_all_have()

    def next_event(self, timeout_seconds: float) -> Event | None:
        """Return the next event of the run, or None when there is none in time.

        Raises:
            FleetEnded: no host is left that could send one.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self._waiting:
            for host in self._alive():
                self._ask(host)
            if self._waiting:
                break
            if not self._alive():
                raise FleetEnded("all hosts of the run are lost")
            if time.monotonic() >= deadline:
                return None
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
        return self._waiting.pop(0)

    def stop(self) -> None:
        """Stop everything on all hosts, and write the files of the whole; does nothing the second time."""
        if self._stopping:
            return
        self._stopping = True
        try:
            alive = self._alive()
            for host in alive:
                host.link.stop()
            for host in alive:
                host.keep(host.link.stopped(STOP_SECONDS).get("files", {}))
        finally:
            self._selector.close()
            if self._events_file is not None:
                self._record("stopped")
                self._events_file.close()
                self._samples_file.close()
            self._write_tables()

    # Events

    def _alive(self) -> list[OneHost]:
        return [host for host in self.hosts if not host.gone]

    def _left(self) -> list[OneHost]:
        return [host for host in self.swarm if not host.gone]

    def _begin(self, host: OneHost, start: Event) -> None:
        host.link.command("start", {**start, "epoch_monotonic": self._epoch + host.link.offset_seconds})

    def _ask(self, host: OneHost) -> None:
        try:
            news = host.link.poll()
        except HostGone as problem:
            self._lose(host, str(problem))
            return
        if news is None:
            return
        if abs(host.link.moved_seconds) > CLOCK_SECONDS and not host.clock_moved:
            host.clock_moved = True
            self._record(CLOCK_MOVED, host=host.link.name, moved_seconds=round(host.link.moved_seconds, 3))
        host.keep(news["files"])
        for event in news["events"]:
            self._take(host, event)
        if news["ended"] and not host.gone:
            self._lose(host, news["ended"])

    def _take(self, host: OneHost, event: Event) -> None:
        name = event["event"]
        if name == "sample":
            host.sample = {key: value for key, value in event.items() if key != "event"}
            if host is self.server:
                merged = merge_sample(host.sample, [one.latest for one in self.swarm if one.sample])
                self._waiting.append({"event": name, **merged})
                self._samples_file.append([",".join(to_cells(merged)) + "\n"])
        elif name == "progress":
            if host.role == SWARM:
                host.counts = event
                self._waiting.append({**event, "phase": self._phase, **self._counts()})
        elif name == "started":
            host.started = True
            if host is self.server:
                for one in self._left():
                    assert one.share is not None
                    self._begin(one, swarm_start(self._start, one.share, self._url))
            if all(one.started for one in self.hosts):
                self._all_started = True
                self._record("started")
        elif name == "phase_started":
            pass  # It was recorded when it was sent to all.
        elif name == "phase_ended":
            self._take_end(host, event)
        elif name == "failures":
            host.failures = event["table"]
        elif name == "stopped":
            self._lose(host, "its supervisor has stopped")
        elif name not in ("counters", "firewall") or host is self.server:
            if name == "processes_ready" and event.get("role") == SERVER:
                self._url = event["url"]
            host.said_why = host.said_why or name in SAY_WHY
            self._pass_on({**event, "host": host.link.name})

    def _take_end(self, host: OneHost, event: Event) -> None:
        if host.role == SWARM:
            host.counts = event
            host.ended[event["phase"]] = event
            self._end_when_all_have()
        elif event.get("stopped_by") not in (None, "caller"):
            self._halt(event["stopped_by"])

    def _halt(self, stopped_by: str) -> None:
        """End the running phase early on all hosts."""
        if self._open_phase and self._phase != "drain" and self._stopped_by is None:
            self._stopped_by = stopped_by
            for host in self._alive():
                host.link.command("halt", {"stopped_by": stopped_by})

    def _end_when_all_have(self) -> None:
        if self._open_phase and all(self._phase in host.ended for host in self._left()):
            self._end_phase()

    def _end_phase(self) -> None:
        ends = [host.ended[self._phase] for host in self._left()]
        stops = [end["stopped_by"] for end in ends if end.get("stopped_by")]
        table = merge_failures(host.failures for host in self.swarm)
        if table:
            self._record("failures", table=table)
        at = max((float(end["elapsed_seconds"]) for end in ends if "elapsed_seconds" in end), default=None)
        self._open_phase = False
        stopped_by = self._stopped_by or (stops[0] if stops else None)
        when = None if at is None else self._epoch + at
        self._record("phase_ended", when, phase=self._phase, stopped_by=stopped_by, **self._counts())

    def _counts(self) -> dict[str, int]:
        return merge_counts(
            (host.counts for host in self.swarm if not host.gone), (host.counts for host in self.swarm if host.gone)
        )

    def _lose(self, host: OneHost, why: str) -> None:
        """Go on without a host; where it has said why it stopped, everything stops."""
        if host.gone:
            return
        host.gone = True
        name = host.link.name
        if host.said_why:
            self._record("stopped")
            return
        host.lost_seconds = time.monotonic() - self._epoch
        held = int(host.counts.get("connections_open") or 0)
        self._record(
            HOST_LOST,
            host=name,
            role=host.role,
            why=why,
            host_connections_open=held,
            connections_open=self._counts().get("connections_open", 0),
        )
        if not self._all_started:
            self._record("error", message=f"host {name} was lost before the load began: {why}", host=name)
            self._record("stopped")
            return
        self._halt(HOST_DIED)
        self._end_when_all_have()

    def _record(self, name: str, at: float | None = None, **fields: Any) -> None:
        """Record an event of the whole, at a time of the monotonic clock or now, and pass it on."""
        elapsed = round((time.monotonic() if at is None else at) - self._epoch, 6)
        self._pass_on({"elapsed_seconds": elapsed, "event": name, **fields})

    def _pass_on(self, event: Event) -> None:
        if self._events_file is not None:
            self._events_file.append([json.dumps(event) + "\n"])
        self._waiting.append(event)

    # The files of the whole

    def _write_tables(self) -> None:
        swarm = [host.samples() for host in self.swarm]
        _write(
            self.run_dir / store.SAMPLES, SAMPLE_COLUMNS, merge_samples(store.read_samples(self.server.folder), swarm)
        )
        latency = [row for host in self.swarm for row in store.read_latency(host.folder)]
        latency.sort(key=lambda row: float(row["elapsed_seconds"] or 0.0))
        _write(self.run_dir / store.LATENCY, LATENCY_COLUMNS, latency)


def _write(path: Path, columns: tuple[Column, ...], rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [",".join(header(columns)), *(",".join(to_cells(row, columns)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
