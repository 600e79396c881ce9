"""Who may ask a server for what: Host, the site of a page, tokens. Tables of cases, and a real catalog."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from forebay.catalog.database import Database
from forebay.catalog.reader import VersionReader
from forebay.catalog.tokens import SCOPES, Tokens
from forebay.errors import (
    AccessDenied,
    CrossSiteRefused,
    GroupRefused,
    HostInvalid,
    HostRefused,
    InvalidValue,
    ScopeMissing,
    StorageFailed,
    TokenInvalid,
    TokenMissing,
)
from forebay.server.access import (
    EVERYTHING,
    NOTHING,
    Access,
    Authority,
    Granted,
    Hosts,
    parse_authority,
    secret_in,
)
from forebay.server.hot import UntilCommit

NOW = 1_800_000_000.0
LOOPBACK = Hosts.of("127.0.0.1")


def scope_of(
    *fields: tuple[str, str], host: str | None = "127.0.0.1:8008", method: str = "GET", **more: Any
) -> dict[str, Any]:
    """An ASGI scope as granian makes it."""
    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    headers += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    return {"type": "http", "http_version": "1.1", "scheme": "http", "method": method, "headers": headers} | more


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def tokens(path: Path) -> Iterator[Tokens]:
    database = Database(path)
    yield Tokens(database)
    database.close()


@pytest.fixture
def reader(tokens: Tokens, path: Path) -> Iterator[VersionReader]:
    made = VersionReader(path)
    yield made
    made.close()


@pytest.fixture
def access(tokens: Tokens, reader: VersionReader) -> Access:
    return Access(tokens, reader, UntilCommit(reader.data_version), LOOPBACK, now=lambda: NOW)


# --- Host -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", Authority("localhost", None)),
        ("LocalHost:8008", Authority("localhost", 8008)),
        ("localhost.:80", Authority("localhost", 80)),
        ("localhost:", Authority("localhost", None)),  # RFC 3986 section 3.2.3: the port may be empty
        ("127.0.0.1:0", Authority("127.0.0.1", 0)),
        ("[::1]", Authority("[::1]", None)),
        ("[0:0:0:0:0:0:0:1]:8008", Authority("[::1]", 8008)),
        ("[::FFFF:127.0.0.1]", Authority("[::ffff:7f00:1]", None)),
        ("my_service-1.local", Authority("my_service-1.local", None)),
        ("a" * 255, Authority("a" * 255, None)),
        ("", None),
        (".", None),
        ("...", None),
        (":8008", None),
        ("::1", None),
        ("[::1", None),
        ("[::1]8008", None),
        ("[::g]", None),
        ("[1:2]", None),
        ("[:::]", None),
        ("[127.0.0.1]", None),
        ("[]", None),
        ("[fe80::1%25eth0]", None),
        ("localhost:65536", None),
        ("localhost:123456", None),
        ("localhost:+80", None),
        ("localhost:8O", None),
        ("user@localhost", None),
        ("localhost/", None),
        ("localhost\\", None),
        ("localhost#", None),
        ("local host", None),
        (" localhost", None),
        ("localhost\t", None),
        ("localhost\n", None),
        ("localhost,evil.example", None),
        ("localhost\x00", None),
        ("%6cocalhost", None),
        ("lo\xadcalhost", None),
        ("bücher.example", None),
        ("a" * 300, None),
    ],
)
def test_what_is_a_host(text: str, expected: Authority | None) -> None:
    """RFC 9110 section 7.2 and RFC 3986 section 3.2, without user information and escapes: what two readers could
    take for different hosts is none."""
    assert parse_authority(text) == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST:1", "127.0.0.1:8008", "[::1]:9999"])
def test_loopback_names_are_allowed_with_any_port(access: Access, host: str) -> None:
    """A forwarded port is another than the one that the server listens on."""
    assert access.check(scope_of(host=host)) == EVERYTHING


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8008", "127.0.0.1.evil.example", "localhost.evil.example", "evil-localhost",
        "127.0.0.2", "0.0.0.0", "127.1", "2130706433", "0x7f000001", "[::]", "[::ffff:127.0.0.1]", "10.0.0.1",
    ],
)  # fmt: skip
def test_another_host_is_refused(access: Access, host: str) -> None:
    """421 for each method and need, and whatever is right otherwise: this is what rebinding a name looks like."""
    for method in ("GET", "HEAD", "PUT", "OPTIONS"):
        for need in ("read", "write", None):
            with pytest.raises(HostRefused) as caught:
                access.check(scope_of(("Sec-Fetch-Site", "same-origin"), host=host, method=method), need)
            assert (caught.value.status, caught.value.code) == (421, "host_refused")
            assert "--allow-host" in str(caught.value)


def test_a_rebound_name_is_refused_although_its_origin_fits(access: Access) -> None:
    """To the browser it is the page's own site: Host alone tells."""
    fields = (("Origin", "http://evil.example:8008"), ("Sec-Fetch-Site", "same-origin"))
    with pytest.raises(HostRefused):
        access.check(scope_of(*fields, host="evil.example:8008", method="PUT"), "write")


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ([], "1.1"),  # RFC 9112 section 3.2
        ([(b"host", b"")], "1.1"),  # what granian makes of a missing one
        ([(b"host", b"")], "2"),
        ([], "2"),
        ([(b"host", b"localhost"), (b"host", b"localhost")], "1.1"),
        ([(b"host", b"localhost"), (b"host", b"evil.example")], "1.1"),
        ([(b"host", b""), (b"host", b"")], "1.0"),
        ([(b"host", b"localhost, evil.example")], "1.1"),
        ([(b"host", b"user@localhost")], "1.1"),
        ([(b"host", b"\xff")], "1.1"),
        ([(b"host", b"evil example")], "1.0"),
        ([(b":authority", b"localhost"), (b"host", b"evil.example")], "2"),  # RFC 9113 section 8.3.1
        ([(b":authority", b"evil.example"), (b"host", b"localhost")], "2"),
        ([(b":authority", b"localhost"), (b":authority", b"localhost")], "2"),
    ],
)
def test_a_host_that_is_missing_doubled_or_odd(
    access: Access, headers: list[tuple[bytes, bytes]], version: str
) -> None:
    """400, before anything else is looked at."""
    with pytest.raises(HostInvalid) as caught:
        access.check(scope_of(host=None, http_version=version) | {"headers": headers}, None)
    assert (caught.value.status, caught.value.code) == (400, "host_invalid")


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ([(b":authority", b"localhost:8008")], "2"),
        ([(b":authority", b"localhost:8008"), (b"host", b"LOCALHOST:8008")], "2"),
        ([(b"host", b"localhost")], "2"),
        ([], "1.0"),
        ([(b"host", b"")], "1"),  # granian's word for 1.0
        ([(b"host", b"localhost")], "1"),
    ],
)
def test_a_host_in_other_versions_of_http(access: Access, headers: list[tuple[bytes, bytes]], version: str) -> None:
    """HTTP/2 has it in :authority, alone or as Host too; in HTTP/1.0, which browsers do not speak, it may be
    missing."""
    assert access.check(scope_of(host=None, http_version=version) | {"headers": headers}) == EVERYTHING


