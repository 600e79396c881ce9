"""Errors as problem documents (RFC 9457): what a client gets when it cannot have what it asked for.

The text of an error goes out only where it is about what was asked. What our storage says names folders, and
what nobody foresaw may name anything: both go to the log, and the client gets the code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from forebay.errors import (
    ForebayError,
    InvalidValue,
    MethodRefused,
    ScopeMissing,
    TokenInvalid,
    TokenMissing,
    UploadLocked,
)
from forebay.messages.asgi import Field, Send
from forebay.messages.problems import document_of, note_if_ours, problem_body

# Each answer has them: a body is what its type says, and no page of another site may embed it (Fetch, "CORP").
SECURITY_FIELDS: tuple[Field, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_PROBLEM_FIELDS: tuple[Field, ...] = (
    (b"content-type", b"application/problem+json"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"sandbox; default-src 'none'; frame-ancestors 'none'"),
    *SECURITY_FIELDS,
)


def problem(status: int, *, code: str, detail: str, retryable: bool = False) -> dict[str, Any]:
    """A problem document; for what is no `ForebayError`, such as a path that leads nowhere."""
    return document_of(status, detail=detail, code=code, retryable=retryable)


def problem_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """Status and problem document of *error*. One that is no `ForebayError` is a bug of ours: 500, and nothing
    of it is said."""
    if not isinstance(error, ForebayError):
        detail = "this should not happen; the server's log says more"
        return 500, problem(500, code="unexpected", detail=detail)
    document = problem(error.status, code=error.code, detail=error.outward, retryable=error.retryable)
    if isinstance(error, InvalidValue):
        document["field"] = error.field
    return error.status, document


def problem_fields(error: Exception | None = None) -> list[Field]:
    """The fields of a problem document but for its length; where a token or a scope is missing, with the
    challenge (RFC 9110 section 11.6.1, RFC 6750 section 3, RFC 7617 section 2.1); of a method that is refused,
    with those that are not (RFC 9110 section 15.5.6); where an upload is locked, when to ask again."""
    fields = list(_PROBLEM_FIELDS)
    match error:
        case TokenMissing():
            fields.append((b"www-authenticate", _challenge("") + _BASIC))
        case TokenInvalid():
            fields.append((b"www-authenticate", _challenge(', error="invalid_token"') + _BASIC))
        case MethodRefused(allowed=allowed):
            fields.append((b"allow", ", ".join(allowed).encode("ascii")))
        case UploadLocked():
            fields.append((b"retry-after", b"1"))
        case ScopeMissing():
            lacks = f', error="insufficient_scope", scope="{error.scope}"'
            fields.append((b"www-authenticate", _challenge(lacks)))
    return fields


_BASIC = b', Basic realm="forebay", charset="UTF-8"'


def _challenge(more: str) -> bytes:
    return b'Bearer realm="forebay"' + more.encode("ascii")


async def send_problem(
    send: Send,
    error: Exception,
    *,
    head: bool = False,
    fields: Iterable[Field] = (),
    more: Mapping[str, Any] | None = None,
) -> None:
    """Answer with *error* as a whole ASGI response. *head*: without its body (RFC 9110 section 9.3.2). *fields* and
    *more* of the document, with its status, come on top of those that each problem has."""
    note_if_ours(error)
    _, document = problem_of(error)
    document |= more or {}
    body = problem_body(document)
    every = [*problem_fields(error), (b"content-length", b"%d" % len(body)), *fields]
    await send({"type": "http.response.start", "status": document["status"], "headers": every})
    await send({"type": "http.response.body", "body": b"" if head else body})
