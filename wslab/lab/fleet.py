"""The caller's end of a supervisor: starts it, exchanges messages with it, and always stops what it started.

1. The supervisor gets a session of its own, so that Ctrl-C in a terminal or a notebook reaches the caller alone.
2. Its stdin is both the command channel and the lifeline: when the caller dies, however it does, the pipe ends.
3. Leaving the context sends `stop` and closes the pipe at once, so that an interrupt meanwhile changes nothing for the
   supervisor. What has not ended in time is killed.
4. No thread is started here, so that an interrupt always reaches the code that waits.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from wslab.core.json_lines import JsonLines
from wslab.lab import registry

STOP_SECONDS = 6.0
_COMMAND = (sys.executable, "-m", "wslab.load.supervisor")
_READ_BYTES = 1 << 16


class FleetEnded(Exception):
    """The supervisor has ended; the text says how."""


class Fleet:
    """A supervisor and all that it owns, for as long as the context lasts.

    Args:
        run_dir: folder of the run; the supervisor's own log goes to its `logs`.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._registration: registry.Registration | None = None
        self._selector = selectors.DefaultSelector()
        self._lines = JsonLines()
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Fleet:
        logs = self.run_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with open(logs / "supervisor.log", "ab") as log:
            self._process = subprocess.Popen(
                _COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                cwd=self.run_dir,  # `-m` searches there first, where no module of the user's can be
                env=child_environment(),
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._registration = registry.register("supervisor", self._process.pid, self.run_dir)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Pid of the supervisor."""
        return self._running.pid

    def send(self, cmd: str, **fields: Any) -> None:
        """Send a command; if the supervisor is gone, `next_event` reports it.

        Raises:
            FleetEnded: the context has been left.
        """
        assert self._running.stdin is not None
        try:
            self._running.stdin.write(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")
        except BrokenPipeError:
            pass  # Its last events are still to be read, and say why.

    def next_event(self, timeout_seconds: float) -> dict[str, Any] | None:
        """Return the next event, or None when there is none in time.

        Raises:
            FleetEnded: there will be no more events.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self._events:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                return None
            assert self._running.stdout is not None
            data = self._running.stdout.read(_READ_BYTES)
            if not data:
                raise FleetEnded(self._how_it_ended())
            self._events += self._lines.feed(data)
        event = self._events.pop(0)
        if event["event"] in ("process_started", "processes_ready") and self._registration is not None:
            self._registration.add(event["role"], event.get("pids") or [event["pid"]])
        return event

    def stop(self) -> None:
        """Stop everything and wait until it is gone; does nothing the second time."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b'{"cmd": "stop"}\n')
        except (BrokenPipeError, ValueError):
            pass  # It has ended already.
        finally:
            process.stdin.close()
        try:
            self._await_end(process)
        finally:
            if process.poll() is None:  # Not reaped yet, so the group is still its own.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()
            self._selector.close()
            self._end_registered()

    def _await_end(self, process: subprocess.Popen[bytes]) -> None:
        """Read on, so that no process blocks on a full pipe, until the supervisor has ended or time is up."""
        assert process.stdout is not None
        deadline = time.monotonic() + STOP_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if self._selector.select(left) and not process.stdout.read(_READ_BYTES):
                break
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # It is killed next.

    def _end_registered(self) -> None:
        """End what outlived a supervisor that died, then forget the group."""
        if self._registration is not None:
            registry.end_processes(self._registration.entries())
            self._registration.remove()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise FleetEnded("the fleet is not running")
        return self._process

    def _how_it_ended(self) -> str:
        try:
            code = self._running.wait(1.0)
        except subprocess.TimeoutExpired:
            return "the supervisor does not answer any more"
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the supervisor ended ({how})"


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which the same package is found that runs here, installed or not."""
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}
