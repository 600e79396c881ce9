"""Each MUST of draft-ietf-httpbis-resumable-upload that touches a server which sends no interim responses, in each
interop version, asked of a real one. Words in quotes are the drafts'.

Sections are those of -09 to -12 (version 8) unless a test says otherwise: 3 the protocol's state, 4.1 to 4.6 what is
asked of an upload resource. Versions: 3 is -01, 4 is -02, 5 is -03, 6 is -04 and -05, 7 is -06 to -08, 8 is -09 on.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from origin import blob
from raw import Api, Whole, address_of, problem, request

CREATION = "/v1/upload/"
EVERY = (3, 4, 5, 6, 7, 8, 9)
EARLY = (3, 4, 5)
PARTIAL = ("Content-Type", "application/partial-upload")
TYPES = "https://iana.org/assignments/http-problem-types#"
BODY = blob(10_000)

Pair = tuple[str, str]


@dataclass(frozen=True)
class Client:
    """A client that speaks one interop version."""

    api: Api
    version: int

    def ask(
        self, method: str, target: str, *pairs: Pair, body: bytes | None = None, chunked: bool = False
    ) -> Whole:
        """What answers; *chunked*: without saying how long the body is."""
        return self.api.ask(
            method, target, *self.fields(*pairs, body=body, chunked=chunked), body=sent(body, chunked)
        )

    def fields(self, *pairs: Pair, body: bytes | None = None, chunked: bool = False) -> list[Pair]:
        """The fields of a message with *body*."""
        fields = [("Upload-Draft-Interop-Version", str(self.version)), *pairs]
        if chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        elif body is not None:
            fields.append(("Content-Length", str(len(body))))
        return fields

    def last(self, is_last: bool) -> Pair:
        """How it says whether the upload ends with this message."""
        if self.version == 3:
            return ("Upload-Incomplete", "?0" if is_last else "?1")
        return ("Upload-Complete", "?1" if is_last else "?0")

    def create(self, body: bytes = b"", *pairs: Pair, last: bool = False, **how: Any) -> Whole:
        """Begin an upload."""
        return self.ask("POST", CREATION, self.last(last), *pairs, body=body, **how)

    def begun(self, body: bytes = b"", *pairs: Pair) -> str:
        """Where an upload is that was begun with *body*."""
        answer = self.create(body, *pairs)
        assert answer.status == 201, answer
        return answer.fields["location"]

    def append(self, place: str, offset: int, body: bytes, *pairs: Pair, last: bool = False, **how: Any) -> Whole:
        """Go on with it."""
        kind = () if self.version in EARLY else (PARTIAL,)
        told = ("Upload-Offset", str(offset))
        return self.ask("PATCH", place, self.last(last), told, *kind, *pairs, body=body, **how)

    def head(self, place: str) -> Whole:
        """What is known of it."""
        answer = self.ask("HEAD", place)
        assert answer.status == 204, answer
        return answer

    def offset(self, place: str) -> int:
        """How far it is."""
        return int(self.head(place).fields["upload-offset"])

    def is_complete(self, answer: Whole) -> bool | None:
        """What an answer says of it; None: nothing."""
        name, value = self.last(True)
        said = answer.fields.get(name.lower())
        return None if said is None else said == value

    def content(self, place: str) -> bytes:
        """The bytes of a complete upload."""
        answer = self.ask("GET", place)
        assert answer.status == 200, answer
        return answer.body


def sent(body: bytes | None, chunked: bool) -> bytes:
    """*body* as it goes over the wire."""
    if not chunked:
        return body or b""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body or b"",) if piece) + b"0\r\n\r\n"


def problem_type(answer: Whole) -> str:
    """What kind of problem *answer* tells, as the drafts name it."""
    problem(answer)
    return str(json.loads(answer.body)["type"]).removeprefix(TYPES)


@pytest.fixture(params=EVERY)
def client(request: pytest.FixtureRequest, shared_server: Any) -> Client:
    """A client of each version."""
    return Client(Api(shared_server), request.param)


@pytest.fixture
def current(shared_server: Any) -> Client:
    """A client of the current version."""
    return Client(Api(shared_server), 8)


# --- 4.2: creation -----------------------------------------------------------------------------------------


def test_4_2_all_in_one_request(client: Client) -> None:
    """What comes with the creation is the upload, when that says so; -01 and -02: the answer MUST have the offset, and
    MUST NOT say that more is to come."""
    answer = client.create(BODY, last=True)
    assert (answer.status, client.is_complete(answer)) == (201, True)
    assert answer.fields["upload-offset"] == "10000"
    assert client.content(answer.fields["location"]) == BODY


def test_4_2_a_part_of_it(client: Client) -> None:
    """ "the server MUST include the Location response header field pointing to the upload resource and MUST include the
    Upload-Limit header field"; -01 to -03: 201 and Upload-Offset."""
    answer = client.create(BODY[:4000])
    assert (answer.status, client.is_complete(answer), answer.fields["upload-offset"]) == (201, False, "4000")
    place = answer.fields["location"]
    assert re.fullmatch(r"/v1/upload/id/[0-9a-f]{32}", place)
    limit = {3: None, 4: None, 5: None, 6: r"expires=86\d{3}"}.get(client.version, r"max-age=86\d{3}")
    said = answer.fields.get("upload-limit")
    assert said is None if limit is None else re.fullmatch(limit, said)
    last = client.append(place, 4000, BODY[4000:], last=True)
    assert (last.status, client.is_complete(last), last.fields["upload-offset"]) == (201, True, "10000")
    assert client.content(place) == BODY


