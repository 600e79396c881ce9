"""Which chunk may land where in the one file of its upload; when the upload is whole, and in which order its parts
are.

The file has two regions: the *slots*, ``[0, total)``, where a chunk that has the usual size lies at its final
place, and behind them what was appended: chunks of other sizes, and those that came again while their slot was
taken. Bytes that were acknowledged are never overwritten, so a chunk that comes again never lands on the one
before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Span = tuple[int, int]

_SLACK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """What is known of an upload of chunks. *chunk_size*: that of all but the last, once a chunk has shown one that
    agrees with *total* and *count*. *tail*: where the next chunk would be appended; 0 before the first one."""

    count: int
    total: int
    chunk_size: int | None = None
    tail: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk lands, and the layout from then on."""

    offset: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the bytes of chunk *number* are. *claim*: another one is of other bytes."""

    number: int
    offset: int
    size: int
    claim: int = 0


def chunk_size_of(layout: Layout, number: int, size: int) -> int | None:
    """The size of all chunks but the last, if chunk *number* has *size* and they agree with the total; else
    None."""
    last = layout.count - 1
    if number < last:
        usual = size
    elif last == 0:
        usual = layout.total
    else:
        usual, rest = divmod(layout.total - size, last)
        if rest or size > usual:
            return None
    if usual * last <= layout.total <= usual * layout.count and (usual or layout.total == 0):
        return usual
    return None


def slot(layout: Layout, number: int, size: int) -> int | None:
    """Where chunk *number* lies when all are in order; None when its *size* is not that of its slot."""
    if layout.chunk_size is None:
        return None
    start = number * layout.chunk_size
    stop = min(start + layout.chunk_size, layout.total)
    return start if size == stop - start else None


def place(layout: Layout, number: int, size: int, *, slot_taken: bool) -> Place:
    """Where chunk *number* lands. *slot_taken*: its slot has bytes that count, or that somebody is writing."""
    if layout.chunk_size is None:
        layout = Layout(layout.count, layout.total, chunk_size_of(layout, number, size), layout.tail)
    start = None if slot_taken else slot(layout, number, size)
    if start is not None:
        return Place(start, layout)
    offset = max(layout.tail, layout.total)
    return Place(offset, Layout(layout.count, layout.total, layout.chunk_size, offset + size))


def is_overfull(layout: Layout, taken: int) -> bool:
    """Whether *taken* bytes are more than an honest sender needs: each chunk three times, and some."""
    return taken > 3 * layout.total + _SLACK_BYTES


def missing(count: int, numbers: Iterable[int]) -> tuple[Span, ...]:
    """Spans of chunk numbers that are not among *numbers*, which ascend."""
    return tuple(_gaps(count, numbers))


def _gaps(count: int, numbers: Iterable[int]) -> Iterator[Span]:
    expected = 0
    for number in numbers:
        if number > expected:
            yield expected, number
        expected = number + 1
    if expected < count:
        yield expected, count


def in_order(extents: Sequence[Extent]) -> bool:
    """Whether *extents*, by number, lie one behind the other from the beginning of the file."""
    offset = 0
    for extent in extents:
        if extent.size and extent.offset != offset:
            return False
        offset += extent.size
    return True


def joined(extents: Iterable[Extent]) -> Iterator[Span]:
    """The spans of the file to read, in order, with neighbours made one."""
    start = stop = 0
    for extent in extents:
        if extent.offset != stop or stop == start:
            if stop > start:
                yield start, stop
            start = extent.offset
            stop = start
        stop += extent.size
    if stop > start:
        yield start, stop
