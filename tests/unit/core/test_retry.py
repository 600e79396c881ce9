"""Back-off: about twenty seconds over five attempts, spread by jitter, never negative."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.retry import AFTER_PROGRESS_S, RetryPolicy, backoff_delay

NOMINAL = [
    # failures, seconds
    (0, AFTER_PROGRESS_S),
    (-1, AFTER_PROGRESS_S),
    (1, 1.35),
    (2, 2.7),
    (3, 5.4),
    (4, 10.8),
    (5, 21.6),
    (6, 43.2),
    (7, 60.0),
    (31, 60.0),
    (10_000, 60.0),
]


@pytest.mark.parametrize(("failures", "seconds"), NOMINAL)
def test_each_failure_doubles_the_delay_up_to_its_bound(failures: int, seconds: float) -> None:
    """1.35 s, then twice as long each time, a minute at most; almost nothing after progress."""
    assert backoff_delay(failures, policy=RetryPolicy(), jitter=0.5) == pytest.approx(seconds)


def test_five_attempts_wait_about_twenty_seconds_in_all() -> None:
    """The issue's figure, from four waits."""
    policy = RetryPolicy()
    waits = [backoff_delay(n, policy=policy, jitter=0.5) for n in range(1, policy.max_attempts)]
    assert sum(waits) == pytest.approx(20.25)


@pytest.mark.parametrize(("jitter", "factor"), [(0.0, 0.75), (0.25, 0.875), (0.5, 1.0), (0.75, 1.125)])
def test_jitter_scales_the_delay(jitter: float, factor: float) -> None:
    """From three quarters of the nominal delay on."""
    assert backoff_delay(2, policy=RetryPolicy(), jitter=jitter) == pytest.approx(2.7 * factor)


def test_a_hasty_policy_is_hasty_after_progress_too() -> None:
    """The pause after progress is never longer than the first back-off."""
    policy = RetryPolicy(backoff_base_s=0.01)
    assert backoff_delay(0, policy=policy, jitter=0.5) == pytest.approx(0.01)


@given(
    failures=st.integers(0, 1_000),
    jitter=st.floats(0, 1, exclude_max=True),
    base=st.floats(0, 100),
    bound=st.floats(0, 1_000),
)
def test_a_delay_is_never_negative_and_never_over_its_bound(
    failures: int, jitter: float, base: float, bound: float
) -> None:
    """Whatever the policy: from 0 to 1.25 of the longer of the bound and the pause after progress."""
    policy = RetryPolicy(backoff_base_s=base, backoff_max_s=bound)
    delay = backoff_delay(failures, policy=policy, jitter=jitter)
    assert 0 <= delay <= 1.25 * max(bound, min(base, AFTER_PROGRESS_S))


@given(failures=st.integers(1, 100), jitter=st.floats(0, 1, exclude_max=True))
def test_a_later_failure_never_waits_less(failures: int, jitter: float) -> None:
    """With the same jitter the delays only grow."""
    policy = RetryPolicy()
    first, second = (backoff_delay(n, policy=policy, jitter=jitter) for n in (failures, failures + 1))
    assert second >= first
