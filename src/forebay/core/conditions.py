"""Preconditions: whether an incoming message wants its method performed at all (RFC 9110 section 13)."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto

from forebay.core.fields import (
    Fields,
    etags_match_strongly,
    etags_match_weakly,
    parse_http_date,
    year_at,
)

SAFE_METHODS = frozenset({"GET", "HEAD"})
"""The methods that a failed If-None-Match or If-Modified-Since answers with 304."""

_LISTED_ETAG = re.compile(r'[ \t]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,|$)')


class Outcome(Enum):
    """What the preconditions of an incoming message come to."""

    PROCEED = auto()
    """Perform the method; for a GET with Range, If-Range comes next (`forebay.core.ranges.if_range_holds`)."""

    NOT_MODIFIED = auto()
    """304: the client has what it would get."""

    FAILED = auto()
    """412: what the client acts on is no longer so."""


def evaluate(
    method: str, incoming: Fields, *, etag: str | None, last_modified: float | None, now: float
) -> Outcome:
    """What the preconditions in *incoming* come to, in the order of RFC 9110 section 13.2.2.

    For a resource that has a current representation, with this *etag* and *last_modified* (Unix seconds) as
    far as there are any; to be asked only when the answer would else be a success (section 13.2.1). *now*
    dates two-digit years. A malformed or repeated date is as if absent, a malformed entity-tag matches nothing.
    """
    if (wanted := incoming.joined("If-Match")) is not None:
        if not _names(wanted, etag, etags_match_strongly):
            return Outcome.FAILED
    elif (since := incoming.joined("If-Unmodified-Since")) is not None:
        date = parse_http_date(since, now_year=year_at(now))
        if last_modified is not None and date is not None and last_modified > date:
            return Outcome.FAILED
    if (known := incoming.joined("If-None-Match")) is not None:
        if _names(known, etag, etags_match_weakly):
            return Outcome.NOT_MODIFIED if method in SAFE_METHODS else Outcome.FAILED
    elif method in SAFE_METHODS and (since := incoming.joined("If-Modified-Since")) is not None:
        date = parse_http_date(since, now_year=year_at(now))
        if last_modified is not None and date is not None and last_modified <= date:
            return Outcome.NOT_MODIFIED
    return Outcome.PROCEED


def _names(value: str, etag: str | None, match: Callable[[str, str], bool]) -> bool:
    """Whether *value*, ``*`` or a list of entity-tags, names the representation that has *etag*."""
    if value.strip(" \t") == "*":
        return True
    # Alone, not as a member: a list with `*` in it is malformed (section 13.1.1).
    return etag is not None and any(match(listed, etag) for listed in _etags(value))


def _etags(value: str) -> list[str]:
    """The well-formed entity-tags of a list: they may have commas in them, so it cannot just be split."""
    etags: list[str] = []
    position = 0
    while position < len(value):
        found = _LISTED_ETAG.match(value, position)
        if found is not None:
            etags.append(found[1])
            position = found.end()
        else:
            position = value.find(",", position) + 1 or len(value)
    return etags
