"""A server that is somebody else's program: started from a command line, watched from outside, ended with all it began.

Started by the supervisor as `python -m wslab.load.servers.command SPEC_JSON`; it speaks the same lines as a server of
ours and needs no help from the program.

1. The program gets a session of its own and standard input that is empty. Its tree is everything below this process:
   a program that forks and lets its parent end stays below, because orphans are given to this process by the kernel.
2. It is ready when a real handshake succeeds. A program that ends before, or does not get ready in time, is reported
   in one `server_failed` event: the limit, a sentence, and the last lines that it printed.
3. After that its end is reported as `process_exited`, once nobody of its tree listens any more. Processes that come
   and go meanwhile are not reported as dead; new ones are announced with `process_started`.
4. Standard input is the lifeline: at its end the tree gets SIGTERM, and after `TERM_SECONDS` SIGKILL until none is
   left. The kernel kills the first process when this one dies in any other way.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from wslab.core.servers import PLACEHOLDERS, fill
from wslab.load.prefork import NICENESS, STDIN, emit, read_spec
from wslab.load.servers.output import Output
from wslab.load.servers.readiness import Probe
from wslab.machine.enter import become
from wslab.machine.process import adopt_orphans, die_with_parent, lower_priority, prefer_as_oom_victim, raise_fd_limit
from wslab.machine.trees import descendants, listeners, owners, server_limits

READY_SECONDS = 30.0
TICK_SECONDS = 0.5
# The server may notice a little later than the probe that their connection is over; its descriptors are counted then.
PARTED_SECONDS = 0.1
TERM_SECONDS = 2.0
KILL_SECONDS = 5.0
_READ_BYTES = 1 << 18


class Command:
    """A program under watch.

    Args:
        spec: `command_line`, and as needed `host` (127.0.0.1), `port` (0 = any free one), `shards`, `entry` (see
            `Probe`), `folder` and `cwd` (folders), `environment` (names to values, null removes one), `fd_limit` (soft
            limit of descriptors that it begins with; null is as many as it may have), `ready_seconds`, `log` (file for
            what it prints), `uid` (user to run as).
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.host = spec.get("host", "127.0.0.1")
        self.port = int(spec.get("port") or free_port(self.host))
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"ws://{shown}:{self.port}"
        self.output = Output(spec.get("log") or "")
        self.probe = Probe(self.url, spec.get("entry"))
        self.known: set[int] = set()  # processes of the tree that were announced
        self.status: dict[int, int] = {}  # how those ended that ended here: pid -> wait status
        self.ready = self.over = False
        self.deadline = monotonic() + float(spec.get("ready_seconds") or READY_SECONDS)
        self.pid = 0
        self.pipe = self.pidfd = -1

    def start(self) -> None:
        """Start the program.

        Raises:
            OSError: it cannot be started.
        """
        spec = self.spec
        folder = str(Path(__file__).parent / spec["folder"]) if spec.get("folder") else os.getcwd()
        values = dict(zip(PLACEHOLDERS, (self.host, self.port, spec.get("shards", 1), folder), strict=True))
        environment = {**os.environ, "HOST": self.host, "PORT": str(self.port)}
        for name, value in (spec.get("environment") or {}).items():
            environment.pop(name, None)
            environment |= {} if value is None else {name: value}
        reader, writer = os.pipe()
        try:
            # The pipe is this process's only one; what the program starts in the background may keep it open.
            program = subprocess.Popen(
                fill(spec["command_line"], values),
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                cwd=spec.get("cwd") or folder,
                env=environment,
                start_new_session=True,
                preexec_fn=partial(_settle, os.getpid(), spec.get("fd_limit"), spec.get("uid")),
            )
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        self.pid, self.pipe, self.pidfd = program.pid, reader, os.pidfd_open(program.pid)
        program.returncode = 0  # It is waited for here, together with the orphans.

    def run(self) -> int:
        """Watch the program until standard input ends, and end it then."""
        os.set_blocking(STDIN, False)
        next_look = 0.0
        while True:
            poll = select.poll()
            poll.register(STDIN, select.POLLIN)
            for fd in (self.pipe, self.pidfd):
                if fd >= 0:
                    poll.register(fd, select.POLLIN)
            probing = not (self.ready or self.over or self.probe.ready)
            if probing:
                self.probe.register(poll)
            wait = min(max(0.0, next_look - monotonic()), self.probe.wait_seconds() if probing else TICK_SECONDS)
            found = {fd for fd, _ in poll.poll(wait * 1000 + 1)}
            if self.pipe in found:
                self.read_output()
            # The one command, `drain`, asks nothing of a program that is not ours.
            if STDIN in found and not os.read(STDIN, 1 << 16):
                break
            if probing:
                self.probe.go_on()
                next_look = monotonic() + PARTED_SECONDS if self.probe.ready else next_look
            if self.pidfd in found:
                os.close(self.pidfd)
                self.pidfd, next_look = -1, 0.0
            if monotonic() >= next_look:
                next_look = monotonic() + TICK_SECONDS
                self.look()
        self.end()
        return 0

    def read_output(self) -> None:
        """Keep what was printed."""
        try:
            data = os.read(self.pipe, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self.output.take(data)
        else:
            os.close(self.pipe)
            self.pipe = -1

    def look(self) -> None:
        """See who is there, and report what has changed."""
        self.reap()
        self.output.write_end()
        if self.over:
            return
        tree = descendants(os.getpid())
        if not self.ready and self.probe.ready and self.listens(tree):
            self.ready = True
            self.known = set(tree)
            emit("ready", url=self.url, pids=[os.getpid(), *tree], limits=server_limits(tree, self.port))
        elif not self.ready:
            self.look_for_failure(tree)
        elif not tree or (self.pid in self.status and not self.listens(tree)):
            self.over = True
            emit("process_exited", **self.how_it_ended(), last_lines=self.output.last_lines())
        else:
            for pid in set(tree) - self.known:
                self.known.add(pid)
                emit("process_started", pid=pid)

    def listens(self, tree: list[int]) -> bool:
        """Return whether a process of the tree listens on the port, as far as that can be seen."""
        inodes = [one.inode for one in listeners(self.port)]
        return bool(owners(inodes, tree)) or (bool(inodes) and os.geteuid() != 0)

    def look_for_failure(self, tree: list[int]) -> None:
        """Report a program that has ended, or is not ready in time."""
        if not tree:
            how = self.how_it_ended()
            ended = f"signal {how['signal']}" if how["signal"] is not None else f"exit code {how['exit_code']}"
            self.fail("server_died", f"the server ended before it was ready ({ended})", **how)
        elif self.probe.final:
            self.fail(self.probe.limit, self.probe.why)
        elif monotonic() >= self.deadline:
            seconds = float(self.spec.get("ready_seconds") or READY_SECONDS)
            self.fail(self.probe.limit, f"{self.probe.why}, {seconds:g} s after its start{self.elsewhere(tree)}")

    def elsewhere(self, tree: list[int]) -> str:
        """Return where a server listens that does not listen where it was asked to."""
        if self.probe.limit != "server_unreachable":
            return ""
        places = [one for one in listeners() if owners([one.inode], tree)]
        if not places:
            return "; none of its processes listens on any port"
        shown = ", ".join(f"{one.address} port {one.port}" for one in places)
        return f"; it listens on {shown}: use {{port}} or PORT in its command, or --server-port {places[0].port}"

    def fail(self, limit: str, message: str, **how: Any) -> None:
        """Report a server that cannot be tested, and end it."""
        self.over = True
        self.read_rest()
        last = self.output.last_lines()
        emit("server_failed", limit=limit, message=message, last_lines=last, **{"pid": self.pid, **how})
        self.end_tree()

    def read_rest(self) -> None:
        """Read what a program that has ended has left in the pipe."""
        size = -1
        while self.pipe >= 0 and size != self.output.size:
            size = self.output.size
            self.read_output()

    def how_it_ended(self) -> dict[str, Any]:
        """Return pid, exit code and signal of the process that ended last and not well, or else of the first one."""
        self.read_rest()
        bad = [pid for pid, status in self.status.items() if status]
        pid = bad[-1] if bad else self.pid
        code = os.waitstatus_to_exitcode(self.status.get(pid, 0))
        return {"pid": pid, "exit_code": code if code >= 0 else None, "signal": -code if code < 0 else None}

    def reap(self) -> None:
        """Collect those that have ended: the program, and orphans of its tree."""
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                self.status[found[0]] = found[1]
        except ChildProcessError:
            pass

    def end(self) -> None:
        """End the tree, and the log."""
        self.probe.close()
        self.end_tree()
        self.read_rest()
        self.output.write_end()

    def end_tree(self) -> None:
        """End every process of the tree: SIGTERM, and SIGKILL for what is left and what it starts meanwhile."""
        for number, seconds in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            deadline = monotonic() + seconds
            told: set[int] = set()
            while monotonic() < deadline:
                self.reap()
                tree = set(descendants(os.getpid()))
                if not tree:
                    return
                for pid in tree - told if number == signal.SIGTERM else tree:
                    try:
                        os.kill(pid, number)
                    except OSError:
                        pass
                told |= tree
                if self.pipe >= 0:  # A program that prints its farewell must not block.
                    self.read_output()
                select.select([], [], [], 0.02)


def free_port(host: str) -> int:
    """Return a port that nothing listens on at the moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _settle(parent: int, fd_limit: int | None, uid: int | None) -> None:
    """Prepare the program's process before its exec; this process has one thread."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if fd_limit is None:
        raise_fd_limit()
    else:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        soft = fd_limit if hard == resource.RLIM_INFINITY else min(fd_limit, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    prefer_as_oom_victim()
    lower_priority(NICENESS)
    if uid is not None:
        become(uid)
    die_with_parent(parent)  # Last: the kernel forgets it when the user changes.


def main() -> int:
    """Run as a program; the exit status is 0 unless the program could not be started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    command = Command(read_spec())
    try:
        command.start()
    except (OSError, subprocess.SubprocessError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        name = getattr(problem, "filename", None) or command.spec["command_line"]
        message = f"the server cannot be started: {name}: {why}"
        emit("server_failed", limit="server_died", message=message, last_lines="")
        command.over = True
    return command.run()


if __name__ == "__main__":
    sys.exit(main())
