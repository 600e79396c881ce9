"""Digests by any guaranteed hashlib name, in hex."""

from __future__ import annotations

import hashlib

HASH_NAMES = frozenset(hashlib.algorithms_guaranteed)
# The extendable ones have no length of their own: twice their strength, as NIST SP 800-185 recommends.
_EXTENDABLE_BYTES = {"shake_128": 32, "shake_256": 64}


def new(name: str) -> hashlib._Hash:
    """A hasher; not for security where its algorithm is weak (md5, sha1): a checksum like any other."""
    return hashlib.new(name, usedforsecurity=False)


def hex_digest(hasher: hashlib._Hash) -> str:
    """What *hasher* has seen."""
    length = _EXTENDABLE_BYTES.get(hasher.name)
    return hasher.hexdigest() if length is None else hasher.hexdigest(length)  # type: ignore[call-arg]


def hex_length(name: str) -> int:
    """How many hex digits a digest of that name has."""
    return len(hex_digest(new(name)))
