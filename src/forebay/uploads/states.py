"""What an upload is and how far it has come, as a dialect sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

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
