"""Digests that run along while bytes come in order, kept from one message of an upload to the next."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from forebay.core import digests

_READ_BYTES = 1 << 20
_MANY = 1024  # uploads that are hashed as they come: some 0.5 KiB each


@dataclass(slots=True)
class Running:
    """The digests of the first *length* bytes. *claims*: of chunks, whose bytes those were."""

    hashers: dict[str, digests.Hasher]
    length: int = 0
    claims: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, names: Iterable[str]) -> Running:
        """Of nothing yet; SHA-256 always, and *names*."""
        return cls({name: digests.new(name) for name in {"sha256", *names}})

    def update(self, data: memoryview) -> None:
        """Go on with *data*."""
        for hasher in self.hashers.values():
            hasher.update(data)
        self.length += len(data)

    def copy(self) -> Running:
        """The same, which goes on by itself."""
        return Running({name: hasher.copy() for name, hasher in self.hashers.items()}, self.length, [*self.claims])

    def read_on(self, descriptor: int, spans: Iterable[tuple[int, int]]) -> None:
        """Go on with *spans* of a file."""
        buffer = bytearray(_READ_BYTES)
        view = memoryview(buffer)
        for start, stop in spans:
            while start < stop:
                got = os.preadv(descriptor, [view[: min(_READ_BYTES, stop - start)]], start)
                if got == 0:
                    raise OSError(f"shorter than it should be: {start} of {stop} bytes")
                self.update(view[:got])
                start += got

    def hex(self, name: str) -> str:
        """The digest of that name, in hex."""
        return digests.hex_digest(self.hashers[name])

    def has(self, names: Iterable[str]) -> bool:
        """Whether every one of *names* runs."""
        return all(name in self.hashers for name in names)


class Kept:
    """The running digests of uploads that nobody writes just now, the least recently used of many forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: OrderedDict[str, Running] = OrderedDict()

    def take(self, uid: str) -> Running | None:
        """What is kept of an upload, which is then the caller's."""
        with self._lock:
            return self._running.pop(uid, None)

    def keep(self, uid: str, running: Running) -> None:
        """For the next one who asks."""
        with self._lock:
            self._running[uid] = running
            if len(self._running) > _MANY:
                self._running.popitem(last=False)
