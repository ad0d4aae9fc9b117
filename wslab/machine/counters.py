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
_TCP = {
    "tcp_inuse": "inuse",
    "tcp_time_wait": "tw",
    "tcp_memory_bytes": "mem",
}
_NETSTAT = {
    "listen_overflows_total": "TcpExtListenOverflows",
    "listen_drops_total": "TcpExtListenDrops",
    "syn_cookies_total": "TcpExtTCPReqQFullDoCookies",
    "syn_drops_total": "TcpExtTCPReqQFullDrop",
    "syn_retransmits_total": "TcpExtTCPSynRetrans",
    "tcp_memory_pressures_total": "TcpExtTCPMemoryPressures",
    "tcp_aborts_on_memory_total": "TcpExtTCPAbortOnMemory",
}
_SNMP = {
    "retransmits_total": "TcpRetransSegs",
    "segments_sent_total": "TcpOutSegs",
    "resets_sent_total": "TcpOutRsts",
}
_CONNTRACK = {
    "conntrack_drops_total": "drop",
    "conntrack_chains_too_long_total": "chainlength",
}
_PRESSURES = {"cpu": "psi_cpu_some_seconds", "memory": "psi_memory_some_seconds"}


def _pick(columns: Mapping[str, str], table: Mapping[str, int | float] | None) -> Values:
    return {column: None if table is None else table.get(name) for column, name in columns.items()}


def _memory(table: dict[str, int] | None, proc_cache: int | None) -> Values:
    free = headroom = kernel = None
    if table is not None:
        free, headroom = table["MemFree"], headroom_bytes(table, proc_cache)
        file_pages = table["Buffers"] + table["Cached"] + table.get("SwapCached", 0)
        kernel = table["MemTotal"] - free - file_pages - table.get("AnonPages", 0) - (proc_cache or 0)
    return {
        "memory_free_bytes": free,
        "memory_headroom_bytes": headroom,
        "memory_kernel_bytes": kernel,
        "proc_cache_bytes": proc_cache,
    }


class Counters:
    """The open files behind the machine's columns.

    Args:
        root: where /proc is.
    """

    def __init__(self, root: Path = PROC) -> None:
        self._pressures = {column: OpenFile(root / "pressure" / kind) for kind, column in _PRESSURES.items()}
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

    def cpu(self) -> Values:
        """Return the columns of the CPUs as they are now."""
        return _pick(_CPU, _parsed(self._stat, formats.parse_stat))

    def read(self) -> Values:
        """Return all machine-wide columns of a sample as they are now."""
        values = self.cpu()
        proc_cache = _parsed(self._slabinfo, formats.parse_proc_cache)
        memory = _parsed(self._meminfo, formats.parse_meminfo)
        if memory is not None:
            memory["MemFree"] += _parsed(self._zoneinfo, formats.parse_cpu_lists) or 0
        values |= _memory(memory, proc_cache)
        values |= _pick(_TCP, (_parsed(self._sockstat, formats.parse_sockstat) or {}).get("TCP"))
        values["file_handles"] = (_parsed(self._file_nr, formats.parse_file_nr) or (None,))[0]
        values |= _pick(_NETSTAT, _parsed(self._netstat, formats.parse_netstat))
        values |= _pick(_SNMP, _parsed(self._snmp, formats.parse_netstat))
        values["conntrack_count"] = _parsed(self._conntrack_count, formats.naming("nf_conntrack_count")(int))
        values["conntrack_max"] = _parsed(self._conntrack_max, formats.naming("nf_conntrack_max")(int))
        values |= _pick(_CONNTRACK, _parsed(self._conntrack, formats.parse_conntrack_stat))
        values["softnet_drops_total"] = _parsed(self._softnet, formats.parse_softnet_stat)
        for column, file in self._pressures.items():
            values[column] = (_parsed(file, formats.parse_pressure) or {}).get("some")
        values["oom_kills_total"] = (_parsed(self._vmstat, formats.parse_vmstat) or {}).get("oom_kill")
        return values


def _parsed(file: OpenFile, parse: Callable[[str], formats.T]) -> formats.T | None:
    text = file.read()
    return None if text is None else parse(text)
