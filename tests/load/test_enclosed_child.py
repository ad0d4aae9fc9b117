"""A child in an enclosure: it is started inside, or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from eventually import eventually
from wslab.load.children import Child

TELLING = "import json, resource; print(json.dumps({'fd': resource.getrlimit(resource.RLIMIT_NOFILE)}))"


def test_a_child_is_under_its_bounds_from_its_first_instruction(tmp_path: Path) -> None:
    child = Child("server", [sys.executable, "-c", TELLING], log=tmp_path / "server.log", enclosure={"fd_limit": 200})
    assert eventually(lambda: child.events()[0]) == [{"fd": [200, 200]}]
    child.close_stdin()
    assert child.reap() == (0, None)
    child.stdout.close()


def test_a_child_that_cannot_enter_is_not_started_and_the_log_says_why(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with pytest.raises(OSError, match=r"cannot enter its enclosure, see .*server\.log"):
        Child("server", [sys.executable, "-c", TELLING], log=log, enclosure={"cgroups": [str(tmp_path / "gone")]})
    assert "the enclosure cannot be entered" in log.read_text("utf-8")
    assert "gone" in log.read_text("utf-8")
