"""What of an answer was written and not sent: in memory, beyond a bound in a temporary file."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from forebay.messages.sinks import PIECE_BYTES, SPOOL_BYTES

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Spool:
    """Bytes from *base* on, which is how many went before them, to *stop*; offsets count from the answer's first
    byte."""

    def __init__(self) -> None:
        self.base = self.stop = self.position = 0
        # Closed by `close`, or when nobody has it any more.
        self._file = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115

    @property
    def size(self) -> int:
        """How many bytes are there."""
        return self.stop - self.base

    def write(self, data: ReadableBuffer) -> int:
        """Write at `position`; a hole before it is zeros."""
        self._file.seek(self.position - self.base)
        written = self._file.write(data)
        self.position += written
        self.stop = max(self.stop, self.position)
        return written

    def append(self, data: bytes) -> int:
        """Write at the end."""
        self.position = self.stop
        return self.write(data)

    def read(self, offset: int, size: int) -> bytes:
        """At most *size* bytes from *offset* on."""
        self._file.seek(offset - self.base)
        return self._file.read(max(min(size, self.stop - offset), 0))

    def pieces(self) -> Iterator[bytes]:
        """All of it; what is there meanwhile does not change."""
        for offset in range(self.base, self.stop, PIECE_BYTES):
            yield self.read(offset, PIECE_BYTES)

    def cut(self, stop: int) -> None:
        """End at *stop*; where that is behind the end, with zeros."""
        self._file.truncate(stop - self.base)
        self.stop = stop

    def forward(self) -> None:
        """Begin where this ends: what was there has been sent."""
        self.base = self.position = self.stop
        self._empty()

    def drop(self) -> None:
        """Forget what is there."""
        self.stop = self.position = self.base
        self._empty()

    def _empty(self) -> None:
        self._file.close()
        self._file = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115

    def close(self) -> None:
        """Give back its space."""
        self._file.close()


class SpoolFile(io.BufferedIOBase):
    """A binary file over a `Spool`. Closing it closes nothing else; *check* is asked before each change."""

    def __init__(self, spool: Spool, check: Callable[[], None]) -> None:
        self._spool, self._check = spool, check

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
        return self._spool.write(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on; only what was not sent can be."""
        self._check_open()
        spool = self._spool
        data = spool.read(spool.position, spool.size if size is None or size < 0 else size)
        spool.position += len(data)
        return data

    def read1(self, size: int = -1, /) -> bytes:
        """See `read`."""
        return self.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Stand somewhere else, counted from the answer's first byte. Raises `io.UnsupportedOperation` for what was
        sent."""
        self._check_open()
        spool = self._spool
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: spool.position, os.SEEK_END: spool.stop}
        if whence not in starts:
            raise ValueError(f"whence is {whence}, not 0, 1 or 2")
        spool.position = self._unsent(starts[whence] + offset)
        return spool.position

    def tell(self) -> int:
        """Where it stands, counted from the answer's first byte."""
        self._check_open()
        return self._spool.position

    def truncate(self, size: int | None = None, /) -> int:
        """End at *size*, or where it stands."""
        self._check_open()
        self._check()
        stop = self._unsent(self._spool.position if size is None else size)
        self._spool.cut(stop)
        return stop

    def _unsent(self, offset: int) -> int:
        if offset < 0:
            raise ValueError(f"offset {offset} is before the start")
        if offset < self._spool.base:
            raise io.UnsupportedOperation(f"what is before byte {self._spool.base} has been sent")
        return offset

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed file; io() gives another one")
