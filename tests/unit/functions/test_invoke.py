"""Functions run where they do no harm, and what they return becomes a message."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from forebay import BufferedServerResponse, OutgoingMessage
from forebay.errors import FunctionsBusy, StateError, UnsupportedBody
from forebay.functions.invoke import Threads, answer_of, invoke, send_answer
from forebay.functions.registry import Exposed, Registry


class Point(BaseModel):
    x: int


SCOPE: dict[str, Any] = {
    "type": "http", "method": "GET", "http_version": "1.1", "path": "/", "headers": [], "query_string": b"",
}  # fmt: skip


async def never() -> Any:
    """Nothing comes."""
    return await asyncio.Future()


async def ignored(event: Any) -> None:
    """Nothing is kept."""


def sent(answer: Any) -> tuple[int, str | None, bytes]:
    """Status, Content-Type and body of what *answer* sends."""
    events: list[Any] = []

    async def send(event: Any) -> None:
        events.append(event)

    asyncio.run(answer(dict(SCOPE), never, send))
    fields = dict(events[0]["headers"])
    kind = fields.get(b"content-type")
    return events[0]["status"], kind and kind.decode(), b"".join(event.get("body", b"") for event in events[1:])


async def pieces() -> Any:
    yield b"a"
    yield "b"


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, (204, None, b"")),
        ("text", (200, "application/json", b'"text"')),
        (7, (200, "application/json", b"7")),
        (True, (200, "application/json", b"true")),
        ({"a": [1, None]}, (200, "application/json", b'{"a":[1,null]}')),
        ([Point(x=1)], (200, "application/json", b'[{"x":1}]')),
        (Point(x=1), (200, "application/json", b'{"x":1}')),
        ({1}, (200, "application/json", b"[1]")),
        (b"bytes", (200, "application/octet-stream", b"bytes")),
        (iter([b"a", "b"]), (200, "application/octet-stream", b"ab")),
        (OutgoingMessage("text", status=201), (201, "text/plain; charset=utf-8", b"text")),
    ],
)
def test_what_is_returned_becomes_a_message(result: Any, expected: Any) -> None:
    """A message is one; None is 204; bytes, iterators, files and images are sent; all else is JSON, also a text."""
    assert sent(answer_of(result)) == expected


def test_an_asynchronous_iterator_is_streamed() -> None:
    """Piece by piece."""
    assert sent(answer_of(pieces()))[2] == b"ab"


def test_a_path_is_a_file(tmp_path: Path) -> None:
    """With the type that its name says."""
    (tmp_path / "a.csv").write_bytes(b"1,2")
    assert sent(answer_of(tmp_path / "a.csv")) == (200, "text/csv", b"1,2")


def test_a_finished_response_can_be_returned() -> None:
    """One that the function has made itself."""
    response = BufferedServerResponse()
    response.write("x")
    response.finish()
    assert sent(answer_of(response))[2] == b"x"


def test_what_nobody_can_write_is_an_error() -> None:
    """With its type."""
    with pytest.raises(UnsupportedBody, match="object"):
        answer_of(object())


def exposed(call: Callable[..., Any]) -> Exposed:
    registry = Registry(object())
    registry.expose(call, name="it", get=False, requires="call", time_limit_s=None)
    found = registry.named("it")
    assert found is not None
    return found


def run(call: Callable[..., Any], *, response: BufferedServerResponse | None = None) -> Any:
    """What *call*, which may take ``response``, answers."""
    threads = Threads(most=1, queue=0)
    try:
        given = {} if response is None else {"response": response}
        return asyncio.run(invoke(exposed(call), ((), given), threads=threads, response=response))
    finally:
        threads.close()


def test_what_blocks_runs_in_a_thread_and_coroutines_in_the_loop() -> None:
    """Whatever a coroutine function is wrapped in."""

    def blocking() -> str:
        return threading.current_thread().name

    async def coroutine() -> str:
        return threading.current_thread().name

    def wrapped() -> Coroutine[Any, Any, str]:
        return coroutine()

    assert sent(run(blocking))[2].startswith(b'"forebay-call-')
    main = f'"{threading.current_thread().name}"'.encode()
    assert sent(run(coroutine))[2] == main
    assert sent(run(wrapped))[2] == main


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(1), ValueError("x")])
def test_no_exception_ends_more_than_the_call(error: BaseException) -> None:
    """Not the thread, not the event loop, not the process."""

    def blocking() -> None:
        raise error

    async def coroutine() -> None:
        raise error

    for call in (blocking, coroutine):
        with pytest.raises((RuntimeError, ValueError)):
            run(call)


def test_a_cancellation_of_its_own_is_a_failure() -> None:
    """Such as of a task that it waits for; whoever cancels the call itself is heeded."""

    async def own() -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    async def pieces() -> AsyncIterator[str]:
        yield "a"
        await own()

    with pytest.raises(RuntimeError, match="raised CancelledError"):
        run(own)
    with pytest.raises(RuntimeError, match="raised CancelledError"):
        sent(partial(send_answer, OutgoingMessage(pieces())))

    async def given_up() -> None:
        threads = Threads(most=1, queue=0)
        async with asyncio.timeout(0):
            await invoke(exposed(endless), ((), {}), threads=threads, response=None)

    async def endless() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(given_up())


def test_an_iterator_is_closed_by_the_thread_that_is_in_it() -> None:
    """When it is given up, and not before its piece is made."""
    held, entered, closed = threading.Event(), threading.Event(), threading.Event()

    def pieces() -> Iterator[str]:
        try:
            entered.set()
            held.wait(60)
            yield "late"
        finally:
            closed.set()

    async def scenario() -> None:
        task = asyncio.create_task(send_answer(OutgoingMessage(pieces()), SCOPE, never, ignored))
        await asyncio.to_thread(entered.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not closed.is_set()
        held.set()
        assert await asyncio.to_thread(closed.wait, 60)

    asyncio.run(scenario())


def test_a_file_is_closed_when_it_was_sent() -> None:
    """Nobody else would."""
    file = io.BytesIO(b"x")
    assert sent(partial(send_answer, OutgoingMessage(file)))[2] == b"x"
    assert file.closed


def test_a_response_that_was_supplied_is_finished() -> None:
    """When nothing is returned."""

    def call(response: BufferedServerResponse) -> None:
        response.write("x")

    response = BufferedServerResponse()
    assert run(call, response=response) is None
    assert response.body() == b"x"
    assert response.header("Content-Length") in ("", "1")
    assert response.headers_sent()


@pytest.mark.parametrize(
    "use",
    [
        lambda response: response.write("x"),
        lambda response: response.set_header("A", "b"),
        lambda response: response.set_status_code(201),
        lambda response: response.flush(),
        lambda response: response.finish(),
    ],
)
def test_two_answers_are_an_error(use: Callable[[BufferedServerResponse], Any]) -> None:
    """A value beside a response that was used: one of them would be dropped in silence."""

    def call(response: BufferedServerResponse) -> str:
        use(response)
        return "y"

    with pytest.raises(StateError, match="returned a str and filled its response as well"):
        run(call, response=BufferedServerResponse())


def test_a_value_beside_an_unused_response_is_the_answer() -> None:
    """It may not have been needed."""

    def call(response: BufferedServerResponse) -> str:
        return "y"

    assert sent(run(call, response=BufferedServerResponse()))[2] == b'"y"'


# --- threads ----------------------------------------------------------------------------------------------


class Busy:
    """Calls that run until they are let go."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.go = threading.Event()
        self.ran = 0

    def __call__(self) -> str:
        self.ran += 1
        self.started.release()
        self.go.wait()
        return "done"


