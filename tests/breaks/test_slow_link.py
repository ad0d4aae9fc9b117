"""A link that is slow, loses packets and takes small ones only breaks nothing: the run is held, and latency is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eventually import eventually
from slow_link import FAR, slow_link, within

PORT = 8765
ECHO = f"""
import asyncio
from websockets.asyncio.server import serve
async def echo(connection):
    async for message in connection:
        await connection.send(message)
async def main():
    async with serve(echo, "{FAR}", {PORT}, backlog=1024) as server:
        await server.serve_forever()
asyncio.run(main())
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists(),
    reason="a link between namespaces takes root, ip and /dev/net/tun",
)


def stage_over(link: tuple[str, str], folder: Path, *options: str) -> dict[str, Any]:
    """Run a stage over a link against an echo server at its far end; return what it prints."""
    near, far = link
    server = subprocess.Popen(within(far, sys.executable, "-c", ECHO), stderr=subprocess.DEVNULL)
    try:
        listening = within(far, "sh", "-c", f"grep -q :{PORT:04X} /proc/net/tcp")
        eventually(lambda: subprocess.run(listening).returncode == 0)
        wslab = [sys.executable, "-m", "wslab", "stage", "--server", f"ws://{FAR}:{PORT}/", "--i-operate-this-target"]
        command = within(near, *wslab, "--data-dir", str(folder), "--json", *options)
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert ran.stdout, ran.stderr
        return dict(json.loads(ran.stdout))
    finally:
        server.kill()
        server.wait(10)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"loss": 0.01}, id="loss"),
        pytest.param({"loss": 0.01, "mtu": 400, "buffer_bytes": 4096}, id="loss, small buffers and packets"),
    ],
)
def test_a_bad_link_breaks_nothing_and_latency_is_told(tmp_path: Path, bad: dict[str, Any]) -> None:
    with slow_link(delay_seconds=0.05, seed=3, **bad) as link:
        hold = ("--connections", "150", "--hold-seconds", "2", "--message-rate", "1")
        found = stage_over(link, tmp_path, *hold)
    assert (found["outcome"], found["findings"]) == ("held", [])
    assert (found["connections_verified"], found["connections_failed"], found["messages_failed"]) == (150, 0, 0)
    # There and back, and twice that for a handshake of TCP and one of WebSocket.
    assert 0.1 <= found["roundtrip_seconds_p50"] < 0.15
    assert 0.2 <= found["handshake_seconds_p50"] < 0.3
