"""The break atlas as it was measured: one record a break, kept in a file, shown as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

from wslab.core.quantities import BadInput, counted
from wslab.lab.tables import Table, card_html, findings_html, whole_text

RESULTS = "breaks.json"
HEADINGS = ("break", "expected", "predicted", "measured", "off by", "named", "same load, remedied", "remedy")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakResult:
    """The result of one break; the first fields are those of `wslab.breaks.trial.Break`.

    Attributes:
        skipped: why it was not run; empty when it was.
        asked: connections asked for.
        predicted: count at which the limit should bind; None when it has no number.
        measured: count at which it bound.
        findings: what the diagnosis named.
        next_limit: the limit with the next ceiling.
        then_findings: what was named with only the first of two remedies.
        held: whether the same load held with the remedy.
        held_reason: why it did not.
        seconds: how long it took.
        run_dirs: the runs, broken first.
        caption: the machine.
    """

    name: str
    limit: str
    side: str
    title: str
    remedy: str
    unit: str = ""
    tolerance: float | None = None
    then: str = ""
    skipped: str = ""
    asked: int = 0
    predicted: int | None = None
    measured: int | None = None
    findings: tuple[dict[str, Any], ...] = ()
    next_limit: str = ""
    then_findings: tuple[dict[str, Any], ...] = ()
    held: bool = False
    held_reason: str = ""
    seconds: float = 0.0
    run_dirs: tuple[str, ...] = ()
    caption: str = ""

    @property
    def named(self) -> tuple[str, ...]:
        """The limits that were named, in order."""
        return tuple(finding["limit"] for finding in self.findings)

    @property
    def named_rightly(self) -> bool:
        """Whether exactly the expected limit was named, on its side; and where two are close, the next one next.

        Where two limits are close together, both may have been met: the one that bound has to stand first.
        """
        first = [(finding["limit"], finding["side"]) for finding in self.findings[:1]]
        allowed = {self.limit, self.then} - {""}
        then_named = [finding["limit"] for finding in self.then_findings]
        right = first == [(self.limit, self.side)] and set(self.named) <= allowed
        return right and (not self.then or then_named[:1] == [self.then])

    @property
    def off_by(self) -> float | None:
        """How far the measured break is from the prediction, as a share of it."""
        if not self.predicted or self.measured is None:
            return None
        return abs(self.measured - self.predicted) / self.predicted

    @property
    def close(self) -> bool:
        """Whether the prediction was close enough; where there is none, it is."""
        if self.tolerance is None:
            return True
        return self.off_by is not None and self.off_by <= self.tolerance

    @property
    def passed(self) -> bool:
        """Whether the limit was named rightly, met where it was predicted, and passed with its remedy."""
        return not self.skipped and self.named_rightly and self.close and self.held

    @property
    def line(self) -> str:
        """The result in one line."""
        if self.skipped:
            return f"{self.name}: skipped, {self.skipped}"
        parts = [f"named {', '.join(self.named) or 'nothing'}" + ("" if self.named_rightly else ", which is wrong")]
        if self.unit:
            parts.append(f"predicted {whole_text(self.predicted)}, measured {whole_text(self.measured)} {self.unit}")
        parts.append("held with " + self.remedy if self.held else f"not held with {self.remedy}: {self.held_reason}")
        return f"{self.name}: {'; '.join(parts)}"

    def cells(self) -> tuple[str, ...]:
        """Return the row of this break in a table, as `HEADINGS`."""
        expected = self.limit + (f", then {self.then}" if self.then else "")
        if self.skipped:
            return (self.name, expected, "", "", "", f"skipped: {self.skipped}", "", "")
        off = "" if self.off_by is None else f"{self.off_by:.1%}"
        number = [whole_text(self.predicted), whole_text(self.measured), off] if self.unit else ["", "", ""]
        number[0] += f" {self.unit}" if self.unit == "processes" else ""
        named = ", ".join(self.named) or "nothing"
        if self.then:
            named += f"; then {', '.join(finding['limit'] for finding in self.then_findings) or 'nothing'}"
        held = "held" if self.held else f"not held: {self.held_reason}"
        return (self.name, expected, *number, named + ("" if self.named_rightly else " (wrong)"), held, self.remedy)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as it is written to JSON."""
        judged = {name: getattr(self, name) for name in ("named", "named_rightly", "off_by", "close", "passed")}
        return asdict(self) | (judged if not self.skipped else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Atlas:
    """The breaks of one atlas, in the order in which they ran."""

    folder: Path
    results: tuple[BreakResult, ...] = ()

    @classmethod
    def load(cls, folder: str | Path) -> Atlas:
        """Load an atlas that was recorded.

        Raises:
            BadInput: the folder holds none.
        """
        path = Path(folder) / RESULTS
        try:
            rows: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["breaks"]
        except OSError as problem:
            raise BadInput(f"recorded={folder} is not the folder of a break atlas: it holds no {RESULTS}") from problem
        return cls(folder=Path(folder), results=tuple(_result(row) for row in rows))

    @property
    def run(self) -> tuple[BreakResult, ...]:
        """The breaks that were run."""
        return tuple(result for result in self.results if not result.skipped)

    @property
    def status(self) -> int:
        """Exit status: 0 when every break that ran was named rightly."""
        return 0 if all(result.named_rightly for result in self.run) else 1

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        named, held = sum(r.named_rightly for r in self.run), sum(r.held for r in self.run)
        numbered = [result for result in self.run if result.unit]
        text = f"{counted(len(self.run), 'limit')} broken: {named} named rightly, {held} held with the remedy"
        if numbered:
            text += f", {sum(r.close for r in numbered)} of {len(numbered)} met where predicted"
        skipped = len(self.results) - len(self.run)
        return text + (f"; {skipped} skipped" if skipped else "")

    def save(self) -> None:
        """Write the results into the folder, in the place of those of the same atlas that were written before."""
        path = self.folder / RESULTS
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.as_dict(), indent=2, default=str) + "\n", encoding="utf-8")
        part.replace(path)

    def as_dict(self) -> dict[str, Any]:
        """Return what `wslab sweep --breaks --json` prints."""
        return {
            "sentence": self.sentence,
            "named_rightly": self.status == 0,
            "breaks": [result.as_dict() for result in self.results],
            "folder": str(self.folder),
        }

    def text(self) -> str:
        """Return the atlas as a terminal shows it."""
        lines = [_table(self.run).text(), *(result.line for result in self.results if result.skipped)]
        return "\n".join([*lines, "", self.sentence, str(self.folder)])

    def evidence(self) -> Proofs:
        """Return what proved each limit."""
        return Proofs(self.run)

    def _repr_html_(self) -> str:
        machine = next((result.caption for result in self.run), "")
        return card_html(f"<b>{escape(self.sentence)}.</b>", _table(self.results).html(), footer=machine)


class Proofs:
    """The findings of each break, as a notebook and a terminal show them.

    Args:
        results: the breaks.
    """

    def __init__(self, results: Sequence[BreakResult]) -> None:
        self.proofs = [(result.name, [*result.findings, *result.then_findings]) for result in results]

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {finding['evidence']}" for name, findings in self.proofs for finding in findings)

    def _repr_html_(self) -> str:
        return "".join(f"<h4>{escape(name)}</h4>{findings_html(findings)}" for name, findings in self.proofs)


def _table(results: Sequence[BreakResult]) -> Table:
    return Table(headings=HEADINGS, rows=[result.cells() for result in results], numbers=(2, 3, 4))


def _result(row: Mapping[str, Any]) -> BreakResult:
    names = {item.name for item in fields(BreakResult)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items() if name in names
    }
    return BreakResult(**values)