def test_4_2_nothing_of_it(client: Client) -> None:
    """ "The request content can be empty": to learn where the upload is; then all of it, or part after part."""
    place = client.begun()
    for start in range(0, 9000, 3000):
        answer = client.append(place, start, BODY[start : start + 3000])
        assert answer.status == (201 if client.version in EARLY else 204)
        assert (client.is_complete(answer), answer.fields["upload-offset"]) == (False, str(start + 3000))
    assert client.append(place, 9000, BODY[9000:], last=True).status == 201
    assert client.content(place) == BODY


def test_4_2_an_empty_representation(client: Client) -> None:
    """ "the client intends to upload an empty representation"."""
    answer = client.create(last=True)
    assert (answer.status, client.is_complete(answer)) == (201, True)
    assert client.content(answer.fields["location"]) == b""
    place = client.begun()
    assert client.append(place, 0, b"", last=True).status == 201
    assert client.content(place) == b""


def test_4_2_any_method_with_content(client: Client) -> None:
    """PUT creates as POST does; other methods are refused, naming these."""
    answer = client.ask("PUT", CREATION + "a.bin", client.last(False), body=BODY[:10])
    assert (answer.status, client.offset(answer.fields["location"])) == (201, 10)
    for method in ("GET", "DELETE", "HEAD", "PATCH"):
        refused = client.ask(method, CREATION)
        assert (refused.status, refused.fields["allow"]) == (405, "OPTIONS, POST, PUT")


def test_4_2_without_a_length(client: Client) -> None:
    """The length may be known only at the end: chunked, in the creation or in what is appended."""
    answer = client.create(BODY, last=True, chunked=True)
    assert client.content(answer.fields["location"]) == BODY
    place = client.begun()
    assert client.append(place, 0, BODY[:100], chunked=True).fields["upload-offset"] == "100"
    assert client.append(place, 100, BODY[100:], last=True, chunked=True).status == 201
    assert client.content(place) == BODY


def test_4_2_metadata_is_the_creations(client: Client) -> None:
    """Content-Type and Content-Disposition of the creation are those of the representation."""
    name = "inline; filename=\"x.csv\"; filename*=UTF-8''%C3%A4.csv"
    answer = client.create(b"a,b\n", ("Content-Type", "text/csv"), ("Content-Disposition", name), last=True)
    got = client.ask("GET", answer.fields["location"])
    assert got.fields["content-type"] == "text/csv"
    assert "%C3%A4.csv" in got.fields["content-disposition"]
    assert json.loads(answer.body)["fileName"] == "ä.csv"


