"""The figure of a run over several hosts tells the hosts apart."""

from __future__ import annotations

from pathlib import Path

from made_runs import make_run, make_run_over_hosts
from wslab.lab.runs import Run
from wslab.view import plots
from wslab.view.plots_frame import COLOURS


def test_each_host_has_a_line_of_its_own_in_the_colour_of_its_end(tmp_path: Path) -> None:
    run = Run.load(make_run_over_hosts(tmp_path))
    for ax in plots.hosts_over_time(run).axes:
        drawn = {line.get_gid(): line for line in ax.lines if line.get_gid()}
        assert {name: line.get_color() for name, line in drawn.items()} == {
            "big": COLOURS["server"],
            "left": COLOURS["swarm"],
            "right": COLOURS["swarm"],
        }
        assert drawn["left"].get_linestyle() != drawn["right"].get_linestyle()
    counts = plots.hosts_over_time(run).axes[0]
    assert [text.get_text() for text in counts.get_legend().get_texts()] == [
        "big, server",
        "left, swarm",
        "right, swarm",
    ]
    assert max(counts.lines[0].get_ydata()) == 100_000


def test_the_report_has_it_for_a_run_over_hosts_and_not_for_others(tmp_path: Path) -> None:
    over = Run.load(make_run_over_hosts(tmp_path))
    alone = Run.load(make_run(tmp_path, second=1))
    assert "hosts" in [name for name, _, _ in plots.run_figures(over)]
    assert "hosts" not in [name for name, _, _ in plots.run_figures(alone)]
    (note,) = [text for text in plots.hosts_over_time(alone).axes[0].texts if text.get_gid() == "note"]
    assert note.get_text() == "This run was on one host."
