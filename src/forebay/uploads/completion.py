"""From bytes that are all there to content: verified, in order, stored, and only then complete.

Whoever makes an upload whole has it for itself (``closing``) as long as it lives; what a killed process had begun,
the next one who looks does again. The bytes stay where they were until the catalog has the content.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from forebay.catalog.chunks import ChunkRows
from forebay.catalog.uploads import UploadRow, UploadRows
from forebay.content.files import FileContentStore
from forebay.content.partial import PartialFile
from forebay.core import chunks
from forebay.durable import storage_errors, sync_file
from forebay.errors import ForebayError, UploadIncomplete, UploadMismatch, UploadTaken
from forebay.sources import FileSource
from forebay.uploads.files import UploadFolder, copy_range, share
from forebay.uploads.hashing import Kept, Running

# Copied, then hashed from memory, and told of; between two of them it can be broken off.
_STEP_BYTES = 64 << 20


class Completion:
    """Makes uploads of one folder complete. *me* names this process, *is_alive* knows of the others; *submit* calls
    in another thread."""

    def __init__(
        self,
        *,
        rows: UploadRows,
        chunk_rows: ChunkRows,
        store: FileContentStore,
        folder: UploadFolder,
        kept: Kept,
        me: str,
        is_alive: Callable[[str], bool],
        clock: Callable[[], float],
        expiry_s: float,
        submit: Callable[[Callable[[], object]], Future[object]],
    ) -> None:
        self._rows, self._store, self._folder, self._kept = rows, store, folder, kept
        self._me, self._is_alive = me, is_alive
        self._chunk_rows = chunk_rows
        self._clock, self._expiry_s = clock, expiry_s
        self._submit = submit
        self._closing: Counter[str] = Counter()  # threads that are at it, or try
        self._staged: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def is_at_work(self, row: UploadRow) -> bool:
        """Whether whoever began to make this upload whole still does."""
        if row.closer == self._me:
            with self._lock:
                return self._closing[row.id] > 0
        return row.closer is not None and self._is_alive(row.closer)

    # --- who does it -----------------------------------------------------------------------------------

    def written(
        self, uid: str, partial: PartialFile, running: Running | None, *, fence: int, digests: Mapping[str, str]
    ) -> UploadRow:
        """Complete what the writer of *fence* has written whole."""
        with self._having(uid, fence=fence, digests=digests) as row:
            return self._sequential(row, partial, running)

    def complete(self, row: UploadRow, *, digests: Mapping[str, str]) -> UploadRow | None:
        """Complete an upload that nobody writes. None when somebody else was at it after *row* was read: then look
        again. Raises `UploadIncomplete`, `UploadMismatch`."""
        dead = row.closer if row.state == "closing" else None
        try:
            with self._having(row.id, fence=row.fence, dead=dead, digests=digests, durable=True) as mine:
                if mine.kind == "chunks":
                    return self._chunks(mine)
                partial = self._folder.take_over(
                    mine.id, fence=mine.fence, holding=lambda: self._rows.holding(mine.id, fence=mine.fence)
                )
                try:
                    if partial.length != mine.size:
                        raise _incomplete(mine, partial.length)
                    return self._sequential(mine, partial, self._kept.take(mine.id))
                finally:
                    partial.close()
        except UploadTaken:
            return None

    @contextmanager
    def _having(
        self,
        uid: str,
        *,
        fence: int | None = None,
        dead: str | None = None,
        digests: Mapping[str, str] = MappingProxyType({}),
        durable: bool = False,
    ) -> Iterator[UploadRow]:
        """The upload for us alone; open again when nothing comes of it, and then it still must have *digests*. See
        `UploadRows.close`."""
        with self._lock:
            self._closing[uid] += 1
        try:
            row = self._rows.close(uid, fence=fence, dead=dead, me=self._me, digests=digests, durable=durable)
            if row is None:
                raise UploadTaken(uid)
            try:
                yield row
            except BaseException as error:
                # From then on its file may be content as well, and must not be written: it is completed again. So
                # it may be when whoever died had come that far, unless its bytes are not even those.
                may_be_content = (uid, row.fence) in self._staged or (
                    dead is not None and not isinstance(error, UploadIncomplete | UploadMismatch)
                )
                if not may_be_content:
                    with contextlib.suppress(ForebayError):  # then it is found to be nobody's
                        self._rows.reopen(uid, fence=row.fence)
                raise
            finally:
                with self._lock:
                    self._staged.discard((uid, row.fence))
        finally:
            with self._lock:
                self._closing[uid] -= 1
                if not self._closing[uid]:
                    del self._closing[uid]

    # --- bytes that came in order ----------------------------------------------------------------------

    def _sequential(self, row: UploadRow, partial: PartialFile, running: Running | None) -> UploadRow:
        assert row.size is not None
        if row.is_partial:
            with _sound(partial):
                partial.sync()
            self._folder.sync()
            return self._finish(row, sha256=None, size=row.size)
        if running is None or running.length > row.size or not running.has(row.digests):
            running = Running.of(row.digests)
        if running.length < row.size:
            with partial.path.open("rb") as file, storage_errors("an upload", self._folder.folder):
                running.read_on(file.fileno(), [(running.length, row.size)])
        try:
            _verify(row, running)
        except UploadMismatch:
            with _sound(partial):  # it stays, and what is told of it is what is on the disk
                partial.sync()
            self._folder.sync()
            raise
        finally:
            self._kept.keep(row.id, running)  # should anything be in the way, it need not be read again
        try:
            with _sound(partial):
                partial.seal()
        except BaseException:
            self._kept.take(row.id)  # it is ahead of the file
            raise
        return self._commit(row, partial.path, running.hex("sha256"), row.size)

    # --- chunks ----------------------------------------------------------------------------------------

    def _chunks(self, row: UploadRow) -> UploadRow:
        extents = self._chunk_rows.all(row.id)
        assert row.chunk_count is not None
        assert row.size is not None
        missing = chunks.missing(row.chunk_count, (extent.number for extent in extents))
        if missing:
            raise UploadIncomplete(row.id, missing=missing, counted="chunks")
        size = sum(extent.size for extent in extents)
        if size != row.size:
            raise UploadMismatch(row.id, what="totalSize", expected=str(row.size), got=str(size))
        running = self._kept.take(row.id) or Running.of(row.digests)
        known = len(running.claims)
        if running.claims != [extent.claim for extent in extents[:known]] or not running.has(row.digests):
            running, known = Running.of(row.digests), 0
        # While one may still be writing, its file can not become content.
        is_quiet = not any(map(self._is_alive, self._chunk_rows.writers(row.id)))
        with self._folder.chunks(row.id) as descriptor, storage_errors("an upload", self._folder.folder):
            if chunks.in_order(extents) and is_quiet:
                path = self._folder.chunks_path(row.id)
                running.read_on(descriptor, chunks.joined(extents[known:]))
                _verify(row, running)
                if os.fstat(descriptor).st_size != row.size:
                    os.ftruncate(descriptor, row.size)
                os.fchmod(descriptor, 0o444)
                sync_file(descriptor)
            else:
                path = self._folder.new_file(row.id, fence=row.fence)
                try:
                    _put_in_order(descriptor, path, extents, running, known)
                    _verify(row, running)
                except BaseException:
                    path.unlink(missing_ok=True)
                    raise
        return self._commit(row, path, running.hex("sha256"), row.size)

    # --- several that become one -----------------------------------------------------------------------

    def concatenate(self, row: UploadRow, parts: Sequence[UploadRow]) -> UploadRow:
        """Complete *row* with the bytes of *parts*, which go."""
        with self._having(row.id) as mine:
            assert mine.size is not None
            path = self._folder.new_file(mine.id, fence=mine.fence)
            running = Running.of(mine.digests)
            with storage_errors("an upload", self._folder.folder), path.open("xb") as target:
                at = 0
                for part in parts:
                    source = self._folder.part_of(part.id, fence=part.fence)
                    size = part.size or 0
                    if source is None and size:
                        raise UploadIncomplete(part.id, missing=((0, size),))
                    if source is not None:
                        with source.open("rb") as file:
                            self._copy_and_hash(file.fileno(), target.fileno(), size, at, running)
                    at += size
                _verify(mine, running)
                os.fchmod(target.fileno(), 0o444)
                sync_file(target.fileno())
            used = {part.id: part.fence for part in parts}
            return self._commit(mine, path, running.hex("sha256"), mine.size, used=used)

    def _copy_and_hash(self, source: int, target: int, size: int, at: int, running: Running) -> None:
        """Copy all of *source* to *at*, and hash it beside that: both take about as long. In steps, for others wait
        for that thread, too."""
        for start in range(0, size, _STEP_BYTES):
            stop = min(start + _STEP_BYTES, size)
            copying = self._submit(functools.partial(copy_range, source, target, start, stop, at + start))
            try:
                running.read_on(source, [(start, stop)])
            finally:
                wait((copying,))  # the files must not be closed under it
            copying.result()

    # --- a file on this machine -------------------------------------------------------------------------

    def ingest(self, row: UploadRow, source: FileSource, tell: Callable[[int], None]) -> UploadRow:
        """Complete *row* with the bytes of *source*, which stays. It is the copy that is hashed."""
        with self._having(row.id) as mine:
            assert mine.size is not None
            path, running = self._folder.new_file(mine.id, fence=mine.fence), Running.of(mine.digests)
            with storage_errors("an upload", self._folder.folder), path.open("x+b") as target:
                try:
                    _copy_hashed(source, target.fileno(), running, tell)
                except OSError:
                    source.check()  # it may have become shorter
                    raise
                source.check()
                os.fchmod(target.fileno(), 0o444)
                sync_file(target.fileno())
            return self._commit(mine, path, running.hex("sha256"), mine.size)

    # --- the end ---------------------------------------------------------------------------------------

    def _commit(
        self, row: UploadRow, path: Path, sha256: str, size: int, *, used: Mapping[str, int] | None = None
    ) -> UploadRow:
        """Bytes that are synced become content; durable on return (DESIGN.md, invariant 2)."""
        with self._lock:
            self._staged.add((row.id, row.fence))
        with self._store.committing():
            (error,) = self._store.adopt([(self._folder.staged(row.id, path), sha256, False)])
            if error is not None:
                raise error
            done = self._finish(row, sha256=sha256, size=size, used=list(used or ()))
        self._kept.take(row.id)
        for uid, fence in {row.id: row.fence, **(used or {})}.items():
            self._folder.clear(uid, fence=fence)
        return done

    def _finish(self, row: UploadRow, *, sha256: str | None, size: int, used: Sequence[str] = ()) -> UploadRow:
        now = self._clock()
        return self._rows.finish(
            row.id, fence=row.fence, size=size, sha256=sha256, now=now, expires=now + self._expiry_s, used=used
        )


@contextmanager
def _sound(partial: PartialFile) -> Iterator[None]:
    """What a sync fails for does not count any more."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ForebayError):
            partial.fall_back()
        raise


