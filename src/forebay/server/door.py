"""``/r/<url>``: the content of any URL, registered and fetched when needed, served from its first byte.

The URL is taken from the path as it came (`forebay.core.targets`). What is stored and fresh goes out at once; what
is fetched is followed while it lands; when the origin fails, the last good version goes out, marked as stale.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from pydantic import ValidationError

from forebay.catalog.catalog import Registered
from forebay.catalog.reader import Deliverable
from forebay.core.delivery import Pairs
from forebay.core.fields import Forward, format_age, format_cache_status
from forebay.core.targets import Target
from forebay.core.urls import show_url
from forebay.errors import ContentRotten, MethodRefused, UnknownVersion
from forebay.messages.asgi import Receive, Scope, Send
from forebay.messages.outflow import Reader
from forebay.models import UNDER_WAY, RequestSpec, invalid_from
from forebay.reports import Fetched
from forebay.server.access import Granted
from forebay.server.basin import Basin, Changes
from forebay.server.deliver import Delivery, content_path, root_of, version_links
from forebay.server.hot import UntilCommit
from forebay.server.parameters import Parameters, parameters_of, read_target
from forebay.wishes import Wish

PREFIX = b"/r/"
_TAKEN = ("version", "tag", "verified")
# Longer ones are looked up each time: one URL can be written in ever more, ever longer ways.
_KEPT_BYTES = 2048


class Door:
    """Answers ``/r/…`` of one folder, in one event loop."""

    def __init__(self, basin: Basin, delivery: Delivery) -> None:
        self._basin, self._delivery = basin, delivery
        self._fresh: UntilCommit[_Key, _Fresh] = delivery.until_commit()

    async def handle(self, scope: Scope, receive: Receive, send: Send, *, granted: Granted) -> None:
        """Answer one ASGI request."""
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodRefused(allowed=("GET", "HEAD"))
        key = (scope["raw_path"], scope["query_string"], granted.group)
        with Reader(receive) as reader:
            visit = _Visit(self._basin, self._delivery, scope, send, reader, granted)
            fresh = self._fresh.get(key)
            if fresh is not None and await visit.serve_fresh(fresh):
                return
            moment = self._fresh.moment
            target = read_target(scope["raw_path"].removeprefix(PREFIX), scope["query_string"])
            own = parameters_of(target.own, taken=_TAKEN)
            fresh = await visit.pay(_wish(target, own, granted), verified=own.verified)
        if fresh is not None and len(key[0]) + len(key[1]) <= _KEPT_BYTES:
            self._fresh.keep(key, fresh, moment=moment)


_Key = tuple[bytes, bytes, str | None]


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A version that may be served without asking anybody *until* then. *made_at*: when its origin last spoke of
    it."""

    found: Deliverable
    until: float
    made_at: float


class _Evicted(UnknownVersion):
    """A version that was there a moment ago."""


