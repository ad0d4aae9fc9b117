"""The echo server of uWebSockets, a library in C++, through socketify, in as many processes as asked.

1. It cannot be given a socket that listens already. Each shard opens its own with SO_REUSEPORT, and the kernel spreads
   connections over them by a hash of their addresses: about evenly, and whether or not a shard has descriptors left.
2. The port is reserved before the fork by a socket that is bound and does not listen, so that all shards open the same.
3. The library's loop runs by itself. socketify's own `run` interleaves it with asyncio's, which keeps a core busy while
   there is traffic, and nothing here needs asyncio.

`options` of the SPEC are the behaviour of socketify's `App.ws`, by its own names.
"""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

from wslab.load.scoreboard import AT_LIMIT, CLOSED, OPEN, OPENED, RECEIVED, SENT
from wslab.load.servers.event_loop import leave, out_of_descriptors
from wslab.load.servers.sharded import Shards, listen, main

if TYPE_CHECKING:
    from typing import Any

# How often a shard looks whether it has to end.
LOOK_MS = 50


def reserve(host: str, port: int, backlog: int) -> socket.socket:
    """Return a socket that is bound to a port where nobody listens, and lets others of this user listen there."""
    with listen(host, port, backlog) as alone:  # Alone: with SO_REUSEPORT, somebody else's would not be noticed.
        address = alone.getsockname()
    reserved = socket.socket(alone.family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(address)
    return reserved


def load() -> type[Shards]:
    """Import socketify and return the class of the shards."""
    from socketify import App, AppListenOptions

    class UWebSocketsShards(Shards):
        """Shards that run a loop of uWebSockets each."""

        def __init__(self, listener: socket.socket, spec: dict[str, Any]) -> None:
            super().__init__(listener, spec)
            self.listening, self.tell_listening = os.pipe()

        def started(self) -> bool:
            """Wait until every shard listens or has ended; return whether all of them listen."""
            os.close(self.tell_listening)
            self.tell_listening = -1
            said = b""
            while part := os.read(self.listening, 1024):
                said += part
            os.close(self.listening)
            return len(said) == int(self.spec.get("shards", 1))

        def run(self, index: int, lifeline: int, row: memoryview[int]) -> None:
            """Serve until the lifeline ends."""

            def opened(ws: object) -> None:
                row[OPENED] += 1
                row[OPEN] += 1

            def echo(ws: Any, message: str | bytes | None, opcode: int) -> None:
                row[RECEIVED] += 1
                ws.send(b"" if message is None else message, opcode)
                row[SENT] += 1

            def closed(ws: object, code: int, message: object) -> None:
                row[OPEN] -= 1
                row[CLOSED] += 1

            def look(_: object) -> None:
                row[AT_LIMIT] = out_of_descriptors()
                if poll.poll(0):
                    leave(lifeline)

            poll = select.poll()
            poll.register(lifeline, select.POLLIN)
            app = App(lifespan=False)
            app.ws("/*", {"open": opened, "message": echo, "close": closed, **self.spec.get("options", {})})
            host, port = self.listener.getsockname()[:2]
            told: list[object] = []
            app.listen(AppListenOptions(port=port, host=host), told.append)
            if not told:
                raise OSError(f"cannot listen on {host}:{port}")
            if self.tell_listening >= 0:  # A successor has nobody to tell.
                os.write(self.tell_listening, b"1")
                os.close(self.tell_listening)
            loop = app.loop.uv_loop
            timer = loop.create_timer(LOOK_MS, LOOK_MS, look, None)
            loop.run()
            del timer

    return UWebSocketsShards


if __name__ == "__main__":
    main(load, open_listener=reserve)
