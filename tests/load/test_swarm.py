"""The swarm against good servers, bad servers and no server at all."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from load import rig
from load.rig import Player, Program, frame, gone, heard, percentile, scripted, serving, until, upgraded
from wslab.core.histogram import BUCKETS
from wslab.load import scoreboard as words
from wslab.load.engine import state, swarm_words
from wslab.load.scoreboard import Scoreboard
from wslab.load.swarm.worker import FAILURES_IN_A_ROW


class Swarm(Program):
    """A running swarm and the board on which it counts."""

    board: Scoreboard
    pids: list[int]

    def count(self, word: int) -> int:
        return self.board.total(word, words.ROLE_SWARM)

    def counts(self, *names: str) -> list[int]:
        return [self.count(getattr(words, name)) for name in names]

    def run(self, phase: str, **fields: Any) -> None:
        """Go through a phase, and wait until its counts are on the board."""
        self.events = [event for event in self.events if event["event"] != "phase_ended"]
        self.tell(phase, **fields)
        self.wait_for("phase_ended", phase=phase)


@contextmanager
def swarming(url: str, connections: int, fd_limit: int | None = None, **spec: Any) -> Iterator[Swarm]:
    board = Scoreboard.create(
        1 + spec.get("workers", 1) + 1
    )  # one row in front that is not theirs; the master's is last
    os.set_inheritable(board.fd, True)
    spec = {"url": url, "connections": connections, "workers": 1, "board_fd": board.fd, "board_row": 1, **spec}
    try:
        with Swarm.of("swarm.master", spec, fd_limit=fd_limit, pass_fds=(board.fd,)) as swarm:
            swarm.board = board
            swarm.pids = swarm.wait_for("ready")["pids"]
            yield swarm
    finally:
        os.close(board.fd)


@contextmanager
def the_library(handler: Callable[[ServerConnection], Any], **options: Any) -> Iterator[str]:
    """Run a `websockets.asyncio` server in a thread; yield its URL."""
    started: list[Any] = []

    async def main() -> None:
        stop = asyncio.Event()
        async with serve(handler, "127.0.0.1", 0, **options) as server:
            started.extend((asyncio.get_running_loop(), stop, server.sockets[0].getsockname()[1]))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    loop, stop, port = until(lambda: started)
    try:
        yield f"ws://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(rig.DEADLINE_SECONDS)


async def echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass  # The swarm leaves by a reset.


# Good servers.


@pytest.mark.parametrize("kind", ["lean", "tcp_floor"])
def test_all_connections_are_opened_and_proved(kind: str) -> None:
    with serving(kind, shards=2) as server, swarming(server.url, 47, workers=3, message_bytes=300) as swarm:
        assert len(swarm.pids) == 4
        swarm.run("ramp")
        until(lambda: swarm.counts("OPEN", "OPENED", "PENDING", "TARGET") == [47, 47, 0, 47])
        assert [swarm.board.row(index)[words.OPEN] for index in (1, 2, 3)] == [16, 16, 15]
        swarm.run("verify", passes=2)
        until(lambda: swarm.counts("VERIFIED", "SENT", "RECEIVED") == [47, 94, 94])
        assert swarm.board.failures() == {}
        assert sum(swarm.board.histogram(words.HANDSHAKE)) == 47
        assert sum(swarm.board.histogram(words.ROUNDTRIP)) == 94
        swarm.run("drain")
        assert swarm.process.wait(rig.DEADLINE_SECONDS) == 0
        assert [event["exit_code"] for event in swarm.all_of("process_exited")] == [0, 0, 0]
        assert swarm.stderr() == ""


def test_each_verification_proves_every_connection_anew() -> None:
    messages: list[bytes] = []

    def reply(payload: bytes) -> bytes:
        messages.append(payload)
        if len(messages) > 2:
            answered.wait(rig.DEADLINE_SECONDS)
        return frame(2, payload, masked=False)

    answered = threading.Event()
    with scripted(replying(reply)) as url, swarming(url, 2) as swarm:
        swarm.run("ramp")
        swarm.run("verify")
        until(lambda: swarm.counts("VERIFIED", "SENT") == [2, 2])
        swarm.events.clear()
        swarm.tell("verify")
        until(lambda: swarm.counts("VERIFIED", "SENT") == [0, 4])
        swarm.hear(0.1)
        assert swarm.events == []  # It is not through because the first one was.
        answered.set()
        swarm.wait_for("phase_ended", phase="verify")
        until(lambda: swarm.counts("VERIFIED", "RECEIVED") == [2, 4])


@pytest.mark.parametrize(("kind", "size"), [("lean", 1 << 20), ("tcp_floor", 1 << 20), ("lean", 1), ("lean", 65536)])
def test_messages_of_any_size_come_back(kind: str, size: int) -> None:
    with serving(kind) as server, swarming(server.url, 4, message_bytes=size) as swarm:
        swarm.run("ramp")
        swarm.run("verify")
        until(lambda: swarm.counts("VERIFIED", "MESSAGES_FAILED") == [4, 0])


def test_a_server_that_echoes_while_it_still_receives_cannot_jam_the_swarm() -> None:
    # Far more than the buffers of both sockets hold: whoever only wrote would wait for ever.
    with serving("tcp_floor") as server, swarming(server.url, 1, message_bytes=12 << 20) as swarm:
        swarm.run("ramp")
        swarm.run("verify")
        until(lambda: swarm.counts("VERIFIED", "MESSAGES_FAILED") == [1, 0])


def test_the_librarys_own_server_holds_and_answers() -> None:
    with the_library(echo) as url, swarming(url, 20, message_rate=5.0) as swarm:
        swarm.run("ramp")
        swarm.tell("hold")
        until(lambda: swarm.count(words.RECEIVED) > 20)
        swarm.run("verify")
        until(lambda: swarm.counts("OPEN", "VERIFIED", "MESSAGES_FAILED") == [20, 20, 0])
        assert swarm.board.failures() == {}


def test_ipv6_is_dialled_and_source_addresses_of_the_other_family_are_left_out() -> None:
    with serving(host="::1") as server, swarming(server.url, 3, source_addresses=["127.0.0.2"]) as swarm:
        swarm.run("ramp")
        swarm.run("verify")
        until(lambda: swarm.counts("OPEN", "VERIFIED") == [3, 3])


def test_source_addresses_are_used_in_turn() -> None:
    sources: list[str] = []

    def script(peer: socket.socket) -> None:
        sources.append(peer.getpeername()[0])
        peer.sendall(upgraded(peer))
        peer.recv(1)

    with scripted(script) as url, swarming(url, 6, source_addresses=["127.0.0.2", "127.0.3.4"]) as swarm:
        swarm.run("ramp")
        assert sorted(sources) == ["127.0.0.2"] * 3 + ["127.0.3.4"] * 3


def test_the_servers_addresses_are_dialled_in_turn_by_every_source() -> None:
    pairs: list[tuple[str, str]] = []

    def script(peer: socket.socket) -> None:
        pairs.append((peer.getpeername()[0], peer.getsockname()[0]))
        peer.sendall(upgraded(peer))
        peer.recv(1)

    sources, destinations = ["127.0.0.2", "127.0.0.3"], ["127.0.0.1", "127.1.0.1"]
    with (
        scripted(script, host="0.0.0.0") as url,
        swarming(url, 8, source_addresses=sources, destination_addresses=destinations) as swarm,
    ):
        swarm.run("ramp")
        assert sorted(pairs) == sorted(2 * [(source, there) for source in sources for there in destinations])


# Servers that are odd, but within their rights.


def test_connections_of_an_earlier_program_leave_their_ports_in_time_wait() -> None:
    with (
        serving() as server,
        swarming(server.url, 1, source_addresses=["127.46.0.7"], connections_before=5) as swarm,
    ):
        until(lambda: waiting("127.46.0.7", server.address[1]) == 5)
        swarm.run("ramp")
        assert swarm.count(words.OPENED) == 1


def waiting(address: str, port: int) -> int:
    """Return how many connections from an address to a port of this machine are in TIME_WAIT."""
    local = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].startswith(local + ":") and row[2].endswith(f":{port:04X}") and row[3] == "06" for row in rows)


def test_an_echo_in_fragments_and_parts_with_pings_between_is_an_echo() -> None:
    pongs: list[bytes] = []

    def script(peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in upgraded(peer):
            peer.sendall(bytes((byte,)))
        while True:
            opcode, payload = heard(peer)
            if opcode == 10:
                pongs.append(payload)
                continue
            reply = frame(2, payload[:3], fin=False, masked=False) + frame(9, b"are you there", masked=False)
            for byte in reply + frame(0, payload[3:], masked=False):
                peer.sendall(bytes((byte,)))

    with scripted(script) as url, swarming(url, 3) as swarm:
        swarm.run("ramp")
        swarm.run("verify", passes=2)
        until(lambda: swarm.counts("VERIFIED", "RECEIVED", "MESSAGES_FAILED") == [3, 6, 0])
        until(lambda: pongs == [b"are you there"] * 6)
        assert swarm.board.failures() == {}


def test_a_ping_right_behind_the_upgrade_is_answered() -> None:
    pongs: list[tuple[int, bytes]] = []

    def script(peer: socket.socket) -> None:
        peer.sendall(upgraded(peer) + frame(9, b"first", masked=False))
        pongs.append(heard(peer))

    with scripted(script) as url, swarming(url, 1) as swarm:
        swarm.run("ramp")
        until(lambda: pongs == [(10, b"first")])


# Failures, by phase and errno.


def no_server() -> str:
    """Return a URL where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"ws://127.0.0.1:{listener.getsockname()[1]}"


