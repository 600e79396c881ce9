"""Who may ask a server for what: the Host that it answers for, the site that a page is from, the token.

A server on loopback is within reach of each page that its user's browser shows. Two things keep those out:
Host must be a name of ours (a page that points its own name at us, "DNS rebinding", still sends its own), and
what does something must not come from a page of another site (Fetch Metadata; Origin). There are no cookies, and
CORS fields for uploads only, where a setting names the site: nothing is granted to a page because of who looks at
it, and none of another site reads answers.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from forebay.catalog.reader import VersionReader
from forebay.catalog.tokens import SCOPES, Scope, Tokens
from forebay.clock import unix_now
from forebay.errors import (
    CrossSiteRefused,
    GroupRefused,
    HostInvalid,
    HostRefused,
    InvalidValue,
    ScopeMissing,
    TokenInvalid,
    TokenMissing,
)
from forebay.server.hot import UntilCommit

_ANYBODY = b""  # in place of a token's digest, while there is no token
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_HOST_LENGTH = 255  # of a name in the DNS (RFC 1035 section 2.3.4)


@dataclass(frozen=True, slots=True)
class Granted:
    """What whoever asks may do. *owner*: the id of its token; None while the folder has no token."""

    owner: str | None
    scopes: frozenset[Scope]
    group: str | None

    def require(self, scope: Scope) -> None:
        """Raise `ScopeMissing` unless *scope* is granted."""
        if scope not in self.scopes:
            raise ScopeMissing(scope)

    def sees(self, group: str) -> bool:
        """Whether it may know of the Requests of *group*."""
        return self.group is None or self.group == group

    def require_group(self, group: str) -> None:
        """Raise `GroupRefused` unless it may use the Requests of *group*."""
        if self.group is not None and self.group != group:
            raise GroupRefused(own=self.group)


EVERYTHING = Granted(owner=None, scopes=frozenset(SCOPES), group=None)
NOTHING = Granted(owner=None, scopes=frozenset(), group=None)


# --- Host: which server is meant ----------------------------------------------------------------------


class Authority(NamedTuple):
    """A host in lower case, an IPv6 address in brackets and in its shortest form; and its port, if it says one."""

    host: str
    port: int | None


_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{0,5}))?")


@lru_cache(maxsize=256)
def parse_authority(text: str) -> Authority | None:
    """The authority that *text* is (RFC 9110 section 7.2, without user information and escapes); None for
    anything else."""
    found = _AUTHORITY.fullmatch(text) if len(text) <= _MAX_HOST_LENGTH + 6 else None
    if found is None:
        return None
    host = found[1].lower()
    port = int(found[2]) if found[2] else None
    if port is not None and port > 65535:
        return None
    if host.startswith("["):
        try:
            return Authority(f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]", port)
        except ValueError:
            return None
    # "localhost." is "localhost": the root is written out.
    host = host.removesuffix(".")
    return Authority(host, port) if host.strip(".") else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts that a server answers for, whatever the port. Made by `of`."""

    names: frozenset[str]
    suffixes: tuple[str, ...] = ()
    every_address: bool = False
    every_name: bool = False

    @classmethod
    def of(cls, bind: str, allowed: Iterable[str] = ()) -> Hosts:
        """Loopback's names, the host that the server listens on, and what was *allowed*: names, ``*.suffix`` for
        all that end so, or ``*`` for any. Raises `InvalidValue`.

        A server that listens on every address (``0.0.0.0``, ``::``) answers for any of them: pointing a name
        elsewhere takes a name.
        """
        names, suffixes = {"127.0.0.1", "localhost", "[::1]"}, []
        every_address = bind in ("0.0.0.0", "::", "[::]", "")  # noqa: S104 - recognised, not bound
        if not every_address:
            names.add(_host(bind, option="host"))
        every_name = False
        for name in allowed:
            if name == "*":
                every_name = True
            elif name.startswith("*."):
                suffixes.append("." + _host(name[2:], option="allow_hosts"))
            else:
                names.add(_host(name, option="allow_hosts"))
        return cls(frozenset(names), tuple(suffixes), every_address, every_name)

    def allow(self, host: str) -> bool:
        """Whether *host*, as `parse_authority` gives it, is one of them."""
        return (
            host in self.names
            or self.every_name
            or (bool(self.suffixes) and host.endswith(self.suffixes))
            or (self.every_address and _is_address(host))
        )


