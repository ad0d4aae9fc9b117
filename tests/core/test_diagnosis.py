"""Diagnosis: one broken run a limit gives exactly that finding, a healthy one none, a slow generator blames itself."""

from __future__ import annotations

from typing import Any

import pytest

from core.hosts import GIB
from core.made import ASKED, evidence, exited, failure, layout, rising
from wslab.core.diagnosis import RULES, SERVER_FAULTS, diagnose
from wslab.core.evidence import Evidence
from wslab.core.limits import LIMITS

RESERVE = {
    "event": "memory_reserve_reached",
    "headroom_bytes": GIB,
    "reserve_bytes": GIB,
    "connections_open": 81_000,
}
CAP = {"event": "memory_cap_reached", "used_bytes": 2 * GIB, "cap_bytes": 2 * GIB, "connections_open": 70_000}
TIMEOUTS = [failure("connect", "ETIMEDOUT", 500)]
# One core's worth of idle time is gone: a second of CPU a second and core.
FULL_MACHINE = {
    "cpu_user_seconds": rising(101.0, 1.0),
    "cpu_system_seconds": rising(101.0, 1.0),
    "cpu_idle_seconds": rising(502.0, 0.01),
}
SLOW = {"hold": {"messages_received": 1000}, "verify": {"messages_received": 101_000}}
WAITING = {
    side: {
        f"{side}_cpu_throttled_fraction": 0.97,
        f"{side}_cpu_throttled_total": rising(30, 50),
        f"{side}_cpu_quota_fraction": 0.2,
    }
    for side in ("server", "swarm")
}


CLOSED = {"event": "failure", "phase": "hold", "errno": 108, "detail": "closed with code 1001 (too old)"}


def rules(before: int | None, after: int | None) -> list[dict[str, Any]]:
    """Return what was told of a firewall before and after: a rule with its counter, or nothing for want of root."""
    rule = {"chain": "inet filter input", "text": "limit rate over 9/second drop", "effect": "drops", "limits": True}
    counts = (before, after)
    return [{"event": "firewall", "rules": None if n is None else [{**rule, "packets": n}]} for n in counts]


