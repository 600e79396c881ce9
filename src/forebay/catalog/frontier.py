"""What is due, who fetches it, and how many transfers a host gets: rows with leases and fencing tokens.

A *fence* is a number that only grows within its Request. Whoever begins a fetch gets the next one; a commit
carries it and is refused when the lease is another's by then (DESIGN.md, invariant 5). Whether an owner
still lives is not asked here: the caller looks at its lock and calls `reap`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from sqlalchemy import Connection, bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from forebay.catalog.database import Database
from forebay.catalog.rows import configuration_of, micros, next_version, seconds
from forebay.catalog.schema import contents, leases, requests, responses, slots
from forebay.core.strategies import Facts, retry_due


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to fetch a Request and to commit what came. *resumed*: its version was begun before."""

    request_id: str
    response_id: str
    version: str
    fence: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class Busy:
    """Another owner fetches this Request. *beat* changes while that owner is well."""

    request_id: str
    response_id: str
    owner: str
    fence: int
    beat: int


@dataclass(frozen=True, slots=True)
class Stats:
    """How a download went."""

    started_at: float
    duration_s: float = 0.0
    downloaded_bytes: int = 0
    attempts: int = 0
    resumed_bytes: int = 0
    final_url: str | None = None
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """What a finished download brought: stored, synced and hashed before this is handed in."""

    sha256: str
    size_bytes: int
    hash_hex: str
    media_type: str | None
    etag: str | None
    last_modified: str | None
    filename: str
    content_disposition: str | None
    content_encoding: str | None


@dataclass(frozen=True, slots=True)
class Brought:
    """The download brought *content*; `Frontier.finish` sees whether it is new."""

    lease: Lease
    stats: Stats
    content: Content


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The origin said that the latest ready version is still current. *validated*: by a validator."""

    lease: Lease
    stats: Stats
    validated: bool


@dataclass(frozen=True, slots=True)
class Broke:
    """The download failed for good."""

    lease: Lease
    stats: Stats
    error_code: str
    error: str


Outcome = Brought | Confirmed | Broke


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of an outcome. *status*: that of its version, or `unchanged` when none was kept, or
    `lease_lost` when nothing was written. *crowded*: retention has something to look at."""

    lease: Lease
    status: str
    response_id: str | None
    crowded: bool = field(default=False)


_REQUEST = select(requests).where(requests.c.id == bindparam("id"))
_LEASE = select(leases).where(leases.c.request_id == bindparam("request_id"))
_OPEN_RESPONSE = (
    select(responses.c.id, responses.c.version)
    .where(
        responses.c.request_id == bindparam("request_id"),
        responses.c.status.in_(("wait", "in_progress")),
    )
    .order_by(responses.c.version.desc())
    .limit(1)
)
_TAKE_FENCE = (
    update(requests)
    .where(requests.c.id == bindparam("key"))
    .values(fence=bindparam("new_fence"), last_version=bindparam("new_version"))
)
_LATEST_CONTENT = (
    select(responses.c.id, responses.c.content_sha256)
    .where(
        responses.c.request_id == bindparam("request_id"),
        responses.c.status == "ready",
        responses.c.deleted_at.is_(None),
    )
    .order_by(responses.c.version.desc())
    .limit(1)
)
_UPSERT_CONTENT = insert(contents)
# Fresh bytes of the same content were just renamed over the old ones: whatever rot there was is gone.
_UPSERT_CONTENT = _UPSERT_CONTENT.on_conflict_do_update(
    index_elements=["sha256"], set_={"rotten_at": None, "stored_at": _UPSERT_CONTENT.excluded.stored_at}
)
_START = update(responses).where(responses.c.id == bindparam("key")).values(status="in_progress")
_SET_RESPONSE = update(responses).where(responses.c.id == bindparam("key"))
_SET_REQUEST = update(requests).where(requests.c.id == bindparam("key"))
_RELEASE = delete(leases).where(leases.c.request_id == bindparam("request_id"))


