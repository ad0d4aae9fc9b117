"""Records: the columns are unique and documented, and a row survives the way to disk and back."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from wslab.core.records import LATENCY_COLUMNS, SAMPLE_COLUMNS, Finding, from_cells, header, to_cells

UNITS = {"seconds", "bytes", "count", "fraction", "text"}


def test_every_column_has_one_name_a_known_unit_and_a_meaning() -> None:
    for columns in (SAMPLE_COLUMNS, LATENCY_COLUMNS):
        assert len({column.name for column in columns}) == len(columns)
        assert {column.unit for column in columns} <= UNITS
        assert all(column.meaning and "\n" not in column.meaning for column in columns)
        assert all(column.source and "\n" not in column.source for column in columns)
        # One fact in one place: where it is read stands in the source alone.
        assert not [column.name for column in columns if "/proc/" in column.meaning or "TcpExt" in column.meaning]


@pytest.mark.parametrize("unit", ["seconds", "bytes"])
def test_a_unit_in_a_name_is_the_unit_of_the_column(unit: str) -> None:
    named = [column for column in SAMPLE_COLUMNS if f"_{unit}" in column.name]
    assert named
    assert {column.unit for column in named} == {unit}


# What only a server has: a listener, and queues that are looked at to see what reached it.
SERVER_ONLY = {"shards_at_limit", "listeners", "accept_queue", "sockets_waiting", "receive_queue_bytes"}


def test_both_ends_have_the_same_columns() -> None:
    names = header()
    server = {name.removeprefix("server_") for name in names if name.startswith("server_")} - SERVER_ONLY
    swarm = {name.removeprefix("swarm_") for name in names if name.startswith("swarm_")}
    assert server <= swarm
    own = {"connections_pending", "connections_verified", "messages_failed", "messages_unasked", "lag_seconds_max"}
    assert swarm - server == own


def test_a_sample_survives_the_way_through_a_csv_file() -> None:
    record: dict[str, Any] = {column.name: None for column in SAMPLE_COLUMNS}
    record |= {
        "elapsed_seconds": 1.000123,
        "phase": "ramp",
        "server_connections_open": 12_345,
        "memory_headroom_bytes": 1 << 40,
        "server_cpu_fraction_max": 0.0,
        "swarm_messages_failed": 0,
    }
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(header())
    writer.writerow(to_cells(record))
    names, cells = csv.reader(io.StringIO(file.getvalue()))
    back = from_cells(cells, names)
    assert back == record
    assert type(back["server_connections_open"]) is int
    assert type(back["server_cpu_fraction_max"]) is float


def test_what_was_not_read_is_empty_on_disk_and_none_in_memory_never_zero() -> None:
    cells = to_cells({"elapsed_seconds": 2.0})
    assert cells[0] == "2.0"
    assert set(cells[1:]) == {""}
    assert from_cells(cells, header())["memory_free_bytes"] is None


def test_a_row_cut_short_gives_none_for_the_rest() -> None:
    assert from_cells(["3.5"], header())["elapsed_seconds"] == 3.5
    assert from_cells(["3.5"], header())["phase"] is None


def test_columns_of_another_version_are_matched_by_name() -> None:
    back = from_cells(["hold", "x", "7"], ["phase", "gone_column", "tcp_inuse"])
    assert (back["phase"], back["tcp_inuse"]) == ("hold", 7)
    assert "gone_column" not in back
    assert back["server_cpu_throttled_fraction"] is back["swarm_cpu_quota_fraction"] is None


def test_seconds_are_kept_to_the_microsecond() -> None:
    assert to_cells({"elapsed_seconds": 0.1234567})[0] == "0.123457"


def test_a_finding_is_written_with_the_keys_of_the_contract() -> None:
    finding = Finding(limit="conntrack", side="kernel", at_connections=5, evidence="drop 0 → 3", remedy="raise it")
    assert list(finding.as_dict()) == [
        "limit",
        "side",
        "at_connections",
        "evidence",
        "remedy",
        "first_seconds",
        "certainty",
        "ruled_out",
    ]
