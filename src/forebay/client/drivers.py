"""The two drivers of flows, over httpx: one that blocks, one for an event loop. The only importer of httpx.

They know how to do what a flow yields, and nothing of what it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, assert_never

import httpx

from forebay.client.exchange import Answer, Call, Content, Do, Flow, Sink, Step, Together, Wait
from forebay.client.together import Hook, arun_together, in_thread, run_together
from forebay.core.fields import Fields
from forebay.errors import ServerUnreachable
from forebay.trust import system_ca_file

T = TypeVar("T")

# What may wait for a disk that is slower than the network.
_GATHER_BYTES = 4 << 20
_SEND_S = 60.0
# These say nothing about whether the server is there: on the way, or while it thought, the connection broke. A kept
# one may turn out to be closed only when it is used. Then once more, with another, if that does no harm.
_BROKEN = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)
_KEPT = 32


@dataclass(frozen=True, slots=True)
class Line:
    """How a server is reached. *base* has no slash at its end."""

    base: str
    token: str | None = field(default=None, repr=False)
    connect_timeout_s: float = 5.0

    def options(self) -> dict[str, Any]:
        """What both of httpx's clients are made with."""
        fields = {"User-Agent": "forebay/0.1", "Accept-Encoding": "identity"}
        if self.token is not None:
            fields["Authorization"] = f"Bearer {self.token}"
        return {
            "headers": fields,
            "verify": _trust(self.base),
            # Neither proxies nor .netrc: the token goes to this server and nowhere else.
            "trust_env": False,
            "follow_redirects": False,
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT),
        }

    def request(self, call: Call) -> dict[str, Any]:
        """What httpx is to send for *call*."""
        fields, body = list(call.fields), None
        if call.body is not None:
            fields.append(("Content-Type", "application/json"))
            body = json.dumps(call.body).encode("ascii")
        elif call.content is not None:
            fields.append(("Content-Length", str(call.content.size)))
        return {
            "method": call.method,
            "url": f"{self.base}{call.path}",
            "params": call.query or None,
            "headers": fields,
            "content": body,
            "timeout": httpx.Timeout(_SEND_S, connect=self.connect_timeout_s, read=call.patience_s, pool=None),
        }


def _trust(base: str) -> ssl.SSLContext:
    if base.startswith("https:"):
        return ssl.create_default_context(cafile=system_ca_file())
    # Reading a bundle of certificates takes 20 ms; one that trusts nobody will do where there is no TLS.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _fields(incoming: httpx.Response) -> Fields:
    return Fields((name.decode("latin-1"), value.decode("latin-1")) for name, value in incoming.headers.raw)


def _reason(error: httpx.TransportError) -> str:
    text = re.sub(r"^\[Errno -?\d+\] |^\[SSL[^\]]*\] ", "", str(error)).strip().lower()
    match error:
        case httpx.ConnectTimeout():
            return "no connection in time"
        case httpx.TimeoutException():
            return "no answer in time"
        case _:
            return text or type(error).__name__


def _may_go_again(call: Call, error: httpx.TransportError) -> bool:
    return call.may_be_sent_again and isinstance(error, _BROKEN)


def _unreachable(line: Line, error: httpx.TransportError) -> ServerUnreachable:
    return ServerUnreachable(reason=_reason(error), server=line.base)


