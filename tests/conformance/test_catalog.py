"""What every catalog promises: SQLite now; PostgreSQL is added as a rig in `RIGS`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from forebay.catalog.catalog import Catalog, Registered
from forebay.catalog.database import Database
from forebay.catalog.frontier import Frontier
from forebay.catalog.outcomes import Broke, Brought, Busy, Confirmed, Content, Finished, Lease, Stats
from forebay.catalog.schema import contents, leases, requests, responses
from forebay.errors import DiskFull, StorageFailed, UnknownRequest
from forebay.models import (
    Age,
    Cron,
    Never,
    RequestCacheConfiguration,
    RequestSpec,
    Response,
    WhenRemoteChanged,
    WhenRequested,
)

NOW = 1_800_000_000.0
URL = "https://data.example/set.bin"
HOST = "https://data.example:443"
STATS = Stats(started_at=NOW - 2, duration_s=2.0, downloaded_bytes=10, attempts=3, resumed_bytes=4, http_status=200)


class SqliteRig:
    """The catalog in one SQLite file, and other processes' views of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: list[Database] = []
        self.database = self.another()
        self.catalog, self.frontier = Catalog(self.database), Frontier(self.database)

    def another(self) -> Database:
        """A connection of another process, as it were."""
        database = Database(self._folder / "catalog.sqlite")
        self._opened.append(database)
        return database

    def close(self) -> None:
        for database in self._opened:
            database.close()

    @property
    def opening(self) -> str:
        """Python that opens this catalog in a process of its own, as ``database``."""
        return f"""
from pathlib import Path
from forebay.catalog.database import Database
database = Database(Path({str(self._folder / "catalog.sqlite")!r}))
"""


RIGS = [pytest.param(SqliteRig, id="sqlite")]


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteRig]:
    """One catalog; another adapter's rig has the same methods."""
    made: SqliteRig = request.param(tmp_path)
    yield made
    made.close()


@pytest.fixture
def catalog(rig: SqliteRig) -> Catalog:
    return rig.catalog


@pytest.fixture
def frontier(rig: SqliteRig) -> Frontier:
    return rig.frontier


