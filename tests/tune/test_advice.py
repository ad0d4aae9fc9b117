"""What `wslab tune` says: the settings of a target, their commands and files, and what no setting helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.hosts import GIB, host
from wslab.core.quantities import BadInput
from wslab.machine import sysctls
from wslab.machine.journal import Journal
from wslab.tune import advice as module
from wslab.tune.advice import Tune, tune


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a way to look at a host with some limits changed."""

    def look(connections: Any, **changes: Any) -> Tune:
        parameters = {key: changes.pop(key) for key in ("server_shards", "source_addresses") if key in changes}
        here = host(**{"conntrack_count": 0, "fd_hard": 1_048_576, "memory_headroom_bytes": 90 * GIB, **changes})
        monkeypatch.setattr(module, "read_host", lambda: here)
        return tune(connections, **parameters)

    return look


def test_a_target_that_needs_nothing_is_answered_in_one_line(on_host: Any) -> None:
    found = on_host("100k")
    assert found.text() == "100k needs no setting changed; memory, which no setting raises, holds about 10.9M"
    assert found.status == 0
    assert found.files == {}


def test_the_answer_shows_values_commands_files_and_flags(on_host: Any) -> None:
    text = on_host("3M", somaxconn=128, fd_hard=20_000).text()
    assert text.startswith("3M needs 1 setting changed: fs.epoll.max_user_watches; memory")
    rows = [line.split() for line in text.splitlines()]
    assert ["fs.epoll.max_user_watches", "5491511", "->", "6600000", "epoll_watches", "root"] in [
        row[:6] for row in rows
    ]
    assert "  sudo sysctl -w fs.epoll.max_user_watches=6600000" in text
    assert "/etc/sysctl.d/90-wslab.conf\n" in text
    assert "docker run --sysctl net.core.somaxconn=4096 --ulimit nofile=1048576:1048576" in text
    assert "not per container, set it on the host: fs.epoll.max_user_watches" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_memory_is_told_and_never_asked_for(on_host: Any) -> None:
    short = {"memory_headroom_bytes": 3 * GIB, "cpu_count": 8}
    assert on_host("1M", **short).sentence == (
        "no setting helps 1M; memory, which no setting raises, holds only about 245k"
    )
    assert "needs 1 setting changed" in on_host("3M", **short).sentence
    assert "holds only about 245k" in on_host("3M", **short).sentence


def test_a_limit_that_no_setting_lifts_is_told_with_what_does(on_host: Any) -> None:
    assert on_host("100k", source_addresses=1).notes == [
        "ephemeral_ports ends it at about 28.2k: more source addresses, all of 127/8 is free; or a wider port range"
    ]


def test_what_only_the_asked_layout_needs_is_told(on_host: Any) -> None:
    (note,) = on_host("100k", fd_hard=20_000, server_shards=2).notes
    assert note == "with server_shards, swarm_workers, source_addresses left at auto, nofile need not change"


def test_without_root_it_says_what_happens_by_itself(on_host: Any) -> None:
    (note,) = on_host("3M", uid=1000, file_max=1 << 40).notes
    assert "without root none of these can be written" in note
    assert "3 server shards, 3 swarm workers, 375 source addresses" in note


def test_the_files_are_written_into_the_folder_that_was_named_and_nowhere_else(on_host: Any, tmp_path: Path) -> None:
    found = on_host("3M", fd_hard=20_000)
    paths = found.write(tmp_path / "out")
    assert {str(path.relative_to(tmp_path / "out")): path.read_text("utf-8") for path in paths} == found.files
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == sorted(paths)
    assert len(paths) == 3


def test_a_folder_that_cannot_be_written_is_refused(on_host: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        on_host("3M").write(tmp_path / "file")


def test_the_json_holds_the_same(on_host: Any) -> None:
    found = on_host("3M")
    document = json.loads(json.dumps(found.as_dict()))
    assert document["needed"][0] | {"why": ""} == {
        "key": "fs.epoll.max_user_watches",
        "kind": "sysctl",
        "rank": "needed",
        "limit": "epoll_watches",
        "present": 5_491_511,
        "needed": 6_600_000,
        "why": "",
        "needs_root": True,
        "per_container": False,
    }
    assert document["commands"] == found.commands
    assert next(iter(document["files"])) == "/etc/sysctl.d/90-wslab.conf"
    assert document["memory_holds_connections"] == found.holds


def test_without_a_target_it_is_about_what_the_memory_holds(on_host: Any) -> None:
    assert on_host(None, memory_headroom_bytes=22 * GIB).stage.connections == 2_500_000


def test_what_was_written_and_not_put_back_is_told(
    on_host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysctls, "SYSCTLS", tmp_path / "sys")
    (tmp_path / "sys/fs").mkdir(parents=True)
    (tmp_path / "sys/fs/nr_open").write_text("1")
    Journal().write({"fs.nr_open": "2"})
    assert on_host("100k").notes == ["set by wslab and not put back yet: fs.nr_open; `wslab tune --revert` does"]


def test_a_bad_parameter_is_refused() -> None:
    with pytest.raises(BadInput, match=r"connections=0\.5"):
        tune("0.5")


def test_looking_at_this_machine_changes_nothing(state: Path) -> None:
    assert tune("10k").status == 0
    assert not state.exists()
