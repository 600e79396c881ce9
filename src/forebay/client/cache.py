"""Content on this machine, by its digest: what a server sent once is not asked for again.

``content/<sha256>`` is whole and verified; ``partial/<key>`` is on its way, held with an flock by who brings it,
and left for whoever resumes it. Several processes may use one folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from forebay.durable import storage_errors, sync_file, write_all
from forebay.errors import ContentRotten, StorageError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIECE_BYTES = 1 << 20
# What nobody has resumed for so long is not going to be.
_PARTIAL_KEEP_S = 7 * 86400.0
# Evicting goes a little below the cap, and looks again when so much has come since: not at each small file.
_SLACK = 0.05


class ContentCache:
    """Content by its digest, up to *max_bytes* of it; the least recently used goes first."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self._contents, self._partials, self._max_bytes = folder / "content", folder / "partial", max_bytes
        # How much may come before the next look at what is there.
        self._room = -1

    def path(self, sha256: str, *, size_bytes: int | None = None) -> Path | None:
        """Where this content is, read only; None if it is not here. It counts as used now."""
        path = self._path(sha256)
        with self.errors():
            try:
                found = path.stat()
                if size_bytes is not None and found.st_size != size_bytes:
                    path.unlink()  # somebody's hand, or a crash of the machine, has cut it
                    return None
                # Explicitly: many file systems are mounted without times of reading.
                os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
            except (FileNotFoundError, NotADirectoryError):
                return None
        return path

    def open(self, sha256: str, *, size_bytes: int | None = None) -> BinaryIO | None:
        """This content, for reading; it stays readable when it is evicted. None if it is not here."""
        path = self.path(sha256, size_bytes=size_bytes)
        try:
            return None if path is None else path.open("rb")
        except FileNotFoundError:
            return None

    def begin(self, key: str, *, beside: bool = False) -> Part | None:
        """What has landed of *key*, to go on with; close it. While somebody else brings it: None, or with *beside*
        one that begins anew and nobody goes on with."""
        path = self._partials / hashlib.sha256(key.encode()).hexdigest()
        with self.errors():
            # Not before: who only asks what a server has needs no folder.
            for folder in (self._contents, self._partials):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self._held(path)
            if part is None and beside:
                part = self._held(path.with_name(f"{path.name}-{secrets.token_hex(8)}"))
                assert part is not None  # nobody else knows its name
                part.lone = True
        return part

    def _held(self, path: Path) -> Part | None:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            # Between opening and locking, whoever had it may have finished or dropped it.
            if _is_at(descriptor, path):
                return Part(self, path, descriptor)
            os.close(descriptor)

    def take(self, part: Path, sha256: str, size_bytes: int) -> Path:
        """Make the whole and synced file *part* the content *sha256*, and evict what is then too much."""
        path = self._path(sha256)
        part.chmod(0o444)
        part.replace(path)
        self._room -= size_bytes
        if self._room < 0:
            self._evict(keep=sha256)
        return path

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of the operating system as `StorageError`s."""
        with storage_errors(f"the content cache {self.folder}", self.folder):
            yield

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):  # it comes from a server, and is to be a name here
            raise ContentRotten(sha256[:80], found="it is no SHA-256")
        return self._contents / sha256

    def _evict(self, *, keep: str) -> None:
        """Remove the least recently used contents beyond the cap, and partial files that nobody resumes."""
        found = [(stat.st_atime_ns, stat.st_size, path) for path, stat in _files(self._contents)]
        used, low = sum(size for _, size, _ in found), int(self._max_bytes * (1 - _SLACK))
        if used > self._max_bytes:
            for _, size, path in sorted(found):
                if used <= low:
                    break
                if path.name != keep:
                    path.unlink(missing_ok=True)
                    used -= size
        self._room = min(max(self._max_bytes - used, 0), int(self._max_bytes * _SLACK))
        self._sweep_partials(before=time.time() - _PARTIAL_KEEP_S)

    def _sweep_partials(self, *, before: float) -> None:
        for path, stat in _files(self._partials):
            if stat.st_mtime >= before or path.suffix:
                continue
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else it is being brought, however slowly
                _etag_path(path).unlink(missing_ok=True)
                path.unlink()


@dataclass(frozen=True, slots=True)
class Leftover:
    """What an earlier attempt left: so many bytes of the representation with this strong ETag."""

    size_bytes: int
    etag: str


class Part:
    """A content on its way: one writer, who holds it until it is closed. Bytes below `landed` do not change as
    long as `etag` does not."""

    def __init__(self, cache: ContentCache, path: Path, descriptor: int) -> None:
        self._cache, self._path, self._descriptor = cache, path, descriptor
        self._digest = hashlib.sha256()
        self.landed = 0
        self.etag: str | None = None
        self.lone = False

    def leftover(self) -> Leftover | None:
        """What can be resumed."""
        with self._cache.errors():
            size = os.fstat(self._descriptor).st_size
            try:
                etag = _etag_path(self._path).read_text("ascii")
            except (FileNotFoundError, UnicodeDecodeError):
                return None
        return Leftover(size, etag) if size and etag else None

    def resume(self, leftover: Leftover) -> None:
        """Go on behind *leftover*. Reads it once, for the digest."""
        self._digest, offset = hashlib.sha256(), 0
        with self._cache.errors():
            while offset < leftover.size_bytes and (piece := os.pread(self._descriptor, _PIECE_BYTES, offset)):
                self._digest.update(piece)
                offset += len(piece)
        self.landed, self.etag = offset, leftover.etag

    def restart(self, etag: str | None) -> None:
        """Begin anew, with the representation *etag*; without one it cannot be resumed later."""
        with self._cache.errors():
            # In this order: bytes never lie beside the tag of others.
            _etag_path(self._path).unlink(missing_ok=True)
            os.ftruncate(self._descriptor, 0)
            if etag is not None:
                _etag_path(self._path).write_text(etag, "ascii")
        self._digest, self.landed, self.etag = hashlib.sha256(), 0, etag

    def write(self, piece: bytes) -> None:
        """The next bytes."""
        with self._cache.errors():
            write_all(self._descriptor, memoryview(piece), self.landed)
        self._digest.update(piece)
        self.landed += len(piece)

    @property
    def sha256(self) -> str:
        """The digest of what has landed."""
        return self._digest.hexdigest()

    def reader(self) -> int:
        """A descriptor of its own to read with, also when this is closed, finished or evicted later. For its
        writer: another thread may find its name gone."""
        with self._cache.errors():
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def finish(self, sha256: str) -> Path:
        """What has landed is all of it and has this digest; it is the content now. Else `ContentRotten`, and it is
        dropped."""
        if self.sha256 != sha256:
            self.discard()
            raise ContentRotten(sha256, found=f"what arrived has SHA-256 {self.sha256}")
        with self._cache.errors():
            # Before the rename: else a crash of the machine may leave the name without its bytes.
            sync_file(self._descriptor)
            _etag_path(self._path).unlink(missing_ok=True)
            return self._cache.take(self._path, sha256, self.landed)

    def discard(self) -> None:
        """Nothing of it is of use."""
        with self._cache.errors():
            _etag_path(self._path).unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let it go; what has landed stays to be resumed, unless it is a lone one."""
        if self._descriptor < 0:
            return
        if self.lone:
            with contextlib.suppress(StorageError):
                self.discard()  # once it is finished, nothing has its name
        os.close(self._descriptor)
        self._descriptor = -1


def _etag_path(part: Path) -> Path:
    return part.with_suffix(".etag")


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield Path(entry.path), entry.stat()
