"""Stages as notebooks: executes the template for one stage or several, and keeps the executed copy with the run.

papermill executes the template in a Jupyter kernel; the kernel runs the stage and writes the run folder.

1. The outcome of a stage is read from its manifest, never from the notebook: papermill records a dead kernel as
   completed cells.
2. The run that a kernel recorded is the one whose manifest names that kernel's pid as its caller.
3. Interrupts are passed on to the kernel, so that the stage drains and says `aborted`; see `interrupts_go_to`.
4. The copy grows under a hidden name and moves into the run folder at the end; where there is no run, none is left.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
from papermill.exceptions import PapermillExecutionError

from wslab.core.plan import refusal
from wslab.core.quantities import BadInput
from wslab.core.records import ABORTED, BROKE, CRASHED, HELD
from wslab.core.stage import Stage
from wslab.lab import store
from wslab.lab.experiment import check_alone
from wslab.lab.running import check_server
from wslab.lab.runs import Run
from wslab.lab.signatures import shows_parameters
from wslab.lab.sweeps import SweepRecord
from wslab.lab.tables import MISSING, Table
from wslab.machine.procfs import read_host
from wslab.view.follow import View, follow, last_progress
from wslab.view.frame import LIVE_CLASS, frame_html
from wslab.view.kernel import Kernels, count_oom_kills, how_it_died, interrupts_go_to, this_interpreter
from wslab.view.live import live_view
from wslab.view.notebooks import notebooks_folder
from wslab.view.parameters import climb_of, difference_text, planned
from wslab.view.publish import report

TEMPLATE = "10-stage.ipynb"
_log = logging.getLogger(__name__)
# On a busy CPU a kernel can be silent for far longer than the 4 s that papermill allows by default.
IOPUB_SECONDS = 120
START_SECONDS = 180
# The figures of a stage in the table of a sweep: heading, key of the summary.
SWEEP_FIGURES = (
    ("open", "connections_open"),
    ("rate", "connections_per_second"),
    ("ramp", "ramp_seconds"),
    ("a connection", "total_bytes_per_connection"),
)

SECRETS_KEPT = "headers with secrets would be written into the executed notebook: use `wslab stage` for them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """One executed stage.

    Attributes:
        stage: its name, such as `700k`.
        outcome: as in the manifest; `crashed` where no run was recorded.
        reason: one sentence, empty when it held.
        run: what was recorded; None where nothing was.
        which: by what it differs from other stages of its sweep, empty where only by its connections.
    """

    stage: str
    outcome: str
    reason: str
    run: Run | None = None
    which: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the keys of `wslab stage --json`, with the name of the stage."""
        recorded = self.run.as_dict() if self.run else {"findings": [], "run_dir": None}
        return {**recorded, "stage": self.stage, "outcome": self.outcome, "reason": self.reason}

    def cells(self) -> tuple[str, ...]:
        """Return the row of this stage in the table of a sweep."""
        figures = [self.run.figure(key) if self.run else MISSING for _, key in SWEEP_FIGURES]
        return (self.stage, self.outcome, *figures, "; ".join(filter(None, (self.which, self.reason))))


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

    def _table(self) -> Table:
        headings = ("stage", "outcome", *(heading for heading, _ in SWEEP_FIGURES), "what happened")
        numbers = tuple(range(2, 2 + len(SWEEP_FIGURES)))
        return Table(headings=headings, rows=[stage.cells() for stage in self.executed], numbers=numbers)

    def table(self) -> pd.DataFrame:
        """Return one row a stage, as text with units."""
        shown = self._table()
        return pd.DataFrame(shown.rows, columns=list(shown.headings)).set_index("stage")

    def text(self) -> str:
        """Return the sweep as a terminal shows it."""
        lines = [self._table().text()]
        if self.skipped:
            lines.append(f"not run: {', '.join(self.skipped)}; --keep-going runs them too")
        return "\n".join([*lines, *([f"report: {self.report}"] if self.report else [])])

    def _repr_html_(self) -> str:
        return self._table().html()


