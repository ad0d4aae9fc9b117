"""The recorder as the supervisor runs it: a process with a scoreboard, a lifeline and a pipe."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wslab.core.histogram import bucket_of, bucket_seconds
from wslab.core.records import DECISIVE_COLUMNS, LATENCY_COLUMNS, SAMPLE_COLUMNS, header
from wslab.load import scoreboard as words
from wslab.load.recorder import next_due
from wslab.load.scoreboard import Scoreboard

INTERVAL = 0.2
DEADLINE_SECONDS = 20.0


class Recording:
    """A running recorder on a scoreboard with one server row and one swarm row, whose processes sleep."""

    def __init__(self, run_dir: Path, interval: float) -> None:
        self.run_dir = run_dir
        self.scoreboard = Scoreboard.create(2)
        self.firewalls: list[dict[str, Any]] = []
        self.counters: list[dict[str, Any]] = []
        self.neighbours: list[dict[str, Any]] = []
        self.sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
        for index, role in enumerate((words.ROLE_SERVER, words.ROLE_SWARM)):
            row = self.scoreboard.row(index)
            row[words.PID], row[words.ROLE] = self.sleepers[index].pid, role
        self.epoch = time.monotonic()
        spec = {
            "run_dir": str(run_dir),
            "board_fd": self.scoreboard.fd,
            "epoch_monotonic": self.epoch,
            "interval_seconds": interval,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wslab.load.recorder", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self.scoreboard.fd],
            text=True,
        )

    def next(self) -> dict[str, Any]:
        """Return the next sample that is told on stdout."""
        while True:
            line = self.process.stdout.readline()
            assert line, "the recorder ended"
            told = json.loads(line)
            if told["event"] == "sample":
                return told
            self._keep(told)

    def _keep(self, told: dict[str, Any]) -> None:
        lists = {"firewall": self.firewalls, "counters": self.counters, "neighbours": self.neighbours}
        lists[told["event"]].append(told)

    def until_counters(self, count: int) -> None:
        """Wait until the decisive counters were told so often."""
        while len(self.counters) < count:
            line = self.process.stdout.readline()
            assert line, "the recorder ended"
            told = json.loads(line)
            assert told["event"] != "sample"
            self._keep(told)

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first sample from now on that is as wanted."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            sample = self.next()
            if wanted(sample):
                return sample
        raise AssertionError("no such sample")

    def end(self) -> int:
        """Let go of the lifeline and return the exit code."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
        return self.process.wait(DEADLINE_SECONDS)

    def rows(self, name: str = "samples.csv") -> list[dict[str, str]]:
        """Return what is on the disk."""
        with open(self.run_dir / name, newline="") as file:
            return list(csv.DictReader(file))

    def close(self) -> None:
        for child in (self.process, *self.sleepers):
            child.kill()
            child.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        os.close(self.scoreboard.fd)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Recording]]:
    started: list[Recording] = []

    def begin(interval: float = INTERVAL) -> Recording:
        started.append(Recording(tmp_path, interval))
        return started[-1]

    yield begin
    for recording in started:
        recording.close()


def test_the_due_times_are_multiples_of_the_interval_since_the_epoch() -> None:
    assert next_due(100.0, 100.0, 1.0) == 101.0
    assert next_due(102.3, 100.0, 1.0) == 103.0  # What was missed meanwhile is skipped.
    assert next_due(100.25, 100.0, 0.1) == pytest.approx(100.3)


def test_samples_keep_to_the_schedule_and_the_first_comes_at_once(start: Callable[..., Recording]) -> None:
    recording = start()
    first, *others = [recording.next()["elapsed_seconds"] for _ in range(5)]
    assert first < others[0]
    # Each comes at its own multiple of the interval or some time after it, and none before.
    numbers = [int(seconds / INTERVAL + 0.001) for seconds in others]
    assert numbers[0] > 0
    assert numbers == sorted(set(numbers))


def test_both_files_have_the_documented_columns_and_each_row_is_on_disk_when_it_is_told(
    start: Callable[..., Recording],
) -> None:
    recording = start()
    sample = recording.next()
    with open(recording.run_dir / "samples.csv") as file:
        assert file.readline().strip().split(",") == header(SAMPLE_COLUMNS)
    row = recording.rows()[0]
    assert float(row["elapsed_seconds"]) == sample["elapsed_seconds"]
    assert None not in row.values()
    assert sorted(set(sample) - {"event"}) == sorted(set(header(SAMPLE_COLUMNS)))
    with open(recording.run_dir / "latency.csv") as file:
        assert file.readline().strip().split(",") == header(LATENCY_COLUMNS)


