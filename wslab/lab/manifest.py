"""What `run.json` says when a run begins: what was asked for, the machine, its limits, and who runs it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from wslab.core.ceilings import ceilings
from wslab.core.host import Host
from wslab.core.plan import Plan
from wslab.core.records import RUNNING
from wslab.core.stage import Stage
from wslab.lab.store import utc_now
from wslab.machine.process import start_ticks

# 2: the plan is stored whole, as `plan`, and the limits are those of `Host`. Folders of version 1 still load.
SCHEMA_VERSION = 2


def new_manifest(stage: Stage, plan: Plan, host: Host, run_dir: Path, target: str = "") -> dict[str, Any]:
    """Return the manifest of a run that is about to start."""
    effective = stage.as_dict() | {
        "server_shards": plan.server_shards,
        "swarm_workers": plan.swarm_workers,
        "source_addresses": len(plan.source_addresses),
        "connections_per_shard": plan.connections_per_shard,
        "connections_per_worker": plan.connections_per_worker,
        "pending_max": plan.pending_max,
        "data_dir": str(run_dir.parents[1]),
    }
    if target:  # A server that runs already; nothing is known about its processes.
        effective |= {"target": target, "server": target}
    machine = {
        "kernel": host.kernel,
        "cpu_model": host.cpu_model,
        "cpu_count": host.cpu_count,
        "memory_total_bytes": host.memory_total_bytes,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_dir.name,
        "outcome": RUNNING,
        "reason": "",
        "created_at": utc_now(),
        "ended_at": None,
        "wslab_version": _version("wslab"),
        "caller": {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())},
        "stage": {"asked": stage.as_dict(), "effective": effective},
        "host": machine | {"python": platform.python_version(), "websockets": _version("websockets")},
        "plan": plan.as_dict(),
        "limits": host.as_dict(),
        "preflight": [row.as_dict() for row in ceilings(host, plan)],
        "phases": [],
        "summary": {},
        "findings": [],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
