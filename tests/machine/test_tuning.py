"""Settings written and put back in a tree like /proc/sys, with deaths at the worst moments; and one in the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wslab.machine.tuning import SYSCTLS, Change, Tuning

BOOT = "kernel/random/boot_id"
VALUES = {"fs/nr_open": "100", "net/core/somaxconn": "128", "net/ipv4/tcp_mem": "1\t2\t3", BOOT: "first"}


class Killed(BaseException):
    """Stands for a kill: nothing of ours runs after it."""


class KilledBefore(Tuning):
    """Dies between the journal and the write."""

    def _write(self, key: str, value: str) -> str:
        raise Killed


class KilledAfter(Tuning):
    """Dies right after the write."""

    def _write(self, key: str, value: str) -> str:
        super()._write(key, value)
        raise Killed


class Rounding(Tuning):
    """A kernel that rounds up to whole pages."""

    def _write(self, key: str, value: str) -> str:
        return super()._write(key, str(-(-int(value) // 512) * 512))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in VALUES.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    # The kernel refuses to write this one, also to root.
    (tmp_path / "sys/kernel/osrelease").symlink_to("/proc/sys/kernel/osrelease")
    return tmp_path / "sys"


@pytest.fixture
def tuning(root: Path) -> Tuning:
    return Tuning(root, root.parent / "state/tuning.json")


def kernel(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text().strip() for name in VALUES}


def notes(changes: list[Change]) -> dict[str, str]:
    return {change.key: change.note for change in changes}


def test_settings_are_written_in_order_and_put_back_in_reverse(tuning: Tuning, root: Path) -> None:
    changes = tuning.apply({"fs.nr_open": "200", "net.ipv4.tcp_mem": "4 5 6"})
    assert changes == [
        Change(key="fs.nr_open", before="100", after="200", done=True),
        Change(key="net.ipv4.tcp_mem", before="1 2 3", after="4 5 6", done=True),
    ]
    assert kernel(root) == VALUES | {"fs/nr_open": "200", "net/ipv4/tcp_mem": "4 5 6"}
    back = tuning.revert()
    assert [(change.key, change.after, change.done) for change in back] == [
        ("net.ipv4.tcp_mem", "1 2 3", True),
        ("fs.nr_open", "100", True),
    ]
    assert kernel(root) == VALUES | {"net/ipv4/tcp_mem": "1 2 3"}
    assert tuning.revert() == []


def test_the_journal_says_it_before_the_kernel_hears_it(root: Path) -> None:
    class Looking(Tuning):
        def _write(self, key: str, value: str) -> str:
            seen.append([(entry.before, entry.after) for entry in self.journal.entries()])
            return super()._write(key, value)

    seen: list[list[tuple[str, str]]] = []
    Looking(root, root.parent / "tuning.json").apply({"fs.nr_open": "200"})
    assert seen == [[("100", "200")]]


def test_a_value_that_is_so_already_is_not_journaled(tuning: Tuning) -> None:
    (change,) = tuning.apply({"net.ipv4.tcp_mem": "1  2 3"})
    assert (change.done, change.note) == (True, "is so already")
    assert tuning.journal.entries() == []


def test_a_setting_that_does_not_exist_is_told(tuning: Tuning) -> None:
    (change,) = tuning.apply({"net.no.such": "1"})
    assert (change.done, change.note) == (False, "there is no such setting here")


def test_several_applies_stack_and_the_oldest_value_comes_back(tuning: Tuning, root: Path) -> None:
    for value in ("200", "300", "400"):
        tuning.apply({"fs.nr_open": value})
    assert all(change.done for change in tuning.revert())
    assert kernel(root) == VALUES
    assert tuning.journal.entries() == []


def test_a_death_between_journal_and_write_leaves_nothing_to_put_back(root: Path, tuning: Tuning) -> None:
    with pytest.raises(Killed):
        KilledBefore(root, tuning.journal.path).apply({"fs.nr_open": "200"})
    assert len(tuning.journal.entries()) == 1
    assert notes(tuning.revert()) == {"fs.nr_open": "is as it was before"}
    assert kernel(root) == VALUES
    assert tuning.revert() == []


def test_a_death_right_after_the_write_is_put_back(root: Path, tuning: Tuning) -> None:
    with pytest.raises(Killed):
        KilledAfter(root, tuning.journal.path).apply({"fs.nr_open": "200", "net.core.somaxconn": "4096"})
    assert kernel(root) == VALUES | {"fs/nr_open": "200"}
    tuning.revert()
    assert kernel(root) == VALUES


@pytest.mark.parametrize("dying", [KilledBefore, KilledAfter])
def test_a_death_upon_an_earlier_apply_still_brings_back_the_oldest(
    root: Path, tuning: Tuning, dying: type[Tuning]
) -> None:
    tuning.apply({"fs.nr_open": "200"})
    with pytest.raises(Killed):
        dying(root, tuning.journal.path).apply({"fs.nr_open": "300"})
    tuning.revert()
    assert kernel(root) == VALUES
    assert tuning.journal.entries() == []


@pytest.mark.parametrize("dying", [KilledBefore, KilledAfter])
def test_a_death_while_it_is_put_back_is_made_good_by_the_next(root: Path, tuning: Tuning, dying: type[Tuning]) -> None:
    tuning.apply({"fs.nr_open": "200"})
    with pytest.raises(Killed):
        dying(root, tuning.journal.path).revert()
    tuning.revert()
    assert kernel(root) == VALUES
    assert tuning.journal.entries() == []


def test_a_value_that_somebody_else_has_set_is_left_alone(tuning: Tuning, root: Path) -> None:
    tuning.apply({"fs.nr_open": "200"})
    (root / "fs/nr_open").write_text("250\n")
    (change,) = tuning.revert()
    assert (change.done, change.note) == (True, "left alone: somebody else has set it to 250")
    assert kernel(root)["fs/nr_open"] == "250"
    assert tuning.revert() == []


def test_after_a_boot_the_entry_is_dropped_and_nothing_written(tuning: Tuning, root: Path) -> None:
    tuning.apply({"fs.nr_open": "200"})
    (root / BOOT).write_text("second\n")
    # A value of the new boot, which by chance is the one that was written in the old one.
    (change,) = tuning.revert()
    assert change.note == "the kernel has put it back already: it has booted since"
    assert kernel(root)["fs/nr_open"] == "200"
    assert tuning.revert() == []


def test_a_setting_that_has_gone_is_dropped(tuning: Tuning, root: Path) -> None:
    tuning.apply({"fs.nr_open": "200"})
    (root / "fs/nr_open").unlink()
    assert notes(tuning.revert()) == {"fs.nr_open": "there is no such setting here any more"}
    assert tuning.revert() == []


def test_what_may_not_be_written_is_told_and_the_others_are_written(tuning: Tuning, root: Path) -> None:
    changes = tuning.apply({"fs.nr_open": "200", "kernel.osrelease": "9", "net.core.somaxconn": "4096"})
    assert [change.done for change in changes] == [True, False, True]
    assert changes[1].note.startswith("cannot be written: ")
    assert [entry.key for entry in tuning.journal.entries()] == ["fs.nr_open", "net.core.somaxconn"]
    tuning.revert()
    assert kernel(root) == VALUES


def test_what_may_not_be_put_back_stays_in_the_journal(tuning: Tuning, root: Path) -> None:
    class Forbidden(Tuning):
        def _write(self, key: str, value: str) -> str:
            return "cannot be written: Permission denied"

    tuning.apply({"fs.nr_open": "200"})
    (change,) = Forbidden(root, tuning.journal.path).revert()
    assert (change.done, change.after) == (False, "200")
    tuning.revert()
    assert kernel(root) == VALUES


def test_without_a_journal_nothing_is_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (change,) = Tuning(root, tmp_path / "file/tuning.json").apply({"fs.nr_open": "200"})
    assert not change.done
    assert change.note.startswith("nothing written: ")
    assert kernel(root) == VALUES


def test_what_the_kernel_made_of_a_value_is_what_is_put_back(root: Path, tuning: Tuning) -> None:
    (change,) = Rounding(root, tuning.journal.path).apply({"fs.nr_open": "600"})
    assert (change.after, change.done) == ("1024", True)
    assert tuning.revert()[0].note == ""
    assert kernel(root) == VALUES


def test_a_session_puts_back_its_own_and_the_user_gets_back_the_oldest(tuning: Tuning, root: Path) -> None:
    tuning.apply({"fs.nr_open": "200"}, session="stage")
    tuning.apply({"fs.nr_open": "300"})
    (change,) = tuning.revert(lambda entry: entry.session == "stage")
    assert change.note == "has been raised further since; it goes back with that"
    assert kernel(root)["fs/nr_open"] == "300"
    tuning.revert()
    assert kernel(root) == VALUES


def test_a_session_upon_the_users_value_brings_back_that(tuning: Tuning, root: Path) -> None:
    tuning.apply({"fs.nr_open": "200"})
    tuning.apply({"fs.nr_open": "300"}, session="stage")
    tuning.revert(lambda entry: entry.session == "stage")
    assert kernel(root)["fs/nr_open"] == "200"
    tuning.revert()
    assert kernel(root) == VALUES


@pytest.mark.skipif(not os.access(SYSCTLS / "net/ipv4/tcp_max_tw_buckets", os.W_OK), reason="needs the right to")
def test_a_real_setting_goes_there_and_back(tmp_path: Path) -> None:
    key = "net.ipv4.tcp_max_tw_buckets"
    tuning = Tuning(journal=tmp_path / "tuning.json")
    before = tuning.read(key)
    assert before is not None
    try:
        (change,) = tuning.apply({key: str(int(before) + 1)})
        assert (change.done, tuning.read(key)) == (True, str(int(before) + 1))
    finally:
        tuning.revert()
    assert tuning.read(key) == before
    assert tuning.journal.entries() == []


def test_settings_of_this_machine_are_read_with_single_spaces() -> None:
    assert len((Tuning().read("net.ipv4.ip_local_port_range") or "").split(" ")) == 2
    assert Tuning().read("no.such.setting") is None
