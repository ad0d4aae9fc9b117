"""The parameter `server`: a kind, a command line or an address, and what each of them means for a plan."""

from __future__ import annotations

import pytest

from core.hosts import host
from wslab.core.ceilings import Ceiling, ceilings
from wslab.core.plan import before_start, resolve
from wslab.core.quantities import BadInput
from wslab.core.servers import (
    NAME_CHARS,
    SERVER_KINDS,
    fill,
    is_command,
    is_foreign,
    is_url,
    parse_server,
    serves_in_one_process,
    short_name,
)
from wslab.core.stage import Stage

COMMAND = "node my.js --port {port}"
URL = "ws://127.0.0.1:9000/chat?room=1"


@pytest.mark.parametrize(
    ("typed", "url", "command"),
    [("lean", False, False), (f" {COMMAND} ", False, True), ("./my-server", False, True), (URL, True, False)],
)
def test_a_server_is_a_kind_a_command_or_an_address(typed: str, url: bool, command: bool) -> None:
    server = parse_server(typed)
    assert server == typed.strip()
    assert (is_url(server), is_command(server)) == (url, command)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("leen", "did you mean lean"),
        ("", "one of lean"),
        (None, "one of lean"),
        ("node 'my.js", "quotation"),
        ("http://127.0.0.1:9000", "expected a URL such as ws://"),
        ("node\0 x", "a command such as"),
    ],
)
def test_what_is_none_of_them_is_refused_in_one_line(typed: object, said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        parse_server(typed)
    assert "\n" not in str(refused.value)


def test_placeholders_are_filled_inside_words_and_other_braces_stay() -> None:
    words = fill("run '{host}:{port}' --n={shards} ${HOME} {}", {"host": "::1", "port": 9, "shards": 2})
    assert words == ["run", "::1:9", "--n=2", "${HOME}", "{}"]


@pytest.mark.parametrize(("server", "shards"), [("lean", 2), (COMMAND, 1), (URL, 0)])
def test_a_command_is_planned_as_one_process_and_a_running_server_as_none(server: str, shards: int) -> None:
    machine = host(cpu_count=4)
    assert resolve(Stage(connections=1000, server=server), machine).server_shards == shards
    asked = resolve(Stage(connections=1000, server=server, server_shards=3), machine)
    assert asked.server_shards == (3 if shards else 0)


def test_our_own_kinds_are_not_watched_from_outside() -> None:
    assert [is_foreign(server) for server in ("lean", COMMAND, URL)] == [False, True, True]
    assert serves_in_one_process(COMMAND)
    assert all(kind.module or kind.command for kind in SERVER_KINDS.values())


def planned_fd_row(**limits: int) -> Ceiling:
    """Return the row of the fd limit of a command, before it is started on a host with these limits."""
    stage = Stage(connections=2000, server=COMMAND)
    machine = before_start(stage, host(**limits))
    rows = ceilings(machine, resolve(stage, machine))
    (row,) = [row for row in rows if (row.limit, row.side, row.scope) == ("fd_limit", "server", "as planned")]
    return row


def test_before_it_runs_a_command_is_expected_to_have_the_callers_fd_limit() -> None:
    row = planned_fd_row(fd_soft=1024, fd_hard=1024)
    assert (row.value, row.ceiling_connections, row.binding) == (1024, 960, True)


def test_a_limit_that_the_server_may_raise_itself_is_told_and_does_not_bind() -> None:
    row = planned_fd_row(fd_soft=1024, fd_hard=20_000)
    assert (row.value, row.ceiling_connections, row.binding) == (1024, 960, False)
    assert "20,000" in row.note


def test_our_own_servers_and_running_ones_are_planned_as_before() -> None:
    machine = host()
    assert before_start(Stage(), machine) == machine
    assert before_start(Stage(server=URL), machine) == machine


def test_a_long_command_is_short_in_titles() -> None:
    assert short_name("lean") == "lean"
    assert len(short_name("node " + "x" * 100)) == NAME_CHARS
