"""The folder of what has to outlive a process: what is to be put back, and what is to be ended.

Whoever can write there could have root write a setting or end a process. So nothing in it is believed unless nobody
else can have put it there:

1. The folder `wslab` and all in it belong to this user, and nobody else may write them. What is made gets mode 0700 or
   0600; each part of the way is opened by its name in the one before, and no link is followed.
2. For root, the folders above have to be root's as well, and writable by root alone; a sticky one, such as /tmp, will
   do. `sudo -E` keeps the environment of another user, so root uses `XDG_STATE_HOME` only where that is so, HOME never,
   and /var/lib otherwise.
3. What is not trusted raises `Untrusted`, whose text names it in one line. It is left as it is.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

FOLDER = "wslab"
ROOT_STATE = "/var/lib"

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_told: set[str] = set()

_log = logging.getLogger(__name__)


class Untrusted(OSError):
    """A file or folder that somebody else may have put there; the text says which and why, in one line."""


def state_folder() -> Path:
    """Return the state folder of this user; it need not exist.

    Raises:
        FileNotFoundError: neither the environment nor the list of users names a home.
    """
    named = os.environ.get("XDG_STATE_HOME", "")
    if os.geteuid() == 0:
        return Path(named if _is_roots_own(named) else ROOT_STATE) / FOLDER
    if os.path.isabs(named):
        return Path(named) / FOLDER
    return Path(_home()) / ".local/state" / FOLDER


class StateFolder:
    """The state folder, or a folder in it, opened.

    Args:
        name: a folder in the state folder; empty for that itself.
        create: make what is missing.

    Raises:
        FileNotFoundError: it is not there, and is not to be made.
        Untrusted: it is not this user's alone.
        OSError: it cannot be opened or made.
    """

    def __init__(self, name: str = "", *, create: bool = False) -> None:
        state = state_folder()
        self.path = state / name
        self._fd = _open_above(state.parent, create)
        try:
            for part in (FOLDER, name) if name else (FOLDER,):
                self._fd = _step_into(self._fd, part, create)
                _check_own(self._fd, self.path)
                if stat.S_IMODE(os.fstat(self._fd).st_mode) != stat.S_IRWXU:
                    os.fchmod(self._fd, stat.S_IRWXU)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> StateFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def names(self, suffix: str) -> list[str]:
        """Return the names in the folder that end so, sorted."""
        return sorted(name for name in os.listdir(self._fd) if name.endswith(suffix) and not name.startswith("."))

    def read(self, name: str) -> str:
        """Return the text of a file.

        Raises:
            FileNotFoundError: there is none.
            Untrusted: it is a link, no file, or not this user's alone.
        """
        descriptor = self._open(name, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, encoding="utf-8") as file:
            return file.read()

    def replace(self, name: str, text: str) -> None:
        """Replace a file as a whole; it is on the disk when this returns."""
        part = f".{name}.part"
        descriptor = self._open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(part, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)  # The new name is on the disk only when the folder is.

    def remove(self, name: str) -> None:
        """Remove a file; nothing is to be done when there is none."""
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            pass

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock of this name, which is a file of the folder; other processes wait for it."""
        descriptor = self._open(name, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _open(self, name: str, flags: int) -> int:
        """Open a file of this user's alone; it is truncated, where that is asked for, only once that is known."""
        path = self.path / name
        try:
            descriptor = os.open(
                name, (flags & ~os.O_TRUNC) | os.O_NOFOLLOW | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR, dir_fd=self._fd
            )
        except OSError as problem:
            if problem.errno == errno.ELOOP:
                raise Untrusted(f"{path} is not trusted: it is a link") from problem
            raise
        try:
            _check_own(descriptor, path)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Untrusted(f"{path} is not trusted: it is no file")
            if flags & os.O_TRUNC:
                os.ftruncate(descriptor, 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _home() -> str:
    home = os.environ.get("HOME", "")
    if os.path.isabs(home):
        return home
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        home = ""
    if not os.path.isabs(home):
        raise FileNotFoundError(f"user {os.geteuid()} has no home folder for the state of wslab: set XDG_STATE_HOME")
    return home


def _is_roots_own(named: str) -> bool:
    """Return whether root may keep its state there; say why not, once."""
    if not os.path.isabs(named):
        return False
    try:
        os.close(_open_above(Path(named), create=False))
    except FileNotFoundError:
        return True  # What is missing is made by root.
    except OSError as problem:
        if named not in _told:
            _told.add(named)
            _log.warning("XDG_STATE_HOME is not used, but %s/%s: %s", ROOT_STATE, FOLDER, problem)
        return False
    return True


def _open_above(path: Path, create: bool) -> int:
    """Open the folder that the state folder is in."""
    if os.geteuid() != 0:
        if create:
            path.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    descriptor = os.open("/", _DIRECTORY)
    try:
        _check_roots(descriptor, "/")
        for depth, part in enumerate(path.parts[1:], 2):
            descriptor = _step_into(descriptor, part, create)
            _check_roots(descriptor, os.path.join(*path.parts[:depth]))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _step_into(folder: int, name: str, create: bool) -> int:
    """Open a folder in a folder, which is closed then."""
    if name in ("", ".", ".."):
        raise Untrusted(f"the way to the state folder is not trusted: it has the part {name!r}")
    if create:
        try:
            os.mkdir(name, stat.S_IRWXU, dir_fd=folder)
        except FileExistsError:
            pass
    try:
        below = os.open(name, _DIRECTORY, dir_fd=folder)
    except OSError as problem:
        if problem.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Untrusted(f"{name!r} on the way to the state folder is a link or no folder") from None
        raise
    os.close(folder)
    return below


def _check_roots(descriptor: int, path: str) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != 0:
        raise Untrusted(f"{path} is not trusted: it belongs to user {found.st_uid}")
    if found.st_mode & _OTHERS_WRITE and not found.st_mode & stat.S_ISVTX:
        raise Untrusted(f"{path} is not trusted: others than root may write it")


def _check_own(descriptor: int, path: Path) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        raise Untrusted(f"{path} is not trusted: it belongs to user {found.st_uid}")
    if found.st_mode & _OTHERS_WRITE:
        raise Untrusted(f"{path} is not trusted: others may write it")
