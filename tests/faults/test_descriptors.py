"""Descriptors and threads: as many after three hundred fetches as before, and a named error when there are none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from origin import CutEvery, Exchange, Origin, Redirect, Resource, Seen, Sequence, Status, blob

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        not Path("/proc/self/fd").is_dir(), reason="needs Linux: counts descriptors in /proc/self/fd"
    ),
]

MIB = 1 << 20

COUNT = """
import os, threading
import forebay
# Whatever a thread dies of is told.
threading.excepthook = lambda args: say(event="crashed", thread=args.thread.name, error=repr(args.exc_value))
def count():
    descriptors = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # that of the folder itself
        kind = name.partition(":")[0] if not name.startswith("/") else os.path.basename(name)
        descriptors[kind] = descriptors.get(kind, 0) + 1
    return {"descriptors": descriptors, "threads": sorted(thread.name for thread in threading.enumerate())}
"""
FETCHES = """
before = count()
with forebay.open(ask["folder"], max_downloads=8, max_downloads_per_host=8, backoff_base_s=0.01) as bay:
    for fetched in bay.fetch_many(ask["warm_up"]):
        pass
    say(event="warm", **count())
    hows = {}
    for fetched in bay.fetch_many(ask["urls"]):
        how = fetched.how if fetched.error is None else fetched.error.code
        hows[how] = hows.get(how, 0) + 1
    for url in ask["stored"]:
        bay.open(url).close()
    say(event="done", hows=hows, **count())
say(event="closed", before=before, after=count())
"""


def by_event(said: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert "crashed" not in {one["event"] for one in said}, said
    return {one["event"]: one for one in said}


def test_three_hundred_fetches_leave_nothing_open(
    origin: Origin, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """Fetches of all kinds (whole, cut and resumed, redirected, failed) leave as many descriptors and threads as
    the first few had needed; closing gives all of them back."""

    def body(seen: Seen) -> bytes:
        return blob(200_000, seed=int(seen.path.rsplit("/", 1)[1]))

    def serve(names: range) -> list[str]:
        urls = []
        for number in names:
            plain = Resource(body)
            behaviour = (plain, CutEvery(plain, 90_000), Redirect(f"/plain/{number}"), Status(404))[number % 4]
            origin.serve(f"/plain/{number}", plain)
            urls.append(origin.url(origin_path := f"/kind/{number}"))
            origin.serve(origin_path, behaviour)
        return urls

    warm_up, urls = serve(range(24)), serve(range(24, 324))
    child = spawn(COUNT + FETCHES, folder=tmp_path / "bay", warm_up=warm_up, urls=urls, stored=urls[:80:4])
    said = by_event(child.result())
    assert said["done"]["hows"] == {"fetched": 225, "origin_status": 75}
    assert said["done"]["threads"] == said["warm"]["threads"]
    # Connections come and go with the number of downloads at once, within the pools; nothing else may differ.
    warm, done = said["warm"]["descriptors"], said["done"]["descriptors"]
    assert done.pop("socket", 0) <= warm.pop("socket", 0) + 8
    for name in ("catalog.sqlite", "catalog.sqlite-wal"):
        warm.pop(name)
        assert done.pop(name) <= 9  # the writer's, and eight idle readers
    assert done == warm
    assert said["closed"]["after"] == said["closed"]["before"]


TWICE = """
with forebay.open(ask["folder"], max_downloads_per_host=4, max_attempts=2, backoff_base_s=0.01) as bay:
    def fetch(urls):
        return [fetched.how for fetched in bay.fetch_many(urls)]
    fetch(ask["warm_up"]), fetch(ask["warm_up"])
    say(event="warm", **count())
    say(event="failed", hows=fetch(ask["urls"]))
    say(event="done", hows=fetch(ask["urls"]), **count())
