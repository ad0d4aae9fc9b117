"""Settings as text: files to keep, and flags of a container.

1. Each setting in a file stands below a comment that says what needs it. A file without a setting is left out.
2. Names of files are relative to `/etc`, where the user may put them; nothing is written there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wslab.core.settings import CGROUP, CGROUP_PROPERTIES, RECOMMENDED, RLIMIT, SYSCTL, Setting, assignment

SYSCTL_FILE = "sysctl.d/90-wslab.conf"
LIMITS_FILE = "security/limits.d/90-wslab.conf"
# The user manager starts what a desktop starts, JupyterLab too; for a service, the lines go into its own folder.
SERVICE_FILE = "systemd/system/user@.service.d/90-wslab.conf"
# Only the slice of a user limits its tasks: the user manager itself comes without a limit.
SLICE_FILE = "systemd/system/user-.slice.d/90-wslab.conf"

SERVICE_KEYS = {"nofile": "LimitNOFILE", "nproc": "LimitNPROC"}
DOCKER_OPTIONS = {"pids.max": "--pids-limit", "memory.max": "--memory"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerFlags:
    """What a container can be given of the settings, and what can only be set on its host."""

    flags: tuple[str, ...]
    host_only: tuple[str, ...]


def files(settings: Sequence[Setting], target: str) -> dict[str, str]:
    """Return the files that make the settings at each boot and login, by their name below `/etc`.

    Args:
        settings: what to set.
        target: what they are for, such as `2M connections`.
    """
    rlimits = _of(RLIMIT, settings)
    # `*` in limits.conf stands for every user except root.
    limits = [(setting, [f"{who} - {setting.key} {setting.needed}" for who in ("*", "root")]) for setting in rlimits]
    service = [(setting, [f"{SERVICE_KEYS[setting.key]}={setting.needed}"]) for setting in rlimits]
    found = {
        SYSCTL_FILE: _file(target, "", [(item, [f"{item.key} = {item.needed}"]) for item in _of(SYSCTL, settings)]),
        LIMITS_FILE: _file(target, "", limits),
        SERVICE_FILE: _file(target, "[Service]", service),
        SLICE_FILE: _file(
            target,
            "[Slice]",
            [(item, [f"{CGROUP_PROPERTIES[item.key]}={item.needed}"]) for item in _of(CGROUP, settings)],
        ),
    }
    return {name: text for name, text in found.items() if text}


def docker(settings: Iterable[Setting]) -> DockerFlags:
    """Return the flags of `docker run` for the settings, and the keys that no container can have of its own."""
    flags: list[str] = []
    host_only: list[str] = []
    for setting in settings:
        if not setting.per_container:
            host_only.append(setting.key)
        elif setting.kind == RLIMIT:
            flags.append(f"--ulimit {setting.key}={setting.needed}:{setting.needed}")
        elif setting.kind == CGROUP:
            flags.append(f"{DOCKER_OPTIONS[setting.key]} {setting.needed}")
        else:
            flags.append(f"--sysctl {assignment(setting.key, setting.needed)}")
    return DockerFlags(flags=tuple(flags), host_only=tuple(host_only))


def _of(kind: str, settings: Iterable[Setting]) -> list[Setting]:
    return [setting for setting in settings if setting.kind == kind]


def _file(target: str, section: str, entries: Sequence[tuple[Setting, Sequence[str]]]) -> str:
    """Return the text of one file, empty when nothing is to be set in it."""
    if not entries:
        return ""
    lines = [f"# For {target}, both ends on this machine; from `wslab tune`.", *([section] if section else [])]
    for setting, values in entries:
        rank = " (recommended)" if setting.rank == RECOMMENDED else ""
        lines += [f"# {setting.limit}{rank}: {setting.why}; was {setting.present}", *values]
    return "\n".join(lines) + "\n"
