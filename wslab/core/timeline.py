"""The phases of a run, from its events: when each began and ended, and the counts at its end.

Samples come once a second, but a ramp may take half a second; events carry their own time and counts, so that rates
are taken from here. A phase that was cut short has no end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Record = Mapping[str, Any]

# Phases in which connections are opened or used; what happens before and after says nothing about a limit.
ACTIVE = ("ramp", "hold", "verify")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One phase: its name, its times on the run's clock, and what the event at its end said."""

    name: str
    started_seconds: float
    ended_seconds: float | None = None
    end: Record = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Return how long it took; None while it has not ended."""
        return None if self.ended_seconds is None else self.ended_seconds - self.started_seconds

    def as_dict(self) -> dict[str, Any]:
        """Return name and times as they are written to the manifest."""
        row = asdict(self)
        del row["end"]
        return row


def timeline(events: Iterable[Record]) -> list[Phase]:
    """Return the phases in the order in which they began."""
    phases: list[Phase] = []
    for event in events:
        name, at = event.get("phase"), event.get("elapsed_seconds") or 0.0
        if event.get("event") == "phase_started":
            phases.append(Phase(name=str(name), started_seconds=at))
        elif event.get("event") == "phase_ended" and phases and phases[-1].name == name:
            phases[-1] = Phase(
                name=str(name), started_seconds=phases[-1].started_seconds, ended_seconds=at, end=dict(event)
            )
    return phases


def last_phase(phases: Sequence[Phase], name: str) -> Phase | None:
    """Return the last phase of a name, ended or not; None when there was none."""
    return next((phase for phase in reversed(phases) if phase.name == name), None)


def messages_between(phases: Sequence[Phase], phase: Phase) -> int | None:
    """Return how many messages fell into a phase; counts are cumulative, so those of earlier phases are subtracted."""
    key = "messages_received"
    if key not in phase.end:
        return None
    before = [earlier.end[key] for earlier in phases[: phases.index(phase)] if key in earlier.end]
    return int(phase.end[key]) - int(before[-1] if before else 0)


def open_at_plateau(phases: Sequence[Phase], samples: Sequence[Record]) -> int:
    """Return how many connections were open when the ramp ended, or the most that any sample saw if it did not."""
    ramp = last_phase(phases, "ramp")
    if ramp is not None and ramp.end.get("connections_open") is not None:
        return int(ramp.end["connections_open"])
    return max((int(sample.get("swarm_connections_open") or 0) for sample in samples), default=0)


def count_before_drain(phases: Sequence[Phase], samples: Sequence[Record], key: str) -> int | None:
    """Return a count of the swarm as the last phase before the drain left it, or as the last sample saw it."""
    counts = [phase.end[key] for phase in phases if phase.name != "drain" and key in phase.end]
    counts = counts or [sample[f"swarm_{key}"] for sample in samples if sample.get(f"swarm_{key}") is not None]
    return int(counts[-1]) if counts else None


def active(samples: Iterable[Record]) -> list[Record]:
    """Return the samples that were taken while connections were opened or used."""
    return [sample for sample in samples if sample.get("phase") in ACTIVE]


def sample_before(samples: Sequence[Record], at: float) -> Record | None:
    """Return the last sample taken at or before a moment."""
    return next((sample for sample in reversed(samples) if (sample.get("elapsed_seconds") or 0.0) <= at), None)


def sample_after(samples: Sequence[Record], at: float) -> Record | None:
    """Return the first sample taken at or after a moment."""
    return next((sample for sample in samples if (sample.get("elapsed_seconds") or 0.0) >= at), None)
