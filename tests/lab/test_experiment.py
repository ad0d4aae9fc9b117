"""A stage with stand-ins for its load: whatever happens, there is a saved run with an outcome and nothing is left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_load import commands
from wslab.core.evidence import plan_of
from wslab.core.host import Host
from wslab.core.plan import Plan
from wslab.core.quantities import BadInput
from wslab.core.stage import Stage
from wslab.lab import experiment, registry, store
from wslab.lab.experiment import run_stage
from wslab.lab.runs import Run

Event = dict[str, Any]


pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def run(data_dir: Path, on_event: Callable[[Event], None] | None = None, swarm: str = "plain", **given: Any) -> Run:
    """Run a small stage with stand-ins."""
    parameters = {"connections": 20, "hold_seconds": 0, "memory_reserve": 0, "server_shards": 2, **given}
    return run_stage(on_event=on_event, commands=commands(swarm=swarm), data_dir=str(data_dir), **parameters)


def when(name: str, act: Callable[[Event], object], **fields: Any) -> Callable[[Event], None]:
    """Return a listener that acts once, at the first event of a name."""
    left = [act]

    def on_event(event: Event) -> None:
        if left and event["event"] == name and fields.items() <= event.items():
            left.pop()(event)

    return on_event


def interrupt(_: Event) -> None:
    raise KeyboardInterrupt


def only_run(data_dir: Path) -> Run:
    (path,) = (data_dir / "runs").iterdir()
    return Run.load(path)


def test_a_stage_that_reaches_all_it_asked_for_has_held(data_dir: Path) -> None:
    run_ = run(data_dir, label="a remark")
    assert (run_.outcome, run_.reason, run_.findings) == ("held", "", [])
    assert run_.summary["connections_open"] == run_.summary["connections_verified"] == 20
    manifest = run_.manifest
    assert [phase["name"] for phase in manifest["phases"]] == ["ramp", "hold", "verify", "drain"]
    assert all(phase["ended_seconds"] >= phase["started_seconds"] for phase in manifest["phases"])
    assert manifest["stage"]["asked"]["label"] == "a remark"
    assert manifest["stage"]["asked"]["swarm_workers"] == "auto"
    assert manifest["stage"]["effective"]["server_shards"] == 2
    assert manifest["stage"]["effective"]["swarm_workers"] >= 1
    assert manifest["run_id"] == run_.run_dir.name
    assert manifest["ended_at"] >= manifest["created_at"]
    assert {row["limit"] for row in manifest["preflight"]} >= {"fd_limit", "ephemeral_ports"}
    assert len(run_.samples) >= 2


def test_a_caller_hears_of_the_run_before_it_starts_and_of_all_that_is_recorded(data_dir: Path) -> None:
    heard: list[Event] = []
    run_ = run(data_dir, heard.append)
    assert heard[0] == {"event": "run_created", "run_dir": str(run_.run_dir), "connections": 20}
    recorded = [event for event in run_.events if event["elapsed_seconds"] <= heard[-1]["elapsed_seconds"]]
    assert [event for event in heard[1:] if event["event"] not in ("sample", "progress")] == recorded


def test_while_it_runs_the_manifest_says_so(data_dir: Path) -> None:
    outcomes = []
    run(data_dir, when("started", lambda _: outcomes.append(only_run(data_dir).outcome)))
    assert outcomes == ["running"]


def test_a_hold_lasts_as_long_as_it_was_asked_to(data_dir: Path) -> None:
    run_ = run(data_dir, hold_seconds=0.5)
    hold = run_.phases[1]
    assert 0.5 <= hold["ended_seconds"] - hold["started_seconds"] < 5.0


@pytest.mark.parametrize(("swarm", "words"), [("failing", "19 of 20 connections opened"), ("losing", "1 lost")])
def test_a_stage_that_misses_something_has_broken_and_is_diagnosed(data_dir: Path, swarm: str, words: str) -> None:
    run_ = run(data_dir, swarm=swarm)
    assert run_.outcome == "broke"
    assert words in run_.reason
    assert run_.findings


def test_a_recorded_run_can_be_judged_again_from_its_folder_alone(data_dir: Path) -> None:
    run_ = run(data_dir, swarm="failing", source_addresses=3)
    manifest = run_.manifest
    assert manifest["schema_version"] == 2
    assert Plan.from_record(manifest["plan"]).source_addresses == ("127.0.0.2", "127.0.0.3", "127.0.0.4")
    assert Host.from_record(manifest["limits"]).as_dict() == manifest["limits"]
    again = [finding.as_dict() for finding in Run.load(run_.run_dir).diagnose()]
    assert json.loads(json.dumps(again)) == run_.findings


def test_a_run_of_schema_version_1_has_the_plan_that_its_stage_tells(data_dir: Path) -> None:
    run_ = run(data_dir, swarm="failing", source_addresses=3)
    older = {key: value for key, value in run_.manifest.items() if key != "plan"} | {"schema_version": 1}
    assert plan_of(older) == Plan.from_record(run_.manifest["plan"])


def test_a_shard_that_is_killed_is_a_result_and_not_a_crash(data_dir: Path) -> None:
    def kill(_: Event) -> None:
        shards = [entry for entry in registry.list_processes() if entry.role == "server"][1:]
        os.kill(shards[0].pid, signal.SIGKILL)

    run_ = run(data_dir, when("progress", kill), swarm="slow", connections=10_000)
    assert run_.outcome == "broke"
    assert "server_died" in [finding["limit"] for finding in run_.findings]
    assert [phase["name"] for phase in run_.phases] == ["ramp", "drain"]


@pytest.mark.parametrize("role", ["swarm", "recorder"])
def test_a_process_of_ours_that_is_killed_is_a_crash_that_keeps_what_it_measured(data_dir: Path, role: str) -> None:
    pids: dict[str, int] = {}

    def on_event(event: Event) -> None:
        if event["event"] == "processes_ready":
            pids[event["role"]] = event["pids"][0]
        elif event["event"] == "progress" and role in pids:
            os.kill(pids.pop(role), signal.SIGKILL)

    run_ = run(data_dir, on_event, swarm="slow", connections=10_000)
    assert run_.outcome == "crashed"
    assert run_.reason.startswith(f"a process of the {role} ended by itself")
    assert len(run_.samples) >= 1


def test_a_supervisor_that_is_killed_is_a_crash(data_dir: Path) -> None:
    def kill(_: Event) -> None:
        (entry,) = [entry for entry in registry.list_processes() if entry.role == "supervisor"]
        os.kill(entry.pid, signal.SIGKILL)

    run_ = run(data_dir, when("started", kill), swarm="slow")
    assert (run_.outcome, run_.reason) == ("crashed", "the supervisor ended (signal SIGKILL)")


def test_an_interrupt_drains_and_saves_and_is_not_raised(data_dir: Path) -> None:
    run_ = run(data_dir, when("progress", interrupt), swarm="slow", connections=10_000)
    assert run_.outcome == "aborted"
    assert run_.reason.startswith("stopped by the user; ")
    assert [phase["name"] for phase in run_.phases] == ["ramp", "drain"]
    assert run_.findings == []
    assert run_.manifest["ended_at"]


@pytest.mark.parametrize("name", ["run_created", "process_started", "processes_ready"])
def test_an_interrupt_before_the_first_phase_is_saved_as_well(data_dir: Path, name: str) -> None:
    run_ = run(data_dir, when(name, interrupt))
    assert (run_.outcome, run_.reason) == ("aborted", "stopped by the user; none of 20 connections was tried")


def test_a_second_interrupt_does_not_wait_for_the_draining(data_dir: Path) -> None:
    interrupts = when("progress", interrupt, phase="ramp"), when("phase_started", interrupt, phase="drain")
    run_ = run(data_dir, lambda event: [act(event) for act in interrupts], swarm="slow", connections=10_000)
    assert run_.outcome == "aborted"
    assert run_.events[-1]["event"] == "stopped"


def test_a_supervisor_that_was_told_to_stop_by_somebody_else_is_an_abort(data_dir: Path) -> None:
    run_ = run(
        data_dir,
        when("progress", lambda _: registry.clean(registry.list_processes())),
        swarm="slow",
        connections=10_000,
    )
    assert run_.outcome == "aborted"
    assert run_.reason.startswith("stopped from outside; ")
    assert registry.list_processes() == []


def test_a_reserve_that_is_reached_ends_the_ramp_and_is_named(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "refusal", lambda stage, host: None)
    run_ = run(data_dir, swarm="slow", connections=10_000, memory_reserve="1000GiB")
    assert run_.outcome == "broke"
    assert [finding["limit"] for finding in run_.findings] == ["memory_reserve"]
    assert "memory_reserve" in run_.reason


def test_a_server_that_cannot_start_is_a_crash_with_its_own_words(data_dir: Path) -> None:
    own = commands(server="refusing")
    run_ = run_stage(Stage(connections=20), commands=own, data_dir=str(data_dir))
    assert (run_.outcome, run_.reason) == ("crashed", "cannot listen on 127.0.0.1:80: Permission denied")
    assert run_.findings == []


def test_an_error_in_the_callers_own_code_is_raised_after_the_run_was_saved(data_dir: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run(data_dir, when("started", lambda _: 1 // 0))
    run_ = only_run(data_dir)
    assert run_.outcome == "crashed"
    assert run_.reason.startswith("ZeroDivisionError")
    assert run_.events[-1]["event"] == "stopped"


def test_figures_that_cannot_be_computed_leave_a_saved_run(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "summarize", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run(data_dir)
    assert only_run(data_dir).outcome == "crashed"
    assert "the figures cannot be computed" in only_run(data_dir).reason


def test_an_interrupt_while_saving_does_not_leave_a_run_that_says_it_is_running(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [KeyboardInterrupt]
    read_events = store.read_events

    def interrupted(run_dir: Path) -> list[Event]:
        if left:
            raise left.pop()
        return read_events(run_dir)

    monkeypatch.setattr(store, "read_events", interrupted)
    assert run(data_dir).outcome == "held"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": "ws://192.0.2.1:80/"}, "target 192.0.2.1 is not loopback"),
        ({"target": "http://127.0.0.1"}, "is not usable"),
        ({"connections": "0.5"}, "connections=0.5"),
        ({"connectoins": 5}, "unknown parameter connectoins"),
        ({"connections": "900M"}, "connections=900M needs about .* this machine can hold about"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    data_dir: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        run_stage(data_dir=str(data_dir), **given)
    assert not data_dir.exists()


def test_a_data_folder_that_cannot_be_written_is_refused(data_dir: Path) -> None:
    data_dir.write_text("a file", encoding="utf-8")
    with pytest.raises(BadInput, match="cannot be written"):
        run(data_dir)


def test_the_swarm_is_told_what_the_stage_asks_for(data_dir: Path) -> None:
    commandlines: list[list[str]] = []

    def read(event: Event) -> None:
        commandlines.append(Path(f"/proc/{event['pids'][0]}/cmdline").read_text("utf-8").split("\0"))

    parameters = {"message_rate": "0.5", "message_bytes": "1KiB", "ramp_rate": "5000", "source_addresses": 3}
    run(data_dir, when("processes_ready", read, role="swarm"), **parameters)
    spec = json.loads(commandlines[0][-2])
    assert (spec["message_rate"], spec["message_bytes"], spec["ramp_rate"]) == (0.5, 1024, 5000)
    assert spec["source_addresses"] == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    assert spec["connections"] == 20


def test_a_server_that_runs_already_is_loaded_without_starting_one(data_dir: Path) -> None:
    roles: list[str] = []
    specs: list[dict[str, Any]] = []

    def on_event(event: Event) -> None:
        if event["event"] == "processes_ready":
            roles.append(event["role"])
            specs.append(json.loads(Path(f"/proc/{event['pids'][0]}/cmdline").read_text("utf-8").split("\0")[-2]))

    run_ = run(data_dir, on_event, target="ws://127.0.0.1:9/chat")
    assert run_.outcome == "held"
    assert roles == ["recorder", "swarm"]
    assert specs[1]["url"] == "ws://127.0.0.1:9/chat"
    assert (run_.stage["target"], run_.summary["server_shards"]) == ("ws://127.0.0.1:9/chat", 0)


def test_a_target_outside_loopback_is_dialled_from_the_machines_own_address() -> None:
    stage = Stage(connections=2, server="ws://192.0.2.1/")
    host = Host(cpu_count=2)
    command = experiment.start_command(stage, experiment.resolve(stage, host))
    assert command["server"] is None
    assert command["swarm"]["source_addresses"] == ()


def test_a_specification_can_be_changed_for_each_process_and_for_the_supervisor() -> None:
    stage = Stage(connections=2)
    plan = experiment.resolve(stage, Host(cpu_count=2))
    own = {"swarm": {"handshake_timeout_seconds": 1.5}, "supervisor": {"no_progress_seconds": 4.0}}
    command = experiment.start_command(stage, plan, own=own)
    assert (command["swarm"]["handshake_timeout_seconds"], command["no_progress_seconds"]) == (1.5, 4.0)
    assert command["swarm"]["connections"] == 2


def test_the_plan_knows_how_ports_are_taken() -> None:
    plan = experiment.resolve(Stage(connections=2), Host(cpu_count=2))
    dialled = experiment.as_dialled(plan, {"destination_addresses": ["a", "b"], "bind_without_no_port": True})
    assert (dialled.destinations, dialled.ports_at_bind) == (2, True)
    assert experiment.as_dialled(plan, {}) == plan
