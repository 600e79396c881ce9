"""The ASGI application: who may ask, where it goes, and what becomes of an error.

Content and the door are plain ASGI handlers; the documented JSON API is FastAPI's (DESIGN.md, section 6).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from forebay.catalog.tokens import Scope as TokenScope
from forebay.errors import MethodRefused
from forebay.messages.problems import note_if_ours
from forebay.server.access import Access, Granted, Hosts
from forebay.server.api import make_api, scope_needed
from forebay.server.basin import Basin
from forebay.server.bodies import (
    Disconnected,
    Message,
    Receive,
    Scope,
    as_json,
    check_document,
    check_json,
    read_body,
)
from forebay.server.deliver import Delivery
from forebay.server.door import Door
from forebay.server.problems import SECURITY_FIELDS, send_problem
from forebay.settings import ServerSettings

log = logging.getLogger(__name__)

Send = Callable[[Message], Awaitable[None]]

_CONTENT = re.compile(r"/v1/request/([^/]+)/response/v/([^/]+)/content")
# Nothing in them is anybody's; a browser and a load balancer have no token.
_OPEN = frozenset({"/", "/docs", "/openapi.json", "/readyz"})


class Application:
    """One API process's application. The basin is opened and closed with the server's lifespan; *started* is
    called when it is open."""

    def __init__(self, settings: ServerSettings, *, started: Callable[[], None] = lambda: None) -> None:
        self._settings, self._started = settings, started
        self._basin: Basin | None = None
        self._access: Access | None = None
        self._api: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                await self._live(receive, send)
            case "http":
                await self._serve(scope, receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1000})

    # --- lifespan --------------------------------------------------------------------------------------

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._basin = Basin(self._settings)
            hosts = Hosts.of(self._settings.host, self._settings.allow_hosts)
            self._api = make_api(self._basin)
            self._delivery = delivery = Delivery(self._basin)
            self._access = Access(self._basin.bay.tokens, delivery.reader, delivery.until_commit(), hosts)
            self._door = Door(self._basin, self._delivery)
            self._basin.start(self._access.write_uses)
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        self._started()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._delivery.close()
        await self._basin.close()
        await send({"type": "lifespan.shutdown.complete"})

    # --- one request -----------------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = _Sent(send)
        try:
            await self._answer(scope, receive, sent)
        except Disconnected:
            pass
        except Exception as error:
            if sent.done:
                return
            if sent.begun:
                note_if_ours(error)
                raise  # the server breaks off: what is cut must not look whole
            await send_problem(send, error, head=scope["method"] == "HEAD")

    async def _answer(self, scope: Scope, receive: Receive, sent: _Sent) -> None:
        assert self._basin is not None
        path: str = scope["path"]
        if path == "/healthz":
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodRefused(allowed=("GET", "HEAD"))
            await _send_plain(sent, b'{"status":"ok"}')
            return
        if path.startswith("/r/"):
            granted = self._check(scope, "read", door=True)
            await self._door.handle(scope, receive, sent, granted=granted)
            return
        content = _CONTENT.fullmatch(path)
        if content is not None:
            granted = self._check(scope, "read")
            await self._delivery.version(
                scope, receive, sent, granted=granted, request_id=content[1], version=content[2]
            )
            return
        granted = self._check(scope, None if path in _OPEN else scope_needed(self._api, scope))
        await self._answer_json({**scope, "forebay.granted": granted}, receive, sent)

    def _check(self, scope: Scope, need: TokenScope | None, *, door: bool = False) -> Granted:
        assert self._access is not None
        return self._access.check(scope, need, door=door)

    async def _answer_json(self, scope: Scope, receive: Receive, sent: _Sent) -> None:
        body = await read_body(scope, receive)
        if body:
            silent = scope["method"] == "PUT" and scope["path"].startswith("/v1/request")
            check_json(scope, may_be_silent=silent)
            check_document(body)
        inner, whole = as_json(scope, body)
        answer = _JsonAnswer(sent, head=scope["method"] == "HEAD")
        if scope["method"] == "HEAD":
            inner["method"] = "GET"
        await self._api(inner, whole, answer)


class _Sent:
    """A `send` that knows how far its answer is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = self.done = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
        elif not message.get("more_body", False):
            self.done = True
        await self._send(message)


class _JsonAnswer:
    """A `send` for the API: adds what each answer has, and leaves the body out for HEAD."""

    def __init__(self, send: Send, *, head: bool) -> None:
        self._send, self._head = send, head

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            fields = list(message.get("headers", ()))
            names = {name for name, _ in fields}
            fields += [
                field for field in (*SECURITY_FIELDS, (b"cache-control", b"no-store")) if field[0] not in names
            ]
            message = {**message, "headers": fields}
        elif self._head:
            message = {**message, "body": b""}
        await self._send(message)


async def _send_plain(send: Send, body: bytes) -> None:
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *SECURITY_FIELDS]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})
