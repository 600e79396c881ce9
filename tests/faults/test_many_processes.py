"""Many processes on one folder: one transfer of each URL, whoever runs it, and a host's limit over all of them."""

import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import forebay
from origin import Exchange, Held, Origin, Resource, Seen, Stall, blob

pytestmark = pytest.mark.faults

MIB = 1 << 20
MANY = 20

GET = """
import forebay
def waiting(url, progress):
    say(event="waiting", bytes=progress.downloaded_bytes)
with forebay.open(ask["folder"]) as bay:
    response = bay.fetch(ask["url"], progress=waiting)
    with bay.open(response) as content, open(ask["to"], "wb") as copy:
        copy.write(content.read())
    say(event="fetched", version=response.version)
"""
COMMAND = """
import runpy
sys.argv = ["forebay", "get", ask["url"], "-o", ask["to"], "--data", ask["folder"], "--json"]
runpy.run_module("forebay", run_name="__main__", alter_sys=True)
"""


def has_waited(said: list[dict[str, Any]]) -> bool:
    return any(one.get("event") == "waiting" for one in said)


def ready_versions(folder: Path, url: str) -> list[forebay.Response]:
    with forebay.open(folder) as bay:
        assert bay.verify().rotten == []
        return [version for version in bay.versions(url) if version.status == "ready"]


