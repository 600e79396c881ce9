"""What is kept ready: never more than the budget, never longer than it is true."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from forebay.server.hot import OncePerTurn, SmallBodies, UntilCommit


def test_a_body_is_kept_under_its_digest() -> None:
    """And none is found under another."""
    bodies = SmallBodies()
    bodies.keep("a", b"1")
    bodies.keep("a", b"1")
    assert (bodies.get("a"), bodies.get("b")) == (b"1", None)


def test_what_was_not_asked_for_the_longest_goes() -> None:
    """When the budget is used up; asking counts, keeping again does not."""
    bodies = SmallBodies(budget_bytes=3)
    for name in "abc":
        bodies.keep(name, b"x")
    assert bodies.get("a") == b"x"
    bodies.keep("b", b"x")
    bodies.keep("d", b"x")
    assert [bodies.get(name) for name in "abcd"] == [b"x", None, b"x", b"x"]


def test_a_body_over_the_budget_is_not_kept() -> None:
    """It takes what was there with it, and the budget is as before."""
    bodies = SmallBodies(budget_bytes=3)
    bodies.keep("a", b"xx")
    bodies.keep("b", b"xxxx")
    assert (bodies.get("a"), bodies.get("b")) == (None, None)
    bodies.keep("c", b"xxx")
    assert bodies.get("c") == b"xxx"


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 5), st.booleans())))
def test_the_budget_holds_whatever_is_asked(steps: list[tuple[str, int, bool]]) -> None:
    """Bodies that can be had are no more bytes than that, and are what was kept."""
    bodies, known = SmallBodies(budget_bytes=9), {}
    for name, size, keeps in steps:
        if keeps:
            bodies.keep(name, known.setdefault(name, bytes(size)))
        else:
            assert bodies.get(name) in (None, known.get(name))
    assert sum(len(bodies.get(name) or b"") for name in "abcdefgh") <= 9


class Version:
    """A number that a test changes."""

    def __init__(self) -> None:
        self.number = 1

    def __call__(self) -> int:
        return self.number


def test_what_was_found_is_kept_until_a_commit() -> None:
    """Then everything is looked up anew."""
    version = Version()
    found: UntilCommit[str, int] = UntilCommit(version)
    assert found.get("a") is None
    found.keep("a", 1, moment=found.moment)
    assert found.get("a") == 1
    version.number = 2
    assert found.get("a") is None
    version.number = 1  # another number, whichever
    assert found.get("a") is None


def test_what_was_looked_up_before_a_commit_is_not_kept_after_it() -> None:
    """Somebody else has noticed the commit while the look-up was under way."""
    version = Version()
    found: UntilCommit[str, int] = UntilCommit(version)
    moment = found.moment
    version.number = 2
    found.get("b")
    found.keep("a", 1, moment=moment)
    assert found.get("a") is None


def test_what_was_looked_up_around_a_commit_goes_with_it() -> None:
    """Nobody has noticed it so far: the next one who asks does."""
    version = Version()
    found: UntilCommit[str, int] = UntilCommit(version)
    moment = found.moment
    version.number = 2
    found.keep("a", 1, moment=moment)
    assert found.get("a") is None


def test_there_is_an_end_to_what_is_kept() -> None:
    """Whoever asks for ever more fills no memory."""
    found: UntilCommit[int, int] = UntilCommit(Version(), most=10)
    for number in range(100):
        found.keep(number, number, moment=found.moment)
        assert found.get(number) == number
    assert sum(found.get(number) is not None for number in range(100)) <= 10


def test_whoever_comes_within_one_turn_shares_an_answer() -> None:
    """And whoever comes after it was asked for gets a later one, however soon."""
    version = Version()
    seen: list[tuple[str, int]] = []

    async def turns() -> None:
        loop = asyncio.get_running_loop()
        moment = OncePerTurn(version)

        def look(name: str) -> None:
            seen.append((name, moment()))

        def look_and_change() -> None:
            look("first")
            version.number = 2
            loop.call_soon(look, "came after")

        loop.call_soon(look_and_change)
        loop.call_soon(look, "was there")
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(turns())
    assert seen == [("first", 1), ("was there", 1), ("came after", 2)]
