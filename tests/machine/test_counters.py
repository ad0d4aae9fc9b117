"""The machine's columns of a sample."""

from __future__ import annotations

from pathlib import Path

from wslab.core.records import SAMPLE_COLUMNS
from wslab.machine.counters import Counters
from wslab.machine.procfs import read_meminfo

CAPTURED = Path(__file__).parents[1] / "data/proc-cgroup1/proc"
NAMES = [column.name for column in SAMPLE_COLUMNS]
MACHINE_NAMES = NAMES[NAMES.index("cpu_user_seconds") :]


def test_every_machine_column_is_read_from_the_captured_tree() -> None:
    values = Counters(CAPTURED).read()
    assert sorted(values) == sorted(MACHINE_NAMES)
    assert None not in values.values()


def test_memory_columns_add_up_to_the_whole_memory() -> None:
    values, table = Counters(CAPTURED).read(), read_meminfo(CAPTURED)
    taken = table["AnonPages"] + table["Shmem"] + table["SwapCached"]
    assert values["memory_headroom_bytes"] + values["memory_kernel_bytes"] + taken == table["MemTotal"]
    file_cache = table["Buffers"] + table["Cached"] - table["Shmem"]
    assert values["memory_headroom_bytes"] == values["memory_free_bytes"] + file_cache + values["proc_cache_bytes"]


def test_columns_are_none_where_nothing_can_be_read(tmp_path: Path) -> None:
    values = Counters(tmp_path).read()
    assert sorted(values) == sorted(MACHINE_NAMES)
    assert set(values.values()) == {None}


def test_a_later_reading_shows_the_counters_of_then(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    netstat = tmp_path / "net/netstat"
    netstat.write_text("TcpExt: ListenOverflows\nTcpExt: 1\n")
    counters = Counters(tmp_path)
    assert counters.read()["listen_overflows_total"] == 1
    netstat.write_text("TcpExt: ListenOverflows\nTcpExt: 52\n")
    values = counters.read()
    assert values["listen_overflows_total"] == 52
    assert values["listen_drops_total"] is None
