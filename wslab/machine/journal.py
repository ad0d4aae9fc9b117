"""The journal: everything that wslab has changed on this machine and has to put back, in one file.

A step is a setting of the whole machine that is written, a network namespace or a control group that is made.

1. A step is on the disk before it is taken. Whatever dies in between, there is a step for everything that may have
   changed. To undo one that was never taken, or undone already, does nothing.
2. Steps are undone in reverse order. What cannot be undone yet stays in the journal.
3. A setting is put back only while it has the value that was written: another value is somebody else's, and stays.
4. Steps upon one setting stack. When one in the middle goes, the next above it inherits what was there before, so that
   the last to go brings back the oldest value.
5. A step with an owner, a process, is the owner's to undo; once that process has died, anybody may.
6. A step of an earlier boot is dropped: the kernel has forgotten it by itself.
7. No path is made from what the file says. A setting is one that wslab writes, namespaces and groups have a name that
   wslab gives, and are looked for where it makes them. What is anything else is named and left alone.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from wslab.core.quantities import BadInput
from wslab.machine import cgroup, sysctls
from wslab.machine.process import alive, start_ticks
from wslab.machine.state import StateFolder, state_folder

FILE, LOCK = "journal.json", "journal.lock"

SETTING, NETNS, CGROUP = "sysctl", "netns", "cgroup"
# What a step is taken for: settings raised for a target, or a limit that is broken on purpose.
TUNING, ENCLOSURE = "tuning", "enclosure"

_OUR_NAME = re.compile(r"wslab-[a-z0-9]+(-[a-z0-9]+)*")

BOOTED = "the kernel has put it back already: it has booted since"
AS_BEFORE = "is as it was before"
GONE = "there is no such setting here any more"
RAISED = "has been raised further since; it goes back with that"
# Nothing is wrong when one of these is the case.
_EXPECTED = ("", BOOTED, AS_BEFORE, GONE, RAISED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step in the journal.

    Attributes:
        kind: `sysctl`, `netns` or `cgroup`.
        name: of the setting, the namespace or the control group.
        purpose: `tuning` or `enclosure`.
        before: the value of a setting before it was written.
        after: the value written.
        boot_id: the boot in which the step was taken.
        time: when, in seconds since the epoch.
        session: what the step belongs to, such as one stage; empty for whoever asks.
        pid: process that owns it; 0 for none.
        start_ticks: when that process started, in clock ticks since boot.
    """

    kind: str
    name: str
    purpose: str
    before: str = ""
    after: str = ""
    boot_id: str
    time: float
    session: str = ""
    pid: int = 0
    start_ticks: int = 0

    @property
    def abandoned(self) -> bool:
        """Whether the process that owns it has died."""
        return bool(self.pid) and (self.boot_id != _boot_id() or not alive(self.pid, self.start_ticks))

    @property
    def refusal(self) -> str:
        """Why it is not undone whatever it says; empty when it is one that wslab takes."""
        if self.kind == SETTING:
            known = sysctls.is_writable(self.name, self.before) and sysctls.is_writable(self.name, self.after)
            return "" if known else "left alone: wslab writes no such setting or value"
        known = self.kind in (NETNS, CGROUP) and _OUR_NAME.fullmatch(self.name) is not None
        return "" if known else f"left alone: wslab gives no such name to a {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one step.

    Attributes:
        key: name of the setting, the namespace or the control group.
        before: value of a setting until now; None when there is no such setting.
        after: its value from now on.
        done: whether it is as it was asked for; when it was to be undone, whether nothing is left to undo.
        note: why nothing was done; empty when it was.
    """

    key: str
    before: str | None = None
    after: str | None = None
    done: bool
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the change as it is written to JSON."""
        return asdict(self)


