"""A server of ours on its own, for clients that are not ours: started, registered, and always stopped."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from types import TracebackType

from wslab.core.quantities import BadInput, refuse
from wslab.core.stage import SERVER_KINDS
from wslab.lab import registry

START_SECONDS = 30.0
STOP_SECONDS = 5.0


class Serving:
    """Context manager around one server process.

    Args:
        kind: a server kind, such as `lean`.
        host: address to listen on.
        port: port as a number or as text; 0 is any free one.
        shards: server processes, or `auto` for one a core.

    Raises:
        BadInput: the kind is unknown, or the address cannot be listened on; one line says why.
    """

    def __init__(self, kind: str, *, host: str = "127.0.0.1", port: int | str = 0, shards: int | str = "auto") -> None:
        if kind not in SERVER_KINDS:
            raise refuse("server", kind, "one of " + ", ".join(SERVER_KINDS))
        if not str(port).isdecimal() or int(port) > 65535:
            raise refuse("port", port, "a port from 0 to 65535")
        count = len(os.sched_getaffinity(0)) if shards == "auto" else int(shards)
        self._spec = {"host": host, "port": int(port), "shards": count, "board_fd": None}
        self._module = SERVER_KINDS[kind].module
        self.url = ""
        self.pids: list[int] = []

    def __enter__(self) -> Serving:
        command = [sys.executable, "-m", self._module, json.dumps(self._spec)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        select.select([self._process.stdout], [], [], START_SECONDS)
        event = json.loads(self._process.stdout.readline() or '{"event": "error", "message": "the server has died"}')
        if event["event"] != "ready":
            self.__exit__(None, None, None)
            raise BadInput(event.get("message", "the server did not start"))
        self.url, self.pids = event["url"], event["pids"]
        self._registration = registry.register("server", self.pids[0])
        self._registration.add("server", self.pids)
        return self

    def wait(self) -> int:
        """Wait until the server ends by itself, which it does not unless it is killed; return the exit status 3."""
        self._process.wait()
        return 3

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self.pids:
            self._registration.remove()
