"""``/v1/request``: Requests and their versions as JSON. What a version holds is `forebay.server.deliver`'s."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from fastapi import Request as Incoming
from fastapi import Response as Outgoing

from forebay.api_models import (
    CacheConfigurationIn,
    FetchAnswer,
    FetchAsk,
    FetchUnderWay,
    RegisteredRequest,
    Registration,
    Removed,
    RequestIn,
    ResponsePinClaim,
    ResponseTagClaim,
)
from forebay.catalog.catalog import UNDO_SECONDS, Registered
from forebay.catalog.tokens import Scope as TokenScope
from forebay.core.urls import normalise_url, show_url
from forebay.errors import StateError, UnknownRequest, UnknownVersion
from forebay.models import (
    TAG_PATTERN,
    UNDER_WAY,
    Request,
    RequestCacheConfiguration,
    RequestSpec,
    Response,
    Status,
    without_secrets,
)
from forebay.server.access import Granted
from forebay.server.basin import Basin
from forebay.server.deliver import root_of
from forebay.server.waits import fetch_within
from forebay.wishes import Wish, wishes

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A client that polls every so often loses nothing when its answer is held back for less, and may gain a round.
_STATUS_HOLD_S = 0.25
_MOST = 1000


def granted_in(incoming: Incoming) -> Granted:
    """What whoever asks may do, as the application has found."""
    granted: Granted = incoming.scope["forebay.granted"]
    return granted


SCOPE = "x-scope"
"""What a route's operation says in the OpenAPI document: the scope that its token must have."""


def needs(scope: TokenScope) -> dict[str, Any]:
    """What makes a route need *scope*."""
    return {"openapi_extra": {SCOPE: scope}}


Answers = dict[int | str, dict[str, Any]]
Who = Annotated[Granted, Depends(granted_in)]
RequestId = Annotated[str, Path(max_length=64, description="A Request's id.")]
Version = Annotated[str, Path(max_length=64, description="A version, such as 20261121T082745123456Z.")]
Tag = Annotated[str, Path(pattern=f"^{TAG_PATTERN.pattern}$", description="2 to 64 of [A-Za-z0-9-_].")]
TagWanted = Annotated[
    str | None, Query(pattern=f"^{TAG_PATTERN.pattern}$", description="Only versions with this tag.")
]
StatusWanted = Annotated[Status | None, Query(description="Only versions of this status.")]
Skip = Annotated[int, Query(ge=0, le=1 << 31, description="How many to leave out.")]
Timestamp = Annotated[
    float, Path(ge=0, le=1e11, allow_inf_nan=False, description="The `request_timestamp` of an ask, exactly.")
]


def limit_of(default: int) -> Any:
    """A limit on how many are listed."""
    return Query(ge=1, le=_MOST, description=f"How many at most; {default} when it is not said.")


def shown(request: Request) -> Request:
    """*request* as a client may see it. Public clients take a body for an object: it is left out."""
    return without_secrets(request).model_copy(update={"url": show_url(request.url), "http_request_body": None})


