"""What the mark of a partial file tells of its download beside the watermark: who writes which version, and what
the origin said of it. In JSON, in the mark's meta; for API processes and readers, too, which fetch nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from forebay.content.partial import Mark
from forebay.core.exchange import Representation
from forebay.reports import Progress


@dataclass(frozen=True, slots=True)
class Told:
    """*owner*: who writes it; None: nobody does now."""

    owner: str | None
    version: str | None
    representation: Representation | None


def told(meta: bytes) -> Told:
    """What a mark's *meta* tells; nothing when it was written by another Forebay."""
    found = _parsed(meta)
    try:
        representation = Representation(**found["from"])
    except (KeyError, TypeError):
        representation = None
    return Told(found.get("owner"), found.get("version"), representation)


def meta_of(representation: Representation, *, owner: str, version: str) -> bytes:
    """The meta of what *owner* writes."""
    return json.dumps({"from": asdict(representation), "owner": owner, "version": version}).encode()


def signed(meta: bytes, *, owner: str, version: str) -> bytes:
    """*meta* of a file that *owner* goes on with, for *version*."""
    return json.dumps(_parsed(meta) | {"owner": owner, "version": version}).encode()


def signed_off(meta: bytes) -> bytes:
    """*meta* of a file that nobody writes any more."""
    return json.dumps(_parsed(meta) | {"owner": None}).encode()


def total_of(meta: bytes) -> int | None:
    """The length of the whole, as far as the origin told."""
    known = told(meta).representation
    return None if known is None else known.total


def version_of(meta: bytes) -> str | None:
    """The version that is fetched."""
    return told(meta).version


def progress_of(mark: Mark | None) -> Progress:
    """How far a download is that another process runs, by its watermark."""
    if mark is None:
        return Progress(state="queued")
    return Progress(state="downloading", downloaded_bytes=mark.length, total_bytes=total_of(mark.meta))


def _parsed(meta: bytes) -> dict[str, Any]:
    try:
        found = json.loads(meta)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
