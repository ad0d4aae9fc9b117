"""Numbers read as people say them, and text of a run stays text in HTML."""

from __future__ import annotations

import pytest

from wslab.lab.display import (
    Machine,
    bytes_text,
    count_text,
    findings_html,
    pairs_html,
    rate_text,
    seconds_text,
    whole_text,
)


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (count_text, 700_000, "700k"),
        (count_text, 1e6, "1M"),
        (count_text, 28_232, "28.2k"),
        (count_text, None, "–"),
        (count_text, float("nan"), "–"),
        (bytes_text, 8400, "8.2 KiB"),
        (bytes_text, None, "–"),
        (seconds_text, 0.000085, "85 µs"),
        (seconds_text, 0.0123, "12.3 ms"),
        (seconds_text, 0.9999, "1 s"),
        (seconds_text, 3.4, "3.4 s"),
        (seconds_text, 248, "4 min 8 s"),
        (seconds_text, 0, "0 µs"),
        (seconds_text, None, "–"),
        (whole_text, 2_678_189, "2,678,189"),
        (rate_text, 16_200.4, "16.2k/s"),
    ],
)
def test_a_value_reads_as_people_say_it(form, value: float | None, text: str) -> None:
    assert form(value) == text


def test_what_a_finding_quotes_is_text_and_no_markup() -> None:
    row = {"limit": "unknown", "side": "kernel", "at_connections": 5, "evidence": "<b>&", "remedy": "-"}
    assert "&lt;b&gt;&amp;" in findings_html([row])
    assert "<b>&" not in findings_html([row])


def test_pairs_fill_rows_of_two() -> None:
    assert pairs_html([("a", "1"), ("b", "2"), ("c", "3")]).count("<tr") == 2


def test_a_machine_of_which_little_is_known_still_reads() -> None:
    assert Machine.of({}).line == "unknown CPU · Linux unknown"
    assert Machine.of({"cpu_model": "X", "cpu_count": 1, "kernel": "6.1"}).line == "X, 1 core · Linux 6.1"
