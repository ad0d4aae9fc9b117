"""Where the machine code of the loops is kept, and whom it is taken from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wslab.load.engine import cache


def test_the_fingerprint_follows_everything_that_is_compiled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {path.name for path in cache.COMPILED_IN}
    assert names >= {"server_loop.py", "swarm_loop.py", "wire.py", "libc.py", "state.py", "scoreboard.py"}
    assert names >= {"histogram.py", "pacer.py"}
    source = tmp_path / "source.py"
    monkeypatch.setattr(cache, "COMPILED_IN", [source])
    source.write_text("a = 1")
    first = cache.fingerprint()
    source.write_text("a = 2")
    assert cache.fingerprint() != first


def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all, mine = tmp_path / "open", tmp_path / "mine"
    for folder in (open_to_all, mine):
        folder.mkdir()
    open_to_all.chmod(0o777)
    mine.chmod(0o755)
    monkeypatch.setattr(cache, "_package_folder", lambda: open_to_all)
    monkeypatch.setattr(cache, "_user_folder", lambda: mine)
    assert cache.place() == mine
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    if mine.stat().st_uid != 0:
        assert cache.place() is None


def test_without_a_folder_of_its_own_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a file"
    file.write_text("")
    monkeypatch.setattr(cache, "_package_folder", lambda: file / "below")
    monkeypatch.setattr(cache, "_user_folder", lambda: file / "below")
    assert cache.place() is None


def test_code_that_is_kept_is_loaded_without_a_word() -> None:
    said: list[str] = []
    cache.load("server_loop", said.append)  # It may have to be compiled.
    said.clear()
    assert cache.load("server_loop", said.append).__name__ == "wslab.load.engine.server_loop"
    assert said == []
