"""Each MUST of tus 1.0.0 (https://tus.io/protocols/resumable-upload) that touches a server, asked of a real one, and
what a server must bear that the protocol does not speak of. Words in quotes are the protocol's.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from origin import Pair, blob
from raw import Api, Coming, Cut, Whole, address_of, digest_field, problem, request

ROOT = "/v1/upload/tus/"
RESUMABLE = ("Tus-Resumable", "1.0.0")
OCTETS = ("Content-Type", "application/offset+octet-stream")
EMPTY = ("Content-Length", "0")
NOBODYS = ROOT + "0" * 32


class Tus:
    """A client that sends what is written."""

    def __init__(self, served: Any, token: str | None = None) -> None:
        self.api = Api(served, token)
        self.served = served

    def ask(self, method: str, target: str, *pairs: Pair, body: bytes = b"", **how: Any) -> Whole:
        """The whole answer, which is one of this protocol's."""
        if body or method in ("POST", "PATCH"):
            pairs = (*pairs, ("Content-Length", str(len(body))))
        answer = self.api.ask(method, target, RESUMABLE, *pairs, body=body, **how)
        assert answer.fields["tus-resumable"] == "1.0.0"
        return answer

    def create(self, size: int | None, *pairs: Pair) -> str:
        """The path of a new upload."""
        length = ("Upload-Defer-Length", "1") if size is None else ("Upload-Length", str(size))
        made = self.ask("POST", ROOT, length, *pairs)
        assert made.status == 201, made
        return made.fields["location"]

    def patch(self, path: str, offset: int | str, body: bytes, *pairs: Pair) -> Whole:
        """What answers *body*."""
        return self.ask("PATCH", path, OCTETS, ("Upload-Offset", str(offset)), *pairs, body=body)

    def head(self, path: str) -> Whole:
        """What answers a HEAD that must succeed."""
        answer = self.ask("HEAD", path)
        assert answer.status == 200, answer
        return answer

    def offset(self, path: str) -> int:
        """How far it is."""
        return int(self.head(path).fields["upload-offset"])

    def begin(self, path: str, offset: int, size: int, body: bytes) -> socket.socket:
        """A connection on which only *body* of so many bytes was sent."""
        sock = socket.create_connection(address_of(self.served.url), timeout=60)
        pairs = [RESUMABLE, OCTETS, ("Upload-Offset", str(offset)), ("Content-Length", str(size))]
        sock.sendall(request(self.served.url, "PATCH", path, [*self.api.fields, *pairs]) + body)
        return sock

    def wait_for(self, path: str, size: int) -> None:
        """Until so many bytes of it are in its file."""
        uid = path.rpartition("/")[2]
        deadline = time.monotonic() + 60
        while sum(found.stat().st_size for found in self.served.folder.rglob(f"{uid}.*.part")) < size:
            assert time.monotonic() < deadline, list(self.served.folder.rglob(f"*{uid}*"))
            time.sleep(0.01)  # a file cannot be waited for


@pytest.fixture(scope="module")
def tus(shared_server: Any) -> Tus:
    """A client of the module's server."""
    return Tus(shared_server)


@pytest.fixture
def serving(serve: Callable[..., Any]) -> Callable[..., Tus]:
    """``serving(**settings)``: a client of a server with these settings."""
    return lambda **settings: Tus(
        serve(env={f"FOREBAY_{key.upper()}": str(value) for key, value in settings.items()})
    )


def answer_on(sock: socket.socket) -> Whole:
    """What comes on a connection that only a part was sent on, to its end."""
    with Coming(sock, "PATCH") as coming:
        return coming.whole()


def checksum(algorithm: str, body: bytes) -> Pair:
    """The Upload-Checksum of *body*."""
    raw = zlib.crc32(body).to_bytes(4, "big") if algorithm == "crc32" else hashlib.new(algorithm, body).digest()
    return "Upload-Checksum", f"{algorithm} {base64.b64encode(raw).decode()}"


def pair(key: str, value: bytes) -> str:
    """One pair of Upload-Metadata."""
    return f"{key} {base64.b64encode(value).decode()}"


# --- core: the version ------------------------------------------------------------------------------------


def test_every_answer_says_the_version(tus: Tus) -> None:
    """ "The Tus-Resumable header MUST be included in every request and response", errors included."""
    path = tus.create(3)
    for method, target, pairs in (
        ("HEAD", path, ()), ("PATCH", path, ()), ("POST", ROOT, ()), ("DELETE", NOBODYS, ()), ("GET", path, ()),
        ("PUT", ROOT, (EMPTY,)), ("HEAD", NOBODYS, ()), ("OPTIONS", ROOT, ()), ("OPTIONS", path, ()),
    ):  # fmt: skip
        tus.ask(method, target, *pairs)


@pytest.mark.parametrize("said", [(), (("Tus-Resumable", "0.2.2"),), (("Tus-Resumable", "1.0"),)])
def test_another_version_is_not_processed(tus: Tus, said: tuple[Pair, ...]) -> None:
    """ "it MUST respond with the 412 Precondition Failed status and MUST include the Tus-Version header ... In addition,
    the Server MUST NOT process the request"."""
    path = tus.create(3)
    for method, target, pairs in (
        ("POST", ROOT, (("Upload-Length", "3"), EMPTY)),
        ("PATCH", path, (OCTETS, ("Upload-Offset", "0"), ("Content-Length", "3"))),
        ("DELETE", path, ()),
    ):
        answer = tus.api.ask(method, target, *said, *pairs, body=b"abc" if method == "PATCH" else b"")
        assert problem(answer) == (412, "upload_version_refused")
        assert answer.fields["tus-version"] == answer.fields["tus-resumable"] == "1.0.0"
    assert tus.offset(path) == 0


