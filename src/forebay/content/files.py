"""Content-addressed local files: ``content/<sha256>``, synced before they are named (DESIGN.md section 2)."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from forebay.core import digests
from forebay.durable import storage_errors, sync_folder
from forebay.errors import ContentRotten, StorageError, StorageFailed

_DIGEST_LENGTH = 64
_READ_BYTES = 1 << 20
# Of other algorithms, that are remembered: 0.2 KiB each.
_DIGESTS = 4096


class FileContentStore:
    """The content store in a folder; see `forebay.content.store` for what each method promises.

    The folder is flat: commits that are grouped share one sync of it, and the file systems that we run on find
    a name among millions as fast as among few.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_path = folder / "sweep.lock"
        self._digests: dict[tuple[str, str], str] = {}

    def path(self, sha256: str) -> Path:
        """Where the content is; read only."""
        return self.folder / sha256

    def open(self, sha256: str, *, size_bytes: int) -> BinaryIO:
        """The content as a seekable binary file; `ContentRotten` when it is gone or has another size."""
        file = self._open(sha256)
        size = os.fstat(file.fileno()).st_size
        if size != size_bytes:
            file.close()
            raise ContentRotten(sha256, found=f"{size} bytes instead of {size_bytes}")
        return file

    def digest(self, sha256: str, algorithm: str) -> str:
        """Another digest of stored content, in hex; the first time, this reads it. `ContentRotten` when it is gone
        or damaged."""
        known = self._digests.get((sha256, algorithm))
        if known is None:
            known, got = self._read(sha256, algorithm, "sha256")
            if got != sha256:  # else what it hashes to would be remembered of what takes its place
                raise ContentRotten(sha256, found=f"its bytes hash to {got}")
            if len(self._digests) >= _DIGESTS:
                self._digests.clear()
            self._digests[sha256, algorithm] = known
        return known

    def _read(self, sha256: str, *algorithms: str) -> list[str]:
        """The digests of what is stored under a name."""
        hashers = [digests.new(algorithm) for algorithm in algorithms]
        with self._open(sha256) as file, storage_errors(f"content {sha256}", self.folder):
            while data := file.read(_READ_BYTES):
                for hasher in hashers:
                    hasher.update(data)
        return [digests.hex_digest(hasher) for hasher in hashers]

    def _open(self, sha256: str) -> BufferedReader:
        with storage_errors(f"content {sha256}", self.folder):
            try:
                return self.path(sha256).open("rb")
            except FileNotFoundError as error:
                raise ContentRotten(sha256, found="the file is gone") from error

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Held from `adopt` until the catalog row is committed: no sweep runs meanwhile."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def sweeping(self) -> Iterator[None]:
        """Held while content is removed: no commit runs meanwhile."""
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with storage_errors("the lock of the content store", self.folder):
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with storage_errors("the lock of the content store", self.folder):
                fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def adopt(self, files: Sequence[tuple[Path, str, bool]]) -> list[StorageError | None]:
        """Take synced files in under their digests: linked where the path should stay and nothing is there,
        else renamed. What is there is replaced: fresh bytes of the same content mend whatever rot there was,
        and open readers keep the old file."""
        errors: list[StorageError | None] = []
        for source, sha256, stays in files:
            try:
                with storage_errors("the content store", self.folder):
                    _name(source, self.path(sha256), stays=stays)
            except StorageError as error:
                errors.append(error)
            else:
                errors.append(None)
        try:
            with storage_errors("the content store", self.folder):
                sync_folder(self.folder)
        except StorageError as error:
            # Asking again would prove nothing: the kernel tells of a failed sync once.
            return [error] * len(errors)
        return errors

    def verify(self, sha256: str, *, size_bytes: int) -> str | None:
        """Read all bytes; None when they are right, else what was found."""
        try:
            self.open(sha256, size_bytes=size_bytes).close()
            (digest,) = self._read(sha256, "sha256")
        except ContentRotten as error:
            return error.found
        except StorageFailed as error:
            return f"cannot be read: {error.reason}"
        return None if digest == sha256 else f"its bytes hash to {digest}"

    def stored(self) -> Iterator[tuple[str, float, int]]:
        """(digest, Unix time of storing, bytes) of everything there."""
        for entry in os.scandir(self.folder):
            if len(entry.name) == _DIGEST_LENGTH:
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat()
                    # ctime is the time of the rename: the bytes may have been written long before.
                    yield entry.name, stat.st_ctime, stat.st_size

    def delete(self, sha256: str) -> None:
        """Remove content; its open readers go on."""
        self.path(sha256).unlink(missing_ok=True)


def _name(source: Path, target: Path, *, stays: bool) -> None:
    if stays:
        # Until the commit both names are one file. That is safe: a whole prefix is never appended to.
        with contextlib.suppress(OSError):  # it is there already, or this file system has no links
            target.hardlink_to(source)
            return
    source.rename(target)
