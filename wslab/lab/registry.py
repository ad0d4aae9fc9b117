"""The processes that wslab has started on this machine: a small file for each group of them, and a way to end them.

A group is a supervisor with its server, swarm and recorder, or a server that was started by itself. Its file stands in
the folder `processes` of the state folder, from the start of the first process to a clean end.

1. A process is identified by its pid, its start time and its user, never by its command. A file may name processes
   that ended long ago, so an entry counts only while all three match.
2. A process is ended through a pidfd, and only when it runs as this user or as the user that was recorded.
3. The files are a convenience. When the folder cannot be written, that is logged and the run goes on.
4. A file that cannot be trusted, see `wslab.machine.state`, or is not a record is named and left alone. Files without
   a living process are removed.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wslab.machine.journal import undo_orphaned
from wslab.machine.process import alive, start_ticks, user_of
from wslab.machine.state import StateFolder

FOLDER = "processes"

TERM_SECONDS = 3.0
# What belongs to a caller that was killed ends by itself within five seconds.
ENDING_SECONDS = 6.0
KILL_SECONDS = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEntry:
    """A process that wslab started.

    Attributes:
        pid: its pid.
        start_ticks: when it started, in clock ticks since boot.
        role: `supervisor`, `server`, `swarm` or `recorder`.
        run_dir: the run that it belongs to; empty when it was started by itself.
        orphaned: whether the process that asked for it has died.
    """

    pid: int
    start_ticks: int
    role: str
    run_dir: str = ""
    orphaned: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as it is written to JSON."""
        return asdict(self)


class Registration:
    """The file of one group; made by `register`."""

    def __init__(self, role: str, pid: int, run_dir: str = "") -> None:
        caller = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
        self._record: dict[str, Any] = {"run_dir": run_dir, "caller": caller, "processes": []}
        self._name = f"{pid}-{start_ticks(pid)}.json"
        self.add(role, [pid])

    def add(self, role: str, pids: Iterable[int]) -> None:
        """Add processes of a role; those that are gone already or known are left out."""
        processes = self._record["processes"]
        known = {entry["pid"] for entry in processes}
        for pid in dict.fromkeys(pids):
            ticks = start_ticks(pid)
            if ticks is not None and pid not in known:
                processes.append({"pid": pid, "start_ticks": ticks, "role": role})
        for entry in processes:  # One that was recorded when it started may have become another user since.
            if alive(entry["pid"], entry["start_ticks"]):
                entry["uid"] = user_of(entry["pid"])
        try:
            with StateFolder(FOLDER, create=True) as folder:
                folder.replace(self._name, json.dumps(self._record))
        except OSError as problem:
            _log.warning("the processes of this run are not registered: %s", problem)

    def entries(self) -> list[ProcessEntry]:
        """Return those of the group that are alive."""
        return _entries(self._record)

    def remove(self) -> None:
        """Forget the group, after it has ended."""
        try:
            with StateFolder(FOLDER) as folder:
                folder.remove(self._name)
        except FileNotFoundError:
            pass
        except OSError as problem:
            _log.warning("the record of this run's processes cannot be removed: %s", problem)


def register(role: str, pid: int, run_dir: str | Path = "") -> Registration:
    """Register the first process of a group.

    Args:
        role: what it is.
        pid: its pid.
        run_dir: the run that it belongs to, if any.
    """
    return Registration(role, pid, str(run_dir))


def list_processes() -> list[ProcessEntry]:
    """Return every process that wslab started and that is alive, in the order in which they started."""
    found: list[ProcessEntry] = []
    try:
        with StateFolder(FOLDER) as folder:
            for name in folder.names(".json"):
                found += _read(folder, name)
    except FileNotFoundError:
        pass  # Nothing was ever started.
    except OSError as problem:
        _log.warning("the records of processes cannot be read: %s", problem)
    return sorted(found, key=lambda entry: (entry.start_ticks, entry.pid))


def other_runs(but: str | Path = "") -> list[str]:
    """Return the ids of the runs in progress on this machine, oldest first, that this user may see.

    A run whose caller has died is ending by itself: it gets `ENDING_SECONDS` for that, and is then not counted. In a
    state folder of another user, or of another name, nothing can be seen.

    Args:
        but: folder of a run that is not counted.
    """
    deadline = time.monotonic() + ENDING_SECONDS
    while True:
        found = [entry for entry in list_processes() if entry.role == "supervisor" and entry.run_dir != str(but)]
        if not any(entry.orphaned for entry in found) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return list(dict.fromkeys(Path(entry.run_dir).name for entry in found if entry.run_dir and not entry.orphaned))


