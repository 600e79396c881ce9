"""``/r/<url>``: the content of any URL, registered and fetched when needed, served from its first byte.

The URL is taken from the path as it came (`forebay.core.targets`). What is stored and fresh goes out at once; what
is fetched is followed while it lands; when the origin fails, the last good version goes out, marked as stale.
"""

from __future__ import annotations

import asyncio
import math

from pydantic import ValidationError

from forebay.catalog.catalog import Registered
from forebay.catalog.reader import Deliverable
from forebay.core.delivery import Pairs
from forebay.core.fields import Forward, format_age, format_cache_status
from forebay.core.targets import Target, target_of
from forebay.errors import InvalidUrl, InvalidValue, MethodRefused, UnknownVersion
from forebay.models import RequestSpec, Response, check_tag, invalid_from
from forebay.reports import Fetched
from forebay.server.access import Granted
from forebay.server.basin import Basin, Changes
from forebay.server.bodies import Receive, Scope
from forebay.server.deliver import Delivery, content_path, version_links
from forebay.server.pieces import Reader
from forebay.server.problems import Send
from forebay.wishes import Wish

PREFIX = b"/r/"
_PARAMETERS = ("version", "tag", "verified")


class Door:
    """Answers ``/r/…`` of one folder, in one event loop."""

    def __init__(self, basin: Basin, delivery: Delivery) -> None:
        self._basin, self._delivery = basin, delivery

    async def handle(self, scope: Scope, receive: Receive, send: Send, *, granted: Granted) -> None:
        """Answer one ASGI request."""
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodRefused(allowed=("GET", "HEAD"))
        target = _target(scope)
        wish = _wish(target, granted)
        verified = target.own.get("verified", "") not in ("", "0")
        with Reader(receive) as reader:
            await _Visit(self._basin, self._delivery, scope, receive, send, reader).pay(wish, verified=verified)


class _Visit:
    """One message at the door."""

    def __init__(
        self, basin: Basin, delivery: Delivery, scope: Scope, receive: Receive, send: Send, reader: Reader
    ) -> None:
        self._basin, self._delivery = basin, delivery
        self._scope, self._receive, self._send, self._reader = scope, receive, send, reader

    async def pay(self, wish: Wish, *, verified: bool) -> None:
        if wish.version is not None or wish.tag is not None:
            await self._serve(wish, await self._basin.fetch(wish), before=None)
            return
        before = await self._basin.run(self._basin.register, wish)
        fetched = await self._fetched_or_followed(wish, before, verified=verified)
        if fetched is not None:
            await self._serve(wish, fetched, before=before)

    async def _fetched_or_followed(self, wish: Wish, before: Registered, *, verified: bool) -> Fetched | None:
        """What came of *wish*; None when it went out while it landed."""
        request_id = before.request.id
        with self._basin.watching(request_id) as changes:
            fetching = asyncio.create_task(self._basin.fetch(wish))
            fetching.add_done_callback(lambda _: changes.wake())
            try:
                while not fetching.done():
                    if not verified and await self._follow(request_id, before, changes):
                        return None
                    await changes.wait()
                    self._reader.check()
                return fetching.result()
            finally:
                # Whoever goes leaves the fetch to the worker.
                fetching.cancel()
                await asyncio.wait([fetching])

    async def _follow(self, request_id: str, before: Registered, changes: Changes) -> bool:
        found = self._delivery.newest(request_id)
        if found is None or found.status not in ("wait", "in_progress"):
            return False
        extra = (("Cache-Status", format_cache_status(_forwarded(before))), *_common(found))
        return await self._delivery.landing(self._scope, self._send, self._reader, changes, found, extra=extra)

    async def _serve(self, wish: Wish, fetched: Fetched, *, before: Registered | None) -> None:
        """Send what is stored by now."""
        if fetched.response is None:
            assert fetched.error is not None
            raise fetched.error
        found = self._delivery.find(fetched.response.request_id, fetched.response.version)
        if found is None:
            raise UnknownVersion(fetched.url, wanted=f"version {fetched.response.version} any more")
        extra = (*(await self._basin.run(self._how, wish, fetched, before)), *_common(found))
        await self._delivery.stored(self._scope, self._receive, self._send, found, extra=extra)

    def _how(self, wish: Wish, fetched: Fetched, before: Registered | None) -> Pairs:
        """Age and Cache-Status: where the answer is from, and how old. Blocks."""
        assert fetched.response is not None
        if before is None:
            return (("Cache-Status", format_cache_status(None)), ("Age", _age(self._basin, fetched.response, None)))
        now = self._basin.now()
        registered = self._basin.bay.catalog.find(wish.spec.signature(), now=now) or before
        due = registered.request.cache_configuration.recaching_strategy.next_due(registered.facts)
        ttl = math.inf if due is None else due - now
        match fetched.how:
            case "stored":
                status = format_cache_status(None, ttl_s=ttl)
            case "stale":
                code = None if fetched.error is None else fetched.error.code
                status = format_cache_status(None, ttl_s=min(ttl, -1.0), detail=code)
            case "fetched":
                status = format_cache_status(_forwarded(before), ttl_s=ttl)
            case _:
                status = format_cache_status(Forward("stale", status=304), ttl_s=ttl)
        confirmed = registered.facts.confirmed_at
        return ("Cache-Status", status), ("Age", _age(self._basin, fetched.response, confirmed))


def _forwarded(before: Registered) -> Forward:
    """Why the origin was asked for a new version."""
    return Forward("uri-miss" if before.latest is None else "stale", stored=True)


def _age(basin: Basin, response: Response, confirmed_at: float | None) -> str:
    """Since the origin gave this answer, or last said that it still holds (RFC 9111 section 5.1)."""
    cached = response.cached_datetime_utc
    made = 0.0 if cached is None else cached.timestamp()
    return format_age(basin.now() - max(made, confirmed_at or 0.0))


def _common(found: Deliverable) -> Pairs:
    """Fields of each answer at the door: what it shows changes, so clients ask again, by its ETag."""
    where = content_path(found.request_id, found.version)
    return ("Cache-Control", "no-cache"), ("Content-Location", where), *version_links(found)


def _target(scope: Scope) -> Target:
    raw: bytes = scope["raw_path"]
    try:
        return target_of(raw.removeprefix(PREFIX), scope["query_string"])
    except UnicodeDecodeError as error:
        raise InvalidUrl("/r/", reason="it is no UTF-8 text") from error


def _wish(target: Target, granted: Granted) -> Wish:
    for name in target.own:
        if name not in _PARAMETERS:
            expected = ", ".join(f"forebay-{known}" for known in _PARAMETERS)
            raise InvalidValue(f"forebay-{name}", expected=f"one of {expected}", got=f"forebay-{name}")
    tag, version = target.own.get("tag"), target.own.get("version")
    if tag is not None and version is not None:
        raise InvalidValue("forebay-tag", expected="a tag or a version, not both", got=tag)
    if tag is not None:
        check_tag(tag)
    try:
        spec = RequestSpec(url=target.url, group_name=granted.group or "default")
    except ValidationError as error:
        raise invalid_from(error, "url") from error
    return Wish(spec, asked=spec, tag=tag, version=version)