def test_a_refused_connection_is_counted_and_given_up_after_a_while() -> None:
    with swarming(no_server(), FAILURES_IN_A_ROW + 50) as swarm:
        swarm.run("ramp")
        until(lambda: swarm.counts("FAILED", "OPEN", "PENDING") == [FAILURES_IN_A_ROW, 0, 0])
        assert swarm.board.failures() == {("connect", errno.ECONNREFUSED): FAILURES_IN_A_ROW}
        (failure,) = swarm.all_of("failure")
        assert (failure["phase"], failure["errno"], failure["detail"]) == ("connect", 111, "Connection refused")


def test_a_source_address_that_cannot_be_had_is_counted_as_such() -> None:
    with serving() as server, swarming(server.url, 4, source_addresses=["127.0.0.2", "192.0.2.1"]) as swarm:
        swarm.run("ramp")
        until(lambda: swarm.counts("OPEN", "FAILED") == [2, 2])
        assert swarm.board.failures() == {("connect", errno.EADDRNOTAVAIL): 2}


def test_a_worker_without_descriptors_counts_them_and_holds_what_it_has() -> None:
    with serving() as server, swarming(server.url, 90, fd_limit=64) as swarm:
        swarm.run("ramp")
        until(lambda: sum(swarm.counts("OPEN", "FAILED")) == 90)
        assert swarm.board.failures() == {("connect", errno.EMFILE): swarm.count(words.FAILED)}
        opened = swarm.count(words.OPEN)
        assert 40 < opened < 64
        assert opened <= swarm.count(words.CAPACITY) < 64
        swarm.run("verify")
        until(lambda: swarm.count(words.VERIFIED) == opened)
        assert swarm.stderr() == ""


