"""Problem documents (RFC 9457) back to the errors that they were made of."""

from __future__ import annotations

import json
from typing import Any

from forebay.core.fields import Fields, media_type
from forebay.errors import ForebayError
from forebay.retold import error_of


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


def error_in(problem: dict[str, Any], *, status: int) -> ForebayError:
    """The error that *problem* tells of: of the class that has its code, with the server's words."""
    code = str(problem.get("code") or "remote_error")
    detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    parts = {name: value for name, value in problem.items() if name not in _MEMBERS}
    return error_of(code, detail, status=status, retryable=problem.get("retryable") is True, parts=parts)


# What a problem document is made of; what else it has are parts of the error.
_MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code", "retryable"})
