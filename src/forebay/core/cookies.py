"""Set-Cookie fields, as RFC 6265bis has servers write them (section 4.1)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

from forebay.core.fields import format_http_date
from forebay.errors import InvalidHeader

SameSite = Literal["Strict", "Lax", "None"]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OCTETS = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_VALUE = re.compile(rf'{_OCTETS}|"{_OCTETS}"')
_ATTRIBUTE = re.compile(r"[\x20-\x3a\x3c-\x7e]+")
# What browsers keep of name and value together (section 5.6).
_LONGEST = 4096


def format_set_cookie(
    name: str,
    value: str,
    *,
    max_age_s: int | None,
    expires: datetime | None,
    domain: str | None,
    path: str | None,
    secure: bool,
    http_only: bool,
    same_site: SameSite | None,
    partitioned: bool,
) -> str:
    """The field's value. Raises `InvalidHeader` for what browsers would cut, or not keep: a comma or a semicolon in
    the value, SameSite=None without Secure, a prefix of the name that the attributes do not keep."""
    if not _NAME.fullmatch(name):
        raise _invalid("a token for a name", name)
    if not _VALUE.fullmatch(value):
        # Not quoted back: it may be a session.
        raise _invalid("a value of ASCII without spaces, quotes, commas, semicolons and backslashes", name)
    if len(name) + len(value) > _LONGEST:
        raise _invalid(f"at most {_LONGEST} characters of name and value", name)
    for text in (domain, path):
        if text is not None and not _ATTRIBUTE.fullmatch(text):
            raise _invalid("a domain and a path of ASCII without semicolons", text)
    if same_site not in ("Strict", "Lax", "None", None):
        raise _invalid("SameSite as Strict, Lax or None", same_site)
    if (same_site == "None" or partitioned or name.lower().startswith(("__secure-", "__host-"))) and not secure:
        raise _invalid("secure=True with SameSite=None, Partitioned and the prefixes __Secure- and __Host-", name)
    if name.lower().startswith("__host-") and (domain is not None or path != "/"):
        raise _invalid('path="/" and no domain with the prefix __Host-', name)
    parts = [f"{name}={value}"]
    if max_age_s is not None:
        parts.append(f"Max-Age={int(max_age_s)}")
    if expires is not None:
        if expires.tzinfo is None:
            raise _invalid("a moment with a time zone for Expires", expires.isoformat())
        parts.append(f"Expires={format_http_date(expires.timestamp())}")
    parts += [f"{key}={text}" for key, text in (("Domain", domain), ("Path", path)) if text is not None]
    parts += [word for word, said in (("Secure", secure), ("HttpOnly", http_only)) if said]
    parts += [] if same_site is None else [f"SameSite={same_site}"]
    return "; ".join([*parts, "Partitioned"] if partitioned else parts)


def _invalid(expected: str, got: str) -> InvalidHeader:
    return InvalidHeader("header field Set-Cookie", expected=expected, got=got)
