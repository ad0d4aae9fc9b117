"""Plan: autos follow the fd limit and the cores, memory is estimated, and the hopeless is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.hosts import GIB, host
from wslab.core.host import Host
from wslab.core.limits import LIMITS
from wslab.core.plan import (
    ADDRESSES_MOST,
    BYTES_PER_CONNECTION,
    KERNEL_BYTES_PER_CONNECTION,
    MEMBER_BYTES,
    bytes_per_connection,
    loopback_addresses,
    memory_holds,
    refusal,
    resolve,
)
from wslab.core.servers import SERVER_KINDS
from wslab.core.stage import Stage

REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference"


@pytest.mark.parametrize(
    ("connections", "changes", "processes"),
    [
        ("10k", {}, 1),  # Half of two cores is enough.
        ("10k", {"cpu_count": 8}, 4),
        ("10k", {"cpu_count": 8, "cpu_quota": 2.0}, 1),  # The quota counts where it is less.
        ("10k", {"cpu_count": 1}, 1),
        (19_936, {}, 1),  # 20,000 less the 64 of the process itself.
        (19_937, {}, 2),
        ("1M", {}, 51),
        ("1M", {"fd_hard": 1_048_576}, 1),
        ("1M", {"fd_hard": 524_288}, 2),
        ("1M", {"fd_hard": None}, 1),  # Unlimited is as far as fs.nr_open.
        ("2M", {"fd_hard": None}, 2),
        ("1M", {"fd_hard": -1}, 1),  # RLIM_INFINITY as Python tells it.
        (3, {"cpu_count": 64}, 3),  # No process without a connection.
        ("10k", {"cpu_count": 64, "fd_hard": 84}, 14),  # The recorder keeps two files open for each process.
    ],
)
def test_auto_takes_as_many_processes_as_fd_limit_and_cores_ask_for(
    connections: Any, changes: dict[str, Any], processes: int
) -> None:
    plan = resolve(Stage.of(connections=connections), host(**changes))
    assert (plan.server_shards, plan.swarm_workers) == (processes, processes)
    assert plan.connections_per_shard * processes >= plan.connections


@pytest.mark.parametrize(
    ("limit", "asked", "answer"),
    [
        (31, {}, "the fd limit of 31"),
        (32, {}, None),
        (64, {}, None),
        (64, {"server_shards": 9}, None),
        (64, {"server_shards": 10}, "10 server_shards and 9 swarm_workers"),
        (64, {"swarm_workers": 18, "server_shards": 1}, "1 server_shards and 18 swarm_workers"),
    ],
)
def test_processes_that_cannot_even_be_watched_are_refused(
    limit: int, asked: dict[str, Any], answer: str | None
) -> None:
    refused = refusal(Stage.of(connections=100, **asked), host(fd_hard=limit))
    assert (refused or "").startswith(answer or "")
    assert (refused is None) == (answer is None)


def test_what_is_given_is_honoured_even_where_it_will_break() -> None:
    plan = resolve(Stage.of(connections="100k", server_shards=1, swarm_workers=7, source_addresses=1), host())
    assert (plan.server_shards, plan.swarm_workers, plan.source_addresses) == (1, 7, ("127.0.0.2",))
    assert (plan.connections_per_shard, plan.connections_per_worker) == (100_000, 14_286)


@pytest.mark.parametrize(
    ("connections", "changes", "count"),
    [
        (1, {}, 1),
        (8000, {}, 1),
        (8001, {}, 2),
        ("1M", {}, 125),
        (8000, {"port_low": 50_000, "port_high": 50_999}, 16),  # A narrow port range takes more addresses.
    ],
)
def test_auto_takes_a_source_address_for_every_8000_connections(
    connections: Any, changes: dict[str, Any], count: int
) -> None:
    assert len(resolve(Stage.of(connections=connections), host(**changes)).source_addresses) == count


def test_a_narrow_port_range_asks_for_no_more_addresses_than_can_be_told_of() -> None:
    narrow = host(port_low=40_000, port_high=40_009)
    assert len(resolve(Stage.of(connections="1M"), narrow).source_addresses) == ADDRESSES_MOST


def test_source_addresses_are_distinct_and_never_look_like_a_network_or_broadcast() -> None:
    addresses = loopback_addresses(70_000)
    octets = [tuple(map(int, address.split("."))) for address in addresses]
    assert len(set(addresses)) == 70_000
    assert addresses[:2] == ("127.0.0.2", "127.0.0.3")
    assert addresses[252:254] == ("127.0.0.254", "127.0.1.1")
    assert all(first == 127 and max(rest) <= 255 and 1 <= rest[-1] <= 254 for first, *rest in octets)
    assert "127.0.0.1" not in addresses


def test_handshakes_in_flight_never_overflow_the_accept_queue() -> None:
    for connections in (1, 10_000, 1_000_000):
        plan = resolve(Stage.of(connections=connections), host())
        assert 1 <= plan.pending_max <= 1024
    assert resolve(Stage.of(connections=10_000), host(somaxconn=128)).pending_max == 64
    assert resolve(Stage.of(connections=10_000, server="asyncio"), host()).pending_max == 50  # asyncio's backlog is 100


def test_a_host_that_tells_nothing_still_gets_a_plan() -> None:
    plan = resolve(Stage.of(connections="1M"), Host())
    assert (plan.server_shards, plan.swarm_workers, len(plan.source_addresses)) == (1, 1, 125)


def test_memory_is_estimated_for_both_ends() -> None:
    assert bytes_per_connection("lean") == BYTES_PER_CONNECTION == 8750
    assert memory_holds(host(memory_headroom_bytes=BYTES_PER_CONNECTION * 1000), "lean") == 1000
    assert memory_holds(host(memory_headroom_bytes=None), "lean") is None


def test_the_largest_reference_runs_measured_what_is_planned_for_a_connection() -> None:
    totals = []
    for path in REFERENCE.glob("*/run.json"):
        summary = json.loads(path.read_text())["summary"]
        if summary["connections_open"] >= 700_000:
            totals.append(summary["total_bytes_per_connection"])
            assert summary["kernel_bytes_per_connection"] == pytest.approx(KERNEL_BYTES_PER_CONNECTION, rel=0.01)
    assert len(totals) >= 2
    assert max(totals) == pytest.approx(BYTES_PER_CONNECTION, rel=0.01)


@pytest.mark.parametrize("server", ["asyncio", "node_ws", "picows"])
def test_memory_counts_what_the_processes_of_a_server_kind_take(server: str) -> None:
    kind, machine = SERVER_KINDS[server], host(fd_hard=20_000)
    plan = resolve(Stage.of(connections="200k", server=server), machine)
    each = BYTES_PER_CONNECTION + kind.connection_bytes
    assert (plan.bytes_per_connection, plan.start_bytes) == (each, plan.server_shards * kind.process_bytes)
    assert plan.server_shards > 1
    rows = {limit.name: limit.ceiling(machine, plan) for limit in LIMITS if limit.name == "memory_machine"}
    assert rows == {"memory_machine": (machine.memory_headroom_bytes - plan.start_bytes) // each}
    holds = memory_holds(machine, server)
    assert holds is not None
    assert holds < 0.7 * memory_holds(machine, "lean")
    assert refusal(Stage.of(connections=int(1.1 * holds), server=server), machine) is not None
    assert refusal(Stage.of(connections=int(1.1 * holds)), machine) is None


def test_the_reserve_and_the_control_group_leave_room_for_less() -> None:
    assert memory_holds(host(), "lean", reserve_bytes=22 * GIB) == 0
    confined = host(memory_cgroup_limit_bytes=2 * GIB, memory_cgroup_used_bytes=GIB)
    assert memory_holds(confined, "lean") == GIB // BYTES_PER_CONNECTION


def test_a_stage_out_of_reach_is_refused_with_what_the_machine_can_hold() -> None:
    assert refusal(Stage.of(connections="1G"), host()) == (
        "connections=1G needs about 8 TiB of memory; this machine can hold about 2.69M"
    )


def test_a_stage_is_refused_exactly_where_memory_ends_whatever_the_reserve() -> None:
    machine = host(memory_headroom_bytes=BYTES_PER_CONNECTION * 1000)
    assert refusal(Stage.of(connections=1000), machine) is None
    assert refusal(Stage.of(connections=1001), machine) is not None


def test_nothing_is_refused_where_memory_is_not_known() -> None:
    assert refusal(Stage.of(connections="1G"), Host()) is None


@pytest.mark.parametrize("name", ["server_shards", "swarm_workers"])
def test_processes_out_of_reach_are_refused_with_what_the_machine_can_hold(name: str) -> None:
    machine = host(memory_headroom_bytes=3000 * MEMBER_BYTES, memory_cgroup_limit_bytes=None)
    answer = refusal(Stage.of(connections="100k", **{name: 5000}), machine)
    assert answer == f"{name}=5000 needs about 7.3 GiB of memory; this machine can hold about 2.99k"
    assert refusal(Stage.of(connections="100k", **{name: 2500}), machine) is None
    assert refusal(Stage.of(connections=10, **{name: 5000}), machine) is None  # Ten of them would have something to do.
