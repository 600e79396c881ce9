"""Whatever is asked of a content, the bytes that go out are those that the fields announce."""

from __future__ import annotations

import re
from dataclasses import replace
from email import message_from_bytes

from hypothesis import given
from hypothesis import strategies as st

from forebay.core.delivery import Answer, AwaitSize, Content, Everything, plan
from forebay.core.fields import Fields, check_field, content_length
from forebay.core.ranges import ContentRange, Span, Unsatisfied, parse_content_range

NOW = 1_800_000_000.0
ETAG = '"v.1"'
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
BOUNDARY = "4d4d4d4d4d4d4d4d"

SPEC = st.one_of(
    st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: f"{min(pair)}-{max(pair)}"),
    st.integers(0, 40).map(lambda first: f"{first}-"),
    st.integers(0, 40).map(lambda length: f"-{length}"),
)
TAGS = st.sampled_from(["*", ETAG, '"x"', f"W/{ETAG}", DATE, "junk"])
PAIRS = st.lists(
    st.one_of(
        st.tuples(st.just("Range"), st.lists(SPEC, min_size=1, max_size=4).map(lambda s: "bytes=" + ",".join(s))),
        st.tuples(st.sampled_from(["If-Match", "If-None-Match", "If-Range"]), TAGS),
        st.tuples(st.sampled_from(["If-Modified-Since", "If-Unmodified-Since"]), TAGS),
        st.tuples(st.just("Want-Repr-Digest"), st.sampled_from(["sha-256=0", "sha-256=9"])),
    ),
    max_size=4,
    unique_by=lambda pair: pair[0],
)
WORDS = st.none() | st.text(max_size=5) | st.sampled_from(["gzip", "text/plain", "inline; filename=x", DATE])
CONTENTS = st.builds(
    Content,
    etag=st.just(ETAG),
    last_modified=WORDS,
    fetched_at=st.none() | st.just(NOW),
    sha256=st.none() | st.just("00" * 32),
    media_type=WORDS,
    content_encoding=WORDS,
    content_disposition=WORDS,
    filename=WORDS,
)


def sent(body: bytes, answer: Answer) -> bytes:
    raw = b""
    for piece in answer.body:
        match piece:
            case Span(start, stop):
                assert 0 <= start < stop <= len(body)
                raw += body[start:stop]
            case Everything():
                raw += body
            case bytes():
                raw += piece
    return raw


@given(
    st.sampled_from(["GET", "HEAD"]),
    PAIRS,
    CONTENTS,
    st.binary(max_size=32),
    st.booleans(),
    st.sampled_from(["1.0", "1.1", "2"]),
)
def test_what_is_announced_is_what_is_sent(
    method: str,
    pairs: list[tuple[str, str]],
    content: Content,
    body: bytes,
    known: bool,
    http_version: str,
) -> None:
    """Lengths, Content-Range and body parts are true, and every field can be sent."""
    if known:
        content = replace(content, size_bytes=len(body))
    answer = plan(method, Fields(pairs), content, now=NOW, boundary=BOUNDARY, http_version=http_version)
    if isinstance(answer, AwaitSize):
        assert (method, known, http_version) == ("GET", False, "1.0")
        return
    fields = Fields(answer.fields)
    for name, value in answer.fields:
        check_field(name, value)
    assert fields.get("ETag") == ETAG
    assert fields.get("Accept-Ranges") == "bytes"
    raw, length = sent(body, answer), content_length(fields)
    match answer.status:
        case 200:
            assert length == (len(body) if known else None)
            assert raw == (body if method == "GET" else b"")
        case 206:
            assert known
            assert length == len(raw)
            assert b"".join(parts(fields, raw, body))
        case 416:
            assert (raw, length) == (b"", None)
            assert parse_content_range(fields.get("Content-Range")) == Unsatisfied(len(body))
        case status:
            assert status in (304, 412)
            assert (raw, length) == (b"", None)


def parts(fields: Fields, raw: bytes, body: bytes) -> list[bytes]:
    """The parts of a 206, each checked against *body* by its own Content-Range."""
    kind = fields.get("Content-Type") or ""
    if not kind.startswith("multipart/byteranges"):
        return [checked(fields.get("Content-Range"), raw, body)]
    assert "Content-Range" not in fields
    # Somebody else's parser finds as many parts; it would touch line ends in their bytes, so these are cut by us.
    message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + raw)
    found = re.findall(rb"Content-Range: ([^\r]*)\r\n\r\n", raw)
    assert len(message.get_payload()) == len(found) > 1
    position, gathered = 0, []
    for line in found:
        span = parse_content_range(line.decode())
        assert isinstance(span, ContentRange)
        start = raw.index(line, position) + len(line) + 4
        position = start + span.stop - span.start
        gathered.append(checked(line.decode(), raw[start:position], body))
        assert raw[position:].startswith(b"\r\n--" + BOUNDARY.encode())
    assert raw[position:] == f"\r\n--{BOUNDARY}--\r\n".encode()
    return gathered


def checked(line: str | None, raw: bytes, body: bytes) -> bytes:
    span = parse_content_range(line)
    assert isinstance(span, ContentRange)
    assert span.total == len(body)
    assert raw == body[span.start : span.stop]
    return raw
