"""Batches that do not end as planned: each leaves a run that loads, one sentence, and nothing running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from browser.lab import PATIENCE_SECONDS, ROOT
from eventually import eventually
from wslab.lab import registry
from wslab.lab.fleet import child_environment
from wslab.lab.runs import Run, load_run

LONG = {"connections": "2000", "hold_seconds": "60"}
Batch = "subprocess.Popen[str]"


@pytest.fixture
def environment(tmp_path: Path, nothing_left: None) -> Iterator[dict[str, str]]:
    yield {**child_environment(), "WSLAB_DATA_DIR": str(tmp_path / "data"), "IPYTHONDIR": str(tmp_path / "ipython")}
    eventually(lambda: not registry.list_processes(), PATIENCE_SECONDS)


def sweep(environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start a sweep of one long stage."""
    command = [sys.executable, "-m", "wslab", "sweep", "--stages", LONG["connections"], "--json"]
    command += ["--hold-seconds", LONG["hold_seconds"]]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def holding(environment: dict[str, str]) -> Run:
    """Wait until the run holds its connections, and return it."""

    def look() -> Run | None:
        try:
            run = load_run("latest", environment["WSLAB_DATA_DIR"])
        except FileNotFoundError:
            return None
        begun = [event.get("phase") for event in run.events if event["event"] == "phase_started"]
        return run if "hold" in begun else None

    return eventually(look, PATIENCE_SECONDS)


def test_a_kernel_that_is_killed_leaves_a_run_a_sentence_and_a_live_view_that_says_so(
    environment: dict[str, str],
) -> None:
    with sweep(environment) as batch:
        os.kill(holding(environment).manifest["caller"]["pid"], signal.SIGKILL)
        told, said = batch.communicate(timeout=PATIENCE_SECONDS)
    (stage,) = json.loads(told)["stages"]
    assert (batch.returncode, stage["outcome"]) == (3, "crashed")
    assert "SIGKILL" in stage["reason"]
    assert "Traceback" not in said
    run = load_run("latest", environment["WSLAB_DATA_DIR"])
    assert run.reason == stage["reason"]
    assert len(run.samples) >= 2
    cells = nbformat.read(run.run_dir / "stage.ipynb", as_version=4).cells
    pages = ["".join(o.get("data", {}).get("text/html", "")) for cell in cells for o in cell.get("outputs", ())]
    frames = [page for page in pages if "wslab-live" in page]
    assert frames
    assert all('data-phase="crashed"' in frame for frame in frames)


def test_a_request_to_terminate_drains_the_stage_and_ends_the_sweep(environment: dict[str, str]) -> None:
    with sweep(environment) as batch:
        holding(environment)
        batch.terminate()
        told, said = batch.communicate(timeout=PATIENCE_SECONDS)
    document = json.loads(told)
    assert (batch.returncode, document["outcome"]) == (130, "aborted")
    assert document["stages"][0]["reason"].startswith("stopped by the user")
    assert "Traceback" not in said
    assert load_run("latest", environment["WSLAB_DATA_DIR"]).outcome == "aborted"


def test_a_time_out_of_papermill_leaves_a_run_that_loads(environment: dict[str, str], tmp_path: Path) -> None:
    parameters = [part for name, value in LONG.items() for part in ("-p", name, value)]
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks/10-stage.ipynb"), str(tmp_path / "out.ipynb")]
    options = ["--execution-timeout", "15", "--no-progress-bar", "-k", "python3"]
    began = time.monotonic()
    done = subprocess.run(
        [*command, *parameters, *options], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert time.monotonic() - began < PATIENCE_SECONDS
    # What the kernel could not record is concluded from its death; an interrupt that it heard is recorded as such.
    run = eventually(lambda: _ended(environment), PATIENCE_SECONDS)
    assert run.outcome in ("crashed", "aborted")
    assert run.reason
    assert len(run.samples) >= 2


def _ended(environment: dict[str, str]) -> Run | None:
    run = load_run("latest", environment["WSLAB_DATA_DIR"])
    return None if run.outcome == "running" else run


@pytest.mark.parametrize(("name", "folder"), [("00-preflight", "/"), ("40-report", "elsewhere")])
def test_papermill_executes_notebooks_without_load_from_any_folder(
    name: str, folder: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    where = tmp_path / folder
    command = [sys.executable, "-m", "papermill", str(ROOT / f"notebooks/{name}.ipynb"), str(tmp_path / "out.ipynb")]
    options = ["--no-progress-bar", "-k", "python3"]
    done = subprocess.run([*command, *options], env=environment, cwd=where, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