# Each row: the limit and the side to be found, a broken run, and what its evidence must quote.
BROKEN: list[tuple[str, str, dict[str, Any], list[str]]] = [
    (
        "fd_limit",
        "server",
        {
            "opened": 39_872,
            "columns": {
                "server_shards_at_limit": 2,
                "server_fds_max": 20_000,
                "listen_overflows_total": rising(17, 900),
            },
            "failures": [failure("upgrade", "ETIMEDOUT", 600)],
            "plan": {"server_shards": 2},
        },
        ["without a free descriptor 0 → 2 of 2", "fds of the fullest shard 16,730 → 20,000", "RLIMIT_NOFILE 20,000"],
    ),
    (
        "fd_limit",
        "swarm",
        {"opened": 19_936, "failures": [failure("connect", "EMFILE", 100)], "plan": {"swarm_workers": 1}},
        ["connect EMFILE × 100", "RLIMIT_NOFILE 20,000 a process, 1 worker"],
    ),
    (
        "nr_open",
        "swarm",
        {"opened": 65_000, "failures": [failure("connect", "EMFILE", 100)], "limits": {"nr_open": 20_000}},
        ["connect EMFILE × 100", "fs.nr_open 20,000"],
    ),
    (
        "nr_open",
        "server",
        {"opened": 65_000, "columns": {"server_shards_at_limit": 6}, "limits": {"fd_hard": None}},
        ["0 → 6 of 6", "fs.nr_open 1,048,576"],
    ),
    (
        "file_max",
        "kernel",
        {
            "opened": 60_000,
            "columns": {"file_handles": 2_466_170, "server_shards_at_limit": 6},
            "failures": [failure("connect", "ENFILE", 100)],
        },
        ["connect ENFILE × 100", "file-nr 1,170 → 2,466,170 of fs.file-max 2,466,170"],
    ),
    (
        "ephemeral_ports",
        "swarm",
        {
            "opened": 28_232,
            "failures": [failure("connect", "EADDRNOTAVAIL", 100)],
            "plan": {"source_addresses": ["127.0.0.2"]},
        },
        ["connect EADDRNOTAVAIL × 100", "28,232 ports × 1 source address = 28,232 for 100,000 connections"],
    ),
    (
        "time_wait",
        "kernel",
        {
            "opened": 93_000,
            "columns": {"tcp_time_wait": 20_000},
            "failures": [failure("connect", "EADDRNOTAVAIL", 100)],
            "plan": {"source_addresses": ["127.0.0.2"] * 4},
            "before": {"tcp_time_wait": 20_000},
        },
        ["connect EADDRNOTAVAIL × 100", "20,000 connections in TIME_WAIT (sockstat tw)", "= 112,928"],
    ),
    (
        "bind_ports",
        "swarm",
        {"opened": 28_232, "failures": [failure("connect", "EADDRINUSE", 100)]},
        ["bind: connect EADDRINUSE × 100"],
    ),
    (
        "conntrack",
        "kernel",
        {
            "opened": 70_000,
            "columns": {"conntrack_drops_total": rising(9, 40), "conntrack_count": 262_144},
            "failures": TIMEOUTS,
        },
        ["nf_conntrack drop 9 → ", "nf_conntrack_count 144 → 262,144 of 262,144", "connect ETIMEDOUT × 500"],
    ),
    (
        "conntrack_buckets",
        "kernel",
        {
            "columns": {"conntrack_count": rising(144, 90_000)},
            "limits": {"conntrack_buckets": 65_536},
            "stage": {"ramp_rate": 50_000},
        },
        ["nf_conntrack_count 144 → ", "in 65,536 buckets"],
    ),
    (
        "conntrack",
        "kernel",
        {
            "opened": 70_000,
            "columns": {"conntrack_drops_total": rising(9, 40), "server_shards_at_limit": 5},
            "failures": TIMEOUTS,
        },
        ["nf_conntrack drop 9 → "],
    ),
    (
        "conntrack_buckets",
        "kernel",
        {
            "opened": 90_000,
            "columns": {"conntrack_chains_too_long_total": rising(0, 400), "conntrack_count": rising(144, 9_000)},
            "limits": {"conntrack_buckets": 512},
            "failures": TIMEOUTS,
        },
        ["nf_conntrack chainlength 0 → ", "in 512 buckets", "connect ETIMEDOUT × 500"],
    ),
    (
        "accept_queue",
        "server",
        {
            "opened": 99_500,
            "columns": {"listen_overflows_total": rising(17, 300), "listen_drops_total": rising(17, 300)},
            "failures": TIMEOUTS,
        },
        ["ListenOverflows 17 → ", "ListenDrops 17 → ", "somaxconn 4,096", "connect ETIMEDOUT × 500"],
    ),
    (
        "accept_queue",
        "server",
        # Nothing failed; the stalls alone cost the rate.
        {"columns": {"listen_overflows_total": rising(17, 300)}, "stage": {"ramp_rate": 50_000}},
        ["ListenOverflows 17 → ", "25,000 of 50,000 connections a second"],
    ),
    (
        "syn_queue",
        "kernel",
        {"opened": 99_500, "columns": {"syn_drops_total": rising(0, 200)}, "failures": TIMEOUTS},
        ["TCPReqQFullDoCookies 3 → 3", "TCPReqQFullDrop 0 → "],
    ),
    (
        "syn_queue",
        "kernel",
        # A few packets of anybody's that were dropped meanwhile did not make five hundred attempts time out.
        {
            "opened": 99_500,
            "columns": {"syn_drops_total": rising(0, 200), "softnet_drops_total": rising(5, 1)},
            "failures": TIMEOUTS,
        },
        ["TCPReqQFullDrop 0 → "],
    ),
    (
        "epoll_watches",
        "kernel",
        {"opened": 50_000, "failures": [failure("connect", "ENOSPC", 100)], "limits": {"epoll_watches_max": 100_000}},
        ["epoll_ctl: connect ENOSPC × 100", "100,000 watches for 50,000 connections", "max_user_watches 100,000"],
    ),
    (
        "memory_reserve",
        "machine",
        {
            "opened": 81_000,
            # A few shards are full by chance when the ramp is stopped; that is not what stopped it.
            "columns": {"memory_headroom_bytes": GIB, "server_shards_at_limit": 1},
            "told": {"ramp": {"stopped_by": "memory_reserve"}, "extra": [RESERVE]},
        },
        ["memory_reserve_reached: 1 GiB left, reserve 1 GiB", "memory headroom bytes 21,474,836,480 → 1,073,741,824"],
    ),
    (
        "memory_reserve",
        "machine",
        {"opened": 70_000, "told": {"ramp": {"stopped_by": "memory_cap"}, "extra": [CAP]}},
        ["memory_cap_reached: 2 GiB used, memory_cap 2 GiB"],
    ),
    (
        "memory_machine",
        "machine",
        {
            "opened": 70_000,
            "columns": {"oom_kills_total": 3, "memory_headroom_bytes": 100 << 20},
            "told": {"extra": [exited("server", signal=9)]},
        },
        ["server pid 4711 by signal 9", "vmstat oom_kill 2 → 3", "least memory headroom 100 MiB"],
    ),
    (
        "memory_cgroup",
        "machine",
        {
            "opened": 70_000,
            "columns": {"oom_kills_total": 3},
            "told": {"extra": [exited("server", signal=9)]},
            "limits": {"memory_cgroup_limit_bytes": 256 << 20},
        },
        ["signal 9", "vmstat oom_kill 2 → 3", "least memory headroom 20 GiB", "control group limit 256 MiB"],
    ),
    (
        "tcp_mem",
        "kernel",
        {
            "told": SLOW,
            "columns": {"tcp_memory_pressures_total": rising(1, 1), "tcp_aborts_on_memory_total": rising(0, 8)},
        },
        ["TCPMemoryPressures 1 → ", "TCPAbortOnMemory 0 → ", "tcp_mem 2,342,912,000 bytes"],
    ),
    (
        "device_backlog",
        "kernel",
        {"told": SLOW, "columns": {"softnet_drops_total": rising(5, 70), "retransmits_total": rising(90, 70)}},
        ["softnet_stat dropped 5 → ", "RetransSegs 90 → "],
    ),
    (
        "device_backlog",
        "kernel",
        {
            "opened": 99_000,
            "columns": {"softnet_drops_total": rising(5, 70), "server_cpu_fraction_max": 1.0},
            "failures": TIMEOUTS,
        },
        ["softnet_stat dropped 5 → ", "connect ETIMEDOUT × 500"],
    ),
    (
        "server_cpu",
        "server",
        {"told": SLOW, "columns": {"softnet_drops_total": rising(5, 70), "server_cpu_fraction_max": 1.0}},
        ["busiest server process at most 100% of a core"],
    ),
    (
        "server_cpu",
        "server",
        {
            "told": SLOW,
            "columns": {"conntrack_chains_too_long_total": rising(0, 1), "server_cpu_fraction_max": 1.0},
        },
        ["busiest server process at most 100% of a core"],
    ),
    (
        "machine_cpu",
        "machine",
        {"columns": {**WAITING["swarm"], "server_cpu_fraction_max": 0.95}, "told": SLOW},
        ["swarm wait for a CPU quota, and both ends are busy"],
    ),
    (
        "process_limit",
        "machine",
        {
            "opened": 0,
            "told": {
                "extra": [
                    {"event": "error", "message": "cannot start shard 3 of 6: Resource temporarily unavailable"},
                    exited("server", exit_code=1),
                ]
            },
        },
        ["fork: cannot start shard 3 of 6: Resource temporarily unavailable", "pid_max 32,768"],
    ),
    (
        "server_died",
        "server",
        {
            "opened": 70_000,
            "told": {"ramp": {"stopped_by": "server_died"}, "extra": [exited("server", signal=11)]},
            "failures": [failure("connect", "ECONNREFUSED", 100)],
        },
        ["server pid 4711 by signal 11", "vmstat oom_kill 2 → 2"],
    ),
    (
        "memory_reserve",
        "machine",
        {
            "opened": 1_000,
            "told": {"extra": [RESERVE]},
            "limits": {"server_fd_limit": 20_000},
            "columns": {"server_processes": 1, "server_rss_bytes": rising(10 << 20, 5 << 20)},
        },
        ["server processes 10 MiB → ", "KiB a connection"],
    ),
    *(
        (
            limit,
            "server",
            {"opened": 0, "told": {"extra": [{"event": "server_failed", "limit": limit, "message": "as it was seen"}]}},
            ["as it was seen"],
        )
        for limit in ("server_unreachable", "server_refused", "server_closed")
    ),
    (
        "fd_limit",
        "server",
        {
            "opened": 1_002,
            "told": {"extra": [{"event": "process_full", "pid": 815, "fds": 1_023, "limit": 1_024}]},
            "failures": [failure("upgrade", "ECONNRESET", 100)],
            "limits": {"server_fd_limit": 1_024, "server_processes": 1},
            "columns": {"server_shards_at_limit": 1},
            "plan": {"server_shards": 1},
        },
        ["pid 815 1,023 of 1,024", "upgrade ECONNRESET × 100"],
    ),
    (
        "generator",
        "swarm",
        {"opened": 70_000, "told": {"extra": [exited("swarm", exit_code=1)]}},
        ["swarm pid 4711 by exit code 1"],
    ),
    (
        "server_silent",
        "server",
        {
            "columns": {"server_cpu_fraction_max": 0.01},
            "told": {"verify": {"connections_verified": 60_000}},
            "failures": [failure("echo", "ETIMEDOUT", 40_000)],
        },
        ["echo ETIMEDOUT × 40,000", "busiest server process at 1% of a core", "ListenOverflows 17 → 17"],
    ),
    (
        "server_silent",
        "server",
        # The server stops in the middle of the ramp: its queue fills, and that is not the cause.
        {
            "opened": 30_000,
            "columns": {
                "server_cpu_fraction_max": 0.0,
                "server_connections_opened": 30_000,
                "swarm_connections_pending": 512,
                "listen_overflows_total": rising(17, 300),
            },
            "failures": [failure("upgrade", "ETIMEDOUT", 4096)],
        },
        ["upgrade ETIMEDOUT × 4,096", "server_connections_opened"],
    ),
    (
        "server_protocol",
        "server",
        {
            "opened": 0,
            "failures": [failure("upgrade", "EPROTO", 100)],
            "told": {
                "extra": [{"event": "failure", "phase": "upgrade", "detail": "unexpected answer b'HTTP/1.1 404'"}]
            },
        },
        ["upgrade EPROTO × 100", "unexpected answer b'HTTP/1.1 404'"],
    ),
    (
        "generator",
        "swarm",
        {"columns": {"swarm_cpu_fraction_max": 0.99, "swarm_lag_seconds_max": 2.5}, "stage": {"ramp_rate": 50_000}},
        ["25,000 of 50,000 connections a second", "busiest swarm process at most 99% of a core", "lag 2.500 s"],
    ),
    (
        "server_cpu",
        "server",
        {"columns": {"server_cpu_fraction_max": 1.0}, "told": SLOW},
        ["250 of 1,000 messages a second answered", "busiest server process at most 100% of a core"],
    ),
    (
        "server_cpu",
        "server",
        # Hardly any CPU time, and no rest: this is not a server that is silent.
        {
            "columns": {"server_cpu_fraction_max": 0.04, **WAITING["server"]},
            "told": SLOW,
            "failures": [failure("echo", "ETIMEDOUT", 9)],
        },
        ["server throttled in up to 97% of the periods of its CPU quota of 0.2 (nr_throttled 30 → 530)"],
    ),
    (
        "generator",
        "swarm",
        {"columns": {"swarm_lag_seconds_max": 0.1, **WAITING["swarm"]}, "told": SLOW},
        ["swarm throttled in up to 97% of the periods of its CPU quota of 0.2 (nr_throttled 30 → 530)"],
    ),
    (
        "machine_cpu",
        "machine",
        {"columns": {**WAITING["swarm"], **WAITING["server"]}, "told": SLOW},
        [
            "server and swarm wait for a CPU quota, and both ends are busy",
            ", server throttled in up to 97%",
            ", swarm throttled in up to 97%",
        ],
    ),
    (
        "machine_cpu",
        "machine",
        {
            "columns": {"server_cpu_fraction_max": 0.95, "swarm_cpu_fraction_max": 0.97, **FULL_MACHINE},
            "stage": {"ramp_rate": 50_000},
        },
        ["25,000 of 50,000 connections a second", "no idle CPU"],
    ),
    (
        "server_refused",
        "server",
        {
            "opened": 99_000,
            # That the machine was full as well explains no refusal.
            "columns": {"server_listeners": 0, "resets_sent_total": rising(7, 200), **FULL_MACHINE},
            "failures": [failure("connect", "ECONNREFUSED", 1000)],
        },
        ["connect ECONNREFUSED × 1,000", "sockets that listen on its port: 0", "OutRsts 7 → "],
    ),
    (
        "host_lost",
        "swarm",
        {
            "told": {
                "hold": {"connections_open": 60_000, "stopped_by": "host_died"},
                "extra": [
                    {"event": "host_lost", "host": "h2", "role": "swarm", "why": "it has not answered for 5 s"}
                    | {"elapsed_seconds": 7.0, "host_connections_open": 40_000, "connections_open": 60_000}
                ],
            }
        },
        ["host h2 is lost: it has not answered for 5 s; it held 40,000 connections"],
    ),
    (
        "server_unreachable",
        "server",
        {"opened": 0, "failures": [failure("connect", "EHOSTUNREACH", 100)]},
        ["connect EHOSTUNREACH × 100"],
    ),
    (
        "server_closed",
        "server",
        {
            "told": {"hold": {"connections_open": 60_000}, "extra": [CLOSED]},
            "columns": FULL_MACHINE,
            "failures": [failure("hold", "ESHUTDOWN", 40_000)],
        },
        ["closed with code 1001 (too old)", "hold ESHUTDOWN × 40,000"],
    ),
    (
        "server_closed",
        "server",
        {"told": {"hold": {"connections_open": 60_000}}, "failures": [failure("hold", "ECONNRESET", 40_000)]},
        ["hold ECONNRESET × 40,000; no close code was given"],
    ),
    (
        "firewall",
        "kernel",
        {
            "opened": 60_000,
            "columns": {"server_listeners": 1, "resets_sent_total": 3},
            "failures": [failure("connect", "ECONNREFUSED", 40_000)],
            "told": {"extra": rules(None, None)},
        },
        ["refused: connect ECONNREFUSED × 40,000", "for root to read", "by elimination", "OutRsts 3 → 3"],
    ),
    (
        "firewall",
        "kernel",
        {
            "opened": 60_000,
            "columns": {"server_listeners": 1, "syn_retransmits_total": rising(40, 9000), "server_accept_queue": 0},
            "failures": [failure("connect", "ETIMEDOUT", 40_000)],
            "told": {"extra": rules(None, None)},
        },
        ["dropped: connect ETIMEDOUT × 40,000", "TCPSynRetrans 40 → ", "by elimination", "ListenOverflows 17 → 17"],
    ),
    (
        "firewall",
        "kernel",
        {
            "opened": 60_000,
            # On a full machine, and where others are dropped as well: the rule's own counter is proof.
            "columns": {"syn_retransmits_total": rising(40, 9000), **FULL_MACHINE},
            "failures": [failure("connect", "ETIMEDOUT", 40_000)],
            "told": {"extra": rules(5, 90_005)},
        },
        [
            "rate-limited: connect ETIMEDOUT × 40,000",
            'rule of inet filter input: "limit rate over 9/second drop"',
            "5 → 90,005",
        ],
    ),
    (
        "link",
        "kernel",
        {
            "told": SLOW,
            "columns": {
                "link_queue": "tbf on lo",
                "link_backlog_bytes": 60_000,
                "link_overlimits_total": rising(0, 900),
                "link_drops_total": 0,
                "link_roundtrip_seconds_min": 0.004,
                "server_cpu_fraction_max": 0.01,
            },
            "failures": [failure("echo", "ETIMEDOUT", 500)],
        },
        ["tbf on lo: qdisc overlimits 0 → ", "backlog up to 60,000 bytes", "least round trip 4 ms"],
    ),
    (
        "unknown",
        "machine",
        {"opened": 99_000, "failures": [failure("connect", "EINVAL", 1000)]},
        [
            "99,000 of 100,000 connections opened",
            "connect EINVAL × 1,000",
            "ruled out: ListenOverflows 17 → 17, nf_conntrack drop 9 → 9, softnet_stat dropped 5 → 5",
            "vmstat oom_kill 2 → 2",
        ],
    ),
]


