"""The rows of uploads: each change one transaction. Those of their chunks: `forebay.catalog.chunks`.

An upload is ``open``, ``closing`` while one process makes it whole, then ``complete``. Its *fence* only grows:
whoever takes the upload over gets the next one, and what was begun under an older one is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import BigInteger, ColumnElement, Connection, Row, String, bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from forebay.catalog.contents import content_row, heal, note_orphans, write_contents
from forebay.catalog.database import Database
from forebay.catalog.rows import micros, seconds
from forebay.catalog.schema import contents, uploads
from forebay.core.chunks import Layout
from forebay.errors import DiskReserved, LengthMismatch, TooManyUploads, UploadQuota, UploadTaken, UploadTooLarge

Phase = Literal["open", "closing", "complete"]


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What uploads may take. *free_bytes*: of the disk now, beyond what is to stay free."""

    max_bytes: int | None
    max_open: int
    max_open_per_owner: int
    max_bytes_per_owner: int | None
    free_bytes: int


@dataclass(frozen=True, slots=True)
class UploadRow:
    """One upload. Times are Unix seconds."""

    id: str
    owner: str | None
    kind: str
    state: Phase
    closer: str | None
    fence: int
    file_name: str
    media_type: str | None
    metadata: dict[str, str]
    note: str
    digests: dict[str, str]
    is_partial: bool
    size: int | None
    chunk_count: int | None
    chunk_size: int | None
    tail: int
    claims: int
    reserved_bytes: int
    received_bytes: int
    created_at: float
    expires_at: float | None
    sha256: str | None
    response_id: str | None

    @property
    def layout(self) -> Layout:
        """What is known of its chunks."""
        assert self.chunk_count is not None
        assert self.size is not None
        return Layout(self.chunk_count, self.size, self.chunk_size, self.tail)


def row_of(row: Row[Any]) -> UploadRow:
    """An upload, of what `BY_ID` finds."""
    return UploadRow(
        id=row.id,
        owner=row.owner,
        kind=row.kind,
        state=row.state,
        closer=row.closer,
        fence=row.fence,
        file_name=row.file_name,
        media_type=row.media_type,
        metadata=json.loads(row.metadata),
        note=row.note,
        digests=json.loads(row.digests),
        is_partial=bool(row.is_partial),
        size=row.size,
        chunk_count=row.chunk_count,
        chunk_size=row.chunk_size,
        tail=row.tail,
        claims=row.claims,
        reserved_bytes=row.reserved_bytes,
        received_bytes=row.received_bytes,
        created_at=row.created_at / 1e6,
        expires_at=seconds(row.expires_at),
        sha256=row.content_sha256,
        response_id=row.response_id,
    )


