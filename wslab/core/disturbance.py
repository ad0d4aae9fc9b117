"""Who else used the machine while a run was measured: its CPUs and its sockets, judged by what was recorded.

Memory of the kernel and time of the CPUs are the machine's, so figures of a run that was not alone are not those of
its server. What belongs to the run is subtracted: both ends, and the processes that recorded them.

1. CPU is judged phase by phase, because a short phase counts as much as a long one. Who it was is told by the
   `neighbours` event of that phase.
2. Sockets are judged while the connections are held: in the ramp some handshakes are always on their way. Sockets that
   were there before the load, and stay, change no figure and are not counted.
3. Over several hosts, a clock that moved against the others disturbs whatever is compared between hosts.
4. What was not recorded is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from wslab.core.timeline import Record

# The event that tells it: `host`, and `moved_seconds` against the clock of the caller.
CLOCK_MOVED = "clock_moved"
PHASES = ("ramp", "hold", "verify")
SETTLED = ("hold", "verify")
# A desktop, a page that shows the live view and the daemons of a machine stay below a third of a core.
CORES_MIN = 0.35
CORES_FRACTION = 0.10  # of all cores; it counts where it is more than `CORES_MIN`
SOCKETS_MIN = 500
SOCKETS_FRACTION = 0.02  # of the sockets of the run
# Who had less of it, or is not among the first, is not named.
NAMED_CORES_MIN, NAMED_MOST = 0.05, 3
# All CPUs together are counted in ticks of 10 ms: over a shorter time that is too coarse.
SECONDS_MIN = 0.9

_BUSY = ("user", "nice", "system", "irq", "softirq")
_OWN = tuple(f"{side}_cpu_{kind}_seconds" for side in ("server", "swarm") for kind in ("user", "system"))


def disturbances(
    samples: Sequence[Record], cpu_count: int | None, beside: Iterable[str] = (), events: Iterable[Record] = ()
) -> list[dict[str, Any]]:
    """Return what disturbed a run, most telling first; empty for a run that had the machine to itself.

    Args:
        samples: one mapping a second.
        cpu_count: cores of the machine.
        beside: ids of the runs of wslab that were in progress at the same time.
        events: those of the run; its `neighbours` events tell who it was, `clock_moved` whose clock moved.

    Returns:
        Mappings `{by, amount, text}`: `by` is `run`, `clock`, `cpu`, `hypervisor` or `sockets`; the amount is in cores
        for CPU, in seconds for a clock, a count otherwise. Where they are known, `processes` are those that had most of
        it, as recorded.
    """
    found: list[dict[str, Any]] = [
        {"by": "run", "amount": 1, "text": f"the run {run_id} beside it"} for run_id in beside
    ]
    events = list(events)
    for event in (event for event in events if event.get("event") == CLOCK_MOVED):
        seconds = float(event["moved_seconds"])
        way = "ahead" if seconds > 0 else "back"
        text = f"the clock of host {event['host']} went {way} by {abs(seconds):.1f} s against the caller's"
        found.append({"by": "clock", "amount": seconds, "text": text})
    neighbours = {event.get("phase"): event for event in events if event.get("event") == "neighbours"}
    cores = cpu_count or 1
    limit = max(CORES_MIN, CORES_FRACTION * cores)
    for by, (used, phase), who in (
        ("cpu", _foreign_cores(samples), "other processes used"),
        ("hypervisor", _stolen_cores(samples), "the hypervisor took"),
    ):
        if used > limit:
            text = f"{who} {used:.1f} of {cores} core{'s' * (cores != 1)}"
            told = _told(neighbours.get(phase), "cores", NAMED_CORES_MIN, ".1f") if by == "cpu" else {}
            found.append({"by": by, "amount": round(used, 2), "text": text + told.pop("text", ""), **told})
    sockets, phase = _foreign_sockets(samples)
    if sockets:
        text = f"{sockets:,} sockets of others came or went"
        told = _told(neighbours.get(phase), "fds", SOCKETS_MIN, "+,d")
        found.append({"by": "sockets", "amount": sockets, "text": text + told.pop("text", ""), **told})
    return found


def _told(event: Record | None, key: str, least: float, form: str) -> dict[str, Any]:
    """Return the processes that an event names for something, and them as text; nothing where it names none."""
    listed = [one for one in (event or {}).get("processes") or () if abs(one.get(key) or 0) >= least]
    listed = sorted(listed, key=lambda one: -abs(one[key]))[:NAMED_MOST]
    if not listed:
        return {}
    unit = " descriptors" if key == "fds" else ""
    names = ", ".join(f"{one['name']} (pid {one['pid']}) {one[key]:{form}}{unit}" for one in listed)
    return {"text": f": {names}", "processes": listed}


def foreign_cores(before: Record, after: Record) -> float | None:
    """Return the cores that others kept busy between two samples; None where that was not recorded."""
    busy = difference(before, after, [f"cpu_{kind}_seconds" for kind in _BUSY])
    own = difference(before, after, [*_OWN, "lab_cpu_seconds"])
    seconds = after["elapsed_seconds"] - before["elapsed_seconds"]
    return (busy - own) / seconds if busy is not None and own is not None and seconds > 0 else None


def difference(before: Record, after: Record, names: Sequence[str]) -> float | None:
    """Return by how much the sum of some columns grew between two samples; None where one of them was not read."""
    grown = 0.0
    for name in names:
        then, now = before.get(name), after.get(name)
        if then is None or now is None:
            return None
        grown += now - then
    return grown


def _foreign_cores(samples: Sequence[Record]) -> tuple[float, str]:
    """Return the cores that others kept busy in the phase in which they did most, and that phase."""
    shares = [(used, str(span[0]["phase"])) for span in _spans(samples) if (used := foreign_cores(*span)) is not None]
    return max(shares, default=(0.0, ""))


def _stolen_cores(samples: Sequence[Record]) -> tuple[float, str]:
    shares = []
    for before, after in _spans(samples):
        stolen = difference(before, after, ["cpu_steal_seconds"])
        if stolen is not None:
            shares.append((stolen / (after["elapsed_seconds"] - before["elapsed_seconds"]), str(before["phase"])))
    return max(shares, default=(0.0, ""))


def _spans(samples: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Return the first and the last sample of each phase under load; the sample after it bounds it, if there is one."""
    spans = []
    for name in PHASES:
        inside = [
            (one, following) for one, following in pairwise(samples) if one.get("phase") == name and _alive(following)
        ]
        if inside:
            spans.append((inside[0][0], inside[-1][1]))
    return [(a, b) for a, b in spans if b["elapsed_seconds"] - a["elapsed_seconds"] >= SECONDS_MIN]


