"""What goes out for a GET or HEAD of a content (RFC 9110 sections 8, 13, 14 and 15)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest

from forebay.core.delivery import Answer, AwaitSize, Content, Everything, Piece, plan
from forebay.core.fields import Fields, check_field, format_http_date
from forebay.core.ranges import Span
from forebay.errors import InvalidValue

NOW = 1_800_000_000.0
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
ETAG = '"20261121T082745123456Z.1"'
BODY = bytes(range(200)) * 5
SHA256 = hashlib.sha256(BODY).hexdigest()
REPR_DIGEST = f"sha-256=:{base64.b64encode(hashlib.sha256(BODY).digest()).decode()}:"

EXTRA = (
    ("Cache-Control", "public, max-age=31536000, immutable"),
    ("Age", "5"),
    ("Cache-Status", "forebay; hit"),
    ("Vary", "Accept"),
    ("Expires", "Fri, 31 Dec 9999 23:59:59 GMT"),
    ("Content-Location", "/v1/x"),
    ("Link", '</v1/w>; rel="predecessor-version"'),
)
STORED = Content(
    etag=ETAG,
    last_modified=DATE,
    fetched_at=NOW,
    size_bytes=len(BODY),
    sha256=SHA256,
    media_type="text/csv; charset=utf-8",
    content_disposition="attachment; filename=rain.csv; size=5",
    filename="rain.csv",
    extra=EXTRA,
)
GROWING = replace(STORED, sha256=None)
UNKNOWN = replace(GROWING, size_bytes=None)

ABOUT = {
    "ETag": ETAG,
    "Accept-Ranges": "bytes",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox",
}
REPRESENTATION = {
    "Last-Modified": DATE,
    "Content-Type": "text/csv; charset=utf-8",
    "Content-Disposition": 'attachment; filename="rain.csv"',
}
BESIDE = {name: value for name, value in EXTRA if name != "Link"}
WHOLE = ABOUT | REPRESENTATION | dict(EXTRA)


def answer(
    *pairs: tuple[str, str],
    method: str = "GET",
    content: Content = STORED,
    http_version: str = "1.1",
) -> Answer:
    got = plan(method, Fields(pairs), content, now=NOW, boundary="BOUNDARY", http_version=http_version)
    assert isinstance(got, Answer)
    assert len(dict(got.fields)) == len(got.fields)
    for name, value in got.fields:
        check_field(name, value)
    return got


def fields(got: Answer) -> dict[str, str]:
    return dict(got.fields)


def sent(body: tuple[Piece, ...]) -> bytes:
    raw = b""
    for piece in body:
        assert not isinstance(piece, Everything)
        raw += BODY[piece.start : piece.stop] if isinstance(piece, Span) else piece
    return raw


# --- 200: section 15.3.1 ------------------------------------------------------------------------------


def test_a_get_gets_the_whole() -> None:
    """Everything that is known of the representation, its length, and all its bytes."""
    got = answer()
    assert got.status == 200
    assert fields(got) == WHOLE | {"Repr-Digest": REPR_DIGEST, "Content-Length": "1000"}
    assert got.body == (Span(0, 1000),)


def test_a_head_gets_the_fields_of_a_get() -> None:
    """Section 9.3.2: the same fields, no content; Range is for GET only (section 14.2)."""
    for pairs in ([], [("Range", "bytes=0-1")], [("Range", "bytes=5000-")]):
        got = answer(*pairs, method="HEAD")
        assert (got.status, got.fields, got.body) == (200, answer().fields, ())


def test_an_empty_content_has_a_length_and_no_pieces() -> None:
    """Nothing to send is said, not left open; a Range of it is ignored (section 14.2)."""
    empty = replace(STORED, size_bytes=0, sha256=hashlib.sha256(b"").hexdigest())
    for pairs in ([], [("Range", "bytes=0-")], [("Range", "bytes=-5")]):
        got = answer(*pairs, content=empty)
        assert (got.status, got.body) == (200, ())
        assert fields(got)["Content-Length"] == "0"


def test_a_content_of_which_nothing_was_said_is_bytes() -> None:
    """Section 8.3: without a type it is application/octet-stream, and nothing else is made up."""
    got = answer(content=Content(ETAG, size_bytes=1000))
    assert fields(got) == ABOUT | {"Content-Type": "application/octet-stream", "Content-Length": "1000"}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (" text/html ", "text/html"),
        ('text/plain;charset="x"', 'text/plain;charset="x"'),
        ("text", "application/octet-stream"),
        ("text/html, text/plain", "application/octet-stream"),
        ("text/html; a=b\r\nSet-Cookie: x", "application/octet-stream"),
        ("text/html; title=\u20ac", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_a_content_type_is_the_origins_if_it_is_one(given: str, shown: str) -> None:
    """DESIGN.md section 2, number 10: what cannot be sent, or is no media type, is not passed on."""
    assert fields(answer(content=replace(STORED, media_type=given)))["Content-Type"] == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("gzip", "gzip"),
        (" br, gzip ", "br, gzip"),
        ("identity", None),
        ("Identity", None),
        ("", None),
        (None, None),
        ("gzip,,br", None),
        ("gz ip", None),
        ("gzip\r\nx: y", None),
    ],
)
def test_coded_content_says_its_coding(given: str | None, shown: str | None) -> None:
    """Section 8.4: content is stored and sent as received, with its coding; its digest is that of the coded bytes."""
    got = fields(answer(content=replace(STORED, content_encoding=given)))
    assert got.get("Content-Encoding") == shown
    assert got["Repr-Digest"] == REPR_DIGEST


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Sunday, 06-Nov-94 08:49:37 GMT", DATE),
        ("Sun Nov  6 08:49:37 1994", DATE),
        ("yesterday", None),
        (format_http_date(NOW), format_http_date(NOW)),
        (format_http_date(NOW + 1), None),
        ("Fri, 31 Dec 9999 23:59:60 GMT", None),
        (None, None),
    ],
)
def test_a_last_modified_is_a_date_in_the_past(given: str | None, shown: str | None) -> None:
    """Section 8.8.2: an IMF-fixdate, and never one later than the answer's own Date."""
    content = replace(STORED, last_modified=given)
    assert fields(answer(content=content)).get("Last-Modified") == shown
    # What was not sent is not compared with either.
    assert answer(("If-Modified-Since", format_http_date(NOW + 1)), content=content).status == (
        304 if shown else 200
    )
    assert answer(("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT"), content=content).status == (
        412 if shown else 200
    )


