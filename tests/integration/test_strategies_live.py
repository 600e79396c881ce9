"""When a stored URL is asked for again, and what the catalog keeps of it: strategies against a real origin.

Time passes by moving the stored times back (`let_pass`): that is data, no code is replaced.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from forebay import ReCachingStrategy, RequestSpec, Response
from forebay.bay import Forebay
from forebay.errors import InvalidValue, NotStored, OriginError, StateError, UnknownRequest, UnknownVersion
from forebay.reports import Fetched
from origin import Chunked, Exchange, FailFirst, Held, Origin, Resource, Status, blob

MakeBay = Callable[..., Forebay]
LetPass = Callable[[Forebay, float], None]
ONE, TWO, THREE = (blob(5000, seed=n) for n in (1, 2, 3))
MODIFIED = "Mon, 06 Jul 2026 08:00:00 GMT"
HOUR, DAY = 3600, 86400
CHECK = 6 * HOUR + 1  # just past the default strategy's interval


def one(bay: Forebay, url: str | RequestSpec, **options: Any) -> Fetched:
    """What comes of *url*, failures as values."""
    (fetched,) = bay.fetch_many([url], **options)
    return fetched


def content(bay: Forebay, response: Response | None) -> bytes:
    assert response is not None
    with bay.open(response) as file:
        return file.read()


def conditions(origin: Origin, path: str = "/f") -> list[tuple[str, str | None, str | None]]:
    """Method, If-None-Match and If-Modified-Since of each request, in order."""
    return [
        (seen.method, seen.fields.get("if-none-match"), seen.fields.get("if-modified-since"))
        for seen in origin.requests(path)
    ]


def statuses(bay: Forebay, url: str) -> list[str]:
    """Of all versions, the newest first."""
    return [version.status for version in bay.versions(url)]


class Unconditional:
    """*resource*, blind to conditions: 200 each time."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource

    def __call__(self, exchange: Exchange) -> None:
        fields = exchange.seen.fields.without("if-none-match", "if-modified-since")
        exchange.answer(self.resource.answer(replace(exchange.seen, fields=fields)))


# --- a hit ----------------------------------------------------------------------------------------------


def data_version(bay: Forebay, watcher: sqlite3.Connection) -> int:
    """A number that changes when any other connection writes to the catalog."""
    return int(watcher.execute("PRAGMA data_version").fetchone()[0])