def _incomplete(row: UploadRow, length: int) -> UploadIncomplete:
    return UploadIncomplete(row.id, missing=() if row.size is None else ((length, row.size),))


def _verify(row: UploadRow, running: Running) -> None:
    for name, expected in row.digests.items():
        got = running.hex(name)
        if got != expected:
            raise UploadMismatch(row.id, what=name, expected=expected, got=got)


def _copy_hashed(source: FileSource, target: int, running: Running, tell: Callable[[int], None]) -> None:
    with source.opened() as descriptor:
        is_there = share(descriptor, target)
        for start in range(0, source.size, _STEP_BYTES):
            stop = min(start + _STEP_BYTES, source.size)
            if not is_there:
                copy_range(descriptor, target, start, stop, start)
            running.read_on(target, [(start, stop)])
            tell(stop)


def _put_in_order(source: int, path: Path, extents: Sequence[chunks.Extent], running: Running, known: int) -> None:
    """Write what *extents* have to a new file at *path*, synced; *running* goes on behind the first *known*."""
    path.unlink(missing_ok=True)
    with path.open("xb") as target:
        at = 0
        for start, stop in chunks.joined(extents):
            copy_range(source, target.fileno(), start, stop, at)
            at += stop - start
        running.read_on(source, chunks.joined(extents[known:]))
        os.fchmod(target.fileno(), 0o444)
        sync_file(target.fileno())