@pytest.fixture
def commits() -> Iterator[list[int]]:
    """``PRAGMA synchronous`` of each commit: 2 survives a crash of the machine, 1 may not."""
    seen: list[int] = []

    def look(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement == "COMMIT":
            seen.append(cursor.connection.execute("PRAGMA synchronous").fetchone()[0])

    event.listen(Engine, "before_cursor_execute", look)
    yield seen
    event.remove(Engine, "before_cursor_execute", look)


def register(
    catalog: Catalog, strategy: Any = None, *, url: str = URL, now: float = NOW, **what: Any
) -> Registered:
    configuration = RequestCacheConfiguration(recaching_strategy=strategy or WhenRemoteChanged())
    (found,) = catalog.find_or_create([RequestSpec(url=url, cache_configuration=configuration, **what)], now=now)
    return found


def content_of(data: bytes, **what: Any) -> Content:
    sha256 = hashlib.sha256(data).hexdigest()
    known = Content(
        sha256=sha256,
        size_bytes=len(data),
        hash_hex=sha256,
        media_type="text/csv",
        etag=f'"{sha256[:4]}"',
        last_modified="Fri, 20 Nov 2026 10:00:00 GMT",
        filename="set.csv",
        content_disposition="inline",
        content_encoding=None,
    )
    return replace(known, **what)


def lease_for(frontier: Frontier, request_id: str, *, owner: str = "me", now: float = NOW) -> Lease:
    (lease,) = frontier.begin([request_id], owner=owner, now=now)
    assert isinstance(lease, Lease)
    return lease


def bring(frontier: Frontier, request_id: str, data: bytes, *, now: float = NOW, **what: Any) -> Finished:
    """One whole fetch that brings *data*."""
    lease = lease_for(frontier, request_id, now=now)
    (finished,) = frontier.finish([Brought(lease, STATS, content_of(data, **what))], now=now)
    return finished


def confirm(frontier: Frontier, request_id: str, *, now: float, validated: bool = True) -> Finished:
    """One check whose origin says that the latest ready version is still current."""
    lease = lease_for(frontier, request_id, now=now)
    latest = Catalog(frontier.database).latest_ready(request_id, now=now)
    assert latest is not None
    (finished,) = frontier.finish([Confirmed(lease, STATS, latest.version, validated)], now=now)
    return finished


def fail(frontier: Frontier, request_id: str, *, now: float = NOW) -> Finished:
    lease = lease_for(frontier, request_id, now=now)
    (finished,) = frontier.finish([Broke(lease, STATS, "origin_cut", "it broke off")], now=now)
    return finished


def versions(catalog: Catalog, request_id: str, *, deleted: bool = False, now: float = NOW) -> list[Response]:
    return catalog.versions(request_id, deleted=deleted, now=now)


def statuses(catalog: Catalog, request_id: str) -> list[str]:
    return [response.status for response in versions(catalog, request_id)]


def due_at(rig: SqliteRig, request_id: str) -> float | None:
    with rig.database.read() as db:
        us = db.execute(select(requests.c.next_due_at).where(requests.c.id == request_id)).scalar_one()
    return None if us is None else us / 1e6


def everything(rig: SqliteRig) -> dict[str, list[Any]]:
    """All rows that a fetch could change."""
    with rig.database.read() as db:
        return {
            table.name: sorted(tuple(row) for row in db.execute(select(table)).all())
            for table in (requests, responses, contents, leases)
        }


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """What *call* gives in each of *count* threads that begin together."""
    barrier = threading.Barrier(count, timeout=60)
    out: dict[int, Any] = {}

    def run(number: int) -> None:
        barrier.wait()
        out[number] = call(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(out) == count, "a thread failed; its error is on stderr"
    return [out[number] for number in range(count)]


# --- find or create ---------------------------------------------------------------------------------------


def test_a_new_request_is_registered_and_due(rig: SqliteRig, catalog: Catalog, frontier: Frontier) -> None:
    """It has an id, its host, the time of its registration and nothing stored; it is due at once."""
    registered = register(catalog)
    assert registered.created
    assert registered.host == HOST
    assert (registered.latest, registered.latest_id) == (None, None)
    assert registered.facts.registered_at == NOW
    assert registered.request.first_request_datetime_utc == datetime.fromtimestamp(NOW, UTC)
    assert list(frontier.due(now=NOW, limit=10)) == [registered.request.id]


def test_the_same_ask_is_the_same_request(catalog: Catalog) -> None:
    """Found again by its signature; what was registered first stays."""
    first = register(catalog, Age(seconds=60), description="first")
    second = register(catalog, Never(), description="second", now=NOW + 5)
    assert not second.created
    assert second.request == first.request
    spec = RequestSpec(url=URL)
    found = catalog.find(spec.signature(), now=NOW)
    assert found is not None
    assert found.request.id == first.request.id
    assert catalog.find("0" * 64, now=NOW) is None


def test_everything_that_was_registered_comes_back(catalog: Catalog) -> None:
    """Fields, params, body and the rest, in their own types."""
    spec = RequestSpec(
        url=URL,
        http_method="post",
        http_header_fields={"X-Ä".encode().decode("ascii", "ignore"): "v", "Accept": "a"},
        http_query_params={"q": "ü", "r": ["1", "2"]},
        http_request_body={"deep": {"list": [1, 2.5, None, "ä"]}},
        group_name="group",
        description="what it is",
        documentation_link="https://docs.example/",
        validation_hash_type="md5",
        cache_configuration=RequestCacheConfiguration(
            recaching_strategy=Cron(cron="0 3 * * *", run_at_start=False), max_cached_unpinned_versions=7
        ),
    )
    (registered,) = catalog.find_or_create([spec], now=NOW)
    request = catalog.request(registered.request.id, now=NOW).request
    for name in RequestSpec.model_fields:
        assert getattr(request, name) == getattr(spec, name), name
    assert request.source == "http"


def test_several_are_found_or_created_in_the_order_asked(catalog: Catalog) -> None:
    """New and old ones mixed, and one of them twice."""
    old = register(catalog, url=URL + "1")
    specs = [RequestSpec(url=URL + name) for name in ("2", "1", "3", "2")]
    found = catalog.find_or_create(specs, now=NOW)
    assert [f.request.url for f in found] == [URL + name for name in ("2", "1", "3", "2")]
    assert [f.created for f in found] == [True, False, True, True]
    assert found[1].request.id == old.request.id
    assert found[0].request.id == found[3].request.id
    assert len(catalog.list_requests()) == 3
    assert catalog.find_or_create([], now=NOW) == []


def test_threads_that_ask_at_once_get_one_request(rig: SqliteRig) -> None:
    """Eight of them, over one connection to the database or each over its own: one of them created it."""
    for databases in ([rig.database] * 8, [rig.another() for _ in range(8)]):
        url = f"{URL}?{id(databases)}"

        def ask(number: int, databases: list[Database] = databases, url: str = url) -> Registered:
            return register(Catalog(databases[number]), url=url)

        found = at_once(8, ask)
        assert len({f.request.id for f in found}) == 1
        assert sum(f.created for f in found) == 1


def test_processes_that_ask_at_once_get_one_request(rig: SqliteRig) -> None:
    """Four real ones."""
    script = f"""{rig.opening}
import sys
from forebay.catalog.catalog import Catalog
from forebay.models import RequestSpec
print("ready", flush=True)
sys.stdin.readline()
(found,) = Catalog(database).find_or_create([RequestSpec(url={URL!r})], now={NOW})
print(found.request.id, found.created, flush=True)
database.close()
"""
    children = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate(timeout=60)[0].split() for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert len({request_id for request_id, _ in said}) == 1
    assert sorted(created for _, created in said) == ["False", "False", "False", "True"]


def test_a_request_is_found_by_id_url_and_group(catalog: Catalog) -> None:
    """The oldest first; an unknown id is an error that names it."""
    a = register(catalog).request
    b = register(catalog, group_name="b", now=NOW + 1).request
    c = register(catalog, url=URL + "c", now=NOW + 2).request
    assert catalog.request(b.id, now=NOW).request == b
    assert catalog.requests_of_url(URL) == [a, b]
    assert catalog.list_requests() == [a, b, c]
    assert catalog.list_requests(group="b") == [b]
    assert catalog.list_requests(skip=1, limit=1) == [b]
    with pytest.raises(UnknownRequest, match="f" * 32):
        catalog.request("f" * 32, now=NOW)


def test_a_configuration_is_replaced_with_its_due_time(rig: SqliteRig, catalog: Catalog) -> None:
    """Durable on return; the identity stays."""
    request = register(catalog).request
    configuration = RequestCacheConfiguration(recaching_strategy=Never(), max_cached_pinned_versions=0)
    catalog.configure(request.id, configuration, next_due_at=None)
    assert catalog.request(request.id, now=NOW).request.cache_configuration == configuration
    assert due_at(rig, request.id) is None
    catalog.configure(request.id, configuration, next_due_at=NOW + 5)
    assert due_at(rig, request.id) == NOW + 5
    assert catalog.configurations() == {request.id: (URL, configuration)}


# --- leases and fencing -----------------------------------------------------------------------------------


def test_one_owner_fetches_a_request_at_a_time(catalog: Catalog, frontier: Frontier) -> None:
    """The first gets a lease and a version that waits; the others are told who has it."""
    request_id = register(catalog).request.id
    lease = lease_for(frontier, request_id, owner="a")
    assert (lease.fence, lease.resumed) == (1, False)
    (busy,) = frontier.begin([request_id], owner="b", now=NOW)
    assert busy == Busy(request_id, lease.response_id, "a", 1, 0)
    assert frontier.lease_of(request_id) == busy
    (response,) = versions(catalog, request_id)
    assert (response.id, response.version, response.status) == (lease.response_id, lease.version, "wait")
    assert response.download_stats.state == "init"
    assert frontier.open_requests() == {request_id}


def test_owners_that_begin_at_once_share_nothing(rig: SqliteRig) -> None:
    """Eight of them, twenty Requests: each Request has exactly one lease."""
    ids = [register(rig.catalog, url=f"{URL}{n}").request.id for n in range(20)]
    databases = [rig.another() for _ in range(8)]

    def begin(number: int) -> list[Lease | Busy]:
        mine = ids[number:] + ids[:number]
        return Frontier(databases[number]).begin(mine, owner=f"owner{number}", now=NOW)

    got = at_once(8, begin)
    winners = Counter(lease.request_id for some in got for lease in some if isinstance(lease, Lease))
    assert winners == dict.fromkeys(ids, 1)
    assert all(statuses(rig.catalog, request_id) == ["wait"] for request_id in ids)


def test_several_are_begun_in_the_order_asked(catalog: Catalog, frontier: Frontier) -> None:
    """Free, busy and left open ones mixed."""
    ids = [register(catalog, url=f"{URL}{n}").request.id for n in range(3)]
    lease_for(frontier, ids[1], owner="other")
    left = lease_for(frontier, ids[2])
    frontier.release(left)
    first, second, third = frontier.begin(ids, owner="me", now=NOW + 1)
    assert isinstance(first, Lease)
    assert not first.resumed
    assert isinstance(second, Busy)
    assert third == replace(left, fence=2, resumed=True)
    assert frontier.begin([], owner="me", now=NOW) == []


def test_a_started_download_is_in_progress(catalog: Catalog, frontier: Frontier) -> None:
    """Its version says so, and since when; the others wait on."""
    one, two = (lease_for(frontier, register(catalog, url=f"{URL}{n}").request.id) for n in range(2))
    frontier.start([one], owner="me", now=NOW)
    started, waiting = (catalog.response(lease.response_id, now=NOW) for lease in (one, two))
    assert started is not None
    assert waiting is not None
    assert (started.status, started.download_stats.state) == ("in_progress", "downloading")
    assert started.download_stats.download_start_time_unix_ts == NOW
    assert waiting.status == "wait"


@pytest.mark.parametrize("how", ["release", "reap"])
def test_a_version_that_was_left_open_is_taken_over(catalog: Catalog, frontier: Frontier, how: str) -> None:
    """Under the next fence: a partial file is resumed, no second version begins."""
    request_id = register(catalog).request.id
    first = lease_for(frontier, request_id, owner="a")
    frontier.start([first], owner="a", now=NOW)
    if how == "release":
        frontier.release(first)
    else:
        frontier.reap("a")
    assert frontier.lease_of(request_id) is None
    assert frontier.open_requests() == {request_id}
    second = lease_for(frontier, request_id, owner="b", now=NOW + 100)
    assert second == replace(first, fence=2, resumed=True)
    assert len(versions(catalog, request_id)) == 1


@pytest.mark.parametrize(
    "outcome",
    [
        lambda lease: Brought(lease, STATS, content_of(b"late")),
        lambda lease: Brought(lease, STATS, content_of(b"rotten")),
        lambda lease: Confirmed(lease, STATS, "20270115T080001000000Z", True),
        lambda lease: Broke(lease, STATS, "origin_cut", "late"),
    ],
    ids=["new-bytes", "bytes-that-were-rotten", "confirmed", "broke"],
)
@pytest.mark.parametrize("taken_over", [True, False])
def test_a_lost_lease_changes_nothing(rig: SqliteRig, outcome: Callable[[Lease], Any], taken_over: bool) -> None:
    """Invariant 5: not a row is other than before, whether somebody else has the lease by now or nobody."""
    catalog, frontier = rig.catalog, rig.frontier
    request_id = register(catalog).request.id
    bring(frontier, request_id, b"rotten")
    bring(frontier, request_id, b"good", now=NOW + 1)
    catalog.mark_rotten(content_of(b"rotten").sha256, found="rot", now=NOW + 2)
    lost = lease_for(frontier, request_id, owner="a", now=NOW + 3)
    frontier.reap("a")
    if taken_over:
        lease_for(frontier, request_id, owner="b", now=NOW + 4)
    before = everything(rig)
    (finished,) = frontier.finish([outcome(lost)], now=NOW + 5)
    assert finished == Finished(lost, "lease_lost", None)
    assert everything(rig) == before


def test_one_lost_lease_does_not_spoil_the_others(catalog: Catalog, frontier: Frontier) -> None:
    """They travel in one transaction."""
    ids = [register(catalog, url=f"{URL}{n}").request.id for n in range(3)]
    held = [lease_for(frontier, request_id) for request_id in ids]
    frontier.release(held[1])
    outcomes = [Brought(lease, STATS, content_of(bytes([n]))) for n, lease in enumerate(held)]
    assert [f.status for f in frontier.finish(outcomes, now=NOW)] == ["ready", "lease_lost", "ready"]
    assert [statuses(catalog, request_id) for request_id in ids] == [["ready"], ["wait"], ["ready"]]


def test_a_lost_lease_cannot_be_released(catalog: Catalog, frontier: Frontier) -> None:
    """The release carries the fence too."""
    request_id = register(catalog).request.id
    lost = lease_for(frontier, request_id, owner="a")
    frontier.reap("a")
    lease_for(frontier, request_id, owner="b")
    frontier.release(lost)
    held = frontier.lease_of(request_id)
    assert held is not None
    assert (held.owner, held.fence) == ("b", 2)


def test_a_finished_lease_is_gone(catalog: Catalog, frontier: Frontier) -> None:
    """Finishing twice is losing the second time; fences go on counting."""
    request_id = register(catalog).request.id
    lease = lease_for(frontier, request_id)
    outcome = Brought(lease, STATS, content_of(b"x"))
    assert frontier.finish([outcome], now=NOW)[0].status == "ready"
    assert frontier.lease_of(request_id) is None
    assert frontier.finish([outcome], now=NOW)[0].status == "lease_lost"
    assert lease_for(frontier, request_id, now=NOW + 1).fence > 1


def test_a_heartbeat_shows_life_and_tells_what_is_still_ours(catalog: Catalog, frontier: Frontier) -> None:
    """Others see the beat change; what was taken is missing from the answer."""
    ids = [register(catalog, url=f"{URL}{n}").request.id for n in range(2)]
    one, two = (lease_for(frontier, request_id, owner="a") for request_id in ids)
    assert frontier.beat("a") == {(one.request_id, 1), (two.request_id, 1)}
    seen = frontier.lease_of(ids[0])
    assert seen is not None
    assert seen.beat == 1
    assert frontier.beat_of("a") == 2
    frontier.release(one)
    lease_for(frontier, ids[0], owner="b")
    assert frontier.beat_of("a") == 1
    assert frontier.beat_of("nobody") is None
    assert frontier.beat("a") == {(two.request_id, 1)}
    assert frontier.beat("nobody") == set()


def test_owners_are_those_with_leases_or_slots(catalog: Catalog, frontier: Frontier) -> None:
    """A reaped one is gone from both."""
    lease_for(frontier, register(catalog).request.id, owner="a")
    frontier.take_slots(HOST, owner="b", want=1, limit=1, now=NOW)
    assert frontier.owners() == {"a", "b"}
    frontier.reap("a")
    frontier.reap("b")
    assert frontier.owners() == set()
    assert frontier.take_slots(HOST, owner="c", want=1, limit=1, now=NOW) == 1


# --- what becomes of a fetch ------------------------------------------------------------------------------


def test_new_bytes_become_a_ready_version(catalog: Catalog, frontier: Frontier) -> None:
    """With everything that the origin and the download said."""
    request_id = register(catalog).request.id
    finished = bring(frontier, request_id, b"0123456789", now=NOW)
    assert (finished.status, finished.crowded) == ("ready", False)
    (response,) = versions(catalog, request_id)
    assert finished.response_id == response.id
    content = content_of(b"0123456789")
    assert (response.status, response.content_hash_hex) == ("ready", content.hash_hex)
    assert response.url == URL
    assert response.cached_datetime_utc == datetime.fromtimestamp(NOW, UTC)
    attributes = response.content_attributes
    assert (attributes.sha256, attributes.content_size_bytes) == (content.sha256, 10)
    assert (attributes.media_type, attributes.etag, attributes.filename) == ("text/csv", content.etag, "set.csv")
    assert attributes.last_modified_datetime_utc == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert (attributes.content_disposition, attributes.content_encoding) == ("inline", None)
    stats = response.download_stats
    assert (stats.state, stats.attempts, stats.resumed_bytes, stats.http_status) == ("finished", 3, 4, 200)
    assert (stats.downloaded_bytes, stats.avg_bytes_per_sec) == (10, 5.0)
    assert stats.download_start_time_unix_ts == NOW - 2
    assert (stats.error, stats.error_code) == (None, None)

    registered = catalog.request(request_id, now=NOW)
    assert registered.latest_id == response.id
    assert registered.latest is not None
    assert registered.latest.sha256 == content.sha256
    assert registered.latest.validators.etag == content.etag
    facts = registered.facts
    assert (facts.checked_at, facts.confirmed_at, facts.stored, facts.has_validator) == (NOW, NOW, True, True)


def test_a_failure_is_told_and_the_last_good_version_stays_the_latest(catalog: Catalog, frontier: Frontier) -> None:
    """In Python, on the command line and at the door the newest ready one is meant."""
    request_id = register(catalog).request.id
    good = bring(frontier, request_id, b"good")
    failed = fail(frontier, request_id, now=NOW + 10)
    assert (failed.status, failed.crowded) == ("failed", True)
    newest, ready = versions(catalog, request_id)
    assert (newest.status, ready.status) == ("failed", "ready")
    stats = newest.download_stats
    assert (stats.state, stats.error_code, stats.error) == ("failed", "origin_cut", "it broke off")
    latest = catalog.latest_ready(request_id, now=NOW)
    assert latest is not None
    assert latest.id == good.response_id
    assert catalog.request(request_id, now=NOW).facts.checked_at == NOW


KEEPERS = [Never(), Age(seconds=60), Cron(), WhenRequested()]
SAME_WAYS: list[Callable[[Frontier, str], Finished]] = [
    lambda frontier, request_id: bring(frontier, request_id, b"same", now=NOW + 10),
    lambda frontier, request_id: confirm(frontier, request_id, now=NOW + 10),
    lambda frontier, request_id: confirm(frontier, request_id, now=NOW + 10, validated=False),
]


@pytest.mark.parametrize("strategy", KEEPERS)
@pytest.mark.parametrize("same", SAME_WAYS)
def test_nothing_new_is_a_duplicate_under_most_strategies(
    catalog: Catalog, frontier: Frontier, strategy: Any, same: Callable[[Frontier, str], Finished]
) -> None:
    """A 304, a HEAD or equal bytes: a version whose `previous_version` names the equal one, with its content."""
    request_id = register(catalog, strategy).request.id
    bring(frontier, request_id, b"older")
    bring(frontier, request_id, b"same", now=NOW + 5)
    finished = same(frontier, request_id)
    assert (finished.status, finished.crowded) == ("duplicate", True)
    duplicate, equal, _ = versions(catalog, request_id)
    assert (duplicate.id, duplicate.status) == (finished.response_id, "duplicate")
    assert duplicate.previous_version == equal.version
    assert duplicate.content_attributes == equal.content_attributes
    assert duplicate.content_hash_hex == equal.content_hash_hex
    assert duplicate.cached_datetime_utc == datetime.fromtimestamp(NOW + 10, UTC)
    latest = catalog.latest_ready(request_id, now=NOW)
    assert latest is not None
    assert latest.id == equal.id
    assert catalog.request(request_id, now=NOW).facts.checked_at == NOW + 10


@pytest.mark.parametrize("same", SAME_WAYS)
def test_nothing_new_is_only_a_check_when_remote_changes_count(
    catalog: Catalog, frontier: Frontier, same: Callable[[Frontier, str], Finished]
) -> None:
    """Under `when_remote_changed` no version is kept, only the time of the check."""
    request_id = register(catalog, WhenRemoteChanged()).request.id
    bring(frontier, request_id, b"same")
    finished = same(frontier, request_id)
    assert (finished.status, finished.response_id) == ("unchanged", None)
    assert statuses(catalog, request_id) == ["ready"]
    assert catalog.request(request_id, now=NOW).facts.checked_at == NOW + 10
    assert catalog.response(finished.lease.response_id, now=NOW) is None


def test_only_a_validator_or_bytes_confirm(catalog: Catalog, frontier: Frontier) -> None:
    """A HEAD that showed no difference is a check, but no confirmation."""
    request_id = register(catalog).request.id
    bring(frontier, request_id, b"x")
    seen = []
    for at, validated in ((10, False), (20, True), (30, False)):
        confirm(frontier, request_id, now=NOW + at, validated=validated)
        facts = catalog.request(request_id, now=NOW).facts
        seen.append((facts.checked_at, facts.confirmed_at))
    assert seen == [(NOW + 10, NOW), (NOW + 20, NOW + 20), (NOW + 30, NOW + 20)]


def test_equal_bytes_under_new_validators_keep_the_new_ones(catalog: Catalog, frontier: Frontier) -> None:
    """The origin renamed its content: the next condition carries the new name."""
    request_id = register(catalog).request.id
    bring(frontier, request_id, b"x")
    bring(frontier, request_id, b"x", now=NOW + 10, etag='"renamed"', last_modified=None)
    registered = catalog.request(request_id, now=NOW)
    assert registered.latest is not None
    assert registered.latest.validators.etag == '"renamed"'
    assert registered.latest.validators.last_modified is None


def test_the_bytes_of_an_older_version_are_a_new_version(catalog: Catalog, frontier: Frontier) -> None:
    """Only the latest counts: an origin that goes back is a change; equal content is stored once."""
    request_id = register(catalog).request.id
    for at, data in enumerate((b"a", b"b", b"a")):
        assert bring(frontier, request_id, data, now=NOW + at).status == "ready"
    assert statuses(catalog, request_id) == ["ready"] * 3
    assert len(catalog.contents()) == 2


def test_a_version_that_was_confirmed_but_deleted_meanwhile_is_fetched_again(
    rig: SqliteRig, catalog: Catalog, frontier: Frontier
) -> None:
    """There is nothing to serve: due at once, nothing kept."""
    request_id = register(catalog, Age(seconds=60)).request.id
    good = bring(frontier, request_id, b"x")
    assert good.response_id is not None
    good_version = versions(catalog, request_id)[0].version
    lease = lease_for(frontier, request_id, now=NOW + 100)
    catalog.delete_versions([good.response_id], now=NOW + 100)
    (finished,) = frontier.finish([Confirmed(lease, STATS, good_version, True)], now=NOW + 101)
    assert finished.status == "unchanged"
    assert versions(catalog, request_id) == []
    assert due_at(rig, request_id) == NOW + 101
    assert catalog.request(request_id, now=NOW).facts.checked_at is None


def test_equal_bytes_of_two_requests_are_one_content(catalog: Catalog, frontier: Frontier) -> None:
    """In one transaction or in two."""
    ids = [register(catalog, url=f"{URL}{n}").request.id for n in range(3)]
    bring(frontier, ids[0], b"same")
    held = [lease_for(frontier, request_id) for request_id in ids[1:]]
    frontier.finish([Brought(lease, STATS, content_of(b"same")) for lease in held], now=NOW)
    assert [row.sha256 for row in catalog.contents()] == [content_of(b"same").sha256]
    assert all(statuses(catalog, request_id) == ["ready"] for request_id in ids)


# --- versions ---------------------------------------------------------------------------------------------


def test_versions_are_compact_utc_dates_with_microseconds(catalog: Catalog, frontier: Frontier) -> None:
    """They sort as time does and go into a path as they are."""
    request_id = register(catalog).request.id
    at = datetime(2026, 11, 21, 8, 27, 45, 123456, tzinfo=UTC)
    bring(frontier, request_id, b"x", now=at.timestamp())
    (response,) = versions(catalog, request_id)
    assert response.version == "20261121T082745123456Z"
    expected = f"request/{request_id}/response/v/20261121T082745123456Z/content"
    assert response.content_download_path == expected
    assert response.request_datetime_utc == at


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([NOW, NOW, NOW], id="one-microsecond"),
        pytest.param([NOW, NOW - 86400, NOW - 2 * 86400], id="set-back-twice"),
        pytest.param([NOW, NOW - 86400, NOW + 1], id="set-back-and-right-again"),
        pytest.param([NOW, NOW + 1e-6, NOW], id="a-microsecond-back"),
    ],
)
def test_versions_strictly_increase_whatever_the_clock_says(
    catalog: Catalog, frontier: Frontier, times: Sequence[float]
) -> None:
    """Also past failures, unchanged checks, evictions and takeovers."""
    request_id = register(catalog).request.id
    made = []
    for n, at in enumerate(times):
        made.append(bring(frontier, request_id, bytes([n]), now=at).lease.version)
        made.append(confirm(frontier, request_id, now=at).lease.version)
        made.append(fail(frontier, request_id, now=at).lease.version)
        left = lease_for(frontier, request_id, now=at)
        frontier.release(left)
        lease = lease_for(frontier, request_id, now=at)
        assert lease.version == left.version
        frontier.finish([Broke(lease, STATS, "origin_cut", "x")], now=at)
        made.append(lease.version)
        catalog.evict([response.id for response in versions(catalog, request_id)], now=NOW)
    assert made == sorted(set(made))


