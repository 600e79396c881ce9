"""Preconditions against the five steps of RFC 9110 section 13.2.2, written down one by one."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from forebay.core.conditions import Outcome, evaluate
from forebay.core.fields import Fields, format_http_date

NOW = 1_800_000_000.0


@dataclass(frozen=True)
class Tags:
    """An If-Match or If-None-Match: any representation, or those with one of these tags (tag, weak)."""

    any: bool
    listed: tuple[tuple[str, bool], ...]

    def written(self, lines: int, padding: str) -> list[str]:
        if self.any:
            return ["*"]
        tags = [f'{padding}{"W/" if weak else ""}"{tag}"{padding}' for tag, weak in self.listed]
        cut = min(lines, len(tags))
        return [",".join(tags[:cut]), ",".join(tags[cut:])] if cut else [",".join(tags)]


# Tags with commas, spaces' neighbours and a W/ of their own; dates around the one that counts.
OPAQUE = st.sampled_from(["a", "b", "a,b", "", "W/", "a,", "\xe9"])
TAGS = st.builds(Tags, st.booleans(), st.lists(st.tuples(OPAQUE, st.booleans()), max_size=4).map(tuple))
DATES = st.sampled_from([1e9 - 1, 1e9, 1e9 + 1])


def expected(
    method: str,
    match: Tags | None,
    unmodified_since: float | None,
    none_match: Tags | None,
    modified_since: float | None,
    *,
    etag: str | None,
    last_modified: float | None,
) -> Outcome:
    # Step 1
    if match is not None and not (match.any or (etag, False) in match.listed):
        return Outcome.FAILED
    # Step 2
    if match is None and unmodified_since is not None and last_modified is not None:  # noqa: SIM102
        if not last_modified <= unmodified_since:
            return Outcome.FAILED
    # Step 3
    if none_match is not None and (none_match.any or etag in [tag for tag, _ in none_match.listed]):
        return Outcome.NOT_MODIFIED if method in ("GET", "HEAD") else Outcome.FAILED
    # Step 4
    if (
        method in ("GET", "HEAD")
        and none_match is None
        and modified_since is not None
        and last_modified is not None
        and last_modified <= modified_since
    ):
        return Outcome.NOT_MODIFIED
    return Outcome.PROCEED


@given(
    st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]),
    st.none() | TAGS,
    st.none() | DATES,
    st.none() | TAGS,
    st.none() | DATES,
    st.none() | OPAQUE,
    st.none() | DATES,
    st.integers(0, 4),
    st.sampled_from(["", " ", "\t ", ",", " , "]),
    st.randoms(use_true_random=False),
)
@example("GET", None, None, Tags(False, ()), 1e9, "a", 1e9, 0, "", Random(0))
def test_the_steps_in_their_order(
    method: str,
    match: Tags | None,
    unmodified_since: float | None,
    none_match: Tags | None,
    modified_since: float | None,
    etag: str | None,
    last_modified: float | None,
    lines: int,
    padding: str,
    random: Random,
) -> None:
    """However the fields are written and ordered, the outcome is that of the five steps."""
    pairs: list[tuple[str, str]] = []
    if match is not None:
        pairs += [("If-Match", line) for line in match.written(lines, padding)]
    if none_match is not None:
        pairs += [("if-none-match", line) for line in none_match.written(lines, padding)]
    names = [("If-Unmodified-Since", unmodified_since), ("If-Modified-Since", modified_since)]
    pairs += [(name, format_http_date(date)) for name, date in names if date is not None]
    random.shuffle(pairs)
    got = evaluate(
        method,
        Fields(pairs),
        etag=None if etag is None else f'"{etag}"',
        last_modified=last_modified,
        now=NOW,
    )
    assert got is expected(
        method,
        match,
        unmodified_since,
        none_match,
        modified_since,
        etag=etag,
        last_modified=last_modified,
    )
