"""Content out: the bytes of a version, whole or still landing (RFC 9110; DESIGN.md sections 4 and 6).

Longer than our guide size: what is stored, what still lands and what is no version go out by one plan.

Answers to whoever asks for a version in the usual way are kept ready (`forebay.server.hot`).
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO
from urllib.parse import quote

from forebay.bay import extension_for
from forebay.catalog.reader import Deliverable, VersionReader
from forebay.content.following import Following
from forebay.content.partial import State
from forebay.core.delivery import Answer, AwaitSize, Content, Pairs, plan
from forebay.core.exchange import Representation
from forebay.core.fields import Fields, format_links
from forebay.core.filenames import choose_filename
from forebay.core.ranges import Span
from forebay.core.urls import show_url
from forebay.errors import (
    ContentRotten,
    FollowBroken,
    MethodRefused,
    PreconditionFailed,
    RangeNotSatisfiable,
    StorageError,
    UnknownRequest,
    UnknownVersion,
)
from forebay.fetch.told import told
from forebay.messages.asgi import Field, Receive, Scope, Send
from forebay.messages.outflow import OUTFLOW, Reader, StoredSource, read_all
from forebay.messages.problems import problem_body
from forebay.models import UNDER_WAY
from forebay.retold import failure_of
from forebay.server.access import Granted
from forebay.server.basin import Basin, Changes
from forebay.server.hot import SMALL_BYTES, K, OncePerTurn, SmallBodies, UntilCommit, V
from forebay.server.parameters import parameters_of, read_target
from forebay.server.pieces import LandingSource
from forebay.server.problems import SECURITY_FIELDS, problem_fields, problem_of

# Fields that make an answer another than the usual one.
_SPECIAL = frozenset(
    {
        b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since",
        b"want-repr-digest",
    }
)  # fmt: skip

_FieldsOf = Callable[[Deliverable], Pairs]
_Key = tuple[str, str, bool, str]
_READ_THREADS, _YEAR_S = 4, 31_536_000


class Delivery:
    """Delivers the content of one folder, in one event loop."""

    def __init__(self, basin: Basin) -> None:
        self.basin = basin
        self.reader = VersionReader(basin.bay.folder / "catalog.sqlite")
        self._pool = ThreadPoolExecutor(_READ_THREADS, "forebay-read")
        self._outflow = OUTFLOW
        self._bodies = SmallBodies()
        self._moment = OncePerTurn(self.reader.data_version)
        self._usual: UntilCommit[_Key, _Usual] = self.until_commit()

    def close(self) -> None:
        """Close what is open; answers under way have ended."""
        self._pool.shutdown()
        self.reader.close()

    # --- by name ---------------------------------------------------------------------------------------

    async def version(
        self, scope: Scope, receive: Receive, send: Send, *, granted: Granted, request_id: str, version: str
    ) -> None:
        """Answer a GET or HEAD of one version's content; of one that is being fetched, from its first byte."""
        # With tokens, the answer is for no shared cache.
        key = (request_id, version, granted.owner is None, root_of(scope))
        if await self._send_usual(scope, send, granted, key):
            return
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodRefused(allowed=("GET", "HEAD"))
        moment = self._usual.moment
        own = parameters_of(read_target(b"", scope["query_string"]).own, taken=("verified",))
        with Reader(receive) as reader:
            stored = await self.named(
                scope, send, reader, granted=granted, request_id=request_id, version=version, verified=own.verified
            )
        if stored is not None and stored[1].status == 200 and _is_usual(scope):
            self._usual.keep(key, _Usual(stored[0], _start(stored[1])), moment=moment)

    async def named(
        self,
        scope: Scope,
        send: Send,
        reader: Reader,
        *,
        granted: Granted,
        request_id: str,
        version: str,
        verified: bool,
        fields: _FieldsOf = lambda _: (),
    ) -> tuple[Deliverable, Answer] | None:
        """Deliver the version of that name. *verified*: not before its end; *fields*: more of them. What was
        stored, and what the answer was; None when it was followed."""
        found = await self._find(request_id, version, granted)
        if found.status in UNDER_WAY:
            landing = partial(_of_landing, fields, root_of(scope))
            if await self._under_way(scope, send, reader, found, fields=landing, verified=verified):
                return None
            found = await self._find(request_id, version, granted)
        if found.content_sha256 is None or found.status not in ("ready", "duplicate"):
            raise failure_of(found.error_code, found.error)
        extra = (*_of_version(found, granted, root_of(scope)), *fields(found))
        return found, await self.stored(scope, send, reader, found, extra=extra)

    async def _find(self, request_id: str, version: str, granted: Granted) -> Deliverable:
        """The version of that name; in place of a duplicate, or of one that was begun and then found to be no news,
        the one that it equals: that stays, and clients keep what they have."""
        found = self.reader.version(request_id, version)
        if found is None:
            equal = await self.basin.run(self._confirmed, request_id, version, granted)
            found = self.reader.version(request_id, equal)
            if found is None:
                raise UnknownVersion(f"request {request_id}", wanted=f"version {version} any more")
            return found
        if not granted.sees(found.group_name):
            raise UnknownRequest(f"request {request_id}")
        if found.status == "duplicate" and found.previous_version is not None:
            other = self.reader.version(request_id, found.previous_version)
            # Its neighbour may be another by now: the one that it equals can be removed.
            if other is not None and other.content_sha256 == found.content_sha256:
                return other
        return found

    def _confirmed(self, request_id: str, version: str, granted: Granted) -> str:
        """The version that one without a row was found to equal. Blocks."""
        catalog, now = self.basin.bay.catalog, self.basin.now()
        request = catalog.request(request_id, now=now).request
        if not granted.sees(request.group_name):
            raise UnknownRequest(f"request {request_id}")
        confirmed = catalog.confirmed_as(request_id, version, now=now)
        if confirmed is None or confirmed.previous_version is None:
            raise UnknownVersion(show_url(request.url), wanted=f"version {version}")
        return confirmed.previous_version

    def until_commit(self) -> UntilCommit[K, V]:
        """A place for what holds until the catalog changes."""
        return UntilCommit(self._moment)

    def find(self, request_id: str, version: str) -> Deliverable | None:
        """The version of that name."""
        return self.reader.version(request_id, version)

    def newest(self, request_id: str) -> Deliverable | None:
        """The newest version, whatever its status."""
        return self.reader.newest(request_id)

    # --- what is stored --------------------------------------------------------------------------------

    async def stored(self, scope: Scope, send: Send, reader: Reader, found: Deliverable, *, extra: Pairs) -> Answer:
        """Deliver a version that is whole; what the answer was. Raises `ContentRotten` before anything is sent."""
        content = _content(found, extra)
        answer = self._plan(scope, content)
        assert isinstance(answer, Answer)  # its size is known
        self.basin.bay.note_used(found.id, found.request_id)
        if await _send_without_content(scope, send, answer):
            return answer
        if answer.status == 200 and content.size_bytes is not None and content.size_bytes <= SMALL_BYTES:
            await _send_whole(send, answer, await self._small(found))
        else:
            with await self._open(found) as file:
                await self._send_file(send, reader, answer, file)
        return answer

    async def opened(self, scope: Scope, send: Send, reader: Reader, content: Content, file: BinaryIO) -> None:
        """Deliver *content*, of no version, whose bytes an open *file* has."""
        answer = self._plan(scope, content)
        assert isinstance(answer, Answer)  # its size is known
        if not await _send_without_content(scope, send, answer):
            await self._send_file(send, reader, answer, file)

    async def _send_file(self, send: Send, reader: Reader, answer: Answer, file: BinaryIO) -> None:
        await send(_start(answer))
        await self._outflow.send(send, reader, answer.body, StoredSource(file.fileno(), self._pool))

    def _plan(self, scope: Scope, content: Content) -> Answer | AwaitSize:
        return plan(
            scope["method"],
            Fields([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]),
            content,
            now=self.basin.now(),
            boundary=secrets.token_hex(12),
            http_version="1.0" if scope["http_version"] == "1" else scope["http_version"],  # granian's spelling
        )

    async def _small(self, found: Deliverable) -> bytes:
        """A small content, verified when it is read: it may be kept for ever, and what replaces a damaged file has
        the same name."""
        sha256, size = found.content_sha256 or "", found.size_bytes or 0
        body = self._bodies.get(sha256)
        if body is None:
            with await self._open(found) as file:
                body = await read_all(StoredSource(file.fileno(), self._pool), size)
            got = hashlib.sha256(body).hexdigest()
            if got != sha256:
                raise await self._rotten(ContentRotten(sha256, found=f"its bytes hash to {got}"))
            self._bodies.keep(sha256, body)
        return body

    async def _open(self, found: Deliverable) -> BinaryIO:
        sha256, size = found.content_sha256 or "", found.size_bytes or 0
        try:
            return self.basin.bay.store.open(sha256, size_bytes=size)
        except ContentRotten as error:
            raise await self._rotten(error) from None

    async def _rotten(self, error: ContentRotten) -> ContentRotten:
        """*error*, once everybody knows of it."""
        catalog, now = self.basin.bay.catalog, self.basin.now()
        await self.basin.run(catalog.mark_rotten, error.sha256, found=str(error), now=now)
        return error

    async def _send_usual(self, scope: Scope, send: Send, granted: Granted, key: _Key) -> bool:
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

    async def _under_way(
        self, scope: Scope, send: Send, reader: Reader, found: Deliverable, *, fields: _FieldsOf, verified: bool
    ) -> bool:
        """Follow a version that is being fetched, whoever does that. False, and nothing is sent, when it has ended
        before that could begin: look at it again. *fields* of it; *verified*: only its end will do."""
        request_id, version = found.request_id, found.version
        with self.basin.watching(request_id) as changes:
            while True:
                # After the watch began: whatever comes later rings.
                now = self.reader.version(request_id, version)
                if now is None or now.status not in UNDER_WAY:
                    return False
                if not verified and await self.landing(scope, send, reader, changes, now, extra=fields(now)):
                    return True
                reader.check()
                await changes.wait()
                await self._see_to_it(request_id, version)

    async def _see_to_it(self, request_id: str, version: str) -> bool:
        """Have a version fetched to its end whose fetch was cut off: by a kill, or because nobody waited for it.
        False: its fetch is over."""
        standing = await self.basin.look(request_id)
        found = self.reader.version(request_id, version)  # it may just have ended
        if found is None or found.status not in UNDER_WAY:
            return False
        if not standing.asked and standing.busy is None:
            await self.basin.run(self.basin.ask, request_id, seen=found.fence)
        return True

    async def landing(
        self, scope: Scope, send: Send, reader: Reader, changes: Changes, found: Deliverable, *, extra: Pairs
    ) -> bool:
        """Deliver what lands of *found*, from its first byte; False, and nothing is sent, while there is nothing
        to follow, or when only its end tells how long it is and the reader must know that."""
        following = self.basin.bay.follow(found.request_id, fence=found.fence)
        if following is None:
            return False
        with contextlib.closing(following):
            said = told(following.known.meta)
            if said.version != found.version:
                return False  # that one has ended; this is the next
            answer = self._plan(scope, _growing(following, found, said.representation or Representation(), extra))
            if isinstance(answer, AwaitSize):
                return False
            if await _send_without_content(scope, send, answer):
                return True

            async def wait() -> None:
                if await changes.wait() and following.state is not State.STANDING:
                    return
                with contextlib.suppress(StorageError):  # a full disk: the next look may be luckier
                    is_over = not await self._see_to_it(found.request_id, found.version)
                    # What a failed fetch has left may be resumed some day: that is another version's.
                    if is_over and following.look().state is not State.WHOLE:
                        raise FollowBroken

            source = LandingSource(following, wait, reader, self._pool)
            with contextlib.suppress(FollowBroken):
                # The server holds a head back until there is some body, and as long as it is not out, whoever asks
                # can get what comes instead: another generation, the last good version, or the reason.
                await source.read(_first_byte(answer), 1)
                await send(_start(answer))
                await self._outflow.send(send, reader, answer.body, source)
                return True
            return False


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
    fields = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in answer.fields}
    assert len(fields) == len(answer.fields)  # none is said twice: here the first one would be lost
    for name, field in (*more, *SECURITY_FIELDS):
        fields.setdefault(name, field)
    return {"type": "http.response.start", "status": answer.status, "headers": list(fields.items())}


