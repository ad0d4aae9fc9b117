"""From recorded evidence to findings: which limit broke, on whose side, with what proof, and what lifts it.

The rules stand in a table. Each has a rank: first what an errno or a counter of one limit proves, then counters that
may only be a consequence, then what is concluded from CPU time.

1. A run that reached all it asked for has no finding, whatever the counters say.
2. All findings of the first rank that has any are reported, and none of a later rank: a full accept queue is the
   consequence of a shard without descriptors, and not a second cause.
3. Of several findings, the limit that bound first is named first, see `wslab.core.order`. A limit that was used up by
   attempts that wait for another one is a consequence: the cause is looked for in later ranks as well.
4. The generator is asked before the server.
5. Every finding quotes the counter, errno or event that proves it. When no other rule applies, "unknown" says what was
   ruled out.
6. Every finding says how certain it is: the rule's own certainty, unless the finding itself says otherwise. What is
   only inferred lists the limits that were ruled out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from wslab.core import between, rules
from wslab.core.evidence import Evidence
from wslab.core.order import in_order, used_up_by_waiting, without_aftermath
from wslab.core.records import Certainty, Finding
from wslab.core.ruled_out import ruled_out
from wslab.core.rules import Findings

# What a server that cannot be tested is named by.
SERVER_FAULTS = (
    "server_died",
    "server_unreachable",
    "server_refused",
    "server_closed",
    "server_silent",
    "server_protocol",
)

PROVED, COUNTED, BETWEEN, SILENT, GENERATOR, SERVER, MACHINE, UNKNOWN = range(8)

_CERTAINTY_OF_RANK = {PROVED: Certainty.PROVED, COUNTED: Certainty.COUNTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule.

    Attributes:
        rank: rules of a higher rank are tried only when those of a lower one find nothing.
        limits: the limits that it can name.
        test: yields the findings that it can prove from the evidence of a run that missed something.
        certainty: of its findings that do not say it themselves; follows from the rank unless given.
    """

    rank: int
    limits: tuple[str, ...]
    test: Callable[[Evidence], Findings]
    certainty: Certainty | None = None

    def findings(self, evidence: Evidence) -> list[Finding]:
        """Return what it finds, each with its certainty."""
        usual = self.certainty or _CERTAINTY_OF_RANK.get(self.rank, Certainty.INFERRED)
        found = [replace(one, certainty=one.certainty or usual) for one in self.test(evidence)]
        return [
            replace(one, ruled_out=ruled_out(evidence, one.limit)) if one.certainty is Certainty.INFERRED else one
            for one in found
        ]


RULES: tuple[Rule, ...] = (
    Rule(rank=PROVED, limits=("memory_machine", "memory_cgroup"), test=rules.out_of_memory),
    Rule(rank=PROVED, limits=SERVER_FAULTS, test=rules.server_failed),
    Rule(rank=PROVED, limits=("host_lost",), test=rules.host_lost),
    Rule(rank=PROVED, limits=("memory_reserve",), test=rules.memory_reserve),
    Rule(rank=PROVED, limits=("process_limit",), test=rules.process_limit),
    Rule(rank=PROVED, limits=("server_died", "generator"), test=rules.died),
    Rule(rank=PROVED, limits=("file_max",), test=rules.file_max),
    Rule(rank=PROVED, limits=("fd_limit", "nr_open"), test=rules.descriptors),
    Rule(rank=PROVED, limits=("epoll_watches",), test=rules.epoll_watches),
    Rule(rank=PROVED, limits=("ephemeral_ports", "time_wait"), test=rules.ports),
    Rule(rank=PROVED, limits=("bind_ports",), test=rules.bind_ports),
    Rule(rank=PROVED, limits=("conntrack",), test=rules.conntrack),
    Rule(rank=PROVED, limits=("conntrack_buckets",), test=rules.conntrack_chains),
    Rule(rank=PROVED, limits=("server_protocol",), test=rules.server_protocol),
    Rule(rank=PROVED, limits=("firewall",), test=between.firewall_refused),
    Rule(rank=PROVED, limits=("server_refused",), test=between.server_refused),
    Rule(rank=PROVED, limits=("server_unreachable",), test=between.server_unreachable),
    Rule(rank=PROVED, limits=("server_closed",), test=between.server_closed_with_code),
    Rule(rank=COUNTED, limits=("accept_queue",), test=rules.accept_queue),
    Rule(rank=COUNTED, limits=("syn_queue",), test=rules.syn_queue),
    Rule(rank=COUNTED, limits=("tcp_mem",), test=rules.tcp_memory),
    Rule(rank=COUNTED, limits=("device_backlog",), test=rules.device_backlog),
    Rule(rank=COUNTED, limits=("conntrack_buckets",), test=rules.conntrack_buckets),
    # After the counters of the kernel's own limits, which drop packets as well; before a server that seems silent.
    Rule(rank=BETWEEN, limits=("link",), test=between.link, certainty=Certainty.COUNTED),
    Rule(rank=BETWEEN, limits=("firewall",), test=between.firewall_dropped),
    Rule(rank=BETWEEN, limits=("server_closed", "firewall"), test=between.server_closed_silently),
    Rule(rank=SILENT, limits=("server_silent",), test=rules.server_silent),
    Rule(rank=GENERATOR, limits=("generator",), test=rules.generator),
    Rule(rank=SERVER, limits=("server_cpu",), test=rules.server_cpu),
    Rule(rank=MACHINE, limits=("machine_cpu",), test=rules.machine_cpu),
    Rule(rank=UNKNOWN, limits=("unknown",), test=rules.unknown),
)


def diagnose(evidence: Evidence) -> list[Finding]:
    """Return the findings, the limit that bound first being first; empty for a run that reached all it asked for."""
    if not evidence.misses:
        return []
    used_up: list[Finding] = []
    for rank in sorted({rule.rank for rule in RULES}):
        if used_up and rank > SILENT:
            break  # An errno comes before CPU time that may explain.
        found = without_aftermath([one for rule in RULES if rule.rank == rank for one in rule.findings(evidence)])
        consequences = [one for one in found if used_up_by_waiting(evidence, one)]
        causes = [one for one in found if one not in consequences]
        used_up += consequences
        if causes:
            return in_order(evidence, causes) + in_order(evidence, used_up)
    # Nothing explains why the attempts waited: what they used up is all that is known.
    return in_order(evidence, used_up)
