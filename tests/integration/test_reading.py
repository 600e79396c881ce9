"""Everyone reads now: `open` of what is still landing, in this process and in others, to its good or bad end."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import pytest

import forebay
from forebay import Response
from forebay.bay import Forebay
from forebay.errors import FollowBroken, HashMismatch, OriginError, StateError, UnknownVersion
from forebay.fetch.told import told
from origin import ChangeValidator, CutEvery, Drip, Exchange, Held, Origin, Resource, Sequence, Stall, Status, blob

MakeBay = Callable[..., Forebay]
BODY = blob(1_000_000)
OTHER = blob(1_000_000, seed=1)
SMALL = blob(5000, seed=2)
LANDED = 300_000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What a stalled origin waits for; set at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


class Gated:
    """The head and the bytes up to each of *stops*, one more each time that `let` is called; then the end, or a
    cut with *cut*. Of known length, unless *chunked*."""

    def __init__(
        self, resource: Resource, *stops: int, cut: bool = False, chunked: bool = False, times: int = 1
    ) -> None:
        self.resource, self.stops, self.cut, self.chunked = resource, stops, cut, chunked
        self.times = times
        self._gate = threading.Semaphore(0)

    def let(self, times: int = 1) -> None:
        self._gate.release(times)

    def __call__(self, exchange: Exchange) -> None:
        answer = self.resource.answer(exchange.seen)
        self.times -= 1
        if self.times < 0:
            exchange.answer(answer)
            return
        if self.chunked:
            exchange.send_head(200, [("ETag", '"v1"'), ("Transfer-Encoding", "chunked")])
        else:
            exchange.answer(answer, stop=0)
        start = 0
        for stop in (*self.stops, len(answer.body)):
            if self.chunked and stop > start:
                exchange.send(b"%x\r\n%b\r\n" % (stop - start, answer.body[start:stop]))
            else:
                exchange.send_body(answer, start=start, stop=stop)
            start = stop
            if stop < len(answer.body):
                exchange.acquire(self._gate)
                if self.cut:
                    exchange.close()
                    return
        if self.chunked:
            exchange.send(b"0\r\n\r\n")


def ready(bay: Forebay, url: str) -> list[Response]:
    return [version for version in bay.versions(url) if version.status == "ready"]


def links(folder: Path) -> list[Path]:
    """Who is registered to be woken."""
    return list((folder / "wakeups").glob("*/*"))


# --- while it lands ---------------------------------------------------------------------------------------


def test_the_first_bytes_are_read_while_the_origin_holds_the_rest(
    bay: Forebay, origin: Origin, go_on: threading.Event
) -> None:
    """The file is there when the head is; in the end there is one ready version, after one GET."""
    origin.serve("/f", Stall(Resource(BODY), LANDED, go_on))
    url = origin.url("/f")
    with bay.open(url) as file:
        assert file.read(1000) == BODY[:1000]
        assert file.read(LANDED - 1000) == BODY[1000:LANDED]
        assert bay.latest(url) is None
        file.seek(100)
        assert file.read(50) == BODY[100:150]
        go_on.set()
        assert file.read() == BODY[150:]
        assert file.read() == b""
    response = bay.fetch(url)
    assert response.content_hash_hex == sha256(BODY)
    assert [version.version for version in bay.versions(url)] == [response.version]
    assert len(origin.requests("/f")) == 1
    assert links(bay.folder) == []


def test_it_is_a_binary_file(bay: Forebay, origin: Origin, go_on: threading.Event) -> None:
    """Readable and seekable, as one of a stored version; a closed one says so."""
    origin.serve("/f", Stall(Resource(BODY), LANDED, go_on))
    file: Any = bay.open(origin.url("/f"))
    assert (file.readable(), file.seekable(), file.writable(), file.mode) == (True, True, False, "rb")
    assert file.tell() == 0
    assert file.seek(10) == 10
    assert file.seek(5, io.SEEK_CUR) == 15
    buffer = bytearray(100)
    assert file.readinto(buffer) == 100
    assert buffer == BODY[15:115]
    assert file.read1(10) == BODY[115:125]
    assert file.read(0) == b""
    for offset, whence in ((-1, io.SEEK_SET), (0, 7)):
        with pytest.raises(ValueError, match=r"expected|whence"):
            file.seek(offset, whence)
    with pytest.raises(io.UnsupportedOperation):
        file.fileno()  # its bytes are not all there
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_a_read_waits_for_its_own_bytes_only(bay: Forebay, origin: Origin, pool: ThreadPoolExecutor) -> None:
    """One in the middle is answered when the middle is there, one of the tail with the tail."""
    gated = origin.serve("/f", Gated(Resource(BODY), 100_000, 600_000))
    url = origin.url("/f")

    def tail() -> bytes:
        with bay.open(url) as file:
            assert file.seek(-10, io.SEEK_END) == len(BODY) - 10
            return file.read()

    def middle() -> bytes:
        with bay.open(url) as file:
            file.seek(500_000)
            return file.read(1000)

    with bay.open(url) as file:
        assert file.read(100_000) == BODY[:100_000]
        at_the_tail, at_the_middle = pool.submit(tail), pool.submit(middle)
        gated.let()
        assert at_the_middle.result(30) == BODY[500_000:501_000]
        assert not at_the_tail.done()
        gated.let()
        assert at_the_tail.result(30) == BODY[-10:]
        assert file.read() == BODY[100_000:]
    assert len(origin.requests("/f")) == 1


def test_without_a_length_the_end_is_known_when_it_is_there(
    bay: Forebay, origin: Origin, pool: ThreadPoolExecutor
) -> None:
    """What has landed is read; seeking from the end waits for it."""
    gated = origin.serve("/f", Gated(Resource(BODY), LANDED, chunked=True))
    with bay.open(origin.url("/f")) as file, bay.open(origin.url("/f")) as other:
        assert file.read(LANDED) == BODY[:LANDED]
        end = pool.submit(other.seek, -5, io.SEEK_END)
        assert file.seek(0) == 0
        assert not end.done()
        gated.let()
        assert end.result(30) == len(BODY) - 5
        assert other.read() == BODY[-5:]
        assert file.read() == BODY


def test_drop_by_drop(bay: Forebay, origin: Origin) -> None:
    """Each piece is read before the next one is sent."""
    gate = threading.Semaphore(0)
    body = BODY[:40_000]
    origin.serve("/f", Drip(Resource(body), 1000, gate))
    gate.release()
    with bay.open(origin.url("/f")) as file:
        for start in range(0, len(body) - 1000, 1000):
            assert file.read(1000) == body[start : start + 1000]
            gate.release()
        assert file.read() == body[-1000:]


def test_cuts_are_not_seen_by_readers(make_bay: MakeBay, origin: Origin) -> None:
    """An origin that cuts and honours ranges: the reader reads on as if nothing was."""
    bay = make_bay()
    origin.serve("/f", CutEvery(Resource(BODY), 150_000))
    with bay.open(origin.url("/f")) as file:
        assert file.read() == BODY
    assert len(origin.requests("/f")) == 7


def test_a_slow_reader_slows_nobody(bay: Forebay, origin: Origin, go_on: threading.Event) -> None:
    """The download is done and ready while a reader has read nothing; it then reads all, evicted or not."""
    origin.serve("/f", Stall(Resource(BODY), LANDED, go_on))
    url = origin.url("/f")
    with bay.open(url) as file:
        go_on.set()
        response = bay.fetch(url)
        assert response.status == "ready"
        bay.delete(url)
        bay.catalog.purge_deleted(before=2**40, now=2**40)
        bay.store.delete(sha256(BODY))
        assert file.read() == BODY


def test_what_comes_in_one_piece_is_opened_when_it_is_stored(bay: Forebay, origin: Origin) -> None:
    """It never had a mark: the file is that of the version."""
    origin.serve("/f", Resource(SMALL))
    with bay.open(origin.url("/f")) as file:
        assert file.read() == SMALL
        assert file.fileno() >= 0


def test_the_same_content_again(bay: Forebay, origin: Origin) -> None:
    """A fetch whose content turns out to be the stored one: its reader reads it to the end."""
    url = origin.url("/f")
    origin.serve("/f", Resource(BODY, etag=None))
    bay.fetch(url, refresh="always")
    gated = origin.serve("/f", Gated(Resource(BODY, etag=None), LANDED))
    with bay.open(url) as file:
        assert file.read(LANDED) == BODY[:LANDED]
        gated.let()
        assert file.read() == BODY[LANDED:]
    assert len(ready(bay, url)) == 1


def test_a_thousand_readers_cost_one_get(bay: Forebay, origin: Origin, go_on: threading.Event) -> None:
    """And few descriptors; each reads the whole."""
    body = BODY[:600_000]
    origin.serve("/f", Stall(Resource(body), LANDED, go_on))
    url = origin.url("/f")
    with ExitStack() as opened:
        files = [opened.enter_context(bay.open(url)) for _ in range(1000)]
        assert len(list(Path("/dev/fd").iterdir())) < 200
        assert all(file.read(1000) == body[:1000] for file in files)
        go_on.set()
        assert all(file.read() == body[1000:] for file in files)
    assert len(origin.requests("/f")) == 1
    assert links(bay.folder) == []


def test_readers_that_vanish(bay: Forebay, origin: Origin, pool: ThreadPoolExecutor) -> None:
    """They come and go while others read to the end; nothing of them is left."""
    gate = threading.Semaphore(0)
    origin.serve("/f", Drip(Resource(BODY), 50_000, gate))
    url = origin.url("/f")

    def come_and_go(number: int) -> None:
        for turn in range(5):
            with bay.open(url) as file:
                file.seek(1000 * number + turn)
                assert file.read(10) == BODY[1000 * number + turn :][:10]

    gate.release()
    with bay.open(url) as file:
        visitors = [pool.submit(come_and_go, number) for number in range(8)]
        for visitor in visitors:
            visitor.result(30)
        gate.release(100)
        assert file.read() == BODY
    assert len(origin.requests("/f")) == 1


# --- a version under way ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["response", "version"])
def test_a_version_under_way_is_opened(bay: Forebay, origin: Origin, by: str) -> None:
    """By its Response or its name; it is the same download."""
    gated = origin.serve("/f", Gated(Resource(BODY), LANDED))
    url = origin.url("/f")
    with bay.open(url) as first:
        (version,) = bay.versions(url)
        assert version.status in ("wait", "in_progress")
        with bay.open(version) if by == "response" else bay.open(url, version=version.version) as file:
            assert file.read(LANDED) == BODY[:LANDED]
            gated.let()
            assert file.read() == BODY[LANDED:]
        assert first.read() == BODY
    with bay.open(version) as file:  # the Response is an old one
        assert file.read() == BODY
    assert len(origin.requests("/f")) == 1


def test_a_version_that_was_suspended_is_gone_on_with(
    make_bay: MakeBay, origin: Origin, go_on: threading.Event
) -> None:
    """Opening it fetches the rest of it, as the same version."""
    origin.serve("/f", Stall(Resource(BODY), LANDED, go_on, times=1))
    url = origin.url("/f")
    with make_bay() as first, first.open(url) as file:
        assert file.read(LANDED) == BODY[:LANDED]
    bay = make_bay()
    (version,) = bay.versions(url)
    assert version.status in ("wait", "in_progress")
    with bay.open(version) as file:
        assert file.read() == BODY
    assert [(one.version, one.status) for one in bay.versions(url)] == [(version.version, "ready")]
    assert origin.requests("/f")[-1].fields["range"] == f"bytes={LANDED}-"


def test_a_version_under_way_that_fails(make_bay: MakeBay, origin: Origin) -> None:
    """Who has its head is broken off; who opens it later is told how it failed."""
    bay = make_bay(max_attempts=1)
    gated = Gated(Resource(BODY), LANDED, cut=True)
    origin.serve("/f", Sequence(gated, Status(503)))
    url = origin.url("/f")
    with bay.open(url) as first:
        (version,) = bay.versions(url)
        with bay.open(version) as file:
            assert file.read(LANDED) == BODY[:LANDED]
            gated.let()
            for _ in range(2):
                with pytest.raises(OriginError) as error:
                    file.read()
                assert error.value.code == "origin_busy"
        with pytest.raises(OriginError):
            first.read()
    with pytest.raises(OriginError) as error:
        bay.open(version)
    assert error.value.code == "origin_busy"


def test_a_version_that_turned_out_to_be_the_one_before(bay: Forebay, origin: Origin) -> None:
    """Nothing is left of it; who waits for it gets the content, which is that of the latest."""
    url = origin.url("/f")
    origin.serve("/f", Resource(SMALL))
    bay.fetch(url)
    held = origin.serve("/f", Held(Resource(SMALL)))
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(bay.fetch, url, refresh="always")
        held.arrived()
        (version,) = [one for one in bay.versions(url) if one.status != "ready"]
        opened = pool.submit(bay.open, version)
        held.release()
        with opened.result(30) as file:
            assert file.read() == SMALL
        assert running.result(30).version < version.version
    with pytest.raises(UnknownVersion):
        bay.open(url, version=version.version)


# --- bad ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(404, "origin_status"), (503, "origin_busy")])
def test_a_download_that_fails_breaks_its_readers_off(
    make_bay: MakeBay, origin: Origin, status: int, code: str
) -> None:
    """Never a short success: reading all raises the error, also the second time; whether what landed is dropped
    or kept for a later fetch."""
    bay = make_bay(max_attempts=1)
    gated = Gated(Resource(BODY), LANDED, cut=True)
    origin.serve("/f", Sequence(gated, Status(status)))
    with bay.open(origin.url("/f")) as file:
        assert file.read(1000) == BODY[:1000]
        gated.let()
        for _ in range(2):
            with pytest.raises(OriginError) as error:
                file.read()
            assert error.value.code == code


def test_a_download_that_cannot_be_resumed_breaks_its_readers_off(make_bay: MakeBay, origin: Origin) -> None:
    """Without a validator it starts over: another generation, though the bytes may be the same."""
    bay = make_bay()
    gated = origin.serve("/f", Gated(Resource(BODY, etag=None), LANDED, cut=True))
    url = origin.url("/f")
    with bay.open(url) as file:
        assert file.read(1000) == BODY[:1000]
        gated.let()
        with pytest.raises(FollowBroken):
            file.read()
    with bay.open(url) as file:
        assert file.read() == BODY


def test_a_changed_origin_breaks_the_readers_of_the_old_content_off(make_bay: MakeBay, origin: Origin) -> None:
    """Another ETag midway: the download starts over by itself, whoever opens again reads the new content."""
    bay = make_bay()
    old = Gated(Resource(BODY, etag='"old"'), LANDED, cut=True)
    new = Gated(Resource(OTHER, etag='"new"'), LANDED)
    origin.serve("/f", Sequence(old, new))
    url = origin.url("/f")
    with bay.open(url) as reader, bay.open(url) as idle:
        assert reader.read(LANDED) == BODY[:LANDED]
        old.let()
        with pytest.raises(FollowBroken):
            reader.read(1)
        with bay.open(url) as again:
            assert again.read(LANDED) == OTHER[:LANDED]
            with pytest.raises(FollowBroken):
                idle.read(1)
            new.let()
            assert again.read() == OTHER[LANDED:]
    (version,) = ready(bay, url)
    assert version.content_attributes.etag == '"new"'
    assert [seen.fields.get("if-range") for seen in origin.requests("/f")] == [None, '"old"']


@pytest.mark.parametrize("chunked", [False, True])
def test_the_wrong_bytes_have_no_end(bay: Forebay, origin: Origin, pool: ThreadPoolExecutor, chunked: bool) -> None:
    """Somebody expects another digest: a reader may see what landed, but never its end, nor its last byte if it
    could know that it is the last."""
    gated = origin.serve("/f", Gated(Resource(BODY), LANDED, chunked=chunked))
    url = origin.url("/f")
    fetching = pool.submit(bay.fetch, url, sha256=sha256(OTHER))
    origin.wait_for(1, "/f")
    with bay.open(url) as file:
        assert file.read(LANDED) == BODY[:LANDED]
        origin.serve("/f", Status(404))
        gated.let()
        with pytest.raises(OriginError):
            read_on(file, BODY[LANDED : len(BODY) if chunked else len(BODY) - 1])
    assert isinstance(fetching.exception(30), HashMismatch)
    assert ready(bay, url) == []


def read_on(file: BinaryIO, expected: bytes) -> None:
    """Read piece by piece as long as there are *expected* bytes, then once more."""
    got = b""
    while piece := file.read1(100_000):  # type: ignore[attr-defined]
        got += piece
        assert expected.startswith(got)
    raise AssertionError(f"it ended after {len(got)} bytes")


def test_before_the_head_a_failure_is_that_of_fetch(make_bay: MakeBay, origin: Origin) -> None:
    """No version: the error; a stored one: its content, stale."""
    bay = make_bay(max_attempts=1)
    url = origin.url("/f")
    origin.serve("/f", Status(503))
    with pytest.raises(OriginError) as error:
        bay.open(url)
    assert error.value.status == 502
    origin.serve("/f", Resource(BODY))
    bay.fetch(url, refresh="always")
    bay.configure(url, refresh="always")
    origin.serve("/f", Status(503))
    with bay.open(url) as file:
        assert file.read() == BODY


def test_what_was_left_is_not_read_before_the_origin_has_confirmed_it(
    make_bay: MakeBay, origin: Origin, go_on: threading.Event
) -> None:
    """A suspended download of content that has changed since: its next reader gets the new one, whole; one of
    an origin that is gone gets the error, not the old prefix."""
    origin.serve("/f", Stall(Resource(BODY), LANDED, go_on, times=1))
    url = origin.url("/f")
    with make_bay() as first, first.open(url) as file:
        assert file.read(LANDED) == BODY[:LANDED]
    bay = make_bay(max_attempts=1)
    origin.serve("/f", Status(503))
    with pytest.raises(OriginError):
        bay.open(url)
    origin.serve("/f", Resource(OTHER, etag='"v2"'))
    with bay.open(url) as file:
        assert file.read() == OTHER


def test_what_is_lost_never_shares_its_generation_with_other_bytes(
    make_bay: MakeBay, origin: Origin, go_on: threading.Event
) -> None:
    """The partial file of a version under way was swept: what is fetched for it then has a number that no reader
    has seen. A version's ETag names it."""
    stall = origin.serve("/f", Stall(Resource(BODY), LANDED, go_on, times=1))
    url = origin.url("/f")
    with make_bay() as first, first.open(url) as file:
        assert file.read(LANDED) == BODY[:LANDED]
        (version,) = first.versions(url)
        following = first.follow(version.request_id)
        assert following is not None
        mark = following.known
        following.close()
        assert (mark.generation, told(mark.meta).version) == (1, version.version)
        assert told(mark.meta).owner == first.owner.id
    assert stall.reached.is_set()
    bay = make_bay()
    assert bay.follow(version.request_id) is None
    bay.partials.discard(version.request_id)
    gated = origin.serve("/f", Gated(Resource(OTHER, etag='"v2"'), LANDED))
    with bay.open(url) as file:
        assert file.read(LANDED) == OTHER[:LANDED]
        following = bay.follow(version.request_id)
        assert following is not None
        assert following.known.generation > 1000
        assert told(following.known.meta).version == version.version
        following.close()
        gated.let()
        assert file.read() == OTHER[LANDED:]