def test_a_floor_worker_without_descriptors_still_puts_echoes_together() -> None:
    spec = {"fd_limit": 64, "message_bytes": 300_000}
    with serving("tcp_floor") as server, swarming(server.url, 90, **spec) as swarm:
        swarm.run("ramp")
        swarm.run("verify")
        until(lambda: swarm.count(words.VERIFIED) == swarm.count(words.OPEN) > 40)
        assert swarm.stderr() == ""


def answering(answer: Callable[[bytes], bytes]) -> Callable[[socket.socket], None]:
    """Return a script that answers the upgrade with what `answer` makes of the right answer, then waits."""

    def script(peer: socket.socket) -> None:
        peer.sendall(answer(upgraded(peer)))
        while peer.recv(4096):
            pass

    return script


@pytest.mark.parametrize(
    ("answer", "error", "detail"),
    [
        (lambda right: b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", errno.EPROTO, "403 Forbidden"),
        (lambda right: right.replace(b"Accept: ", b"Accept: x"), errno.EPROTO, "Sec-WebSocket-Accept"),
        (lambda right: b"", errno.ETIMEDOUT, "timed out"),
        (lambda right: right[:40], errno.ETIMEDOUT, "timed out"),
    ],
    ids=["403", "a wrong accept value", "silence", "half an answer"],
)
def test_an_upgrade_that_fails_is_counted_with_what_the_server_said(
    answer: Callable[[bytes], bytes], error: int, detail: str
) -> None:
    with scripted(answering(answer)) as url, swarming(url, 3, handshake_timeout_seconds=0.3) as swarm:
        swarm.run("ramp")
        until(lambda: swarm.counts("OPEN", "FAILED", "PENDING") == [0, 3, 0])
        assert swarm.board.failures() == {("upgrade", error): 3}
        (failure,) = swarm.all_of("failure")
        assert detail in failure["detail"]


def test_a_server_that_hangs_up_on_the_request_is_counted() -> None:
    def script(peer: socket.socket) -> None:
        upgraded(peer)

    with scripted(script) as url, swarming(url, 3) as swarm:
        swarm.run("ramp")
        until(lambda: swarm.count(words.FAILED) == 3)
        assert swarm.board.failures() == {("upgrade", errno.ESHUTDOWN): 3}


def replying(reply: Callable[[bytes], bytes]) -> Callable[[socket.socket], None]:
    """Return a script that grants the upgrade and answers each message with what `reply` makes of it."""

    def script(peer: socket.socket) -> None:
        peer.sendall(upgraded(peer))
        while True:
            opcode, payload = heard(peer)
            data = reply(payload) if opcode == 2 else b""
            if data is None:
                return
            peer.sendall(data)

    return script


@pytest.mark.parametrize(
    ("reply", "failures", "still_open"),
    [
        pytest.param(
            lambda payload: frame(2, payload[::-1], masked=False), {("echo", errno.EBADMSG): 3}, 3, id="wrong bytes"
        ),
        pytest.param(lambda payload: None, {("hold", errno.ESHUTDOWN): 3}, 0, id="hangs up"),
        pytest.param(
            lambda payload: frame(8, b"\x03\xe9", masked=False), {("hold", errno.ESHUTDOWN): 3}, 0, id="closes"
        ),
        pytest.param(
            lambda payload: frame(2, payload, rsv=4, masked=False), {("hold", errno.EPROTO): 3}, 0, id="reserved bits"
        ),
        pytest.param(lambda payload: frame(2, payload), {("hold", errno.EPROTO): 3}, 0, id="masks"),
        pytest.param(lambda payload: b"", {("echo", errno.ETIMEDOUT): 3}, 3, id="says nothing"),
    ],
)
def test_an_echo_that_fails_is_counted_and_proves_nothing(
    reply: Callable[[bytes], bytes], failures: dict[tuple[str, int], int], still_open: int
) -> None:
    with scripted(replying(reply)) as url, swarming(url, 3, echo_timeout_seconds=0.3) as swarm:
        swarm.run("ramp")
        swarm.run("verify")
        until(
            lambda: swarm.counts("OPEN", "VERIFIED", "MESSAGES_FAILED", "CLOSED") == [still_open, 0, 3, 3 - still_open]
        )
        assert swarm.board.failures() == failures


def test_echoes_that_come_twice_are_unasked_and_disturb_nothing() -> None:
    twice = replying(lambda payload: frame(2, payload, masked=False) * 2)
    with scripted(twice) as url, swarming(url, 10, workers=2, message_rate=20.0) as swarm:
        swarm.run("ramp")
        swarm.tell("hold")
        until(lambda: swarm.count(words.RECEIVED) > 40)
        swarm.run("verify", passes=2)
        until(lambda: swarm.counts("OPEN", "VERIFIED", "MESSAGES_FAILED") == [10, 10, 0])
        until(lambda: swarm.count(words.MESSAGES_UNASKED) == swarm.count(words.RECEIVED) == swarm.count(words.SENT))
        assert swarm.board.failures() == {}


def test_the_echo_of_an_earlier_message_on_the_connection_is_unasked_while_another_is_due() -> None:
    said: list[bytes] = []

    def reply(payload: bytes) -> bytes:
        said.append(payload)
        return b"".join(frame(2, message, masked=False) for message in said)

    with scripted(replying(reply)) as url, swarming(url, 1) as swarm:
        swarm.run("ramp")
        swarm.run("verify", passes=3)
        until(lambda: swarm.counts("VERIFIED", "RECEIVED", "MESSAGES_UNASKED", "MESSAGES_FAILED") == [1, 3, 3, 0])


def test_the_echo_of_another_connection_is_wrong_and_not_unasked() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    with Player("tcp://127.0.0.1:9") as player:
        first, second = (mine.detach() for mine, _ in pairs)
        player.adopt(first)
        player.adopt(second)
        player.worker.start_verifying(1)
        player.turn()
        message = player.worker.payload(first, player.worker.fields["serial"][first])
        player.worker.judge_message(second, message)
        assert (player.row[words.MESSAGES_FAILED], player.row[words.MESSAGES_UNASKED]) == (1, 0)
        player.worker.judge_message(second, message)
        assert (player.row[words.MESSAGES_FAILED], player.row[words.MESSAGES_UNASKED]) == (1, 1)
    for _, theirs in pairs:
        theirs.close()


def test_a_greeting_is_unasked_and_counts_for_no_echo() -> None:
    def script(peer: socket.socket) -> None:
        peer.sendall(upgraded(peer) + frame(1, b"welcome", masked=False))
        while True:
            peer.sendall(frame(2, heard(peer)[1], masked=False))

    with scripted(script) as url, swarming(url, 4) as swarm:
        swarm.run("ramp")
        until(lambda: swarm.counts("OPEN", "MESSAGES_UNASKED", "RECEIVED") == [4, 4, 0])
        swarm.run("verify")
        until(lambda: swarm.counts("VERIFIED", "MESSAGES_UNASKED", "MESSAGES_FAILED") == [4, 4, 0])


@pytest.mark.parametrize("behind_the_upgrade", [True, False])
def test_a_close_by_the_server_is_answered_and_counted_as_lost_while_held(behind_the_upgrade: bool) -> None:
    answers: list[tuple[int, bytes]] = []
    farewell = frame(8, b"\x03\xe9going", masked=False)

    def script(peer: socket.socket) -> None:
        answer = upgraded(peer)
        if behind_the_upgrade:
            peer.sendall(answer + farewell)
        else:
            peer.sendall(answer)
            held.wait(rig.DEADLINE_SECONDS)
            peer.sendall(farewell)
        answers.append(heard(peer))

    held = threading.Event()
    with scripted(script) as url, swarming(url, 2) as swarm:
        swarm.run("ramp")
        swarm.tell("hold")
        held.set()
        until(lambda: swarm.counts("OPEN", "OPENED", "CLOSED", "FAILED") == [0, 2, 2, 0])
        assert swarm.board.failures() == {("hold", errno.ESHUTDOWN): 2}
        (failure,) = swarm.all_of("failure")
        assert failure["detail"] == "closed with code 1001 (going)"
        until(lambda: answers == [(8, b"\x03\xe9going")] * 2)


def test_a_reset_while_held_is_counted_with_its_errno() -> None:
    def script(peer: socket.socket) -> None:
        peer.sendall(upgraded(peer))
        held.wait(rig.DEADLINE_SECONDS)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    held = threading.Event()
    with scripted(script) as url, swarming(url, 2) as swarm:
        swarm.run("ramp")
        held.set()
        until(lambda: swarm.counts("OPEN", "CLOSED") == [0, 2])
        assert swarm.board.failures() == {("hold", errno.ECONNRESET): 2}


# Schedules.


def test_a_ramp_rate_is_kept_by_all_workers_together() -> None:
    arrivals: list[float] = []

    def script(peer: socket.socket) -> None:
        arrivals.append(time.monotonic())
        answering(lambda right: right)(peer)

    with scripted(script) as url, swarming(url, 60, workers=3, ramp_rate=100.0) as swarm:
        swarm.run("ramp")
        arrivals.sort()
        # 60 connections at 100/s take 0.59 s; an even stream has half of them at half time.
        assert 0.5 < arrivals[-1] - arrivals[0] < 1.2
        assert 0.2 < arrivals[30] - arrivals[0] < 0.8


def test_a_stall_of_the_server_shows_in_every_message_that_was_due_meanwhile() -> None:
    stall = threading.Lock()
    messages: list[bytes] = []

    def reply(payload: bytes) -> bytes:
        messages.append(payload)
        if len(messages) == 20:
            stall.acquire()
            time.sleep(0.3)  # The stall itself.
            stall.release()
        with stall:
            return frame(2, payload, masked=False)

    with scripted(replying(reply)) as url, swarming(url, 40, message_rate=1.0) as swarm:
        swarm.run("ramp")
        swarm.tell("hold")
        until(lambda: swarm.count(words.RECEIVED) >= 60)
        counts = swarm.board.histogram(words.ROUNDTRIP)
        # 40 messages a second: a dozen were due in 0.3 s. Were they sent only after the stall, one would be slow.
        slow = percentile(counts, 1 - 6 / sum(counts))
        assert 0.1 < slow < 1.0


def test_a_step_is_a_schedule_of_its_length_and_what_waits_at_its_end_is_still_sent() -> None:
    def reply(payload: bytes) -> bytes:
        time.sleep(0.01)  # One connection cannot answer more than 100 messages a second.
        return frame(2, payload, masked=False)

    with scripted(replying(reply)) as url, swarming(url, 1) as swarm:
        swarm.run("ramp")
        row = swarm.board.row(1)
        for rate, due in ((300.0, 60), (50.0, 70)):
            swarm.tell("step", messages_per_second=rate, seconds=0.2)
            until(lambda: row[words.PHASE_DONE] == words.PHASES.index("climb"))
            until(lambda due=due: swarm.counts("SENT", "RECEIVED") == [due, due])
        # The last of those that were due in 0.2 s had to wait for the ten milliseconds of each before it.
        assert percentile(swarm.board.histogram(words.ROUNDTRIP), 0.8) > 0.2
        swarm.run("verify")
        assert swarm.counts("VERIFIED", "MESSAGES_FAILED") == [1, 0]


def test_messages_go_on_at_the_rate_of_those_that_are_left_when_connections_are_lost() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    with Player("tcp://127.0.0.1:9", message_rate=100.0) as player:
        for mine, _ in pairs:
            player.adopt(mine.detach())
        player.worker.start_talking()
        sent = []
        for _ in range(2):
            start, before = time.monotonic(), player.row[words.SENT]
            while time.monotonic() - start < 0.3:
                player.turn()
                for _, theirs in pairs:
                    theirs.setblocking(False)
                    try:
                        theirs.sendall(theirs.recv(4096))
                    except OSError:
                        pass
            sent.append((player.row[words.SENT] - before) / (time.monotonic() - start))
            if len(sent) == 1:
                player.worker.lost(int(np.flatnonzero(player.worker.states)[0]), errno.ECONNRESET)
        assert sent[0] == pytest.approx(200, rel=0.1)
        assert sent[1] == pytest.approx(100, rel=0.1)
    for _, theirs in pairs:
        theirs.close()


def test_a_message_that_is_due_while_the_last_is_unanswered_waits_and_its_latency_counts_from_when_it_was_due() -> None:
    mine, theirs = socket.socketpair()
    with Player("tcp://127.0.0.1:9", message_rate=20.0) as player:
        player.adopt(mine.detach())
        player.worker.start_talking()
        began = time.monotonic()
        player.until(lambda: time.monotonic() - began > 0.42)  # Eight or nine are due by then.
        assert player.row[words.SENT] == 1
        assert player.row[words.MESSAGES_FAILED] == 0
        owed = sum(player.worker.fields["owed"])
        assert owed in (7, 8, 9)
        player.worker.reals[swarm_words.NEXT_AT] += 1e12  # No more become due.
        for _ in range(owed + 1):
            message = b""
            while len(message) < player.worker.task.message_bytes:
                message += theirs.recv(4096)
            theirs.sendall(message)
            received = player.row[words.RECEIVED]
            player.until(lambda before=received: player.row[words.RECEIVED] > before)
        assert player.row[words.SENT] == player.row[words.RECEIVED]
        assert player.worker.row[words.MESSAGES_FAILED] == 0
        counts = player.row[words.ROUNDTRIP : words.ROUNDTRIP + BUCKETS].tolist()
        # They were due 50 ms apart and answered at the same moment: half of them had waited for 0.2 s or more.
        assert percentile(counts, 0.5) == pytest.approx(0.22, abs=0.06)
        assert percentile(counts, 1.0) > 0.4
    theirs.close()


def test_a_worker_that_is_late_blames_nobody_else_for_it() -> None:
    # Due ten seconds ago and dialled now: the server still has all of its time.
    with serving() as server, Player(server.url, ramp_rate=1.0, handshake_timeout_seconds=1.0) as player:
        worker, row = player.worker, player.row
        worker.words[swarm_words.DIALLING] = 1
        worker.words[swarm_words.BEGAN] = time.monotonic_ns() - 10 * 10**9
        player.until(lambda: row[words.OPEN] == 1)
        assert row[words.FAILED] == 0
        assert row[words.LAG_US] > 9_000_000
        handshakes = row[words.HANDSHAKE : words.HANDSHAKE + BUCKETS].tolist()
        assert percentile(handshakes, 1.0) == pytest.approx(10, rel=0.03)
        (fd,) = np.flatnonzero(worker.states)
        worker.words[state.PLAIN] = 1
        worker.fields["owed"][fd], worker.fields["owed_at"][fd] = 1, time.monotonic_ns() - 30 * 10**9
        worker.reals[swarm_words.MESSAGE_RATE] = 1.0
        worker.act(worker.next_message(True, fd))
        worker.words[swarm_words.CHECK_AT] = 0
        player.until(lambda: row[words.RECEIVED] == 1)
        assert row[words.MESSAGES_FAILED] == 0


def test_the_first_connection_of_a_worker_waits_for_its_turn() -> None:
    with serving() as server, Player(server.url, ramp_rate=2.0) as player:
        worker = player.worker
        worker.reals[swarm_words.START_AFTER] = 1.0
        worker.words[swarm_words.DIALLING], worker.words[swarm_words.BEGAN] = 1, time.monotonic_ns() - 9 * 10**8
        player.turn()
        assert worker.words[swarm_words.DIALLED] == 0
        worker.words[swarm_words.BEGAN] -= 10**8
        player.turn()
        assert worker.words[swarm_words.DIALLED] == 1


def keepalive(payload: bytes) -> bytes:
    """Return a ping as a server sends it."""
    return frame(9, payload, masked=False)


@pytest.mark.parametrize("payload", [b"", b"ping!", bytes(range(125))])
@pytest.mark.parametrize("due", [False, True], ids=["idle", "while an echo is due"])
@pytest.mark.parametrize("plain", [True, False])
def test_a_ping_of_the_server_is_answered_by_a_masked_pong(plain: bool, due: bool, payload: bytes) -> None:
    mine, theirs = socket.socketpair()
    with Player("ws://127.0.0.1:9/", plain=plain) as player, theirs:
        player.adopt(mine.detach())
        theirs.settimeout(rig.DEADLINE_SECONDS)
        if due:
            player.worker.start_verifying(1)
            player.until(lambda: player.row[words.SENT] == 1)
            opcode, message = heard(theirs)
        theirs.sendall(keepalive(payload))
        player.until(lambda: select.select([theirs], [], [], 0)[0])
        assert heard(theirs) == (10, payload)
        if due:
            theirs.sendall(frame(opcode, message, masked=False))
            player.until(lambda: player.row[words.VERIFIED] == 1)
        counts = (words.MESSAGES_FAILED, words.MESSAGES_UNASKED, words.CLOSED)
        assert [player.row[word] for word in counts] == [0, 0, 0]


def test_a_ping_alone_needs_no_python_and_no_two_pongs_have_the_same_mask() -> None:
    mine, theirs = socket.socketpair()
    with Player("ws://127.0.0.1:9/") as player, theirs:
        player.adopt(mine.detach())
        del player.worker.actions[state.BYTES]
        masks = set()
        for _ in range(8):
            theirs.sendall(keepalive(b"beat"))
            player.until(lambda: select.select([theirs], [], [], 0)[0])
            masks.add(theirs.recv(100)[2:6])
        assert len(masks) == 8


def test_a_pong_that_the_peer_does_not_take_is_kept_until_it_does() -> None:
    mine, theirs = socket.socketpair()
    with Player("ws://127.0.0.1:9/") as player, theirs:
        mine.setblocking(False)
        filled = 0
        try:
            while True:
                filled += mine.send(frame(2, b"x" * 125))
        except BlockingIOError:
            pass
        fd = mine.detach()
        player.adopt(fd)
        theirs.sendall(keepalive(b"beat"))
        player.until(lambda: player.worker.states[fd] & state.KEPT)
        theirs.settimeout(rig.DEADLINE_SECONDS)
        while filled:
            filled -= len(theirs.recv(min(filled, 1 << 16)))
        player.until(lambda: select.select([theirs], [], [], 0)[0])
        assert heard(theirs) == (10, b"beat")
        player.until(lambda: player.worker.states[fd] == state.OPEN)


def test_an_echo_that_comes_after_it_was_given_up_is_not_taken_for_a_wrong_one() -> None:
    mine, theirs = socket.socketpair()
    with Player("tcp://127.0.0.1:9") as player:
        worker, row = player.worker, player.row
        fd = mine.detach()
        player.adopt(fd)
        worker.start_verifying(1)
        player.turn()
        first = theirs.recv(100)
        theirs.sendall(first[:5])  # A part of it was taken already when it is given up.
        player.until(lambda: worker.fields["got"][fd] == 5)
        worker.words[swarm_words.ECHO_TIMEOUT_NS] = worker.words[swarm_words.CHECK_AT] = 0
        player.until(lambda: row[words.MESSAGES_FAILED] == 1)
        worker.words[swarm_words.ECHO_TIMEOUT_NS] = 10**12
        worker.start_verifying(1)
        player.turn()
        second = theirs.recv(100)
        assert second != first
        theirs.sendall(first[5:] + second)
        player.until(lambda: row[words.RECEIVED] == 1)
        assert (row[words.MESSAGES_FAILED], row[words.MESSAGES_UNASKED], row[words.VERIFIED]) == (1, 0, 1)
        assert (worker.words[swarm_words.DUE], worker.late, worker.exchanges) == (0, {}, {})
    theirs.close()


def test_a_worker_without_epoll_watches_counts_them() -> None:
    # An epoll that is no epoll refuses every descriptor, as one does when this user's watches are used up.
    with serving() as server, Player(server.url) as player:
        worker = player.worker
        with socket.socket() as no_epoll:
            worker.words[state.EPOLL] = no_epoll.fileno()
            worker.words[swarm_words.DIALLING] = 1
            assert worker.step() == state.DIAL_FAILED
            worker.words[state.EPOLL] = worker.epoll.fileno()
        assert player.row[words.FAILURES + errno.EINVAL] == player.row[words.FAILED] == 1
        assert (player.row[words.PENDING], np.flatnonzero(worker.states).tolist()) == (0, [])


# Commands, and the end.


def test_a_halt_ends_the_ramp_and_keeps_what_is_open() -> None:
    with serving() as server, swarming(server.url, 150, workers=2, ramp_rate=50.0) as swarm:
        swarm.tell("ramp")
        until(lambda: swarm.count(words.OPEN) >= 5)
        swarm.tell("halt")
        swarm.wait_for("phase_ended", phase="ramp", seconds=1.5)
        until(lambda: swarm.count(words.PENDING) == 0)
        opened = swarm.count(words.OPEN)
        assert 5 <= opened < 100
        swarm.run("verify")
        until(lambda: swarm.counts("OPEN", "VERIFIED") == [opened, opened])


def test_the_echo_of_a_message_from_the_hold_phase_is_proof_enough() -> None:
    mine, theirs = socket.socketpair()
    with Player("tcp://127.0.0.1:9", message_rate=100.0) as player:
        worker, row = player.worker, player.row
        player.adopt(mine.detach())
        worker.start_talking()
        player.until(lambda: row[words.SENT] == 1)
        worker.start_verifying(1)
        player.turn()
        echo = theirs.recv(1000)
        assert len(echo) == worker.task.message_bytes  # No second message, whose echo would be confused with it.
        theirs.sendall(echo)
        player.until(lambda: not worker.words[swarm_words.VERIFYING])
        assert (row[words.VERIFIED], row[words.SENT], row[words.MESSAGES_FAILED]) == (1, 1, 0)
    theirs.close()


def test_a_drain_resets_all_connections_and_leaves_no_time_wait() -> None:
    with serving() as server:
        with swarming(server.url, 30) as swarm:
            swarm.run("ramp")
            swarm.run("verify")
            swarm.run("drain")
            assert swarm.process.wait(rig.DEADLINE_SECONDS) == 0
        port = f":{server.address[1]:04X}"
        table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        left = [row[3] for row in table if row[1].endswith(port) or row[2].endswith(port)]
        assert "06" not in left  # TIME_WAIT
        until(lambda: _established(port) == 0)


def _established(port: str) -> int:
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return sum(row[3] == "01" and (row[1].endswith(port) or row[2].endswith(port)) for row in table)


def test_a_worker_that_is_killed_is_reported_and_the_phase_still_ends() -> None:
    with serving() as server, swarming(server.url, 150, workers=2, ramp_rate=100.0) as swarm:
        swarm.tell("ramp")
        until(lambda: swarm.board.row(1)[words.OPEN] > 3)
        os.kill(swarm.pids[1], signal.SIGKILL)
        event = swarm.wait_for("process_exited")
        assert (event["pid"], event["signal"], event["exit_code"]) == (swarm.pids[1], 9, None)
        swarm.wait_for("phase_ended", phase="ramp")
        until(lambda: swarm.count(words.OPEN) == 75)
        row = swarm.board.row(1)
        assert (row[words.OPEN], row[words.CLOSED] >= 4) == (0, True)
        swarm.run("verify")
        until(lambda: swarm.count(words.VERIFIED) == 75)


def test_a_server_that_dies_is_lost_connection_by_connection() -> None:
    with serving() as server, swarming(server.url, 12) as swarm:
        swarm.run("ramp")
        os.kill(server.pids[1], signal.SIGKILL)
        until(lambda: swarm.counts("OPEN", "CLOSED") == [0, 12])
        assert sum(swarm.board.failures().values()) == 12
        assert {phase for phase, _ in swarm.board.failures()} == {"hold"}


def test_the_end_of_standard_input_ends_all_of_it_also_in_the_middle_of_a_ramp() -> None:
    with serving() as server, swarming(server.url, 200, workers=3, ramp_rate=20.0) as swarm:
        swarm.tell("ramp")
        until(lambda: swarm.count(words.OPEN) > 0)
        assert swarm.end() == 0
        until(lambda: all(map(gone, swarm.pids)))
        assert swarm.stderr() == ""


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ws://no.such.host.invalid:1"])
def test_a_target_that_cannot_be_dialled_is_an_error_in_one_line(url: str) -> None:
    with Program.of("swarm.master", {"url": url, "connections": 1, "workers": 1}) as swarm:
        assert swarm.wait_for("error")["message"].startswith("the swarm cannot start: ")
        assert swarm.process.wait(rig.DEADLINE_SECONDS) == 1
        assert swarm.stderr() == ""


def test_a_worker_that_waits_costs_no_cpu() -> None:
    with serving() as server, swarming(server.url, 10) as swarm:
        swarm.run("ramp")
        until(lambda: swarm.count(words.OPEN) == 10)
        ticks, began = [rig.cpu_ticks(pid) for pid in swarm.pids], time.monotonic()
        until(lambda: time.monotonic() - began > 0.3)
        assert [rig.cpu_ticks(pid) for pid in swarm.pids] == pytest.approx(ticks, abs=1)


def test_the_floor_carries_no_library_it_does_not_need() -> None:
    with serving("tcp_floor") as server, swarming(server.url, 1) as swarm:
        swarm.run("ramp")
        for pid in (server.pids[1], swarm.pids[1]):
            assert "websockets" not in Path(f"/proc/{pid}/maps").read_text()
