"""Stand-ins for server, swarm and recorder: they keep the protocol and the scoreboard, and open no connection.

Run as `python fake_load.py ROLE BEHAVIOUR SPEC_JSON`. Each behaviour but `plain` departs in one way:

- swarm: `slow` opens a connection every 10 ms, `stuck` opens none, `deaf` never answers, `losing` loses one in a hold,
  `failing` cannot open the last one, `weary` has one more echo every 10 ms, `chatty` loses three messages in verify and
  hears one a connection unasked.
- server: `refusing` reports an error instead of being ready, `leaving` exits without a word, `mute` is never ready.
"""

from __future__ import annotations

import errno
import json
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wslab.core.records import LATENCY_COLUMNS, SAMPLE_COLUMNS, header, to_cells
from wslab.load import scoreboard as words
from wslab.load.scoreboard import Scoreboard

TICK_SECONDS = 0.01


def command(role: str, behaviour: str = "plain") -> list[str]:
    """Return the command that starts a stand-in."""
    return [sys.executable, __file__, role, behaviour]


def commands(**behaviours: str) -> dict[str, list[str]]:
    """Return the commands of all three, those not named being plain."""
    return {role: command(role, behaviours.get(role, "plain")) for role in ("server", "swarm", "recorder")}


def emit(event: str, **fields: Any) -> None:
    """Tell the supervisor."""
    os.write(1, json.dumps({"event": event, **fields}).encode() + b"\n")


class Crew:
    """Idle processes with a row on the scoreboard each; they end when this process does."""

    def __init__(self, scoreboard: Scoreboard, count: int, first_row: int, role: int) -> None:
        self.rows = [scoreboard.row(first_row + index) for index in range(count)]
        self.reader, self.writer = os.pipe()
        self.pids = [self._fork(row, role) for row in self.rows]

    def _fork(self, row: memoryview[int], role: int) -> int:
        pid = os.fork()
        if pid == 0:
            os.close(self.writer)
            row[words.ROLE], row[words.PID] = role, os.getpid()
            os.read(self.reader, 1)
            os._exit(0)
        return pid

    def report_deaths(self) -> None:
        """Tell which of them have ended."""
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                code = os.waitstatus_to_exitcode(found[1])
                emit(
                    "process_exited", pid=found[0], exit_code=code if code >= 0 else None, signal=max(0, -code) or None
                )
        except ChildProcessError:
            pass


def serve(on_command: Callable[[dict[str, Any]], bool], on_tick: Callable[[], None]) -> None:
    """Pass commands on until stdin ends or one of them says that it was the last."""
    rest = b""
    while True:
        if select.select([0], [], [], TICK_SECONDS)[0]:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            if any(on_command(json.loads(line)) for line in lines):
                return
        on_tick()


def server(behaviour: str, spec: dict[str, Any]) -> int:
    """Be a server."""
    if behaviour == "refusing":
        emit("error", message="cannot listen on 127.0.0.1:80: Permission denied")
    if behaviour in ("refusing", "leaving"):
        return 1
    crew = Crew(Scoreboard.attach(spec["board_fd"]), spec["shards"], spec["board_row"], words.ROLE_SERVER)
    if behaviour != "mute":
        emit("ready", url="ws://127.0.0.1:9", pids=[os.getpid(), *crew.pids])
    serve(lambda command: False, crew.report_deaths)
    return 0


class Swarm:
    """The clients: all that they do happens on the first worker's row."""

    def __init__(self, behaviour: str, spec: dict[str, Any]) -> None:
        self.behaviour, self.asked = behaviour, spec["connections"]
        scoreboard = Scoreboard.attach(spec["board_fd"])
        self.crew = Crew(scoreboard, spec["workers"], spec["board_row"], words.ROLE_SWARM)
        self.row = self.crew.rows[0]
        self.ramping = False
        emit("ready", pids=[os.getpid(), *self.crew.pids])

    def on_command(self, command: dict[str, Any]) -> bool:
        """Do what a phase asks for; True after the last."""
        name = command["cmd"]
        if self.behaviour == "deaf":
            return False
        self.ramping = name == "ramp"
        if name == "halt":
            emit("phase_ended", phase="ramp")
        elif name == "hold" and self.behaviour == "losing":
            self.row[words.OPEN] -= 1
            self.row[words.CLOSED] += 1
        elif name == "verify" and self.behaviour != "weary":
            if self.behaviour == "chatty":
                self.row[words.MESSAGES_FAILED], self.row[words.MESSAGES_UNASKED] = 3, self.row[words.OPEN]
            self.row[words.VERIFIED] = self.row[words.OPEN]
            emit("phase_ended", phase="verify")
        elif name == "drain":
            emit("phase_ended", phase="drain")
        return name == "drain"

    def on_tick(self) -> None:
        """Open connections while ramping."""
        self.crew.report_deaths()
        if self.behaviour == "weary" and not self.ramping:
            self.row[words.VERIFIED] += 1
        if not self.ramping or self.behaviour == "stuck":
            return
        failing = int(self.behaviour == "failing")
        count = 1 if self.behaviour == "slow" else self.asked - failing
        self.row[words.OPEN] += count
        self.row[words.OPENED] += count
        if failing:
            self.row[words.FAILED] += 1
            words.count_failure(self.row, words.FAILURE_PHASES.index("connect"), errno.EADDRNOTAVAIL)
        if self.row[words.OPENED] + self.row[words.FAILED] >= self.asked:
            self.ramping = False
            emit("phase_ended", phase="ramp")


def swarm(behaviour: str, spec: dict[str, Any]) -> int:
    """Be a swarm."""
    swarm = Swarm(behaviour, spec)
    serve(swarm.on_command, swarm.on_tick)
    return 0


def recorder(behaviour: str, spec: dict[str, Any]) -> int:
    """Be a recorder that knows the time, the phase and the connections."""
    scoreboard = Scoreboard.attach(spec["board_fd"])
    run_dir = Path(spec["run_dir"])
    (run_dir / "latency.csv").write_text(",".join(header(LATENCY_COLUMNS)) + "\n", encoding="utf-8")
    with open(run_dir / "samples.csv", "w", encoding="utf-8", buffering=1) as file:
        file.write(",".join(header()) + "\n")

        def record() -> None:
            elapsed = round(time.monotonic() - spec["epoch_monotonic"], 6)
            count = scoreboard.total(words.OPEN, words.ROLE_SWARM)
            sample = {"elapsed_seconds": elapsed, "phase": scoreboard.phase, "swarm_connections_open": count}
            file.write(",".join(to_cells(sample, SAMPLE_COLUMNS)) + "\n")
            emit("sample", **sample)

        record()
        serve(lambda command: False, lambda: None)
        record()
    return 0


if __name__ == "__main__":
    sys.exit(
        {"server": server, "swarm": swarm, "recorder": recorder}[sys.argv[1]](sys.argv[2], json.loads(sys.argv[3]))
    )
