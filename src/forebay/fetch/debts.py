"""What the catalog still has as ours, though nothing runs for it any more: it could not be written when that ended.

Until it is given back, nobody can fetch those Requests, and their hosts have fewer slots, while this process lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from forebay.catalog.frontier import Frontier
from forebay.catalog.outcomes import Lease
from forebay.errors import StorageError
from forebay.fetch.owner import Owner
from forebay.fetch.slots import Slots

# A disk that is full stays so for a while, and each try takes the lock of whoever writes.
_TRY_EVERY_S = 1.0


class Debts:
    """The debts of one process. Only the clerk's thread uses it. *ring* is called with the id of each Request whose
    lease was given back."""

    def __init__(self, frontier: Frontier, owner: Owner, slots: Slots, *, ring: Callable[[str], None]) -> None:
        self._frontier, self._owner, self._slots, self._ring = frontier, owner, slots, ring
        self._leases: list[Lease] = []
        self._owes_slots = self._owes_everything = False
        self._next_at = 0.0

    def owe(self, leases: Sequence[Lease]) -> None:
        """A transaction failed that would have given up *leases*; what it said of slots is not so either."""
        self._leases += leases
        self._owes_slots = True
        self._next_at = time.monotonic() + _TRY_EVERY_S

    def owe_everything(self) -> None:
        """The catalog is out of reach, and nothing runs any more."""
        self._owes_everything = True
        self._next_at = time.monotonic() + _TRY_EVERY_S

    def patience(self) -> float | None:
        """Seconds until `pay` should be called; None: nothing is owed."""
        return max(0.0, self._next_at - time.monotonic()) if self._owes_slots or self._owes_everything else None

    def pay(self) -> None:
        """Give back what is owed, if it is time. While everything is owed, nothing new may begin: then it is always
        time, and `StorageError` is raised."""
        if self._owes_everything:
            self._next_at = time.monotonic() + _TRY_EVERY_S
            self._frontier.reap(self._owner.id)
        elif self.patience() == 0:
            self._next_at = time.monotonic() + _TRY_EVERY_S
            try:
                self._frontier.settle(self._owner.id, self._leases, held=self._slots.held())
            except StorageError:
                return  # what runs is none of its business
        else:
            return
        self._owes_slots = self._owes_everything = False
        leases, self._leases = self._leases, []
        for lease in leases:
            self._ring(lease.request_id)
