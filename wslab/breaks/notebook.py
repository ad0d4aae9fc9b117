"""The break atlas as an executed notebook, kept with its figure beside what was measured.

The breaks run in the calling process, and the notebook only shows them, so that the kernel of the notebook takes no
part in what is measured.
"""

from __future__ import annotations

from collections.abc import Callable

from wslab.breaks.atlas import Atlas
from wslab.breaks.confusion import Confusion, run_scenarios
from wslab.breaks.run import run_breaks
from wslab.core.quantities import BadInput
from wslab.view.plots_breaks import expected_and_named, predicted_and_measured
from wslab.view.plots_frame import save_figure
from wslab.view.workbook import execute, notebook_template

TEMPLATE = "20-breaks.ipynb"


def sweep_breaks(breaks: str = "all", data_dir: str = "", *, say: Callable[[str], None]) -> Atlas:
    """Break limits on purpose, and keep the executed notebook and the figure of the atlas with what was measured.

    Args:
        breaks: names, separated by commas, or `all` that change nothing of the whole machine.
        data_dir: the data folder; empty for the project's own.
        say: called with each line of progress.

    Raises:
        BadInput: there is no such break, or the data folder cannot be written.
    """
    atlas = run_breaks(breaks, data_dir, say=say)
    save_figure(predicted_and_measured(atlas), atlas.folder / "figures", "breaks")
    try:
        template = notebook_template(TEMPLATE)
    except BadInput as problem:
        say(str(problem))
        return atlas
    parameters = {"breaks": breaks, "data_dir": data_dir, "recorded": str(atlas.folder)}
    problem_in_it = execute(template, atlas.folder / "breaks.ipynb", parameters, [])
    if problem_in_it:
        say(problem_in_it)
    return atlas


def sweep_random(count: int, seed: int, data_dir: str = "", *, say: Callable[[str], None]) -> Confusion:
    """Measure the diagnosis on random scenarios, and keep the figure with the result.

    Args:
        count: how many scenarios.
        seed: what they are drawn from.
        data_dir: the data folder; empty for the project's own.
        say: called with each line of progress.

    Raises:
        BadInput: they cannot be made here, or the data folder cannot be written.
    """
    result = run_scenarios(count, seed, data_dir, say=say)
    save_figure(expected_and_named(result), result.folder / "figures", "confusion")
    return result
