"""Small kernel files: read whole, again and again, and None when they are not there."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from wslab.machine.files import OpenFile, read_text


def test_an_absent_file_is_none(tmp_path: Path) -> None:
    assert read_text(tmp_path / "absent") is None
    assert OpenFile(tmp_path / "absent").read() is None
    assert read_text(tmp_path) is None


def test_an_open_file_shows_what_is_there_now(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("1\n")
    file = OpenFile(path)
    assert file.read() == "1\n"
    path.write_text("22\n")
    assert file.read() == "22\n"
    file.close()
    assert file.read() is None
    file.close()


def test_a_text_longer_than_one_read_is_whole(tmp_path: Path) -> None:
    text = "x" * 200_000 + "end"
    (tmp_path / "long").write_text(text)
    assert read_text(tmp_path / "long") == text


def test_the_handle_of_an_ended_process_reads_none() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        file = OpenFile(f"/proc/{child.pid}/statm")
        assert file.read()
        child.kill()
    assert file.read() is None
    file.close()


def test_running_out_of_descriptors_is_not_taken_for_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        read_text("/proc/stat")
