"""Limits explained: the rows of the tables as text for a terminal and as one page for the docs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wslab.core.explanations import EXPLANATIONS, Explanation
from wslab.core.limits import LIMITS, Limit
from wslab.core.quantities import BadInput, did_you_mean
from wslab.core.settings import ADVICE, CGROUP, PARAMETER, RLIMIT, SYSCTL, Lift
from wslab.lab.tables import Table

HEADING = "# Limits of WebSocket connections, and how to tell them apart"
INTRODUCTION = """\
Each name is one that `wslab` gives in its findings; `wslab explain NAME` shows the same in a terminal. A finding says
how it is known: *proved* (the kernel's own word names the limit), *counted* (a counter of the limit moved by as much as
was missed) or *inferred* (others were ruled out, which are listed). This page is written by `wslab explain --all
--markdown` from the tables that the diagnosis uses.
"""
WIDTH, PAGE_WIDTH = 100, 120  # characters of a line in a terminal, and in the file of the page
_HOW = {
    PARAMETER: "wslab stage {option}",
    SYSCTL: "sysctl {key}",
    RLIMIT: "rlimit {key}",
    CGROUP: "control group {key}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One limit, with all that the tables know of it."""

    explanation: Explanation
    rows: tuple[Limit, ...]

    @property
    def limit(self) -> str:
        """Its name."""
        return self.explanation.limit

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return self.explanation.title or "; ".join(dict.fromkeys(row.title for row in self.rows))

    @property
    def lifts(self) -> tuple[str, ...]:
        """What lifts it, as commands or settings, the best first."""
        return tuple(dict.fromkeys(_how(lift) for row in self.rows for lift in row.lifts))

    def sections(self) -> list[tuple[str, str]]:
        """Return each heading with its text; what is not known is left out."""
        told = self.explanation
        sides = ", ".join(dict.fromkeys(row.side for row in self.rows))
        reads = told.reads or "; ".join(dict.fromkeys(row.reads for row in self.rows))
        remedies = dict.fromkeys(part for row in self.rows for part in row.remedy.split("; "))
        remedy = told.remedy or "; ".join(remedies)
        alike = "\n".join(f"{name}: {how}." for name, how in told.look_alikes.items())
        found = [
            ("What it is", told.what),
            ("Side", sides),
            ("How it looks", told.symptoms),
            ("Where it is read", reads),
            ("What proves it", told.proof),
            ("What looks alike", alike),
            ("What lifts it", "\n".join([f"{remedy}.", *self.lifts])),
            ("A recorded example", told.example),
        ]
        return [(heading, text) for heading, text in found if text]

    def text(self) -> str:
        """Return it as a terminal shows it."""
        lines = [f"{self.limit}: {self.title}"]
        for heading, text in self.sections():
            lines += ["", heading]
            lines += [
                textwrap.fill(part, WIDTH, initial_indent="  ", subsequent_indent="  ") for part in text.splitlines()
            ]
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return its part of the page."""
        lines = [f"## {self.limit}", "", f"*{self.title}*"]
        for heading, text in self.sections():
            parts = text.splitlines()
            if heading == "What looks alike":
                parts = [
                    "",
                    "",
                    *(f"- [`{name}`](#{name}):{how}" for name, how in (part.split(":", 1) for part in parts)),
                ]
            elif heading == "What lifts it":
                parts = [parts[0], *([""] if parts[1:] else []), *(f"- `{command}`" for command in parts[1:])]
            elif heading == "A recorded example":
                parts = ["", "", "```text", text, "```"]
            lines += ["", textwrap.fill(f"**{heading}.** {parts[0]}", PAGE_WIDTH), *parts[1:]]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return what `wslab explain LIMIT --json` prints."""
        keys = {heading.lower().replace(" ", "_"): text for heading, text in self.sections()}
        return {
            "limit": self.limit,
            "title": self.title,
            **keys,
            "what_looks_alike": dict(self.explanation.look_alikes),
            "lifts": list(self.lifts),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanations:
    """Several limits: as a list in a terminal, or as the page of the docs."""

    limits: Sequence[Explained]
    whole: bool = False
    page: bool = False

    def text(self) -> str:
        """Return the list of names, each with its title; all that is known where it is to be whole."""
        if self.page:
            return "\n\n".join([HEADING, INTRODUCTION.rstrip(), *(one.markdown() for one in self.limits)])
        if self.whole:
            return "\n\n\n".join(one.text() for one in self.limits)
        return Table(rows=[(one.limit, one.title) for one in self.limits]).text()

    def as_dict(self) -> dict[str, Any]:
        """Return what `wslab explain --json` prints."""
        return {"limits": [one.as_dict() for one in self.limits]}


def explain(limit: str) -> Explained:
    """Return all that is known of a limit.

    Raises:
        BadInput: there is no limit of this name; the text says which one may be meant.
    """
    if limit not in EXPLANATIONS:
        near = did_you_mean(limit, EXPLANATIONS)
        raise BadInput(f"unknown limit {limit}: {near or '`wslab explain` lists them'}")
    return Explained(explanation=EXPLANATIONS[limit], rows=tuple(row for row in LIMITS if row.name == limit))


def explain_all(*, whole: bool = False, page: bool = False) -> Explanations:
    """Return all limits, in the order in which they are explained.

    Args:
        whole: with all that is known of each.
        page: as the page of the docs, in Markdown.
    """
    return Explanations(limits=[explain(name) for name in EXPLANATIONS], whole=whole, page=page)


def _how(lift: Lift) -> str:
    if lift.kind == ADVICE:
        return lift.command
    return _HOW[lift.kind].format(key=lift.key, option="--" + lift.key.replace("_", "-"))
