"""Functions that tests of the server call, as a user's file has them; ``forebay serve --functions tests/exposed.py``."""

import asyncio
import csv
import io
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from pydantic import BaseModel

import forebay
from forebay import (
    BufferedServerResponse,
    Forebay,
    IncomingMessage,
    OutgoingMessage,
    RequestSpec,
    Response,
    UploadedFile,
)
from forebay.errors import InvalidValue

bay = forebay.open("served")
notes: list[str] = []
"""What calls have noted, for `noted`."""
held = threading.Event()
"""What some wait for, in their threads."""


class SearchQuery(BaseModel):
    """What is looked for."""

    word: str
    limit: int = 10


@bay.expose(get=True)
def report(year: int, format: str = "pdf", tags: list[str] | None = None) -> dict[str, object]:
    """A report of a year."""
    return {"year": year, "format": format, "tags": tags}


@bay.expose(name="catalogue/search")
async def search(query: SearchQuery, response: BufferedServerResponse) -> None:
    """Lines, one by one."""
    response.set_header("X-Word", query.word)
    for number in range(query.limit):
        response.write(f"{query.word} {number}\n")
        await response.aflush()


@bay.handle("/start/{rest:path}", verbs=("GET", "POST"))
def start(message: IncomingMessage) -> OutgoingMessage:
    """What came, told."""
    told = [message.verb, *message.url_path, *message.url_query.values(), message.get_text()]
    return OutgoingMessage("|".join(told), headers={"X-Agent": message.headers.get("User-Agent", "")})


@bay.handle("/item/{number}", verbs=("GET", "PUT"))
def item(number: int, note: str = "") -> dict[str, object]:
    """One of many."""
    return {"number": number, "note": note}


@bay.expose
def uploaded(file: UploadedFile, more: list[UploadedFile] | None = None, note: str = "") -> list[object]:
    """What was uploaded, told."""
    return [note, *([one.filename, one.media_type, one.size, one.read(4).hex()] for one in [file, *(more or [])])]


@bay.expose
async def letters(message: IncomingMessage) -> int:
    """How long the body is, counted piece by piece."""
    size = 0
    async for piece in message.stream():
        size += len(piece)
    return size


@bay.expose
async def doubled(message: IncomingMessage) -> object:
    """JSON, in a coroutine."""
    return message.get_json() * 2


@bay.expose(get=True)
def text() -> OutgoingMessage:
    """1 KiB."""
    return OutgoingMessage("x" * 1024, headers={"Cache-Control": "max-age=60"})


@bay.expose(get=True)
def stored(url: str, name: str = "") -> Response | OutgoingMessage:
    """A version of what is at a URL."""
    response = bay.fetch(url)
    if not name:
        return response
    message = OutgoingMessage(response, headers={"Cache-Control": "max-age=7"})
    message.attachment(name)
    return message


@bay.expose(get=True)
def copied(source: Forebay, url: str) -> Path:
    """The same as a file."""
    return source.path(source.fetch(RequestSpec(url=url)))


@bay.expose(get=True)
def nothing() -> None:
    """No answer."""


@bay.expose(get=True)
def failing() -> None:
    """An error with a secret in it."""
    raise ValueError("hunter2")


@bay.expose(get=True)
def picky(number: int) -> int:
    """Refuses what is odd."""
    if number % 2:
        raise InvalidValue("number", expected="an even one", got=number)
    return number


@bay.expose(get=True)
def unreachable() -> Response:
    """What it needs is not there."""
    return bay.fetch("http://127.0.0.1:9/secret-place", refresh="always")


@bay.expose(get=True)
def half() -> Iterator[bytes]:
    """Fails in the middle."""
    yield b"half"
    raise ValueError("hunter2")


@bay.expose(get=True)
def half_written(response: BufferedServerResponse) -> None:
    """The same, written."""
    response.set_header("Content-Length", "8")
    response.write("half")
    response.flush()
    raise ValueError("hunter2")


@bay.expose(get=True, time_limit_s=0.2)
async def late() -> str:
    """Takes too long."""
    try:
        await asyncio.Event().wait()
    finally:
        notes.append("late ended")
    return "never"


@bay.expose(get=True, time_limit_s=0.2)
def late_in_a_thread(response: BufferedServerResponse) -> None:
    """The same, where nobody can stop it; what it writes then goes nowhere."""
    held.wait(60)
    try:
        response.write("too late")
        response.flush()
    except Exception as error:
        notes.append(type(error).__name__)


@bay.expose(get=True, time_limit_s=0.2)
def late_pieces(wait_s: float) -> Iterator[str]:
    """The same before a first piece."""
    try:
        threading.Event().wait(wait_s)
        yield "too late"
    finally:
        notes.append("late pieces ended")


@bay.expose(get=True)
async def cancelled() -> None:
    """Waits for what it has cancelled."""
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


@bay.expose(get=True)
async def waiting(name: str) -> None:
    """Waits until its client goes away."""
    notes.append(f"{name} began")
    try:
        await asyncio.Event().wait()
    finally:
        notes.append(f"{name} ended")


@bay.expose(get=True)
def endless(name: str, response: BufferedServerResponse) -> None:
    """Writes until its client goes away."""
    try:
        while True:
            response.write(b"x" * 65536)
            response.flush()
    except Exception as error:
        notes.append(f"{name}: {type(error).__name__}")
        raise


@bay.expose(get=True)
def endless_pieces(name: str) -> Iterator[bytes]:
    """The same as an iterator."""
    try:
        while True:
            yield b"x" * 65536
    finally:
        notes.append(f"{name} closed")


@bay.expose(get=True)
async def endless_apieces(name: str) -> AsyncIterator[bytes]:
    """The same in the event loop."""
    try:
        while True:
            yield b"x" * 65536
    finally:
        notes.append(f"{name} closed")


@bay.expose(get=True)
async def silent(response: BufferedServerResponse) -> None:
    """Begins, and does not go on."""
    response.write("begun")
    await response.aflush()
    await asyncio.Event().wait()


@bay.expose(get=True)
def hold() -> str:
    """Takes a thread until it is let go."""
    notes.append("held")
    held.wait(60)
    return "held"


@bay.expose(get=True)
def hold_pieces() -> Iterator[str]:
    """Takes a thread for a piece until it is let go."""
    held.wait(60)
    yield "held"


@bay.expose
async def let_go() -> None:
    """End what is held."""
    held.set()


@bay.expose(get=True)
async def noted() -> list[str]:
    """What calls have noted."""
    return notes


@bay.expose(get=True)
def rows(count: int) -> Iterator[str]:
    """So many rows of CSV."""
    for number in range(count):
        out = io.StringIO()
        csv.writer(out).writerow([number, f"row {number}", number * number])
        yield out.getvalue()


@bay.expose(get=True)
def written(mib: int, response: BufferedServerResponse) -> None:
    """So much, written and flushed MiB by MiB."""
    for number in range(mib):
        response.write(bytes([number % 256]) * (1 << 20))
        response.flush()


@bay.expose(get=True, requires="admin")
def governed() -> str:
    """For those who may do everything."""
    return "governed"
