"""Every question to the catalog and every change of it, one method each, which makes it long.

Each change is one transaction.

What a due Request is, who may fetch it and how many transfers a host gets is `forebay.catalog.frontier`.
"""

from __future__ import annotations

import uuid
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from forebay.catalog.contents import note_orphans, referenced
from forebay.catalog.database import Database
from forebay.catalog.rows import (
    micros,
    request_of,
    response_of,
    seconds,
    spec_values,
    version_at,
)
from forebay.catalog.schema import ASKED, IDS, LATEST_READY, contents, requests, responses, tags
from forebay.core.retention import Held
from forebay.core.reuse import StoredVersion, Validators
from forebay.core.strategies import Facts
from forebay.core.urls import origin_of
from forebay.errors import UnknownRequest
from forebay.models import Request, RequestCacheConfiguration, RequestSpec, Response, Status

UNDO_SECONDS = 86_400.0  # what is deleted can be had back for a day


@dataclass(frozen=True, slots=True)
class Registered:
    """A Request with what deciding needs: its facts and its latest ready version."""

    request: Request
    created: bool
    host: str
    fence: int
    facts: Facts
    latest: StoredVersion | None
    latest_id: str | None


@dataclass(frozen=True, slots=True)
class ContentRow:
    """One stored content, as `verify` and the sweep see it."""

    sha256: str
    size_bytes: int
    rotten: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """What a folder holds. ``content_bytes`` counts equal content once; ``logical_bytes`` once a version."""

    requests: int
    versions: int
    pinned_versions: int
    deleted_versions: int
    contents: int
    content_bytes: int
    logical_bytes: int


_live = responses.c.deleted_at.is_(None)

_BY_SIGNATURES = select(requests).where(requests.c.signature.in_(IDS))
_BY_IDS = select(requests).where(requests.c.id.in_(IDS))


def _neighbour(version: Any, *, before: bool) -> Any:
    """The ready version next to a row of `responses`: derived, never stored."""
    other = responses.alias()
    side = other.c.version < responses.c.version if before else other.c.version > responses.c.version
    return (
        select(version(other.c.version))
        .where(
            other.c.request_id == responses.c.request_id,
            side,
            other.c.status == "ready",
            other.c.deleted_at.is_(None),
        )
        .scalar_subquery()
        .label("previous_version" if before else "next_version")
    )


def neighbours() -> tuple[Any, Any]:
    """Columns ``previous_version`` and ``next_version`` for a row of `responses`."""
    return _neighbour(func.max, before=True), _neighbour(func.min, before=False)


_RESPONSES = select(
    responses,
    requests.c.url,
    *neighbours(),
    select(func.aggregate_strings(tags.c.tag, " "))
    .where(tags.c.response_id == responses.c.id)
    .scalar_subquery()
    .label("tag_names"),
).join(requests, requests.c.id == responses.c.request_id)
_RESPONSES_BY_ID = _RESPONSES.where(responses.c.id.in_(IDS))
# With RETURNING, many rows travel in one statement, and those that were there before are not returned.
_INSERT_REQUESTS = insert(requests).on_conflict_do_nothing(index_elements=["signature"]).returning(requests.c.id)