# Made once: SQLAlchemy takes longer to make a statement than SQLite to execute it. ``uid``, ``owner``: of the
# upload; ``until``: when it expires; ``having``: the fence that it must have, if any.
_IS_IT = uploads.c.id == bindparam("uid")
_IS_OPEN = uploads.c.state == "open"
_IS_CLOSING = uploads.c.state == "closing"
_IS_OWNERS = uploads.c.owner.is_not_distinct_from(bindparam("owner", type_=String))
_HAS_FENCE = uploads.c.fence == func.coalesce(bindparam("having", type_=BigInteger), uploads.c.fence)
_UNTIL = bindparam("until", type_=BigInteger)
BY_ID = select(uploads).where(_IS_IT)
_FENCE = select(uploads.c.fence).where(_IS_IT)
_ADD = insert(uploads).returning(*uploads.c)
_LOAD = select(
    func.count().label("all"),
    func.count().filter(_IS_OWNERS).label("owners"),
    func.coalesce(func.sum(uploads.c.reserved_bytes - uploads.c.received_bytes), 0).label("to_come"),
).where(_IS_OPEN | _IS_CLOSING)
_HELD = select(func.coalesce(func.sum(uploads.c.reserved_bytes), 0)).where(
    _IS_OWNERS, uploads.c.expires_at.is_not(None)
)
_NOTED = (
    select(uploads)
    .where(_IS_OWNERS, uploads.c.content_sha256.is_not(None), uploads.c.note == bindparam("note", type_=String))
    .limit(1)
)
_TAKE = (
    update(uploads)
    .where(_IS_IT, _IS_OPEN)
    .values(fence=uploads.c.fence + 1, expires_at=_UNTIL)
    .returning(*uploads.c)
)
_CLOSE = (
    update(uploads)
    .where(_IS_IT, _HAS_FENCE, _IS_OPEN | (_IS_CLOSING & (uploads.c.closer == bindparam("dead", type_=String))))
    .values(
        fence=uploads.c.fence + 1,
        state="closing",
        closer=bindparam("me", type_=String),
        digests=func.coalesce(bindparam("wanted", type_=String), uploads.c.digests),
    )
    .returning(*uploads.c)
)
_REOPEN = update(uploads).where(_IS_IT, _HAS_FENCE, _IS_CLOSING).values(state="open", closer=None)
_WHOLE = bindparam("whole", type_=BigInteger)
_FINISH = (
    update(uploads)
    .where(_IS_IT, _HAS_FENCE, _IS_CLOSING)
    .values(
        state="complete",
        closer=None,
        size=_WHOLE,
        received_bytes=_WHOLE,
        reserved_bytes=_WHOLE,
        content_sha256=bindparam("digest", type_=String),
        expires_at=_UNTIL,
    )
    .returning(*uploads.c)
)
_NOTE = (
    update(uploads)
    .where(_IS_IT, _HAS_FENCE, _IS_OPEN)
    .values(received_bytes=bindparam("received", type_=BigInteger), expires_at=_UNTIL)
)


