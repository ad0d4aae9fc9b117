"""The reference server: its fast path, the step by step of a shard, and real processes on real sockets."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from load import rig
from load.rig import ACCEPT, KEY, REQUEST, Bench, Peer, Program, cpu_ticks, frame, gone, serving, until
from wslab.load import scoreboard as words
from wslab.load.engine import server_words, state
from wslab.load.scoreboard import Scoreboard
from wslab.load.servers import shard, sharded
from wslab.load.servers.conversation import Conversation
from wslab.load.servers.shard import compiled

SIZES = [0, 1, 125, 126, 127, 16370, 65535, 65536, 1 << 20]


@pytest.fixture(scope="module")
def server() -> Iterator[Program]:
    with serving() as program:
        yield program
        # Whatever was done to it: no shard died, and nothing was complained of.
        assert program.all_of("process_exited") == []
        assert program.stderr() == ""


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as bench:
        yield bench


def in_transition(shard: Any) -> dict[str, int]:
    """Return how much a shard keeps beside its table of connections."""
    sized = {name: len(value) for name, value in vars(shard).items() if isinstance(value, dict | list | set)}
    return {**sized, "kept": shard.kept.size, "leaving": int(shard.words[server_words.LEAVING_COUNT])}


def no_slow_path(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be handed to Python any more."""
    monkeypatch.setitem(bench.shard.actions, state.BYTES, lambda: pytest.fail("it is not plain"))


# The upgrade.


def test_the_second_request_of_a_kind_takes_the_fast_path_and_gets_the_right_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.open()
    second, _ = bench.connect()
    no_slow_path(bench, monkeypatch)
    bench.say(second, REQUEST.replace(KEY, b"x3JJHMbDL1EzLkh9GBhXDw=="))
    assert second.answer()[1]["Sec-WebSocket-Accept"] == "HSmrc0sMlYUkAGmm5OPpG2HaGWk="
    assert (bench.count(words.OPENED), bench.count(words.PENDING)) == (2, 0)


HEAD, TAIL = REQUEST.split(KEY)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(HEAD + b"?" * 24 + TAIL, id="a key of the right length that is not Base64"),
        pytest.param(HEAD + b"A" * 24 + TAIL, id="a key of 18 bytes"),
        pytest.param(HEAD + b"A" * 21 + b"===" + TAIL, id="a key with too much padding"),
        pytest.param(HEAD + b"A" * 10 + b"==" + b"A" * 12 + TAIL, id="a key with padding inside"),
        pytest.param(HEAD + b"A" * 11 + b"\n" + b"A" * 10 + b"==" + TAIL, id="a key across two lines"),
        pytest.param(HEAD + TAIL, id="an empty key"),
        pytest.param(HEAD + KEY[:-1] + TAIL, id="a key that is too short"),
        pytest.param(HEAD + KEY[:-2] + b"AA==" + TAIL, id="a key that is too long"),
        pytest.param(HEAD.replace(b"Upgrade: websocket\r\n", b"") + KEY + TAIL, id="no Upgrade"),
        pytest.param(HEAD + KEY + TAIL.replace(b"13", b"12"), id="another version"),
        pytest.param(HEAD.replace(b"GET", b"PUT") + KEY + TAIL, id="another method"),
    ],
)
def test_the_fast_path_opens_for_nothing_that_the_library_refuses(bench: Bench, request_: bytes) -> None:
    bench.open()
    peer, _ = bench.connect()
    bench.say(peer, request_)
    assert peer.answer()[0] in (400, 405, 426)
    assert bench.count(words.OPENED) == 1


def test_the_last_part_of_a_request_is_not_remembered_as_a_request(bench: Bench) -> None:
    # The whole is fine, and what the second part lacks stands in the first.
    part = b"GET nonsense\r\nSec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
    start = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: "
    peer, _ = bench.connect()
    bench.say(peer, start)
    bench.say(peer, part)
    assert peer.answer()[0] == 101
    other, _ = bench.connect()
    bench.say(other, part)
    assert other.answer()[0] == 400


def test_a_refused_request_is_refused_again(bench: Bench) -> None:
    for _ in range(2):
        peer, _ = bench.connect()
        bench.say(peer, REQUEST.replace(b"13", b"12"))
        assert peer.answer()[0] == 400


