"""What tests of enclosures share: whether this machine can make one, and what one has left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wslab.breaks.enclosure import Enclosure
from wslab.breaks.isolation import obstacle
from wslab.breaks.netns import netns_path
from wslab.machine.cgroup import CGROUPS
from wslab.machine.journal import Journal
from wslab.machine.sysctls import CONNTRACK_MAX, EPOLL_WATCHES

NOBODY = 65534
STATEFUL = "table inet wslab { chain c { type filter hook input priority 0; ct state invalid drop; }; }"

# One of everything, with room: the settings of the whole machine are lowered to what nobody notices.
WIDE = Enclosure(
    netns=True,
    sysctls={"net.core.somaxconn": 16, "net.ipv4.ip_local_port_range": "32768 33767"},
    global_sysctls={CONNTRACK_MAX: 200_000, EPOLL_WATCHES: 1_000_000},
    nft=STATEFUL,
    memory_bytes={"server": 128 << 20},
    processes={"swarm": 20},
    fd_limit={"server": 300},
    processes_limit={"swarm": 5000},
    uid=NOBODY,
    cpus={"server": (min(os.sched_getaffinity(0)),)},
)
NARROW = Enclosure(netns=True, sysctls=WIDE.sysctls, memory_bytes=WIDE.memory_bytes)


def needs(enclosure: Enclosure) -> pytest.MarkDecorator:
    """Return the mark that skips a test, with the reason, where the enclosure cannot be made."""
    reason = obstacle(enclosure)
    return pytest.mark.skipif(bool(reason), reason=reason)


def traces(name: str) -> list[str]:
    """Return what is there of an enclosure of this name: namespace, control groups, and that the journal knows it."""
    places = [Path(netns_path(name)), *CGROUPS.glob(f"{name}-*"), *CGROUPS.glob(f"*/{name}-*")]
    known = any(step.session == name for step in Journal().steps())
    return [str(path) for path in places if path.exists()] + ["journal"] * known