def test_a_fresh_copy_opens_no_connection_and_writes_nothing(bay: Forebay, origin: Origin) -> None:
    """A hit costs no connection and no write; the time of use is written with the batch at close."""
    origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    first = bay.fetch(url)
    bay.fetch(url)
    files = [bay.folder / name for name in ("catalog.sqlite", "catalog.sqlite-wal")]
    with closing(sqlite3.connect(bay.folder / "catalog.sqlite")) as watcher:
        before = data_version(bay, watcher), [(f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        for _ in range(50):
            fetched = one(bay, url)
            assert (fetched.how, fetched.response and fetched.response.version) == ("stored", first.version)
        assert content(bay, first) == ONE
        bay.path(url)
        after = data_version(bay, watcher), [(f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        assert after == before
        assert origin.connections == 1
        registered = bay.requests()[0]
        bay.close()
        assert data_version(bay, watcher) != before[0]
    assert registered.latest_request_datetime_utc == registered.first_request_datetime_utc


def test_times_of_use_survive(make_bay: MakeBay, origin: Origin) -> None:
    """The latest request's time is there when the folder is opened again."""
    origin.serve("/f", Resource(ONE))
    bay = make_bay()
    bay.fetch(origin.url("/f"))
    bay.fetch(origin.url("/f"))
    bay.close()
    (request,) = make_bay().requests()
    assert request.latest_request_datetime_utc > request.first_request_datetime_utc


def test_a_fresh_copy_starts_no_thread(make_bay: MakeBay, origin: Origin) -> None:
    """A stored answer needs no threads and no origin."""
    origin.serve("/f", Resource(ONE))
    first = make_bay()
    first.fetch(origin.url("/f"))
    first.close()
    origin.stop()
    second = make_bay()
    assert content(second, second.fetch(origin.url("/f"))) == ONE
    assert origin.connections == 1


# --- the default: when the remote changed ---------------------------------------------------------------


def test_if_none_match(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """After the interval the origin is asked with If-None-Match; its 304 keeps the time of the check only."""
    resource = origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    bay.fetch(url)
    let_pass(bay, CHECK)
    before = bay.versions(url)
    fetched = one(bay, url)
    assert (fetched.how, fetched.response and fetched.response.version) == ("unchanged", before[0].version)
    assert bay.versions(url) == before
    assert conditions(origin) == [("GET", None, None), ("GET", '"v1"', None)]
    assert resource.not_modified == 1
    assert one(bay, url).how == "stored"
    assert len(origin.requests("/f")) == 2


def test_not_before_the_interval(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """A minute before the six hours are over nothing is asked."""
    origin.serve("/f", Resource(ONE))
    bay.fetch(origin.url("/f"))
    let_pass(bay, 6 * HOUR - 60)
    assert one(bay, origin.url("/f")).how == "stored"
    assert origin.connections == 1


@pytest.mark.parametrize(
    ("etag", "modified", "sent"),
    [
        (None, MODIFIED, ("GET", None, MODIFIED)),
        ('"v1"', MODIFIED, ("GET", '"v1"', MODIFIED)),
        ('W/"v1"', None, ("GET", 'W/"v1"', None)),
    ],
)
def test_conditions(
    bay: Forebay, origin: Origin, let_pass: LetPass, etag: str | None, modified: str | None, sent: object
) -> None:
    """Each validator that the origin gave is sent back to it."""
    resource = origin.serve("/f", Resource(ONE, etag=etag, last_modified=modified))
    bay.fetch(origin.url("/f"))
    let_pass(bay, CHECK)
    assert one(bay, origin.url("/f")).how == "unchanged"
    assert conditions(origin)[1] == sent
    assert resource.not_modified == 1
    assert statuses(bay, origin.url("/f")) == ["ready"]


def test_a_changed_resource_makes_a_version(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """New bytes are a new version that names the one before; the old one is still there."""
    resource = origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    first = bay.fetch(url)
    let_pass(bay, CHECK)
    resource.change(TWO, etag='"v2"')
    fetched = one(bay, url)
    assert fetched.how == "fetched"
    second = fetched.response
    assert second is not None
    assert second.version > first.version
    assert (second.previous_version, second.next_version) == (first.version, None)
    assert content(bay, second) == TWO
    old = bay.find(url, version=first.version)
    assert (old.previous_version, old.next_version) == (None, second.version)
    assert content(bay, old) == ONE
    assert content(bay, bay.latest(url)) == TWO


def test_a_middle_version_has_both_neighbours(bay: Forebay, origin: Origin) -> None:
    """Of three versions the middle one names both others."""
    resource = origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    bay.fetch(url)
    bay.configure(url, max_cached_unpinned_versions=3)
    for n, body in ((2, TWO), (3, THREE)):
        resource.change(body, etag=f'"v{n}"')
        bay.fetch(url, refresh="always")
    newest, middle, oldest = bay.versions(url)
    assert (middle.previous_version, middle.next_version) == (oldest.version, newest.version)


def test_conditions_are_ignored_but_the_etag_is_the_same(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """A 200 with the stored ETag is no news: its body is not taken."""
    body = blob(20_000_000)
    resource = Resource(body)
    origin.serve("/f", Unconditional(resource))
    url = origin.url("/f")
    bay.fetch(url)
    let_pass(bay, CHECK)
    assert one(bay, url).how == "unchanged"
    assert conditions(origin)[1] == ("GET", '"v1"', None)
    assert statuses(bay, url) == ["ready"]
    # What the sockets buffered may have been sent; the whole body was not.
    assert resource.bytes_sent < 2 * len(body)
    assert one(bay, url).how == "stored"


def test_conditions_are_ignored_but_date_and_length_are_the_same(
    bay: Forebay, origin: Origin, let_pass: LetPass
) -> None:
    """Without an ETag, the same date and the same length are no news; another length is."""
    resource = Resource(ONE, etag=None, last_modified=MODIFIED)
    origin.serve("/f", Unconditional(resource))
    url = origin.url("/f")
    bay.fetch(url)
    let_pass(bay, CHECK)
    assert one(bay, url).how == "unchanged"
    resource.body = TWO + b"!"
    let_pass(bay, CHECK)
    assert content(bay, bay.fetch(url)) == TWO + b"!"


def test_equal_bytes_under_a_new_etag(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """Equal bytes make no version by default, and the new ETag is asked with from then on."""
    resource = origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    first = bay.fetch(url)
    let_pass(bay, CHECK)
    resource.etag = '"v2"'
    fetched = one(bay, url)
    assert (fetched.how, fetched.response and fetched.response.version) == ("unchanged", first.version)
    assert statuses(bay, url) == ["ready"]
    let_pass(bay, CHECK)
    assert one(bay, url).how == "unchanged"
    assert conditions(origin)[1:] == [("GET", '"v1"', None), ("GET", '"v2"', None)]
    assert resource.not_modified == 1
    assert content(bay, first) == ONE


def test_equal_bytes_and_the_etag_is_gone(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """An origin that stops giving validators is not asked with old ones."""
    resource = origin.serve("/f", Resource(ONE))
    bay.fetch(origin.url("/f"))
    let_pass(bay, CHECK)
    resource.etag = None
    assert one(bay, origin.url("/f")).how == "unchanged"
    let_pass(bay, CHECK)
    assert one(bay, origin.url("/f")).how == "unchanged"
    assert conditions(origin)[2] == ("HEAD", None, None)


def test_a_weak_etag_proves_no_equal_bytes(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """A 200 with the same weak ETag is downloaded: only its bytes can tell."""
    resource = Resource(ONE, etag='W/"v"')
    origin.serve("/f", Unconditional(resource))
    bay.fetch(origin.url("/f"))
    let_pass(bay, CHECK)
    resource.body = TWO
    fetched = one(bay, origin.url("/f"))
    assert fetched.how == "fetched"
    assert content(bay, fetched.response) == TWO


def test_without_validators_a_head_looks_first(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """No validator: HEADs that show no difference keep the version, for the fallback age at most; then the
    whole is fetched, and its equal bytes begin another day."""
    resource = origin.serve("/f", Resource(ONE, etag=None))
    url = origin.url("/f")
    bay.fetch(url)
    methods = ["GET"]
    for asked in ("HEAD", "HEAD", "HEAD", "GET", "HEAD"):
        let_pass(bay, CHECK)
        assert one(bay, url).how == "unchanged"
        methods.append(asked)
        assert [seen.method for seen in origin.requests("/f")] == methods
        assert one(bay, url).how == "stored"
    assert statuses(bay, url) == ["ready"]
    assert resource.gets == 2


def test_a_head_that_shows_another_length(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """Another length leads to a full GET and a new version."""
    resource = origin.serve("/f", Resource(ONE, etag=None))
    bay.fetch(origin.url("/f"))
    let_pass(bay, CHECK)
    resource.body = TWO + b"!"
    assert content(bay, bay.fetch(origin.url("/f"))) == TWO + b"!"
    assert [seen.method for seen in origin.requests("/f")] == ["GET", "HEAD", "GET"]


def test_a_head_that_shows_a_validator(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """A validator that was not there before leads to a full GET: the length alone proves little."""
    resource = origin.serve("/f", Resource(ONE, etag=None))
    bay.fetch(origin.url("/f"))
    let_pass(bay, CHECK)
    resource.change(TWO, etag='"new"')
    assert content(bay, bay.fetch(origin.url("/f"))) == TWO
    assert [seen.method for seen in origin.requests("/f")] == ["GET", "HEAD", "GET"]


@pytest.mark.parametrize("status", [405, 501, 404, 403])
def test_a_head_that_is_refused(bay: Forebay, origin: Origin, let_pass: LetPass, status: int) -> None:
    """An origin without HEAD is asked with GET."""
    resource = Resource(ONE, etag=None)

    def no_head(exchange: Exchange) -> None:
        (Status(status) if exchange.is_head else resource)(exchange)

    origin.serve("/f", no_head)
    bay.fetch(origin.url("/f"))
    let_pass(bay, CHECK)
    assert one(bay, origin.url("/f")).how == "unchanged"
    assert [seen.method for seen in origin.requests("/f")] == ["GET", "HEAD", "GET"]


def test_a_head_without_a_length(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """A HEAD that tells nothing leads to a GET."""
    origin.serve("/f", Chunked(ONE))
    bay.fetch(origin.url("/f"))
    let_pass(bay, CHECK)
    assert one(bay, origin.url("/f")).how == "unchanged"
    assert [seen.method for seen in origin.requests("/f")] == ["GET", "HEAD", "GET"]


def test_the_interval_is_the_callers(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """The interval and the fallback age may be given."""
    strategy = ReCachingStrategy.when_remote_changed(check_interval_sec=60, fallback_max_age_sec=100)
    origin.serve("/f", Resource(ONE, etag=None))
    bay.fetch(origin.url("/f"), refresh=strategy)
    for how in ("HEAD", "GET"):
        let_pass(bay, 61)
        assert one(bay, origin.url("/f")).how == "unchanged"
        assert origin.requests("/f")[-1].method == how


# --- always, age, cron, never ---------------------------------------------------------------------------


def test_always_makes_duplicates(bay: Forebay, origin: Origin) -> None:
    """Each request asks the origin; a 304 is a duplicate that names the version it equals, which is what the
    caller gets."""
    origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    first = bay.fetch(url, refresh="always")
    fetched = one(bay, url)
    assert (fetched.how, fetched.response and fetched.response.version) == ("unchanged", first.version)
    duplicate, ready = bay.versions(url)
    assert (duplicate.status, ready.status) == ("duplicate", "ready")
    assert duplicate.previous_version == first.version == ready.version
    assert duplicate.content_hash_hex == first.content_hash_hex
    assert content(bay, duplicate) == ONE
    assert bay.fetch(url, version=duplicate.version).id == duplicate.id
    assert conditions(origin) == [("GET", None, None), ("GET", '"v1"', None)]
    assert (bay.usage().versions, bay.usage().contents) == (1, 1)


def test_equal_bytes_without_validators_are_a_duplicate(bay: Forebay, origin: Origin) -> None:
    """Equal bytes that came whole are a duplicate too."""
    origin.serve("/f", Resource(ONE, etag=None))
    url = origin.url("/f")
    first = bay.fetch(url, refresh="always")
    assert one(bay, url).how == "unchanged"
    duplicate = bay.versions(url)[0]
    assert (duplicate.status, duplicate.previous_version) == ("duplicate", first.version)
    assert duplicate.download_stats.downloaded_bytes == len(ONE)
    assert content(bay, duplicate) == ONE


def test_a_change_after_duplicates(make_bay: MakeBay, origin: Origin) -> None:
    """Bytes that are new again are ready, and what was before a change is never taken for equal."""
    bay = make_bay()
    resource = origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    for body, etag in ((ONE, '"1"'), (ONE, '"1"'), (TWO, '"2"'), (ONE, '"3"')):
        resource.change(body, etag=etag)
        assert content(bay, bay.fetch(url, refresh="always")) == body
    bay.close()
    bay = make_bay()
    assert statuses(bay, url) == ["ready", "ready", "duplicate"]
    assert [content(bay, version) for version in bay.versions(url)] == [ONE, TWO, ONE]


def test_age(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """Fresh for its seconds, then asked; a 304 is a duplicate and makes it fresh again."""
    origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    first = bay.fetch(url, refresh=ReCachingStrategy.age(seconds=600))
    let_pass(bay, 540)
    assert one(bay, url).how == "stored"
    let_pass(bay, 61)
    assert one(bay, url).how == "unchanged"
    assert one(bay, url).how == "stored"
    assert statuses(bay, url) == ["duplicate", "ready"]
    assert bay.fetch(url).version == first.version
    assert len(origin.requests("/f")) == 2


@pytest.mark.parametrize("line", ["0 0 1 1 *", "30 0 0 1 1 *"])
def test_cron(bay: Forebay, origin: Origin, let_pass: LetPass, line: str) -> None:
    """Fetched at once, then when a tick has passed: here once a year; five fields or six."""
    origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    bay.fetch(url, refresh=f"cron:{line}")
    assert one(bay, url).how == "stored"
    let_pass(bay, 366 * DAY)
    assert one(bay, url).how == "unchanged"
    assert statuses(bay, url) == ["duplicate", "ready"]
    assert one(bay, url).how == "stored"


def test_never(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """Fetched once."""
    origin.serve("/f", Resource(ONE))
    bay.fetch(origin.url("/f"), refresh="never")
    let_pass(bay, 3650 * DAY)
    assert one(bay, origin.url("/f")).how == "stored"
    assert origin.connections == 1


def test_never_is_tried_again_until_it_worked(make_bay: MakeBay, origin: Origin) -> None:
    """What was never stored is fetched when asked for."""
    bay = make_bay(max_attempts=1)
    origin.serve("/f", FailFirst(Resource(ONE), 1, 500))
    assert one(bay, origin.url("/f"), refresh="never").how == "failed"
    assert content(bay, bay.fetch(origin.url("/f"))) == ONE
    assert one(bay, origin.url("/f")).how == "stored"


def test_the_clock_was_set_back(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """A check in the future is not believed: the origin is asked, which sets the time right."""
    origin.serve("/f", Resource(ONE))
    bay.fetch(origin.url("/f"))
    let_pass(bay, -400 * DAY)
    assert one(bay, origin.url("/f")).how == "unchanged"
    assert one(bay, origin.url("/f")).how == "stored"


# --- one call's wish and the registered strategy --------------------------------------------------------


def strategy_of(bay: Forebay, url: str) -> Any:
    return next(r for r in bay.requests() if r.url == url).cache_configuration.recaching_strategy


def test_refresh_for_one_call(bay: Forebay, origin: Origin) -> None:
    """`refresh` holds for its call: the registered strategy stays, and decides about duplicates."""
    origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    bay.fetch(url)
    assert one(bay, url, refresh="always").how == "unchanged"
    assert strategy_of(bay, url) == ReCachingStrategy.when_remote_changed()
    assert statuses(bay, url) == ["ready"]
    assert one(bay, url).how == "stored"
    assert len(origin.requests("/f")) == 2


def test_refresh_may_ask_for_less(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """`refresh="never"` takes what is stored, however old."""
    origin.serve("/f", Resource(ONE))
    bay.fetch(origin.url("/f"))
    let_pass(bay, 30 * DAY)
    assert one(bay, origin.url("/f"), refresh="never").how == "stored"
    assert one(bay, origin.url("/f"), refresh="31d").how == "stored"
    assert one(bay, origin.url("/f"), refresh="29d").how == "unchanged"


def test_a_new_url_is_registered_with_its_refresh(bay: Forebay, origin: Origin) -> None:
    """The first call's `refresh` becomes the URL's strategy."""
    origin.serve("/f", Resource(ONE))
    bay.fetch(origin.url("/f"), refresh="2h")
    bay.fetch(origin.url("/f"), refresh="1h")
    assert strategy_of(bay, origin.url("/f")) == ReCachingStrategy.age(seconds=7200)


def test_configure(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """`configure` changes the strategy from now on."""
    origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    bay.fetch(url, refresh="never")
    let_pass(bay, HOUR)
    request = bay.configure(url, refresh="30m", max_cached_unpinned_versions=7)
    assert request.cache_configuration.recaching_strategy == ReCachingStrategy.age(seconds=1800)
    assert request.cache_configuration.max_cached_unpinned_versions == 7
    assert request.cache_configuration.max_cached_pinned_versions == 10
    assert one(bay, url).how == "unchanged"
    assert statuses(bay, url) == ["duplicate", "ready"]


def test_configure_badly(bay: Forebay, origin: Origin) -> None:
    """A bad number, strategy or URL is named, and nothing changes."""
    origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    bay.fetch(url)
    before = bay.requests()
    with pytest.raises(InvalidValue, match="max_cached_unpinned_versions"):
        bay.configure(url, max_cached_unpinned_versions=0)
    with pytest.raises(InvalidValue, match="refresh"):
        bay.configure(url, refresh="sometimes")
    with pytest.raises(UnknownRequest):
        bay.configure(origin.url("/unknown"), refresh="never")
    assert bay.requests() == before


@pytest.mark.parametrize("refresh", ["sometimes", "", "0h", "-1h", "cron:", "cron:61 * * * *", "1y"])
def test_a_refresh_that_means_nothing(bay: Forebay, origin: Origin, refresh: str) -> None:
    """It is refused before anything is registered."""
    with pytest.raises(InvalidValue, match="refresh"):
        bay.fetch(origin.url("/f"), refresh=refresh)
    assert bay.requests() == []
    assert origin.connections == 0


# --- equal content, names, offline ----------------------------------------------------------------------


def test_equal_bytes_are_stored_once(bay: Forebay, origin: Origin) -> None:
    """Two URLs with equal bytes share their content."""
    origin.serve("/a", Resource(ONE))
    origin.serve("/b", Resource(ONE, etag='"other"'))
    a, b = bay.fetch(origin.url("/a")), bay.fetch(origin.url("/b"))
    assert a.request_id != b.request_id
    assert (a.status, b.status) == ("ready", "ready")
    assert bay.path(a) == bay.path(b)
    usage = bay.usage()
    assert (usage.requests, usage.versions, usage.contents) == (2, 2, 1)
    assert (usage.content_bytes, usage.logical_bytes) == (len(ONE), 2 * len(ONE))


def test_groups_are_apart(bay: Forebay, origin: Origin) -> None:
    """The same URL in another group is another Request."""
    resource = origin.serve("/f", Resource(ONE))
    default = bay.fetch(origin.url("/f"))
    other = bay.fetch(RequestSpec(url=origin.url("/f"), group_name="other"))
    assert default.request_id != other.request_id
    assert resource.gets == 2
    assert bay.latest(origin.url("/f")) == default  # a URL alone means the default group
    assert bay.latest(other.request_id) == other


def test_spellings_of_a_url(bay: Forebay, origin: Origin) -> None:
    """Spellings that mean the same are one Request."""
    origin.serve("/f", Resource(ONE))
    first = bay.fetch(origin.url("/f"))
    again = bay.fetch(f"HTTP://127.0.0.1:{origin.port}/f#part")
    assert again.request_id == first.request_id
    assert len(origin.requests("/f")) == 1


def test_offline(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """Offline, what is stored serves, however old; what is not is refused without being registered."""
    origin.serve("/f", Resource(ONE))
    bay.fetch(origin.url("/f"))
    let_pass(bay, 365 * DAY)
    assert one(bay, origin.url("/f"), offline=True).how == "stored"
    assert one(bay, origin.url("/f"), offline=True, refresh="always").how == "stored"
    with pytest.raises(NotStored):
        bay.fetch(origin.url("/g"), offline=True)
    with pytest.raises(NotStored):
        bay.fetch(origin.url("/f"), offline=True, sha256="0" * 64)
    with pytest.raises(NotStored):
        bay.fetch(origin.url("/f"), offline=True, expected_hash="md5:" + "0" * 32)
    assert len(bay.requests()) == 1
    assert origin.connections == 1


def test_offline_after_a_failed_first_fetch(make_bay: MakeBay, origin: Origin) -> None:
    """Registered, but nothing stored: refused as well."""
    bay = make_bay(max_attempts=1)
    assert one(bay, origin.url("/f")).how == "failed"
    with pytest.raises(NotStored):
        bay.fetch(origin.url("/f"), offline=True)


def test_by_version_and_tag(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """A version or a tag names what is stored; nothing is asked, however old it is."""
    resource = origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    first = bay.fetch(url)
    bay.tag(url, "prod")
    resource.change(TWO, etag='"v2"')
    second = bay.fetch(url, refresh="always")
    bay.tag(url, "test")
    let_pass(bay, 30 * DAY)
    assert content(bay, bay.fetch(url, tag="prod")) == ONE
    assert content(bay, bay.fetch(url, tag="test")) == TWO
    assert content(bay, bay.fetch(url, version=first.version)) == ONE
    with bay.open(url, tag="prod") as file:
        assert file.read() == ONE
    assert bay.path(url, version=second.version).read_bytes() == TWO
    assert len(origin.requests("/f")) == 2
    bay.tag(url, "prod")  # the newest of a tag is meant
    assert bay.fetch(url, tag="prod").version == second.version
    assert bay.find(url, version=first.version).tags == ["prod"]
    assert bay.fetch(url, tag="prod").tags == ["prod", "test"]
    assert bay.tag(url, "prod", remove=True).tags == ["test"]
    assert bay.fetch(url, tag="prod").version == first.version


def test_unknown_names(bay: Forebay, origin: Origin) -> None:
    """What nobody named is unknown, with or without a Request, and nothing is registered or asked."""
    origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    bay.fetch(url)
    for wanted in ({"tag": "prod"}, {"version": "20200101T000000000000Z"}):
        with pytest.raises(UnknownVersion):
            bay.fetch(url, **wanted)
        with pytest.raises(UnknownVersion):
            bay.fetch(origin.url("/g"), **wanted)
        with pytest.raises(UnknownVersion):
            bay.find(url, **wanted)
    with pytest.raises(InvalidValue, match="tag"):
        bay.fetch(url, tag="prod", version="20200101T000000000000Z")
    for bad in ("x", "with space", "a/b", "ü" * 3, "a" * 65, ""):
        with pytest.raises(InvalidValue, match="tag"):
            bay.tag(url, bad)
        with pytest.raises(InvalidValue, match="tag"):
            bay.fetch(url, tag=bad)
    assert len(bay.requests()) == 1
    assert origin.connections == 1


# --- failures -------------------------------------------------------------------------------------------


def test_a_failed_refresh_leaves_the_latest(
    make_bay: MakeBay, origin: Origin, let_pass: LetPass, caplog: pytest.LogCaptureFixture
) -> None:
    """The origin fails: the stored version serves, stale, with a warning; the failure is among the versions."""
    bay = make_bay(max_attempts=2)
    origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    first = bay.fetch(url)
    let_pass(bay, CHECK)
    origin.serve("/f", Status(503))
    with caplog.at_level(logging.WARNING, logger="forebay"):
        response = bay.fetch(url)
    assert response.version == first.version
    (warning,) = [record for record in caplog.records if record.name == "forebay"]
    assert warning.levelno == logging.WARNING
    for part in (url, first.version, "503"):
        assert part in warning.getMessage()
    failed, ready = bay.versions(url)
    assert (failed.status, ready.status) == ("failed", "ready")
    assert failed.download_stats.error_code == "origin_busy"
    assert "503" in (failed.download_stats.error or "")
    assert (failed.download_stats.state, failed.download_stats.attempts) == ("failed", 2)
    assert failed.content_hash_hex is None
    latest = bay.latest(url)
    assert latest is not None
    assert latest.version == first.version
    with pytest.raises(UnknownVersion):
        bay.fetch(url, version=failed.version)
    with pytest.raises(StateError):
        bay.open(failed)


def test_a_stale_answer_as_a_value(make_bay: MakeBay, origin: Origin, caplog: pytest.LogCaptureFixture) -> None:
    """`fetch_many` gives the failure beside the stale version and leaves the warning to its caller."""
    bay = make_bay(max_attempts=1)
    origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    first = bay.fetch(url)
    origin.stop()
    fetched = one(bay, url, refresh="always")
    assert (fetched.how, fetched.response and fetched.response.version) == ("stale", first.version)
    assert isinstance(fetched.error, OriginError)
    assert fetched.error.code == "origin_unreachable"
    assert content(bay, fetched.response) == ONE
    assert not [record for record in caplog.records if record.name == "forebay"]


def test_after_a_failure_the_next_call_asks_again(make_bay: MakeBay, origin: Origin, let_pass: LetPass) -> None:
    """A failure is no check: the next request tries again, and what comes then is the latest."""
    bay = make_bay(max_attempts=1)
    resource = origin.serve("/f", Resource(ONE))
    url = origin.url("/f")
    bay.fetch(url)
    let_pass(bay, CHECK)
    resource.change(TWO, etag='"v2"')
    origin.serve("/f", FailFirst(resource, 1, 500))
    assert one(bay, url).how == "stale"
    fetched = one(bay, url)
    assert (fetched.how, content(bay, fetched.response)) == ("fetched", TWO)
    assert statuses(bay, url) == ["ready", "failed", "ready"]


def test_few_failures_are_kept(make_bay: MakeBay, origin: Origin) -> None:
    """A URL that always fails keeps its last five failures."""
    bay = make_bay(max_attempts=1)
    for _ in range(8):
        assert one(bay, origin.url("/f")).how == "failed"
    bay.close()  # retention may run after the answer, but not after the end
    assert statuses(make_bay(), origin.url("/f")) == ["failed"] * 5


def test_a_download_under_way_is_among_the_versions(bay: Forebay, origin: Origin) -> None:
    """While it runs, a version is `in_progress`, and neither the latest nor to be had by its name."""
    held = origin.serve("/f", Held(Resource(ONE)))
    url = origin.url("/f")
    seen: list[str] = []

    def look(_url: str, _progress: object) -> None:
        seen.extend(statuses(bay, url))
        if held.arrivals and ("in_progress" in seen or len(seen) > 20):
            held.release()
            return
        assert bay.latest(url) is None
        with pytest.raises(UnknownVersion):
            bay.find(url, version=bay.versions(url)[0].version)

    response = bay.fetch(url, progress=look)
    assert "in_progress" in seen
    assert statuses(bay, url) == ["ready"]
    assert content(bay, response) == ONE


# --- due work -------------------------------------------------------------------------------------------


def test_a_scheduler_fetches_what_is_due(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """While it runs, due Requests are fetched by themselves; those of `never` and those that are fresh are not."""
    for name, refresh in (("a", "1h"), ("b", "2h"), ("c", "9h"), ("d", "never")):
        origin.serve(f"/{name}", Resource(ONE))
        bay.fetch(origin.url(f"/{name}"), refresh=refresh)
    let_pass(bay, 4 * HOUR)
    scheduler = bay.scheduler()
    scheduler.start()
    origin.wait_for(2, "/a")
    origin.wait_for(2, "/b")
    scheduler.stop()
    bay.close()
    assert len(origin.requests()) == 6


def test_a_scheduler_with_a_dead_origin(make_bay: MakeBay, origin: Origin, let_pass: LetPass) -> None:
    """A failure is kept for people, and the Request is not due again at once."""
    bay = make_bay(max_attempts=1)
    resource = origin.serve("/f", Resource(ONE))
    origin.serve("/last", Resource(TWO))
    url = origin.url("/f")
    bay.fetch(url, refresh="2h")
    bay.fetch(origin.url("/last"), refresh="1h")
    let_pass(bay, 3 * HOUR)
    origin.serve("/f", Status(500))
    scheduler = bay.scheduler()
    scheduler.start()
    origin.wait_for(2, "/last")
    origin.wait_for(2, "/f")
    scheduler.stop()
    while statuses(bay, url)[0] in ("wait", "in_progress"):
        threading.Event().wait(0.01)  # the answer is on its way; closing now would suspend the fetch
    assert statuses(bay, url) == ["failed", "ready"]
    assert len(origin.requests("/f")) == 2
    assert resource.gets == 1


def test_deleted_urls_are_not_due(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """What was removed is fetched no more by itself; when it is asked for, it is fetched whole."""
    for name in "fg":
        origin.serve(f"/{name}", Resource(ONE))
        bay.fetch(origin.url(f"/{name}"), refresh="1h")
    bay.delete(origin.url("/f"))
    let_pass(bay, 2 * HOUR)
    scheduler = bay.scheduler()
    scheduler.start()
    origin.wait_for(2, "/g")
    scheduler.stop()
    assert len(origin.requests("/f")) == 1
    assert one(bay, origin.url("/f")).how == "fetched"
    assert conditions(origin) == [("GET", None, None)] * 2