def test_an_origin_without_a_host_is_never_our_own(access: Access) -> None:
    """HTTP/1.0 may leave Host out, but not to get past the other check."""
    for origin in ("http://127.0.0.1:8008", "http://", "null"):
        with pytest.raises(CrossSiteRefused):
            access.check(scope_of(("Origin", origin), host=None, http_version="1.0", method="PUT"), "write")


@pytest.mark.parametrize(
    ("bind", "allowed", "yes", "no"),
    [
        ("127.0.0.1", [], ["127.0.0.1", "localhost", "[::1]"], ["basin", "10.0.0.1", "[::2]"]),
        ("10.0.0.1", [], ["10.0.0.1", "localhost"], ["10.0.0.2", "basin"]),
        ("Basin.local", [], ["basin.local"], ["local", "x.basin.local"]),
        ("fe80::2", [], ["[fe80::2]"], ["[fe80::3]", "basin"]),
        ("[fe80::2]", [], ["[fe80::2]"], ["[fe80::3]"]),
        ("0.0.0.0", [], ["10.0.0.1", "[fe80::3]", "0.0.0.0", "localhost"], ["basin", "10.0.0.1.evil.example"]),
        ("::", [], ["10.0.0.1", "[fe80::3]", "localhost"], ["basin", "1.2.3.4.5"]),
        ("::", ["basin"], ["basin", "10.0.0.1"], ["basin.evil.example", "xbasin"]),
        ("127.0.0.1", ["Basin.Example"], ["basin.example"], ["x.basin.example", "example", "basin.example.org"]),
        ("127.0.0.1", ["*.basin.example"], ["a.basin.example", "a.b.basin.example"],
         ["basin.example", "xbasin.example", "a.basin.example.org"]),
        ("127.0.0.1", ["10.0.0.7", "fe80::7"], ["10.0.0.7", "[fe80::7]"], ["10.0.0.8"]),
        ("127.0.0.1", ["*"], ["basin", "evil.example", "10.0.0.1", "[::7]"], []),
    ],
)  # fmt: skip
def test_which_hosts_a_server_answers_for(bind: str, allowed: list[str], yes: list[str], no: list[str]) -> None:
    """Loopback's names, where it listens, and what was allowed: exactly, or all below a suffix. Listening
    everywhere, every address."""
    hosts = Hosts.of(bind, allowed)
    assert [host for host in yes if not hosts.allow(host)] == []
    assert [host for host in no if hosts.allow(host)] == []