class Driver:
    """Runs flows in the caller's thread; usable from any number of them."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._client = httpx.Client(**line.options())

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def run(self, flow: Flow[T], *, hook: Hook | None = None) -> T:
        """What *flow* returns. Raises what it raises."""
        try:
            step = next(flow)
            while True:
                try:
                    done = self._do(step, hook)
                except Exception as error:
                    _name_server(error, self._line)
                    step = flow.throw(error)
                else:
                    step = flow.send(done)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            flow.close()

    def _do(self, step: Step, hook: Hook | None) -> Any:
        if hook is not None:
            hook.check()
        match step:
            case Call():
                return self._call(step, hook)
            case Wait(seconds):
                time.sleep(seconds)
                return None
            case Do(work):
                return work()
            case Together(flows, tick):
                return run_together(self.run, flows, tick, hook)
            case _:
                assert_never(step)

    def _call(self, call: Call, hook: Hook | None) -> Answer:
        for last in (False, True):
            try:
                return self._exchange(call, hook)
            except httpx.TransportError as error:
                if last or not _may_go_again(call, error):
                    raise _unreachable(self._line, error) from error
        raise AssertionError("the last try returns or raises")

    def _exchange(self, call: Call, hook: Hook | None) -> Answer:
        request = self._line.request(call)
        if call.content is not None:
            request["content"] = _wanted(call.content, hook)
        with (
            self._client.stream(**request) as incoming,
            contextlib.nullcontext() if hook is None else hook.on(incoming.extensions),
        ):
            fields = _fields(incoming)
            # Not `iter_raw`: it closes the answer at its end, and the connection is let go while the hook is on it.
            pieces = incoming.stream
            assert isinstance(pieces, httpx.SyncByteStream)
            if call.sink is None or not call.sink.begin(incoming.status_code, fields):
                return Answer(incoming.status_code, fields, b"".join(pieces))
            try:
                for piece in pieces:
                    call.sink.write(piece)
            except httpx.TransportError as error:
                return Answer(incoming.status_code, fields, cut=_reason(error))
            return Answer(incoming.status_code, fields)


def _wanted(content: Content, hook: Hook | None) -> Iterator[bytes]:
    """The pieces of *content*, as long as somebody wants them sent."""
    for piece in content.pieces():
        if hook is not None:
            hook.check()
        yield piece


class AsyncDriver:
    """Runs flows in an event loop; what may block, in a thread."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._client = httpx.AsyncClient(**line.options())

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """What *flow* returns. Raises what it raises."""
        try:
            step = next(flow)
            while True:
                try:
                    done = await self._do(step)
                except Exception as error:
                    _name_server(error, self._line)
                    step = flow.throw(error)
                else:
                    step = flow.send(done)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            flow.close()

    async def _do(self, step: Step) -> Any:
        match step:
            case Call():
                return await self._call(step)
            case Wait(seconds):
                return await asyncio.sleep(seconds)
            case Do(work):
                return await in_thread(work)
            case Together(flows, tick):
                return await arun_together(self.run, flows, tick)
            case _:
                assert_never(step)

    async def _call(self, call: Call) -> Answer:
        for last in (False, True):
            try:
                return await self._exchange(call)
            except httpx.TransportError as error:
                if last or not _may_go_again(call, error):
                    raise _unreachable(self._line, error) from error
        raise AssertionError("the last try returns or raises")

    async def _exchange(self, call: Call) -> Answer:
        request = self._line.request(call)
        if call.content is not None:
            request["content"] = _read_ahead(call.content)
        async with self._client.stream(**request) as incoming:
            fields = _fields(incoming)
            if call.sink is None or not call.sink.begin(incoming.status_code, fields):
                return Answer(
                    incoming.status_code, fields, b"".join([piece async for piece in incoming.aiter_raw()])
                )
            try:
                async with _Writing(call.sink) as writing:
                    async for piece in incoming.aiter_raw():
                        await writing.add(piece)
            except httpx.TransportError as error:
                return Answer(incoming.status_code, fields, cut=_reason(error))
            return Answer(incoming.status_code, fields)


class _Writing:
    """Hands pieces to a sink, in a thread: those that came while the ones before were written, all at once."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._pieces: list[bytes] = []
        self._size = 0
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def add(self, piece: bytes) -> None:
        """Take *piece*. Waits when too much has gathered; raises what writing raised."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._writer is None or self._writer.done() or self._size >= _GATHER_BYTES:
            await self._written()
            block, self._pieces, self._size = b"".join(self._pieces), [], 0
            self._writer = asyncio.ensure_future(asyncio.to_thread(self._sink.write, block))

    async def _written(self) -> None:
        if self._writer is not None:
            await asyncio.shield(self._writer)
            self._writer = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What came is written, also when the connection broke; nothing is being written any more."""
        if self._writer is not None:
            await asyncio.wait([self._writer])
        if error is None or isinstance(error, httpx.TransportError):
            await self._written()
            if self._pieces:
                await in_thread(partial(self._sink.write, b"".join(self._pieces)))


async def _read_ahead(content: Content) -> AsyncIterator[bytes]:
    """The pieces of *content*, the next one read in a thread while one is sent."""
    pieces = content.pieces()
    coming = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
    try:
        while (piece := await asyncio.shield(coming)) is not None:
            coming = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
            yield piece
    finally:
        # The thread has its file; nobody may close that under it.
        await asyncio.wait([coming])
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def _name_server(error: Exception, line: Line) -> None:
    if isinstance(error, ServerUnreachable) and error.server is None:
        error.server = line.base