def test_a_head_of_another_version_is_refused(tus: Tus) -> None:
    """412; one that says none is answered: it cannot do harm."""
    path = tus.create(3)
    assert tus.api.ask("HEAD", path, ("Tus-Resumable", "2.0.0")).status == 412
    assert tus.api.ask("HEAD", path).fields["upload-offset"] == "0"


# --- core: OPTIONS ----------------------------------------------------------------------------------------


def test_options_lists_what_is_there(tus: Tus) -> None:
    """ "MUST contain the Tus-Version header"; each extension that is there is named, and no other; `checksum` needs
    `Tus-Checksum-Algorithm` with sha1; without a limit there is no Tus-Max-Size."""
    for target in (ROOT, ROOT.rstrip("/"), NOBODYS):
        answer = tus.ask("OPTIONS", target)
        assert (answer.status, answer.fields["tus-version"]) == (204, "1.0.0")
        assert set(answer.fields["tus-extension"].split(",")) == {
            "creation", "creation-with-upload", "creation-defer-length", "expiration", "checksum", "termination",
            "concatenation",
        }  # fmt: skip
        assert "sha1" in answer.fields["tus-checksum-algorithm"].split(",")
        assert "tus-max-size" not in answer.fields


def test_options_ignores_the_version(tus: Tus) -> None:
    """ "the Server MUST ignore the header"."""
    assert tus.api.ask("OPTIONS", ROOT, ("Tus-Resumable", "7")).status == 204
    assert tus.api.ask("OPTIONS", ROOT).status == 204


def test_a_limit_is_told_and_held(serving: Callable[..., Tus]) -> None:
    """Tus-Max-Size; "If the length of the upload exceeds the maximum ... the Server MUST respond with the 413"; one whose
    length is said later is stopped where it exceeds it, and what came before stays."""
    tus = serving(max_upload_bytes=10)
    assert tus.ask("OPTIONS", ROOT).fields["tus-max-size"] == "10"
    assert problem(tus.ask("POST", ROOT, ("Upload-Length", "11"))) == (413, "upload_too_large")
    assert problem(tus.ask("POST", ROOT, ("Upload-Length", "9" * 30))) == (413, "upload_too_large")
    path = tus.create(None)
    assert tus.patch(path, 0, b"12345678").status == 204
    assert problem(tus.patch(path, 8, b"9012")) == (413, "upload_too_large")
    assert problem(tus.patch(path, 8, b"", ("Upload-Length", "11"))) == (413, "upload_too_large")
    assert tus.offset(path) == 8
    assert tus.patch(path, 8, b"90", ("Upload-Length", "10")).fields["upload-offset"] == "10"


# --- core: HEAD -------------------------------------------------------------------------------------------


def test_head_tells_offset_and_length(tus: Tus) -> None:
    """ "MUST always include the Upload-Offset header ..., even if the offset is 0, or the upload is already considered
    completed"; Upload-Length; "MUST prevent ... caching ... Cache-Control: no-store"."""
    path = tus.create(5)
    for sent, offset in ((b"", "0"), (b"abc", "3"), (b"de", "5")):
        if sent:
            tus.patch(path, int(offset) - len(sent), sent)
        fields = tus.head(path).fields
        assert (fields["upload-offset"], fields["upload-length"]) == (offset, "5")
        assert fields["cache-control"] == "no-store"
        assert "upload-defer-length" not in fields


@pytest.mark.parametrize("name", ["0" * 32, "x", "0" * 31, "%2e%2e", "a/b", "0" * 32 + "/", "%00", "%C3%A4"])
def test_what_is_not_there_has_no_offset(tus: Tus, name: str) -> None:
    """ "SHOULD return either the 404 Not Found ... without the Upload-Offset header"; whatever the name is."""
    for method in ("HEAD", "PATCH", "DELETE", "GET"):
        pairs = (OCTETS, ("Upload-Offset", "0")) if method == "PATCH" else ()
        answer = tus.ask(method, ROOT + name, *pairs)
        assert answer.status == 404
        assert "upload-offset" not in answer.fields
        if method != "HEAD":
            assert problem(answer) == (404, "upload_unknown")


# --- core: PATCH ------------------------------------------------------------------------------------------


def test_patch_appends(tus: Tus) -> None:
    """ "MUST acknowledge successful PATCH requests with the 204 ... MUST include the Upload-Offset header containing the
    new offset"; what arrives is what was sent."""
    body = blob(300_000)
    path = tus.create(len(body))
    for start, stop in ((0, 1), (1, 100_000), (100_000, 100_000), (100_000, len(body))):
        answer = tus.patch(path, start, body[start:stop])
        assert (answer.status, answer.fields["upload-offset"]) == (204, str(stop))
    assert tus.api.get(path).body == body