def test_many_begun_at_once_keep_their_own_order(catalog: Catalog, frontier: Frontier) -> None:
    """One Request's clock was ahead; the others are not pushed forward by it."""
    ids = [register(catalog, url=f"{URL}{n}").request.id for n in range(3)]
    ahead = bring(frontier, ids[1], b"x", now=NOW + 86400).lease.version
    for at in (NOW, NOW + 1):
        held = [lease for lease in frontier.begin(ids, owner="me", now=at) if isinstance(lease, Lease)]
        assert held[0].version == held[2].version < ahead < held[1].version
        assert frontier.finish([Broke(lease, STATS, "x", "x") for lease in held], now=at)
        ahead = held[1].version


def test_neighbours_are_the_ready_versions_next_to_it(catalog: Catalog, frontier: Frontier) -> None:
    """Derived, never stored: failures do not count, and an eviction closes the gap."""
    request_id = register(catalog).request.id
    first = bring(frontier, request_id, b"1", now=NOW).lease
    fail(frontier, request_id, now=NOW + 1)
    second = bring(frontier, request_id, b"2", now=NOW + 2).lease
    third = bring(frontier, request_id, b"3", now=NOW + 3).lease

    def neighbours(lease: Lease) -> tuple[str | None, str | None]:
        response = catalog.response(lease.response_id, now=NOW)
        assert response is not None
        return response.previous_version, response.next_version

    assert neighbours(first) == (None, second.version)
    assert neighbours(second) == (first.version, third.version)
    assert neighbours(third) == (second.version, None)
    catalog.delete_versions([second.response_id], now=NOW)
    assert neighbours(first) == (None, third.version)
    catalog.evict([first.response_id], now=NOW)
    assert neighbours(third) == (None, None)