@pytest.mark.parametrize("name", ["", "a b", "http://basin", "basin:8008", "*.", "*basin", "a.*.b", "bücher.example",
                                  "basin/", "*.*", "[::1", "user@basin"])  # fmt: skip
def test_what_cannot_be_allowed(name: str) -> None:
    """A name with a port, a URL, other patterns: refused by the name of the setting, when the server starts."""
    with pytest.raises(InvalidValue) as caught:
        Hosts.of("127.0.0.1", [name])
    assert caught.value.field == "allow_hosts"


def test_a_bind_that_is_no_host() -> None:
    """It is named as the other setting."""
    with pytest.raises(InvalidValue) as caught:
        Hosts.of("127.0.0.1:8008")
    assert caught.value.field == "host"


# --- the site of a page -----------------------------------------------------------------------------------

# What browsers send for a page of another site, of the same site on another port, and of none that has a name.
FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    {"Sec-Fetch-Site": "same-origin, cross-site"},
    {"Sec-Fetch-Site": "something-new"},
    {"Sec-Fetch-Site": ""},
    {"Sec-Fetch-Site": "none", "Origin": "null"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "http://evil.example:8008"},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://127.0.0.1:3000"},
    {"Origin": "http://localhost:8008"},
    {"Origin": "http://127.0.0.1:8008.evil.example"},
    {"Origin": "http://127.0.0.1:8008@evil.example"},
    {"Origin": "http://evil.example http://127.0.0.1:8008"},
    {"Origin": "http://127.0.0.1:8008/"},
    {"Origin": "ftp://127.0.0.1:8008"},
    {"Origin": "chrome-extension://127.0.0.1:8008"},
    {"Origin": "127.0.0.1:8008"},
]
# What programs, the address bar and our own pages send.
OWN = [
    {},
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8008"},
    {"Origin": "http://127.0.0.1:8008"},
    {"Origin": "https://127.0.0.1:8008"},  # a proxy before us speaks TLS
    {"Sec-Fetch-Mode": "cors", "Referer": "https://evil.example/"},
]
# (method, need, door) of what does something.
GUARDED = [
    ("PUT", "write", False), ("POST", "write", False), ("DELETE", "write", False), ("PATCH", "read", False),
    ("POST", "read", False), ("POST", None, False), ("GET", "call", False), ("POST", "call", False),
    ("GET", "admin", False), ("GET", "write", False), ("GET", "read", True), ("HEAD", "read", True),
    ("OPTIONS", "read", True),
]  # fmt: skip


@pytest.mark.parametrize(("method", "need", "door"), GUARDED)
def test_a_page_of_another_site_does_nothing(access: Access, method: str, need: Any, door: bool) -> None:
    """Writes, calls and the door, which fetches: 403 for whatever a browser says of another site."""
    for fields in FOREIGN:
        with pytest.raises(CrossSiteRefused) as caught:
            access.check(scope_of(*fields.items(), method=method), need, door=door)
        assert (caught.value.status, caught.value.code) == (403, "cross_site_refused")


