"""What waits for a fetch in an API process, and how it ends."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from forebay.api_models import RequestIn, WishIn
from forebay.errors import StorageFailed
from forebay.server.access import EVERYTHING
from forebay.server.basin import Basin
from forebay.server.own import OwnRoutes
from forebay.settings import ServerSettings
from forebay.wishes import Wish

URL = "http://origin.example/f"


def test_what_cannot_be_looked_at_is_not_under_way(tmp_path: Path) -> None:
    """Who waits until a fetch has begun gets the error, and no task is left whose error nobody took."""
    untaken: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: untaken.append(context))
        basin = Basin(ServerSettings(data=tmp_path))
        asked = RequestIn(url=URL)
        request_id = basin.register(Wish(asked.spec(), asked=URL)).request.id
        for fence in range(2):
            (tmp_path / "partial" / f"{request_id}.{fence}.mark").mkdir(parents=True)
        with pytest.raises(StorageFailed):
            await OwnRoutes(basin).fetch_any(WishIn(request=asked, wait_sec=20, until="begun"), EVERYTHING)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await basin.close()

    asyncio.run(run())
    gc.collect()
    assert untaken == []
