"""How long to wait before the next attempt, and when to stop trying."""

from __future__ import annotations

from dataclasses import dataclass

# 1.35 * (1 + 2 + 4 + 8) is about 20 s of waiting over five attempts without progress.
BACKOFF_BASE_S = 1.35
# After progress the fault is the connection's, not the origin's: go on almost at once.
AFTER_PROGRESS_S = 0.08


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds of one download's patience.

    ``max_attempts``: attempts in a row without progress. ``retry_after_max_s``: the longest wait that an
    origin may ask for; a longer one ends the download at once, with the time in the error.
    """

    max_attempts: int = 5
    backoff_base_s: float = BACKOFF_BASE_S
    backoff_max_s: float = 60.0
    retry_after_max_s: float = 300.0


def backoff_delay(failures: int, *, policy: RetryPolicy, jitter: float) -> float:
    """Seconds to wait after *failures* attempts in a row without progress (0: the last one progressed).

    *jitter* in ``[0, 1)`` spreads the delay over 0.75 to 1.25 of its nominal value, so that many clients
    that failed together do not return together.
    """
    spread = 0.75 + jitter / 2
    if failures <= 0:
        return min(AFTER_PROGRESS_S, policy.backoff_base_s) * spread
    exponent = min(failures - 1, 30)
    return float(min(policy.backoff_base_s * 2**exponent, policy.backoff_max_s)) * spread
