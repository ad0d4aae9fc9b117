"""A server's side of a connection in transition, bytes in and bytes out."""

from __future__ import annotations

from itertools import pairwise

import pytest

from load.rig import ACCEPT, KEY, REQUEST, frame
from wslab.load.servers.conversation import MESSAGE_BYTES_MAX, Conversation

CLOSE_BAD_DATA, CLOSE_PROTOCOL, CLOSE_TOO_BIG = b"\x03\xef", b"\x03\xea", b"\x03\xf1"


def opened() -> Conversation:
    return Conversation(greeting=False)


def close_code(reply: bytes) -> int:
    """Return the code of the one frame in `reply`, which is a close."""
    assert reply[0] == 0x88
    assert reply[1] == len(reply) - 2
    return int.from_bytes(reply[2:4], "big")


@pytest.mark.parametrize("step", [1, 2, 7, len(REQUEST)])
def test_a_request_is_granted_once_it_is_whole_in_whatever_parts_it_came(step: int) -> None:
    conversation = Conversation(greeting=True)
    parts = [REQUEST[start : start + step] for start in range(0, len(REQUEST), step)]
    for part in parts[:-1]:
        assert conversation.receive(part) == b""
        assert not conversation.open
        assert not conversation.settled
    reply = conversation.receive(parts[-1])
    assert reply.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n" in reply
    assert conversation.open
    assert conversation.settled


@pytest.mark.parametrize("cut", [len(REQUEST) - 3, len(REQUEST) + 1])
def test_frames_right_behind_the_request_are_echoed_behind_the_answer(cut: int) -> None:
    data = REQUEST + frame(1, b"early") + frame(2, b"bird")[:5]
    conversation = Conversation(greeting=True)
    replies = conversation.receive(data[:cut]) + conversation.receive(data[cut:])
    assert replies.startswith(b"HTTP/1.1 101 ")
    assert replies.endswith(b"\r\n\r\n\x81\x05early")
    assert conversation.take_messages() == 1
    assert not conversation.settled
    assert conversation.receive(frame(2, b"bird")[5:]) == b"\x82\x04bird"
    assert conversation.settled


