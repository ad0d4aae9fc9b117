"""What the users of a machine have taken of its limits: in a made tree of /proc, and on this machine."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from wslab.machine import usage
from wslab.machine.usage import epoll_watches_by_user, tracked_most

EPOLL, HEADER = "anon_inode:[eventpoll]", "pos:\t0\nflags:\t02\nmnt_id:\t16\n"


def put(root: Path, pid: int, uid: int, watches: list[int], tracked: str = "", namespace: str = "net:[1]") -> None:
    """Put a process with a file and these epoll instances into a tree of /proc."""
    folder = root / str(pid)
    for name in ("fd", "fdinfo", "ns", "net/stat"):
        (folder / name).mkdir(parents=True)
    (folder / "status").write_text(f"Name:\tx\nUid:\t{uid}\t0\t0\t0\n")
    for descriptor, held in enumerate([0, *watches]):
        (folder / "fd" / str(descriptor)).symlink_to(EPOLL if descriptor else "/dev/null")
        (folder / "fdinfo" / str(descriptor)).write_text(HEADER + "tfd:        1 events:  19 data: 0\n" * held)
    (folder / "ns/net").symlink_to(namespace)
    if tracked:
        (folder / "net/stat/nf_conntrack").write_text(f"entries  drop\n{tracked} 00000000\n{tracked} 00000000\n")


def test_watches_are_summed_by_user(tmp_path: Path) -> None:
    put(tmp_path, 1, 0, [3, 4])
    put(tmp_path, 2, 0, [5])
    put(tmp_path, 3, 1000, [])
    put(tmp_path, 4, 65534, [9])
    (tmp_path / "self").mkdir()
    assert epoll_watches_by_user(tmp_path) == {0: 12, 65534: 9}


def test_a_process_that_may_not_be_looked_at_counts_with_all_that_it_has_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 1, 0, [3, 4])

    def readlink(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "readlink", readlink)
    assert epoll_watches_by_user(tmp_path) == {0: 3}


def test_too_many_descriptors_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "DESCRIPTORS_MOST", 2)
    put(tmp_path, 1, 0, [3, 4])
    with pytest.raises(OSError, match="more than 2 descriptors"):
        epoll_watches_by_user(tmp_path)


def test_of_all_namespaces_the_one_that_tracks_most_counts(tmp_path: Path) -> None:
    assert tracked_most(tmp_path) == 0
    put(tmp_path, 1, 0, [], "00000010")
    put(tmp_path, 2, 0, [], "000000ff", "net:[2]")
    put(tmp_path, 3, 0, [], "", "net:[3]")
    assert tracked_most(tmp_path) == 255


def test_our_own_watches_are_found_on_this_machine() -> None:
    before = epoll_watches_by_user().get(os.getuid(), 0)
    with select.epoll() as epoll:
        pipes = [end for _ in range(50) for end in os.pipe()]
        for end in pipes:
            epoll.register(end, select.EPOLLIN)
        found = epoll_watches_by_user().get(os.getuid(), 0)
        for end in pipes:
            os.close(end)
    # Others of this user come and go meanwhile.
    assert found >= 100
    assert found - before > 50
