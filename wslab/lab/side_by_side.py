"""Recorded runs side by side: their figures with units, ratios to the first of them, and why these may mislead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from wslab.core.quantities import BadInput
from wslab.core.records import HELD
from wslab.lab.runs import FIGURES, Run, load_run
from wslab.lab.shown import Shown
from wslab.lab.tables import MISSING, Table, card_html

# Parameters that change nothing of what is measured.
ASIDE = ("data_dir", "server_dir", "label", "beside")
# What is the same kind of thing in every run, and no result.
COUNTS = ("connections", "connections_open", "connections_verified", "server_shards", "swarm_workers")


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two or more runs; the first is what the others are compared with."""

    runs: tuple[Run, ...]

    @property
    def figures(self) -> Shown:
        """The figures of the summary as numbers, in bytes and seconds: one row a figure, one column a run."""
        keys = [key for key, _, _ in FIGURES if any(run.summary.get(key) is not None for run in self.runs)]
        found = {run.run_id: [run.summary.get(key) for key in keys] for run in self.runs}
        return Shown(found, index=pd.Index(keys, name="figure"), dtype=float)

    @property
    def ratios(self) -> Shown:
        """Each figure divided by that of the first run; missing where that is 0 or was not measured."""
        figures = self.figures
        return Shown(figures.div(figures.iloc[:, 0].where(figures.iloc[:, 0] != 0), axis=0))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why a ratio may be due to something else than what is compared: one sentence a reason."""
        told = [
            *self._differing("machine", {run.run_id: run.machine.line for run in self.runs}),
            *self._differing("version of wslab", {run.run_id: _version(run, "wslab_version") for run in self.runs}),
            *self._differing("version of Python", {run.run_id: run.machine.python for run in self.runs}),
            *self._differing("version of websockets", {run.run_id: run.machine.websockets for run in self.runs}),
        ]
        names = dict.fromkeys(name for run in self.runs for name in run.asked if name not in ASIDE)
        for name in names:
            # A parameter that one run does not know yet has no value there to differ in.
            known = {run.run_id: repr(run.asked[name]) for run in self.runs if name in run.asked}
            told += self._differing(f"parameter {name}", known)
        told += [f"{run.run_id} did not hold: {run.outcome}" for run in self.runs if run.outcome != HELD]
        told += [f"{run.run_id} was disturbed: {run.disturbed_by}" for run in self.runs if run.disturbed_by]
        return tuple(told)

    def table(self) -> Table:
        """Return one row a figure: its value in each run, and its ratio to the first beside each other."""
        ratios, rows = self.ratios, []
        for key, words, _ in FIGURES:
            if key not in ratios.index:
                continue
            cells = [words, self.runs[0].figure(key)]
            for number, run in enumerate(self.runs[1:], start=1):
                ratio = ratios.loc[key].iloc[number]
                cells += [run.figure(key), MISSING if ratio != ratio or key in COUNTS else f"{ratio:.2f}"]
            rows.append(cells)
        head = ["", _heading(self.runs[0])]
        for run in self.runs[1:]:
            head += [_heading(run), "ratio"]
        return Table(headings=tuple(head), rows=rows, numbers=tuple(range(1, len(head))))

    def text(self) -> str:
        """Return the table, and below it each warning."""
        return "\n".join([self.table().text(), *(f"differs: {one}" for one in self.warnings)])

    def as_dict(self) -> dict[str, Any]:
        """Return runs, figures, ratios and warnings as plain values."""
        return {
            "runs": [run.run_id for run in self.runs],
            "figures": _plain(self.figures),
            "ratios": _plain(self.ratios),
            "warnings": list(self.warnings),
        }

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(one)}</li>" for one in self.warnings)
        told = f"<div>Not only what is compared differs:<ul>{lines}</ul></div>" if lines else ""
        heading = f"<b>{len(self.runs)} runs</b>, each beside {escape(self.runs[0].run_id)}"
        machines = dict.fromkeys(run.machine.line for run in self.runs)
        return card_html(heading, self.table().html(), told, footer=" · ".join(machines))

    def _differing(self, what: str, values: dict[str, str]) -> list[str]:
        """Return a sentence when these values, one a run, are not all the same; none without at least two of them."""
        if len(set(values.values())) < 2:
            return []
        by_value: dict[str, list[str]] = {}
        for run_id, value in values.items():
            by_value.setdefault(value, []).append(run_id)
        return [f"{what}: " + "; ".join(f"{value or 'unknown'} in {', '.join(ids)}" for value, ids in by_value.items())]


def compare(*runs: Run | str | Path | Iterable[Run | str | Path], data_dir: str | Path | None = None) -> SideBySide:
    """Compare recorded runs, the others with the first: `wslab.compare(wslab.list_runs(stage="1M"))`.

    Args:
        *runs: runs, or their ids, the beginnings of these, `latest`, or folders; or one list of them.
        data_dir: where ids are looked for; None for the project's own.

    Returns:
        Figures, ratios and warnings; shows itself as a table.

    Raises:
        BadInput: there are fewer than two runs, the same one is there twice, or one is not known.
    """
    given: list[Any] = []
    for one in runs:
        given += one if isinstance(one, Iterable) and not isinstance(one, str) else [one]
    loaded = tuple(load_run(one, data_dir) for one in given)
    if len(loaded) < 2:
        raise BadInput(f"a comparison takes two runs or more, and this is {len(loaded)}; wslab.list_runs() shows them")
    folders = [run.run_dir.resolve() for run in loaded]
    if len(set(folders)) < len(folders):
        raise BadInput("a comparison takes different runs, and one of these is there twice")
    return SideBySide(loaded)


def _heading(run: Run) -> str:
    return f"{run.name} {run.server} {run.run_id.rsplit('-', 1)[-1]}"


def _version(run: Run, key: str) -> str:
    return str(run.manifest.get(key) or "")


def _plain(frame: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    return {
        str(run): {str(key): None if value != value else float(value) for key, value in column.items()}
        for run, column in frame.items()
    }
