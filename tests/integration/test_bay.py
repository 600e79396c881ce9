"""A Forebay as a whole: what it keeps, what it drops, how many work on it at once, and how it ends.

Longer than our guide size: all that `forebay.bay`, `forebay.abay` and `forebay.housekeeping` promise, against
a real origin and a real folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay import Progress, RequestSpec, Response
from forebay.bay import Forebay
from forebay.errors import (
    ContentRotten,
    InvalidValue,
    NotStored,
    OriginError,
    StateError,
    UnknownRequest,
    UnknownVersion,
)
from forebay.reports import Fetched
from origin import Behaviour, Busy, Exchange, Held, Origin, Resource, Stall, Status, blob

MakeBay = Callable[..., Forebay]
LetPass = Callable[[Forebay, float], None]
BODY = blob(1_000_000)
ONE, TWO, THREE, FOUR = (blob(5000, seed=n) for n in (1, 2, 3, 4))
HOUR, DAY = 3600, 86400


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def one(bay: Forebay, url: str | RequestSpec, **options: Any) -> Fetched:
    """What comes of *url*, failures as values."""
    (fetched,) = bay.fetch_many([url], **options)
    return fetched


def content(bay: Forebay, response: Response | None) -> bytes:
    assert response is not None
    with bay.open(response) as file:
        return file.read()


def bodies(bay: Forebay, url: str) -> list[bytes]:
    """The contents of the ready versions, the newest first."""
    return [content(bay, version) for version in bay.versions(url) if version.status == "ready"]


def serve(bay: Forebay, origin: Origin, path: str, *contents: bytes) -> str:
    """The URL of *path*, with *contents* stored as its versions, in order."""
    url = origin.url(path)
    for body in contents:
        origin.serve(path, Resource(body, etag=f'"{sha256(body)}"'))
        known = any(request.url == url for request in bay.requests())
        bay.fetch(url, refresh="always" if known else None)
    return url


def ranges(origin: Origin, path: str = "/f") -> list[tuple[str | None, str | None]]:
    return [(seen.fields.get("range"), seen.fields.get("if-range")) for seen in origin.requests(path)]


WHOLE = (None, None)


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """An event that only the end of the test sets, so that nobody stalls for ever."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


# --- reading --------------------------------------------------------------------------------------------


def test_open_gives_a_seekable_file(bay: Forebay, origin: Origin) -> None:
    """`open` takes a URL, fetches it, and gives a binary file to seek in."""
    origin.serve("/f", Resource(BODY))
    with bay.open(origin.url("/f")) as file:
        assert file.seekable()
        assert file.seek(-10, io.SEEK_END) == len(BODY) - 10
        assert file.read() == BODY[-10:]
        file.seek(500_000)
        assert file.read(3) == BODY[500_000:500_003]
        assert file.mode == "rb"


def test_an_open_file_outlives_its_version(make_bay: MakeBay, origin: Origin, let_pass: LetPass) -> None:
    """Deleted, purged and swept: who has it open reads on."""
    bay = make_bay(sweep_grace_s=0)
    url = serve(bay, origin, "/f", BODY)
    path = bay.path(url)
    with bay.open(url) as file:
        assert file.read(1000) == BODY[:1000]
        bay.delete(url)
        let_pass(bay, DAY + 1)
        bay.gc()
        assert not path.exists()
        assert bay.usage().contents == 0
        assert file.read() == BODY[1000:]
        file.seek(0)
        assert file.read() == BODY


def test_path_is_read_only(bay: Forebay, origin: Origin) -> None:
    """`path` leads to the bytes, which nobody may write."""
    url = serve(bay, origin, "/f", ONE)
    path = bay.path(url)
    assert path.read_bytes() == ONE
    assert path.is_relative_to(bay.folder)
    assert path.stat().st_mode & 0o222 == 0


def test_only_content_can_be_opened(make_bay: MakeBay, origin: Origin) -> None:
    """A failed version has nothing to read."""
    bay = make_bay(max_attempts=1)
    assert one(bay, origin.url("/f")).how == "failed"
    (failed,) = bay.versions(origin.url("/f"))
    for read in (bay.open, bay.path):
        with pytest.raises(StateError, match="failed"):
            read(failed)
    with pytest.raises(OriginError):
        bay.open(origin.url("/f"))


# --- retention ------------------------------------------------------------------------------------------


def test_two_unpinned_versions_are_kept(make_bay: MakeBay, origin: Origin) -> None:
    """The oldest beyond two goes by itself; its bytes go with the sweep."""
    bay = make_bay()
    url = serve(bay, origin, "/f", ONE, TWO, THREE)
    bay.close()
    bay = make_bay(sweep_grace_s=0)
    assert bodies(bay, url) == [THREE, TWO]
    assert bay.usage().contents == 3
    assert bay.gc().freed_bytes == len(ONE)
    assert bay.usage().contents == 2
    assert bodies(bay, url) == [THREE, TWO]


def test_pinned_versions_stay(make_bay: MakeBay, origin: Origin) -> None:
    """A pinned version does not count among the unpinned and is not evicted."""
    bay = make_bay()
    url = serve(bay, origin, "/f", ONE)
    pinned = bay.pin(url)
    assert (pinned.pinned, pinned.pinned_until_utc) == (True, None)
    serve(bay, origin, "/f", TWO, THREE, FOUR)
    bay.close()
    bay = make_bay()
    assert bodies(bay, url) == [FOUR, THREE, ONE]
    assert bay.usage().pinned_versions == 1
    # Once let go, it is one too many.
    bay.pin(url, version=pinned.version, value=False)
    assert bodies(bay, url) == [FOUR, THREE]


def test_too_many_pinned_versions(bay: Forebay, origin: Origin) -> None:
    """Beyond their own limit the oldest pinned ones go; the newest version always stays."""
    url = serve(bay, origin, "/f", ONE)
    bay.configure(url, max_cached_pinned_versions=10, max_cached_unpinned_versions=10)
    bay.pin(url)
    for body in (TWO, THREE):
        serve(bay, origin, "/f", body)
        bay.pin(url)
    assert bodies(bay, url) == [THREE, TWO, ONE]
    bay.configure(url, max_cached_pinned_versions=2)
    assert bodies(bay, url) == [THREE, TWO]
    bay.configure(url, max_cached_pinned_versions=0)
    assert bodies(bay, url) == [THREE]


