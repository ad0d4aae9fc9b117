"""The rules of the diagnosis: each yields the findings that it can prove from a run that missed something.

1. First come the rules whose evidence identifies one limit: an errno, an event, or a counter of exactly this limit.
2. Then rules that compare: counters that also rise as a consequence, then CPU time, and last what could be ruled out.
3. A rule says when its evidence first appeared, so that what bound first can be named first.
4. A counter that moved by less than what was missed explains a part of it; the rest is inferred, and so is the finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wslab.core.ceilings import remedy as remedy_for
from wslab.core.evidence import Evidence
from wslab.core.knee import most_rate
from wslab.core.path import reached_server
from wslab.core.plan import ports_in_range, ports_per_address
from wslab.core.quantities import counted, format_bytes
from wslab.core.records import Certainty, Finding, Span
from wslab.core.saturation import (
    ENDS,
    cpu_pressure,
    generator_limited,
    machine_busy,
    others_filled,
    packets_filled,
    pairs_of,
    server_busy,
    server_idle,
    throttled,
)
from wslab.core.servers import SERVER_KINDS
from wslab.core.settings import CONNTRACK_CHAIN, Need, fds

Findings = Iterator[Finding]

SIGKILL = 9
# With more headroom than this share of its memory left, the machine did not run out; a control group did.
MACHINE_SHORT = 0.05
# A shard that has this share of its descriptors in use has reached its own limit.
SHARD_FULL = 0.97
# A few overflows are normal in a fast ramp; they explain a miss only from this share of the connections on.
OVERFLOWS_MATTER = 0.01
FANS_OUT = "a server that sends each message of a connection to all others"
# After so many samples in a row without progress the server is silent, and not only slow.
SILENT_SAMPLES = 3

SYN_QUEUE_FULL = ("syn_cookies_total", "syn_drops_total")

# Counters that rise when a limit of the kernel binds: quoted by rules that conclude from their not rising.
QUIET = ("listen_overflows_total", "conntrack_drops_total", "softnet_drops_total", "tcp_aborts_on_memory_total")
ALSO_RULED_OUT = (
    *("syn_drops_total", "oom_kills_total", "tcp_memory_pressures_total", "conntrack_chains_too_long_total"),
    *("link_drops_total", "link_overlimits_total"),
)


def finding(
    run: Evidence,
    limit: str,
    side: str,
    evidence: str,
    *,
    first: Span | None = None,
    remedy: str = "",
    at: float | None = None,
    certainty: Certainty | None = None,
) -> Finding:
    """Build a finding; its remedy is what preflight says about this limit, with the command for this stage.

    Args:
        run: what was recorded.
        limit: name of the limit.
        side: the side that it is on.
        evidence: what proves it.
        first: when the evidence first appeared.
        remedy: what lifts it, where that is not what the table of limits says.
        at: connections at which it bound; those that were reached unless given.
        certainty: how it is known; what the rule's row says unless given.
    """
    need = Need(
        host=run.host,
        plan=run.plan,
        message_bytes=int(run.stage.get("message_bytes") or 32),
        message_rate=most_rate(run.stage.get("message_rate")),
    )
    return Finding(
        limit=limit,
        side=side,
        at_connections=int(run.reached if at is None else at),
        evidence=evidence,
        remedy=remedy or remedy_for(need, limit, side),
        first_seconds=first,
        certainty=certainty,
    )


def _counted(run: Evidence, moved: float) -> Certainty:
    """Return how far a counter that rose by `moved` accounts for the attempts, messages or connections that failed."""
    failed = run.timeouts or run.asked - run.opened
    return Certainty.COUNTED if 0 < failed <= moved else Certainty.INFERRED


def _event_at(event: Mapping[str, Any]) -> Span | None:
    at = event.get("elapsed_seconds")
    return None if at is None else (float(at), float(at))


# Rules whose evidence identifies one limit


def file_max(run: Evidence) -> Findings:
    """ENFILE: the system has no open file left."""
    if run.errors(names="ENFILE"):
        most = run.host.file_max
        text = f"{run.quote_errors(names='ENFILE')}; {run.quote('file_handles')} of fs.file-max {most:,}"
        first = run.failed_within(names="ENFILE")
        yield finding(run, "file_max", "kernel", text if most else run.quote_errors(names="ENFILE"), first=first)


def descriptors(run: Evidence) -> Findings:
    """EMFILE in the swarm, or shards that stopped accepting: fd_limit, or nr_open where the fd limit equals it."""
    yield from server_descriptors(run)
    hard, most = run.host.fd_hard, run.host.nr_open
    limit = "nr_open" if most is not None and (hard is None or hard < 0 or hard >= most) else "fd_limit"
    bound = f"fs.nr_open {most:,}" if limit == "nr_open" else f"RLIMIT_NOFILE {hard or 0:,}"
    own = run.host.server_fd_limit is None
    full = [sample for sample in run.active if own and sample.get("server_shards_at_limit")]
    shards = max((int(sample["server_shards_at_limit"]) for sample in full), default=0)
    # While one shard has room, it accepts what the full ones do not, so that their limit does not bind.
    bound_here = shards >= run.plan.server_shards - len(run.deaths("server"))
    fds = run.values("server_fds_max")
    # A shard stops accepting as well when the whole system has no open file left; its own limit is then far.
    own = not run.errors(names="ENFILE") or max(fds, default=0) >= SHARD_FULL * (hard or most or 0) > 0
    if full and bound_here and own:
        text = f"shards without a free descriptor 0 → {shards} of {run.plan.server_shards}"
        text += f"; fds of the fullest shard {fds[0]:,} → {max(fds):,}" if fds else ""
        first = run.became_within("server_shards_at_limit", shards)
        text = f"{text}; {bound} a process"
        yield finding(run, limit, "server", text, first=first, certainty=Certainty.COUNTED)
    if run.errors(names="EMFILE"):
        text = f"{run.quote_errors(names='EMFILE')}; {bound} a process, {counted(run.plan.swarm_workers, 'worker')}"
        yield finding(run, limit, "swarm", text, first=run.failed_within(names="EMFILE"))


def server_descriptors(run: Evidence) -> Findings:
    """A server that is not ours has a process whose descriptors are used up, as seen from outside."""
    full = run.named("process_full")
    if not full or run.errors(names="ENFILE"):
        return
    limit = int(full[0]["limit"])
    name = "nr_open" if limit >= (run.host.nr_open or limit + 1) else "fd_limit"
    shown = ", ".join(f"pid {event['pid']} {event['fds']:,} of {event['limit']:,}" for event in full[:3])
    more = f" and {len(full) - 3:,} more" if len(full) > 3 else ""
    text = f"open descriptors of server processes at their limit: {shown}{more}; {run.quote('server_fds')}"
    failed = run.quote_errors("connect upgrade")
    text += f"; {failed}" if failed else f"; {run.misses[0]}"
    text += f"; {run.quote('listen_overflows_total')}" if run.delta("listen_overflows_total") > 0 else ""
    wanted = fds(-(-run.asked // max(1, run.host.server_processes or 1)), run.host)
    remedy = f"a higher limit where the server is started: ulimit -n {wanted}; or more processes of the server"
    at = max(run.reached, 0)
    yield finding(run, name, "server", text, first=_event_at(full[0]), remedy=remedy, at=at)


def server_failed(run: Evidence) -> Findings:
    """A server that could not be tested: it ended, did not listen, or gave a wrong answer before it was ready."""
    for event in run.named("server_failed")[:1]:
        said = f"; its last lines: {event['last_lines']}" if event.get("last_lines") else ""
        pid = f" (pid {event['pid']})" if event.get("pid") else ""
        yield finding(
            run,
            str(event["limit"]),
            "server",
            f"{event['message']}{pid}{said}",
            remedy="read logs/server.log of this run, and start the command by hand",
            first=_event_at(event),
        )


def ports(run: Evidence) -> Findings:
    """EADDRNOTAVAIL at connect: no port left, as addresses are too few or closed connections keep their ports."""
    if not run.errors("connect", "EADDRNOTAVAIL"):
        return
    addresses = len(run.plan.source_addresses)
    each = ports_per_address(run.host, run.plan.listener_ports) * run.plan.destinations
    errors, first = run.quote_errors("connect", "EADDRNOTAVAIL"), run.failed_within("connect", "EADDRNOTAVAIL")
    space = f"{each:,} ports{_towards(run)} × {counted(addresses, 'source address', 'es')} = {each * addresses:,}"
    space += _passed_over(run)
    waiting = run.when_ramp_began("tcp_time_wait")
    if run.asked <= each * addresses < run.asked + waiting:
        text = f"{errors}; {waiting:,} connections in TIME_WAIT (sockstat tw) when the ramp began; {space}"
        yield finding(run, "time_wait", "kernel", text, first=first, certainty=Certainty.COUNTED)
    else:
        text = f"{errors}; {space} for {run.asked:,} connections"
        yield finding(run, "ephemeral_ports", "swarm", text, first=first)


def _towards(run: Evidence) -> str:
    return f" towards {run.plan.destinations} addresses" if run.plan.destinations > 1 else ""


def _passed_over(run: Evidence) -> str:
    """Say which ports of the range connect does not choose; empty where it may choose all."""
    counts = {
        "reserved": run.host.ports_reserved,
        "bound by others": run.host.ports_taken,
        "the server's own": run.plan.listener_ports,
    }
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f" (of {ports_in_range(run.host):,}, without {told})" if told else ""


def bind_ports(run: Evidence) -> Findings:
    """EADDRINUSE in the swarm: bind took a port at once instead of leaving it to connect."""
    if run.errors("connect", "EADDRINUSE"):
        each = ports_per_address(run.host, run.plan.listener_ports)
        text = f"bind: {run.quote_errors('connect', 'EADDRINUSE')}; {each:,} ports an address"
        yield finding(run, "bind_ports", "swarm", text, first=run.failed_within("connect", "EADDRINUSE"))


def conntrack(run: Evidence) -> Findings:
    """Dropped packets, or a table at its maximum while attempts time out."""
    counts, most = run.values("conntrack_count"), max(run.values("conntrack_max"), default=0)
    full = bool(counts) and most > 0 and max(counts) >= most
    if run.delta("conntrack_drops_total") > 0 or (full and run.timeouts):
        text = f"{run.quote('conntrack_drops_total')}"
        if counts:
            text += f"; nf_conntrack_count {counts[0]:,} → {max(counts):,} of {most:,}"
        text += f"; {run.quote_errors(names='ETIMEDOUT')}" if run.timeouts else ""
        first = run.rose_within("conntrack_drops_total") or run.became_within("conntrack_count", most)
        # A full table alone is half of a proof; what it dropped is counted here and nowhere else.
        drops = run.delta("conntrack_drops_total")
        certainty = Certainty.COUNTED if full and drops > 0 else _counted(run, drops)
        yield finding(run, "conntrack", "kernel", text, first=first, certainty=certainty)


def conntrack_chains(run: Evidence) -> Findings:
    """Packets dropped because the bucket of their connection was too full, so that attempts failed."""
    if run.delta("conntrack_chains_too_long_total") > 0 and (run.timeouts or run.opened < run.asked):
        buckets = run.host.conntrack_buckets
        text = f"{run.quote('conntrack_chains_too_long_total')}; {run.quote('conntrack_count')}"
        text += f" in {buckets:,} buckets" if buckets else ""
        text += f"; {run.quote_errors(names='ETIMEDOUT')}" if run.timeouts else ""
        first = run.rose_within("conntrack_chains_too_long_total")
        certainty = _counted(run, run.delta("conntrack_chains_too_long_total"))
        yield finding(run, "conntrack_buckets", "kernel", text, first=first, certainty=certainty)


def epoll_watches(run: Evidence) -> Findings:
    """ENOSPC from epoll_ctl."""
    if run.errors(names="ENOSPC"):
        most = run.host.epoll_watches_max
        text = (
            f"epoll_ctl: {run.quote_errors(names='ENOSPC')}; {2 * run.opened:,} watches for {run.opened:,} connections"
        )
        text += f", fs.epoll.max_user_watches {most:,}" if most else ""
        yield finding(run, "epoll_watches", "kernel", text, first=run.failed_within(names="ENOSPC"))


def memory_reserve(run: Evidence) -> Findings:
    """The supervisor stopped the load at one of the bounds that the stage sets itself."""
    for event in run.named("memory_reserve_reached")[:1]:
        left, reserve = format_bytes(event["headroom_bytes"]), format_bytes(event["reserve_bytes"])
        text = f"memory_reserve_reached: {left} left, reserve {reserve}; {run.quote('memory_headroom_bytes')}"
        text += _server_growth(run)
        at = event.get("connections_open")
        yield finding(run, "memory_reserve", "machine", text, at=at, first=_event_at(event))
    for event in run.named("memory_cap_reached")[:1]:
        used, cap = format_bytes(event["used_bytes"]), format_bytes(event["cap_bytes"])
        text = f"memory_cap_reached: {used} used, memory_cap {cap}; {run.quote('memory_headroom_bytes')}"
        text += _server_growth(run)
        remedy = "a larger memory_cap, or none"
        at = event.get("connections_open")
        yield finding(run, "memory_reserve", "machine", text, remedy=remedy, at=at, first=_event_at(event))


def out_of_memory(run: Evidence) -> Findings:
    """A process killed by signal 9 while oom_kill rose: the machine's memory ran out, or that of a control group."""
    killed = [event for event in run.deaths("server") + run.deaths("swarm") if _was_killed(event)]
    if not killed or run.delta("oom_kills_total") <= 0:
        return
    total = run.host.memory_total_bytes or 0
    least = min(run.values("memory_headroom_bytes"), default=0)
    limit = "memory_cgroup" if least > MACHINE_SHORT * total else "memory_machine"
    text = f"{_killed(killed)}; {run.quote('oom_kills_total')}; least memory headroom {format_bytes(least)}"
    bound = run.host.memory_cgroup_limit_bytes
    text += f", control group limit {format_bytes(bound)}" if bound and limit == "memory_cgroup" else ""
    text += _server_growth(run) + _memory_pressure(run)
    # The counter is that of the whole machine, so that it takes as many kills as processes that were lost.
    certainty = Certainty.COUNTED if run.delta("oom_kills_total") >= len(killed) else Certainty.INFERRED
    yield finding(run, limit, "machine", text, first=_event_at(killed[0]), certainty=certainty)


