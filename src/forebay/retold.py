"""Errors that were told of: a server's by its answer, a version's by its row. Of the class that they were."""

from __future__ import annotations

from functools import cache
from typing import Any

from forebay import errors
from forebay.errors import ForebayError, OriginError, RemoteError


def failure_of(code: str | None, detail: str | None) -> ForebayError:
    """Why a version failed, by its row."""
    return error_of(code or OriginError.code, detail or "the fetch failed")


def error_of(
    code: str,
    detail: str,
    *,
    status: int | None = None,
    retryable: bool | None = None,
    parts: dict[str, Any] | None = None,
) -> ForebayError:
    """The error with this *code*, of the class that has it: ``str()`` is *detail*. *parts* become attributes; what
    is not given is as the class has it."""
    kind = _kinds().get(code)
    if kind is None and code.startswith("origin_"):
        return OriginError(code, detail, retryable=retryable is True)
    if kind is None:
        return RemoteError(code, detail, status=status or RemoteError.status, retryable=retryable is True)
    error = _told_kind(kind).__new__(_told_kind(kind), code, detail)
    retryable = kind.retryable if retryable is None else retryable
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
    """With the sentence that was told: not all that the error's own is made of travels."""

    def __str__(self) -> str:
        return str(vars(self)["detail"])

    def __reduce__(self) -> Any:
        parts = dict(vars(self))
        arguments = [parts.pop(name) for name in ("code", "detail", "status", "retryable")]
        return _told_again, (*arguments, parts)


def _told_again(code: str, detail: str, status: int, retryable: bool, parts: dict[str, Any]) -> ForebayError:
    return error_of(code, detail, status=status, retryable=retryable, parts=parts)


_told_kinds: dict[type[ForebayError], type[ForebayError]] = {}


def _told_kind(kind: type[ForebayError]) -> type[ForebayError]:
    if kind not in _told_kinds:
        members = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        _told_kinds[kind] = type(kind.__name__, (_Told, kind), members)
    return _told_kinds[kind]
