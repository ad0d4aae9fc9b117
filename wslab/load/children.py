"""One child of the supervisor: how it is started, commanded, watched and ended.

A child reads commands and writes events, one JSON object per line, on its stdin and stdout. Its stdin is also its
lifeline: at end of file it ends.

1. A process is held by a pidfd from the moment it is known, so that a signal can never reach a later process that was
   given the same pid.
2. A child announces the processes it forked; they are adopted only if they are younger than the child itself.
3. The write end of a stdin pipe is closed on exec, so no sibling keeps another one's lifeline open.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wslab.core.json_lines import JsonLines
from wslab.machine.enter import enter
from wslab.machine.process import start_ticks

_READ_BYTES = 1 << 16


class Child:
    """A running child process and the processes that it announced.

    Args:
        role: `server`, `swarm` or `recorder`; also the name of its log.
        command: the program and its arguments.
        log: file that its stderr is appended to.
        pass_fds: descriptors that it inherits.
        enclosure: what it is started in, see `wslab.machine.enter.enter`; None for where the supervisor is.
    """

    def __init__(
        self,
        role: str,
        command: Sequence[str],
        *,
        log: Path,
        pass_fds: Sequence[int] = (),
        enclosure: Mapping[str, Any] | None = None,
    ) -> None:
        self.role = role
        self.log = log
        self.error = ""  # the last error that it reported
        self.ended = False
        with open(log, "ab") as stderr:
            try:
                self._popen = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    pass_fds=pass_fds,
                    bufsize=0,
                    # Safe here: the supervisor has one thread.
                    preexec_fn=None if enclosure is None else partial(_enter, enclosure),
                )
            except subprocess.SubprocessError as problem:
                why = f"it cannot enter its enclosure, see {log.parent.name}/{log.name}"
                raise OSError(errno.EPERM, why) from problem
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._stdin, self.stdout = self._popen.stdin, self._popen.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self._lines = JsonLines()
        self.pid = self._popen.pid
        self.pidfd = os.pidfd_open(self.pid)
        self._born = start_ticks(self.pid) or 0
        self._adopted: dict[int, int] = {}

    def send(self, command: Mapping[str, Any]) -> None:
        """Send a command; a child that is gone is not an error here, its pidfd reports it."""
        try:
            self._stdin.write(json.dumps(command).encode() + b"\n")
        except (BrokenPipeError, ValueError):  # ValueError: its stdin is closed already
            pass

    def events(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the events that have arrived, and whether more may follow."""
        found: list[dict[str, Any]] = []
        while (data := self.stdout.read(_READ_BYTES)) is not None:
            found.extend(self._lines.feed(data))
            if not data:
                break
        if self._lines.rejected:
            try:
                with open(self.log, "a", encoding="utf-8") as log:
                    log.writelines(f"not an event: {line}\n" for line in self._lines.rejected)
            except OSError:
                pass  # A full disk must not end the run before it is drained.
            self._lines.rejected.clear()
        return found, data is None

    def adopt(self, pids: Iterable[int]) -> None:
        """Hold the processes that this child forked, so that they can be ended with it."""
        for pid in set(pids) - self._adopted.keys() - {self.pid, 0}:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                continue
            if (start_ticks(pid) or -1) >= self._born:
                self._adopted[pid] = pidfd
            else:
                os.close(pidfd)

    def close_stdin(self) -> None:
        """Close the lifeline, at which the child ends everything it owns."""
        self._stdin.close()

    def reap(self) -> tuple[int | None, int | None]:
        """Return (exit code, signal) of the child, one of them None; call it when `pidfd` is readable."""
        code = self._popen.wait()
        self.ended = True
        return (code, None) if code >= 0 else (None, -code)

    def kill(self) -> None:
        """End the child and all that it announced, at once; stopped processes too."""
        for pidfd in (self.pidfd, *self._adopted.values()):
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def gone(self) -> bool:
        """Return whether the child and every process that it announced have ended."""
        poll = select.poll()
        for pidfd in self._adopted.values():
            poll.register(pidfd, select.POLLIN)
        return self.ended and len(poll.poll(0)) == len(self._adopted)


def _enter(enclosure: Mapping[str, Any]) -> None:
    """Enter the enclosure before exec; the parent learns only that this failed, so the reason goes to the log."""
    try:
        enter(enclosure)
    except (OSError, ValueError) as problem:
        os.write(2, f"the enclosure cannot be entered: {problem}\n".encode())
        raise
