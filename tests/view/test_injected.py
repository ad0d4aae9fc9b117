"""A notebook refuses parameters that it does not have, and text that papermill made a number of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wslab.core.quantities import BadInput
from wslab.core.stage import Stage
from wslab.view.injected import BEGINNING, check_injected, check_parameters

TYPES = {"connections": int, "label": str, "tune": bool, "hold_seconds": "float", "out": "str"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("# Parameters\nconections = 5\n", "unknown parameter conections: did you mean connections?"),
        ("# Parameters\nzzz = 5\n", "unknown parameter zzz: known are connections, label"),
        ("# Parameters\nlabel = 1000000.0\n", "label=1000000.0 is not text any more: papermill takes it"),
        ("# Parameters\nout = None\n", "out=None is not text any more"),
        ("# Parameters\ntune = 5\n", "tune=5 is not accepted: True or False"),
    ],
)
def test_what_is_not_a_parameter_or_not_of_its_type_is_refused(source: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_injected(source, TYPES)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "source",
    ["", '# Parameters\nlabel = "1e6"\nconnections = "700k"\ntune = True\nhold_seconds = 5\n', "# Parameters\n"],
)
def test_what_fits_is_let_pass(source: str) -> None:
    check_injected(source, TYPES)


def test_every_parameter_of_a_stage_passes_as_a_sweep_puts_it_into_the_template(project_root: Path) -> None:
    notebook = json.loads((project_root / "notebooks/10-stage.ipynb").read_text(encoding="utf-8"))
    (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", ())]
    declared: dict[str, object] = {}
    exec("".join(cell["source"]), declared)
    asked = Stage.of(server_shards=4, memory_cap="1GiB", message_rate=0.5, headers="A: b").as_dict()
    injected = "".join(f"{name} = {value!r}\n" for name, value in asked.items())
    check_injected(f"{BEGINNING}\n{injected}", declared["__annotations__"])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="label=5 is not text any more"):
        check_injected("label = 5\n", declared["__annotations__"])  # type: ignore[arg-type]


def test_without_a_notebook_there_is_nothing_to_check() -> None:
    check_parameters()


@pytest.mark.parametrize(
    ("typed", "status", "words"),
    [
        (["-p", "data_dirr", "x"], 1, "BadInput: unknown parameter data_dirr: did you mean data_dir?"),
        (["-p", "out", "1e3"], 1, "BadInput: out=1000.0 is not text any more"),
        (["-r", "out", "1e3"], 0, ""),
    ],
)
def test_papermill_fails_at_the_first_cell_with_one_line(
    project_root: Path, tmp_path: Path, typed: list[str], status: int, words: str
) -> None:
    notebook = json.loads((project_root / "notebooks/40-report.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    notebook["cells"] = code[:2]  # The parameters, and the cell that checks them.
    (tmp_path / "in.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", *typed]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert words in done.stderr
    executed = json.loads((tmp_path / "out.ipynb").read_text(encoding="utf-8"))
    told = [out for cell in executed["cells"] for out in cell.get("outputs", []) if out["output_type"] == "error"]
    assert [out["traceback"] for out in told] == ([[f"BadInput: {told[0]['evalue']}"]] if status else [])