def test_a_known_request_is_not_taken_out_of_the_one_that_it_is_a_part_of(bench: Bench) -> None:
    bench.open()
    peer, _ = bench.connect()
    bench.say(peer, b"POST / HTTP/1.1\r\nX: ")
    bench.say(peer, REQUEST)
    assert peer.answer()[0] == 405


def test_a_key_in_another_place_is_judged_anew(bench: Bench) -> None:
    bench.open()
    line = b"Sec-WebSocket-Key: " + KEY + b"\r\n"
    moved = REQUEST.replace(line, b"")[:-2] + line + b"\r\n"
    peer, _ = bench.connect()
    bench.say(peer, moved)
    assert peer.answer()[1]["Sec-WebSocket-Accept"] == ACCEPT.decode()
    spelled, _ = bench.connect()
    bench.say(spelled, REQUEST.replace(b"Sec-WebSocket-Key", b"SEC-WEBSOCKET-KEY"))
    assert spelled.answer()[1]["Sec-WebSocket-Accept"] == ACCEPT.decode()


def test_frames_behind_a_remembered_request_are_echoed_and_not_taken_for_a_part_of_it(bench: Bench) -> None:
    for _ in range(2):
        peer, _ = bench.connect()
        bench.say(peer, REQUEST + frame(1, b"early"))
        assert peer.answer()[0] == 101
        assert peer.frame() == (0x81, b"early")
        assert bench.shard.conversations == {}


def test_clients_that_vary_their_requests_are_not_remembered_without_bound(bench: Bench) -> None:
    for number in range(server_words.KNOWN_REQUESTS + 5):
        peer, _ = bench.connect()
        bench.say(peer, REQUEST.replace(b"GET /", b"GET /%d" % number))
        assert peer.answer()[0] == 101
    assert bench.shard.words[server_words.KNOWN] <= server_words.KNOWN_REQUESTS


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (REQUEST.replace(b"GET", b"POST"), 405),
        (REQUEST.replace(b"Upgrade: websocket", b"Upgrade: h2c"), 426),
        (b"not HTTP at all\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000, 414),
        (REQUEST[:-2] + b"X: " + b"x" * 9000, 431),
    ],
)
def test_a_refused_client_reads_the_whole_answer_and_then_the_end(
    server: Program, request_: bytes, status: int
) -> None:
    with Peer(server.address) as peer:
        peer.send(request_)
        got, headers = peer.answer()
        assert got == status
        assert len(peer.rest()) == int(headers["Content-Length"])


def test_a_request_that_comes_byte_by_byte_is_granted(server: Program) -> None:
    with Peer(server.address) as peer:
        for byte in REQUEST:
            peer.send(bytes((byte,)))
        assert peer.answer()[1]["Sec-WebSocket-Accept"] == ACCEPT.decode()


def test_who_does_not_finish_its_request_in_time_is_told_so_and_its_place_is_free_again() -> None:
    with serving(greeting_seconds=0.05) as server, Peer(server.address) as silent, Peer(server.address) as slow:
        slow.send(REQUEST[:30])
        with Peer(server.address) as quick:
            quick.upgrade()
            assert silent.answer()[0] == slow.answer()[0] == 408
            assert (silent.rest(), slow.rest()) == (b"", b"")
            quick.send(frame(1, b"still here"))
            assert quick.frame() == (0x81, b"still here")


# Messages.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [1, 2])
def test_a_message_comes_back_as_it_was(server: Program, opcode: int, size: int) -> None:
    payload = bytes(65 + n % 26 for n in range(size))
    with Peer(server.address) as peer:
        peer.upgrade().send(frame(opcode, payload))
        assert peer.frame() == (0x80 | opcode, payload)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 200, 300])
