"""What is due, who fetches it, and how many transfers a host gets: rows with leases and fencing tokens.

A *fence* is a number that only grows within its Request. Whoever begins a fetch gets the next one; a commit
carries it and is refused when the lease is another's by then (DESIGN.md, invariant 5). Whether an owner
still lives is not asked here: the caller looks at its lock and calls `reap`.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, case, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from forebay.catalog.database import Database
from forebay.catalog.outcomes import Busy, Finished, Lease, Moved, Outcome, write_outcomes
from forebay.catalog.rows import micros, next_version, seconds, version_at
from forebay.catalog.schema import ASKED, IDS, leases, requests, responses, slots
from forebay.errors import InvalidValue, UnknownRequest
from forebay.models import UNDER_WAY

_REQUESTS = select(requests).where(requests.c.id.in_(IDS))
_LEASE = select(leases).where(leases.c.request_id == bindparam("request_id"))
_LEASES = select(leases).where(leases.c.request_id.in_(IDS))
# Ascending: of several, the last one read is the newest.
_OPEN_RESPONSES = (
    select(responses.c.request_id, responses.c.id, responses.c.version)
    .where(responses.c.request_id.in_(IDS), responses.c.status.in_(UNDER_WAY))
    .order_by(responses.c.version)
)
_TAKE_FENCES = (
    update(requests)
    .where(requests.c.id.in_(IDS))
    .values(
        fence=requests.c.fence + 1,
        last_version=case(
            (requests.c.last_version < bindparam("version"), bindparam("version")), else_=requests.c.last_version
        ),
        # Scheduled again, if it was not: whoever removes it while the fetch runs unschedules it for good. And
        # an ask is answered by the fetch that begins after it; should that be cut off, it is due all the same.
        next_due_at=case(
            (func.coalesce(requests.c.next_due_at, ASKED) == ASKED, bindparam("at")),
            else_=requests.c.next_due_at,
        ),
    )
)
_STANDING = (
    select(requests.c.fence, requests.c.next_due_at, requests.c.failures, requests.c.url, requests.c.source, leases)
    .select_from(requests.outerjoin(leases, leases.c.request_id == requests.c.id))
    .where(requests.c.id == bindparam("key"))
)
_FENCE = select(requests.c.fence).where(requests.c.id == bindparam("key"))
_ASK = update(requests).where(requests.c.id == bindparam("key")).values(next_due_at=ASKED)
_SET_LAST_VERSION = (
    update(requests).where(requests.c.id == bindparam("key")).values(last_version=bindparam("version"))
)
# Never without the lease: a process that slept meanwhile must not touch what another has finished.
_START = (
    update(responses)
    .where(
        responses.c.id.in_(IDS),
        responses.c.status == "wait",
        select(leases.c.request_id)
        .where(leases.c.response_id == responses.c.id, leases.c.owner == bindparam("holder"))
        .exists(),
    )
    .values(status="in_progress", started_at=bindparam("at"))
)
# With RETURNING, many rows travel in one statement.
_INSERT_RESPONSES = insert(responses).returning(responses.c.id)
_INSERT_LEASES = insert(leases).returning(leases.c.request_id)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a Request stands with the fetches of it. *asked*: there is an ask that no fetch has begun for.
    *failures*: fetches that failed since one went well. *busy*: who fetches it now."""

    fence: int
    asked: bool
    failures: int
    busy: Busy | None


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

    def start(self, leases: Sequence[Lease], *, owner: str, now: float) -> None:
        """The downloads of versions that *owner* still has the lease of run (`in_progress`), since *now*."""
        key = {"ids": [lease.response_id for lease in leases], "holder": owner, "at": micros(now)}
        with self.database.write(durable=False) as db:
            db.execute(_START, key)

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

    def abandon(self, request_id: str) -> int:
        """Nothing is to come of the fetch that runs for a Request, if one does: its version is gone, and whoever
        fetches it can no longer commit, and ends it at its next beat. Returns its fence: later ones are others'."""
        mine = responses.c.request_id == request_id
        with self.database.write(durable=False) as db:
            db.execute(delete(leases).where(leases.c.request_id == request_id))
            db.execute(delete(responses).where(mine, responses.c.status.in_(UNDER_WAY)))
            found: int = db.execute(_FENCE, {"key": request_id}).scalar_one()
            return found

    def settle(self, owner: str, given_up: Sequence[Lease], *, held: Mapping[str, int]) -> None:
        """Have the catalog say of *owner* what is so: without the leases *given_up*, and with the slots *held*."""
        with self.database.write(durable=False) as db:
            for lease in given_up:
                self.release(lease)
            db.execute(delete(slots).where(slots.c.owner == owner))
            if held:
                db.execute(insert(slots), [{"host": host, "owner": owner, "held": n} for host, n in held.items()])

    def owners(self) -> set[str]:
        """Everyone who has a lease or a slot."""
        with self.database.read() as db:
            found = set(db.execute(select(leases.c.owner).distinct()).scalars())
            return found | set(db.execute(select(slots.c.owner).distinct()).scalars())

    def open_requests(self) -> set[str]:
        """Requests with a version that is not finished: their partial files are of use."""
        query = select(responses.c.request_id).where(responses.c.status.in_(UNDER_WAY)).distinct()
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

    def asked(self, *, limit: int, besides: Collection[str] = ()) -> dict[str, str]:
        """The hosts of Requests, by id, that are asked for and not being fetched; none of the hosts *besides*."""
        return self._waiting(requests.c.next_due_at == ASKED, limit=limit, besides=besides)

    def due(self, *, now: float, limit: int, besides: Collection[str] = ()) -> dict[str, str]:
        """The hosts of Requests, by id, that are due and not being fetched, the longest due first; none of the
        hosts *besides*."""
        return self._waiting(requests.c.next_due_at <= micros(now), limit=limit, besides=besides)

    def _waiting(self, which: ColumnElement[bool], *, limit: int, besides: Collection[str]) -> dict[str, str]:
        leased = select(leases.c.request_id).where(leases.c.request_id == requests.c.id).exists()
        query = select(requests.c.id, requests.c.host).where(which, ~leased)
        if besides:
            query = query.where(requests.c.host.not_in(besides))
        with self.database.read() as db:
            rows = db.execute(query.order_by(requests.c.next_due_at).limit(limit)).all()
        return {row.id: row.host for row in rows}

    def ask(self, request_id: str, *, seen: int | None = None, again: bool = False) -> Standing:
        """Have a Request fetched before everything that is merely due, whatever its strategy says and however
        often that failed; how it stands then. A fetch that runs already is the answer to the ask; with *again*
        another one follows it. *seen*: the fence that the decision to ask was based on; when it has moved since,
        there is something newer to look at instead. Not durable: who waits asks again. `UnknownRequest`."""
        with self.database.write(durable=False) as db:
            standing = _standing(db, request_id, asked=True)
            if standing.asked or (standing.busy is not None and not again):
                return standing
            if seen is not None and standing.fence != seen:
                return standing
            db.execute(_ASK, {"key": request_id})
            return replace(standing, asked=True)

    def standing(self, request_id: str) -> Standing:
        """How a Request stands. After an `ask`, the fetch is over when neither `asked` nor `busy` is true and
        the fence has moved; it failed when there are more failures than before. `UnknownRequest`."""
        with self.database.read() as db:
            return _standing(db, request_id)

    def fence(self, request_id: str) -> int:
        """The fence last given of a Request; 0 when there was none."""
        with self.database.read() as db:
            found: int | None = db.execute(_FENCE, {"key": request_id}).scalar_one_or_none()
        return found or 0

    def mend_due_times(self, *, now: float) -> int:
        """Make due what was checked in the future: those times were written by a clock that was fast, and may
        be years away. Returns how many. Reads every row."""
        wrong = (requests.c.checked_at > micros(now)) & (requests.c.next_due_at > ASKED)
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
            return write_outcomes(db, outcomes, now_us=micros(now))


def _standing(db: Connection, request_id: str, *, asked: bool = False) -> Standing:
    row = db.execute(_STANDING, {"key": request_id}).first()
    if row is None:
        raise UnknownRequest(f"request {request_id}")
    if asked and row.source == "upload":
        raise InvalidValue("url", expected="something that is fetched, not uploaded", got=row.url)
    busy = None
    if row.request_id is not None:
        busy = Busy(row.request_id, row.response_id, row.owner, row.fence_1, row.beat)
    return Standing(row.fence, row.next_due_at == ASKED, row.failures, busy)


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
        db.execute(_TAKE_FENCES, {"ids": resumed, "version": "", "at": now_us})
    if fresh:
        db.execute(_TAKE_FENCES, {"ids": [lease.request_id for lease in fresh], "version": usual, "at": now_us})
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
