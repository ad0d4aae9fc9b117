"""Make an enclosure on this machine, say how to enter it, and take it down without a trace.

1. Every part is in the journal before it is made. On leaving, the parts are undone in reverse order; when the caller
   has died, by the supervisor, by the next isolation, or by `wslab clean`, whichever comes first.
2. A setting of the whole machine is claimed first, so two isolations cannot take each other's value for the machine's;
   and it is lowered only while all others have room below the new value.
3. The limits that a run is judged by are those that a process finds inside, once it has entered.
4. The memory of the machine stays what the stage is judged by: an enclosure that is too small for a stage is made to be
   too small. What is `auto` is planned for the limits inside. Only the pace stays that of the machine: a swarm that
   spares the queue which it is to overrun would prove nothing.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

from wslab.breaks.enclosure import ROLES, Enclosure
from wslab.breaks.netns import create_netns, look_from_inside, netns_path
from wslab.core.host import Host
from wslab.core.plan import Plan, resolve
from wslab.core.quantities import BadInput
from wslab.core.stage import Stage
from wslab.lab.place import MakePlace, Place
from wslab.machine.cgroup import Group, groups_for
from wslab.machine.firewall import find_nft
from wslab.machine.journal import CGROUP, ENCLOSURE, NETNS, Journal, undo_orphaned, unexpected
from wslab.machine.procfs import read_status
from wslab.machine.sysctls import CONNTRACK_MAX, EPOLL_WATCHES, claim_sysctl, sysctl_path
from wslab.machine.usage import epoll_watches_by_user, tracked_most

# A bound that each role may have of its own, and what is read along with it; the tighter role's are shown.
_BOUNDS = (
    ("fd_hard", "fd_soft"),
    ("nproc_soft",),
    ("memory_cgroup_limit_bytes", "memory_cgroup_used_bytes"),
    ("pids_cgroup_max", "pids_cgroup_used"),
    ("cpu_quota",),
)
_CAP_SETGID, _CAP_SETUID, _CAP_NET_ADMIN, _CAP_SYS_ADMIN = 6, 7, 12, 21
# What others use of a limit must stay below this share of the lowered value: they go on while it is lowered.
_OTHERS_SHARE = 0.5

_log = logging.getLogger(__name__)


def obstacle(enclosure: Enclosure) -> str:
    """Return one line that says why an enclosure cannot be made here; empty when nothing is known to be in the way."""
    text = (read_status() or {}).get("CapEff")
    capabilities = int(text, 16) if text else 0

    def lacks(*bits: int) -> bool:
        return not all(capabilities >> bit & 1 for bit in bits)

    if enclosure.needs_root and os.geteuid() != 0:
        return "it takes root to make this enclosure"
    if enclosure.netns and lacks(_CAP_NET_ADMIN, _CAP_SYS_ADMIN):
        return "a network namespace takes the capabilities SYS_ADMIN and NET_ADMIN"
    if enclosure.uid is not None and lacks(_CAP_SETGID, _CAP_SETUID):
        return "another user takes the capabilities SETUID and SETGID"
    if enclosure.processes_limit and os.geteuid() == 0 and not enclosure.uid:
        return "processes_limit does not bind root, so it takes a uid"
    if enclosure.nft and find_nft() is None:
        return "nft is not installed; on Debian and Ubuntu this helps: apt install nftables"
    for name in enclosure.global_sysctls:
        if not os.access(sysctl_path(name), os.W_OK):
            return f"{name} cannot be written from here"
    try:
        groups_for(enclosure.group_bounds, "wslab")
        return _no_room_for_others(enclosure)
    except OSError as problem:
        return str(problem)


def _no_room_for_others(enclosure: Enclosure) -> str:
    """Return why others on the machine would meet a limit that is lowered for all; empty when they would not."""
    if most := int(enclosure.global_sysctls.get(CONNTRACK_MAX, 0)):
        tracked = tracked_most()
        if tracked > _OTHERS_SHARE * most:
            return f"a network namespace tracks {tracked:,} connections, too many for {CONNTRACK_MAX} {most:,}"
    if most := int(enclosure.global_sysctls.get(EPOLL_WATCHES, 0)):
        uid, held = max(epoll_watches_by_user().items(), key=lambda item: item[1], default=(0, 0))
        if held > _OTHERS_SHARE * most:
            return f"user {uid} holds {held:,} epoll watches, too many for {EPOLL_WATCHES} {most:,}"
    return ""


def enclosed(enclosure: Enclosure) -> MakePlace:
    """Return the place of a stage inside an enclosure, made for that stage alone.

    Raises:
        BadInput: on entering, when the enclosure cannot be made.
    """

    @contextmanager
    def make(stage: Stage, host: Host, plan: Plan) -> Iterator[Place]:
        with Isolation(enclosure) as isolation:
            inside = isolation.read_host()
            yield Place(
                host=inside,
                plan=replace(resolve(stage, inside), pending_max=plan.pending_max),
                specs={role: isolation.spec(role) for role in (*ROLES, "recorder")},
                notes={"enclosure": enclosure.as_dict()},
            )

    return make


class Isolation:
    """An enclosure on this machine, for as long as the context lasts.

    Args:
        enclosure: what is bound.
        name: what its parts are named by; one that nobody else has by default.

    Raises:
        BadInput: on entering, when it cannot be made; one line says why, and nothing of it is left.
    """

    def __init__(self, enclosure: Enclosure, name: str = "") -> None:
        self.enclosure = enclosure
        self.name = name or f"wslab-{secrets.token_hex(4)}"
        self._journal = Journal(ENCLOSURE, self.name)
        self._groups: list[Group] = []
        self._claims: list[int] = []

    def __enter__(self) -> Isolation:
        _say(undo_orphaned())
        refused = obstacle(self.enclosure)
        if refused:
            raise BadInput(f"the enclosure cannot be made: {refused}")
        try:
            self._make()
        except OSError as problem:
            self._take_down()
            raise BadInput(f"the enclosure cannot be made: {problem}") from problem
        except BaseException:
            self._take_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._take_down()
        except KeyboardInterrupt:  # Impatience must not leave the machine changed.
            self._take_down()
            raise

    def spec(self, role: str) -> dict[str, Any]:
        """Return what the specification of a process gets, so that it is started inside.

        Args:
            role: `server`, `swarm`, or another one, such as `recorder`, that only shares the network namespace.
        """
        entry: dict[str, Any] = {"netns": netns_path(self.name) if self.enclosure.netns else None}
        if role not in ROLES:
            return {"enclosure": entry}
        entry |= {
            "cgroups": [str(group.path) for group in self._groups if group.role == role],
            "fd_limit": self.enclosure.fd_limit.get(role),
            "processes_limit": self.enclosure.processes_limit.get(role),
            "cpus": list(self.enclosure.cpus.get(role, ())),
        }
        return {"enclosure": entry, "uid": self.enclosure.uid}

    def read_host(self) -> Host:
        """Return the limits as the load finds them, see `wslab.machine.procfs.read_host`.

        A process has entered and looked for each end. Where the ends are bound differently, the tighter bound is given.

        Raises:
            BadInput: it cannot be entered.
        """
        try:
            host = look_from_inside(self.spec("recorder")["enclosure"])
            for role in ROLES:
                spec = self.spec(role)
                seen = look_from_inside(spec["enclosure"], spec["uid"])
                # The groups are new: who has looked was alone in them, and has left.
                seen |= {"memory_cgroup_used_bytes": 0} if role in self.enclosure.memory_bytes else {}
                seen |= {"pids_cgroup_used": 0} if role in self.enclosure.processes else {}
                for bound, *along in _BOUNDS:
                    if seen[bound] is not None and (host[bound] is None or 0 <= seen[bound] < host[bound]):
                        host |= {key: seen[key] for key in (bound, *along)}
                        if bound == "memory_cgroup_limit_bytes":
                            host["memory_cgroup_of"] = role
                host["uid"] = seen["uid"]
        except OSError as problem:
            raise BadInput(f"the enclosure cannot be entered: {problem}") from problem
        if self.enclosure.netns:
            host["conntrack_tracking"] = self.enclosure.tracks_connections
        return Host.from_record(host)

    def _make(self) -> None:
        for group in groups_for(self.enclosure.group_bounds, self.name):
            self._journal.note(CGROUP, group.path.name)
            group.make()
            self._groups.append(group)
        if self.enclosure.netns:
            self._journal.note(NETNS, self.name)
            create_netns(
                self.name,
                self.enclosure.sysctls,
                self.enclosure.nft,
                self.enclosure.packet_cpu,
                self.enclosure.link,
            )
        # Last, and so the first to be undone: this is what others could notice.
        for name, value in self.enclosure.global_sysctls.items():
            try:
                self._claims.append(claim_sysctl(name))
            except BlockingIOError as problem:
                raise OSError(f"another run has {name} changed at the moment") from problem
            (change,) = self._journal.write({name: str(value)})
            if not change.done:
                raise OSError(f"{name} = {value}: {change.note}")

    def _take_down(self) -> None:
        while self._claims:
            os.close(self._claims.pop())
        _say(unexpected(self._journal.undo(lambda step: step.session == self.name)))
        self._groups.clear()


def _say(lines: list[str]) -> None:
    for line in lines:
        _log.warning("%s", line)
