"""What lifts a limit by the lay-out of the load alone: parameters of a stage that go back to what the plan chooses.

A finding of a stage whose lay-out was given by hand is lifted by leaving it to the plan, without root. What the machine
itself has too little of is not here: `wslab tune` writes settings, and nothing makes memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# What a parameter says that leaves it to the plan.
AUTO = "auto"

# Limit and side: the parameter that meets it where it was given by hand.
LIFTS: Mapping[tuple[str, str], str] = {
    ("ephemeral_ports", "swarm"): "source_addresses",
    ("time_wait", "kernel"): "source_addresses",
    ("fd_limit", "server"): "server_shards",
    ("fd_limit", "swarm"): "swarm_workers",
    ("nr_open", "server"): "server_shards",
    ("nr_open", "swarm"): "swarm_workers",
}


def lifts(findings: Iterable[Mapping[str, Any]], asked: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that lift what a run was ended by; empty where any of it is lifted by none.

    Args:
        findings: records of a run, each with `limit` and `side`.
        asked: the stage as it was asked for.
    """
    found = [LIFTS.get((str(finding["limit"]), str(finding["side"]))) for finding in findings]
    changes = {name: AUTO for name in found if name and asked.get(name) != AUTO}
    return changes if None not in found else {}
