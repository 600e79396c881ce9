"""kill -9 at any instant: what was ready stays right, what was synced is gone on with, nothing is left over."""

import json
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay.content.partial import read_mark
from origin import Chunked, CutEvery, Exchange, Origin, Resource, Seen, Sequence, Stall, Status, blob

pytestmark = pytest.mark.faults

MIB = 1 << 20
SEED = int(os.environ.get("FAULTS_SEED", "20261121"))
KILLS = 50


# --- what must be true of a folder ------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """A partial file that can be resumed: what its mark promises."""

    length: int
    synced: int
    etag: str | None


class Served:
    """Every body that the origin ever had, by path and ETag: the truth that a folder is held against."""

    def __init__(self) -> None:
        self.bodies: dict[str, dict[str | None, bytes]] = {}
        self._read: set[str] = set()

    def add(self, path: str, etag: str | None, body: bytes) -> bytes:
        self.bodies.setdefault(path, {})[etag] = body
        return body

    def check_versions(self, bay: forebay.Forebay) -> dict[str, str | None]:
        """Nothing is rotten, and every ready version is byte for byte what was served under its ETag. Returns
        the ETag of the newest one, by path."""
        assert bay.verify().rotten == []
        newest: dict[str, str | None] = {}
        for request in bay.requests():
            versions = [v for v in bay.versions(request.id) if v.status in ("ready", "duplicate")]
            for version in versions:
                path, etag = _path_of(request.url), version.content_attributes.etag
                if version.id not in self._read:  # later, its hash will do
                    self._read.add(version.id)
                    with bay.open(version) as file:
                        assert file.read() == self.bodies[path][etag], f"{path} {version.version}"
                assert version.content_hash_hex == version.content_attributes.sha256  # which verify has checked
                newest.setdefault(path, etag)
        return newest

    def standing(self, folder: Path) -> dict[str, Standing]:
        """The partial files, by path; the bytes below each mark are checked."""
        if not (folder / "catalog.sqlite").exists():
            return {}
        paths = {row[0]: _path_of(row[1]) for row in rows(folder, "requests", "id, url")}
        # By key, too: the inode that a stale mark names may be another download's by now.
        parts = {
            (path.name.split(".")[0], path.stat().st_ino): path for path in (folder / "partial").glob("*.part")
        }
        found = {}
        for mark_path in sorted((folder / "partial").glob("*.mark"), key=lambda path: int(path.name.split(".")[1])):
            key, mark = mark_path.name.split(".")[0], read_mark(mark_path)
            if mark is None or mark.length == 0 or (key, mark.inode) not in parts:
                continue
            path, etag = paths[key], json.loads(mark.meta)["from"]["etag"]
            landed = parts[key, mark.inode].read_bytes()[: mark.length]
            assert landed == self.bodies[path][etag][: mark.length], (
                f"{mark_path.name} of {path} is not true: {mark}"
            )
            assert mark.synced <= mark.length
            found[path] = Standing(mark.length, mark.synced, etag)
        return found


def _path_of(url: str) -> str:
    return "/" + url.split("/", 3)[3]