@pytest.mark.parametrize("opcode", [1, 2])
def test_the_fast_path_agrees_with_the_library(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, opcode: int, size: int
) -> None:
    data = frame(opcode, "é".encode() * (size // 2) + b"a" * (size % 2))
    peer, _ = bench.open()
    no_slow_path(bench, monkeypatch)
    bench.say(peer, data)
    expected = Conversation(greeting=False).receive(data)
    assert peer.take(len(expected)) == expected
    assert bench.count(words.RECEIVED) == bench.count(words.SENT) == 1


@pytest.mark.parametrize("size", [0, 5, 125, 126, 300])
def test_a_frame_cut_in_two_anywhere_is_echoed_once_and_leaves_no_state(bench: Bench, size: int) -> None:
    data = frame(1, b"a" * size)
    peer, _ = bench.open()
    for cut in range(1, len(data)):
        bench.say(peer, data[:cut])
        bench.say(peer, data[cut:])
        assert peer.frame() == (0x81, b"a" * size)
        assert bench.shard.conversations == {}
    assert bench.count(words.RECEIVED) == len(data) - 1


def test_several_frames_in_one_segment_are_answered_in_order(server: Program) -> None:
    with Peer(server.address) as peer:
        peer.upgrade().send(
            frame(1, b"a") + frame(9, b"p") + frame(2, b"b" * 200) + frame(10, b"pong") + frame(1, b"c")
        )
        assert [peer.frame() for _ in range(4)] == [(0x81, b"a"), (0x8A, b"p"), (0x82, b"b" * 200), (0x81, b"c")]


def test_a_whole_frame_inside_a_fragmented_message_is_not_echoed_past_it(bench: Bench) -> None:
    peer, _ = bench.open()
    bench.say(peer, frame(1, b"begin", fin=False))
    bench.say(peer, frame(1, b"another"))
    assert peer.frame()[1][:2] == struct.pack("!H", 1002)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(1, b"\xff"), 1007),
        (frame(1, b"\xc3" * 200), 1007),
        (frame(1, b"\xc3", fin=False) + frame(0, b"("), 1007),
        (frame(2, b"x", masked=False), 1002),
        (frame(2, b"x", rsv=4), 1002),
        (frame(5, b"x"), 1002),
        (frame(8, b"x"), 1002),
        (frame(8, b"\x03\xee"), 1002),
        (frame(2, bytes((1 << 20) + 1)), 1009),
    ],
)
def test_a_violation_ends_the_connection_and_its_close_code_arrives(server: Program, data: bytes, code: int) -> None:
    with Peer(server.address) as peer:
        peer.upgrade().send(data)
        first, payload = peer.frame()
        assert (first, payload[:2]) == (0x88, struct.pack("!H", code))
        assert peer.rest() == b""


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa0own code"])
def test_a_close_is_answered_and_followed_by_the_end(server: Program, payload: bytes) -> None:
    with Peer(server.address) as peer:
        peer.upgrade().send(frame(8, payload) + frame(1, b"too late"))
        assert peer.frame() == (0x88, payload)
        peer.send(frame(1, b"much too late"))
        assert peer.rest() == b""


def test_the_end_follows_the_last_word_at_once_while_the_server_still_listens(bench: Bench) -> None:
    peer, _ = bench.open()
    bench.say(peer, frame(8, b"\x03\xe8"))
    assert peer.rest() == frame(8, b"\x03\xe8", masked=False)
    held = bench.shard.words[server_words.HELD]
    assert (held, in_transition(bench.shard)["leaving"], bench.count(words.CLOSED)) == (1, 1, 1)
    peer.socket.close()
    until(lambda: bench.turn() or bench.shard.words[server_words.HELD] == 0)
    assert (in_transition(bench.shard)["leaving"], bench.count(words.CLOSED)) == (0, 1)


def test_a_client_that_was_told_to_leave_and_stays_is_closed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "LEAVING_SECONDS", 0.05)
    peer, _ = bench.open()
    with bench.running() as running:
        peer.send(frame(8, b"\x03\xe8"))
        assert peer.rest() == frame(8, b"\x03\xe8", masked=False)
        until(lambda: running.words[server_words.HELD] == 0)
        assert (bench.count(words.CLOSED), bench.count(words.FAILED), bench.count(words.PENDING)) == (1, 0, 0)
        assert not any(in_transition(running)[name] for name in ("leaving", "kept", "conversations"))


