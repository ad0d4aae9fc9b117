"""A stage in an enclosure: its limit breaks and is named, the machine's does not, and a dead caller leaves nothing."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eventually import eventually
from isolated import NARROW, NOBODY, STATEFUL, needs, traces
from wslab.breaks.enclosure import Enclosure
from wslab.breaks.isolation import enclosed
from wslab.core.diagnosis import diagnose
from wslab.core.evidence import Evidence
from wslab.core.plan import resolve
from wslab.core.quantities import BadInput
from wslab.core.stage import Stage
from wslab.lab import store
from wslab.lab.experiment import run_stage
from wslab.lab.place import this_machine
from wslab.machine.procfs import read_host, read_status

PORTS = Enclosure(
    netns=True,
    sysctls={
        "net.ipv4.ip_local_port_range": "32768 32867",
        "net.ipv4.ip_local_reserved_ports": "80,32778-32817",
    },
)
GUARDED = Enclosure(
    netns=True,
    nft="""table inet wslab { chain in {
        type filter hook input priority 0; tcp flags & (syn|ack) == syn ct count over 60 counter reject with tcp reset;
    }; }""",
)
FULL = replace(
    NARROW, nft=STATEFUL, uid=NOBODY, fd_limit={"server": 300}, processes={"swarm": 20}, cpus={"server": (0,)}
)

CALLER = """
import sys
from isolated import NARROW
from wslab.breaks.isolation import enclosed
from wslab.lab.experiment import run_stage

def tell(event):
    if event.get("phase") == "hold" and event["event"] == "phase_started":
        print("holding", flush=True)

run_stage(connections=20, hold_seconds=60, data_dir=sys.argv[1], place=enclosed(NARROW), on_event=tell)
"""


@pytest.fixture(autouse=True)
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of the enclosure that is made in this test; its log is kept apart."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(secrets, "token_hex", lambda count: f"{os.getpid():0{2 * count}x}")
    return f"wslab-{os.getpid():08x}"


@needs(PORTS)
def test_a_range_of_ports_that_is_too_small_breaks_inside_and_is_named(tmp_path: Path, name: str) -> None:
    run = run_stage(connections=150, source_addresses=1, hold_seconds=0, data_dir=str(tmp_path), place=enclosed(PORTS))
    assert (run.outcome, [finding["limit"] for finding in run.findings]) == ("broke", ["ephemeral_ports"])
    # Of 100 ports, 40 are reserved, and one is the server's own.
    assert "59 ports" in run.findings[0]["evidence"]
    predicted = [row["ceiling_connections"] for row in run.preflight if row["limit"] == "ephemeral_ports"]
    assert (predicted, run.findings[0]["at_connections"]) == ([59], 59)
    assert traces(name) == []


@needs(GUARDED)
def test_a_firewall_that_refuses_is_named_with_its_rule_or_by_elimination(tmp_path: Path, name: str) -> None:
    run = run_stage(connections=100, hold_seconds=0, data_dir=str(tmp_path), place=enclosed(GUARDED))
    (found,) = run.findings
    assert (found["limit"], found["side"], found["at_connections"]) == ("firewall", "kernel", 60)
    assert (found["certainty"], "ct count over 60" in found["evidence"]) == ("proved", True)
    # As it is without root, where nobody may read the rules.
    unread = [{**event, "rules": None} if event["event"] == "firewall" else event for event in run.events]
    (inferred,) = diagnose(Evidence.recorded(run.manifest, store.read_samples(run.run_dir), unread))
    assert (inferred.limit, inferred.certainty) == ("firewall", "inferred")
    assert traces(name) == []


@needs(FULL)
def test_a_stage_within_its_bounds_holds_under_another_user_too(tmp_path: Path, name: str) -> None:
    seen: list[int] = []

    def look(event: dict[str, object]) -> None:
        if event["event"] == "phase_started" and event["phase"] == "verify":
            seen.extend(int((read_status(pid) or {})["Uid"].split()[1]) for pid in pids)
        elif event["event"] == "processes_ready" and event["role"] != "recorder":
            pids.extend(event["pids"])  # type: ignore[arg-type]

    pids: list[int] = []
    run = run_stage(connections=100, hold_seconds=0.2, data_dir=str(tmp_path), place=enclosed(FULL), on_event=look)
    assert (run.outcome, run.reason) == ("held", "")
    assert len(seen) >= 4
    assert set(seen) == {NOBODY}
    assert (run.limits["uid"], run.limits["fd_hard"], run.limits["somaxconn"]) == (NOBODY, 300, 16)
    assert max(run.samples["tcp_inuse"]) < 250, "the recorder counts the sockets of the namespace alone"
    assert max(run.samples["conntrack_count"]) >= 100
    assert min(run.samples["server_pss_bytes"].dropna()) > 0
    assert traces(name) == []


def test_what_is_auto_is_planned_for_the_limits_inside_and_the_pace_is_that_of_the_machine() -> None:
    stage, host = Stage.of(connections=500, swarm_workers=3), read_host()
    plan = resolve(stage, host)
    with enclosed(Enclosure(fd_limit={"server": 164}))(stage, host, plan) as place:
        assert (place.plan.server_shards, place.plan.swarm_workers) == (5, 3)
        assert place.plan.pending_max == plan.pending_max
    with this_machine(stage, host, plan) as place:
        assert (place.plan, place.host, place.put_into({"server": None})) == (plan, host, {"server": None})


def test_the_machine_as_it_is_writes_no_settings() -> None:
    stage, host = Stage.of(connections=1, tune=True), read_host()
    with pytest.raises(BadInput, match="tune=True"), this_machine(stage, host, resolve(stage, host)):
        pass


@needs(NARROW)
def test_when_the_caller_is_killed_the_supervisor_puts_everything_back(
    tmp_path: Path, name: str, project_root: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{project_root}:{project_root / 'tests'}"}
    code = f"import secrets; secrets.token_hex = lambda count: {name.removeprefix('wslab-')!r}[-2 * count :]\n{CALLER}"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == "holding\n"
        assert len(traces(name)) == 3
        caller.send_signal(signal.SIGKILL)
    eventually(lambda: traces(name) == [])
