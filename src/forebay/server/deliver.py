"""Content out: the bytes of a version, whole or still landing (RFC 9110; DESIGN.md sections 4 and 6).

What is asked for again and again is kept ready: its head as bytes, and small content itself. A version never
changes, so only its removal must be noticed; a counter of SQLite's tells whether anybody has committed anything.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from forebay.bay import extension_for
from forebay.catalog.reader import Deliverable, VersionReader
from forebay.content.following import Following, Followings
from forebay.core.delivery import Answer, AwaitSize, Content, Pairs, plan
from forebay.core.exchange import Representation
from forebay.core.fields import Fields, format_links
from forebay.core.filenames import choose_filename
from forebay.core.urls import show_url
from forebay.errors import (
    ContentRotten,
    ForebayError,
    OriginError,
    PreconditionFailed,
    RangeNotSatisfiable,
    StateError,
    UnknownVersion,
)
from forebay.fetch.transfer import told, total_of
from forebay.server.access import Granted
from forebay.server.basin import Basin, Changes
from forebay.server.bodies import Receive, Scope
from forebay.server.pieces import LandingSource, Outflow, Reader, StoredSource
from forebay.server.problems import SECURITY_FIELDS, Field, Send, problem_body, problem_fields, problem_of

# Fields that make an answer another than the usual one.
_SPECIAL = frozenset(
    {
        b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since",
        b"want-repr-digest",
    }
)  # fmt: skip
_SMALL_BYTES = 64 << 10
_HOT_BYTES = 64 << 20
_HOT_MOST = 4096
_READ_THREADS = 4
_YEAR_S = 31_536_000


@dataclass(frozen=True, slots=True)
class _Hot:
    """The usual answer to a GET of a version: its head, and its body if that is small."""

    found: Deliverable
    head: dict[str, object]
    body: dict[str, object]
    size: int


class Delivery:
    """Delivers the content of one folder, in one event loop."""

    def __init__(self, basin: Basin) -> None:
        self.basin = basin
        self._reader = VersionReader(basin.bay.folder / "catalog.sqlite")
        self._pool = ThreadPoolExecutor(_READ_THREADS, "forebay-read")
        self._outflow = Outflow()
        self._followings = Followings(basin.bay.partials, total_of=total_of)
        self._hot: OrderedDict[tuple[str, str], _Hot] = OrderedDict()
        self._hot_bytes = 0

    def close(self) -> None:
        """Close what is open; answers under way have ended."""
        self._pool.shutdown()
        self._reader.close()

    # --- by name ---------------------------------------------------------------------------------------

    async def version(
        self, scope: Scope, receive: Receive, send: Send, *, granted: Granted, request_id: str, version: str
    ) -> None:
        """Answer a GET or HEAD of one version's content; of one that is being fetched, from its first byte."""
        if await self._send_hot(scope, send, granted, (request_id, version)):
            return
        found = self._find(request_id, version, granted)
        if found.status == "duplicate" and found.previous_version is not None:
            # The version that it equals stays, it goes: so clients keep what they have.
            found = self._reader.version(request_id, found.previous_version) or found
        extra: Pairs = (("Cache-Control", _lifetime(granted)), *version_links(found))
        if found.status in ("wait", "in_progress"):
            verified = b"forebay-verified=1" in scope["query_string"].split(b"&")
            await self._landing(scope, receive, send, found, granted, verified=verified)
            return
        await self.stored(scope, receive, send, found, extra=extra, hot=not scope["query_string"])

    def find(self, request_id: str, version: str) -> Deliverable | None:
        """The version of that name."""
        return self._reader.version(request_id, version)

    def newest(self, request_id: str) -> Deliverable | None:
        """The newest version, whatever its status."""
        return self._reader.newest(request_id)

    def _find(self, request_id: str, version: str, granted: Granted) -> Deliverable:
        found = self._reader.version(request_id, version)
        if found is None or not granted.sees(found.group_name):
            raise UnknownVersion(f"request {request_id}", wanted=f"version {version}")
        return found

    # --- what is stored --------------------------------------------------------------------------------

    async def stored(
        self, scope: Scope, receive: Receive, send: Send, found: Deliverable, *, extra: Pairs, hot: bool = False
    ) -> None:
        """Deliver a version that is whole. *hot*: the answer may be kept ready for the next who asks."""
        with self._open(found) as file:
            self.basin.bay.note_used(found.id, found.request_id)
            content = _content(found, extra)
            incoming = _incoming(scope)
            answer = plan(
                scope["method"],
                incoming,
                content,
                now=self.basin.now(),
                boundary=secrets.token_hex(12),
                http_version=scope["http_version"],
            )
            assert isinstance(answer, Answer)  # its size is known
            descriptor = file.fileno()
            if answer.status == 200 and (content.size_bytes or 0) <= _SMALL_BYTES:
                body = await self._whole(descriptor, content.size_bytes or 0, found)
                if hot and not any(name in _SPECIAL for name, _ in scope["headers"]):
                    self._keep_hot(found, answer, body)
                await _send_whole(send, answer, body if answer.body else b"")
                return
            await self._send(scope, receive, send, answer, StoredSource(descriptor, self._pool))

    @contextlib.contextmanager
    def _open(self, found: Deliverable) -> Iterator[BinaryIO]:
        if found.status == "failed":
            raise _failure(found)
        if found.content_sha256 is None or found.size_bytes is None:
            raise StateError(f"version {found.version} has no content: it is {found.status}")
        try:
            file = self.basin.bay.store.open(found.content_sha256, size_bytes=found.size_bytes)
        except ContentRotten as error:
            self.basin.bay.catalog.mark_rotten(found.content_sha256, found=str(error), now=self.basin.now())
            raise
        with file:
            yield file

    async def _whole(self, descriptor: int, size: int, found: Deliverable) -> bytes:
        data = await StoredSource(descriptor, self._pool).read(0, size) if size else b""
        if len(data) != size:
            raise ContentRotten(found.content_sha256 or "", found=f"{len(data)} bytes instead of {size}")
        return data

    # --- what is asked for again and again -------------------------------------------------------------

    async def _send_hot(self, scope: Scope, send: Send, granted: Granted, key: tuple[str, str]) -> bool:
        if self._reader.changed():
            self._hot.clear()
            self._hot_bytes = 0
            return False
        hot = self._hot.get(key)
        if hot is None or scope["query_string"] or scope["method"] not in ("GET", "HEAD"):
            return False
        if not granted.sees(hot.found.group_name) or any(name in _SPECIAL for name, _ in scope["headers"]):
            return False
        self._hot.move_to_end(key)
        self.basin.bay.note_used(hot.found.id, hot.found.request_id)
        await send(hot.head)
        await send(hot.body if scope["method"] == "GET" else _NO_BODY)
        return True

    def _keep_hot(self, found: Deliverable, answer: Answer, body: bytes) -> None:
        size = len(body)
        self._hot[found.request_id, found.version] = _Hot(
            found, _start(answer), {"type": "http.response.body", "body": body, "more_body": False}, size
        )
        self._hot_bytes += size
        while self._hot_bytes > _HOT_BYTES or len(self._hot) > _HOT_MOST:
            _, gone = self._hot.popitem(last=False)
            self._hot_bytes -= gone.size

    # --- what is still landing -------------------------------------------------------------------------

    async def _landing(
        self, scope: Scope, receive: Receive, send: Send, found: Deliverable, granted: Granted, *, verified: bool
    ) -> None:
        """Follow a version under way; wait for its head, or with *verified* for its end."""
        with self.basin.watching(found.request_id) as changes, Reader(receive) as reader:
            while found.status in ("wait", "in_progress"):
                extra: Pairs = (("Cache-Control", _lifetime(granted)), *version_links(found))
                if not verified and await self.landing(scope, send, reader, changes, found, extra=extra):
                    return
                await changes.wait()
                reader.check()
                # Whoever fetches it may be gone: then somebody else is asked.
                await self.basin.look(found.request_id)
                again = self._reader.version(found.request_id, found.version)
                if again is None:
                    # Nothing had changed at the origin: its version was dropped.
                    raise UnknownVersion(show_url(found.url), wanted=f"version {found.version} any more")
                found = again
        extra = (("Cache-Control", _lifetime(granted)), *version_links(found))
        await self.stored(scope, receive, send, found, extra=extra)

    async def landing(
        self, scope: Scope, send: Send, reader: Reader, changes: Changes, found: Deliverable, *, extra: Pairs
    ) -> bool:
        """Deliver what lands of *found*, from its first byte; False, and nothing is sent, while there is nothing
        to follow, or when only its end tells how long it is and the reader must know that."""
        following = self._follow(found.request_id)
        if following is None:
            return False
        with contextlib.closing(following):
            said = told(following.known.meta)
            if said.version != found.version:
                return False  # that one has ended; this is the next
            content = _growing(following, found, said.representation or Representation(), extra)
            answer = plan(
                scope["method"],
                _incoming(scope),
                content,
                now=self.basin.now(),
                boundary=secrets.token_hex(12),
                http_version=scope["http_version"],
            )
            if isinstance(answer, AwaitSize):
                return False
            source = LandingSource(following, changes.wait, reader)
            await send(_start(answer))
            if not answer.body:
                await send(_NO_BODY)
            else:
                await self._outflow.send(send, reader, answer.body, source)
            return True

    def _follow(self, request_id: str) -> Following | None:
        return self._followings.follow(request_id, live=self._is_live)

    def _is_live(self, meta: bytes) -> bool:
        writer = told(meta).owner
        return writer is not None and self.basin.bay.owner.is_alive(writer)

    # --- sending ---------------------------------------------------------------------------------------

    async def _send(self, scope: Scope, receive: Receive, send: Send, answer: Answer, source: StoredSource) -> None:
        if answer.status in (412, 416) and scope["method"] == "GET":
            await _send_refusal(send, answer)
            return
        await send(_start(answer))
        if not answer.body:
            await send(_NO_BODY)
            return
        with Reader(receive) as reader:
            await self._outflow.send(send, reader, answer.body, source)


