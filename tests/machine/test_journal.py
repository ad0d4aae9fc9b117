"""The journal: on the disk before a step, undone in reverse, with deaths at the worst moments; and once for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wslab.core.quantities import BadInput
from wslab.machine import cgroup, sysctls
from wslab.machine import journal as module
from wslab.machine.journal import CGROUP, ENCLOSURE, FILE, NETNS, TUNING, Change, Journal, undo_orphaned
from wslab.machine.sysctls import FILE_MAX, NR_OPEN, TCP_MEM, claim_sysctl, read_sysctl

QUEUE = "net.core.somaxconn"
BOOT = "kernel/random/boot_id"
VALUES = {"fs/nr_open": "100", "net/core/somaxconn": "128", "net/ipv4/tcp_mem": "1\t2\t3", BOOT: "first"}


class Killed(BaseException):
    """Stands for a kill: nothing of ours runs after it."""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put small trees in the place of this machine's settings, control groups and state."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sysctls, "SYSCTLS", tmp_path / "sys")
    monkeypatch.setattr(cgroup, "CGROUPS", tmp_path / "cgroup")
    for name, text in VALUES.items():
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    # The kernel refuses to write this one, also to root.
    (tmp_path / "sys/kernel/threads-max").symlink_to("/proc/sys/kernel/osrelease")
    return tmp_path / "sys"


@pytest.fixture
def journal() -> Journal:
    return Journal()


def killed_before(name: str, value: str) -> None:
    """Die between the journal and the write."""
    raise Killed


def killed_after(name: str, value: str) -> None:
    """Die right after the write."""
    sysctls.sysctl_path(name).write_text(f"{value}\n")
    raise Killed


def in_pages(name: str, value: str) -> None:
    """Write as a kernel does that rounds up to whole pages."""
    sysctls.sysctl_path(name).write_text(f"{-(-int(value) // 512) * 512}\n")


def writing(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    monkeypatch.setattr(sysctls, "write_sysctl", write)


def kernel(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text().strip() for name in VALUES}


def notes(changes: list[Change]) -> dict[str, str]:
    return {change.key: change.note for change in changes}


def undo_all(journal: Journal) -> list[Change]:
    return journal.undo(lambda step: True)


def put(**changes: Any) -> None:
    """Put a journal with one step into the state folder; the step is one of this boot that nobody owns."""
    step = {"kind": "sysctl", "name": NR_OPEN, "purpose": TUNING, "boot_id": "first", "time": 1.5} | changes
    path = Journal().path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"steps": [step]}), "utf-8")


def test_no_file_is_an_empty_journal_and_reading_makes_none(journal: Journal) -> None:
    assert journal.steps() == []
    assert undo_all(journal) == []
    assert not journal.path.parent.exists()


def test_settings_are_written_in_order_and_put_back_in_reverse(journal: Journal, root: Path) -> None:
    assert journal.write({NR_OPEN: "200", TCP_MEM: "4 5 6"}) == [
        Change(key=NR_OPEN, before="100", after="200", done=True),
        Change(key=TCP_MEM, before="1 2 3", after="4 5 6", done=True),
    ]
    assert kernel(root) == VALUES | {"fs/nr_open": "200", "net/ipv4/tcp_mem": "4 5 6"}
    assert [(change.key, change.after, change.done) for change in undo_all(journal)] == [
        (TCP_MEM, "1 2 3", True),
        (NR_OPEN, "100", True),
    ]
    assert kernel(root) == VALUES | {"net/ipv4/tcp_mem": "1 2 3"}
    assert undo_all(journal) == []
    assert not journal.path.exists()


def test_a_step_is_on_the_disk_before_it_is_taken(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[tuple[str, str]]] = []
    writing(monkeypatch, lambda *_: seen.append([(step.before, step.after) for step in Journal().steps()]))
    journal.write({NR_OPEN: "200"})
    assert seen == [[("100", "200")]]


def test_a_journal_that_dies_while_it_is_replaced_is_the_old_one(
    journal: Journal, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.write({NR_OPEN: "200"})
    monkeypatch.setattr(os, "replace", lambda *_, **__: (_ for _ in ()).throw(OSError("died")))
    (change,) = journal.write({NR_OPEN: "300"})
    assert (change.done, "died" in change.note) == (False, True)
    assert [(step.before, step.after) for step in journal.steps()] == [("100", "200")]
    assert kernel(root)["fs/nr_open"] == "200"


def test_a_value_that_is_so_already_is_not_journaled(journal: Journal) -> None:
    (change,) = journal.write({TCP_MEM: "1  2 3"})
    assert (change.done, change.note) == (True, "is so already")
    assert journal.steps() == []


def test_a_setting_that_does_not_exist_is_told(journal: Journal) -> None:
    (change,) = journal.write({FILE_MAX: "1"})
    assert (change.done, change.note) == (False, "there is no such setting here")


def test_several_writes_stack_and_the_oldest_value_comes_back(journal: Journal, root: Path) -> None:
    for value in ("200", "300", "400"):
        journal.write({NR_OPEN: value})
    assert all(change.done for change in undo_all(journal))
    assert kernel(root) == VALUES
    assert journal.steps() == []


def test_a_step_that_leaves_the_middle_hands_down_what_was_before(journal: Journal, root: Path) -> None:
    for session, value in (("a", "200"), ("b", "300"), ("c", "400")):
        Journal(TUNING, session).write({NR_OPEN: value})
    for session, steps in (("b", [("100", "200"), ("200", "400")]), ("a", [("100", "400")])):
        (change,) = journal.undo(lambda step, session=session: step.session == session)
        assert change.note == module.RAISED
        assert [(step.before, step.after) for step in journal.steps()] == steps
    undo_all(journal)
    assert kernel(root) == VALUES


def test_a_death_between_journal_and_write_leaves_nothing_to_put_back(
    root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        writing(patch, killed_before)
        with pytest.raises(Killed):
            journal.write({NR_OPEN: "200"})
    assert len(journal.steps()) == 1
    assert notes(undo_all(journal)) == {NR_OPEN: module.AS_BEFORE}
    assert kernel(root) == VALUES
    assert undo_all(journal) == []


def test_a_death_right_after_the_write_is_put_back(
    root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        writing(patch, killed_after)
        with pytest.raises(Killed):
            journal.write({NR_OPEN: "200", QUEUE: "4096"})
    assert kernel(root) == VALUES | {"fs/nr_open": "200"}
    undo_all(journal)
    assert kernel(root) == VALUES


@pytest.mark.parametrize("dying", [killed_before, killed_after])
@pytest.mark.parametrize("act", [lambda journal: journal.write({NR_OPEN: "300"}), undo_all], ids=["write", "undo"])
def test_a_death_upon_an_earlier_write_still_brings_back_the_oldest(
    root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, dying: Any, act: Any
) -> None:
    journal.write({NR_OPEN: "200"})
    with monkeypatch.context() as patch:
        writing(patch, dying)
        with pytest.raises(Killed):
            act(journal)
    undo_all(journal)
    assert kernel(root) == VALUES
    assert journal.steps() == []


def test_a_value_that_somebody_else_has_set_is_left_alone(journal: Journal, root: Path) -> None:
    journal.write({NR_OPEN: "200"})
    (root / "fs/nr_open").write_text("250\n")
    (change,) = undo_all(journal)
    assert change.done
    assert "250" in change.note
    assert kernel(root)["fs/nr_open"] == "250"
    assert undo_all(journal) == []


def test_after_a_boot_the_step_is_dropped_and_nothing_written(journal: Journal, root: Path) -> None:
    journal.write({NR_OPEN: "200"})
    (root / BOOT).write_text("second\n")
    # A value of the new boot, which by chance is the one that was written in the old one.
    assert notes(undo_all(journal)) == {NR_OPEN: module.BOOTED}
    assert kernel(root)["fs/nr_open"] == "200"
    assert undo_all(journal) == []


def test_a_setting_that_has_gone_is_dropped(journal: Journal, root: Path) -> None:
    journal.write({NR_OPEN: "200"})
    (root / "fs/nr_open").unlink()
    assert notes(undo_all(journal)) == {NR_OPEN: module.GONE}
    assert undo_all(journal) == []


def test_what_may_not_be_written_is_told_and_the_others_are_written(journal: Journal, root: Path) -> None:
    (root / "kernel/threads-max").unlink()
    (root / "kernel/threads-max").symlink_to("/proc/sys/kernel/ngroups_max")  # Which may not be written either.
    changes = journal.write({NR_OPEN: "200", "kernel.threads-max": "9", QUEUE: "4096"})
    assert [change.done for change in changes] == [True, False, True]
    assert changes[1].note.startswith("cannot be written: ")
    assert [step.name for step in journal.steps()] == [NR_OPEN, QUEUE]
    undo_all(journal)
    assert kernel(root) == VALUES


def test_what_may_not_be_put_back_stays_in_the_journal(
    journal: Journal, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.write({NR_OPEN: "200"})
    with monkeypatch.context() as patch:
        writing(patch, lambda *_: (_ for _ in ()).throw(PermissionError(1, "no")))
        (change,) = undo_all(journal)
    assert (change.done, change.after) == (False, "200")
    undo_all(journal)
    assert kernel(root) == VALUES


def test_without_a_journal_nothing_is_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("wslab.machine.state.ROOT_STATE", str(tmp_path / "file"))
    (change,) = Journal().write({NR_OPEN: "200"})
    assert not change.done
    assert change.note.startswith("nothing written: ")
    assert kernel(root) == VALUES


def test_what_the_kernel_made_of_a_value_is_what_is_put_back(
    root: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        writing(patch, in_pages)
        (change,) = journal.write({NR_OPEN: "600"})
    assert (change.after, change.done) == ("1024", True)
    assert undo_all(journal)[0].note == ""
    assert kernel(root) == VALUES


def test_a_session_puts_back_its_own_and_the_user_gets_back_the_oldest(journal: Journal, root: Path) -> None:
    Journal(TUNING, "stage").write({NR_OPEN: "200"})
    journal.write({NR_OPEN: "300"})
    (change,) = journal.undo(lambda step: step.session == "stage")
    assert change.note == module.RAISED
    assert kernel(root)["fs/nr_open"] == "300"
    undo_all(journal)
    assert kernel(root) == VALUES


def test_a_session_upon_the_users_value_brings_back_that(journal: Journal, root: Path) -> None:
    journal.write({NR_OPEN: "200"})
    Journal(TUNING, "stage").write({NR_OPEN: "300"})
    journal.undo(lambda step: step.session == "stage")
    assert kernel(root)["fs/nr_open"] == "200"
    undo_all(journal)
    assert kernel(root) == VALUES


def test_what_a_target_had_raised_comes_back_after_an_enclosure_has_lowered_it(journal: Journal, root: Path) -> None:
    journal.write({NR_OPEN: "200"})
    enclosure = Journal(ENCLOSURE, "wslab-a")
    enclosure.write({NR_OPEN: "50"})
    assert notes(journal.undo(lambda step: step.purpose == TUNING)) == {NR_OPEN: module.RAISED}
    undo_all(enclosure)
    assert kernel(root) == VALUES


def test_parts_that_were_noted_and_never_made_are_undone_by_doing_nothing() -> None:
    enclosure = Journal(ENCLOSURE, "wslab-a")
    enclosure.note(CGROUP, "wslab-never-made")
    enclosure.note(NETNS, f"wslab-never-made-{os.getpid()}")
    assert [change.done for change in undo_all(enclosure)] == [True, True]
    assert enclosure.steps() == []


def test_a_control_group_is_removed_from_every_tree_and_one_that_is_busy_stays_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "REMOVE_SECONDS", 0.0)
    folders = [tmp_path / "cgroup" / tree / "wslab-a-server" for tree in ("memory", "pids", "unified")]
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[1] / "process").mkdir()
    enclosure = Journal(ENCLOSURE, "wslab-a")
    enclosure.note(CGROUP, "wslab-a-server")
    (change,) = undo_all(enclosure)
    assert (change.key, change.done) == ("wslab-a-server", False)
    assert [step.name for step in enclosure.steps()] == ["wslab-a-server"]
    (folders[1] / "process").rmdir()
    assert undo_all(enclosure)[0].done
    assert not any(folder.exists() for folder in folders)
    assert enclosure.steps() == []


def test_a_setting_that_another_run_has_claimed_is_put_back_after_that(journal: Journal, root: Path) -> None:
    journal.write({NR_OPEN: "200"})
    claim = claim_sysctl(NR_OPEN)
    (change,) = undo_all(journal)
    assert (change.done, kernel(root)["fs/nr_open"]) == (False, "200")
    os.close(claim)
    assert undo_all(journal)[0].done
    assert kernel(root) == VALUES


def test_the_steps_of_a_living_owner_are_left_alone_and_those_of_a_dead_one_are_undone(root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from wslab.machine import journal, sysctls;"
        "sysctls.SYSCTLS = Path(sys.argv[1]);"
        f"journal.Journal(journal.ENCLOSURE, 'wslab-a').write({{{NR_OPEN!r}: '50'}});"
        "print('noted', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "noted\n"
        assert undo_orphaned() == []
        assert kernel(root)["fs/nr_open"] == "50"
        owner.send_signal(signal.SIGKILL)
    assert undo_orphaned() == []
    assert kernel(root) == VALUES
    assert Journal().steps() == []


def test_the_owner_of_an_earlier_boot_is_dead_whoever_has_its_pid_now(root: Path) -> None:
    Journal(ENCLOSURE, "wslab-a").write({NR_OPEN: "50"})
    (step,) = Journal().steps()
    assert not step.abandoned
    (root / BOOT).write_text("second\n")
    assert step.abandoned


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"steps": [{"kind": "x"}]}', '{"steps": 3}', '{"steps": [3]}'])
def test_what_is_no_journal_is_refused_with_its_path(journal: Journal, text: str) -> None:
    journal.path.parent.mkdir(parents=True)
    journal.path.write_text(text, "utf-8")
    with pytest.raises(BadInput, match=f"{journal.path} is not a journal"):
        journal.steps()
    assert [line.startswith(str(journal.path)) for line in undo_orphaned()] == [True]


def test_a_user_without_a_home_has_an_empty_journal_and_is_told_why_nothing_is_written(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Path:
        raise FileNotFoundError("no home")

    monkeypatch.setattr("wslab.machine.state.state_folder", refused)
    monkeypatch.setattr(module, "state_folder", refused)
    assert journal.steps() == []
    (change,) = journal.write({NR_OPEN: "200"})
    assert change.note.endswith("no home")


def test_a_field_of_a_wrong_type_makes_it_no_journal(journal: Journal) -> None:
    put(name=3)
    with pytest.raises(BadInput, match="is not a journal"):
        journal.steps()


def test_a_journal_that_cannot_be_read_is_not_an_empty_one(journal: Journal) -> None:
    journal.path.mkdir(parents=True)
    with pytest.raises(BadInput, match=f"{journal.path} cannot be read"):
        journal.steps()


@pytest.mark.parametrize(
    "step",
    [
        {"name": "kernel.core_pattern", "before": "9", "after": "100"},
        {"name": "{victim}", "before": "9", "after": "100"},
        {"name": "../victim", "before": "9", "after": "100"},
        {"name": NR_OPEN, "before": "|/bin/sh", "after": "100"},
        {"kind": "cgroup", "name": "{folder}"},
        {"kind": "cgroup", "name": "../folder"},
        {"kind": "netns", "name": "../folder"},
        {"kind": "netns", "name": "mine"},
        {"kind": "folder", "name": "wslab-a"},
    ],
)
def test_a_step_that_wslab_never_takes_is_named_and_left_alone(
    journal: Journal, root: Path, tmp_path: Path, step: dict[str, str]
) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("100\n")
    folder.mkdir()
    (root / "kernel/core_pattern").write_text("100\n")
    (tmp_path / "cgroup/memory").mkdir(parents=True)
    put(**{key: value.format(victim=victim, folder=folder) for key, value in step.items()})
    (change,) = undo_all(journal)
    assert (change.done, "left alone" in change.note) == (False, True)
    assert (victim.read_text(), (root / "kernel/core_pattern").read_text()) == ("100\n", "100\n")
    assert folder.is_dir()
    assert kernel(root) == VALUES
    assert len(journal.steps()) == 1


def test_a_setting_that_wslab_never_writes_is_not_written(journal: Journal, root: Path) -> None:
    (root / "kernel/core_pattern").write_text("core\n")
    (change,) = journal.write({"kernel.core_pattern": "1"})
    assert not change.done
    assert (root / "kernel/core_pattern").read_text() == "core\n"


def test_the_journal_is_in_the_state_folder(tmp_path: Path) -> None:
    assert Journal().path == tmp_path / "state" / "wslab" / FILE


@pytest.mark.skipif(not os.access("/proc/sys/fs/file-max", os.W_OK), reason="needs the right to write settings")
def test_a_real_setting_goes_there_and_back(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysctls, "SYSCTLS", Path("/proc/sys"))
    before = read_sysctl(FILE_MAX)
    try:
        (change,) = journal.write({FILE_MAX: str(int(before) + 1)})
        assert (change.done, read_sysctl(FILE_MAX)) == (True, str(int(before) + 1))
    finally:
        undo_all(journal)
    assert read_sysctl(FILE_MAX) == before
    assert journal.steps() == []
