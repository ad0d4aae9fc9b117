"""The supervisor with stand-ins for its children: every phase ends, every death is told, and nothing is left behind."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventually import eventually
from fake_load import command, commands
from wslab.machine.process import alive, start_ticks

Event = dict[str, Any]


class Caller:
    """A caller: starts a supervisor, speaks to it and remembers what it said and whom it started."""

    def __init__(self, run_dir: Path, project_root: Path) -> None:
        self.run_dir = run_dir
        self.heard: list[Event] = []
        self.started: dict[int, int] = {}
        self._rest = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wslab.load.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=run_dir,
            env={**os.environ, "PYTHONPATH": str(project_root)},
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self.stdout, selectors.EVENT_READ)

    def send(self, cmd: str, **fields: Any) -> None:
        self.stdin.write(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")

    def start(self, own: dict[str, list[str]], wait: bool = True, **fields: Any) -> None:
        """Send `start` for two shards, two workers and 20 connections."""
        sizes = {"server": {"shards": 2}, "swarm": {"workers": 2, "connections": 20}, "recorder": {}}
        specs = {role: {**size, "command": own[role]} for role, size in sizes.items()}
        self.send("start", **{"run_dir": str(self.run_dir), "memory_reserve_bytes": 0, **specs, **fields})
        if wait:
            self.wait("started")

    def wait(self, name: str, seconds: float = 10.0, **fields: Any) -> Event:
        """Read on until an event; fail when it does not come in time."""
        deadline = time.monotonic() + seconds
        while True:
            for event in self._read(deadline - time.monotonic()):
                if event["event"] == name and fields.items() <= event.items():
                    return event

    def phase(self, name: str, **fields: Any) -> Event:
        """Conduct a phase to its end."""
        self.send(name)
        return self.wait("phase_ended", phase=name, **fields)

    def pids(self, role: str) -> list[int]:
        """Return master and crew of a role."""
        ready = [event for event in self.heard if event["event"] == "processes_ready" and event["role"] == role]
        return list(ready[0]["pids"])

    def recorded(self) -> list[Event]:
        return [json.loads(line) for line in (self.run_dir / "events.jsonl").read_text("utf-8").splitlines()]

    def left(self) -> list[int]:
        return [pid for pid, ticks in self.started.items() if alive(pid, ticks)]

    def ended(self) -> int:
        """Return the exit status; everything it said until then has been read."""
        self.wait("stopped")
        return self.process.wait(5.0)

    def close(self) -> None:
        self.stdin.close()
        try:
            self.process.wait(10.0)
        finally:
            self.process.kill()
            self._selector.close()
            self.stdout.close()

    def _read(self, seconds: float) -> Iterator[Event]:
        """Yield what has come, one at a time, so that nothing behind the awaited event is swallowed."""
        while b"\n" not in self._rest:
            assert seconds > 0, f"nothing more after {self.heard[-3:]}"
            assert self._selector.select(seconds), f"nothing more after {self.heard[-3:]}"
            data = self.stdout.read(65536)
            assert data, f"the supervisor ended after {self.heard[-3:]}"
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        event = json.loads(line)
        self.heard.append(event)
        for pid in event.get("pids", []):
            self.started[pid] = start_ticks(pid) or -1
        yield event


@pytest.fixture
def caller(tmp_path: Path, project_root: Path) -> Iterator[Caller]:
    caller = Caller(tmp_path, project_root)
    yield caller
    caller.close()
    assert eventually(lambda: not caller.left())


def forked_by(pid: int, count: int) -> list[int]:
    """Return the children of a process once there are so many."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
    return [int(pid) for pid in pids] if len(pids) == count else []


def told(events: list[Event], *names: str) -> list[Event]:
    return [event for event in events if event["event"] in names]


def test_a_run_goes_through_its_phases_and_says_so_on_stdout_and_on_disk(caller: Caller) -> None:
    caller.start(commands())
    ends = {name: caller.phase(name) for name in ("ramp",)}
    caller.send("hold")
    caller.send("verify")
    ends |= {name: caller.wait("phase_ended", phase=name) for name in ("hold", "verify")}
    ends["drain"] = caller.phase("drain")
    caller.send("stop")
    assert caller.ended() == 0
    assert [end["stopped_by"] for end in ends.values()] == [None] * 4
    assert ends["ramp"]["connections_open"] == ends["verify"]["connections_verified"] == 20
    assert caller.recorded() == [event for event in caller.heard if event["event"] not in ("sample", "progress")]
    times = [event["elapsed_seconds"] for event in caller.recorded()]
    assert times == sorted(times)
    assert all(event["expected"] for event in told(caller.heard, "process_exited"))
    assert not caller.left()


