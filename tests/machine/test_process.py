"""What a process asks of the kernel about itself, tried in children so that the test run keeps its own limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from wslab.machine import process


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    shown = run(
        "import resource; from wslab.machine.process import raise_fd_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))\n"
        "print(raise_fd_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert shown == "512 512 512"


def test_a_limit_that_is_raised_already_stays() -> None:
    shown = run(
        "import resource; from wslab.machine.process import raise_fd_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)); print(raise_fd_limit())"
    )
    assert shown == "300"


@pytest.mark.parametrize("granted_before", [(256, 4096), (4096, 4096), (256, -1)])
def test_a_hard_limit_above_nr_open_is_brought_down_to_it(
    granted_before: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = [granted_before]

    def setrlimit(which: int, limits: tuple[int, int]) -> None:
        if limits[1] > 1024:
            raise ValueError("not allowed to raise maximum limit")
        granted.append(limits)

    monkeypatch.setattr(process.resource, "getrlimit", lambda which: granted[-1])
    monkeypatch.setattr(process.resource, "setrlimit", setrlimit)
    monkeypatch.setattr(process, "_nr_open", lambda: 1050)
    assert process.raise_fd_limit() == 1024, "the table of descriptors ends at a multiple of 64"
    assert granted[-1] == (1024, 1024)


def test_a_refused_limit_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise PermissionError("sandbox")

    monkeypatch.setattr(process.resource, "getrlimit", lambda which: (256, 4096))
    monkeypatch.setattr(process.resource, "setrlimit", refuse)
    assert process.raise_fd_limit() == 256


def test_a_load_process_offers_itself_to_the_oom_killer() -> None:
    shown = run(
        "from wslab.machine.process import prefer_as_oom_victim\n"
        "prefer_as_oom_victim(); print(open('/proc/self/oom_score_adj').read())"
    )
    assert shown == "900"


def test_refused_wishes_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(os, "nice", refuse)
    process.prefer_as_oom_victim()
    process.lower_priority(5)


def test_priority_is_lowered_by_the_steps_asked_for() -> None:
    shown = run(
        "import os; from wslab.machine.process import lower_priority\n"
        "before = os.nice(0); lower_priority(3); print(os.nice(0) - before)"
    )
    assert shown == "3"


def test_a_process_is_known_by_pid_and_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    ticks = process.start_ticks(sleeper.pid)
    assert ticks is not None
    assert process.start_ticks(os.getpid()) < ticks + 1
    assert process.alive(sleeper.pid, ticks)
    assert not process.alive(sleeper.pid, ticks - 1)


def test_a_zombie_is_not_alive_and_after_reaping_it_has_no_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    ticks = process.start_ticks(sleeper.pid)
    assert ticks is not None
    sleeper.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert process.start_ticks(sleeper.pid) == ticks
    assert not process.alive(sleeper.pid, ticks)
    sleeper.wait()
    assert process.start_ticks(sleeper.pid) is None
    assert not process.alive(sleeper.pid, ticks)


def test_a_command_with_brackets_and_spaces_does_not_shift_the_fields() -> None:
    shown = run(
        "import os; from wslab.machine.process import alive, start_ticks\n"
        "before = start_ticks(os.getpid()); open('/proc/self/comm', 'w').write('a) Z 1 2 (b')\n"
        "print(start_ticks(os.getpid()) == before and alive(os.getpid(), before))"
    )
    assert shown == "True"


def test_it_imports_next_to_nothing() -> None:
    shown = run(
        "import __future__, os, resource, sys; before = set(sys.modules); import wslab.machine.process\n"
        "print(*sorted(name for name in set(sys.modules) - before if not name.startswith('wslab')))"
    )
    assert shown == ""
