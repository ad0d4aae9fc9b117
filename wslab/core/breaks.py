"""The break atlas as a table: limits broken on purpose at small scale, and what lifts each.

1. A break is two trials of the same load: `broken` runs into the limit, `remedied` has the remedy applied and holds.
2. No ceiling is written here: it is predicted from what is read inside the enclosure, by the table of limits.
3. `unit` is what is counted when the limit is met. A break without one has no number that could be predicted: it is
   about a rate, a death or a silence.
4. A limit that cannot be lowered without the rest of the machine noticing has no trials, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wslab.core.enclosure import CONNTRACK_MAX, EPOLL_WATCHES, Enclosure
from wslab.core.quantities import refuse

# How far a measured break may be from its prediction: what is counted, and what is estimated from bytes.
COUNTED, ESTIMATED = 0.02, 0.15

# What a trial does to the server when the connections are held.
STOP_SHARDS, KILL_SHARD = "stop shards", "kill a shard"

PORTS = "net.ipv4.ip_local_port_range"
SOMAXCONN = "net.core.somaxconn"
NOBODY = 65534
MIB = 1 << 20

STATEFUL = "table inet wslab { chain in { type filter hook input priority 0; ct state invalid drop; }; }"
UNTRACKED = f"table inet wslab_raw {{ chain out {{ type filter hook output priority raw; oif lo notrack; }}; }}\n{STATEFUL}"
# The first answer to each SYN is lost, so that every handshake stays half open for the second until the next one.
SLOW_HANDSHAKES = """
table inet wslab {
    set seen { type inet_service; flags dynamic; timeout 60s; }
    chain out {
        type filter hook output priority 0;
        tcp flags & (syn|ack) == syn|ack tcp dport != @seen add @seen { tcp dport } drop
    }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of a break.

    Attributes:
        parameters: fields of the stage.
        enclosure: what is bound; None for the machine as it is. CPUs are counted from 0 among those that can be used.
        specs: what to change in the specifications of the processes, by role.
        act: what is done to the server when the connections are held; empty for nothing.
        headroom_used_bytes: the reserve is set so far below the present headroom; 0 to leave it.
    """

    parameters: Mapping[str, Any]
    enclosure: Enclosure | None = None
    specs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    act: str = ""
    headroom_used_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """One limit, broken on purpose.

    Attributes:
        name: what it is asked for by.
        limit: the finding that is expected.
        side: the side that it is on.
        title: what is done, one phrase.
        remedy: what is changed in the second trial, one phrase.
        broken: runs into the limit; None where that cannot be done, and `infeasible` says why.
        remedied: the same load with the remedy applied.
        unit: `connections` or `processes`; empty when there is no number to predict.
        tolerance: how far the measured break may be from the prediction, as a share of it.
        then: the limit that comes next, where two are close together.
        infeasible: why it cannot be done without the rest of the machine noticing.
    """

    name: str
    limit: str
    side: str
    title: str
    remedy: str = ""
    broken: Trial | None = None
    remedied: Trial | None = None
    unit: str = ""
    tolerance: float | None = None
    then: str = ""
    infeasible: str = ""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials, in the order in which they run."""
        return tuple(trial for trial in (self.broken, self.remedied) if trial is not None)


def find_breaks(asked: str = "all") -> tuple[Break, ...]:
    """Return the breaks with the names asked for, separated by commas, in the order of the table.

    Raises:
        BadInput: there is no such break.
    """
    names = [name.strip() for name in asked.split(",") if name.strip()]
    known = [item.name for item in BREAKS]
    for name in names:
        if name != "all" and name not in known:
            raise refuse("breaks", name, "all, or names of " + ", ".join(known))
    return tuple(item for item in BREAKS if not names or "all" in names or item.name in names)


def _load(connections: int, shards: int = 1, workers: int = 1, **parameters: Any) -> dict[str, Any]:
    """Return the parameters of a load, without messages unless they are asked for."""
    fixed = {"server_shards": shards, "swarm_workers": workers, "hold_seconds": 0.3, "message_rate": 0.0}
    return {"connections": connections, **fixed, **parameters}


def _impatient(seconds: float = 2.0, **spec: Any) -> dict[str, dict[str, Any]]:
    """Return specifications of a swarm that does not wait long for what will not come."""
    return {"swarm": {"handshake_timeout_seconds": seconds, "echo_timeout_seconds": seconds, **spec}}


def _inside(**bounds: Any) -> Enclosure:
    return Enclosure(netns=True, **bounds)


def _conntrack(most: int, rules: str = STATEFUL, **bounds: Any) -> Enclosure:
    return _inside(nft=rules, global_sysctls={CONNTRACK_MAX: most}, **bounds)


_TWO_ADDRESSES = {"destination_addresses": ["127.0.0.1", "127.1.0.1"]}
_EVERYWHERE = {"server": {"host": "0.0.0.0"}}
_TALK = {"hold_seconds": 4.0, "message_bytes": 256}

BREAKS: tuple[Break, ...] = (
    Break(
        name="ephemeral_ports",
        limit="ephemeral_ports",
        side="swarm",
        title="2,000 ports and one source address",
        remedy="a second source address",
        broken=Trial(
            parameters=_load(3000, source_addresses=1), enclosure=_inside(sysctls={PORTS: "32768 34767"})
        ),
        remedied=Trial(
            parameters=_load(3000, source_addresses=2), enclosure=_inside(sysctls={PORTS: "32768 34767"})
        ),
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="bind_ports",
        limit="bind_ports",
        side="swarm",
        title="bind takes the port, towards both addresses of the server at once",
        remedy="IP_BIND_ADDRESS_NO_PORT, so that connect chooses the port for one destination",
        broken=Trial(
            parameters=_load(3000, source_addresses=1),
            enclosure=_inside(sysctls={PORTS: "32768 34767"}),
            specs={**_EVERYWHERE, "swarm": {**_TWO_ADDRESSES, "bind_without_no_port": True}},
        ),
        remedied=Trial(
            parameters=_load(3000, source_addresses=1),
            enclosure=_inside(sysctls={PORTS: "32768 34767"}),
            specs={**_EVERYWHERE, "swarm": _TWO_ADDRESSES},
        ),
        unit="connections",
        tolerance=COUNTED,
        then="ephemeral_ports",
    ),
    Break(
        name="conntrack",
        limit="conntrack",
        side="kernel",
        title="a stateful rule and a table of 1,500 entries",
        remedy="a rule that does not track this traffic",
        broken=Trial(parameters=_load(2500), enclosure=_conntrack(1500), specs=_impatient()),
        remedied=Trial(parameters=_load(2500), enclosure=_conntrack(1500, UNTRACKED), specs=_impatient()),
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="fd_limit_server",
        limit="fd_limit",
        side="server",
        title="one shard with 4,000 descriptors",
        remedy="a second shard",
        broken=Trial(parameters=_load(5000), enclosure=Enclosure(fd_limit={"server": 4000}), specs=_impatient()),
        remedied=Trial(
            parameters=_load(5000, shards=2), enclosure=Enclosure(fd_limit={"server": 4000}), specs=_impatient()
        ),
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="fd_limit_swarm",
        limit="fd_limit",
        side="swarm",
        title="one worker with 4,000 descriptors",
        remedy="a second worker",
        broken=Trial(parameters=_load(5000, shards=2), enclosure=Enclosure(fd_limit={"swarm": 4000})),
        remedied=Trial(parameters=_load(5000, shards=2, workers=2), enclosure=Enclosure(fd_limit={"swarm": 4000})),
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="epoll_watches",
        limit="epoll_watches",
        side="kernel",
        title="a user of its own with 6,000 epoll watches for both ends",
        remedy="12,000 epoll watches",
        broken=Trial(
            parameters=_load(4000), enclosure=Enclosure(uid=NOBODY, global_sysctls={EPOLL_WATCHES: 6000}),
            specs=_impatient(),
        ),
        remedied=Trial(
            parameters=_load(4000), enclosure=Enclosure(uid=NOBODY, global_sysctls={EPOLL_WATCHES: 12_000}),
            specs=_impatient(),
        ),
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="process_limit",
        limit="process_limit",
        side="machine",
        title="a control group with 12 processes for a swarm of 16 workers",
        remedy="fewer, fatter workers: 8",
        broken=Trial(parameters=_load(2000, workers=16), enclosure=Enclosure(processes={"swarm": 12})),
        remedied=Trial(parameters=_load(2000, workers=8), enclosure=Enclosure(processes={"swarm": 12})),
        unit="processes",
        tolerance=COUNTED,
    ),
    Break(
        name="memory_cgroup",
        limit="memory_cgroup",
        side="machine",
        title="48 MiB of memory for the control group of the server",
        remedy="128 MiB",
        broken=Trial(parameters=_load(30_000, 2, 2), enclosure=Enclosure(memory_bytes={"server": 48 * MIB})),
        remedied=Trial(parameters=_load(30_000, 2, 2), enclosure=Enclosure(memory_bytes={"server": 128 * MIB})),
        unit="connections",
        tolerance=ESTIMATED,
    ),
    Break(
        name="memory_reserve",
        limit="memory_reserve",
        side="machine",
        title="a reserve just below the memory that is left",
        remedy="a smaller reserve",
        broken=Trial(parameters=_load(60_000, 4, 4), headroom_used_bytes=400 * MIB),
        remedied=Trial(parameters=_load(60_000, 4, 4, memory_reserve=256 * MIB)),
        unit="connections",
        tolerance=ESTIMATED,
    ),
    Break(
        name="accept_queue",
        limit="accept_queue",
        side="server",
        title="an accept queue of 16 connections",
        remedy="an accept queue of 4,096",
        broken=Trial(
            parameters=_load(2000, workers=2), enclosure=_inside(sysctls={SOMAXCONN: 16}), specs=_impatient()
        ),
        remedied=Trial(
            parameters=_load(2000, workers=2), enclosure=_inside(sysctls={SOMAXCONN: 4096}), specs=_impatient()
        ),
    ),
    Break(
        name="syn_queue",
        limit="syn_queue",
        side="kernel",
        title="64 half-open connections, where each handshake takes a second",
        remedy="4,096 half-open connections",
        broken=Trial(
            parameters=_load(1000),
            enclosure=_inside(sysctls={SOMAXCONN: 64, "net.ipv4.tcp_syncookies": 0}, nft=SLOW_HANDSHAKES),
            specs=_impatient(2.5),
        ),
        remedied=Trial(
            parameters=_load(1000),
            enclosure=_inside(
                sysctls={SOMAXCONN: 4096, "net.ipv4.tcp_max_syn_backlog": 4096, "net.ipv4.tcp_syncookies": 0},
                nft=SLOW_HANDSHAKES,
            ),
            specs=_impatient(2.5),
        ),
    ),
    Break(
        name="server_cpu",
        limit="server_cpu",
        side="server",
        title="more messages than one shard on one CPU can echo",
        remedy="fewer messages",
        broken=Trial(
            parameters=_load(200, workers=2, message_rate=40, **{**_TALK, "message_bytes": 128 << 10}),
            enclosure=Enclosure(cpus={"server": (0,), "swarm": (1,)}),
        ),
        remedied=Trial(
            parameters=_load(200, workers=2, message_rate=0.5, **{**_TALK, "message_bytes": 128 << 10}),
            enclosure=Enclosure(cpus={"server": (0,), "swarm": (1,)}),
        ),
    ),
    Break(
        name="generator",
        limit="generator",
        side="swarm",
        title="more messages than one worker on one CPU can send",
        remedy="fewer messages",
        broken=Trial(
            parameters=_load(1000, shards=2, message_rate=100, **_TALK),
            enclosure=Enclosure(cpus={"server": (0,), "swarm": (1,)}),
        ),
        remedied=Trial(
            parameters=_load(1000, shards=2, message_rate=2, **_TALK),
            enclosure=Enclosure(cpus={"server": (0,), "swarm": (1,)}),
        ),
    ),
    Break(
        name="server_silent",
        limit="server_silent",
        side="server",
        title="the shards are stopped while their connections are held",
        remedy="shards that run",
        broken=Trial(
            parameters=_load(300, 2, message_rate=1.0, hold_seconds=4.0),
            specs={**_impatient(1.5), "supervisor": {"no_progress_seconds": 4.0}},
            act=STOP_SHARDS,
        ),
        remedied=Trial(parameters=_load(300, 2, message_rate=1.0, hold_seconds=4.0), specs=_impatient(1.5)),
    ),
    Break(
        name="server_died",
        limit="server_died",
        side="server",
        title="a shard is killed while its connections are held",
        remedy="shards that live",
        broken=Trial(parameters=_load(2000, 2, hold_seconds=1.5), act=KILL_SHARD),
        remedied=Trial(parameters=_load(2000, 2, hold_seconds=1.5)),
    ),
    Break(
        name="fd_limit_before_ports",
        limit="fd_limit",
        side="server",
        title="4,000 descriptors for one shard, and 4,100 ports",
        remedy="a second shard, and a second source address for the limit that comes next",
        broken=Trial(
            parameters=_load(5000, source_addresses=1),
            enclosure=_inside(sysctls={PORTS: "32768 36867"}, fd_limit={"server": 4000}),
            specs=_impatient(),
        ),
        remedied=Trial(
            parameters=_load(5000, 2, source_addresses=2),
            enclosure=_inside(sysctls={PORTS: "32768 36867"}, fd_limit={"server": 4000}),
            specs=_impatient(),
        ),
        unit="connections",
        tolerance=COUNTED,
        then="ephemeral_ports",
    ),
    Break(
        name="conntrack_before_accept_queue",
        limit="conntrack",
        side="kernel",
        title="1,500 tracked connections, and an accept queue of 64",
        remedy="a rule that does not track, and an accept queue of 4,096 for the limit that comes next",
        broken=Trial(
            parameters=_load(2500), enclosure=_conntrack(1500, sysctls={SOMAXCONN: 64}), specs=_impatient()
        ),
        remedied=Trial(
            parameters=_load(2500), enclosure=_conntrack(1500, UNTRACKED, sysctls={SOMAXCONN: 4096}),
            specs=_impatient(),
        ),
        unit="connections",
        tolerance=COUNTED,
        then="accept_queue",
    ),
    Break(
        name="device_backlog",
        limit="device_backlog",
        side="kernel",
        title="packets that wait for a CPU",
        infeasible="the backlog of a CPU is one queue for all network namespaces, and net.core.netdev_max_backlog is one "
        "setting for the whole machine: to overflow it drops packets of others",
    ),
    Break(
        name="tcp_mem",
        limit="tcp_mem",
        side="kernel",
        title="memory of all socket buffers",
        infeasible="net.ipv4.tcp_mem and what it bounds are counted once for the whole machine: pressure on it would "
        "shrink the buffers of others",
    ),
)