def test_a_version_is_found_by_its_name(catalog: Catalog, frontier: Frontier) -> None:
    """Ready ones and duplicates; a failed one has no content to give."""
    request_id = register(catalog, Age(seconds=1)).request.id
    ready = bring(frontier, request_id, b"1").lease
    duplicate = bring(frontier, request_id, b"1", now=NOW + 1).lease
    failed = fail(frontier, request_id, now=NOW + 2).lease

    def find(version: str) -> str | None:
        found = catalog.find_version(request_id, version=version, now=NOW)
        return None if found is None else found.id

    assert find(ready.version) == ready.response_id
    assert find(duplicate.version) == duplicate.response_id
    assert find(failed.version) is None
    assert find("20010101T000000000000Z") is None
    other = register(catalog, url=URL + "other").request.id
    assert catalog.find_version(other, version=ready.version, now=NOW) is None


def test_several_versions_are_read_at_once(catalog: Catalog, frontier: Frontier) -> None:
    """By their ids, unknown ones left out."""
    request_id = register(catalog).request.id
    ids = [bring(frontier, request_id, bytes([n]), now=NOW + n).lease.response_id for n in range(3)]
    found = catalog.responses([*ids, "f" * 32], now=NOW)
    assert found == {key: catalog.response(key, now=NOW) for key in ids}
    assert catalog.responses([], now=NOW) == {}
    assert catalog.response("f" * 32, now=NOW) is None


# --- tags and pins ----------------------------------------------------------------------------------------


def test_a_tag_means_the_newest_version_that_has_it(catalog: Catalog, frontier: Frontier) -> None:
    """Tags are not unique; taking one away lets the one before be meant again."""
    request_id = register(catalog).request.id
    ids = [bring(frontier, request_id, bytes([n]), now=NOW + n).lease.response_id for n in range(3)]

    def tagged(name: str) -> str | None:
        found = catalog.find_version(request_id, tag=name, now=NOW)
        return None if found is None else found.id

    catalog.tag(ids[1], "stable")
    catalog.tag(ids[0], "stable")
    catalog.tag(ids[0], "stable")
    catalog.tag(ids[0], "old")
    assert tagged("stable") == ids[1]
    assert tagged("none") is None
    oldest = catalog.response(ids[0], now=NOW)
    assert oldest is not None
    assert oldest.tags == ["old", "stable"]
    catalog.tag(ids[1], "stable", remove=True)
    catalog.tag(ids[1], "stable", remove=True)
    assert tagged("stable") == ids[0]
    catalog.evict([ids[0]], now=NOW)
    assert tagged("stable") is None


def test_a_pin_holds_until_its_time(catalog: Catalog, frontier: Frontier) -> None:
    """For ever, until a time, or no more; after its time it is told as no pin."""
    request_id = register(catalog).request.id
    key = bring(frontier, request_id, b"x").lease.response_id

    def seen(now: float) -> tuple[bool, datetime | None]:
        response = catalog.response(key, now=now)
        assert response is not None
        (held,) = catalog.held(request_id)[request_id]
        assert held.pinned_at(now) is response.pinned
        return response.pinned, response.pinned_until_utc

    assert seen(NOW) == (False, None)
    catalog.pin(key, value=True, until=NOW + 10)
    assert seen(NOW) == (True, datetime.fromtimestamp(NOW + 10, UTC))
    assert seen(NOW + 10) == (False, None)
    catalog.pin(key, value=True, until=None)
    assert seen(NOW + 1e9) == (True, None)
    catalog.pin(key, value=False, until=NOW + 10)
    assert seen(NOW) == (False, None)


# --- deleting ---------------------------------------------------------------------------------------------


def test_what_was_deleted_is_hidden_and_can_be_had_back(catalog: Catalog, frontier: Frontier) -> None:
    """From every question but the one for it; restored, all is as before, tags and pins too."""
    request_id = register(catalog).request.id
    old = bring(frontier, request_id, b"1").lease
    new = bring(frontier, request_id, b"2", now=NOW + 1).lease
    catalog.tag(new.response_id, "stable")
    catalog.pin(new.response_id, value=True, until=None)
    before = versions(catalog, request_id)
    catalog.delete_versions([new.response_id], now=NOW + 5)
    assert [r.id for r in versions(catalog, request_id)] == [old.response_id]
    assert [r.id for r in versions(catalog, request_id, deleted=True)] == [new.response_id]
    assert catalog.request(request_id, now=NOW).latest_id == old.response_id
    assert catalog.find_version(request_id, version=new.version, now=NOW) is None
    assert catalog.find_version(request_id, tag="stable", now=NOW) is None
    assert [h.id for h in catalog.held(request_id)[request_id]] == [old.response_id]
    assert catalog.unreferenced(before=NOW + 100) == []
    catalog.restore_versions([new.response_id])
    assert versions(catalog, request_id) == before
    assert versions(catalog, request_id, deleted=True) == []
    catalog.delete_versions([], now=NOW)
    assert versions(catalog, request_id) == before


def test_what_was_deleted_before_a_time_is_purged(catalog: Catalog, frontier: Frontier) -> None:
    """`deleted_before` says what `purge_deleted` drops; its content is then nobody's."""
    request_id = register(catalog).request.id
    ids = [bring(frontier, request_id, bytes([n]), now=NOW + n).lease.response_id for n in range(3)]
    catalog.delete_versions([ids[0]], now=NOW + 10)
    catalog.delete_versions([ids[1]], now=NOW + 20)
    assert [r.id for r in catalog.deleted_before(NOW + 20)] == [ids[0]]
    assert catalog.purge_deleted(before=NOW + 20, now=NOW + 20) == 1
    assert [r.id for r in versions(catalog, request_id, deleted=True)] == [ids[1]]
    assert [row.sha256 for row in catalog.unreferenced(before=NOW + 100)] == [content_of(b"\x00").sha256]
    assert catalog.purge_deleted(before=NOW + 100, now=NOW + 100) == 1
    assert [r.id for r in versions(catalog, request_id)] == [ids[2]]


