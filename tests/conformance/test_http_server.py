"""Each MUST of RFC 9110 sections 8, 13 and 14, with what they lean on in 5, 6, 9 and 15, that touches a server which
gives out content: asked of a real one. What a case is about is in its first word, the section; words in quotes are
the RFC's.

Every case is asked of a version's own place and of the door, of a small content, which is sent from memory, and of
a large one, which is sent from its file.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from origin import Coded, Origin, Resource, Stall, blob, http_date
from raw import Api, Whole, address_of, problem, request

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = "Sun, 06 Nov 1994 08:49:36 GMT"
LATER = "Sun, 06 Nov 1994 08:49:38 GMT"
OTHER = '"another"'


@dataclass(frozen=True)
class Target:
    """A content, and where it is."""

    api: Api
    path: str
    body: bytes
    etag: str

    def get(self, *pairs: tuple[str, str]) -> Whole:
        """What answers a GET."""
        return self.ask("GET", *pairs)

    def ask(self, method: str, *pairs: tuple[str, str], **how: Any) -> Whole:
        """What answers *method*; with ``{e}`` in a field for the ETag and ``{n}`` for the length."""
        filled = [
            (name, value.replace("{e}", self.etag).replace("{n}", str(len(self.body)))) for name, value in pairs
        ]
        return self.api.ask(method, self.path, *filled, **how)


@pytest.fixture(scope="module")
def module_origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture(scope="module", params=["place-small", "place-large", "door-small", "door-large"])
def target(request: pytest.FixtureRequest, shared_server: Any, module_origin: Origin) -> Target:
    """A content with an ETag and a Last-Modified that is a strong validator."""
    where, size = request.param.split("-")
    body = blob(1000 if size == "small" else 200_000)
    url = module_origin.url(f"/{size}.csv")
    module_origin.serve(f"/{size}.csv", Resource(body, last_modified=DATE, media_type="text/csv"))
    api = Api(shared_server)
    path = f"/r/{url}" if where == "door" else api.store(url)
    return Target(api, path, body, api.ask("HEAD", path).fields["etag"])


# --- the whole, and what is said of it ---------------------------------------------------------------------


def test_5_3_and_6_6_1_every_answer_is_well_formed(target: Target) -> None:
    """6.6.1: Date MUST be there, in the 2xx, 3xx and 4xx classes; 5.3: no field twice that is no list."""
    for method, pairs in (
        ("GET", ()), ("HEAD", ()), ("GET", (("If-None-Match", "{e}"),)), ("GET", (("If-Match", OTHER),)),
        ("GET", (("Range", "bytes=0-0"),)), ("GET", (("Range", "bytes=0-0,5-5"),)),
        ("GET", (("Range", "bytes={n}-"),)), ("POST", (("Content-Length", "0"),)),
    ):  # fmt: skip
        answer = target.ask(method, *pairs)
        names = [name.lower() for name, _ in answer.fields.pairs]
        assert len(names) == len(set(names)), (method, pairs, names)
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.fields["date"])


def test_8_3_the_type_is_said(target: Target) -> None:
    """8.3: a message with content "SHOULD generate a Content-Type"."""
    assert target.get().fields["content-type"] == "text/csv"


def test_8_6_the_length_is_that_of_the_content(target: Target) -> None:
    """8.6: a Content-Length that is known to be wrong "MUST NOT" be sent; for HEAD, only that of the GET."""
    got, head = target.get(), target.ask("HEAD")
    assert (
        got.fields["content-length"] == head.fields["content-length"] == str(len(got.body)) == str(len(target.body))
    )
    assert got.body == target.body


def test_8_6_a_304_has_no_other_length(target: Target) -> None:
    """8.6: none, or that of the 200."""
    fields = target.get(("If-None-Match", "{e}")).fields
    assert fields.get("content-length") in (None, str(len(target.body)))


def test_9_3_2_head_has_no_content_and_the_fields_of_get(target: Target) -> None:
    """9.3.2: "the server MUST NOT send content"; the connection would be out of step."""
    with socket.create_connection(address_of(target.api.served.url), timeout=60) as sock:
        sock.sendall(request(target.api.served.url, "HEAD", target.path) * 2)
        sock.sendall(request(target.api.served.url, "HEAD", target.path, [("Connection", "close")]))
        raw = b"".join(iter(lambda: sock.recv(65536), b""))
    heads = raw.split(b"\r\n\r\n")
    assert [head[:15] for head in heads] == [b"HTTP/1.1 200 OK"] * 3 + [b""]
    got, head = target.get(), target.ask("HEAD")
    assert head.fields.without("date", "age", "cache-status") == got.fields.without("date", "age", "cache-status")


def test_9112_9_3_2_requests_in_a_row_are_answered_in_their_order(target: Target) -> None:
    """RFC 9112 section 9.3.2: one connection, none waited for; each answer ends where it says."""
    api, parts = target.api, [(0, 9), (5, 5), None, (990, 999), None]
    fields = [[] if part is None else [("Range", f"bytes={part[0]}-{part[1]}")] for part in parts]
    with socket.create_connection(address_of(api.served.url), timeout=60) as sock:
        sock.sendall(b"".join(request(api.served.url, "GET", target.path, pairs) for pairs in fields))
        with sock.makefile("rb") as answers:
            for part in parts:
                head = b"".join(iter(answers.readline, b"\r\n")).decode().lower()
                assert head.startswith("http/1.1 200 " if part is None else "http/1.1 206 ")
                size = int(re.search(r"content-length: (\d+)", head)[1])  # type: ignore[index]
                expected = target.body if part is None else target.body[part[0] : part[1] + 1]
                assert answers.read(size) == expected


def test_8_7_what_content_location_names_is_the_same(target: Target) -> None:
    """8.7: it claims that a GET there would give the same."""
    answer = target.get()
    place = answer.fields.get("content-location", target.path)
    assert target.api.get(place).body == answer.body
    assert target.api.get(place).fields["etag"] == answer.fields["etag"]


def test_8_8_2_last_modified_is_that_of_the_origin(target: Target) -> None:
    """8.8.2: as an HTTP-date, in the form that senders MUST generate (5.6.7)."""
    assert target.get().fields["last-modified"] == DATE


def test_8_8_3_the_entity_tag_is_strong_and_well_formed(target: Target) -> None:
    """8.8.3: quoted, without W/; 8.8.1: the same as long as the bytes are the same."""
    assert re.fullmatch(r'"[\x21\x23-\x7e]+"', target.etag)
    assert {target.get().fields["etag"] for _ in range(3)} == {target.etag}


def test_14_3_ranges_are_offered(target: Target) -> None:
    """14.3: with 200 and 206, to GET and HEAD."""
    for answer in (target.get(), target.ask("HEAD"), target.get(("Range", "bytes=0-0"))):
        assert answer.fields["accept-ranges"] == "bytes"


# --- 13: preconditions ------------------------------------------------------------------------------------

# Fields, and the status that MUST come of them; W/ marks the weak comparison, which only If-None-Match uses.
PRECONDITIONS: list[tuple[str, list[tuple[str, str]], int]] = [
    ("13.1.1 * is any current representation", [("If-Match", "*")], 200),
    ("13.1.1 one that is listed matches", [("If-Match", "{e}")], 200),
    ("13.1.1 among others, too", [("If-Match", f"{OTHER}, {{e}}")], 200),
    ("13.1.1 and over several lines", [("If-Match", OTHER), ("If-Match", "{e}")], 200),
    ("13.1.1 with empty members (5.6.1.2)", [("If-Match", ",, {e} ,")], 200),
    ("13.1.1 none that is listed matches", [("If-Match", OTHER)], 412),
    ("13.1.1 the comparison MUST be strong", [("If-Match", "W/{e}")], 412),
    ("13.1.1 what is no entity-tag matches nothing", [("If-Match", "{e}x")], 412),
    ("13.1.1 a comma inside is no separator", [("If-Match", '"a,b"')], 412),
    ("13.1.2 * is any current representation", [("If-None-Match", "*")], 304),
    ("13.1.2 one that is listed matches", [("If-None-Match", "{e}")], 304),
    ("13.1.2 among others, too", [("If-None-Match", f"W/{OTHER}, {{e}}")], 304),
    ("13.1.2 the comparison MUST be weak", [("If-None-Match", "W/{e}")], 304),
    ("13.1.2 none that is listed matches", [("If-None-Match", OTHER)], 200),
    ("13.1.3 not modified since", [("If-Modified-Since", DATE)], 304),
    ("13.1.3 not modified since a later date", [("If-Modified-Since", LATER)], 304),
    ("13.1.3 modified since", [("If-Modified-Since", EARLIER)], 200),
    ("13.1.3 in the obsolete forms (5.6.7)", [("If-Modified-Since", "Sunday, 06-Nov-94 08:49:37 GMT")], 304),
    ("13.1.3 in the obsolete forms (5.6.7)", [("If-Modified-Since", "Sun Nov  6 08:49:37 1994")], 304),
    ("13.1.3 MUST be ignored beside If-None-Match", [("If-None-Match", OTHER), ("If-Modified-Since", DATE)], 200),
    ("13.1.3 MUST be ignored when it is no date", [("If-Modified-Since", "yesterday")], 200),
    ("13.1.3 MUST be ignored when it is no date", [("If-Modified-Since", "{e}")], 200),
    ("13.1.3 MUST be ignored with two members", [("If-Modified-Since", DATE), ("If-Modified-Since", DATE)], 200),
    ("13.1.4 not modified since", [("If-Unmodified-Since", DATE)], 200),
    ("13.1.4 not modified since a later date", [("If-Unmodified-Since", LATER)], 200),
    ("13.1.4 modified since", [("If-Unmodified-Since", EARLIER)], 412),
    ("13.1.4 MUST be ignored beside If-Match", [("If-Match", "{e}"), ("If-Unmodified-Since", EARLIER)], 200),
    ("13.1.4 MUST be ignored when it is no date", [("If-Unmodified-Since", "yesterday")], 200),
    ("13.1.4 MUST be ignored with two members", [("If-Unmodified-Since", EARLIER)] * 2, 200),
    ("13.1.5 MUST be ignored without Range", [("If-Range", OTHER)], 200),
    ("13.2.2 1 before 3", [("If-Match", OTHER), ("If-None-Match", "{e}")], 412),
    ("13.2.2 1 then 3", [("If-Match", "{e}"), ("If-None-Match", "{e}")], 304),
    ("13.2.2 1 then 4", [("If-Match", "{e}"), ("If-Modified-Since", DATE)], 304),
    ("13.2.2 2 before 3", [("If-Unmodified-Since", EARLIER), ("If-None-Match", "{e}")], 412),
    ("13.2.2 2 then 4", [("If-Unmodified-Since", DATE), ("If-Modified-Since", DATE)], 304),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("case", "pairs", "status"), PRECONDITIONS, ids=[case[0] for case in PRECONDITIONS])
def test_13_preconditions(
    target: Target, method: str, case: str, pairs: list[tuple[str, str]], status: int
) -> None:
    """13.2.1: they MUST be evaluated before the method is performed, for HEAD as for GET."""
    answer = target.ask(method, *pairs)
    assert answer.status == status
    if status != 200 or method == "HEAD":
        assert status == 412 or answer.body == b""
    else:
        assert answer.body == target.body


def test_13_2_1_preconditions_are_ignored_where_there_is_no_success(target: Target) -> None:
    """13.2.1: "A server MUST ignore all received preconditions if its response to the same request without those
    conditions […] would have been a status code other than a 2xx or 412"; and with other methods than these."""
    for pairs in (("If-Match", OTHER), ("If-None-Match", "*"), ("If-Unmodified-Since", EARLIER)):
        assert target.ask("POST", pairs, ("Content-Length", "0")).status == 405
        assert target.ask("OPTIONS", pairs).status == 405
        assert target.api.get(f"/v1/request/{'0' * 32}/response/v/x/content", pairs).status == 404
        assert target.ask("GET", pairs, ("Host", "evil.example")).status == 421
        assert target.api.get("/r/ftp://h/", pairs).status == 422


