"""The files around the package agree with one another, and setting up fails with one clear line when it must."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DECLARED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]

# Stands in for a Python: what it is asked to run is run after the preamble.
FAKE_PYTHON = """#!/bin/sh
exec {python} -c 'import sys; {preamble}; exec(sys.argv[2])' "$@"
"""
REAL = "pass"
TOO_OLD = "sys.version_info = (3, 10, 9)"
WITHOUT_VENV = 'sys.modules["ensurepip"] = None'
SHIM_WITH_NOTHING_BEHIND_IT = "sys.exit(127)"


def lock_text() -> str:
    return (ROOT / "requirements.lock").read_text("utf-8")


def locked_versions() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock_text(), re.MULTILINE))


def test_environment_yml_names_the_same_packages_and_bounds_as_pyproject() -> None:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    conda = {entry for entry in entries if isinstance(entry, str)}
    assert conda == {*DECLARED, f"python{PROJECT['requires-python']}", "pip"}
    assert [entry for entry in entries if isinstance(entry, dict)] == [{"pip": ["--editable ."]}]


@pytest.mark.parametrize("declared", DECLARED)
def test_the_lock_holds_what_pyproject_declares_within_its_bounds(declared: str) -> None:
    requirement = Requirement(declared)
    assert requirement.specifier.contains(locked_versions()[canonicalize_name(requirement.name)])


def test_the_lock_pins_each_package_by_hash_and_names_no_index() -> None:
    entries = re.findall(r"^[^#\s].*(?:\n    --hash.*)*", lock_text(), re.MULTILINE)
    assert len(entries) == len(locked_versions())
    assert all(re.match(r"[a-z0-9-]+==", entry) and "--hash=sha256:" in entry for entry in entries)
    assert "://" not in lock_text()


def test_the_changelog_describes_this_version() -> None:
    released = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert released[0] == PROJECT["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel once, and return its path."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_package_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    ignored = {"__pycache__", "node_modules", ".ipynb_checkpoints"}
    files = [path for path in (ROOT / "wslab").rglob("*") if path.is_file() and ignored.isdisjoint(path.parts)]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= names
    assert {name.split("/")[0] for name in names} == {"wslab", f"wslab-{PROJECT['version']}.dist-info"}
    assert "wslab = wslab.cli:main" in entry_points


def test_the_wheel_brings_the_notebooks_and_finds_them_outside_a_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "from wslab.view.workbook import notebook_template as t; print(t(), t('20-breaks.ipynb'), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    notebooks = tmp_path / "installed" / "wslab" / "notebooks"
    assert done.stdout.split() == [str(notebooks / "10-stage.ipynb"), str(notebooks / "20-breaks.ipynb")]
    assert {path.name for path in notebooks.iterdir()} == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with what `make setup` reads, and nothing set up in it."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def set_up(checkout: Path, stamp: str | None = "{checkout}") -> Path:
    """Make the folder look as `make setup` leaves it, without the packages, and return its environment."""
    environment = checkout / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    if stamp:
        (environment / ".installed").write_text(stamp.format(checkout=checkout) + "\n", "utf-8")
    return environment


def fake_python(folder: Path, name: str, preamble: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(FAKE_PYTHON.format(python=sys.executable, preamble=preamble), "utf-8")
    path.chmod(0o755)
    return path


def make(folder: Path, *arguments: str, path_before: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run make in the folder, free of what an outer make has put into the environment."""
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON"}
    environment = {key: value for key, value in os.environ.items() if key not in outer}
    if path_before:
        environment["PATH"] = f"{path_before}:{environment['PATH']}"
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line said before make's own, and check that make failed and made no environment."""
    assert done.returncode == 2
    assert done.stdout == ""
    line, make_says = done.stderr.splitlines()
    assert make_says.startswith("make: ***")
    return line


def test_setup_refuses_another_system_than_linux(checkout: Path) -> None:
    line = complaint(make(checkout, "setup", "SYSTEM=Darwin"))
    assert line == "wslab runs on Linux only, for it measures the limits of the Linux kernel; this is Darwin."


def test_setup_refuses_a_python_that_is_too_old(checkout: Path) -> None:
    old = fake_python(checkout / "bin", "python3", TOO_OLD)
    line = complaint(make(checkout, "setup", f"PYTHON={old}"))
    assert line.startswith(f"wslab needs Python 3.11 or newer, which {old} is not; name one with: make setup PYTHON=")
    assert not (checkout / ".venv").exists()


