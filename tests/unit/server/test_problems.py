"""Problem documents: the code and the sentence go out, what they could give away does not."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
from typing import Any

import pytest

from forebay import errors
from forebay.errors import (
    CatalogTooNew,
    ContentRotten,
    DiskFull,
    ForebayError,
    HostRefused,
    InvalidValue,
    MethodRefused,
    NotStored,
    OriginError,
    ScopeMissing,
    StorageFailed,
    TokenInvalid,
    TokenMissing,
    UnknownRequest,
    UnknownVersion,
    UploadLocked,
)
from forebay.messages.problems import problem_body
from forebay.server.problems import problem, problem_fields, problem_of, send_problem


def sent(error: Exception, **more: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """What `send_problem` sends: status, fields, body."""
    events: list[Any] = []

    async def send(event: Any) -> None:
        events.append(event)

    asyncio.run(send_problem(send, error, **more))
    start, body = events
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    assert not body.get("more_body", False)
    return start["status"], start["headers"], body["body"]


def test_a_problem() -> None:
    """RFC 9457 section 3.1, with the code and whether to try again."""
    assert problem_of(UnknownRequest("request x")) == (
        404,
        {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "nothing is known of request x",
            "code": "request_unknown",
            "retryable": False,
        },
    )


@pytest.mark.parametrize(
    "error", [UnknownRequest("http://a/"), UnknownVersion("http://a/", wanted="version x"), NotStored("http://a/")]
)
def test_nobody_elsewhere_is_told_what_to_type(error: ForebayError) -> None:
    """What is of use in a terminal here names a program that a client over HTTP may not have."""
    _, document = problem_of(error)
    assert not re.search(r"`|--", document["detail"])
    assert str(error).startswith(document["detail"] + "; ")


def test_what_cannot_be_sent_again_and_what_can() -> None:
    """As the error itself says, with its own code and status."""
    status, document = problem_of(OriginError("origin_stalled", "too slow", retryable=True))
    assert (status, document["code"], document["retryable"], document["title"]) == (
        504, "origin_stalled", True, "Gateway Timeout",
    )  # fmt: skip


def test_a_bad_value_is_named() -> None:
    """The field stands alone, too, so that a form can show it there."""
    status, document = problem_of(InvalidValue("tag", expected="2 to 64 of [A-Za-z0-9-_]", got="x"))
    assert (status, document["field"], document["title"]) == (422, "tag", "Unprocessable Content")


@pytest.mark.parametrize(
    ("status", "title"), [(405, "Method Not Allowed"), (413, "Content Too Large"), (421, "Misdirected Request")]
)
def test_a_problem_that_is_no_error_of_ours(status: int, title: str) -> None:
    """RFC 9457 section 4.2.1: with about:blank the title is the phrase of the status (RFC 9110)."""
    assert problem(status, code="c", detail="d")["title"] == title


SECRET_PATH = "/home/someone/basin"


@pytest.mark.parametrize(
    "error",
    [
        StorageFailed(f"the catalog {SECRET_PATH}/catalog.sqlite", reason="disk I/O error"),
        DiskFull(SECRET_PATH),
        CatalogTooNew(found=SECRET_PATH, known="0002"),
        RuntimeError(f"cannot open {SECRET_PATH}"),
        KeyError(SECRET_PATH),
    ],
)
def test_where_things_are_kept_is_not_told(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """What the storage says, and what nobody foresaw, goes to the log; the client gets the code."""
    with caplog.at_level(logging.ERROR, "forebay.server"):
        status, _, body = sent(error)
    assert status in (500, 507)
    assert SECRET_PATH.encode() not in body
    assert b"Traceback" not in body
    assert json.loads(body)["code"] == getattr(error, "code", "unexpected")
    assert SECRET_PATH in caplog.text


def test_the_callers_errors_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks for nonsense does not fill the disk."""
    with caplog.at_level(logging.DEBUG):
        sent(HostRefused("evil.example"))
    assert [record for record in caplog.records if record.name.startswith("forebay")] == []


def test_damaged_content_is_named_by_its_hash() -> None:
    """That is what the client asked for."""
    assert "ab" * 32 in problem_of(ContentRotten("ab" * 32, found="gone"))[1]["detail"]


def test_whatever_is_quoted_is_sound_json() -> None:
    """Quotes, line ends, lone surrogates, other scripts: ASCII on the wire, the same when read."""
    odd = 'a"b\r\n\x00\ud800ü</script>'
    document = problem(400, code="c", detail=odd)
    body = problem_body(document)
    assert body.isascii()
    assert b"\n" not in body
    assert json.loads(body) == document


def test_the_fields_of_an_answer() -> None:
    """Typed, measured, kept by no cache, and nothing that a browser would run or embed elsewhere."""
    status, fields, body = sent(UnknownRequest("x"))
    found = dict(fields)
    assert len(found) == len(fields)
    assert status == 404
    assert found == {
        b"content-type": b"application/problem+json",
        b"content-length": str(len(body)).encode(),
        b"cache-control": b"no-store",
        b"content-security-policy": b"sandbox; default-src 'none'; frame-ancestors 'none'",
        b"x-content-type-options": b"nosniff",
        b"cross-origin-resource-policy": b"same-origin",
    }


def test_head_has_the_fields_alone() -> None:
    """RFC 9110 section 9.3.2: the length is that of the body which GET would have had."""
    _, fields, body = sent(UnknownRequest("x"), head=True)
    assert body == b""
    assert fields == sent(UnknownRequest("x"))[1]


def test_more_fields() -> None:
    """Whatever else a client is to know."""
    assert (b"retry-after", b"5") in sent(UnknownRequest("x"), fields=[(b"retry-after", b"5")])[1]


def test_a_locked_upload_is_asked_for_again() -> None:
    """As tusd says it, so that its clients try again instead of sending everything anew."""
    status, fields, _ = sent(UploadLocked("0" * 32))
    assert (status, dict(fields)[b"retry-after"]) == (423, b"1")


def test_a_method_that_is_refused_is_told_which_are_not() -> None:
    """RFC 9110 section 15.5.6: Allow is a MUST."""
    assert dict(problem_fields(MethodRefused(allowed=("GET", "HEAD"))))[b"allow"] == b"GET, HEAD"


@pytest.mark.parametrize(
    ("error", "challenge"),
    [
        (TokenMissing(), b'Bearer realm="forebay", Basic realm="forebay", charset="UTF-8"'),
        (
            TokenInvalid(reason="x"),
            b'Bearer realm="forebay", error="invalid_token", Basic realm="forebay", charset="UTF-8"',
        ),
        (ScopeMissing("write"), b'Bearer realm="forebay", error="insufficient_scope", scope="write"'),
        (HostRefused("x"), None),
    ],
)
def test_the_challenge(error: ForebayError, challenge: bytes | None) -> None:
    """RFC 9110 section 15.5.2: a 401 says how to ask; RFC 6750 section 3.1: a 403 says which scope is missing."""
    assert dict(problem_fields(error)).get(b"www-authenticate") == challenge


def test_every_401_has_a_challenge() -> None:
    """A 401 without one is malformed."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if getattr(kind, "status", 0) == 401]
    assert len(kinds) == 2
    for kind in kinds:
        assert b"www-authenticate" in dict(problem_fields(kind.__new__(kind)))


def test_every_status_has_a_title() -> None:
    """No error of the tree makes the answer itself fail."""
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, ForebayError):
            assert problem(kind.status, code=kind.code, detail="")["title"]
