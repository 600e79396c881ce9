"""Sending files to a server, and publishing them there: resumed where it broke off, in parts at once.

A file is read once: as it is sent, it is hashed, and what goes last goes by itself, behind the digest of the whole
(Repr-Digest, RFC 9530). So the server compares before anything becomes content, and its answer is compared here.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from forebay.client import tus
from forebay.client.exchange import Call, Flow, ask, do, model_in, send, together
from forebay.client.fetching import Patience
from forebay.client.journal import Journal, Part
from forebay.client.tus import Block, Gone, Progressing, Span, Tell
from forebay.core.sending import parts_of, tail_start
from forebay.errors import (
    FileChanged,
    ForebayError,
    InvalidValue,
    OffsetMismatch,
    ServerAnswerInvalid,
    ServerUnreachable,
    UnknownUpload,
    UploadExpired,
    UploadMismatch,
)
from forebay.models import Response
from forebay.reports import OnSending, Sending
from forebay.sources import FileSource, Parcel, RunningDigest, read_block

PARALLEL = 4
"""Parts at once unless another number is asked for."""

# Small enough to be sent with its creation, and to be sent again when that fails.
_SMALL_BYTES = 1 << 20
# More connections than that gain nothing, and one server's patience is not for one client alone.
_MOST_PARTS = 16
# Hashed at a time: between two of them it can be broken off.
_DIGEST_BYTES = 64 << 20
# Of a stream: what may have to be sent again, for it cannot be read again.
_BLOCK_BYTES = 8 << 20


def sending(
    parcel: Parcel, *, server: str, folder: Path, parallel: int, progress: OnSending | None
) -> Flow[Response]:
    """`put` with what is remembered in *folder*, telling *progress*. Raises `InvalidValue`."""
    if not 1 <= parallel <= _MOST_PARTS:
        raise InvalidValue("parallel", expected=f"1 to {_MOST_PARTS}", got=parallel)
    tell = None if progress is None else partial(progress, parcel.shown)
    source = parcel.source
    journal = Journal(folder, server, source.identity) if isinstance(source, FileSource) else None
    return _told(put(parcel, journal, parallel=parallel, tell=tell), tell)


def _told(flow: Flow[Response], tell: Tell | None) -> Flow[Response]:
    try:
        return (yield from flow)
    finally:
        if tell is not None:
            tell(Sending(state="done"))


def put(parcel: Parcel, journal: Journal | None, *, parallel: int, tell: Tell | None) -> Flow[Response]:
    """Send *parcel* and publish it. Raises what the server refuses it with; `ServerUnreachable`, after which the
    same can be asked again and goes on where *journal* says; `FileChanged`."""
    if not isinstance(parcel.source, FileSource):
        progress = Progressing(tell, None)
        return (yield from _watched(_put_stream(parcel, parcel.source, progress), progress))
    assert journal is not None
    progress = Progressing(tell, parcel.source.size)
    is_over = False
    yield from do(journal.take)
    try:
        response = yield from _watched(_put_file(parcel, parcel.source, journal, parallel, progress), progress)
        is_over = True
        return response
    finally:
        journal.close(is_over=is_over)


def _watched(flow: Flow[Response], progress: Progressing) -> Flow[Response]:
    """*flow*, with somebody who is told now and then how far it is."""
    if progress.tell is None:
        return (yield from flow)
    (response,) = yield from together([flow], progress.tick)
    return response


def _put_file(
    parcel: Parcel, file: FileSource, journal: Journal, parallel: int, progress: Progressing
) -> Flow[Response]:
    anew = False
    while True:
        try:
            uid, sha256 = yield from _sent(parcel, file, journal, parallel, progress)
            file.check()
            progress.state = "storing"
            return (yield from _publish(uid, parcel, sha256=sha256, size=file.size))
        except FileChanged:
            with suppress(ServerUnreachable):
                yield from _removed(journal)
            raise
        except (Gone, UnknownUpload, UploadExpired, UploadMismatch) as error:
            # What was there before is gone, or was no longer of use; once, that is nobody's fault.
            if anew:
                raise _given_up(error) from error
            anew = True
            yield from _removed(journal)
            progress.begin_anew()


def _given_up(error: Exception) -> ForebayError:
    if isinstance(error, ForebayError):
        return error
    return ServerAnswerInvalid("the server forgets what it has just been sent")


def _removed(journal: Journal) -> Flow[None]:
    """Have the server forget what it may have, and forget it here."""
    begun = journal.begun
    yield from do(journal.forget)
    for uid in filter(None, (begun.whole, *(part.uid for part in begun.parts))):
        yield from send(Call("DELETE", tus.place(uid), fields=(tus.VERSION,)))


# --- a whole file -------------------------------------------------------------------------------------


def _sent(
    parcel: Parcel, file: FileSource, journal: Journal, parallel: int, progress: Progressing
) -> Flow[tuple[str, str]]:
    """The upload of all of *file*, complete, and the digest that the file was found to have."""
    begun = journal.begun
    if begun.whole is None and not begun.parts:
        if file.size <= _SMALL_BYTES:
            yield from _send_small(parcel, file, journal, progress)
        else:
            yield from _begin(parcel, parts_of(file.size, parallel=parallel), journal, progress)
    if journal.begun.parts:
        yield from _send_parts(parcel, file, journal, progress)
    whole, sha256 = journal.begun.whole, journal.begun.sha256
    assert whole is not None
    if sha256 is None:
        digest = RunningDigest(file)
        yield from _send_rest(whole, file, (0, file.size), progress, digest=digest)
        sha256 = digest.hex()
        yield from do(partial(journal.note, sha256=sha256))
    progress.sent = {0: file.size}
    return whole, sha256


def _send_small(parcel: Parcel, file: FileSource, journal: Journal, progress: Progressing) -> Flow[None]:
    digest = RunningDigest(file)
    yield from do(partial(digest.read_on, file.size))
    length = ("Upload-Length", str(file.size))
    fields = (*tus.about(parcel.file_name), length, tus.repr_digest(digest.hex()))
    content = Span(file, 0, file.size, progress) if file.size else None
    uid = yield from tus.create(progress, fields, content=content)
    yield from do(partial(journal.note, whole=uid, sha256=digest.hex()))


def _begin(parcel: Parcel, spans: list[tuple[int, int]], journal: Journal, progress: Progressing) -> Flow[None]:
    """Create what the file is sent to: one upload, or one a part."""
    if len(spans) == 1:
        length = ("Upload-Length", str(spans[0][1]))
        uid = yield from tus.create(progress, (*tus.about(parcel.file_name), length))
        return (yield from do(partial(journal.note, whole=uid)))
    parts: tuple[Part, ...] = ()
    for start, stop in spans:
        fields = (tus.VERSION, ("Upload-Concat", "partial"), ("Upload-Length", str(stop - start)))
        uid = yield from tus.create(progress, fields)
        parts += (Part(uid, start, stop),)
    # All or none: those of a beginning that broke off expire.
    return (yield from do(partial(journal.note, parts=parts)))


def _send_parts(parcel: Parcel, file: FileSource, journal: Journal, progress: Progressing) -> Flow[None]:
    """Send the parts at once, while the file is hashed, and have them put together."""
    parts = journal.begun.parts
    flows = [_digest_of(file, journal), *(_send_part(part, file, progress, i) for i, part in enumerate(parts))]
    try:
        sha256, *_ = yield from together(flows)
    except Gone:
        # They may have been put together by now, and the answer lost: who asks for the same again gets it.
        if journal.begun.sha256 is None:
            raise
        sha256 = journal.begun.sha256
    progress.state = "storing"
    places = " ".join(tus.place(part.uid) for part in parts)
    concat = ("Upload-Concat", f"final;{places}")
    uid = yield from tus.create(progress, (*tus.about(parcel.file_name), concat, tus.repr_digest(sha256)))
    yield from do(partial(journal.note, whole=uid, parts=(), sha256=sha256))


def _send_part(part: Part, file: FileSource, progress: Progressing, number: int) -> Flow[str]:
    yield from _send_rest(part.uid, file, (part.start, part.stop), progress, number=number)
    return part.uid


def _digest_of(file: FileSource, journal: Journal) -> Flow[str]:
    if journal.begun.sha256 is None:
        digest = RunningDigest(file)
        yield from _read_on(digest, file.size)
        yield from do(file.check)
        yield from do(partial(journal.note, sha256=digest.hex()))
    assert journal.begun.sha256 is not None
    return journal.begun.sha256


def _read_on(digest: RunningDigest, stop: int) -> Flow[None]:
    while digest.length < stop:
        yield from do(partial(digest.read_on, min(stop, digest.length + _DIGEST_BYTES)))


# --- bytes in order -----------------------------------------------------------------------------------


def _may_go_on(error: ForebayError) -> bool:
    return error.retryable or isinstance(error, OffsetMismatch)


def _send_rest(
    uid: str,
    file: FileSource,
    span: tuple[int, int],
    progress: Progressing,
    *,
    number: int = 0,
    digest: RunningDigest | None = None,
) -> Flow[None]:
    """Send what upload *uid* has not yet of *span* of *file*, until it has all; with *digest*, what goes last goes
    behind that of the whole. Where it stands is asked first, and after each failure."""
    start, stop = span
    patience, known, size = Patience(), -1, stop - start
    while known < size:
        try:
            offset = yield from tus.offset_of(uid, progress)
            if known < 0:
                progress.resumed[number] = offset
            elif offset > known:
                patience.renewed()
            known = progress.sent[number] = offset
            if digest is not None:
                known = yield from _send_behind(uid, file, offset, progress, digest)
            elif offset < size:
                content = Span(file, start + offset, stop, progress, number, base=start)
                known = yield from tus.append(uid, offset, content)
        except ForebayError as error:
            if not _may_go_on(error):
                raise
            yield from progress.after(error, patience)


def _send_behind(
    uid: str, file: FileSource, offset: int, progress: Progressing, digest: RunningDigest
) -> Flow[int]:
    """Send the rest in two messages: when the first one has gone, all that is before the second has been read."""
    progress.state = "reading" if digest.length < offset else "sending"
    yield from _read_on(digest, offset)
    progress.state = "sending"
    last = tail_start(file.size, offset=offset)
    if offset < last:
        offset = yield from tus.append(uid, offset, Span(file, offset, last, progress, digest=digest))
    if offset == last < file.size:
        yield from _read_on(digest, file.size)
        yield from do(file.check)
        content = Span(file, offset, file.size, progress)
        offset = yield from tus.append(uid, offset, content, tus.repr_digest(digest.hex()))
    return offset


# --- a stream -----------------------------------------------------------------------------------------


def _put_stream(parcel: Parcel, stream: BinaryIO, progress: Progressing) -> Flow[Response]:
    """Send what *stream* gives in blocks: each is kept until the server has it, for there is no other."""
    digest = hashlib.sha256()
    uid = yield from tus.create(progress, (*tus.about(parcel.file_name), ("Upload-Defer-Length", "1")))
    try:
        offset, is_last = 0, False
        while not is_last:
            block = yield from do(partial(read_block, stream, _BLOCK_BYTES))
            yield from do(partial(digest.update, block))
            is_last = len(block) < _BLOCK_BYTES
            length = ("Upload-Length", str(offset + len(block)))
            end = (length, tus.repr_digest(digest.hexdigest())) if is_last else ()
            yield from _send_block(uid, offset, block, progress, *end)
            offset += len(block)
        progress.state = "storing"
        return (yield from _publish(uid, parcel, sha256=digest.hexdigest(), size=offset))
    except Gone as error:
        raise _given_up(error) from error


def _send_block(uid: str, base: int, block: bytes, progress: Progressing, *end: tuple[str, str]) -> Flow[None]:
    offset, stop, patience = base, base + len(block), Patience()
    while True:
        try:
            reached = yield from tus.append(uid, offset, Block(memoryview(block)[offset - base :]), *end)
            is_told = reached == stop
        except ForebayError as error:
            if not _may_go_on(error):
                raise
            yield from progress.after(error, patience)
            reached = yield from _offset_patiently(uid, progress, patience)
            # What came with the last bytes may not have been taken in: it is said again, which does no harm.
            is_told = reached == stop and not end
        if not offset <= reached <= stop:
            raise ServerAnswerInvalid("the server has other bytes than it was sent")
        if reached > offset:
            patience.renewed()
        offset = progress.sent[0] = reached
        if is_told:
            return


def _offset_patiently(uid: str, progress: Progressing, patience: Patience) -> Flow[int]:
    while True:
        try:
            return (yield from tus.offset_of(uid, progress))
        except ServerUnreachable as error:
            yield from progress.after(error, patience)


# --- the end ------------------------------------------------------------------------------------------


def _publish(uid: str, parcel: Parcel, *, sha256: str, size: int) -> Flow[Response]:
    """Make the upload the newest version of its name; what the server says of it is compared."""
    body = {"name": parcel.name, "sha256": sha256} | ({} if parcel.tag is None else {"tag": parcel.tag})
    # Asked twice, the version is found that the first has made.
    call = Call("POST", f"/v1/upload/id/{uid}/publish", body=body, patience_s=tus.LONG_S, idempotent=True)
    patience = Patience()
    while True:
        try:
            response = model_in(call, (yield from ask(call)), Response)
        except ServerUnreachable as error:
            yield from patience.after(error)
            continue
        attributes = response.content_attributes
        if (attributes.sha256, attributes.content_size_bytes) != (sha256, size):
            raise UploadMismatch(uid, what="sha256", expected=sha256, got=str(attributes.sha256))
        return response
