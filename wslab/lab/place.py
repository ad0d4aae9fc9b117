"""Where a stage runs: the limits there, its layout, and what its processes are put into.

`run_stage` takes a maker of places. The one here is the machine as it is; `wslab.tune` makes a place whose kernel
settings were raised for the stage, and `wslab.breaks` one with a limit lowered on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from wslab.core.host import Host
from wslab.core.plan import Plan
from wslab.core.quantities import BadInput
from wslab.core.stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a stage runs.

    Attributes:
        host: the limits there.
        plan: the layout of the stage there.
        specs: overrides for each process specification, by role.
        notes: what the manifest says about this place: `enclosure` and `tuning`.
    """

    host: Host
    plan: Plan
    specs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def put_into(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Return the command that starts a run with its processes put into this place."""
        return {**start, **{role: {**start[role], **spec} for role, spec in self.specs.items()}}


# Makes the place for a stage, given the limits of this machine and the layout of the stage on it, and takes it down.
MakePlace = Callable[[Stage, Host, Plan], AbstractContextManager[Place]]


@contextmanager
def this_machine(stage: Stage, host: Host, plan: Plan) -> Iterator[Place]:
    """Run a stage on the machine as it is.

    Raises:
        BadInput: the stage asks for settings to be written, which this place does not do.
    """
    if stage.tune:
        raise BadInput("tune=True is not accepted here: wslab.run_stage writes the settings that a stage needs")
    yield Place(host=host, plan=plan)
