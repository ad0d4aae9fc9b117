"""Which settings of this machine a target needs changed, as a table, as commands and as files to keep.

Nothing is changed here; `wslab.tune.apply` writes settings and puts them back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from wslab.core.ceilings import fits
from wslab.core.ceilings import settings_for as settings_needed
from wslab.core.host import Host
from wslab.core.knee import most_rate
from wslab.core.plan import Plan, memory_holds, resolve
from wslab.core.quantities import BadInput, about_count, counted
from wslab.core.settings import NEEDED, RECOMMENDED, Need, Setting
from wslab.core.stage import Stage
from wslab.lab.preflight import stage_for
from wslab.lab.tables import Table
from wslab.machine.journal import TUNING, Journal
from wslab.machine.procfs import read_host
from wslab.tune.text import DockerFlags, docker, files

# Limits that no setting lifts and that one sentence about memory tells.
MEMORY_LIMITS = ("memory_machine", "memory_reserve")
AUTOS = ("server_shards", "swarm_workers", "source_addresses")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tune:
    """The settings that a stage needs on this machine.

    Attributes:
        stage: the stage that was planned for.
        host: the limits as they were read.
        plan: the layout of the stage on this machine.
        settings: what has to change, in the order in which it must be written.
        journaled: names of settings that wslab has written and not put back yet, oldest first.
    """

    stage: Stage
    host: Host
    plan: Plan
    settings: tuple[Setting, ...]
    journaled: tuple[str, ...] = ()

    status = 0  # There is always an answer.

    @property
    def needed(self) -> list[Setting]:
        """The settings without which the target is not reached."""
        return [setting for setting in self.settings if setting.rank == NEEDED]

    @property
    def recommended(self) -> list[Setting]:
        """The settings that make it easier and decide nothing."""
        return [setting for setting in self.settings if setting.rank == RECOMMENDED]

    @property
    def holds(self) -> int | None:
        """How many connections the memory of this machine can hold; None when it is not known."""
        return memory_holds(self.host, self.stage.server, self.stage.memory_reserve)

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        name, holds = self.stage.name, self.holds
        short = holds is not None and holds < self.stage.connections
        held = (
            ""
            if holds is None
            else f"memory, which no setting raises, holds {'only ' * short}about {about_count(holds)}"
        )
        if self.needed:
            keys = ", ".join(setting.key for setting in self.needed)
            text = f"{name} needs {counted(len(self.needed), 'setting')} changed: {keys}"
        else:
            text = f"no setting helps {name}" if short else f"{name} needs no setting changed"
        return "; ".join(filter(None, (text, held)))

    @property
    def commands(self) -> list[str]:
        """What to type, in order: what is needed first."""
        return [setting.command for setting in (*self.needed, *self.recommended)]

    @property
    def files(self) -> dict[str, str]:
        """The files to keep, by their name below /etc."""
        return files(self.settings, f"{self.stage.name} connections")

    @property
    def docker(self) -> DockerFlags:
        """What a container can be given of it."""
        return docker(self.settings)

    @property
    def notes(self) -> list[str]:
        """What else there is to know, a sentence each."""
        lifted = {setting.limit for setting in self.needed}
        notes = [
            f"{row.limit} ends it at about {about_count(row.ceiling_connections or 0)}: {row.lift}"
            for row in fits(self.host, self.plan).broken
            if row.limit not in lifted and row.limit not in MEMORY_LIMITS
        ]
        spared = self._spared()
        if spared:
            notes.append(f"with {', '.join(AUTOS)} left at auto, {', '.join(spared)} need not change")
        if self.needed and self.host.uid:
            notes.append(
                "without root none of these can be written; what takes none is done by itself: "
                f"{counted(self.plan.server_shards, 'server shard')}, "
                f"{counted(self.plan.swarm_workers, 'swarm worker')}, "
                f"{counted(len(self.plan.source_addresses), 'source address', 'es')}"
            )
        if self.journaled:
            keys = ", ".join(dict.fromkeys(self.journaled))
            notes.append(f"set by wslab and not put back yet: {keys}; `wslab tune --revert` does")
        return notes

    def _spared(self) -> list[str]:
        """Return what needs to change only because of the layout that was asked for."""
        auto = Stage.of(**{**self.stage.as_dict(), **dict.fromkeys(AUTOS, "auto")})
        found = settings_for(auto, self.host, resolve(auto, self.host))
        still = {setting.key for setting in found if setting.rank == NEEDED}
        return [setting.key for setting in self.needed if setting.key not in still]

    def as_dict(self) -> dict[str, Any]:
        """Return what `wslab tune --json` prints."""
        return {
            "sentence": self.sentence,
            "connections": self.stage.connections,
            "needed": [setting.as_dict() for setting in self.needed],
            "recommended": [setting.as_dict() for setting in self.recommended],
            "commands": self.commands,
            "files": {f"/etc/{name}": text for name, text in self.files.items()},
            "docker_flags": list(self.docker.flags),
            "docker_host_only": list(self.docker.host_only),
            "memory_holds_connections": self.holds,
            "notes": self.notes,
            "set_by_wslab": list(self.journaled),
        }

    def text(self) -> str:
        """Return the answer as a terminal shows it: one line when nothing is to be said beside it."""
        blocks = [self.sentence]
        if self.settings:
            blocks += [self.difference(), "Now, until the next boot:\n" + _indented(self.commands)]
            kept = [f"/etc/{name}\n{_indented(text.splitlines())}" for name, text in self.files.items()]
            blocks += [
                "To keep; `wslab tune --write DIR` writes these files into a folder:",
                *kept,
                self._docker_text(),
            ]
        blocks += ["\n".join(self.notes)] if self.notes else []
        return "\n\n".join(blocks)

    def difference(self) -> str:
        """Return the table of settings: present value, needed value, the limit that it lifts, and why."""
        head = ("setting", "present", "", "needed", "lifts", "root", "why")
        rows = [
            (
                item.key,
                str(item.present),
                "->",
                str(item.needed),
                item.limit,
                "root" if item.needs_root else "",
                item.why + (" (recommended)" if item.rank == RECOMMENDED else ""),
            )
            for item in (*self.needed, *self.recommended)
        ]
        return Table(headings=head, rows=rows).text()

    def _docker_text(self) -> str:
        found = self.docker
        lines = ["docker run " + " ".join(found.flags)] if found.flags else []
        lines += [f"not per container, set it on the host: {key}" for key in found.host_only]
        return "For a container:\n" + _indented(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.text())}</pre>"

    def write(self, folder: str | Path) -> list[Path]:
        """Write the files to keep into a folder, by their names below /etc, and return their paths.

        Raises:
            BadInput: the folder cannot be written.
        """
        paths = {Path(folder).expanduser() / name: text for name, text in self.files.items()}
        try:
            for path, text in paths.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
        except OSError as problem:
            raise BadInput(f"write={folder} cannot be written: {problem.strerror}") from problem
        return list(paths)


def tune(connections: int | str | None = None, **parameters: Any) -> Tune:
    """Say which settings a target needs on this machine; nothing is changed.

    Args:
        connections: the target, such as `"2M"`; None is about as many as the memory holds.
        **parameters: further fields of `Stage`, such as `server_shards`.

    Raises:
        BadInput: a parameter cannot be used.
    """
    host = read_host()
    stage = stage_for(host, connections, parameters)
    if connections is None:
        step = 10 ** max(0, len(str(stage.connections)) - 2)
        stage = replace(stage, connections=stage.connections // step * step)
    plan = resolve(stage, host)
    journaled = [step.name for step in Journal().steps() if step.purpose == TUNING]
    return Tune(
        stage=stage,
        host=host,
        plan=plan,
        settings=tuple(settings_for(stage, host, plan)),
        journaled=tuple(journaled),
    )


def settings_for(stage: Stage, host: Host, plan: Plan) -> list[Setting]:
    """Return the settings that a stage needs on a host, in the order in which they must be written."""
    rate = most_rate(stage.message_rate)
    need = Need(host=host, plan=plan, message_bytes=stage.message_bytes, message_rate=rate)
    return settings_needed(need)


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}".rstrip() for line in lines)
