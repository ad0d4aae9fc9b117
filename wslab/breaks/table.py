"""The break atlas as a table: each limit that can be lowered, how it is met, and what lifts it.

1. Loads are a few thousand connections, more only where memory is what is counted: there the processes' own share must
   be small. Timeouts are short, so that a break takes seconds.
2. Here is what is counted, with the number at which it is met; what is about a rate stands in a table of its own.
"""

from __future__ import annotations

from wslab.breaks.enclosure import NR_OPEN, Enclosure
from wslab.breaks.parts import (
    EVERYWHERE,
    MIB,
    NOBODY,
    TWO_DESTINATIONS,
    UNTRACKED,
    impatient,
    inside,
    load,
    tracking,
    watches,
)
from wslab.breaks.rate_table import RATE_BREAKS
from wslab.breaks.trial import COUNTED, ESTIMATED, Break, Trial
from wslab.core.quantities import refuse

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
        title="48 MiB for the control group of the server",
        broken=Trial(parameters=load(30_000, 2, 2), enclosure=Enclosure(memory_bytes={"server": 48 * MIB})),
        remedy="256 MiB",
        changes={"enclosure": Enclosure(memory_bytes={"server": 256 * MIB})},
        unit="connections",
        tolerance=ESTIMATED,
    ),
    Break(
        name="memory_reserve",
        limit="memory_reserve",
        side="machine",
        title="a reserve of all memory but 400 MiB",
        # Slow enough for the memory to be looked at every few hundred connections.
        broken=Trial(parameters=load(60_000, 4, 4, ramp_rate=8000), headroom_used_bytes=400 * MIB),
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
