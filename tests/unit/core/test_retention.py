"""Which versions go, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.retention import (
    DUPLICATE_LIFETIME_S,
    FAILED_KEPT,
    Held,
    evictions,
    evictions_for_quota,
)

NOW = 10_000.0


def held(number: int, status: str = "ready", **what: object) -> Held:
    """Version *number*, made long ago, of 10 bytes."""
    base = Held(id=f"id{number}", version=f"v{number:03}", status=status, made_at=0.0, size_bytes=10)
    return replace(base, **what)  # type: ignore[arg-type]


def gone(versions: list[Held], *, unpinned: int = 2, pinned: int = 10, now: float = NOW) -> dict[str, str]:
    return {e.id: e.reason for e in evictions(versions, max_unpinned=unpinned, max_pinned=pinned, now=now)}


# --- the limits of one Request ------------------------------------------------------------------------------


def test_the_oldest_unpinned_versions_beyond_the_limit_go() -> None:
    """In any order given; the reason names the limit."""
    versions = [held(n) for n in (3, 1, 4, 2)]
    assert gone(versions) == dict.fromkeys(("id1", "id2"), "more than 2 unpinned versions")


def test_the_oldest_pinned_versions_beyond_their_own_limit_go() -> None:
    """Pinned and unpinned versions are counted apart."""
    versions = [held(n, pinned=True) for n in range(1, 4)] + [held(4), held(5)]
    assert gone(versions, pinned=2) == {"id1": "more than 2 pinned versions"}


def test_as_many_as_the_limits_say_stay() -> None:
    """Nothing goes at the limit itself."""
    assert gone([held(1, pinned=True), held(2), held(3)], unpinned=2, pinned=1) == {}


def test_the_newest_ready_version_stays_whatever_the_limits_say() -> None:
    """A limit of no pinned versions cannot take the only one that serves."""
    assert gone([held(1, pinned=True)], pinned=0) == {}
    assert gone([held(1, pinned=True), held(2, pinned=True)], pinned=0).keys() == {"id1"}


def test_a_newer_failure_does_not_make_the_ready_version_an_old_one() -> None:
    """The newest *ready* one is meant."""
    assert gone([held(1, pinned=True), held(2, "failed")], pinned=0) == {}


PINS = [
    # pinned, until, whether it holds at NOW
    (False, None, False),
    (False, NOW + 1, False),
    (True, None, True),
    (True, NOW + 1, True),
    (True, NOW, False),
    (True, NOW - 1, False),
]


@pytest.mark.parametrize(("pinned", "until", "holds"), PINS)
def test_a_pin_holds_for_ever_or_until_its_time(pinned: bool, until: float | None, holds: bool) -> None:
    """An expired pin counts like none, for both limits."""
    version = held(1, pinned=pinned, pinned_until=until)
    assert version.pinned_at(NOW) is holds
    assert (gone([version, held(2), held(3)]) == {}) is holds


DUPLICATES = [
    (NOW - DUPLICATE_LIFETIME_S + 1, {}),
    (NOW - DUPLICATE_LIFETIME_S, {"id2": "a duplicate, older than 120 s"}),
    (NOW - DUPLICATE_LIFETIME_S - 1, {"id2": "a duplicate, older than 120 s"}),
    (NOW + 60, {}),
]


@pytest.mark.parametrize(("made_at", "expected"), DUPLICATES)
def test_a_duplicate_goes_after_its_time(made_at: float, expected: dict[str, str]) -> None:
    """Every waiting client has seen it by then; one from the future (a clock set back) stays."""
    assert gone([held(1), held(2, "duplicate", made_at=made_at)]) == expected


def test_a_pinned_duplicate_goes_after_its_time_too() -> None:
    """A pin holds content, and a duplicate's is another version's."""
    assert gone([held(1), held(2, "duplicate", pinned=True)]).keys() == {"id2"}


def test_only_the_newest_failures_stay() -> None:
    """Five show a pattern; the older ones go."""
    versions = [held(n, "failed") for n in range(1, FAILED_KEPT + 3)]
    assert gone(versions) == dict.fromkeys(("id1", "id2"), "more than 5 failures")


@pytest.mark.parametrize("status", ["wait", "in_progress"])
def test_what_is_under_way_stays(status: str) -> None:
    """However many and however old."""
    assert gone([held(n, status) for n in range(20)], unpinned=1, pinned=0) == {}


def test_duplicates_and_failures_take_no_place_of_ready_versions() -> None:
    """Each kind has its own count."""
    versions = [held(1), held(2), held(3, "failed"), held(4, "duplicate", made_at=NOW), held(5, "wait")]
    assert gone(versions) == {}


STATUSES = st.sampled_from(["ready", "ready", "ready", "duplicate", "failed", "wait", "in_progress"])
VERSIONS = st.lists(
    st.tuples(
        STATUSES, st.booleans(), st.none() | st.floats(0, 2 * NOW), st.floats(0, 2 * NOW), st.integers(0, 50)
    ),
    max_size=20,
).map(
    lambda rows: [
        held(n, status, pinned=pinned, pinned_until=until, made_at=made, size_bytes=size, last_used_at=made)
        for n, (status, pinned, until, made, size) in enumerate(rows)
    ]
)


@given(VERSIONS, st.integers(1, 5), st.integers(0, 5), st.randoms(use_true_random=False))
def test_whatever_goes_the_promises_stand(versions: list[Held], unpinned: int, pinned: int, random: object) -> None:
    """The newest ready version and what is under way stay, the limits hold, and the order does not matter."""
    shuffled = list(versions)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    out = gone(shuffled, unpinned=unpinned, pinned=pinned)
    assert out == gone(versions, unpinned=unpinned, pinned=pinned)
    left = [v for v in versions if v.id not in out]
    ready = [v for v in versions if v.status == "ready"]
    if ready:
        assert max(ready, key=lambda v: v.version) in left
    assert all(v in left for v in versions if v.status in ("wait", "in_progress"))
    assert sum(v.status == "ready" and not v.pinned_at(NOW) for v in left) <= unpinned
    assert sum(v.status == "ready" and v.pinned_at(NOW) for v in left) <= max(pinned, 1)
    assert sum(v.status == "failed" for v in left) <= FAILED_KEPT
    # Of one kind, nothing that goes is newer than what stays.
    for kind in (True, False):
        mine = [v for v in ready if v.pinned_at(NOW) is kind]
        assert [v.id not in out for v in mine] == sorted(v.id not in out for v in mine)
    # What is left is left for good.
    assert gone(left, unpinned=unpinned, pinned=pinned) == {}


# --- the quota of the folder ---------------------------------------------------------------------------------


def test_under_the_quota_nothing_goes() -> None:
    """The quota itself may be used."""
    assert evictions_for_quota([held(1)], used_bytes=10, quota_bytes=10, now=NOW) == []


def test_superseded_versions_go_first_then_those_not_used_for_longest() -> None:
    """Until enough has gone, and no further; the reason names the quota."""
    versions = [
        held(1, is_latest=True, last_used_at=1.0),
        held(2, last_used_at=9.0),
        held(3, last_used_at=5.0),
        held(4, is_latest=True, last_used_at=2.0),
    ]
    out = evictions_for_quota(versions, used_bytes=40, quota_bytes=15, now=NOW)
    assert [e.id for e in out] == ["id3", "id2", "id1"]
    assert {e.reason for e in out} == {"the quota of 15 bytes"}


def test_what_was_never_used_goes_by_age() -> None:
    """The older version first."""
    out = evictions_for_quota([held(2), held(1)], used_bytes=20, quota_bytes=15, now=NOW)
    assert [e.id for e in out] == ["id1"]


def test_pinned_and_kept_versions_never_go_for_the_quota() -> None:
    """It falls short then; an expired pin does not hold."""
    versions = [
        held(1, pinned=True),
        held(2, pinned=True, pinned_until=NOW + 1),
        held(3, pinned=True, pinned_until=NOW),
        held(4),
        held(5, "failed"),
        held(6, "in_progress"),
    ]
    out = evictions_for_quota(versions, used_bytes=60, quota_bytes=0, now=NOW, keep=frozenset({"id4"}))
    assert [e.id for e in out] == ["id3"]


@given(VERSIONS, st.integers(0, 300), st.integers(0, 300))
def test_for_the_quota_no_more_goes_than_needed_and_never_a_pinned_one(
    versions: list[Held], used: int, quota: int
) -> None:
    """Without its last eviction it would still be over; if it falls short, nothing that may go is left."""
    newest = max((v.version for v in versions if v.status == "ready"), default="")
    versions = [replace(v, is_latest=v.version == newest) for v in versions]
    out = evictions_for_quota(versions, used_bytes=used, quota_bytes=quota, now=NOW)
    by_id = {v.id: v for v in versions}
    assert all(by_id[e.id].status == "ready" and not by_id[e.id].pinned_at(NOW) for e in out)
    freed = sum(e.size_bytes for e in out)
    if out:
        assert used - (freed - out[-1].size_bytes) > quota
    usable = {v.id for v in versions if v.status == "ready" and not v.pinned_at(NOW)}
    if used - freed > quota:
        assert {e.id for e in out} == usable
    # The one that serves is the last to go.
    assert all(not by_id[e.id].is_latest for e in out[:-1])