def test_a_deleted_version_is_no_longer_compared_with(catalog: Catalog, frontier: Frontier) -> None:
    """Its bytes, brought again, are a new version."""
    request_id = register(catalog).request.id
    gone = bring(frontier, request_id, b"x")
    catalog.delete_versions([gone.lease.response_id], now=NOW)
    assert bring(frontier, request_id, b"x", now=NOW + 1).status == "ready"


# --- rot --------------------------------------------------------------------------------------------------


def test_a_rotten_content_is_never_served_again(rig: SqliteRig, catalog: Catalog, frontier: Frontier) -> None:
    """Its versions fail with the reason, its Requests are due, and whoever asks gets an older good one."""
    request_id = register(catalog, Never()).request.id
    good = bring(frontier, request_id, b"good").lease
    bad = bring(frontier, request_id, b"bad", now=NOW + 1).lease
    other_id = register(catalog, Never(), url=URL + "other").request.id
    shared = bring(frontier, other_id, b"bad", now=NOW + 1).lease
    assert due_at(rig, request_id) is None
    affected = catalog.mark_rotten(content_of(b"bad").sha256, found="its bytes are wrong", now=NOW + 9)
    assert {response.id for response in affected} == {bad.response_id, shared.response_id}
    for lease in (bad, shared):
        response = catalog.response(lease.response_id, now=NOW)
        assert response is not None
        assert response.status == "failed"
        assert response.download_stats.error_code == "content_rotten"
        assert response.download_stats.error == "its bytes are wrong"
        assert catalog.find_version(response.request_id, version=response.version, now=NOW) is None
    assert catalog.request(request_id, now=NOW).latest_id == good.response_id
    assert catalog.request(other_id, now=NOW).latest is None
    assert due_at(rig, request_id) == due_at(rig, other_id) == NOW + 9
    assert {row.sha256: row.rotten for row in catalog.contents()} == {
        content_of(b"good").sha256: False,
        content_of(b"bad").sha256: True,
    }
    assert catalog.mark_rotten(content_of(b"bad").sha256, found="again", now=NOW + 10) == []


def test_good_bytes_heal_every_version_that_had_them(catalog: Catalog, frontier: Frontier) -> None:
    """Brought by whatever Request: the content is whole again, and so are its versions."""
    request_id = register(catalog).request.id
    other_id = register(catalog, url=URL + "other").request.id
    lease = bring(frontier, request_id, b"x").lease
    other = bring(frontier, other_id, b"x").lease
    before = [catalog.response(key, now=NOW) for key in (lease.response_id, other.response_id)]
    catalog.mark_rotten(content_of(b"x").sha256, found="rot", now=NOW + 1)
    finished = bring(frontier, request_id, b"x", now=NOW + 2)
    assert finished.status == "unchanged"
    assert [row.rotten for row in catalog.contents()] == [False]
    assert [catalog.response(key, now=NOW) for key in (lease.response_id, other.response_id)] == before
    assert catalog.request(other_id, now=NOW).latest_id == other.response_id


def test_a_healed_duplicate_is_a_duplicate_again(catalog: Catalog, frontier: Frontier) -> None:
    """Each version is again what it was; a failure for another reason stays one."""
    request_id = register(catalog, Age(seconds=60)).request.id
    bring(frontier, request_id, b"x")
    bring(frontier, request_id, b"x", now=NOW + 1)
    fail(frontier, request_id, now=NOW + 2)
    before = statuses(catalog, request_id)
    assert before == ["failed", "duplicate", "ready"]
    catalog.mark_rotten(content_of(b"x").sha256, found="rot", now=NOW + 3)
    bring(frontier, request_id, b"x", now=NOW + 4)
    assert statuses(catalog, request_id)[1:] == before


def test_other_bytes_heal_nothing(catalog: Catalog, frontier: Frontier) -> None:
    """The rotten content stays rotten, its version failed."""
    request_id = register(catalog).request.id
    bring(frontier, request_id, b"x")
    catalog.mark_rotten(content_of(b"x").sha256, found="rot", now=NOW + 1)
    assert bring(frontier, request_id, b"y", now=NOW + 2).status == "ready"
    assert statuses(catalog, request_id) == ["ready", "failed"]
    assert sum(row.rotten for row in catalog.contents()) == 1


def test_rot_in_a_deleted_version_does_not_bring_its_request_back(
    rig: SqliteRig, catalog: Catalog, frontier: Frontier
) -> None:
    """What a person removed is fetched no more by itself."""
    request_id = register(catalog).request.id
    lease = bring(frontier, request_id, b"x").lease
    catalog.delete_versions([lease.response_id], now=NOW + 1)
    catalog.schedule(request_id, None)
    catalog.mark_rotten(content_of(b"x").sha256, found="rot", now=NOW + 2)
    assert due_at(rig, request_id) is None


# --- due --------------------------------------------------------------------------------------------------


def test_what_is_longest_due_comes_first(rig: SqliteRig, catalog: Catalog, frontier: Frontier) -> None:
    """Not what is to come, not what is never due, not what is being fetched; as many as asked for."""
    ids = [register(catalog, url=f"{URL}{n}").request.id for n in range(6)]
    for request_id, at in zip(ids, (NOW + 3, NOW + 1, NOW + 2, NOW + 99, None, NOW), strict=True):
        catalog.schedule(request_id, at)
    lease = lease_for(frontier, ids[5])
    assert list(frontier.due(now=NOW + 3, limit=10)) == [ids[1], ids[2], ids[0]]
    assert list(frontier.due(now=NOW + 3, limit=2)) == [ids[1], ids[2]]
    assert list(frontier.due(now=NOW + 0.5, limit=10)) == []
    frontier.release(lease)
    assert list(frontier.due(now=NOW + 0.5, limit=10)) == [ids[5]]
    assert frontier.next_due_at() == NOW
    for request_id in ids:
        catalog.schedule(request_id, None)
    assert frontier.next_due_at() is None


DUE_AFTER = [
    # strategy, due after new bytes with a validator, after new bytes without one
    (Never(), None, None),
    (WhenRequested(), None, None),
    (Age(seconds=100), NOW + 100, NOW + 100),
    (WhenRemoteChanged(check_interval_sec=100, fallback_max_age_sec=50), NOW + 100, NOW + 50),
]


@pytest.mark.parametrize(("strategy", "with_validator", "without"), DUE_AFTER)
def test_a_finished_fetch_sets_when_it_is_due_again(
    rig: SqliteRig,
    catalog: Catalog,
    frontier: Frontier,
    strategy: Any,
    with_validator: float | None,
    without: float | None,
) -> None:
    """By the Request's strategy, stored and indexed."""
    one = register(catalog, strategy, url=URL + "1").request.id
    two = register(catalog, strategy, url=URL + "2").request.id
    bring(frontier, one, b"x")
    bring(frontier, two, b"x", etag=None, last_modified=None)
    assert (due_at(rig, one), due_at(rig, two)) == (with_validator, without)


def test_a_confirmed_version_keeps_its_kind_of_schedule(
    rig: SqliteRig, catalog: Catalog, frontier: Frontier
) -> None:
    """A HEAD cannot keep a content without a validator alive beyond the fallback."""
    strategy = WhenRemoteChanged(check_interval_sec=100, fallback_max_age_sec=150)
    request_id = register(catalog, strategy).request.id
    bring(frontier, request_id, b"x", etag=None, last_modified=None)
    assert due_at(rig, request_id) == NOW + 100
    confirm(frontier, request_id, now=NOW + 100, validated=False)
    assert due_at(rig, request_id) == NOW + 150


def test_failures_are_tried_again_ever_later_until_a_success(
    rig: SqliteRig, catalog: Catalog, frontier: Frontier
) -> None:
    """1, 2, 4 minutes; a good check starts the count anew; who is never due by itself stays so."""
    request_id = register(catalog).request.id
    waits = []
    for _ in range(3):
        fail(frontier, request_id)
        waits.append((due_at(rig, request_id) or 0) - NOW)
    assert waits == [60, 120, 240]
    bring(frontier, request_id, b"x", now=NOW - 1e6)
    fail(frontier, request_id)
    assert due_at(rig, request_id) == NOW + 60
    never = register(catalog, Never(), url=URL + "never").request.id
    bring(frontier, never, b"x")
    fail(frontier, never)
    assert due_at(rig, never) is None


# --- slots ------------------------------------------------------------------------------------------------


def test_a_host_has_as_many_slots_as_its_limit(frontier: Frontier) -> None:
    """Over all owners; what is given back can be taken again."""
    assert frontier.take_slots(HOST, owner="a", want=2, limit=3, now=NOW) == 2
    assert frontier.take_slots(HOST, owner="b", want=2, limit=3, now=NOW) == 1
    assert frontier.take_slots("other", owner="b", want=2, limit=3, now=NOW) == 2
    assert frontier.take_slots(HOST, owner="a", want=1, limit=3, now=NOW) == 0
    frontier.give_slots(HOST, owner="a", count=1, waiting=False, now=NOW)
    assert frontier.take_slots(HOST, owner="b", want=5, limit=3, now=NOW) == 1


