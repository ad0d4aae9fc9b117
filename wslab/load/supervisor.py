"""The supervisor of one host: owns the server, the swarm and the recorder, for as long as the caller lives.

Started as `python -m wslab.load.supervisor`. Commands come in on stdin and events go out on stdout, a JSON object a
line; the events are also appended to `events.jsonl` of the run folder. One thread waits for the caller, for the
children's stdout and for the children's pidfds at once.

1. End of file on stdin means that the caller is gone, however it died: everything stops within five seconds.
2. The recorder starts first and the load only after its first sample, so every run has a baseline.
3. Ctrl-C in a terminal or a notebook is the caller's to handle, so SIGINT is ignored here and in all children.
   SIGTERM and SIGHUP stop everything in good order.
4. A server that is not ours is found from outside: it runs below `wslab.load.servers.command`, or it runs already and
   the start command names its processes in `watch`. The recorder is told what to watch. Such a server can fail to get
   ready, which is a result (`server_failed`) and no error.
5. A child gets its specification as JSON in its first argument. A specification may bring a `command` of its own,
   which is then started instead of the built-in module and speaks the same protocol.
6. One stage may run over several hosts, each with a supervisor. A start command whose swarm has no workers starts the
   server alone: the caller then says when each phase begins, and `halt` ends one early. With `epoch_monotonic`, on this
   host's clock, all hosts of a run count `elapsed_seconds` from one moment.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wslab.core.json_lines import JsonLines
from wslab.core.servers import COMMAND_MODULE, DEFAULT_SERVER, SERVER_KINDS, pending_within
from wslab.core.target import parse_url
from wslab.load.children import Child
from wslab.load.messages import Reports
from wslab.load.phases import PHASES, Phases
from wslab.load.scoreboard import PID, ROLE_SERVER, ROLE_SWARM, Scoreboard
from wslab.machine.journal import undo_orphaned
from wslab.machine.line_file import why_not_written
from wslab.machine.process import adopt_orphans, raise_fd_limit

TICK_SECONDS = 0.1
# Where no folder can keep the event loops, each end compiles its own.
START_SECONDS = 120.0
START_SECONDS_PER_PROCESS = 0.2
STOP_SECONDS = 3.0  # from closing the lifelines to SIGKILL
MASTERS = 2  # of the server and of the swarm; each has the row behind those that it forked
GIVE_UP_SECONDS = 30.0  # the kernel may need seconds to close the sockets of what was killed

# What the connections of the swarm ask with.
ENTRY = ("path", "headers", "subprotocol")

_SCOREBOARD_ROLES = {"server": ROLE_SERVER, "swarm": ROLE_SWARM}
_NEVER = float("inf")


class Supervisor:
    """The state of one run on one host.

    Args:
        commands_fd: descriptor that the caller's commands arrive on.
        reports_fd: descriptor that events go to.
    """

    def __init__(self, commands_fd: int, reports_fd: int) -> None:
        self._commands_fd = commands_fd
        self._reports = Reports(reports_fd, time.monotonic())
        self._lines = JsonLines()
        self._selector = selectors.DefaultSelector()
        self._selector.register(commands_fd, selectors.EVENT_READ, self._read_commands)
        self._children: dict[str, Child] = {}
        self._ready: set[str] = set()
        self._start: dict[str, Any] = {}  # the command; scoreboard and phases are there once it is
        self._scoreboard: Scoreboard
        self._phases: Phases
        self._shards = 0
        self._deadline = _NEVER  # of starting, of being stopped, of being killed
        self._stopping = self._killed = False
        self._exit_code = 0

    def run(self) -> int:
        """Serve the caller until it stops or is gone, and return the exit status."""
        wake, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(alarm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, lambda *_: None)  # what counts is the byte that it writes to `alarm`
        self._selector.register(wake, selectors.EVENT_READ, lambda: self._stop() if os.read(wake, 64) else None)
        while not (self._stopping and all(child.gone() for child in self._children.values())):
            for key, _ in self._selector.select(TICK_SECONDS):
                key.data()
            self._reports.flush()
            if not self._tick(time.monotonic()):
                break
        for line in undo_orphaned():  # A caller that is alive undoes its own steps.
            try:
                print(line, file=sys.stderr, flush=True)
            except OSError:
                pass  # The disk that the log is on may be full.
        self._reports.event("stopped")
        self._reports.flush(1.0)
        self._reports.close()
        return self._exit_code

    def _tick(self, now: float) -> bool:
        """Do what is due; False when there is nothing left to wait for."""
        if self._start and not self._stopping and not self._phases.tick(now):
            self._stop()
        if now < self._deadline:
            return True
        if not self._stopping:
            missing = sorted({"recorder", "server", "swarm"} - self._ready)
            self._fail(f"not ready in time: {', '.join(missing)}")
            return True
        if not self._killed:
            self._killed, self._deadline = True, now + GIVE_UP_SECONDS
            for child in self._children.values():
                child.kill()
            return True
        return False

    # The caller

    def _read_commands(self) -> None:
        data = os.read(self._commands_fd, 1 << 16)
        for command in self._lines.feed(data):
            try:
                self._command(command)
            except OSError as problem:
                self._fail(why_not_written(problem), file=problem.filename, errno=problem.errno)
            except (KeyError, TypeError, ValueError) as problem:
                self._fail(f"command {command.get('cmd')} failed: {problem!r}")
        if not data:
            self._selector.unregister(self._commands_fd)
            if not self._stopping:
                self._reports.event("caller_gone")
                self._stop(cut_by="caller_gone")

    def _command(self, command: Mapping[str, Any]) -> None:
        name = command.get("cmd")
        if self._stopping:
            return
        if name == "stop":
            self._stop()
        elif name == "start" and not self._start:
            self._begin(dict(command))
        elif name == "halt" and self._start and self._phases.started:
            self._phases.cut(str(command["stopped_by"]), time.monotonic())
        elif name in PHASES and self._start and self._phases.started:
            if name == "drain" and "server" in self._children:
                self._children["server"].send({"cmd": "drain"})
            self._phases.begin(name, time.monotonic())
        else:
            self._fail(f"command {name} is not expected now")

    # Starting: the recorder, after its first sample the server, when that is ready the swarm

    def _begin(self, start: dict[str, Any]) -> None:
        run_dir = Path(start["run_dir"])
        os.makedirs(run_dir / "logs", exist_ok=True)
        self._reports.epoch = float(start.get("epoch_monotonic") or time.monotonic())
        self._reports.open_file(run_dir / "events.jsonl")
        self._shards = start["server"]["shards"] if start.get("server") else 0
        processes = self._shards + start["swarm"]["workers"]
        self._scoreboard = Scoreboard.create(processes + MASTERS)
        self._phases = Phases(self._reports, self._scoreboard, start)
        self._start = start
        self._deadline = time.monotonic() + START_SECONDS + START_SECONDS_PER_PROCESS * processes
        self._deadline += float((start.get("server") or {}).get("ready_seconds") or 0.0)
        recorder = {
            "run_dir": start["run_dir"],
            "interval_seconds": 1.0,
            "destination": _destination(start),
            **start.get("recorder", {}),
        }
        self._start_child("recorder", "wslab.load.recorder", recorder)

    def _start_child(self, role: str, module: str, spec: dict[str, Any]) -> None:
        command = spec.pop("command", None) or [sys.executable, "-m", module]
        spec |= {"board_fd": self._scoreboard.fd, "epoch_monotonic": self._reports.epoch}
        log = Path(self._start["run_dir"]) / "logs" / f"{role}.log"
        if module == COMMAND_MODULE:
            spec["log"] = str(log)
        try:
            fds, enclosure = (self._scoreboard.fd,), spec.pop("enclosure", None)
            child = Child(role, [*command, json.dumps(spec)], log=log, pass_fds=fds, enclosure=enclosure)
        except OSError as problem:
            why = why_not_written(problem) if problem.filename == str(log) else problem.strerror
            self._fail(f"the {role} cannot be started: {why}", role=role, errno=problem.errno)
            return
        self._children[role] = child
        self._selector.register(child.stdout, selectors.EVENT_READ, lambda: self._read_events(child))
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._bury(child))
        self._reports.event("process_started", role=role, pid=child.pid)

    def _child_ready(self, child: Child, pids: list[int], url: str | None, limits: Mapping[str, Any] | None) -> None:
        child.adopt(pids)
        self._ready.add(child.role)
        about = {**({"url": url} if url else {}), **({} if limits is None else {"limits": limits})}
        self._reports.event("processes_ready", role=child.role, pids=pids, **about)
        if self._stopping:
            return
        if child.role == "recorder" and self._start.get("watch"):
            child.send({"cmd": "watch", "pids": self._start["watch"]})
        if child.role == "server" and limits is not None:  # It is not ours, and the first pid is that of its keeper.
            self._children["recorder"].send({"cmd": "watch", "below": pids[0], "pids": pids[1:]})
        if child.role == "recorder" and self._start.get("server"):
            self._start_server({**self._start["server"], "board_row": 0})
        elif child.role == "server" and not self._start["swarm"]["workers"]:
            self._deadline = _NEVER
            self._phases.follow()
            self._reports.event("started")
        elif child.role in ("recorder", "server"):
            swarm = {**self._start["swarm"], "board_row": self._shards + 1, **({"url": url} if url else {})}
            self._scoreboard.port = parse_url(str(swarm["url"]))[1] if swarm.get("url") else 0
            if limits and swarm.get("pending_max"):
                swarm["pending_max"] = pending_within(swarm["pending_max"], limits.get("server_backlog"))
            self._start_child("swarm", "wslab.load.swarm.master", swarm)
        else:
            self._deadline = _NEVER
            self._phases.swarm = child
            self._reports.event("started")

    def _start_server(self, spec: dict[str, Any]) -> None:
        kind = spec.pop("kind", DEFAULT_SERVER)
        module, own = (COMMAND_MODULE, {}) if spec.get("command_line") else SERVER_KINDS[kind].start
        if module == COMMAND_MODULE:  # It is ready when it lets in a connection like those of the swarm.
            swarm = self._start["swarm"]
            spec["entry"] = {
                **(swarm.get("protocol") or {}),
                **{name: swarm[name] for name in ENTRY if swarm.get(name)},
            }
        self._start_child("server", module, {**own, **spec})

    # Children

    def _read_events(self, child: Child) -> None:
        events, more = child.events()
        if not more and child.stdout in self._selector.get_map():
            self._selector.unregister(child.stdout)
        for event in events:
            self._child_event(child, event.pop("event", ""), event)

    def _child_event(self, child: Child, name: str, fields: dict[str, Any]) -> None:
        if name == "sample":
            self._reports.figure("sample", **fields)
        if name == "ready" or (name == "sample" and child.role not in self._ready):
            self._child_ready(child, fields.get("pids", [child.pid]), fields.get("url"), fields.get("limits"))
        elif name == "process_started":
            child.adopt([fields["pid"]])
            self._reports.event("process_started", role=child.role, pid=fields["pid"])
        elif name == "process_exited":
            self._lost(child.role, **fields)
        elif name == "process_full":
            self._reports.event("process_full", **fields)
        elif name == "server_failed":
            self._reports.event("server_failed", **fields)
            self._stop()
        elif name == "phase_ended":
            self._phases.swarm_says_done(fields["phase"])
        elif name in ("proof", "broadcast", "counters", "neighbours"):
            self._reports.event(name, **fields)
        elif name == "firewall":
            self._reports.event("firewall", rules=fields["rules"])
        elif name == "failure":
            self._reports.event("failure", **{**fields, "role": child.role})
        elif name == "error":
            fields = {**fields, "message": str(fields.get("message", "")), "role": child.role}
            fields.pop("elapsed_seconds", None)
            if self._phases.started:
                self._reports.event("error", **fields)
            else:
                self._fail(**fields)

    def _bury(self, child: Child) -> None:
        """Read the remaining events and the exit status of a child that has ended."""
        self._selector.unregister(child.pidfd)
        self._read_events(child)
        exit_code, ended_by = child.reap()
        self._lost(child.role, child.pid, exit_code, ended_by)
        if child.role == "swarm":
            self._phases.swarm_ended()

    def _lost(
        self, role: str, pid: int, exit_code: int | None = None, signal: int | None = None, last_lines: str = ""
    ) -> None:
        expected = self._stopping or (role == "swarm" and exit_code == 0 and self._phases.draining)
        fields = {"role": role, "pid": pid, "exit_code": exit_code, "signal": signal}
        fields |= {"last_lines": last_lines} if last_lines else {}
        self._reports.event("process_exited", **fields, expected=expected)
        if not expected and self._phases.started:
            self._phases.lost(role, time.monotonic())
        elif not expected:
            how = f"exit code {exit_code}" if signal is None else f"signal {signal}"
            self._fail(f"a process of the {role} ended before all were ready ({how}), see logs/{role}.log")

    # Stopping

    def _fail(self, message: str, **fields: Any) -> None:
        """Report an error after which the run cannot go on, and stop."""
        if not self._stopping:
            self._exit_code = 1
            self._reports.event("error", message=message, **fields)
            self._stop()

    def _stop(self, cut_by: str = "caller") -> None:
        """Close all lifelines; what has not ended in time is killed."""
        if self._stopping:
            return
        self._stopping, self._deadline = True, time.monotonic() + STOP_SECONDS
        if not self._start:
            return
        if self._phases.active:
            self._phases.end(None if self._phases.name == "hold" and cut_by == "caller" else cut_by)
        self._scoreboard.phase = "done"
        for role, child in self._children.items():
            if role in _SCOREBOARD_ROLES:  # What was forked before it could be announced is on the scoreboard already.
                child.adopt(row[PID] for row in self._scoreboard.of(_SCOREBOARD_ROLES[role]))
            child.close_stdin()


def _destination(start: Mapping[str, Any]) -> str:
    """Return the host that the swarm dials."""
    url = start["swarm"].get("url")
    return parse_url(str(url))[0] if url else str(start["server"].get("host") or "127.0.0.1")


if __name__ == "__main__":
    raise_fd_limit()  # It holds a pidfd of every process of the load.
    adopt_orphans()  # What a server left behind whose keeper was killed stays below this process.
    sys.exit(Supervisor(sys.stdin.fileno(), sys.stdout.fileno()).run())