class UploadRows:
    """The uploads of a folder. Times are Unix seconds; *me* names a process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- one upload -----------------------------------------------------------------------------------

    def add(self, values: Mapping[str, Any], *, limits: UploadLimits, now: float, expires: float) -> UploadRow:
        """A new upload, if the limits allow it. Durable on return. Raises `UploadTooLarge`, `TooManyUploads`,
        `UploadQuota`, `DiskReserved`."""
        with self._database.write(durable=True) as db:
            owner, reserved = values["owner"], values["size"] or 0
            _check_size(reserved, limits)
            load = _load(db, owner)
            for count, limit in ((load.owners, limits.max_open_per_owner), (load.all, limits.max_open)):
                if count >= limit:
                    raise TooManyUploads(limit=limit)
            _check_bytes(db, load, owner, reserved, limits)
            dumped = {name: json.dumps(dict(values[name])) for name in ("metadata", "digests")}
            times = {"created_at": micros(now), "expires_at": micros(expires)}
            row = dict(values) | dumped | times | {"state": "open", "reserved_bytes": reserved}
            return row_of(db.execute(_ADD, row).one())

    def find(self, uid: str) -> UploadRow | None:
        """One indexed look-up."""
        with self._database.read() as db:
            row = db.execute(BY_ID, {"uid": uid}).first()
        return None if row is None else row_of(row)

    def noted(self, note: str, *, owner: str | None) -> UploadRow | None:
        """An upload of *owner* with that *note* that is content. Looks through all of them."""
        with self._database.read() as db:
            row = db.execute(_NOTED, {"owner": owner, "note": note}).first()
        return None if row is None else row_of(row)

    @contextmanager
    def taking(self, uid: str, *, expires: float) -> Iterator[UploadRow | None]:
        """Take an open upload over: the next fence, and time until *expires*. None when it is not open. Nobody else
        takes it while this lasts: keep it short. Durable when it ends: files are named by their fences, and no
        crash of the machine may take back those of files that are there."""
        with self._database.write(durable=True) as db:
            row = db.execute(_TAKE, {"uid": uid, "until": micros(expires)}).first()
            yield None if row is None else row_of(row)

    def close(
        self,
        uid: str,
        *,
        fence: int | None,
        dead: str | None,
        me: str,
        digests: Mapping[str, str],
        durable: bool = False,
    ) -> UploadRow | None:
        """Begin to make an upload whole: nobody else touches it while *me* lives. *fence*: only if it still is that
        one; else it is taken over. None when somebody else has it. *digests*: what it must have from now on,
        besides what was said before, or instead of it. *durable*: on return, for when its files get the name of the
        new fence, or could be written as content if it were open again."""
        key = {"uid": uid, "having": fence, "dead": dead, "me": me, "wanted": None}
        with self._database.write(durable=durable) as db:
            if digests and (before := db.execute(BY_ID, key).first()) is not None:
                key["wanted"] = json.dumps(json.loads(before.digests) | dict(digests))
            row = db.execute(_CLOSE, key).first()
            return None if row is None else row_of(row)

    def reopen(self, uid: str, *, fence: int) -> None:
        """Nothing came of `close`: the upload is open as before, but for its digests. Durable on return."""
        with self._database.write(durable=True) as db:
            db.execute(_REOPEN, {"uid": uid, "having": fence})

    def finish(
        self,
        uid: str,
        *,
        fence: int,
        size: int,
        sha256: str | None,
        now: float,
        expires: float,
        used: Sequence[str],
    ) -> UploadRow:
        """An upload is complete; its bytes are in the store under *sha256*, unless it is partial. *used*: the
        uploads that it was made of, which go. Durable on return. Raises `UploadTaken` when it is another's by
        now."""
        with self._database.write(durable=True) as db:
            if sha256 is not None:
                heal(db, [sha256])
                write_contents(db, [content_row(sha256, size_bytes=size, now_us=micros(now))])
            key = {"uid": uid, "having": fence, "whole": size, "digest": sha256, "until": micros(expires)}
            row = db.execute(_FINISH, key).first()
            if row is None:
                raise UploadTaken(uid)
            if used and db.execute(delete(uploads).where(uploads.c.id.in_(used))).rowcount < len(used):
                raise UploadTaken(used[0])  # another has used them up: their bytes count once
            return row_of(row)

    @contextmanager
    def holding(self, uid: str, *, fence: int) -> Iterator[None]:
        """Nobody takes the upload over while this lasts: keep it short. Raises `UploadTaken` when somebody has."""
        with self._database.write(durable=False) as db:
            if db.execute(_FENCE, {"uid": uid}).scalar_one_or_none() != fence:
                raise UploadTaken(uid)
            yield

    def set_size(self, uid: str, size: int, *, fence: int | None, limits: UploadLimits) -> None:
        """Say the length of an upload that had none. Durable on return. *fence*: only if it still is that one.
        Raises `LengthMismatch`, `UploadTaken`, and what `add` raises of sizes."""
        with self._database.write(durable=True) as db:
            row = db.execute(BY_ID, {"uid": uid}).first()
            if row is None or (fence is not None and row.fence != fence):
                raise UploadTaken(uid)
            if row.size == size:
                return
            if row.size is not None:
                raise LengthMismatch(expected=str(row.size), got=size)
            _check_size(size, limits)
            more = size - row.reserved_bytes
            if more > 0:
                check_room(db, row.owner, more, limits)
            db.execute(update(uploads).where(uploads.c.id == uid).values(size=size, reserved_bytes=size))

    def reserve(self, uid: str, needed: int, *, fence: int, limits: UploadLimits) -> int:
        """Reserve *needed* bytes in all for an upload without a length; what is reserved now. Raises `UploadTaken`,
        and what `add` raises of sizes."""
        with self._database.write(durable=False) as db:
            row = db.execute(BY_ID, {"uid": uid}).first()
            if row is None or row.fence != fence:
                raise UploadTaken(uid)
            more = needed - row.reserved_bytes
            if more <= 0:
                return int(row.reserved_bytes)
            check_room(db, row.owner, more, limits)
            db.execute(update(uploads).where(uploads.c.id == uid).values(reserved_bytes=needed))
            return needed

    def note_received(self, uid: str, received: int, *, fence: int, expires: float) -> None:
        """How far an upload is, for the sum of what is still to come; and it has time until *expires*."""
        with self._database.write(durable=False) as db:
            db.execute(_NOTE, {"uid": uid, "having": fence, "received": received, "until": micros(expires)})

    def is_rotten(self, sha256: str) -> bool:
        """Whether a content was found damaged."""
        query = select(contents.c.rotten_at).where(contents.c.sha256 == sha256)
        with self._database.read() as db:
            return db.execute(query).scalar_one_or_none() is not None

    # --- the end of uploads ---------------------------------------------------------------------------

    def remove(self, uid: str, *, now: float) -> None:
        """Forget an upload, in whatever state it is. Durable on return."""
        with self._database.write(durable=True) as db:
            _removed(db, uploads.c.id == uid, now_us=micros(now))

    def expire(self, *, now: float, besides: Collection[str]) -> list[str]:
        """Forget the uploads whose time is over, but for *besides*; their ids. Durable on return."""
        over = uploads.c.expires_at <= micros(now)
        with self._database.read() as db:
            found = set(db.execute(select(uploads.c.id).where(over)).scalars()).difference(besides)
        if not found:
            return []
        with self._database.write(durable=True) as db:
            return _removed(db, over & uploads.c.id.in_(found), now_us=micros(now))

    def closing(self) -> list[UploadRow]:
        """Uploads that somebody makes whole, or died while it did."""
        with self._database.read() as db:
            return [row_of(row) for row in db.execute(select(uploads).where(uploads.c.state == "closing"))]

    def overdue(self, *, now: float) -> list[tuple[str, int]]:
        """What `expire` would forget: ids and bytes."""
        over = uploads.c.expires_at <= micros(now)
        with self._database.read() as db:
            rows = db.execute(select(uploads.c.id, uploads.c.received_bytes).where(over)).all()
        return [(row.id, row.received_bytes) for row in rows]

    def ids(self, *, with_content: bool = False) -> set[str]:
        """Every upload that there is; or those that are content, so that their own files are of no use any more."""
        query = select(uploads.c.id)
        if with_content:
            query = query.where(uploads.c.content_sha256.is_not(None))
        with self._database.read() as db:
            return set(db.execute(query).scalars())


def _removed(db: Connection, which: ColumnElement[bool], *, now_us: int) -> list[str]:
    gone = db.execute(delete(uploads).where(which).returning(uploads.c.id, uploads.c.content_sha256)).all()
    note_orphans(db, [row.content_sha256 for row in gone], now_us=now_us)
    return [row.id for row in gone]


def _check_size(size: int, limits: UploadLimits) -> None:
    if limits.max_bytes is not None and size > limits.max_bytes:
        raise UploadTooLarge(limit_bytes=limits.max_bytes, got=size)


def _load(db: Connection, owner: str | None) -> Row[Any]:
    """How many uploads are not complete, of all and of *owner*; and the bytes that are still to come of them."""
    return db.execute(_LOAD, {"owner": owner}).one()


def check_room(db: Connection, owner: str | None, more: int, limits: UploadLimits) -> None:
    """Raise `UploadQuota` or `DiskReserved` if *owner* cannot have so many bytes *more*."""
    _check_bytes(db, _load(db, owner), owner, more, limits)


def _check_bytes(db: Connection, load: Row[Any], owner: str | None, more: int, limits: UploadLimits) -> None:
    if limits.max_bytes_per_owner is not None:
        held = db.execute(_HELD, {"owner": owner}).scalar_one()
        if held + more > limits.max_bytes_per_owner:
            raise UploadQuota(limit_bytes=limits.max_bytes_per_owner, held_bytes=held, got=more)
    free = limits.free_bytes - max(0, load.to_come)
    if more > free:
        raise DiskReserved(asked_bytes=more, free_bytes=free)
