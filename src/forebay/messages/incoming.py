"""`IncomingMessage`: what a client sent, read-only; `UploadedFile`: a file in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from forebay.messages.asgi import Receive, Scope
from forebay.messages.headers import Given, Headers

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_BODY_BYTES = 64 << 20


class Query(Mapping[str, str]):
    """The query parameters of a URL."""

    def __init__(self, query: str = "") -> None:
        raise NotImplementedError

    def get_all(self, name: str) -> list[str]:
        """Every value of *name*, in order."""
        raise NotImplementedError

    def items_all(self) -> list[tuple[str, str]]:
        """Every parameter, in order."""
        raise NotImplementedError


class UploadedFile:
    """A file that a client sent in a form."""

    filename: str
    media_type: str
    headers: Headers
    file: BinaryIO

    def __init__(
        self, file: BinaryIO, *, filename: str = "", media_type: str = "", headers: Given | None = None
    ) -> None:
        raise NotImplementedError

    @property
    def size(self) -> int:
        """How many bytes it has."""
        raise NotImplementedError

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back its space."""
        raise NotImplementedError


class IncomingMessage:
    """What a client sent."""

    verb: str
    url: str
    url_path: list[str]
    url_query: Query
    headers: Headers
    remote_address: str | None

    def __init__(
        self,
        verb: str = "GET",
        url: str = "/",
        *,
        headers: Given | None = None,
        body: bytes = b"",
        remote_address: str | None = None,
    ) -> None:
        raise NotImplementedError

    @classmethod
    def from_asgi(
        cls,
        scope: Scope,
        receive: Receive,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        max_bytes: int = MAX_BODY_BYTES,
    ) -> Self:
        """The message of an ASGI exchange; its body comes when it is asked for."""
        raise NotImplementedError

    async def load(self, max_bytes: int | None = None) -> bool:
        """Read the body now, so that the getters need not wait; False: it is larger than *max_bytes*, and what was
        read of it is kept for who reads it later."""
        raise NotImplementedError

    def get_blob(self) -> bytes:
        """The body."""
        raise NotImplementedError

    def get_text(self) -> str:
        """The body as text."""
        raise NotImplementedError

    def get_json(self) -> Any:
        """The body as JSON."""
        raise NotImplementedError

    def get_picture(self) -> Picture:
        """The body as a Pillow image."""
        raise NotImplementedError

    async def aget_blob(self) -> bytes:
        """`get_blob` in an event loop."""
        raise NotImplementedError

    async def aget_text(self) -> str:
        """`get_text` in an event loop."""
        raise NotImplementedError

    async def aget_json(self) -> Any:
        """`get_json` in an event loop."""
        raise NotImplementedError

    async def aget_picture(self) -> Picture:
        """`get_picture` in an event loop."""
        raise NotImplementedError

    def stream(self) -> AsyncIterator[bytes]:
        """The body piece by piece, in an event loop."""
        raise NotImplementedError

    def iter_blob(self) -> Iterator[bytes]:
        """The body piece by piece, in a worker thread."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back the space of the body."""
        raise NotImplementedError
