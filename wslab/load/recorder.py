"""The recorder: writes what the scoreboard, the processes and the kernel count, once a second.

Started by the supervisor as `python -m wslab.load.recorder SPEC_JSON`, with the scoreboard's descriptor inherited. It
writes `samples.csv` and `latency.csv` into the run folder, a row at a time, and each sample to stdout as a JSON line.

1. Samples are due at whole multiples of the interval since the epoch of the run. A late wake-up does not shift the
   ones after it, and a missed one is skipped; `elapsed_seconds` tells when each was taken.
2. Samples besides the schedule: one at once at the start, one whenever the phase or port on the scoreboard changes
   (seen within `POLL_SECONDS`, and labelled with the phase that begins), one at the end. A ramp of half a second is
   thus bounded by samples, and two rows may be close together: readers compute rates over windows that are long enough.
3. PSS is expensive to read. It is read once before the ramp for each set of processes, at once on entering hold and
   verify, and every `PSS_SECONDS` during these; its cells are empty otherwise.
4. Only end of file on stdin ends it, with one last sample and exit status 0. SIGINT is left to the caller, and rows go
   to the disk also when the reader of stdout is slow or gone.
5. A file that cannot be written, such as on a full disk, is reported once in an `error` event that names it. Recording
   goes on: the caller still gets the samples, and rows are kept again as soon as there is space.
6. A server that is not ours has no row on the scoreboard. The command `watch` on stdin names its processes; they and
   all below them are looked for again for each sample, and one sample is taken at once. Its connections and messages
   are not known from its side: those cells are empty.
7. What lies between the ends is recorded with them, from outside: the queues of a sample of the connections, the
   queueing discipline towards the server, and, where they may be read, the rules of the firewall before and after (a
   `firewall` event each). The supervisor puts the server's port on the scoreboard when it is known.
8. When failures of a new kind are counted, the counters that decide what bound first are read at once, and told in a
   `counters` event: a second between two samples is long while 20,000 connections are opened in it.
9. `lab_cpu_seconds` is the CPU time of what measures: this process, its parent (the supervisor) and the parent of that
   (the caller). It keeps the last reading of one that has ended.
10. The CPU clocks of all processes and of the machine are read first, one right after the other, and `elapsed_seconds`
   is the time of these readings: differences of two samples are shares of the time between them.
11. All processes of the machine are looked at when a phase of the load begins or ends. Those that are not the run's and
   gained most in a phase are told in a `neighbours` event at its end.
12. `swarm_lag_seconds_max` is taken from the scoreboard and reset to zero, so each row has the maximum since the last.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from wslab.core.histogram import BUCKETS, bucket_seconds
from wslab.core.json_lines import JsonLines
from wslab.core.records import DECISIVE_COLUMNS, LATENCY_COLUMNS, SAMPLE_COLUMNS, Column, header, to_cells
from wslab.load import scoreboard as words
from wslab.load.messages import Reports, unwritten_fields
from wslab.load.scoreboard import Scoreboard
from wslab.machine import neighbours
from wslab.machine.between import Between
from wslab.machine.counters import Counters
from wslab.machine.firewall import read_rules
from wslab.machine.line_file import LineFile
from wslab.machine.process import parent_of, raise_fd_limit
from wslab.machine.processes import Group, cpu_clock
from wslab.machine.trees import with_descendants

# How soon a change of phase is noticed; looking costs one word of shared memory.
POLL_SECONDS = 0.05
# One reading of PSS keeps a core busy for about 20 ms per 100 small processes.
PSS_SECONDS = 5.0

_ROLES = {"server": words.ROLE_SERVER, "swarm": words.ROLE_SWARM}
_ROLE_WORDS = {
    "connections_open": words.OPEN,
    "connections_opened": words.OPENED,
    "connections_failed": words.FAILED,
    "connections_closed": words.CLOSED,
    "messages_sent": words.SENT,
    "messages_received": words.RECEIVED,
}
_HISTOGRAMS = {"handshake": words.HANDSHAKE, "roundtrip": words.ROUNDTRIP}
_PSS_PHASES = ("hold", "verify")
_LOADED = ("ramp", "hold", "climb", "verify")
_UNLOADED = ("drain", "done")


class Table(LineFile):
    """A CSV file that takes whole rows.

    Args:
        path: the file, replaced if it exists.
        columns: its columns; the header is written at once.

    Raises:
        OSError: it cannot be opened or written; the error names the file.
    """

    def __init__(self, path: Path, columns: tuple[Column, ...]) -> None:
        super().__init__(path, replace=True)
        self.columns = columns
        self.append([",".join(header(columns)) + "\n"])

    def append_records(self, records: list[dict[str, Any]]) -> None:
        """Append records as rows; none of the values holds a comma or a quote.

        Raises:
            OSError: not all of them could be written; the error names the file.
        """
        self.append(",".join(to_cells(record, self.columns)) + "\n" for record in records)


class Recorder:
    """Takes samples of one run.

    Args:
        scoreboard: the counters of the load.
        epoch: monotonic time that `elapsed_seconds` counts from.
        destination: host of the server.
    """

    def __init__(self, scoreboard: Scoreboard, epoch: float, destination: str = "127.0.0.1") -> None:
        self._scoreboard = scoreboard
        self._epoch = epoch
        self._counters = Counters()
        supervisor = os.getppid()
        self._lab = dict.fromkeys((os.getpid(), supervisor, parent_of(supervisor) or 0), 0.0)
        self._groups = {side: Group() for side in _ROLES}
        self._buckets = {kind: [0] * BUCKETS for kind in _HISTOGRAMS}
        self._between = Between(destination)
        self._pss_of: frozenset[int] = frozenset()
        self._pss_phase = ""
        self._pss_at = 0.0
        self._roots: list[int] = []
        self._keepers: list[int] = []
        self.full: list[tuple[int, int, int]] = []  # of these: pid, descriptors and limit of those without a free one
        self._failures: list[bytes] = []
        self._kinds: set[tuple[str, int]] = set()
        self._looked: tuple[str, float, neighbours.Look] | None = None

    def watch(self, pids: list[int], below: int | None) -> None:
        """Watch a server that is not ours.

        Args:
            pids: its processes; those below them are watched as well.
            below: a process of ours below which all belong to the server.
        """
        self._roots = pids
        self._keepers = [] if below is None else [below]

    def counters_at_new_failures(self) -> dict[str, Any] | None:
        """Return the decisive counters when failures of a new kind were counted since the last call, else None."""
        stamps = [bytes(row[words.FIRST_FAILURES : words.HANDSHAKE]) for row in self._scoreboard.of(words.ROLE_SWARM)]
        if stamps == self._failures:
            return None
        self._failures, known = stamps, self._kinds
        self._kinds = set(self._scoreboard.first_failures())
        if self._kinds <= known:
            return None
        values = {"elapsed_seconds": round(time.monotonic() - self._epoch, 6), **self._counters.read()}
        shards = self._scoreboard.total(words.AT_LIMIT, words.ROLE_SERVER)
        values |= {"server_shards_at_limit": shards}
        return {name: values.get(name) for name in ("elapsed_seconds", *DECISIVE_COLUMNS)}

    def sample(self) -> dict[str, Any]:
        """Return one sample of everything."""
        phase = self._scoreboard.phase
        pids = {side: self._pids(side, role) for side, role in _ROLES.items()}
        now = time.monotonic()
        cpu = self._counters.cpu()
        for side, group in self._groups.items():
            group.read_clocks(pids[side])
        self._lab |= {pid: reading[0] for pid in self._lab if (reading := cpu_clock(pid)) is not None}
        record: dict[str, Any] = {
            "elapsed_seconds": round(now - self._epoch, 6),
            "unix_seconds": round(time.time(), 6),
            "phase": phase,
        }
        for side, role in _ROLES.items():
            record |= self._side(side, role, pids[side], now)
        record["lab_cpu_seconds"] = sum(self._lab.values())
        record |= self._counters.read() | cpu
        record |= self._between.read(self._scoreboard.port, record["swarm_connections_open"])
        if self._pss_is_due(phase, now):
            for side, group in self._groups.items():
                record[f"{side}_pss_bytes"] = group.pss_bytes()
        return record

    def latencies(self, elapsed_seconds: float) -> list[dict[str, Any]]:
        """Return what was added to each latency bucket since the last call, buckets without additions left out."""
        records = []
        for kind, first_word in _HISTOGRAMS.items():
            counts = self._scoreboard.histogram(first_word)
            before, self._buckets[kind] = self._buckets[kind], counts
            records += [
                {
                    "elapsed_seconds": elapsed_seconds,
                    "kind": kind,
                    "bucket_seconds": bucket_seconds(index),
                    "count": count - before[index],
                }
                for index, count in enumerate(counts)
                if count > before[index]
            ]
        return records

    def neighbours(self) -> dict[str, Any] | None:
        """Return who else used the machine in the phase that has ended since the last call; None while none has."""
        phase = self._scoreboard.phase
        if phase == (self._looked[0] if self._looked else ""):
            return None
        before = self._looked
        if phase not in (*_LOADED, *_UNLOADED) or (before is None and phase in _UNLOADED):
            return None
        now, seen = time.monotonic(), neighbours.look()
        self._looked = (phase, now, seen)
        if before is None or before[0] not in _LOADED:
            return None
        ours = frozenset(self._lab).union(*(group.pids for group in self._groups.values()))
        found = neighbours.gained(before[2], seen, now - before[1], ours, [os.getppid(), *self._roots])
        return {"phase": before[0], "seconds": round(now - before[1], 6), "processes": found}

    def _pids(self, side: str, role: int) -> list[int]:
        """Return the processes of one end as they are now."""
        if self._is_foreign(side):
            return self._foreign()
        return [pid for row in self._scoreboard.of(role) if (pid := row[words.PID])]

    def _is_foreign(self, side: str) -> bool:
        return side == "server" and bool(self._roots or self._keepers)

    def _side(self, side: str, role: int, pids: list[int], now: float) -> dict[str, Any]:
        counts = [_take(row) for row in self._scoreboard.of(role)]
        foreign = self._is_foreign(side)
        values: dict[str, Any] = {**self._groups[side].read(pids, now)}
        values |= {name: None if foreign else sum(row[word] for row in counts) for name, word in _ROLE_WORDS.items()}
        values["pss_bytes"] = None
        if foreign:
            self.full = self._groups[side].at_fd_limit()
            values["shards_at_limit"] = len(self.full)
            return {f"server_{name}": value for name, value in values.items()}
        if side == "server":
            values["shards_at_limit"] = sum(row[words.AT_LIMIT] for row in counts)
            return {f"server_{name}": value for name, value in values.items()}
        values["connections_pending"] = sum(row[words.PENDING] for row in counts)
        values["connections_verified"] = sum(row[words.VERIFIED] for row in counts)
        values["messages_failed"] = sum(row[words.MESSAGES_FAILED] for row in counts)
        values["messages_unasked"] = sum(row[words.MESSAGES_UNASKED] for row in counts)
        values["lag_seconds_max"] = max((row[words.LAG_US] for row in counts), default=0) / 1e6
        return {f"swarm_{name}": value for name, value in values.items()}

    def _foreign(self) -> list[int]:
        """Return the processes of a server that is not ours, as they are now."""
        tree = with_descendants([*self._roots, *self._keepers])
        return [pid for pid in tree if pid not in self._keepers]

    def _pss_is_due(self, phase: str, now: float) -> bool:
        """Return whether this sample reads PSS, and note that it does."""
        living = frozenset[int]().union(*(group.living for group in self._groups.values()))
        entered, self._pss_phase = phase != self._pss_phase, phase
        if phase in _PSS_PHASES:
            due = entered or now - self._pss_at >= PSS_SECONDS
        else:
            # The ramp may follow the start so soon that only its first sample sees the processes: rule 3.
            due = (phase == "start" or (phase == "ramp" and entered)) and living != self._pss_of
        if due:
            self._pss_of, self._pss_at = living, now
        return due


def main(argv: list[str]) -> int:
    """Record until stdin ends.

    Args:
        argv: the specification as JSON: `run_dir`, `board_fd`, `epoch_monotonic` and `interval_seconds` (1.0).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    raise_fd_limit()
    spec = json.loads(argv[1])
    epoch, interval = float(spec["epoch_monotonic"]), float(spec.get("interval_seconds", 1.0))
    scoreboard = Scoreboard.attach(spec["board_fd"])
    recorder = Recorder(scoreboard, epoch, str(spec.get("destination") or "127.0.0.1"))
    reports = Reports(sys.stdout.fileno(), epoch)
    unwritten: set[str] = set()
    told_full: set[int] = set()

    def report(problem: OSError) -> None:
        if problem.filename not in unwritten:
            unwritten.add(problem.filename)
            reports.event("error", **unwritten_fields(problem))

    try:
        samples = Table(Path(spec["run_dir"]) / "samples.csv", SAMPLE_COLUMNS)
        latency = Table(Path(spec["run_dir"]) / "latency.csv", LATENCY_COLUMNS)
    except OSError as problem:
        report(problem)
        return 1

    def keep(table: Table, records: list[dict[str, Any]]) -> None:
        try:
            table.append_records(records)
        except OSError as problem:
            report(problem)

    def record() -> tuple[int, int]:
        moment = scoreboard.moment
        sample = recorder.sample()
        keep(samples, [sample])
        reports.figure("sample", **sample)
        for pid, fds, limit in recorder.full:
            if pid not in told_full:
                told_full.add(pid)
                at = sample["elapsed_seconds"]
                reports.event("process_full", pid=pid, fds=fds, limit=limit, elapsed_seconds=at)
        keep(latency, recorder.latencies(sample["elapsed_seconds"]))
        return moment

    def tell_rules() -> None:
        rules = read_rules()
        reports.event("firewall", rules=None if rules is None else [rule.as_dict() for rule in rules])

    moment = record()
    tell_rules()
    due = next_due(time.monotonic(), epoch, interval)
    lines = JsonLines()
    told, port = False, scoreboard.port
    while (data := _read(min(POLL_SECONDS, due - time.monotonic()))) != b"":
        commands = [command for command in lines.feed(data or b"") if command.get("cmd") == "watch"]
        for command in commands:
            recorder.watch(command.get("pids") or [], command.get("below"))
        if time.monotonic() >= due:
            moment = record()
            due = next_due(time.monotonic(), epoch, interval)
        elif commands or scoreboard.moment != moment or scoreboard.port != port:
            port = scoreboard.port
            moment = record()
        if counters := recorder.counters_at_new_failures():
            reports.event("counters", **counters)
        if found := recorder.neighbours():
            reports.event("neighbours", **found)
        if scoreboard.phase in _UNLOADED and not told:
            told = True
            tell_rules()
    record()
    if not told:
        tell_rules()
    reports.flush(seconds=1.0)
    return 0


def _take(row: memoryview[int]) -> list[int]:
    """Return the counters of a process, and reset its largest lag."""
    counts: list[int] = row[: words.FAILURES].tolist()
    row[words.LAG_US] = 0
    return counts


def next_due(now: float, epoch: float, interval: float) -> float:
    """Return the first multiple of `interval` after `epoch` that is still to come; all in seconds."""
    return epoch + (int((now - epoch) / interval) + 1) * interval


def _read(seconds: float) -> bytes | None:
    """Wait at most `seconds` for stdin and return what came: None for nothing, no bytes at its end."""
    ready, _, _ = select.select([0], [], [], max(0.0, seconds))
    return os.read(0, 65536) if ready else None


if __name__ == "__main__":
    sys.exit(main(sys.argv))
