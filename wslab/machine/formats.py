"""Parsers for the files of /proc: text in, numbers out.

1. A parser opens nothing. `wslab.machine.procfs` has a reader for each.
2. Malformed text raises `ValueError` naming the file: a wrong number is worse than none.
3. Units are converted here: bytes, seconds and counts come out, never KiB, ticks or pages.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CPU_KINDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def naming(name: str) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
    """Make a parser name the file `name` in its errors."""

    def decorate(parse: Callable[[str], T]) -> Callable[[str], T]:
        @functools.wraps(parse)
        def parse_or_name(text: str) -> T:
            try:
                return parse(text)
            except (ValueError, IndexError, KeyError) as problem:
                raise ValueError(f"malformed {name}: {problem!r} in {text[:80]!r}") from problem

        return parse_or_name

    return decorate


@naming("stat")
def parse_stat(text: str) -> dict[str, float]:
    """Return the seconds that all CPUs together spent on each kind of work, and their number as `cpus`."""
    lines = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    if lines[0][0] != "cpu":
        raise ValueError("no line for all CPUs together")
    ticks = dict(zip(_CPU_KINDS, map(int, lines[0][1:]), strict=False))
    return {kind: ticks[kind] / TICKS_PER_SECOND for kind in _CPU_KINDS} | {"cpus": len(lines) - 1}


@naming("meminfo")
def parse_meminfo(text: str) -> dict[str, int]:
    """Return each line of the memory table in bytes (the few `HugePages_` lines are counts)."""
    table = {}
    for line in text.splitlines():
        name, value = line.split(":", 1)
        number, *unit = value.split()
        table[name] = int(number) * (1024 if unit == ["kB"] else 1)
    for name in ("MemTotal", "MemFree", "Buffers", "Cached"):
        table[name]  # The lines that every other figure needs.
    return table


@naming("zoneinfo")
def parse_cpu_lists(text: str) -> int:
    """Return the bytes of free pages in the per-CPU lists, which `MemFree` leaves out."""
    counts = [line.split()[1] for line in text.splitlines() if line.lstrip().startswith("count:")]
    return sum(map(int, counts)) * PAGE_BYTES


@naming("PID/stat")
def parse_pid_stat(text: str) -> tuple[str, float, float, int]:
    """Return state letter, CPU seconds in user and in system mode, and start time in ticks since boot."""
    # The command may contain spaces and brackets, so only the last bracket ends it.
    fields = text[text.rindex(")") + 1 :].split(None, 20)
    return fields[0], int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND, int(fields[19])


@naming("PID/stat")
def parse_pid_family(text: str) -> tuple[str, int, int, float, float]:
    """Return command, parent, start time in ticks since boot, and CPU seconds: its own, and of children waited for."""
    fields = text[text.rindex(")") + 1 :].split(None, 20)
    own, waited = (sum(map(int, fields[at : at + 2])) / TICKS_PER_SECOND for at in (11, 13))
    return text[text.index("(") + 1 : text.rindex(")")], int(fields[1]), int(fields[19]), own, waited


@naming("PID/statm")
def parse_statm(text: str) -> int:
    """Return the resident set size in bytes."""
    return int(text.split(None, 2)[1]) * PAGE_BYTES


@naming("PID/smaps_rollup")
def parse_smaps_rollup(text: str) -> int | None:
    """Return the proportional set size in bytes: shared pages divided among the processes that share them.

    None for an empty text: a process that is exiting has no memory any more.
    """
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    if text:
        raise ValueError("no Pss")
    return None


@naming("PID/status")
def parse_status(text: str) -> dict[str, str]:
    """Return the lines of a process's status, as text by name."""
    return {name: value.strip() for name, value in (line.split(":", 1) for line in text.splitlines())}


@naming("PID/limits")
def parse_limits(text: str) -> dict[str, tuple[int | None, int | None]]:
    """Return the soft and hard resource limits by title, such as `Max open files`; None stands for unlimited."""
    header, *lines = text.splitlines()
    soft_at, hard_at, end = header.index("Soft Limit"), header.index("Hard Limit"), header.index("Units")

    def value(cell: str) -> int | None:
        return None if cell.strip() == "unlimited" else int(cell)

    return {line[:soft_at].strip(): (value(line[soft_at:hard_at]), value(line[hard_at:end])) for line in lines}


