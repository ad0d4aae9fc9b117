"""The rules of the house that concern who may import what, enforced over whatever modules there are."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Rooms of one tuple have the same rank: the annexes use the trunk, which knows nothing of them.
ROOMS = (("core",), ("machine",), ("load",), ("lab",), ("view",), ("breaks", "tune", "hosts"), ("cli",))

# The core computes; it may use no module that reads a clock, a file, a socket or a process.
PURE = """
    __future__ abc bisect collections contextlib dataclasses decimal difflib enum errno fractions functools heapq
    ipaddress itertools json math numbers operator re shlex statistics string textwrap types typing
"""
# What is pure in a module that is not.
PURE_PARTS = {"os.PathLike", "os.fspath"}

# Each library from outside, and the modules that may use it.
LIBRARIES = {
    "websockets": ["load/*"],
    "numba": ["load/engine/*"],
    "llvmlite": ["load/engine/*"],
    "pandas": ["lab/runs.py", "lab/series.py", "lab/shown.py", "lab/side_by_side.py", "view/*"],
    "numpy": ["view/plots*.py", "load/engine/*"],
    "matplotlib": ["view/plots*.py"],
    "papermill": ["view/workbook.py"],
    "jupyter_client": ["view/kernel.py"],
    "IPython": ["view/live.py", "view/stop_button.py"],
    "ipywidgets": ["view/stop_button.py"],
    "tqdm": ["view/live.py"],
    "yaml": ["view/parameters.py"],
    "click": ["cli.py", "cli_options.py"],
    "distributed": ["hosts/cluster.py"],
    "picows": ["load/servers/picows_server.py"],
    "socketify": ["load/servers/uwebsockets_server.py"],
    "pyroute2": ["machine/journal.py", "breaks/netns.py"],
}

# Every shard and worker imports these, so what they import is paid a hundred times over.
LIGHT = [
    *("core/histogram.py", "core/pacer.py", "machine/process.py", "load/scoreboard.py", "load/prefork.py"),
    *("load/swarm/master.py", "load/servers/lean.py", "load/servers/tcp_floor.py"),
]
# A compiler and an array library are for whoever compiles: the processes of the load only map what was compiled.
UNCOMPILED = ["load/servers/shard.py", "load/swarm/worker.py", "load/servers/conversation.py"]
HEAVY = "argparse asyncio dataclasses inspect logging numba numpy pandas pathlib subprocess typing websockets"


def modules(pattern: str = "*") -> dict[str, ast.Module]:
    """Parse the modules of the package whose path inside it matches, by that path."""
    files = {path.relative_to(ROOT / "wslab").as_posix(): path for path in sorted((ROOT / "wslab").rglob("*.py"))}
    return {name: ast.parse(path.read_text("utf-8"), name) for name, path in files.items() if fnmatch(name, pattern)}


def dotted(name: str) -> str:
    """Turn `load/scoreboard.py` into `wslab.load.scoreboard`."""
    return "wslab." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(tree: ast.AST, package: str = "wslab") -> Iterator[str]:
    """Yield every module imported anywhere in the tree; `from a import b` yields `a.b`, as b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(name: str, tree: ast.AST) -> Iterator[str]:
    """Yield what the module imports, with relative imports resolved."""
    package = dotted(name) if name.endswith("__init__.py") else dotted(name).rpartition(".")[0]
    return imports(tree, package)


def parts_used(name: str, tree: ast.AST) -> Iterator[str]:
    """Yield what the module imports; of a module imported whole, the attributes that are used of it."""
    for imported in imports_of(name, tree):
        attributes = [
            f"{imported}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == imported
        ]
        yield from attributes or [imported]


def room_of(module: str) -> int:
    """Return the rank of the room of `wslab.room...`; the package's front door and __main__ belong to the last."""
    room = f"{module}..".split(".")[1]
    return next((rank for rank, names in enumerate(ROOMS) if room in names), len(ROOMS) - 1)


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield the string literals that are values: not docstrings."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def is_process(name: str, tree: ast.AST) -> bool:
    """Tell whether the module is one that is started with `python -m`."""
    return name.startswith("load/") and "__main__" in texts(tree)


