"""The limits on a rate: queues, buffers and CPU, which slow a stage down and may end it.

They have no supply, since no number of connections could be told beforehand at which they do: ten thousand a second
overflow a queue that a million an hour never fill.
"""

from __future__ import annotations

from wslab.core.limit import Limit

RATES: tuple[Limit, ...] = (
    Limit(
        name="accept_queue",
        side="server",
        title="connections that wait to be accepted: min(backlog, net.core.somaxconn)",
        reads="/proc/sys/net/core/somaxconn",
        key="somaxconn",
        lift="a larger backlog in the server (asyncio has 100, Node 511); then net.core.somaxconn",
        needs_root=True,
        commands=("sudo sysctl -w net.core.somaxconn=65535",),
    ),
    Limit(
        name="syn_queue",
        side="kernel",
        title="half-open connections of a listener: min(backlog, somaxconn, tcp_max_syn_backlog)",
        reads="/proc/sys/net/ipv4/tcp_max_syn_backlog",
        key="syn_backlog",
        lift="a slower ramp, or a larger backlog",
        commands=(
            "wslab stage --connections {connections} --ramp-rate 5000",
            "sudo sysctl -w net.ipv4.tcp_max_syn_backlog=65535",
        ),
    ),
    Limit(
        name="tcp_mem",
        side="kernel",
        title="socket buffers of all TCP connections, in pages; idle connections take none",
        reads="/proc/sys/net/ipv4/tcp_mem third number, /proc/net/sockstat mem",
        key="tcp_mem_pages_high",
        lift="smaller or staggered messages; or a higher tcp_mem",
        needs_root=True,
        commands=(
            "sudo sysctl -w net.ipv4.tcp_mem=\"$(awk '{{print 2*$1, 2*$2, 2*$3}}' /proc/sys/net/ipv4/tcp_mem)\"",
        ),
    ),
    Limit(
        name="device_backlog",
        side="kernel",
        title="packets that wait for a CPU: net.core.netdev_max_backlog",
        reads="/proc/sys/net/core/netdev_max_backlog",
        key="netdev_max_backlog",
        lift="a slower ramp or fewer messages; or a longer backlog",
        needs_root=True,
        commands=(
            "wslab stage --connections {connections} --ramp-rate 5000",
            "sudo sysctl -w net.core.netdev_max_backlog=10000",
        ),
    ),
    Limit(
        name="time_wait",
        side="kernel",
        title="closed connections that still keep their port for 60 s",
        reads="/proc/net/sockstat tw",
        key="time_wait",
        lift="close with a reset, as the drain phase does; or other source addresses; or wait 60 s",
        commands=("wslab stage --connections {connections} --source-addresses {addresses}",),
    ),
    Limit(
        name="server_cpu",
        side="server",
        title="CPU of the busiest server shard",
        reads="/proc/PID/stat",
        lift="fewer messages, or more server shards while cores are idle",
        commands=("wslab stage --connections {connections} --server-shards {processes} --message-rate 0.001",),
    ),
    Limit(
        name="machine_cpu",
        side="machine",
        title="CPU of the whole machine, which both ends share",
        reads="/proc/stat",
        key="cpu_count",
        lift="more cores, fewer messages, or the swarm on another machine",
    ),
    Limit(
        name="generator",
        side="swarm",
        title="the swarm itself, when it is slower than the server",
        reads="/proc/PID/stat and the lag behind the schedule",
        lift="more swarm workers while cores are idle, or the swarm on another machine",
        commands=("wslab stage --connections {connections} --swarm-workers {processes}",),
    ),
)
