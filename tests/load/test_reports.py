"""Reports: recorded before they are told, and never waiting for who should listen."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wslab.load.messages import WAITING_BYTES_MAX, Reports


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass  # The test has closed it.


def test_an_event_is_told_and_recorded_and_a_figure_is_only_told(pipe: tuple[int, int], tmp_path: Path) -> None:
    reports = Reports(pipe[1], time.monotonic())
    reports.open_file(tmp_path / "events.jsonl")
    reports.event("phase_started", phase="ramp")
    reports.figure("progress", connections_open=3)
    reports.close()
    told = [json.loads(line) for line in os.read(pipe[0], 65536).splitlines()]
    assert [event["event"] for event in told] == ["phase_started", "progress"]
    assert told[0]["elapsed_seconds"] >= 0
    assert [json.loads(line) for line in (tmp_path / "events.jsonl").read_text("utf-8").splitlines()] == told[:1]


def test_a_time_that_is_given_is_kept(pipe: tuple[int, int]) -> None:
    Reports(pipe[1], 0.0).figure("sample", elapsed_seconds=1.5)
    assert json.loads(os.read(pipe[0], 65536)) == {"elapsed_seconds": 1.5, "event": "sample"}


def test_for_who_does_not_read_figures_are_dropped_and_events_are_kept(pipe: tuple[int, int]) -> None:
    reports = Reports(pipe[1], time.monotonic())
    for _ in range(WAITING_BYTES_MAX // 500):
        reports.figure("sample", filler="x" * 1000)
    reports.event("stopped")
    os.set_blocking(pipe[0], False)
    heard = b""
    while not reports.flush():
        heard += os.read(pipe[0], 1 << 20)
    heard += os.read(pipe[0], 1 << 20)
    events = [json.loads(line)["event"] for line in heard.splitlines()]
    assert events[-1] == "stopped"
    assert WAITING_BYTES_MAX / 2000 < len(events) < WAITING_BYTES_MAX / 500


def test_a_listener_that_is_gone_does_not_keep_an_event_from_the_disk(pipe: tuple[int, int], tmp_path: Path) -> None:
    os.close(pipe[0])
    reports = Reports(pipe[1], time.monotonic())
    reports.open_file(tmp_path / "events.jsonl")
    reports.event("caller_gone")
    reports.event("stopped")
    reports.close()
    assert len((tmp_path / "events.jsonl").read_text("utf-8").splitlines()) == 2
