"""Answers: what their bodies are, what their heads say, and what may not be sent."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import io
import json
import os
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import PIL.Image
import pydantic
import pytest
from matplotlib.figure import Figure

from asgi import Exchange, ask
from forebay import Image, OutgoingMessage, Response
from forebay.errors import BodyTooLarge, InvalidHeader, InvalidMessage, StateError, UnsupportedBody
from forebay.messages.pictures import picture_type

PNG = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass
class Point:
    """Something with fields."""

    x: int
    when: datetime


class Colour(enum.Enum):
    """Something with names."""

    RED = "red"


class Model(pydantic.BaseModel):
    """Something that pydantic checks."""

    n: Decimal


def picture(form: str | None, mode: str = "RGB") -> Any:
    """A small picture, as if read in *form*."""
    made = PIL.Image.new(mode, (2, 2))
    if form is None:
        return made
    buffer = io.BytesIO()
    made.save(buffer, form)
    return PIL.Image.open(io.BytesIO(buffer.getvalue()))


WHEN = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "kind", "sent"),
    [
        ("hä", "text/plain; charset=utf-8", "hä".encode()),
        (b"x", "application/octet-stream", b"x"),
        (bytearray(b"x"), "application/octet-stream", b"x"),
        (memoryview(b"x"), "application/octet-stream", b"x"),
        ({"a": [1, None]}, "application/json", b'{"a":[1,null]}'),
        ([float("nan"), float("inf")], "application/json", b"[null,null]"),
        ((1, "ä"), "application/json", '[1,"ä"]'.encode()),
        (Point(1, WHEN), "application/json", b'{"x":1,"when":"2026-01-02T00:00:00Z"}'),
        (Model(n=Decimal("1.10")), "application/json", b'{"n":"1.10"}'),
        ([uuid.UUID(int=0), Colour.RED], "application/json", b'["00000000-0000-0000-0000-000000000000","red"]'),
        (Image(PNG), "image/png", PNG),
        (Image(b"\xff\xd8\xff\xe0"), "image/jpeg", b"\xff\xd8\xff\xe0"),
        (Image(b"GIF89a"), "image/gif", b"GIF89a"),
        (Image(b"<svg/>"), "image/svg+xml", b"<svg/>"),
        (None, None, b""),
    ],
)
def test_a_body_has_the_type_that_it_has(body: object, kind: str | None, sent: bytes) -> None:
    """By its Python type; it goes out with its length, twice the same, and to HEAD not at all."""
    message = OutgoingMessage()
    message.set_body(body)
    assert message.body is body
    for _ in range(2):
        answer = ask(message)
        assert (answer.status, answer.body) == (200, sent)
        assert dict(answer.fields) == {"content-length": str(len(sent))} | ({"content-type": kind} if kind else {})
    head = ask(message, "HEAD")
    assert (head.fields, head.body) == (answer.fields, b"")


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (picture("PNG"), "image/png"),
        (picture("JPEG"), "image/jpeg"),
        (picture("GIF"), "image/gif"),
        (picture("WEBP"), "image/webp"),
        (picture("TIFF"), "image/tiff"),
        (picture(None), "image/png"),
        (picture(None, "CMYK"), "image/png"),
        (Figure(), "image/png"),
    ],
)
def test_a_picture_goes_out_as_what_it_is(given: Any, kind: str) -> None:
    """In the format that it was read in; what was made here, as PNG."""
    answer = ask(OutgoingMessage(given))
    assert ("content-type", kind) in answer.fields
    assert PIL.Image.MIME[PIL.Image.open(io.BytesIO(answer.body)).format or ""] == kind


@pytest.mark.parametrize(
    "data",
    [b"", b"BM", b"<html><svg/>", b"<!-- -->" * 500, b"<!--" * 1000, b"\0\0\0\x20ftypisom\0\0\0\0", b"%PDF"],
)
def test_what_is_no_picture_of_browsers_is_no_image(data: bytes) -> None:
    """However long it takes to look."""
    with pytest.raises(UnsupportedBody):
        Image(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "AVIF"])
def test_pictures_are_told_by_their_first_bytes(form: str) -> None:
    """As Pillow writes them."""
    buffer = io.BytesIO()
    picture(None).save(buffer, form)
    assert picture_type(buffer.getvalue()) == PIL.Image.MIME[form]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (object(), "object"),
        (5, "int"),
        ({1, 2}, "set"),
        (Point, "type"),
        (Model, "pydantic"),
        ({"a": object()}, "object"),
        ("\ud800", "str"),
        (io.StringIO(), "_io.StringIO"),
        (picture(None, "F"), "mode F"),
    ],
)
def test_what_no_body_can_be_made_of_is_refused_by_name(body: object, named: str) -> None:
    """When it is set; what was set before stays."""
    message = OutgoingMessage("before")
    for change in (message.set_body, lambda body: setattr(message, "body", body)):
        with pytest.raises(UnsupportedBody, match=named):
            change(body)
    assert (message.body, message.headers["content-type"]) == ("before", "text/plain; charset=utf-8")


def test_assigning_the_body_leaves_the_fields_alone() -> None:
    """Only set_body sets the type."""
    message = OutgoingMessage("a", headers={"Content-Type": "text/csv"})
    message.body = {"a": 1}
    assert message.headers.items_all() == [("Content-Type", "text/csv")]
    message.set_body(b"")
    assert message.headers["CONTENT-TYPE"] == "application/octet-stream"


def test_what_changes_later_is_sent_as_it_was_set() -> None:
    """A list, or a buffer."""
    rows, buffer = [1], bytearray(b"a")
    first, second = OutgoingMessage(rows), OutgoingMessage(buffer)
    rows.append(2)
    buffer[0] = 0
    assert (ask(first).body, ask(second).body) == (b"[1]", b"a")


# --- files --------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file that is changed in a past that HTTP can tell."""
    place = tmp_path / "rows.csv"
    place.write_bytes(bytes(range(100)))
    os.utime(place, (1e9, 1e9))
    return place