_NO_BODY: dict[str, object] = {"type": "http.response.body", "body": b"", "more_body": False}


def _start(answer: Answer, *more: Field) -> dict[str, object]:
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.fields]
    names = {name for name, _ in pairs}
    pairs += [field for field in SECURITY_FIELDS if field[0] not in names]
    return {"type": "http.response.start", "status": answer.status, "headers": [*pairs, *more]}


async def _send_whole(send: Send, answer: Answer, body: bytes) -> None:
    await send(_start(answer))
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_refusal(send: Send, answer: Answer) -> None:
    """A 412 or 416, with a problem document that says why."""
    _, document = problem_of(PreconditionFailed() if answer.status == 412 else RangeNotSatisfiable())
    body = problem_body(document)
    known = {name.lower() for name, _ in answer.fields}
    more = [field for field in problem_fields() if field[0].decode() not in known]
    await send(_start(answer, *more, (b"content-length", b"%d" % len(body))))
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _incoming(scope: Scope) -> Fields:
    return Fields([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])


def _content(found: Deliverable, extra: Pairs) -> Content:
    return Content(
        etag=found.etag,
        last_modified=found.last_modified,
        fetched_at=None if found.cached_at is None else found.cached_at / 1e6,
        size_bytes=found.size_bytes,
        sha256=found.content_sha256,
        media_type=found.media_type,
        content_encoding=found.content_encoding,
        content_disposition=found.content_disposition,
        filename=found.filename,
        extra=extra,
    )


