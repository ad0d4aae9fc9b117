"""How well the diagnosis names what binds first, measured over random scenarios.

1. Each scenario is judged by the first name of its run: `rightly` is the limit that had to bind first, with its side;
   `next in line` is another one that was lowered; `unknown` and `wrong` are the rest. A healthy scenario is named
   rightly when it held and nothing was found.
2. The result is written after each scenario, so that an interrupt loses none that has ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from html import escape
from itertools import count as numbers_from
from os import sched_getaffinity
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wslab.breaks.run import measure_connections, predict_limit, reason_to_skip_trial, run_trial
from wslab.breaks.scenario import Scenario, draw
from wslab.breaks.trial import COUNTED, ESTIMATED
from wslab.core.quantities import BadInput, counted
from wslab.lab import store
from wslab.lab.tables import Table, card_html, seconds_text, whole_text

if TYPE_CHECKING:
    from wslab.lab.runs import Run

RESULTS = "confusion.json"
RIGHTLY, NEXT, UNKNOWN, WRONG = VERDICTS = "rightly", "next in line", "unknown", "wrong"
HEALTHY = "healthy"  # what stands in place of a limit where none was to bind
NOTHING = "nothing"  # what stands in place of a name where none was given

# Keeps one CPU busy until its standard input ends, however this process ends.
_BURN = "import select\nwhile not select.select([0], [], [], 0)[0]: sum(range(100_000))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One scenario as it was named.

    Attributes:
        number: of the scenario.
        title: what was lowered.
        expected: the limit that had to bind first, with its side where two sides have it; `healthy` for none.
        named: the first name, in the same form; `nothing` for none.
        verdict: one of `VERDICTS`.
        also: all other names, in their order.
        certainty: of the first name.
        outcome: of the run.
        predicted: connections at which it had to bind; None where that has no number.
        measured: connections that were reached.
        tolerance: how far both may be apart, as a share of the predicted.
        seconds_to_name: from the first evidence to the end of the run, when it is named; None where not recorded.
        seconds: how long the scenario took.
        run_id: the recorded run, in the folder `runs` of the series.
    """

    number: int
    title: str
    expected: str
    named: str
    verdict: str
    also: tuple[str, ...] = ()
    certainty: str = ""
    outcome: str = ""
    predicted: int | None = None
    measured: int | None = None
    tolerance: float | None = None
    seconds_to_name: float | None = None
    seconds: float = 0.0
    run_id: str = ""

    @property
    def off_by(self) -> float | None:
        """How far the measured count is from the predicted one, as a share of it; only where it was named rightly."""
        if not self.predicted or self.measured is None or self.verdict != RIGHTLY:
            return None
        return abs(self.measured - self.predicted) / self.predicted

    @property
    def line(self) -> str:
        """The result in one line."""
        text = f"{self.verdict}: {self.named}" + (f", expected {self.expected}" if self.verdict != RIGHTLY else "")
        if self.off_by is not None:
            text += f", predicted {whole_text(self.predicted)}, measured {whole_text(self.measured)}"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """The scenarios of one series, in the order in which they ran."""

    folder: Path
    seed: int
    asked: int
    caption: str = ""
    judged: tuple[Judged, ...] = ()

    @classmethod
    def load(cls, folder: str | Path) -> Confusion:
        """Load a series that was recorded.

        Raises:
            BadInput: the folder holds none.
        """
        try:
            found: dict[str, Any] = json.loads((Path(folder) / RESULTS).read_text(encoding="utf-8"))
        except OSError as problem:
            raise BadInput(f"{folder} is not the folder of random scenarios: it holds no {RESULTS}") from problem
        names = Judged.__dataclass_fields__
        rows = []
        for row in found["scenarios"]:
            values: dict[str, Any] = {key: value for key, value in row.items() if key in names}
            rows.append(Judged(**{**values, "also": tuple(values["also"])}))
        return cls(
            folder=Path(folder), seed=found["seed"], asked=found["count"], caption=found["caption"], judged=tuple(rows)
        )

    def share(self, verdict: str) -> float:
        """Return the share of the scenarios with a verdict."""
        return self.counts[verdict] / len(self.judged) if self.judged else 0.0

    @property
    def counts(self) -> Counter[str]:
        """How many scenarios have each verdict."""
        return Counter(one.verdict for one in self.judged)

    @property
    def matrix(self) -> dict[str, dict[str, int]]:
        """How often each expected limit was given each first name."""
        rows: dict[str, Counter[str]] = {}
        for one in self.judged:
            rows.setdefault(one.expected, Counter())[one.named] += 1
        return {expected: dict(sorted(names.items())) for expected, names in sorted(rows.items())}

    @property
    def status(self) -> int:
        """Exit status: 0 when no name was wrong and none was that of the next in line."""
        return 1 if self.counts[WRONG] or self.counts[NEXT] else 0

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        parts = [f"{self.counts[verdict]} {verdict}" for verdict in VERDICTS]
        text = f"{counted(len(self.judged), 'scenario')} of seed {self.seed}: named {', '.join(parts)}"
        for name, errors in self.errors().items():
            text += f"; {name} counts off by {max(errors):.1%} at most" if errors else ""
        waits = [one.seconds_to_name for one in self.judged if one.seconds_to_name is not None]
        return text + (f"; named within {seconds_text(max(waits))} of the first evidence" if waits else "")

    def errors(self) -> dict[str, list[float]]:
        """Return how far the measured counts are from the predicted ones: those that are counted, and estimated."""
        known = [(one.tolerance, one.off_by) for one in self.judged if one.off_by is not None and one.tolerance]
        tolerances = sorted({tolerance for tolerance, _ in known})
        return {
            f"{tolerance:.0%}": [off for other, off in known if other == tolerance and off is not None]
            for tolerance in tolerances
        }

    def save(self) -> None:
        """Write the result, in the place of the one of the same series that was written before."""
        path = self.folder / RESULTS
        part = path.with_suffix(".part")
        # Without the folder, so that the file can be kept elsewhere.
        kept = {key: value for key, value in self.as_dict().items() if key != "folder"}
        part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    def as_dict(self) -> dict[str, Any]:
        """Return what `wslab sweep --breaks random --json` prints."""
        return {
            "sentence": self.sentence,
            "seed": self.seed,
            "count": self.asked,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "caption": self.caption,
            "verdicts": {verdict: self.counts[verdict] for verdict in VERDICTS},
            "matrix": self.matrix,
            "scenarios": [{**asdict(one), "off_by": one.off_by} for one in self.judged],
            "folder": str(self.folder),
        }

    def table(self) -> Table:
        """Return one row an expected limit: how often it was named rightly, and what else it was called."""
        rows = []
        for expected, names in self.matrix.items():
            ours = [one for one in self.judged if one.expected == expected]
            told = Counter(one.verdict for one in ours)
            called = ", ".join(f"{name} × {number}" for name, number in names.items())
            off = [one.off_by for one in ours if one.off_by is not None]
            worst = f"{max(off):.1%}" if off else ""
            rows.append((expected, str(len(ours)), *(str(told[verdict]) for verdict in VERDICTS), called, worst))
        headings = ("bound first", "scenarios", *VERDICTS, "first name", "count off by at most")
        return Table(headings=headings, rows=rows, numbers=(1, 2, 3, 4, 5, 7))

    def text(self) -> str:
        """Return the result as a terminal shows it."""
        odd = [f"{one.number} {one.title}: {one.line}; {one.run_id}" for one in self.judged if one.verdict != RIGHTLY]
        return "\n".join([self.table().text(), *odd, "", self.sentence, str(self.folder)])

    def _repr_html_(self) -> str:
        return card_html(f"<b>{escape(self.sentence)}.</b>", self.table().html(), footer=self.caption)


