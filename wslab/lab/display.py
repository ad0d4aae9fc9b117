"""How a count, a size, a time and a finding read, wherever a person sees them.

Data keeps plain numbers in bytes and seconds; only here do they become `700k`, `8.1 KiB` and `12 ms`. The HTML uses
inline styles and inherits the colours of its page, so that it reads in a light notebook, a dark one and a report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from wslab.core.quantities import about_count, format_bytes

# Okabe-Ito colours: told apart by every kind of colour vision. White text is readable on each of them.
OUTCOME_COLOURS = {
    "held": "#00795a",
    "broke": "#c04e00",
    "crashed": "#8b1a1a",
    "aborted": "#666666",
    "running": "#0072b2",
}
_CELL = "padding:1px 14px 1px 0;text-align:left;vertical-align:top;border:0"


def count_text(value: float | None) -> str:
    """Return a count in at most three digits: `950`, `28.2k`, `700k`, `1M`, `2.67M`; an en dash for None."""
    return "–" if value is None or value != value else about_count(round(value))


def bytes_text(value: float | None) -> str:
    """Return a size in binary units: `512 B`, `8.1 KiB`, `23.4 GiB`; an en dash for None."""
    return "–" if value is None or value != value else format_bytes(value)


def seconds_text(value: float | None) -> str:
    """Return a duration: `85 µs`, `12.3 ms`, `3.4 s`, `4 min 8 s`; an en dash for None."""
    if value is None or value != value:
        return "–"
    if value >= 119.5:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes} min {seconds} s"
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 0.9995 or unit == "µs":
            return f"{_three_digits(value * factor)} {unit}"
    raise AssertionError("the loop above always returns")


def _three_digits(number: float) -> str:
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    text = f"{number:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def whole_text(value: float | None) -> str:
    """Return a count in full with thousands separated: `2,678,189`."""
    return "–" if value is None or value != value else f"{value:,.0f}"


def rate_text(value: float | None) -> str:
    """Return a rate: `16.2k/s`."""
    return "–" if value is None or value != value else f"{count_text(value)}/s"


def plain_text(value: Any) -> str:
    """Return anything as text; an en dash for None."""
    return "–" if value is None else str(value)


def outcome_badge(outcome: str) -> str:
    """Return the outcome as a coloured HTML label."""
    colour = OUTCOME_COLOURS.get(outcome, "#666666")
    style = f"background:{colour};color:#fff;border-radius:3px;padding:1px 8px;font-weight:600"
    return f'<span style="{style}">{escape(outcome)}</span>'


def pairs_html(pairs: Iterable[tuple[str, str]], columns: int = 2) -> str:
    """Return name and value pairs as a compact HTML table of `columns` pairs a row."""
    cells = [
        f'<td style="{_CELL};opacity:.75">{escape(name)}</td><td style="{_CELL};font-weight:600">{escape(value)}</td>'
        for name, value in pairs
    ]
    rows = ["".join(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    body = "".join(f'<tr style="background:none">{row}</tr>' for row in rows)
    return f'<table style="border-collapse:collapse;margin:6px 0;font-size:inherit">{body}</table>'


def findings_html(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return the findings with their evidence and remedy, first cause first; empty text when there are none."""
    items = []
    for finding in findings:
        at = finding.get("at_connections")
        where = f" at {whole_text(at)} connections" if at else ""
        items.append(
            '<div style="border-left:3px solid #c04e00;padding:0 0 0 10px;margin:6px 0;max-width:60em">'
            f"<b>{escape(str(finding.get('limit')))}</b> ({escape(str(finding.get('side')))}){where}"
            f"<div>Evidence: {escape(str(finding.get('evidence')))}</div>"
            f"<div>Remedy: {escape(str(finding.get('remedy')))}</div></div>"
        )
    return "".join(items)


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
