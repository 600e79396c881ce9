"""The stubborn download: tables of cases keyed by RFC section and by invariant 3 of DESIGN.md."""

from __future__ import annotations

import pytest

from forebay.core.download import Download, Phase, begin, step
from forebay.core.exchange import (
    Abandon,
    Action,
    Ask,
    Commit,
    Eof,
    Event,
    Failed,
    Head,
    Landed,
    Limits,
    Mismatched,
    Representation,
    Send,
    Unchanged,
    Wait,
    Woke,
    Write,
)
from forebay.core.fields import Fields, format_http_date
from forebay.core.retry import RetryPolicy
from forebay.core.reuse import StoredVersion, Validators
from forebay.errors import ContentTooLarge, HashMismatch

URL = "https://data.example/set.bin"
WALL = 1_800_000_000.0
DATE = format_http_date(WALL - 86_400)
OTHER_DATE = format_http_date(WALL - 3_600)
TOTAL = 100
STRONG = '"v1"'
WEAK = 'W/"v1"'


class Run:
    """One download driven by hand: keeps the state and a clock, and gives the actions of the last event."""

    def __init__(
        self,
        ask: Ask | None = None,
        *,
        limits: Limits | None = None,
        stored: StoredVersion | None = None,
        probe: bool = False,
        previous_media_type: str | None = None,
        prefix: Representation | None = None,
        length: int = 0,
        generation: int = 1,
    ) -> None:
        self.now = 1_000.0
        self.waited = 0.0
        self.state: Download
        self.state, self.actions = begin(
            ask or Ask("GET", URL),
            limits=limits or Limits(),
            now=self.now,
            stored=stored,
            probe=probe,
            previous_media_type=previous_media_type,
            prefix=prefix,
            length=length,
            generation=generation,
        )

    def tell(self, event: Event, *, jitter: float = 0.5) -> Action | None:
        """Report *event*; the one action that follows, if any."""
        self.state, self.actions = step(self.state, event, self.now, jitter)
        assert len(self.actions) <= 1
        return self.actions[0] if self.actions else None

    def head(self, status: int, *pairs: tuple[str, str]) -> Action | None:
        return self.tell(Head(status, Fields(pairs), WALL))

    def cut(self, length: int) -> Action | None:
        return self.tell(Failed("origin_cut", "the connection broke off", length))

    @property
    def sent(self) -> Send:
        """The exchange that was just asked for."""
        (action,) = self.actions
        assert isinstance(action, Send)
        return action

    @property
    def fields(self) -> dict[str, str]:
        return dict(self.sent.fields)

    @property
    def abandoned(self) -> Abandon:
        (action,) = self.actions
        assert isinstance(action, Abandon)
        assert self.state.phase is Phase.DONE
        return action

    @property
    def wait(self) -> Wait:
        (action,) = self.actions
        assert isinstance(action, Wait)
        assert self.state.phase is Phase.WAITING
        return action

    def sleep(self) -> Send:
        """Sit the wait out; the exchange that follows."""
        seconds = self.wait.seconds
        self.now += seconds
        self.waited += seconds
        self.tell(Woke())
        return self.sent


def length_of(size: int) -> tuple[str, str]:
    return ("Content-Length", str(size))


def whole(*validators: tuple[str, str], total: int = TOTAL) -> list[tuple[str, str]]:
    return [length_of(total), ("Content-Type", "application/octet-stream"), *validators]


def part(start: int, *validators: tuple[str, str], total: int = TOTAL) -> list[tuple[str, str]]:
    """The fields of the right 206 for everything from *start* on."""
    return [("Content-Range", f"bytes {start}-{total - 1}/{total}"), length_of(total - start), *validators]


def cut_after(length: int, *validators: tuple[str, str], **how: object) -> Run:
    """A download whose first answer, with *validators*, broke off after *length* bytes; it sends again."""
    run = Run(**how)  # type: ignore[arg-type]
    run.head(200, *whole(*validators))
    run.cut(length)
    run.sleep()
    return run


def stored(etag: str | None = None, last_modified: str | None = None, *, size_bytes: int = TOTAL) -> StoredVersion:
    return StoredVersion("20260101T000000000000Z", Validators(etag, last_modified), size_bytes, None, "ab" * 32)


# --- a whole body (RFC 9110 section 15.3.1) ---------------------------------------------------------------


def test_a_first_request_asks_for_the_whole() -> None:
    """Nothing is there: GET at the URL with the client's fields only."""
    run = Run(Ask("GET", URL, (("Accept", "text/csv"),)))
    assert run.sent == Send("GET", URL, (("Accept", "text/csv"),), None)


def test_a_whole_body_is_written_from_its_first_byte_and_committed_at_its_end() -> None:
    """200 with a length: write at offset 0 of generation 1, commit when all bytes are there."""
    run = Run()
    write = run.head(200, *whole(("ETag", STRONG), ("Last-Modified", DATE), ("Content-Disposition", "inline")))
    assert write == Write(
        0,
        1,
        Representation(
            etag=STRONG,
            last_modified=DATE,
            media_type="application/octet-stream",
            content_disposition="inline",
            total=TOTAL,
            final_url=URL,
            http_status=200,
        ),
    )
    assert run.tell(Landed(60)) is None
    commit = run.tell(Eof(TOTAL))
    assert isinstance(write, Write)
    assert commit == Commit(write.representation, TOTAL)
    assert run.state.phase is Phase.DONE


def test_a_body_without_a_length_ends_where_http_says() -> None:
    """Chunked and close-delimited bodies: the length is what landed (RFC 9112 section 6.3)."""
    run = Run()
    run.head(200, ("Transfer-Encoding", "chunked"))
    commit = run.tell(Eof(37))
    assert isinstance(commit, Commit)
    assert (commit.length, commit.representation.total) == (37, 37)


@pytest.mark.parametrize("status", [204, 205])
def test_an_answer_that_cannot_have_a_body_is_an_empty_one(status: int) -> None:
    """RFC 9110 sections 15.3.5 and 15.3.6: 204 and 205 have no content, whatever Content-Length says."""
    run = Run()
    run.head(status, length_of(12))
    commit = run.tell(Eof(0))
    assert isinstance(commit, Commit)
    assert (commit.length, commit.representation.http_status) == (0, status)


def test_an_empty_body_is_content() -> None:
    """Content-Length: 0 commits no bytes."""
    run = Run()
    run.head(200, length_of(0))
    assert isinstance(run.tell(Eof(0)), Commit)


def test_a_coded_body_is_taken_as_it_comes_and_its_coding_recorded() -> None:
    """Invariant 6: a coding that nobody asked for is stored, not refused."""
    run = Run()
    write = run.head(200, *whole(("Content-Encoding", "gzip")))
    assert isinstance(write, Write)
    assert write.representation.content_encoding == "gzip"


def test_a_body_is_sent_with_the_method_that_has_one() -> None:
    """POST and PUT carry the registered body, GET never does."""
    for method, expected in (("POST", b"{}"), ("PUT", b"{}"), ("GET", None)):
        assert Run(Ask(method, URL, (), b"{}")).sent.body == expected


