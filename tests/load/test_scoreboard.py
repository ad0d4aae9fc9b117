"""The scoreboard: rows that several processes share."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from wslab.core.histogram import BUCKETS
from wslab.load import scoreboard as words
from wslab.load.scoreboard import Scoreboard, vacate


def test_a_child_that_inherits_the_descriptor_writes_what_its_parent_reads() -> None:
    scoreboard = Scoreboard.create(3)
    code = (
        "import sys; from wslab.load.scoreboard import *; scoreboard = Scoreboard.attach(int(sys.argv[1])); "
        "row = scoreboard.row(2); row[PID] = 2**63; row[ROUNDTRIP + BUCKETS - 1] = 7; "
        "print(scoreboard.rows, scoreboard.phase)"
    )
    scoreboard.phase = "verify"
    command = [sys.executable, "-c", code, str(scoreboard.fd)]
    done = subprocess.run(command, pass_fds=[scoreboard.fd], check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["3", "verify"]
    assert scoreboard.row(2)[words.PID] == 2**63
    assert scoreboard.row(2)[words.ROUNDTRIP + BUCKETS - 1] == 7
    os.close(scoreboard.fd)


def test_a_row_overlaps_neither_its_neighbours_nor_the_header() -> None:
    scoreboard = Scoreboard.create(3)
    scoreboard.phase = "hold"
    scoreboard.row(1)[:] = memoryview(bytearray(b"\xff" * 8 * words.ROW_WORDS)).cast("Q")
    assert not any(scoreboard.row(0))
    assert not any(scoreboard.row(2))
    assert scoreboard.phase == "hold"
    os.close(scoreboard.fd)


def test_the_parts_of_a_row_do_not_overlap() -> None:
    named = [value for name, value in vars(words).items() if name.isupper() and isinstance(value, int)]
    assert words.PHASE_DONE < words.FAILURES
    assert words.FAILURES + len(words.FAILURE_PHASES) * words.ERRNOS == words.FIRST_FAILURES
    assert words.FIRST_FAILURES + len(words.FAILURE_PHASES) * words.ERRNOS == words.HANDSHAKE
    assert words.HANDSHAKE + BUCKETS == words.ROUNDTRIP
    assert words.ROUNDTRIP + BUCKETS == words.ROW_WORDS == max(named)


def test_totals_are_over_the_processes_of_one_role() -> None:
    scoreboard = Scoreboard.create(4)
    for index, (role, count) in enumerate([(words.ROLE_SERVER, 5), (words.ROLE_SWARM, 2), (words.ROLE_SWARM, 1)]):
        scoreboard.row(index)[words.ROLE], scoreboard.row(index)[words.OPEN] = role, count
        scoreboard.row(index)[words.HANDSHAKE + 3] = count
    scoreboard.row(3)[words.OPEN] = 100  # A row that nobody has taken yet.
    assert scoreboard.total(words.OPEN, words.ROLE_SERVER) == 5
    assert scoreboard.total(words.OPEN, words.ROLE_SWARM) == 3
    assert scoreboard.histogram(words.HANDSHAKE)[3] == 3
    os.close(scoreboard.fd)


def test_a_histogram_without_a_swarm_is_empty() -> None:
    scoreboard = Scoreboard.create(1)
    assert scoreboard.histogram(words.ROUNDTRIP) == [0] * BUCKETS
    os.close(scoreboard.fd)


def test_failures_are_summed_by_phase_and_errno() -> None:
    scoreboard = Scoreboard.create(3)
    for index in (0, 1):
        scoreboard.row(index)[words.ROLE] = words.ROLE_SWARM
        scoreboard.row(index)[words.FAILURES + 1 * words.ERRNOS + 110] = 2
    scoreboard.row(1)[words.FAILURES + 3 * words.ERRNOS + words.ERRNOS - 1] = 1
    assert scoreboard.failures() == {("upgrade", 110): 4, ("hold", words.ERRNOS - 1): 1}
    os.close(scoreboard.fd)


def test_a_failure_is_counted_with_the_time_of_the_first_of_its_kind_and_the_earliest_process_counts() -> None:
    scoreboard = Scoreboard.create(3)
    for index in (0, 1):
        scoreboard.row(index)[words.ROLE] = words.ROLE_SWARM
    before = time.monotonic_ns()
    assert words.count_failure(scoreboard.row(1), 2, 74)
    between = time.monotonic_ns()
    assert not words.count_failure(scoreboard.row(1), 2, 74)
    assert words.count_failure(scoreboard.row(0), 2, 74)
    assert words.count_failure(scoreboard.row(0), 2, 10_000)
    assert scoreboard.failures() == {("echo", 74): 3, ("echo", words.ERRNOS - 1): 1}
    firsts = scoreboard.first_failures()
    assert firsts.keys() == scoreboard.failures().keys()
    assert before <= firsts["echo", 74] <= between <= firsts["echo", words.ERRNOS - 1]
    os.close(scoreboard.fd)


def test_an_unknown_phase_cannot_be_announced() -> None:
    scoreboard = Scoreboard.create(1)
    with pytest.raises(ValueError, match="not in tuple"):
        scoreboard.phase = "lunch"
    assert scoreboard.phase == "start"
    os.close(scoreboard.fd)


def test_the_connections_of_a_process_that_died_are_lost_and_not_open() -> None:
    scoreboard = Scoreboard.create(1)
    row = scoreboard.row(0)
    row[words.OPEN], row[words.PENDING], row[words.CLOSED], row[words.FAILED], row[words.VERIFIED] = 7, 2, 1, 1, 5
    row[words.OPENED], row[words.AT_LIMIT] = 8, 1
    vacate(row)
    assert (row[words.OPEN], row[words.PENDING], row[words.VERIFIED], row[words.AT_LIMIT]) == (0, 0, 0, 0)
    assert (row[words.OPENED], row[words.CLOSED], row[words.FAILED]) == (8, 8, 3)
    os.close(scoreboard.fd)