def stop_run(run_dir: str | Path) -> bool:
    """Ask the supervisor of a run to stop everything; whoever started the run saves it as `aborted`.

    Returns:
        Whether there was one. It ends within seconds, and the manifest says when it has.
    """
    found = [entry for entry in list_processes() if entry.role == "supervisor" and entry.run_dir == str(run_dir)]
    for entry in found:
        try:
            pidfd = os.pidfd_open(entry.pid)
        except OSError:
            continue
        try:
            if alive(entry.pid, entry.start_ticks):
                _send(pidfd, signal.SIGTERM)
        finally:
            os.close(pidfd)
    return bool(found)


def leftovers() -> list[ProcessEntry]:
    """Return the processes whose caller has died, so that nobody else will end them."""
    return [entry for entry in list_processes() if entry.orphaned]


def clean(entries: Iterable[ProcessEntry] | None = None) -> list[ProcessEntry]:
    """End processes that wslab started: SIGTERM, and after three seconds SIGKILL.

    Afterwards, what a dead caller had changed on this machine to break a limit is put back.

    Args:
        entries: the processes; the leftovers when None, so that no running stage is ended by mistake.

    Returns:
        Those that were alive and have been ended.
    """
    ended = end_processes(leftovers() if entries is None else entries)
    list_processes()  # Removes the files without a living process.
    for line in undo_orphaned():
        _log.warning("%s", line)
    return ended


def end_processes(entries: Iterable[ProcessEntry]) -> list[ProcessEntry]:
    """End processes by pidfd, as `clean` does, and return those that are gone and were not before.

    Where a supervisor is among them, the first signal goes to it alone: it ends what it owns in good order.
    """
    held: dict[int, ProcessEntry] = {}
    try:
        for entry in entries:
            try:
                pidfd = os.pidfd_open(entry.pid)
            except OSError:
                continue
            held[pidfd] = entry
            # Checked again with the pidfd open: the pid cannot be reused any more.
            if not alive(entry.pid, entry.start_ticks):
                os.close(pidfd)
                del held[pidfd]
        supervised = {entry.run_dir for entry in held.values() if entry.role == "supervisor"}
        for pidfd, entry in held.items():
            if entry.role == "supervisor" or entry.run_dir not in supervised:
                _send(pidfd, signal.SIGTERM)
        gone = _await(held, TERM_SECONDS)
        for pidfd in held.keys() - gone:
            _send(pidfd, signal.SIGKILL)
        gone |= _await(held.keys() - gone, KILL_SECONDS)
        return [entry for fd, entry in held.items() if fd in gone]
    finally:
        for pidfd in held:
            os.close(pidfd)


def _send(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError) as problem:
        _log.debug("%s: %s", number.name, problem)


def _await(pidfds: Iterable[int], seconds: float) -> set[int]:
    """Return the pidfds whose processes have ended within `seconds`."""
    poll = select.poll()
    waiting = set(pidfds)
    for pidfd in waiting:
        poll.register(pidfd, select.POLLIN)
    gone: set[int] = set()
    deadline = time.monotonic() + seconds
    while waiting - gone and (left := deadline - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(left * 1000):
            poll.unregister(pidfd)
            gone.add(pidfd)
    return gone


def _read(folder: StateFolder, name: str) -> list[ProcessEntry]:
    """Return the living processes of a file, and remove it when there is none."""
    try:
        entries = _entries(json.loads(folder.read(name)))
        if not entries:
            folder.remove(name)
    except FileNotFoundError:
        return []  # Its group has just ended.
    except (OSError, ValueError, KeyError, TypeError) as problem:
        _log.warning("%s is not a record of processes: %s", folder.path / name, problem)
        return []
    return entries


def _entries(record: dict[str, Any]) -> list[ProcessEntry]:
    caller = record["caller"]
    orphaned = not alive(caller["pid"], caller["start_ticks"])
    found: list[ProcessEntry] = []
    for process in record["processes"]:
        pid, ticks, role = int(process["pid"]), int(process["start_ticks"]), str(process["role"])
        if not alive(pid, ticks):
            continue
        if user_of(pid) not in (os.geteuid(), process.get("uid")):
            _log.warning("process %d is left alone: it is another user's than was recorded", pid)
            continue
        found.append(ProcessEntry(pid=pid, start_ticks=ticks, role=role, run_dir=record["run_dir"], orphaned=orphaned))
    return found
