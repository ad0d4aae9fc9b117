"""How numbers, tables and findings are shown in a terminal, in Markdown and in a notebook.

1. Data keeps plain numbers in bytes and seconds; only here do they become `700k`, `8.1 KiB` and `12 ms`.
2. `Table` is the one table of text: it renders itself as text, Markdown and HTML.
3. The HTML uses inline styles and inherits the colours of its page, so that it is legible in a light notebook, a dark
   one and a report. All text is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from typing import Any, TypeGuard

from wslab.core.quantities import about_count, format_bytes
from wslab.core.records import Certainty

MISSING = "–"
# Okabe-Ito colours: they differ for every kind of colour vision, and white text is legible on each of them.
OUTCOME_COLOURS = {
    "held": "#00795a",
    "broke": "#c04e00",
    "crashed": "#8b1a1a",
    "aborted": "#666666",
    "running": "#0072b2",
}
OTHER_COLOUR = "#666666"
_CELL = "padding:2px 14px 2px 0;vertical-align:top"
# An id, a number or an outcome is not broken into two lines; a sentence is longer.
UNBROKEN_LENGTH = 32
# A spreadsheet takes a cell that begins with one of these for a formula, and runs it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


# Numbers.


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and value == value


def count_text(value: float | None) -> str:
    """Return a count in at most three digits: `950`, `28.2k`, `700k`, `1M`, `2.67M`; an en dash for None or NaN."""
    return about_count(round(value)) if _known(value) else MISSING


def whole_text(value: float | None) -> str:
    """Return a count in full with thousands separated: `2,678,189`."""
    return f"{value:,.0f}" if _known(value) else MISSING


def number_text(value: float | None) -> str:
    """Return a number whose unit stands elsewhere, in at least three digits and without an exponent: `0.000812`."""
    if not _known(value):
        return MISSING
    if abs(value) >= 100 or value == int(value):
        return whole_text(value)
    return f"{Decimal(f'{value:.3g}'):f}"


def rate_text(value: float | None) -> str:
    """Return a rate: `16.2k/s`."""
    return f"{count_text(value)}/s" if _known(value) else MISSING


def bytes_text(value: float | None) -> str:
    """Return a size in binary units: `512 B`, `8.1 KiB`, `23.4 GiB`."""
    return format_bytes(value) if _known(value) else MISSING


def seconds_text(value: float | None) -> str:
    """Return a duration: `85 µs`, `12.3 ms`, `3.4 s`, `4 min 8 s`."""
    if not _known(value):
        return MISSING
    if value >= 119.5:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes} min {seconds} s"
    # Each bound is a little below its unit, so that what rounds to 1000 ms is shown as 1 s.
    if value >= 0.9995:
        return f"{_three_digits(value)} s"
    return f"{_three_digits(value * 1e3)} ms" if value >= 0.9995e-3 else f"{_three_digits(value * 1e6)} µs"


def _three_digits(number: float) -> str:
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# Tables.


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text.

    Attributes:
        headings: names of the columns; empty for a table without a heading line.
        rows: the cells of each row. An outcome in a column named `outcome` becomes a coloured label in HTML.
        numbers: indexes of the columns that are aligned to the right.
    """

    headings: tuple[str, ...] = ()
    rows: Sequence[Sequence[str]]
    numbers: tuple[int, ...] = ()

    def text(self, indent: int = 0) -> str:
        """Return the table for a terminal, its columns padded to the widest cell, `indent` spaces before each line."""
        lines = [*([self.headings] if self.headings else []), *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = (
            "  ".join(
                cell.rjust(width) if index in self.numbers else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )
        return "\n".join((" " * indent + line).rstrip() for line in padded)

    def markdown(self) -> str:
        """Return the table in Markdown, ending in a line end."""
        rule = ["--:" if index in self.numbers else ":--" for index in range(len(self.headings))]
        cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in self.rows]
        return "".join(f"| {' | '.join(row)} |\n" for row in (self.headings, rule, *cells))

    def html(self) -> str:
        """Return the table for a notebook or a page."""
        head = "".join(f'<th style="{self._style(i)}">{escape(name)}</th>' for i, name in enumerate(self.headings))
        body = "".join(f"<tr>{''.join(map(self._cell_html, range(len(row)), row))}</tr>" for row in self.rows)
        return (
            '<table style="border-collapse:collapse;margin:8px 0">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _cell_html(self, index: int, cell: str) -> str:
        is_outcome = self.headings[index : index + 1] == ("outcome",) and cell in OUTCOME_COLOURS
        style = self._style(index) + (";white-space:nowrap" if len(cell) <= UNBROKEN_LENGTH else "")
        return f'<td style="{style}">{outcome_badge(cell) if is_outcome else escape(cell)}</td>'

    def _style(self, index: int) -> str:
        return f"{_CELL};text-align:{'right' if index in self.numbers else 'left'}"


def csv_cell(value: Any) -> Any:
    """Return a value for a CSV file: text that a spreadsheet would run as a formula gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


# Parts of HTML.


def outcome_badge(outcome: str) -> str:
    """Return the outcome as a coloured HTML label."""
    colour = OUTCOME_COLOURS.get(outcome, OTHER_COLOUR)
    style = f"background:{colour};color:#fff;border-radius:3px;padding:1px 8px;font-weight:600"
    return f'<span style="{style}">{escape(outcome)}</span>'


def pairs_html(pairs: Iterable[tuple[str, str]]) -> str:
    """Return name and value pairs as a compact HTML table of two pairs a row."""
    cell = "padding:1px 14px 1px 0;text-align:left;vertical-align:top;border:0"
    cells = [
        f'<td style="{cell};opacity:.75">{escape(name)}</td><td style="{cell};font-weight:600">{escape(value)}</td>'
        for name, value in pairs
    ]
    rows = ["".join(cells[start : start + 2]) for start in range(0, len(cells), 2)]
    body = "".join(f'<tr style="background:none">{row}</tr>' for row in rows)
    return f'<table style="border-collapse:collapse;margin:6px 0;font-size:inherit">{body}</table>'


def finding_name(finding: Mapping[str, Any]) -> str:
    """Return the limit of a finding; one that is only inferred says so, wherever it is named without its evidence."""
    inferred = finding.get("certainty") == Certainty.INFERRED and finding.get("limit") != "unknown"
    return f"{finding.get('limit')}{' (inferred)' if inferred else ''}"


def finding_lines(finding: Mapping[str, Any], remark: str = "") -> list[str]:
    """Return a finding as a terminal shows it: limit, side and certainty, evidence, remedy."""
    lines = [f"  {remark}{finding.get('limit')} ({_standing(finding)}): {finding.get('evidence')}"]
    lines += [f"    {_ruled_out(finding)}"] if _ruled_out(finding) else []
    return [*lines, f"    remedy: {finding.get('remedy')}"]


def _standing(finding: Mapping[str, Any]) -> str:
    """Return side and certainty; findings of older runs have none, and of an unknown limit nothing is known."""
    certainty = "" if finding.get("limit") == "unknown" else finding.get("certainty")
    return ", ".join(filter(None, (str(finding.get("side")), certainty)))


def _ruled_out(finding: Mapping[str, Any]) -> str:
    names = finding.get("ruled_out") or ()
    return f"others ruled out: {', '.join(names)}" if names else ""


def findings_html(findings: Sequence[Mapping[str, Any]], outcome: str = "broke") -> str:
    """Return the findings with their evidence and remedy, first cause first; empty text when there are none.

    Args:
        findings: as they stand in the manifest.
        outcome: of their run; a finding in a run that held is only a remark.
    """
    remark, colour = ("Remark: ", OTHER_COLOUR) if outcome == "held" else ("", OUTCOME_COLOURS["broke"])
    items = []
    for finding in findings:
        at = finding.get("at_connections")
        where = f" at {whole_text(at)} connections" if at else ""
        items.append(
            f'<div style="border-left:3px solid {colour};padding:0 0 0 10px;margin:6px 0;max-width:60em">'
            f"{remark}<b>{escape(str(finding.get('limit')))}</b> ({escape(_standing(finding))}){where}"
            f"<div>Evidence: {escape(str(finding.get('evidence')))}</div>"
            f"{f'<div>{escape(others)}</div>' if (others := _ruled_out(finding).capitalize()) else ''}"
            f"<div>Remedy: {escape(str(finding.get('remedy')))}</div></div>"
        )
    return "".join(items)


def card_html(heading: str, *parts: str, footer: str) -> str:
    """Return the display of one result in a notebook: heading, parts, and the machine in a faint last line.

    Args:
        heading: HTML.
        parts: HTML, one below the other.
        footer: text.
    """
    quiet = f'<div style="opacity:.75;font-size:90%">{escape(footer)}</div>'
    return f'<div style="line-height:1.5"><div>{heading}</div>{"".join(parts)}{quiet}</div>'


# The machine.


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a figure must say about the machine it was measured on; None or empty where it was not recorded."""

    cpu_model: str
    cpu_count: int | None
    memory_total_bytes: int | None
    kernel: str
    python: str = ""
    websockets: str = ""

    @classmethod
    def of(cls, host: Mapping[str, Any]) -> Machine:
        """Take the machine from a recorded `host` mapping or from the limits that were read."""
        return cls(
            cpu_model=str(host.get("cpu_model") or "unknown CPU"),
            cpu_count=host.get("cpu_count"),
            memory_total_bytes=host.get("memory_total_bytes"),
            kernel=str(host.get("kernel") or "unknown"),
            python=str(host.get("python") or ""),
            websockets=str(host.get("websockets") or ""),
        )

    @property
    def line(self) -> str:
        """The machine in one line, for captions."""
        cores = f"{self.cpu_count} core{'' if self.cpu_count == 1 else 's'}" if self.cpu_count else ""
        memory = bytes_text(self.memory_total_bytes) if self.memory_total_bytes else ""
        kernel = self.kernel if self.kernel.startswith("Linux") else f"Linux {self.kernel}"
        parts = (", ".join(filter(None, (self.cpu_model, cores, memory))), kernel)
        return " · ".join(parts)

    @property
    def versions(self) -> str:
        """The versions of what ran on it."""
        named = (("Python", self.python), ("websockets", self.websockets))
        return " · ".join(f"{name} {version}" for name, version in named if version)
