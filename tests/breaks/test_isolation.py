"""An enclosure on this machine: what is bound inside, what outside notices, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eventually import eventually
from isolated import NARROW, NOBODY, STATEFUL, WIDE, needs, traces
from wslab.breaks import isolation as isolation_module
from wslab.breaks.enclosure import Enclosure
from wslab.breaks.isolation import Isolation, obstacle
from wslab.core.quantities import BadInput
from wslab.lab import registry
from wslab.machine import sysctls
from wslab.machine.cgroup import read_quotas
from wslab.machine.procfs import read_host
from wslab.machine.sysctls import CONNTRACK_MAX, EPOLL_WATCHES, NR_OPEN, claim_sysctl, read_sysctl

QUOTAS = Enclosure(cpu_quota={"server": 1.5, "swarm": 0.25})
NARROW_LINK = Enclosure(netns=True, link={"kind": "tbf", "rate": "20mbit", "burst": 65_536, "limit": 1 << 20})
HANDED = Enclosure(netns=True, packet_cpu=min(os.sched_getaffinity(0)))
RULED = Enclosure(netns=True, nft=STATEFUL)
GLOBAL = (CONNTRACK_MAX, EPOLL_WATCHES)

# Makes an enclosure, puts a process into it, and waits to be killed; or dies at the given step of making it.
OWNER = """
import os, signal, subprocess, sys
from isolated import WIDE
from wslab.breaks import isolation
from wslab.machine import sysctls
from wslab.machine.enter import enter

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

name, step = sys.argv[1:]
if step == "make":
    isolation.Group.make = die
elif step:
    setattr(sysctls if step == "write_sysctl" else isolation, step, die)
with isolation.Isolation(WIDE, name) as made:
    entry = made.spec("server")["enclosure"]
    inside = subprocess.Popen(["sleep", "60"], preexec_fn=lambda: enter(entry))
    print(inside.pid, flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep logs apart from those of the person who runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def name() -> str:
    """Return a name that no other run of the tests has."""
    return f"wslab-test-{os.getpid()}"


@pytest.fixture
def machine() -> Iterator[dict[str, Any]]:
    """Return the limits of this machine, and check that they are the same afterwards; one test run at a time."""

    def is_free(setting: str) -> bool:
        try:
            os.close(claim_sysctl(setting))
        except BlockingIOError:
            return False
        return True

    for setting in GLOBAL:
        eventually(lambda setting=setting: is_free(setting), seconds=30)
    before, rules = read_host().as_dict(), ruleset()
    yield before
    steady = ("port_low", "port_high", "somaxconn", "conntrack_max", "epoll_watches_max", "fd_hard", "uid")
    after = read_host().as_dict()
    assert {key: after[key] for key in steady} == {key: before[key] for key in steady}
    assert ruleset() == rules


def ruleset() -> str:
    """Return the nft rules of this namespace."""
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


@needs(WIDE)
def test_inside_everything_is_bound_and_outside_only_what_is_one_for_the_whole_machine(
    name: str, machine: dict[str, Any]
) -> None:
    with Isolation(WIDE, name) as isolation:
        host, outside = isolation.read_host().as_dict(), read_host().as_dict()
        assert len(traces(name)) == 4
    wanted = {
        "port_low": 32768,
        "port_high": 33767,
        "somaxconn": 16,
        "fd_hard": 300,
        "fd_soft": 300,
        "nproc_soft": 5000,
        "memory_cgroup_limit_bytes": 128 << 20,
        "memory_cgroup_used_bytes": 0,
        "memory_cgroup_of": "server",
        "pids_cgroup_max": 20,
        "pids_cgroup_used": 0,
        "conntrack_max": 200_000,
        "conntrack_count": 0,
        "epoll_watches_max": 1_000_000,
        "uid": NOBODY,
        "conntrack_tracking": True,
    }
    assert {key: host[key] for key in wanted} == wanted
    changed = {key for key, value in outside.items() if value != machine[key] and "used" not in key}
    assert changed & set(wanted) <= {"conntrack_max", "epoll_watches_max", "conntrack_count"}
    assert traces(name) == []


@needs(NARROW)
def test_each_process_is_told_what_it_shares(name: str) -> None:
    with Isolation(NARROW, name) as isolation:
        server, swarm, recorder = (isolation.spec(role)["enclosure"] for role in ("server", "swarm", "recorder"))
    assert [len(server["cgroups"]), len(swarm["cgroups"])] == [1, 0]
    assert server["netns"] == swarm["netns"] == recorder["netns"] == f"/run/netns/{name}"
    assert set(recorder) == {"netns"}


@needs(QUOTAS)
def test_of_two_cpu_quotas_the_tighter_one_is_given_and_each_role_has_its_own(name: str) -> None:
    with Isolation(QUOTAS, name) as isolation:
        assert isolation.read_host().cpu_quota == 0.25
        for role, cpus in QUOTAS.cpu_quota.items():
            (group,) = isolation.spec(role)["enclosure"]["cgroups"]
            with subprocess.Popen(["sleep", "60"]) as inside:
                (Path(group) / "cgroup.procs").write_text(str(inside.pid))
                assert read_quotas(inside.pid)[0].cpus == cpus
                inside.kill()
    assert traces(name) == []


def test_a_setting_that_the_kernel_rounds_is_put_back_as_well(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "sys"
    (settings / "fs").mkdir(parents=True)
    (settings / "fs/nr_open").write_text("1048576\n")
    monkeypatch.setattr(sysctls, "SYSCTLS", settings)
    monkeypatch.setattr(isolation_module, "obstacle", lambda enclosure: "")
    monkeypatch.setattr(sysctls, "write_sysctl", lambda name, value: (settings / "fs/nr_open").write_text("5000\n"))
    with Isolation(Enclosure(global_sysctls={NR_OPEN: 4096}), name):
        assert read_sysctl(NR_OPEN) == "5000"
        monkeypatch.undo()
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.setattr(sysctls, "SYSCTLS", settings)
    assert read_sysctl(NR_OPEN) == "1048576"


@needs(NARROW_LINK)
def test_the_link_of_a_namespace_has_the_queue_that_was_asked_for(name: str) -> None:
    look = (
        "import sys; from wslab.machine.enter import enter_netns; enter_netns(sys.argv[1]);"
        "from wslab.machine.link import read_queue; print(read_queue(1).name)"
    )
    with Isolation(NARROW_LINK, name):
        asked = [sys.executable, "-c", look, f"/run/netns/{name}"]
        assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == "tbf on lo\n"


@needs(HANDED)
def test_all_packets_of_a_namespace_are_handed_to_one_cpu_and_nobody_elses_are(name: str) -> None:
    ours, before = Path("/sys/class/net/lo/queues/rx-0/rps_cpus").read_text(), Path("/proc/self/mounts").read_text()
    look = (
        "import sys; from wslab.breaks import netns; netns.enter_netns(sys.argv[1]); netns.see_devices();"
        "print(netns.LOOPBACK_PACKETS.read_text())"
    )
    with Isolation(HANDED, name):
        asked = [sys.executable, "-c", look, f"/run/netns/{name}"]
        mask = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert int(mask.replace(",", ""), 16) == 1 << (HANDED.packet_cpu or 0)
    assert Path("/sys/class/net/lo/queues/rx-0/rps_cpus").read_text() == ours
    assert {line for line in before.splitlines() if "/sys" in line} == {
        line for line in Path("/proc/self/mounts").read_text().splitlines() if "/sys" in line
    }


def test_an_enclosure_of_ones_own_limits_takes_no_privilege_and_leaves_nothing(name: str) -> None:
    with Isolation(Enclosure(fd_limit={"swarm": 200}), name) as isolation:
        assert isolation.read_host().fd_hard == 200
        assert isolation.spec("server")["enclosure"]["fd_limit"] is None
        assert traces(name) == []


@needs(NARROW)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sysctls": {"net.core.netdev_max_backlog": 10}}, "no setting net.core.netdev_max_backlog of its own"),
        ({"sysctls": {"net.ipv4.ip_local_port_range": "9 1"}}, "net.ipv4.ip_local_port_range = 9 1 is refused"),
        pytest.param({"nft": "table inet {"}, "nft refuses the rules", marks=needs(RULED)),
    ],
)
def test_what_fails_half_way_is_said_in_one_line_and_nothing_of_it_is_left(
    name: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words) as refused, Isolation(replace(NARROW, **changes), name):
        pass
    assert "\n" not in str(refused.value)
    assert traces(name) == []


