"""The asyncio server of the websockets library: the echo server of its documentation, in as many processes as asked.

What tells the kinds that it serves apart is in the table: `options` of their SPEC are the parameters of the library's
`serve`, by its own names.
"""

from __future__ import annotations

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from wslab.load.scoreboard import RECEIVED, SENT
from wslab.load.servers.event_loop import EventLoopShards, log_few
from wslab.load.servers.sharded import main


class AsyncioShards(EventLoopShards):
    """Shards that serve as the documentation of websockets teaches it."""

    async def start(self) -> Server:
        """Start accepting."""
        log_few("websockets.server")
        return await serve(self.echo, **self.settings)

    async def echo(self, connection: ServerConnection) -> None:
        """Return each message of a connection until it is closed."""
        row = self.row
        self.opened()
        try:
            async for message in connection:
                row[RECEIVED] += 1
                await connection.send(message)
                row[SENT] += 1
        except ConnectionClosed:
            pass  # Lost without a closing handshake.
        finally:
            self.closed()


if __name__ == "__main__":
    main(lambda: AsyncioShards)
