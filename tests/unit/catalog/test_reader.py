"""The hit path's point reads: what they find, what they do not, and when it may have changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from forebay.catalog.catalog import Catalog
from forebay.catalog.database import Database
from forebay.catalog.frontier import Frontier
from forebay.catalog.outcomes import Broke, Brought, Content, Lease, Outcome, Stats
from forebay.catalog.reader import Deliverable, VersionReader
from forebay.errors import StorageError
from forebay.models import RequestSpec

NOW = 1_800_000_000.0
URL = "https://data.example/set.bin"
STATS = Stats(started_at=NOW)
CONTENT = Content(
    sha256="ab" * 32,
    size_bytes=5 << 30,
    hash_hex="cd" * 16,
    media_type="text/csv",
    etag='"theirs"',
    last_modified="Fri, 20 Nov 2026 10:00:00 GMT",
    filename="set.csv",
    content_disposition="attachment",
    content_encoding="gzip",
)


class Folder:
    """A catalog that is written to, and one Request in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = Database(path)
        self.catalog, self.frontier = Catalog(self.database), Frontier(self.database)
        (found,) = self.catalog.find_or_create([RequestSpec(url=URL, group_name="maps")], now=NOW)
        self.request_id = found.request.id

    def begin(self, *, now: float = NOW) -> Lease:
        (lease,) = self.frontier.begin([self.request_id], owner="me", now=now)
        assert isinstance(lease, Lease)
        return lease

    def bring(self, sha256: str, *, now: float = NOW, generation: int = 1) -> Lease:
        lease = self.begin(now=now)
        content = Content(**asdict(CONTENT) | {"sha256": sha256})
        return self.finish(Brought(lease, STATS, content, generation), now=now)

    def finish(self, outcome: Outcome, *, now: float = NOW) -> Lease:
        self.frontier.finish([outcome], now=now)
        return outcome.lease


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path / "catalog.sqlite")
    yield made
    made.database.close()


@pytest.fixture
def reader(folder: Folder) -> Iterator[VersionReader]:
    made = VersionReader(folder.path)
    yield made
    made.close()


def test_a_version_is_found_with_all_that_delivering_it_takes(folder: Folder, reader: VersionReader) -> None:
    """Each column is in its own place."""
    lease = folder.finish(Brought(folder.begin(), STATS, CONTENT, 3), now=NOW + 1)
    found = reader.version(folder.request_id, lease.version)
    assert found == Deliverable(
        id=lease.response_id,
        request_id=folder.request_id,
        group_name="maps",
        url=URL,
        version=lease.version,
        generation=3,
        status="ready",
        cached_at=int((NOW + 1) * 1e6),
        content_sha256=CONTENT.sha256,
        size_bytes=CONTENT.size_bytes,
        media_type=CONTENT.media_type,
        last_modified=CONTENT.last_modified,
        content_encoding=CONTENT.content_encoding,
        content_disposition=CONTENT.content_disposition,
        filename=CONTENT.filename,
        error_code=None,
        error=None,
        previous_version=None,
        next_version=None,
        fence=lease.fence + 1,  # the end of a fetch moves it, too
    )
    assert found.etag == f'"{lease.version}.3"'


def test_a_version_under_way_and_a_failed_one_are_found(folder: Folder, reader: VersionReader) -> None:
    """With their status; the failed one with its reason."""
    lease = folder.begin()
    begun = reader.version(folder.request_id, lease.version)
    assert begun is not None
    assert (begun.status, begun.content_sha256, begun.generation) == ("wait", None, 1)
    folder.finish(Broke(lease, STATS, "origin_cut", "it broke off"))
    failed = reader.version(folder.request_id, lease.version)
    assert failed is not None
    assert (failed.status, failed.error_code, failed.error) == ("failed", "origin_cut", "it broke off")


def test_what_is_not_there_is_not_found(folder: Folder, reader: VersionReader) -> None:
    """Another Request's version, a version that was never begun, one that was deleted."""
    lease = folder.bring("00" * 32)
    assert reader.version("0" * 32, lease.version) is None
    assert reader.version(folder.request_id, "20260101T000000000000Z") is None
    folder.catalog.delete_versions([lease.response_id], now=NOW)
    assert reader.version(folder.request_id, lease.version) is None
    folder.catalog.restore_versions([lease.response_id])
    assert reader.version(folder.request_id, lease.version) is not None


def test_neighbours_are_the_ready_versions_next_to_it(folder: Folder, reader: VersionReader) -> None:
    """Failed, deleted and unfinished ones are passed over."""
    first = folder.bring("00" * 32, now=NOW)
    failed = folder.finish(Broke(folder.begin(now=NOW + 1), STATS, "origin_cut", "it broke off"), now=NOW + 1)
    deleted = folder.bring("11" * 32, now=NOW + 2)
    last = folder.bring("22" * 32, now=NOW + 3)
    under_way = folder.begin(now=NOW + 4)
    folder.catalog.delete_versions([deleted.response_id], now=NOW + 4)

    def around(lease: Lease) -> tuple[str | None, str | None]:
        found = reader.version(folder.request_id, lease.version)
        assert found is not None
        return found.previous_version, found.next_version

    assert around(first) == (None, last.version)
    assert around(failed) == (first.version, last.version)
    assert around(last) == (first.version, None)
    assert around(under_way) == (last.version, None)


def test_the_newest_is_the_newest_whatever_its_status(folder: Folder, reader: VersionReader) -> None:
    """None when there is none; else the one that was begun last."""
    assert reader.newest(folder.request_id) is None
    assert reader.newest("0" * 32) is None
    folder.bring("00" * 32, now=NOW)
    lease = folder.begin(now=NOW + 1)
    newest = reader.newest(folder.request_id)
    assert newest is not None
    assert (newest.version, newest.status) == (lease.version, "wait")


def test_a_commit_of_anybody_else_changes_the_data_version(folder: Folder, reader: VersionReader) -> None:
    """It stays while nothing is committed; and what is read after it has changed is what was committed."""
    before = reader.data_version()
    assert reader.data_version() == before
    lease = folder.begin()
    after = reader.data_version()
    assert after != before
    assert reader.data_version() == after
    assert reader.version(folder.request_id, lease.version) is not None


def test_it_holds_no_old_snapshot(folder: Folder, reader: VersionReader) -> None:
    """Between two reads, the write-ahead log can be emptied, and nothing is missed."""
    lease = folder.bring("00" * 32)
    assert reader.version(folder.request_id, lease.version) is not None
    with sqlite3.connect(folder.path) as other:
        busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    other.close()
    assert busy == 0
    folder.catalog.delete_versions([lease.response_id], now=NOW)
    assert reader.version(folder.request_id, lease.version) is None


def test_a_folder_without_a_catalog_is_an_error_of_ours(tmp_path: Path) -> None:
    """Nothing is made: a reader only reads."""
    with pytest.raises(StorageError):
        VersionReader(tmp_path / "catalog.sqlite").newest("0" * 32)
    assert list(tmp_path.iterdir()) == []