def test_another_type_is_refused(tus: Tus) -> None:
    """ "All PATCH requests MUST use Content-Type: application/offset+octet-stream, otherwise ... 415"."""
    path = tus.create(3)
    for pairs in ((), (("Content-Type", "application/octet-stream"),), (("Content-Type", "text/plain"),)):
        answer = tus.ask("PATCH", path, ("Upload-Offset", "0"), *pairs, body=b"abc")
        assert problem(answer) == (415, "media_type_refused")
    assert tus.offset(path) == 0


def test_another_offset_changes_nothing(tus: Tus) -> None:
    """ "If the offsets do not match, the Server MUST respond with the 409 Conflict status without modifying the upload
    resource"; the right one is told."""
    path = tus.create(None)
    tus.patch(path, 0, b"abc")
    for offset in ("0", "2", "4", "9" * 40):
        answer = tus.patch(path, offset, b"x", ("Upload-Length", "9"))
        assert problem(answer) == (409, "upload_offset_mismatch")
        assert answer.fields["upload-offset"] == "3"
    assert tus.head(path).fields["upload-defer-length"] == "1"
    assert tus.offset(path) == 3


@pytest.mark.parametrize("offset", ["", "-1", "+3", "3.0", "a", "0x3", "3 3", "9" * 41])
def test_an_offset_that_is_none(tus: Tus, offset: str) -> None:
    """ "The value MUST be a non-negative integer": 400, whatever else it is, and missing as well."""
    path = tus.create(3)
    assert problem(tus.patch(path, offset, b"abc")) == (400, "upload_field_invalid")
    assert problem(tus.ask("PATCH", path, OCTETS, body=b"abc")) == (400, "upload_field_invalid")


