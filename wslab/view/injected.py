"""The parameters that papermill puts into a notebook, checked by the notebook itself before anything starts.

papermill accepts names that a notebook does not have, and makes a number of text that looks like one. Both would run
something else than what was asked for. A parameter of a stage that takes numbers as well as a word, such as
`server_shards`, loses nothing by it: the stage itself says what it takes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from wslab.core.quantities import BadInput, did_you_mean
from wslab.core.stage import Stage

# How the cell begins that papermill puts behind the one with the parameters.
BEGINNING = "# Parameters"
# Parameters of a stage that are not text alone.
TAKE_MORE = frozenset(item.name for item in fields(Stage) if item.type != "str")


def check_parameters() -> None:
    """Refuse parameters from outside that this notebook does not have, or that are not of their type.

    Looks at the cells that were executed in this kernel; without papermill there is nothing to check.

    Raises:
        BadInput: one line says which, and what would be right.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return
    cells: Sequence[str] = shell.user_ns.get("In", ())
    injected = next((cell for cell in reversed(cells) if cell.startswith(BEGINNING)), "")
    check_injected(injected, shell.user_ns.get("__annotations__", {}))


def check_injected(source: str, annotations: Mapping[str, Any]) -> None:
    """Check a cell of papermill's.

    Args:
        source: its text; empty when there is none.
        annotations: the types of the notebook's parameters by name, as types or as text.

    Raises:
        BadInput: a name is unknown, or text became something else.
    """
    for statement in ast.parse(source).body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            continue
        name, value = statement.targets[0].id, ast.unparse(statement.value)
        if name not in annotations:
            hint = did_you_mean(name, list(annotations)) or f"known are {', '.join(annotations)}"
            raise BadInput(f"unknown parameter {name}: {hint}")
        is_text = isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
        if annotations[name] in (str, "str") and not is_text and name not in TAKE_MORE:
            raise BadInput(f"{name}={value} is not text any more: papermill takes it as it is typed with -r {name} …")
        if annotations[name] in (bool, "bool") and value not in ("True", "False"):
            raise BadInput(f"{name}={value} is not accepted: True or False")
