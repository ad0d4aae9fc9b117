"""The break atlas as a table: each break is complete, possible and small, and its remedy keeps the load."""

from __future__ import annotations

import re

import pytest

from wslab.breaks.enclosure import CPU_QUOTA_LEAST, Enclosure
from wslab.breaks.table import BREAKS, find_breaks
from wslab.breaks.trial import COUNTED, ESTIMATED, Break, Trial
from wslab.core.diagnosis import RULES
from wslab.core.limits import LIMITS
from wslab.core.quantities import BadInput
from wslab.core.stage import Stage

POSSIBLE = [item for item in BREAKS if not item.infeasible]
NUMBERED = {limit.name for limit in LIMITS}
NAMED = {limit for rule in RULES for limit in rule.limits}
# What is in the load itself, and not in how it is spread.
LOAD = ("connections", "hold_seconds", "message_bytes")

every_break = pytest.mark.parametrize("item", POSSIBLE, ids=lambda item: item.name)


def test_each_break_has_a_name_of_its_own() -> None:
    assert len({item.name for item in BREAKS}) == len(BREAKS)
    assert all(re.fullmatch("[a-z_]+", item.name) for item in BREAKS)


def test_every_limit_that_can_be_lowered_is_broken_and_the_others_say_why_not() -> None:
    assert {item.limit for item in BREAKS} >= {
        *("ephemeral_ports", "bind_ports", "conntrack", "fd_limit", "epoll_watches", "process_limit"),
        *("memory_cgroup", "memory_reserve", "accept_queue", "syn_queue", "server_cpu", "generator"),
        *("server_silent", "server_died", "time_wait", "conntrack_buckets", "machine_cpu"),
        *("nr_open", "file_max", "device_backlog", "tcp_mem", "memory_machine"),
        *("firewall", "link"),
    }
    assert {item.name for item in BREAKS if item.infeasible} == {"memory_machine"}
    assert {item.name for item in BREAKS if item.shared} == {
        *("conntrack", "conntrack_before_accept_queue", "conntrack_before_ports", "ports_before_conntrack"),
        *("conntrack_buckets", "epoll_watches"),
        *("nr_open", "file_max", "device_backlog", "tcp_mem"),
    }
    assert not any(item.trials for item in BREAKS if item.infeasible)


@every_break
def test_a_break_expects_what_the_diagnosis_can_name(item: Break) -> None:
    assert {item.limit, item.then or item.limit} <= NAMED
    assert item.title
    assert item.remedy


@every_break
def test_the_load_is_one_that_a_stage_accepts_and_the_remedy_changes_something_else(item: Break) -> None:
    assert item.broken is not None
    stages = [Stage.of(**trial.parameters) for trial in item.trials]
    assert len({tuple(getattr(stage, name) for name in LOAD) for stage in stages}) == 1
    assert len(item.trials) == (3 if item.then else 2)
    assert item.broken != item.remedied
    assert item.broken != item.between
    assert stages[0].connections <= 60_000


@every_break
def test_what_is_counted_has_a_number_in_the_table_of_limits(item: Break) -> None:
    if item.unit:
        assert item.limit in NUMBERED
        assert item.tolerance == (ESTIMATED if item.limit.startswith("memory") else COUNTED)
    else:
        assert item.tolerance is None


def test_what_is_lowered_for_the_whole_machine_is_counted_apart_and_others_keep_room() -> None:
    # The enclosures refuse to be described otherwise, so that it is enough that they are there.
    assert (
        sum(bool(trial.enclosure and trial.enclosure.global_sysctls) for item in POSSIBLE for trial in item.trials) >= 6
    )


@pytest.mark.parametrize(("name", "role"), [("server_cpu", "server"), ("generator", "swarm")])
def test_an_end_is_slowed_by_its_cpu_quota_alone_while_the_other_has_time(name: str, role: str) -> None:
    (item,) = find_breaks(name)
    assert item.broken is not None
    assert item.remedied is not None
    assert item.broken.enclosure == Enclosure(cpu_quota={role: CPU_QUOTA_LEAST})
    assert item.remedied.enclosure == Enclosure(cpu_quota={role: 1.0})
    assert item.remedied.parameters == item.broken.parameters


def test_changes_go_to_the_trial_by_its_own_names_and_to_the_parameters_by_all_others() -> None:
    trial = Trial(parameters={"connections": 10, "server_shards": 1}, act="kill a shard")
    enclosure = Enclosure(fd_limit={"server": 100})
    changed = trial.changed({"server_shards": 2, "act": "", "enclosure": enclosure})
    assert changed == Trial(parameters={"connections": 10, "server_shards": 2}, enclosure=enclosure)
    assert trial.parameters["server_shards"] == 1


def test_breaks_are_found_by_name_in_the_order_of_the_table() -> None:
    assert find_breaks() == BREAKS
    assert find_breaks("all,conntrack") == BREAKS
    assert [item.name for item in find_breaks("conntrack, ephemeral_ports")] == ["ephemeral_ports", "conntrack"]
    with pytest.raises(BadInput, match=r"conntrak.*conntrack"):
        find_breaks("conntrak")
