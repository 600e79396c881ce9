"""What a call's message gives a function: texts and files by name, or a document; bounded before it is buffered."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from forebay.durable import storage_errors
from forebay.errors import BodyTooLarge, BodyTooSlow, ClientGone, FormInvalid, InvalidValue, MediaTypeRefused
from forebay.functions.binding import Text
from forebay.messages.asgi import Receive, Scope
from forebay.messages.incoming import UploadedFile
from forebay.server.bodies import BODY_TIMEOUT_S

# What a client sends wrongly is told to that client; it must not fill our log as well.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

PARSED_BYTES = 16 << 20
"""The largest JSON and the most text of a form: it is in memory, and takes several times as much there."""

# What comes slower is an attack, or a client as good as dead (Apache's mod_reqtimeout: body=20,MinRate=500).
_LEAST_BYTES_PER_S = 500
_MAX_TEXTS = 1000  # of one query or form, as Starlette's
# So much of each file is in memory: of as many small ones as a form may have, 64 MiB.
_IN_MEMORY_BYTES = 64 << 10
_JSON, _FORM, _MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"


@dataclass(frozen=True, slots=True)
class Document:
    """JSON, not parsed yet."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """Texts and files, by name. *body*: as it came, where it was read as a whole."""

    texts: dict[str, list[Text]]
    body: bytes | None = b""
    files: list[UploadedFile] = field(default_factory=list)


def query_of(scope: Scope) -> dict[str, list[Text]]:
    """The query parameters by name. Raises `InvalidValue`."""
    return _texts(scope["query_string"], "query") if scope["query_string"] else {}


def _texts(encoded: bytes, where: str) -> dict[str, list[Text]]:
    found: dict[str, list[Text]] = {}
    try:
        pairs = parse_qsl(
            encoded.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_TEXTS
        )
    except ValueError as error:
        expected = f"at most {_MAX_TEXTS} names and values, percent-encoded UTF-8"
        raise InvalidValue(where, expected=expected, got="something else") from error
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


async def read_arguments(scope: Scope, receive: Receive, *, max_bytes: int) -> Document | Form | None:
    """What the body says; None when there is none. *max_bytes*: of one with files.

    Raises `BodyTooLarge`, `BodyTooSlow`, `FormInvalid`, `InvalidValue`, `MediaTypeRefused`, `ClientGone`.
    """
    said = Headers(raw=scope["headers"]).get("content-type", "")
    kind = said.partition(";")[0].strip().lower()
    if kind == _MULTIPART:
        return await _multipart(scope, _pieces(scope, receive, max_bytes))
    body = b"".join([piece async for piece in _pieces(scope, receive, min(max_bytes, PARSED_BYTES))])
    if not body:
        return None
    if kind == _JSON or kind.endswith("+json"):
        return Document(body)
    if kind == _FORM:
        try:
            return Form(_texts(body, "body"), body)
        except InvalidValue as error:
            raise FormInvalid(reason=str(error)) from error
    raise MediaTypeRefused(got=kind, expected=f"{_JSON}, {_FORM} or {_MULTIPART}")


async def _pieces(scope: Scope, receive: Receive, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body piece by piece, each of them in time, and all of them together."""
    declared = Headers(raw=scope["headers"]).get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > max_bytes:
        raise BodyTooLarge(limit_bytes=max_bytes)
    loop = asyncio.get_running_loop()
    began, size, more = loop.time(), 0, True
    while more:
        patience_from = min(loop.time(), began + size / _LEAST_BYTES_PER_S)
        try:
            async with asyncio.timeout_at(patience_from + BODY_TIMEOUT_S):
                event = await receive()
        except TimeoutError:
            raise BodyTooSlow(limit_s=BODY_TIMEOUT_S) from None
        if event["type"] == "http.disconnect":
            raise ClientGone
        piece, more = event.get("body", b""), event.get("more_body", False)
        size += len(piece)
        if size > max_bytes:
            raise BodyTooLarge(limit_bytes=max_bytes)
        if piece:
            yield piece


class _Parser(MultiPartParser):
    """Also bounds all texts together; and knows whether the form has its end: without it, its last part is lost."""

    spool_max_size = _IN_MEMORY_BYTES
    text_bytes = 0
    has_end = False

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self.text_bytes += end - start
            if self.text_bytes > PARSED_BYTES:
                raise BodyTooLarge(limit_bytes=PARSED_BYTES)
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        self.has_end = True


async def _multipart(scope: Scope, pieces: AsyncGenerator[bytes, None]) -> Form:
    parser = _Parser(Headers(raw=scope["headers"]), pieces, max_files=_MAX_TEXTS, max_fields=_MAX_TEXTS)
    try:
        with storage_errors("the files of a form", Path(tempfile.gettempdir())):
            parsed = await parser.parse()
    except (MultiPartException, UnicodeError, ValueError) as error:
        raise FormInvalid(reason=getattr(error, "message", "it is no multipart form")) from error
    finally:
        await pieces.aclose()
    form = Form({}, None)
    for name, value in parsed.multi_items():
        form.texts.setdefault(name, []).append(_file(value, form) if isinstance(value, UploadFile) else value)
    if not parser.has_end:
        for file in form.files:
            file.close()
        raise FormInvalid(reason="its last boundary is missing")
    return form


def _file(found: UploadFile, form: Form) -> UploadedFile:
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in found.headers.raw]
    file = UploadedFile(
        found.file,
        filename=found.filename or "",
        media_type=found.content_type or "",
        headers=fields,
    )
    form.files.append(file)
    return file
