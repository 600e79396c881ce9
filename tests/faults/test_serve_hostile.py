"""What no client should send: it is refused with a small answer, and the next one is served as if nothing was.

Everything here is one real server's; behind each test its API process is the same as before, and has said nothing.
"""

import contextlib
import json
import re
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from origin import Origin, Resource, Stall, blob
from processes import PROC, Process, api_processes, open_connections
from raw import Api, Cut, address_of, dial, problem, request

pytestmark = [pytest.mark.faults, PROC]

Serve = Callable[..., Any]
MIB = 1 << 20

HOST = b"Host: localhost\r\n"
LAST = b"Connection: close\r\n\r\n"
FINE = b"GET /healthz HTTP/1.1\r\n" + HOST + LAST
PUT = b"PUT /v1/request/ HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = PUT + b"Transfer-Encoding: chunked\r\n"


@pytest.fixture
def served(shared_server: Any) -> Iterator[Any]:
    """A server that is the same afterwards."""
    before = api_processes(shared_server.process.pid)
    said = shared_server.stderr()
    yield shared_server
    assert statuses(talk(shared_server, FINE)) == [200]
    assert Api(shared_server).get("/readyz").status == 200
    assert api_processes(shared_server.process.pid) == before
    assert shared_server.stderr() == said


@pytest.fixture
def answering(served: Any) -> Process:
    """Its API process, its peak of memory forgotten."""
    (process,) = api_processes(served.process.pid)
    process.forget_peak()
    return process


