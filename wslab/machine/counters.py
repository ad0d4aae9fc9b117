"""The machine-wide columns of a sample: what the kernel counts for all processes together.

1. The files are opened once and read from their start each time: a sample of all of them costs about a millisecond.
2. A column whose file or line is absent is None, never 0.
3. The network files are those of the network namespace in which the counters were created.
"""

from __future__ import annotations

from pathlib import Path

from wslab.machine import formats
from wslab.machine.files import OpenFile
from wslab.machine.procfs import PROC, headroom_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Values = dict[str, int | float | None]

_CPU = {f"cpu_{kind}_seconds": kind for kind in ("user", "nice", "system", "irq", "softirq", "iowait", "steal", "idle")}
_MEMORY = {
    "memory_free_bytes": "MemFree",
    "memory_available_bytes": "MemAvailable",
    "memory_anon_bytes": "AnonPages",
    "slab_bytes": "Slab",
    "slab_unreclaimable_bytes": "SUnreclaim",
    "page_tables_bytes": "PageTables",
    "kernel_stack_bytes": "KernelStack",
}
_TCP = {
    "tcp_inuse": "inuse",
    "tcp_orphan": "orphan",
    "tcp_time_wait": "tw",
    "tcp_alloc": "alloc",
    "tcp_memory_bytes": "mem",
}
_NETSTAT = {
    "listen_overflows_total": "TcpExtListenOverflows",
    "listen_drops_total": "TcpExtListenDrops",
    "syn_cookies_total": "TcpExtTCPReqQFullDoCookies",
    "syn_drops_total": "TcpExtTCPReqQFullDrop",
    "syn_retransmits_total": "TcpExtTCPSynRetrans",
    "tcp_timeouts_total": "TcpExtTCPTimeouts",
    "tcp_memory_pressures_total": "TcpExtTCPMemoryPressures",
    "tcp_aborts_on_memory_total": "TcpExtTCPAbortOnMemory",
    "tcp_backlog_drops_total": "TcpExtTCPBacklogDrop",
    "time_wait_overflow_total": "TcpExtTCPTimeWaitOverflow",
}
_SNMP = {"retransmits_total": "TcpRetransSegs"}
_CONNTRACK = {
    "conntrack_drops_total": "drop",
    "conntrack_insert_failed_total": "insert_failed",
    "conntrack_early_drops_total": "early_drop",
    "conntrack_chains_too_long_total": "chainlength",
}
_PRESSURES = {
    "cpu": {"psi_cpu_some_seconds": "some"},
    "memory": {"psi_memory_some_seconds": "some", "psi_memory_full_seconds": "full"},
    "io": {"psi_io_some_seconds": "some"},
}


def _pick(columns: Mapping[str, str], table: Mapping[str, int | float] | None) -> Values:
    return {column: None if table is None else table.get(name) for column, name in columns.items()}


def _memory(table: dict[str, int] | None, proc_cache: int | None) -> Values:
    values = _pick(_MEMORY, table)
    headroom = cache = kernel = None
    if table is not None:
        headroom = headroom_bytes(table, proc_cache)
        cache = headroom_bytes(table) - table["MemFree"]
        file_pages = table["Buffers"] + table["Cached"] + table.get("SwapCached", 0)
        kernel = table["MemTotal"] - table["MemFree"] - file_pages - table.get("AnonPages", 0) - (proc_cache or 0)
    return values | {
        "memory_headroom_bytes": headroom,
        "memory_cache_bytes": cache,
        "memory_kernel_bytes": kernel,
        "proc_cache_bytes": proc_cache,
    }


def _sockets(table: dict[str, dict[str, int]] | None) -> Values:
    used = None if table is None else table["sockets"]["used"]
    return {"sockets_used": used} | _pick(_TCP, None if table is None else table["TCP"])


def _softnet(pair: tuple[int, int] | None) -> Values:
    drops, squeezed = pair or (None, None)
    return {"softnet_drops_total": drops, "softnet_squeezed_total": squeezed}


class Counters:
    """The open files behind the machine's columns.

    Args:
        root: where /proc is.
    """

    def __init__(self, root: Path = PROC) -> None:
        pressures = {kind: (OpenFile(root / "pressure" / kind), columns) for kind, columns in _PRESSURES.items()}
        self._pressures = pressures
        self._stat = OpenFile(root / "stat")
        self._meminfo = OpenFile(root / "meminfo")
        self._zoneinfo = OpenFile(root / "zoneinfo")
        self._slabinfo = OpenFile(root / "slabinfo")
        self._vmstat = OpenFile(root / "vmstat")
        self._sockstat = OpenFile(root / "net/sockstat")
        self._netstat = OpenFile(root / "net/netstat")
        self._snmp = OpenFile(root / "net/snmp")
        self._softnet = OpenFile(root / "net/softnet_stat")
        self._conntrack = OpenFile(root / "net/stat/nf_conntrack")
        self._conntrack_count = OpenFile(root / "sys/net/netfilter/nf_conntrack_count")
        self._conntrack_max = OpenFile(root / "sys/net/netfilter/nf_conntrack_max")
        self._file_nr = OpenFile(root / "sys/fs/file-nr")

    def read(self) -> Values:
        """Return all machine-wide columns of a sample as they are now."""
        values = _pick(_CPU, _parsed(self._stat, formats.parse_stat))
        proc_cache = _parsed(self._slabinfo, formats.parse_proc_cache)
        memory = _parsed(self._meminfo, formats.parse_meminfo)
        if memory is not None:
            memory["MemFree"] += _parsed(self._zoneinfo, formats.parse_cpu_lists) or 0
        values |= _memory(memory, proc_cache)
        values |= _sockets(_parsed(self._sockstat, formats.parse_sockstat))
        values["file_handles"] = (_parsed(self._file_nr, formats.parse_file_nr) or (None,))[0]
        values |= _pick(_NETSTAT, _parsed(self._netstat, formats.parse_netstat))
        values |= _pick(_SNMP, _parsed(self._snmp, formats.parse_netstat))
        values["conntrack_count"] = _parsed(self._conntrack_count, formats.naming("nf_conntrack_count")(int))
        values["conntrack_max"] = _parsed(self._conntrack_max, formats.naming("nf_conntrack_max")(int))
        values |= _pick(_CONNTRACK, _parsed(self._conntrack, formats.parse_conntrack_stat))
        values |= _softnet(_parsed(self._softnet, formats.parse_softnet_stat))
        for file, columns in self._pressures.values():
            values |= _pick(columns, _parsed(file, formats.parse_pressure))
        values["oom_kills_total"] = (_parsed(self._vmstat, formats.parse_vmstat) or {}).get("oom_kill")
        return values


def _parsed(file: OpenFile, parse: Callable[[str], formats.T]) -> formats.T | None:
    text = file.read()
    return None if text is None else parse(text)
