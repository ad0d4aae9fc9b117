"""The floor in C, which the compiled loops are measured against: it builds, and counts what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "floor.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_the_floor_in_c_opens_all_connections_and_hears_all_echoes(tmp_path: Path) -> None:
    program = tmp_path / "floor"
    subprocess.run([str(COMPILER), "-O2", "-Wall", "-Werror", "-o", program, SOURCE], check=True, timeout=60)
    done = subprocess.run([program, "500", "100", "2"], check=True, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    assert (found["connections"], found["bad"]) == (500, 0)
    assert found["connections_per_second"] > 0
    assert found["messages_per_second"] > 0