def test_a_pin_for_a_time(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """When its time has come a pin holds no longer."""
    url = serve(bay, origin, "/f", ONE)
    pinned = bay.pin(url, duration_sec=HOUR)
    assert pinned.pinned
    assert pinned.pinned_until_utc is not None
    serve(bay, origin, "/f", TWO, THREE)
    bay.gc()
    assert bodies(bay, url) == [THREE, TWO, ONE]
    let_pass(bay, HOUR + 1)
    assert not bay.find(url, version=pinned.version).pinned
    bay.gc()
    assert bodies(bay, url) == [THREE, TWO]
    for bad in (0, -1, float("nan")):
        with pytest.raises(InvalidValue, match="duration_sec"):
            bay.pin(url, duration_sec=bad)


def test_duplicates_go_after_two_minutes(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """A duplicate can be seen for 120 s."""
    url = serve(bay, origin, "/f", ONE)
    bay.configure(url, refresh="always")
    bay.fetch(url)
    let_pass(bay, 119)
    bay.gc()
    assert [version.status for version in bay.versions(url)] == ["duplicate", "ready"]
    let_pass(bay, 2)
    report = bay.gc()
    assert [version.status for version in bay.versions(url)] == ["ready"]
    assert ["duplicate" in item.reason for item in report.items] == [True]
    assert content(bay, bay.latest(url)) == ONE


def test_a_server_evicts_duplicates_by_itself(bay: Forebay, origin: Origin, let_pass: LetPass) -> None:
    """When their time is over, though nobody fetches that URL again or calls `gc`."""
    url = serve(bay, origin, "/f", ONE)
    bay.configure(url, refresh="always")
    bay.fetch(url)
    let_pass(bay, 119)
    bay.tend()
    assert [version.status for version in bay.versions(url)] == ["duplicate", "ready"]
    let_pass(bay, 2)
    bay.tend()
    assert [version.status for version in bay.versions(url)] == ["ready"]


def test_what_was_fetched_for_nobody_takes_no_space(bay: Forebay, origin: Origin) -> None:
    """Its Request was removed while it landed, and its last byte came before anybody noticed."""
    held = origin.serve("/f", Held(Resource(ONE)))
    with ThreadPoolExecutor() as pool:
        fetching = pool.submit(bay.fetch, origin.url("/f"))
        held.arrived()
        bay.delete(origin.url("/f"))
        origin.serve("/f", Resource(TWO))
        held.release()
        assert content(bay, fetching.result(60)) == TWO  # who still waits has it fetched anew
    assert {sha256 for sha256, _, _ in bay.store.stored()} == {hashlib.sha256(TWO).hexdigest()}
    assert bay.usage().contents == 1
    assert bay.usage().partial_bytes == 0


# --- quota ----------------------------------------------------------------------------------------------


def test_quota_takes_the_least_used(
    make_bay: MakeBay, origin: Origin, let_pass: LetPass, caplog: pytest.LogCaptureFixture
) -> None:
    """Over the quota, what was used least recently goes at once, and it is said."""
    bay = make_bay(quota_bytes=12_000)
    a = serve(bay, origin, "/a", ONE)
    b = serve(bay, origin, "/b", TWO)
    let_pass(bay, HOUR)
    bay.fetch(a)  # used again, later than b
    bay.close()
    bay = make_bay(quota_bytes=12_000)
    with caplog.at_level(logging.INFO, logger="forebay"):
        c = serve(bay, origin, "/c", THREE)
        bay.close()
    evictions = [record.getMessage() for record in caplog.records if "quota" in record.getMessage()]
    assert len(evictions) == 1
    assert b in evictions[0]
    assert "12000" in evictions[0]
    bay = make_bay(quota_bytes=12_000)
    assert (bodies(bay, a), bodies(bay, b), bodies(bay, c)) == ([ONE], [], [THREE])
    assert bay.usage().content_bytes == 10_000
    assert len(list((bay.folder / "content").rglob("?" * 60 + "*"))) == 2


def test_quota_takes_superseded_versions_first(make_bay: MakeBay, origin: Origin) -> None:
    """A version that another has replaced goes before any latest one, however fresh."""
    bay = make_bay(quota_bytes=15_000)
    old = serve(bay, origin, "/old", ONE)
    new = serve(bay, origin, "/new", TWO, THREE)
    serve(bay, origin, "/last", FOUR)
    bay.close()
    bay = make_bay(quota_bytes=15_000)
    assert (bodies(bay, old), bodies(bay, new)) == ([ONE], [THREE])


def test_quota_never_takes_what_was_just_stored(make_bay: MakeBay, origin: Origin) -> None:
    """Even alone over the quota, the newest stays until the next comes."""
    bay = make_bay(quota_bytes=1000)
    a = serve(bay, origin, "/a", ONE)
    bay.close()
    bay = make_bay(quota_bytes=1000)
    assert bodies(bay, a) == [ONE]
    b = serve(bay, origin, "/b", TWO)
    bay.close()
    bay = make_bay(quota_bytes=1000)
    assert (bodies(bay, a), bodies(bay, b)) == ([], [TWO])


def test_quota_spares_what_is_pinned(make_bay: MakeBay, origin: Origin) -> None:
    """Pinned versions stay, whatever the quota; shared content frees nothing before its last version goes."""
    bay = make_bay(quota_bytes=6000)
    a = serve(bay, origin, "/a", ONE)
    bay.pin(a)
    b = serve(bay, origin, "/b", TWO)
    c = serve(bay, origin, "/c", THREE)
    bay.close()
    bay = make_bay(quota_bytes=6000)
    assert (bodies(bay, a), bodies(bay, b), bodies(bay, c)) == ([ONE], [], [THREE])


def test_quota_takes_what_was_deleted_first(make_bay: MakeBay, origin: Origin) -> None:
    """Deleted versions give way before anything in use."""
    bay = make_bay(quota_bytes=12_000)
    a = serve(bay, origin, "/a", ONE)
    b = serve(bay, origin, "/b", TWO)
    bay.delete(b)
    serve(bay, origin, "/c", THREE)
    bay.close()
    bay = make_bay(quota_bytes=12_000)
    assert bodies(bay, a) == [ONE]
    with pytest.raises(UnknownVersion):
        bay.undelete(b)


# --- delete, gc -----------------------------------------------------------------------------------------


def test_delete_and_undelete(bay: Forebay, origin: Origin) -> None:
    """Removed versions are gone from every face, and come back as they were."""
    url = serve(bay, origin, "/f", ONE, TWO)
    bay.tag(url, "prod")
    before = bay.versions(url)
    assert [version.version for version in bay.delete(url)] == [version.version for version in before]
    assert bay.versions(url) == []
    assert bay.latest(url) is None
    for wanted in ({"tag": "prod"}, {"version": before[0].version}, {}):
        with pytest.raises(UnknownVersion):
            bay.find(url, **wanted)
    with pytest.raises(NotStored):
        bay.fetch(url, offline=True)
    assert [version.version for version in bay.versions(url, deleted=True)] == [v.version for v in before]
    assert bay.usage().deleted_versions == 2
    assert bay.gc().items == []
    bay.undelete(url)
    assert bay.versions(url) == before
    assert bodies(bay, url) == [TWO, ONE]


def test_delete_one_version(bay: Forebay, origin: Origin) -> None:
    """One version may go; when it was the latest, the one before is."""
    url = serve(bay, origin, "/f", ONE, TWO)
    newest = bay.versions(url)[0].version
    bay.delete(url, version=newest)
    assert content(bay, bay.latest(url)) == ONE
    with pytest.raises(UnknownVersion):
        bay.delete(url, version=newest)
    bay.undelete(url, version=newest)
    assert content(bay, bay.latest(url)) == TWO
    with pytest.raises(UnknownVersion):
        bay.undelete(url)


def test_deleted_for_good_after_a_day(make_bay: MakeBay, origin: Origin, let_pass: LetPass) -> None:
    """A day later the next sweep takes it."""
    bay = make_bay(sweep_grace_s=0)
    url = serve(bay, origin, "/f", ONE)
    bay.delete(url)
    let_pass(bay, DAY - 60)
    assert bay.gc().items == []
    let_pass(bay, 61)
    report = bay.gc()
    assert {item.kind for item in report.items} == {"deleted", "content"}
    assert report.freed_bytes == len(ONE)
    with pytest.raises(UnknownVersion):
        bay.undelete(url)
    assert bay.usage().contents == 0


def everything(bay: Forebay) -> tuple[object, ...]:
    """All files with size and time, and all rows of the catalog."""
    files = sorted(
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for path in bay.folder.rglob("*")
        if path.is_file() and not path.name.startswith("catalog.sqlite")
    )
    with closing(sqlite3.connect(bay.folder / "catalog.sqlite")) as catalog:
        tables = ("requests", "responses", "contents", "tags")
        return files, *(catalog.execute(f"SELECT * FROM {table}").fetchall() for table in tables)


def test_a_dry_run_changes_nothing(
    make_bay: MakeBay, origin: Origin, let_pass: LetPass, never: threading.Event
) -> None:
    """`gc(dry_run=True)` says what would go, and why, and leaves all as it is."""
    bay = make_bay()
    url = serve(bay, origin, "/f", ONE)
    bay.configure(url, max_cached_unpinned_versions=3)
    serve(bay, origin, "/f", TWO, THREE)
    gone = serve(bay, origin, "/gone", FOUR)
    bay.delete(gone)
    suspend_one(bay, origin, never)
    bay.close()
    let_pass(bay, 30 * DAY)
    junk = b"left over"
    (bay.folder / "content" / sha256(junk)).write_bytes(junk)
    with closing(sqlite3.connect(bay.folder / "catalog.sqlite")) as catalog, catalog:
        catalog.execute(
            "UPDATE requests SET cache_configuration = replace(cache_configuration, "
            "'\"max_cached_unpinned_versions\":3', '\"max_cached_unpinned_versions\":1') WHERE url = ?",
            (url,),
        )
    bay = make_bay(sweep_grace_s=0, partial_keep_s=0)
    before = everything(bay)
    told = bay.gc(dry_run=True)
    assert everything(bay) == before
    assert {item.kind for item in told.items} == {"version", "deleted", "content", "partial"}
    assert all(item.reason for item in told.items)
    done = bay.gc()
    assert {(i.kind, i.name) for i in told.items} <= {(i.kind, i.name) for i in done.items}
    assert told.freed_bytes <= done.freed_bytes
    assert everything(bay) != before
    assert bodies(bay, url) == [THREE]
    assert bay.gc().items == []
    assert not list((bay.folder / "partial").iterdir())


# --- leftovers of crashes -------------------------------------------------------------------------------


def suspend_one(bay: Forebay, origin: Origin, never: threading.Event, path: str = "/stalls") -> str:
    """A download that was closed after 300,000 bytes; its URL. *bay* is closed afterwards."""
    origin.serve(path, Stall(Resource(BODY), 300_000, never, times=1))
    url = origin.url(path)
    landed = threading.Event()

    def look(_url: str, progress: Progress) -> None:
        if progress.downloaded_bytes == 300_000:
            landed.set()

    caught: list[BaseException] = []

    def fetch() -> None:
        try:
            bay.fetch(url, progress=look)
        except StateError as error:
            caught.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    assert landed.wait(30)
    bay.close()
    thread.join(30)
    assert not thread.is_alive()
    assert len(caught) == 1
    return url


def test_content_without_a_row_is_swept(make_bay: MakeBay, origin: Origin) -> None:
    """A crash between rename and commit leaves a file: it goes after the grace time, not before."""
    junk = b"left over"
    bay = make_bay()
    kept = serve(bay, origin, "/f", ONE)
    left = bay.path(kept).with_name(sha256(junk))
    left.write_bytes(junk)
    assert bay.gc().items == []
    assert left.exists()
    bay.close()
    bay = make_bay(sweep_grace_s=0)
    (item,) = bay.gc().items
    assert (item.kind, item.name, item.size_bytes) == ("content", sha256(junk), len(junk))
    assert not left.exists()
    assert bodies(bay, kept) == [ONE]


def test_old_partials_are_swept(make_bay: MakeBay, origin: Origin, never: threading.Event) -> None:
    """An unfinished download is kept for a week; after that it goes, and begins anew when asked for."""
    url = suspend_one(make_bay(), origin, never)
    bay = make_bay()
    assert bay.usage().partial_bytes == 300_000
    assert bay.gc().items == []
    for path in (bay.folder / "partial").iterdir():
        os.utime(path, (0, 0))
    report = bay.gc()
    assert [item.kind for item in report.items] == ["partial"]
    assert report.freed_bytes == 300_000
    assert not list((bay.folder / "partial").iterdir())
    assert content(bay, bay.fetch(url)) == BODY
    assert ranges(origin, "/stalls") == [WHOLE, WHOLE]


# --- rot ------------------------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    """Make stored bytes wrong."""
    if how == "missing":
        path.unlink()
        return
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    else:
        del data[-1]
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_verify_finds_rot(bay: Forebay, origin: Origin, how: str) -> None:
    """Damaged content is named with its versions, never served again, and fetched anew."""
    url, sound = serve(bay, origin, "/f", ONE), serve(bay, origin, "/sound", TWO)
    first = bay.latest(url)
    assert first is not None
    damage(bay.path(url), how)
    seen: list[tuple[int, int]] = []
    report = bay.verify(progress=lambda done, total: seen.append((done, total)))
    assert (report.checked, report.checked_bytes) == (2, 10_000)
    assert seen[-1] == (10_000, 10_000)
    (rot,) = report.rotten
    assert rot.sha256 == sha256(ONE)
    assert [(r.url, r.version) for r in rot.responses] == [(url, first.version)]
    (version,) = bay.versions(url)
    assert (version.status, version.download_stats.error_code) == ("failed", "content_rotten")
    assert bay.latest(url) is None
    with pytest.raises(UnknownVersion):
        bay.fetch(url, version=first.version)
    with pytest.raises(NotStored):
        bay.fetch(url, offline=True)
    assert bodies(bay, sound) == [TWO]
    assert content(bay, bay.fetch(url)) == ONE
    assert len(origin.requests("/f")) == 2
    assert "if-none-match" not in origin.requests("/f")[1].fields
    report = bay.verify()
    assert (report.checked, report.rotten) == (2, [])
    assert one(bay, url).how == "stored"


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_obvious_rot_is_noticed_without_verify(bay: Forebay, origin: Origin, how: str) -> None:
    """Content that is gone or has another size is fetched anew by whoever asks."""
    url = serve(bay, origin, "/f", ONE)
    damage(bay.path(url), how)
    with bay.open(url) as file:
        assert file.read() == ONE
    assert len(origin.requests("/f")) == 2


def test_rot_is_not_opened(bay: Forebay, origin: Origin) -> None:
    """A version in hand whose bytes are gone cannot be opened."""
    url = serve(bay, origin, "/f", ONE)
    response = bay.fetch(url)
    damage(bay.path(url), "missing")
    with pytest.raises(ContentRotten):
        bay.open(response)
    assert bay.latest(url) is None


def test_rot_with_the_origin_gone(make_bay: MakeBay, origin: Origin) -> None:
    """The version before a rotten one serves when the origin is gone."""
    bay = make_bay(max_attempts=1)
    url = serve(bay, origin, "/f", ONE, TWO)
    damage(bay.path(url), "flipped")
    bay.verify()
    origin.stop()
    fetched = one(bay, url)
    assert (fetched.how, content(bay, fetched.response)) == ("stale", ONE)


def test_history_heals(bay: Forebay, origin: Origin) -> None:
    """When the same bytes come back, every version that had them is ready again; those of other URLs too."""
    url, other = serve(bay, origin, "/f", ONE), serve(bay, origin, "/other", ONE)
    first = bay.fetch(url)
    bay.tag(url, "prod")
    damage(bay.path(url), "flipped")
    (rot,) = bay.verify().rotten
    assert {response.url for response in rot.responses} == {url, other}
    assert content(bay, bay.fetch(url)) == ONE
    assert content(bay, bay.fetch(url, version=first.version)) == ONE
    assert content(bay, bay.fetch(url, tag="prod")) == ONE
    assert bay.find(url, version=first.version).download_stats.error is None
    assert content(bay, bay.fetch(other, offline=True)) == ONE
    assert len(origin.requests("/other")) == 1


# --- names and ids --------------------------------------------------------------------------------------

DISPOSITIONS = {
    'attachment; filename="report.csv"': "report.csv",
    "attachment; filename=plain.txt": "plain.txt",
    "attachment; filename=\"fallback.txt\"; filename*=UTF-8''gr%C3%BC%C3%9Fe.txt": "grüße.txt",
    'attachment; filename="../../../../etc/passwd"': "passwd",
    'attachment; filename="/etc/cron.d/evil"': "evil",
    'attachment; filename="..\\\\..\\\\windows\\\\evil.exe"': "evil.exe",
    "attachment; filename*=UTF-8''..%2F..%2Fevil": "evil",
    'attachment; filename=".."': "f",
    'attachment; filename="CON"': "_CON",
    "inline": "f",
    "attachment": "f",
}


@pytest.mark.parametrize("disposition", DISPOSITIONS)
def test_file_names_are_data(bay: Forebay, origin: Origin, disposition: str) -> None:
    """The origin's name for the content is kept, made safe, and is never part of a path of ours."""
    origin.serve("/f", Resource(ONE, fields=[("Content-Disposition", disposition)]))
    response = bay.fetch(origin.url("/f"))
    assert response.content_attributes.filename == DISPOSITIONS[disposition]
    assert response.content_attributes.content_disposition == disposition
    assert content(bay, response) == ONE
    known = re.compile(r"catalog\.sqlite(-wal|-shm)?|[a-z]+\.lock|\d+-[0-9a-f]+\.lock|[0-9a-f]{62,64}")
    names = [path.name for path in bay.folder.rglob("*") if path.is_file()]
    assert [name for name in names if not known.fullmatch(name)] == []
    assert {path.name for path in bay.folder.parent.iterdir()} == {"bay"}


@pytest.mark.parametrize(
    ("path", "media_type", "name"),
    [
        ("/a/b/data.csv?x=1", "text/csv", "data.csv"),
        ("/a/b/", "text/plain", "b"),
        ("/", "application/pdf", "download.pdf"),
        ("/%2e%2e%2fetc%2fpasswd", "text/plain", "passwd"),
        ("/gr%C3%BC%C3%9Fe", "text/plain", "grüße"),
    ],
)
def test_file_names_from_the_url(bay: Forebay, origin: Origin, path: str, media_type: str, name: str) -> None:
    """Without a proposal the URL names the file, else the media type does."""
    origin.serve("*", Resource(ONE, media_type=media_type))
    assert bay.fetch(origin.url(path)).content_attributes.filename == name


def test_ids(bay: Forebay, origin: Origin) -> None:
    """A Request's id stands for its URL, also where several Requests have one URL."""
    origin.serve("/f", Resource(lambda seen: seen.fields.get("x-who", "nobody").encode(), etag=None))
    url = origin.url("/f")
    specs = [RequestSpec(url=url, http_header_fields={"X-Who": who}) for who in ("a", "b")]
    a, b = (bay.fetch(spec) for spec in specs)
    assert a.request_id != b.request_id
    assert bay.latest(a.request_id) == a
    assert bay.versions(b.request_id) == [b]
    assert {request.id for request in bay.requests()} == {a.request_id, b.request_id}
    with pytest.raises(InvalidValue, match=a.request_id):
        bay.latest(url)
    plain = bay.fetch(url)
    assert bay.latest(url) == plain
    for unknown in ("0" * 32, origin.url("/unknown")):
        with pytest.raises(UnknownRequest):
            bay.versions(unknown)


def test_a_response_travels_as_json(bay: Forebay, origin: Origin) -> None:
    """A Response survives JSON, and its download path is relative to the API's base."""
    url = serve(bay, origin, "/f", ONE)
    response = bay.fetch(url)
    assert Response.model_validate_json(response.model_dump_json()) == response
    assert response.content_download_path == f"request/{response.request_id}/response/v/{response.version}/content"


def test_another_validation_hash(bay: Forebay, origin: Origin) -> None:
    """`content_hash_hex` is by the Request's hash; the content's address stays SHA-256."""
    origin.serve("/f", Resource(ONE))
    response = bay.fetch(RequestSpec(url=origin.url("/f"), validation_hash_type="MD5"))
    assert response.content_hash_hex == hashlib.md5(ONE, usedforsecurity=False).hexdigest()
    assert response.content_attributes.sha256 == sha256(ONE)


def test_usage(make_bay: MakeBay, origin: Origin, never: threading.Event) -> None:
    """Counts and bytes: of Requests, versions, contents, partial files and the catalog."""
    bay = make_bay()
    a, b = serve(bay, origin, "/a", ONE, TWO), serve(bay, origin, "/b", ONE)
    bay.pin(a)
    serve(bay, origin, "/c", THREE)
    bay.delete(origin.url("/c"))
    suspend_one(bay, origin, never)
    bay = make_bay(quota_bytes=10**9)
    usage = bay.usage()
    assert b != a
    assert (usage.requests, usage.versions, usage.pinned_versions, usage.deleted_versions) == (4, 3, 1, 1)
    assert (usage.contents, usage.content_bytes, usage.logical_bytes) == (3, 15_000, 15_000)
    assert (usage.partial_bytes, usage.quota_bytes) == (300_000, 10**9)
    assert usage.catalog_bytes > 0
    assert usage.free_bytes > 0


# --- many at once ---------------------------------------------------------------------------------------


class Counting:
    """Counts how many it serves at once; with a *barrier*, nobody is served before that many are there."""

    def __init__(self, then: Behaviour, barrier: threading.Barrier | None = None) -> None:
        self.then, self.barrier = then, barrier
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            if self.barrier is not None:
                self.barrier.wait(30)
        finally:
            # Before the answer: with its last byte the client may begin the next.
            with self._lock:
                self.now -= 1
        self.then(exchange)


def own_body(size: int = 3000) -> Resource:
    """A body that names the path it was asked for."""
    return Resource(lambda seen: seen.path.encode() * (size // 10), etag=None)


def test_many_urls_over_several_hosts(make_bay: MakeBay) -> None:
    """200 URLs on four hosts: one answer for each, the right one."""
    bay = make_bay(max_downloads=16, max_downloads_per_host=4)
    with ExitStack() as stack:
        hosts = [stack.enter_context(Origin()) for _ in range(4)]
        for host in hosts:
            host.serve("*", own_body())
        urls = [host.url(f"/{n}/{n * 7}") for n in range(50) for host in hosts]
        answers = {fetched.url: fetched for fetched in bay.fetch_many(urls)}
        assert set(answers) == set(urls)
        for url, fetched in answers.items():
            path = "/" + url.split("/", 3)[3]
            assert fetched.how == "fetched"
            assert content(bay, fetched.response) == path.encode() * 300
        assert sum(len(host.requests()) for host in hosts) == 200
        assert {fetched.how for fetched in bay.fetch_many(urls)} == {"stored"}
        assert sum(len(host.requests()) for host in hosts) == 200


def test_more_urls_than_the_window(make_bay: MakeBay, origin: Origin) -> None:
    """An endless list is taken as it is needed, not at once."""
    bay = make_bay(max_downloads=8, max_downloads_per_host=8)
    origin.serve("*", own_body(10))
    taken = 0

    def urls() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield origin.url(f"/{taken}")

    answers = bay.fetch_many(urls())
    got = {next(answers).url for _ in range(600)}
    answers.close()
    assert len(got) == 600
    assert taken <= 600 + 512


def test_bad_urls_among_good_ones(make_bay: MakeBay, origin: Origin) -> None:
    """Each bad one fails by itself, with its code."""
    bay = make_bay(max_attempts=1)
    origin.serve("/a", Resource(ONE))
    origin.serve("/b", Resource(TWO))
    origin.serve("/500", Status(500))
    wanted = {
        origin.url("/a"): None,
        "ftp://127.0.0.1/x": "url_invalid",
        "no url at all": "url_invalid",
        "": "url_invalid",
        "http://": "url_invalid",
        "http://127.0.0.1/" + "x" * 9000: "url_invalid",
        origin.url("/404"): "origin_status",
        origin.url("/500"): "origin_status",
        "http://169.254.169.254/": "origin_refused",
        origin.url("/b"): None,
    }
    answers = list(bay.fetch_many(wanted))
    assert len(answers) == len(wanted)
    codes = {fetched.asked: None if fetched.error is None else fetched.error.code for fetched in answers}
    assert codes == wanted
    assert {f.how for f in answers if f.error is None} == {"fetched"}


def test_the_same_url_twice_in_one_call(bay: Forebay, origin: Origin) -> None:
    """Each asking gets its answer, from one GET."""
    origin.serve("/f", Resource(ONE))
    answers = list(bay.fetch_many([origin.url("/f")] * 5))
    assert len(answers) == 5
    assert {fetched.response and fetched.response.version for fetched in answers} == {
        bay.versions(origin.url("/f"))[0].version
    }
    assert len(origin.requests("/f")) == 1


def test_no_urls(bay: Forebay) -> None:
    """Nothing asked, nothing answered, nothing started."""
    assert list(bay.fetch_many([])) == []


def test_an_abandoned_iterator(bay: Forebay, origin: Origin) -> None:
    """Who stops early suspends what had begun; asked for again at once, it comes."""
    origin.serve("/first", Resource(ONE))
    held = origin.serve("/held", Held(Resource(TWO)))
    answers = bay.fetch_many([origin.url("/first"), origin.url("/held"), origin.url("/queued")])
    assert next(answers).url == origin.url("/first")
    held.arrived()
    answers.close()
    held.release()
    assert content(bay, bay.fetch(origin.url("/held"))) == TWO
    assert origin.requests("/queued") == []


def test_abandoned_and_asked_for_again_at_once(bay: Forebay, origin: Origin, never: threading.Event) -> None:
    """A fetch that comes while its URL's download is being suspended is not suspended with it."""
    for n in range(20):
        origin.serve(f"/{n}", Stall(Resource(BODY), 300_000, never, times=1))
        answers = bay.fetch_many([origin.url(f"/{n}")], progress=stop_at(300_000))
        with pytest.raises(Stop):
            next(answers)
        assert content(bay, bay.fetch(origin.url(f"/{n}"))) == BODY
        assert len(origin.requests(f"/{n}")) == 2


class Stop(Exception):
    """Raised by a progress callback that has seen enough."""


def stop_at(size: int) -> Callable[[str, Progress], None]:
    """A progress callback that stops the caller when *size* bytes are there."""

    def look(_url: str, progress: Progress) -> None:
        if progress.downloaded_bytes >= size:
            raise Stop

    return look


def test_eight_threads_share_one_get(bay: Forebay, origin: Origin, pool: ThreadPoolExecutor) -> None:
    """One download for all who ask meanwhile; each sees its progress and gets the same version."""
    held = origin.serve("/f", Held(Resource(BODY)))
    waiting = threading.Barrier(8, action=held.release)
    mine = threading.local()

    def look(_url: str, _progress: Progress) -> None:
        if not hasattr(mine, "waited"):
            mine.waited = True
            waiting.wait(30)

    def fetch(_: int) -> Response:
        return bay.fetch(origin.url("/f"), refresh="always", progress=look)

    responses = list(pool.map(fetch, range(8)))
    assert len({response.version for response in responses}) == 1
    assert content(bay, responses[0]) == BODY
    assert len(origin.requests("/f")) == 1


def test_one_of_two_waiters_leaves(bay: Forebay, origin: Origin, pool: ThreadPoolExecutor) -> None:
    """A download goes on while anyone waits for it."""
    held = origin.serve("/f", Held(Resource(ONE)))
    joined, left = threading.Event(), threading.Event()

    def leave(_url: str, _progress: Progress) -> None:
        held.arrived()
        assert joined.wait(30)
        raise Stop

    def stay(_url: str, _progress: Progress) -> None:
        joined.set()
        if left.is_set():
            held.release()

    leaver = pool.submit(bay.fetch, origin.url("/f"), progress=leave)
    held.arrived()
    stayer = pool.submit(bay.fetch, origin.url("/f"), progress=stay)
    with pytest.raises(Stop):
        leaver.result(30)
    left.set()
    assert content(bay, stayer.result(30)) == ONE
    assert len(origin.requests("/f")) == 1


def test_downloads_at_once(make_bay: MakeBay) -> None:
    """Three at once over all hosts: never more, and as many as that."""
    bay = make_bay(max_downloads=3, max_downloads_per_host=3)
    counting = Counting(own_body(), threading.Barrier(3))
    with ExitStack() as stack:
        hosts = [stack.enter_context(Origin()) for _ in range(6)]
        for host in hosts:
            host.serve("*", counting)
        answers = list(bay.fetch_many([host.url(f"/{n}") for n in range(6) for host in hosts]))
    assert {fetched.how for fetched in answers} == {"fetched"}
    assert counting.most == 3


def test_downloads_at_once_from_one_host(make_bay: MakeBay) -> None:
    """Two at once from each host: never more, and as many as that."""
    bay = make_bay(max_downloads=16, max_downloads_per_host=2)
    with ExitStack() as stack:
        hosts = [stack.enter_context(Origin()) for _ in range(3)]
        counts = [host.serve("*", Counting(own_body(), threading.Barrier(2))) for host in hosts]
        answers = list(bay.fetch_many([host.url(f"/{n}") for n in range(12) for host in hosts]))
    assert {fetched.how for fetched in answers} == {"fetched"}
    assert [count.most for count in counts] == [2, 2, 2]


def test_backing_off_frees_the_hosts_slot(bay: Forebay, origin: Origin) -> None:
    """Who waits for a busy resource lets another one of its host go first."""
    origin.serve("/busy", Busy(Resource(ONE), 1, 503, "1"))
    origin.serve("/other", Resource(TWO))
    answers = list(bay.fetch_many([origin.url("/busy"), origin.url("/other")]))
    assert [fetched.url for fetched in answers] == [origin.url("/other"), origin.url("/busy")]
    assert [seen.path for seen in origin.requests()] == ["/busy", "/other", "/busy"]


def test_a_slow_host_holds_up_nobody_else(bay: Forebay, origin: Origin) -> None:
    """Hosts do not wait for each other."""
    held = origin.serve("/slow", Held(Resource(ONE)))
    with Origin() as quick:
        quick.serve("*", own_body())
        answers = bay.fetch_many([origin.url("/slow"), *(quick.url(f"/{n}") for n in range(20))])
        first = [next(answers) for _ in range(20)]
        assert origin.url("/slow") not in {fetched.url for fetched in first}
        held.release()
        assert next(answers).url == origin.url("/slow")


def test_progress(bay: Forebay, origin: Origin, never: threading.Event) -> None:
    """Progress is told in the caller's thread, with total, attempt, resumed bytes and the last failure."""
    origin.serve("/f", Stall(Resource(BODY), 300_000, never, times=1))
    seen: list[tuple[int, int | None]] = []
    threads: set[int] = set()
    states: set[str] = set()

    def look(url: str, progress: Progress) -> None:
        assert url == origin.url("/f")
        threads.add(threading.get_ident())
        seen.append((progress.downloaded_bytes, progress.total_bytes))
        states.add(progress.state)
        if progress.downloaded_bytes == 300_000 and progress.attempt == 1:
            origin.close_connections()
        if progress.attempt == 2:
            assert progress.reason

    bay.fetch(origin.url("/f"), progress=look)
    assert threads == {threading.get_ident()}
    assert (300_000, len(BODY)) in seen
    assert seen[-1] == (len(BODY), len(BODY))
    assert states <= {"queued", "downloading", "waiting", "done"}


def test_stats_of_a_running_download(bay: Forebay, origin: Origin, never: threading.Event) -> None:
    """A version under way tells how far it is, since when, and how fast."""
    origin.serve("/f", Stall(Resource(BODY), 300_000, never, times=1))
    running: list[Response] = []

    def look(url: str, progress: Progress) -> None:
        (response,) = bay.versions(url)
        if response.status == "in_progress" and progress.downloaded_bytes == 300_000 and not running:
            running.append(response)
            origin.close_connections()

    bay.fetch(origin.url("/f"), progress=look)
    (response,) = running
    stats = response.download_stats
    assert (stats.state, stats.downloaded_bytes, stats.total_bytes_to_download) == (
        "downloading",
        300_000,
        len(BODY),
    )
    assert stats.download_start_time_unix_ts is not None
    assert stats.download_running_duration_sec > 0
    assert stats.avg_bytes_per_sec == pytest.approx(300_000 / stats.download_running_duration_sec)


# --- several on one folder ------------------------------------------------------------------------------


def test_two_on_one_folder_share_a_get(make_bay: MakeBay, origin: Origin, pool: ThreadPoolExecutor) -> None:
    """Two Forebays on one folder: one GET, one version, both have it."""
    first, second = make_bay(), make_bay()
    held = origin.serve("/f", Held(Resource(BODY)))
    waits = [threading.Event(), threading.Event()]

    def fetch(n: int, bay: Forebay) -> Fetched:
        return one(bay, origin.url("/f"), progress=lambda *_: waits[n].set())

    running = [pool.submit(fetch, n, bay) for n, bay in enumerate((first, second))]
    held.arrived()
    assert all(event.wait(30) for event in waits)
    held.release()
    a, b = (future.result(30) for future in running)
    assert a.response is not None
    assert b.response is not None
    assert a.response.version == b.response.version
    assert {a.how, b.how} <= {"fetched", "stored"}
    assert content(first, b.response) == content(second, a.response) == BODY
    assert len(origin.requests("/f")) == 1


def test_two_on_one_folder_share_a_failure(make_bay: MakeBay, origin: Origin, pool: ThreadPoolExecutor) -> None:
    """Who waited for another's fetch gets its failure, without asking again."""
    first, second = make_bay(max_attempts=1), make_bay(max_attempts=1)
    held = origin.serve("/f", Held(Status(500)))
    waits = [threading.Event(), threading.Event()]

    def fetch(n: int, bay: Forebay) -> Fetched:
        return one(bay, origin.url("/f"), progress=lambda *_: waits[n].set())

    running = [pool.submit(fetch, n, bay) for n, bay in enumerate((first, second))]
    held.arrived()
    assert all(event.wait(30) for event in waits)
    held.release()
    codes = [fetched.error and fetched.error.code for fetched in (future.result(30) for future in running)]
    assert codes == ["origin_status", "origin_status"]
    assert len(origin.requests("/f")) == 1


def test_the_other_takes_over_when_one_closes(
    make_bay: MakeBay, origin: Origin, pool: ThreadPoolExecutor, never: threading.Event
) -> None:
    """When the one that downloads is closed, the one that waits goes on where it stood."""
    first, second = make_bay(), make_bay()
    origin.serve("/f", Stall(Resource(BODY), 300_000, never, times=1))
    landed, waiting = threading.Event(), threading.Event()

    def look(_url: str, progress: Progress) -> None:
        if progress.downloaded_bytes == 300_000:
            landed.set()

    one_running = pool.submit(one, first, origin.url("/f"), progress=look)
    assert landed.wait(30)
    other_running = pool.submit(one, second, origin.url("/f"), progress=lambda *_: waiting.set())
    assert waiting.wait(30)
    first.close()
    assert isinstance(one_running.result(30).error, StateError)
    fetched = other_running.result(30)
    assert content(second, fetched.response) == BODY
    assert ranges(origin) == [WHOLE, ("bytes=300000-", '"v1"')]


FETCH_MANY = """
import forebay
with forebay.open(ask["folder"], backoff_base_s=0.01, **ask["settings"]) as bay:
    said = []
    def look(url, progress):
        if not said:
            said.append(1)
            say(waiting=True)
    for fetched in bay.fetch_many(ask["urls"], progress=look):
        say(how=fetched.how, url=fetched.url, version=fetched.response and fetched.response.version,
            error=fetched.error and fetched.error.code)
"""


def test_two_processes_share_a_get(
    make_bay: MakeBay, origin: Origin, pool: ThreadPoolExecutor, spawn: Callable[..., Any]
) -> None:
    """Another process on the folder waits for our GET and has what it brought."""
    bay = make_bay()
    held = origin.serve("/f", Held(Resource(BODY)))
    url = origin.url("/f")
    running = pool.submit(bay.fetch, url)
    held.arrived()
    child = spawn(FETCH_MANY, folder=bay.folder, urls=[url], settings={})
    child.wait_for(lambda said: any("waiting" in line for line in said))
    held.release()
    response = running.result(30)
    (last,) = [line for line in child.result() if "how" in line]
    assert (last["how"], last["version"]) == ("fetched", response.version)
    assert len(origin.requests("/f")) == 1
    assert content(bay, response) == BODY


def test_the_limit_of_a_host_holds_over_processes(
    make_bay: MakeBay, origin: Origin, spawn: Callable[..., Any]
) -> None:
    """Two processes, one connection at a time to the host: one waits for the other, and both get on."""
    bay = make_bay(max_downloads=8)
    counting = origin.serve("*", Counting(own_body()))
    held = origin.serve("/go", Held(Resource(ONE)))
    urls = [[origin.url(f"/{who}/{n}") for n in range(15)] for who in "ab"]
    child = spawn(FETCH_MANY, folder=bay.folder, urls=[origin.url("/go"), *urls[0]], settings={"max_downloads": 8})
    held.arrived()
    looks: list[str] = []

    def look(_url: str, progress: Progress) -> None:
        looks.append(progress.state)
        if len(looks) == 3:
            assert [seen.path for seen in origin.requests()] == ["/go"]
            held.release()

    assert one(bay, urls[1][0], progress=look).how == "fetched"
    assert looks[:3] == ["queued"] * 3
    mine = list(bay.fetch_many(urls[1]))
    theirs = [line for line in child.result() if "how" in line]
    assert [fetched.error for fetched in mine] == [None] * 15
    assert [line["error"] for line in theirs] == [None] * 16
    assert counting.most == 1
    assert len(origin.requests()) == 31


# --- the end, and going on ------------------------------------------------------------------------------


def test_resume_after_close(make_bay: MakeBay, origin: Origin, never: threading.Event) -> None:
    """What was there when a Forebay was closed is kept; the next one asks for the rest only."""
    first = make_bay()
    url = suspend_one(first, origin, never)
    second = make_bay()
    assert second.usage().partial_bytes == 300_000
    (open_version,) = second.versions(url)
    assert open_version.status in ("wait", "in_progress")
    response = second.fetch(url)
    assert ranges(origin, "/stalls") == [WHOLE, ("bytes=300000-", '"v1"')]
    assert (response.version, response.status) == (open_version.version, "ready")
    assert response.content_hash_hex == sha256(BODY)
    assert content(second, response) == BODY
    stats = response.download_stats
    assert (stats.resumed_bytes, stats.downloaded_bytes) == (300_000, len(BODY) - 300_000)
    assert second.usage().partial_bytes == 0


def test_resume_after_close_of_what_has_changed(make_bay: MakeBay, origin: Origin, never: threading.Event) -> None:
    """The origin has something else by now: the prefix is dropped."""
    url = suspend_one(make_bay(), origin, never)
    origin.serve("/stalls", Resource(BODY[::-1], etag='"v2"'))
    bay = make_bay()
    assert content(bay, bay.fetch(url)) == BODY[::-1]
    assert ranges(origin, "/stalls") == [WHOLE, ("bytes=300000-", '"v1"')]


def test_a_damaged_prefix_is_found(make_bay: MakeBay, origin: Origin, never: threading.Event) -> None:
    """The prefix is hashed again: with an expected digest its damage is found, and the whole is fetched."""
    url = suspend_one(make_bay(), origin, never)
    bay = make_bay()
    (part,) = (bay.folder / "partial").glob("*.part")
    with part.open("r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    assert content(bay, bay.fetch(url, sha256=sha256(BODY))) == BODY
    assert ranges(origin, "/stalls") == [WHOLE, ("bytes=300000-", '"v1"'), WHOLE]


def test_a_prefix_shorter_than_its_mark(make_bay: MakeBay, origin: Origin, never: threading.Event) -> None:
    """A partial file that lost bytes is not believed."""
    url = suspend_one(make_bay(), origin, never)
    bay = make_bay()
    (part,) = (bay.folder / "partial").glob("*.part")
    with part.open("r+b") as file:
        file.truncate(1000)
    assert content(bay, bay.fetch(url)) == BODY
    assert ranges(origin, "/stalls") == [WHOLE, WHOLE]


@pytest.mark.parametrize("junk", [b"", b"junk", b"FBYMARK1" + b"\xff" * 200])
def test_a_mark_that_is_torn(make_bay: MakeBay, origin: Origin, never: threading.Event, junk: bytes) -> None:
    """A watermark that cannot be read is not believed."""
    url = suspend_one(make_bay(), origin, never)
    bay = make_bay()
    (mark,) = (bay.folder / "partial").glob("*.mark")
    mark.write_bytes(junk)
    assert content(bay, bay.fetch(url)) == BODY
    assert ranges(origin, "/stalls") == [WHOLE, WHOLE]
    assert not list((bay.folder / "partial").iterdir())


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("forebay")]


def descriptors() -> set[str]:
    """What this process has open."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.skipif(sys.platform != "linux", reason="counts /proc/self/fd")
def test_close_while_downloads_run(make_bay: MakeBay, origin: Origin, pool: ThreadPoolExecutor) -> None:
    """`close` returns, everyone who waits is told, and no thread, file or socket is left."""
    make_bay("warm").close()  # what the first one loads stays open
    held = origin.serve("*", Held(Resource(BODY)))
    before = descriptors()
    assert ours() == []
    bay = make_bay(max_downloads=4, max_downloads_per_host=4)
    running = [pool.submit(lambda n=n: list(bay.fetch_many([origin.url(f"/{n}")]))) for n in range(8)]
    held.arrived(4)
    bay.close()
    for future in running:
        (fetched,) = future.result(30)
        assert isinstance(fetched.error, StateError)
    assert ours() == []
    origin.wait_for(lambda _: origin.open_connections == 0)
    assert descriptors() == before
    assert not list((bay.folder / "owners").glob("*.lock"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts /proc/self/fd")
def test_close_after_work(make_bay: MakeBay, origin: Origin) -> None:
    """After answers of every kind nothing is left open either."""
    make_bay("warm").close()
    before = descriptors()
    bay = make_bay(max_attempts=1)
    serve(bay, origin, "/f", ONE, BODY, TWO)
    serve(bay, origin, "/large", blob(3_000_000))
    one(bay, origin.url("/404"))
    one(bay, origin.url("/f"), refresh="always", sha256="0" * 64)
    bay.open(origin.url("/f")).close()
    bay.verify()
    bay.gc()
    bay.close()
    assert ours() == []
    origin.wait_for(lambda _: origin.open_connections == 0)
    assert descriptors() == before


def test_after_close(bay: Forebay, origin: Origin) -> None:
    """A closed Forebay says so; closing it twice is closing it once."""
    url = serve(bay, origin, "/f", ONE)
    bay.close()
    bay.close()
    for ask in (bay.fetch, bay.open, bay.versions, bay.latest):
        with pytest.raises(StateError, match="closed"):
            ask(url)
    with pytest.raises(StateError, match="closed"):
        bay.fetch(origin.url("/new"))
    assert len(origin.requests()) == 1


def test_bad_settings(tmp_path: Path) -> None:
    """A setting that cannot be is named, and no folder is made."""
    for setting in ({"max_downloads": 0}, {"allow_networks": "10.1.2.3/8"}, {"no_such_setting": 1}):
        with pytest.raises(InvalidValue, match=next(iter(setting))):
            forebay.open(tmp_path / "new", **setting)
    assert not (tmp_path / "new").exists()


# --- async ----------------------------------------------------------------------------------------------


def test_aopen_as_await_and_async_with(tmp_path: Path, origin: Origin) -> None:
    """`aopen` gives an AsyncForebay either way."""
    origin.serve("/f", Resource(ONE))

    async def main() -> None:
        bay = await forebay.aopen(tmp_path / "a", backoff_base_s=0.01)
        response = await bay.fetch(origin.url("/f"))
        await bay.close()
        assert response.status == "ready"
        async with forebay.aopen(tmp_path / "a", backoff_base_s=0.01) as again:
            assert await again.fetch(origin.url("/f")) == response
        with pytest.raises(StateError):
            await again.fetch(origin.url("/f"))

    asyncio.run(main())
    assert ours() == []
    assert len(origin.requests("/f")) == 1


def test_the_async_face(tmp_path: Path, origin: Origin) -> None:
    """Each method does what its sync namesake does."""
    resource = origin.serve("/f", Resource(ONE))
    url = origin.url("/f")

    async def main() -> None:
        async with forebay.aopen(tmp_path / "a", max_attempts=1) as bay:
            first = await bay.fetch(url)
            with await bay.open(url) as file:
                assert file.read() == ONE
            assert (await bay.path(first)).read_bytes() == ONE
            assert (await bay.tag(url, "prod")).tags == ["prod"]
            assert (await bay.pin(url)).pinned
            resource.change(TWO, etag='"v2"')
            second = await bay.fetch(url, refresh="always")
            assert [version.version for version in await bay.versions(url)] == [second.version, first.version]
            assert (await bay.find(url, tag="prod")).version == first.version
            assert await bay.latest(url) == await bay.find(url)
            assert len(await bay.requests()) == 1
            request = await bay.configure(url, max_cached_unpinned_versions=5)
            assert request.cache_configuration.max_cached_unpinned_versions == 5
            await bay.delete(url, version=second.version)
            await bay.undelete(url)
            assert (await bay.verify()).checked == 2
            assert (await bay.gc(dry_run=True)).items == []
            assert (await bay.usage()).contents == 2
            with pytest.raises(OriginError):
                await bay.fetch(origin.url("/404"))
            with pytest.raises(InvalidValue):
                await bay.fetch(url, refresh="sometimes")

    asyncio.run(main())


def test_coroutines_share_one_get(tmp_path: Path, origin: Origin) -> None:
    """Many coroutines that ask for one URL cause one GET; the loop stays free meanwhile."""
    held = origin.serve("/f", Held(Resource(BODY)))

    async def main() -> list[Response]:
        waiting = 0
        all_wait = asyncio.Event()

        async with forebay.aopen(tmp_path / "a") as bay:

            async def ask() -> Response:
                told = False

                def look(_url: str, _progress: Progress) -> None:
                    nonlocal waiting, told
                    if not told:
                        told, waiting = True, waiting + 1
                        if waiting == 10:
                            all_wait.set()

                return await bay.fetch(origin.url("/f"), refresh="always", progress=look)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask()) for _ in range(10)]
                await asyncio.wait_for(all_wait.wait(), 30)
                held.release()
            return [task.result() for task in tasks]

    responses = asyncio.run(main())
    assert len({response.version for response in responses}) == 1
    assert len(origin.requests("/f")) == 1


def test_progress_comes_in_the_loops_thread(tmp_path: Path, origin: Origin) -> None:
    """The callback may touch the loop's objects."""
    held = origin.serve("/f", Held(Resource(BODY)))
    threads: list[int] = []
    last: list[int] = []

    def look(_url: str, progress: Progress) -> None:
        threads.append(threading.get_ident())
        last.append(progress.downloaded_bytes)
        held.release()

    async def main() -> None:
        async with forebay.aopen(tmp_path / "a") as bay:
            await bay.fetch(origin.url("/f"), progress=look)

    asyncio.run(main())
    assert set(threads) == {threading.get_ident()}
    assert last[-1] == len(BODY)


@pytest.mark.parametrize("round_", range(5))
def test_a_cancelled_fetch_is_suspended(
    tmp_path: Path, origin: Origin, never: threading.Event, round_: int
) -> None:
    """Cancelling keeps what has landed; asked for again, at once, the rest is fetched."""
    origin.serve("/f", Stall(Resource(BODY), 300_000, never, times=1))

    async def main() -> None:
        async with forebay.aopen(tmp_path / "a", backoff_base_s=0.01) as bay:
            landed = asyncio.Event()

            def look(_url: str, progress: Progress) -> None:
                if progress.downloaded_bytes == 300_000:
                    landed.set()

            task = asyncio.create_task(bay.fetch(origin.url("/f"), progress=look))
            await asyncio.wait_for(landed.wait(), 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            response = await bay.fetch(origin.url("/f"))
            assert content(bay.bay, response) == BODY
            assert response.download_stats.resumed_bytes == 300_000

    asyncio.run(main())
    assert ranges(origin) == [WHOLE, ("bytes=300000-", '"v1"')]


def test_one_of_two_coroutines_is_cancelled(tmp_path: Path, origin: Origin) -> None:
    """The other one still gets its answer from the same GET."""
    held = origin.serve("/f", Held(Resource(ONE)))

    async def main() -> Response:
        async with forebay.aopen(tmp_path / "a") as bay:
            waiting = [asyncio.Event(), asyncio.Event()]
            tasks = [
                asyncio.create_task(bay.fetch(origin.url("/f"), progress=lambda *_, event=event: event.set()))
                for event in waiting
            ]
            for event in waiting:
                await asyncio.wait_for(event.wait(), 30)
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            held.release()
            return await tasks[1]

    assert asyncio.run(main()).status == "ready"
    assert len(origin.requests("/f")) == 1


def test_cancelled_while_queued(tmp_path: Path, origin: Origin) -> None:
    """A fetch that waits for its host's slot is withdrawn; the one before is not disturbed."""
    held = origin.serve("/first", Held(Resource(ONE)))
    origin.serve("/second", Resource(TWO))

    async def main() -> None:
        async with forebay.aopen(tmp_path / "a") as bay:
            first = asyncio.create_task(bay.fetch(origin.url("/first")))
            await asyncio.to_thread(held.arrived)
            queued = asyncio.Event()
            second = asyncio.create_task(bay.fetch(origin.url("/second"), progress=lambda *_: queued.set()))
            await asyncio.wait_for(queued.wait(), 30)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            held.release()
            assert (await first).status == "ready"

    asyncio.run(main())
    assert origin.requests("/second") == []


def test_a_registered_secret_is_sent_but_not_shown(bay: Forebay, origin: Origin) -> None:
    """Invariant 9: what lists Requests masks the fields that carry secrets; the origin gets them."""
    url = serve(bay, origin, "/secret", BODY)
    fields = {"Authorization": "Bearer s3cret", "Accept-Language": "en"}
    bay.fetch(RequestSpec(url=url, http_header_fields=fields))
    assert origin.requests("/secret")[-1].fields["Authorization"] == "Bearer s3cret"
    shown = [request.http_header_fields for request in bay.requests() if request.http_header_fields]
    assert shown == [{"Authorization": "***", "Accept-Language": "en"}]


def test_many_urls_from_an_event_loop(tmp_path: Path, origin: Origin) -> None:
    """As they finish, failures as values, and a loop that stops early lets go of the rest."""
    for n in range(5):
        origin.serve(f"/{n}", Resource(str(n).encode()))
    wanted = [origin.url(f"/{n}") for n in range(5)] + [origin.url("/missing"), "ftp://nowhere.example/"]

    async def run() -> dict[str, str]:
        async with forebay.aopen(tmp_path / "bay", max_downloads_per_host=3) as bay:
            return {str(one.asked): one.how async for one in bay.fetch_many(wanted)}

    got = asyncio.run(run())
    assert [got[url] for url in wanted] == ["fetched"] * 5 + ["failed"] * 2
