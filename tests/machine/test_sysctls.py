"""Settings by name: read with single spaces, and the list of those that are written for the whole machine."""

from __future__ import annotations

import pytest

from wslab.breaks.enclosure import FLOORS
from wslab.core.limits import LIMITS
from wslab.core.settings import SYSCTL
from wslab.machine.sysctls import WRITABLE, find_sysctl, is_writable, read_sysctl


def test_settings_of_this_machine_are_read_with_single_spaces() -> None:
    assert len(read_sysctl("net.ipv4.ip_local_port_range").split(" ")) == 2
    assert find_sysctl("no.such.setting") is None


def test_what_a_target_or_a_break_writes_is_in_the_list_and_nothing_else_is() -> None:
    lifts = [lift for limit in LIMITS for lift in limit.lifts]
    assert {lift.key for lift in lifts if lift.kind == SYSCTL} | set(FLOORS) == WRITABLE


@pytest.mark.parametrize(
    ("name", "value", "writable"),
    [
        ("fs.nr_open", "100", True),
        ("net.ipv4.tcp_mem", "1 2 3", True),
        ("fs.nr_open", "", False),
        ("fs.nr_open", "1\n2", False),
        ("fs/nr_open", "1", False),
        ("/etc/passwd", "1", False),
    ],
)
def test_only_numbers_are_written(name: str, value: str, writable: bool) -> None:
    assert is_writable(name, value) is writable
