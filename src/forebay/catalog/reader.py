"""The hit path: one version by its name, one token by its secret, read in the event loop's own thread.

A pool's thread and SQLAlchemy's result objects cost ten times what the read itself does, so this is one compiled
statement on a read-only connection (DESIGN.md section 5). It is one indexed point read and waits for nobody: in
WAL mode readers and the writer do not meet.
"""

from __future__ import annotations

import hmac
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import sqlite

from forebay.catalog.catalog import neighbours
from forebay.catalog.database import mapped_errors
from forebay.catalog.schema import requests, responses, tokens
from forebay.catalog.tokens import Scope, digest_of, granted_by


@dataclass(frozen=True, slots=True)
class Deliverable:
    """What delivering a version takes. *previous_version* and *next_version* are its ready neighbours.
    *cached_at* in Unix microseconds. *fence*: the last one of its Request."""

    id: str
    request_id: str
    group_name: str
    url: str
    version: str
    generation: int
    status: str
    cached_at: int | None
    content_sha256: str | None
    size_bytes: int | None
    media_type: str | None
    last_modified: str | None
    content_encoding: str | None
    content_disposition: str | None
    filename: str | None
    error_code: str | None
    error: str | None
    previous_version: str | None
    next_version: str | None
    fence: int

    @property
    def etag(self) -> str:
        """Strong: a version's bytes never change, and a generation that started over is another (DESIGN.md
        section 1)."""
        return f'"{self.version}.{self.generation}"'


@dataclass(frozen=True, slots=True)
class Bearer:
    """What a good token stands for. *id*: the owner that other rows name; *scopes*: with ``admin`` all of them."""

    id: str
    scopes: frozenset[Scope]
    group_name: str | None


_COLUMNS = (
    responses.c.id, responses.c.request_id, requests.c.group_name, requests.c.url, responses.c.version,
    responses.c.generation, responses.c.status, responses.c.cached_at, responses.c.content_sha256,
    responses.c.size_bytes, responses.c.media_type, responses.c.last_modified, responses.c.content_encoding,
    responses.c.content_disposition, responses.c.filename, responses.c.error_code, responses.c.error,
)  # fmt: skip
_OF_REQUEST = (
    select(*_COLUMNS, *neighbours(), requests.c.fence)
    .join(requests, requests.c.id == responses.c.request_id)
    .where(responses.c.request_id == bindparam("request"), responses.c.deleted_at.is_(None))
)


def _compiled(statement: Any) -> tuple[str, dict[str, Any]]:
    dialect: Any = sqlite.dialect(paramstyle="named")
    compiled = statement.compile(dialect=dialect)
    return str(compiled), dict(compiled.params)


_VERSION, _VERSION_FIXED = _compiled(_OF_REQUEST.where(responses.c.version == bindparam("version")))
_NEWEST, _NEWEST_FIXED = _compiled(_OF_REQUEST.order_by(responses.c.version.desc()).limit(1))


_TOKEN, _TOKEN_FIXED = _compiled(
    select(tokens.c.digest, tokens.c.id, tokens.c.scopes, tokens.c.group_name).where(
        tokens.c.digest == bindparam("digest"), tokens.c.revoked_at.is_(None)
    )
)
_ANY_TOKEN, _ANY_TOKEN_FIXED = _compiled(select(tokens.c.id).limit(1))


class VersionReader:
    """Point reads of versions and tokens. For one thread, but for `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with mapped_errors(path):
            # Not `isolation_level`'s default: no transaction of ours may hold an old snapshot.
            # Who mounts a server closes it from whatever thread.
            self._connection = sqlite3.connect(
                f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )

    def version(self, request_id: str, version: str) -> Deliverable | None:
        """The version of that name, whatever its status; None when there is none or it was deleted."""
        return self._one(_VERSION, _VERSION_FIXED | {"request": request_id, "version": version})

    def newest(self, request_id: str) -> Deliverable | None:
        """The newest version of a Request, whatever its status; None when it has none."""
        return self._one(_NEWEST, _NEWEST_FIXED | {"request": request_id})

    def _one(self, statement: str, values: dict[str, Any]) -> Deliverable | None:
        row = self._row(statement, values)
        return None if row is None else Deliverable(*row)

    def token(self, secret: str) -> Bearer | None:
        """What the token of *secret* stands for, unless it was revoked."""
        digest = digest_of(secret)
        row = None if digest is None else self._row(_TOKEN, _TOKEN_FIXED | {"digest": digest})
        # The look-up takes a time that may tell how a digest begins, which leads to no secret; what decides
        # takes the same time for each.
        if digest is None or row is None or not hmac.compare_digest(row[0], digest):
            return None
        return Bearer(row[1], granted_by(row[2].split()), row[3])

    def has_tokens(self) -> bool:
        """Whether a token was ever added, as `Tokens.exist` has it."""
        return self._row(_ANY_TOKEN, _ANY_TOKEN_FIXED) is not None

    def _row(self, statement: str, values: dict[str, Any]) -> tuple[Any, ...] | None:
        with mapped_errors(self._path):
            row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        return row

    def data_version(self) -> int:
        """A number that is another one after anybody has committed anything."""
        with mapped_errors(self._path):
            number: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return number

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
