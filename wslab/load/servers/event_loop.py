"""A shard whose connections are those of an asyncio event loop: how it accepts, how it counts, and how it ends.

1. All shards wait on one inherited listener. A shard whose descriptors are used up leaves it alone for a second at a
   time, as asyncio does, and the others accept meanwhile.
2. Nothing is closed one by one at the end: the kernel closes all connections when the process ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
from itertools import count
from typing import TYPE_CHECKING

from wslab.load.scoreboard import AT_LIMIT, CLOSED, OPEN, OPENED
from wslab.load.servers.sharded import Shards

if TYPE_CHECKING:
    from typing import Any

# How often a shard looks whether it has descriptors left.
LOOK_SECONDS = 0.5
# A server under load can log a traceback a connection; a shard writes so many records of a logger and no more.
RECORDS_LOGGED = 100


class EventLoopShards(Shards):
    """Shards that run an asyncio event loop each. Besides what every SPEC has, theirs has `options` of the library."""

    row: memoryview[int]

    def __init__(self, listener: Any, spec: dict[str, Any]) -> None:
        super().__init__(listener, spec)
        # What the library's own function for a server is given.
        self.settings = {"sock": listener, "backlog": spec["backlog"], **spec.get("options", {})}

    def run(self, index: int, lifeline: int, row: memoryview[int]) -> None:
        """Serve until the lifeline ends."""
        self.row = row
        asyncio.run(self._serve(lifeline))

    async def _serve(self, lifeline: int) -> None:
        asyncio.get_running_loop().add_reader(lifeline, leave, lifeline)
        log_few("asyncio")
        server = await self.start()
        while server:  # It has to be held on to.
            self.row[AT_LIMIT] = out_of_descriptors()
            await asyncio.sleep(LOOK_SECONDS)

    async def start(self) -> object:
        """Start accepting with the library's own function for a server, called with `settings`."""
        raise NotImplementedError

    def opened(self) -> None:
        """Count a connection as open."""
        self.row[OPENED] += 1
        self.row[OPEN] += 1

    def closed(self) -> None:
        """Count a connection as lost."""
        self.row[OPEN] -= 1
        self.row[CLOSED] += 1


def leave(lifeline: int) -> None:
    """Do nothing any more until the lifeline ends, and end this process; call it when the lifeline is readable.

    A byte on it says that the clients are about to reset all connections. To handle that a million times would take the
    cores that the reset needs; the kernel closes them in one go.
    """
    while os.read(lifeline, 1):
        pass
    os._exit(0)


def out_of_descriptors() -> bool:
    """Return whether this process has no descriptor left for another connection."""
    try:
        os.close(os.dup(0))
    except OSError:
        return True
    return False


def log_few(name: str) -> None:
    """Let a logger write its first records only, so that an overloaded server fills no disk."""
    numbers = count()
    logging.getLogger(name).addFilter(lambda record: next(numbers) < RECORDS_LOGGED)
