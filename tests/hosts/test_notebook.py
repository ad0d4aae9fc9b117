"""The notebook of several hosts: with the package on workers of its own, and in one line without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

from hosts.cluster import needs_distributed
from wslab.lab.run_list import list_runs

HIDES = "import sys; sys.modules['distributed'] = None; "
LAUNCHES = "from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"


def execute(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> list[nbformat.NotebookNode]:
    """Execute the notebook in a kernel that starts with a line of code; return its cells of code."""
    kernel = folder / "jupyter/kernels/wslab-test/kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [sys.executable, "-Xfrozen_modules=off", "-c", code, "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "test", "language": "python"}), "utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    papermill.execute_notebook(
        str(root / "notebooks" / "60-hosts.ipynb"),
        str(folder / "out.ipynb"),
        parameters={"connections": 23, "hold_seconds": 0.0, "data_dir": str(folder / "data")},
        kernel_name="wslab-test",
        progress_bar=False,
        start_timeout=180,
        iopub_timeout=120,
    )
    cells = nbformat.read(folder / "out.ipynb", 4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def test_without_the_package_one_line_says_what_to_install_and_the_notebook_ends_without_an_error(
    tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = execute(tmp_path, project_root, monkeypatch, HIDES + LAUNCHES)
    assert all(cell.execution_count for cell in cells)
    (said,) = [output for cell in cells for output in cell.outputs]
    assert said.text == (
        "A stage over several hosts needs the package distributed, which is not installed: pip install 'wslab[hosts]'\n"
    )
    assert not (tmp_path / "data").exists()


@needs_distributed
def test_with_the_package_it_runs_over_workers_of_its_own(
    tmp_path: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = execute(tmp_path, project_root, monkeypatch, LAUNCHES)
    (run,) = list_runs(tmp_path / "data")
    assert (run.outcome, run.summary["connections_verified"]) == ("held", 23)
    assert [(name, role) for name, role, _ in run.hosts] == [
        ("host-0", "server"),
        ("host-1", "swarm"),
        ("host-2", "swarm"),
    ]
    outputs = [output for cell in cells for output in cell.outputs]
    # What is displayed, and nothing that a library has to say.
    assert {output.output_type for output in outputs} == {"execute_result", "display_data"}
    assert len([output for output in outputs if "image/png" in output.data]) == 3
    assert "23 connections fit on 3 hosts" in "".join(output.data.get("text/html", "") for output in outputs)
