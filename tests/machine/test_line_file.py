"""Files of lines: whole, or torn at their end only, and the file is named when it cannot be written."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from small_disk import fill, needs_root, small_disk
from wslab.machine.line_file import LineFile, why_not_written


def test_lines_are_appended_behind_what_is_there_or_replace_it(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("old\n")
    for replace, text in ((False, "old\na\nb\n"), (True, "a\nb\n")):
        file = LineFile(path, replace=replace)
        file.append(["a\n", "b\n"])
        file.close()
        assert path.read_text() == text


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as failed:
        LineFile(tmp_path / "no" / "lines")
    assert why_not_written(failed.value) == f"{tmp_path}/no/lines cannot be written: No such file or directory"


def test_a_file_that_was_removed_says_so(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines")
    (tmp_path / "lines").unlink()
    with pytest.raises(FileNotFoundError) as failed:
        file.append(["a\n"])
    assert failed.value.filename == str(tmp_path / "lines")
    file.close()


FULL_AT_100_BYTES = """
import json, resource, signal, sys
from pathlib import Path
from wslab.machine.line_file import LineFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = LineFile(Path(sys.argv[1]))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
told = []
for limit in (100, 100, 120, 10_000, 10_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        file.append([f"{len(told)}" * 79 + "\\n", "second\\n"])
        told.append(None)
    except OSError as problem:
        told.append([problem.errno, problem.filename])
print(json.dumps(told))
"""


def test_a_torn_line_is_completed_before_anything_else_is_written(tmp_path: Path, project_root: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("x" * 59 + "\n")
    command = [sys.executable, "-c", FULL_AT_100_BYTES, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=project_root, timeout=30)
    full = [errno.EFBIG, str(path)]
    assert json.loads(done.stdout) == [full, full, full, None, None]
    rows = ["0" * 79, "3" * 79, "second", "4" * 79, "second"]
    assert path.read_text().splitlines() == ["x" * 59, *rows]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@needs_root
def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        file = LineFile(disk / "lines")
        fill(disk)
        with pytest.raises(OSError, match="No space left") as failed:
            file.append(["x" * 4095 + "\n"] * 2)
        assert (failed.value.errno, failed.value.filename) == (errno.ENOSPC, str(disk / "lines"))
        (disk / "filler").unlink()
        file.append(["whole\n"])
        assert (disk / "lines").read_text().splitlines()[-1] == "whole"
        file.close()
