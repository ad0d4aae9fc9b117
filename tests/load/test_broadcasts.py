"""A message of one connection that everybody gets, and how long the last one waits for it."""

from __future__ import annotations

import pytest
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.exceptions import ConnectionClosed

from load.rig import serving, until
from load.test_swarm import swarming, the_library
from wslab.load import scoreboard as words
from wslab.load.scoreboard import BROADCAST, BROADCAST_COUNT, BROADCAST_FIRST_NS, BROADCAST_LAST_NS, ROW_WORDS
from wslab.load.swarm import broadcasts as module
from wslab.load.swarm.broadcasts import Broadcasts


def test_the_last_of_all_connections_of_all_shards_has_a_broadcast() -> None:
    with serving("lean", shards=3, fan_out=True) as server:
        spec = {"workers": 2, "proof": "ping", "broadcast": True, "message_bytes": 200}
        with swarming(server.url, 60, **spec) as swarm:
            swarm.run("ramp")
            swarm.tell("hold")
            told = swarm.wait_for("broadcast")
            assert (told["connections"], told["received"], told["counted_from"]) == (60, 60, "sent")
            assert 0 < told["seconds"] < 5
            swarm.run("verify")
            until(lambda: swarm.counts("VERIFIED", "MESSAGES_FAILED", "MESSAGES_REPEATED") == [60, 0, 0])
            assert swarm.count(words.MESSAGES_UNASKED) >= 60
            assert swarm.board.failures() == {}


@pytest.mark.parametrize("plain", [True, False])
def test_a_server_may_leave_out_the_sender_and_put_the_message_into_another(plain: bool) -> None:
    connections: set[ServerConnection] = set()

    async def chat(connection: ServerConnection) -> None:
        connections.add(connection)
        try:
            async for message in connection:
                broadcast(connections - {connection}, f'{{"said": "{message}"}}')
        except ConnectionClosed:
            pass  # The swarm leaves by a reset.
        finally:
            connections.discard(connection)

    spec = {"workers": 2, "proof": "ping", "broadcast": True, "plain": plain}
    with the_library(chat) as url, swarming(url, 20, **spec) as swarm:
        swarm.run("ramp")
        swarm.tell("hold")
        told = swarm.wait_for("broadcast")
        assert (told["received"], told["counted_from"]) == (19, "first")
        assert told["seconds"] >= 0


def test_a_broadcast_that_not_everybody_gets_is_reported_as_far_as_it_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[dict[str, object]] = []
    monkeypatch.setattr(module, "emit", lambda event, **fields: told.append({"event": event, **fields}))
    clock = [1_000]
    monkeypatch.setattr(module, "monotonic_ns", lambda: clock[0])
    rows = [memoryview(bytearray(8 * ROW_WORDS)).cast("Q") for _ in range(2)]
    for row in rows:
        row[words.OPEN] = 10
    sent: list[int] = []
    broadcasts = Broadcasts(rows, sent.append)
    assert broadcasts.tick() is None  # Not in any phase but the hold.
    broadcasts.begin()
    broadcasts.tick()
    assert sent == [0]
    rows[0][BROADCAST], rows[0][BROADCAST_COUNT] = 7, 10
    rows[0][BROADCAST_FIRST_NS], rows[0][BROADCAST_LAST_NS] = 2_000, 3_000
    broadcasts.tick()
    assert told == []
    clock[0] += module.TIMEOUT_NS
    broadcasts.tick()
    assert [(event["received"], event["connections"], event["seconds"]) for event in told] == [(10, 20, None)]
    broadcasts.tick()
    assert sent == [0, 0]
    broadcasts.end()
    assert told[-1]["cut"]
