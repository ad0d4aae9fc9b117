"""From recorded evidence to findings: which limit broke, on whose side, with what proof, and what lifts it.

The rules stand in a table in order of cause. Each has a rank: what is proved by the kernel's own word comes before
what may only follow from it, and that before what is concluded from CPU time.

1. A run that reached all it asked for has no finding, whatever the counters say.
2. All rules of the first rank that has an answer are told, and none of a later rank: a full accept queue is the
   consequence of a shard without descriptors, and not a second cause.
3. The generator is asked before the server.
4. Every finding quotes the counter, errno or event that proves it. When no rule answers, "unknown" says what was ruled
   out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wslab.core import rules_concluded as concluded
from wslab.core import rules_proved as proved
from wslab.core.evidence import Evidence
from wslab.core.records import Finding
from wslab.core.rules_proved import Findings

__all__ = ["RULES", "Evidence", "Finding", "Rule", "diagnose"]

PROVED, COUNTED, SILENT, GENERATOR, SERVER, MACHINE, UNKNOWN = range(7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule.

    Attributes:
        rank: rules of a higher rank are asked only when those of a lower one have no answer.
        limits: the limits that it can name.
        test: yields the findings that it can prove from the evidence of a run that missed something.
    """

    rank: int
    limits: tuple[str, ...]
    test: Callable[[Evidence], Findings]


RULES: tuple[Rule, ...] = (
    Rule(rank=PROVED, limits=("memory_machine", "memory_cgroup"), test=proved.out_of_memory),
    Rule(rank=PROVED, limits=("memory_reserve",), test=proved.memory_reserve),
    Rule(rank=PROVED, limits=("process_limit",), test=proved.process_limit),
    Rule(rank=PROVED, limits=("server_died", "generator"), test=proved.died),
    Rule(rank=PROVED, limits=("file_max",), test=proved.file_max),
    Rule(rank=PROVED, limits=("fd_limit", "nr_open"), test=proved.descriptors),
    Rule(rank=PROVED, limits=("epoll_watches",), test=proved.epoll_watches),
    Rule(rank=PROVED, limits=("ephemeral_ports", "time_wait"), test=proved.ports),
    Rule(rank=PROVED, limits=("bind_ports",), test=proved.bind_ports),
    Rule(rank=PROVED, limits=("conntrack",), test=proved.conntrack),
    Rule(rank=PROVED, limits=("conntrack_buckets",), test=proved.conntrack_chains),
    Rule(rank=PROVED, limits=("server_protocol",), test=proved.server_protocol),
    Rule(rank=COUNTED, limits=("accept_queue",), test=concluded.accept_queue),
    Rule(rank=COUNTED, limits=("syn_queue",), test=concluded.syn_queue),
    Rule(rank=COUNTED, limits=("tcp_mem",), test=concluded.tcp_memory),
    Rule(rank=COUNTED, limits=("device_backlog",), test=concluded.device_backlog),
    Rule(rank=COUNTED, limits=("conntrack_buckets",), test=concluded.conntrack_buckets),
    Rule(rank=SILENT, limits=("server_silent",), test=concluded.server_silent),
    Rule(rank=GENERATOR, limits=("generator",), test=concluded.generator),
    Rule(rank=SERVER, limits=("server_cpu",), test=concluded.server_cpu),
    Rule(rank=MACHINE, limits=("machine_cpu",), test=concluded.machine_cpu),
    Rule(rank=UNKNOWN, limits=("unknown",), test=concluded.unknown),
)


def diagnose(evidence: Evidence) -> list[Finding]:
    """Return what broke, in order of cause; empty for a run that reached all it asked for."""
    if not evidence.misses:
        return []
    for rank in sorted({rule.rank for rule in RULES}):
        findings = [finding for rule in RULES if rule.rank == rank for finding in rule.test(evidence)]
        if findings:
            return findings
    return []