@pytest.mark.parametrize(("limit", "side", "run", "quotes"), BROKEN, ids=[f"{row[0]}-{row[1]}" for row in BROKEN])
def test_a_broken_run_is_named_with_exactly_its_limit_and_the_proof(
    limit: str, side: str, run: dict[str, Any], quotes: list[str]
) -> None:
    given = dict(run)
    before = given.pop("before", {})
    made = evidence(**given)
    for sample in made.samples[:2]:
        sample.update(before)  # type: ignore[attr-defined]
    findings = diagnose(made)
    assert [(finding.limit, finding.side) for finding in findings] == [(limit, side)]
    for quote in quotes:
        assert quote in findings[0].evidence
    assert findings[0].remedy
    assert 0 <= findings[0].at_connections <= ASKED


@pytest.mark.parametrize(
    "run",
    [
        {},
        # A few overflows, cookies and drops in a fast ramp cost nobody anything.
        {"columns": {"listen_overflows_total": rising(17, 30), "syn_cookies_total": 50, "softnet_drops_total": 6}},
        # A ramp as fast as possible uses all there is.
        {"columns": {"swarm_cpu_fraction_max": 1.0, "server_cpu_fraction_max": 1.0, **FULL_MACHINE}},
        {"columns": {"swarm_cpu_fraction_max": 1.0}},
        # Shards were full for a moment, and others took over.
        {"columns": {"server_shards_at_limit": [0, 1, 0] + [0] * 8}},
        # Someone else's table is full, and someone else's process was killed.
        {"columns": {"conntrack_count": 262_144, "oom_kills_total": 3}},
        # The rate was kept.
        {"stage": {"ramp_rate": 25_000}},
        # A rate within a tenth of what was asked, and one that a second of grace explains.
        {"stage": {"ramp_rate": 27_000}},
        # Two messages a second are too few to judge.
        {"stage": {"message_rate": 0.0002}, "told": {"hold": {"messages_received": 0}}},
        # Attempts failed and were made again.
        {"failures": [failure("connect", "ETIMEDOUT", 3)]},
        # The user stopped the ramp.
        {"opened": 50_000, "told": {"ramp": {"stopped_by": "caller"}}},
    ],
)
def test_a_run_that_reached_what_was_asked_has_no_finding(run: dict[str, Any]) -> None:
    assert diagnose(evidence(**run)) == []