@pytest.mark.parametrize("script", [GET, COMMAND], ids=["library", "command"])
def test_twenty_ask_for_one_cold_url(
    script: str, origin: Origin, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """Twenty processes that ask for one URL that nobody has yet: the origin sees one GET, all have the file, of
    one version."""
    folder, body = tmp_path / "bay", blob(2 * MIB + 3)
    held = origin.serve("/a", Held(Resource(body)))
    children = [
        spawn(script, folder=folder, url=origin.url("/a"), to=tmp_path / f"copy{number}") for number in range(MANY)
    ]
    held.arrived(1, timeout=60)
    if script is GET:  # the command draws its progress on a terminal only
        for child in children:
            child.wait_for(has_waited)
    held.release()
    versions = {child.result()[-1]["version"] for child in children}
    assert len(versions) == 1
    assert held.arrivals == len(origin.requests()) == 1
    for number in range(MANY):
        assert (tmp_path / f"copy{number}").read_bytes() == body
    assert [version.version for version in ready_versions(folder, origin.url("/a"))] == sorted(versions)


def test_the_one_that_fetches_is_killed(origin: Origin, spawn: Callable[..., Any], tmp_path: Path) -> None:
    """When the one of twenty that fetches is killed, another takes over at once and goes on from what has
    landed; the other nineteen have the file."""
    folder, body = tmp_path / "bay", blob(6 * MIB + 5)
    stall = origin.serve("/a", Stall(Resource(body), 4 * MIB, threading.Event(), times=1))
    children = {}
    for number in range(MANY):
        child = spawn(GET, folder=folder, url=origin.url("/a"), to=tmp_path / f"copy{number}")
        children[child.pid] = (child, tmp_path / f"copy{number}")
    assert stall.reached.wait(60)
    for child, _ in children.values():
        child.wait_for(lambda said: any(one.get("bytes") == 4 * MIB for one in said))
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as db:
        ((owner,),) = db.execute("SELECT owner FROM leases").fetchall()
    fetching, _ = children.pop(int(owner.split("-")[0]))
    fetching.signal(signal.SIGKILL)
    versions = {child.result()[-1]["version"] for child, _ in children.values()}
    assert len(versions) == 1
    first, second = origin.requests()
    assert "range" not in first.fields
    assert second.fields["range"] == f"bytes={4 * MIB}-"
    assert all(copy.read_bytes() == body for _, copy in children.values())
    assert len(ready_versions(folder, origin.url("/a"))) == 1


class OneAtATime:
    """Answers each path with its own body, and counts how many it answers at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.now = self.most = 0
        self._lock = threading.Lock()

    def body(self, seen: Seen) -> bytes:
        return blob(self.size, seed=sum(seen.path.encode()))

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        answer = Resource(self.body).answer(exchange.seen)
        exchange.answer(answer, stop=self.size - 1)
        with self._lock:
            self.now -= 1  # before the last byte: with that, the client may send the next request elsewhere
        exchange.send_body(answer, start=self.size - 1)


FETCH_MANY = """
import forebay
with forebay.open(ask["folder"], max_downloads=4, max_downloads_per_host=1) as bay:
    hows = [fetched.how for fetched in bay.fetch_many(ask["urls"])]
say(hows=hows)
"""


def test_a_host_limit_holds_over_processes(origin: Origin, spawn: Callable[..., Any], tmp_path: Path) -> None:
    """Two processes, each with many URLs of one host that allows one download at a time: the origin never
    sees two, and both have all of theirs."""
    single = origin.serve("*", OneAtATime(100_000))
    urls = [[origin.url(f"/{name}/{number}") for number in range(40)] for name in ("one", "two")]
    children = [spawn(FETCH_MANY, folder=tmp_path / "bay", urls=some) for some in urls]
    for child in children:
        assert child.result() == [{"hows": ["fetched"] * 40}]
    assert single.most == 1
    assert len(origin.requests()) == 80
    with forebay.open(tmp_path / "bay") as bay:
        assert bay.verify().checked == len({blob(100_000, seed=sum(seen.path.encode())) for seen in origin.log})


ENDLESS = """
import itertools, threading
import forebay
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
def urls():
    for number in itertools.count():
        if stop.is_set():
            return
        yield f"{ask['url']}/{number}"
with forebay.open(ask["folder"], max_downloads_per_host=1) as bay:
    for fetched in bay.fetch_many(urls()):
        say(how=fetched.how)
"""


def test_a_busy_process_does_not_starve_another(origin: Origin, spawn: Callable[..., Any], tmp_path: Path) -> None:
    """A process that always has more to fetch from a host lets another one have its turn."""
    single = origin.serve("*", OneAtATime(1000))
    busy = spawn(ENDLESS, folder=tmp_path / "bay", url=origin.url("/endless"))
    busy.wait_for(lambda said: len(said) > 5)
    other = spawn(FETCH_MANY, folder=tmp_path / "bay", urls=[origin.url(f"/{number}") for number in range(3)])
    assert other.result(timeout=60) == [{"hows": ["fetched"] * 3}]
    assert not busy.ended
    busy.tell(stop=True)
    assert {one["how"] for one in busy.result()} == {"fetched"}
    assert single.most == 1


AT_ONCE = """
import forebay.bay, forebay.catalog.migrate
say(event="set")
sys.stdin.readline()
with forebay.open(ask["folder"]) as bay:
    hows = [fetched.how for fetched in bay.fetch_many(ask["urls"])]
say(event="done", hows=hows)
"""


def test_ten_open_a_folder_that_is_not_there(origin: Origin, spawn: Callable[..., Any], tmp_path: Path) -> None:
    """Ten processes that open a new folder at the same moment make one catalog, and all work."""
    origin.serve("*", Resource(lambda seen: seen.path.encode()))
    folder = tmp_path / "not" / "there" / "yet"
    children = [
        spawn(AT_ONCE, folder=folder, urls=[origin.url("/common"), origin.url(f"/{number}")])
        for number in range(10)
    ]
    for child in children:
        child.wait_for(bool)
    for child in children:
        child.tell(go=True)
    for child in children:
        hows = child.result()[-1]["hows"]
        assert len(hows) == 2
        assert set(hows) <= {"fetched", "stored"}
    assert sorted(seen.path for seen in origin.log) == sorted(["/common", *(f"/{number}" for number in range(10))])
    with forebay.open(folder) as bay:
        assert len(bay.requests()) == 11
        report = bay.verify()
        assert (report.checked, report.rotten) == (11, [])
