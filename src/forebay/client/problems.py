"""Problem documents (RFC 9457) back to the errors that they were made of."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from forebay import errors
from forebay.core.fields import Fields, media_type
from forebay.errors import ForebayError, OriginError, RemoteError


def is_problem(status: int, fields: Fields) -> bool:
    """Whether an answer is a problem document, which only the server itself writes."""
    return status >= 400 and media_type(fields.get("Content-Type")) == "application/problem+json"


def problem_in(body: bytes) -> dict[str, Any]:
    """The members of a problem document; none if it cannot be read."""
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def error_of(problem: dict[str, Any], *, status: int) -> ForebayError:
    """The error that *problem* tells of: of the class that has its code, with the server's words."""
    code = str(problem.get("code") or "remote_error")
    detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    parts = {name: value for name, value in problem.items() if name not in _MEMBERS}
    return told(code, detail, status=status, retryable=problem.get("retryable") is True, parts=parts)


# What a problem document is made of; what else it has are parts of the error.
_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code", "retryable"})


def told(
    code: str,
    detail: str,
    *,
    status: int | None = None,
    retryable: bool = False,
    parts: dict[str, Any] | None = None,
) -> ForebayError:
    """The error with this *code*, as a server told of it: ``str()`` is its *detail*. *parts* become attributes."""
    kind = _kinds().get(code)
    if kind is None and code.startswith("origin_"):
        return OriginError(code, detail, retryable=retryable)
    if kind is None:
        return RemoteError(code, detail, status=status or RemoteError.status, retryable=retryable)
    error = _told_kind(kind).__new__(_told_kind(kind), code, detail)
    own = {"code": code, "detail": detail, "status": status or kind.status, "retryable": retryable}
    vars(error).update((parts or {}) | own)
    return error


@cache
def _kinds() -> dict[str, type[ForebayError]]:
    """The class of each code."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ForebayError)]
    own = {kind.code: kind for kind in kinds if "code" in vars(kind)}
    # It takes its code from its base, and gives it to its instances.
    return own | {"content_too_large": errors.ContentTooLarge}


class _Told(ForebayError):
    """With the sentence of a server: not all that the error's own is made of travels."""

    def __str__(self) -> str:
        return str(vars(self)["detail"])

    def __reduce__(self) -> Any:
        parts = dict(vars(self))
        arguments = [parts.pop(name) for name in ("code", "detail", "status", "retryable")]
        return _told_again, (*arguments, parts)


def _told_again(code: str, detail: str, status: int, retryable: bool, parts: dict[str, Any]) -> ForebayError:
    return told(code, detail, status=status, retryable=retryable, parts=parts)


_told_kinds: dict[type[ForebayError], type[ForebayError]] = {}


def _told_kind(kind: type[ForebayError]) -> type[ForebayError]:
    if kind not in _told_kinds:
        members = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        _told_kinds[kind] = type(kind.__name__, (_Told, kind), members)
    return _told_kinds[kind]
