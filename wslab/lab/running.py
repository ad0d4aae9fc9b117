"""What can be said of the server of a stage before anything is started: whether it can be, and who it is if it runs.

1. What is missing on this machine is refused in one line that names the command that installs it.
2. A server on loopback that runs already is found by its listening port, or by the pid that the caller gives. It is
   watched and never stopped. Of one elsewhere only the swarm's side is known, and the run says so.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wslab.core.host import Host
from wslab.core.quantities import BadInput
from wslab.core.servers import INSTALLS, SERVER_KINDS, Need, fill, is_command, is_url
from wslab.core.stage import Stage
from wslab.core.target import is_loopback, parse_url
from wslab.machine.process import start_ticks
from wslab.machine.trees import listeners, owners, server_limits, with_descendants

_SERVERS = Path(__file__).resolve().parents[1] / "load" / "servers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What is known of a server before the run.

    Attributes:
        url: its address; empty until it is started.
        pids: its processes that can be watched.
        limits: their limits, as fields of `Host`.
        note: why nothing of it can be watched; empty otherwise.
    """

    url: str = ""
    pids: tuple[int, ...] = ()
    limits: Mapping[str, int | str | None] = field(default_factory=dict)
    note: str = ""


def check_server(stage: Stage) -> None:
    """Refuse a server that cannot be started or watched.

    Raises:
        BadInput: a program, a package or a process is missing, or the port is in use; one line says what to do.
    """
    if stage.server in SERVER_KINDS:
        check_needs(stage.server)
    if is_command(stage.server):
        if stage.server_dir and not os.path.isdir(stage.server_dir):
            raise BadInput(f"server_dir={stage.server_dir} is no folder")
        check_program(fill(stage.server, {})[0], stage.server_dir)
    if stage.server_pid != "auto":
        if not is_url(stage.server):
            raise BadInput(f"server_pid={stage.server_pid} needs the ws:// address of that server as server")
        if start_ticks(int(stage.server_pid)) is None:
            raise BadInput(f"server_pid={stage.server_pid}: there is no such process")
    if stage.server_port != "auto":
        if is_url(stage.server):
            raise BadInput(f"server_port={stage.server_port} is for a server that is started; an address has its own")
        used = listeners(int(stage.server_port))
        if used:
            pids = ", ".join(map(str, owners([one.inode for one in used]))) or "of another user"
            raise BadInput(f"server_port={stage.server_port} is in use already: by process {pids}")


def check_needs(server: str) -> None:
    """Refuse a server kind that lacks something on this machine.

    Raises:
        BadInput: it names what is missing and the command that installs it.
    """
    kind = SERVER_KINDS[server]
    for need in kind.needs:
        if not _is_there(need, kind.folder):
            install = need.install.replace("{folder}", str(_SERVERS / kind.folder))
            raise BadInput(f"server={server} needs {need.name}, which is not installed: {install}")


def check_program(program: str, folder: str = "") -> None:
    """Refuse a program that cannot be run.

    Args:
        program: its name, or a path.
        folder: where a relative path counts from; empty is the current folder.

    Raises:
        BadInput: it is not there.
    """
    path = os.path.join(folder, program) if "/" in program else program
    if shutil.which(path):
        return
    name = os.path.basename(program)
    if "/" in program:
        what = "is no program that can be run" if os.path.exists(path) else "is not there"
        raise BadInput(f"server: {program} {what}")
    how = f": {INSTALLS[name]}" if name in INSTALLS else ", and no folder of PATH has it"
    raise BadInput(f"server: the program {program} is not installed{how}")


def look_at_running(stage: Stage) -> Running:
    """Return what is known of a server that runs already; nothing for one that is to be started."""
    if not is_url(stage.server):
        return Running()
    host, port, _, _ = parse_url(stage.server)
    if stage.server_pid != "auto":
        found = [int(stage.server_pid)]
    elif not is_loopback(host):
        return Running(url=stage.server, note=f"{host} is not this machine: only the swarm's side is known")
    else:
        found = owners([one.inode for one in listeners(port)])
    if not found:
        who = "as this user, or nothing listens there" if os.geteuid() else "here"
        note = f"the process that listens on port {port} cannot be seen {who}: only the swarm's side is known"
        return Running(url=stage.server, note=note)
    tree = with_descendants(found)
    return Running(url=stage.server, pids=tuple(tree), limits=server_limits(tree, port))


def as_it_runs(host: Host, limits: Mapping[str, Any]) -> Host:
    """Return the host with the limits of a server that is not ours, as its processes have them."""
    return Host.from_record({**host.as_dict(), **limits})


def _is_there(need: Need, folder: str) -> bool:
    if need.program:
        return shutil.which(need.program) is not None
    if need.module:
        return importlib.util.find_spec(need.module) is not None
    return (_SERVERS / folder / need.path).exists()