class _Visit:
    """One message at the door."""

    def __init__(
        self, basin: Basin, delivery: Delivery, scope: Scope, send: Send, reader: Reader, granted: Granted
    ) -> None:
        self._basin, self._delivery = basin, delivery
        self._scope, self._send, self._reader, self._granted = scope, send, reader, granted
        self._root = root_of(scope)

    async def serve_fresh(self, fresh: _Fresh) -> bool:
        """Answer with what another one has found; False: it is not to be had any more."""
        now = self._basin.now()
        if now >= fresh.until:
            return False
        extra = (*_hit(fresh.until - now, now - fresh.made_at), *self._common(fresh.found))
        try:
            await self._delivery.stored(self._scope, self._send, self._reader, fresh.found, extra=extra)
        except ContentRotten:
            return False
        return True

    async def pay(self, wish: Wish, *, verified: bool) -> _Fresh | None:
        """Answer; what the next one who asks the same may have at once."""
        try:
            return await self._pay(wish, verified=verified)
        except (ContentRotten, _Evicted):
            # Found damaged when it was read, which everybody knows by now; or a newer one has just taken its place.
            return await self._pay(wish, verified=verified)

    async def _pay(self, wish: Wish, *, verified: bool) -> _Fresh | None:
        if wish.version is not None:
            await self._serve_named(wish, wish.version, verified=verified)
            return None
        if wish.tag is not None:
            return await self._serve(wish, await self._basin.fetch(wish), before=None)
        if wish.stays:
            return await self._serve(wish, await self._basin.fetch(wish), before=None)
        before = await self._basin.run(self._basin.register, wish)
        fetched = await self._fetched_or_followed(wish, before, verified=verified)
        return None if fetched is None else await self._serve(wish, fetched, before=before)

    async def _serve_named(self, wish: Wish, version: str, *, verified: bool) -> None:
        """Answer with a version by its name, as its own place does."""
        (registered,) = await self._basin.run(self._basin.bay.register, [wish])
        if registered is None:
            raise UnknownVersion(show_url(wish.spec.url), wanted=f"version {version}")
        await self._delivery.named(
            self._scope,
            self._send,
            self._reader,
            granted=self._granted,
            request_id=registered.request.id,
            version=version,
            verified=verified,
            fields=self._of_named,
        )

    def _of_named(self, found: Deliverable) -> Pairs:
        if found.status in UNDER_WAY:
            how: Pairs = (("Cache-Status", format_cache_status(Forward("uri-miss", stored=True, collapsed=True))),)
        else:
            how = _hit(math.inf, self._basin.now() - (found.cached_at or 0) / 1e6)
        return *how, ("Content-Location", content_path(found.request_id, found.version, self._root))

    def _common(self, found: Deliverable) -> Pairs:
        """Fields of each answer at the door: what it shows changes, so clients ask again, by its ETag."""
        where = content_path(found.request_id, found.version, self._root)
        return ("Cache-Control", "no-cache"), ("Content-Location", where), *version_links(found, self._root)

    async def _fetched_or_followed(self, wish: Wish, before: Registered, *, verified: bool) -> Fetched | None:
        """What came of *wish*; None when it went out while it landed."""
        request_id = before.request.id
        forward = _forwarded(before, joined=self._is_under_way(request_id))
        with self._basin.watching(request_id) as changes:
            # Only then: what lands for somebody else may be beside a version that is fresh.
            asked = asyncio.Event()

            def have_asked() -> None:
                asked.set()
                changes.wake()

            fetching = asyncio.create_task(self._basin.fetch(wish, on_asked=have_asked))
            fetching.add_done_callback(lambda _: changes.wake())
            try:
                while not fetching.done():
                    if not verified and asked.is_set() and await self._follow(request_id, forward, changes):
                        return None
                    self._reader.check()
                    await changes.wait()
                return fetching.result()
            finally:
                # Whoever goes leaves the fetch to the worker.
                fetching.cancel()
                await asyncio.wait([fetching])
                if not fetching.cancelled():
                    fetching.exception()  # of no interest to who has gone

    def _is_under_way(self, request_id: str) -> bool:
        newest = self._delivery.newest(request_id)
        return newest is not None and newest.status in UNDER_WAY

    async def _follow(self, request_id: str, forward: Forward, changes: Changes) -> bool:
        found = self._delivery.newest(request_id)
        if found is None or found.status not in UNDER_WAY:
            return False
        extra = (("Cache-Status", format_cache_status(forward)), *self._common(found))
        return await self._delivery.landing(self._scope, self._send, self._reader, changes, found, extra=extra)

    async def _serve(self, wish: Wish, fetched: Fetched, *, before: Registered | None) -> _Fresh | None:
        """Send what is stored by now."""
        if fetched.response is None:
            assert fetched.error is not None
            raise fetched.error
        found = self._delivery.find(fetched.response.request_id, fetched.response.version)
        if found is None:
            raise _Evicted(fetched.url, wanted=f"version {fetched.response.version} any more")
        until, made_at = math.inf, (found.cached_at or 0) / 1e6
        if before is not None:
            until, confirmed_at = await self._basin.run(self._freshness, wish, before)
            made_at = max(made_at, confirmed_at)
        now = self._basin.now()
        extra = (*_how(fetched, before, until - now, now - made_at), *self._common(found))
        await self._delivery.stored(self._scope, self._send, self._reader, found, extra=extra)
        return _Fresh(found, until, made_at) if fetched.how == "stored" and before is not None else None

    def _freshness(self, wish: Wish, before: Registered) -> tuple[float, float]:
        """Until when what is stored is fresh, and when its origin last confirmed it; Unix seconds. Blocks."""
        registered = self._basin.bay.catalog.find(wish.spec.signature(), now=self._basin.now()) or before
        due = registered.request.cache_configuration.recaching_strategy.next_due(registered.facts)
        return math.inf if due is None else due, registered.facts.confirmed_at or 0.0


def _how(fetched: Fetched, before: Registered | None, ttl_s: float, age_s: float) -> Pairs:
    """Where the answer is from, and how old it is."""
    match fetched.how:
        case "stale":
            code = None if fetched.error is None else fetched.error.code
            return _hit(min(ttl_s, -1.0), age_s, detail=code)
        case "fetched" if before is not None:
            return _cache(_forwarded(before), ttl_s, age_s)
        case "unchanged":
            return _cache(Forward("stale", status=304), ttl_s, age_s)
        case _:
            return _hit(ttl_s, age_s)


def _hit(ttl_s: float, age_s: float, *, detail: str | None = None) -> Pairs:
    return _cache(None, ttl_s, age_s, detail=detail)


def _cache(forward: Forward | None, ttl_s: float, age_s: float, *, detail: str | None = None) -> Pairs:
    status = format_cache_status(forward, ttl_s=ttl_s, detail=detail)
    return ("Cache-Status", status), ("Age", format_age(age_s))


def _forwarded(before: Registered, *, joined: bool = False) -> Forward:
    """Why the origin was asked for a new version; *joined*: by somebody else, before."""
    return Forward("uri-miss" if before.latest is None else "stale", stored=True, collapsed=joined)


def _wish(target: Target, own: Parameters, granted: Granted) -> Wish:
    try:
        spec = RequestSpec(url=target.url, group_name=granted.group or "default")
    except ValidationError as error:
        raise invalid_from(error, "url") from error
    return Wish(spec, asked=spec, tag=own.tag, version=own.version)