def _was_killed(event: Mapping[str, Any]) -> bool:
    """Return whether a process ended by SIGKILL, or says as shells do that the one it started did."""
    return event.get("signal") == SIGKILL or event.get("exit_code") == 128 + SIGKILL


def _server_growth(run: Evidence) -> str:
    """Quote how a server that is not ours grew with its connections; empty for one of ours, and without samples."""
    read = [sample for sample in run.active if sample.get("server_rss_bytes") and sample.get("server_processes")]
    if run.host.server_fd_limit is None or not read:
        return ""
    first, last = read[0], max(read, key=lambda sample: sample.get("swarm_connections_open") or 0)
    count = (last.get("swarm_connections_open") or 0) - (first.get("swarm_connections_open") or 0)
    grown = last["server_rss_bytes"] - first["server_rss_bytes"]
    text = f"; server processes {format_bytes(first['server_rss_bytes'])} → {format_bytes(last['server_rss_bytes'])}"
    return f"{text}, {format_bytes(grown / count)} a connection" if count > 0 and grown > 0 else text


def _memory_pressure(run: Evidence) -> str:
    """Quote how long something waited for memory; empty where that was not recorded or did not happen."""
    return f"; {run.quote('psi_memory_some_seconds')} s" if run.delta("psi_memory_some_seconds") > 0 else ""


