"""Bodies that go out: the pieces of a content, read as fast as the reader takes them.

All bodies that are under way share one budget of memory: a few fast readers get large pieces, and a thousand slow
ones cannot fill it (DESIGN.md section 6: a reader that stalls costs as much as seven pieces).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from forebay.cached import read_cached
from forebay.core.delivery import Everything, Piece
from forebay.core.ranges import MAX_BYTES
from forebay.errors import ForebayError, StorageFailed
from forebay.messages.asgi import Disconnected, Receive, Send
from forebay.messages.problems import note_if_ours

log = logging.getLogger(__name__)

_BUDGET_BYTES = 64 << 20
_PIECES_A_READER = 7
_LEAST_BYTES = 16 << 10
# Larger ones were no faster, smaller ones were (512 KiB: 0.45 s a GiB, 256 KiB: 1.5 s).
_MOST_BYTES = 512 << 10
# A reader that takes longer for a piece gets small ones: then the next limit means that it takes nothing at all.
_SLOW_S = 1.0
# Who takes nothing for so long is gone, whatever its connection says. nginx's send_timeout is a minute.
STALL_S = 120.0


class Source(Protocol):
    """The bytes of one content, for one reader."""

    async def read(self, offset: int, size: int) -> bytes:
        """At least one and at most *size* bytes from *offset* on; none at the end. Waits for what is still to
        land; raises `ForebayError` when it never will."""
        ...


class StoredSource:
    """A content that is whole: the file behind *descriptor*."""

    def __init__(self, descriptor: int, pool: Executor | None) -> None:
        self._descriptor, self._pool = descriptor, pool

    async def read(self, offset: int, size: int) -> bytes:
        """See `Source.read`. A hop to a thread for each read would halve the rate of small files."""
        data = read_cached(self._descriptor, offset, size)
        if data is None:
            loop = asyncio.get_running_loop()
            try:
                data = await loop.run_in_executor(self._pool, os.pread, self._descriptor, size, offset)
            except OSError as error:
                raise StorageFailed("a content", reason=error.strerror or str(error)) from error
        return data


async def read_all(source: Source, size: int) -> bytes:
    """The first *size* bytes; fewer where it ends. One read may give less: what of a file is in memory."""
    data = await source.read(0, size)
    while 0 < len(data) < size and (more := await source.read(len(data), size - len(data))):
        data += more
    return data


class Reader:
    """Whether somebody still reads what is sent; a context manager. `send` itself never fails after a
    disconnect (DESIGN.md section 6)."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone: asyncio.Task[bool] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._gone is not None:
            self._gone.cancel()

    def check(self) -> None:
        """Raise `Disconnected` when nobody reads any more. Whoever is answered at once is not watched: the first
        call begins that."""
        if self._gone is None:
            self._gone = asyncio.create_task(self._disconnected())
        elif self._gone.done() and self._gone.result():
            raise Disconnected

    async def _disconnected(self) -> bool:
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Exception:
            return False  # of its body, as when that is too large: the client is there
        return True


@dataclass(slots=True)
class _Pace:
    """How fast one reader takes its pieces. *clock* is steady."""

    clock: Callable[[], float]
    slow: bool = False

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        began = self.clock()
        yield
        self.slow = self.clock() - began > _SLOW_S


class Outflow:
    """All bodies that one process sends."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._readers = 0

    async def send(self, send: Send, reader: Reader, body: Iterable[Piece], source: Source) -> None:
        """Send *body*, whose head has been sent. When not all of it can be, *reader* sees a broken connection,
        never a short success: the server breaks off whoever returns without the last event."""
        self._readers += 1
        pace = _Pace(self._clock)
        try:
            async with contextlib.aclosing(self._pieces(body, source, pace)) as pieces:
                async for data in pieces:
                    reader.check()
                    async with asyncio.timeout(STALL_S):
                        with pace.timed():
                            await send({"type": "http.response.body", "body": data, "more_body": True})
            async with asyncio.timeout(STALL_S):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Disconnected:
            pass
        except TimeoutError:
            log.warning("a reader took nothing for %d s and was broken off", STALL_S)
        except ForebayError as error:
            note_if_ours(error)
            log.info("a reader was broken off: %s", error)
        finally:
            self._readers -= 1

    async def _pieces(self, body: Iterable[Piece], source: Source, pace: _Pace) -> AsyncGenerator[bytes, None]:
        for piece in body:
            if isinstance(piece, bytes):
                yield piece
                continue
            offset, stop = (0, MAX_BYTES) if isinstance(piece, Everything) else piece
            while offset < stop:
                data = await source.read(offset, min(self._piece_bytes(pace), stop - offset))
                if not data:
                    if isinstance(piece, Everything):
                        return
                    raise StorageFailed("a content", reason=f"it ends at {offset} instead of {stop}")
                offset += len(data)
                yield data

    def _piece_bytes(self, pace: _Pace) -> int:
        if pace.slow:
            return _LEAST_BYTES
        share = _BUDGET_BYTES // (_PIECES_A_READER * self._readers)
        return max(_LEAST_BYTES, min(_MOST_BYTES, share))


OUTFLOW = Outflow()
"""That of this process."""
