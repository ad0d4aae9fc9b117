"""Several servers side by side: in which order they are measured, and what their stages say about each of them.

1. Repetitions alternate: every second one runs backwards and, with three servers or more, each pair begins with another
   server, so that none always follows the same one or runs last.
2. Ratios are taken within a repetition, so that what disturbs one of them changes both sides. Medians and spreads are
   over the repetitions that held.
3. A figure that the generator limited is a lower bound of what the server can do, and is marked so.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from wslab.core.host import Host
from wslab.core.knee import RATE_FIRST
from wslab.core.model import Estimate, compared_with, ends_on, fit, memory_on, memory_points, rate_on
from wslab.core.plan import resolve
from wslab.core.quantities import BadInput, refuse
from wslab.core.records import ABORTED, BROKE, CRASHED, HELD
from wslab.core.servers import SERVER_KINDS, parse_server
from wslab.core.stage import Stage

FLOOR = "tcp_floor"
# What a record of one stage was for; and the outcome of a stage that could not be started.
MEASURE, CHECK = "measure", "check"
REFUSED = "refused"
LABEL_CHARS = 24
QUANTILES = {"p50": "p50", "p99": "p99", "p999": "p99.9"}
# Ends that are shown and kept for one machine: the first is what counts, the next are what comes after it is lifted.
ENDS_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure that servers are compared by.

    Attributes:
        key: its name in JSON.
        title: what it is, for people.
        unit: `rate`, `bytes`, `cpu` (seconds of a core) or `seconds`.
        phase: the phase whose limit it may be; empty for a cost, which no generator limits.
        own_load: whether each server was loaded differently for it.
    """

    key: str
    title: str
    unit: str
    phase: str = ""
    own_load: bool = False


FIGURES: tuple[Figure, ...] = (
    Figure(key="connections_per_second", title="connections opened", unit="rate", phase="ramp"),
    Figure(key="server_user_bytes_per_connection", title="server memory a connection", unit="bytes"),
    Figure(key="kernel_bytes_per_connection", title="kernel memory a connection", unit="bytes"),
    Figure(key="server_cpu_seconds_per_connection", title="server CPU a connection", unit="cpu"),
    Figure(key="server_cpu_seconds_per_message", title="server CPU a message", unit="cpu"),
    Figure(key="verify_messages_per_second", title="echoes, one at a time each", unit="rate", phase="verify"),
    *(
        Figure(
            key=f"light_roundtrip_seconds_{name}",
            title=f"round trip at {RATE_FIRST:,.0f} messages/s, {words}",
            unit="seconds",
        )
        for name, words in QUANTILES.items()
    ),
    Figure(key="knee_messages_per_second", title="messages at the knee", unit="rate", phase="climb"),
    *(
        # At its own rate for each server, so no ratio of two of them says anything.
        Figure(key=f"knee_roundtrip_seconds_{name}", title=f"round trip there, {words}", unit="seconds", own_load=True)
        for name, words in QUANTILES.items()
    ),
)


def split_servers(servers: str | Sequence[str], more: Sequence[str] = ()) -> list[str]:
    """Return the servers of a list such as `lean,"node my.js --port {port}",asyncio`, each once and as it is kept.

    Args:
        servers: text with commas between the servers, a server with a comma in it in quotes; or a list.
        more: further servers, each as it stands.

    Raises:
        BadInput: there is none, or one is no kind, no command and no URL.
    """
    parts = _split(servers) if isinstance(servers, str) else list(servers)
    found = list(dict.fromkeys(parse_server(part, "servers") for part in [*parts, *more]))
    if not found:
        raise BadInput(f"servers is empty: give one or more of {', '.join(SERVER_KINDS)}, or commands")
    return found


