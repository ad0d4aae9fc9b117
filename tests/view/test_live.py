"""Live views: what a run's events come to, and how often and where it is shown."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from wslab.core.histogram import bucket_seconds
from wslab.view.frame import chart_svg, frame_html
from wslab.view.live import Live, live_view, plain_screen, terminal_screen
from wslab.view.progress import HISTORY_MAX, Progress


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


def test_frames_are_shown_when_due_and_when_something_begins_or_ends() -> None:
    now = 0.0
    shown: list[tuple[str, bool]] = []
    view = Live(lambda progress, last: shown.append((progress.phase, last)), 5.0, clock=lambda: now)
    for second in range(11):
        now = float(second)
        view(ramp(now, second))
    assert len(shown) == 3
    view({"event": "phase_ended", "phase": "ramp"})
    view({"event": "phase_started", "phase": "drain"})
    view({"event": "phase_ended", "phase": "drain"})
    view({"event": "stopped"})
    view({"event": "run_ended", "outcome": "held", "reason": ""})
    assert shown[3:] == [("ramp", False), ("drain", False), ("saving", False), ("saving", False), ("held", True)]


def hold(at: float, **more: object) -> dict:
    return {"event": "progress", "phase": "hold", "elapsed_seconds": at, "connections_open": 100_000, **more}


HELD_RAMP = (CREATED | {"hold_seconds": 10.0}, RAMP, ramp(1, 0), ramp(21, 100_000))
HOLD = ({"event": "phase_ended", "phase": "ramp", "elapsed_seconds": 21.0},)
HOLD += ({"event": "phase_started", "phase": "hold", "elapsed_seconds": 21.0},)


def test_the_hold_counts_down_and_the_rest_is_estimated_from_the_ramp() -> None:
    progress = fed(*HELD_RAMP, *HOLD, hold(24.0))
    assert progress.seconds_left == 7.0
    assert progress.seconds_left_in_all == pytest.approx(7.0 + 20.0 * (0.35 + 0.2))
    assert progress.phase_share == pytest.approx(0.3)


def test_no_line_of_a_hold_is_like_the_one_before() -> None:
    stream = io.StringIO()
    show = plain_screen(stream)
    for second in range(22, 30):
        show(fed(*HELD_RAMP, *HOLD, hold(float(second))), False)
    lines = stream.getvalue().splitlines()
    assert len(set(lines)) == 8


def test_the_whole_is_estimated_in_the_ramp_already() -> None:
    progress = fed(*HELD_RAMP[:2], ramp(1, 0), ramp(2, 10_000))
    assert progress.seconds_left == 9.0
    assert progress.seconds_left_in_all == pytest.approx(9.0 + 10.0 + 10.0 * (0.35 + 0.2))


def test_the_drain_tells_how_many_are_still_open() -> None:
    drain = {"event": "progress", "phase": "drain"}
    progress = fed(
        *HELD_RAMP,
        {"event": "phase_started", "phase": "drain", "elapsed_seconds": 40.0},
        {**drain, "elapsed_seconds": 40.0, "connections_open": 100_000},
        {**drain, "elapsed_seconds": 41.0, "connections_open": 75_000},
    )
    assert (progress.still_open, progress.rate, progress.seconds_left) == (75_000, 25_000, 3)
    assert "75,000 still open" in progress.line


def used(at: float, busy: float) -> dict:
    """A sample of two cores: the server has kept one busy for `busy` seconds, the swarm half of that."""
    ends = {f"{side}_cpu_{kind}_seconds": 0.0 for side in ("server", "swarm") for kind in ("user", "system")}
    return {
        **ends,
        "event": "sample",
        "phase": "hold",
        "elapsed_seconds": at,
        "swarm_connections_open": 5,
        "server_cpu_user_seconds": busy,
        "swarm_cpu_system_seconds": busy / 2,
        "lab_cpu_seconds": 0.0,
        **{f"cpu_{kind}_seconds": 0.0 for kind in ("nice", "system", "irq", "softirq", "iowait", "steal")},
        "cpu_user_seconds": 1.5 * busy,
        "cpu_idle_seconds": 2 * at - 1.5 * busy,
        "server_rss_bytes": 30 << 20,
        "swarm_rss_bytes": 40 << 20,
        "memory_headroom_bytes": 20 << 30,
        "swarm_messages_received": int(1000 * at),
    }


def test_facts_are_those_of_the_last_second() -> None:
    progress = fed(CREATED, used(1.0, 0.0), used(2.0, 0.8))
    rows = [{"elapsed_seconds": 1.0, "kind": "roundtrip", "bucket_seconds": 9.0, "count": 5}]
    rows += [{"elapsed_seconds": 2.0, "kind": "roundtrip", "bucket_seconds": bucket_seconds(200), "count": 5}]
    progress.take_latencies(rows)
    facts = dict(progress.facts())
    assert facts["messages"] == "1k/s"
    assert facts["CPU cores"] == "server 0.80 · swarm 0.40 · others 0.00 of 2"
    assert facts["memory"] == "server 30 MiB · swarm 40 MiB"
    assert facts["memory left"] == "20 GiB"
    assert "9 s" not in facts["round trip p50 / p99"]
    assert facts["round trip p50 / p99"].count("–") == 0


def test_memory_that_processes_share_is_counted_once_also_between_two_readings_of_it() -> None:
    first = {**used(1.0, 0.0), "server_rss_bytes": 700 << 20, "server_pss_bytes": 100 << 20}
    progress = fed(CREATED, first, {**used(2.0, 0.8), "server_rss_bytes": 750 << 20, "server_pss_bytes": None})
    assert dict(progress.facts())["memory"] == "server 150 MiB · swarm 40 MiB"


def test_facts_have_the_same_number_in_every_phase() -> None:
    phases = [{"event": "phase_started", "phase": phase} for phase in ("ramp", "hold", "verify", "drain")]
    assert len({len(fed(CREATED, phase).facts()) for phase in phases}) == 1


def test_a_view_reads_the_percentiles_from_the_run_folder(tmp_path: Path) -> None:
    view = Live(lambda progress, last: None, 0.0)
    (tmp_path / "latency.csv").write_text("elapsed_seconds,kind,bucket_seconds,count\n2.0,roundtrip,0.003,5\n")
    view({**CREATED, "run_dir": str(tmp_path)})
    view({"event": "sample", "phase": "hold", "elapsed_seconds": 2.0})
    assert dict(view.progress.facts())["round trip p50 / p99"] == "3 ms / 3 ms"


def test_the_last_frame_says_how_it_ended_and_has_no_note_of_silence() -> None:
    ended = {"event": "run_ended", "outcome": "broke", "reason": "conntrack: 5 of 7 opened"}
    before = fed(CREATED | {"run_dir": "/data/runs/x-1"}, RAMP, ramp(2, 5), ramp(3, 7))
    assert "wslab-silent" in frame_html(before)
    before.take(ended)
    frame = frame_html(before)
    assert "wslab-silent" not in frame
    assert "broke: conntrack: 5 of 7 opened" in frame
    assert "x-1" in frame


def test_a_frame_says_how_to_stop_the_run_from_where_it_is_seen() -> None:
    own, watched = (fed({**CREATED, "run_dir": "/x", "watched": seen}) for seen in (False, True))
    assert "interrupt this cell" in frame_html(own)
    assert "interrupt this cell" not in frame_html(watched)
    assert all("<code>wslab stop</code>" in frame_html(progress) for progress in (own, watched))


def test_a_frame_escapes_what_it_shows() -> None:
    assert "<b>x" not in frame_html(fed(CREATED | {"run_dir": "/data/<b>x"}), "<i>")


def test_a_chart_stays_small_however_long_the_run() -> None:
    progress = fed(CREATED, RAMP, *(ramp(second, min(second * 100, 100_000)) for second in range(1, 5000)))
    assert len(progress.history) <= HISTORY_MAX
    assert progress.history[-1] == (4999.0, 100_000)
    assert len(frame_html(progress)) < 8_000
    assert chart_svg(progress).count("<polyline") == 1


def test_a_terminal_has_a_bar_and_facts_cut_to_its_width_and_the_bar_is_left_at_the_end() -> None:
    stream = io.StringIO()
    show = terminal_screen(stream, "1M: ")
    progress = fed(CREATED, RAMP, used(1.0, 0.0), used(2.0, 0.8))
    show(progress, False)
    progress.take({"event": "run_ended", "outcome": "held"})
    for _ in range(2):
        show(progress, True)
    written = stream.getvalue()
    assert "1M: hold" in written
    assert "CPU cores server 0.80" in written
    assert max(map(len, re.split(r"[\r\n]|\x1b\[A", written))) <= 80
    assert written.rstrip().rpartition("\r")[2].startswith("1M: held")
    assert written.endswith("\n")


def test_a_file_gets_the_folder_once_then_whole_lines_and_none_twice() -> None:
    stream = io.StringIO()
    show = plain_screen(stream, "1M: ")
    for progress in (fed(CREATED), fed(CREATED), fed(CREATED | {"run_dir": "/x"}, RAMP)):
        show(progress, False)
    lines = stream.getvalue().splitlines()
    assert [line.split(" of ")[0] for line in lines] == ["1M: start  0", "1M: recorded in /x", "1M: ramp   0"]


def test_outside_a_notebook_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    live_view()(CREATED)
    said = capsys.readouterr()
    assert said.out == ""
    assert "0 of 100k open" in said.err


def test_a_notebook_frame_has_a_bar_as_long_as_the_share_that_is_open() -> None:
    assert "width:25.0%" in frame_html(fed(CREATED, RAMP, ramp(2, 25_000)))


def test_what_has_to_be_compiled_first_is_said_before_a_run_begins() -> None:
    progress = Progress()
    assert progress.take({"event": "compiling", "message": "compiling the event loops"})
    assert progress.line == progress.count_words == "compiling the event loops"
    progress.take({"event": "run_created", "run_dir": "/runs/1", "connections": 100})
    assert "compiling" not in progress.line
