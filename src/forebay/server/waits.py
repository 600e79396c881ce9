"""Fetches that a client of the JSON API waits for: as long as it says, then it is told how far they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Response as Outgoing

from forebay.api_models import Failure, FetchAnswer, FetchAsk, FetchProgress, FetchUnderWay
from forebay.core.urls import show_url
from forebay.errors import UnknownRequest
from forebay.reports import Fetched
from forebay.retold import failure_of
from forebay.server.basin import Basin
from forebay.wishes import Wish

T = TypeVar("T")


async def fetch_within(basin: Basin, wish: Wish, ask: FetchAsk, *, until_begun: bool = False) -> Any:
    """What comes of *wish*; 202 and how far it is when that takes longer than *ask* says, or, *until_begun*, when
    what lands of it can be followed. Raises the error of a fetch that gives no version."""
    began_at = basin.now() if ask.asked_at is None else ask.asked_at
    asked = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:

        def task(work: Coroutine[None, None, T]) -> asyncio.Task[T]:
            made = asyncio.create_task(work)
            stack.push_async_callback(_end, made)
            return made

        fetching = task(basin.fetch(wish, began_at=ask.asked_at, on_asked=asked.set))
        # Time counts from then on: an ask that was not made cannot be waited for. But reading what is stored may
        # take any time, and goes on without whoever asked.
        patience = ask.wait_sec if wish.reads_content else None
        first = {fetching, task(asked.wait())}
        await asyncio.wait(first, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if fetching.done():
            return _answer_of(fetching.result())
        registered = await basin.run(basin.bay.catalog.find, wish.spec.signature(), now=basin.now())
        if registered is None:  # it was asked for; somebody has dropped it since
            raise UnknownRequest(show_url(wish.spec.url))
        request_id = registered.request.id
        enough: set[asyncio.Task[Any]] = {fetching}
        if until_begun:
            enough.add(task(_begun(basin, request_id)))
        done, _ = await asyncio.wait(enough, timeout=ask.wait_sec, return_when=asyncio.FIRST_COMPLETED)
        if fetching.done():
            return _answer_of(fetching.result())
        for task_done in done:
            task_done.result()  # or its error: what cannot be looked at is not "under way"
        under_way = await basin.run(_under_way, basin, request_id, began_at)
        return Outgoing(under_way.model_dump_json(), 202, media_type="application/json")


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancel *task*, and wait until it has ended; how it did is of no interest any more."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


async def _begun(basin: Basin, request_id: str) -> None:
    """Return when what lands of a Request can be followed, and its version says so."""
    with basin.watching(request_id) as changes:
        while True:
            following = await basin.run(basin.bay.follow, request_id)
            if following is not None:
                following.close()
                newest = await basin.run(basin.bay.catalog.newest, request_id, now=basin.now())
                if newest is not None and newest.status == "in_progress":
                    return
            await changes.wait()


def _under_way(basin: Basin, request_id: str, began_at: float) -> FetchUnderWay:
    bay = basin.bay
    newest, progress = bay.catalog.newest(request_id, now=basin.now()), bay.progress(request_id)
    return FetchUnderWay(
        progress=FetchProgress(
            state=progress.state,
            downloaded_bytes=progress.downloaded_bytes,
            total_bytes=progress.total_bytes,
            attempt=progress.attempt,
            reason=progress.reason,
        ),
        response=None if newest is None else bay.with_progress(newest),
        asked_at=began_at,
    )


def _answer_of(fetched: Fetched) -> FetchAnswer:
    """What tells of *fetched*; raises its error when there is no version."""
    error = fetched.error
    if fetched.response is None or fetched.how == "failed":
        raise error or failure_of(None, None)
    failure = None if error is None else Failure(code=error.code, detail=error.outward)
    return FetchAnswer(how=fetched.how, response=fetched.response, error=failure)
