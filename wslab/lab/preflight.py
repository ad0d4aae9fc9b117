"""Preflight: what this machine allows before anything is started, and what would lift it.

Reads limits and starts nothing. The numbers are predictions from the limits as they stand; a run measures them.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from wslab.core.ceilings import Ceiling, Fit, ceilings, fits
from wslab.core.host import Host
from wslab.core.plan import Plan, memory_holds, resolve
from wslab.core.stage import Stage
from wslab.lab.display import Machine, count_text
from wslab.machine.procfs import read_host

if TYPE_CHECKING:
    from wslab.lab.runs import Table

# Planned for when neither a number is asked for nor the memory is known.
CONNECTIONS_DEFAULT = 1_000_000
_HEADINGS = ("limit", "ceiling", "lift", "root")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """The ceilings of this machine, as planned for one stage.

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
        """The answer in one sentence: whether what was asked for fits, or how far this machine goes."""
        if self.asked:
            return self.fit.sentence
        first = self.first
        if first is None:
            return "no limit of this machine has a number in connections"
        held = count_text(first.ceiling_connections)
        return f"this machine can hold about {held} connections, both ends on it; {first.limit} ends it: {first.lift}"

    @property
    def machine(self) -> Machine:
        """The machine that was looked at."""
        return Machine.of(self.host.as_dict())

    def table(self) -> Table:
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
        rows = [_HEADINGS, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}{_root(row[3])}" for row in rows]
        return "\n".join([self.sentence, "", *lines, "", self.machine.line])

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """Return name, ceiling, what lifts it, and whether that takes root, for each limit with a number."""
        rows = []
        for row in sorted(self.ceilings, key=lambda row: not row.binding):
            if row.ceiling_connections is None:
                continue
            name = f"{row.limit} ({', '.join(filter(None, (row.side, row.scope)))})"
            lift = row.lift if row.binding else f"does not bind here: {row.note}"
            rows.append((name, count_text(row.ceiling_connections), lift, "yes" if row.needs_root else ""))
        return rows

    def _repr_html_(self) -> str:
        style = 'style="text-align:left;padding:2px 14px 2px 0;vertical-align:top"'
        number = 'style="text-align:right;padding:2px 14px 2px 0;vertical-align:top;font-weight:600"'
        head = "".join(f"<th {style}>{escape(text)}</th>" for text in _HEADINGS)
        body = "".join(
            f"<tr><td {style}>{escape(name)}</td><td {number}>{escape(ceiling)}</td>"
            f"<td {style}>{escape(lift)}</td><td {style}>{escape(root)}</td></tr>"
            for name, ceiling, lift, root in self._rows()
        )
        return (
            f"<div><b>{escape(self.sentence[:1].upper() + self.sentence[1:])}.</b>"
            f'<table style="border-collapse:collapse;margin:8px 0"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
            f'</table><div style="opacity:.75;font-size:90%">{escape(self.machine.line)}</div></div>'
        )


def _root(cell: str) -> str:
    return "  (root)" if cell == "yes" else ""


def preflight(connections: int | str | None = None, **parameters: Any) -> Preflight:
    """Look at what this machine allows; nothing is started and nothing is changed.

    Args:
        connections: say whether so many fit, such as `"700k"`; None asks how far this machine goes.
        **parameters: further fields of `Stage`, such as `server_shards`.

    Raises:
        BadInput: a parameter cannot be used.
    """
    host = read_host()
    stage = Stage.of(**parameters, **({} if connections is None else {"connections": connections}))
    if connections is None:
        holds = memory_holds(host, stage.memory_reserve) or CONNECTIONS_DEFAULT
        stage = Stage.of(**{**stage.as_dict(), "connections": holds})
    plan = resolve(stage, host)
    return Preflight(
        host=host,
        stage=stage,
        plan=plan,
        ceilings=tuple(ceilings(host, plan)),
        fit=fits(host, plan),
        asked=connections is not None,
    )