def connect(served: Any) -> socket.socket:
    sock = socket.create_connection(address_of(served.url), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def talk(served: Any, data: bytes | Iterable[bytes]) -> bytes:
    """Send *data*, as far as the server takes it, and read until it closes."""
    with connect(served) as sock:
        with contextlib.suppress(ConnectionError):
            for piece in [data] if isinstance(data, bytes) else data:
                sock.sendall(piece)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """What comes until the other side closes."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(1 << 16):
            got += piece
    return got


def statuses(answers: bytes) -> list[int]:
    """Those of all answers on a connection."""
    return [int(status) for status in re.findall(rb"(?:\A|(?<=[^\r\n]))HTTP/1\.1 ([0-9]{3}) ", answers)]


def wait_until(what: Callable[[], Any], timeout_s: float = 60) -> None:
    """Until *what* is true: of what the system says of a process, which cannot be waited for."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def what_is_open(process: Process) -> dict[str, int]:
    """But for the catalog: each thread that asks it has a connection of its own, at the latest when it must."""
    return {name: count for name, count in process.descriptors().items() if not name.startswith("catalog.sqlite")}


def nobody_is_connected(served: Any) -> bool:
    """Whether all that came before has been closed."""
    return open_connections(address_of(served.url)[1]) == 0


# --- no HTTP ----------------------------------------------------------------------------------------------

MALFORMED: dict[str, bytes] = {
    "bytes": b"\x00\x01\x02\xff\xfe\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(508),
    "no version": b"GET /healthz\r\n\r\n",
    "HTTP/0.9": b"GET /healthz HTTP/0.9\r\n" + HOST + LAST,
    "HTTP/3.0": b"GET /healthz HTTP/3.0\r\n" + HOST + LAST,
    "no method": b" /healthz HTTP/1.1\r\n" + HOST + LAST,
    "a method that is none": b"GE(T) /healthz HTTP/1.1\r\n" + HOST + LAST,
    "no target": b"GET  HTTP/1.1\r\n" + HOST + LAST,
    "a space in the target": b"GET /a b HTTP/1.1\r\n" + HOST + LAST,
    "NUL in the target": b"GET /a\0b HTTP/1.1\r\n" + HOST + LAST,
    "latin-1 in the target": b"GET /r/http://localhost/\xe4 HTTP/1.1\r\n" + HOST + LAST,
    "bare CR as a line's end": b"GET /healthz HTTP/1.1\rHost: localhost\r\r",
    "bare CR in a value": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n" + LAST,
    "NUL in a value": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n" + LAST,
    "a folded line": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n" + LAST,
    "a folded first line": b"GET /healthz HTTP/1.1\r\n X: a\r\n" + HOST + LAST,
    "a space before the colon": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X : a\r\n" + LAST,
    "a field without a name": b"GET /healthz HTTP/1.1\r\n" + HOST + b": a\r\n" + LAST,
    "a field without a colon": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X\r\n" + LAST,
    "no Host": b"GET /v1/request/ HTTP/1.1\r\n" + LAST,
    "two Hosts": b"GET /v1/request/ HTTP/1.1\r\n" + HOST + HOST + LAST,
    "a Host that is none": b"GET /v1/request/ HTTP/1.1\r\nHost: a b\r\n" + LAST,
}

# RFC 9112 section 6.3 and 11.2: what two parsers could read differently.
AMBIGUOUS: dict[str, bytes] = {
    "two lengths": PUT + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "a list of lengths": PUT + b"Content-Length: 2, 2\r\n\r\n{}",
    "a negative length": PUT + b"Content-Length: -2\r\n\r\n{}",
    "a length with a sign": PUT + b"Content-Length: +2\r\n\r\n{}",
    "a length in hex": PUT + b"Content-Length: 0x2\r\n\r\n{}",
    "a length beyond 64 bits": PUT + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "an unknown coding": PUT + b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked, not at last": PUT + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two codings": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n2\r\n{}\r\n0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a chunk size with a sign": CHUNKED + b"\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + b"\r\n" + b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n",
    "a chunk that ends with LF": CHUNKED + b"\r\n2\n{}\n0\n\n",
    "a chunk that does not end": CHUNKED + b"\r\n2\r\n{}XX0\r\n\r\n",
    "a chunk extension without end": CHUNKED + b"\r\n2;" + b"a" * 200_000 + b"\r\n{}\r\n0\r\n\r\n",
    "trailers without end": CHUNKED + b"\r\n2\r\n{}\r\n0\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
}


@pytest.mark.parametrize("data", [*MALFORMED.values(), *AMBIGUOUS.values()], ids=[*MALFORMED, *AMBIGUOUS])
def test_what_is_no_http_is_refused(served: Any, data: bytes) -> None:
    """400, and the connection ends: nothing behind it on the wire is taken for another request."""
    assert statuses(talk(served, data + FINE)) == [400]


def test_http_2_without_tls_is_not_spoken(served: Any) -> None:
    """Its preface ends the connection."""
    assert statuses(talk(served, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + FINE)) == []


def test_two_ways_to_say_where_a_body_ends(served: Any) -> None:
    """Transfer-Encoding counts, and the connection ends after the answer (RFC 9112 section 6.1): what a proxy in
    between may have taken for the rest of the body is no request."""
    for fields in (
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
    ):
        assert statuses(talk(served, PUT + fields + b"\r\n2\r\n{}\r\n0\r\n\r\n" + FINE)) == [422]


def test_a_body_is_no_request(served: Any) -> None:
    """Whoever does not want a body still counts its bytes."""
    inside = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(inside)
    for target in (b"/healthz", b"/r/ftp://nowhere", b"/v1/request/x/response/v/y/content", b"/none"):
        answers = talk(served, b"GET " + target + b" HTTP/1.1\r\n" + HOST + length + inside + FINE)
        first, *rest = statuses(answers)
        assert rest in ([], [200]), answers
        assert first in (200, 400, 404, 415, 422)
        assert b"smuggled" not in answers


def test_lines_that_end_with_lf_alone(served: Any) -> None:
    """RFC 9112 section 2.2 allows to take them; empty lines before a request, too."""
    assert statuses(talk(served, FINE.replace(b"\r\n", b"\n"))) == [200]
    assert statuses(talk(served, b"\r\n" * 100 + FINE)) == [200]


def test_one_request_after_the_other(served: Any) -> None:
    """Pipelined: all of them are answered, in order."""
    one = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    none = b"GET /none HTTP/1.1\r\n" + HOST + b"\r\n"
    assert statuses(talk(served, (one + none) * 50 + FINE)) == [200, 404] * 50 + [200]


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "OPTIONS", "PATCH", "get", "X" * 1000])
@pytest.mark.parametrize("target", ["/", "/healthz", "/v1/request/", "/r/http://localhost:1/", "/docs", "*"])
def test_methods_that_nothing_has(served: Any, method: str, target: str) -> None:
    """404 or 405 with a problem document, which does not echo what was sent; nothing is opened to anywhere."""
    answer = Api(served).ask(method, target, ("Cookie", "s3cret"), ("X-Echo", "s3cret"))
    if (method, target) != ("OPTIONS", "*"):
        assert problem(answer)[0] in (400, 404, 405), answer
    assert b"s3cret" not in answer.body


