"""Preconditions in the order of RFC 9110 section 13.2.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.conditions import Outcome, evaluate
from forebay.core.fields import Fields

PROCEED, NOT_MODIFIED, FAILED = Outcome.PROCEED, Outcome.NOT_MODIFIED, Outcome.FAILED

NOW = 1_800_000_000.0
ETAG = '"v.1"'
MODIFIED = 784111777.0
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
THEN = "Sun, 06 Nov 1994 08:49:37 GMT"
AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"

IF_MATCH = [
    # section 13.1.1: `*` is any current representation
    (["*"], PROCEED),
    ([" * "], PROCEED),
    # a list, over one line or several; strong comparison
    ([ETAG], PROCEED),
    (['"x", "v.1"'], PROCEED),
    (['"x","v.1" , "y"'], PROCEED),
    (['"x"', ETAG], PROCEED),
    ([', ,"v.1",,'], PROCEED),
    (['"a,b", "v.1"'], PROCEED),
    (['"x"'], FAILED),
    (['"V.1"'], FAILED),
    (['W/"v.1"'], FAILED),
    (['W/"v.1", "x"'], FAILED),
    # a list with `*` in it is malformed
    (['*, "x"'], FAILED),
    (["*", "*"], FAILED),
    (['*, "v.1"'], PROCEED),
    # malformed tags match nothing, and spoil no others
    ([""], FAILED),
    (["v.1"], FAILED),
    (['"v.1'], FAILED),
    (['"v.1"x'], FAILED),
    (['w/"v.1"'], FAILED),
    (['"x" "v.1"'], FAILED),
    (['x, "v.1"'], PROCEED),
    (['"v.1", "x'], PROCEED),
    (['"a b", "v.1"'], PROCEED),
    (['"a,"v.1""'], FAILED),
]

IF_NONE_MATCH = [
    # section 13.1.2: weak comparison
    (["*"], NOT_MODIFIED),
    ([ETAG], NOT_MODIFIED),
    (['W/"v.1"'], NOT_MODIFIED),
    (['"x", W/"v.1"'], NOT_MODIFIED),
    (['"x"', ETAG], NOT_MODIFIED),
    (['"a,b",W/"v.1"'], NOT_MODIFIED),
    (['"x"'], PROCEED),
    (["v.1"], PROCEED),
    ([""], PROCEED),
    (["*, *"], PROCEED),
    (["*", '"x"'], PROCEED),
]

DATES = [
    # the field, its value, what comes of it
    ("If-Modified-Since", [BEFORE], PROCEED),
    ("If-Modified-Since", [THEN], NOT_MODIFIED),
    ("If-Modified-Since", [AFTER], NOT_MODIFIED),
    ("If-Modified-Since", ["Sunday, 06-Nov-94 08:49:37 GMT"], NOT_MODIFIED),
    ("If-Modified-Since", ["Sun Nov  6 08:49:36 1994"], PROCEED),
    ("If-Modified-Since", ["Fri, 31 Dec 9999 23:59:59 GMT"], NOT_MODIFIED),
    ("If-Modified-Since", ["yesterday"], PROCEED),
    ("If-Modified-Since", ["784111777"], PROCEED),
    ("If-Modified-Since", [""], PROCEED),
    ("If-Modified-Since", [AFTER, AFTER], PROCEED),
    ("If-Modified-Since", [f"{AFTER}, {AFTER}"], PROCEED),
    ("If-Unmodified-Since", [BEFORE], FAILED),
    ("If-Unmodified-Since", [THEN], PROCEED),
    ("If-Unmodified-Since", [AFTER], PROCEED),
    ("If-Unmodified-Since", ["Sunday, 06-Nov-94 08:49:36 GMT"], FAILED),
    ("If-Unmodified-Since", ["yesterday"], PROCEED),
    ("If-Unmodified-Since", [BEFORE, BEFORE], PROCEED),
]

TOGETHER = [
    # steps 1 and 2: If-Match is heard instead of If-Unmodified-Since
    ([("If-Match", ETAG), ("If-Unmodified-Since", BEFORE)], PROCEED),
    ([("If-Match", '"x"'), ("If-Unmodified-Since", AFTER)], FAILED),
    # steps 1 and 3: a failed If-Match decides, a fulfilled one goes on
    ([("If-None-Match", ETAG), ("If-Match", '"x"')], FAILED),
    ([("If-None-Match", ETAG), ("If-Match", ETAG)], NOT_MODIFIED),
    ([("If-None-Match", '"x"'), ("If-Match", ETAG)], PROCEED),
    # steps 2 and 3, 2 and 4
    ([("If-None-Match", ETAG), ("If-Unmodified-Since", BEFORE)], FAILED),
    ([("If-None-Match", ETAG), ("If-Unmodified-Since", AFTER)], NOT_MODIFIED),
    ([("If-Modified-Since", AFTER), ("If-Unmodified-Since", AFTER)], NOT_MODIFIED),
    ([("If-Modified-Since", AFTER), ("If-Unmodified-Since", BEFORE)], FAILED),
    # steps 3 and 4: If-None-Match is heard instead of If-Modified-Since
    ([("If-None-Match", '"x"'), ("If-Modified-Since", AFTER)], PROCEED),
    ([("If-None-Match", ETAG), ("If-Modified-Since", BEFORE)], NOT_MODIFIED),
    ([("If-None-Match", ""), ("If-Modified-Since", AFTER)], PROCEED),
    # step 1 and 4
    ([("If-Match", ETAG), ("If-Modified-Since", AFTER)], NOT_MODIFIED),
    # none
    ([], PROCEED),
    ([("Range", "bytes=0-"), ("If-Range", '"x"')], PROCEED),
]


def outcome(
    *pairs: tuple[str, str],
    method: str = "GET",
    etag: str | None = ETAG,
    last_modified: float | None = MODIFIED,
) -> Outcome:
    return evaluate(method, Fields(pairs), etag=etag, last_modified=last_modified, now=NOW)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
@pytest.mark.parametrize(("lines", "expected"), IF_MATCH)
def test_if_match(lines: list[str], expected: Outcome, method: str) -> None:
    """Section 13.1.1: the method is performed on a representation that the client names, by strong comparison."""
    assert outcome(*(("If-Match", line) for line in lines), method=method) is expected


@pytest.mark.parametrize(("lines", "expected"), IF_NONE_MATCH)
def test_if_none_match(lines: list[str], expected: Outcome) -> None:
    """Section 13.1.2: what the client has is not sent again (304), and other methods are not performed (412)."""
    pairs = [("if-none-match", line) for line in lines]
    assert outcome(*pairs) is expected
    assert outcome(*pairs, method="HEAD") is expected
    assert outcome(*pairs, method="PUT") is (PROCEED if expected is PROCEED else FAILED)


@pytest.mark.parametrize(("name", "lines", "expected"), DATES)
def test_conditions_on_dates(name: str, lines: list[str], expected: Outcome) -> None:
    """Sections 13.1.3 and 13.1.4: malformed dates and lists of dates are ignored."""
    pairs = [(name, line) for line in lines]
    assert outcome(*pairs) is expected
    assert outcome(*pairs, method="HEAD") is expected
    # Section 13.1.3: If-Modified-Since is for GET and HEAD only.
    assert outcome(*pairs, method="DELETE") is (PROCEED if name == "If-Modified-Since" else expected)


@pytest.mark.parametrize(("pairs", "expected"), TOGETHER)
def test_several_conditions_have_an_order(pairs: list[tuple[str, str]], expected: Outcome) -> None:
    """Section 13.2.2: the order of evaluation is fixed, whatever the order of the fields."""
    assert outcome(*pairs) is expected
    assert outcome(*reversed(pairs)) is expected


def test_without_a_modification_date_dates_are_ignored() -> None:
    """Sections 13.1.3 and 13.1.4: no date is neither earlier nor later."""
    assert outcome(("If-Modified-Since", AFTER), last_modified=None) is PROCEED
    assert outcome(("If-Unmodified-Since", BEFORE), last_modified=None) is PROCEED


def test_without_an_etag_no_tag_matches() -> None:
    """Only `*` names a representation that has no entity-tag."""
    assert outcome(("If-Match", ETAG), etag=None) is FAILED
    assert outcome(("If-None-Match", ETAG), etag=None) is PROCEED
    assert outcome(("If-Match", "*"), etag=None) is PROCEED
    assert outcome(("If-None-Match", "*"), etag=None) is NOT_MODIFIED


def test_a_two_digit_year_is_dated_by_now() -> None:
    """Section 5.6.7: ``76`` is 2076 in 2027, and 1976 in 2010."""
    pairs = Fields([("If-Modified-Since", "Sunday, 06-Nov-76 08:49:37 GMT")])
    assert evaluate("GET", pairs, etag=ETAG, last_modified=MODIFIED, now=NOW) is NOT_MODIFIED
    assert evaluate("GET", pairs, etag=ETAG, last_modified=MODIFIED, now=1_262_304_000.0) is PROCEED


NAMES = st.sampled_from(["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"])


@given(st.sampled_from(["GET", "HEAD", "POST", "x"]), st.lists(st.tuples(NAMES, st.text() | st.text('"W/,* a'))))
def test_any_fields_have_an_outcome(method: str, pairs: list[tuple[str, str]]) -> None:
    """No value makes it raise, and 304 is for GET and HEAD only."""
    got = outcome(*pairs, method=method)
    assert got is not NOT_MODIFIED or method in ("GET", "HEAD")
