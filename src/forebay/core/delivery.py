"""How content goes out: method + fields + what is known of it -> status, fields and pieces to send.

RFC 9110 sections 8, 13, 14 and 15; GET and HEAD of a content that exists, whole or still growing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from forebay.core.conditions import Outcome, evaluate
from forebay.core.fields import (
    Fields,
    check_field,
    digest_preference,
    format_digest,
    format_http_date,
    is_sendable,
    is_strong_etag,
    media_type,
    parse_http_date,
    year_at,
)
from forebay.core.filenames import format_content_disposition
from forebay.core.ranges import Span, Unsatisfied, format_content_range, if_range_holds, parse_range
from forebay.errors import InvalidValue

DEFAULT_MEDIA_TYPE = "application/octet-stream"
"""What content is said to be when its origin said nothing, or nothing well-formed (RFC 9110 section 8.3)."""

# What an origin stored must not run as a page of ours: neither guessed to be HTML nor given our origin.
_GUARDS = (("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "sandbox"))
# Representation metadata: not in a 304, nor in a 206 to an If-Range. Content-Location is wanted in both.
_METADATA = frozenset(
    {"content-type", "content-encoding", "content-language", "content-disposition", "link", "last-modified"}
)
_CODINGS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of the content of a version when somebody asks for it.

    *etag* is ours and strong; *last_modified*, *media_type*, *content_encoding* and *content_disposition* are
    the origin's words, whatever they are worth; *filename* is what to save it as. *fetched_at*: when the origin
    answered, Unix seconds. *size_bytes* and *sha256* (in hex) are `None` until they are known, *sha256* until
    the content is complete and verified. *extra*: more fields for answers that carry content or stand for it,
    such as Cache-Control, Age, Cache-Status and Link. *guarded*: it is not ours, and must not run as a page of
    ours.

    Raises `InvalidValue` for an *etag* that is not strong and for an *extra* that cannot be sent.
    """

    etag: str
    last_modified: str | None = None
    fetched_at: float | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    media_type: str | None = None
    content_encoding: str | None = None
    content_disposition: str | None = None
    filename: str | None = None
    extra: Pairs = ()
    guarded: bool = True

    def __post_init__(self) -> None:
        if not is_strong_etag(self.etag):
            raise InvalidValue("etag", expected="a strong entity-tag (RFC 9110 section 8.8.3)", got=self.etag)
        for name, value in self.extra:
            check_field(name, value)


@dataclass(frozen=True, slots=True)
class Everything:
    """All of the content, to an end that is not known yet."""


Piece = bytes | Span | Everything
"""What to send next: these bytes, these of the content, or all of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send: a status, fields and the pieces of the body, in order.

    The edge adds Date. To a 412 and a 416 it may add a body that explains, and its Content-Type; only these
    come without a Content-Length though their length is known.
    """

    status: int
    fields: Pairs
    body: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class AwaitSize:
    """Nothing can be sent before the size is known: wait for it, then plan again."""


def plan(
    method: str,
    incoming: Fields,
    content: Content,
    *,
    now: float,
    boundary: str,
    http_version: str = "1.1",
) -> Answer | AwaitSize:
    """What answers a GET or HEAD of *content*.

    *now* in Unix seconds. *boundary* separates the parts of an answer with several spans: a token of at most 70
    characters that cannot be in the content, so a fresh random one. *http_version* is that of the message
    (``1.0``): there, without a length, a body that breaks off looks whole (RFC 9112 section 8).

    Range is followed in a content that still grows as soon as its size is known; before, it is ignored.
    """
    known = _described(content, now)
    outcome = evaluate(method, incoming, etag=content.etag, last_modified=known.modified_s, now=now)
    if outcome is Outcome.FAILED:
        return _refusal(412, content)
    if outcome is Outcome.NOT_MODIFIED:
        return Answer(304, (("ETag", content.etag), ("Accept-Ranges", "bytes"), *_beside(content)))
    size = content.size_bytes
    if method == "GET" and size is not None and "Range" in incoming:
        spans = _wanted(incoming, content, known, size)
        if isinstance(spans, Unsatisfied):
            return _refusal(416, content, ("Content-Range", format_content_range(None, size)))
        if spans is not None:
            return _partial(incoming, content, known, spans, size, boundary)
    if method == "GET" and size is None and http_version == "1.0":
        return AwaitSize()
    fields = _all_fields(incoming, content, known, known.media_type)
    body: tuple[Piece, ...] = (Everything(),)
    if size is not None:
        fields.append(("Content-Length", str(size)))
        body = (Span(0, size),) if size else ()
    return Answer(200, tuple(fields), body if method == "GET" else ())


# --- what the origin said, as we say it ---------------------------------------------------------------


class _Description(NamedTuple):
    """The representation's metadata, each well-formed or `None`."""

    media_type: str
    coding: str | None
    disposition: str | None
    digest: str | None
    modified: str | None
    modified_s: float | None


def _described(content: Content, now: float) -> _Description:
    known = _describe(
        content.media_type,
        content.content_encoding,
        content.content_disposition,
        content.filename,
        content.sha256,
        content.last_modified,
        year_at(now),
    )
    if known.modified_s is not None and known.modified_s > now:
        # Section 8.8.2.1 forbids one later than Date. Without one, conditions on dates are ignored: safe.
        return known._replace(modified=None, modified_s=None)
    return known


