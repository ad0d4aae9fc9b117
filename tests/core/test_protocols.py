"""The table of application protocols, and a row of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wslab.core.protocols import PROTOCOLS, Protocol, own_protocol, parse_protocol
from wslab.core.quantities import BadInput
from wslab.lab.protocol_file import read_protocol
from wslab.load.swarm.talk import Talk

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "protocol.toml"


@pytest.mark.parametrize("row", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_row_goes_through_json(row: Protocol) -> None:
    assert Protocol.from_record(json.loads(json.dumps(row.as_dict()))) == row
    assert row.summary


def test_only_the_plain_row_leaves_everything_to_the_compiled_loop() -> None:
    assert [name for name, row in PROTOCOLS.items() if not row.listens] == ["plain"]


@pytest.mark.parametrize("name", ["plain", "socketio", "my.toml"])
def test_a_protocol_is_a_row_or_a_file(name: str) -> None:
    assert parse_protocol(name) == name


@pytest.mark.parametrize(("name", "hint"), [("socket", "did you mean socketio"), ("x.yaml", "one of plain"), (5, "5")])
def test_another_word_is_refused(name: object, hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        parse_protocol(name)


def test_the_example_is_a_whole_row() -> None:
    row = read_protocol(str(EXAMPLE))
    assert row.listens
    assert row.opens_with
    assert row.ready
    assert row.replies
    assert row.heartbeat
    assert row.heartbeat_seconds > 0
    assert Talk(row).echo(b"ab") != b""


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"redy": "x"}, "did you mean ready"),
        ({"ready": 5}, "ready"),
        ({"ready": ""}, "ready"),
        ({"opens_with": [1]}, "opens_with"),
        ({"replies": "x"}, "replies"),
        ({"replies": {"a": 1}}, "replies"),
        ({"message": "x"}, "message"),
        ({"echo": "{payload}"}, "echo"),
        ({"heartbeat": "x"}, "heartbeat_seconds"),
        ({"heartbeat": "x", "heartbeat_seconds": 0}, "heartbeat_seconds"),
        ({"path": "x"}, "path"),
        ({"subprotocol": "a b"}, "subprotocol"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_in_one_line(table: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named) as refused:
        own_protocol(table, "my.toml")
    assert str(refused.value).startswith("my.toml: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("text", "named"), [(None, "cannot be read"), ("a = ", "no TOML"), ("redy = 'x'", "ready")])
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, named: str) -> None:
    path = tmp_path / "my.toml"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(BadInput, match=named):
        read_protocol(str(path))


@pytest.mark.parametrize(
    ("protocol", "heard", "said"),
    [
        ("socketio", '0{"sid":"x"}', "40"),
        ("socketio", "2", "3"),
        ("socketio", '42["message","2"]', None),
        ("graphql_ws", '{"type":"ping"}', '{"type":"pong"}'),
        ("graphql_ws", '{"type":"pong"}', None),
    ],
)
def test_what_is_heard_is_answered_as_the_row_says(protocol: str, heard: str, said: str | None) -> None:
    assert Talk(PROTOCOLS[protocol]).reply_to(heard) == said


@pytest.mark.parametrize("size", [1, 15, 16, 33])
def test_a_payload_is_found_again_in_its_echo(size: int) -> None:
    talk, payload = Talk(PROTOCOLS["socketio"]), bytes(range(160, 160 + size))
    echo = talk.echo(payload)
    assert len(echo) == len('42["message",""]') + size
    assert payload.startswith(talk.payload_start(echo))
    assert talk.payload_start(b"2") == b""
