"""The records of a run: the columns of its samples and latencies, its findings and its outcome.

A sample is a flat mapping from column name to value, one a second; None stands for a value that could not be read. On
disk it is a CSV row in which an empty cell is None, so that what was not measured never turns into a zero.

1. Names carry their unit; `_total` and `_cpu_*_seconds` are cumulative, everything else is a value at that moment.
2. A column is added here and nowhere else: the recorder, the store and the figures read this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

Value = int | float | str | None
# Two times on the run's clock, in seconds: something happened after the first and by the second.
Span = tuple[float, float]

# The outcomes of a run.
RUNNING = "running"  # not ended yet, or ended without recording it
HELD = "held"  # everything that was asked for was opened and verified
BROKE = "broke"  # a limit stopped it; the findings name it
ABORTED = "aborted"  # the user stopped it
CRASHED = "crashed"  # something of ours died
OUTCOMES = (HELD, BROKE, ABORTED, CRASHED, RUNNING)

FLOAT_UNITS = frozenset({"seconds", "fraction"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a recorded table.

    Attributes:
        name: the name in the CSV header and in every mapping.
        unit: `seconds`, `bytes`, `count`, `fraction` or `text`.
        meaning: what it is, in one line.
        source: where it is read, or who counts it.
    """

    name: str
    unit: str
    meaning: str
    source: str

    def parse(self, cell: str) -> Value:
        """Return the value of a CSV cell; an empty one is None and a whole number stays an int."""
        if cell == "":
            return None
        if self.unit == "text":
            return cell
        if self.unit in FLOAT_UNITS or not cell.lstrip("-").isdigit():
            return float(cell)
        return int(cell)

    def write(self, value: Value) -> str:
        """Return the CSV cell of a value; seconds are kept to the microsecond."""
        if value is None:
            return ""
        return repr(round(value, 6)) if isinstance(value, float) else str(value)


def _columns(rows: Iterable[tuple[str, str, str, str]]) -> tuple[Column, ...]:
    return tuple(Column(name=name, unit=unit, meaning=meaning, source=source) for name, unit, meaning, source in rows)


# Where several columns are read.
STAT, PROCESS_STAT, TCP_EXT = "/proc/stat", "/proc/PID/stat", "/proc/net/netstat TcpExt"
PROCESS_CLOCK = "CPU clock of each process"
DIVIDED_CLOCK = f"{PROCESS_CLOCK}, divided as utime and stime"
SOCKETS, QUEUE, SWARM = "sock_diag", "rtnetlink, qdisc statistics", "counted by the workers"


def _side(side: str, who: str, counted: str) -> tuple[Column, ...]:
    """Return the columns that exist once for each end.

    Args:
        side: how their names begin.
        who: its processes.
        counted: who counts connections and messages.
    """
    rows = (
        ("processes", "count", "processes alive", PROCESS_STAT),
        ("processes_stopped", "count", "processes that are stopped", f"{PROCESS_STAT} state T"),
        ("processes_blocked", "count", "processes that wait for what no signal interrupts", f"{PROCESS_STAT} state D"),
        ("cpu_user_seconds", "seconds", "CPU time in user mode, cumulative", DIVIDED_CLOCK),
        ("cpu_system_seconds", "seconds", "CPU time in the kernel, cumulative", DIVIDED_CLOCK),
        ("cpu_fraction_max", "fraction", "busiest process over the last interval, 1.0 is one core", PROCESS_CLOCK),
        ("cpu_quota_fraction", "fraction", "CPU quota of its control group, 1.0 is one core; empty without", "cpu.max"),
        (
            "cpu_throttled_fraction",
            "fraction",
            "share of the periods since the last sample whose quota was used up",
            "cpu.stat nr_throttled, nr_periods",
        ),
        ("cpu_throttled_total", "count", "such periods since the group was made", "cpu.stat nr_throttled"),
        ("rss_bytes", "bytes", "resident memory, pages shared by forked processes counted in each", "/proc/PID/statm"),
        ("pss_bytes", "bytes", "resident memory, shared pages divided; empty unless read", "/proc/PID/smaps_rollup"),
        ("fds", "count", "open file descriptors", "size of /proc/PID/fd"),
        ("fds_max", "count", "open file descriptors of the process that has most", "size of /proc/PID/fd"),
        ("connections_open", "count", "connections open now", counted),
        ("connections_opened", "count", "connections opened so far", counted),
        ("connections_failed", "count", "attempts that ended without an open connection, so far", counted),
        ("connections_closed", "count", "connections lost after they were open, so far", counted),
        ("messages_sent", "count", "messages sent so far", counted),
        ("messages_received", "count", "messages received so far", counted),
    )
    return _columns((f"{side}_{name}", unit, f"{who}: {meaning}", source) for name, unit, meaning, source in rows)


