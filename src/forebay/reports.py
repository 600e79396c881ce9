"""What the calls of the API give besides models: answers, progress, counts. The same from a folder and from a
server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from forebay.errors import ForebayError
from forebay.models import RequestSpec, Response

log = logging.getLogger("forebay")

How = Literal["stored", "fetched", "unchanged", "stale", "failed"]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of a URL.

    *how*: ``stored`` (fresh; no connection was opened), ``fetched`` (a new version), ``unchanged`` (the origin
    said so), ``stale`` (the origin failed, *error* says how; the last good version), ``failed`` (no version;
    *error* says why). *url* is fit to be shown, without secrets; *asked* is what was given.
    """

    url: str
    response: Response | None
    how: How
    error: ForebayError | None = None
    asked: str | RequestSpec = field(default="", repr=False)  # it may hold secrets


@dataclass(slots=True)
class Progress:
    """How far a download is; read by any thread. *state*: ``queued``, ``waiting``, ``downloading``, ``done``.
    *reason*: why the last attempt failed."""

    state: str = "queued"
    downloaded_bytes: int = 0
    total_bytes: int | None = None
    attempt: int = 0
    resumed_bytes: int = 0
    reason: str | None = None


@dataclass(slots=True)
class Sending:
    """How far a file is on its way into the basin. *state*: ``reading`` (for the digest of what was sent before),
    ``sending``, ``storing``, ``done``. *reason*: why the last attempt failed."""

    state: str = "sending"
    sent_bytes: int = 0
    total_bytes: int | None = None
    attempt: int = 1
    resumed_bytes: int = 0
    reason: str | None = None


def response_or_raise(fetched: Fetched) -> Response:
    """The version that *fetched* has, with a logged warning if it is stale; else its error is raised."""
    if fetched.response is None:
        assert fetched.error is not None
        raise fetched.error
    if fetched.how == "stale":
        log.warning("%s: using version %s: %s", fetched.url, fetched.response.version, fetched.error)
    return fetched.response


OnProgress = Callable[[str, Progress], None]
OnSending = Callable[[str, Sending], None]


@dataclass(frozen=True, slots=True)
class StorageUsage:
    """What a folder holds, in counts and bytes; see `forebay.catalog.Usage` for the first ones."""

    requests: int
    versions: int
    pinned_versions: int
    deleted_versions: int
    contents: int
    content_bytes: int
    logical_bytes: int
    partial_bytes: int
    upload_bytes: int
    catalog_bytes: int
    quota_bytes: int | None
    free_bytes: int


@dataclass(frozen=True, slots=True)
class GcItem:
    """One thing that goes, with its reason. *name*: a version, a digest, a partial file's Request, or an upload."""

    kind: Literal["version", "deleted", "content", "partial", "upload"]
    name: str
    url: str | None
    size_bytes: int
    reason: str


@dataclass(slots=True)
class GcReport:
    """What went, or would go. ``freed_bytes``: contents and partial files that are gone now.
    ``evicted_bytes``: the sizes of versions that went; their content follows after the grace time, unless
    another version has it."""

    items: list[GcItem] = field(default_factory=list)
    freed_bytes: int = 0
    evicted_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Rot:
    """One damaged content and the versions that had it."""

    sha256: str
    found: str
    responses: list[Response]


@dataclass(slots=True)
class VerifyReport:
    """What `verify` read, and what was wrong."""

    checked: int = 0
    checked_bytes: int = 0
    rotten: list[Rot] = field(default_factory=list)
