"""Where the project's notebooks are: inside an installed package, or beside the package in a checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

from wslab.core.quantities import BadInput
from wslab.lab import store

# The wheel has the notebooks here.
PACKAGED = Path(__file__).resolve().parents[1] / "notebooks"


def notebooks_folder() -> Path:
    """Return the folder of the project's notebooks: those that were installed with the package come first.

    Raises:
        BadInput: there are none.
    """
    project = store.project_folder()
    for folder in (PACKAGED, *([project / "notebooks"] if project else [])):
        if folder.is_dir():
            return folder
    raise BadInput("the notebooks are not here: install the wheel, or run this inside a checkout of the project")


def copy_notebooks(folder: Path, force: bool = False) -> list[Path]:
    """Copy the project's notebooks into a folder, which is made if need be, and return the paths of the copies.

    Args:
        folder: where they go.
        force: replace notebooks of the same name.

    Raises:
        BadInput: a notebook of the same name is there already, or the folder cannot be written.
    """
    originals = sorted(notebooks_folder().glob("*.ipynb"))
    there = [path.name for path in originals if (folder / path.name).exists()]
    if there and not force:
        raise BadInput(f"{folder} has {', '.join(there)} already; --force replaces them")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in originals:
            shutil.copyfile(path, folder / path.name)
    except (OSError, shutil.SameFileError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise BadInput(f"the notebooks cannot be copied to {folder}: {reason}") from problem
    return [folder / path.name for path in originals]