def test_setup_says_so_when_no_python_is_new_enough(checkout: Path) -> None:
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        fake_python(checkout / "bin", name, TOO_OLD)
    line = complaint(make(checkout, "setup", path_before=checkout / "bin"))
    assert line.startswith("wslab needs Python 3.11 or newer; name one with: make setup PYTHON=")


def test_setup_names_the_package_when_python_cannot_make_an_environment(checkout: Path) -> None:
    bare = fake_python(checkout / "bin", "python3", WITHOUT_VENV)
    line = complaint(make(checkout, "setup", f"PYTHON={bare}"))
    assert line.startswith(f"{bare} cannot make a virtual environment")
    assert line.endswith("apt install python3-venv")
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3.13": REAL, "python3.12": REAL}, "python3.13"),
        ({"python3.13": SHIM_WITH_NOTHING_BEHIND_IT, "python3.12": REAL}, "python3.12"),
        ({"python3.13": WITHOUT_VENV, "python3.12": REAL}, "python3.12"),
        ({"python3.13": TOO_OLD, "python3.12": TOO_OLD, "python3.11": TOO_OLD, "python3": REAL}, "python3"),
        ({"python3.13": TOO_OLD, "python3.12": WITHOUT_VENV, "python3.11": TOO_OLD, "python3": TOO_OLD}, "python3.12"),
    ],
)
def test_the_newest_python_that_works_is_chosen(checkout: Path, pythons: dict[str, str], chosen: str) -> None:
    for name, preamble in pythons.items():
        fake_python(checkout / "bin", name, preamble)
    done = make(checkout, "--eval=show: ; @echo $(PYTHON)", "show", path_before=checkout / "bin")
    assert done.stdout.strip() == chosen


@pytest.mark.parametrize(
    ("stamp", "changed", "works_again"),
    [
        ("{checkout}", None, False),
        ("{checkout}", "requirements.lock", True),
        ("{checkout}", "pyproject.toml", True),
        ("/elsewhere", None, True),
        (None, None, True),
    ],
    ids=["nothing changed", "lock changed", "pyproject changed", "folder moved", "never set up"],
)
def test_setup_is_done_again_only_when_something_changed(
    checkout: Path, stamp: str | None, changed: str | None, works_again: bool
) -> None:
    set_up(checkout, stamp)
    if changed:
        future = (checkout / ".venv" / ".installed").stat().st_mtime + 60
        os.utime(checkout / changed, (future, future))
    done = make(checkout, "setup", "SYSTEM=Nowhere")
    assert (done.returncode != 0) is works_again


def test_make_alone_lists_the_targets(checkout: Path) -> None:
    done = make(checkout)
    listed = re.findall(r"^  make (\w+) ", done.stdout, re.MULTILINE)
    assert listed == ["help", "setup", "run", "test", "quick", "screenshot", "lab", "bench", "lint", "lock", "clean"]


@pytest.mark.parametrize("status", [0, 1])
def test_clean_stops_leftovers_first_and_keeps_the_recorded_runs(checkout: Path, status: int) -> None:
    run = checkout / "data" / "runs" / "one" / "run.json"
    run.parent.mkdir(parents=True)
    run.touch()
    command = set_up(checkout) / "bin" / "wslab"
    command.write_text(f'#!/bin/sh\necho "$@" >called\nexit {status}\n', "utf-8")
    command.chmod(0o755)
    assert make(checkout, "clean").returncode == 0
    assert (checkout / "called").read_text("utf-8") == "clean\n"
    assert run.exists()
    assert not (checkout / ".venv").exists()


def test_clean_works_where_nothing_was_set_up(checkout: Path) -> None:
    done = make(checkout, "clean")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("status", "make_status"), [(0, 0), (1, 0), (2, 2), (3, 2)])
def test_run_names_the_report_and_takes_a_broken_limit_for_a_result(
    checkout: Path, status: int, make_status: int
) -> None:
    command = set_up(checkout) / "bin" / "wslab"
    command.write_text(f'#!/bin/sh\necho "$@"\nmkdir data\ntouch data/report.html\nexit {status}\n', "utf-8")
    command.chmod(0o755)
    done = make(checkout, "run", "STAGES=20,40")
    assert done.returncode == make_status
    report = [f"The report: {checkout}/data/report.html"] if make_status == 0 else []
    assert done.stdout.splitlines() == ["sweep --stages 20,40", *report]
