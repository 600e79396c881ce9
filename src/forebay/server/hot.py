"""What is asked for again and again, kept ready: small contents, and what was found in the catalog.

Content is addressed by its digest, so what is kept of it never grows wrong. What the catalog said holds until
anybody commits anything, which a counter of SQLite's shows (`VersionReader.data_version`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

SMALL_BYTES = 64 << 10
"""A larger content is read from its file: opening that costs less than sending it."""

_BODIES_BYTES = 64 << 20
_FOUND_MOST = 4096


class SmallBodies:
    """The contents that were read last, by digest."""

    def __init__(self, budget_bytes: int = _BODIES_BYTES) -> None:
        self._left = budget_bytes
        self._bodies: OrderedDict[str, bytes] = OrderedDict()

    def get(self, sha256: str) -> bytes | None:
        """The content, if it is kept."""
        body = self._bodies.get(sha256)
        if body is not None:
            self._bodies.move_to_end(sha256)
        return body

    def keep(self, sha256: str, body: bytes) -> None:
        """Keep *body*; what was not asked for the longest goes."""
        if sha256 in self._bodies:
            return
        self._bodies[sha256] = body
        self._left -= len(body)
        while self._left < 0:
            _, gone = self._bodies.popitem(last=False)
            self._left += len(gone)


class OncePerTurn:
    """What *ask* answers, asked once for all who want to know within one turn of the event loop.

    Nobody gets an answer from before they came: who runs before `_forget` was queued before *ask* was called.
    """

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask
        self._known: int | None = None

    def __call__(self) -> int:
        """The answer. To be called in the event loop."""
        if self._known is None:
            asyncio.get_running_loop().call_soon(self._forget)
            self._known = self._ask()
        return self._known

    def _forget(self) -> None:
        self._known = None


class UntilCommit(Generic[K, V]):
    """What was worked out from the catalog, until anybody changes that; *most* of it at once. *moment*: the one of
    the last `get`."""

    def __init__(self, data_version: Callable[[], int], *, most: int = _FOUND_MOST) -> None:
        self._data_version, self._most = data_version, most
        self.moment = data_version()
        self._kept: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """What is known of *key*, and still true."""
        now = self._data_version()
        if now != self.moment:
            self.moment = now
            self._kept.clear()
        return self._kept.get(key)

    def keep(self, key: K, value: V, *, moment: int) -> None:
        """Keep *value*, worked out from what the catalog said after *moment*, unless that is over."""
        if moment != self.moment:
            return
        if len(self._kept) >= self._most:
            self._kept.clear()
        self._kept[key] = value
