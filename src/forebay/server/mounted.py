"""The whole server as an ASGI application within somebody else's process: what ``bay.asgi()`` gives.

There is no fetch worker beside it, so a thread here does its work. Whoever mounts an application does not tell it
when it starts and ends: it begins at the first request, anew in each event loop, and ends with its Forebay.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

from pydantic import ValidationError

from forebay.bay import Forebay
from forebay.errors import InvalidValue, StateError
from forebay.messages.asgi import Receive, Scope, Send
from forebay.models import invalid_from
from forebay.server.app import Application
from forebay.server.worker import registered, work_for
from forebay.settings import ServerSettings, Settings


class Mounted:
    """An ASGI application on *bay*. *settings*: those that only a server has. Raises `InvalidValue`."""

    def __init__(self, bay: Forebay, **settings: Any) -> None:
        self._bay = bay
        for name in settings.keys() & Settings.model_fields.keys():
            # Such as allow_private: the gate is there already, and would not hear of it.
            raise InvalidValue(
                name, expected="it in forebay.open(folder, …), where the folder is opened", got="it here"
            )
        try:
            self._settings = ServerSettings(**{**dict(bay.settings), **settings})
        except ValidationError as error:
            raise invalid_from(error, "settings") from error
        if self._settings.allow_hosts and not self._settings.insecure and not bay.tokens.exist():
            raise InvalidValue(
                "allow_hosts",
                expected="a token (`forebay token add`), or insecure=True: others reach this one",
                got=", ".join(self._settings.allow_hosts),
            )
        self._lock = threading.Lock()
        self._running: dict[asyncio.AbstractEventLoop, Application] = {}
        self._enough = threading.Event()
        self._fetching: threading.Thread | None = None
        bay.at_close(self.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        loop = asyncio.get_running_loop()
        application = self._running.get(loop) or self._start(loop)
        await application(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(self.close)
        await send({"type": "lifespan.shutdown.complete"})

    def _start(self, loop: asyncio.AbstractEventLoop) -> Application:
        with self._lock:
            if self._enough.is_set():
                raise StateError("this application has ended, or its Forebay was closed; make another: bay.asgi()")
            for over in [other for other in self._running if other.is_closed()]:
                self._running.pop(over).abandon()
            if self._fetching is None:
                registration = contextlib.ExitStack()
                registration.enter_context(registered(self._bay))  # here: the first request may be for /readyz
                self._fetching = threading.Thread(
                    target=self._fetch, args=[registration], name="forebay-worker", daemon=True
                )
                self._fetching.start()
            application = Application(self._settings, bay=self._bay)
            application.start()
            self._running[loop] = application
            return application

    def _fetch(self, registration: contextlib.ExitStack) -> None:
        with registration:
            work_for(self._bay, wait=self._enough.wait)

    def close(self) -> None:
        """End: nothing is answered any more, and nothing fetched. The Forebay stays open."""
        with self._lock:
            self._enough.set()
            running, self._running = self._running, {}
        for application in running.values():
            application.abandon()
        if self._fetching is not None:
            self._fetching.join()
