"""What bound first, of several limits that were met in one run.

1. By count: a limit binds first when the connections that were opened came as far as its ceiling. One with a higher
   ceiling was then met by the attempts that the first one holds up: they keep their ports and descriptors until they
   time out.
2. By time: the one whose evidence had certainly appeared before that of the other. Failures are stamped by the process
   that counts them; counters of the kernel are known between two samples.
3. By ceiling, the lower one first. A limit that ended a process comes before all that have one.
"""

from __future__ import annotations

from collections.abc import Sequence

from wslab.core.ceilings import ceiling_of
from wslab.core.evidence import Evidence
from wslab.core.plan import FDS_RESERVED
from wslab.core.records import Finding

# A process that died is the cause of what failed after it.
ENDED_A_PROCESS = ("server_died", "generator", "process_limit")
# What is seen of a server that has died: what ended it is the finding.
SEEN_OF_A_DEAD_SERVER = ("server_refused", "server_closed", "server_unreachable", "server_silent")
# What an attempt takes before it is open, so that attempts which wait for something else can use it up.
TAKEN_BY_ATTEMPTS = ("ephemeral_ports", "bind_ports", "time_wait", "fd_limit", "nr_open", "file_max", "epoll_watches")
# How far the connections that were opened may be from a ceiling that they reached, as a share of it: some of what it
# counts is taken by connections that end half-way. A process also uses few of the descriptors kept for itself.
REACHED = 0.03
# The least share of the attempts missing to a ceiling that has to have waited, for them to have used it up.
ACCOUNTED = 0.8


def in_order(evidence: Evidence, findings: Sequence[Finding]) -> list[Finding]:
    """Return findings in the order in which their limits bound; see the rules of the module."""
    left, ordered = list(findings), []
    while left:
        first = [one for one in left if not any(_before(evidence, other, one) for other in left)] or left
        ordered.append(min(first, key=lambda finding: _bound_at(evidence, finding)))
        left.remove(ordered[-1])
    return ordered


def without_aftermath(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings without those that only tell that a server which has died answers no more."""
    if not any(finding.limit == "server_died" for finding in findings):
        return list(findings)
    return [finding for finding in findings if finding.limit not in SEEN_OF_A_DEAD_SERVER]


def used_up_by_waiting(evidence: Evidence, finding: Finding) -> bool:
    """Return whether a limit was used up by attempts that something else held up, and not by open connections."""
    if finding.limit not in TAKEN_BY_ATTEMPTS or finding.side == "server":
        return False
    missing = _ceiling(evidence, finding) - evidence.reached
    return missing > _slack(evidence, finding) and evidence.timeouts >= ACCOUNTED * missing


def _before(evidence: Evidence, one: Finding, other: Finding) -> bool:
    """Return whether one limit certainly bound before another."""
    by_count = _reached(evidence, one) - _reached(evidence, other)
    if by_count and max(_ceiling(evidence, one), _ceiling(evidence, other)) < float("inf"):
        return by_count > 0
    if one.first_seconds is None or other.first_seconds is None:
        return False
    return one.first_seconds[1] < other.first_seconds[0]


def _reached(evidence: Evidence, finding: Finding) -> bool:
    """Return whether the open connections alone came as far as the ceiling of a limit."""
    ceiling = _ceiling(evidence, finding)
    return ceiling < float("inf") and abs(evidence.reached - ceiling) <= _slack(evidence, finding)


def _slack(evidence: Evidence, finding: Finding) -> float:
    """Return how far the connections that were opened may be from the ceiling of a limit that they reached."""
    slack = REACHED * _ceiling(evidence, finding)
    if finding.limit not in ("fd_limit", "nr_open"):
        return slack
    plan = evidence.plan
    processes = plan.server_shards if finding.side == "server" else plan.swarm_workers
    return max(slack, float(processes * FDS_RESERVED))


def _bound_at(evidence: Evidence, finding: Finding) -> float:
    """Return the connections at which a limit binds; -1 for a limit that ended a process, infinity if not known."""
    return -1.0 if finding.limit in ENDED_A_PROCESS else _ceiling(evidence, finding)


def _ceiling(evidence: Evidence, finding: Finding) -> float:
    if finding.limit == "time_wait":
        ports = ceiling_of(evidence.host, evidence.plan, "ephemeral_ports", "swarm") or 0
        return float(max(0, ports - evidence.when_ramp_began("tcp_time_wait")))
    ceiling = ceiling_of(evidence.host, evidence.plan, finding.limit, finding.side)
    return float("inf") if ceiling is None else float(ceiling)
