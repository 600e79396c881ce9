"""The folder of uploads: the bytes of those that are not complete, and private copies of those that are."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from forebay.content.partial import Mark, PartialFile, Partials, is_of, read_mark, stored_length
from forebay.durable import storage_errors, sync_file, sync_folder
from forebay.errors import DiskReserved, UploadTaken

# A writer holds the lock for one piece. Whoever holds it for longer was stopped in the middle of that: then what is
# there is copied, so that nobody waits for a process that may never go on.
_LOCK_WAIT_S = 2.0
_LOCK_LOOK_S = 0.01
_COPY_BYTES = 1 << 30
# Takeovers in a row that came to nothing. Beyond that the whole folder is looked through.
_NEAR = 4
_NAMED = 4096  # files whose names are known to be on the disk
_READ_BYTES = 1 << 20
_FICLONE = 0x40049409  # linux/fs.h; Python has no name for it


@dataclass(frozen=True, slots=True)
class _Found:
    """The file of an upload, and its mark: what that says, and where it is."""

    mark: Mark
    mark_path: Path
    part: Path


class UploadFolder:
    """Files by upload id; no name that a client gave is among theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._partials = Partials(folder / "partial")
        self._copies = folder / "copies"
        self._copies.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._named: set[str] = set()

    # --- bytes that come in order ----------------------------------------------------------------------

    def begin(self, uid: str, *, fence: int) -> PartialFile | None:
        """The file of an upload, new, for the holder of *fence*, whom nobody may take it over from meanwhile; None
        when something is there (which a crash of the machine may have taken the fences of back)."""
        return self._created(uid, fence) if self._newest(uid, fence, is_mine=True) is None else None

    def take_over(
        self, uid: str, *, fence: int, holding: Callable[[], AbstractContextManager[None]]
    ) -> PartialFile:
        """The file of an upload, for the holder of *fence* alone. Whoever had it before
        puts no byte into it any more. *holding* keeps others from taking it over meanwhile, and raises
        `UploadTaken` when one has."""
        while True:
            before = self._newest(uid, fence, is_mine=True)
            if before is None:
                with holding():
                    created = self.begin(uid, fence=fence)
                if created is not None:
                    return created
                continue
            with _locked(before.part) as is_locked:
                with holding():
                    found = self._newest(uid, fence, is_mine=True)
                    if found is None or found.part != before.part or found.mark.inode != before.mark.inode:
                        continue
                    # After a crash of the machine the file may be content whose commit never came, and longer than
                    # its mark: it must not be cut.
                    with storage_errors("a partial file", self._partials.folder):
                        stored = stored_length(found.part)
                    if is_locked and (stored is None or stored <= found.mark.length):
                        # Read again: until the lock was ours, its writer may have acknowledged more.
                        return self._renamed(uid, fence, found.part, found.mark, before=found)
                    self._take_mark(uid, fence, found)
                mark, copy = self._copied(uid, fence, found.part)
                with holding():
                    return self._renamed(uid, fence, copy, mark, before=found)

    def _created(self, uid: str, fence: int) -> PartialFile:
        partial = self._partials.create(uid, fence=fence, generation=1)
        try:
            partial.keep_mark(b"")
        except BaseException:
            partial.close()
            raise
        return partial

    def _renamed(self, uid: str, fence: int, part: Path, mark: Mark, *, before: _Found) -> PartialFile:
        name = f"{uid}.{fence}"
        partial = PartialFile.take_over(self._partials.folder, name, part, mark, ring=lambda: None)
        with storage_errors("a partial file", self._partials.folder):
            for path in (before.mark_path, before.part):  # where they have not moved
                if path.stem != name:
                    path.unlink(missing_ok=True)
        return partial

    def _take_mark(self, uid: str, fence: int, found: _Found) -> None:
        """From here on, whoever has the file finds that it is not theirs, and acknowledges nothing more."""
        with storage_errors("a partial file", self._partials.folder):
            found.mark_path.rename(self._partials.folder / f"{uid}.{fence}.mark")

    def _copied(self, uid: str, fence: int, part: Path) -> tuple[Mark, Path]:
        """A copy of what counts of *part*, and the mark of that."""
        folder = self._partials.folder
        mark = read_mark(folder / f"{uid}.{fence}.mark")
        if mark is None:
            raise UploadTaken(uid)
        # By its last name: as soon as its mark is there, it is found, whoever is killed.
        copy = folder / f"{uid}.{fence}.part"
        with storage_errors("a partial file", folder):
            copy.unlink(missing_ok=True)
            with part.open("rb") as source, copy.open("xb") as target:
                copy_range(source.fileno(), target.fileno(), 0, mark.length, 0)
                sync_file(target.fileno())
        return mark, copy

    def _newest(self, uid: str, fence: int, *, is_mine: bool = False) -> _Found | None:
        """What there is of who was the last to take the upload over. *fence*: the last one that is known of;
        *is_mine*: there is none behind it.

        By names, for a look through the folder takes the longer the more uploads there are."""
        folder = self._partials.folder
        for number in _near(fence):
            found = self._read(uid, folder / f"{uid}.{number}.mark")
            if found is not None:
                return found
        if fence == 0 or (is_mine and fence <= _NEAR):
            return None  # nobody had taken it over by then; all names there can be are looked at
        for path in sorted(folder.glob(f"{uid}.*.mark"), key=_fence_of, reverse=True):
            found = self._read(uid, path)
            if found is not None:
                return found
        return None

    def _read(self, uid: str, mark_path: Path) -> _Found | None:
        mark = read_mark(mark_path)
        if mark is None:
            return None
        named = mark_path.with_suffix(".part")
        # Whoever took it over may have been killed before it had that name.
        part = named if is_of(named, mark) else self._partials.part_of(uid, mark)
        return None if part is None else _Found(mark, mark_path, part)

    def length(self, uid: str, *, fence: int) -> int:
        """How many bytes are there. *fence*: the last one that is known of; so with the next ones."""
        found = self._newest(uid, fence)
        return 0 if found is None else found.mark.length

    def synced(self, uid: str, *, fence: int) -> int:
        """How many bytes are on the disk, as whoever writes them has noted."""
        found = self._newest(uid, fence)
        return 0 if found is None else min(found.mark.synced, found.mark.length)

    def part_of(self, uid: str, *, fence: int) -> Path | None:
        """The file with the bytes of an upload that nobody writes."""
        found = self._newest(uid, fence)
        return None if found is None else found.part

    # --- bytes that come in any order ------------------------------------------------------------------

    @contextmanager
    def chunks(self, uid: str) -> Iterator[int]:
        """The one file for the chunks of an upload, open; made when it is not there, its name on the disk."""
        path = self.chunks_path(uid)
        with storage_errors("the chunks of an upload", self.folder):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except PermissionError:  # whoever was making it content was killed
                path.chmod(0o600)
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if uid not in self._named:  # another process may have made it, and not come to this yet
                sync_folder(path.parent)
                if len(self._named) >= _NAMED:
                    self._named.clear()
                self._named.add(uid)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def chunks_path(self, uid: str) -> Path:
        """Where that file is."""
        return self._partials.folder / f"{uid}.0.part"

    # --- the end ---------------------------------------------------------------------------------------

    def new_file(self, uid: str, *, fence: int) -> Path:
        """Where the bytes are put together anew under *fence*."""
        return self._partials.folder / f"{uid}.{fence}.whole"

    def staged(self, uid: str, path: Path) -> Path:
        """Another name of *path*, for the content store to take: should the commit never come, the upload still has
        its bytes. Where there are no links it is *path* itself."""
        stage = self._partials.folder / f"{uid}.stage"
        with storage_errors("the folder of uploads", self.folder):
            stage.unlink(missing_ok=True)
            try:
                stage.hardlink_to(path)
            except OSError:  # this file system has none
                return path
        return stage

    def sync(self) -> None:
        """Make the names survive a crash of the machine."""
        self._partials.sync_folder()

    def clear(self, uid: str, *, fence: int) -> None:
        """Remove the files of an upload that is complete. What cannot be removed is the sweep's, and what takeovers
        long ago have left."""
        folder = self._partials.folder
        with contextlib.suppress(OSError):
            for suffix in ("mark", "part", "whole", "new"):  # a mark without its file would only mislead
                for number in (*_near(fence), 0):
                    (folder / f"{uid}.{number}.{suffix}").unlink(missing_ok=True)
            (folder / f"{uid}.stage").unlink(missing_ok=True)

    def discard(self, uid: str) -> None:
        """Remove all that is left of the bytes of an upload."""
        self._partials.discard(uid)

    def forget(self, uid: str) -> None:
        """`discard`, and the private copy with it."""
        self.discard(uid)
        for path in (self._copy_path(uid), *self._copies.glob(f"{uid}.*")):
            path.unlink(missing_ok=True)

    def keys(self) -> set[str]:
        """The ids that files are there of."""
        found = {key for key, _, _ in self._partials.leftovers()}
        return found | {path.name.split(".")[0] for path in self._copies.iterdir()}

    def used_bytes(self) -> int:
        """What the files take."""
        total = 0
        for folder in (self._partials.folder, self._copies):
            for entry in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat().st_blocks * 512
        return total

    # --- private copies --------------------------------------------------------------------------------

    def private_copy(self, uid: str, source: Path, *, free_bytes: int) -> Path:
        """A file of the caller's own with the bytes of *source*: made unless it is there. Raises `DiskReserved` if
        that takes more than *free_bytes*."""
        path = self._copy_path(uid)
        with storage_errors("a copy of an upload", self.folder):
            if not path.exists():
                early = self._copies / f"{uid}.{os.getpid()}.{time.monotonic_ns()}"
                try:
                    clone(source, early, free_bytes=free_bytes)
                    with contextlib.suppress(FileExistsError):  # somebody else was faster: that one
                        path.hardlink_to(early)
                finally:
                    early.unlink(missing_ok=True)
        return path

    def _copy_path(self, uid: str) -> Path:
        return self._copies / uid


