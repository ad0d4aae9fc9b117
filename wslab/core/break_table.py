"""The break atlas as a table: each limit that can be lowered, how it is met, and what lifts it.

Loads are a few thousand connections, more only where memory is what is counted: there the processes' own share must be
small. Timeouts are short, so that a break takes seconds.
"""

from __future__ import annotations

from typing import Any

from wslab.core.breaks import COUNTED, ESTIMATED, KILL_SHARD, STOP_SHARDS, Break, Trial
from wslab.core.enclosure import CONNTRACK_MAX, EPOLL_WATCHES, Enclosure
from wslab.core.quantities import refuse

_PORTS = "net.ipv4.ip_local_port_range"
_SOMAXCONN = "net.core.somaxconn"
_NOBODY = 65534
_MIB = 1 << 20

_STATEFUL = "table inet wslab { chain in { type filter hook input priority 0; ct state invalid drop; }; }"
_UNTRACKED = f"{_STATEFUL}\ntable inet untracked {{ chain out {{ type filter hook output priority raw; notrack; }}; }}"
# The first answer to each SYN is lost, so that every handshake stays half open for a second, until the next answer.
_SLOW_HANDSHAKES = """
table inet wslab {
    set seen { type inet_service; flags dynamic; timeout 60s; }
    chain out {
        type filter hook output priority 0;
        tcp flags & (syn|ack) == syn|ack tcp dport != @seen add @seen { tcp dport } drop
    }
}
"""


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


def _impatient(seconds: float = 2.0) -> dict[str, dict[str, Any]]:
    """Return the specification of a swarm that does not wait long for what will not come."""
    return {"swarm": {"handshake_timeout_seconds": seconds, "echo_timeout_seconds": seconds}}


def _inside(ports: str = "", somaxconn: int = 0, sysctls: dict[str, int] | None = None, **bounds: Any) -> Enclosure:
    """Return a network namespace with its own range of ports and accept queue."""
    own = ({_PORTS: ports} if ports else {}) | ({_SOMAXCONN: somaxconn} if somaxconn else {}) | (sysctls or {})
    return Enclosure(netns=True, sysctls=own, **bounds)


def _tracking(most: int, rules: str = _STATEFUL, somaxconn: int = 0) -> Enclosure:
    return _inside(somaxconn=somaxconn, nft=rules, global_sysctls={CONNTRACK_MAX: most})


def _half_open(most: int) -> Enclosure:
    sysctls = {"net.ipv4.tcp_syncookies": 0, "net.ipv4.tcp_max_syn_backlog": 4096}
    return _inside(somaxconn=most, sysctls=sysctls, nft=_SLOW_HANDSHAKES)


def _watches(most: int) -> Enclosure:
    return Enclosure(uid=_NOBODY, global_sysctls={EPOLL_WATCHES: most})


_ONE_CPU_EACH = Enclosure(cpus={"server": (0,), "swarm": (1,)})
_EVERYWHERE = {"server": {"host": "0.0.0.0"}}
_TWO_DESTINATIONS = {"destination_addresses": ["127.0.0.1", "127.1.0.1"]}

