"""Tokens: who may use a server on this folder, and for what. Their secrets are stored hashed, and shown once."""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Row, bindparam, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from forebay.catalog.database import Database
from forebay.catalog.rows import micros, moment
from forebay.catalog.schema import tokens
from forebay.errors import InvalidValue, UnknownToken

Scope = Literal["read", "write", "call", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

# 192 random bits. The prefix tells people, and programs that look for leaked secrets, what it is.
_SECRET_BYTES = 24
_SECRET = re.compile(r"fby_[A-Za-z0-9_-]{32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_GROUP_LENGTH = 200  # as that of a Request


class Token(BaseModel):
    """What is known of a token; never its secret. ``id`` is the owner that other rows name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    name: str
    scopes: tuple[Scope, ...]
    group_name: str | None
    created_datetime_utc: datetime
    revoked_datetime_utc: datetime | None
    last_used_datetime_utc: datetime | None


def granted_by(scopes: Collection[Scope]) -> frozenset[Scope]:
    """What *scopes* allow: themselves, and with ``admin`` all of them."""
    return frozenset(SCOPES if "admin" in scopes else scopes)


def check_scopes(names: Iterable[str]) -> tuple[Scope, ...]:
    """The scopes of *names*, each once, in the order of `SCOPES`. Raises `InvalidValue` for an unknown one, and
    for none at all."""
    wanted = set(names)
    unknown = sorted(wanted.difference(SCOPES))
    if unknown or not wanted:
        raise InvalidValue("scope", expected="one or more of " + ", ".join(SCOPES), got=",".join(unknown))
    return tuple(scope for scope in SCOPES if scope in wanted)


_BY_NAME = select(tokens).where(tokens.c.name == bindparam("name"))
_ANY = select(tokens.c.id).limit(1)
_USED = (
    update(tokens)
    .where(
        tokens.c.id == bindparam("key"),
        or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at < bindparam("at")),
    )
    .values(last_used_at=bindparam("at"))
)


class Tokens:
    """The tokens of a folder. Times are Unix seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, scopes: Iterable[str], *, group: str | None = None, now: float) -> tuple[Token, str]:
        """A new token and its secret, which nobody can have again. Durable on return.

        *name*: 1 to 64 of ``[A-Za-z0-9._-]``, one that no token has had: what it did stays told apart. *group*:
        it may use the Requests of this group only. Raises `InvalidValue`.
        """
        if not _NAME.fullmatch(name):
            expected = "1 to 64 of [A-Za-z0-9._-], a letter or a digit first"
            raise InvalidValue("name", expected=expected, got=name)
        checked = check_scopes(scopes)
        if group is not None and not 1 <= len(group) <= _MAX_GROUP_LENGTH:
            raise InvalidValue("group", expected=f"1 to {_MAX_GROUP_LENGTH} characters", got=group)
        if group is not None and "admin" in checked:
            # It governs the whole server: a group would promise a bound that is not there.
            raise InvalidValue("group", expected="none with the scope admin", got=group)
        secret = "fby_" + secrets.token_urlsafe(_SECRET_BYTES)
        row = {
            "id": uuid.uuid4().hex,
            "name": name,
            "digest": _digest(secret),
            "scopes": " ".join(checked),
            "group_name": group,
            "created_at": micros(now),
        }
        statement = insert(tokens).on_conflict_do_nothing(index_elements=["name"]).returning(tokens)
        with self._database.write(durable=True) as db:
            made = db.execute(statement, row).first()
        if made is None:
            raise InvalidValue("name", expected="a name that no token has had", got=name)
        return _token_of(made), secret

    def list_tokens(self) -> list[Token]:
        """All tokens, the revoked ones included, the oldest first."""
        with self._database.read() as db:
            return [
                _token_of(row) for row in db.execute(select(tokens).order_by(tokens.c.created_at, tokens.c.name))
            ]

    def revoke(self, name: str, *, now: float) -> Token:
        """End a token; ending it twice is ending it once. Raises `UnknownToken`. Durable on return."""
        ended = func.coalesce(tokens.c.revoked_at, micros(now))
        statement = update(tokens).where(tokens.c.name == name).values(revoked_at=ended).returning(tokens)
        with self._database.write(durable=True) as db:
            row = db.execute(statement).first()
        if row is None:
            raise UnknownToken(name)
        return _token_of(row)

    def exist(self) -> bool:
        """Whether a token was ever added: from then on a server asks for one.

        A revoked one counts: revoking the last must not open to all what was closed to them.
        """
        with self._database.read() as db:
            return db.execute(_ANY).first() is not None

    def touch(self, used: Mapping[str, float]) -> None:
        """Write times of use, gathered, by token id. An older time never overwrites a newer one."""
        if used:
            with self._database.write(durable=False) as db:
                db.execute(_USED, [{"key": key, "at": micros(at)} for key, at in used.items()])


def digest_of(secret: str) -> str | None:
    """What a token is looked up by; None for what no token's secret looks like: whoever guesses does not get to
    the database."""
    return _digest(secret) if _SECRET.fullmatch(secret) else None


def _digest(secret: str) -> str:
    # Plain SHA-256: slow hashes protect passwords that can be guessed, and 192 random bits cannot be. A slow
    # one would be paid for at each request.
    return hashlib.sha256(secret.encode()).hexdigest()


def _token_of(row: Row[Any]) -> Token:
    created = moment(row.created_at)
    assert created is not None
    return Token(
        id=row.id,
        name=row.name,
        scopes=row.scopes.split(),
        group_name=row.group_name,
        created_datetime_utc=created,
        revoked_datetime_utc=moment(row.revoked_at),
        last_used_datetime_utc=moment(row.last_used_at),
    )
