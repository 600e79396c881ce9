"""What is due, who fetches it, and how many transfers a host gets: rows with leases and fencing tokens.

A *fence* is a number that only grows within its Request. Whoever begins a fetch gets the next one; a commit
carries it and is refused when the lease is another's by then (DESIGN.md, invariant 5). Whether an owner
still lives is not asked here: the caller looks at its lock and calls `reap`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from sqlalchemy import BindParameter, Connection, bindparam, case, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from forebay.catalog.database import Database
from forebay.catalog.rows import configuration_of, micros, next_version, seconds, version_at
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
class Moved:
    """Another owner has begun and ended a fetch of this Request since the caller looked at it."""

    request_id: str


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
    """The origin said that *version* is still current. *validated*: by a validator."""

    lease: Lease
    stats: Stats
    version: str
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


_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_REQUESTS = select(requests).where(requests.c.id.in_(_IDS))
_LEASE = select(leases).where(leases.c.request_id == bindparam("request_id"))
_LEASES = select(leases).where(leases.c.request_id.in_(_IDS))
# Ascending: of several, the last one read is the newest.
_OPEN_RESPONSES = (
    select(responses.c.request_id, responses.c.id, responses.c.version)
    .where(responses.c.request_id.in_(_IDS), responses.c.status.in_(("wait", "in_progress")))
    .order_by(responses.c.version)
)
_LATEST_READY = (
    select(responses)
    .where(
        responses.c.request_id.in_(_IDS),
        responses.c.status == "ready",
        responses.c.deleted_at.is_(None),
    )
    .order_by(responses.c.version)
)
_ROTTEN = select(contents.c.sha256).where(contents.c.sha256.in_(_IDS), contents.c.rotten_at.is_not(None))
_HEAL = (
    update(responses)
    .where(responses.c.content_sha256.in_(_IDS), responses.c.error_code == "content_rotten")
    .values(status=responses.c.sound_status, sound_status=None, error_code=None, error=None)
)
_TAKE_FENCES = (
    update(requests)
    .where(requests.c.id.in_(_IDS))
    .values(
        fence=requests.c.fence + 1,
        last_version=case(
            (requests.c.last_version < bindparam("version"), bindparam("version")), else_=requests.c.last_version
        ),
    )
)
_SET_LAST_VERSION = (
    update(requests).where(requests.c.id == bindparam("key")).values(last_version=bindparam("version"))
)
# Never without the lease: a process that slept meanwhile must not touch what another has finished.
_START = (
    update(responses)
    .where(
        responses.c.id.in_(_IDS),
        responses.c.status == "wait",
        select(leases.c.request_id)
        .where(leases.c.response_id == responses.c.id, leases.c.owner == bindparam("holder"))
        .exists(),
    )
    .values(status="in_progress")
)
_DELETE_RESPONSES = delete(responses).where(responses.c.id.in_(_IDS))
_RELEASE = delete(leases).where(leases.c.request_id.in_(_IDS))
# With RETURNING, many rows travel in one statement.
_INSERT_RESPONSES = insert(responses).returning(responses.c.id)
_INSERT_LEASES = insert(leases).returning(leases.c.request_id)
# Fresh bytes of the same content were just renamed over the old ones: whatever rot there was is gone.
_INSERT = insert(contents)
_INSERT_CONTENTS = _INSERT.on_conflict_do_update(
    index_elements=["sha256"],
    set_={"rotten_at": None, "orphaned_at": None, "stored_at": _INSERT.excluded.stored_at},
).returning(contents.c.sha256)


class Frontier:
    """Leases, slots and due times. Times are Unix seconds; *owner* names a process."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # --- beginning ------------------------------------------------------------------------------------

    def begin(
        self, request_ids: Sequence[str], *, owner: str, now: float, seen: Mapping[str, int] | None = None
    ) -> list[Lease | Busy | Moved]:
        """A lease for each Request, or who has it. A version that a dead owner left open is taken over;
        else a new one is registered (`wait`). *seen*: the fence that each decision was based on; when it has
        moved since, there is something newer to look at instead. One transaction; seen by all on return."""
        with self.database.write(durable=False) as db:
            return _begin(db, request_ids, owner=owner, now_us=micros(now), seen=seen or {})

    def start(self, leases: Sequence[Lease], *, owner: str) -> None:
        """The downloads of versions that *owner* still has the lease of run (`in_progress`)."""
        with self.database.write(durable=False) as db:
            db.execute(_START, {"ids": [lease.response_id for lease in leases], "holder": owner})

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

    def beat_of(self, owner: str) -> int | None:
        """A number that changes while *owner* is well; None when it has no lease."""
        with self.database.read() as db:
            found: int | None = db.execute(
                select(func.sum(leases.c.beat)).where(leases.c.owner == owner)
            ).scalar_one()
            return found

    def others_at(self, host: str, *, owner: str) -> set[str]:
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

    def mend_due_times(self, *, now: float) -> int:
        """Make due what was checked in the future: those times were written by a clock that was fast, and may
        be years away. Returns how many. Reads every row."""
        wrong = (requests.c.checked_at > micros(now)) & requests.c.next_due_at.is_not(None)
        with self.database.write(durable=False) as db:
            return db.execute(update(requests).where(wrong).values(next_due_at=micros(now))).rowcount

    def next_due_at(self) -> float | None:
        """The earliest due time of all Requests."""
        with self.database.read() as db:
            query = select(func.min(requests.c.next_due_at)).where(requests.c.next_due_at.is_not(None))
            return seconds(db.execute(query).scalar_one())

    # --- finishing ------------------------------------------------------------------------------------

    def finish(self, outcomes: Sequence[Outcome], *, now: float) -> list[Finished]:
        """Write what became of fetches: one transaction for all, durable on return. An outcome whose lease
        is another's by now changes nothing (`lease_lost`)."""
        with self.database.write(durable=True) as db:
            return _finish(db, outcomes, now_us=micros(now))


