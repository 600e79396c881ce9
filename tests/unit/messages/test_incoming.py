"""What clients send: the same in worker threads and in coroutines, bounded when it is taken in whole."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest

from asgi import Exchange, ask
from forebay import IncomingMessage, OutgoingMessage, UploadedFile
from forebay.errors import BodyInvalid, BodyTooLarge, BodyTooSlow, ClientGone, InvalidValue, StateError
from forebay.messages import arrival, spool


def test_a_message_says_what_was_sent() -> None:
    """Its parts are as they came, but for what decoding means."""
    scope = {"scheme": "https", "client": ("192.0.2.1", 5), "server": ("here", 80)}
    exchange = Exchange("POST", "/a%2Fb//c?x=1&x=%C3%A4&y", ("Host", "h:1"), ("A", "1"), ("a", "2"), **scope)

    async def run() -> IncomingMessage:
        return IncomingMessage.from_asgi(exchange.scope, exchange.receive)

    message = asyncio.run(run())
    assert (message.verb, message.url) == ("POST", "https://h:1/a%2Fb//c?x=1&x=%C3%A4&y")
    assert message.url_path == ["a/b", "", "c"]
    assert (dict(message.url_query), message.url_query.get_all("x")) == ({"x": "1", "y": ""}, ["1", "ä"])
    assert message.url_query.items_all() == [("x", "1"), ("x", "ä"), ("y", "")]
    assert (message.headers["a"], message.headers.get_all("A")) == ("1, 2", ["1", "2"])
    assert message.remote_address == "192.0.2.1"
    with pytest.raises(AttributeError):
        message.verb = "GET"  # type: ignore[misc]
    assert "1" not in repr(message.url_query)


@pytest.mark.parametrize(
    ("more", "url"),
    [
        ({"server": ("here", 80)}, "http://here:80/p"),
        ({"server": ("unix", None)}, "http://unix/p"),
        ({}, "http:///p"),
        ({"raw_path": None, "path": "/ä b"}, "http:///%C3%A4%20b"),
    ],
)
def test_a_url_without_a_host_is_that_of_the_server(more: dict[str, Any], url: str) -> None:
    """As far as the server says one."""
    exchange = Exchange("GET", "/p")
    exchange.scope |= more

    async def run() -> str:
        return IncomingMessage.from_asgi(exchange.scope, exchange.receive).url

    assert asyncio.run(run()) == url


@pytest.mark.parametrize(
    ("url", "path", "query"),
    [
        ("/", [], {}), ("", [], {}), ("http://h", [], {}), ("http://[bad/a/?q#f", ["a", ""], {"q": ""}),
        ("/a?b=http://c/d", ["a"], {"b": "http://c/d"}),
    ],
)  # fmt: skip
def test_any_url_has_a_path(url: str, path: list[str], query: dict[str, str]) -> None:
    """Whatever its host looks like."""
    message = IncomingMessage(url=url)
    assert (message.url_path, dict(message.url_query)) == (path, query)


def test_a_message_of_values_has_its_body() -> None:
    """In a coroutine, too."""
    message = IncomingMessage("post", headers={"Content-Type": "text/plain"}, body=b'{"a": 1}')

    async def run() -> list[bytes]:
        assert message.get_json() == await message.aget_json() == {"a": 1}
        return [piece async for piece in message.stream()]

    assert asyncio.run(run()) == list(message.iter_blob()) == [b'{"a": 1}']
    assert (message.verb, message.get_blob(), message.remote_address) == ("POST", b'{"a": 1}', None)
    message.close()


# --- bodies that come ---------------------------------------------------------------------------------------


def within(exchange: Exchange, work: Callable[[IncomingMessage], Any], *, thread: bool = False, **how: Any) -> Any:
    """What *work* gives of the message of *exchange*; in a worker thread, or as a coroutine."""

    async def run() -> Any:
        message = IncomingMessage.from_asgi(exchange.scope, exchange.receive, **how)
        try:
            return await (asyncio.to_thread(work, message) if thread else work(message))
        finally:
            message.close()

    return asyncio.run(run())


PIECES = [b'{"a"', b"", b": 5}"]


@pytest.mark.parametrize("name", ["blob", "text", "json"])
def test_a_getter_waits_in_a_thread(name: str) -> None:
    """And its twin in a coroutine; both any number of times."""

    def work(message: IncomingMessage) -> list[Any]:
        return [getattr(message, f"get_{name}")() for _ in range(2)]

    async def twin(message: IncomingMessage) -> list[Any]:
        return [await getattr(message, f"aget_{name}")() for _ in range(2)]

    wanted = {"blob": b'{"a": 5}', "text": '{"a": 5}', "json": {"a": 5}}[name]
    assert within(Exchange(body=PIECES), work, thread=True) == [wanted] * 2
    assert within(Exchange(body=PIECES), twin) == [wanted] * 2


def test_a_getter_does_not_stop_the_event_loop() -> None:
    """It gives what is here, and names its twin when it is not."""

    async def work(message: IncomingMessage) -> Any:
        with pytest.raises(StateError, match=r"aget_json\(\)"):
            message.get_json()
        with pytest.raises(StateError, match=r"stream\(\)"):
            next(message.iter_blob())
        assert await message.load(3) is False
        assert await message.load()
        return message.get_json()

    assert within(Exchange(body=PIECES), work) == {"a": 5}


def test_a_stream_is_of_any_size_and_comes_once() -> None:
    """What was taken in before comes first; afterwards the body is not kept."""

    async def work(message: IncomingMessage) -> bytes:
        await message.load(2)
        streamed = b"".join([piece async for piece in message.stream()])
        with pytest.raises(StateError):
            await message.aget_blob()
        with pytest.raises(StateError):
            await anext(message.stream())
        return streamed

    assert within(Exchange(body=[b"abc", b"def", b"gh"]), work, max_bytes=4) == b"abcdefgh"
    assert within(Exchange(body=[b"abc", b"d"]), lambda message: list(message.iter_blob()), thread=True) == [
        b"abc",
        b"d",
    ]


@pytest.mark.parametrize("thread", [False, True])
def test_a_body_that_is_too_large_is_not_taken_in(thread: bool) -> None:
    """Not even as far as it came."""
    exchange = Exchange(body=[b"abc"] * 5)
    with pytest.raises(BodyTooLarge):
        within(exchange, lambda message: message.get_blob() if thread else message.aget_blob(), thread=thread, max_bytes=8)  # fmt: skip


def test_a_large_body_is_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound, and comes back from there."""
    monkeypatch.setattr(spool, "SPOOL_BYTES", 4)
    assert within(Exchange(body=[b"abc"] * 5), lambda message: message.aget_blob()) == b"abc" * 5


