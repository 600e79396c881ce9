"""`AsyncForebay`: the same API for an event loop. `forebay.aopen` makes one.

What waits for a download awaits it; what only touches the disk runs in a worker thread. The steps of a fetch
are `forebay.errand`'s, as in the sync face.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from forebay.bay import Forebay
from forebay.content.wakeups import LOOK_AGAIN_S
from forebay.core.urls import show_url
from forebay.errand import outcome_of
from forebay.errors import ForebayError
from forebay.fetch.tickets import Ticket
from forebay.models import AnyStrategy, Request, RequestSpec, Response
from forebay.reports import (
    Fetched,
    GcReport,
    OnProgress,
    OnSending,
    StorageUsage,
    VerifyReport,
    response_or_raise,
)
from forebay.sources import Source
from forebay.wishes import Wish, wishes

_PROGRESS_EVERY_S = 0.1
# Fetches under way at once in one call; most of them wait for a slot, each in a coroutine.
_WINDOW = 64


class AsyncForebay:
    """A `Forebay` for coroutines: each method is that of `Forebay` with the same name, awaited."""

    def __init__(self, bay: Forebay) -> None:
        self.bay = bay
        self.folder = bay.folder

    async def close(self) -> None:
        """See `Forebay.close`."""
        await asyncio.to_thread(self.bay.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def fetch(
        self,
        url: str | RequestSpec,
        *,
        sha256: str | None = None,
        expected_hash: str | None = None,
        refresh: str | AnyStrategy | None = None,
        tag: str | None = None,
        version: str | None = None,
        offline: bool = False,
        progress: OnProgress | None = None,
    ) -> Response:
        """See `Forebay.fetch`. *progress* is called in the event loop's thread; a cancelled fetch is suspended,
        to be resumed, unless someone else waits for it."""
        wish = wishes(sha256, expected_hash, refresh, tag, version, offline)(url)
        return response_or_raise(await self._run(wish, progress))

    async def fetch_many(
        self,
        urls: Iterable[str | RequestSpec],
        *,
        sha256: str | None = None,
        expected_hash: str | None = None,
        refresh: str | AnyStrategy | None = None,
        tag: str | None = None,
        version: str | None = None,
        offline: bool = False,
        progress: OnProgress | None = None,
    ) -> AsyncGenerator[Fetched, None]:
        """See `Forebay.fetch_many`."""
        make = wishes(sha256, expected_hash, refresh, tag, version, offline)
        waiting, left = set[asyncio.Task[Fetched]](), iter(urls)
        try:
            while True:
                for url in islice(left, _WINDOW - len(waiting)):
                    waiting.add(asyncio.create_task(self._run_safely(url, make, progress)))
                if not waiting:
                    return
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _run_safely(
        self, url: str | RequestSpec, make: Callable[[str | RequestSpec], Wish], progress: OnProgress | None
    ) -> Fetched:
        try:
            return await self._run(make(url), progress)
        except ForebayError as error:
            return Fetched(show_url(url if isinstance(url, str) else url.url), None, "failed", error, asked=url)

    async def _run(self, wish: Wish, progress: OnProgress | None) -> Fetched:
        (registered,) = await asyncio.to_thread(self.bay.register, [wish])
        errand = self.bay.errand(wish)
        following = await asyncio.to_thread(errand.begin, registered)
        while not isinstance(following, Fetched):
            ticket = self.bay.submit(following)  # takes a lock and posts; from here on it is ours to let go
            await self._settled(ticket, errand.url, progress)
            following = await asyncio.to_thread(errand.settled, outcome_of(ticket))
        return self.bay.note(following)

    async def _settled(self, ticket: Ticket, url: str, progress: OnProgress | None) -> None:
        loop = asyncio.get_running_loop()
        settled = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(settled.set)

        ticket.when_settled(wake)
        try:
            while not settled.is_set():
                patience = None if progress is None else _PROGRESS_EVERY_S
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(settled.wait(), patience)
                if progress is not None:
                    progress(url, ticket.progress())
        finally:
            self.bay.let_go(ticket)

    async def open(self, what: str | Response, *, tag: str | None = None, version: str | None = None) -> BinaryIO:
        """See `Forebay.open`. Reads of what is still landing wait in the thread that reads: in a coroutine, use
        ``await asyncio.to_thread(file.read, …)``."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(changed.set)

        opening = self.bay.opening(what, tag=tag, version=version, wake=wake)
        try:
            while (file := await asyncio.to_thread(opening.step)) is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), LOOK_AGAIN_S)
                changed.clear()
            return file
        finally:
            opening.close()

    async def path(self, what: str | Response, *, tag: str | None = None, version: str | None = None) -> Path:
        """See `Forebay.path`."""
        response = what if isinstance(what, Response) else await self.fetch(what, tag=tag, version=version)
        return await asyncio.to_thread(self.bay.path, response)

    async def requests(self) -> list[Request]:
        """See `Forebay.requests`."""
        return await asyncio.to_thread(self.bay.requests)

    async def latest(self, url: str) -> Response | None:
        """See `Forebay.latest`."""
        return await asyncio.to_thread(self.bay.latest, url)

    async def versions(self, url: str, *, deleted: bool = False) -> list[Response]:
        """See `Forebay.versions`."""
        return await asyncio.to_thread(self.bay.versions, url, deleted=deleted)

    async def find(self, url: str, *, version: str | None = None, tag: str | None = None) -> Response:
        """See `Forebay.find`."""
        return await asyncio.to_thread(self.bay.find, url, version=version, tag=tag)

    async def tag(self, url: str, tag: str, *, version: str | None = None, remove: bool = False) -> Response:
        """See `Forebay.tag`."""
        return await asyncio.to_thread(self.bay.tag, url, tag, version=version, remove=remove)

    async def pin(
        self, url: str, *, version: str | None = None, value: bool = True, duration_sec: float | None = None
    ) -> Response:
        """See `Forebay.pin`."""
        return await asyncio.to_thread(self.bay.pin, url, version=version, value=value, duration_sec=duration_sec)

    async def delete(self, url: str, *, version: str | None = None) -> list[Response]:
        """See `Forebay.delete`."""
        return await asyncio.to_thread(self.bay.delete, url, version=version)

    async def undelete(self, url: str, *, version: str | None = None) -> list[Response]:
        """See `Forebay.undelete`."""
        return await asyncio.to_thread(self.bay.undelete, url, version=version)

    async def configure(
        self,
        url: str,
        *,
        refresh: str | AnyStrategy | None = None,
        max_cached_unpinned_versions: int | None = None,
        max_cached_pinned_versions: int | None = None,
    ) -> Request:
        """See `Forebay.configure`."""
        return await asyncio.to_thread(
            self.bay.configure,
            url,
            refresh=refresh,
            max_cached_unpinned_versions=max_cached_unpinned_versions,
            max_cached_pinned_versions=max_cached_pinned_versions,
        )

    async def put(
        self,
        file: Source,
        *,
        name: str | None = None,
        tag: str | None = None,
        progress: OnSending | None = None,
    ) -> Response:
        """See `Forebay.put`; *progress* is called in a worker thread, which goes on when the call is cancelled."""
        return await asyncio.to_thread(self.bay.put, file, name=name, tag=tag, progress=progress)

    async def verify(self, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """See `Forebay.verify`; *progress* is called in a worker thread."""
        return await asyncio.to_thread(self.bay.verify, progress=progress)

    async def gc(self, *, dry_run: bool = False) -> GcReport:
        """See `Forebay.gc`."""
        return await asyncio.to_thread(self.bay.gc, dry_run=dry_run)

    async def usage(self) -> StorageUsage:
        """See `Forebay.usage`."""
        return await asyncio.to_thread(self.bay.usage)
