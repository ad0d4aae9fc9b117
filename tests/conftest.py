"""What every test needs, and the options that choose tests: `--quick`, `--without` and `--browser`.

Figures never open a window, state goes to a folder of the tests' own, and nothing depends on how they were started.

The first two choose by what a test does, so that there is no list to keep:

1. `--quick` leaves out tests/load, which is all about processes, and refuses every new process, control group and
   kernel setting. A test that asks for one is skipped at that point, so what passes has started no process, namespace
   or Jupyter kernel, and has changed nothing of the machine.
2. `--without=nft,ip` is for a machine where these programs are hidden. It runs the test modules that have to do with
   them (see `_OPTIONAL_PARTS`), and refuses to start when one of the programs can still be found.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# Set before matplotlib is imported, and inherited by the notebooks that tests execute.
os.environ["MPLBACKEND"] = "agg"
# What runs elsewhere on this machine, and what it has to put back, is no business of the tests.
_STATE = tempfile.TemporaryDirectory(prefix="wslab-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name

_TESTS = Path(__file__).resolve().parent
_STARTS_A_PROCESS = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"}

# The parts of the package that call an optional program, as test modules speak of them. A module too many costs a
# second, one too few hides a test that fails on a bare machine.
_OPTIONAL_PARTS = ("isolated", "breaks", "enclosure", "netns")

# Whether the running test has asked for a process (or the like) that `--quick` refused.
_refused = False


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("wslab")
    group.addoption("--browser", action="store_true", help="collect the tests of the notebooks in a browser, too")
    group.addoption("--quick", action="store_true", help="skip each test that starts a process")
    group.addoption(
        "--without",
        metavar="PROGRAMS",
        default="",
        help="run the tests of optional parts only; these programs, separated by commas, must not be found",
    )


def pytest_configure(config: pytest.Config) -> None:
    """With `--quick`, refuse processes; with `--without`, make sure that the programs are hidden."""
    if config.getoption("--quick"):
        _refuse_effects()
    found = [program for program in _hidden(config) if shutil.which(program)]
    if found:
        raise pytest.UsageError(f"--without: still found here: {', '.join(found)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep, with `--without`, the tests of modules that have to do with optional programs."""
    programs = _hidden(config)
    if not programs:
        return
    concerned = re.compile(rf"\b({'|'.join(map(re.escape, (*programs, *_OPTIONAL_PARTS)))})\b")
    chosen = {path for path in {item.path for item in items} if concerned.search(path.read_text(encoding="utf-8"))}
    config.hook.pytest_deselected(items=[item for item in items if item.path not in chosen])
    items[:] = [item for item in items if item.path in chosen]


def _hidden(config: pytest.Config) -> list[str]:
    return [program for program in config.getoption("--without").split(",") if program]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what takes a browser, which `make browser-test` runs, and what `--quick` would skip half-way.

    That is the room that is all about processes.
    """
    browser = collection_path == _TESTS / "browser" and not config.getoption("--browser")
    return True if browser or (config.getoption("--quick") and collection_path == _TESTS / "load") else None


def _refuse_effects() -> None:
    """End each test that starts a process or changes the machine, at the point where it does."""
    # Popen is stopped before it has opened its pipes, which would be reported as not closed in some later test.
    subprocess.Popen.__init__ = lambda self, *args, **kwargs: _refuse()  # type: ignore[method-assign]
    # An audit hook sees all other ways, whichever library takes them. It cannot be removed again, nor need it be.
    sys.addaudithook(lambda event, arguments: _refuse() if _has_effect(event, arguments) else None)


def _has_effect(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "os.mkdir":
        return str(arguments[0]).startswith("/sys/fs/cgroup/")
    if event == "open":
        path, _mode, flags = arguments
        return str(path).startswith(("/proc/sys/", "/sys/")) and bool(flags & os.O_ACCMODE)
    return event in _STARTS_A_PROCESS


def _refuse() -> None:
    global _refused
    _refused = True
    # Not an Exception, so that the code under test does not take it for an error to handle.
    pytest.skip("not in the quick tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a test that was refused something as skipped, whatever the code under test made of the refusal."""
    global _refused
    report = yield
    if _refused:
        report.outcome = "skipped"
        report.longrepr = (__file__, 0, "Skipped: starts a process or changes the machine, so it is not a quick test")
    if report.when == "teardown":
        _refused = False
    return report


@pytest.fixture(scope="session")
def project_root() -> Path:
    """Return the folder of the repository."""
    return _TESTS.parent


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give a test a state folder of its own, and check that no process is registered there at its end."""
    from wslab.lab import registry

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield
    assert registry.list_processes() == []