class Journal:
    """The journal of this user, and the steps that one owner takes.

    Args:
        purpose: what its steps are taken for.
        session: what its steps belong to, which makes this process their owner; empty for no owner.
    """

    def __init__(self, purpose: str = TUNING, session: str = "") -> None:
        self._purpose, self._session = purpose, session

    @property
    def path(self) -> Path:
        """Where the journal is; its name alone where this user has no state folder."""
        try:
            return state_folder() / FILE
        except OSError:
            return Path(FILE)

    def steps(self) -> list[Step]:
        """Return what the journal holds, oldest first.

        Raises:
            BadInput: the file is there and cannot be read or trusted, or is no journal.
        """
        try:
            with StateFolder() as folder:
                text = folder.read(FILE)
            return [_step(entry) for entry in json.loads(text)["steps"]]
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise BadInput(f"{self.path} cannot be read: {problem.strerror or problem}") from problem
        except (ValueError, KeyError, TypeError) as problem:
            raise BadInput(f"{self.path} is not a journal of wslab; look at it and move it away") from problem

    def write(self, values: Mapping[str, str]) -> list[Change]:
        """Write settings in the order given; one that fails does not stop the others.

        Args:
            values: the values by name.
        """
        if not values:
            return []
        try:
            with _locked() as folder:
                return [self._write(folder, name, " ".join(value.split())) for name, value in values.items()]
        except OSError as problem:
            return [self._no_journal(name, problem) for name in values]

    def note(self, kind: str, name: str) -> None:
        """Write down that a namespace or a control group is about to be made.

        Raises:
            OSError: the journal cannot be written.
        """
        with _locked() as folder:
            self._save(folder, [*self.steps(), self._next(kind, name)])

    def undo(self, wanted: Callable[[Step], bool]) -> list[Change]:
        """Undo steps, newest first; nothing is written when there are none.

        Args:
            wanted: picks steps.
        """
        steps = [step for step in reversed(self.steps()) if wanted(step)]
        if not steps:
            return []
        try:
            with _locked() as folder:
                # Read again: another process may have undone some of them until the lock was free.
                return [self._undo(folder, step) for step in reversed(self.steps()) if wanted(step)]
        except OSError as problem:
            return [self._no_journal(step.name, problem) for step in steps]

    def _write(self, folder: StateFolder, name: str, value: str) -> Change:
        before = sysctls.find_sysctl(name)
        if before is None:
            return Change(key=name, done=False, note="there is no such setting here")
        if before == value:
            return Change(key=name, before=before, after=before, done=True, note="is so already")
        if not sysctls.is_writable(name, value):
            return Change(key=name, before=before, after=before, done=False, note="wslab writes no such setting")
        step = self._next(SETTING, name, before, value)
        self._save(folder, [*self.steps(), step])
        note = _written(name, value)
        after = sysctls.find_sysctl(name)
        if after == before:
            self._forget(folder, step)
            return Change(key=name, before=before, after=after, done=False, note=note or "the kernel did not take it")
        if after is not None and after != value:
            # Some settings are rounded by the kernel: what it made of the value is what must still be there later.
            rounded = replace(step, after=after)
            self._save(folder, [rounded if each == step else each for each in self.steps()])
        return Change(key=name, before=before, after=after, done=not note, note=note)

    def _undo(self, folder: StateFolder, step: Step) -> Change:
        before = sysctls.find_sysctl(step.name) if step.kind == SETTING and not step.refusal else None
        if step.refusal:
            done, note = False, step.refusal
        elif step.boot_id != _boot_id():
            done, note = True, BOOTED
        elif step.kind == SETTING:
            done, note = _put_back(step, before, above=self._above(step) is not None)
        else:
            done, note = _remove(step)
        if done:
            self._forget(folder, step)
        after = None if before is None else sysctls.find_sysctl(step.name)
        return Change(key=step.name, before=before, after=after, done=done, note=note)

    def _next(self, kind: str, name: str, before: str = "", after: str = "") -> Step:
        pid = os.getpid() if self._session else 0
        return Step(
            kind=kind,
            name=name,
            purpose=self._purpose,
            before=before,
            after=after,
            boot_id=_boot_id(),
            time=time.time(),
            session=self._session,
            pid=pid,
            start_ticks=(start_ticks(pid) or 0) if pid else 0,
        )

    def _above(self, step: Step) -> Step | None:
        """Return the step that was taken upon this one."""
        steps = self.steps()
        upper = [each for each in steps[steps.index(step) + 1 :] if each.kind == SETTING and each.name == step.name]
        return next((each for each in upper if each.before == step.after), None)

    def _forget(self, folder: StateFolder, gone: Step) -> None:
        """Remove a step; the one above it inherits what was there before."""
        above = self._above(gone) if gone.kind == SETTING else None
        kept = [step for step in self.steps() if step != gone]
        self._save(folder, [replace(step, before=gone.before) if step == above else step for step in kept])

    def _save(self, folder: StateFolder, steps: Iterable[Step]) -> None:
        rows = [asdict(step) for step in steps]
        if rows:
            folder.replace(FILE, json.dumps({"steps": rows}, indent=2) + "\n")
        else:
            folder.remove(FILE)

    def _no_journal(self, name: str, problem: OSError) -> Change:
        now = sysctls.find_sysctl(name) if name in sysctls.WRITABLE else None
        note = f"nothing written: {self.path} cannot be written: {problem.strerror or problem}"
        return Change(key=name, before=now, after=now, done=False, note=note)


