"""`AsyncRemoteForebay`: the API of `AsyncForebay`, from a server. `forebay.aopen("http://…")` makes one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from forebay.client import calls, uploads
from forebay.client.contents import land_version
from forebay.client.crew import PROGRESS_EVERY_S
from forebay.client.direct import AsyncDirect, AsyncEmbedded, Outage
from forebay.client.drivers import AsyncDriver
from forebay.client.exchange import Flow
from forebay.client.fetching import Tell
from forebay.client.remote import RemoteForebay, cache_of, flow_of, line_of, told_to, uploads_of
from forebay.client.uploads import PARALLEL
from forebay.core.urls import show_url
from forebay.errors import ForebayError, ServerUnreachable
from forebay.models import AnyStrategy, Request, RequestSpec, Response
from forebay.reports import (
    Fetched,
    GcReport,
    OnProgress,
    OnSending,
    Progress,
    StorageUsage,
    VerifyReport,
    response_or_raise,
)
from forebay.settings import RemoteSettings
from forebay.sources import Source, parcel
from forebay.wishes import Wish, wishes

T = TypeVar("T")

# Fetches under way at once in one call; most of them wait at the server for their turn.
_WINDOW = 64


class AsyncRemoteForebay:
    """A `RemoteForebay` for coroutines: each method is that of `RemoteForebay` with the same name, awaited."""

    def __init__(
        self, settings: RemoteSettings, *, direct: Callable[[], Awaitable[AsyncEmbedded]] | None = None
    ) -> None:
        """*direct*: what fetches while the server cannot be reached; made when it is first needed."""
        self.settings, self.server = settings, settings.server
        self._cache = cache_of(settings)
        self._driver = AsyncDriver(line_of(settings))
        self._direct = None if direct is None else AsyncDirect(direct)
        self._outage = Outage()
        # What is read as it lands is read by calls that block, which an event loop's connection cannot serve.
        self._reading: RemoteForebay | None = None

    def __repr__(self) -> str:
        return f"AsyncRemoteForebay({self.server!r})"

    async def close(self) -> None:
        """See `RemoteForebay.close`."""
        if self._reading is not None:
            await asyncio.to_thread(self._reading.close)
        await self._driver.close()
        if self._direct is not None:
            await self._direct.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        return await self._driver.run(flow)

    # --- fetching --------------------------------------------------------------------------------------

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
        content: bool = False,
    ) -> Response:
        """See `RemoteForebay.fetch`. *progress* is called in the event loop's thread."""
        wish = wishes(sha256, expected_hash, refresh, tag, version, offline)(url)
        return response_or_raise(await self._fetch(wish, progress, content=content))

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
        content: bool = False,
    ) -> AsyncGenerator[Fetched, None]:
        """See `RemoteForebay.fetch_many`."""
        make = wishes(sha256, expected_hash, refresh, tag, version, offline)
        waiting, left = set[asyncio.Task[Fetched]](), iter(urls)
        try:
            while True:
                for url in islice(left, _WINDOW - len(waiting)):
                    waiting.add(asyncio.create_task(self._fetch_safely(url, make, progress, content=content)))
                if not waiting:
                    return
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _fetch_safely(
        self,
        url: str | RequestSpec,
        make: Callable[[str | RequestSpec], Wish],
        progress: OnProgress | None,
        *,
        content: bool,
    ) -> Fetched:
        try:
            return await self._fetch(make(url), progress, content=content)
        except ForebayError as error:
            return Fetched(show_url(url if isinstance(url, str) else url.url), None, "failed", error, asked=url)

    async def _fetch(self, wish: Wish, progress: OnProgress | None, *, content: bool) -> Fetched:
        if progress is None:
            return await self._fetch_quietly(wish, None, content=content)
        latest: list[Progress] = []
        # It may be told in a thread; here it comes out in the event loop's.
        fetching = asyncio.create_task(self._fetch_quietly(wish, latest.append, content=content))
        try:
            while not (await asyncio.wait([fetching], timeout=PROGRESS_EVERY_S))[0]:
                if latest:
                    progress(show_url(wish.spec.url), latest[-1])
                    del latest[:-1]
            progress(show_url(wish.spec.url), Progress(state="done"))
            return fetching.result()
        finally:
            if not fetching.done():
                fetching.cancel()
                await asyncio.wait([fetching])

    async def _fetch_quietly(self, wish: Wish, tell: Tell | None, *, content: bool) -> Fetched:
        try:
            return await self._reach(flow_of(wish, self._cache, self.server, tell, content=content))
        except ServerUnreachable as error:
            return await self._directly(error, wish).fetch(wish, progress=told_to(tell))

    async def _reach(self, flow: Flow[T]) -> T:
        if self._direct is not None:
            self._outage.check()
        result = await self._run(flow)
        self._outage.ended()
        return result

    def _directly(self, error: ServerUnreachable, wish: Wish) -> AsyncDirect:
        if self._direct is None or wish.tag or wish.version:
            raise error
        self._outage.began(error)
        return self._direct

    # --- content ---------------------------------------------------------------------------------------

    async def open(self, what: str | Response, *, tag: str | None = None, version: str | None = None) -> BinaryIO:
        """See `RemoteForebay.open`. Reads of what still lands block: await them in a thread."""
        if isinstance(what, Response) and self._direct is not None and self._direct.has(what):
            return await (await self._direct.bay()).open(what)
        if self._reading is None:
            self._reading = RemoteForebay(self.settings)
        try:
            return await asyncio.to_thread(self._reading.open, what, tag=tag, version=version)
        except ServerUnreachable as error:
            if isinstance(what, Response):
                raise
            wish = wishes(None, None, None, tag, version, False)(what)
            return await (await self._directly(error, wish).bay()).open(what)

    async def path(self, what: str | Response, *, tag: str | None = None, version: str | None = None) -> Path:
        """See `RemoteForebay.path`."""
        if not isinstance(what, Response):
            wish = wishes(None, None, None, tag, version, False)(what)
            what = response_or_raise(await self._fetch(wish, None, content=True))
        if self._direct is not None and self._direct.has(what):
            return await (await self._direct.bay()).path(what)
        return await self._run(land_version(self._cache, self.server, what))

    async def cached(self, response: Response) -> Path | None:
        """See `RemoteForebay.cached`."""
        attributes = response.content_attributes
        if attributes.sha256 is None:
            return None
        look = partial(self._cache.path, attributes.sha256, size_bytes=attributes.content_size_bytes)
        return await asyncio.to_thread(look)

    # --- uploads ---------------------------------------------------------------------------------------

    async def put(
        self,
        file: Source,
        *,
        name: str | None = None,
        tag: str | None = None,
        parallel: int = PARALLEL,
        progress: OnSending | None = None,
    ) -> Response:
        """See `RemoteForebay.put`. *progress* is called in the event loop's thread; what a cancelled call has not
        sent, another one sends."""
        with parcel(file, name=name, tag=tag) as ready:
            return await self._run(
                uploads.sending(
                    ready,
                    server=self.server,
                    folder=uploads_of(self.settings),
                    parallel=parallel,
                    progress=progress,
                )
            )

    # --- versions --------------------------------------------------------------------------------------

    async def requests(self) -> list[Request]:
        """See `Forebay.requests`."""
        return await self._run(calls.requests())

    async def request(self, url: str) -> Request:
        """See `Forebay.request`."""
        return await self._run(calls.request(url))

    async def latest(self, url: str) -> Response | None:
        """See `Forebay.latest`."""
        return await self._run(calls.latest(url))

    async def versions(self, url: str, *, deleted: bool = False) -> list[Response]:
        """See `Forebay.versions`."""
        return await self._run(calls.versions(url, deleted=deleted))

    async def find(self, url: str, *, version: str | None = None, tag: str | None = None) -> Response:
        """See `Forebay.find`."""
        return await self._run(calls.find(url, version=version, tag=tag))

    async def tag(self, url: str, tag: str, *, version: str | None = None, remove: bool = False) -> Response:
        """See `Forebay.tag`."""
        return await self._run(calls.tag(url, tag, version=version, remove=remove))

    async def pin(
        self, url: str, *, version: str | None = None, value: bool = True, duration_sec: float | None = None
    ) -> Response:
        """See `Forebay.pin`."""
        return await self._run(calls.pin(url, version=version, value=value, duration_sec=duration_sec))

    async def delete(self, url: str, *, version: str | None = None) -> list[Response]:
        """See `Forebay.delete`."""
        return await self._run(calls.delete(url, version=version))

    async def undelete(self, url: str, *, version: str | None = None) -> list[Response]:
        """See `Forebay.undelete`."""
        return await self._run(calls.undelete(url, version=version))

    async def configure(
        self,
        url: str,
        *,
        refresh: str | AnyStrategy | None = None,
        max_cached_unpinned_versions: int | None = None,
        max_cached_pinned_versions: int | None = None,
    ) -> Request:
        """See `Forebay.configure`."""
        return await self._run(
            calls.configure(
                url, refresh=refresh, unpinned=max_cached_unpinned_versions, pinned=max_cached_pinned_versions
            )
        )

    # --- the server's folder ---------------------------------------------------------------------------

    async def verify(self, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """See `RemoteForebay.verify`."""
        return await self._run(calls.verify(progress=progress))

    async def gc(self, *, dry_run: bool = False) -> GcReport:
        """See `RemoteForebay.gc`."""
        return await self._run(calls.gc(dry_run=dry_run))

    async def usage(self) -> StorageUsage:
        """See `RemoteForebay.usage`."""
        return await self._run(calls.usage())