@lru_cache(maxsize=1024)  # half of a plan's time (9 of 16 us), and what is asked for is asked for again
def _describe(
    kind: str | None,
    coding: str | None,
    disposition: str | None,
    filename: str | None,
    sha256: str | None,
    last_modified: str | None,
    now_year: int,
) -> _Description:
    kind, coding = (kind or "").strip(" \t"), (coding or "").strip(" \t")
    date = parse_http_date(last_modified, now_year=now_year)
    return _Description(
        media_type=kind if media_type(kind) is not None and is_sendable(kind) else DEFAULT_MEDIA_TYPE,
        # Section 8.4: identity is for Accept-Encoding only.
        coding=coding if _CODINGS.fullmatch(coding) and coding.lower() != "identity" else None,
        disposition=format_content_disposition(filename, origin=disposition),
        # Of what is stored, which is what goes out: coded, if it is (RFC 9530 section 3).
        digest=None if sha256 is None else format_digest("sha-256", sha256),
        modified=None if date is None else format_http_date(date),
        modified_s=date,
    )


# --- fields -------------------------------------------------------------------------------------------


def _all_fields(incoming: Fields, content: Content, known: _Description, kind: str) -> list[tuple[str, str]]:
    """Those of a 200, and of a 206 without If-Range (section 15.3.7), but length and Content-Range."""
    fields = [("ETag", content.etag), ("Accept-Ranges", "bytes"), ("Content-Type", kind), *_guards(content)]
    if known.modified is not None:
        fields.append(("Last-Modified", known.modified))
    if known.coding is not None:
        fields.append(("Content-Encoding", known.coding))
    if known.disposition is not None:
        fields.append(("Content-Disposition", known.disposition))
    if known.digest is not None and _digest_preference(incoming) != 0:
        fields.append(("Repr-Digest", known.digest))
    fields += content.extra
    return fields


def _resumed_fields(incoming: Fields, content: Content, known: _Description) -> list[tuple[str, str]]:
    """What a 206 to an If-Range needs: the client has the other fields already (section 15.3.7)."""
    fields = [("ETag", content.etag), ("Accept-Ranges", "bytes"), *_guards(content)]
    if known.modified is not None and not is_strong_etag(incoming.get("If-Range")):
        fields.append(("Last-Modified", known.modified))  # what this client combines its parts by
    # Unless asked for: the first part may have come while the content grew, when there was no digest yet.
    if known.digest is not None and _digest_preference(incoming):
        fields.append(("Repr-Digest", known.digest))
    return [*fields, *_beside(content)]


def _guards(content: Content) -> Pairs:
    return _GUARDS if content.guarded else ()


def _beside(content: Content) -> list[tuple[str, str]]:
    """Of *extra*, what is not representation metadata (section 15.4.5)."""
    return [(name, value) for name, value in content.extra if name.lower() not in _METADATA]


def _digest_preference(incoming: Fields) -> int | None:
    return digest_preference(incoming.joined("Want-Repr-Digest"), "sha-256")


def _refusal(status: int, content: Content, *more: tuple[str, str]) -> Answer:
    # no-store: a long life that *extra* gives to the content must not be that of an error on the same URL.
    fields = (("ETag", content.etag), ("Accept-Ranges", "bytes"), ("Cache-Control", "no-store"))
    return Answer(status, (*fields, *more))


# --- ranges -------------------------------------------------------------------------------------------


def _wanted(incoming: Fields, content: Content, known: _Description, size: int) -> list[Span] | Unsatisfied | None:
    """The spans to send; `None`: the whole."""
    if not if_range_holds(
        incoming.joined("If-Range"),
        etag=content.etag,
        last_modified=known.modified,
        fetched_at=content.fetched_at,
    ):
        return None
    spans = parse_range(incoming.joined("Range"), size)
    if isinstance(spans, list) and len(spans) > 1 and known.coding is not None:
        # Clients take Content-Encoding to be that of the multipart body, and fail to decode it. The whole is
        # right for all of them (section 14.2).
        return None
    return spans


def _partial(
    incoming: Fields,
    content: Content,
    known: _Description,
    spans: list[Span],
    total: int,
    boundary: str,
) -> Answer:
    several = len(spans) > 1
    kind = f"multipart/byteranges; boundary={boundary}" if several else known.media_type
    if "If-Range" not in incoming:
        fields = _all_fields(incoming, content, known, kind)
    else:
        fields = _resumed_fields(incoming, content, known)
        if several:
            fields.append(("Content-Type", kind))
    length = sum(span.stop - span.start for span in spans)
    body: tuple[Piece, ...] = tuple(spans)
    if several:
        heads, end = _frame(spans, total, known.media_type, boundary)
        length += sum(map(len, heads)) + len(end)
        body = (*(piece for part in zip(heads, spans, strict=True) for piece in part), end)
    else:
        fields.append(("Content-Range", format_content_range(spans[0], total)))
    fields.append(("Content-Length", str(length)))
    return Answer(206, tuple(fields), body)


def _frame(spans: list[Span], total: int, kind: str, boundary: str) -> tuple[list[bytes], bytes]:
    """What goes before each body part, and behind the last one (sections 14.6 and 15.3.7.2)."""
    heads = [
        f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n"
        f"Content-Range: {format_content_range(span, total)}\r\n\r\n".encode("latin-1")
        for span in spans
    ]
    heads[0] = heads[0].removeprefix(b"\r\n")
    return heads, f"\r\n--{boundary}--\r\n".encode("latin-1")
