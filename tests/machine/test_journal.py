"""The journal of settings: on the disk at once, a stack, and refused when it is no journal."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from wslab.core.quantities import BadInput
from wslab.machine.journal import Entry, Journal, journal_path
from wslab.machine.process import start_ticks


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state" / "tuning.json")


def entry(before: str, after: str, key: str = "fs.nr_open", session: str = "") -> Entry:
    return Entry(key=key, before=before, after=after, boot_id="boot", time=1.5, session=session)


def add(journal: Journal, *entries: Entry) -> None:
    with journal.locked():
        for each in entries:
            journal.add(each)


def test_no_file_is_an_empty_journal_and_reading_makes_none(journal: Journal) -> None:
    assert journal.entries() == []
    assert not journal.path.parent.exists()


def test_entries_are_on_the_disk_in_their_order(journal: Journal) -> None:
    add(journal, entry("1", "2"), entry("5", "6", key="fs.file-max", session="s"))
    assert Journal(journal.path).entries() == [entry("1", "2"), entry("5", "6", key="fs.file-max", session="s")]


def test_a_journal_that_dies_while_it_is_replaced_is_the_old_one(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(journal, entry("1", "2"))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("died")))
    with pytest.raises(OSError, match="died"):
        add(journal, entry("2", "3"))
    assert journal.entries() == [entry("1", "2")]


def test_an_entry_that_leaves_the_middle_hands_down_what_was_before(journal: Journal) -> None:
    other = entry("2", "3", key="fs.file-max")
    add(journal, entry("1", "2"), other, entry("2", "3"), entry("3", "4"))
    journal.forget(entry("1", "2"))
    assert journal.entries() == [other, entry("1", "3"), entry("3", "4")]
    journal.forget(entry("3", "4"))
    assert journal.entries() == [other, entry("1", "3")]


def test_an_entry_that_was_written_on_another_value_is_not_on_top_of_this_one(journal: Journal) -> None:
    add(journal, entry("1", "2"), entry("7", "8"))
    assert journal.above(entry("1", "2")) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"entries": [{"key": "x"}]}', '{"entries": 3}'])
def test_what_is_no_journal_is_refused_with_its_path(journal: Journal, text: str) -> None:
    journal.path.parent.mkdir()
    journal.path.write_text(text, "utf-8")
    with pytest.raises(BadInput, match=f"{journal.path} is not a journal"):
        journal.entries()


def test_a_journal_that_cannot_be_read_is_not_an_empty_one(journal: Journal) -> None:
    journal.path.mkdir(parents=True)
    with pytest.raises(BadInput, match=f"{journal.path} cannot be read"):
        journal.entries()


def test_an_entry_is_abandoned_once_the_process_of_its_session_has_died() -> None:
    pid = os.getpid()
    mine = replace(entry("1", "2", session="s"), pid=pid, start_ticks=start_ticks(pid) or 0)
    assert not mine.abandoned
    assert replace(mine, start_ticks=mine.start_ticks - 1).abandoned
    assert not entry("1", "2").abandoned


def test_the_journal_is_in_the_state_folder_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert journal_path() == tmp_path / "wslab" / "tuning.json"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert journal_path() == tmp_path / ".local/state/wslab/tuning.json"
