"""What a bad origin makes of a fetch: each lie and each bad day with its named outcome.

Longer than our guide size: one place for all that DESIGN.md section 7 and the stubborn download promise.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from forebay import RequestSpec, Response
from forebay.bay import Forebay
from forebay.errors import (
    ContentTooLarge,
    ForebayError,
    HashMismatch,
    InvalidUrl,
    InvalidValue,
    OriginError,
    OriginRefused,
)
from forebay.reports import Fetched
from origin import (
    Behaviour,
    Busy,
    ChangeValidator,
    Chunked,
    CloseDelimited,
    Coded,
    CutEvery,
    Exchange,
    FailFirst,
    Garbage,
    HugeHead,
    IgnoreRange,
    Interim,
    LengthAndChunks,
    LengthLie,
    Origin,
    Redirect,
    RedirectLoop,
    Resource,
    Seen,
    Sequence,
    Stall,
    Status,
    TwoLengths,
    WrongRange,
    blob,
)

MakeBay = Callable[..., Forebay]
BODY = blob(1_000_000)
SMALL = blob(5000, seed=1)
MODIFIED = "Mon, 06 Jul 2026 08:00:00 GMT"
ATTEMPTS = 5  # in a row without progress, by default


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def one(bay: Forebay, url: str | RequestSpec, **options: Any) -> Fetched:
    """What comes of *url*, failures as values."""
    (fetched,) = bay.fetch_many([url], **options)
    return fetched


def content(bay: Forebay, response: Response) -> bytes:
    with bay.open(response) as file:
        return file.read()


def check_ready(bay: Forebay, response: Response, body: bytes) -> None:
    """*response* is ready, has *body* and is the latest of its Request."""
    attributes = response.content_attributes
    assert response.status == "ready"
    assert content(bay, response) == body
    assert (attributes.content_size_bytes, attributes.sha256) == (len(body), sha256(body))
    assert response.content_hash_hex == sha256(body)
    assert response.download_stats.state == "finished"
    latest = bay.latest(response.request_id)
    assert latest is not None
    assert latest.version == response.version


def check_fails(bay: Forebay, url: str | RequestSpec, code: str, **options: Any) -> ForebayError:
    """*url* fails with *code*; its version says the same and nothing is latest. Returns the error."""
    fetched = one(bay, url, **options)
    assert (fetched.how, fetched.response) == ("failed", None)
    assert isinstance(fetched.error, ForebayError)
    assert fetched.error.code == code
    name = url if isinstance(url, str) else url.url
    failed = bay.versions(name)[0]
    assert (failed.status, failed.download_stats.state) == ("failed", "failed")
    assert (failed.download_stats.error_code, failed.download_stats.error) == (code, str(fetched.error))
    assert "Traceback" not in str(fetched.error)
    assert failed.content_attributes.sha256 is None
    assert bay.latest(name) is None
    assert bay.usage().contents == 0
    return fetched.error


def asked(origin: Origin, path: str = "/f") -> list[tuple[str | None, str | None]]:
    """Range and If-Range of each request, in order."""
    return [(seen.fields.get("range"), seen.fields.get("if-range")) for seen in origin.requests(path)]


WHOLE = (None, None)


@pytest.fixture
def events() -> Iterator[threading.Event]:
    """Never set during the test; set afterwards so that nobody stalls."""
    event = threading.Event()
    yield event
    event.set()


# --- cuts and resumption --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_cut_every_200_kib(bay: Forebay, origin: Origin, how: Any) -> None:
    """An origin that cuts every 200 KiB: each next attempt asks for the rest, no byte comes twice."""
    piece = 200 * 1024
    resource = Resource(BODY)
    origin.serve("/f", CutEvery(resource, piece, how))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, BODY)
    assert asked(origin) == [WHOLE, *((f"bytes={piece * n}-", '"v1"') for n in range(1, 5))]
    assert resource.bytes_sent == len(BODY)
    stats = response.download_stats
    assert (stats.downloaded_bytes, stats.attempts, stats.resumed_bytes) == (len(BODY), 5, 4 * piece)


def test_more_cuts_than_attempts_are_allowed(make_bay: MakeBay, origin: Origin) -> None:
    """Progress starts the count of attempts anew: two in a row are allowed, ten cuts are survived."""
    bay = make_bay(max_attempts=2)
    origin.serve("/f", CutEvery(Resource(BODY), 100_000))
    check_ready(bay, bay.fetch(origin.url("/f")), BODY)
    assert len(origin.requests("/f")) == 10


def test_resume_by_last_modified(bay: Forebay, origin: Origin) -> None:
    """Without a strong ETag the date guards the resumption."""
    origin.serve("/f", CutEvery(Resource(BODY, etag='W/"weak"', last_modified=MODIFIED), 600_000))
    check_ready(bay, bay.fetch(origin.url("/f")), BODY)
    assert asked(origin) == [WHOLE, ("bytes=600000-", MODIFIED)]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_no_strong_validator_no_range(bay: Forebay, origin: Origin, etag: str | None) -> None:
    """Without a strong validator nothing can prove a continuation, so a cut download begins again."""
    origin.serve("/f", IgnoreRange(Resource(BODY, etag=etag), cut_first=300_000))
    check_ready(bay, bay.fetch(origin.url("/f")), BODY)
    assert asked(origin) == [WHOLE, WHOLE]


def test_origin_ignores_range(bay: Forebay, origin: Origin) -> None:
    """A 200 to a range request restarts from the first byte."""
    origin.serve("/f", IgnoreRange(Resource(BODY), cut_first=300_000))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, BODY)
    assert asked(origin) == [WHOLE, ("bytes=300000-", '"v1"')]
    assert response.download_stats.resumed_bytes == 0
    assert response.download_stats.downloaded_bytes == 300_000 + len(BODY)


def test_416_restarts(bay: Forebay, origin: Origin) -> None:
    """A 416 to a resumption means that the prefix was not this representation's: begin again."""
    resource = Resource(BODY)
    refusal = Status(416, fields=[("Content-Range", "bytes */10")])
    origin.serve("/f", Sequence(CutEvery(resource, 300_000), refusal, resource))
    check_ready(bay, bay.fetch(origin.url("/f")), BODY)
    assert asked(origin) == [WHOLE, ("bytes=300000-", '"v1"'), WHOLE]


def test_etag_changes_and_if_range_is_honoured(bay: Forebay, origin: Origin) -> None:
    """The representation changes during the download: the new one comes whole, nothing is mixed."""
    other = blob(900_000, seed=2)
    origin.serve("/f", ChangeValidator([(BODY, '"1"'), (other, '"2"')], cut_at=300_000))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, other)
    assert response.content_attributes.etag == '"2"'
    assert asked(origin) == [WHOLE, ("bytes=300000-", '"1"')]


