"""Settings of the kernel, read and written by their names in sysctl(8).

A setting of the whole machine is written by one process at a time. The claim is an flock on the setting's own file:
it is seen by every process of the machine, and ends with the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

SYSCTLS = Path("/proc/sys")


def sysctl_path(name: str) -> Path:
    """Return the file of a setting such as `net.core.somaxconn`."""
    return SYSCTLS / name.replace(".", "/")


def read_sysctl(name: str) -> str:
    """Return the value as text, fields separated by one space."""
    return " ".join(sysctl_path(name).read_text("ascii").split())


def write_sysctl(name: str, value: str | int) -> None:
    """Write a value; the kernel takes a file such as this in one write only."""
    descriptor = os.open(sysctl_path(name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode("ascii"))
    finally:
        os.close(descriptor)


def claim_sysctl(name: str) -> int:
    """Claim a setting of the whole machine and return the descriptor that holds the claim.

    Raises:
        BlockingIOError: another process has claimed it.
    """
    descriptor = os.open(sysctl_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def restore_sysctl(name: str, before: str, written: str) -> tuple[bool, str]:
    """Put a setting of the whole machine back, unless somebody else has changed it in the meantime.

    Returns:
        Whether it is settled, and what there is to say about it.
    """
    try:
        claim = claim_sysctl(name)
    except BlockingIOError:
        return False, f"{name} is claimed by another process; {before} has to be put back after it"
    try:
        present = read_sysctl(name)
        if present == written:
            write_sysctl(name, before)
        elif present != before:
            return True, f"{name} is {present} by now, neither {written} nor {before} as before: left as it is"
    finally:
        os.close(claim)
    return True, ""