def test_content_that_cannot_be_described_cannot_be_made() -> None:
    """DESIGN.md section 2, number 10: a field that cannot be sent cannot be constructed."""
    for etag in ("v.1", 'W/"v.1"', ""):
        with pytest.raises(InvalidValue, match="etag"):
            Content(etag)
    with pytest.raises(InvalidValue, match="Link"):
        replace(STORED, extra=(("Link", "</a>\r\nSet-Cookie: x"),))


# --- Repr-Digest: RFC 9530 ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "wanted"),
    [
        (["sha-256=10"], True),
        (["sha-256=1"], True),
        (["sha-256=0"], False),
        (["sha-512=5", "sha-256=0"], False),
        (["sha-512=5"], True),
        (["sha-256=0,"], True),
        (["sha-256=0.0"], True),
        (["sha-256=11"], True),
        ([""], True),
    ],
)
def test_a_digest_is_sent_unless_it_is_not_wanted(wishes: list[str], wanted: bool) -> None:
    """RFC 9530 section 4: 0 is "not acceptable"; any other wish is a hint, a malformed one is none."""
    for pairs in ([], [("Range", "bytes=0-1")], [("Range", "bytes=0-1,5-6")]):
        got = answer(*pairs, *(("Want-Repr-Digest", wish) for wish in wishes))
        assert fields(got).get("Repr-Digest") == (REPR_DIGEST if wanted else None)


def test_a_growing_content_has_no_digest_yet() -> None:
    """Until the end nobody knows it."""
    for content in (GROWING, UNKNOWN):
        assert "Repr-Digest" not in fields(answer(("Want-Repr-Digest", "sha-256=10"), content=content))


# --- growing content ----------------------------------------------------------------------------------


def test_a_growing_content_of_known_size_is_as_a_stored_one() -> None:
    """With a known total, the length is said and Range works meanwhile."""
    got = answer(content=GROWING)
    assert fields(got) == WHOLE | {"Content-Length": "1000"}
    assert got.body == (Span(0, 1000),)
    tail = answer(("Range", "bytes=-10"), ("If-Range", ETAG), content=GROWING)
    assert (tail.status, tail.body) == (206, (Span(990, 1000),))


@pytest.mark.parametrize("field", ["bytes=0-1", "bytes=5000-", "bytes=-5"])
def test_without_a_size_a_range_is_ignored(field: str) -> None:
    """Section 14.2 allows it, and no end or suffix could be told."""
    got = answer(("Range", field), content=UNKNOWN)
    assert got.status == 200
    assert fields(got) == WHOLE
    assert got.body == (Everything(),)


def test_without_a_size_a_head_has_no_length() -> None:
    """Section 8.6: no Content-Length is better than a wrong one."""
    got = answer(method="HEAD", content=UNKNOWN)
    assert (got.status, fields(got), got.body) == (200, WHOLE, ())