@pytest.mark.parametrize("size", [900_000, len(BODY)])
def test_etag_changes_and_if_range_is_ignored(bay: Forebay, origin: Origin, size: int) -> None:
    """A 206 out of another representation is never appended, also when the total is the same."""
    other = blob(size, seed=2)
    origin.serve("/f", ChangeValidator([(BODY, '"1"'), (other, '"2"')], cut_at=300_000, honour_if_range=False))
    check_ready(bay, bay.fetch(origin.url("/f")), other)
    assert asked(origin) == [WHOLE, ("bytes=300000-", '"1"'), WHOLE]


def test_etag_changes_again_and_again(make_bay: MakeBay, origin: Origin) -> None:
    """An origin that never gives one representation to its end: failed, `origin_changed`."""
    bay = make_bay()
    bodies = [(blob(len(BODY), seed=n), f'"{n}"') for n in range(30)]
    origin.serve("/f", ChangeValidator(bodies, cut_at=300_000, honour_if_range=False))
    error = check_fails(bay, origin.url("/f"), "origin_changed")
    assert "ETag" in str(error)
    assert bay.usage().partial_bytes == 0


# --- lengths --------------------------------------------------------------------------------------------


def test_body_too_short(bay: Forebay, origin: Origin) -> None:
    """Fewer bytes than announced, each time: failed after five attempts without progress."""
    origin.serve("/f", LengthLie(SMALL, len(SMALL) + 100))
    check_fails(bay, origin.url("/f"), "origin_cut")
    assert len(origin.requests("/f")) == 1 + ATTEMPTS  # the first one made progress


def test_body_too_short_once(bay: Forebay, origin: Origin) -> None:
    """A short body is a failure of its attempt, never content."""
    origin.serve("/f", Sequence(LengthLie(SMALL[:4000], len(SMALL), etag='"v1"'), Resource(SMALL)))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)
    assert asked(origin) == [WHOLE, ("bytes=4000-", '"v1"')]


def test_body_too_long(bay: Forebay, origin: Origin) -> None:
    """Bytes beyond Content-Length are no content (RFC 9112 section 6.3)."""
    origin.serve("/f", LengthLie(SMALL, 4000))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL[:4000])
    assert len(origin.requests("/f")) == 1


def test_surplus_bytes_are_not_the_next_answer(bay: Forebay, origin: Origin) -> None:
    """Surplus that looks like an answer poisons no later exchange of that host."""
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    for n in range(10):  # how many bytes one read finds is chance
        origin.serve(f"/{n}", LengthLie(SMALL + forged, len(SMALL), keep=True))
        origin.serve(f"/{n}/next", Resource(BODY))
        check_ready(bay, bay.fetch(origin.url(f"/{n}")), SMALL)
        check_ready(bay, bay.fetch(origin.url(f"/{n}/next")), BODY)


def test_two_lengths(bay: Forebay, origin: Origin) -> None:
    """Two different lengths: nobody can tell where the body ends (RFC 9112 section 6.3)."""
    origin.serve("/f", TwoLengths(SMALL, len(SMALL), len(SMALL) - 1))
    check_fails(bay, origin.url("/f"), "origin_ambiguous")
    assert len(origin.requests("/f")) == ATTEMPTS


def test_two_equal_lengths(bay: Forebay, origin: Origin) -> None:
    """The same length twice is one length (RFC 9110 section 8.6)."""
    origin.serve("/f", TwoLengths(SMALL, len(SMALL), len(SMALL)))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)


@pytest.mark.parametrize("declared", [10, len(SMALL)])
def test_length_and_chunks(bay: Forebay, origin: Origin, declared: int) -> None:
    """A length beside chunks may be an attempt at smuggling: not taken, right or not."""
    origin.serve("/f", LengthAndChunks(SMALL, declared))
    check_fails(bay, origin.url("/f"), "origin_ambiguous")
    assert len(origin.requests("/f")) == ATTEMPTS


@pytest.mark.parametrize("value", ["abc", "-5", "1e3", "99999999999999999999999"])
def test_length_that_is_no_length(bay: Forebay, origin: Origin, value: str) -> None:
    """A Content-Length that is no number fails; nothing is stored."""

    def serve(exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", value)])
        exchange.send(SMALL)
        exchange.close()

    origin.serve("/f", serve)
    check_fails(bay, origin.url("/f"), "origin_ambiguous")


# --- busy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_busy_without_retry_after(bay: Forebay, origin: Origin, status: int) -> None:
    """Without a Retry-After the usual back-off holds."""
    origin.serve("/f", Busy(Resource(SMALL), 3, status))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, SMALL)
    assert response.download_stats.attempts == len(origin.requests("/f")) == 4


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("value", ["", "soon", "-1", "0"])
def test_busy_with_a_useless_retry_after(bay: Forebay, origin: Origin, status: int, value: str) -> None:
    """A Retry-After that says nothing is as none."""
    origin.serve("/f", Busy(Resource(SMALL), 1, status, value))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)
    assert len(origin.requests("/f")) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_busy_with_retry_after_in_seconds(make_bay: MakeBay, origin: Origin, status: int) -> None:
    """Retry-After replaces the back-off, which would be past the deadline here."""
    bay = make_bay(backoff_base_s=500, backoff_max_s=500, deadline_s=200)
    origin.serve("/f", Busy(Resource(SMALL), 1, status, "1"))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)
    assert len(origin.requests("/f")) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_busy_with_retry_after_as_a_date(make_bay: MakeBay, origin: Origin, status: int) -> None:
    """A date counts from the origin's own Date: its clock may be years behind."""
    bay = make_bay(backoff_base_s=500, backoff_max_s=500, deadline_s=200)
    long_ago = datetime(2001, 5, 5, 12, 0, tzinfo=UTC)
    origin.serve("/f", Busy(Resource(SMALL), 1, status, "date", delay_s=1, clock=lambda: long_ago))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)
    assert len(origin.requests("/f")) == 2


def test_retry_after_is_waited_for(make_bay: MakeBay, origin: Origin) -> None:
    """A wait that ends after the deadline is not begun."""
    bay = make_bay(deadline_s=30)
    origin.serve("/f", Busy(Resource(SMALL), 1, 503, "200"))
    error = check_fails(bay, origin.url("/f"), "origin_deadline")
    assert "503" in str(error)
    assert len(origin.requests("/f")) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("value", ["301", "date"])
def test_retry_after_too_long(bay: Forebay, origin: Origin, status: int, value: str) -> None:
    """More patience than we have ends the fetch at once, and the error says how much was asked."""
    origin.serve("/f", Busy(Resource(SMALL), 1, status, value, delay_s=301))
    error = check_fails(bay, origin.url("/f"), "origin_busy")
    assert "301 s" in str(error)
    assert "300 s" in str(error)
    assert len(origin.requests("/f")) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_busy_for_ever(bay: Forebay, origin: Origin, status: int) -> None:
    """Busy each time: failed, `origin_busy`, after five attempts."""
    origin.serve("/f", Status(status, b"busy"))
    check_fails(bay, origin.url("/f"), "origin_busy")
    assert len(origin.requests("/f")) == ATTEMPTS


# --- stalls and time ------------------------------------------------------------------------------------


