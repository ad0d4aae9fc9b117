"""What breaks are made of: loads, impatient swarms, and enclosures with one thing in them that is too small."""

from __future__ import annotations

from typing import Any

from wslab.breaks.enclosure import (
    CONNTRACK_BUCKETS,
    CONNTRACK_MAX,
    DEVICE_BACKLOG,
    EPOLL_WATCHES,
    TCP_MEM,
    Enclosure,
)

_PORTS = "net.ipv4.ip_local_port_range"
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
    """Return the specification of a swarm that does not wait long for what will not come."""
    return {"swarm": {"handshake_timeout_seconds": seconds, "echo_timeout_seconds": seconds}}


def inside(ports: str = "", somaxconn: int = 0, sysctls: dict[str, int] | None = None, **bounds: Any) -> Enclosure:
    """Return a network namespace with its own range of ports and accept queue."""
    own = ({_PORTS: ports} if ports else {}) | ({_SOMAXCONN: somaxconn} if somaxconn else {}) | (sysctls or {})
    return Enclosure(netns=True, sysctls=own, **bounds)


def tracking(most: int, rules: str = STATEFUL, somaxconn: int = 0) -> Enclosure:
    """Return a namespace that tracks connections, in a table of so many entries."""
    return inside(somaxconn=somaxconn, nft=rules, global_sysctls={CONNTRACK_MAX: most})


def half_open(most: int) -> Enclosure:
    """Return a namespace in which handshakes take a second, and so many may be under way."""
    sysctls = {"net.ipv4.tcp_syncookies": 0, "net.ipv4.tcp_max_syn_backlog": 4096}
    return inside(somaxconn=most, sysctls=sysctls, nft=_SLOW_HANDSHAKES)


def hashing(buckets: int) -> Enclosure:
    """Return a namespace that tracks connections, in a table of so many buckets."""
    return inside(nft=STATEFUL, global_sysctls={CONNTRACK_BUCKETS: buckets})


def waiting(packets: int) -> Enclosure:
    """Return a namespace with all packets on one CPU, and room for so many of them to wait."""
    return inside(packet_cpu=1, global_sysctls={DEVICE_BACKLOG: packets})


def buffered(pages: str) -> Enclosure:
    """Return a namespace, and the memory for the buffers of all sockets: low, pressure and high, in pages."""
    return inside(global_sysctls={TCP_MEM: pages})


def watches(most: int) -> Enclosure:
    """Return a user with so many epoll watches for both ends."""
    return Enclosure(uid=NOBODY, global_sysctls={EPOLL_WATCHES: most})


def on_quota(role: str, cpus: float) -> Enclosure:
    """Return a bound on the CPU time of one end.

    The loads for it can be done with a third of a core, and are too much for 0.15 of one: three times the 0.05 that the
    breaks give. So they break on a machine three times as fast as well, and hold on one three times as slow.
    """
    return Enclosure(cpu_quota={role: cpus})


EVERYWHERE = {"server": {"host": "0.0.0.0"}}
TWO_DESTINATIONS = {"destination_addresses": ["127.0.0.1", "127.1.0.1"]}