def _begin(
    db: Connection, request_ids: Sequence[str], *, owner: str, now_us: int, seen: Mapping[str, int]
) -> list[Lease | Busy | Moved]:
    key = {"ids": list(request_ids)}
    held = {row.request_id: row for row in db.execute(_LEASES, key)}
    free = [request_id for request_id in request_ids if request_id not in held]
    left: dict[str, Any] = {}
    known: dict[str, Any] = {}
    if free:
        key = {"ids": free}
        known = {row.id: row for row in db.execute(_REQUESTS, key)}
        left = {row.request_id: row for row in db.execute(_OPEN_RESPONSES, key)}
    out: dict[str, Lease | Busy | Moved] = {
        row.request_id: Busy(row.request_id, row.response_id, row.owner, row.fence, row.beat)
        for row in held.values()
    }
    fresh: list[Lease] = []
    for request_id in free:
        request, begun = known[request_id], left.get(request_id)
        if begun is not None:
            out[request_id] = Lease(request_id, begun.id, begun.version, request.fence + 1, resumed=True)
            continue
        if seen.get(request_id, request.fence) != request.fence:
            out[request_id] = Moved(request_id)
            continue
        version = next_version(request.last_version, now_us=now_us)
        lease = Lease(request_id, uuid.uuid4().hex, version, request.fence + 1, resumed=False)
        out[request_id] = lease
        fresh.append(lease)
    taken = [lease for lease in out.values() if isinstance(lease, Lease)]
    if taken:
        _write_leases(db, taken, fresh, owner=owner, now_us=now_us)
    return [out[request_id] for request_id in request_ids]


def _write_leases(
    db: Connection, taken: Sequence[Lease], fresh: Sequence[Lease], *, owner: str, now_us: int
) -> None:
    if fresh:
        db.execute(
            _INSERT_RESPONSES,
            [
                {
                    "id": lease.response_id,
                    "request_id": lease.request_id,
                    "version": lease.version,
                    "status": "wait",
                    "requested_at": now_us,
                }
                for lease in fresh
            ],
        )
    # One statement takes all fences; only a Request whose clock was set back has a version of its own.
    usual = version_at(now_us)
    resumed = [lease.request_id for lease in taken if lease.resumed]
    if resumed:
        db.execute(_TAKE_FENCES, {"ids": resumed, "version": ""})
    if fresh:
        db.execute(_TAKE_FENCES, {"ids": [lease.request_id for lease in fresh], "version": usual})
    odd = [{"key": lease.request_id, "version": lease.version} for lease in fresh if lease.version != usual]
    if odd:
        db.execute(_SET_LAST_VERSION, odd)
    db.execute(
        _INSERT_LEASES,
        [
            {
                "request_id": lease.request_id,
                "fence": lease.fence,
                "owner": owner,
                "beat": 0,
                "response_id": lease.response_id,
            }
            for lease in taken
        ],
    )


@dataclass(slots=True)
class _Writes:
    """What `_finish` has to write, gathered so that many outcomes cost few statements."""

    released: list[str] = field(default_factory=list)
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    # Rows to change, by the columns that change: alike rows travel together.
    responses: dict[tuple[str, ...], list[dict[str, Any]]] = field(default_factory=dict)
    requests: dict[tuple[tuple[str, Any], ...], list[str]] = field(default_factory=dict)

    def change_response(self, values: dict[str, Any]) -> None:
        """*values* with the version's id under ``key``."""
        self.responses.setdefault(tuple(values), []).append(values)

    def change_request(self, request_id: str, values: dict[str, Any]) -> None:
        """*values* for one Request; most that finish together get the same."""
        self.requests.setdefault(tuple(sorted(values.items())), []).append(request_id)

    def write(self, db: Connection) -> None:
        """In an order that keeps every reference whole."""
        if self.released:
            db.execute(_RELEASE, {"ids": self.released})
        if self.contents:
            db.execute(_INSERT_CONTENTS, list(self.contents.values()))
        for columns, rows in self.responses.items():
            names = [name for name in columns if name != "key"]
            statement = update(responses).where(responses.c.id == bindparam("key"))
            db.execute(statement.values({name: bindparam(name) for name in names}), rows)
        for values, ids in self.requests.items():
            db.execute(update(requests).where(requests.c.id.in_(_IDS)).values(dict(values)), {"ids": ids})
        if self.dropped:
            db.execute(_DELETE_RESPONSES, {"ids": self.dropped})


