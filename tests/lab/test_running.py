"""What is refused before a server is started or watched, in one line that says what to do."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from wslab.core.quantities import BadInput
from wslab.core.servers import SERVER_KINDS, Need, ServerKind
from wslab.core.stage import Stage
from wslab.lab import running
from wslab.lab.running import check_server, look_at_running


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"server": "node my.js"}, "program node is not installed: apt-get install nodejs"),
        ({"server": "no-such-program --port {port}"}, "no-such-program is not installed, and no folder of PATH has it"),
        ({"server": "/nowhere/server {port}"}, "/nowhere/server is not there"),
        ({"server": "./file {port}"}, "./file is no program that can be run"),
        ({"server": "/bin/sh {port}", "server_dir": "/nowhere"}, "server_dir=/nowhere is no folder"),
        ({"server": "lean", "server_pid": "1"}, "needs the ws:// address"),
        ({"server": "ws://127.0.0.1:9", "server_pid": "999999999"}, "there is no such process"),
        ({"server": "ws://127.0.0.1:9", "server_port": "9"}, "an address has its own"),
    ],
)
def test_what_is_missing_is_one_line(
    given: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=said) as refused:
        check_server(Stage.of(**given))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "need", [{"program": "no-such-program"}, {"module": "no_such_module"}, {"path": "no/such/file"}]
)
def test_what_a_kind_needs_is_named_with_the_command_that_installs_it(
    need: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = ServerKind(name="made", summary="", command="x {port}", needs=(Need(install="install it", **need),))
    monkeypatch.setitem(SERVER_KINDS, "made", kind)
    with pytest.raises(BadInput, match=r"server=made needs no.such.\w+, which is not installed: install it"):
        check_server(Stage.of(server="made"))


def test_a_port_in_use_is_refused_with_the_process_that_has_it() -> None:
    used = f"in use already: by process {os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(BadInput, match=used):
        check_server(Stage.of(server="/bin/sh {port}", server_port=listener.getsockname()[1]))


def test_a_relative_program_counts_from_the_servers_folder(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.touch(0o755)
    check_server(Stage.of(server="./server {port}", server_dir=str(tmp_path)))


def test_a_running_server_is_found_by_its_port_or_its_pid() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = look_at_running(Stage.of(server=f"ws://127.0.0.1:{port}"))
        assert found.pids[0] == os.getpid()
        assert found.limits["server_fd_limit"]
        assert found.note == ""
        given = look_at_running(Stage.of(server="ws://192.0.2.1:9", server_pid=os.getpid()))
        assert given.pids[0] == os.getpid()


def test_of_a_server_elsewhere_the_run_says_that_only_the_swarms_side_is_known() -> None:
    assert "192.0.2.1 is not this machine" in look_at_running(Stage.of(server="ws://192.0.2.1:9")).note
    assert "cannot be seen" in look_at_running(Stage.of(server="ws://127.0.0.1:1")).note
    assert look_at_running(Stage()) == running.Running()
