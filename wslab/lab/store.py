"""The run folder on disk: where it is, how it is created, how its files are written and read back.

1. `run.json` is replaced as a whole once the new one is on the disk, so a reader finds the old one or the new one.
2. The other files grow line by line and may be read at any moment. A last line without its line end was cut off by
   the death of its writer; it is left out, as is a line that is not an event or not a row of its table.
3. A damaged manifest is refused with one line that names it.
4. A manifest that says `running` while its caller is gone is read as `crashed`; the file itself is not changed.
5. Whether a data folder can be written is checked before anything is started, and the space of the manifest is
   reserved then: a disk that becomes full during the run cannot keep it from saying how it ended.

The data folder is the one that was asked for, else `WSLAB_DATA_DIR`, else `data/` of the project, else `data/` of the
current folder. A relative path is relative to the project, because the current folder of a notebook depends on how it
was started.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from wslab.core.quantities import BadInput, did_you_mean, refuse
from wslab.core.records import CRASHED, LATENCY_COLUMNS, RUNNING, SAMPLE_COLUMNS, Column, Value, from_cells, header
from wslab.machine.line_file import why_not_written
from wslab.machine.process import alive

DATA_DIR_VARIABLE = "WSLAB_DATA_DIR"
MANIFEST = "run.json"
# 2: the plan is stored whole, as `plan`, and the limits are those of `Host`. Folders of version 1 still load.
SCHEMA_VERSION = 2
LATEST = "latest"  # stands for the id of the newest run
SAMPLES = "samples.csv"
LATENCY = "latency.csv"
EVENTS = "events.jsonl"
# The type of each part of a manifest that readers rely on, where it is present; `[]` stands for each item of a list.
MANIFEST_KINDS: dict[str, type | UnionType] = {
    "schema_version": int,
    **dict.fromkeys(("run_id", "reason", "created_at"), str),
    **dict.fromkeys(("stage", "stage.asked", "stage.effective", "host", "limits", "caller", "summary"), dict),
    **dict.fromkeys(("caller.pid", "caller.start_ticks"), int),
    **dict.fromkeys(("stage.asked.connections", "stage.effective.connections"), int),
    **dict.fromkeys(("host.cpu_count", "host.memory_total_bytes"), int),
    **dict.fromkeys(("limits.cpu_count", "limits.memory_total_bytes"), int),
    **dict.fromkeys(("findings", "preflight", "phases", "summary.disturbed_by"), list),
    **dict.fromkeys(("findings.[]", "preflight.[]", "phases.[]", "summary.disturbed_by.[]"), dict),
    **dict.fromkeys(("findings.[].limit", "findings.[].side", "phases.[].name"), str),
    "findings.[].certainty": str,
    "findings.[].ruled_out": list,
    **dict.fromkeys(("findings.[].at_connections", "preflight.[].ceiling_connections"), int | float),
    **dict.fromkeys(("phases.[].started_seconds", "phases.[].ended_seconds"), int | float),
}

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

    Raises:
        BadInput: it is no path.
    """
    if not isinstance(data_dir, str | Path):
        raise refuse("data_dir", data_dir, "the path of a folder")
    asked = str(data_dir) or os.environ.get(DATA_DIR_VARIABLE) or "data"
    return ((project_folder() or Path.cwd()) / Path(asked).expanduser()).resolve()


def runs_folder(data_dir: str | Path = "") -> Path:
    """Return the folder of the recorded runs; it need not exist.

    Args:
        data_dir: the data folder that was asked for; empty for the default.

    Raises:
        BadInput: the data folder is a file, or no path at all.
    """
    folder = data_folder(data_dir)
    if folder.is_file():
        raise BadInput(f"data_dir={data_dir or folder} is a file, and no folder of recorded runs")
    return folder / "runs"


class NoSuchRun(BadInput, FileNotFoundError):
    """No recorded run has the name that was asked for, or more than one has."""


def run_folders(data_dir: str | Path = "") -> list[Path]:
    """Return the folders of recorded runs, newest last; then the reference runs, unless a data folder was named.

    Args:
        data_dir: the data folder that was asked for; empty for the default.
    """
    places = [runs_folder(data_dir), *([] if data_dir else [reference_folder()])]
    manifests = [path for place in places for path in sorted(place.glob(f"*/{MANIFEST}"))]
    return [path.parent for path in manifests if not path.parent.name.startswith(".")]


def find_run(run: str | Path, data_dir: str | Path = "") -> Path:
    """Return the folder of a run.

    Args:
        run: its folder, which counts from the current folder or from the project; its `run_id`, the beginning of that,
            or `latest`.
        data_dir: the data folder; empty for the default.

    Raises:
        NoSuchRun: none has this name, or more than one begins so; the text suggests the nearest.
        BadInput: it is no text and no path.
    """
    if not isinstance(run, str | Path):
        raise refuse("run", run, "a run, its id or the beginning of that, latest, or its folder")
    for folder in (Path(run), (project_folder() or Path.cwd()) / run):
        if (folder / MANIFEST).is_file() or Path(run).is_absolute():
            return folder
    folders, asked = run_folders(data_dir), str(run)
    if asked == LATEST and (newest := newest_run(folders)):
        return newest
    found = [folder for folder in folders if folder.name.startswith(asked)] if asked else []
    exact = [folder for folder in found if folder.name == asked]
    if len(exact or found) == 1:
        return (exact or found)[0]
    names = [folder.name for folder in found]
    if names:
        these = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise NoSuchRun(f"{len(names)} recorded runs begin with {asked}: {these}")
    hint = did_you_mean(asked, [*(folder.name for folder in folders), LATEST]) or "`wslab runs` lists them"
    raise NoSuchRun(f"no recorded runs begin with {asked}: {hint}")