def seeds_table(results: Sequence[Confusion]) -> Table:
    """Return one row a series: how its scenarios were named, and how far counts were from the predicted ones."""
    rows = []
    for one in results:
        errors = [f"{max(off):.1%}" if (off := one.errors().get(f"{t:.0%}")) else "" for t in (COUNTED, ESTIMATED)]
        rows.append((str(one.seed), str(len(one.judged)), *(str(one.counts[verdict]) for verdict in VERDICTS), *errors))
    headings = ("seed", "scenarios", *VERDICTS, "counted limits off by at most", "memory off by at most")
    return Table(headings=headings, rows=rows, numbers=tuple(range(8)))


def run_scenarios(
    count: int, seed: int, data_dir: str = "", *, say: Callable[[str], None] | None = None, only: Sequence[int] = ()
) -> Confusion:
    """Run random scenarios and return how each was named.

    Args:
        count: how many.
        seed: of the series; the same seed gives the same scenarios.
        data_dir: the data folder; empty for the project's own. The runs go to a folder in `breaks` there.
        say: called with a line of progress after each scenario.
        only: numbers of scenarios to run; all unless given.

    Returns:
        The result, saved.

    Raises:
        BadInput: a scenario cannot be made here, such as without root, or the data folder cannot be written.
        KeyboardInterrupt: the user ended it; what was run is saved.
    """
    scenarios = [draw(number, seed) for number in only or range(1, count + 1)]
    for scenario in scenarios:
        if problem := reason_to_skip_trial(scenario.trial):
            raise BadInput(f"breaks=random cannot be run here: {problem}")
    folder = store.data_folder(data_dir) / "breaks" / time.strftime("%Y%m%dT%H%M%SZ-random", time.gmtime())
    store.check_writable(folder)
    result = Confusion(folder=folder, seed=seed, asked=count)
    result.save()
    started = time.monotonic()
    for done, scenario in zip(numbers_from(1), scenarios, strict=False):
        one, caption = run_scenario(scenario, folder)
        result = Confusion(
            folder=folder, seed=seed, asked=count, caption=result.caption or caption, judged=(*result.judged, one)
        )
        result.save()
        if say:
            left = (time.monotonic() - started) / done * (len(scenarios) - done)
            say(f"{done}/{len(scenarios)} {one.title}: {one.line} (about {seconds_text(round(left))} left)")
    return result


