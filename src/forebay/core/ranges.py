"""Range, If-Range and Content-Range: what we ask of origins and what is asked of us (RFC 9110 section 14).

Spans are half-open ``[start, stop)`` everywhere; the wire's inclusive ends live in this module alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from forebay.core.fields import etags_match_strongly, parse_http_date

MAX_BYTES = 2**63 - 1
"""The largest position or length that is believed: what a signed 64-bit file offset can say."""

# A GET asks for every range at once, so each costs us a part's header and a read: what stops "Apache killer"
# (CVE-2011-3192). Past the limit the whole content is the answer, as in Apache httpd (MaxRanges, 200): section
# 14.2 lets a server ignore Range, and a whole answer is right for every client. 50 parts make 8 KiB of framing.
MAX_RANGES = 100
"""The most ranges, with empty members of the list, that one Range field may name."""
MAX_PARTS = 50
"""The most spans that may be left of them once those that touch are merged."""

_CONTENT_RANGE = re.compile(r"bytes +(?:([0-9]+)-([0-9]+)|\*)/([0-9]+|\*)", re.IGNORECASE)
_RANGE_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
_MAX_DIGITS = len(str(MAX_BYTES))


class Span(NamedTuple):
    """The bytes ``[start, stop)`` of a content."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The span ``[start, stop)`` that a 206 carries, of *total* bytes (`None`: the origin does not know)."""

    start: int
    stop: int
    total: int | None


@dataclass(frozen=True, slots=True)
class Unsatisfied:
    """What a 416 says: nothing that was asked for exists of *total* bytes (`None`: it did not say)."""

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


def format_content_range(span: Span | None, total: int) -> str:
    """The Content-Range of *span*, which has a byte at least; `None`: that of a 416 (RFC 9110 section 14.4)."""
    return f"bytes */{total}" if span is None else f"bytes {span.start}-{span.stop - 1}/{total}"


def parse_range(value: str | None, size: int) -> list[Span] | Unsatisfied | None:
    """Disjoint ascending spans that *value* asks for of *size* bytes, none touching the next.

    `None`: ignore the field (RFC 9110 section 14.2). It is absent, has another unit than bytes, breaks the
    grammar (one bad range spoils all of it, section 14.1.1), or is past `MAX_RANGES` or `MAX_PARTS`.
    `Unsatisfied`: well-formed, but no range has a byte: 416. Of an empty content, every range is ignored: the
    whole of it is what they all come to, and no Content-Range could say so (section 14.2; Go does the same).
    """
    unit, _, members = (value or "").strip(" \t").partition("=")
    if unit.lower() != "bytes" or size == 0 or members.count(",") >= MAX_RANGES:
        return None
    specs = [spec for member in members.split(",") if (spec := member.strip(" \t"))]  # also right behind the "="
    if not specs:
        return None
    spans: list[Span] = []
    for spec in specs:
        found = _RANGE_SPEC.fullmatch(spec)
        if found is None or spec == "-" or _reversed(found[1], found[2]):
            return None
        span = _span(found[1], found[2], size)
        if span.start < span.stop:
            spans.append(span)
    merged = _merged(spans)
    if len(merged) > MAX_PARTS:
        return None
    return merged or Unsatisfied(size)


def if_range_holds(
    value: str | None, *, etag: str | None, last_modified: str | None, fetched_at: float | None
) -> bool:
    """Whether Range may be followed: there is no If-Range, or it names the current content (section 13.1.5).

    By an equal strong *etag*, or by the very text of *last_modified* when that is a strong validator: at least
    a second older than *fetched_at*, when its origin answered (section 8.8.2.2; `None`: never).
    """
    if value is None or etags_match_strongly(value, etag):
        return True
    if last_modified is None or fetched_at is None or value.strip(" \t") != last_modified:
        return False
    date = parse_http_date(last_modified)
    return date is not None and date + 1 <= fetched_at


def _span(first: str, last: str, size: int) -> Span:
    """The span that a well-formed range asks for; empty when it has no byte (section 14.1.2)."""
    if not first:
        return Span(max(size - _number(last), 0), size)
    return Span(_number(first), min(_number(last) + 1, size) if last else size)


def _merged(spans: list[Span]) -> list[Span]:
    """*spans* in ascending order, made one where they overlap or touch; sorting them is all the work."""
    # Section 15.3.7.2 recommends the order of the field, and forbids clients to rely on it. Ascending is one pass
    # over the content, and of one that still grows nothing waits for what is behind it.
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].stop:
            merged[-1] = Span(merged[-1].start, max(merged[-1].stop, span.stop))
        else:
            merged.append(span)
    return merged


def _reversed(first: str, last: str) -> bool:
    """Whether the range ends before it starts; exact for numbers of any length."""
    if not (first and last):
        return False
    first, last = first.lstrip("0"), last.lstrip("0")
    return (len(last), last) < (len(first), first)


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    # int() refuses thousands of digits with a ValueError; anything this long is over the limit anyway.
    return int(digits) if len(digits) <= _MAX_DIGITS else MAX_BYTES + 1