def newest_run(folders: Sequence[Path]) -> Path | None:
    """Return the newest of some run folders, a reference run only where there is no other; None when there is none."""
    return max(folders, key=lambda folder: (folder.parent.name == "runs", folder.name), default=None)


def run_created(run_dir: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first event of a run for those who watch it.

    Args:
        run_dir: its folder.
        asked: the parameters of its stage.
    """
    wanted = {key: asked.get(key) for key in ("connections", "hold_seconds")}
    return {"event": "run_created", "run_dir": str(run_dir), **wanted}


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

    Space for its manifest is reserved in it, so that a run can record how it ended even when the disk is full.

    Raises:
        BadInput: it cannot be created, or there is not even the space for a manifest, or the inodes for two.
    """
    while True:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        run_dir = data_dir / "runs" / f"{stamp}-{stage_name}-{secrets.token_hex(2)}"
        try:
            run_dir.mkdir(parents=True)
            (run_dir / "logs").mkdir()
            _set_aside(run_dir, RESERVED_BYTES)
            # The manifest takes that inode, and the one set aside for the next manifest takes another.
            tempfile.TemporaryFile(dir=run_dir).close()
        except FileExistsError:
            continue
        except OSError as problem:
            shutil.rmtree(run_dir, ignore_errors=True)
            raise BadInput(f"data_dir={data_dir} cannot take a run: {problem.strerror}") from problem
        return run_dir


def _set_aside(run_dir: Path, size: int) -> None:
    """Reserve an inode and `size` bytes for the next manifest.

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
            pass  # On a full disk there is only the space that the last manifest has freed.


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
        BadInput: `run.json` is damaged, or of a schema that this version does not know; the text names it and says
            what is wrong.
    """
    path = run_dir / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        damage = _damage(manifest)
    except (ValueError, RecursionError) as problem:
        damage = str(problem)
    if damage:
        raise BadInput(f"{path} is damaged: {damage}")
    version = manifest.get("schema_version", 1)
    if version not in range(1, SCHEMA_VERSION + 1):
        raise BadInput(
            f"{path} has schema version {version}, and this version of wslab reads 1 to {SCHEMA_VERSION}: "
            "the one that recorded it loads it"
        )
    caller = manifest.get("caller") or {}
    if manifest.get("outcome") == RUNNING and not alive(caller.get("pid", 0), caller.get("start_ticks", 0)):
        gone = [event["elapsed_seconds"] for event in read_events(run_dir) if event.get("event") == "caller_gone"]
        when = f" {gone[-1]:.1f} s after the start" if gone else ""
        manifest |= {"outcome": CRASHED, "reason": f"the calling process died{when}"}
    return manifest


def _damage(manifest: Any) -> str:
    """Return what is wrong with a manifest; empty text when nothing is."""
    if not isinstance(manifest, dict):
        return f"it holds {_json_kind(manifest)} where an object belongs"
    if not isinstance(manifest.get("outcome"), str):
        return "it names no outcome"
    for path, kind in MANIFEST_KINDS.items():
        for value in _values(manifest, path.split(".")):
            if not isinstance(value, kind):
                return f"{path} is {_json_kind(value)}"
    return ""


def _values(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """Yield what stands at a path, once for each item of a list on it; what is absent or null yields nothing."""
    if value is None:
        return
    if not path:
        yield value
    elif path[0] == "[]":
        for item in value:
            yield from _values(item, path[1:])
    else:
        yield from _values(value.get(path[0]), path[1:])


def _json_kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", NoneType: "null"}
    return names.get(type(value), "a number")


class Tail:
    """The lines that a file has gained since the last look; a last line without its line end is left for the next.

    Args:
        path: a file that another process may be appending to; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def lines(self) -> list[str]:
        """Return the new whole lines that are not empty."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [line for line in whole.decode("utf-8", errors="replace").split("\n") if line.strip()]


class EventReader:
    """Reads the events that a run folder has gained since the last look."""

    def __init__(self, run_dir: Path) -> None:
        self._tail = Tail(run_dir / EVENTS)

    def read(self) -> list[dict[str, Any]]:
        """Return the new events, in order; a line that is not an event is left out."""
        return [event for line in self._tail.lines() if (event := _event(line))]


class TableReader:
    """Reads the rows that a recorded table has gained since the last look.

    Args:
        path: a CSV file whose cells hold no commas and no quotes.
        columns: the table that it follows.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._tail, self._columns = Tail(path), columns
        self._names: list[str] = []

    def read(self) -> list[dict[str, Value]]:
        """Return the new rows, each with every documented column; a line that is not a row is left out."""
        lines = self._tail.lines()
        if lines and not self._names:
            first = lines.pop(0).split(",")
            # Where the header is damaged, the columns are those of this version.
            self._names = first if self._columns[0].name in first else header(self._columns)
        return [row for line in lines if (row := self._row(line))]

    def _row(self, line: str) -> dict[str, Value] | None:
        cells = line.split(",")
        if len(cells) != len(self._names):
            return None
        try:
            row = from_cells(cells, self._names, self._columns)
        except ValueError:
            return None
        return row if row[self._columns[0].name] is not None else None


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Return everything that happened, in order."""
    return EventReader(run_dir).read()


def read_samples(run_dir: Path) -> list[dict[str, Value]]:
    """Return the samples, one mapping a second with every documented column."""
    return TableReader(run_dir / SAMPLES, SAMPLE_COLUMNS).read()


def read_latency(run_dir: Path) -> list[dict[str, Value]]:
    """Return the rows of the latency histograms."""
    return TableReader(run_dir / LATENCY, LATENCY_COLUMNS).read()


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(event, dict) and isinstance(event.get("event"), str)
    return event if whole and isinstance(event.get("elapsed_seconds", 0.0), int | float) else None
