"""The Jupyter kernel of an executed notebook: how it is started, how it is interrupted, and why it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from wslab.lab.fleet import child_environment
from wslab.machine.procfs import read_vmstat

# A kernel handles interrupts while it executes a cell; one that comes while it starts would end it with a traceback.
IGNORING_INTERRUPTS = ("/bin/sh", "-c", 'trap "" INT; exec "$0" "$@"')
# An interrupt that a kernel may not have noticed is sent again after so long.
REPEAT_SECONDS = 0.5
# What a kernel gets to drain and save its stage before further interrupts kill it.
PATIENCE_SECONDS = 3.0

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
            return KernelSpec(
                argv=[*IGNORING_INTERRUPTS, *arguments, "-f", "{connection_file}"],
                display_name="Python 3",
                language="python",
            )

        async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
            options["env"] = child_environment(options.get("env") or os.environ)
            await super()._async_launch_kernel(kernel_cmd, **options)
            process = getattr(self.provisioner, "process", None)
            if process is not None:
                kernels.append(process)

    return ThisInterpreter


@contextmanager
def interrupts_go_to(kernels: Kernels, recording: Callable[[], bool] = lambda: True) -> Iterator[list[float]]:
    """Send interrupts to the kernel, which has a session of its own; yield the list of when they came.

    1. The first is sent until the kernel records a run: one that starts, or is between two cells, does not notice it.
       The stage then drains and is saved.
    2. The second is sent as well, and the stage skips the draining.
    3. Further ones kill the kernel once it has had `PATIENCE_SECONDS` since the first. What belongs to the stage ends
       with it.
    4. Nothing is raised here while there is a kernel, or one may still start, so that papermill is not interrupted
       halfway. Once there has been none for `PATIENCE_SECONDS`, further ones raise `KeyboardInterrupt`.

    Args:
        kernels: the processes of the kernels that were started so far.
        recording: tells whether the kernel has begun to record a run.
    """
    came: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def pass_on(number: int, _: FrameType | None) -> None:
        repeated = number == signal.SIGALRM and came
        if not repeated:
            came.append(time.monotonic())
        kernel = kernels[-1] if kernels and kernels[-1].poll() is None else None
        if len(came) > 2 and came[-1] - came[0] > PATIENCE_SECONDS:
            if kernel is None:
                raise KeyboardInterrupt
            kernel.kill()
        elif kernel is not None and (repeated or len(came) <= 2):
            kernel.send_signal(signal.SIGINT)
        if not kernels or (kernel is not None and not recording()):
            signal.setitimer(signal.ITIMER_REAL, REPEAT_SECONDS)

    before = [(number, signal.signal(number, pass_on)) for number in (signal.SIGINT, signal.SIGALRM)]
    try:
        yield came
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)


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
    return f"{sentence}; oom_kill in /proc/vmstat did not rise, so memory had not run out"


def count_oom_kills() -> int:
    """Return how many processes this machine has killed since boot because memory ran out."""
    return int((read_vmstat() or {}).get("oom_kill", 0))
