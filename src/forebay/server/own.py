"""What our own client needs beyond ``/v1/request``: the calls of the embedded API that are no REST of a public
client, one route each, and the storage as a whole."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from forebay.api_models import (
    FetchAnswer,
    FetchUnderWay,
    FindIn,
    GcIn,
    PublishIn,
    UndeleteIn,
    VerifiedPart,
    VerifyIn,
    WishIn,
)
from forebay.catalog.tokens import Scope as TokenScope
from forebay.core.urls import request_url
from forebay.errors import UploadMismatch
from forebay.models import Request, RequestSpec, Response
from forebay.reports import GcReport, StorageUsage
from forebay.server.access import Granted
from forebay.server.basin import Basin
from forebay.server.requests import RequestId, RequestRoutes, Who, needs, shown
from forebay.server.waits import fetch_within
from forebay.wishes import Wish, is_request_id, the_one, wishes

UploadUid = Annotated[str, Path(max_length=64, description="An upload's id, whichever protocol it came by.")]


class OwnRoutes(RequestRoutes):
    """The handlers, on one basin."""

    async def fetch_any(self, body: WishIn, who: Who) -> Any:
        """The version to use now of what may not be registered yet; 202 when that takes longer than `wait_sec`.
        Then ask again with the `asked_at` of that answer."""
        spec = body.request.spec(group=who.group)
        who.require_group(spec.group_name)
        wish = wishes(None, body.expected_hash, body.refresh, body.tag, body.version, body.offline)(spec)
        who.require(_scope_of(wish, who))
        return await fetch_within(self.basin, wish, body, until_begun=body.until == "begun")

    async def find(self, body: FindIn, who: Who) -> Request:
        """The one Request of a URL, or with an id. The URL is in the body, for it may hold a secret."""
        if is_request_id(body.name):
            return shown((await self._registered(body.name, who)).request)
        url = request_url(body.name)
        found = await self.basin.run(self.bay.catalog.requests_of_url, url)
        return shown(the_one([request for request in found if who.sees(request.group_name)], url))

    async def removed(self, request_id: RequestId, who: Who) -> list[Response]:
        """The versions of a Request that were removed and can be had back, the newest first."""
        await self._registered(request_id, who)
        return await self.basin.run(self.bay.catalog.versions, request_id, deleted=True, now=self.basin.now())

    async def undelete(self, request_id: RequestId, body: UndeleteIn, who: Who) -> list[Response]:
        """Have back what was removed within the last day."""
        await self._registered(request_id, who)
        restored = await self.basin.run(self.bay.undelete, request_id, version=body.version)
        self.basin.poke_worker()
        return restored

    # --- uploads ---------------------------------------------------------------------------------------

    async def publish(self, upload_uid: UploadUid, body: PublishIn, who: Who) -> Response:
        """Make a whole upload, of whatever protocol, the newest version of a name: at `/r/forebay:<name>`, and in
        the token's group. It does not expire any more. Doing it again gives the same version."""
        return await self.basin.run_long(self._published, upload_uid, body, who)

    def _published(self, uid: str, body: PublishIn, who: Granted) -> Response:
        upload = self.bay.uploads.get_upload(uid, owner=who.owner)
        if body.sha256 not in (None, upload.sha256):
            raise UploadMismatch(uid, what="sha256", expected=str(body.sha256), got=upload.sha256)
        return self.bay.publish(upload, body.name, body.tag, group=who.group)

    # --- the storage as a whole ------------------------------------------------------------------------

    async def usage(self) -> StorageUsage:
        """What the folder holds, in counts and bytes."""
        return await self.basin.run(self.bay.usage)

    async def gc(self, body: GcIn) -> GcReport:
        """Drop what retention, the quota, a day's undo and the sweep say; with `dry_run`, only tell."""
        return await self.basin.run_long(self.bay.gc, dry_run=body.dry_run)

    async def verify(self, body: VerifyIn) -> VerifiedPart:
        """Read stored bytes and compare them with their hash, a part of them at a time: go on with the `next` of
        the answer. What is damaged is never served again, and fetched anew when it is asked for."""
        report, following, total = await self.basin.run_long(
            self.bay.verify_next, after=body.after, for_s=body.for_sec
        )
        return VerifiedPart(report=report, next=following, total_bytes=total)


def _scope_of(wish: Wish, who: Granted) -> TokenScope:
    """The scope that *wish* needs: who may only read has fetched what the door would fetch, and as it would."""
    if wish.offline or wish.tag is not None or wish.version is not None:
        return "read"  # nothing is registered, and nothing fetched
    plain = RequestSpec(url=wish.spec.url, group_name=who.group or "default")
    return "read" if wish.refresh is None and wish.spec == plain else "write"


def make_own_router(
    basin: Basin, problems: dict[int | str, dict[str, Any]], fetch_problems: dict[int | str, dict[str, Any]]
) -> APIRouter:
    """The routes on *basin*; *problems* are the error answers that all of them may give, *fetch_problems* those
    of a fetch."""
    routes = OwnRoutes(basin)
    router = APIRouter(prefix="/v1", responses=problems)
    waits: dict[int | str, dict[str, Any]] = {202: {"model": FetchUnderWay, "description": "It is not over yet."}}
    requests: Any = {"tags": ["Requests"]}
    storage: Any = {"tags": ["Storage"]}
    add, reads, writes, governs = router.add_api_route, needs("read"), needs("write"), needs("admin")
    add(
        "/fetch",
        routes.fetch_any,
        methods=["POST"],
        response_model=FetchAnswer,
        responses=waits | fetch_problems,
        **requests,
        **reads,  # for what the door would fetch; the handler asks for more
    )
    add("/find", routes.find, methods=["POST"], **requests, **reads)
    add("/request/{request_id}/removed", routes.removed, methods=["GET"], **requests, **reads)
    add("/request/{request_id}/undelete", routes.undelete, methods=["POST"], **requests, **writes)
    gone: dict[int | str, dict[str, Any]] = {410: {**problems[404], "description": "The upload has expired."}}
    publishing: Any = {"tags": ["Uploads"], "responses": gone}
    add("/upload/id/{upload_uid}/publish", routes.publish, methods=["POST"], **publishing, **writes)
    add("/storage/usage", routes.usage, methods=["GET"], **storage, **governs)
    add("/storage/gc", routes.gc, methods=["POST"], **storage, **governs)
    add("/storage/verify", routes.verify, methods=["POST"], **storage, **governs)
    return router
