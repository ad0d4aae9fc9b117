"""The notebooks in JupyterLab, as their users live in them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser.lab import PATIENCE_SECONDS, ROOT, Lab, Page, phase_of
from eventually import eventually

NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
EPOLL_LIMIT = Path("/proc/sys/fs/epoll/max_user_watches")
WATCHES = 6000
# Holds epoll watches: each of 60 epolls watches each of 100 event counters.
BYSTANDER = f"""
import os, select, sys
counters = [os.eventfd(0) for _ in range(100)]
polls = [select.epoll() for _ in range({WATCHES} // 100)]
for poll in polls:
    for counter in counters:
        poll.register(counter, select.EPOLLIN)
print("ready", flush=True)
sys.stdin.read()
for poll in polls:
    poll.unregister(counters[0])
    poll.register(counters[0], select.EPOLLIN)
print("unharmed", flush=True)
"""
SLOW = {"connections": 12_000, "ramp_rate": 4000, "hold_seconds": 8.0, "message_rate": 0.2}
# For runs that are cut short: whatever the machine is busy with, they are still there.
LONG = {**SLOW, "hold_seconds": 120.0}


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[str]]:
    """A process of somebody else that uses a limit of the whole machine."""
    command = [sys.executable, "-c", BYSTANDER]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def finished(page: Page, seconds: float = 240.0) -> None:
    """Wait until Run All has ended, with a look at the page each time, and see that nothing went wrong."""
    page.until(lambda: page.done() or page.errors(), seconds)
    assert page.errors() == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all_ends_beside_others_without_an_error_and_without_touching_a_limit_of_the_machine(
    name: str, page: Page, bystander: subprocess.Popen[str]
) -> None:
    limit = EPOLL_LIMIT.read_text()
    page.open(name).restart_and_run_all()
    limits = set()

    def over() -> bool:
        limits.add(EPOLL_LIMIT.read_text())
        return page.done() or bool(page.errors())

    page.until(over, 300.0)
    assert page.errors() == []
    assert all(cell["count"] for cell in page.code())
    assert limits == {limit}
    told, _ = bystander.communicate("", timeout=10)
    assert told == "unharmed\n"
    for number, cell in enumerate(cell for cell in page.code() if cell["outputs"]):
        page.scroll_to(cell["source"])
        page.shoot(f"{name.removesuffix('.ipynb')}-{number}")


def test_the_live_view_changes_in_every_phase_and_its_last_frame_is_saved(page: Page, lab: Lab) -> None:
    page.open(lab.with_parameters("10-stage.ipynb", "live.ipynb", **SLOW))
    page.keep_frames()
    page.restart_and_run_all()
    for phase in ("ramp", "hold"):
        page.until(lambda phase=phase: sum(phase_of(frame) == phase for frame in page.frames()) >= 3)
        page.scroll_to("run = wslab")
        page.show_live()
        page.shoot(f"live-{phase}")
    finished(page)
    frames: dict[str, set[str]] = defaultdict(set)
    for frame in page.frames():
        frames[phase_of(frame)].add(frame)
    assert {"ramp", "hold", "verify", "drain", "saving", "held"} <= frames.keys()
    # 12,000 are verified and drained within a second, in which there is a frame at the begin and at the end.
    assert min(len(frames[phase]) for phase in ("verify", "drain")) >= 1
    assert min(len(frames[phase]) for phase in ("ramp", "hold")) >= 3
    # No more than one a second, and one when something begins or ends.
    assert len(page.frames()) <= lab.runs()[-1]["phases"][-1]["ended_seconds"] + 12
    run_id = lab.runs()[-1]["run_id"]
    assert all(run_id in frame for phase in ("ramp", "hold") for frame in frames[phase])
    last_hold = max(frames["hold"], key=len)
    for fact in ("messages", "round trip p50 / p99", "CPU", "memory left", "<svg"):
        assert fact in last_hold
    page.command("docmanager:save")
    saved = lab.notebooks / "live.ipynb"
    eventually(lambda: 'data-phase=\\"held\\"' in saved.read_text(encoding="utf-8"), PATIENCE_SECONDS)
    assert not re.search(r'data-phase=\\"(hold|ramp)', saved.read_text(encoding="utf-8"))


def test_an_interrupt_ends_run_all_and_the_run_is_recorded(page: Page, lab: Lab) -> None:
    page.open(lab.with_parameters("10-stage.ipynb", "interrupt.ipynb", **LONG)).restart_and_run_all()
    page.until(lambda: page.live().get("phase") == "hold")
    page.command("notebook:interrupt-kernel")
    page.until(page.errors)
    page.until(page.done)
    run = lab.runs()[-1]
    assert run["outcome"] == "aborted"
    (error,) = page.errors()
    assert error.startswith("Interrupted: ")
    assert run["run_id"] in error
    below = [cell for cell in page.code() if "wslab.plots" in cell["source"]]
    assert [cell["count"] for cell in below] == [None] * len(below)
    page.scroll_to("run = wslab")
    page.show_live()
    page.shoot("interrupted")


def test_a_kernel_that_is_restarted_leaves_nothing_and_a_run_that_loads(page: Page, lab: Lab) -> None:
    page.open(lab.with_parameters("10-stage.ipynb", "restart.ipynb", **LONG)).restart_and_run_all()
    page.until(lambda: page.live().get("phase") == "hold")
    page.command("notebook:restart-kernel")
    page.page.locator(".jp-Dialog .jp-mod-accept").click()
    page.until(lambda: not lab.processes())
    shown = lab.wslab("runs", "latest")
    assert shown.returncode == 0
    # Jupyter interrupts a kernel before it restarts it; the run hears that, or only the end.
    assert lab.runs()[-1]["outcome"] in ("aborted", "running")
    assert shown.stdout.startswith(("aborted", "crashed"))
    # At once again: what ends by itself is not taken for another run.
    page.ready()
    page.restart_and_run_all()
    page.until(lambda: page.live().get("phase") == "hold" or page.errors())
    assert page.errors() == []
    page.command("notebook:interrupt-kernel")
    page.until(page.done)


def test_a_bar_whose_kernel_died_says_so(page: Page, lab: Lab) -> None:
    page.open(lab.with_parameters("10-stage.ipynb", "killed.ipynb", **LONG)).restart_and_run_all()
    page.until(lambda: page.live().get("phase") == "hold")
    page.scroll_to("run = wslab")
    note = page.page.locator(".wslab-silent")
    assert not note.is_visible()
    for pid in lab.kernel_pids():
        os.kill(pid, signal.SIGKILL)
    note.wait_for(state="visible")
    page.page.locator(".jp-Dialog .jp-mod-accept").click()
    page.show_live()
    page.shoot("kernel-died")
    page.until(lambda: not lab.processes())


def test_after_a_reload_another_notebook_attaches_and_sees_the_run_to_its_end(page: Page, lab: Lab) -> None:
    slow = {**SLOW, "hold_seconds": 30.0}
    page.open(lab.with_parameters("10-stage.ipynb", "reload.ipynb", **slow)).restart_and_run_all()
    page.until(lambda: page.live().get("phase") == "hold")
    page.page.reload()
    page.open(lab.write("attach.ipynb", "import wslab\nrun = wslab.attach()\nrun", "run.outcome"))
    page.restart_and_run_all()
    seen = set()

    def held() -> bool:
        frame = page.live()
        seen.add(frame.get("html", ""))
        return frame.get("phase") == "held"

    page.until(lambda: page.live().get("phase") == "hold")
    page.until(lambda: seen.add(page.live().get("html", "")) or len(seen) >= 3)
    page.show_live()
    page.shoot("attached")
    page.until(held)
    finished(page)
    assert len(seen) >= 5
    assert lab.runs()[-1]["outcome"] == "held"


def test_everything_is_legible_in_the_dark_theme(page: Page, lab: Lab) -> None:
    page.open(
        lab.with_parameters("10-stage.ipynb", "dark.ipynb", **SLOW), theme="JupyterLab Dark"
    ).restart_and_run_all()
    page.until(lambda: page.live().get("phase") == "hold")
    page.scroll_to("run = wslab")
    page.page.locator(".wslab-live svg text").first.wait_for()
    page.show_live()
    page.shoot("dark-live")
    colours = page.page.evaluate(
        """() => {
            const view = document.querySelector('.wslab-live');
            return [getComputedStyle(view).color, getComputedStyle(document.body).backgroundColor,
                    getComputedStyle(view.querySelector('svg text')).fill];
        }"""
    )
    text, _, label = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert min(text, label) > 3 * 128, colours  # Light on dark.
    finished(page)
    page.show_live()
    page.shoot("dark-card")
    page.scroll_to("wslab.plots.connections_over_time")
    page.shoot("dark-figure")


def test_a_run_is_stopped_from_a_terminal_while_its_cell_is_busy(page: Page, lab: Lab) -> None:
    page.open(lab.with_parameters("10-stage.ipynb", "stop.ipynb", **LONG)).restart_and_run_all()
    page.until(lambda: page.live().get("phase") == "hold")
    assert "<code>wslab stop</code>" in page.live()["html"]
    assert lab.wslab("stop").returncode == 0
    page.until(page.errors)
    assert lab.runs()[-1]["outcome"] == "aborted"


def test_the_stop_button_ends_the_run_while_its_cell_is_busy(page: Page, lab: Lab) -> None:
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: make browser-test")
    page.open(lab.with_parameters("10-stage.ipynb", "button.ipynb", **LONG)).restart_and_run_all()
    page.until(lambda: page.live().get("phase") == "hold")
    page.scroll_to("run = wslab")
    button = page.page.get_by_role("button", name="Stop the run")
    button.wait_for()
    page.show_live()
    page.shoot("stop-button")
    button.click()
    page.until(page.errors)
    page.until(page.done)
    run = lab.runs()[-1]
    assert run["outcome"] == "aborted"
    assert run["summary"]["connections_open"] == LONG["connections"]
    assert not button.is_visible()
    page.show_live()
    page.shoot("stopped")
    page.command("docmanager:save")
    saved = lab.notebooks / "button.ipynb"
    eventually(lambda: 'data-phase=\\"aborted\\"' in saved.read_text(encoding="utf-8"), PATIENCE_SECONDS)
    assert "widget-view" not in saved.read_text(encoding="utf-8")
