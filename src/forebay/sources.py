"""What `put` is given: a file, which must stay as it is while it is read; or a stream, which is read once."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from forebay.core.urls import upload_url
from forebay.errors import FileChanged, InvalidValue, StateError, StorageFailed
from forebay.models import check_tag

_PIECE_BYTES = 256 << 10
_HASH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """By what a file is known again: another content has another one, as far as file systems can tell."""

    path: str
    size: int
    modified_ns: int
    device: int
    inode: int


class FileSource:
    """A file to be sent, open; close it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.shown = os.fspath(path)
        try:
            self._path = os.path.realpath(path)
            # Not blocking: opening a pipe would wait for its writer.
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise self._unusable(_reason(error)) from error
        self._lock = threading.Lock()
        self.identity = self._identity()

    def _identity(self) -> Identity:
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise self._unusable("it is a directory" if stat.S_ISDIR(found.st_mode) else "it is no regular file")
        return Identity(self._path, found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)

    def _unusable(self, reason: str) -> InvalidValue:
        return InvalidValue("file", expected=f"a file that can be read ({reason})", got=self.shown)

    @property
    def name(self) -> str:
        """The name of the file, without its folder."""
        return os.path.basename(self.shown) or os.path.basename(self._path)  # noqa: PTH119 - as it was given

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.identity.size

    def check(self) -> None:
        """Raise `FileChanged` unless it is as it was when it was opened."""
        with self.opened() as descriptor:
            found = os.fstat(descriptor)
        if (found.st_size, found.st_mtime_ns) != (self.size, self.identity.modified_ns):
            raise FileChanged(self.shown)

    def pieces(self, start: int, stop: int, *, size_bytes: int = _PIECE_BYTES) -> Iterator[bytes]:
        """The bytes of ``[start, stop)``. Raises `FileChanged` when they are not all there."""
        with self.opened() as descriptor:
            while start < stop:
                piece = self._read(descriptor, min(stop - start, size_bytes), start)
                start += len(piece)
                yield piece

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor to read it with, of its own: whoever gives the file up closes it while a thread may still
        read."""
        with self._lock:
            if self._descriptor < 0:
                raise StateError(f"{self.shown} is closed")
            descriptor = os.dup(self._descriptor)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int, size: int, start: int) -> bytes:
        try:
            piece = os.pread(descriptor, size, start)
        except OSError as error:
            raise StorageFailed(f"reading {self.shown}", reason=_reason(error)) from error
        if not piece:
            raise FileChanged(self.shown)
        return piece

    def close(self) -> None:
        """Read it no more."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RunningDigest:
    """The SHA-256 of a file from its start on, fed with pieces in any order: what it has seen already, and what is
    not next, is left out."""

    def __init__(self, file: FileSource) -> None:
        self._file, self._hasher = file, hashlib.sha256()
        self.length = 0

    def feed(self, piece: bytes, *, at: int) -> None:
        """Take in *piece* as far as it goes on behind what was seen."""
        if at <= self.length < at + len(piece):
            self._hasher.update(memoryview(piece)[self.length - at :])
            self.length = at + len(piece)

    def read_on(self, stop: int) -> None:
        """Take in what the file has up to *stop*."""
        for piece in self._file.pieces(self.length, stop, size_bytes=_HASH_BYTES):
            self.feed(piece, at=self.length)

    def hex(self) -> str:
        """The digest of what was seen, in hex."""
        return self._hasher.hexdigest()


Source = str | Path | BinaryIO


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is put, checked: a file or a stream, the *name* that it gets and the *tag* of its version."""

    source: FileSource | BinaryIO
    name: str
    tag: str | None

    @property
    def shown(self) -> str:
        """What progress is told of."""
        return self.source.shown if isinstance(self.source, FileSource) else self.name

    @property
    def file_name(self) -> str:
        """What the content is called."""
        name = (
            self.source.name if isinstance(self.source, FileSource) else self.name.rpartition("/")[2] or self.name
        )
        return name.encode(errors="surrogateescape").decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self.source, FileSource):
            self.source.close()


def parcel(file: Source, *, name: str | None, tag: str | None) -> Parcel:
    """*file* as what is put; without *name* it gets the file's. Raises `InvalidValue`."""
    if tag is not None:
        check_tag(tag)
    if name is not None:
        upload_url(name)
    if not isinstance(file, str | os.PathLike):
        if name is None:
            raise InvalidValue("name", expected="a name for what comes from a stream", got=None)
        return Parcel(file, name, tag)
    source = FileSource(file)
    try:
        if name is None:
            name = source.name
            upload_url(name)
    except BaseException:
        source.close()
        raise
    return Parcel(source, name, tag)


def read_block(stream: BinaryIO, size: int) -> bytes:
    """*size* bytes of *stream*, fewer only at its end."""
    block = bytearray()
    while len(block) < size and (piece := stream.read(size - len(block))):
        block += piece
    return bytes(block)


def _reason(error: Exception) -> str:
    return ((error.strerror if isinstance(error, OSError) else None) or str(error)).lower()
