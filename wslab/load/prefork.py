"""A master process that forks the members of its crew, passes commands to them and reports those that die.

Server and swarm both start as one process that imports little and forks before any thread exists, so that a member
of the crew costs the few pages it writes to.

1. Standard input carries JSON commands. Its end means that the owner is gone, and everything stops at once.
2. Each member reads its commands from a pipe of its own whose only writer is the master, so the crew ends with the
   master, whatever ended that.
3. Events are JSON lines on standard output. Counters are on the scoreboard only.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys

from wslab.core.json_lines import JsonLines
from wslab.machine.process import lower_priority, prefer_as_oom_victim, raise_fd_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

STDIN = 0
# The load runs below the notebook, the supervisor and the recorder, so that a full CPU starves none of them.
NICENESS = 5


def emit(event: str, **fields: Any) -> None:
    """Write one event as a JSON line to standard output; an owner that is gone is noticed on standard input."""
    try:
        os.write(1, (json.dumps({"event": event, **fields}) + "\n").encode())
    except OSError:
        pass


def settle(uid: int | None = None) -> None:
    """Raise the fd limit, become the preferred OOM victim, lower the priority and, if asked, change the user.

    Args:
        uid: user to become, None for no change. Everything has to be imported by then: another user may not be able to
            read where Python is.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_fd_limit()
    prefer_as_oom_victim()
    lower_priority(NICENESS)
    if uid is not None:
        from wslab.machine.enter import become

        become(uid)


class Crew:
    """The forked members of one master.

    Args:
        work: called in each member with its index and the descriptor that its commands come from.
        on_crash: called in the master with the index of a member that ended by a signal or with an error.
    """

    def __init__(self, work: Callable[[int, int], None], on_crash: Callable[[int], None]) -> None:
        self.work, self.on_crash = work, on_crash
        self.pipes: dict[int, int] = {}  # pid -> write end of its command pipe
        self.watched: dict[int, int] = {}  # pidfd -> pid
        self.pids: list[int] = []
        self.epoll = select.epoll()

    def fork(self, count: int) -> None:
        """Fork `count` members; raises OSError (EAGAIN) when the machine allows no more processes."""
        gc.collect()
        gc.freeze()
        for index in range(count):
            self.pids.append(0)
            self.fork_member(index)

    def fork_member(self, index: int) -> int:
        """Fork member `index`, the first one or another in the place of one that died, and return its pid.

        Raises:
            OSError: the machine allows no more processes.
        """
        reader, writer = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            if not self.pids[index]:
                del self.pids[index:]
            raise
        if pid == 0:
            self._be_a_member(index, reader, writer)
        os.close(reader)
        self.pipes[pid] = writer
        self.pids[index] = pid
        pidfd = os.pidfd_open(pid)
        self.watched[pidfd] = pid
        self.epoll.register(pidfd, select.EPOLLIN)
        return pid

    def _be_a_member(self, index: int, reader: int, writer: int) -> None:
        status = 1
        try:
            self.epoll.close()
            for descriptor in (writer, *self.pipes.values(), *self.watched):
                os.close(descriptor)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, STDIN)
            os.close(null)
            self.work(index, reader)
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)

    def tell(self, command: bytes, members: list[int] | None = None) -> None:
        """Send a one-byte command to all members, or to those with the given indices."""
        chosen = self.pids if members is None else [self.pids[index] for index in members]
        for pid in chosen:
            if pid in self.pipes:
                try:
                    os.write(self.pipes[pid], command)
                except OSError:
                    pass  # It has just died; its pidfd will say so.

    def stop(self) -> None:
        """Close the pipes of all members, at which they end, and wait for the last of them."""
        for writer in self.pipes.values():
            os.close(writer)
        self.pipes.clear()
        for pid in self.watched.values():
            os.waitpid(pid, 0)
        self.watched.clear()

    def watch(self, on_command: Callable[[dict[str, Any]], None], on_tick: Callable[[], float | None]) -> None:
        """Serve commands and report deaths until standard input ends or no member is left.

        Args:
            on_command: called with each command from standard input.
            on_tick: called on every round; returns the seconds after which it wants to be called again, or None.
        """
        commands = JsonLines()
        os.set_blocking(STDIN, False)
        self.epoll.register(STDIN, select.EPOLLIN)
        while True:
            wait = on_tick()
            if not self.watched and wait is None:
                return  # Nobody is left, and nobody will come.
            for descriptor, _ in self.epoll.poll(-1 if wait is None else wait):
                if descriptor != STDIN:
                    self._bury(descriptor)
                    continue
                data = os.read(STDIN, 65536)
                if not data:
                    return
                for command in commands.feed(data):
                    on_command(command)

    def _bury(self, pidfd: int) -> None:
        self.epoll.unregister(pidfd)
        os.close(pidfd)
        pid = self.watched.pop(pidfd)
        os.close(self.pipes.pop(pid))
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            self.on_crash(self.pids.index(pid))
        emit("process_exited", pid=pid, exit_code=code if code >= 0 else None, signal=-code if code < 0 else None)


def read_spec() -> dict[str, Any]:
    """Return the specification that this process was started with: the JSON of its first argument."""
    spec: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    return spec
