"""Pieces that programs make one after the other, for an event loop that must not wait in them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import Executor
from typing import Self

from forebay.messages.bodies import Streamed, piece_bytes

log = logging.getLogger(__name__)

# How much is made before it is taken, and how long what is there waits for more to go out with it: a million short
# lines, one by one, would cost a wake-up each.
_AHEAD_BYTES = 64 << 10
_TOGETHER_S = 0.001


@contextlib.asynccontextmanager
async def opened(body: Streamed, pool: Executor | None) -> AsyncGenerator[AsyncIterator[tuple[bytes, bool]], None]:
    """The pieces of *body* that have any bytes, and whether each was text; leaving closes what makes them."""
    pieces = body.pieces
    if isinstance(pieces, AsyncIterator):
        try:
            yield _of_async(pieces)
        finally:
            if (close := getattr(pieces, "aclose", None)) is not None:
                await close()
        return
    advanced = Advanced(pieces, pool)
    try:
        yield advanced
    finally:
        advanced.close()


async def _of_async(pieces: AsyncIterator[object]) -> AsyncIterator[tuple[bytes, bool]]:
    async for piece in pieces:
        if data := piece_bytes(piece):
            yield data, isinstance(piece, str)


class Advanced:
    """A blocking iterator, advanced in worker threads: at once as far as its pieces are taken, and what is there is
    given at once. A thread is held only while it makes some."""

    def __init__(self, pieces: Iterator[object], pool: Executor | None) -> None:
        self._pieces, self._pool = pieces, pool
        self._loop = asyncio.get_running_loop()
        self._context, self._turn = contextvars.copy_context(), threading.Lock()
        self._news, self._brim = asyncio.Event(), asyncio.Event()
        # Under the lock: what both sides change.
        self._lock = threading.Lock()
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._text: bool | None = None  # what the first piece was
        self._running = self._ended = self._closing = False
        self._error: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[bytes, bool]:
        while True:
            with self._lock:
                data, self._ready, self._ready_bytes = b"".join(self._ready), [], 0
                begins = not (self._ended or self._running)
                self._running = self._running or begins
                ended, text = self._ended, self._text
                self._news.clear()
                self._brim.clear()
            if begins:
                self._start()
            if data:
                return data, bool(text)
            if ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            await self._news.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TOGETHER_S):
                    await self._brim.wait()

    def close(self) -> None:
        """Close the iterator: now, or when the piece that it is making is made."""
        with self._lock:
            self._closing = True
            begins = not (self._ended or self._running)
            self._running = self._running or begins
        if begins:
            self._start()

    def _start(self) -> None:
        self._loop.run_in_executor(self._pool, self._run_in_turn)

    def _run_in_turn(self) -> None:
        # The thread before may have told all it had to, and not quite left the context.
        with self._turn:
            self._context.run(self._run)

    def _run(self) -> None:
        """Make pieces until enough are there. In a worker thread."""
        error: Exception | None = None
        try:
            while self._wanted():
                piece = next(self._pieces)
                if data := piece_bytes(piece):
                    self._give(data, isinstance(piece, str))
            if not self._closing:
                return
        except StopIteration:
            pass
        except Exception as failure:
            error = failure
        except BaseException as failure:  # sys.exit() in it ends the answer, not the server
            error = RuntimeError(f"what makes the body ended with {failure!r}")
        self._end(error)

    def _wanted(self) -> bool:
        with self._lock:
            if not self._closing and self._ready_bytes < _AHEAD_BYTES:
                return True
            self._running = self._closing
        self._tell(self._brim)
        return False

    def _give(self, data: bytes, text: bool) -> None:
        with self._lock:
            first = not self._ready
            self._ready.append(data)
            self._ready_bytes += len(data)
            self._text = text if self._text is None else self._text
        if first:
            self._tell(self._news)

    def _end(self, error: Exception | None) -> None:
        try:
            if (close := getattr(self._pieces, "close", None)) is not None:
                close()
        except Exception as failure:
            error = error or failure
        with self._lock:
            self._error, self._ended, self._running = error, True, False
            unheard = self._closing and error is not None
        if unheard:
            log.error("what makes a body failed when it was closed", exc_info=error)
        self._tell(self._brim)
        self._tell(self._news)

    def _tell(self, event: asyncio.Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(event.set)
