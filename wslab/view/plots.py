"""The figures: each a function from recorded runs to a figure, drawn again at any time without load."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from wslab.view.plots_breaks import expected_and_named, predicted_and_measured
from wslab.view.plots_compare import latency_to_the_knee, servers_side_by_side, where_servers_end
from wslab.view.plots_frame import Plot
from wslab.view.plots_hosts import hosts_over_time
from wslab.view.plots_run import (
    connections_over_time,
    cpu_memory_over_time,
    latency,
    memory_over_connections,
)
from wslab.view.plots_stages import stages_overview, where_things_break

if TYPE_CHECKING:
    from wslab.lab.runs import Run

__all__ = [
    "RUN_FIGURES",
    "connections_over_time",
    "cpu_memory_over_time",
    "expected_and_named",
    "hosts_over_time",
    "latency",
    "latency_to_the_knee",
    "memory_over_connections",
    "predicted_and_measured",
    "run_figures",
    "servers_side_by_side",
    "stages_overview",
    "where_servers_end",
    "where_things_break",
]

# The figures of one run: file name, what to conclude from it, function.
RUN_FIGURES: tuple[tuple[str, str, Callable[[Run], Plot]], ...] = (
    (
        "connections",
        "A straight climb to the line that was asked for is a stage that held; the rate below shows whether opening "
        "got slower with every connection, long before anything failed.",
        connections_over_time,
    ),
    (
        "cpu-memory",
        "Who used the cores, and how far memory was from its reserve. A swarm at its limit beside an idle server "
        "measures the swarm.",
        cpu_memory_over_time,
    ),
    (
        "memory",
        "What one more connection costs. The distance to the floor is the price of WebSocket; the kernel's share is "
        "the price of TCP, and no process shows it.",
        memory_over_connections,
    ),
    (
        "latency",
        "The share of handshakes and messages that waited long. Round trips count from the moment a message was due, "
        "so a stall shows.",
        latency,
    ),
)

# What to conclude from the figure of a run over several hosts.
HOSTS_WORDS = (
    "Whether each host of the swarm opened its part at the same pace. One that lags behind, or whose cores are all "
    "busy, limits the whole; a line that ends early is a host that was lost."
)


def run_figures(run: Run) -> list[tuple[str, str, Plot]]:
    """Draw the figures of one run for which it recorded anything, as (file name, what to conclude, figure)."""
    drawn = []
    for name, words, draw in RUN_FIGURES:
        recorded = run.latency if draw is latency else run.samples
        if len(recorded) > 1:
            drawn.append((name, words, draw(run)))
    if run.hosts:
        drawn.append(("hosts", HOSTS_WORDS, hosts_over_time(run)))
    return drawn
