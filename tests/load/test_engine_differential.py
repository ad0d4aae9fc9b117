"""The compiled path and the slow path give the same answers, however the bytes come in parts."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from load.rig import KEY, REQUEST, Bench, Peer, Player, frame, queued, scripted, until, upgraded
from wslab.load import scoreboard as words
from wslab.load.engine import state, swarm_words

HEAD, TAIL = REQUEST.split(KEY)
KEY_LINE = b"Sec-WebSocket-Key: " + KEY + b"\r\n"
REQUESTS = {
    "good": REQUEST,
    "a frame behind it": REQUEST + frame(1, b"early"),
    "half a frame behind it": REQUEST + frame(2, b"early")[:5],
    "a close behind it": REQUEST + frame(8, b"\x03\xe8"),
    "no Base64": HEAD + b"?" * 24 + TAIL,
    "18 bytes": HEAD + b"A" * 24 + TAIL,
    "padding": HEAD + b"A" * 21 + b"===" + TAIL,
    "padding inside": HEAD + b"A" * 10 + b"==" + b"A" * 12 + TAIL,
    "bits behind the key": HEAD + KEY[:21] + b"/==" + TAIL,
    "no key": REQUEST.replace(KEY_LINE, b""),
    "two keys": REQUEST.replace(KEY_LINE, KEY_LINE * 2),
    "version 12": REQUEST.replace(b"13", b"12"),
    "no host": REQUEST.replace(b"Host: localhost\r\n", b""),
    "not GET": REQUEST.replace(b"GET", b"PUT"),
    "HTTP 1.0": REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no Upgrade": REQUEST.replace(b"Upgrade: w", b"X: w"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\r\n",
    "an empty line first": b"\r\n" + REQUEST,
}
FRAMES = {
    "text": frame(1, b"hello"),
    "binary": frame(2, bytes(range(40))),
    "empty": frame(1),
    "UTF-8": frame(1, "zwölf € 𝄞".encode()),
    "125 bytes": frame(2, b"x" * 125),
    "126 bytes": frame(1, b"x" * 126),
    "two": frame(1, b"a") + frame(2, b"b"),
    "a ping behind a message": frame(1, b"hello") + frame(9, b"ping"),
    "a close behind a message": frame(2, b"hello") + frame(8, b"\x03\xe8bye"),
    "fragments behind a message": frame(2, b"a b") + frame(1, b"Hel", fin=False) + frame(0, b"lo"),
    "text that is none in its last byte": frame(1, b"all of this is good, and then \xe2\x82"),
    "fragments": frame(1, b"Hel", fin=False) + frame(9, b"?") + frame(0, b"lo"),
    "ping": frame(9, b"ping"),
    "pong": frame(10, b"pong"),
    "close": frame(8, b"\x03\xe8bye") + frame(1, b"late"),
    "empty close": frame(8),
    "text that is none": frame(1, b"good\xff"),
    "a surrogate": frame(1, b"\xed\xa0\x80"),
    "a cut character": frame(1, b"\xe2\x82"),
    "an overlong character": frame(1, b"\xc0\xaf"),
    "beyond Unicode": frame(1, b"\xf4\x90\x80\x80"),
    "no mask": frame(2, b"x", masked=False),
    "a reserved bit": frame(2, b"x", rsv=4),
    "reserved opcode": frame(3, b"x"),
    "reserved control": frame(11, b"x"),
    "continuation of nothing": frame(0, b"x"),
    "a message inside another": frame(2, b"x", fin=False) + frame(2, b"x"),
    "a fragmented ping": frame(9, b"x", fin=False),
    "close of one byte": frame(8, b"\x03"),
    "close 1005": frame(8, b"\x03\xed"),
    "16 bits for 2": b"\x81\xfe\x00\x02\x00\x00\x00\x00Hi",
    "64 bits for 2": b"\x81\xff\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00Hi",
    "64 bits, below zero": b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xf0\x00\x00\x00\x00Hi",
    "too big": frame(2, bytes((1 << 20) + 1))[:14],
}
PIECE_BYTES = 1 << 15  # more than a loop reads at once, and less than the kernel has room for
LARGE = {
    "binary of 20000": frame(2, bytes(range(250)) * 80),
    "binary of 70000": frame(2, bytes(range(250)) * 280),
    "text of 70000": frame(1, b"plain" * 14000),
    "text of 70000 that is none": frame(1, b"plain" * 13999 + b"\xffend."),
    "text of 20000 that is none": frame(1, b"plain" * 3999 + b"\xffend."),
    "UTF-8 of 70000": frame(1, "zwölf € 𝄞".encode() * 4375),
    "the largest": frame(2, bytes(1 << 20)),
    "a ping and a close behind it": frame(2, bytes(70000)) + frame(9, b"ping") + frame(8, b"\x03\xe8"),
    "a large one behind it": 2 * frame(2, b"x" * 30000),
    "a fragment of it": frame(2, b"x" * 40000, fin=False) + frame(9, b"?") + frame(0, b"y" * 30000),
}


def hear(peer: Peer) -> None:
    """Take what has come, as a server that has much to say reads nothing until it is taken."""
    while queued(peer.socket.fileno()) and peer.more():
        pass


def answer(bench: Bench, parts: list[bytes]) -> tuple[object, ...]:
    """Return all that a shard answers to bytes that come in these parts, and what it counted meanwhile."""
    names = ("OPENED", "FAILED", "CLOSED", "RECEIVED", "SENT", "PENDING", "OPEN")
    before = [bench.count(getattr(words, name)) for name in names]
    peer, fd = bench.connect()
    for part in parts:
        for start in range(0, len(part), PIECE_BYTES):
            if not bench.shard.states[fd]:
                break
            piece = part[start : start + PIECE_BYTES]
            peer.send(piece)
            until(lambda piece=piece: queued(fd) >= len(piece))
            bench.turn()
            hear(peer)
    peer.socket.shutdown(socket.SHUT_WR)
    until(lambda: bench.turn() or hear(peer) or not bench.shard.states[fd])
    said = peer.rest()
    peer.socket.close()
    bench.peers.remove(peer)
    head, found, rest = said.partition(b"\r\n\r\n")
    if said.startswith(b"HTTP/1.1 101 "):
        head = b"\n".join(sorted(re.sub(rb"\r\nDate: [^\r]*", b"", head).split(b"\r\n")))
    elif said.startswith(b"HTTP/1.1 "):
        head = re.sub(rb"\r\nDate: [^\r]*", b"", head)
    counted = [bench.count(getattr(words, name)) - was for name, was in zip(names, before, strict=True)]
    return head, found, rest, counted


@pytest.fixture(scope="module")
def plain() -> Iterator[Bench]:
    with Bench() as bench:
        bench.open()  # From here on it knows the request.
        yield bench


@pytest.fixture(scope="module")
def slow() -> Iterator[Bench]:
    with Bench(plain=False) as bench:
        yield bench


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_cut_at_every_byte_has_one_answer(plain: Bench, slow: Bench, name: str) -> None:
    data = REQUESTS[name]
    expected = answer(slow, [data])
    assert answer(plain, [data]) == expected
    for cut in range(1, len(data)):
        parts = [data[:cut], data[cut:]]
        assert answer(plain, parts) == answer(slow, parts) == expected, cut


@pytest.mark.parametrize("name", FRAMES)
def test_frames_cut_at_every_byte_have_one_answer(plain: Bench, slow: Bench, name: str) -> None:
    data = FRAMES[name]
    expected = answer(slow, [REQUEST, data])
    assert answer(plain, [REQUEST, data]) == expected
    for cut in range(1, len(data)):
        parts = [REQUEST, data[:cut], data[cut:]]
        assert answer(plain, parts) == answer(slow, parts) == expected, cut


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_trickle_have_one_answer(plain: Bench, slow: Bench, name: str) -> None:
    data = FRAMES[name]
    expected = answer(slow, [REQUEST, data])
    parts = [REQUEST, *(data[n : n + 1] for n in range(len(data)))]
    assert answer(plain, parts) == answer(slow, parts) == expected


@pytest.mark.parametrize("name", LARGE)
def test_large_messages_have_one_answer_wherever_they_are_cut(plain: Bench, slow: Bench, name: str) -> None:
    data = LARGE[name]
    expected = answer(slow, [REQUEST, data])
    for cut in [*range(1, 24), 4096, 16383, 16384, 16385, len(data) - 1]:
        assert answer(plain, [REQUEST, data[:cut], data[cut:]]) == expected, cut
    for step in (2047, 9001):
        parts = [REQUEST, *(data[n : n + step] for n in range(0, len(data), step))]
        assert answer(plain, parts) == expected, step
    assert plain.shard.held_bytes() == 0


@pytest.mark.parametrize("is_plain", [True, False])
@pytest.mark.parametrize("size", [1, 125, 126, 300, 70000])
def test_an_echo_in_parts_is_an_echo_for_both_paths_of_the_swarm(size: int, is_plain: bool) -> None:
    steps = {70000: 9001}

    def script(peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(upgraded(peer))
        while True:
            data = b""
            header = 2 if size < 126 else 4 if size < 65536 else 10
            while len(data) < header + 4 + size:
                more = peer.recv(1 << 17)
                if not more:
                    return
                data += more
            mask = data[header : header + 4] * (size // 4 + 1)
            payload = bytes(a ^ b for a, b in zip(data[header + 4 :], mask, strict=False))
            echo = frame(2, payload, masked=False)
            step = steps.get(size, 1)
            for start in range(0, len(echo), step):
                peer.sendall(echo[start : start + step])

    with scripted(script) as url, Player(url, plain=is_plain, message_bytes=size) as player:
        player.worker.words[swarm_words.DIALLING] = 1
        player.until(lambda: player.row[words.OPEN] == 1)
        for _ in range(2):
            player.worker.start_verifying(1)
            player.until(lambda: not player.worker.words[swarm_words.VERIFYING])
        counts = [player.row[word] for word in (words.VERIFIED, words.SENT, words.RECEIVED, words.MESSAGES_FAILED)]
        assert counts == [1, 2, 2, 0]
        assert not player.worker.exchanges
        (fd,) = [fd for fd in range(len(player.worker.states)) if player.worker.states[fd]]
        assert player.worker.states[fd] == state.OPEN | state.PROVED
