"""Settings: each one that a target needs on a known host, and none that the plan makes needless."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.hosts import GIB, host
from wslab.core.ceilings import ceilings, fits, remedy, settings_for
from wslab.core.host import Host
from wslab.core.limits import LIMITS, ONE_PROCESS
from wslab.core.plan import resolve
from wslab.core.settings import ADVICE, NEEDED, PARAMETER, RECOMMENDED, Need, Setting, round_up
from wslab.core.stage import Stage

# A host on which nothing is short for a million connections.
ROOMY = {"fd_hard": 1_048_576, "memory_headroom_bytes": 200 * GIB, "memory_total_bytes": 256 * GIB}
# A tenth of a million such messages in a second, four pages each, at both ends.
LARGE = {"message_bytes": "16KiB", "message_rate": 0.1}


def found(connections: Any = "1M", **changes: Any) -> dict[tuple[str, str], Any]:
    """Return the needed values by key and rank, on the roomy host with some limits or parameters changed."""
    return {(item.key, item.rank): item.needed for item in settings(connections, **changes)}


def settings(connections: Any, **changes: Any) -> list[Setting]:
    parameters = {key: changes.pop(key) for key in list(changes) if key in Stage().as_dict()}
    stage = Stage.of(connections=connections, **parameters)
    return settings_for(need_of(stage, host(**{**ROOMY, **changes})))


def need_of(stage: Stage, here: Host) -> Need:
    return Need(
        host=here, plan=resolve(stage, here), message_bytes=stage.message_bytes, message_rate=stage.message_rate
    )


def test_nothing_is_asked_of_a_host_that_has_enough() -> None:
    assert found() == {("net.netfilter.nf_conntrack_max", NEEDED): 1_200_000} | {
        ("net.netfilter.nf_conntrack_buckets", RECOMMENDED): 278_528
    }  # The known host has 144 entries in its table, so that connections are tracked.
    assert found(conntrack_count=0) == {}


@pytest.mark.parametrize(
    ("connections", "changes", "key", "rank", "needed"),
    [
        # Two watches a connection, 3M x 2 x 1.1 = 6.6M.
        ("3M", {}, "fs.epoll.max_user_watches", NEEDED, 6_600_000),
        # As many connections as there are watches for fit: nothing to do.
        (2_745_755, {}, "fs.epoll.max_user_watches", NEEDED, None),
        (2_745_756, {}, "fs.epoll.max_user_watches", NEEDED, 6_100_000),
        ("2M", {"uid": 1000}, "fs.file-max", NEEDED, 4_500_000),  # 1,170 in use and 4.4M, rounded up
        ("2M", {"uid": 0}, "fs.file-max", NEEDED, None),  # Root is exempt.
        ("1M", {"conntrack_count": 0, "conntrack_tracking": True}, "net.netfilter.nf_conntrack_max", NEEDED, 1_100_000),
        ("1M", {"conntrack_tracking": False}, "net.netfilter.nf_conntrack_max", NEEDED, None),
        ("1M", {"conntrack_max": None, "conntrack_buckets": None}, "net.netfilter.nf_conntrack_max", NEEDED, None),
        # More processes make up for a low fd limit; a higher one would need fewer.
        ("1M", {"fd_hard": 20_000}, "nofile", NEEDED, None),
        ("1M", {"fd_hard": 20_000}, "nofile", RECOMMENDED, 1_048_576),
        ("100k", {"fd_hard": 20_000}, "nofile", RECOMMENDED, 120_000),
        ("100k", {"fd_hard": 20_000, "cpu_count": 16}, "nofile", RECOMMENDED, None),
        # The processes that were asked for cannot hold them.
        ("1M", {"fd_hard": 20_000, "server_shards": 4}, "nofile", NEEDED, 280_000),
        ("1M", {"fd_hard": 20_000, "server_shards": 1}, "nofile", NEEDED, 1_048_576),
        ("1M", {"fd_hard": 20_000, "server_shards": 1}, "fs.nr_open", NEEDED, None),
        ("2M", {"swarm_workers": 1}, "nofile", NEEDED, 2_300_000),
        ("2M", {"swarm_workers": 1}, "fs.nr_open", NEEDED, 2_300_000),
        ("1M", {"fd_hard": None}, "nofile", NEEDED, None),
        # Ports: only for source addresses that were asked for, and only when the widest range is enough.
        ("1M", {}, "net.ipv4.ip_local_port_range", NEEDED, None),
        ("50k", {"source_addresses": 1}, "net.ipv4.ip_local_port_range", NEEDED, "1024 65535"),
        ("100k", {"source_addresses": 1}, "net.ipv4.ip_local_port_range", NEEDED, None),
        ("1M", {"fd_hard": 4096}, "kernel.pid_max", NEEDED, None),
        (
            "1M",
            {"server_shards": 1042, "swarm_workers": 1042, "pid_max": 3000},
            "kernel.pid_max",
            NEEDED,
            3400,
        ),  # and others
        ("1M", {"server_shards": 1042, "swarm_workers": 1042, "threads_max": 3000}, "kernel.threads-max", NEEDED, 3400),
        ("1M", {"nproc_soft": 1000, "uid": 1000}, "nproc", NEEDED, 1100),
        ("1M", {"nproc_soft": 1000, "uid": 0}, "nproc", NEEDED, None),
        ("1M", {"pids_cgroup_max": 100, "pids_cgroup_used": 40}, "pids.max", NEEDED, 110),
        ("1M", {"pids_cgroup_max": 200, "pids_cgroup_used": 40}, "pids.max", NEEDED, None),
        ("10k", {"somaxconn": 128}, "net.core.somaxconn", RECOMMENDED, 4096),
        (100, {"somaxconn": 128}, "net.core.somaxconn", RECOMMENDED, None),
        # With SYN cookies the kernel does not look at the limit.
        ("10k", {"syn_backlog": 1024}, "net.ipv4.tcp_max_syn_backlog", RECOMMENDED, None),
        ("10k", {"syn_backlog": 1024, "syncookies": 0}, "net.ipv4.tcp_max_syn_backlog", RECOMMENDED, 4096),
        ("10k", {"syn_backlog": 2048, "syncookies": 0}, "net.ipv4.tcp_max_syn_backlog", RECOMMENDED, None),
        ("10k", {"cpu_count": 1}, "net.core.netdev_max_backlog", RECOMMENDED, 10_000),
        ("10k", {"cpu_count": 2}, "net.core.netdev_max_backlog", RECOMMENDED, None),
        ("1M", {"message_rate": 1}, "net.ipv4.tcp_mem", RECOMMENDED, None),  # small ones
        ("1M", {"message_bytes": "64KiB"}, "net.ipv4.tcp_mem", RECOMMENDED, None),  # a hundredth of them at once
        ("1M", LARGE, "net.ipv4.tcp_mem", RECOMMENDED, "440000 586666 880000"),
        # Half of the memory is the most; marks that are as high already stay.
        ("1M", {**LARGE, "memory_total_bytes": 4 * GIB}, "net.ipv4.tcp_mem", RECOMMENDED, None),
    ],
)
def test_a_setting_is_asked_for_when_its_limit_ends_below_the_target(
    connections: Any, changes: dict[str, Any], key: str, rank: str, needed: Any
) -> None:
    assert found(connections, **changes).get((key, rank)) == needed


def test_an_empty_host_asks_for_nothing() -> None:
    stage = Stage.of(connections="1M")
    assert settings_for(need_of(stage, Host())) == []


@pytest.mark.parametrize("connections", ["1k", "100k", "1M", "3M", "40M", "1G"])
def test_no_value_is_ever_lowered(connections: str) -> None:
    for item in settings(connections, fd_hard=20_000, uid=1000, source_addresses=1, message_bytes="1MiB"):
        before, after = str(item.present).split(), str(item.needed).split()
        if item.key == "net.ipv4.ip_local_port_range":
            before[0], after[0] = after[0], before[0]  # A range grows downwards at its lower end.
        assert all(int(new) >= int(old) for old, new in zip(before, after, strict=True))
        assert before != after


def test_what_is_needed_lifts_every_limit_that_a_setting_can_lift() -> None:
    short = {"epoll_watches_max": 10_000, "file_max": 20_000, "uid": 1000, "conntrack_tracking": True}
    keys = {
        "fs.epoll.max_user_watches": "epoll_watches_max",
        "fs.file-max": "file_max",
        "net.netfilter.nf_conntrack_max": "conntrack_max",
    }
    before = host(**{**ROOMY, **short})
    plan = resolve(Stage.of(connections="1M"), before)
    assert not fits(before, plan).fits
    found = settings_for(Need(host=before, plan=plan))
    after = replace(before, **{keys[item.key]: item.needed for item in found if item.key in keys})
    assert fits(after, plan).fits
    assert [item for item in settings_for(Need(host=after, plan=plan)) if item.rank == NEEDED] == []


def test_nr_open_is_written_before_the_limit_that_it_bounds() -> None:
    keys = [item.key for item in settings("2M", swarm_workers=1)]
    assert keys.index("fs.nr_open") < keys.index("nofile")


def test_a_value_stays_within_what_the_kernel_takes() -> None:
    assert found("1G")["fs.epoll.max_user_watches", NEEDED] == (1 << 31) - 1
    assert found("1G", server_shards=5_000_000)["kernel.pid_max", NEEDED] == 4_194_304


def test_the_table_names_limits_and_reasons() -> None:
    lifts = [lift for limit in LIMITS for lift in limit.lifts]
    assert all(lift.why and lift.key for lift in lifts if lift.is_setting)
    assert all(lift.key in Stage().as_dict() for lift in lifts if lift.kind == PARAMETER)
    assert all(lift.command for lift in lifts if lift.kind == ADVICE)


@pytest.mark.parametrize(
    ("value", "rounded"), [(7, 7), (99, 99), (101, 110), (4_400_000, 4_400_000), (4_400_001, 4_500_000)]
)
def test_values_are_rounded_up_to_two_digits(value: int, rounded: int) -> None:
    assert round_up(value) == rounded


# For each limit, a host on which a million connections meet it, as an ordinary user with small messages.
SHORT: dict[str, dict[str, Any]] = {
    "fd_limit": {"fd_hard": 20_000, "server_shards": 4, "swarm_workers": 4},
    "nr_open": {"fd_hard": 20_000, "nr_open": 20_000, "server_shards": 1},
    "file_max": {"file_max": 20_000, "uid": 1000},
    "ephemeral_ports": {"connections": 60_000, "source_addresses": 1},
    "conntrack": {"conntrack_tracking": True},
    "conntrack_buckets": {"conntrack_tracking": True},
    "epoll_watches": {"epoll_watches_max": 10_000},
    "memory_cgroup": {"memory_cgroup_limit_bytes": GIB, "memory_cgroup_used_bytes": 0},
    "process_limit": {"fd_hard": 1024, "pid_max": 1000, "threads_max": 1000, "nproc_soft": 9, "pids_cgroup_max": 9}
    | {"uid": 1000},
    "accept_queue": {"somaxconn": 128},
    "syn_queue": {"syn_backlog": 128, "syncookies": 0},
    "tcp_mem": {"message_bytes": "1MiB", "message_rate": 1},
    "device_backlog": {"netdev_max_backlog": 100},
}


def test_every_limit_that_a_setting_lifts_has_a_host_that_is_short_of_it() -> None:
    assert {limit.name for limit in LIMITS for lift in limit.lifts if lift.is_setting} == set(SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_preflight_the_remedy_and_tune_give_the_same_value(name: str) -> None:
    changes = dict(SHORT[name])
    parameters = {key: changes.pop(key) for key in list(changes) if key in Stage().as_dict()}
    need = need_of(Stage.of(**{"connections": "1M", **parameters}), host(**{**ROOMY, **changes}))
    found = [item for item in settings_for(need) if item.limit == name]
    assert found
    # How far a single process would go is another question than what the planned ones need.
    rows = [row for row in ceilings(need.host, need.plan) if row.limit == name]
    rows = [row for row in rows if name == "nr_open" or row.scope != ONE_PROCESS]
    preflight = {command for row in rows for command in row.commands}
    remedies = {remedy(need, name, row.side).rpartition(": ")[2] for row in rows}
    for item in found:
        same_key = item.command[: item.command.index(str(item.needed))]
        # Preflight is not told of messages, which decide how much memory their buffers take.
        told = remedies if name == "tcp_mem" else preflight
        assert [command for command in told if command.startswith(same_key)] == [item.command]
    assert all(
        command.startswith("wslab stage ") or command in {item.command for item in found} for command in remedies
    )