@shows_parameters("connections")
def sweep(
    stages: Iterable[int | float | str | Stage],
    keep_going: bool = False,
    *,
    matrix: Mapping[str, Sequence[Any]] | None = None,
    resume: bool = False,
    template: Path | None = None,
    **parameters: Any,
) -> Sweep:
    """Run stages one after the other, each as an executed notebook in its run folder, and write a report.

    Args:
        stages: connections of each stage, such as `["10k", "100k"]`.
        keep_going: go on after a stage that did not hold; without it the stages after it in its climb are left out.
            An interrupt always ends the sweep.
        matrix: lists of values by the name of their parameter: each combination is a climb through the stages.
        resume: take over the stages that held in the last sweep that asked for the same, and go on after them.
        template: another notebook than the project's template.
        **parameters: further parameters of every stage.

    Raises:
        BadInput: a parameter is unknown or cannot be used, or a stage is out of reach of this machine's memory;
            nothing was started then.
    """
    asked = planned(stages, matrix, parameters)
    template = template or notebook_template()
    check_parameters(template, Stage().as_dict())
    host = read_host()
    for stage in asked:
        if stage.as_recorded() != stage.as_dict():
            raise BadInput(SECRETS_KEPT)
        check_server(stage)
        if too_large := refusal(stage, host):
            raise BadInput(too_large)
    for stage in asked:
        check_alone(stage)
    data_dir = store.data_folder(asked[0].data_dir)
    record = SweepRecord.last(data_dir, asked) if resume else SweepRecord.begin(data_dir, asked)
    executed: list[Executed] = []
    skipped: list[str] = []
    ended: set[object] = set()  # climbs that a stage has ended; None when all have
    for number, stage in enumerate(asked):
        which = difference_text(asked, stage)
        if ended & {climb_of(stage), None}:
            skipped.append(" ".join(filter(None, (stage.name, which))))
            continue
        one = replace(_resumed(stage, record.runs.get(number), data_dir) or run_notebook(stage, template), which=which)
        executed.append(one)
        if one.run is not None:
            record.add(number, one.run.run_id)
        if one.outcome == ABORTED:
            ended.add(None)
        elif one.outcome != HELD and not keep_going:
            ended.add(climb_of(stage))
    done = Sweep(executed=tuple(executed), skipped=tuple(skipped))
    if not done.runs:
        return done
    try:
        page = str(report(done.runs, data_dir / "report"))
    except KeyboardInterrupt:  # The runs are recorded, and `wslab report` draws it at any time.
        page = ""
    return Sweep(executed=done.executed, skipped=done.skipped, report=page)


def _resumed(stage: Stage, run_id: str | None, data_dir: Path) -> Executed | None:
    """Return a stage that the sweep has run before; None where it did not hold, or is not there any more."""
    try:
        run = Run.load(data_dir / "runs" / run_id) if run_id else None
    except (BadInput, OSError):
        return None
    if run is None or run.outcome != HELD:
        return None
    return Executed(stage=stage.name, outcome=run.outcome, reason="taken over", run=run)


def run_notebook(stage: Stage, template: Path | None = None, view: Callable[[str], View] | None = None) -> Executed:
    """Execute the template for one stage and keep the executed copy in the run folder.

    Args:
        stage: what is asked for; its fields are the notebook's parameters.
        template: another notebook than the project's template.
        view: makes a live view from the prefix of its lines; the one that suits unless given.

    Returns:
        Its outcome, also if the notebook or its kernel died, or the machine is far too small for it.

    Raises:
        BadInput: the template lacks a parameter, or the data folder cannot be written.
    """
    template = template or notebook_template()
    if stage.as_recorded() != stage.as_dict():
        raise BadInput(SECRETS_KEPT)
    data_dir = store.data_folder(stage.data_dir)
    parameters = stage.as_dict() | {"data_dir": str(data_dir)}
    check_parameters(template, parameters)
    store.check_writable(data_dir)
    refused = refusal(stage, read_host())
    if refused:
        return Executed(stage=stage.name, outcome=BROKE, reason=f"not started: {refused}")
    runs = data_dir / "runs"
    known = {path.name for path in runs.iterdir()}
    copy = runs / f".executing-{secrets.token_hex(4)}.ipynb"
    kernels: Kernels = []
    kills = count_oom_kills()

    def find() -> Path | None:
        return _run_of(runs, kernels[-1].pid, known) if kernels else None

    show = view(f"{stage.name}: ") if view else live_view(prefix=f"{stage.name}: ")
    try:
        with interrupts_go_to(kernels, lambda: find() is not None) as interrupts, follow(find, show, stage.connections):
            problem = execute(template, copy, parameters, kernels)
        death = how_it_died(kernels[-1].poll() if kernels else None, count_oom_kills() - kills)
        run_dir = find()
        if run_dir is None:
            reason = "stopped by the user" if interrupts else death or problem or "the notebook recorded no run"
            return Executed(stage=stage.name, outcome=ABORTED if interrupts else CRASHED, reason=reason)
        if copy.is_file():
            os.replace(copy, run_dir / "stage.ipynb")
        done = _recorded(stage, run_dir, death, problem, stopped=bool(interrupts))
        if death:
            end_live_view(run_dir / "stage.ipynb", run_dir)
        if interrupts and done.outcome != ABORTED:  # The recorded run had ended; a later cell was interrupted.
            return replace(done, outcome=ABORTED, reason="stopped by the user")
        return done
    finally:
        copy.unlink(missing_ok=True)