def test_the_load_starts_after_the_first_sample_and_the_swarm_gets_the_servers_url(caller: Caller) -> None:
    caller.start(commands())
    names = [(event["event"], event.get("role")) for event in caller.heard]
    assert names[:4] == [
        ("process_started", "recorder"),
        ("sample", None),
        ("processes_ready", "recorder"),
        ("process_started", "server"),
    ]
    assert names[4:] == [
        ("processes_ready", "server"),
        ("process_started", "swarm"),
        ("processes_ready", "swarm"),
        ("started", None),
    ]
    swarm = caller.pids("swarm")[0]
    spec = json.loads(Path(f"/proc/{swarm}/cmdline").read_text("utf-8").split("\0")[-2])
    assert (spec["url"], spec["board_row"]) == ("ws://127.0.0.1:9", 3)


def test_a_server_alone_follows_the_phases_of_its_caller_until_it_dies(caller: Caller) -> None:
    epoch = time.monotonic() - 100.0
    nobody = {"workers": 0, "connections": 0}
    caller.start({**commands(), "swarm": []}, swarm=nobody, epoch_monotonic=epoch)
    assert [event["role"] for event in told(caller.heard, "processes_ready")] == ["recorder", "server"]
    caller.send("ramp")
    caller.wait("phase_started", phase="ramp")
    caller.send("halt", stopped_by="host_died")
    end = caller.wait("phase_ended", phase="ramp")
    assert end["stopped_by"] == "host_died"
    assert 100.0 < end["elapsed_seconds"] < 130.0
    caller.send("hold")
    caller.wait("phase_started", phase="hold")
    os.kill(caller.pids("server")[0], signal.SIGKILL)
    assert caller.wait("phase_ended", phase="hold")["stopped_by"] == "server_died"
    assert caller.phase("verify")["stopped_by"] == "server_died"


def test_children_hold_no_lifeline_of_a_sibling(caller: Caller) -> None:
    caller.start(commands())
    supervisor = os.stat(f"/proc/{caller.process.pid}/fd/0").st_ino
    own = {role: os.stat(f"/proc/{caller.pids(role)[0]}/fd/0").st_ino for role in ("recorder", "server", "swarm")}
    for role in own:
        folder = f"/proc/{caller.pids(role)[0]}/fd"
        held = {os.stat(f"{folder}/{fd}").st_ino for fd in os.listdir(folder) if fd not in ("0", "1", "2")}
        assert held.isdisjoint({supervisor, *own.values()})


def test_progress_is_told_for_live_views_and_not_recorded(caller: Caller) -> None:
    caller.start(commands(swarm="slow"))
    caller.phase("ramp")
    figures = told(caller.heard, "progress")
    assert figures
    assert {"phase", "connections_open", "connections_failed", "messages_received", "headroom_bytes"} <= figures[
        0
    ].keys()
    assert not told(caller.recorded(), "progress", "sample")


@pytest.mark.parametrize(("role", "which"), [("server", 1), ("server", 0), ("swarm", 0), ("swarm", 1), ("recorder", 0)])
def test_a_process_that_is_killed_ends_the_ramp(caller: Caller, role: str, which: int) -> None:
    caller.start(
        commands(swarm="slow"), swarm={"workers": 2, "connections": 10**6, "command": command("swarm", "slow")}
    )
    caller.send("ramp")
    caller.wait("progress")
    victim = caller.pids(role)[which]
    os.kill(victim, signal.SIGKILL)
    exited = caller.wait("process_exited", pid=victim)
    assert (exited["role"], exited["signal"], exited["expected"]) == (role, signal.SIGKILL, False)
    assert caller.wait("phase_ended", phase="ramp")["stopped_by"] == f"{role}_died"
    assert caller.phase("verify")["stopped_by"] == f"{role}_died"
    caller.phase("drain")


@pytest.mark.parametrize("phase", ["hold", "verify"])
def test_a_server_that_dies_ends_the_phase_also_when_the_swarm_says_nothing(caller: Caller, phase: str) -> None:
    caller.start(commands(swarm="deaf"))
    caller.send(phase)
    caller.wait("phase_started", phase=phase)
    os.kill(caller.pids("server")[0], signal.SIGKILL)
    assert caller.wait("phase_ended", phase=phase)["stopped_by"] == "server_died"


@pytest.mark.parametrize("phase", ["ramp", "verify"])
def test_a_phase_in_which_nothing_moves_is_cut_short(caller: Caller, phase: str) -> None:
    behaviour = {"ramp": "stuck", "verify": "deaf"}[phase]
    caller.start(commands(swarm=behaviour), no_progress_seconds=0.3)
    assert caller.phase(phase)["stopped_by"] == "no_progress"


def test_a_ramp_that_only_creeps_is_cut_short_and_keeps_what_is_open(caller: Caller) -> None:
    swarm = {"workers": 2, "connections": 10**6, "command": command("swarm", "slow")}
    caller.start(commands(swarm="slow"), swarm=swarm, no_progress_seconds=0.5)
    ended = caller.phase("ramp")
    assert ended["stopped_by"] == "no_progress"
    assert 0 < ended["connections_open"] < 10**4


def test_verifying_that_would_take_hours_is_cut_short(caller: Caller) -> None:
    swarm = {"workers": 2, "connections": 10**6, "command": command("swarm", "weary")}
    caller.start(commands(swarm="weary"), swarm=swarm, no_progress_seconds=0.5)
    caller.phase("ramp")
    assert caller.phase("verify")["stopped_by"] == "no_progress"