def test_closing_suspends_what_nobody_else_waits_for(bay: Forebay, origin: Origin, go_on: threading.Event) -> None:
    """What landed is kept; the next one asks for the rest."""
    origin.serve("/f", Stall(Resource(BODY), LANDED, go_on, times=1))
    url = origin.url("/f")
    with bay.open(url) as one:
        assert one.read(LANDED) == BODY[:LANDED]
        with bay.open(url) as other:
            assert other.read(10) == BODY[:10]
        assert one.seek(0) == 0  # it still runs
        assert origin.open_connections == 1
    origin.wait_for(lambda _: origin.open_connections == 0)
    with bay.open(url) as file:
        assert file.read() == BODY
    assert [seen.fields.get("range") for seen in origin.requests("/f")] == [None, f"bytes={LANDED}-"]


def test_a_forgotten_file_suspends_its_download(bay: Forebay, origin: Origin, go_on: threading.Event) -> None:
    """Nobody has closed it, but nobody can read it any more."""
    origin.serve("/f", Stall(Resource(BODY), LANDED, go_on, times=1))
    file = bay.open(origin.url("/f"))
    assert file.read(10) == BODY[:10]
    del file
    origin.wait_for(lambda _: origin.open_connections == 0)


def test_a_forgotten_file_that_is_found_while_locks_are_held(
    bay: Forebay, origin: Origin, go_on: threading.Event
) -> None:
    """The collector of garbage may find it in the middle of anything: it waits for no lock."""
    origin.serve("/f", Stall(Resource(BODY), LANDED, go_on, times=1))
    cycle: list[Any] = [bay.open(origin.url("/f"))]
    cycle.append(cycle)
    assert cycle[0].read(10) == BODY[:10]
    del cycle
    with bay._fetcher._lock, bay._followings._lock, bay.wakeups._lock:
        gc.collect()
    origin.wait_for(lambda _: origin.open_connections == 0)


