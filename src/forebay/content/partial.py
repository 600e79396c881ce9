"""The growing file that one writer fills and many readers follow, with its watermark beside it.

Long, for it is read and taken over by the rules that it is written by.

``<key>.<fence>.part`` holds the bytes; ``<key>.<fence>.mark`` says how many of them are true. The mark is
advanced *after* the write, so that a killed writer leaves it true; after a crash of the machine only its
synced length counts. What the download layer must remember of the origin (validators, total) travels in the
mark as ``meta``, opaque here. Each change of a mark rings its key: followers (`forebay.content.following`) look.

A body that arrives in one piece never gets a mark: it is written, synced and committed at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import platform
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from forebay.durable import storage_errors, sync_file, sync_folder, write_all
from forebay.errors import StorageError

# magic, generation, state, length, synced length, hash of the boot id, inode of the data, CRC of these
_MARK = struct.Struct("<8sIIQQQQI")
_MAGIC = b"FBYMARK1"
_META_AT = 64
_META_HEAD = struct.Struct("<II")  # length, CRC
_READ_BYTES = 1 << 20
# What a mark has, nearly always: it is read at once.
_MARK_BYTES = 4096


Ring = Callable[[str], None]
Trust = Callable[[bytes, bool], bool]


class State(Enum):
    """What becomes of a generation; the values are those in the mark."""

    GROWING = 0
    """Somebody writes it, or was killed while writing."""
    WHOLE = 1
    """Every byte is there, verified as far as anything was expected of it, and synced."""
    GIVEN_UP = 2
    """Nothing will come of it: the download started over, or failed for good."""
    STANDING = 3
    """Left to be resumed; whether the origin still has the same is not known yet."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a watermark says: the first ``length`` bytes of ``generation`` are there, in the file ``inode``."""

    generation: int
    length: int
    synced: int
    inode: int
    meta: bytes
    state: State = State.GROWING


@cache
def _boot() -> int:
    """A number that changes when the machine starts anew."""
    if platform.system() == "Linux":
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    else:
        text = subprocess.run(["/usr/sbin/sysctl", "-n", "kern.boottime"], capture_output=True, check=True).stdout
    return zlib.crc32(text) | len(text) << 32


