"""The rows of chunks: who writes one where, and which of them count. Each change one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from forebay.catalog.database import Database
from forebay.catalog.rows import micros
from forebay.catalog.schema import upload_chunks, uploads
from forebay.catalog.uploads import BY_ID, UploadLimits, check_room, row_of
from forebay.core.chunks import Extent, is_overfull, place, slot
from forebay.errors import UploadTooLarge

_OF_NUMBER = select(upload_chunks).where(
    upload_chunks.c.upload_id == bindparam("uid"), upload_chunks.c.number == bindparam("number")
)
_ACKNOWLEDGED = (
    select(upload_chunks.c.number, upload_chunks.c.offset, upload_chunks.c.size, upload_chunks.c.claim)
    .where(upload_chunks.c.upload_id == bindparam("uid"), upload_chunks.c.owner.is_(None))
    .order_by(upload_chunks.c.number)
)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write a chunk at a place that is nobody else's. The highest claim of those that were
    acknowledged counts."""

    upload_id: str
    extent: Extent


class ChunkRows:
    """The chunks of the uploads of a folder. Times are Unix seconds; *me* names a process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self,
        uid: str,
        number: int,
        size: int,
        *,
        me: str,
        is_alive: Callable[[str], bool],
        limits: UploadLimits,
        expires: float,
    ) -> Claim | None:
        """A place for a chunk that nobody else writes to. None when the upload is not open. Raises `UploadTooLarge`
        for much more than was declared, and what `add` raises of sizes."""
        with self._database.write(durable=False) as db:
            found = db.execute(BY_ID, {"uid": uid}).first()
            if found is None or found.state != "open":
                return None
            row = row_of(found)
            claimed = row.received_bytes + size
            if is_overfull(row.layout, claimed):
                raise UploadTooLarge(limit_bytes=row.layout.total, got=claimed)
            if claimed > row.reserved_bytes:
                more = claimed - row.reserved_bytes
                check_room(db, row.owner, more, limits)
            others = db.execute(_OF_NUMBER, {"uid": uid, "number": number}).all()
            lost = [other for other in others if other.owner is not None and not is_alive(other.owner)]
            for other in lost:  # its process is gone, and what it wrote counts for nothing
                _forget(db, uid, number, [other.claim])
            where = slot(row.layout, number, size)
            taken = any(other.offset == where for other in others if other not in lost)
            found_place = place(row.layout, number, size, slot_taken=taken)
            claim = Claim(uid, Extent(number, found_place.offset, size, row.claims + 1))
            db.execute(
                insert(upload_chunks),
                {
                    "upload_id": uid,
                    "number": number,
                    "claim": claim.extent.claim,
                    "offset": claim.extent.offset,
                    "size": size,
                    "owner": me,
                },
            )
            db.execute(
                update(uploads)
                .where(uploads.c.id == uid)
                .values(
                    claims=claim.extent.claim,
                    chunk_size=found_place.layout.chunk_size,
                    tail=found_place.layout.tail,
                    received_bytes=claimed,
                    reserved_bytes=max(row.reserved_bytes, claimed),
                    expires_at=micros(expires),
                )
            )
            return claim

    def acknowledge(self, claim: Claim, *, me: str) -> bool:
        """The bytes of *claim* are on the disk, and count unless a later claim's do. False when the upload is not
        open any more. Durable on return."""
        uid, number, mine = claim.upload_id, claim.extent.number, claim.extent.claim
        with self._database.write(durable=True) as db:
            found = db.execute(BY_ID, {"uid": uid}).first()
            if found is None or found.state != "open":
                return False
            there = [
                row.claim for row in db.execute(_OF_NUMBER, {"uid": uid, "number": number}) if row.owner is None
            ]
            if any(other > mine for other in there):
                _forget(db, uid, number, [mine])
                return True
            _forget(db, uid, number, there)
            which = (upload_chunks.c.upload_id == uid) & (upload_chunks.c.number == number)
            which &= (upload_chunks.c.claim == mine) & (upload_chunks.c.owner == me)
            return db.execute(update(upload_chunks).where(which).values(owner=None)).rowcount == 1

    def give_up(self, claim: Claim) -> None:
        """Nothing came of *claim*."""
        with self._database.write(durable=False) as db:
            _forget(db, claim.upload_id, claim.extent.number, [claim.extent.claim])

    def one(self, uid: str, number: int) -> Extent | None:
        """Where the chunk *number* is that counts."""
        query = _ACKNOWLEDGED.where(upload_chunks.c.number == number)
        with self._database.read() as db:
            row = db.execute(query, {"uid": uid}).first()
        return None if row is None else Extent(*row)

    def all(self, uid: str) -> list[Extent]:
        """Where every chunk is that counts, by number."""
        with self._database.read() as db:
            return [Extent(*row) for row in db.execute(_ACKNOWLEDGED, {"uid": uid})]

    def bytes_before(self, uid: str, number: int) -> int:
        """The sizes of the chunks before *number* together."""
        before = (upload_chunks.c.upload_id == uid) & (upload_chunks.c.number < number)
        query = select(func.coalesce(func.sum(upload_chunks.c.size), 0)).where(
            before, upload_chunks.c.owner.is_(None)
        )
        with self._database.read() as db:
            return int(db.execute(query).scalar_one())

    def writers(self, uid: str) -> set[str]:
        """The processes that write chunks of an upload now, or died while they did."""
        query = select(upload_chunks.c.owner).where(
            upload_chunks.c.upload_id == uid, upload_chunks.c.owner.is_not(None)
        )
        with self._database.read() as db:
            return set(db.execute(query.distinct()).scalars())


def _forget(db: Connection, uid: str, number: int, claims: Sequence[int]) -> None:
    mine = (upload_chunks.c.upload_id == uid) & (upload_chunks.c.number == number)
    if claims:
        db.execute(delete(upload_chunks).where(mine, upload_chunks.c.claim.in_(claims)))
