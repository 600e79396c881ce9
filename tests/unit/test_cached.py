"""Reads that wait for no disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay import cached
from forebay.cached import read_cached

BODY = bytes(range(256)) * 4096


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    """An open file with `BODY`, which was written a moment ago."""
    place = tmp_path / "f"
    place.write_bytes(BODY)
    opened = os.open(place, os.O_RDONLY)
    yield opened
    os.close(opened)


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="needs Linux: nobody else tells what is in memory")
@pytest.mark.parametrize(
    ("offset", "size"), [(0, len(BODY)), (0, 1), (5, 100), (len(BODY) - 5, 100), (len(BODY), 9)]
)
def test_what_is_in_memory_is_read(descriptor: int, offset: int, size: int) -> None:
    """All of it that is there; at the end nothing. Or a thread must be asked: some file systems cannot tell."""
    assert read_cached(descriptor, offset, size) in (BODY[offset : offset + size], None)


def test_what_cannot_be_had_at_once_is_left_to_a_thread(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is every error: whoever reads then meets it."""
    assert read_cached(-1, 0, 5) is None
    monkeypatch.setattr(cached, "_NOWAIT", None)
    assert read_cached(descriptor, 0, 5) is None


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs Linux: drops a file from memory")
def test_what_is_on_the_disk_only_is_no_end(descriptor: int) -> None:
    """What was dropped from memory is none of the bytes, or some of them; never an empty read."""
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    got = read_cached(descriptor, 0, len(BODY))
    assert got is None or (got and BODY.startswith(got))