def test_more_than_was_declared_is_refused(tus: Tus) -> None:
    """413 before a body is read that says it is too long; one that does not say it is stopped at the end."""
    path = tus.create(5)
    with socket.create_connection(address_of(tus.served.url), timeout=60) as sock:
        pairs = [RESUMABLE, OCTETS, ("Upload-Offset", "0"), ("Content-Length", "6")]
        sock.sendall(request(tus.served.url, "PATCH", path, pairs))
        assert answer_on(sock).status == 413
    chunked = b"6\r\nabcdef\r\n0\r\n\r\n"
    pairs = [RESUMABLE, OCTETS, ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked")]
    answer = tus.api.ask("PATCH", path, *pairs, body=chunked)
    assert problem(answer) == (413, "upload_too_large")
    assert tus.offset(path) == 0


def test_chunks_of_transfer_need_no_length(tus: Tus) -> None:
    """A body in chunks is a body like any other."""
    path = tus.create(5)
    pairs = [RESUMABLE, OCTETS, ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked")]
    answer = tus.api.ask("PATCH", path, *pairs, body=b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")
    assert (answer.status, answer.fields["upload-offset"]) == (204, "5")


def test_a_patch_that_is_cut_keeps_what_came(tus: Tus) -> None:
    """ "The Server SHOULD always attempt to store as much of the received data as possible"."""
    path = tus.create(100)
    with tus.begin(path, 0, 100, b"x" * 40):
        tus.wait_for(path, 40)
    assert tus.offset(path) == 40
    assert tus.patch(path, 40, b"y" * 60).status == 204
    assert tus.api.get(path).body == b"x" * 40 + b"y" * 60


@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
def test_a_client_is_not_locked_out_by_its_own_dead_connection(tus: Tus, method: str) -> None:
    """A newer message takes the session over, and the one that stalls gets 409; none of its bytes come behind."""
    path = tus.create(100)
    with tus.begin(path, 0, 100, b"x" * 40) as stalled:
        tus.wait_for(path, 40)
        if method == "HEAD":
            assert tus.offset(path) == 40
        assert tus.patch(path, 40, b"y" * 10).fields["upload-offset"] == "50"
        answer = answer_on(stalled)
        assert problem(answer) == (409, "upload_taken")
    assert tus.offset(path) == 50


def test_the_session_is_taken_over_from_another_process(shared_pair: Any) -> None:
    """Whichever process of the server a message comes to; the older writer can put no byte behind the newer one's."""
    tus = Tus(shared_pair)
    path = tus.create(64)
    for number in range(8):  # so that both processes write, and cut the other
        with tus.begin(path, 8 * number, 64 - 8 * number, b"x" * 4) as stalled:
            tus.wait_for(path, 8 * number + 4)
            assert tus.patch(path, 8 * number + 4, b"y" * 4).status == 204
            stalled.sendall(b"z" * 4)
            # Broken off or told so, but not taken.
            with contextlib.suppress(Cut):
                assert answer_on(stalled).status == 409
    assert tus.api.get(path).body == b"xxxxyyyy" * 8


def test_two_clients_that_write_one_upload_at_once(tus: Tus) -> None:
    """One of them wins each round, the other one is refused; nothing is torn or twice."""
    size = 8
    path = tus.create(size * 1000)
    with ThreadPoolExecutor(2) as pool:
        for number in range(size):
            bodies = [bytes([65 + number]) * 1000, bytes([97 + number]) * 1000]
            answers = list(pool.map(lambda body, at=number: tus.patch(path, 1000 * at, body), bodies))
            assert sorted(answer.status for answer in answers)[1] == 409
            if tus.offset(path) < 1000 * (number + 1):  # each has cut the other
                tus.patch(path, tus.offset(path), bodies[0][tus.offset(path) - 1000 * number :])
    body = tus.api.get(path).body
    assert len(body) == size * 1000
    assert [set(body[at : at + 1000].lower()) for at in range(0, len(body), 1000)] == [
        {97 + n} for n in range(size)
    ]


def test_a_body_that_stalls_is_given_up(serving: Callable[..., Tus]) -> None:
    """408 when too little comes for the stall window; what came stays."""
    tus = serving(stall_window_s=0.5, stall_bytes_per_s=100)
    path = tus.create(100)
    with tus.begin(path, 0, 100, b"x" * 10) as slow:
        assert problem(answer_on(slow)) == (408, "upload_stalled")
    assert tus.offset(path) == 10


def test_a_complete_upload_takes_nothing_more(tus: Tus) -> None:
    """409, but for the same nothing at its end, whose first answer may have been lost."""
    path = tus.create(3)
    tus.patch(path, 0, b"abc")
    again = tus.patch(path, 3, b"")
    assert (again.status, again.fields["upload-offset"]) == (204, "3")
    assert tus.patch(path, 0, b"abc").status == 409
    assert problem(tus.patch(path, 3, b"d")) == (413, "upload_too_large")
    assert tus.api.get(path).body == b"abc"


# --- core: X-HTTP-Method-Override -------------------------------------------------------------------------


def test_the_method_may_be_said_in_a_field(tus: Tus) -> None:
    """ "MUST be interpreted as the request's method ..., if the header is presented. The actual method of the request MUST
    be ignored"."""
    path = tus.create(3)
    override = "X-HTTP-Method-Override"
    assert tus.ask("POST", path, (override, "PATCH"), OCTETS, ("Upload-Offset", "0"), body=b"ab").status == 204
    assert tus.ask("PUT", path, (override, "HEAD"), EMPTY).fields["upload-offset"] == "2"
    assert tus.ask("PATCH", path, (override, "DELETE")).status == 204
    assert tus.ask("HEAD", path).status == 404
    assert problem(tus.ask("POST", path, (override, "BREW"))) == (405, "method_refused")


def test_methods_that_are_not_there(tus: Tus) -> None:
    """405, and Allow lists those that are."""
    assert tus.ask("PUT", ROOT, EMPTY).fields["allow"] == "OPTIONS, POST"
    assert tus.ask("PUT", NOBODYS, EMPTY).fields["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"


# --- creation ---------------------------------------------------------------------------------------------


def test_creation(tus: Tus) -> None:
    """ "MUST acknowledge ... with the 201 Created status. The Server MUST set the Location header"; no id twice."""
    made = [tus.ask("POST", target, ("Upload-Length", "3")) for target in (ROOT, ROOT.rstrip("/"))]
    for answer in made:
        assert answer.status == 201
        assert re.fullmatch(ROOT + "[0-9a-f]{32}", answer.fields["location"])
        assert "upload-offset" not in answer.fields
    assert made[0].fields["location"] != made[1].fields["location"]


@pytest.mark.parametrize(
    "pairs",
    [
        (), (("Upload-Length", "-1"),), (("Upload-Length", "x"),), (("Upload-Length", ""),),
        (("Upload-Defer-Length", "0"),), (("Upload-Defer-Length", "2"),),
        (("Upload-Length", "1"), ("Upload-Defer-Length", "1")),
        (("Upload-Length", "1"), ("Upload-Metadata", "a,a")),
        (("Upload-Length", "1"), ("Upload-Metadata", "a ???")),
        (("Upload-Length", "1"), ("Upload-Concat", "other")),
    ],
)  # fmt: skip
def test_a_creation_that_says_nothing_or_too_much(tus: Tus, pairs: tuple[Pair, ...]) -> None:
    """400: it "MUST include one of the following headers", Upload-Length or Upload-Defer-Length: 1; "All keys MUST be
    unique"; "the value MUST be Base64 encoded"."""
    assert problem(tus.ask("POST", ROOT, *pairs)) == (400, "upload_field_invalid")


def test_an_empty_upload_is_complete_at_once(tus: Tus) -> None:
    """No PATCH comes for what has no bytes."""
    path = tus.create(0)
    assert tus.head(path).fields["upload-length"] == "0"
    assert (tus.api.get(path).status, tus.api.get(path).body) == (200, b"")


@pytest.mark.parametrize(
    "metadata",
    [
        "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential",
        ",".join([pair("filename", "Übersicht 数据 ملف.csv".encode()), pair("filetype", b"text/csv")]),
        pair("all", bytes(range(256))),
        pair("clé", b"x") + ",a-b_c.d!",
        pair("filename", b"../../etc/passwd") + ",empty ," + pair("x", b"\r\nSet-Cookie: a=b"),
    ],
)
def test_metadata_comes_back_as_it_was(tus: Tus, metadata: str) -> None:
    """ "responses to HEAD requests MUST include the Upload-Metadata header and its value as specified by the Client"."""
    sent = metadata.encode("utf-8").decode("latin-1")
    path = tus.create(1, ("Upload-Metadata", sent))
    assert tus.head(path).fields["upload-metadata"] == sent
    tus.patch(path, 0, b"x")
    assert tus.head(path).fields["upload-metadata"] == sent


def test_without_metadata_none_comes_back(tus: Tus) -> None:
    """Neither for none nor for an empty field, which public clients send."""
    for pairs in ((), (("Upload-Metadata", ""),)):
        assert "upload-metadata" not in tus.head(tus.create(1, *pairs)).fields


# --- creation-with-upload ---------------------------------------------------------------------------------


def test_creation_with_all_of_it_or_a_part(tus: Tus) -> None:
    """ "MUST include the Upload-Offset header in the response and MUST set its value to the offset of the upload after
    applying the accepted bytes"."""
    for body in (b"hel", b"hello"):
        made = tus.ask("POST", ROOT, ("Upload-Length", "5"), OCTETS, body=body)
        assert (made.status, made.fields["upload-offset"]) == (201, str(len(body)))
        path = made.fields["location"]
        assert tus.offset(path) == len(body)
    assert tus.api.get(path).body == b"hello"


def test_a_creation_whose_body_is_refused_leaves_nothing(serving: Callable[..., Tus]) -> None:
    """Its client does not know where it would be: of another type, too long, with another checksum, cut off."""
    tus = serving(max_uploads=1)
    length = ("Upload-Length", "5")
    assert problem(tus.ask("POST", ROOT, length, body=b"hello")) == (415, "media_type_refused")
    assert problem(tus.ask("POST", ROOT, length, OCTETS, body=b"hello!")) == (413, "upload_too_large")
    assert tus.ask("POST", ROOT, length, OCTETS, checksum("sha1", b"x"), body=b"hello").status == 460
    pairs = [RESUMABLE, OCTETS, length, ("Content-Length", "5")]
    with socket.create_connection(address_of(tus.served.url), timeout=60) as sock:
        sock.sendall(request(tus.served.url, "POST", ROOT, pairs) + b"he")
    deadline = time.monotonic() + 60
    while (made := tus.ask("POST", ROOT, length)).status == 429 and time.monotonic() < deadline:
        time.sleep(0.02)  # nobody tells when the server has noticed
    assert made.status == 201
    assert problem(tus.ask("POST", ROOT, length)) == (429, "uploads_too_many")


def test_expect_100_continue_is_answered_once_it_is_wanted(tus: Tus) -> None:
    """ "to receive early feedback": a refusal comes before the body, else the go-ahead."""
    for size, status in (("5", 201), ("4", 413)):
        with socket.create_connection(address_of(tus.served.url), timeout=60) as sock:
            pairs = [
                RESUMABLE,
                OCTETS,
                ("Upload-Length", size),
                ("Content-Length", "5"),
                ("Expect", "100-continue"),
            ]
            sock.sendall(request(tus.served.url, "POST", ROOT, pairs))
            if status == 201:
                assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
                sock.sendall(b"hello")
            assert answer_on(sock).status == status


# --- creation-defer-length --------------------------------------------------------------------------------


def test_a_length_that_is_said_later(tus: Tus) -> None:
    """ "As long as the length of the upload is not known, the Server MUST set Upload-Defer-Length: 1 in all responses to
    HEAD requests"; with the length, even without a byte, it is complete."""
    path = tus.create(None)
    fields = tus.head(path).fields
    assert fields["upload-defer-length"] == "1"
    assert "upload-length" not in fields
    tus.patch(path, 0, b"abc")
    assert tus.head(path).fields["upload-defer-length"] == "1"
    assert problem(tus.api.get(path)) == (409, "upload_incomplete")
    assert tus.patch(path, 3, b"de", ("Upload-Length", "8")).fields["upload-offset"] == "5"
    fields = tus.head(path).fields
    assert fields["upload-length"] == "8"
    assert "upload-defer-length" not in fields
    assert tus.patch(path, 5, b"fgh", ("Upload-Length", "8")).fields["upload-offset"] == "8"
    assert tus.api.get(path).body == b"abcdefgh"
    empty = tus.create(None)
    assert tus.patch(empty, 0, b"", ("Upload-Length", "0")).status == 204
    assert tus.api.get(empty).body == b""


def test_a_length_does_not_change(tus: Tus) -> None:
    """ "Once set the length MUST NOT be changed"; nor can it be less than what is there."""
    path = tus.create(8)
    assert problem(tus.patch(path, 0, b"abc", ("Upload-Length", "9"))) == (400, "upload_length_mismatch")
    assert tus.head(path).fields["upload-length"] == "8"
    deferred = tus.create(None)
    tus.patch(deferred, 0, b"abc")
    assert problem(tus.patch(deferred, 3, b"", ("Upload-Length", "2"))) == (400, "upload_length_mismatch")
    assert problem(tus.patch(deferred, 3, b"", ("Upload-Length", "-2"))) == (400, "upload_field_invalid")
    assert tus.offset(deferred) == 3


# --- expiration -------------------------------------------------------------------------------------------


def test_expiry_is_told(tus: Tus) -> None:
    """ "MUST be included in every PATCH response if the upload is going to expire", and at the creation, in the "datetime
    format" of RFC 9110: a day from the last bytes on."""
    made = tus.ask("POST", ROOT, ("Upload-Length", "3"))
    path = made.fields["location"]
    answers = [made, tus.patch(path, 0, b"a"), tus.head(path), tus.patch(path, 1, b"bc")]
    for answer in answers:
        left = parsedate_to_datetime(answer.fields["upload-expires"]) - datetime.now(UTC)
        assert timedelta(hours=23) < left <= timedelta(hours=24, seconds=1)


def test_an_expired_upload_is_gone(serving: Callable[..., Tus]) -> None:
    """ "SHOULD respond with the 404 Not Found or 410 Gone"."""
    tus = serving(upload_expiry_s=0.05)
    path = tus.create(3)
    deadline = time.monotonic() + 60
    while tus.ask("GET", path).status == 409 and time.monotonic() < deadline:
        time.sleep(0.02)
    for answer in (tus.ask("HEAD", path), tus.patch(path, 0, b"abc"), tus.ask("GET", path)):
        assert answer.status in (404, 410)
        assert "upload-offset" not in answer.fields


# --- checksum ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512", "md5", "crc32"])
def test_checksums_are_verified(tus: Tus, algorithm: str) -> None:
    """204 when it matches; else 460, and "the uploaded chunk MUST be discarded, and the upload and its offset MUST NOT be
    updated"; each algorithm that is listed."""
    assert algorithm in tus.ask("OPTIONS", ROOT).fields["tus-checksum-algorithm"].split(",")
    path = tus.create(11)
    assert tus.patch(path, 0, b"hello ", checksum(algorithm, b"hello ")).fields["upload-offset"] == "6"
    answer = tus.patch(path, 6, b"w0rld", checksum(algorithm, b"world"))
    assert problem(answer) == (460, "upload_checksum_mismatch")
    assert tus.offset(path) == 6
    assert tus.patch(path, 6, b"world", checksum(algorithm, b"world")).fields["upload-offset"] == "11"
    assert tus.api.get(path).body == b"hello world"


@pytest.mark.parametrize("said", ["sha3-256 YQ==", "SHA1 YQ==", "sha1", "sha1 !", "sha1 YQ==", "", "md5  "])
def test_a_checksum_of_another_kind(tus: Tus, said: str) -> None:
    """ "400 Bad Request if the checksum algorithm is not supported", or if it is none; nothing is taken."""
    path = tus.create(5)
    assert problem(tus.patch(path, 0, b"hello", ("Upload-Checksum", said))) == (400, "upload_field_invalid")
    assert tus.offset(path) == 0


def test_what_is_cut_under_a_checksum_is_not_kept(tus: Tus) -> None:
    """Nobody can say whether it was right."""
    path = tus.create(100)
    sock = socket.create_connection(address_of(tus.served.url), timeout=60)
    with sock:
        pairs = [RESUMABLE, OCTETS, ("Upload-Offset", "0"), ("Content-Length", "100"), checksum("sha1", b"x" * 100)]
        sock.sendall(request(tus.served.url, "PATCH", path, pairs) + b"x" * 40)
    assert tus.offset(path) == 0
    assert tus.patch(path, 0, b"x" * 100, checksum("sha1", b"x" * 100)).status == 204


# --- termination ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"ab", b"abc"])
def test_termination(tus: Tus, sent: bytes) -> None:
    """ "MUST respond with the 204 No Content status"; of a finished one, too; then 404."""
    path = tus.create(3)
    if sent:
        tus.patch(path, 0, sent)
    assert tus.ask("DELETE", path).status == 204
    for answer in (tus.ask("HEAD", path), tus.ask("DELETE", path), tus.patch(path, 0, b"abc"), tus.api.get(path)):
        assert answer.status == 404


def test_termination_cuts_whoever_writes(tus: Tus) -> None:
    """The connection that still sends is told."""
    path = tus.create(100)
    with tus.begin(path, 0, 100, b"x" * 40) as stalled:
        tus.wait_for(path, 40)
        assert tus.ask("DELETE", path).status == 204
        assert answer_on(stalled).status in (404, 409)
    assert tus.ask("HEAD", path).status == 404


# --- concatenation ----------------------------------------------------------------------------------------


def part(tus: Tus, body: bytes, size: int | None = None) -> str:
    """The path of a partial upload that has *body*."""
    path = tus.create(len(body) if size is None else size, ("Upload-Concat", "partial"))
    if body:
        assert tus.patch(path, 0, body).status == 204
    return path


def test_partial_uploads_become_one(tus: Tus) -> None:
    """ "MUST be concatenated as per the order specified in the list"; HEAD: Upload-Concat "as received", Upload-Offset and
    Upload-Length "MUST be equal"; the metadata is the final one's own."""
    body = blob(100_000)
    parts = [part(tus, body[:30_000]), part(tus, body[30_000:30_001]), part(tus, b""), part(tus, body[30_001:])]
    urls = [
        parts[0],
        tus.served.url + parts[1],
        parts[2].rpartition("/")[2],
        "https://elsewhere.example" + parts[3],
    ]
    concat = "final;" + " ".join(urls)
    made = tus.ask("POST", ROOT, ("Upload-Concat", concat), ("Upload-Metadata", pair("filename", b"a.bin")))
    assert made.status == 201
    path = made.fields["location"]
    fields = tus.head(path).fields
    assert fields["upload-concat"] == concat
    assert fields["upload-metadata"] == pair("filename", b"a.bin")
    assert fields["upload-offset"] == fields["upload-length"] == "100000"
    got = tus.api.get(path)
    assert got.body == body
    assert got.fields["repr-digest"] == digest_field(body)


def test_asking_for_the_same_final_upload_again(tus: Tus) -> None:
    """The answer may have been lost: it is given again, but not to another question, nor once the upload is gone."""
    concat = ("Upload-Concat", f"final;{part(tus, b'ab')} {part(tus, b'cd')}")
    name = ("Upload-Metadata", pair("filename", b"a.bin"))

    def again(*pairs: Pair) -> Any:
        return tus.ask("POST", ROOT, concat, *pairs)

    path = again(name).fields["location"]
    same = again(name)
    assert (same.status, same.fields["location"]) == (201, path)
    assert again().status == 404
    assert problem(again(name, ("Repr-Digest", digest_field(b"abc")))) == (422, "upload_mismatch")
    assert again(name, ("Repr-Digest", digest_field(b"abcd"))).status == 201
    assert tus.ask("DELETE", path).status == 204
    assert again(name).status == 404


def test_a_partial_upload_says_so(tus: Tus) -> None:
    """ "HEAD requests against partial or final upload MUST include the Upload-Concat header" and a partial one's offset; it
    is no content that could be read."""
    path = part(tus, b"abc", 5)
    fields = tus.head(path).fields
    assert (fields["upload-concat"], fields["upload-offset"], fields["upload-length"]) == ("partial", "3", "5")
    assert problem(tus.ask("GET", path)) == (405, "method_refused")
    tus.patch(path, 3, b"de")
    assert tus.offset(path) == 5
    assert problem(tus.ask("GET", path)) == (405, "method_refused")


def test_a_final_upload_is_not_changed(tus: Tus) -> None:
    """ "MUST respond with the 403 Forbidden status to PATCH requests against a final upload URL"."""
    path = tus.ask("POST", ROOT, ("Upload-Concat", f"final;{part(tus, b'ab')} {part(tus, b'cd')}")).fields[
        "location"
    ]
    for offset in (0, 4):
        assert problem(tus.patch(path, offset, b"")) == (403, "upload_finished")
        assert problem(tus.patch(path, offset, b"x")) == (403, "upload_finished")
    assert tus.api.get(path).body == b"abcd"


def test_parts_that_cannot_be_made_one(tus: Tus) -> None:
    """Unknown ones, none, unfinished ones (it is not advertised), one that is no part, a length, a body; the parts stay."""
    one, half = part(tus, b"ab"), part(tus, b"a", 2)
    whole = tus.create(1)
    tus.patch(whole, 0, b"x")

    def refused(concat: str, *pairs: Pair, **how: Any) -> int:
        return tus.ask("POST", ROOT, ("Upload-Concat", concat), *pairs, **how).status

    assert refused(f"final;{one} {NOBODYS}") == 404
    assert refused("final;") == 400
    assert refused(f"final;{one} {half}") == 409
    assert 400 <= refused(f"final;{one} {whole}") < 500
    assert refused(f"final;{one}", ("Upload-Length", "2")) == 400
    assert refused(f"final;{one}", OCTETS, body=b"x") == 400
    assert tus.offset(one) == 2
    tus.patch(half, 1, b"b")
    assert refused(f"final;{one} {half}") == 201


# --- a finished upload, out again -------------------------------------------------------------------------


def test_get_serves_a_finished_upload(tus: Tus) -> None:
    """With its name and type, ranges, validators and digest as every content; no guess of ours makes it a page."""
    body = blob(300_000)
    metadata = ",".join([pair("filename", "Übersicht.html".encode()), pair("filetype", b"text/html")])
    made = tus.ask(
        "POST", ROOT, ("Upload-Length", str(len(body))), OCTETS, ("Upload-Metadata", metadata), body=body
    )
    path = made.fields["location"]
    got = tus.api.get(path)
    assert (got.status, got.body) == (200, body)
    assert got.fields["repr-digest"] == digest_field(body)
    assert got.fields["content-type"] == "text/html"
    assert got.fields["content-security-policy"] == "sandbox"
    assert "filename*=UTF-8''%C3%9Cbersicht.html" in got.fields["content-disposition"]
    etag = got.fields["etag"]
    ranged = tus.api.get(path, ("Range", "bytes=5-9"), ("If-Range", etag))
    assert (ranged.status, ranged.body) == (206, body[5:10])
    assert ranged.fields["content-range"] == f"bytes 5-9/{len(body)}"
    assert tus.api.get(path, ("If-None-Match", etag)).status == 304
    assert problem(tus.api.get(path, ("Range", "bytes=300000-")))[0] == 416


def test_get_of_an_unfinished_upload(tus: Tus) -> None:
    """409 says what is missing; the client that still sends is not disturbed."""
    path = tus.create(100)
    with tus.begin(path, 0, 100, b"x" * 40) as going:
        tus.wait_for(path, 40)
        assert problem(tus.api.get(path)) == (409, "upload_incomplete")
        going.sendall(b"y" * 60)
        assert answer_on(going).fields["upload-offset"] == "100"
    assert tus.api.get(path).body == b"x" * 40 + b"y" * 60


# --- who may ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(serve_shared: Callable[..., Any]) -> dict[str, Tus]:
    """Clients of one server, by the name of their token."""
    served = serve_shared("--allow-origin", "https://app.example.org")
    found = {"nobody": Tus(served)}
    for name, scopes in (("ada", "read,write"), ("bob", "read,write"), ("reader", "read"), ("writer", "write")):
        argv = [sys.executable, "-m", "forebay", "token", "add", name, "--scope", scopes, "--json"]
        made = subprocess.run([*argv, "--data", str(served.folder)], capture_output=True, text=True, check=True)
        found[name] = Tus(served, json.loads(made.stdout)["secret"])
    return found


def test_owners_see_only_their_own(guarded: dict[str, Tus]) -> None:
    """Another owner's upload is one that does not exist, whatever is asked of it."""
    ada, bob = guarded["ada"], guarded["bob"]
    path = ada.create(3)
    partial = part(ada, b"abc")
    for answer in (
        bob.ask("HEAD", path), bob.patch(path, 0, b"abc"), bob.ask("DELETE", path), bob.ask("GET", path),
        bob.ask("POST", ROOT, ("Upload-Concat", f"final;{partial}")),
    ):  # fmt: skip
        assert answer.status == 404
    assert ada.patch(path, 0, b"abc").status == 204
    assert ada.ask("GET", path).body == b"abc"


def test_scopes(guarded: dict[str, Tus]) -> None:
    """`write` to upload, which HEAD belongs to, `read` to read it; what can be done is told to everybody."""
    writer, nobody, reader = guarded["writer"], guarded["nobody"], guarded["reader"]
    path = writer.create(3)
    assert writer.offset(path) == 0
    assert problem(writer.ask("GET", path)) == (403, "scope_missing")
    assert problem(reader.ask("POST", ROOT, ("Upload-Length", "3"))) == (403, "scope_missing")
    assert reader.ask("HEAD", path).status == 403
    for answer in (nobody.ask("POST", ROOT, ("Upload-Length", "3")), nobody.patch(path, 0, b"abc")):
        assert problem(answer) == (401, "token_missing")
    assert nobody.ask("OPTIONS", ROOT).status == 204
    # A method in a field does not get around it.
    answer = reader.ask("GET", path, ("X-HTTP-Method-Override", "DELETE"))
    assert problem(answer) == (403, "scope_missing")


def test_pages_of_other_sites_may_not_upload(tus: Tus) -> None:
    """403, unless a setting names their origin; and there are no CORS fields for them."""
    path = tus.create(3)
    for said in (("Origin", "https://app.example.org"), ("Sec-Fetch-Site", "cross-site"), ("Origin", "null")):
        for method, target in (("POST", ROOT), ("PATCH", path), ("DELETE", path), ("HEAD", path)):
            answer = tus.ask(method, target, said, ("Upload-Length", "3"))
            assert answer.status == 403
            assert not [name for name in answer.fields if name.startswith("access-control-")]
    own = tus.ask(
        "POST", ROOT, ("Origin", tus.served.url), ("Sec-Fetch-Site", "same-origin"), ("Upload-Length", "3")
    )
    assert own.status == 201


def test_pages_of_allowed_origins_may(guarded: dict[str, Tus]) -> None:
    """They are asked before (without a token), may send what they like, and read what the protocol says, errors
    included; of other places of this server they get nothing."""
    nobody, ada = guarded["nobody"], guarded["ada"]
    site = (("Origin", "https://app.example.org"), ("Sec-Fetch-Site", "cross-site"))
    wanted = "authorization,content-type,tus-resumable,upload-length,x-mine"
    preflight = nobody.api.ask(
        "OPTIONS",
        ROOT,
        *site,
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", wanted),
    )
    assert preflight.status == 204
    assert preflight.fields["access-control-allow-origin"] == "https://app.example.org"
    assert preflight.fields["access-control-allow-headers"] == wanted
    assert {"POST", "HEAD", "PATCH", "DELETE"} <= set(preflight.fields["access-control-allow-methods"].split(", "))
    made = ada.ask("POST", ROOT, *site, ("Upload-Length", "3"))
    assert made.status == 201
    refused = nobody.ask("POST", ROOT, *site, ("Upload-Length", "3"))
    assert refused.status == 401
    for answer in (made, refused):
        assert answer.fields["access-control-allow-origin"] == "https://app.example.org"
        assert {"Location", "Upload-Offset"} <= set(answer.fields["access-control-expose-headers"].split(", "))
        assert answer.fields["vary"] == "Origin"
        assert "access-control-allow-credentials" not in answer.fields
    other = ada.ask("POST", ROOT, ("Origin", "https://other.example.org"), ("Upload-Length", "3"))
    assert (other.status, "access-control-allow-origin" in other.fields) == (403, False)
    assert ada.api.ask("PUT", "/v1/request/", *site, EMPTY).status == 403


# --- what is there after a crash --------------------------------------------------------------------------


def test_what_was_acknowledged_survives_kill_9(serve: Callable[..., Any]) -> None:
    """After a PATCH was answered, and in the middle of the next one; the server that is started anew goes on."""
    served = serve()
    tus = Tus(served)
    path = tus.create(10, ("Upload-Metadata", pair("filename", b"a")))
    whole = tus.ask("POST", ROOT, ("Upload-Length", "3"), OCTETS, body=b"abc").fields["location"]
    tus.patch(path, 0, b"01234")
    with tus.begin(path, 5, 5, b"56"):
        tus.wait_for(path, 7)
        served.kill()
    tus = Tus(serve())
    offset = tus.offset(path)
    assert 5 <= offset <= 7
    assert tus.patch(path, offset, b"0123456789"[offset:]).fields["upload-offset"] == "10"
    assert tus.api.get(path).body == b"0123456789"
    assert tus.head(path).fields["upload-metadata"] == pair("filename", b"a")
    assert tus.api.get(whole).body == b"abc"
