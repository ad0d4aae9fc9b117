"""Application protocols: connections get in, answer heartbeats and prove themselves, as their servers want it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from load.rig import ROOT, until
from load.test_swarm import swarming, the_library
from wslab.core.protocols import PROTOCOLS, Protocol, own_protocol
from wslab.load import scoreboard as words

Handler = Callable[[ServerConnection], Awaitable[None]]
SOCKETIO, GRAPHQL = PROTOCOLS["socketio"].as_dict(), PROTOCOLS["graphql_ws"].as_dict()


def patient(handler: Handler) -> Handler:
    """Return a handler that takes the swarm's leave, a reset, for what it is."""

    async def serve(connection: ServerConnection) -> None:
        try:
            await handler(connection)
        except ConnectionClosed:
            pass

    return serve


async def heard(connection: ServerConnection, *expected: str) -> None:
    """Take the next message, which has to be one of some."""
    message = await connection.recv()
    if message not in expected:
        await connection.close(4000, f"heard {message!r}"[:100])


def engine_io(interval: float, *, echoes: bool = True) -> Handler:
    """Return a handler as a Socket.IO server is: who does not answer its ping within an interval is thrown out."""

    async def serve(connection: ServerConnection) -> None:
        assert connection.request.path == "/socket.io/?EIO=4&transport=websocket"
        await connection.send('0{"sid":"a","upgrades":[],"pingInterval":25000,"pingTimeout":20000}')
        await heard(connection, "40")
        await connection.send('40{"sid":"b"}')
        pong = asyncio.Event()

        async def beat() -> None:
            while True:
                await asyncio.sleep(interval)
                pong.clear()
                await connection.send("2")
                try:
                    await asyncio.wait_for(pong.wait(), 10 * interval)
                except TimeoutError:
                    await connection.close(4001, "ping timeout")

        heart = asyncio.create_task(beat())
        try:
            async for message in connection:
                if message == "3":
                    beats.append(1)
                    pong.set()
                elif echoes and message.startswith("42"):
                    await connection.send(message)
        finally:
            heart.cancel()

    beats: list[int] = []
    handler = patient(serve)
    handler.beats = beats  # type: ignore[attr-defined]
    return handler


@pytest.mark.parametrize("plain", [True, False])
def test_connections_of_socketio_get_in_and_answer_every_heartbeat(plain: bool) -> None:
    handler = engine_io(0.1)
    spec = {"protocol": SOCKETIO, "proof": "auto", "message_rate": 2.0, "message_bytes": 33, "plain": plain}
    with the_library(handler) as url, swarming(url, 20, workers=2, **spec) as swarm:
        assert swarm.wait_for("proof")["proof"] == "echo"
        swarm.run("ramp")
        assert swarm.counts("OPEN", "FAILED") == [20, 0]
        swarm.tell("hold")
        until(lambda: len(handler.beats) > 60 and swarm.count(words.RECEIVED) > 20)  # type: ignore[attr-defined]
        swarm.run("verify")
        until(lambda: swarm.counts("OPEN", "VERIFIED", "MESSAGES_FAILED", "CLOSED") == [20, 20, 0, 0])
        assert swarm.count(words.MESSAGES_UNASKED) == 0  # What belongs to the protocol is not unasked.
        assert swarm.board.failures() == {}


def test_a_socketio_server_that_does_not_echo_is_proved_by_ping() -> None:
    server, spec = the_library(engine_io(0.1, echoes=False)), {"protocol": SOCKETIO, "proof": "auto"}
    with server as url, swarming(url, 5, **spec) as swarm:
        assert swarm.wait_for("proof")["proof"] == "ping"
        swarm.run("ramp")
        swarm.run("verify")
        until(lambda: swarm.counts("OPEN", "VERIFIED", "MESSAGES_FAILED") == [5, 5, 0])


async def refusing(connection: ServerConnection) -> None:
    await connection.send('0{"sid":"a"}')
    await connection.recv()
    await connection.send('44{"message":"not authorized"}')
    await connection.wait_closed()