def run_scenario(scenario: Scenario, folder: Path) -> tuple[Judged, str]:
    """Run one scenario and return how it was named, and the caption of its run."""
    started = time.monotonic()
    with _busy_cpus(len(sched_getaffinity(0)) if scenario.busy else 0):
        run = run_trial(scenario.trial, folder, f"scenario {scenario.number}")
    return judge_scenario(scenario, run, time.monotonic() - started), run.machine.line


def judge_scenario(scenario: Scenario, run: Run, seconds: float = 0.0) -> Judged:
    """Compare what a run was named with what had to bind first."""
    names = [_name(finding["limit"], finding["side"]) for finding in run.findings]
    first = scenario.first
    expected = _name(first.limit, first.side) if first else HEALTHY
    predicted = None
    if first and scenario.tolerance is not None:
        predicted = first.ceiling or predict_limit(first.limit, first.side, run)
    spans = [finding.get("first_seconds") for finding in run.findings[:1]]
    ended = max((phase.get("ended_seconds") or 0.0 for phase in run.phases), default=0.0)
    return Judged(
        number=scenario.number,
        title=scenario.title,
        expected=expected,
        named=names[0] if names else NOTHING,
        verdict=_verdict(scenario, expected, names, run.outcome),
        also=tuple(names[1:]),
        certainty=str(run.findings[0].get("certainty") or "") if names else "",
        outcome=run.outcome,
        predicted=predicted,
        measured=measure_connections(run) if predicted else None,
        tolerance=scenario.tolerance,
        seconds_to_name=round(ended - spans[0][0], 3) if spans and spans[0] else None,
        seconds=round(seconds, 2),
        run_id=run.run_id,
    )


def _verdict(scenario: Scenario, expected: str, names: list[str], outcome: str) -> str:
    if scenario.first is None:
        return RIGHTLY if outcome == "held" and not names else WRONG
    named = names[0] if names else ""
    if named == expected:
        return RIGHTLY
    if named in [_name(one.limit, one.side) for one in scenario.lowered]:
        return NEXT
    return UNKNOWN if named.startswith("unknown") else WRONG


def _name(limit: str, side: str) -> str:
    return f"{limit} ({side})"


@contextmanager
def _busy_cpus(cpus: int) -> Iterator[None]:
    """Keep so many CPUs busy."""
    command = [sys.executable, "-S", "-c", _BURN]
    burning = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(cpus)]
    try:
        yield
    finally:
        for process in burning:
            process.communicate()
