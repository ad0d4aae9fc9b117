"""What became of stages that were executed as notebooks: one record a stage, and a sweep of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from wslab.core.records import ABORTED, BROKE, CRASHED, HELD
from wslab.lab.display import bytes_text, outcome_badge, rate_text, seconds_text, whole_text
from wslab.lab.runs import Run

COLUMNS = ("stage", "outcome", "open", "rate", "ramp", "a connection", "what happened")


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """One executed stage.

    Attributes:
        stage: its name, such as `700k`.
        outcome: as in the manifest; `crashed` where no run was recorded.
        reason: one sentence, empty when it held.
        run: what was recorded; None where nothing was.
    """

    stage: str
    outcome: str
    reason: str
    run: Run | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the keys of `wslab stage --json`, with the name of the stage."""
        recorded = self.run.as_dict() if self.run else {"findings": [], "run_dir": None}
        return {**recorded, "stage": self.stage, "outcome": self.outcome, "reason": self.reason}

    def cells(self) -> tuple[str, ...]:
        """Return the row of this stage in a table, as `COLUMNS`."""
        figures = self.run.summary if self.run else {}
        return (
            self.stage,
            self.outcome,
            whole_text(figures.get("connections_open")),
            rate_text(figures.get("connections_per_second")),
            seconds_text(figures.get("ramp_seconds")),
            bytes_text(figures.get("total_bytes_per_connection")),
            self.reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The stages of one sweep, in the order in which they ran.

    Attributes:
        executed: the stages that were run.
        skipped: names of those that were not, because one before them broke.
        report: path of the report, empty when there is none.
    """

    executed: tuple[Executed, ...]
    skipped: tuple[str, ...] = ()
    report: str = ""

    @property
    def outcome(self) -> str:
        """The worst outcome of all: a crash before an abort, before a break."""
        outcomes = {stage.outcome for stage in self.executed}
        return next((outcome for outcome in (CRASHED, ABORTED, BROKE) if outcome in outcomes), HELD)

    @property
    def runs(self) -> list[Run]:
        """The runs that were recorded."""
        return [stage.run for stage in self.executed if stage.run is not None]

    def as_dict(self) -> dict[str, Any]:
        """Return what `wslab sweep --json` prints."""
        stages = [stage.as_dict() for stage in self.executed]
        return {"outcome": self.outcome, "stages": stages, "skipped": list(self.skipped), "report": self.report}

    def table(self) -> pd.DataFrame:
        """Return one row a stage, as text with units."""
        return pd.DataFrame([stage.cells() for stage in self.executed], columns=list(COLUMNS)).set_index("stage")

    def text(self) -> str:
        """Return the sweep as a terminal shows it."""
        rows = [COLUMNS, *(stage.cells() for stage in self.executed)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if self.skipped:
            lines.append(f"not run: {', '.join(self.skipped)}; --keep-going runs them too")
        return "\n".join([*lines, *([f"report: {self.report}"] if self.report else [])])

    def _repr_html_(self) -> str:
        table = self.table()
        table["outcome"] = [outcome_badge(stage.outcome) for stage in self.executed]
        return str(table.to_html(escape=False, border=0))