def process_limit(run: Evidence) -> Findings:
    """Fork failed with EAGAIN, so that a shard or worker is missing."""
    for event in run.named("error"):
        message = str(event.get("message", ""))
        if "EAGAIN" in message or "Resource temporarily unavailable" in message:
            bounds = {
                name: getattr(run.host, name) for name in ("pid_max", "threads_max", "pids_cgroup_max", "nproc_soft")
            }
            known = ", ".join(f"{name} {value:,}" for name, value in bounds.items() if value is not None)
            text = f"fork: {message}" + (f"; {known}" if known else "")
            yield finding(run, "process_limit", "machine", text, first=_event_at(event))
            return


def server_protocol(run: Evidence) -> Findings:
    """The server gave a wrong answer, or echoed messages again."""
    wrong = run.quote_errors("upgrade", "EPROTO"), run.quote_errors("echo hold", "EBADMSG EPROTO")
    again = run.repeated if run.spoiled("messages_repeated") else 0
    for short in run.broadcasts_short[:1]:
        text = f"broadcast: {short['received']:,} of {short['connections']:,} connections have it after 15 s"
        yield finding(run, "server_protocol", "server", text, remedy=FANS_OUT, first=_event_at(short))
    if any(wrong) or again:
        details = [str(event["detail"]) for event in run.named("failure") if event.get("detail")]
        text = "; ".join([part for part in wrong if part] + details[:1])
        if again:
            extra = f"messages_unasked {again:,} for {run.counted('messages_sent'):,} messages sent"
            text = f"{text}; {extra}" if text else extra
        remedy = "a server that completes the upgrade and echoes each message once and unchanged"
        first = run.failed_within("upgrade echo hold", "EPROTO EBADMSG") if any(wrong) else None
        yield finding(run, "server_protocol", "server", text, remedy=remedy, first=first)