AMBIGUOUS = [
    [("Content-Length", "10"), ("Content-Length", "11")],
    [("Content-Length", "10, 11")],
    [("Content-Length", "ten")],
    [("Content-Length", "10"), ("Transfer-Encoding", "chunked")],
]


@pytest.mark.parametrize("pairs", AMBIGUOUS)
def test_a_body_whose_length_is_ambiguous_is_never_taken(pairs: list[tuple[str, str]]) -> None:
    """RFC 9112 section 6.3: two lengths, or a length and chunks, fail the attempt with its own code."""
    run = Run(limits=Limits(retry=RetryPolicy(max_attempts=2)))
    run.head(200, *pairs)
    run.sleep()
    run.head(200, *pairs)
    assert run.abandoned.error.code == "origin_ambiguous"
    assert not run.abandoned.keep_partial


# --- asking for the rest (RFC 9110 sections 13.1.5 and 14.2) -----------------------------------------------

RESUMABLE = [
    pytest.param([("ETag", STRONG)], STRONG, id="strong-etag"),
    pytest.param([("ETag", STRONG), ("Last-Modified", DATE)], STRONG, id="strong-etag-before-date"),
    pytest.param([("Last-Modified", DATE)], DATE, id="date"),
    pytest.param([("ETag", WEAK), ("Last-Modified", DATE)], DATE, id="date-beside-weak-etag"),
    pytest.param([("ETag", "v1"), ("Last-Modified", DATE)], DATE, id="date-beside-malformed-etag"),
]


@pytest.mark.parametrize(("validators", "expected"), RESUMABLE)
def test_the_rest_is_asked_for_under_the_strongest_validator(
    validators: list[tuple[str, str]], expected: str
) -> None:
    """Range always goes with If-Range: a strong ETag, else Last-Modified; a weak ETag is never used."""
    run = cut_after(40, *validators)
    assert run.fields == {"Range": "bytes=40-", "If-Range": expected}


@pytest.mark.parametrize("validators", [[], [("ETag", WEAK)], [("ETag", "v1")]])
def test_without_a_usable_validator_the_download_starts_over(validators: list[tuple[str, str]]) -> None:
    """Nothing could prove that an answer continues the prefix: the whole again, as a new generation."""
    run = cut_after(40, *validators)
    assert run.fields == {}
    write = run.head(200, *whole(*validators))
    assert isinstance(write, Write)
    assert (write.offset, write.generation) == (0, 2)


@pytest.mark.parametrize(("validators", "_expected"), RESUMABLE)
def test_a_right_206_continues_the_prefix(validators: list[tuple[str, str]], _expected: str) -> None:
    """RFC 9110 section 15.3.7: start, total and validator match, so the bytes are appended."""
    run = cut_after(40, *validators)
    write = run.head(206, *part(40, *validators))
    assert isinstance(write, Write)
    assert (write.offset, write.generation) == (40, 1)
    commit = run.tell(Eof(TOTAL))
    assert isinstance(commit, Commit)
    assert commit.length == TOTAL
    assert run.state.resumed_bytes == 40


def test_a_206_to_a_strong_etag_may_leave_the_etag_out_when_the_total_was_known() -> None:
    """The origin took If-Range for true; start and total still match."""
    run = cut_after(40, ("ETag", STRONG))
    assert isinstance(run.head(206, *part(40)), Write)


def test_a_206_may_leave_its_length_and_its_coding_out() -> None:
    """A chunked 206 is a right one, and RFC 9110 section 15.3.7 lets it omit representation fields."""
    run = Run()
    run.head(200, *whole(("ETag", STRONG), ("Content-Encoding", "br")))
    run.cut(40)
    run.sleep()
    assert isinstance(run.head(206, ("Content-Range", f"bytes 40-{TOTAL - 1}/{TOTAL}"), ("ETag", STRONG)), Write)


def test_a_206_tells_the_total_of_a_body_that_began_without_a_length() -> None:
    """A chunked first answer, then a 206 with the same strong ETag: its total is checked at the end."""
    run = Run()
    run.head(200, ("ETag", STRONG), ("Transfer-Encoding", "chunked"))
    run.cut(40)
    run.sleep()
    write = run.head(206, *part(40, ("ETag", STRONG)))
    assert isinstance(write, Write)
    assert write.representation.total == TOTAL
    assert isinstance(run.tell(Eof(TOTAL - 1)), Wait)


def test_a_cut_before_the_first_byte_asks_for_the_whole_again() -> None:
    """There is no prefix to continue."""
    run = cut_after(0, ("ETag", STRONG))
    assert run.fields == {}


def test_what_an_earlier_process_left_is_continued() -> None:
    """A kept prefix with its validators: the first request asks for the rest, under the old generation."""
    run = Run(prefix=Representation(etag=STRONG, total=TOTAL), length=40, generation=3)
    assert run.fields == {"Range": "bytes=40-", "If-Range": STRONG}
    write = run.head(206, *part(40, ("ETag", STRONG)))
    assert isinstance(write, Write)
    assert (write.offset, write.generation) == (40, 3)


@pytest.mark.parametrize(
    ("prefix", "length"), [(Representation(etag=STRONG), 0), (None, 40), (Representation(etag=WEAK), 40)]
)
def test_what_cannot_be_continued_is_not_asked_for_in_part(prefix: Representation | None, length: int) -> None:
    """No bytes, no knowledge of them, or no validator: the whole is asked for."""
    run = Run(prefix=prefix, length=length)
    assert run.fields == {}


@pytest.mark.parametrize(("method", "length"), [("POST", 40), ("GET", 0)])
def test_what_an_earlier_process_left_never_shares_its_generation_with_other_bytes(
    method: str, length: int
) -> None:
    """Readers may have bytes of that generation: what cannot be continued is a new one."""
    run = Run(Ask(method, URL), prefix=Representation(etag=STRONG), length=length, generation=3)
    write = run.head(200, ("ETag", STRONG), ("Content-Length", str(TOTAL)))
    assert isinstance(write, Write)
    assert (write.offset, write.generation) == (0, 4)


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ({"etag": STRONG}, {"If-None-Match": STRONG}),
        ({"last_modified": DATE}, {"If-Modified-Since": DATE}),
        ({"etag": STRONG, "last_modified": DATE}, {"If-None-Match": STRONG, "If-Modified-Since": DATE}),
    ],
)
def test_what_only_lacked_its_commit_is_confirmed(kept: dict[str, str], asked: dict[str, str]) -> None:
    """Every byte is there, so there is no range to ask for: a 304 makes it whole, nothing is sent again."""
    run = Run(prefix=Representation(**kept, total=TOTAL), length=TOTAL, generation=2)  # type: ignore[arg-type]
    assert run.fields == asked
    commit = run.head(304)
    assert isinstance(commit, Commit)
    assert (commit.length, run.state.resumed_bytes) == (TOTAL, TOTAL)


def test_what_only_lacked_its_commit_and_has_changed_starts_over() -> None:
    """The origin has another representation by now: a new generation from its first byte."""
    run = Run(prefix=Representation(etag=STRONG, total=TOTAL), length=TOTAL, generation=2)
    write = run.head(200, *whole(("ETag", '"v2"')))
    assert isinstance(write, Write)
    assert (write.offset, write.generation) == (0, 3)


