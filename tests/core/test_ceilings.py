"""Limits: each one's ceiling on a known host, what lifts it, and whether a stage fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.hosts import GIB, host
from wslab.core.ceilings import Ceiling, Wall, ceilings, fits, relaxed, walls
from wslab.core.host import Host
from wslab.core.limits import LIMITS, ONE_PROCESS, PLANNED
from wslab.core.plan import (
    BYTES_PER_CONNECTION,
    FLEET_BYTES,
    MASTER_BYTES,
    MEMBER_BYTES,
    SERVER_GROUP_BYTES,
    SERVER_GROUP_BYTES_V2,
    SWARM_GROUP_BYTES,
    resolve,
)
from wslab.core.stage import Stage

MIB = 1 << 20
SIDES = {"server", "swarm", "kernel", "machine"}
NAMES = {
    "fd_limit nr_open file_max ephemeral_ports bind_ports conntrack conntrack_buckets accept_queue syn_queue "
    "epoll_watches memory_cgroup memory_machine memory_reserve tcp_mem device_backlog time_wait process_limit "
    "server_cpu machine_cpu generator firewall link server_refused server_unreachable server_closed"
}


def row(name: str, *, side: str = "", scope: str = "", connections: Any = "100k", **changes: Any) -> Ceiling:
    """Return the row of one limit on the known host with some limits changed."""
    parameters = {key: changes.pop(key) for key in list(changes) if key in Stage().as_dict()}
    here = host(**changes)
    plan = resolve(Stage.of(connections=connections, **parameters), here)
    rows = [
        item
        for item in ceilings(here, plan)
        if item.limit == name and (not side or item.side == side) and (not scope or item.scope == scope)
    ]
    assert len(rows) == 1
    return rows[0]


def test_the_table_has_every_limit_by_its_name() -> None:
    assert {limit.name for limit in LIMITS} == set(next(iter(NAMES)).split())
    assert len({(limit.name, limit.side, limit.scope) for limit in LIMITS}) == len(LIMITS)
    for limit in LIMITS:
        assert limit.side in SIDES
        assert limit.title
        assert limit.reads
        assert limit.remedy


@pytest.mark.parametrize(
    ("name", "given", "ceiling"),
    [
        # Five shards, as 100k needs six: what is given is honoured and its ceiling told.
        ("fd_limit", {"side": "server", "scope": PLANNED, "server_shards": 5}, 99_680),
        ("fd_limit", {"side": "server", "scope": PLANNED}, 119_616),  # auto: 6 × 19,936
        ("fd_limit", {"side": "swarm", "scope": PLANNED, "swarm_workers": 2}, 39_872),
        ("fd_limit", {"scope": ONE_PROCESS}, 19_936),
        ("fd_limit", {"scope": ONE_PROCESS, "fd_hard": 1_048_576}, 1_048_512),
        ("nr_open", {}, 1_048_512),
        ("file_max", {}, 1_232_500),  # (2,466,170 - 1,170) / 2
        # Without the port that the server is given.
        ("ephemeral_ports", {"source_addresses": 1}, 28_231),
        ("ephemeral_ports", {"source_addresses": 3}, 3 * 28_231),
        ("ephemeral_ports", {"source_addresses": 1, "port_low": 1024, "port_high": 65_535}, 64_511),
        ("ephemeral_ports", {"source_addresses": 1, "ports_reserved": 6_000, "ports_taken": 31}, 22_200),
        ("bind_ports", {"source_addresses": 1}, 28_231),
        ("conntrack", {}, 262_000),  # 262,144 - 144
        ("conntrack", {"conntrack_count": 300_000}, 0),
        ("conntrack_buckets", {}, 262_144),  # 4 × 65,536
        ("epoll_watches", {}, 2_745_755),  # 5,491,511 / 2
        ("memory_machine", {}, 22 * GIB // BYTES_PER_CONNECTION),
        ("memory_reserve", {"memory_reserve": "2GiB"}, (20 * GIB - FLEET_BYTES) // BYTES_PER_CONNECTION),
        ("memory_reserve", {"memory_reserve": "30GiB"}, 0),
        (
            "memory_cgroup",
            {"memory_cgroup_limit_bytes": 2 * GIB, "memory_cgroup_used_bytes": GIB},
            GIB // BYTES_PER_CONNECTION,
        ),
        ("memory_cgroup", {}, None),
        (
            "memory_cgroup",
            {"memory_cgroup_limit_bytes": 400 * MIB, "memory_cgroup_of": "server"},
            (400 * MIB - MASTER_BYTES - 6 * MEMBER_BYTES) // SERVER_GROUP_BYTES,
        ),
        (
            "memory_cgroup",
            {"memory_cgroup_limit_bytes": 400 * MIB, "memory_cgroup_of": "server", "cgroup_version": 2},
            (400 * MIB - MASTER_BYTES - 6 * MEMBER_BYTES) // SERVER_GROUP_BYTES_V2,
        ),
        (
            "memory_cgroup",
            {"memory_cgroup_limit_bytes": 400 * MIB, "memory_cgroup_of": "swarm"},
            (400 * MIB - MASTER_BYTES - 6 * MEMBER_BYTES) // SWARM_GROUP_BYTES,
        ),
        ("process_limit", {"pid_max": 100}, 50 * 19_936),
        ("process_limit", {"pids_cgroup_max": 30, "pids_cgroup_used": 10}, 10 * 19_936),
        ("process_limit", {"nproc_soft": 10}, 16_384 * 19_936),  # RLIMIT_NPROC does not bind root.
        ("process_limit", {"nproc_soft": 10, "uid": 1000}, 5 * 19_936),
        *(
            (name, {}, None)
            for name in ("accept_queue", "syn_queue", "tcp_mem", "device_backlog", "time_wait", "server_cpu")
        ),
        ("machine_cpu", {}, None),
        ("generator", {}, None),
    ],
)
def test_a_limit_ends_at_so_many_connections(name: str, given: dict[str, Any], ceiling: int | None) -> None:
    assert row(name, **given).ceiling_connections == ceiling


@pytest.mark.parametrize(
    "key",
    ["nr_open", "file_max", "conntrack_max", "conntrack_buckets", "epoll_watches_max", "memory_headroom_bytes"],
)
def test_what_the_host_does_not_tell_has_no_ceiling_and_breaks_nothing(key: str) -> None:
    here = host(**{key: None})
    rows = ceilings(here, resolve(Stage.of(connections="100k"), here))
    assert len(rows) == len(LIMITS)
    assert any(item.ceiling_connections is None and item.value is None for item in rows)


@pytest.mark.parametrize(
    ("name", "changes", "binding", "note"),
    [
        ("file_max", {"uid": 0}, False, "root is exempt"),
        ("file_max", {"uid": 1000}, True, ""),
        ("conntrack", {"conntrack_tracking": True}, True, ""),
        ("conntrack", {"conntrack_tracking": False}, False, "loopback is not tracked"),
        ("conntrack", {"conntrack_count": 0}, False, "only if a stateful firewall rule is loaded"),
        ("conntrack", {"conntrack_count": 7}, False, "only if loopback is tracked like the 7 connections in it"),
        ("conntrack_buckets", {"conntrack_tracking": True}, False, "slows new connections and ends none"),
        ("bind_ports", {}, False, "the swarm sets IP_BIND_ADDRESS_NO_PORT"),
        ("nr_open", {}, False, "for one process alone; shards and workers multiply it"),
        ("epoll_watches", {}, True, ""),
        ("server_cpu", {}, False, ""),
    ],
)
def test_a_limit_that_does_not_bind_here_says_why(name: str, changes: dict[str, Any], binding: bool, note: str) -> None:
    assert (row(name, **changes).binding, row(name, **changes).note) == (binding, note)


def test_ceilings_come_in_order_and_those_without_a_number_last() -> None:
    here = host()
    numbers = [item.ceiling_connections for item in ceilings(here, resolve(Stage.of(connections="100k"), here))]
    known = [number for number in numbers if number is not None]
    assert known == sorted(known)
    assert numbers[: len(known)] == known


@pytest.mark.parametrize(
    ("name", "given", "command"),
    [
        ("epoll_watches", {"connections": "3M"}, "sudo sysctl -w fs.epoll.max_user_watches=6600000"),
        ("conntrack", {"connections": "1M"}, "sudo sysctl -w net.netfilter.nf_conntrack_max=1200000"),
        ("file_max", {"connections": "2M"}, "sudo sysctl -w fs.file-max=4500000"),
        (
            "ephemeral_ports",
            {"connections": "1M", "source_addresses": 1},
            "wslab stage --connections 1M --source-addresses 125",
        ),
        (
            "fd_limit",
            {"connections": "1M", "side": "server", "scope": PLANNED, "server_shards": 4},
            "wslab stage --connections 1M --server-shards 51",
        ),
    ],
)
def test_a_command_raises_a_limit_to_what_the_stage_needs(name: str, given: dict[str, Any], command: str) -> None:
    assert row(name, **given).commands[0] == command


def test_a_command_for_a_stage_that_fits_goes_about_twice_as_far() -> None:
    assert row("epoll_watches", connections="10k").commands == ("sudo sysctl -w fs.epoll.max_user_watches=13000000",)


@pytest.mark.parametrize(
    ("parameters", "changes", "sentence"),
    [
        ({"connections": "700k"}, {}, "700k fits with 16.3 GiB to spare"),
        ({"connections": "700k"}, {"conntrack_tracking": False}, "700k fits with 16.3 GiB to spare"),
        ({"connections": "700k"}, {"memory_headroom_bytes": None}, "700k fits"),
        (
            {"connections": "3M"},
            {"memory_headroom_bytes": 64 * GIB},
            "3M does not fit: epoll watches end at 2.74M "
            "(raise fs.epoll.max_user_watches, or run the server as another user)",
        ),
        (
            {"connections": "100k", "source_addresses": 1},
            {},
            "100k does not fit: ephemeral ports end at 28.2k "
            "(more source addresses, all of 127/8 is free; or a wider port range)",
        ),
        (
            {"connections": "100k", "server_shards": 1},
            {},
            "100k does not fit: fd limit of the server ends at 19.9k "
            "(more server shards, each has a limit of its own; or a higher hard limit)",
        ),
        (
            {"connections": "700k"},
            {"conntrack_tracking": True},
            "700k does not fit: conntrack ends at 262k "
            "(raise nf_conntrack_max in the first network namespace, or do not track this traffic)",
        ),
    ],
)
def test_whether_a_stage_fits_is_said_in_one_sentence(
    parameters: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    here = host(**changes)
    fit = fits(here, resolve(Stage.of(**parameters), here))
    assert fit.sentence == sentence
    assert fit.fits == (not fit.broken)


def test_ports_are_counted_for_each_destination_unless_bind_takes_them() -> None:
    here = host()
    plan = replace(resolve(Stage.of(connections="100k", source_addresses=1), here), destinations=2)
    found = {item.limit: item for item in ceilings(here, plan)}
    assert found["ephemeral_ports"].ceiling_connections == 2 * 28_231
    assert (found["bind_ports"].ceiling_connections, found["bind_ports"].binding) == (28_231, False)
    assert {item.limit: item for item in ceilings(here, replace(plan, ports_at_bind=True))}["bind_ports"].binding


def test_all_limits_in_the_way_are_told_lowest_first() -> None:
    here = host()
    fit = fits(here, resolve(Stage.of(connections="3M"), here))
    assert [item.limit for item in fit.broken] == ["memory_reserve", "memory_machine", "epoll_watches"]
    assert "memory above the reserve ends at 2.57M" in fit.sentence
    assert "; memory ends at 2.69M" in fit.sentence


def test_a_ceiling_is_written_to_json_as_plain_values() -> None:
    written = row("epoll_watches").as_dict()
    assert written["limit"] == "epoll_watches"
    assert written["ceiling_connections"] == 2_745_755
    assert type(written["commands"]) is list


# Walls

LAYOUT = replace(resolve(Stage.of(connections="1M", source_addresses=125), host()), server_shards=51, swarm_workers=51)


def wall(limit: str, reached: int = 1_000_000, **changes: Any) -> Wall:
    limits = host(fd_hard=20_000, memory_headroom_bytes=23 * GIB, **changes.pop("limits", {}))
    summary = {"connections_open": reached, "total_bytes_per_connection": 8192.0, **changes.pop("summary", {})}
    (found,) = [item for item in walls(limits, LAYOUT, summary, **changes) if item.limit == limit]
    return found


@pytest.mark.parametrize(
    ("limit", "here", "stock", "told"),
    [
        ("ephemeral_ports", 28_232, 28_232, "passed with 125 source addresses"),
        ("fd_limit", 20_000 - 64, (1 << 20) - 64, "passed with 51 shards and 51 workers"),
        ("memory_machine", 22 * GIB // 8192, 15 * GIB // 8192, "took 7.6 GiB"),
        ("conntrack", 262_000, 262_144, "passed: loopback is not tracked here"),
        ("epoll_watches", 2_745_755, 1_867_377, "not reached"),
    ],
)
def test_a_wall_has_its_place_here_and_on_a_stock_machine_and_says_how_it_was_passed(
    limit: str, here: int, stock: int, told: str
) -> None:
    found = wall(limit)
    assert (found.here, found.stock, found.told) == (here, stock, told)


@pytest.mark.parametrize("limit", ["ephemeral_ports", "fd_limit", "conntrack", "epoll_watches"])
def test_what_a_small_run_never_came_to_is_not_said_to_be_passed(limit: str) -> None:
    assert wall(limit, reached=10_000).told == "not reached"


@pytest.mark.parametrize(
    ("limit", "named", "told"),
    [
        ("ephemeral_ports", "ephemeral_ports", "met at 28,231"),
        ("ephemeral_ports", "time_wait", "met at 28,231 (time_wait)"),
        ("fd_limit", "nr_open", "met at 28,231 (nr_open)"),
        ("memory_machine", "memory_reserve", "met at 28,231 (memory_reserve)"),
    ],
)
def test_a_wall_that_was_met_says_where_under_whatever_name(limit: str, named: str, told: str) -> None:
    assert wall(limit, findings=[{"limit": named, "side": "swarm", "at_connections": 28_231}]).told == told


def test_without_a_measured_cost_memory_counts_at_the_rule_and_says_so() -> None:
    found = wall("memory_machine", summary={"total_bytes_per_connection": None})
    assert found.title.endswith("at 8.5 KiB a connection as a rule")
    assert found.stock == 15 * GIB // 8750


def test_the_nearest_wall_of_a_stock_machine_stands_first() -> None:
    found = walls(host(), LAYOUT, {"connections_open": 10, "total_bytes_per_connection": 8750.0})
    assert [item.limit for item in found] == [
        *("ephemeral_ports", "conntrack", "fd_limit", "memory_machine", "epoll_watches")
    ]


def test_a_container_has_the_memory_of_its_control_group() -> None:
    inside = {"memory_cgroup_limit_bytes": 3 * GIB, "memory_cgroup_used_bytes": GIB}
    assert wall("memory_machine", limits=inside).here == GIB // 8192


def test_a_reserve_larger_than_a_stock_machine_leaves_nothing_of_it() -> None:
    (found,) = [
        item
        for item in walls(host(), replace(LAYOUT, memory_reserve_bytes=20 * GIB), {})
        if item.limit == "memory_machine"
    ]
    assert found.stock == 0


def test_of_a_run_without_limits_nothing_is_said_to_be_passed() -> None:
    told = {item.limit: item.told for item in walls(Host(), LAYOUT, {"connections_open": 10_000_000})}
    assert (told["conntrack"], told["epoll_watches"]) == ("not known here", "not known here")


def test_a_title_fits_into_the_column_of_a_table() -> None:
    assert max(len(item.title) for item in walls(host(), LAYOUT, {})) < 50


# What lifts the limit of a layout that was given by hand

ASKED = Stage.of(source_addresses=1, server_shards=1, swarm_workers=1, memory_cap="1GiB").as_dict()


def finding(limit: str, side: str) -> dict[str, Any]:
    return {"limit": limit, "side": side}


@pytest.mark.parametrize(
    ("limit", "side", "changes"),
    [
        ("ephemeral_ports", "swarm", {"source_addresses": "auto"}),
        ("time_wait", "kernel", {"source_addresses": "auto"}),
        ("fd_limit", "server", {"server_shards": "auto"}),
        ("fd_limit", "swarm", {"swarm_workers": "auto"}),
        ("nr_open", "server", {"server_shards": "auto"}),
        ("nr_open", "swarm", {"swarm_workers": "auto"}),
        # A bound that the caller has set is not taken away.
        ("memory_reserve", "machine", {}),
        ("epoll_watches", "kernel", {}),
    ],
)
def test_each_limit_of_a_lay_out_has_its_lift_and_no_other_has_one(
    limit: str, side: str, changes: dict[str, str]
) -> None:
    assert relaxed([finding(limit, side)], ASKED) == changes


def test_two_limits_are_lifted_at_once() -> None:
    found = [finding("fd_limit", "server"), finding("ephemeral_ports", "swarm")]
    assert relaxed(found, ASKED) == {"server_shards": "auto", "source_addresses": "auto"}


def test_a_limit_that_no_lay_out_lifts_would_be_met_again() -> None:
    assert relaxed([finding("conntrack", "kernel"), finding("fd_limit", "server")], ASKED) == {}


def test_what_the_plan_chose_already_cannot_be_lifted_by_choosing_it_again() -> None:
    found = [finding("fd_limit", "server"), finding("ephemeral_ports", "swarm")]
    assert relaxed(found, Stage().as_dict()) == {}
