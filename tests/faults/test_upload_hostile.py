"""What no client should send of an upload: fields and lengths that lie, bodies that stall, names with every byte. It is
refused with a small answer, what had come before stays, and the next one is served as if nothing was.

Behind each test the API process is the same as before, and has said nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from origin import blob
from processes import PROC, api_processes
from raw import Api, Cut, Whole, address_of, problem, request

pytestmark = [pytest.mark.faults, PROC]

CREATION, CHUNK = "/v1/upload/", "/v1/upload/chunk"
PARTIAL = ("Content-Type", "application/partial-upload")
MIB = 1 << 20
QUERY = "chunkCount=1&chunkNumber=0&fileName=x&totalSize=10&uploadUid="


@pytest.fixture(scope="module")
def frugal(serve_shared: Callable[..., Any]) -> Any:
    """A server that keeps few uploads."""
    return serve_shared(env={"FOREBAY_MAX_UPLOADS_PER_OWNER": "20"})


@pytest.fixture(scope="module")
def impatient(serve_shared: Callable[..., Any]) -> Any:
    """A server that waits a second for two thousand bytes."""
    return serve_shared(env={"FOREBAY_STALL_WINDOW_S": "1", "FOREBAY_STALL_BYTES_PER_S": "2000"})


@contextlib.contextmanager
def unharmed(served: Any) -> Iterator[Api]:
    """A server, the same afterwards."""
    before, said = api_processes(served.process.pid), served.stderr()
    yield Api(served)
    assert Api(served).get("/healthz").status == 200
    assert api_processes(served.process.pid) == before
    # A disk that is too small for what was asked is for whoever runs the server to know.
    more = served.stderr().removeprefix(said).splitlines()
    assert [line for line in more if not line.endswith("[disk_reserved]")] == []


@pytest.fixture
def api(frugal: Any) -> Iterator[Api]:
    """The one that keeps few uploads."""
    with unharmed(frugal) as asked:
        yield asked


@pytest.fixture
def hasty(impatient: Any) -> Iterator[Api]:
    """The one that does not wait."""
    with unharmed(impatient) as asked:
        yield asked


def begun(api: Api) -> str:
    """Where an upload is of which 100 bytes have come."""
    made = api.ask("POST", CREATION, ("Upload-Complete", "?0"), ("Content-Length", "100"), body=bytes(100))
    assert made.status == 201
    return made.fields["location"]


@pytest.fixture
def place(api: Api) -> Iterator[str]:
    """Where such an upload is."""
    made = begun(api)
    yield made
    api.ask("DELETE", made)


def append(api: Api, place: str, *pairs: tuple[str, str], body: bytes = b"x") -> Whole:
    """What answers an append with these fields."""
    fields = (("Upload-Complete", "?0"), PARTIAL, ("Content-Length", str(len(body))), *pairs)
    return api.ask("PATCH", place, *fields, body=body)


def offset(api: Api, place: str) -> int:
    """How far an upload is."""
    return int(api.ask("HEAD", place).fields["upload-offset"])


# --- numbers -----------------------------------------------------------------------------------------------

LIES = (
    "-1", "-0", "00000000000000000000", "+100", " 1 0 0", "1e2", "1_0", "0x64", "100.0", "1/1", "٣", "NaN", "inf", "",
    "9" * 15, "9" * 16, "9" * 400, "9" * 5000, "-" + "9" * 400, "100;" * 50, "?1", "(100)", '"100"', ":MTAw:", "*",
)  # fmt: skip


@pytest.mark.parametrize("field", ["Upload-Offset", "Upload-Length"])
def test_numbers_that_lie(field: str, api: Api, place: str) -> None:
    """Nothing moves the offset but bytes, whatever is said of them."""
    for lie in LIES:
        raw = lie.encode().decode("latin-1")
        others = () if field == "Upload-Offset" else (("Upload-Offset", "100"),)
        answer = append(api, place, (field, raw), *others, body=b"")
        assert answer.status in (204, 400, 409, 413, 507), (lie, answer)
        made = api.ask("POST", CREATION, ("Upload-Complete", "?0"), (field, raw), ("Content-Length", "0"))
        assert made.status in (201, 413, 507), (lie, made)
        if made.status == 201:
            api.ask("DELETE", made.fields["location"])
    assert offset(api, place) == 100


def test_more_than_the_disk_has_is_refused_before_it_comes(api: Api) -> None:
    """A length that nothing could hold: 507, and nothing is reserved for it; of chunks as well."""
    for length in ("999999999999999", str(2**49)):
        fields = (("Upload-Complete", "?0"), ("Upload-Length", length), ("Content-Length", "0"))
        assert problem(api.ask("POST", CREATION, *fields)) == (507, "disk_reserved")
    query = QUERY.replace("totalSize=10", f"totalSize={2**62}")
    answer = api.ask("POST", f"{CHUNK}?{query}", ("Content-Length", "1"), body=b"x")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (507, "disk_reserved")


def test_content_lengths_that_lie(api: Api, place: str) -> None:
    """More than one, or none that is a number: refused by whoever reads HTTP; less than comes: the rest is no body."""
    for pairs in (
        [("Content-Length", "5"), ("Content-Length", "6")],
        [("Content-Length", "-1")],
        [("Content-Length", "9" * 30)],
        [("Content-Length", "1"), ("Transfer-Encoding", "chunked")],
    ):
        for target in (place, f"{CHUNK}?{QUERY}"):
            method = "PATCH" if target == place else "POST"
            head = request(api.served.url, method, target, [("Upload-Complete", "?0"), PARTIAL, *pairs])
            with socket.create_connection(address_of(api.served.url), timeout=60) as sock:
                sock.sendall(head + b"x" * 5)
                assert status_of(sock) in (400, 409, 413, None)
    assert offset(api, place) == 100


def status_of(sock: socket.socket) -> int | None:
    """The status of the answer that comes; None: the connection ends."""
    with contextlib.suppress(ConnectionError), sock.makefile("rb") as file:
        line = file.readline()
        return int(line.split()[1]) if line else None
    return None


def test_chunks_of_a_body_that_are_none(api: Api, place: str) -> None:
    """The framing breaks in the middle: what came before it stays, and the upload goes on."""
    fields = [("Upload-Complete", "?1"), ("Upload-Offset", "100"), PARTIAL, ("Transfer-Encoding", "chunked")]
    for broken in (b"zz\r\n", b"-5\r\nabcde\r\n", b"ffffffffffffffffff\r\n", b"5\r\nabcdefgh\r\n"):
        at = str(offset(api, place))
        head = request(api.served.url, "PATCH", place, [*fields[:1], ("Upload-Offset", at), *fields[2:]])
        with socket.create_connection(address_of(api.served.url), timeout=60) as sock:
            sock.sendall(head + b"3\r\nabc\r\n" + broken)
            assert status_of(sock) in (400, 408, None)
    answer = api.ask("HEAD", place)
    assert (answer.fields["upload-complete"], int(answer.fields["upload-offset"]) >= 100) == ("?0", True)


# --- fields ------------------------------------------------------------------------------------------------


def test_a_flood_of_fields(api: Api, place: str) -> None:
    """A thousand fields, one of a megabyte: refused by a small answer, or not looked at."""
    floods: list[list[tuple[str, str]]] = [
        [("Upload-Offset", "100")] * 90,
        [("Upload-Metadata", "a b")] * 90,
        [(f"X-{number}", "y") for number in range(1000)],
        [("Upload-Metadata", "a " + "QUJD" * 300_000)],
        [("Content-Disposition", 'inline; filename="' + "x" * 300_000 + '"')],
        [("Repr-Digest", ", ".join(f"a{number}=:AAAA:" for number in range(5000)))],
        [("Upload-Complete", "?1")] * 90,
    ]
    for flood in floods:
        for method, target in (("POST", CREATION), ("PATCH", place)):
            fields = [("Content-Length", "0"), *flood]
            with contextlib.suppress(Cut, ConnectionError):
                answer = api.ask(method, target, *fields)
                assert answer.status in (201, 204, 400, 413, 415, 431), flood[0]
                assert len(answer.body) < 4000
                if answer.status == 201:
                    api.ask("DELETE", answer.fields["location"])
    assert offset(api, place) == 100


def test_names_with_every_byte(api: Api) -> None:
    """In a path, in Content-Disposition, in Upload-Metadata: a name is data, and never part of a path on disk."""
    alone = [bytes([byte]) for byte in (0, 9, 10, 13, 27, 32, 34, 37, 46, 47, 58, 92, 127, 128, 160, 255)]
    together = [bytes(range(first, first + 16)) for first in range(0, 256, 16)]
    names = alone + together + [b"../../x", b"/etc/passwd", b"..", b".", b"a\\b", b"x" * 300]
    before = files_of(api.served.folder)

    def send(name: bytes) -> None:
        escaped = "".join(f"%{byte:02x}" for byte in name)
        api.ask("DELETE", upload(api.ask("PUT", CREATION + "n" + escaped, ("Content-Length", "0"))))
        made = "inline; filename*=UTF-8''" + escaped
        api.ask("DELETE", upload(api.ask("POST", CREATION, ("Content-Disposition", made), ("Content-Length", "0"))))
        if min(name) > 31 and 127 not in name:
            plain = 'inline; filename="' + re.sub(r'(["\\])', r"\\\1", name.decode("latin-1")) + '"'
            answer = api.ask("POST", CREATION, ("Content-Disposition", plain), ("Content-Length", "0"))
            place = upload(answer)
            assert api.get(place).status == 200
            api.ask("DELETE", place)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, names))
    assert files_of(api.served.folder) - before <= CATALOG


CATALOG = {"catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"}


def upload(answer: Whole) -> str:
    """Where what was created is."""
    assert answer.status == 201, answer
    json.loads(answer.body)
    return answer.fields["location"]


def files_of(folder: Path) -> set[str]:
    """The names of all that is outside the places of contents and uploads."""
    return {
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and file.relative_to(folder).parts[0] not in ("content", "uploads")
    }


# --- time --------------------------------------------------------------------------------------------------


def dribble(sock: socket.socket) -> int | None:
    """Send a byte now and then, as long as nothing comes back; the status of what does."""
    while not select.select([sock], [], [], 0.05)[0]:
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"x")
    return status_of(sock)


def test_a_body_that_hardly_comes(hasty: Api) -> None:
    """Slower than the stall limit: 408 after its window, in each dialect; what came before stays."""
    place = begun(hasty)
    parts = [("Upload-Complete", "?1"), ("Upload-Offset", "100"), PARTIAL, ("Content-Length", "100000")]
    for method, target, fields in (
        ("PATCH", place, parts),
        ("PUT", CREATION + "slow", [("Content-Length", "100000")]),
        ("POST", f"{CHUNK}?{QUERY}", [("Content-Length", "100000")]),
        ("POST", CHUNK, [("Content-Type", "application/json"), ("Content-Length", "100000")]),
    ):
        with socket.create_connection(address_of(hasty.served.url), timeout=60) as sock:
            sock.sendall(request(hasty.served.url, method, target, fields) + b"{" * 10)
            assert dribble(sock) == 408
    assert 110 <= offset(hasty, place) < 1000


def test_nothing_comes_for_what_is_complete(hasty: Api) -> None:
    """A message to a complete upload that does not say how long it is, and never begins: 408, too."""
    place = upload(hasty.ask("PUT", CREATION + "x", ("Content-Length", "3"), body=b"abc"))
    fields = [("Upload-Complete", "?1"), ("Upload-Offset", "3"), PARTIAL, ("Transfer-Encoding", "chunked")]
    with socket.create_connection(address_of(hasty.served.url), timeout=60) as sock:
        sock.sendall(request(hasty.served.url, "PATCH", place, fields))
        assert status_of(sock) == 408
    assert hasty.get(place).body == b"abc"


def test_a_body_that_stops_is_cut_while_others_go_on(hasty: Api) -> None:
    """Twenty connections that say nothing more cost nobody else anything."""
    body = blob(100_000)
    with contextlib.ExitStack() as stack:
        stalled = []
        for _ in range(20):
            sock = stack.enter_context(socket.create_connection(address_of(hasty.served.url), timeout=60))
            sock.sendall(
                request(hasty.served.url, "POST", f"{CHUNK}?{QUERY}", [("Content-Length", "100000")]) + b"x"
            )
            stalled.append(sock)
        made = hasty.ask("PUT", CREATION + "x", ("Content-Length", "100000"), body=body)
        assert hasty.get(upload(made)).body == body
        hasty.ask("DELETE", made.fields["location"])
        assert [status_of(sock) for sock in stalled] == [408] * 20


# --- amounts -----------------------------------------------------------------------------------------------


def test_uploads_without_end(api: Api) -> None:
    """As many as may be open: then 429, until one is given up."""
    fields = (("Upload-Complete", "?0"), ("Content-Length", "0"))
    places = []
    while (answer := api.ask("POST", CREATION, *fields)).status == 201:
        places.append(answer.fields["location"])
        assert len(places) <= 20
    assert problem(answer) == (429, "uploads_too_many")
    assert answer.fields["upload-limit"].startswith("max-age=")
    chunk = api.ask("POST", f"{CHUNK}?{QUERY}", ("Content-Length", "1"), body=b"x")
    assert (chunk.status, json.loads(chunk.body)["error"]["code"]) == (429, "uploads_too_many")
    for place in places:
        assert api.ask("DELETE", place).status == 204
    assert api.ask("POST", CREATION, *fields).status == 201


def test_a_large_body_is_not_gathered(api: Api) -> None:
    """256 MiB in one PUT: the process grows by no more than a few pieces."""
    (process,) = api_processes(api.served.process.pid)
    process.forget_peak()
    before = process.rss_bytes()
    piece = blob(MIB)
    with socket.create_connection(address_of(api.served.url), timeout=120) as sock:
        sock.sendall(request(api.served.url, "PUT", CREATION + "large", [("Content-Length", str(256 * MIB))]))
        for _ in range(256):
            sock.sendall(piece)
        assert status_of(sock) == 201
    assert process.peak_bytes() - before < 48 * MIB
