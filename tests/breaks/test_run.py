"""Breaking limits on purpose: predicted, met, named and lifted; skipped with the reason where that cannot be done."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isolated import needs
from wslab.breaks import run as breaks
from wslab.breaks.atlas import RESULTS, Atlas, BreakResult
from wslab.breaks.enclosure import Enclosure
from wslab.breaks.run import ShardAct, run_break, run_breaks
from wslab.breaks.table import BREAKS
from wslab.breaks.trial import COUNTED, KILL_SHARD, STOP_SHARDS, Break, Trial
from wslab.core.host import Host
from wslab.core.quantities import BadInput
from wslab.machine.sysctls import FILE_MAX, NR_OPEN

ONE_EACH = {"server_shards": 1, "swarm_workers": 1, "hold_seconds": 0.1, "message_rate": 0.0}
DESCRIPTORS = Break(
    name="fd_limit",
    limit="fd_limit",
    side="swarm",
    title="few descriptors",
    broken=Trial(
        parameters={"connections": 150, **ONE_EACH, "server_shards": 2}, enclosure=Enclosure(fd_limit={"swarm": 100})
    ),
    remedy="more workers",
    changes={"swarm_workers": 5},
    unit="connections",
    tolerance=COUNTED,
)
PORTS = Break(
    name="bind_ports",
    limit="bind_ports",
    side="swarm",
    title="few ports",
    broken=Trial(
        parameters={"connections": 150, **ONE_EACH, "source_addresses": 1},
        enclosure=Enclosure(netns=True, sysctls={"net.ipv4.ip_local_port_range": "32768 32867"}),
        specs={
            "server": {"host": "0.0.0.0"},
            "swarm": {"destination_addresses": ["127.0.0.1", "127.1.0.1"], "bind_without_no_port": True},
        },
    ),
    remedy="ports chosen by connect",
    changes={"specs": {"server": {"host": "0.0.0.0"}, "swarm": {"destination_addresses": ["127.0.0.1", "127.1.0.1"]}}},
    unit="connections",
    tolerance=COUNTED,
)
SHARED = replace(
    DESCRIPTORS,
    name="nr_open",
    broken=Trial(parameters=DESCRIPTORS.broken.parameters, enclosure=Enclosure(global_sysctls={NR_OPEN: 4000})),
)
DONE = BreakResult(name="conntrack", limit="conntrack", side="kernel", title="t", remedy="r")


def finding(limit: str, side: str = "kernel") -> dict[str, Any]:
    return {"limit": limit, "side": side, "at_connections": 1, "evidence": "e", "remedy": "r"}


def test_a_break_that_anybody_can_make_is_named_predicted_and_lifted(tmp_path: Path) -> None:
    result = run_break(DESCRIPTORS, tmp_path)
    assert result.named == ("fd_limit",)
    assert result.named_rightly
    assert result.held
    assert result.predicted == 36
    assert result.measured is not None
    assert 60 <= result.measured < 100, "most of the descriptors that are kept for the process itself are free"


@needs(PORTS.broken.enclosure or Enclosure())
def test_ports_that_bind_takes_are_taken_towards_every_destination(tmp_path: Path) -> None:
    result = run_break(PORTS, tmp_path)
    assert (result.named, result.predicted) == (("bind_ports",), 99)  # of 100, one is that of the listener
    assert result.close
    assert result.held
    assert result.next_limit == "ephemeral_ports"
    assert result.passed


def test_what_needs_root_is_skipped_with_the_reason_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ran: list[str] = []
    monkeypatch.setattr(breaks, "run_trial", lambda trial, folder, label: ran.append(label) or pytest.fail("ran"))
    lines: list[str] = []
    rooted = [item.name for item in BREAKS if any(t.enclosure and t.enclosure.needs_root for t in item.trials)]
    atlas = run_breaks(",".join(rooted), str(tmp_path), say=lines.append)
    assert {result.skipped for result in atlas.results} == {"it takes root to make this enclosure"}
    assert not ran
    assert atlas.status == 0
    assert lines[0] == f"1/{len(rooted)} {rooted[0]}: skipped, it takes root to make this enclosure"
    assert {"server_cpu", "generator"} <= set(rooted)
    free = [item.name for item in BREAKS if item.trials and item.name not in rooted]
    assert {"fd_limit_server", "fd_limit_swarm", "memory_reserve", "server_died", "server_silent"} <= set(free)


def test_a_break_that_would_harm_others_is_skipped_everywhere(tmp_path: Path) -> None:
    atlas = run_breaks("memory_machine", str(tmp_path))
    assert "others" in atlas.results[0].skipped
    (entry,) = json.loads((atlas.folder / RESULTS).read_text())["breaks"]
    assert entry["name"] == "memory_machine"


def test_what_everybody_would_have_lowered_is_left_out_unless_it_is_asked_for_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "it lowers fs.nr_open for everybody on this machine; it runs when it is named"
    monkeypatch.setattr(breaks, "obstacle", lambda enclosure: "")
    monkeypatch.setattr(breaks, "find_breaks", lambda asked: (SHARED, DESCRIPTORS))
    ran: list[str] = []

    def run_break(item: Break, folder: Path, skipped: str = "") -> BreakResult:
        if not skipped:
            ran.append(item.name)
        return BreakResult(name=item.name, limit="l", side="s", title="t", remedy="r", skipped=skipped)

    monkeypatch.setattr(breaks, "run_break", run_break)
    assert [result.skipped for result in run_breaks("all", str(tmp_path)).results] == [reason, ""]
    assert run_breaks(f"all, {SHARED.name}", str(tmp_path)).results[0].skipped == ""
    assert ran == [DESCRIPTORS.name, SHARED.name, DESCRIPTORS.name]


def test_a_break_that_the_kernel_refuses_does_not_keep_the_others_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_break(item: Break, folder: Path, skipped: str = "") -> BreakResult:
        if item.name == "epoll_watches" and not skipped:
            raise BadInput("the enclosure cannot be made: the kernel refuses it")
        return replace(DONE, name=item.name, skipped=skipped)

    monkeypatch.setattr(breaks, "obstacle", lambda enclosure: "")
    monkeypatch.setattr(breaks, "run_break", run_break)
    atlas = run_breaks("epoll_watches,accept_queue", str(tmp_path))
    assert [result.skipped for result in atlas.results] == [
        "the enclosure cannot be made: the kernel refuses it",
        "",
    ]


def test_progress_says_how_long_the_rest_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaks, "obstacle", lambda enclosure: "")
    monkeypatch.setattr(
        breaks, "run_break", lambda item, folder, skipped: replace(DONE, name=item.name, skipped=skipped, seconds=20.0)
    )
    lines: list[str] = []
    run_breaks("conntrack,epoll_watches,nr_open,memory_machine,accept_queue", str(tmp_path), say=lines.append)
    begun = [line for line in lines if line.endswith(" left)") or "; " not in line]
    assert begun[0] == "1/5 conntrack: a stateful rule, and a table of 1,500 entries"
    assert [line[line.rindex("(") :] for line in begun if "left)" in line] == [
        *("(about 60 s left)", "(about 40 s left)", "(about 20 s left)")
    ]


def test_files_are_left_to_others_than_root_above_those_that_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Enclosure] = []
    monkeypatch.setattr(breaks, "read_host", lambda: Host(file_used=1200))
    monkeypatch.setattr(breaks, "enclosed", asked.append)
    monkeypatch.setattr(breaks, "run_stage", lambda **fields: pytest.fail("ran"))
    trial = Trial(parameters={"connections": 10}, enclosure=Enclosure(uid=65534), files_left=6000)
    assert trial.shared == (FILE_MAX,)
    with pytest.raises(pytest.fail.Exception, match="ran"):
        breaks.run_trial(trial, tmp_path, "files")
    assert asked == [Enclosure(uid=65534, global_sysctls={FILE_MAX: 7200})]


def test_a_break_that_takes_more_cpus_than_there_are_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    pinned = replace(DESCRIPTORS, broken=Trial(parameters={}, enclosure=Enclosure(cpus={"swarm": (1,)})))
    monkeypatch.setattr(breaks, "find_breaks", lambda asked: (pinned,))
    assert run_breaks("fd_limit", str(tmp_path)).results[0].skipped == "it takes 2 CPUs, and there is 1"


def test_a_load_that_cannot_fill_the_cpus_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    atlas = run_breaks("machine_cpu", str(tmp_path))
    assert atlas.results[0].skipped == "its load fills 16 CPUs, and there are 64"


def test_cpus_are_counted_among_those_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {7, 3})
    assert breaks._on_our_cpus(Enclosure(cpus={"server": (0,), "swarm": (1,)})) == Enclosure(
        cpus={"server": (3,), "swarm": (7,)}
    )


@pytest.mark.parametrize(("act", "hit"), [(STOP_SHARDS, [(11, 19), (12, 19)]), (KILL_SHARD, [(12, 9)])])
def test_the_shards_are_met_when_the_connections_are_held_and_the_master_is_not(
    act: str, hit: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: met.append((pid, int(number))))
    hand = ShardAct(act)
    hand({"event": "processes_ready", "role": "server", "pids": [10, 11, 12]})
    hand({"event": "processes_ready", "role": "swarm", "pids": [20, 21]})
    hand({"event": "phase_started", "phase": "ramp"})
    assert met == []
    hand({"event": "phase_started", "phase": "hold"})
    assert met == hit


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"findings": (finding("conntrack"),)}, True),
        ({"findings": (finding("conntrack", "server"),)}, False),
        ({"findings": ()}, False),
        ({"findings": (finding("conntrack"), finding("fd_limit"))}, False),
        ({"findings": (finding("fd_limit"), finding("conntrack"))}, False),
        ({"findings": (finding("conntrack"),), "then": "fd_limit"}, False),
        ({"findings": (finding("conntrack"),), "then": "fd_limit", "then_findings": (finding("fd_limit"),)}, True),
        (
            {
                "findings": (finding("conntrack"), finding("fd_limit")),
                "then": "fd_limit",
                "then_findings": (finding("fd_limit"),),
            },
            True,
        ),
        (
            {
                "findings": (finding("fd_limit"), finding("conntrack")),
                "then": "fd_limit",
                "then_findings": (finding("fd_limit"),),
            },
            False,
        ),
    ],
)
def test_named_rightly_is_the_expected_limit_first_and_no_other_but_the_one_that_comes_next(
    changes: dict[str, Any], right: bool
) -> None:
    about = {"name": "conntrack", "limit": "conntrack", "side": "kernel", "title": "t", "remedy": "r"}
    result = BreakResult(**{**about, **changes})
    assert result.named_rightly == right
    assert Atlas(folder=Path(), results=(result,)).status == (0 if right else 1)


@pytest.mark.parametrize(("measured", "close"), [(1020, True), (980, True), (1021, False), (None, False)])
def test_a_prediction_is_close_within_its_tolerance(measured: int | None, close: bool) -> None:
    about = {"name": "n", "limit": "l", "side": "s", "title": "t", "remedy": "r", "unit": "connections"}
    assert BreakResult(**about, tolerance=0.02, predicted=1000, measured=measured).close == close


def test_an_atlas_is_the_same_when_it_is_loaded_again(tmp_path: Path) -> None:
    atlas = Atlas(folder=tmp_path, results=(DONE, BreakResult(**PORTS_RESULT)))
    atlas.save()
    assert run_breaks(recorded=str(tmp_path)) == atlas
    with pytest.raises(BadInput, match=r"holds no breaks\.json"):
        run_breaks(recorded=str(tmp_path / "nowhere"))


PORTS_RESULT: dict[str, Any] = {
    "name": "ephemeral_ports",
    "limit": "ephemeral_ports",
    "side": "swarm",
    "title": "t",
    "remedy": "<more> addresses",
    "unit": "connections",
    "tolerance": 0.02,
    "asked": 3000,
    "predicted": 2000,
    "measured": 1999,
    "findings": (finding("ephemeral_ports", "swarm"),),
    "held": True,
    "run_dirs": ("a", "b"),
}


def test_an_atlas_shows_what_was_predicted_measured_named_and_held() -> None:
    skipped = BreakResult(name="tcp_mem", limit="tcp_mem", side="kernel", title="t", remedy="", skipped="shared")
    atlas = Atlas(folder=Path("here"), results=(BreakResult(**PORTS_RESULT), skipped))
    lines = atlas.text().splitlines()
    assert lines[1].split()[:5] == ["ephemeral_ports", "ephemeral_ports", "2,000", "1,999", "0.1%"]
    assert "tcp_mem: skipped, shared" in lines
    assert atlas.sentence == (
        "1 limit broken: 1 named rightly, 1 held with the remedy, 1 of 1 met where predicted; 1 skipped"
    )
    html = atlas._repr_html_()
    assert "1,999" in html
    assert "&lt;more&gt; addresses" in html
    assert atlas.as_dict()["breaks"][0]["passed"] is True
    assert repr(atlas.evidence()) == "ephemeral_ports: e"
