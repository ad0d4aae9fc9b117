"""One stage as an experiment: preflight, ramp, hold, verify, drain, and a recorded run whatever happened.

1. Input that cannot be used is refused with `BadInput` before anything starts: a parameter, a data folder that cannot
   be written, a stage that is far beyond this machine's memory. Every other limit may break: that is the result.
2. The manifest says `running` first and is replaced at the end. Samples and events are written by the supervisor's
   side as they come, and the figures are computed from what is on the disk.
3. An interrupt drains, saves and returns a run that says `aborted`. A second one skips the draining.
4. Only a programmer's error is raised as an exception, after the run was saved as `crashed`.
5. The machine is changed only by the place that a caller asks for, which is taken down at the end.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wslab.core.ceilings import ceilings, relaxed
from wslab.core.disturbance import disturbances
from wslab.core.evidence import Evidence
from wslab.core.host import Host
from wslab.core.knee import AUTO, held_rate
from wslab.core.plan import Plan, before_start, refusal, resolve
from wslab.core.protocols import DEFAULT_PROTOCOL
from wslab.core.quantities import BadInput
from wslab.core.records import BROKE, CRASHED, RUNNING
from wslab.core.servers import SERVER_KINDS, is_command, is_foreign, is_url, pending_within
from wslab.core.stage import BROADCAST, ECHO, PING, Stage
from wslab.core.summary import summarize
from wslab.core.target import check_target, is_loopback, parse_url
from wslab.core.timeline import timeline
from wslab.lab import registry, store
from wslab.lab.compiled import ensure_compiled
from wslab.lab.fleet import Fleet, FleetEnded
from wslab.lab.place import MakePlace, Place, this_machine
from wslab.lab.protocol_file import read_protocol
from wslab.lab.running import Running, as_it_runs, check_server, look_at_running
from wslab.lab.verdict import Verdict, judge
from wslab.machine.process import start_ticks
from wslab.machine.procfs import read_host

if TYPE_CHECKING:
    from wslab.lab.runs import Run

# Three retransmitted SYNs fit into it (1, 2 and 4 s): a full accept queue slows a connection and does not end it.
HANDSHAKE_TIMEOUT_SECONDS = 10.0
# Samples come every second; a supervisor that sends nothing for so long hangs.
SILENCE_SECONDS = 120.0

# Events after which the supervisor stops by itself.
SAY_WHY = {"error", "memory_reserve_reached", "server_failed"}

Event = dict[str, Any]

_log = logging.getLogger(__name__)


def run_stage(
    stage: Stage | None = None,
    *,
    on_event: Callable[[Event], None] | None = None,
    target: str = "",
    operate_target: bool = False,
    commands: Mapping[str, Sequence[str]] | None = None,
    place: MakePlace = this_machine,
    specs: Mapping[str, Mapping[str, Any]] | None = None,
    **parameters: Any,
) -> Run:
    """Run one stage and return what was recorded.

    Args:
        stage: what is asked for; or give the parameters themselves.
        on_event: called with every event and sample as it comes, for a live view; before the run is created, with
            `compiling` events when the event loops have to be compiled first.
        target: another name for a `server` that is the URL of one that runs already.
        operate_target: whether the caller says that a target outside loopback is theirs to load.
        commands: programs to start instead of the built-in ones, by role (`server`, `swarm`, `recorder`).
        place: makes the place to run in, for this run alone; the machine as it is unless given.
        specs: overrides for each process specification, by role, to break a limit on purpose.
        **parameters: fields of `Stage`, as text or numbers; they override those of `stage`.

    Returns:
        The run, saved, with one of the outcomes `held`, `broke`, `aborted` and `crashed`.

    Raises:
        BadInput: a parameter, the data folder or the enclosure cannot be used, the stage is out of reach of this
            machine's memory, or the event loops cannot be compiled.
    """
    parameters |= {"server": target} if target else {}
    stage = Stage.of(**{**(stage.as_dict() if stage else {}), **parameters})
    read_protocol(stage.protocol)
    if is_url(stage.server):
        check_dialable(stage.server, operate_target)
    check_server(stage)
    host = read_host()
    refused = refusal(stage, host)
    if refused:
        raise BadInput(refused)
    beside = check_alone(stage)
    data_dir = store.data_folder(stage.data_dir)
    store.check_writable(data_dir)
    if "swarm" not in (commands or {}):
        ensure_compiled(
            lambda line: on_event({"event": "compiling", "message": line}) if on_event else _log.warning(line)
        )
    with place(stage, host, resolve(stage, host)) as here:
        own = {role: {"command": list(command)} for role, command in (commands or {}).items()}
        own |= {role: {**own.get(role, {}), **spec} for role, spec in (specs or {}).items()}
        running = look_at_running(stage)
        limits = as_it_runs(before_start(stage, here.host), running.limits)
        here = replace(here, host=limits, plan=as_dialled(here.plan, own.get("swarm", {})))
        experiment = Experiment(stage, here, data_dir, on_event=on_event, running=running, own=own, beside=beside)
        experiment.note("specs", specs or {})
        experiment.run()

    from wslab.lab.runs import Run  # It imports pandas, which takes longer than starting a fleet.

    return Run.load(experiment.run_dir) if experiment.saved else Run(experiment.run_dir, experiment.manifest)


class _Stopped(Exception):
    """The supervisor has stopped everything without having been asked by us."""


class Experiment:
    """One run in progress; use `run_stage`.

    Args:
        stage: what is asked for.
        place: where it runs, and the limits and the layout there.
        data_dir: the data folder.
        on_event: called with every event.
        running: what is known of a server that runs already.
        own: overrides for each process specification, by role; see `start_command`.
        beside: ids of the runs that were in progress when this one began.
    """

    def __init__(
        self,
        stage: Stage,
        place: Place,
        data_dir: Path,
        *,
        on_event: Callable[[Event], None] | None,
        running: Running,
        own: Mapping[str, Mapping[str, Any]],
        beside: Sequence[str] = (),
    ) -> None:
        self.stage, self.place, self.host, self.plan = stage, place, place.host, place.plan
        self.run_dir = store.create_run(data_dir, stage.name)
        self._on_event, self._running, self._own = on_event, running, own
        self._beside = beside
        self._started = False
        self._seen: set[str] = set()
        self._unwritten = ""  # the first file of the run that could not be written, and why
        self.saved = True
        self._manifest = new_manifest(stage, self.plan, self.host, self.run_dir)
        self._manifest["server"] = {"command": server_command(stage), **asdict(running)}
        self._manifest |= {"enclosure": {}, "tuning": [], **place.notes}

    def note(self, key: str, value: Any) -> None:
        """Add a key to the manifest."""
        self._manifest[key] = value

    @property
    def manifest(self) -> dict[str, Any]:
        """What `run.json` says, or would say if it could be written."""
        return self._manifest

    def run(self) -> None:
        """Run the stage and save the outcome; see the rules of the module."""
        crashed = aborted = ""
        error: Exception | None = None
        try:
            store.write_manifest(self.run_dir, self._manifest)
            self._tell(store.run_created(self.run_dir, self.stage.as_dict()))
            with self._fleet() as fleet:
                try:
                    self._conduct(fleet)
                except KeyboardInterrupt:
                    aborted = "stopped by the user"
                    self._phase(fleet, "drain")
        except KeyboardInterrupt:
            aborted = "stopped by the user"
        except _Stopped:
            # After an error or at the memory reserve the events say why; else somebody stopped the supervisor.
            aborted = aborted or ("" if self._seen & SAY_WHY else "stopped from outside")
        except (FleetEnded, OSError) as problem:
            crashed = str(problem)
        except Exception as problem:
            crashed, error = f"{type(problem).__name__}: {problem}", problem
        crashed = crashed or self._unwritten
        try:
            try:
                self._save(crashed, aborted)
            except KeyboardInterrupt:  # A further interrupt must not leave a manifest that says `running`.
                self._save(crashed, aborted)
        except store.NotRecorded as problem:
            self._manifest |= {"outcome": CRASHED, "reason": str(problem)}
            self.saved = False
        finally:
            store.release(self.run_dir)
        self._tell({"event": "run_ended", "outcome": self._manifest["outcome"], "reason": self._manifest["reason"]})
        if error is not None:
            raise error

    def _fleet(self) -> Fleet:
        """Return what owns the processes of the run; they run as long as its context lasts."""
        return Fleet(self.run_dir)

    def _judge(self, evidence: Evidence, crashed: str, aborted: str) -> Verdict:
        return judge(evidence, crashed=crashed, aborted=aborted)

    def _rows(self, verdict: Verdict) -> list[dict[str, Any]]:
        """Return the findings as the manifest has them."""
        return [finding.as_dict() for finding in verdict.findings]

    def _conduct(self, fleet: Fleet) -> None:
        start = start_command(self.stage, self.plan, host=self.host, watch=self._running.pids, own=self._own)
        fleet.send("start", run_dir=str(self.run_dir), **self.place.put_into(start))
        self._wait(fleet, "started")
        self._started = True
        climb = ("climb",) if self.stage.message_rate == AUTO else ()
        for name in ("ramp", "hold", *climb, "verify"):
            seconds = self.stage.hold_seconds if name == "hold" else None
            ended = self._phase(fleet, name, seconds)
            if (ended.get("stopped_by") or "").endswith("_died"):
                break
        self._phase(fleet, "drain")

    def _phase(self, fleet: Fleet, name: str, seconds: float | None = None) -> Event:
        """Run one phase and return the event at its end; an empty one after `seconds`."""
        if not self._started:
            return {}
        fleet.send(name)
        self._wait(fleet, "phase_started", phase=name)  # A hold lasts from here, not from when it was asked for.
        return self._wait(fleet, "phase_ended", seconds=seconds, phase=name) or {}

    def _wait(self, fleet: Fleet, event_name: str, seconds: float | None = None, **fields: Any) -> Event | None:
        """Pass events on until the expected one, and return it; None after `seconds`."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            left = SILENCE_SECONDS if until is None else min(SILENCE_SECONDS, until - time.monotonic())
            if left <= 0:
                return None
            event = fleet.next_event(left)
            if event is None and left == SILENCE_SECONDS:
                raise FleetEnded(f"the supervisor has said nothing for {SILENCE_SECONDS:.0f} s")
            if event is not None:
                self._tell(event)
                if event["event"] == event_name and all(event.get(key) == value for key, value in fields.items()):
                    return event
                if event["event"] == "stopped":
                    raise _Stopped

    def _tell(self, event: Event) -> None:
        self._seen.add(event["event"])
        if event["event"] == "error" and event.get("file"):
            self._unwritten = self._unwritten or str(event["message"])
        if event["event"] == "processes_ready" and event.get("role") == "server":
            self._server_is_ready(event)
        if self._on_event is not None:
            self._on_event(event)

    def _server_is_ready(self, event: Event) -> None:
        """Note the server's processes and, where it is not ours, their limits as they are now."""
        limits = event.get("limits")
        pids = event["pids"] if limits is None else event["pids"][1:]  # The first is that of its keeper, which is ours.
        self._manifest["server"] |= {"url": event.get("url", ""), "pids": pids}
        if limits:
            self.host = as_it_runs(self.host, limits)
            rows = [row.as_dict() for row in ceilings(self.host, self.plan)]
            self._manifest["server"]["limits"] = limits
            self._manifest |= {"limits": self.host.as_dict(), "preflight": rows}
            store.write_manifest(self.run_dir, self._manifest)

    def _save(self, crashed: str, aborted: str) -> None:
        """Write the manifest: the outcome at once, and again with the figures and findings when they are computed."""
        events = store.read_events(self.run_dir)
        phases = [phase.as_dict() for phase in timeline(events)]
        self._manifest |= {"ended_at": store.utc_now(), "phases": phases}
        asked = self.stage.as_recorded()
        evidence = Evidence(stage=asked, plan=self.plan, host=self.host, events=events, aborted=bool(aborted))
        self._close(evidence, crashed, aborted)
        try:
            samples = store.read_samples(self.run_dir)
            latency = store.read_latency(self.run_dir)
            self._manifest["summary"] = summarize(asked, self.plan, samples, latency, events)
            beside = dict.fromkeys([*self._beside, *registry.other_runs(self.run_dir)])
            self._manifest["summary"]["disturbed_by"] = disturbances(samples, self.host.cpu_count, beside, events)
            self._close(replace(evidence, samples=samples), crashed, aborted)
        except Exception as problem:
            self._close(evidence, crashed or f"the figures cannot be computed: {problem!r}", aborted)
            raise

    def _close(self, evidence: Evidence, crashed: str, aborted: str) -> None:
        verdict = self._judge(evidence, crashed, aborted)
        self._manifest |= {"outcome": verdict.outcome, "reason": verdict.reason, "findings": self._rows(verdict)}
        store.write_manifest(self.run_dir, self._manifest)


