"""Rules that weigh: counters that also rise as a consequence, then CPU time, and last what could be ruled out."""

from __future__ import annotations

from wslab.core.evidence import Evidence
from wslab.core.limit import CONNTRACK_CHAIN
from wslab.core.rules_proved import Findings, finding
from wslab.core.saturation import ENDS, generator_limited, machine_busy, server_busy, server_idle, throttled

# A few overflows are normal in a fast ramp; they explain a miss only from this share of the connections on.
OVERFLOWS_MATTER = 0.01
# Samples in a row without any progress of the server, after which it is silent and not slow.
SILENT_SAMPLES = 3

SYN_QUEUE_FULL = ("syn_cookies_total", "syn_drops_total")

# Counters that would have told of a limit in the kernel: quoted by rules that conclude from their silence.
QUIET = ("listen_overflows_total", "conntrack_drops_total", "softnet_drops_total", "tcp_aborts_on_memory_total")
ALSO_RULED_OUT = (
    *("syn_drops_total", "oom_kills_total", "tcp_memory_pressures_total", "conntrack_chains_too_long_total"),
)


def accept_queue(run: Evidence) -> Findings:
    """Connections refused by a full accept queue of a server that does accept."""
    if _matters(run, run.delta("listen_overflows_total")) and not _stalled(run) and not _syns_first(run):
        text = f"{run.quote('listen_overflows_total')}; {run.quote('listen_drops_total')}"
        somaxconn = run.limits.get("somaxconn")
        text += f"; somaxconn {somaxconn:,}" if somaxconn else ""
        yield finding(run, "accept_queue", "server", text + _timeouts(run))


def syn_queue(run: Evidence) -> Findings:
    """SYNs answered by cookies or dropped, because too many connections were half open."""
    if _matters(run, sum(map(run.delta, SYN_QUEUE_FULL))) and _syns_first(run):
        text = f"{run.quote('syn_cookies_total')}; {run.quote('syn_drops_total')}"
        yield finding(run, "syn_queue", "kernel", text + _timeouts(run))


def tcp_memory(run: Evidence) -> Findings:
    """TCP had no memory left for socket buffers."""
    if run.delta("tcp_aborts_on_memory_total") > 0 or run.delta("tcp_memory_pressures_total") > 0:
        pages, size = run.limits.get("tcp_mem_pages_high"), run.limits.get("page_bytes") or 4096
        text = f"{run.quote('tcp_memory_pressures_total')}; {run.quote('tcp_aborts_on_memory_total')}"
        text += f"; at most {max(run.values('tcp_memory_bytes'), default=0):,} bytes in socket buffers"
        yield finding(run, "tcp_mem", "kernel", text + (f", tcp_mem {pages * size:,} bytes" if pages else ""))


def device_backlog(run: Evidence) -> Findings:
    """Packets dropped before TCP saw them.

    An attempt times out when packets of it are lost again and again: fewer drops than attempts that timed out explain
    nothing. Where none timed out, drops explain a rate only if no end was without CPU anyway.
    """
    drops = run.delta("softnet_drops_total")
    busy = server_busy(run.active, run.missed_in) or machine_busy(run.active, run.missed_in)
    if drops > 0 and (drops >= run.timeouts if run.timeouts else not busy):
        text = f"{run.quote('softnet_drops_total')}; {run.quote('retransmits_total')}"
        yield finding(run, "device_backlog", "kernel", text + _timeouts(run))


def conntrack_buckets(run: Evidence) -> Findings:
    """Long hash chains while the ramp missed its rate."""
    buckets, counts = run.limits.get("conntrack_buckets"), run.values("conntrack_count")
    if buckets and counts and max(counts) > CONNTRACK_CHAIN * buckets and run.delta("conntrack_count") > 0:
        text = f"{run.quote('conntrack_count')} in {buckets:,} buckets, {max(counts) / buckets:.1f} entries each"
        yield finding(run, "conntrack_buckets", "kernel", text)


def server_silent(run: Evidence) -> Findings:
    """The server has time, takes the connection and does not answer."""
    talked = [phase.name for phase in run.phases if phase.name in ("hold", "verify")][-1:]
    idle = any(server_idle(run.active, phase) for phase in talked)
    waiting = idle and run.errors("echo hold", "ETIMEDOUT") and not _loud(run)
    if waiting or _stalled(run):
        text = run.quote_errors(names="ETIMEDOUT") or run.misses[0]
        shares = [sample.get("server_cpu_fraction_max") or 0.0 for sample in run.loaded]
        text += f"; busiest server process at {shares[-1]:.0%} of a core, {run.quote('server_connections_opened')}"
        remedy = "look at the server itself: it is stopped, blocked, or never answers"
        yield finding(run, "server_silent", "server", f"{text}; {_quiet(run)}", remedy=remedy)


def generator(run: Evidence) -> Findings:
    """The swarm was busy or late while the server had time to spare."""
    if generator_limited(run.active, run.missed_in) and not _loud(run):
        text = f"{run.misses[0]}; {_busy(run)}; {_quiet(run)}"
        yield finding(run, "generator", "swarm", text, remedy=_quota_remedy(run, _waiting(run, "swarm")))


def server_cpu(run: Evidence) -> Findings:
    """The server was busy while the swarm had time to spare."""
    if server_busy(run.active, run.missed_in):
        text = f"{run.misses[0]}; {_busy(run)}; {_quiet(run)}"
        yield finding(run, "server_cpu", "server", text, remedy=_quota_remedy(run, _waiting(run, "server")))


def machine_cpu(run: Evidence) -> Findings:
    """No CPU of the machine had time left, or the quota of an end none while the other end was busy as well."""
    if machine_busy(run.active, run.missed_in):
        waiting = _waiting(run, *ENDS)
        why = f"{' and '.join(waiting)} wait for a CPU quota, and both ends are busy" if waiting else "no idle CPU"
        text = f"{run.misses[0]}; {why}; {_busy(run)}; {_quiet(run)}"
        yield finding(run, "machine_cpu", "machine", text, remedy=_quota_remedy(run, waiting))


def unknown(run: Evidence) -> Findings:
    """Say what was missed, what failed, and what can be ruled out."""
    parts = [*run.misses, run.quote_errors() or "no failures were counted"]
    parts += [f"error: {event.get('message', '')}" for event in run.named("error")[:1]]
    counters = [name for name in (*QUIET, *ALSO_RULED_OUT) if run.values(name) and run.delta(name) <= 0]
    ruled_out = ", ".join([*map(run.quote, counters), _busy(run)])
    remedy = "read the logs of this run; none of the known limits explains it"
    yield finding(run, "unknown", "machine", f"{'; '.join(parts)}; ruled out: {ruled_out}", remedy=remedy)


def _syns_first(run: Evidence) -> bool:
    """Return whether the SYN queue was full before the accept queue was.

    Either fills the other: who may not be accepted stays half open, and who was half open comes all at once.
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
    opened = {sample.get("server_connections_opened") for sample in tail}
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
