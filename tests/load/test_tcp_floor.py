"""The floor: bytes echoed by the processes of the lean server."""

from __future__ import annotations

import pytest

from load.rig import Bench, Peer, serving, until
from wslab.load import scoreboard as words
from wslab.load.engine import server_words


def test_the_first_byte_comes_back_and_so_does_all_that_follows() -> None:
    with serving("tcp_floor", shards=2) as server, Peer(server.address) as peer:
        assert server.url.startswith("tcp://127.0.0.1:")
        peer.send(b"\x01")
        assert peer.take(1) == b"\x01"
        message = bytes(range(256)) * 256
        peer.send(message)
        assert peer.take(len(message)) == message
        assert server.all_of("process_exited") == []


@pytest.mark.parametrize(("data", "messages"), [(b"\x01", 0), (b"\x01hello", 1)])
def test_the_first_byte_opens_and_what_came_with_it_is_a_message(data: bytes, messages: int) -> None:
    with Bench(websocket=False) as bench:
        peer, _ = bench.connect()
        bench.say(peer, data)
        assert peer.take(len(data)) == data
        assert (bench.count(words.OPENED), bench.count(words.RECEIVED), bench.count(words.PENDING)) == (1, messages, 0)


def test_who_resets_the_connection_while_being_greeted_harms_nobody() -> None:
    with Bench(websocket=False) as bench:
        peer, fd = bench.connect()
        bench.shard.half_close(fd)  # Writing to it fails from now on.
        bench.say(peer, b"\x01hello")
        assert bench.shard.words[server_words.HELD] == 0
        assert (bench.count(words.OPENED), bench.count(words.CLOSED)) == (1, 1)
        assert peer.rest() == b""


def test_who_says_nothing_is_closed_in_time() -> None:
    with serving("tcp_floor", greeting_seconds=0.05) as server, Peer(server.address) as silent:
        assert silent.rest() == b""


def test_echoes_that_nobody_reads_are_kept_and_bound_what_is_read() -> None:
    with Bench(websocket=False) as bench:
        peer, fd = bench.connect()
        bench.say(peer, b"\x01")
        sent = 1
        while not bench.shard.kept.size:
            bench.say(peer, b"x" * 16384)
            sent += 16384
        assert bench.shard.kept.of(fd) <= 16384
        with bench.running() as running:
            assert len(peer.take(sent)) == sent
            until(lambda: not running.kept.size)
            peer.send(b"more")
            assert peer.take(4) == b"more"