"""


def test_downloads_that_start_over_leave_nothing_open(
    origin: Origin, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """Partial files of downloads that failed, and whose content has changed since, are let go of."""

    def cut(exchange: Exchange) -> None:
        exchange.answer(Resource(blob(100_000)).answer(exchange.seen), stop=50_000)
        exchange.close()

    def serve(names: range) -> list[str]:
        for number in names:
            origin.serve(f"/{number}", Sequence(cut, Status(503), Status(503), Resource(b"new", etag='"new"')))
        return [origin.url(f"/{number}") for number in names]

    child = spawn(COUNT + TWICE, folder=tmp_path / "bay", warm_up=serve(range(4)), urls=serve(range(4, 54)))
    said = by_event(child.result())
    assert said["failed"]["hows"] == ["failed"] * 50
    assert said["done"]["hows"] == ["fetched"] * 50
    warm, done = said["warm"]["descriptors"], said["done"]["descriptors"]
    assert done.pop("socket", 0) <= warm.pop("socket", 0) + 4
    for name in ("catalog.sqlite", "catalog.sqlite-wal"):
        warm.pop(name)
        assert done.pop(name) <= 9  # the writer's, and eight idle readers
    assert done == warm


MANY_THREADS = """
with forebay.open(ask["folder"]) as bay:
    bay.fetch(ask["url"])
    def use():
        bay.open(bay.fetch(ask["url"])).close()
        bay.versions(ask["url"])
    def in_threads(number):
        for _ in range(number):
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
    in_threads(3)
    say(event="warm", **count())
    in_threads(100)
    say(event="done", **count())
"""


def test_threads_that_come_and_go_leave_nothing_open(
    origin: Origin, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """A Forebay may be used from any thread: a hundred short-lived ones, one after the other, do not leave a
    hundred connections to the catalog behind."""
    origin.serve("/a", Resource(b"a"))
    said = by_event(spawn(COUNT + MANY_THREADS, folder=tmp_path / "bay", url=origin.url("/a")).result())
    assert said["done"]["threads"] == said["warm"]["threads"]
    spare = sum(said["done"]["descriptors"].values()) - sum(said["warm"]["descriptors"].values())
    assert spare < 20, said


# For each number of descriptors that are left, from none to enough: a process of its own opens a folder, and
# another fetches in a folder that is open. Then, with descriptors again, the same Forebay has to work.
SCARCE = """
import itertools, resource, traceback
import forebay.bay, forebay.catalog.migrate, forebay.opening
forebay.bay.system_ca_file()

def leave(descriptors):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(number) for number in os.listdir("/proc/self/fd")) + 1
    free = [number for number in range(used) if not os.path.exists(f"/proc/self/fd/{number}")]
    plugs = [os.open("/dev/null", os.O_RDONLY) for _ in free]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + descriptors, hard))
    return plugs

def relax(plugs):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    for plug in plugs:
        os.close(plug)

def outcome(call):
    try:
        call()
    except forebay.ForebayError as error:
        return f"{error.code}: {error}"
    return None

def open_bay(folder):
    return forebay.open(folder, backoff_base_s=0.01, max_attempts=2)

def opening(folder, left):
    plugs = leave(left)
    result = outcome(lambda: open_bay(folder).close())
    relax(plugs)
    with open_bay(folder) as bay:
        after = outcome(lambda: bay.fetch(ask["url"]))
    return result, after

def fetching(folder, left):
    with open_bay(folder) as bay:
        if ask["warm"]:
            bay.fetch(ask["warm"])
        plugs = leave(left)
        result = outcome(lambda: bay.fetch(ask["url"]))
        relax(plugs)
        after = outcome(lambda: bay.fetch(ask["url"]))
        alive = sorted(t.name for t in threading.enumerate() if t.name.startswith("forebay"))
        if after is None and bay.verify().rotten:
            after = "rotten"
    return result, after

for left in range(20):
    pid = os.fork()
    if pid == 0:
        try:
            result, after = globals()[ask["what"]](f"{ask['folder']}/{left}", left)
            say(event="outcome", left=left, result=result, after=after)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        say(event="raised", left=left)
"""


@pytest.mark.parametrize(
    ("what", "warm"), [("opening", False), ("fetching", False), ("fetching", True)], ids=["open", "first", "next"]
)
def test_no_descriptor_left_is_a_named_error(
    what: str, warm: bool, origin: Origin, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """With too few descriptors, opening a folder and fetching raise a named error, no other exception, and do not
    hang; no thread dies of it, and with descriptors again the same Forebay works."""
    origin.serve("/a", Resource(blob(3 * MIB, 1)))
    origin.serve("/warm", Resource(b"warm"))
    child = spawn(
        COUNT + SCARCE,
        what=what,
        folder=tmp_path,
        url=origin.url("/a"),
        warm=origin.url("/warm") if warm else None,
    )
    said = child.result()
    assert [one for one in said if one["event"] != "outcome"] == [], child.stderr()
    results = [one["result"] for one in said]
    assert results[0] is not None, "no descriptor was needed"
    assert results[-1] is None, "twenty were not enough"
    for one in said:
        assert one["result"] is None or "internal error" not in one["result"], one
        assert one["after"] is None, one
