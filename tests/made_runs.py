"""Synthetic run folders for tests: plausible, small, the same every time, and clearly not measured."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

from wslab.core.histogram import bucket_of, bucket_seconds
from wslab.core.records import SAMPLE_COLUMNS, to_cells

GIB = 1 << 30
HOST = {
    "kernel": "6.18.5-made",
    "cpu_model": "Made-up CPU @ 3.0 GHz",
    "cpu_count": 2,
    "memory_total_bytes": 24 * GIB,
    "python": "3.11.9",
    "websockets": "17.4",
}
CEILINGS = [
    # limit, title, ceiling in connections, value, lift, needs root
    ("fd_limit", "Open files of one process", 19_936, "20,000", "start more shards: server_shards auto", False),
    ("ephemeral_ports", "Ephemeral ports of one source address", 28_232, "32768-60999", "more source addresses", False),
    ("conntrack", "Tracked connections", 262_144, "262,144", "sysctl -w net.netfilter.nf_conntrack_max=2M", True),
    ("file_max", "Open files of the system", 1_200_000, "2,466,170", "sysctl -w fs.file-max=8388608", True),
    ("memory_machine", "Memory of the machine", 2_678_189, "23.4 GiB", "more memory", False),
    ("epoll_watches", "epoll watches of one user", 2_745_755, "5,491,511", "sysctl fs.epoll.max_user_watches", True),
    ("nr_open", "Highest fd limit that may be set", None, "1,048,576", "not reached as planned", True),
]
BROKEN = {
    "limit": "conntrack",
    "side": "kernel",
    "at_connections": 262_144,
    "evidence": "nf_conntrack_count reached nf_conntrack_max (262,144) and drop went from 0 to 18,211",
    "remedy": "raise it: sysctl -w net.netfilter.nf_conntrack_max=2097152, or load no stateful rule on lo",
}


def ceiling_rows() -> list[dict[str, Any]]:
    """Return the made-up preflight, as it stands in a manifest."""
    names = ("limit", "title", "ceiling_connections", "value", "lift", "needs_root")
    rows = [dict(zip(names, row, strict=True)) for row in CEILINGS]
    rest = {"scope": "", "side": "kernel", "binding": True, "note": ""}
    spared = {"binding": False, "note": "root is exempt"}
    return [{**rest, **row, **(spared if row["limit"] == "file_max" else {})} for row in rows]


def make_run(
    data_dir: Path,
    connections: int = 100_000,
    *,
    server: str = "lean",
    outcome: str = "held",
    reached: int | None = None,
    second: int = 0,
    findings: tuple[dict[str, Any], ...] = (),
) -> Path:
    """Write one run folder under `data_dir/runs` and return it.

    Args:
        data_dir: the data folder.
        connections: what the stage asked for.
        server: server kind; `tcp_floor` gets faster and leaner figures.
        outcome: the outcome in the manifest.
        reached: connections at the plateau, all of them unless given.
        second: seconds after a fixed start; orders the runs.
        findings: the findings in the manifest.
    """
    floor = server == "tcp_floor"
    reached = connections if reached is None else reached
    rate = 21_000.0 if floor else 17_000.0
    ramp = max(3, math.ceil(reached / rate))
    run_id = f"20250102T0304{second:02d}Z-{_name(connections)}-{connections % 65536:04x}"
    run_dir = data_dir / "runs" / run_id
    run_dir.mkdir(parents=True)
    phases = _phases(ramp)
    samples = _samples(phases, reached, floor)
    _write_samples(run_dir / "samples.csv", samples)
    _write_latency(run_dir / "latency.csv", phases)
    _write_events(run_dir / "events.jsonl", phases, reached)
    user = 20.0 if floor else 260.0
    manifest = {
        "schema_version": 1,
        "run_id": run_id,
        "outcome": outcome,
        "reason": "" if outcome == "held" else f"stopped at {reached:,} of {connections:,} connections",
        "created_at": f"2025-01-02T03:04:{second:02d}Z",
        "ended_at": "2025-01-02T03:09:59Z",
        "wslab_version": "0.0.0",
        "caller": {"pid": 1, "start_ticks": 0},
        "stage": {
            "asked": {"connections": connections, "server": server, "server_shards": "auto"},
            "effective": {"connections": connections, "server": server, "server_shards": 6, "memory_reserve": GIB},
        },
        "host": HOST,
        "limits": {"memory_headroom_bytes": 22 * GIB},
        "preflight": ceiling_rows(),
        "phases": phases,
        "summary": {
            "connections": connections,
            "connections_open": reached,
            "connections_failed": connections - reached,
            "connections_verified": reached,
            "ramp_seconds": reached / rate,
            "connections_per_second": rate,
            "messages_per_second": 1000.0,
            "roundtrip_seconds_p50": 0.0008,
            "roundtrip_seconds_p99": 0.0123,
            "roundtrip_seconds_p999": 0.051,
            "server_user_bytes_per_connection": user + 4e6 / reached,
            "swarm_user_bytes_per_connection": 1.2 * user + 4e6 / reached,
            "kernel_bytes_per_connection": 8400.0 if not floor else 8330.0,
            "total_bytes_per_connection": 8400.0 + 2.2 * user + 8e6 / reached,
            "server_shards": 6,
            "swarm_workers": 6,
            "generator_limited": False,
        },
        "findings": list(findings),
    }
    (run_dir / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    return run_dir


def _name(connections: int) -> str:
    return f"{connections // 1000}k" if connections < 1_000_000 else f"{connections // 1_000_000}M"


def _phases(ramp: int) -> list[dict[str, Any]]:
    ends = {"start": 2.0, "ramp": 2.0 + ramp, "hold": 12.0 + ramp, "verify": 15.0 + ramp, "drain": 17.0 + ramp}
    starts = [0.0, *list(ends.values())[:-1]]
    return [
        {"name": name, "started_seconds": start, "ended_seconds": end}
        for (name, end), start in zip(ends.items(), starts, strict=True)
    ]


def _samples(phases: list[dict[str, Any]], reached: int, floor: bool) -> list[dict[str, Any]]:
    rng = random.Random(reached)
    ramp_start, ramp_end = phases[1]["started_seconds"], phases[1]["ended_seconds"]
    rows: list[dict[str, Any]] = []
    busy = 0.0
    for second in range(int(phases[-1]["ended_seconds"]) + 1):
        phase = next(p["name"] for p in reversed(phases) if second >= p["started_seconds"])
        share = min(1.0, max(0.0, (second - ramp_start) / (ramp_end - ramp_start))) ** 0.97
        opened = int(reached * share)
        opened_now = 0 if second >= phases[-1]["ended_seconds"] else opened
        busy += {"start": 0.1, "ramp": 1.85, "hold": 0.3, "verify": 1.7, "drain": 1.2}[phase] * rng.uniform(0.94, 1.06)
        kernel = 900e6 + opened_now * 8380
        row: dict[str, Any] = {"elapsed_seconds": second + 0.001, "unix_seconds": 1.7e9 + second, "phase": phase}
        for side, weight in (("server", 0.45), ("swarm", 0.5)):
            row[f"{side}_processes"] = 7
            row[f"{side}_cpu_user_seconds"] = busy * weight * 0.55
            row[f"{side}_cpu_system_seconds"] = busy * weight * 0.45
            own = (28e6 + opened_now * (20 if floor else 260)) * (weight / 0.45) ** 2
            row[f"{side}_rss_bytes"] = int(own + 32e6)
            row[f"{side}_pss_bytes"] = int(own) if second % 2 == 0 else None
            row[f"{side}_connections_open"] = opened_now
            row[f"{side}_connections_opened"] = opened
        row["cpu_user_seconds"], row["cpu_system_seconds"] = busy * 0.5, busy * 0.35
        row["cpu_softirq_seconds"] = busy * 0.15
        row["cpu_idle_seconds"] = 2.0 * second - busy
        row["memory_kernel_bytes"] = int(kernel)
        row["memory_headroom_bytes"] = int(24 * GIB - kernel - 2e9)
        rows.append(row)
    return rows


def _write_samples(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.name for column in SAMPLE_COLUMNS])
        writer.writerows(to_cells(row) for row in rows)


def _write_latency(path: Path, phases: list[dict[str, Any]]) -> None:
    rng = random.Random(7)
    lines = ["elapsed_seconds,kind,bucket_seconds,count"]
    for kind, middle, phase in (("handshake", 0.004, phases[1]), ("roundtrip", 0.0009, phases[2])):
        for second in range(int(phase["started_seconds"]), int(phase["ended_seconds"])):
            counts: dict[int, int] = {}
            for _ in range(300):
                bucket = bucket_of(rng.lognormvariate(math.log(middle), 0.8))
                counts[bucket] = counts.get(bucket, 0) + 1
            lines += [f"{second + 1},{kind},{bucket_seconds(index):.9f},{counts[index]}" for index in sorted(counts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_events(path: Path, phases: list[dict[str, Any]], reached: int) -> None:
    events: list[dict[str, Any]] = []
    for phase in phases:
        name = phase["name"]
        events.append({"elapsed_seconds": phase["started_seconds"], "event": "phase_started", "phase": name})
        ended = {"elapsed_seconds": phase["ended_seconds"], "event": "phase_ended", "phase": name}
        events.append({**ended, "connections_open": reached, "connections_failed": 0, "stopped_by": None})
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")


def make_run_over_hosts(data_dir: Path, connections: int = 100_000, **more: Any) -> Path:
    """Write a run of a server on `big` and a swarm on `left` and `right`; each host has the samples of the whole."""
    run_dir = make_run(data_dir, connections, **more)
    manifest = json.loads((run_dir / "run.json").read_text("utf-8"))
    manifest["hosts"] = [
        {"name": name, "role": role, "folder": f"hosts/{name}"}
        for name, role in (("big", "server"), ("left", "swarm"), ("right", "swarm"))
    ]
    (run_dir / "run.json").write_text(json.dumps(manifest), "utf-8")
    for host in manifest["hosts"]:
        (run_dir / host["folder"]).mkdir(parents=True)
        (run_dir / host["folder"] / "samples.csv").write_bytes((run_dir / "samples.csv").read_bytes())
    return run_dir
