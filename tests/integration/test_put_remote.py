"""Files sent to a real server: over networks that break, by clients and to servers that are killed."""

import asyncio
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import forebay
from conftest import Child, Served
from forebay import Response, ServerUnreachable
from forebay.client import fetching
from forebay.core.retry import RetryPolicy
from forebay.errors import FileChanged, ForebayError, InvalidValue, UnknownUpload, UploadTooLarge
from forebay.reports import Sending
from origin import blob
from raw import Api, ask, problem
from wire import Wire

MIB = 1 << 20
# Enough for two parts at once, and for a cut in the middle of each.
LARGE = 33 * MIB
CUT = 20 * MIB
PARALLEL = pytest.mark.parametrize("parallel", [1, 4])


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients give up after two seconds, where a server stays away."""
    monkeypatch.setattr(fetching, "AGAIN", RetryPolicy(max_attempts=6, backoff_base_s=0.1, backoff_max_s=0.8))


@pytest.fixture(scope="module")
def large() -> bytes:
    return blob(LARGE)


@pytest.fixture
def file(tmp_path: Path, large: bytes) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(large)
    return path


@pytest.fixture
def wire(shared_server: Served) -> Iterator[Wire]:
    with Wire(shared_server.url) as wire:
        yield wire


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def put(url: str, cache: Path, file: Any, *, progress: Any = None, **options: Any) -> Response:
    """As a process would that begins now."""
    with forebay.open(url, cache=cache) as bay:
        return bay.put(file, progress=progress, **options)


def aput(url: str, cache: Path, file: Any, **options: Any) -> Response:
    """The same in an event loop."""

    async def put() -> Response:
        async with forebay.aopen(url, cache=cache) as bay:
            return await bay.put(file, **options)

    return asyncio.run(put())


FACES = pytest.mark.parametrize("face", [put, aput], ids=["thread", "loop"])


def stored(url: str, name: str) -> bytes:
    """What the door has under a name."""
    answer = ask(url, "GET", f"/r/forebay:{name}")
    assert answer.status == 200
    return answer.body


class Heard:
    """A progress that remembers the most of what it was told."""

    def __init__(self) -> None:
        self.sent = self.resumed = self.attempts = 0
        self.threads: set[int] = set()
        self.last = Sending()

    def __call__(self, file: str, sending: Sending) -> None:
        self.sent = max(self.sent, sending.sent_bytes)
        self.resumed = max(self.resumed, sending.resumed_bytes)
        self.attempts = max(self.attempts, sending.attempt)
        self.threads.add(threading.get_ident())
        self.last = sending


# --- what arrives ---------------------------------------------------------------------------------------


@FACES
@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB])
def test_a_file_becomes_a_version(shared_server: Served, tmp_path: Path, size: int, face: Any) -> None:
    """Of its own name, with its type and tag, as `put` into a folder has it; nothing is remembered then."""
    body = blob(size)
    path = tmp_path / f"données {size} {face.__name__}.csv"
    path.write_bytes(body)
    response = face(shared_server.url, tmp_path / "cache", path, tag="ab")
    attributes = response.content_attributes
    assert (response.status, response.tags, attributes.filename) == ("ready", ["ab"], path.name)
    assert (attributes.sha256, attributes.media_type) == (hashlib.sha256(body).hexdigest(), "text/csv")
    assert stored(shared_server.url, response.url.removeprefix("forebay:")) == body
    assert list((tmp_path / "cache" / "uploads").iterdir()) == []


@FACES
@PARALLEL
def test_a_large_file(wire: Wire, cache: Path, file: Path, large: bytes, face: Any, parallel: int) -> None:
    """Goes in as many parts at once as are worth it; progress is told where the caller is."""
    heard = Heard()
    name = f"large {parallel} {face.__name__}"
    response = face(wire.url, cache, file, name=name, parallel=parallel, progress=heard)
    assert (wire.connections > 1) is (parallel > 1)
    assert stored(wire.url, response.url.removeprefix("forebay:")) == large
    assert (heard.sent, heard.resumed, heard.last.state) == (LARGE, 0, "done")
    assert len(heard.threads) == 1
    if face is put:
        assert heard.threads == {threading.get_ident()}
    assert wire.sent < LARGE + MIB


@FACES
@pytest.mark.parametrize("size", [0, 5, 8 * MIB, 20 * MIB])
def test_a_stream(shared_server: Served, cache: Path, size: int, face: Any) -> None:
    """Is sent to its end, whose place nobody knows before."""
    body = blob(size)
    face(shared_server.url, cache, io.BytesIO(body), name=f"stream{size}")
    assert stored(shared_server.url, f"stream{size}") == body


def test_names_are_any_text(shared_server: Served, cache: Path) -> None:
    """And are found again by it."""
    for name in ("../../etc/passwd", "a\nb", "日本 語/ü", "%41", "..", "?a=b#c"):
        body = name.encode()
        response = put(shared_server.url, cache, io.BytesIO(body), name=name)
        assert stored(shared_server.url, response.url.removeprefix("forebay:")) == body
        with forebay.open(shared_server.url, cache=cache) as bay:
            assert bay.path(response).read_bytes() == body


@pytest.mark.parametrize("options", [{"name": ""}, {"tag": "!"}, {"parallel": 0}, {"parallel": 17}])
def test_what_cannot_be_asked(wire: Wire, cache: Path, file: Path, options: Any) -> None:
    """Is found before anything is sent."""
    for wrong in (options, {}):
        with pytest.raises(InvalidValue):
            put(wire.url, cache, file if wrong else file.with_name("no such"), **wrong)
    assert wire.sent == 0


def test_nobody_is_waited_for_who_never_was_there(cache: Path, file: Path, wire: Wire) -> None:
    """A server that cannot be reached at first is told of at once."""
    wire.refuse()
    with pytest.raises(ServerUnreachable):
        put(wire.url, cache, file)
    assert wire.connections == 1


def test_a_server_may_refuse(serve: Callable[..., Served], cache: Path, file: Path) -> None:
    """What is over its limits it says before anything is sent."""
    served = serve(env={"FOREBAY_MAX_UPLOAD_BYTES": "1M"})
    with Wire(served.url) as wire:
        with pytest.raises(UploadTooLarge):
            put(wire.url, cache, file)
        assert wire.sent < 10_000
        with pytest.raises(UploadTooLarge):
            put(wire.url, cache, io.BytesIO(blob(3 * MIB)), name="a")


# --- what breaks ----------------------------------------------------------------------------------------


@FACES
@PARALLEL
def test_a_cut_is_gone_on_from(wire: Wire, cache: Path, file: Path, large: bytes, face: Any, parallel: int) -> None:
    """The same call sends the rest, and no more than that and what was under way."""
    wire.cut_after_sent(CUT)
    heard = Heard()
    name = f"cut-{parallel}-{face.__name__}"
    face(wire.url, cache, file, name=name, parallel=parallel, progress=heard)
    assert wire.cuts == 1
    assert stored(wire.url, name) == large
    assert wire.sent < LARGE + CUT // 2
    assert heard.attempts > 1


@FACES
def test_a_stream_that_is_cut(wire: Wire, cache: Path, face: Any) -> None:
    """Goes on: what cannot be read again was kept."""
    body = blob(20 * MIB)
    for number, at in enumerate((5 * MIB, 8 * MIB + 70_000, 19 * MIB)):
        wire.cut_after_sent(at)
        name = f"cut-stream-{number}-{face.__name__}"
        face(wire.url, cache, io.BytesIO(body), name=name)
        assert stored(wire.url, name) == body
    assert wire.cuts == 3


@FACES
@PARALLEL
def test_another_process_goes_on(
    wire: Wire, cache: Path, file: Path, large: bytes, face: Any, parallel: int
) -> None:
    """Where one had to give up. Another file, or the same one changed, is begun anew."""
    wire.cut_after_sent(CUT, then=wire.refuse)
    with pytest.raises(ServerUnreachable):
        face(wire.url, cache, file, name="other", parallel=parallel)
    wire.refuse(False)
    other = file.with_name("other.bin")
    other.write_bytes(large)
    heard = Heard()
    face(wire.url, cache, other, name="other", progress=heard)
    assert heard.resumed == 0
    heard, before = Heard(), wire.sent
    name = f"resumed-{parallel}-{face.__name__}"
    face(wire.url, cache, file, name=name, progress=heard, parallel=parallel)
    assert stored(wire.url, name) == large
    assert heard.resumed > MIB
    assert wire.sent - before < LARGE - heard.resumed + MIB
    assert list((cache / "uploads").iterdir()) == []


@FACES
@pytest.mark.parametrize("for_good", [False, True])
def test_the_answer_to_putting_together_is_lost(
    wire: Wire, cache: Path, file: Path, large: bytes, face: Any, for_good: bool
) -> None:
    """Who asks again, at once or in another process, is told the same: nothing is sent twice."""
    name = f"lost-{for_good}-{face.__name__}"
    before = wire.sent
    wire.lose_answer(b"final;", then=wire.refuse if for_good else lambda: None)
    if for_good:
        with pytest.raises(ServerUnreachable):
            face(wire.url, cache, file, name=name, parallel=4)
        wire.refuse(False)
    face(wire.url, cache, file, name=name, parallel=4)
    assert wire.cuts == 1
    assert stored(wire.url, name) == large
    assert wire.sent - before < LARGE + MIB


@PARALLEL
def test_a_killed_client_is_gone_on_from(
    wire: Wire, cache: Path, file: Path, large: bytes, spawn: Callable[..., Child], parallel: int
) -> None:
    """kill -9 in the middle; the next process sends the rest."""
    held = threading.Event()
    wire.cut_after_sent(CUT, then=lambda: held.wait(60))
    child = spawn(
        "import forebay\n"
        "with forebay.open(ask['url'], cache=ask['cache']) as bay:\n"
        "    bay.put(ask['file'], name='never', parallel=ask['parallel'])\n",
        url=wire.url, cache=cache, file=file, parallel=parallel,
    )  # fmt: skip
    wire.wait_for_sent(CUT)
    child.kill()
    held.set()
    wire.wait_for_cut()
    heard = Heard()
    name = f"killed-{parallel}"
    put(wire.url, cache, file, name=name, parallel=parallel, progress=heard)
    assert stored(wire.url, name) == large
    assert heard.resumed > MIB
    assert ask(wire.url, "GET", "/r/forebay:never").status == 404


@PARALLEL
def test_a_killed_server_is_gone_on_with(
    serve: Callable[..., Served], cache: Path, file: Path, large: bytes, parallel: int
) -> None:
    """kill -9 in the middle; once it is there again it has what it had acknowledged, and gets the rest."""
    served = serve()
    port = int(served.url.rpartition(":")[2])
    with Wire(served.url) as wire:
        wire.cut_after_sent(CUT, then=lambda: (served.kill(), wire.refuse()))
        with pytest.raises(ServerUnreachable):
            put(wire.url, cache, file, name="a", parallel=parallel)
        again = serve(port=port)
        wire.refuse(False)
        heard = Heard()
        put(wire.url, cache, file, name="a", parallel=parallel, progress=heard)
        assert stored(again.url, "a") == large
        assert heard.resumed > 0


@PARALLEL
def test_a_file_that_is_written_meanwhile(wire: Wire, cache: Path, file: Path, large: bytes, parallel: int) -> None:
    """Is never published, neither as it was nor as it is; once it is finished, it is sent as it is then."""

    def write() -> None:
        file.write_bytes(large[:CUT] + b"other" + large[CUT + 5 :])
        os.utime(file, ns=(1, 1))

    wire.cut_after_sent(CUT, then=write)
    name = f"written-{parallel}"
    with pytest.raises(FileChanged):
        put(wire.url, cache, file, name=name, parallel=parallel)
    assert ask(wire.url, "GET", f"/r/forebay:{name}").status == 404
    assert list((cache / "uploads").iterdir()) == []
    put(wire.url, cache, file, name=name, parallel=parallel)
    assert stored(wire.url, name) == file.read_bytes() != large


def test_a_file_that_looks_as_before(wire: Wire, cache: Path, file: Path, large: bytes) -> None:
    """But has other bytes than were sent of it: the digest tells, and it is sent anew."""
    before = file.stat().st_mtime_ns
    wire.cut_after_sent(CUT, then=wire.refuse)
    with pytest.raises(ServerUnreachable):
        put(wire.url, cache, file, name="looks", parallel=1)
    wire.refuse(False)
    with file.open("r+b") as inside:
        inside.write(b"other")
    os.utime(file, ns=(before, before))
    put(wire.url, cache, file, name="looks", parallel=1)
    assert stored(wire.url, "looks") == b"other" + large[5:]


@PARALLEL
def test_a_server_that_has_forgotten(wire: Wire, cache: Path, file: Path, large: bytes, parallel: int) -> None:
    """What was sent is sent anew when it is gone there."""
    wire.cut_after_sent(CUT, then=wire.refuse)
    with pytest.raises(ServerUnreachable):
        put(wire.url, cache, file, parallel=parallel)
    wire.refuse(False)
    (remembered,) = (cache / "uploads").iterdir()
    begun = json.loads(remembered.read_text())
    uids = [begun["whole"]] if begun["whole"] else [part["uid"] for part in begun["parts"]]
    assert ask(wire.url, "DELETE", f"/v1/upload/tus/{uids[0]}", ("Tus-Resumable", "1.0.0")).status == 204
    name = f"forgotten-{parallel}"
    put(wire.url, cache, file, name=name, parallel=parallel)
    assert stored(wire.url, name) == large


@pytest.mark.parametrize("left", ["", "{", "[]\n", '{"whole": 1, "wider": 2}\n', "{}\n"])
def test_what_is_remembered_may_be_anything(wire: Wire, cache: Path, file: Path, left: str) -> None:
    """What a crash of the machine leaves of it, or another Forebay: then the file is sent anew."""
    wire.cut_after_sent(CUT, then=wire.refuse)
    with pytest.raises(ServerUnreachable):
        put(wire.url, cache, file, parallel=1)
    wire.refuse(False)
    (remembered,) = (cache / "uploads").iterdir()
    remembered.write_text(left)
    heard = Heard()
    put(wire.url, cache, file, parallel=1, progress=heard)
    assert heard.resumed == 0


def test_one_file_sent_twice_at_once(shared_server: Served, cache: Path, file: Path, large: bytes) -> None:
    """Neither disturbs the other."""
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(put, shared_server.url, cache, file, name=f"twice-{number}") for number in range(2)]
        for number, future in enumerate(running):
            future.result()
            assert stored(shared_server.url, f"twice-{number}") == large


def test_a_cancelled_call_is_gone_on_from(wire: Wire, cache: Path, file: Path, large: bytes) -> None:
    """A task that is cancelled sends no more; another one sends the rest."""

    async def cancelled() -> None:
        async with forebay.aopen(wire.url, cache=cache) as bay:
            task = asyncio.create_task(bay.put(file, name="never"))
            await asyncio.to_thread(wire.wait_for_sent, CUT)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    heard = Heard()
    put(wire.url, cache, file, name="cancelled", progress=heard)
    assert stored(wire.url, "cancelled") == large
    assert heard.resumed > 0


# --- publishing -----------------------------------------------------------------------------------------


def uploaded(api: Api, body: bytes) -> str:
    """The id of a whole upload of *body*."""
    pairs = [("Tus-Resumable", "1.0.0"), ("Upload-Length", str(len(body))), ("Content-Length", str(len(body)))]
    pairs.append(("Content-Type", "application/offset+octet-stream"))
    answer = api.ask("POST", "/v1/upload/tus/", *pairs, body=body)
    assert answer.status == 201
    return answer.fields["location"].rpartition("/")[2]


def test_publishing_again_gives_the_same_version(shared_server: Served) -> None:
    """For the answer to the first may have been lost; another name is another version, and another tag is added."""
    api = Api(shared_server)
    place = f"/v1/upload/id/{uploaded(api, b'hello')}/publish"
    first = api.json("POST", place, {"name": "again", "tag": "one"})
    again = api.json("POST", place, {"name": "again", "tag": "two"})
    assert first["version"] == again["version"]
    assert (first["tags"], sorted(again["tags"])) == (["one"], ["one", "two"])
    assert api.json("POST", place, {"name": "other"})["request_id"] != first["request_id"]
    found = api.json("POST", "/v1/find", {"name": "forebay:again"})
    assert len(api.json("GET", f"/v1/request/{found['id']}/response")) == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"name": "a", "sha256": "0" * 64}, (422, "upload_mismatch")),
        ({"name": ""}, (422, "value_invalid")),
        ({"name": "a", "tag": "!"}, (422, "value_invalid")),
        ({"tag": "ab"}, (422, "value_invalid")),
        ({"name": "a", "more": 1}, (422, "value_invalid")),
    ],
)
def test_what_is_not_published(shared_server: Served, body: Any, expected: tuple[int, str]) -> None:
    """What cannot be asked, and what has other bytes than it should."""
    api = Api(shared_server)
    place = f"/v1/upload/id/{uploaded(api, b'hello')}/publish"
    assert problem(api.send("POST", place, body)) == expected


def test_only_what_is_whole_is_published(shared_server: Served) -> None:
    """What is not there is unknown, what is not whole says what is missing."""
    api = Api(shared_server)
    assert problem(api.send("POST", f"/v1/upload/id/{'0' * 32}/publish", {"name": "a"}))[0] == 404
    created = api.ask("POST", "/v1/upload/tus/", ("Tus-Resumable", "1.0.0"), ("Upload-Length", "5"))
    uid = created.fields["location"].rpartition("/")[2]
    answer = api.send("POST", f"/v1/upload/id/{uid}/publish", {"name": "a"})
    assert problem(answer) == (409, "upload_incomplete")


def test_uploads_are_their_owners(serve: Callable[..., Served], cache: Path, tmp_path: Path) -> None:
    """Nobody else publishes them; a token that is for a group publishes in that group; reading is not enough."""
    served = serve()
    secrets = {}
    for name, more in (("one", ["--group", "g"]), ("two", []), ("reader", [])):
        scopes = "read" if name == "reader" else "read,write"
        argv = [sys.executable, "-m", "forebay", "token", "add", name, "--scope", scopes, *more, "--json"]
        argv += ["--data", str(served.folder)]
        secrets[name] = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)["secret"]
    uid = uploaded(Api(served, secrets["one"]), b"hello")
    place = f"/v1/upload/id/{uid}/publish"
    assert problem(Api(served, secrets["two"]).send("POST", place, {"name": "a"})) == (404, UnknownUpload.code)
    assert problem(Api(served, secrets["reader"]).send("POST", place, {"name": "a"}))[0] == 403
    published = Api(served, secrets["one"]).json("POST", place, {"name": "a"})
    found = Api(served, secrets["one"]).json("GET", f"/v1/request/{published['request_id']}")
    assert found["group_name"] == "g"
    (tmp_path / "f").write_bytes(b"hello")
    with forebay.open(served.url, cache=cache, token=secrets["two"]) as bay:
        assert bay.request(bay.put(tmp_path / "f").url).group_name == "default"
    with forebay.open(served.url, cache=cache, token=secrets["reader"]) as bay, pytest.raises(ForebayError) as told:
        bay.put(tmp_path / "f")
    assert told.value.status == 403
