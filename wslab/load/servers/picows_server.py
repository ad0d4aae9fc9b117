"""The echo server of picows, a library in Cython on asyncio's event loop, in as many processes as asked.

`options` of the SPEC are the parameters of `picows.ws_create_server`, by its own names.
"""

from __future__ import annotations

from wslab.load.scoreboard import RECEIVED, SENT
from wslab.load.servers.event_loop import EventLoopShards, log_few
from wslab.load.servers.sharded import main


def load() -> type[EventLoopShards]:
    """Import picows and return the class of the shards."""
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

    class PicowsShards(EventLoopShards):
        """Shards that serve as the documentation of picows teaches it."""

        async def start(self) -> object:
            """Start accepting."""
            log_few("picows.server")
            return await ws_create_server(self.listener_for, **self.settings)

        def listener_for(self, request: WSUpgradeRequest) -> WSListener:
            return Echo(self)

    class Echo(WSListener):
        """What picows tells about one connection."""

        def __init__(self, shard: PicowsShards) -> None:
            super().__init__()
            self.shard = shard

        def on_ws_connected(self, transport: WSTransport) -> None:
            self.shard.opened()

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            """Return a frame as it is, so that a fragmented message comes back as the same fragments."""
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
                return
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), frame.fin)
            if frame.fin:
                row = self.shard.row
                row[RECEIVED] += 1
                row[SENT] += 1

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            self.shard.closed()

    return PicowsShards


if __name__ == "__main__":
    main(load)