def test_closing_the_forebay_ends_the_wait(make_bay: MakeBay, origin: Origin, pool: ThreadPoolExecutor) -> None:
    """What has landed may still be read; who waits for more, or for a head, is told."""
    bay = make_bay(max_downloads_per_host=2)
    origin.serve("/f", Gated(Resource(BODY), LANDED))
    held = origin.serve("/held", Held(Resource(BODY)))
    headless = pool.submit(bay.open, origin.url("/held"))
    held.arrived()
    with bay.open(origin.url("/f")) as file:
        assert file.read(1000) == BODY[:1000]
        bay.close()
        with pytest.raises(StateError):
            file.read()
    assert isinstance(headless.exception(30), StateError)


# --- several processes ------------------------------------------------------------------------------------

READ = """
import forebay
with forebay.open(ask["folder"], backoff_base_s=0.01) as bay, bay.open(ask["url"]) as file:
    say(event="open")
    got = file.read(ask["first"])
    say(event="first", bytes=len(got))
    got += file.read()
    with open(ask["to"], "wb") as copy:
        copy.write(got)
    say(event="read")
"""
FETCH = """
import forebay
with forebay.open(ask["folder"], backoff_base_s=0.01) as bay:
    say(event="fetched", version=bay.fetch(ask["url"]).version)
"""


