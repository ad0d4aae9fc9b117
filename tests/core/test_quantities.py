"""Quantities: every way to write a number gives the same exact one, and a refusal is one clear line."""

from __future__ import annotations

from typing import Any

import pytest

from wslab.core.quantities import BadInput, about_count, format_bytes, format_count, parse_bytes, parse_count


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, 2),
        (2.0, 2),
        ("2", 2),
        (" 2 ", 2),
        (1e6, 1_000_000),
        ("1e6", 1_000_000),
        ("1M", 1_000_000),
        ("1m", 1_000_000),
        ("700k", 700_000),
        ("700K", 700_000),
        ("0.7M", 700_000),  # Binary floating point would give 700,000.0000000001 or 699,999.
        ("2.745515M", 2_745_515),
        ("10 k", 10_000),
        ("1_000_000", 1_000_000),
        ("1G", 1_000_000_000),
    ],
)
def test_a_count_reads_the_same_however_it_is_written(value: Any, expected: int) -> None:
    assert parse_count(value) == expected
    assert type(parse_count(value)) is int


@pytest.mark.parametrize(
    "value",
    [
        "0.5",
        0.5,
        0,
        "0",
        -1,
        "-1",
        "nan",
        float("nan"),
        "inf",
        float("inf"),
        "x",
        "",
        " ",
        "k",
        None,
        True,
        [1],
        "1kk",
        "1e999999999",
        "1e-999999999",
        "1.0005k",
        "1,000",
        "10 000",
        "1GiB",
        "2G",
        10**12,
        "1 M 2",
        "ten",
        "0x10",
    ],
)
def test_a_count_that_is_none_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(BadInput) as refused:
        parse_count(value, "connections")
    text = str(refused.value)
    assert text.startswith("connections=")
    assert "whole number from 1" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (512, 512),
        (0, 0),
        (1024.0, 1024),
        ("512", 512),
        ("512B", 512),
        ("1KiB", 1024),
        ("1kb", 1000),
        ("1k", 1000),
        ("16GiB", 16 << 30),
        ("16gib", 16 << 30),
        ("16Gi", 16 << 30),
        ("16GB", 16 * 10**9),
        ("1.5 MiB", 3 << 19),
        ("0.1GiB", 107_374_182),  # A fraction of a byte is dropped.
        ("1TiB", 1 << 40),
    ],
)
def test_a_size_reads_the_same_however_it_is_written(value: Any, expected: int) -> None:
    assert parse_bytes(value) == expected


@pytest.mark.parametrize(
    "value", ["x", "", None, False, -1, "-1GiB", "0.5", 0.5, "nan", "GiB", "1XiB", "1e99GiB", "inf"]
)
def test_a_size_that_is_none_is_refused_in_one_line(value: Any) -> None:
    with pytest.raises(BadInput, match=r"^memory_cap=.* is not accepted: a size in bytes"):
        parse_bytes(value, "memory_cap")


def test_a_size_out_of_its_range_is_refused_with_the_range() -> None:
    with pytest.raises(BadInput, match="from 1 B to 1 MiB"):
        parse_bytes("2MiB", "message_bytes", minimum=1, maximum=1 << 20)


def test_a_refusal_keeps_to_one_line_whatever_was_typed() -> None:
    with pytest.raises(BadInput) as refused:
        parse_count("1\n2" + "3" * 500)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "1"),
        (999, "999"),
        (1000, "1k"),
        (10000, "10k"),
        (12345, "12345"),
        (700000, "700k"),
        (1000000, "1M"),
        (2500000, "2.5M"),
        (2000000, "2M"),
        (2745000, "2745k"),
        (1000000000, "1G"),
    ],
)
def test_a_count_is_written_exactly_and_reads_back(count: int, text: str) -> None:
    assert format_count(count) == text
    assert parse_count(text) == count


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (2745515, "2.74M"),
        (2749999, "2.74M"),
        (28232, "28.2k"),
        (262144, "262k"),
        (999, "999"),
        (0, "0"),
        (1000, "1k"),
        (1000000, "1M"),
        (100000, "100k"),
        (1233085, "1.23M"),
    ],
)
def test_a_ceiling_is_rounded_down_to_three_digits(count: int, text: str) -> None:
    assert about_count(count) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (16 << 30, "16 GiB"), (6.1 * (1 << 30), "6.1 GiB")],
)
def test_a_size_is_written_with_a_binary_unit(size: float, text: str) -> None:
    assert format_bytes(size) == text