def host_lost(run: Evidence) -> Findings:
    """A host of a run over several was lost: its supervisor, its Dask worker, or the way to it."""
    for event in run.named("host_lost"):
        text = f"host {event['host']} is lost: {event['why']}; it held {event['host_connections_open']:,} connections"
        remedy = "look on that host why its Dask worker, or the network to it, went away"
        at, first = event.get("connections_open"), _event_at(event)
        yield finding(run, "host_lost", str(event["role"]), text, remedy=remedy, first=first, at=at)


def died(run: Evidence) -> Findings:
    """A process ended unexpectedly, and not because memory or processes ran out."""
    if next(out_of_memory(run), None) or next(process_limit(run), None):
        return
    for role, limit in (("server", "server_died"), ("swarm", "generator")):
        if deaths := run.deaths(role):
            text = f"{_killed(deaths)}; {run.quote('oom_kills_total')}"
            text += "".join(f"; error: {event.get('message', '')}" for event in run.named("error")[:1])
            text += f"; its last lines: {deaths[0]['last_lines']}" if deaths[0].get("last_lines") else ""
            remedy = f"read logs/{role}.log of this run: the process itself failed"
            yield finding(run, limit, role, text, remedy=remedy, first=_event_at(deaths[0]))


def _killed(deaths: list[Mapping[str, Any]]) -> str:
    first = deaths[0]
    how = f"signal {first['signal']}" if first.get("signal") else f"exit code {first.get('exit_code')}"
    more = f", and {len(deaths) - 1:,} more" if len(deaths) > 1 else ""
    return f"process_exited: {first.get('role')} pid {first.get('pid')} by {how}{more}"


