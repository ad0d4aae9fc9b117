"""The namespace, cgroups, rlimits and user in which a limit is broken without affecting the machine.

1. Whatever the kernel keeps per network namespace, control group, process or user is bound there, and needs no
   putting back: it ends with what it was bound to.
2. Some limits exist once for the whole machine, also where their use is counted by user or by namespace: while such a
   setting is lowered, everybody on the machine has it so. An enclosure says which (`shared`); it is made only when it
   was asked for by name, and while nobody has more than the lowered value leaves room for.
3. An enclosure that makes no sense is refused when it is described, not when half of it has been made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from wslab.core.quantities import refuse
from wslab.machine.sysctls import (
    CONNTRACK_BUCKETS,
    CONNTRACK_MAX,
    DEVICE_BACKLOG,
    EPOLL_WATCHES,
    FILE_MAX,
    NR_OPEN,
    TCP_MEM,
)

ROLES = ("server", "swarm")

# The least that each setting of the whole machine may be set to. Services hold few epoll watches each, but all of one
# user's count together; the entries of all namespaces are in one hash table, which is one page at least; a service has
# a few hundred files open; and memory for TCP below these pages stops everybody's.
FLOORS: Mapping[str, int] = {
    CONNTRACK_MAX: 100,
    EPOLL_WATCHES: 4096,
    CONNTRACK_BUCKETS: 512,
    NR_OPEN: 2048,
    FILE_MAX: 4096,
    DEVICE_BACKLOG: 1,
    TCP_MEM: 256,
}

# Python itself opens about a dozen descriptors before it comes to serve.
FD_LIMIT_LEAST = 64
# Below that a Python process does not come to life.
MEMORY_LEAST_BYTES = 16 << 20
# The kernel gives a quota of no less than 1 ms, which is this share of the 20 ms that quotas are given for.
CPU_QUOTA_LEAST = 0.05

_PER_ROLE = {
    "memory_bytes": MEMORY_LEAST_BYTES,
    "processes": 1,
    "cpu_quota": CPU_QUOTA_LEAST,
    "fd_limit": FD_LIMIT_LEAST,
    "processes_limit": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Enclosure:
    """The bounds of a load; what is left out is as on the machine.

    The mappings by role have the keys `server` and `swarm`, either or both.

    Attributes:
        netns: whether both ends run in a network namespace of their own, with nothing in it but loopback.
        sysctls: settings of that namespace by name, such as `net.core.somaxconn`.
        global_sysctls: settings of the whole machine, for as long as the enclosure lasts; see `FLOORS`. Where a
            setting has several numbers, all of them in one text.
        nft: rules for that namespace in the language of nftables.
        packet_cpu: the CPU that is handed all packets of that loopback, where they wait in its backlog (RPS);
            None where each CPU takes those that it sends.
        link: the queueing discipline of that loopback: its `kind`, such as `tbf` or `netem`, and its parameters as
            pyroute2 takes them.
        memory_bytes: memory of the control group, by role.
        processes: processes of the control group, by role.
        cpu_quota: CPU time a second of the control group, in CPUs, by role.
        fd_limit: soft and hard RLIMIT_NOFILE of every process, by role.
        processes_limit: RLIMIT_NPROC, by role; the kernel exempts root, so it goes with `uid`.
        uid: user that the processes of both ends run as.
        cpus: the CPUs that a role may run on.
    """

    netns: bool = False
    sysctls: Mapping[str, str | int] = field(default_factory=dict)
    global_sysctls: Mapping[str, int | str] = field(default_factory=dict)
    nft: str = ""
    packet_cpu: int | None = None
    link: Mapping[str, str | int | float] = field(default_factory=dict)
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    processes: Mapping[str, int] = field(default_factory=dict)
    cpu_quota: Mapping[str, float] = field(default_factory=dict)
    fd_limit: Mapping[str, int] = field(default_factory=dict)
    processes_limit: Mapping[str, int] = field(default_factory=dict)
    uid: int | None = None
    cpus: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in _PER_ROLE.items():
            for role, value in getattr(self, name).items():
                _check_role(name, role)
                if value < least:
                    raise refuse(f"{name}[{role}]", value, f"a number from {least:,}")
        for role, cpus in self.cpus.items():
            _check_role("cpus", role)
            if not cpus:
                raise refuse(f"cpus[{role}]", cpus, "at least one CPU")
        for name in self.sysctls:
            if not name.startswith("net.") or "/" in name:
                raise refuse("sysctls", name, "a setting of a network namespace, named net.…")
        if not self.netns and (self.sysctls or self.nft or self.link or self.packet_cpu is not None):
            raise refuse("netns", self.netns, "True, because what is bound in a namespace is written there only")
        if self.link and "kind" not in self.link:
            raise refuse("link", dict(self.link), "a queueing discipline with its kind")
        if self.uid is not None and self.uid < 0:
            raise refuse("uid", self.uid, "the number of a user")
        if self.packet_cpu is not None and self.packet_cpu < 0:
            raise refuse("packet_cpu", self.packet_cpu, "the number of a CPU")
        self._check_global()

    def _check_global(self) -> None:
        for name, value in self.global_sysctls.items():
            if name not in FLOORS:
                raise refuse("global_sysctls", name, "one of " + ", ".join(FLOORS))
            words = str(value).split()
            if not words or not all(word.isdigit() and int(word) >= FLOORS[name] for word in words):
                raise refuse(name, value, f"a number from {FLOORS[name]:,}: it holds for the whole machine")
        if EPOLL_WATCHES in self.global_sysctls and not self.uid:
            raise refuse("uid", self.uid, f"a user other than root, whose {EPOLL_WATCHES} are counted apart")
        if CONNTRACK_MAX in self.global_sysctls and not self.netns:
            raise refuse("netns", self.netns, f"True, because {CONNTRACK_MAX} is counted by namespace")

    @property
    def shared(self) -> tuple[str, ...]:
        """The settings that everybody on the machine has changed while it lasts."""
        return tuple(self.global_sysctls)

    @property
    def needs_root(self) -> bool:
        """Whether it takes root to make it; to bound the descriptors, processes and CPUs of a process takes none."""
        groups = any(self.group_bounds.values())
        return bool(self.netns or self.global_sysctls or groups or self.uid is not None)

    @property
    def group_bounds(self) -> dict[str, Mapping[str, float]]:
        """What the control groups are bound to: controller, role and amount, see `wslab.machine.cgroup.groups_for`."""
        return {"memory": self.memory_bytes, "pids": self.processes, "cpu": self.cpu_quota}

    @property
    def tracks_connections(self) -> bool:
        """Whether its rules are stateful and exempt nothing, so that the kernel tracks the connections inside."""
        return re.search(r"\b(ct|nat|masquerade)\b", self.nft) is not None and "notrack" not in self.nft

    def as_dict(self) -> dict[str, Any]:
        """Return what it binds, for the manifest of a run; what is as on the machine is left out."""
        numbers = ("uid", "packet_cpu")
        return {name: value for name, value in asdict(self).items() if value or (name in numbers and value is not None)}


def _check_role(name: str, role: str) -> None:
    if role not in ROLES:
        raise refuse(name, role, "bounds by role: " + " or ".join(ROLES))
