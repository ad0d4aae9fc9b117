"""A comparison with made-up stages: the order in which they run, and that none is lost by what happens to another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from wslab.core.comparison import FLOOR
from wslab.core.quantities import BadInput
from wslab.lab import compare as module
from wslab.lab.compare import RECORD, Comparison, cell, compare, end_text


class Made(NamedTuple):
    """What a comparison reads of a run."""

    run_id: str
    outcome: str
    summary: dict[str, Any]
    reason: str = ""
    findings: list[dict[str, Any]] = []  # noqa: RUF012
    manifest: dict[str, Any] = {"disturbed_by": ["apt"]}  # noqa: RUF012


# What a server does when it is asked for the n-th time: an outcome, or an error to raise.
Behaviour = Callable[[str, int], str | BaseException]


class Stages:
    """Stands in for `run_stage`, and keeps what it was asked for and what was on disk by then."""

    def __init__(self, behaviour: Behaviour, folder: Path) -> None:
        self.asked: list[dict[str, Any]] = []
        self.recorded: list[int] = []
        self._behaviour, self._folder = behaviour, folder

    def __call__(self, **parameters: Any) -> Made:
        server, count = parameters["server"], parameters["connections"]
        self.asked.append(parameters)
        (path,) = self._folder.glob(f"comparisons/*/{RECORD}")
        self.recorded.append(len(json.loads(path.read_text("utf-8"))["order"]))
        done = self._behaviour(server, sum(asked["server"] == server for asked in self.asked))
        if isinstance(done, BaseException):
            raise done
        rate = {FLOOR: 10_000.0}.get(server, 5_000.0) + len(self.asked)
        knee = {"messages_per_second": 8 * rate, "limited_by": "generator", "steps": [], "latency_bound": 0.1}
        summary = {
            "connections": count,
            "connections_open": count,
            "connections_per_second": rate,
            "plateau_connections": count,
            "plateau_connections_at_start": 0,
            "kernel_bytes_at_start": 0,
            "server_user_bytes": 5e7 + count,
            "server_user_bytes_at_start": 5e7,
            "kernel_bytes": 8000.0 * count,
            "swarm_user_bytes": 5e7 + 1e3 * len(self.asked) ** 2,
            "swarm_user_bytes_at_start": 5e7,
            **({"knee": knee} if parameters["message_rate"] == "auto" else {}),
        }
        return Made(f"run-{len(self.asked)}", done, summary, "by a limit" if done != "held" else "")

    @property
    def order(self) -> list[str]:
        return [asked["server"] for asked in self.asked]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Stages]:
    def make(behaviour: Behaviour = lambda server, number: "held") -> Stages:
        made = Stages(behaviour, tmp_path)
        monkeypatch.setattr(module, "run_stage", made)
        return made

    return make


def test_the_floor_is_measured_too_and_repetitions_alternate(stages: Callable[..., Stages], tmp_path: Path) -> None:
    made = stages()
    done = compare("lean,asyncio", "1k", 2, check="2k", data_dir=tmp_path, hold_seconds=3)
    there = [FLOOR, "lean", "asyncio"]
    assert made.order == [*there, *reversed(there), *there]
    assert {asked["hold_seconds"] for asked in made.asked} == {3}
    assert [asked["message_rate"] for asked in made.asked] == [*["auto"] * 6, *[0] * 3]
    assert [asked["connections"] for asked in made.asked] == [*[1000] * 6, *[2000] * 3]
    assert {Path(asked["data_dir"]) for asked in made.asked} == {done.folder}
    assert [entry["role"] for entry in done.entries] == [*["measure"] * 6, *["check"] * 3]
    assert [entry["repetition"] for entry in done.entries[:6]] == [0, 0, 0, 1, 1, 1]
    assert {tuple(entry["disturbed_by"]) for entry in done.entries} == {("apt",)}


def test_of_several_counts_the_largest_is_compared_and_all_are_fitted(
    stages: Callable[..., Stages], tmp_path: Path
) -> None:
    made = stages()
    done = compare(["lean"], "2k,1k", 1, data_dir=tmp_path)
    assert [(asked["connections"], asked["message_rate"]) for asked in made.asked] == [
        *[(1000, 0)] * 2,
        *[(2000, "auto")] * 2,
    ]
    lean = done.results[1]
    assert len(lean["figures"]["connections_per_second"]["values"]) == 1
    assert lean["model"]["bytes_per_connection"] == pytest.approx(8001, rel=0.01)
    assert lean["model"]["bytes_per_connection_margin"] > 0


def test_the_record_is_written_after_every_stage_and_loads_again(stages: Callable[..., Stages], tmp_path: Path) -> None:
    made = stages()
    done = compare("lean", 1000, 2, data_dir=tmp_path, memory="16GiB", cpus=6)
    assert made.recorded == [0, 1, 2, 3]
    again = compare(recorded=str(done.folder))
    assert again.as_dict() == done.as_dict()
    assert again.text() == done.text()
    assert [entry["run_id"] for entry in again.entries] == ["run-1", "run-2", "run-3", "run-4"]
    assert {"here", "there"} <= again.results[0]["model"].keys()


@pytest.mark.parametrize("crash", ["crashed", RuntimeError("a mistake of ours")])
def test_the_last_server_crashing_loses_none_of_the_others(
    stages: Callable[..., Stages], tmp_path: Path, crash: str | BaseException
) -> None:
    made = stages(lambda server, number: crash if server == "asyncio" else "held")
    done = compare("lean,asyncio", 1000, 3, data_dir=tmp_path)
    assert made.order.count("asyncio") == 2  # It crashed twice in a row, and is not tried a third time.
    assert (made.order.count("lean"), made.order.count(FLOOR)) == (3, 3)
    floor, lean, last = done.results
    assert done.outcome == "crashed"
    assert (floor["outcome"], lean["outcome"], last["outcome"]) == ("held", "held", "crashed")
    assert last["said"].startswith("crashed: ")
    assert len(lean["figures"]["connections_per_second"]["values"]) == 3
    assert last["said"] in done.text()


def test_a_server_that_is_not_installed_says_so_in_its_row(stages: Callable[..., Stages], tmp_path: Path) -> None:
    missing = BadInput("server=picows needs picows, which is not installed: pip install picows")
    made = stages(lambda server, number: missing if server == "picows" else "held")
    done = compare("picows,lean", 1000, 2, data_dir=tmp_path)
    assert made.order.count("picows") == 1
    row = done.results[1]
    assert (row["outcome"], row["said"]) == ("refused", f"refused: {missing}")
    assert done.results[2]["outcome"] == "held"
    assert done.outcome == "broke"


def test_where_no_server_can_be_started_nothing_was_measured(stages: Callable[..., Stages], tmp_path: Path) -> None:
    stages(lambda server, number: BadInput("the fd limit is too low"))
    with pytest.raises(BadInput, match="the fd limit is too low"):
        compare("lean", 1000, 2, data_dir=tmp_path)


@pytest.mark.parametrize("how", ["aborted", KeyboardInterrupt()])
def test_an_interrupt_keeps_what_was_measured(
    stages: Callable[..., Stages], tmp_path: Path, how: str | BaseException
) -> None:
    made = stages(lambda server, number: how if (server, number) == ("lean", 2) else "held")
    done = compare("lean", 1000, 3, data_dir=tmp_path)
    assert (done.outcome, made.order) == ("aborted", [FLOOR, "lean", "lean"])
    assert done.results[0]["figures"]["connections_per_second"]["values"] == [10_001]
    assert Comparison.load(done.folder).outcome == "aborted"


def test_each_stage_is_told_with_what_is_left(stages: Callable[..., Stages], tmp_path: Path) -> None:
    stages(lambda server, number: "broke" if number == 2 else "held")
    said: list[str] = []
    times = iter([0.0, 10.0, 10.0, 40.0, 40.0, 70.0, 70.0, 80.0])
    compare("lean", 1000, 2, data_dir=tmp_path, say=said.append, clock=lambda: next(times))
    words = [" ".join(line.split()) for line in said]
    assert words[0] == "1/4 tcp_floor 1k 10,001 connections/s knee 80,008 messages/s (generator) 30 s left"
    assert words[1].endswith("(generator) 40 s left")
    assert words[2] == "3/4 lean 1k broke: by a limit 10 s left"
    assert words[3] == "4/4 tcp_floor 1k broke: by a limit"


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"servers": ""}, "servers"),
        ({"servers": "lena"}, "lean"),
        ({"connections": "1k,x"}, "connections"),
        ({"repetitions": 0}, "repetitions"),
        ({"check": "many"}, "check"),
        ({"memory": "16GiB"}, "cpus"),
        ({"memory": "big", "cpus": 6}, "memory"),
        ({"messages_each": -1}, "messages_each"),
        ({"connections": "900M"}, "900M"),
        ({"check": "900M"}, "900M"),
        ({"message_rate": "fast"}, "message_rate"),
        ({"recorded": "/nowhere"}, "/nowhere"),
    ],
)
def test_bad_input_is_refused_before_the_first_stage(
    stages: Callable[..., Stages], tmp_path: Path, settings: dict[str, Any], what: str
) -> None:
    made = stages()
    with pytest.raises(BadInput, match=what):
        compare(**{"servers": "lean", "data_dir": tmp_path, **settings})
    assert made.asked == []
    assert not (tmp_path / "comparisons").exists()


def test_a_damaged_record_is_refused_by_its_name(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"servers": []}'):
        (tmp_path / RECORD).write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match=RECORD):
            Comparison.load(tmp_path)


def test_a_figure_says_whose_limit_it_was_and_how_much_it_varied() -> None:
    one = {"median": 2000.0, "min": 1800.0, "max": 2200.0, "values": [1800.0, 2200.0], "limited_by": "generator"}
    assert cell(one, "rate") == "≥2k/s ±10%"
    assert cell({**one, "limited_by": "machine", "values": [2000.0]}, "rate") == "~2k/s"
    assert cell({**one, "median": None}, "rate") == "–"


def test_the_marks_are_explained_where_they_occur(stages: Callable[..., Stages], tmp_path: Path) -> None:
    stages()
    done = compare("lean", 1000, 2, data_dir=tmp_path)
    assert "≥40" in done.text()
    assert [note[0] for note in done.footnotes] == ["≥"]
    assert done.footnotes[0] in done.markdown()
    assert "| lean |" in done.markdown()
    assert "<table" in done._repr_html_()


def test_an_end_is_told_with_its_bounds_where_it_has_some() -> None:
    at = {"value": 1e6, "low": 9e5, "high": None}
    assert end_text({"limit": "memory_machine", "at_connections": at}) == "memory_machine at 1M (900k or more)"
    exact = {"value": 19_936.0, "low": None, "high": None}
    assert end_text({"limit": "fd_limit", "at_connections": exact}) == "fd_limit at 19.9k"
