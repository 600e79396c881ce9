"""The bytes of a content that is being fetched, for one reader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from forebay.content.following import Following
from forebay.messages.outflow import Reader


class LandingSource:
    """A content that is being fetched. *wait* returns when it is worth looking again."""

    def __init__(
        self, following: Following, wait: Callable[[], Awaitable[None]], reader: Reader, pool: Executor
    ) -> None:
        self._following, self._wait, self._reader, self._pool = following, wait, reader, pool

    async def read(self, offset: int, size: int) -> bytes:
        """See `Source.read`. What has just landed is in memory; what a slow reader gets to later may not be."""
        while True:
            data = self._following.read_cached(offset, size)
            if data is None:
                loop = asyncio.get_running_loop()
                data = await loop.run_in_executor(self._pool, self._following.read, offset, size)
            if data or self._following.at_end(offset):
                return data
            self._reader.check()
            await self._wait()
