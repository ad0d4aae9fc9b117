"""A client's side of a connection in transition, bytes in and bytes out."""

from __future__ import annotations

import errno

import pytest
from websockets.frames import Opcode

from load.rig import ACCEPT, KEY, frame
from wslab.load.swarm.client_slowpath import MESSAGE_BYTES_MAX, Exchange

ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    + ACCEPT
    + b"\r\n\r\n"
)


def said(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a frame as a server sends it."""
    return frame(opcode, payload, fin=fin, rsv=rsv, masked=False)


def unmasked(reply: bytes) -> tuple[int, bytes]:
    """Return opcode and payload of the one short masked frame in `reply`."""
    assert reply[1] == 0x80 | len(reply) - 6
    return reply[0] & 0x0F, bytes(byte ^ reply[2 + n % 4] for n, byte in enumerate(reply[6:]))


@pytest.mark.parametrize("step", [1, 50, len(ANSWER)])
def test_an_answer_is_judged_when_it_is_whole(step: int) -> None:
    exchange = Exchange(KEY)
    for start in range(0, len(ANSWER), step):
        assert not exchange.upgraded
        assert exchange.receive(ANSWER[start : start + step]) == b""
        assert exchange.refusal == ""
    assert exchange.upgraded
    assert exchange.settled
    assert bytes(exchange.answer) == ANSWER


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "no upgrade: HTTP/1.1 403 Forbidden"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "no upgrade: HTTP/1.1 200 OK"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "no upgrade: SSH-2.0-OpenSSH_9"),
        (b"\xff\xfe\r\n\r\n", "no upgrade: \\xff\\xfe"),
        (ANSWER.replace(ACCEPT, ACCEPT[::-1]), "Sec-WebSocket-Accept"),
        (ANSWER.replace(b"Sec-WebSocket-Accept", b"X"), "Sec-WebSocket-Accept"),
        (ANSWER.replace(b"Upgrade: websocket", b"Upgrade: h2c"), "Upgrade header"),
        (ANSWER[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "no extensions supported"),
        (ANSWER[:-2] + b"Sec-WebSocket-Protocol: chat\r\n\r\n", "no subprotocols supported"),
        (b"x" * 70000, "has no end"),
    ],
)
def test_an_answer_that_grants_nothing_is_a_refusal_that_says_why(answer: bytes, refusal: str) -> None:
    exchange = Exchange(KEY)
    exchange.receive(answer)
    assert refusal in exchange.refusal
    assert not exchange.upgraded


def test_frames_right_behind_the_answer_are_heard_and_answered() -> None:
    exchange = Exchange(KEY)
    reply = exchange.receive(ANSWER + said(9, b"early") + said(2, b"welcome") + said(1, b"half")[:4])
    assert unmasked(reply) == (Opcode.PONG, b"early")
    assert exchange.messages == [b"welcome"]
    assert bytes(exchange.answer) == ANSWER
    assert not exchange.settled


def test_a_close_right_behind_the_answer_is_an_upgrade_and_then_a_close() -> None:
    exchange = Exchange(KEY)
    reply = exchange.receive(ANSWER + said(8, b"\x03\xe9"))
    assert unmasked(reply) == (Opcode.CLOSE, b"\x03\xe9")
    assert exchange.upgraded
    assert exchange.closing
    assert (exchange.error, exchange.farewell) == (errno.ESHUTDOWN, "closed with code 1001")


def test_a_message_in_fragments_and_parts_is_put_together() -> None:
    exchange = Exchange(None)
    data = said(2, b"Hel", fin=False) + said(9, b"?") + said(0, b"", fin=False) + said(0, b"lo")
    replies = b"".join(exchange.receive(data[n : n + 1]) for n in range(len(data)))
    assert exchange.messages == [b"Hello"]
    assert unmasked(replies) == (Opcode.PONG, b"?")
    assert exchange.settled


def test_an_exchange_is_not_settled_while_a_message_is_incomplete() -> None:
    exchange = Exchange(None)
    exchange.receive(said(2, b"abc")[:3])
    assert not exchange.settled
    exchange.receive(said(2, b"abc")[3:] + said(2, b"d", fin=False))
    assert exchange.messages == [b"abc"]
    assert not exchange.settled


@pytest.mark.parametrize(
    "data",
    [
        frame(2, b"masked"),
        said(3, b"x"),
        said(2, b"x", rsv=4),
        said(0, b"x"),
        said(2, bytes(MESSAGE_BYTES_MAX + 1))[:10],
        said(8, b"x"),
    ],
    ids=[
        "a mask",
        "a reserved opcode",
        "a reserved bit",
        "the continuation of nothing",
        "too big",
        "a close of one byte",
    ],
)
def test_a_server_that_breaks_the_protocol_is_told_so_and_counts_as_that(data: bytes) -> None:
    exchange = Exchange(None)
    reply = exchange.receive(said(2, b"fine") + data)
    assert exchange.messages == [b"fine"]
    assert unmasked(reply)[0] == Opcode.CLOSE
    assert exchange.closing
    assert exchange.error == errno.EPROTO
    assert exchange.farewell.startswith("broke the protocol: ")


def test_a_reserved_bit_in_an_incomplete_frame_is_not_forgotten() -> None:
    exchange = Exchange(None)
    data = said(2, b"Hello", rsv=4)
    exchange.receive(data[:4])
    assert not exchange.settled
    exchange.receive(data[4:])
    assert exchange.closing
