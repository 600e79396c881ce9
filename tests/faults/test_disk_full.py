"""A disk that is full or refuses: a named outcome, what was stored stays, and nothing is ready without its bytes.

The full disk is a small tmpfs in a mount namespace of the child process, which goes with it.
"""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forebay
from disks import in_a_namespace
from origin import CutEvery, Origin, Resource, Stall, blob

pytestmark = pytest.mark.faults

MIB = 1 << 20


@pytest.fixture
def on_a_small_disk(spawn: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """``spawn``, but the script's `disk` is a folder on a tmpfs of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    under = in_a_namespace(disk)

    def start(script: str, **ask: Any) -> Any:
        return spawn(SMALL_DISK + script, under=under, disk=disk, **ask)

    return start


SMALL_DISK = """
import hashlib, subprocess
from pathlib import Path
import forebay
disk = Path(ask["disk"])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)

def open_bay():
    return forebay.open(disk / "bay", max_downloads_per_host=4, backoff_base_s=0.01)

def tell(event, call):
    "Say what came of *call*: a version or a named error."
    try:
        response = call()
    except forebay.ForebayError as error:
        say(event=event, code=error.code, status=error.status, text=str(error))
    else:
        with bay.open(response) as file:
            sha256 = hashlib.sha256(file.read()).hexdigest()
        say(event=event, code=None, sha256=sha256, resumed=response.download_stats.resumed_bytes)

