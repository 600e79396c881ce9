"""Run a function, and turn what it returns into a message.

What blocks runs in worker threads: so many at once, so many that wait, and beyond that nothing is taken. A function
that was given up counts until it ends, for no thread can be made to.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any

from forebay.errors import FunctionsBusy, StateError, UnsupportedBody
from forebay.functions.registry import Exposed
from forebay.messages.asgi import Receive, Scope, Send
from forebay.messages.buffered import BufferedServerResponse
from forebay.messages.outgoing import OutgoingMessage

Answer = OutgoingMessage | BufferedServerResponse
"""What is sent: either is an ASGI application."""

_Work = tuple["Future[Any]", Callable[[], Any]]


class Threads:
    """Worker threads, started when they are needed: *most* at once, and *queue* calls that wait for one.

    They are daemons: a function that never ends does not keep the process."""

    def __init__(self, *, most: int, queue: int) -> None:
        self._most, self._queue = most, queue
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._taken = self._started = 0

    async def run(self, call: Callable[[], Any]) -> Any:
        """What *call* returns. Raises `FunctionsBusy`. Cancelled while it waits, it is not called."""
        with self._lock:
            if self._taken >= self._most + self._queue:
                raise FunctionsBusy
            self._taken += 1
            if self._started < min(self._taken, self._most):
                self._started += 1
                threading.Thread(target=self._serve, name=f"forebay-call-{self._started}", daemon=True).start()
        future: Future[Any] = Future()
        future.add_done_callback(self._ended)
        self._work.put((future, partial(contextvars.copy_context().run, call)))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Start nothing any more; the threads end as they have nothing to do."""
        with self._lock:
            for _ in range(self._started):
                self._work.put(None)

    def _ended(self, _: Future[Any]) -> None:
        with self._lock:
            self._taken -= 1

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            _do(*work)
            del work  # it may hold much


def _do(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except StopIteration as error:
        # No future takes it, and whoever waits would wait for ever (PEP 479).
        future.set_exception(_runtime_error(error))
    except BaseException as error:
        future.set_exception(error if isinstance(error, Exception) else _runtime_error(error))
    else:
        future.set_result(result)


def _runtime_error(error: BaseException) -> RuntimeError:
    """What tells of *error*, such as a SystemExit: it must end neither a thread nor the event loop."""
    told = RuntimeError(f"the function raised {type(error).__name__}")
    told.__cause__ = error
    return told


async def invoke(
    exposed: Exposed,
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
    *,
    threads: Threads,
    response: BufferedServerResponse | None,
) -> Answer | None:
    """What *exposed* answers; None: it has filled *response*, which is finished. Raises what the function raises,
    `FunctionsBusy`; `StateError` for two answers."""
    positional, named = arguments
    call = partial(exposed.call, *positional, **named)
    try:
        result = await threads.run(call) if exposed.kind == "blocking" else call()
        if inspect.isawaitable(result):  # of a coroutine function; or of one in a wrapper that is none
            result = await result
    except (SystemExit, KeyboardInterrupt) as error:
        raise _runtime_error(error) from error
    if response is None:
        return answer_of(result)
    if result is None:
        await response.afinish()
        return None
    if _was_used(response):
        what = f"it returned a {type(result).__name__} and filled its response as well"
        raise StateError(f"{exposed.path}: {what}: return None, or leave the response alone")
    return answer_of(result)


def _was_used(response: BufferedServerResponse) -> bool:
    return bool(response.headers_sent() or response.headers() or response.status_code() != 200 or response.data())


def answer_of(result: object) -> Answer:
    """The message that *result* is, or becomes; what has no other form becomes JSON. Raises `UnsupportedBody`."""
    match result:
        case OutgoingMessage() | BufferedServerResponse():
            return result
        case None:
            return OutgoingMessage(status=204)
        case str():
            return OutgoingMessage.json(result)  # as every other plain value: a client reads what was returned
        case _:
            try:
                return OutgoingMessage(result)
            except UnsupportedBody:
                return OutgoingMessage.json(result)


async def send_answer(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    """Send *answer*, and give back what it holds."""
    try:
        await answer(scope, receive, send)
    finally:
        answer.close()
