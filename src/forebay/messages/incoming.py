"""`IncomingMessage`: what a client sent, read-only; `UploadedFile`: a file in it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import math
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar
from urllib.parse import parse_qsl, quote, unquote

from forebay.errors import ClientGone, InvalidValue, StateError
from forebay.messages.arrival import Arrival
from forebay.messages.asgi import Receive, Receiving, Scope
from forebay.messages.documents import read_document
from forebay.messages.headers import Given, Headers, pairs_of

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_BODY_BYTES = 64 << 20
"""The largest body that is taken in whole; `IncomingMessage.stream` takes any."""

OWNER = "forebay.owner"
"""Where, in a scope, a server says whose token came with a message."""

# Of what Pillow reads, what people send. EPS would start Ghostscript, and others are read by nobody else.
_PICTURES = ("PNG", "JPEG", "MPO", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "JPEG2000")
_CHARSET = re.compile(r';[ \t]*charset[ \t]*=[ \t]*"?([A-Za-z0-9._:-]+)', re.IGNORECASE)
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?([^?#]*)(?:\?([^#]*))?")

T = TypeVar("T")


class Query(Mapping[str, str]):
    """The parameters of a query, decoded; of several of one name the first one, `get_all` gives each."""

    __slots__ = ("_pairs",)

    def __init__(self, query: str = "") -> None:
        self._pairs = parse_qsl(query, keep_blank_values=True, errors="replace")

    def get_all(self, name: str) -> list[str]:
        """Every value of *name*, in order."""
        return [value for key, value in self._pairs if key == name]

    def items_all(self) -> list[tuple[str, str]]:
        """Every parameter, in order."""
        return list(self._pairs)

    def __getitem__(self, name: str) -> str:
        return dict(reversed(self._pairs))[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._pairs))

    def __len__(self) -> int:
        return len(dict(self._pairs))

    def __repr__(self) -> str:
        return f"Query of {', '.join(self) or 'nothing'}"  # without values: some are secrets


class UploadedFile:
    """A file that a client sent in a form. *filename* and *media_type* are the client's words: never part of a
    path, and nothing to rely on."""

    def __init__(
        self, file: BinaryIO, *, filename: str = "", media_type: str = "", headers: Given | None = None
    ) -> None:
        self.file, self.filename, self.media_type = file, filename, media_type
        self.headers = Headers(pairs_of(headers or ()))

    @property
    def size(self) -> int:
        """How many bytes it has."""
        here = self.file.tell()
        size = self.file.seek(0, os.SEEK_END)
        self.file.seek(here)
        return size

    def read(self, size: int = -1) -> bytes:
        """Read on, at most *size* bytes; all that is left without it."""
        return self.file.read(size)

    def close(self) -> None:
        """Give back its space; the server does it when the call is over."""
        self.file.close()

    def __repr__(self) -> str:
        return f"UploadedFile({self.filename!r}, {self.media_type!r})"


class IncomingMessage:
    """What a client sent; read-only.

    The body comes when it is asked for: `get_blob` and the like wait in a worker thread; in a coroutine they give
    what is here already, or raise `StateError`, and `aget_blob` and the like wait. All raise `BodyTooLarge` beyond
    a bound, `BodyTooSlow`, and `ClientGone` when it breaks off.
    """

    __slots__ = ("_body", "_headers", "_loop", "_owner", "_query", "_remote_address", "_url", "_verb")

    def __init__(
        self,
        verb: str = "GET",
        url: str = "/",
        *,
        headers: Given | None = None,
        body: bytes = b"",
        remote_address: str | None = None,
    ) -> None:
        self._verb, self._url, self._headers = verb.upper(), url, Headers(pairs_of(headers or ()))
        self._query = Query(_split(url)[1])
        self._remote_address = remote_address
        self._owner: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._body = Arrival(None, max_bytes=MAX_BODY_BYTES, kept=body)

    @classmethod
    def from_asgi(
        cls,
        scope: Scope,
        receive: Receive,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Self:
        """The message of an ASGI exchange, in its event loop. *max_bytes*: the largest body that is kept."""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        client = scope.get("client")
        message = cls(scope["method"], _url_of(scope, headers), headers=headers)
        message._remote_address = client[0] if client else None
        message._owner = scope.get(OWNER)
        message._loop = loop or asyncio.get_running_loop()
        message._body = Arrival(Receiving.of(scope, receive), max_bytes=max_bytes)
        return message

    # --- what it says ----------------------------------------------------------------------------------

    @property
    def verb(self) -> str:
        """The method: ``GET``, ``POST``."""
        return self._verb

    @property
    def url(self) -> str:
        """The whole URL, as it was sent."""
        return self._url

    @property
    def url_path(self) -> list[str]:
        """The segments of the path, decoded: ``a/b``, an empty one and ``c`` of ``/a%2Fb//c``; none of ``/``."""
        path = _split(self._url)[0]
        return [unquote(segment) for segment in path.split("/")[1:]] if path not in ("", "/") else []

    @property
    def url_query(self) -> Query:
        """The parameters of the query, decoded."""
        return self._query

    @property
    def headers(self) -> Headers:
        """The header fields."""
        return self._headers

    @property
    def remote_address(self) -> str | None:
        """Who the connection is from: the client, or a proxy before us."""
        return self._remote_address

    @property
    def owner(self) -> str | None:
        """The id of the token that came with it, by which uploads are told apart; None: there was none."""
        return self._owner

    # --- its body --------------------------------------------------------------------------------------

    async def load(self, max_bytes: int | None = None) -> bool:
        """Take the body in, so that the getters need not wait; False: it is larger than *max_bytes*, and the rest
        comes when it is asked for."""
        return await self._body.load(max_bytes)

    def get_blob(self) -> bytes:
        """The body."""
        self._wait("get_blob")
        return self._body.kept()

    def get_text(self) -> str:
        """The body as text, by the charset of its Content-Type, else UTF-8. Raises `InvalidValue`."""
        self._wait("get_text")
        return self._text()

    def get_json(self) -> Any:
        """What the body says as JSON. Raises `BodyInvalid`."""
        self._wait("get_json")
        return read_document(self._body.kept())

    def get_picture(self) -> Picture:
        """The body as a Pillow image. Raises `InvalidValue` for what is none, `StateError` without Pillow."""
        self._wait("get_picture")
        return _picture(self._body.kept())

    async def aget_blob(self) -> bytes:
        """`get_blob` in a coroutine."""
        await self._body.load()
        return self._body.kept()

    async def aget_text(self) -> str:
        """`get_text` in a coroutine."""
        await self._body.load()
        return self._text()

    async def aget_json(self) -> Any:
        """`get_json` in a coroutine."""
        await self._body.load()
        return read_document(self._body.kept())

    async def aget_picture(self) -> Picture:
        """`get_picture` in a coroutine; decoded in a thread."""
        await self._body.load()
        return await asyncio.to_thread(_picture, self._body.kept())

    def stream(self) -> AsyncIterator[bytes]:
        """The body piece by piece, of any size, in a coroutine; once, unless it has been taken in."""
        return self._body.pieces()

    def iter_blob(self) -> Iterator[bytes]:
        """The body piece by piece, of any size, in a worker thread; once, unless it has been taken in."""
        if self._body.whole:
            yield from self._body.kept_pieces()
            return
        pieces = self._body.pieces()

        async def following() -> bytes | None:
            return await anext(pieces, None)

        while True:
            piece = self._outside("stream", following)
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        """Give back the space of the body; the server does it when the call is over."""
        self._body.close()

    def _text(self) -> str:
        found = _CHARSET.search(self._headers.get("Content-Type", ""))
        charset = found[1] if found else "utf-8"
        try:
            return self._body.kept().decode(charset).removeprefix("\ufeff")
        except LookupError:
            raise InvalidValue("Content-Type", expected="a charset that is known", got=charset) from None
        except UnicodeError as error:
            raise InvalidValue("body", expected=f"text in {charset}", got=str(error)) from None

    def _wait(self, name: str) -> None:
        if not self._body.whole:
            self._outside(f"a{name}", self._body.load)

    def _outside(self, instead: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What *work* gives, from a worker thread. *instead*: what a coroutine uses."""
        assert self._loop is not None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            wants = f"use message.{instead}() in a coroutine"
            raise StateError(f"the body is not here yet, and the event loop must not wait for it: {wants}")
        coroutine = work()
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
        except concurrent.futures.CancelledError:  # the exchange is over
            raise ClientGone from None
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise ClientGone from None


def _split(url: str) -> tuple[str, str]:
    """The path and the query of *url*, whatever its host looks like."""
    found = _URL.match(url)
    return (found[1], found[2] or "") if found else ("", "")


def _url_of(scope: Scope, headers: list[tuple[str, str]]) -> str:
    host = next((value for name, value in headers if name.lower() == "host"), "")
    if not host and scope.get("server"):
        name, port = scope["server"]
        host = name if port is None else f"{name}:{port}"
    raw: bytes | None = scope.get("raw_path")
    path = quote(scope["path"], safe="/%!$&'()*+,;=:@~") if raw is None else raw.decode("latin-1")
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{scope.get('scheme', 'http')}://{host}{path}{query and '?'}{query}"


def _picture(data: bytes) -> Picture:
    try:
        import PIL.Image
    except ImportError:
        raise StateError("get_picture() needs Pillow: pip install 'forebay[images]'") from None
    PIL.Image.init()
    known = [name for name in _PICTURES if name in PIL.Image.OPEN]
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=known)
        if picture.width * picture.height > (PIL.Image.MAX_IMAGE_PIXELS or math.inf):
            raise PIL.Image.DecompressionBombError  # Pillow only warns before it is twice as large
        picture.load()
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError):
        expected = f"a picture of at most {PIL.Image.MAX_IMAGE_PIXELS} pixels"
        raise InvalidValue("body", expected=expected, got="a larger one") from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        raise InvalidValue("body", expected="a picture", got=str(error)[:80]) from None
    return picture
