"""Peers that make a server keep as much as they can, or take nothing of what it sends."""

from __future__ import annotations

import resource
import socket
import struct
import time
from collections.abc import Callable

import pytest

from load.rig import REQUEST, Bench, Peer, frame, queued, serving, until
from wslab.load import scoreboard as words
from wslab.load.engine import server_words, state
from wslab.load.rfc6455 import FrameBuffer
from wslab.load.servers.conversation import REQUEST_BYTES_MAX, Conversation
from wslab.load.swarm.client_slowpath import Exchange

MIB = 1 << 20


def send_while_read(bench: Bench, peer: Peer, data: bytes) -> None:
    """Send more than fits into the buffers of a socket, the shard reading meanwhile."""
    peer.socket.setblocking(False)
    left = memoryview(data)
    while left:
        try:
            left = left[peer.socket.send(left) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            break
        bench.turn()
    peer.socket.settimeout(20)


@pytest.mark.parametrize("plain", [True, False])
def test_those_that_hold_the_most_are_shed_first_and_the_others_are_served(plain: bool) -> None:
    with Bench(memory_bytes=4 * MIB, plain=plain) as bench:
        healthy, _ = bench.open()
        modest, modest_fd = bench.open()
        send_while_read(bench, modest, frame(2, bytes(MIB))[:100_000])
        greedy = []
        for _ in range(12):
            peer, _ = bench.open()
            send_while_read(bench, peer, frame(2, bytes(MIB))[: MIB - 1000])
            bench.turn()
            assert bench.shard.held_bytes() <= 4 * MIB
            greedy.append(peer)
        until(lambda: bench.turn() or bench.count(words.CLOSED) >= 8)
        codes = []
        for peer in greedy:
            peer.socket.setblocking(False)
            try:
                first, payload = peer.frame()
                codes.append((first, payload[:2]))
            except BlockingIOError:
                pass
        assert set(codes) == {(0x88, struct.pack("!H", 1009))}
        assert 8 <= len(codes) < 12
        bench.say(healthy, frame(1, b"served as ever"))
        assert healthy.frame() == (0x81, b"served as ever")
        assert bench.shard.states[modest_fd] == state.OPEN | (state.BLOCK if plain else state.SLOW)


def test_requests_without_end_are_shed_with_503() -> None:
    with Bench(memory_bytes=100_000) as bench:
        peers = []
        for _ in range(20):
            peer, _ = bench.connect()
            bench.say(peer, REQUEST[:-2] + b"X: " + bytes(65 for _ in range(7000)))
            peers.append(peer)
        assert bench.shard.held_bytes() <= 100_000
        shed = bench.count(words.FAILED)
        assert 10 <= shed < 20
        answers = 0
        for peer in peers:
            peer.socket.setblocking(False)
            try:
                answers += peer.answer()[0] == 503
            except BlockingIOError:
                pass
        assert answers == shed


def test_a_request_has_an_end_to_its_size() -> None:
    conversation = Conversation(greeting=True)
    assert conversation.receive(REQUEST[:-2]) == b""
    reply = b""
    for number in range(100):
        reply = conversation.receive(b"X-%d: %s\r\n" % (number, b"a" * 1000))
        if reply:
            break
    assert reply.startswith(b"HTTP/1.1 431 ")
    assert number <= REQUEST_BYTES_MAX // 1000 + 1
    assert conversation.over


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("half_closed", [True, False])
def test_a_reader_that_never_reads_is_closed_in_time(half_closed: bool, plain: bool) -> None:
    with Bench(send_seconds=0.1, plain=plain) as bench:
        peer, fd = bench.open()
        while not bench.keeps_an_answer():
            bench.say(peer, frame(2, bytes(60000)))
        if half_closed:
            peer.socket.shutdown(socket.SHUT_WR)
        until(lambda: bench.turn() or bench.shard.words[server_words.HELD] == 0)
        assert (bench.shard.held_bytes(), bench.count(words.CLOSED)) == (0, 1)
        assert not bench.shard.states[fd]


@pytest.mark.parametrize("plain", [True, False])
def test_a_slow_reader_that_takes_something_now_and_then_is_not_closed(plain: bool) -> None:
    # The kernel tells of room only when a third of its buffer is free: a peer has to take more than that in the time.
    with Bench(send_seconds=0.5, plain=plain) as bench:
        peer, fd = bench.open()
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        total, began = 0, time.monotonic()
        while time.monotonic() - began < 1.2:
            while not bench.keeps_an_answer():
                bench.say(peer, frame(2, bytes(60000)))
            total += len(peer.socket.recv(50000))
            until(lambda total=total: time.monotonic() - began > total / 8e6)
            bench.turn()
        assert bench.shard.states[fd]


def test_memory_comes_back_after_large_messages() -> None:
    with serving() as server:
        peers = [Peer(server.address).upgrade() for _ in range(40)]
        data = frame(2, bytes(MIB))[:-10]
        before = _rss(server.pids[1])
        for peer in peers:
            peer.send(data)
        until(lambda: _rss(server.pids[1]) - before > 30 * MIB)
        for peer in peers:
            peer.socket.close()
        until(lambda: _rss(server.pids[1]) - before < 8 * MIB)


def _rss(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def cpu_seconds(feed: object, data: bytes, step: int) -> float:
    """Return the least CPU time of three that it takes to feed the data in parts."""
    times = []
    for _ in range(3):
        receive = feed()  # type: ignore[operator]
        began = time.process_time()
        for start in range(0, len(data), step):
            receive(data[start : start + step])
        times.append(time.process_time() - began)
    return min(times)


def frame_buffer() -> Callable[[bytes], list[bytes]]:
    """Return what takes parts of frames."""
    buffer = FrameBuffer(masked=True, bytes_max=MIB)
    return lambda part: list(buffer.feed(part))


@pytest.mark.parametrize("step", [64, 8])
@pytest.mark.parametrize(
    ("feed", "masked"),
    [
        (lambda: Conversation(greeting=False).receive, True),
        (lambda: Exchange(None).receive, False),
        (frame_buffer, True),
    ],
    ids=["server", "swarm", "frames"],
)
def test_the_cost_of_a_message_grows_with_its_parts_and_not_with_their_square(
    feed: object, masked: bool, step: int
) -> None:
    short, long = (frame(2, bytes(size), masked=masked) for size in (MIB // 8, MIB))
    ratio = cpu_seconds(feed, long, step) / cpu_seconds(feed, short, step)
    assert ratio < 24  # Eight times the parts; their square would be 64.


def test_queued_bytes_of_a_shed_peer_are_not_read_into_memory() -> None:
    with Bench(memory_bytes=2 * MIB) as bench:
        peer, fd = bench.open()
        send_while_read(bench, peer, 3 * frame(2, bytes(MIB), fin=False)[: MIB - 1])
        assert bench.shard.held_bytes() <= 2 * MIB
        until(lambda: bench.turn() or not bench.shard.states[fd] or queued(fd) == 0)


@pytest.mark.parametrize("size", [100, 20_000, MIB])
def test_the_block_of_a_peer_that_dies_in_the_middle_of_a_message_is_freed(size: int) -> None:
    with Bench() as bench:
        peer, fd = bench.open()
        bench.say(peer, frame(2, bytes(size))[: min(size, 30_000)])
        assert bench.shard.states[fd] == state.OPEN | state.BLOCK
        assert min(size, 30_000) // 2 < bench.shard.held_bytes() < 40_000  # what has come, not what was announced
        peer.socket.close()
        until(lambda: bench.turn() or not bench.shard.states[fd])
        assert (bench.shard.held_bytes(), bench.count(words.CLOSED)) == (0, 1)


def test_a_large_echo_reaches_a_slow_reader_whole_and_leaves_nothing_behind() -> None:
    with Bench() as bench:
        peer, fd = bench.open()
        message = bytes(range(256)) * 4096
        send_while_read(bench, peer, frame(2, message))
        assert bench.shard.conversations == {}
        with bench.running() as running:
            assert peer.frame() == (0x82, message)
            until(lambda: running.states[fd] == state.OPEN)
            peer.send(frame(1, b"and on"))
            assert peer.frame() == (0x81, b"and on")
            assert running.held_bytes() == 0


def test_the_cost_of_a_trickle_to_the_loop_grows_with_its_bytes() -> None:
    def seconds(size: int) -> float:
        data = frame(2, bytes(size))
        with Bench() as bench:
            peer, fd = bench.open()
            peer.send(data[:20])
            until(lambda: bench.turn() or bench.shard.states[fd] & state.BLOCK)
            began = time.process_time()
            for n in range(20, len(data)):
                peer.send(data[n : n + 1])
                bench.turn()
            until(lambda: bench.turn() or bench.shard.states[fd] == state.OPEN)
            took = time.process_time() - began
            assert peer.frame() == (0x82, bytes(size))
        return took

    assert min(seconds(20_000) for _ in range(2)) < 24 * min(
        seconds(2500) for _ in range(2)
    )  # Squared, it is 64 times.
