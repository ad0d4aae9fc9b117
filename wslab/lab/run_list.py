"""The recorded runs as a person looks through them: filtered, shown as a table, labelled, deleted."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import SupportsIndex, overload

from wslab.core.quantities import BadInput, parse_count, refuse
from wslab.core.records import OUTCOMES, RUNNING
from wslab.core.servers import SERVER_KINDS
from wslab.core.stage import label_text
from wslab.lab import store
from wslab.lab.runs import Run, load_run, read_runs
from wslab.lab.tables import MISSING, Table, count_text

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(min|h|d|w)")
_UNITS = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class RunList(list[Run]):
    """Recorded runs; shows itself as a table with units. A slice of it is one again."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> Run: ...
    @overload
    def __getitem__(self, index: slice, /) -> RunList: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> Run | RunList:
        """Return one run, or a shorter list."""
        return RunList(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def table(self) -> Table:
        """Return one row a run: its id, what was asked, how it ended, and the main figures with their units."""
        rows = []
        for run in self:
            limit = run.broken_limits.split(", ")[0]
            rows.append(
                (
                    *(run.run_id, run.name, run.server, run.outcome, limit or run.reason[:60]),
                    *(count_text(run.summary.get("connections_open")), run.figure("connections_per_second")),
                    *(run.figure("roundtrip_seconds_p99"), run.figure("total_bytes_per_connection")),
                    *("by others" if run.disturbed_by else "", run.label),
                )
            )
        names = ("run", "stage", "server", "outcome", "what broke first", "open", "opened", "round trip p99")
        headings = (*names, "a connection", "disturbed", "label")
        kept = [n for n in range(len(headings)) if n < 9 or any(row[n] for row in rows)]
        return Table(
            headings=tuple(headings[n] for n in kept),
            rows=[tuple(row[n] or MISSING if 4 < n < 9 else row[n] for n in kept) for row in rows],
            numbers=(5, 6, 7, 8),
        )

    def __repr__(self) -> str:
        return self.table().text() if self else "no recorded runs"

    def _repr_html_(self) -> str:
        return self.table().html() if self else "<i>no recorded runs</i>"


def list_runs(
    data_dir: str | Path | None = None,
    *,
    or_reference: bool = False,
    at_least: int = 1,
    stage: str | int | None = None,
    server: str | None = None,
    outcome: str | None = None,
    label: str | None = None,
    since: str | datetime | None = None,
) -> RunList:
    """Load the recorded runs of a data folder, or those of them that are wanted.

    Args:
        data_dir: the data folder; None for the project's own.
        or_reference: fall back to the reference runs that come with the project when nothing was recorded yet.
        at_least: with `or_reference`, the reference runs come first also when fewer than so many were recorded.
        stage: only those that asked for so many connections, such as `"700k"`.
        server: only those of this server: a kind, or a part of a command or URL.
        outcome: only those that ended so: held, broke, aborted, crashed, or running.
        label: only those with this in their label.
        since: only those begun since then: a date such as `"2026-11-24"`, a time in UTC such as `"2026-11-24T18:30"`,
            or how long ago at most, such as `"90min"`, `"2h"`, `"3d"`, `"1w"`.

    Returns:
        The runs, newest last; a list that shows itself as a table. Folders without a manifest are left out, and those
        with a damaged one are logged by name and left out.

    Raises:
        BadInput: a filter or the data folder cannot be used.
    """
    for name, part in (("server", server), ("label", label)):
        if part is not None and not isinstance(part, str):
            raise refuse(name, part, "text")
    count = None if stage is None else parse_count(stage, "stage")
    first = None if since is None else _begun(since)
    if outcome is not None and outcome not in OUTCOMES:
        raise BadInput(f"outcome={outcome} is unknown: known are {', '.join(OUTCOMES)}")
    return RunList(
        run
        for run in read_runs(data_dir, or_reference=or_reference, at_least=parse_count(at_least, "at_least"))
        if (count is None or run.connections == count)
        and (server is None or _is_server(run, server))
        and (outcome is None or run.outcome == outcome)
        and (label is None or label in run.label)
        and (first is None or run.created_at >= first)
    )


def relabel(run: Run | str | Path, label: str, data_dir: str | Path | None = None) -> Run:
    """Give a recorded run another label, and return it as it is loaded again.

    Args:
        run: the run, or what names it, see `wslab.load_run`.
        label: the label.
        data_dir: where ids are looked for; None for the project's own.

    Raises:
        BadInput: there is no such run, it is in progress or came with the project, or the label is not one line of at
            most 100 characters.
        OSError: its `run.json` cannot be written.
    """
    text = label_text(label, "label")
    folder = _changeable(run, data_dir, "keeps its label").run_dir
    manifest = store.read_manifest(folder)
    for part in (manifest.get("stage") or {}).values():
        part["label"] = text
    store.write_manifest(folder, manifest)
    store.release(folder)
    return Run.load(folder)


def delete(run: Run | str | Path, data_dir: str | Path | None = None) -> None:
    """Delete a recorded run, its whole folder.

    Args:
        run: the run, or what names it, see `wslab.load_run`.
        data_dir: where ids are looked for; None for the project's own.

    Raises:
        BadInput: there is no such run, or it is in progress or came with the project.
        OSError: it cannot be deleted.
    """
    shutil.rmtree(_changeable(run, data_dir, "is not deleted").run_dir)


def _changeable(run: Run | str | Path, data_dir: str | Path | None, refusal: str) -> Run:
    """Return a run that has ended and is the user's own.

    Raises:
        BadInput: it is not, or there is none; `refusal` says what follows for a reference run.
    """
    found = load_run(run, data_dir)
    if found.outcome == RUNNING:
        raise BadInput(f"{found.run_id} is in progress: `wslab stop` ends it")
    if found.run_dir.resolve().is_relative_to(store.reference_folder().resolve()):
        raise BadInput(f"{found.run_id} is a reference run, which came with the project; it {refusal}")
    return found


def _is_server(run: Run, server: str) -> bool:
    """Return whether a run had a server: of that kind, or with that in its command or URL."""
    asked = str(run.stage.get("server") or "")
    return asked == server or (asked not in SERVER_KINDS and server in asked)


def _begun(since: str | datetime) -> str:
    """Return a moment as manifests have it, so that texts can be compared.

    Raises:
        BadInput: it is neither a moment nor a duration.
    """
    text = str(since).strip()
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            begun = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        else:
            begun = since if isinstance(since, datetime) else datetime.fromisoformat(text)
            begun = begun.astimezone(UTC) if begun.tzinfo else begun.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadInput(f"since={since} cannot be used: it takes a date such as 2026-11-24, or 90min, 2h, 3d") from None
    return begun.strftime("%Y-%m-%dT%H:%M:%SZ")