def test_stall_before_the_head(make_bay: MakeBay, origin: Origin, events: threading.Event) -> None:
    """An origin that accepts and says nothing: the attempt ends with the stall window, the next one works."""
    bay = make_bay(stall_window_s=1)
    origin.serve("/f", Stall(Resource(SMALL), None, events, times=1))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)
    assert asked(origin) == [WHOLE, WHOLE]


def test_stall_in_the_middle(make_bay: MakeBay, origin: Origin, events: threading.Event) -> None:
    """A body that stands still is resumed where it stood."""
    bay = make_bay(stall_window_s=1)
    origin.serve("/f", Stall(Resource(BODY), 100_000, events, times=1))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, BODY)
    assert asked(origin) == [WHOLE, ("bytes=100000-", '"v1"')]
    assert response.download_stats.resumed_bytes == 100_000


def test_stall_for_ever(make_bay: MakeBay, origin: Origin, events: threading.Event) -> None:
    """Standing still each time: failed, `origin_stalled`."""
    bay = make_bay(stall_window_s=1, max_attempts=2)
    origin.serve("/f", Stall(Resource(BODY), None, events))
    error = check_fails(bay, origin.url("/f"), "origin_stalled")
    assert isinstance(error, OriginError)
    assert error.status == 504
    assert len(origin.requests("/f")) == 2


def test_deadline(make_bay: MakeBay, origin: Origin, events: threading.Event) -> None:
    """The deadline ends a download in its middle; what landed serves the next one."""
    bay = make_bay(deadline_s=1)
    origin.serve("/f", Stall(Resource(BODY), 100_000, events, times=1))
    error = check_fails(bay, origin.url("/f"), "origin_deadline")
    assert "1 s" in str(error)
    assert bay.usage().partial_bytes == 100_000
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, BODY)
    assert asked(origin) == [WHOLE, ("bytes=100000-", '"v1"')]
    assert response.download_stats.resumed_bytes == 100_000


def test_deadline_before_the_head(make_bay: MakeBay, origin: Origin, events: threading.Event) -> None:
    """The deadline also holds while nothing has come."""
    bay = make_bay(deadline_s=0.5)
    origin.serve("/f", Stall(Resource(BODY), None, events))
    check_fails(bay, origin.url("/f"), "origin_deadline")
    assert len(origin.requests("/f")) == 1


# --- redirects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_followed(bay: Forebay, origin: Origin, status: int) -> None:
    """A redirect leads to the content; the version says where it came from."""
    origin.serve("/f", Redirect("/g?x=1", status))
    origin.serve("/g", Resource(SMALL))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, SMALL)
    assert response.download_stats.final_url == origin.url("/g?x=1")
    assert response.url == origin.url("/f")


@pytest.mark.parametrize("grow", [False, True])
def test_redirect_loop(make_bay: MakeBay, origin: Origin, grow: bool) -> None:
    """A loop ends with the limit of redirects and is not tried again."""
    bay = make_bay(max_redirects=4)
    origin.serve("/f", RedirectLoop(grow=grow))
    check_fails(bay, origin.url("/f"), "origin_redirects")
    assert len(origin.requests("/f")) == 5


def chain(origin: Origin, hops: int) -> None:
    """*hops* redirects from /f to the content."""
    origin.serve("/f", Redirect("/hop/1"))
    for n in range(1, hops):
        origin.serve(f"/hop/{n}", Redirect(f"/hop/{n + 1}"))
    origin.serve(f"/hop/{hops}", Resource(SMALL))


def test_as_many_redirects_as_allowed(bay: Forebay, origin: Origin) -> None:
    """Ten redirects are followed."""
    chain(origin, 10)
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)


def test_one_redirect_too_many(bay: Forebay, origin: Origin) -> None:
    """The eleventh is not."""
    chain(origin, 11)
    check_fails(bay, origin.url("/f"), "origin_redirects")
    assert len(origin.requests("/hop/11")) == 0


def test_redirect_without_location(bay: Forebay, origin: Origin) -> None:
    """A redirect that leads nowhere fails at once."""
    origin.serve("/f", Status(302, b"somewhere"))
    check_fails(bay, origin.url("/f"), "origin_redirects")
    assert len(origin.requests("/f")) == 1


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/f",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "javascript:alert(1)",
        "http://",
        "http://a b/",
    ],
)
def test_redirect_to_what_is_not_fetched(bay: Forebay, origin: Origin, location: str) -> None:
    """Only http and https are followed."""
    origin.serve("/f", Redirect(location))
    check_fails(bay, origin.url("/f"), "origin_redirects")
    assert len(origin.requests()) == 1


def test_address_refused(make_bay: MakeBay, origin: Origin) -> None:
    """A refused address is not dialled, and the error names the setting that would allow it."""
    bay = make_bay(allow_private=False)
    origin.serve("/f", Resource(SMALL))
    error = check_fails(bay, origin.url("/f"), "origin_refused")
    assert isinstance(error, OriginRefused)
    assert error.address == "127.0.0.1"
    assert "--allow-network" in str(error)
    assert origin.connections == 0


@pytest.mark.parametrize("spelling", ["127.0.0.2", "2130706434", "0x7f000002", "127.2", "[::ffff:127.0.0.2]"])
def test_redirect_to_a_refused_address(make_bay: MakeBay, origin: Origin, spelling: str) -> None:
    """Each hop passes the gate, however its address is spelled."""
    bay = make_bay(allow_private=False, allow_networks=("127.0.0.1/32",))
    with Origin("127.0.0.2") as inner:
        inner.serve("/secret", Resource(SMALL))
        origin.serve("/f", Redirect(f"http://{spelling}:{inner.port}/secret"))
        error = check_fails(bay, origin.url("/f"), "origin_refused")
        assert isinstance(error, OriginRefused)
        assert "127.0.0.2" in error.address
        assert inner.connections == 0
    assert len(origin.requests("/f")) == 1


def test_redirect_to_refused_ipv6(make_bay: MakeBay, origin: Origin) -> None:
    """The gate knows IPv6 loopback too."""
    try:
        inner = Origin("::1")
        inner.start()
    except OSError as error:
        pytest.skip(f"no IPv6 loopback on this machine: {error}")
    with closing(inner):
        bay = make_bay(allow_private=False, allow_networks=("127.0.0.1/32",))
        origin.serve("/f", Redirect(inner.url("/secret")))
        check_fails(bay, origin.url("/f"), "origin_refused")
        assert inner.connections == 0


def test_redirect_to_metadata(bay: Forebay, origin: Origin) -> None:
    """A cloud metadata address is refused even where private networks are allowed."""
    origin.serve("/f", Redirect("http://169.254.169.254/latest/meta-data/"))
    error = check_fails(bay, origin.url("/f"), "origin_refused")
    assert "never" in str(error)


CREDENTIALS = {
    "Authorization": "Bearer s3cr3t-bearer",
    "Cookie": "sid=s3cr3t-cookie",
    "X-Api-Key": "s3cr3t-key",
    "Accept-Language": "de",
}