def fill(leave=0):
    "Use the disk up, but for *leave* bytes."
    with open(disk / "ballast", "ab", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            pass
        ballast.truncate(max(0, ballast.tell() - leave))

def free():
    (disk / "ballast").unlink()

def tell_rotten():
    say(event="verified", rotten=len(bay.verify().rotten))
"""


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def by_event(said: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["event"]: one for one in said}


def is_disk_full(said: dict[str, Any]) -> bool:
    return (said["code"], said["status"]) == ("disk_full", 507) and "Free space" in said["text"]


TOO_LARGE = """
with open_bay() as bay:
    tell("small", lambda: bay.fetch(ask["small"]))
    fill(leave=2_500_000)
    tell("big", lambda: bay.fetch(ask["big"]))
    statuses = [(v.status, v.download_stats.error_code) for v in bay.versions(ask["big"])]
    say(event="versions", statuses=statuses)
    tell("small again", lambda: bay.fetch(ask["small"]))
    tell_rotten()
    free()
    tell("big again", lambda: bay.fetch(ask["big"]))
    bay.tag(ask["big"], "arrived")
    bay.gc()
    say(event="usage", partial_bytes=bay.usage().partial_bytes)
"""


def test_a_download_that_does_not_fit(origin: Origin, on_a_small_disk: Callable[..., Any]) -> None:
    """It fails as `disk_full`, 507; what was stored before is read and verified; when there is space the same
    fetch goes on where it was."""
    small, big = blob(MIB, 1), blob(4 * MIB, 2)
    origin.serve("/small", Resource(small))
    origin.serve("/big", Resource(big))
    child = on_a_small_disk(TOO_LARGE, small=origin.url("/small"), big=origin.url("/big"))
    said = by_event(child.result())
    assert is_disk_full(said["big"])
    assert "ready" not in {status for status, _ in said["versions"]["statuses"]}
    assert said["small"]["sha256"] == said["small again"]["sha256"] == digest(small)
    assert said["verified"]["rotten"] == 0
    assert said["big again"]["sha256"] == digest(big)
    assert said["big again"]["resumed"] > MIB
    first, second = origin.requests("/big")
    assert "range" not in first.fields
    assert second.fields["range"] == f"bytes={said['big again']['resumed']}-"
    assert len(origin.requests("/small")) == 1
    assert said["usage"]["partial_bytes"] == 0


LAST_BYTE = """
with open_bay() as bay:
    tell("small", lambda: bay.fetch(ask["small"]))
    fill()
    tell("new", lambda: bay.fetch(ask["new"]))
    tell("small again", lambda: bay.fetch(ask["small"]))
    tell("refreshed", lambda: bay.fetch(ask["small"], refresh="always"))
    tell_rotten()
    free()
    tell("new again", lambda: bay.fetch(ask["new"]))
"""


def test_a_catalog_that_cannot_be_written(origin: Origin, on_a_small_disk: Callable[..., Any]) -> None:
    """On a disk that is full to the last byte a new URL fails as `disk_full`; what is stored is served, since
    a hit writes nothing, even when its refresh fails; with space again the same Forebay goes on."""
    small, new = blob(5000, 1), blob(3 * MIB, 2)
    origin.serve("/small", Resource(small))
    origin.serve("/new", CutEvery(Resource(new), MIB))
    child = on_a_small_disk(LAST_BYTE, small=origin.url("/small"), new=origin.url("/new"))
    said = by_event(child.result())
    assert is_disk_full(said["new"])
    assert said["small again"]["sha256"] == digest(small)
    assert said["refreshed"]["code"] in (None, "disk_full")
    assert said["verified"]["rotten"] == 0
    assert said["new again"]["sha256"] == digest(new)


REOPENED = """
with open_bay() as bay:
    tell("small", lambda: bay.fetch(ask["small"]))
fill()
try:
    bay = open_bay()
except forebay.ForebayError as error:
    say(event="open", code=error.code, status=error.status, text=str(error))
else:
    say(event="open", code=None)
    tell("offline", lambda: bay.fetch(ask["small"], offline=True))
    bay.close()
free()
with open_bay() as bay:
    tell("after", lambda: bay.fetch(ask["small"]))
    tell_rotten()
"""


def test_a_folder_that_is_opened_on_a_full_disk(origin: Origin, on_a_small_disk: Callable[..., Any]) -> None:
    """Opening a folder on a disk that is full to the last byte works for reading, or says `disk_full`; nothing
    is harmed."""
    small = blob(5000, 1)
    origin.serve("/small", Resource(small))
    child = on_a_small_disk(REOPENED, small=origin.url("/small"))
    said = by_event(child.result())
    assert said["open"]["code"] is None or is_disk_full(said["open"])
    if "offline" in said:
        assert said["offline"]["sha256"] == digest(small)
    assert said["after"]["sha256"] == digest(small)
    assert said["verified"]["rotten"] == 0
    assert len(origin.requests()) == 1


# --- a disk that refuses ----------------------------------------------------------------------------------

# A process for each step: imports once, forks, and in the child call number *at* of those that change a file
# or sync one fails once. SQLite's commits fail before they are made. Then the same Forebay tries again.
REFUSING = """
import errno, hashlib, itertools, os, sqlite3, threading, time, traceback
import forebay.bay, forebay.catalog.migrate, forebay.fetch.landing
forebay.fetch.landing._SYNC_BYTES = 1 << 20

CALLS = (
    "rename", "replace", "link", "unlink", "remove", "mkdir", "chmod", "fchmod", "ftruncate", "open", "pwrite",
    "fsync", "fdatasync",
)
refused = []
armed = True

def name_of(call, args):
    if isinstance(args[0], int):
        return f"{call} {os.readlink(f'/proc/self/fd/{args[0]}')}"
    return f"{call} {args[0]}"

def refuse(at, number, only):
    numbers = itertools.count(1)
    def step(name):
        if armed and ask["of"] in name and next(numbers) == at:
            refused.append(name)
            return True
        return False
    def wrap(call):
        original = getattr(os, call)
        def refusing(*args, **options):
            if (call != "open" or args[1] & os.O_CREAT) and step(name_of(call, args)):
                if call == "pwrite":
                    time.sleep(0.05)  # a disk that refuses takes its time: what follows is queued by then
                raise OSError(number, os.strerror(number))
            return original(*args, **options)
        setattr(os, call, refusing)
    for call in only or CALLS:
        wrap(call)
    if only:
        return
    class Cursor(sqlite3.Cursor):
        def execute(self, sql, *args):
            if sql == "COMMIT" and step("COMMIT"):
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL if number == errno.ENOSPC else sqlite3.SQLITE_IOERR
                raise error
            return super().execute(sql, *args)
    class Connection(sqlite3.Connection):
        def cursor(self):
            return super().cursor(Cursor)
    connect = sqlite3.dbapi2.connect
    sqlite3.dbapi2.connect = lambda *args, **options: connect(*args, factory=Connection, **options)

def outcome(call):
    try:
        return call(), None
    except forebay.ForebayError as error:
        return None, f"{error.code}: {error}"

def ready(bay, url):
    try:
        return sum(version.status == "ready" for version in bay.versions(url))
    except forebay.ForebayError:
        return 0

def run(folder):
    global armed
    crashed = []
    threading.excepthook = lambda args: crashed.append(repr(args.exc_value))
    number = getattr(errno, ask["errno"])
    found = {"event": "outcome"}
    def open_bay():
        return forebay.open(folder, max_downloads_per_host=4, backoff_base_s=0.01, sweep_grace_s=0)
    bay, found["open"] = outcome(open_bay)
    if bay is not None:
        response, found["fetch"] = outcome(lambda: bay.fetch(ask["url"]))
        found["ready"] = ready(bay, ask["url"])
        found["refused"] = refused[:]
        again, found["again"] = outcome(lambda: bay.fetch(ask["url"]))
        bay.close()
    found["refused"] = refused[:]
    armed = False
    with open_bay() as bay:
        with bay.open(bay.fetch(ask["url"])) as file:
            found["sha256"] = hashlib.sha256(file.read()).hexdigest()
        found["rotten"] = len(bay.verify().rotten)
    found["crashed"] = crashed
    say(**found)
    return bool(refused)

untouched = 0  # in a row: a step may be taken in one run, and not in another
for at in itertools.count(1):
    pid = os.fork()
    if pid == 0:
        try:
            refuse(at, getattr(errno, ask["errno"]), ask["only"])
            os._exit(0 if run(f"{ask['folder']}/{at}") else 3)
        except BaseException:
            traceback.print_exc()
            print("at", at, refused, file=sys.stderr, flush=True)
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, 3):
        sys.exit(code)
    untouched = untouched + 1 if code == 3 else 0
    if untouched == 3:
        sys.exit(0)
