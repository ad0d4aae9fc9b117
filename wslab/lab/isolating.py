"""Where a stage runs: on the machine as it is, or in an enclosure that breaks one of its limits.

1. Memory is judged by the machine: an enclosure that is too small for a stage is there to be found too small.
2. What is `auto` is planned for the limits inside. Only the pace stays that of the machine: a swarm that spares the
   queue it is to overrun would prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from wslab.core.enclosure import ROLES, Enclosure
from wslab.core.quantities import BadInput
from wslab.core.stage import Plan, Stage, resolve
from wslab.machine.isolation import Isolation


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a stage runs.

    Attributes:
        host: the limits there.
        plan: the layout of the stage there.
        specs: what the specification of a process gets besides, by role.
        enclosure: what is bound there, empty on the machine as it is.
    """

    host: Mapping[str, Any]
    plan: Plan
    specs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    enclosure: Mapping[str, Any] = field(default_factory=dict)

    def put_into(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Return the command that starts a run with its processes put into this place."""
        return {**start, **{role: {**start[role], **spec} for role, spec in self.specs.items()}}


@contextmanager
def place_for(
    stage: Stage, host: Mapping[str, Any], plan: Plan, enclosure: Enclosure | None = None, target: str = ""
) -> Iterator[Place]:
    """Make the place that a stage runs in, for as long as the context lasts.

    Args:
        stage: what is asked for.
        host: the limits of this machine.
        plan: the layout of the stage on this machine.
        enclosure: what to bind; None for the machine as it is.
        target: URL of a server that runs already, or empty.

    Raises:
        BadInput: the enclosure cannot be made.
    """
    if enclosure is None:
        yield Place(host=host, plan=plan)
        return
    if target:
        raise BadInput(f"target={target} runs already and cannot be put into an enclosure")
    with Isolation(enclosure) as isolation:
        inside = isolation.read_host()
        yield Place(
            host=inside,
            plan=replace(resolve(stage, inside), pending_max=plan.pending_max),
            specs={role: isolation.spec(role) for role in (*ROLES, "recorder")},
            enclosure=enclosure.as_dict(),
        )
