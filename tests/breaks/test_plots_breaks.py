"""The figure of the break atlas: each limit where it was predicted, where it broke, and the load that held."""

from __future__ import annotations

from pathlib import Path

from wslab.breaks.atlas import Atlas, BreakResult
from wslab.view import plots

PORTS = BreakResult(
    name="ephemeral_ports",
    limit="ephemeral_ports",
    side="swarm",
    title="2,000 ports",
    remedy="a second source address",
    unit="connections",
    tolerance=0.02,
    asked=3000,
    predicted=2000,
    measured=1999,
    held=True,
    caption="a machine",
)
PROCESSES = BreakResult(
    name="process_limit",
    limit="process_limit",
    side="machine",
    title="12 processes",
    remedy="fewer workers",
    unit="processes",
    tolerance=0.02,
    asked=2000,
    predicted=12,
    measured=12,
    held=True,
)
DIED = BreakResult(name="server_died", limit="server_died", side="server", title="killed", remedy="none", asked=100)


def test_predicted_broken_and_held_stand_in_the_row_of_their_break() -> None:
    ax = plots.predicted_and_measured(Atlas(folder=Path("atlas"), results=(PORTS, DIED, PROCESSES))).axes[0]
    marks = {line.get_gid(): (line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines}
    assert marks == {
        "predicted ephemeral_ports": (2000, 0),
        "broke ephemeral_ports": (1999, 0),
        "held ephemeral_ports": (3000, 0),
        "predicted process_limit": (12, 1),
        "broke process_limit": (12, 1),
    }
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["ephemeral_ports\nswarm", "process_limit\nmachine, processes"]
    assert ax.get_xscale() == "log"
    assert "connections" in ax.get_xlabel()


def test_the_numbers_and_the_remedy_stand_beside_each_row() -> None:
    plot = plots.predicted_and_measured(Atlas(folder=Path("20260101T000000Z"), results=(PORTS,)))
    (text,) = [text.get_text() for text in plot.axes[0].texts]
    assert text == "predicted 2,000, broke at 1,999 (0.1% off)\nheld with a second source address"
    assert "a machine · 20260101T000000Z" in plot.get_supxlabel()


def test_without_a_break_that_has_a_number_the_figure_says_so() -> None:
    ax = plots.predicted_and_measured(Atlas(folder=Path("atlas"), results=(DIED,))).axes[0]
    assert [text.get_text() for text in ax.texts] == ["No break with a number was run."]
