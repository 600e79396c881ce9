"""Reads that wait for no disk: in an event loop, everybody would wait with them."""

from __future__ import annotations

import os

# Linux reads what is in memory at once, and says so when it is not.
_NOWAIT: int | None = getattr(os, "RWF_NOWAIT", None)


def read_cached(descriptor: int, offset: int, size: int) -> bytes | None:
    """At most *size* bytes of an open file from *offset* on, as far as they are in memory; none at its end. None:
    only a read in a thread of its own can tell. Where the system cannot tell either, always that."""
    if _NOWAIT is None:
        return None
    buffer = bytearray(size)
    try:
        got = os.preadv(descriptor, [buffer], offset, _NOWAIT)
    except OSError:  # not in memory; or a file system that cannot say; or an error, which the next read meets
        return None
    return bytes(buffer) if got == size else bytes(memoryview(buffer)[:got])
