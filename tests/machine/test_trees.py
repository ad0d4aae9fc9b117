"""Process trees and listening sockets, as the kernel shows them."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventually import eventually
from wslab.machine import trees

TREE = "import subprocess, sys; subprocess.run(['sleep', '60'])"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=77) as listener:
        yield listener


def test_all_below_a_process_are_its_descendants() -> None:
    top = subprocess.Popen([sys.executable, "-c", TREE])
    try:
        (below,) = eventually(lambda: trees.descendants(top.pid))
        assert {top.pid, below} <= set(trees.descendants(os.getpid()))
    finally:
        for pid in trees.descendants(top.pid):
            os.kill(pid, 9)
        top.wait()


def test_descendants_come_from_the_threads_of_each_process(tmp_path: Path) -> None:
    for pid, thread, children in ((1, 1, "2 3"), (1, 7, "4"), (2, 2, "5"), (5, 5, "1")):
        folder = tmp_path / str(pid) / "task" / str(thread)
        folder.mkdir(parents=True)
        (folder / "children").write_text(children + " ")
    assert sorted(trees.descendants(1, tmp_path)) == [2, 3, 4, 5]
    assert trees.descendants(9, tmp_path) == []


def test_a_listener_is_found_with_its_queue(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        (found,) = [one for one in trees.listeners() if one.port == port]
        assert (found.address, found.waiting, found.backlog) == ("127.0.0.1", 1, 77)
        assert found.inode == os.fstat(listener.fileno()).st_ino


def test_without_socket_diagnosis_the_table_of_connections_is_read(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(port: int) -> list[trees.Listener]:
        raise OSError("the kernel has no diagnosis of TCP sockets")

    port = listener.getsockname()[1]
    monkeypatch.setattr(trees, "diagnosed_listeners", refuse)
    (found,) = [one for one in trees.listeners() if one.port == port]
    assert (found.address, found.inode) == ("127.0.0.1", os.fstat(listener.fileno()).st_ino)


def test_the_addresses_of_a_table_of_ipv6_are_read(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    loopback = socket.inet_pton(socket.AF_INET6, "::1")
    shown = "".join(f"{struct.unpack('=I', loopback[at : at + 4])[0]:08X}" for at in range(0, 16, 4))
    row = f"0: {shown}:1F90 {'0' * 32}:0000 0A 00000000:00000005 00:0 0 0 0 4711 1"
    (found,) = trees._listed(f"header\n{row}\n")
    assert (found.address, found.port, found.waiting, found.inode) == ("::1", 8080, 5, 4711)


def test_the_owner_of_a_socket_is_who_has_it_open(listener: socket.socket) -> None:
    inode = os.fstat(listener.fileno()).st_ino
    assert trees.owners([inode]) == trees.owners([inode], [os.getpid(), 1]) == [os.getpid()]
    assert trees.owners([]) == []


def test_a_program_that_only_starts_the_server_counts_for_nothing(listener: socket.socket) -> None:
    other = subprocess.Popen(["sleep", "60"])
    try:
        limits = trees.server_limits([other.pid, os.getpid()], listener.getsockname()[1])
        assert limits["server_backlog"] == 77
        assert limits["server_uid"] == os.getuid()
        only = trees.server_limits([other.pid], listener.getsockname()[1])
        assert only["server_processes"] == 1
    finally:
        other.kill()
        other.wait()


def test_processes_that_are_gone_have_no_limits() -> None:
    assert trees.server_limits([], 1) == {}


def test_the_memory_limit_of_a_group_that_binds_the_server_alone_is_its_own(tmp_path: Path) -> None:
    proc, group = tmp_path / "proc", tmp_path / "cgroup"
    for pid, path in (("self", "/"), ("42", "/theirs")):
        (proc / pid).mkdir(parents=True)
        (proc / pid / "cgroup").write_text(f"0::{path}\n")
    (group / "theirs").mkdir(parents=True)
    (group / "theirs" / "memory.max").write_text("100000000\n")
    (group / "theirs" / "memory.current").write_text("30000000\n")
    assert trees._own_group(42, proc, group) == {
        "memory_cgroup_limit_bytes": 100_000_000,
        "memory_cgroup_used_bytes": 30_000_000,
        "memory_cgroup_of": "server",
    }