@contextmanager
def _locked(part: Path) -> Iterator[bool]:
    """Hold *part* against its writer; False when that has not let go for a while, or the file has gone."""
    try:
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False  # whoever looks again sees what became of it
        return
    try:
        until = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(_LOCK_LOOK_S)
                    continue
                yield False
            else:
                yield True
            return
    finally:
        os.close(descriptor)


def clone(source: Path, target: Path, *, free_bytes: int) -> None:
    """Make *target* of the bytes of *source*, for its owner only: sharing blocks where the file system can, else a
    copy. Raises `DiskReserved` when that takes more than *free_bytes*."""
    target.touch(mode=0o600, exist_ok=False)
    with source.open("rb") as from_file, target.open("r+b") as to_file:
        if not share(from_file.fileno(), to_file.fileno()):
            size = os.fstat(from_file.fileno()).st_size
            if size > free_bytes:
                raise DiskReserved(asked_bytes=size, free_bytes=free_bytes)
            copy_range(from_file.fileno(), to_file.fileno(), 0, size, 0)


def share(source: int, target: int) -> bool:
    """Make *target* of the blocks of *source*; False where the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def copy_range(source: int, target: int, start: int, stop: int, at: int) -> None:
    """Copy ``[start, stop)`` of *source* to *at*: in the kernel, without copying where the file system can."""
    while start < stop:
        try:
            done = os.copy_file_range(source, target, min(stop - start, _COPY_BYTES), start, at)
        except (OSError, AttributeError):  # not on this file system, not on macOS
            done = 0
        if done == 0:
            data = os.pread(source, min(stop - start, _READ_BYTES), start)
            if not data:
                raise OSError(f"shorter than it should be: {start} of {stop} bytes")
            done = os.pwrite(target, data, at)
        start, at = start + done, at + done


def _near(fence: int) -> range:
    """The fences that its files may have the names of, the newest first."""
    return range(fence, max(fence - _NEAR, 0), -1)


def _fence_of(path: Path) -> int:
    return int(path.name.split(".")[1])