@pytest.mark.parametrize("method", ["CONNECT", "GET"])
def test_it_is_no_proxy(served: Any, origin: Origin, method: str) -> None:
    """Asked as a proxy is, it opens nothing to anywhere."""
    target = f"127.0.0.1:{origin.port}" if method == "CONNECT" else origin.url("/f")
    answer = Api(served).ask(method, target, ("Host", f"127.0.0.1:{origin.port}"))
    assert answer.status == 404
    assert origin.connections == 0


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "TLS/1.0", "x" * 1000])
def test_an_upgrade_is_not_taken(served: Any, upgrade: str) -> None:
    """The request is answered as if it had not asked for one (RFC 9110 section 7.8)."""
    fields = [("Upgrade", upgrade), ("Connection", "Upgrade"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")]
    fields += [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]
    answer = Api(served).ask("GET", "/healthz", *fields)
    assert answer.status == 200
    assert "upgrade" not in answer.fields


# --- too much ---------------------------------------------------------------------------------------------

FLOODS: dict[str, Callable[[], Iterable[bytes]]] = {
    "many fields": lambda: (b"X-%d: a\r\n" % number for number in range(200_000)),
    "one endless field": lambda: [b"X: ", *[b"a" * MIB] * 64],
    "a field name without end": lambda: [b"a" * MIB] * 64,
    "cookies": lambda: [b"Cookie: a=b; \r\n" * 1000] * 64,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_fields(served: Any, answering: Process, flood: Callable[[], Iterable[bytes]]) -> None:
    """431 long before it is over; nothing of it is kept."""
    before = answering.rss_bytes()
    for _ in range(4):
        assert statuses(talk(served, [b"GET / HTTP/1.1\r\n" + HOST, *flood()])) == [431]
    assert answering.peak_bytes() - before < 16 * MIB


@pytest.mark.parametrize("start", [b"GET /", b"GET /r/http://localhost/", b"", b"GET /?"])
def test_a_flood_of_a_first_line(served: Any, answering: Process, start: bytes) -> None:
    """A target or a method without end: 414 or 431, and nothing is kept."""
    before = answering.rss_bytes()
    for _ in range(4):
        (status,) = statuses(talk(served, [start, *[b"a" * MIB] * 64]))
        assert status in (414, 431)
    assert answering.peak_bytes() - before < 16 * MIB


def test_as_many_fields_as_a_browser_sends(served: Any) -> None:
    """And far more, and a URL as long as any: 90 fields, 32 KiB of cookies, 16 KiB of target."""
    fields = b"".join(b"X-%d: a\r\n" % number for number in range(90)) + b"Cookie: " + b"a" * (32 << 10) + b"\r\n"
    target = b"/v1/request/?group_name=" + b"a" * (16 << 10)
    assert statuses(talk(served, b"GET " + target + b" HTTP/1.1\r\n" + HOST + fields + LAST)) == [422]


def endless_chunks(size: int) -> Iterator[bytes]:
    yield b"\r\n"
    for _ in range(size // 65536):
        yield b"10000\r\n" + b" " * 65536 + b"\r\n"


@pytest.mark.parametrize(
    "body",
    [
        lambda: [b"Content-Length: 1000000000000\r\n\r\n"],
        lambda: [b"Content-Length: 1000000000000\r\n\r\n", *[b" " * MIB] * 64],
        lambda: [b"Content-Length: 1048577\r\nExpect: 100-continue\r\n\r\n"],
        lambda: [b"Transfer-Encoding: chunked\r\n", *endless_chunks(64 * MIB)],
    ],
    ids=["said", "said and sent", "asked for", "not said"],
)
def test_a_body_that_is_too_large(served: Any, answering: Process, body: Callable[[], Iterable[bytes]]) -> None:
    """413: at once where its length is said, and else when there is too much of it."""
    before = answering.rss_bytes()
    for _ in range(4):
        assert statuses(talk(served, [PUT, *body()])) == [413]
    assert answering.peak_bytes() - before < 16 * MIB


@pytest.mark.parametrize("target", [b"/healthz", b"/r/ftp://nowhere", b"/v1/request/x/response/v/y/content"])
def test_a_body_that_nobody_wants(served: Any, answering: Process, target: bytes) -> None:
    """It is not kept, however much there is of it; the answer comes all the same."""
    before = answering.rss_bytes()
    head = b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n"
    (status,) = statuses(talk(served, [head, *endless_chunks(64 * MIB)]))
    assert status in (200, 404, 422)
    assert answering.peak_bytes() - before < 16 * MIB


def test_a_request_with_a_body_at_the_door(served: Any, origin: Origin, answering: Process) -> None:
    """While its content is fetched, all that comes is thrown away."""
    stall = origin.serve("/f", Stall(Resource(b"content"), 3, threading.Event()))
    before = answering.rss_bytes()
    with connect(served) as sock:
        sock.sendall(request(served.url, "GET", f"/r/{origin.url('/f')}", [("Transfer-Encoding", "chunked")])[:-2])
        for piece in endless_chunks(64 * MIB):
            sock.sendall(piece)
        assert stall.reached.wait(30)
        stall.event.set()
        answer = read_all(sock)
    assert statuses(answer) == [200]
    assert answer.endswith(b"\r\n\r\ncontent")
    assert answering.peak_bytes() - before < 16 * MIB


# --- wrong inside -----------------------------------------------------------------------------------------

BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 422),
    "no JSON": (b"{", 400),
    "a tower": (b"[" * 500_000, 400),
    "a tower with a roof": (b"[" * 500_000 + b"]" * 500_000, 400),
    "a tower inside": (
        b'{"url":"http://a.example/","http_request_body":' + b'{"a":' * 900 + b"1" + b"}" * 901,
        400,
    ),
    "half a character": (b'{"url":"http://a.example/","group_name":"\\ud800"}', 400),
    "half a character in a name": (b'{"url":"http://a.example/","http_request_body":{"\\udfff":1}}', 400),
    "latin-1": (b'{"url":"http://a.example/\xe4"}', 400),
    "UTF-16": ('{"url":"http://a.example/"}'.encode("utf-16"), 400),
    "not a number": (b'{"url":"http://a.example/","http_request_body":{"a":NaN}}', 400),
    "infinity": (b'{"url":"http://a.example/","http_query_params":{"a":1e999}}', 400),
    "a number without end": (b'{"url":"http://a.example/","http_request_body":{"a":' + b"9" * 100_000 + b"}}", 400),
    "null": (b"null", 422),
    "a list": (b"[]", 422),
    "a string": (b'"http://a.example/"', 422),
    "a URL that is a list": (b'{"url":["http://a.example/"]}', 422),
    "a URL that is a number": (b'{"url":1}', 422),
    "a URL without end": (b'{"url":"http://a.example/' + b"a" * 900_000 + b'"}', 422),
    "NUL in a URL": (b'{"url":"http://a.example/\\u0000"}', 422),
    "NUL in a host": (b'{"url":"http://a\\u0000.example/"}', 422),
    "a line's end in a URL": (b'{"url":"http://a.example/\\r\\nX: y"}', 422),
    "a line's end in a field": (b'{"url":"http://a.example/","http_header_fields":{"X":"a\\r\\nY: b"}}', 422),
    "a line's end in a field's name": (b'{"url":"http://a.example/","http_header_fields":{"X\\r\\nY":"a"}}', 422),
    "a field of ours": (b'{"url":"http://a.example/","http_header_fields":{"Host":"169.254.169.254"}}', 422),
    "a list in a list": (b'{"url":"http://a.example/","http_query_params":{"a":[[1]]}}', 422),
    "a name that is none": (b'{"url":"http://a.example/","__class__":1}', 422),
    "a method that is none": (b'{"url":"http://a.example/","http_method":"CONNECT"}', 422),
    "a cron line without end": (
        b'{"url":"http://a.example/","cache_configuration":{"recaching_strategy":'
        b'{"strategy_name":"cron","cron":"' + b"0," * 100_000 + b'0 * * * *"}}}',
        422,
    ),
}


@pytest.mark.parametrize(("body", "status"), BODIES.values(), ids=BODIES)
def test_a_body_that_is_wrong(served: Any, body: bytes, status: int) -> None:
    """400 for what is no JSON, 422 for what is not as it should be; a problem document that is short, and nothing
    is registered."""
    length = ("Content-Length", str(len(body)))
    answer = Api(served).ask("PUT", "/v1/request/", ("Content-Type", "application/json"), length, body=body)
    assert problem(answer)[0] == status, answer
    assert len(answer.body) < 2000
    assert json.loads(Api(served).get("/v1/request/?url=http://a.example/").body) == []


TARGETS = [
    "/%00",
    "/%ff%fe",
    "/v1/request/%00",
    "/v1/request/%ED%A0%80",
    "/v1/request/%FF",
    "/v1/request/..%2f..%2f..%2fetc%2fpasswd",
    "/v1/request/" + "a" * 10_000,
    "/v1/request//response/latest",
    "/v1/request/x/response/v/%00/content",
    "/v1/request/x/response/v/..%2f..%2fcatalog.sqlite/content",
    "/v1/request/../../catalog.sqlite/response/v/x/content",
    "/v1/request/x/response/v/" + "a" * 10_000 + "/content",
    "/v1/request/x/response/v/%0d%0aX:1",
    "/v1/request/x/response/t/%ff",
    "/v1/request/x/status/nan",
    "/v1/request/x/status/1e400",
    "/v1/request/x/status/-1",
    "/v1/request/?limit=" + "9" * 5000,
    "/v1/request/?skip=99999999999999999999",
    "/v1/request/?limit=0",
    "/v1/request/?limit=%00",
    "/v1/request/?url=%ED%A0%80",
    "/v1/request/?url=" + "a" * 10_000,
    "/v1/request/?group_name=" + "a" * 10_000,
    "/r/",
    "/r/%00",
    "/r/%FF%FE",
    "/r/http://a%00b/",
    "/r/http://a%0d%0ab/",
    "/r/http://[::1",
    "/r/http://[::1]:99999/",
    "/r/http://a.example/" + "a" * 10_000,
    "/r/http://a.example/?forebay-version=%00",
    "/r/http://a.example/?forebay-version=" + "a" * 10_000,
    "/r/http://a.example/?forebay-tag=%ED%A0%80",
    "/r/file:///etc/passwd",
    "/r/ftp://a.example/",
    "/r/gopher://a.example/",
    "/r/javascript:alert(1)",
    "/r/data:text/html,x",
    "/r////127.0.0.1",
    "/..%2f..%2fetc/passwd",
    "/../../etc/passwd",
    "//evil.example/v1/request/",
    "/v1/request/;/../../x",
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:40])
def test_a_target_that_is_wrong(served: Any, target: str) -> None:
    """4xx with a short problem document, to GET and, without it, to HEAD."""
    answer = Api(served).get(target)
    status, _ = problem(answer)
    assert 400 <= status < 500, answer
    assert len(answer.body) < 20_000
    head = Api(served).ask("HEAD", target)
    assert (head.status, head.body) == (status, b"")


# --- slow, idle, gone -------------------------------------------------------------------------------------


# The limits of a server's patience, made short. What is set here is set in its API processes, too: they begin with
# what this script does outside of its last lines.
IMPATIENT = """
import forebay.server.bodies, forebay.messages.outflow, forebay.server.run
forebay.server.run._HEAD_TIMEOUT_MS = 1500
forebay.server.bodies.BODY_TIMEOUT_S = 1.5
forebay.messages.outflow.STALL_S = 1.5
if __name__ == "__main__":
    from forebay.settings import ServerSettings
    settings = ServerSettings(data=ask["folder"], port=0, workers=1, allow_private=True, max_connections=64)
    worker = [sys.executable, "-m", "forebay", "worker", "--until-stdin-ends", "--allow-private"]
    forebay.server.run.serve(
        settings,
        worker=[*worker, "--data", ask["folder"]],
        announce=lambda url, needs_token: say(url=url),
        tell=lambda what: say(told=what),
    )
"""


class Impatient:
    """A server that waits for nobody for longer than a second or two."""

    def __init__(self, child: Any) -> None:
        self.url = child.wait_for(bool)[0]["url"]
        (self.process,) = api_processes(child.pid)


@pytest.fixture
def impatient(spawn: Callable[..., Any], tmp_path: Path) -> Impatient:
    """One of these."""
    return Impatient(spawn(IMPATIENT, folder=tmp_path / "impatient"))


def drip(sock: socket.socket, piece: bytes) -> bytes:
    """Send *piece* now and then until the server closes; what it has said."""
    got = b""
    sock.settimeout(0.1)
    while True:
        try:
            some = sock.recv(1 << 16)
            got += some
            if not some:
                return got
        except TimeoutError:
            with contextlib.suppress(ConnectionError):
                sock.sendall(piece)
        except ConnectionError:
            return got


def test_whoever_is_slow_is_let_go(impatient: Impatient) -> None:
    """Heads and bodies that do not come, or come byte by byte: their connections are closed, with a 408 where there
    is something to answer. Others are served meanwhile."""
    slow = PUT + b"Content-Length: 1000\r\n\r\n"
    starts = {
        "nothing": (b"", b"", []),
        "half a head": (b"GET / HTTP/1.1\r\n" + HOST, b"", []),
        "a head byte by byte": (b"GET / HTTP/1.1\r\n" + HOST + b"X: ", b"a", []),
        "nothing more": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n", b"", [200]),
        "half a body": (slow + b"{", b"", [408]),
        "a body byte by byte": (slow, b" ", [408]),
        "half a chunk": (CHUNKED + b"\r\n10\r\n{", b"", [408]),
    }
    ended: dict[str, list[list[int]]] = {name: [] for name in starts}

    def be_slow(name: str) -> None:
        start, piece, _ = starts[name]
        with connect(impatient) as sock:
            sock.sendall(start)
            ended[name].append(statuses(drip(sock, piece) if piece else read_all(sock)))

    threads = [threading.Thread(target=be_slow, args=(name,)) for name in starts for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert statuses(talk(impatient, FINE)) == [200]
    assert ended == {name: [answers] * 4 for name, (_, _, answers) in starts.items()}


def test_whoever_comes_when_all_places_are_taken_waits(impatient: Impatient) -> None:
    """Until one is free: those that say nothing do not keep theirs."""
    with contextlib.ExitStack() as idle:
        for _ in range(200):
            idle.enter_context(connect(impatient))
        assert statuses(talk(impatient, FINE)) == [200]


def test_a_reader_that_never_reads_is_broken_off(impatient: Impatient, origin: Origin) -> None:
    """Its content is let go of, and its connection."""
    origin.serve("/f", Resource(blob(32 * MIB)))
    target = Api(impatient).store(origin.url("/f"))
    wait_until(lambda: nobody_is_connected(impatient))
    before = what_is_open(impatient.process)
    with contextlib.ExitStack() as readers:
        answers = [
            readers.enter_context(dial(impatient.url, "GET", target, receive_buffer=4096)) for _ in range(20)
        ]
        assert {answer.status for answer in answers} == {200}
        wait_until(lambda: what_is_open(impatient.process) == before)
        for answer in answers:
            with pytest.raises(Cut):
                answer.rest()


def test_a_hundred_that_never_read_cost_little(served: Any, answering: Process, origin: Origin) -> None:
    """They share a budget of memory; somebody who does read gets everything meanwhile."""
    body = blob(64 * MIB)
    origin.serve("/f", Resource(body))
    target = Api(served).store(origin.url("/f"))
    before = answering.rss_bytes()
    answering.forget_peak()
    with contextlib.ExitStack() as readers:
        for _ in range(100):
            readers.enter_context(dial(served.url, "GET", target, receive_buffer=4096))
        assert Api(served).get(target).body == body
        assert answering.peak_bytes() - before < 256 * MIB


def test_a_thousand_idle_connections(served: Any, answering: Process) -> None:
    """Each has asked something once. Others are served as ever, and when they go nothing is left of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("needs 4,096 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    wait_until(lambda: nobody_is_connected(served))
    before = what_is_open(answering)
    with contextlib.ExitStack() as idle:
        for _ in range(1000):
            sock = idle.enter_context(connect(served))
            sock.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert answering.descriptors()["socket"] > before["socket"] + 500
        for _ in range(10):
            assert Api(served).get("/v1/request/?limit=1").status == 200
    wait_until(lambda: what_is_open(answering) == before)


def test_readers_that_vanish_leave_nothing_open(served: Any, answering: Process, origin: Origin) -> None:
    """At whatever point they go, and however: in a head, in a body, while they wait, in the middle of what lands
    and of what is stored."""
    go_on = threading.Event()
    origin.serve("/stored", Resource(blob(8 * MIB)))
    origin.serve("/cold", Stall(Resource(b"cold"), None, go_on))
    origin.serve("/landing", Stall(Resource(blob(8 * MIB, 1)), 4 * MIB, go_on))
    stored = Api(served).store(origin.url("/stored"))
    landing, cold = f"/r/{origin.url('/landing')}", f"/r/{origin.url('/cold')}"
    with dial(served.url, "GET", landing) as reader:
        reader.read(MIB)
    wait_until(lambda: nobody_is_connected(served))
    before = what_is_open(answering)
    starts = [
        FINE[:20],
        PUT + b"Content-Length: 100\r\n\r\n{",
        request(served.url, "GET", cold),
        request(served.url, "GET", landing),
        request(served.url, "GET", stored),
        request(served.url, "HEAD", stored),
        request(served.url, "GET", stored, [("Range", "bytes=0-1,100-5000000,-5")]),
    ]
    for number in range(140):
        with connect(served) as sock:
            sock.sendall(starts[number % len(starts)])
            if number % len(starts) in (3, 4, 6) and number % 3:
                assert sock.recv(1000)
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: what_is_open(answering) == before)
    go_on.set()
    assert Api(served).get(cold).body == b"cold"
    assert Api(served).get(landing).body == blob(8 * MIB, 1)