def test_so_many_run_so_many_wait_and_no_more() -> None:
    """What is beyond is refused at once; when one has ended, the next is taken."""

    async def scenario() -> None:
        threads, busy = Threads(most=2, queue=1), Busy()
        tasks = [asyncio.create_task(threads.run(busy)) for _ in range(3)]
        await asyncio.to_thread(lambda: (busy.started.acquire(), busy.started.acquire()))
        with pytest.raises(FunctionsBusy):
            await threads.run(busy)
        assert busy.ran == 2
        busy.go.set()
        assert await asyncio.gather(*tasks) == ["done"] * 3
        assert await threads.run(lambda: "again") == "again"
        threads.close()

    asyncio.run(scenario())


def test_who_waits_and_goes_away_is_not_called() -> None:
    """Nor counted any more."""

    async def scenario() -> None:
        threads, busy = Threads(most=1, queue=1), Busy()
        first = asyncio.create_task(threads.run(busy))
        await asyncio.to_thread(busy.started.acquire)
        for _ in range(3):
            waiting = asyncio.create_task(threads.run(busy))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
        busy.go.set()
        assert await first == "done"
        assert busy.ran == 1
        threads.close()

    asyncio.run(scenario())


def test_a_call_that_was_given_up_counts_until_it_ends() -> None:
    """Its thread is taken."""

    async def scenario() -> None:
        threads, busy = Threads(most=1, queue=0), Busy()
        given_up = asyncio.create_task(threads.run(busy))
        await asyncio.to_thread(busy.started.acquire)
        given_up.cancel()
        await asyncio.wait([given_up])
        with pytest.raises(FunctionsBusy):
            await threads.run(busy)
        going_on = threads.submit(str, 1)  # of what has begun, nothing is refused
        busy.go.set()
        assert await asyncio.wrap_future(going_on) == "1"
        threads.close()

    asyncio.run(scenario())
