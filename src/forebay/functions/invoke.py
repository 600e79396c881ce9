"""Run a function, and turn what it returns into a message.

What blocks runs in worker threads: so many at once, so many that wait, and beyond that nothing is taken. A function
that was given up counts until it ends, for no thread can be made to.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
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


class Threads(Executor):
    """Worker threads, started when they are needed: *most* at once, and *queue* calls that wait for one.

    They are daemons: a function that never ends does not keep the process."""

    def __init__(self, *, most: int, queue: int, name: str = "forebay-call") -> None:
        self._most, self._queue, self._name = most, queue, name
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._taken = self._started = 0
        self._closed = False

    def check(self) -> None:
        """Raise `FunctionsBusy` when as many wait as may."""
        with self._lock:
            if self._taken >= self._most + self._queue:
                raise FunctionsBusy

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have *call* called, however many wait: what has begun goes on. Raises `RuntimeError` when closed."""
        with self._lock:
            if self._closed:
                raise RuntimeError("these threads are closed")
            self._taken += 1
            if self._started < min(self._taken, self._most):
                self._started += 1
                threading.Thread(target=self._serve, name=f"{self._name}-{self._started}", daemon=True).start()
        future: Future[Any] = Future()
        future.add_done_callback(self._ended)
        self._work.put((future, partial(call, *args, **kwargs)))
        return future

    async def run(self, call: Callable[[], Any]) -> Any:
        """What *call* returns. Raises `FunctionsBusy`. Cancelled while it waits, it is not called."""
        self.check()
        return await asyncio.wrap_future(self.submit(contextvars.copy_context().run, call))

    def close(self) -> None:
        """Start nothing any more; the threads end as they have nothing to do."""
        with self._lock:
            self._closed = True
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


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Whatever a function raises is an Exception: no SystemExit of it ends the event loop, and a CancelledError
    that was not meant for the call, such as of a task that it has cancelled itself, is a failure like others."""
    try:
        yield
    except (Exception, GeneratorExit):
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _runtime_error(error) from error
    except BaseException as error:
        raise _runtime_error(error) from error


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
    with _contained():
        result = await threads.run(call) if exposed.kind == "blocking" else call()
        if inspect.isawaitable(result):  # of a coroutine function; or of one in a wrapper that is none
            result = await result
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
        with _contained():
            await answer(scope, receive, send)
    finally:
        # Sending closes what is iterated over, in the thread that is in it: here that would fail, or block.
        if not isinstance(answer, OutgoingMessage) or hasattr(answer.body, "read"):
            answer.close()
