"""How files are cut for sending."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.sending import parts_of, tail_start

MIB = 1 << 20


@given(st.integers(0, 1 << 50), st.integers(1, 16))
def test_parts_cover_the_file(size: int, parallel: int) -> None:
    """In order, without gaps, nearly equal, and no more of them than asked for."""
    parts = parts_of(size, parallel=parallel)
    assert 1 <= len(parts) <= parallel
    assert (parts[0][0], parts[-1][1]) == (0, size)
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    sizes = [stop - start for start, stop in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("size", "parallel", "count"), [(0, 4, 1), (31 * MIB, 4, 1), (32 * MIB, 4, 2), (1 << 30, 4, 4), (1 << 30, 1, 1)]
)
def test_small_files_have_fewer_parts(size: int, parallel: int, count: int) -> None:
    """A part has 16 MiB or more."""
    assert len(parts_of(size, parallel=parallel)) == count


@given(st.integers(0, 1 << 50), st.data())
def test_something_is_left_for_the_last_message(size: int, data: st.DataObject) -> None:
    """It begins no sooner than what has arrived, and has 64 KiB at most unless there is less in front of it."""
    offset = data.draw(st.integers(0, size))
    assert offset <= tail_start(size, offset=offset) <= size
    assert size - tail_start(size, offset=offset) == min(size - offset, 64 << 10)
