"""Content out: the bytes of a version, whole or still landing (RFC 9110; DESIGN.md sections 4 and 6).

Answers to whoever asks for a version in the usual way are kept ready (`forebay.server.hot`).
"""

from __future__ import annotations

import contextlib
import secrets
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
from forebay.errors import (
    ContentRotten,
    MethodRefused,
    OriginError,
    PreconditionFailed,
    RangeNotSatisfiable,
    UnknownVersion,
)
from forebay.fetch.transfer import told, total_of
from forebay.server.access import Granted
from forebay.server.basin import Basin, Changes
from forebay.server.bodies import Receive, Scope
from forebay.server.hot import SMALL_BYTES, K, SmallBodies, UntilCommit, V
from forebay.server.pieces import LandingSource, Outflow, Reader, StoredSource
from forebay.server.problems import SECURITY_FIELDS, Field, Send, problem_body, problem_fields, problem_of

# Fields that make an answer another than the usual one.
_SPECIAL = frozenset(
    {
        b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since",
        b"want-repr-digest",
    }
)  # fmt: skip
_READ_THREADS = 4
_YEAR_S = 31_536_000


class Delivery:
    """Delivers the content of one folder, in one event loop."""

    def __init__(self, basin: Basin) -> None:
        self.basin = basin
        self._reader = VersionReader(basin.bay.folder / "catalog.sqlite")
        self._pool = ThreadPoolExecutor(_READ_THREADS, "forebay-read")
        self._outflow = Outflow()
        self._followings = Followings(basin.bay.partials, total_of=total_of)
        self._bodies = SmallBodies()
        self._usual: UntilCommit[tuple[str, str], _Usual] = self.until_commit()

    def close(self) -> None:
        """Close what is open; answers under way have ended."""
        self._pool.shutdown()
        self._reader.close()

    # --- by name ---------------------------------------------------------------------------------------

    async def version(
        self, scope: Scope, receive: Receive, send: Send, *, granted: Granted, request_id: str, version: str
    ) -> None:
        """Answer a GET or HEAD of one version's content; of one that is being fetched, from its first byte."""
        if await self._send_usual(scope, send, granted, (request_id, version)):
            return
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodRefused(allowed=("GET", "HEAD"))
        moment = self._usual.moment
        found = self._find(request_id, version, granted)
        if found.status == "duplicate" and found.previous_version is not None:
            # The version that it equals stays, it goes: so clients keep what they have.
            found = self._reader.version(request_id, found.previous_version) or found
        if found.status in ("wait", "in_progress"):
            await self._landing(scope, receive, send, found, granted)
            return
        answer = await self._finished(scope, receive, send, found, granted)
        if answer.status == 200 and _is_usual(scope):
            self._usual.keep((request_id, version), _Usual(found, _start(answer)), moment=moment)

    async def _finished(
        self, scope: Scope, receive: Receive, send: Send, found: Deliverable, granted: Granted
    ) -> Answer:
        if found.content_sha256 is None or found.status not in ("ready", "duplicate"):
            raise OriginError(found.error_code or "origin_error", found.error or "the fetch failed")
        return await self.stored(scope, receive, send, found, extra=_of_version(found, granted))

    def until_commit(self) -> UntilCommit[K, V]:
        """A place for what holds until the catalog changes."""
        return UntilCommit(self._reader.data_version)

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
        self, scope: Scope, receive: Receive, send: Send, found: Deliverable, *, extra: Pairs
    ) -> Answer:
        """Deliver a version that is whole; what the answer was."""
        content = _content(found, extra)
        answer = self._plan(scope, content)
        assert isinstance(answer, Answer)  # its size is known
        self.basin.bay.note_used(found.id, found.request_id)
        if answer.status in (412, 416) and scope["method"] == "GET":
            await _send_refusal(send, answer)
        elif not answer.body:
            await _send_whole(send, answer, b"")
        elif answer.status == 200 and found.size_bytes is not None and found.size_bytes <= SMALL_BYTES:
            await _send_whole(send, answer, await self._small(found))
        else:
            with await self._open(found) as file, Reader(receive) as reader:
                await send(_start(answer))
                source = StoredSource(file.fileno(), self._pool)
                await self._outflow.send(send, reader, answer.body, source)
        return answer

    def _plan(self, scope: Scope, content: Content) -> Answer | AwaitSize:
        return plan(
            scope["method"],
            Fields([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]),
            content,
            now=self.basin.now(),
            boundary=secrets.token_hex(12),
            http_version=scope["http_version"],
        )

    async def _small(self, found: Deliverable) -> bytes:
        sha256, size = found.content_sha256 or "", found.size_bytes or 0
        body = self._bodies.get(sha256)
        if body is None:
            with await self._open(found) as file:
                body = await StoredSource(file.fileno(), self._pool).read(0, size)
            if len(body) != size:
                raise ContentRotten(sha256, found=f"{len(body)} bytes instead of {size}")
            self._bodies.keep(sha256, body)
        return body

    async def _open(self, found: Deliverable) -> BinaryIO:
        sha256, size = found.content_sha256 or "", found.size_bytes or 0
        bay = self.basin.bay
        try:
            return bay.store.open(sha256, size_bytes=size)
        except ContentRotten as error:
            await self.basin.run(bay.catalog.mark_rotten, sha256, found=str(error), now=self.basin.now())
            raise

    async def _send_usual(self, scope: Scope, send: Send, granted: Granted, key: tuple[str, str]) -> bool:
        """Answer as the last one who asked for *key* in the usual way was answered; False: not known."""
        usual = self._usual.get(key)
        if usual is None or not _is_usual(scope) or not granted.sees(usual.found.group_name):
            return False
        body = self._bodies.get(usual.found.content_sha256 or "")
        if body is None:
            return False
        self.basin.bay.note_used(usual.found.id, usual.found.request_id)
        await send(usual.start)
        await send(_end(body if scope["method"] == "GET" else b""))
        return True

    # --- what is still landing -------------------------------------------------------------------------

    async def _landing(
        self, scope: Scope, receive: Receive, send: Send, found: Deliverable, granted: Granted
    ) -> None:
        """Follow a version under way; wait for its head, or for its end if that is asked for."""
        verified = b"forebay-verified=1" in scope["query_string"].split(b"&")
        with self.basin.watching(found.request_id) as changes, Reader(receive) as reader:
            while found.status in ("wait", "in_progress"):
                extra = _of_version(found, granted)
                if not verified and await self.landing(scope, send, reader, changes, found, extra=extra):
                    return
                await changes.wait()
                reader.check()
                # Whoever fetches it may be gone: then somebody else is asked.
                await self.basin.look(found.request_id)
                found = self._find(found.request_id, found.version, granted)
        await self._finished(scope, receive, send, found, granted)

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
            answer = self._plan(scope, content)
            if isinstance(answer, AwaitSize):
                return False
            source = LandingSource(following, changes.wait, reader)
            await send(_start(answer))
            if answer.body:
                await self._outflow.send(send, reader, answer.body, source)
            else:
                await send(_end(b""))
            return True

    def _follow(self, request_id: str) -> Following | None:
        return self._followings.follow(request_id, live=self._is_live)

    def _is_live(self, meta: bytes) -> bool:
        writer = told(meta).owner
        return writer is not None and self.basin.bay.owner.is_alive(writer)


