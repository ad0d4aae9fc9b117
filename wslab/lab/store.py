"""The run folder on disk: where it is, how it is created, how its files are written and read back.

1. `run.json` is replaced as a whole and on the disk before it counts, so a reader finds the old one or the new one.
2. The other files grow line by line. A last line without its line end was torn by a death and is left out.
3. A manifest that says `running` while its caller is gone is told as `crashed`; the file itself stays as it was.
4. Whether a data folder can be written is asked before anything is started, and the space of the manifest is taken
   then: a disk that becomes full during the run cannot keep it from saying how it ended.

The data folder is the one that was asked for, else `WSLAB_DATA_DIR`, else `data/` of the project, else `data/` of the
current folder. A relative path counts from the project, because the current folder is an accident in a notebook.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wslab.core.quantities import BadInput
from wslab.core.records import CRASHED, LATENCY_COLUMNS, RUNNING, SAMPLE_COLUMNS, Column, Value, from_cells
from wslab.machine.line_file import why_not_written
from wslab.machine.process import alive

DATA_DIR_VARIABLE = "WSLAB_DATA_DIR"
MANIFEST = "run.json"
SAMPLES = "samples.csv"
LATENCY = "latency.csv"
EVENTS = "events.jsonl"
RESERVE = ".run.json.reserve"
RESERVED_BYTES = 256 << 10  # a manifest takes about 16 KB; with many findings some more


class NotRecorded(OSError):
    """A file of the run cannot be written; the text names the file and says why."""

    def __str__(self) -> str:
        """Return both in one line."""
        return why_not_written(self)


def project_folder() -> Path | None:
    """Return the project that the package runs from, or that the current folder is in; None when there is none."""
    here = Path.cwd()
    for folder in (Path(__file__).resolve().parents[2], here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    return None


def data_folder(data_dir: str | Path = "") -> Path:
    """Return the data folder, absolute; it need not exist.

    Args:
        data_dir: what was asked for; empty for the default.
    """
    asked = str(data_dir) or os.environ.get(DATA_DIR_VARIABLE) or "data"
    return ((project_folder() or Path.cwd()) / Path(asked).expanduser()).resolve()


def reference_folder() -> Path:
    """Return the folder of the runs that come with the project."""
    return (project_folder() or Path.cwd()) / "data" / "reference"


def check_writable(data_dir: Path) -> None:
    """Create the folder of the runs and write into it once.

    Raises:
        BadInput: that is not possible; the text names the folder and why.
    """
    try:
        (data_dir / "runs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir / "runs") as file:
            file.write(b"wslab")
    except OSError as problem:
        raise BadInput(f"data_dir={data_dir} cannot be written: {problem.strerror}") from problem


def create_run(data_dir: Path, stage_name: str) -> Path:
    """Create the folder of a new run, named `<UTC>-<stage>-<hex>`, and return it.

    Space for its manifest is set aside in it, so that a run can say how it ended also when the disk has become full.

    Raises:
        BadInput: it cannot be created, or there is not even the space for a manifest.
    """
    while True:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        run_dir = data_dir / "runs" / f"{stamp}-{stage_name}-{secrets.token_hex(2)}"
        try:
            run_dir.mkdir(parents=True)
            (run_dir / "logs").mkdir()
            _set_aside(run_dir, RESERVED_BYTES)
        except FileExistsError:
            continue
        except OSError as problem:
            shutil.rmtree(run_dir, ignore_errors=True)
            raise BadInput(f"data_dir={data_dir} cannot take a run: {problem.strerror}") from problem
        return run_dir


def _set_aside(run_dir: Path, size: int) -> None:
    """Take an inode and `size` bytes for the next manifest.

    Raises:
        OSError: there is not enough.
    """
    descriptor = os.open(run_dir / RESERVE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def utc_now() -> str:
    """Return the time of day as manifests have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_manifest(run_dir: Path, manifest: Mapping[str, Any]) -> None:
    """Replace `run.json`; after a crash at any moment there is the old one or the new one.

    The new one is written into the file that `create_run` has set aside, which needs neither space nor an inode; then
    another one is set aside.

    Raises:
        NotRecorded: it cannot be written; the old one is still there.
    """
    data = json.dumps(manifest, indent=2, default=str).encode() + b"\n"
    reserve = run_dir / RESERVE
    has_reserve = reserve.exists()
    try:
        descriptor = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            left = data
            while left:
                left = left[os.write(descriptor, left) :]
            os.ftruncate(descriptor, len(data))
            os.fsync(descriptor)
            os.fchmod(descriptor, 0o644)
        finally:
            os.close(descriptor)
        os.replace(reserve, run_dir / MANIFEST)
    except OSError as problem:
        if not has_reserve:
            release(run_dir)
        raise NotRecorded(problem.errno, problem.strerror, str(run_dir / MANIFEST)) from problem
    for parts in (1, 2, 4, 8) if has_reserve else ():
        try:
            _set_aside(run_dir, RESERVED_BYTES // parts)
            break
        except OSError:
            pass  # On a full disk there is what the last manifest has left of it.


def release(run_dir: Path) -> None:
    """Remove the file that was set aside for the manifest: the run is over."""
    try:
        (run_dir / RESERVE).unlink(missing_ok=True)
    except OSError:
        pass  # A disk that was full may be read-only by now.


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """Return the manifest of a run, with the outcome that it has by now.

    Raises:
        FileNotFoundError: the folder holds no `run.json`.
    """
    manifest: dict[str, Any] = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
    caller = manifest.get("caller") or {}
    if manifest.get("outcome") == RUNNING and not alive(caller.get("pid", 0), caller.get("start_ticks", 0)):
        gone = [event["elapsed_seconds"] for event in read_events(run_dir) if event.get("event") == "caller_gone"]
        when = f" {gone[-1]:.1f} s after the start" if gone else ""
        manifest |= {"outcome": CRASHED, "reason": f"the calling process died{when}"}
    return manifest


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Return everything that happened, in order."""
    return [json.loads(line) for line in _whole_lines(run_dir / EVENTS) if line.strip()]


def read_samples(run_dir: Path) -> list[dict[str, Value]]:
    """Return the samples, one mapping a second with every documented column."""
    return _read_table(run_dir / SAMPLES, SAMPLE_COLUMNS)


def read_latency(run_dir: Path) -> list[dict[str, Value]]:
    """Return the rows of the latency histograms."""
    return _read_table(run_dir / LATENCY, LATENCY_COLUMNS)


def _read_table(path: Path, columns: Sequence[Column]) -> list[dict[str, Value]]:
    names, *rows = csv.reader(_whole_lines(path) or [""])
    return [from_cells(row, names, columns) for row in rows if row]


def _whole_lines(path: Path) -> list[str]:
    """Return the lines of a file that were written to their end; none when there is no file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return text[: text.rfind("\n") + 1].splitlines()
