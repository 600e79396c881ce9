"""Where an answer ends: what its status lets it have of a body and a Content-Length (RFC 9110 sections 8.6, 15)."""

from __future__ import annotations

from forebay.errors import InvalidHeader, InvalidMessage, StateError
from forebay.messages.asgi import Field
from forebay.messages.headers import Headers

# No content, whatever their fields say (RFC 9110 sections 15.3.5, 15.3.6, 15.4.5).
_BODILESS = (204, 205, 304)


def check_status(code: object) -> int:
    """*code*, or `InvalidMessage`: an int from 100 to 599."""
    if not isinstance(code, int) or isinstance(code, bool) or not 100 <= code <= 599:
        raise InvalidMessage("status", expected="an int from 100 to 599", got=code)
    return int(code)


def check_body(status: int, *, size: int) -> None:
    """Raise `StateError` unless an answer with *status* can have a body of *size* bytes."""
    if size and status in _BODILESS:
        raise StateError(f"a {status} has no body; set another status, or leave the body away")


def framed(status: int, headers: Headers, *, size: int | None) -> list[tuple[str, str]]:
    """*headers* of an answer whose body has *size* bytes (None: nobody knows yet), with its Content-Length. Raises
    `StateError` and `InvalidHeader` where body, status and length contradict each other."""
    if status < 200:
        raise StateError(f"{status} is no answer, but what comes before one; set a status from 200 on")
    check_body(status, size=size or 0)
    fields = headers.items_all()
    declared = next((value for name, value in fields if name.lower() == "content-length"), None)
    if status == 204 and declared is not None:
        raise InvalidHeader("header field Content-Length", expected="none in a 204", got=declared)
    if status in (204, 304) or (size is None and status != 205):
        return fields
    if declared is None:
        return [*fields, ("Content-Length", str(size or 0))]
    if int(declared) != (size or 0):
        raise InvalidHeader("header field Content-Length", expected=f"{size or 0}, what the body has", got=declared)
    return fields


def has_body(method: str, status: int) -> bool:
    """Whether the answer to *method* with *status* carries its body."""
    return method != "HEAD" and status not in _BODILESS


def encoded(fields: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[Field]:
    """*fields* as ASGI has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
