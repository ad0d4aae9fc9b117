"""Make a network namespace with nothing in it but loopback, and read the limits inside an enclosure.

A thread that enters a namespace does not come back, and the caller may have other threads. So both are done in a
process of their own, this module run as a program: it takes a JSON object on stdin and answers with one on stdout.

- `{"create": name, "sysctls": {...}, "nft": "...", "packet_cpu": ..., "link": {...}}` makes the namespace, and answers
  `{}`.
- `{"look": entry, "uid": ...}` enters an enclosure (see `wslab.machine.enter`), and answers with the limits inside.

An answer with `error` is one line that says what went wrong.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wslab.machine.enter import become, enter, enter_netns
from wslab.machine.firewall import find_nft
from wslab.machine.procfs import read_host
from wslab.machine.sysctls import sysctl_path, write_sysctl

NETNS_FOLDER = "/run/netns"
_ANSWER_SECONDS = 30.0
_LOOPBACK_INDEX = 1
LOOPBACK_PACKETS = Path("/sys/class/net/lo/queues/rx-0/rps_cpus")
# Of <sched.h> and <sys/mount.h>.
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 1 << 14, 1 << 18


def netns_path(name: str) -> str:
    """Return where a namespace of this name can be entered."""
    return f"{NETNS_FOLDER}/{name}"


def create_netns(
    name: str,
    sysctls: Mapping[str, str | int],
    nft: str,
    packet_cpu: int | None = None,
    link: Mapping[str, str | int | float] | None = None,
) -> None:
    """Make a namespace with loopback up, its settings written and its rules loaded.

    Args:
        name: its name.
        sysctls: settings of its own.
        nft: rules in the language of nftables.
        packet_cpu: the CPU that is handed all packets of its loopback; None to leave them where they are sent.
        link: the queueing discipline of its loopback, see `wslab.breaks.enclosure`; None for none.

    Raises:
        OSError: that is not possible; the text says why in one line.
    """
    link = dict(link or {})
    _ask({"create": name, "sysctls": dict(sysctls), "nft": nft, "packet_cpu": packet_cpu, "link": link})


def look_from_inside(entry: Mapping[str, Any], uid: int | None = None) -> dict[str, Any]:
    """Return the limits of `read_host` as read by a process inside the enclosure.

    Raises:
        OSError: it cannot be entered.
    """
    return _ask({"look": dict(entry), "uid": uid})


def _ask(question: dict[str, Any]) -> dict[str, Any]:
    # Started in the folder of the package, where -m looks first: the same package is found, installed or not.
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "wslab.breaks.netns"]
    try:
        done = subprocess.run(
            command, input=json.dumps(question), capture_output=True, text=True, cwd=root, timeout=_ANSWER_SECONDS
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as problem:
        raise OSError(f"a namespace was not ready within {_ANSWER_SECONDS:.0f} s") from problem
    except ValueError as problem:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise OSError(f"nothing can be done in a namespace: {last[0]}") from problem
    if "error" in answer:
        raise OSError(answer["error"])
    return answer


# In the process of its own


def _create(question: Mapping[str, Any]) -> dict[str, Any]:
    from pyroute2 import IPRoute, netns

    netns.create(question["create"])
    enter_netns(netns_path(question["create"]))
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as route:
        route.link("set", index=_LOOPBACK_INDEX, state="up")
        if link := dict(question["link"]):
            kind = link.pop("kind")
            try:
                route.tc("add", kind, _LOOPBACK_INDEX, "1:", **link)
            except NetlinkError as problem:
                raise OSError(f"the kernel refuses {kind}: {os.strerror(problem.code)}") from problem
    for name, value in question["sysctls"].items():
        if not sysctl_path(name).exists():
            raise FileNotFoundError(f"a network namespace has no setting {name} of its own")
        try:
            write_sysctl(name, value)
        except OSError as problem:
            raise OSError(f"{name} = {value} is refused by the kernel: {problem.strerror}") from problem
    if question["nft"]:
        _load_rules(question["nft"])
    if question["packet_cpu"] is not None:
        _hand_packets_to(question["packet_cpu"])
    return {}


def _hand_packets_to(cpu: int) -> None:
    """Have one CPU receive all packets of loopback; the mask has words of 32 CPUs, the highest first."""
    see_devices()
    words = [f"{1 << cpu % 32:x}", *["0"] * (cpu // 32)]
    LOOPBACK_PACKETS.write_text(",".join(words), "ascii")


def see_devices() -> None:
    """Mount the sysfs of the namespace that this process has entered, for this process alone.

    Raises:
        OSError: it cannot be mounted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # The mounts become this process's own first, so that nobody else sees the new one.
    if (
        libc.unshare(_CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
        or libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None)
    ):
        number = ctypes.get_errno()
        raise OSError(f"the devices of the namespace cannot be seen: {os.strerror(number)}")


def _load_rules(rules: str) -> None:
    nft = find_nft()
    if nft is None:
        raise FileNotFoundError("nft is not installed; on Debian and Ubuntu this helps: apt install nftables")
    done = subprocess.run([nft, "-f", "-"], input=rules, capture_output=True, text=True)
    if done.returncode:
        first = done.stderr.strip().splitlines()[:1] or [f"exit status {done.returncode}"]
        raise OSError(f"nft refuses the rules: {first[0]}")


def _look(question: Mapping[str, Any]) -> dict[str, Any]:
    enter(question["look"])
    if question["uid"] is not None:
        become(question["uid"])
    return read_host().as_dict()


def main() -> int:
    """Answer the question on stdin."""
    question = json.loads(sys.stdin.read())
    try:
        answer = (_create if "create" in question else _look)(question)
    except OSError as problem:
        answer = {"error": " ".join(str(problem).split())}
    sys.stdout.write(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
