"""`Uploads`: the sessions of one folder, behind every dialect. Blocking: servers call it from threads.

What was acknowledged is on the disk. One writer at a time: a newer one takes the session over, with a fence that
only grows, and the older one is cut (docs/explanation/uploads.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from forebay.models import ChunkRequest, ChunkResponse, Upload
from forebay.uploads.states import ANYONE, Anyone, UploadState
from forebay.uploads.writing import Cut, Writer

if TYPE_CHECKING:
    from forebay.messages.incoming import IncomingMessage


class Uploads:
    """The uploads of one folder, in any thread and any process of it.

    *owner* is the id of a token, None where there is none. Another owner's upload is `UnknownUpload`, like one that
    does not exist.
    """

    def create(
        self,
        *,
        owner: str | None,
        size: int | None = None,
        file_name: str = "",
        media_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        note: str = "",
        digests: Mapping[str, str] | None = None,
        partial: bool = False,
    ) -> UploadState:
        """A new upload whose bytes come in order; durable on return.

        *size*: None as long as it is not known. *note*: what its dialect keeps with it, opaque here. *digests*:
        what the whole must have, hex digits by hashlib name. *partial*: one of several that `concatenate` will
        make one; it never becomes content. Raises `UploadTooLarge`, `UploadQuota`, `TooManyUploads`,
        `DiskReserved`.
        """
        raise NotImplementedError

    def state(self, uid: str, *, owner: str | Anyone | None, settle: bool = False) -> UploadState:
        """What is known of an upload; the bytes below its offset are on the disk.

        *settle*: whoever still writes it is cut, so that the offset stays what is told until somebody goes on; and
        one that is whole is completed, should a crash have come between. Raises `UnknownUpload`, `UploadExpired`.
        """
        raise NotImplementedError

    def set_size(self, uid: str, *, owner: str | None, size: int) -> None:
        """Say the length that was not known at creation; durable on return. Saying it again is fine, another one
        `LengthMismatch`."""
        raise NotImplementedError

    def writer(
        self,
        uid: str,
        *,
        owner: str | None,
        offset: int | None = None,
        checksum: tuple[str, str] | None = None,
        on_cut: Cut | None = None,
    ) -> Writer:
        """Take the session over, to append from *offset* on; whoever wrote it before is cut.

        *checksum*: algorithm and hex digest of all that this writer will write; nothing of it counts before that
        has been verified. *on_cut* is called once when a newer writer of this process takes over, in that one's
        thread: it must not wait. Raises `UnknownUpload`, `UploadExpired`, `OffsetMismatch` (the old writer is cut
        all the same), `UploadFinished`.
        """
        raise NotImplementedError

    def complete(self, uid: str, *, owner: str | None, digests: Mapping[str, str] | None = None) -> Upload | None:
        """Verify a whole upload and store it as content; durable on return. None for a partial one.

        Doing it again gives the same. *digests*: more that it must have. Raises `UploadIncomplete` with what is
        missing; `UploadMismatch`, after which the upload is as before.
        """
        raise NotImplementedError

    def cancel(self, uid: str, *, owner: str | None) -> None:
        """Forget an upload, complete or not, and remove its bytes; whoever writes it is cut. What was published of
        it stays. Raises `UnknownUpload`."""
        raise NotImplementedError

    def concatenate(
        self,
        parts: Sequence[str],
        *,
        owner: str | None,
        file_name: str = "",
        media_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        note: str = "",
        digests: Mapping[str, str] | None = None,
    ) -> UploadState:
        """A complete upload of the bytes of *parts*, in that order; the parts are used up by it.

        Where the file system can share blocks, nothing is copied. Raises `UnknownUpload`, `UploadIncomplete`,
        `UploadMismatch`, and what `create` raises.
        """
        raise NotImplementedError

    def get_upload(self, uid: str, *, owner: str | Anyone | None = ANYONE) -> Upload:
        """A whole upload, completed if nobody has done that yet. Raises `UploadIncomplete` with what is missing,
        `UploadMismatch`, `UnknownUpload`, `UploadExpired`."""
        raise NotImplementedError

    def handle_chunk_request(
        self, message: IncomingMessage, chunk: ChunkRequest, *, owner: str | Anyone | None = ANYONE
    ) -> ChunkResponse:
        """Take one chunk, in any order and beside others; durable on return.

        Sent again with the same bytes it changes nothing; with other bytes it takes the place of the first. Sizes
        that do not add up are told by `get_upload`. *owner*: unless given, that of the token that came with
        *message*. Raises `ChunkInvalid`, `ChecksumMismatch`, `UploadFinished`, and what `create` raises.
        """
        raise NotImplementedError

    def expire(self, *, now: float | None = None) -> list[str]:
        """Forget the uploads whose time is over, and remove what crashes have left of others; their ids."""
        raise NotImplementedError

    def close(self) -> None:
        """Cut every writer of this process; what was acknowledged stays."""
        raise NotImplementedError
