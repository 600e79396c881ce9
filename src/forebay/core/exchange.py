"""The words of a download: what is asked, what happened (events), what is to be done (actions).

`forebay.core.download` is the machine that turns events into actions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from forebay.core import fields as f
from forebay.core.fields import Fields
from forebay.core.retry import RetryPolicy
from forebay.errors import HashMismatch, OriginError

# --- what is asked --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """The registered ask. *fields* are those that the client registered; *body* is sent as it is."""

    method: str
    url: str
    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # they may hold secrets
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one download. ``None``: no bound."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    deadline_s: float | None = None
    max_size_bytes: int | None = None
    max_redirects: int = 10


@dataclass(frozen=True, slots=True)
class Representation:
    """What the head of the answer that began a generation said of its content."""

    etag: str | None = None
    last_modified: str | None = None
    media_type: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    total: int | None = None
    final_url: str = ""
    http_status: int = 200

    @property
    def resume_validator(self) -> str | None:
        """The value for If-Range: a strong ETag, else Last-Modified (RFC 9110 section 13.1.5)."""
        if f.is_strong_etag(self.etag):
            return self.etag
        return self.last_modified


# --- events ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """The final (not 1xx) status line and fields of an answer."""

    status: int
    fields: Fields
    wall_unix: float


@dataclass(frozen=True, slots=True)
class Landed:
    """*length* bytes of this generation are there now."""

    length: int


@dataclass(frozen=True, slots=True)
class Eof:
    """The body ended the way HTTP says; *length* bytes of this generation are there."""

    length: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The exchange failed in transport; *code* is one of `OriginError`'s."""

    code: str
    detail: str
    length: int
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Woke:
    """The wait is over."""


@dataclass(frozen=True, slots=True)
class Mismatched:
    """All bytes are there, but they do not hash to what the caller expects."""

    error: HashMismatch


Event = Head | Landed | Eof | Failed | Woke | Mismatched


# --- actions --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Open an exchange; whatever body is still running is no longer wanted."""

    method: str
    url: str
    fields: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Write:
    """The body of this answer is wanted from *offset* on. A *generation* that the shell has not seen begins
    a new partial file at offset 0; what an older one had is dropped."""

    offset: int
    generation: int
    representation: Representation


@dataclass(frozen=True, slots=True)
class Wait:
    """Give the host's slot back and report `Woke` after *seconds*."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Commit:
    """All bytes are there. Verify, then make the version ready."""

    representation: Representation
    length: int


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The stored version is still current. *confirmed*: a validator said so; else only a HEAD showed no
    difference."""

    http_status: int
    final_url: str
    confirmed: bool = True


@dataclass(frozen=True, slots=True)
class Abandon:
    """The download failed for good. *keep_partial*: what landed may still serve a later resume."""

    error: OriginError
    keep_partial: bool


Action = Send | Write | Wait | Commit | Unchanged | Abandon
