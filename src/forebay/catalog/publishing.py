"""Content that did not come from an origin becomes a version: of a Request of the source ``upload``."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import select, update
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

    One transaction. The upload does not expire any more; it goes with its version. Raises `UnknownUpload` when it
    is gone by now, `ContentRotten` when its bytes were found damaged.
    """
    now_us = micros(now)
    with database.write(durable=True) as db:
        upload = (uploads.c.id == published.upload_id) & (uploads.c.content_sha256 == published.sha256)
        if db.execute(select(uploads.c.id).where(upload)).first() is None:
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
