"""The content of a version. To come."""

from __future__ import annotations

from typing import Any

from forebay.errors import StateError
from forebay.server.basin import Basin


class NotYetThere(StateError):
    """What was asked for is not built."""

    code = "not_built"
    status = 501

    def __init__(self) -> None:
        super().__init__("this is to come")


async def handle(
    basin: Basin, scope: Any, receive: Any, send: Any, *, granted: Any, request_id: str, version: str
) -> None:
    """Answer one ASGI request."""
    raise NotYetThere