"""


def outcomes_of_refusals(child: Any, body: bytes) -> list[dict[str, Any]]:
    """What came of each refusal; what must be so after any of them is checked."""
    said = child.result()
    assert said[-1]["fetch"] is None, "the last one had nothing left to fail at"
    outcomes = [one for one in said if one["refused"]]
    for one in outcomes:
        for error in (one["open"], one.get("fetch"), one.get("again")):
            assert error is None or error.startswith(("storage_failed: ", "disk_full: ")), one
            assert "internal error" not in (error or ""), one
        assert one["crashed"] == [], one
        assert one.get("again") is None, one  # it fails once: the same Forebay goes on
        assert (one["sha256"], one["rotten"]) == (digest(body), 0), one
    return outcomes


IN_PROC = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="needs Linux: names what was refused by /proc/self/fd"
)


@IN_PROC
@pytest.mark.parametrize("of", [".part", "/content"])
@pytest.mark.parametrize("size", [5000, 2 * MIB + 7], ids=["in one piece", "in blocks"])
def test_a_refused_sync_never_makes_a_version_ready(
    size: int, of: str, origin: Origin, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """When a sync of its bytes or of the store's names fails, even once, a version is not ready: what the
    system could not write then, a later sync that goes well would hide. The failure is `storage_failed`."""
    body = blob(size, 1)
    origin.serve("/a", CutEvery(Resource(body), MIB + 5))
    syncs = ["fsync", "fdatasync"]
    child = spawn(REFUSING, folder=tmp_path, url=origin.url("/a"), errno="EIO", only=syncs, of=of)
    outcomes = outcomes_of_refusals(child, body)
    assert outcomes
    for one in outcomes:
        name = one["refused"][0]
        assert one["fetch"] is not None, f"ready in spite of a failed {name}"
        assert one["ready"] == 0, f"ready in spite of a failed {name}"


@IN_PROC
@pytest.mark.parametrize("errno", ["EIO", "ENOSPC"])
def test_a_refusal_at_any_io_step_has_a_named_outcome(
    errno: str, origin: Origin, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """Whichever I/O step fails, opening and fetching work or raise a named `StorageError`, no thread dies, and
    the same Forebay completes the fetch when it is asked again."""
    body = blob(2 * MIB + 7, 1)
    origin.serve("/a", CutEvery(Resource(body), MIB + 5))
    child = spawn(REFUSING, folder=tmp_path, url=origin.url("/a"), errno=errno, only=[], of="")
    outcomes = outcomes_of_refusals(child, body)
    assert len(outcomes) > 30, "the steps were not counted"


# Commits fail while *refusing*; what the test says on stdin switches it.
OUT_OF_REACH = """
import sqlite3, threading, time
import forebay.bay, forebay.fetch.fetcher
forebay.fetch.fetcher.HEARTBEAT_S = 0.05
refusing = False
class Cursor(sqlite3.Cursor):
    def execute(self, sql, *args):
        if sql == "COMMIT" and refusing:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(sql, *args)
class Connection(sqlite3.Connection):
    def cursor(self):
        return super().cursor(Cursor)
connect = sqlite3.dbapi2.connect
sqlite3.dbapi2.connect = lambda *args, **options: connect(*args, factory=Connection, **options)

def fetch():
    try:
        bay.fetch(ask["url"])
    except forebay.ForebayError as error:
        say(event="failed", code=error.code)

with forebay.open(ask["folder"]) as bay:
    fetching = threading.Thread(target=fetch)
    fetching.start()
    sys.stdin.readline()
    refusing = True
    say(event="refusing")
    fetching.join()
    say(event="held", lease=bay.frontier.owners() != set())
    refusing = False
    while bay.frontier.lease_of(bay.requests()[0].id) is not None:
        time.sleep(0.01)
    say(event="free")
    bay.fetch(ask["other"])  # the one slot of that host
    say(event="other")
"""


@pytest.mark.parametrize("when", ["it ends", "it runs"])
def test_what_could_not_be_written_is_given_back(
    when: str, origin: Origin, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """When the catalog can be written no more, fetches fail, and their leases and slots stay, for that cannot be
    written either. They are given back as soon as it can: else nobody could fetch those, or anything else of their
    host, while the process lives."""
    body, go_on = blob(2 * MIB), threading.Event()
    stall = origin.serve("/a", Stall(Resource(body), MIB, go_on, times=1))
    origin.serve("/b", Resource(b"another of that host"))
    child = spawn(OUT_OF_REACH, folder=tmp_path / "bay", url=origin.url("/a"), other=origin.url("/b"))
    assert stall.reached.wait(60)
    child.tell(go=True)
    child.wait_for(bool)
    if when == "it ends":
        go_on.set()
    said = by_event(child.result())
    go_on.set()
    assert said["failed"]["code"] == "disk_full"
    assert said["held"]["lease"]
    with forebay.open(tmp_path / "bay") as bay:
        response = bay.fetch(origin.url("/a"))
        assert response.download_stats.resumed_bytes >= MIB
        with bay.open(response) as file:
            assert file.read() == body
