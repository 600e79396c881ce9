"""Serve, validate, fetch or refuse: the whole table."""

from __future__ import annotations

import itertools

import pytest

from forebay.core.reuse import Decision, Fetch, Refuse, Serve, StoredVersion, Validate, Validators, decide

NOW = 1_000.0
HASH, OTHER_HASH = "aa" * 32, "bb" * 32
LATEST = StoredVersion("20260101T000000000000Z", Validators('"v1"'), 10, "text/csv", HASH)
SERVE = Serve(LATEST.version)

DUE = [None, NOW - 1, NOW, NOW + 1]
ANY = list(itertools.product(DUE, [False, True]))


@pytest.mark.parametrize(("due_at", "on_request"), ANY)
@pytest.mark.parametrize("expected", [None, HASH])
@pytest.mark.parametrize(("offline", "decision"), [(False, Fetch()), (True, Refuse())])
def test_with_nothing_stored_it_is_fetched_unless_offline(
    due_at: float | None, on_request: bool, expected: str | None, offline: bool, decision: Decision
) -> None:
    """Neither due time, strategy nor expected hash change that."""
    found = decide(None, due_at=due_at, on_request=on_request, now=NOW, offline=offline, expected_sha256=expected)
    assert found == decision


@pytest.mark.parametrize(("due_at", "on_request"), ANY)
@pytest.mark.parametrize("offline", [False, True])
def test_the_expected_content_is_never_stale(due_at: float | None, on_request: bool, offline: bool) -> None:
    """Content is immutable: a version with the expected hash is served whatever the strategy says."""
    found = decide(LATEST, due_at=due_at, on_request=on_request, now=NOW, offline=offline, expected_sha256=HASH)
    assert found == SERVE


@pytest.mark.parametrize(("due_at", "on_request"), ANY)
@pytest.mark.parametrize(("offline", "decision"), [(False, Fetch()), (True, Refuse())])
def test_other_content_than_expected_never_serves(
    due_at: float | None, on_request: bool, offline: bool, decision: Decision
) -> None:
    """It is fetched anew, without a condition: a 304 would only bring the wrong content again."""
    found = decide(
        LATEST, due_at=due_at, on_request=on_request, now=NOW, offline=offline, expected_sha256=OTHER_HASH
    )
    assert found == decision


@pytest.mark.parametrize(("due_at", "on_request"), ANY)
def test_offline_serves_what_is_stored(due_at: float | None, on_request: bool) -> None:
    """However old it is."""
    assert decide(LATEST, due_at=due_at, on_request=on_request, now=NOW, offline=True) == SERVE


ONLINE = [
    # due_at, on_request, decision
    (None, False, SERVE),
    (NOW + 1, False, SERVE),
    (NOW, False, Validate(LATEST)),
    (NOW - 1, False, Validate(LATEST)),
    (None, True, Validate(LATEST)),
    (NOW + 1, True, Validate(LATEST)),
    (NOW, True, Validate(LATEST)),
    (NOW - 1, True, Validate(LATEST)),
]


@pytest.mark.parametrize(("due_at", "on_request", "decision"), ONLINE)
def test_online_the_strategy_decides(due_at: float | None, on_request: bool, decision: Decision) -> None:
    """A due time that has come, or a strategy that refreshes at each request, asks the origin."""
    assert decide(LATEST, due_at=due_at, on_request=on_request, now=NOW, offline=False) == decision


@pytest.mark.parametrize(
    ("validators", "truth"),
    [
        (Validators(), False),
        (Validators(""), False),
        (Validators('"v1"'), True),
        (Validators(None, "Thu, 01 Jan 2026 00:00:00 GMT"), True),
    ],
)
def test_validators_are_true_when_there_is_one(validators: Validators, truth: bool) -> None:
    """An empty field is no validator."""
    assert bool(validators) is truth
