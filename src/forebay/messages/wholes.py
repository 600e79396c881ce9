"""Bodies that can be sent again: bytes and files, with the conditions and ranges of whoever asks."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
import threading
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from forebay.clock import unix_now
from forebay.core.delivery import Answer, Content, Piece, plan
from forebay.core.fields import Fields, format_http_date, is_strong_etag, media_type, parse_http_date
from forebay.core.ranges import Span
from forebay.errors import PreconditionFailed, RangeNotSatisfiable, UnsupportedBody
from forebay.messages.asgi import Receive, Scope, Send
from forebay.messages.framing import encoded, framed, has_body
from forebay.messages.headers import Headers
from forebay.messages.outflow import OUTFLOW, Reader, Source
from forebay.messages.problems import MEDIA_TYPE, document_of, problem_body

# Fields that `plan` makes itself, or that change what a range is of: with one of an author's own, all goes out.
_NOT_PLANNED = frozenset({"accept-ranges", "content-encoding", "content-length", "content-range", "repr-digest"})
_PLANNED = frozenset({"content-type", "etag", "last-modified"})


class Held:
    """A source of bytes that are in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, offset: int, size: int) -> bytes:
        """See `forebay.messages.outflow.Source`."""
        return self._data[offset : offset + size]


class Opened:
    """A source of an open, seekable file, from *start* on; several of one *turn* may read it at once. Whoever else
    reads it loses its place."""

    def __init__(self, file: BinaryIO, start: int, turn: threading.Lock, pool: Executor | None) -> None:
        self._file, self._start, self._turn, self._pool = file, start, turn, pool

    async def size(self) -> int:
        """How many bytes it has."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._size)

    async def read(self, offset: int, size: int) -> bytes:
        """See `forebay.messages.outflow.Source`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, offset, size)

    def _size(self) -> int:
        with self._turn:
            return max(self._file.seek(0, os.SEEK_END) - self._start, 0)

    def _read(self, offset: int, size: int) -> bytes:
        with self._turn:
            self._file.seek(self._start + offset)
            return self._file.read(size)


def open_regular(path: Path) -> tuple[BinaryIO, os.stat_result]:
    """An open file and what is known of it. Raises `UnsupportedBody` for a folder, a pipe, a device. Blocks."""
    # Not blocking: of a pipe that nobody writes, it would never return.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedBody("a Path", reason=f"{path.name} is no regular file")
        return os.fdopen(descriptor, "rb", buffering=0), status
    except BaseException:
        os.close(descriptor)
        raise


@dataclass(frozen=True, slots=True)
class Representation:
    """What is to be sent: its bytes, how many, and what a message says of it."""

    source: Source
    size: int
    status: int
    headers: Headers
    etag: str | None = None
    modified_s: float | None = None


async def send_whole(scope: Scope, receive: Receive, send: Send, what: Representation) -> None:
    """Answer with *what*; with a part of it, or that it is current, where it has a validator and was asked so."""
    content = _content(what) if scope["method"] in ("GET", "HEAD") and what.status == 200 else None
    if content is None:
        fields = framed(what.status, what.headers, size=what.size)
        spans = (Span(0, what.size),) if what.size and has_body(scope["method"], what.status) else ()
        await _send(scope, receive, send, Answer(what.status, tuple(fields), spans), what.source)
        return
    answer = plan(
        scope["method"],
        Fields((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
        content,
        now=unix_now(),
        boundary=secrets.token_hex(12),
        http_version="1.1",  # its size is known: that is all that matters to 1.0
    )
    assert isinstance(answer, Answer)
    await _send(scope, receive, send, _explained(answer, scope["method"]), what.source)


async def _send(scope: Scope, receive: Receive, send: Send, answer: Answer, source: Source) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded(answer.fields)})
    if not answer.body:
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    with Reader(receive) as reader:
        await OUTFLOW.send(send, reader, answer.body, source)


def _explained(answer: Answer, method: str) -> Answer:
    """*answer*; a refusal with a body that says why."""
    if answer.status not in (412, 416):
        return answer
    error = PreconditionFailed() if answer.status == 412 else RangeNotSatisfiable()
    body = problem_body(document_of(answer.status, detail=str(error), code=error.code, retryable=False))
    fields = (*answer.fields, ("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body))))
    pieces: tuple[Piece, ...] = (body,) if method == "GET" else ()
    return Answer(answer.status, fields, pieces)


def _content(what: Representation) -> Content | None:
    """*what* for `plan`; None: it has no strong validator, or fields that would not go out as they were set."""
    headers = what.headers
    names = {name.lower() for name in headers}
    etag = headers.get("ETag", what.etag)
    kind = headers.get("Content-Type")
    now = unix_now()
    modified = None if what.modified_s is None or what.modified_s > now else format_http_date(what.modified_s)
    own = headers.get("Last-Modified")
    if own is not None:
        then = parse_http_date(own)
        if then is None or then > now or format_http_date(then) != own:
            return None
        modified = own
    if not is_strong_etag(etag) or etag != (etag or "").strip() or names & _NOT_PLANNED:
        return None
    if any(len(headers.get_all(name)) > 1 for name in _PLANNED) or kind is None or media_type(kind) is None:
        return None
    return Content(
        etag=etag or "",
        last_modified=modified,
        fetched_at=now,
        size_bytes=what.size,
        media_type=kind,
        extra=tuple((name, value) for name, value in headers.items_all() if name.lower() not in _PLANNED),
        guarded=False,
    )
