"""What a stage can be run against: a kind from the table, a command line of the user's, or the URL of a running server.

The parameter `server` holds one of the three. A name of the table is a kind, text with `://` is a URL, and text with a
blank or a slash is a command line; any other single word is a mistyped kind.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from wslab.core.quantities import did_you_mean, refuse
from wslab.core.target import parse_url

NAME_CHARS = 40
# The commands that install programs which servers are started with, on Debian and its kin.
INSTALLS = {
    "node": "apt-get install nodejs",
    "npm": "apt-get install npm",
    "npx": "apt-get install npm",
    "java": "apt-get install default-jre-headless",
    "go": "apt-get install golang-go",
    "cargo": "apt-get install cargo",
    "ruby": "apt-get install ruby",
    "php": "apt-get install php-cli",
    "uvicorn": "pip install uvicorn[standard]",
    "gunicorn": "pip install gunicorn",
    "hypercorn": "pip install hypercorn",
    "daphne": "pip install daphne",
}
# What a command line may name; the rest of the text is taken as it stands.
PLACEHOLDERS = ("host", "port", "shards", "folder")
# The accept queue that our own servers ask for: the default limit of Linux, net.core.somaxconn.
BACKLOG = 4096
# What starts a command line and watches it.
COMMAND_MODULE = "wslab.load.servers.command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that a server kind needs on the machine.

    Attributes:
        install: the one command that installs it.
        program: a program that has to be found on PATH.
        module: a Python module that has to be importable.
        path: a file or folder that has to exist, relative to the kind's `folder`.
    """

    install: str
    program: str = ""
    module: str = ""
    path: str = ""

    @property
    def name(self) -> str:
        """Return what is needed, for a message."""
        return self.program or self.module or self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKind:
    """A server that a stage can be run against; it has a `module` or a `command`.

    Attributes:
        name: the value of the parameter `server`.
        summary: one line for the help text.
        module: ours: what `python -m` starts, with its specification as JSON; it speaks the lines of the supervisor.
        command: anybody's: a command line with placeholders from `PLACEHOLDERS`, started as a user's command is.
        folder: where its files are, relative to `wslab/load/servers`; this is `{folder}` in `command`.
        needs: what has to be on the machine.
        backlog: the accept queue that it asks for, which keeps handshakes in flight below.
        one_process: whether it serves in one process only, so that more shards are no remedy.
        connection_bytes: memory that a connection takes in its processes, more than in those of `lean`; as measured
            with 700,000 (`asyncio_tuned`), 100,000 (`node_ws`) or 15,000 connections, the largest of several runs.
        process_bytes: memory of one of its processes before the first connection; what they share is divided.
        keepalive_seconds: how often it sends a ping on each connection; 0 for never.
        fans_out: whether it can send a message to every connection instead of back; see `fan_out` in its specification.
        defaults: further entries of its specification.
    """

    name: str
    summary: str
    module: str = ""
    command: str = ""
    folder: str = ""
    needs: tuple[Need, ...] = ()
    backlog: int = BACKLOG
    one_process: bool = False
    connection_bytes: int = 0
    process_bytes: int = 0
    keepalive_seconds: float = 0.0
    fans_out: bool = False
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def start(self) -> tuple[str, dict[str, Any]]:
        """Return the module that `python -m` starts, and what its specification has besides host, port and shards."""
        spec = {"backlog": self.backlog, **self.defaults}
        if self.module:
            return self.module, spec
        return COMMAND_MODULE, {**spec, "command_line": self.command, "folder": self.folder}


