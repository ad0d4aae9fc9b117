"""The board: rows that several processes share."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from wslab.core.histogram import BUCKETS
from wslab.load import scoreboard as words
from wslab.load.scoreboard import Scoreboard, count_failure, vacate


def test_a_child_that_inherits_the_descriptor_writes_what_its_parent_reads() -> None:
    board = Scoreboard.create(3)
    code = (
        "import sys; from wslab.load.scoreboard import *; board = Scoreboard.attach(int(sys.argv[1])); "
        "row = board.row(2); row[PID] = 2**63; row[ROUNDTRIP + BUCKETS - 1] = 7; print(board.rows, board.phase)"
    )
    board.phase = "verify"
    command = [sys.executable, "-c", code, str(board.fd)]
    done = subprocess.run(command, pass_fds=[board.fd], check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["3", "verify"]
    assert board.row(2)[words.PID] == 2**63
    assert board.row(2)[words.ROUNDTRIP + BUCKETS - 1] == 7
    os.close(board.fd)


def test_a_row_overlaps_neither_its_neighbours_nor_the_header() -> None:
    board = Scoreboard.create(3)
    board.phase = "hold"
    board.row(1)[:] = memoryview(bytearray(b"\xff" * 8 * words.ROW_WORDS)).cast("Q")
    assert not any(board.row(0))
    assert not any(board.row(2))
    assert board.phase == "hold"
    os.close(board.fd)


def test_the_parts_of_a_row_do_not_overlap() -> None:
    named = [value for name, value in vars(words).items() if name.isupper() and isinstance(value, int)]
    assert words.PHASE_DONE < words.FAILURES
    size = len(words.FAILURE_PHASES) * words.ERRNOS
    assert words.MESSAGES_UNASKED < words.FAILURES
    assert words.FAILURES + size == words.FIRST_FAILURES
    assert words.FIRST_FAILURES + size == words.HANDSHAKE
    assert words.HANDSHAKE + BUCKETS == words.ROUNDTRIP
    assert words.ROUNDTRIP + BUCKETS == words.ROW_WORDS == max(named)


def test_totals_are_over_the_processes_of_one_role() -> None:
    board = Scoreboard.create(4)
    for index, (role, count) in enumerate([(words.ROLE_SERVER, 5), (words.ROLE_SWARM, 2), (words.ROLE_SWARM, 1)]):
        board.row(index)[words.ROLE], board.row(index)[words.OPEN] = role, count
        board.row(index)[words.HANDSHAKE + 3] = count
    board.row(3)[words.OPEN] = 100  # A row that nobody has taken yet.
    assert board.total(words.OPEN, words.ROLE_SERVER) == 5
    assert board.total(words.OPEN, words.ROLE_SWARM) == 3
    assert board.histogram(words.HANDSHAKE)[3] == 3
    os.close(board.fd)


def test_a_histogram_without_a_swarm_is_empty() -> None:
    board = Scoreboard.create(1)
    assert board.histogram(words.ROUNDTRIP) == [0] * BUCKETS
    os.close(board.fd)


def test_failures_are_summed_by_phase_and_errno() -> None:
    board = Scoreboard.create(3)
    for index in (0, 1):
        board.row(index)[words.ROLE] = words.ROLE_SWARM
        board.row(index)[words.FAILURES + 1 * words.ERRNOS + 110] = 2
    board.row(1)[words.FAILURES + 3 * words.ERRNOS + words.ERRNOS - 1] = 1
    assert board.failures() == {("upgrade", 110): 4, ("hold", words.ERRNOS - 1): 1}
    os.close(board.fd)


def test_an_unknown_phase_cannot_be_announced() -> None:
    board = Scoreboard.create(1)
    with pytest.raises(ValueError, match="not in tuple"):
        board.phase = "lunch"
    assert board.phase == "start"
    os.close(board.fd)


def test_the_connections_of_a_process_that_died_are_lost_and_not_open() -> None:
    board = Scoreboard.create(1)
    row = board.row(0)
    row[words.OPEN], row[words.PENDING], row[words.CLOSED], row[words.FAILED], row[words.VERIFIED] = 7, 2, 1, 1, 5
    row[words.OPENED], row[words.AT_LIMIT] = 8, 1
    vacate(row)
    assert (row[words.OPEN], row[words.PENDING], row[words.VERIFIED], row[words.AT_LIMIT]) == (0, 0, 0, 0)
    assert (row[words.OPENED], row[words.CLOSED], row[words.FAILED]) == (8, 8, 3)
    os.close(board.fd)


def test_the_first_failure_of_a_kind_is_told_and_timed() -> None:
    board = Scoreboard.create(1)
    row = board.row(0)
    assert count_failure(row, 2, 110)
    first = row[words.FIRST_FAILURES + 2 * words.ERRNOS + 110]
    assert 0 < first <= time.monotonic_ns()
    assert not count_failure(row, 2, 110)
    assert (row[words.FAILURES + 2 * words.ERRNOS + 110], row[words.FIRST_FAILURES + 2 * words.ERRNOS + 110]) == (
        2,
        first,
    )
    os.close(board.fd)
