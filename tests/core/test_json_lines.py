"""A stream of JSON objects, one a line."""

from __future__ import annotations

from wslab.core.json_lines import JsonLines


def test_lines_are_cut_wherever_the_stream_was_cut() -> None:
    lines = JsonLines()
    assert lines.feed(b'{"a": 1}\n{"b"') == [{"a": 1}]
    assert lines.feed(b": 2}\n\nnoise\n[1]\n") == [{"b": 2}]
    assert lines.rejected == ["noise", "[1]"]