def test_the_counters_of_both_ends_are_told(start: Callable[..., Recording]) -> None:
    recording = start()
    server, swarm = recording.scoreboard.row(0), recording.scoreboard.row(1)
    swarm[words.PENDING], swarm[words.VERIFIED], swarm[words.SENT] = 3, 5, 11
    server[words.AT_LIMIT], server[words.OPENED] = 1, 9
    server[words.OPEN] = 7  # Last, because a sample reads it first: whoever sees it sees all.
    sample = recording.until(lambda sample: sample["server_connections_open"] == 7)
    assert (sample["server_connections_open"], sample["server_connections_opened"]) == (7, 9)
    assert sample["server_shards_at_limit"] == 1
    assert sample["swarm_messages_sent"] == 11
    assert (sample["swarm_connections_pending"], sample["swarm_connections_verified"]) == (3, 5)
    assert (sample["server_processes"], sample["swarm_processes"]) == (1, 1)
    assert sample["server_rss_bytes"] > 0


def test_the_largest_lag_is_taken_once(start: Callable[..., Recording]) -> None:
    recording = start()
    recording.next()
    recording.scoreboard.row(1)[words.LAG_US] = 250_000
    recording.until(lambda sample: sample["swarm_lag_seconds_max"] == 0.25)
    assert recording.next()["swarm_lag_seconds_max"] == 0.0


def test_a_change_of_phase_is_sampled_at_once(start: Callable[..., Recording]) -> None:
    recording = start(interval=3600.0)
    assert recording.next()["phase"] == "start"
    for phase in ("ramp", "hold", "verify", "drain"):
        recording.scoreboard.phase = phase
        assert recording.next()["phase"] == phase


def test_pss_is_read_before_the_ramp_and_on_entering_hold_and_verify_only(start: Callable[..., Recording]) -> None:
    recording = start()
    samples = [recording.next(), recording.next()]
    for phase in ("ramp", "hold", "verify", "drain"):
        recording.scoreboard.phase = phase
        samples += [recording.until(lambda sample, phase=phase: sample["phase"] == phase), recording.next()]
    told = [(sample["phase"], sample["swarm_pss_bytes"] is not None) for sample in samples]
    assert told == [
        *[("start", True), ("start", False)],
        *[("ramp", False), ("ramp", False)],
        *[("hold", True), ("hold", False)],
        *[("verify", True), ("verify", False)],
        *[("drain", False), ("drain", False)],
    ]


def test_each_latency_is_written_once_in_its_bucket(start: Callable[..., Recording]) -> None:
    recording = start()
    recording.next()
    index = bucket_of(0.002)
    recording.scoreboard.row(1)[words.ROUNDTRIP + index] = 3
    recording.scoreboard.row(1)[words.HANDSHAKE + bucket_of(0.5)] = 1
    recording.scoreboard.row(1)[words.SENT] = 1
    recording.until(lambda sample: sample["swarm_messages_sent"] == 1)
    recording.next()
    recording.scoreboard.row(1)[words.ROUNDTRIP + index] = 5
    recording.end()
    rows = recording.rows("latency.csv")
    counts = [int(row["count"]) for row in rows if row["kind"] == "roundtrip"]
    assert counts == [3, 2]
    assert [row["kind"] for row in rows].count("handshake") == 1
    assert float(rows[-1]["bucket_seconds"]) == pytest.approx(bucket_seconds(index), rel=0.01)


def test_failures_of_a_new_kind_have_the_decisive_counters_read_at_once(start: Callable[..., Recording]) -> None:
    recording = start(interval=3600.0)
    recording.next()
    recording.scoreboard.row(0)[words.AT_LIMIT] = 1
    swarm = recording.scoreboard.row(1)
    for phase in ("ramp", "hold"):
        words.count_failure(swarm, 0, errno.EADDRNOTAVAIL)
        recording.until_counters(1)
        recording.scoreboard.phase = phase
        recording.next()
    words.count_failure(swarm, 0, errno.ETIMEDOUT)
    recording.until_counters(2)
    assert [one["event"] for one in recording.counters] == ["counters", "counters"]
    assert set(recording.counters[0]) == {"event", "elapsed_seconds", *DECISIVE_COLUMNS}
    assert recording.counters[0]["server_shards_at_limit"] == 1
    assert [row["phase"] for row in recording.rows()] == ["start", "ramp", "hold"]


