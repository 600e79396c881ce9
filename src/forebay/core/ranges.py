"""Content-Range and Range for resuming a download (RFC 9110 section 14).

Spans are half-open ``[start, stop)`` everywhere; the wire's inclusive ends live in this module alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BYTES = 2**63 - 1
"""The largest position or length that is believed: what a signed 64-bit file offset can say."""

_CONTENT_RANGE = re.compile(r"bytes +(?:([0-9]+)-([0-9]+)|\*)/([0-9]+|\*)", re.IGNORECASE)
_MAX_DIGITS = len(str(MAX_BYTES))


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The span ``[start, stop)`` that a 206 carries, of *total* bytes (`None`: the origin does not know)."""

    start: int
    stop: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Unsatisfied:
    """What a 416 says: nothing of the span exists of *total* bytes (`None`: the origin did not say)."""

    total: int | None


def parse_content_range(value: str | None) -> ContentRange | Unsatisfied | None:
    """The meaning of a Content-Range field; `None`: absent or not to be believed (RFC 9110 section 14.4).

    Not believed are another unit than bytes, an end before its start, a span past the total, a list, and
    numbers over `MAX_BYTES`. ``bytes */*`` breaks the grammar but is clear: `Unsatisfied` without a total.
    """
    found = _CONTENT_RANGE.fullmatch((value or "").strip(" \t"))
    if found is None:
        return None
    numbers = [None if digits in (None, "*") else _number(digits) for digits in found.groups()]
    if any(number is not None and number > MAX_BYTES for number in numbers):
        return None
    start, last, total = numbers
    if start is None or last is None:
        return Unsatisfied(total)
    stop = last + 1
    if stop <= start or stop > (MAX_BYTES if total is None else total):
        return None
    return ContentRange(start, stop, total)


def range_from(start: int) -> str:
    """The Range field that asks for everything from *start* on (RFC 9110 section 14.1.2)."""
    return f"bytes={start}-"


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    # int() refuses thousands of digits with a ValueError; anything this long is over the limit anyway.
    return int(digits) if len(digits) <= _MAX_DIGITS else MAX_BYTES + 1
