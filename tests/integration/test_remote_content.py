"""Content from a real server into a client's cache: once, resumed, followed while it lands, always the right bytes."""

import asyncio
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest

import forebay
from conftest import Child, Served
from forebay import OriginError, RemoteForebay, ServerUnreachable, StateError
from forebay.client import fetching
from forebay.core.retry import RetryPolicy
from forebay.errors import FollowBroken
from origin import Chunked, Drip, Exchange, Origin, Resource, Status, blob
from wire import Wire

Open = Callable[..., RemoteForebay]
# What an exchange of JSON and the heads of a few answers take at most.
TALK_BYTES = 50_000


@pytest.fixture(scope="module")
def served(serve_shared: Callable[..., Served]) -> Served:
    return serve_shared(env={"FOREBAY_MAX_ATTEMPTS": "2"})


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    with Wire(served.url) as wire:
        yield wire


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """``connect(url, cache="cache", **settings)``: a `RemoteForebay`, closed when the test ends."""
    monkeypatch.delenv("FOREBAY_SERVER", raising=False)
    opened: list[RemoteForebay] = []

    def make(url: str, cache: str = "cache", **settings: Any) -> RemoteForebay:
        bay = forebay.open(url, cache=tmp_path / cache, **settings)
        assert isinstance(bay, RemoteForebay)
        opened.append(bay)
        return bay

    yield make
    for bay in opened:
        bay.close()


def parts(tmp_path: Path) -> list[Path]:
    """What is on its way in the cache."""
    return sorted((tmp_path / "cache" / "partial").iterdir())


# --- once -----------------------------------------------------------------------------------------------


def test_nothing_is_transferred_twice(wire: Wire, connect: Open, origin: Origin) -> None:
    """Not for another call, another object on the cache, another version or another URL with equal content."""
    body = blob(2_000_000)
    resource = origin.serve("/a", Resource(body))
    origin.serve("/b", Resource(body))
    bay = connect(wire.url)
    path = bay.path(origin.url("/a"))
    assert path.read_bytes() == body
    assert path.stat().st_mode & 0o777 == 0o444
    once = wire.received
    assert len(body) <= once < len(body) + TALK_BYTES
    assert bay.path(origin.url("/a")) == path
    with bay.open(origin.url("/a")) as file:
        assert file.read() == body
    other = connect(wire.url)
    assert other.path(origin.url("/b")) == path
    resource.change(body, etag='"v2"')
    assert other.path(bay.fetch(origin.url("/a"), refresh="always")) == path
    assert wire.received < once + TALK_BYTES


def test_fetching_alone_transfers_nothing(wire: Wire, connect: Open, origin: Origin) -> None:
    """Only the answer comes; `content=True` brings the bytes as well."""
    origin.serve("/a", Resource(blob(2_000_000)))
    bay = connect(wire.url)
    response = bay.fetch(origin.url("/a"))
    assert wire.received < TALK_BYTES
    assert bay.cached(response) is None
    bay.fetch(origin.url("/a"), content=True)
    assert bay.cached(response) is not None


def test_an_empty_content(wire: Wire, connect: Open, origin: Origin) -> None:
    """No bytes are a content, too."""
    origin.serve("/empty", Resource(b""))
    bay = connect(wire.url)
    assert bay.path(origin.url("/empty")).read_bytes() == b""
    with bay.open(origin.url("/empty")) as file:
        assert file.read() == b""


def test_coded_content_stays_coded(wire: Wire, connect: Open, origin: Origin) -> None:
    """The bytes are those that the origin sent, whatever they are coded with."""
    import gzip

    body = gzip.compress(blob(10_000))
    origin.serve("/a.gz", Resource(body, fields=[("Content-Encoding", "gzip")]))
    assert connect(wire.url).path(origin.url("/a.gz")).read_bytes() == body


def test_threads_share_one_transfer(wire: Wire, connect: Open, origin: Origin) -> None:
    """Eight at once get the same file, which came once; by path and by file."""
    body = blob(4_000_000)
    origin.serve("/a", Resource(body))
    bay = connect(wire.url)

    def read(number: int) -> bytes:
        if number % 2:
            return bay.path(origin.url("/a")).read_bytes()
        with bay.open(origin.url("/a")) as file:
            return file.read()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(8))) == {body}
    assert wire.received < len(body) + 4 * TALK_BYTES
    assert len(origin.requests("/a", "GET")) == 1


GET = """
import forebay
with forebay.open(ask["server"], cache=ask["cache"]) as bay:
    say(at=str(bay.path(ask["url"])))
"""


