"""How random scenarios were named: each verdict, the matrix, what is kept, and one real scenario from end to end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isolated import needs
from wslab.breaks import confusion
from wslab.breaks.confusion import Confusion, Judged, judge_scenario, run_scenarios
from wslab.breaks.enclosure import Enclosure
from wslab.breaks.scenario import Lowered, Scenario
from wslab.breaks.trial import COUNTED, Trial
from wslab.core.quantities import BadInput
from wslab.view import plots

PORTS, FDS = (
    Lowered(limit="ephemeral_ports", side="swarm", ceiling=100),
    Lowered(limit="fd_limit", side="server", ceiling=120),
)
PARAMETERS = {"connections": 150, "server_shards": 2, "swarm_workers": 1, "hold_seconds": 0.1, "message_rate": 0.0}
TWO = Scenario(number=3, title="two", trial=Trial(parameters=PARAMETERS), lowered=(PORTS, FDS), tolerance=COUNTED)
NONE = Scenario(number=4, title="none", trial=Trial(parameters=PARAMETERS), lowered=(PORTS,), healthy=True)


def ended(*limits: tuple[str, str], outcome: str = "broke") -> Any:
    """Return a run that ended with these findings, the first of them first seen a second before the end."""
    found = [
        {"limit": limit, "side": side, "certainty": "proved", "first_seconds": (4.0, 4.0)} for limit, side in limits
    ]
    ramp = {
        "event": "phase_ended",
        "elapsed_seconds": 5.0,
        "phase": "ramp",
        "connections_open": 99,
        "connections_closed": 0,
    }
    begun = {"event": "phase_started", "elapsed_seconds": 3.0, "phase": "ramp"}
    phases = [{"name": "ramp", "started_seconds": 3.0, "ended_seconds": 5.0}]
    return SimpleNamespace(
        findings=found, outcome=outcome, events=[begun, ramp], phases=phases, run_id="run", preflight=[]
    )


@pytest.mark.parametrize(
    ("scenario", "run", "verdict", "named"),
    [
        (TWO, ended(("ephemeral_ports", "swarm"), ("fd_limit", "server")), "rightly", "ephemeral_ports (swarm)"),
        (TWO, ended(("fd_limit", "server")), "next in line", "fd_limit (server)"),
        (TWO, ended(("fd_limit", "swarm")), "wrong", "fd_limit (swarm)"),
        (TWO, ended(("unknown", "machine")), "unknown", "unknown (machine)"),
        (TWO, ended(outcome="held"), "wrong", "nothing"),
        (NONE, ended(outcome="held"), "rightly", "nothing"),
        (NONE, ended(("link", "kernel"), outcome="held"), "wrong", "link (kernel)"),
        (NONE, ended(outcome="crashed"), "wrong", "nothing"),
    ],
)
def test_a_scenario_is_judged_by_the_first_name(scenario: Scenario, run: Any, verdict: str, named: str) -> None:
    judged = judge_scenario(scenario, run)
    assert (judged.verdict, judged.named) == (verdict, named)


def test_the_predicted_count_and_the_time_to_the_name_are_measured() -> None:
    judged = judge_scenario(TWO, ended(("ephemeral_ports", "swarm")))
    assert (judged.predicted, judged.measured, judged.seconds_to_name) == (100, 99, 1.0)
    assert judged.off_by == pytest.approx(0.01)


NAMED = {"rightly": "link (kernel)", "wrong": "firewall (kernel)"}


def series(*verdicts: str) -> Confusion:
    judged = [
        Judged(number=n, title="t", expected="link (kernel)", named=NAMED.get(verdict, "unknown"), verdict=verdict)
        for n, verdict in enumerate(verdicts, 1)
    ]
    return Confusion(folder=Path("folder"), seed=7, asked=len(judged), caption="a machine", judged=tuple(judged))


def test_a_series_is_kept_with_its_matrix(tmp_path: Path) -> None:
    made = series("rightly", "wrong", "rightly")
    kept = Confusion(
        **{**{name: getattr(made, name) for name in ("seed", "asked", "caption", "judged")}, "folder": tmp_path}
    )
    kept.save()
    assert Confusion.load(tmp_path) == kept
    assert kept.matrix == {"link (kernel)": {"firewall (kernel)": 1, "link (kernel)": 2}}
    assert kept.as_dict()["verdicts"] == {"rightly": 2, "next in line": 0, "unknown": 0, "wrong": 1}
    with pytest.raises(BadInput, match=r"confusion\.json"):
        Confusion.load(tmp_path / "none")


@pytest.mark.parametrize(("verdicts", "status"), [(["rightly", "unknown"], 0), (["next in line"], 1), (["wrong"], 1)])
def test_a_wrong_name_fails_and_an_unknown_one_does_not(verdicts: list[str], status: int) -> None:
    assert series(*verdicts).status == status


def test_the_figure_has_a_field_for_each_name_that_was_given() -> None:
    ax = plots.expected_and_named(series("rightly", "wrong", "rightly")).axes[0]
    fields = {patch.get_gid(): patch.get_facecolor()[:3] for patch in ax.patches}
    assert set(fields) == {"link (kernel) named link (kernel)", "link (kernel) named firewall (kernel)"}
    assert len(set(fields.values())) == 2
    assert sorted(text.get_text() for text in ax.texts) == ["1", "2"]
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_a_figure_without_scenarios_says_so() -> None:
    assert plots.expected_and_named(series()).axes[0].texts


FEW_PORTS = Scenario(
    number=1,
    title="100 ports",
    trial=Trial(
        parameters={**PARAMETERS, "source_addresses": 1},
        enclosure=Enclosure(netns=True, sysctls={"net.ipv4.ip_local_port_range": "20000 20099"}),
    ),
    lowered=(PORTS,),
    busy=True,
    tolerance=COUNTED,
)


@needs(FEW_PORTS.trial.enclosure or Enclosure())
def test_scenarios_are_run_named_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confusion, "draw", lambda number, seed: FEW_PORTS)
    told: list[str] = []
    result = run_scenarios(1, 7, str(tmp_path), say=told.append)
    assert result.counts == {"rightly": 1}
    assert Confusion.load(result.folder) == result
    assert "1/1 100 ports: rightly" in told[0]


def test_an_interrupt_keeps_what_was_run_and_frees_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = iter([judge_scenario(NONE, ended(outcome="held"))])

    def run_scenario(scenario: Scenario, folder: Path) -> tuple[Judged, str]:
        try:
            return next(done), "a machine"
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(confusion, "draw", lambda number, seed: NONE)
    monkeypatch.setattr(confusion, "run_scenario", run_scenario)
    with pytest.raises(KeyboardInterrupt):
        run_scenarios(3, 7, str(tmp_path))
    (folder,) = (tmp_path / "breaks").iterdir()
    assert len(Confusion.load(folder).judged) == 1
