"""Stored versions + what is asked -> what to do: serve, validate, fetch or refuse."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Validators:
    """What an origin said to recognise a representation by (RFC 9110 section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    def __bool__(self) -> bool:
        return bool(self.etag or self.last_modified)


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """The latest ready version, as far as a decision needs it."""

    version: str
    validators: Validators
    size_bytes: int
    media_type: str | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Use *version* as it is; no connection is opened."""

    version: str


@dataclass(frozen=True, slots=True)
class Validate:
    """Ask the origin whether *stored* is still current."""

    stored: StoredVersion


@dataclass(frozen=True, slots=True)
class Fetch:
    """Download; there is nothing to validate against."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Neither stored nor to be fetched."""


Decision = Serve | Validate | Fetch | Refuse


def decide(
    latest: StoredVersion | None,
    *,
    due_at: float | None,
    on_request: bool,
    now: float,
    offline: bool,
    expected_sha256: str | None = None,
) -> Decision:
    """What to do for a reader of a Request whose latest ready version is *latest*.

    *due_at* is what its strategy says; *on_request*: the strategy refreshes at each request. Content is
    immutable: a version with the expected hash is never stale, one with another hash never serves.
    """
    if latest is None:
        return Refuse() if offline else Fetch()
    if expected_sha256 is not None:
        if latest.sha256 == expected_sha256:
            return Serve(latest.version)
        return Refuse() if offline else Fetch()
    if offline:
        return Serve(latest.version)
    if on_request or (due_at is not None and due_at <= now):
        return Validate(latest)
    return Serve(latest.version)
