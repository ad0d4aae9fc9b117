"""Scenarios drawn at random, to measure the diagnosis: limits lowered together, and the one that has to bind first.

1. Drawn from the limits that can be lowered without anybody else noticing: those of a process, a control group or a
   network namespace. Nothing of the whole machine is written.
2. A limit that has a number is lowered to a ceiling in connections. More connections are asked for than any of the
   lowered limits allows, so that the one with the lowest ceiling binds first, and the others are next in line.
3. Limits of a rate, and a server that stops or dies, have no number, so that each is met alone.
4. In a healthy scenario all ceilings are above what is asked for, some of them only a little.
5. A scenario follows from the seed and its number alone: scenario 17 of 20 is scenario 17 of 200.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from wslab.breaks.enclosure import Enclosure
from wslab.breaks.table import MIB, PORTS, find_breaks, guarded, half_open, impatient, inside, load
from wslab.breaks.trial import COUNTED, ESTIMATED, Trial
from wslab.core.plan import FDS_RESERVED
from wslab.core.quantities import counted

# Large enough for the descriptors that a process needs for itself to be a small part of what it may have.
LEAST, MOST = 3000, 4200
# How far the next ceiling is above the one before it, as a factor. The descriptors that a process keeps for itself are
# not all used, which moves a ceiling by up to 2 %.
NEAR, FAR = (1.07, 1.13), (1.4, 2.2)
# Above so many connections the next ceiling is near, so that no scenario takes long.
NEAR_FROM = 7000
# Kinds of servers that every machine has, the one that is asked for mostly more often.
KINDS = ("lean", "lean", "tcp_floor")
FIRST_PORT = 20_000
CLOSED_LEAST = 200

SHARE_HEALTHY, SHARE_ALONE = 0.2, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """One limit that a scenario lowers, and the connections at which it ends the climb; None for a limit of a rate."""

    limit: str
    side: str
    ceiling: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario.

    Attributes:
        number: its number, from 1.
        title: what is lowered and what else is the case, in one phrase.
        trial: the run.
        lowered: the limits that are lowered, the one that binds first being first.
        healthy: whether none of them is to bind.
        busy: whether every CPU is kept busy by somebody else meanwhile.
        tolerance: how far the measured count may be from the predicted one, as a share of it; None without a number.
    """

    number: int
    title: str
    trial: Trial
    lowered: tuple[Lowered, ...]
    healthy: bool = False
    busy: bool = False
    tolerance: float | None = None

    @property
    def first(self) -> Lowered | None:
        """The limit that binds first; None when none is to bind."""
        return None if self.healthy or not self.lowered else self.lowered[0]


@dataclass(slots=True, kw_only=True)
class _Draft:
    """What the lowered limits of one scenario make of its run."""

    shards: int
    workers: int
    addresses: int
    asked: int
    sysctls: dict[str, str | int] = field(default_factory=dict)
    swarm: dict[str, Any] = field(default_factory=dict)
    fd_limit: dict[str, int] = field(default_factory=dict)
    rule: str = ""


def _ephemeral_ports(draft: _Draft, ceiling: int) -> int:
    each = ceiling // draft.addresses
    draft.sysctls[PORTS] = f"{FIRST_PORT} {FIRST_PORT + each - 1}"
    return each * draft.addresses


def _bind_ports(draft: _Draft, ceiling: int) -> int:
    draft.swarm["bind_without_no_port"] = True
    return _ephemeral_ports(draft, ceiling)


def _time_wait(draft: _Draft, ceiling: int) -> int:
    """Leave ports for `ceiling` connections beside those in TIME_WAIT, and for all that are asked for without them."""
    draft.addresses = 1
    # The listener has one of the ports.
    ports = max(draft.asked + 1, ceiling + CLOSED_LEAST)
    _ephemeral_ports(draft, ports)
    draft.sysctls["net.ipv4.tcp_tw_reuse"] = 0
    draft.swarm["connections_before"] = ports - ceiling
    return ceiling


def _fd_limit_server(draft: _Draft, ceiling: int) -> int:
    each = ceiling // draft.shards
    draft.fd_limit["server"] = each + FDS_RESERVED
    return each * draft.shards