def test_13_2_2_range_comes_after_the_preconditions(target: Target) -> None:
    """Steps 5 and 6: Range is looked at when everything before is true."""
    part = ("Range", "bytes=0-9")
    assert target.get(part, ("If-Match", OTHER)).status == 412
    assert target.get(part, ("If-None-Match", "{e}")).status == 304
    assert target.get(("Range", "bytes={n}-"), ("If-Match", OTHER)).status == 412
    assert target.get(("Range", "bytes={n}-"), ("If-None-Match", "{e}")).status == 304
    assert target.get(part, ("If-Match", "{e}")).status == 206


@pytest.mark.parametrize(
    ("case", "value", "status"),
    [
        ("a strong match", "{e}", 206),
        ("its date, to the letter", DATE, 206),
        ("the comparison MUST be strong", "W/{e}", 200),
        ("another", OTHER, 200),
        ("a list is no entity-tag", "{e}, {e}", 200),
        ("a date MUST match exactly: a later one does not", LATER, 200),
        ("a date MUST match exactly: an earlier one does not", EARLIER, 200),
        ("a date MUST match exactly: in another form it does not", "Sunday, 06-Nov-94 08:49:37 GMT", 200),
        ("what is neither", "junk", 200),
        ("* is neither", "*", 200),
    ],
)
def test_13_1_5_if_range(target: Target, case: str, value: str, status: int) -> None:
    """13.1.5: Range MUST be ignored when the condition is false."""
    answer = target.get(("Range", "bytes=10-19"), ("If-Range", value))
    assert (answer.status, answer.body) == (status, target.body[10:20] if status == 206 else target.body)


