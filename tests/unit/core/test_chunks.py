"""Where chunks land, what is missing, and how they are put in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.chunks import Extent, Layout, chunk_size_of, in_order, is_overfull, joined, missing, place, slot


@pytest.mark.parametrize(
    ("count", "total", "number", "size", "usual"),
    [
        (3, 25, 0, 10, 10),
        (3, 25, 1, 10, 10),
        (3, 25, 2, 5, 10),  # the last one tells it as well
        (3, 30, 2, 10, 10),
        (3, 20, 2, 0, 10),  # an empty last one
        (1, 7, 0, 7, 7),
        (1, 7, 0, 3, 7),
        (1, 0, 0, 0, 0),
        (4, 0, 2, 0, 0),
        (3, 25, 0, 9, 9),  # 9, 9 and 7
        (3, 25, 2, 4, None),  # what is left cannot be halved
        (3, 25, 2, 15, None),  # a last one that is larger than the others
        (3, 25, 0, 0, None),
        (3, 25, 0, 13, None),
    ],
)
def test_a_chunk_tells_the_size_of_the_others(
    count: int, total: int, number: int, size: int, usual: int | None
) -> None:
    """If it agrees with the total and the number of chunks."""
    assert chunk_size_of(Layout(count, total), number, size) == usual


def test_a_chunk_of_the_usual_size_lands_at_its_place() -> None:
    """Whichever is the first; the last one may be shorter."""
    first = place(Layout(3, 25), 1, 10, slot_taken=False)
    assert (first.offset, first.layout) == (10, Layout(3, 25, 10, 0))
    assert place(first.layout, 2, 5, slot_taken=False).offset == 20
    assert place(first.layout, 0, 10, slot_taken=False).offset == 0


def test_what_has_no_place_is_appended_behind_all_places() -> None:
    """Another size, or a place whose bytes count already."""
    layout = Layout(3, 25, 10, 0)
    odd = place(layout, 1, 4, slot_taken=False)
    assert (odd.offset, odd.layout.tail) == (25, 29)
    again = place(odd.layout, 0, 10, slot_taken=True)
    assert (again.offset, again.layout.tail) == (29, 39)


def test_much_more_than_was_declared_is_told() -> None:
    """Three times each chunk, and 64 MiB, is as much as anybody needs."""
    assert not is_overfull(Layout(1, 10), 64 << 20)
    assert is_overfull(Layout(1, 10), (64 << 20) + 31)


def test_what_is_missing_is_told_in_spans() -> None:
    """Half-open, ascending, as few as can be."""
    assert missing(5, []) == ((0, 5),)
    assert missing(5, [1, 2, 4]) == ((0, 1), (3, 4))
    assert missing(5, range(5)) == ()


sizes = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@given(sizes, st.data())
def test_no_two_chunks_share_a_byte(wanted: list[int], data: st.DataObject) -> None:
    """With any that counts: in whatever order and sizes they come, and however often each."""
    total = data.draw(st.sampled_from([sum(wanted), 20]))
    layout, extents = Layout(len(wanted), total), {}
    for claim, number in enumerate(data.draw(st.lists(st.integers(0, len(wanted) - 1), max_size=16))):
        where = slot(layout, number, wanted[number])
        found = place(layout, number, wanted[number], slot_taken=any(e.offset == where for e in extents.values()))
        layout = found.layout
        extent = Extent(number, found.offset, wanted[number], claim)
        for other in extents.values():  # what counts, its own bytes before as well
            assert (
                extent.offset + extent.size <= other.offset
                or other.offset + other.size <= extent.offset
                or (0 in (extent.size, other.size))
            )
        extents[number] = extent
    ordered = [extents[number] for number in sorted(extents)]
    assert sum(stop - start for start, stop in joined(ordered)) == sum(e.size for e in ordered)
    read = [offset for start, stop in joined(ordered) for offset in range(start, stop)]
    assert read == [offset for e in ordered for offset in range(e.offset, e.offset + e.size)]
    assert in_order(ordered) is (read == list(range(len(read))))
