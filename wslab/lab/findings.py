"""The findings of a run as a list that shows itself, in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex, TypeVar, overload

from wslab.core.records import BROKE, HELD, Finding
from wslab.lab.tables import finding_lines, findings_html

One = TypeVar("One", bound=Finding | Mapping[str, Any])
NONE = "no findings"


class Findings(list[One]):
    """What was found, the limit that bound first coming first; a slice of it is one again.

    Args:
        found: findings, as records or as they stand in a manifest.
        outcome: of their run; a finding in a run that held is only a remark.
    """

    def __init__(self, found: Iterable[One] = (), outcome: str = BROKE) -> None:
        super().__init__(found)
        self.outcome = outcome

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> One: ...
    @overload
    def __getitem__(self, index: slice, /) -> Findings[One]: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> One | Findings[One]:
        """Return one finding, or a shorter list."""
        if isinstance(index, slice):
            return Findings(super().__getitem__(index), self.outcome)
        return super().__getitem__(index)

    def lines(self) -> list[str]:
        """Return each as a terminal shows it: limit, side and certainty, evidence, remedy."""
        remark = "remark: " if self.outcome == HELD else ""
        return [line for one in self for line in finding_lines(_mapping(one), remark)]

    def __repr__(self) -> str:
        return "\n".join(line.removeprefix("  ") for line in self.lines()) or NONE

    def _repr_html_(self) -> str:
        return findings_html([_mapping(one) for one in self], self.outcome) or f"<i>{NONE}</i>"


def _mapping(finding: Finding | Mapping[str, Any]) -> Mapping[str, Any]:
    return finding.as_dict() if isinstance(finding, Finding) else finding