def test_credentials_stay_within_one_origin(bay: Forebay, origin: Origin) -> None:
    """A redirect within the origin keeps the registered fields."""
    origin.serve("/f", Redirect("/g"))
    origin.serve("/g", Resource(SMALL))
    bay.fetch(RequestSpec(url=origin.url("/f"), http_header_fields=CREDENTIALS))
    for seen in origin.requests():
        assert {name: seen.fields.get(name) for name in CREDENTIALS} == CREDENTIALS


def test_credentials_are_dropped_across_origins(bay: Forebay, origin: Origin) -> None:
    """Another port is another origin; what was dropped stays dropped on the way back."""
    with Origin() as stranger:
        origin.serve("/f", Redirect(stranger.url("/g")))
        stranger.serve("/g", Redirect(origin.url("/h")))
        origin.serve("/h", Resource(SMALL))
        response = bay.fetch(RequestSpec(url=origin.url("/f"), http_header_fields=CREDENTIALS))
        check_ready(bay, response, SMALL)
        first, last = origin.requests()
        assert first.fields["authorization"] == CREDENTIALS["Authorization"]
        for seen in (*stranger.requests(), last):
            assert not {"authorization", "cookie", "x-api-key"} & set(seen.fields)
            assert seen.fields["accept-language"] == "de"


def test_each_attempt_begins_at_the_registered_url(bay: Forebay, origin: Origin) -> None:
    """A resumption asks the first URL again: the redirect may lead elsewhere by now."""
    origin.serve("/f", Sequence(Redirect("/a"), Redirect("/b")))
    origin.serve("/a", CutEvery(Resource(BODY), 300_000))
    origin.serve("/b", Resource(BODY))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, BODY)
    assert [seen.path for seen in origin.requests()] == ["/f", "/a", "/f", "/b"]
    assert asked(origin, "/b") == [("bytes=300000-", '"v1"')]


# --- heads and framing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_although_asked_not_to(bay: Forebay, origin: Origin, coding: Any) -> None:
    """Stored as sent, with its coding; the digest is that of the coded bytes."""
    coded = Coded(SMALL, coding)
    origin.serve("/f", coded)
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, coded.coded)
    assert response.content_attributes.content_encoding == coding
    assert origin.requests("/f")[0].fields["accept-encoding"] == "identity"


def test_compressed_and_cut(bay: Forebay, origin: Origin) -> None:
    """Coded bytes are resumed as coded bytes."""
    coded = Coded(BODY)
    origin.serve("/f", CutEvery(coded, 600_000))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, coded.coded)
    assert gzip.decompress(content(bay, response)) == BODY


@pytest.mark.parametrize("line", [4000, 200_000])
def test_200_kb_of_header_fields(bay: Forebay, origin: Origin, line: int) -> None:
    """Too many header bytes, in many lines or one, end the fetch at once."""
    origin.serve("/f", HugeHead(200_000, line, then=Resource(SMALL)))
    check_fails(bay, origin.url("/f"), "origin_header_too_large")
    assert len(origin.requests("/f")) == 1


def test_60_kb_of_header_fields(bay: Forebay, origin: Origin) -> None:
    """A head within the limit is taken."""
    origin.serve("/f", HugeHead(60_000, then=Resource(SMALL)))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)


@pytest.mark.parametrize("codes", [(100,), (103,), (100, 103), (103, 103, 103)])
def test_interim_responses_first(bay: Forebay, origin: Origin, codes: tuple[int, ...]) -> None:
    """Interim responses are not the answer, and their fields are not its fields."""
    origin.serve("/f", Interim(Resource(SMALL), codes))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, SMALL)
    assert response.download_stats.http_status == 200
    assert len(origin.requests("/f")) == 1


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_close_delimited(bay: Forebay, origin: Origin, version: str) -> None:
    """A body that only the end of the connection ends is taken whole."""
    origin.serve("/f", CloseDelimited(BODY, version))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, BODY)
    assert response.download_stats.total_bytes_to_download == len(BODY)


def test_close_delimited_and_reset(bay: Forebay, origin: Origin) -> None:
    """A reset is no end: the attempt fails."""
    cut = CloseDelimited(BODY, cut_after=300_000, how="rst")
    origin.serve("/f", Sequence(cut, CloseDelimited(BODY)))
    check_ready(bay, bay.fetch(origin.url("/f")), BODY)
    assert asked(origin) == [WHOLE, WHOLE]


def test_chunked(bay: Forebay, origin: Origin) -> None:
    """Chunks of any size and a trailer make the body."""
    origin.serve("/f", Chunked(BODY, (1, 70_000, 3), trailer=[("X-Checksum", "1")]))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, BODY)
    assert len(origin.requests("/f")) == 1


def test_chunked_cut_is_resumed(bay: Forebay, origin: Origin) -> None:
    """Chunks that break off are resumed, though the length was not known before."""
    cut = Chunked(BODY, cut_after=300_000, fields=[("ETag", '"v1"')])
    origin.serve("/f", Sequence(cut, Resource(BODY)))
    check_ready(bay, bay.fetch(origin.url("/f")), BODY)
    assert asked(origin) == [WHOLE, ("bytes=300000-", '"v1"')]


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_chunked_cut_for_ever(bay: Forebay, origin: Origin, how: Any) -> None:
    """Without its last chunk a body is not whole: failed, `origin_cut`."""
    origin.serve("/f", Chunked(SMALL, cut_after=len(SMALL), how=how))
    check_fails(bay, origin.url("/f"), "origin_cut")
    assert len(origin.requests("/f")) == 1 + ATTEMPTS


def test_bad_chunk(bay: Forebay, origin: Origin) -> None:
    """A chunk size that is no number breaks the attempt; what came before is no content."""
    origin.serve("/f", Chunked(BODY, bad_chunk=True))
    fetched = one(bay, origin.url("/f"))
    assert fetched.error is not None
    assert fetched.error.code in ("origin_cut", "origin_protocol")
    assert bay.latest(origin.url("/f")) is None
    assert len(origin.requests("/f")) == 1 + ATTEMPTS


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", "origin_protocol"),
        (b"<html>hello</html>", "origin_protocol"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "origin_protocol"),
        (b"", "origin_cut"),
    ],
)
def test_no_http(bay: Forebay, origin: Origin, wire: bytes, code: str) -> None:
    """What is not HTTP is never content."""
    origin.serve("/f", Garbage(wire))
    check_fails(bay, origin.url("/f"), code)
    assert len(origin.requests("/f")) == ATTEMPTS


HALF_HEADS = (
    b"HTTP/1.1 200 OK\r\nContent-Le",
    b'HTTP/1.1 200 OK\r\nETag: "v1"\r\n',
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTT",
)


@pytest.mark.parametrize("wire", HALF_HEADS)
def test_head_cut_in_the_middle(bay: Forebay, origin: Origin, wire: bytes) -> None:
    """A head without its end is no answer: the attempt fails, the next one works."""
    origin.serve("/f", Sequence(Garbage(wire), Resource(SMALL)))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)
    assert len(origin.requests("/f")) == 2


