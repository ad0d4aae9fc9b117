"""What tests over hosts share: a scheduler and workers as processes, by hand, and how they end."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventually import eventually
from wslab.machine.trees import with_descendants

needs_distributed = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="the package distributed is not installed"
)


class Dask:
    """A scheduler and its workers.

    Attributes:
        address: of the scheduler.
        processes: by name; the scheduler is `scheduler`.
    """

    def __init__(self, address: str, processes: dict[str, subprocess.Popen[bytes]]) -> None:
        self.address, self.processes = address, processes

    def kill(self, name: str) -> None:
        """End one of them at once."""
        self.processes[name].kill()
        self.processes[name].wait(10)

    def load(self) -> list[int]:
        """Return the processes that workers which are alive have started: those of a load."""
        pids = [process.pid for process in self.processes.values() if process.poll() is None]
        return sorted({*with_descendants(pids)} - {*pids})


@contextmanager
def dask(
    folder: Path, ips: Sequence[str], netns: Sequence[str] = (), tls: Mapping[str, str] | None = None
) -> Iterator[Dask]:
    """Run a scheduler and one worker for each address, named `h0`, `h1` and so on; end them all.

    Each offers a resource of its own, `H0`, `H1` and so on.

    Args:
        folder: where they keep their files.
        ips: address of each worker; the scheduler has the first.
        netns: the namespace of each worker; empty for this one.
        tls: what the environment has to say for a cluster with TLS; None for one without.
    """
    processes: dict[str, subprocess.Popen[bytes]] = {}
    ready = folder / "scheduler.json"

    def start(name: str, number: int, *command: str) -> None:
        enter = ("ip", "netns", "exec", netns[number]) if netns else ()
        with open(folder / f"{name}.log", "wb") as log:
            processes[name] = subprocess.Popen(
                [*enter, sys.executable, "-m", "distributed.cli." + command[0], *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **(tls or {})},
            )

    try:
        start(
            "scheduler", 0, "dask_scheduler", "--host", ips[0], "--port", "0", "--no-dashboard",
            *("--protocol", "tcp" if tls is None else "tls", "--scheduler-file", str(ready)),
        )  # fmt: skip
        for number, ip in enumerate(ips):
            start(
                f"h{number}", number, "dask_worker", "--scheduler-file", str(ready), "--no-nanny", "--no-dashboard",
                *("--host", ip, "--name", f"h{number}", "--nthreads", "2", "--local-directory", str(folder)),
                *("--resources", f"H{number}=1"),
            )  # fmt: skip
        eventually(lambda: ready.exists() and ready.read_text("utf-8").endswith("}"), seconds=30)
        address = json.loads(ready.read_text("utf-8"))["address"]
        logs = [folder / f"h{number}.log" for number in range(len(ips))]
        eventually(lambda: all("Registered to" in log.read_text("utf-8") for log in logs), seconds=30)
        yield Dask(address, processes)
    finally:
        for process in processes.values():
            process.kill()
        for process in processes.values():
            process.wait(10)