def _host(text: str, *, option: str) -> str:
    bare_ipv6 = ":" in text and not text.startswith("[") and _is_address(text)
    parsed = parse_authority(f"[{text}]" if bare_ipv6 else text)
    if parsed is None or parsed.port is not None:
        raise InvalidValue(
            option, expected="a host name (xn--… where it is not ASCII), an IP address or *.suffix", got=text
        )
    return parsed.host


def host_of(fields: Mapping[bytes, list[str]], *, http_version: str) -> Authority | None:
    """The host that the client means. Raises `HostInvalid` (RFC 9112 section 3.2, RFC 9113 section 8.3.1).

    None only for HTTP/1.0, where Host may be missing: health checks are sent so, browsers send nothing so.
    """
    said = [*fields.get(b":authority", ()), *fields.get(b"host", ())]
    if len(fields.get(b"host", ())) > 1 or len(fields.get(b":authority", ())) > 1:
        raise HostInvalid(got="two")
    parsed = {parse_authority(text) for text in said if text}
    if not parsed:  # the server makes an empty one of a missing one
        if http_version in ("1.0", "1"):
            return None
        raise HostInvalid(got="none")
    if len(parsed) > 1:
        raise HostInvalid(got="one that differs from :authority")
    (only,) = parsed
    if only is None:
        raise HostInvalid(got="something that is no host")
    return only


# --- the site that a page is from ---------------------------------------------------------------------

_ORIGIN = re.compile(r"(https?)://(.+)")