BREAKS: tuple[Break, ...] = (
    Break(
        name="ephemeral_ports",
        limit="ephemeral_ports",
        side="swarm",
        title="2,000 ports and one source address",
        broken=Trial(parameters=_load(3000, source_addresses=1), enclosure=_inside("32768 34767")),
        remedy="a second source address",
        changes={"source_addresses": 2},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="bind_ports",
        limit="bind_ports",
        side="swarm",
        title="bind takes one of 2,000 ports, towards both addresses of the server at once",
        broken=Trial(
            parameters=_load(3000, source_addresses=1),
            enclosure=_inside("32768 34767"),
            specs={**_EVERYWHERE, "swarm": {**_TWO_DESTINATIONS, "bind_without_no_port": True}},
        ),
        remedy="IP_BIND_ADDRESS_NO_PORT",
        changes={"specs": {**_EVERYWHERE, "swarm": _TWO_DESTINATIONS}},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="conntrack",
        limit="conntrack",
        side="kernel",
        title="a stateful rule, and a table of 1,500 entries",
        broken=Trial(parameters=_load(2500), enclosure=_tracking(1500), specs=_impatient()),
        remedy="a rule that does not track this traffic",
        changes={"enclosure": _tracking(1500, _UNTRACKED)},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="fd_limit_server",
        limit="fd_limit",
        side="server",
        title="one shard with 4,000 descriptors",
        broken=Trial(parameters=_load(5000), enclosure=Enclosure(fd_limit={"server": 4000}), specs=_impatient()),
        remedy="a second shard",
        changes={"server_shards": 2},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="fd_limit_swarm",
        limit="fd_limit",
        side="swarm",
        title="one worker with 4,000 descriptors",
        broken=Trial(parameters=_load(5000, shards=2), enclosure=Enclosure(fd_limit={"swarm": 4000})),
        remedy="a second worker",
        changes={"swarm_workers": 2},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="epoll_watches",
        limit="epoll_watches",
        side="kernel",
        title="a user with 6,000 epoll watches for both ends",
        broken=Trial(parameters=_load(4000), enclosure=_watches(6000), specs=_impatient()),
        remedy="12,000 epoll watches",
        changes={"enclosure": _watches(12_000)},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="process_limit",
        limit="process_limit",
        side="machine",
        title="a control group of 12 processes for 16 workers and their master",
        broken=Trial(parameters=_load(2000, workers=16), enclosure=Enclosure(processes={"swarm": 12})),
        remedy="fewer, fatter workers",
        changes={"swarm_workers": 8},
        unit="processes",
        tolerance=COUNTED,
    ),
    Break(
        name="memory_cgroup",
        limit="memory_cgroup",
        side="machine",
        title="48 MiB for the control group of the server",
        broken=Trial(parameters=_load(30_000, 2, 2), enclosure=Enclosure(memory_bytes={"server": 48 * _MIB})),
        remedy="128 MiB",
        changes={"enclosure": Enclosure(memory_bytes={"server": 128 * _MIB})},
        unit="connections",
        tolerance=ESTIMATED,
    ),
    Break(
        name="memory_reserve",
        limit="memory_reserve",
        side="machine",
        title="a reserve of all memory but 400 MiB",
        # Slow enough for the memory to be looked at every few hundred connections.
        broken=Trial(parameters=_load(60_000, 4, 4, ramp_rate=8000), headroom_used_bytes=400 * _MIB),
        remedy="a smaller reserve",
        changes={"headroom_used_bytes": 0, "memory_reserve": 256 * _MIB},
        unit="connections",
        tolerance=ESTIMATED,
    ),
    Break(
        name="accept_queue",
        limit="accept_queue",
        side="server",
        title="an accept queue of 16",
        broken=Trial(parameters=_load(2000, workers=2), enclosure=_inside(somaxconn=16), specs=_impatient()),
        remedy="an accept queue of 4,096",
        changes={"enclosure": _inside(somaxconn=4096)},
    ),
    Break(
        name="syn_queue",
        limit="syn_queue",
        side="kernel",
        title="a SYN queue of 64, where every handshake takes a second",
        broken=Trial(parameters=_load(1000), enclosure=_half_open(64), specs=_impatient(2.5)),
        remedy="a SYN queue of 4,096",
        changes={"enclosure": _half_open(4096)},
    ),
    Break(
        name="server_cpu",
        limit="server_cpu",
        side="server",
        title="more messages than one shard on one CPU can echo",
        broken=Trial(
            parameters=_load(200, workers=2, message_rate=40, message_bytes=128 << 10, hold_seconds=4),
            enclosure=_ONE_CPU_EACH,
        ),
        remedy="fewer messages",
        changes={"message_rate": 0.5},
    ),
    Break(
        name="generator",
        limit="generator",
        side="swarm",
        title="more messages than one worker on one CPU can send",
        broken=Trial(parameters=_load(1000, shards=2, message_rate=100, hold_seconds=4), enclosure=_ONE_CPU_EACH),
        remedy="fewer messages",
        changes={"message_rate": 2},
    ),
    Break(
        name="server_silent",
        limit="server_silent",
        side="server",
        title="shards that are stopped while their connections are held",
        broken=Trial(
            parameters=_load(300, 2, message_rate=1, hold_seconds=4),
            specs={**_impatient(1.5), "supervisor": {"no_progress_seconds": 4.0}},
            act=STOP_SHARDS,
        ),
        remedy="shards that run",
        changes={"act": ""},
    ),
    Break(
        name="server_died",
        limit="server_died",
        side="server",
        title="a shard that is killed while its connections are held",
        broken=Trial(parameters=_load(2000, 2, hold_seconds=1.5), act=KILL_SHARD),
        remedy="shards that live",
        changes={"act": ""},
    ),
    Break(
        name="fd_limit_before_ports",
        limit="fd_limit",
        side="server",
        title="one shard with 4,000 descriptors, and 4,100 ports",
        broken=Trial(
            parameters=_load(5000, source_addresses=1),
            enclosure=_inside("32768 36867", fd_limit={"server": 4000}),
            specs=_impatient(),
        ),
        remedy="a second shard, then a second source address",
        changes={"server_shards": 2, "source_addresses": 2},
        unit="connections",
        tolerance=COUNTED,
        then="ephemeral_ports",
        changes_first={"server_shards": 2},
    ),
    Break(
        name="conntrack_before_accept_queue",
        limit="conntrack",
        side="kernel",
        title="a table of 1,500 entries, and an accept queue of 16",
        broken=Trial(parameters=_load(2500, workers=2), enclosure=_tracking(1500, somaxconn=16), specs=_impatient()),
        remedy="a rule that does not track, then an accept queue of 4,096",
        changes={"enclosure": _tracking(1500, _UNTRACKED, 4096)},
        then="accept_queue",
        changes_first={"enclosure": _tracking(1500, _UNTRACKED, 16)},
    ),
    Break(
        name="device_backlog",
        limit="device_backlog",
        side="kernel",
        title="packets that wait for a CPU",
        infeasible="a CPU has one queue for all network namespaces, so packets of others would be dropped",
    ),
    Break(
        name="tcp_mem",
        limit="tcp_mem",
        side="kernel",
        title="memory of all socket buffers",
        infeasible="it is counted once for the whole machine, so the buffers of others would be cut",
    ),
)
