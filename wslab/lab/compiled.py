"""Make sure, before anything starts, that the event loops of the load are compiled on this machine.

They are compiled at installation, or else now, once: whoever waits for it is told. A process of its own does both, and
is asked once in the lifetime of this one.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from wslab.core.quantities import BadInput
from wslab.lab.fleet import child_environment

# How often it is said that it still goes on.
NOTE_SECONDS = 5.0
_COMMAND = (sys.executable, "-m", "wslab.load.engine")
_asked: list[bool] = []  # not empty once the answer was that they are compiled


def ensure_compiled(say: Callable[[str], object]) -> None:
    """Compile the event loops unless that was done before.

    Args:
        say: called with a line when there is something to compile, and every few seconds until it is done.

    Raises:
        BadInput: they cannot be compiled; one line says why.
        KeyboardInterrupt: the user stopped it.
    """
    if _asked:
        return
    started, said = time.monotonic(), ""
    process = subprocess.Popen(
        _COMMAND,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",  # `-m` searches there first, where no module of the user's can be
        env=child_environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors = b""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stderr, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(NOTE_SECONDS)
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stderr:
                        errors += data
                    else:
                        for line in data.decode(errors="replace").splitlines():
                            said = line
                            say(line)
                if not ready and said:
                    say(f"{said}: {time.monotonic() - started:.0f} s so far")
        status = process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        process.stderr.close()
    if status:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise BadInput(lines[-1] if lines else f"the event loops cannot be compiled (exit code {status})")
    _asked.append(True)