def test_a_body_that_ends_before_its_head_is_a_cut() -> None:
    """A transport that calls half a head a success must not make a prefix whole."""
    run = Run(prefix=Representation(etag=STRONG), length=40)
    run.tell(Eof(40))
    assert run.wait.reason == "the answer broke off in its head"


def test_a_resumed_generation_makes_progress_below_the_high_water_of_an_older_one() -> None:
    """The file became shorter: continuing its own prefix counts, however long the old one was."""
    run = Run(prefix=Representation(etag=STRONG, total=TOTAL), length=90)
    run.head(200, *whole(("ETag", '"v2"')))
    run.cut(5)
    for length in range(10, 85, 5):  # many more than the attempts that may go without progress
        run.sleep()
        run.head(206, *part(length - 5, ("ETag", '"v2"')))
        run.cut(length)
    assert run.state.failures == 0


def test_a_representation_that_changes_after_each_resume_is_given_up() -> None:
    """Each change throws away what was resumed: that is not progress for ever."""
    run = Run(prefix=Representation(etag=STRONG, total=TOTAL), length=90)
    for round_number in range(200):
        tag = f'"r{round_number}"'
        run.head(200, *whole(("ETag", tag)))
        run.cut(5)
        if not isinstance(run.actions[0], Wait):
            break
        run.sleep()
        run.head(206, *part(5, ("ETag", tag)))
        run.cut(10)
        if not isinstance(run.actions[0], Wait):
            break
        run.sleep()
    assert run.abandoned.error.code == "origin_cut"


def test_a_post_is_never_resumed() -> None:
    """Range is defined for GET only (RFC 9110 section 14.2): a POST starts over."""
    run = cut_after(40, ("ETag", STRONG), ask=Ask("POST", URL, (), b"{}"))
    assert run.sent == Send("POST", URL, (), b"{}")


# --- invariant 3: what does not prove that it continues is never appended ----------------------------------

R = ("Content-Range", f"bytes 40-{TOTAL - 1}/{TOTAL}")
UNPROVEN = [
    # validators of the prefix, fields of the 206, code of the failure
    pytest.param([("ETag", STRONG)], [("ETag", STRONG)], "origin_range_invalid", id="no-content-range"),
    pytest.param(
        [("ETag", STRONG)],
        [("Content-Range", "bytes forty-"), ("ETag", STRONG)],
        "origin_range_invalid",
        id="malformed-content-range",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [("Content-Range", f"bytes */{TOTAL}"), ("ETag", STRONG)],
        "origin_range_invalid",
        id="unsatisfied-content-range",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [("Content-Range", f"bytes 39-{TOTAL - 1}/{TOTAL}"), ("ETag", STRONG)],
        "origin_range_invalid",
        id="start-too-early",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [("Content-Range", f"bytes 41-{TOTAL - 1}/{TOTAL}"), ("ETag", STRONG)],
        "origin_range_invalid",
        id="start-too-late",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [("Content-Range", f"bytes 0-{TOTAL - 1}/{TOTAL}"), ("ETag", STRONG)],
        "origin_range_invalid",
        id="from-the-beginning",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [("Content-Range", f"bytes 40-{TOTAL}/{TOTAL + 1}"), ("ETag", STRONG)],
        "origin_changed",
        id="another-total",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [("Content-Range", f"bytes 40-{TOTAL - 1}/*"), ("ETag", STRONG)],
        "origin_range_invalid",
        id="unknown-total",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [("Content-Range", f"bytes 40-{TOTAL - 2}/{TOTAL}"), ("ETag", STRONG)],
        "origin_range_invalid",
        id="part-of-the-rest",
    ),
    pytest.param([("ETag", STRONG)], [R, ("ETag", '"v2"')], "origin_changed", id="another-etag"),
    pytest.param([("ETag", STRONG)], [R, ("ETag", WEAK)], "origin_changed", id="etag-became-weak"),
    pytest.param(
        [("Last-Modified", DATE)], [R, ("Last-Modified", OTHER_DATE)], "origin_changed", id="another-date"
    ),
    pytest.param([("Last-Modified", DATE)], [R], "origin_changed", id="no-date-under-a-date"),
    pytest.param(
        [("Last-Modified", DATE)], [R, ("ETag", STRONG)], "origin_changed", id="an-etag-instead-of-the-date"
    ),
    pytest.param(
        [("ETag", WEAK), ("Last-Modified", DATE)],
        [R, ("ETag", 'W/"v2"'), ("Last-Modified", DATE)],
        "origin_changed",
        id="another-weak-etag-under-the-same-date",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [R, ("ETag", STRONG), ("Content-Encoding", "gzip")],
        "origin_changed",
        id="another-coding",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [R, ("ETag", STRONG), length_of(60), length_of(61)],
        "origin_ambiguous",
        id="two-lengths",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [R, ("ETag", STRONG), length_of(60), ("Transfer-Encoding", "chunked")],
        "origin_ambiguous",
        id="a-length-and-chunks",
    ),
    pytest.param(
        [("ETag", STRONG)],
        [R, ("ETag", STRONG), length_of(59)],
        "origin_range_invalid",
        id="a-length-that-is-not-the-range's",
    ),
]


@pytest.mark.parametrize(("validators", "answer", "code"), UNPROVEN)
def test_an_unproven_206_fails_the_attempt_and_the_download_starts_over(
    validators: list[tuple[str, str]], answer: list[tuple[str, str]], code: str
) -> None:
    """Invariant 3: nothing is appended; after a wait the whole is asked for, as a new generation."""
    run = cut_after(40, *validators, limits=Limits(retry=RetryPolicy(max_attempts=1)))
    run.head(206, *answer)
    assert run.abandoned.error.code == code
    assert not run.abandoned.keep_partial

    run = cut_after(40, *validators)
    assert isinstance(run.head(206, *answer), Wait)
    run.sleep()
    assert run.fields == {}
    write = run.head(200, *whole(*validators))
    assert isinstance(write, Write)
    assert (write.offset, write.generation) == (0, 2)


def test_a_206_without_an_etag_proves_nothing_of_a_body_of_unknown_length() -> None:
    """Neither total nor ETag could be compared."""
    run = Run()
    run.head(200, ("ETag", STRONG), ("Transfer-Encoding", "chunked"))
    run.cut(40)
    run.sleep()
    assert isinstance(run.head(206, *part(40)), Wait)
    assert run.state.prefix is None


def test_a_200_to_a_request_for_the_rest_is_a_new_generation() -> None:
    """RFC 9110 section 13.1.5: If-Range did not hold; the whole comes, written from offset 0."""
    run = cut_after(40, ("ETag", STRONG))
    write = run.head(200, *whole(("ETag", '"v2"')))
    assert isinstance(write, Write)
    assert (write.offset, write.generation, write.representation.etag) == (0, 2, '"v2"')
    assert isinstance(run.tell(Eof(TOTAL)), Commit)


