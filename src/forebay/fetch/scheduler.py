"""Fetches what is due, when it is due. Embedded use has none (`fetch` refreshes what is due); a server runs
one in its fetch worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from forebay.catalog.frontier import Frontier
from forebay.content.wakeups import LOOK_AGAIN_S
from forebay.errors import ForebayError
from forebay.fetch.tickets import Ticket

log = logging.getLogger(__name__)

# What failed to begin is looked at again after this; again and again, after twice as long each time.
_SHORTEST_REST_S = 1.0
_LONGEST_REST_S = 60.0
# Each time it is logged.
_AFTER_AN_ERROR_S = 5.0
# For more that is due, after something was begun: not while that begins, which would take a millisecond longer.
_LOOK_ON_S = 0.01
# What clocks are slewed by is less.
_CLOCK_SET_BACK_S = 60.0


class Scheduler:
    """One thread that sleeps until the next Request is due, and looks every `LOOK_AGAIN_S` anyway: the poke for an
    ask may be lost, the wall clock may jump. Three reads of indexes: 0.2 % of a core.

    *submit* hands in the jobs of Requests by id, and is told whether somebody asks for them; *room*: how many may
    be under way by it at once, and how many more that are asked for.
    """

    def __init__(
        self,
        frontier: Frontier,
        *,
        submit: Callable[[Sequence[str], bool], Sequence[Ticket]],
        clock: Callable[[], float],
        room: int,
    ) -> None:
        self._frontier, self._submit, self._clock, self._room = frontier, submit, clock, room
        self._wake = threading.Condition()
        self._poked = False
        # How far the wall clock is ahead of one that never jumps: less than before, it was set back.
        self._ahead: float | None = None
        self._stopping = False
        self._running: set[str] = set()
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
        with self._wake:
            busy = self._running | {key for key, (until, _) in self._resting.items() if until > time.monotonic()}
        many = 2 * self._room + len(busy)
        asked = self._frontier.asked(limit=many)
        if self._begin(asked, busy, room=2 * self._room, urgent=True):
            return _LOOK_ON_S
        due = self._frontier.due(now=now, limit=many)
        if self._begin(due, busy | set(asked), room=self._room, urgent=False):
            return _LOOK_ON_S
        if len(self._running) >= self._room:
            return LOOK_AGAIN_S  # the next end wakes us sooner
        next_at = self._frontier.next_due_at()
        if next_at is None or next_at <= now:  # due, but fetched by someone else or at rest
            return LOOK_AGAIN_S
        return min(next_at - now, LOOK_AGAIN_S)

    def _begin(self, request_ids: Sequence[str], busy: Collection[str], *, room: int, urgent: bool) -> bool:
        """Begin those that are not *busy*, as far as there is room; whether there were any."""
        free = max(0, room - len(self._running))
        fresh = [request_id for request_id in request_ids if request_id not in busy][:free]
        for request_id, ticket in zip(fresh, self._submit(fresh, urgent) if fresh else (), strict=True):
            with self._wake:
                self._running.add(request_id)
            ticket.when_settled(partial(self._settled, request_id, ticket))
        return bool(fresh)

    def _settled(self, request_id: str, ticket: Ticket) -> None:
        try:
            ticket.wait()
        except ForebayError:
            ended = False  # no outcome was written, so it is still due: not at once again
        else:
            ended = True
        with self._wake:
            _, rested = self._resting.pop(request_id, (0.0, 0.0))
            if not ended:
                rest = min(max(2 * rested, _SHORTEST_REST_S), _LONGEST_REST_S)
                self._resting[request_id] = (time.monotonic() + rest, rest)
            self._running.discard(request_id)
        self.poke()