def notebook_template(name: str = TEMPLATE) -> Path:
    """Return a notebook of the project, the template of a stage by default.

    Raises:
        BadInput: the project's notebooks are not there.
    """
    return notebooks_folder() / name


def check_parameters(template: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that a template does not declare; papermill would only warn.

    Raises:
        BadInput: names the parameters and the template.
    """
    unknown = sorted(set(parameters) - set(papermill.inspect_notebook(str(template))))
    if unknown:
        raise BadInput(f"unknown parameter {', '.join(unknown)}: {template.name} does not declare it")


def execute(template: Path, copy: Path, parameters: dict[str, Any], kernels: Kernels) -> str:
    """Execute the template and return what went wrong in it, in one line."""
    try:
        papermill.execute_notebook(
            str(template),
            str(copy),
            parameters=parameters,
            progress_bar=False,
            start_timeout=START_SECONDS,
            iopub_timeout=IOPUB_SECONDS,
            kernel_manager_class=this_interpreter(kernels),
            cwd=str(template.parent),
        )
    except PapermillExecutionError as error:
        return f"the notebook stopped at cell {error.exec_count}: {error.ename}: {error.evalue}"
    except Exception as error:
        # nbclient and zmq raise many kinds of errors for a dead kernel; manifest and exit status say what happened.
        return f"the notebook could not be executed: {type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def end_live_view(notebook: Path, run_dir: Path) -> None:
    """Have the live view in an executed notebook whose kernel died say how the run ended."""
    try:
        document = json.loads(notebook.read_text(encoding="utf-8"))
        for data in (output.get("data", {}) for cell in document["cells"] for output in cell.get("outputs", ())):
            if LIVE_CLASS in "".join(data.get("text/html", "")):
                data["text/html"] = frame_html(last_progress(run_dir))
        notebook.write_text(json.dumps(document, indent=1), encoding="utf-8")
    except (OSError, ValueError, KeyError) as problem:
        _log.warning("%s keeps its last frame: %s", notebook, problem)


def _recorded(stage: Stage, run_dir: Path, death: str, problem: str, stopped: bool) -> Executed:
    """Return the outcome of a recorded run, and complete its manifest where its kernel could not."""
    run = Run.load(run_dir)
    if death and run.outcome == CRASHED and not run.manifest.get("ended_at"):
        outcome, reason = (ABORTED, "stopped by the user") if stopped else (CRASHED, death)
        ends = {"outcome": outcome, "reason": reason, "ended_at": store.utc_now()}
        store.write_manifest(run_dir, run.manifest | ends)
        run, problem = Run.load(run_dir), ""
    if stopped or run.outcome == ABORTED:
        problem = ""  # The interrupted cell, or the one that ends the notebook for it, adds nothing to that.
    reason = "; ".join(filter(None, (run.reason, problem)))
    return Executed(stage=stage.name, outcome=run.outcome, reason=reason, run=run)


def _run_of(runs: Path, pid: int, known: set[str]) -> Path | None:
    """Return the first run folder, not known before, that this process has recorded.

    A broken stage may be run once more with its limit lifted; what was asked for is the first.
    """
    for folder in sorted(path for path in runs.iterdir() if path.name not in known):
        try:
            caller = store.read_manifest(folder).get("caller") or {}
        except (BadInput, OSError):  # Not a run, or somebody else's that is damaged.
            continue
        if caller.get("pid") == pid:
            return folder
    return None
