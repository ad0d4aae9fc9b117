"""Where the machine code of the loops is kept, so that compiling is paid once and never inside a stage.

1. The folder's name has a hash of everything that is compiled in and of the versions of the compilers: other sources
   never meet this code, which Numba by itself does not see to for functions of other files. Numba's own index keeps
   the code of different CPUs apart.
2. `make setup` fills the folder inside the package. Where that cannot be written, it is under `$XDG_CACHE_HOME/wslab`,
   filled at first use. Where that cannot be either, code that the package has is copied to a folder that lasts as long
   as the process, or it is compiled into it each time; a line on standard error says so.
3. What is loaded is executed: a folder counts only when it belongs to this user or to root, and nobody else may write
   to it.
4. Of two processes that come at once, one compiles and the other waits for it.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import sys
import tempfile
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1]
LOOPS = ("server_loop", "swarm_loop")
COMPILED_IN = [*sorted(HERE.glob("*.py")), PACKAGE / "load" / "scoreboard.py"]
COMPILED_IN += [PACKAGE / "core" / name for name in ("histogram.py", "pacer.py")]


def load(loop: str, say: Callable[[str], None] | None = None) -> ModuleType:
    """Import the module of a loop with its machine code, compiled now if it is not kept yet.

    Args:
        loop: one of `LOOPS`.
        say: called with one line when this takes long, and when the code cannot be kept; standard error by default.

    Raises:
        ImportError: numba is not installed.
    """
    say = say or _to_stderr
    folder = place()
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="wslab-engine-") as scratch:
            if any(_package_folder().glob("filled-*")) and _is_trusted(_package_folder()):
                shutil.copytree(_package_folder(), scratch, dirs_exist_ok=True)
            else:
                say(
                    "compiling the event loops, half a minute each time, as there is no folder to keep them in: "
                    f"neither {PACKAGE} nor {_user_folder()}"
                )
            return _import(loop, Path(scratch))
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        filled = folder / f"filled-{loop}-{_cpu()}"
        if filled.exists():
            fcntl.flock(lock, fcntl.LOCK_UN)
            return _import(loop, folder)
        say(f"compiling the event loops for this machine, once: about half a minute ({folder})")
        module = _import(loop, folder)
        filled.touch()
        return module


def place() -> Path | None:
    """Return the folder that code is kept in, made if need be; None when there is none that this user may trust."""
    for folder in (_package_folder(), _user_folder()):
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError:
            continue
        if _is_trusted(folder):
            return folder
    return None


def fingerprint() -> str:
    """Return a name for all that the code was made from."""
    digest = sha256()
    for path in COMPILED_IN:
        digest.update(path.read_bytes())
    for library in ("numba", "llvmlite", "numpy"):
        digest.update(f"{library} {version(library)} {sys.version}".encode())
    return digest.hexdigest()[:16]


def _package_folder() -> Path:
    return HERE / "__pycache__" / "engine" / fingerprint()


def _user_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "wslab" / "engine" / fingerprint()


def _is_trusted(folder: Path) -> bool:
    try:
        status = folder.stat()
    except OSError:
        return False
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def _cpu() -> str:
    from llvmlite import binding

    return str(binding.get_host_cpu_name())


def _import(loop: str, folder: Path) -> ModuleType:
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    from numba import config

    config.CACHE_DIR = str(folder)
    return importlib.import_module(f"wslab.load.engine.{loop}")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
