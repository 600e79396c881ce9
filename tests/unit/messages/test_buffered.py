"""Answers that are written piece by piece: what programs write into them, on connections that break, and alone."""

from __future__ import annotations

import asyncio
import csv
import errno
import gzip
import io
import json
import threading
import zipfile
from typing import Any

import PIL.Image
import pytest

from asgi import Exchange, ask
from forebay import BufferedServerResponse, ServerResponse
from forebay.errors import (
    ClientGone,
    DiskFull,
    HeadersAlreadySent,
    InvalidMessage,
    ResponseFinished,
    StateError,
    StorageFailed,
    UnsupportedBody,
)
from forebay.messages import outflow, spool
from forebay.messages.asgi import Receiving
from forebay.messages.sinks import AsgiSink, Data


def test_the_length_is_that_of_the_buffer_wherever_its_file_stands() -> None:
    """After a seek, too."""
    response: ServerResponse = BufferedServerResponse()
    response.write("hällo")
    response.io().seek(2)
    response.finish()
    assert (response.header("content-length"), response.body()) == ("6", "hällo".encode())


def test_programs_write_into_its_file() -> None:
    """Pillow, zipfile with what was sent in between, gzip, csv."""
    response = BufferedServerResponse()
    PIL.Image.new("RGB", (2, 2)).save(response.io(), "PNG")
    assert PIL.Image.open(io.BytesIO(response.data())).size == (2, 2)
    response.truncate()
    with zipfile.ZipFile(response.io(), "w") as archive:
        archive.writestr("a", "1")
        response.flush()
        archive.writestr("b", "2")
    response.finish()
    with zipfile.ZipFile(io.BytesIO(response.body())) as archive:
        assert archive.namelist() == ["a", "b"]
        assert archive.testzip() is None
    response = BufferedServerResponse()
    with gzip.GzipFile(fileobj=response.io(), mode="wb") as packed, io.TextIOWrapper(packed, "utf-8") as text:
        csv.writer(text).writerows([["ä", 1]] * 3)
    response.write("")
    response.finish()
    assert gzip.decompress(response.body()).decode() == "ä,1\r\n" * 3
    assert response.header("Content-Type") == "application/octet-stream"


def test_the_file_is_one_of_io() -> None:
    """As `io` describes one."""
    response = BufferedServerResponse()
    file = response.io()
    assert isinstance(file, io.BufferedIOBase)
    assert (file.readable(), file.writable(), file.seekable()) == (True, True, True)
    file.write(memoryview(b"abcdef"))
    file.seek(-4, io.SEEK_END)
    file.seek(1, io.SEEK_CUR)
    buffer = bytearray(2)
    assert (file.readinto(buffer), bytes(buffer), file.read1(), file.tell()) == (2, b"de", b"f", 6)
    assert file.truncate(3) == 3
    assert (response.data(), file.truncate(5), response.data()) == (b"abc", 5, b"abc\0\0")
    file.seek(1)
    assert (file.truncate(), file.truncate(0), file.truncate(0), response.data()) == (1, 0, 0, b"")
    for offset, whence in ((-1, 0), (0, 5)):
        with pytest.raises(ValueError, match=r"offset|whence"):
            file.seek(offset, whence)
    with pytest.raises(TypeError):
        file.write("text")  # type: ignore[arg-type]
    with pytest.raises(io.UnsupportedOperation):
        file.fileno()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read()
    response.io().seek(0)
    response.io().write(b"x")
    assert response.data() == b"x"


@pytest.mark.parametrize("data", [5, None, ["a"]])
def test_only_text_and_bytes_can_be_written(data: Any) -> None:
    """A number is not quietly made one, nor half a character."""
    with pytest.raises(TypeError):
        BufferedServerResponse().write(data)
    with pytest.raises(UnsupportedBody):
        BufferedServerResponse().write("\ud800")


def test_a_status_is_a_number_of_http() -> None:
    """As in a message; a bad one of send_error drops nothing."""
    response = BufferedServerResponse()
    response.write("kept")
    for code in (True, 99, "200"):
        with pytest.raises(InvalidMessage):
            response.set_status_code(code)  # type: ignore[arg-type]
        with pytest.raises(InvalidMessage):
            response.send_error(code, "no")  # type: ignore[arg-type]
    assert (response.status_code(), response.data()) == (200, b"kept")


def test_what_would_go_out_can_be_asked_before() -> None:
    """Its type and length, without sending it."""
    response = BufferedServerResponse()
    response.write("abc")
    assert dict(response.headers()) == {}
    assert dict(response.full_headers()) == {"Content-Type": "text/plain; charset=utf-8", "Content-Length": "3"}


# --- on a connection ----------------------------------------------------------------------------------------