class Frontier:
    """Leases, slots and due times. Times are Unix seconds; *owner* names a process."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # --- beginning ------------------------------------------------------------------------------------

    def begin(self, request_ids: Sequence[str], *, owner: str, now: float) -> list[Lease | Busy]:
        """A lease for each Request, or who has it. A version that a dead owner left open is taken over;
        else a new one is registered (`wait`). One transaction; seen by all on return."""
        with self.database.write(durable=False) as db:
            return [_begin(db, request_id, owner=owner, now_us=micros(now)) for request_id in request_ids]

    def start(self, lease: Lease) -> None:
        """The download of a leased version runs (`in_progress`)."""
        with self.database.write(durable=False) as db:
            db.execute(_START, {"key": lease.response_id})

    def lease_of(self, request_id: str) -> Busy | None:
        """Who fetches this Request now."""
        with self.database.read() as db:
            row = db.execute(_LEASE, {"request_id": request_id}).first()
        return None if row is None else Busy(request_id, row.response_id, row.owner, row.fence, row.beat)

    def beat(self, owner: str) -> set[tuple[str, int]]:
        """Show that *owner* is well; the (request id, fence) of the leases that it still has."""
        mine = leases.c.owner == owner
        with self.database.write(durable=False) as db:
            db.execute(update(leases).where(mine).values(beat=leases.c.beat + 1))
            rows = db.execute(select(leases.c.request_id, leases.c.fence).where(mine)).all()
        return {(row.request_id, row.fence) for row in rows}

    def reap(self, owner: str) -> None:
        """Take everything from an owner that is gone: its versions stay open for whoever comes next."""
        with self.database.write(durable=False) as db:
            db.execute(delete(leases).where(leases.c.owner == owner))
            db.execute(delete(slots).where(slots.c.owner == owner))

    def release(self, lease: Lease) -> None:
        """Give a lease back without an outcome; its version stays open, to be resumed."""
        with self.database.write(durable=False) as db:
            db.execute(delete(leases).where(leases.c.request_id == lease.request_id, leases.c.fence == lease.fence))

    def owners(self) -> set[str]:
        """Everyone who has a lease or a slot."""
        with self.database.read() as db:
            found = set(db.execute(select(leases.c.owner).distinct()).scalars())
            return found | set(db.execute(select(slots.c.owner).distinct()).scalars())

    def open_requests(self) -> set[str]:
        """Requests with a version that is not finished: their partial files are of use."""
        query = select(responses.c.request_id).where(responses.c.status.in_(("wait", "in_progress"))).distinct()
        with self.database.read() as db:
            return set(db.execute(query).scalars())

    # --- slots ----------------------------------------------------------------------------------------

    def take_slots(self, host: str, *, owner: str, want: int, limit: int, now: float) -> int:
        """How many of *want* more transfers *owner* may run at *host*, of *limit* over all owners. While
        it gets fewer than it wants it is noted as waiting, and whoever waits longest is served first."""
        with self.database.write(durable=False) as db:
            rows = db.execute(select(slots).where(slots.c.host == host)).all()
            mine = next((row for row in rows if row.owner == owner), None)
            held = 0 if mine is None else mine.held
            free = max(0, limit - sum(row.held for row in rows))
            since = micros(now) if mine is None or mine.waiting_since is None else mine.waiting_since
            ahead = any(
                row.owner != owner and row.held == 0 and row.waiting_since is not None and row.waiting_since < since
                for row in rows
            )
            got = 0 if ahead else min(want, free)
            values = {"held": held + got, "waiting_since": since if got < want else None}
            statement = insert(slots).on_conflict_do_update(index_elements=["host", "owner"], set_=values)
            db.execute(statement, {"host": host, "owner": owner} | values)
            return got

    def give_slots(self, host: str, *, owner: str, count: int, waiting: bool, now: float) -> None:
        """Give *count* slots back; *waiting*: the owner wants one again, at the end of the queue."""
        mine = (slots.c.host == host) & (slots.c.owner == owner)
        with self.database.write(durable=False) as db:
            db.execute(
                update(slots)
                .where(mine)
                .values(held=slots.c.held - count, waiting_since=micros(now) if waiting else None)
            )
            if not waiting:
                db.execute(delete(slots).where(mine, slots.c.held <= 0))

    def slot_waiters(self, host: str, *, owner: str) -> set[str]:
        """Other owners at *host*: those that wait, and those that hold what one waits for."""
        with self.database.read() as db:
            rows = db.execute(select(slots.c.owner).where(slots.c.host == host, slots.c.owner != owner))
            return set(rows.scalars())

    def others_wait(self, host: str, *, owner: str) -> bool:
        """Whether another owner without a slot waits for *host*."""
        query = select(func.count()).where(
            slots.c.host == host,
            slots.c.owner != owner,
            slots.c.held == 0,
            slots.c.waiting_since.is_not(None),
        )
        with self.database.read() as db:
            return bool(db.execute(query).scalar_one())

    # --- due ------------------------------------------------------------------------------------------

    def due(self, *, now: float, limit: int) -> list[str]:
        """Ids of Requests that are due and not being fetched, the longest due first."""
        leased = select(leases.c.request_id).where(leases.c.request_id == requests.c.id).exists()
        query = (
            select(requests.c.id)
            .where(requests.c.next_due_at <= micros(now), ~leased)
            .order_by(requests.c.next_due_at)
            .limit(limit)
        )
        with self.database.read() as db:
            return list(db.execute(query).scalars())

    def next_due_at(self) -> float | None:
        """The earliest due time of all Requests."""
        with self.database.read() as db:
            return seconds(db.execute(select(func.min(requests.c.next_due_at))).scalar_one())

    # --- finishing ------------------------------------------------------------------------------------

    def finish(self, outcomes: Sequence[Outcome], *, now: float) -> list[Finished]:
        """Write what became of fetches: one transaction for all, durable on return. An outcome whose lease
        is another's by now changes nothing (`lease_lost`)."""
        with self.database.write(durable=True) as db:
            return [_finish(db, outcome, now_us=micros(now)) for outcome in outcomes]