ONE_ADDRESS = {"source_addresses": ("127.0.0.2",)}


@pytest.mark.parametrize(
    ("ports_seconds", "fds_seconds", "plan", "limits"),
    [
        # The times do not tell: 28,232 ports end before 119,616 descriptors do, and one worker before the ports.
        (None, None, {}, ["ephemeral_ports", "fd_limit"]),
        (None, None, {"swarm_workers": 1}, ["fd_limit", "ephemeral_ports"]),
        (3.0, None, {"swarm_workers": 1}, ["fd_limit", "ephemeral_ports"]),
        # The times tell.
        (3.0, 4.0, {"swarm_workers": 1}, ["ephemeral_ports", "fd_limit"]),
        (4.0, 3.0, {}, ["fd_limit", "ephemeral_ports"]),
    ],
)
def test_what_bound_first_is_named_first(
    ports_seconds: float | None, fds_seconds: float | None, plan: dict[str, Any], limits: list[str]
) -> None:
    failures = [
        failure("connect", "EMFILE", 100, fds_seconds),
        failure("connect", "EADDRNOTAVAIL", 100, ports_seconds),
    ]
    found = diagnose(evidence(50_000, failures=failures, plan={**ONE_ADDRESS, **plan}))
    assert [finding.limit for finding in found] == limits