def test_a_reserve_of_memory_that_is_reached_halts_the_ramp_and_later_stops_everything(caller: Caller) -> None:
    reserve = 1 << 60
    caller.start(commands(swarm="slow"), memory_reserve_bytes=reserve)
    caller.send("ramp")
    reached = caller.wait("memory_reserve_reached")
    assert reached["reserve_bytes"] == reserve
    assert reached["headroom_bytes"] < reserve
    assert caller.wait("phase_ended", phase="ramp")["stopped_by"] == "memory_reserve"
    caller.send("hold")
    assert caller.wait("phase_ended", phase="hold")["stopped_by"] == "memory_reserve"
    assert caller.ended() == 0


def test_what_failed_is_told_by_its_name_at_the_end_of_a_phase(caller: Caller) -> None:
    caller.start(commands(swarm="failing"))
    end = caller.phase("ramp")
    assert end["connections_failed"] == 1
    (row,) = told(caller.heard, "failures")[0]["table"]
    began = told(caller.heard, "phase_started")[0]["elapsed_seconds"]
    assert began <= row.pop("first_seconds") <= end["elapsed_seconds"]
    assert row == {"phase": "connect", "errno": 99, "name": "EADDRNOTAVAIL", "count": 1}


def test_messages_that_failed_and_that_nobody_asked_for_are_told_at_the_end_of_a_phase(caller: Caller) -> None:
    caller.start(commands(swarm="chatty"))
    caller.phase("ramp")
    end = caller.phase("verify")
    assert (end["messages_failed"], end["messages_unasked"]) == (3, 20)


@pytest.mark.parametrize("how", ["end of file", "killed supervisor"])
def test_nothing_outlives_the_caller(caller: Caller, how: str) -> None:
    caller.start(commands(swarm="slow"))
    caller.send("ramp")
    caller.wait("phase_started")
    if how == "end of file":
        caller.stdin.close()
        eventually(lambda: caller.process.poll() is not None, 5.0)
        assert told(caller.recorded(), "caller_gone")
        assert told(caller.recorded(), "phase_ended")[-1]["stopped_by"] == "caller_gone"
    else:
        caller.process.kill()
    eventually(lambda: not caller.left(), 5.0)


@pytest.mark.parametrize("roles", [["server"], ["server", "swarm", "recorder"]])
def test_stopped_processes_are_ended_as_well_within_five_seconds(caller: Caller, roles: list[str]) -> None:
    caller.start(commands())
    for role in roles:
        for pid in caller.pids(role)[-2:]:
            os.kill(pid, signal.SIGSTOP)
    caller.stdin.close()
    eventually(lambda: caller.process.poll() is not None and not caller.left(), 5.0)


def test_processes_that_were_never_announced_are_ended_as_well(caller: Caller) -> None:
    caller.start(commands(server="mute"), wait=False)
    master = caller.wait("process_started", role="server")["pid"]
    shards = eventually(lambda: forked_by(master, 2))
    caller.started |= {pid: start_ticks(pid) or -1 for pid in (master, *shards)}
    assert len(caller.left()) == 4
    for pid in (master, *shards):
        os.kill(pid, signal.SIGSTOP)
    caller.stdin.close()
    eventually(lambda: not caller.left(), 5.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_interrupt_is_not_ours_and_a_termination_is_a_stop(caller: Caller, number: signal.Signals) -> None:
    caller.start(commands())
    caller.process.send_signal(signal.SIGINT)
    assert caller.phase("ramp")["connections_open"] == 20
    caller.process.send_signal(number)
    assert caller.ended() == 0


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("refusing", "Permission denied"),
        ("leaving", "a process of the server ended before all were ready (exit code 1)"),
    ],
)
def test_a_server_that_cannot_start_is_an_error_and_everything_stops(
    caller: Caller, behaviour: str, message: str
) -> None:
    caller.start(commands(server=behaviour), wait=False)
    assert message in caller.wait("error")["message"]
    assert caller.ended() == 1
    assert len(told(caller.heard, "error")) == 1


def test_a_program_that_is_not_there_is_an_error(caller: Caller) -> None:
    caller.start(commands() | {"swarm": ["/no/such/program"]}, wait=False)
    assert caller.wait("error")["message"] == "the swarm cannot be started: No such file or directory"
    assert caller.ended() == 1


@pytest.mark.parametrize("cmd", ["ramp", "dance"])
def test_a_command_out_of_turn_is_an_error(caller: Caller, cmd: str) -> None:
    caller.send(cmd)
    assert caller.wait("error")["message"] == f"command {cmd} is not expected now"
    assert caller.ended() == 1


def test_a_caller_that_does_not_read_does_not_keep_the_run_from_being_stopped(caller: Caller) -> None:
    caller.start(commands())
    for _ in range(3000):  # More than a pipe takes.
        caller.send("hold")
    caller.stdin.close()
    eventually(lambda: not caller.left(), 8.0)
    assert told(caller.recorded(), "caller_gone")