@pytest.mark.parametrize("wire", HALF_HEADS)
def test_head_cut_in_the_middle_for_ever(bay: Forebay, origin: Origin, wire: bytes) -> None:
    """Half a head each time: failed after five attempts."""
    origin.serve("/f", Garbage(wire))
    check_fails(bay, origin.url("/f"), "origin_cut")
    assert len(origin.requests("/f")) == ATTEMPTS


@pytest.mark.parametrize("wire", HALF_HEADS)
def test_head_of_a_resumption_cut_in_the_middle(bay: Forebay, origin: Origin, wire: bytes) -> None:
    """Half a head after a prefix of unknown length does not make the prefix whole."""
    cut = Chunked(BODY, cut_after=300_000, fields=[("ETag", '"v1"')])
    origin.serve("/f", Sequence(cut, Garbage(wire), Resource(BODY)))
    check_ready(bay, bay.fetch(origin.url("/f")), BODY)
    assert asked(origin) == [WHOLE, ("bytes=300000-", '"v1"'), ("bytes=300000-", '"v1"')]


@pytest.mark.parametrize("field", ["X: a\x00b", "no colon at all", ": no name", "Bad Name: x", " folded: x"])
def test_a_broken_field(bay: Forebay, origin: Origin, field: str) -> None:
    """A line that is no field spoils the answer or is left out; it never ends up in what is kept."""

    def broken(exchange: Exchange) -> None:
        wire = f'HTTP/1.1 200 OK\r\nETag: "v1"\r\n{field}\r\nContent-Length: {len(SMALL)}\r\n\r\n'
        exchange.send(wire.encode("latin-1") + SMALL)
        exchange.close()

    origin.serve("/f", broken)
    fetched = one(bay, origin.url("/f"))
    if fetched.error is not None:
        assert isinstance(fetched.error, ForebayError)
        assert fetched.error.code == "origin_protocol"
    else:
        assert fetched.response is not None
        check_ready(bay, fetched.response, SMALL)
        assert (fetched.response.content_attributes.etag or "").startswith('"v1"')


def test_protocol_switch_that_nobody_asked_for(bay: Forebay, origin: Origin) -> None:
    """A 101 is no content."""
    origin.serve(
        "/f", Garbage(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nhello")
    )
    fetched = one(bay, origin.url("/f"))
    assert fetched.how == "failed"
    assert bay.usage().contents == 0


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_broken_connections_first(bay: Forebay, origin: Origin, how: Any) -> None:
    """Four connections that break without a byte are survived, a fifth is not."""
    origin.serve("/f", FailFirst(Resource(SMALL), 4, how))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)
    assert len(origin.requests("/f")) == 5


# --- statuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451, 501, 505])
def test_statuses_that_stay(bay: Forebay, origin: Origin, status: int) -> None:
    """These are not tried again: failed, `origin_status`."""
    origin.serve("/f", Status(status, b"no\n"))
    error = check_fails(bay, origin.url("/f"), "origin_status")
    assert str(status) in str(error)
    assert len(origin.requests("/f")) == 1


@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_statuses_that_may_pass(bay: Forebay, origin: Origin, status: int) -> None:
    """These are tried again, five times."""
    origin.serve("/f", FailFirst(Resource(SMALL), 4, status))
    check_ready(bay, bay.fetch(origin.url("/f")), SMALL)
    origin.serve("/never", Status(status))
    fetched = one(bay, origin.url("/never"))
    assert fetched.error is not None
    assert fetched.error.code == "origin_status"
    assert len(origin.requests("/never")) == ATTEMPTS


def test_error_page_of_any_size(bay: Forebay, origin: Origin) -> None:
    """A large page behind a 404 is not read to its end, and not stored."""
    page = Status(404, b"x" * 5_000_000)
    origin.serve("/f", page)
    check_fails(bay, origin.url("/f"), "origin_status")
    origin.serve("/g", Resource(SMALL))
    check_ready(bay, bay.fetch(origin.url("/g")), SMALL)


def test_gone_keeps_the_last_good_version(bay: Forebay, origin: Origin) -> None:
    """A 410 where content was: the stored version is used, stale, with the reason."""
    origin.serve("/f", Resource(SMALL))
    first = bay.fetch(origin.url("/f"))
    origin.serve("/f", Status(410))
    fetched = one(bay, origin.url("/f"), refresh="always")
    assert (fetched.how, fetched.response and fetched.response.version) == ("stale", first.version)
    assert fetched.error is not None
    assert fetched.error.code == "origin_status"
    check_ready(bay, first, SMALL)


def test_html_where_data_was(bay: Forebay, origin: Origin) -> None:
    """A page in place of data is a login page or a portal: the last good version stays."""
    resource = origin.serve("/f", Resource(SMALL, media_type="application/octet-stream"))
    first = bay.fetch(origin.url("/f"))
    resource.change(b"<html>log in</html>", etag='"page"')
    resource.media_type = "text/html; charset=utf-8"
    fetched = one(bay, origin.url("/f"), refresh="always")
    assert fetched.how == "stale"
    assert fetched.error is not None
    assert fetched.error.code == "origin_answered_html"
    assert fetched.response is not None
    assert fetched.response.version == first.version
    check_ready(bay, first, SMALL)
    assert bay.versions(origin.url("/f"))[0].download_stats.error_code == "origin_answered_html"
    assert len(origin.requests("/f")) == 1 + ATTEMPTS


def test_html_where_html_was(bay: Forebay, origin: Origin) -> None:
    """A page where a page was is content."""
    resource = origin.serve("/f", Resource(b"<p>1", media_type="text/html"))
    bay.fetch(origin.url("/f"))
    resource.change(b"<p>2", etag='"2"')
    check_ready(bay, bay.fetch(origin.url("/f"), refresh="always"), b"<p>2")


def test_connection_refused(bay: Forebay, origin: Origin) -> None:
    """Nobody listens: failed, `origin_unreachable`, after five attempts."""
    origin.stop()
    error = check_fails(bay, origin.url("/f"), "origin_unreachable")
    assert isinstance(error, OriginError)
    assert error.status == 504
    assert bay.versions(origin.url("/f"))[0].download_stats.attempts == ATTEMPTS


def test_unknown_host(make_bay: MakeBay) -> None:
    """A name that nobody knows (RFC 6761 section 6.4): failed, `origin_unreachable`."""
    bay = make_bay(max_attempts=1)
    check_fails(bay, "http://forebay.invalid/f", "origin_unreachable")


def test_origin_comes_back(make_bay: MakeBay, origin: Origin) -> None:
    """What failed while the origin was gone works when it is back."""
    bay = make_bay(max_attempts=1)
    origin.serve("/f", Resource(SMALL))
    url = origin.url("/f")
    origin.stop()
    check_fails(bay, url, "origin_unreachable")
    origin.start()
    check_ready(bay, bay.fetch(url), SMALL)


@pytest.mark.parametrize(
    "behaviour",
    [Status(204), Resource(b""), Chunked(b""), CloseDelimited(b"")],
    ids=["204", "0", "chunked", "close"],
)
def test_empty_content(bay: Forebay, origin: Origin, behaviour: Behaviour) -> None:
    """No bytes are content too."""
    origin.serve("/f", behaviour)
    check_ready(bay, bay.fetch(origin.url("/f")), b"")
    assert len(origin.requests("/f")) == 1


