"""Resumable Uploads for HTTP (draft-ietf-httpbis-resumable-upload): created at ``/v1/upload/``, gone on with at
``/v1/upload/id/{uid}``. What the interop versions differ in is `forebay.core.resumable.VERSIONS`.

A plain POST or PUT, such as that of ``curl -T``, is an upload that completes at once. There is no 104 (Upload
Resumption Supported): the server under us sends no interim responses. So whoever sends everything with the creation
learns where its upload is when it is complete; who wants to resume creates it without content, or with a part.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from urllib.parse import quote

from forebay.catalog.tokens import Scope as TokenScope
from forebay.core import tus
from forebay.core.fields import Fields, format_digest, is_sendable, media_type
from forebay.core.filenames import parse_content_disposition
from forebay.core.resumable import (
    PARTIAL_UPLOAD,
    Pairs,
    Said,
    limit_fields,
    problem_members,
    read,
    read_digests,
    state_fields,
    whole_length,
)
from forebay.errors import (
    CodingRefused,
    DiskReserved,
    ForebayError,
    LengthMismatch,
    MediaTypeRefused,
    MethodRefused,
    OffsetMismatch,
    TooManyUploads,
    UnknownPath,
    UnknownUpload,
    UploadExpired,
    UploadFieldInvalid,
    UploadFinished,
    UploadIncomplete,
    UploadQuota,
    UploadStalled,
    UploadTooLarge,
)
from forebay.messages.asgi import Field, Message, Receive, Scope, Send
from forebay.models import Upload
from forebay.server.access import Granted
from forebay.server.deliver import Delivery
from forebay.server.problems import SECURITY_FIELDS, send_problem
from forebay.server.uploaded import describe, send_upload
from forebay.server.uploading import Intake
from forebay.uploads.states import UploadState

UPLOAD_PATH = "/v1/upload/"

_SESSIONS = "id"
# Names that no upload can have: other dialects' places.
_OTHERS = frozenset({"chunk", "tus"})
_LONGEST_NAME = 4096  # as that of a chunk's fileName
_CREATION = ("OPTIONS", "POST", "PUT")
_SESSION = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH")

Check = Callable[[Scope, TokenScope | None], Granted]


class Resumable:
    """Answers for the uploads of one folder, in one event loop."""

    def __init__(self, delivery: Delivery, intake: Intake) -> None:
        self.delivery, self.intake = delivery, intake

    async def handle(self, scope: Scope, receive: Receive, send: Send, *, check: Check) -> bool:
        """Answer one ASGI request that no other dialect has taken; False: it is no upload. *check*: what whoever
        asks may do."""
        path: str = scope["path"]
        if not path.startswith(UPLOAD_PATH):
            return False
        first, _, rest = path.removeprefix(UPLOAD_PATH).partition("/")
        uid = rest if first == _SESSIONS else None
        if uid and uid.partition("/")[2] == "publish":
            return False  # the JSON API's
        if first in _OTHERS or uid == "":
            check(scope, "write")
            raise UnknownPath
        scope = _overridden(scope)
        exchange = _Exchange(self, uid, scope, receive, send)
        if scope["method"] == "OPTIONS":
            check(scope, None)
            await exchange.tell_limits()
            return True
        # HEAD is for whoever goes on with an upload, not for readers.
        granted = check(scope, "read" if scope["method"] == "GET" else "write")
        upload = await exchange.answer(granted)
        if upload is not None:
            await exchange.deliver(upload)
        return True


def _overridden(scope: Scope) -> Scope:
    """Where PATCH and DELETE do not get through, they come as POST."""
    said = next((value for name, value in scope["headers"] if name == b"x-http-method-override"), b"")
    method = said.decode("latin-1").upper()
    return {**scope, "method": method} if scope["method"] == "POST" and method in ("PATCH", "DELETE") else scope


class _Exchange:
    """One message and its answer. *uid*: of the session that it is for; None: it creates one."""

    def __init__(self, dialect: Resumable, uid: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        self._dialect, self._intake, self._uploads = dialect, dialect.intake, dialect.intake.uploads
        self._uid, self._scope, self._receive, self._send = uid, scope, receive, send
        self._owner: str | None = None
        self._fields = Fields((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        self._said: Said = read(self._fields)
        length = self._fields.get("content-length")  # the server has checked that it is a number, and one
        self._content_length = None if length is None else int(length)

    async def answer(self, granted: Granted) -> Upload | None:
        """Answer it, for *granted*; or give the upload whose content is the answer. Raises `Disconnected`."""
        self._owner = granted.owner
        allowed = _CREATION if self._uid is None else _SESSION
        try:
            match self._scope["method"]:
                case method if method not in allowed:
                    raise MethodRefused(allowed=allowed)
                case "POST" | "PUT":
                    await self._create()
                case "PATCH":
                    await self._append()
                case "HEAD":
                    await self._tell()
                case "DELETE":
                    await self._cancel()
                case "GET":
                    return await self._found()
        except ForebayError as error:
            await self._fail(error)
        return None

    async def deliver(self, upload: Upload) -> None:
        """Answer with the content of *upload*."""
        size = upload.totalSize
        fields = state_fields(self._said.interop, is_complete=True, offset=size, length=size)
        limits = self._limits(None if upload.expires is None else upload.expires.timestamp())
        send = _with(self._send, (*fields, *limits))
        await send_upload(self._dialect.delivery, self._scope, self._receive, send, upload)

    # --- what is asked -----------------------------------------------------------------------------------

    async def tell_limits(self) -> None:
        """Answer OPTIONS: what may be uploaded here, and how."""
        allowed = _CREATION if self._uid is None else _SESSION
        fields = (("Allow", ", ".join(allowed)), ("Accept-Patch", PARTIAL_UPLOAD), *self._usual_limits())
        await self._send_answer(204, fields)

    async def _create(self) -> None:
        said = self._said
        self._check_representation()
        # Who says nothing of completeness uploads as ever: all of it, in this one message.
        is_last = said.is_last is not False
        # tus-js-client says it in the words of tus, whatever it speaks.
        metadata = tus.as_text(tus.parse_metadata(self._fields.joined("upload-metadata") or ""))
        size = whole_length(said.length, offset=0, content_length=self._content_length, is_last=is_last)
        state = await self._intake.run(
            self._uploads.create,
            owner=self._owner,
            size=size,
            file_name=self._file_name(metadata),
            media_type=self._media_type() or tus.media_type_of(metadata),
            metadata=metadata,
            digests=read_digests(self._fields, "Repr-Digest"),
        )
        if is_last or size == 0 or self._content_length != 0:
            try:
                state = await self._take(state.uid, 0, is_last=is_last, size=size)
            except BaseException:
                # Its place would have been told by the answer: nobody can go on with it.
                with contextlib.suppress(ForebayError):
                    await self._intake.forget(state.uid, owner=self._owner)
                raise
        await self._send_state(201, state, (("Location", self._place(state.uid)),))

    async def _append(self) -> None:
        said, interop, uid = self._said, self._said.interop, self._session()
        is_last = interop.silence if said.is_last is None else said.is_last
        if is_last is None:
            raise UploadFieldInvalid(interop.completeness, expected="?1 or ?0", got="something else")
        if said.offset is None:
            raise UploadFieldInvalid("Upload-Offset", expected="a number of bytes", got="something else")
        if interop.append_type is not None:
            kind = media_type(self._fields.get("content-type"))
            if kind != interop.append_type:
                raise MediaTypeRefused(got=kind or "", expected=interop.append_type)
        digests = read_digests(self._fields, "Repr-Digest")
        state = await self._state()
        if state.is_complete:
            await self._complete_again(state, is_last=is_last, digests=digests)
            return
        size = whole_length(
            state.size, said.length, offset=said.offset, content_length=self._content_length, is_last=is_last
        )
        state = await self._take(uid, said.offset, is_last=is_last, size=size, digests=digests)
        await self._send_state(201 if state.is_complete else interop.appended, state)

    async def _complete_again(self, state: UploadState, *, is_last: bool, digests: Mapping[str, str]) -> None:
        """Answer what came for an upload that is complete: nothing of it changes any more. Who only says that it is
        complete has missed the answer that said so; *digests*: what it has then as well."""
        offset = self._said.offset or 0
        length = self._content_length
        if length is None:
            length = await self._first_bytes()
        if length:
            raise LengthMismatch(expected=str(state.size), got=offset + length)
        if offset != state.offset or not is_last:
            raise UploadFinished(state.uid)
        await self._intake.run(self._uploads.complete, state.uid, owner=self._owner, digests=digests)
        await self._send_state(201, state)

    async def _first_bytes(self) -> int:
        """How many bytes come first of a body whose length is not known."""
        window_s = self._intake.settings.stall_window_s
        try:
            async with asyncio.timeout(window_s):
                return len((await self._receive()).get("body", b""))
        except TimeoutError:
            raise UploadStalled(least_bytes=1, limit_s=window_s) from None

    async def _tell(self) -> None:
        self._check_bare()
        state = await self._state(settle=True)
        await self._send_answer(204, (*self._told(state, length=state.size), ("Cache-Control", "no-store")))

    async def _cancel(self) -> None:
        self._check_bare()
        await self._intake.run(self._uploads.cancel, self._session(), owner=self._owner)
        await self._send_answer(204)

    async def _found(self) -> Upload | None:
        """The upload, when it is complete; None: there was something else to tell."""
        try:
            return await self._intake.run(self._uploads.get_upload, self._session(), owner=self._owner)
        except UploadIncomplete:
            if not self._said.interop.get_tells:
                raise
        await self._tell()
        return None

    # --- what it says ------------------------------------------------------------------------------------

    def _session(self) -> str:
        assert self._uid is not None
        return self._uid

    def _check_bare(self) -> None:
        if self._said.interop.asks_bare and not self._said.is_bare:
            raise UploadFieldInvalid("Upload-Offset", expected="nothing of the upload's state", got="some of it")

    def _check_representation(self) -> None:
        """Refuse what would not be what is stored: a part of something (RFC 9110 section 14.4), and a coding that
        nobody would be told of who gets the content later (section 8.4)."""
        if "content-range" in self._fields:
            raise UploadFieldInvalid("Content-Range", expected="all of it", got="a part")
        coding = (self._fields.joined("content-encoding") or "identity").strip().lower()
        if coding != "identity":
            raise CodingRefused(got=coding, expected="none")

    def _file_name(self, metadata: Mapping[str, str]) -> str:
        """Content-Disposition's, else the path's, else that of *metadata*. Whatever it says, it is no path here."""
        name = parse_content_disposition(self._fields.get("content-disposition"))[1]
        name = name or self._scope["path"].removeprefix(UPLOAD_PATH) or tus.file_name_of(metadata)
        if len(name) > _LONGEST_NAME:
            expected = f"{_LONGEST_NAME} characters at most"
            raise UploadFieldInvalid("file name", expected=expected, got=f"{len(name)}")
        return name

    def _media_type(self) -> str | None:
        said = (self._fields.get("content-type") or "").strip()
        kind = media_type(said)
        return said if kind not in (None, PARTIAL_UPLOAD) and is_sendable(said) else None

    def _checksum(self) -> tuple[str, str] | None:
        """The strongest digest that came with the content."""
        return next(iter(read_digests(self._fields, "Content-Digest").items()), None)

    # --- the session -------------------------------------------------------------------------------------

    async def _state(self, *, settle: bool = False) -> UploadState:
        return await self._intake.run(self._uploads.state, self._session(), owner=self._owner, settle=settle)

    async def _take(
        self,
        uid: str,
        offset: int,
        *,
        is_last: bool,
        size: int | None,
        digests: Mapping[str, str] | None = None,
    ) -> UploadState:
        """Append the content. *size*: the whole's, where it is known. *digests*: what the whole must have, besides
        what its creation said, or instead of it."""
        try:
            return await self._intake.append(
                self._receive,
                uid,
                owner=self._owner,
                offset=offset,
                size=size,
                checksum=self._checksum(),
                digests=digests,
                is_last=is_last,
            )
        except UploadTooLarge as error:
            if size is None or error.limit_bytes != size:
                raise
            if self._said.interop.ends_overlong:
                await self._intake.run(self._uploads.cancel, uid, owner=self._owner)
            raise LengthMismatch(expected=str(size), got=error.got) from error

    # --- the answer --------------------------------------------------------------------------------------

    def _place(self, uid: str) -> str:
        """Without a host: behind a proxy, only the client knows it."""
        root = self._scope.get("forebay.outer", {}).get("root_path", "").rstrip("/")
        return f"{quote(root)}{UPLOAD_PATH}{_SESSIONS}/{uid}"

    def _limits(self, expires: float | None) -> Pairs:
        """The limits of an upload that expires at that Unix time."""
        age_s = None if expires is None else expires - self._dialect.delivery.basin.now()
        return limit_fields(self._said.interop, max_size=self._intake.settings.max_upload_bytes, age_s=age_s)

    def _usual_limits(self) -> Pairs:
        settings = self._intake.settings
        return limit_fields(self._said.interop, max_size=settings.max_upload_bytes, age_s=settings.upload_expiry_s)

    def _told(self, state: UploadState, *, length: int | None = None) -> Pairs:
        interop = self._said.interop
        fields = state_fields(interop, is_complete=state.is_complete, offset=state.offset, length=length)
        digest = () if state.sha256 is None else (("Repr-Digest", format_digest("sha-256", state.sha256)),)
        return (*fields, *self._limits(state.expires), *digest)

    async def _send_state(self, status: int, state: UploadState, more: Pairs = ()) -> None:
        body = b""
        if state.is_complete:
            more = (*more, ("Content-Type", "application/json"))
            body = json.dumps(describe(state), ensure_ascii=False).encode("utf-8", "replace")
        await self._send_answer(status, (*self._told(state), *more, ("Cache-Control", "no-store")), body)

    async def _send_answer(self, status: int, fields: Pairs = (), body: bytes = b"") -> None:
        if status != 204:
            fields = (*fields, ("Content-Length", str(len(body))))
        headers = [*_encoded(fields), *SECURITY_FIELDS]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _fail(self, error: ForebayError) -> None:
        interop, method = self._said.interop, self._scope["method"]
        fields: list[tuple[str, str]] = []
        if method == "PATCH" and self._uid is not None:
            fields += state_fields(interop, is_complete=False, offset=await self._offset(error))
        elif method in _CREATION:
            fields += state_fields(interop, is_complete=False, offset=None)
        match error:
            case UploadExpired(uid=uid) if interop.gone == UnknownUpload.status:
                error = UnknownUpload(uid)
            case UploadTooLarge() | UploadQuota() | TooManyUploads() | DiskReserved():
                fields += self._usual_limits()
            case MediaTypeRefused() if method == "PATCH":
                fields.append(("Accept-Patch", PARTIAL_UPLOAD))  # RFC 5789 section 2.2
            case CodingRefused():
                fields.append(("Accept-Encoding", "identity"))  # RFC 9110 section 15.5.16
        await send_problem(
            self._send, error, head=method == "HEAD", fields=_encoded(fields), more=problem_members(error)
        )

    async def _offset(self, error: ForebayError) -> int | None:
        """Where the upload goes on after *error*; None when there is none any more."""
        if isinstance(error, OffsetMismatch):
            return error.expected
        with contextlib.suppress(ForebayError):  # at once: what has failed has waited already
            return (await self._intake.submit(self._uploads.state, self._session(), owner=self._owner)).offset
        return None


def _encoded(fields: Pairs | list[tuple[str, str]]) -> list[Field]:
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in fields]


def _with(send: Send, fields: Pairs) -> Send:
    """*send*, with *fields* in the head of what answers."""

    async def send_with_fields(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_encoded(fields)]}
        await send(message)

    return send_with_fields
