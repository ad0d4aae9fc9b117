"""Recorded runs as tables and with a rich display: everything that works from a run folder, without load.

A run folder may be read while it is being written and after any accident; `wslab.lab.store` says what is left out then.
Nothing here writes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from wslab.core.ceilings import walls
from wslab.core.disturbance import disturbance_text
from wslab.core.evidence import Evidence, plan_of
from wslab.core.host import Host
from wslab.core.quantities import BadInput, format_count
from wslab.core.records import (
    ABORTED,
    CRASHED,
    FLOAT_UNITS,
    HELD,
    LATENCY_COLUMNS,
    SAMPLE_COLUMNS,
    Column,
    Finding,
    Value,
)
from wslab.core.servers import DEFAULT_SERVER, short_name
from wslab.core.stage import PING
from wslab.core.timeline import timeline
from wslab.lab import series, store
from wslab.lab.findings import Findings
from wslab.lab.tables import (
    MISSING,
    Machine,
    Table,
    bytes_text,
    card_html,
    outcome_badge,
    pairs_html,
    rate_text,
    seconds_text,
    whole_text,
)
from wslab.lab.verdict import judge

_log = logging.getLogger(__name__)

# For modules that only pass one on and do not import pandas.
DataFrame = pd.DataFrame

# The summary's figures in reading order: key of the summary, words, format.
FIGURES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("connections", "connections asked for", whole_text),
    ("connections_open", "open at the plateau", whole_text),
    ("connections_verified", "verified by their own echo", whole_text),
    ("connections_failed", "failed attempts", whole_text),
    ("ramp_seconds", "time to open them", seconds_text),
    ("connections_per_second", "connections opened", rate_text),
    ("messages_per_second", "messages echoed", rate_text),
    ("messages_offered_per_second", "messages due", rate_text),
    ("messages_failed", "messages lost, late or changed", whole_text),
    ("messages_unasked", "unasked messages", whole_text),
    ("verify_messages_per_second", "messages echoed while verifying", rate_text),
    ("handshake_seconds_p50", "handshake, median", seconds_text),
    ("handshake_seconds_p99", "handshake, 99 %", seconds_text),
    ("roundtrip_seconds_p50", "round trip, median", seconds_text),
    ("roundtrip_seconds_p99", "round trip, 99 %", seconds_text),
    ("roundtrip_seconds_p999", "round trip, 99.9 %", seconds_text),
    ("server_user_bytes_per_connection", "server memory a connection", bytes_text),
    ("swarm_user_bytes_per_connection", "swarm memory a connection", bytes_text),
    ("kernel_bytes_per_connection", "kernel memory a connection", bytes_text),
    ("total_bytes_per_connection", "all memory a connection", bytes_text),
    ("memory_headroom_bytes_min", "least memory left", bytes_text),
    ("server_shards", "server shards", whole_text),
    ("swarm_workers", "swarm workers", whole_text),
)
FORMATS = {key: form for key, _, form in FIGURES}
MAIN_FIGURES = ("connections_open", "connections_per_second", "total_bytes_per_connection")


class Run:
    """One recorded run.

    Args:
        run_dir: the run folder.
        manifest: the parsed `run.json`.
    """

    def __init__(self, run_dir: Path, manifest: dict[str, Any]) -> None:
        self.run_dir = run_dir
        self.manifest = manifest
        self.run_id: str = manifest.get("run_id") or run_dir.name
        self.outcome: str = manifest.get("outcome") or "running"
        self.reason: str = manifest.get("reason") or ""
        self.created_at: str = manifest.get("created_at") or ""
        self.asked: dict[str, Any] = (manifest.get("stage") or {}).get("asked") or {}
        self.stage: dict[str, Any] = {**self.asked, **((manifest.get("stage") or {}).get("effective") or {})}
        self.summary: dict[str, Any] = manifest.get("summary") or {}
        self.findings: Findings[dict[str, Any]] = Findings(manifest.get("findings") or (), self.outcome)
        self.limits: dict[str, Any] = manifest.get("limits") or {}
        self.host: dict[str, Any] = {**self.limits, **(manifest.get("host") or {})}
        self.preflight: list[dict[str, Any]] = manifest.get("preflight") or []

    @classmethod
    def load(cls, run_dir: str | Path) -> Run:
        """Load a run folder, also one that is still being written or was left half-written.

        Raises:
            NoSuchRun: the folder holds no `run.json`.
            BadInput: its `run.json` is damaged, or of a schema that this version does not know.
        """
        folder = Path(run_dir)
        if not (folder / store.MANIFEST).is_file():
            raise store.NoSuchRun(f"{folder} is not a run folder: it holds no {store.MANIFEST}")
        run = cls(folder, store.read_manifest(folder))
        for key in FORMATS:
            if not isinstance(run.summary.get(key, 0), int | float | None):
                raise BadInput(f"{folder / store.MANIFEST} is damaged: summary.{key} is no number")
        return run

    @property
    def connections(self) -> int:
        """Number of connections that the stage asked for."""
        return int(self.stage.get("connections") or self.summary.get("connections") or 0)

    @property
    def server(self) -> str:
        """The server, short enough for a title: a kind, the beginning of a command, or an address."""
        return short_name(str(self.stage.get("server") or DEFAULT_SERVER))

    @property
    def name(self) -> str:
        """Name of the stage: `700k`, `1M`."""
        return format_count(self.connections)

    @property
    def machine(self) -> Machine:
        """The machine that it ran on."""
        return Machine.of(self.host)

    @property
    def breaks(self) -> list[dict[str, Any]]:
        """The findings that kept it from holding; none when it held."""
        return [] if self.outcome == HELD else list(self.findings)

    @property
    def broken_limits(self) -> str:
        """The names of the limits that kept it from holding, each once, first cause first; empty when it held."""
        return ", ".join(dict.fromkeys(str(finding.get("limit")) for finding in self.breaks))

    @property
    def caption(self) -> str:
        """Machine, kernel, date and run, and that others disturbed it, as every figure shows them."""
        disturbed = "disturbed by others" if self.disturbed_by else ""
        return " · ".join(filter(None, (self.machine.line, self.created_at[:10], self.run_id, disturbed)))

    @property
    def disturbed_by(self) -> str:
        """What else used the machine meanwhile, in one line; empty when nothing did, or that was not recorded."""
        return disturbance_text(self.summary.get("disturbed_by") or ())

    @property
    def label(self) -> str:
        """The remark that was given with it, or later."""
        return str(self.stage.get("label") or "")

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row a second, columns as `wslab.columns()` explains them, indexed by `elapsed_seconds`."""
        return _samples(self.run_dir)

    @cached_property
    def hosts(self) -> list[tuple[str, str, pd.DataFrame]]:
        """Name, end (`server` or `swarm`) and samples of each host of a run over several; empty for a run on one."""
        recorded = self.manifest.get("hosts") or ()
        return [(host["name"], host["role"], _samples(self.run_dir / host["folder"])) for host in recorded]

    @property
    def rates(self) -> pd.DataFrame:
        """What happened per second: `connections_per_second`, `messages_per_second`, `failures_per_second`, `phase`."""
        return series.rates(self.samples)

    def percentiles(self, *quantiles: float, kind: str = series.ROUNDTRIP) -> pd.DataFrame:
        """Return the latency at some quantiles in each second, in seconds: `run.percentiles(0.5, 0.99)`.

        Args:
            *quantiles: each above 0 and at most 1; median and 99 % unless given.
            kind: `roundtrip` of a message, or `handshake` of a connection.

        Raises:
            BadInput: a quantile or the kind cannot be used.
        """
        return series.percentiles(self.latency, quantiles or (0.5, 0.99), kind)

    @cached_property
    def latency(self) -> pd.DataFrame:
        """Histogram increments: `elapsed_seconds`, `kind` (handshake or roundtrip), `bucket_seconds`, `count`."""
        return _frame(store.read_latency(self.run_dir), LATENCY_COLUMNS)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Everything that happened, in order, each with `elapsed_seconds` and `event`."""
        return store.read_events(self.run_dir)

    @cached_property
    def phases(self) -> list[dict[str, Any]]:
        """Phases as `{name, started_seconds, ended_seconds}`; taken from the events where the manifest has none yet."""
        recorded = [phase for phase in self.manifest.get("phases") or () if {"name", "started_seconds"} <= phase.keys()]
        if recorded:
            return recorded
        return [phase.as_dict() for phase in timeline(self.events)]

    def figures(self) -> list[tuple[str, str]]:
        """Return the summary's figures as (words, formatted value), in reading order; absent ones are left out."""
        ping = {"connections_verified": "verified by a pong of their own"} if self.summary.get("proof") == PING else {}
        known = [(key, words) for key, words, _ in FIGURES if self.summary.get(key) is not None]
        return [(ping.get(key, words), self.figure(key)) for key, words in known] + self._knee()

    def _knee(self) -> list[tuple[str, str]]:
        """Return how far a climb in messages came, and which side ended it; nothing where there was none."""
        knee = self.summary.get("knee")
        if not knee:
            return []
        bound = f"p99 within {seconds_text(knee['latency_bound'])}"
        shown = [(f"messages at the knee, {bound}", rate_text(knee["messages_per_second"]))]
        shown += [("round trip there, 99 %", seconds_text(knee["roundtrip_seconds_p99"]))]
        side = f"the {knee['limited_by']}: " if knee["limited_by"] else ""
        return [*shown, ("what ended the climb", f"{side}{knee['why']}")]

    def figure(self, key: str) -> str:
        """Return one figure of the summary with its unit, such as `8.1 KiB`; an en dash where it was not measured."""
        value = self.summary.get(key)
        return MISSING if value is None else FORMATS[key](value)

    def table(self) -> pd.DataFrame:
        """Return the summary's figures as a table: index the words, column `value` as text with its unit."""
        figures = self.figures()
        return pd.DataFrame({"value": [value for _, value in figures]}, index=[words for words, _ in figures])

    def walls(self) -> pd.DataFrame:
        """Return the limits that a plain set-up would meet, the nearest first, and how this run passed each.

        Columns: `what runs out`, `here` and `stock machine` in connections as text, and `this run`; index the limit.
        """
        found = walls(Host.from_record(self.limits), plan_of(self.manifest), self.summary, self.breaks)
        rows = [(wall.limit, wall.title, whole_text(wall.here), whole_text(wall.stock), wall.told) for wall in found]
        columns = ["limit", "what runs out", "here", "stock machine", "this run"]
        return pd.DataFrame(rows, columns=columns).set_index("limit")

    def diagnose(self) -> Findings[Finding]:
        """Judge the recorded run with today's rules; nothing is changed on disk.

        Returns:
            The findings, the limit that bound first coming first; empty for a run that reached all it asked for. They
            show themselves.
        """
        events, samples = store.read_events(self.run_dir), store.read_samples(self.run_dir)
        evidence = Evidence.recorded(self.manifest, samples, events)
        crashed = self.reason if self.outcome == CRASHED else ""
        verdict = judge(evidence, crashed=crashed, aborted=self.reason if self.outcome == ABORTED else "")
        return Findings(verdict.findings, verdict.outcome)

    def as_dict(self) -> dict[str, Any]:
        """Return what `wslab stage --json` prints: outcome, all figures, findings and where the run is."""
        ends = {"run_id": self.run_id, "outcome": self.outcome, "reason": self.reason}
        server = self.manifest.get("server") or {}
        about = {
            "server": self.stage.get("server"),
            "server_command": server.get("command") or None,
            "server_pids": list(server.get("pids") or ()),
            "server_note": server.get("note") or None,
        }
        return {**ends, **self.summary, **about, "findings": list(self.findings), "run_dir": str(self.run_dir)}

    def text(self) -> str:
        """Return the run as a terminal shows it."""
        lines = [f"{self.outcome}: {self.name} connections, server {self.server}"]
        lines += [self.reason] if self.reason else []
        note = (self.manifest.get("server") or {}).get("note")
        lines += [note] if note else []
        lines += [f"disturbed: {self.disturbed_by}"] if self.disturbed_by else []
        lines += self.findings.lines()
        figures = self.figures()
        lines += [Table(rows=figures, numbers=(1,)).text(indent=2)] if figures else []
        return "\n".join([*lines, self.machine.line, str(self.run_dir)])

    def __repr__(self) -> str:
        return f"Run({self.run_id}: {self.outcome}{' by ' + self.broken_limits if self.breaks else ''})"

    def _repr_html_(self) -> str:
        return card_html(
            f"{outcome_badge(self.outcome)} <b>{self.name} connections</b> · server <b>{escape(self.server)}</b> · "
            f'<span style="opacity:.75">{escape(self.run_id)}</span>',
            f"<div>{escape(self.reason)}</div>" if self.reason else "",
            f"<div><b>Disturbed:</b> {escape(self.disturbed_by)}</div>" if self.disturbed_by else "",
            self.findings._repr_html_() if self.findings else "",
            pairs_html(self.figures()),
            footer=" · ".join(filter(None, (self.machine.line, self.machine.versions))),
        )


