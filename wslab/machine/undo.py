"""What an enclosure has made or changed on this machine, written down before it is done and undone after any death.

A log is a file in `$XDG_STATE_HOME/wslab/isolation`: who it belongs to, and the steps in their order.

1. A step is on the disk before it is taken. Undoing a step that was never taken, or undone already, does nothing.
2. Steps are undone in reverse order. What cannot be undone yet stays in the log.
3. The log of an owner who lives is the owner's business; that of a dead one is anybody's.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wslab.machine.process import alive, start_ticks
from wslab.machine.sysctls import restore_sysctl

Step = Mapping[str, Any]

# A process that was killed leaves its control group when the kernel has torn it down, sockets first.
GROUP_SECONDS = 3.0
_POLL_SECONDS = 0.02


class UndoLog:
    """The log of one owner, the calling process; a file only once there is a step.

    Args:
        name: name of the file, without its suffix.
    """

    def __init__(self, name: str) -> None:
        self.path = logs_folder() / f"{name}.json"
        owner = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
        self._record: dict[str, Any] = {"owner": owner, "steps": []}

    def note(self, kind: str, **fields: Any) -> None:
        """Write down a step that is about to be taken; a kind of `UNDO` and what it needs to know."""
        self._record["steps"].append({"kind": kind, **fields})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _write(self.path, self._record)

    def amend(self, **fields: Any) -> None:
        """Write down what became of the last step."""
        self._record["steps"][-1] |= fields
        _write(self.path, self._record)

    def undo(self) -> list[str]:
        """Undo all steps and return what there is to say, one sentence each; nothing when all is as before."""
        self._record["steps"].clear()
        return undo(self.path)


def logs_folder() -> Path:
    """Return the folder of the logs."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(os.path.expanduser(state)) / "wslab" / "isolation"


def undo(path: Path) -> list[str]:
    """Undo the steps of a log, whoever owns it, and remove it when nothing is left to undo.

    Args:
        path: the log; nothing is to be done when there is none.

    Returns:
        What there is to say, one sentence each.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return []
    said: list[str] = []
    left: list[Step] = []
    for step in reversed(record["steps"]):
        try:
            settled, words = UNDO[step["kind"]](step)
        except OSError as problem:
            settled, words = False, f"{step['kind']} {step.get('name') or step.get('path')}: {problem}"
        if words:
            said.append(words)
        if not settled:
            left.insert(0, step)
    if left:
        _write(path, {**record, "steps": left})
    else:
        path.unlink(missing_ok=True)
    return said


def undo_orphaned() -> list[str]:
    """Undo every log whose owner has died; return what there is to say, one sentence each."""
    said: list[str] = []
    for path in sorted(logs_folder().glob("*.json")):
        try:
            owner = json.loads(path.read_text("utf-8"))["owner"]
            if not alive(owner["pid"], owner["start_ticks"]):
                said += undo(path)
        except FileNotFoundError:
            continue  # Its owner was quicker.
        except (OSError, ValueError, KeyError, TypeError) as problem:
            said.append(f"{path} is no log of an enclosure: {problem}")
    return said


def _undo_netns(step: Step) -> tuple[bool, str]:
    from pyroute2 import netns  # It takes a third of a second, which most callers never need.

    try:
        netns.remove(step["name"])
    except FileNotFoundError:
        pass
    return True, ""


def _undo_cgroup(step: Step) -> tuple[bool, str]:
    deadline = time.monotonic() + GROUP_SECONDS
    while True:
        try:
            os.rmdir(step["path"])
        except FileNotFoundError:
            pass
        except OSError as problem:
            if time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            return False, f"the control group {step['path']} cannot be removed yet: {problem.strerror}"
        return True, ""


def _undo_sysctl(step: Step) -> tuple[bool, str]:
    return restore_sysctl(step["name"], step["before"], step["written"])


# A kind of step, and what undoes it: returns whether it is settled, and what there is to say about it.
UNDO: Mapping[str, Callable[[Step], tuple[bool, str]]] = {
    "netns": _undo_netns,
    "cgroup": _undo_cgroup,
    "sysctl": _undo_sysctl,
}


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """Replace the file, on the disk before this returns."""
    part = path.with_suffix(".part")
    with open(part, "w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
