"""The origin of our tests does on the wire what it says.

Raw sockets look at the bytes, curl shows what a real client makes of them.
"""

import gzip
import http.client
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from origin import (
    Busy,
    ChangeValidator,
    Chunked,
    CloseDelimited,
    Coded,
    CutEvery,
    Drip,
    Exchange,
    FailFirst,
    Garbage,
    Held,
    HugeHead,
    IgnoreRange,
    Interim,
    LengthAndChunks,
    LengthLie,
    Origin,
    Redirect,
    RedirectLoop,
    Resource,
    Sequence,
    Stall,
    Status,
    TwoLengths,
    WrongRange,
    blob,
    http_date,
)

BODY = blob(1000)
MODIFIED = "Wed, 01 Jul 2026 10:00:00 GMT"
# curl's exit codes (curl(1), EXIT CODES).
PARTIAL, EMPTY_ANSWER, TOO_MANY_REDIRECTS, RECV_ERROR, BAD_CHUNK = 18, 52, 47, 56, 56


def dial(origin: Origin) -> socket.socket:
    return socket.create_connection((origin.host, origin.port))


def ask(sock: socket.socket, path: str, *fields: str, method: str = "GET", body: bytes = b"") -> None:
    lines = [f"{method} {path} HTTP/1.1", "Host: origin", *fields, "", ""]
    sock.sendall("\r\n".join(lines).encode() + body)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def talk(origin: Origin, path: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Everything that comes over one connection until its end."""
    with dial(origin) as sock:
        ask(sock, path, "Connection: close", *fields, method=method, body=body)
        return read_all(sock)


def fetch(
    origin: Origin, path: str, *fields: str, method: str = "GET", body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Status, fields (lower case) and everything behind the head."""
    head, _, rest = talk(origin, path, *fields, method=method, body=body).partition(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return int(start.split()[1]), {name.lower(): value for name, value in pairs}, rest


def curl(origin: Origin, path: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["curl", "--silent", "--noproxy", "*", "--max-time", "20", *options, origin.url(path)],
        capture_output=True,
        check=False,
    )


# --- the honest resource


@pytest.mark.parametrize(
    ("fields", "status", "content_range", "body"),
    [
        ((), 200, None, BODY),
        (("Range: bytes=100-",), 206, "bytes 100-999/1000", BODY[100:]),
        (("Range: bytes=100-199",), 206, "bytes 100-199/1000", BODY[100:200]),
        (("Range: bytes=900-5000",), 206, "bytes 900-999/1000", BODY[900:]),
        (("Range: bytes=-10",), 206, "bytes 990-999/1000", BODY[990:]),
        (("Range: bytes=1000-",), 416, "bytes */1000", b""),
        (("Range: bytes=0-1,5-6",), 200, None, BODY),
        (("Range: bytes=5-1",), 200, None, BODY),
        (("Range: lines=1-2",), 200, None, BODY),
        (("Range: bytes=100-", 'If-Range: "v1"'), 206, "bytes 100-999/1000", BODY[100:]),
        (("Range: bytes=100-", 'If-Range: "v0"'), 200, None, BODY),
        (("Range: bytes=100-", 'If-Range: W/"v1"'), 200, None, BODY),
        (
            ("Range: bytes=100-", f"If-Range: {MODIFIED}"),
            206,
            "bytes 100-999/1000",
            BODY[100:],
        ),
        (("Range: bytes=100-", "If-Range: Wed, 01 Jul 2026 10:00:01 GMT"), 200, None, BODY),
        (('If-None-Match: "v1"',), 304, None, b""),
        (('If-None-Match: "a", W/"v1"',), 304, None, b""),
        (("If-None-Match: *",), 304, None, b""),
        (('If-None-Match: "v0"', "If-Modified-Since: Thu, 01 Jan 2032 00:00:00 GMT"), 200, None, BODY),
        ((f"If-Modified-Since: {MODIFIED}",), 304, None, b""),
        (("If-Modified-Since: Wed, 01 Jul 2026 09:59:59 GMT",), 200, None, BODY),
        (("If-Modified-Since: yesterday",), 200, None, BODY),
        (('If-Match: "v0"',), 412, None, b""),
        (("If-Unmodified-Since: Wed, 01 Jul 2026 09:59:59 GMT",), 412, None, b""),
    ],
)
def test_resource_keeps_rfc_9110(
    origin: Origin, fields: tuple[str, ...], status: int, content_range: str | None, body: bytes
) -> None:
    """Ranges and preconditions get the answer of RFC 9110 sections 13 and 14."""
    origin.serve("/a", Resource(BODY, last_modified=parsedate_to_datetime(MODIFIED)))
    got, answered, rest = fetch(origin, "/a", *fields)
    assert (got, answered.get("content-range"), rest) == (status, content_range, body)
    assert answered.get("content-length") == (None if status == 304 else str(len(body)))
    if status in {200, 206, 304}:
        assert answered["etag"] == '"v1"'


def test_resource_changes_and_counts(origin: Origin) -> None:
    """A changed resource answers by its new representation, and its counters tell what was asked."""
    resource = origin.serve("/a", Resource(b"one"))
    assert fetch(origin, "/a")[2] == b"one"
    resource.change(b"second", etag='"v2"')
    status, fields, rest = fetch(origin, "/a", method="HEAD")
    assert (status, fields["content-length"], fields["etag"], rest) == (200, "6", '"v2"', b"")
    assert fetch(origin, "/a", 'If-None-Match: "v1"')[2] == b"second"
    assert fetch(origin, "/a", 'If-None-Match: "v2"')[0] == 304
    assert (resource.gets, resource.heads, resource.not_modified, resource.bytes_sent) == (3, 1, 1, 9)


def test_without_ranges(origin: Origin) -> None:
    """A resource without ranges says so and answers with the whole."""
    origin.serve("/a", Resource(BODY, accept_ranges=False, etag=None))
    status, fields, rest = fetch(origin, "/a", "Range: bytes=1-")
    assert (status, fields["accept-ranges"], rest) == (200, "none", BODY)
    assert "etag" not in fields


# --- the log


def test_requests_are_logged(origin: Origin) -> None:
    """A request is logged with method, path, query, fields and body, chunked or not."""
    origin.serve("/a", Resource(lambda seen: seen.body.upper()))
    sent = ("X-Two: 1", "x-two: 2", "Content-Length: 3")
    assert fetch(origin, "/a?x=%20", *sent, method="POST", body=b"abc")[2] == b"ABC"
    chunks = b"2\r\nde\r\n1;x=y\r\nf\r\n0\r\nT: 1\r\n\r\n"
    fetch(origin, "/a", "Transfer-Encoding: chunked", method="PUT", body=chunks)
    first, second = origin.requests("/a")
    assert (first.method, first.path, first.query, first.body) == ("POST", "/a", "x=%20", b"abc")
    assert (first.fields["X-TWO"], first.fields.all("x-Two")) == ("1, 2", ["1", "2"])
    assert "Range" not in first.fields
    assert (second.body, second.number, second.connection) == (b"def", 2, 2)
    assert fetch(origin, "/nobody")[0] == 404
    assert [seen.method for seen in origin.log] == ["POST", "PUT", "GET"]


def test_large_upload_of_curl_is_continued(origin: Origin, tmp_path: Path) -> None:
    """A client that expects 100 (Continue) gets it before its body is read."""
    origin.serve("/a", Resource(b"thanks"))
    (tmp_path / "body").write_bytes(blob(2_000_000))
    done = curl(
        origin, "/a", "-T", str(tmp_path / "body"), "--expect100-timeout", "15", "-H", "Expect: 100-continue"
    )
    assert (done.returncode, done.stdout) == (0, b"thanks")
    assert origin.requests("/a")[0].body == blob(2_000_000)


def test_wait_for(origin: Origin) -> None:
    """wait_for returns once enough was seen, and names what it saw when it gives up."""
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(origin.wait_for, 2, "/a")
        fetch(origin, "/a")
        fetch(origin, "/a")
        assert len(later.result()) == 2
    assert origin.wait_for(lambda seen: any(s.path == "/a" for s in seen))
    with pytest.raises(TimeoutError, match="GET /a"):
        origin.wait_for(3, "/a", timeout=0)


# --- connections


def test_keep_alive_of_64_connections(origin: Origin) -> None:
    """64 connections at once stay open over several requests each."""
    held = origin.serve("/held", Held(Resource(b"x")))
    origin.serve("/a", Resource(BODY))

    def client() -> list[bytes]:
        connection = http.client.HTTPConnection(origin.host, origin.port)
        bodies = []
        for path in ("/held", "/a", "/a"):
            connection.request("GET", path)
            bodies.append(connection.getresponse().read())
        connection.close()
        return bodies

    with ThreadPoolExecutor(64) as pool:
        clients = [pool.submit(client) for _ in range(64)]
        held.arrived(64)
        assert origin.open_connections == 64
        held.release()
        assert all(done.result() == [b"x", BODY, BODY] for done in clients)
    assert origin.connections == 64
    assert {seen.connection for seen in origin.requests("/a")} == set(range(1, 65))


def test_close_connections(origin: Origin) -> None:
    """close_connections ends idle and stalled connections; new ones are served."""
    stall = origin.serve("/stall", Stall(Resource(BODY), 10, threading.Event()))
    with dial(origin) as idle, dial(origin) as stalled:
        ask(stalled, "/stall")
        assert stall.reached.wait(30)
        ask(idle, "/nobody")
        assert idle.recv(1) == b"H"
        origin.close_connections()
        assert read_all(stalled).endswith(b"\r\n\r\n" + BODY[:10])
        assert read_all(idle).startswith(b"TTP/1.1 404 ")
    assert fetch(origin, "/nobody")[0] == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_stop_and_start(host: str) -> None:
    """A stopped origin refuses connections, and comes back at the same URL."""
    with Origin(host) as origin:
        origin.serve("/a", Resource(BODY))
        url = origin.url("/a")
        for _ in range(3):
            assert curl(origin, "/a").stdout == BODY
            with dial(origin) as idle:
                ask(idle, "/a")
                origin.wait_for(1)
                origin.stop()
                with pytest.raises(ConnectionRefusedError):
                    dial(origin)
            origin.start()
            assert origin.url("/a") == url
        assert fetch(origin, "/a")[2] == BODY


def test_stop_ends_every_wait_and_thread() -> None:
    """Stopping joins threads that stall, wait at a gate, or send to a client that does not read."""
    before = set(threading.enumerate())
    with Origin() as origin:
        held = origin.serve("/held", Held(Resource(BODY)))
        origin.serve("/drip", Drip(Resource(BODY), 1, threading.Semaphore(0)))
        origin.serve("/big", Resource(blob(20_000_000)))
        with dial(origin) as one, dial(origin) as two, dial(origin) as three:
            ask(one, "/held")
            ask(two, "/drip")
            ask(three, "/big")
            held.arrived()
            assert two.recv(1) == three.recv(1) == b"H"
            origin.stop()
            assert set(threading.enumerate()) == before


def test_failing_behaviour_fails_the_test() -> None:
    """What a behaviour raises comes out when the origin stops; a vanished client does not."""

    def broken(_: Exchange) -> None:
        raise LookupError("a bug in the test")

    with pytest.raises(LookupError, match="a bug in the test"), Origin() as origin:
        origin.serve("/a", broken)
        origin.serve("/big", Resource(blob(20_000_000)))
        with dial(origin) as sock:
            ask(sock, "/big")
            sock.recv(1)
        assert talk(origin, "/a") == b""


def test_nothing_leaks() -> None:
    """Under -W error an origin that was used, stopped and closed leaves no open socket."""
    code = """
import gc, sys, urllib.request
sys.path.insert(0, "tests")
from origin import *
with Origin() as origin:
    origin.serve("/a", Resource(b"hello"))
    assert urllib.request.urlopen(origin.url("/a")).read() == b"hello"
    origin.stop()
    origin.start()
gc.collect()
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- cuts and bad days


@pytest.mark.parametrize(("how", "code"), [("fin", PARTIAL), ("rst", RECV_ERROR)])
def test_cut_every(origin: Origin, tmp_path: Path, how: str, code: int) -> None:
    """Every connection is cut after its allowance, and who resumes gets the whole body in the end."""
    body = blob(700_000)
    cut = origin.serve("/a", CutEvery(Resource(body), 200_000, how))  # type: ignore[arg-type]
    target = tmp_path / "a"
    codes, sizes = [], []
    for _ in range(4):
        codes.append(curl(origin, "/a", "-C", "-", "-o", str(target)).returncode)
        sizes.append(target.stat().st_size)
    assert codes == [code, code, code, 0]
    assert sizes == [200_000, 400_000, 600_000, 700_000]
    assert target.read_bytes() == body
    assert [seen.fields.get("range") for seen in origin.requests("/a")] == [
        None,
        "bytes=200000-",
        "bytes=400000-",
        "bytes=600000-",
    ]
    assert (cut.cuts, cut.resource.bytes_sent) == (3, 700_000)


def test_cut_every_counts_a_kept_connection(origin: Origin) -> None:
    """Small answers share the allowance of their connection."""
    origin.serve("/a", CutEvery(Resource(BODY), 1500))
    connection = http.client.HTTPConnection(origin.host, origin.port)
    connection.request("GET", "/a")
    assert connection.getresponse().read() == BODY
    connection.request("GET", "/a")
    with pytest.raises(http.client.IncompleteRead) as cut:
        connection.getresponse().read()
    assert cut.value.partial == BODY[:500]
    connection.close()


def test_fail_first(origin: Origin) -> None:
    """The first requests fail as told, the next is answered."""
    origin.serve("/rst", FailFirst(Resource(BODY), 1, "rst"))
    origin.serve("/fin", FailFirst(Resource(BODY), 1, "fin"))
    origin.serve("/500", FailFirst(Resource(BODY), 2, 500))
    with pytest.raises(ConnectionResetError):
        talk(origin, "/rst")
    assert talk(origin, "/fin") == b""
    assert [fetch(origin, "/500")[0] for _ in range(2)] == [500, 500]
    assert [fetch(origin, path)[2] for path in ("/rst", "/fin", "/500")] == [BODY] * 3


def test_busy() -> None:
    """Retry-After comes as seconds, as a date by the injected clock, from a callable, or not at all."""
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with Origin(clock=lambda: now) as origin:
        resource = Resource(BODY)
        origin.serve("/none", Busy(resource, 1))
        origin.serve("/seconds", Busy(resource, 1, 503, "2"))
        origin.serve("/date", Busy(resource, 1, 429, "date", delay_s=7, date=now + timedelta(days=1)))
        origin.serve("/call", Busy(resource, 2, 429, iter(["1", "soon"]).__next__))
        status, fields, _ = fetch(origin, "/none")
        assert (status, "retry-after" in fields) == (429, False)
        status, fields, _ = fetch(origin, "/seconds")
        assert (status, fields["retry-after"], fields["date"]) == (503, "2", http_date(now))
        fields = fetch(origin, "/date")[1]
        assert parsedate_to_datetime(fields["retry-after"]) == now + timedelta(seconds=7)
        assert parsedate_to_datetime(fields["date"]) == now + timedelta(days=1)
        assert [fetch(origin, "/call")[1]["retry-after"] for _ in range(2)] == ["1", "soon"]
        assert [fetch(origin, path)[0] for path in ("/none", "/seconds", "/date", "/call")] == [200] * 4


def test_stall(origin: Origin) -> None:
    """A stalled answer stands after so many bytes until the event, and then goes on."""
    event = threading.Event()
    stall = origin.serve("/a", Stall(Resource(BODY), 10, event, times=1))
    with dial(origin) as sock:
        ask(sock, "/a", "Connection: close")
        assert stall.reached.wait(30)
        assert talk(origin, "/a").endswith(BODY)  # another request is not stalled
        seen = b""
        while not seen.endswith(b"\r\n\r\n" + BODY[:10]):
            seen += sock.recv(65536)
        event.set()
        assert read_all(sock) == BODY[10:]


def test_drip(origin: Origin) -> None:
    """A dripping body comes piece by piece as the test opens the gate."""
    gate = threading.Semaphore(0)
    origin.serve("/a", Drip(Resource(b"abcdefg"), 3, gate))
    connection = http.client.HTTPConnection(origin.host, origin.port)
    connection.request("GET", "/a")
    response = connection.getresponse()  # the head is there before any piece
    for piece in (b"abc", b"def", b"g"):
        gate.release()
        assert response.read(len(piece)) == piece
    connection.close()


def test_held(origin: Origin) -> None:
    """Held requests are counted on arrival and answered after release."""
    held = origin.serve("/a", Held(Resource(BODY)))
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(talk, origin, "/a") for _ in range(3)]
        held.arrived(3)
        assert not any(one.done() for one in waiting)
        with pytest.raises(TimeoutError):
            held.arrived(4, timeout=0)
        held.release()
        assert all(one.result().endswith(BODY) for one in waiting)


def test_sequence(origin: Origin) -> None:
    """The n-th request gets the n-th behaviour, the last one for ever."""
    origin.serve("/a", Sequence(Status(500), Garbage(b""), Status(204, fields=[("X-A", "b")])))
    assert fetch(origin, "/a")[0] == 500
    assert curl(origin, "/a").returncode == EMPTY_ANSWER
    assert [fetch(origin, "/a")[0] for _ in range(3)] == [204] * 3


# --- lies about ranges and validators


def test_ignore_range(origin: Origin) -> None:
    """The whole comes with 200 whatever is asked, after a first answer that was cut."""
    origin.serve("/a", IgnoreRange(Resource(BODY), cut_first=300))
    _, fields, rest = fetch(origin, "/a")
    assert (fields["content-length"], fields["accept-ranges"], rest) == ("1000", "bytes", BODY[:300])
    status, _, rest = fetch(origin, "/a", "Range: bytes=300-")
    assert (status, rest) == (200, BODY)


@pytest.mark.parametrize("honour", [True, False])
def test_change_validator(origin: Origin, honour: bool) -> None:
    """Each GET sees the next representation; one that ignores If-Range sends a part of the new one."""
    new = blob(900, seed=1)
    bodies = [(BODY, '"a"'), (new, '"b"')]
    origin.serve("/a", ChangeValidator(bodies, 400, honour_if_range=honour))
    _, fields, rest = fetch(origin, "/a")
    assert (fields["etag"], fields["content-length"], rest) == ('"a"', "1000", BODY[:400])
    status, fields, rest = fetch(origin, "/a", "Range: bytes=400-", 'If-Range: "a"')
    assert fields["etag"] == '"b"'
    if honour:
        assert (status, rest) == (200, new)
    else:
        assert (status, fields["content-range"], rest) == (206, "bytes 400-899/900", new[400:])


@pytest.mark.parametrize(
    ("lie", "content_range", "body"),
    [
        ({"start_delta": 5}, "bytes 505-999/1000", BODY[505:]),
        ({"start_delta": -500}, "bytes 0-999/1000", BODY),
        ({"last_delta": -100}, "bytes 500-899/1000", BODY[500:900]),
        ({"total_delta": 7}, "bytes 500-999/1007", BODY[500:]),
        ({"total": "*"}, "bytes 500-999/*", BODY[500:]),
        ({"etag": '"other"'}, "bytes 500-999/1000", BODY[500:]),
        ({"missing": True}, None, BODY[500:]),
    ],
)
def test_wrong_range(origin: Origin, lie: dict[str, object], content_range: str | None, body: bytes) -> None:
    """After a cut, 206 lies in the way that was asked for, as often as was asked for."""
    origin.serve("/a", WrongRange(Resource(BODY), times=1, **lie))  # type: ignore[arg-type]
    assert fetch(origin, "/a")[2] == BODY[:500]
    status, fields, rest = fetch(origin, "/a", "Range: bytes=500-", 'If-Range: "v1"')
    assert (status, fields.get("content-range"), rest) == (206, content_range, body)
    assert fields["etag"] == lie.get("etag", '"v1"')
    assert fetch(origin, "/a", "Range: bytes=500-")[1]["content-range"] == "bytes 500-999/1000"
    assert fetch(origin, "/a")[2] == BODY


def test_multipart_for_one_range(origin: Origin) -> None:
    """One range comes wrapped as multipart/byteranges, without Content-Range in the head."""
    origin.serve("/a", WrongRange(Resource(BODY), multipart=True))
    fetch(origin, "/a")
    status, fields, rest = fetch(origin, "/a", "Range: bytes=990-")
    assert (status, fields["content-type"]) == (206, "multipart/byteranges; boundary=FOREBAY")
    assert "content-range" not in fields
    assert b"Content-Range: bytes 990-999/1000\r\n\r\n" + BODY[990:] + b"\r\n--FOREBAY--" in rest


# --- lies about framing


def test_length_lie(origin: Origin) -> None:
    """Short: curl calls it partial. Long: the surplus is on the wire, and may pass for the next answer."""
    origin.serve("/short", LengthLie(BODY, 1100))
    origin.serve("/long", LengthLie(BODY, 900))
    origin.serve("/kept", LengthLie(b"oneHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake", 3, keep=True))
    short = curl(origin, "/short")
    assert (short.returncode, short.stdout) == (PARTIAL, BODY)
    assert fetch(origin, "/long")[2] == BODY
    assert curl(origin, "/long").stdout == BODY[:900]
    with dial(origin) as sock:
        ask(sock, "/kept")
        ask(sock, "/kept", "Connection: close")
        assert read_all(sock).count(b"fake") == 2


def test_two_lengths(origin: Origin) -> None:
    """Two Content-Length fields are on the wire, in the order given."""
    origin.serve("/a", TwoLengths(BODY, 1000, 999))
    raw = talk(origin, "/a")
    assert b"Content-Length: 1000\r\nContent-Length: 999\r\n" in raw
    assert raw.endswith(BODY)


def test_length_and_chunks(origin: Origin) -> None:
    """Both framings are named; the chunks are right."""
    origin.serve("/a", LengthAndChunks(BODY, 10))
    raw = talk(origin, "/a")
    assert b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" in raw
    assert curl(origin, "/a").stdout == BODY


def test_chunked(origin: Origin) -> None:
    """Chunks come in the sizes asked for, with a trailer, and the connection stays."""
    origin.serve("/a", Chunked(b"abcdefg", [3, 1], [("X-Sum", "7")]))
    head, _, rest = talk(origin, "/a").partition(b"\r\n\r\n")
    assert b"Trailer: X-Sum" in head
    assert rest == b"3\r\nabc\r\n1\r\nd\r\n3\r\nefg\r\n0\r\nX-Sum: 7\r\n\r\n"
    connection = http.client.HTTPConnection(origin.host, origin.port)
    for _ in range(2):
        connection.request("GET", "/a")
        assert connection.getresponse().read() == b"abcdefg"
    connection.close()
    assert origin.connections == 2


def test_chunked_cut_and_bad(origin: Origin) -> None:
    """A cut inside a chunk, behind the last one, and a chunk size that is none."""
    origin.serve("/inside", Chunked(b"abcdefg", 4, cut_after=5))
    origin.serve("/behind", Chunked(b"abcdefg", 4, cut_after=7))
    origin.serve("/bad", Chunked(b"abcdefg", 4, bad_chunk=True))
    assert talk(origin, "/inside").endswith(b"\r\n\r\n4\r\nabcd\r\n3\r\ne")
    assert talk(origin, "/behind").endswith(b"\r\n\r\n4\r\nabcd\r\n3\r\nefg\r\n")
    assert curl(origin, "/inside").returncode == PARTIAL
    assert curl(origin, "/behind").returncode == PARTIAL
    assert curl(origin, "/bad").returncode == BAD_CHUNK


def test_close_delimited(origin: Origin) -> None:
    """A body without a length ends with the connection: a cut looks like the end by FIN, not by RST."""
    origin.serve("/a", CloseDelimited(BODY))
    origin.serve("/fin", CloseDelimited(BODY, "HTTP/1.1", cut_after=9))
    origin.serve("/rst", CloseDelimited(BODY, cut_after=9, how="rst"))
    raw = talk(origin, "/a")
    assert raw.startswith(b"HTTP/1.0 200 OK\r\n")
    assert raw.endswith(b"\r\n\r\n" + BODY)
    done = curl(origin, "/fin")
    assert (done.returncode, done.stdout) == (0, BODY[:9])
    done = curl(origin, "/rst")
    assert (done.returncode, done.stdout) == (RECV_ERROR, BODY[:9])


@pytest.mark.parametrize(("coding", "decode"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_coded(origin: Origin, coding: str, decode: Callable[[bytes], bytes]) -> None:
    """The body is compressed although identity was asked for, and its length is the coded one."""
    coded = origin.serve("/a", Coded(b"a" * 1000, coding))  # type: ignore[arg-type]
    _, fields, rest = fetch(origin, "/a", "Accept-Encoding: identity")
    assert (fields["content-encoding"], rest) == (coding, coded.coded)
    assert decode(rest) == b"a" * 1000


# --- heads


@pytest.mark.parametrize(("total", "line"), [(200_000, 4000), (200_001, 4000), (90_000, 90_000)])
def test_huge_head(origin: Origin, total: int, line: int) -> None:
    """The filler is exactly as long as asked for, in lines or in one."""
    origin.serve("/a", HugeHead(total, line, then=Resource(BODY)))
    head, _, rest = talk(origin, "/a").partition(b"\r\n\r\n")
    filler = [one for one in head.split(b"\r\n") if one.startswith(b"X-Filler")]
    assert sum(len(one) + 2 for one in filler) == total
    assert len(filler) == total // line
    assert rest == BODY


def test_interim(origin: Origin) -> None:
    """Interim responses precede the answer; curl skips them."""
    origin.serve("/a", Interim(Resource(BODY)))
    raw = talk(origin, "/a")
    assert raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: ")
    done = curl(origin, "/a", "-w", "%{stderr}%{http_code}")
    assert (done.stdout, done.stderr) == (BODY, b"200")


def test_garbage(origin: Origin) -> None:
    """Any bytes can stand in place of a status line."""
    origin.serve("/a", Garbage(b"\x16\x03\x01 SSH-2.0-nonsense\r\n"))
    assert talk(origin, "/a") == b"\x16\x03\x01 SSH-2.0-nonsense\r\n"
    assert curl(origin, "/a").returncode != 0


def test_redirects(origin: Origin) -> None:
    """A redirect leads where it says; a loop leads nowhere, also one whose URL always changes."""
    origin.serve("/a", Resource(BODY))
    origin.serve("/to", Redirect("/a", 307))
    origin.serve("/loop", RedirectLoop())
    origin.serve("/grow", RedirectLoop(grow=True))
    assert curl(origin, "/to", "-L").stdout == BODY
    for path in ("/loop", "/grow"):
        assert curl(origin, path, "-L", "--max-redirs", "3").returncode == TOO_MANY_REDIRECTS
    assert {seen.query for seen in origin.requests("/loop")} == {""}
    assert [seen.query for seen in origin.requests("/grow")] == ["", "n=1", "n=2", "n=3"]


def test_nonsense_gets_400(origin: Origin) -> None:
    """A client that does not speak HTTP gets 400 and is not logged."""
    with dial(origin) as sock:
        sock.sendall(b"EHLO origin\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 400 ")
    assert origin.log == []


def test_blob() -> None:
    """A blob is the same each time, differs by seed, and a shorter one begins a longer one."""
    assert blob(100) == blob(100) == blob(1000)[:100]
    assert blob(100) != blob(100, seed=1)
    assert len(blob(0)) == 0
