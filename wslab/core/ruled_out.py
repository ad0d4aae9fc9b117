"""The limits that a run rules out: their own proof was looked for and did not appear.

A counter that was not read rules nothing out, and neither do CPU shares that were not measured.
"""

from __future__ import annotations

from collections.abc import Callable

from wslab.core.evidence import Evidence
from wslab.core.saturation import generator_limited, machine_busy, server_busy

# Counters that rise whenever the limit binds.
COUNTERS_OF: dict[str, tuple[str, ...]] = {
    "accept_queue": ("listen_overflows_total",),
    "syn_queue": ("syn_cookies_total", "syn_drops_total"),
    "conntrack": ("conntrack_drops_total",),
    "device_backlog": ("softnet_drops_total",),
    "tcp_mem": ("tcp_memory_pressures_total", "tcp_aborts_on_memory_total"),
    "memory_machine": ("oom_kills_total",),
    "memory_cgroup": ("oom_kills_total",),
}
# The errno that every attempt fails with once the limit binds.
ERRNO_OF = {
    "file_max": "ENFILE",
    "ephemeral_ports": "EADDRNOTAVAIL",
    "bind_ports": "EADDRINUSE",
    "epoll_watches": "ENOSPC",
}
_CPU: dict[str, tuple[str, Callable[..., bool]]] = {
    "generator": ("swarm_cpu_fraction_max", generator_limited),
    "server_cpu": ("server_cpu_fraction_max", server_busy),
    "machine_cpu": ("cpu_idle_seconds", machine_busy),
}


def ruled_out(run: Evidence, but: str = "") -> tuple[str, ...]:
    """Return the limits that did not bind in this run.

    Args:
        run: what was recorded.
        but: the limit that is found; it is left out.
    """
    limits = [
        name
        for name, columns in COUNTERS_OF.items()
        if all(run.values(column) and run.delta(column) <= 0 for column in columns)
    ]
    # Failures are counted from the first attempt on, so that a run with phases has looked for each errno.
    limits += [name for name, errno in ERRNO_OF.items() if run.phases and not run.errors(names=errno)]
    descriptors = run.values("server_shards_at_limit")
    if descriptors and not max(descriptors) and not run.errors(names="EMFILE"):
        limits.append("fd_limit")
    limits += [
        name for name, (column, busy) in _CPU.items() if run.values(column) and not busy(run.active, run.missed_in)
    ]
    return tuple(name for name in limits if name != but)
