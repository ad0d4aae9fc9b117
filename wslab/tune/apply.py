"""Write settings and put them back: for `wslab tune`, or for a stage for as long as it runs.

1. What is needed is written; what is only recommended is written when that is asked for.
2. Only sysctls are written. A limit of a process or of a control group is set where that is started, and memory cannot
   be set: for those there is a command, a file, or a sentence.
3. What cannot be written is reported, and a stage goes on without it: the limit is then its result.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wslab.core.host import Host
from wslab.core.plan import Plan, resolve
from wslab.core.settings import NEEDED, SYSCTL, Setting
from wslab.core.stage import Stage
from wslab.lab import experiment
from wslab.lab.place import Place, this_machine
from wslab.lab.signatures import shows_parameters
from wslab.machine.journal import TUNING, Change, Journal
from wslab.machine.procfs import read_host
from wslab.tune.advice import Tune, settings_for

if TYPE_CHECKING:
    from wslab.lab.runs import Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What became of settings that were written or put back.

    Attributes:
        changes: the sysctls.
        elsewhere: settings that are no sysctls and have to be made where processes are started.
        status: 0, or 1 when something could not be written.
        nothing: what to say when there was nothing to do.
    """

    changes: tuple[Change, ...]
    elsewhere: tuple[Setting, ...] = ()
    status: int
    nothing: str

    def as_dict(self) -> dict[str, Any]:
        """Return what `--apply` and `--revert` add to the JSON."""
        return {
            "changes": [change.as_dict() for change in self.changes],
            "elsewhere": [setting.as_dict() for setting in self.elsewhere],
            "done": self.status == 0,
        }

    def text(self) -> str:
        """Return one line a setting."""
        lines = [
            f"{change.key}: {change.note}" if change.note else f"{change.key}: {change.before} -> {change.after}"
            for change in self.changes
        ]
        lines += [f"{item.key}: cannot be set from here; start from: {item.command}" for item in self.elsewhere]
        return "\n".join(lines) or self.nothing


def apply(found: Tune, recommended: bool = False) -> Tuned:
    """Write the sysctls that are needed; `revert` puts them back.

    Args:
        found: what is needed.
        recommended: write the recommended ones too.
    """
    asked = found.settings if recommended else tuple(found.needed)
    changes = Journal().write(_sysctls(asked))
    elsewhere = tuple(setting for setting in asked if setting.kind != SYSCTL)
    missing = {setting.key for setting in elsewhere} | {change.key for change in changes if not change.done}
    failed = any(setting.key in missing for setting in found.needed)
    nothing = "nothing to write" if found.needed or recommended else f"{found.sentence}: nothing written"
    return Tuned(changes=tuple(changes), elsewhere=elsewhere, status=int(failed), nothing=nothing)


def revert(*, abandoned: bool = False) -> Tuned:
    """Put back every setting that was written for a target, newest first.

    Args:
        abandoned: only what stages wrote whose process has died.
    """
    journal = Journal()
    changes = journal.undo(lambda step: step.purpose == TUNING and (step.abandoned or not abandoned))
    failed = not all(change.done for change in changes)
    nothing = f"nothing to put back, according to {journal.path}"
    return Tuned(changes=tuple(changes), status=int(failed), nothing=nothing)


@shows_parameters()
def run_stage(
    stage: Stage | None = None,
    *,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    operate_target: bool = False,
    **parameters: Any,
) -> Run:
    """Run one stage and return what was recorded: `wslab.run_stage(connections="100k", hold_seconds=30)`.

    The kernel settings that it needs are written where it says `tune`, and put back at its end.

    Args:
        stage: what is asked for; or give the parameters themselves, which override those of a stage.
        on_event: called with every event and sample as it comes: `wslab.live_view()`.
        operate_target: whether the caller says that a server outside loopback is theirs to load.
        **parameters: those of a stage, see below.

    Returns:
        The run, saved, with one of the outcomes `held`, `broke`, `aborted` and `crashed`.

    Raises:
        BadInput: a parameter or the data folder cannot be used, or the stage is out of reach of this machine's memory.
    """
    asked = Stage.of(tune=parameters.get("tune", stage.tune if stage else False))
    place = tuned if asked.tune else this_machine
    return experiment.run_stage(
        stage=stage, on_event=on_event, operate_target=operate_target, place=place, **parameters
    )


@contextmanager
def tuned(stage: Stage, host: Host, plan: Plan) -> Iterator[Place]:
    """Write the settings that a stage needs while it runs, and put them back at its end.

    Settings that a stage left behind because its process was killed are put back first.
    """
    session = secrets.token_hex(8)
    journal = Journal(TUNING, session)
    try:
        revert(abandoned=True)
        host = read_host()
        needed = [item for item in settings_for(stage, host, resolve(stage, host)) if item.rank == NEEDED]
        changes = journal.write(_sysctls(needed))
        _warn(changes)
        host = read_host()
        notes = {"tuning": [change.as_dict() for change in changes]}
        yield Place(host=host, plan=resolve(stage, host), notes=notes)
    finally:
        _warn(journal.undo(lambda step: step.session == session))


def _sysctls(settings: Sequence[Setting]) -> dict[str, str]:
    return {setting.key: str(setting.needed) for setting in settings if setting.kind == SYSCTL}


def _warn(changes: Sequence[Change]) -> None:
    for change in changes:
        if not change.done:
            _log.warning("%s: %s", change.key, change.note)
