"""`--quick` keeps what starts nothing, `--without` keeps what concerns the hidden programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = {
    "test_effects.py": """
        import os, subprocess, sys
        from pathlib import Path

        import pytest

        def test_pure(): assert 1 + 1 == 2
        def test_failing(): assert 1 + 1 == 3
        def test_popen(): subprocess.run([sys.executable, "-c", ""], check=True)
        def test_fork(): assert os.fork() and os.wait()
        def test_swallowed():
            try: os.system("true")
            except BaseException: pass
        def test_turned_into_a_failure():
            with pytest.raises(OSError): os.system("true")
        def test_control_group(): Path("/sys/fs/cgroup/wslab-choosing/below").mkdir()
        def test_setting(): Path("/proc/sys/net/no_such_setting").write_text("1")
        @pytest.fixture
        def server():
            with subprocess.Popen([sys.executable, "-c", ""]) as process: yield process
        def test_fixture(server): pass
        def test_reads_proc_after_all(): assert Path("/proc/self/stat").read_text()
    """,
    "load/test_other.py": "def test_of_load(): pass",
    "test_optional.py": "def test_firewall(): assert 'no-such-program'",
}


@pytest.fixture
def suite(tmp_path: Path, project_root: Path) -> Path:
    """Return a folder of tests that have the options of ours."""
    shutil.copy(project_root / "tests/conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n", "utf-8")
    for name, text in TESTS.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in text.splitlines()), "utf-8")
    return tmp_path


def outcomes(suite: Path, *options: str) -> dict[str, str]:
    """Return the outcome of each test that ran, by its name."""
    done = run_pytest(suite, *options)
    return {name: outcome.lower() for name, outcome in re.findall(r"::test_(\w+) ([A-Z]+)", done.stdout)}


def run_pytest(suite: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-v", *options]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_quick_skips_each_test_that_starts_a_process_or_changes_the_machine(suite: Path) -> None:
    assert outcomes(suite, "--quick") == {
        **dict.fromkeys(("pure", "reads_proc_after_all", "firewall"), "passed"),
        **dict.fromkeys(("popen", "fork", "swallowed", "turned_into_a_failure", "fixture"), "skipped"),
        **dict.fromkeys(("control_group", "setting"), "skipped"),
        "failing": "failed",
    }
    assert not Path("/sys/fs/cgroup/wslab-choosing").exists()


def test_without_runs_the_modules_that_speak_of_the_programs(suite: Path) -> None:
    assert outcomes(suite, "--without=no-such-program") == {"firewall": "passed"}


def test_without_is_refused_while_a_program_is_found(suite: Path) -> None:
    done = run_pytest(suite, "--without=no-such-program,sh")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stderr.strip().endswith("found here: sh")


@pytest.mark.parametrize("as_root", [True, False])
def test_programs_are_hidden_from_one_command_alone(project_root: Path, as_root: bool) -> None:
    if as_root and os.geteuid() != 0:
        pytest.skip("hiding a program from everything that a command starts takes root")
    if not as_root and os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("setpriv is not installed")
    before = shutil.which("nproc"), shutil.which("seq")
    look = [
        sys.executable,
        "-c",
        "import shutil; print(*map(shutil.which, ['nproc', 'seq', 'no-such-program', 'sort']))",
    ]
    # Root without capabilities cannot make a namespace, so it goes the way of an ordinary user.
    drop = ["setpriv", "--bounding-set=-all", "--"] if not as_root and os.geteuid() == 0 else []
    command = [*drop, project_root / ".ci/without", "nproc,seq,no-such-program", *look]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split()[:3] == ["None"] * 3
    assert done.stdout.split()[3].endswith("/sort")
    assert before == (shutil.which("nproc"), shutil.which("seq"))
