"""`wslab compare`: the same stage against several servers and the floor, in alternating repetitions.

1. A server that breaks, crashes or is not installed loses none of the others: what happened to it is in its row.
2. The record is written after every stage, so an interrupt or a crash keeps what was measured; everything that is shown
   is computed from the record.
3. The runs of a comparison lie in its folder, beside its record, and can be looked at like any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from wslab.core import model
from wslab.core.comparison import (
    CHECK,
    FIGURES,
    FLOOR,
    MEASURE,
    REFUSED,
    label,
    results,
    schedule,
    split_servers,
    worst,
)
from wslab.core.host import Host
from wslab.core.plan import refusal
from wslab.core.quantities import BadInput, format_bytes, format_count, parse_bytes, parse_count, parse_number
from wslab.core.records import ABORTED, CRASHED, HELD
from wslab.core.stage import Stage
from wslab.lab import store
from wslab.lab.experiment import run_stage
from wslab.lab.tables import (
    MISSING,
    Machine,
    Table,
    bytes_text,
    card_html,
    count_text,
    outcome_badge,
    rate_text,
    seconds_text,
)
from wslab.machine.procfs import read_host

# What a stage is for, repetition, server, connections.
Step = tuple[str, int, str, int]

RECORD = "compare.json"
SCHEMA_VERSION = 1
HOLD_SECONDS = 2.0
REPETITIONS = 3
# A server that crashed so often in a row is not tried again: each attempt may take minutes.
CRASHES_IN_A_ROW = 2
MARKS = {"generator": "≥", "machine": "~"}
FOOTNOTES = {
    "generator": "≥ the swarm was at its limit: the server can do at least this",
    "machine": "~ the machine had no CPU left for both ends together",
}
FORMS: Mapping[str, Callable[[float | None], str]] = {
    "rate": rate_text,
    "bytes": bytes_text,
    "cpu": seconds_text,
    "seconds": seconds_text,
}


class Comparison:
    """What was measured of several servers, and what follows from it.

    Args:
        folder: where it is recorded.
        record: the record; see `new_record`.
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder, self.record = folder, record

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """Load a recorded comparison.

        Raises:
            BadInput: the folder holds none, or a damaged one.
        """
        path = Path(folder).expanduser() / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            missing = {"servers", "stage", "limits", "order"} - record.keys()
        except OSError as problem:
            raise BadInput(f"{path} cannot be read: {problem.strerror}") from problem
        except (ValueError, AttributeError) as problem:
            raise BadInput(f"{path} is damaged: {problem}") from problem
        if missing:
            raise BadInput(f"{path} is damaged: it has no {sorted(missing)[0]}")
        return cls(path.parent, record)

    @property
    def servers(self) -> list[str]:
        """The servers, the floor first unless it was asked for elsewhere."""
        return list(self.record["servers"])

    @property
    def stage(self) -> Stage:
        """What was asked of each server."""
        return Stage.of(**self.record["stage"])

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The stages in the order in which they ran."""
        return list(self.record["order"])

    @property
    def outcome(self) -> str:
        """The worst outcome of the stages that were compared."""
        if self.record.get("interrupted"):
            return ABORTED
        return worst([entry["outcome"] for entry in self.entries if entry["role"] == MEASURE])

    @property
    def machine(self) -> Machine:
        """The machine that it ran on."""
        return Machine.of(self.record["limits"])

    @property
    def caption(self) -> str:
        """Machine, stage, repetitions and date, as figures show them."""
        repetitions = f"{self.record['repetitions']} alternating repetitions"
        stage = f"{self.stage.name} connections, both ends on this machine, {repetitions}"
        return " · ".join((self.machine.line, stage, str(self.record["created_at"])[:10]))

    @property
    def results(self) -> list[dict[str, Any]]:
        """One result a server; see `wslab.core.comparison.results`."""
        asked = self.record.get("machine") or {}
        there = model.machine_of(asked["memory_bytes"], asked["cpus"]) if asked else None
        here = Host.from_record(self.record["limits"])
        return results(self.servers, self.entries, self.stage, here, there, self.record["messages_each"])

    def save(self) -> None:
        """Write the record in the place of the one before."""
        part = self.folder / f".{RECORD}.part"
        part.write_text(json.dumps(self.record, indent=2, default=str) + "\n", encoding="utf-8")
        part.replace(self.folder / RECORD)

    def as_dict(self) -> dict[str, Any]:
        """Return what `wslab compare --json` prints: the record without summaries, and the results."""
        order = [{key: value for key, value in entry.items() if key != "summary"} for entry in self.entries]
        ends = {"outcome": self.outcome, "results": self.results, "folder": str(self.folder)}
        return {**self.record, "order": order, **ends}

    def tables(self) -> list[tuple[str, Table]]:
        """Return the tables with their titles: figures, ratios to the floor, and where each server ends."""
        found = self.results
        shown = [result for result in found if any(one["median"] is not None for one in result["figures"].values())]
        tables = [("What happened", _outcomes(found))]
        if shown:
            tables.append((f"Figures at {self.stage.name} connections, medians and spread", _figures(shown)))
        if any(result["server"] == FLOOR for result in shown) and len(shown) > 1:
            tables.append(("Ratios to the floor, medians within repetitions", _ratios(shown)))
        if any(result["model"] for result in found):
            tables.append((f"Where each ends, at {self._load}", _ends(found, self._there)))
        if any(result["model"] and result["model"]["check"] for result in found):
            tables.append(("The prediction against a larger stage", _checks(found)))
        return tables

    @property
    def footnotes(self) -> list[str]:
        """What the marks of the figures mean, those that occur."""
        sides = {one["limited_by"] for result in self.results for one in result["figures"].values()}
        return [text for side, text in FOOTNOTES.items() if side in sides]

    @property
    def _load(self) -> str:
        return f"{self.record['messages_each']:g} messages/s a connection"

    @property
    def _there(self) -> str:
        asked = self.record.get("machine") or {}
        return f"on {format_bytes(asked['memory_bytes'])}, {asked['cpus']} CPUs" if asked else ""

    def text(self) -> str:
        """Return the comparison as a terminal shows it."""
        parts = [f"{title}\n{table.text(indent=2)}" for title, table in self.tables()]
        return "\n\n".join([self.caption, *parts, "\n".join([*self.footnotes, str(self.folder)])])

    def markdown(self) -> str:
        """Return the tables in Markdown."""
        parts = [f"**{title}**\n\n{table.markdown()}" for title, table in self.tables()]
        return "\n".join([*parts, *(f"{note}  " for note in self.footnotes), f"\n{self.caption}\n"])

    def __repr__(self) -> str:
        return f"Comparison({', '.join(map(label, self.servers))} at {self.stage.name}: {self.outcome})"

    def _repr_html_(self) -> str:
        parts = [f"<h4>{escape(title)}</h4>{table.html()}" for title, table in self.tables()]
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.footnotes)
        heading = f"{outcome_badge(self.outcome)} <b>{len(self.servers)} servers at {self.stage.name} connections</b>"
        return card_html(heading, *parts, notes, footer=self.caption)


def compare(
    servers: str | Sequence[str] = "",
    connections: object = 15_000,
    repetitions: object = REPETITIONS,
    *,
    check: object = None,
    memory: object = None,
    cpus: object = None,
    messages_each: object = 0.1,
    recorded: str = "",
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
    **parameters: Any,
) -> Comparison:
    """Measure several servers in alternating repetitions, and return what was measured and what follows.

    Args:
        servers: kinds, commands and URLs: a list, or text with commas between them and quotes around those that have
            one. The floor is measured with them.
        connections: of each stage, or several numbers with commas between them: figures are compared at the largest,
            the model is fitted to all.
        repetitions: how often each server is measured.
        check: connections of a larger stage that the prediction is checked against; None for none.
        memory: size of another machine to predict for, such as `"16GiB"`.
        cpus: its CPUs.
        messages_each: messages/s per connection that the prediction assumes.
        recorded: folder of a comparison to load instead of measuring anything.
        say: called with one line of progress a stage.
        clock: monotonic time in seconds.
        **parameters: further fields of `Stage`, for all servers.

    Returns:
        The comparison, recorded, whatever happened; interrupted, it holds what was measured until then.

    Raises:
        BadInput: a parameter or the data folder cannot be used, a stage is out of reach of this machine's memory, or no
            server can be started here at all. Nothing was measured then.
    """
    if recorded:
        return Comparison.load(recorded)
    names = split_servers(servers)
    names = names if FLOOR in names else [FLOOR, *names]
    text = connections if isinstance(connections, str) else str(connections)
    counts = sorted({parse_count(part, "connections") for part in text.split(",")})
    defaults: dict[str, Any] = {"message_rate": "auto", "hold_seconds": HOLD_SECONDS}
    stage = Stage.of(**{**defaults, **parameters, "connections": counts[-1]})
    times = parse_count(repetitions, "repetitions")
    extra = None if check in (None, "") else parse_count(check, "check")
    host = read_host()
    for count in [*counts, *([extra] if extra else [])]:
        if too_large := refusal(Stage(connections=count), host):
            raise BadInput(too_large)
    record = new_record(names, stage, host, counts, times)
    record["check"], record["machine"] = extra, _machine(memory, cpus)
    record["messages_each"] = parse_number(messages_each, "messages_each", "messages per second, 0 or more")
    folder = store.data_folder(stage.data_dir) / "comparisons" / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    store.check_writable(folder)
    comparison = Comparison(folder, record)
    comparison.save()
    steps = [(MEASURE, *step) for step in schedule(names, counts, times)]
    steps += [(CHECK, times, name, extra) for name in names] if extra else []
    try:
        _measure(comparison, steps, say, clock)
    except KeyboardInterrupt:
        record["interrupted"] = True
    record["ended_at"] = store.utc_now()
    comparison.save()
    refused = [entry["reason"] for entry in comparison.entries if entry["outcome"] == REFUSED]
    if refused and len(refused) == len(comparison.entries) and not record.get("interrupted"):
        raise BadInput(refused[0])
    return comparison


def new_record(servers: Sequence[str], stage: Stage, host: Host, counts: Sequence[int], times: int) -> dict[str, Any]:
    """Return the record of a comparison that is about to start."""
    return {
        "schema_version": SCHEMA_VERSION,
        "created_at": store.utc_now(),
        "servers": list(servers),
        "stage": stage.as_dict(),
        "counts": list(counts),
        "repetitions": times,
        "limits": host.as_dict(),
        "messages_each": 0.0,
        "order": [],
    }


def _machine(memory: object, cpus: object) -> dict[str, Any] | None:
    """Return the machine to predict for.

    Raises:
        BadInput: one of the two is missing, or is no size or number.
    """
    if memory in (None, "") and cpus in (None, ""):
        return None
    if memory in (None, "") or cpus in (None, ""):
        raise BadInput("memory and cpus describe another machine together: give both, or none")
    return {"memory_bytes": parse_bytes(memory, "memory", minimum=1 << 20), "cpus": parse_count(cpus, "cpus")}


def _measure(
    comparison: Comparison,
    steps: Sequence[Step],
    say: Callable[[str], None],
    clock: Callable[[], float],
) -> None:
    """Run the stages, and write each into the record when it has ended.

    Raises:
        KeyboardInterrupt: the user stopped it.
    """
    order, took = comparison.record["order"], list[tuple[Step, float]]()
    for number, (role, repetition, server, count) in enumerate(steps, start=1):
        if gave_up := _given_up(server, order):
            say(f"{number}/{len(steps)}  {label(server):<14} not tried again: {gave_up}")
            continue
        started = clock()
        entry: dict[str, Any] = {"role": role, "repetition": repetition, "server": server, "connections": count}
        entry |= {"started_at": store.utc_now(), **_run(comparison, entry)}
        took.append((steps[number - 1], clock() - started))
        order.append(entry | {"seconds": round(took[-1][1], 3)})
        comparison.save()
        if entry["outcome"] == ABORTED:
            raise KeyboardInterrupt
        told = told_in_words(entry["summary"]) if entry["outcome"] == HELD else f"{entry['outcome']}: {entry['reason']}"
        left = _seconds_left(took, [step for step in steps[number:] if not _given_up(step[2], order)])
        say(f"{number}/{len(steps)}  {label(server):<14} {format_count(count):>6}  {told}{left}")


def _run(comparison: Comparison, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Run one stage and return what the record says about it."""
    asked = comparison.stage.as_dict() | {
        "server": entry["server"],
        "connections": entry["connections"],
        "data_dir": str(comparison.folder),
    }
    if entry["role"] == CHECK or entry["connections"] != comparison.stage.connections:
        asked["message_rate"] = 0  # Memory alone is fitted and checked.
    nothing: dict[str, Any] = {"run_id": None, "limits": [], "disturbed_by": [], "summary": {}}
    try:
        run = run_stage(**asked)
    except BadInput as problem:
        return {**nothing, "outcome": REFUSED, "reason": str(problem)}
    except Exception as problem:
        # The others have taken minutes, and must not be lost by an error of ours in one of them.
        return {**nothing, "outcome": CRASHED, "reason": f"{type(problem).__name__}: {problem}"}
    return {
        "run_id": run.run_id,
        "outcome": run.outcome,
        "reason": run.reason,
        "limits": list(dict.fromkeys(str(finding.get("limit")) for finding in run.findings)),
        "disturbed_by": run.summary.get("disturbed_by") or run.manifest.get("disturbed_by") or [],
        "summary": run.summary,
    }


