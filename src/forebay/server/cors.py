"""CORS: what pages of other sites may send here and read of the answer, where a setting allows their origin.

Fetch, section 3.3 (https://fetch.spec.whatwg.org/#http-cors-protocol). Never with credentials: there are no
cookies, and a page that has a token sends it itself.
"""

from __future__ import annotations

import re

from forebay.messages.asgi import Field, Message, Scope, Send
from forebay.server.access import Origins

_METHODS = b"POST, HEAD, PATCH, PUT, GET, DELETE, OPTIONS"
# Browsers keep it two hours at most (Chromium) or a day (Firefox).
_MAX_AGE = b"86400"
_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z, -]{1,4096}")

EXPOSED = (
    "Location", "Retry-After",
    "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm",
    "Upload-Offset", "Upload-Length", "Upload-Defer-Length", "Upload-Expires", "Upload-Metadata", "Upload-Concat",
    "Upload-Complete", "Upload-Incomplete", "Upload-Limit", "Repr-Digest", "Accept-Patch",
)  # fmt: skip
"""The fields of answers that pages may read, beside those that they always may."""


class Cors:
    """Adds CORS fields to answers, for the origins that are *allowed*."""

    def __init__(self, allowed: Origins) -> None:
        self.allowed = allowed

    def sending(self, scope: Scope, send: Send) -> Send:
        """*send* for the answer to *scope*."""
        if not self.allowed.known and not self.allowed.every:
            return send
        more = self._fields(scope)

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        return send_with_fields

    def _fields(self, scope: Scope) -> list[Field]:
        said: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            said.setdefault(name, []).append(value)
        fields: list[Field] = [(b"vary", b"Origin")]
        origins = said.get(b"origin", [])
        if not self.allowed.allow([origin.decode("latin-1") for origin in origins]):
            return fields
        fields.append((b"access-control-allow-origin", origins[0]))
        if scope["method"] != "OPTIONS" or b"access-control-request-method" not in said:
            fields.append((b"access-control-expose-headers", ", ".join(EXPOSED).encode("ascii")))
            return fields
        fields += [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", _MAX_AGE)]
        # Whatever the page wants to send: it is trusted, and applications have fields of their own.
        wanted = b", ".join(said.get(b"access-control-request-headers", []))
        if _NAMES.fullmatch(wanted):
            fields.append((b"access-control-allow-headers", wanted))
        return fields
