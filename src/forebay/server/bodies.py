"""Bodies of JSON, as they come in: bounded in size and time before anything looks at them."""

from __future__ import annotations

import asyncio

from forebay.errors import BodyInvalid, BodyTooLarge, BodyTooSlow, MediaTypeRefused
from forebay.messages.asgi import Message, Receive, Scope
from forebay.messages.documents import read_document

MAX_BODY_BYTES = 1 << 20
"""A registered Request with a body of its own is far smaller; nginx's default for a body is the same."""

# The server under us has no limit of its own.
BODY_TIMEOUT_S = 20.0


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises `BodyTooLarge` before it is buffered, `BodyTooSlow`; `BodyInvalid` when it breaks off,
    since its client may be there still, with chunks that are none."""
    declared = _field(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared[:20]) > MAX_BODY_BYTES:
        raise BodyTooLarge(limit_bytes=MAX_BODY_BYTES)
    pieces, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BodyInvalid
                size += len(message.get("body", b""))
                if size > MAX_BODY_BYTES:
                    raise BodyTooLarge(limit_bytes=MAX_BODY_BYTES)
                pieces.append(message.get("body", b""))
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        raise BodyTooSlow(limit_s=BODY_TIMEOUT_S) from None


def check_json(scope: Scope, *, may_be_silent: bool) -> None:
    """Raise `MediaTypeRefused` unless the body says that it is JSON. *may_be_silent*: saying nothing will do.

    A page of another site can send a form or plain text to us without asking first, but not JSON."""
    said = _field(scope, b"content-type")
    media_type = "" if said is None else said.partition(b";")[0].strip().lower().decode("latin-1")
    if said is None and may_be_silent:
        return
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise MediaTypeRefused(got=media_type)


def check_document(body: bytes) -> None:
    """Raise `BodyInvalid` unless *body* is JSON that can be written again: whatever else Python takes for JSON
    would break later, in the catalog or on its way to an origin."""
    read_document(body)


def as_json(scope: Scope, body: bytes) -> tuple[Scope, Receive]:
    """*scope* with *body*, as one that says that it is JSON."""
    fields = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    fields.append((b"content-type", b"application/json"))

    return {**scope, "headers": fields}, replayed(body)


def replayed(body: bytes) -> Receive:
    """A `receive` of a body that was read already."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _field(scope: Scope, name: bytes) -> bytes | None:
    found: bytes | None = next((value for key, value in scope["headers"] if key == name), None)
    return found
