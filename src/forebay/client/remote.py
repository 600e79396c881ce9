"""`RemoteForebay`: the API of `Forebay`, from a server. `forebay.open("http://…")` makes one.

What the server sends is kept in a cache by its digest, so that nothing is transferred twice. With a way to fetch
*directly*, what is wanted is fetched without the server while it cannot be reached.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from forebay.client import calls, contents, fetching, uploads
from forebay.client.cache import ContentCache
from forebay.client.contents import Ending, Settle, fetch_content, land, land_version, place_of
from forebay.client.crew import Crew
from forebay.client.direct import Direct, Embedded, Outage
from forebay.client.drivers import Driver, Line
from forebay.client.exchange import Flow
from forebay.client.fetching import Begun, Tell
from forebay.client.landing import Landing, buffered
from forebay.client.together import Hook
from forebay.client.uploads import PARALLEL
from forebay.core.urls import show_url
from forebay.errors import ForebayError, ServerUnreachable
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
from forebay.settings import RemoteSettings
from forebay.sources import Source, parcel
from forebay.wishes import Wish, wishes

T = TypeVar("T")


def line_of(settings: RemoteSettings) -> Line:
    """How the server of *settings* is reached."""
    token = None if settings.token is None else settings.token.get_secret_value()
    return Line(settings.server, token, settings.server_timeout_s)


def cache_of(settings: RemoteSettings) -> ContentCache:
    """The content cache of *settings*."""
    return ContentCache(settings.cache.expanduser().absolute(), max_bytes=settings.cache_bytes)


def uploads_of(settings: RemoteSettings) -> Path:
    """Where it is remembered what is being sent."""
    return settings.cache.expanduser().absolute() / "uploads"


class RemoteForebay:
    """A server's versions, and the downloads that it does. Usable from any thread; close it when done.

    Its methods are those of `Forebay`; what cannot be done because the server is out of reach raises
    `ServerUnreachable`.
    """

    def __init__(self, settings: RemoteSettings, *, direct: Callable[[], Embedded] | None = None) -> None:
        """*direct*: what fetches while the server cannot be reached; made when it is first needed."""
        self.settings, self.server = settings, settings.server
        self._cache = cache_of(settings)
        self._driver = Driver(line_of(settings))
        self._direct = None if direct is None else Direct(direct)
        self._outage = Outage()
        self._landings: dict[str, Landing] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"RemoteForebay({self.server!r})"

    def close(self) -> None:
        """Close the connections. What is on its way stays in the cache to be resumed."""
        with self._lock:
            landings = list(self._landings.values())
        for landing in landings:
            landing.stop()
        self._driver.close()
        if self._direct is not None:
            self._direct.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        return self._driver.run(flow)

    # --- fetching --------------------------------------------------------------------------------------

    def fetch(
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
        """See `Forebay.fetch`; the server fetches. With *content*, its bytes are in the cache on return: they come
        while they land there."""
        make = wishes(sha256, expected_hash, refresh, tag, version, offline)
        if progress is None:
            return response_or_raise(self._fetch(make(url), None, content=content))
        make(url)  # what cannot be asked is raised
        (fetched,) = self._drive(iter([url]), make, progress, content=content)
        return response_or_raise(fetched)

    def fetch_many(
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
    ) -> Generator[Fetched, None, None]:
        """See `Forebay.fetch_many`, and `fetch` for *content*."""
        make = wishes(sha256, expected_hash, refresh, tag, version, offline)
        # Checked now, not at the first answer.
        return self._drive(iter(urls), make, progress, content=content)

    def _drive(
        self,
        urls: Iterator[str | RequestSpec],
        make: Callable[[str | RequestSpec], Wish],
        progress: OnProgress | None,
        *,
        content: bool,
    ) -> Generator[Fetched, None, None]:
        """Let a crew of threads fetch; answers and progress come out here, in the caller's thread."""
        crew = Crew(urls, lambda url, tell: self._fetch_safely(url, make, tell, content=content))
        try:
            yield from crew.answers(progress)
        finally:
            crew.disband()

    def _fetch_safely(
        self,
        url: str | RequestSpec,
        make: Callable[[str | RequestSpec], Wish],
        tell: Tell | None,
        *,
        content: bool,
    ) -> Fetched:
        try:
            return self._fetch(make(url), tell, content=content)
        except ForebayError as error:
            return Fetched(show_url(url if isinstance(url, str) else url.url), None, "failed", error, asked=url)

    def _fetch(self, wish: Wish, tell: Tell | None, *, content: bool) -> Fetched:
        try:
            return self._reach(flow_of(wish, self._cache, self.server, tell, content=content))
        except ServerUnreachable as error:
            return self._directly(error, wish).fetch(wish, progress=told_to(tell))

    def _reach(self, flow: Flow[T]) -> T:
        """What *flow* returns, unless the server was out of reach a moment ago."""
        if self._direct is not None:
            self._outage.check()
        result = self._run(flow)
        self._outage.ended()
        return result

    def _directly(self, error: ServerUnreachable, wish: Wish | None = None) -> Direct:
        """What fetches without the server. Raises *error* when nothing does, and when only the server knows what is
        meant."""
        if self._direct is None or (wish is not None and (wish.tag or wish.version)):
            raise error
        self._outage.began(error)
        return self._direct

    # --- content ---------------------------------------------------------------------------------------

    def open(self, what: str | Response, *, tag: str | None = None, version: str | None = None) -> BinaryIO:
        """See `Forebay.open`: what still lands on the server is read as it lands here, and stays readable whatever
        is evicted meanwhile."""
        if isinstance(what, Response):
            return self._open(what, None)
        wish = wishes(None, None, None, tag, version, False)(what)
        try:
            outcome = self._reach(fetching.begin(wish))
            if isinstance(outcome, Begun):
                return self._open(outcome.response, Ending(wish, outcome.asked_at).settle)
            return self._open(response_or_raise(outcome), None)
        except ServerUnreachable as error:
            return self._directly(error, wish).bay().open(what)

    def _open(self, response: Response, settle: Settle | None) -> BinaryIO:
        if self._direct is not None and self._direct.has(response):
            return self._direct.bay().open(response)
        place = place_of(self.server, response)
        if settle is None:
            place = self._run(contents.now_at(place))
        while True:
            if place.sha256 is not None:
                file = self._cache.open(place.sha256, size_bytes=place.size_bytes)
                if file is not None:
                    return file
            landing = self._landing(place, settle)
            try:
                landed = landing.open()
            except BaseException:
                landing.leave()
                raise
            if landed is not None:
                return buffered(landed)
            landing.leave()
            # It came in the meantime.
            place = place_of(self.server, self._run(contents.settled(place)))

    def _landing(self, place: contents.Place, settle: Settle | None) -> Landing:
        """What lands of *place*, joined; begun if nobody has yet."""
        while True:
            with self._lock:
                known = self._landings.get(place.key)
                if known is None:
                    return self._begin_landing(place, settle)
                if known.join():
                    return known
            known.wait_for_end()  # it was stopped a moment ago
            self._ended(known)

    def _begin_landing(self, place: contents.Place, settle: Settle | None) -> Landing:
        hook = Hook()
        landing = Landing(place.key, stop=hook.hang_up, on_end=self._ended)
        landing.join()
        self._landings[place.key] = landing
        flow = partial(land, self._cache, place, settle, landing, patient=place.sha256 is not None)
        landing.start(lambda: self._driver.run(flow(), hook=hook))
        return landing

    def _ended(self, landing: Landing) -> None:
        with self._lock:
            if self._landings.get(landing.name) is landing:
                del self._landings[landing.name]

    def path(self, what: str | Response, *, tag: str | None = None, version: str | None = None) -> Path:
        """Where the content is on this machine, read only. It goes when the cache is full and it was not used for
        long."""
        if isinstance(what, Response):
            return self._path(what)
        wish = wishes(None, None, None, tag, version, False)(what)
        return self._path(response_or_raise(self._fetch(wish, None, content=True)))

    def _path(self, response: Response) -> Path:
        if self._direct is not None and self._direct.has(response):
            return self._direct.bay().path(response)
        return self._run(land_version(self._cache, self.server, response))

    def cached(self, response: Response) -> Path | None:
        """Where the content of *response* is on this machine; None if it is not, and nothing is transferred."""
        attributes = response.content_attributes
        if attributes.sha256 is None:
            return None
        return self._cache.path(attributes.sha256, size_bytes=attributes.content_size_bytes)

    # --- uploads ---------------------------------------------------------------------------------------

    def put(
        self,
        file: Source,
        *,
        name: str | None = None,
        tag: str | None = None,
        parallel: int = PARALLEL,
        progress: OnSending | None = None,
    ) -> Response:
        """See `Forebay.put`. A large file goes in so many parts at once as *parallel* says.

        What a cut connection, Ctrl-C or a killed process leaves unsent, the same call sends: here or in another
        process, as long as the file is the same one and the server keeps what it has. A stream is sent by one
        call or not at all.
        """
        with parcel(file, name=name, tag=tag) as ready:
            return self._run(
                uploads.sending(
                    ready,
                    server=self.server,
                    folder=uploads_of(self.settings),
                    parallel=parallel,
                    progress=progress,
                )
            )

    # --- versions --------------------------------------------------------------------------------------

    def requests(self) -> list[Request]:
        """See `Forebay.requests`."""
        return self._run(calls.requests())

    def request(self, url: str) -> Request:
        """See `Forebay.request`."""
        return self._run(calls.request(url))

    def latest(self, url: str) -> Response | None:
        """See `Forebay.latest`."""
        return self._run(calls.latest(url))

    def versions(self, url: str, *, deleted: bool = False) -> list[Response]:
        """See `Forebay.versions`."""
        return self._run(calls.versions(url, deleted=deleted))

    def find(self, url: str, *, version: str | None = None, tag: str | None = None) -> Response:
        """See `Forebay.find`."""
        return self._run(calls.find(url, version=version, tag=tag))

    def tag(self, url: str, tag: str, *, version: str | None = None, remove: bool = False) -> Response:
        """See `Forebay.tag`."""
        return self._run(calls.tag(url, tag, version=version, remove=remove))

    def pin(
        self, url: str, *, version: str | None = None, value: bool = True, duration_sec: float | None = None
    ) -> Response:
        """See `Forebay.pin`."""
        return self._run(calls.pin(url, version=version, value=value, duration_sec=duration_sec))

    def delete(self, url: str, *, version: str | None = None) -> list[Response]:
        """See `Forebay.delete`."""
        return self._run(calls.delete(url, version=version))

    def undelete(self, url: str, *, version: str | None = None) -> list[Response]:
        """See `Forebay.undelete`."""
        return self._run(calls.undelete(url, version=version))

    def configure(
        self,
        url: str,
        *,
        refresh: str | AnyStrategy | None = None,
        max_cached_unpinned_versions: int | None = None,
        max_cached_pinned_versions: int | None = None,
    ) -> Request:
        """See `Forebay.configure`."""
        return self._run(
            calls.configure(
                url, refresh=refresh, unpinned=max_cached_unpinned_versions, pinned=max_cached_pinned_versions
            )
        )

    # --- the server's folder ---------------------------------------------------------------------------

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """See `Forebay.verify`; for a token with the scope ``admin``."""
        return self._run(calls.verify(progress=progress))

    def gc(self, *, dry_run: bool = False) -> GcReport:
        """See `Forebay.gc`; for a token with the scope ``admin``."""
        return self._run(calls.gc(dry_run=dry_run))

    def usage(self) -> StorageUsage:
        """See `Forebay.usage`; for a token with the scope ``admin``."""
        return self._run(calls.usage())


def flow_of(wish: Wish, cache: ContentCache, server: str, tell: Tell | None, *, content: bool) -> Flow[Fetched]:
    """The flow that fetches *wish*, with its content or without."""
    if content:
        return fetch_content(cache, server, wish, tell=tell)
    return fetching.fetch(wish, tell=tell)


def told_to(tell: Tell | None) -> OnProgress | None:
    """*tell* as an embedded fetch takes it."""
    return None if tell is None else lambda _, progress: tell(progress)