@pytest.mark.parametrize(("most", "limits"), [(3000, ["conntrack", "ephemeral_ports"]), (5000, ["ephemeral_ports"])])
def test_ports_that_attempts_used_up_which_conntrack_had_stopped_are_named_next(most: int, limits: list[str]) -> None:
    full = most == 3000
    columns = {"conntrack_count": 3000, "conntrack_max": most, "conntrack_drops_total": rising(9, 500) if full else 9}
    found = diagnose(
        evidence(
            3000,
            columns=columns,
            failures=[failure("connect", "EADDRNOTAVAIL", 96_000)],
            plan=ONE_ADDRESS,
            limits={"port_high": 36_767, "conntrack_max": most, "conntrack_count": 0, "conntrack_tracking": True},
        )
    )
    assert [finding.limit for finding in found] == limits


def test_a_slow_run_blames_the_generator_and_not_a_server_with_time_to_spare() -> None:
    busy = {"swarm_cpu_fraction_max": 0.95, "server_cpu_fraction_max": 0.30}
    assert [finding.limit for finding in diagnose(evidence(columns=busy, told=SLOW))] == ["generator"]


def test_a_late_swarm_on_a_full_machine_is_blamed_only_when_it_takes_most_of_the_cpu() -> None:
    late = {
        "swarm_lag_seconds_max": 3.0,
        "server_cpu_fraction_max": 0.05,
        "swarm_cpu_fraction_max": 0.05,
        **FULL_MACHINE,
    }
    heavy = {"swarm_cpu_user_seconds": rising(0.6, 1.5), "server_cpu_user_seconds": rising(0.4, 0.1)}
    assert [finding.limit for finding in diagnose(evidence(columns=late, told=SLOW))] == ["machine_cpu"]
    assert [finding.limit for finding in diagnose(evidence(columns=late | heavy, told=SLOW))] == ["generator"]