def test_15_4_5_a_304_has_what_a_cache_needs(target: Target) -> None:
    """15.4.5: MUST have Content-Location, Date, ETag, Vary, Cache-Control and Expires as the 200 would; no content."""
    whole, same = target.get().fields, target.get(("If-None-Match", "{e}"))
    for name in ("content-location", "etag", "vary", "cache-control", "expires"):
        assert same.fields.get(name) == whole.get(name)
    assert "date" in same.fields
    assert "transfer-encoding" not in same.fields
    assert "content-range" not in same.fields


# --- 14: ranges ---------------------------------------------------------------------------------------------

BIG = "9" * 40
# What is asked of n bytes, and what MUST come of it: (first, last) of each part, None for the whole, 416.
RANGES: list[tuple[str, str, Any]] = [
    ("14.1.2 the first", "bytes=0-0", [(0, 0)]),
    ("14.1.2 both ends count", "bytes=10-19", [(10, 19)]),
    ("14.1.2 to the end", "bytes=990-", [(990, -1)]),
    ("14.1.2 the last", "bytes=-1", [(-1, -1)]),
    ("14.1.2 past the end is to the end", f"bytes=990-{BIG}", [(990, -1)]),
    ("14.1.2 a suffix longer than all is all", f"bytes=-{BIG}", [(0, -1)]),
    ("14.1.2 leading zeros", "bytes=00-00000000000000000000000000009", [(0, 9)]),
    ("14.1.1 the unit in any case", "BYTES=0-0", [(0, 0)]),
    ("14.1.2 spaces around members", "bytes= 0-0 , 5-5", [(0, 0), (5, 5)]),
    ("14.1.2 empty members", "bytes=,0-0,,5-5,", [(0, 0), (5, 5)]),
    ("14.1.2 one of two can be had", "bytes=0-9,{n}-", [(0, 9)]),
    ("14.2 those that overlap may be one", "bytes=0-9,5-14", [(0, 14)]),
    ("15.5.17 behind the end", "bytes={n}-", 416),
    ("15.5.17 far behind the end", f"bytes={BIG}-", 416),
    ("15.5.17 a suffix of nothing", "bytes=-0", 416),
    ("15.5.17 none of several can be had", "bytes={n}-,-0", 416),
    ("14.2 another unit MUST be ignored", "lines=0-9", None),
    ("14.2 another unit MUST be ignored", "none=", None),
    ("14.1.1 last before first is invalid", "bytes=10-9", None),
    ("14.1.1 one that is invalid spoils all", "bytes=0-9,10-9", None),
    ("14.1.1 no range at all", "bytes=", None),
    ("14.1.1 no range at all", "bytes=-", None),
    ("14.1.1 no number", "bytes=a-b", None),
    ("14.1.1 no number", "bytes=0x0-0xf", None),
    ("14.1.1 no number", "bytes=+0-9", None),
    ("14.1.1 no number", "bytes=٠-٩".encode().decode("latin-1"), None),
    ("14.1.1 no unit", "0-9", None),
    ("14.1.1 spaces inside", "bytes=0 - 9", None),
    ("14.1.1 no equals sign", "bytes 0-9", None),
    ("14.2 very many may be ignored", "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 990, 2)), None),
]


@pytest.mark.parametrize(("case", "value", "expected"), RANGES, ids=[case[0] for case in RANGES])
def test_14_ranges(target: Target, case: str, value: str, expected: Any) -> None:
    """Each part is what it says, and says what it is (14.4, 14.6, 15.3.7)."""
    answer, size = target.get(("Range", value)), len(target.body)
    if expected is None:
        assert (answer.status, answer.body) == (200, target.body)
        assert "content-range" not in answer.fields
        return
    if expected == 416:
        assert problem(answer) == (416, "range_not_satisfiable")
        assert answer.fields["content-range"] == f"bytes */{size}"
        return
    spans = [(first % size, last % size) for first, last in expected]
    assert answer.status == 206
    assert answer.fields["content-length"] == str(len(answer.body))
    if len(spans) == 1:
        # 15.3.7.2: "MUST NOT generate a multipart response to a request for a single range".
        assert _parts(answer) == []
        assert [(answer.fields["content-range"], answer.body)] == _expected(target.body, spans)
    else:
        # 15.3.7.2: "MUST NOT generate a Content-Range header field in the […] multiple part response".
        assert "content-range" not in answer.fields
        assert _parts(answer) == _expected(target.body, spans)


def _expected(body: bytes, spans: list[tuple[int, int]]) -> list[tuple[str, bytes]]:
    return [(f"bytes {first}-{last}/{len(body)}", body[first : last + 1]) for first, last in spans]


def _parts(answer: Whole) -> list[tuple[str, bytes]]:
    """Content-Range and content of each body part (14.6)."""
    if not answer.fields["content-type"].startswith("multipart/byteranges"):
        return []
    head = f"Content-Type: {answer.fields['content-type']}\r\n\r\n".encode()
    parts: Any = message_from_bytes(head + answer.body).get_payload()
    assert {part["content-type"] for part in parts} == {"text/csv"}
    return [(part["content-range"], part.get_payload(decode=True)) for part in parts]


def test_14_2_range_is_for_get_alone(target: Target) -> None:
    """14.2: with another method it MUST be ignored."""
    for value in ("bytes=0-9", "bytes={n}-"):
        head = target.ask("HEAD", ("Range", value))
        assert (head.status, head.fields["content-length"]) == (200, str(len(target.body)))
        assert "content-range" not in head.fields
        assert target.ask("POST", ("Range", value), ("Content-Length", "0")).status == 405


def test_14_2_a_range_field_over_two_lines_is_a_list(target: Target) -> None:
    """5.3: lines of one field are one value; "bytes=0-9, bytes=20-29" is no ranges-specifier, so it is ignored."""
    answer = target.get(("Range", "bytes=0-9"), ("Range", "bytes=20-29"))
    assert (answer.status, answer.body) == (200, target.body)


def test_15_3_7_a_206_has_what_a_client_combines_by(target: Target) -> None:
    """15.3.7: MUST have Date, Cache-Control, ETag, Expires, Content-Location and Vary as the 200 would; with
    If-Range it SHOULD have no other metadata, for the client has that."""
    whole = target.get().fields
    for pairs in (
        (("Range", "bytes=0-9"),),
        (("Range", "bytes=0-9,20-29"),),
        (("Range", "bytes=0-9"), ("If-Range", "{e}")),
    ):
        part = target.get(*pairs).fields
        for name in ("cache-control", "etag", "expires", "content-location", "vary"):
            assert part.get(name) == whole.get(name)
        assert "date" in part
    assert "content-type" not in part
    assert "last-modified" not in part
    dated = target.get(("Range", "bytes=0-9"), ("If-Range", DATE)).fields
    assert dated["last-modified"] == DATE  # that is what this client combines by


def test_14_5_a_part_is_not_put(target: Target) -> None:
    """14.5: a PUT with Content-Range where it is not supported is refused; here every PUT is."""
    refused = target.ask("PUT", ("Content-Range", "bytes 0-4/10"), ("Content-Length", "5"), body=b"hello")
    assert problem(refused) == (405, "method_refused")
    assert refused.fields["allow"] == "GET, HEAD"  # 15.5.6: MUST


# --- other contents ------------------------------------------------------------------------------------------


@pytest.fixture(params=["place", "door"])
def stored(
    request: pytest.FixtureRequest, shared_server: Any, origin: Origin
) -> Callable[..., tuple[Target, Resource]]:
    """Store a content of the origin's; where it is."""

    def store(resource: Resource) -> tuple[Target, Resource]:
        origin.serve("/f", resource)
        api = Api(shared_server)
        path = api.store(origin.url("/f")) if request.param == "place" else f"/r/{origin.url('/f')}"
        head = api.ask("HEAD", path)
        body = resource.body
        assert isinstance(body, bytes)
        return Target(api, path, body, head.fields["etag"]), resource

    return store


def test_8_4_a_coding_is_named_and_ranges_are_of_it(stored: Callable[..., tuple[Target, Any]]) -> None:
    """8.4: "MUST generate a Content-Encoding"; 8.4 and 8.8.3.3: representation, length, ETag, ranges are the coded."""
    body = b"day,mm\n" * 100
    target, coded = stored(Coded(body))
    answer = target.get(("Accept-Encoding", "identity;q=1, *;q=0"))
    assert answer.fields["content-encoding"] == "gzip"
    assert (gzip.decompress(answer.body), len(answer.body)) == (body, int(answer.fields["content-length"]))
    part = target.get(("Range", "bytes=3-7"))
    assert (part.body, part.fields["content-encoding"]) == (coded.coded[3:8], "gzip")
    assert part.fields["content-range"] == f"bytes 3-7/{len(coded.coded)}"


def test_8_4_identity_is_no_coding(stored: Callable[..., tuple[Target, Any]]) -> None:
    """8.4: reserved for Accept-Encoding."""
    target, _ = stored(Resource(b"x", fields=[("Content-Encoding", "identity")]))
    assert "content-encoding" not in target.get().fields


def test_8_8_2_1_no_date_is_in_the_future(stored: Callable[..., tuple[Target, Any]]) -> None:
    """8.8.2.1: a Last-Modified later than Date MUST NOT be generated, whatever the origin's clock says; and what
    is not sent is no condition."""
    target, _ = stored(Resource(b"x", last_modified="Fri, 31 Dec 2999 23:59:59 GMT"))
    assert "last-modified" not in target.get().fields
    assert target.get(("If-Modified-Since", "Fri, 31 Dec 2999 23:59:59 GMT")).status == 200
    assert target.get(("If-Unmodified-Since", DATE)).status == 200


def test_8_8_2_2_a_date_of_this_second_is_weak(stored: Callable[..., tuple[Target, Any]]) -> None:
    """8.8.2.2: it may have changed again in that second, so no range is combined by it."""
    # A moment ahead: it is of the second in which it is fetched, or of a later one, however long that takes.
    date = http_date(datetime.now(UTC) + timedelta(seconds=10))
    target, _ = stored(Resource(b"0123456789", last_modified=date))
    resumed = target.get(("Range", "bytes=5-"), ("If-Range", date))
    assert (resumed.status, resumed.body) == (200, b"0123456789")


@pytest.mark.parametrize("date", [None, "nonsense"])
def test_13_1_3_without_a_date_conditions_on_dates_are_ignored(
    stored: Callable[..., tuple[Target, Any]], date: str | None
) -> None:
    """13.1.3 and 13.1.4: they MUST be ignored when the resource has no modification date."""
    target, _ = stored(Resource(b"x", fields=[] if date is None else [("Last-Modified", date)]))
    assert "last-modified" not in target.get().fields
    assert target.get(("If-Modified-Since", DATE)).status == 200
    assert target.get(("If-Unmodified-Since", DATE)).status == 200


def test_8_8_1_other_bytes_have_another_entity_tag(stored: Callable[..., tuple[Target, Any]]) -> None:
    """8.8.1: a strong validator MUST change with each change of the bytes, also when the origin has none."""
    target, resource = stored(Resource(b"old", etag=None))
    place = target.ask("HEAD").fields.get("content-location", target.path)
    resource.change(b"newer", etag=None)
    new = target.api.get(target.api.fetch(place.split("/")[3], refresh="always"))
    assert new.body == b"newer"
    assert new.fields["etag"] != target.etag


# --- what is still landing ------------------------------------------------------------------------------------


def test_what_lands_answers_conditions_and_ranges_as_what_is_there(shared_server: Any, origin: Origin) -> None:
    """Sections 13 and 14 once more, while only a part of the bytes is there; where the status needs none of them."""
    body, go_on = blob(200_000), threading.Event()
    origin.serve("/f", Stall(Resource(body, last_modified=DATE, media_type="text/csv"), 1000, go_on))
    api = Api(shared_server)
    with api.dial("GET", f"/r/{origin.url('/f')}") as coming:
        coming.read(1)
        target = Target(api, coming.fields["content-location"], body, coming.fields["etag"])
    for case, pairs, status in PRECONDITIONS:
        assert target.ask("HEAD", *pairs).status == status, case
        if status != 200:
            assert target.get(*pairs).status == status, case
    for case, value, expected in RANGES:
        if expected == 416:
            assert target.get(("Range", value)).status == 416, case
        elif expected is not None and all(0 <= first <= last < 900 for first, last in expected):
            test_14_ranges(target, case, value, expected)
    # Its date is no strong validator before it is known when the origin answered.
    assert target.get(("Range", "bytes=0-9"), ("If-Range", "{e}")).body == body[:10]
    go_on.set()
    assert target.get().body == body


# --- other people's clients ------------------------------------------------------------------------------------


def needs(program: str) -> Any:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


def run(*argv: str | Path, cwd: Path) -> None:
    """Run a client to its good end, whatever its user has configured."""
    env = {"PATH": "/usr/bin:/bin:/usr/local/bin:/opt/homebrew/bin", "HOME": str(cwd), "LC_ALL": "C"}
    done = subprocess.run(
        [str(part) for part in argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, (argv, done)


@pytest.fixture
def large(shared_server: Any, module_origin: Origin) -> tuple[str, bytes, str]:
    """The URL of a stored content, its bytes, and the URL of its door."""
    body = blob(5_000_000)
    module_origin.serve("/large.bin", Resource(body))
    path = Api(shared_server).store(module_origin.url("/large.bin"))
    return shared_server.url + path, body, f"{shared_server.url}/r/{module_origin.url('/large.bin')}"


@needs("curl")
def test_curl_resumes_and_takes_parts(large: tuple[str, bytes, str], tmp_path: Path) -> None:
    """``-C -`` goes on where a file ends, ``-r`` takes what it asks for, ``-z`` and ETags save the second time."""
    place, body, door = large
    for url in (place, door):
        out = tmp_path / "out"
        out.write_bytes(body[:1_234_567])
        run("curl", "-sS", "-f", "-C", "-", "-o", out, url, cwd=tmp_path)
        assert out.read_bytes() == body
        run("curl", "-sS", "-f", "-r", "100-199", "-o", out, url, cwd=tmp_path)
        assert out.read_bytes() == body[100:200]
        run("curl", "-sS", "-f", "-r", "-5", "-o", out, url, cwd=tmp_path)
        assert out.read_bytes() == body[-5:]
        run("curl", "-sS", "-f", "-OJ", url, cwd=tmp_path)
        assert (tmp_path / "large.bin").read_bytes() == body
        (tmp_path / "large.bin").unlink()
        run("curl", "-sS", "-f", "--etag-save", "etag", "-o", out, url, cwd=tmp_path)
        assert out.read_bytes() == body
        out.unlink()
        run("curl", "-sS", "-f", "--etag-compare", "etag", "-o", out, url, cwd=tmp_path)
        assert not out.exists() or out.read_bytes() == b""


@needs("aria2c")
def test_aria2_takes_it_in_pieces(large: tuple[str, bytes, str], tmp_path: Path) -> None:
    """Over several connections at once; the checksum is its own."""
    place, body, door = large
    for url in (place, door):
        digest = hashlib.sha256(body).hexdigest()
        run(
            "aria2c", "-q", "--no-conf", "-x4", "-s4", "-k1M", "--allow-overwrite", f"--checksum=sha-256={digest}",
            "-d", tmp_path, "-o", "out", url, cwd=tmp_path,
        )  # fmt: skip
        assert (tmp_path / "out").read_bytes() == body


@needs("wget")
def test_wget_goes_on(large: tuple[str, bytes, str], tmp_path: Path) -> None:
    """``-c`` where a file ends; a file that is whole is left as it is."""
    place, body, door = large
    for url in (place, door):
        out = tmp_path / "out"
        out.write_bytes(body[:1_234_567])
        for _ in range(2):
            run("wget", "-q", "--no-config", "-c", "-O", out, url, cwd=tmp_path)
            assert out.read_bytes() == body


@needs("curl")
def test_curl_sees_a_cut_and_goes_on(shared_server: Any, origin: Origin, tmp_path: Path) -> None:
    """A reader of what lands that takes a part first has the rest by ``-C -``; several read at once."""
    body, go_on = blob(3_000_000), threading.Event()
    origin.serve("/f", Stall(Resource(body), 1_000_000, go_on))
    url = f"{shared_server.url}/r/{origin.url('/f')}"
    run("curl", "-sS", "-f", "-r", "0-499999", "-o", tmp_path / "0", url, cwd=tmp_path)
    with ThreadPoolExecutor() as pool:
        resuming = [pool.submit(_resume, url, body[:500_000], tmp_path / str(number)) for number in range(4)]
        go_on.set()
        assert all(future.result() == body for future in resuming)
    assert len(origin.requests("/f")) == 1


def _resume(url: str, first: bytes, out: Path) -> bytes:
    out.write_bytes(first)
    run("curl", "-sS", "-f", "-C", "-", "-o", out, url, cwd=out.parent)
    return out.read_bytes()