def _alive(sample: Record) -> bool:
    """Return whether the processes of the run were still there: the CPU time of one that has ended is lost."""
    return sample.get("phase") in (*PHASES, "drain") and all(sample.get(name) is not None for name in _OWN)


def _foreign_sockets(samples: Sequence[Record]) -> tuple[int, str]:
    """Return by how many sockets the count of the machine is away from that of the run, at most, and in which phase.

    It is 0 when it is normal.

    A connection to this machine has two sockets here and one to another machine has one.
    """
    base = next((sample["tcp_inuse"] for sample in samples if sample.get("tcp_inuse") is not None), None)
    most, phase = 0, ""
    for sample in samples if base is not None else ():
        inuse, opened = sample.get("tcp_inuse"), sample.get("swarm_connections_open")
        if sample.get("phase") not in SETTLED or inuse is None or not opened:
            continue
        away = min(abs(inuse - base - ends * opened) for ends in (1, 2))
        if away > max(SOCKETS_MIN, SOCKETS_FRACTION * 2 * opened):
            most, phase = max((most, phase), (away, str(sample["phase"])))
    return most, phase


def disturbance_text(found: Iterable[Mapping[str, Any]]) -> str:
    """Return what disturbed a run in one line; empty when nothing did."""
    return "; ".join(str(one.get("text")) for one in found)
