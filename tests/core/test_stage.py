"""Stage: whatever a person types gives the same stage, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wslab.core.quantities import BadInput
from wslab.core.servers import SERVER_KINDS
from wslab.core.stage import PARAMETERS, STAGES, Stage


def test_the_defaults_are_small_and_safe() -> None:
    stage = Stage.of()
    assert stage == Stage()
    assert (stage.connections, stage.server, stage.ramp_rate, stage.memory_cap) == (10_000, "lean", "max", "none")
    assert stage.memory_reserve == 1 << 30


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("connections", "1M", 1_000_000),
        ("connections", 1e6, 1_000_000),
        ("server", "tcp_floor", "tcp_floor"),
        ("server", " lean ", "lean"),
        ("server_shards", "auto", "auto"),
        ("server_shards", "AUTO", "auto"),
        ("server_shards", None, "auto"),  # null in a YAML file of parameters
        ("server_shards", "4", 4),
        ("server_shards", 4.0, 4),
        ("swarm_workers", 2, 2),
        ("ramp_rate", "max", "max"),
        ("ramp_rate", "5k", 5000.0),
        ("ramp_rate", 0.5, 0.5),
        ("hold_seconds", 0, 0.0),
        ("hold_seconds", "2.5", 2.5),
        ("message_rate", "0", 0.0),
        ("message_rate", "1e-3", 0.001),
        ("message_bytes", "1KiB", 1024),
        ("message_bytes", 1, 1),
        ("source_addresses", "16", 16),
        ("memory_cap", "none", "none"),
        ("memory_cap", None, "none"),
        ("memory_cap", "16GiB", 16 << 30),
        ("memory_reserve", 0, 0),
        ("memory_reserve", "512MiB", 512 << 20),
        ("data_dir", None, ""),
        ("data_dir", Path("runs/here"), "runs/here"),
        ("label", None, ""),
        ("label", 7, "7"),
        ("label", "nach dem Tuning ✓", "nach dem Tuning ✓"),
        ("tune", None, False),
        ("tune", True, True),
        ("tune", "Yes", True),
        ("tune", "false", False),
        ("tune", 1, True),
    ],
)
def test_a_parameter_is_read_from_text_and_from_numbers(name: str, value: Any, expected: Any) -> None:
    parsed = getattr(Stage.of(**{name: value}), name)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("connections", "0.5", "whole number"),
        ("connections", None, "whole number"),
        ("server", "nginx", "one of lean, tcp_floor"),
        ("server", 3, "one of lean, tcp_floor"),
        ("server_shards", 0, '"auto"'),
        ("server_shards", 1.5, '"auto"'),
        ("swarm_workers", "many", '"auto"'),
        ("source_addresses", -1, '"auto"'),
        ("source_addresses", 4097, "from 1 to 4096"),
        ("source_addresses", "1G", "from 1 to 4096"),
        ("ramp_rate", 0, '"max"'),
        ("ramp_rate", -5, '"max"'),
        ("ramp_rate", "inf", '"max"'),
        ("ramp_rate", float("nan"), '"max"'),
        ("ramp_rate", True, '"max"'),
        ("hold_seconds", -1, "0 or more"),
        ("hold_seconds", "inf", "0 or more"),
        ("hold_seconds", "soon", "0 or more"),
        ("message_rate", -0.1, "0 or more"),
        ("message_bytes", 0, "from 1 B to 1 MiB"),
        ("message_bytes", "2MiB", "from 1 B to 1 MiB"),
        ("memory_cap", 0, '"none"'),
        ("memory_cap", "some", '"none"'),
        ("memory_reserve", -1, "size in bytes"),
        ("memory_reserve", "none", "size in bytes"),
        ("data_dir", 5, "path"),
        ("label", "two\nlines", "one line"),
        ("label", "x" * 101, "one line"),
        ("tune", "maybe", "true or false"),
        ("tune", 2, "true or false"),
    ],
)
def test_a_bad_value_is_refused_with_name_value_and_what_is_accepted(name: str, value: Any, accepted: str) -> None:
    with pytest.raises(BadInput) as refused:
        Stage.of(**{name: value})
    text = str(refused.value)
    assert text.startswith(f"{name}=")
    assert accepted in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [("conections", "connections"), ("shards", "server_shards"), ("memory-cap", "memory_cap"), ("Label", "label")],
)
def test_an_unknown_parameter_is_named_with_the_nearest_known_one(name: str, meant: str) -> None:
    with pytest.raises(BadInput, match=f"unknown parameter {name}: did you mean {meant}\\?"):
        Stage.of(**{name: 1})


def test_a_parameter_like_no_other_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="unknown parameter zzz: known are connections, server,"):
        Stage.of(zzz=1)


def test_bad_input_is_a_value_error() -> None:
    assert issubclass(BadInput, ValueError)


def test_a_stage_written_to_json_and_read_again_is_the_same() -> None:
    stage = Stage.of(connections="12345", ramp_rate=100, memory_cap="2GiB", server_shards=3, label="x")
    assert Stage.of(**stage.as_dict()) == stage


@pytest.mark.parametrize(
    ("connections", "name"), [("10k", "10k"), (1_000_000, "1M"), (20_000, "20k"), (12_345, "12345")]
)
def test_a_stage_is_called_by_its_size(connections: Any, name: str) -> None:
    assert Stage.of(connections=connections).name == name


def test_the_named_stages_go_by_their_names_in_order() -> None:
    assert list(STAGES) == ["10k", "100k", "700k", "1M", "2M"]
    assert all(stage.name == name for name, stage in STAGES.items())
    assert [stage.connections for stage in STAGES.values()] == [10_000, 100_000, 700_000, 1_000_000, 2_000_000]


def test_every_parameter_has_a_help_text_and_an_example_that_is_accepted() -> None:
    assert [item.name for item in PARAMETERS] == list(Stage().as_dict())
    for item in PARAMETERS:
        assert item.help
        # papermill hides a parameter whose help comment holds an equals sign.
        assert "=" not in item.help
        assert Stage.of(**{item.name: item.example}) is not None
        assert Stage.of(**{item.name: item.default}) == Stage()


def test_server_kinds_are_known_by_their_name() -> None:
    assert {"lean", "tcp_floor"} <= SERVER_KINDS.keys()
    assert all(kind.name == name and kind.summary for name, kind in SERVER_KINDS.items())