def test_a_slow_reader_of_the_last_words_gets_them_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "LEAVING_SECONDS", 20.0)
    peer, _ = bench.open()
    message = b"m" * 60000
    count = 0
    while not bench.keeps_an_answer():
        bench.say(peer, frame(2, message))
        count += 1
    peer.send(frame(8, b"\x03\xe8"))
    with bench.running() as running:
        for _ in range(count):
            assert peer.frame() == (0x82, message)
        assert peer.frame() == (0x88, b"\x03\xe8")
        assert peer.rest() == b""
        assert running.words[server_words.HELD] == 1
        peer.socket.close()
        until(lambda: running.words[server_words.HELD] == 0)


# What a connection costs while nothing happens on it.


def test_an_idle_connection_leaves_no_state_behind(bench: Bench) -> None:
    # The sixty that come later cost what the first one costs: nothing but a descriptor.
    bench.open()
    with bench.running() as running:
        before = in_transition(running)
        peers = []
        for number in range(60):
            peers.append(Peer(bench.listener.getsockname()))
            if number % 6 == 0:  # in parts, with a ping, with fragments: through a conversation
                peers[-1].send(REQUEST[:40])
                until(lambda: running.conversations)
                peers[-1].send(REQUEST[40:] + frame(9) + frame(1, b"a", fin=False))
                until(lambda: bench.count(words.PENDING) == 0)
                peers[-1].send(frame(0, b"b"))
            else:
                peers[-1].send(REQUEST)
        until(lambda: bench.count(words.OPENED) == 61 and not running.conversations)
        assert in_transition(running) == before
        assert running.words[server_words.HELD] == 61
        bench.peers += peers
        for peer in peers:
            peer.socket.close()
        until(lambda: running.words[server_words.HELD] == 1)
        assert in_transition(running) == before
        assert bench.count(words.CLOSED) == 60


def test_a_client_that_sends_and_never_reads_is_not_read_from_and_loses_nothing_later(server: Program) -> None:
    message = b"m" * 60000
    data = memoryview(frame(2, message))
    with Peer(server.address) as peer:
        peer.upgrade()
        peer.socket.settimeout(0.5)
        count, left = 0, len(data)
        rss = _rss(server.pids[1])
        try:
            while count < 2000:
                left -= peer.socket.send(data[-left:])
                if not left:
                    count, left = count + 1, len(data)
        except TimeoutError:
            pass
        assert count < 2000, "120 MB were taken from a client that does not read"
        assert _rss(server.pids[1]) - rss < 4 << 20
        peer.socket.settimeout(rig.DEADLINE_SECONDS)
        for number in range(count):
            assert peer.frame() == (0x82, message)
            if number == count // 2:
                peer.send(data[-left:])
        assert peer.frame() == (0x82, message)


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


# Descriptors.


def test_a_shard_without_descriptors_stops_accepting_before_it_fails_and_does_not_spin() -> None:
    board = Scoreboard.create(2)
    os.set_inheritable(board.fd, True)
    spec = {"board_fd": board.fd, "board_row": 0}
    with ExitStack() as stack:
        server = stack.enter_context(Program.of("servers.lean", spec, fd_limit=64, pass_fds=(board.fd,)))
        host, port = server.wait_for("ready")["url"][5:].split(":")
        row = board.row(0)
        until(lambda: row[words.CAPACITY])
        capacity = row[words.CAPACITY]
        assert 20 < capacity < 64
        peers = [stack.enter_context(Peer((host, int(port)))) for _ in range(capacity + 5)]
        for peer in peers:
            peer.send(REQUEST)
        assert [peer.answer()[0] for peer in peers[:capacity]] == [101] * capacity
        until(lambda: row[words.AT_LIMIT] == 1 and row[words.OPEN] == capacity)
        ticks, began = cpu_ticks(row[words.PID]), time.monotonic()
        until(lambda: time.monotonic() - began > 0.5)
        assert cpu_ticks(row[words.PID]) - ticks <= 1
        peers[0].send(frame(1, b"served as ever"))
        assert peers[0].frame() == (0x81, b"served as ever")
        for peer in peers[:5]:
            peer.socket.close()
        assert [peer.answer()[0] for peer in peers[capacity:]] == [101] * 5
        until(lambda: row[words.OPEN] == capacity)
        assert row[words.FAILED] == 0
        assert server.stderr() == ""
    os.close(board.fd)


