"""Which host runs the server and which the swarm, how the load is divided over them, and whether it fits.

1. The server goes to the host with the most memory and the swarm to all others, unless hosts are named, by their own
   names or by a resource that they offer. One host runs both ends only when it is named for both.
2. The connections are divided evenly, and so is the ramp: each host opens its part at its part of the rate.
3. Over loopback all hosts are one machine, so that each gets source addresses of its own. Elsewhere a host that has
   several addresses in the network that leads to the server dials from as many as its part takes; where it has one, the
   kernel chooses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wslab.core.host import Host
from wslab.core.pacer import split
from wslab.core.plan import (
    BYTES_PER_CONNECTION,
    Plan,
    fd_limit,
    left,
    loopback_addresses,
    memory_left,
    ports_per_address,
    process_capacity,
    processes_most,
    resolve,
)
from wslab.core.quantities import BadInput, about_count, did_you_mean, format_count
from wslab.core.stage import Stage
from wslab.core.target import is_loopback

# Stands before the name of a resource, where the name of a worker could be.
RESOURCE = "resource:"
# Of what a connection takes where both ends are on one host, each end takes about half.
END_BYTES = BYTES_PER_CONNECTION // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A worker of the cluster.

    Attributes:
        name: its name in the cluster.
        worker: its address in the cluster.
        ip: the address at which other hosts reach it.
        folder: where it keeps its files.
        resources: names of the resources that it offers in the cluster.
        node: name of its machine.
        host: the limits there.
        addresses: those that its swarm may dial from.
        own: all addresses that it has.
    """

    name: str
    worker: str
    ip: str
    folder: str = ""
    resources: tuple[str, ...] = ()
    node: str = ""
    host: Host = field(default_factory=Host)
    addresses: tuple[str, ...] = ()
    own: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part of the swarm on one host: where, its layout, and its connections a second; None for full speed."""

    at: Candidate
    plan: Plan
    ramp_rate: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """Where a stage runs: the host of the server, its layout there, and the parts of the swarm."""

    server: Candidate
    server_plan: Plan
    shares: tuple[Share, ...]

    @property
    def plan(self) -> Plan:
        """The layout of the whole."""
        plans = [share.plan for share in self.shares]
        return replace(
            self.server_plan,
            swarm_workers=sum(plan.swarm_workers for plan in plans),
            connections_per_worker=max(plan.connections_per_worker for plan in plans),
            source_addresses=tuple(address for plan in plans for address in plan.source_addresses),
        )


def names_of(given: str | Sequence[str]) -> list[str]:
    """Return names that were given as a list, or as text with commas."""
    return [name.strip() for name in (given.split(",") if isinstance(given, str) else given) if name.strip()]


def choose(
    known: Mapping[str, Candidate], server_on: str = "", swarm_on: str | Sequence[str] = ()
) -> tuple[str, list[str]]:
    """Choose the host of the server and those of the swarm.

    Args:
        known: the workers of the cluster by name.
        server_on: name of the server's host, or `resource:NAME` for those that offer this resource, of which the one
            with the most memory is taken; empty for the same among all. One that is named for the swarm comes last.
        swarm_on: names of the swarm's hosts, or `resource:NAME` for all that offer it; empty for all but the server's.

    Returns:
        The name of the server's host, and those of the swarm's.

    Raises:
        BadInput: a name or a resource is unknown, a name is given twice, or the hosts are too few.
    """
    swarm = [name for given in names_of(swarm_on) for name in _named("swarm_on", given, known)]
    servers = _named("server_on", server_on, known) if server_on else []
    twice = [name for name, count in Counter(swarm).items() if count > 1]
    if twice:
        raise BadInput(f"swarm_on names {twice[0]} twice")
    free = [name for name in servers or known if name not in swarm]
    server = max(free or servers, key=lambda name: known[name].host.memory_total_bytes or 0, default="")
    swarm = swarm or [name for name in known if name != server]
    if not server or not swarm:
        raise BadInput(
            f"the cluster has {len(known)} host{'s' * (len(known) != 1)}, and the server and the swarm need one each; "
            "to run both on one, name it in server_on and in swarm_on"
        )
    return server, swarm


def _named(option: str, given: str, known: Mapping[str, Candidate]) -> list[str]:
    """Return the workers that a name or a resource stands for.

    Raises:
        BadInput: there is none.
    """
    if not given.startswith(RESOURCE):
        if given not in known:
            hint = did_you_mean(given, list(known)) or f"there are {', '.join(known)}"
            raise BadInput(f"{option}={given}: the cluster has no worker of this name; {hint}")
        return [given]
    resource = given.removeprefix(RESOURCE)
    found = [name for name, one in known.items() if resource in one.resources]
    if not found:
        offered = sorted({name for one in known.values() for name in one.resources})
        hint = did_you_mean(resource, offered) or f"there are {', '.join(offered) or 'none'}"
        raise BadInput(f"{option}={given}: no worker of the cluster offers this resource; {hint}")
    return found


def divide(stage: Stage, server: Candidate, swarm: Sequence[Candidate]) -> Placing:
    """Divide a stage over hosts.

    Raises:
        BadInput: there are more hosts than connections.
    """
    if stage.connections < len(swarm):
        raise BadInput(f"connections={stage.connections} are fewer than the {len(swarm)} hosts of the swarm")
    shares, first = [], 0
    local = is_loopback(server.ip)
    pending = resolve(stage, server.host).pending_max
    for at, connections in zip(swarm, split(stage.connections, len(swarm)), strict=True):
        plan = resolve(replace(stage, connections=connections), at.host)
        count = len(plan.source_addresses)
        addresses = loopback_addresses(first + count)[first:] if local else _several(at.addresses, count)
        first += count
        plan = replace(plan, source_addresses=addresses, pending_max=max(1, pending // len(swarm)))
        rate = None if stage.ramp_rate == "max" else float(stage.ramp_rate) * connections / stage.connections
        shares.append(Share(at=at, plan=plan, ramp_rate=rate))
    return Placing(server=server, server_plan=resolve(stage, server.host), shares=tuple(shares))


def _several(addresses: Sequence[str], count: int) -> tuple[str, ...]:
    """Return so many of a host's addresses, or all of them; none where only one is left, which the kernel chooses."""
    return tuple(addresses[:count]) if min(len(addresses), count) > 1 else ()