def bound(exchange: Exchange, work: Any, *, thread: bool = False) -> Any:
    """What *work* gives with a response on *exchange*; in a worker thread, or as a coroutine."""

    async def run() -> Any:
        sink = AsgiSink(exchange.scope, exchange.receive, exchange.send)
        response = BufferedServerResponse(sink)
        try:
            return await (asyncio.to_thread(work, response) if thread else work(response))
        finally:
            response.close()

    return asyncio.run(run())


def test_flush_puts_bytes_on_the_wire() -> None:
    """From a thread, each at its time; what was sent is gone."""
    exchange = Exchange()

    def work(response: BufferedServerResponse) -> None:
        response.write("a")
        response.flush()
        assert (exchange.status, exchange.body, exchange.is_whole) == (200, b"a", False)
        response.write("b")
        assert (response.body(), response.data()) == (b"", b"b")
        response.finish()

    bound(exchange, work, thread=True)
    assert (exchange.body, exchange.is_whole) == (b"ab", True)
    assert exchange.fields == [("content-type", "text/plain; charset=utf-8")]


def test_what_is_not_finished_is_broken_off() -> None:
    """Nobody takes it for the whole; and nothing more can be written."""

    def work(response: BufferedServerResponse) -> BufferedServerResponse:
        response.write("half")
        response.flush()
        return response

    response = bound(exchange := Exchange(), work, thread=True)
    assert not exchange.is_whole
    with pytest.raises(ResponseFinished):
        response.write("more")


def test_a_client_that_has_gone_is_told_at_each_flush() -> None:
    """In a thread and in a coroutine."""

    def work(response: BufferedServerResponse) -> None:
        response.flush()
        for _ in range(1000):
            response.write(b"x")
            try:
                response.flush()
            except ClientGone:
                break
        with pytest.raises(ClientGone):
            response.flush()
        with pytest.raises(ClientGone):
            response.finish()

    bound(Exchange(takes=2), work, thread=True)

    async def twin(response: BufferedServerResponse) -> None:
        response.write(b"x")
        for _ in range(2):
            with pytest.raises(ClientGone):
                while True:
                    await response.aflush()
                    response.write(b"x")

    bound(Exchange(takes=2), twin)


