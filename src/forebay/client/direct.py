"""Fetching without the server, while it cannot be reached."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from forebay.errors import ServerUnreachable
from forebay.models import AnyStrategy, RequestSpec, Response
from forebay.reports import Fetched, OnProgress
from forebay.wishes import Wish

log = logging.getLogger("forebay")

# For so long it is not tried again: each try may take as long as a connection that is not answered.
_DOWN_S = 10.0


class Embedded(Protocol):
    """What is needed of a `Forebay` on a folder."""

    def fetch_many(
        self,
        urls: Iterable[str | RequestSpec],
        *,
        expected_hash: str | None,
        refresh: str | AnyStrategy | None,
        offline: bool,
        progress: OnProgress | None,
    ) -> Iterator[Fetched]: ...

    def open(self, what: str | Response) -> BinaryIO: ...

    def path(self, what: str | Response) -> Path: ...

    def close(self) -> None: ...


class AsyncEmbedded(Protocol):
    """What is needed of an `AsyncForebay` on a folder."""

    def fetch_many(
        self,
        urls: Iterable[str | RequestSpec],
        *,
        expected_hash: str | None,
        refresh: str | AnyStrategy | None,
        offline: bool,
        progress: OnProgress | None,
    ) -> AsyncIterator[Fetched]: ...

    async def open(self, what: str | Response) -> BinaryIO: ...

    async def path(self, what: str | Response) -> Path: ...

    async def close(self) -> None: ...


class Outage:
    """Whether a server was found to be out of reach a moment ago; told once for each time that it goes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._error: ServerUnreachable | None = None
        self._until = 0.0

    def check(self) -> None:
        """Raise what was found, if that was a moment ago."""
        error = self._error
        if error is not None and time.monotonic() < self._until:
            # Anew: one error raised again and again would gather the tracebacks of all who met it.
            raise ServerUnreachable(reason=error.reason, server=error.server)

    def began(self, error: ServerUnreachable) -> None:
        """It cannot be reached; what is wanted is fetched directly."""
        with self._lock:
            new, known = self._error is None, time.monotonic() < self._until
            self._error = ServerUnreachable(reason=error.reason, server=error.server)
            if new or not known:
                self._until = time.monotonic() + _DOWN_S
        if new:
            log.warning("%s; fetching directly", str(error).partition(";")[0])

    def ended(self) -> None:
        """It has answered."""
        self._error = None


class Direct:
    """A `Forebay` on a folder of its own, made when it is first needed. *make*: how."""

    def __init__(self, make: Callable[[], Embedded]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._bay: Embedded | None = None
        self._requests: set[str] = set()

    def bay(self) -> Embedded:
        """The one."""
        with self._lock:
            if self._bay is None:
                self._bay = self._make()
            return self._bay

    def fetch(self, wish: Wish, *, progress: OnProgress | None) -> Fetched:
        """What comes of *wish*."""
        (fetched,) = self.bay().fetch_many(
            [wish.asked],
            expected_hash=_expected(wish),
            refresh=wish.refresh,
            offline=wish.offline,
            progress=progress,
        )
        if fetched.response is not None:
            self._requests.add(fetched.response.request_id)
        return fetched

    def has(self, response: Response) -> bool:
        """Whether *response* was fetched here, and is nothing that the server knows."""
        return response.request_id in self._requests

    def close(self) -> None:
        """Close it, if it was made."""
        with self._lock:
            if self._bay is not None:
                self._bay.close()


class AsyncDirect:
    """`Direct` for coroutines."""

    def __init__(self, make: Callable[[], Awaitable[AsyncEmbedded]]) -> None:
        self._make, self._lock = make, asyncio.Lock()
        self._bay: AsyncEmbedded | None = None
        self._requests: set[str] = set()

    async def bay(self) -> AsyncEmbedded:
        """See `Direct.bay`."""
        async with self._lock:
            if self._bay is None:
                self._bay = await self._make()
            return self._bay

    async def fetch(self, wish: Wish, *, progress: OnProgress | None) -> Fetched:
        """See `Direct.fetch`."""
        answers = (await self.bay()).fetch_many(
            [wish.asked],
            expected_hash=_expected(wish),
            refresh=wish.refresh,
            offline=wish.offline,
            progress=progress,
        )
        (fetched,) = [fetched async for fetched in answers]
        if fetched.response is not None:
            self._requests.add(fetched.response.request_id)
        return fetched

    def has(self, response: Response) -> bool:
        """See `Direct.has`."""
        return response.request_id in self._requests

    async def close(self) -> None:
        """See `Direct.close`."""
        if self._bay is not None:
            await self._bay.close()


def _expected(wish: Wish) -> str | None:
    return None if wish.expected is None else ":".join(wish.expected)
