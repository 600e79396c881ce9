"""tus 1.0.0 at ``/v1/upload/tus/``: https://tus.io/protocols/resumable-upload, with every extension of
`forebay.core.tus.EXTENSIONS`; and beyond it, Repr-Digest (RFC 9530) for what the whole must have, in a creation or
with the bytes that make it whole. Plain ASGI: bodies stream into their session.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, assert_never
from urllib.parse import quote

from forebay.catalog.tokens import Scope as TokenScope
from forebay.core import tus
from forebay.core.fields import Fields, format_http_date
from forebay.core.resumable import read_digests
from forebay.errors import (
    ChecksumMismatch,
    MediaTypeRefused,
    MethodRefused,
    OffsetMismatch,
    UnknownUpload,
    UploadFieldInvalid,
    UploadFinished,
    UploadTooLarge,
    UploadVersionRefused,
)
from forebay.messages.asgi import Disconnected, Field, Message, Receive, Scope, Send
from forebay.server.access import Granted
from forebay.server.deliver import Delivery
from forebay.server.problems import SECURITY_FIELDS, send_problem
from forebay.server.uploaded import send_upload
from forebay.server.uploading import Intake
from forebay.uploads.states import UploadState

ROOT = "/v1/upload/tus"

_UID = re.compile(r"[0-9a-f]{32}")
_ON_ROOT, _ON_UPLOAD = ("OPTIONS", "POST"), ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH")
# HEAD is for whoever goes on with an upload, not for readers.
_NEEDS: dict[str, TokenScope | None] = {"OPTIONS": None, "GET": "read"}
_NO_STORE: Field = (b"cache-control", b"no-store")
_RESUMABLE: Field = (b"tus-resumable", tus.VERSION.encode())
_VERSION: Field = (b"tus-version", tus.VERSION.encode())

Check = Callable[[Scope, TokenScope | None], Granted]


class Tus:
    """The uploads of one folder, in one event loop."""

    def __init__(self, delivery: Delivery, intake: Intake) -> None:
        self.delivery, self.intake = delivery, intake

    async def handle(self, scope: Scope, receive: Receive, send: Send, *, check: Check) -> bool:
        """Answer one ASGI request; False: it is for somebody else. *check*: what whoever asks may do."""
        path: str = scope["path"]
        if path != ROOT and not path.startswith(ROOT + "/"):
            return False
        fields = Fields((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        # Where PATCH and DELETE do not get through, they come as POST.
        method = (fields.get("X-HTTP-Method-Override") or scope["method"]).upper()
        exchange = _Exchange(self, {**scope, "method": method}, fields, receive, _Sending(send))
        await exchange.answer(path.removeprefix(ROOT).removeprefix("/"), check)
        return True


class _Sending:
    """A `send` that says in every answer which version of the protocol this is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            message = {**message, "headers": [*message.get("headers", ()), _RESUMABLE]}
        await self._send(message)


