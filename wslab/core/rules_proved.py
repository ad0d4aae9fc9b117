"""Rules with a proof that can mean nothing else: an errno, an event, or a counter of exactly this limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wslab.core.evidence import Evidence
from wslab.core.limits import ONE_PROCESS, ceilings
from wslab.core.plan import ports_per_address
from wslab.core.quantities import counted, format_bytes
from wslab.core.records import Finding

Findings = Iterator[Finding]

SIGKILL = 9
# With more headroom than this share of its memory left, the machine did not run out; a control group did.
MACHINE_SHORT = 0.05


def finding(
    run: Evidence, limit: str, side: str, evidence: str, *, remedy: str = "", at: float | None = None
) -> Finding:
    """Build a finding; its remedy is what preflight says of this limit, with the command for this stage."""
    return Finding(
        limit=limit,
        side=side,
        at_connections=int(run.reached if at is None else at),
        evidence=evidence,
        remedy=remedy or _lift(run, limit, side),
    )


def _lift(run: Evidence, limit: str, side: str) -> str:
    rows = [row for row in ceilings(run.limits, run.layout) if row.limit == limit]
    # The row of the same side as planned tells best; the one of a single process is the last resort.
    rows.sort(key=lambda row: (row.scope == ONE_PROCESS, row.side != side))
    return ": ".join([rows[0].lift, *rows[0].commands[:1]]) if rows else ""


def file_max(run: Evidence) -> Findings:
    """ENFILE: the system has no open file left."""
    if run.errors(names="ENFILE"):
        most = run.limits.get("file_max")
        text = f"{run.quote_errors(names='ENFILE')}; {run.quote('file_handles')} of fs.file-max {most:,}"
        yield finding(run, "file_max", "kernel", text if most else run.quote_errors(names="ENFILE"))


def descriptors(run: Evidence) -> Findings:
    """EMFILE in the swarm, or shards that stopped to accept: fd limit, or nr_open where the limit stands at it."""
    hard, most = run.limits.get("fd_hard"), run.limits.get("nr_open")
    limit = "nr_open" if most is not None and (hard is None or hard < 0 or hard >= most) else "fd_limit"
    bound = f"fs.nr_open {most:,}" if limit == "nr_open" else f"RLIMIT_NOFILE {hard or 0:,}"
    full = [sample for sample in run.active if sample.get("server_shards_at_limit")]
    shards = max((int(sample["server_shards_at_limit"]) for sample in full), default=0)
    # While one shard has room, it takes what the full ones leave: they are full by chance, and bind nothing.
    bound_here = shards >= run.layout.shards - len(run.deaths("server"))
    if full and bound_here and not run.errors(names="ENFILE"):
        fds = run.values("server_fds_max")
        text = f"shards without a free descriptor 0 → {shards} of {run.layout.shards}"
        text += f"; fds of the fullest shard {fds[0]:,} → {max(fds):,}" if fds else ""
        yield finding(run, limit, "server", f"{text}; {bound} a process")
    if run.errors(names="EMFILE"):
        text = f"{run.quote_errors(names='EMFILE')}; {bound} a process, {counted(run.layout.workers, 'worker')}"
        yield finding(run, limit, "swarm", text)


def ports(run: Evidence) -> Findings:
    """EADDRNOTAVAIL at connect: no port left, for want of addresses or because closed connections keep theirs."""
    if not run.errors("connect", "EADDRNOTAVAIL"):
        return
    addresses = len(run.layout.source_addresses)
    each = ports_per_address(run.limits) * run.layout.destinations
    errors = run.quote_errors("connect", "EADDRNOTAVAIL")
    space = f"{each:,} ports{_towards(run)} × {counted(addresses, 'source address', 'es')} = {each * addresses:,}"
    waiting = run.when_ramp_began("tcp_time_wait")
    if run.asked <= each * addresses < run.asked + waiting:
        text = f"{errors}; {waiting:,} connections in TIME_WAIT (sockstat tw) when the ramp began; {space}"
        yield finding(run, "time_wait", "kernel", text)
    else:
        yield finding(run, "ephemeral_ports", "swarm", f"{errors}; {space} for {run.asked:,} connections")


def _towards(run: Evidence) -> str:
    return f" towards {run.layout.destinations} addresses" if run.layout.destinations > 1 else ""


def bind_ports(run: Evidence) -> Findings:
    """EADDRINUSE in the swarm: bind took a port at once instead of leaving it to connect."""
    if run.errors("connect", "EADDRINUSE"):
        text = f"bind: {run.quote_errors('connect', 'EADDRINUSE')}; {ports_per_address(run.limits):,} ports an address"
        yield finding(run, "bind_ports", "swarm", text)


def conntrack(run: Evidence) -> Findings:
    """Dropped packets, or a table at its maximum while attempts time out."""
    counts, most = run.values("conntrack_count"), max(run.values("conntrack_max"), default=0)
    full = bool(counts) and most > 0 and max(counts) >= most
    if run.delta("conntrack_drops_total") > 0 or (full and run.timeouts):
        text = f"{run.quote('conntrack_drops_total')}"
        if counts:
            text += f"; nf_conntrack_count {counts[0]:,} → {max(counts):,} of {most:,}"
        text += f"; {run.quote_errors(names='ETIMEDOUT')}" if run.timeouts else ""
        yield finding(run, "conntrack", "kernel", text)


def conntrack_chains(run: Evidence) -> Findings:
    """Packets dropped because the bucket of their connection was too full, so that attempts failed."""
    if run.delta("conntrack_chains_too_long_total") > 0 and (run.timeouts or run.opened < run.asked):
        buckets = run.limits.get("conntrack_buckets")
        text = f"{run.quote('conntrack_chains_too_long_total')}; {run.quote('conntrack_count')}"
        text += f" in {buckets:,} buckets" if buckets else ""
        text += f"; {run.quote_errors(names='ETIMEDOUT')}" if run.timeouts else ""
        yield finding(run, "conntrack_buckets", "kernel", text)


def epoll_watches(run: Evidence) -> Findings:
    """ENOSPC from epoll_ctl."""
    if run.errors(names="ENOSPC"):
        most = run.limits.get("epoll_watches_max")
        text = (
            f"epoll_ctl: {run.quote_errors(names='ENOSPC')}; {2 * run.opened:,} watches for {run.opened:,} connections"
        )
        text += f", fs.epoll.max_user_watches {most:,}" if most else ""
        yield finding(run, "epoll_watches", "kernel", text)


def memory_reserve(run: Evidence) -> Findings:
    """The supervisor stopped the load at one of the bounds that the stage sets itself."""
    for event in run.named("memory_reserve_reached")[:1]:
        left, reserve = format_bytes(event["headroom_bytes"]), format_bytes(event["reserve_bytes"])
        text = f"memory_reserve_reached: {left} left, reserve {reserve}; {run.quote('memory_headroom_bytes')}"
        yield finding(run, "memory_reserve", "machine", text, at=event.get("connections_open"))
    for event in run.named("memory_cap_reached")[:1]:
        used, cap = format_bytes(event["used_bytes"]), format_bytes(event["cap_bytes"])
        text = f"memory_cap_reached: {used} used, memory_cap {cap}; {run.quote('memory_headroom_bytes')}"
        remedy = "a larger memory_cap, or none"
        yield finding(run, "memory_reserve", "machine", text, remedy=remedy, at=event.get("connections_open"))


def out_of_memory(run: Evidence) -> Findings:
    """A process killed by signal 9 while oom_kill rose: by the machine, or by a control group while it had memory."""
    killed = [event for event in run.deaths("server") + run.deaths("swarm") if event.get("signal") == SIGKILL]
    if not killed or run.delta("oom_kills_total") <= 0:
        return
    total = run.limits.get("memory_total_bytes") or 0
    least = min(run.values("memory_headroom_bytes"), default=0)
    limit = "memory_cgroup" if least > MACHINE_SHORT * total else "memory_machine"
    text = f"{_killed(killed)}; {run.quote('oom_kills_total')}; least memory headroom {format_bytes(least)}"
    bound = run.limits.get("memory_cgroup_limit_bytes")
    text += f", control group limit {format_bytes(bound)}" if bound and limit == "memory_cgroup" else ""
    yield finding(run, limit, "machine", text)


def process_limit(run: Evidence) -> Findings:
    """Fork failed with EAGAIN, so that a shard or worker is missing."""
    for event in run.named("error"):
        message = str(event.get("message", ""))
        if "EAGAIN" in message or "Resource temporarily unavailable" in message:
            bounds = {
                name: run.limits.get(name) for name in ("pid_max", "threads_max", "pids_cgroup_max", "nproc_soft")
            }
            known = ", ".join(f"{name} {value:,}" for name, value in bounds.items() if value is not None)
            yield finding(run, "process_limit", "machine", f"fork: {message}" + (f"; {known}" if known else ""))
            return


def server_protocol(run: Evidence) -> Findings:
    """The server answered, and the answer was wrong."""
    wrong = run.quote_errors("upgrade", "EPROTO"), run.quote_errors("echo hold", "EBADMSG EPROTO")
    if any(wrong):
        details = [str(event["detail"]) for event in run.named("failure") if event.get("detail")]
        text = "; ".join([part for part in wrong if part] + details[:1])
        remedy = "a server that completes the upgrade and echoes each message unchanged"
        yield finding(run, "server_protocol", "server", text, remedy=remedy)


def died(run: Evidence) -> Findings:
    """A process ended without being told to, and not for want of memory."""
    if next(out_of_memory(run), None) or next(process_limit(run), None):
        return
    for role, limit in (("server", "server_died"), ("swarm", "generator")):
        if deaths := run.deaths(role):
            text = f"{_killed(deaths)}; {run.quote('oom_kills_total')}"
            text += "".join(f"; error: {event.get('message', '')}" for event in run.named("error")[:1])
            yield finding(run, limit, role, text, remedy=f"read logs/{role}.log of this run: the process itself failed")


def _killed(deaths: list[Mapping[str, Any]]) -> str:
    first = deaths[0]
    how = f"signal {first['signal']}" if first.get("signal") else f"exit code {first.get('exit_code')}"
    more = f", and {len(deaths) - 1:,} more" if len(deaths) > 1 else ""
    return f"process_exited: {first.get('role')} pid {first.get('pid')} by {how}{more}"
