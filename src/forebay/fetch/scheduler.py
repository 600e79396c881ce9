"""Fetches what is due, when it is due. Embedded use has none (`fetch` refreshes what is due); a server runs
one in its fetch worker."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from forebay.catalog.frontier import Frontier
from forebay.content.wakeups import LOOK_AGAIN_S
from forebay.core.urls import show_url
from forebay.errors import ForebayError, StorageError
from forebay.fetch.tickets import Ticket

log = logging.getLogger(__name__)

# What failed to begin is looked at again after this; again and again, after twice as long each time.
_SHORTEST_REST_S = 1.0
_LONGEST_REST_S = 60.0
# Each time it is logged.
_AFTER_AN_ERROR_S = 5.0
# For more that is due, after something was begun: not while that begins, which would take a millisecond longer.
_LOOK_ON_S = 0.01
# So many times as many may be asked for as merely due: slow hosts have to be many before they are in the way.
_ASKED_ROOMS = 16
# What clocks are slewed by is less.
_CLOCK_SET_BACK_S = 60.0


@dataclass(frozen=True, slots=True)
class _Begun:
    host: str
    urgent: bool


class Scheduler:
    """One thread that sleeps until the next Request is due, and looks every `LOOK_AGAIN_S` anyway: the poke for an
    ask may be lost, the wall clock may jump. Three reads of indexes: 0.2 % of a core.

    *submit* hands in the jobs of Requests by id, and is told whether somebody asks for them. *room*: how many that
    are merely due may be under way by it at once. *room_per_host*: how many of one host, so that a slow one does
    not hold up others; what is asked for has as much again.
    """

    def __init__(
        self,
        frontier: Frontier,
        *,
        submit: Callable[[Sequence[str], bool], Sequence[Ticket]],
        clock: Callable[[], float],
        room: int,
        room_per_host: int,
    ) -> None:
        self._frontier, self._submit, self._clock = frontier, submit, clock
        self._room, self._room_per_host = room, room_per_host
        self._wake = threading.Condition()
        self._poked = False
        # How far the wall clock is ahead of one that never jumps: less than before, it was set back.
        self._ahead: float | None = None
        self._stopping = False
        self._running: dict[str, _Begun] = {}
        # What could not begin: until when it rests, and for how long.
        self._resting: dict[str, tuple[float, float]] = {}
        self._thread = threading.Thread(target=self._run, name="forebay-scheduler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more, and stop the thread; downloads under way go on."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def poke(self) -> None:
        """Look now: something may be due sooner than was known."""
        with self._wake:
            self._poked = True
            self._wake.notify()

    def _run(self) -> None:
        while not self._stopping:
            try:
                sleep = self._turn()
            except Exception as error:  # whatever it is, the next turn may work
                log.warning("the scheduler could not look at the catalog: %s", error)
                sleep = _AFTER_AN_ERROR_S
            with self._wake:
                self._wake.wait_for(lambda: self._poked or self._stopping, sleep)
                self._poked = False

    def _turn(self) -> float:
        """Begin what is due; how long to sleep then."""
        now = self._clock()
        ahead = now - time.monotonic()
        if self._ahead is None or ahead < self._ahead - _CLOCK_SET_BACK_S:
            self._frontier.mend_due_times(now=now)
        self._ahead = ahead
        if self._begin_waiting(now, urgent=True) or self._begin_waiting(now, urgent=False):
            return _LOOK_ON_S
        next_at = self._frontier.next_due_at()
        if next_at is None or next_at <= now:  # due, but fetched by someone else or at rest
            return LOOK_AGAIN_S
        return min(next_at - now, LOOK_AGAIN_S)

    def _begin_waiting(self, now: float, *, urgent: bool) -> bool:
        """Begin what waits, asked for or due, as far as there is room; whether there was anything to begin."""
        with self._wake:
            running = dict(self._running)
            resting = {key for key, (until, _) in self._resting.items() if until > time.monotonic()}
        room = self._room * _ASKED_ROOMS if urgent else self._room
        room_per_host = 2 * self._room_per_host if urgent else self._room_per_host
        free = room - sum(begun.urgent is urgent for begun in running.values())
        if free <= 0:
            return False
        at_host = Counter(begun.host for begun in running.values())
        full = [host for host, count in at_host.items() if count >= room_per_host]
        many = 2 * self._room + len(running) + len(resting)
        if urgent:
            waiting = self._frontier.asked(limit=many, besides=full)
        else:
            waiting = self._frontier.due(now=now, limit=many, besides=full)
        fresh: dict[str, _Begun] = {}
        for request_id, host in waiting.items():
            if request_id not in running and request_id not in resting and at_host[host] < room_per_host:
                at_host[host] += 1
                fresh[request_id] = _Begun(host, urgent)
        self._begin(dict(islice(fresh.items(), free)), urgent=urgent)
        return bool(fresh)

    def _begin(self, fresh: dict[str, _Begun], *, urgent: bool) -> None:
        tickets = self._submit(list(fresh), urgent) if fresh else ()
        for (request_id, begun), ticket in zip(fresh.items(), tickets, strict=True):
            with self._wake:
                self._running[request_id] = begun
            ticket.when_settled(partial(self._settled, request_id, ticket))

    def _settled(self, request_id: str, ticket: Ticket) -> None:
        try:
            settled = ticket.wait()
        except ForebayError:
            ended = False  # no outcome was written, so it is still due: not at once again
        else:
            ended = True
            if settled is not None and isinstance(settled.error, StorageError):
                log.error("%s: %s [%s]", show_url(ticket.job.ask.url), settled.error, settled.error.code)
        with self._wake:
            _, rested = self._resting.pop(request_id, (0.0, 0.0))
            if not ended:
                rest = min(max(2 * rested, _SHORTEST_REST_S), _LONGEST_REST_S)
                self._resting[request_id] = (time.monotonic() + rest, rest)
            self._running.pop(request_id, None)
        self.poke()