def test_connections_lost_in_the_hold_are_a_miss() -> None:
    lost = evidence(told={"hold": {"connections_open": 99_000}, "verify": {"connections_verified": 99_000}})
    assert lost.misses == [
        "99,000 of 100,000 connections verified",
        "1,000 connections lost by the end of hold",
    ]
    assert [finding.limit for finding in diagnose(lost)] == ["unknown"]


def test_a_busy_server_that_answers_late_is_not_silent() -> None:
    # Idle in the hold, where hardly anything is said, and at full speed when all speak at once.
    shares = [0.5] * 4 + [0.01] * 4 + [1.0] * 3
    late = evidence(
        columns={"server_cpu_fraction_max": shares},
        told={"verify": {"connections_verified": 60_000}},
        failures=[failure("echo", "ETIMEDOUT", 40_000)],
    )
    assert [finding.limit for finding in diagnose(late)] == ["server_cpu"]


def test_a_remedy_gives_the_command_for_this_stage() -> None:
    ports = evidence(
        28_232, failures=[failure("connect", "EADDRNOTAVAIL", 9)], plan={"source_addresses": ["127.0.0.2"]}
    )
    assert diagnose(ports)[0].remedy.endswith(": wslab stage --connections 100k --source-addresses 13")


@pytest.mark.parametrize(
    ("sides", "bounds"),
    [
        (["server"], "0.2 for the server"),
        (["swarm"], "0.2 for the swarm"),
        (["server", "swarm"], "0.2 for the server and 0.2 for the swarm"),
    ],
)
def test_where_a_quota_was_used_up_the_remedy_is_a_larger_one(sides: list[str], bounds: str) -> None:
    columns = {name: value for side in sides for name, value in WAITING[side].items()}
    (found,) = diagnose(evidence(columns=columns, told=SLOW))
    assert found.remedy.startswith(f"a larger CPU quota of the control group, now {bounds}: cpu.max")


def test_a_quota_that_was_not_used_up_is_quoted_and_not_blamed() -> None:
    roomy = {"server_cpu_throttled_fraction": 0.1, "server_cpu_throttled_total": 3, "server_cpu_quota_fraction": 2.5}
    (found,) = diagnose(evidence(columns={"server_cpu_fraction_max": 1.0, **roomy}, told=SLOW))
    assert "server throttled in up to 10% of the periods of its CPU quota of 2.5 (nr_throttled 3 → 3)" in found.evidence
    assert found.remedy.startswith("fewer messages, or more server shards")


def test_a_swarm_that_is_busy_in_the_ramp_alone_is_not_blamed_for_a_hold() -> None:
    columns = {"swarm_cpu_fraction_max": [0.99] * 5 + [0.3] * 6, "server_cpu_fraction_max": [0.6] * 5 + [0.99] * 6}
    assert [finding.limit for finding in diagnose(evidence(columns=columns, told=SLOW))] == ["server_cpu"]


def test_a_run_that_recorded_nothing_is_an_honest_unknown() -> None:
    bare = Evidence(stage={"connections": 5}, plan=layout())
    assert [(finding.limit, finding.at_connections) for finding in diagnose(bare)] == [("unknown", 0)]


def test_every_limit_that_can_be_found_is_one_of_the_vocabulary() -> None:
    words = {limit.name for limit in LIMITS} | {"unknown", "host_lost", *SERVER_FAULTS}
    named = {name for rule in RULES for name in rule.limits}
    assert named == words
    assert {row[0] for row in BROKEN} == words


