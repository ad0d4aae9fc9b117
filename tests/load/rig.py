"""What the tests of the load share: programs run as the supervisor runs them, raw WebSocket peers, servers that err."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from array import array
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1
from pathlib import Path
from typing import Any, Self

import numpy as np

from eventually import eventually as until
from wslab.core.histogram import bucket_seconds
from wslab.core.summary import quantile_seconds
from wslab.load import scoreboard
from wslab.load.engine import state, swarm_words
from wslab.load.scoreboard import ROW_WORDS
from wslab.load.servers.sharded import listen
from wslab.load.swarm.dialects import dialect_of
from wslab.load.swarm.master import tasks_of

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 20.0
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
LIMITED = "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)); "
LIMITED += "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"


def percentile(counts: list[int], quantile: float) -> float:
    """Return the latency below which `quantile` of those counted in a histogram of the board lie, in seconds."""
    rows = [{"bucket_seconds": bucket_seconds(index), "count": count} for index, count in enumerate(counts) if count]
    found = quantile_seconds(rows, quantile)
    assert found is not None
    return found


def gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def cpu_ticks(pid: int) -> int:
    """Return the CPU time that a process has used, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Program:
    """A load process under test: commands in, events out.

    Args:
        command: arguments of the interpreter.
        fd_limit: hard limit on its descriptors.
        pass_fds: descriptors that it inherits.
    """

    def __init__(self, *command: str, fd_limit: int | None = None, pass_fds: tuple[int, ...] = ()) -> None:
        if fd_limit is not None:
            command = ("-c", LIMITED, str(fd_limit), *command)
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=ROOT,
            bufsize=0,
            pass_fds=pass_fds,
        )
        self.unread = b""
        self.events: list[dict[str, Any]] = []

    @classmethod
    def of(cls, module: str, spec: dict[str, Any], **options: Any) -> Self:
        """Start a module of the load with its SPEC."""
        return cls("-m", f"wslab.load.{module}", json.dumps(spec), **options)

    def tell(self, cmd: str, **fields: Any) -> None:
        """Send a command."""
        self.process.stdin.write(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")

    def hear(self, seconds: float) -> bool:
        """Take the events that come within so many seconds; False when there will be no more."""
        if not select.select([self.process.stdout], [], [], max(0, seconds))[0]:
            return True
        data = os.read(self.process.stdout.fileno(), 65536)
        *lines, self.unread = (self.unread + data).split(b"\n")
        self.events += map(json.loads, lines)
        return bool(data)

    def wait_for(self, event: str, seconds: float = DEADLINE_SECONDS, **fields: Any) -> dict[str, Any]:
        """Return the first event of this name with these fields, also when it is there already."""
        deadline = time.monotonic() + seconds
        while True:
            for heard in self.events:
                if heard["event"] == event and fields.items() <= heard.items():
                    return heard
            assert time.monotonic() < deadline, f"no {event} {fields} among {self.events}; {self.stderr()}"
            going_on = self.hear(deadline - time.monotonic())
            assert going_on or self.events, f"it ended without {event}: {self.stderr()}"

    def all_of(self, event: str) -> list[dict[str, Any]]:
        """Return all events of this name so far."""
        while select.select([self.process.stdout], [], [], 0)[0] and self.hear(0):
            pass
        return [heard for heard in self.events if heard["event"] == event]

    def stderr(self) -> str:
        """Return what was written to standard error."""
        self.errors.seek(0)
        return self.errors.read()

    def end(self) -> int:
        """Let go of the lifeline and return the exit status."""
        self.process.stdin.close()
        return self.process.wait(DEADLINE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pids = next((heard["pids"] for heard in self.events if heard["event"] == "ready"), [])
        self.process.stdin.close()
        try:
            self.process.wait(DEADLINE_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.errors.close()
        until(lambda: all(map(gone, pids)))


@contextmanager
def serving(kind: str = "lean", *, fd_limit: int | None = None, **spec: Any) -> Iterator[Program]:
    """Run a server; `address` is where it listens."""
    with Program.of(f"servers.{kind}", spec, fd_limit=fd_limit) as server:
        ready = server.wait_for("ready")
        server.url, server.pids = ready["url"], ready["pids"]
        host, _, port = ready["url"].partition("://")[2].rpartition(":")
        server.address = (host.strip("[]"), int(port))
        yield server


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """Return a frame as a client sends it."""
    size = len(payload)
    length = bytes((size,)) if size < 126 else struct.pack("!BH", 126, size) if size < 65536 else b""
    length = length or struct.pack("!BQ", 127, size)
    if not masked:
        return bytes((fin << 7 | rsv << 4 | opcode,)) + length + payload
    mask = b"\x11\x9a\x00\xf7"
    repeated = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    body = (int.from_bytes(payload, "big") ^ repeated).to_bytes(size, "big")
    return bytes((fin << 7 | rsv << 4 | opcode, 0x80 | length[0])) + length[1:] + mask + body


class Peer:
    """A raw client."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, DEADLINE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def more(self) -> bool:
        data = self.socket.recv(1 << 18)
        self.unread += data
        return bool(data)

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        while len(self.unread) < size:
            assert self.more(), f"ended after {self.unread!r}"
        taken, self.unread = self.unread[:size], self.unread[size:]
        return taken

    def answer(self) -> tuple[int, dict[str, str]]:
        """Return the status and the headers of the answer to a request."""
        while b"\r\n\r\n" not in self.unread:
            assert self.more(), f"ended after {self.unread!r}"
        head, _, self.unread = self.unread.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in lines)

    def upgrade(self, request: bytes = REQUEST) -> Self:
        """Open the connection."""
        self.send(request)
        status, headers = self.answer()
        assert (status, headers["Sec-WebSocket-Accept"]) == (101, ACCEPT.decode())
        return self

    def frame(self) -> tuple[int, bytes]:
        """Return the first byte and the payload of the next frame; a server masks nothing."""
        first, size = self.take(2)
        if size > 125:
            size = int.from_bytes(self.take(2 if size == 126 else 8), "big")
        return first, self.take(size)

    def rest(self) -> bytes:
        """Return what comes until the end of the stream."""
        while self.more():
            pass
        return self.unread

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()


class Bench:
    """A shard in this process, whose loop the test plays: it decides what is read in one piece.

    Args:
        options: of the shard.
    """

    def __init__(self, **options: Any) -> None:
        from wslab.load.servers.shard import Shard

        self.listener = listen("127.0.0.1", 0, 16)
        self.row = memoryview(bytearray(8 * ROW_WORDS)).cast("Q")
        lifeline, self.lifeline_writer = os.pipe()
        self.shard = Shard(self.listener, self.row, **options)
        self.shard.begin(lifeline)
        self.pace(0.0)
        self.peers: list[Peer] = []
        self.turn()

    def pace(self, seconds: float) -> None:
        """Set how long the loop waits, and how often it ticks."""
        self.shard.words[state.WAIT_MS] = int(seconds * 1000)
        self.shard.words[state.TICK_NS], self.shard.words[state.TICK_AT] = int(seconds * 1e9), 0

    def turn(self) -> None:
        """Let the shard see to all that has come."""
        while self.shard.step() != state.TICK:
            pass

    def count(self, word: int) -> int:
        """Return a counter of the scoreboard."""
        return self.row[word]

    def connect(self) -> tuple[Peer, int]:
        """Return a new connection, accepted and not greeted yet: its client's end and the shard's descriptor."""
        peer = Peer(self.listener.getsockname())
        self.peers.append(peer)
        before = set(np.flatnonzero(self.shard.states).tolist())
        until(lambda: self.turn() or set(np.flatnonzero(self.shard.states).tolist()) - before)
        (fd,) = set(np.flatnonzero(self.shard.states).tolist()) - before
        return peer, fd

    def say(self, peer: Peer, data: bytes) -> None:
        """Send bytes and let the shard read them: in one piece where they are few, and as far as it goes on."""
        fd = self.fd_of(peer)
        peer.send(data)
        until(lambda: queued(fd) >= len(data))
        self.turn()
        until(lambda: not self.shard.states[fd] or self.keeps_an_answer() or not queued(fd) or self.turn())

    def keeps_an_answer(self) -> bool:
        """Tell whether a peer has not taken yet all that it was sent."""
        return self.shard.kept.size > 0 or any(True for _ in self.shard.blocks(time.monotonic_ns()))

    def fd_of(self, peer: Peer) -> int:
        """Return the shard's descriptor of a connection."""
        name = peer.socket.getsockname()
        for fd in np.flatnonzero(self.shard.states).tolist():
            view = socket.socket(fileno=os.dup(fd))
            with view:
                try:
                    if view.getpeername() == name:
                        return fd
                except OSError:
                    pass
        raise AssertionError("the shard has no such connection")

    def open(self) -> tuple[Peer, int]:
        """Return a new connection that has been upgraded."""
        peer, fd = self.connect()
        self.say(peer, REQUEST)
        assert peer.answer()[0] == 101
        return peer, fd

    @contextmanager
    def running(self) -> Iterator[Any]:
        """Let the shard run its own loop until the end of the block."""
        self.pace(0.05)
        thread = threading.Thread(target=self.shard.run)
        thread.start()
        try:
            yield self.shard
        finally:
            os.close(self.lifeline_writer)
            self.lifeline_writer = -1
            thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        shard = self.shard
        for peer in self.peers:
            peer.socket.close()
        for fd in np.flatnonzero(shard.states).tolist():
            os.close(fd)
        shard.epoll.close()
        os.close(shard.door.waker)
        os.close(shard.lifeline)
        if self.lifeline_writer >= 0:
            os.close(self.lifeline_writer)
        self.listener.close()


def queued(fd: int) -> int:
    """Return how many bytes wait on a socket to be read."""
    size = array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]


class Player:
    """A swarm worker in this process, whose loop the test plays.

    Args:
        url: where it dials.
        spec: more of the swarm's SPEC.
    """

    def __init__(self, url: str, *, plain: bool = True, **spec: Any) -> None:
        from wslab.load.swarm.worker import Worker

        (task,) = tasks_of({"url": url, "connections": 1, "workers": 1, **spec})
        self.row = memoryview(bytearray(8 * ROW_WORDS)).cast("Q")
        self.worker = Worker(task, 0, self.row, dialect_of(url, spec), plain=plain)
        self.worker.begin(-1)
        self.worker.words[state.WAIT_MS] = self.worker.words[state.TICK_NS] = self.worker.words[state.TICK_AT] = 0

    def turn(self) -> None:
        """Let the worker do what is due and see to what has come."""
        while self.worker.step() != state.TICK:
            pass

    def until(self, condition: Callable[[], Any]) -> Any:
        """Let the worker go on until something has happened."""
        return until(lambda: self.turn() or condition())

    def adopt(self, fd: int) -> None:
        """Make a descriptor one of its open connections."""
        self.worker.epoll.register(fd, select.EPOLLIN)
        self.worker.states[fd] = state.OPEN
        self.row[scoreboard.OPEN] += 1
        self.worker.words[swarm_words.TOP] = max(self.worker.words[swarm_words.TOP], fd + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for fd in np.flatnonzero(self.worker.states).tolist():
            try:
                os.close(fd)
            except OSError:
                pass
        self.worker.epoll.close()


def accept_of(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept that belongs to a key."""
    return b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def upgraded(peer: socket.socket) -> bytes:
    """Play the server's part of an upgrade and return the answer that is to be sent."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        data = peer.recv(4096)
        if not data:
            raise ConnectionResetError
        request += data
    key = request.partition(b"Sec-WebSocket-Key: ")[2][:24]
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    return head + accept_of(key) + b"\r\n\r\n"


def heard(peer: socket.socket) -> tuple[int, bytes]:
    """Return opcode and payload of the next masked frame, which is short."""
    data = b""
    while len(data) < 2 or len(data) < 6 + (data[1] & 0x7F):
        more = peer.recv(1 if len(data) < 2 else 6 + (data[1] & 0x7F) - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    mask = (data[2:6] * 40)[: len(data) - 6]
    return data[0] & 0x0F, bytes(a ^ b for a, b in zip(data[6:], mask, strict=True))


@contextmanager
def scripted(script: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[str]:
    """Run a server that does with each connection what the script says; yield its ws:// URL."""
    listener = socket.create_server((host, 0), backlog=64)
    threads: list[threading.Thread] = []

    def serve(peer: socket.socket) -> None:
        with peer:
            peer.settimeout(DEADLINE_SECONDS)
            try:
                script(peer)
            except (ConnectionError, TimeoutError):
                pass

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(peer,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join(DEADLINE_SECONDS)
        listener.close()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
