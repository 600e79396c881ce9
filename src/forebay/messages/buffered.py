"""`BufferedServerResponse`: an answer that a function writes, flushes and finishes piece by piece."""

from __future__ import annotations

import io
from typing import Protocol

from forebay.messages.asgi import Receive, Scope, Send
from forebay.messages.headers import Headers
from forebay.messages.sinks import Sink


class ServerResponse(Protocol):
    """What a function needs of an answer that it writes piece by piece."""

    def set_header(self, key: str, value: str) -> None: ...
    def add_header(self, key: str, value: str) -> None: ...
    def remove_header(self, key: str) -> None: ...
    def header(self, key: str) -> str: ...
    def headers(self) -> Headers: ...
    def full_headers(self) -> Headers: ...
    def headers_sent(self) -> bool: ...
    def set_status_code(self, code: int) -> None: ...
    def status_code(self) -> int: ...
    def write(self, data: str | bytes) -> int: ...
    def data(self) -> bytes: ...
    def body(self) -> bytes: ...
    def flush(self) -> None: ...
    def truncate(self) -> None: ...
    def clear(self) -> None: ...
    def send_error(self, code: int, message: str) -> None: ...
    def io(self) -> io.BufferedIOBase: ...
    def finish(self) -> None: ...


class BufferedServerResponse:
    """A `ServerResponse`: stand-alone a recorder, with a `Sink` on a connection."""

    def __init__(self, sink: Sink | None = None) -> None:
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

    def header(self, key: str) -> str:
        """The value of a field."""
        raise NotImplementedError

    def headers(self) -> Headers:
        """The fields that were set."""
        raise NotImplementedError

    def full_headers(self) -> Headers:
        """The fields as they go out."""
        raise NotImplementedError

    def headers_sent(self) -> bool:
        """Whether the head has been sent."""
        raise NotImplementedError

    def finished(self) -> bool:
        """Whether it has ended."""
        raise NotImplementedError

    def set_status_code(self, code: int) -> None:
        """Set the status."""
        raise NotImplementedError

    def status_code(self) -> int:
        """The status."""
        raise NotImplementedError

    def write(self, data: str | bytes) -> int:
        """Write at the end."""
        raise NotImplementedError

    def data(self) -> bytes:
        """What was written and not flushed."""
        raise NotImplementedError

    def body(self) -> bytes:
        """What was flushed so far."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what was written."""
        raise NotImplementedError

    async def aflush(self) -> None:
        """The same, in an event loop."""
        raise NotImplementedError

    def truncate(self) -> None:
        """Drop what was not sent."""
        raise NotImplementedError

    def clear(self) -> None:
        """Drop fields and what was not sent."""
        raise NotImplementedError

    def send_error(self, code: int, message: str) -> None:
        """Answer with an error."""
        raise NotImplementedError

    async def asend_error(self, code: int, message: str) -> None:
        """The same, in an event loop."""
        raise NotImplementedError

    def io(self) -> io.BufferedIOBase:
        """A binary file over what was not sent."""
        raise NotImplementedError

    def finish(self) -> None:
        """End it."""
        raise NotImplementedError

    async def afinish(self) -> None:
        """The same, in an event loop."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what it holds."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a finished one: an ASGI application."""
        raise NotImplementedError