@pytest.mark.parametrize("status", [200, 201, 203])
def test_2xx_is_content(bay: Forebay, origin: Origin, status: int) -> None:
    """Any whole 2xx is content, and its status is kept."""
    origin.serve("/f", Status(status, SMALL))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, SMALL)
    assert response.download_stats.http_status == status


def test_304_that_nobody_asked_for(bay: Forebay, origin: Origin) -> None:
    """A 304 to a first GET is a broken origin, not content."""
    origin.serve("/f", Status(304))
    check_fails(bay, origin.url("/f"), "origin_protocol")


def test_206_that_nobody_asked_for(bay: Forebay, origin: Origin) -> None:
    """A 206 to a first GET is a broken origin, not content."""
    origin.serve("/f", Status(206, SMALL, [("Content-Range", f"bytes 0-{len(SMALL) - 1}/{len(SMALL)}")]))
    check_fails(bay, origin.url("/f"), "origin_protocol")
    assert len(origin.requests("/f")) == ATTEMPTS


# --- 206 that lie ---------------------------------------------------------------------------------------

LIES: dict[str, tuple[dict[str, Any], str]] = {
    "start too early": ({"start_delta": -10}, "origin_range_invalid"),
    "start too late": ({"start_delta": 10}, "origin_range_invalid"),
    "end too early": ({"last_delta": -10}, "origin_range_invalid"),
    "total too large": ({"total_delta": 1}, "origin_changed"),
    "total too small": ({"total_delta": -1}, "origin_range_invalid"),  # less than the range itself: nonsense
    "total unknown": ({"total": "*"}, "origin_range_invalid"),
    "other ETag": ({"etag": '"other"'}, "origin_changed"),
    "weak ETag": ({"etag": 'W/"v1"'}, "origin_changed"),
    "no Content-Range": ({"missing": True}, "origin_range_invalid"),
    "multipart": ({"multipart": True}, "origin_range_invalid"),
}


@pytest.mark.parametrize("lie", LIES)
def test_wrong_206_is_never_appended(bay: Forebay, origin: Origin, lie: str) -> None:
    """A 206 that does not prove what it is: the download begins again and is right."""
    behaviour = origin.serve("/f", WrongRange(Resource(BODY), cut_first=300_000, **LIES[lie][0]))
    response = bay.fetch(origin.url("/f"))
    check_ready(bay, response, BODY)
    assert asked(origin) == [WHOLE, ("bytes=300000-", '"v1"'), WHOLE]
    assert behaviour.lies == 1
    assert response.download_stats.resumed_bytes == 0


@pytest.mark.parametrize("lie", LIES)
def test_wrong_206_names_its_case(make_bay: MakeBay, origin: Origin, lie: str) -> None:
    """Without another attempt the fetch fails with the case's code, and nothing of the prefix is left."""
    bay = make_bay(max_attempts=1)
    origin.serve("/f", WrongRange(Resource(BODY), cut_first=300_000, **LIES[lie][0]))
    check_fails(bay, origin.url("/f"), LIES[lie][1])
    assert bay.usage().partial_bytes == 0
    check_ready(bay, bay.fetch(origin.url("/f")), BODY)
    assert asked(origin)[-1] == WHOLE


def test_206_of_another_date(bay: Forebay, origin: Origin) -> None:
    """Under a date alone, a 206 with another date is another representation."""
    older = Resource(BODY, etag=None, last_modified=MODIFIED)
    newer = Resource(blob(len(BODY), seed=3), etag=None, last_modified="Tue, 07 Jul 2026 08:00:00 GMT")

    def lie(exchange: Exchange) -> None:
        unguarded = exchange.seen.fields.without("if-range")
        seen = exchange.seen
        exchange.answer(newer.answer(Seen("GET", seen.path, "", unguarded, b"", seen.connection, seen.number)))

    origin.serve("/f", Sequence(CutEvery(older, 300_000), lie, newer))
    response = bay.fetch(origin.url("/f"))
    assert isinstance(newer.body, bytes)
    check_ready(bay, response, newer.body)
    assert asked(origin) == [WHOLE, ("bytes=300000-", MODIFIED), WHOLE]


# --- expectations and bounds ----------------------------------------------------------------------------


def test_expected_sha256(bay: Forebay, origin: Origin) -> None:
    """The right digest, in any case, is taken; afterwards it needs no connection."""
    origin.serve("/f", Resource(SMALL))
    check_ready(bay, bay.fetch(origin.url("/f"), sha256=sha256(SMALL).upper()), SMALL)
    fetched = one(bay, origin.url("/f"), sha256=sha256(SMALL), refresh="always")
    assert fetched.how == "stored"
    assert origin.connections == 1


@pytest.mark.parametrize("name", ["sha256", "md5", "sha512", "blake2b"])
@pytest.mark.parametrize("size", [5000, 3_000_000])
def test_expected_hash(bay: Forebay, origin: Origin, name: str, size: int) -> None:
    """Any guaranteed algorithm may be named; a large body is hashed as it lands."""
    body = blob(size)
    origin.serve("/f", Resource(body))
    digest = hashlib.new(name, body, usedforsecurity=False).hexdigest()
    check_ready(bay, bay.fetch(origin.url("/f"), expected_hash=f"{name}:{digest}"), body)
    # A second time the stored bytes are asked.
    assert one(bay, origin.url("/f"), expected_hash=f"{name}:{digest}").how == "stored"
    assert len(origin.requests("/f")) == 1


@pytest.mark.parametrize("size", [5000, 3_000_000])
@pytest.mark.parametrize("name", ["sha256", "md5"])
def test_wrong_hash(bay: Forebay, origin: Origin, name: str, size: int) -> None:
    """Other bytes than expected: failed with both digests, nothing is kept, no second attempt."""
    body = blob(size)
    origin.serve("/f", Resource(body))
    expected = hashlib.new(name, b"other", usedforsecurity=False).hexdigest()
    got = hashlib.new(name, body, usedforsecurity=False).hexdigest()
    error = check_fails(bay, origin.url("/f"), "hash_mismatch", expected_hash=f"{name}:{expected}")
    assert isinstance(error, HashMismatch)
    assert (error.algorithm, error.expected, error.got) == (name, expected, got)
    assert expected in str(error)
    assert got in str(error)
    assert len(origin.requests("/f")) == 1
    assert (bay.usage().contents, bay.usage().partial_bytes) == (0, 0)


def test_wrong_hash_keeps_the_last_good_version(bay: Forebay, origin: Origin) -> None:
    """A mismatch is an error even where a version is stored, and that version stays latest."""
    origin.serve("/f", Resource(SMALL))
    first = bay.fetch(origin.url("/f"))
    with pytest.raises(HashMismatch):
        bay.fetch(origin.url("/f"), sha256=sha256(b"other"))
    check_ready(bay, first, SMALL)


