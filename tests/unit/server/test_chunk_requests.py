"""Chunks that are on their way in: how many of them fit into memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from forebay.messages.asgi import Message
from forebay.server import chunks
from forebay.server.access import EVERYTHING
from forebay.server.basin import Basin
from forebay.server.uploading import Intake
from forebay.settings import ServerSettings

QUERY = b"chunkCount=1&chunkNumber=0&fileName=x&totalSize=90&uploadUid="


class Exchange:
    """A chunk request with a body of *size* bytes that ends when `end` is set; its answer."""

    def __init__(self, size: int) -> None:
        self.size, self.begun, self.end = size, asyncio.Event(), asyncio.Event()
        self.status = 0
        self.document: Any = None
        self._left = 2

    async def receive(self) -> Message:
        self._left -= 1
        if self._left:
            return {"type": "http.request", "body": b"x" * self.size, "more_body": True}
        self.begun.set()
        await self.end.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.document = json.loads(message["body"])

    async def run(self, dialect: chunks.Chunks) -> None:
        scope = {"type": "http", "path": chunks.CHUNK_PATH, "method": "POST", "headers": [], "query_string": QUERY}
        assert await dialect.handle(scope, self.receive, self.send, check=lambda scope, need: EVERYTHING)


def test_no_more_chunks_than_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others take the room, one that does not fit is told to come again: 503. Then it is taken."""
    monkeypatch.setattr(chunks, "_BUDGET_BYTES", 100)

    async def run() -> None:
        basin = Basin(ServerSettings(data=tmp_path))
        intake = Intake(basin)
        dialect = chunks.Chunks(intake)
        with contextlib.closing(intake):
            first, second, third = Exchange(90), Exchange(20), Exchange(90)
            first_done = asyncio.create_task(first.run(dialect))
            await first.begun.wait()
            await second.run(dialect)
            assert (second.status, second.document["error"]["code"]) == (503, "uploads_busy")
            first.end.set()
            third.end.set()
            await first_done
            await third.run(dialect)
            assert (first.status, third.status) == (200, 200)
        await basin.close()

    asyncio.run(run())
