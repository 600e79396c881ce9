"""One download, from its lease to its end, long because each event of it is handled here.

Drives `forebay.core.download` over a transport into a landing.

The machine is stepped in the transport's thread only. Events from elsewhere (a timer, the writer, a cancel)
are brought there first.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, assert_never

from forebay.catalog.outcomes import Lease, Stats
from forebay.content.partial import Partials
from forebay.core import download as machine
from forebay.core.download import Phase
from forebay.core.exchange import (
    Abandon,
    Action,
    Ask,
    Commit,
    Eof,
    Event,
    Failed,
    Head,
    Limits,
    Mismatched,
    Representation,
    Send,
    Unchanged,
    Wait,
    Woke,
    Write,
)
from forebay.core.exchange import Landed as LandedEvent
from forebay.core.reuse import StoredVersion
from forebay.core.urls import origin_of, show_url
from forebay.errors import ForebayError, HashMismatch, OriginError, OriginRefused, StorageError, StorageFailed
from forebay.fetch.exchange import Exchange, Refused, Take
from forebay.fetch.landing import Landed, Landing, Workers, failing
from forebay.fetch.owner import Owner
from forebay.fetch.told import meta_of, signed, signed_off, told
from forebay.fetch.transport import Timer, Transport
from forebay.reports import Progress

log = logging.getLogger(__name__)

# A shorter wait (after progress) keeps the host's slot: giving it back costs more than the wait.
_KEEP_SLOT_S = 0.25


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be downloaded, for which Request. *fence*: the Request's when this was decided. *stored*:
    validate against it. *probe*: with HEAD first. *expected*: (algorithm, digest in hex) that the bytes must
    have. *urgent*: somebody waits for it; before what is merely due."""

    request_id: str
    host: str
    fence: int
    ask: Ask
    limits: Limits
    hash_name: str = "sha256"
    stored: StoredVersion | None = None
    probe: bool = False
    previous_media_type: str | None = None
    expected: tuple[str, str] | None = None
    urgent: bool = False


# --- how a transfer ended -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whole:
    """All bytes are there, verified and synced."""

    landed: Landed
    representation: Representation
    stats: Stats


@dataclass(frozen=True, slots=True)
class StillCurrent:
    """The origin said so."""

    validated: bool
    stats: Stats


@dataclass(frozen=True, slots=True)
class GaveUp:
    """It failed for good."""

    error: ForebayError
    stats: Stats


@dataclass(frozen=True, slots=True)
class Suspended:
    """It was cancelled; what has landed can be resumed."""


End = Whole | StillCurrent | GaveUp | Suspended


class Desk(Protocol):
    """Who a transfer reports to; called from any thread."""

    def ended(self, transfer: Transfer, end: End) -> None:
        """The transfer is over."""
        ...

    def slot_freed(self, transfer: Transfer) -> None:
        """It uses its host's slot no longer."""
        ...

    def slot_wanted(self, transfer: Transfer) -> None:
        """It has waited, and would go on."""
        ...


@dataclass(frozen=True, slots=True)
class Workshop:
    """What transfers work with."""

    transport: Transport
    writer: Workers
    pool: Workers
    partials: Partials
    owner: Owner
    desk: Desk