def test_4_2_a_part_or_a_coding_is_refused(current: Client) -> None:
    """RFC 9110 section 14.4: a PUT of a part "MUST" not be taken for the whole; and nobody would be told of a coding who
    gets the content later."""
    part = current.ask("PUT", CREATION + "x", ("Content-Range", "bytes 5-9/10"), body=b"12345")
    assert problem(part) == (400, "upload_field_invalid")
    coded = current.create(b"x", ("Content-Encoding", "gzip"), last=True)
    assert problem(coded) == (415, "coding_refused")
    assert coded.fields["accept-encoding"] == "identity"
    assert current.create(b"x", ("Content-Encoding", "identity"), last=True).status == 201


def test_an_unknown_version_is_the_current_one(current: Client) -> None:
    """Whoever upgrades a plain upload must get an answer to that, whatever it speaks."""
    api = current.api
    for version in ((), ("Upload-Draft-Interop-Version", "99")):
        fields = [version] if version else []
        answer = api.ask("POST", CREATION, ("Upload-Complete", "?1"), ("Content-Length", "2"), *fields, body=b"hi")
        assert (answer.status, answer.fields["upload-complete"]) == (201, "?1")


# --- 3.3: the length ---------------------------------------------------------------------------------------


def test_3_3_the_length_is_recorded(client: Client) -> None:
    """ "The server MUST record the length", and HEAD "MUST include the length […] unless the client has not supplied
    one"."""
    assert "upload-length" not in client.head(client.begun()).fields
    assert client.head(client.begun(b"", ("Upload-Length", "10000"))).fields["upload-length"] == "10000"
    place = client.begun()
    client.append(place, 0, BODY[:100], ("Upload-Length", "10000"))
    assert client.head(place).fields["upload-length"] == "10000"


def test_3_3_lengths_must_match(client: Client) -> None:
    """ "their indicated lengths MUST match"; of a creation nothing stays, an upload goes on as before."""
    for fields in ((("Upload-Length", "9999"),), (("Upload-Length", "10001"),)):
        answer = client.create(BODY, *fields, last=True)
        assert problem(answer) == (400, "upload_length_mismatch")
        assert problem_type(answer) == "inconsistent-upload-length"
    assert problem_type(client.create(BODY, ("Upload-Length", "9999"))) == "inconsistent-upload-length"
    place = client.begun(b"", ("Upload-Length", "10000"))
    for body, fields, last in (
        (BODY[:100], (("Upload-Length", "10001"),), False),
        (BODY[:100], (), True),
        (BODY + b"x", (), False),
        (BODY + b"x", (), True),
    ):
        answer = client.append(place, 0, body, *fields, last=last)
        assert (answer.status, problem_type(answer)) == (400, "inconsistent-upload-length")
        assert client.is_complete(answer) is False
    assert client.offset(place) == 0
    assert client.append(place, 0, BODY, last=True).status == 201
    assert client.content(place) == BODY


def test_3_3_more_than_the_length(client: Client) -> None:
    """4.4: "the server MUST prevent the offset from exceeding the upload length", without relying on Content-Length; from
    -08 on by "marking the upload resource invalid"."""
    place = client.begun(b"", ("Upload-Length", "10000"))
    answer = client.append(place, 0, BODY + b"x", chunked=True)
    assert (answer.status, problem_type(answer)) == (400, "inconsistent-upload-length")
    again = client.ask("HEAD", place)
    if client.version >= 8:
        assert again.status == 404
    else:
        assert (again.status, int(again.fields["upload-offset"]) <= 10_000) == (204, True)


def test_3_3_less_than_the_length(client: Client) -> None:
    """A last part that leaves some of the length out does not complete it."""
    place = client.begun(b"", ("Upload-Length", "10000"))
    answer = client.append(place, 0, BODY[:9999], last=True, chunked=True)
    assert (answer.status, client.is_complete(answer)) == (400, False)
    assert client.is_complete(client.head(place)) is False
    assert client.append(place, client.offset(place), BODY[client.offset(place) :], last=True).status == 201
    assert client.content(place) == BODY


# --- 3.4: limits -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(serve_shared: Callable[..., Any]) -> Any:
    """A server that takes 1,000 bytes."""
    return serve_shared(env={"FOREBAY_MAX_UPLOAD_BYTES": "1000", "FOREBAY_UPLOAD_EXPIRY_S": "3600"})