class RequestRoutes:
    """The handlers, on one basin."""

    def __init__(self, basin: Basin) -> None:
        self.basin, self.bay = basin, basin.bay

    # --- Requests --------------------------------------------------------------------------------------

    async def order(self, body: RequestIn, who: Who, incoming: Incoming, outgoing: Outgoing) -> RegisteredRequest:
        """Find or create a Request. It is fetched in the background when that is due; what it has is at
        `response`. One that is there already keeps its cache configuration."""
        spec = body.spec(group=who.group)
        who.require_group(spec.group_name)
        registered, asked_at = await self.basin.run(self.basin.order, Wish(spec, asked=spec))
        outgoing.status_code = 201 if registered.created else 202
        outgoing.headers["location"] = f"{root_of(incoming.scope)}/v1/request/{registered.request.id}"
        return RegisteredRequest(**dict(shown(registered.request)), request_timestamp=round(asked_at * 1e6) / 1e6)

    async def list_requests(
        self,
        who: Who,
        group_name: Annotated[str | None, Query(max_length=200, description="Only those of this group.")] = None,
        url: Annotated[str | None, Query(max_length=8192, description="Only those of this URL.")] = None,
        skip: Skip = 0,
        limit: Annotated[int | None, limit_of(100)] = 100,
    ) -> list[Request]:
        """The Requests, the oldest first."""
        if group_name is not None and not who.sees(group_name):
            return []
        found = await self.basin.run(
            self.bay.catalog.list_requests,
            group=group_name or who.group,
            url=None if url is None else normalise_url(url),
            skip=skip,
            limit=limit or 100,
        )
        return [shown(request) for request in found]

    async def get_request(self, request_id: RequestId, who: Who) -> Request:
        """One Request. Secrets in its fields and parameters are masked."""
        return shown((await self._registered(request_id, who)).request)

    async def delete_request(self, request_id: RequestId, who: Who) -> Removed:
        """Remove all versions of a Request, and fetch it no more by itself; a fetch of it that runs is given up.
        `forebay rm --undo` has the versions back for a day; whoever asks for it again has it fetched again."""
        await self._registered(request_id, who)
        return self._removed(await self.basin.run(self.bay.delete, request_id))

    async def get_status(
        self, request_id: RequestId, request_timestamp: Timestamp, who: Who, outgoing: Outgoing
    ) -> Registration:
        """Whether an ask has reached who fetches: then there is a version, of whatever status. Else 202."""
        asked_at = _EPOCH + timedelta(microseconds=round(request_timestamp * 1e6))
        await self._registered(request_id, who)
        with self.basin.watching(request_id) as changes:
            patience = asyncio.get_running_loop().time() + _STATUS_HOLD_S
            while True:
                reached, over = await self.basin.run(self._status, request_id, asked_at)
                left = patience - asyncio.get_running_loop().time()
                if over or left <= 0:
                    break
                await changes.wait(left)
        outgoing.status_code = 200 if reached else 202
        return Registration(status="registered" if reached else "not_registered")

    def _status(self, request_id: str, asked_at: datetime) -> tuple[bool, bool]:
        """Whether an ask has reached who fetches, and whether there is nothing more to wait for."""
        now = self.basin.now()
        standing = self.bay.frontier.standing(request_id)
        if standing.asked:
            return False, False
        latest_ask = self.bay.catalog.request(request_id, now=now).request.latest_request_datetime_utc
        newest = self.bay.catalog.newest(request_id, now=now)
        if newest is None and standing.busy is None:
            raise UnknownVersion(request_id, wanted="any version any more: they were removed,")
        reached = asked_at <= latest_ask and newest is not None
        return reached, standing.busy is None

    async def get_configuration(self, request_id: RequestId, who: Who) -> RequestCacheConfiguration:
        """When a Request is fetched again, and how many of its versions are kept."""
        return (await self._registered(request_id, who)).request.cache_configuration

    async def put_configuration(
        self, request_id: RequestId, body: CacheConfigurationIn, who: Who
    ) -> RequestCacheConfiguration:
        """Change when a Request is fetched again and how many of its versions are kept, from now on."""
        await self._registered(request_id, who)
        wanted = body.configuration()
        request = await self.basin.run(
            self.bay.configure,
            request_id,
            refresh=wanted.recaching_strategy,
            max_cached_unpinned_versions=wanted.max_cached_unpinned_versions,
            max_cached_pinned_versions=wanted.max_cached_pinned_versions,
        )
        self.basin.poke_worker()
        return request.cache_configuration

    async def refresh(self, request_id: RequestId, who: Who) -> Request:
        """Fetch a Request now, whatever its strategy says; also after a fetch that runs already."""
        registered = await self._registered(request_id, who)
        await self.basin.run(self.basin.ask, request_id, again=True)
        return shown(registered.request)

    async def fetch(self, request_id: RequestId, body: FetchAsk, who: Who) -> Any:
        """The version to use now, fetched if need be; 202 when that takes longer than `wait_sec`. Then ask again
        with the `asked_at` of that answer."""
        registered = await self._registered(request_id, who)
        wish = wishes(None, body.expected_hash, body.refresh, None, None, body.offline)(spec_of(registered.request))
        return await fetch_within(self.basin, wish, body)

    # --- versions --------------------------------------------------------------------------------------

    async def list_versions(
        self,
        request_id: RequestId,
        who: Who,
        status: StatusWanted = None,
        tag: TagWanted = None,
        skip: Skip = 0,
        limit: Annotated[int | None, limit_of(10)] = 10,
    ) -> list[Response]:
        """The versions of a Request, the newest first."""
        await self._registered(request_id, who)
        return await self._versions(request_id, status=status, tag=tag, skip=skip, limit=limit or 10)

    async def list_tagged(
        self,
        request_id: RequestId,
        tag: Tag,
        who: Who,
        skip: Skip = 0,
        limit: Annotated[int | None, limit_of(10)] = 10,
    ) -> list[Response]:
        """The versions of a Request with a tag, the newest first."""
        await self._registered(request_id, who)
        return await self._versions(request_id, status=None, tag=tag, skip=skip, limit=limit or 10)

    async def _versions(
        self, request_id: str, *, status: Status | None, tag: str | None, skip: int, limit: int
    ) -> list[Response]:
        def read() -> list[Response]:
            now = self.basin.now()
            found = self.bay.catalog.versions(request_id, status=status, tag=tag, skip=skip, limit=limit, now=now)
            return [self.bay.with_progress(response) for response in found]

        return await self.basin.run(read)

    async def latest(
        self,
        request_id: RequestId,
        who: Who,
        tag: TagWanted = None,
        pinned: Annotated[bool | None, Query(description="Only pinned ones, or only others.")] = None,
        status: StatusWanted = None,
    ) -> Any:
        """The newest version, whatever its status unless one is asked for; 204 when there is none."""
        await self._registered(request_id, who)
        found = await self.basin.run(
            self.bay.catalog.newest, request_id, status=status, tag=tag, pinned=pinned, now=self.basin.now()
        )
        if found is None:
            return Outgoing(status_code=204)
        return await self.basin.run(self.bay.with_progress, found)

    async def get_version(self, request_id: RequestId, version: Version, who: Who) -> Response:
        """One version. One that was begun and then found to be what was stored already stays as a `duplicate` of
        that."""
        registered = await self._registered(request_id, who)
        found = await self.basin.run(self._version, registered, version)
        return await self.basin.run(self.bay.with_progress, found)

    def _version(self, registered: Registered, version: str, *, usable: bool = False) -> Response:
        request_id, now = registered.request.id, self.basin.now()
        found = self.bay.catalog.find_version(request_id, version=version, any_status=not usable, now=now)
        if found is None and not usable:
            found = self.bay.catalog.confirmed_as(request_id, version, now=now)
        if found is None:
            raise UnknownVersion(show_url(registered.request.url), wanted=f"version {version}")
        return found

    async def pin(self, request_id: RequestId, version: Version, body: ResponsePinClaim, who: Who) -> Response:
        """Hold a version against eviction, for ever or for a time; or let it go."""
        registered = await self._registered(request_id, who)
        await self.basin.run(self._version, registered, version)
        duration_sec = body.duration_sec if body.value else None
        return await self.basin.run(
            self.bay.pin, request_id, version=version, value=body.value, duration_sec=duration_sec
        )

    async def tag(self, request_id: RequestId, version: Version, body: ResponseTagClaim, who: Who) -> Response:
        """Name a version, or take the name away."""
        registered = await self._registered(request_id, who)
        await self.basin.run(self._version, registered, version)
        return await self.basin.run(self.bay.tag, request_id, body.value, version=version, remove=body.delete)

    async def delete_version(self, request_id: RequestId, version: Version, who: Who) -> Removed:
        """Remove a version. `forebay rm --undo` has it back for a day."""
        registered = await self._registered(request_id, who)
        found = await self.basin.run(self._version, registered, version)
        if found.status in UNDER_WAY:
            raise StateError(f"version {version} is being fetched: it can be removed when that is over")
        return self._removed(await self.basin.run(self.bay.delete, request_id, version=version))

    # --- shared ----------------------------------------------------------------------------------------

    async def _registered(self, request_id: str, who: Granted) -> Registered:
        """The Request, if whoever asks may know of it."""
        registered = await self.basin.run(self.bay.catalog.request, request_id, now=self.basin.now())
        if not who.sees(registered.request.group_name):
            raise UnknownRequest(f"request {request_id}")
        return registered

    def _removed(self, removed: list[Response]) -> Removed:
        until = _EPOCH + timedelta(seconds=self.basin.now() + UNDO_SECONDS)
        return Removed(removed=removed, until_datetime_utc=until)