# Rules that compare


def accept_queue(run: Evidence) -> Findings:
    """Connections refused because the accept queue was full, although the server accepts."""
    if _matters(run, run.delta("listen_overflows_total")) and not _stalled(run) and not _syns_first(run):
        text = f"{run.quote('listen_overflows_total')}; {run.quote('listen_drops_total')}"
        somaxconn = run.host.somaxconn
        text += f"; somaxconn {somaxconn:,}" if somaxconn else ""
        first = run.rose_within("listen_overflows_total")
        certainty = _counted(run, run.delta("listen_overflows_total"))
        yield finding(run, "accept_queue", "server", text + _timeouts(run), first=first, certainty=certainty)


def syn_queue(run: Evidence) -> Findings:
    """SYNs answered by cookies or dropped, because too many connections were half open."""
    if _matters(run, sum(map(run.delta, SYN_QUEUE_FULL))) and _syns_first(run):
        text = f"{run.quote('syn_cookies_total')}; {run.quote('syn_drops_total')}"
        first = run.rose_within(*SYN_QUEUE_FULL)
        certainty = _counted(run, sum(map(run.delta, SYN_QUEUE_FULL)))
        yield finding(run, "syn_queue", "kernel", text + _timeouts(run), first=first, certainty=certainty)


def tcp_memory(run: Evidence) -> Findings:
    """TCP had no memory left for socket buffers.

    Without a connection that was aborted for it, pressure may only be a consequence: what an end without CPU does not
    read stays in buffers. It is the cause where there was CPU left until it rose: from then on windows are cut, and
    what is sent again takes CPU.
    """
    aborted, pressed = run.delta("tcp_aborts_on_memory_total") > 0, run.rose_at("tcp_memory_pressures_total")
    if aborted or (pressed is not None and not _cpu_short_before(run, pressed)):
        pages, size = run.host.tcp_mem_pages_high, run.host.page_bytes or 4096
        text = f"{run.quote('tcp_memory_pressures_total')}; {run.quote('tcp_aborts_on_memory_total')}"
        text += f"; at most {max(run.values('tcp_memory_bytes'), default=0):,} bytes in socket buffers"
        text += f", tcp_mem {pages * size:,} bytes" if pages else ""
        first = run.rose_within("tcp_aborts_on_memory_total", "tcp_memory_pressures_total")
        certainty = _counted(run, run.delta("tcp_aborts_on_memory_total"))
        yield finding(run, "tcp_mem", "kernel", text, first=first, certainty=certainty)


