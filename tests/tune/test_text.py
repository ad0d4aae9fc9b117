"""Settings written down: commands, files to keep, and flags of a container."""

from __future__ import annotations

from typing import Any

import pytest

from wslab.core.settings import CGROUP, NEEDED, RECOMMENDED, RLIMIT, SYSCTL, Setting
from wslab.tune.text import docker, files


def setting(key: str, needed: Any, kind: str = SYSCTL, rank: str = NEEDED, per_container: bool = False) -> Setting:
    return Setting(
        key=key,
        kind=kind,
        rank=rank,
        limit="a_limit",
        present=1,
        needed=needed,
        why="a reason",
        needs_root=True,
        per_container=per_container,
    )


WATCHES = setting("fs.epoll.max_user_watches", 4_400_000)
PORTS = setting("net.ipv4.ip_local_port_range", "1024 65535", per_container=True)
QUEUE = setting("net.core.somaxconn", 4096, rank=RECOMMENDED, per_container=True)
FILES = setting("nofile", 1_048_576, kind=RLIMIT, per_container=True)
PROCESSES = setting("nproc", 3000, kind=RLIMIT, per_container=True)
TASKS = setting("pids.max", 3000, kind=CGROUP, per_container=True)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (WATCHES, "sudo sysctl -w fs.epoll.max_user_watches=4400000"),
        (PORTS, 'sudo sysctl -w "net.ipv4.ip_local_port_range=1024 65535"'),
        (FILES, "sudo prlimit --pid $$ --nofile=1048576:1048576"),
        (TASKS, 'sudo systemctl set-property --runtime "user-$(id -u).slice" TasksMax=3000'),
    ],
)
def test_a_setting_is_made_by_one_command(item: Setting, expected: str) -> None:
    assert item.command == expected


def test_the_files_hold_each_setting_in_the_words_of_their_reader() -> None:
    found = files([WATCHES, PORTS, QUEUE, FILES, PROCESSES, TASKS], "2M connections")
    bare = {name: [line for line in text.splitlines() if line[0] != "#"] for name, text in found.items()}
    assert bare == {
        "sysctl.d/90-wslab.conf": [
            "fs.epoll.max_user_watches = 4400000",
            "net.ipv4.ip_local_port_range = 1024 65535",
            "net.core.somaxconn = 4096",
        ],
        "security/limits.d/90-wslab.conf": [
            "* - nofile 1048576",
            "root - nofile 1048576",
            "* - nproc 3000",
            "root - nproc 3000",
        ],
        "systemd/system/user@.service.d/90-wslab.conf": ["[Service]", "LimitNOFILE=1048576", "LimitNPROC=3000"],
        "systemd/system/user-.slice.d/90-wslab.conf": ["[Slice]", "TasksMax=3000"],
    }
    assert all(text.startswith("# For 2M connections") and text.endswith("\n") for text in found.values())
    assert "# a_limit: a reason; was 1\nfs.epoll" in found["sysctl.d/90-wslab.conf"]
    assert "# a_limit (recommended): a reason; was 1\nnet.core" in found["sysctl.d/90-wslab.conf"]


def test_a_file_without_a_setting_is_left_out() -> None:
    assert list(files([WATCHES], "x")) == ["sysctl.d/90-wslab.conf"]
    assert files([], "x") == {}


def test_a_container_gets_flags_for_what_it_can_have_of_its_own() -> None:
    found = docker([WATCHES, PORTS, QUEUE, FILES, TASKS])
    assert found.flags == (
        '--sysctl "net.ipv4.ip_local_port_range=1024 65535"',
        "--sysctl net.core.somaxconn=4096",
        "--ulimit nofile=1048576:1048576",
        "--pids-limit 3000",
    )
    assert found.host_only == ("fs.epoll.max_user_watches",)
