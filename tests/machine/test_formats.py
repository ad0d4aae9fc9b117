"""Each parser: a literal text, the numbers in it, and malformed text that is refused by the file's name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wslab.machine import formats
from wslab.machine.formats import PAGE_BYTES, TICKS_PER_SECOND


def test_cpu_ticks_become_seconds_and_cpus_are_counted() -> None:
    text = "cpu  200 100 50 1000 30 1 20 10 0 0\ncpu0 100 50 25 500 15 1 10 5 0 0\ncpu1 100 50 25 500 15 0 10 5 0 0\n"
    found = formats.parse_stat(text)
    assert found["cpus"] == 2
    assert found["user"] == 200 / TICKS_PER_SECOND
    assert found["softirq"] == 20 / TICKS_PER_SECOND
    assert found["steal"] == 10 / TICKS_PER_SECOND


def test_kibibytes_become_bytes_and_page_counts_stay() -> None:
    text = "MemTotal: 8 kB\nMemFree: 4 kB\nBuffers: 1 kB\nCached: 2 kB\nHugePages_Total: 3\n"
    found = formats.parse_meminfo(text)
    assert (found["MemTotal"], found["HugePages_Total"]) == (8192, 3)


def test_a_process_line_is_cut_at_the_last_bracket() -> None:
    text = "77 (a) R 1 (b) S 1 77 77 0 -1 4194304 75 0 1 0 250 125 0 0 20 0 1 0 211897 2990080 388 1 1 1\n"
    user, system = 250 / TICKS_PER_SECOND, 125 / TICKS_PER_SECOND
    assert formats.parse_pid_stat(text) == ("S", user, system, 211897)


def test_resident_pages_become_bytes() -> None:
    assert formats.parse_statm("730 388 362 6 0 86 0\n") == 388 * PAGE_BYTES


def test_pss_is_found_among_the_lines_that_begin_like_it() -> None:
    text = "5561-7fff ---p 00000000 00:00 0   [rollup]\nRss: 1692 kB\nPss_Dirty: 1 kB\nPss:   400 kB\nPss_Anon: 2 kB\n"
    assert formats.parse_smaps_rollup(text) == 400 * 1024
    assert formats.parse_smaps_rollup("") is None


def test_status_lines_are_kept_as_text() -> None:
    found = formats.parse_status("Name:\tx: y\nUid:\t1000\t1001\t1000\t1000\nCpus_allowed_list:\t0-3,8\n")
    assert found["Uid"].split()[1] == "1001"
    assert found["Name"] == "x: y"


def test_unlimited_is_none_on_its_own_side() -> None:
    text = (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max processes             96365                unlimited            processes \n"
        "Max open files            1024                 524288               files     \n"
        "Max nice priority         0                    0                    \n"
    )
    found = formats.parse_limits(text)
    assert found["Max processes"] == (96365, None)
    assert found["Max open files"] == (1024, 524288)
    assert found["Max nice priority"] == (0, 0)


def test_joined_and_unified_cgroups_are_told_apart() -> None:
    found = formats.parse_cgroup("4:cpu,cpuacct:/a\n3:name=systemd:/b:c\n0::/d\n")
    assert found["cpuacct"] == ("cpu,cpuacct", "/a")
    assert found["name=systemd"] == ("name=systemd", "/b:c")
    assert found[""] == ("", "/d")


def test_free_handles_are_not_counted_as_used() -> None:
    assert formats.parse_file_nr("500\t16\t2466193\n") == (484, 2466193)


def test_vmstat_is_a_table() -> None:
    assert formats.parse_vmstat("pgfault 7\noom_kill 2\n") == {"pgfault": 7, "oom_kill": 2}


def test_the_family_of_a_process_is_read_from_its_stat() -> None:
    text = f"77 (a) b) S 5 {'0 ' * 9}100 50 200 30 {'0 ' * 4}4711 0 0\n"
    hundredth = 100 / formats.TICKS_PER_SECOND
    assert formats.parse_pid_family(text) == ("a) b", 5, 4711, 1.5 * hundredth, 2.3 * hundredth)


def test_pressure_is_in_seconds() -> None:
    text = "some avg10=0.07 avg60=0.61 avg300=0.45 total=8947983\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"
    assert formats.parse_pressure(text) == {"some": 8.947983, "full": 5e-06}


def test_pressure_of_an_older_kernel_has_no_full_line() -> None:
    assert formats.parse_pressure("some avg10=0.07 avg60=0.61 avg300=0.45 total=1000000\n") == {"some": 1.0}


def test_tcp_memory_is_in_bytes_and_other_counts_stay() -> None:
    found = formats.parse_sockstat("sockets: used 14\nTCP: inuse 1 orphan 2 tw 3 alloc 4 mem 85\nUDP: inuse 0 mem 6\n")
    assert found["sockets"]["used"] == 14
    assert found["TCP"] == {"inuse": 1, "orphan": 2, "tw": 3, "alloc": 4, "mem": 85 * PAGE_BYTES}
    assert found["UDP"]["mem"] == 6


def test_protocol_counters_pair_names_with_values() -> None:
    text = "TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 0 17\nIpExt: InNoRoutes\nIpExt: 3\n"
    assert formats.parse_netstat(text) == {
        "TcpExtSyncookiesSent": 0,
        "TcpExtListenOverflows": 17,
        "IpExtInNoRoutes": 3,
    }


def test_negative_counters_of_snmp_are_read() -> None:
    assert formats.parse_netstat("Tcp: MaxConn RetransSegs\nTcp: -1 5\n") == {"TcpMaxConn": -1, "TcpRetransSegs": 5}


def test_conntrack_rows_are_hexadecimal_and_summed_but_for_the_table_size() -> None:
    text = "entries  clashres insert_failed drop early_drop\n0000ff00  0 1 0000000a 2\n0000ff00  0 1 00000010 0\n"
    found = formats.parse_conntrack_stat(text)
    assert found == {"entries": 0xFF00, "clashres": 0, "insert_failed": 2, "drop": 26, "early_drop": 2}


def test_softnet_columns_are_hexadecimal_and_summed() -> None:
    assert formats.parse_softnet_stat("00000017 0000000a 00000001 0\n0000162f 00000010 00000002 0\n") == 26


MALFORMED = [
    (formats.parse_stat, "stat", "intr 5 6\n"),
    (formats.parse_stat, "stat", "cpu  1 2 three 4 5 6 7 8\n"),
    (formats.parse_stat, "stat", "cpu  1 2\n"),
    (formats.parse_meminfo, "meminfo", "MemTotal: many kB\n"),
    (formats.parse_meminfo, "meminfo", "MemTotal: 5 kB\n"),
    (formats.parse_meminfo, "meminfo", ""),
    (formats.parse_cpu_lists, "zoneinfo", "  count: many\n"),
    (formats.parse_pid_stat, "PID/stat", "77 sleep S 1"),
    (formats.parse_pid_stat, "PID/stat", "77 (sleep) S 1 2\n"),
    (formats.parse_pid_family, "PID/stat", "77 (sleep) S 1 2\n"),
    (formats.parse_statm, "PID/statm", "730"),
    (formats.parse_smaps_rollup, "PID/smaps_rollup", "Rss: 5 kB\n"),
    (formats.parse_status, "PID/status", "no colon\n"),
    (formats.parse_limits, "PID/limits", "Max open files 5 6 files\n"),
    (formats.parse_limits, "PID/limits", ""),
    (formats.parse_cgroup, "self/cgroup", "0:/\n"),
    (formats.parse_file_nr, "sys/fs/file-nr", "1 2\n"),
    (formats.parse_vmstat, "vmstat", "oom_kill\n"),
    (formats.parse_pressure, "pressure", "some avg10=0.07 total=1\n"),
    (formats.parse_sockstat, "net/sockstat", "TCP: inuse 1 orphan\n"),
    (formats.parse_sockstat, "net/sockstat", "UDP: inuse 1\n"),
    (formats.parse_netstat, "net/netstat", "TcpExt: A B\nTcpExt: 1\n"),
    (formats.parse_netstat, "net/netstat", "TcpExt: A\nIpExt: 1\n"),
    (formats.parse_conntrack_stat, "net/stat/nf_conntrack", "entries drop\n0 xyz\n"),
    (formats.parse_conntrack_stat, "net/stat/nf_conntrack", "entries drop\n0\n"),
    (formats.parse_softnet_stat, "net/softnet_stat", "00000017\n"),
]


@pytest.mark.parametrize(("parse", "name", "text"), MALFORMED)
def test_malformed_text_is_refused_by_the_name_of_its_file(
    parse: Callable[[str], object], name: str, text: str
) -> None:
    with pytest.raises(ValueError, match=f"malformed .*{name}"):
        parse(text)


def test_pages_that_cpus_keep_free_are_summed_and_their_bounds_are_not() -> None:
    text = "Node 0, zone Normal\n  pages free 9\n  pagesets\n    cpu: 0\n"
    text += "              count:    30\n              high:     900\n    cpu: 1\n              count:    12\n"
    assert formats.parse_cpu_lists(text) == 42 * formats.PAGE_BYTES


SLABINFO = """\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> …
sock_inode_cache    2060   2067    832   39    8 : tunables    0    0    0 : slabdata     53     53      0
proc_inode_cache    1000   1150    696   23    4 : tunables    0    0    0 : slabdata     50     50      0
dentry             21000  21000    192   21    1 : tunables    0    0    0 : slabdata   1000   1000      0
"""


def test_what_listing_proc_leaves_in_the_slab_is_its_inodes_and_a_dentry_for_each() -> None:
    assert formats.parse_proc_cache(SLABINFO) == 50 * 4 * formats.PAGE_BYTES + 1000 * 192


def test_a_kernel_that_names_its_caches_otherwise_has_no_proc_cache_to_tell_of() -> None:
    assert formats.parse_proc_cache("\n".join(SLABINFO.splitlines()[:3])) == 0