def _split(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = ",", True, ""
    try:
        return [part.strip() for part in lexer]
    except ValueError as problem:
        raise refuse("servers", text, f"a list; this one has {str(problem).lower()}") from problem


def schedule(servers: Sequence[str], counts: Sequence[int], repetitions: int) -> list[tuple[int, str, int]]:
    """Return (repetition from 0, server, connections) of all stages in the order in which they run."""
    order = []
    for repetition in range(repetitions):
        first = repetition // 2 % len(servers) if len(servers) > 2 else 0
        turned = [*servers[first:], *servers[:first]]
        once = [(repetition, server, count) for count in counts for server in turned]
        order += once[::-1] if repetition % 2 else once
    return order


def worst(outcomes: Sequence[str]) -> str:
    """Return the worst outcome of several; one that could not be started counts as broken."""
    known = {BROKE if outcome == REFUSED else outcome for outcome in outcomes}
    return next((outcome for outcome in (ABORTED, CRASHED, BROKE) if outcome in known), HELD)


def label(server: str) -> str:
    """Return a server's name as a table has room for."""
    return server if len(server) <= LABEL_CHARS else server[: LABEL_CHARS - 1] + "…"


def figures_of(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the figures of one stage by the keys of `FIGURES`; None for what was not measured.

    The server's memory is the growth since the last reading before the ramp, so that an interpreter which is there
    before the first connection does not count as part of each.
    """
    knee = summary.get("knee") or {}
    sizes = [
        summary.get(f"{key}{at}") for key in ("server_user_bytes", "plateau_connections") for at in ("", "_at_start")
    ]
    grown = None
    if None not in sizes and sizes[2] != sizes[3]:
        now, start, count, before = map(float, sizes)  # type: ignore[arg-type]
        grown = (now - start) / (count - before)
    found = {figure.key: summary.get(figure.key) for figure in FIGURES}
    found["server_user_bytes_per_connection"] = grown
    found["server_cpu_seconds_per_message"] = (
        knee.get("server_cpu_seconds_per_message") or found["server_cpu_seconds_per_message"]
    )
    steps = {step["messages_per_second"]: step for step in reversed(knee.get("steps") or ())}
    for kind, of in (("light_", steps.get(RATE_FIRST) or {}), ("knee_", knee)):
        found |= {key: of.get(key.removeprefix(kind)) for key in found if key.startswith(kind)}
    return found


def limited_by(figure: Figure, summary: Mapping[str, Any]) -> str | None:
    """Return the side at whose limit a figure of one stage was taken; None for a cost, or where none was at its."""
    if figure.phase == "climb":
        return (summary.get("knee") or {}).get("limited_by")
    return summary.get(f"{figure.phase}_limited_by") if figure.phase else None


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return median, least and largest of the values that were measured, and all of them; None where none was."""
    known = [value for value in values if value is not None]
    if not known:
        return {"median": None, "min": None, "max": None, "values": list(values)}
    return {"median": median(known), "min": min(known), "max": max(known), "values": list(values)}


def results(
    servers: Sequence[str],
    entries: Sequence[Mapping[str, Any]],
    stage: Stage,
    here: Host,
    there: Host | None = None,
    messages_each: float = 0.0,
) -> list[dict[str, Any]]:
    """Return one result a server, in the order asked.

    Args:
        servers: those compared, the floor among them.
        entries: what was measured: `role`, `repetition`, `server`, `connections`, `outcome`, `reason`, `limits`,
            `summary`.
        stage: what was asked of each server; its `connections` are those that figures are compared at.
        here: the machine of the measurement, before it.
        there: another machine to predict for.
        messages_each: messages/s per connection for the prediction.

    Returns:
        Mappings with `server`, `outcome`, `said` (what happened to it, empty where all held), `figures` (by key:
        `median`, `min`, `max`, `values`, `limited_by`, `ratios` to every other server), `swarm_headroom_fraction` by
        phase, and `model`.
    """
    tables = {server: _by_repetition(server, entries, stage.connections) for server in servers}
    found = []
    for server in servers:
        mine = [entry for entry in entries if entry["server"] == server]
        figures = {}
        for figure in FIGURES:
            values = _values(figure, tables[server])
            others = [] if figure.own_load else [other for other in servers if other != server]
            ratios = {other: spread(_divided(values, _values(figure, tables[other]))) for other in others}
            sides = [limited_by(figure, summary) for summary in tables[server].values() if summary]
            figures[figure.key] = {
                **spread(list(values.values())),
                "limited_by": _most(sides),
                "ratios": {other: ratio for other, ratio in ratios.items() if ratio["median"] is not None},
            }
        found.append(
            {
                "server": server,
                "outcome": _outcome(mine),
                "said": _said(mine),
                "figures": figures,
                "swarm_headroom_fraction": _headroom(tables[server]),
                "model": _model(server, mine, stage, here, there, messages_each),
            }
        )
    return found


def _outcome(mine: Sequence[Mapping[str, Any]]) -> str:
    """Return the worst outcome; that of a stage which was only to check the prediction does not count."""
    outcomes = [str(entry["outcome"]) for entry in mine if entry["role"] == MEASURE]
    if not outcomes:
        return ABORTED
    return REFUSED if set(outcomes) == {REFUSED} else worst(outcomes)


def _said(mine: Sequence[Mapping[str, Any]]) -> str:
    """Return what happened to a server that did not hold, each reason once."""
    if not mine:
        return "not measured"
    reasons = [f"{entry['outcome']}: {entry['reason']}" for entry in mine if entry["outcome"] != HELD]
    return "; ".join(dict.fromkeys(reasons))


def _by_repetition(server: str, entries: Sequence[Mapping[str, Any]], connections: int) -> dict[int, Mapping[str, Any]]:
    """Return the summaries of a server at the compared count by repetition; an empty one where it did not hold."""
    mine = [entry for entry in entries if (entry["server"], entry["connections"]) == (server, connections)]
    return {
        entry["repetition"]: entry["summary"] if entry["outcome"] == HELD else {}
        for entry in mine
        if entry["role"] == MEASURE
    }


def _values(figure: Figure, table: Mapping[int, Mapping[str, Any]]) -> dict[int, float | None]:
    return {repetition: figures_of(summary)[figure.key] for repetition, summary in table.items()}


def _divided(above: Mapping[int, float | None], below: Mapping[int, float | None]) -> list[float | None]:
    pairs = [(value, below.get(repetition)) for repetition, value in above.items()]
    return [value / other for value, other in pairs if value and other and value > 0 and other > 0]


def _most(sides: Sequence[str | None]) -> str | None:
    """Return the side that was named in at least half of the repetitions."""
    return next((side for side in dict.fromkeys(sides) if side and 2 * sides.count(side) >= len(sides)), None)


def _headroom(table: Mapping[int, Mapping[str, Any]]) -> dict[str, float | None]:
    """Return what the busiest worker had left of a core: in each phase that a figure comes from, at the median."""
    found: dict[str, float | None] = {}
    for phase in ("ramp", "verify"):
        found[phase] = spread([s.get(f"{phase}_swarm_headroom_fraction") for s in table.values()])["median"]
    knees = [(summary.get("knee") or {}).get("swarm_headroom_fraction") for summary in table.values()]
    return {**found, "climb": spread(knees)["median"]}


def _model(
    server: str,
    mine: Sequence[Mapping[str, Any]],
    stage: Stage,
    here: Host,
    there: Host | None,
    messages_each: float,
) -> dict[str, Any] | None:
    """Return what is predicted of a server, and how it compares with a larger stage; None where nothing held."""
    held = [entry["summary"] for entry in mine if entry["role"] == MEASURE and entry["outcome"] == HELD]
    if not held:
        return None
    line = fit([point for summary in held for point in memory_points(summary)])
    largest = [summary for summary in held if summary.get("connections") == stage.connections]
    figures = [figures_of(summary) for summary in largest]
    knee = spread([one["knee_messages_per_second"] for one in figures])
    rate = Estimate(value=knee["median"], low=knee["min"], high=knee["max"]) if knee["median"] else None
    cpu = spread([one["server_cpu_seconds_per_message"] for one in figures])["median"]
    of = Stage.of(**{**stage.as_dict(), "server": server})
    laid_out = resolve(of, here)
    ends = {
        name: ends_on(
            host,
            of,
            memory_on(host, of, line, laid_out),
            rate and rate_on(host, here, server, rate, cpu),
            messages_each,
        )
        for name, host in (("here", here), ("there", there))
        if host is not None
    }
    checks = [entry for entry in mine if entry["role"] == CHECK and entry["outcome"] != REFUSED]
    # The stage that checks the prediction sends no messages, so the CPU is no part of it.
    memory = memory_on(here, of, line, laid_out)
    silent = [end for end in ends["here"] if not end.limit.endswith("_cpu")]
    return {
        "bytes_per_connection": line.slope if line else None,
        "bytes_per_connection_margin": line.slope_margin if line else None,
        "bytes_at_start": line.at_zero if line else None,
        **{name: [end.as_dict() for end in found[:ENDS_SHOWN]] for name, found in ends.items()},
        "check": compared_with(silent, memory, checks[-1]["summary"], checks[-1]["limits"]) if checks else None,
    }