def _cpu_short_before(run: Evidence, number: int) -> bool:
    """Return whether an end or the machine had no CPU left where something was missed, until a sample at the latest.

    Where that sample is the first one there, what came after it has to tell.
    """
    before = run.active[:number]
    known = before if any(pairs_of(before, phase) for phase in run.missed_in) else run.active
    return any(busy(known, run.missed_in) for busy in (generator_limited, server_busy, machine_busy))


def device_backlog(run: Evidence) -> Findings:
    """Packets dropped before TCP saw them.

    An attempt times out only after several of its packets were lost, so fewer drops than timeouts explain nothing.
    Without timeouts, drops explain a missed rate only if neither the server nor the machine was short of CPU.
    """
    drops = run.delta("softnet_drops_total")
    busy = server_busy(run.active, run.missed_in) or machine_busy(run.active, run.missed_in)
    if drops > 0 and (drops >= run.timeouts if run.timeouts else not busy):
        text = f"{run.quote('softnet_drops_total')}; {run.quote('retransmits_total')}"
        first = run.rose_within("softnet_drops_total")
        certainty = _counted(run, drops)
        yield finding(run, "device_backlog", "kernel", text + _timeouts(run), first=first, certainty=certainty)


def conntrack_buckets(run: Evidence) -> Findings:
    """Long hash chains while the ramp missed its rate."""
    buckets, counts = run.host.conntrack_buckets, run.values("conntrack_count")
    if buckets and counts and max(counts) > CONNTRACK_CHAIN * buckets and run.delta("conntrack_count") > 0:
        text = f"{run.quote('conntrack_count')} in {buckets:,} buckets, {max(counts) / buckets:.1f} entries each"
        yield finding(run, "conntrack_buckets", "kernel", text, certainty=Certainty.INFERRED)


