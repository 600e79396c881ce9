"""Calls: ``/v1/call/{name}``, and paths that functions handle. Plain ASGI, as all that is hot.

A call has until its time limit to begin its answer; from then on, function and reader must go on within the stall
limit. Whoever goes away cancels it: a coroutine at once, a function in a thread when it next writes or yields.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, assert_never
from urllib.parse import quote

from forebay.catalog.tokens import Scope as TokenScope
from forebay.errors import (
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    ForebayError,
    FunctionFailed,
    FunctionsBusy,
    FunctionStalled,
    FunctionTimeout,
    InvalidValue,
    OriginError,
    RequestError,
    StorageError,
    UnknownFunction,
)
from forebay.functions.binding import Supplied
from forebay.functions.invoke import Threads, invoke, send_answer
from forebay.functions.registry import CALL_PATH, Exposed
from forebay.messages.asgi import Disconnected, Field, Message, Receive, Receiving, Scope, Send
from forebay.messages.buffered import BufferedServerResponse
from forebay.messages.incoming import OWNER, IncomingMessage
from forebay.messages.outflow import Reader
from forebay.messages.outgoing import OutgoingMessage
from forebay.messages.sinks import AsgiSink
from forebay.models import Response
from forebay.server.access import Granted
from forebay.server.arguments import Document, Form, query_of, read_arguments
from forebay.server.asmessage import AsMessage, asked_of
from forebay.server.basin import Basin
from forebay.server.bodies import BODY_TIMEOUT_S, replayed
from forebay.server.deliver import Delivery
from forebay.server.problems import SECURITY_FIELDS, send_problem

log = logging.getLogger("forebay.server")

DELIVER = "forebay.deliver"
"""Where, in a scope, messages find what sends a stored version."""
PIECES = "forebay.threads"
"""And the threads that advance iterators."""

_BODILESS = ("GET", "HEAD")
# Most calls are over by then, and need nobody who looks whether their client is there.
_WATCH_AFTER_S = 0.02
# So much of a body is read before a function is called, so that reading it needs no waiting.
_READ_FIRST_BYTES = 1 << 20
_RETRY_AFTER: tuple[Field, ...] = ((b"retry-after", b"1"),)
# What a function returns is for who asked, unless it says otherwise; guards as for each answer.
_USUAL_FIELDS: tuple[Field, ...] = (*SECURITY_FIELDS, (b"cache-control", b"no-cache"))

Check = Callable[[Scope, TokenScope], Granted]


class Calls:
    """Answers calls of the functions of one folder, in one event loop."""

    def __init__(self, basin: Basin, delivery: Delivery) -> None:
        self.settings = basin.settings
        self.owner = basin.bay
        self.delivery = delivery
        self.registry = basin.bay.functions
        self.threads = Threads(most=self.settings.function_threads, queue=self.settings.function_queue)
        # Of its own: iterators take a thread for a piece, and each stream has to get its turn.
        self.pieces = Threads(
            most=self.settings.function_threads, queue=self.settings.function_queue, name="forebay-pieces"
        )

    def close(self) -> None:
        """Take no calls any more."""
        self.threads.close()
        self.pieces.close()

    async def handle(self, scope: Scope, receive: Receive, send: Send, *, check: Check) -> bool:
        """Answer one ASGI request; False: no function is for it. *check*: what whoever asks may do."""
        path: str = scope["path"]
        places: Mapping[str, str] = {}
        if path.startswith(CALL_PATH):
            exposed = self.registry.named(path.removeprefix(CALL_PATH))
            granted = check(scope, "call" if exposed is None else exposed.requires)
            if exposed is None:
                raise UnknownFunction(path.removeprefix(CALL_PATH))
        else:
            found = self.registry.at(_raw_path(scope)) if self.registry else None
            if found is None:
                return False
            exposed, places = found
            granted = check(scope, exposed.requires)
        exposed.check_verb(scope["method"])
        await _Call(self, exposed, places, granted, scope, receive, send).run()
        return True


def _raw_path(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    return quote(scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")


class _Way:
    """The way out of one call: how far its answer is, and until when it must have gone on."""

    def __init__(self, send: Send, *, stall_s: float) -> None:
        self._send, self._stall_s = send, stall_s
        self._loop = asyncio.get_running_loop()
        self.clock: asyncio.Timeout | None = None
        self.begun = self.closed = False

    async def __call__(self, message: Message) -> None:
        if self.closed:
            raise ClientGone  # given up: somebody else answers, or nobody
        if message["type"] == "http.response.start":
            self.begun = True
            message = {**message, "headers": _with_usual(message.get("headers", ()))}
        self._go_on()
        await self._send(message)
        self._go_on()
        if message.get("more_body", False):
            # To a client that has gone, a server's `send` returns at once, and so may whatever makes the next
            # piece: nobody else would ever run, not even who notices that.
            await asyncio.sleep(0)

    def _go_on(self) -> None:
        if self.begun and self.clock is not None and not self.closed and not self.clock.expired():
            self.clock.reschedule(self._loop.time() + self._stall_s)


def _with_usual(fields: Any) -> list[Field]:
    names = {name for name, _ in fields}
    return [*fields, *(field for field in _USUAL_FIELDS if field[0] not in names)]


class _Call:
    """One call."""

    def __init__(
        self,
        calls: Calls,
        exposed: Exposed,
        places: Mapping[str, str],
        granted: Granted,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._calls, self._exposed, self._places, self._granted = calls, exposed, places, granted
        self._scope: Scope = {**scope, DELIVER: self._deliver, PIECES: calls.pieces}
        self._receiving = Receiving(_bounded(receive, calls.settings.function_body_bytes))
        self._send = send
        self._way = _Way(send, stall_s=calls.settings.function_stall_limit_s)
        self._held = contextlib.ExitStack()
        self._body: Receive = self._receiving
        self._gone = False
        self._watcher: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Answer it. Raises `Disconnected`; what cannot be told any more, once the answer has begun."""
        try:
            with self._held:
                values = await self._values()
                await self._timed(values)
        except (ClientGone, Disconnected):
            raise Disconnected from None
        except Exception as error:
            if self._gone:
                raise Disconnected from error
            await self._fail(error)
        finally:
            self._way.closed = True
            self._receiving.close()

    async def _timed(self, values: dict[str, Any]) -> None:
        settings, loop = self._calls.settings, asyncio.get_running_loop()
        limit_s = self._exposed.time_limit_s or settings.function_time_limit_s
        watching = loop.call_later(_WATCH_AFTER_S, self._watch)
        try:
            async with asyncio.timeout(limit_s) as clock:
                self._way.clock = clock
                await self._invoke(values)
        except TimeoutError:
            if self._gone:
                raise Disconnected from None
            if not clock.expired():
                raise  # the function's own
            if self._way.begun:
                raise FunctionStalled(limit_s=settings.function_stall_limit_s) from None
            raise FunctionTimeout(limit_s=limit_s) from None
        finally:
            self._way.closed = True
            watching.cancel()
            if self._watcher is not None:
                self._watcher.cancel()

    def _watch(self) -> None:
        self._watcher = asyncio.create_task(self._end_with_client())

    async def _end_with_client(self) -> None:
        try:
            await self._receiving.gone()
        except BodyTooLarge:
            return  # whoever reads that body is told
        self._gone = True
        clock = self._way.clock
        if clock is not None and not clock.expired():
            clock.reschedule(asyncio.get_running_loop().time())

    async def _invoke(self, values: dict[str, Any]) -> None:
        binding = self._exposed.binding
        if self._exposed.kind == "lazy":
            self._calls.pieces.check()  # to be called takes no thread, but each piece does
        response = self._response() if binding.takes_response else None
        message = await self._message() if binding.takes_message else None

        def supply(what: Supplied) -> Any:
            match what:
                case "message":
                    return message
                case "response":
                    return response
                case "owner":
                    return self._calls.owner
                case _:
                    assert_never(what)

        arguments = binding.arguments(values, supply)
        answer = await invoke(self._exposed, arguments, threads=self._calls.threads, response=response)
        if answer is not None:
            await send_answer(answer, self._scope, self._receiving, self._way)

    # --- what is supplied ------------------------------------------------------------------------------

    def _response(self) -> BufferedServerResponse:
        sink = AsgiSink(self._scope, self._receiving, self._way, loop=asyncio.get_running_loop())
        self._held.callback(sink.close)
        # Not closed: a thread that was given up may have it still, and learns from the sink that nobody listens.
        return BufferedServerResponse(sink)

    async def _message(self) -> IncomingMessage:
        scope = {**self._scope.get("forebay.outer", self._scope), OWNER: self._granted.owner}
        message = IncomingMessage.from_asgi(scope, self._body, loop=asyncio.get_running_loop())
        self._held.callback(message.close)
        # A coroutine cannot wait in a getter; a thread can, but a body that is here already costs it nothing.
        if self._exposed.kind == "coroutine" or _is_small(self._scope):
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    await message.load(_READ_FIRST_BYTES)
            except TimeoutError:
                raise BodyTooSlow(limit_s=BODY_TIMEOUT_S) from None
        return message

    async def _values(self) -> dict[str, Any]:
        """The values of the parameters that are asked for."""
        binding, scope = self._exposed.binding, self._scope
        others = binding.takes_message or self._exposed.name is None
        given, places = query_of(scope), self._places
        if others and all(one.name in places for one in binding.asked):
            return binding.from_texts(given, others=True, also=places)  # the body is the function's own business
        if scope["method"] in _BODILESS:
            return binding.from_texts(given, others=others, also=places)
        sent = await read_arguments(scope, self._receiving, max_bytes=self._calls.settings.function_body_bytes)
        if sent is not None and given and not others:
            raise InvalidValue("query", expected="parameters in the body or in the query, not in both", got="both")
        match sent:
            case None:
                return binding.from_texts(given, others=others, also=places)
            case Document(body):
                self._body = replayed(body)
                return binding.from_json(body, also=places)
            case Form(texts, form_body, files):
                for file in files:
                    self._held.callback(file.close)
                self._body = replayed(form_body or b"")
                return binding.from_texts(given | texts, others=others, also=places)
            case _:
                assert_never(sent)

    # --- what is sent ----------------------------------------------------------------------------------

    async def _deliver(self, scope: Scope, receive: Receive, send: Send, message: OutgoingMessage) -> None:
        """Send a stored version as the body of *message*: ranges, preconditions and validators are its own."""
        response = message.body
        assert isinstance(response, Response)
        # It is the function that reads it, for whoever may call that.
        granted = replace(self._granted, group=None)
        with Reader(receive) as reader:
            await self._calls.delivery.named(
                asked_of(scope, message),
                AsMessage(send, message),
                reader,
                granted=granted,
                request_id=response.request_id,
                version=response.version,
                verified=False,
            )

    async def _fail(self, error: Exception) -> None:
        """Answer with *error*, or, when that is not possible any more, raise: the connection breaks off."""
        told = _told(error)
        more: dict[str, Any] = {}
        if self._way.begun or not isinstance(told, RequestError | FunctionsBusy):
            more["id"] = secrets.token_hex(8)
            # Without what would only tell where we have noticed it.
            trace = None if isinstance(error, FunctionTimeout | FunctionStalled) else error
            log.error("%s: %s [%s]", self._exposed.path, error, more["id"], exc_info=trace)
        if self._way.begun:
            raise told
        fields = _RETRY_AFTER if told.status == 503 else ()
        await send_problem(self._send, told, head=self._scope["method"] == "HEAD", fields=fields, more=more)


def _told(error: Exception) -> ForebayError:
    """What a client is told of *error*. What went wrong inside is in the log: it may name anything."""
    match error:
        case FunctionsBusy() | FunctionTimeout() | FunctionStalled() | StorageError():
            return error
        case RequestError() if error.status < 500:
            return error
        case OriginError():
            return FunctionFailed(origin=error)
        case _:
            return FunctionFailed()


def _bounded(receive: Receive, max_bytes: int) -> Receive:
    """*receive*, of a body of at most *max_bytes*."""
    size = 0

    async def receive_so_far() -> Message:
        nonlocal size
        event = await receive()
        size += len(event.get("body", b""))
        if size > max_bytes:
            raise BodyTooLarge(limit_bytes=max_bytes)
        return event

    return receive_so_far


def _is_small(scope: Scope) -> bool:
    if scope["method"] in _BODILESS:
        return True
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return length.isdigit() and int(length[:20]) <= _READ_FIRST_BYTES