def _fd_limit_swarm(draft: _Draft, ceiling: int) -> int:
    each = ceiling // draft.workers
    draft.fd_limit["swarm"] = each + FDS_RESERVED
    return each * draft.workers


def _firewall(action: str) -> Callable[[_Draft, int], int]:
    def lower(draft: _Draft, ceiling: int) -> int:
        draft.rule = f"ct count over {ceiling} {action}"
        return ceiling

    return lower


# Each limit with a number: its side, and what lowers it to about so many connections; returns the exact ceiling.
COUNTABLE: dict[str, tuple[str, Callable[[_Draft, int], int]]] = {
    "ephemeral_ports": ("swarm", _ephemeral_ports),
    "bind_ports": ("swarm", _bind_ports),
    "time_wait": ("kernel", _time_wait),
    "fd_limit": ("server", _fd_limit_server),
    "fd_limit (swarm)": ("swarm", _fd_limit_swarm),
    "firewall": ("kernel", _firewall("drop")),
    "firewall (counts)": ("kernel", _firewall("counter drop")),
    "firewall (refuses)": ("kernel", _firewall("counter reject with tcp reset")),
}
# Each group is bound by one setting, so that a scenario has one of each.
EXCLUSIVE = (
    ("ephemeral_ports", "bind_ports", "time_wait"),
    ("firewall", "firewall (counts)", "firewall (refuses)"),
)


def draw(number: int, seed: int) -> Scenario:
    """Return one scenario.

    Args:
        number: its number, from 1.
        seed: of the whole series.
    """
    rng = Random(f"{seed}:{number}")
    kind = rng.random()
    if kind < SHARE_ALONE:
        return _alone(number, rng)
    return _together(number, rng, healthy=kind < SHARE_ALONE + SHARE_HEALTHY)


def _together(number: int, rng: Random, *, healthy: bool) -> Scenario:
    """Return a scenario of limits with a number."""
    names = list(COUNTABLE)
    rng.shuffle(names)
    for group in EXCLUSIVE:
        chosen = next(name for name in names if name in group)
        names = [name for name in names if name not in group or name == chosen]
    names = names[: rng.choice((1, 2, 2, 3))]
    processes = rng.choice((1, 1, 1, 2))
    ceilings = [processes * rng.randint(LEAST, MOST)]
    for _ in names[1:]:
        gap = NEAR if ceilings[-1] > NEAR_FROM else rng.choice((NEAR, FAR))
        ceilings.append(round(ceilings[-1] * rng.uniform(*gap)))
    # A healthy run leaves room for the descriptors and ports that are in use for a moment.
    asked = round(ceilings[0] * rng.uniform(0.5, 0.93)) if healthy else round(ceilings[-1] * rng.uniform(1.1, 1.3))
    draft = _Draft(shards=processes, workers=processes, addresses=rng.choice((1, 1, 2, 3)), asked=asked)
    # The ports of closed connections come first: they decide how many addresses there are.
    lowered = {}
    for name, ceiling in sorted(zip(names, ceilings, strict=True), key=lambda item: item[0] != "time_wait"):
        side, lower = COUNTABLE[name]
        lowered[name] = Lowered(limit=name.split()[0], side=side, ceiling=lower(draft, ceiling))
    busy, server = rng.random() < 0.25, rng.choice(KINDS)
    more: dict[str, Any] = {}
    if rng.random() < 0.3:
        size = rng.choice((32, 32, 1024, 4096))
        more |= {"message_rate": rng.choice((1.0, 2.0)), "message_bytes": size, "hold_seconds": 1.0}
    # Where every CPU is busy, the rate itself could be missed; and a rule that counts connections takes CPU for each
    # new one, in proportion to those that there are.
    if not busy and rng.random() < 0.2 and not draft.rule:
        more["ramp_rate"] = 4000
    trial = Trial(
        parameters=load(asked, draft.shards, draft.workers, source_addresses=draft.addresses, server=server, **more),
        enclosure=_enclosure(draft),
        specs={**impatient(), "swarm": {**impatient()["swarm"], **draft.swarm}},
    )
    ordered = tuple(lowered[name] for name in names)
    what = ", ".join(f"{one.limit} ({one.side}) {one.ceiling:,}" for one in ordered)
    told = [what, f"{asked:,} asked", server]
    told += [f"{counted(draft.shards, 'shard')}, {counted(draft.workers, 'worker')}"]
    told += [counted(draft.addresses, "address", "es")]
    told += ["with messages"] if "message_rate" in more else []
    told += ["a slow ramp"] if "ramp_rate" in more else []
    told += ["busy CPUs"] if busy else []
    title = ("healthy: " if healthy else "") + "; ".join(told)
    return Scenario(
        number=number,
        title=title,
        trial=trial,
        lowered=ordered,
        healthy=healthy,
        busy=busy,
        tolerance=None if healthy else COUNTED,
    )


