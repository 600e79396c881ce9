"""One exchange as ASGI has it: its types, and what is received on it, shared by all who wait for something.

`send` never fails after a disconnect on some servers (granian does not, DESIGN.md section 6): whoever must know
that nobody reads any more waits for it here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Field = tuple[bytes, bytes]

# What is taken in of a body that nobody has asked for yet, so that the disconnect behind it is seen.
_AHEAD_BYTES = 256 << 10


class Disconnected(Exception):
    """The client has gone; nobody reads an answer."""


class Receiving:
    """What one exchange receives, for who reads its body (call it as ASGI's `receive`) and for all who wait for
    the client to go (`gone`). In one event loop; close it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._arriving: asyncio.Future[Message] | None = None
        self._unread: deque[Message] = deque()
        self._unread_bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> Receiving:
        """The one of this exchange, whoever asks first: two that receive would take each other's events."""
        if isinstance(receive, Receiving):
            return receive
        shared: Receiving | None = scope.get("forebay.receiving")
        if shared is None or shared._receive is not receive:
            shared = scope["forebay.receiving"] = cls(receive)
        return shared

    def close(self) -> None:
        """Wait for nothing any more. Who asks after that, such as what answers instead, begins anew."""
        if self._arriving is not None and not self._arriving.done():
            self._arriving.cancel()
            self._arriving = None

    async def __call__(self) -> Message:
        """The next event of the body, or the disconnect, then always."""
        while not self._unread:
            if (last := await self._arrive()) is not None:
                return last
        event = self._unread.popleft()
        self._unread_bytes -= len(event.get("body", b""))
        self._room.set()
        return event

    async def gone(self) -> None:
        """Return when the client has gone. What comes of the body meanwhile is kept for who reads it."""
        while await self._arrive() is None:
            if self._unread_bytes >= _AHEAD_BYTES:
                self._room.clear()
            await self._room.wait()

    async def _one(self) -> Message:
        # In a coroutine of ours: what granian's gives looks like a future, and never tells who waits beside it.
        return await self._receive()

    async def _arrive(self) -> Message | None:
        """Wait for one event and keep it, once for all who wait; the disconnect, when that is what came."""
        if self._arriving is None:
            self._arriving = asyncio.create_task(self._one())
        arriving = self._arriving
        await asyncio.wait((arriving,))  # does not cancel it with who waits
        event = arriving.result()
        if event["type"] == "http.disconnect":
            return event
        if self._arriving is arriving:
            self._arriving = None
            self._unread.append(event)
            self._unread_bytes += len(event.get("body", b""))
        return None
