"""What the swarm says, and what it takes for an answer."""

from __future__ import annotations

from base64 import b64decode

import pytest

from load.rig import KEY, accept_of
from wslab.load.servers.conversation import Conversation
from wslab.load.swarm.dialects import DRAWS, Tcp, WebSocket, dialect_of, drawn

ANSWER = b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\nConnection: Upgrade\r\n\r\n"


def dialect() -> WebSocket:
    return WebSocket("[::1]:8080", "/chat?room=1")


def test_a_url_has_its_dialect() -> None:
    assert isinstance(dialect_of("tcp://127.0.0.1:1"), Tcp)
    request, _ = dialect_of("ws://[::1]:8080/chat?room=1").hello()
    assert request.startswith(b"GET /chat?room=1 HTTP/1.1\r\nHost: [::1]:8080\r\n")


def test_what_it_says_is_what_a_server_grants() -> None:
    websocket = dialect()
    request, key = websocket.hello()
    reply = Conversation(greeting=True).receive(request)
    assert reply.startswith(b"HTTP/1.1 101 ")
    assert accept_of(key) in reply


def test_every_connection_has_a_fresh_key_of_16_bytes_also_past_the_first_pool() -> None:
    websocket = dialect()
    keys = {websocket.hello()[1] for _ in range(DRAWS + 10)}
    assert len(keys) == DRAWS + 10
    assert {len(b64decode(key, validate=True)) for key in keys} == {16}


def test_draws_are_whole_and_differ() -> None:
    draws = drawn(4)
    assert len({next(draws) for _ in range(50)}) > 45
    assert len(next(draws)) == 4


def test_an_answer_is_known_once_it_was_remembered_and_only_with_the_accept_value_of_its_own_key() -> None:
    websocket, other = dialect(), b"x3JJHMbDL1EzLkh9GBhXDw=="
    assert websocket.greeted(ANSWER % accept_of(KEY), KEY) is None
    websocket.remember(ANSWER % accept_of(KEY))
    assert websocket.greeted(ANSWER % accept_of(KEY), KEY) is True
    assert websocket.greeted(ANSWER % accept_of(other), other) is True
    assert websocket.greeted(ANSWER % accept_of(KEY), other) is None
    assert websocket.greeted(ANSWER % accept_of(KEY) + b"\x81\x00", KEY) is None
    assert websocket.greeted((ANSWER % accept_of(KEY))[:-1], KEY) is None
    assert websocket.greeted((ANSWER % accept_of(KEY)).replace(b"Upgrade: w", b"Upgrade: W"), KEY) is None


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER.replace(b"Sec-W", b"sec-w") % accept_of(KEY),
        ANSWER % accept_of(KEY) + b"more",
        b"",
        b"HTTP/1.1 101 x\r\n\r\n",
    ],
)
def test_an_answer_of_another_form_is_not_remembered(answer: bytes) -> None:
    websocket = dialect()
    websocket.remember(answer)
    assert websocket.answer == (b"", b"")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_message_is_what_a_server_echoes_as_expected(size: int) -> None:
    payload = bytes(n % 251 for n in range(size))
    data, echo = dialect().message(payload)
    assert Conversation(greeting=False).receive(data) == echo
    assert echo.endswith(payload)


def test_no_two_messages_are_masked_alike() -> None:
    websocket = dialect()
    assert len({websocket.message(b"same")[0][2:6] for _ in range(50)}) > 45


def test_the_floor_says_one_byte_and_messages_as_they_are() -> None:
    floor = Tcp()
    hello, remembered = floor.hello()
    assert len(hello) == 1
    assert floor.greeted(hello, remembered) is True
    assert floor.greeted(b"\x02", remembered) is None
    assert floor.greeted(hello * 2, remembered) is None
    assert floor.message(b"abc") == (b"abc", b"abc")


def test_the_parts_of_the_floor_are_put_together_by_size() -> None:
    parts = Tcp().exchange(None, 4)
    assert parts.receive(b"ab") == b""
    assert (parts.messages, parts.settled) == ([], False)
    parts.receive(b"cdABCDx")
    assert (parts.messages, parts.settled) == ([b"abcd", b"ABCD"], False)
    parts.receive(b"yz!")
    assert (parts.messages[2:], parts.settled) == ([b"xyz!"], True)