def test_a_200_after_a_resume_makes_the_content_one_piece_again() -> None:
    """What is committed came in one answer: none of its bytes were resumed."""
    run = cut_after(40, ("ETag", STRONG))
    run.head(206, *part(40, ("ETag", STRONG)))
    run.cut(60)
    run.sleep()
    run.head(200, *whole(("ETag", '"v2"')))
    assert isinstance(run.tell(Eof(TOTAL)), Commit)
    assert run.state.resumed_bytes == 0


def test_a_416_to_a_request_for_the_rest_starts_over() -> None:
    """RFC 9110 section 15.5.17: there is nothing beyond the prefix, so it was not this representation's."""
    run = cut_after(40, ("ETag", STRONG))
    assert isinstance(run.head(416, ("Content-Range", "bytes */30")), Wait)
    run.sleep()
    assert run.fields == {}
    assert run.state.generation == 2


def test_a_416_to_a_request_for_the_whole_is_final() -> None:
    """No Range was sent: it is an answer like any other 4xx."""
    run = Run()
    run.head(416)
    assert run.abandoned.error.code == "origin_status"


def test_a_206_to_a_request_for_the_whole_is_never_taken() -> None:
    """RFC 9110 section 15.3.7: nobody asked for a part."""
    run = Run(limits=Limits(retry=RetryPolicy(max_attempts=1)))
    run.head(206, ("Content-Range", f"bytes 0-{TOTAL - 1}/{TOTAL}"), length_of(TOTAL))
    assert run.abandoned.error.code == "origin_protocol"


# --- the end of a body --------------------------------------------------------------------------------------


def test_a_short_body_is_a_failure_and_the_rest_is_asked_for() -> None:
    """RFC 9112 section 8: fewer bytes than announced are incomplete; what landed is kept."""
    run = Run()
    run.head(200, *whole(("ETag", STRONG)))
    wait = run.tell(Eof(40))
    assert isinstance(wait, Wait)
    assert wait.reason == f"got 40 of {TOTAL} bytes"
    assert dict(run.sleep().fields)["Range"] == "bytes=40-"


def test_a_body_that_is_short_again_and_again_gives_up_with_its_own_code() -> None:
    """``origin_short``; what landed may serve a later resume."""
    run = Run(limits=Limits(retry=RetryPolicy(max_attempts=1)))
    run.head(200, *whole(("ETag", STRONG)))
    run.tell(Eof(40))
    run.sleep()
    run.head(206, *part(40, ("ETag", STRONG)))
    run.tell(Eof(40))
    assert run.abandoned.error.code == "origin_short"
    assert run.abandoned.keep_partial


def test_a_body_that_is_too_long_is_never_committed_and_the_download_starts_over() -> None:
    """A 206 without Content-Length whose chunks go on past its range: its bytes prove nothing any more."""
    run = cut_after(40, ("ETag", STRONG))
    run.head(206, R, ("ETag", STRONG), ("Transfer-Encoding", "chunked"))
    run.tell(Landed(TOTAL + 1))
    assert isinstance(run.tell(Eof(TOTAL + 1)), Wait)
    run.sleep()
    assert run.fields == {}
    write = run.head(200, *whole(("ETag", STRONG)))
    assert isinstance(write, Write)
    assert (write.offset, write.generation) == (0, 2)


# --- conditional requests (RFC 9110 section 13) -------------------------------------------------------------

CONDITIONAL = [
    (stored(STRONG), {"If-None-Match": STRONG}),
    (stored(WEAK), {"If-None-Match": WEAK}),
    (stored(None, DATE), {"If-Modified-Since": DATE}),
    (stored(STRONG, DATE), {"If-None-Match": STRONG, "If-Modified-Since": DATE}),
    (stored(), {}),
]


@pytest.mark.parametrize(("version", "expected"), CONDITIONAL)
def test_a_stored_version_is_asked_about_with_all_of_its_validators(
    version: StoredVersion, expected: dict[str, str]
) -> None:
    """RFC 9110 sections 13.1.2 and 13.1.3: both fields are sent when both are known."""
    assert Run(stored=version).fields == expected


@pytest.mark.parametrize("version", [stored(STRONG), stored(WEAK), stored(None, DATE)])
def test_a_304_to_a_conditional_request_confirms_the_stored_version(version: StoredVersion) -> None:
    """RFC 9110 section 15.4.5."""
    run = Run(stored=version)
    assert run.head(304) == Unchanged(304, URL, confirmed=True)
    assert run.state.phase is Phase.DONE


UNCONDITIONAL = [
    pytest.param({}, id="nothing-stored"),
    pytest.param({"stored": stored()}, id="stored-without-validators"),
    pytest.param({"stored": stored(STRONG), "ask": Ask("POST", URL)}, id="a-post"),
    pytest.param(
        {"stored": stored(STRONG), "prefix": Representation(etag='"v2"', total=TOTAL), "length": 40},
        id="a-request-for-the-rest",
    ),
    pytest.param({"stored": stored(), "probe": True}, id="a-probe"),
]


@pytest.mark.parametrize("how", UNCONDITIONAL)
def test_a_304_to_an_unconditional_request_is_a_failure(how: dict[str, object]) -> None:
    """RFC 9110 section 15.4.5: nothing was asked that it could answer; it confirms nothing."""
    run = Run(**how, limits=Limits(retry=RetryPolicy(max_attempts=1)))  # type: ignore[arg-type]
    assert not {"If-None-Match", "If-Modified-Since"} & run.fields.keys()
    run.head(304)
    if isinstance(run.actions[0], Send):  # a probe that told nothing: look with GET
        assert run.sent.method == "GET"
        run.head(304)
    assert run.abandoned.error.code == "origin_protocol"


SAME = [
    # stored validators, fields of the 200, whether that is the stored version
    (stored(STRONG), whole(("ETag", STRONG)), True),
    (stored(STRONG), [("ETag", STRONG), ("Transfer-Encoding", "chunked")], True),
    (stored(STRONG), whole(("ETag", STRONG), total=TOTAL + 1), False),
    (stored(STRONG), whole(("ETag", '"v2"')), False),
    (stored(STRONG), whole(), False),
    (stored(STRONG, DATE), whole(("Last-Modified", DATE)), False),
    (stored(WEAK), whole(("ETag", WEAK)), False),
    (stored(None, DATE), whole(("Last-Modified", DATE)), True),
    (stored(None, DATE), whole(("Last-Modified", DATE), total=TOTAL + 1), False),
    (stored(None, DATE), [("Last-Modified", DATE), ("Transfer-Encoding", "chunked")], False),
    (stored(None, DATE), whole(("Last-Modified", OTHER_DATE)), False),
    (stored(None, DATE), whole(("Last-Modified", DATE), ("ETag", STRONG)), False),
    (stored(), whole(), False),
]


@pytest.mark.parametrize(("version", "pairs", "same"), SAME)
def test_a_200_that_is_the_stored_version_is_not_downloaded_again(
    version: StoredVersion, pairs: list[tuple[str, str]], same: bool
) -> None:
    """An origin that ignores conditions: the same strong ETag, or the same date and length, will do."""
    run = Run(stored=version)
    action = run.head(200, *pairs)
    assert action == Unchanged(200, URL) if same else isinstance(action, Write)


