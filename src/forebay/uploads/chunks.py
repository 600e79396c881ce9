"""Chunks in any order: each to a place of its own in the file of its upload, and on the disk before the answer."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import BinaryIO

from forebay.catalog.chunks import ChunkRows, Claim
from forebay.catalog.uploads import UploadLimits, UploadRow
from forebay.durable import storage_errors, sync_file, write_all
from forebay.errors import ChunkInvalid, StorageError, UploadFinished
from forebay.models import ChunkRequest
from forebay.uploads.files import UploadFolder
from forebay.uploads.hashing import Kept, Running

_READ_BYTES = 1 << 20


class Chunks:
    """Takes the chunks of uploads of one folder. *me* names this process, *is_alive* knows of the others."""

    def __init__(
        self,
        *,
        rows: ChunkRows,
        folder: UploadFolder,
        kept: Kept,
        me: str,
        is_alive: Callable[[str], bool],
        open_content: Callable[[UploadRow], BinaryIO],
    ) -> None:
        self._rows, self._folder, self._kept = rows, folder, kept
        self._me, self._is_alive, self._open_content = me, is_alive, open_content
        self._hashing = threading.Lock()

    def take(self, row: UploadRow, chunk: ChunkRequest, *, limits: UploadLimits, expires: float) -> bool:
        """Write a chunk; False when the upload changed its state meanwhile, and looking again is in order. Durable
        on return."""
        self._check(row, chunk)
        if self._is_there(row, chunk):
            return True
        if row.state == "complete":
            raise UploadFinished(row.id)
        data = memoryview(chunk.content)
        claim = self._rows.claim(
            row.id,
            chunk.chunkNumber,
            len(data),
            me=self._me,
            is_alive=self._is_alive,
            limits=limits,
            expires=expires,
        )
        if claim is None:
            return False
        try:
            self._write(claim, data)
            done = self._rows.acknowledge(claim, me=self._me)
        except BaseException:
            with contextlib.suppress(StorageError):  # then it is given up with this process
                self._rows.give_up(claim)
            raise
        if done:
            self._hash(row, claim, data)
        else:
            self._rows.give_up(claim)
        return done

    def _check(self, row: UploadRow, chunk: ChunkRequest) -> None:
        if row.kind != "chunks":
            raise ChunkInvalid("uploadUid", expected="an upload of chunks", got=row.id)
        if max(chunk.chunkCount, 1) != row.chunk_count:
            raise ChunkInvalid("chunkCount", expected=f"{row.chunk_count}, as before", got=chunk.chunkCount)
        if chunk.totalSize != row.size:
            raise ChunkInvalid("totalSize", expected=f"{row.size}, as before", got=chunk.totalSize)

    def _is_there(self, row: UploadRow, chunk: ChunkRequest) -> bool:
        """Whether the chunk that counts has the same bytes."""
        extent = self._rows.one(row.id, chunk.chunkNumber)
        if extent is None or extent.size != len(chunk.content):
            return False
        try:
            if row.state == "complete":
                before = self._rows.bytes_before(row.id, chunk.chunkNumber)
                with self._open_content(row) as file:
                    return _equal(file.fileno(), before, chunk.content)
            with self._folder.chunks(row.id) as descriptor:
                return _equal(descriptor, extent.offset, chunk.content)
        except OSError:
            return False

    def _write(self, claim: Claim, data: memoryview) -> None:
        if not data:
            return
        folder = self._folder
        with folder.chunks(claim.upload_id) as descriptor, storage_errors("the chunks of an upload", folder.folder):
            write_all(descriptor, data, claim.extent.offset)
            sync_file(descriptor)

    def _hash(self, row: UploadRow, claim: Claim, data: memoryview) -> None:
        """Go on with the digest as long as chunks come in order."""
        with self._hashing:
            running = self._kept.take(row.id)
            if running is None and claim.extent.number == 0:
                running = Running.of(row.digests)
            if running is None:
                return
            if claim.extent.number == len(running.claims):
                running.update(data)
                running.claims.append(claim.extent.claim)
            elif claim.extent.number < len(running.claims):
                return  # of bytes that do not count any more
            self._kept.keep(row.id, running)


def _equal(descriptor: int, offset: int, data: bytes) -> bool:
    view = memoryview(data)
    while view:
        got = os.pread(descriptor, min(len(view), _READ_BYTES), offset)
        if not got or got != view[: len(got)]:
            return False
        view, offset = view[len(got) :], offset + len(got)
    return True
