"""`OutgoingMessage`: what an exposed function returns, and an ASGI application of its own."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from forebay.core.cookies import SameSite, format_set_cookie
from forebay.core.delivery import DEFAULT_MEDIA_TYPE
from forebay.core.filenames import format_content_disposition
from forebay.errors import ClientGone, InvalidHeader, InvalidMessage, StateError
from forebay.messages.asgi import Receive, Scope, Send
from forebay.messages.bodies import (
    JSON_TYPE,
    TEXT_TYPE,
    Body,
    FileBody,
    PathBody,
    StoredBody,
    Streamed,
    Whole,
    body_of,
    json_bytes,
)
from forebay.messages.framing import check_body, check_status, encoded, framed, has_body
from forebay.messages.headers import Given, Headers, MutableHeaders
from forebay.messages.outflow import StoredSource
from forebay.messages.problems import MEDIA_TYPE, document_of
from forebay.messages.sinks import AsgiSink, Data, End, Head
from forebay.messages.spool import PIECE_BYTES
from forebay.messages.streams import opened
from forebay.messages.wholes import Held, Opened, Representation, open_regular, send_whole

if TYPE_CHECKING:
    from starlette.responses import Response as StarletteResponse

_REDIRECTS = (301, 302, 303, 307, 308)
# What stands in a URI reference as it is (RFC 3986), and what is percent-encoded already.
_URI = "!#$%&'()*+,/:;=?@[]~"
_NO_CHARACTER = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

Deliver = Callable[[Scope, Receive, Send, "OutgoingMessage"], Awaitable[None]]


class OutgoingMessage:
    """An answer: a status, header fields and a body. An ASGI application that sends it.

    What can change later, such as a list, is taken as it is when it is set. Raises `UnsupportedBody` and
    `InvalidHeader` for what cannot be sent.
    """

    __slots__ = ("_body", "_content", "_headers", "_spent", "_status", "_view")

    def __init__(self, body: object = None, *, status: int = 200, headers: Given | None = None) -> None:
        self._headers = MutableHeaders()
        self._view = self._headers.view()
        self.set_body(body)
        self.set_status(status)
        if headers is not None:
            self._headers.give(headers)

    # --- what it says ----------------------------------------------------------------------------------

    @property
    def body(self) -> Any:
        """What was set as the body. Setting it leaves the header fields alone."""
        return self._body

    @body.setter
    def body(self, body: object) -> None:
        self._hold(body, body_of(body)[0])

    @property
    def headers(self) -> Headers:
        """The header fields as they are; read-only."""
        return self._view

    @property
    def status(self) -> int:
        """The status code."""
        return self._status

    def set_body(self, body: object) -> None:
        """Set the body, and Content-Type by its type; what has none, or tells it with its first piece, takes away
        what was set."""
        content, kind = body_of(body)
        self._hold(body, content)
        if kind is None:
            self._headers.remove("Content-Type")
        else:
            self._headers.set("Content-Type", kind)

    def _hold(self, body: object, content: Body) -> None:
        self._body: Any = body
        self._content = content
        self._spent = False

    def set_header(self, key: str, value: str) -> None:
        """Give a field this one value. Raises `InvalidHeader`, or `TypeError` unless both are str."""
        self._headers.set(key, value)

    def add_header(self, key: str, value: str) -> None:
        """Give a field one more value. Raises like `set_header`."""
        self._headers.add(key, value)

    def remove_header(self, key: str) -> None:
        """Take a field away; nothing when it is not there."""
        self._headers.remove(key)

    def set_cookie(
        self,
        name: str,
        value: str = "",
        *,
        max_age_s: int | None = None,
        expires: datetime | None = None,
        domain: str | None = None,
        path: str | None = "/",
        secure: bool = False,
        http_only: bool = True,
        same_site: SameSite | None = "Lax",
        partitioned: bool = False,
    ) -> None:
        """Add a Set-Cookie field; ``max_age_s=0`` has browsers drop the cookie. Raises `InvalidHeader`."""
        cookie = format_set_cookie(
            name,
            value,
            max_age_s=max_age_s,
            expires=expires,
            domain=domain,
            path=path,
            secure=secure,
            http_only=http_only,
            same_site=same_site,
            partitioned=partitioned,
        )
        self._headers.add("Set-Cookie", cookie)

    def set_status(self, code: int) -> None:
        """Set the status, from 100 to 599. Raises `InvalidMessage`."""
        self._status = check_status(code)

    def attachment(self, filename: str) -> None:
        """Have it saved, under this name as far as file systems bear it (RFC 6266)."""
        self._dispose("attachment", filename)

    def inline(self, filename: str) -> None:
        """Have it shown; who saves it does so under this name."""
        self._dispose("inline", filename)

    def _dispose(self, kind: str, filename: str) -> None:
        if not isinstance(filename, str):
            raise TypeError(f"a file's name is a str, not {type(filename).__name__}")
        self._headers.set("Content-Disposition", format_content_disposition(filename, origin=kind) or kind)

    # --- common ones -----------------------------------------------------------------------------------

    @classmethod
    def redirect(cls, url: str, status: int = 303) -> Self:
        """To another place; 303 has it asked for with GET, 307 and 308 with what was asked here."""
        if status not in _REDIRECTS:
            raise InvalidMessage("status", expected="one of 301, 302, 303, 307, 308", got=status)
        if not isinstance(url, str):
            raise TypeError(f"a URL is a str, not {type(url).__name__}")
        # What no URI has is encoded; but what is no character is refused: no URL has it by mistake.
        if (wrong := _NO_CHARACTER.search(url)) is not None:
            got = f"U+{ord(wrong[0]):04X} at position {wrong.start()}"
            raise InvalidHeader("header field Location", expected="a URL without control characters", got=got)
        return cls(status=status, headers={"Location": quote(url.strip(" "), safe=_URI)})

    @classmethod
    def not_modified(cls, *, headers: Given | None = None) -> Self:
        """304: what the client has is current. *headers*: the ETag, Cache-Control and so on of it."""
        return cls(status=304, headers=headers)

    @classmethod
    def problem(cls, status: int, title: str, detail: str = "", **more: object) -> Self:
        """A problem document (RFC 9457) for no cache to keep; *more* are further members of it."""
        check_status(status)
        message = cls.json(document_of(status, title=title, detail=detail) | more, status=status)
        message.set_header("Content-Type", MEDIA_TYPE)
        message.set_header("Cache-Control", "no-store")
        return message

    @classmethod
    def json(cls, value: object, *, status: int = 200) -> Self:
        """Any *value* that pydantic can write, also a number or null, as JSON."""
        message = cls(json_bytes(value), status=status, headers={"Content-Type": JSON_TYPE})
        message._body = value
        return message

    # --- sending ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file or the iterator that is the body. Sending closes an iterator, but no file: it may be
        sent again."""
        match self._content:
            case FileBody(file):
                file.close()
            case Streamed(pieces) if hasattr(pieces, "close"):
                self._spent = True
                pieces.close()

    def as_response(self) -> StarletteResponse:
        """The same as a Starlette response: FastAPI's path operations make JSON of anything else."""
        from forebay.messages.frameworks import MessageResponse  # loads Starlette

        return MessageResponse(self, status=self._status)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it: an ASGI application.

        Raises `StateError` when it cannot be sent, or not again. Failing after the head has been sent, it breaks
        the answer off.
        """
        if scope["type"] != "http":
            raise StateError(f"a message answers HTTP, not {scope['type']}")
        content = self._content
        pool: Executor | None = scope.get("forebay.threads")
        match content:
            case Whole(data):
                await self._send_bytes(scope, receive, send, data)
            case PathBody(path):
                file, known = await asyncio.get_running_loop().run_in_executor(pool, open_regular, path)
                with file:
                    what = Representation(
                        StoredSource(file.fileno(), pool),
                        known.st_size,
                        self._status,
                        self._headers,
                        etag=f'"{known.st_mtime_ns:x}-{known.st_size:x}"',
                        modified_s=known.st_mtime,
                    )
                    await send_whole(scope, receive, send, what)
            case FileBody(file, start, turn) if start is not None:
                source = Opened(file, start, turn, pool)
                what = Representation(source, await source.size(), self._status, self._headers)
                await send_whole(scope, receive, send, what)
            case FileBody(file):
                pieces = iter(lambda: file.read(PIECE_BYTES), b"")
                await self._send_once(scope, receive, send, Streamed(pieces))
            case Streamed():
                await self._send_once(scope, receive, send, content)
            case StoredBody():
                await self._send_stored(scope, receive, send)

    async def _send_bytes(self, scope: Scope, receive: Receive, send: Send, data: bytes) -> None:
        if "ETag" in self._headers:
            what = Representation(Held(data), len(data), self._status, self._headers)
            await send_whole(scope, receive, send, what)
            return
        fields = framed(self._status, self._headers, size=len(data))
        await send({"type": "http.response.start", "status": self._status, "headers": encoded(fields)})
        body = data if has_body(scope["method"], self._status) else b""
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send_stored(self, scope: Scope, receive: Receive, send: Send) -> None:
        deliver: Deliver | None = scope.get("forebay.deliver")
        if deliver is None:
            raise StateError(
                "a stored Response is sent by the server that has it: return it from an exposed function there, or "
                "make the message of bay.path(response)"
            )
        await deliver(scope, receive, send, self)

    async def _send_once(self, scope: Scope, receive: Receive, send: Send, body: Streamed) -> None:
        if self._spent:
            raise StateError("what comes piece by piece has been sent, and cannot be sent again; set it anew")
        self._spent = True
        sink = AsgiSink(scope, receive, send)
        try:
            with contextlib.suppress(ClientGone):
                async with opened(body, scope.get("forebay.threads")) as pieces:
                    await self._send_pieces(sink, scope["method"], pieces)
        finally:
            sink.close()

    async def _send_pieces(self, sink: AsgiSink, method: str, pieces: AsyncIterator[tuple[bytes, bool]]) -> None:
        if method == "HEAD":  # what it would be is not known, and not made to be thrown away
            await sink.aput(Head(self._status, tuple(framed(self._status, self._headers, size=None))))
            await sink.aput(End())
            return
        first = True
        while True:
            async with sink.there():
                piece = await anext(pieces, None)
            if first:
                # Not before the first piece: what fails until then can still become another answer.
                await sink.aput(self._streamed_head(piece))
            if piece is None:
                await sink.aput(End())
                return
            first = False
            await sink.aput(Data(piece[0]))

    def _streamed_head(self, piece: tuple[bytes, bool] | None) -> Head:
        headers = MutableHeaders(self._headers.items_all())
        if piece is not None and "Content-Type" not in headers:
            headers.set("Content-Type", TEXT_TYPE if piece[1] else DEFAULT_MEDIA_TYPE)
        check_body(self._status, size=1 if piece is not None else 0)
        fields = framed(self._status, headers, size=None if piece is not None else 0)
        return Head(self._status, tuple(fields))