def _end(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": False}


async def _send_whole(send: Send, answer: Answer, body: bytes) -> None:
    await send(_start(answer))
    await send(_end(body))


async def _send_without_content(scope: Scope, send: Send, answer: Answer) -> bool:
    """Send an answer with nothing of the content in it: to HEAD, a 304, a refusal. False: there is some to send."""
    if answer.body:
        return False
    if answer.status in (412, 416):
        _, document = problem_of(PreconditionFailed() if answer.status == 412 else RangeNotSatisfiable())
        body = problem_body(document)
        await send(_start(answer, *problem_fields(), (b"content-length", b"%d" % len(body))))
        await send(_end(body if scope["method"] == "GET" else b""))
    else:
        await _send_whole(send, answer, b"")
    return True


def _first_byte(answer: Answer) -> int:
    """Where what *answer* has of the content begins."""
    return next((piece.start for piece in answer.body if isinstance(piece, Span)), 0)


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


def _of_version(found: Deliverable, granted: Granted, root: str) -> Pairs:
    """Fields of a version's own place: it never changes. With tokens, what one may read is nobody else's."""
    who = "public" if granted.owner is None else "private"
    return ("Cache-Control", f"{who}, max-age={_YEAR_S}, immutable"), *version_links(found, root)


def _of_landing(fields: _FieldsOf, root: str, found: Deliverable) -> Pairs:
    """The same while it lands. The fetch may start over: then what a cache has of it is void, so it must ask."""
    return ("Cache-Control", "no-cache"), *version_links(found, root), *fields(found)


def version_links(found: Deliverable, root: str) -> Pairs:
    """Link to the ready versions before and after *found* (RFC 5829). *root*: see `root_of`."""
    around = (("predecessor-version", found.previous_version), ("successor-version", found.next_version))
    links = [
        (relation, content_path(found.request_id, name, root)) for relation, name in around if name is not None
    ]
    return (("Link", format_links(links)),) if links else ()


def root_of(scope: Scope) -> str:
    """Where another application has mounted this one, percent-encoded; empty when none has."""
    root: str = scope.get("root_path", "")
    return quote(root.rstrip("/")) if root else ""


def content_path(request_id: str, version: str, root: str) -> str:
    """Where the content of a version is, on this server; *root*: see `root_of`."""
    return f"{root}/v1/request/{request_id}/response/v/{version}/content"
