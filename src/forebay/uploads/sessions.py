"""`Uploads`: the sessions of one folder, behind every dialect, long because it is all that they offer.

Blocking: servers call it from threads.

What was acknowledged is on the disk. One writer at a time: a newer one takes the session over, with a fence that
only grows, and the older one is cut (docs/explanation/uploads.md).
"""

from __future__ import annotations

import contextlib
import copy
import math
import mimetypes
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from forebay.catalog.chunks import ChunkRows
from forebay.catalog.uploads import UploadLimits, UploadRow, UploadRows
from forebay.content.files import FileContentStore
from forebay.content.partial import PartialFile
from forebay.core import digests as hashing
from forebay.core.fields import check_field
from forebay.errors import (
    ChecksumMismatch,
    ChunkInvalid,
    ContentRotten,
    ForebayError,
    InvalidValue,
    LengthMismatch,
    OffsetMismatch,
    StateError,
    UnknownUpload,
    UploadExpired,
    UploadFinished,
    UploadIncomplete,
    UploadLocked,
    UploadMismatch,
    UploadTaken,
)
from forebay.models import MAX_UPLOAD_BYTES, ChunkRequest, ChunkResponse, Response, Upload
from forebay.settings import Settings
from forebay.sources import FileSource
from forebay.uploads.chunks import Chunks
from forebay.uploads.completion import Completion
from forebay.uploads.files import UploadFolder
from forebay.uploads.hashing import Kept, Running
from forebay.uploads.states import ANYONE, Anyone, UploadState, state_of, upload_of
from forebay.uploads.writing import Cut, Writer

if TYPE_CHECKING:
    from forebay.messages.incoming import IncomingMessage

Publish = Callable[[Upload, str, str | None], Response]
Owner = str | Anyone | None

_UID = re.compile(r"[0-9a-f]{32}")
# For another process that makes an upload whole; none of ours is ever waited for so.
_LOOK_S = 0.02
_MANY_DIGESTS = 8
# So often in its time an upload that is being written says that it is: to whatever process lets others expire.
_STAYS = 4
_BESIDES = 2  # threads that hash and sync: more than that many cores' worth is not gained


