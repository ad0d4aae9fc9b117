"""What a sweep has done so far, on disk, so that it can go on after it was cut short.

The file `sweeps/<UTC>-<hex>.json` of the data folder holds the stages that were asked for, and the run of each that has
ended. It is replaced after every stage.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wslab.core.stage import Stage

FOLDER = "sweeps"

_log = logging.getLogger(__name__)


class SweepRecord:
    """The record of one sweep.

    Args:
        path: its file.
        stages: what was asked for.
        runs: ids of the runs so far, by the number of their stage.
    """

    def __init__(self, path: Path, stages: Sequence[Stage], runs: dict[int, str]) -> None:
        self.path, self.stages, self.runs = path, stages, runs

    @classmethod
    def begin(cls, data_dir: Path, stages: Sequence[Stage]) -> SweepRecord:
        """Return the record of a new sweep; it is written with its first run."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return cls(data_dir / FOLDER / f"{stamp}-{secrets.token_hex(2)}.json", stages, {})

    @classmethod
    def last(cls, data_dir: Path, stages: Sequence[Stage]) -> SweepRecord:
        """Return the record of the last sweep that asked for the same, or a new one when there is none."""
        asked = [stage.as_dict() for stage in stages]
        for path in sorted((data_dir / FOLDER).glob("*.json"), reverse=True):
            try:
                record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                same = record["stages"] == asked
                runs = {int(number): str(run_id) for number, run_id in record["runs"].items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
                _log.warning("%s is not the record of a sweep: %s", path, problem)
                continue
            if same:
                return cls(path, stages, runs)
        return cls.begin(data_dir, stages)

    def add(self, number: int, run_id: str) -> None:
        """Note the run of a stage; that it cannot be written is logged, and the sweep goes on."""
        self.runs[number] = run_id
        record = {"stages": [stage.as_dict() for stage in self.stages], "runs": self.runs}
        new = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            os.replace(new, self.path)
        except OSError as problem:
            _log.warning("%s cannot be written, so the sweep cannot be resumed: %s", self.path, problem.strerror)
