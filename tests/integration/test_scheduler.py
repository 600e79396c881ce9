"""Due work runs by itself while a scheduler runs; a server has one."""

import sqlite3
import time
from collections.abc import Callable

import pytest

from forebay import Forebay, ReCachingStrategy, RequestSpec
from origin import Held, Origin, Resource

MakeBay = Callable[..., Forebay]


def set_due(bay: Forebay, url: str, at: float) -> None:
    """Move a due time: that is data, as if the time had passed."""
    with sqlite3.connect(bay.folder / "catalog.sqlite") as database:
        database.execute("UPDATE requests SET next_due_at = ? WHERE url = ?", (int(at * 1e6), url))
    database.close()


@pytest.fixture
def stored(bay: Forebay, origin: Origin) -> list[str]:
    """Three URLs that were fetched once and are due in an hour."""
    urls = []
    for name in ("a", "b", "c"):
        origin.serve(f"/{name}", Resource(name.encode()))
        urls.append(origin.url(f"/{name}"))
        bay.fetch(urls[-1], refresh=ReCachingStrategy.age(seconds=3600))
    return urls


def test_what_is_due_is_fetched_and_nothing_else(bay: Forebay, origin: Origin, stored: list[str]) -> None:
    """Only the Request whose time has come is asked for, conditionally, and then rests for its interval."""
    set_due(bay, stored[1], time.time() - 1)
    scheduler = bay.scheduler()
    scheduler.start()
    try:
        (_, again) = origin.wait_for(2, "/b")
    finally:
        scheduler.stop()
    assert again.fields["If-None-Match"] == '"v1"'
    assert [len(origin.requests(f"/{name}")) for name in "abc"] == [1, 2, 1]


def test_a_poke_finds_what_became_due_meanwhile(bay: Forebay, origin: Origin, stored: list[str]) -> None:
    """A scheduler that sleeps until the next hour looks at once when it is told to."""
    scheduler = bay.scheduler()
    scheduler.start()
    try:
        set_due(bay, stored[0], time.time() - 1)
        scheduler.poke()
        origin.wait_for(2, "/a")
    finally:
        scheduler.stop()


def test_a_slow_origin_holds_up_nobody_else(make_bay: MakeBay, origin: Origin) -> None:
    """While one Request's origin does not answer, others that are due are fetched."""
    bay = make_bay(max_downloads_per_host=2)
    held, quick = Held(Resource(b"slow")), Resource(b"quick")
    held.release()
    for name, behaviour in (("slow", held), ("quick", quick)):
        origin.serve(f"/{name}", behaviour)
        bay.fetch(origin.url(f"/{name}"), refresh=ReCachingStrategy.age(seconds=3600))
    held.hold()
    scheduler = bay.scheduler()
    scheduler.start()
    try:
        set_due(bay, origin.url("/slow"), time.time() - 2)
        scheduler.poke()
        origin.wait_for(2, "/slow")
        set_due(bay, origin.url("/quick"), time.time() - 1)
        scheduler.poke()
        origin.wait_for(2, "/quick")
    finally:
        held.release()
        scheduler.stop()


def test_a_registered_url_that_failed_is_tried_again_when_due(bay: Forebay, origin: Origin) -> None:
    """Nothing was stored at first; once its retry is due and the origin is well, a version is."""
    url = origin.url("/late")
    (first,) = bay.fetch_many([url])
    assert first.how == "failed"
    origin.serve("/late", Resource(b"here"))
    set_due(bay, url, time.time() - 1)
    scheduler = bay.scheduler()
    scheduler.start()
    try:
        origin.wait_for(2, "/late")
    finally:
        scheduler.stop()
    with bay.open(bay.fetch(url)) as file:
        assert file.read() == b"here"


def test_what_is_asked_for_comes_first(make_bay: MakeBay, origin: Origin) -> None:
    """Before what waits for a slot of the same host, and though as much is under way as may be."""
    bay = make_bay(max_downloads=1)
    held = origin.serve("/due", Held(Resource(b"due")))
    specs = [RequestSpec(url=origin.url(f"/due?{n}")) for n in range(8)]
    bay.catalog.find_or_create(specs, now=time.time())
    scheduler = bay.scheduler()
    scheduler.start()
    try:
        held.arrived()
        origin.serve("/asked", Resource(b"asked"))
        (asked,) = bay.catalog.find_or_create([RequestSpec(url=origin.url("/asked"))], now=time.time())
        bay.frontier.ask(asked.request.id)
        scheduler.poke()
        # Leased: it is in the queue, before the others.
        while bay.frontier.standing(asked.request.id).busy is None:
            pass
        held.release()
        origin.wait_for(8, "/due")
    finally:
        held.release()
        scheduler.stop()
    assert [seen.path for seen in origin.requests()[:2]] == ["/due", "/asked"]


@pytest.mark.parametrize("how", ["asked", "due"])
def test_many_of_one_slow_host_hold_up_no_other_host(make_bay: MakeBay, origin: Origin, how: str) -> None:
    """Far more than may be under way, due for longer, wait for a host that does not answer; another one's is
    fetched, and in the end all of them are."""
    bay = make_bay(max_downloads=4, max_downloads_per_host=2)
    held = origin.serve("/slow", Held(Resource(b"slow")))
    specs = [RequestSpec(url=origin.url(f"/slow?{n}")) for n in range(600)]
    slow = bay.catalog.find_or_create(specs, now=time.time() - 60)
    if how == "asked":
        for registered in slow:
            bay.frontier.ask(registered.request.id)
    scheduler = bay.scheduler()
    scheduler.start()
    try:
        held.arrived(2)
        with Origin() as other:
            other.serve("/good", Resource(b"good"))
            (good,) = bay.catalog.find_or_create([RequestSpec(url=other.url("/good"))], now=time.time())
            if how == "asked":
                bay.frontier.ask(good.request.id)
            other.wait_for(1, "/good")
        held.release()
        origin.wait_for(len(specs), "/slow")
    finally:
        held.release()
        scheduler.stop()


def test_an_ask_is_found_though_no_poke_comes(bay: Forebay, origin: Origin) -> None:
    """Rings get lost, where processes see different folders as /tmp each of them: it looks all the same."""
    scheduler = bay.scheduler()
    scheduler.start()
    try:
        for path in ("/1", "/2", "/3", "/4"):  # the end of each pokes it once more: not before all of them
            origin.serve(path, Resource(b"here"))
            (asked,) = bay.catalog.find_or_create([RequestSpec(url=origin.url(path))], now=time.time())
            bay.frontier.ask(asked.request.id)
            origin.wait_for(1, path)
            while bay.catalog.latest_ready(asked.request.id, now=time.time()) is None:
                pass
    finally:
        scheduler.stop()


def test_what_cannot_begin_rests_and_is_tried_again(bay: Forebay, origin: Origin) -> None:
    """An ask is not lost on a fetch that came to no end: it is tried again soon."""
    held = origin.serve("/f", Held(Resource(b"here")))
    (registered,) = bay.catalog.find_or_create([RequestSpec(url=origin.url("/f"))], now=time.time())
    scheduler = bay.scheduler()
    scheduler.start()
    try:
        held.arrived()
        standing = bay.frontier.standing(registered.request.id)
        assert standing.busy is not None
        bay.frontier.reap(standing.busy.owner)  # as another process would, that takes us for dead
        bay.frontier.ask(registered.request.id)
        held.release()
        held.arrived(2)
        while bay.catalog.latest_ready(registered.request.id, now=time.time()) is None:
            pass
    finally:
        scheduler.stop()