@naming("self/cgroup")
def parse_cgroup(text: str) -> dict[str, tuple[str, str]]:
    """Return `(mount name, path)` by controller; the key "" is the unified hierarchy of cgroup v2."""
    groups = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = (controllers, path)
    return groups


@naming("cpu.stat")
def parse_cpu_stat(text: str) -> dict[str, int]:
    """Return the CPU counters of a control group; only one with a quota has `nr_throttled` in version 2."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


@naming("sys/fs/file-nr")
def parse_file_nr(text: str) -> tuple[int, int]:
    """Return the file handles in use on the machine and the most there may be."""
    allocated, unused, most = map(int, text.split())
    return allocated - unused, most


@naming("vmstat")
def parse_vmstat(text: str) -> dict[str, int]:
    """Return the counters of the memory manager, among them `oom_kill`."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


@naming("pressure")
def parse_pressure(text: str) -> dict[str, float]:
    """Return the seconds since boot that `some` and that `full` (all) tasks waited for a resource."""
    lines = [line.split() for line in text.splitlines()]
    return {line[0]: int(line[4].removeprefix("total=")) / 1e6 for line in lines}


@naming("ip_local_reserved_ports")
def parse_ports(text: str) -> list[tuple[int, int]]:
    """Parse a list of ports such as `8080,9000-9100` into pairs of the first and the last of each span."""
    spans = [span.split("-") for span in text.strip().split(",") if span]
    return [(int(span[0]), int(span[-1])) for span in spans]


@naming("net/sockstat")
def parse_sockstat(text: str) -> dict[str, dict[str, int]]:
    """Return the socket counts by protocol, such as `["TCP"]["inuse"]`; TCP's `mem` is in bytes."""
    table = {}
    for line in text.splitlines():
        protocol, rest = line.split(":", 1)
        words = rest.split()
        table[protocol] = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    table["TCP"]["mem"] *= PAGE_BYTES
    return table


@naming("net/netstat or net/snmp")
def parse_netstat(text: str) -> dict[str, int]:
    """Return the counters of the protocols as `TcpExtListenOverflows`, `TcpRetransSegs` and so on."""
    lines = [line.split() for line in text.splitlines()]
    table = {}
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        if names[0] != values[0]:
            raise ValueError(f"{values[0]} after {names[0]}")
        prefix = names[0].removesuffix(":")
        table.update({prefix + name: int(value) for name, value in zip(names[1:], values[1:], strict=True)})
    return table


@naming("net/stat/nf_conntrack")
def parse_conntrack_stat(text: str) -> dict[str, int]:
    """Return the counters of connection tracking, summed over the CPUs; the file has them in hexadecimal.

    `entries` is the whole table's size in every row and is not summed.
    """
    header, *lines = (line.split() for line in text.splitlines())
    rows = [[int(cell, 16) for cell in line] for line in lines]
    table = {name: sum(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)}
    return table | {"entries": rows[0][header.index("entries")]}


@naming("net/softnet_stat")
def parse_softnet_stat(text: str) -> int:
    """Return how many packets the device backlog dropped, over all CPUs."""
    return sum(int(line.split()[1], 16) for line in text.splitlines())


@naming("slabinfo")
def parse_proc_cache(text: str) -> int:
    """Return the bytes of the slabs that hold inodes of /proc, and of a dentry for each of them.

    A monitor that lists /proc/PID/fd leaves both behind for every descriptor that it lists. They are reclaimed when
    memory is short and belong to no connection, but their number follows that of the connections, so they would be
    counted as part of them.
    """
    caches = {line.split(None, 1)[0]: line.split() for line in text.splitlines()[2:]}
    inodes, dentries = caches.get("proc_inode_cache"), caches.get("dentry")
    if inodes is None or dentries is None:
        return 0
    # name, active objects, objects, object size, objects and pages a slab, …, active slabs, slabs, shared
    slabs, pages = int(inodes[-2]), int(inodes[5])
    return slabs * pages * PAGE_BYTES + int(inodes[1]) * int(dentries[3])
