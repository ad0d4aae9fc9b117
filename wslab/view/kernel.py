"""The Jupyter kernel of an executed notebook: how it is started, how it is interrupted, and why it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from wslab.machine.procfs import read_vmstat

# Put on the path of the kernel, so that the notebook imports this package also where it is not installed.
PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])

Kernels = list[subprocess.Popen[bytes]]


def this_interpreter(kernels: Kernels) -> type[AsyncKernelManager]:
    """Return a kernel manager that starts this interpreter, whatever kernel the notebook names.

    Args:
        kernels: the process of each kernel that is started is appended to it.
    """

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            # Without these, warnings of ipykernel and its debugger would be printed between the lines of progress.
            arguments = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "--log-level=ERROR"]
            return KernelSpec(argv=[*arguments, "-f", "{connection_file}"], display_name="Python 3", language="python")

        async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
            paths = [PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
            options["env"] = {**(options.get("env") or os.environ), "PYTHONPATH": os.pathsep.join(paths)}
            await super()._async_launch_kernel(kernel_cmd, **options)
            process = getattr(self.provisioner, "process", None)
            if process is not None:
                kernels.append(process)

    return ThisInterpreter


@contextmanager
def interrupts_go_to(kernels: Kernels) -> Iterator[list[int]]:
    """Pass the first interrupt on to the kernel, which runs in its own session; yield the list of those received.

    A second one, or one while no kernel runs, raises `KeyboardInterrupt` here.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def pass_on(number: int, _: Any) -> None:
        came.append(number)
        if len(came) > 1 or not kernels or kernels[-1].poll() is not None:
            raise KeyboardInterrupt
        kernels[-1].send_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, pass_on)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


def how_it_died(returncode: int | None, oom_kills: int) -> str:
    """Return in one sentence why a kernel ended; empty text when it ended normally.

    Args:
        returncode: exit status as subprocess has it, negative for a signal; None while it runs.
        oom_kills: processes that the machine killed meanwhile because memory ran out.
    """
    if not returncode:
        return ""
    if returncode > 0:
        return f"the notebook's kernel ended with exit status {returncode}"
    sentence = f"the notebook's kernel was killed by signal {-returncode} ({signal.Signals(-returncode).name})"
    if returncode != -signal.SIGKILL:
        return sentence
    if oom_kills > 0:
        return f"{sentence} when memory ran out: oom_kill in /proc/vmstat rose by {oom_kills} meanwhile"
    return f"{sentence}; oom_kill in /proc/vmstat did not rise, so it was not for want of memory"


def count_oom_kills() -> int:
    """Return how many processes this machine has killed for want of memory since it started."""
    return int((read_vmstat() or {}).get("oom_kill", 0))