SERVER_KINDS: dict[str, ServerKind] = {
    kind.name: kind
    for kind in (
        ServerKind(
            name="lean",
            module="wslab.load.servers.lean",
            summary="epoll echo server that keeps no object for an idle connection",
            fans_out=True,
        ),
        ServerKind(
            name="tcp_floor",
            module="wslab.load.servers.tcp_floor",
            summary="the same processes on raw TCP, without WebSocket: the floor to compare with",
        ),
        ServerKind(
            name="asyncio",
            connection_bytes=15_000,
            process_bytes=5 << 20,
            module="wslab.load.servers.asyncio_server",
            summary="asyncio server of the websockets library as its documentation teaches it",
            keepalive_seconds=20.0,
            # All is the library's own: pings, messages of 1 MiB, compression for clients that offer it. The
            # backlog is asyncio's.
            backlog=100,
        ),
        ServerKind(
            name="asyncio_tuned",
            connection_bytes=14_200,
            process_bytes=5 << 20,
            module="wslab.load.servers.asyncio_server",
            summary="the same without compression and keepalive, and with a long backlog: for many connections",
            # Compression takes most of the memory of a connection that has it. Keepalive takes a task a connection, and
            # its pings, every 20 s, are more than a process can send from some 100,000 connections on. Limits as for
            # one small message at a time; a message may still be as long as a stage can ask for.
            defaults={
                "options": {"compression": None, "ping_interval": None, "max_queue": 4, "write_limit": 8192},
            },
        ),
        ServerKind(
            name="node_ws",
            connection_bytes=7_400,
            process_bytes=19 << 20,
            command="node {folder}/server.js --host {host} --port {port} --shards {shards}",
            folder="node_ws",
            summary="ws 8 on Node.js, the server of the public write-ups; several processes by Node's own cluster mode",
            backlog=511,
            needs=(
                Need(program="node", install="apt install nodejs npm"),
                Need(path="node_modules/ws/package.json", install="npm ci --prefix {folder}"),
            ),
        ),
        ServerKind(
            name="picows",
            connection_bytes=28_400,
            process_bytes=5 << 20,
            module="wslab.load.servers.picows_server",
            summary="picows: WebSocket in Cython on asyncio's event loop",
            needs=(Need(module="picows", install="pip install 'wslab[servers]'"),),
            # All is the library's own: 10 MiB a message, no pings, 5 s for a handshake. The backlog is asyncio's.
            backlog=100,
        ),
        ServerKind(
            name="uwebsockets",
            connection_bytes=500,
            process_bytes=5 << 20,
            module="wslab.load.servers.uwebsockets_server",
            summary="uWebSockets, in C++, through socketify; its processes listen with SO_REUSEPORT",
            needs=(Need(module="socketify", install="pip install 'wslab[servers]'"),),
            # As the library's own echo server has it; socketify would take 16 KiB a message, and close a connection
            # that is idle for two minutes instead of sending it a ping. The backlog of 512 cannot be changed.
            backlog=512,
            defaults={
                "options": {
                    "max_payload_length": 1 << 20,
                    "max_backpressure": 1 << 20,
                    "idle_timeout": 120,
                    "send_pings_automatically": True,
                },
            },
        ),
    )
}
DEFAULT_SERVER = "lean"


def is_url(server: str) -> bool:
    """Return whether a value of the parameter `server` is the URL of a server that runs already."""
    return "://" in server.split(None, 1)[0]


def is_command(server: str) -> bool:
    """Return whether a value of the parameter `server` is a command line of the user's."""
    return server not in SERVER_KINDS and not is_url(server)


def is_foreign(server: str) -> bool:
    """Return whether a server is watched from outside, because it is no program of ours."""
    return server not in SERVER_KINDS or bool(SERVER_KINDS[server].command)


def serves_in_one_process(server: str) -> bool:
    """Return whether wslab cannot give this server more processes: a one-process kind, a command or a URL."""
    return server not in SERVER_KINDS or SERVER_KINDS[server].one_process


def parse_server(value: object, name: str = "server") -> str:
    """Return the value of the parameter `server` as it is kept.

    Raises:
        BadInput: it is no kind, no URL and no command line.
    """
    text = value.strip() if isinstance(value, str) else ""
    if text in SERVER_KINDS:
        return text
    if text and is_url(text):
        parse_url(text)
        return text
    if not text or "\0" in text or not ("/" in text or len(text.split()) > 1):
        hint = did_you_mean(text, SERVER_KINDS) if text else ""
        kinds = "one of " + ", ".join(SERVER_KINDS)
        raise refuse(
            name, value, f"{hint or kinds}; or a command such as 'node my.js --port {{port}}', or a ws:// address"
        )
    try:
        shlex.split(text)
    except ValueError as problem:
        raise refuse(name, value, f"a command line; this one has {str(problem).lower()}") from problem
    return text


def backlog_of(server: str) -> int | None:
    """Return the accept queue that a server asks for; None where that is not known."""
    return SERVER_KINDS[server].backlog if server in SERVER_KINDS else None


def pending_within(most: int, queue: int | None) -> int:
    """Return how many handshakes may be in flight: at most half of the accept queue, far from overflowing it.

    Args:
        most: what would be allowed by itself.
        queue: connections that the accept queue holds; None or 0 where that is not known.
    """
    return max(1, min(most, queue // 2)) if queue else most


def short_name(server: str) -> str:
    """Return a value of the parameter `server` in at most `NAME_CHARS` characters."""
    text = " ".join(server.split())
    return text if len(text) <= NAME_CHARS else text[: NAME_CHARS - 1] + "…"


def fill(command: str, values: Mapping[str, object]) -> list[str]:
    """Return the words of a command line with its placeholders replaced; other braces stay as they are."""
    words = shlex.split(command)
    for name in PLACEHOLDERS:
        if name in values:
            words = [word.replace(f"{{{name}}}", str(values[name])) for word in words]
    return words
