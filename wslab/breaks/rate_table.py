"""The breaks without a number: queues, buffers and CPU that are too small for a rate, a server that stops or dies."""

from __future__ import annotations

from wslab.breaks.parts import (
    UNTRACKED,
    buffered,
    half_open,
    hashing,
    impatient,
    inside,
    load,
    on_quota,
    tracking,
    waiting,
)
from wslab.breaks.trial import KILL_SHARD, STOP_SHARDS, Break, Trial

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
        title="a CPU quota of 0.05 for a swarm that needs 0.3",
        broken=Trial(
            # Small messages cost the swarm more than the server. When they queue, each costs less: hence so many.
            parameters=load(200, message_rate=50, hold_seconds=4),
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
