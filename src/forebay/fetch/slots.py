"""Who may transfer from which host now: slots that the catalog grants, handed on among our own transfers.

A host's budget holds over all processes that share a catalog. A slot is taken there once and then passed
from one transfer to the next without another transaction, unless someone else waits for the host.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from forebay.catalog.frontier import Frontier
from forebay.fetch.owner import Owner
from forebay.fetch.transfer import Transfer

# How often a host whose slots others hold is looked at.
LOOK_AGAIN_S = 0.02
# How long a host's slots are kept after its last transfer: usually until its commit is written with them.
LINGER_S = 0.02
# An owner whose beat has not changed for so long is stuck or on a machine that is gone (DESIGN.md section 3).
STUCK_AFTER_S = 15.0
# A slot may be handed on among our own transfers for so long while other processes wait for the host.
_FAIR_SHARE_S = 1.0


@dataclass(slots=True)
class _Host:
    """Our slots at one host, and who wants one."""

    held: int = 0
    used: int = 0
    queue: deque[Transfer] = field(default_factory=deque)
    taken_at: float = 0.0
    idle_at: float | None = None
    look_at: float = 0.0
    asked_at: float = 0.0
    contended: bool = False


class Slots:
    """The slots of one process. Only the clerk's thread uses it."""

    def __init__(self, frontier: Frontier, owner: Owner, *, max_downloads: int, max_per_host: int) -> None:
        self._frontier, self._owner = frontier, owner
        self._max_downloads, self._max_per_host = max_downloads, max_per_host
        self._hosts: dict[str, _Host] = {}
        self._running = 0
        # The beat of others that we wait for, and since when it has stood there.
        self._watched: dict[str, tuple[int | None, float]] = {}

    def enqueue(self, transfer: Transfer) -> None:
        """*transfer* wants a slot of its host; an urgent one before those that are not."""
        host = self._hosts.setdefault(transfer.job.host, _Host())
        if transfer.job.urgent:
            ahead = next((n for n, other in enumerate(host.queue) if not other.job.urgent), len(host.queue))
            host.queue.insert(ahead, transfer)
        else:
            host.queue.append(transfer)
        host.idle_at = None

    def withdraw(self, transfer: Transfer) -> bool:
        """*transfer* wants none any more; whether it was waiting."""
        host = self._hosts.get(transfer.job.host)
        if host is None or transfer not in host.queue:
            return False
        host.queue.remove(transfer)
        self._note_idle(host)
        return True

    def free(self, transfer: Transfer) -> None:
        """*transfer* uses its slot no longer."""
        if not transfer.holds_slot:
            return
        transfer.holds_slot = False
        self._running -= 1
        host = self._hosts[transfer.job.host]
        host.used -= 1
        self._note_idle(host)

    @staticmethod
    def _note_idle(host: _Host) -> None:
        if host.used == 0 and not host.queue:
            host.idle_at = time.monotonic() + LINGER_S

    def ready(self) -> list[Transfer]:
        """Transfers that may start now, with slots that we hold; they hold them from here on."""
        out: list[Transfer] = []
        waiting = [(name, host) for name, host in self._hosts.items() if host.queue]
        for name, host in sorted(waiting, key=lambda item: not item[1].queue[0].job.urgent):
            while (
                host.queue
                and host.used < host.held
                and self._running < self._max_downloads
                and not self._overstays(name, host)
            ):
                transfer = host.queue.popleft()
                transfer.holds_slot = True
                host.used += 1
                self._running += 1
                out.append(transfer)
        return out

    def patience(self) -> float | None:
        """Seconds until `is_due` may change by itself."""
        if any(self._wants(host) > 0 for host in self._hosts.values()):
            return LOOK_AGAIN_S
        if any(host.idle_at is not None for host in self._hosts.values()):
            return LINGER_S
        return None

    def is_due(self) -> bool:
        """Whether the catalog should be asked, or told that slots are free again."""
        now = time.monotonic()
        return any(
            (self._wants(host) > 0 and host.look_at <= now)
            or (host.queue and host.held > host.used and self._overstays(name, host))
            or (host.idle_at is not None and host.idle_at <= now)
            for name, host in self._hosts.items()
        )

    def _wants(self, host: _Host) -> int:
        """How many more slots *host* could use now: waiting for our own transfers is no want."""
        room = self._max_downloads - self._running
        return min(len(host.queue), self._max_per_host - host.used, room) - (host.held - host.used)

    def move(self, *, wall: float, hurry: bool) -> None:
        """Take slots for hosts that need more, give back those of hosts that need none (with *hurry*, at
        once). Part of the caller's transaction."""
        now = time.monotonic()
        room = self._max_downloads - self._running
        for name, host in list(self._hosts.items()):
            if host.queue:
                self._take(name, host, room=room, now=now, wall=wall)
                room -= min(len(host.queue), host.held - host.used)
            elif host.used == 0 and (hurry or host.idle_at is None or host.idle_at <= now):
                self._frontier.give_slots(name, owner=self._owner.id, count=host.held, waiting=False, now=wall)
                del self._hosts[name]

    def _take(self, name: str, host: _Host, *, room: int, now: float, wall: float) -> None:
        idle = host.held - host.used
        if idle > 0 and self._overstays(name, host):
            self._frontier.give_slots(name, owner=self._owner.id, count=idle, waiting=True, now=wall)
            host.held -= idle
            host.look_at = now + LOOK_AGAIN_S
            return
        want = min(len(host.queue), self._max_per_host - host.used, room) - idle
        if want <= 0 or host.look_at > now:
            return
        got = self._frontier.take_slots(name, owner=self._owner.id, want=want, limit=self._max_per_host, now=wall)
        host.held += got
        if got:
            host.taken_at = now
        if got < want:
            host.look_at = now + LOOK_AGAIN_S
            self._bury_the_dead(name)

    def _overstays(self, name: str, host: _Host) -> bool:
        """Whether our share of the host's time is over, and others wait for it."""
        now = time.monotonic()
        if now - host.taken_at <= _FAIR_SHARE_S:
            return False
        if now - host.asked_at > LOOK_AGAIN_S:
            host.asked_at = now
            host.contended = self._frontier.others_wait(name, owner=self._owner.id)
        return host.contended

    def _bury_the_dead(self, host: str) -> None:
        """Whoever holds what we wait for may be gone, or stand still for too long (Ctrl-Z)."""
        now = time.monotonic()
        for owner in self._frontier.others_at(host, owner=self._owner.id):
            beat = self._frontier.beat_of(owner)
            seen = self._watched.get(owner)
            if seen is None or seen[0] != beat:
                seen = self._watched[owner] = (beat, now)
            if not self._owner.is_alive(owner) or now - seen[1] > STUCK_AFTER_S:
                self._frontier.reap(owner)
                self._watched.pop(owner, None)

    def held(self) -> dict[str, int]:
        """How many slots we hold, by host."""
        return {name: host.held for name, host in self._hosts.items() if host.held}

    def clear(self) -> None:
        """Forget everything; the catalog is told by `Frontier.reap`."""
        self._hosts.clear()
        self._running = 0
