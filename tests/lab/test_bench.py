"""The bench with made-up stages: which are paired, in which order they run, and what comes of those that break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from wslab.core.quantities import BadInput
from wslab.lab import bench as module
from wslab.lab.bench import FLOOR, LEAN, Bench, bench, figures_text, ratio, ratios_of, seconds_left


class Made(NamedTuple):
    """What the bench reads of a run."""

    outcome: str
    summary: dict[str, Any]
    reason: str = ""
    host: dict[str, Any] = {"cpu_count": 2, "cpu_model": "a CPU", "kernel": "6.18"}  # noqa: RUF012
    created_at: str = "2025-01-02T03:04:00Z"


class Stages:
    """Stands in for `run_stage`: answers as `outcome_of` says and keeps what it was asked for."""

    def __init__(self, outcome_of: Callable[[int], str]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._outcome_of = outcome_of

    def __call__(self, **parameters: Any) -> Made:
        assert Path(parameters["data_dir"]).is_dir()
        self.asked.append(parameters)
        number, outcome = len(self.asked), self._outcome_of(len(self.asked))
        rate = (9_000 if parameters["server"] == LEAN else 10_000) - parameters["connections"] + number
        summary = {
            "connections_per_second": rate,
            "verify_messages_per_second": 4 * rate,
            "total_bytes_per_connection": 9_000.0,
        }
        return Made(outcome, summary if outcome == "held" else {"connections_per_second": 1}, "by a limit")

    @property
    def order(self) -> list[tuple[str, int]]:
        return [(asked["server"], asked["connections"]) for asked in self.asked]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stages]:
    def make(outcome_of: Callable[[int], str] = lambda number: "held") -> Stages:
        made = Stages(outcome_of)
        monkeypatch.setattr(module, "run_stage", made)
        return made

    return make


def test_pairs_alternate_and_every_other_repetition_runs_the_other_way_round(stages: Callable[..., Stages]) -> None:
    made = stages()
    bench([100, 10, 100], 2)
    there = [(FLOOR, 10), (LEAN, 10), (FLOOR, 100), (LEAN, 100)]
    assert made.order == [*there, *reversed(there)]
    assert {(asked["message_rate"], asked["hold_seconds"]) for asked in made.asked} == {(0, module.HOLD_SECONDS)}


def test_each_ratio_is_of_one_repetition_and_told_by_median_and_spread(stages: Callable[..., Stages]) -> None:
    stages()
    done = bench([10, 100], 3)
    titles = [found.title for found in done.ratios]
    assert titles == [
        "lean / floor, connections/s at 10",
        "lean / floor, echo messages/s at 10",
        "lean / floor, connections/s at 100",
        "lean / floor, echo messages/s at 100",
        "lean / floor, bytes per connection at 100",
        "lean, connections/s at 100 / 10",
        "tcp_floor, connections/s at 100 / 10",
    ]
    first = done.ratios[0].as_dict()
    assert first["values"] == [8992 / 9991, 8997 / 9998, 9000 / 9999]
    assert (first["median"], first["min"], first["max"]) == (8992 / 9991, 8997 / 9998, 9000 / 9999)
    assert first["medians"] == [8997, 9998]


def test_json_holds_the_machine_the_ratios_and_the_outcome(stages: Callable[..., Stages]) -> None:
    stages()
    done = bench([10], 1).as_dict()
    assert set(done) == {"machine", "repetitions", "outcome", "ratios", "broken"}
    assert set(done["ratios"][0]) == {"title", "median", "min", "max", "values", "medians"}
    assert done["machine"] == "2 CPUs (a CPU), Linux 6.18, 2025-01-02"
    assert (done["repetitions"], done["outcome"], done["broken"]) == (1, "held", [])


@pytest.mark.parametrize("outcome", ["broke", "crashed"])
def test_a_stage_that_did_not_hold_is_listed_and_its_figures_are_left_out(
    stages: Callable[..., Stages], outcome: str
) -> None:
    stages(lambda number: outcome if number == 3 else "held")
    done = bench([10], 3)
    assert done.outcome == outcome
    assert done.broken == (f"lean at 10: {outcome}, by a limit",)
    assert [len(found.values) for found in done.ratios] == [2, 2, 2]
    assert f"did not hold: lean at 10: {outcome}" in done.text()


def test_where_nothing_held_there_is_no_ratio_and_a_crash_is_the_worst(stages: Callable[..., Stages]) -> None:
    stages(lambda number: "crashed" if number == 2 else "broke")
    done = bench([10], 2)
    assert (done.ratios, done.outcome, len(done.broken)) == ((), "crashed", 4)
    assert done.text()


def test_an_interrupt_ends_the_bench(stages: Callable[..., Stages]) -> None:
    made = stages(lambda number: "aborted" if number == 2 else "held")
    with pytest.raises(KeyboardInterrupt):
        bench([10], 3)
    assert len(made.asked) == 2
    assert not Path(made.asked[0]["data_dir"]).exists()


def test_what_memory_cannot_hold_is_refused_before_the_first_stage(stages: Callable[..., Stages]) -> None:
    made = stages()
    with pytest.raises(BadInput, match="connections=900M needs about"):
        bench([10, 900_000_000], 1)
    assert made.asked == []


def test_each_stage_is_told_with_its_figures_and_what_is_left(stages: Callable[..., Stages]) -> None:
    stages(lambda number: "broke" if number == 2 else "held")
    said: list[str] = []
    times = iter([100.0, 110.0, 120.0])
    bench([10], 1, said.append, lambda: next(times))
    assert [" ".join(line.split()) for line in said] == [
        "1/2 tcp_floor 10 9,991 connections/s 39,964 echo messages/s 10 s left",
        "2/2 lean 10 lean at 10: broke, by a limit",
    ]


def test_what_is_left_counts_connections_and_the_time_that_any_stage_takes() -> None:
    steps = [(LEAN, 10_000), (LEAN, 100_000)]
    small, large = 10_000 + module.START_WEIGHT, 100_000 + module.START_WEIGHT
    assert seconds_left(10.0, steps, 1) == f"  {10 * large / small:.0f} s left"
    assert seconds_left(38.0, steps, 2) == ""


def test_a_figure_that_is_missing_or_nothing_makes_no_pair() -> None:
    rate = "connections_per_second"
    found = ratio("a title", rate, [{rate: 8}, {}, {rate: 9}, {rate: None}], [{rate: 10}, {rate: 10}, {rate: 0}, {}])
    assert (found.values, found.of) == ((0.8,), (8, 10))


def test_the_table_lines_up() -> None:
    pair = [{"a": 1234.0}], [{"a": 2468.0}]
    ratios = (ratio("x", "a", *pair), ratio("a longer title", "a", *pair))
    machine, head, *rows = (
        Bench(ratios=ratios, broken=(), outcome="held", machine="m", repetitions=1).text().split("\n")
    )
    assert machine == "m, 1 alternating repetitions"
    assert [len(line) for line in rows] == [len(head)] * 2
    for row, title in zip(rows, ("x", "a longer title"), strict=True):
        assert row.removeprefix(title).split() == ["0.50", "0.50–0.50", "1,234", "2,468"]


def test_cpu_is_told_in_microseconds_beside_the_rates_and_compared_with_the_floor() -> None:
    costs = {
        f"{side}_cpu_seconds_per_{what}": 9e-6 for side in ("server", "swarm") for what in ("connection", "message")
    }
    assert figures_text(costs).split()[-6:] == ["9.0", "+", "9.0", "µs", "a", "message"]
    figures = {
        (kind, 10): [costs | {"server_cpu_seconds_per_message": cost}] for kind, cost in ((LEAN, 9e-6), (FLOOR, 6e-6))
    }
    (found,) = [one for one in ratios_of(figures, [10]) if "server a message" in one.title]
    assert found.values == (1.5,)
    assert found.cells()[-2:] == ("9.0 µs", "6.0 µs")
