"""Stages over a real scheduler and real workers: on loopback, and in namespaces joined by a bridge."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hosts.cluster import dask, needs_distributed
from wslab import cli
from wslab.core.quantities import BadInput
from wslab.hosts.run import run_over
from wslab.lab import registry, store

WITH_CLUSTER = "--server-on, --swarm-on and --swarm-addresses go with --cluster"
BRIDGE_IP, SUBNET = "10.203.{number}.254/24", "10.203.{number}."

FIRST_PORT, PORTS = 40_000, 2_000

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="namespaces joined by a bridge need root and the program ip"
)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def bridged() -> Iterator[tuple[list[str], list[str]]]:
    """Join three namespaces by a bridge; yield their names and their addresses.

    Each has an alias beside its address, and `PORTS` ports an address.
    """
    tag, number = f"wsl{secrets.token_hex(2)}", secrets.randbelow(200)
    names = [f"{tag}{n}" for n in range(3)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)

    addresses = [f"{SUBNET.format(number=number)}{n + 1}" for n in range(3)]
    try:
        ip("link", "add", tag, "type", "bridge")
        ip("addr", "add", BRIDGE_IP.format(number=number), "dev", tag)
        ip("link", "set", tag, "up")
        for name, address in zip(names, addresses, strict=True):
            ip("netns", "add", name)
            ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{name}v", "master", tag, "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "addr", "add", f"{alias_of(address)}/32", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            narrow = f"echo {FIRST_PORT} {FIRST_PORT + PORTS - 1} >/proc/sys/net/ipv4/ip_local_port_range"
            ip("netns", "exec", name, "sh", "-c", narrow)
        yield names, addresses
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=10)
        subprocess.run(["ip", "link", "delete", tag], capture_output=True, timeout=10)


def alias_of(address: str) -> str:
    """Return the further address of a host."""
    return f"{address}0"


def sources(pid: int, network: str) -> Counter[str]:
    """Count the established connections in the namespace of a process by their far address, above those of Dask."""
    found: Counter[str] = Counter()
    for line in Path(f"/proc/{pid}/net/tcp").read_text("ascii").splitlines()[1:]:
        _, _, remote, state = line.split()[:4]
        ip = ".".join(str(octet) for octet in reversed(bytes.fromhex(remote.partition(":")[0])))
        if state == "01" and ip.startswith(network):
            found[ip] += 1
    return Counter({ip: count for ip, count in found.items() if count >= PORTS // 4})


def open_by_host(run: Any, role: str) -> int:
    """Return the most connections open at one moment, as the samples of the hosts of a role have it."""
    folders = [run.run_dir / host["folder"] for host in run.manifest["hosts"] if host["role"] == role]
    most = [[one[f"{role}_connections_open"] or 0 for one in store.read_samples(folder)] for folder in folders]
    return sum(max(counts) for counts in most)


@needs_distributed
def test_a_stage_over_hosts_holds_and_refuses_what_cannot_be_placed(tmp_path: Path) -> None:
    with dask(tmp_path, ["127.0.0.1"] * 3) as cluster:
        with pytest.raises(BadInput, match="server_on=h9: the cluster has no worker of this name"):
            run_over(cluster.address, connections=100, server_on="h9", data_dir=str(tmp_path))
        run = run_over(
            cluster.address,
            connections=1001,
            hold_seconds=1,
            server_on="resource:H1",
            message_rate=0.1,
            data_dir=str(tmp_path),
        )
        assert (run.outcome, run.reason, run.findings) == ("held", "", [])
        assert run.summary["connections_verified"] == run.summary["connections_open"] == 1001
        hosts = {host["name"]: host for host in run.manifest["hosts"]}
        assert {name: host["connections"] for name, host in hosts.items()} == {"h1": 0, "h0": 501, "h2": 500}
        assert all(0 < host["clock_uncertainty_seconds"] < 1 for host in hosts.values())
        assert open_by_host(run, "swarm") == open_by_host(run, "server") == 1001
        assert not run.samples.empty
        assert not run.latency.empty
        assert cluster.load() == registry.list_processes() == []


@needs_distributed
@needs_namespaces
def test_hosts_dial_from_all_their_addresses_and_a_worker_killed_in_the_hold_is_named_and_the_rest_drains(
    tmp_path: Path, bridged: tuple[list[str], list[str]]
) -> None:
    names, addresses = bridged
    with dask(tmp_path, addresses, names) as cluster:
        killed: list[float] = []
        seen: list[Counter[str]] = []

        def on_event(event: dict[str, Any]) -> None:
            if held(event) and not killed:
                seen.append(sources(cluster.processes["h0"].pid, addresses[0].rpartition(".")[0]))
                killed.append(time.monotonic())
                cluster.kill("h2")

        with pytest.raises(BadInput, match="host h1: 2500 connections do not fit; ephemeral_ports"):
            run_over(
                cluster.address,
                connections=5000,
                server_on="h0",
                swarm_addresses=addresses[1:],
                operate_target=True,
                data_dir=str(tmp_path),
            )
        run = run_over(
            cluster.address,
            connections=5000,
            hold_seconds=60,
            server_on="h0",
            operate_target=True,
            data_dir=str(tmp_path),
            on_event=on_event,
        )
        assert time.monotonic() - killed[0] < 10
        # 2,500 of each host are more than one address has ports for.
        assert sorted(seen[0]) == sorted([*addresses[1:], *map(alias_of, addresses[1:])])
        assert max(seen[0].values()) <= PORTS
        assert (run.outcome, [one["limit"] for one in run.findings]) == ("broke", ["host_lost"])
        assert run.findings[0]["evidence"].startswith("host h2 is lost: its Dask worker is gone")
        assert (run.findings[0]["host"], run.diagnose()[0].limit) == ("h2", "host_lost")
        assert run.reason.startswith("host_lost on h2: 5,000 of 5,000 connections opened, 2,500 lost")
        assert open_by_host(run, "swarm") == open_by_host(run, "server") == 5000
        assert run.phases[-1]["name"] == "drain"
        assert cluster.load() == registry.list_processes() == []


def held(event: dict[str, Any]) -> bool:
    """Tell whether an event is a sample of the hold in which all connections are open."""
    return event["event"] == "sample" and event["phase"] == "hold" and event["swarm_connections_open"] == 5000


@needs_distributed
def test_where_there_is_no_cluster_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wslab.hosts.cluster.CONNECT_SECONDS", 0.2)
    with pytest.raises(BadInput) as refused:
        run_over("tcp://127.0.0.1:9", connections=10, data_dir=str(tmp_path))
    assert str(refused.value) == "cluster=tcp://127.0.0.1:9: no scheduler answers there"
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"server": "node my.js --port {port}"}, "over hosts it is one of lean"),
        ({"server": "ws://127.0.0.1:9000"}, "over hosts it is one of lean"),
        ({"message_rate": "auto"}, "is for one host"),
        ({"workload": "broadcast"}, "is for one host"),
        ({"tune": True}, "is for one host"),
    ],
)
def test_what_a_stage_over_hosts_cannot_do_is_refused_before_a_cluster_is_asked(
    tmp_path: Path, parameters: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        run_over("tcp://127.0.0.1:9", connections=10, data_dir=str(tmp_path), **parameters)


def test_without_the_package_one_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BadInput, match=r"needs the package distributed.*pip install 'wslab\[hosts\]'"):
        run_over("tcp://127.0.0.1:9", connections=10, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--server-on", "a"], f"wslab: {WITH_CLUSTER}: see wslab stage --help\n"),
        (["--swarm-addresses", "10.0.0.7"], f"wslab: {WITH_CLUSTER}: see wslab stage --help\n"),
        (["--cluster", "here"], "wslab: cluster=here is no address of a scheduler, such as tcp://10.0.0.1:8786\n"),
    ],
)
def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    if "--cluster" in options:
        pytest.importorskip("distributed", reason="the package distributed is not installed")
    assert cli.run(["stage", "--connections", "10", "--data-dir", str(tmp_path), *options]) == cli.BAD_INPUT
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", says)


@needs_distributed
def test_the_command_hands_on_the_cluster_and_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def run_nothing(**parameters: Any) -> Any:
        asked.update(parameters)
        raise BadInput("enough")

    monkeypatch.setattr("wslab.hosts.run.run_over", run_nothing)
    assert (
        cli.run(
            [
                "stage",
                "--connections",
                "10",
                "--cluster",
                "tcp://h:1",
                "--swarm-on",
                "a,b",
                "--swarm-addresses",
                "10.0.0.7",
            ]
        )
        == cli.BAD_INPUT
    )
    del asked["on_event"]
    assert asked == {
        "cluster": "tcp://h:1",
        "server_on": "",
        "swarm_on": "a,b",
        "swarm_addresses": "10.0.0.7",
        "connections": "10",
        "operate_target": False,
    }