@needs(WIDE)
def test_a_setting_of_the_whole_machine_has_one_owner_at_a_time(name: str, machine: dict[str, Any]) -> None:
    with (
        Isolation(WIDE, name),
        pytest.raises(BadInput, match=f"another run has {CONNTRACK_MAX} changed"),
        Isolation(WIDE, f"{name}-b"),
    ):
        pass
    assert traces(name) + traces(f"{name}-b") == []


@needs(WIDE)
def test_without_nft_or_room_for_others_an_enclosure_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolation_module, "epoll_watches_by_user", lambda: {0: 3, 1000: 700_000})
    assert obstacle(WIDE).startswith("user 1000 holds 700,000 epoll watches, too many for")
    monkeypatch.setattr(isolation_module, "tracked_most", lambda: 150_000)
    assert obstacle(WIDE).startswith("a network namespace tracks 150,000 connections, too many for")
    monkeypatch.setattr(isolation_module, "find_nft", lambda: None)
    assert obstacle(WIDE).startswith("nft is not installed")


def test_without_root_the_reason_is_given_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert obstacle(NARROW) == "it takes root to make this enclosure"
    assert obstacle(Enclosure(fd_limit={"server": 300})) == ""


@needs(WIDE)
@pytest.mark.parametrize("step", ["make", "create_netns", "write_sysctl", ""])
def test_after_the_owner_was_killed_at_any_step_clean_puts_everything_back(
    name: str, machine: dict[str, Any], project_root: Path, step: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{project_root}:{project_root / 'tests'}"}
    command = [sys.executable, "-c", OWNER, name, step]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as owner:
        assert owner.stdout is not None
        inside = owner.stdout.readline()
        owner.send_signal(signal.SIGKILL)
    assert bool(inside) is not bool(step)
    assert len(traces(name)) == {"make": 1, "create_netns": 3}.get(step, 4)
    if inside:
        assert [read_sysctl(setting) for setting in GLOBAL] == ["200000", "1000000"]
        os.kill(int(inside), signal.SIGKILL)
    registry.clean()
    assert traces(name) == []
    assert read_sysctl(CONNTRACK_MAX) == str(machine["conntrack_max"])
