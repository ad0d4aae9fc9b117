"""A pandas table that shows all of its text, and its numbers as people write them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from wslab.lab.tables import Table, number_text


class Shown(pd.DataFrame):
    """A pandas table in all but its looks; what is selected or calculated from it looks the same."""

    @property
    def _constructor(self) -> type[Shown]:
        return Shown

    def table(self) -> Table:
        """Return it as text, its index as first column."""
        return Table(
            headings=(str(self.index.name or ""), *map(str, self.columns)),
            rows=[tuple(map(_text, row)) for row in self.itertuples(name=None)],
            numbers=tuple(n for n, kind in enumerate(self.dtypes, start=1) if pd.api.types.is_numeric_dtype(kind)),
        )

    def __repr__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


def _text(value: Any) -> str:
    return number_text(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