def test_a_body_that_breaks_off_is_no_body() -> None:
    """Its client has gone."""
    exchange = Exchange(body=[b"abc"])

    async def receive() -> Any:
        event = await exchange.receive()
        exchange.leave()
        return event | {"more_body": True}

    async def run() -> Any:
        await IncomingMessage.from_asgi(exchange.scope, receive).aget_blob()

    with pytest.raises(ClientGone):
        asyncio.run(run())


def test_a_body_that_stops_coming_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for ever."""
    monkeypatch.setattr(arrival, "STALL_S", 0.01)
    with pytest.raises(BodyTooSlow):
        within(Exchange(body=()), lambda message: message.aget_blob())


def test_what_comes_can_go_out_at_the_same_time() -> None:
    """Who reads the body and who watches for the client's end share what is received."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await OutgoingMessage(IncomingMessage.from_asgi(scope, receive).stream())(scope, receive, send)

    body = [bytes([number]) * 100_000 for number in range(10)]
    assert ask(echo, "POST", body=body).body == b"".join(body)


# --- what it is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("", "hä".encode(), "hä"),
        ("text/plain; charset=latin-1", b"h\xe4", "hä"),
        ('text/plain; Charset="UTF-16"', "hä".encode("utf-16"), "hä"),
        ("text/plain", b"\xef\xbb\xbfa", "a"),
    ],
)
def test_text_is_decoded_by_its_charset(kind: str, body: bytes, text: str) -> None:
    """UTF-8 without one."""
    assert IncomingMessage(headers={"Content-Type": kind}, body=body).get_text() == text


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=none-such", "text/plain; charset=base64"])
def test_what_is_no_text_of_its_charset_is_the_clients_fault(kind: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(InvalidValue):
        IncomingMessage(headers={"Content-Type": kind}, body=b"\xff").get_text()


def test_what_is_no_json_is_the_clients_fault() -> None:
    """As everywhere."""
    with pytest.raises(BodyInvalid):
        IncomingMessage(body=b"{").get_json()


def picture(form: str) -> bytes:
    """A small one."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (3, 2)).save(buffer, form)
    return buffer.getvalue()


def test_a_picture_is_loaded() -> None:
    """In a coroutine, too."""
    message = IncomingMessage(body=picture("PNG"))
    assert message.get_picture().size == asyncio.run(message.aget_picture()).size == (3, 2)


def noise() -> bytes:
    """One of which most bytes are needed."""
    buffer = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("body", [b"", b"no picture", noise()[:1000], b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_the_clients_fault(body: bytes) -> None:
    """Nor is one that ends too early, or that another program would have to draw."""
    with pytest.raises(InvalidValue):
        IncomingMessage(body=body).get_picture()


@pytest.mark.parametrize("most", [1, 4])
def test_a_picture_that_would_fill_the_memory_is_refused(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes can say that they are a million by a million."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", most)
    with pytest.raises(InvalidValue, match="pixels"):
        IncomingMessage(body=picture("PNG")).get_picture()


def test_a_file_in_a_form() -> None:
    """Its name is what the client says, and no path."""
    made = UploadedFile(io.BytesIO(b"abc"), filename="../a.txt", media_type="text/plain", headers={"X-A": "1"})
    with contextlib.closing(made) as file:
        assert (file.filename, file.media_type, file.size) == ("../a.txt", "text/plain", 3)
        assert (file.read(2), file.size, file.read()) == (b"ab", 3, b"c")
        assert file.headers["x-a"] == "1"
        assert "a.txt" in repr(file)
    with pytest.raises(ValueError, match="closed"):
        file.read()
