"""How a file is cut for sending: into parts that go at once, and off its end a piece that goes last."""

from __future__ import annotations

from itertools import pairwise

# Below that, a connection more costs more than it brings.
_LEAST_PART_BYTES = 16 << 20
# What goes last, with the digest of the whole in front of it: everything before has been read by then.
_TAIL_BYTES = 64 << 10


def parts_of(size: int, *, parallel: int) -> list[tuple[int, int]]:
    """Adjacent spans that cover *size* bytes: *parallel* of them, or as many as are worth it; at least one."""
    count = max(1, min(parallel, size // _LEAST_PART_BYTES))
    cuts = [size * number // count for number in range(count + 1)]
    return list(pairwise(cuts))


def tail_start(size: int, *, offset: int) -> int:
    """Where the last message of a file begins, of which *offset* bytes have arrived."""
    return max(offset, size - _TAIL_BYTES)