@dataclass(frozen=True, slots=True)
class _Usual:
    """What an answer to a plain GET or HEAD begins with."""

    found: Deliverable
    start: dict[str, object]


def _is_usual(scope: Scope) -> bool:
    return (
        scope["method"] in ("GET", "HEAD")
        and not scope["query_string"]
        and not any(name in _SPECIAL for name, _ in scope["headers"])
    )


def _start(answer: Answer, *more: Field) -> dict[str, object]:
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.fields]
    names = {name for name, _ in pairs}
    pairs += [field for field in SECURITY_FIELDS if field[0] not in names]
    return {"type": "http.response.start", "status": answer.status, "headers": [*pairs, *more]}


def _end(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": False}


async def _send_whole(send: Send, answer: Answer, body: bytes) -> None:
    await send(_start(answer))
    await send(_end(body))


async def _send_refusal(send: Send, answer: Answer) -> None:
    """A 412 or 416, with a problem document that says why."""
    _, document = problem_of(PreconditionFailed() if answer.status == 412 else RangeNotSatisfiable())
    body = problem_body(document)
    known = {name.lower() for name, _ in answer.fields}
    more = [field for field in problem_fields() if field[0].decode() not in known]
    await send(_start(answer, *more, (b"content-length", b"%d" % len(body))))
    await send(_end(body))


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


def _of_version(found: Deliverable, granted: Granted) -> Pairs:
    """Fields of a version's own place: it never changes. With tokens, what one may read is nobody else's."""
    who = "public" if granted.owner is None else "private"
    return ("Cache-Control", f"{who}, max-age={_YEAR_S}, immutable"), *version_links(found)


def version_links(found: Deliverable) -> Pairs:
    """Link to the ready versions before and after *found* (RFC 5829)."""
    around = (("predecessor-version", found.previous_version), ("successor-version", found.next_version))
    links = [(relation, content_path(found.request_id, name)) for relation, name in around if name is not None]
    return (("Link", format_links(links)),) if links else ()


def content_path(request_id: str, version: str) -> str:
    """Where the content of a version is, on this server."""
    return f"/v1/request/{request_id}/response/v/{version}/content"