def test_a_path_is_opened_when_it_is_sent(rows: Path) -> None:
    """With the type of its name, validators, conditions and ranges; each time as it is then."""
    message = OutgoingMessage(rows, headers={"Cache-Control": "max-age=5"})
    answer = ask(message)
    fields = dict(answer.fields)
    assert answer.body == bytes(range(100))
    assert fields["last-modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
    assert (fields["content-type"], fields["content-length"], fields["accept-ranges"]) == (
        "text/csv",
        "100",
        "bytes",
    )
    part = ask(message, "GET", "/", ("Range", "bytes=10-11"))
    assert (part.status, part.body, dict(part.fields)["cache-control"]) == (206, b"\n\x0b", "max-age=5")
    same = ask(message, "GET", "/", ("If-None-Match", fields["etag"]))
    assert (same.status, same.body) == (304, b"")
    assert ask(message, "GET", "/", ("If-Match", '"other"')).status == 412
    assert ask(message, "GET", "/", ("Range", "bytes=100-")).status == 416
    rows.write_bytes(b"new")
    assert ask(message).body == b"new"


@pytest.mark.parametrize(
    "fields",
    [
        {"Content-Encoding": "gzip"},
        {"ETag": 'W/"1"'},
        {"Last-Modified": "yesterday"},
        {"Content-Type": "no type"},
        {"Accept-Ranges": "none"},
    ],
)
def test_fields_of_an_author_go_out_as_they_are_set(rows: Path, fields: dict[str, str]) -> None:
    """Also those with which no range can be sent: then the whole is."""
    answer = ask(OutgoingMessage(rows, headers=fields), "GET", "/", ("Range", "bytes=0-1"))
    assert (answer.status, len(answer.body)) == (200, 100)
    ((name, value),) = fields.items()
    assert [found for key, found in answer.fields if key == name.lower()] == [value]


def test_a_path_to_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder; a pipe, without waiting for its writer; what is not there."""
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(UnsupportedBody):
            ask(OutgoingMessage(place))
    with pytest.raises(FileNotFoundError):
        ask(OutgoingMessage(tmp_path / "none"))


def test_an_answer_to_a_post_is_the_whole_file(rows: Path) -> None:
    """Ranges and conditions are about what GET gets."""
    assert ask(OutgoingMessage(rows), "POST", "/", ("Range", "bytes=0-1")).body == bytes(range(100))


def test_an_open_file_is_sent_from_where_it_stands(rows: Path) -> None:
    """And again the same, as it can seek; `close` closes it."""
    with tempfile.SpooledTemporaryFile() as spooled, rows.open("rb") as file:
        spooled.write(b"0123456789")
        spooled.seek(3)
        file.seek(90)
        for body, sent in ((file, bytes(range(90, 100))), (spooled, b"3456789"), (io.BytesIO(b"ab"), b"ab")):
            message = OutgoingMessage(body)
            assert ask(message).body == ask(message).body == sent
        message.close()
        with pytest.raises(ValueError, match="closed"):
            ask(message)


def test_a_file_is_sent_to_several_at_once(tmp_path: Path) -> None:
    """Each gets all of it, though it stands in one place."""
    data = os.urandom(1_500_000)
    (tmp_path / "f").write_bytes(data)
    with (tmp_path / "f").open("rb") as file:
        message = OutgoingMessage(file)

        async def scenario() -> list[Exchange]:
            return await asyncio.gather(*(Exchange().ask(message) for _ in range(8)))

        assert all(exchange.body == data for exchange in asyncio.run(scenario()))


def test_a_file_that_cannot_seek_is_sent_once() -> None:
    """A pipe."""
    read, write = os.pipe()
    os.write(write, b"x" * 1000)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        message = OutgoingMessage(pipe)
        assert ask(message).body == b"x" * 1000
        with pytest.raises(StateError):
            ask(message)


def test_bytes_with_a_validator_answer_conditions() -> None:
    """An ETag of an author's own."""
    message = OutgoingMessage("hello", headers={"ETag": '"1"'})
    assert ask(message, "GET", "/", ("If-None-Match", '"1"')).status == 304
    assert ask(message, "GET", "/", ("Range", "bytes=1-2")).body == b"el"


# --- streams ------------------------------------------------------------------------------------------------


async def asynchronous(pieces: list[Any]) -> AsyncIterator[Any]:
    """*pieces*, from a coroutine."""
    for piece in pieces:
        yield piece


def synchronous(pieces: list[Any]) -> Iterator[Any]:
    """*pieces*, from a generator."""
    yield from pieces


@pytest.mark.parametrize("made", [asynchronous, synchronous, iter])
@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        (["a", "ä"], "text/plain; charset=utf-8"),
        ([b"a", memoryview(b"b")], "application/octet-stream"),
        (["", b"", "x" * 1_000_000] * 2, "text/plain; charset=utf-8"),
        (["a", b"b"], "text/plain; charset=utf-8"),
        ([b"a", "b"], "application/octet-stream"),
        ([], None),
    ],
)
def test_a_stream_goes_out_piece_by_piece(made: Any, pieces: list[Any], kind: str | None) -> None:
    """With the type of its first piece, without a length; once."""
    message = OutgoingMessage(made(pieces))
    answer = ask(message)
    assert answer.body == b"".join(piece.encode() if isinstance(piece, str) else piece for piece in pieces)
    assert dict(answer.fields).get("content-type") == kind
    assert ("content-length" in dict(answer.fields)) == (not pieces)
    assert answer.is_whole
    with pytest.raises(StateError):
        ask(message)