VERSION = b"Sec-WebSocket-Version: 13\r\n"
KEY_LINE = b"Sec-WebSocket-Key: " + KEY + b"\r\n"
BAD_REQUESTS = [
    pytest.param(REQUEST.replace(KEY, KEY[:-4]), 400, "", id="a key that is too short"),
    pytest.param(REQUEST.replace(KEY, b"?" * 24), 400, "", id="a key that is not Base64"),
    pytest.param(REQUEST.replace(KEY_LINE, b""), 400, "", id="no key"),
    pytest.param(REQUEST.replace(KEY_LINE, KEY_LINE * 2), 400, "", id="two keys"),
    pytest.param(REQUEST.replace(b"13", b"8"), 400, "Sec-WebSocket-Version: 13", id="another version"),
    pytest.param(REQUEST.replace(VERSION, b""), 400, "Sec-WebSocket-Version: 13", id="no version"),
    pytest.param(REQUEST.replace(b"Host: localhost\r\n", b""), 400, "", id="no host"),
    pytest.param(REQUEST.replace(b"Host", b"Host: x\r\nHost"), 400, "", id="two hosts"),
    pytest.param(REQUEST.replace(b"Host:", b"Host :"), 400, "", id="a blank before a colon"),
    pytest.param(REQUEST.replace(b"GET", b"POST"), 405, "Allow: GET", id="not GET"),
    pytest.param(REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"), 505, "", id="HTTP 1.0"),
    pytest.param(REQUEST.replace(b"Upgrade: w", b"X: w"), 426, "Upgrade: websocket", id="no Upgrade"),
    pytest.param(REQUEST.replace(b": Upgrade", b": close"), 426, "Upgrade: websocket", id="Connection without upgrade"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\r\n", 400, "", id="TLS"),
    pytest.param(b"hello\r\n", 400, "", id="no HTTP at all"),
    pytest.param(b"\r\n" + REQUEST, 400, "", id="an empty line first"),
    pytest.param(b"GET /" + b"a" * 8200, 414, "", id="a request line without end"),
    pytest.param(REQUEST[:-2] + b"X: " + b"a" * 8200, 431, "", id="a header without end"),
    pytest.param(REQUEST[:-2] + b"X: a\r\n" * 130, 431, "", id="too many headers"),
]


@pytest.mark.parametrize(("request_", "status", "header"), BAD_REQUESTS)
def test_a_bad_request_is_refused_in_http_and_the_connection_ends(request_: bytes, status: int, header: str) -> None:
    conversation = Conversation(greeting=True)
    reply = conversation.receive(request_).decode()
    assert reply.startswith(f"HTTP/1.1 {status} ")
    assert f"\r\n{header}" in reply
    assert "\r\nConnection: close\r\n" in reply
    assert conversation.over
    assert not conversation.open


def test_a_request_may_spell_its_headers_as_http_allows() -> None:
    request = REQUEST.replace(b"Sec-WebSocket-Key", b"sec-websocket-KEY").replace(b": websocket", b":\tWebSocket ")
    request = request.replace(b"Connection: Upgrade", b"connection: keep-alive, upgrade")
    assert b"101" in Conversation(greeting=True).receive(request).splitlines()[0]


def test_fragments_are_one_message_and_a_ping_between_them_is_answered_at_once() -> None:
    conversation = opened()
    assert conversation.receive(frame(1, b"Hel", fin=False)) == b""
    assert conversation.receive(frame(9, b"still there?")) == b"\x8a\x0cstill there?"
    assert conversation.receive(frame(0, b"", fin=False) + frame(0, b"lo", fin=False)) == b""
    assert not conversation.settled
    assert conversation.receive(frame(0, b"!")) == b"\x81\x06Hello!"
    assert conversation.take_messages() == 1
    assert conversation.settled


def test_endless_empty_fragments_cost_nothing() -> None:
    conversation = opened()
    conversation.receive(frame(2, b"", fin=False))
    conversation.receive(frame(0, b"", fin=False) * 5000)
    assert len(conversation.message) == 0
    assert not conversation.settled


def test_text_may_be_cut_inside_a_character() -> None:
    text = "zwölf Boxkämpfer € 𝄞".encode()
    conversation = opened()
    for byte in text[:-1]:
        opcode = 1 if byte == text[0] else 0
        assert conversation.receive(frame(opcode, bytes((byte,)), fin=False)) == b""
    assert conversation.receive(frame(0, text[-1:])) == bytes((0x81, len(text))) + text


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param([frame(1, b"\xff")], 1007, id="text that is none"),
        pytest.param([frame(1, b"\xed\xa0\x80")], 1007, id="a surrogate"),
        pytest.param([frame(1, b"\xc3", fin=False), frame(0, b"(")], 1007, id="fragments that make no text"),
        pytest.param([frame(1, b"\xe2\x82", fin=False), frame(0, b"")], 1007, id="fragments that end in a character"),
        pytest.param([frame(2, b"x", masked=False)], 1002, id="a frame without mask"),
        pytest.param([frame(2, b"x", rsv=4)], 1002, id="a reserved bit"),
        pytest.param([frame(9, b"x", rsv=1)], 1002, id="a reserved bit of a ping"),
        pytest.param([frame(3, b"x")], 1002, id="a reserved data opcode"),
        pytest.param([frame(11, b"x")], 1002, id="a reserved control opcode"),
        pytest.param([frame(0, b"x")], 1002, id="the continuation of nothing"),
        pytest.param([frame(2, b"x", fin=False), frame(2, b"x")], 1002, id="a new message inside another"),
        pytest.param([frame(9, b"x", fin=False)], 1002, id="a fragmented ping"),
        pytest.param([frame(9, b"x" * 126)], 1002, id="a ping that is too long"),
        pytest.param([frame(8, b"\x03")], 1002, id="a close of one byte"),
        pytest.param([frame(8, b"\x03\xed")], 1002, id="close code 1005"),
        pytest.param([frame(8, b"\x03\xe7")], 1002, id="close code 999"),
        pytest.param([frame(8, b"\x13\x88")], 1002, id="close code 5000"),
        pytest.param([frame(8, b"\x03\xe8\xff")], 1007, id="a close reason that is no text"),
        pytest.param([frame(2, bytes(MESSAGE_BYTES_MAX + 1))[:14]], 1009, id="the header of a frame that is too big"),
        pytest.param(
            [frame(2, bytes(MESSAGE_BYTES_MAX), fin=False), frame(0, b"x")], 1009, id="fragments that are too big"
        ),
    ],
)
def test_a_violation_is_answered_with_the_right_close_code(frames: list[bytes], code: int) -> None:
    conversation = opened()
    for part in frames[:-1]:
        assert conversation.receive(part) == b""
    assert close_code(conversation.receive(frames[-1])) == code
    assert conversation.over
    assert not conversation.settled
    assert conversation.take_messages() == 0


