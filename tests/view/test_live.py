"""Live views: what a run's events come to, and how often and where it is shown."""

from __future__ import annotations

import io

import pytest

from wslab.view.live import Live, Progress, frame_html, live_view, plain_screen, terminal_screen


def fed(*events: dict) -> Progress:
    progress = Progress()
    for event in events:
        progress.take(event)
    return progress


CREATED = {"event": "run_created", "connections": 100_000}
RAMP = {"event": "phase_started", "phase": "ramp", "elapsed_seconds": 1.0}


def ramp(at: float, opened: int, **more: object) -> dict:
    return {"event": "progress", "phase": "ramp", "elapsed_seconds": at, "connections_open": opened, **more}


def test_rate_and_time_left_come_from_the_last_seconds() -> None:
    progress = fed(CREATED, RAMP, ramp(1, 0), ramp(2, 50_000), ramp(5, 60_000), ramp(6, 70_000))
    assert progress.rate == 10_000
    assert progress.seconds_left == 3


def test_a_line_has_count_rate_time_left_and_memory() -> None:
    progress = fed(CREATED, RAMP, ramp(1, 20_000), ramp(2, 40_000, headroom_bytes=20 << 30))
    assert progress.line == "ramp   40,000 of 100k open · 20k/s · 3 s left · 20 GiB memory left"


def test_samples_say_the_same_as_progress() -> None:
    sample = {"event": "sample", "phase": "ramp", "elapsed_seconds": 2.0, "swarm_connections_open": 7}
    progress = fed(CREATED, RAMP, {**sample, "swarm_connections_failed": 2, "memory_headroom_bytes": 1 << 30})
    assert (progress.open, progress.failed, progress.headroom_bytes) == (7, 2, 1 << 30)
    assert "2 failed" in progress.line


def test_while_verifying_the_rate_is_that_of_verified_connections() -> None:
    verify = {"event": "progress", "phase": "verify", "connections_open": 100_000}
    progress = fed(
        CREATED,
        {"event": "phase_started", "phase": "verify"},
        {**verify, "elapsed_seconds": 1.0, "connections_verified": 0},
        {**verify, "elapsed_seconds": 2.0, "connections_verified": 25_000},
    )
    assert (progress.rate, progress.seconds_left) == (25_000, 3)


def test_draining_does_not_take_back_what_was_reached() -> None:
    drain = {"event": "progress", "phase": "drain", "elapsed_seconds": 3.0, "connections_open": 10}
    assert fed(CREATED, RAMP, ramp(2, 100_000), drain).open == 100_000


def test_frames_are_shown_when_due_and_at_the_end_of_each_phase() -> None:
    now = 0.0
    shown: list[tuple[str, bool]] = []
    view = Live(lambda progress, last: shown.append((progress.phase, last)), 5.0, clock=lambda: now)
    for second in range(11):
        now = float(second)
        view(ramp(now, second))
    assert len(shown) == 3
    view({"event": "phase_ended", "phase": "ramp"})
    assert len(shown) == 4
    view({"event": "phase_started", "phase": "drain"})
    view({"event": "phase_ended", "phase": "drain"})
    assert shown[-1] == ("done", True)


def test_a_terminal_gets_one_line_rewritten_and_left_at_the_end() -> None:
    stream = io.StringIO()
    show = terminal_screen(stream, "1M: ")
    for last in (False, True, True):
        show(fed(CREATED), last)
    assert stream.getvalue().count("\r1M: ") == 2
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("\n")


def test_a_file_gets_whole_lines_and_none_twice() -> None:
    stream = io.StringIO()
    show = plain_screen(stream, "1M: ")
    for progress in (fed(CREATED), fed(CREATED), fed(CREATED, RAMP)):
        show(progress, False)
    lines = stream.getvalue().splitlines()
    assert [line.split(" of ")[0] for line in lines] == ["1M: start  0", "1M: ramp   0"]


def test_outside_a_notebook_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    live_view()(CREATED)
    said = capsys.readouterr()
    assert said.out == ""
    assert "0 of 100k open" in said.err


def test_a_notebook_frame_has_a_bar_as_long_as_the_share_that_is_open() -> None:
    assert "width:25.0%" in frame_html(fed(CREATED, RAMP, ramp(2, 25_000)))
