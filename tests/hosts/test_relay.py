"""The relay on a host, with a supervisor that is made up: what it hands over, and that it stops when nobody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventually import eventually
from wslab.hosts import relay
from wslab.hosts.relay import Relay
from wslab.lab.fleet import FleetEnded


class FakeFleet:
    """A supervisor that says what a test has it say."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.events: list[dict[str, Any]] = []
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.ended = ""
        self.stopped = threading.Event()

    def __enter__(self) -> FakeFleet:
        return self

    def send(self, name: str, **fields: Any) -> None:
        self.sent.append((name, fields))

    def next_event(self, seconds: float) -> dict[str, Any] | None:
        if not self.events and self.ended:
            raise FleetEnded(self.ended)
        return self.events.pop(0) if self.events else None

    def stop(self) -> None:
        self.ended = "the fleet is not running"
        self.stopped.set()


@pytest.fixture
def fleets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeFleet]]:
    made: list[FakeFleet] = []

    def make(run_dir: Path) -> FakeFleet:
        made.append(FakeFleet(run_dir))
        return made[-1]

    monkeypatch.setattr(relay, "Fleet", make)
    monkeypatch.setattr(relay, "WATCH_SECONDS", 0.01)
    yield made
    assert all(fleet.stopped.wait(5.0) for fleet in made)
    eventually(lambda: "wslab-lease" not in {thread.name for thread in threading.enumerate()})


def test_everything_stops_and_nothing_stays_when_nobody_asks_any_more(tmp_path: Path, fleets: list[FakeFleet]) -> None:
    Relay(str(tmp_path), "run", lease_seconds=0.05)
    assert fleets[0].stopped.wait(5.0)
    eventually(lambda: not list(tmp_path.iterdir()))


def test_events_and_whole_lines_are_handed_over_once(tmp_path: Path, fleets: list[FakeFleet]) -> None:
    there = Relay(str(tmp_path), "run")
    samples = fleets[0].run_dir / "samples.csv"
    samples.write_bytes(b"head\none\ntw")
    fleets[0].events = [{"event": "started"}]
    before = time.monotonic()
    news = there.poll()
    assert before <= news.pop("clock") <= time.monotonic()
    assert news == {"events": [{"event": "started"}], "files": {"samples.csv": b"head\none\n"}, "ended": ""}
    samples.write_bytes(b"head\none\ntwo\n")
    assert there.poll()["files"] == {"samples.csv": b"two\n"}
    samples.write_bytes(b"head\none\ntwo\nlast\n")
    assert there.stop()["files"] == {"samples.csv": b"last\n"}
    assert there.stop()["files"] == {}


def test_a_supervisor_that_has_ended_is_told_with_how_it_did(tmp_path: Path, fleets: list[FakeFleet]) -> None:
    there = Relay(str(tmp_path), "run")
    fleets[0].ended = "the supervisor ended (signal SIGKILL)"
    assert there.poll()["ended"] == "the supervisor ended (signal SIGKILL)"
    there.stop()


def test_a_start_gets_a_folder_of_this_host_and_nothing_is_sent_after_the_end(
    tmp_path: Path, fleets: list[FakeFleet]
) -> None:
    there = Relay(str(tmp_path), "run")
    there.command("start", {"server": None}, at=there.clock() + 0.01)
    there.stop()
    there.command("ramp", {})
    assert fleets[0].sent == [("start", {"server": None, "run_dir": str(fleets[0].run_dir)})]
    assert fleets[0].run_dir.name == "run"