def range_start(seen: Seen) -> int:
    """Where a request wants to go on; 0 when it asks for the whole."""
    return int(seen.fields.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


def rows(folder: Path, table: str, columns: str = "*") -> list[Any]:
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            return []  # killed before the first schema was there
        return db.execute(f"SELECT {columns} FROM {table}").fetchall()


def strays(folder: Path) -> list[str]:
    """Files that a tidy folder does not have; with no Forebay open on it."""
    contents = {row[0] for row in rows(folder, "contents")}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    files -= {"catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "migrate.lock", "content/sweep.lock"}
    named = {name.removeprefix("content/").replace("/", "") for name in files if name.startswith("content/")}
    assert contents <= named, "a row without bytes"
    return sorted(name for name in files if name.removeprefix("content/").replace("/", "") not in contents)


def tidy(folder: Path) -> None:
    """Collect the garbage without any grace; then nothing may be left over."""
    with forebay.open(folder, sweep_grace_s=0, partial_keep_s=0) as bay:
        bay.gc()
    assert rows(folder, "leases") == []
    assert rows(folder, "slots") == []
    assert strays(folder) == []


# --- a nursery --------------------------------------------------------------------------------------------

# Imports once, then forks a process, with a group of its own, for each line on stdin: a hundred processes that
# start in no time. It has one thread and no Forebay open, so that its children are as good as new ones.
# Syncs come every 64 MiB or 2 s; here after each block, so that marks have a synced length to keep.
NURSERY = """
import os, traceback
import forebay.bay, forebay.catalog.migrate, forebay.fetch.landing
forebay.fetch.landing._SYNC_BYTES = 1 << 20

def open_bay(folder, **settings):
    return forebay.open(folder, max_downloads=4, max_downloads_per_host=4, sweep_grace_s=0, **settings)

def fetch(bay, urls, **how):
    for fetched in bay.fetch_many(urls, **how):
        error = None if fetched.error is None else fetched.error.code
        say(event="fetched", url=fetched.url, how=fetched.how, error=error)

@RUN@

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        try:
            run(**json.loads(line))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    say(event="ended", code=os.waitstatus_to_exitcode(status))
"""


class Nursling:
    """A process that a nursery forked."""

    def __init__(self, nursery: Any, **ask: Any) -> None:
        self._nursery = nursery
        self._from = len(nursery.said())
        nursery.tell(**ask)

    def _all(self) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = self._nursery.said()[self._from :]
        return said

    def said(self) -> list[dict[str, Any]]:
        return [said for said in self._all() if said["event"] not in ("born", "ended")]

    @property
    def code(self) -> int | None:
        """How it ended; None while it lives."""
        return next((said["code"] for said in self._all() if said["event"] == "ended"), None)

    def wait_for(self, what: Callable[[list[dict[str, Any]]], Any]) -> None:
        """Wait until *what* is true of what it said, or it has ended."""
        self._nursery.wait_for(lambda _: self.code is not None or what(self.said()))

    def kill(self) -> None:
        """kill -9 its process group, and wait until it is gone."""
        self._nursery.wait_for(lambda _: self._all())
        with suppress(ProcessLookupError):
            os.killpg(self._all()[0]["pid"], signal.SIGKILL)
        self.end()

    def end(self) -> int:
        """Wait for its end; how it ended."""
        self._nursery.wait_for(lambda _: self.code is not None)
        assert self.code is not None
        return self.code

    def fail(self, why: str) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._all()[0]["pid"], signal.SIGUSR1)
        self._nursery.fail(why)


# --- fifty random instants --------------------------------------------------------------------------------

FETCH_ALL = """
def run(folder, urls, gc):
    say(event="born", pid=os.getpid())
    with open_bay(folder) as bay:
        say(event="open")
        if gc:
            bay.gc()
            say(event="gc")
        fetch(bay, urls, refresh="always")
    say(event="closed")
"""


class Meter:
    """How many bytes of bodies the origin has sent; a test can wait for a number of them."""

    def __init__(self) -> None:
        self.total = 0
        self._changed = threading.Condition()

    def add(self, size_bytes: int) -> None:
        with self._changed:
            self.total += size_bytes
            self._changed.notify_all()

    def wait_for(self, total: int, child: Any, *, timeout: float = 60) -> None:
        """Wait until *total* bytes were sent, or *child* has ended."""
        until = time.monotonic() + timeout
        with self._changed:
            while child.code is None and not self._changed.wait_for(lambda: self.total >= total, 0.02):
                if time.monotonic() > until:
                    child.fail(f"{self.total} of {total} bytes were sent")


class Counted(Resource):
    """A resource that a meter counts."""

    def __init__(self, body: bytes, meter: Meter, *, etag: str) -> None:
        super().__init__(body, etag=etag)
        self.meter = meter

    def count_sent(self, size_bytes: int) -> None:
        super().count_sent(size_bytes)
        self.meter.add(size_bytes)


SIZES = {
    "/empty": 0, "/piece": 100_000, "/block": MIB, "/odd": MIB + 1,
    "/cut": 3 * MIB, "/reset": 8 * MIB, "/big": 8 * MIB, "/chunked": 2 * MIB,
}  # fmt: skip


class River:
    """The origin of the fifty kills: files of all sizes, some cut, one chunked, which change now and then."""

    def __init__(self, origin: Origin, rng: random.Random, served: Served) -> None:
        self.origin, self.rng, self.served = origin, rng, served
        self.meter = Meter()
        self.count = 0
        self.current: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.changed: set[str] = set()
        self.resources: dict[str, Counted] = {}
        for path in SIZES:
            if path != "/chunked":
                self.resources[path] = Counted(b"", self.meter, etag='""')
            self.change(path)
        origin.serve("/cut", CutEvery(self.resources["/cut"], 700_000))
        origin.serve("/reset", CutEvery(self.resources["/reset"], 2 * MIB + 77, how="rst"))
        for path in ("/empty", "/piece", "/block", "/odd", "/big"):
            origin.serve(path, self.resources[path])

    def change(self, path: str) -> None:
        self.count += 1
        body = blob(SIZES[path], seed=self.count)
        etag = f'"{self.count}"'
        self.current[path] = self.served.add(path, etag, body)
        self.etags[path] = etag
        self.changed.add(path)
        if path == "/chunked":
            # No range and no length: every kill costs it everything, and it starts over.
            self.origin.serve(path, Chunked(body, (9000, 70_000, 1), fields=[("ETag", etag)]))
        else:
            self.resources[path].change(body, etag=etag)


def wait_for_an_instant(rng: random.Random, river: River, child: Nursling, log: int, expected_bytes: int) -> str:
    """Wait for a random event, then until a random few more bytes went out: no instant is a matter of time,
    yet they fall everywhere. Returns its name. The child may have ended before."""
    kind = rng.choice(("bytes", "bytes", "bytes", "request", "line"))
    if kind == "bytes":
        many = rng.randrange(expected_bytes + 1)
        name = f"{many} of {expected_bytes} bytes"
        river.meter.wait_for(many, child)
    elif kind == "request":
        path = rng.choice(sorted(SIZES))
        name = f"the request of {path}"
        river.origin.wait_for(lambda seen: any(one.number > log for one in seen), path)
    else:
        many = rng.randrange(1, len(SIZES) + 3)
        name = f"line {many}"
        child.wait_for(lambda said: len(said) >= many)
    # The random tiny delay: spun on the bytes that go out, so that it is work done and not time passed.
    more, spins, now = rng.choice((0, 0, 1, 256 * 1024, MIB)), rng.randrange(2000), river.meter.total
    while river.meter.total < now + more and spins and child.code is None:
        os.sched_yield()
        spins -= 1
    return f"{name}, then {more} bytes"


def test_fifty_kills_lose_nothing(origin: Origin, spawn: Callable[..., Any], tmp_path: Path) -> None:
    """A folder lives through 50 kills: ready versions are right, marks are true, each resume goes on from the
    mark; in the end everything is there, and nothing else."""
    rng, served, folder = random.Random(SEED), Served(), tmp_path / "bay"
    river = River(origin, rng, served)
    nursery = spawn(NURSERY.replace("@RUN@", FETCH_ALL))
    standing: dict[str, Standing] = {}
    kills = resumes = rounds = 0
    while kills < KILLS:
        rounds += 1
        assert rounds < 4 * KILLS, f"seed {SEED}: hardly any child lived long enough to be killed"
        if rounds > 1:
            for path in rng.sample(sorted(SIZES), 3):
                if path not in standing or rng.random() < 0.2:
                    river.change(path)
        paths = rng.sample(sorted(SIZES), len(SIZES))
        expected = sum(len(river.current[path]) for path in river.changed)
        expected -= sum(stood.length for stood in standing.values())
        river.meter.total = 0
        log = len(origin.log)
        urls = [origin.url(path) for path in paths]
        child = Nursling(nursery, folder=str(folder), urls=urls, gc=rng.random() < 0.3)
        instant = wait_for_an_instant(rng, river, child, log, max(0, expected))
        child.kill()
        kills += child.code == -signal.SIGKILL
        try:
            assert child.code in (0, -signal.SIGKILL), nursery.stderr()
            assert all(said.get("error") is None for said in child.said()), child.said()
            before, standing = standing, served.standing(folder)
            resumes += _check_resumed(before, standing, origin.log[log:])
            if (folder / "catalog.sqlite").exists():
                with forebay.open(folder) as bay:
                    newest = served.check_versions(bay)
                river.changed = {path for path, etag in river.etags.items() if newest.get(path) != etag}
        except BaseException as error:
            error.add_note(f"seed {SEED}, kill {kills} at {instant}")
            raise
    assert resumes > 0, f"seed {SEED}: no kill left a partial file"
    _finish(river, folder)


def _check_resumed(before: dict[str, Standing], after: dict[str, Standing], log: list[Seen]) -> int:
    """Each partial file of *before* was gone on with from its mark, or still stands. How many were."""
    resumed = 0
    for path, stood in before.items():
        asked = [seen for seen in log if seen.path == path and seen.method == "GET"]
        if not asked:
            assert path in after, f"the partial file of {path} got lost: {stood}"
            assert after[path].synced >= stood.synced, path
            assert after[path].length >= stood.length, path
        elif stood.etag is not None:
            # The machine still runs, so all that was written counts, which is more than what was synced. One that
            # is whole already is only asked about.
            whole = asked[0].fields.get("if-none-match") == stood.etag and "range" not in asked[0].fields
            assert whole or range_start(asked[0]) >= stood.length, f"{path}: {stood}, {asked[0].fields}"
            resumed += 1
    return resumed


def _finish(river: River, folder: Path) -> None:
    with forebay.open(folder, max_downloads=4, max_downloads_per_host=4) as bay:
        urls = {river.origin.url(path): body for path, body in river.current.items()}
        for fetched in bay.fetch_many(urls, refresh="always"):
            assert fetched.error is None
            assert fetched.response is not None
            with bay.open(fetched.response) as file:
                assert file.read() == urls[fetched.url]
        for request in bay.requests():
            versions = [response.version for response in bay.versions(request.id)]
            assert versions == sorted(set(versions), reverse=True)
        river.served.check_versions(bay)
    tidy(folder)
    with forebay.open(folder) as bay:
        river.served.check_versions(bay)


# --- a kill at every I/O step -----------------------------------------------------------------------------

# Each call that changes a file or makes a change durable is a step, and so is the middle of each write, and
# SQLite's commit before and after. At step number *at* the process dies, in whatever thread that is.
# SQLite's own writes are not steps: that a commit is all or nothing is its promise.
STEPS = """
import itertools, sqlite3, time

def step_by_step(at):
    numbers = itertools.count(1)

    def step(name):
        if next(numbers) == at:
            os.write(1, (json.dumps({"event": "step", "name": name}) + "\\n").encode())
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # another thread may take the signal

    def wrap(name):
        call = getattr(os, name, None)
        if call is None:
            return  # macOS has no fdatasync
        def stepped(*args, **options):
            if name != "open" or args[1] & os.O_CREAT:
                step(f"{name} {args[0]}")
            return call(*args, **options)
        setattr(os, name, stepped)

    for name in (
        "rename", "replace", "link", "unlink", "remove", "mkdir", "rmdir", "chmod", "fchmod", "ftruncate",
        "truncate", "open", "fsync", "fdatasync",
    ):
        wrap(name)
    pwrite = os.pwrite
    def torn_pwrite(descriptor, data, offset):
        step(f"pwrite {len(data)} at {offset}")
        half = len(data) // 2
        pwrite(descriptor, data[:half], offset)
        step(f"pwrite {len(data)} at {offset}, half of it")
        return half + pwrite(descriptor, data[half:], offset + half)
    os.pwrite = torn_pwrite

    class Cursor(sqlite3.Cursor):
        def execute(self, sql, *args):
            if sql != "COMMIT":
                return super().execute(sql, *args)
            step("before COMMIT")
            super().execute(sql, *args)
            step("after COMMIT")
            return self
    class Connection(sqlite3.Connection):
        def cursor(self):
            return super().cursor(Cursor)
    connect = sqlite3.dbapi2.connect
    sqlite3.dbapi2.connect = lambda *args, **options: connect(*args, factory=Connection, **options)
"""

COLD = """
def run(folder, urls, again, at):
    say(event="born", pid=os.getpid())
    step_by_step(at)
    with open_bay(folder, partial_keep_s=0, max_attempts=1) as bay:
        fetch(bay, urls)
        fetch(bay, again, refresh="always")
        bay.gc()
"""


class ShortOfBreath:
    """The first whole answer is cut, the first range is refused: what landed stands until it is asked for
    again, by a fetch of its own."""

    def __init__(self, resource: Resource, cut_at: int) -> None:
        self.resource, self.cut_at = resource, cut_at
        self.refuse = False

    def __call__(self, exchange: Exchange) -> None:
        if self.refuse:
            self.refuse = False
            Status(503)(exchange)
            return
        answer = self.resource.answer(exchange.seen)
        if answer.status == 200:
            self.refuse = True
            exchange.answer(answer, stop=self.cut_at)
            exchange.close()
        else:
            exchange.answer(answer)


def test_a_kill_at_any_io_step_is_survived(origin: Origin, spawn: Callable[..., Any], tmp_path: Path) -> None:
    """A process dies at its first I/O step, the next one at its second, and so on until none is left: each
    time the folder is right, a partial file is gone on with, and everything comes and is tidy in the end."""
    served = Served()
    big = Resource(served.add("/big", '"b"', blob(2 * MIB + 7, 1)), etag='"b"')
    old = Resource(served.add("/small", '"1"', blob(5000, 2)), etag='"1"')
    new = Resource(served.add("/small", '"2"', blob(6000, 3)), etag='"2"')
    empty = Resource(served.add("/empty", '"e"', b""), etag='"e"')
    origin.serve("/small", lambda exchange: (new if "if-none-match" in exchange.seen.fields else old)(exchange))
    origin.serve("/empty", empty)
    urls = [origin.url(path) for path in ("/big", "/small", "/empty")]
    again = [origin.url(path) for path in ("/big", "/small")]
    nursery = spawn(NURSERY.replace("@RUN@", STEPS + COLD))
    failures: list[str] = []
    at, resumed, last = 0, 0, False
    while not last:
        at += 1
        folder = tmp_path / str(at)
        origin.serve("/big", ShortOfBreath(big, MIB + 5))
        child = Nursling(nursery, folder=str(folder), urls=urls, again=again, at=at)
        last = child.end() == 0
        steps = [said["name"] for said in child.said() if said["event"] == "step"]
        assert child.code in (0, -signal.SIGKILL), nursery.stderr()
        origin.serve("/big", big)
        try:
            resumed += _recover(origin, served, folder, urls)
        except AssertionError as error:
            failures.append(f"step {at}: {steps}: {error}")
        shutil.rmtree(folder, ignore_errors=True)
    assert not failures, f"{len(failures)} of {at} steps:\n" + "\n".join(failures)
    assert resumed > 0
    assert at > 60, "the steps were not counted"


def _recover(origin: Origin, served: Served, folder: Path, urls: list[str]) -> bool:
    """Open the folder after a kill, and fetch everything; whether a partial file was gone on with."""
    standing, log = served.standing(folder), len(origin.log)
    with forebay.open(folder, max_downloads_per_host=4, sweep_grace_s=0, partial_keep_s=0) as bay:
        served.check_versions(bay)
        for fetched in bay.fetch_many(urls, refresh="always"):
            assert fetched.error is None, fetched.error
            assert fetched.response is not None
            with bay.open(fetched.response) as file:
                assert file.read() in served.bodies[_path_of(fetched.url)].values()
        for request in bay.requests():
            assert {version.status for version in bay.versions(request.id)} <= {"ready", "duplicate", "failed"}
        served.check_versions(bay)
        resumed = _check_resumed(standing, standing, origin.log[log:])
        bay.gc()
    assert rows(folder, "leases") == []
    assert rows(folder, "slots") == []
    assert strays(folder) == []
    return resumed > 0


# --- a process that is stopped ----------------------------------------------------------------------------

# An owner whose beat stands still for 15 s is stuck; a test has less time, so a script sets its own.
PATIENCE = """
import logging
import forebay, forebay.fetch.fetcher, forebay.fetch.slots
from forebay.errand import outcome_of
from forebay.wishes import wishes
forebay.fetch.fetcher.HEARTBEAT_S = ask["heartbeat_s"]
forebay.fetch.fetcher.STUCK_AFTER_S = forebay.fetch.slots.STUCK_AFTER_S = ask["stuck_after_s"]
"""
# The steps of a fetch one by one, so that its first outcome shows.
OWNER = """
with forebay.open(ask["folder"]) as bay:
    wish = wishes(None, None, None, None, None, False)(ask["url"])
    (registered,) = bay.register([wish])
    errand = bay.errand(wish)
    outcome = outcome_of(bay.submit(errand.begin(registered)))
    say(event="outcome", code=getattr(outcome, "code", None))
    say(event="fetched", version=bay.fetch(ask["url"]).version)
"""
WAITER = """
with forebay.open(ask["folder"]) as bay:
    response = bay.fetch(ask["url"], progress=lambda *_: say(event="waiting"))
    say(event="fetched", version=response.version)
"""


def stop(child: Any, folder: Path) -> None:
    """SIGSTOP, but not in the middle of a transaction: who is stopped there keeps SQLite's write lock."""
    for _ in range(1000):
        child.signal(signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(folder / "catalog.sqlite", timeout=0, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                db.execute("ROLLBACK")
            return
        except sqlite3.OperationalError:
            child.signal(signal.SIGCONT)
            os.sched_yield()
    raise AssertionError("it never is between two transactions")


@pytest.mark.parametrize("heartbeat_s", [0.05, 3600], ids=["told by its beat", "told by its commit"])
def test_a_stopped_owner_is_taken_over_and_cannot_commit(
    heartbeat_s: float, origin: Origin, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """A download whose process is stopped is taken over once its beat stands still, and not before. The old
    owner, woken up, has lost its lease: its bytes are dropped, and it uses the version that the other made."""
    folder, go_on = tmp_path / "bay", threading.Event()
    stale, good = blob(3 * MIB, 1), blob(3 * MIB, 2)
    stall = Stall(Resource(stale, etag='"stale"'), 2 * MIB, go_on)
    origin.serve("/a", Sequence(stall, Resource(good, etag='"good"')))
    ask = {"folder": folder, "url": origin.url("/a")}
    owner = spawn(PATIENCE + OWNER, heartbeat_s=heartbeat_s, stuck_after_s=60, **ask)
    assert stall.reached.wait(30)
    waiter = None
    if heartbeat_s < 1:
        waiter = spawn(PATIENCE + WAITER, heartbeat_s=5, stuck_after_s=0.7, **ask)
        waiter.wait_for(lambda said: len(said) >= 12)  # at ten a second
        assert len(origin.requests("/a")) == 1, "taken from an owner that is well"
    stop(owner, folder)
    waiter = waiter or spawn(PATIENCE + WAITER, heartbeat_s=5, stuck_after_s=0.3, **ask)
    made = waiter.result()[-1]["version"]
    owner.signal(signal.SIGCONT)
    go_on.set()
    outcome, fetched = owner.result()
    assert outcome["code"] == "lease_lost"
    assert fetched["version"] == made
    # Its partial file may still be written to by who was stopped: it was not gone on with.
    assert [range_start(seen) for seen in origin.requests("/a")] == [0, 0]
    with forebay.open(folder) as bay:
        (version,) = bay.versions(origin.url("/a"))
        assert (version.version, version.status) == (made, "ready")
        with bay.open(version) as file:
            assert file.read() == good
        assert bay.verify().rotten == []
    tidy(folder)


def test_a_stopped_process_does_not_keep_its_host(
    origin: Origin, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """A process that is stopped while it has a host's only slot loses it, too: others fetch from that host.
    Woken up, it still gets its own file."""
    folder, go_on = tmp_path / "bay", threading.Event()
    a, b = blob(2 * MIB, 1), blob(1000, 2)
    stall = Stall(Resource(a), MIB, go_on, times=1)
    origin.serve("/a", stall)
    origin.serve("/b", Resource(b))
    ask = {"folder": folder, "heartbeat_s": 0.05, "stuck_after_s": 0.3}
    owner = spawn(PATIENCE + WAITER, url=origin.url("/a"), **ask)
    assert stall.reached.wait(30)
    stop(owner, folder)
    spawn(PATIENCE + WAITER, url=origin.url("/b"), **ask).result()
    owner.signal(signal.SIGCONT)
    go_on.set()
    owner.result()
    with forebay.open(folder) as bay:
        for path, body in (("/a", a), ("/b", b)):
            with bay.open(bay.find(origin.url(path))) as file:
                assert file.read() == body
    tidy(folder)
