"""Chunk requests at ``POST /v1/upload/chunk``: `Uploads.handle_chunk_request` over HTTP, in the format that the
client speaks. Whatever goes wrong is answered in it, too: ``{status, error: {code, info}}``.

A chunk is in memory as long as it takes; whoever has larger pieces to send takes tus or the IETF's protocol, whose
bodies stream.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from forebay.catalog.tokens import Scope as TokenScope
from forebay.core.fields import Fields, accepts_by_name, media_type
from forebay.errors import (
    BodyTooLarge,
    ChunkInvalid,
    ClientGone,
    CodingRefused,
    InvalidValue,
    MediaTypeRefused,
    MethodRefused,
    UploadsBusy,
    UploadStalled,
)
from forebay.messages.asgi import Disconnected, Field, Receive, Scope, Send
from forebay.messages.incoming import IncomingMessage, UploadedFile
from forebay.messages.problems import note_if_ours
from forebay.models import ChunkRequest
from forebay.server.access import Granted
from forebay.server.arguments import PARSED_BYTES, Form, query_of, read_arguments
from forebay.server.bodies import replayed
from forebay.server.chunkforms import (
    MSGPACK_TYPES,
    chunk_of_json,
    chunk_of_msgpack,
    chunk_of_texts,
    gunzipped,
)
from forebay.server.problems import SECURITY_FIELDS, problem_fields, problem_of
from forebay.server.uploading import Intake

CHUNK_PATH = "/v1/upload/chunk"

MAX_BYTES = 64 << 20
"""The largest body with a chunk; of JSON, which is parsed in memory, 16 MiB."""

# Of all chunks that are on their way into one process: a few of the largest, or thousands of usual ones.
_BUDGET_BYTES = 256 << 20
_JSON, _MSGPACK, _MULTIPART = "application/json", "application/msgpack", "multipart/form-data"
_ALLOWED = ("OPTIONS", "POST")
_GZIP = frozenset({"gzip", "x-gzip"})

Check = Callable[[Scope, TokenScope | None], Granted]
Decode = Callable[[bytes], ChunkRequest]


class Chunks:
    """Takes the chunks of one folder's uploads, in one event loop."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self._held_bytes = 0

    async def handle(self, scope: Scope, receive: Receive, send: Send, *, check: Check) -> bool:
        """Answer one ASGI request; False: it is for another dialect. *check*: what whoever asks may do."""
        if scope["path"] != CHUNK_PATH:
            return False
        fields = Fields((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        answer = _Answer(send, fields, head=scope["method"] == "HEAD")
        try:
            if scope["method"] == "OPTIONS":
                check(scope, None)
                await answer.send(204, None, [(b"allow", ", ".join(_ALLOWED).encode("ascii"))])
                return True
            granted = check(scope, "write")
            if scope["method"] != "POST":
                raise MethodRefused(allowed=_ALLOWED)
            uid = await self._take(scope, receive, fields, granted)
        except Disconnected:
            await answer.fail(ClientGone())
        except Exception as error:
            await answer.fail(error)
        else:
            await answer.send(200, {"uploadUid": uid})
        return True

    async def _take(self, scope: Scope, receive: Receive, fields: Fields, granted: Granted) -> str:
        most = PARSED_BYTES if _kind(fields) == _JSON and not scope["query_string"] else MAX_BYTES
        coding = (fields.joined("content-encoding") or "identity").strip().lower()
        if coding != "identity" and coding not in _GZIP:
            raise CodingRefused(got=coding, expected="gzip, or none")
        with self._holding() as hold:
            body = await self._read(fields, receive, most, hold)
            if coding in _GZIP:
                body = await self.intake.run(gunzipped, body, max_bytes=most)
                hold(len(body))
            decode = await self._decoder(scope, fields, body)
            message = IncomingMessage.from_asgi(scope, replayed(body))
            try:
                chunk = await self.intake.run(decode, body)  # once: the files of a form can be read once
                take = self.intake.uploads.handle_chunk_request
                return (await self.intake.run(take, message, chunk, owner=granted.owner)).uploadUid
            finally:
                message.close()

    async def _decoder(self, scope: Scope, fields: Fields, body: bytes) -> Decode:
        """What makes a chunk of the body. With a query, which has the other fields then, it is the content,
        whatever its type: curl says that of a form."""
        if scope["query_string"]:
            try:
                texts = query_of(scope)
            except InvalidValue as error:
                raise ChunkInvalid("query", expected=error.expected, got=error.got) from None
            plain = {name: [value for value in values if isinstance(value, str)] for name, values in texts.items()}
            return lambda content: chunk_of_texts(plain, content=content)
        match _kind(fields):
            case kind if kind in MSGPACK_TYPES:
                return chunk_of_msgpack
            case kind if kind == _JSON:
                return chunk_of_json
            case kind if kind == _MULTIPART:
                form = await read_arguments(scope, replayed(body), max_bytes=MAX_BYTES)
                assert isinstance(form, Form)
                return lambda _: _chunk_of_form(form)
            case kind:
                expected = f"{_JSON}, {_MSGPACK} or {_MULTIPART}, or a query with the other fields"
                raise MediaTypeRefused(got=kind or "", expected=expected)

    # --- the body ----------------------------------------------------------------------------------------

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """What one body takes of the memory that all may; gives what counts more of it."""
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self._held_bytes + size > _BUDGET_BYTES:
                raise UploadsBusy
            self._held_bytes += size
            held += size

        try:
            yield hold
        finally:
            self._held_bytes -= held

    async def _read(self, fields: Fields, receive: Receive, most: int, hold: Callable[[int], None]) -> bytes:
        """The whole body, as fast as the stall limit asks. Raises `BodyTooLarge` before it is buffered."""
        if int(fields.get("content-length") or 0) > most:
            raise BodyTooLarge(limit_bytes=most)
        settings, loop = self.intake.settings, asyncio.get_running_loop()
        least_bytes = int(settings.stall_window_s * settings.stall_bytes_per_s)
        pieces, size, since, more = [], 0, 0, True
        try:
            async with asyncio.timeout(settings.stall_window_s) as clock:
                while more:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        raise Disconnected
                    piece, more = event.get("body", b""), event.get("more_body", False)
                    size, since = size + len(piece), since + len(piece)
                    if size > most:
                        raise BodyTooLarge(limit_bytes=most)
                    hold(len(piece))
                    pieces.append(piece)
                    if since >= least_bytes:
                        since = 0
                        clock.reschedule(loop.time() + settings.stall_window_s)
        except TimeoutError:
            raise UploadStalled(least_bytes=least_bytes, limit_s=settings.stall_window_s) from None
        return b"".join(pieces)


def _kind(fields: Fields) -> str | None:
    return media_type(fields.get("content-type"))


def _chunk_of_form(form: Form) -> ChunkRequest:
    """The chunk of a multipart form: its content is a file, or text."""
    try:
        texts = {
            name: [value.read() if isinstance(value, UploadedFile) else value for value in values]
            for name, values in form.texts.items()
        }
    finally:
        for file in form.files:
            file.close()
    return chunk_of_texts(texts)


class _Answer:
    """The answer to one message, as MessagePack where that was asked for by name, or sent; else as JSON."""

    def __init__(self, send: Send, fields: Fields, *, head: bool) -> None:
        self._send, self._head = send, head
        accept = fields.joined("accept")
        packed, plain = any(accepts_by_name(accept, kind) for kind in MSGPACK_TYPES), accepts_by_name(accept, _JSON)
        self._is_packed = packed if packed is not plain else _kind(fields) in MSGPACK_TYPES

    async def send(self, status: int, document: dict[str, Any] | None, fields: list[Field] | None = None) -> None:
        """Send *document*; None: nothing."""
        body, headers = b"", list(fields or ())
        if document is not None:
            body = _packed(document) if self._is_packed else json.dumps(document).encode("ascii")
            kind = _MSGPACK if self._is_packed else _JSON
            headers += [(b"content-type", kind.encode("ascii")), (b"content-length", b"%d" % len(body))]
        names = {name for name, _ in headers}
        usual = (*SECURITY_FIELDS, (b"cache-control", b"no-store"))
        headers += [field for field in usual if field[0] not in names]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self._head else body, "more_body": False})

    async def fail(self, error: Exception) -> None:
        """Send what went wrong."""
        note_if_ours(error)
        status, problem = problem_of(error)
        document = {"status": status, "error": {"code": problem["code"], "info": problem["detail"]}}
        fields = [field for field in problem_fields(error) if field[0] != b"content-type"]
        if isinstance(error, CodingRefused):
            fields.append((b"accept-encoding", b"gzip"))  # RFC 9110 section 15.5.16
        if status == 503:
            fields.append((b"retry-after", b"1"))
        await self.send(status, document, fields)


def _packed(document: dict[str, Any]) -> bytes:
    import msgpack

    packed: bytes = msgpack.packb(document)
    return packed
