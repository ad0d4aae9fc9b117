"""The supervisors of several hosts as one, with hosts that are made up: order, sums, and what a lost host does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from wslab.core.host import Host
from wslab.core.records import SAMPLE_COLUMNS, header
from wslab.core.stage import Stage
from wslab.hosts.fleet import HostGone, HostsFleet
from wslab.hosts.placing import Candidate, Placing, divide
from wslab.lab import store
from wslab.lab.experiment import start_command

STAGE = Stage.of(connections="20")
OPEN = {"connections_open": 10, "connections_closed": 0, "messages_sent": 1}


class FakeLink:
    """A host that says what a test has it say."""

    def __init__(self, name: str, offset_seconds: float = 0.0) -> None:
        self.name, self.offset_seconds, self.uncertainty_seconds, self.moved_seconds = name, offset_seconds, 0.001, 0.0
        self.commands: list[tuple[str, Mapping[str, Any], float | None]] = []
        self.events: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.gone = ""
        self.ended = ""

    def command(self, name: str, fields: Mapping[str, Any], at: float | None = None) -> None:
        self.commands.append((name, fields, at))

    def poll(self) -> dict[str, Any] | None:
        if self.gone:
            raise HostGone(self.gone)
        events, self.events = self.events, []
        files, self.files = self.files, {}
        return {"events": events, "files": files, "ended": self.ended}

    def stop(self) -> None:
        self.commands.append(("stop", {}, None))

    def stopped(self, seconds: float) -> dict[str, Any]:
        return {"files": self.files}

    def says(self, name: str, **fields: Any) -> None:
        self.events.append({"elapsed_seconds": 1.0, "event": name, **fields})

    @property
    def told(self) -> list[str]:
        """The names of the commands that came."""
        return [name for name, _, _ in self.commands]


def placed() -> Placing:
    hosts = [Candidate(name=name, worker=name, ip="10.0.0.1", host=Host()) for name in ("s", "a", "b")]
    return divide(STAGE, hosts[0], hosts[1:])


class Rig:
    """A fleet of a server's host `s` and the swarm's hosts `a` and `b`."""

    def __init__(self, run_dir: Path) -> None:
        self.s, self.a, self.b = FakeLink("s"), FakeLink("a", offset_seconds=100.0), FakeLink("b")
        self.fleet = HostsFleet(run_dir, placed(), self.s, [self.a, self.b])

    def events(self) -> list[dict[str, Any]]:
        """Return what the fleet has to say by now."""
        found = []
        while (event := self.fleet.next_event(0.0)) is not None:
            found.append(event)
        return found

    def names(self) -> list[str]:
        return [event["event"] for event in self.events()]

    def start(self) -> None:
        self.fleet.send("start", run_dir="/elsewhere", **start_command(STAGE, placed().plan))
        self.s.says("processes_ready", role="server", pids=[1], url="ws://10.0.0.1:9")
        self.s.says("started")
        self.events()
        self.a.says("started")
        self.b.says("started")
        assert self.names() == ["started"]

    def phase(self, name: str, **ends: Any) -> None:
        """Have both hosts of the swarm run a phase."""
        self.fleet.send(name)
        for link in (self.a, self.b):
            link.says("phase_started", phase=name)
            link.says("phase_ended", phase=name, stopped_by=None, **OPEN, **ends)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    with rig.fleet:
        yield rig


def test_the_swarm_starts_when_the_server_accepts_and_knows_its_address(rig: Rig) -> None:
    rig.fleet.send("start", run_dir="/elsewhere", **start_command(STAGE, placed().plan))
    assert (rig.s.told, rig.a.told, rig.b.told) == (["start"], [], [])
    rig.s.says("processes_ready", role="server", pids=[1], url="ws://10.0.0.1:9")
    rig.s.says("started")
    assert rig.names() == ["processes_ready"]
    assert rig.a.commands[0][1]["swarm"]["url"] == "ws://10.0.0.1:9"
    assert "run_dir" not in rig.a.commands[0][1]
    epochs = [link.commands[0][1]["epoch_monotonic"] for link in (rig.s, rig.a)]
    assert epochs[1] - epochs[0] == pytest.approx(100.0)


def test_a_phase_begins_everywhere_at_one_moment_and_its_counts_are_sums(rig: Rig) -> None:
    rig.start()
    rig.phase("ramp")
    assert len({at for link in (rig.s, rig.a, rig.b) for name, _, at in link.commands if name == "ramp"}) == 1
    started, ended = rig.events()
    assert (started["event"], started["phase"]) == ("phase_started", "ramp")
    assert (ended["event"], ended["connections_open"], ended["stopped_by"]) == ("phase_ended", 20, None)
    assert ended["elapsed_seconds"] == pytest.approx(1.0)


def test_a_phase_is_not_over_before_the_slowest_host_has_ended_it(rig: Rig) -> None:
    rig.start()
    rig.fleet.send("ramp")
    rig.a.says("phase_ended", phase="ramp", stopped_by=None, **OPEN)
    assert rig.names() == ["phase_started"]
    rig.b.says("phase_ended", phase="ramp", stopped_by="memory_reserve", **OPEN)
    (ended,) = rig.events()
    assert ended["stopped_by"] == "memory_reserve"


def test_a_hold_ends_when_the_next_phase_begins(rig: Rig) -> None:
    rig.start()
    rig.phase("ramp")
    rig.fleet.send("hold")
    rig.fleet.send("verify")
    phases = [(event["event"], event["phase"]) for event in rig.events()]
    assert phases[2:] == [("phase_started", "hold"), ("phase_ended", "hold"), ("phase_started", "verify")]


def test_a_host_lost_in_a_hold_ends_it_on_the_others_and_the_rest_drains(rig: Rig) -> None:
    rig.start()
    rig.phase("ramp")
    rig.events()
    rig.fleet.send("hold")
    rig.b.gone = "its Dask worker is gone"
    names = {event["event"]: event for event in rig.events()}
    assert (names["host_lost"]["host"], names["host_lost"]["host_connections_open"]) == ("b", 10)
    assert rig.a.commands[-1][:2] == ("halt", {"stopped_by": "host_died"})
    rig.a.says("phase_ended", phase="hold", stopped_by="host_died", **OPEN)
    (ended,) = rig.events()
    assert (ended["phase"], ended["stopped_by"]) == ("hold", "host_died")
    assert (ended["connections_open"], ended["connections_closed"]) == (10, 10)
    rig.fleet.send("drain")
    rig.a.says("phase_ended", phase="drain", stopped_by=None, **OPEN)
    assert rig.names() == ["phase_started", "phase_ended"]
    assert "drain" not in rig.b.told


def test_a_clock_that_moves_during_a_run_is_told_once_and_the_run_goes_on(rig: Rig) -> None:
    rig.start()
    rig.phase("ramp")
    rig.b.moved_seconds = 0.04  # No sample is off by as much as one may be late.
    assert "clock_moved" not in rig.names()
    rig.b.moved_seconds = -2.5004
    told = [event for event in rig.events() if event["event"] == "clock_moved"]
    assert [(event["host"], event["moved_seconds"]) for event in told] == [("b", -2.5)]
    rig.b.moved_seconds = -3.0
    assert rig.names() == []
    rig.phase("hold")
    assert "phase_started" in rig.names()


def test_the_end_of_the_servers_phase_halts_the_swarm(rig: Rig) -> None:
    rig.start()
    rig.fleet.send("ramp")
    rig.s.says("phase_ended", phase="ramp", stopped_by="server_died")
    rig.events()
    assert rig.a.commands[-1][:2] == rig.b.commands[-1][:2] == ("halt", {"stopped_by": "server_died"})


def test_a_host_lost_before_the_load_is_an_error_that_ends_the_run(rig: Rig) -> None:
    rig.fleet.send("start", run_dir="/elsewhere", **start_command(STAGE, placed().plan))
    rig.s.ended = "the supervisor ended (signal SIGKILL)"
    assert rig.names() == ["host_lost", "error", "stopped"]


def test_a_supervisor_that_says_why_it_stops_is_no_lost_host(rig: Rig) -> None:
    rig.start()
    rig.a.says("error", message="the disk is full")
    rig.a.says("stopped")
    assert rig.names() == ["error", "stopped"]


def test_samples_of_the_whole_are_on_the_disk_as_they_come(rig: Rig) -> None:
    rig.start()
    rig.a.says("sample", phase="hold", swarm_connections_open=3)
    rig.s.says("sample", phase="hold", server_connections_open=3)
    rig.events()
    rig.a.says("sample", phase="hold", swarm_connections_open=4)
    rig.s.says("sample", phase="hold", server_connections_open=4)
    rig.events()
    rows = store.read_samples(rig.fleet.run_dir)
    assert [(row["server_connections_open"], row["swarm_connections_open"]) for row in rows] == [(3, None), (4, 3)]


def test_a_sample_of_the_whole_has_what_was_counted_since_those_of_the_hosts(rig: Rig) -> None:
    def open_now() -> int:
        rig.s.says("sample", phase="ramp")
        (sample,) = [event for event in rig.events() if event["event"] == "sample"]
        opened: int = sample["swarm_connections_open"]
        return opened

    rig.start()
    rig.fleet.send("ramp")
    rig.a.says("sample", phase="ramp", swarm_connections_open=3)
    rig.b.says("sample", phase="ramp", swarm_connections_open=3)
    rig.events()
    assert open_now() == 6
    rig.a.events.append({"event": "progress", "elapsed_seconds": 1.1, **OPEN})
    rig.events()
    assert open_now() == 13
    rig.a.events.append({"event": "sample", "elapsed_seconds": 2.0, "phase": "hold", "swarm_connections_open": 9})
    rig.events()
    assert open_now() == 12
    rig.b.gone = "its Dask worker is gone"
    rig.events()
    assert open_now() == 9


def test_files_are_kept_for_each_host_and_put_together_at_the_end(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    columns = header(SAMPLE_COLUMNS)

    def row(**cells: Any) -> bytes:
        return (",".join(str(cells.get(name, "")) for name in columns) + "\n").encode()

    head = (",".join(columns) + "\n").encode()
    with rig.fleet:
        rig.start()
        rig.s.files = {"samples.csv": head + row(elapsed_seconds=1.0, phase="hold")}
        for link, opened in ((rig.a, 3), (rig.b, 4)):
            link.files = {"samples.csv": head + row(elapsed_seconds=1.0, phase="hold", swarm_connections_open=opened)}
        rig.events()
        rig.b.files = {"logs/swarm.log": b"last words\n"}
    assert [one["swarm_connections_open"] for one in store.read_samples(tmp_path)] == [7]
    assert [one["swarm_connections_open"] for one in store.read_samples(tmp_path / "hosts" / "b")] == [4]
    assert (tmp_path / "hosts" / "b" / "logs" / "swarm.log").read_text("utf-8") == "last words\n"
    events = [json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text("utf-8").splitlines()]
    assert events[-1] == "stopped"
    assert all(link.told[-1] == "stop" for link in (rig.s, rig.a, rig.b))


def test_what_a_lost_host_held_is_not_open_any_more_in_the_samples_of_the_whole(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    columns = header(SAMPLE_COLUMNS)

    def rows(*seconds: float, **cells: Any) -> bytes:
        lines = [
            columns,
            *([str({**cells, "elapsed_seconds": at}.get(name, "")) for name in columns] for at in seconds),
        ]
        return "".join(",".join(line) + "\n" for line in lines).encode()

    with rig.fleet:
        rig.start()
        rig.phase("ramp")
        # Before and after the loss by more than a sample may be late.
        before, after = -1.0, 1000.0
        rig.s.files = {"samples.csv": rows(before, after, phase="hold")}
        for link in (rig.a, rig.b):
            link.files = {"samples.csv": rows(before, phase="hold", swarm_connections_open=10, swarm_messages_sent=5)}
        rig.events()
        rig.b.gone = "its Dask worker is gone"
        rig.events()
    found = store.read_samples(tmp_path)
    assert [(one["swarm_connections_open"], one["swarm_messages_sent"]) for one in found] == [(20, 10), (10, 10)]
