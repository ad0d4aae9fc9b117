"""A small WebSocket server that goes wrong in one way, to show what is found then; needs nothing but Python.

Run as `python faulty_server.py PORT BEHAVIOUR [N]`. It echoes messages of up to 125 bytes. Behaviours:

- `echo`: nothing goes wrong. `workers`: two processes serve. `daemon`: it forks and its first process ends.
- `exits`: it prints three lines and ends. `deaf`: it never listens. `elsewhere`: it listens on another port.
- `busy`: it listens and never accepts. `http500`, `redirect`, `wrong_key`, `tls`: what it answers.
- `slams`: it closes every connection at once. `closes`: it closes every second one.
- `stops`: at N connections it stops reading. `dies`: at N it ends.
- `guards`: it answers 401 to who does not come to /chat/0 with the header `Token: secret`.
- `leaks`: it keeps 100,000 bytes a connection. `prints`: it prints N bytes first. `reverses`: it echoes backwards.
"""

from __future__ import annotations

import base64
import hashlib
import os
import selectors
import signal
import socket
import sys
import time

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ANSWERS = {
    "http500": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 301 Moved Permanently\r\nLocation: ws://127.0.0.1:1/there\r\nContent-Length: 0\r\n\r\n",
    "tls": b"\x15\x03\x03\x00\x02\x02\x46",
}


def accept_header(request: bytes, behaviour: str) -> bytes:
    """Return the answer to an upgrade request."""
    key = next(
        line.split(b":")[1].strip() for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
    )
    accept = base64.b64encode(hashlib.sha1((b"x" if behaviour == "wrong_key" else b"") + key + GUID).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    return head + accept + b"\r\n\r\n"


class Server:
    """One process that serves."""

    def __init__(self, listener: socket.socket, behaviour: str, number: int) -> None:
        self.listener, self.behaviour, self.number = listener, behaviour, number
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)
        self.accepted = 0
        self.upgraded: set[socket.socket] = set()
        self.kept: list[bytearray] = []

    def run(self) -> None:
        """Serve for ever."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self.accept()
                else:
                    self.serve(key.fileobj)  # type: ignore[arg-type]

    def accept(self) -> None:
        """Take one connection."""
        try:
            peer, _ = self.listener.accept()
        except BlockingIOError:
            return
        except OSError:
            time.sleep(0.1)  # No descriptor is left: as asyncio does, try again later.
            return
        self.accepted += 1
        if self.behaviour == "dies" and self.accepted > self.number:
            print("cannot serve any more", flush=True)
            os._exit(7)
        while self.behaviour == "stops" and self.accepted > self.number:
            signal.pause()
        if self.behaviour == "slams" or (self.behaviour == "closes" and self.accepted > 1 and self.accepted % 2):
            peer.close()
            return
        if self.behaviour == "leaks":
            self.kept.append(bytearray(os.urandom(100_000)))
        peer.setblocking(False)
        self.selector.register(peer, selectors.EVENT_READ)

    def serve(self, peer: socket.socket) -> None:
        """Answer what has come."""
        try:
            data = peer.recv(65536)
            if data:
                peer.send(self.answer(peer, data))
        except OSError:
            data = b""
        if not data or self.behaviour in ANSWERS:
            self.selector.unregister(peer)
            self.upgraded.discard(peer)
            peer.close()

    def answer(self, peer: socket.socket, data: bytes) -> bytes:
        """Return the answer: to a request, or the echoes of whole small frames."""
        if self.behaviour == "tls" and data[0] != 0x16:
            raise OSError("this is no greeting of TLS")
        if self.behaviour in ANSWERS:
            return ANSWERS[self.behaviour]
        if peer not in self.upgraded:
            if self.behaviour == "guards" and not (
                data.startswith(b"GET /chat/0 ") and b"\r\nToken: secret\r\n" in data
            ):
                return b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
            self.upgraded.add(peer)
            return accept_header(data, self.behaviour)
        out = b""
        while len(data) >= 6:
            size = data[1] & 0x7F
            mask, payload, rest = data[2:6], data[6 : 6 + size], data[6 + size :]
            message = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
            out += bytes([data[0], size]) + (message[::-1] if self.behaviour == "reverses" else message)
            data = rest
        return out


def main() -> None:
    """Be the server."""
    port, behaviour = int(sys.argv[1]), sys.argv[2]
    number = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    if behaviour == "exits":
        print("reading the configuration\nno such file: settings.json\ngiving up", flush=True)
        sys.exit(3)
    if behaviour == "deaf":
        signal.pause()
    for _ in range(number >> 16 if behaviour == "prints" else 0):
        os.write(1, (b"x" * 63 + b"\n") * 1024)
    listener = socket.create_server(("127.0.0.1", 0 if behaviour == "elsewhere" else port), backlog=512)
    if behaviour in ("busy", "elsewhere"):
        signal.pause()
    listener.setblocking(False)
    if behaviour == "daemon" and os.fork():
        os._exit(0)
    if behaviour == "daemon":
        os.setsid()
    if behaviour == "workers":
        os.fork()
    Server(listener, behaviour, number).run()


if __name__ == "__main__":
    main()
