"""tus 1.0 (https://tus.io/protocols/resumable-upload) as our client says it, and what it sends."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from forebay.client.exchange import Answer, Call, Content, Flow, Wait, ask, good, send
from forebay.client.fetching import Patience
from forebay.core.fields import format_digest
from forebay.errors import ForebayError, ServerAnswerInvalid, ServerUnreachable, UploadLocked
from forebay.reports import Sending
from forebay.sources import FileSource, RunningDigest

ROOT = "/v1/upload/tus/"
VERSION = ("Tus-Resumable", "1.0.0")
OFFSET_STREAM = ("Content-Type", "application/offset+octet-stream")
LONG_S = 3600.0
"""A disk may have a lot to write, and a file be put together of its parts, before there is an answer."""
_LOCKED_S = 1.0

Pairs = tuple[tuple[str, str], ...]


class Gone(Exception):
    """The server knows nothing of what was sent before."""


class Tell(Protocol):
    """Is told how far it is."""

    def __call__(self, sending: Sending) -> None: ...


@dataclass(slots=True)
class Progressing:
    """How far the parts of one file are, told of now and then. *tell*: None for nobody. *contacted*: the server was
    there, so that it is waited for when it is not."""

    tell: Tell | None
    total: int | None
    sent: dict[int, int] = field(default_factory=dict)
    resumed: dict[int, int] = field(default_factory=dict)
    attempts: int = 1
    state: str = "sending"
    reason: str | None = None
    contacted: bool = False

    def tick(self) -> None:
        """Tell of it."""
        if self.tell is not None:
            self.tell(
                Sending(
                    state=self.state,
                    sent_bytes=sum(self.sent.values()),
                    total_bytes=self.total,
                    attempt=self.attempts,
                    resumed_bytes=sum(self.resumed.values()),
                    reason=self.reason,
                )
            )

    def after(self, error: ForebayError, patience: Patience) -> Flow[None]:
        """Wait for another attempt; raise *error* when there is to be none."""
        if not self.contacted:
            raise error
        self.attempts, self.reason = self.attempts + 1, str(error)
        yield from patience.after(error)

    def begin_anew(self) -> None:
        """Nothing of what was sent counts."""
        self.sent.clear()
        self.resumed.clear()


# --- what is sent -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Span:
    """Bytes of a file as a `Content`; how far it is and, with *digest*, what it reads is told. *number*: of the
    part that it is of, and *base* where that begins."""

    file: FileSource
    start: int
    stop: int
    progress: Progressing
    number: int = 0
    digest: RunningDigest | None = None
    base: int = 0

    @property
    def size(self) -> int:
        """See `Content.size`."""
        return self.stop - self.start

    def pieces(self) -> Iterator[bytes]:
        """See `Content.pieces`."""
        self.progress.contacted = True  # nothing is read before there is a connection
        at = self.start
        for piece in self.file.pieces(self.start, self.stop):
            if self.digest is not None:
                self.digest.feed(piece, at=at)
            yield piece
            at += len(piece)
            self.progress.sent[self.number] = at - self.base


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes in memory as a `Content`."""

    data: memoryview

    @property
    def size(self) -> int:
        """See `Content.size`."""
        return len(self.data)

    def pieces(self) -> Iterator[bytes]:
        """See `Content.pieces`."""
        yield bytes(self.data)


# --- what is said -------------------------------------------------------------------------------------


def place(uid: str) -> str:
    """Where an upload is."""
    return ROOT + uid


def about(file_name: str) -> Pairs:
    """What a creation says of the file."""
    pairs = {"filename": file_name, "filetype": mimetypes.guess_type(file_name)[0] or "application/octet-stream"}
    said = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())
    return VERSION, ("Upload-Metadata", said)


def repr_digest(sha256: str) -> tuple[str, str]:
    """What the whole must have (RFC 9530)."""
    return "Repr-Digest", format_digest("sha-256", sha256)


def create(progress: Progressing, fields: Pairs, *, content: Content | None = None) -> Flow[str]:
    """The id of a new upload. Creating one more is no harm: it expires."""
    if content is not None:
        fields = (*fields, OFFSET_STREAM)
    call = Call("POST", ROOT, fields=fields, content=content, patience_s=LONG_S)
    patience = Patience()
    while True:
        try:
            answer = yield from ask(call)
        except ServerUnreachable as error:
            yield from progress.after(error, patience)
            continue
        uid = (answer.fields.get("Location") or "").rpartition("/")[2]
        if answer.status != 201 or not uid.isalnum():
            raise ServerAnswerInvalid(f"the server's {ROOT} creates nothing: is there a Forebay at this URL?")
        progress.contacted = True
        return uid


def offset_of(uid: str, progress: Progressing) -> Flow[int]:
    """How many bytes the server has of an upload. Raises `Gone`."""
    call = Call("HEAD", place(uid), fields=(VERSION,), patience_s=LONG_S)
    while (answer := (yield from send(call))).status == UploadLocked.status:
        progress.contacted = True
        yield Wait(_LOCKED_S)  # somebody makes it whole, which comes to an end
    if answer.status in (404, 410):  # without a body, that is all it says
        raise Gone
    offset = _number(good(call, answer), "Upload-Offset")
    progress.contacted = True
    return offset


def append(uid: str, offset: int, content: Content, *more: tuple[str, str]) -> Flow[int]:
    """Append *content* at *offset*; where the upload ends now."""
    fields = (VERSION, OFFSET_STREAM, ("Upload-Offset", str(offset)), *more)
    call = Call("PATCH", place(uid), fields=fields, content=content, patience_s=LONG_S)
    return _number((yield from ask(call)), "Upload-Offset")


def _number(answer: Answer, name: str) -> int:
    value = answer.fields.get(name) or ""
    if not (value.isascii() and value.isdigit()):
        said = f"the server answers {answer.status} without {name}"
        raise ServerAnswerInvalid(f"{said}: is there a Forebay at this URL?")
    return int(value)
