"""The figures of a comparison: bars and ranges, whose limit a figure was, steps up to the knee, and where each ends."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from wslab.core.comparison import FIGURES, FLOOR
from wslab.view.plots_compare import COMPARISON_FIGURES, latency_to_the_knee, servers_side_by_side, where_servers_end
from wslab.view.plots_frame import image_bytes


def step(rate: float, p99: float | None, limited_by: str | None = None) -> dict[str, Any]:
    return {"messages_per_second": rate, "roundtrip_seconds_p99": p99, "limited_by": limited_by}


class Made:
    """A comparison of the floor, one server that held, and one that never did."""

    caption = "a CPU, 2 cores · Linux 6.18 · 15k connections"

    def __init__(self, *, limited_by: str | None = None) -> None:
        spread = {"median": 2000.0, "min": 1500.0, "max": 2500.0, "limited_by": limited_by}
        missing = {"median": None, "min": None, "max": None, "limited_by": None}
        model = {
            "here": [{"limit": "fd_limit", "at_connections": {"value": 19_936.0, "low": None, "high": None}}],
            "there": [{"limit": "memory_machine", "at_connections": {"value": 1e6, "low": 9e5, "high": 1.2e6}}],
            "check": {"measured_connections": 19_930, "measured_limits": ["fd_limit"]},
        }
        self.results = [
            {"server": name, "figures": {f.key: one for f in FIGURES}, "model": fitted}
            for name, one, fitted in ((FLOOR, spread, None), ("lean", spread, model), ("broken", missing, None))
        ]
        steps = [step(1000, 0.002), step(8000, 0.7, limited_by), step(4000, 0.02), step(16_000, None)]
        self.entries = [
            {"server": "lean", "summary": {"knee": {"latency_bound": 0.1, "steps": steps}}},
            {"server": "broken", "summary": {}},
        ]


def bar(ax: Axes, name: str) -> Any:
    (found,) = [patch for patch in ax.patches if patch.get_gid() == name]
    return found


def test_each_server_that_held_has_a_bar_beside_the_floor() -> None:
    rate, knee, memory, cpu = servers_side_by_side(Made()).axes
    assert [label.get_text() for label in rate.get_yticklabels()] == [FLOOR, "lean"]
    assert bar(rate, "connections_per_second lean").get_width() == 2000
    assert bar(knee, "knee_messages_per_second lean").get_width() == 2000
    assert bar(memory, "kernel lean").get_x() == bar(memory, "server lean").get_width() == 2000
    assert [line.get_xdata()[0] for line in cpu.lines if line.get_gid() == "floor"] == [2000]
    assert "2 KiB + 2 KiB" in [text.get_text() for text in memory.texts]
    assert rate.get_xlabel()


@pytest.mark.parametrize(
    ("side", "hatched"), [("generator", True), ("machine", False), ("server", False), (None, False)]
)
def test_a_figure_that_is_the_generators_limit_is_hatched_and_told_as_a_lower_bound(
    side: str | None, hatched: bool
) -> None:
    rate = servers_side_by_side(Made(limited_by=side)).axes[0]
    assert bool(bar(rate, "connections_per_second lean").get_hatch()) == hatched
    assert ("≥2k" in [text.get_text() for text in rate.texts]) == hatched


def test_the_steps_of_a_climb_stand_at_their_rate_and_those_of_the_generator_are_hollow() -> None:
    ax = latency_to_the_knee(Made(limited_by="generator")).axes[0]
    lines = {line.get_gid(): line for line in ax.lines}
    assert list(lines["knee lean"].get_xdata()) == [1000, 4000, 8000]
    assert list(lines["step lean"].get_xdata()) == [1000, 4000]
    assert list(lines["generator lean"].get_xdata()) == [8000]
    assert to_hex(lines["generator lean"].get_markerfacecolor()) == "#ffffff"
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [line.get_ydata()[0] for line in ax.lines if line.get_gid() == "bound"] == [0.1]


def test_where_a_server_ends_has_its_bounds_and_the_stage_that_checked_it() -> None:
    ax = where_servers_end(Made()).axes[0]
    ends = {line.get_gid(): line.get_xdata()[0] for line in ax.lines if line.get_gid()}
    assert ends == {"end here": 19_936, "end there": 1e6, "check": 19_930}
    assert [list(line.get_xdata()) for line in ax.lines if not line.get_gid()] == [[9e5, 1.2e6]]
    assert [line.get_marker() for line in ax.lines if line.get_gid() == "check"] == ["X"]
    assert "fd_limit at 19.9k" in ax.texts[0].get_text()


@pytest.mark.parametrize("draw", [draw for _, _, draw in COMPARISON_FIGURES])
def test_each_figure_can_be_drawn_of_nothing_and_carries_its_caption(draw: Any) -> None:
    nothing = Made()
    nothing.results, nothing.entries = [], []
    for made in (Made(), nothing):
        plot = draw(made)
        assert plot.get_supxlabel() == Made.caption
        assert image_bytes(plot, "png")