@pytest.mark.parametrize("version", [6, 7, 8, 9])
def test_3_4_limits_are_told(version: int, limited: Any) -> None:
    """OPTIONS "MUST include the Accept-Patch header field"; of -05 and the editors' copy after -12: "MUST include the
    Upload-Limit header field"."""
    client = Client(Api(limited), version)
    for place in (CREATION, CREATION + "name", client.begun()):
        answer = client.ask("OPTIONS", place)
        assert (answer.status, answer.fields["accept-patch"]) == (204, "application/partial-upload")
        age = "expires" if version == 6 else "max-age"
        assert answer.fields["upload-limit"] == f"max-size=1000, {age}=3600"


@pytest.mark.parametrize("version", EVERY)
def test_3_4_over_the_limit(version: int, limited: Any) -> None:
    """413 before the body is read where the length is known, "MUST include the Upload-Limit header"; and where it is not,
    at the first byte too many."""
    client = Client(Api(limited), version)
    place = client.begun()
    for answer in (
        client.create(b"", ("Upload-Length", "1001")),
        client.create(BODY, last=True),
        client.create(BODY, last=True, chunked=True),
        client.append(place, 0, BODY, last=True),
        client.append(place, 0, BODY, chunked=True),
    ):
        assert problem(answer) == (413, "upload_too_large")
        assert client.is_complete(answer) is False
        assert version in EARLY or answer.fields["upload-limit"].startswith("max-size=1000, ")
    at = client.offset(place)
    assert client.append(place, at, BODY[:1000][at:], last=True).status == 201


# --- 4.3: what HEAD tells ----------------------------------------------------------------------------------


def test_4_3_head_tells_the_state(client: Client) -> None:
    """ "MUST include the offset […] the completeness state […] the limits", and SHOULD have Cache-Control: no-store."""
    answer = client.head(client.begun(BODY[:100]))
    assert (client.is_complete(answer), answer.fields["upload-offset"]) == (False, "100")
    assert answer.fields["cache-control"] == "no-store"
    assert ("upload-limit" in answer.fields) == (client.version not in EARLY)
    complete = client.head(client.create(BODY, last=True).fields["location"])
    assert (client.is_complete(complete), complete.fields["upload-offset"]) == (True, "10000")


@pytest.mark.parametrize("method", ["HEAD", "DELETE"])
def test_4_3_the_state_is_not_for_the_client_to_say(method: str, client: Client) -> None:
    """-01 to -03: "The server MUST reject requests with either of these fields by responding with a 400"."""
    for field in (("Upload-Offset", "0"), client.last(False)):
        answer = client.ask(method, client.begun(), field)
        assert answer.status == (400 if client.version in EARLY else 204)


def test_4_3_no_redirects_and_nothing_unknown(client: Client) -> None:
    """What is not there is 404, in any method; -01 to -03: "MUST respond with 404"."""
    for uid in ("0" * 32, "x", "..", "%2e%2e", "0" * 5000, "a/b", "%ff"):
        for method in ("HEAD", "GET", "DELETE"):
            assert client.ask(method, f"/v1/upload/id/{uid}").status == 404, uid
        assert client.append(f"/v1/upload/id/{uid}", 0, b"x").status == 404, uid


def test_4_3_what_has_expired(client: Client) -> None:
    """-01 to -03: 404; later: 410, while that it was there is known."""
    place = client.begun(BODY[:10])
    with closing(sqlite3.connect(client.api.served.folder / "catalog.sqlite", timeout=30)) as catalog, catalog:
        catalog.execute("UPDATE uploads SET expires_at = 1 WHERE id = ?", (place.rpartition("/")[2],))
    expected = 404 if client.version in EARLY else 410
    assert client.ask("HEAD", place).status == expected
    assert client.append(place, 10, BODY[10:]).status == expected


# --- 4.4: append -------------------------------------------------------------------------------------------