class _Exchange:
    """One message and its answer."""

    def __init__(self, parent: Tus, scope: Scope, fields: Fields, receive: Receive, sending: _Sending) -> None:
        self._scope, self._fields, self._receive, self._sending = scope, fields, receive, sending
        self._delivery, self._intake, self._uploads = parent.delivery, parent.intake, parent.intake.uploads
        self._method: str = scope["method"]
        self._owner: str | None = None

    async def answer(self, uid: str, check: Check) -> None:
        """Answer it. *uid*: of the upload that it is to, if it is to one."""
        try:
            self._owner = check(self._scope, _NEEDS.get(self._method, "write")).owner
            await self._answer(uid)
        except Disconnected:
            raise
        except Exception as error:
            if self._sending.begun:
                raise
            await self._refuse(error)

    async def _answer(self, uid: str) -> None:
        allowed = _ON_UPLOAD if uid else _ON_ROOT
        if self._method not in allowed:
            raise MethodRefused(allowed=allowed)
        self._check_version()
        match self._method:
            case "OPTIONS":
                await self._options(allowed)
            case "POST":
                await self._create()
            case "HEAD":
                await self._head(uid)
            case "PATCH":
                await self._patch(uid)
            case "DELETE":
                await self._intake.run(self._remove, uid)
                await self._send(204)
            case _:
                await self._get(uid)

    def _check_version(self) -> None:
        """Browsers, and whoever only looks, say none (so does tusd's handler)."""
        said = self._fields.get("Tus-Resumable")
        may_be_silent = self._method in ("GET", "HEAD")
        if self._method != "OPTIONS" and said != tus.VERSION and not (may_be_silent and said is None):
            raise UploadVersionRefused(expected=f"Tus-Resumable: {tus.VERSION}", got=said or "")

    # --- what can be asked -----------------------------------------------------------------------------

    async def _options(self, allowed: tuple[str, ...]) -> None:
        fields = [
            _VERSION,
            (b"tus-extension", ",".join(tus.EXTENSIONS).encode()),
            (b"tus-checksum-algorithm", ",".join(tus.CHECKSUMS).encode()),
            (b"allow", ", ".join(allowed).encode()),
        ]
        most = self._intake.settings.max_upload_bytes
        if most is not None:
            fields.append((b"tus-max-size", b"%d" % most))
        await self._send(204, *fields)

    async def _create(self) -> None:
        get = self._fields.get
        creation = tus.parse_creation(get("Upload-Length"), get("Upload-Defer-Length"), get("Upload-Concat"))
        raw = self._fields.joined("Upload-Metadata") or None
        metadata = tus.as_text(tus.parse_metadata(raw or ""))
        about: dict[str, Any] = {
            "owner": self._owner,
            "file_name": tus.file_name_of(metadata),
            "media_type": tus.media_type_of(metadata),
            "metadata": metadata,
            "note": json.dumps({"tus": {"metadata": raw, "concat": get("Upload-Concat")}}),
            "digests": read_digests(self._fields, "Repr-Digest"),
        }
        with_data = self._has_data()
        match creation:
            case tus.Final(parts):
                if with_data:
                    raise UploadFieldInvalid("Upload-Concat", expected="final without a body", got="one with it")
                state = await self._intake.run(self._uploads.concatenate, parts, **about)
            case tus.Whole(size) | tus.Part(size):
                checksum = self._checksum()
                self._check_fits(0, size)
                is_part = isinstance(creation, tus.Part)
                state = await self._intake.run(self._new, size=size, partial=is_part, **about)
                if with_data and not state.is_complete:
                    state = await self._fill(state, checksum)
            case _:
                assert_never(creation)
        fields = [(b"location", self._location(state.uid)), (b"content-length", b"0"), *_expiry(state)]
        if with_data:
            fields.append((b"upload-offset", b"%d" % state.offset))
        await self._send(201, *fields)

    def _new(self, *, owner: str | None, **about: Any) -> UploadState:
        state = self._uploads.create(owner=owner, **about)
        if state.size != 0:
            return state
        self._uploads.complete(state.uid, owner=owner)  # no PATCH will come
        return self._uploads.state(state.uid, owner=owner)

    async def _fill(self, state: UploadState, checksum: tuple[str, str] | None) -> UploadState:
        """Take the body that came with a creation. If that fails, nobody knows where the upload is."""
        try:
            return await self._intake.append(
                self._receive, state.uid, owner=self._owner, offset=0, checksum=checksum
            )
        except BaseException:
            await self._intake.forget(state.uid, owner=self._owner)
            raise

    async def _head(self, uid: str) -> None:
        state, kept = await self._intake.run(self._known, uid, settle=True)
        fields: list[Field] = [(b"upload-offset", b"%d" % state.offset), *_expiry(state)]
        if state.size is None:
            fields.append((b"upload-defer-length", b"1"))
        else:
            fields.append((b"upload-length", b"%d" % state.size))
        for name, key in ((b"upload-metadata", "metadata"), (b"upload-concat", "concat")):
            said = kept.get(key)
            if said is not None:
                fields.append((name, said.encode("latin-1")))
        await self._send(200, *fields)

    async def _patch(self, uid: str) -> None:
        kind = (self._fields.get("Content-Type") or "").partition(";")[0].strip().lower()
        if kind != tus.MEDIA_TYPE:
            raise MediaTypeRefused(got=kind, expected=tus.MEDIA_TYPE)
        offset = tus.parse_offset(self._fields.get("Upload-Offset"))
        length = self._fields.get("Upload-Length")
        size = None if length is None else tus.parse_length(length)
        checksum, digests = self._checksum(), read_digests(self._fields, "Repr-Digest")
        state, kept = await self._intake.run(self._known, uid)
        if (kept.get("concat") or "").startswith("final;"):
            raise _FinalRefused(uid)
        self._check_fits(offset, size if state.size is None else state.size)
        if state.is_complete and offset == state.size and self._content_length() == 0:
            # The answer to what completed it may have been lost.
            await self._intake.run(self._uploads.complete, uid, owner=self._owner, digests=digests)
        else:
            state = await self._intake.append(
                self._receive,
                uid,
                owner=self._owner,
                offset=offset,
                size=size,
                checksum=checksum,
                digests=digests,
            )
        await self._send(204, (b"upload-offset", b"%d" % state.offset), *_expiry(state))

    def _remove(self, uid: str) -> None:
        self._known(uid)
        self._uploads.cancel(uid, owner=self._owner)

    async def _get(self, uid: str) -> None:
        state, _ = await self._intake.run(self._known, uid)
        if state.is_partial:
            raise MethodRefused(allowed=tuple(method for method in _ON_UPLOAD if method != "GET"))
        upload = await self._intake.run(self._uploads.get_upload, uid, owner=self._owner)
        await send_upload(self._delivery, self._scope, self._receive, self._sending, upload)

    # --- what was said ---------------------------------------------------------------------------------

    def _known(self, uid: str, *, settle: bool = False) -> tuple[UploadState, dict[str, str | None]]:
        """An upload that was begun by tus, and what is kept of its creation's fields. Blocks."""
        if not _UID.fullmatch(uid):
            raise UnknownUpload(uid)
        state = self._uploads.state(uid, owner=self._owner, settle=settle)
        if not state.note.startswith('{"tus":'):
            raise UnknownUpload(uid)  # one of another dialect's, which has an address of its own
        kept: dict[str, str | None] = json.loads(state.note)["tus"]
        return state, kept

    def _content_length(self) -> int | None:
        said = self._fields.get("Content-Length")
        return int(said) if said is not None and said.isdigit() and len(said) < 20 else None

    def _has_data(self) -> bool:
        """Whether a creation brings data. Raises `MediaTypeRefused` for a body that is none."""
        kind = (self._fields.get("Content-Type") or "").partition(";")[0].strip().lower()
        if self._content_length() == 0 or (kind != tus.MEDIA_TYPE and not self._has_body()):
            return False
        if kind != tus.MEDIA_TYPE:
            raise MediaTypeRefused(got=kind, expected=tus.MEDIA_TYPE)
        return True

    def _has_body(self) -> bool:
        return self._content_length() is not None or "Transfer-Encoding" in self._fields

    def _checksum(self) -> tuple[str, str] | None:
        said = self._fields.get("Upload-Checksum")
        return None if said is None else tus.parse_checksum(said)

    def _check_fits(self, offset: int, size: int | None) -> None:
        """Raise `UploadTooLarge` before anything is read of a body that says that it is."""
        length = self._content_length() or 0
        if size is not None and offset <= size < offset + length:
            raise UploadTooLarge(limit_bytes=size, got=offset + length)

    # --- what is answered ------------------------------------------------------------------------------

    def _location(self, uid: str) -> bytes:
        """Without a host: behind a proxy, only the client knows it."""
        outer = self._scope.get("forebay.outer", {})
        root = quote(outer.get("root_path", "").rstrip("/"))
        return f"{root}{ROOT}/{uid}".encode("ascii")

    async def _send(self, status: int, *fields: Field) -> None:
        start = {"type": "http.response.start", "status": status, "headers": [*fields, _NO_STORE, *SECURITY_FIELDS]}
        await self._sending(start)
        await self._sending({"type": "http.response.body", "body": b"", "more_body": False})

    async def _refuse(self, error: Exception) -> None:
        fields: list[Field] = []
        more: dict[str, Any] = {}
        match error:
            case UploadVersionRefused():
                fields.append(_VERSION)
            case OffsetMismatch(expected=offset):
                fields.append((b"upload-offset", b"%d" % offset))
            case ChecksumMismatch():
                more = {"status": 460, "title": "Checksum Mismatch"}
            case _FinalRefused():
                more = {"status": 403, "title": "Forbidden"}
            case _:
                pass
        await send_problem(self._sending, error, head=self._method == "HEAD", fields=fields, more=more)


class _FinalRefused(UploadFinished):
    """`UploadFinished`, of what was made of others: the protocol has a status of its own for that."""


def _expiry(state: UploadState) -> list[Field]:
    if state.expires is None:
        return []
    return [(b"upload-expires", format_http_date(state.expires).encode("ascii"))]
