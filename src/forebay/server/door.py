"""``/r/<url>``: the content of any URL. To come."""

from __future__ import annotations

from typing import Any

from forebay.server.basin import Basin
from forebay.server.deliver import NotYetThere


async def handle(basin: Basin, scope: Any, receive: Any, send: Any, *, granted: Any) -> None:
    """Answer one ASGI request."""
    raise NotYetThere