def _growing(following: Following, found: Deliverable, said: Representation, extra: Pairs) -> Content:
    """What the head of the origin's answer tells of a version under way."""
    return Content(
        etag=f'"{found.version}.{following.known.generation}"',
        last_modified=said.last_modified,
        size_bytes=following.total,
        media_type=said.media_type,
        content_encoding=said.content_encoding,
        content_disposition=said.content_disposition,
        filename=choose_filename(
            content_disposition=said.content_disposition,
            url=found.url,
            media_type=said.media_type,
            extension_for=extension_for,
        ),
        extra=extra,
    )


def _lifetime(granted: Granted) -> str:
    # With tokens, what one may read is nobody else's.
    who = "public" if granted.owner is None else "private"
    return f"{who}, max-age={_YEAR_S}, immutable"


def version_links(found: Deliverable) -> Pairs:
    """Link to the ready versions before and after *found* (RFC 5829)."""
    around = (("predecessor-version", found.previous_version), ("successor-version", found.next_version))
    links = [(relation, content_path(found.request_id, name)) for relation, name in around if name is not None]
    return (("Link", format_links(links)),) if links else ()


def content_path(request_id: str, version: str) -> str:
    """Where the content of a version is, on this server."""
    return f"/v1/request/{request_id}/response/v/{version}/content"


def _failure(found: Deliverable) -> ForebayError:
    return OriginError(found.error_code or "origin_error", found.error or "the fetch failed")
