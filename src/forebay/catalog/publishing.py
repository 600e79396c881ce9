"""Content that did not come from an origin becomes a version: of a Request of the source ``upload``."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.sqlite import insert

from forebay.catalog.database import Database
from forebay.catalog.outcomes import Finished, Lease
from forebay.catalog.rows import micros, next_version, spec_values
from forebay.catalog.schema import contents, requests, responses, tags, uploads
from forebay.errors import ContentRotten, UnknownUpload
from forebay.models import RequestSpec


@dataclass(frozen=True, slots=True)
class Published:
    """What becomes a version. *upload_id*: whose content it is."""

    upload_id: str
    sha256: str
    size_bytes: int
    media_type: str
    filename: str


def publish(
    database: Database, spec: RequestSpec, published: Published, *, tag: str | None, now: float
) -> Finished:
    """The newest version of the Request of *spec*, which is registered if need be: `ready` on return, and durable.

    One transaction. The upload does not expire any more; it goes with its version. Doing it again, for the answer
    to the first may have been lost, gives that version. Raises `UnknownUpload` when it is gone by now,
    `ContentRotten` when its bytes were found damaged.
    """
    now_us = micros(now)
    with database.write(durable=True) as db:
        upload = (uploads.c.id == published.upload_id) & (uploads.c.content_sha256 == published.sha256)
        known = db.execute(select(uploads.c.response_id).where(upload)).first()
        if known is None:
            raise UnknownUpload(published.upload_id)
        sound = (contents.c.sha256 == published.sha256) & contents.c.rotten_at.is_(None)
        if db.execute(select(contents.c.sha256).where(sound)).first() is None:
            raise ContentRotten(published.sha256, found="its bytes are damaged")
        signature = spec.signature()
        new = spec_values(spec) | {
            "id": uuid.uuid4().hex,
            "signature": signature,
            "host": "",
            "first_requested_at": now_us,
            "latest_requested_at": now_us,
        }
        db.execute(insert(requests).on_conflict_do_nothing(index_elements=["signature"]), new)
        request = db.execute(select(requests).where(requests.c.signature == signature)).one()
        before = _before(db, known.response_id, request.id)
        if before is not None:
            if tag is not None:
                db.execute(insert(tags).on_conflict_do_nothing(), {"response_id": before.id, "tag": tag})
            lease = Lease(request.id, before.id, before.version, request.fence, resumed=False)
            return Finished(lease, "ready", before.id)
        version = next_version(request.last_version, now_us=now_us)
        response_id = uuid.uuid4().hex
        db.execute(
            insert(responses),
            {
                "id": response_id,
                "request_id": request.id,
                "version": version,
                "status": "ready",
                "requested_at": now_us,
                "cached_at": now_us,
                "content_sha256": published.sha256,
                "content_hash_hex": published.sha256,
                "size_bytes": published.size_bytes,
                "media_type": published.media_type,
                "filename": published.filename,
            },
        )
        if tag is not None:
            db.execute(insert(tags), {"response_id": response_id, "tag": tag})
        learned = {
            "last_version": version,
            "fence": request.fence + 1,
            "checked_at": now_us,
            "confirmed_at": now_us,
        }
        db.execute(update(requests).where(requests.c.id == request.id).values(**learned))
        unpublished = (uploads.c.id == published.upload_id) & uploads.c.response_id.is_(None)
        db.execute(update(uploads).where(unpublished).values(response_id=response_id, expires_at=None))
    lease = Lease(request.id, response_id, version, request.fence + 1, resumed=False)
    return Finished(lease, "ready", response_id, crowded=True)


def _before(db: Connection, response_id: str | None, request_id: str) -> Any:
    """The row of the version that an upload was made before, if it is one of this Request and was not removed."""
    found = (responses.c.id == response_id) & (responses.c.request_id == request_id)
    found &= responses.c.deleted_at.is_(None)
    return db.execute(select(responses.c.id, responses.c.version).where(found)).first()
