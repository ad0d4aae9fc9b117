"""What a server would hold on this or another machine: a line fitted to measured memory, the knee, and where both end.

1. Memory is a line over connections, fitted by least squares to what was measured before the ramp and at the plateau of
   each run. Its uncertainty is the 95 % prediction interval, so it covers another measurement and not only the line.
   A larger stage also has more processes, which the line has not seen. What they take is estimated, and may as well be
   nothing or twice as much.
2. Messages/s grow with the cores where a server has several processes; a server of one process ends at one core.
3. Every other limit is read from the table of limits, for the same layout as a stage of that size would have.
4. A prediction is checked against a larger stage that the fit has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, sqrt
from statistics import fmean
from typing import Any

from wslab.core.ceilings import STOCK, ceilings
from wslab.core.host import Host
from wslab.core.plan import MEMBER_BYTES, Plan, before_start, cores, memory_left, process_bytes, resolve
from wslab.core.servers import serves_in_one_process
from wslab.core.stage import Stage

# The 97.5 % quantile of Student's t by degrees of freedom; between two entries the lower, wider one is taken.
STUDENT = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
    10: 2.228,
    12: 2.179,
    15: 2.131,
    20: 2.086,
    30: 2.042,
    60: 2.000,
}
LAYOUT_LIMITS = ("fd_limit", "ephemeral_ports")
MEMORY_LIMITS = ("memory_machine", "memory_reserve", "memory_cgroup")
# Linux gives a user 4 % of memory for epoll watches, at 184 bytes each (fs/eventpoll.c).
WATCH_SHARE, WATCH_BYTES = 25, 184
MOST = 1_000_000_000
# Where memory is not known, the layout is that of so many connections.
PLANNED_MOST = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with the bounds between which it lies in 95 % of cases; None where repetitions are too few to tell."""

    value: float
    low: float | None = None
    high: float | None = None

    def covers(self, measured: float) -> bool | None:
        """Return whether a measurement lies within the bounds; None where there are none."""
        return None if self.low is None or self.high is None else self.low <= measured <= self.high

    def as_dict(self) -> dict[str, float | None]:
        """Return value and bounds for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A straight line fitted by least squares.

    Attributes:
        at_zero: its value at 0.
        slope: its slope.
        points: number of points.
        mean: mean of the points' positions.
        spread: sum of their squared distances from the mean.
        scatter: standard deviation of the points around the line; None where every line through them is exact.
    """

    at_zero: float
    slope: float
    points: int
    mean: float
    spread: float
    scatter: float | None

    def at(self, position: float) -> Estimate:
        """Return the value there, with the bounds of another measurement."""
        value, margin = self._value(position), self._margin(position)
        if margin is None:
            return Estimate(value=value)
        return Estimate(value=value, low=value - margin, high=value + margin)

    @property
    def slope_margin(self) -> float | None:
        """Half of the 95 % interval of the slope."""
        return None if self.scatter is None else student(self.points - 2) * self.scatter / sqrt(self.spread)

    def _value(self, position: float) -> float:
        return self.at_zero + self.slope * position

    def _margin(self, position: float) -> float | None:
        if self.scatter is None:
            return None
        leverage = 1 + 1 / self.points + (position - self.mean) ** 2 / self.spread
        return student(self.points - 2) * self.scatter * sqrt(leverage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory over connections on one machine.

    Attributes:
        line: bytes of both ends and the kernel, as measured with the processes of one layout.
        further: bytes, estimated, of the processes that so many connections need besides those.
    """

    line: Line
    further: Callable[[float], float]

    def at(self, connections: float) -> Estimate:
        """Return the bytes of so many connections, with the bounds of another measurement."""
        more, by_line = self.further(connections), self.line.at(connections)
        if by_line.low is None or by_line.high is None:
            return Estimate(value=by_line.value + more)
        return Estimate(value=by_line.value + more, low=by_line.low, high=by_line.high + 2 * more)

    def reaches(self, level: float) -> Estimate:
        """Return the connections at which a level is reached, with those at which the bounds reach it."""
        if self.line.slope <= 0:
            return Estimate(value=inf)
        value = _crossing(lambda n: self.at(n).value, level)
        if self.line.scatter is None:
            return Estimate(value=value)
        return Estimate(
            value=value,
            low=_crossing(lambda n: self.at(n).high or 0.0, level),
            high=_crossing(lambda n: self.at(n).low or 0.0, level),
        )


def memory_on(host: Host, stage: Stage, line: Line | None, measured: Plan) -> Memory | None:
    """Return the memory that a stage takes on a machine by its connections; None where no line was measured.

    Args:
        host: the machine.
        stage: the stage that was measured.
        line: what was measured.
        measured: the layout of the largest stage that the line was fitted to.
    """
    if line is None:
        return None
    before = before_start(stage, host)

    def further(connections: float) -> float:
        plan = resolve(replace(stage, connections=max(1, int(connections))), before)
        shards = max(0, plan.server_shards - measured.server_shards)
        workers = max(0, plan.swarm_workers - measured.swarm_workers)
        return float(shards * (MEMBER_BYTES + process_bytes(stage.server)) + workers * MEMBER_BYTES)

    return Memory(line=line, further=further)


def student(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution for at least one degree of freedom."""
    return STUDENT[max(known for known in STUDENT if known <= max(1, degrees))]


def fit(points: Sequence[tuple[float, float]]) -> Line | None:
    """Fit a line to points; None where they do not lie at two positions at least."""
    if len({position for position, _ in points}) < 2:
        return None
    mean, middle = fmean(x for x, _ in points), fmean(y for _, y in points)
    spread = sum((x - mean) ** 2 for x, _ in points)
    slope = sum((x - mean) * (y - middle) for x, y in points) / spread
    at_zero = middle - slope * mean
    free = len(points) - 2
    rest = sum((y - at_zero - slope * x) ** 2 for x, y in points)
    scatter = sqrt(rest / free) if free > 0 else None
    return Line(at_zero=at_zero, slope=slope, points=len(points), mean=mean, spread=spread, scatter=scatter)


def _crossing(curve: Callable[[float], float], level: float) -> float:
    """Return where a curve first passes a level, to one connection; infinite where it does not."""
    low, high = 0.0, 1.0
    if curve(low) >= level:
        return 0.0
    while curve(high) < level:
        low, high = high, 2 * high
        if high > MOST:
            return inf
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (middle, high) if curve(middle) < level else (low, middle)
    return high


def memory_points(summary: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return (connections, bytes of both ends and of the kernel) at the start and at the plateau of one run.

    Args:
        summary: the figures of the run.
    """
    points = []
    for at in ("_at_start", ""):
        count = summary.get(f"plateau_connections{at}")
        sizes = [summary.get(f"{part}_bytes{at}") for part in ("server_user", "swarm_user", "kernel")]
        if count is not None and None not in sizes:
            points.append((float(count), float(sum(sizes))))  # type: ignore[arg-type]
    return points


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Where one limit ends a climb: its name, the connections, and in a few words what it is."""

    limit: str
    at_connections: Estimate
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Return the end as it is written to JSON; beyond what can be told there is no number."""
        at = {name: None if value == inf else value for name, value in self.at_connections.as_dict().items()}
        return {"limit": self.limit, "at_connections": at, "why": self.why}


def machine_of(memory_bytes: int, cpus: int) -> Host:
    """Return a stock machine of a size: a fresh Linux whose settings nobody has touched."""
    watches = memory_bytes // WATCH_SHARE // WATCH_BYTES
    sized = replace(STOCK, memory_headroom_bytes=memory_bytes, memory_total_bytes=memory_bytes)
    return replace(sized, cpu_count=cpus, epoll_watches_max=watches)


def rate_on(host: Host, here: Host, server: str, rate: Estimate, server_cpu_seconds: float | None) -> Estimate:
    """Return the messages/s at the knee on another machine.

    Args:
        host: that machine.
        here: the machine of the measurement.
        server: value of the parameter `server`.
        rate: messages/s at the knee that was measured.
        server_cpu_seconds: CPU time of the server for one message; None where it was not measured.
    """
    more = cores(host) / cores(here)
    most = inf
    if serves_in_one_process(server):
        most = max(rate.value, 1 / server_cpu_seconds) if server_cpu_seconds else rate.value
    scaled = {name: value and min(value * more, most) for name, value in rate.as_dict().items()}
    return Estimate(value=scaled["value"] or 0.0, low=scaled["low"], high=scaled["high"])


def ends_on(host: Host, stage: Stage, memory: Memory | None, rate: Estimate | None, messages_each: float) -> list[End]:
    """Return where a server ends on a machine with both ends on it, the lowest first.

    Args:
        host: the machine.
        stage: the stage that was measured; its number of connections does not matter.
        memory: what its connections take there.
        rate: messages/s that can be answered there; None where no knee was measured.
        messages_each: messages/s per connection that are asked of it.
    """
    found = []
    left = memory_left(host, stage.memory_reserve)
    holds = memory.reaches(left) if memory and left is not None else Estimate(value=inf)
    if holds.value != inf:
        found.append(End(limit="memory_machine", at_connections=holds, why="memory above the reserve"))
    if rate and messages_each > 0:
        at = {name: value and value / messages_each for name, value in rate.as_dict().items()}
        one = serves_in_one_process(stage.server)
        found.append(
            End(
                limit="server_cpu" if one else "machine_cpu",
                at_connections=Estimate(value=at["value"] or 0.0, low=at["low"], high=at["high"]),
                why=f"{messages_each:g} messages/s a connection",
            )
        )
    largest = max(1, int(min(holds.value, PLANNED_MOST)))
    planned = replace(stage, connections=largest)
    rows = ceilings(before_start(planned, host), resolve(planned, host))
    found += [
        End(limit=row.limit, at_connections=Estimate(value=float(row.ceiling_connections)), why=row.title)
        for row in rows
        if row.binding
        and row.ceiling_connections is not None
        and row.limit not in MEMORY_LIMITS
        # A layout grows with the stage: where it holds what was planned, it holds more as well.
        and not (row.limit in LAYOUT_LIMITS and row.ceiling_connections >= largest)
    ]
    lowest: dict[str, End] = {}
    for end in sorted(found, key=lambda end: end.at_connections.value):
        lowest.setdefault(end.limit, end)  # Of both ends, or of a limit and its one-process form, the nearer one.
    return list(lowest.values())


def compared_with(
    predicted: Sequence[End], memory: Memory | None, summary: Mapping[str, Any], limits: Sequence[str]
) -> dict[str, Any]:
    """Return a prediction beside a larger measured stage.

    Args:
        predicted: where the server ends, the lowest first.
        memory: what connections take, fitted without that stage.
        summary: figures of that stage.
        limits: names of the limits at which it broke.

    Returns:
        `connections` asked for, `predicted_limit` and `predicted_connections`, `measured_limits` and
        `measured_connections`, and at the count that was reached `predicted_bytes`, `measured_bytes`, `error` as a
        share of what was measured, and `within`: whether the measurement is in the interval.
    """
    asked, opened = int(summary.get("connections") or 0), int(summary.get("connections_open") or 0)
    first = predicted[0] if predicted and predicted[0].at_connections.value < asked else None
    points = memory_points(summary)
    reached, measured = points[-1] if points else (0.0, None)
    guess = memory.at(reached) if memory and measured is not None else None
    return {
        "connections": asked,
        "predicted_limit": first.limit if first else None,
        "predicted_connections": int(first.at_connections.value) if first else asked,
        "measured_limits": list(limits),
        "measured_connections": opened,
        "predicted_bytes": guess.as_dict() if guess else None,
        "measured_bytes": measured,
        "error": (guess.value - measured) / measured if guess and measured else None,
        "within": guess.covers(measured) if guess and measured else None,
    }
