"""The notebooks stay thin: no outputs, no code of their own, and parameters that are those of a stage."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import papermill
import pytest

import wslab
from wslab.core.stage import PARAMETERS, Stage

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
TEMPLATE = next(path for path in NOTEBOOKS if path.name == "10-stage.ipynb")
NOT_THIN = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While, ast.Lambda, ast.ListComp, ast.With)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


def code(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(path, "code")]


@every_notebook
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path, "code"))


@every_notebook
def test_a_notebook_defines_nothing_and_loops_over_nothing(path: Path) -> None:
    nodes = [node for source in code(path) for node in ast.walk(ast.parse(source))]
    assert not [type(node).__name__ for node in nodes if isinstance(node, NOT_THIN)]


@every_notebook
def test_a_notebook_uses_no_shell_and_no_magic(path: Path) -> None:
    lines = [line.lstrip() for source in code(path) for line in source.splitlines()]
    assert not [line for line in lines if line.startswith(("!", "%"))]


@every_notebook
def test_every_cell_of_code_but_the_setting_up_has_prose_above_it(path: Path) -> None:
    kinds = [cell["cell_type"] for cell in json.loads(path.read_text("utf-8"))["cells"]]
    assert kinds[:3] == ["markdown", "code", "code"]
    assert "code code" not in " ".join(kinds[2:])


@every_notebook
def test_a_notebook_checks_what_papermill_put_in_before_anything_starts(path: Path) -> None:
    assert code(path)[1] == "import wslab\n\nwslab.check_parameters()"


@every_notebook
def test_the_first_cell_of_code_holds_the_parameters_as_typed_literals(path: Path) -> None:
    first, *others = cells(path, "code")
    assert first["metadata"]["tags"] == ["parameters"]
    assert not any("parameters" in cell["metadata"].get("tags", []) for cell in others)
    for line in "".join(first["source"]).splitlines():
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.AnnAssign)
        ast.literal_eval(statement.value)
        comment = line.partition("#")[2]
        assert comment.strip()
        assert "=" not in comment


@every_notebook
def test_papermill_shows_every_parameter_with_its_help(path: Path) -> None:
    shown = papermill.inspect_notebook(str(path))
    assert len(shown) == len(code(path)[0].splitlines())
    assert all(parameter["help"] for parameter in shown.values())


@every_notebook
def test_a_notebook_asks_only_for_public_names(path: Path) -> None:
    used = {
        node.attr
        for source in code(path)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "wslab"
    }
    assert used <= set(wslab.__all__)


@every_notebook
def test_a_notebook_runs_in_any_python_kernel(path: Path) -> None:
    assert json.loads(path.read_text("utf-8"))["metadata"]["kernelspec"]["name"] == "python3"


def test_the_parameters_of_the_template_are_those_of_a_stage_in_the_same_order() -> None:
    shown = papermill.inspect_notebook(str(TEMPLATE))
    assert list(shown) == [parameter.name for parameter in PARAMETERS]


def test_the_defaults_of_the_template_are_a_small_stage() -> None:
    shown = papermill.inspect_notebook(str(TEMPLATE))
    stage = Stage.of(**{name: ast.literal_eval(parameter["default"]) for name, parameter in shown.items()})
    assert stage.connections <= 10_000
    assert stage.hold_seconds <= 5


def test_the_template_passes_every_parameter_on_by_its_name() -> None:
    (source,) = ["".join(c["source"]) for c in cells(TEMPLATE, "code") if c["metadata"].get("tags") == ["run"]]
    (call,) = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.keywords]
    passed = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert {name: value for name, value in passed.items() if name != "on_event"} == {
        parameter.name: parameter.name for parameter in PARAMETERS
    }


def calls_in(name: str, function: str) -> list[list[object]]:
    """Return the arguments of each call of a function in a notebook, those that are literals."""
    (path,) = [path for path in NOTEBOOKS if path.name == name]
    nodes = [node for source in code(path) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    calls = [node for node in nodes if ast.unparse(node.func) == function]
    return [[given.value for given in call.args if isinstance(given, ast.Constant)] for call in calls]


def test_the_run_that_the_notebook_of_recorded_runs_shows_as_broken_comes_with_the_project() -> None:
    ((named,),) = calls_in("50-explore.ipynb", "wslab.load_run")
    broken = wslab.load_run(named)
    assert broken.outcome == "broke"
    assert [finding["limit"] for finding in broken.findings] == ["conntrack"]
    assert [finding.limit for finding in broken.diagnose()] == ["conntrack"]


def test_the_notebook_of_recorded_runs_compares_a_million_connections_with_the_floor() -> None:
    (named,) = [call for call in calls_in("50-explore.ipynb", "wslab.compare") if call]
    compared = wslab.compare(*named)
    assert [run.server for run in compared.runs] == ["tcp_floor", "lean"]
    assert {run.connections for run in compared.runs} == {1_000_000}
