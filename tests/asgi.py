"""One ASGI exchange in this process: what an application receives, and what it sent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any


class Exchange:
    """*app* is asked once by `ask`; *takes* events go out, then the client is gone."""

    def __init__(
        self,
        method: str = "GET",
        target: str = "/",
        *fields: tuple[str, str],
        body: Iterable[bytes] = (b"",),
        http_version: str = "1.1",
        takes: int = 1 << 30,
        **more: Any,
    ) -> None:
        path, _, query = target.partition("?")
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "http_version": http_version,
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields],
            **more,
        }
        self.events: list[Any] = []
        self.gone = threading.Event()
        self._body = list(body)
        self._takes = takes
        self._over = asyncio.Event()

    async def receive(self) -> Any:
        """The body, then, when it is time, that the client has gone."""
        if self._body:
            data = self._body.pop(0)
            return {"type": "http.request", "body": data, "more_body": bool(self._body)}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Any) -> None:
        """What goes out."""
        await asyncio.sleep(0)
        self.events.append(event)
        if len(self.events) >= self._takes:
            self.leave()

    def leave(self) -> None:
        """Be gone."""
        self._over.set()
        self.gone.set()

    async def ask(self, app: Any) -> Exchange:
        """*app* answers."""
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        """That of the one head."""
        (start,) = [event for event in self.events if event["type"] == "http.response.start"]
        return start["status"]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Those of the head."""
        return [(name.decode(), value.decode("latin-1")) for name, value in self.events[0]["headers"]]

    @property
    def body(self) -> bytes:
        """All that went out of it."""
        return b"".join(event["body"] for event in self.events[1:])

    @property
    def is_whole(self) -> bool:
        """Whether it looks like a success."""
        return [event.get("more_body", False) for event in self.events[1:]][-1:] == [False]


def ask(app: Any, method: str = "GET", target: str = "/", *fields: tuple[str, str], **more: Any) -> Exchange:
    """What *app* answers."""
    return asyncio.run(_ask(app, method, target, *fields, **more))


async def _ask(app: Any, *args: Any, **more: Any) -> Exchange:
    return await Exchange(*args, **more).ask(app)