def test_http_1_0_waits_for_the_size() -> None:
    """RFC 9112 section 8: there, a body without a length that breaks off would look whole."""
    incoming = Fields([("Range", "bytes=0-")])
    assert plan("GET", incoming, UNKNOWN, now=NOW, boundary="B", http_version="1.0") == AwaitSize()
    assert answer(content=GROWING, http_version="1.0").status == 200
    assert answer(content=UNKNOWN, method="HEAD", http_version="1.0").status == 200
    assert answer(("If-None-Match", ETAG), content=UNKNOWN, http_version="1.0").status == 304
    assert answer(("If-Match", '"x"'), content=UNKNOWN, http_version="1.0").status == 412


# --- 304 and 412: sections 15.4.5, 15.5.13 ------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("content", [STORED, GROWING, UNKNOWN])
@pytest.mark.parametrize("field", [("If-None-Match", f'"x", W/{ETAG}'), ("If-Modified-Since", DATE)])
def test_what_the_client_has_is_not_sent_again(method: str, content: Content, field: tuple[str, str]) -> None:
    """Section 15.4.5: the fields that a cache updates by, and no other metadata of the representation."""
    got = answer(field, ("Range", "bytes=0-1"), method=method, content=content)
    assert got.status == 304
    assert fields(got) == {"ETag": ETAG, "Accept-Ranges": "bytes"} | BESIDE
    assert got.body == ()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("field", [("If-Match", '"x"'), ("If-Unmodified-Since", "Sun, 06 Nov 1994 08:49:36 GMT")])
def test_a_failed_precondition_says_what_is_current(method: str, field: tuple[str, str]) -> None:
    """Section 15.5.13; never stored: it has the URL of a content that may be kept for a year."""
    got = answer(field, ("Range", "bytes=0-1"), method=method)
    assert got.status == 412
    assert fields(got) == {"ETag": ETAG, "Accept-Ranges": "bytes", "Cache-Control": "no-store"}
    assert got.body == ()


# --- 206: section 15.3.7 ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "span", "shown"),
    [
        ("bytes=0-499", Span(0, 500), "bytes 0-499/1000"),
        ("bytes=500-", Span(500, 1000), "bytes 500-999/1000"),
        ("bytes=-1", Span(999, 1000), "bytes 999-999/1000"),
        ("bytes=0-", Span(0, 1000), "bytes 0-999/1000"),
        ("bytes=5-6,7-8", Span(5, 9), "bytes 5-8/1000"),
        ("bytes=5-6,5000-", Span(5, 7), "bytes 5-6/1000"),
    ],
)
def test_one_span_is_a_part_with_its_content_range(field: str, span: Span, shown: str) -> None:
    """Section 15.3.7.1: all fields of a 200, Content-Range, and the length of the part."""
    got = answer(("Range", field))
    assert got.status == 206
    assert fields(got) == WHOLE | {
        "Repr-Digest": REPR_DIGEST,
        "Content-Range": shown,
        "Content-Length": str(span.stop - span.start),
    }
    assert got.body == (span,)


def test_several_spans_are_body_parts() -> None:
    """Section 15.3.7.2: multipart/byteranges with a Content-Range in each part and none outside."""
    got = answer(("Range", "bytes=-2,0-1,500-599"))
    raw = sent(got.body)
    assert got.status == 206
    assert fields(got) == WHOLE | {
        "Repr-Digest": REPR_DIGEST,
        "Content-Type": "multipart/byteranges; boundary=BOUNDARY",
        "Content-Length": str(len(raw)),
    }
    assert raw == (
        b"--BOUNDARY\r\n"
        b"Content-Type: text/csv; charset=utf-8\r\nContent-Range: bytes 0-1/1000\r\n\r\n" + BODY[:2] + b"\r\n"
        b"--BOUNDARY\r\n"
        b"Content-Type: text/csv; charset=utf-8\r\nContent-Range: bytes 500-599/1000\r\n\r\n"
        + BODY[500:600]
        + b"\r\n"
        b"--BOUNDARY\r\n"
        b"Content-Type: text/csv; charset=utf-8\r\nContent-Range: bytes 998-999/1000\r\n\r\n" + BODY[998:] + b"\r\n"
        b"--BOUNDARY--\r\n"
    )


def test_several_spans_of_coded_content_are_the_whole() -> None:
    """No client could decode them; one span it can put together with others."""
    coded = replace(STORED, content_encoding="gzip")
    got = answer(("Range", "bytes=0-1,5-6"), content=coded)
    assert (got.status, got.body) == (200, (Span(0, 1000),))
    one = answer(("Range", "bytes=0-1,2-3"), content=coded)
    assert (one.status, one.body) == (206, (Span(0, 4),))
    assert fields(one)["Content-Encoding"] == "gzip"


