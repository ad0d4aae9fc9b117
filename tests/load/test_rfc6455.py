"""Where frames end, and the accept value of a handshake."""

from __future__ import annotations

import numpy as np
import pytest

from load.rig import ACCEPT, KEY, frame
from wslab.load.engine import wire
from wslab.load.rfc6455 import frame_ends

LIMIT = 1 << 20


def ends(data: bytes, *, masked: bool = True, bytes_max: int = LIMIT) -> list[int]:
    return list(frame_ends(data, masked=masked, bytes_max=bytes_max))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_a_frame_of_any_length_ends_where_it_ends_and_not_a_byte_before(size: int, masked: bool) -> None:
    data = frame(2, bytes(size), masked=masked)
    assert ends(data, masked=masked) == [len(data)]
    for cut in {*range(min(len(data), 16)), len(data) - 1}:
        assert ends(data[:cut], masked=masked) == []
    assert ends(data + data[:1], masked=masked) == [len(data)]


def test_each_of_several_frames_has_its_end() -> None:
    parts = [frame(1, b"a", fin=False), frame(9, b"ping"), frame(0, b""), frame(8, b"\x03\xe8")]
    lengths = [len(part) for part in parts]
    assert ends(b"".join(parts)) == [sum(lengths[: n + 1]) for n in range(4)]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\x83\x85", id="an unknown data opcode"),
        pytest.param(b"\x8b\x85", id="an unknown control opcode"),
        pytest.param(b"\x82\x05", id="no mask from a client"),
        pytest.param(b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x01", id="more than the limit"),
        pytest.param(b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff", id="more than there is"),
    ],
)
def test_what_its_header_condemns_need_not_be_complete(header: bytes) -> None:
    assert ends(header) == [len(header)]
    assert ends(frame(2, b"x") + header + b"more") == [7, 7 + len(header) + 4]


@pytest.mark.parametrize("start", [b"\xc1\x85mask", b"\x89\xfe\x00\x80mask"], ids=["reserved bits", "a long ping"])
def test_what_the_protocol_judges_behind_the_payload_is_held_back_until_it_is_there(start: bytes) -> None:
    assert ends(start + b"half") == []


def test_a_server_that_masks_is_condemned() -> None:
    assert ends(frame(2, b"x", masked=True)[:2], masked=False) == [2]


def test_the_accept_value_is_the_one_of_the_rfcs_own_example() -> None:
    out, scratch = np.zeros(30, np.uint8), np.zeros(80, np.uint32)
    wire.accept_value(np.frombuffer(b"xx" + KEY, np.uint8), 2, out, 1, scratch)
    assert bytes(out) == b"\0" + ACCEPT + b"\0"
