"""The body of what a client sends: taken as it comes, kept as far as somebody will want it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from forebay.errors import BodyTooLarge, BodyTooSlow, ClientGone, StateError
from forebay.messages.asgi import Receive
from forebay.messages.spool import PIECE_BYTES, Spool

# Whoever sends nothing for so long has stopped: nginx's client_body_timeout is the same.
STALL_S = 60.0


class Arrival:
    """One body, in one event loop: kept whole, or streamed once."""

    def __init__(self, receive: Receive | None, *, max_bytes: int, kept: bytes = b"") -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._spool = Spool()
        self._spool.append(kept)
        self._turn = asyncio.Lock()
        self._streamed = False

    @property
    def whole(self) -> bool:
        """Whether all of it is here."""
        return self._receive is None and not self._streamed

    def kept(self) -> bytes:
        """All of it, once it is whole."""
        return self._spool.read(0, self._spool.size)

    def kept_pieces(self) -> Iterator[bytes]:
        """What is here of it, piece by piece."""
        for offset in range(0, self._spool.size, PIECE_BYTES):
            yield self._spool.read(offset, PIECE_BYTES)

    async def load(self, most_bytes: int | None = None) -> bool:
        """Take all of it in; False: it is larger than *most_bytes*, and the rest still to come. Raises
        `BodyTooLarge`, `BodyTooSlow`, `ClientGone`, and `StateError` when it was streamed."""
        if self._streamed:
            raise StateError("the body was streamed, and is not kept; get it before, or keep what is streamed")
        async with self._turn:
            while self._receive is not None:
                if most_bytes is not None and self._spool.size > most_bytes:
                    return False
                data = await self._next()
                if self._spool.size + len(data) > self._max_bytes:
                    raise BodyTooLarge(limit_bytes=self._max_bytes)
                if self._spool.on_disk:
                    await asyncio.to_thread(self._spool.append, data)
                else:
                    self._spool.append(data)
        return True

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, piece by piece: what is kept, then what comes, which is not kept. Raises like `load`, but for
        its size."""
        if self._streamed:
            raise StateError("the body has been streamed already, and is not kept")
        self._streamed = self._receive is not None
        for piece in self.kept_pieces():
            yield piece
        while self._receive is not None:
            async with self._turn:
                data = await self._next()
            if data:
                yield data

    async def _next(self) -> bytes:
        assert self._receive is not None
        try:
            async with asyncio.timeout(STALL_S):
                event = await self._receive()
        except TimeoutError:
            raise BodyTooSlow(limit_s=STALL_S) from None
        if event["type"] == "http.disconnect":
            raise ClientGone
        if not event.get("more_body", False):
            self._receive = None
        data: bytes = event.get("body", b"")
        return data

    def close(self) -> None:
        """Give back its space."""
        self._spool.close()
