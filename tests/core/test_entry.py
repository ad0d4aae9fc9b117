"""Paths, headers and subprotocols as a person gives them."""

from __future__ import annotations

import pytest

from wslab.core.entry import NOT_RECORDED, parse_headers, parse_path, parse_subprotocol, recorded_headers
from wslab.core.quantities import BadInput
from wslab.core.stage import Stage


@pytest.mark.parametrize(
    ("given", "headers"),
    [
        (None, ()),
        ("", ()),
        ((), ()),
        ("Authorization: Bearer abc", ("Authorization: Bearer abc",)),
        ("A:1\n\nB:  2 ", ("A: 1", "B: 2")),
        (["Cookie: a=b; c=d", "Origin: https://example.org"], ("Cookie: a=b; c=d", "Origin: https://example.org")),
        (("Host: example.org",), ("Host: example.org",)),
        (["X-User: {n}"], ("X-User: {n}",)),
    ],
)
def test_headers_are_lines_or_a_list(given: object, headers: tuple[str, ...]) -> None:
    assert parse_headers(given) == headers
    assert parse_headers(list(headers)) == headers


@pytest.mark.parametrize(
    "given",
    [
        ["A: b\r\nC: d"],
        ["A: b\nC: d"],
        "A: b\r",
        "A: \x00",
        "A: é",
        "A",
        ": b",
        "A b: c",
        "Upgrade: h2c",
        "connection: close",
        "Sec-WebSocket-Key: x",
        "sec-websocket-protocol: x",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "A: " + "x" * 20_000,
        5,
        [5],
        f"Authorization: {NOT_RECORDED}",
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_in_one_line(given: object) -> None:
    with pytest.raises(BadInput) as refused:
        Stage.of(headers=given)
    assert "headers" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_recorded_has_no_secrets() -> None:
    stage = Stage.of(headers=["Authorization: Bearer abc", "cookie: s=1", "X-Api-Key: k", "Origin: http://a"])
    assert stage.as_recorded()["headers"] == [
        f"Authorization: {NOT_RECORDED}",
        f"cookie: {NOT_RECORDED}",
        f"X-Api-Key: {NOT_RECORDED}",
        "Origin: http://a",
    ]
    assert Stage.of(**stage.as_dict()) == stage
    assert recorded_headers(()) == []


@pytest.mark.parametrize("path", ["", "/", "/chat?user={n}&key={hex}", "/a/%7B"])
def test_a_path_may_have_fields(path: str) -> None:
    assert parse_path(path) == path


@pytest.mark.parametrize("path", ["chat", "/a b", "/a\r\nX: y", "/ä", "/a#b", "/{N}", "/{", 5, "/" + "x" * 20_000])
def test_what_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(BadInput, match="path="):
        parse_path(path)


@pytest.mark.parametrize("name", ["a b", "a,b", "ä", "a\r\nb", 5])
def test_what_is_no_subprotocol_is_refused(name: object) -> None:
    with pytest.raises(BadInput, match="subprotocol="):
        parse_subprotocol(name)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"server": "tcp_floor", "path": "/a"}, "path"),
        ({"server": "tcp_floor", "headers": "A: b"}, "headers"),
        ({"server": "tcp_floor", "proof": "ping"}, "pings"),
        ({"server": "tcp_floor", "workload": "broadcast"}, "broadcasts"),
        ({"server": "asyncio", "workload": "broadcast"}, "needs lean"),
        ({"workload": "broadcast", "proof": "echo"}, "proof"),
        ({"workload": "broadcast", "message_bytes": "64KiB"}, "message_bytes"),
        ({"workload": "chat"}, "idle, echo, broadcast"),
        ({"proof": "pong"}, "auto, echo, ping"),
    ],
)
def test_what_does_not_go_together_is_refused(parameters: dict[str, str], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        Stage.of(**parameters)


@pytest.mark.parametrize(("workload", "rate"), [("idle", 0.0), ("broadcast", 0.0), ("echo", 0.5)])
def test_only_echoes_have_a_rate(workload: str, rate: float) -> None:
    assert Stage.of(workload=workload, message_rate=0.5).message_rate == rate
