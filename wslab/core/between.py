"""The rules of the diagnosis about what lies between swarm and server, and about a server that refuses or hangs up.

1. What an errno or a close code says comes before what CPU time may explain.
2. A firewall is proved by a rule's counter. Where rules are not readable or do not count, it is inferred: packets were
   sent again, nothing reached the listener, and no other counter of drops moved.
3. On another host neither listener nor rules are seen, so that a drop is not blamed on anybody there.
"""

from __future__ import annotations

from wslab.core.evidence import Evidence
from wslab.core.path import (
    ACCOUNTS_FOR,
    DROP_COUNTERS,
    FORBIDDEN,
    REFUSED,
    UNREACHABLE,
    RuleMet,
    is_local,
    link_full,
    others_dropped,
    quote_under_load,
    quoted,
    reached_server,
    refused_between,
    rose_under_load,
    rules_met,
    rules_were_read,
)
from wslab.core.records import DROPS, REFUSES, Certainty
from wslab.core.rules import OVERFLOWS_MATTER, Findings, finding

# Segments that are lost before a rate or a message is blamed on it: TCP makes up for fewer.
LOSS_MATTERS = 0.02
# What ends a connection from the other end: a close or an end of file, or a reset.
HUNG_UP = "ESHUTDOWN ECONNRESET EPIPE ECONNABORTED"
_CLOSED_WITH = "closed with code"


def firewall_refused(run: Evidence) -> Findings:
    """Attempts that a rule refused: its counter rose, or the server listened and its host sent no resets."""
    errors = f"{REFUSED} {UNREACHABLE} {FORBIDDEN}"
    refused = run.errors("connect", errors)
    if not refused or not refused_between(run):
        return
    rules = rules_met(run, REFUSES) or rules_met(run, DROPS)
    counted = [rule for rule in rules if rule.met]
    text = f"refused: {run.quote_errors('connect', errors)}; {quoted(counted or rules) or _unread(run)}"
    if not counted:
        resets = quote_under_load(run, "resets_sent_total")
        text += f"; by elimination: the server listened, and its host sent no resets ({resets})"
    certainty = _certainty(counted, refused)
    if certainty is Certainty.INFERRED and run.errors("connect", FORBIDDEN):
        certainty = Certainty.PROVED
    first = run.failed_within("connect", errors)
    yield finding(run, "firewall", "kernel", text, first=first, certainty=certainty)


def server_refused(run: Evidence) -> Findings:
    """ECONNREFUSED: nothing listens on the server's port, and no rule refused in its place."""
    if not run.errors("connect", REFUSED) or run.deaths("server") or refused_between(run):
        return
    text = run.quote_errors("connect", REFUSED)
    seen = [sample["server_listeners"] for sample in run.loaded if sample.get("server_listeners") is not None]
    text += f"; sockets that listen on its port: {seen[-1]:,}" if seen else ""
    if rose_under_load(run, "resets_sent_total"):
        text += f"; {quote_under_load(run, 'resets_sent_total')}"
    yield finding(run, "server_refused", "server", text, first=run.failed_within("connect", REFUSED))


def server_unreachable(run: Evidence) -> Findings:
    """EHOSTUNREACH and its like: no route leads to the server."""
    if run.errors("connect", UNREACHABLE) and not refused_between(run):
        first = run.failed_within("connect", UNREACHABLE)
        yield finding(run, "server_unreachable", "server", run.quote_errors("connect", UNREACHABLE), first=first)


def server_closed_with_code(run: Evidence) -> Findings:
    """The server closed open connections, and said why in its close frame."""
    told = [str(event["detail"]) for event in run.named("failure") if str(event.get("detail")).startswith(_CLOSED_WITH)]
    if told and run.errors("hold upgrade", HUNG_UP) and not run.deaths("server"):
        text = f"{'; '.join(dict.fromkeys(told))}; {run.quote_errors('hold upgrade', HUNG_UP)}"
        yield finding(run, "server_closed", "server", text, first=run.failed_within("hold upgrade", HUNG_UP))


def server_closed_silently(run: Evidence) -> Findings:
    """The server ended open connections or handshakes without a close frame, and no counter of the kernel says why."""
    ended = run.errors("hold upgrade", HUNG_UP)
    if ended and not run.deaths("server") and ended >= ACCOUNTS_FOR * run.errors():
        text = f"{run.quote_errors('hold upgrade', HUNG_UP)}; no close code was given"
        met = [rule for rule in rules_met(run, REFUSES) if rule.met >= ACCOUNTS_FOR * ended]
        first = run.failed_within("hold upgrade", HUNG_UP)
        if met:
            yield finding(run, "firewall", "kernel", f"reset: {text}; {quoted(met)}", first=first)
        else:
            yield finding(run, "server_closed", "server", text, first=first, certainty=Certainty.INFERRED)