def test_4_4_another_offset_is_a_conflict(client: Client) -> None:
    """ "the server MUST reject the request with a 409 (Conflict)" that "MUST include the correct offset"; the problem type
    SHOULD have both."""
    place = client.begun(BODY[:100])
    for offset in (0, 99, 101, 10**14):
        answer = client.append(place, offset, BODY[offset : offset + 10])
        assert problem(answer) == (409, "upload_offset_mismatch")
        assert (answer.fields["upload-offset"], client.is_complete(answer)) == ("100", False)
        document = json.loads(answer.body)
        assert document["type"] == TYPES + "mismatching-upload-offset"
        assert (document["expected-offset"], document["provided-offset"]) == (100, offset)
    assert client.offset(place) == 100


@pytest.mark.parametrize("value", ["-1", "+100", "1e2", "100.0", "0x64", "", "x", '"100"', "1" * 16, "100, 100"])
def test_3_1_an_offset_that_is_none(value: str, client: Client) -> None:
    """ "Other values MUST cause the entire header field to be ignored": then there is none, which an append must have."""
    place = client.begun(BODY[:100])
    kind = () if client.version in EARLY else (PARTIAL,)
    answer = client.ask("PATCH", place, client.last(False), *kind, ("Upload-Offset", value), body=b"x")
    assert problem(answer) == (400, "upload_field_invalid")
    assert client.offset(place) == 100


@pytest.mark.parametrize("value", ["-1", "1e4", "x", "1" * 16])
def test_3_3_a_length_that_is_none(value: str, client: Client) -> None:
    """It is ignored, too."""
    assert "upload-length" not in client.head(client.begun(b"", ("Upload-Length", value))).fields


def test_3_2_completeness_that_is_not_said(client: Client) -> None:
    """-01: what does not say that it is incomplete is complete; -02 and -03: only what says so is; later, an append
    "MUST include the Upload-Complete header field"."""
    place = client.begun(BODY[:100])
    kind = () if client.version in EARLY else (PARTIAL,)
    for pairs in ((), ((client.last(True)[0], "1"),), ((client.last(True)[0], "true"),)):
        if client.version == 3 and client.is_complete(client.head(place)):
            break
        answer = client.ask("PATCH", place, ("Upload-Offset", "100"), *kind, *pairs, body=b"")
        assert answer.status == (201 if client.version in EARLY else 400)
    assert client.is_complete(client.head(place)) is (client.version == 3)


def test_4_4_the_media_type_of_a_part(client: Client) -> None:
    """From -04 on, an append is application/partial-upload; RFC 5789 section 2.2: 415 with Accept-Patch."""
    place = client.begun()
    told = (client.last(False), ("Upload-Offset", "0"))
    for pairs in ((), (("Content-Type", "application/octet-stream"),)):
        answer = client.ask("PATCH", place, *told, *pairs, body=b"")
        if client.version in EARLY:
            assert answer.status == 201
        else:
            assert problem(answer) == (415, "media_type_refused")
            assert answer.fields["accept-patch"] == "application/partial-upload"
    kind = ("Content-Type", "Application/Partial-Upload; x=y")
    assert client.ask("PATCH", place, *told, kind, body=b"").status < 300


def test_4_4_nothing_changes_what_is_complete(client: Client) -> None:
    """ "If the client attempted to append a non-zero length document, the server MUST treat this as an inconsistent length
    failure"."""
    place = client.create(BODY, last=True).fields["location"]
    for chunked in (False, True):
        answer = client.append(place, 10_000, b"more", last=True, chunked=chunked)
        assert (answer.status, problem_type(answer)) == (400, "inconsistent-upload-length")
    for offset, last in ((0, True), (10_000, False)):
        answer = client.append(place, offset, b"", last=last)
        assert (answer.status, problem_type(answer)) == (409, "completed-upload")
    assert client.content(place) == BODY


def test_4_4_who_missed_the_last_answer_gets_it_again(client: Client) -> None:
    """Of the editors' copy after -12: "The server can choose to replay the final response". Also to who has sent all of a
    known length, and only now says that it was all."""
    place = client.begun(b"", ("Upload-Length", "10000"))
    client.append(place, 0, BODY)
    for chunked in (False, True):
        answer = client.append(place, 10_000, b"", last=True, chunked=chunked)
        assert (answer.status, client.is_complete(answer), answer.fields["upload-offset"]) == (201, True, "10000")
    assert client.content(place) == BODY


