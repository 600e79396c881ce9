"""A wall clock that jumps an hour back or ten years forward: nothing is lost, stolen or served wrongly.

libfaketime shows the child processes another wall time; the monotonic clock goes on as it does in life.
"""

import hashlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from origin import Busy, Exchange, Origin, Resource, Stall, blob

pytestmark = pytest.mark.faults

MIB = 1 << 20
BACK, FORWARD, TRUE = "-1h", "+10y", "+0"
JUMPS = pytest.mark.parametrize("jump", [BACK, FORWARD], ids=["an hour back", "ten years forward"])

# Does what it is told line by line, and says what came of it.
OBEDIENT = """
import hashlib
import forebay
def fetch(bay, url, refresh=None, progress=False):
    report = (lambda *_: say(event="waiting")) if progress else None
    response = bay.fetch(url, refresh=refresh, progress=report)
    with bay.open(response) as file:
        say(event="fetched", version=response.version, sha256=hashlib.sha256(file.read()).hexdigest())
def schedule(bay):
    scheduler = bay.scheduler()
    scheduler.start()
    say(event="scheduling")
    sys.stdin.readline()
    scheduler.stop()
    say(event="scheduled")
def verify(bay):
    report = bay.verify()
    say(event="verified", checked=report.checked, rotten=len(report.rotten))
def gc(bay):
    say(event="swept", kinds=[item.kind for item in bay.gc().items])
with forebay.open(ask["folder"], backoff_base_s=0.01, retry_after_max_s=5) as bay:
    say(event="open")
    for line in sys.stdin:
        order = json.loads(line)
        what = globals()[order.pop("do")]
        try:
            what(bay, **order)
        except forebay.ForebayError as error:
            say(event="failed", code=error.code, text=str(error))
"""