def test_rules_stand_in_the_order_of_their_rank() -> None:
    assert [rule.rank for rule in RULES] == sorted(rule.rank for rule in RULES)


LATE = {"told": SLOW, "failures": [failure("echo", "ETIMEDOUT", 500)]}
# Nothing was dropped: every packet was too late.
DELAYED = {"link_queue": "netem on lo", "link_backlog_bytes": 9_000, "link_drops_total": 0, "link_overlimits_total": 0}


@pytest.mark.parametrize(("again", "limit"), [(200, "link"), (0, "machine_cpu")])
def test_a_link_that_delays_is_blamed_only_where_packets_were_sent_again(again: int, limit: str) -> None:
    seen = {**DELAYED, "retransmits_total": rising(90, again), **FULL_MACHINE}
    assert [one.limit for one in diagnose(evidence(**LATE, columns=seen))] == [limit]


LOST_SYNS = {
    "opened": 60_000,
    "failures": [failure("connect", "ETIMEDOUT", 40_000)],
    "told": {"extra": rules(None, None)},
}
SYNS_AGAIN = {"server_listeners": 1, "syn_retransmits_total": rising(40, 9000), "server_accept_queue": 0}


@pytest.mark.parametrize(
    "seen",
    [
        {"server_accept_queue": 12},  # it has not accepted what did arrive
        {"server_processes_stopped": 1},
        {"server_listeners": None},  # on another host, where nothing can be ruled out
        {"conntrack_chains_too_long_total": rising(0, 9000), "conntrack_count": 200},
        {"syn_retransmits_total": 40},
    ],
)
def test_a_firewall_is_inferred_only_where_all_else_is_ruled_out(seen: dict[str, Any]) -> None:
    found = diagnose(evidence(**LOST_SYNS, columns={**SYNS_AGAIN, **seen}))
    assert "firewall" not in {finding.limit for finding in found}


@pytest.mark.parametrize(
    ("opened", "kind"), [([0, *[60_000] * 10], "dropped"), ([0, 10, 20, 30, *[60_000] * 7], "rate-limited")]
)
def test_without_its_rules_a_firewall_limits_a_rate_where_connections_opened_after_the_first_loss(
    opened: list[int], kind: str
) -> None:
    (found,) = diagnose(evidence(**LOST_SYNS, columns={**SYNS_AGAIN, "swarm_connections_opened": opened}))
    assert found.evidence.startswith(f"{kind}: ")


@pytest.mark.parametrize(("under_way", "limit"), [(4_000, "firewall"), (0, "machine_cpu")])
def test_messages_that_were_sent_again_are_blamed_on_a_firewall_only_where_they_never_arrive(
    under_way: int, limit: str
) -> None:
    seen = {"server_listeners": 1, "server_sockets_sampled": 256, "swarm_send_queue_bytes": under_way}
    again = {"retransmits_total": rising(90, 200), **FULL_MACHINE}
    late = {**LATE, "told": {**SLOW, "extra": rules(None, None)}}
    assert [one.limit for one in diagnose(evidence(**late, columns={**seen, **again}))] == [limit]


def test_refusals_by_a_server_that_died_are_not_blamed_on_a_firewall() -> None:
    # The last sample with a listener was taken before it died, and its resets after the last sample.
    seen = {"server_listeners": 1, "resets_sent_total": 3}
    refused = {"opened": 60_000, "failures": [failure("connect", "ECONNREFUSED", 40_000)], "columns": seen}
    death = {"event": "process_exited", "role": "server", "pid": 10, "exit_code": 7, "elapsed_seconds": 4.5}
    assert [one.limit for one in diagnose(evidence(**refused))] == ["firewall"]
    assert [one.limit for one in diagnose(evidence(**refused, told={"extra": [death]}))] == ["server_died"]


def test_where_root_sees_no_rule_that_drops_the_firewall_is_not_blamed() -> None:
    read = {"extra": [{"event": "firewall", "rules": []}] * 2}
    (found,) = diagnose(evidence(**{**LOST_SYNS, "told": read}, columns=SYNS_AGAIN))
    assert found.limit == "unknown"


@pytest.mark.parametrize(
    ("told", "certainty"),
    [(rules(0, 90_000), "proved"), (rules(0, 30_000), "counted"), (rules(None, None), "inferred")],
)
def test_a_firewall_is_as_certain_as_its_counter(told: list[dict[str, Any]], certainty: str) -> None:
    (found,) = diagnose(evidence(**{**LOST_SYNS, "told": {"extra": told}}, columns=SYNS_AGAIN))
    assert (found.limit, found.certainty) == ("firewall", certainty)


IDLE = {"server_cpu_fraction_max": 0.01, "server_listeners": 1, "server_sockets_sampled": 256}


