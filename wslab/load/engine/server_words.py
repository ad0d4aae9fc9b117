"""What the loop of a server shard and Python tell each other besides the words of both loops (`state`)."""

from __future__ import annotations

from wslab.load.engine.state import BOTH
from wslab.load.engine.wire_format import ACCEPT_BYTES

# Control words of this loop.
(
    LISTENER,
    WAKER,  # eventfd of all shards, written to when somebody else has to accept
    INDEX,  # number of this shard
    HELD,  # descriptors of connections, in whatever state
    CAPACITY,  # how many there may be
    ACCEPTING,  # 1 while the listener is in the epoll
    LOOK_AGAIN,  # 1 when it may be possible to accept again
    OUT_OF_TURN,  # 1 to accept although others are before this shard: they have come to a standstill
    LEAVING_COUNT,
    KNOWN,  # requests that are remembered
    TOP,  # one more than the largest descriptor of a connection so far
    TURNS,  # how many shards may accept at a time
    FANS_OUT,  # 1: a message goes to every connection, which Python sees to, instead of back
    LETTER_BOX,  # descriptor from which messages of other shards come; -1 = none do
    BLOCK_BYTES,  # memory of blocks that is in use, about
    BLOCK_BYTES_MAX,  # how much of it there may be
    BLOCK_BYTES_MOST,  # how much of it there was at any time since Python set this to 0
    WORDS,
) = range(BOTH, BOTH + 18)

ACCEPTS_PER_EVENT = 64
# A message may have this many bytes; a longer one ends the connection with close code 1009.
MESSAGE_BYTES_MAX = 1 << 20
ROOM, ACCEPTED, AT_THE_DOOR = range(3)  # rows of the door
FREE, FULL, DEAD = range(3)  # values of its row ROOM

KNOWN_REQUESTS, KNOWN_BYTES = 64, 4096
ANSWER_HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
ANSWER = ANSWER_HEAD + bytes(ACCEPT_BYTES) + b"\r\n\r\n"
ACCEPT_AT = len(ANSWER_HEAD)
