"""URLs (RFC 3986): the spelling that is fetched, the one that people may see, and redirect targets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_plus, urlencode

from forebay.errors import InvalidUrl, InvalidValue

MAX_URL_BYTES = 8192
"""The longest URL that is fetched; RFC 9110 section 4.1 asks for 8000, nginx and Apache stop near 8 KiB."""

UPLOADED = "forebay:"
"""How the URL of a Request begins whose versions are uploaded."""

DEFAULT_PORTS = {"http": 80, "https": 443}

# RFC 3986 appendix B, with the scheme held to its grammar so that `a b:c` is a relative path.
_SPLIT = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*):)?(?://(?P<authority>[^/?#]*))?"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?",
    re.DOTALL,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HOST = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?")
_PORT = re.compile(r"[0-9]{1,8}")
_ZONE = re.compile(r"[A-Za-z0-9._~-]{1,64}")

# What requests leaves alone as well: reserved characters and existing percent-encoding.
_KEEP = "!$%&'()*+,/:;=?@[]~"


class _Parts(NamedTuple):
    scheme: str
    host: str
    port: int
    path: str
    query: str | None


class _Rejected(Exception):
    """Why a URL is not fetched; `normalise_url` adds the URL itself, free of secrets."""


def normalise_url(url: str) -> str:
    """The spelling of *url* that is fetched and that identifies a Request.

    http or https with a host, without user name or password, at most `MAX_URL_BYTES`. Scheme and host are in
    lower case, an IDN host in its A-label form (IDNA 2003, the standard library's codec), default port and
    fragment are dropped, an empty path is ``/``, and what RFC 3986 does not allow in path and query is
    percent-encoded as UTF-8. Percent-encoding, ``//`` and ``..`` stay as they are: they may mean something to
    the origin. Idempotent. Raises `InvalidUrl`, which never shows a secret.
    """
    return _join(_parse(url))


def request_url(url: str) -> str:
    """The spelling of *url* that identifies a Request: of something that is fetched (`normalise_url`), or of what
    is uploaded under a name, ``forebay:<name>`` with the name percent-encoded. Raises `InvalidUrl`."""
    scheme, colon, name = url.strip().partition(":")
    if scheme.lower() != "forebay" or not colon or name.startswith("//"):
        return normalise_url(url)
    try:
        return upload_url(unquote(name, errors="strict"))
    except UnicodeError:
        raise InvalidUrl(show_url(url)[:200], reason="its name is no UTF-8") from None


def upload_url(name: str) -> str:
    """The URL of what is uploaded under *name*, which may be any text. Raises `InvalidValue`."""
    try:
        encoded = quote(name, safe="/")
    except UnicodeEncodeError as error:
        raise InvalidValue("name", expected="Unicode text", got="a lone surrogate") from error
    if not 0 < len(encoded) <= MAX_URL_BYTES - len(UPLOADED):
        raise InvalidValue("name", expected=f"1 to {MAX_URL_BYTES - len(UPLOADED)} bytes", got=name)
    # Two slashes would begin an authority (RFC 3986 section 3).
    return UPLOADED + ("%2F" + encoded[1:] if encoded.startswith("//") else encoded)


def origin_of(url: str) -> str:
    """``scheme://host:port`` of *url* in lower case, always with its port (RFC 9110 section 4.3.1).

    The key of per-host budgets and of credentials. Raises `InvalidUrl`.
    """
    parts = _parse(url)
    return f"{parts.scheme}://{parts.host}:{parts.port}"


def with_query(url: str, params: Mapping[str, str | Sequence[str]] | None) -> str:
    """*url* with *params* appended to its query, percent-encoded as UTF-8 with ``%20`` for a space.

    A sequence gives one parameter for each of its members. Raises `InvalidValue` for a lone surrogate.
    """
    if not params:
        return url
    try:
        added = urlencode(params, doseq=True, quote_via=quote)
    except UnicodeEncodeError as error:
        # Without the text: a value may be a secret.
        raise InvalidValue("params", expected="Unicode text", got="a lone surrogate") from error
    if not added:
        return url
    head, hash_, fragment = url.partition("#")
    joint = "?" if "?" not in head else "" if head[-1] in "?&" else "&"
    return head + joint + added + hash_ + fragment


def resolve_redirect(base: str, location: str) -> str:
    """The normalised target of a Location field that the origin of *base* sent (RFC 9110 section 10.2.2).

    Tolerates spaces and raw UTF-8, also when it arrives decoded as latin-1; other raw bytes are kept as they
    are, percent-encoded. Raises `InvalidUrl`.
    """
    target = _SPLIT.fullmatch(_repair_latin1(location.strip()))
    assert target  # the pattern matches every string
    scheme, authority, path, query = target.group("scheme", "authority", "path", "query")
    source = _parse(base)
    # RFC 3986 section 5.2.2 lets `http:page` be relative, as browsers do.
    if scheme is not None and (scheme.lower() != source.scheme or authority is not None):
        return normalise_url(target.group())
    if authority is not None:
        return normalise_url(f"{source.scheme}:{target.group()}")
    if not path:
        path, query = source.path, source.query if query is None else query
    elif path.startswith("/"):
        path = _remove_dot_segments(path)
    else:
        path = _remove_dot_segments(source.path[: source.path.rfind("/") + 1] + path)
    return normalise_url(_join(source._replace(path=path, query=query)))


# --- parse and join -----------------------------------------------------------------------------------


def _parse(url: str) -> _Parts:
    try:
        return _checked_parts(url.strip())
    except _Rejected as rejected:
        shown = show_url(url)
        if len(shown) > 200:
            shown = shown[:197] + "..."
        raise InvalidUrl(shown, reason=str(rejected)) from None


def _checked_parts(url: str) -> _Parts:
    if len(url.encode("utf-8", "surrogatepass")) > MAX_URL_BYTES:
        raise _Rejected(f"it is longer than {MAX_URL_BYTES} bytes")
    if _CONTROL.search(url):
        raise _Rejected("it has a control character inside")
    split = _SPLIT.fullmatch(url)
    assert split  # the pattern matches every string
    scheme, authority, path, query = split.group("scheme", "authority", "path", "query")
    if scheme is None or (scheme := scheme.lower()) not in DEFAULT_PORTS:
        raise _Rejected("only URLs that begin with http:// or https:// are fetched")
    if not authority:
        raise _Rejected("it has no host")
    if "@" in authority:
        raise _Rejected("it has a user name or password; send an Authorization header field instead")
    host, port = _split_authority(authority, default_port=DEFAULT_PORTS[scheme])
    path = quote(path, safe=_KEEP) or "/"
    parts = _Parts(scheme, host, port, path, None if query is None else quote(query, safe=_KEEP))
    if len(_join(parts)) > MAX_URL_BYTES:
        raise _Rejected(f"percent-encoded, it is longer than {MAX_URL_BYTES} bytes")
    return parts


def _join(parts: _Parts) -> str:
    scheme, host, port, path, query = parts
    authority = host if port == DEFAULT_PORTS[scheme] else f"{host}:{port}"
    return f"{scheme}://{authority}{path}" + ("" if query is None else f"?{query}")


def _split_authority(authority: str, *, default_port: int) -> tuple[str, int]:
    if authority.startswith("["):
        literal, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _Rejected("its host is not a valid IPv6 address in brackets")
        host, port_text = _ipv6_host(literal), rest[1:]
    else:
        name, _, port_text = authority.partition(":")
        host = _named_host(name)
    if not port_text:
        return host, default_port
    if not _PORT.fullmatch(port_text) or not 1 <= int(port_text) <= 65535:
        raise _Rejected("its port is not a number from 1 to 65535; an IPv6 address needs brackets")
    return host, int(port_text)


def _ipv6_host(literal: str) -> str:
    """The address in brackets, in one spelling; a zone id in the form of RFC 6874 (``%25eth0``)."""
    text, percent, zone = literal.partition("%")
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise _Rejected("its host is not a valid IPv6 address in brackets") from None
    if zone.startswith("25") and len(zone) > 2:
        zone = zone[2:]
    if percent and not _ZONE.fullmatch(zone):
        raise _Rejected("the zone id of its IPv6 address is not valid")
    # Spelled out: str() of a v4-mapped address differs between Python 3.12 and 3.13; a URL is an identity.
    mapped = address.ipv4_mapped
    spelled = str(address) if mapped is None else f"::ffff:{mapped}"
    return f"[{spelled}%25{zone}]" if percent else f"[{spelled}]"


def _named_host(name: str) -> str:
    """A registered name or an IPv4 address in any spelling; what it leads to is the gate's question."""
    if not name:
        raise _Rejected("it has no host")
    try:
        host = unquote(name, errors="strict") if "%" in name else name
        if not host.isascii():
            if len(host) > 253:  # the idna codec takes quadratic time for long labels
                raise _Rejected("its host is longer than 253 characters")
            host = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise _Rejected("its host is not a valid international domain name") from None
    host = host.lower()
    if len(host) > 254 or not _HOST.fullmatch(host):
        raise _Rejected("its host is not a valid name or address")
    return host


def _remove_dot_segments(path: str) -> str:
    """RFC 3986 section 5.2.4 for a path that begins with ``/``; empty segments stay (urljoin loses them)."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _repair_latin1(text: str) -> str:
    """Undo the decoding as latin-1 of a field that carries raw UTF-8 or other raw bytes."""
    if text.isascii():
        return text
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        return text
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(char if char < "\x80" else f"%{ord(char):02X}" for char in text)


# --- for people ---------------------------------------------------------------------------------------

_SECRET_WORDS = (
    "token", "signature", "secret", "password", "passwd", "passphrase", "credential", "apikey", "accesskey",
    "privatekey", "authkey", "appkey", "clientkey", "userkey", "accountkey", "subscriptionkey", "licensekey",
    "session", "sessid", "jwt", "bearer", "authorization", "hmac", "otp",
)  # fmt: skip
_SECRET_PARAMETERS = frozenset(
    {"key", "sig", "auth", "pwd", "pass", "pw", "sid", "sas", "hdnea", "hdnts", "hdntl", "code"}
)
_NOT_WORD = re.compile(r"[^a-z0-9]+")
_SHOWN = re.compile(
    r"(?P<prefix>\s*(?:[A-Za-z][A-Za-z0-9+.\-]*:(?=[/\\]))?[/\\]*)(?P<authority>[^/\\?#]*)"
    r"(?P<path>[^?#]*)(?P<query>(?:\?[^#]*)?)(?P<fragment>(?:#.*)?)",
    re.DOTALL,
)
_HOST_AND_PORT = re.compile(r"(?:\[[^\]]*\]|[^:]+)(?::[0-9]*)?")
_NAME = re.compile(r"([^=;?]*)=")
_MATRIX = re.compile(r";([^=;/]*)=[^;/]*")


def is_secret_parameter(name: str) -> bool:
    """Whether the value of a query parameter of this name is kept from people and logs; errs towards yes."""
    word = _NOT_WORD.sub("", name.lower())
    return word in _SECRET_PARAMETERS or any(secret in word for secret in _SECRET_WORDS)


def show_url(url: str) -> str:
    """*url* for people and logs: without user name and password, secret-looking parameters as ``***``.

    Takes any text, valid URL or not, and gives one printable line. Never raises. Not a URL to fetch.
    """
    split = _SHOWN.fullmatch(url)
    assert split  # the pattern matches every string
    prefix, authority, path, query, fragment = split.group("prefix", "authority", "path", "query", "fragment")
    authority = authority.rpartition("@")[2]
    rest = path + query + fragment
    if "@" in rest and not _HOST_AND_PORT.fullmatch(authority):
        # `http://user:pa/ss@host/`: a password with an unescaped slash ends the authority too early.
        return show_url(prefix + rest.rpartition("@")[2])
    shown = prefix + authority + _MATRIX.sub(_mask_matrix, path) + _mask_pairs(query) + _mask_pairs(fragment)
    if shown.isprintable():
        return shown
    return "".join(char if char.isprintable() else _escape(char) for char in shown)


def _mask_pairs(text: str) -> str:
    return "&".join([_mask_pair(pair) for pair in text.split("&")]) if "=" in text else text


def _mask_pair(pair: str) -> str:
    for found in _NAME.finditer(pair):
        if is_secret_parameter(unquote_plus(found[1])):
            return pair[: found.end()] + "***"
    return pair


def _mask_matrix(found: re.Match[str]) -> str:
    return f";{found[1]}=***" if is_secret_parameter(unquote(found[1])) else found[0]


def _escape(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