@pytest.mark.parametrize("made", [asynchronous, synchronous])
def test_what_fails_before_its_first_piece_sends_nothing(made: Any) -> None:
    """Something else can be answered then."""
    with pytest.raises(UnsupportedBody, match="int"):
        ask(OutgoingMessage(made([5])))


def failing() -> Iterator[bytes]:
    """A piece, then an error."""
    yield b"half"
    raise KeyError("on purpose")


def test_what_fails_later_is_broken_off() -> None:
    """The error is the caller's to log; no end goes out."""
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def sending(event: Any) -> None:
            events.append(event)
            await send(event)

        await OutgoingMessage(failing())(scope, receive, sending)

    with pytest.raises(KeyError):
        ask(app)
    assert [event.get("more_body") for event in events] == [None, True]


def test_a_generator_that_exits_ends_its_answer_only() -> None:
    """sys.exit() in a worker thread is an error like others."""

    def exiting() -> Iterator[bytes]:
        raise SystemExit(3)
        yield b""

    with pytest.raises(RuntimeError, match="SystemExit"):
        ask(OutgoingMessage(exiting()))


@pytest.mark.parametrize("asynchronously", [False, True])
def test_a_client_that_goes_has_what_is_made_for_it_closed(asynchronously: bool) -> None:
    """Wherever it is; and that is no error."""
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            closed.set()

    async def endless_too() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            closed.set()

    answer = ask(OutgoingMessage(endless_too() if asynchronously else endless()), takes=5)
    assert not answer.is_whole
    assert closed.wait(30)