@contextmanager
def sending(client: Client, place: str, size: int, part: bytes, *pairs: Pair) -> Iterator[socket.socket]:
    """A connection on which an append of *size* bytes is being taken, and *part* of them was sent."""
    kind = () if client.version in EARLY else (PARTIAL,)
    fields = client.fields(client.last(True), ("Upload-Offset", "0"), *kind, *pairs)
    head = request(client.api.served.url, "PATCH", place, [*fields, ("Content-Length", str(size))])
    before = fence_of(client, place)
    with socket.create_connection(address_of(client.api.served.url), timeout=60) as sock:
        sock.sendall(head + part)
        wait_until(lambda: fence_of(client, place) != before)
        yield sock


def fence_of(client: Client, place: str) -> int:
    """How often somebody has begun to write an upload."""
    with closing(sqlite3.connect(client.api.served.folder / "catalog.sqlite", timeout=30)) as catalog:
        found = catalog.execute("SELECT fence FROM uploads WHERE id = ?", (place.rpartition("/")[2],)).fetchone()
        return int(found[0])


def test_4_4_a_part_that_breaks_off(client: Client) -> None:
    """ "the server SHOULD append as much of the patch document as possible", and the upload "MUST NOT be considered
    complete"; what HEAD tells is where it goes on."""
    place = client.begun()
    with sending(client, place, 10_000, BODY[:4000]):
        pass
    told = client.head(place)
    offset = int(told.fields["upload-offset"])
    assert (offset <= 4000, client.is_complete(told)) == (True, False)
    assert client.append(place, offset, BODY[offset:], last=True).status == 201
    assert client.content(place) == BODY


# --- 4.5: cancellation -------------------------------------------------------------------------------------


def test_4_5_a_cancelled_upload_is_gone(client: Client) -> None:
    """-01 to -07: "MUST respond with a 204"; complete or not."""
    for place in (client.begun(BODY[:10]), client.create(BODY, last=True).fields["location"]):
        assert client.ask("DELETE", place).status == 204
        for method in ("DELETE", "HEAD", "GET"):
            assert client.ask(method, place).status == 404
        assert client.append(place, 10, b"x").status == 404


# --- 4.6: concurrency --------------------------------------------------------------------------------------


def answer_or_end(sock: socket.socket) -> int | None:
    """The status of the answer that comes; None: the connection ends without one."""
    with sock.makefile("rb") as file:
        try:
            line = file.readline()
        except ConnectionError:
            return None
    return int(line.split()[1]) if line else None


def test_4_6_who_asks_cuts_who_sends(client: Client) -> None:
    """ "the offset sent by the server MUST be accepted in a subsequent request": whoever was still sending is terminated
    before it is told, and nothing that it sends later counts."""
    place = client.begun()
    with sending(client, place, 10_000, BODY[:4000]) as stalled:
        offset = client.offset(place)
        assert answer_or_end(stalled) in (409, None)
        assert client.append(place, offset, BODY[offset:5000]).fields["upload-offset"] == "5000"
    assert client.append(place, 5000, BODY[5000:], last=True).status == 201
    assert client.content(place) == BODY


def test_4_6_a_newer_append_takes_over(client: Client) -> None:
    """A client that reconnects is not locked out by its own dead connection: a second append goes on where the first one
    was, whatever that one still sends."""
    place = client.begun()
    with sending(client, place, 10_000, b"") as stalled:
        taken = client.append(place, 0, BODY, last=True)
        assert (taken.status, client.is_complete(taken)) == (201, True)
        assert answer_or_end(stalled) in (409, 400, None)
    assert client.content(place) == BODY


def test_4_6_a_cancellation_terminates_who_sends(client: Client) -> None:
    """ "The server SHOULD terminate any in-flight requests to the upload resource before sending the response"."""
    place = client.begun()
    with sending(client, place, 10_000, BODY[:4000]) as stalled:
        assert client.ask("DELETE", place).status == 204
        assert answer_or_end(stalled) in (404, 409, None)
    assert client.ask("HEAD", place).status == 404


