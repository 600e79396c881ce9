"""When a Request is due again. Times are Unix seconds; `now` is always an argument.

A due time in the past or equal to `now` means: due. ``None``: never by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CLOCK_SLACK_S = 60.0

# (cron line, after) -> the first tick strictly later than *after*. The cron library is not core's.
CronTick = Callable[[str, float], float]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a Request.

    ``checked_at``: when the origin last told us the state of the content (new bytes, equal bytes, 304, or a
    HEAD that showed no difference). ``confirmed_at``: the same without such a HEAD. ``has_validator``: the
    latest ready version has an ETag or a Last-Modified.
    """

    now: float
    registered_at: float
    checked_at: float | None = None
    confirmed_at: float | None = None
    stored: bool = False
    has_validator: bool = False


def _begun(facts: Facts) -> float | None:
    """Due since the registration while nothing was ever stored or checked; else None."""
    if facts.stored and facts.checked_at is not None:
        return None
    return min(facts.registered_at, facts.now)


def _after(checked_at: float, seconds: float, now: float) -> float:
    # A check in the future means that the clock was set back: due now, which also sets it right. A little in
    # the future it only means that another process wrote it after we had looked at the clock.
    return now if checked_at > now + CLOCK_SLACK_S else min(checked_at, now) + seconds


def never(facts: Facts) -> float | None:
    """Once, and never again."""
    return _begun(facts)


def age(facts: Facts, *, seconds: float) -> float | None:
    """*seconds* after the last check."""
    begun = _begun(facts)
    if begun is not None:
        return begun
    assert facts.checked_at is not None
    return _after(facts.checked_at, seconds, facts.now)


def cron(facts: Facts, *, line: str, run_at_start: bool, tick: CronTick) -> float | None:
    """At each tick of the cron *line*; also at once after the registration with *run_at_start*."""
    if facts.checked_at is None:
        if run_at_start:
            return min(facts.registered_at, facts.now)
        return tick(line, min(facts.registered_at, facts.now))
    return tick(line, min(facts.checked_at, facts.now))


def when_requested(facts: Facts) -> float | None:
    """At each request, never by the clock; due now if nothing is stored yet."""
    return _begun(facts)


def when_remote_changed(facts: Facts, *, check_interval_sec: float, fallback_max_age_sec: float) -> float | None:
    """*check_interval_sec* after the last check; without a validator, *fallback_max_age_sec* after the
    last confirmed one bounds what a HEAD alone may keep alive."""
    begun = _begun(facts)
    if begun is not None:
        return begun
    assert facts.checked_at is not None
    due = _after(facts.checked_at, check_interval_sec, facts.now)
    if facts.has_validator:
        return due
    confirmed_at = facts.checked_at if facts.confirmed_at is None else facts.confirmed_at
    return min(due, _after(confirmed_at, fallback_max_age_sec, facts.now))


def retry_due(*, now: float, failures: int, regular_due: float | None) -> float | None:
    """When a Request whose download failed is tried again by the scheduler: 1 min, 2 min … 1 h apart, and
    never later than its strategy says."""
    later = now + min(60.0 * float(2 ** min(failures, 12)), 3600.0)
    if regular_due is None or regular_due <= now:
        return later
    return min(later, regular_due)
