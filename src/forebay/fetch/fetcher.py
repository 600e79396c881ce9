"""Runs downloads for one folder: leases, slots, transfers and grouped commits, long because one thread does it.

One thread, the *clerk*, does all of the catalog's work for downloads. It gathers what came in, then writes it
in one transaction: new leases, slots, and whatever has finished. So many small downloads share one durable
commit, and neither the transfer thread nor the writer ever waits for the catalog.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import assert_never

from forebay.catalog.catalog import Catalog
from forebay.catalog.frontier import Frontier
from forebay.catalog.outcomes import (
    Busy,
    Finished,
    Lease,
    Moved,
)
from forebay.content.partial import Partials
from forebay.errors import ForebayError, LeaseLost, StateError, StorageError, StorageFailed
from forebay.fetch.commits import NO_STATS, Commits, LocalStore
from forebay.fetch.debts import Debts
from forebay.fetch.landing import Workers, failing
from forebay.fetch.owner import Owner
from forebay.fetch.rivals import Rivals
from forebay.fetch.slots import LOOK_AGAIN_S, Slots
from forebay.fetch.tickets import Settled, Ticket
from forebay.fetch.told import progress_of, signed_off
from forebay.fetch.transfer import (
    End,
    GaveUp,
    Job,
    Suspended,
    Transfer,
    Whole,
    Workshop,
)
from forebay.fetch.transport import Transport
from forebay.reports import Progress

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
# While other downloads run, a finished one waits this long for more to share its durable commit with.
_GATHER_S = 0.004
_GATHER_MOST = 64
# A download that is not over by then is shown as `in_progress`; shorter ones save the transaction.
_START_TOLD_S = 0.05
_SYNC_THREADS = 4


class Fetcher:
    """Downloads for one folder. The threads start with the first job."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        frontier: Frontier,
        store: LocalStore,
        partials: Partials,
        owner: Owner,
        make_transport: Callable[[], Transport],
        max_downloads: int,
        max_per_host: int,
        clock: Callable[[], float],
        extension_for: Callable[[str], str | None],
        after_finish: Callable[[Sequence[Finished]], None],
    ) -> None:
        self._catalog = catalog
        self._frontier, self._partials, self._owner = frontier, partials, owner
        self._make_transport = make_transport
        self._clock, self._after_finish = clock, after_finish
        self._lock = threading.Lock()
        self._tickets: dict[str, Ticket] = {}
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._shop: Workshop | None = None
        self._closing = False
        # The clerk's own:
        self._new: list[Ticket] = []
        self._ended: list[tuple[Transfer, End]] = []
        self._transfers: dict[str, Transfer] = {}
        # Whose ticket each transfer settles, until its end is written; and tickets that wait for such an end.
        self._ticket_of: dict[Transfer, Ticket] = {}
        self._parked: list[Ticket] = []
        # Told to end when the catalog was out of reach; what they still bring may be resumed.
        self._failed: set[Transfer] = set()
        self._rivals = Rivals(frontier, owner)
        self._commits = Commits(store, extension_for, known=catalog.known_contents)
        self._slots = Slots(frontier, owner, max_downloads=max_downloads, max_per_host=max_per_host)
        self._started: list[Lease] = []
        self._started_at = 0.0
        self._debts = Debts(frontier, owner, self._slots, ring=partials.ring)
        self._ended_at = 0.0
        self._beat_at = 0.0

    # --- for callers -----------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[Job]) -> list[Ticket]:
        """A ticket for each job. A job whose Request is being fetched here already shares that ticket."""
        out: list[Ticket] = []
        fresh: list[Ticket] = []
        with self._lock:
            if self._closing:
                raise StateError("this Forebay is closed")
            self._ensure_started()
            for job in jobs:
                ticket = self._tickets.get(job.request_id)
                if ticket is None:
                    ticket = Ticket(job, partial(self._elsewhere, job.request_id))
                    self._tickets[job.request_id] = ticket
                    fresh.append(ticket)
                else:
                    ticket.holders += 1
                out.append(ticket)
            if fresh:  # within the lock: the inbox has the order in which it was decided
                self._post(partial(self._take_in, fresh))
        return out

    def let_go(self, ticket: Ticket) -> None:
        """A holder is no longer interested; when none is left the download is suspended, to be resumed.
        Whoever asks from then on gets a ticket of its own."""
        with self._lock:
            ticket.holders -= 1
            if ticket.holders > 0:
                return
            self._remove(ticket)
            self._post(partial(self._cancel, ticket))

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have *call* called by the clerk, if there is one, else now. Takes no lock that the caller could hold, as
        a finalizer must not: it may run in the middle of anything."""
        if self._thread is not None and self._thread.is_alive():
            self._post(call)
        else:
            call()

    def close(self) -> None:
        """Suspend what runs, so that it can be resumed, and stop the threads."""
        with self._lock:
            self._closing = True
            thread = self._thread
            for ticket in self._tickets.values():
                self._post(partial(self._cancel, ticket))
            self._post(lambda: None)
        if thread is None:
            return
        thread.join()

    def _elsewhere(self, request_id: str) -> Progress:
        return progress_of(self._partials.mark(request_id))

    # --- the desk: transfers report here, from any thread -----------------------------------------------

    def ended(self, transfer: Transfer, end: End) -> None:
        """See `forebay.fetch.transfer.Desk`."""
        self._post(partial(self._on_ended, transfer, end))

    def slot_freed(self, transfer: Transfer) -> None:
        """See `forebay.fetch.transfer.Desk`."""
        self._post(partial(self._slots.free, transfer))

    def slot_wanted(self, transfer: Transfer) -> None:
        """See `forebay.fetch.transfer.Desk`."""
        self._post(partial(self._requeue, transfer))

    # --- the clerk -------------------------------------------------------------------------------------

    def _ensure_started(self) -> None:
        if self._thread is not None:
            return
        try:
            transport = self._make_transport()
        except OSError as error:
            raise StorageFailed("the transfer threads could not be started", reason=str(error.strerror)) from error
        writer, pool = Workers("forebay-write", 1), Workers("forebay-sync", _SYNC_THREADS)
        self._shop = Workshop(transport, writer, pool, self._partials, self._owner, self)
        transport.start()
        writer.start()
        pool.start()
        self._thread = threading.Thread(target=self._run, name="forebay-clerk", daemon=True)
        self._thread.start()

    def _post(self, call: Callable[[], None]) -> None:
        with self._wake:
            self._inbox.append(call)
            self._wake.notify()

    def _run(self) -> None:
        assert self._shop is not None
        while not (self._closing and self._is_idle()):
            with self._wake:
                if not self._inbox:
                    self._wake.wait(self._patience())
                calls = list(self._inbox)
                self._inbox.clear()
            for call in calls:
                try:
                    call()
                except Exception as error:  # a bug of ours: the calls behind it must be made all the same
                    self._fail_all(_internal(error))
            try:
                self._turn()
            except StorageError as error:
                self._fail_all(error)
            except Exception as error:
                self._fail_all(_internal(error))
        with contextlib.suppress(StorageError):
            self._frontier.reap(self._owner.id)
        self._shop.transport.close()
        self._shop.writer.close()
        self._shop.pool.close()

    def _is_idle(self) -> bool:
        return not (self._tickets or self._inbox or self._new or self._ticket_of or self._ended)

    def _patience(self) -> float | None:
        """How long to wait for the next event."""
        if self._new:
            return 0.0
        waits = [self._slots.patience()]
        if self._rivals:
            waits.append(LOOK_AGAIN_S)
        if self._ended:
            waits.append(_GATHER_S)
        if self._started:
            waits.append(_START_TOLD_S)
        if self._transfers:
            waits.append(max(0.0, self._beat_at - time.monotonic()))
        waits.append(self._debts.patience())
        return min((wait for wait in waits if wait is not None), default=None)

    def _take_in(self, tickets: Sequence[Ticket]) -> None:
        self._new.extend(tickets)

    def _turn(self) -> None:
        """Start what can start, and write what has gathered in one transaction."""
        self._debts.pay()
        self._look_at_rivals()
        self._start_ready()
        started_long_ago = bool(self._started) and time.monotonic() >= self._started_at + _START_TOLD_S
        if self._new or started_long_ago or self._slots.is_due() or (self._ended and not self._may_gather()):
            ended, self._ended = self._ended, []
            new, self._new = self._new, []
            self._write(ended, new)
            self._start_ready()
        if self._transfers and time.monotonic() >= self._beat_at:
            self._beat()

    def _may_gather(self) -> bool:
        """Whether to wait a moment for more ends to share a commit with: only while others still run."""
        if not self._transfers or len(self._ended) >= _GATHER_MOST:
            return False
        return time.monotonic() < self._ended_at + _GATHER_S

    def _write(self, ended: list[tuple[Transfer, End]], new: list[Ticket]) -> None:
        begun: list[Transfer] = []
        finished: list[Finished] = []
        errors: dict[str, ForebayError] = {}
        started, self._started = self._started, []
        try:
            with self._commits.committing(ended) as outcomes:
                errors = {o.lease.request_id: e for o, e in outcomes if e is not None}
                with self._frontier.database.write(durable=bool(outcomes)):
                    if started:
                        self._frontier.start(started, owner=self._owner.id, now=self._clock())
                    if outcomes:
                        finished = self._frontier.finish([o for o, _ in outcomes], now=self._clock())
                    for transfer, end in ended:
                        if isinstance(end, Suspended):
                            self._frontier.release(transfer.lease)
                    self._begin(new, begun)
                    self._slots.move(wall=self._clock(), hurry=bool(ended))
        except Exception as error:
            mapped = error if isinstance(error, ForebayError) else _internal(error)
            _close_files(ended)
            for transfer in (*begun, *(transfer for transfer, _ in ended)):
                self._forget(transfer)
                self._over(transfer, mapped)
            self._debts.owe([transfer.lease for transfer, _ in ended])
            self._started = [lease for lease in started if lease.request_id in self._transfers]
            for ticket in new:
                self._settle(ticket, mapped)
            self._ring(started, begun, ended)
            return
        for transfer, end in ended:
            if isinstance(end, Suspended):
                self._over(transfer, StateError("the download was cancelled"))
            elif isinstance(end, Whole) and transfer.job.request_id in errors:
                end.landed.partial.stand(signed_off)  # not taken in: it may be resumed
            elif isinstance(end, Whole):
                end.landed.partial.leave()
        lost = {item.lease for item in finished if item.status == "lease_lost"}
        self._commits.disown([end for transfer, end in ended if transfer.lease in lost])
        self._ring(started, begun, ended)
        self._announce(finished, {transfer.lease: transfer for transfer, _ in ended}, errors)

    def _ring(
        self, started: Sequence[Lease], begun: Sequence[Transfer], ended: Sequence[tuple[Transfer, End]]
    ) -> None:
        """Whoever waits for these, in any process, looks at the catalog again."""
        changed = {lease.request_id for lease in started} | {transfer.job.request_id for transfer in begun}
        for request_id in changed | {transfer.job.request_id for transfer, _ in ended}:
            self._partials.ring(request_id)

    def _announce(
        self, finished: Sequence[Finished], transfers: Mapping[Lease, Transfer], errors: Mapping[str, ForebayError]
    ) -> None:
        """Tell the waiting what became of their jobs."""
        ids = [item.response_id for item in finished if item.response_id is not None]
        made = self._catalog.responses(ids, now=self._clock())
        for item in finished:
            request_id, transfer = item.lease.request_id, transfers[item.lease]
            match item.status:
                case "lease_lost":
                    self._over(transfer, LeaseLost(request_id))
                case "ready" | "duplicate" | "unchanged" | "failed" as status:
                    response = made.get(item.response_id or "")
                    self._over(transfer, Settled(status, response, errors.get(request_id)))
                case other:  # pragma: no cover - Finished has no other status
                    raise AssertionError(other)
        if finished:
            try:
                self._after_finish(finished)
            except Exception:  # what was fetched is committed; only the tidying failed
                log.exception("tidying up after a fetch failed")

    # --- leases ----------------------------------------------------------------------------------------

    def _begin(self, tickets: list[Ticket], begun: list[Transfer]) -> None:
        """Take leases for *tickets*. The transfers go to *begun*, also those that were made when this fails."""
        assert self._shop is not None
        leaving = {transfer.lease.request_id for transfer in self._ticket_of}
        # Until the one that was let go has left, and written its last byte.
        self._parked += [ticket for ticket in tickets if ticket.job.request_id in leaving]
        tickets = [ticket for ticket in tickets if ticket.job.request_id not in leaving]
        if not tickets:
            return
        seen = {ticket.job.request_id: ticket.job.fence for ticket in tickets}
        answers = self._frontier.begin(list(seen), owner=self._owner.id, now=self._clock(), seen=seen)
        for ticket, answer in zip(tickets, answers, strict=True):
            if isinstance(answer, Busy) and answer.owner == self._owner.id:
                # Ours, of a job whose commit failed: nothing runs for it.
                self._frontier.release(_lease(answer))
                (answer,) = self._frontier.begin([answer.request_id], owner=self._owner.id, now=self._clock())
            match answer:
                case Moved(request_id):
                    newest = self._catalog.newest(request_id, now=self._clock())
                    self._settle(ticket, Settled("elsewhere", newest))
                case Busy():
                    self._rivals.add(ticket, answer)
                case Lease():
                    transfer = Transfer(ticket.job, answer, self._shop)
                    ticket.transfer = transfer
                    self._ticket_of[transfer] = ticket
                    self._transfers[ticket.job.request_id] = transfer
                    self._slots.enqueue(transfer)
                    begun.append(transfer)
                case _:
                    assert_never(answer)

    def _look_at_rivals(self) -> None:
        """See whether the fetches of other owners that we wait for are over, or their owners gone."""
        for ticket, busy in self._rivals.ended():
            self._settle(ticket, Settled("elsewhere", self._catalog.response(busy.response_id, now=self._clock())))
        self._new += self._rivals.inherited()

    def _beat(self) -> None:
        self._beat_at = time.monotonic() + HEARTBEAT_S
        mine = self._frontier.beat(self._owner.id)
        for transfer in list(self._transfers.values()):
            if (transfer.lease.request_id, transfer.lease.fence) not in mine and not self._is_ending(transfer):
                self._forget(transfer)  # settled when its last byte is written
                assert self._shop is not None
                self._shop.transport.call(transfer.cancel)

    def _is_ending(self, transfer: Transfer) -> bool:
        return any(other is transfer for other, _ in self._ended)

    def _requeue(self, transfer: Transfer) -> None:
        if self._transfers.get(transfer.job.request_id) is transfer:
            self._slots.enqueue(transfer)

    # --- running ---------------------------------------------------------------------------------------

    def _start_ready(self) -> None:
        """Let run what has a slot. The catalog is told with the next transaction."""
        assert self._shop is not None
        for transfer in self._slots.ready():
            if transfer.progress.state == "queued":
                if not self._started:
                    self._started_at = time.monotonic()
                self._started.append(transfer.lease)
            self._launch(transfer)

    def _launch(self, transfer: Transfer) -> None:
        """Let a transfer run; one that may have a partial file of an earlier process hashes that first."""
        assert self._shop is not None
        shop = self._shop
        if transfer.progress.state != "queued":
            shop.transport.call(transfer.start)
            return
        transfer.prepare()
        if transfer.lease.fence == 1:
            shop.transport.call(transfer.start)
            return

        def adopt() -> None:
            transfer.adopt()
            shop.transport.call(transfer.start)

        shop.pool.put(failing(adopt, lambda error: self.ended(transfer, GaveUp(error, NO_STATS))))

    # --- ends ------------------------------------------------------------------------------------------

    def _on_ended(self, transfer: Transfer, end: End) -> None:
        if self._transfers.get(transfer.job.request_id) is not transfer:
            if transfer in self._failed:
                self._failed.remove(transfer)
                _close_files([(transfer, end)])
            elif isinstance(end, Whole):  # its lease was lost: these bytes are nobody's
                end.landed.partial.discard()
            self._over(transfer, LeaseLost(transfer.job.request_id))
            return
        self._forget(transfer)
        if not self._ended:
            self._ended_at = time.monotonic()
        self._ended.append((transfer, end))

    def _forget(self, transfer: Transfer) -> None:
        self._slots.withdraw(transfer)
        self._slots.free(transfer)
        if self._transfers.get(transfer.job.request_id) is transfer:
            del self._transfers[transfer.job.request_id]

    def _over(self, transfer: Transfer, what: Settled | ForebayError) -> None:
        """A transfer's end is written: tell who waits for it, and let in who waited for it to leave."""
        ticket = self._ticket_of.pop(transfer, None)
        if ticket is not None:
            self._settle(ticket, what)
        request_id = transfer.lease.request_id
        self._new += [parked for parked in self._parked if parked.job.request_id == request_id]
        self._parked = [parked for parked in self._parked if parked.job.request_id != request_id]

    def _settle(self, ticket: Ticket, what: Settled | ForebayError) -> None:
        with self._lock:
            self._remove(ticket)
        ticket.settle(what)

    def _remove(self, ticket: Ticket) -> None:
        if self._tickets.get(ticket.job.request_id) is ticket:
            del self._tickets[ticket.job.request_id]

    def _cancel(self, ticket: Ticket) -> None:
        request_id = ticket.job.request_id
        with self._lock:
            self._remove(ticket)
        for waiting in (self._new, self._parked):
            if ticket in waiting:
                waiting.remove(ticket)
                self._settle(ticket, StateError("the download was cancelled"))
                return
        if self._rivals.remove(ticket):
            self._settle(ticket, StateError("the download was cancelled"))
            return
        transfer = ticket.transfer
        if transfer is None or self._transfers.get(request_id) is not transfer:
            return  # it has ended; the clerk is about to say so
        if transfer.progress.state == "queued" and self._slots.withdraw(transfer):
            self._on_ended(transfer, Suspended())
            return
        assert self._shop is not None
        self._shop.transport.call(transfer.cancel)

    def _fail_all(self, error: ForebayError) -> None:
        """The catalog is out of reach: tell everyone who waits, and stop what runs."""
        assert self._shop is not None
        for transfer in list(self._transfers.values()):
            self._failed.add(transfer)
            self._forget(transfer)
            self._shop.transport.call(transfer.cancel)
        tickets = [*self._tickets.values(), *self._ticket_of.values()]
        _close_files(self._ended)
        for transfer, _ in self._ended:
            self._ticket_of.pop(transfer, None)
        self._rivals.clear()
        self._slots.clear()
        for gathered in (self._started, self._ended, self._parked, self._new):
            gathered.clear()
        # What runs is settled now; its place in `_ticket_of` it keeps until its last byte is written.
        for ticket in tickets:
            self._settle(ticket, error)
        self._debts.owe_everything()


def _close_files(ended: Sequence[tuple[Transfer, End]]) -> None:
    """Leave what landed whole, but could not be committed, to be resumed."""
    for _, end in ended:
        if isinstance(end, Whole):
            end.landed.partial.stand(signed_off)


def _internal(error: Exception) -> StorageFailed:
    """A bug of ours, logged here and told to whoever waits."""
    log.error("the fetcher failed", exc_info=error)
    return StorageFailed("internal error", reason=repr(error))


def _lease(busy: Busy) -> Lease:
    return Lease(busy.request_id, busy.response_id, "", busy.fence, resumed=True)
