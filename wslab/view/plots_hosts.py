"""A figure of one run over several hosts, with the hosts told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wslab.lab.series import per_second
from wslab.view.plots_frame import COLOURS, Plot, count_axis, figure, new_plot, note, side_legend
from wslab.view.plots_run import draw_phases, run_line

if TYPE_CHECKING:
    from wslab.lab.runs import Run


@figure
def hosts_over_time(run: Run) -> Plot:
    """Draw the connections open on each host of a run (above), and the cores that wslab's processes kept busy (below).

    The colour is that of the end which the host runs, the line that of the host among those of its end.
    """
    plot = new_plot(f"Hosts of the {run.name} stage", run.caption, rows=2, size=(9.0, 5.6))
    counts, cores = plot.axes
    seen = {"server": 0, "swarm": 0}
    for name, role, samples in run.hosts:
        look: dict[str, Any] = {"color": COLOURS[role], "linestyle": run_line(seen[role]), "gid": name}
        seen[role] += 1
        opened = samples[f"{role}_connections_open"].astype(float)
        busy = per_second(samples[f"{role}_cpu_user_seconds"] + samples[f"{role}_cpu_system_seconds"])
        counts.plot(opened.index, opened.to_numpy(), label=f"{name}, {role}", **look)
        cores.plot(busy.index, busy.to_numpy(dtype=float), drawstyle="steps-pre", **look)
    count_axis(counts, "y", "connections open")
    cores.set_ylabel("cores busy")
    for ax in plot.axes:
        ax.set_ylim(bottom=0)
    side_legend(counts)
    if not run.hosts:
        note(counts, "This run was on one host.")
    draw_phases(run, plot.axes)
    return plot