def start_command(
    stage: Stage,
    plan: Plan,
    *,
    host: Host | None = None,
    watch: Sequence[int] = (),
    own: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the start command for the supervisor, without the run folder.

    Args:
        stage: what is asked for.
        plan: its layout.
        host: the limits of the caller, which a user's command is to start with.
        watch: processes of a server that runs already.
        own: overrides for the specification of `server`, `swarm` or `recorder`, such as a `command` to start instead
            of the built-in one; under `supervisor`, overrides for the start command itself.
    """
    own = own or {}
    url = stage.server if is_url(stage.server) else ""
    server: dict[str, Any] = {"host": "127.0.0.1", "port": 0 if stage.server_port == "auto" else stage.server_port}
    server |= {"shards": plan.server_shards, "ready_seconds": stage.server_ready_seconds}
    if is_command(stage.server):
        # It is started as the caller would start it: same folder, same packages, same limits.
        server |= {
            "command_line": stage.server,
            "cwd": stage.server_dir or os.getcwd(),
            "fd_limit": host.fd_soft if host else None,
        }
        server["environment"] = {"PYTHONPATH": os.environ.get("PYTHONPATH")}
    else:
        server["kind"] = stage.server
        if stage.workload == BROADCAST:
            server["fan_out"] = True
    swarm = {
        "connections": stage.connections,
        "workers": plan.swarm_workers,
        "ramp_rate": None if stage.ramp_rate == "max" else stage.ramp_rate,
        "message_rate": held_rate(stage.message_rate),
        "latency_bound": stage.latency_bound,
        "message_bytes": stage.message_bytes,
        "proof": proof_to_ask_for(stage),
        "broadcast": stage.workload == BROADCAST,
        "protocol": read_protocol(stage.protocol).as_dict() if stage.protocol != DEFAULT_PROTOCOL else None,
        "path": stage.path,
        "headers": list(stage.headers),
        "subprotocol": stage.subprotocol,
        # Other machines cannot reply to loopback addresses.
        "source_addresses": plan.source_addresses if not url or is_loopback(parse_url(url)[0]) else (),
        "pending_max": pending_within(plan.pending_max, host.server_backlog if host else None),
        "handshake_timeout_seconds": HANDSHAKE_TIMEOUT_SECONDS,
    }
    return {
        "server": None if url else server | dict(own.get("server", {})),
        "watch": list(watch),
        "swarm": swarm | ({"url": url} if url else {}) | dict(own.get("swarm", {})),
        "recorder": dict(own.get("recorder", {})),
        "memory_reserve_bytes": stage.memory_reserve,
        "memory_cap_bytes": None if stage.memory_cap == "none" else stage.memory_cap,
        **own.get("supervisor", {}),
    }


def proof_to_ask_for(stage: Stage) -> str:
    """Return the proof of life that the swarm is asked for; `auto` where the swarm has to find out."""
    if stage.workload == BROADCAST:
        return PING  # Whoever fans out does not echo; and a message to prove one connection would reach them all.
    # Servers of ours echo, so that no connection is spent on finding out.
    return ECHO if stage.proof == AUTO and not is_foreign(stage.server) else stage.proof


def as_dialled(plan: Plan, swarm: Mapping[str, Any]) -> Plan:
    """Return the plan with the destinations and the port choice of a swarm's specification."""
    destinations = len(swarm.get("destination_addresses") or ()) or plan.destinations
    return replace(plan, destinations=destinations, ports_at_bind=bool(swarm.get("bind_without_no_port")))


def server_command(stage: Stage) -> str:
    """Return the command line that starts the server of a stage; empty where it is a module of ours or runs already."""
    if is_command(stage.server):
        return stage.server
    return SERVER_KINDS[stage.server].command if stage.server in SERVER_KINDS else ""


def check_alone(stage: Stage) -> list[str]:
    """Return the ids of the other runs in progress on this machine.

    Raises:
        BadInput: there is one, and the stage does not say that it is to go on beside it.
    """
    beside = registry.other_runs()
    if beside and not stage.beside:
        raise BadInput(
            f"the run {beside[0]} is in progress here, and two at once disturb each other: "
            "`wslab attach` shows it, `wslab stop` ends it, --beside or beside=True goes on all the same"
        )
    return beside


def check_dialable(target: str, consent: bool) -> None:
    """Refuse a target that may not be loaded, or whose name cannot be resolved, before anything is started.

    Args:
        target: its URL.
        consent: whether the caller says that a target outside loopback is theirs to load.

    Raises:
        BadInput: one line says why not.
    """
    check_target(target, consent)
    host, port, _, _ = parse_url(target)
    try:
        socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        raise BadInput(f"target {host} is unknown: {getattr(problem, 'strerror', None) or problem}") from problem


def run_lifted(run: Run, *, on_event: Callable[[Event], None] | None = None) -> Run:
    """Run a broken stage again with its limit lifted without root: more addresses, shards or workers.

    Args:
        run: a recorded run.
        on_event: called with every event and sample as it comes, for a live view.

    Returns:
        The new run; the given one when it did not break, when no layout lifts what it broke at, or when it ran against
        a server of the caller's or in an enclosure, which a new run would not have.

    Raises:
        BadInput: the stage is out of reach of this machine's memory, or its data folder cannot be written.
    """
    changes = relaxed(run.findings, run.asked) if run.outcome == BROKE else {}
    elsewhere = run.stage.get("target") or run.manifest.get("enclosure") or run.manifest.get("specs")
    if elsewhere or not changes:
        return run
    return run_stage(on_event=on_event, **{**run.asked, **changes, "label": f"{run.run_id} lifted"})


def new_manifest(stage: Stage, plan: Plan, host: Host, run_dir: Path) -> dict[str, Any]:
    """Return the manifest of a run that is about to start."""
    effective = stage.as_recorded() | {
        "server_shards": plan.server_shards,
        "swarm_workers": plan.swarm_workers,
        "source_addresses": len(plan.source_addresses),
        "connections_per_shard": plan.connections_per_shard,
        "connections_per_worker": plan.connections_per_worker,
        "pending_max": plan.pending_max,
        "data_dir": str(run_dir.parents[1]),
    }
    if is_url(stage.server):
        effective["target"] = stage.server
    machine = {
        "kernel": host.kernel,
        "cpu_model": host.cpu_model,
        "cpu_count": host.cpu_count,
        "memory_total_bytes": host.memory_total_bytes,
    }
    return {
        "schema_version": store.SCHEMA_VERSION,
        "run_id": run_dir.name,
        "outcome": RUNNING,
        "reason": "",
        "created_at": store.utc_now(),
        "ended_at": None,
        "wslab_version": _version("wslab"),
        "caller": {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())},
        "stage": {"asked": stage.as_recorded(), "effective": effective},
        "host": machine | {"python": platform.python_version(), "websockets": _version("websockets")},
        "plan": plan.as_dict(),
        "limits": host.as_dict(),
        "preflight": [row.as_dict() for row in ceilings(host, plan)],
        "phases": [],
        "summary": {},
        "findings": [],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
