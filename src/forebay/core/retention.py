"""Which versions go, and why. Pure: versions + policy + now -> evictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DUPLICATE_LIFETIME_S = 120.0  # long enough for every waiting client to have seen it
FAILED_KEPT = 5  # enough to see a pattern in `forebay log`, few enough not to fill it


@dataclass(frozen=True, slots=True)
class Held:
    """One version of a Request, as far as retention needs it. Times are Unix seconds."""

    id: str
    version: str
    status: str
    made_at: float
    pinned: bool = False
    pinned_until: float | None = None
    size_bytes: int = 0
    last_used_at: float = 0.0
    is_latest: bool = False

    def pinned_at(self, now: float) -> bool:
        """Whether the pin holds at *now*."""
        return self.pinned and (self.pinned_until is None or self.pinned_until > now)


@dataclass(frozen=True, slots=True)
class Eviction:
    """One version that goes, with the reason as a sentence for people."""

    id: str
    version: str
    size_bytes: int
    reason: str


def evictions(versions: Sequence[Held], *, max_unpinned: int, max_pinned: int, now: float) -> list[Eviction]:
    """What goes of one Request's *versions* (any order): the oldest ready ones beyond the two limits,
    duplicates after their time, and old failures. The newest ready version always stays."""
    newest_first = sorted(versions, key=lambda held: held.version, reverse=True)
    out: list[Eviction] = []
    unpinned = pinned = failed = 0
    newest_ready = next((held.id for held in newest_first if held.status == "ready"), None)
    for held in newest_first:
        reason = None
        if held.status == "ready":
            if held.pinned_at(now):
                pinned += 1
                if pinned > max_pinned:
                    reason = f"more than {max_pinned} pinned versions"
            else:
                unpinned += 1
                if unpinned > max_unpinned:
                    reason = f"more than {max_unpinned} unpinned versions"
        elif held.status == "duplicate":
            if held.made_at + DUPLICATE_LIFETIME_S <= now:
                reason = f"a duplicate, older than {DUPLICATE_LIFETIME_S:.0f} s"
        elif held.status == "failed":
            failed += 1
            if failed > FAILED_KEPT:
                reason = f"more than {FAILED_KEPT} failures"
        if reason is not None and held.id != newest_ready:
            out.append(Eviction(held.id, held.version, held.size_bytes, reason))
    return out


def evictions_for_quota(
    candidates: Iterable[Held],
    *,
    used_bytes: int,
    quota_bytes: int,
    now: float,
    keep: frozenset[str] = frozenset(),
) -> list[Eviction]:
    """The least useful unpinned ready versions that bring *used_bytes* under *quota_bytes*: superseded ones
    first, then those not used for longest. May fall short: then the rest is pinned or in *keep* (ids)."""
    over = used_bytes - quota_bytes
    out: list[Eviction] = []
    if over <= 0:
        return out
    usable = [
        held for held in candidates if held.status == "ready" and not held.pinned_at(now) and held.id not in keep
    ]
    usable.sort(key=lambda held: (held.is_latest, held.last_used_at, held.version))
    for held in usable:
        if over <= 0:
            break
        out.append(Eviction(held.id, held.version, held.size_bytes, f"the quota of {quota_bytes} bytes"))
        over -= held.size_bytes
    return out
