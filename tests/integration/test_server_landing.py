"""Everyone reads now: a version goes out while it lands, from its first byte, from each process of a server."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay.errors import HashMismatch
from origin import Drip, Exchange, FailFirst, Held, Origin, Resource, Sequence, Stall, Status, blob
from processes import PROC, api_processes, fetch_worker
from raw import Api, Coming, Cut, Whole, digest_field, problem

Serve = Callable[..., Any]
BODY = blob(1_000_000)
OTHER = blob(1_000_000, seed=1)
LANDED = 300_000


@pytest.fixture
def api(shared_pair: Any) -> Api:
    return Api(shared_pair)


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


def _curl_features() -> str:
    try:
        return subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return ""


class InChunks:
    """A body of no known length: *first* bytes of it, and when *event* is set the rest, or a *cut*."""

    def __init__(self, body: bytes, first: int, event: threading.Event, *, cut: bool = False) -> None:
        self.body, self.first, self.event, self.cut = body, first, event, cut

    def __call__(self, exchange: Exchange) -> None:
        exchange.send_head(200, [("ETag", '"v1"'), ("Transfer-Encoding", "chunked")])
        self._chunk(exchange, self.body[: self.first])
        exchange.stall(self.event)
        if self.cut:
            exchange.cut("fin")
            return
        self._chunk(exchange, self.body[self.first :])
        exchange.send(b"0\r\n\r\n")

    def _chunk(self, exchange: Exchange, data: bytes) -> None:
        exchange.send(b"%x\r\n%b\r\n" % (len(data), data))


class CutAfter:
    """*size* bytes of the body, and when *event* is set the end of the connection."""

    def __init__(self, resource: Resource, size: int, event: threading.Event) -> None:
        self.resource, self.size, self.event = resource, size, event

    def __call__(self, exchange: Exchange) -> None:
        exchange.answer(self.resource.answer(exchange.seen), stop=self.size)
        exchange.stall(self.event)
        exchange.cut("fin")


def door(origin: Origin, path: str = "/a") -> str:
    return f"/r/{origin.url(path)}"


def begun(api: Api, origin: Origin) -> str:
    """The path of the content of a version that lands, whose first byte is there."""
    with api.dial("GET", door(origin)) as coming:
        coming.read(1)
    place: str = coming.fields["content-location"]
    return place


def is_void(coming: Coming, body: bytes) -> bool:
    """Whether *coming* is broken off behind some of *body*, which it may be."""
    with pytest.raises(Cut) as cut:
        coming.rest()
    return body.startswith(cut.value.body) and len(cut.value.body) < len(body)


# --- from the first byte -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["door", "version", "named"])
def test_the_first_bytes_go_out_while_the_origin_holds_the_rest(
    api: Api, origin: Origin, go_on: threading.Event, where: str
) -> None:
    """At the door, by its name, too, and at the version's own place, in each API process; the ETag is that of the
    end."""
    origin.serve("/a", Stall(Resource(BODY, media_type="text/csv"), LANDED, go_on))
    target = door(origin)
    if where != "door":
        place = begun(api, origin)
        target = place if where == "version" else f"{target}?forebay-version={place.split('/')[-2]}"
    with ExitStack() as stack:
        readers = [stack.enter_context(api.dial("GET", target)) for _ in range(16)]
        for coming in readers:
            assert coming.status == 200
            assert coming.fields["content-length"] == str(len(BODY))
            assert coming.fields["content-type"] == "text/csv"
            assert coming.fields["accept-ranges"] == "bytes"
            assert coming.fields["cache-control"] == "no-cache"
            assert "repr-digest" not in coming.fields
            assert coming.read(LANDED) == BODY[:LANDED]
        assert not go_on.is_set()
        go_on.set()
        assert [coming.rest() == BODY[LANDED:] for coming in readers] == [True] * 16
    assert len(origin.requests("/a")) == 1
    (etag,) = {coming.fields["etag"] for coming in readers}
    after = api.get(api.get(door(origin)).fields["content-location"])
    assert (after.fields["etag"], after.body == BODY) == (etag, True)
    assert after.fields["repr-digest"] == digest_field(BODY)


def test_a_body_of_unknown_length_goes_out_in_chunks(api: Api, origin: Origin, go_on: threading.Event) -> None:
    """From its first byte; the last chunk comes when everything is verified and stored."""
    origin.serve("/a", InChunks(BODY, LANDED, go_on))
    with api.dial("GET", door(origin)) as coming, api.dial("HEAD", door(origin)) as head:
        assert coming.chunked
        assert coming.read(LANDED) == BODY[:LANDED]
        assert (head.status, head.rest(), head.fields.get("content-length")) == (200, b"", None)
        go_on.set()
        assert coming.rest() == BODY[LANDED:]


def test_each_byte_goes_out_when_it_lands(api: Api, origin: Origin) -> None:
    """Piece by piece, as the origin lets them go."""
    gate = threading.Semaphore(0)
    origin.serve("/a", Drip(Resource(BODY[:1000]), 10, gate))
    gate.release()
    with api.dial("GET", door(origin)) as coming:
        for start in range(0, 990, 10):
            assert coming.read(10) == BODY[start : start + 10]
            gate.release()
        # What makes it a success is not handed out before it is one.
        assert coming.rest() == BODY[990:1000]


def test_head_waits_for_the_head_only(api: Api, origin: Origin, go_on: threading.Event) -> None:
    """With the length, if the origin has told it."""
    origin.serve("/a", Stall(Resource(BODY), 1, go_on))
    for target in (door(origin), begun(api, origin)):
        head = api.ask("HEAD", target)
        assert (head.status, head.body, head.fields["content-length"]) == (200, b"", str(len(BODY)))
    assert not go_on.is_set()


def test_a_part_waits_for_its_own_bytes_only(
    api: Api, origin: Origin, go_on: threading.Event, pool: ThreadPoolExecutor
) -> None:
    """One that has landed goes out at once, wherever it is; one that has not, when it has; of the last byte, when
    everything is verified."""
    origin.serve("/a", Stall(Resource(BODY), LANDED, go_on))
    place = begun(api, origin)
    total = len(BODY)
    tails = {
        value: pool.submit(api.get, place, ("Range", value))
        for value in (
            f"bytes={LANDED}-{LANDED + 9}",
            "bytes=-10",
            f"bytes={total - 1}-",
            "bytes=0-",
            "bytes=5-9,-9",
        )
    }
    for first, last in ((0, 0), (0, LANDED - 1), (LANDED - 5, LANDED - 1), (1000, 250_000)):
        part = api.get(place, ("Range", f"bytes={first}-{last}"))
        assert (part.status, part.body == BODY[first : last + 1]) == (206, True)
        assert part.fields["content-range"] == f"bytes {first}-{last}/{total}"
    parts = api.get(place, ("Range", "bytes=0-9,1000-1009"))
    assert [part.get_payload(decode=True) for part in _parts(parts)] == [BODY[:10], BODY[1000:1010]]
    with api.dial("GET", place, ("Range", "bytes=100-")) as coming:  # begins, and goes on later
        assert coming.read(LANDED - 100) == BODY[100:LANDED]
        assert not any(future.done() for future in tails.values())
        go_on.set()
        assert coming.rest() == BODY[LANDED:]
    got = {value: future.result() for value, future in tails.items()}
    assert {answer.status for answer in got.values()} == {206}
    assert got[f"bytes={LANDED}-{LANDED + 9}"].body == BODY[LANDED : LANDED + 10]
    assert got["bytes=-10"].body == BODY[-10:]
    assert got[f"bytes={total - 1}-"].body == BODY[-1:]
    assert got["bytes=0-"].body == BODY
    assert [part.get_payload(decode=True) for part in _parts(got["bytes=5-9,-9"])] == [BODY[5:10], BODY[-9:]]


def _parts(answer: Whole) -> Any:
    head = f"Content-Type: {answer.fields['content-type']}\r\n\r\n".encode()
    return message_from_bytes(head + answer.body).get_payload()


def test_what_cannot_be_had_is_refused_at_once(api: Api, origin: Origin, go_on: threading.Event) -> None:
    """A range behind a known end, a condition that fails; with an unknown end, Range is ignored."""
    origin.serve("/a", Stall(Resource(BODY), LANDED, go_on))
    place = begun(api, origin)
    refused = api.get(place, ("Range", f"bytes={len(BODY)}-"))
    assert (problem(refused), refused.fields["content-range"]) == (
        (416, "range_not_satisfiable"), f"bytes */{len(BODY)}",
    )  # fmt: skip
    assert problem(api.get(place, ("If-Match", '"x"'))) == (412, "precondition_failed")
    etag = api.ask("HEAD", place).fields["etag"]
    assert api.get(place, ("If-None-Match", etag)).status == 304
    assert not go_on.is_set()
    origin.serve("/b", InChunks(BODY, LANDED, go_on))
    with api.dial("GET", door(origin, "/b"), ("Range", "bytes=10-19")) as coming:
        assert (coming.status, coming.read(LANDED) == BODY[:LANDED]) == (200, True)


def test_who_wants_it_verified_waits_for_the_end(
    api: Api, origin: Origin, go_on: threading.Event, pool: ThreadPoolExecutor
) -> None:
    """And has the digest then; 1.0 without a known length waits as well, for there a cut shows nowhere."""
    origin.serve("/a", Stall(Resource(BODY), LANDED, go_on))
    origin.serve("/b", InChunks(BODY, LANDED, go_on))
    place = begun(api, origin)
    waiting = [
        pool.submit(api.get, f"{place}?forebay-verified=1"),
        pool.submit(api.get, f"{door(origin)}?forebay-verified=1"),
        pool.submit(api.get, f"{door(origin)}?forebay-version={place.split('/')[-2]}&forebay-verified=1"),
        pool.submit(api.ask, "GET", door(origin, "/b"), version="HTTP/1.0"),
    ]
    with api.dial("GET", door(origin, "/b")) as beside:
        assert beside.read(LANDED) == BODY[:LANDED]
        with api.dial("GET", beside.fields["content-location"]) as other:
            waiting.append(pool.submit(api.ask, "GET", beside.fields["content-location"], version="HTTP/1.0"))
            assert other.read(LANDED) == BODY[:LANDED]
        # A known length shows a cut to 1.0, too.
        with api.dial("GET", place, version="HTTP/1.0") as old:
            assert old.read(LANDED) == BODY[:LANDED]
        assert not any(future.done() for future in waiting)
        go_on.set()
    for future in waiting:
        answer = future.result()
        assert (answer.status, answer.body == BODY) == (200, True)
        assert answer.fields["content-length"] == str(len(BODY))
    assert {future.result().fields["repr-digest"] for future in waiting[:3]} == {digest_field(BODY)}
    refused = api.get(f"{place.replace('/v/', '/v/0')}?forebay-verified=1")
    assert problem(refused) == (404, "version_unknown")


def test_more_than_4_gib_may_be_under_way(api: Api, origin: Origin, go_on: threading.Event) -> None:
    """The length is right beyond 32 bits; what has landed goes out."""
    total = (5 << 30) + 1

    def huge(exchange: Exchange) -> None:
        exchange.send_head(200, [("ETag", '"v1"'), ("Content-Length", str(total))])
        exchange.send(BODY[:1000])
        exchange.stall(go_on)

    origin.serve("/a", huge)
    place = begun(api, origin)
    assert api.ask("HEAD", place).fields["content-length"] == str(total)
    part = api.get(place, ("Range", "bytes=990-999"))
    assert (part.body, part.fields["content-range"]) == (BODY[990:1000], f"bytes 990-999/{total}")


# --- many, slow, and gone -----------------------------------------------------------------------------------


def test_two_hundred_readers_cost_one_get(api: Api, origin: Origin, go_on: threading.Event) -> None:
    """From the first byte to the last, all of them, in two processes."""
    body = BODY[:200_000]
    origin.serve("/a", Stall(Resource(body), 1000, go_on))
    everyone = threading.Barrier(201, timeout=120)

    def read(number: int) -> bool:
        with api.dial("GET", door(origin) if number % 2 else place) as coming:
            first = coming.read(1000)
            everyone.wait()
            return first + coming.rest() == body

    place = begun(api, origin)
    with ThreadPoolExecutor(200) as pool:
        reading = [pool.submit(read, number) for number in range(200)]
        everyone.wait()
        go_on.set()
        assert all(future.result() for future in reading)
    assert len(origin.requests("/a")) == 1


def test_who_joins_a_fetch_is_told_so(api: Api, origin: Origin, go_on: threading.Event) -> None:
    """RFC 9211 section 2.6: the exchange with the origin was begun for another message."""
    origin.serve("/a", Stall(Resource(BODY), LANDED, go_on))
    with api.dial("GET", door(origin)) as first, api.dial("GET", door(origin)) as second:
        assert first.fields["cache-status"] == "forebay; fwd=uri-miss; stored"
        assert second.fields["cache-status"] == "forebay; fwd=uri-miss; stored; collapsed"


def test_a_slow_reader_holds_up_nobody(api: Api, origin: Origin) -> None:
    """Neither the fetch nor another reader; and it has its bytes in its own time."""
    body = blob(40_000_000)
    gate = threading.Semaphore(1)
    origin.serve("/a", Drip(Resource(body), 20_000_000, gate))
    with api.dial("GET", door(origin), receive_buffer=4096) as slow:
        assert slow.read(1) == body[:1]
        gate.release()
        assert api.get(slow.fields["content-location"]).body == body
        assert api.get(door(origin)).fields["cache-status"].startswith("forebay; hit")
        assert slow.rest() == body[1:]
    assert len(origin.requests("/a")) == 1


@PROC
def test_who_goes_leaves_nothing_behind(api: Api, origin: Origin, go_on: threading.Event) -> None:
    """Readers that vanish in the middle: their files are closed, of what lands and of what is stored."""
    origin.serve("/a", Stall(Resource(BODY), LANDED, go_on))
    origin.serve("/b", Resource(blob(50_000_000)))
    stored = api.store(origin.url("/b"))
    for _ in range(20):
        with api.dial("GET", door(origin)) as coming, api.dial("GET", stored) as other:
            assert coming.read(1000) == BODY[:1000]
            other.read(1)
    names = (hashlib.sha256(blob(50_000_000)).hexdigest(), "part", "mark")

    def held() -> list[str]:
        processes = api_processes(api.served.process.pid)
        return [name for process in processes for name in process.descriptors() if name.endswith(names)]

    until = threading.Event()
    for _ in range(600):  # nobody tells when a server has noticed
        if not held():
            break
        until.wait(0.05)
    assert held() == []
    with api.dial("GET", door(origin)) as coming:  # the fetch goes on all the same
        go_on.set()
        assert coming.rest() == BODY


# --- when it goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_a_fetch_that_fails_breaks_its_readers_off(
    api: Api, origin: Origin, go_on: threading.Event, pool: ThreadPoolExecutor, version: str
) -> None:
    """With a length they have too few bytes; never a short success. Who waits for bytes that never landed is told
    why, as is who comes later."""
    origin.serve("/a", Sequence(CutAfter(Resource(BODY), LANDED, go_on), Status(404)))
    with api.dial("GET", door(origin), version=version) as coming:
        assert coming.read(LANDED) == BODY[:LANDED]
        place = coming.fields["content-location"]
        with api.dial("GET", place, version=version) as other:
            assert other.read(LANDED) == BODY[:LANDED]
            tails = [
                pool.submit(api.ask, "GET", target, ("Range", value), version=version)
                for target in (place, door(origin))
                for value in ("bytes=-9", f"bytes={LANDED}-{LANDED + 9},-9")
            ]
            go_on.set()
            assert is_void(coming, BODY)
            assert is_void(other, BODY)
    assert {problem(tail.result()) for tail in tails} == {(502, "origin_status")}
    assert problem(api.get(place)) == (502, "origin_status")


@pytest.mark.parametrize("then", [Status(503), FailFirst(Resource(BODY), 100)], ids=["busy", "down"])
def test_a_fetch_that_may_be_resumed_some_day_breaks_its_readers_off(
    serve: Serve, origin: Origin, go_on: threading.Event, then: Any
) -> None:
    """What has landed of it is kept, but nobody goes on with it now; the next one who asks does."""
    resource = Resource(BODY)
    origin.serve("/a", Sequence(CutAfter(resource, LANDED, go_on), then))
    api = Api(serve(env={"FOREBAY_MAX_ATTEMPTS": "2"}))
    with api.dial("GET", door(origin)) as coming:
        assert coming.read(LANDED) == BODY[:LANDED]
        with api.dial("GET", coming.fields["content-location"]) as other:
            assert other.read(LANDED) == BODY[:LANDED]
            go_on.set()
            assert is_void(coming, BODY)
            assert is_void(other, BODY)
    origin.serve("/a", resource)
    assert api.get(door(origin)).body == BODY
    assert origin.requests("/a")[-1].fields["range"] == f"bytes={LANDED}-"


def test_a_body_in_chunks_that_fails_has_no_end(api: Api, origin: Origin, go_on: threading.Event) -> None:
    """The last chunk never comes."""
    origin.serve("/a", Sequence(InChunks(BODY, LANDED, go_on, cut=True), Status(404)))
    with api.dial("GET", door(origin)) as coming:
        assert coming.read(LANDED) == BODY[:LANDED]
        go_on.set()
        assert is_void(coming, BODY)


def test_who_has_no_head_yet_is_told_why(
    api: Api, origin: Origin, pool: ThreadPoolExecutor, go_on: threading.Event
) -> None:
    """A fetch that fails before its first byte is a 502 to all who wait for it."""
    held = origin.serve("/a", Held(Status(404)))
    waiting = [pool.submit(api.get, door(origin)) for _ in range(5)]
    held.arrived()
    (made,) = api.json("GET", f"/v1/request/?url={origin.url('/a')}")
    latest = api.json("GET", f"/v1/request/{made['id']}/response/latest")
    place = f"/v1/request/{made['id']}/response/v/{latest['version']}/content"
    waiting += [pool.submit(api.get, place) for _ in range(5)]
    held.release()
    assert {problem(future.result()) for future in waiting} == {(502, "origin_status")}


def test_who_has_no_head_yet_gets_the_last_good_version(
    api: Api, origin: Origin, go_on: threading.Event, let_pass: Callable[..., None], pool: ThreadPoolExecutor
) -> None:
    """Marked as stale; who follows what lands of the new one is broken off instead."""
    origin.serve("/a", Resource(BODY))
    first = api.get(door(origin))
    let_pass(api.served, 86_400.0)
    failing = CutAfter(Resource(OTHER, etag='"v2"'), LANDED, go_on)
    origin.serve("/a", Sequence(failing, Status(404)))
    with api.dial("GET", door(origin)) as coming:
        assert coming.read(LANDED) == OTHER[:LANDED]
        verified = pool.submit(api.get, f"{door(origin)}?forebay-verified=1")
        go_on.set()
        assert is_void(coming, OTHER)
    stale = verified.result()
    assert (stale.status, stale.body == BODY, stale.fields["etag"]) == (200, True, first.fields["etag"])
    assert "detail=origin_status" in stale.fields["cache-status"]


def test_an_origin_that_changes_midway_mixes_nothing(api: Api, origin: Origin, go_on: threading.Event) -> None:
    """Readers of what was given up are broken off; who resumes with its ETag gets all of the new one, while that
    lands and when it is there."""
    new = threading.Event()
    first, second = Resource(BODY, etag='"a"'), Resource(OTHER, etag='"b"')
    origin.serve("/a", Sequence(CutAfter(first, LANDED, go_on), Stall(second, LANDED + 1000, new)))
    with api.dial("GET", door(origin)) as old:
        assert old.read(LANDED) == BODY[:LANDED]
        go_on.set()
        assert is_void(old, BODY)
    resumed = (("Range", f"bytes={LANDED}-"), ("If-Range", old.fields["etag"]))
    with api.dial("GET", door(origin), *resumed) as coming:
        assert coming.status == 200
        assert coming.read(LANDED + 1000) == OTHER[: LANDED + 1000]
        new.set()
        assert coming.rest() == OTHER[LANDED + 1000 :]
    assert coming.fields["etag"] != old.fields["etag"]
    place = coming.fields["content-location"]
    assert place == old.fields["content-location"]
    after = api.get(place, *resumed)
    assert (after.status, after.body == OTHER, after.fields["etag"]) == (200, True, coming.fields["etag"])
    part = api.get(place, ("Range", "bytes=-9"), ("If-Range", coming.fields["etag"]))
    assert (part.status, part.body) == (206, OTHER[-9:])
    assert [seen.fields.get("if-range") for seen in origin.requests("/a")] == [None, '"a"']


def test_what_is_not_as_expected_is_no_success_to_anybody(
    api: Api, origin: Origin, go_on: threading.Event, pool: ThreadPoolExecutor
) -> None:
    """Another process on the folder fetches it with an expectation; who follows that has not the last byte when
    it turns out to be wrong."""
    for path, behaviour in (("/a", Stall(Resource(BODY), LANDED, go_on)), ("/b", InChunks(BODY, LANDED, go_on))):
        origin.serve(path, behaviour)
    embedded = forebay.open(api.served.folder, allow_private=True, max_attempts=1, max_downloads_per_host=2)
    with embedded as bay, ExitStack() as stack:
        fetching = [pool.submit(bay.fetch, origin.url(path), sha256="0" * 64) for path in ("/a", "/b")]
        origin.wait_for(1, "/a")
        origin.wait_for(1, "/b")
        readers = [stack.enter_context(api.dial("GET", door(origin, path))) for path in ("/a", "/b")]
        for coming in readers:
            assert coming.read(LANDED) == BODY[:LANDED]
        go_on.set()
        for future in fetching:
            with pytest.raises(HashMismatch):
                future.result()
        assert [is_void(coming, BODY) for coming in readers if coming.length is not None] == [True]
        with pytest.raises(Cut):
            readers[1].rest()
    assert api.get(door(origin)).body == BODY


@pytest.mark.skipif("HTTP2" not in _curl_features(), reason="needs a curl with HTTP/2")
def test_over_http_2_a_cut_is_a_broken_stream(
    serve: Serve, origin: Origin, go_on: threading.Event, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """RFC 9113 section 8.1.1: malformed, with a length or without; what ends well is whole."""
    cert, key = certificate
    served = serve("--tls-cert", str(cert), "--tls-key", str(key), env={"FOREBAY_MAX_ATTEMPTS": "1"}, wait=False)
    url = served.wait(ready=False).url
    behaviours = {
        "/a": Stall(Resource(BODY), LANDED, go_on),
        "/b": InChunks(BODY, LANDED, go_on),
        "/c": Sequence(CutAfter(Resource(BODY), LANDED, go_on), Status(404)),
        "/d": Sequence(InChunks(BODY, LANDED, go_on, cut=True), Status(404)),
    }
    readers = {}
    for path, behaviour in behaviours.items():
        origin.serve(path, behaviour)
        out = tmp_path / path.strip("/")
        argv = ["curl", "-q", "-sS", "--noproxy", "*", "--http2", "--cacert", str(cert), "-w", "%{http_version}"]
        argv += ["-N", "-o", str(out), f"{url}/r/{origin.url(path)}"]
        readers[path] = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL), out
    try:
        for _, out in readers.values():
            while not out.exists() or out.stat().st_size < LANDED:
                threading.Event().wait(0.02)  # a file cannot be waited for
        go_on.set()
        ends = {path: (curl.communicate(timeout=60)[0], curl.returncode) for path, (curl, _) in readers.items()}
    finally:
        for curl, _ in readers.values():
            curl.kill()
            curl.communicate()
    assert ends == {"/a": (b"2", 0), "/b": (b"2", 0), "/c": (b"2", 92), "/d": (b"2", 92)}
    assert [out.read_bytes() == BODY for _, out in readers.values()] == [True, True, False, False]


# --- when who fetches goes -----------------------------------------------------------------------------------


@PROC
def test_readers_go_on_when_who_fetches_is_killed(
    serve: Serve, origin: Origin, go_on: threading.Event, pool: ThreadPoolExecutor
) -> None:
    """Another one takes over from what has landed: one byte after the other, to the right end."""
    api = Api(serve("--workers", "2"))
    origin.serve("/a", Stall(Resource(BODY), LANDED, go_on, times=1))
    place = begun(api, origin)
    with ExitStack() as stack:
        targets = [door(origin), place, place, door(origin)] * 3
        readers = [stack.enter_context(api.dial("GET", target)) for target in targets]
        assert all(coming.read(LANDED) == BODY[:LANDED] for coming in readers)
        tail = pool.submit(api.get, place, ("Range", "bytes=-9"))
        os.kill(fetch_worker(api.served.process.pid).pid, signal.SIGKILL)
        assert all(coming.rest() == BODY[LANDED:] for coming in readers)
        assert tail.result().body == BODY[-9:]
    _, second = origin.requests("/a")
    assert second.fields["range"] == f"bytes={LANDED}-"
    after = api.get(place)
    assert (after.body == BODY, after.fields["etag"]) == (True, readers[0].fields["etag"])


@PROC
def test_who_waits_for_the_first_byte_waits_on_when_who_fetches_is_killed(
    serve: Serve, origin: Origin, pool: ThreadPoolExecutor
) -> None:
    """Nothing has landed by then: the fetch begins anew."""
    api = Api(serve("--workers", "2"))
    held = Held(Resource(BODY))
    origin.serve("/a", held)
    waiting = [pool.submit(api.get, door(origin)) for _ in range(8)]
    held.arrived()
    os.kill(fetch_worker(api.served.process.pid).pid, signal.SIGKILL)
    held.arrived(2)
    held.release()
    assert all(future.result().body == BODY for future in waiting)


def test_a_fetch_that_its_process_has_left_is_gone_on_with(
    api: Api, origin: Origin, go_on: threading.Event, tmp_path: Path
) -> None:
    """Its Request is not due for hours: who reads that version is reason enough."""
    origin.serve("/a", Resource(BODY))
    api.store(origin.url("/a"))
    origin.serve("/a", Stall(Resource(OTHER, etag='"v2"'), LANDED, go_on, times=1))
    bay = forebay.open(api.served.folder, allow_private=True)
    with ThreadPoolExecutor() as pool:
        fetching = pool.submit(bay.fetch, origin.url("/a"), refresh="always")
        origin.wait_for(2, "/a")
        (made,) = api.json("GET", f"/v1/request/?url={origin.url('/a')}")
        latest = api.json("GET", f"/v1/request/{made['id']}/response/latest")
        with api.dial("GET", f"/v1/request/{made['id']}/response/v/{latest['version']}/content") as coming:
            assert coming.read(LANDED) == OTHER[:LANDED]
            bay.close()
            with pytest.raises(forebay.ForebayError):
                fetching.result()
            whole = api.get(f"/v1/request/{made['id']}/response/v/{latest['version']}/content")
            assert (whole.status, whole.body == OTHER) == (200, True)
            assert coming.rest() == OTHER[LANDED:]


def test_readers_go_on_when_another_process_on_the_folder_is_killed(
    api: Api, origin: Origin, go_on: threading.Event, spawn: Callable[..., Any]
) -> None:
    """One that fetched for itself: whoever reads from the server has it gone on with."""
    origin.serve("/a", Resource(BODY))
    api.store(origin.url("/a"))  # so that it is not due, and nobody else would go on with it
    origin.serve("/a", Stall(Resource(OTHER, etag='"v2"'), LANDED, go_on, times=1))
    child = spawn(
        "import forebay; forebay.open(ask['folder'], allow_private=True).fetch(ask['url'], refresh='always')",
        folder=api.served.folder,
        url=origin.url("/a"),
    )
    origin.wait_for(2, "/a")
    (made,) = api.json("GET", f"/v1/request/?url={origin.url('/a')}")
    latest = api.json("GET", f"/v1/request/{made['id']}/response/latest")
    place = f"/v1/request/{made['id']}/response/v/{latest['version']}/content"
    with api.dial("GET", place) as coming, api.dial("GET", place, ("Range", "bytes=1000-")) as other:
        assert coming.read(LANDED) == OTHER[:LANDED]
        child.kill()
        assert coming.rest() == OTHER[LANDED:]
        assert other.rest() == OTHER[1000:]


def test_two_servers_on_one_folder_fetch_once(serve: Serve, origin: Origin, go_on: threading.Event) -> None:
    """Who reads from the one follows what the other one fetches."""
    apis = [Api(serve()), Api(serve())]
    origin.serve("/a", Stall(Resource(BODY), LANDED, go_on))
    with apis[0].dial("GET", door(origin)) as first, apis[1].dial("GET", door(origin)) as second:
        assert first.read(LANDED) == second.read(LANDED) == BODY[:LANDED]
        assert first.fields["etag"] == second.fields["etag"]
        go_on.set()
        assert first.rest() == second.rest() == BODY[LANDED:]
    assert len(origin.requests("/a")) == 1
