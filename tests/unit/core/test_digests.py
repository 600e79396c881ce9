"""Digests by name."""

import hashlib
import zlib

import pytest

from forebay.core.digests import HASH_NAMES, Crc32, hex_digest, hex_length, new


@pytest.mark.parametrize("name", sorted(HASH_NAMES))
def test_every_guaranteed_name_has_a_digest(name: str) -> None:
    """As many hex digits as it says; that of hashlib where hashlib has a length of its own."""
    hasher = new(name)
    hasher.update(b"content")
    digest = hex_digest(hasher)
    assert len(digest) == hex_length(name)
    if not name.startswith("shake_"):
        assert digest == hashlib.new(name, b"content").hexdigest()


def test_extendable_digests_are_twice_their_strength() -> None:
    """128 and 256 bits of strength: 32 and 64 bytes."""
    assert (hex_length("shake_128"), hex_length("shake_256")) == (64, 128)


def test_a_copy_goes_on_by_itself() -> None:
    """What either sees later is not the other's."""
    hasher = Crc32()
    hasher.update(memoryview(b"con"))
    copy = hasher.copy()
    hasher.update(memoryview(b"tent"))
    copy.update(memoryview(b"fuse"))
    assert hasher.hexdigest() == f"{zlib.crc32(b'content'):08x}"
    assert copy.hexdigest() == f"{zlib.crc32(b'confuse'):08x}"