def test_new_bytes_are_fetched_for_an_expected_hash(bay: Forebay, origin: Origin) -> None:
    """A fresh version with another digest does not serve."""
    resource = origin.serve("/f", Resource(SMALL))
    bay.fetch(origin.url("/f"))
    resource.change(BODY, etag='"2"')
    check_ready(bay, bay.fetch(origin.url("/f"), sha256=sha256(BODY)), BODY)


def test_wrong_hash_after_a_resume(bay: Forebay, origin: Origin) -> None:
    """Pieces that do not fit are fetched once more in one piece: an origin that reuses an ETag is survived."""
    other = blob(len(BODY), seed=4)
    origin.serve("/f", ChangeValidator([(BODY, '"same"'), (other, '"same"')], cut_at=300_000))
    check_ready(bay, bay.fetch(origin.url("/f"), sha256=sha256(other)), other)
    assert asked(origin) == [WHOLE, ("bytes=300000-", '"same"'), WHOLE]


def test_wrong_hash_after_a_resume_and_again(bay: Forebay, origin: Origin) -> None:
    """When the one piece is wrong too, the fetch fails and keeps nothing."""
    origin.serve("/f", IgnoreRange(Resource(BODY), cut_first=None))
    origin.serve("/f", Sequence(CutEvery(Resource(BODY), 300_000), Resource(BODY)))
    check_fails(bay, origin.url("/f"), "hash_mismatch", sha256=sha256(b"other"))
    assert asked(origin) == [WHOLE, ("bytes=300000-", '"v1"'), WHOLE]
    assert bay.usage().partial_bytes == 0


def test_size_limit_with_a_known_length(make_bay: MakeBay, origin: Origin) -> None:
    """A length over the limit is refused at the head."""
    bay = make_bay(max_size_bytes=len(BODY) - 1)
    origin.serve("/f", Resource(BODY))
    error = check_fails(bay, origin.url("/f"), "content_too_large")
    assert isinstance(error, ContentTooLarge)
    assert (error.limit_bytes, error.size_bytes) == (len(BODY) - 1, len(BODY))
    assert len(origin.requests("/f")) == 1
    assert bay.versions(origin.url("/f"))[0].download_stats.downloaded_bytes == 0


@pytest.mark.parametrize("behaviour", [Chunked(blob(3_000_000)), CloseDelimited(blob(3_000_000))])
def test_size_limit_with_an_unknown_length(make_bay: MakeBay, origin: Origin, behaviour: Behaviour) -> None:
    """Without a length the limit holds as bytes land; what landed is dropped."""
    bay = make_bay(max_size_bytes=1_500_000)
    origin.serve("/f", behaviour)
    check_fails(bay, origin.url("/f"), "content_too_large")
    assert len(origin.requests("/f")) == 1
    assert bay.usage().partial_bytes == 0


@pytest.mark.parametrize("behaviour", [Resource(BODY), Chunked(BODY)])
def test_exactly_the_size_limit(make_bay: MakeBay, origin: Origin, behaviour: Behaviour) -> None:
    """The limit itself is allowed."""
    bay = make_bay(max_size_bytes=len(BODY))
    origin.serve("/f", behaviour)
    check_ready(bay, bay.fetch(origin.url("/f")), BODY)


# --- what is sent ---------------------------------------------------------------------------------------


def test_what_a_plain_get_sends(make_bay: MakeBay, origin: Origin) -> None:
    """A GET says who asks and asks for the bytes as they are."""
    bay = make_bay(user_agent="tester/1")
    origin.serve("/f", Resource(SMALL))
    bay.fetch(origin.url("/f?a=1&b=%2F"))
    (seen,) = origin.requests("/f")
    assert (seen.method, seen.query, seen.body) == ("GET", "a=1&b=%2F", b"")
    assert dict(seen.fields) == {
        "host": f"127.0.0.1:{origin.port}",
        "user-agent": "tester/1",
        "accept": "*/*",
        "accept-encoding": "identity",
    }


def test_post_of_json(bay: Forebay, origin: Origin) -> None:
    """A dict is sent as JSON."""
    origin.serve("/f", Resource(lambda seen: seen.body, etag=None))
    response = bay.fetch(RequestSpec(url=origin.url("/f"), http_method="post", http_request_body={"a": ["ü", 1]}))
    check_ready(bay, response, '{"a": ["ü", 1]}'.encode())
    (seen,) = origin.requests("/f")
    assert (seen.method, seen.fields["content-type"]) == ("POST", "application/json")


def test_put_of_text(bay: Forebay, origin: Origin) -> None:
    """A str is sent as it is."""
    origin.serve("/f", Resource(lambda seen: seen.body, etag=None))
    response = bay.fetch(RequestSpec(url=origin.url("/f"), http_method="put", http_request_body="grüße"))
    check_ready(bay, response, "grüße".encode())
    (seen,) = origin.requests("/f")
    assert (seen.method, seen.fields["content-type"]) == ("PUT", "text/plain; charset=utf-8")


def test_content_type_of_the_caller(bay: Forebay, origin: Origin) -> None:
    """A registered Content-Type is the only one."""
    origin.serve("/f", Resource(SMALL))
    spec = RequestSpec(
        url=origin.url("/f"),
        http_method="post",
        http_request_body="<a/>",
        http_header_fields={"content-type": "application/xml"},
    )
    bay.fetch(spec)
    assert origin.requests("/f")[0].fields.all("content-type") == ["application/xml"]


@pytest.mark.parametrize("body", [None, {}, ""])
@pytest.mark.parametrize("method", ["post", "put"])
def test_no_body(bay: Forebay, origin: Origin, method: Any, body: Any) -> None:
    """Null, an empty dict or text sends nothing, and does not say what kind of nothing."""
    origin.serve("/f", Resource(SMALL))
    check_ready(
        bay, bay.fetch(RequestSpec(url=origin.url("/f"), http_method=method, http_request_body=body)), SMALL
    )
    (seen,) = origin.requests("/f")
    assert (seen.method, seen.body, seen.fields.get("content-length")) == (method.upper(), b"", "0")
    assert "content-type" not in seen.fields


def test_fields_and_query_parameters(bay: Forebay, origin: Origin) -> None:
    """Registered fields and parameters are sent; a field may be empty."""
    origin.serve("/f", Resource(SMALL))
    spec = RequestSpec(
        url=origin.url("/f?z=0"),
        http_header_fields={"Accept": "text/csv", "X-Empty": "", "X-Latin": "é"},
        http_query_params={"q": "a b&c", "many": ["1", "2"]},
    )
    bay.fetch(spec)
    (seen,) = origin.requests("/f")
    # The order of different names is not kept: the dict is an identity, stored sorted.
    assert sorted(seen.query.split("&")) == ["many=1", "many=2", "q=a%20b%26c", "z=0"]
    assert seen.fields.all("accept") == ["text/csv"]
    assert (seen.fields["x-empty"], seen.fields["x-latin"]) == ("", "é")


