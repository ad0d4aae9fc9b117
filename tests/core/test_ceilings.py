"""Limits: each one's ceiling on a known host, what lifts it, and whether a stage fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.hosts import GIB, host
from wslab.core.ceilings import Ceiling, ceilings, fits
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
    "server_cpu machine_cpu generator"
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
        ("ephemeral_ports", {"source_addresses": 1}, 28_232),
        ("ephemeral_ports", {"source_addresses": 3}, 84_696),
        ("ephemeral_ports", {"source_addresses": 1, "port_low": 1024, "port_high": 65_535}, 64_512),
        ("bind_ports", {"source_addresses": 1}, 28_232),
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
        ({"connections": "700k"}, {}, "700k fits with 16.2 GiB to spare"),
        ({"connections": "700k"}, {"conntrack_tracking": False}, "700k fits with 16.2 GiB to spare"),
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
    assert found["ephemeral_ports"].ceiling_connections == 2 * 28_232
    assert (found["bind_ports"].ceiling_connections, found["bind_ports"].binding) == (28_232, False)
    assert {item.limit: item for item in ceilings(here, replace(plan, ports_at_bind=True))}["bind_ports"].binding


def test_all_limits_in_the_way_are_told_lowest_first() -> None:
    here = host()
    fit = fits(here, resolve(Stage.of(connections="3M"), here))
    assert [item.limit for item in fit.broken] == ["memory_reserve", "memory_machine", "epoll_watches"]
    assert "memory above the reserve ends at 2.52M" in fit.sentence
    assert "; memory ends at 2.65M" in fit.sentence


def test_a_ceiling_is_written_to_json_as_plain_values() -> None:
    written = row("epoll_watches").as_dict()
    assert written["limit"] == "epoll_watches"
    assert written["ceiling_connections"] == 2_745_755
    assert type(written["commands"]) is list