SAMPLE_COLUMNS: tuple[Column, ...] = (
    *_columns(
        (
            ("elapsed_seconds", "seconds", "time since the run began", "monotonic clock"),
            ("unix_seconds", "seconds", "seconds since 1970", "wall clock"),
            ("phase", "text", "start, ramp, hold, verify, drain or done", "set by the supervisor"),
        )
    ),
    *_side("server", "all shards", "counted by the shards; empty for a server that is not ours"),
    *_side("swarm", "all workers", SWARM),
    *_columns(
        (
            ("swarm_connections_pending", "count", "handshakes in flight", SWARM),
            ("swarm_connections_verified", "count", "connections whose own echo came back in the verify phase", SWARM),
            ("swarm_messages_failed", "count", "messages that were lost, late or came back changed, so far", SWARM),
            (
                "swarm_messages_unasked",
                "count",
                "messages from the server that answer nothing, such as a second echo",
                SWARM,
            ),
            ("swarm_lag_seconds_max", "seconds", "largest lag behind the schedule over the last interval", SWARM),
            ("server_listeners", "count", "sockets of this host that listen on the server's port", SOCKETS),
            ("server_accept_queue", "count", "connections that wait to be accepted on that port", SOCKETS),
            ("server_sockets_sampled", "count", "connections of the server that were looked at", SOCKETS),
            ("server_sockets_waiting", "count", "those of them with bytes that the server has not read", SOCKETS),
            (
                "server_receive_queue_bytes",
                "bytes",
                "bytes that the server has not read, in the sampled connections",
                SOCKETS,
            ),
            (
                "server_send_queue_bytes",
                "bytes",
                "bytes from the server not acknowledged, in the sampled connections",
                SOCKETS,
            ),
            ("swarm_sockets_sampled", "count", "connections of the swarm that were looked at", SOCKETS),
            (
                "swarm_send_queue_bytes",
                "bytes",
                "bytes from the swarm not acknowledged, in the sampled connections",
                SOCKETS,
            ),
            (
                "link_roundtrip_seconds_min",
                "seconds",
                "least round trip that TCP measured on the sampled connections",
                f"{SOCKETS}, tcp_info tcpi_min_rtt",
            ),
            (
                "link_queue",
                "text",
                "queueing discipline and interface towards the server; empty where nothing queues",
                QUEUE,
            ),
            ("link_backlog_bytes", "bytes", "bytes that wait in it", QUEUE),
            ("link_drops_total", "count", "packets that it has dropped", QUEUE),
            ("link_overlimits_total", "count", "times that a packet had to wait for its rate", QUEUE),
            (
                "server_shards_at_limit",
                "count",
                "shards that do not accept because their descriptors are used up",
                "counted by the shards; of another server, /proc/PID/limits",
            ),
            (
                "lab_cpu_seconds",
                "seconds",
                "CPU time of the recorder, the supervisor and their caller, cumulative",
                PROCESS_CLOCK,
            ),
            ("cpu_user_seconds", "seconds", "all CPUs in user mode", f"{STAT} user"),
            ("cpu_nice_seconds", "seconds", "all CPUs in user mode at lower priority", f"{STAT} nice"),
            ("cpu_system_seconds", "seconds", "all CPUs in the kernel", f"{STAT} system"),
            ("cpu_irq_seconds", "seconds", "all CPUs in interrupts", f"{STAT} irq"),
            (
                "cpu_softirq_seconds",
                "seconds",
                "all CPUs in soft interrupts, where packets are handled",
                f"{STAT} softirq",
            ),
            ("cpu_iowait_seconds", "seconds", "all CPUs waiting for disks", f"{STAT} iowait"),
            ("cpu_steal_seconds", "seconds", "time taken by the hypervisor", f"{STAT} steal"),
            ("cpu_idle_seconds", "seconds", "all CPUs idle", f"{STAT} idle"),
            ("memory_free_bytes", "bytes", "MemFree and the free pages of each CPU", "/proc/meminfo, /proc/zoneinfo"),
            (
                "memory_headroom_bytes",
                "bytes",
                "memory_free_bytes and what is reclaimed at once: Buffers+Cached-Shmem, proc_cache_bytes",
                "/proc/meminfo, /proc/zoneinfo, /proc/slabinfo",
            ),
            (
                "memory_kernel_bytes",
                "bytes",
                "MemTotal-MemFree-Buffers-Cached-SwapCached-AnonPages, less proc_cache_bytes",
                "/proc/meminfo, /proc/zoneinfo, /proc/slabinfo",
            ),
            (
                "proc_cache_bytes",
                "bytes",
                "inodes and dentries of /proc, left by processes that list it; root only",
                "/proc/slabinfo",
            ),
            ("tcp_inuse", "count", "TCP sockets bound or connected", "/proc/net/sockstat"),
            ("tcp_time_wait", "count", "TCP sockets in TIME_WAIT", "/proc/net/sockstat tw"),
            ("tcp_memory_bytes", "bytes", "TCP socket buffers", "/proc/net/sockstat mem in pages"),
            ("file_handles", "count", "open file handles of the system", "/proc/sys/fs/file-nr field 1"),
            (
                "listen_overflows_total",
                "count",
                "connections refused by a full accept queue",
                f"{TCP_EXT} ListenOverflows",
            ),
            ("listen_drops_total", "count", "SYNs dropped at a listener", f"{TCP_EXT} ListenDrops"),
            ("syn_cookies_total", "count", "SYN queue full, cookie sent instead", f"{TCP_EXT} TCPReqQFullDoCookies"),
            ("syn_drops_total", "count", "SYN queue full, SYN dropped", f"{TCP_EXT} TCPReqQFullDrop"),
            ("syn_retransmits_total", "count", "SYNs sent again", f"{TCP_EXT} TCPSynRetrans"),
            ("retransmits_total", "count", "segments sent again", "/proc/net/snmp Tcp RetransSegs"),
            ("segments_sent_total", "count", "segments sent", "/proc/net/snmp Tcp OutSegs"),
            (
                "resets_sent_total",
                "count",
                "resets sent by TCP itself, as by a closed port",
                "/proc/net/snmp Tcp OutRsts",
            ),
            (
                "tcp_memory_pressures_total",
                "count",
                "times TCP went over its memory limit",
                f"{TCP_EXT} TCPMemoryPressures",
            ),
            (
                "tcp_aborts_on_memory_total",
                "count",
                "connections reset as memory ran out",
                f"{TCP_EXT} TCPAbortOnMemory",
            ),
            ("conntrack_count", "count", "connections tracked", "/proc/sys/net/netfilter/nf_conntrack_count"),
            ("conntrack_max", "count", "connections that may be tracked", "/proc/sys/net/netfilter/nf_conntrack_max"),
            ("conntrack_drops_total", "count", "packets dropped by a full table", "/proc/net/stat/nf_conntrack drop"),
            (
                "conntrack_chains_too_long_total",
                "count",
                "packets dropped for a full bucket",
                "/proc/net/stat/nf_conntrack chainlength",
            ),
            ("softnet_drops_total", "count", "packets dropped before TCP", "/proc/net/softnet_stat column 2"),
            ("psi_cpu_some_seconds", "seconds", "time in which something waited for a CPU", "/proc/pressure/cpu"),
            (
                "psi_memory_some_seconds",
                "seconds",
                "time in which something waited for memory",
                "/proc/pressure/memory",
            ),
            ("oom_kills_total", "count", "processes killed because memory ran out", "/proc/vmstat oom_kill"),
        )
    ),
)

