"""Range against an oracle that looks at every byte (RFC 9110 section 14.1.2)."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from forebay.core.ranges import MAX_PARTS, Span, Unsatisfied, parse_range

# (first, last), (first, nothing), (nothing, suffix length); positions around the end, and past all limits.
POSITIONS = st.integers(0, 12) | st.sampled_from([10**30, 2**63 - 1, 2**63])
SPECS = st.tuples(POSITIONS, POSITIONS) | st.tuples(POSITIONS, st.none()) | st.tuples(st.none(), POSITIONS)
Spec = tuple[int | None, int | None]


def written(spec: Spec) -> str:
    return "-".join("" if position is None else str(position) for position in spec)


def bytes_of(spec: Spec, size: int) -> set[int]:
    match spec:
        case (None, length):
            return {position for position in range(size) if position >= size - length}
        case (first, None):
            return {position for position in range(size) if position >= first}
        case (first, last):
            return {position for position in range(size) if first <= position <= last}
    raise AssertionError(spec)


@given(st.lists(SPECS, min_size=1, max_size=8), st.integers(1, 12), st.sampled_from(["", " ", "\t", " ,"]))
def test_spans_are_the_bytes_that_were_asked_for(specs: list[Spec], size: int, padding: str) -> None:
    """Disjoint, ascending, not touching, and all together exactly the bytes of the ranges."""
    got = parse_range("bytes=" + ",".join(padding + written(spec) + padding for spec in specs), size)
    if any(first is not None and last is not None and last < first for first, last in specs):
        assert got is None
        return
    wanted = set().union(*(bytes_of(spec, size) for spec in specs))
    if not wanted:
        assert got == Unsatisfied(size)
        return
    assert isinstance(got, list)
    assert {position for span in got for position in range(*span)} == wanted
    assert all(span.start < span.stop for span in got)
    assert all(one.stop < other.start for one, other in pairwise(got))


@given(st.lists(st.integers(0, 250), min_size=1, max_size=90))
def test_spans_are_many_only_up_to_a_limit(positions: list[int]) -> None:
    """Past the limit the field is ignored, and never before it."""
    got = parse_range("bytes=" + ",".join(f"{position}-{position}" for position in positions), 1000)
    parts = len({position for position in positions if position - 1 not in positions})
    assert (got is None) is (parts > MAX_PARTS)
    assert got is None or len(got) == parts  # type: ignore[arg-type]


@given(st.integers(1, 2**63 - 1), st.data())
def test_spans_of_large_contents_are_exact(size: int, data: st.DataObject) -> None:
    """No position is rounded, however large."""
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    assert parse_range(f"bytes={start}-{stop - 1}", size) == [Span(start, stop)]
    assert parse_range(f"bytes=-{size - start}", size) == [Span(start, size)]


@given(st.text() | st.text("bytes=,- 0123456789"), st.integers(0, 2**63 - 1))
def test_any_text_is_taken(text: str, size: int) -> None:
    """No text makes the parser raise, and spans are always within the content."""
    for value in (text, "bytes=" + text):
        got = parse_range(value, size)
        if isinstance(got, list):
            assert got
            assert all(0 <= span.start < span.stop <= size for span in got)
