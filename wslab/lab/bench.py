"""`wslab bench`: what WebSocket costs over raw TCP, and whether the cost grows, as ratios within one run.

Stages against the lean server and against the floor alternate, so that other load on the machine affects both. Each
pair gives one ratio; the median and the spread of the ratios are reported, never an absolute time alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from wslab.core.comparison import FLOOR, schedule, worst
from wslab.core.plan import refusal
from wslab.core.quantities import BadInput, format_count
from wslab.core.records import ABORTED, HELD
from wslab.core.stage import Stage
from wslab.lab.experiment import run_stage
from wslab.lab.tables import Table, seconds_text
from wslab.machine.procfs import read_host

LEAN = "lean"
# The figures compared: key of the summary, words.
RATE = ("connections_per_second", "connections/s")
ECHOES = ("verify_messages_per_second", "echo messages/s")
# Reported at the largest count only: at a small one the spare pages in the kernel's slabs dominate.
BYTES = ("total_bytes_per_connection", "bytes per connection")
# CPU time of both ends, in seconds; told in µs beside the rates.
CPU = {what: (f"server_cpu_seconds_per_{what}", f"swarm_cpu_seconds_per_{what}") for what in ("connection", "message")}
HOLD_SECONDS = 2.0
# Starting, holding and stopping a stage takes about as long as opening and verifying so many connections.
START_WEIGHT = 40_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio of two figures, one value a repetition.

    Attributes:
        title: what was divided by what.
        values: one ratio a repetition, in the order they were measured.
        of: the medians of numerator and denominator, with the unit of the figure.
    """

    title: str
    values: tuple[float, ...]
    of: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the ratio for JSON."""
        spread = {"median": median(self.values), "min": min(self.values), "max": max(self.values)}
        return {"title": self.title, **spread, "values": list(self.values), "medians": list(self.of)}

    def cells(self) -> tuple[str, ...]:
        """Return the row of this ratio in a table: title, median, spread, and the medians that were divided."""
        spread = f"{min(self.values):.2f}–{max(self.values):.2f}"
        numerator, denominator = self.of
        return (self.title, f"{median(self.values):.2f}", spread, figure_text(numerator), figure_text(denominator))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """All ratios of one bench.

    Attributes:
        ratios: the ratios of the stages that held.
        broken: the stages that did not hold, a line each.
        outcome: the worst of all stages.
        machine: CPU, kernel and date of the measurement.
        repetitions: how often each pair was measured.
    """

    ratios: tuple[Ratio, ...]
    broken: tuple[str, ...]
    outcome: str
    machine: str
    repetitions: int

    def as_dict(self) -> dict[str, Any]:
        """Return the bench for JSON."""
        return {
            "machine": self.machine,
            "repetitions": self.repetitions,
            "outcome": self.outcome,
            "ratios": [ratio.as_dict() for ratio in self.ratios],
            "broken": list(self.broken),
        }

    def text(self) -> str:
        """Return the bench as a table."""
        headings = ("ratio", "median", "min–max", "median of", "to that of")
        table = Table(headings=headings, rows=[ratio.cells() for ratio in self.ratios], numbers=(1, 2, 3, 4))
        lines = [f"{self.machine}, {self.repetitions} alternating repetitions", table.text()]
        lines += [f"did not hold: {text}" for text in self.broken]
        return "\n".join(lines)


def bench(
    counts: Sequence[int],
    repetitions: int,
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> Bench:
    """Measure lean against floor at each count, and the largest count against the smallest.

    Args:
        counts: connections of the stages, such as `[10_000, 100_000]`.
        repetitions: how often each pair is measured.
        say: called with one line of progress a stage.
        clock: monotonic time in seconds.

    Raises:
        BadInput: a count is out of reach of this machine's memory; nothing was started then.
        KeyboardInterrupt: the user stopped it.
    """
    counts = sorted(set(counts))
    host = read_host()
    for count in counts:
        if too_large := refusal(Stage(connections=count), host):
            raise BadInput(too_large)
    figures: dict[tuple[str, int], list[dict[str, Any]]] = {}
    broken: list[str] = []
    outcomes: list[str] = []
    machine = ""
    steps = [step[1:] for step in schedule((FLOOR, LEAN), counts, repetitions)]
    started = clock()
    with tempfile.TemporaryDirectory(prefix="wslab-bench-") as folder:
        for index, (kind, count) in enumerate(steps):
            run = run_stage(connections=count, server=kind, hold_seconds=HOLD_SECONDS, message_rate=0, data_dir=folder)
            if run.outcome == ABORTED:
                raise KeyboardInterrupt
            machine = machine_line(run)
            outcomes.append(run.outcome)
            held = run.outcome == HELD
            if not held:
                broken.append(f"{kind} at {format_count(count)}: {run.outcome}, {run.reason}")
            # Figures of a stage that did not hold cannot be compared; an empty entry keeps the repetitions paired.
            figures.setdefault((kind, count), []).append(run.summary if held else {})
            what = figures_text(run.summary) if held else broken[-1]
            left = seconds_left(clock() - started, steps, index + 1)
            say(f"{index + 1}/{len(steps)}  {kind:<10} {format_count(count):>6}  {what}{left}")
    return Bench(
        ratios=tuple(ratios_of(figures, counts)),
        broken=tuple(broken),
        outcome=worst(outcomes),
        machine=machine,
        repetitions=repetitions,
    )


def seconds_left(elapsed_seconds: float, steps: Sequence[tuple[str, int]], done: int) -> str:
    """Return how long the rest will take, estimated from the stages that are done; empty text after the last."""
    weights = [count + START_WEIGHT for _, count in steps]
    left = elapsed_seconds / sum(weights[:done]) * sum(weights[done:])
    return f"  {seconds_text(left)} left" if done < len(steps) else ""


def ratios_of(figures: dict[tuple[str, int], list[dict[str, Any]]], counts: Sequence[int]) -> list[Ratio]:
    """Return the ratios of all pairs that were measured."""
    ratios = []
    for count in counts:
        for key, words in (RATE, ECHOES, BYTES) if count == counts[-1] else (RATE, ECHOES):
            title = f"lean / floor, {words} at {format_count(count)}"
            ratios.append(ratio(title, key, figures[LEAN, count], figures[FLOOR, count]))
        for what, keys in CPU.items():
            for key in keys:
                side = key.partition("_")[0]
                title = f"lean / floor, CPU of the {side} a {what} at {format_count(count)}"
                ratios.append(ratio(title, key, figures[LEAN, count], figures[FLOOR, count]))
    low, high = counts[0], counts[-1]
    if low != high:
        for kind in (LEAN, FLOOR):
            title = f"{kind}, connections/s at {format_count(high)} / {format_count(low)}"
            ratios.append(ratio(title, RATE[0], figures[kind, high], figures[kind, low]))
    return [found for found in ratios if found.values]


def ratio(title: str, key: str, above: list[dict[str, Any]], below: list[dict[str, Any]]) -> Ratio:
    """Divide one figure of the stages `above` by the same of those `below`, repetition by repetition."""
    pairs = [(a[key], b[key]) for a, b in zip(above, below, strict=True) if a.get(key) and b.get(key)]
    medians = (median(a for a, _ in pairs), median(b for _, b in pairs)) if pairs else (0.0, 0.0)
    return Ratio(title=title, values=tuple(a / b for a, b in pairs), of=medians)


def figures_text(summary: dict[str, Any]) -> str:
    """Return what one stage measured, in words: rates, and the CPU time of server + swarm."""
    texts = [f"{summary.get(key) or 0:>8,.0f} {words}" for key, words in (RATE, ECHOES)]
    for what, keys in CPU.items():
        costs = [summary[key] for key in keys if summary.get(key)]
        if len(costs) == len(keys):
            texts.append(f"{1e6 * costs[0]:4.1f} + {1e6 * costs[1]:4.1f} µs a {what}")
    return "  ".join(texts)


def figure_text(figure: float) -> str:
    """Return a rate or a size as it is, a CPU time (which is far below one second) in µs."""
    return f"{figure * 1e6:,.1f} µs" if 0 < figure < 0.1 else f"{figure:,.0f}"


def machine_line(run: Any) -> str:
    """Return the machine, kernel and date that the figures hold for."""
    host = run.host
    return f"{host.get('cpu_count')} CPUs ({host.get('cpu_model')}), Linux {host.get('kernel')}, {run.created_at[:10]}"
