"""Header fields: hold, check, parse and build those that Forebay uses (RFC 9110 and its neighbours)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import quote

from forebay.core.structured import format_bytes, format_integer, format_text, parse_dictionary, parse_integer
from forebay.core.urls import show_url
from forebay.errors import InvalidValue

# --- a message's fields -------------------------------------------------------------------------------


class Fields:
    """The header fields of one message: immutable, in order, names in any case (RFC 9110 section 5).

    Takes pairs as they came and checks nothing: `check_field` guards what Forebay sends. Equal are two that
    give each name the same values in the same order; the order of different names does not count (section
    5.3).
    """

    __slots__ = ("_index", "_pairs")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = tuple(pairs)
        self._index: dict[str, list[str]] | None = None

    def get(self, name: str) -> str | None:
        """The first value of *name*; `None` when it is absent."""
        values = self._by_name().get(name.lower())
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Every value of *name*, in order, one for each field line."""
        return list(self._by_name().get(name.lower(), ()))

    def joined(self, name: str) -> str | None:
        """Every value of *name* as one, with commas between the field lines; `None` when it is absent.

        RFC 9110 section 5.3. Two lines of a field that is no list break its grammar this way, as they should.
        """
        values = self._by_name().get(name.lower())
        return ", ".join(values) if values else None

    def _by_name(self) -> dict[str, list[str]]:
        # Built at the first question: many answers are stored without being asked anything.
        index = self._index
        if index is None:
            index = {}
            for name, value in self._pairs:
                index.setdefault(name.lower(), []).append(value)
            self._index = index
        return index

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._by_name()

    def __eq__(self, other: object) -> bool:
        return self._by_name() == other._by_name() if isinstance(other, Fields) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset((name, tuple(values)) for name, values in self._by_name().items()))

    def __repr__(self) -> str:
        return f"Fields({[(name, _shown(name, value)) for name, value in self._pairs]!r})"


# --- names and secrets --------------------------------------------------------------------------------

SECRET_FIELDS: frozenset[str] = frozenset(
    {
        "authorization", "proxy-authorization", "authentication-info", "proxy-authentication-info",
        "cookie", "cookie2", "set-cookie", "set-cookie2",
        "x-auth", "x-auth-key", "x-auth-token", "x-amz-security-token", "x-api-key",
        "x-goog-iap-jwt-assertion",
    }
)  # fmt: skip
"""Names, in lower case, of fields whose values are secret; `is_secret_field` knows more by their words."""

_SECRET_WORDS = (
    "token", "secret", "apikey", "accesskey", "authkey", "privatekey", "accountkey", "subscriptionkey",
    "encryptionkey", "customerkey", "password", "passwd", "passphrase", "signature", "credential",
    "authorization", "cookie", "session", "jwt", "bearer", "assertion",
)  # fmt: skip
_URL_FIELDS = frozenset({"location", "content-location", "referer"})

_TCHARS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NAME = re.compile(_TCHARS)
_NOT_IN_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def is_secret_field(name: str) -> bool:
    """Whether the value of a field of this name is kept out of answers, logs and errors; errs towards yes."""
    name = name.lower()
    if name in SECRET_FIELDS:
        return True
    word = name.replace("-", "").replace("_", "")
    return any(secret in word for secret in _SECRET_WORDS)


def check_field(name: str, value: str) -> None:
    """Raise `InvalidValue` when the field cannot be sent (RFC 9110 sections 5.1 and 5.5).

    The name must be a token; the value must be latin-1 without control characters but HTAB. The error says
    which character is wrong and where, and never holds the value.
    """
    token = _NAME.match(name)
    if token is None or token.end() != len(name):
        # Up to the first wrong character: `Authorization: Basic ...` as a name would tell the secret.
        wrong = name[: (token.end() if token else 0) + 1]
        raise InvalidValue("header field name", expected="a token (RFC 9110 section 5.6.2)", got=wrong)
    bad = _NOT_IN_VALUE.search(value)
    if bad is not None:
        raise InvalidValue(
            f"header field {name}",
            expected="latin-1 text without control characters (RFC 9110 section 5.5)",
            got=f"U+{ord(bad[0]):04X} at position {bad.start()}",
        )


def is_sendable(value: str) -> bool:
    """Whether *value* can be a field's value as it is (RFC 9110 section 5.5): what `check_field` asks of it."""
    return _NOT_IN_VALUE.search(value) is None


def _shown(name: str, value: str) -> str:
    if is_secret_field(name):
        return "***"
    return show_url(value) if name.lower() in _URL_FIELDS else value


# --- dates --------------------------------------------------------------------------------------------

