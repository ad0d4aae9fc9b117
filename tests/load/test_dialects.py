"""What the swarm says, and what hears the rest."""

from __future__ import annotations

import pytest

from load.rig import KEY, accept_of
from wslab.load.servers.conversation import Conversation
from wslab.load.swarm.dialects import KEY_BYTES, Tcp, WebSocket, accept_at, dialect_of

ANSWER = b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\nConnection: Upgrade\r\n\r\n"


def dialect() -> WebSocket:
    return WebSocket("[::1]:8080", "/chat?room=1")


def test_a_url_has_its_dialect() -> None:
    assert isinstance(dialect_of("tcp://127.0.0.1:1"), Tcp)
    request = dialect_of("ws://[::1]:8080/chat?room=1").hello
    assert request.startswith(b"GET /chat?room=1 HTTP/1.1\r\nHost: [::1]:8080\r\n")


def test_what_it_says_is_what_a_server_grants() -> None:
    websocket = dialect()
    request = websocket.hello[: websocket.key_at] + KEY + websocket.hello[websocket.key_at + KEY_BYTES :]
    reply = Conversation(greeting=True).receive(request)
    assert reply.startswith(b"HTTP/1.1 101 ")
    assert accept_of(KEY) in reply


def test_the_accept_value_of_an_answer_is_found() -> None:
    answer = ANSWER % accept_of(KEY)
    assert answer[accept_at(answer) :].startswith(accept_of(KEY))


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
    assert accept_at(answer) is None


def test_the_parts_of_the_floor_are_put_together_by_size() -> None:
    parts = Tcp().exchange(None, 4)
    assert parts.receive(b"ab") == b""
    assert (parts.messages, parts.settled) == ([], False)
    parts.receive(b"cdABCDx")
    assert (parts.messages, parts.settled) == ([b"abcd", b"ABCD"], False)
    parts.receive(b"yz!")
    assert (parts.messages[2:], parts.settled) == ([b"xyz!"], True)
