"""The log of an enclosure: on the disk before anything is done, undone backwards, and by anybody after a death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wslab.machine import sysctls
from wslab.machine import undo as undo_module
from wslab.machine.sysctls import claim_sysctl
from wslab.machine.undo import UndoLog, logs_folder, undo, undo_orphaned

SETTING = "net.example.most"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that stands for /proc/sys, with one setting in it; logs go beside it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sysctls, "SYSCTLS", tmp_path / "sys")
    (tmp_path / "sys/net/example").mkdir(parents=True)
    setting = tmp_path / "sys/net/example/most"
    setting.write_text("100", "ascii")
    return setting


def note_the_setting(log: UndoLog) -> None:
    log.note("sysctl", name=SETTING, before="100", written="200")


def test_there_is_no_log_before_there_is_a_step() -> None:
    assert UndoLog("a").undo() == []
    assert not logs_folder().exists()


def test_a_step_that_was_noted_and_never_taken_is_undone_by_doing_nothing(machine: Path, tmp_path: Path) -> None:
    log = UndoLog("a")
    note_the_setting(log)
    log.note("cgroup", path=str(tmp_path / "never-made"))
    log.note("netns", name=f"wslab-never-made-{os.getpid()}")
    assert log.undo() == []
    assert machine.read_text("ascii") == "100"
    assert not log.path.exists()


def test_steps_are_undone_backwards_and_once(machine: Path, tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "outer/inner"
    log = UndoLog("a")
    note_the_setting(log)
    machine.write_text("200", "ascii")
    for folder in (outer, inner):
        log.note("cgroup", path=str(folder))
        folder.mkdir()
    assert log.undo() == []
    assert not outer.exists()
    assert machine.read_text("ascii") == "100"
    machine.write_text("200", "ascii")
    assert log.undo() == []
    assert machine.read_text("ascii") == "200"


def test_a_setting_that_somebody_else_has_changed_since_is_left_and_said(machine: Path) -> None:
    log = UndoLog("a")
    note_the_setting(log)
    machine.write_text("300", "ascii")
    assert log.undo() == [f"{SETTING} is 300 by now, neither 200 nor 100 as before: left as it is"]
    assert machine.read_text("ascii") == "300"
    assert not log.path.exists()


def test_what_cannot_be_undone_yet_stays_in_the_log(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undo_module, "GROUP_SECONDS", 0.0)
    busy = tmp_path / "busy"
    (busy / "process").mkdir(parents=True)
    log = UndoLog("a")
    note_the_setting(log)
    log.note("cgroup", path=str(busy))
    machine.write_text("200", "ascii")
    claim = claim_sysctl(SETTING)
    said = log.undo()
    assert [words in line for words, line in zip(["busy cannot be removed", "claimed"], said, strict=True)] == [
        True
    ] * 2
    assert len(json.loads(log.path.read_text("utf-8"))["steps"]) == 2
    os.close(claim)
    (busy / "process").rmdir()
    assert undo(log.path) == []
    assert machine.read_text("ascii") == "100"
    assert not log.path.exists()


def test_the_log_of_a_living_owner_is_left_alone_and_that_of_a_dead_one_is_undone(machine: Path) -> None:
    machine.write_text("200", "ascii")
    code = """
import os, sys
from wslab.machine.undo import UndoLog
UndoLog("theirs").note("sysctl", name=sys.argv[1], before="100", written="200")
print("noted", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code, SETTING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "noted\n"
        assert undo_orphaned() == []
        assert machine.read_text("ascii") == "200"
        owner.send_signal(signal.SIGKILL)
    assert undo_orphaned() == []
    assert machine.read_text("ascii") == "100"
    assert list(logs_folder().iterdir()) == []


def test_a_file_that_is_no_log_is_named_and_does_not_stop_the_others() -> None:
    logs_folder().mkdir(parents=True)
    (logs_folder() / "a.json").write_text("{}", "utf-8")
    assert [line.split(":")[0] for line in undo_orphaned()] == [f"{logs_folder()}/a.json is no log of an enclosure"]