def undo_orphaned() -> list[str]:
    """Undo what enclosures of processes that have died have left; return what there is to say, one line each."""
    try:
        return unexpected(Journal().undo(lambda step: step.purpose == ENCLOSURE and step.abandoned))
    except BadInput as problem:
        return [str(problem)]


def unexpected(undone: Iterable[Change]) -> list[str]:
    """Return what there is to say of steps that were undone, one line each; nothing when all is as before."""
    return [f"{change.key}: {change.note}" for change in undone if not change.done or change.note not in _EXPECTED]


@contextmanager
def _locked() -> Iterator[StateFolder]:
    """Open the folder of the journal, made if need be, and keep other processes from the journal meanwhile."""
    with StateFolder(create=True) as folder, folder.locked(LOCK):
        yield folder


def _put_back(step: Step, now: str | None, *, above: bool) -> tuple[bool, str]:
    """Put a setting back; return whether nothing is left to undo, and why nothing was written."""
    if now is None:
        return True, GONE
    try:
        claim = sysctls.claim_sysctl(step.name)
    except BlockingIOError:
        # It goes back with the step above, or with that of a run that has another journal.
        return above, RAISED if above else f"another run has it changed; {step.before} is to be put back after that"
    except OSError as problem:
        return False, f"cannot be written: {problem.strerror}"
    try:
        if now == step.after:
            note = _written(step.name, step.before)
            return not note, note
    finally:
        os.close(claim)
    if above:
        return True, RAISED
    return True, AS_BEFORE if now == step.before else f"left alone: somebody else has set it to {now}"


def _remove(step: Step) -> tuple[bool, str]:
    """Remove a namespace or a control group; return whether it is gone, and why it is not."""
    try:
        if step.kind == CGROUP:
            cgroup.remove_groups(step.name)
        else:
            from pyroute2 import netns  # It takes a third of a second, which most callers never need.

            netns.remove(step.name)
    except FileNotFoundError:
        pass
    except OSError as problem:
        return False, f"the {step.kind} cannot be removed yet: {problem.strerror}"
    return True, ""


def _written(name: str, value: str) -> str:
    """Write a setting and return what went wrong; empty when nothing did."""
    try:
        sysctls.write_sysctl(name, value)
    except OSError as problem:
        return f"cannot be written: {problem.strerror}"
    return ""


def _step(entry: Mapping[str, Any]) -> Step:
    """Return a step as it was read; TypeError when it is none."""
    step = Step(**entry)
    kinds: dict[str, type | tuple[type, ...]] = {"pid": int, "start_ticks": int, "time": (int, float)}
    if not all(isinstance(getattr(step, item.name), kinds.get(item.name, str)) for item in fields(step)):
        raise TypeError("a field of a step has a wrong type")
    return step


def _boot_id() -> str:
    return sysctls.find_sysctl("kernel.random.boot_id") or ""
