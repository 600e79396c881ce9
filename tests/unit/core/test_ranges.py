"""Content-Range as origins send it (RFC 9110 section 14.4), and the Range that resumes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.ranges import MAX_BYTES, ContentRange, Unsatisfied, parse_content_range, range_from

VALID = [
    ("bytes 0-499/1234", ContentRange(0, 500, 1234)),
    ("bytes 42-1233/1234", ContentRange(42, 1234, 1234)),
    ("bytes 42-1233/*", ContentRange(42, 1234, None)),
    ("bytes 0-0/1", ContentRange(0, 1, 1)),
    ("BYTES  0-0/1", ContentRange(0, 1, 1)),
    (" bytes 0-0/1\t", ContentRange(0, 1, 1)),
    ("bytes 000-0/01", ContentRange(0, 1, 1)),
    (f"bytes 0-{MAX_BYTES - 1}/{MAX_BYTES}", ContentRange(0, MAX_BYTES, MAX_BYTES)),
    (f"bytes 0-{MAX_BYTES - 1}/*", ContentRange(0, MAX_BYTES, None)),
    ("bytes */1234", Unsatisfied(1234)),
    ("bytes */0", Unsatisfied(0)),
    ("bytes */*", Unsatisfied(None)),
]

NOT_BELIEVED = [
    None,
    "",
    "bytes",
    "bytes 0-499",
    "bytes=0-499/1234",
    "bytes: 0-499/1234",
    "bytes 0-499/",
    "bytes -499/1234",
    "bytes 0-/1234",
    "bytes 500-499/1234",
    "bytes 0-1234/1234",
    "bytes 0-0/0",
    "items 0-499/1234",
    "bytes 0-1/2, bytes 0-1/2",
    "bytes +0-1/2",
    "bytes 0--1/2",
    "bytes ٠-١/٢",
    f"bytes 0-{MAX_BYTES}/*",
    f"bytes 0-1/{MAX_BYTES + 1}",
    "bytes 0-1/" + "9" * 10_000,
    "bytes */" + "9" * 10_000,
    "bytes 0-1/2\n",
]


@pytest.mark.parametrize(("value", "expected"), VALID)
def test_a_content_range_gives_a_half_open_span(value: str, expected: ContentRange | Unsatisfied) -> None:
    """RFC 9110 section 14.4: the inclusive end of the wire becomes the stop of a half-open span."""
    assert parse_content_range(value) == expected


@pytest.mark.parametrize("value", NOT_BELIEVED)
def test_a_content_range_that_breaks_a_rule_is_not_believed(value: str | None) -> None:
    """RFC 9110 section 14.4: malformed, contradictory and huge values say nothing."""
    assert parse_content_range(value) is None


@given(st.integers(0, MAX_BYTES - 1), st.integers(1, 2**40), st.integers(0, 2**40))
def test_a_span_that_fits_its_total_comes_back(start: int, length: int, rest: int) -> None:
    """What was written for a span is read as that span, with and without a total."""
    stop = min(start + length, MAX_BYTES)
    total = min(stop + rest, MAX_BYTES)
    assert parse_content_range(f"bytes {start}-{stop - 1}/{total}") == ContentRange(start, stop, total)
    assert parse_content_range(f"bytes {start}-{stop - 1}/*") == ContentRange(start, stop, None)


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    """No text makes the parser raise."""
    parse_content_range(text)
    parse_content_range("bytes " + text)


def test_a_range_from_a_start_is_open_ended() -> None:
    """RFC 9110 section 14.1.2: an int-range without a last position asks for the rest."""
    assert range_from(0) == "bytes=0-"
    assert range_from(42) == "bytes=42-"