def test_processes_share_one_transfer(
    wire: Wire, spawn: Callable[..., Child], tmp_path: Path, origin: Origin
) -> None:
    """Four programs on one cache: one of them brings it, the others wait for it."""
    body = blob(8_000_000)
    origin.serve("/a", Resource(body))
    ask = {"server": wire.url, "cache": tmp_path / "cache", "url": origin.url("/a")}
    (path,) = {child.result()[0]["at"] for child in [spawn(GET, **ask) for _ in range(4)]}
    assert Path(path).read_bytes() == body
    assert wire.received < len(body) + 4 * TALK_BYTES
    assert parts(tmp_path) == []


def test_the_cache_keeps_within_its_cap(wire: Wire, connect: Open, origin: Origin, tmp_path: Path) -> None:
    """What was not used for longest goes; it can be had again, and a file that is open is read on."""
    for number in range(4):
        origin.serve(f"/{number}", Resource(blob(400_000, number)))
    bay = connect(wire.url, cache_bytes=1_000_000)
    with bay.open(bay.fetch(origin.url("/0"), content=True)) as first:
        for number in range(1, 4):
            bay.path(origin.url(f"/{number}"))
        sizes = [path.stat().st_size for path in (tmp_path / "cache" / "content").iterdir()]
        assert sum(sizes) <= 1_000_000
        assert first.read() == blob(400_000, 0)
    assert bay.path(origin.url("/0")).read_bytes() == blob(400_000, 0)


# --- resumed --------------------------------------------------------------------------------------------


def test_a_cut_connection_is_resumed(wire: Wire, connect: Open, origin: Origin) -> None:
    """Again and again, each time where it broke off; the origin is asked once."""
    body = blob(6_000_000)
    origin.serve("/a", Resource(body))
    bay = connect(wire.url)
    response = bay.fetch(origin.url("/a"))
    wire.cut_after(1_000_000, times=3)
    assert bay.path(response).read_bytes() == body
    assert wire.cuts == 3
    assert wire.received < len(body) + 3 * 300_000 + TALK_BYTES
    assert len(origin.requests("/a", "GET")) == 1


