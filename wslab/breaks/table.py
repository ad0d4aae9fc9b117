"""The break table: each limit that can be lowered, how it is met, and what lifts it.

1. Loads are a few thousand connections, more only where memory is what is counted: there the processes' own share must
   be small. Timeouts are short, so that a break takes seconds.
2. `CAPACITY_BREAKS` have a number at which the limit is met. `RATE_BREAKS` have none: queues, buffers and CPU that are
   too small for a rate, and a server that stops or dies.
"""

from __future__ import annotations

from typing import Any

from wslab.breaks.enclosure import Enclosure
from wslab.breaks.trial import COUNTED, ESTIMATED, KILL_SHARD, STOP_SHARDS, Break, Trial
from wslab.core.quantities import refuse
from wslab.machine.sysctls import (
    CONNTRACK_BUCKETS,
    CONNTRACK_MAX,
    DEVICE_BACKLOG,
    EPOLL_WATCHES,
    NR_OPEN,
    TCP_MEM,
)

PORTS = "net.ipv4.ip_local_port_range"
_SOMAXCONN = "net.core.somaxconn"
NOBODY = 65534
MIB = 1 << 20

STATEFUL = "table inet wslab { chain in { type filter hook input priority 0; ct state invalid drop; }; }"
UNTRACKED = f"{STATEFUL}\ntable inet untracked {{ chain out {{ type filter hook output priority raw; notrack; }}; }}"
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


def load(connections: int, shards: int = 1, workers: int = 1, **parameters: Any) -> dict[str, Any]:
    """Return the parameters of a load, without messages unless they are asked for."""
    fixed = {"server_shards": shards, "swarm_workers": workers, "hold_seconds": 0.3, "message_rate": 0.0}
    return {"connections": connections, **fixed, **parameters}


def impatient(seconds: float = 2.0) -> dict[str, dict[str, Any]]:
    """Return overrides that shorten the swarm's timeouts of handshakes and echoes."""
    return {"swarm": {"handshake_timeout_seconds": seconds, "echo_timeout_seconds": seconds}}


def inside(ports: str = "", somaxconn: int = 0, sysctls: dict[str, int] | None = None, **bounds: Any) -> Enclosure:
    """Return a network namespace with its own range of ports and accept queue."""
    own = ({PORTS: ports} if ports else {}) | ({_SOMAXCONN: somaxconn} if somaxconn else {}) | (sysctls or {})
    return Enclosure(netns=True, sysctls=own, **bounds)


def tracking(most: int, rules: str = STATEFUL, somaxconn: int = 0, ports: str = "") -> Enclosure:
    """Return a namespace that tracks connections while `nf_conntrack_max` is `most`."""
    return inside(ports=ports, somaxconn=somaxconn, nft=rules, global_sysctls={CONNTRACK_MAX: most})


def half_open(most: int) -> Enclosure:
    """Return a namespace in which each handshake takes a second and `most` may be half open."""
    sysctls = {"net.ipv4.tcp_syncookies": 0, "net.ipv4.tcp_max_syn_backlog": 4096}
    return inside(somaxconn=most, sysctls=sysctls, nft=_SLOW_HANDSHAKES)


def guarded(rule: str, **bounds: Any) -> Enclosure:
    """Return a namespace with a firewall of one rule for new connections."""
    opening = "tcp flags & (syn|ack) == syn"
    rules = f"table inet wslab {{ chain in {{ type filter hook input priority 0; {opening} {rule}; }}; }}"
    return inside(nft=rules, **bounds)


def narrow(rate: str) -> Enclosure:
    """Return a namespace whose loopback carries `rate`, with room for a megabyte that waits for it."""
    return inside(link={"kind": "tbf", "rate": rate, "burst": 65_536, "limit": 1 << 20})


def hashing(buckets: int) -> Enclosure:
    """Return a namespace that tracks connections in a hash table of `buckets` buckets."""
    return inside(nft=STATEFUL, global_sysctls={CONNTRACK_BUCKETS: buckets})


def waiting(packets: int) -> Enclosure:
    """Return a namespace whose packets are all handled by one CPU, with a device backlog of `packets`."""
    return inside(packet_cpu=1, global_sysctls={DEVICE_BACKLOG: packets})


def buffered(pages: str) -> Enclosure:
    """Return a namespace, with tcp_mem (low, pressure and high) set to `pages`."""
    return inside(global_sysctls={TCP_MEM: pages})


def watches(most: int) -> Enclosure:
    """Return both ends as one user who may hold `most` epoll watches."""
    return Enclosure(uid=NOBODY, global_sysctls={EPOLL_WATCHES: most})


