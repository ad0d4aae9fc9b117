"""A comparison with its figures: measured by the lab, drawn and written beside its record."""

from __future__ import annotations

from functools import wraps
from typing import Any

from wslab.lab.compare import Comparison
from wslab.lab.compare import compare as measure
from wslab.lab.signatures import shows_parameters
from wslab.view.plots_compare import COMPARISON_FIGURES
from wslab.view.plots_frame import save_figure

TABLES = "comparison.md"


@shows_parameters("server", "server_port", "server_pid", "label", "tune")
@wraps(measure)
def compare_servers(*args: Any, recorded: str = "", **settings: Any) -> Comparison:
    """Compare servers as `wslab.lab.compare.compare` does, and write tables and figures into its folder.

    A comparison that was recorded before is only loaded.
    """
    comparison = measure(*args, recorded=recorded, **settings)
    if not recorded:
        (comparison.folder / TABLES).write_text(comparison.markdown(), encoding="utf-8")
        for name, _, draw in COMPARISON_FIGURES:
            save_figure(draw(comparison), comparison.folder / "figures", name)
    return comparison
