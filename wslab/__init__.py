"""wslab: how many WebSocket connections a server can hold on this machine, what breaks first, and what lifts it.

The names below are loaded when they are first used, so that a load process imports none of what a notebook needs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wslab.breaks.run import run_breaks as run_breaks
    from wslab.core.stage import STAGES as STAGES
    from wslab.core.stage import Stage as Stage
    from wslab.hosts.cluster import open_cluster as open_cluster
    from wslab.hosts.preflight import preflight_over as preflight_over
    from wslab.hosts.run import run_over as run_over
    from wslab.lab.experiment import run_lifted as run_lifted
    from wslab.lab.preflight import preflight as preflight
    from wslab.lab.run_list import delete as delete
    from wslab.lab.run_list import list_runs as list_runs
    from wslab.lab.run_list import relabel as relabel
    from wslab.lab.runs import Run as Run
    from wslab.lab.runs import load_run as load_run
    from wslab.lab.runs import runs_table as runs_table
    from wslab.lab.series import columns as columns
    from wslab.lab.side_by_side import compare as compare
    from wslab.tune.apply import run_stage as run_stage
    from wslab.view import plots as plots
    from wslab.view.attach import attach as attach
    from wslab.view.attach import unless_interrupted as unless_interrupted
    from wslab.view.comparison import compare_servers as compare_servers
    from wslab.view.injected import check_parameters as check_parameters
    from wslab.view.live import live_view as live_view
    from wslab.view.publish import report as report
    from wslab.view.story import story as story
    from wslab.view.workbook import sweep as sweep

# Public name: where it is; a module stands for itself.
_WHERE = {
    "STAGES": "wslab.core.stage",
    "Stage": "wslab.core.stage",
    "compare": "wslab.lab.side_by_side",
    "compare_servers": "wslab.view.comparison",
    "check_parameters": "wslab.view.injected",
    "columns": "wslab.lab.series",
    "delete": "wslab.lab.run_list",
    "relabel": "wslab.lab.run_list",
    "run_breaks": "wslab.breaks.run",
    "run_stage": "wslab.tune.apply",
    "run_over": "wslab.hosts.run",
    "open_cluster": "wslab.hosts.cluster",
    "preflight_over": "wslab.hosts.preflight",
    "run_lifted": "wslab.lab.experiment",
    "preflight": "wslab.lab.preflight",
    "Run": "wslab.lab.runs",
    "list_runs": "wslab.lab.run_list",
    "load_run": "wslab.lab.runs",
    "runs_table": "wslab.lab.runs",
    "plots": "wslab.view.plots",
    "attach": "wslab.view.attach",
    "unless_interrupted": "wslab.view.attach",
    "live_view": "wslab.view.live",
    "report": "wslab.view.publish",
    "story": "wslab.view.story",
    "sweep": "wslab.view.workbook",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # A load process needs no name from here, and so no importlib.

    module = import_module(_WHERE[name])
    value: object = module if _WHERE[name].endswith(f".{name}") and not hasattr(module, name) else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
