"""`Writer`: appends to one upload, until a newer writer takes it over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from forebay.models import Upload

Cut = Callable[[], None]


class Writer:
    """Appends to one upload. For one thread at a time, but for `cut`; close it.

    What was written and not yet acknowledged by `close` may be on the disk or not.
    """

    uid: str
    offset: int
    """Where the next byte goes: what was taken so far, on the disk or not."""
    size: int | None
    """The declared length."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append *data*; the new offset. Pieces of 256 KiB to 1 MiB cost least.

        Raises `UploadTooLarge` for more than was declared or is allowed, of which nothing is taken; `UploadTaken`
        once a newer writer has the session; `StorageError`. What was taken before stays.
        """
        raise NotImplementedError

    def close(self) -> int:
        """End the writing: return when all that was taken is on the disk, with the offset that may be told.

        Call it as well when the client has gone: what came stays. Raises `ChecksumMismatch` when the checksum that
        was announced is another: then nothing of it counts. `UploadTaken` when a newer writer has the session.
        """
        raise NotImplementedError

    def drop(self) -> None:
        """End the writing without a checksum's verdict: what came under a checksum is dropped, other bytes stay."""
        raise NotImplementedError

    def complete(self, digests: Mapping[str, str] | None = None) -> Upload | None:
        """`close`, then `Uploads.complete` without another takeover."""
        raise NotImplementedError

    def cut(self) -> None:
        """Take nothing any more; from any thread. What was taken before stays."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()