def server_silent(run: Evidence) -> Findings:
    """The server is idle, and does not answer or accept what has reached it.

    What reached it is seen in its sockets; where that was recorded and shows nothing, the load was lost on the way.
    """
    reached = reached_server(run)
    if reached is None or run.too_few:
        return
    talked = [phase.name for phase in run.phases if phase.name in ("hold", "verify")][-1:]
    idle = any(server_idle(run.active, phase) for phase in talked)
    waiting = idle and run.errors("echo hold", "ETIMEDOUT") and not _loud(run)
    if waiting or _stalled(run):
        text = run.quote_errors(names="ETIMEDOUT") or run.misses[0]
        shares = [sample.get("server_cpu_fraction_max") or 0.0 for sample in run.loaded]
        text += f"; busiest server process at {shares[-1]:.0%} of a core, "
        text += run.quote("server_connections_opened" if run.host.server_fd_limit is None else "server_fds")
        text += f"; {reached}" if reached else ""
        remedy = "look at the server itself: it is stopped, blocked, or never answers"
        certainty = Certainty.COUNTED if reached else Certainty.INFERRED
        yield finding(run, "server_silent", "server", f"{text}; {_quiet(run)}", remedy=remedy, certainty=certainty)


def generator(run: Evidence) -> Findings:
    """The swarm was busy or late while the server had time to spare."""
    if generator_limited(run.active, run.missed_in) and not _loud(run) and not run.too_few:
        text = f"{run.misses[0]}; {_busy(run)}; {_quiet(run)}"
        yield finding(run, "generator", "swarm", text, remedy=_quota_remedy(run, _waiting(run, "swarm")))


def server_cpu(run: Evidence) -> Findings:
    """The server was busy while the swarm had time to spare."""
    if server_busy(run.active, run.missed_in) and not run.too_few:
        text = f"{run.misses[0]}; {_busy(run)}{_keepalive(run)}; {_quiet(run)}"
        yield finding(run, "server_cpu", "server", text, remedy=_quota_remedy(run, _waiting(run, "server")))


def machine_cpu(run: Evidence) -> Findings:
    """The machine had no idle CPU, or one end had used up its CPU quota while the other was busy as well."""
    if machine_busy(run.active, run.missed_in) and not run.too_few:
        waiting = _waiting(run, *ENDS)
        why = f"{' and '.join(waiting)} wait for a CPU quota, and both ends are busy" if waiting else "no idle CPU"
        why += ", a large part of it taken by other processes" if others_filled(run.active, run.missed_in) else ""
        why += ", most of it taken by the handling of packets" if packets_filled(run.active, run.missed_in) else ""
        text = f"{run.misses[0]}; {why}; {_busy(run)}{_keepalive(run)}; {_quiet(run)}"
        yield finding(run, "machine_cpu", "machine", text, remedy=_quota_remedy(run, waiting))


def _keepalive(run: Evidence) -> str:
    """Return what the server's own pings come to, where it sends any."""
    kind = SERVER_KINDS.get(str(run.stage.get("server")))
    if kind is None or not kind.keepalive_seconds:
        return ""
    each = run.opened / kind.keepalive_seconds
    return f", the server's keepalive is {each:,.0f} pings/s, one a connection every {kind.keepalive_seconds:g} s"


def unknown(run: Evidence) -> Findings:
    """Say what was missed, what failed, and what can be ruled out."""
    parts = [*run.misses, run.quote_errors() or "no failures were counted"]
    parts += ["too few to tell their cause by"] if run.too_few else []
    parts += [f"error: {event.get('message', '')}" for event in run.named("error")[:1]]
    counters = [name for name in (*QUIET, *ALSO_RULED_OUT) if run.values(name) and run.delta(name) <= 0]
    ruled_out = ", ".join([*map(run.quote, counters), _busy(run)])
    remedy = "read the logs of this run; none of the known limits explains it"
    yield finding(run, "unknown", "machine", f"{'; '.join(parts)}; ruled out: {ruled_out}", remedy=remedy)


