"""`Writer`: appends to one upload, until a newer writer takes it over."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self

from forebay.catalog.uploads import UploadRow
from forebay.content.partial import PartialFile
from forebay.core import digests
from forebay.errors import (
    ChecksumMismatch,
    DiskReserved,
    ForebayError,
    LengthMismatch,
    UploadIncomplete,
    UploadQuota,
    UploadTaken,
    UploadTooLarge,
)
from forebay.models import Upload
from forebay.uploads.hashing import Running

Cut = Callable[[], None]

# Hashed beside the write from here on: below, handing over costs more than it saves.
_BESIDE_BYTES = 64 << 10
# Written back while more comes, so that the last sync has little to do.
_SYNC_BYTES = 32 << 20
# What an upload without a length reserves at a time.
_RESERVE_BYTES = 64 << 20


class Sessions(Protocol):
    """What a writer asks of the sessions that it is one of."""

    def submit(self, call: Callable[[], object]) -> Future[object]:
        """Call *call* in another thread."""
        ...

    def reserve(self, uid: str, needed: int, *, fence: int) -> int:
        """See `forebay.catalog.uploads.UploadRows.reserve`."""
        ...

    def resize(self, uid: str, size: int, *, fence: int) -> None:
        """Say the length."""
        ...

    def stays(self, writer: Writer) -> None:
        """*writer* goes on: its upload does not expire, and so much of it is there."""
        ...

    def ended(self, writer: Writer, running: Running | None) -> None:
        """*writer* is closed; *running*: the digests of what is there."""
        ...

    def finish(
        self, writer: Writer, partial: PartialFile, running: Running | None, digests: Mapping[str, str]
    ) -> Upload | None:
        """Make a whole upload complete; *partial* is closed then."""
        ...

    def sync_names(self) -> None:
        """Make the names of the files survive a crash of the machine."""
        ...


class Writer:
    """Appends to one upload. For one thread at a time, but for `cut`; close it.

    What was written and not yet acknowledged by `close` may be on the disk or not.
    """

    def __init__(
        self,
        sessions: Sessions,
        row: UploadRow,
        partial: PartialFile,
        *,
        running: Running | None,
        on_cut: Cut | None,
        max_bytes: int | None,
        stay_s: float,
    ) -> None:
        """*stay_s*: how often it is told that the upload is still being written."""
        self.uid = row.id
        self.fence = row.fence
        self.size = row.size
        """The declared length."""
        self.offset = partial.length
        """Where the next byte goes: what was taken so far, on the disk or not."""
        self._sessions, self._partial = sessions, partial
        self._reserved, self._max_bytes = row.reserved_bytes, max_bytes
        self._running = running
        self._before = running  # as it is when nothing under a checksum counts
        self._checksum: tuple[str, str] | None = None
        self._hasher: digests.Hasher | None = None
        self._on_cut = on_cut
        self._is_cut = False
        self._is_closed = False
        self._syncing: Future[object] | None = None
        self._synced = self.offset
        self._is_unsound = False  # a sync has failed
        self._stay_s, self._stayed = stay_s, time.monotonic()

    def expect(self, algorithm: str, digest: str) -> None:
        """Nothing that is written from here on counts before it was found to have this *digest*."""
        self._checksum, self._hasher = (algorithm, digest), digests.new_checksum(algorithm)
        if self._running is not None:
            self._running = self._running.copy()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append *data*; the new offset. Pieces of 1 to 4 MiB cost least.

        Raises `UploadTooLarge` for more than was declared or is allowed, of which nothing is taken; `UploadTaken`
        once a newer writer has the session; `StorageError`. What was taken before stays.
        """
        view = memoryview(data).cast("B")
        self._check_ours(not self._is_closed)
        try:
            self._check_room(self.offset + len(view))
        except UploadTooLarge:
            with self._partial.owned() as is_ours:
                self._check_ours(is_ours)  # what was taken over has no room to be short of
            raise
        hashing = self._hash(view)
        try:
            with self._partial.owned() as is_ours:
                self._check_ours(is_ours)
                self._partial.append(view, counts=self._checksum is None)
        except BaseException:
            if hashing is not None:
                hashing.result()
            self._running = self._before = None  # it is ahead of the file
            raise
        if hashing is not None:
            hashing.result()
        self.offset += len(view)
        self._sync_beside()
        if time.monotonic() - self._stayed >= self._stay_s:
            self._stay()
        return self.offset

    def _stay(self) -> None:
        self._stayed = time.monotonic()
        self._sessions.stays(self)

    def _check_ours(self, is_ours: bool) -> None:
        if self._is_cut or not is_ours:
            raise UploadTaken(self.uid)

    def _check_room(self, stop: int) -> None:
        limit = self.size if self.size is not None else self._max_bytes
        if limit is not None and stop > limit:
            raise UploadTooLarge(limit_bytes=limit, got=stop)
        if self.size is None and stop > self._reserved:
            step = -(-stop // _RESERVE_BYTES) * _RESERVE_BYTES
            try:
                self._reserved = self._sessions.reserve(self.uid, step, fence=self.fence)
            except (UploadQuota, DiskReserved):  # there may be room for what came
                self._reserved = self._sessions.reserve(self.uid, stop, fence=self.fence)

    def _hash(self, view: memoryview) -> Future[object] | None:
        running, hasher = self._running, self._hasher

        def update() -> None:
            if running is not None:
                running.update(view)
            if hasher is not None:
                hasher.update(view)

        if running is None and hasher is None:
            return None
        if len(view) >= _BESIDE_BYTES:
            return self._sessions.submit(update)
        update()
        return None

    def _sync_beside(self) -> None:
        if self._partial.length - self._synced < _SYNC_BYTES or self._checksum is not None:
            return
        if self._syncing is None or self._syncing.done():
            self._wait_for_sync()  # of one that failed nobody else would hear
            self._synced = self._partial.length
            self._syncing = self._sessions.submit(self._sync)
            self._stay()  # what takes space on the disk by now is not still to come

    def _sync(self) -> None:
        try:
            self._partial.sync()
        except BaseException:
            self._is_unsound = True
            raise

    def set_size(self, size: int) -> None:
        """Say the length that was not known at creation; see `Uploads.set_size`. Raises `LengthMismatch` also when
        more is there already, `UploadTaken` once a newer writer has the session."""
        if size < self.offset:
            raise LengthMismatch(expected=f"at least {self.offset}", got=size)
        self._sessions.resize(self.uid, size, fence=self.fence)
        self.size = size

    def close(self) -> int:
        """End the writing: return when all that was taken is on the disk, with the offset that may be told.

        Call it as well when the client has gone: what came stays. Raises `ChecksumMismatch` when the checksum that
        was announced is another: then nothing of it counts. `UploadTaken` when a newer writer has the session.
        """
        if self._is_closed:
            return self.offset
        try:
            self._check_ours(True)
            self._verify()
            self._sync()
            # Its mark has a name that is new, whoever began it.
            self._sessions.sync_names()
            with self._partial.owned() as is_ours:
                self._check_ours(is_ours)
        except BaseException:
            self.drop()
            raise
        self._end()
        return self.offset

    def _verify(self) -> None:
        self._wait_for_sync()
        with self._partial.owned() as is_ours:
            self._check_ours(is_ours)  # before the checksum: what it is of goes nowhere any more
        if self._checksum is None or self._hasher is None:
            return
        (algorithm, expected), got = self._checksum, digests.hex_digest(self._hasher)
        if got != expected.lower():
            raise ChecksumMismatch(algorithm=algorithm, expected=expected, got=got)
        with self._partial.owned() as is_ours:
            self._check_ours(is_ours)
            self._partial.count()
        self._checksum, self._before = None, self._running

    def drop(self) -> None:
        """End the writing without a checksum's verdict: what came under a checksum is dropped, and what a sync that
        failed may have lost; other bytes stay."""
        if self._is_closed:
            return
        with contextlib.suppress(ForebayError):
            self._wait_for_sync()
        running = self._running if self._checksum is None else self._before
        self._running = None
        with contextlib.suppress(ForebayError), self._partial.owned() as is_ours:
            if is_ours and self._is_unsound:
                self._partial.fall_back()
            elif is_ours:
                self._running = running  # else another's bytes may be behind those that it is of
                self._partial.forget()
        self.offset = self._partial.length
        self._end()

    def _wait_for_sync(self) -> None:
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            syncing.result()

    def _end(self) -> None:
        self._is_closed = True
        self._partial.close()
        self._sessions.ended(self, None if self._is_cut else self._running)
        self._sessions.stays(self)

    def complete(self, digests: Mapping[str, str] | None = None) -> Upload | None:
        """`close`, then `Uploads.complete` without another takeover."""
        if self._is_closed:
            raise UploadTaken(self.uid)
        try:
            self._verify()
        except BaseException:
            self.drop()
            raise
        if self.offset != self.size:
            self.close()
            raise UploadIncomplete(self.uid, missing=() if self.size is None else ((self.offset, self.size),))
        self._is_closed = True
        try:
            upload = self._sessions.finish(self, self._partial, self._running, digests or {})
        except BaseException:
            self._end()
            raise
        self._partial.close()
        self._sessions.ended(self, None)
        return upload

    def cut(self) -> None:
        """Take nothing any more; from any thread. What was taken before stays."""
        if self._is_cut:
            return
        self._is_cut = True
        if self._on_cut is not None and not self._is_closed:
            self._on_cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()