@pytest.mark.parametrize("cut", [2, 6, 9])
def test_a_reserved_bit_is_refused_also_when_its_frame_came_in_parts(cut: int) -> None:
    data = frame(1, b"Hello", rsv=4)
    conversation = opened()
    assert conversation.receive(data[:cut]) == b""
    assert not conversation.settled
    assert close_code(conversation.receive(data[cut:])) == 1002


@pytest.mark.parametrize(
    ("payload", "echoed"),
    [
        (b"\x03\xe8", b"\x03\xe8"),
        (b"\x03\xe9bye", b"\x03\xe9bye"),
        (b"", b""),
        (b"\x0b\xb8", b"\x0b\xb8"),
        (b"\x13\x87", b"\x13\x87"),
    ],
)
def test_a_close_is_answered_with_its_own_code_and_what_follows_is_ignored(payload: bytes, echoed: bytes) -> None:
    conversation = opened()
    reply = conversation.receive(frame(8, payload) + frame(1, b"too late") + frame(9, b"too late"))
    assert reply == bytes((0x88, len(echoed))) + echoed
    assert conversation.over
    assert conversation.take_messages() == 0


def test_what_precedes_a_close_or_an_error_is_echoed_before_it() -> None:
    assert opened().receive(frame(1, b"last") + frame(8, b"\x03\xe8")) == b"\x81\x04last\x88\x02\x03\xe8"
    reply = opened().receive(frame(1, b"good") + frame(9, b"?") + frame(1, b"bad", rsv=2) + frame(1, b"no"))
    assert reply.startswith(b"\x81\x04good\x8a\x01?\x88")
    assert b"no" not in reply[-3:]


def test_pongs_that_nobody_asked_for_are_ignored() -> None:
    conversation = opened()
    assert conversation.receive(frame(10, b"unasked")) == b""
    assert conversation.settled


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("opcode", [1, 2])
def test_a_frame_that_comes_byte_by_byte_is_echoed_as_it_was(opcode: int, size: int) -> None:
    payload = bytes(65 + n % 26 for n in range(size))
    data = frame(opcode, payload)
    conversation = opened()
    steps = [*range(min(20, len(data))), len(data) - 1]
    for start, end in pairwise(steps):
        assert conversation.receive(data[start:end]) == b""
        assert not conversation.settled
    assert conversation.receive(data[steps[-1] :]) == frame(opcode, payload, masked=False)
    assert conversation.settled


def test_a_length_in_more_bytes_than_needed_is_taken_as_the_library_takes_it() -> None:
    assert opened().receive(b"\x81\xfe\x00\x02\x00\x00\x00\x00Hi") == b"\x81\x02Hi"
    assert opened().receive(b"\x81\xff\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00Hi") == b"\x81\x02Hi"