def spec_of(request: Request) -> RequestSpec:
    """What was registered as *request*."""
    values = dict(request)
    return RequestSpec.model_construct(**{name: values[name] for name in RequestSpec.model_fields})


def make_router(basin: Basin, problems: Answers, fetch_problems: Answers) -> APIRouter:
    """The routes on *basin*; *problems* are the error answers that all of them may give, *fetch_problems* those
    of a fetch."""
    routes = RequestRoutes(basin)
    router = APIRouter(prefix="/v1/request", responses=problems)
    one, response = "/{request_id}", "/{request_id}/response"
    version = f"{response}/v/{{version}}"
    no_latest: Answers = {204: {"description": "There is none."}}
    asked: Answers = {
        201: {"model": RegisteredRequest, "description": "It was created."},
        202: {"model": RegisteredRequest, "description": "It was found."},
    }
    waits = {202: {"model": FetchUnderWay, "description": "It is not over yet."}, **fetch_problems}
    told: Answers = {202: {"model": Registration, "description": "Not yet."}}
    requests: Any = {"tags": ["Requests"]}
    responses: Any = {"tags": ["Responses"]}
    add, reads, writes = router.add_api_route, needs("read"), needs("write")
    add("/", routes.order, methods=["PUT"], status_code=202, responses=asked, **requests, **writes)
    add("/", routes.list_requests, methods=["GET"], **requests, **reads)
    add(one, routes.get_request, methods=["GET"], **requests, **reads)
    add(one, routes.delete_request, methods=["DELETE"], **requests, **writes)
    add(
        f"{one}/status/{{request_timestamp}}",
        routes.get_status,
        methods=["GET"],
        responses=told,
        **requests,
        **reads,
    )
    add(f"{one}/cache-config", routes.get_configuration, methods=["GET"], **requests, **reads)
    add(f"{one}/cache-config", routes.put_configuration, methods=["PUT"], **requests, **writes)
    add(f"{one}/refresh", routes.refresh, methods=["POST"], status_code=202, **requests, **writes)
    add(
        f"{one}/fetch",
        routes.fetch,
        methods=["POST"],
        response_model=FetchAnswer,
        responses=waits,
        **requests,
        **writes,
    )
    add(response, routes.list_versions, methods=["GET"], **responses, **reads)
    add(
        f"{response}/latest",
        routes.latest,
        methods=["GET"],
        response_model=Response,
        responses=no_latest,
        **responses,
        **reads,
    )
    add(f"{response}/t/{{tag}}", routes.list_tagged, methods=["GET"], **responses, **reads)
    add(version, routes.get_version, methods=["GET"], **responses, **reads)
    add(version, routes.delete_version, methods=["DELETE"], **responses, **writes)
    add(f"{version}/pin", routes.pin, methods=["PUT"], **responses, **writes)
    add(f"{version}/tag", routes.tag, methods=["PUT"], **responses, **writes)
    return router
