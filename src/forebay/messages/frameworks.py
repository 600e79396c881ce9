"""Messages as responses of Starlette's own class, for frameworks that let nothing else through."""

from __future__ import annotations

from starlette.background import BackgroundTask
from starlette.responses import Response

from forebay.messages.asgi import Application, Message, Receive, Scope, Send


class MessageResponse(Response):
    """*message*, an ASGI application, as a Starlette response. Fields that the framework adds go out beside the
    message's own, and its background task runs after it."""

    def __init__(self, message: Application, *, status: int) -> None:
        self._message = message
        self.status_code = status
        self.background: BackgroundTask | None = None
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def send_with_more(event: Message) -> None:
            if event["type"] == "http.response.start" and self.raw_headers:
                event = {**event, "headers": [*event.get("headers", ()), *self.raw_headers]}
            await send(event)

        await self._message(scope, receive, send_with_more)
        if self.background is not None:
            await self.background()
