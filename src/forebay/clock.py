"""The wall clock. Core never reads it; every decision gets the time as an argument."""

from __future__ import annotations

import time


def unix_now() -> float:
    """Unix seconds."""
    return time.time()
