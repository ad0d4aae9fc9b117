"""Where the machine code of the loops is kept, so that compiling is paid once and never inside a stage.

1. The name of the code has a checksum of all that it was made from, and of the CPU that it was made for: other sources
   and other CPUs never meet it. What is damaged or cut short is compiled again.
2. `make setup` keeps it inside the package; a process that cannot write there, under `$XDG_CACHE_HOME/wslab`, else in
   the folder for temporary files. Where it cannot be kept at all, it is compiled each time; a line says so.
3. What is loaded is executed: a folder counts only when it belongs to this user, to root or to whom the package belongs
   to, and nobody else may write to it.
4. Of two processes that come at once, one compiles and the other waits for it.
5. It is compiled in a process of its own, whose memory goes with it: who loads it imports no compiler. Code of earlier
   sources is removed then.
"""

from __future__ import annotations

import fcntl
import os
import sys
from zlib import adler32, crc32

from wslab.load.engine.machine_code import MachineCode
from wslab.machine.process import cpu_features

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Say = Callable[[str], object]

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(os.path.dirname(HERE))
LOOPS = ("server_loop", "swarm_loop")
NOT_COMPILED_IN = {"__init__.py", "__main__.py", "cache.py"}
COMPILED_IN = [os.path.join(HERE, name) for name in sorted(os.listdir(HERE)) if name.endswith(".py")]
COMPILED_IN = [path for path in COMPILED_IN if os.path.basename(path) not in NOT_COMPILED_IN]
COMPILED_IN += [os.path.join(PACKAGE, *name.split("/")) for name in ("load/scoreboard.py", "core/histogram.py")]
COMPILED_IN += [os.path.join(PACKAGE, "core", "pacer.py")]
# A folder of ours has a name of so many hexadecimal digits, also in earlier versions.
_NAME_LENGTH = 16


def load(loop: str, say: Say | None = None) -> Any:
    """Return the compiled functions of a loop as attributes, compiled now if they are not kept yet.

    Args:
        loop: one of `LOOPS`.
        say: called with one line when this takes long, and when the code cannot be kept; standard error by default.

    Raises:
        ImportError: the code has to be compiled and numba is not installed, or the compiler failed.
    """
    code = kept(loop) or fill(loop, say or _to_stderr)
    return Functions(code.load())


class Functions:
    """The compiled functions of a loop."""

    def __init__(self, functions: dict[str, Any]) -> None:
        self.__dict__.update(functions)


def kept(loop: str) -> MachineCode | None:
    """Return the code of a loop that is kept for these sources and this CPU, or None."""
    for folder in folders():
        path = os.path.join(folder, _file_name(loop))
        try:
            if _is_trusted(folder):
                with open(path, "rb") as file:
                    return MachineCode.unpack(file.read(), _key(loop))
        except (OSError, ValueError):
            pass
    return None


def fill(loop: str, say: Say) -> MachineCode:
    """Compile a loop, keep its code where that is possible, and return it; see `load`."""
    folder = place()
    if folder is None:
        say(
            "compiling the event loops, about a minute each time, as there is no folder to keep them in: "
            f"none of {', '.join(map(os.path.dirname, folders()))}"
        )
        return compiled(loop)
    path = os.path.join(folder, _file_name(loop))
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code = kept(loop)  # Somebody else may have been at it meanwhile.
        if code is None:
            say(f"compiling the {loop.replace('_', ' ')} for this machine, once: up to a minute ({folder})")
            code = compiled(loop)
            try:
                with open(f"{path}.new", "wb") as file:
                    file.write(code.pack(_key(loop)))
                os.replace(f"{path}.new", path)
            except OSError as problem:
                say(f"the compiled event loops cannot be kept: {problem.strerror} ({path})")
            remove_others(folder)
        return code


def compiled(loop: str) -> MachineCode:
    """Compile a loop in a process of its own, and return its code; see `load`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _compile_into(loop, writer)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    if data.startswith(b"!"):
        raise ImportError(data[1:].decode())
    try:
        return MachineCode.unpack(data, _key(loop))
    except ValueError:
        raise ImportError("the compiler of the event loops ended without a result") from None


def _compile_into(loop: str, writer: int) -> None:
    """Compile a loop, write its code or `!` and why there is none, and end this process."""
    try:
        from wslab.load.engine.compiling import compile_loop

        data = compile_loop(loop).pack(_key(loop))
    except ImportError as problem:
        data = f"!the event loops cannot be compiled: {problem}; pip install numba".encode()
    except BaseException as problem:
        data = f"!the event loops cannot be compiled: {type(problem).__name__}: {problem}".encode()
    try:
        with open(writer, "wb") as file:
            file.write(data)
    finally:
        os._exit(0)


def place() -> str | None:
    """Return the folder that code is kept in, made if need be; None when there is none that this user may trust."""
    for folder in folders():
        try:
            os.makedirs(folder, mode=0o755, exist_ok=True)
            probe = os.path.join(folder, f"probe-{os.getpid()}")
            os.close(os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.unlink(probe)
        except OSError:
            continue
        if _is_trusted(folder):
            return folder
    return None


def folders() -> tuple[str, ...]:
    """Return where code made from these sources may be: in the package, with the user, among temporary files."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = fingerprint()
    return (
        os.path.join(HERE, "__pycache__", "engine", name),
        os.path.join(home, "wslab", "engine", name),
        os.path.join(os.environ.get("TMPDIR") or "/tmp", f"wslab-engine-{os.geteuid()}-{name}"),
    )


def fingerprint() -> str:
    """Return a name for all that the code is made from."""
    sums = crc32(b""), adler32(b"")
    for path in COMPILED_IN:
        with open(path, "rb") as file:
            data = file.read()
        sums = crc32(data, sums[0]), adler32(data, sums[1])
    return f"{sums[0]:08x}{sums[1]:08x}"


def remove_others(folder: str) -> None:
    """Remove what was kept beside a folder for other sources; what cannot be removed stays."""
    import shutil  # Not needed in a load process.

    parent, own = os.path.split(folder)
    for name in os.listdir(parent):
        other = os.path.join(parent, name)
        ours = len(name) == _NAME_LENGTH and set(name) <= set("0123456789abcdef")
        if ours and name != own and not os.path.islink(other):
            shutil.rmtree(other, ignore_errors=True)


def _key(loop: str) -> str:
    return f"{loop} {fingerprint()} {_cpu()}"


def _file_name(loop: str) -> str:
    return f"{loop}-{_cpu()}"


def _cpu() -> str:
    return f"{os.uname().machine}-{crc32(cpu_features().encode()):08x}"


def _is_trusted(folder: str) -> bool:
    try:
        status = os.lstat(folder)
        owners = {0, os.geteuid(), os.stat(HERE).st_uid}
    except OSError:
        return False
    return status.st_uid in owners and not status.st_mode & 0o022


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
