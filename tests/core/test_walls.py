"""The walls on the road of a run: where they stand here and on a stock machine, and what the run did about each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.hosts import GIB, host
from wslab.core.walls import Wall, walls

LAYOUT = {"source_addresses": 125, "server_shards": 51, "swarm_workers": 51, "memory_reserve": GIB}


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
        ("conntrack", 262_144, 262_144, "passed: loopback is not tracked here"),
        ("epoll_watches", 2_745_755, 1_867_377, "not reached"),
    ],
)
def test_a_wall_has_its_place_here_and_on_a_stock_machine_and_says_how_it_was_passed(
    limit: str, here: int, stock: int, told: str
) -> None:
    found = wall(limit)
    assert (found.here, found.stock, found.told, found.met) == (here, stock, told, False)


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
    found = wall(limit, findings=[{"limit": named, "side": "swarm", "at_connections": 28_231}])
    assert (found.told, found.met) == (told, True)


def test_without_a_measured_cost_memory_counts_at_the_rule_and_says_so() -> None:
    found = wall("memory_machine", summary={"total_bytes_per_connection": None})
    assert found.title.endswith("at 8.7 KiB a connection as a rule")
    assert found.stock == 15 * GIB // 8900


def test_the_nearest_wall_of_a_stock_machine_stands_first() -> None:
    found = walls(host(), LAYOUT, {"connections_open": 10, "total_bytes_per_connection": 8900.0})
    assert [item.limit for item in found] == [
        *("ephemeral_ports", "conntrack", "fd_limit", "memory_machine", "epoll_watches")
    ]


def test_a_container_has_the_memory_of_its_control_group() -> None:
    inside = {"memory_cgroup_limit_bytes": 3 * GIB, "memory_cgroup_used_bytes": GIB}
    assert wall("memory_machine", limits=inside).here == GIB // 8192


def test_a_reserve_larger_than_a_stock_machine_leaves_nothing_of_it() -> None:
    (found,) = [item for item in walls(host(), {"memory_reserve": 20 * GIB}, {}) if item.limit == "memory_machine"]
    assert found.stock == 0


def test_of_a_run_without_limits_nothing_is_said_to_be_passed() -> None:
    told = {item.limit: item.told for item in walls({}, LAYOUT, {"connections_open": 10_000_000})}
    assert (told["conntrack"], told["epoll_watches"]) == ("not known here", "not known here")


def test_a_title_fits_into_the_column_of_a_table() -> None:
    assert max(len(item.title) for item in walls(host(), LAYOUT, {})) < 50
