"""`OutgoingMessage`: what an exposed function returns, and an ASGI application of its own."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self

from forebay.messages.asgi import Receive, Scope, Send
from forebay.messages.headers import Given, Headers


class OutgoingMessage:
    """An answer: a status, header fields and a body."""

    def __init__(self, body: object = None, *, status: int = 200, headers: Given | None = None) -> None:
        raise NotImplementedError

    @property
    def body(self) -> Any:
        """What was set as the body."""
        raise NotImplementedError

    @body.setter
    def body(self, body: object) -> None:
        raise NotImplementedError

    @property
    def headers(self) -> Headers:
        """The header fields as they are; read-only."""
        raise NotImplementedError

    @property
    def status(self) -> int:
        """The status code."""
        raise NotImplementedError

    def set_body(self, body: object) -> None:
        """Set the body, and Content-Type by its type."""
        raise NotImplementedError

    def set_header(self, key: str, value: str) -> None:
        """Give a field one value."""
        raise NotImplementedError

    def add_header(self, key: str, value: str) -> None:
        """Give a field one more value."""
        raise NotImplementedError

    def remove_header(self, key: str) -> None:
        """Take a field away."""
        raise NotImplementedError

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
        same_site: Literal["Strict", "Lax", "None"] | None = "Lax",
        partitioned: bool = False,
    ) -> None:
        """Add a Set-Cookie field."""
        raise NotImplementedError

    def set_status(self, code: int) -> None:
        """Set the status."""
        raise NotImplementedError

    def attachment(self, filename: str) -> None:
        """Have it saved under this name."""
        raise NotImplementedError

    def inline(self, filename: str) -> None:
        """Have it shown; saved, it has this name."""
        raise NotImplementedError

    @classmethod
    def redirect(cls, url: str, status: int = 303) -> Self:
        """An answer that says where to go instead."""
        raise NotImplementedError

    @classmethod
    def not_modified(cls, *, headers: Given | None = None) -> Self:
        """304: what the client has is current."""
        raise NotImplementedError

    @classmethod
    def problem(cls, status: int, title: str, detail: str = "", **more: object) -> Self:
        """A problem document (RFC 9457)."""
        raise NotImplementedError

    @classmethod
    def json(cls, value: object, *, status: int = 200) -> Self:
        """Any value that pydantic can write, as JSON."""
        raise NotImplementedError

    def close(self) -> None:
        """Close a file or an iterator that was set as the body."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it: an ASGI application."""
        raise NotImplementedError
