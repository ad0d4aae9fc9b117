"""What disturbed a run: hand-made samples of a machine with two cores."""

from __future__ import annotations

from typing import Any

import pytest

from wslab.core.disturbance import disturbance_text, disturbances

CONNECTIONS = 10_000
# Idle sockets of others, which were there before.
BASE = 40


def samples(**second: Any) -> list[dict[str, Any]]:
    """One sample a second: start, two of the ramp, four of the hold, two of verifying, drain.

    Both ends and the recorder use half a core each whenever there is load.

    Args:
        **second: what others add in each second under load: `cpu` and `steal` in cores, `sockets` from the hold on.
    """
    phases = ["start", "ramp", "ramp", "hold", "hold", "hold", "hold", "verify", "verify", "drain"]
    rows = []
    for at, phase in enumerate(phases):
        loaded = max(0, at - 1)
        opened = {"start": 0, "ramp": 4_000 * loaded, "drain": 0}.get(phase, CONNECTIONS)
        foreign = second.get("sockets", 0) if phase in ("hold", "verify") else 0
        rows.append(
            {
                "elapsed_seconds": float(at),
                "phase": phase,
                **{f"{side}_cpu_user_seconds": 0.3 * loaded for side in ("server", "swarm")},
                **{f"{side}_cpu_system_seconds": 0.2 * loaded for side in ("server", "swarm")},
                "lab_cpu_seconds": 0.5 * loaded,
                "cpu_user_seconds": (0.9 + second.get("cpu", 0.0)) * loaded,
                "cpu_system_seconds": 0.4 * loaded,
                "cpu_softirq_seconds": 0.2 * loaded,
                **{f"cpu_{kind}_seconds": 0.0 for kind in ("nice", "irq", "iowait")},
                "cpu_steal_seconds": second.get("steal", 0.0) * loaded,
                "tcp_inuse": BASE + 2 * opened + foreign,
                "swarm_connections_open": opened,
            }
        )
    return rows


def test_a_run_that_had_the_machine_to_itself_is_not_disturbed() -> None:
    assert disturbances(samples(), 2) == []


@pytest.mark.parametrize(
    ("others", "cores", "by"),
    [
        ({"cpu": 0.2}, 2, []),  # a desktop
        ({"cpu": 0.5}, 2, ["cpu"]),
        ({"cpu": 0.5}, 64, []),  # a hundredth of such a machine
        ({"steal": 0.6}, 2, ["hypervisor"]),
        ({"sockets": 300}, 2, []),
        ({"sockets": 20_000}, 2, ["sockets"]),
        ({"sockets": -4_000}, 2, ["sockets"]),  # Another run has ended meanwhile.
        ({"cpu": 0.9, "sockets": 6_000}, 2, ["cpu", "sockets"]),
    ],
)
def test_others_are_told_from_a_threshold_on(others: dict[str, float], cores: int, by: list[str]) -> None:
    assert [one["by"] for one in disturbances(samples(**others), cores)] == by


@pytest.mark.parametrize(("seconds", "way"), [(3.25, "ahead by 3.2 s"), (-0.5, "back by 0.5 s")])
def test_a_clock_that_moved_is_told_with_its_host(seconds: float, way: str) -> None:
    moved = {"event": "clock_moved", "elapsed_seconds": 4.0, "host": "h2", "moved_seconds": seconds}
    (told,) = disturbances(samples(), 2, events=[moved])
    text = f"the clock of host h2 went {way} against the caller's"
    assert told == {"by": "clock", "amount": seconds, "text": text}


def test_amounts_are_cores_and_sockets_of_others() -> None:
    cpu, sockets = disturbances(samples(cpu=0.9, sockets=6_000), 2)
    assert cpu["amount"] == pytest.approx(0.9)
    assert sockets["amount"] == 6_000
    assert "0.9 of 2 cores" in disturbance_text([cpu, sockets])


def neighbours(phase: str, *processes: dict[str, Any]) -> dict[str, Any]:
    return {"event": "neighbours", "phase": phase, "seconds": 3.0, "processes": list(processes)}


def test_the_processes_that_used_it_are_named() -> None:
    compiler = {"pid": 77, "name": "cc1", "cpu_seconds": 2.4, "cores": 0.8, "fds": 3}
    server = {"pid": 78, "name": "nginx", "cpu_seconds": 0.06, "cores": 0.02, "fds": 5_900}
    rows = samples(cpu=0.9, sockets=6_000)
    told = [neighbours(phase, compiler, server) for phase in ("ramp", "hold", "verify")]
    cpu, sockets = disturbances(rows, 2, events=told)
    assert cpu["text"] == "other processes used 0.9 of 2 cores: cc1 (pid 77) 0.8"
    assert cpu["processes"] == [compiler]
    assert sockets["text"] == "6,000 sockets of others came or went: nginx (pid 78) +5,900 descriptors"


def test_only_the_phase_in_which_most_was_used_names_anybody() -> None:
    rows = [
        {**row, "cpu_user_seconds": row["cpu_user_seconds"] + (2.0 if at > 4 else 0.0)}
        for at, row in enumerate(samples())
    ]
    busy = {"pid": 77, "name": "cc1", "cpu_seconds": 2.0, "cores": 0.5, "fds": 0}
    (cpu,) = disturbances(rows, 2, events=[neighbours("hold", busy)])
    assert "cc1" in cpu["text"]
    (cpu,) = disturbances(rows, 2, events=[neighbours("ramp", busy)])
    assert "cc1" not in cpu["text"]


def test_runs_beside_are_named_first() -> None:
    found = disturbances(samples(cpu=0.9), 2, ["20260101T000000Z-10k-ab12"])
    assert [one["by"] for one in found] == ["run", "cpu"]
    assert "20260101T000000Z-10k-ab12" in disturbance_text(found)


@pytest.mark.parametrize("missing", ["lab_cpu_seconds", "cpu_softirq_seconds", "server_cpu_user_seconds", "tcp_inuse"])
def test_what_was_not_recorded_is_not_judged(missing: str) -> None:
    rows = [{**row, missing: None} for row in samples(cpu=0.9, sockets=6_000)]
    assert {one["by"] for one in disturbances(rows, 2)} == ({"cpu"} if missing == "tcp_inuse" else {"sockets"})


def test_a_connection_to_another_machine_has_one_socket_here() -> None:
    rows = [{**row, "tcp_inuse": BASE + row["swarm_connections_open"]} for row in samples()]
    assert disturbances(rows, 2) == []


def test_a_short_ramp_is_not_judged_by_a_part_of_a_second() -> None:
    rows = samples()
    rows[1:3] = [{**rows[1], "elapsed_seconds": 2.7, "cpu_user_seconds": -1.0}]
    assert disturbances(rows, 2) == []
