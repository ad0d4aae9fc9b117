"""What proves that a connection lives, and what a server says on its own, on both paths of the swarm."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Callable

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from load.rig import KEY, Player, frame, heard, scripted, until, upgraded
from load.test_swarm import echo, swarming, the_library
from wslab.load import scoreboard as words
from wslab.load.engine import state, swarm_words
from wslab.load.swarm.dialects import WebSocket

PING, PONG = 9, 10


async def greets(connection: ServerConnection) -> None:
    """Greet, and never answer a message."""
    try:
        await connection.send("welcome")
        async for _ in connection:
            pass
    except ConnectionClosed:
        pass  # The swarm leaves by a reset.


def test_a_server_that_greets_and_never_echoes_is_proved_by_ping() -> None:
    with the_library(greets) as url, swarming(url, 30, workers=2, proof="auto", message_rate=5.0) as swarm:
        chosen = swarm.wait_for("proof")
        assert (chosen["proof"], chosen["asked"]) == ("ping", "auto")
        assert "a ping was answered" in chosen["why"]
        swarm.run("ramp")
        swarm.tell("hold")
        until(lambda: swarm.count(words.RECEIVED) > 30)
        swarm.run("verify")
        until(lambda: swarm.counts("OPEN", "VERIFIED", "MESSAGES_FAILED") == [30, 30, 0])
        assert swarm.counts("MESSAGES_UNASKED", "MESSAGES_REPEATED") == [30, 0]
        assert swarm.board.failures() == {}


def test_a_server_that_echoes_is_proved_by_echo() -> None:
    with the_library(echo) as url, swarming(url, 2, proof="auto") as swarm:
        assert swarm.wait_for("proof")["proof"] == "echo"
        swarm.run("ramp")
        swarm.run("verify")
        until(lambda: swarm.counts("VERIFIED", "MESSAGES_UNASKED") == [2, 0])


def test_a_server_that_answers_nothing_is_asked_for_pongs_and_its_silence_is_counted() -> None:
    def script(peer: socket.socket) -> None:
        peer.sendall(upgraded(peer))
        while peer.recv(4096):
            pass

    with scripted(script) as url, swarming(url, 2, proof="ping", echo_timeout_seconds=0.2) as swarm:
        swarm.run("ramp")
        swarm.run("verify")
        until(lambda: swarm.counts("OPEN", "VERIFIED", "MESSAGES_FAILED") == [2, 0, 2])
        assert swarm.board.failures() == {("echo", errno.ETIMEDOUT): 2}


def pongs(answer: Callable[[bytes], bytes], greeting: bytes = b"") -> Callable[[socket.socket], None]:
    """Return a script that answers each ping with what `answer` makes of its payload."""

    def script(peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(upgraded(peer) + greeting)
        while True:
            opcode, payload = heard(peer)
            if opcode == PING:
                peer.sendall(answer(payload))

    return script


def said(opcode: int, payload: bytes) -> bytes:
    return frame(opcode, payload, masked=False)


HELLO, BINARY, LONG = said(1, b"hello"), said(2, b"\x00\xff"), said(1, b"x" * 300)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("answer", "greeting", "unasked"),
    [
        pytest.param(lambda right: right, b"", 0, id="alone"),
        pytest.param(lambda right: right, HELLO, 1, id="a greeting behind the answer"),
        pytest.param(lambda right: HELLO + right, HELLO + BINARY, 4, id="a message before it"),
        pytest.param(lambda right: right + LONG + said(1, b""), b"", 4, id="messages behind it"),
        pytest.param(lambda right: said(PONG, b"unasked") + right, b"", 0, id="another pong"),
        pytest.param(
            lambda right: frame(1, b"a", fin=False, masked=False) + right + said(0, b"b"), b"", 2, id="inside"
        ),
    ],
)
def test_messages_of_the_server_are_counted_and_disturb_no_ping(
    plain: bool, answer: Callable[[bytes], bytes], greeting: bytes, unasked: int
) -> None:
    def reply(payload: bytes) -> bytes:
        return answer(said(PONG, payload))

    with scripted(pongs(reply, greeting)) as url, Player(url, plain=plain, proof="ping") as player:
        player.worker.words[swarm_words.DIALLING] = 1
        player.until(lambda: player.row[words.OPEN] == 1)
        for _ in range(2):
            player.worker.start_verifying(1)
            player.until(lambda: not player.worker.words[swarm_words.VERIFYING])
        player.until(lambda: player.row[words.MESSAGES_UNASKED] == unasked)
        counts = [player.row[word] for word in (words.VERIFIED, words.SENT, words.RECEIVED, words.MESSAGES_FAILED)]
        assert counts == [1, 2, 2, 0]
        player.until(lambda: not player.worker.exchanges)
        (fd,) = [fd for fd in range(len(player.worker.states)) if player.worker.states[fd]]
        assert player.worker.states[fd] == state.OPEN | state.PROVED


@pytest.mark.parametrize("plain", [True, False])
def test_a_pong_with_another_payload_proves_nothing(plain: bool) -> None:
    script = pongs(lambda payload: said(PONG, payload[::-1]))
    with scripted(script) as url, Player(url, plain=plain, proof="ping") as player:
        player.worker.words[swarm_words.DIALLING] = 1
        player.until(lambda: player.row[words.OPEN] == 1)
        player.worker.start_verifying(1)
        player.until(lambda: player.row[words.MESSAGES_FAILED] == 1)
        assert player.row[words.VERIFIED] == 0


def test_a_plain_greeting_needs_no_python_once_the_answer_is_known() -> None:
    script = pongs(lambda payload: said(PONG, payload), HELLO)
    with scripted(script) as url, Player(url, connections=3, pending_max=1, proof="ping") as player:
        read: list[int] = []
        receive = player.worker.receive_bytes
        player.worker.actions[state.BYTES] = lambda: (read.append(1), receive())
        player.worker.words[swarm_words.DIALLING] = 1
        player.until(lambda: player.row[words.OPEN] == 3)
        player.until(lambda: player.row[words.MESSAGES_UNASKED] == 3)
        assert len(read) <= 2  # The first answer, perhaps in two parts.


def test_messages_while_an_echo_is_due_are_unasked_where_the_server_talks_on_its_own() -> None:
    def script(peer: socket.socket) -> None:
        peer.sendall(upgraded(peer) + HELLO)
        while True:
            opcode, payload = heard(peer)
            if opcode == 2:
                peer.sendall(HELLO + said(2, payload))

    with scripted(script) as url, swarming(url, 3, proof="echo") as swarm:
        swarm.run("ramp")
        until(lambda: swarm.count(words.MESSAGES_UNASKED) == 3)
        swarm.run("verify")
        until(lambda: swarm.counts("VERIFIED", "MESSAGES_FAILED", "MESSAGES_UNASKED") == [3, 0, 6])
        assert swarm.count(words.MESSAGES_REPEATED) == 0


# The request.


def test_path_headers_and_subprotocol_reach_the_server() -> None:
    requests: list[tuple[str, str | None, str | None, str | None]] = []

    async def noting(connection: ServerConnection) -> None:
        request = connection.request
        headers = request.headers
        asked = headers.get("Authorization"), headers.get("Sec-WebSocket-Protocol"), headers.get("Host")
        requests.append((request.path, *asked))
        await echo(connection)

    spec = {
        "path": "/user/{n}?token={hex}",
        "headers": ["Authorization: Bearer {n}-{hex}", "Host: example.org"],
        "subprotocol": "chat",
    }
    with the_library(noting, subprotocols=["chat"]) as url, swarming(url, 12, workers=2, **spec) as swarm:
        swarm.run("ramp")
        swarm.run("verify")
        until(lambda: swarm.counts("OPEN", "VERIFIED", "FAILED") == [12, 12, 0])
    found = [re.fullmatch(r"/user/(\d+)\?token=([0-9a-f]{16})", path) for path, *_ in requests]
    assert sorted(int(match[1]) for match in found) == list(range(12))
    assert len({match[2] for match in found}) == 12
    for match, (_, authorization, *others) in zip(found, requests, strict=True):
        assert authorization == f"Bearer {match[1]}-{match[2]}"
        assert others == ["chat", "example.org"]


def test_a_request_with_fields_is_put_together_from_its_pieces() -> None:
    dialect = WebSocket("h", "/{n}/{hex}", headers=["X: {n}{n}"])
    request = dialect.request(KEY, 1234)
    found = re.match(rb"GET /1234/[0-9a-f]{16} HTTP/1\.1\r\nHost: h\r\n.*X: 12341234\r\n.*-Key: " + KEY, request, re.S)
    assert found
