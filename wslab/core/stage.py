"""What is asked for: the parameters of one stage, their validation, and the stages that have a name.

The command line, papermill and a notebook all pass parameters under the same names, as text or as numbers, through
`Stage.of`. A parameter is one field of `Stage`: its default, its help and its parser stand together there, and
`PARAMETERS` is derived from them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from wslab.core.entry import parse_headers, parse_path, parse_subprotocol, recorded_headers
from wslab.core.knee import AUTO
from wslab.core.plan import ADDRESSES_MOST
from wslab.core.protocols import DEFAULT_PROTOCOL, PROTOCOLS, parse_protocol
from wslab.core.quantities import BadInput, did_you_mean, format_count, parse_bytes, parse_count, parse_number, refuse
from wslab.core.servers import DEFAULT_SERVER, SERVER_KINDS, parse_server

# The websockets library and most servers refuse a larger message unless they are told otherwise.
MESSAGE_BYTES_MAX = 1 << 20
LABEL_LENGTH_MAX = 100
PORT_MAX = 65535
FLAG_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


# What the shards of a built-in server hand to one another in one piece, and the swarm takes in one read.
BROADCAST_BYTES_MAX = 1 << 15
ECHO, PING = "echo", "ping"
PROOFS = (AUTO, ECHO, PING)
IDLE, MESSAGES, BROADCAST = WORKLOADS = ("idle", "echo", "broadcast")


def _one_of(*words: str) -> Callable[[object, str], str]:
    """Return a parser for one of some words."""

    def parse(value: object, name: str) -> str:
        word = str(value).strip().lower()
        if word not in words:
            raise refuse(name, value, "one of " + ", ".join(words))
        return word

    return parse


def _word_or(word: str, parse: Callable[[object, str], Any], accepted: str) -> Callable[[object, str], Any]:
    """Return a parser for values that are either one fixed word or a quantity; null is that word as well."""

    def parse_either(value: object, name: str) -> Any:
        if value is None or (isinstance(value, str) and value.strip().lower() == word):
            return word
        try:
            return parse(value, name)
        except BadInput:
            raise refuse(name, value, accepted) from None

    return parse_either


def _number(accepted: str, above: bool = False) -> Callable[[object, str], float]:
    return lambda value, name: parse_number(value, name, accepted, above=above)


def _message_bytes(value: object, name: str) -> int:
    return parse_bytes(value, name, minimum=1, maximum=MESSAGE_BYTES_MAX)


def _addresses(value: object, name: str) -> int:
    count = parse_count(value, name)
    if count > ADDRESSES_MOST:
        raise refuse(name, value, "")
    return count


def _port(value: object, name: str) -> int:
    port = parse_count(value, name)
    if port > PORT_MAX:
        raise refuse(name, value, "")
    return port


def _memory_cap(value: object, name: str) -> int:
    return parse_bytes(value, name, minimum=1)


def _path(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | os.PathLike):
        raise refuse(name, value, "a path, or nothing for the project's data folder")
    return str(os.fspath(value))


def label_text(value: object, name: str) -> str:
    """Return a label; it is one line of at most `LABEL_LENGTH_MAX` characters, else `BadInput` is raised."""
    text = "" if value is None else str(value)
    if len(text) > LABEL_LENGTH_MAX or not text.isprintable():
        raise refuse(name, value, f"one line of at most {LABEL_LENGTH_MAX} characters")
    return text


def _flag(value: object, name: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    word = str(value).strip().lower()
    if word not in FLAG_WORDS:
        raise refuse(name, value, "true or false")
    return FLAG_WORDS[word]


def _message_rate(value: object, name: str) -> float | str:
    """Parse messages per second and connection; null is refused, as it is no rate."""
    if isinstance(value, str) and value.strip().lower() == AUTO:
        return AUTO
    return parse_number(value, name, 'messages per second, 0 or more, or "auto" to climb to the knee')


_PROCESSES = _word_or("auto", parse_count, 'a whole number of at least 1, such as 4, or "auto"')
_ADDRESSES = _word_or("auto", _addresses, f'a whole number from 1 to {ADDRESSES_MOST}, or "auto"')
_PORT = _word_or("auto", _port, 'a port from 1 to 65535, or "auto" for any free one')
_RATE = _word_or("max", _number("", above=True), 'connections per second above 0, such as 5000, or "max"')
_CAP = _word_or("none", _memory_cap, 'a size in bytes, such as 16GiB, or "none"')


def _parameter(default: Any, parse: Callable[[Any, str], Any], text: str, example: str) -> Any:
    return field(default=default, metadata={"parse": parse, "help": text, "example": example})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage as it was asked for; `Stage.of` builds it from whatever a person typed."""

    connections: int = _parameter(10_000, parse_count, "connections to open", "1M")
    server: str = _parameter(
        DEFAULT_SERVER,
        parse_server,
        f"server under test: a kind ({', '.join(SERVER_KINDS)}), a command line, or the ws:// address of one that runs",
        "'node my.js --port {port}'",
    )
    server_dir: str = _parameter("", _path, "folder of a server command; empty is the current one", "/srv")
    server_port: int | str = _parameter("auto", _PORT, "port that a server command listens on", "8080")
    server_pid: int | str = _parameter("auto", _PROCESSES, "process to watch of a server that runs already", "4711")
    server_ready_seconds: float = _parameter(
        30.0, _number("seconds above 0", above=True), "how long a server command may take to start", "60"
    )
    server_shards: int | str = _parameter("auto", _PROCESSES, "server processes", "4")
    swarm_workers: int | str = _parameter("auto", _PROCESSES, "client processes", "4")
    ramp_rate: float | str = _parameter("max", _RATE, "new connections per second", "5000")
    hold_seconds: float = _parameter(10.0, _number("seconds, 0 or more"), "how long all stay open", "60")
    message_rate: float | str = _parameter(
        0.01, _message_rate, 'messages per second and connection while they are held; "auto" climbs to the knee', "0.1"
    )
    latency_bound: float = _parameter(
        0.1, _number("seconds above 0", above=True), "seconds that 99 % of round trips may take up to the knee", "0.5"
    )
    message_bytes: int = _parameter(32, _message_bytes, "payload of a message in bytes", "1KiB")
    workload: str = _parameter(
        MESSAGES, _one_of(*WORKLOADS), "what is sent while they are held: nothing, messages, or broadcasts", "idle"
    )
    proof: str = _parameter(
        AUTO, _one_of(*PROOFS), "what proves that a connection lives: its own message back, or a pong", "ping"
    )
    protocol: str = _parameter(
        DEFAULT_PROTOCOL, parse_protocol, f"application protocol: {', '.join(PROTOCOLS)}, or a TOML file", "socketio"
    )
    path: str = _parameter(
        "",
        parse_path,
        "path of the upgrade request; {n} is the number of the connection, {hex} random",
        "/chat?user={n}",
    )
    headers: tuple[str, ...] = _parameter(
        (), parse_headers, "further headers of the upgrade request", "Authorization: Bearer {hex}"
    )
    subprotocol: str = _parameter("", parse_subprotocol, "subprotocol to ask for", "graphql-transport-ws")
    source_addresses: int | str = _parameter("auto", _ADDRESSES, "loopback addresses that the clients dial from", "16")
    memory_cap: int | str = _parameter("none", _CAP, "stop the ramp when the load uses so much memory", "16GiB")
    memory_reserve: int = _parameter(
        1 << 30, parse_bytes, "stop the ramp when the machine has only so much memory left", "2GiB"
    )
    data_dir: str = _parameter("", _path, "folder of the recorded runs; empty is the project's own", "/tmp/data")
    label: str = _parameter("", label_text, "a remark that is kept with the run", "after tuning")
    tune: bool = _parameter(False, _flag, "write the kernel settings it needs, and put them back at its end", "true")
    beside: bool = _parameter(False, _flag, "go on although another run is in progress on this machine", "true")

    @classmethod
    def of(cls, **parameters: Any) -> Stage:
        """Build a stage from parameters given as text or numbers.

        Args:
            **parameters: any field of `Stage`, such as `connections="1M"` or `memory_reserve="2GiB"`.

        Raises:
            BadInput: a name is unknown or a value cannot be used; the text is one line for the person who typed it.
        """
        parsers = {item.name: item.metadata["parse"] for item in fields(cls)}
        for name in parameters:
            if name not in parsers:
                raise BadInput(_unknown(name, list(parsers)))
        values = {name: parsers[name](value, name) for name, value in parameters.items()}
        if values.get("workload", MESSAGES) != MESSAGES:
            values["message_rate"] = 0.0
        stage = cls(**values)
        if stage.workload == BROADCAST and (stage.proof == ECHO or stage.message_bytes > BROADCAST_BYTES_MAX):
            raise BadInput(
                f"workload=broadcast needs proof ping or auto, and at most {BROADCAST_BYTES_MAX:,} message_bytes"
            )
        if stage.server == "tcp_floor":
            stage._refuse_what_tcp_has_not()
        if stage.workload == BROADCAST and stage.server in SERVER_KINDS and not SERVER_KINDS[stage.server].fans_out:
            kinds = ", ".join(kind.name for kind in SERVER_KINDS.values() if kind.fans_out)
            raise BadInput(f"{stage.server} echoes only; workload=broadcast needs {kinds}, or a server of your own")
        return stage

    def _refuse_what_tcp_has_not(self) -> None:
        """Refuse what only WebSocket has, for a server that speaks bare TCP."""
        for name, without in (("protocol", DEFAULT_PROTOCOL), ("path", ""), ("headers", ()), ("subprotocol", "")):
            if getattr(self, name) != without:
                raise BadInput(f"{name} is of WebSocket, and {self.server} speaks bare TCP")
        if self.proof == PING or self.workload == BROADCAST:
            raise BadInput(f"{self.server} speaks bare TCP: it knows neither pings nor broadcasts, only echoes")

    @property
    def name(self) -> str:
        """Return the short name of the stage: `10k`, `1M`, `12345`."""
        return format_count(self.connections)

    def as_dict(self) -> dict[str, Any]:
        """Return the parameters as they are written to JSON; `Stage.of(**d)` gives the same stage again."""
        return asdict(self) | {"headers": list(self.headers)}

    def as_recorded(self) -> dict[str, Any]:
        """Return the parameters as they may be kept: without the values of headers that carry secrets."""
        return self.as_dict() | {"headers": recorded_headers(self.headers)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter as a help text shows it: name, default, what it means, and an example value."""

    name: str
    default: Any
    help: str
    example: str


PARAMETERS: tuple[Parameter, ...] = tuple(
    Parameter(name=item.name, default=item.default, help=item.metadata["help"], example=item.metadata["example"])
    for item in fields(Stage)
)

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (Stage(connections=count) for count in (10_000, 100_000, 700_000, 1_000_000, 2_000_000))
}


def _unknown(name: str, known: list[str]) -> str:
    hint = did_you_mean(name.lower().replace("-", "_"), known) or "known are " + ", ".join(known)
    return f"unknown parameter {name}: {hint}"
