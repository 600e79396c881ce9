"""Tokens: made once, checked by their secret, ended by their name; secrets are stored nowhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from forebay.catalog.database import Database
from forebay.catalog.reader import Bearer, VersionReader
from forebay.catalog.tokens import SCOPES, Tokens, check_scopes, granted_by
from forebay.errors import InvalidValue, UnknownToken

NOW = 1_800_000_000.25


def at(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


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
    """What a server looks tokens up with."""
    made = VersionReader(path)
    yield made
    made.close()


# --- made -------------------------------------------------------------------------------------------------


def test_a_token_is_found_by_its_secret(tokens: Tokens, reader: VersionReader) -> None:
    """With all that was said of it."""
    token, secret = tokens.add("notebook", ["write", "read"], group="weather", now=NOW)
    assert reader.token(secret) == Bearer(token.id, frozenset({"read", "write"}), "weather")
    assert (token.name, token.scopes, token.group_name) == ("notebook", ("read", "write"), "weather")
    assert token.created_datetime_utc == at(NOW)
    assert token.revoked_datetime_utc is None
    assert token.last_used_datetime_utc is None


def test_secrets_are_random_and_fit_for_urls_and_fields(tokens: Tokens) -> None:
    """At least 160 bits, in characters that need no quoting; no two are alike."""
    made = {tokens.add(f"t{number}", ["read"], now=NOW)[1] for number in range(50)}
    assert len(made) == 50
    for secret in made:
        prefix, _, rest = secret.partition("_")
        assert prefix == "fby"
        assert len(rest) * 6 >= 160
        assert all(char.isascii() and (char.isalnum() or char in "-_") for char in rest)


def test_the_secret_is_not_in_the_folder(tokens: Tokens, path: Path) -> None:
    """Neither in the database nor in its journal; only its SHA-256 is. And no value that is given out has it."""
    token, secret = tokens.add("notebook", ["read"], now=NOW)
    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.encode() not in stored
    assert secret.removeprefix("fby_").encode() not in stored
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in stored
    for shown in (repr(token), token.model_dump_json(), repr(tokens.list_tokens())):
        assert secret not in shown
        assert hashlib.sha256(secret.encode()).hexdigest() not in shown


@pytest.mark.parametrize(
    ("name", "scopes", "group", "named"),
    [
        ("", ["read"], None, "name"),
        ("a b", ["read"], None, "name"),
        ("-a", ["read"], None, "name"),
        ("a" * 65, ["read"], None, "name"),
        ("grün", ["read"], None, "name"),
        ("a\n", ["read"], None, "name"),
        ("a", [], None, "scope"),
        ("a", ["read", "delete"], None, "scope"),
        ("a", ["READ"], None, "scope"),
        ("a", ["read"], "", "group"),
        ("a", ["read"], "g" * 201, "group"),
        ("a", ["admin"], "weather", "group"),
        ("a", ["read", "admin"], "weather", "group"),
    ],
)
def test_what_is_no_token(tokens: Tokens, name: str, scopes: list[str], group: str | None, named: str) -> None:
    """A bad name, scope or group is refused by its name, and nothing is stored."""
    with pytest.raises(InvalidValue) as caught:
        tokens.add(name, scopes, group=group, now=NOW)
    assert caught.value.field == named
    assert not tokens.exist()


def test_a_name_is_used_once(tokens: Tokens, reader: VersionReader) -> None:
    """Also when its token is revoked: what each did stays told apart. The first one stays as it is."""
    first, secret = tokens.add("notebook", ["read"], now=NOW)
    for _ in range(2):
        with pytest.raises(InvalidValue, match="no token has had"):
            tokens.add("notebook", ["write"], now=NOW)
        assert [token.id for token in tokens.list_tokens()] == [first.id]
        tokens.revoke("notebook", now=NOW)
    assert reader.token(secret) is None


def test_scopes_are_a_closed_set() -> None:
    """Each once, in one order; an unknown one is named with those there are."""
    assert SCOPES == ("read", "write", "call", "admin")
    assert check_scopes(["admin", "read", "admin"]) == ("read", "admin")
    with pytest.raises(InvalidValue, match="one or more of read, write, call, admin, got 'all,delete'"):
        check_scopes(["read", "delete", "all"])


def test_admin_may_do_everything(tokens: Tokens) -> None:
    """The other scopes are granted alone."""
    assert granted_by(tokens.add("root", ["admin"], now=NOW)[0].scopes) == set(SCOPES)
    assert granted_by(tokens.add("hand", ["write"], now=NOW)[0].scopes) == {"write"}


# --- checked ----------------------------------------------------------------------------------------------


def test_other_secrets_find_nothing(tokens: Tokens, reader: VersionReader) -> None:
    """Whatever they are; none is an error."""
    token, secret = tokens.add("notebook", ["read"], now=NOW)
    other = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    digest = hashlib.sha256(secret.encode()).hexdigest()
    for wrong in ("", "fby_", secret[4:], secret + "A", secret + "\n", " " + secret, secret.upper(), other, digest,
                  token.id, token.name, "fby_" + "é" * 32, "fby_%' OR 1=1 --", "\ud800", "x" * 1_000_000):  # fmt: skip
        assert reader.token(wrong) is None, wrong[:80]


def test_a_revoked_token_is_found_no_more(tokens: Tokens, reader: VersionReader) -> None:
    """It stays listed; the others go on. Revoking twice keeps the first time."""
    _, secret = tokens.add("notebook", ["read"], now=NOW)
    _, other = tokens.add("phone", ["read"], now=NOW)
    revoked = tokens.revoke("notebook", now=NOW + 60)
    assert tokens.revoke("notebook", now=NOW + 120) == revoked
    assert revoked.revoked_datetime_utc == at(NOW + 60)
    assert reader.token(secret) is None
    assert reader.token(other) is not None
    assert tokens.list_tokens()[0] == revoked


def test_revoking_what_is_not_there(tokens: Tokens) -> None:
    """The error names it and the command that lists those that are."""
    with pytest.raises(UnknownToken, match="no token is named notebook; `forebay token ls`"):
        tokens.revoke("notebook", now=NOW)


def test_another_process_sees_it_at_once(tokens: Tokens, path: Path, reader: VersionReader) -> None:
    """What one made and ended, another on the same folder knows."""
    second = Database(path)
    others = Tokens(second)
    assert not others.exist()
    assert not reader.has_tokens()
    _, secret = tokens.add("notebook", ["read"], now=NOW)
    assert others.exist()
    assert reader.has_tokens()
    assert reader.token(secret) is not None
    others.revoke("notebook", now=NOW)
    assert reader.token(secret) is None
    second.close()


def test_revoking_the_last_does_not_open_the_server(tokens: Tokens) -> None:
    """`exist` says whether one was ever added."""
    assert not tokens.exist()
    tokens.add("notebook", ["read"], now=NOW)
    tokens.revoke("notebook", now=NOW)
    assert tokens.exist()


# --- used -------------------------------------------------------------------------------------------------


def test_times_of_use_only_grow(tokens: Tokens) -> None:
    """They come in batches from several processes, in any order; unknown ids are passed over."""
    one, _ = tokens.add("one", ["read"], now=NOW)
    two, _ = tokens.add("two", ["read"], now=NOW + 1)
    tokens.touch({one.id: NOW + 10, two.id: NOW + 20, "gone": NOW})
    tokens.touch({one.id: NOW + 5})
    tokens.touch({})
    assert [token.last_used_datetime_utc for token in tokens.list_tokens()] == [at(NOW + 10), at(NOW + 20)]
