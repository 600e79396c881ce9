"""Digests by any guaranteed hashlib name, in hex; and the one checksum beside them that uploads come with."""

from __future__ import annotations

import hashlib
import zlib
from typing import Protocol, Self

HASH_NAMES = frozenset(hashlib.algorithms_guaranteed)
CHECKSUM_NAMES = HASH_NAMES | {"crc32"}
"""What may be asked for where a checksum is for a message, and no identity."""

# The extendable ones have no length of their own: twice their strength, as NIST SP 800-185 recommends.
_EXTENDABLE_BYTES = {"shake_128": 32, "shake_256": 64}


class Hasher(Protocol):
    """What takes bytes and knows their digest."""

    @property
    def name(self) -> str:
        """Which digest it is."""
        ...

    def update(self, data: memoryview, /) -> None:
        """Go on with *data*."""
        ...

    def hexdigest(self) -> str:
        """The digest so far."""
        ...

    def copy(self) -> Self:
        """The same, which goes on by itself."""
        ...


class Crc32:
    """CRC-32 as gzip has it (RFC 1952), four bytes with the highest first."""

    name = "crc32"

    def __init__(self, value: int = 0) -> None:
        self._value = value

    def update(self, data: memoryview, /) -> None:
        """See `Hasher.update`."""
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        """See `Hasher.hexdigest`."""
        return f"{self._value:08x}"

    def copy(self) -> Crc32:
        """See `Hasher.copy`."""
        return Crc32(self._value)


def new(name: str) -> hashlib._Hash:
    """A hasher; not for security where its algorithm is weak (md5, sha1): a checksum like any other."""
    return hashlib.new(name, usedforsecurity=False)


def new_checksum(name: str) -> Hasher:
    """A hasher of any of `CHECKSUM_NAMES`."""
    return Crc32() if name == "crc32" else new(name)


def hex_digest(hasher: Hasher) -> str:
    """What *hasher* has seen."""
    length = _EXTENDABLE_BYTES.get(hasher.name)
    return hasher.hexdigest() if length is None else hasher.hexdigest(length)  # type: ignore[call-arg]


def hex_length(name: str) -> int:
    """How many hex digits a digest of that name has."""
    return len(hex_digest(new_checksum(name)))
