"""What became of fetches, written in one transaction for many: `Frontier.finish` does it with these.

Each outcome carries the lease that it was made under. One whose lease is another's by now changes nothing
(DESIGN.md, invariant 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from sqlalchemy import Connection, bindparam, delete, select, update

from forebay.catalog.contents import content_row, heal, write_contents
from forebay.catalog.rows import configuration_of, micros, seconds
from forebay.catalog.schema import ASKED, IDS, LATEST_READY, leases, requests, responses
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
    """The download brought *content*, with its *generation* of bytes, which readers may have by now under an
    ETag; `Frontier.finish` sees whether it is new."""

    lease: Lease
    stats: Stats
    content: Content
    generation: int = 1


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


_REQUESTS = select(requests).where(requests.c.id.in_(IDS))
_LEASES = select(leases).where(leases.c.request_id.in_(IDS))
_DELETE_RESPONSES = delete(responses).where(responses.c.id.in_(IDS))
_RELEASE = delete(leases).where(leases.c.request_id.in_(IDS))


@dataclass(slots=True)
class _Writes:
    """What `write_outcomes` has to write, gathered so that many outcomes cost few statements."""

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
            write_contents(db, self.contents.values())
        for columns, rows in self.responses.items():
            names = [name for name in columns if name != "key"]
            statement = update(responses).where(responses.c.id == bindparam("key"))
            db.execute(statement.values({name: bindparam(name) for name in names}), rows)
        for values, ids in self.requests.items():
            # The fence grows here, too: who looked before this end and asks for the lease after it must look again.
            learned = dict(values) | {"fence": requests.c.fence + 1}
            db.execute(update(requests).where(requests.c.id.in_(IDS)).values(learned), {"ids": ids})
        if self.dropped:
            db.execute(_DELETE_RESPONSES, {"ids": self.dropped})


def write_outcomes(db: Connection, outcomes: Sequence[Outcome], *, now_us: int) -> list[Finished]:
    """See `forebay.catalog.frontier.Frontier.finish`; within the caller's transaction."""
    key = {"ids": [outcome.lease.request_id for outcome in outcomes]}
    # Both: a fence that was given in a transaction which failed is given again.
    held = {row.request_id: (row.fence, row.response_id) for row in db.execute(_LEASES, key)}
    known = {row.id: row for row in db.execute(_REQUESTS, key)}
    ours = [outcome for outcome in outcomes if held.get(outcome.lease.request_id) == _key(outcome.lease)]
    heal(db, [outcome.content.sha256 for outcome in ours if isinstance(outcome, Brought)])
    latest = {row.request_id: row for row in db.execute(LATEST_READY, key)}
    writes, out = _Writes(), []
    for outcome in outcomes:
        lease = outcome.lease
        if held.get(lease.request_id) != _key(lease):
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


def _key(lease: Lease) -> tuple[int, str]:
    return lease.fence, lease.response_id


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
    next_due_at = None if due is None else micros(due)
    if request.next_due_at in (None, ASKED):
        next_due_at = request.next_due_at  # removed meanwhile, or asked for again
    writes.change_request(request.id, learned | {"next_due_at": next_due_at})
    return status


_COPIED = (
    "content_sha256", "content_hash_hex", "size_bytes", "media_type", "etag", "last_modified", "filename",
    "content_disposition", "content_encoding",
)  # fmt: skip


def _change_response(writes: _Writes, outcome: Outcome, *, status: str, latest: Any, now_us: int) -> None:
    lease, stats = outcome.lease, outcome.stats
    if isinstance(outcome, Brought):
        writes.contents[outcome.content.sha256] = content_row(
            outcome.content.sha256, size_bytes=outcome.content.size_bytes, now_us=now_us
        )
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
        case Brought(content=content, generation=generation):
            values |= {
                "generation": generation,
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