@pytest.mark.parametrize(("method", "need", "door"), GUARDED)
def test_programs_and_our_own_pages_do(access: Access, method: str, need: Any, door: bool) -> None:
    """What says nothing is no browser's; `none` is what the user typed."""
    for fields in OWN:
        access.check(scope_of(*fields.items(), method=method), need, door=door)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_changes_nothing_and_is_let_through(access: Access, method: str) -> None:
    """A link from another page to a version works. Its scripts cannot read it: no answer has a CORS field."""
    for fields in FOREIGN:
        assert access.check(scope_of(*fields.items(), method=method)) == EVERYTHING


def test_each_line_of_a_doubled_field_counts(access: Access) -> None:
    """A good one does not hide a bad one."""
    for fields in (
        [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
        [("Origin", "http://127.0.0.1:8008"), ("Origin", "http://evil.example")],
    ):
        with pytest.raises(CrossSiteRefused):
            access.check(scope_of(*fields, method="PUT"), "write")


@pytest.mark.parametrize(
    ("host", "scheme", "origin", "own"),
    [
        ("basin.example", "https", "https://basin.example", True),
        ("basin.example", "https", "https://basin.example:443", True),
        ("basin.example:443", "https", "https://basin.example", True),
        ("BASIN.example", "https", "https://basin.example", True),
        ("basin.example", "https", "http://basin.example", False),  # whoever is between could send that
        ("basin.example", "http", "http://basin.example", True),
        ("basin.example:80", "http", "http://basin.example", True),
        ("basin.example", "http", "https://basin.example", True),  # TLS ends before us
        ("basin.example:8008", "http", "https://basin.example", False),
        ("basin.example:8008", "https", "https://basin.example:8009", False),
        ("[::1]:8008", "http", "http://[::1]:8008", True),
    ],
)
def test_our_own_origin(
    tokens: Tokens, reader: VersionReader, host: str, scheme: str, origin: str, own: bool
) -> None:
    """Host and port are those of Host, whatever stands for the usual port; over TLS, so is the scheme."""
    hosts = Hosts.of("127.0.0.1", ["basin.example"])
    access = Access(tokens, reader, UntilCommit(reader.data_version), hosts)
    scope = scope_of(("Origin", origin), host=host, scheme=scheme, method="PUT")
    if own:
        access.check(scope, "write")
    else:
        with pytest.raises(CrossSiteRefused):
            access.check(scope, "write")


def test_a_refusal_quotes_little(access: Access) -> None:
    """However long the field was."""
    with pytest.raises(CrossSiteRefused) as caught:
        access.check(scope_of(("Origin", "http://" + "x" * 100_000), method="PUT"), "write")
    assert len(str(caught.value)) < 300


# --- tokens -----------------------------------------------------------------------------------------------


def bearer(secret: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {secret}"


def basic(secret: str, user: str = "any") -> tuple[str, str]:
    return "Authorization", "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


def test_without_tokens_everything_is_granted(access: Access) -> None:
    """To nobody in particular; a token that a client sends all the same is not looked at."""
    for fields in ([], [bearer("fby_unknown")], [("Authorization", "Digest x")]):
        granted = access.check(scope_of(*fields), "admin")
        assert granted == EVERYTHING
        assert (granted.owner, granted.group, granted.scopes) == (None, None, set(SCOPES))


def test_a_good_token(access: Access, tokens: Tokens) -> None:
    """As Bearer, or as the password of Basic with any user name; it says who asks, and for which group."""
    token, secret = tokens.add("notebook", ["read", "call"], group="weather", now=NOW)
    expected = Granted(owner=token.id, scopes=frozenset({"read", "call"}), group="weather")
    for field in (
        bearer(secret),
        ("Authorization", f"bearer {secret}"),
        ("Authorization", f"BEARER   {secret}  "),
        basic(secret),
        basic(secret, user=""),
        basic(secret, user="grün"),
        ("Authorization", basic(secret)[1].replace("Basic", "basic")),
    ):
        assert access.check(scope_of(field)) == expected
        assert access.check(scope_of(field), "call") == expected


def test_no_token(access: Access, tokens: Tokens) -> None:
    """401 as soon as one exists, also for what another field of the same kind says."""
    tokens.add("notebook", ["admin"], now=NOW)
    for fields in ([], [("Proxy-Authorization", "Bearer x")], [("Cookie", "token=x")]):
        with pytest.raises(TokenMissing) as caught:
            access.check(scope_of(*fields))
        assert (caught.value.status, caught.value.code) == (401, "token_missing")


@pytest.mark.parametrize(
    "value",
    [
        "", " ", "Bearer", "Bearer ", "Bearer a b", "Bearer a,b", "Bearer ü", "Bearer \x00", "Basic", "Basic ",
        "Basic !", "Basic YQ", "Basic YQ==", "Basic YTpi YTpi", "Basic /zph", "Basic ZmJ5X3g6",
        "Basic é", "Digest username=x", "fby_" + "x" * 32, "Bearer fby_" + "x" * 32, "Bearer " + "x" * 100_000,
    ],
)  # fmt: skip
def test_an_authorization_that_is_no_good(access: Access, tokens: Tokens, value: str) -> None:
    """401 for what cannot be read and for what is unknown; what was sent is never quoted."""
    tokens.add("notebook", ["admin"], now=NOW)
    with pytest.raises(TokenInvalid) as caught:
        access.check(scope_of(("Authorization", value)))
    assert (caught.value.status, caught.value.code) == (401, "token_invalid")
    assert len(str(caught.value)) < 200
    assert "x" * 10 not in str(caught.value)


def test_two_authorizations(access: Access, tokens: Tokens) -> None:
    """Which one is meant is not guessed, even when they are the same."""
    _, secret = tokens.add("notebook", ["admin"], now=NOW)
    with pytest.raises(TokenInvalid, match="several"):
        access.check(scope_of(bearer(secret), bearer(secret)))


def test_a_password_may_have_colons() -> None:
    """RFC 7617 section 2: the user name ends at the first one."""
    assert secret_in(basic("a:b:c")[1]) == "a:b:c"
    assert secret_in(basic("", user="x")[1]) == ""


@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_without_the_scope(access: Access, tokens: Tokens, scope: Any) -> None:
    """403, naming the scope; `admin` has all of them."""
    for name in SCOPES:
        _, secret = tokens.add(name, [name], now=NOW)
        asked = scope_of(bearer(secret))
        if name in (scope, "admin"):
            access.check(asked, scope)
            continue
        with pytest.raises(ScopeMissing, match=f"scope {scope}") as caught:
            access.check(asked, scope)
        assert (caught.value.status, caught.value.code) == (403, "scope_missing")


def test_a_health_check_needs_no_token(access: Access, tokens: Tokens) -> None:
    """And is granted nothing, whatever it sends; its Host is checked all the same."""
    _, secret = tokens.add("notebook", ["admin"], now=NOW)
    for fields in ([], [bearer(secret)], [bearer("nonsense")]):
        assert access.check(scope_of(*fields), None) == NOTHING
    with pytest.raises(ScopeMissing):
        NOTHING.require("read")
    with pytest.raises(HostRefused):
        access.check(scope_of(host="evil.example"), None)


def test_a_page_of_another_site_does_not_learn_whether_a_token_is_asked_for(access: Access, tokens: Tokens) -> None:
    """It is refused first; so no browser asks its user for a password on behalf of it."""
    tokens.add("notebook", ["admin"], now=NOW)
    with pytest.raises(CrossSiteRefused):
        access.check(scope_of(("Sec-Fetch-Site", "cross-site"), method="PUT"), "write")


def test_a_group() -> None:
    """A token of a group sees and uses that one only; one without, all."""
    bound = Granted(owner="t", scopes=frozenset({"read"}), group="weather")
    assert bound.sees("weather")
    assert not bound.sees("default")
    bound.require_group("weather")
    with pytest.raises(GroupRefused, match="'weather' only") as caught:
        bound.require_group("default")
    assert (caught.value.status, caught.value.code) == (403, "group_refused")
    EVERYTHING.require_group("default")
    assert EVERYTHING.sees("weather")


# --- as time passes ---------------------------------------------------------------------------------------


def test_the_first_token_closes_a_running_server(access: Access, tokens: Tokens) -> None:
    """At once: nobody without one is let in any more."""
    for _ in range(2):
        assert access.check(scope_of()) == EVERYTHING
    tokens.add("notebook", ["admin"], now=NOW)
    with pytest.raises(TokenMissing):
        access.check(scope_of())


def test_a_revoked_token_stops_at_once(access: Access, tokens: Tokens) -> None:
    """However often it was used before; and with the last one, the server does not open again."""
    _, secret = tokens.add("notebook", ["admin"], now=NOW)
    for _ in range(2):
        access.check(scope_of(bearer(secret)))
    tokens.revoke("notebook", now=NOW)
    for _ in range(2):
        with pytest.raises(TokenInvalid, match="unknown or revoked"):
            access.check(scope_of(bearer(secret)))
        with pytest.raises(TokenMissing):
            access.check(scope_of())


def test_a_look_up_waits_for_nobody(access: Access, tokens: Tokens, path: Path) -> None:
    """Neither a good token nor a wrong one needs what a writer holds, and none of them writes."""
    token, secret = tokens.add("notebook", ["read"], now=NOW)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    before = access._reader.data_version()
    for _ in range(100):
        with pytest.raises(TokenInvalid):
            access.check(scope_of(bearer("fby_" + "x" * 32)))
        assert access.check(scope_of(bearer(secret))).owner == token.id
    assert access._reader.data_version() == before
    writer.close()


def test_a_new_token_works_at_once(access: Access, tokens: Tokens) -> None:
    """No look-up is put off because others were in vain."""
    tokens.add("first", ["read"], now=NOW)
    with pytest.raises(TokenInvalid):
        access.check(scope_of(bearer("fby_" + "x" * 32)))
    token, secret = tokens.add("second", ["read"], now=NOW)
    assert access.check(scope_of(bearer(secret))).owner == token.id


def test_what_is_remembered_is_not_asked_again(access: Access, tokens: Tokens, path: Path) -> None:
    """A token is looked up anew only when something was committed; and when that fails, nobody gets in."""
    _, secret = tokens.add("notebook", ["read"], now=NOW)
    granted = access.check(scope_of(bearer(secret)))
    assert access.check(scope_of(bearer(secret))) is granted
    with_another = Database(path)
    with with_another.write(durable=True) as db:
        db.exec_driver_sql("DROP TABLE tokens")
    with_another.close()
    with pytest.raises(StorageFailed):
        access.check(scope_of(bearer(secret)))


def test_more_tokens_than_are_remembered(access: Access, tokens: Tokens) -> None:
    """Each still works, and the memory stays bounded: one client that varies how it writes its token is many."""
    token, secret = tokens.add("notebook", ["read"], now=NOW)
    for number in range(5000):
        assert access.check(scope_of(basic(secret, user=str(number)))).owner == token.id
    assert len(access._known._kept) <= 4096


def test_times_of_use_are_written_in_batches(access: Access, tokens: Tokens) -> None:
    """A hit writes nothing; `write_uses` does, once."""
    used, secret = tokens.add("used", ["read"], now=NOW)
    tokens.add("idle", ["read"], now=NOW)
    access.check(scope_of(bearer(secret)))
    assert all(token.last_used_datetime_utc is None for token in tokens.list_tokens())
    access.write_uses()
    access.write_uses()
    found = {token.name: token.last_used_datetime_utc for token in tokens.list_tokens()}
    assert found == {"used": datetime.fromtimestamp(NOW, UTC), "idle": None}
    assert used.last_used_datetime_utc is None


def test_every_refusal_is_of_one_family() -> None:
    """Whoever wants to tell "not allowed" from the rest catches one class."""
    for kind in (
        HostInvalid,
        HostRefused,
        CrossSiteRefused,
        TokenMissing,
        TokenInvalid,
        ScopeMissing,
        GroupRefused,
    ):
        assert issubclass(kind, AccessDenied)
        assert kind.status in (400, 401, 403, 421)
        assert not kind.retryable