def has(event: str) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda said: any(one["event"] == event for one in said)


def test_another_process_reads_what_we_fetch(
    bay: Forebay, origin: Origin, spawn: Callable[..., Any], tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """Its first bytes while the origin holds the rest."""
    gated = origin.serve("/f", Gated(Resource(BODY), LANDED))
    url = origin.url("/f")
    fetching = pool.submit(bay.fetch, url)
    origin.wait_for(1, "/f")
    child = spawn(READ, folder=bay.folder, url=url, first=LANDED, to=tmp_path / "copy")
    child.wait_for(has("first"))
    assert not fetching.done()
    gated.let()
    child.result()
    assert (tmp_path / "copy").read_bytes() == BODY
    assert fetching.result(30).content_hash_hex == sha256(BODY)
    assert len(origin.requests("/f")) == 1


def test_we_read_what_another_process_fetches(
    bay: Forebay, origin: Origin, spawn: Callable[..., Any], pool: ThreadPoolExecutor
) -> None:
    """To its good end; and its bad one breaks us off as our own would."""
    gated = origin.serve("/f", Gated(Resource(BODY), LANDED))
    url = origin.url("/f")
    child = spawn(FETCH, folder=bay.folder, url=url)
    origin.wait_for(1, "/f")
    with bay.open(url) as file:
        assert file.read(LANDED) == BODY[:LANDED]
        gated.let()
        assert file.read() == BODY[LANDED:]
    child.result()
    assert len(origin.requests("/f")) == 1


def test_another_process_s_restart_breaks_us_off(bay: Forebay, origin: Origin, spawn: Callable[..., Any]) -> None:
    """The content changed while it fetched."""
    old = Gated(Resource(BODY, etag='"old"'), LANDED, cut=True)
    new = Gated(Resource(OTHER, etag='"new"'), LANDED)
    origin.serve("/f", Sequence(old, new))
    url = origin.url("/f")
    child = spawn(FETCH, folder=bay.folder, url=url)
    origin.wait_for(1, "/f")
    with bay.open(url) as file:
        assert file.read(LANDED) == BODY[:LANDED]
        old.let()
        with pytest.raises(FollowBroken):
            file.read(1)
    with bay.open(url) as file:
        new.let()
        assert file.read() == OTHER
    child.result()


@pytest.mark.parametrize("how", ["kill", "close"])
def test_the_process_that_fetches_goes_away(
    bay: Forebay, origin: Origin, spawn: Callable[..., Any], how: str
) -> None:
    """Killed or closed: the reader's own process goes on from what has landed, and the reader's bytes are
    right."""
    fetch = """
import forebay
with forebay.open(ask["folder"], backoff_base_s=0.01) as bay, bay.open(ask["url"]) as file:
    sys.stdin.readline()
"""
    gated = origin.serve("/f", Gated(Resource(BODY), LANDED))
    url = origin.url("/f")
    child = spawn(fetch, folder=bay.folder, url=url)
    origin.wait_for(1, "/f")
    with bay.open(url) as file, bay.open(url) as other:
        assert file.read(LANDED) == BODY[:LANDED]
        if how == "kill":
            child.kill()
        else:
            child.tell(stop=True)
        assert file.read() == BODY[LANDED:]
        assert other.read() == BODY
    first, second = origin.requests("/f")
    assert "range" not in first.fields
    assert (second.fields["range"], second.fields["if-range"]) == (f"bytes={LANDED}-", '"v1"')
    assert bay.fetch(url).content_hash_hex == sha256(BODY)
    assert len(bay.versions(url)) == 1
    assert bay.verify().rotten == []
    gated.let()


def test_a_killed_download_that_cannot_be_gone_on_with_breaks_its_readers_off(
    bay: Forebay, origin: Origin, spawn: Callable[..., Any]
) -> None:
    """The origin has something else by now: a reader of the old content is told so, and gets the new one when it
    opens again."""
    gated = Gated(Resource(BODY, etag='"old"'), LANDED)
    origin.serve("/f", Sequence(gated, Resource(OTHER, etag='"new"')))
    url = origin.url("/f")
    child = spawn(READ, folder=bay.folder, url=url, first=1, to="nowhere")
    child.wait_for(has("first"))
    with bay.open(url) as file:
        assert file.read(LANDED) == BODY[:LANDED]
        child.kill()
        with pytest.raises(FollowBroken):
            file.read()
    with bay.open(url) as file:
        assert file.read() == OTHER
    gated.let()


def test_twenty_processes_read_one_cold_url(
    origin: Origin, spawn: Callable[..., Any], tmp_path: Path, go_on: threading.Event
) -> None:
    """One GET; all have the first bytes while the origin holds the rest, and the right file in the end."""
    origin.serve("/f", Stall(Resource(BODY), LANDED, go_on))
    children = [
        spawn(READ, folder=tmp_path / "bay", url=origin.url("/f"), first=LANDED, to=tmp_path / f"copy{number}")
        for number in range(20)
    ]
    for child in children:
        child.wait_for(has("first"))
    go_on.set()
    for child in children:
        child.result()
    for number in range(20):
        assert (tmp_path / f"copy{number}").read_bytes() == BODY
    assert len(origin.requests("/f")) == 1
    assert links(tmp_path / "bay") == []


def test_what_killed_readers_left_goes_with_gc(bay: Forebay, origin: Origin, spawn: Callable[..., Any]) -> None:
    """Their registrations, too."""
    origin.serve("/f", Gated(Resource(BODY), LANDED))
    child = spawn(READ, folder=bay.folder, url=origin.url("/f"), first=1, to="nowhere")
    child.wait_for(has("first"))
    assert len(links(bay.folder)) == 1
    child.kill()
    bay.gc(dry_run=True)
    assert len(links(bay.folder)) == 1
    bay.gc()
    assert links(bay.folder) == []


# --- the async face ---------------------------------------------------------------------------------------


def test_the_async_face_opens_what_is_landing(tmp_path: Path, origin: Origin) -> None:
    """Waiting for many heads blocks neither the loop nor its threads; reads wait in a thread."""
    helds = [origin.serve(f"/held/{number}", Held(Resource(BODY))) for number in range(50)]
    gated = origin.serve("/f", Gated(Resource(BODY), LANDED))

    async def main() -> None:
        async with forebay.aopen(tmp_path / "a", max_downloads=60, max_downloads_per_host=60) as bay:
            opening = [asyncio.create_task(bay.open(origin.url(f"/held/{number}"))) for number in range(50)]
            await asyncio.to_thread(origin.wait_for, 50)
            with await bay.open(origin.url("/f")) as file:
                assert await asyncio.to_thread(file.read, 1000) == BODY[:1000]
                gated.let()
                assert await asyncio.to_thread(file.read) == BODY[1000:]
            opening[0].cancel()
            for held in helds:
                held.release()
            for task in opening[1:]:
                with await task as file:
                    assert await asyncio.to_thread(file.read) == BODY
            with pytest.raises(asyncio.CancelledError):
                await opening[0]

    asyncio.run(main())


def test_many_changes_of_the_origin(make_bay: MakeBay, origin: Origin) -> None:
    """A reader that opens anew as often as it is broken off has the last content in the end."""
    bay = make_bay()
    bodies = [(blob(400_000, seed=number), f'"{number}"') for number in range(6)]
    origin.serve("/f", ChangeValidator(bodies, 250_000))
    got = b""
    for _ in range(20):
        with bay.open(origin.url("/f")) as file:
            try:
                got = file.read()
                break
            except FollowBroken:
                continue
    assert got == bodies[-1][0]


def test_a_cancelled_open_lets_its_download_go(tmp_path: Path, origin: Origin) -> None:
    """Wherever it is cancelled: while it looks at the catalog, or while it waits for a head."""
    held = origin.serve("/f", Held(Resource(BODY)))

    async def main() -> None:
        bay = await forebay.aopen(tmp_path / "a")
        for turns in (0, 1, 2, 5):
            task = asyncio.create_task(bay.open(origin.url("/f")))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        task = asyncio.create_task(bay.open(origin.url("/f")))
        await asyncio.to_thread(held.arrived)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(origin.wait_for, lambda _: origin.open_connections == 0)
        await asyncio.get_running_loop().shutdown_default_executor()  # what was cancelled has ended
        assert links(bay.folder) == []
        bay.bay.close()

    asyncio.run(main())