# --- GET ---------------------------------------------------------------------------------------------------


def test_get_of_what_is_not_complete(client: Client) -> None:
    """After -12, GET tells what HEAD does; before, nothing is said of it, and an empty success would look like the
    content."""
    answer = client.ask("GET", client.begun(BODY[:100]))
    assert (client.is_complete(answer) or False, answer.fields.get("upload-offset")) in (
        (False, "100"),
        (False, None),
    )
    if client.version == 9:
        assert (answer.status, answer.fields["upload-offset"]) == (204, "100")
    else:
        assert problem(answer) == (409, "upload_incomplete")


def test_get_of_what_is_complete(client: Client) -> None:
    """200 and the bytes, with the fields of HEAD; a range of them; nothing for who has them."""
    place = client.create(BODY, last=True).fields["location"]
    answer = client.ask("GET", place)
    assert (answer.status, answer.body) == (200, BODY)
    assert (client.is_complete(answer), answer.fields["upload-offset"]) == (True, "10000")
    part = client.ask("GET", place, ("Range", "bytes=5-9"))
    assert (part.status, part.body) == (206, BODY[5:10])
    assert client.ask("GET", place, ("If-None-Match", answer.fields["etag"])).status == 304


# --- 8: digests --------------------------------------------------------------------------------------------


def digest(name: str, body: bytes) -> str:
    """A field of RFC 9530 with one digest."""
    raw = hashlib.new(name.replace("-", ""), body).digest()
    return f"{name}=:{base64.b64encode(raw).decode()}:"


@pytest.mark.parametrize("name", ["sha-256", "sha-512", "md5"])
def test_8_1_a_digest_of_the_whole(name: str, client: Client) -> None:
    """It is verified when the upload is whole; "the server SHOULD consider the upload failed […] and signal the failure"
    when it is another."""
    place = client.begun(BODY[:100], ("Repr-Digest", digest(name, BODY)))
    answer = client.append(place, 100, BODY[100:], last=True)
    assert (answer.status, answer.fields["repr-digest"]) == (201, digest("sha-256", BODY))
    wrong = client.begun(BODY[:100], ("Repr-Digest", digest(name, b"another")))
    answer = client.append(wrong, 100, BODY[100:], last=True)
    assert problem(answer) == (422, "upload_mismatch")
    assert problem(client.create(BODY, ("Repr-Digest", digest(name, b"another")), last=True)) == (
        422,
        "upload_mismatch",
    )
    assert client.is_complete(client.head(wrong)) is False


def test_8_1_a_digest_with_what_completes(client: Client) -> None:
    """It is verified as one at the creation is, which it takes the place of: who was wrong says what is right, and
    sends nothing again. It holds also for an upload that is complete."""
    another, right = (("Repr-Digest", digest("sha-256", body)) for body in (b"another", BODY))
    place = client.begun(BODY[:100])
    assert problem(client.append(place, 100, BODY[100:], another, last=True)) == (422, "upload_mismatch")
    assert client.is_complete(client.head(place)) is False
    size = len(BODY)
    assert problem(client.append(place, size, b"", another, last=True)) == (422, "upload_mismatch")
    assert client.append(place, size, b"", right, last=True).status == 201
    assert client.content(place) == BODY
    assert problem(client.append(place, size, b"", another, last=True)) == (422, "upload_mismatch")
    assert client.append(place, size, b"", right, last=True).status == 201
    declared = client.begun(BODY, another)
    assert problem(client.append(declared, size, b"", last=True)) == (422, "upload_mismatch")
    assert client.append(declared, size, b"", right, last=True).status == 201