class Uploads:
    """The uploads of one folder, in any thread and any process of it.

    *owner* is the id of a token, None where there is none. Another owner's upload is `UnknownUpload`, like one that
    does not exist.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rows: UploadRows,
        chunk_rows: ChunkRows,
        store: FileContentStore,
        settings: Settings,
        me: str,
        is_alive: Callable[[str], bool],
        clock: Callable[[], float],
        publish: Publish,
    ) -> None:
        self._files = UploadFolder(folder)
        self._rows, self._chunk_rows, self._store, self._settings = rows, chunk_rows, store, settings
        self._clock, self._publish = clock, publish
        self._kept = Kept()
        self._completion = Completion(
            rows=rows,
            chunk_rows=chunk_rows,
            store=store,
            folder=self._files,
            kept=self._kept,
            me=me,
            is_alive=is_alive,
            clock=clock,
            expiry_s=settings.upload_expiry_s,
            submit=self.submit,
        )
        self._chunks = Chunks(
            rows=chunk_rows,
            folder=self._files,
            kept=self._kept,
            me=me,
            is_alive=is_alive,
            open_content=self._open,
        )
        self._writers: dict[str, Writer] = {}
        self._lock = threading.Lock()
        self._beside = ThreadPoolExecutor(_BESIDES, "forebay-upload-hash")
        self._wait = threading.Event()
        self._waits = True

    def unwaiting(self) -> Uploads:
        """These sessions for who must not wait in a thread: as long as another makes an upload whole, what asks
        for it raises `UploadLocked`, and may be asked again."""
        other = copy.copy(self)
        other._waits = False
        return other

    # --- sessions --------------------------------------------------------------------------------------

    def create(
        self,
        *,
        owner: str | None,
        size: int | None = None,
        file_name: str = "",
        media_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        note: str = "",
        digests: Mapping[str, str] | None = None,
        partial: bool = False,
    ) -> UploadState:
        """A new upload whose bytes come in order; durable on return.

        *size*: None as long as it is not known. *note*: what its dialect keeps with it, opaque here. *digests*:
        what the whole must have, hex digits by hashlib name. *partial*: one of several that `concatenate` will
        make one; it never becomes content. Raises `UploadTooLarge`, `UploadQuota`, `TooManyUploads`,
        `DiskReserved`.
        """
        values = _values(owner, size, file_name, media_type, metadata, note, digests)
        return state_of(self._add(values | {"kind": "sequential", "is_partial": partial}), offset=0)

    def _add(self, values: Mapping[str, Any], *, credit: int = 0) -> UploadRow:
        """*credit*: bytes that its owner has already, and that it will take the place of."""
        now, limits = self._clock(), self._limits()
        if limits.max_bytes_per_owner is not None:
            limits = replace(limits, max_bytes_per_owner=limits.max_bytes_per_owner + credit)
        uid = secrets.token_hex(16)
        return self._rows.add(dict(values) | {"id": uid}, limits=limits, now=now, expires=self._expires(now))

    def _limits(self) -> UploadLimits:
        settings = self._settings
        return UploadLimits(
            max_bytes=settings.max_upload_bytes,
            max_open=settings.max_uploads,
            max_open_per_owner=settings.max_uploads_per_owner,
            max_bytes_per_owner=settings.max_upload_bytes_per_owner,
            free_bytes=shutil.disk_usage(self._files.folder).free - settings.min_free_disk_bytes,
        )

    def _expires(self, now: float) -> float:
        return now + self._settings.upload_expiry_s

    def state(self, uid: str, *, owner: Owner, settle: bool = False) -> UploadState:
        """What is known of an upload; the bytes below its offset are on the disk.

        *settle*: whoever still writes it is cut, so that the offset stays what is told until somebody goes on; and
        one that is whole is completed, should a crash have come between. Raises `UnknownUpload`, `UploadExpired`.
        """
        row = self._settled(uid, owner)
        if settle and row.state == "open" and row.kind == "sequential":
            row, offset = self._cut_off(row)
            if row.state == "open":
                return state_of(row, offset=offset)
        return state_of(row, offset=self._offset(row))

    def _cut_off(self, row: UploadRow) -> tuple[UploadRow, int]:
        """*row* with nobody who writes it, and how many bytes there are."""
        while row.state == "open":
            try:
                writer = self._writer(row, on_cut=None)
                offset = writer.close()
            except (UploadFinished, UploadTaken):
                row = self._settled(row.id, ANYONE)
                continue
            if offset != row.size:
                return row, offset
            try:
                return self._completed(row, {}), offset
            except UploadMismatch:
                return row, offset
        return row, self._offset(row)

    def _offset(self, row: UploadRow) -> int:
        if row.state == "complete":
            return row.size or 0
        if row.kind == "chunks":
            return sum(extent.size for extent in self._chunk_rows.all(row.id))
        return self._files.synced(row.id, fence=row.fence)

    def set_size(self, uid: str, *, owner: str | None, size: int) -> None:
        """Say the length that was not known at creation; durable on return. Saying it again is fine, another one
        `LengthMismatch`."""
        row = self._settled(uid, owner)
        there = self._files.length(row.id, fence=row.fence)
        if size < there:
            raise LengthMismatch(expected=f"{there} or more", got=size)
        self._rows.set_size(row.id, _checked_size(size), fence=None, limits=self._limits())

    def resize(self, uid: str, size: int, *, fence: int) -> None:
        """`set_size` for the writer of *fence*, who knows how much is there."""
        self._rows.set_size(uid, _checked_size(size), fence=fence, limits=self._limits())

    def writer(
        self,
        uid: str,
        *,
        owner: str | None,
        offset: int | None = None,
        checksum: tuple[str, str] | None = None,
        on_cut: Cut | None = None,
    ) -> Writer:
        """Take the session over, to append from *offset* on; whoever wrote it before is cut.

        *checksum*: algorithm and hex digest of all that this writer will write; nothing of it counts before that
        has been verified. *on_cut* is called once when a newer writer of this process takes over, in that one's
        thread: it must not wait. Raises `UnknownUpload`, `UploadExpired`, `OffsetMismatch` (the old writer is cut
        all the same), `UploadFinished`.
        """
        if checksum is not None:
            checksum = _checked_digest(*checksum, known=hashing.CHECKSUM_NAMES)
        writer = self._taken_over(uid, owner, on_cut)
        if offset is not None and offset != writer.offset:
            expected = writer.offset
            writer.close()
            raise OffsetMismatch(expected=expected, got=offset)
        if checksum is not None:
            writer.expect(*checksum)
        return writer

    def _taken_over(self, uid: str, owner: str | None, on_cut: Cut | None) -> Writer:
        while True:
            row = self._settled(uid, owner)
            if row.kind != "sequential":
                raise ChunkInvalid("uid", expected="an upload whose bytes come in order", got=uid)
            try:
                return self._writer(row, on_cut=on_cut)
            except UploadFinished:
                if row.state == "complete":
                    raise  # else somebody had just begun to make it whole: it may be open again

    def _writer(self, row: UploadRow, *, on_cut: Cut | None) -> Writer:
        partial: PartialFile | None = None
        try:
            with self._rows.taking(row.id, expires=self._expires(self._clock())) as taken:
                if taken is None:
                    raise UploadFinished(row.id)
                fence = taken.fence
                partial = self._files.begin(row.id, fence=fence)
        except BaseException:
            if partial is not None:
                partial.close()
            raise
        self._cut(row.id)
        if partial is None:
            partial = self._files.take_over(
                row.id, fence=fence, holding=lambda: self._rows.holding(row.id, fence=fence)
            )
        running = self._kept.take(row.id)
        if running is None or running.length != partial.length:
            # Parts are hashed when they are put together: in which order is not known before.
            running = Running.of(row.digests) if partial.length == 0 and not row.is_partial else None
        writer = Writer(
            self,
            taken,
            partial,
            running=running,
            on_cut=on_cut,
            max_bytes=self._settings.max_upload_bytes,
            stay_s=self._settings.upload_expiry_s / _STAYS,
        )
        with self._lock:
            before = self._writers.get(row.id)
            if before is None or before.fence < writer.fence:
                self._writers[row.id] = writer
            else:
                before = writer  # somebody was faster still
        if before is not None:
            before.cut()
        return writer

    def _cut(self, uid: str) -> None:
        with self._lock:
            writer = self._writers.get(uid)
        if writer is not None:
            writer.cut()

    # What a writer asks.

    def submit(self, call: Callable[[], object]) -> Future[object]:
        """See `forebay.uploads.writing.Sessions`; so with the next ones."""
        try:
            return self._beside.submit(call)
        except RuntimeError as error:  # it has been shut down
            raise StateError("this Forebay is closed") from error

    def stays(self, writer: Writer) -> None:
        expires = self._expires(self._clock())
        with contextlib.suppress(ForebayError):  # of use for estimates, and its next piece says so again
            self._rows.note_received(writer.uid, writer.offset, fence=writer.fence, expires=expires)

    def reserve(self, uid: str, needed: int, *, fence: int) -> int:
        return self._rows.reserve(uid, needed, fence=fence, limits=self._limits())

    def sync_names(self) -> None:
        self._files.sync()

    def ended(self, writer: Writer, running: Running | None) -> None:
        with self._lock:
            if self._writers.get(writer.uid) is writer:
                del self._writers[writer.uid]
        if running is not None:
            self._kept.keep(writer.uid, running)

    def finish(
        self, writer: Writer, partial: PartialFile, running: Running | None, digests: Mapping[str, str]
    ) -> Upload | None:
        row = self._completion.written(
            writer.uid, partial, running, fence=writer.fence, digests=_checked_digests(digests)
        )
        return self._upload(row)

    # --- the end ---------------------------------------------------------------------------------------

    def complete(self, uid: str, *, owner: str | None, digests: Mapping[str, str] | None = None) -> Upload | None:
        """Verify a whole upload and store it as content; durable on return. None for a partial one.

        Doing it again gives the same. *digests*: more that it must have, or others than were said before; they stay
        with it. Raises `UploadIncomplete` with what is missing; `UploadMismatch`, after which the upload is open.
        """
        return self._upload(self._completed(self._settled(uid, owner), _checked_digests(digests)))

    def _completed(self, row: UploadRow, digests: Mapping[str, str]) -> UploadRow:
        while row.state != "complete":
            if row.kind == "sequential":
                length = self._files.length(row.id, fence=row.fence)
                if length != row.size:  # whoever writes it is not disturbed
                    before, row = row, self._settled(row.id, ANYONE)
                    if (row.state, row.fence) != (before.state, before.fence):
                        continue  # its files were on the move
                    raise UploadIncomplete(row.id, missing=() if row.size is None else ((length, row.size),))
            self._cut(row.id)
            done = self._completion.complete(row, digests=digests)
            if done is not None:
                return done
            row = self._settled(row.id, ANYONE)
        if row.sha256 is not None:
            self._check_stored(row.id, row.sha256, digests)
        return row

    def _check_stored(self, uid: str, sha256: str, digests: Mapping[str, str]) -> None:
        for name, expected in digests.items():
            got = sha256 if name == "sha256" else self._store.digest(sha256, name)
            if got != expected:
                raise UploadMismatch(uid, what=name, expected=expected, got=got)

    def cancel(self, uid: str, *, owner: str | None) -> None:
        """Forget an upload, complete or not, and remove its bytes; whoever writes it is cut. What was published of
        it stays. Raises `UnknownUpload`."""
        row = self._settled(uid, owner)
        self._rows.remove(row.id, now=self._clock())
        self._cut(row.id)
        self._kept.take(row.id)
        self._files.forget(row.id)

    def concatenate(
        self,
        parts: Sequence[str],
        *,
        owner: str | None,
        file_name: str = "",
        media_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        note: str = "",
        digests: Mapping[str, str] | None = None,
    ) -> UploadState:
        """A complete upload of the bytes of *parts*, in that order; the parts are used up by it.

        Where the file system can share blocks, nothing is copied. With the same *note* again, if that names the
        parts, it gives the same once they are used up: the answer may have been lost. Raises `UnknownUpload`,
        `UploadIncomplete`, `UploadMismatch`, and what `create` raises.
        """
        try:
            rows = [self._settled(part, owner) for part in parts]
        except UnknownUpload:
            made = self._made_of(parts, owner, note, digests)
            if made is None:
                raise
            return made
        if not rows or any(not row.is_partial for row in rows):
            raise InvalidValue("parts", expected="partial uploads, one or more", got=len(rows))
        rows = [self._completed(row, {}) for row in rows]
        size = sum(row.size or 0 for row in rows)
        values = _values(owner, size, file_name, media_type, metadata, note, digests)
        credit = sum(row.size or 0 for row in {row.id: row for row in rows}.values())
        row = self._add(values | {"kind": "sequential", "is_partial": False}, credit=credit)
        try:
            done = self._completion.concatenate(row, rows)
        except BaseException as error:
            self._rows.remove(row.id, now=self._clock())
            self._files.forget(row.id)
            # Whoever asked before may still have been at it.
            gone = isinstance(error, UploadTaken | UploadIncomplete)
            made = self._made_of(parts, owner, note, digests) if gone else None
            if made is None:
                raise
            return made
        return state_of(done, offset=size)

    def _made_of(
        self, parts: Sequence[str], owner: str | None, note: str, digests: Mapping[str, str] | None
    ) -> UploadState | None:
        """The upload that *parts* were made one of already, as its *note* says."""
        if not parts or not all(part in note for part in parts):
            return None
        made = self._rows.noted(note, owner=owner)
        if made is None or made.sha256 is None or (made.expires_at or math.inf) <= self._clock():
            return None
        self._check_stored(made.id, made.sha256, _checked_digests(digests))
        return state_of(made, offset=made.size or 0)

    def ingest(
        self, source: FileSource, *, owner: str | None, file_name: str, tell: Callable[[int], None]
    ) -> Upload:
        """A complete upload of the bytes of a file, which stays where it is; *tell* hears how many are done.

        Where the file system can share blocks, nothing is copied. Raises `FileChanged` when it is written
        meanwhile, and what `create` raises.
        """
        row = self._add(
            _values(owner, source.size, file_name, None, None, "", None)
            | {"kind": "sequential", "is_partial": False}
        )
        try:
            done = self._completion.ingest(row, source, tell)
        except BaseException:
            self._rows.remove(row.id, now=self._clock())
            self._files.forget(row.id)
            raise
        return upload_of(done, media_type=_media_type(done)).at(self)

    def get_upload(self, uid: str, *, owner: Owner = ANYONE) -> Upload:
        """A whole upload, completed if nobody has done that yet. Raises `UploadIncomplete` with what is missing,
        `UploadMismatch`, `UnknownUpload`, `UploadExpired`."""
        upload = self._upload(self._completed(self._settled(uid, owner), {}))
        if upload is None:
            raise UnknownUpload(uid)  # a part of another, no upload by itself
        return upload

    def _upload(self, row: UploadRow) -> Upload | None:
        return None if row.sha256 is None else upload_of(row, media_type=_media_type(row)).at(self)

    # --- chunks ----------------------------------------------------------------------------------------

    def handle_chunk_request(
        self, message: IncomingMessage, chunk: ChunkRequest, *, owner: Owner = ANYONE
    ) -> ChunkResponse:
        """Take one chunk, in any order and beside others; durable on return.

        Sent again with the same bytes it changes nothing; with other bytes it takes the place of the first. Sizes
        that do not add up are told by `get_upload`. *owner*: unless given, that of the token that came with
        *message*. Raises `ChunkInvalid`, `ChecksumMismatch`, `UploadFinished`, and what `create` raises.
        """
        if owner is ANYONE:
            owner = getattr(message, "owner", ANYONE)
        _check_chunk(chunk)
        row = self._settled(chunk.uploadUid, owner) if chunk.uploadUid else self._begun(chunk, owner)
        while True:
            expires = self._expires(self._clock())
            if self._chunks.take(row, chunk, limits=self._limits(), expires=expires):
                return ChunkResponse(uploadUid=row.id)
            row = self._settled(row.id, owner)

    def _begun(self, chunk: ChunkRequest, owner: Owner) -> UploadRow:
        owned_by = None if isinstance(owner, Anyone) else owner
        values = _values(owned_by, chunk.totalSize, chunk.fileName, None, None, "", None)
        return self._add(values | {"kind": "chunks", "is_partial": False, "chunk_count": max(chunk.chunkCount, 1)})

    # --- finding ---------------------------------------------------------------------------------------

    def _settled(self, uid: str, owner: Owner) -> UploadRow:
        """The row of an upload that nobody is making whole just now."""
        while True:
            row = self._seen(uid, owner)
            if row.state != "closing":
                return row
            if self._completion.is_at_work(row):
                if not self._waits:
                    raise UploadLocked(uid)
                self._wait.wait(_LOOK_S)
                continue
            try:
                self._completion.complete(row, digests={})
            except (UploadIncomplete, UploadMismatch):
                continue  # it is open again

    def _seen(self, uid: str, owner: Owner) -> UploadRow:
        row = self._rows.find(uid) if _UID.fullmatch(uid) else None
        if row is None or (owner is not ANYONE and row.owner != owner):
            raise UnknownUpload(uid)
        if row.expires_at is not None and row.expires_at <= self._clock():
            raise UploadExpired(uid)
        return row

    # --- what an upload asks ---------------------------------------------------------------------------

    def private_copy(self, upload: Upload) -> Path:
        """See `Upload.path`."""
        row = self._seen(upload.uploadUid, ANYONE)
        self._open(row).close()
        source, free_bytes = self._store.path(upload.sha256), self._limits().free_bytes
        return self._files.private_copy(row.id, source, free_bytes=free_bytes)

    def open_upload(self, upload: Upload) -> BinaryIO:
        """See `Upload.open`."""
        return self._open(self._seen(upload.uploadUid, ANYONE))

    def _open(self, row: UploadRow) -> BinaryIO:
        assert row.sha256 is not None
        if self._rows.is_rotten(row.sha256):
            raise ContentRotten(row.sha256, found="its bytes were found damaged")
        return self._store.open(row.sha256, size_bytes=row.size or 0)

    def publish_upload(self, upload: Upload, name: str, *, tag: str | None) -> Response:
        """See `Upload.publish`."""
        return self._publish(upload, name, tag)

    # --- housekeeping ----------------------------------------------------------------------------------

    def expire(self, *, now: float | None = None) -> list[str]:
        """Forget the uploads whose time is over, and remove what crashes have left of others; their ids."""
        with self._lock:
            written = set(self._writers)
        now = self._clock() if now is None else now
        besides = written | {row.id for row in self._rows.closing() if self._completion.is_at_work(row)}
        gone = self._rows.expire(now=now, besides=besides)
        for uid in gone:
            self._kept.take(uid)
            self._files.forget(uid)
        self._sweep()
        return gone

    def _sweep(self) -> None:
        # A row is there before the first file, and goes before the last one.
        keys = self._files.keys()
        for uid in keys - self._rows.ids():
            self._files.forget(uid)
        for uid in keys & self._rows.ids(with_content=True):
            self._files.discard(uid)

    def overdue(self) -> list[tuple[str, int]]:
        """What `expire` would forget now: ids and bytes."""
        return self._rows.overdue(now=self._clock())

    def used_bytes(self) -> int:
        """What uploads take on the disk, but for the content of those that are complete."""
        return self._files.used_bytes()

    def close(self) -> None:
        """Cut every writer of this process; what was acknowledged stays."""
        with self._lock:
            writers = list(self._writers.values())
        for writer in writers:
            writer.cut()
        self._beside.shutdown()


def _values(
    owner: str | None,
    size: int | None,
    file_name: str,
    media_type: str | None,
    metadata: Mapping[str, str] | None,
    note: str,
    digests: Mapping[str, str] | None,
) -> dict[str, Any]:
    """The columns of a new upload that its caller fills; checked."""
    for field, text in (("file_name", file_name), ("note", note), ("media_type", media_type or "")):
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise InvalidValue(field, expected="Unicode text", got="a lone surrogate")
    if media_type is not None:
        check_field("Content-Type", media_type)
    return {
        "owner": owner, "size": None if size is None else _checked_size(size), "file_name": file_name,
        "media_type": media_type, "metadata": dict(metadata or {}), "note": note,
        "digests": _checked_digests(digests),
    }  # fmt: skip


def _checked_size(size: int) -> int:
    if not 0 <= size <= MAX_UPLOAD_BYTES:
        raise InvalidValue("size", expected=f"0 to {MAX_UPLOAD_BYTES} bytes", got=size)
    return size


def _checked_digests(digests: Mapping[str, str] | None) -> dict[str, str]:
    if digests is not None and len(digests) > _MANY_DIGESTS:
        raise InvalidValue("digests", expected=f"{_MANY_DIGESTS} at most", got=len(digests))
    return dict(_checked_digest(name, value, known=hashing.HASH_NAMES) for name, value in (digests or {}).items())


def _checked_digest(name: str, value: str, *, known: frozenset[str]) -> tuple[str, str]:
    if name not in known:
        raise InvalidValue("digest", expected="one of " + ", ".join(sorted(known)), got=name)
    length = hashing.hex_length(name)
    if not re.fullmatch(r"[0-9a-fA-F]+", value) or len(value) != length:
        raise InvalidValue("digest", expected=f"{length} hex digits of {name}", got=value)
    return name, value.lower()


def _check_chunk(chunk: ChunkRequest) -> None:
    count = max(chunk.chunkCount, 1)
    if chunk.chunkNumber >= count:
        raise ChunkInvalid("chunkNumber", expected=f"0 to {count - 1}", got=chunk.chunkNumber)
    if chunk.digest is not None:
        name, _, value = chunk.digest.partition(":")
        algorithm, expected = _checked_digest(name.lower(), value.strip(), known=hashing.CHECKSUM_NAMES)
        hasher = hashing.new_checksum(algorithm)
        hasher.update(memoryview(chunk.content))
        got = hashing.hex_digest(hasher)
        if got != expected:
            raise ChecksumMismatch(algorithm=algorithm, expected=expected, got=got)


def _media_type(row: UploadRow) -> str:
    return row.media_type or mimetypes.guess_type(row.file_name)[0] or "application/octet-stream"
