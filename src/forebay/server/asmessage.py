"""A stored version that goes out as the body of a function's message: the version's ranges, preconditions and
validators; the message's status and fields."""

from __future__ import annotations

from forebay.messages.asgi import Field, Message, Scope, Send
from forebay.messages.outgoing import OutgoingMessage

# Preconditions and ranges (RFC 9110 sections 13 and 14).
_OF_A_VERSION = frozenset(
    {b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"}
)
# What a version says of itself, and nobody else can.
_ITS_OWN = frozenset(
    {b"etag", b"last-modified", b"accept-ranges", b"content-length", b"content-range", b"content-encoding",
     b"repr-digest"}
)  # fmt: skip
# Of its own place, and wrong at another: there it may change.
_OF_ITS_PLACE = frozenset({b"cache-control", b"link"})


def asked_of(scope: Scope, message: OutgoingMessage) -> Scope:
    """What is asked of the version: nothing of the query, which is the function's; no more than the whole of it
    where *message* is an error page or the like."""
    fields = scope["headers"]
    if message.status != 200:
        fields = [field for field in fields if field[0] not in _OF_A_VERSION]
    return {**scope, "query_string": b"", "headers": fields}


class AsMessage:
    """A `send` that puts a message's fields and status in place of those that a version's own place has."""

    def __init__(self, send: Send, message: OutgoingMessage) -> None:
        self._send, self._message = send, message

    async def __call__(self, event: Message) -> None:
        if event["type"] == "http.response.start" and event["status"] in (200, 206, 304):
            event = {**event, "headers": self._fields(event["status"], event["headers"])}
            if event["status"] == 200:
                event["status"] = self._message.status
        await self._send(event)

    def _fields(self, status: int, fields: list[Field]) -> list[Field]:
        said = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in self._message.headers.items_all()
        ]
        own = dict(fields)
        kept = set(_ITS_OWN)
        if status == 304 or own.get(b"content-type", b"").startswith(b"multipart/byteranges"):
            kept |= {b"content-type", b"content-disposition", b"content-language"}
        said = [field for field in said if field[0] not in kept]
        replaced = _OF_ITS_PLACE.union(name for name, _ in said)
        return [*(field for field in fields if field[0] not in replaced), *said]
