"""The shards of the compiled loops as one server: what they share, and what their master does before it forks them."""

from __future__ import annotations

from wslab.load.servers.shard import Door, Shard, memory_for
from wslab.load.servers.sharded import Shards
from wslab.machine.process import release_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

# What a SPEC may say to each shard.
OPTIONS = ("greeting_seconds", "send_seconds", "memory_bytes", "plain")


class FloorShards(Shards):
    """Shards that echo bytes.

    The SPEC may have `greeting_seconds`, `send_seconds`, `memory_bytes` (a shard's budget for what its peers make it
    keep) and `plain` (false: the slow path for everything).
    """

    websocket = False

    def __init__(self, listener: socket.socket, spec: dict[str, Any]) -> None:
        super().__init__(listener, spec)
        shards = spec.get("shards", 1)
        self.options = {"memory_bytes": memory_for(shards), **{name: spec[name] for name in OPTIONS if name in spec}}
        self.door = Door(shards)
        Shard.rehearse(listener, websocket=self.websocket)
        release_text("llvmlite")

    def run(self, index: int, lifeline: int, row: memoryview[int]) -> None:
        """Serve until the lifeline ends."""
        options: dict[str, Any] = {"websocket": self.websocket, "index": index, "door": self.door, **self.options}
        Shard(self.listener, lifeline, row, **options).run()

    def died(self, index: int) -> None:
        """Let the others take the turn of a dead shard."""
        self.door.lock(index)

    def succeeded(self, index: int) -> None:
        """Give a dead shard's successor its turn."""
        self.door.unlock(index)


class LeanShards(FloorShards):
    """Shards that speak WebSocket."""

    websocket = True
