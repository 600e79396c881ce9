"""When a Request is due again, with every kind of clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core import strategies
from forebay.core.strategies import Facts, retry_due

NOW = 1_800_000_000.0
HOUR, DAY = 3600.0, 86400.0
BORN = NOW - 10 * DAY

Due = Callable[[Facts], float | None]


def hourly(line: str, after: float) -> float:
    """Ticks at each full hour; the line must be handed through."""
    assert line == "0 * * * *"
    return (after // HOUR + 1) * HOUR


def never(facts: Facts) -> float | None:
    return strategies.never(facts)


def age(facts: Facts) -> float | None:
    return strategies.age(facts, seconds=HOUR)


def cron(facts: Facts) -> float | None:
    return strategies.cron(facts, line="0 * * * *", run_at_start=True, tick=hourly)


def cron_later(facts: Facts) -> float | None:
    return strategies.cron(facts, line="0 * * * *", run_at_start=False, tick=hourly)


def requested(facts: Facts) -> float | None:
    return strategies.when_requested(facts)


def changed(facts: Facts) -> float | None:
    return strategies.when_remote_changed(facts, check_interval_sec=6 * HOUR, fallback_max_age_sec=DAY)


NEW = Facts(now=NOW, registered_at=BORN)
BEFORE_BIRTH = Facts(now=NOW, registered_at=NOW + DAY)
CHECKED = Facts(now=NOW, registered_at=BORN, checked_at=NOW - 600, confirmed_at=NOW - 600, stored=True)
OLD = replace(CHECKED, checked_at=NOW - 2 * DAY, confirmed_at=NOW - 2 * DAY)
FUTURE = replace(CHECKED, checked_at=NOW + DAY, confirmed_at=NOW + DAY)
DELETED = replace(CHECKED, stored=False)
NEVER_CHECKED = replace(NEW, stored=True)
VALIDATED = replace(CHECKED, has_validator=True)

TICK = (NOW // HOUR + 1) * HOUR
CASES = [
    # strategy, facts, due
    (never, NEW, BORN),
    (never, BEFORE_BIRTH, NOW),
    (never, CHECKED, None),
    (never, OLD, None),
    (never, FUTURE, None),
    (never, DELETED, BORN),
    (never, NEVER_CHECKED, BORN),
    (age, NEW, BORN),
    (age, BEFORE_BIRTH, NOW),
    (age, CHECKED, NOW - 600 + HOUR),
    (age, OLD, NOW - 2 * DAY + HOUR),
    (age, FUTURE, NOW),
    (age, DELETED, BORN),
    (age, NEVER_CHECKED, BORN),
    (cron, NEW, BORN),
    (cron, BEFORE_BIRTH, NOW),
    (cron, CHECKED, hourly("0 * * * *", NOW - 600)),
    (cron, OLD, NOW - 2 * DAY + HOUR),
    (cron, FUTURE, TICK),
    (cron_later, NEW, BORN + HOUR),
    (cron_later, BEFORE_BIRTH, TICK),
    (cron_later, CHECKED, hourly("0 * * * *", NOW - 600)),
    (cron_later, FUTURE, TICK),
    (requested, NEW, BORN),
    (requested, BEFORE_BIRTH, NOW),
    (requested, CHECKED, None),
    (requested, OLD, None),
    (requested, DELETED, BORN),
    (changed, NEW, BORN),
    (changed, BEFORE_BIRTH, NOW),
    (changed, DELETED, BORN),
    (changed, VALIDATED, NOW - 600 + 6 * HOUR),
    (changed, CHECKED, NOW - 600 + 6 * HOUR),
    (changed, FUTURE, NOW),
    (changed, replace(FUTURE, has_validator=True), NOW),
    # A HEAD has shown no difference since, but a day after the last confirmed look it is asked for again.
    (changed, replace(CHECKED, confirmed_at=NOW - 20 * HOUR), NOW + 4 * HOUR),
    (changed, replace(CHECKED, confirmed_at=NOW - 2 * DAY), NOW - DAY),
    (changed, replace(CHECKED, confirmed_at=NOW + DAY), NOW),
    # With a validator, each check is a confirmed one.
    (changed, replace(VALIDATED, confirmed_at=NOW - 20 * HOUR), NOW - 600 + 6 * HOUR),
    # Never confirmed: the check counts.
    (changed, replace(CHECKED, confirmed_at=None), NOW - 600 + 6 * HOUR),
]


@pytest.mark.parametrize(("due", "facts", "expected"), CASES)
def test_each_strategy_says_when(due: Due, facts: Facts, expected: float | None) -> None:
    """One row for each strategy and each state of what is known."""
    assert due(facts) == expected


def test_the_interval_is_longer_than_the_fallback() -> None:
    """Without a validator the fallback decides, with one the interval."""

    def rare(facts: Facts) -> float | None:
        return strategies.when_remote_changed(facts, check_interval_sec=7 * DAY, fallback_max_age_sec=DAY)

    assert rare(CHECKED) == NOW - 600 + DAY
    assert rare(VALIDATED) == NOW - 600 + 7 * DAY


TIMES = st.floats(NOW - 30 * DAY, NOW + 30 * DAY)
FACTS = st.builds(
    Facts,
    now=TIMES,
    registered_at=TIMES,
    checked_at=st.none() | TIMES,
    confirmed_at=st.none() | TIMES,
    stored=st.booleans(),
    has_validator=st.booleans(),
)

INTERVALS = [(never, 0.0), (age, HOUR), (cron, HOUR), (cron_later, HOUR), (requested, 0.0), (changed, 6 * HOUR)]


@pytest.mark.parametrize(("due", "interval"), INTERVALS)
@given(facts=FACTS)
def test_a_due_time_is_never_more_than_one_interval_away(due: Due, interval: float, facts: Facts) -> None:
    """Whatever a clock that jumps has written: no strategy waits longer than it says."""
    at = due(facts)
    assert at is None or at <= facts.now + interval


@pytest.mark.parametrize("due", [never, age, cron, requested, changed])
@given(facts=FACTS)
def test_what_was_never_stored_is_due(due: Due, facts: Facts) -> None:
    """Every strategy fetches once."""
    at = due(replace(facts, stored=False, checked_at=None))
    assert at is not None
    assert at <= facts.now


@pytest.mark.parametrize("due", [age, cron, cron_later, changed])
@given(facts=FACTS, back=st.floats(0, 30 * DAY))
def test_a_clock_that_is_set_back_never_puts_a_check_off(due: Due, facts: Facts, back: float) -> None:
    """Measured from now, the wait after a jump back is at most what one interval makes it."""
    checked = replace(facts, stored=True, checked_at=facts.now, confirmed_at=facts.now)
    regular, early = due(checked), due(replace(checked, now=checked.now - back))
    assert regular is not None
    assert early is not None
    assert early - (checked.now - back) <= max(regular - checked.now, HOUR)


# --- after failures ------------------------------------------------------------------------------------------

RETRIES = [
    # failures before, regular due, seconds from now
    (0, None, 60),
    (1, None, 120),
    (2, None, 240),
    (5, None, 1920),
    (6, None, 3600),
    (1_000_000, None, 3600),
    (0, NOW - 1, 60),
    (0, NOW, 60),
    (3, NOW + 100, 100),
    (3, NOW + 480, 480),
    (3, NOW + DAY, 480),
]


@pytest.mark.parametrize(("failures", "regular", "seconds"), RETRIES)
def test_failures_are_tried_again_ever_later(failures: int, regular: float | None, seconds: float) -> None:
    """1 min, 2 min … 1 h, and never later than the strategy's own time if that is still to come."""
    assert retry_due(now=NOW, failures=failures, regular_due=regular) == NOW + seconds


@given(failures=st.integers(0, 100), regular=st.none() | TIMES)
def test_a_failed_request_never_comes_back_at_once_unless_its_time_has_come(
    failures: int, regular: float | None
) -> None:
    """It is always later than now, and an hour later at most."""
    at = retry_due(now=NOW, failures=failures, regular_due=regular)
    assert at is not None
    assert NOW < at <= NOW + HOUR