def _finish(db: Connection, outcomes: Sequence[Outcome], *, now_us: int) -> list[Finished]:
    key = {"ids": [outcome.lease.request_id for outcome in outcomes]}
    held = {row.request_id: row.fence for row in db.execute(_LEASES, key)}
    known = {row.id: row for row in db.execute(_REQUESTS, key)}
    ours = [outcome for outcome in outcomes if held.get(outcome.lease.request_id) == outcome.lease.fence]
    _heal(db, [outcome.content.sha256 for outcome in ours if isinstance(outcome, Brought)])
    latest = {row.request_id: row for row in db.execute(_LATEST_READY, key)}
    writes, out = _Writes(), []
    for outcome in outcomes:
        lease = outcome.lease
        if held.get(lease.request_id) != lease.fence:
            out.append(Finished(lease, "lease_lost", None))
            continue
        before = latest.get(lease.request_id)
        status = _judge(writes, outcome, request=known[lease.request_id], latest=before, now_us=now_us)
        writes.released.append(lease.request_id)
        _change_response(writes, outcome, status=status, latest=before, now_us=now_us)
        kept = None if status == "unchanged" else lease.response_id
        out.append(Finished(lease, status, kept, crowded=before is not None or status == "failed"))
    writes.write(db)
    return out


def _heal(db: Connection, digests: Sequence[str]) -> None:
    """Bytes that were found rotten are whole again: the versions that had them are ready as before."""
    if digests:
        rotten = list(db.execute(_ROTTEN, {"ids": list(digests)}).scalars())
        if rotten:
            db.execute(_HEAL, {"ids": rotten})


def _judge(writes: _Writes, outcome: Outcome, *, request: Any, latest: Any, now_us: int) -> str:
    """The status of *outcome*'s version; what its Request has learned is put down in *writes*."""
    strategy = configuration_of(request.cache_configuration).recaching_strategy
    now = now_us / 1e6
    facts = Facts(
        now=now,
        registered_at=request.first_requested_at / 1e6,
        checked_at=seconds(request.checked_at),
        confirmed_at=seconds(request.confirmed_at),
        stored=latest is not None,
        has_validator=latest is not None and bool(latest.etag or latest.last_modified),
    )
    learned: dict[str, Any]
    match outcome:
        case Broke():
            status = "failed"
            learned = {"failures": request.failures + 1}
            regular = strategy.next_due(facts)
            due = None if regular is None else retry_due(now=now, failures=request.failures, regular_due=regular)
        case Confirmed(version=version) if latest is None or latest.version != version:
            # What was confirmed has been deleted meanwhile: there is something to fetch again.
            status, learned, due = "unchanged", {"checked_at": None}, now
        case Confirmed(validated=validated):
            status = "duplicate" if strategy.keeps_duplicates else "unchanged"
            confirmed_at = now_us if validated else request.confirmed_at
            learned = {"failures": 0, "checked_at": now_us, "confirmed_at": confirmed_at}
            due = strategy.next_due(replace(facts, checked_at=now, confirmed_at=seconds(confirmed_at)))
        case Brought(content=content):
            same = latest is not None and latest.content_sha256 == content.sha256
            status = "ready" if not same else "duplicate" if strategy.keeps_duplicates else "unchanged"
            learned = {"failures": 0, "checked_at": now_us, "confirmed_at": now_us}
            has_validator = bool(content.etag or content.last_modified)
            due = strategy.next_due(
                replace(facts, checked_at=now, confirmed_at=now, stored=True, has_validator=has_validator)
            )
        case _:
            assert_never(outcome)
    writes.change_request(request.id, learned | {"next_due_at": None if due is None else micros(due)})
    return status


_COPIED = (
    "content_sha256", "content_hash_hex", "size_bytes", "media_type", "etag", "last_modified", "filename",
    "content_disposition", "content_encoding",
)  # fmt: skip


def _change_response(writes: _Writes, outcome: Outcome, *, status: str, latest: Any, now_us: int) -> None:
    lease, stats = outcome.lease, outcome.stats
    if isinstance(outcome, Brought):
        writes.contents[outcome.content.sha256] = {
            "sha256": outcome.content.sha256,
            "size_bytes": outcome.content.size_bytes,
            "stored_at": now_us,
            "rotten_at": None,
        }
    if status == "unchanged":
        # Only the time of the check is kept; what the origin calls the content may have changed, though.
        writes.dropped.append(lease.response_id)
        if isinstance(outcome, Brought):
            content = outcome.content
            writes.change_response({"key": latest.id, "etag": content.etag, "last_modified": content.last_modified})
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
            values |= {name: getattr(latest, name) for name in _COPIED}
        case Broke(error_code=code, error=error):
            values |= {"error_code": code, "error": error}
    writes.change_response(values)
