"""An ASGI application that answers as it is told to, with the messages of Forebay; and a real server for it.

A recipe is JSON: ``how`` the body goes out, its ``parts`` in hex, ``fields`` and a ``status``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from forebay import BufferedServerResponse, IncomingMessage, OutgoingMessage
from forebay.errors import ForebayError
from forebay.messages.sinks import AsgiSink

HOWS = ("whole", "iterator", "async iterator", "path", "file", "written", "written in a coroutine", "recorded")


# --- the application ----------------------------------------------------------------------------------------

closed = threading.Event()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer by the recipe in the query or the body; ``/endless`` and ``/closed``; ``/broken`` after its head."""
    if scope["type"] != "http":
        return
    message = IncomingMessage.from_asgi(scope, receive)
    if scope["path"] == "/echo":
        await OutgoingMessage(message.stream())(scope, receive, send)
        return
    if scope["path"] == "/endless":
        await OutgoingMessage(endless())(scope, receive, send)
        return
    if scope["path"] == "/closed":
        await OutgoingMessage(str(await asyncio.to_thread(closed.wait, 30)))(scope, receive, send)
        return
    text = message.url_query.get("recipe") or await message.aget_text()
    begun = False

    async def sending(event: Any) -> None:
        nonlocal begun
        begun = True
        await send(event)

    try:
        await cook(json.loads(text), scope, receive, sending)
    except ForebayError as error:
        if begun:
            raise
        await OutgoingMessage.problem(500, "no", error.code)(scope, receive, send)


def endless() -> Iterator[bytes]:
    """More than any client takes."""
    try:
        while True:
            yield bytes(100_000)
    finally:
        closed.set()


async def cook(recipe: dict[str, Any], scope: Any, receive: Any, send: Any) -> None:
    """Answer by *recipe*."""
    parts = [bytes.fromhex(part) for part in recipe["parts"]]
    how, status = recipe["how"], recipe.get("status", 200)
    if how.startswith("written") or how == "recorded":
        await write(how, parts, recipe, scope, receive, send)
        return
    with tempfile.TemporaryDirectory() as folder:
        body: Any = b"".join(parts)
        if how in ("path", "file"):
            body = Path(folder) / "body.bin"
            body.write_bytes(b"".join(parts))
        if how == "file":
            body = body.open("rb")
        if how == "iterator":
            body = broken(parts) if recipe.get("breaks") else iter(parts)
        if how == "async iterator":
            body = following(parts)
        message = OutgoingMessage(body, status=status)
        for name, value in recipe.get("fields", ()):
            message.add_header(name, value)
        try:
            await message(scope, receive, send)
        finally:
            message.close()


def broken(parts: list[bytes]) -> Iterator[bytes]:
    """*parts*, then an error."""
    yield from parts
    raise RuntimeError("on purpose")


async def following(parts: list[bytes]) -> AsyncIterator[bytes]:
    """*parts*, as a coroutine makes them."""
    for part in parts:
        yield part


async def write(how: str, parts: list[bytes], recipe: dict[str, Any], scope: Any, receive: Any, send: Any) -> None:
    """Write *parts* piece by piece."""
    sink = None if how == "recorded" else AsgiSink(scope, receive, send)
    response = BufferedServerResponse(sink)
    response.set_status_code(recipe.get("status", 200))
    for name, value in recipe.get("fields", ()):
        response.add_header(name, value)

    def in_a_thread() -> None:
        for number, part in enumerate(parts):
            response.write(part)
            if number % 2:
                response.flush()
        response.finish()

    try:
        if how == "written in a coroutine":
            for number, part in enumerate(parts):
                response.write(part)
                if number % 2:
                    await response.aflush()
            await response.afinish()
        else:
            await asyncio.to_thread(in_a_thread)
        if how == "recorded":
            await response(scope, receive, send)
    finally:
        response.close()


# --- a server of it -----------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path, *, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """The application on granian; its URL. With a *certificate* over TLS, with HTTP/1.1 and HTTP/2."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--no-ws", "--log-level", "warning", "answers:app"]
    if certificate is not None:
        argv += ["--ssl-certificate", str(certificate[0]), "--ssl-keyfile", str(certificate[1])]
    log = folder / f"granian-{port}.err"
    with log.open("w") as errors:
        process = subprocess.Popen(
            argv, stderr=errors, stdout=errors, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)  # a port cannot be waited for
        yield f"http{'s' if certificate else ''}://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def target(recipe: dict[str, Any]) -> str:
    """Where an answer by *recipe* is."""
    return "/?" + urllib.parse.urlencode({"recipe": json.dumps(recipe)})