def test_who_has_gone_is_noticed_though_nobody_waits() -> None:
    """What makes pieces without waiting, for a server whose `send` does not wait either, has an end."""

    async def scenario() -> None:
        exchange = Exchange()

        async def send(event: Any) -> None:
            exchange.events.append(event)
            if len(exchange.events) == 5:
                exchange.leave()

        async def endless() -> AsyncIterator[bytes]:
            while len(exchange.events) < 1000:
                yield b"a"

        await OutgoingMessage(endless())(exchange.scope, exchange.receive, send)
        assert len(exchange.events) < 20

    asyncio.run(scenario())


def test_another_answer_is_sent_instead_of_one_that_failed() -> None:
    """As an exception handler does, in the same exchange."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(RuntimeError, match="at once"):
            await OutgoingMessage(slowly_failing())(scope, receive, send)
        await OutgoingMessage(iter(["instead"]))(scope, receive, send)

    assert ask(app).body == b"instead"


async def slowly_failing() -> AsyncIterator[bytes]:
    """Nothing; the client is waited for meanwhile."""
    await asyncio.sleep(0.01)
    raise RuntimeError("at once")
    yield b""


@pytest.mark.parametrize(
    ("body", "sent"), [(asynchronous(["a", "b"]), b"ab"), (io.BytesIO(bytes(3_000_000)), bytes(3_000_000))]
)
def test_a_body_that_cannot_be_taken_in_does_not_end_its_answer(body: Any, sent: bytes) -> None:
    """A server may refuse a body that is too large, to whoever reads it; the client is there all the same."""

    async def receive() -> Any:
        raise BodyTooLarge(limit_bytes=1)

    async def scenario() -> bytes:
        exchange = Exchange()
        await OutgoingMessage(body)(exchange.scope, receive, exchange.send)
        return exchange.body

    assert asyncio.run(scenario()) == sent


def test_closing_closes_an_iterator() -> None:
    """Of a message that is not sent after all."""
    made = synchronous([1])
    message = OutgoingMessage(made)
    message.close()
    assert list(made) == []
    with pytest.raises(StateError):
        ask(message)


def test_a_stream_is_not_made_for_a_head() -> None:
    """It is closed unread."""
    answer = ask(OutgoingMessage(failing(), headers={"Content-Length": "9"}), "HEAD")
    assert (answer.fields, answer.body, answer.is_whole) == ([("content-length", "9")], b"", True)


def test_http_1_0_gets_a_stream_with_its_length() -> None:
    """Else it could not tell a half from the whole."""
    answer = ask(OutgoingMessage(iter([b"a" * 300_000] * 5)), http_version="1.0")
    assert dict(answer.fields)["content-length"] == "1500000"
    assert (len(answer.body), answer.is_whole) == (1_500_000, True)


# --- heads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), [("a", 1), (b"a", "1"), ("a", None), (None, "a")])
def test_fields_are_text(key: Any, value: Any) -> None:
    """A number is not quietly made one."""
    message = OutgoingMessage()
    for change in (message.set_header, message.add_header):
        with pytest.raises(TypeError):
            change(key, value)
    with pytest.raises(TypeError):
        message.remove_header(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        message.attachment(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "a"), ("a b", "a"), ("a:", "a"), ("ä", "a"), ("a", "b\r\nc: d"), ("a", "\0"), ("a", "\n"), ("a", "ā"),
        ("a", " b"), ("a", "b\t"), ("Connection", "close"), ("transfer-encoding", "chunked"), ("Upgrade", "h2c"),
        ("Content-Length", "-1"), ("Content-Length", "1, 1"), ("Content-Length", "٣"), ("Content-Length", ""),
    ],
)  # fmt: skip
def test_what_would_not_arrive_as_it_is_cannot_be_set(key: str, value: str) -> None:
    """Nor added, nor given when the message is made."""
    message = OutgoingMessage()
    for change in (message.set_header, message.add_header):
        with pytest.raises(InvalidHeader):
            change(key, value)
    with pytest.raises(InvalidHeader):
        OutgoingMessage(headers={key: value})
    assert len(message.headers) == 0


def test_fields_keep_their_spelling_and_are_found_in_any() -> None:
    """One value by set_header, in its first place; more by add_header."""
    message = OutgoingMessage("x", headers=[("X-One", "1"), ("x-one", "2"), ("CONTENT-type", "text/html")])
    assert message.headers.items_all() == [("CONTENT-type", "text/html"), ("X-One", "1"), ("x-one", "2")]
    assert (message.headers["X-ONE"], message.headers.get_all("x-One")) == ("1, 2", ["1", "2"])
    assert (list(message.headers), len(message.headers)) == (["CONTENT-type", "X-One"], 2)
    message.set_header("x-ONE", "3")
    assert message.headers.items_all()[1:] == [("x-ONE", "3")]
    message.remove_header("X-oNe")
    assert "x-one" not in message.headers
    with pytest.raises(KeyError):
        message.headers["x-one"]
    with pytest.raises(TypeError):
        message.headers["x"] = "y"  # type: ignore[index]


@pytest.mark.parametrize("code", [True, 99, 600, "200", 200.0, None])
def test_a_status_is_a_number_of_http(code: Any) -> None:
    """From 100 to 599, and no truth value."""
    with pytest.raises(InvalidMessage):
        OutgoingMessage().set_status(code)


@pytest.mark.parametrize(
    ("status", "body"), [(100, None), (199, None), (204, "x"), (205, b"x"), (304, "x"), (204, iter(["x"]))]
)
def test_a_status_that_cannot_carry_its_body_is_not_sent(status: int, body: Any) -> None:
    """Rather than to drop it."""
    with pytest.raises(StateError):
        ask(OutgoingMessage(body, status=status))


@pytest.mark.parametrize(("status", "fields"), [(204, []), (304, []), (205, [("content-length", "0")])])
def test_an_answer_without_a_body(status: int, fields: list[tuple[str, str]]) -> None:
    """RFC 9110 sections 8.6, 15.3.5, 15.3.6 and 15.4.5."""
    assert ask(OutgoingMessage(status=status)).fields == fields


def test_a_length_of_its_own_must_be_that_of_the_body() -> None:
    """Else nothing is sent; a 204 has none."""
    assert ask(OutgoingMessage("abc", headers={"Content-Length": "3"})).body == b"abc"
    for message in (
        OutgoingMessage("abc", headers={"Content-Length": "4"}),
        OutgoingMessage(status=204, headers={"Content-Length": "0"}),
    ):
        with pytest.raises(InvalidHeader):
            ask(message)
    with pytest.raises(InvalidHeader):
        OutgoingMessage(headers={"Content-Length": "0"}).add_header("content-length", "0")


def test_fields_of_another_message_stay_apart() -> None:
    """Two cookies are two fields, which no comma joins."""
    first = OutgoingMessage()
    first.set_cookie("a", "1")
    first.set_cookie("b", "2")
    assert OutgoingMessage(headers=first.headers).headers.items_all() == first.headers.items_all()


def test_cookies_are_added() -> None:
    """As many as are set; out of reach of scripts and of other sites, unless somebody says so."""
    message = OutgoingMessage()
    message.set_cookie("a", "1")
    message.set_cookie("b", "2", max_age_s=5, path=None, http_only=False, same_site=None)
    assert message.headers.get_all("Set-Cookie") == ["a=1; Path=/; HttpOnly; SameSite=Lax", "b=2; Max-Age=5"]
    with pytest.raises(InvalidHeader):
        message.set_cookie("a", "b;c")


def test_names_of_files_are_of_any_script() -> None:
    """RFC 6266 and 8187; what no file system bears is left out."""
    message = OutgoingMessage()
    message.attachment('../ä "b".csv')
    value = "attachment; filename=\"_ _b_.csv\"; filename*=UTF-8''%C3%A4%20_b_.csv"
    assert message.headers["Content-Disposition"] == value
    message.inline("plain.txt")
    assert message.headers["Content-Disposition"] == 'inline; filename="plain.txt"'
    message.attachment("..")
    assert message.headers["Content-Disposition"] == "attachment"


def test_redirects_lead_to_uris() -> None:
    """What a URI cannot have is encoded, what nobody means is refused."""
    message = OutgoingMessage.redirect("https://h/ä b?x=%20#y", 308)
    assert (message.status, message.headers["Location"]) == (308, "https://h/%C3%A4%20b?x=%20#y")
    assert OutgoingMessage.redirect("/a").status == 303
    for url in ("/a\r\nb", "/a\tb", "/\ud800"):
        with pytest.raises(InvalidHeader):
            OutgoingMessage.redirect(url)
    with pytest.raises(InvalidMessage):
        OutgoingMessage.redirect("/a", 200)
    with pytest.raises(TypeError):
        OutgoingMessage.redirect(5)  # type: ignore[arg-type]


def test_problems_are_documents() -> None:
    """RFC 9457, with members of its author's."""
    answer = ask(OutgoingMessage.problem(409, "Taken", "it is", by="somebody"))
    assert answer.status == 409
    assert ("content-type", "application/problem+json") in answer.fields
    wanted = {"type": "about:blank", "title": "Taken", "status": 409, "detail": "it is", "by": "somebody"}
    assert json.loads(answer.body) == wanted