MAX_WAIT_S = float(2**31)
"""The longest delay that is believed, in seconds; where RFC 9111 section 1.2.2 lets a delta overflow."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH_NUMBERS = {month.lower(): number for number, month in enumerate(_MONTHS, 1)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000 = 253_402_300_800  # which no HTTP-date can write

_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
# IMF-fixdate and RFC 850 in one, with the mixtures that servers send: `Sun, 06-Nov-1994`, one-digit days.
_GMT_DATE = re.compile(
    r"[A-Za-z]{3,9}, (?P<day>[0-9]{1,2})[ -](?P<month>[A-Za-z]{3})[ -](?P<year>[0-9]{4}|[0-9]{2}) "
    + _TIME
    + " (?:GMT|UTC)"
)
_ASCTIME_DATE = re.compile(
    r"[A-Za-z]{3} (?P<month>[A-Za-z]{3}) (?P<day>[ 0-9][0-9]) " + _TIME + r" (?P<year>[0-9]{4})"
)


def parse_http_date(value: str | None, *, now_year: int = 2026) -> float | None:
    """Unix seconds of an HTTP-date in any of its three forms; `None`: absent or malformed.

    RFC 9110 section 5.6.7: a two-digit year is the one at most 50 years after *now_year* and less than 50
    before it. The name of the day is not compared with the date: servers get it wrong, the rest decides.
    """
    text = (value or "").strip(" \t")
    found = _GMT_DATE.fullmatch(text) or _ASCTIME_DATE.fullmatch(text)
    if found is None:
        return None
    month = _MONTH_NUMBERS.get(found["month"].lower())
    year, second = int(found["year"]), int(found["second"])
    if month is None or second > 60:
        return None
    if len(found["year"]) == 2:
        year = now_year + (year - now_year + 49) % 100 - 49
    try:
        day = datetime(year, month, int(found["day"]), int(found["hour"]), int(found["minute"]), tzinfo=UTC)
    except ValueError:
        return None
    unix_s = (day - _EPOCH).total_seconds() + second  # a leap second, 60, is the next minute's first
    return unix_s if unix_s < _YEAR_10000 else None


def year_at(unix_s: float) -> int:
    """The year of *unix_s*, near enough for a two-digit year: wrong for hours around New Year at most."""
    return 1970 + int(unix_s // 31_556_952)  # the mean Gregorian year, in seconds


def format_http_date(unix_s: float) -> str:
    """An IMF-fixdate, rounded down to the second (RFC 9110 section 5.6.7); for the years 1 to 9999."""
    moment = _EPOCH + timedelta(seconds=math.floor(unix_s))
    day, month = _DAYS[moment.weekday()], _MONTHS[moment.month - 1]  # strftime would follow the locale
    return f"{day}, {moment.day:02} {month} {moment.year:04} {moment:%H:%M:%S} GMT"


def parse_retry_after(value: str | None, *, now_unix: float, date: str | None = None) -> float | None:
    """Seconds to wait, from 0 to `MAX_WAIT_S`; `None`: absent or malformed (RFC 9110 section 10.2.3).

    An HTTP-date is measured against *date*, the Date field of the same answer, so that a wrong clock of ours
    does no harm; against *now_unix* where that is missing or malformed.
    """
    text = (value or "").strip(" \t")
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_WAIT_S)
    now_year = year_at(now_unix)
    then = parse_http_date(text, now_year=now_year)
    if then is None:
        return None
    origin_now = parse_http_date(date, now_year=now_year)
    return min(max(then - (now_unix if origin_now is None else origin_now), 0.0), MAX_WAIT_S)


# --- validators, lengths, types -----------------------------------------------------------------------

_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')
_MEDIA_TYPE = re.compile(rf"({_TCHARS}/{_TCHARS})[ \t]*(?:;.*)?", re.DOTALL)
_MAX_LENGTH = 2**63 - 1


class AmbiguousLength(ValueError):
    """A Content-Length that does not name one length; the message's end cannot be known from it."""


def is_strong_etag(value: str | None) -> bool:
    """Whether *value* is one well-formed entity-tag and not a weak one (RFC 9110 section 8.8.3)."""
    return value is not None and _STRONG_ETAG.fullmatch(value.strip(" \t")) is not None


def etags_match_strongly(a: str | None, b: str | None) -> bool:
    """Whether both name the same bytes: equal and both strong (RFC 9110 section 8.8.3.2)."""
    return a is not None and b is not None and is_strong_etag(a) and a.strip(" \t") == b.strip(" \t")


def etags_match_weakly(a: str | None, b: str | None) -> bool:
    """Whether both are well-formed and equal but for a ``W/`` (RFC 9110 section 8.8.3.2)."""
    return a is not None and b is not None and etags_match_strongly(_unweakened(a), _unweakened(b))


def _unweakened(etag: str) -> str:
    return etag.strip(" \t").removeprefix("W/")