@lru_cache(maxsize=256)
def _parse_origin(text: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin as browsers write it (RFC 6454); None for ``null`` and whatever else."""
    found = _ORIGIN.fullmatch(text)
    authority = None if found is None else parse_authority(found[2])
    if found is None or authority is None:
        return None
    return found[1], authority.host, authority.port or (443 if found[1] == "https" else 80)


@dataclass(frozen=True, slots=True)
class Origins:
    """The origins of pages that may send something although they are of another site. Made by `of`."""

    known: frozenset[tuple[str, str, int]] = frozenset()
    every: bool = False

    @classmethod
    def of(cls, allowed: Iterable[str]) -> Origins:
        """Those that are written so, such as ``https://app.example.org``; ``*`` for any. Raises `InvalidValue`."""
        names = set(allowed)
        parsed = {name: _parse_origin(name) for name in names - {"*"}}
        for name, origin in parsed.items():
            if origin is None:
                raise InvalidValue(
                    "allow_origins", expected="an origin such as https://app.example.org, or *", got=name
                )
        return cls(frozenset(origin for origin in parsed.values() if origin is not None), "*" in names)

    def allow(self, origins: list[str]) -> bool:
        """Whether a message with these ``Origin`` fields is from one of them."""
        return len(origins) == 1 and (self.every or _parse_origin(origins[0]) in self.known)


NO_ORIGINS = Origins()


def check_site(
    fields: Mapping[bytes, list[str]], own: Authority | None, *, scheme: str, allowed: Origins = NO_ORIGINS
) -> None:
    """Refuse what a page of another site sent, unless that is *allowed*: raises `CrossSiteRefused`.

    Browsers say it in ``Sec-Fetch-Site``, over plain HTTP beyond loopback only in ``Origin``; programs say
    neither. ``none`` is the user's own doing, such as an address that was typed. A site is not enough: another
    port of this machine is ``same-site``.
    """
    origins = fields.get(b"origin", [])
    if allowed.allow(origins):
        return
    for site in fields.get(b"sec-fetch-site", ()):
        if site not in ("same-origin", "none"):
            raise CrossSiteRefused(field="Sec-Fetch-Site", got=site)
    for origin in origins:
        if not _is_own(origin, own, scheme=scheme):
            raise CrossSiteRefused(field="Origin", got=origin)


def _is_own(origin: str, own: Authority | None, *, scheme: str) -> bool:
    theirs = _parse_origin(origin)
    if theirs is None or own is None:
        return False  # "null": a sandboxed page, a file, a redirect from elsewhere
    # We see http where a proxy before us speaks TLS; where we speak it ourselves, nothing else is ours.
    if scheme == "https" and theirs[0] != "https":
        return False
    usual = 443 if theirs[0] == "https" else 80
    return theirs[1:] == (own.host, own.port or usual)


# --- the token ----------------------------------------------------------------------------------------

_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def secret_in(authorization: str) -> str:
    """The secret in an Authorization field: a Bearer (RFC 6750 section 2.1), or the password of Basic with
    whatever user name (RFC 7617 section 2). Raises `TokenInvalid`."""
    scheme, _, rest = authorization.partition(" ")
    rest = rest.strip(" ")
    match scheme.lower():
        case "bearer":
            if not _TOKEN68.fullmatch(rest):
                raise TokenInvalid(reason="Authorization: expected a token behind Bearer")
            return rest
        case "basic":
            try:
                _, colon, password = base64.b64decode(rest, validate=True).decode("utf-8").partition(":")
            except ValueError:  # not base64, not UTF-8
                colon, password = "", ""
            if not colon:
                raise TokenInvalid(reason="Authorization: expected base64 of name:token behind Basic")
            return password
        case _:
            raise TokenInvalid(reason="Authorization: expected Bearer or Basic")


# --- together -----------------------------------------------------------------------------------------

_LOOKED_AT = frozenset({b":authority", b"host", b"sec-fetch-site", b"origin", b"authorization"})


class Access:
    """Decides, for each ASGI scope, what whoever asks may do. For one thread, but for `write_uses`."""

    def __init__(
        self,
        tokens: Tokens,
        reader: VersionReader,
        known: UntilCommit[bytes, Granted],
        hosts: Hosts,
        *,
        now: Callable[[], float] = unix_now,
    ) -> None:
        """*known*: a place for what was looked up; what a token may do holds until the catalog changes. *now*: Unix
        time, for times of use."""
        self._tokens, self._reader, self._known, self._hosts = tokens, reader, known, hosts
        self._now = now
        self._closed_to_all = False  # a token exists
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def check(
        self,
        scope: Mapping[str, Any],
        need: Scope | None = "read",
        *,
        door: bool = False,
        allowed: Origins = NO_ORIGINS,
    ) -> Granted:
        """What whoever sent the request of *scope* may do; at least *need*.

        To be called before anything else is done. *need* None: a token is not asked for, such as for a health
        check. *door*: a GET does something, too. *allowed*: other sites whose pages may ask. Raises
        `HostInvalid`, `HostRefused`, `CrossSiteRefused`, `TokenMissing`, `TokenInvalid`, `ScopeMissing`;
        `StorageError` when the catalog cannot be asked.
        """
        fields: dict[bytes, list[str]] = {}
        for name, value in scope["headers"]:
            if name in _LOOKED_AT:
                fields.setdefault(name, []).append(value.decode("latin-1"))
        own = host_of(fields, http_version=scope["http_version"])
        if own is not None and not self._hosts.allow(own.host):
            raise HostRefused(own.host)
        if door or need not in ("read", None) or scope.get("method") not in _SAFE_METHODS:
            check_site(fields, own, scheme=scope.get("scheme", "http"), allowed=allowed)
        if need is None:
            return NOTHING
        granted = self._granted(fields.get(b"authorization", []))
        granted.require(need)
        return granted

    def _granted(self, authorizations: list[str]) -> Granted:
        if not self._asks():
            return EVERYTHING
        if not authorizations:
            raise TokenMissing
        if len(authorizations) > 1:
            raise TokenInvalid(reason="Authorization: expected one, got several")
        # By a digest, so that no secret lies around in memory.
        key = hashlib.sha256(authorizations[0].encode("latin-1")).digest()
        granted = self._known.get(key)
        if granted is None:
            granted = self._looked_up(key, secret_in(authorizations[0]))
        assert granted.owner is not None
        with self._lock:
            self._used[granted.owner] = self._now()
        return granted

    def _looked_up(self, key: bytes, secret: str) -> Granted:
        moment = self._known.moment
        bearer = self._reader.token(secret)
        if bearer is None:
            # Not remembered: whoever guesses fills nothing.
            raise TokenInvalid(reason="this token is unknown or revoked")
        granted = Granted(owner=bearer.id, scopes=bearer.scopes, group=bearer.group_name)
        self._known.keep(key, granted, moment=moment)
        return granted

    def _asks(self) -> bool:
        """Whether a token is asked for; once one exists, for ever."""
        if not self._closed_to_all and self._known.get(_ANYBODY) is None:
            moment = self._known.moment
            self._closed_to_all = self._reader.has_tokens()
            if not self._closed_to_all:
                self._known.keep(_ANYBODY, EVERYTHING, moment=moment)
        return self._closed_to_all

    def write_uses(self) -> None:
        """Write the times of use that have gathered; once a minute is enough. A hit writes nothing."""
        with self._lock:
            used, self._used = self._used, {}
        self._tokens.touch(used)
