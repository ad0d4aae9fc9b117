"""Parameter files: what is asked for, in YAML, for one stage or for a night of them.

A file for `wslab stage` or `wslab swarm` holds parameters of a stage, one a line. A file for `wslab sweep` may hold
three more keys:

    stages: [10k, 100k, 700k]
    keep_going: true
    matrix:                      # every combination of these, each a climb through the stages
      server: [lean, tcp_floor]
      message_rate: [0, 0.1]
    hold_seconds: 30

What is typed on the command line counts more than the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wslab.core.quantities import BadInput
from wslab.core.stage import Stage

SWEEP_KEYS = ("stages", "keep_going", "matrix")


def read_parameters(path: str | Path, *, sweep: bool = False) -> dict[str, Any]:
    """Return the parameters of a file, not checked yet beside their form.

    Args:
        path: the file.
        sweep: whether it may hold the keys of a sweep.

    Raises:
        BadInput: it cannot be read, is no mapping in YAML, or holds a key of a sweep where none belongs.
    """
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as problem:
        raise BadInput(f"{path} cannot be read: {getattr(problem, 'strerror', None) or problem}") from problem
    except yaml.YAMLError as problem:
        where = getattr(problem, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise BadInput(
            f"{path} is not YAML{line}: {getattr(problem, 'problem', None) or 'it cannot be parsed'}"
        ) from None
    found = {} if found is None else found
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise BadInput(f"{path} must hold parameters, one a line, such as connections: 100k")
    for key in () if sweep else SWEEP_KEYS:
        if key in found:
            raise BadInput(f"{path} holds {key}, which is for `wslab sweep -f`")
    return found


def combinations(matrix: object) -> list[dict[str, Any]]:
    """Return every combination of a matrix; one without parameters when there is none.

    Args:
        matrix: lists of values by the name of their parameter, or None.

    Raises:
        BadInput: it is not that.
    """
    if not matrix:
        return [{}]
    if not isinstance(matrix, Mapping) or not all(isinstance(values, list) and values for values in matrix.values()):
        raise BadInput("matrix must hold a list of values for each parameter, such as server: [lean, tcp_floor]")
    if "connections" in matrix:
        raise BadInput("matrix holds connections: those of a sweep stand in stages")
    return [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]


def planned(stages: Iterable[object], matrix: object, parameters: Mapping[str, Any]) -> list[Stage]:
    """Return the stages of a sweep: for each combination of the matrix all counts, in the order given.

    Args:
        stages: connections of each stage, or stages, of which only the connections count.
        matrix: as in `combinations`.
        parameters: further parameters of all of them.

    Raises:
        BadInput: a parameter is unknown or cannot be used.
    """
    counts = [getattr(stage, "connections", stage) for stage in stages]
    return [
        Stage.of(**{**parameters, **combination, "connections": count})
        for combination in combinations(matrix)
        for count in counts
    ]


def climb_of(stage: Stage) -> tuple[tuple[str, str], ...]:
    """Return what the stages of one climb have in common: everything but their connections."""
    return tuple(sorted((name, repr(value)) for name, value in stage.as_dict().items() if name != "connections"))


def difference_text(stages: Sequence[Stage], stage: Stage) -> str:
    """Return by which parameters a stage differs from others of its sweep, such as `server=lean`; empty if by none."""
    own = stage.as_dict()
    differing = [
        name for name in own if name != "connections" and len({repr(other.as_dict()[name]) for other in stages}) > 1
    ]
    return " ".join(f"{name}={own[name]}" for name in differing)