@pytest.mark.parametrize("name", ["sha-256", "sha-512", "md5"])
def test_8_2_a_digest_of_a_part(name: str, client: Client) -> None:
    """ "If the digests don't match the server SHOULD […] not append the content to the upload resource"; and nothing of it
    is appended when it breaks off."""
    place = client.begun(BODY[:100], ("Content-Digest", digest(name, BODY[:100])))
    wrong = client.append(place, 100, BODY[100:200], ("Content-Digest", digest(name, BODY[:100])))
    assert problem(wrong) == (422, "upload_checksum_mismatch")
    assert client.offset(place) == 100
    with sending(client, place, 10_000, BODY[:4000], ("Content-Digest", digest(name, BODY))):
        pass
    assert client.offset(place) == 100
    right = client.append(place, 100, BODY[100:], ("Content-Digest", digest(name, BODY[100:])), last=True)
    assert right.status == 201
    assert client.content(place) == BODY


def test_8_a_digest_that_cannot_be(current: Client) -> None:
    """Malformed or of another length: refused, since its sender relies on it; of an unknown algorithm: ignored."""
    place = current.begun()
    for field in ("sha-256", "sha-256=:AAAA:", "sha-256=x", "=:"):
        assert problem(current.create(b"x", ("Repr-Digest", field), last=True)) == (400, "upload_field_invalid")
        refused = current.append(place, 0, b"x", ("Content-Digest", field))
        assert problem(refused) == (400, "upload_field_invalid")
    assert current.create(b"x", ("Repr-Digest", "unixsum=:AAAA:"), last=True).status == 201


# --- without the protocol ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_plain_upload_completes_at_once(method: str, chunked: bool, current: Client) -> None:
    """Who knows nothing of all this gets an upload, too, named by its path."""
    how = [("Transfer-Encoding", "chunked")] if chunked else [("Content-Length", "10000")]
    answer = current.api.ask(method, CREATION + "a%20b/%C3%A4.bin", *how, body=sent(BODY, chunked))
    assert answer.status == 201
    said = json.loads(answer.body)
    assert (said["fileName"], said["totalSize"]) == ("a b/ä.bin", 10_000)
    assert said["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert current.content(answer.fields["location"]) == BODY


def test_of_a_plain_upload_that_breaks_off_nothing_stays(current: Client) -> None:
    """Nobody knows where it is: its place would have been in the answer."""
    served = current.api.served
    before = uploads_of(served)
    with socket.create_connection(address_of(served.url), timeout=60) as sock:
        head = request(served.url, "PUT", CREATION + "cut", [("Content-Length", "10000")])
        sock.sendall(head + BODY[:4000])
        wait_until(lambda: uploads_of(served) - before)
    wait_until(lambda: uploads_of(served) == before)


def uploads_of(served: Any) -> set[str]:
    """Whatever is known in its folder."""
    with closing(sqlite3.connect(served.folder / "catalog.sqlite", timeout=30)) as catalog:
        return {row[0] for row in catalog.execute("SELECT id FROM uploads")}


def wait_until(is_so: Callable[[], Any]) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["chunk", "tus", "id"])
def test_reserved_names_are_no_uploads(name: str, current: Client) -> None:
    """They are other dialects' places."""
    assert current.api.ask("PUT", CREATION + name, ("Content-Length", "1"), body=b"x").status in (404, 405)


def test_another_owners_upload_is_not_there(serve: Callable[..., Any]) -> None:
    """With tokens, whoever has another one sees nothing of an upload; with none, nothing at all."""
    served = serve()
    owners = [Client(Api(served, token), 8) for token in tokens(served, 2)]
    place = owners[0].begun(BODY[:100])
    complete = owners[0].create(BODY, last=True).fields["location"]
    for where in (place, complete):
        for method in ("HEAD", "GET", "DELETE"):
            assert owners[1].ask(method, where).status == 404
            assert Client(Api(served), 8).ask(method, where).status == 401
        assert owners[1].append(where, 100, b"x").status == 404
    assert owners[0].append(place, 100, BODY[100:], last=True).status == 201
    assert owners[0].content(place) == owners[0].content(complete) == BODY


def tokens(served: Any, count: int) -> list[str]:
    """New tokens that may upload."""
    found = []
    for number in range(count):
        argv = [sys.executable, "-m", "forebay", "token", "add", f"t{number}", "--scope", "read,write", "--json"]
        made = subprocess.run([*argv, "--data", str(served.folder)], capture_output=True, text=True, check=True)
        found.append(str(json.loads(made.stdout)["secret"]))
    return found