def _given_up(server: str, order: Sequence[Mapping[str, Any]]) -> str:
    """Return why a server is not tried again; empty text where it is."""
    last = [entry for entry in order if entry["server"] == server][-CRASHES_IN_A_ROW:]
    refused = bool(last) and last[-1]["outcome"] == REFUSED
    crashed = len(last) == CRASHES_IN_A_ROW and all(entry["outcome"] == CRASHED for entry in last)
    return str(last[-1]["reason"]) if refused or crashed else ""


def _seconds_left(took: Sequence[tuple[Step, float]], rest: Sequence[Step]) -> str:
    """Return how long the rest will take, each stage as long as those most like it; empty text after the last."""
    if not rest:
        return ""

    def likely(step: Step) -> float:
        # The same stage of the same server, the same stage, or any.
        for alike in (lambda one: one[::2] == step[::2] and one[3] == step[3], lambda one: one[3] == step[3], bool):
            known = [seconds for one, seconds in took if alike(one)]
            if known:
                return sum(known) / len(known)
        return 0.0

    return f"  {seconds_text(sum(map(likely, rest)))} left"


def told_in_words(summary: Mapping[str, Any]) -> str:
    """Return what one stage measured: how fast it opened, the knee, and CPU time of server + swarm."""
    knee = summary.get("knee") or {}
    texts = [f"{summary.get('connections_per_second') or 0:>8,.0f} connections/s"]
    if knee:
        rate = knee.get("messages_per_second")
        by = f" ({knee['limited_by']})" if knee.get("limited_by") else ""
        texts.append(f"knee {rate:>8,.0f} messages/s{by}" if rate else "no knee")
    return "  ".join(texts)


