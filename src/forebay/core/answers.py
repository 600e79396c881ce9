"""What an origin's answer proves: that it continues a prefix, that it is what is stored, how long it is."""

from __future__ import annotations

from dataclasses import replace

from forebay.core import fields as f
from forebay.core.exchange import Head, Representation
from forebay.core.fields import Fields
from forebay.core.ranges import ContentRange
from forebay.core.reuse import StoredVersion
from forebay.core.urls import show_url
from forebay.errors import OriginError

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})


def resume_problem(prefix: Representation, got: object, fields: Fields, length: int) -> OriginError | None:
    """Why this 206 does not prove that it continues *prefix* at *length*; None when it does."""

    def broken(detail: str) -> OriginError:
        return OriginError("origin_range_invalid", detail, retryable=True)

    def changed(detail: str) -> OriginError:
        return OriginError("origin_changed", detail, retryable=True)

    if not isinstance(got, ContentRange):
        return broken("a 206 without a usable Content-Range")
    if got.start != length:
        return broken(f"asked for bytes from {length}, got them from {got.start}")
    if got.total is None:
        return broken("a 206 that does not say the total")
    if prefix.total is not None and got.total != prefix.total:
        return changed(f"the total was {prefix.total} bytes and is now {got.total}")
    if got.stop != got.total:
        return broken(f"asked for all bytes from {length}, got only those up to {got.stop} of {got.total}")
    etag, last_modified = fields.get("ETag"), fields.get("Last-Modified")
    if f.is_strong_etag(prefix.etag):
        if etag is not None and etag != prefix.etag:
            return changed(f"the ETag was {prefix.etag} and is now {etag}")
        if etag is None and prefix.total is None:
            return broken("a 206 without an ETag, for a body whose length was not known before")
    elif last_modified != prefix.last_modified:
        return changed(f"Last-Modified was {prefix.last_modified} and is now {last_modified or 'missing'}")
    elif etag is not None and prefix.etag is not None and etag != prefix.etag:
        # A date has a grain of a second; a weak ETag may see what it does not.
        return changed(f"the ETag was {prefix.etag} and is now {etag}")
    if (fields.get("Content-Encoding") or None) not in (None, prefix.content_encoding):
        return changed("the Content-Encoding changed")
    return None


class Ambiguous(Exception):
    """The length of a body cannot be told."""

    def __init__(self, detail: str) -> None:
        self.error = OriginError("origin_ambiguous", detail, retryable=True)


def declared_length(head: Head) -> int | None:
    """Content-Length, when it alone delimits the body (RFC 9112 section 6.3)."""
    try:
        length = f.content_length(head.fields)
    except f.AmbiguousLength as error:
        raise Ambiguous(f"the origin's Content-Length cannot be believed: {error}") from error
    if length is not None and head.fields.get("Transfer-Encoding"):
        raise Ambiguous("the origin sent a Content-Length and a Transfer-Encoding")
    return length


def represent(
    head: Head, *, url: str, previous_media_type: str | None
) -> tuple[Representation, OriginError | None]:
    """What a 2xx that is not a 206 says of its content, and why it cannot be taken."""
    fields = head.fields
    kind = fields.get("Content-Type")
    representation = Representation(
        etag=fields.get("ETag"),
        last_modified=fields.get("Last-Modified"),
        media_type=kind,
        content_disposition=fields.get("Content-Disposition"),
        content_encoding=fields.get("Content-Encoding") or None,
        final_url=show_url(url),
        http_status=head.status,
    )
    try:
        total = 0 if head.status in (204, 205) else declared_length(head)
    except Ambiguous as error:
        return representation, error.error
    before = f.media_type(previous_media_type)
    if f.media_type(kind) in HTML_TYPES and before is not None and before not in HTML_TYPES:
        # A login page, a captive portal, a "be right back": DESIGN.md section 7.
        detail = (
            f"the origin answered a page ({f.media_type(kind)}) where {before} was before; "
            "if that is meant, remove the stored versions (forebay rm)"
        )
        return representation, OriginError("origin_answered_html", detail, retryable=True)
    return replace(representation, total=total), None


def is_stored(stored: StoredVersion, got: Representation) -> bool:
    """Whether an origin that ignored our condition sent the stored representation all the same."""
    etag = stored.validators.etag
    if etag is not None or got.etag is not None:
        return f.is_strong_etag(got.etag) and got.etag == etag and got.total in (None, stored.size_bytes)
    # Without an ETag: the same date *and* the same known length (a date alone has a grain of a second).
    last_modified = stored.validators.last_modified
    return (
        last_modified is not None
        and got.last_modified == last_modified
        and got.total is not None
        and got.total == stored.size_bytes
    )
