"""The ASGI application: who may ask, where it goes, and what becomes of an error.

Content and the door are plain ASGI handlers; the documented JSON API is FastAPI's (DESIGN.md, section 6).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from forebay.bay import Forebay
from forebay.catalog.tokens import Scope as TokenScope
from forebay.errors import ClientGone, MethodRefused
from forebay.messages.asgi import Disconnected, Message, Receive, Scope
from forebay.messages.problems import note_if_ours
from forebay.server.access import Access, Granted, Hosts, Origins
from forebay.server.api import make_api, scope_needed
from forebay.server.basin import Basin
from forebay.server.bodies import as_json, check_document, check_json, read_body
from forebay.server.chunks import Chunks
from forebay.server.cors import Cors
from forebay.server.deliver import Delivery
from forebay.server.door import Door
from forebay.server.functions import Calls
from forebay.server.problems import SECURITY_FIELDS, send_problem
from forebay.server.resumable import Resumable
from forebay.server.tus import Tus
from forebay.server.uploading import Intake
from forebay.settings import ServerSettings

log = logging.getLogger(__name__)

Send = Callable[[Message], Awaitable[None]]

_CONTENT = re.compile(r"/v1/request/([^/]+)/response/v/([^/]+)/content")
_UPLOADS = "/v1/upload"
# Nothing in them is anybody's; a browser and a load balancer have no token.
_OPEN = frozenset({"/", "/docs", "/openapi.json", "/readyz"})


class Application:
    """One API process's application. The basin is opened and closed with the server's lifespan; *started* is
    called when it is open. *bay*: the open one that it is for."""

    def __init__(
        self, settings: ServerSettings, *, bay: Forebay | None = None, started: Callable[[], None] = lambda: None
    ) -> None:
        self._settings, self._bay, self._started = settings, bay, started
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
            self.start()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        self._started()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._close()
        if self._basin is not None:
            await self._basin.close()
        await send({"type": "lifespan.shutdown.complete"})

    def start(self) -> None:
        """Open everything; in the event loop."""
        basin = Basin(self._settings, bay=self._bay)
        hosts = Hosts.of(self._settings.host, self._settings.allow_hosts)
        self._api = make_api(basin)
        self._delivery = delivery = Delivery(basin)
        self._access = Access(basin.bay.tokens, delivery.reader, delivery.until_commit(), hosts)
        self._door = Door(basin, delivery)
        self._calls = Calls(basin, delivery)
        self._cors = Cors(Origins.of(self._settings.allow_origins))
        self._intake = Intake(basin)
        self._dialects = (
            Tus(delivery, self._intake),
            Chunks(self._intake),
            Resumable(delivery, self._intake),
        )
        basin.start(self._access.write_uses)
        self._basin = basin

    def abandon(self) -> None:
        """Close everything but the Forebay, from whatever thread; nobody asks any more."""
        if self._basin is not None:
            self._close()
            self._basin.abandon()

    def _close(self) -> None:
        self._calls.close()
        self._intake.close()
        self._delivery.close()

    # --- one request -----------------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("root_path"):
            scope = _unmounted(scope)
        if scope["path"].startswith(_UPLOADS):
            send = self._cors.sending(scope, send)
        sent = _Sent(send)
        try:
            await self._answer(scope, receive, sent)
        except Disconnected:
            # Its client may be there still: what it sent has broken off, such as by chunks that are none.
            if not sent.begun:
                await send_problem(send, ClientGone(), head=scope["method"] == "HEAD")
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
        if path.startswith(_UPLOADS):
            for dialect in self._dialects:
                if await dialect.handle(scope, receive, sent, check=self._check_upload):
                    return
        if await self._calls.handle(scope, receive, sent, check=self._check_call):
            return
        granted = self._check(scope, None if path in _OPEN else scope_needed(self._api, scope))
        await self._answer_json({**scope, "forebay.granted": granted}, receive, sent)

    def _check(self, scope: Scope, need: TokenScope | None, *, door: bool = False) -> Granted:
        assert self._access is not None
        return self._access.check(scope, need, door=door)

    def _check_upload(self, scope: Scope, need: TokenScope | None) -> Granted:
        assert self._access is not None
        return self._access.check(scope, need, allowed=self._cors.allowed)

    def _check_call(self, scope: Scope, need: TokenScope) -> Granted:
        return self._check(scope, need, door=True)  # a GET of a function may do something, too

    async def _answer_json(self, scope: Scope, receive: Receive, sent: _Sent) -> None:
        body = await read_body(scope, receive)
        if body:
            silent = scope["method"] == "PUT" and scope["path"].startswith("/v1/request")
            check_json(scope, may_be_silent=silent)
            check_document(body)
        inner, whole = as_json(scope, body)
        if "forebay.outer" in scope:  # Starlette takes root_path off by itself
            inner.update({name: scope["forebay.outer"].get(name) for name in ("path", "raw_path")})
        answer = _JsonAnswer(sent, head=scope["method"] == "HEAD")
        if scope["method"] == "HEAD":
            inner["method"] = "GET"
        await self._api(inner, whole, answer)


def _unmounted(scope: Scope) -> Scope:
    """*scope* with a path of ours, where another application has mounted this one (``root_path``)."""
    root: str = scope["root_path"].rstrip("/")
    if not scope["path"].startswith(root + "/"):
        return {**scope, "path": scope["path"] if scope["path"] != root else "/"}
    path = scope["path"].removeprefix(root)
    raw, encoded = scope.get("raw_path"), quote(root).encode("ascii")
    # However the mounting application has spelled it, its path has as many slashes.
    raw = quote(path).encode("ascii") if raw is None else b"/" + raw.split(b"/", encoded.count(b"/") + 1)[-1]
    return {**scope, "path": path, "raw_path": raw, "forebay.outer": scope}


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