class Clock:
    """The wall clock that a test's child processes see."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.jump(TRUE)

    def jump(self, offset: str) -> None:
        """Be *offset* away from the true time from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(offset + "\n")
        new.rename(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """A clock that can jump. Skips where libfaketime is missing."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("needs libfaketime (Debian package libfaketime)")
    return Clock(found[0], tmp_path / "faketime")


@pytest.fixture
def obedient(spawn: Callable[..., Any], clock: Clock, tmp_path: Path) -> Callable[..., Any]:
    """``obedient()``: a process with a Forebay on a common folder that does what it is told, under the clock."""

    def start() -> Any:
        child = spawn(OBEDIENT, env=clock.env, folder=tmp_path / "bay")
        child.wait_for(bool)
        return child

    return start


def do(child: Any, what: str, **order: Any) -> dict[str, Any]:
    """Have *what* done; what came of it."""
    before = len(child.said())
    child.tell(do=what, **order)
    said: dict[str, Any] = child.wait_for(lambda said: len(said) > before)[before]
    assert said["event"] != "failed", said
    return said


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@JUMPS
def test_versions_increase_over_jumps(
    jump: str, origin: Origin, clock: Clock, obedient: Callable[..., Any]
) -> None:
    """The clock jumps in the middle of a download, and back between two: each download comes whole, each version
    is later than the one before, and the newest is what is served."""
    bodies = [blob(3 * MIB, seed) for seed in range(4)]
    resource, go_on = Resource(bodies[0], etag='"0"'), threading.Event()
    stall = origin.serve("/a", Stall(resource, 2 * MIB, go_on, times=1))
    child = obedient()
    url = origin.url("/a")
    child.tell(do="fetch", url=url)
    assert stall.reached.wait(30)
    clock.jump(jump)
    go_on.set()
    made = [child.wait_for(lambda said: said[-1]["event"] == "fetched")[-1]]
    for number, then in ((1, jump), (2, TRUE), (3, jump)):
        clock.jump(then)
        resource.change(bodies[number], etag=f'"{number}"')
        made.append(do(child, "fetch", url=url, refresh="always"))
    assert [one["sha256"] for one in made] == [digest(body) for body in bodies]
    versions = [one["version"] for one in made]
    assert versions == sorted(set(versions))
    assert len(origin.requests("/a")) == 4
    clock.jump(TRUE)
    assert do(child, "fetch", url=url, refresh="never")["version"] == versions[-1]
    assert do(child, "verify")["rotten"] == 0
    assert do(child, "gc") is not None
    assert do(child, "fetch", url=url, refresh="never")["sha256"] == digest(bodies[-1])


def test_what_is_due_is_fetched_though_the_clock_was_wrong(
    origin: Origin, clock: Clock, obedient: Callable[..., Any]
) -> None:
    """A check that lies ten years in the future, since the clock was wrong then, does not keep a Request from
    being fetched: neither when it is asked for nor when what is due is looked for."""
    resource = Resource(b"one", etag='"1"')
    origin.serve("/a", resource)
    child, url = obedient(), origin.url("/a")
    clock.jump(FORWARD)
    first = do(child, "fetch", url=url, refresh="6h")
    assert do(child, "fetch", url=url) == first
    clock.jump(TRUE)
    resource.change(b"two", etag='"2"')
    second = do(child, "fetch", url=url)
    assert second["sha256"] == digest(b"two")
    assert second["version"] > first["version"]
    assert do(child, "fetch", url=url) == second
    assert len(origin.requests("/a")) == 2

    clock.jump(FORWARD)
    resource.change(b"three", etag='"3"')
    assert do(child, "fetch", url=url)["sha256"] == digest(b"three")
    clock.jump(TRUE)
    resource.change(b"four", etag='"4"')
    do(child, "schedule")
    origin.wait_for(4, "/a", timeout=20)
    assert do(child, "stop")["event"] == "scheduled"
    assert do(child, "fetch", url=url)["sha256"] == digest(b"four")
    assert len(origin.requests("/a")) == 4


@JUMPS
def test_a_live_lease_is_not_stolen(jump: str, origin: Origin, clock: Clock, obedient: Callable[..., Any]) -> None:
    """However far the clock jumps, a process that downloads keeps its lease and its partial file: another one
    that wants the same waits for it, and a sweep leaves it alone."""
    body, go_on = blob(3 * MIB), threading.Event()
    stall = origin.serve("/a", Stall(Resource(body), 2 * MIB, go_on, times=1))
    owner, waiter, sweeper = obedient(), obedient(), obedient()
    owner.tell(do="fetch", url=origin.url("/a"))
    assert stall.reached.wait(30)
    waiter.tell(do="fetch", url=origin.url("/a"), progress=True)
    waiter.wait_for(lambda said: said[-1]["event"] == "waiting")
    for then in (jump, TRUE, jump):
        clock.jump(then)
        before = len(waiter.said())
        waiter.wait_for(lambda said, before=before: len(said) >= before + 3)
        assert do(sweeper, "gc")["kinds"] == []
    assert len(origin.requests("/a")) == 1
    go_on.set()
    fetched = [child.wait_for(lambda said: said[-1]["event"] == "fetched")[-1] for child in (owner, waiter)]
    assert fetched[0] == fetched[1]
    assert fetched[0]["sha256"] == digest(body)
    assert len(origin.requests("/a")) == 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(BACK, timedelta()), (FORWARD, timedelta()), (TRUE, timedelta(days=3650)), (TRUE, timedelta(hours=-1))],
    ids=["ours is an hour slow", "ours is ten years fast", "theirs is ten years fast", "theirs is an hour slow"],
)
def test_a_retry_after_date_is_measured_against_the_origins_date(
    ours: str, theirs: timedelta, origin: Origin, clock: Clock, obedient: Callable[..., Any]
) -> None:
    """Whoever's clock is wrong, a Retry-After date means as long after the Date of the same answer: not for
    hours (which would be given up), and not at once."""
    came: list[datetime] = []
    resource = Resource(b"here")

    def then(exchange: Exchange) -> None:
        came.append(datetime.now(UTC) + theirs)
        resource(exchange)

    asked_at: list[datetime] = []

    def their_clock() -> datetime:
        asked_at.append(datetime.now(UTC) + theirs)
        return asked_at[-1]

    origin.serve("/a", Busy(then, 1, 503, "date", delay_s=1, clock=their_clock))
    child = obedient()
    clock.jump(ours)
    assert do(child, "fetch", url=origin.url("/a"))["sha256"] == digest(b"here")
    assert len(came) == 1
    # Dates on the wire are whole seconds.
    assert came[0] >= asked_at[0].replace(microsecond=0) + timedelta(seconds=1)
