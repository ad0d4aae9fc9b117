"""What a run recorded of the path from swarm to server: the firewall's rules, the link, and what reached the server.

1. Where the server is on another host, neither its listener nor its queues are seen from here: `is_local` says so.
2. What was not recorded decides nothing: each question has an answer for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wslab.core.evidence import COUNTERS, Evidence
from wslab.core.records import REFUSES
from wslab.core.timeline import ACTIVE, Record

# The errnos of a connect that somebody refused, that no route led to, and that a rule of this host forbade.
REFUSED = "ECONNREFUSED"
UNREACHABLE = "EHOSTUNREACH ENETUNREACH EHOSTDOWN ENETDOWN"
FORBIDDEN = "EPERM EACCES"

# A cause accounts for failures from this share of them on: several packets may be lost of one attempt, and a few of
# the packets counted may belong to others.
ACCOUNTS_FOR = 0.5
# Counters of packets that are dropped between connect and accept, each by a limit with a name.
DROP_COUNTERS = (
    *("listen_overflows_total", "listen_drops_total", "syn_drops_total", "syn_cookies_total"),
    *("conntrack_drops_total", "conntrack_chains_too_long_total", "softnet_drops_total", "link_drops_total"),
)
# What waits in the sockets is judged by the last samples with load.
LAST_LOOKS = 3
# More rules than these are not quoted.
RULES_QUOTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleMet:
    """A rule of the firewall, with how many packets it had met before and after the run; None where it counts none."""

    chain: str
    text: str
    effect: str
    limits: bool
    before: int | None
    after: int | None

    @property
    def met(self) -> int:
        """Packets that it met meanwhile; 0 where it counts none."""
        return 0 if self.before is None or self.after is None else self.after - self.before

    def quote(self) -> str:
        """Return the rule with its counter before and after."""
        counter = "has no counter" if self.after is None else f"counter {self.before or 0:,} → {self.after:,}"
        return f'rule of {self.chain}: "{self.text}", {counter}'


def rules_met(run: Evidence, effect: str) -> list[RuleMet]:
    """Return the rules with an effect, those that met most first, then those that act from a rate or count on."""
    told = [event["rules"] for event in run.named("firewall") if event.get("rules") is not None]
    if not told:
        return []
    before = {(rule["chain"], rule["text"]): rule["packets"] for rule in told[0]}
    rules = [
        RuleMet(
            chain=rule["chain"],
            text=rule["text"],
            effect=rule["effect"],
            limits=rule["limits"],
            # A rule that was loaded meanwhile had met nothing before.
            before=before.get((rule["chain"], rule["text"]), 0 if rule["packets"] is not None else None),
            after=rule["packets"],
        )
        for rule in told[-1]
        if rule["effect"] == effect
    ]
    return sorted(rules, key=lambda rule: (-rule.met, not rule.limits))


def rules_were_read(run: Evidence) -> bool:
    """Return whether the rules of the firewall could be read, which takes root."""
    return any(event.get("rules") is not None for event in run.named("firewall"))


def is_local(run: Evidence) -> bool:
    """Return whether the listener of the server was seen on this host."""
    return any(sample.get("server_listeners") for sample in run.active)


def listened_throughout(run: Evidence) -> bool:
    """Return whether the server listened at every look, from the last before the ramp to the first of the drain.

    A load that is over within a second has no look in between.
    """
    # When all is done, the server may have been stopped.
    seen = [sample.get("server_listeners") for sample in run.active if sample.get("phase") != "done"]
    seen = [count for count in seen if count is not None]
    return bool(seen) and all(seen)


def rose_under_load(run: Evidence, column: str) -> float:
    """Return how much a counter rose up to the end of the last phase with load: the drain sends resets of its own."""
    values = _under_load(run, column)
    return values[-1] - values[0] if values else 0


def quote_under_load(run: Evidence, column: str) -> str:
    """Return a counter with its kernel name and its values before and at the end of the last phase with load."""
    values = _under_load(run, column)
    return f"{COUNTERS[column]} {values[0]:,} → {values[-1]:,}" if values else f"{COUNTERS[column]} not read"


def _under_load(run: Evidence, column: str) -> list[float]:
    until = [sample for sample in run.active if sample.get("phase") in (None, "start", *ACTIVE)]
    return [sample[column] for sample in until if sample.get(column) is not None]


def others_dropped(run: Evidence) -> float:
    """Return how many packets the counters of other limits saw dropped."""
    return sum(run.delta(column) for column in DROP_COUNTERS)


def refused_between(run: Evidence) -> bool:
    """Return whether refused attempts were refused by a rule, and not by the host of the server.

    A port that nothing listens on is answered by TCP itself, which counts its resets (Tcp OutRsts). A rule that answers
    in its place does not count there. A server that died listens no more, whatever was sampled before.
    """
    if run.errors("connect", FORBIDDEN):
        return True
    refused = run.errors("connect", f"{REFUSED} {UNREACHABLE}")
    if refused and sum(rule.met for rule in rules_met(run, REFUSES)) >= ACCOUNTS_FOR * refused:
        return True
    if not (refused and is_local(run)) or run.deaths("server"):
        return False
    answered = run.values("resets_sent_total") and rose_under_load(run, "resets_sent_total") >= ACCOUNTS_FOR * refused
    return bool(run.errors("connect", UNREACHABLE)) or (listened_throughout(run) and not answered)


def link_full(run: Evidence) -> bool:
    """Return whether bytes waited in the link's queue in most samples of a phase that missed something.

    A delay alone keeps bytes waiting as well. It counts where packets waited for their rate, were dropped, or were so
    late that they were sent again.
    """
    again = run.delta("retransmits_total")
    late = run.timeouts > 0 and again >= ACCOUNTS_FOR * run.timeouts
    if run.delta("link_overlimits_total") <= 0 and run.delta("link_drops_total") <= 0 and not late:
        return False
    for phase in run.missed_in:
        waits = [sample.get("link_backlog_bytes") or 0 for sample in run.loaded if sample.get("phase") == phase]
        if waits and 2 * sum(wait > 0 for wait in waits) >= len(waits):
            return True
    return False


def reached_server(run: Evidence) -> str | None:
    """Say what shows that the load reached the server; None where it is shown that it did not.

    Empty where nothing was recorded lately that could tell.
    """
    told = [sample for sample in run.loaded[-LAST_LOOKS:] if _looked_at(sample)]
    if not told:
        return ""
    worst = max(told, key=lambda sample: sample.get("server_sockets_waiting") or 0)
    stopped, processes, unread, looked, size, queued = (
        int(worst.get(f"server_{name}") or 0)
        for name in (
            *("processes_stopped", "processes", "sockets_waiting", "sockets_sampled", "receive_queue_bytes"),
            "accept_queue",
        )
    )
    parts = [f"{stopped:,} of {processes:,} server processes are stopped"] if stopped else []
    # In one sample that is a disk at work; a process that hangs is so in all of them.
    blocked = min(int(sample.get("server_processes_blocked") or 0) for sample in told)
    if blocked:
        parts.append(f"{blocked:,} of {processes:,} server processes are blocked in the kernel (state D) throughout")
    if unread:
        parts.append(f"{unread:,} of {looked:,} sampled sockets of the server hold {size:,} bytes that it has not read")
    if queued:
        parts.append(f"{queued:,} connections wait in its accept queue")
    if parts:
        return "; ".join(parts)
    # At any moment something is on its way; what is lost stays so.
    if all(sample.get("swarm_send_queue_bytes") or sample.get("server_send_queue_bytes") for sample in told):
        return None
    return "all that was sent was acknowledged by the server's kernel, and nothing is under way to the swarm"


def _looked_at(sample: Record) -> bool:
    return any(sample.get(key) is not None for key in ("server_sockets_sampled", "swarm_sockets_sampled"))


def quoted(rules: Sequence[RuleMet]) -> str:
    """Return the rules as text; empty without any."""
    return "; ".join(rule.quote() for rule in rules[:RULES_QUOTED])