def read_runs(data_dir: str | Path | None = None, *, or_reference: bool = False, at_least: int = 1) -> list[Run]:
    """Load all recorded runs of a data folder, newest last; see `wslab.list_runs`."""
    runs = _runs_in(store.runs_folder(data_dir or ""))
    if len(runs) >= at_least or not or_reference:
        return runs
    reference = store.data_folder(data_dir or "") / "reference"
    return [*(_runs_in(reference) or _runs_in(store.reference_folder())), *runs]


def load_run(run: Run | str | Path, data_dir: str | Path | None = None) -> Run:
    """Load one run: by its folder, its `run_id`, the beginning of that, or as `latest`. A run is returned as it is.

    Raises:
        NoSuchRun: there is none; the text suggests the nearest.
        BadInput: its `run.json` is damaged or of an unknown schema, or this is nothing that names a run.
    """
    return run if isinstance(run, Run) else Run.load(store.find_run(run, data_dir or ""))


def runs_table(runs: Iterable[Run], *, full: bool = False) -> pd.DataFrame:
    """Return one row per run, index `run_id`: stage, outcome, what broke first and the summary's figures as numbers.

    Where the machine was not theirs alone, a last column `disturbed` names what they shared it with: run, cpu, sockets.

    Args:
        runs: the runs, in the order of the rows.
        full: all figures of the summary, instead of the main ones.
    """
    keys = [key for key, _, _ in FIGURES if full or key in MAIN_FIGURES]
    columns = ["run_id", "created_at", "stage", "server", "outcome", "finding", *keys]
    rows, chosen = [], list(runs)
    for run in chosen:
        first = run.breaks[0].get("limit") if run.breaks else ""
        about = (run.run_id, run.created_at, run.name, run.server, run.outcome, first)
        rows.append([*about, *(run.summary.get(key) for key in keys)])
    table = pd.DataFrame(rows, columns=columns).set_index("run_id")
    if any(run.disturbed_by for run in chosen):
        causes = [[str(one.get("by")) for one in run.summary.get("disturbed_by") or ()] for run in chosen]
        table["disturbed"] = [", ".join(dict.fromkeys(by)) for by in causes]
    return table if full else table.drop(columns="created_at")


