"""Content-Range as origins send it, the Range that resumes, and those that are asked of us (RFC 9110 section 14)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.fields import format_http_date
from forebay.core.ranges import (
    MAX_BYTES,
    MAX_PARTS,
    MAX_RANGES,
    ContentRange,
    Span,
    Unsatisfied,
    format_content_range,
    if_range_holds,
    parse_content_range,
    parse_range,
    range_from,
)

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


# --- Range: sections 14.1.1, 14.1.2, 14.2 -------------------------------------------------------------

HUGE = "9" * 10_000

SATISFIABLE = [
    # the examples of section 14.1.2
    ("bytes=0-499", [(0, 500)]),
    ("bytes=500-999", [(500, 1000)]),
    ("bytes=-500", [(9500, 10000)]),
    ("bytes=9500-", [(9500, 10000)]),
    ("bytes=0-0,-1", [(0, 1), (9999, 10000)]),
    ("bytes= 0-999, 4500-5499, -1000", [(0, 1000), (4500, 5500), (9000, 10000)]),
    ("bytes=500-600,601-999", [(500, 1000)]),
    ("bytes=500-700,601-999", [(500, 1000)]),
    # over-long ends and suffixes are what there is
    ("bytes=9999-10000", [(9999, 10000)]),
    ("bytes=0-", [(0, 10000)]),
    ("bytes=-10001", [(0, 10000)]),
    (f"bytes=9990-{HUGE}", [(9990, 10000)]),
    (f"bytes=-{HUGE}", [(0, 10000)]),
    (f"bytes={'0' * 10_000}1-2", [(1, 3)]),
    # of several, those that have a byte
    ("bytes=10000-,5-6", [(5, 7)]),
    ("bytes=-0,5-6", [(5, 7)]),
    (f"bytes={HUGE}-,5-6", [(5, 7)]),
    # ascending, disjoint, none touching the next
    ("bytes=-1,0-0", [(0, 1), (9999, 10000)]),
    ("bytes=7-7,5-5,6-6", [(5, 8)]),
    ("bytes=0-9,3-5", [(0, 10)]),
    ("bytes=3-5,0-9,3-5", [(0, 10)]),
    ("bytes=0-,0-,-1", [(0, 10000)]),
    ("bytes=0-1,3-4", [(0, 2), (3, 5)]),
    # the unit in any case; white space and empty members of the list
    ("BYTES=1-2", [(1, 3)]),
    (" bytes=1-2\t", [(1, 3)]),
    ("bytes=\t1-2 \t, \t5-6", [(1, 3), (5, 7)]),
    ("bytes=,1-2,,", [(1, 3)]),
    ("bytes=" + "," * (MAX_RANGES - 1) + "1-2", [(1, 3)]),
]

IGNORED = [
    None,
    "",
    "bytes",
    "bytes=",
    "bytes=,",
    "bytes= , ",
    "bytes=-",
    "bytes=1",
    "bytes=a-b",
    "bytes=1-2-3",
    "bytes=--1",
    "bytes=+1-2",
    "bytes=1.0-2",
    "bytes=0x1-2",
    "bytes=\u0661-\u0662",
    "bytes=1 -2",
    "bytes=1- 2",
    "bytes=- 2",
    "bytes =1-2",
    "bytes:1-2",
    "bytes 1-2",
    "bytes=1-2;3-4",
    "bytes=1-2\n",
    "items=1-2",
    "none=1-2",
    "=1-2",
    "1-2",
    # section 14.1.1: one invalid range spoils all of them
    "bytes=2-1",
    "bytes=0-1,2-1",
    "bytes=20000-10000",
    f"bytes={HUGE}9-{HUGE}",
    f"bytes={HUGE}-1",
    "bytes=0-1,x",
    # two field lines are no list of ranges
    "bytes=0-1, bytes=2-3",
]


@pytest.mark.parametrize(("value", "spans"), SATISFIABLE)
def test_a_range_becomes_spans(value: str, spans: list[tuple[int, int]]) -> None:
    """Section 14.1.2: positions are inclusive, ends may be past the end, suffixes count from it."""
    assert parse_range(value, 10_000) == [Span(*span) for span in spans]


@pytest.mark.parametrize("value", IGNORED)
def test_a_range_that_is_not_understood_is_ignored(value: str | None) -> None:
    """Section 14.2: another unit must be ignored, an invalid field may be."""
    assert parse_range(value, 10_000) is None


@pytest.mark.parametrize(
    "value",
    ["bytes=10000-", "bytes=10000-10000", "bytes=-0", "bytes=10000-,-0,20000-30000", f"bytes={HUGE}-{HUGE}"],
)
def test_a_range_without_a_byte_is_not_satisfiable(value: str) -> None:
    """Section 14.1.2: a valid range of nothing that exists."""
    assert parse_range(value, 10_000) == Unsatisfied(10_000)


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=5-6"])
def test_of_an_empty_content_every_range_is_ignored(value: str) -> None:
    """Section 14.2 allows it, and no Content-Range could describe a span without a byte."""
    assert parse_range(value, 0) is None


def test_a_single_byte_can_be_asked_for_in_every_way() -> None:
    """The smallest content that has a span."""
    for value in ("bytes=0-", "bytes=0-0", "bytes=-1", "bytes=0-5", "bytes=-5", "bytes=0-0,-1"):
        assert parse_range(value, 1) == [Span(0, 1)]


def test_too_many_ranges_are_ignored() -> None:
    """Section 14.2: what can only be a broken client or an attack gets the whole."""
    some = ",".join(["0-"] * MAX_RANGES)
    assert parse_range(f"bytes={some}", 10_000) == [Span(0, 10_000)]
    assert parse_range(f"bytes={some},0-", 10_000) is None
    assert parse_range("bytes=" + "," * MAX_RANGES + "0-0", 10_000) is None
    parts = ",".join(f"{start}-{start}" for start in range(0, 2 * MAX_PARTS, 2))
    spans = parse_range(f"bytes={parts}", 10_000)
    assert isinstance(spans, list)
    assert len(spans) == MAX_PARTS
    assert parse_range(f"bytes={parts},5000-", 10_000) is None


@pytest.mark.parametrize("size", [MAX_BYTES, MAX_BYTES - 1])
def test_the_largest_content_has_its_last_byte(size: int) -> None:
    """Nothing overflows at the limit."""
    assert parse_range("bytes=-1", size) == [Span(size - 1, size)]
    assert parse_range(f"bytes={size - 1}-{MAX_BYTES * 10}", size) == [Span(size - 1, size)]
    assert parse_range(f"bytes={size}-", size) == Unsatisfied(size)


# --- Content-Range to send: section 14.4 --------------------------------------------------------------


@given(st.integers(0, MAX_BYTES - 1), st.integers(1, 2**40), st.integers(0, 2**40))
def test_a_span_that_is_sent_is_read_again(start: int, length: int, rest: int) -> None:
    """What we write of a span is what we would believe of an origin."""
    stop = min(start + length, MAX_BYTES)
    total = min(stop + rest, MAX_BYTES)
    shown = format_content_range(Span(start, stop), total)
    assert parse_content_range(shown) == ContentRange(start, stop, total)
    assert parse_content_range(format_content_range(None, total)) == Unsatisfied(total)


def test_a_content_range_has_one_space_and_an_inclusive_end() -> None:
    """Section 14.4: ``bytes 0-499/1234`` and ``bytes */1234``."""
    assert format_content_range(Span(0, 500), 1234) == "bytes 0-499/1234"
    assert format_content_range(None, 1234) == "bytes */1234"


# --- If-Range: section 13.1.5 -------------------------------------------------------------------------

MODIFIED = 784111777.0
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"

IF_RANGES = [
    (None, True),
    # strong comparison
    ('"v.1"', True),
    (' "v.1" ', True),
    ('W/"v.1"', False),
    ('"x"', False),
    ("v.1", False),
    ("*", False),
    ("", False),
    ('"v.1", "v.1"', False),
    # the very date, in the very form
    (DATE, True),
    (f" {DATE} ", True),
    ("Sunday, 06-Nov-94 08:49:37 GMT", False),
    ("Sun, 06 Nov 1994 08:49:38 GMT", False),
    ("Sun, 06 Nov 1994 08:49:36 GMT", False),
    (f"{DATE}, {DATE}", False),
]


@pytest.mark.parametrize(("value", "holds"), IF_RANGES)
def test_a_range_is_followed_if_nothing_changed(value: str | None, holds: bool) -> None:
    """Section 13.1.5: an equal strong entity-tag, or exactly the Last-Modified."""
    got = if_range_holds(value, etag='"v.1"', last_modified=DATE, fetched_at=MODIFIED + 60)
    assert got is holds


def test_a_weak_etag_of_ours_never_holds() -> None:
    """Section 8.8.3.2: strong comparison needs two strong ones."""
    assert not if_range_holds('W/"v.1"', etag='W/"v.1"', last_modified=None, fetched_at=None)


@pytest.mark.parametrize(
    ("fetched_at", "holds"),
    [(None, False), (MODIFIED - 1, False), (MODIFIED, False), (MODIFIED + 0.9, False), (MODIFIED + 1, True)],
)
def test_a_date_is_strong_when_a_second_older_than_the_answer(fetched_at: float | None, holds: bool) -> None:
    """Section 8.8.2.2: within its second, what the date names may have changed once more."""
    assert if_range_holds(DATE, etag='"v.1"', last_modified=DATE, fetched_at=fetched_at) is holds


def test_what_is_no_date_never_holds() -> None:
    """An If-Range cannot match a Last-Modified that is missing or that no one can read."""
    assert not if_range_holds(DATE, etag='"v.1"', last_modified=None, fetched_at=MODIFIED + 60)
    assert not if_range_holds("soon", etag='"v.1"', last_modified="soon", fetched_at=MODIFIED + 60)
    assert format_http_date(MODIFIED) == DATE