def test_the_answer_to_a_post_is_always_taken() -> None:
    """Validators of an answer to POST are not the resource's (RFC 9110 section 9.3.3)."""
    run = Run(Ask("POST", URL), stored=stored(STRONG))
    assert isinstance(run.head(200, *whole(("ETag", STRONG))), Write)


def test_the_rest_of_a_new_version_is_asked_for_without_the_old_ones_condition() -> None:
    """If-None-Match of the stored version beside If-Range of the prefix would contradict it."""
    run = cut_after(40, ("ETag", '"v2"'), stored=stored(STRONG))
    assert run.fields == {"Range": "bytes=40-", "If-Range": '"v2"'}


def test_a_prefix_that_cannot_be_continued_does_not_displace_the_condition() -> None:
    """A weak ETag is of no use for If-Range: the stored version is asked about as at first."""
    run = cut_after(40, ("ETag", 'W/"v2"'), stored=stored(STRONG))
    assert run.fields == {"If-None-Match": STRONG}
    left = Representation(etag='W/"v2"', total=TOTAL)
    run = Run(prefix=left, length=40, generation=2, stored=stored(STRONG))
    assert run.fields == {"If-None-Match": STRONG}
    write = run.head(200, *whole(("ETag", 'W/"v3"')))
    assert isinstance(write, Write)
    assert (write.offset, write.generation) == (0, 3)


def test_an_origin_that_goes_back_to_the_stored_version_ends_the_download() -> None:
    """The new version was withdrawn midway: 200 with the stored strong ETag."""
    run = cut_after(40, ("ETag", '"v2"'), stored=stored(STRONG))
    assert run.head(200, *whole(("ETag", STRONG))) == Unchanged(200, URL)


# --- looking with HEAD first --------------------------------------------------------------------------------


def test_a_probe_is_a_head() -> None:
    """Without a stored validator a HEAD looks for a difference."""
    assert Run(stored=stored(), probe=True).sent == Send("HEAD", URL, (), None)


@pytest.mark.parametrize(
    ("version", "ask"), [(None, Ask("GET", URL)), (stored(STRONG), Ask("GET", URL)), (stored(), Ask("POST", URL))]
)
def test_a_probe_is_only_made_for_a_get_without_a_validator(version: StoredVersion | None, ask: Ask) -> None:
    """Nothing to compare with, a better way, or another method: no HEAD."""
    assert Run(ask, stored=version, probe=True).sent.method == ask.method


def test_a_probe_that_shows_the_stored_length_leaves_things_as_they_are_unconfirmed() -> None:
    """The same length and no validator is no proof: `confirmed` is false."""
    run = Run(stored=stored(), probe=True)
    assert run.head(200, length_of(TOTAL)) == Unchanged(200, URL, confirmed=False)


PROBED = [
    pytest.param(200, [length_of(TOTAL + 1)], id="another-length"),
    pytest.param(200, [], id="no-length"),
    pytest.param(200, [length_of(TOTAL), length_of(TOTAL + 1)], id="two-lengths"),
    pytest.param(200, [length_of(TOTAL), ("ETag", STRONG)], id="an-etag-now"),
    pytest.param(200, [length_of(TOTAL), ("Last-Modified", DATE)], id="a-date-now"),
    pytest.param(206, [], id="206"),
    pytest.param(304, [], id="304"),
    pytest.param(403, [], id="403"),
    pytest.param(405, [], id="405"),
    pytest.param(501, [], id="501"),
    pytest.param(503, [("Retry-After", "100")], id="503"),
]


@pytest.mark.parametrize(("status", "pairs"), PROBED)
def test_a_probe_that_shows_a_difference_or_fails_is_followed_by_a_get(
    status: int, pairs: list[tuple[str, str]]
) -> None:
    """At once, at the registered URL, without another probe later."""
    run = Run(stored=stored(), probe=True)
    run.head(status, *pairs)
    assert run.sent == Send("GET", URL, (), None)
    run.cut(0)
    assert run.sleep().method == "GET"


def test_a_probe_follows_redirects_and_its_get_begins_at_the_registered_url() -> None:
    """RFC 9110 section 15.4.4: HEAD stays HEAD through a 303; the GET that follows has its fields back."""
    fields = (("Authorization", "Bearer x"),)
    run = Run(Ask("GET", URL, fields), stored=stored(), probe=True)
    run.head(303, ("Location", "https://elsewhere.example/x"))
    assert run.sent == Send("HEAD", "https://elsewhere.example/x", (), None)
    run.head(200, length_of(TOTAL + 1))
    assert run.sent == Send("GET", URL, fields, None)


def test_a_probe_that_breaks_off_is_tried_again() -> None:
    """A failure of the transport says nothing of HEAD."""
    run = Run(stored=stored(), probe=True)
    run.cut(0)
    assert run.sleep().method == "HEAD"


# --- statuses that are no content (RFC 9110 section 15) ------------------------------------------------------


@pytest.mark.parametrize("status", [300, 305, 400, 401, 403, 404, 405, 406, 409, 410, 412, 451, 501, 505, 600])
def test_a_status_that_will_not_pass_ends_the_download(status: int) -> None:
    """Asking again the same way is of no use."""
    run = Run()
    run.head(status)
    error = run.abandoned.error
    assert (error.code, error.detail, error.retryable) == (
        "origin_status",
        f"the origin answered {status}",
        False,
    )


@pytest.mark.parametrize(("status", "kept"), [(403, True), (401, True), (404, False), (410, False)])
def test_what_landed_is_kept_unless_the_resource_is_gone(status: int, kept: bool) -> None:
    """An expired login may come back; 404 and 410 say that there is nothing to resume."""
    run = cut_after(40, ("ETag", STRONG))
    run.head(status)
    assert run.abandoned.keep_partial is kept


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524])
def test_a_status_that_may_pass_is_tried_again(status: int) -> None:
    """5xx and the like are retried, and what landed is kept."""
    run = cut_after(40, ("ETag", STRONG))
    assert isinstance(run.head(status), Wait)
    assert run.wait.reason == f"the origin answered {status}"
    assert dict(run.sleep().fields)["Range"] == "bytes=40-"


@pytest.mark.parametrize(("status", "code"), [(500, "origin_status"), (429, "origin_busy"), (503, "origin_busy")])
def test_a_status_that_does_not_pass_gives_up_with_the_count(status: int, code: str) -> None:
    """The error says what was answered and how often it was tried."""
    run = Run()
    for _ in range(4):
        run.head(status)
        run.sleep()
    run.head(status)
    error = run.abandoned.error
    assert (error.code, error.retryable) == (code, True)
    assert error.detail == f"the origin answered {status} (tried 5 times)"


def test_a_download_that_is_tried_once_says_once() -> None:
    """``max_attempts=1`` gives up at the first failure."""
    run = Run(limits=Limits(retry=RetryPolicy(max_attempts=1)))
    run.head(500)
    assert run.abandoned.error.detail == "the origin answered 500 (tried once)"


# --- Retry-After (RFC 9110 section 10.2.3) -------------------------------------------------------------------