async def silent(connection: ServerConnection) -> None:
    await connection.wait_closed()


async def closing(connection: ServerConnection) -> None:
    await connection.close(4403, "Forbidden")


@pytest.mark.parametrize(
    ("handler", "error", "detail"),
    [(refusing, errno.EPROTO, "not authorized"), (silent, errno.ETIMEDOUT, ""), (closing, errno.ESHUTDOWN, "4403")],
)
def test_who_is_not_let_in_failed_to_open_and_the_server_is_quoted(handler: Handler, error: int, detail: str) -> None:
    spec = {"protocol": SOCKETIO, "handshake_timeout_seconds": 0.4}
    with the_library(patient(handler)) as url, swarming(url, 3, **spec) as swarm:
        swarm.run("ramp")
        until(lambda: swarm.counts("OPEN", "FAILED", "PENDING") == [0, 3, 0])
        assert swarm.board.failures() == {("upgrade", error): 3}
        assert detail in swarm.all_of("failure")[0]["detail"]


def test_a_protocol_of_the_users_own_has_its_heartbeats_sent_by_the_client() -> None:
    row = own_protocol(
        {
            "opens_with": "join",
            "ready": "joined*",
            "message": "say {payload}",
            "echo": "said {payload}",
            "heartbeat": "alive",
            "heartbeat_seconds": 0.3,
            "replies": {"who*": "me", "nothing": ""},
        },
        "own.toml",
    )
    beats: dict[int, int] = {}
    answers: list[str] = []

    async def serve(connection: ServerConnection) -> None:
        await heard(connection, "join")
        await connection.send("joined")
        await connection.send("who are you")
        await connection.send("nothing")
        async for message in connection:
            if message == "alive":
                beats[id(connection)] = beats.get(id(connection), 0) + 1
            elif message.startswith("say "):
                await connection.send("said " + message[4:])
            else:
                answers.append(message)

    with the_library(patient(serve)) as url, swarming(url, 30, protocol=row.as_dict(), message_rate=3.0) as swarm:
        swarm.run("ramp")
        swarm.tell("hold")
        until(lambda: len(beats) == 30 and min(beats.values()) >= 2)
        swarm.run("verify")
        until(lambda: swarm.counts("OPEN", "VERIFIED", "MESSAGES_FAILED", "MESSAGES_UNASKED") == [30, 30, 0, 0])
        assert answers == ["me"] * 30


# The real servers, where npm has installed them.


@contextmanager
def node(folder: str) -> Iterator[str]:
    """Run the server of an example; yield its URL."""
    place = ROOT / "examples" / folder
    if shutil.which("node") is None or not (place / "node_modules").is_dir():
        pytest.skip(f"needs node, and `npm ci` in examples/{folder}")
    script = json.loads((place / "package.json").read_text("utf-8")).get("main", "server.js")
    environment = {**os.environ, "PORT": str(free_port())}
    with subprocess.Popen(["node", script], cwd=place, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"ws://127.0.0.1:{environment['PORT']}"
        finally:
            process.kill()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(url: str) -> bool:
    """Tell whether somebody listens there."""
    host, _, port = url.removeprefix("ws://").partition("/")[0].partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("folder", "row", "path"), [("socketio", SOCKETIO, ""), ("graphql_ws", GRAPHQL, "/graphql")])
def test_the_real_servers_hold_and_answer(folder: str, row: dict[str, object], path: str) -> None:
    assert isinstance(Protocol.from_record(row), Protocol)
    with node(folder) as url:
        until(lambda: answers(url))
        with swarming(url + path, 20, workers=2, protocol=row, proof="auto", message_rate=2.0) as swarm:
            swarm.run("ramp")
            swarm.run("verify")
            until(lambda: swarm.counts("OPEN", "VERIFIED", "MESSAGES_FAILED") == [20, 20, 0])
            assert swarm.board.failures() == {}
