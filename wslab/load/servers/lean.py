"""The reference server: an echo server for which an idle WebSocket costs its file descriptor and little more.

The plain case has a fast path, and only the plain case: see `wslab.load.engine.server_loop`. Everything else (requests
of a new kind, in parts, or bad; fragments, several frames at once, control frames, protocol errors) goes through a
`Conversation` around the websockets library's Sans-I/O protocol, dropped as soon as nothing is in transition.
"""

from __future__ import annotations

from wslab.load.servers.sharded import Shards, main


def load() -> type[Shards]:
    """Import what the shards share."""
    import wslab.load.servers.conversation  # noqa: F401
    from wslab.load.servers.compiled import LeanShards

    return LeanShards


if __name__ == "__main__":
    main(load)
