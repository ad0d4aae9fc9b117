"""The floor: the processes, compiled loop and system calls of the lean server with the WebSocket parts compiled out.

One byte each way stands where WebSocket has its upgrade, and bytes are echoed where it has frames. What WebSocket
costs is then a ratio within one run, whatever the machine and its noise.
"""

from __future__ import annotations

from wslab.load.servers.sharded import Shards, main


def load() -> type[Shards]:
    """Import what the shards share."""
    from wslab.load.servers.compiled import FloorShards

    return FloorShards


if __name__ == "__main__":
    main(load, scheme="tcp")
