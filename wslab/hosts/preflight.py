"""Preflight over hosts: where a stage would run, and what ends it on each host; `preflight_over`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from wslab.core.quantities import format_count
from wslab.core.stage import Stage
from wslab.hosts.cluster import opened
from wslab.hosts.placing import Bound, Candidate, Placing, bounds, refusal
from wslab.hosts.run import check_runs_over_hosts, place
from wslab.lab.tables import MISSING, Machine, Table, bytes_text, card_html, count_text


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsPreflight:
    """A placed stage and what ends it on each host.

    Attributes:
        stage: the stage that was planned for.
        placing: its hosts, and the part of each.
        bounds: what each host can hold, by limit.
        refused: why it does not fit, in one line; empty when it does.
    """

    stage: Stage
    placing: Placing
    bounds: tuple[Bound, ...]
    refused: str

    @property
    def sentence(self) -> str:
        """Whether the stage fits, in one sentence."""
        hosts = len({self.placing.server.name, *(share.at.name for share in self.placing.shares)})
        return self.refused or f"{format_count(self.stage.connections)} connections fit on {hosts} hosts"

    def as_dict(self) -> dict[str, Any]:
        """Return the answer and the rows of the table as one document."""
        hosts = [dict(zip(self._table().headings, row, strict=True)) for row in self._table().rows]
        return {"sentence": self.sentence, "fits": not self.refused, "hosts": hosts}

    def text(self) -> str:
        """Return the preflight as a terminal shows it."""
        return f"{self.sentence}\n\n{self._table().text()}"

    def _table(self) -> Table:
        """Return a row for each end on each host: its part, its processes, and the limit that ends it first there."""
        server, plan = self.placing.server, self.placing.server_plan
        rows = [self._row(server, "server", plan.connections, plan.server_shards, 0)]
        for share in self.placing.shares:
            part = share.plan
            rows.append(self._row(share.at, "swarm", part.connections, part.swarm_workers, len(part.source_addresses)))
        headings = ("host", "runs", "connections", "processes", "source addresses", "memory left", "ends at", "limit")
        return Table(headings=headings, rows=rows, numbers=(2, 3, 4, 5, 6))

    def _row(self, at: Candidate, end: str, connections: int, processes: int, addresses: int) -> list[str]:
        here = [bound for bound in self.bounds if bound.at is at]
        # The nearest is the one of which the most is asked: some count ends of connections of a whole machine.
        first = max(here, key=lambda bound: bound.asked / max(1, bound.most), default=None)
        ends = count_text(first.most * connections // max(1, first.asked)) if first else MISSING
        left = bytes_text(at.host.memory_headroom_bytes)
        cells = [at.name, end, count_text(connections), str(processes), str(addresses) if addresses else MISSING]
        return [*cells, left, ends, first.limit if first else ""]

    def _repr_html_(self) -> str:
        sentence = f"<b>{escape(self.sentence[:1].upper() + self.sentence[1:])}.</b>"
        return card_html(sentence, self._table().html(), footer=Machine.of(self.placing.server.host.as_dict()).line)


def preflight_over(
    cluster: Any,
    connections: int | str,
    *,
    server_on: str = "",
    swarm_on: str | Sequence[str] = (),
    swarm_addresses: str | Sequence[str] = (),
    **parameters: Any,
) -> HostsPreflight:
    """Look at what each host of a cluster allows for its part of a stage; no load is started.

    Args:
        cluster: as in `run_over`.
        connections: of the whole stage.
        server_on: as in `run_over`.
        swarm_on: as in `run_over`.
        swarm_addresses: as in `run_over`.
        **parameters: further parameters of the stage.

    Raises:
        BadInput: a parameter or the cluster cannot be used.
    """
    stage = Stage.of(connections=connections, **parameters)
    check_runs_over_hosts(stage)
    with opened(cluster) as connected:
        placing = place(connected, stage, server_on, swarm_on, swarm_addresses)
    return HostsPreflight(stage=stage, placing=placing, bounds=tuple(bounds(placing)), refused=refusal(placing) or "")