def test_a_client_that_takes_nothing_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its connection says."""
    monkeypatch.setattr(outflow, "STALL_S", 0.01)
    exchange = Exchange()

    async def stall(event: Any) -> None:
        await asyncio.Event().wait()

    exchange.send = stall  # type: ignore[method-assign]
    with pytest.raises(ClientGone):
        bound(exchange, lambda response: response.aflush())


def test_who_waits_is_freed_when_the_exchange_ends() -> None:
    """A thread that would wait for ever in a flush; and one that comes later."""
    exchange, waits = Exchange(), threading.Event()

    async def stall(event: Any) -> None:
        waits.set()
        await asyncio.Event().wait()

    exchange.send = stall  # type: ignore[method-assign]

    async def run() -> None:
        sink = AsgiSink(exchange.scope, exchange.receive, exchange.send)
        response = BufferedServerResponse(sink)
        waiting = asyncio.create_task(asyncio.to_thread(response.flush))
        await asyncio.to_thread(waits.wait)
        sink.close()
        with pytest.raises(ClientGone):
            await waiting
        with pytest.raises(ClientGone):
            await asyncio.to_thread(sink.put, Data(b"x"))
        with pytest.raises(ClientGone):
            await sink.aput(Data(b"x"))
        response.close()

    asyncio.run(run())


def test_a_flush_that_was_cancelled_leaves_nothing_to_go_on_with() -> None:
    """Nobody knows what of it went out."""
    exchange = Exchange()

    async def stall(event: Any) -> None:
        await asyncio.Event().wait()

    async def work(response: BufferedServerResponse) -> None:
        await response.aflush()
        exchange.send = stall  # type: ignore[method-assign]
        response.write("x")
        response._sink._send = stall  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await response.aflush()
        with pytest.raises(StateError):
            await response.afinish()

    bound(exchange, work)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; charset=utf-8"),
        ("*/*", "text/plain; charset=utf-8"),
        ("text/html, application/problem+json;q=0.5", "application/problem+json"),
        ("application/*", "application/problem+json"),
        ("application/*, application/problem+json;q=0", "text/plain; charset=utf-8"),
    ],
)
def test_an_error_is_a_problem_for_who_asks_for_one(accept: str, kind: str) -> None:
    """Text for all others."""

    async def work(response: BufferedServerResponse) -> None:
        response.set_header("X-A", "1")
        response.write("gone")
        await response.asend_error(404, "nö")

    bound(exchange := Exchange("GET", "/", ("Accept", accept)), work)
    assert (exchange.status, dict(exchange.fields)["content-type"]) == (404, kind)
    assert "x-a" not in dict(exchange.fields)
    text = exchange.body.decode()
    assert text == "nö" if kind.startswith("text") else json.loads(text)["detail"] == "nö"


def test_http_1_0_gets_its_length() -> None:
    """The answer waits for its end; one that breaks sends nothing."""

    async def work(response: BufferedServerResponse) -> None:
        response.write("a" * 600_000)
        await response.aflush()
        assert not exchange.events
        response.write("b")
        await response.afinish()

    bound(exchange := Exchange(http_version="1"), work)
    assert dict(exchange.fields)["content-length"] == "600001"
    assert exchange.body == b"a" * 600_000 + b"b"


def test_a_declared_length_is_kept_or_the_answer_is_none() -> None:
    """Neither more nor fewer bytes; at once, it is set to what there is."""

    async def work(response: BufferedServerResponse) -> None:
        response.set_header("Content-Length", "3")
        await response.aflush()
        response.write("ab")
        with pytest.raises(StateError):
            await response.afinish()

    bound(exchange := Exchange(), work)
    assert not exchange.is_whole
    response = BufferedServerResponse()
    response.set_header("Content-Length", "3")
    response.write("ab")
    response.finish()
    assert response.header("Content-Length") == "2"


# --- alone --------------------------------------------------------------------------------------------------


def test_a_finished_one_can_be_sent_by_any_server() -> None:
    """Any number of times; to HEAD without its body."""
    response = BufferedServerResponse()
    response.set_status_code(201)
    for number in range(5):
        response.write(bytes([number]) * 300_000)
        response.flush()
    response.finish()
    for _ in range(2):
        answer = ask(response)
        assert (answer.status, answer.body) == (201, response.body())
    assert (ask(response, "HEAD").body, ask(response, "HEAD").fields) == (b"", answer.fields)
    with pytest.raises(HeadersAlreadySent):
        response.send_error(500, "too late")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("http_version", ["1.0", "1.1"])
def test_who_has_gone_is_noticed_though_nothing_is_sent(method: str, http_version: str) -> None:
    """Neither to HEAD nor, before its end, to HTTP/1.0: what is written for nobody has an end."""

    async def scenario() -> None:
        exchange = Exchange(method, http_version=http_version)
        response = BufferedServerResponse(AsgiSink(exchange.scope, exchange.receive, exchange.send))
        response.write("a")
        await response.aflush()
        exchange.leave()
        with pytest.raises(ClientGone):
            for _ in range(100):
                response.write("a")
                await response.aflush()
        response.close()

    asyncio.run(scenario())


def test_a_client_that_leaves_a_recorded_one_is_no_error() -> None:
    """As with every other message."""
    response = BufferedServerResponse()
    response.write(bytes(3_000_000))
    response.finish()
    exchange = ask(response, takes=3)
    assert len(exchange.body) < 3_000_000
    assert exchange.events[-1]["more_body"]


def test_one_that_is_not_finished_cannot_be_sent() -> None:
    """Nor one that is sent already."""
    with pytest.raises(StateError):
        ask(BufferedServerResponse())

    async def work(response: BufferedServerResponse) -> None:
        await response.afinish()
        with pytest.raises(StateError):
            await Exchange().ask(response)

    bound(Exchange(), work)


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EIO, StorageFailed)])
def test_a_disk_that_fails_is_an_error_of_the_storage(
    number: int, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beyond memory has no place then."""

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(number, "on purpose")

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", Full)
    response = BufferedServerResponse()
    with pytest.raises(kind):
        response.write(b"x" * (1 << 21))


def test_a_disk_that_fails_late_leaves_room_for_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files write behind: it fails when something else is asked of them, such as to close."""

    class Late(io.BytesIO):
        full = False

        def seek(self, offset: int, whence: int = 0, /) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "on purpose")
            return super().seek(offset, whence)

        def close(self) -> None:
            super().close()
            if self.full:
                raise OSError(errno.ENOSPC, "on purpose")

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", Late)
    response = BufferedServerResponse()
    response.write(b"x" * (1 << 21))
    Late.full = True
    with pytest.raises(DiskFull):
        response.data()
    response.send_error(507, "full")
    assert response.body() == b"full"


def test_who_does_not_read_its_body_is_seen_to_go() -> None:
    """What comes meanwhile is kept for who reads it, as far as there is room."""

    async def run() -> None:
        exchange = Exchange("POST", body=[b"x" * 100_000] * 6)
        receiving = Receiving(exchange.receive)
        gone = asyncio.create_task(receiving.gone())
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(exchange._body) == 3
        exchange.leave()
        size = 0
        while (event := await receiving())["type"] == "http.request":
            size += len(event["body"])
        await gone
        assert size == 600_000
        assert (await receiving())["type"] == "http.disconnect"
        receiving.close()

    asyncio.run(run())
