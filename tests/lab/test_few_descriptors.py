"""A stage under an fd limit so low that it is about its own processes: refused, or broken by `fd_limit`, or held."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def stage(limit: int, connections: int, folder: Path, root: Path) -> tuple[int, dict[str, Any], str]:
    """Run a stage from a shell with this hard fd limit; return exit status, JSON and standard error."""
    given = f"--connections {connections} --hold-seconds 0 --memory-reserve 0 --data-dir {folder}/data --json"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n {limit}; exec {sys.executable} -m wslab stage {given}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_STATE_HOME": str(folder), "PYTHONPATH": str(root)},
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


@pytest.mark.parametrize("limit", [32, 48])
def test_what_the_limit_leaves_is_opened_and_the_limit_is_named(limit: int, tmp_path: Path, project_root: Path) -> None:
    status, run, _ = stage(limit, 1000, tmp_path, project_root)
    assert (status, run["outcome"], run["findings"][0]["limit"]) == (1, "broke", "fd_limit")
    assert 0 < run["connections_open"] < 1000


def test_more_processes_make_up_for_a_low_limit(tmp_path: Path, project_root: Path) -> None:
    status, run, _ = stage(64, 100, tmp_path, project_root)
    assert (status, run["outcome"], run["connections_verified"]) == (0, "held", 100)


def test_a_limit_that_is_too_low_for_the_processes_is_bad_input(tmp_path: Path, project_root: Path) -> None:
    status, run, told = stage(24, 100, tmp_path, project_root)
    assert (status, run, told.count("\n")) == (2, {}, 1)
    assert "24" in told
