"""What a break is: a limit broken on purpose at small scale, and the change that lifts it under the same load.

1. A break is two trials of one load: `broken` runs into the limit, `remedied` has the remedy's changes and holds. Where
   two limits are close together there is one between them: with the first limit lifted, the next one breaks.
2. No ceiling is written down: it is predicted from what is read inside the enclosure, by the table of limits.
3. `unit` is what is counted when the limit is met. A break without one has no number that could be predicted: it is
   about a rate, a death or a silence.
4. Machine-wide limits are broken only when named: `shared` says which settings others have lowered meanwhile.
5. A limit that cannot be lowered without harm to the rest of the machine has no trials, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from wslab.breaks.enclosure import Enclosure
from wslab.machine.sysctls import FILE_MAX

# How far a measured break may be from its prediction: what is counted, and what is estimated from bytes.
COUNTED, ESTIMATED = 0.02, 0.15

# What a trial does to the server when the hold begins.
STOP_SHARDS, KILL_SHARD = "stop the shards", "kill a shard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run of a break.

    Attributes:
        parameters: fields of the stage.
        enclosure: what is bound; None for the machine as it is. CPUs are counted from 0 among those that can be used.
        specs: overrides for each process specification, by role.
        act: what is done to the server when the hold begins; empty for nothing.
        headroom_used_bytes: the memory reserve is the present headroom less this; 0 leaves the reserve as it is.
        cpus_most: CPUs that the load can fill; 0 where that does not matter.
        files_left: fs.file-max is the number of files open on the machine plus this; 0 leaves it as it is.
    """

    parameters: Mapping[str, Any]
    enclosure: Enclosure | None = None
    specs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    act: str = ""
    headroom_used_bytes: int = 0
    cpus_most: int = 0
    files_left: int = 0

    @property
    def shared(self) -> tuple[str, ...]:
        """The settings of the whole machine that it lowers."""
        return (*(self.enclosure.shared if self.enclosure else ()), *((FILE_MAX,) if self.files_left else ()))

    def changed(self, changes: Mapping[str, Any]) -> Trial:
        """Return the trial with changes to its own fields, and to the parameters by all other names."""
        own = {item.name for item in fields(Trial)}
        parameters = {name: value for name, value in changes.items() if name not in own}
        whole: dict[str, Any] = {name: value for name, value in changes.items() if name in own}
        return replace(self, **{"parameters": {**self.parameters, **parameters}, **whole})


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """One limit, broken on purpose.

    Attributes:
        name: what it is asked for by.
        limit: the finding that is expected.
        side: the side that it is on.
        title: what is done, one phrase.
        broken: runs into the limit; None where that cannot be done, and `infeasible` says why.
        remedy: what lifts it, one phrase.
        changes: what the remedy changes, see `Trial.changed`.
        unit: `connections` or `processes`; empty when there is no number to predict.
        counted_by: the limit that has the ceiling, where that is another one: descriptors are `fd_limit` whatever they
            are bound by.
        tolerance: how far the measured break may be from the prediction, as a share of it.
        then: the limit that comes next, where two are close together.
        changes_first: what lifts only the first of two.
        infeasible: why it cannot be done without harm to the rest of the machine.
    """

    name: str
    limit: str
    side: str
    title: str
    broken: Trial | None = None
    remedy: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    unit: str = ""
    counted_by: str = ""
    tolerance: float | None = None
    then: str = ""
    changes_first: Mapping[str, Any] = field(default_factory=dict)
    infeasible: str = ""

    @property
    def shared(self) -> tuple[str, ...]:
        """The settings of the whole machine that its trials lower, each once."""
        return tuple(dict.fromkeys(name for trial in self.trials for name in trial.shared))

    @property
    def remedied(self) -> Trial | None:
        """The same load with the remedy applied."""
        return self.broken.changed(self.changes) if self.broken else None

    @property
    def between(self) -> Trial | None:
        """The same load with only the first of two limits lifted; None where there is one."""
        return self.broken.changed(self.changes_first) if self.broken and self.then else None

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials, in the order in which they run."""
        return tuple(trial for trial in (self.broken, self.between, self.remedied) if trial is not None)