def ceilings_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows of a preflight as a table, those that bind first, one row a limit.

    Columns: `limit`, `scope`, `side`, `ceiling_connections`, `value`, `binding`, `lift`, `needs_root`, `note`.
    """
    columns = ["limit", "scope", "side", "ceiling_connections", "value", "binding", "lift", "needs_root", "note"]
    table = pd.DataFrame(list(rows), columns=columns)
    table["ceiling_connections"] = table["ceiling_connections"].astype("Int64")
    table = table.sort_values(["binding", "ceiling_connections"], ascending=[False, True], kind="stable")
    return table.reset_index(drop=True)


def _runs_in(folder: Path) -> list[Run]:
    manifests = sorted(folder.glob(f"*/{store.MANIFEST}")) if folder.is_dir() else ()
    runs = []
    for run_dir in (path.parent for path in manifests if not path.parent.name.startswith(".")):
        try:
            runs.append(Run.load(run_dir))
        except (BadInput, OSError) as problem:
            _log.warning("left out: %s", problem)
    return sorted(runs, key=lambda run: (run.created_at, run.run_id))


def _samples(folder: Path) -> pd.DataFrame:
    recorded = _frame(store.read_samples(folder), SAMPLE_COLUMNS).set_index("elapsed_seconds")
    return series.with_fractions(recorded)


def _frame(rows: Sequence[Mapping[str, Value]], columns: Sequence[Column]) -> pd.DataFrame:
    """Return rows as a table of numbers and text; what was not read is NaN."""
    frame = pd.DataFrame(rows, columns=[column.name for column in columns])
    for column in columns:
        # pandas gives a column without any number the dtype object, which figures cannot calculate with.
        if column.unit in FLOAT_UNITS or (column.unit != "text" and frame[column.name].dtype == object):
            frame[column.name] = frame[column.name].astype(float)
    return frame
