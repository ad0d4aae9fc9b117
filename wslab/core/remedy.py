"""What a setting is, and what a row of the table of remedies is.

A setting is one value that has to change on one host; a remedy is the rule that says whether it has to, and how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from wslab.core.demand import INT_MOST, Amount, Host, Value

NEEDED, RECOMMENDED = "needed", "recommended"
SYSCTL, RLIMIT, CGROUP = "sysctl", "rlimit", "cgroup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting that has to change, or had better.

    Attributes:
        key: name of the sysctl; `nofile` and `nproc` for limits of a process; `pids.max` of a control group.
        kind: `sysctl`, `rlimit` or `cgroup`.
        rank: `needed` or `recommended`.
        limit: the limit that it lifts.
        present: the value as it is.
        needed: the value that the target needs; text where the setting has several numbers.
        why: what takes it, one phrase.
        needs_root: whether it takes root.
        per_container: whether a container can have a value of its own.
    """

    key: str
    kind: str
    rank: str
    limit: str
    present: Value
    needed: Value
    why: str
    needs_root: bool
    per_container: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the setting as it is written to JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A row of the table: a setting, and how much of it a target needs; None when it has enough."""

    key: str
    kind: str = SYSCTL
    rank: str = NEEDED
    limit: str
    present: Callable[[Host], Value | None]
    amount: Amount
    most: int = INT_MOST
    why: str
    per_container: bool = False


def value(name: str) -> Callable[[Host], Value | None]:
    """Read a setting of one number."""
    return lambda host: host.get(name)


def numbers(*names: str) -> Callable[[Host], Value | None]:
    """Read a setting of several numbers as the text it is written with."""

    def read(host: Host) -> Value | None:
        values = [host.get(name) for name in names]
        return None if None in values else " ".join(map(str, values))

    return read