def test_whoever_waits_longest_is_served_first(frontier: Frontier) -> None:
    """However often the others ask meanwhile."""
    assert frontier.take_slots(HOST, owner="a", want=1, limit=1, now=NOW) == 1
    assert frontier.take_slots(HOST, owner="b", want=1, limit=1, now=NOW + 1) == 0
    assert frontier.take_slots(HOST, owner="c", want=1, limit=1, now=NOW + 2) == 0
    assert frontier.others_wait(HOST, owner="a")
    assert frontier.others_at(HOST, owner="c") == {"a", "b"}
    # The one that gives back and wants another goes to the end of the queue.
    frontier.give_slots(HOST, owner="a", count=1, waiting=True, now=NOW + 3)
    served = []
    for at in range(4, 7):
        for owner in "acb":
            if frontier.take_slots(HOST, owner=owner, want=1, limit=1, now=NOW + at):
                served.append(owner)
                frontier.give_slots(HOST, owner=owner, count=1, waiting=False, now=NOW + at)
                break
    assert served == ["b", "c", "a"]
    assert not frontier.others_wait(HOST, owner="x")
    assert frontier.others_at(HOST, owner="x") == set()


def test_an_owner_that_has_a_slot_does_not_hold_up_the_others(frontier: Frontier) -> None:
    """It waits for more, but another may have its first one before."""
    assert frontier.take_slots(HOST, owner="a", want=3, limit=2, now=NOW) == 2
    assert frontier.take_slots(HOST, owner="b", want=1, limit=2, now=NOW + 1) == 0
    frontier.give_slots(HOST, owner="a", count=1, waiting=True, now=NOW + 2)
    assert frontier.take_slots(HOST, owner="b", want=1, limit=2, now=NOW + 3) == 1


def test_a_dead_owner_s_place_in_the_queue_is_taken_with_its_slots(frontier: Frontier) -> None:
    """Nobody waits for who will never come."""
    assert frontier.take_slots(HOST, owner="a", want=1, limit=1, now=NOW) == 1
    assert frontier.take_slots(HOST, owner="dead", want=1, limit=1, now=NOW + 1) == 0
    assert frontier.take_slots(HOST, owner="b", want=1, limit=1, now=NOW + 2) == 0
    frontier.give_slots(HOST, owner="a", count=1, waiting=False, now=NOW + 3)
    assert frontier.take_slots(HOST, owner="b", want=1, limit=1, now=NOW + 4) == 0
    frontier.reap("dead")
    assert frontier.take_slots(HOST, owner="b", want=1, limit=1, now=NOW + 5) == 1


def test_who_wants_no_more_leaves_the_queue(frontier: Frontier) -> None:
    """Giving nothing back, without waiting, is leaving."""
    assert frontier.take_slots(HOST, owner="a", want=1, limit=1, now=NOW) == 1
    assert frontier.take_slots(HOST, owner="b", want=1, limit=1, now=NOW + 1) == 0
    frontier.give_slots(HOST, owner="b", count=0, waiting=False, now=NOW + 2)
    assert not frontier.others_wait(HOST, owner="a")
    assert frontier.others_at(HOST, owner="a") == set()


def test_the_limit_is_never_passed_and_everybody_gets_a_turn(rig: SqliteRig) -> None:
    """Eight owners at once, limit 3: at no time more than three hold a slot, and each has had its turns."""
    limit, turns = 3, 5
    held, most, moves = 0, 0, 0
    moved = threading.Condition()
    clock = iter(range(10_000_000))
    databases = [rig.another() for _ in range(8)]

    def move(by: int) -> None:
        nonlocal held, most, moves
        with moved:
            held, moves = held + by, moves + 1
            most = max(most, held)
            moved.notify_all()

    def work(number: int) -> int:
        frontier, owner, done = Frontier(databases[number]), f"owner{number}", 0
        while done < turns:
            before = moves
            if not frontier.take_slots(HOST, owner=owner, want=1, limit=limit, now=NOW + next(clock)):
                with moved:  # what was in the way goes on first
                    moved.wait_for(lambda before=before: moves != before, timeout=60)
                continue
            move(+1)
            done += 1
            move(-1)
            frontier.give_slots(HOST, owner=owner, count=1, waiting=done < turns, now=NOW + next(clock))
            move(0)
        return done

    assert at_once(8, work) == [turns] * 8
    assert 1 <= most <= limit
    assert rig.frontier.owners() == set()


# --- retention, contents, usage ---------------------------------------------------------------------------


def test_what_is_held_is_what_retention_needs(catalog: Catalog, frontier: Frontier) -> None:
    """By Request; sizes from the content, the newest ready one marked, times of use where there are any."""
    request_id = register(catalog, Age(seconds=1)).request.id
    other_id = register(catalog, url=URL + "other").request.id
    old = bring(frontier, request_id, b"1234").lease
    new = bring(frontier, request_id, b"12345", now=NOW + 1).lease
    duplicate = bring(frontier, request_id, b"12345", now=NOW + 2).lease
    failed = fail(frontier, request_id, now=NOW + 3).lease
    bring(frontier, other_id, b"other")
    catalog.touch(used={old.response_id: NOW + 50}, requested={})
    held = {h.id: h for h in catalog.held(request_id)[request_id]}
    assert set(catalog.held(request_id)) == {request_id}
    assert set(catalog.held()) == {request_id, other_id}
    assert {key: h.size_bytes for key, h in held.items()} == {
        old.response_id: 4,
        new.response_id: 5,
        duplicate.response_id: 5,
        failed.response_id: 0,
    }
    assert [key for key, h in held.items() if h.is_latest] == [new.response_id]
    assert held[old.response_id].last_used_at == NOW + 50
    assert held[new.response_id].last_used_at == NOW + 1
    assert held[failed.response_id].made_at == NOW + 3
    assert held[duplicate.response_id].status == "duplicate"


def test_times_of_use_only_grow(catalog: Catalog, frontier: Frontier) -> None:
    """Batches of several processes may arrive in any order."""
    request_id = register(catalog).request.id
    key = bring(frontier, request_id, b"x").lease.response_id
    for at in (NOW + 10, NOW + 5, NOW + 20, NOW):
        catalog.touch(used={key: at, "f" * 32: at}, requested={request_id: at})
    ((held,),) = catalog.held().values()
    assert held.last_used_at == NOW + 20
    latest = catalog.request(request_id, now=NOW).request.latest_request_datetime_utc
    assert latest == datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=20)


def test_an_evicted_version_is_gone_and_its_content_nobody_s(catalog: Catalog, frontier: Frontier) -> None:
    """Unless another version has it; the sweep's grace time counts from when nobody had it any more."""
    request_id = register(catalog).request.id
    other_id = register(catalog, url=URL + "other").request.id
    mine = bring(frontier, request_id, b"mine").lease
    shared = bring(frontier, request_id, b"shared", now=NOW + 1).lease
    bring(frontier, other_id, b"shared", now=NOW + 2)
    assert catalog.evict([mine.response_id, shared.response_id, "f" * 32], now=NOW + 3) == 2
    assert catalog.evict([mine.response_id], now=NOW + 4) == 0
    assert versions(catalog, request_id) == []
    assert [row.sha256 for row in catalog.unreferenced(before=NOW + 100)] == [content_of(b"mine").sha256]
    assert catalog.unreferenced(before=NOW + 2) == []


def test_a_content_is_forgotten_only_while_nobody_has_it(catalog: Catalog, frontier: Frontier) -> None:
    """A commit may have come between the look and the sweep."""
    request_id = register(catalog).request.id
    sha256 = content_of(b"x").sha256
    first = bring(frontier, request_id, b"x").lease
    assert not catalog.forget_content(sha256)
    catalog.evict([first.response_id], now=NOW)
    assert [row.sha256 for row in catalog.unreferenced(before=NOW + 1)] == [sha256]
    second = bring(frontier, request_id, b"x", now=NOW + 2).lease
    assert not catalog.forget_content(sha256)
    catalog.evict([second.response_id], now=NOW)
    assert catalog.forget_content(sha256)
    assert not catalog.forget_content(sha256)
    assert catalog.known_contents([sha256]) == set()


def test_bringing_content_again_renews_its_grace_time(catalog: Catalog, frontier: Frontier) -> None:
    """Its file was just replaced."""
    request_id = register(catalog).request.id
    bring(frontier, request_id, b"x")
    catalog.evict([bring(frontier, request_id, b"y", now=NOW + 1).lease.response_id], now=NOW)
    catalog.evict([r.id for r in versions(catalog, request_id)], now=NOW)
    catalog.evict([bring(frontier, request_id, b"x", now=NOW + 50).lease.response_id], now=NOW + 51)
    assert [row.sha256 for row in catalog.unreferenced(before=NOW + 10)] == [content_of(b"y").sha256]


def test_known_contents_are_those_with_a_row(catalog: Catalog, frontier: Frontier) -> None:
    """Of those asked about."""
    bring(frontier, register(catalog).request.id, b"x")
    known = content_of(b"x").sha256
    assert catalog.known_contents([known, "0" * 64]) == {known}
    assert [(row.sha256, row.size_bytes, row.rotten) for row in catalog.contents()] == [(known, 1, False)]


