"""What an upload is and how far it has come, as a dialect sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Literal

from forebay.catalog.uploads import UploadRow
from forebay.models import Upload

Kind = Literal["sequential", "chunks"]


class Anyone(Enum):
    """In place of an owner: whoever asks may see every upload."""

    ANYONE = 0


ANYONE = Anyone.ANYONE


@dataclass(frozen=True, slots=True)
class UploadState:
    """One upload. Times are Unix seconds.

    *size*: as declared, None as long as it is not known. *offset*: how many bytes are there and on the disk; of
    chunks, those that count. *note*: what the dialect that began it keeps with it. *expires*: None once it is
    published. *sha256*: of one that is complete, and not partial.
    """

    uid: str
    owner: str | None
    kind: Kind
    file_name: str
    media_type: str | None
    metadata: Mapping[str, str]
    note: str
    size: int | None
    offset: int
    created: float
    expires: float | None
    is_partial: bool
    is_complete: bool
    sha256: str | None

    @property
    def is_whole(self) -> bool:
        """Whether every byte is there."""
        return self.is_complete or (self.kind == "sequential" and self.offset == self.size)


def state_of(row: UploadRow, *, offset: int) -> UploadState:
    """What *row* says."""
    return UploadState(
        uid=row.id,
        owner=row.owner,
        kind="chunks" if row.kind == "chunks" else "sequential",
        file_name=row.file_name,
        media_type=row.media_type,
        metadata=row.metadata,
        note=row.note,
        size=row.size,
        offset=offset,
        created=row.created_at,
        expires=row.expires_at,
        is_partial=row.is_partial,
        is_complete=row.state == "complete",
        sha256=row.sha256,
    )


def upload_of(row: UploadRow, *, media_type: str) -> Upload:
    """The `Upload` of a *row* that is complete, and not partial."""
    assert row.sha256 is not None
    assert row.size is not None
    return Upload(
        uploadUid=row.id,
        fileName=row.file_name,
        totalSize=row.size,
        sha256=row.sha256,
        media_type=media_type,
        metadata=row.metadata,
        created=datetime.fromtimestamp(row.created_at, UTC),
        expires=None if row.expires_at is None else datetime.fromtimestamp(row.expires_at, UTC),
        owner=row.owner,
        state="complete" if row.response_id is None else "published",
    )
