"""Numbers as people read them, one table in three forms, and text that stays text in HTML and in CSV."""

from __future__ import annotations

import pytest

from wslab.lab.tables import (
    Machine,
    Table,
    bytes_text,
    count_text,
    csv_cell,
    findings_html,
    number_text,
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
        (number_text, 1e6, "1,000,000"),
        (number_text, 15_634_758_528.0, "15,634,758,528"),
        (number_text, 0.0000812, "0.0000812"),
        (number_text, 1.519, "1.52"),
        (number_text, 0.0, "0"),
        (number_text, float("nan"), "–"),
    ],
)
def test_a_value_reads_as_people_say_it(form, value: float | None, text: str) -> None:
    assert form(value) == text


def test_what_a_finding_quotes_is_text_and_no_markup() -> None:
    row = {"limit": "unknown", "side": "kernel", "at_connections": 5, "evidence": "<b>&", "remedy": "-"}
    assert "&lt;b&gt;&amp;" in findings_html([row])
    assert "<b>&" not in findings_html([row])


TABLE = Table(headings=("stage", "open", "outcome"), rows=[("10k", "9", "held"), ("1M", "12,345", "<b>")], numbers=(1,))


def test_a_table_as_text_aligns_words_left_and_numbers_right() -> None:
    assert TABLE.text().split("\n") == ["stage    open  outcome", "10k         9  held", "1M     12,345  <b>"]
    assert Table(rows=[("a", "1")]).text(indent=2) == "  a  1"
    assert Table(headings=("a", "b"), rows=[]).text() == "a  b"


def test_a_table_as_markdown_aligns_the_same() -> None:
    head, rule, *rows = TABLE.markdown().splitlines()
    assert (head, rule) == ("| stage | open | outcome |", "| :-- | --: | :-- |")
    assert rows == ["| 10k | 9 | held |", "| 1M | 12,345 | <b> |"]
    assert Table(headings=("a",), rows=[("x|y\nz",)]).markdown().splitlines()[2] == r"| x\|y z |"


def test_a_table_as_html_escapes_its_cells_and_colours_outcomes() -> None:
    html = TABLE.html()
    assert html.count("<tr>") == 3
    assert html.count("text-align:right") == 3
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert html.count("<span") == 1


def test_an_id_or_a_number_is_not_broken_into_lines_and_a_sentence_may_be() -> None:
    sentence = "raise nf_conntrack_max, or do not track this traffic"
    html = Table(rows=[("20261201T134055Z-1M-c723", "12.3 ms", sentence)]).html()
    assert [cell.count("white-space:nowrap") for cell in html.split("<td")[1:]] == [1, 1, 0]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_that_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["lean", "a=b", "", -5, -0.5, None])
def test_numbers_and_plain_text_stay_as_they_are_in_csv(value: object) -> None:
    assert csv_cell(value) is value


def test_pairs_fill_rows_of_two() -> None:
    assert pairs_html([("a", "1"), ("b", "2"), ("c", "3")]).count("<tr") == 2


def test_a_machine_of_which_little_is_known_still_reads() -> None:
    assert Machine.of({}).line == "unknown CPU · Linux unknown"
    assert Machine.of({"cpu_model": "X", "cpu_count": 1, "kernel": "6.1"}).line == "X, 1 core · Linux 6.1"