def _begin(db: Connection, request_id: str, *, owner: str, now_us: int) -> Lease | Busy:
    held = db.execute(_LEASE, {"request_id": request_id}).first()
    if held is not None:
        return Busy(request_id, held.response_id, held.owner, held.fence, held.beat)
    request = db.execute(_REQUEST, {"id": request_id}).one()
    fence = request.fence + 1
    left = db.execute(_OPEN_RESPONSE, {"request_id": request_id}).first()
    if left is not None:
        response_id, version = left.id, left.version
        last_version = request.last_version
    else:
        response_id, version = uuid.uuid4().hex, next_version(request.last_version, now_us=now_us)
        last_version = version
        db.execute(
            insert(responses),
            {
                "id": response_id,
                "request_id": request_id,
                "version": version,
                "status": "wait",
                "requested_at": now_us,
            },
        )
    db.execute(_TAKE_FENCE, {"key": request_id, "new_fence": fence, "new_version": last_version})
    db.execute(
        insert(leases),
        {"request_id": request_id, "fence": fence, "owner": owner, "beat": 0, "response_id": response_id},
    )
    return Lease(request_id, response_id, version, fence, resumed=left is not None)


def _finish(db: Connection, outcome: Outcome, *, now_us: int) -> Finished:
    lease = outcome.lease
    held = db.execute(_LEASE, {"request_id": lease.request_id}).first()
    if held is None or held.fence != lease.fence:
        return Finished(lease, "lease_lost", None)
    db.execute(_RELEASE, {"request_id": lease.request_id})
    request = db.execute(_REQUEST, {"id": lease.request_id}).one()
    latest = db.execute(_LATEST_CONTENT, {"request_id": lease.request_id}).first()
    strategy = configuration_of(request.cache_configuration).recaching_strategy
    now = now_us / 1e6
    facts = Facts(
        now=now,
        registered_at=request.first_requested_at / 1e6,
        checked_at=seconds(request.checked_at),
        confirmed_at=seconds(request.confirmed_at),
        stored=latest is not None,
    )
    checks: dict[str, Any]
    match outcome:
        case Broke():
            status = "failed"
            checks = {"failures": request.failures + 1}
            regular = strategy.next_due(facts)
            due = None if regular is None else retry_due(now=now, failures=request.failures, regular_due=regular)
        case Confirmed() if latest is None:
            # The version that was confirmed has been deleted meanwhile: there is something to fetch again.
            status, checks, due = "unchanged", {"checked_at": None}, now
        case Confirmed(validated=validated):
            status = "duplicate" if strategy.keeps_duplicates else "unchanged"
            confirmed_at = now_us if validated else request.confirmed_at
            checks = {"failures": 0, "checked_at": now_us, "confirmed_at": confirmed_at}
            facts = replace(facts, checked_at=now, confirmed_at=seconds(confirmed_at), has_validator=validated)
            due = strategy.next_due(facts)
        case Brought(content=content):
            same = latest is not None and latest.content_sha256 == content.sha256
            status = "ready" if not same else "duplicate" if strategy.keeps_duplicates else "unchanged"
            checks = {"failures": 0, "checked_at": now_us, "confirmed_at": now_us}
            has_validator = bool(content.etag or content.last_modified)
            facts = replace(facts, checked_at=now, confirmed_at=now, stored=True, has_validator=has_validator)
            due = strategy.next_due(facts)
        case _:
            assert_never(outcome)
    db.execute(
        _SET_REQUEST, checks | {"key": lease.request_id, "next_due_at": None if due is None else micros(due)}
    )
    _finish_response(db, outcome, status=status, latest=latest, now_us=now_us)
    return Finished(
        lease,
        status,
        None if status == "unchanged" else lease.response_id,
        crowded=latest is not None or status == "failed",
    )


