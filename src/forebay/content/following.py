"""The readers' side of a partial file: what of a generation may be read while it lands, and how it ends.

A follower has the files open, not their names: a takeover renames them, a commit links and unlinks them, and it
reads on. Whom to wait for, and until when, is the caller's: watch the key (`forebay.content.wakeups`), look,
wait, look again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from forebay.cached import read_cached
from forebay.content.partial import Mark, Partials, State, read_open_mark
from forebay.durable import storage_errors
from forebay.errors import FollowBroken, StorageFailed

# A mark is torn while it is written, files are renamed while they are looked for: then once more.
_TRIES = 5
_FINAL = (State.WHOLE, State.GIVEN_UP)


class Following:
    """One generation of a partial file, as its readers see it; shared by all of them in this process, and usable
    from any thread. Whoever got it from `Followings.follow` closes it once.

    Two things are withheld until the generation is whole: the end, where no total is known, and the last byte,
    where one is. So nobody takes for a success what may still fail.
    """

    def __init__(self, owner: Followings, mark: int, data: int, known: Mark) -> None:
        self._owner, self._mark, self._data = owner, mark, data
        self._known = known
        self._told = (known.meta, owner.total_of(known.meta))
        self.key = (os.fstat(mark).st_ino, owner.version_of(known.meta))
        self.holders = 1

    def close(self) -> None:
        """Follow no longer. The last one closes the files."""
        self._owner.let_go(self)

    def close_files(self) -> None:
        """For `Followings`."""
        mark, data = self._mark, self._data
        self._mark = self._data = -1  # whoever reads on finds an error, not another file
        os.close(mark)
        os.close(data)

    # --- how far it is ---------------------------------------------------------------------------------

    @property
    def known(self) -> Mark:
        """The mark as it was when somebody last looked."""
        return self._known

    @property
    def state(self) -> State:
        """What has become of it, as far as is known."""
        return self._known.state

    @property
    def total(self) -> int | None:
        """The length of the whole in bytes; None while it is not known. Once known, it stays."""
        return self._total(self._known)

    def look(self) -> Mark:
        """The mark as it is now. Once `WHOLE` or `GIVEN_UP`, it stays so: what a later fetch makes of a whole
        file that was not committed is not its readers' concern."""
        known = self._known
        if known.state in _FINAL:
            return known
        with storage_errors("a partial file", self._owner.folder):
            mark = self._read_mark(known)
            if mark.state is not State.WHOLE and os.fstat(self._mark).st_nlink == 0:
                # Between the two it may have become whole, then committed and removed: it says so still.
                mark = self._read_mark(known)
                if mark.state is not State.WHOLE:
                    mark = replace(mark, state=State.GIVEN_UP)
        if mark.meta != known.meta and self._owner.version_of(mark.meta) != self.key[1]:
            # The fetch failed, and another version's goes on with what it has left.
            mark = replace(known, state=State.GIVEN_UP)
        self._known = mark
        return mark

    def _read_mark(self, known: Mark) -> Mark:
        for _ in range(_TRIES):
            mark = read_open_mark(self._mark)
            if mark is not None:
                return mark
        return known  # its writer was stopped in the middle of writing it

    def _total(self, mark: Mark) -> int | None:
        if mark.state is State.WHOLE:
            return mark.length
        meta, total = self._told
        if meta != mark.meta:
            total = self._owner.total_of(mark.meta)
            self._told = (mark.meta, total)
        return total

    def at_end(self, offset: int) -> bool:
        """Whether it is known that there will never be a byte at *offset*."""
        return self._known.state is State.WHOLE and offset >= self._known.length

    # --- reading ---------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> bytes:
        """At most *size* bytes from *offset*, of what may be read by now; none: wait, unless `at_end`. Raises
        `FollowBroken` when the generation was given up."""
        size = self._readable(offset, size)
        with storage_errors("a partial file", self._owner.folder):
            data = os.pread(self._data, size, offset) if size else b""
        return data if data or not size else self._fail(offset)

    def read_cached(self, offset: int, size: int) -> bytes | None:
        """`read` without waiting for a disk; None: it would."""
        size = self._readable(offset, size)
        data = read_cached(self._data, offset, size) if size else b""
        return self._fail(offset) if size and data == b"" else data

    def readinto(self, buffer: memoryview, offset: int) -> int:
        """`read` into *buffer*; how many bytes it was."""
        size = self._readable(offset, len(buffer))
        with storage_errors("a partial file", self._owner.folder):
            got = os.preadv(self._data, [buffer[:size]], offset) if size else 0
        return got if got or not size else self._fail(offset)

    def _readable(self, offset: int, size: int) -> int:
        """How many of *size* bytes may be read from *offset* on."""
        mark = self.look()
        if mark.state is State.GIVEN_UP:
            raise FollowBroken
        total = self._total(mark)
        stop = mark.length
        if mark.state is not State.WHOLE and total is not None:
            stop = min(stop, total - 1)
        return max(0, min(size, stop - offset))

    def _fail(self, offset: int) -> NoReturn:
        raise StorageFailed("a partial file", reason=f"it ends at {offset}, before its mark says so")


class _Replaced(Exception):
    """The file that a mark speaks of has its name no longer."""


class Followings:
    """What is followed in this process: each generation with one pair of open files, however many read it.
    *total_of*: the length of the whole, by a mark's meta; *version_of*: the version that the bytes are for."""

    def __init__(
        self,
        partials: Partials,
        *,
        total_of: Callable[[bytes], int | None],
        version_of: Callable[[bytes], str | None],
    ) -> None:
        self.folder = partials.folder
        self.total_of, self.version_of = total_of, version_of
        self._lock = threading.Lock()
        # By the inode of the mark, which is nobody else's while it is open, and the version.
        self._followed: dict[tuple[int, str | None], Following] = {}

    def follow(self, key: str, *, fence: int, live: Callable[[bytes], bool]) -> Following | None:
        """The generation of *key* that is being written under *fence*, or is whole and not committed yet; None when
        there is none (any more). It is opened by its name, however many others the folder has. *live*: whether the
        writer that a meta names is at work; what a killed one has left may be dropped at any moment, so nobody
        begins to read it."""
        with storage_errors("a partial file", self.folder):
            for _ in range(_TRIES):
                try:
                    return self._open(self.folder / f"{key}.{fence}.mark", live)
                except _Replaced:  # by the next generation, under our eyes
                    continue
                except FileNotFoundError:
                    return None
        return None

    def _open(self, path: Path, live: Callable[[bytes], bool]) -> Following | None:
        with contextlib.ExitStack() as opened:
            mark = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, mark)
            known = read_open_mark(mark)
            if known is None or known.state not in (State.GROWING, State.WHOLE) or not live(known.meta):
                return None
            with self._lock:
                following = self._followed.get((os.fstat(mark).st_ino, self.version_of(known.meta)))
                if following is not None:
                    following.holders += 1
                    return following
                data = self._open_part(path.with_suffix(".part"), known)
                opened.callback(os.close, data)
                following = Following(self, mark, data, known)
                self._followed[following.key] = following
            opened.pop_all()
            return following

    @staticmethod
    def _open_part(path: Path, mark: Mark) -> int:
        try:
            data = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _Replaced from None
        if os.fstat(data).st_ino != mark.inode:
            os.close(data)
            raise _Replaced
        return data

    def let_go(self, following: Following) -> None:
        """See `Following.close`."""
        with self._lock:
            following.holders -= 1
            if following.holders > 0:
                return
            del self._followed[following.key]
        following.close_files()
