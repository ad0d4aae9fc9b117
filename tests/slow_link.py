"""A bad link between two network namespaces: packets are late, some are lost, and they are small.

Two TUN devices, one in each namespace, and between them a process that carries packets from one to the other. It needs
nothing of the kernel but TUN, where a queueing discipline that delays may be missing.

    python slow_link.py NEAR FAR DELAY_SECONDS LOSS SEED    with two namespaces, until its standard input ends
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DEVICE = "wslabtun0"
NEAR, FAR = "10.207.0.1", "10.207.0.2"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKET_BYTES = 65536


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def within(netns: str, *command: str) -> list[str]:
    """Return a command line that runs in a namespace."""
    return ["ip", "netns", "exec", netns, *command]


@contextmanager
def slow_link(
    *, delay_seconds: float, loss: float, mtu: int = 1500, buffer_bytes: int = 0, seed: int = 1
) -> Iterator[tuple[str, str]]:
    """Make two namespaces joined by a bad link; yield their names, the one of the swarm at `NEAR` first.

    Args:
        delay_seconds: each way.
        loss: share of the packets that are lost, each way.
        mtu: bytes of the largest packet.
        buffer_bytes: the most that a socket may buffer each way; 0 for what is usual.
        seed: of what is lost.
    """
    names = tuple(f"wslab-link-{os.getpid()}-{end}" for end in ("near", "far"))
    relay = None
    try:
        for name in names:
            _ip("netns", "add", name)
        script = [sys.executable, __file__, *names, str(delay_seconds), str(loss), str(seed)]
        relay = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert relay.stdout is not None
        assert relay.stdout.readline() == b"ready\n"
        for name, address in zip(names, (NEAR, FAR), strict=True):
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
            _ip("-n", name, "link", "set", DEVICE, "up", "mtu", str(mtu))
            for buffer in ("tcp_rmem", "tcp_wmem") if buffer_bytes else ():
                sizes = f"4096 {min(4096, buffer_bytes)} {buffer_bytes}"
                file = f"/proc/sys/net/ipv4/{buffer}"
                subprocess.run(within(name, "sh", "-c", f"echo {sizes} >{file}"), check=True, timeout=20)
        yield names  # type: ignore[misc]
    finally:
        if relay is not None:
            relay.communicate(timeout=20)
        for name in names:
            if Path("/run/netns", name).exists():
                _ip("netns", "del", name)


def _open_tun(netns: str) -> int:
    """Make a TUN device and move it into a namespace; its descriptor stays here."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"wl{os.getpid() % 10**9}"
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    _ip("link", "set", name, "netns", netns, "name", DEVICE)
    return fd


def _carry(ends: tuple[int, int], delay: float, loss: float, seed: int) -> None:
    """Carry packets between two devices until standard input ends."""
    chance = random.Random(seed)
    # The delay is the same for all, so that the order of each way is kept.
    under_way: deque[tuple[float, int, bytes]] = deque()
    watched = select.poll()
    for fd in (0, *ends):
        watched.register(fd, select.POLLIN)
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) * 1000 if under_way else None
        for fd, _ in watched.poll(wait):
            if fd == 0:
                return
            out = ends[fd == ends[0]]
            with suppress(BlockingIOError):
                for _ in range(64):
                    packet = os.read(fd, _PACKET_BYTES)
                    if chance.random() >= loss:
                        under_way.append((time.monotonic() + delay, out, packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, out, packet = under_way.popleft()
            with suppress(OSError):  # The device is not up yet, or its queue is full: one more that is lost.
                os.write(out, packet)


if __name__ == "__main__":
    _near, _far, _delay, _loss, _seed = sys.argv[1:]
    _devices = (_open_tun(_near), _open_tun(_far))
    print("ready", flush=True)
    _carry(_devices, float(_delay), float(_loss), int(_seed))
