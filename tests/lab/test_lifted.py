"""A broken stage runs once more with its limit lifted; one that held, or that no lay-out lifts, does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wslab.core.stage import Stage
from wslab.lab import experiment
from wslab.lab.runs import Run


def run_of(outcome: str, limit: str = "ephemeral_ports", side: str = "swarm", **more: Any) -> Run:
    stage = Stage.of(connections=3000, source_addresses=1, label="mine").as_dict()
    findings = [{"limit": limit, "side": side, "at_connections": 2000}] if outcome == "broke" else []
    effective = {"target": more.pop("target")} if "target" in more else {}
    stages = {"asked": stage, "effective": effective}
    manifest = {"run_id": "r1", "outcome": outcome, "stage": stages, "findings": findings, **more}
    return Run(Path("r1"), manifest)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    def run_stage(**parameters: Any) -> str:
        calls.append(parameters)
        return "the second run"

    monkeypatch.setattr(experiment, "run_stage", run_stage)
    return calls


def test_the_same_load_runs_again_with_nothing_changed_but_what_lifts_the_limit(asked: list[dict[str, Any]]) -> None:
    run = run_of("broke")
    assert experiment.run_lifted(run) == "the second run"
    (parameters,) = asked
    assert parameters.pop("on_event") is None
    assert parameters == {**run.asked, "source_addresses": "auto", "label": "r1 lifted"}
    assert Stage.of(**parameters).connections == 3000


@pytest.mark.parametrize(
    "run",
    [
        run_of("held"),
        run_of("aborted"),
        run_of("broke", "epoll_watches", "kernel"),
        run_of("broke", target="ws://127.0.0.1:9000"),
        run_of("broke", enclosure={"netns": True}),
        run_of("broke", specs={"swarm": {"connections_before": 9}}),
    ],
    ids=lambda run: run.outcome,
)
def test_a_run_that_nothing_is_to_be_lifted_for_stands_for_itself(run: Run, asked: list[dict[str, Any]]) -> None:
    assert experiment.run_lifted(run) is run
    assert asked == []