def read_mark(path: Path) -> Mark | None:
    """The mark at *path*; None when there is none or it is torn. Its length is what may be believed: what was
    written if the machine still runs, what was synced if it has been started anew."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return _parsed(data)


def is_of(part: Path, mark: Mark) -> bool:
    """Whether *part* is the file that *mark* speaks of."""
    try:
        stat = part.stat()
    except FileNotFoundError:
        return False
    return stat.st_ino == mark.inode and stat.st_size >= mark.length


def stored_length(part: Path) -> int | None:
    """The length of *part* where something else has its bytes as well: the content store, as a rule. It must not be
    cut then. None: nothing else has them."""
    stat = part.stat()
    return stat.st_size if stat.st_nlink > 1 else None


def read_open_mark(descriptor: int) -> Mark | None:
    """The same of an open file, whatever its name is by now."""
    data = os.pread(descriptor, _MARK_BYTES, 0)
    while len(data) % _MARK_BYTES == 0 and (more := os.pread(descriptor, _MARK_BYTES, len(data))):
        data += more
    return _parsed(data)


def _parsed(data: bytes) -> Mark | None:
    if len(data) < _META_AT + _META_HEAD.size:
        return None
    magic, generation, state, length, synced, boot, inode, crc = _MARK.unpack_from(data)
    meta_length, meta_crc = _META_HEAD.unpack_from(data, _META_AT)
    meta = data[_META_AT + _META_HEAD.size :][:meta_length]
    if magic != _MAGIC or crc != zlib.crc32(data[: _MARK.size - 4]) or meta_crc != zlib.crc32(meta):
        return None
    if state >= len(State):
        return None  # a newer Forebay's
    return Mark(generation, length if boot == _boot() else synced, synced, inode, meta, State(state))


class PartialFile:
    """One generation of a download under way. Used by one thread at a time, but for `sync`."""

    def __init__(self, folder: Path, name: str, *, generation: int, ring: Callable[[], None]) -> None:
        self._folder = folder
        self._ring = ring
        self.path = folder / f"{name}.part"
        self._mark_path = folder / f"{name}.mark"
        self.generation = generation
        self.length = 0
        self.synced = 0
        self._state = State.GROWING
        self._data = -1
        self._mark = -1
        self._inode = 0
        self._ahead = 0  # bytes behind the length that do not count yet
        self._marking = threading.Lock()

    @classmethod
    def create(cls, folder: Path, name: str, *, generation: int, ring: Callable[[], None]) -> PartialFile:
        """A new, empty generation; what an older one of the same name held is dropped. Its readers keep the
        file that they have open."""
        partial = cls(folder, name, generation=generation, ring=ring)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with storage_errors("a partial file", folder):
            try:
                partial._data = os.open(partial.path, flags, 0o600)
            except FileExistsError:
                partial.discard()
                partial._data = os.open(partial.path, flags, 0o600)
        return partial

    @classmethod
    def reopen(cls, folder: Path, name: str, mark: Mark, *, ring: Callable[[], None]) -> PartialFile:
        """Go on where *mark* says; bytes beyond it are cut off. It stands until something is appended."""
        partial = cls(folder, name, generation=mark.generation, ring=ring)
        with storage_errors("a partial file", folder):
            partial.path.chmod(0o600)  # its old owner may have died between `seal` and the commit
            partial._data = os.open(partial.path, os.O_RDWR | os.O_CLOEXEC)
            os.ftruncate(partial._data, mark.length)
            partial._mark = os.open(partial._mark_path, os.O_RDWR | os.O_CLOEXEC)
        partial._inode = mark.inode
        partial.length = mark.length
        partial.synced = min(mark.synced, mark.length)
        partial._state = State.STANDING
        return partial

    @classmethod
    def take_over(cls, folder: Path, name: str, part: Path, mark: Mark, *, ring: Callable[[], None]) -> PartialFile:
        """Go on with *part* where *mark* says, under a new name and with a mark that nobody else has open: whatever
        its old owner still does, it does not reach this. Bytes beyond the mark are cut off. The caller holds the
        lock of *part* (`owned`) and removes the old mark."""
        partial = cls(folder, name, generation=mark.generation, ring=ring)
        try:
            partial._take_over(part, mark)
        except BaseException:
            partial.close()
            raise
        return partial

    def _take_over(self, part: Path, mark: Mark) -> None:
        with storage_errors("a partial file", self._folder):
            early = self._mark_path.with_suffix(".new")
            self._mark = os.open(early, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            part.chmod(0o600)  # its old owner may have died between `seal` and the commit
            self._data = os.open(part, os.O_RDWR | os.O_CLOEXEC)
            if os.fstat(self._data).st_size > mark.length:
                os.ftruncate(self._data, mark.length)
            self._inode, self.length = os.fstat(self._data).st_ino, mark.length
            self.synced, self._state = min(mark.synced, mark.length), State.STANDING
            self.keep_mark(mark.meta)
            sync_file(self._mark)  # the old one goes, and a crash of the machine must not find this one empty
            # The mark before the file: it is found by its inode, whatever its name.
            early.rename(self._mark_path)
            part.rename(self.path)

    def keep_mark(self, meta: bytes, *, standing: bool = False) -> None:
        """Begin to keep a mark, with *meta* in it: from here on the file can be resumed and followed.
        *standing*: nobody will write until it is resumed."""
        with storage_errors("a partial file", self._folder):
            if self._mark < 0:
                self._inode = os.fstat(self._data).st_ino
                self._mark_path.unlink(missing_ok=True)  # never another's: it may be followed
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._mark = os.open(self._mark_path, flags, 0o600)
            if standing:
                self._state = State.STANDING
            head = _META_HEAD.pack(len(meta), zlib.crc32(meta))
            write_all(self._mark, memoryview(head + meta), _META_AT)
            self._advance()
        self._ring()

    @property
    def marked(self) -> bool:
        """Whether a mark is kept."""
        return self._mark >= 0

    def append(self, data: memoryview, *, counts: bool = True) -> None:
        """Write *data* at the end, then advance the mark; unless it *counts* only from `count` on."""
        with storage_errors("a partial file", self._folder):
            end = self.length + self._ahead
            try:
                write_all(self._data, data, end)
            except OSError:
                with contextlib.suppress(OSError):  # on a full disk the catalog wants this space, to say so
                    os.ftruncate(self._data, end)
                raise
            self._ahead += len(data)
        if counts:
            self.count()

    def count(self) -> None:
        """Everything that was appended counts."""
        with storage_errors("a partial file", self._folder):
            self.length, self._ahead = self.length + self._ahead, 0
            self._state = State.GROWING
            if self._mark >= 0:
                self._advance()
        if self._mark >= 0:
            self._ring()

    def forget(self) -> None:
        """Drop what was appended and does not count."""
        if self._ahead:
            self._ahead = 0
            with storage_errors("a partial file", self._folder):
                os.ftruncate(self._data, self.length)

    def fall_back(self) -> None:
        """Drop what is not synced: of a sync that failed the kernel tells once, and the next one proves nothing."""
        with storage_errors("a partial file", self._folder):
            self._ahead, self.length = 0, min(self.length, self.synced)
            if self._mark >= 0:
                self._advance()
            os.ftruncate(self._data, self.length)

    @contextlib.contextmanager
    def owned(self) -> Iterator[bool]:
        """Hold the file against who would take it over; whether it still is ours."""
        with storage_errors("a partial file", self._folder):
            fcntl.flock(self._data, fcntl.LOCK_EX)
            try:
                yield self._is_ours()
            finally:
                fcntl.flock(self._data, fcntl.LOCK_UN)

    def _advance(self) -> None:
        # `sync` runs beside `append`: neither may write an older mark over the other's.
        with self._marking:
            self._write_mark()

    def _write_mark(self) -> None:
        state = self._state.value
        head = _MARK.pack(_MAGIC, self.generation, state, self.length, self.synced, _boot(), self._inode, 0)[:-4]
        write_all(self._mark, memoryview(head + struct.pack("<I", zlib.crc32(head))), 0)

    def sync(self) -> None:
        """Return when what is written now is on the disk, and the mark says so. May run in another thread
        than `append`."""
        length = self.length
        with storage_errors("a partial file", self._folder):
            sync_file(self._data)
            self.synced = length
            if self._mark >= 0:
                self._advance()
                sync_file(self._mark)

    def read_through(self, consume: Callable[[memoryview], object]) -> None:
        """Hand the bytes so far to *consume*, in order, in pieces of 1 MiB at most."""
        buffer = bytearray(_READ_BYTES)
        view, offset = memoryview(buffer), 0
        with storage_errors("a partial file", self._folder):
            while offset < self.length:
                got = os.preadv(self._data, [view[: min(_READ_BYTES, self.length - offset)]], offset)
                if got == 0:
                    raise OSError(f"shorter than its mark: {offset} of {self.length} bytes")
                consume(view[:got])
                offset += got

    def seal(self) -> None:
        """`sync` for the last time: the bytes are whole and verified, and nobody writes them any more."""
        with storage_errors("a partial file", self._folder):
            os.fchmod(self._data, 0o444)
        self.sync()
        self._state = State.WHOLE
        if self._mark >= 0:
            # After the sync: followers take the last byte for a success. It need not be synced itself: after a
            # crash of the machine somebody else must find out what is still true anyway.
            with storage_errors("a partial file", self._folder):
                self._advance()
            self._ring()

    def close(self) -> None:
        """Close the files and leave them where they are."""
        for descriptor in (self._data, self._mark):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._mark = -1

    def stand(self, sign_off: Callable[[bytes], bytes]) -> None:
        """Close a whole that was not taken in, to be resumed by anybody: *sign_off* takes our name from its meta.
        Who has seen that it is whole reads on; nobody new is led to it."""
        with contextlib.suppress(OSError, StorageError):
            mark = read_open_mark(self._mark) if self._is_ours() else None
            if mark is not None:
                self.keep_mark(sign_off(mark.meta), standing=True)
        self.close()

    def discard(self) -> None:
        """Close and remove the files; who follows them is told, unless they are whole."""
        with contextlib.suppress(OSError):
            if self._state is not State.WHOLE and self._is_ours():
                self._state = State.GIVEN_UP
                self._advance()
        marked = self.marked
        self.close()
        # The mark first: one without its file would only mislead. What cannot be removed is the sweep's.
        with contextlib.suppress(OSError):
            self._mark_path.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
        if marked:
            self._ring()

    def _is_ours(self) -> bool:
        """Whether the mark still has our name: whoever adopted it goes on with the same file."""
        try:
            return self.marked and self._mark_path.stat().st_ino == os.fstat(self._mark).st_ino
        except FileNotFoundError:
            return False

    def leave(self) -> None:
        """The bytes are committed under their digest: remove what is left here. Without a mark that is nothing."""
        if self.marked:
            self.discard()
        else:
            self.close()


class Partials:
    """The folder of partial files, by key (a Request's id) and fence. *ring* is called with the key of what has
    changed, by the thread that changed it: it must not wait."""

    def __init__(self, folder: Path, *, ring: Ring = lambda _: None) -> None:
        self.folder = folder
        self.ring = ring
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, key: str, *, fence: int, generation: int) -> PartialFile:
        """A new generation under this fence."""
        ring = functools.partial(self.ring, key)
        return PartialFile.create(self.folder, f"{key}.{fence}", generation=generation, ring=ring)

    def adopt(self, key: str, *, fence: int, trust: Trust) -> tuple[PartialFile, bytes] | None:
        """What an earlier fence left of *key*, renamed so that its old owner cannot commit it, with its meta;
        None when there is nothing to go on from, or when *trust* says no to the meta (whoever still holds the
        file open could write into it) and to whether the content store has the file as well, which is then never
        to grow."""
        found = self.newest_mark(key)
        mark = None if found is None else read_mark(found)
        part = None if mark is None else self.part_of(key, mark)
        if found is None or mark is None or part is None or mark.length == 0:
            self.discard(key)
            return None
        # Where its commit never came. Should a crash of the machine have put the mark back, it must not be cut.
        stored = stored_length(part)
        if (stored is not None and stored > mark.length) or not trust(mark.meta, stored is not None):
            self.discard(key)
            return None
        new = f"{key}.{fence}"
        with storage_errors("a partial file", self.folder):
            # A crash between the two leaves a pair that still belongs together, by the inode in the mark.
            part.rename(self.folder / f"{new}.part")
            found.rename(self.folder / f"{new}.mark")
        return PartialFile.reopen(self.folder, new, mark, ring=functools.partial(self.ring, key)), mark.meta

    def part_of(self, key: str, mark: Mark) -> Path | None:
        """The file that *mark* speaks of."""
        for path in self.folder.glob(f"{key}.*.part"):
            if is_of(path, mark):
                return path
        return None

    def newest_mark(self, key: str) -> Path | None:
        """The mark of whoever was the last to begin or to take over *key*."""
        return max(self.folder.glob(f"{key}.*.mark"), key=_fence, default=None)

    def mark(self, key: str) -> Mark | None:
        """How far the download of *key* is, whoever runs it; None before its first marked byte."""
        path = self.newest_mark(key)
        return None if path is None else read_mark(path)

    def mark_at(self, key: str, *, fence: int) -> Mark | None:
        """The same by its name, without a look through the folder: of whoever has that *fence*. Until it goes on
        with it, what is taken over has the name of the fence before."""
        return read_mark(self.folder / f"{key}.{fence}.mark") or read_mark(self.folder / f"{key}.{fence - 1}.mark")

    def discard(self, key: str, *, fence: int | None = None) -> None:
        """Remove whatever is left of *key*, marks first: one without its file would only mislead. *fence*: not what
        later ones have."""
        found = sorted(path for path in self.folder.glob(f"{key}.*") if fence is None or _fence(path) <= fence)
        for path in found:
            path.unlink(missing_ok=True)
        if found:
            self.ring(key)

    def leftovers(self) -> Iterator[tuple[str, float, int]]:
        """(key, Unix time of the last write, bytes) of each partial file, and of each mark that lost its own."""
        for path in self.folder.iterdir():
            if path.suffix == ".mark" and path.with_suffix(".part").exists():
                continue
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                yield path.name.split(".")[0], stat.st_mtime, stat.st_size

    def sync_folder(self) -> None:
        """Make the names of the partial files survive a crash of the machine."""
        with storage_errors("the folder of partial files", self.folder):
            sync_folder(self.folder)


def _fence(path: Path) -> int:
    return int(path.name.split(".")[1])
