"""Quantities as people write them: `700k`, `1M`, `16GiB`, `1e6`, to exact whole numbers and back.

1. A value may arrive as text (a shell, papermill), as int or as float (a notebook); equal values give equal results.
2. Arithmetic is decimal and exact: `0.7M` is exactly 700,000.
3. A suffix without `i` is a power of 1,000, one with `i` a power of 1,024, for connections and for bytes alike.
4. A refusal is one line that names the parameter, the value and what is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from numbers import Integral, Real

# More than any machine can hold, and few enough that planning for it stays cheap before it is refused.
MAX_COUNT = 1_000_000_000
MAX_BYTES = 1 << 60

COUNT_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9}
BYTE_SUFFIXES = {
    **{unit + tail: 1000**power for power, unit in enumerate(("", "k", "m", "g", "t")) for tail in ("", "b")},
    **{unit + tail: 1024**power for power, unit in enumerate("kmgt", start=1) for tail in ("i", "ib")},
}
BINARY_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


class BadInput(ValueError):
    """A parameter that cannot be used; its text is one line meant for the person who typed it."""

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows in place of a traceback."""
        return [f"{BadInput.__name__}: {self}"]


def refuse(parameter: str, value: object, accepted: str) -> BadInput:
    """Return the error that says in one line which value of which parameter is not accepted, and what is."""
    shown = " ".join(str(value).split()) if isinstance(value, str) else repr(value)
    return BadInput(f"{parameter}={shown[:60] or repr(value)} is not accepted: {accepted}")


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """Return the question for the known name that is most like what was typed; empty where none is like it."""
    from difflib import get_close_matches  # Only a refusal needs it.

    names = list(known)
    near = [name for name in names if name.startswith(typed)] or get_close_matches(typed, names, n=1)
    return f"did you mean {near[0]}?" if near else ""


def parse_count(value: object, parameter: str = "connections") -> int:
    """Parse a whole number such as `12345`, `"700k"`, `"1M"` or `1e6`.

    Args:
        value: text or a number; `2`, `2.0` and `"2"` are the same.
        parameter: the name that a refusal mentions.

    Raises:
        BadInput: the value is not a whole number from 1 to `MAX_COUNT`.
    """
    number = _decimal(value, COUNT_SUFFIXES)
    if number is None or not 1 <= number <= MAX_COUNT or number != int(number):
        raise refuse(parameter, value, "a whole number from 1 to 1G, such as 12345, 700k or 1M")
    return int(number)


def parse_bytes(value: object, parameter: str = "bytes", minimum: int = 0, maximum: int = MAX_BYTES) -> int:
    """Parse a size in bytes such as `1073741824`, `"16GiB"` or `"500MB"`; a fraction of a byte is dropped.

    Args:
        value: text or a number.
        parameter: the name that a refusal mentions.
        minimum: the smallest size accepted.
        maximum: the largest size accepted.

    Raises:
        BadInput: the value is not a size from `minimum` to `maximum`.
    """
    number = _decimal(value, BYTE_SUFFIXES)
    suffixed = isinstance(value, str) and value.strip()[-1:].isalpha()
    whole = number is not None and (suffixed or number == int(number))
    if number is None or not whole or not minimum <= number <= maximum:
        span = f" from {format_bytes(minimum)} to {format_bytes(maximum)}" if maximum < MAX_BYTES else ""
        raise refuse(parameter, value, f"a size in bytes{span}, such as 512, 64KiB or 1GiB")
    return int(number)


def parse_number(value: object, parameter: str, accepted: str, above: bool = False) -> float:
    """Parse a finite number from 0 such as `0.01`, `"2.5"` or `"10k"`.

    Args:
        value: text or a number.
        parameter: the name that a refusal mentions.
        accepted: what the refusal says is accepted.
        above: accept only numbers above 0, not 0 itself.

    Raises:
        BadInput: the value is not such a number.
    """
    number = _decimal(value, COUNT_SUFFIXES)
    if number is None or number > MAX_COUNT or number < 0 or (above and number == 0):
        raise refuse(parameter, value, accepted)
    return float(number)


def format_count(count: int) -> str:
    """Write a number of connections exactly and as short as possible: `700k`, `1M`, `2.5M`, `12345`."""
    if count >= 1_000_000_000 and count % 1_000_000_000 == 0:
        return f"{count // 1_000_000_000}G"
    if count >= 1_000_000 and count % 100_000 == 0:
        return f"{Decimal(count) / 1_000_000:f}".removesuffix(".0") + "M"
    if count >= 1000 and count % 1000 == 0:
        return f"{count // 1000}k"
    return str(count)


def about_count(count: int) -> str:
    """Write a number of connections in at most three digits, rounded down so that no ceiling is overstated: `2.74M`."""
    for suffix, unit in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= unit:
            whole = count // unit
            places = max(0, 3 - len(str(whole)))
            rounded = Decimal(count * 10**places // unit) / 10**places
            text = f"{rounded:f}"
            return (text.rstrip("0").rstrip(".") if "." in text else text) + suffix
    return str(count)


def counted(count: int, noun: str, plural: str = "s") -> str:
    """Write a number with its noun: `1 worker`, `1,200 workers`."""
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def format_bytes(size: float) -> str:
    """Write a size with a binary unit: `6.1 GiB`, `512 B`."""
    for unit, scale in BINARY_UNITS:
        if abs(size) >= scale:
            return f"{size / scale:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size:.0f} B"


def _decimal(value: object, suffixes: dict[str, int]) -> Decimal | None:
    """Return the finite number that `value` stands for, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return Decimal(int(value))
    if isinstance(value, Real):
        text = repr(float(value))
    elif isinstance(value, str):
        text = value.strip().lower()
    else:
        return None
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    suffix = text[len(digits) :]
    if suffix and suffix not in suffixes:
        return None
    try:
        number = Decimal(digits.strip())
    except InvalidOperation:
        return None
    # An exponent of thousands of digits is a typo or an attack; as an integer it would take minutes to build.
    return number * suffixes.get(suffix, 1) if number.is_finite() and abs(number.adjusted()) < 30 else None
