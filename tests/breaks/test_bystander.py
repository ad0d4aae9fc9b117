"""Another process of this machine, while limits are broken: it goes on as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolated import NARROW, needs
from wslab.breaks import run as module
from wslab.breaks.atlas import BreakResult
from wslab.breaks.enclosure import Enclosure
from wslab.breaks.isolation import Isolation
from wslab.breaks.run import run_breaks
from wslab.breaks.trial import Break
from wslab.machine.journal import SETTING, Journal
from wslab.machine.sysctls import find_sysctl

WATCHES = 7000

# Holds watches, and at each line that it reads goes on with everything that a process does: it opens, watches, connects
# and forks, and answers with the first error or `fine`.
BYSTANDER = """
import os, select, socket, sys
COUNT, EPOLLS = int(sys.argv[1]), 7
server = socket.create_server(("127.0.0.1", 0), backlog=128)
files = [os.eventfd(0) for _ in range(COUNT // EPOLLS)]
epolls = [select.epoll() for _ in range(EPOLLS)]
for epoll in epolls:
    for file in files:
        epoll.register(file, select.EPOLLIN)

def go_on():
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
    watched = [os.eventfd(0) for _ in range(50)]
    for file in watched:
        epolls[0].register(file, select.EPOLLIN)
    sockets = []
    for _ in range(50):
        client = socket.create_connection(server.getsockname(), timeout=5)
        sockets += [client, server.accept()[0]]
    children = [os.fork() or os._exit(0) for _ in range(10)]
    for pid in children:
        os.waitpid(pid, 0)
    for file in watched + opened:
        os.close(file)
    for end in sockets:
        end.close()

print("ready", flush=True)
for _ in sys.stdin:
    try:
        go_on()
        print("fine", flush=True)
    except OSError as problem:
        print(repr(problem), flush=True)
"""


class Bystander:
    """A process that holds epoll watches, and does what is asked of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def go_on(self) -> str:
        """Have it open, watch, connect and fork; return `fine`, or what went wrong."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("go on\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@pytest.fixture
def bystander() -> Iterator[Bystander]:
    command = [sys.executable, "-c", BYSTANDER, str(WATCHES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Bystander(process)
        process.kill()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the journal apart from that of the person who runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@needs(NARROW)
@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to hold the watches of the one user that has many")
def test_nobody_notices_the_breaks_that_run_unless_they_are_named(
    bystander: Bystander, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: dict[str, str] = {}
    written: set[str] = set()

    def enter_each(item: Break, folder: Path, skipped: str = "") -> BreakResult:
        if not skipped and item.broken:
            with Isolation(item.broken.enclosure or Enclosure()):
                answers[item.name] = bystander.go_on()
                written.update({step.name for step in Journal().steps() if step.kind == SETTING})
        about = {name: getattr(item, name) for name in ("name", "limit", "side", "title", "remedy")}
        return BreakResult(**about, skipped=skipped)

    monkeypatch.setattr(module, "run_break", enter_each)
    results = run_breaks("all", str(tmp_path)).results
    assert (set(answers.values()), written) == ({"fine"}, set())
    assert len(answers) >= 12
    waiting = {result.name for result in results if "runs when it is named" in result.skipped}
    assert waiting >= {"epoll_watches", "conntrack", "nr_open"}


@needs(NARROW)
def test_epoll_watches_are_not_lowered_below_those_of_a_user(bystander: Bystander, tmp_path: Path) -> None:
    before = find_sysctl("fs.epoll.max_user_watches")
    (result,) = run_breaks("epoll_watches", str(tmp_path)).results
    # Where others hold very many, it is refused because they are too many to count.
    assert "epoll watches" in result.skipped
    assert find_sysctl("fs.epoll.max_user_watches") == before
    assert bystander.go_on() == "fine"
