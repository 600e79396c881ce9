"""What of an answer was written and not sent, and a file over it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from forebay.messages.spool import PIECE_BYTES, Spool

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Unsent:
    """Bytes from *base* on, which is how many went before them; offsets count from the answer's first byte."""

    def __init__(self) -> None:
        self.base = self.position = 0
        self._spool = Spool()

    @property
    def size(self) -> int:
        """How many bytes are there."""
        return self._spool.size

    @property
    def stop(self) -> int:
        """Where they end."""
        return self.base + self._spool.size

    @property
    def on_disk(self) -> bool:
        """Whether reading them may wait for a disk."""
        return self._spool.on_disk

    def write(self, data: ReadableBuffer) -> int:
        """Write at `position`; a hole before it is zeros."""
        written = self._spool.write(self.position - self.base, data)
        self.position += written
        return written

    def append(self, data: ReadableBuffer) -> int:
        """Write at the end."""
        self.position = self.stop
        return self.write(data)

    def read(self, offset: int, size: int) -> bytes:
        """At most *size* bytes from *offset* on."""
        return self._spool.read(offset - self.base, size)

    def pieces(self) -> Iterator[bytes]:
        """All of it."""
        for offset in range(self.base, self.stop, PIECE_BYTES):
            yield self.read(offset, PIECE_BYTES)

    def cut(self, stop: int) -> None:
        """End at *stop*; where that is behind the end, with zeros."""
        self._spool.truncate(stop - self.base)

    def forward(self) -> None:
        """Begin where this ends: what was there has been sent."""
        self.base = self.position = self.stop
        self._spool.clear()

    def drop(self) -> None:
        """Forget what is there."""
        self.position = self.base
        self._spool.clear()

    def close(self) -> None:
        """Give back its space."""
        self._spool.close()


class UnsentFile(io.BufferedIOBase):
    """A binary file over what is `Unsent`. Closing it closes nothing else; *check* is asked before each change."""

    def __init__(self, unsent: Unsent, check: Callable[[], None]) -> None:
        self._unsent, self._check = unsent, check

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write where the file stands."""
        self._check_open()
        self._check()
        if isinstance(data, str):
            raise TypeError("a binary file takes bytes, not str; wrap it in an io.TextIOWrapper")
        return self._unsent.write(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on; only what was not sent can be."""
        self._check_open()
        unsent = self._unsent
        data = unsent.read(unsent.position, unsent.size if size is None or size < 0 else size)
        unsent.position += len(data)
        return data

    def read1(self, size: int = -1, /) -> bytes:
        """See `read`."""
        return self.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Stand somewhere else, counted from the answer's first byte. Raises `io.UnsupportedOperation` for what was
        sent."""
        self._check_open()
        unsent = self._unsent
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: unsent.position, os.SEEK_END: unsent.stop}
        if whence not in starts:
            raise ValueError(f"whence is {whence}, not 0, 1 or 2")
        unsent.position = self._at(starts[whence] + offset)
        return unsent.position

    def tell(self) -> int:
        """Where it stands, counted from the answer's first byte."""
        self._check_open()
        return self._unsent.position

    def truncate(self, size: int | None = None, /) -> int:
        """End at *size*, or where it stands."""
        self._check_open()
        self._check()
        stop = self._at(self._unsent.position if size is None else size)
        self._unsent.cut(stop)
        return stop

    def _at(self, offset: int) -> int:
        if offset < 0:
            raise ValueError(f"offset {offset} is before the start")
        if offset < self._unsent.base:
            raise io.UnsupportedOperation(f"what is before byte {self._unsent.base} has been sent")
        return offset

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed file; io() gives another one")