def test_any_value_can_be_json() -> None:
    """Also what `set_body` would not take for an object."""
    message = OutgoingMessage.json(5, status=201)
    assert (ask(message).body, message.status, message.body) == (b"5", 201, 5)


def test_a_304_can_be_made_of_its_validators() -> None:
    """What the client has stays fresh."""
    answer = ask(OutgoingMessage.not_modified(headers={"ETag": '"1"', "Cache-Control": "max-age=5"}))
    assert (answer.status, answer.fields) == (304, [("etag", '"1"'), ("cache-control", "max-age=5")])


# --- what a server adds -------------------------------------------------------------------------------------

STORED = Response(
    id="a", request_id="b", url="http://h/", version="v", status="ready", content_download_path="/x",
    request_datetime_utc=WHEN,
)  # fmt: skip


def test_a_stored_version_is_sent_by_the_server_that_has_it() -> None:
    """Elsewhere an error names the ways out."""
    message = OutgoingMessage(STORED)
    assert message.headers["Content-Type"] == "application/octet-stream"
    with pytest.raises(StateError, match=r"bay\.path"):
        ask(message)

    async def deliver(scope: Any, receive: Any, send: Any, found: OutgoingMessage) -> None:
        assert found.body is STORED
        await OutgoingMessage("delivered")(scope, receive, send)

    assert ask(message, **{"forebay.deliver": deliver}).body == b"delivered"


def test_a_message_answers_http_only() -> None:
    """No WebSocket."""
    with pytest.raises(StateError):
        ask(OutgoingMessage(), type="websocket")