def test_post_is_tried_again_whole(bay: Forebay, origin: Origin) -> None:
    """A POST that was cut is sent again from the start: a range of its answer cannot be asked for."""
    origin.serve("/f", Sequence(CutEvery(Resource(BODY), 300_000), Resource(BODY)))
    check_ready(bay, bay.fetch(RequestSpec(url=origin.url("/f"), http_method="post", http_request_body="x")), BODY)
    assert asked(origin) == [WHOLE, WHOLE]
    assert [seen.body for seen in origin.requests("/f")] == [b"x", b"x"]


def test_post_is_not_conditional(bay: Forebay, origin: Origin) -> None:
    """A POST is never asked with If-None-Match."""
    origin.serve("/f", Resource(SMALL))
    spec = RequestSpec(url=origin.url("/f"), http_method="post", http_request_body="x")
    bay.fetch(spec)
    bay.fetch(spec, refresh="always")
    assert ["if-none-match" in seen.fields for seen in origin.requests("/f")] == [False, False]


@pytest.mark.parametrize(
    ("status", "method"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")]
)
def test_redirected_post(bay: Forebay, origin: Origin, status: int, method: str) -> None:
    """A POST becomes a GET by 301, 302 and 303, without the body and what was said of it; else it stays
    (RFC 9110 section 15.4)."""
    origin.serve("/f", Redirect("/g", status))
    origin.serve("/g", Resource(SMALL))
    bay.fetch(RequestSpec(url=origin.url("/f"), http_method="post", http_request_body={"a": 1}))
    (seen,) = origin.requests("/g")
    assert (seen.method, seen.body) == (method, b'{"a": 1}' if method == "POST" else b"")
    assert ("content-type" in seen.fields) == (method == "POST")


def test_one_url_with_other_fields_is_another_request(bay: Forebay, origin: Origin) -> None:
    """What is sent is part of a Request's identity."""
    origin.serve("/f", Resource(lambda seen: seen.fields.get("x-who", "nobody").encode()))
    url = origin.url("/f")
    bodies = [
        content(bay, bay.fetch(RequestSpec(url=url, http_header_fields={"X-Who": who} if who else None)))
        for who in ("a", "b", "", "a")
    ]
    assert bodies == [b"a", b"b", b"nobody", b"a"]
    assert len(origin.requests("/f")) == 3


# --- secrets --------------------------------------------------------------------------------------------

SECRETS = ("s3cr3t-bearer", "s3cr3t-cookie", "s3cr3t-key", "s3cr3t-param", "s3cr3t-location")


def leaks(*texts: object) -> list[str]:
    """Which secrets are in *texts*."""
    return [secret for secret in SECRETS for text in texts if secret in f"{text}{text!r}"]


@pytest.mark.parametrize(
    "behaviour",
    [
        Resource(SMALL),
        Status(404),
        Status(500),
        Status(302),
        Garbage(b""),
        LengthLie(SMALL, 10_000),
        TwoLengths(SMALL, 1, 2),
        Redirect("ftp://user:s3cr3t-location@127.0.0.1/?token=s3cr3t-location"),
        Redirect("http://user:s3cr3t-location@127.0.0.1/f"),
        Redirect("http://169.254.169.254/?token=s3cr3t-location"),
        RedirectLoop(),
        HugeHead(then=Resource(SMALL)),
        Redirect("http://127.0.0.1:1/?access_token=s3cr3t-location"),
    ],
    ids=lambda behaviour: type(behaviour).__name__,
)
def test_no_secret_comes_back(
    bay: Forebay, origin: Origin, caplog: pytest.LogCaptureFixture, behaviour: Behaviour
) -> None:
    """What authorises a fetch is in no error, log line or Response (DESIGN.md section 2, number 9)."""
    caplog.set_level(logging.DEBUG)
    origin.serve("/f", behaviour)
    spec = RequestSpec(url=origin.url("/f?token=s3cr3t-param"), http_header_fields=CREDENTIALS)
    progress: list[object] = []
    fetched = one(bay, spec, progress=lambda url, state: progress.append((url, state)))
    assert origin.requests("/f")[0].fields["authorization"] == CREDENTIALS["Authorization"]
    assert "s3cr3t-param" in origin.requests("/f")[0].query
    versions = bay.versions(spec.url)
    assert versions
    assert not leaks(fetched, fetched.error, caplog.text, progress)
    assert not leaks(*(version.model_dump_json() for version in versions), *versions)


def test_no_secret_in_a_stale_warning(make_bay: MakeBay, origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    """The warning of a stale answer names the URL without its secrets."""
    bay = make_bay(max_attempts=1)
    origin.serve("/f", Sequence(Resource(SMALL), Status(500)))
    spec = RequestSpec(url=origin.url("/f?token=s3cr3t-param"), http_header_fields=CREDENTIALS)
    bay.fetch(spec)
    bay.fetch(spec, refresh="always")
    assert "using version" in caplog.text
    assert not leaks(caplog.text)


def test_password_in_a_url(bay: Forebay, caplog: pytest.LogCaptureFixture) -> None:
    """A URL with a password is refused without showing it, and nothing is registered."""
    with pytest.raises(InvalidUrl) as caught:
        bay.fetch("http://user:s3cr3t-key@127.0.0.1/")
    assert not leaks(caught.value, caplog.text)
    assert one(bay, "http://user:s3cr3t-key@127.0.0.1/").url == "http://127.0.0.1/"
    assert bay.requests() == []


def test_field_that_cannot_be_sent(bay: Forebay) -> None:
    """CR and LF in a field cannot be constructed, and the error does not show the value."""
    with pytest.raises(InvalidValue) as caught:
        RequestSpec(url="http://127.0.0.1/", http_header_fields={"Authorization": "s3cr3t-key\r\nX: y"})
    assert not leaks(caught.value)
    with pytest.raises(InvalidValue):
        RequestSpec(url="http://127.0.0.1/", http_header_fields={"Range": "bytes=0-"})


def test_ipv6_origin(bay: Forebay) -> None:
    """An origin at an IPv6 literal is fetched from."""
    try:
        origin = Origin("::1")
        origin.start()
    except OSError as error:
        pytest.skip(f"no IPv6 loopback on this machine: {error}")
    with closing(origin):
        origin.serve("/f", Resource(SMALL))
        check_ready(bay, bay.fetch(origin.url("/f")), SMALL)


@pytest.mark.parametrize("name", ["sha3_256", "blake2b", "md5", "shake_128"])
def test_a_request_s_own_hash(bay: Forebay, origin: Origin, name: str) -> None:
    """Any guaranteed hashlib name; SHA-256 is kept beside it, as the address."""
    origin.serve("/f", Resource(SMALL))
    response = bay.fetch(RequestSpec(url=origin.url("/f"), validation_hash_type=name))
    hasher = hashlib.new(name, SMALL, usedforsecurity=False)
    expected = hasher.hexdigest(32) if name == "shake_128" else hasher.hexdigest()  # type: ignore[call-arg]
    assert response.content_hash_hex == expected
    assert response.content_attributes.sha256 == hashlib.sha256(SMALL).hexdigest()
