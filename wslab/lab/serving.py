"""A built-in server on its own, for clients that are not ours: started, registered, and always stopped.

1. It is started like a fleet: in a session of its own, with its standard input as lifeline. However the caller ends,
   the pipe ends too, and the server with it.
2. An error that the server reports at its start, such as a port in use, is bad input; that it dies or reports nothing
   is not.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from wslab.core.json_lines import JsonLines
from wslab.core.quantities import BadInput, parse_count, refuse
from wslab.core.servers import SERVER_KINDS
from wslab.lab import registry
from wslab.lab.fleet import child_environment

# The first start on a machine compiles the event loops, where that was not done at installation.
START_SECONDS = 120.0
STOP_SECONDS = 5.0
# Far more than there are cores; each takes megabytes, and a typo must not use up the machine's memory.
SHARDS_MOST = 1024


class ServerDied(OSError):
    """The server ended, or said nothing, before it was ready; the text says which."""


class Serving:
    """Context manager around one server process.

    Args:
        kind: a server kind, such as `lean`.
        host: address to listen on.
        port: port as a number or as text; 0 is any free one.
        shards: server processes, or `auto` for one a core.

    Attributes:
        url: where it serves, once it does.
        pids: its processes, the first one of them being their parent.

    Raises:
        BadInput: the kind is unknown, or the address cannot be listened on; one line says why.
        ServerDied: it did not start.
    """

    def __init__(self, kind: str, *, host: str = "127.0.0.1", port: int | str = 0, shards: int | str = "auto") -> None:
        if kind not in SERVER_KINDS:
            raise refuse("server", kind, "one of " + ", ".join(SERVER_KINDS))
        if not str(port).isdecimal() or int(port) > 65535:
            raise refuse("port", port, "a port from 0 to 65535")
        if not host or not host.isascii() or not host.isprintable() or " " in host:
            raise refuse("host", host, "an address of this machine, such as 127.0.0.1")
        count = len(os.sched_getaffinity(0)) if shards == "auto" else parse_count(shards, "shards")
        if count > SHARDS_MOST:
            raise refuse("shards", shards, f'a whole number from 1 to {SHARDS_MOST}, or "auto"')
        self._spec = {"host": host, "port": int(port), "shards": count, "board_fd": None, "restart": True}
        self._module = SERVER_KINDS[kind].module
        self._process: subprocess.Popen[bytes] | None = None
        self._registration: registry.Registration | None = None
        self._lines = JsonLines()
        self.url = ""
        self.pids: list[int] = []

    def __enter__(self) -> Serving:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self, say: Callable[[str], object] = lambda line: None) -> str:
        """Wait until the server ends by itself, which it does when its shards die again and again; return how.

        Args:
            say: called with one line for each shard that dies or is started in the place of one that did.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._registration is not None
        shards = set(self.pids[1:])
        while part := self._process.stdout.read(1 << 16):
            for event in self._lines.feed(part):
                if event.get("event") == "process_exited":
                    shards.discard(event["pid"])
                    how = _how_it_ended(event.get("exit_code"), event.get("signal"))
                    say(f"a shard has died (pid {event['pid']}, {how}); {len(shards)} of {len(self.pids) - 1} are left")
                elif event.get("event") == "process_started":
                    shards.add(event["pid"])
                    self._registration.add("server", [event["pid"]])
                    say(f"a shard was started in its place (pid {event['pid']})")
                elif event.get("event") == "error":
                    say(event["message"])
        code = self._process.wait()
        how = _how_it_ended(code, -code if code < 0 else None)
        return f"the server ended by itself ({how})" if shards else "all shards of the server have died"

    def stop(self) -> None:
        """End the server and wait until it is gone; does nothing the second time."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # It is killed next.
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
            if self._registration is not None:
                registry.end_processes(self._registration.entries())
                self._registration.remove()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, json.dumps(self._spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd="/",  # `-m` searches there first, where no module of the user's can be
            env=child_environment(),
            start_new_session=True,
        )
        self._registration = registry.register("server", self._process.pid)
        event = self._first_event()
        if event["event"] == "error":
            raise BadInput(event["message"])
        self.url, self.pids = event["url"], event["pids"]
        self._registration.add("server", self.pids)

    def _first_event(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            if not select.select([self._process.stdout], [], [], START_SECONDS)[0]:
                raise ServerDied(f"the server has said nothing for {START_SECONDS:.0f} s")
            part = self._process.stdout.read(1 << 16)
            if not part:
                raise ServerDied(f"the server did not start (exit code {self._process.wait()})")
            for event in self._lines.feed(part):
                return event


def _how_it_ended(exit_code: int | None, ended_by: int | None) -> str:
    return f"signal {ended_by}" if ended_by is not None else f"exit code {exit_code}"