def test_a_module_imports_only_from_its_own_room_and_those_before_it() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, tree in modules("*/*").items()
        for imported in imports_of(name, tree)
        if imported.partition(".")[0] == "wslab" and imported.count(".") and room_of(imported) > room_of(dotted(name))
    ]
    assert not wrong


def test_what_runs_in_load_processes_is_started_and_never_imported_by_the_rooms_above() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, tree in modules().items()
        for imported in imports_of(name, tree)
        if imported.startswith("wslab.load.") and not name.startswith("load/")
    ]
    assert not wrong


def test_load_processes_never_import_one_another() -> None:
    parsed = modules()
    processes = [dotted(name) for name, tree in parsed.items() if is_process(name, tree)]
    wrong = [
        f"{name} imports {imported}"
        for name, tree in parsed.items()
        for imported in imports_of(name, tree)
        for process in processes
        if f"{imported}.".startswith(f"{process}.") and dotted(name) != process
    ]
    assert not wrong


def test_the_core_is_pure() -> None:
    wrong = [
        f"{name} uses {used}"
        for name, tree in modules("core/*").items()
        for used in parts_used(name, tree)
        if used.partition(".")[0] not in {*PURE.split(), "wslab"} and used not in PURE_PARTS
    ]
    wrong += [
        f"{name} calls {node.func.id}"
        for name, tree in modules("core/*").items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"open", "print", "input"}
    ]
    assert not wrong


def test_each_library_is_used_only_where_it_belongs() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, tree in modules().items()
        for imported in imports_of(name, tree)
        for library in [imported.partition(".")[0]]
        if library not in {*sys.stdlib_module_names, "wslab"}
        and not any(fnmatch(name, place) for place in LIBRARIES.get(library, []))
    ]
    assert not wrong


def test_proc_and_sys_are_opened_in_the_machine_room_only() -> None:
    # The core names such files, as evidence and remedies, and cannot open them.
    wrong = [
        f"{name} holds the path {text!r}"
        for room in ("load/*", "lab/*", "view/*", "cli*")
        for name, tree in modules(room).items()
        for text in texts(tree)
        if f"{text}/".startswith(("/proc/", "/sys/"))
    ]
    assert not wrong


def test_the_package_prints_only_from_its_command() -> None:
    wrong = [
        f"{name} prints"
        for room in ("core/*", "machine/*", "lab/*", "view/*")
        for name, tree in modules(room).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong


def test_notebooks_import_wslab_only() -> None:
    wrong = [
        f"{path.name} imports {imported}"
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        for cell in json.loads(path.read_text("utf-8"))["cells"]
        if cell["cell_type"] == "code"
        for imported in imports(ast.parse("".join(cell["source"])))
        if imported.partition(".")[0] != "wslab"
    ]
    assert not wrong


@pytest.mark.parametrize("name", [name for name in LIGHT if (ROOT / "wslab" / name).exists()])
def test_what_every_shard_and_worker_imports_stays_light(name: str) -> None:
    code = f"import sys; before = set(sys.modules); import {dotted(name)}; print(*set(sys.modules) - before)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    assert set(HEAVY.split()).isdisjoint(done.stdout.split())
    assert dotted(name) in done.stdout.split()


@pytest.mark.parametrize("name", UNCOMPILED)
def test_the_processes_of_the_load_import_no_compiler(name: str) -> None:
    code = f"import sys, {dotted(name)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert {"numba", "llvmlite", "numpy"}.isdisjoint(done.stdout.split())
    assert dotted(name) in done.stdout.split()


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import os.path", ["os.path"]),
        ("def late():\n    from wslab.load import swarm", ["wslab.load.swarm"]),
        ("from . import scoreboard", ["wslab.load.scoreboard"]),
        ("from ..core.stage import Stage", ["wslab.core.stage.Stage"]),
    ],
)
def test_imports_are_found_wherever_and_however_they_are_written(source: str, imported: list[str]) -> None:
    assert list(imports(ast.parse(source), "wslab.load")) == imported
