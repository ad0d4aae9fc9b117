"""What `run.json` says when a run begins: what was asked for, the machine, its limits, and who runs it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from wslab.core.limits import ceilings
from wslab.core.plan import Plan
from wslab.core.records import RUNNING
from wslab.core.stage import Stage
from wslab.lab.store import utc_now
from wslab.machine.process import start_ticks

SCHEMA_VERSION = 1


def new_manifest(stage: Stage, plan: Plan, host: Mapping[str, Any], run_dir: Path, target: str = "") -> dict[str, Any]:
    """Return the manifest of a run that is about to start."""
    effective = stage.as_dict() | {
        "server_shards": plan.shards,
        "swarm_workers": plan.workers,
        "source_addresses": len(plan.source_addresses),
        "connections_per_shard": plan.connections_per_shard,
        "connections_per_worker": plan.connections_per_worker,
        "pending_max": plan.pending_max,
        "data_dir": str(run_dir.parents[1]),
    }
    if target:  # A server that runs already; nothing is known about its processes.
        effective |= {"target": target, "server": target, "server_shards": 0}
    machine = {key: host.get(key) for key in ("kernel", "cpu_model", "cpu_count", "memory_total_bytes")}
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
        "limits": dict(host),
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
