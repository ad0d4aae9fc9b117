"""Parameter files: what they may hold, and the stages that a matrix comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from wslab.core.quantities import BadInput
from wslab.view.parameters import climb_of, difference_text, planned, read_parameters


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "p.yaml"

    return write


def test_a_file_holds_parameters_as_they_would_be_typed(write) -> None:
    assert read_parameters(write("connections: 100k\nhold_seconds: 30\ntune: true  # root\n")) == {
        "connections": "100k",
        "hold_seconds": 30,
        "tune": True,
    }
    assert read_parameters(write("# nothing\n")) == {}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("- 1\n- 2\n", "one a line"),
        ("1: 2\n", "one a line"),
        ("connections: [1\n", "not YAML in line 2"),
        ("stages: [10k]\n", "wslab sweep -f"),
        ("a: !!python/object:os.system x\n", "not YAML"),
    ],
)
def test_what_cannot_be_used_is_one_line(write, text: str, answer: str) -> None:
    with pytest.raises(BadInput, match=answer) as refused:
        read_parameters(write(text))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read_parameters(tmp_path / "none.yaml")


def test_a_matrix_is_every_combination_each_a_climb() -> None:
    matrix = {"server": ["lean", "tcp_floor"], "server_shards": [1, 2]}
    stages = planned(["10k", "20k"], matrix, {"hold_seconds": 3})
    assert [(stage.server, stage.server_shards, stage.connections) for stage in stages] == [
        (server, shards, count) for server in ("lean", "tcp_floor") for shards in (1, 2) for count in (10_000, 20_000)
    ]
    assert {stage.hold_seconds for stage in stages} == {3.0}
    assert len({climb_of(stage) for stage in stages}) == 4
    assert difference_text(stages, stages[0]) == "server=lean server_shards=1"


def test_without_a_matrix_stages_differ_by_their_connections_only() -> None:
    stages = planned(["10k", "20k"], None, {})
    assert climb_of(stages[0]) == climb_of(stages[1])
    assert difference_text(stages, stages[0]) == ""


@pytest.mark.parametrize(
    "matrix", [{"server": "lean"}, {"server": []}, ["lean"], {"connections": [1]}, {"colour": [1]}]
)
def test_a_matrix_that_is_none_is_refused(matrix: object) -> None:
    with pytest.raises(BadInput):
        planned(["10k"], matrix, {})