def on_quota(role: str, cpus: float) -> Enclosure:
    """Return a CPU quota for one end.

    The loads for it need about 0.3 of a core. A quota of 0.05 is too little also on a machine three times as fast, and
    a quota of 1 enough also on one three times as slow.
    """
    return Enclosure(cpu_quota={role: cpus})


EVERYWHERE = {"server": {"host": "0.0.0.0"}}
TWO_DESTINATIONS = {"destination_addresses": ["127.0.0.1", "127.1.0.1"]}

CAPACITY_BREAKS: tuple[Break, ...] = (
    Break(
        name="ephemeral_ports",
        limit="ephemeral_ports",
        side="swarm",
        title="2,000 ports and one source address",
        broken=Trial(parameters=load(3000, source_addresses=1), enclosure=inside("32768 34767")),
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
            parameters=load(3000, source_addresses=1),
            enclosure=inside("32768 34767"),
            specs={**EVERYWHERE, "swarm": {**TWO_DESTINATIONS, "bind_without_no_port": True}},
        ),
        remedy="IP_BIND_ADDRESS_NO_PORT",
        changes={"specs": {**EVERYWHERE, "swarm": TWO_DESTINATIONS}},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="time_wait",
        limit="time_wait",
        side="kernel",
        title="1,000 of 2,000 ports are still kept by connections that were closed before",
        broken=Trial(
            parameters=load(1500, source_addresses=1),
            # Loopback has them used again after a second otherwise.
            enclosure=inside("32768 34767", sysctls={"net.ipv4.tcp_tw_reuse": 0}),
            specs={"swarm": {"connections_before": 1000}},
        ),
        remedy="a second source address",
        changes={"source_addresses": 2},
    ),
    Break(
        name="conntrack",
        limit="conntrack",
        side="kernel",
        title="a stateful rule, and a table of 1,500 entries",
        broken=Trial(parameters=load(2500), enclosure=tracking(1500), specs=impatient()),
        remedy="a rule that does not track this traffic",
        changes={"enclosure": tracking(1500, UNTRACKED)},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="fd_limit_server",
        limit="fd_limit",
        side="server",
        title="one shard with 4,000 descriptors",
        broken=Trial(parameters=load(5000), enclosure=Enclosure(fd_limit={"server": 4000}), specs=impatient()),
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
        broken=Trial(parameters=load(5000, shards=2), enclosure=Enclosure(fd_limit={"swarm": 4000})),
        remedy="a second worker",
        changes={"swarm_workers": 2},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="nr_open",
        limit="nr_open",
        side="server",
        title="one shard where fs.nr_open is 4,096",
        broken=Trial(
            parameters=load(5000, workers=2), enclosure=Enclosure(global_sysctls={NR_OPEN: 4096}), specs=impatient()
        ),
        remedy="a second shard",
        changes={"server_shards": 2},
        unit="connections",
        counted_by="fd_limit",
        tolerance=COUNTED,
    ),
    Break(
        name="file_max",
        limit="file_max",
        side="kernel",
        title="12,000 more open files on the whole machine for anybody but root",
        # Some are taken by handshakes that end half-way, so that it takes many for these to be few.
        broken=Trial(parameters=load(7000), enclosure=Enclosure(uid=NOBODY), files_left=12_000, specs=impatient()),
        remedy="24,000 more open files",
        changes={"files_left": 24_000},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="epoll_watches",
        limit="epoll_watches",
        side="kernel",
        title="a user with 6,000 epoll watches for both ends",
        broken=Trial(parameters=load(4000), enclosure=watches(6000), specs=impatient()),
        remedy="12,000 epoll watches",
        changes={"enclosure": watches(12_000)},
        unit="connections",
        tolerance=COUNTED,
    ),
    Break(
        name="process_limit",
        limit="process_limit",
        side="machine",
        title="a control group of 12 processes for 16 workers and their master",
        broken=Trial(parameters=load(2000, workers=16), enclosure=Enclosure(processes={"swarm": 12})),
        remedy="fewer, fatter workers",
        changes={"swarm_workers": 8},
        unit="processes",
        tolerance=COUNTED,
    ),
    Break(
        name="memory_cgroup",
        limit="memory_cgroup",
        side="machine",
        title="52 MiB for the control group of the server",
        broken=Trial(parameters=load(30_000, 2, 2), enclosure=Enclosure(memory_bytes={"server": 52 * MIB})),
        remedy="256 MiB",
        changes={"enclosure": Enclosure(memory_bytes={"server": 256 * MIB})},
        unit="connections",
        tolerance=ESTIMATED,
    ),
    Break(
        name="memory_reserve",
        limit="memory_reserve",
        side="machine",
        title="a reserve of all memory but 500 MiB",
        # Slow enough for the memory to be looked at every few hundred connections.
        broken=Trial(parameters=load(60_000, 4, 4, ramp_rate=8000), headroom_used_bytes=500 * MIB),
        remedy="a smaller reserve",
        changes={"headroom_used_bytes": 0, "memory_reserve": 256 * MIB},
        unit="connections",
        tolerance=ESTIMATED,
    ),
    Break(
        name="memory_machine",
        limit="memory_machine",
        side="machine",
        title="memory of the whole machine",
        infeasible="the kernel would end processes of others for it",
    ),
    Break(
        name="fd_limit_before_ports",
        limit="fd_limit",
        side="server",
        title="one shard with 4,000 descriptors, and 4,100 ports",
        broken=Trial(
            parameters=load(5000, source_addresses=1),
            enclosure=inside("32768 36867", fd_limit={"server": 4000}),
            specs=impatient(),
        ),
        remedy="a second shard, then a second source address",
        changes={"server_shards": 2, "source_addresses": 2},
        unit="connections",
        tolerance=COUNTED,
        then="ephemeral_ports",
        changes_first={"server_shards": 2},
    ),
    Break(
        name="conntrack_before_ports",
        limit="conntrack",
        side="kernel",
        title="a table of 3,000 entries, and 4,000 ports",
        # Attempts that the full table has stopped hold their ports until they time out, so that ports run out as well.
        broken=Trial(
            parameters=load(6000, source_addresses=1),
            enclosure=tracking(3000, ports="32768 36767"),
            specs=impatient(),
        ),
        remedy="a rule that does not track, then a second source address",
        changes={"enclosure": tracking(3000, UNTRACKED, ports="32768 36767"), "source_addresses": 2},
        unit="connections",
        tolerance=COUNTED,
        then="ephemeral_ports",
        changes_first={"enclosure": tracking(3000, UNTRACKED, ports="32768 36767")},
    ),
    Break(
        name="ports_before_conntrack",
        limit="ephemeral_ports",
        side="swarm",
        title="3,000 ports, and a table of 4,000 entries",
        broken=Trial(
            parameters=load(6000, source_addresses=1),
            enclosure=tracking(4000, ports="32768 35767"),
            specs=impatient(),
        ),
        remedy="more source addresses, then a rule that does not track",
        changes={"enclosure": tracking(4000, UNTRACKED, ports="32768 35767"), "source_addresses": 3},
        unit="connections",
        tolerance=COUNTED,
        then="conntrack",
        changes_first={"source_addresses": 3},
    ),
)

