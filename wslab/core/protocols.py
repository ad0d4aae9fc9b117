"""Application protocols on top of WebSocket: what a client has to say and to answer so that the server keeps it.

1. A protocol is one row of `PROTOCOLS`, or a row of the user's own, read from a small TOML file with the same keys.
2. All of it is text messages. In what is heard, `*` stands for any text; in what is said, `{payload}` for a text that
   no other message has.
3. A heartbeat of the server is a reply like any other; one of the client has an interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from wslab.core.entry import parse_path, parse_subprotocol
from wslab.core.quantities import BadInput, did_you_mean, parse_number

PAYLOAD = "{payload}"
SUFFIX = ".toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What is said on a connection beside the WebSocket protocol itself.

    Attributes:
        name: the value of the parameter `protocol`.
        summary: one line for the help text.
        path: of the upgrade request, where neither the stage nor the URL has another.
        subprotocol: of the upgrade request, where the stage has no other.
        opens_with: messages that are sent as soon as the upgrade is granted.
        ready: the message with which the connection counts as open; empty = at once.
        refused: the message with which the server refuses the connection; empty = it has none.
        replies: pairs of a message that may be heard at any time and what is answered to it; empty = nothing.
        message: a message of the load, with `{payload}`; empty = the payload itself, in binary.
        echo: what comes back for it, with the same `{payload}`.
        heartbeat: message that is sent on every connection once in `heartbeat_seconds`; empty = none.
        heartbeat_seconds: its interval.
    """

    name: str = ""
    summary: str = ""
    path: str = ""
    subprotocol: str = ""
    opens_with: tuple[str, ...] = ()
    ready: str = ""
    refused: str = ""
    replies: tuple[tuple[str, str], ...] = ()
    message: str = ""
    echo: str = ""
    heartbeat: str = ""
    heartbeat_seconds: float = 0.0

    @property
    def listens(self) -> bool:
        """Whether the messages of the server have to be looked at, or the load's own are not the bare payload."""
        return bool(self.opens_with or self.ready or self.replies or self.message)

    def as_dict(self) -> dict[str, Any]:
        """Return the row as it is written to JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Protocol:
        """Return the row that `as_dict` gave."""
        return cls(**{**record, "opens_with": tuple(record["opens_with"]), "replies": _pairs(record["replies"])})


def _pairs(replies: Any) -> tuple[tuple[str, str], ...]:
    return tuple((heard, said) for heard, said in replies)


PROTOCOLS: dict[str, Protocol] = {
    row.name: row
    for row in (
        Protocol(name="plain", summary="WebSocket alone"),
        # https://socket.io/docs/v4/socket-io-protocol and https://socket.io/docs/v4/engine-io-protocol, version 4.
        Protocol(
            name="socketio",
            summary="Socket.IO 4: its handshake, heartbeats and events",
            path="/socket.io/?EIO=4&transport=websocket",
            ready="40*",
            refused="44*",
            replies=(("0{*", "40"), ("2", "3")),
            message='42["message","{payload}"]',
            echo='42["message","{payload}"]',
        ),
        # https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md: a ping of either side is answered by a pong.
        Protocol(
            name="graphql_ws",
            summary="graphql-transport-ws: its handshake and heartbeats",
            subprotocol="graphql-transport-ws",
            opens_with=('{"type":"connection_init"}',),
            ready='{"type":"connection_ack"*',
            replies=(('{"type":"ping"*', '{"type":"pong"}'),),
            message='{"type":"ping","payload":{"text":"{payload}"}}',
            echo='{"type":"pong","payload":{"text":"{payload}"}}',
        ),
    )
}
DEFAULT_PROTOCOL = "plain"


def parse_protocol(value: object, name: str = "protocol") -> str:
    """Return the name of a row, or the path of a file that has one.

    Raises:
        BadInput: it is neither.
    """
    text = DEFAULT_PROTOCOL if value is None else str(value).strip()
    if text not in PROTOCOLS and not text.endswith(SUFFIX):
        hint = did_you_mean(text, PROTOCOLS)
        known = ", ".join(PROTOCOLS)
        raise BadInput(f"{name}={text} is not known: {hint or f'one of {known}, or a file such as protocol{SUFFIX}'}")
    return text


def own_protocol(table: Mapping[str, Any], source: str) -> Protocol:
    """Return the row that a file describes.

    Args:
        table: what it holds; the keys are the attributes of `Protocol`, `replies` is a table.
        source: name of the file.

    Raises:
        BadInput: a key is unknown or a value cannot be used; one line says which.
    """
    known = [field.name for field in fields(Protocol) if field.name != "name"]
    for key in table:
        if key not in known:
            raise BadInput(
                f"{source}: unknown key {key}: {did_you_mean(key, known) or 'known are ' + ', '.join(known)}"
            )
    values: dict[str, Any] = {}
    for key, value in table.items():
        where = f"{source}: {key}"
        if key == "replies":
            if not isinstance(value, Mapping):
                raise BadInput(f'{where} is no table, such as [replies] with a line "2" = "3"')
            values[key] = tuple((_text(heard, where), said and _text(said, where)) for heard, said in value.items())
        elif key == "opens_with":
            values[key] = tuple(_text(item, where) for item in (value if isinstance(value, list) else [value]))
        elif key == "heartbeat_seconds":
            values[key] = parse_number(value, where, "seconds above 0", above=True)
        else:
            values[key] = _text(value, where)
    row = Protocol(**{"name": source, **values})
    if row.message and (row.message.count(PAYLOAD) != 1 or row.echo.count(PAYLOAD) > 1):
        raise BadInput(f"{source}: message needs {PAYLOAD} once, and echo may have it once")
    if bool(row.heartbeat) != bool(row.heartbeat_seconds):
        raise BadInput(f"{source}: heartbeat and heartbeat_seconds belong together")
    if row.echo and not row.message:
        raise BadInput(f"{source}: an echo needs a message")
    parse_path(row.path, f"{source}: path")
    parse_subprotocol(row.subprotocol, f"{source}: subprotocol")
    return row


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadInput(f"{where}: {value!r} is no text")
    return value