class Catalog:
    """What is registered and what is stored. Times are Unix seconds."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # --- Requests -------------------------------------------------------------------------------------

    def find(self, signature: str, *, now: float) -> Registered | None:
        """The Request of *signature*; one indexed look-up, nothing is written."""
        with self.database.read() as db:
            return _find(db, [signature], now=now).get(signature)

    def find_or_create(self, specs: Sequence[RequestSpec], *, now: float) -> list[Registered]:
        """The Request of each of *specs*, registered where it is new; safe against two at once: both get
        the same one, and one of them is told that it created it."""
        signatures = [spec.signature() for spec in specs]
        with self.database.read() as db:
            found = _find(db, signatures, now=now)
        missing = {sig: spec for sig, spec in zip(signatures, specs, strict=True) if sig not in found}
        if missing:
            found |= self._create(missing, now=now)
        return [found[signature] for signature in signatures]

    def _create(self, specs: Mapping[str, RequestSpec], *, now: float) -> dict[str, Registered]:
        now_us = micros(now)
        rows = [
            spec_values(spec)
            | {
                "id": uuid.uuid4().hex,
                "signature": signature,
                "host": origin_of(spec.url),
                "first_requested_at": now_us,
                "latest_requested_at": now_us,
                "next_due_at": now_us,
            }
            for signature, spec in specs.items()
        ]
        with self.database.write(durable=False) as db:
            created = set(db.execute(_INSERT_REQUESTS, rows).scalars())
            return _find(db, list(specs), now=now, created=created)

    def request(self, request_id: str, *, now: float) -> Registered:
        """The Request of *request_id*, or `UnknownRequest`."""
        with self.database.read() as db:
            row = db.execute(_BY_IDS, {"ids": [request_id]}).first()
            if row is None:
                raise UnknownRequest(f"request {request_id}")
            return _registered(row, _latest(db, [row.id]).get(row.id), now=now, created=False)

    def requests_of_url(self, url: str) -> list[Request]:
        """Every Request of *url*, the oldest first: their methods, fields, bodies or groups differ."""
        return self.list_requests(url=url)

    def list_requests(
        self, *, group: str | None = None, url: str | None = None, skip: int = 0, limit: int | None = None
    ) -> list[Request]:
        """Requests, the oldest first; of a group, or of a URL."""
        query = select(requests).order_by(requests.c.first_requested_at, requests.c.id).offset(skip).limit(limit)
        if group is not None:
            query = query.where(requests.c.group_name == group)
        if url is not None:
            query = query.where(requests.c.url == url)
        with self.database.read() as db:
            return [request_of(row) for row in db.execute(query)]

    def configure(
        self, request_id: str, configuration: RequestCacheConfiguration, *, next_due_at: float | None
    ) -> None:
        """Replace the cache configuration of a Request, with the due time that follows from it; an ask stays."""
        due = None if next_due_at is None else micros(next_due_at)
        values = {
            "cache_configuration": configuration.model_dump_json(),
            "next_due_at": case(
                (requests.c.source == "upload", None), (requests.c.next_due_at == ASKED, ASKED), else_=due
            ),
        }
        with self.database.write(durable=True) as db:
            db.execute(update(requests).where(requests.c.id == request_id).values(values))

    # --- versions -------------------------------------------------------------------------------------

    def response(self, response_id: str, *, now: float) -> Response | None:
        """The version with that id, deleted or not."""
        return self.responses([response_id], now=now).get(response_id)

    def responses(self, response_ids: Sequence[str], *, now: float) -> dict[str, Response]:
        """The versions with those ids, deleted or not, by id."""
        if not response_ids:
            return {}
        with self.database.read() as db:
            rows = db.execute(_RESPONSES_BY_ID, {"ids": list(response_ids)}).all()
        return {row.id: response_of(row, now_us=micros(now)) for row in rows}

    def newest(
        self,
        request_id: str,
        *,
        status: Status | None = None,
        tag: str | None = None,
        pinned: bool | None = None,
        now: float,
    ) -> Response | None:
        """The newest version, whatever its status unless one is asked for; with that tag, or pinned or not."""
        found = self.versions(request_id, status=status, tag=tag, pinned=pinned, limit=1, now=now)
        return found[0] if found else None

    def latest_ready(self, request_id: str, *, now: float) -> Response | None:
        """The newest ready version."""
        return self._one(
            _RESPONSES.where(responses.c.request_id == request_id, responses.c.status == "ready", _live).order_by(
                responses.c.version.desc()
            ),
            now=now,
        )

    def find_version(
        self,
        request_id: str,
        *,
        version: str | None = None,
        tag: str | None = None,
        any_status: bool = False,
        now: float,
    ) -> Response | None:
        """The version of that name, or the newest with that tag; ready ones and duplicates only, unless
        *any_status* will do."""
        query = _RESPONSES.where(responses.c.request_id == request_id, _live).order_by(responses.c.version.desc())
        if not any_status:
            query = query.where(responses.c.status.in_(("ready", "duplicate")))
        if version is not None:
            query = query.where(responses.c.version == version)
        if tag is not None:
            query = query.where(exists().where(tags.c.response_id == responses.c.id, tags.c.tag == tag))
        return self._one(query, now=now)

    def confirmed_as(self, request_id: str, version: str, *, now: float) -> Response | None:
        """The version that *version* was found to equal, as its duplicate: one that was begun, and then dropped
        because nothing had changed, has no row. None when it is not known to have been that."""
        latest = self.latest_ready(request_id, now=now)
        checked_at = self.request(request_id, now=now).facts.checked_at
        if latest is None or checked_at is None or not latest.version < version <= version_at(micros(checked_at)):
            return None
        if self._is_known(request_id, version):
            return None  # deleted
        return latest.model_copy(
            update={"version": version, "status": "duplicate", "previous_version": latest.version, "tags": []}
        )

    def _is_known(self, request_id: str, version: str) -> bool:
        query = select(responses.c.id).where(responses.c.request_id == request_id, responses.c.version == version)
        with self.database.read() as db:
            return db.execute(query).first() is not None

    def versions(
        self,
        request_id: str,
        *,
        deleted: bool = False,
        status: Status | None = None,
        tag: str | None = None,
        pinned: bool | None = None,
        skip: int = 0,
        limit: int | None = None,
        now: float,
    ) -> list[Response]:
        """The versions of a Request that are as asked for, the newest first; with *deleted*, of the deleted ones
        instead."""
        conditions = [
            responses.c.request_id == request_id,
            responses.c.deleted_at.is_not(None) if deleted else _live,
        ]
        if status is not None:
            conditions.append(responses.c.status == status)
        if tag is not None:
            conditions.append(exists().where(tags.c.response_id == responses.c.id, tags.c.tag == tag))
        if pinned is not None:
            conditions.append(_is_pinned(now) if pinned else ~_is_pinned(now))
        query = _RESPONSES.where(*conditions).order_by(responses.c.version.desc()).offset(skip).limit(limit)
        with self.database.read() as db:
            return [response_of(row, now_us=micros(now)) for row in db.execute(query).all()]

    def _one(self, query: Any, *, now: float) -> Response | None:
        with self.database.read() as db:
            row = db.execute(query.limit(1)).first()
            return None if row is None else response_of(row, now_us=micros(now))

    def tag(self, response_id: str, tag: str, *, remove: bool = False) -> None:
        """Name a version, or take the name away; doing it twice is doing it once. Durable on return."""
        with self.database.write(durable=True) as db:
            if remove:
                db.execute(delete(tags).where(tags.c.response_id == response_id, tags.c.tag == tag))
            else:
                db.execute(insert(tags).on_conflict_do_nothing(), {"response_id": response_id, "tag": tag})

    def pin(self, response_id: str, *, value: bool, until: float | None) -> None:
        """Hold a version against eviction, for ever or *until* a time; or let it go. Durable on return."""
        values = {"pinned": value, "pinned_until": None if until is None or not value else micros(until)}
        with self.database.write(durable=True) as db:
            db.execute(update(responses).where(responses.c.id == response_id).values(values))

    def delete_versions(self, response_ids: Sequence[str], *, now: float) -> None:
        """Hide versions; `restore_versions` has them back within `UNDO_SECONDS`. Durable on return."""
        self._set_deleted(response_ids, micros(now))

    def restore_versions(self, response_ids: Sequence[str]) -> None:
        """Undo `delete_versions`."""
        self._set_deleted(response_ids, None)

    def _set_deleted(self, response_ids: Sequence[str], value: int | None) -> None:
        statement = update(responses).where(responses.c.id == bindparam("key")).values(deleted_at=value)
        with self.database.write(durable=True) as db:
            if response_ids:
                db.execute(statement, [{"key": key} for key in response_ids])

    def schedule(self, request_id: str, due_at: float | None) -> None:
        """Set when a Request is due; None: not before it is asked for again."""
        value = None if due_at is None else micros(due_at)
        with self.database.write(durable=False) as db:
            db.execute(update(requests).where(requests.c.id == request_id).values(next_due_at=value))

    def touch(self, *, used: Mapping[str, float], requested: Mapping[str, float]) -> None:
        """Write times of use, gathered: of versions and of Requests. Older times never overwrite newer."""
        version_update = (
            update(responses)
            .where(
                responses.c.id == bindparam("key"),
                or_(responses.c.last_used_at.is_(None), responses.c.last_used_at < bindparam("at")),
            )
            .values(last_used_at=bindparam("at"))
        )
        request_update = (
            update(requests)
            .where(requests.c.id == bindparam("key"), requests.c.latest_requested_at < bindparam("at"))
            .values(latest_requested_at=bindparam("at"))
        )
        with self.database.write(durable=False) as db:
            for statement, times in ((version_update, used), (request_update, requested)):
                if times:
                    db.execute(statement, [{"key": key, "at": micros(at)} for key, at in times.items()])

    # --- retention ------------------------------------------------------------------------------------

    def held(self, request_id: str | None = None) -> dict[str, list[Held]]:
        """The versions of one Request or of all, by request id, for `core.retention`."""
        query = select(responses, contents.c.size_bytes.label("stored_bytes")).outerjoin(
            contents, contents.c.sha256 == responses.c.content_sha256
        )
        query = query.where(_live)
        if request_id is not None:
            query = query.where(responses.c.request_id == request_id)
        out: dict[str, list[Held]] = {}
        newest: dict[str, str] = {}
        with self.database.read() as db:
            rows = db.execute(query).all()
        for row in rows:
            if row.status == "ready":
                newest[row.request_id] = max(newest.get(row.request_id, ""), row.version)
        for row in rows:
            out.setdefault(row.request_id, []).append(
                Held(
                    id=row.id,
                    version=row.version,
                    status=row.status,
                    made_at=(row.cached_at or row.requested_at) / 1e6,
                    pinned=bool(row.pinned),
                    pinned_until=seconds(row.pinned_until),
                    size_bytes=row.stored_bytes or 0,
                    last_used_at=(row.last_used_at or row.cached_at or row.requested_at) / 1e6,
                    is_latest=newest.get(row.request_id) == row.version,
                )
            )
        return out

    def configurations(self) -> dict[str, tuple[str, RequestCacheConfiguration]]:
        """URL and cache configuration of every Request, by id."""
        return {request.id: (request.url, request.cache_configuration) for request in self.list_requests()}

    def evict(self, response_ids: Iterable[str], *, now: float) -> int:
        """Drop versions for good; content that nothing has any more goes with a later sweep. Returns how
        many went."""
        return self._drop(responses.c.id.in_(list(response_ids)), now=now)

    def evict_duplicates(self, *, before: float, now: float) -> int:
        """Drop the duplicates that were made before a time. Returns how many."""
        passed = (responses.c.status == "duplicate") & (responses.c.requested_at < micros(before))
        passed &= responses.c.deleted_at.is_(None) & (responses.c.cached_at < micros(before))
        with self.database.read() as db:  # nearly always none: nobody is to wait for the writer's lock
            if db.execute(select(responses.c.id).where(passed).limit(1)).first() is None:
                return 0
        return self._drop(passed, now=now)

    def purge_deleted(self, *, before: float, now: float) -> int:
        """Drop the versions that were deleted before a time. Returns how many."""
        return self._drop(responses.c.deleted_at < micros(before), now=now)

    def _drop(self, which: ColumnElement[bool], *, now: float) -> int:
        with self.database.write(durable=False) as db:
            gone = db.execute(delete(responses).where(which).returning(responses.c.content_sha256)).scalars().all()
            note_orphans(db, gone, now_us=micros(now))
            return len(gone)

    def deleted_before(self, before: float) -> list[Response]:
        """The versions that `purge_deleted` would drop."""
        query = _RESPONSES.where(responses.c.deleted_at < micros(before))
        with self.database.read() as db:
            return [response_of(row, now_us=micros(before)) for row in db.execute(query).all()]

    # --- contents -------------------------------------------------------------------------------------

    def contents(self) -> list[ContentRow]:
        """Every stored content."""
        with self.database.read() as db:
            rows = db.execute(select(contents).order_by(contents.c.stored_at)).all()
        return [ContentRow(row.sha256, row.size_bytes, row.rotten_at is not None) for row in rows]

    def unreferenced(self, *, before: float) -> list[ContentRow]:
        """Contents that nothing has had since a time."""
        query = select(contents).where(contents.c.orphaned_at <= micros(before), ~referenced())
        with self.database.read() as db:
            rows = db.execute(query).all()
        return [ContentRow(row.sha256, row.size_bytes, row.rotten_at is not None) for row in rows]

    def forget_content(self, sha256: str) -> bool:
        """Drop the row of a content that nothing has; False when something has it by now. The caller
        holds the store's sweep lock and removes the file afterwards: durable on return, so that a crash never
        leaves a row whose file is gone."""
        statement = delete(contents).where(contents.c.sha256 == sha256, ~referenced())
        with self.database.write(durable=True) as db:
            return db.execute(statement).rowcount == 1

    def known_contents(self, digests: Iterable[str]) -> set[str]:
        """Those of *digests* that have a row."""
        query = select(contents.c.sha256).where(contents.c.sha256 == bindparam("sha256"))
        with self.database.read() as db:
            return {d for d in digests if db.execute(query, {"sha256": d}).first() is not None}

    def mark_rotten(self, sha256: str, *, found: str, now: float) -> list[Response]:
        """Never serve this content again: its versions become failed and their Requests due. Returns the
        versions. Durable on return."""
        mine = responses.c.content_sha256 == sha256
        with self.database.write(durable=True) as db:
            db.execute(update(contents).where(contents.c.sha256 == sha256).values(rotten_at=micros(now)))
            sound = mine & (responses.c.status != "failed")
            affected = db.execute(_RESPONSES.where(sound)).all()
            db.execute(
                update(responses)
                .where(sound)
                .values(status="failed", sound_status=responses.c.status, error_code="content_rotten", error=found)
            )
            for row in affected:
                if row.deleted_at is not None:
                    continue  # nobody misses it
                db.execute(
                    update(requests)
                    .where(requests.c.id == row.request_id, requests.c.source != "upload")
                    .values(next_due_at=micros(now), checked_at=None, confirmed_at=None)
                )
            return [response_of(row, now_us=micros(now)) for row in affected]

    def usage(self, *, now: float) -> Usage:
        """What the folder holds."""
        pinned = _is_pinned(now)
        with self.database.read() as db:
            stored = db.execute(select(func.count(), func.coalesce(func.sum(contents.c.size_bytes), 0))).one()
            ready = and_(_live, responses.c.status == "ready")
            versions = db.execute(
                select(
                    func.count(),
                    func.coalesce(func.sum(responses.c.size_bytes), 0),
                    func.count().filter(pinned),
                ).where(ready)
            ).one()
            return Usage(
                requests=db.execute(select(func.count()).select_from(requests)).scalar_one(),
                versions=versions[0],
                pinned_versions=versions[2],
                deleted_versions=db.execute(
                    select(func.count()).select_from(responses).where(responses.c.deleted_at.is_not(None))
                ).scalar_one(),
                contents=stored[0],
                content_bytes=stored[1],
                logical_bytes=versions[1],
            )


def _is_pinned(now: float) -> ColumnElement[bool]:
    return responses.c.pinned & (responses.c.pinned_until.is_(None) | (responses.c.pinned_until > micros(now)))


def _find(
    db: Connection, signatures: Sequence[str], *, now: float, created: Container[str] = ()
) -> dict[str, Registered]:
    rows = db.execute(_BY_SIGNATURES, {"ids": list(signatures)}).all()
    # What was created just now has no versions.
    latest = _latest(db, [row.id for row in rows if row.id not in created])
    return {row.signature: _registered(row, latest.get(row.id), now=now, created=row.id in created) for row in rows}


def _latest(db: Connection, request_ids: Sequence[str]) -> dict[str, Row[Any]]:
    if not request_ids:
        return {}
    return {row.request_id: row for row in db.execute(LATEST_READY, {"ids": list(request_ids)})}


def _registered(row: Row[Any], latest: Row[Any] | None, *, now: float, created: bool) -> Registered:
    stored = None
    if latest is not None:
        stored = StoredVersion(
            version=latest.version,
            validators=Validators(latest.etag, latest.last_modified),
            size_bytes=latest.size_bytes,
            media_type=latest.media_type,
            sha256=latest.content_sha256,
        )
    facts = Facts(
        now=now,
        registered_at=row.first_requested_at / 1e6,
        checked_at=seconds(row.checked_at),
        confirmed_at=seconds(row.confirmed_at),
        stored=stored is not None,
        has_validator=stored is not None and bool(stored.validators),
    )
    return Registered(
        request=request_of(row),
        created=created,
        host=row.host,
        fence=row.fence,
        facts=facts,
        latest=stored,
        latest_id=None if latest is None else latest.id,
    )
