"""A finished upload, out again: what every dialect answers to GET."""

from __future__ import annotations

from datetime import UTC, datetime

from forebay.core.delivery import Content
from forebay.core.fields import format_http_date
from forebay.messages.asgi import Receive, Scope, Send
from forebay.messages.outflow import Reader
from forebay.models import Upload
from forebay.server.deliver import Delivery
from forebay.uploads.states import UploadState


async def send_upload(delivery: Delivery, scope: Scope, receive: Receive, send: Send, upload: Upload) -> None:
    """Answer a GET or HEAD with the bytes of *upload*: ranges, preconditions and Repr-Digest as of a version."""
    content = Content(
        etag=f'"{upload.sha256}"',
        last_modified=format_http_date(upload.created.timestamp()),
        fetched_at=upload.created.timestamp(),
        size_bytes=upload.totalSize,
        sha256=upload.sha256,
        media_type=upload.media_type,
        filename=upload.fileName,
        # It may be cancelled, and it expires; and with tokens it is nobody else's.
        extra=(("Cache-Control", "private, no-cache"),),
    )
    with await delivery.basin.run(upload.open) as file, Reader(receive) as reader:
        await delivery.opened(scope, send, reader, content, file)


def describe(state: UploadState) -> dict[str, str | int | None]:
    """What is said of an upload that has just become complete: what a person who sends it with curl sees."""
    expires = None if state.expires is None else datetime.fromtimestamp(state.expires, UTC).isoformat()
    return {
        "uploadUid": state.uid,
        "fileName": state.file_name,
        "totalSize": state.size,
        "sha256": state.sha256,
        "expires": expires,
    }