def test_usage_counts_equal_content_once_in_bytes(catalog: Catalog, frontier: Frontier) -> None:
    """And once a version in logical bytes; failures, duplicates and deleted ones are no versions to use."""
    usage = catalog.usage(now=NOW)
    assert (usage.requests, usage.versions, usage.content_bytes, usage.logical_bytes) == (0, 0, 0, 0)
    one = register(catalog, Age(seconds=1), url=URL + "1").request.id
    two = register(catalog, Age(seconds=1), url=URL + "2").request.id
    pinned = bring(frontier, one, b"12345").lease
    bring(frontier, one, b"12345", now=NOW + 1)
    fail(frontier, one, now=NOW + 2)
    bring(frontier, two, b"12345")
    deleted = bring(frontier, two, b"123", now=NOW + 1).lease
    catalog.pin(pinned.response_id, value=True, until=None)
    catalog.delete_versions([deleted.response_id], now=NOW)
    usage = catalog.usage(now=NOW)
    assert (usage.requests, usage.versions, usage.pinned_versions, usage.deleted_versions) == (2, 2, 1, 1)
    assert (usage.contents, usage.content_bytes, usage.logical_bytes) == (2, 8, 10)


# --- asks -----------------------------------------------------------------------------------------------


def test_what_is_asked_for_comes_before_what_is_due(catalog: Catalog, frontier: Frontier) -> None:
    """However long that has been due; whatever the strategy says of the one that is asked for."""
    due = register(catalog, url=f"{URL}?due", now=NOW - 1e6).request.id
    asked = register(catalog, Never(), url=f"{URL}?asked").request.id
    bring(frontier, asked, b"content")
    assert list(frontier.due(now=NOW, limit=9)) == [due]
    standing = frontier.ask(asked)
    assert (standing.asked, standing.busy, standing.failures) == (True, None, 0)
    assert list(frontier.due(now=NOW - 2e6, limit=9)) == [asked]
    assert list(frontier.due(now=NOW, limit=9)) == [asked, due]


def test_the_fetch_that_begins_after_an_ask_answers_it(catalog: Catalog, frontier: Frontier) -> None:
    """Over is: neither asked nor busy, and the fence has moved."""
    request_id = register(catalog, Never()).request.id
    before = frontier.ask(request_id)
    lease = lease_for(frontier, request_id)
    running = frontier.standing(request_id)
    assert not running.asked
    assert running.busy == Busy(request_id, lease.response_id, "me", lease.fence, 0)
    frontier.finish([Brought(lease, STATS, content_of(b"content"))], now=NOW)
    over = frontier.standing(request_id)
    assert (over.asked, over.busy) == (False, None)
    assert over.fence > before.fence
    assert list(frontier.due(now=NOW + 1e9, limit=9)) == []


def test_an_ask_during_a_fetch_joins_it(catalog: Catalog, frontier: Frontier) -> None:
    """Any number of readers of a cold URL cost one fetch."""
    request_id = register(catalog).request.id
    frontier.ask(request_id)
    lease = lease_for(frontier, request_id)
    assert not frontier.ask(request_id).asked
    frontier.finish([Brought(lease, STATS, content_of(b"content"))], now=NOW)
    assert not frontier.standing(request_id).asked
    assert list(frontier.due(now=NOW, limit=9)) == []


def test_an_ask_for_another_fetch_outlives_the_one_that_runs(catalog: Catalog, frontier: Frontier) -> None:
    """However that one ends."""
    request_id = register(catalog, Never()).request.id
    for outcome in (
        lambda lease: Brought(lease, STATS, content_of(b"content")),
        lambda lease: Confirmed(lease, STATS, version_of(catalog, request_id), validated=True),
        lambda lease: Broke(lease, STATS, "origin_status", "404"),
    ):
        lease = lease_for(frontier, request_id)
        assert frontier.ask(request_id, again=True).asked
        frontier.finish([outcome(lease)], now=NOW)
        assert frontier.standing(request_id).asked
        assert list(frontier.due(now=NOW, limit=9)) == [request_id]


def version_of(catalog: Catalog, request_id: str) -> str:
    """The latest ready version."""
    latest = catalog.latest_ready(request_id, now=NOW)
    assert latest is not None
    return latest.version


def test_an_ask_is_for_what_was_seen(catalog: Catalog, frontier: Frontier) -> None:
    """A fetch that has ended since the decision to ask is the answer: there is something newer to look at."""
    registered = register(catalog)
    bring(frontier, registered.request.id, b"content")
    assert not frontier.ask(registered.request.id, seen=registered.fence).asked
    now_seen = catalog.request(registered.request.id, now=NOW).fence
    assert frontier.ask(registered.request.id, seen=now_seen).asked


def test_a_failure_counts_and_can_be_asked_again(catalog: Catalog, frontier: Frontier) -> None:
    """Who waits sees more failures than before; an ask does not wait for the retry's time."""
    request_id = register(catalog).request.id
    for failures in (1, 2):
        assert frontier.ask(request_id).failures == failures - 1
        assert list(frontier.due(now=NOW, limit=9)) == [request_id]
        lease = lease_for(frontier, request_id)
        frontier.finish([Broke(lease, STATS, "origin_status", "404")], now=NOW)
        assert frontier.standing(request_id).failures == failures
        assert list(frontier.due(now=NOW, limit=9)) == []
    frontier.ask(request_id)
    bring(frontier, request_id, b"content")
    assert frontier.standing(request_id).failures == 0


def test_an_ask_whose_fetch_was_cut_off_is_due(catalog: Catalog, frontier: Frontier) -> None:
    """Released or reaped: whoever fetches next resumes it, also when the strategy would not."""
    request_id = register(catalog, Never()).request.id
    bring(frontier, request_id, b"content")
    frontier.ask(request_id)
    frontier.release(lease_for(frontier, request_id))
    assert list(frontier.due(now=NOW, limit=9)) == [request_id]
    assert lease_for(frontier, request_id, owner="gone").resumed
    frontier.reap("gone")
    assert list(frontier.due(now=NOW, limit=9)) == [request_id]


def test_what_else_sets_a_due_time_leaves_an_ask(catalog: Catalog, frontier: Frontier) -> None:
    """A new configuration, and a clock that was set back. A removal does not: nothing is wanted any more."""
    request_id = register(catalog, Age()).request.id
    bring(frontier, request_id, b"content", now=NOW + 1e6)
    frontier.ask(request_id)
    catalog.configure(request_id, RequestCacheConfiguration(recaching_strategy=Never()), next_due_at=None)
    assert frontier.standing(request_id).asked
    assert frontier.mend_due_times(now=NOW) == 0
    assert frontier.standing(request_id).asked
    catalog.schedule(request_id, None)
    assert not frontier.standing(request_id).asked
    assert frontier.ask(request_id).asked


def test_nobody_is_asked_for_what_is_not_known(frontier: Frontier) -> None:
    """`UnknownRequest`, as wherever an id leads nowhere."""
    with pytest.raises(UnknownRequest):
        frontier.ask("0" * 32)
    with pytest.raises(UnknownRequest):
        frontier.standing("0" * 32)


def test_versions_by_status_tag_pin_and_page(catalog: Catalog, frontier: Frontier) -> None:
    """The newest first; each condition narrows."""
    request_id = register(catalog, WhenRequested()).request.id
    for number in range(4):
        bring(frontier, request_id, b"%d" % number, now=NOW + number)
    lease = lease_for(frontier, request_id, now=NOW + 9)
    frontier.finish([Broke(lease, STATS, "origin_status", "404")], now=NOW + 9)
    every = catalog.versions(request_id, now=NOW)
    assert [response.status for response in every] == ["failed", "ready", "ready", "ready", "ready"]
    ready = [response.version for response in every[1:]]

    def names(**which: Any) -> list[str]:
        return [response.version for response in catalog.versions(request_id, now=NOW, **which)]

    catalog.tag(every[2].id, "good")
    catalog.pin(every[3].id, value=True, until=None)
    catalog.pin(every[4].id, value=True, until=NOW - 1)
    assert names(status="ready") == ready
    assert names(status="ready", skip=1, limit=2) == ready[1:3]
    assert names(tag="good") == [ready[1]]
    assert names(pinned=True) == [ready[2]]
    assert names(pinned=False, status="ready") == [ready[0], ready[1], ready[3]]
    newest = catalog.newest(request_id, now=NOW)
    assert newest is not None
    assert newest.status == "failed"
    assert catalog.newest(request_id, tag="bad", now=NOW) is None


def test_a_version_that_was_dropped_is_known_as_what_it_equals(catalog: Catalog, frontier: Frontier) -> None:
    """Once the origin has confirmed the stored one after it was begun; not one that was deleted, or never was."""
    request_id = register(catalog).request.id
    bring(frontier, request_id, b"content")
    stored = version_of(catalog, request_id)
    lease = lease_for(frontier, request_id, now=NOW + 1)
    assert catalog.confirmed_as(request_id, lease.version, now=NOW + 1) is None
    frontier.finish([Confirmed(lease, STATS, stored, validated=True)], now=NOW + 2)
    found = catalog.confirmed_as(request_id, lease.version, now=NOW + 2)
    assert found is not None
    assert (found.version, found.status, found.previous_version) == (lease.version, "duplicate", stored)
    for other in (stored, "20000101T000000000000Z", "20991231T000000000000Z"):
        assert catalog.confirmed_as(request_id, other, now=NOW + 2) is None
    bring(frontier, request_id, b"other", now=NOW + 3)
    gone = catalog.newest(request_id, now=NOW + 3)
    assert gone is not None
    catalog.delete_versions([gone.id], now=NOW + 3)
    assert catalog.confirmed_as(request_id, gone.version, now=NOW + 4) is None


