"""A process under bounds: what it has got when it has entered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from isolated import needs
from wslab.breaks.enclosure import Enclosure

REPORT = """
import json, os, resource, sys
from wslab.machine.enter import become, enter
spec = json.loads(sys.argv[1])
enter(spec)
if "uid" in spec:
    become(spec["uid"])
print(json.dumps({
    "fd": resource.getrlimit(resource.RLIMIT_NOFILE),
    "processes": resource.getrlimit(resource.RLIMIT_NPROC),
    "cpus": sorted(os.sched_getaffinity(0)),
    "ids": [*os.getresuid(), *os.getresgid(), *os.getgroups()],
    "modules": [name for name in ("ctypes", "traceback", "encodings.idna") if name in sys.modules],
}))
"""


def entered(**spec: Any) -> dict[str, Any]:
    """Return what a process finds that has entered."""
    command = [sys.executable, "-c", REPORT, json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_limits_and_cpus_hold_for_a_process_that_has_entered() -> None:
    cpu = min(os.sched_getaffinity(0))
    found = entered(fd_limit=300, processes_limit=50, cpus=[cpu])
    assert (found["fd"], found["processes"], found["cpus"]) == ([300, 300], [50, 50], [cpu])


def test_what_is_not_bound_stays_as_it_is_and_nothing_is_loaded_for_it() -> None:
    found, before = entered(fd_limit=None, cgroups=[], netns=None), entered()
    assert found == before
    assert "ctypes" not in found["modules"]


def test_a_limit_above_that_of_the_machine_is_the_machines() -> None:
    hard = entered()["fd"][1]
    assert entered(fd_limit=hard + 1)["fd"] == [hard, hard]


@needs(Enclosure(uid=65534))
def test_another_user_has_one_group_and_has_loaded_what_he_could_not_load_any_more() -> None:
    found = entered(uid=65534)
    assert found["ids"] == [65534] * 6
    assert found["modules"] == ["traceback", "encodings.idna"]


def test_a_namespace_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        entered(netns="/run/netns/wslab-not-there")
    assert "FileNotFoundError" in failed.value.stderr
