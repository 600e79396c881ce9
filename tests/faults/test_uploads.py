"""Uploads under kill -9, stalls, rivals and full disks: what was acknowledged stays, and nothing else is ever told."""

import hashlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disks import on_a_small_disk
from forebay import Forebay

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("FAULTS_SEED", "20261121"))
MIB = 1 << 20


def body(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def leftovers(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in (folder / "uploads").rglob("*") if path.is_file())


WRITE_MANY = """
import random, threading
import forebay
from forebay import IncomingMessage
from forebay.models import ChunkRequest
bay = forebay.open(ask["folder"], min_free_disk_bytes=0)
uids, done = dict(ask["uids"]), set(ask["done"])

def body(number, size):
    return random.Random(number).randbytes(size)

def sequential(number, size):
    data, key = body(number, size), str(number)
    if key not in uids:
        uids[key] = bay.uploads.create(owner=None, size=size).uid
        say(number=number, uid=uids[key])
    offset = bay.uploads.state(uids[key], owner=None, settle=True).offset
    say(number=number, offset=offset)
    while offset < size:
        with bay.uploads.writer(uids[key], owner=None, offset=offset) as writer:
            for start in range(offset, min(offset + 60_000, size), 7_000):
                writer.write(data[start : min(start + 7_000, offset + 60_000, size)])
            offset = writer.close()
        say(number=number, offset=offset)
    say(number=number, sha256=bay.uploads.complete(uids[key], owner=None).sha256)

def chunked(number, size):
    data, key, count = body(number, size), str(number), 9
    step = -(-size // count)
    order = list(range(count))
    random.Random(ask["round"] * 1000 + number).shuffle(order)
    for n in order:
        content = data[n * step : (n + 1) * step]
        chunk = ChunkRequest(chunkCount=count, chunkNumber=n, content=content, fileName="f", totalSize=size,
                             uploadUid=uids.get(key, ""))
        uids[key] = bay.uploads.handle_chunk_request(IncomingMessage(), chunk).uploadUid
        say(number=number, uid=uids[key], chunk=n)
    say(number=number, sha256=bay.uploads.get_upload(uids[key]).sha256)

def some(numbers):
    for number in numbers:
        if number not in done:
            (chunked if number % 2 else sequential)(number, ask["sizes"][number])

say(ready=True)
threads = [threading.Thread(target=some, args=(range(first, ask["count"], 8),)) for first in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
bay.close()
say(ended=True)
"""


def test_two_hundred_uploads_survive_kills_at_random_instants(
    spawn: Callable[..., Any], tmp_path: Path, make_bay: Callable[..., Forebay]
) -> None:
    """Whenever the process is killed: the next one finds each offset that was told, each chunk that was acknowledged,
    and at the end every byte; nothing is left over."""
    chance = random.Random(SEED)
    count = 200
    sizes = [chance.choice([0, 1, 9, 40_000, 150_000, 200_001]) for _ in range(count)]
    uids: dict[str, str] = {}
    told: dict[int, int] = {}
    chunks: dict[int, set[int]] = {}
    done: dict[int, str] = {}
    for attempt in range(60):
        ask = {"folder": str(tmp_path / "bay"), "count": count, "sizes": sizes, "round": attempt}
        child = spawn(WRITE_MANY, uids=uids, done=sorted(done), **ask)
        child.wait_for(lambda said: any("ready" in one for one in said))
        target = chance.randrange(5, 250)
        child.wait_for(lambda said, target=target: len(said) >= target, or_end=True)
        if attempt < 12:
            child.kill()
        else:
            child.result()
        for one in child.said():
            if "number" not in one:
                continue
            number = one["number"]
            if "uid" in one:
                uids[str(number)] = one["uid"]
            if "offset" in one:
                assert one["offset"] >= told.get(number, 0), f"upload {number} has lost what it acknowledged"
                told[number] = one["offset"]
            if "chunk" in one:
                chunks.setdefault(number, set()).add(one["chunk"])
            if "sha256" in one:
                done[number] = one["sha256"]
        if len(done) == count:
            break
    assert done == {n: hashlib.sha256(body(n, sizes[n])).hexdigest() for n in range(count)}
    bay = make_bay(min_free_disk_bytes=0)
    for number in range(count):
        with bay.uploads.get_upload(uids[str(number)]).open() as file:
            assert file.read() == body(number, sizes[number])
    assert bay.verify().rotten == []
    # Uploads whose id was never told are left to expire.
    bay.uploads.expire(now=bay._clock() + 2 * 86400)
    assert leftovers(tmp_path / "bay") == []


HALF_WRITTEN = """
import forebay
bay = forebay.open(ask["folder"], min_free_disk_bytes=0)
writer = bay.uploads.writer(ask["uid"], owner=None)
say(offset=writer.offset)
for line in sys.stdin:
    command = json.loads(line)
    try:
        if command["do"] == "write":
            say(wrote=writer.write(bytes([command["byte"]]) * command["size"]))
        elif command["do"] == "close":
            say(closed=writer.close())
        elif command["do"] == "stop":
            break
    except forebay.ForebayError as error:
        say(code=error.code)
bay.close()
"""


def test_a_stalled_writer_that_wakes_up_changes_no_byte(
    spawn: Callable[..., Any], make_bay: Callable[..., Forebay]
) -> None:
    """Stopped, taken over by another process, woken: what it still writes goes nowhere, and it is told so."""
    bay = make_bay(min_free_disk_bytes=0)
    uid = bay.uploads.create(owner=None, size=3000).uid
    child = spawn(HALF_WRITTEN, folder=str(bay.folder), uid=uid)
    child.tell(do="write", byte=1, size=1000)
    child.wait_for(lambda said: any("wrote" in one for one in said))
    child.signal(signal.SIGSTOP)
    state = bay.uploads.state(uid, owner=None, settle=True)
    assert state.offset == 1000
    writer = bay.uploads.writer(uid, owner=None, offset=1000)
    writer.write(b"\x02" * 1000)
    child.signal(signal.SIGCONT)
    child.tell(do="write", byte=3, size=2000)
    child.wait_for(lambda said: any(one.get("code") == "upload_taken" for one in said))
    child.tell(do="close")
    child.wait_for(lambda said: sum(one.get("code") == "upload_taken" for one in said) == 2)
    writer.write(b"\x04" * 1000)
    upload = writer.complete()
    assert upload is not None
    with upload.open() as file:
        assert file.read() == b"\x01" * 1000 + b"\x02" * 1000 + b"\x04" * 1000


HOLDING = """
import fcntl, os, signal
import forebay
bay = forebay.open(ask["folder"], min_free_disk_bytes=0)
writer = bay.uploads.writer(ask["uid"], owner=None)
writer.write(b"a" * 500)
with writer._partial.owned():  # in the middle of a piece
    say(holding=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    writer._partial.append(memoryview(b"b" * 500))
try:
    say(closed=writer.close())
except forebay.ForebayError as error:
    say(code=error.code)
bay.close()
"""


def test_nobody_waits_for_a_writer_that_was_stopped_in_the_middle_of_a_piece(
    spawn: Callable[..., Any], make_bay: Callable[..., Forebay]
) -> None:
    """It holds the file, perhaps for ever: who takes over goes on with a copy, which it does not reach."""
    bay = make_bay(min_free_disk_bytes=0)
    uid = bay.uploads.create(owner=None, size=1000).uid
    child = spawn(HOLDING, folder=str(bay.folder), uid=uid)
    child.wait_for(lambda said: any("holding" in one for one in said))
    with bay.uploads.writer(uid, owner=None, offset=500) as writer:
        writer.write(b"c" * 200)
        assert writer.close() == 700
    writer = bay.uploads.writer(uid, owner=None, offset=700)
    writer.write(b"c" * 300)
    child.signal(signal.SIGCONT)
    child.wait_for(lambda said: any(one.get("code") == "upload_taken" for one in said))
    upload = writer.complete()
    assert upload is not None
    with upload.open() as file:
        assert file.read() == b"a" * 500 + b"c" * 500


TAKE_TURNS = """
import hashlib
import forebay
bay = forebay.open(ask["folder"], min_free_disk_bytes=0)
data, uid = bytes(range(256)) * 400, ask["uid"]
say(ready=True)
sys.stdin.readline()
turns = 0
while True:
    try:
        state = bay.uploads.state(uid, owner=None, settle=True)
        if state.is_complete:
            break
        with bay.uploads.writer(uid, owner=None, offset=state.offset) as writer:
            turns += 1
            for start in range(state.offset, len(data), 500):
                writer.write(data[start : start + 500])
            writer.complete()
    except forebay.ForebayError as error:
        assert error.code in ("upload_taken", "upload_offset_mismatch", "upload_finished"), repr(error)
say(sha256=bay.uploads.get_upload(uid).sha256, turns=turns)
bay.close()
"""


def test_two_processes_that_write_one_upload_make_it_whole(
    spawn: Callable[..., Any], make_bay: Callable[..., Forebay]
) -> None:
    """Each takes it from the other, again and again; every byte is there once, in its place."""
    bay = make_bay(min_free_disk_bytes=0)
    data = bytes(range(256)) * 400
    uid = bay.uploads.create(owner=None, size=len(data)).uid
    rivals = [spawn(TAKE_TURNS, folder=str(bay.folder), uid=uid) for _ in range(2)]
    for rival in rivals:
        rival.wait_for(lambda said: any("ready" in one for one in said))
    for rival in rivals:
        rival.tell(go=True)
    for rival in rivals:
        assert rival.result()[-1]["sha256"] == hashlib.sha256(data).hexdigest()
    with bay.uploads.get_upload(uid).open() as file:
        assert file.read() == data


KILLED_WHILE_COMPLETING = """
import os, signal
import forebay
bay = forebay.open(ask["folder"], min_free_disk_bytes=0)
from forebay.catalog.uploads import UploadRows
whole = UploadRows.finish
def finish(self, *args, **kwargs):  # the bytes are in the store, the catalog does not know
    os.kill(os.getpid(), signal.SIGKILL)
UploadRows.finish = finish
say(ready=True)
bay.uploads.get_upload(ask["uid"])
"""


@pytest.mark.parametrize("kind", ["sequential", "chunks"])
def test_what_was_killed_while_it_was_made_content_is_made_again(
    spawn: Callable[..., Any], make_bay: Callable[..., Forebay], kind: str
) -> None:
    """Between the content store and the catalog: the next who looks completes it, and no file is left over."""
    from forebay import IncomingMessage
    from forebay.models import ChunkRequest

    bay = make_bay(min_free_disk_bytes=0)
    data = body(1, 100_000)
    if kind == "sequential":
        uid = bay.uploads.create(owner=None, size=len(data)).uid
        with bay.uploads.writer(uid, owner=None) as writer:
            writer.write(data)
            writer.close()
    else:
        chunk = ChunkRequest(chunkCount=1, chunkNumber=0, content=data, fileName="", totalSize=len(data))
        uid = bay.uploads.handle_chunk_request(IncomingMessage(), chunk).uploadUid
    child = spawn(KILLED_WHILE_COMPLETING, folder=str(bay.folder), uid=uid)
    child.wait_for(lambda said: any("never" in one for one in said), or_end=True)
    assert child.said() == [{"ready": True}]
    assert bay.uploads.state(uid, owner=None).is_complete
    upload = bay.uploads.get_upload(uid)
    with upload.open() as file:
        assert file.read() == data
    assert leftovers(bay.folder) == []


FULL = """
import hashlib, random
from pathlib import Path
import forebay
from forebay import IncomingMessage
from forebay.models import ChunkRequest
disk = Path(ask["disk"])
bay = forebay.open(disk / "bay", min_free_disk_bytes=ask["keep"])
data = random.Random(7).randbytes(3 << 20)

def tell(event, call):
    try:
        say(event=event, code=None, got=call())
    except forebay.ForebayError as error:
        say(event=event, code=error.code, status=error.status)

def pour(uid, offset):
    with bay.uploads.writer(uid, owner=None, offset=offset) as writer:
        for start in range(offset, len(data), 256 << 10):
            writer.write(data[start : start + (256 << 10)])
        return writer.complete().sha256

def fill():
    with open(disk / "ballast", "ab", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            pass
        ballast.truncate(max(0, ballast.tell() - ask["leave"]))
"""


@pytest.fixture
def small(spawn: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """``small(script)``: run on a disk of 12 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def start(script: str, *, keep: int = 0, leave: int = 0, size_mib: int = 12) -> dict[str, dict[str, Any]]:
        under = on_a_small_disk(disk, size_mib=size_mib)
        child = spawn(FULL + script, under=under, disk=str(disk), keep=keep, leave=leave)
        return {one["event"]: one for one in child.result()}

    return start


def test_a_full_disk_stops_an_upload_which_goes_on_when_there_is_space(small: Callable[..., Any]) -> None:
    """507; what was acknowledged stays, and the rest comes later."""
    said = small(
        """
uid = bay.uploads.create(owner=None, size=len(data)).uid
fill()
tell("full", lambda: pour(uid, 0))
(disk / "ballast").unlink()
offset = bay.uploads.state(uid, owner=None, settle=True).offset
tell("resumed", lambda: pour(uid, offset))
say(event="offset", offset=offset, sha256=hashlib.sha256(data).hexdigest())
tell("rotten", lambda: len(bay.verify().rotten))
""",
        leave=MIB,
    )
    assert (said["full"]["code"], said["full"]["status"]) == ("disk_full", 507)
    assert 0 < said["offset"]["offset"] < 3 * MIB
    assert said["resumed"]["got"] == said["offset"]["sha256"]
    assert said["rotten"]["got"] == 0


def test_a_full_disk_keeps_the_chunks_that_were_acknowledged(small: Callable[..., Any]) -> None:
    """The chunk that found no space is sent again when there is some."""
    said = small(
        """
step = 1 << 20
def send(n, uid):
    chunk = ChunkRequest(chunkCount=3, chunkNumber=n, content=data[n * step : (n + 1) * step], fileName="f",
                         totalSize=len(data), uploadUid=uid)
    return bay.uploads.handle_chunk_request(IncomingMessage(), chunk).uploadUid
uid = send(1, "")
fill()
tell("full", lambda: send(2, uid))
(disk / "ballast").unlink()
tell("missing", lambda: bay.uploads.get_upload(uid))
send(2, uid), send(0, uid)
tell("whole", lambda: bay.uploads.get_upload(uid).sha256)
say(event="data", sha256=hashlib.sha256(data).hexdigest())
""",
        leave=MIB // 2,
    )
    assert (said["full"]["code"], said["full"]["status"]) == ("disk_full", 507)
    assert said["missing"]["code"] == "upload_incomplete"
    assert said["whole"]["got"] == said["data"]["sha256"]


def test_an_upload_that_would_fill_the_disk_is_refused_before_anything_is_read(small: Callable[..., Any]) -> None:
    """What other uploads have reserved is not free either."""
    said = small(
        """
tell("first", lambda: bay.uploads.create(owner=None, size=5 << 20).uid)
tell("second", lambda: bay.uploads.create(owner=None, size=5 << 20).uid)
tell("small", lambda: bay.uploads.create(owner=None, size=1000).uid)
""",
        keep=2 * MIB,
    )
    assert said["first"]["code"] is None
    assert (said["second"]["code"], said["second"]["status"]) == ("disk_reserved", 507)
    assert said["small"]["code"] is None


def test_what_came_is_not_still_to_come(small: Callable[..., Any]) -> None:
    """While an upload is being written, what is on the disk of it is not reserved as well."""
    said = small(
        """
writer = bay.uploads.writer(bay.uploads.create(owner=None, size=48 << 20).uid, owner=None, offset=0)
for _ in range(40):
    writer.write(bytes(1 << 20))
tell("second", lambda: bay.uploads.create(owner=None, size=16 << 20).uid)
tell("third", lambda: bay.uploads.create(owner=None, size=32 << 20).uid)
writer.close()
""",
        keep=2 * MIB,
        size_mib=96,
    )
    assert said["second"]["code"] is None
    assert said["third"]["code"] == "disk_reserved"


def test_a_private_copy_leaves_as_much_free_as_an_upload(small: Callable[..., Any]) -> None:
    """There is none where it would take the last space; what it would be of stays readable."""
    said = small(
        """
uid = bay.uploads.create(owner=None, size=len(data)).uid
pour(uid, 0)
upload = bay.uploads.get_upload(uid)
fill()
tell("copy", lambda: str(upload.path))
tell("read", lambda: upload.open().read() == data)
(disk / "ballast").unlink()
tell("later", lambda: upload.path.read_bytes() == data)
""",
        keep=2 * MIB,
        leave=4 * MIB,
    )
    assert (said["copy"]["code"], said["copy"]["status"]) == ("disk_reserved", 507)
    assert said["read"]["got"]
    assert said["later"]["got"]
