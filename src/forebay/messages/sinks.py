"""Where the parts of an answer go that is written piece by piece: to a connection, or to memory."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from forebay.core.fields import Fields, accepts_by_name
from forebay.errors import ClientGone, StateError
from forebay.messages import outflow
from forebay.messages.asgi import Receive, Receiving, Scope, Send
from forebay.messages.framing import encoded, has_body
from forebay.messages.problems import MEDIA_TYPE
from forebay.messages.spool import PIECE_BYTES, Spool


@dataclass(frozen=True, slots=True)
class Head:
    """The first part of an answer."""

    status: int
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of its body."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """Nothing comes after these bytes: the answer is whole."""

    data: bytes = b""


Part = Head | Data | End


class Sink(Protocol):
    """Takes the parts of one answer, in order: a head, any number of data, an end."""

    @property
    def likes_problems(self) -> bool:
        """Whether the client asked for problem documents by name."""
        ...

    def put(self, part: Part) -> None:
        """Take *part*; waits as long as the client does not. Raises `ClientGone`; `StateError` like `check`."""
        ...

    async def aput(self, part: Part) -> None:
        """The same, in an event loop."""
        ...

    def check(self) -> None:
        """Raise `StateError` where `put` would make an event loop wait."""
        ...

    def body(self) -> bytes:
        """What was taken of the body, as far as it is kept."""
        ...

    def close(self) -> None:
        """Give back what is held; nothing is taken any more."""
        ...


class Recorder:
    """A `Sink` that keeps everything."""

    likes_problems = False

    def __init__(self) -> None:
        self.head: Head | None = None
        self.kept = Spool()

    def put(self, part: Part) -> None:
        """See `Sink.put`; never waits."""
        if isinstance(part, Head):
            self.head = part
        else:
            self.kept.append(part.data)

    async def aput(self, part: Part) -> None:
        """See `Sink.aput`."""
        self.put(part)

    def check(self) -> None:
        """See `Sink.check`: nothing ever waits."""

    def body(self) -> bytes:
        """See `Sink.body`: all of it."""
        return self.kept.read(0, self.kept.size)

    def close(self) -> None:
        """See `Sink.close`."""
        self.kept.close()


class AsgiSink:
    """A `Sink` that sends on one ASGI exchange, made in its event loop. Close it when the exchange is over: who
    still waits in `put` then gets `ClientGone`."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._scope, self._send = scope, send
        self._loop = loop or asyncio.get_running_loop()
        self._receiving = Receiving.of(scope, receive)
        self._own = None if self._receiving is receive else self._receiving
        self._watch: asyncio.Task[None] | None = None
        self._gone = False
        self._waits: set[asyncio.Timeout] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._closed = False
        self._old = scope.get("http_version") in ("1", "1.0")  # granian's spelling, and ASGI's
        self._length: int | None = None
        self._sent = 0
        self._carries = False
        # Without a length, what breaks off looks whole to HTTP/1.0 (RFC 9112 section 8): it waits for its end.
        self._held: tuple[Head, Spool] | None = None

    @property
    def likes_problems(self) -> bool:
        """See `Sink.likes_problems`."""
        fields = Fields((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._scope["headers"])
        return accepts_by_name(fields.joined("Accept"), MEDIA_TYPE)

    # --- from both sides -------------------------------------------------------------------------------

    def check(self) -> None:
        """See `Sink.check`."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise StateError(
            "this would make the event loop wait for the client: use `await response.aflush()`, `await "
            "response.afinish()` or `await response.asend_error()` in a coroutine"
        )

    def put(self, part: Part) -> None:
        """See `Sink.put`."""
        self.check()
        if self._closed:
            raise ClientGone
        coroutine = self.aput(part)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise ClientGone from None
        try:
            future.result()
        except concurrent.futures.CancelledError:
            raise ClientGone from None

    async def aput(self, part: Part) -> None:
        """See `Sink.aput`."""
        if self._closed:
            raise ClientGone
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._take(part)
        finally:
            self._tasks.discard(task)

    def body(self) -> bytes:
        """See `Sink.body`: what was sent is gone."""
        return b""

    def close(self) -> None:
        """See `Sink.close`. In the event loop."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        if self._own is not None:
            self._own.close()
        if self._held is not None:
            self._held[1].close()
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()

    @contextlib.asynccontextmanager
    async def there(self, *, limit_s: float | None = None) -> AsyncIterator[None]:
        """While the client is there: what is done meanwhile is cancelled when it goes, or after *limit_s*, and
        `ClientGone` raised."""
        if self._watch is None:
            self._watch = self._loop.create_task(self._watching())
        if self._gone:
            raise ClientGone
        try:
            async with asyncio.timeout(limit_s) as limit:
                self._waits.add(limit)
                try:
                    yield
                finally:
                    self._waits.discard(limit)
        except TimeoutError:
            if limit.expired():
                raise ClientGone from None
            raise

    async def _watching(self) -> None:
        try:
            await self._receiving.gone()
        except Exception:
            return  # of its body, as when that is too large: whoever reads it is told, and the client is there
        self._gone = True
        for limit in self._waits:
            limit.reschedule(self._loop.time())

    # --- in the loop -----------------------------------------------------------------------------------

    async def _take(self, part: Part) -> None:
        match part:
            case Head(status, fields):
                self._carries = has_body(self._scope["method"], status)
                lengths = [int(value) for name, value in fields if name.lower() == "content-length"]
                self._length = lengths[0] if lengths and self._carries else None
                if self._old and self._carries and self._length is None:
                    self._held = part, Spool()
                else:
                    await self._event(_start(part))
            case Data(data):
                await self._body(data, last=False)
            case End(data):
                await self._body(data, last=True)

    async def _body(self, data: bytes, *, last: bool) -> None:
        if not self._carries:
            data = b""
            async with self.there():
                await _turn()
        self._sent += len(data)
        if self._length is not None and (self._sent > self._length or (last and self._sent < self._length)):
            raise StateError(f"expected a body of Content-Length: {self._length} bytes, got {self._sent}")
        if self._held is None:
            await self._pieces(data, last=last)
            return
        head, body = self._held
        async with self.there():
            await asyncio.to_thread(body.append, data)
        if last:
            await self._event(_start(Head(head.status, (*head.fields, ("Content-Length", str(body.size))))))
            for offset in range(0, body.size, PIECE_BYTES):
                piece = await asyncio.to_thread(body.read, offset, PIECE_BYTES)
                await self._event({"type": "http.response.body", "body": piece, "more_body": True})
            await self._event({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self, data: bytes, *, last: bool) -> None:
        """Send *data*; an empty one only where it is the last."""
        for offset in range(0, len(data), PIECE_BYTES):
            piece = data[offset : offset + PIECE_BYTES]
            more = not last or offset + PIECE_BYTES < len(data)
            await self._event({"type": "http.response.body", "body": piece, "more_body": more})
        if last and not data:
            await self._event({"type": "http.response.body", "body": b"", "more_body": False})

    async def _event(self, event: dict[str, object]) -> None:
        async with self.there(limit_s=outflow.STALL_S):
            await self._send(event)
            if event.get("more_body"):
                await _turn()


async def _turn() -> None:
    """Let others run: to a client that has gone, a server's `send` returns at once, and nobody would notice."""
    await asyncio.sleep(0)


def _start(head: Head) -> dict[str, object]:
    return {"type": "http.response.start", "status": head.status, "headers": encoded(head.fields)}
