"""Rows of content: what has them, how they come, and when the sweep may have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from forebay.catalog.schema import IDS, contents, responses, uploads

_ROTTEN = select(contents.c.sha256).where(contents.c.sha256.in_(IDS), contents.c.rotten_at.is_not(None))
_HEAL = (
    update(responses)
    .where(responses.c.content_sha256.in_(IDS), responses.c.error_code == "content_rotten")
    .values(status=responses.c.sound_status, sound_status=None, error_code=None, error=None)
)
# Fresh bytes of the same content were just renamed over the old ones: whatever rot there was is gone.
_INSERT = insert(contents)
_INSERT_CONTENTS = _INSERT.on_conflict_do_update(
    index_elements=["sha256"],
    set_={"rotten_at": None, "orphaned_at": None, "stored_at": _INSERT.excluded.stored_at},
).returning(contents.c.sha256)


def referenced() -> ColumnElement[bool]:
    """Whether a version or an upload has a row of `contents`."""
    return or_(
        exists().where(responses.c.content_sha256 == contents.c.sha256),
        exists().where(uploads.c.content_sha256 == contents.c.sha256),
    )


def heal(db: Connection, digests: Sequence[str]) -> None:
    """Bytes that were found rotten are whole again: the versions that had them are ready as before."""
    if digests:
        rotten = list(db.execute(_ROTTEN, {"ids": list(digests)}).scalars())
        if rotten:
            db.execute(_HEAL, {"ids": rotten})


def write_contents(db: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Have a row for each content that was stored just now; those that had one are sound again."""
    db.execute(_INSERT_CONTENTS, [dict(row) for row in rows])


def content_row(sha256: str, *, size_bytes: int, now_us: int) -> dict[str, Any]:
    """A row for `write_contents`."""
    return {"sha256": sha256, "size_bytes": size_bytes, "stored_at": now_us, "rotten_at": None}


def note_orphans(db: Connection, digests: Iterable[str | None], *, now_us: int) -> None:
    """Begin the grace time of those of *digests* that nothing has any more."""
    lost = sorted({sha256 for sha256 in digests if sha256 is not None})
    if lost:
        orphaned = contents.c.sha256.in_(lost) & ~referenced()
        db.execute(update(contents).where(orphaned).values(orphaned_at=now_us))
