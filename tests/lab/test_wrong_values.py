"""What is passed by mistake to the functions for recorded runs is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wslab
from made_runs import make_run
from wslab.core.quantities import BadInput
from wslab.lab.runs import Run

WHAT_NAMES_A_RUN = "is not accepted: a run, its id or the beginning of that, latest, or its folder"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wslab.compare(None), f"run=None {WHAT_NAMES_A_RUN}"),
        (lambda: wslab.compare(5), f"run=5 {WHAT_NAMES_A_RUN}"),
        (lambda: wslab.compare(["latest", None]), f"run=None {WHAT_NAMES_A_RUN}"),
        (lambda: wslab.load_run(None), f"run=None {WHAT_NAMES_A_RUN}"),
        (lambda: wslab.load_run(5), f"run=5 {WHAT_NAMES_A_RUN}"),
        (lambda: wslab.load_run("/nowhere"), "/nowhere is not a run folder: it holds no run.json"),
        (lambda: wslab.load_run("x", data_dir=5), "data_dir=5 is not accepted: the path of a folder"),
        (lambda: wslab.columns(5), "containing=5 is not accepted: a part of a column's name"),
        (lambda: wslab.list_runs(label=3), "label=3 is not accepted: text"),
        (lambda: wslab.list_runs(server=3), "server=3 is not accepted: text"),
        (lambda: wslab.list_runs(at_least="x"), "at_least=x is not accepted: a whole number"),
        (lambda: wslab.list_runs(5), "data_dir=5 is not accepted: the path of a folder"),
        (lambda: wslab.list_runs("/etc/passwd"), "data_dir=/etc/passwd is a file, and no folder of recorded runs"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(
    call: Callable[[], Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, 1_000)
    monkeypatch.setenv("WSLAB_DATA_DIR", str(tmp_path))
    with pytest.raises(BadInput) as caught:
        call()
    assert str(caught.value).startswith(words)
    assert caught.value._render_traceback_() == [f"BadInput: {caught.value}"]
    assert "\n" not in str(caught.value)


def test_true_is_no_quantile(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="quantile True cannot be used"):
        Run.load(make_run(tmp_path, 1_000)).percentiles(True)


def test_a_run_that_is_loaded_already_is_returned(tmp_path: Path) -> None:
    run = Run.load(make_run(tmp_path, 1_000))
    assert wslab.load_run(run) is run