def content_length(fields: Fields) -> int | None:
    """The length that Content-Length declares; `None`: there is none (RFC 9110 section 8.6).

    Equal repeated values are one. Raises `AmbiguousLength` for different or malformed ones, and past 63 bits.
    """
    lengths: set[int] = set()
    for line in fields.all("content-length"):
        for member in line.split(","):
            digits = member.strip(" \t")
            if not (digits.isascii() and digits.isdigit()) or len(digits) > 40:
                raise AmbiguousLength(f"Content-Length: expected a number of bytes, got {digits[:40]!r}")
            lengths.add(int(digits))
    if not lengths:
        return None
    length = max(lengths)
    if len(lengths) > 1:
        raise AmbiguousLength(f"Content-Length: expected one length, got {min(lengths)} and {length}")
    if length > _MAX_LENGTH:
        raise AmbiguousLength(f"Content-Length: expected at most {_MAX_LENGTH}, got {length}")
    return length


def media_type(value: str | None) -> str | None:
    """``type/subtype`` in lower case, no parameters; `None`: absent or malformed (RFC 9110 section 8.3.1)."""
    found = _MEDIA_TYPE.fullmatch((value or "").strip(" \t"))
    return None if found is None else found[1].lower()


def accepts_by_name(value: str | None, kind: str) -> bool:
    """Whether an Accept field names *kind*, ``type/subtype``, or all of its type, and does not refuse it (RFC 9110
    section 12.5.1). ``*/*`` names nothing: whoever sends it takes everything, and asked for nothing."""
    best: tuple[int, bool] = (0, False)
    for member in (value or "").split(","):
        name, *parameters = (part.strip(" \t").lower() for part in member.split(";"))
        exactness = 2 if name == kind else 1 if name == kind.partition("/")[0] + "/*" else 0
        refused = any(re.fullmatch(r"q=0(?:\.0*)?", parameter) for parameter in parameters)
        best = max(best, (exactness, not refused), key=lambda one: one[0])
    return best[0] > 0 and best[1]


# --- digests: RFC 9530 --------------------------------------------------------------------------------


def format_digest(algorithm: str, hex_digest: str) -> str:
    """A Repr-Digest or Content-Digest field of one digest; *algorithm* as registered: ``sha-256``."""
    return f"{algorithm}={format_bytes(bytes.fromhex(hex_digest))}"


def digest_preference(value: str | None, algorithm: str) -> int | None:
    """How much a Want-Repr-Digest or Want-Content-Digest field wants *algorithm*, 10 the most, 0 not at all.

    `None`: it does not say. It is absent or malformed, or has no integer from 0 to 10 for it (section 4).
    """
    members = parse_dictionary(value or "") or {}
    preference = parse_integer(members.get(algorithm))
    return preference if preference is not None and 0 <= preference <= 10 else None


# --- caches and links: RFC 9111, 9211, 8288 -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forward:
    """That a cache asked its origin, and why (RFC 9211 sections 2.2, 2.3, 2.5, 2.6).

    *status* is the origin's, where it is not ours; *stored*: the answer was kept; *collapsed*: it is that of an
    exchange which another message had begun.
    """

    reason: Literal["bypass", "method", "uri-miss", "vary-miss", "miss", "request", "stale", "partial"]
    status: int | None = None
    stored: bool = False
    collapsed: bool = False


def format_cache_status(forward: Forward | None, *, ttl_s: float | None = None, detail: str | None = None) -> str:
    """The Cache-Status of this cache, ``forebay`` (RFC 9211); no *forward*: a hit, stale or not.

    *ttl_s*: how long the content stays fresh, below zero when it is stale; `None` or infinite: not said.
    *detail*: an error's code or a short text, without secrets.
    """
    parts = ["forebay"]
    if forward is None:
        parts.append("hit")
    else:
        parts.append(f"fwd={forward.reason}")
        if forward.status is not None:
            parts.append(f"fwd-status={forward.status}")
    if ttl_s is not None and math.isfinite(ttl_s):
        parts.append(f"ttl={format_integer(math.floor(ttl_s))}")
    if forward is not None:
        parts += [name for name, so in (("stored", forward.stored), ("collapsed", forward.collapsed)) if so]
    if detail is not None:
        parts.append(f"detail={format_text(detail)}")
    return "; ".join(parts)


def format_age(age_s: float) -> str:
    """An Age field: whole seconds from 0 to `MAX_WAIT_S` (RFC 9111 sections 5.1 and 1.2.2)."""
    return str(math.floor(min(max(age_s, 0.0), MAX_WAIT_S)))


def format_links(links: Iterable[tuple[str, str]]) -> str:
    """A Link field of pairs of relation type and URI reference (RFC 8288 section 3).

    ``predecessor-version`` and ``successor-version`` are those of RFC 5829. What cannot stand in a URI is
    percent-encoded, so that no target ends early.
    """
    return ", ".join(f'<{quote(target, safe=_URI_CHARS)}>; rel="{relation}"' for relation, target in links)


_URI_CHARS = "!#$%&'()*+,/:;=?@[]~"