# --- transactions and durability --------------------------------------------------------------------------


def prepared(rig: SqliteRig) -> tuple[Catalog, Frontier, str, Lease, str]:
    request_id = register(rig.catalog).request.id
    kept = bring(rig.frontier, request_id, b"kept").lease
    gone = bring(rig.frontier, request_id, b"gone", now=NOW + 1).lease
    rig.catalog.evict([gone.response_id], now=NOW)
    lease = lease_for(rig.frontier, request_id, now=NOW + 2)
    return rig.catalog, rig.frontier, kept.response_id, lease, content_of(b"gone").sha256


Change = Callable[[Catalog, Frontier, str, Lease, str], object]
DURABLE: dict[str, Change] = {
    "finish": lambda c, f, key, lease, sha: f.finish([Brought(lease, STATS, content_of(b"new"))], now=NOW),
    "tag": lambda c, f, key, lease, sha: c.tag(key, "stable"),
    "untag": lambda c, f, key, lease, sha: c.tag(key, "stable", remove=True),
    "pin": lambda c, f, key, lease, sha: c.pin(key, value=True, until=None),
    "delete": lambda c, f, key, lease, sha: c.delete_versions([key], now=NOW),
    "restore": lambda c, f, key, lease, sha: c.restore_versions([key]),
    "mark_rotten": lambda c, f, key, lease, sha: c.mark_rotten(content_of(b"kept").sha256, found="rot", now=NOW),
    "configure": lambda c, f, key, lease, sha: c.configure(
        lease.request_id, RequestCacheConfiguration(), next_due_at=None
    ),
    # Its file is removed next. Were the row, or the version evicted before, to come back after a crash of
    # the machine, it would be without its bytes: invariant 2.
    "forget_content": lambda c, f, key, lease, sha: c.forget_content(sha),
}


@pytest.mark.parametrize("name", DURABLE)
def test_what_makes_content_visible_or_acknowledges_survives_a_crash(
    rig: SqliteRig, commits: list[int], name: str
) -> None:
    """One transaction, with ``synchronous=FULL``."""
    things = prepared(rig)
    commits.clear()
    DURABLE[name](*things)
    assert commits == [2]


QUICK: dict[str, Change] = {
    "begin": lambda c, f, key, lease, sha: f.begin([lease.request_id], owner="b", now=NOW),
    "start": lambda c, f, key, lease, sha: f.start([lease], owner="me", now=NOW),
    "beat": lambda c, f, key, lease, sha: f.beat("me"),
    "release": lambda c, f, key, lease, sha: f.release(lease),
    "take_slots": lambda c, f, key, lease, sha: f.take_slots(HOST, owner="me", want=1, limit=1, now=NOW),
    "touch": lambda c, f, key, lease, sha: c.touch(used={key: NOW}, requested={}),
    "schedule": lambda c, f, key, lease, sha: c.schedule(lease.request_id, NOW),
    "register": lambda c, f, key, lease, sha: register(c, url=URL + "new"),
}


@pytest.mark.parametrize("name", QUICK)
def test_other_changes_do_not_wait_for_the_disk(rig: SqliteRig, commits: list[int], name: str) -> None:
    """One transaction, with ``synchronous=NORMAL``, also right after a durable one."""
    things = prepared(rig)
    rig.catalog.tag(things[2], "durable")
    commits.clear()
    QUICK[name](*things)
    assert commits == [1]


READS: dict[str, Change] = {
    "find": lambda c, f, key, lease, sha: c.find(RequestSpec(url=URL).signature(), now=NOW),
    "find_or_create": lambda c, f, key, lease, sha: register(c),
    "response": lambda c, f, key, lease, sha: c.response(key, now=NOW),
    "versions": lambda c, f, key, lease, sha: c.versions(lease.request_id, now=NOW),
    "latest_ready": lambda c, f, key, lease, sha: c.latest_ready(lease.request_id, now=NOW),
    "find_version": lambda c, f, key, lease, sha: c.find_version(lease.request_id, tag="stable", now=NOW),
    "due": lambda c, f, key, lease, sha: f.due(now=NOW, limit=1),
    "usage": lambda c, f, key, lease, sha: c.usage(now=NOW),
    "held": lambda c, f, key, lease, sha: c.held(),
    "lease_of": lambda c, f, key, lease, sha: f.lease_of(lease.request_id),
}


@pytest.mark.parametrize("name", READS)
def test_a_question_writes_nothing(rig: SqliteRig, commits: list[int], name: str) -> None:
    """Invariant 11: a hit is no transaction."""
    things = prepared(rig)
    commits.clear()
    READS[name](*things)
    assert commits == []


def test_a_write_is_seen_when_its_block_ends_and_not_before(rig: SqliteRig) -> None:
    """By other threads and other processes alike."""
    catalog, other = rig.catalog, Catalog(rig.another())
    with rig.database.write(durable=False):
        register(catalog)
        assert other.list_requests() == []
    assert len(other.list_requests()) == 1


def test_a_nested_write_joins_the_one_around_it(rig: SqliteRig, commits: list[int]) -> None:
    """One transaction: it ends with the outer block, and with the outer block's durability."""
    commits.clear()
    request_id = register(rig.catalog).request.id
    commits.clear()
    with rig.database.write(durable=True):
        bring(rig.frontier, request_id, b"x")
        register(rig.catalog, url=URL + "2")
        assert commits == []
    assert commits == [2]


def test_a_write_that_fails_leaves_nothing(rig: SqliteRig) -> None:
    """Nested ones included; the next write is none the worse."""
    request_id = register(rig.catalog).request.id
    before = everything(rig)
    with pytest.raises(KeyError), rig.database.write(durable=True):
        bring(rig.frontier, request_id, b"x")
        raise KeyError
    assert everything(rig) == before
    assert bring(rig.frontier, request_id, b"x").status == "ready"


def test_a_write_of_another_thread_is_no_nested_one(rig: SqliteRig) -> None:
    """It waits for the end of the first, then is a transaction of its own."""
    inside, order = threading.Event(), []

    def other() -> None:
        inside.wait(60)
        with rig.database.write(durable=False):
            order.append("second")

    thread = threading.Thread(target=other)
    thread.start()
    with rig.database.write(durable=False):
        inside.set()
        register(rig.catalog)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_writers_in_many_threads_and_connections_lose_nothing(rig: SqliteRig) -> None:
    """They queue; nobody is told that the database is locked."""
    databases = [rig.database, rig.another(), rig.another(), rig.database]

    def work(number: int) -> None:
        for n in range(10):
            register(Catalog(databases[number]), url=f"{URL}{number}/{n}")

    at_once(4, work)
    assert len(rig.catalog.list_requests()) == 40


def test_a_broken_statement_is_an_error_of_the_storage(rig: SqliteRig) -> None:
    """Mapped once, with the database's own words."""
    with pytest.raises(StorageFailed, match="no such table"), rig.database.read() as db:
        db.exec_driver_sql("SELECT * FROM nowhere")
    with pytest.raises(StorageFailed, match="no such table"), rig.database.write(durable=False) as db:
        db.exec_driver_sql("DELETE FROM nowhere")
    assert rig.catalog.list_requests() == []


def test_a_full_database_is_a_full_disk(rig: SqliteRig) -> None:
    """The write changes nothing, what is stored stays readable, and with room again it goes on."""
    register(rig.catalog)
    with rig.database.write(durable=False) as db:
        pages = db.exec_driver_sql("PRAGMA page_count").scalar_one()
        db.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(DiskFull):
        register(rig.catalog, url=URL + "big", http_request_body="x" * 1_000_000)
    assert [request.url for request in rig.catalog.list_requests()] == [URL]
    with rig.database.write(durable=False) as db:
        db.exec_driver_sql("PRAGMA max_page_count=1073741823")
    assert register(rig.catalog, url=URL + "big", http_request_body="x" * 1_000_000).created


def test_a_killed_process_leaves_no_half_transaction(rig: SqliteRig) -> None:
    """Its lease is there to be reaped or not there at all; its open write is gone."""
    request_id = register(rig.catalog).request.id
    script = f"""{rig.opening}
import json, sys
from forebay.catalog.frontier import Frontier
frontier = Frontier(database)
frontier.begin([{request_id!r}], owner="dead", now={NOW})
with database.write(durable=True) as db:
    db.exec_driver_sql("DELETE FROM leases")
    db.exec_driver_sql("DELETE FROM responses")
    print(json.dumps("inside"), flush=True)
    sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline()) == "inside"
        child.kill()
    held = rig.frontier.lease_of(request_id)
    assert held is not None
    assert held.owner == "dead"
    assert statuses(rig.catalog, request_id) == ["wait"]
    rig.frontier.reap("dead")
    assert lease_for(rig.frontier, request_id).fence == 2