def _syns_first(run: Evidence) -> bool:
    """Return whether the SYN queue was full before the accept queue was.

    Each can fill the other: connections that cannot be accepted stay half open, and half-open ones complete together.
    """
    syns, overflows = run.rose_at(*SYN_QUEUE_FULL), run.rose_at("listen_overflows_total")
    return syns is not None and (overflows is None or syns < overflows)


def _matters(run: Evidence, count: float) -> bool:
    return count > 0 and (run.timeouts > 0 or count >= OVERFLOWS_MATTER * run.asked)


def _stalled(run: Evidence) -> bool:
    """Return whether the server opened nothing more and used no CPU while connections waited, until the end.

    A queue that overflows drains again within a second when the server accepts; a server that is stopped never does.
    """
    tail = [sample for sample in run.active if sample.get("phase") == "ramp"][-SILENT_SAMPLES:]
    # Of a server that is not ours only its descriptors are known.
    counts = "server_connections_opened" if run.host.server_fd_limit is None else "server_fds"
    opened = {sample.get(counts) for sample in tail}
    return (
        len(tail) == SILENT_SAMPLES
        and run.timeouts > 0
        and len(opened) == 1
        and None not in opened
        and all(sample.get("swarm_connections_pending") for sample in tail[:-1])
        and server_idle(tail, "ramp")
    )


def _loud(run: Evidence) -> bool:
    return any(_matters(run, run.delta(name)) for name in QUIET)


def _quiet(run: Evidence) -> str:
    return ", ".join(run.quote(name) for name in QUIET if run.values(name)) or "no kernel counters read"


def _timeouts(run: Evidence) -> str:
    return f"; {run.quote_errors(names='ETIMEDOUT')}" if run.timeouts else f"; {run.misses[0]}"


def _peak(run: Evidence, side: str) -> str:
    shares = run.values(f"{side}_cpu_fraction_max")
    return f"at most {max(shares):.0%} of a core" if shares else "not measured"


def _busy(run: Evidence) -> str:
    lag = run.values("swarm_lag_seconds_max")
    text = f"busiest swarm process {_peak(run, 'swarm')}, busiest server process {_peak(run, 'server')}"
    text += "".join(_waits(run, side) for side in ENDS)
    pressure = cpu_pressure(run.active, run.missed_in)
    text += "" if pressure is None else f", something waited for a CPU {pressure:.0%} of the time (pressure/cpu some)"
    return text + (f", largest swarm lag {max(lag):.3f} s" if lag else "")


def _waits(run: Evidence, side: str) -> str:
    """Quote how long an end waited for its CPU quota; empty without one."""
    shares = [sample.get(f"{side}_cpu_throttled_fraction") for sample in run.loaded]
    quotas, known = run.values(f"{side}_cpu_quota_fraction"), [share for share in shares if share is not None]
    if not quotas or not known:
        return ""
    text = f", {side} throttled in up to {max(known):.0%} of the periods of its CPU quota of {quotas[-1]:g}"
    return f"{text} ({run.quote(f'{side}_cpu_throttled_total')})"


def _waiting(run: Evidence, *sides: str) -> list[str]:
    """Return those of these ends that waited for their CPU quota where something was missed."""
    return [side for side in sides if throttled(run.active, side, run.missed_in)]


def _quota_remedy(run: Evidence, sides: list[str]) -> str:
    """Return what lifts the CPU quotas that these ends waited for; empty when none did."""
    if not sides:
        return ""
    bounds = " and ".join(f"{run.values(f'{side}_cpu_quota_fraction')[-1]:g} for the {side}" for side in sides)
    return f"a larger CPU quota of the control group, now {bounds}: cpu.max, cpu.cfs_quota_us, docker run --cpus"
