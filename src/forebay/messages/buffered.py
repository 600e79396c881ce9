"""`BufferedServerResponse`: an answer that a function writes, flushes and finishes piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from forebay.core.delivery import DEFAULT_MEDIA_TYPE
from forebay.errors import ClientGone, HeadersAlreadySent, ResponseFinished, StateError
from forebay.messages.asgi import Receive, Scope, Send
from forebay.messages.bodies import TEXT_TYPE, text_bytes
from forebay.messages.framing import check_body, check_status, framed
from forebay.messages.headers import Headers, MutableHeaders
from forebay.messages.problems import MEDIA_TYPE, document_of, problem_body
from forebay.messages.sinks import AsgiSink, Data, End, Head, Part, Recorder, Sink
from forebay.messages.spool import PIECE_BYTES
from forebay.messages.unsent import Unsent, UnsentFile

if TYPE_CHECKING:
    from starlette.responses import Response as StarletteResponse


class ServerResponse(Protocol):
    """What a function needs of an answer that it writes piece by piece; see `BufferedServerResponse`."""

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
    """A `ServerResponse`: without a sink a recorder, with one on a connection. For one thread at a time."""

    def __init__(self, sink: Sink | None = None) -> None:
        self._sink: Sink = Recorder() if sink is None else sink
        self._headers = MutableHeaders()
        self._status = 200
        self._unsent = Unsent()
        self._file: UnsentFile | None = None
        self._text = True
        self._head: Head | None = None
        self._finished = False
        self._failure: BaseException | None = None

    # --- the head --------------------------------------------------------------------------------------

    def set_header(self, key: str, value: str) -> None:
        """Give a field this one value. Raises `InvalidHeader`, `HeadersAlreadySent`, `TypeError` unless both are
        str."""
        self._check_head("set_header()")
        self._headers.set(key, value)

    def add_header(self, key: str, value: str) -> None:
        """Give a field one more value. Raises like `set_header`."""
        self._check_head("add_header()")
        self._headers.add(key, value)

    def remove_header(self, key: str) -> None:
        """Take a field away; nothing when it is not there. Raises `HeadersAlreadySent`."""
        self._check_head("remove_header()")
        self._headers.remove(key)

    def header(self, key: str) -> str:
        """The value of a field, of several joined by ``, ``; empty when it is not there."""
        return self._headers.get(key, "")

    def headers(self) -> Headers:
        """The fields that were set; once the head has been sent, those that were."""
        return Headers(self._headers.items_all())

    def full_headers(self) -> Headers:
        """The fields as they were sent, or would be by `finish` now: with Content-Type and Content-Length."""
        return Headers((self._head or self._next_head(size=self._unsent.size)).fields)

    def headers_sent(self) -> bool:
        """Whether the head has been sent, so that neither fields nor status can change."""
        return self._head is not None

    def set_status_code(self, code: int) -> None:
        """Set the status, from 100 to 599. Raises `InvalidMessage`, `HeadersAlreadySent`."""
        self._check_head("set_status_code()")
        self._status = check_status(code)

    def status_code(self) -> int:
        """The status; 200 unless one was set."""
        return self._status

    def _check_head(self, what: str) -> None:
        if self._head is not None:
            raise HeadersAlreadySent(what)

    # --- the body --------------------------------------------------------------------------------------

    def write(self, data: str | bytes) -> int:
        """Write at the end, text as UTF-8, and how many bytes that was. Never waits for the client. Raises
        `ResponseFinished`."""
        self._check_unfinished()
        if isinstance(data, str):
            return self._unsent.append(text_bytes(data))
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"an answer takes str or bytes, not {type(data).__name__}")
        if data:
            self._text = False
        return self._unsent.append(bytes(data))

    def data(self) -> bytes:
        """What was written and not flushed."""
        return self._unsent.read(self._unsent.base, self._unsent.size)

    def body(self) -> bytes:
        """What was flushed so far, as far as it is kept: on a connection it is gone."""
        return self._sink.body()

    def io(self) -> io.BufferedIOBase:
        """A binary file over what was not flushed; its offsets count from the answer's first byte. Closing it, and
        its own flush(), do nothing here."""
        if self._file is None or self._file.closed:
            self._file = UnsentFile(self._unsent, self._check_file)
        return self._file

    def truncate(self) -> None:
        """Drop what was not flushed."""
        self._unsent.drop()
        self._text = True

    def clear(self) -> None:
        """Drop all fields and what was not flushed; the status stays. Raises `HeadersAlreadySent`."""
        self._check_head("clear()")
        self._headers.clear()
        self.truncate()

    def _check_unfinished(self) -> None:
        if self._finished:
            raise ResponseFinished

    def _check_file(self) -> None:
        self._check_unfinished()
        self._text = False

    # --- sending ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what was written, the first time after the head; waits under back-pressure. Raises `ClientGone`;
        `StateError` in the event loop of a connection."""
        self._sink.check()
        self._drive(self._flushing())

    async def aflush(self) -> None:
        """`flush` in a coroutine."""
        await self._adrive(self._flushing())

    def finish(self) -> None:
        """Send the rest and end the answer; when nothing was sent before, with its Content-Length. The second time
        it does nothing. Raises like `flush`."""
        if not self._finished:
            self._sink.check()
            self._drive(self._finishing())

    async def afinish(self) -> None:
        """`finish` in a coroutine."""
        if not self._finished:
            await self._adrive(self._finishing())

    def send_error(self, code: int, message: str) -> None:
        """Answer with an error instead: as text, or as a problem document where the client asks for one by name;
        then finish. Raises `HeadersAlreadySent`, and like `flush`."""
        self._check_head("send_error()")
        self._sink.check()
        self._set_error(code, message)
        self.finish()

    async def asend_error(self, code: int, message: str) -> None:
        """`send_error` in a coroutine."""
        self._check_head("send_error()")
        self._set_error(code, message)
        await self.afinish()

    def _set_error(self, code: int, message: str) -> None:
        check_status(code)
        if self._sink.likes_problems:
            kind, body = MEDIA_TYPE, problem_body(document_of(code, detail=message))
        else:
            kind, body = TEXT_TYPE, text_bytes(message)
        self.clear()
        self.set_status_code(code)
        self.set_header("Content-Type", kind)
        self._unsent.append(body)

    def close(self) -> None:
        """Give back the space of what it holds; what was not finished never is."""
        self._finished = True
        self._unsent.close()
        self._sink.close()

    # The exchange is written once, as parts to put; `_drive` and `_adrive` put them.

    def _flushing(self) -> Iterator[Part]:
        if self._finished:
            return
        check_body(self._status, size=self._unsent.size)
        if self._head is None:
            yield self._begin(size=None)
        for piece in self._unsent.pieces():
            yield Data(piece)
        self._unsent.forward()

    def _finishing(self) -> Iterator[Part]:
        check_body(self._status, size=self._unsent.size)
        if self._head is None:
            yield self._begin(size=self._unsent.size)
        last = b""
        for piece in self._unsent.pieces():
            if last:
                yield Data(last)
            last = piece
        yield End(last)
        self._unsent.forward()
        self._finished = True

    def _begin(self, *, size: int | None) -> Head:
        """The head, from now on what was sent."""
        head = self._next_head(size=size)
        self._headers.clear()
        self._headers.give(head.fields)
        self._head = head
        return head

    def _next_head(self, *, size: int | None) -> Head:
        headers = MutableHeaders(self._headers.items_all())
        if self._unsent.size and "Content-Type" not in headers:
            headers.set("Content-Type", TEXT_TYPE if self._text else DEFAULT_MEDIA_TYPE)
        if size is not None:
            headers.remove("Content-Length")
        return Head(self._status, tuple(framed(self._status, headers, size=size)))

    def _drive(self, parts: Iterator[Part]) -> None:
        self._check_unbroken()
        try:
            for part in parts:
                self._sink.put(part)
        except BaseException as error:
            self._failure = error if self._head is not None else None
            raise

    async def _adrive(self, parts: Iterator[Part]) -> None:
        self._check_unbroken()
        try:
            # What was spooled is read in a thread.
            blocks = self._unsent.on_disk
            while part := await asyncio.to_thread(next, parts, None) if blocks else next(parts, None):
                await self._sink.aput(part)
        except BaseException as error:
            self._failure = error if self._head is not None else None
            raise

    def _check_unbroken(self) -> None:
        """Of a flush that failed midway, nobody knows how much went out: the answer can only be broken off."""
        if isinstance(self._failure, ClientGone):
            raise ClientGone
        if self._failure is not None:
            raise StateError("an earlier flush() failed; the answer is broken off") from self._failure

    # --- alone -----------------------------------------------------------------------------------------

    def as_response(self) -> StarletteResponse:
        """A finished one as a Starlette response: FastAPI's path operations make JSON of anything else."""
        from forebay.messages.frameworks import MessageResponse  # loads Starlette

        return MessageResponse(self, status=self.status_code())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a finished one that was recorded: an ASGI application. Raises `StateError` for any other."""
        recorder = self._sink
        if not isinstance(recorder, Recorder) or not self._finished or recorder.head is None:
            raise StateError("only a finished response that is on no connection can be sent; finish() it first")
        head, kept = recorder.head, recorder.kept
        fields = framed(head.status, Headers(head.fields), size=kept.size)
        sink = AsgiSink(scope, receive, send)
        try:
            with contextlib.suppress(ClientGone):
                await sink.aput(Head(head.status, tuple(fields)))
                for offset in range(0, kept.size, PIECE_BYTES):
                    await sink.aput(Data(kept.read(offset, PIECE_BYTES)))
                await sink.aput(End())
        finally:
            sink.close()
