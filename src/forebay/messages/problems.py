"""Problem documents (RFC 9457): what an error looks like to a program."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from forebay.errors import DiskReserved, ForebayError, StorageError

MEDIA_TYPE = "application/problem+json"

log = logging.getLogger("forebay.server")

# Renamed by RFC 9110; Python has the new names from 3.13 on.
_PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}


def phrase_of(status: int) -> str:
    """What a status is called; that of its class where it has no name."""
    if status in _PHRASES:
        return _PHRASES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # RFC 9110 section 15: an unknown one counts as the first of its class
        return HTTPStatus(status // 100 * 100).phrase


def document_of(status: int, *, detail: str, title: str | None = None, **more: Any) -> dict[str, Any]:
    """A problem document. Without a *title* it is about no more than its status (RFC 9457 section 4.2.1)."""
    known = {"type": "about:blank", "title": title or phrase_of(status), "status": status, "detail": detail}
    return known | more


def problem_body(document: dict[str, Any]) -> bytes:
    """*document* as JSON, in ASCII: whatever was quoted in it cannot break it."""
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def note_if_ours(error: Exception) -> None:
    """Log what a client is not told: errors of the storage, and those that nobody foresaw."""
    if isinstance(error, DiskReserved):
        log.info("%s [%s]", error, error.code)  # a limit like others, though not the client's
    elif isinstance(error, StorageError):
        log.error("%s [%s]", error, error.code)
    elif not isinstance(error, ForebayError):
        log.error("this should not happen", exc_info=error)