# The columns that decide which limit bound first. When failures of a new kind are counted, they are read between two
# samples as well, and told in a `counters` event.
DECISIVE_COLUMNS: tuple[str, ...] = (
    *("server_shards_at_limit", "conntrack_count", "conntrack_drops_total", "conntrack_chains_too_long_total"),
    *("listen_overflows_total", "listen_drops_total", "syn_cookies_total", "syn_drops_total", "syn_retransmits_total"),
    *("tcp_memory_pressures_total", "tcp_aborts_on_memory_total", "softnet_drops_total", "oom_kills_total"),
)

# What a rule of the firewall does to a packet, in a `firewall` event.
REFUSES, DROPS = "refuses", "drops"

LATENCY_COLUMNS: tuple[Column, ...] = _columns(
    (
        ("elapsed_seconds", "seconds", "time since the run began, end of the interval", "monotonic clock"),
        ("kind", "text", "handshake or roundtrip", SWARM),
        ("bucket_seconds", "seconds", "middle of the histogram bucket", SWARM),
        ("count", "count", "latencies that fell into the bucket in this interval", SWARM),
    )
)


class Certainty(StrEnum):
    """How a finding is known."""

    PROVED = "proved"  # the kernel's own word names this limit: an errno, an exit status, an event
    COUNTED = "counted"  # a counter of this limit moved by as much as was missed
    INFERRED = "inferred"  # it fits what was measured, and others were ruled out


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What broke, with the proof.

    Attributes:
        limit: name of the limit, as in preflight and figures.
        side: `server`, `swarm`, `kernel` or `machine`.
        at_connections: connections that were open when it broke.
        evidence: the counter, errno or event that proves it, with its value before and after.
        remedy: what lifts the limit.
        first_seconds: the two times between which its evidence first appeared; None where that was not recorded.
        certainty: how it is known, see `Certainty`; the diagnosis fills it in where a rule does not say.
        ruled_out: for what is inferred, the limits whose own proof was looked for and did not appear.
    """

    limit: str
    side: str
    at_connections: int
    evidence: str
    remedy: str
    first_seconds: Span | None = None
    certainty: Certainty | None = None
    ruled_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as it is written to JSON."""
        return asdict(self)


def header(columns: Sequence[Column] = SAMPLE_COLUMNS) -> list[str]:
    """Return the names of the columns, the first line of the CSV file."""
    return [column.name for column in columns]


def to_cells(record: Mapping[str, Value], columns: Sequence[Column] = SAMPLE_COLUMNS) -> list[str]:
    """Return a record as CSV cells in the order of `columns`; a missing value is an empty cell."""
    return [column.write(record.get(column.name)) for column in columns]


def from_cells(
    cells: Sequence[str], names: Sequence[str], columns: Sequence[Column] = SAMPLE_COLUMNS
) -> dict[str, Value]:
    """Return the record of one CSV row.

    Args:
        cells: the cells of the row; a row cut short by a crash gives None for what is missing.
        names: the header that was read from the file; columns that are no longer known are left out.
        columns: the table that the file follows.

    Returns:
        A mapping with every name of `columns`.
    """
    given = dict(zip(names, cells, strict=False))
    return {column.name: column.parse(given.get(column.name, "")) for column in columns}