RETRY_AFTER = [
    pytest.param([("Retry-After", "7")], 7.0, id="seconds"),
    pytest.param([("Retry-After", format_http_date(WALL + 30))], 30.0, id="date-by-our-clock"),
    pytest.param(
        [("Retry-After", format_http_date(WALL + 530)), ("Date", format_http_date(WALL + 500))],
        30.0,
        id="date-by-the-origin's-clock",
    ),
    pytest.param([], 1.35, id="absent"),
    pytest.param([("Retry-After", "")], 1.35, id="empty"),
    pytest.param([("Retry-After", "soon")], 1.35, id="malformed"),
    pytest.param([("Retry-After", "-3")], 1.35, id="negative"),
    pytest.param([("Retry-After", "0")], 1.35, id="zero"),
    pytest.param([("Retry-After", format_http_date(WALL - 30))], 1.35, id="date-in-the-past"),
    pytest.param([("Retry-After", "300")], 300.0, id="as-long-as-we-wait"),
]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("pairs", "seconds"), RETRY_AFTER)
def test_a_busy_origin_says_how_long_to_wait(status: int, pairs: list[tuple[str, str]], seconds: float) -> None:
    """429 and 503 with Retry-After in both forms; else the usual back-off."""
    run = Run()
    run.head(status, *pairs)
    assert run.wait.seconds == pytest.approx(seconds)


def test_a_wait_that_is_too_long_ends_the_download_and_names_both_times() -> None:
    """Nobody waits for an hour; the error says how long the origin wants."""
    run = Run()
    run.head(503, ("Retry-After", "3600"))
    error = run.abandoned.error
    assert error.code == "origin_busy"
    assert error.detail == "the origin answered 503 and asks to wait 3600 s (we wait 300 s at most)"


def test_retry_after_does_not_count_elsewhere() -> None:
    """A 500 with Retry-After is an ordinary failure."""
    run = Run()
    run.head(500, ("Retry-After", "7"))
    assert run.wait.seconds == pytest.approx(1.35)


# --- redirects (RFC 9110 section 15.4) -----------------------------------------------------------------------

NEXT = "https://data.example/moved.bin"

REWRITES = [
    # method, status, method that follows
    ("GET", 301, "GET"),
    ("GET", 302, "GET"),
    ("GET", 303, "GET"),
    ("GET", 307, "GET"),
    ("GET", 308, "GET"),
    ("POST", 301, "GET"),
    ("POST", 302, "GET"),
    ("POST", 303, "GET"),
    ("POST", 307, "POST"),
    ("POST", 308, "POST"),
    ("PUT", 301, "PUT"),
    ("PUT", 302, "PUT"),
    ("PUT", 303, "GET"),
    ("PUT", 307, "PUT"),
    ("PUT", 308, "PUT"),
]


@pytest.mark.parametrize(("method", "status", "follows"), REWRITES)
def test_a_redirect_is_followed_with_the_method_that_http_says(method: str, status: int, follows: str) -> None:
    """Sections 15.4.2 to 15.4.9: 303 makes a GET of everything, 301 and 302 of POST; the body goes too."""
    run = Run(Ask(method, URL, (), b"{}"))
    run.head(status, ("Location", NEXT))
    assert run.sent == Send(follows, NEXT, (), None if follows == "GET" else b"{}")


LOCATIONS = [
    ("/other", "https://data.example/other"),
    ("other", "https://data.example/other"),
    ("?q=1", "https://data.example/set.bin?q=1"),
    ("//cdn.example/x", "https://cdn.example/x"),
    ("http://data.example/x#part", "http://data.example/x"),
]


@pytest.mark.parametrize(("location", "target"), LOCATIONS)
def test_a_location_is_resolved_against_the_url_that_answered(location: str, target: str) -> None:
    """RFC 9110 section 10.2.2."""
    run = Run()
    run.head(302, ("Location", location))
    assert run.sent.url == target


def test_the_final_url_is_recorded_and_free_of_secrets() -> None:
    """Invariant 9: a signed URL behind a redirect never comes back as it is."""
    run = Run()
    run.head(302, ("Location", "https://cdn.example/x?X-Amz-Signature=s3cret"))
    write = run.head(200, *whole())
    assert isinstance(write, Write)
    assert write.representation.final_url == "https://cdn.example/x?X-Amz-Signature=***"


BAD_LOCATIONS = [
    pytest.param([], id="missing"),
    pytest.param([("Location", "")], id="empty"),
    pytest.param([("Location", "ftp://data.example/x")], id="ftp"),
    pytest.param([("Location", "file:///etc/passwd")], id="file"),
    pytest.param([("Location", "javascript:alert(1)")], id="javascript"),
    pytest.param([("Location", "https:///x")], id="no-host"),
    pytest.param([("Location", "https://me:pw@data.example/")], id="password"),
]


@pytest.mark.parametrize("pairs", BAD_LOCATIONS)
def test_a_redirect_that_leads_nowhere_ends_the_download(pairs: list[tuple[str, str]]) -> None:
    """Only http and https with a host are followed; the error never shows a password."""
    run = Run()
    run.head(302, *pairs)
    assert run.abandoned.error.code == "origin_redirects"
    assert ":pw@" not in str(run.abandoned.error)


def test_redirects_are_capped() -> None:
    """A loop or an endless chain ends after ``max_redirects``, for good; the error shows no secret."""
    run = Run(limits=Limits(max_redirects=3))
    for hop in range(3):
        run.head(302, ("Location", f"/{hop}"))
        assert run.sent.url == f"https://data.example/{hop}"
    run.head(302, ("Location", "/3?token=s3cret"))
    error = run.abandoned.error
    assert error.code == "origin_redirects"
    assert error.detail == "more than 3 redirects, the last one to /3?token=***"
    assert not error.retryable


def test_a_redirect_to_itself_ends_too() -> None:
    """A loop of one: ten redirects by default."""
    run = Run()
    for _ in range(10):
        run.head(301, ("Location", URL))
    run.head(301, ("Location", URL))
    assert run.abandoned.error.code == "origin_redirects"


def test_each_attempt_begins_at_the_registered_url_with_a_new_count() -> None:
    """A redirect may lead elsewhere by now."""
    run = Run(limits=Limits(max_redirects=1))
    for _ in range(2):
        run.head(302, ("Location", NEXT))
        run.cut(0)
        assert run.sleep().url == URL


def test_the_rest_is_asked_for_behind_a_redirect_too() -> None:
    """If-Range guards against another resource at the other end."""
    run = cut_after(40, ("ETag", STRONG))
    run.head(302, ("Location", NEXT))
    assert run.fields == {"Range": "bytes=40-", "If-Range": STRONG}
    assert isinstance(run.head(206, *part(40, ("ETag", STRONG))), Write)


SECRETS = (
    ("Authorization", "Bearer s3cret"),
    ("Cookie", "id=s3cret"),
    ("X-Custom", "s3cret"),
    ("Accept", "text/csv"),
    ("USER-AGENT", "me/1"),
)
HARMLESS = (("Accept", "text/csv"), ("USER-AGENT", "me/1"))

ELSEWHERE = [
    "https://elsewhere.example/x",
    "https://data.example:8443/set.bin",
    "http://data.example/set.bin",
    "https://sub.data.example/set.bin",
]


