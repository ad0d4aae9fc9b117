"""Who gets the server and who the swarm, what each host gets of the load, and which host ends a stage."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from wslab.core.host import Host
from wslab.core.quantities import BadInput
from wslab.core.stage import Stage
from wslab.hosts.placing import (
    Candidate,
    Placing,
    bounds,
    choose,
    divide,
    refusal,
    server_start,
    swarm_start,
    with_addresses,
)
from wslab.hosts.preflight import HostsPreflight
from wslab.lab.experiment import start_command

GIB = 1 << 30
HOST = Host(
    fd_hard=20_000,
    cpu_count=4,
    memory_total_bytes=32 * GIB,
    memory_headroom_bytes=30 * GIB,
    port_low=32768,
    port_high=60999,
    somaxconn=4096,
)


def candidate(name: str, ip: str = "10.0.0.9", **limits: Any) -> Candidate:
    return Candidate(name=name, worker=f"tcp://{ip}:1", ip=ip, node=name, host=replace(HOST, **limits))


def workers(**memory: int) -> dict[str, Candidate]:
    """Return workers by name; each offers the resource SWARM, and those with more than 10 bytes of memory SERVER."""
    return {
        name: replace(
            candidate(name, memory_total_bytes=size),
            resources=("SERVER", "SWARM") if size > 10 else ("SWARM",),
        )
        for name, size in memory.items()
    }


KNOWN = workers(a=8, b=64, c=16)


def placed(connections: str = "40k", ip: str = "10.0.0.1", swarm: int = 2, **parameters: Any) -> Placing:
    hosts = [candidate(f"swarm{n}", ip) for n in range(swarm)]
    return divide(Stage.of(connections=connections, **parameters), candidate("big", ip), hosts)


@pytest.mark.parametrize(
    ("server_on", "swarm_on", "server", "swarm"),
    [
        ("", "", "b", ["a", "c"]),
        ("a", "", "a", ["b", "c"]),
        ("", "b", "c", ["b"]),
        ("", ["b", "c"], "a", ["b", "c"]),
        ("b", "b", "b", ["b"]),
        ("b", "a, b", "b", ["a", "b"]),
        ("resource:SERVER", "", "b", ["a", "c"]),
        ("resource:SERVER", "b", "c", ["b"]),
        ("c", "resource:SWARM", "c", ["a", "b", "c"]),
        ("resource:SERVER", "resource:SWARM", "b", ["a", "b", "c"]),
    ],
    ids=[
        *("largest", "named server", "named swarm", "list", "one for both", "shared"),
        *("largest that offers", "one that offers and is free", "all that offer", "all offer both"),
    ],
)
def test_the_server_goes_to_the_largest_host_and_the_swarm_to_the_others_unless_named(
    server_on: str, swarm_on: str | list[str], server: str, swarm: list[str]
) -> None:
    assert choose(KNOWN, server_on, swarm_on) == (server, swarm)


@pytest.mark.parametrize(
    ("known", "server_on", "swarm_on", "says"),
    [
        (KNOWN, "resource:SEVER", "", "offers this resource; did you mean SERVER?"),
        (
            KNOWN,
            "",
            "resource:GPU",
            "swarm_on=resource:GPU: no worker of the cluster offers this resource; there are SERVER, SWARM",
        ),
        (KNOWN, "d", "", "server_on=d: the cluster has no worker of this name"),
        (KNOWN, "", "a,x", "swarm_on=x: the cluster has no worker of this name"),
        (KNOWN, "", "a,a", "names a twice"),
        (workers(a=1), "", "", "the cluster has 1 host, and the server and the swarm need one each"),
        (workers(a=1), "", "a", "the cluster has 1 host,"),
        ({}, "", "", "the cluster has 0 hosts"),
    ],
)
def test_unknown_names_and_too_few_hosts_are_refused_in_one_line(
    known: dict[str, Candidate], server_on: str, swarm_on: str, says: str
) -> None:
    with pytest.raises(BadInput) as refused:
        choose(known, server_on, swarm_on)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_load_and_its_rate_are_divided_and_add_up() -> None:
    placing = placed("10001", swarm=3, ramp_rate=3000)
    connections = [share.plan.connections for share in placing.shares]
    assert connections == [3334, 3334, 3333]
    assert sum(share.ramp_rate or 0 for share in placing.shares) == pytest.approx(3000)
    assert placing.plan.connections == 10001
    assert placing.plan.swarm_workers == sum(share.plan.swarm_workers for share in placing.shares)
    assert sum(share.plan.pending_max for share in placing.shares) <= placing.server_plan.pending_max


def test_hosts_on_loopback_get_source_addresses_of_their_own_and_others_none() -> None:
    local = placed("60k", ip="127.0.0.1")
    addresses = [address for share in local.shares for address in share.plan.source_addresses]
    assert len(addresses) == len(set(addresses)) >= 8
    assert not any(share.plan.source_addresses for share in placed("40k").shares)


@pytest.mark.parametrize(
    ("addresses", "connections", "dials_from", "most"),
    [
        (("10.0.0.9",), "20k", (), 28_232),
        (("10.0.0.9", "10.0.0.10"), "20k", ("10.0.0.9", "10.0.0.10"), 2 * 28_232),
        (
            ("10.0.0.9", "10.0.0.10", "10.0.0.11", "10.0.0.12"),
            "20k",
            ("10.0.0.9", "10.0.0.10", "10.0.0.11"),
            3 * 28_232,
        ),
        (("10.0.0.9", "10.0.0.10"), "5k", (), 28_232),
    ],
    ids=["one: the kernel chooses it", "all that there are", "as many as the part takes", "one is enough"],
)
def test_elsewhere_a_host_dials_from_its_own_addresses_and_each_has_its_ports(
    addresses: str, connections: str, dials_from: str, most: int
) -> None:
    swarm = replace(candidate("swarm"), addresses=tuple(addresses))
    placing = divide(Stage.of(connections=connections), candidate("big"), [swarm])
    assert placing.shares[0].plan.source_addresses == tuple(dials_from)
    assert [bound.most for bound in bounds(placing) if bound.limit == "ephemeral_ports"] == [most]


def test_given_addresses_are_taken_by_the_hosts_that_have_them() -> None:
    swarm = [replace(candidate(name), addresses=(one,), own=(one, other)) for name, one, other in ("lmn", "rst")]
    taken = with_addresses(swarm, "n, m,t")
    assert [one.addresses for one in taken] == [("n", "m"), ("t",)]
    assert with_addresses(swarm, "") == swarm
    with pytest.raises(BadInput, match="swarm_addresses=x: no host of the swarm has this address"):
        with_addresses(swarm, ["m", "x"])


def test_more_hosts_than_connections_are_refused() -> None:
    with pytest.raises(BadInput, match="fewer than the 3 hosts"):
        placed("2", swarm=3)


@pytest.mark.parametrize(
    ("role", "limits", "says"),
    [
        ("server", {"memory_headroom_bytes": 100 << 20}, "host big: .* memory_machine ends them"),
        ("swarm", {"memory_headroom_bytes": 10 << 20}, "host swarm1: .* memory_machine ends them"),
        ("swarm", {"port_low": 40000, "port_high": 49999}, "host swarm1: 20k connections .* ephemeral_ports ends them"),
        ("server", {"conntrack_max": 30_000, "conntrack_tracking": True}, "host big: 40k connections .* conntrack"),
        ("swarm", {"fd_hard": 200}, "host swarm1: 20k connections .* fd_limit ends them"),
    ],
)
def test_a_stage_that_does_not_fit_is_refused_with_the_host_that_ends_it(
    role: str, limits: dict[str, Any], says: str
) -> None:
    server = candidate("big", **(limits if role == "server" else {}))
    swarm = [candidate("swarm0"), candidate("swarm1", **(limits if role == "swarm" else {}))]
    refused = refusal(divide(Stage.of(connections="40k"), server, swarm))
    assert refused is not None
    assert re.search(says, refused), refused
    assert "\n" not in refused
    assert refusal(placed()) is None


def test_a_preflight_shows_the_part_of_each_host_and_the_limit_that_ends_it_first_there() -> None:
    stage = Stage.of(connections="40k")
    small = candidate("small", port_low=40000, port_high=49999)
    placing = divide(stage, candidate("big"), [candidate("roomy"), small])
    shown = HostsPreflight(stage=stage, placing=placing, bounds=tuple(bounds(placing)), refused=refusal(placing) or "")
    assert shown.sentence == refusal(placing)
    rows = {row["host"]: row for row in shown.as_dict()["hosts"]}
    assert {name: (row["runs"], row["connections"]) for name, row in rows.items()} == {
        "big": ("server", "40k"),
        "roomy": ("swarm", "20k"),
        "small": ("swarm", "20k"),
    }
    assert {name: (row["limit"], row["ends at"]) for name, row in rows.items()} == {
        "big": ("fd_limit", "59.8k"),
        "roomy": ("ephemeral_ports", "28.2k"),
        "small": ("ephemeral_ports", "10k"),
    }
    fits = divide(Stage.of(connections="20k"), candidate("big"), [candidate("roomy")])
    fitting = HostsPreflight(stage=Stage.of(connections="20k"), placing=fits, bounds=tuple(bounds(fits)), refused="")
    assert fitting.sentence == "20k connections fit on 2 hosts"
    assert "<b>20k connections fit on 2 hosts.</b>" in fitting._repr_html_()


def test_workers_on_one_machine_share_its_memory() -> None:
    enough = 50_000 * 4_450
    hosts = [replace(candidate(name, memory_headroom_bytes=enough), node="one") for name in ("a", "b", "c")]
    stage = Stage.of(connections="40k")
    assert "memory_machine" in (refusal(divide(stage, hosts[0], hosts[1:])) or "")
    apart = [replace(one, node=one.name) for one in hosts]
    assert refusal(divide(stage, apart[0], apart[1:])) is None


def test_each_supervisor_starts_its_own_end() -> None:
    placing = placed("40k", ramp_rate=1000)
    start = start_command(Stage.of(connections="40k", ramp_rate=1000), placing.plan, host=HOST)
    own = server_start(start, placing)
    assert (own["server"]["host"], own["swarm"]["workers"]) == ("10.0.0.1", 0)
    part = swarm_start(start, placing.shares[0], "ws://10.0.0.1:9")
    assert part["server"] is None
    assert (part["swarm"]["url"], part["swarm"]["connections"]) == ("ws://10.0.0.1:9", 20_000)
    assert (part["swarm"]["ramp_rate"], part["swarm"]["source_addresses"]) == (500.0, ())
