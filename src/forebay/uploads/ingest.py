"""What is put into a folder on this machine: a file, or what a stream gives, without a server in between."""

from __future__ import annotations

from functools import partial
from typing import BinaryIO

from forebay.models import Upload
from forebay.reports import OnSending, Sending
from forebay.sources import FileSource, Parcel
from forebay.uploads.sessions import Uploads

_PIECE_BYTES = 1 << 20


def ingest(uploads: Uploads, parcel: Parcel, progress: OnSending | None) -> Upload:
    """A complete upload of what *parcel* holds, nobody's but the folder's."""
    try:
        if isinstance(parcel.source, FileSource):
            told = partial(_tell, parcel, progress, parcel.source.size)
            return uploads.ingest(parcel.source, owner=None, file_name=parcel.file_name, tell=told)
        return _stream(uploads, parcel, parcel.source, progress)
    finally:
        if progress is not None:
            progress(parcel.shown, Sending(state="done"))


def _tell(parcel: Parcel, progress: OnSending | None, total: int | None, done: int) -> None:
    if progress is not None:
        progress(parcel.shown, Sending(sent_bytes=done, total_bytes=total))


def _stream(uploads: Uploads, parcel: Parcel, stream: BinaryIO, progress: OnSending | None) -> Upload:
    uid = uploads.create(owner=None, file_name=parcel.file_name).uid
    try:
        with uploads.writer(uid, owner=None) as writer:
            while piece := stream.read(_PIECE_BYTES):
                _tell(parcel, progress, None, writer.write(piece))
            writer.set_size(writer.offset)
            upload = writer.complete()
    except BaseException:
        uploads.cancel(uid, owner=None)  # nobody can go on with it
        raise
    assert upload is not None
    return upload
