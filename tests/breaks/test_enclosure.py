"""The description of an enclosure: what it refuses, and what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from wslab.breaks.enclosure import Enclosure
from wslab.core.quantities import BadInput
from wslab.machine.sysctls import CONNTRACK_BUCKETS, CONNTRACK_MAX, EPOLL_WATCHES, FILE_MAX, NR_OPEN, TCP_MEM


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"fd_limit": {"client": 300}}, "fd_limit=client"),
        ({"fd_limit": {"server": 10}}, "fd_limit[server]=10"),
        ({"memory_bytes": {"swarm": 4096}}, "memory_bytes[swarm]=4096"),
        ({"processes": {"swarm": 0}}, "processes[swarm]=0"),
        ({"cpu_quota": {"swarm": 0.04}}, "cpu_quota[swarm]=0.04 is not accepted: a number from 0.05"),
        ({"cpu_quota": {"recorder": 1}}, "cpu_quota=recorder"),
        ({"cpus": {"server": ()}}, "at least one CPU"),
        ({"netns": True, "sysctls": {"fs.nr_open": 1000}}, "sysctls=fs.nr_open"),
        ({"netns": True, "sysctls": {"net./../fs.nr_open": 1000}}, "sysctls=net./../fs.nr_open"),
        ({"sysctls": {"net.core.somaxconn": 16}}, "netns=False"),
        ({"nft": "table inet t {}"}, "netns=False"),
        ({"packet_cpu": 0}, "netns=False"),
        ({"link": {"kind": "tbf"}}, "netns=False"),
        ({"netns": True, "link": {"rate": "20mbit"}}, "its kind"),
        ({"uid": -1}, "uid=-1"),
        ({"global_sysctls": {"vm.swappiness": 1000}}, "global_sysctls=vm.swappiness"),
        ({"global_sysctls": {FILE_MAX: 1000}}, f"{FILE_MAX}=1000"),
        ({"global_sysctls": {TCP_MEM: "100 2000 4000"}}, f"{TCP_MEM}=100 2000 4000"),
        ({"global_sysctls": {EPOLL_WATCHES: 4095}, "uid": 65534}, f"{EPOLL_WATCHES}=4095"),
        ({"global_sysctls": {EPOLL_WATCHES: 5000}}, "other than root"),
        ({"global_sysctls": {EPOLL_WATCHES: 5000}, "uid": 0}, "other than root"),
        ({"global_sysctls": {CONNTRACK_MAX: 500}}, "counted by namespace"),
        ({"global_sysctls": {TCP_MEM: "256 1 1"}}, f"{TCP_MEM}=256 1 1"),
        ({"global_sysctls": {TCP_MEM: ""}}, f"{TCP_MEM}="),
        ({"global_sysctls": {NR_OPEN: "many"}}, f"{NR_OPEN}=many"),
        ({"netns": True, "packet_cpu": -1}, "packet_cpu=-1"),
    ],
)
def test_an_enclosure_that_could_harm_the_machine_or_makes_no_sense_is_refused(
    bounds: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput) as refused:
        Enclosure(**bounds)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("bounds", "needs_root"),
    [
        ({}, False),
        ({"fd_limit": {"server": 300}, "processes_limit": {"swarm": 5}, "cpus": {"server": (0,)}}, False),
        ({"netns": True}, True),
        ({"memory_bytes": {"server": 60 << 20}}, True),
        ({"processes": {"swarm": 5}}, True),
        ({"cpu_quota": {"server": 0.2}}, True),
        ({"uid": 65534}, True),
    ],
)
def test_it_takes_root_for_what_the_kernel_gives_to_root_alone(bounds: dict[str, Any], needs_root: bool) -> None:
    assert Enclosure(**bounds).needs_root is needs_root


def test_it_says_which_settings_everybody_has_changed_also_where_their_use_is_counted_apart() -> None:
    lowered = {CONNTRACK_MAX: 500, CONNTRACK_BUCKETS: 512, NR_OPEN: 4000, EPOLL_WATCHES: 5000}
    bounds = Enclosure(netns=True, uid=65534, sysctls={"net.core.somaxconn": 9}, global_sysctls=lowered)
    assert bounds.shared == tuple(lowered)


@pytest.mark.parametrize(
    ("rules", "tracked"),
    [
        ("", False),
        ("table inet t { chain c { type filter hook input priority 0; tcp dport 22 accept; }; }", False),
        ("table inet t { chain c { type filter hook input priority 0; ct state invalid drop; }; }", True),
        (
            "table inet t { chain i { ct state new; } chain o { type filter hook output priority raw; notrack; } }",
            False,
        ),
    ],
)
def test_only_stateful_rules_make_the_kernel_track(rules: str, tracked: bool) -> None:
    assert Enclosure(netns=True, nft=rules).tracks_connections is tracked


def test_what_is_as_on_the_machine_is_left_out_of_the_record() -> None:
    assert Enclosure().as_dict() == {}
    assert Enclosure(uid=0, cpus={"server": (0,)}).as_dict() == {"uid": 0, "cpus": {"server": (0,)}}
