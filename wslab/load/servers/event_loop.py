"""A shard whose connections are those of an asyncio event loop: how it accepts, how it counts, and how it ends.

1. All shards wait on one inherited listener. A shard whose descriptors are used up leaves it alone for a second at a
   time, as asyncio does, and the others accept meanwhile.
2. Nothing is closed one by one at the end: the kernel closes all connections when the process ends.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from itertools import count
from typing import TYPE_CHECKING

from wslab.load.scoreboard import AT_LIMIT, CLOSED, OPEN, OPENED
from wslab.load.servers.sharded import Shards

if TYPE_CHECKING:
    from typing import Any

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
        loop = asyncio.get_running_loop()
        loop.add_reader(lifeline, leave, lifeline)
        loop.set_exception_handler(self._note_problem)
        log_few("asyncio")
        server = await self.start()  # Held for as long as this coroutine waits.
        await asyncio.Event().wait()
        del server

    async def start(self) -> object:
        """Start accepting with the library's own function for a server, called with `settings`."""
        raise NotImplementedError

    def opened(self) -> None:
        """Count a connection as open."""
        row = self.row
        row[OPENED] += 1
        row[OPEN] += 1
        row[AT_LIMIT] = 0

    def closed(self) -> None:
        """Count a connection as lost."""
        self.row[OPEN] -= 1
        self.row[CLOSED] += 1

    def _note_problem(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Note that this shard does not accept, or log any other problem."""
        if getattr(context.get("exception"), "errno", None) == errno.EMFILE:
            self.row[AT_LIMIT] = 1
        else:
            loop.default_exception_handler(context)


def leave(lifeline: int) -> None:
    """Do nothing any more until the lifeline ends, and end this process; call it when the lifeline is readable.

    A byte on it says that the clients are about to reset all connections. To handle that a million times would take the
    cores that the reset needs; the kernel closes them in one go.
    """
    while os.read(lifeline, 1):
        pass
    os._exit(0)


def log_few(name: str) -> None:
    """Let a logger write its first records only, so that an overloaded server fills no disk."""
    numbers = count()
    logging.getLogger(name).addFilter(lambda record: next(numbers) < RECORDS_LOGGED)
