"""Jobs whose Request another owner fetches: they wait for its end, or for its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from forebay.catalog.frontier import Frontier
from forebay.catalog.outcomes import Busy
from forebay.fetch.owner import Owner
from forebay.fetch.slots import STUCK_AFTER_S
from forebay.fetch.tickets import Ticket

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Blocked:
    """*seen_at*: since when the beat of the one who fetches stands where it does."""

    ticket: Ticket
    busy: Busy
    seen_at: float


class Rivals:
    """What waits for other owners. Only the clerk's thread uses it."""

    def __init__(self, frontier: Frontier, owner: Owner) -> None:
        self._frontier, self._owner = frontier, owner
        self._blocked: dict[str, _Blocked] = {}

    def __bool__(self) -> bool:
        return bool(self._blocked)

    def add(self, ticket: Ticket, busy: Busy) -> None:
        """*ticket* waits for what *busy* says."""
        self._blocked[ticket.job.request_id] = _Blocked(ticket, busy, time.monotonic())

    def remove(self, ticket: Ticket) -> bool:
        """*ticket* waits no longer; whether it did."""
        blocked = self._blocked.get(ticket.job.request_id)
        if blocked is None or blocked.ticket is not ticket:
            return False
        del self._blocked[ticket.job.request_id]
        return True

    def clear(self) -> None:
        """Forget all of them."""
        self._blocked.clear()

    def ended(self) -> Iterator[tuple[Ticket, Busy]]:
        """Those whose fetches have ended elsewhere; they wait no longer."""
        for request_id, blocked in list(self._blocked.items()):
            busy = self._frontier.lease_of(request_id)
            if busy is None or busy.fence != blocked.busy.fence:
                del self._blocked[request_id]
                yield blocked.ticket, blocked.busy
            elif busy.beat != blocked.busy.beat:
                blocked.busy, blocked.seen_at = busy, time.monotonic()

    def inherited(self) -> list[Ticket]:
        """Those whose fetchers are gone or stuck, and what these had is taken from them: they wait no longer."""
        now, out = time.monotonic(), list[Ticket]()
        for owner in {blocked.busy.owner for blocked in self._blocked.values()}:
            theirs = [blocked for blocked in self._blocked.values() if blocked.busy.owner == owner]
            stuck = any(now - blocked.seen_at > STUCK_AFTER_S for blocked in theirs)
            if self._owner.is_alive(owner) and not stuck:
                continue
            log.info("taking over from %s, which is gone", owner)
            self._frontier.reap(owner)
            for blocked in theirs:
                del self._blocked[blocked.ticket.job.request_id]
                out.append(blocked.ticket)
        return out
