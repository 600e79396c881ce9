"""Bytes of a message that nobody has taken yet: in memory, and beyond a bound in a temporary file."""

from __future__ import annotations

import contextlib
import errno
import io
import tempfile
import weakref
from typing import TYPE_CHECKING, BinaryIO

from forebay.errors import DiskFull, StorageFailed

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

SPOOL_BYTES = 1 << 20
"""What is kept of one body in memory; the rest is on the disk."""
PIECE_BYTES = 256 << 10
"""The most that is read of it at a time."""


class Spool:
    """Bytes by their offset. Raises `DiskFull` and `StorageFailed`. Its space is given back by `close`, or when
    nobody has it any more."""

    def __init__(self) -> None:
        self.size = 0
        self._file: BinaryIO = io.BytesIO()
        self._end: weakref.finalize[[], Spool] | None = None

    @property
    def on_disk(self) -> bool:
        """Whether reading and writing may wait for a disk."""
        return self._end is not None

    def write(self, offset: int, data: ReadableBuffer) -> int:
        """Write at *offset*, and how many bytes that was; a hole before it is zeros."""
        length = memoryview(data).nbytes
        try:
            if offset + length > SPOOL_BYTES and not self.on_disk:
                self._spill()
            self._file.seek(offset)
            self._file.write(data)
        except OSError as error:
            raise _failed(error) from error
        if length:
            self.size = max(self.size, offset + length)
        return length

    def append(self, data: ReadableBuffer) -> int:
        """Write at the end."""
        return self.write(self.size, data)

    def read(self, offset: int, size: int) -> bytes:
        """At most *size* bytes from *offset* on."""
        try:
            self._file.seek(offset)  # writes what is still to be written
            return self._file.read(max(min(size, self.size - offset), 0))
        except OSError as error:
            raise _failed(error) from error

    def truncate(self, size: int) -> None:
        """End at *size*; where that is behind the end, with zeros."""
        if size > self.size:
            if size > 0:
                self.write(size - 1, b"\0")
            return
        try:
            self._file.truncate(size)
        except OSError as error:
            raise _failed(error) from error
        self.size = size

    def clear(self) -> None:
        """Forget everything."""
        if self.on_disk:
            self.close()
            self._file = io.BytesIO()
        self.truncate(0)

    def close(self) -> None:
        """Give back its space."""
        with contextlib.suppress(OSError):  # what could not be written is not wanted any more
            self._file.close()
        if self._end is not None:
            self._end.detach()
            self._end = None

    def _spill(self) -> None:
        file = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._file.seek(0)
            file.write(self._file.read())
        except BaseException:
            file.close()
            raise
        self._file = file
        self._end = weakref.finalize(self, file.close)


def _failed(error: OSError) -> DiskFull | StorageFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(tempfile.gettempdir())
    return StorageFailed("a temporary file", reason=error.strerror or str(error))
