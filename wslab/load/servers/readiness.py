"""Whether a server that is starting accepts connections yet: one real handshake after the other until one succeeds.

1. Nothing here blocks: `Probe` is asked to go on whenever its socket is ready, or time is up.
2. What the last attempt met is kept as a limit and a sentence, so that a server that never gets ready is named by what
   it did: it did not listen, did not answer, or gave a wrong answer.
3. A wrong answer may be that of a server that is still starting; the same one for `SETTLED_SECONDS` is taken as final.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Mapping
from time import monotonic
from typing import Any

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.http11 import Request
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from wslab.core.target import parse_url

AGAIN_SECONDS = 0.05
ANSWER_SECONDS = 2.0
SETTLED_SECONDS = 2.0
REDIRECTS = (301, 302, 303, 307, 308)
SILENT = "the kernel completes connections, and the server answers nothing on them"
TLS_RECORDS = (b"\x15", b"\x16")  # what the answer of a TLS server begins with: an alert, or its part of a handshake


class Probe:
    """Attempts of a handshake with one address.

    Args:
        url: where the server is to answer; with `tcp://` a connection is enough.
        entry: what the connections of the swarm ask with, so that a server lets the probe in: `path` (instead of the
            URL's), `headers` (lines `Name: value`) and `subprotocol`, with `{n}` and `{hex}` as fields.

    Attributes:
        ready: whether a handshake has succeeded.
        limit: the limit that the last attempt met.
        why: what it met, a sentence.
    """

    def __init__(self, url: str, entry: Mapping[str, Any] | None = None) -> None:
        self.url, self._entry = url, entry or {}
        host, port, _, _ = parse_url(url)
        self._address = (host, port)
        self.ready = False
        self.limit, self.why = "server_unreachable", f"nothing listens on {host}:{port}"
        self._socket: socket.socket | None = None
        self._protocol: ClientProtocol | None = None
        self._connected = False
        self._asks_tls = False  # the next attempt greets as TLS does: the last one was closed without an answer
        self._due = 0.0  # when the next attempt is due, or this one has taken too long
        self._answer, self._same_since = "", 0.0  # the limit that the last answers met, and since when

    @property
    def final(self) -> bool:
        """Whether the same wrong answer has come for long enough to be the server's last word."""
        return self._same_since > 0 and monotonic() - self._same_since >= SETTLED_SECONDS

    def register(self, poll: select.poll) -> int | None:
        """Add the socket to a poll and return its descriptor; None between two attempts."""
        if self._socket is None:
            return None
        poll.register(self._socket, select.POLLIN if self._connected else select.POLLOUT)
        return self._socket.fileno()

    def wait_seconds(self) -> float:
        """Return after how many seconds `go_on` has to be called at the latest."""
        return max(0.0, self._due - monotonic())

    def go_on(self) -> None:
        """Do what can be done now."""
        try:
            if self._socket is None:
                if monotonic() >= self._due:
                    self._dial()
            elif not self._connected:
                self._finish_connect()
            else:
                self._receive()
        except BlockingIOError:
            if monotonic() >= self._due:
                self._met("server_silent", SILENT)
        except OSError as problem:
            if problem.errno == errno.ECONNREFUSED:
                self._met("server_unreachable", f"nothing listens on {self._address[0]}:{self._address[1]}")
            else:
                text = os.strerror(problem.errno) if problem.errno else str(problem)
                self._met("server_closed", f"the server ends the connection during the handshake ({text})", answer=True)

    def close(self) -> None:
        """Leave the attempt that is under way."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _dial(self) -> None:
        self._due = monotonic() + ANSWER_SECONDS
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        self._socket, self._connected = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK), False
        asked = self._entry.get("subprotocol")
        subprotocols = [Subprotocol(asked)] if asked else None
        plain = self.url.startswith("tcp:")
        self._protocol = None if plain else ClientProtocol(parse_uri(self.url), subprotocols=subprotocols)
        number = self._socket.connect_ex(self._address)
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))

    def _finish_connect(self) -> None:
        assert self._socket is not None
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        self._socket.getpeername()  # ENOTCONN: it is not connected yet.
        self._connected = True
        if self._protocol is None:
            self._succeed()
            return
        if not self._answer:  # Else the last answer stands until there is another, or none has come in time.
            self.limit, self.why = "server_silent", SILENT
        self._protocol.send_request(self._request(self._protocol))
        self._socket.send(tls_hello() if self._asks_tls else b"".join(self._protocol.data_to_send()))

    def _request(self, protocol: ClientProtocol) -> Request:
        """Return the upgrade request, made as for the first connection of the swarm."""
        request = protocol.connect()
        request.path = filled(self._entry.get("path") or request.path)
        for header in self._entry.get("headers") or ():
            name, _, value = header.partition(":")
            if name.lower() == "host":
                del request.headers["Host"]
            request.headers[name] = filled(value.strip())
        return request

    def _receive(self) -> None:
        assert self._socket is not None
        assert self._protocol is not None
        data = self._socket.recv(1 << 16)
        if data[:1] in TLS_RECORDS:
            self._met("server_protocol", "the server speaks TLS, and ws:// is plain", True)
            return
        self._asks_tls = not data and not self._asks_tls
        if not data:
            self._met("server_closed", "the server closes the connection instead of answering the handshake", True)
            return
        self._protocol.receive_data(data)
        problem = self._protocol.handshake_exc
        if isinstance(problem, InvalidStatus):
            self._met(*_refused(problem), answer=True)
        elif isinstance(problem, InvalidHandshake):
            self._met("server_protocol", f"the answer to the handshake is wrong: {problem}", answer=True)
        elif problem is not None:
            text = " ".join(f"{problem} {problem.__cause__ or ''}".split())
            self._met("server_protocol", f"the answer is no WebSocket handshake: {text}", answer=True)
        elif self._protocol.events_received():
            self._succeed()

    def _succeed(self) -> None:
        self.ready = True
        self.close()

    def _met(self, limit: str, why: str, answer: bool = False) -> None:
        """Keep what the attempt met, and try again soon."""
        if not answer:
            self._answer, self._same_since = "", 0.0
        elif limit != self._answer:
            self._answer, self._same_since = limit, monotonic()
        self.limit, self.why = limit, why
        self._due = monotonic() + AGAIN_SECONDS
        self.close()


def filled(text: str) -> str:
    """Return a path or the value of a header with its fields filled in."""
    return text.replace("{n}", "0").replace("{hex}", os.urandom(8).hex())


def tls_hello() -> bytes:
    """Return the greeting of a TLS client."""
    import ssl  # Hardly any server needs it.

    greeting = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), greeting, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return greeting.read()


def _refused(problem: InvalidStatus) -> tuple[str, str]:
    response = problem.response
    text = f"the server answers HTTP {response.status_code} {response.reason_phrase}".rstrip()
    if response.status_code in REDIRECTS:
        text += f", a redirect to {response.headers.get('Location', 'nowhere')}"
    return "server_refused", text