def with_addresses(swarm: Sequence[Candidate], given: str | Sequence[str]) -> list[Candidate]:
    """Return the swarm's hosts, each dialling from those of the given addresses that are its own.

    Args:
        swarm: the hosts.
        given: the addresses, as a list or as text with commas; empty to leave the hosts as they are.

    Raises:
        BadInput: no host has one of them.
    """
    wanted = names_of(given)
    for address in wanted:
        if not any(address in one.own for one in swarm):
            raise BadInput(f"swarm_addresses={address}: no host of the swarm has this address")
    if not wanted:
        return list(swarm)
    return [replace(one, addresses=tuple(address for address in wanted if address in one.own)) for one in swarm]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A limit of one host of a placed stage, and what is asked of it.

    Attributes:
        at: the host.
        limit: its name.
        asked: how many are placed there.
        most: how many it can hold.
        what: of what: connections, or ends of them where both ends are on one machine.
    """

    at: Candidate
    limit: str
    asked: int
    most: int
    what: str = "connections"

    @property
    def fits(self) -> bool:
        """Whether the host holds what is asked."""
        return self.asked <= self.most

    @property
    def sentence(self) -> str:
        """What does not fit, in one line."""
        asked, most = format_count(self.asked), about_count(self.most)
        return f"host {self.at.name}: {asked} {self.what} do not fit; {self.limit} ends them at about {most}"


def bounds(placing: Placing) -> list[Bound]:
    """Return what each host of a placed stage can hold beside what it is to hold, by limit."""
    ends = [(placing.server, placing.server_plan.connections, placing.server_plan.server_shards)]
    ends += [(share.at, share.plan.connections, share.plan.swarm_workers) for share in placing.shares]
    found = []
    for at, _, _ in ends:
        memory = memory_left(at.host)
        if memory is not None:
            need = sum(count for other, count, _ in ends if other.node == at.node)
            found.append(
                Bound(at=at, limit="memory_machine", asked=need, most=memory // END_BYTES, what="ends of connections")
            )
    for at, connections, processes in ends:
        most = processes * process_capacity(at.host)
        found.append(Bound(at=at, limit="fd_limit", asked=connections, most=most))
    for share in placing.shares:
        if not is_loopback(placing.server.ip):
            most = ports_per_address(share.at.host) * max(1, len(share.plan.source_addresses))
            found.append(Bound(at=share.at, limit="ephemeral_ports", asked=share.plan.connections, most=most))
    for at, connections, _ in ends:
        tracked = left(at.host.conntrack_max, at.host.conntrack_count)
        if at.host.conntrack_tracking and tracked is not None:
            found.append(Bound(at=at, limit="conntrack", asked=connections, most=tracked))
    return found


def refusal(placing: Placing) -> str | None:
    """Return one line that says which host ends the stage before it is complete, and why; None when all of it fits."""
    processes = [(placing.server, placing.server_plan.server_shards, "server_shards")]
    processes += [(share.at, share.plan.swarm_workers, "swarm_workers") for share in placing.shares]
    for at, count, name in processes:
        if count > processes_most(at.host):
            return f"host {at.name}: {count} {name} cannot be watched within its fd limit of {fd_limit(at.host)}"
    return next((bound.sentence for bound in bounds(placing) if not bound.fits), None)


def server_start(start: Mapping[str, Any], placing: Placing) -> dict[str, Any]:
    """Return the start command for the supervisor of the server's host, from that of the whole stage."""
    server = {**start["server"], "host": placing.server.ip}
    return {**start, "server": server, "swarm": {**start["swarm"], "connections": 0, "workers": 0}}


def swarm_start(start: Mapping[str, Any], share: Share, url: str) -> dict[str, Any]:
    """Return the start command for the supervisor of one of the swarm's hosts."""
    swarm = {
        **start["swarm"],
        "url": url,
        "connections": share.plan.connections,
        "workers": share.plan.swarm_workers,
        "ramp_rate": share.ramp_rate,
        "source_addresses": share.plan.source_addresses,
        "pending_max": share.plan.pending_max,
    }
    return {**start, "server": None, "swarm": swarm}
