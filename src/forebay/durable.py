"""Making bytes and names survive a crash of the machine."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forebay.errors import DiskFull, StorageFailed

# macOS: fsync() leaves the bytes in the drive's cache; F_FULLFSYNC does not (fsync(2) there).
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


def sync_file(descriptor: int) -> None:
    """Return when the bytes of *descriptor* are on the disk."""
    if _FULL_SYNC is not None:
        fcntl.fcntl(descriptor, _FULL_SYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Return when the names in *folder* are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write the whole of *data* at *offset*: a signal or a nearly full disk may make one write short."""
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done


@contextmanager
def storage_errors(what: str, folder: Path) -> Iterator[None]:
    """Errors of the operating system as `StorageError`s."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(str(folder)) from error
        raise StorageFailed(what, reason=error.strerror or str(error)) from error