@pytest.mark.parametrize("location", ELSEWHERE)
def test_credentials_do_not_cross_origins(location: str) -> None:
    """Scheme, host and port make an origin (RFC 9110 section 4.3.1): nothing secret follows elsewhere."""
    run = Run(Ask("GET", URL, SECRETS))
    run.head(302, ("Location", location))
    assert run.sent.fields == HARMLESS


def test_credentials_that_were_dropped_stay_dropped() -> None:
    """A chain that leads back may have been built by a stranger."""
    run = Run(Ask("GET", URL, SECRETS))
    run.head(302, ("Location", "https://elsewhere.example/x"))
    run.head(302, ("Location", NEXT))
    assert run.sent == Send("GET", NEXT, HARMLESS, None)


@pytest.mark.parametrize("location", [NEXT, "https://DATA.example:443/moved.bin"])
def test_credentials_are_kept_within_one_origin(location: str) -> None:
    """The default port and the case of the host make no other origin."""
    run = Run(Ask("GET", URL, SECRETS))
    run.head(302, ("Location", location))
    assert run.sent == Send("GET", NEXT, SECRETS, None)


def test_a_new_attempt_has_its_credentials_back() -> None:
    """It begins at the registered URL, whose they are."""
    run = Run(Ask("GET", URL, SECRETS))
    run.head(302, ("Location", "https://elsewhere.example/x"))
    run.cut(0)
    assert run.sleep().fields == SECRETS


# --- size and time -------------------------------------------------------------------------------------------

SMALL = Limits(max_size_bytes=TOTAL - 1)


def test_a_body_that_says_that_it_is_too_large_is_not_begun() -> None:
    """The announced length exceeds ``max_size_bytes``: no byte is written."""
    run = Run(limits=SMALL)
    run.head(200, *whole(("ETag", STRONG)))
    error = run.abandoned.error
    assert isinstance(error, ContentTooLarge)
    assert (error.code, error.size_bytes, error.limit_bytes) == ("content_too_large", TOTAL, TOTAL - 1)
    assert not run.abandoned.keep_partial


def test_a_body_of_unknown_length_ends_where_it_becomes_too_large() -> None:
    """The limit itself still fits; one byte more ends the download, and nothing is kept."""
    run = Run(limits=SMALL)
    run.head(200, ("ETag", STRONG), ("Transfer-Encoding", "chunked"))
    assert run.tell(Landed(TOTAL - 1)) is None
    run.tell(Landed(TOTAL))
    error = run.abandoned.error
    assert isinstance(error, ContentTooLarge)
    assert error.size_bytes is None
    assert not run.abandoned.keep_partial


def test_a_body_of_exactly_the_limit_is_committed() -> None:
    """``max_size_bytes`` is allowed."""
    run = Run(limits=Limits(max_size_bytes=TOTAL))
    run.head(200, *whole())
    assert isinstance(run.tell(Eof(TOTAL)), Commit)


def test_the_last_bytes_can_be_too_many() -> None:
    """The limit is looked at when the body ends as well."""
    run = Run(limits=SMALL)
    run.head(200, ("Transfer-Encoding", "chunked"))
    run.tell(Eof(TOTAL))
    assert isinstance(run.abandoned.error, ContentTooLarge)


def test_a_total_that_a_206_tells_can_be_too_large() -> None:
    """The first answer did not say its length."""
    run = Run(limits=SMALL)
    run.head(200, ("ETag", STRONG), ("Transfer-Encoding", "chunked"))
    run.cut(40)
    run.sleep()
    run.head(206, *part(40, ("ETag", STRONG)))
    assert isinstance(run.abandoned.error, ContentTooLarge)
    assert not run.abandoned.keep_partial


HURRIED = Limits(deadline_s=60.0)


def test_the_deadline_ends_a_body_that_still_runs() -> None:
    """At the deadline it may still land; after it the download ends, and what landed is kept."""
    run = Run(limits=HURRIED)
    run.head(200, *whole(("ETag", STRONG)))
    run.now += 60
    assert run.tell(Landed(40)) is None
    run.now += 0.001
    run.tell(Landed(41))
    error = run.abandoned.error
    assert (error.code, error.detail) == ("origin_deadline", "not done within 60 s")
    assert run.abandoned.keep_partial


def test_a_wait_that_would_pass_the_deadline_is_not_begun() -> None:
    """The error says what went wrong last."""
    run = Run(limits=HURRIED)
    run.head(503, ("Retry-After", "61"))
    error = run.abandoned.error
    assert error.code == "origin_deadline"
    assert error.detail == "not done within 60 s; last: the origin answered 503"


def test_a_wait_that_lasted_past_the_deadline_ends_the_download() -> None:
    """The machine slept, or was busy."""
    run = Run(limits=HURRIED)
    run.cut(0)
    run.now += 100
    run.tell(Woke())
    assert run.abandoned.error.code == "origin_deadline"


# --- patience ------------------------------------------------------------------------------------------------


def test_attempts_without_progress_give_up_after_five_and_about_twenty_seconds() -> None:
    """Four waits that double, 20 s in all; then the error names the last cause and the count."""
    run = Run()
    waits = []
    for _ in range(4):
        run.tell(Failed("origin_unreachable", "connection refused", 0))
        waits.append(run.wait.seconds)
        run.sleep()
    run.tell(Failed("origin_unreachable", "connection refused", 0))
    assert waits == pytest.approx([1.35, 2.7, 5.4, 10.8])
    assert 18 <= run.waited <= 22
    error = run.abandoned.error
    assert (error.code, error.detail) == ("origin_unreachable", "connection refused (tried 5 times)")


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 1.0125), (0.5, 1.35), (0.999, 1.6868)])
def test_jitter_spreads_the_waits(jitter: float, seconds: float) -> None:
    """From 0.75 to 1.25 of the nominal wait."""
    run = Run()
    run.tell(Failed("origin_cut", "cut", 0), jitter=jitter)
    assert run.wait.seconds == pytest.approx(seconds, abs=1e-3)


def test_progress_starts_the_count_anew() -> None:
    """An origin that cuts every answer but always brings something is stayed with, at short waits."""
    run = Run()
    run.head(200, *whole(("ETag", STRONG)))
    for length in range(1, 40):
        run.cut(length)
        assert run.wait.seconds < 0.11
        run.sleep()
        run.head(206, *part(length, ("ETag", STRONG)))
    assert isinstance(run.tell(Eof(TOTAL)), Commit)
    assert run.state.attempts == 40


def test_failures_after_progress_are_counted_from_one_again() -> None:
    """Four failures, then progress, then four failures and no giving up; the fifth ends it."""
    run = Run()
    for _ in range(4):
        run.cut(0)
        run.sleep()
    run.head(200, *whole(("ETag", STRONG)))
    run.cut(40)
    run.sleep()
    for _ in range(4):
        run.cut(40)
        run.sleep()
    run.cut(40)
    assert run.abandoned.error.detail.endswith("(tried 10 times)")
    assert run.abandoned.keep_partial