def test_a_later_program_resumes(
    wire: Wire, served: Served, connect: Open, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What landed before the server went stays, and only the rest is transferred by whoever comes next."""
    hasty = RetryPolicy(max_attempts=3, backoff_base_s=0.1, backoff_max_s=0.1)
    monkeypatch.setattr(fetching, "AGAIN", hasty)  # it stays away
    body = blob(6_000_000)
    origin.serve("/a", Resource(body))
    first = connect(served.url, "none")
    response = first.fetch(origin.url("/a"))
    bay = connect(wire.url)

    wire.cut_after(2_500_000, for_good=True)
    with pytest.raises(ServerUnreachable):
        bay.path(response)
    landed = sum(path.stat().st_size for path in parts(tmp_path))
    assert landed > 2_000_000
    before = wire.received
    wire.refuse(False)
    assert connect(wire.url).path(response).read_bytes() == body
    assert wire.received - before < len(body) - landed + TALK_BYTES
    assert parts(tmp_path) == []


def test_what_was_damaged_here_is_begun_anew(wire: Wire, connect: Open, origin: Origin, tmp_path: Path) -> None:
    """A crash of the machine may leave other bytes than those that came: the digest tells, and it comes once more."""
    body = blob(3_000_000)
    origin.serve("/a", Resource(body))
    bay = connect(wire.url)
    response = bay.fetch(origin.url("/a"))
    key = hashlib.sha256(f"{wire.url} {response.request_id} {response.version}".encode()).hexdigest()
    part = tmp_path / "cache" / "partial" / key
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 1_000_000)
    part.with_suffix(".etag").write_text(f'"{response.version}.1"')
    assert bay.path(response).read_bytes() == body
    # All of it and more than that: what is there is no part of it.
    bay.path(response).unlink()
    part.write_bytes(b"\0" * 4_000_000)
    part.with_suffix(".etag").write_text(f'"{response.version}.1"')
    assert bay.path(response).read_bytes() == body
    # Of another representation.
    bay.path(response).unlink()
    part.write_bytes(body[:1_000_000])
    part.with_suffix(".etag").write_text('"another.1"')
    assert bay.path(response).read_bytes() == body
    # All of it, and only the check was missing: nothing is transferred.
    bay.path(response).unlink()
    part.write_bytes(body)
    part.with_suffix(".etag").write_text(f'"{response.version}.1"')
    before = wire.received
    assert bay.path(response).read_bytes() == body
    assert wire.received - before < TALK_BYTES


def test_a_server_that_starts_anew(
    serve: Callable[..., Served], connect: Open, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 in the middle of a content and of a fetch: whoever waits gets the right bytes from the next one."""
    patient = RetryPolicy(max_attempts=60, backoff_base_s=0.1, backoff_max_s=1.0)  # however long it takes to start
    monkeypatch.setattr(fetching, "AGAIN", patient)
    gate = Semaphore(2)
    body = blob(3_000_000)
    origin.serve("/slow", Drip(Resource(body), 1_000_000, gate))
    served = serve()
    bay = connect(served.url)
    paths: list[Path] = []
    landing = threading.Event()

    def bring() -> None:
        def progress(_: str, how_far: forebay.Progress) -> None:
            if how_far.downloaded_bytes >= 1_000_000:
                landing.set()

        bay.fetch(origin.url("/slow"), content=True, progress=progress)
        paths.append(bay.path(origin.url("/slow")))

    thread = threading.Thread(target=bring)
    thread.start()
    assert landing.wait(30)
    served.close()
    serve(port=int(served.url.rpartition(":")[2]))
    gate.release(100)
    thread.join(60)
    assert [path.read_bytes() == body for path in paths] == [True]


# --- followed while it lands ----------------------------------------------------------------------------


def test_read_while_the_origin_sends(wire: Wire, connect: Open, origin: Origin) -> None:
    """The first bytes are here before the last have left the origin; then all of it is in the cache."""
    gate = Semaphore(1)
    body = blob(3_000_000)
    origin.serve("/slow", Drip(Resource(body), 1_000_000, gate))
    bay = connect(wire.url)
    with bay.open(origin.url("/slow")) as file:
        assert file.seekable()
        assert file.read(900_000) == body[:900_000]
        assert file.tell() == 900_000
        assert file.seek(0, io.SEEK_END) == len(body)  # the total is known, the bytes are not there
        file.seek(10)
        assert file.read(5) == body[10:15]
        with bay.open(origin.url("/slow")) as second:
            assert second.read(100) == body[:100]
            gate.release(2)
            assert second.read() == body[100:]
        assert file.read() == body[15:]
        assert file.read() == b""
        file.seek(-5, io.SEEK_END)
        assert file.read() == body[-5:]
    cached = bay.cached(bay.fetch(origin.url("/slow")))
    assert cached is not None
    assert cached.read_bytes() == body
    assert wire.received < len(body) + 2 * TALK_BYTES
    assert len(origin.requests("/slow", "GET")) == 1


def test_read_without_a_known_length(wire: Wire, connect: Open, origin: Origin) -> None:
    """The end shows when it is sure; a seek to it waits."""
    body = blob(500_000)
    origin.serve("/chunked", Chunked(body))
    with connect(wire.url).open(origin.url("/chunked")) as file:
        assert file.seek(0, io.SEEK_END) == len(body)
        file.seek(0)
        assert file.read() == body


def test_the_last_byte_waits_for_the_end(wire: Wire, connect: Open, origin: Origin) -> None:
    """All but one can be read of what may still turn out to be wrong."""
    gate = Semaphore(1)
    body = blob(200_000)
    origin.serve("/slow", Drip(Resource(body), 150_000, gate))
    with connect(wire.url).open(origin.url("/slow")) as file:
        assert file.read(150_000) == body[:150_000]
        gate.release()
        assert file.read() == body[150_000:]


def test_a_failure_is_no_short_success(wire: Wire, connect: Open, origin: Origin) -> None:
    """When the origin breaks off for good, whoever reads gets its error, and whoever comes next the same."""
    gate, resource = Semaphore(0), Resource(blob(400_000), etag=None)

    def cut(exchange: Exchange) -> None:
        answer = resource.answer(exchange.seen)
        exchange.answer(answer, stop=100_000)
        exchange.acquire(gate)
        exchange.cut("fin")

    origin.serve("/cut", cut)
    bay = connect(wire.url)
    with bay.open(origin.url("/cut")) as file:
        assert file.read(50_000) == blob(50_000)
        gate.release(100)
        with pytest.raises((OriginError, FollowBroken)):
            while file.read(50_000):
                pass
    for call in (bay.path, bay.fetch):
        with pytest.raises(OriginError) as caught:
            call(origin.url("/cut"))
        assert caught.value.code in ("origin_short", "origin_cut")


def test_an_origin_that_says_no(wire: Wire, connect: Open, origin: Origin) -> None:
    """Without a head there is nothing to open."""
    origin.serve("/gone", Status(404))
    with pytest.raises(OriginError, match="404"):
        connect(wire.url).open(origin.url("/gone"))


def test_a_reader_is_resumed(wire: Wire, connect: Open, origin: Origin) -> None:
    """A connection that is cut while it is read is the wire's trouble, not the reader's."""
    body = blob(5_000_000)
    origin.serve("/a", Resource(body))
    bay = connect(wire.url)
    response = bay.fetch(origin.url("/a"))
    wire.cut_after(2_000_000)
    with bay.open(response) as file:
        assert file.read() == body
    assert wire.cuts == 1
    assert wire.received < len(body) + 300_000 + 2 * TALK_BYTES


def test_a_reader_who_leaves_stops_the_transfer(wire: Wire, connect: Open, origin: Origin, tmp_path: Path) -> None:
    """What has landed stays, and whoever comes next goes on with it, at once."""
    gate = Semaphore(1)
    body = blob(3_000_000)
    origin.serve("/slow", Drip(Resource(body), 1_000_000, gate))
    bay = connect(wire.url)
    with bay.open(origin.url("/slow")) as file:
        assert file.read(500_000) == body[:500_000]
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    before = wire.received
    with bay.open(origin.url("/slow")) as file:
        assert file.read(1000) == body[:1000]
        gate.release(2)
        assert file.read() == body[1000:]
    assert wire.received - before < len(body) + TALK_BYTES
    assert parts(tmp_path) == []


def test_a_closed_client_breaks_its_readers(wire: Wire, connect: Open, origin: Origin) -> None:
    """They get an error, and not an end."""
    gate = Semaphore(1)
    origin.serve("/slow", Drip(Resource(blob(3_000_000)), 1_000_000, gate))
    bay = connect(wire.url)
    file = bay.open(origin.url("/slow"))
    assert len(file.read(500_000)) == 500_000
    bay.close()
    with pytest.raises(StateError):
        while file.read(100_000):
            pass
    file.close()
    gate.release(2)


def test_two_programs_follow(
    wire: Wire, connect: Open, spawn: Callable[..., Child], origin: Origin, tmp_path: Path
) -> None:
    """A version under way is read at once by whoever opens it, also while another process brings it."""
    gate = Semaphore(1)
    body = blob(3_000_000)
    origin.serve("/slow", Drip(Resource(body), 1_000_000, gate))
    script = """
import forebay, hashlib
with forebay.open(ask["server"], cache=ask["cache"]) as bay, bay.open(ask["url"]) as file:
    first = file.read(1000)
    say(first=len(first))
    say(digest=hashlib.sha256(first + file.read()).hexdigest())
"""
    with connect(wire.url).open(origin.url("/slow")) as file:
        assert file.read(1000) == body[:1000]
        child = spawn(script, server=wire.url, cache=tmp_path / "cache", url=origin.url("/slow"))
        child.wait_for(lambda said: said)
        gate.release(2)
        assert child.result()[-1]["digest"] == hashlib.sha256(body).hexdigest()
        assert file.read() == body[1000:]
    assert parts(tmp_path) == []
    assert len(origin.requests("/slow", "GET")) == 1


# --- for an event loop ----------------------------------------------------------------------------------


def test_an_event_loop_resumes_and_shares(wire: Wire, origin: Origin, tmp_path: Path) -> None:
    """The same flow, driven by a loop: cut, resumed, brought once for all who wait."""
    body = blob(6_000_000)
    origin.serve("/a", Resource(body))

    async def use() -> None:
        async with forebay.aopen(wire.url, cache=tmp_path / "cache") as bay:
            assert isinstance(bay, forebay.AsyncRemoteForebay)
            response = await bay.fetch(origin.url("/a"))
            wire.cut_after(2_000_000)
            paths = await asyncio.gather(*(bay.path(response) for _ in range(5)), bay.path(origin.url("/a")))
            assert len(set(paths)) == 1
            assert paths[0].read_bytes() == body

    asyncio.run(use())
    assert wire.cuts == 1
    assert wire.received < len(body) + 300_000 + 2 * TALK_BYTES


def test_an_event_loop_follows(wire: Wire, origin: Origin, tmp_path: Path) -> None:
    """A file that still lands is opened without blocking the loop, and read in threads."""
    gate = Semaphore(1)
    body = blob(3_000_000)
    origin.serve("/slow", Drip(Resource(body), 1_000_000, gate))

    async def use() -> None:
        async with forebay.aopen(wire.url, cache=tmp_path / "cache") as bay:
            with await bay.open(origin.url("/slow")) as file:
                assert await asyncio.to_thread(file.read, 500_000) == body[:500_000]
                gate.release(2)
                assert await asyncio.to_thread(file.read) == body[500_000:]

    asyncio.run(use())