def link(run: Evidence) -> Findings:
    """The queue of the link was full while something was missed, or packets were lost on it."""
    name = next((str(sample["link_queue"]) for sample in reversed(run.active) if sample.get("link_queue")), "")
    drops, sent = run.delta("link_drops_total"), run.delta("segments_sent_total")
    lossy = drops > 0 and drops >= run.timeouts and drops >= LOSS_MATTERS * sent
    first = run.rose_within("link_drops_total", "link_overlimits_total")
    text = f"{'; '.join(run.misses[:1])}; {run.quote('retransmits_total')}; {run.quote('syn_retransmits_total')}"
    roundtrips = run.values("link_roundtrip_seconds_min")
    text += f"; least round trip {min(roundtrips) * 1e3:.3g} ms" if roundtrips else ""
    if name and (link_full(run) or lossy):
        queue = f"{name}: {run.quote('link_overlimits_total')}, {run.quote('link_drops_total')}"
        queue += f", backlog up to {max(run.values('link_backlog_bytes'), default=0):,} bytes"
        yield finding(run, "link", "kernel", f"{queue}; {text}", first=first)
    elif not is_local(run) and run.values("swarm_sockets_sampled") and run.timeouts:
        again = run.delta("retransmits_total")
        # Nothing on this host has dropped them, and the server's host acknowledges: they are lost on the way.
        if sent and again >= LOSS_MATTERS * sent and again >= run.timeouts and not others_dropped(run):
            text = f"{again / sent:.1%} of the segments were sent again, and nothing on this host dropped them; {text}"
            yield finding(run, "link", "kernel", text, certainty=Certainty.INFERRED)


def firewall_dropped(run: Evidence) -> Findings:
    """Packets that vanished between swarm and listener: into a rule that counts, or by elimination."""
    connecting = run.errors("connect", "ETIMEDOUT")
    column = "syn_retransmits_total" if connecting or "ramp" in run.missed_in else "retransmits_total"
    again = rose_under_load(run, column)
    lost = connecting or run.errors("echo hold upgrade", "ETIMEDOUT")
    if not lost and again >= OVERFLOWS_MATTER * run.asked:
        lost = int(again)  # Nothing failed: that they were sent again alone cost the rate.
    if not lost or again < ACCOUNTS_FOR * lost or link_full(run):
        return
    rules = rules_met(run, DROPS)
    counted = [rule for rule in rules if rule.met >= ACCOUNTS_FOR * lost]
    silent = [rule for rule in rules if rule.after is None]
    quiet = others_dropped(run) < ACCOUNTS_FOR * again
    # Root sees every rule: without one that could have dropped them, it was no rule.
    possible = bool(silent) or not rules_were_read(run)
    # Data may be sent again because an end is slow. Only what stays under way was lost.
    possible = possible and (column == "syn_retransmits_total" or reached_server(run) is None)
    if not counted and not (quiet and possible and is_local(run) and _accepts(run)):
        return
    failed = run.quote_errors(names="ETIMEDOUT") or run.misses[0]
    kind = "rate-limited" if _limits_rate(run, counted or silent, column) else "dropped"
    text = f"{kind}: {failed}; {run.quote(column)}; {quoted(counted or silent) or _unread(run)}"
    if not counted:
        still = ", ".join(run.quote(name) for name in DROP_COUNTERS if run.values(name) and run.delta(name) <= 0)
        text += f"; by elimination: packets were sent again, nothing waits at the listener, and {still}"
    first = run.rose_within(column)
    yield finding(run, "firewall", "kernel", text, first=first, certainty=_certainty(counted, lost))


def _limits_rate(run: Evidence, rules: list[RuleMet], column: str) -> bool:
    """Return whether the rules limit a rate; where none is known, whether connections opened long after the first loss.

    A rule that drops all from a count on lets none pass any more.
    """
    if rules:
        return any(rule.limits and "rate" in rule.text for rule in rules)
    number = run.rose_at(column)
    opened = [sample.get("swarm_connections_opened") or 0 for sample in run.active[number:]]
    return column == "syn_retransmits_total" and bool(opened) and max(opened) > opened[0]


def _accepts(run: Evidence) -> bool:
    """Return whether the server had accepted all that reached its listener, and was not stopped."""
    last = run.loaded[-1] if run.loaded else {}
    return not (last.get("server_accept_queue") or last.get("server_processes_stopped"))


def _certainty(rules: list[RuleMet], failed: int) -> Certainty:
    """Return how certain rules whose counters rose are the cause of so many failures."""
    met = sum(rule.met for rule in rules)
    if met >= failed:
        return Certainty.PROVED
    return Certainty.COUNTED if met >= ACCOUNTS_FOR * failed else Certainty.INFERRED


def _unread(run: Evidence) -> str:
    return "no rule that is read does it" if rules_were_read(run) else "the rules of the firewall are for root to read"
