"""The calls of the API as flows, one for each method that is not about content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from forebay.api_models import Removed, VerifiedPart
from forebay.client.exchange import ANSWER_S, Call, Flow, ask, model_in, models_in, plain_in
from forebay.core.urls import show_url
from forebay.errors import InvalidValue, StateError, UnknownVersion
from forebay.models import AnyStrategy, Request, RequestCacheConfiguration, Response, check_tag, invalid_from
from forebay.reports import GcReport, StorageUsage, VerifyReport
from forebay.wishes import strategy_of

# As many as the server gives at once.
_PAGE = 1000
# Reading a large content takes its time, and so does a sweep.
_LONG_S = 3600.0
_VERIFY_S = 1.0


def request(url: str) -> Flow[Request]:
    """The one Request of *url*, or with that id."""
    # In the body: a URL may hold a secret, and paths and queries are logged.
    call = Call("POST", "/v1/find", body={"name": url}, idempotent=True)
    return model_in(call, (yield from ask(call)), Request)


def requests() -> Flow[list[Request]]:
    """All Requests, the oldest first."""
    return (yield from _pages("/v1/request/", Request))


M = TypeVar("M", Request, Response)


def _pages(path: str, model: type[M]) -> Flow[list[M]]:
    found: list[M] = []
    while True:
        call = Call("GET", path, query=(("skip", str(len(found))), ("limit", str(_PAGE))))
        page = models_in(call, (yield from ask(call)), model)
        found += page
        if len(page) < _PAGE:
            return found


def _of(request_id: str, *more: str) -> str:
    return "/".join(["/v1/request", *(quote(part, safe="") for part in (request_id, *more))])


def latest(url: str, *, tag: str | None = None) -> Flow[Response | None]:
    """The newest ready version, or the newest of those with *tag*."""
    query = [("status", "ready")]
    if tag is not None:
        query.append(("tag", check_tag(tag)))
    found = yield from request(url)
    call = Call("GET", _of(found.id, "response", "latest"), query=tuple(query))
    answer = yield from ask(call)
    return None if answer.status == 204 else model_in(call, answer, Response)


def versions(url: str, *, deleted: bool) -> Flow[list[Response]]:
    """All versions, the newest first; or those that can be had back."""
    found = yield from request(url)
    if not deleted:
        return (yield from _pages(_of(found.id, "response"), Response))
    call = Call("GET", _of(found.id, "removed"))
    return models_in(call, (yield from ask(call)), Response)


def find(url: str, *, version: str | None, tag: str | None) -> Flow[Response]:
    """The version of that name, the newest with that tag, or the newest ready one."""
    if version is not None:
        found = yield from request(url)
        call = Call("GET", _of(found.id, "response", "v", version))
        return model_in(call, (yield from ask(call)), Response)
    newest = yield from latest(url, tag=tag)
    if newest is None:
        raise UnknownVersion(
            show_url(url), wanted="version that is ready" if tag is None else f"version tagged {tag}"
        )
    return newest


def _usable(url: str, *, version: str | None) -> Flow[Response]:
    response = yield from find(url, version=version, tag=None)
    if response.status == "duplicate" and response.previous_version is not None:
        # The version that it equals, and that stays.
        return (yield from find(url, version=response.previous_version, tag=None))
    if response.status not in ("ready", "duplicate"):
        raise StateError(f"version {response.version} has no content: it is {response.status}")
    return response


def tag(url: str, name: str, *, version: str | None, remove: bool) -> Flow[Response]:
    """Name a version, or take the name away."""
    check_tag(name)
    response = yield from _usable(url, version=version)
    body = {"value": name, "delete": remove}
    call = Call("PUT", _of(response.request_id, "response", "v", response.version, "tag"), body=body)
    return model_in(call, (yield from ask(call)), Response)


def pin(url: str, *, version: str | None, value: bool, duration_sec: float | None) -> Flow[Response]:
    """Hold a version against eviction, or let it go."""
    if duration_sec is not None and not duration_sec > 0:
        raise InvalidValue("duration_sec", expected="a positive number of seconds", got=duration_sec)
    response = yield from _usable(url, version=version)
    body: dict[str, Any] = {"value": value}
    if duration_sec is not None:
        body["duration_sec"] = duration_sec
    call = Call("PUT", _of(response.request_id, "response", "v", response.version, "pin"), body=body)
    return model_in(call, (yield from ask(call)), Response)


def delete(url: str, *, version: str | None) -> Flow[list[Response]]:
    """Remove a version, or all of *url*."""
    found = yield from request(url)
    path = _of(found.id) if version is None else _of(found.id, "response", "v", version)
    call = Call("DELETE", path)
    return model_in(call, (yield from ask(call)), Removed).removed


def undelete(url: str, *, version: str | None) -> Flow[list[Response]]:
    """Undo `delete`."""
    found = yield from request(url)
    call = Call("POST", _of(found.id, "undelete"), body={} if version is None else {"version": version})
    return models_in(call, (yield from ask(call)), Response)


def configure(
    url: str, *, refresh: str | AnyStrategy | None, unpinned: int | None, pinned: int | None
) -> Flow[Request]:
    """Change when *url* is fetched again and how many versions are kept."""
    strategy = None if refresh is None else strategy_of(refresh)
    found = yield from request(url)
    values: dict[str, Any] = dict(found.cache_configuration)
    changes = {
        "recaching_strategy": strategy,
        "max_cached_unpinned_versions": unpinned,
        "max_cached_pinned_versions": pinned,
    }
    values |= {name: value for name, value in changes.items() if value is not None}
    try:
        wanted = RequestCacheConfiguration(**values)
    except ValidationError as error:
        raise invalid_from(error, "cache_configuration") from error
    call = Call("PUT", _of(found.id, "cache-config"), body=wanted.model_dump(mode="json"))
    kept = model_in(call, (yield from ask(call)), RequestCacheConfiguration)
    return found.model_copy(update={"cache_configuration": kept})


# --- the storage as a whole -----------------------------------------------------------------------------

_GC, _USAGE = TypeAdapter(GcReport), TypeAdapter(StorageUsage)


def usage() -> Flow[StorageUsage]:
    """What the server's folder holds."""
    call = Call("GET", "/v1/storage/usage")
    return plain_in(call, (yield from ask(call)), _USAGE)


def gc(*, dry_run: bool) -> Flow[GcReport]:
    """Drop what nothing needs any more."""
    call = Call("POST", "/v1/storage/gc", body={"dry_run": dry_run}, patience_s=_LONG_S)
    return plain_in(call, (yield from ask(call)), _GC)


def verify(*, progress: Callable[[int, int], None] | None) -> Flow[VerifyReport]:
    """Check every stored byte, for a second at a time."""
    whole, after = VerifyReport(), None
    while True:
        body = {"for_sec": _VERIFY_S} | ({} if after is None else {"after": after})
        call = Call("POST", "/v1/storage/verify", body=body, patience_s=_LONG_S + ANSWER_S)
        part = model_in(call, (yield from ask(call)), VerifiedPart)
        whole = replace(
            whole,
            checked=whole.checked + part.report.checked,
            checked_bytes=whole.checked_bytes + part.report.checked_bytes,
            rotten=[*whole.rotten, *part.report.rotten],
        )
        if progress is not None:
            progress(whole.checked_bytes, part.total_bytes)
        after = part.next
        if after is None:
            return whole
