"""The floor: the processes, accept path and system calls of the lean server without any WebSocket.

One byte each way stands where WebSocket has its upgrade, and bytes are echoed where it has frames. What WebSocket
costs is then a ratio within one run, whatever the machine and its noise.
"""

from __future__ import annotations

from wslab.load.servers.shard import Shard
from wslab.load.servers.sharded import main


class FloorShard(Shard):
    """Echo: the first byte opens the connection, all others are messages."""

    def greet(self, fd: int, data: bytes) -> None:
        """Return the first byte, and what came behind it, which is already a message."""
        self.opened_one(fd)
        self.messages += len(data) > 1
        self.send(fd, data)

    def talk(self, fd: int, data: bytes) -> None:
        """Echo what came."""
        self.messages += 1
        self.send(fd, data)


if __name__ == "__main__":
    main(FloorShard, "tcp")