def test_a_process_that_vanishes_is_skipped(start: Callable[..., Recording]) -> None:
    recording = start()
    recording.next()
    recording.sleepers[0].kill()
    recording.sleepers[0].wait()
    sample = recording.until(lambda sample: sample["server_processes"] == 0)
    assert sample["server_rss_bytes"] == 0
    assert sample["swarm_processes"] == 1


def test_the_end_of_stdin_ends_it_with_a_last_sample(start: Callable[..., Recording]) -> None:
    recording = start(interval=3600.0)
    recording.next()
    recording.scoreboard.row(0)[words.OPEN] = 23
    assert recording.end() == 0
    assert recording.next()["server_connections_open"] == 23
    assert [row["server_connections_open"] for row in recording.rows()] == ["0", "23"]


def test_an_interrupt_does_not_end_it(start: Callable[..., Recording]) -> None:
    recording = start()
    recording.next()
    recording.process.send_signal(signal.SIGINT)
    recording.next()
    recording.next()
    assert recording.end() == 0


def test_it_writes_on_when_nobody_listens(start: Callable[..., Recording]) -> None:
    recording = start(interval=3600.0)
    recording.next()
    recording.process.stdout.close()
    recording.scoreboard.phase = "ramp"
    assert recording.end() == 0
    assert recording.rows()[-1]["phase"] == "ramp"


def test_a_server_whose_port_is_known_is_seen_from_outside(start: Callable[..., Recording]) -> None:
    recording = start()
    assert recording.next()["server_listeners"] is None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        recording.scoreboard.port = listener.getsockname()[1]
        with socket.create_connection(listener.getsockname()):
            seen = recording.until(
                lambda sample: sample["server_listeners"] == 1 and sample["server_accept_queue"] == 1
            )
    assert seen["server_accept_queue"] == 1
    assert recording.until(lambda sample: sample["server_listeners"] == 0)


def test_the_rules_of_the_firewall_are_told_before_and_after(start: Callable[..., Recording]) -> None:
    recording = start()
    recording.until(lambda sample: bool(recording.firewalls))
    recording.scoreboard.phase = "drain"
    recording.until(lambda sample: len(recording.firewalls) == 2)
    assert all(told["rules"] is None or isinstance(told["rules"], list) for told in recording.firewalls)
    assert recording.end() == 0


def test_who_else_used_cpu_is_told_when_a_phase_ends(start: Callable[..., Recording]) -> None:
    recording = start()
    # Its parent has ended, so it is nobody's here: what the tests themselves start is below the "supervisor".
    started = subprocess.run(["sh", "-c", "yes >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True, check=True)
    busy = int(started.stdout)
    try:
        recording.scoreboard.phase = "ramp"
        recording.until(lambda sample: sample["phase"] == "ramp")
        at = recording.next()["elapsed_seconds"]
        recording.until(lambda sample: sample["elapsed_seconds"] > at + 0.5)
        recording.scoreboard.phase = "drain"
        recording.until(lambda sample: sample["phase"] == "drain")
        recording.until(lambda _: recording.neighbours)
    finally:
        os.kill(busy, signal.SIGKILL)
    (told,) = recording.neighbours
    assert told["phase"] == "ramp"
    (yes,) = [one for one in told["processes"] if one["pid"] == busy]
    assert yes["name"] == "yes"
    assert yes["cores"] > 0.05
    assert yes["cpu_seconds"] <= told["seconds"] + 0.1
    ours = {os.getpid(), recording.process.pid, *(sleeper.pid for sleeper in recording.sleepers)}
    assert not ours & {one["pid"] for one in told["processes"]}


def test_a_process_that_is_stopped_is_counted(start: Callable[..., Recording]) -> None:
    recording = start()
    assert recording.next()["server_processes_stopped"] == 0
    recording.sleepers[0].send_signal(signal.SIGSTOP)
    assert recording.until(lambda sample: sample["server_processes_stopped"] == 1)["swarm_processes_stopped"] == 0


def test_it_imports_no_pandas_and_no_logging() -> None:
    code = "import sys, wslab.load.recorder; print({'pandas', 'numpy', 'logging', 'asyncio'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert shown == "set()"