# The tables.


def cell(one: Mapping[str, Any], unit: str) -> str:
    """Return one figure: mark, median, and half of its range, of memory as bytes since a slope may be about nothing."""
    middle = one["median"]
    if middle is None:
        return MISSING
    several = len([value for value in one["values"] if value is not None]) > 1
    half = (one["max"] - one["min"]) / 2
    around = f" ±{FORMS[unit](half) if unit == 'bytes' else f'{half / middle:.0%}'}" if several and middle else ""
    return f"{MARKS.get(one['limited_by'], '')}{FORMS[unit](middle)}{around}"


def _outcomes(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for result in found:
        left = result["swarm_headroom_fraction"]
        told = " · ".join(MISSING if left[key] is None else f"{left[key]:.0%}" for key in ("ramp", "verify", "climb"))
        rows.append((label(result["server"]), result["outcome"], told, result["said"]))
    headings = ("server", "outcome", "swarm's CPU left: ramp · verify · knee", "what happened")
    return Table(headings=headings, rows=rows, numbers=(2,))


def _figures(shown: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (figure.title, *(cell(result["figures"][figure.key], figure.unit) for result in shown))
        for figure in FIGURES
        if any(result["figures"][figure.key]["median"] is not None for result in shown)
    ]
    return Table(headings=("", *(label(result["server"]) for result in shown)), rows=rows, numbers=_columns(shown))


def _ratios(shown: Sequence[Mapping[str, Any]]) -> Table:
    others = [result for result in shown if result["server"] != FLOOR]
    rows = []
    for figure in FIGURES:
        ratios = [result["figures"][figure.key]["ratios"].get(FLOOR) for result in others]
        if any(ratios):
            rows.append((figure.title, *(f"{ratio['median']:.2f}" if ratio else MISSING for ratio in ratios)))
    return Table(headings=("", *(label(result["server"]) for result in others)), rows=rows, numbers=_columns(others))


def _columns(shown: Sequence[Any]) -> tuple[int, ...]:
    return tuple(range(1, len(shown) + 1))


def end_text(end: Mapping[str, Any]) -> str:
    """Return where a limit ends a climb: `memory_machine at 1.02M (0.98M to 1.06M)`."""
    at = end["at_connections"]
    told = any(at[bound] != at["value"] for bound in ("low", "high") if at[bound] is not None)
    most = "or more" if at["high"] is None else f"to {count_text(at['high'])}"
    bounds = f" ({count_text(at['low'])} {most})" if told else ""
    return f"{end['limit']} at {count_text(at['value'])}{bounds}"


def _ends(found: Sequence[Mapping[str, Any]], there: str) -> Table:
    rows = []
    for result in found:
        one = result["model"]
        if not one:
            continue
        margin = one["bytes_per_connection_margin"]
        slope = bytes_text(one["bytes_per_connection"]) + (f" ± {bytes_text(margin)}" if margin is not None else "")
        places = [
            ", then ".join(map(end_text, one.get(name) or [])) for name in ("here", *(["there"] if there else []))
        ]
        rows.append((label(result["server"]), slope, *(text or MISSING for text in places)))
    headings = ("server", "memory a connection, both ends", "here", *([there] if there else []))
    return Table(headings=headings, rows=rows, numbers=(1,))


def _checks(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for result in found:
        one = (result["model"] or {}).get("check")
        if not one:
            continue
        guess = one["predicted_bytes"] or {}
        predicted = f"{one['predicted_limit']} at {count_text(one['predicted_connections'])}"
        measured = f"{', '.join(one['measured_limits'])} at {count_text(one['measured_connections'])}"
        within = {True: "yes", False: "no", None: MISSING}[one["within"]]
        rows.append(
            (
                label(result["server"]),
                count_text(one["connections"]),
                predicted if one["predicted_limit"] else "holds",
                measured if one["measured_limits"] else "held",
                bytes_text(guess.get("value")),
                bytes_text(one["measured_bytes"]),
                MISSING if one["error"] is None else f"{one['error']:+.1%}",
                within,
            )
        )
    headings = ("server", "asked", "predicted", "measured", "bytes predicted", "measured", "error", "within its bounds")
    return Table(headings=headings, rows=rows, numbers=(1, 4, 5, 6))