def _finish_response(db: Connection, outcome: Outcome, *, status: str, latest: Any, now_us: int) -> None:
    lease, stats = outcome.lease, outcome.stats
    if isinstance(outcome, Brought):
        stored = {
            "sha256": outcome.content.sha256,
            "size_bytes": outcome.content.size_bytes,
            "stored_at": now_us,
            "rotten_at": None,
        }
        db.execute(_UPSERT_CONTENT, stored)
    if status == "unchanged":
        # Only the time of the check is kept; what the origin calls the content may have changed, though.
        db.execute(delete(responses).where(responses.c.id == lease.response_id))
        if isinstance(outcome, Brought):
            content = outcome.content
            renamed: dict[str, Any] = {"etag": content.etag, "last_modified": content.last_modified}
            db.execute(_SET_RESPONSE, renamed | {"key": latest.id})
        return
    values: dict[str, Any] = {
        "key": lease.response_id,
        "status": status,
        "cached_at": now_us,
        "downloaded_bytes": stats.downloaded_bytes,
        "duration_s": stats.duration_s,
        "started_at": micros(stats.started_at),
        "attempts": stats.attempts,
        "resumed_bytes": stats.resumed_bytes,
        "final_url": stats.final_url,
        "http_status": stats.http_status,
    }
    match outcome:
        case Brought(content=content):
            values |= {
                "content_sha256": content.sha256,
                "content_hash_hex": content.hash_hex,
                "size_bytes": content.size_bytes,
                "media_type": content.media_type,
                "etag": content.etag,
                "last_modified": content.last_modified,
                "filename": content.filename,
                "content_disposition": content.content_disposition,
                "content_encoding": content.content_encoding,
            }
        case Confirmed():
            values |= _copied(db, latest)
        case Broke(error_code=code, error=error):
            values |= {"error_code": code, "error": error}
    db.execute(_SET_RESPONSE, values)


_COPIED = (
    "content_sha256", "content_hash_hex", "size_bytes", "media_type", "etag", "last_modified", "filename",
    "content_disposition", "content_encoding",
)  # fmt: skip


def _copied(db: Connection, latest: Any) -> dict[str, Any]:
    """What a duplicate found by a 304 has in common with the version it equals."""
    row = db.execute(select(responses).where(responses.c.id == latest.id)).one()
    return {name: getattr(row, name) for name in _COPIED}
