"""Bodies of JSON: what is taken for one, and how they may arrive."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from forebay.errors import BodyInvalid, BodyTooLarge, BodyTooSlow, MediaTypeRefused
from forebay.messages.documents import MAX_LEVELS
from forebay.server import bodies
from forebay.server.bodies import MAX_BODY_BYTES, as_json, check_document, check_json, read_body


def nested(levels: int) -> bytes:
    """Arrays in arrays."""
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"null",
        b' {"a": [1, 2.5, true, null, "x"]} ',
        b"\xef\xbb\xbf{}",
        '{"a": "ä😀"}'.encode(),
        b'{"a": "\\ud83d\\ude00"}',
        b'{"a": "\\u0000"}',
        b'{"a": 1, "a": 2}',
        nested(MAX_LEVELS),
        b'{"a":' * MAX_LEVELS + b"1" + b"}" * MAX_LEVELS,
    ],
)
def test_json_is_taken(body: bytes) -> None:
    """RFC 8259, in UTF-8; a byte order mark is ignored as its section 8.1 allows, a pair of surrogates is one
    character."""
    check_document(body)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}}",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": \xff}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": "\\ud800"}',
        b'{"\\udc00\\ud800": 1}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"1" * 10_000 + b"}",
        nested(MAX_LEVELS + 1),
        b'[{"a":' * MAX_LEVELS + b"1" + b"}]" * MAX_LEVELS,
        nested(100_000),
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_only_looks_like_json_is_refused(body: bytes) -> None:
    """What Python reads and nobody can write, half a character, a number without an end, a tower of brackets:
    400, and never an error of ours."""
    with pytest.raises(BodyInvalid):
        check_document(body)


@pytest.mark.parametrize(
    ("said", "may_be_silent", "taken"),
    [
        (b"application/json", False, True),
        (b"Application/JSON; charset=utf-8", False, True),
        (b"application/merge-patch+json", False, True),
        (None, True, True),
        (None, False, False),
        (b"", True, False),
        (b"text/plain", True, False),
        (b"application/x-www-form-urlencoded", True, False),
        (b"multipart/form-data; boundary=application/json", True, False),
        (b"application/json\xff", True, False),
    ],
)
def test_only_a_body_that_says_that_it_is_json_is_read(
    said: bytes | None, may_be_silent: bool, taken: bool
) -> None:
    """What a page of another site can send without asking first is refused, whatever is inside."""
    scope: dict[str, Any] = {"headers": [] if said is None else [(b"content-type", said)]}
    if taken:
        check_json(scope, may_be_silent=may_be_silent)
    else:
        with pytest.raises(MediaTypeRefused):
            check_json(scope, may_be_silent=may_be_silent)


def read(pieces: Sequence[bytes | None], *, declared: bytes | None = None) -> bytes:
    """What comes of a body in *pieces*; None: the client goes. After the last one it waits for ever."""
    scope = {"headers": [] if declared is None else [(b"content-length", declared)]}
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        piece = left.pop(0)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": piece != b"."}

    return asyncio.run(read_body(scope, receive))


def test_a_body_is_read_to_its_end() -> None:
    """However many pieces it comes in."""
    assert read([b"a", b"", b"b", b"."]) == b"ab."


def test_a_body_that_breaks_off_is_told_so() -> None:
    """Its client may be there still: what is no chunk looks the same."""
    with pytest.raises(BodyInvalid):
        read([b"a", None])


@pytest.mark.parametrize("declared", [b"%d" % (MAX_BODY_BYTES + 1), b"9" * 5000])
def test_a_body_that_says_it_is_too_large_is_not_read(declared: bytes) -> None:
    """Not one piece of it."""
    with pytest.raises(BodyTooLarge):
        read([], declared=declared)


def test_a_body_that_is_too_large_is_read_no_further() -> None:
    """Whatever it said, or did not say, of its length."""
    most = b"x" * MAX_BODY_BYTES
    with pytest.raises(BodyTooLarge):
        read([most, b"x"], declared=b"10")
    assert read([most[1:], b"."]) == most[1:] + b"."


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """408."""
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.01)
    with pytest.raises(BodyTooSlow):
        read([b"a"])


def test_the_body_goes_on_as_json() -> None:
    """Whatever its type was said to be, or not."""

    async def whole() -> tuple[Any, Any]:
        scope, receive = as_json({"headers": [(b"host", b"a"), (b"content-type", b"x")]}, b"{}")
        return scope["headers"], await receive()

    fields, message = asyncio.run(whole())
    assert fields == [(b"host", b"a"), (b"content-type", b"application/json")]
    assert message == {"type": "http.request", "body": b"{}", "more_body": False}