def test_a_shard_without_epoll_watches_turns_connections_away_and_lives(bench: Bench) -> None:
    # An epoll that is no epoll refuses every descriptor, as one does when this user's watches are used up.
    epoll = bench.shard.words[state.EPOLL]
    with Peer(bench.listener.getsockname()) as peer:
        until(lambda: select.select([bench.listener], [], [], 0)[0])
        events = bench.shard.epoll.poll(0)
        assert [fd for fd, _ in events] == [bench.listener.fileno()]
        bench.shard.events[0], bench.shard.events[state.EVENT_FD] = select.EPOLLIN, bench.listener.fileno()
        bench.shard.words[state.NEXT], bench.shard.words[state.EVENTS] = 0, 1
        bench.shard.words[state.EPOLL] = bench.listener.fileno()
        assert bench.shard.step() == state.ACCEPT_FAILED
        bench.shard.words[state.EPOLL] = epoll
        assert peer.rest() == b""
    shard = bench.shard
    assert (shard.words[server_words.HELD], shard.words[server_words.ACCEPTING]) == (0, 0)
    # It was not its own limit that it met: the errno on the scoreboard tells which.
    assert (bench.count(words.AT_LIMIT), bench.count(words.FAILURES + errno.EINVAL), bench.count(words.FAILED)) == (
        *(0, 1, 1),
    )
    assert bench.count(words.FIRST_FAILURES + errno.EINVAL) > 0
    bench.open()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_failing_accept_is_not_tried_again_at_once(bench: Bench, error: int) -> None:
    shard = bench.shard
    event = array("i", bytes(16))
    reason = compiled.accept_failed(error, shard.words, bench.row, event, shard.door.words)
    if reason >= 0:
        shard.actions[reason]()
    assert shard.words[server_words.ACCEPTING] == 0
    # A shard that is full before its limit is full, and accuses nobody else.
    full = error == errno.EMFILE
    assert (bench.count(words.AT_LIMIT), bench.count(words.FAILURES + error)) == ((1, 0) if full else (0, 1))


# Processes.


def test_the_board_counts_what_a_shard_holds() -> None:
    board = Scoreboard.create(4)
    os.set_inheritable(board.fd, True)
    spec = {"board_fd": board.fd, "board_row": 1, "shards": 2}
    with Program.of("servers.lean", spec, pass_fds=(board.fd,)) as server, ExitStack() as stack:
        ready = server.wait_for("ready")
        address = ("127.0.0.1", int(ready["url"].rpartition(":")[2]))
        until(lambda: board.row(1)[words.PID] and board.row(2)[words.PID])
        assert {board.row(1)[words.PID], board.row(2)[words.PID]} == set(ready["pids"][1:])
        peers = [stack.enter_context(Peer(address)).upgrade() for _ in range(9)]
        waiting = stack.enter_context(Peer(address))
        total = lambda word: board.total(word, words.ROLE_SERVER)  # noqa: E731
        until(lambda: (total(words.OPEN), total(words.PENDING), total(words.OPENED)) == (9, 1, 9))
        peers[0].send(frame(1, b"one"))
        until(lambda: total(words.RECEIVED) == total(words.SENT) == 1)
        waiting.socket.close()
        peers[1].socket.close()
        until(lambda: (total(words.OPEN), total(words.PENDING), total(words.CLOSED)) == (8, 0, 1))
        assert total(words.FAILED) == 1
        assert board.row(0)[words.ROLE] == words.ROLE_NONE
        assert (board.row(3)[words.PID], board.row(3)[words.OPEN]) == (ready["pids"][0], 0)  # the master's
    os.close(board.fd)