@dataclass(slots=True, eq=False)
class Transfer:
    """One leased download. `prepare` in the pool, everything else in the transport's thread."""

    job: Job
    lease: Lease
    shop: Workshop
    progress: Progress = field(default_factory=Progress)
    holds_slot: bool = False
    _landing: Landing | None = None
    _state: machine.Download | None = None
    _exchange: Exchange | None = None
    _pending: list[Action] = field(default_factory=list)
    _length: int = 0
    _downloaded: int = 0
    _generation: int = 0
    # A generation of which nothing is on disk yet, and its body if it came in one piece.
    _fresh: Representation | None = None
    _piece: tuple[bytearray, int] | None = None
    _timer: Timer | None = None
    _started_wall: float = 0.0
    _started: float = 0.0
    _last: Unchanged | Commit | None = None
    _refused: Refused | None = None
    _storage_error: StorageError | None = None
    _cancelled: bool = False
    _over: bool = False
    _prefix: tuple[int, int, bytes] | None = None

    # --- before it runs --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the landing ready; with *adopt*, with what an earlier process left of this Request."""
        names = {self.job.hash_name} | ({self.job.expected[0]} if self.job.expected else set())
        self._landing = Landing(
            self.shop.partials,
            self.shop.pool,
            key=self.job.request_id,
            fence=self.lease.fence,
            algorithms=names,
        )

    def adopt(self) -> None:
        """Hash again what an earlier process left of this Request, to go on from there. Runs in the pool."""
        assert self._landing is not None
        self._prefix = self._landing.prepare(trust=self._may_adopt, sign=self._signed)

    def _may_adopt(self, meta: bytes, is_stored: bool) -> bool:
        """Not while its writer lives, though its lease was taken: it may wake up and go on writing. And what the
        store has, only when its length was told, so that nothing is ever appended."""
        writer, known = told(meta).owner, told(meta).representation
        alive = writer not in (None, self.shop.owner.id) and self.shop.owner.is_alive(str(writer))
        return known is not None and not alive and not (is_stored and known.total is None)

    def _meta_of(self, representation: Representation) -> bytes:
        return meta_of(representation, owner=self.shop.owner.id, version=self.lease.version)

    def _signed(self, meta: bytes) -> bytes:
        return signed(meta, owner=self.shop.owner.id, version=self.lease.version)

    # --- running ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, or go on after a wait."""
        self._guarded(self._start)

    def _guarded(self, call: Callable[[], None]) -> None:
        """A bug of ours ends this transfer, not the thread that all of them run in."""
        try:
            call()
        except Exception as error:
            log.exception("a transfer failed")
            self._break_down(StorageFailed("internal error", reason=repr(error)))

    def _start(self) -> None:
        if self._over or self._storage_error is not None:
            return  # it ended while it waited
        self.progress.state = "downloading"
        if self._cancelled:
            self._suspend()
            return
        now = time.monotonic()
        if self._state is not None:
            self._advance(Woke())
            return
        self._started, self._started_wall = now, time.time()
        prefix: Representation | None = None
        if self._prefix is not None:
            self._length, self._generation, meta = self._prefix
            prefix = told(meta).representation
        elif self.lease.resumed:
            # Readers may have had bytes of this version that are lost by now, under any low number.
            self._generation = random.randrange(1 << 30, 1 << 31)  # noqa: S311
        deadline = self.job.limits.deadline_s
        if deadline is not None:
            self._timer = self.shop.transport.call_later(deadline, self._on_deadline)
        self._state, actions = machine.begin(
            self.job.ask,
            limits=self.job.limits,
            now=now,
            stored=self.job.stored,
            probe=self.job.probe,
            previous_media_type=self.job.previous_media_type,
            prefix=prefix,
            length=self._length if prefix is not None else 0,
            generation=max(1, self._generation),
        )
        self._perform(actions)

    def cancel(self) -> None:
        """Stop; keep what has landed."""
        if self._over or self._cancelled:
            return
        self._cancelled = True
        if self._exchange is not None:
            self._exchange.abort(Failed("origin_cut", "cancelled", 0))
        elif self._state is not None and self._state.phase is Phase.WAITING:
            self._suspend()
        elif self._state is None and self._landing is None:
            self._end(Suspended())  # it was never launched; else `start` is on its way and sees the cancel

    def _on_deadline(self) -> None:
        if self._exchange is not None:
            limit = self.job.limits.deadline_s or 0.0
            self._exchange.abort(Failed("origin_deadline", f"not done within {limit:g} s", 0, permanent=True))

    def _advance(self, event: Event) -> None:
        assert self._state is not None
        self._state, actions = machine.step(self._state, event, time.monotonic(), random.random())  # noqa: S311
        self._perform(actions)

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send():
                    assert self._state is not None
                    self.progress.attempt = self._state.attempts
                    self._exchange = self.shop.transport.open(action, self)
                case Wait(seconds, reason):
                    self._wait(seconds, reason)
                case Commit():
                    self._commit(action)
                case Unchanged():
                    self._last = action
                    self._drop_then(StillCurrent(action.confirmed, self._stats()))
                case Abandon(error, keep_partial):
                    self._give_up(self._outward(error), keep=keep_partial)
                case Write():
                    raise AssertionError("a body is taken when its head arrives")
                case _:
                    assert_never(action)

    def _wait(self, seconds: float, reason: str) -> None:
        self.progress.state, self.progress.reason = "waiting", reason
        if seconds <= _KEEP_SLOT_S:
            self.shop.transport.call_later(seconds, self.start)
            return
        self.shop.desk.slot_freed(self)
        self.shop.transport.call_later(seconds, self._want_slot)

    def _want_slot(self) -> None:
        if not self._over:
            self.shop.desk.slot_wanted(self)

    # --- the transport's sink --------------------------------------------------------------------------

    def on_head(self, head: Head) -> Take:
        """See `forebay.fetch.exchange.Sink`."""
        assert self._state is not None
        self._state, actions = machine.step(self._state, head, time.monotonic(), random.random())  # noqa: S311
        match actions:
            case [Write(offset, generation, representation)]:
                self._length = offset
                self.progress.downloaded_bytes, self.progress.total_bytes = offset, representation.total
                self.progress.resumed_bytes = self._state.resumed_bytes
                if offset == 0:
                    self._generation, self._fresh, self._piece = generation, representation, None
                return Take.WRITE
            case _:
                self._pending = actions
                return Take.DISCARD

    def on_block(self, block: bytearray, size: int) -> None:
        """See `forebay.fetch.exchange.Sink`."""
        assert self._state is not None
        if self._storage_error is not None or self._pending:
            self.shop.transport.recycle(block)
            return
        self._length += size
        self._downloaded += size
        self.progress.downloaded_bytes = self._length
        if self._fresh is not None and size == self._fresh.total:
            self._piece = (block, size)
        else:
            self._write(block, size)
        self._state, actions = machine.step(self._state, LandedEvent(self._length), time.monotonic())
        if actions:
            self._pending = actions
            if self._exchange is not None:
                self._exchange.refuse_rest(Failed("origin_cut", "no more is wanted", 0))

    def _write(self, block: bytearray, size: int) -> None:
        landing = self._landing
        assert landing is not None
        if self._fresh is not None:
            meta, self._fresh = self._meta_of(self._fresh), None
            self._writing(partial(landing.begin, self._generation, meta))

        def write() -> None:
            try:
                if self._storage_error is None:
                    landing.write(memoryview(block)[:size])
            finally:
                self.shop.transport.recycle(block)

        self.shop.writer.put_block(failing(write, self._on_storage_error))

    def _writing(self, call: Callable[[], None]) -> None:
        """Have *call* run by the writer, after what is queued there."""
        self.shop.writer.put(failing(call, self._on_storage_error))

    def _on_storage_error(self, error: StorageError) -> None:
        """From any thread: the disk failed us."""
        self.shop.transport.call(partial(self._break_down, error))

    def _break_down(self, error: StorageError) -> None:
        if self._over or self._storage_error is not None:
            return
        self._storage_error = error
        if self._exchange is not None:
            self._exchange.abort(Failed("origin_cut", "the disk failed", 0))
        else:
            self._give_up(error, keep=True)

    def on_end(self, failure: Failed | None) -> None:
        """See `forebay.fetch.exchange.Sink`."""
        self._exchange = None
        self._guarded(partial(self._after_exchange, failure))

    def _after_exchange(self, failure: Failed | None) -> None:
        assert self._state is not None
        if isinstance(failure, Refused):
            self._refused = failure
        if self._storage_error is not None:
            self._give_up(self._storage_error, keep=True)
        elif self._cancelled:
            self._suspend()
        elif self._pending:
            actions, self._pending = self._pending, []
            self._perform(actions)
        elif failure is not None:
            self._advance(Failed(failure.code, failure.detail, self._length, failure.permanent))
        else:
            self._advance(Eof(self._length))

    # --- ending ----------------------------------------------------------------------------------------

    def _commit(self, commit: Commit) -> None:
        self._last = commit
        landing = self._landing
        assert landing is not None
        if self.job.expected is None:
            self.shop.desk.slot_freed(self)  # else when the digest is right: a wrong one may be asked for anew
        if self._fresh is None:
            self._writing(partial(self._check, landing, commit))
            return
        piece, self._piece = self._piece, None
        self.shop.pool.put(failing(partial(self._land_piece, landing, commit, piece), self._on_storage_error))

    def _land_piece(self, landing: Landing, commit: Commit, piece: tuple[bytearray, int] | None) -> None:
        block, size = piece if piece is not None else (bytearray(), 0)
        landed = landing.whole(memoryview(block)[:size], self._generation)
        self.shop.transport.recycle(block)
        mismatch = self._mismatch(landed.digests)
        if landed.size_bytes != commit.length:
            raise StorageFailed("internal error", reason=f"{landed.size_bytes} bytes landed of {commit.length}")
        if mismatch is None:
            self._end(Whole(landed, commit.representation, self._stats()))
        else:
            self.shop.transport.call(partial(self._guarded, partial(self._advance, Mismatched(mismatch))))

    def _check(self, landing: Landing, commit: Commit) -> None:
        """In the writer, after the last block: compare, then have it synced."""
        mismatch = self._mismatch(landing.digests())
        if mismatch is not None:
            self.shop.transport.call(partial(self._guarded, partial(self._advance, Mismatched(mismatch))))
            return

        def land() -> None:
            landed = landing.landed(self._meta_of(commit.representation))
            self._end(Whole(landed, commit.representation, self._stats()))

        self.shop.pool.put(failing(land, self._on_storage_error))

    def _mismatch(self, digests: dict[str, str]) -> HashMismatch | None:
        if self.job.expected is None:
            return None
        algorithm, expected = self.job.expected
        got = digests[algorithm]
        if got == expected:
            return None
        return HashMismatch(show_url(self.job.ask.url), algorithm=algorithm, expected=expected, got=got)

    def _drop_then(self, end: End) -> None:
        assert self._landing is not None
        self._writing_last(self._landing.drop, end)

    def _give_up(self, error: ForebayError, *, keep: bool) -> None:
        assert self._landing is not None
        call = partial(self._landing.suspend, signed_off) if keep else self._landing.drop
        self._writing_last(call, GaveUp(error, self._stats()))

    def _suspend(self) -> None:
        if self._landing is None:
            self._end(Suspended())
        else:
            self._writing_last(partial(self._landing.suspend, signed_off), Suspended())

    def _writing_last(self, call: Callable[[], None], end: End) -> None:
        def last() -> None:
            # The disk may fail here too; how the transfer ended stays what it is.
            with contextlib.suppress(StorageError):
                call()
            self._end(end)

        self.shop.writer.put(last)

    def _end(self, end: End) -> None:
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self.progress.state = "done"
        self.shop.desk.ended(self, end)

    def _outward(self, error: OriginError) -> ForebayError:
        """*error*, or the gate's refusal behind it."""
        if error.code == "origin_refused" and self._refused is not None and self._refused.refusal is not None:
            refusal = self._refused.refusal
            url = self._state.url if self._state else self.job.ask.url
            host = origin_of(url).partition("://")[2].rpartition(":")[0]
            return OriginRefused(host, address=refusal.address, reason=refusal.reason, remedy=refusal.remedy)
        return error

    def _stats(self) -> Stats:
        state = self._state
        last = self._last
        match last:
            case Commit(representation):
                final_url: str | None = representation.final_url
                status: int | None = representation.http_status
            case Unchanged(http_status, url):
                final_url, status = show_url(url), http_status
            case None:
                final_url, status = None, None
        return Stats(
            started_at=self._started_wall,
            duration_s=time.monotonic() - self._started,
            downloaded_bytes=self._downloaded,
            attempts=0 if state is None else state.attempts,
            resumed_bytes=0 if state is None else state.resumed_bytes,
            final_url=final_url,
            http_status=status,
        )
