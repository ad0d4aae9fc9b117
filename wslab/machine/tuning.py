"""Write kernel settings and put them back.

1. The journal is on the disk before the kernel is written to. Whatever dies in between, an entry is there for every
   setting that may have changed; one that was never written is told by its value and dropped.
2. Settings are put back in reverse order, each only while it still has the value that was written: another value is
   somebody else's, and is left alone.
3. An entry of an earlier boot is dropped: the kernel has forgotten the value by itself.
4. A setting that cannot be written is told and changes nothing about the others, nor about what the journal says of
   them.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wslab.machine.files import read_text
from wslab.machine.journal import Entry, Journal
from wslab.machine.process import start_ticks

SYSCTLS = Path("/proc/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one setting.

    Attributes:
        key: name of the sysctl.
        before: its value until now; None when there is no such setting.
        after: its value from now on.
        done: whether it is as it was asked for; when it was to be put back, whether nothing is left to put back.
        note: why nothing was written; empty when it was.
    """

    key: str
    before: str | None
    after: str | None
    done: bool
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the change as it is written to JSON."""
        return asdict(self)


def new_session() -> str:
    """Return a name for the settings that one stage writes."""
    return secrets.token_hex(8)


def everything(entry: Entry) -> bool:
    """Pick every entry of the journal."""
    return True


class Tuning:
    """The settings of this machine, and the journal of those that were written.

    Args:
        root: where the sysctls are, any folder of the same shape; None for this machine's.
        journal: the file of the journal; None for this user's.
    """

    def __init__(self, root: Path | None = None, journal: Path | None = None) -> None:
        self._root, self.journal = root or SYSCTLS, Journal(journal)

    def read(self, key: str) -> str | None:
        """Return a setting, several numbers with one space between them; None when it is not there."""
        text = read_text(self._path(key))
        return None if text is None else " ".join(text.split())

    def apply(self, values: Mapping[str, str], session: str = "") -> list[Change]:
        """Write settings in the order given; one that fails does not stop the others.

        Args:
            values: the values by key.
            session: who puts them back; empty for whoever asks.
        """
        if not values:
            return []
        try:
            with self.journal.locked():
                return [self._apply(key, " ".join(value.split()), session) for key, value in values.items()]
        except OSError as problem:
            return [self._no_journal(key, problem) for key in values]

    def revert(self, wanted: Callable[[Entry], bool] = everything) -> list[Change]:
        """Put back what the journal holds, newest first; nothing when it holds nothing.

        Args:
            wanted: picks entries.
        """
        entries = [entry for entry in reversed(self.journal.entries()) if wanted(entry)]
        if not entries:
            return []
        try:
            with self.journal.locked():
                # Read again: another process may have put some of them back until the lock was free.
                return [self._revert(entry) for entry in reversed(self.journal.entries()) if wanted(entry)]
        except OSError as problem:
            return [self._no_journal(entry.key, problem) for entry in entries]

    def _apply(self, key: str, value: str, session: str) -> Change:
        before = self.read(key)
        if before is None:
            return Change(key=key, before=None, after=None, done=False, note="there is no such setting here")
        if before == value:
            return Change(key=key, before=before, after=before, done=True, note="is so already")
        entry = self._entry(key, before, value, session)
        self.journal.add(entry)
        note = self._write(key, value)
        after = self.read(key)
        if after == before:
            self.journal.forget(entry)
            return Change(key=key, before=before, after=after, done=False, note=note or "the kernel did not take it")
        if after is not None and after != value:
            # Some settings are rounded by the kernel: what it made of the value is what must still be there later.
            self.journal.change(entry, replace(entry, after=after))
        return Change(key=key, before=before, after=after, done=not note, note=note)

    def _revert(self, entry: Entry) -> Change:
        now = self.read(entry.key)
        note, done = "", True
        if entry.boot_id != self._boot_id():
            note = "the kernel has put it back already: it has booted since"
        elif now is None:
            note = "there is no such setting here any more"
        elif now == entry.after:
            note = self._write(entry.key, entry.before)
            done = not note
        elif self.journal.above(entry) is not None:
            note = "has been raised further since; it goes back with that"
        elif now == entry.before:
            note = "is as it was before"
        else:
            note = f"left alone: somebody else has set it to {now}"
        if done:
            self.journal.forget(entry)
        return Change(key=entry.key, before=now, after=self.read(entry.key), done=done, note=note)

    def _entry(self, key: str, before: str, after: str, session: str) -> Entry:
        pid = os.getpid() if session else 0
        return Entry(
            key=key,
            before=before,
            after=after,
            boot_id=self._boot_id(),
            time=time.time(),
            session=session,
            pid=pid,
            start_ticks=(start_ticks(pid) or 0) if session else 0,
        )

    def _write(self, key: str, value: str) -> str:
        """Write a setting and return what went wrong, or nothing."""
        try:
            descriptor = os.open(self._path(key), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                # In one write, for the kernel takes each as a whole value.
                os.write(descriptor, value.encode() + b"\n")
            finally:
                os.close(descriptor)
        except OSError as problem:
            return f"cannot be written: {problem.strerror}"
        return ""

    def _no_journal(self, key: str, problem: OSError) -> Change:
        now = self.read(key)
        note = f"nothing written: {self.journal.path} cannot be written: {problem.strerror}"
        return Change(key=key, before=now, after=now, done=False, note=note)

    def _path(self, key: str) -> Path:
        return self._root / key.replace(".", "/")

    def _boot_id(self) -> str:
        return self.read("kernel.random.boot_id") or ""