@pytest.mark.parametrize("field", ["items=0-1", "bytes=2-1", "bytes=x", "bytes=" + "0-0," * 100 + "5-5"])
def test_a_range_that_is_ignored_gets_the_whole(field: str) -> None:
    """Section 14.2."""
    got = answer(("Range", field))
    assert (got.status, got.fields, got.body) == (200, answer().fields, (Span(0, 1000),))


def test_two_range_fields_are_ignored() -> None:
    """Section 5.3: Range is no list, and together its lines are no Range."""
    assert answer(("Range", "bytes=0-1"), ("Range", "bytes=5-6")).status == 200


# --- If-Range: sections 13.1.5 and 15.3.7 -------------------------------------------------------------


def test_a_resumed_answer_has_only_what_is_needed() -> None:
    """Section 15.3.7: the client has the other fields from its first answer."""
    got = answer(("Range", "bytes=500-"), ("If-Range", ETAG))
    assert got.status == 206
    assert fields(got) == ABOUT | BESIDE | {"Content-Range": "bytes 500-999/1000", "Content-Length": "500"}
    assert got.body == (Span(500, 1000),)


def test_a_resumed_answer_by_date_has_the_date() -> None:
    """Section 15.3.7.3: parts are combined by a validator that they have in common."""
    got = answer(("Range", "bytes=500-"), ("If-Range", DATE))
    assert got.status == 206
    assert fields(got)["Last-Modified"] == DATE
    assert "Content-Disposition" not in fields(got)


def test_a_resumed_answer_has_the_digest_when_asked() -> None:
    """The first answer may have come while the content grew, when there was none."""
    pairs = [("Range", "bytes=500-"), ("If-Range", ETAG)]
    assert fields(answer(*pairs, ("Want-Repr-Digest", "sha-256=1")))["Repr-Digest"] == REPR_DIGEST
    assert "Repr-Digest" not in fields(answer(*pairs, ("Want-Repr-Digest", "sha-256=0")))
    assert "Repr-Digest" not in fields(answer(*pairs, ("Want-Repr-Digest", "sha-512=1")))


def test_several_resumed_spans_say_that_they_are_several() -> None:
    """Section 15.3.7.2: without its Content-Type a multipart body could not be read."""
    got = answer(("Range", "bytes=0-1,5-6"), ("If-Range", ETAG))
    assert got.status == 206
    assert fields(got) == ABOUT | BESIDE | {
        "Content-Type": "multipart/byteranges; boundary=BOUNDARY",
        "Content-Length": str(len(sent(got.body))),
    }


@pytest.mark.parametrize("value", ['"x"', f"W/{ETAG}", LATER, "", f"{ETAG}, {ETAG}"])
def test_a_changed_content_is_sent_whole(value: str) -> None:
    """Section 13.1.5: where If-Range does not hold, Range is ignored, also one that cannot be satisfied."""
    for field in ("bytes=500-", "bytes=5000-"):
        got = answer(("Range", field), ("If-Range", value))
        assert (got.status, got.fields, got.body) == (200, answer().fields, (Span(0, 1000),))


def test_a_date_that_may_be_of_two_contents_is_no_if_range() -> None:
    """Section 8.8.2.2: fetched in the second of its date, or nobody knows when."""
    pairs = [("Range", "bytes=500-"), ("If-Range", DATE)]
    for fetched_at in (784111777.9, None):
        assert answer(*pairs, content=replace(STORED, fetched_at=fetched_at)).status == 200


def test_an_if_range_without_a_range_is_ignored() -> None:
    """Section 13.1.5; also beside a Range that is no GET's."""
    assert answer(("If-Range", ETAG)) == answer()
    assert answer(("If-Range", ETAG), ("Range", "bytes=0-1"), method="HEAD") == answer(method="HEAD")


# --- 416: section 15.5.17 -----------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [[], [("If-Range", ETAG)], [("If-Match", ETAG)]])
@pytest.mark.parametrize("content", [STORED, GROWING])
def test_a_range_of_nothing_says_the_size(pairs: list[tuple[str, str]], content: Content) -> None:
    """Content-Range with the current length; who resumed a content that was whole learns that it is."""
    got = answer(("Range", "bytes=1000-"), *pairs, content=content)
    assert got.status == 416
    assert fields(got) == {
        "ETag": ETAG,
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
        "Content-Range": "bytes */1000",
    }
    assert got.body == ()
