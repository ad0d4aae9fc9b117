"""Preflight: what this machine allows before anything is started, and what would lift it.

Reads limits and starts nothing. The numbers are predictions from the limits as they stand; a run measures them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

from wslab.core.ceilings import Ceiling, Fit, ceilings, fits
from wslab.core.host import Host
from wslab.core.plan import Plan, before_start, memory_holds, resolve
from wslab.core.servers import SERVER_KINDS
from wslab.core.stage import Stage
from wslab.lab.running import as_it_runs, look_at_running
from wslab.lab.signatures import shows_parameters
from wslab.lab.tables import Machine, Table, card_html, count_text
from wslab.machine.procfs import read_host

if TYPE_CHECKING:
    from wslab.lab.runs import DataFrame

# Planned for when neither a number is asked for nor the memory is known.
CONNECTIONS_DEFAULT = 1_000_000
NOT_COUNTED = "; what the server's own processes take is not counted, as only a run can measure it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """The ceilings of this machine for one stage as it would be laid out here.

    Attributes:
        host: the limits as they were read.
        stage: the stage that was planned for.
        plan: its layout on this machine.
        ceilings: every limit, lowest ceiling first, those without a number last.
        fit: whether the stage fits, in one sentence.
        asked: whether a number of connections was asked for.
    """

    host: Host
    stage: Stage
    plan: Plan
    ceilings: tuple[Ceiling, ...]
    fit: Fit
    asked: bool

    @property
    def first(self) -> Ceiling | None:
        """The limit that ends a climb first; None when none has a number here."""
        return next((row for row in self.ceilings if row.binding and row.ceiling_connections is not None), None)

    @property
    def sentence(self) -> str:
        """The answer in one sentence: whether the stage fits, or how many connections this machine can hold."""
        return self._answer + ("" if self.stage.server in SERVER_KINDS else NOT_COUNTED)

    @property
    def _answer(self) -> str:
        if self.asked:
            return self.fit.sentence
        first = self.first
        if first is None:
            return "no limit of this machine has a number in connections"
        held = count_text(first.ceiling_connections)
        return f"this machine can hold about {held} connections, both ends on it; {first.limit} ends it: {first.lift}"

    @property
    def machine(self) -> Machine:
        """CPU, memory and kernel of this machine."""
        return Machine.of(self.host.as_dict())

    def table(self) -> DataFrame:
        """Return one row a limit, those that bind here first."""
        from wslab.lab.runs import ceilings_table

        return ceilings_table([row.as_dict() for row in self.ceilings])

    def as_dict(self) -> dict[str, Any]:
        """Return what `wslab preflight --json` prints."""
        first = self.first
        return {
            "sentence": self.sentence,
            "fits": self.fit.fits if self.asked else None,
            "connections": self.stage.connections,
            "ceiling_connections": first.ceiling_connections if first else None,
            "first_limit": first.limit if first else None,
            "server_shards": self.plan.server_shards,
            "swarm_workers": self.plan.swarm_workers,
            "ceilings": [row.as_dict() for row in self.ceilings],
            "limits": self.host.as_dict(),
        }

    def text(self) -> str:
        """Return the preflight as a terminal shows it."""
        return "\n".join([self.sentence, "", self._shown().text(), "", self.machine.line])

    def _shown(self) -> Table:
        """Return name, ceiling, whether root is needed to lift it, and what lifts it, for each limit with a number."""
        rows = []
        for row in sorted(self.ceilings, key=lambda row: not row.binding):
            if row.ceiling_connections is None:
                continue
            name = f"{row.limit} ({', '.join(filter(None, (row.side, row.scope)))})"
            lift = row.lift if row.binding else f"does not bind here: {row.note}"
            rows.append((name, count_text(row.ceiling_connections), "root" if row.needs_root else "", lift))
        return Table(headings=("limit", "ceiling", "needs", "lifted by"), rows=rows, numbers=(1,))

    def _repr_html_(self) -> str:
        sentence = f"<b>{escape(self.sentence[:1].upper() + self.sentence[1:])}.</b>"
        return card_html(sentence, self._shown().html(), footer=self.machine.line)


@shows_parameters()
def preflight(connections: int | str | None = None, **parameters: Any) -> Preflight:
    """Look at what this machine allows; nothing is started and nothing is changed.

    Args:
        connections: a number to check, such as `"700k"`; None asks how many this machine can hold.
        **parameters: those of a stage, see below; most of them bind no limit.

    Raises:
        BadInput: a parameter cannot be used.
    """
    host = read_host()
    stage = stage_for(host, connections, parameters)
    plan, host = resolve(stage, host), as_it_runs(before_start(stage, host), look_at_running(stage).limits)
    return Preflight(
        host=host,
        stage=stage,
        plan=plan,
        ceilings=tuple(ceilings(host, plan)),
        fit=fits(host, plan),
        asked=connections is not None,
    )


def stage_for(host: Host, connections: int | str | None, parameters: Mapping[str, Any]) -> Stage:
    """Return the stage that is planned for: of so many connections, or of as many as the memory of the host holds.

    Raises:
        BadInput: a parameter cannot be used.
    """
    if connections is not None:
        return Stage.of(connections=connections, **parameters)
    stage = Stage.of(**parameters)
    return replace(stage, connections=memory_holds(host, stage.server, stage.memory_reserve) or CONNECTIONS_DEFAULT)