def _enclosure(draft: _Draft) -> Enclosure:
    own: dict[str, Any] = {"sysctls": draft.sysctls, "fd_limit": draft.fd_limit}
    return guarded(draft.rule, **own) if draft.rule else Enclosure(netns=True, **own)


def _accept_queue(rng: Random) -> Trial:
    return Trial(parameters=load(2000, workers=2), enclosure=inside(somaxconn=rng.randint(8, 24)), specs=impatient())


def _syn_queue(rng: Random) -> Trial:
    return Trial(parameters=load(1000), enclosure=half_open(rng.choice((32, 64, 128))), specs=impatient(2.5))


def _rate_limited(rng: Random) -> Trial:
    rule = f"limit rate over {rng.randint(100, 400)}/second {rng.choice(('', 'counter '))}drop"
    return Trial(parameters=load(2000), enclosure=guarded(rule), specs=impatient())


def _memory_cgroup(rng: Random) -> Trial:
    # 30,000 connections need some 63 MiB with the processes themselves.
    most = rng.randint(36, 54) * MIB
    return Trial(parameters=load(30_000, 2, 2), enclosure=Enclosure(memory_bytes={"server": most}))


def _processes(rng: Random) -> Trial:
    most = rng.randint(6, 12)
    return Trial(parameters=load(2000, workers=most + 4), enclosure=Enclosure(processes={"swarm": most}))


def _of_the_table(name: str) -> Callable[[Random], Trial]:
    """Return the broken trial of a break of the table."""
    (item,) = find_breaks(name)
    assert item.broken is not None
    trial = item.broken
    return lambda rng: trial


# Limits that are met alone: their side and the run, and how often each is drawn.
ALONE: Mapping[str, tuple[str, Callable[[Random], Trial], int]] = {
    "accept_queue": ("server", _accept_queue, 3),
    "syn_queue": ("kernel", _syn_queue, 2),
    "process_limit": ("machine", _processes, 2),
    "memory_cgroup": ("machine", _memory_cgroup, 2),
    "server_died": ("server", _of_the_table("server_died"), 2),
    "server_silent": ("server", _of_the_table("server_silent"), 1),
    "firewall": ("kernel", _rate_limited, 2),
    "link": ("kernel", _of_the_table("link"), 1),
    "server_cpu": ("server", _of_the_table("server_cpu"), 1),
    "generator": ("swarm", _of_the_table("generator"), 1),
}


def _alone(number: int, rng: Random) -> Scenario:
    """Return a scenario of one limit without a number in connections that its parameters give."""
    (name,) = rng.choices(list(ALONE), [often for *_, often in ALONE.values()])
    side, make, _ = ALONE[name]
    trial = make(rng)
    # A CPU quota, and the share of a core that a process fills, are measured on a machine that has time to spare.
    busy = name in ("process_limit", "server_died") and rng.random() < 0.25
    title = f"{name} ({side}); {int(trial.parameters['connections']):,} asked" + ("; busy CPUs" if busy else "")
    return Scenario(
        number=number,
        title=title,
        trial=trial,
        lowered=(Lowered(limit=name, side=side),),
        busy=busy,
        tolerance=ESTIMATED if name == "memory_cgroup" else None,
    )
