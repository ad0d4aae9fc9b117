"""What lifts a limit by the lay-out of the load alone: parameters of a stage that go back to what the plan chooses.

A finding of a stage whose lay-out was given by hand is lifted by leaving it to the plan, without root. What the machine
itself has too little of is not here: `wslab tune` writes settings, and nothing makes memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Limit and side: the parameter that meets it, and the value that does not.
LIFTS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("ephemeral_ports", "swarm"): ("source_addresses", "auto"),
    ("time_wait", "kernel"): ("source_addresses", "auto"),
    ("fd_limit", "server"): ("server_shards", "auto"),
    ("fd_limit", "swarm"): ("swarm_workers", "auto"),
    ("nr_open", "server"): ("server_shards", "auto"),
    ("nr_open", "swarm"): ("swarm_workers", "auto"),
}


def lifts(findings: Iterable[Mapping[str, Any]], asked: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that lift what a run was ended by; empty where any of it is lifted by none.

    Args:
        findings: records of a run, each with `limit` and `side`.
        asked: the stage as it was asked for.
    """
    found = [LIFTS.get((str(finding["limit"]), str(finding["side"]))) for finding in findings]
    changes = {lift[0]: lift[1] for lift in found if lift and asked.get(lift[0]) != lift[1]}
    return changes if None not in found else {}