def test_bytes_that_were_there_before_are_no_progress() -> None:
    """An origin that ignores Range and cuts at the same place is not stayed with for ever."""
    run = Run()
    run.head(200, *whole(("ETag", STRONG)))
    run.cut(40)
    for _ in range(4):
        run.sleep()
        run.head(200, *whole(("ETag", STRONG)))
        run.cut(40)
    run.sleep()
    run.head(200, *whole(("ETag", STRONG)))
    run.cut(40)
    assert run.abandoned.error.code == "origin_cut"
    assert run.state.attempts == 6


def test_continuing_a_new_generation_is_progress_below_the_high_water_too() -> None:
    """The representation changed late: the new one is stayed with although less of it is there so far."""
    run = Run()
    run.head(200, *whole(("ETag", STRONG)))
    run.cut(90)
    run.sleep()
    run.head(200, *whole(("ETag", '"v2"')))
    run.cut(1)
    for length in range(1, 20):
        run.sleep()
        run.head(206, *part(length, ("ETag", '"v2"')))
        run.cut(length + 1)
    run.sleep()
    run.head(206, *part(20, ("ETag", '"v2"')))
    assert isinstance(run.tell(Eof(TOTAL)), Commit)


def test_a_representation_that_changes_again_and_again_is_given_up() -> None:
    """Each new one is continued once and then replaced: without a new high water that ends."""
    run = Run()
    run.head(200, *whole(("ETag", STRONG)))
    run.cut(50)
    for number in range(100):
        run.sleep()
        etag = ("ETag", f'"{number}"')
        run.head(200, *whole(etag))
        run.cut(20)
        if isinstance(run.actions[0], Abandon):
            break
        run.sleep()
        run.head(206, *part(20, etag))
        run.cut(30)
    assert run.abandoned.error.code == "origin_cut"
    assert number < 25


def test_what_an_earlier_process_brought_is_no_progress() -> None:
    """A resumed download that brings nothing new gives up like any other."""
    run = Run(prefix=Representation(etag=STRONG, total=TOTAL), length=40)
    for _ in range(4):
        run.cut(40)
        run.sleep()
    run.cut(40)
    assert run.abandoned.error.code == "origin_cut"
    assert run.abandoned.keep_partial


def test_a_permanent_failure_of_the_transport_is_not_tried_again() -> None:
    """What the gate refuses stays refused."""
    run = Run()
    run.tell(Failed("origin_refused", "a private address", 0, permanent=True))
    error = run.abandoned.error
    assert (error.code, error.retryable) == ("origin_refused", False)


def test_what_landed_without_a_validator_is_not_kept() -> None:
    """It could never be resumed."""
    run = Run(limits=Limits(retry=RetryPolicy(max_attempts=1)))
    run.head(200, *whole())
    run.cut(40)  # progress: one more attempt
    run.sleep()
    run.head(200, *whole())
    run.cut(40)
    assert not run.abandoned.keep_partial

    run = Run(limits=HURRIED)
    run.head(200, *whole(("ETag", WEAK)))
    run.now += 61
    run.tell(Landed(40))
    assert not run.abandoned.keep_partial


# --- a page where data was before (DESIGN.md section 7) -------------------------------------------------------

PAGES = [
    # media type before, now, whether it is refused
    ("text/csv", "text/html; charset=utf-8", True),
    ("application/zip", "application/xhtml+xml", True),
    ("application/octet-stream; x=1", "TEXT/HTML", True),
    ("text/html", "text/html", False),
    ("application/xhtml+xml", "text/html; charset=utf-8", False),
    ("text/csv", "application/json", False),
    ("text/csv", None, False),
    (None, "text/html", False),
    ("not a type", "text/html", False),
]


@pytest.mark.parametrize(("before", "now", "refused"), PAGES)
def test_a_page_where_data_was_before_is_not_taken(before: str | None, now: str | None, refused: bool) -> None:
    """A captive portal or a login page never replaces data; it may pass, so it is tried again."""
    run = Run(previous_media_type=before)
    run.head(200, length_of(TOTAL), *([] if now is None else [("Content-Type", now)]))
    if not refused:
        assert isinstance(run.actions[0], Write)
        return
    for _ in range(4):
        run.sleep()
        run.head(200, ("Content-Type", str(now)))
    error = run.abandoned.error
    assert error.code == "origin_answered_html"
    assert "forebay rm" in str(error)


# --- bytes that are whole but wrong ---------------------------------------------------------------------------

MISMATCH = Mismatched(HashMismatch(URL, algorithm="sha256", expected="aa", got="bb"))


def test_a_mismatch_of_one_piece_ends_the_download() -> None:
    """The origin has other bytes: they are dropped, and the error gives both hashes."""
    run = Run()
    run.head(200, *whole(("ETag", STRONG)))
    run.tell(Eof(TOTAL))
    run.tell(MISMATCH)
    assert run.abandoned.error is MISMATCH.error
    assert not run.abandoned.keep_partial


def test_a_mismatch_after_a_resume_starts_over_once() -> None:
    """It was put together from pieces: the whole is asked for once more, as a new generation."""
    run = cut_after(40, ("ETag", STRONG))
    run.head(206, *part(40, ("ETag", STRONG)))
    run.tell(Eof(TOTAL))
    run.tell(MISMATCH)
    assert run.sent == Send("GET", URL, (), None)
    write = run.head(200, *whole(("ETag", STRONG)))
    assert isinstance(write, Write)
    assert (write.offset, write.generation) == (0, 2)
    run.tell(Eof(TOTAL))
    run.tell(MISMATCH)
    assert run.abandoned.error is MISMATCH.error


def test_a_second_mismatch_ends_the_download_even_when_it_was_resumed_again() -> None:
    """An origin that cuts every answer and has other bytes is not downloaded for ever."""
    run = cut_after(40, ("ETag", STRONG))
    run.head(206, *part(40, ("ETag", STRONG)))
    run.tell(Eof(TOTAL))
    run.tell(MISMATCH)
    run.head(200, *whole(("ETag", STRONG)))
    run.cut(50)
    run.sleep()
    run.head(206, *part(50, ("ETag", STRONG)))
    run.tell(Eof(TOTAL))
    run.tell(MISMATCH)
    assert run.abandoned.error is MISMATCH.error
    assert not run.abandoned.keep_partial


def test_a_mismatch_of_what_came_whole_after_a_resume_failed_ends_the_download() -> None:
    """The last answer was one piece; an earlier, dropped generation does not make it a patchwork."""
    run = cut_after(40, ("ETag", STRONG))
    run.head(206, *part(40, ("ETag", STRONG)))
    run.cut(60)
    run.sleep()
    run.head(200, *whole(("ETag", '"v2"')))
    run.tell(Eof(TOTAL))
    run.tell(MISMATCH)
    assert run.abandoned.error is MISMATCH.error


@pytest.mark.parametrize("status", [307, 308])
def test_a_body_is_not_taken_to_another_origin(status: int) -> None:
    """It may be a credential; within the origin it is sent again (RFC 9110 section 15.4.8)."""
    ask = Ask("POST", URL, body=b"user=me&password=s3cret")
    run = Run(ask)
    run.head(status, ("Location", "/other"))
    assert run.sent.body == ask.body
    run.head(status, ("Location", "https://elsewhere.example/"))
    assert run.abandoned.error.code == "origin_redirects"
    assert "s3cret" not in str(run.abandoned.error)