def test_a_shard_that_is_killed_is_reported_and_the_others_serve_on() -> None:
    board = Scoreboard.create(3)
    os.set_inheritable(board.fd, True)
    spec = {"board_fd": board.fd, "board_row": 0, "shards": 2}
    with Program.of("servers.lean", spec, pass_fds=(board.fd,)) as server, ExitStack() as stack:
        ready = server.wait_for("ready")
        address = ("127.0.0.1", int(ready["url"].rpartition(":")[2]))
        rows = {pid: index for index in (0, 1) for pid in [until(lambda index=index: board.row(index)[words.PID])]}
        victim, other = ready["pids"][1:]
        for _ in range(20):
            stack.enter_context(Peer(address)).upgrade()
        until(lambda: board.total(words.OPEN, words.ROLE_SERVER) == 20)
        lost = board.row(rows[victim])[words.OPEN]
        os.kill(victim, signal.SIGKILL)
        event = server.wait_for("process_exited")
        assert (event["pid"], event["exit_code"], event["signal"]) == (victim, None, 9)
        assert board.total(words.OPEN, words.ROLE_SERVER) == 20 - lost
        assert board.row(rows[victim])[words.CLOSED] == lost
        with Peer(address) as peer:
            peer.upgrade().send(frame(1, b"hello"))
            assert peer.frame() == (0x81, b"hello")
        assert not gone(other)
    os.close(board.fd)


def test_a_shard_that_died_has_a_successor_where_that_is_asked_for() -> None:
    with serving(shards=1, restart=True) as server:
        os.kill(server.pids[1], signal.SIGKILL)
        assert server.wait_for("process_exited")["signal"] == 9
        server.pids.append(server.wait_for("process_started")["pid"])
        with Peer(server.address) as peer:
            peer.upgrade().send(frame(1, b"hello"))
            assert peer.frame() == (0x81, b"hello")
        assert server.end() == 0


def test_a_server_whose_shards_have_all_died_does_not_end_well() -> None:
    with serving(shards=2) as server:
        for pid in server.pids[1:]:
            os.kill(pid, signal.SIGKILL)
        assert server.process.wait(rig.DEADLINE_SECONDS) == 1


def test_a_shard_that_dies_again_and_again_is_given_up() -> None:
    class Crew:
        started = 0

        def fork_member(self, index: int) -> int:
            self.started += 1
            raise OSError(errno.EAGAIN, "no")

    crew = Crew()
    successors = sharded.Successors(crew, lambda index: None)
    waits = []
    successors.died(0)
    while successors.due:
        waits.append(successors.start_those_due())
        successors.due = dict.fromkeys(successors.due, 0.0)
    assert crew.started == sharded.RESTARTS_IN_A_ROW
    assert waits[1:-1] == sorted(waits[1:-1])


def test_the_end_of_standard_input_ends_all_of_it() -> None:
    with serving(shards=3) as server, Peer(server.address) as peer:
        peer.upgrade()
        assert len(server.pids) == 4
        assert server.end() == 0
        until(lambda: all(map(gone, server.pids)))
        with pytest.raises(ConnectionRefusedError):
            Peer(server.address)


def test_the_death_of_the_master_ends_the_shards() -> None:
    with serving(shards=2) as server:
        server.process.kill()
        until(lambda: all(map(gone, server.pids)))


def test_a_drain_is_sat_out() -> None:
    # Told of it, a shard leaves the closing to the kernel; it still goes when the lifeline ends.
    with serving() as server, Peer(server.address) as peer:
        peer.upgrade()
        server.tell("drain")
        wait_channel = Path(f"/proc/{server.pids[1]}/wchan")
        until(lambda: "pipe" in wait_channel.read_text())
        assert server.end() == 0


def test_a_port_that_is_taken_is_an_error_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Program.of("servers.lean", {"port": port}) as server:
            message = server.wait_for("error")["message"]
            assert message == f"cannot listen on 127.0.0.1:{port}: Address already in use"
            assert server.process.wait(rig.DEADLINE_SECONDS) == 1
            assert server.stderr() == ""


@pytest.mark.parametrize("spec", [{"port": 70000}, {"host": "no.such.host.invalid"}, {"host": "192.0.2.1"}])
def test_a_place_where_nobody_can_listen_is_an_error_in_one_line(spec: dict[str, object]) -> None:
    with Program.of("servers.lean", spec) as server:
        assert server.wait_for("error")["message"].startswith("cannot listen on ")
        assert server.process.wait(rig.DEADLINE_SECONDS) == 1
        assert server.stderr() == ""


def test_it_serves_ipv6() -> None:
    with serving(host="::1") as server:
        assert server.url.startswith("ws://[::1]:")
        with Peer(server.address) as peer:
            peer.upgrade().send(frame(1, b"six"))
            assert peer.frame() == (0x81, b"six")