RATE_BREAKS: tuple[Break, ...] = (
    Break(
        name="accept_queue",
        limit="accept_queue",
        side="server",
        title="an accept queue of 16",
        broken=Trial(parameters=load(2000, workers=2), enclosure=inside(somaxconn=16), specs=impatient()),
        remedy="an accept queue of 4,096",
        changes={"enclosure": inside(somaxconn=4096)},
    ),
    Break(
        name="syn_queue",
        limit="syn_queue",
        side="kernel",
        title="a SYN queue of 64, where every handshake takes a second",
        broken=Trial(parameters=load(1000), enclosure=half_open(64), specs=impatient(2.5)),
        remedy="a SYN queue of 4,096",
        changes={"enclosure": half_open(4096)},
    ),
    Break(
        name="firewall_refuses",
        limit="firewall",
        side="kernel",
        title="a rule that answers new connections with a reset from 1,000 on",
        broken=Trial(
            parameters=load(2000),
            enclosure=guarded("ct count over 1000 counter reject with tcp reset"),
            specs=impatient(),
        ),
        remedy="a rule that allows 3,000",
        changes={"enclosure": guarded("ct count over 3000 counter reject with tcp reset")},
    ),
    Break(
        name="firewall_drops",
        limit="firewall",
        side="kernel",
        title="a rule that drops new connections from 1,000 on",
        broken=Trial(parameters=load(2000), enclosure=guarded("ct count over 1000 drop"), specs=impatient()),
        remedy="a rule that allows 3,000",
        changes={"enclosure": guarded("ct count over 3000 drop")},
    ),
    Break(
        name="firewall_limits_rate",
        limit="firewall",
        side="kernel",
        title="a rule that lets 200 new connections a second pass",
        broken=Trial(
            parameters=load(2000), enclosure=guarded("limit rate over 200/second counter drop"), specs=impatient()
        ),
        remedy="100,000 a second",
        changes={"enclosure": guarded("limit rate over 100000/second burst 10000 packets counter drop")},
    ),
    Break(
        name="link",
        limit="link",
        side="kernel",
        title="a link of 20 Mbit/s, and messages of 60 Mbit/s",
        broken=Trial(
            # Both directions pass the one loopback: each message takes twice its size.
            parameters=load(200, message_rate=2, message_bytes=8 << 10, hold_seconds=4),
            enclosure=narrow("20mbit"),
            specs=impatient(),
        ),
        remedy="a link of 2 Gbit/s",
        changes={"enclosure": narrow("2gbit")},
    ),
    Break(
        name="conntrack_buckets",
        limit="conntrack_buckets",
        side="kernel",
        title="a stateful rule, and a table with 512 hash buckets",
        broken=Trial(parameters=load(20_000, 2, 2), enclosure=hashing(512), specs=impatient()),
        remedy="16,384 hash buckets",
        changes={"enclosure": hashing(16_384)},
    ),
    Break(
        name="conntrack_before_accept_queue",
        limit="conntrack",
        side="kernel",
        title="a table of 1,500 entries, and an accept queue of 16",
        broken=Trial(parameters=load(2500, workers=2), enclosure=tracking(1500, somaxconn=16), specs=impatient()),
        remedy="a rule that does not track, then an accept queue of 4,096",
        changes={"enclosure": tracking(1500, UNTRACKED, 4096)},
        then="accept_queue",
        changes_first={"enclosure": tracking(1500, UNTRACKED, 16)},
    ),
    Break(
        name="device_backlog",
        limit="device_backlog",
        side="kernel",
        title="one CPU is handed all packets, and lets one of them wait",
        broken=Trial(parameters=load(2000, 2, 2), enclosure=waiting(1), specs=impatient()),
        remedy="room for 1,000 packets",
        changes={"enclosure": waiting(1000)},
    ),
    Break(
        name="tcp_mem",
        limit="tcp_mem",
        side="kernel",
        title="2 MiB for the buffers of all sockets, and messages of 1 MiB",
        broken=Trial(
            parameters=load(50, message_rate=1.0, message_bytes=1 << 20, hold_seconds=6),
            enclosure=buffered("256 384 512"),
        ),
        remedy="256 MiB",
        changes={"enclosure": buffered("32768 49152 65536")},
    ),
    Break(
        name="server_cpu",
        limit="server_cpu",
        side="server",
        title="a CPU quota of 0.05 for a server that needs 0.3",
        broken=Trial(
            # Large messages: to unmask them is dear for the server, and what it takes does not fall when they queue.
            parameters=load(200, message_rate=4, message_bytes=64 << 10, hold_seconds=4),
            enclosure=on_quota("server", 0.05),
        ),
        remedy="a CPU quota of 1",
        changes={"enclosure": on_quota("server", 1.0)},
    ),
    Break(
        name="generator",
        limit="generator",
        side="swarm",
        title="a CPU quota of 0.05 for a swarm that needs four times as much",
        broken=Trial(
            # Small messages cost the swarm more than the server. When they queue, each costs less: hence so many.
            parameters=load(200, message_rate=200, hold_seconds=4),
            enclosure=on_quota("swarm", 0.05),
        ),
        remedy="a CPU quota of 1",
        changes={"enclosure": on_quota("swarm", 1.0)},
    ),
    Break(
        name="machine_cpu",
        limit="machine_cpu",
        side="machine",
        title="more messages than both ends together have cores for",
        broken=Trial(parameters=load(2000, 16, 16, message_rate=200, message_bytes=1024, hold_seconds=4), cpus_most=16),
        remedy="fewer messages",
        changes={"message_rate": 0.5},
    ),
    Break(
        name="server_silent",
        limit="server_silent",
        side="server",
        title="shards that are stopped while their connections are held",
        broken=Trial(
            parameters=load(300, 2, message_rate=1, hold_seconds=4),
            specs={**impatient(1.5), "supervisor": {"no_progress_seconds": 4.0}},
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
        broken=Trial(parameters=load(2000, 2, hold_seconds=1.5), act=KILL_SHARD),
        remedy="shards that live",
        changes={"act": ""},
    ),
)

BREAKS: tuple[Break, ...] = (*CAPACITY_BREAKS, *RATE_BREAKS)


def find_breaks(asked: str = "all") -> tuple[Break, ...]:
    """Return the breaks with the names asked for, separated by commas, in the order of the table.

    Raises:
        BadInput: there is no such break.
    """
    names = split_names(asked)
    known = [item.name for item in BREAKS]
    for name in names:
        if name != "all" and name not in known:
            raise refuse("breaks", name, "all, or names of " + ", ".join(known))
    return tuple(item for item in BREAKS if not names or "all" in names or item.name in names)


def split_names(asked: str) -> list[str]:
    """Return the names in a list separated by commas."""
    return [name.strip() for name in asked.split(",") if name.strip()]
