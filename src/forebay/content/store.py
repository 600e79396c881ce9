"""What a content store can do: small Protocols, one per capability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from forebay.errors import StorageError


class ContentStore(Protocol):
    """Immutable bytes, addressed by their SHA-256 in hex."""

    def open(self, sha256: str, *, size_bytes: int) -> BinaryIO:
        """The content as a seekable binary file that stays readable whatever is swept meanwhile.
        `ContentRotten` when it is gone or has another size."""
        ...

    def committing(self) -> AbstractContextManager[None]:
        """Held from `adopt` until the catalog row is committed: no sweep runs meanwhile."""
        ...

    def adopt(self, files: Sequence[tuple[Path, str, bool]]) -> list[StorageError | None]:
        """Take synced files (path, digest, whether the path should stay) in under their digests, replacing
        what is there. On return the names of those without an error survive a crash of the machine; the
        others count as lost. A path that stays lets a download resume if its commit never comes."""
        ...

    def verify(self, sha256: str, *, size_bytes: int) -> str | None:
        """Read all bytes; None when they are right, else what was found."""
        ...


class SweepableStore(Protocol):
    """A store whose unreferenced content can be listed and removed."""

    def sweeping(self) -> AbstractContextManager[None]:
        """Held while content is removed: no commit runs meanwhile."""
        ...

    def stored(self) -> Iterator[tuple[str, float, int]]:
        """(digest, Unix time of storing, bytes) of everything there."""
        ...

    def delete(self, sha256: str) -> None:
        """Remove content; its open readers go on."""
        ...


class LocalPaths(Protocol):
    """A store whose content has paths on this machine."""

    def path(self, sha256: str) -> Path:
        """Where the content is; read only."""
        ...