@pytest.mark.parametrize(
    ("queues", "limit", "words"),
    [
        ({"server_sockets_waiting": 90, "server_receive_queue_bytes": 3_420}, "server_silent", "90 of 256 sampled"),
        ({"server_accept_queue": 7}, "server_silent", "7 connections wait in its accept queue"),
        (
            {"server_processes": 6, "server_processes_stopped": 2},
            "server_silent",
            "2 of 6 server processes are stopped",
        ),
        (
            {"server_processes": 6, "server_processes_blocked": 1, "server_sockets_waiting": 3},
            "server_silent",
            "1 of 6 server processes are blocked in the kernel (state D) throughout; 3 of 256 sampled",
        ),
        # A process that waited for a disk in the last sample is not one that hangs.
        (
            {"server_processes_blocked": [*[0] * 7, 1, *[0] * 3], "swarm_send_queue_bytes": 9_000},
            "unknown",
            "echo ETIMEDOUT × 500",
        ),
        # It has read all and says nothing.
        ({"swarm_send_queue_bytes": 0, "server_send_queue_bytes": 0}, "server_silent", "nothing is under way"),
        # What was sent is still under way, or the answers are.
        ({"swarm_send_queue_bytes": 9_000}, "unknown", "echo ETIMEDOUT × 500"),
        ({"server_send_queue_bytes": 9_000}, "unknown", "echo ETIMEDOUT × 500"),
    ],
)
def test_an_idle_server_is_blamed_for_silence_only_with_what_reached_it(
    queues: dict[str, Any], limit: str, words: str
) -> None:
    (found,) = diagnose(evidence(**LATE, columns={**IDLE, **queues}))
    assert (found.limit, found.certainty) == (limit, "counted" if limit == "server_silent" else "inferred")
    assert words in found.evidence


@pytest.mark.parametrize("side", ["server", "swarm"])
def test_where_others_fill_the_machine_no_end_of_the_load_is_blamed(side: str) -> None:
    busy = {"server_cpu_fraction_max": 0.2, f"{side}_cpu_fraction_max": 0.95}
    alone = {**busy, "cpu_idle_seconds": rising(502.0, 0.01)}
    named = {"server": "server_cpu", "swarm": "generator"}[side]
    assert [one.limit for one in diagnose(evidence(told=SLOW, columns=alone))] == [named]
    known = dict.fromkeys(("lab_cpu_seconds", "cpu_nice_seconds", "cpu_irq_seconds", "cpu_softirq_seconds"), 0.0)
    (found,) = diagnose(evidence(told=SLOW, columns={**busy, **FULL_MACHINE, **known}))
    assert found.limit == "machine_cpu"
    assert "no idle CPU, a large part of it taken by other processes" in found.evidence


@pytest.mark.parametrize(("server", "pings"), [("asyncio", True), ("asyncio_tuned", False), ("node my.js", False)])
def test_a_full_machine_says_what_the_pings_of_the_server_come_to(server: str, pings: bool) -> None:
    (found,) = diagnose(evidence(stage={"server": server}, told=SLOW, columns=FULL_MACHINE))
    assert found.limit == "machine_cpu"
    said = f"the server's keepalive is {ASKED / 20:,.0f} pings/s, one a connection every 20 s"
    assert (said in found.evidence) is pings


def test_memory_pressure_that_follows_from_a_full_machine_is_not_its_cause() -> None:
    pressed = {"tcp_memory_pressures_total": [1, 1, 1, 1, *[2] * 7]}
    assert [one.limit for one in diagnose(evidence(told=SLOW, columns=pressed))] == ["tcp_mem"]
    assert [one.limit for one in diagnose(evidence(told=SLOW, columns={**pressed, **FULL_MACHINE}))] == ["machine_cpu"]
    # It is the cause where CPU was left in the hold until it rose, whatever came afterwards.
    late = {"tcp_memory_pressures_total": [*[1] * 6, *[2] * 5]}
    for full_from, cause in ((6, "tcp_mem"), (4, "machine_cpu")):
        idle = [502.0 + min(n, full_from) + 0.01 * max(0, n - full_from) for n in range(11)]
        columns = {**late, **FULL_MACHINE, "cpu_idle_seconds": idle}
        assert [one.limit for one in diagnose(evidence(told=SLOW, columns=columns))] == [cause]
    # A connection that was aborted for want of memory is the kernel's own word.
    aborted = {"tcp_aborts_on_memory_total": rising(0, 40)}
    assert [one.limit for one in diagnose(evidence(told=SLOW, columns={**aborted, **FULL_MACHINE}))] == ["tcp_mem"]


@pytest.mark.parametrize(("failed", "limit"), [(1, "unknown"), (9, "unknown"), (10, "machine_cpu")])
def test_a_few_failed_messages_are_a_miss_and_no_proof_of_who_was_busy(failed: int, limit: str) -> None:
    few = {"messages_sent": 30, "messages_failed": failed}
    run = evidence(
        told={"hold": few, "verify": few},
        columns=FULL_MACHINE,
        failures=[failure("echo", "ETIMEDOUT", failed)],
        stage={"message_rate": 0.0},
    )
    (found,) = diagnose(run)
    assert found.limit == limit
    assert f"{failed} of 30 messages failed" in found.evidence
