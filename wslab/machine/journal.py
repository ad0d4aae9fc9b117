"""The journal of the settings that were written: a file that is on the disk before the kernel is written to.

1. The file is replaced as a whole and on the disk when `save` returns, so that there is the old one or the new one.
2. Entries stack. When one in the middle goes, the next above it inherits what was there before, so that the last to
   go brings back the oldest value.
3. An entry with a session belongs to a process; once that has died, anybody may put it back.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wslab.core.quantities import BadInput
from wslab.machine.process import alive


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One setting in the journal.

    Attributes:
        key: name of the sysctl.
        before: its value before it was written.
        after: the value written.
        boot_id: the boot in which it was written.
        time: when, in seconds since the epoch.
        session: who puts it back; empty for whoever asks.
        pid: process of the session.
        start_ticks: start of that process.
    """

    key: str
    before: str
    after: str
    boot_id: str
    time: float
    session: str = ""
    pid: int = 0
    start_ticks: int = 0

    @property
    def abandoned(self) -> bool:
        """Whether it belongs to a session whose process has died."""
        return bool(self.session) and not alive(self.pid, self.start_ticks)


def journal_path() -> Path:
    """Return where the journal is: a file of this user's state folder."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(os.path.expanduser(state)) / "wslab" / "tuning.json"


class Journal:
    """The entries on the disk, oldest first.

    Args:
        path: the file; None for this user's. Neither it nor its folder need exist.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or journal_path()

    def entries(self) -> list[Entry]:
        """Return what the journal holds.

        Raises:
            BadInput: the file is there and cannot be read, or is no journal.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
            return [Entry(**entry) for entry in json.loads(text)["entries"]]
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise BadInput(f"{self.path} cannot be read: {problem.strerror}") from problem
        except (ValueError, KeyError, TypeError) as problem:
            raise BadInput(f"{self.path} is not a journal of settings; look at it and move it away") from problem

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the journal meanwhile; OSError when its folder cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def add(self, entry: Entry) -> None:
        """Add an entry on top; it is on the disk when this returns."""
        self._save([*self.entries(), entry])

    def change(self, old: Entry, new: Entry) -> None:
        """Put another entry in the place of one."""
        self._save([new if entry == old else entry for entry in self.entries()])

    def forget(self, gone: Entry) -> None:
        """Remove an entry; the one above it inherits what was there before."""
        above = self.above(gone)
        kept = [entry for entry in self.entries() if entry != gone]
        self._save([replace(entry, before=gone.before) if entry == above else entry for entry in kept])

    def above(self, entry: Entry) -> Entry | None:
        """Return the entry that was written upon this one."""
        entries = self.entries()
        upper = entries[entries.index(entry) + 1 :]
        return next((each for each in upper if each.key == entry.key and each.before == entry.after), None)

    def _save(self, entries: list[Entry]) -> None:
        part = self.path.with_suffix(".part")
        with open(part, "w", encoding="utf-8") as file:
            json.dump({"entries": [asdict(entry) for entry in entries]}, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)
        # The new name is on the disk only when the folder is.
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
