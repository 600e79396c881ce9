"""Stored versions as they go out: what each answer says, and that its bytes are those."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import socket
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay.clock import unix_now
from origin import Chunked, CloseDelimited, Coded, Held, Origin, Resource, Status, blob
from raw import Api, address_of, digest_field, problem, request

Serve = Callable[..., Any]
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
BODY = blob(1000)


@pytest.fixture
def api(shared_server: Any) -> Api:
    return Api(shared_server)


# --- all that a version's answer says ----------------------------------------------------------------------


def test_a_version_goes_out_with_all_that_is_known_of_it(api: Api, origin: Origin) -> None:
    """Validators, type, name, digest, life time; and it neither runs as us nor is embedded elsewhere."""
    origin.serve("/data/rain.csv", Resource(BODY, last_modified=DATE, media_type="text/csv; charset=utf-8"))
    path = api.store(origin.url("/data/rain.csv"))
    version = path.split("/")[-2]
    answer = api.get(path)
    fields = dict(answer.fields.pairs)
    assert len(fields) == len(answer.fields.pairs)
    assert fields.pop("date")
    fields.pop("server", None)
    assert (answer.status, answer.body) == (200, BODY)
    assert fields == {
        "etag": f'"{version}.1"',
        "last-modified": DATE,
        "content-type": "text/csv; charset=utf-8",
        "content-length": "1000",
        "content-disposition": 'inline; filename="rain.csv"',
        "accept-ranges": "bytes",
        "repr-digest": digest_field(BODY),
        "cache-control": "public, max-age=31536000, immutable",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox",
        "cross-origin-resource-policy": "same-origin",
    }


@pytest.mark.parametrize("size", [1000, 65536, 65537, 3_000_000])
def test_head_is_the_same_without_the_body(api: Api, origin: Origin, size: int) -> None:
    """Whether the content is small, at the border or large; and the first time and the next ones."""
    origin.serve("/f", Resource(blob(size), last_modified=DATE))
    path = api.store(origin.url("/f"))
    for _ in range(3):
        got, head = api.get(path), api.ask("HEAD", path)
        assert (head.status, head.body, got.body) == (200, b"", blob(size))
        assert head.fields.without("date") == got.fields.without("date")


@pytest.mark.parametrize("size", [1, 1000, 65536, 65537, 3_000_000])
def test_any_part_is_the_part(api: Api, origin: Origin, size: int) -> None:
    """Whatever its place, in a small content and in a large one."""
    body = blob(size)
    origin.serve("/f", Resource(body))
    path = api.store(origin.url("/f"))
    chance = random.Random(size)
    for _ in range(20):
        first = chance.randrange(size)
        last = min(size - 1, first + chance.randrange(min(size, 1 << chance.randrange(1, 21))))
        answer = api.get(path, ("Range", f"bytes={first}-{last}"))
        assert (answer.status, answer.body) == (206, body[first : last + 1])
        assert answer.fields["content-range"] == f"bytes {first}-{last}/{size}"
        assert answer.fields["repr-digest"] == digest_field(body)


@pytest.mark.parametrize("size", [1000, 300_000])
def test_several_parts_are_a_multipart(api: Api, origin: Origin, size: int) -> None:
    """Each with its type and its place, in ascending order, those that touch as one."""
    body = blob(size)
    origin.serve("/f", Resource(body, media_type="text/csv"))
    path = api.store(origin.url("/f"))
    answer = api.get(path, ("Range", "bytes=-5, 100-199,0-9,200-249"))
    assert answer.status == 206
    assert "content-range" not in answer.fields
    head = f"Content-Type: {answer.fields['content-type']}\r\n\r\n".encode()
    parts: Any = message_from_bytes(head + answer.body).get_payload()
    assert [(part["content-range"], part.get_content_type(), part.get_payload(decode=True)) for part in parts] == [
        (f"bytes 0-9/{size}", "text/csv", body[:10]),
        (f"bytes 100-249/{size}", "text/csv", body[100:250]),
        (f"bytes {size - 5}-{size - 1}/{size}", "text/csv", body[-5:]),
    ]


def test_a_range_that_cannot_be_had_is_refused(api: Api, origin: Origin) -> None:
    """416 with the length there is; the long life of the content is not the refusal's."""
    origin.serve("/f", Resource(BODY))
    answer = api.get(api.store(origin.url("/f")), ("Range", "bytes=1000-"))
    assert problem(answer) == (416, "range_not_satisfiable")
    assert answer.fields["content-range"] == "bytes */1000"
    names = [name for name, _ in answer.fields.pairs]
    assert len(names) == len(set(names))


def test_a_refused_precondition_says_why(api: Api, origin: Origin) -> None:
    """412, and to HEAD the same without the body."""
    origin.serve("/f", Resource(BODY))
    path = api.store(origin.url("/f"))
    answer = api.get(path, ("If-Match", '"another"'))
    assert problem(answer) == (412, "precondition_failed")
    head = api.ask("HEAD", path, ("If-Match", '"another"'))
    assert (head.status, head.body) == (412, b"")
    assert head.fields.without("date") == answer.fields.without("date")


def test_if_range_resumes_what_is_the_same(api: Api, origin: Origin) -> None:
    """By the ETag or by a date that is old enough; anything else gets the whole."""
    origin.serve("/f", Resource(BODY, last_modified=DATE))
    path = api.store(origin.url("/f"))
    etag = api.ask("HEAD", path).fields["etag"]
    for known in (etag, DATE):
        answer = api.get(path, ("Range", "bytes=990-"), ("If-Range", known))
        assert (answer.status, answer.body) == (206, BODY[990:])
    for other in ('"another"', f"W/{etag}", "Sun, 06 Nov 1994 08:49:38 GMT"):
        answer = api.get(path, ("Range", "bytes=990-"), ("If-Range", other))
        assert (answer.status, answer.body) == (200, BODY)


def test_the_digest_is_left_out_where_nobody_wants_it(api: Api, origin: Origin) -> None:
    """RFC 9530 section 4: 0 is "do not"; another algorithm is not had here."""
    origin.serve("/f", Resource(BODY))
    path = api.store(origin.url("/f"))
    assert "repr-digest" not in api.get(path, ("Want-Repr-Digest", "sha-256=0")).fields
    for wish in ("sha-256=1", "sha-512=10", "md5=1, sha-256=3", "junk junk"):
        assert api.get(path, ("Want-Repr-Digest", wish)).fields["repr-digest"] == digest_field(BODY)
    etag = api.ask("HEAD", path).fields["etag"]
    resumed = (("Range", "bytes=1-"), ("If-Range", etag))
    assert "repr-digest" not in api.get(path, *resumed).fields
    assert api.get(path, *resumed, ("Want-Repr-Digest", "sha-256=1")).fields["repr-digest"] == digest_field(BODY)


def test_what_an_origin_sent_coded_goes_out_coded(api: Api, origin: Origin) -> None:
    """With its coding; ranges and digest are of the coded bytes, whatever the client accepts."""
    coded = origin.serve("/f", Coded(BODY))
    path = api.store(origin.url("/f"))
    answer = api.get(path, ("Accept-Encoding", "identity"))
    assert (answer.fields["content-encoding"], answer.body) == ("gzip", coded.coded)
    assert answer.fields["repr-digest"] == digest_field(coded.coded)
    part = api.get(path, ("Range", "bytes=5-9"))
    assert (part.status, part.fields["content-encoding"], part.body) == (206, "gzip", coded.coded[5:10])


@pytest.mark.parametrize(
    ("name", "said", "shown"),
    [
        ("/a/set.tar.gz", None, 'inline; filename="set.tar.gz"'),
        ("/download", 'attachment; filename="Jahr 2026.csv"', 'attachment; filename="Jahr 2026.csv"'),
        (
            "/download",
            "attachment; filename*=UTF-8''k%C3%A4se.csv",
            "attachment; filename=\"k_se.csv\"; filename*=UTF-8''k%C3%A4se.csv",
        ),
        ("/download", 'attachment; filename="../../etc/passwd"', 'attachment; filename="passwd"'),
    ],
)
def test_a_content_has_a_name(api: Api, origin: Origin, name: str, said: str | None, shown: str) -> None:
    """The origin's, or the URL's; never a path."""
    fields = () if said is None else (("Content-Disposition", said),)
    origin.serve(name, Resource(BODY, fields=fields))
    assert api.get(api.store(origin.url(name))).fields["content-disposition"] == shown


def test_a_page_that_was_stored_does_not_run_as_us(api: Api, origin: Origin) -> None:
    """In its own type, but in a sandbox, and no type is guessed; nor does what its origin granted hold here."""
    theirs = [
        ("Content-Security-Policy", "default-src *"),
        ("Access-Control-Allow-Origin", "*"),
        ("Set-Cookie", "a=b"),
    ]
    origin.serve("/f", Resource(b"<script>alert(1)</script>", media_type="text/html", fields=theirs))
    fields = api.get(api.store(origin.url("/f"))).fields
    assert fields["content-type"] == "text/html"
    assert fields.all("content-security-policy") == ["sandbox"]
    assert fields["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in fields
    assert "set-cookie" not in fields


@pytest.mark.parametrize("said", [None, "", "nonsense", "text/plain; charset=\x01"])
def test_a_type_that_is_none_is_that_of_bytes(api: Api, origin: Origin, said: str | None) -> None:
    """RFC 9110 section 8.3: no guess is made."""
    if said is not None and "\x01" in said:
        said = said.replace("\x01", "\x7f")
    origin.serve("/f", Resource(BODY, media_type=said))
    assert api.get(api.store(origin.url("/f"))).fields["content-type"] == "application/octet-stream"


# --- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", [Resource(b""), Chunked(b""), CloseDelimited(b"")])
def test_an_empty_content_is_a_content(api: Api, origin: Origin, behaviour: Any) -> None:
    """200 and no bytes, however its origin said so; of ranges there is none to give."""
    origin.serve("/f", behaviour)
    assert api.ask("HEAD", f"/r/{origin.url('/f')}").fields["content-length"] == "0"
    path = api.store(origin.url("/f"))
    for pairs in ((), (("Range", "bytes=0-"),), (("Range", "bytes=-1"),)):
        answer = api.get(path, *pairs)
        assert (answer.status, answer.body, answer.fields["content-length"]) == (200, b"", "0")
        assert answer.fields["repr-digest"] == digest_field(b"")


def test_a_content_of_more_than_4_gib(api: Api, origin: Origin) -> None:
    """Lengths and places are right beyond 32 bits. The file has holes: no disk has to hold it."""
    size, sha256 = (5 << 30) + 1, "5" * 64
    origin.serve("/f", Resource(BODY))
    path = api.store(origin.url("/f"))
    place = api.served.folder / "content" / sha256
    with place.open("wb") as file:
        file.truncate(size)
        file.seek(size - 4)
        file.write(b"tail")
    with contextlib.closing(sqlite3.connect(api.served.folder / "catalog.sqlite", timeout=30)) as catalog, catalog:
        catalog.execute("INSERT INTO contents (sha256, size_bytes, stored_at) VALUES (?, ?, 0)", (sha256, size))
        catalog.execute(
            "UPDATE responses SET content_sha256 = ?, size_bytes = ? WHERE version = ?",
            (sha256, size, path.split("/")[-2]),
        )
    assert api.ask("HEAD", path).fields["content-length"] == str(size)
    for value, first, body in (("bytes=-4", size - 4, b"tail"), (f"bytes={1 << 32}-{1 << 32}", 1 << 32, b"\0")):
        answer = api.get(path, ("Range", value))
        assert (answer.status, answer.body) == (206, body)
        assert answer.fields["content-range"] == f"bytes {first}-{first + len(body) - 1}/{size}"


# --- asked again -------------------------------------------------------------------------------------------


def test_who_asks_again_gets_the_same(api: Api, origin: Origin) -> None:
    """From memory or not: the same fields and bytes, whatever else was asked in between."""
    origin.serve("/f", Resource(BODY, last_modified=DATE))
    path = api.store(origin.url("/f"))
    first = api.get(path)
    etag = first.fields["etag"]
    for pairs in ((), (("Range", "bytes=0-0"),), (("If-None-Match", etag),), (("Want-Repr-Digest", "sha-256=0"),)):
        api.get(path, *pairs)
        again = api.get(path)
        assert (again.status, again.body) == (200, BODY)
        assert again.fields.without("date") == first.fields.without("date")
    assert api.get(path, ("If-None-Match", etag)).status == 304
    assert api.get(path, ("Range", "bytes=0-0")).status == 206
    assert api.get(path + "?x=1").status == 200


def test_versions_link_to_their_neighbours(api: Api, origin: Origin) -> None:
    """RFC 5829; also a version that was the last one when it was asked for first."""
    resource = origin.serve("/f", Resource(b"0"))
    always = {"recaching_strategy": {"strategy_name": "when_requested"}, "max_cached_unpinned_versions": 9}
    paths = [api.store(origin.url("/f"), cache_configuration=always)]
    assert "link" not in api.get(paths[0]).fields
    for number in (1, 2):
        resource.change(b"%d" % number, etag=f'"{number}"')
        paths.append(api.fetch(paths[0].split("/")[3]))
    first, second, third = paths
    links = [api.get(path).fields["link"] for path in paths]
    assert links == [
        f'<{second}>; rel="successor-version"',
        f'<{first}>; rel="predecessor-version", <{third}>; rel="successor-version"',
        f'<{second}>; rel="predecessor-version"',
    ]
    assert [api.get(path).body for path in paths] == [b"0", b"1", b"2"]


def test_what_was_removed_is_gone_at_once(api: Api, origin: Origin) -> None:
    """Also for who was answered from memory a moment ago; and it is back when it is had back."""
    origin.serve("/f", Resource(BODY))
    path = api.store(origin.url("/f"))
    assert [api.get(path).status for _ in range(2)] == [200, 200]
    request = path.partition("/response")[0]
    api.json("DELETE", path.removesuffix("/content"))
    assert problem(api.get(path)) == (404, "version_unknown")
    assert api.ask("HEAD", path).status == 404
    api.json("POST", f"{request}/undelete", {"version": path.split("/")[-2]})
    assert api.get(path).body == BODY


# --- versions without content of their own ------------------------------------------------------------------


def test_a_failed_version_says_why(api: Api, origin: Origin) -> None:
    """502, or 504 when there was no origin; with the code of what went wrong."""
    origin.serve("/f", Status(500, b"secret of the origin"))
    for url, status, code in (
        (origin.url("/f"), 502, "origin_status"), ("http://127.0.0.1:1/f", 504, "origin_unreachable"),
    ):  # fmt: skip
        made = api.json("PUT", "/v1/request/", {"url": url})
        refused = api.send("POST", f"/v1/request/{made['id']}/fetch", {})
        assert problem(refused) == (status, code)
        latest = api.json("GET", f"/v1/request/{made['id']}/response/latest")
        answer = api.get(f"/v1/request/{made['id']}/response/v/{latest['version']}/content")
        assert problem(answer) == (status, code)
        assert b"secret of the origin" not in answer.body


def duplicated(api: Api, origin: Origin) -> tuple[str, str]:
    """A Request whose origin had *old*, then *new*, then *new* again: the paths of the last two versions, of which
    the second is a duplicate."""
    resource = origin.serve("/f", Resource(b"old", etag=None))
    keeps_duplicates = {"strategy_name": "cron", "cron": "0 0 1 1 *"}
    first = api.store(
        origin.url("/f"),
        cache_configuration={"recaching_strategy": keeps_duplicates, "max_cached_unpinned_versions": 9},
    )
    request = first.partition("/response")[0]
    resource.change(b"new", etag=None)
    ready = api.fetch(request.rpartition("/")[2], refresh="always")
    api.fetch(request.rpartition("/")[2], refresh="always")
    latest = api.json("GET", f"{request}/response/latest")
    assert (latest["status"], latest["previous_version"]) == ("duplicate", ready.split("/")[-2])
    return ready, f"{request}/response/v/{latest['version']}/content"


def test_a_duplicate_is_the_version_that_it_equals(api: Api, origin: Origin) -> None:
    """Under that one's ETag: who has the one has the other."""
    ready, duplicate = duplicated(api, origin)
    first, second = api.get(ready), api.get(duplicate)
    assert (first.body, second.body) == (b"new", b"new")
    assert first.fields["etag"] == second.fields["etag"]
    assert api.get(duplicate, ("If-None-Match", first.fields["etag"])).status == 304


def test_a_duplicate_never_becomes_the_version_before_it(api: Api, origin: Origin) -> None:
    """When the one that it equals is removed, the ready one next to it is another content."""
    ready, duplicate = duplicated(api, origin)
    assert api.get(duplicate).body == b"new"
    api.json("DELETE", ready.removesuffix("/content"))
    answer = api.get(duplicate)
    assert (answer.status, answer.body) == (200, b"new")
    assert duplicate.split("/")[-2] in answer.fields["etag"]


def test_what_was_begun_and_was_no_news_leads_to_what_was_confirmed(api: Api, origin: Origin) -> None:
    """A version of which the origin said 304 has no row any more: who waits for it, and who asks for it later, gets
    what it equals."""
    resource = Resource(BODY)
    origin.serve("/f", resource)
    path = api.store(origin.url("/f"))
    request, _, old = path.removesuffix("/content").partition("/response/v/")
    held = origin.serve("/f", Held(resource))
    api.json("POST", f"{request}/refresh")
    held.arrived()
    begun = api.json("GET", f"{request}/response/latest")
    assert begun["version"] != old
    new = f"{request}/response/v/{begun['version']}/content"
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(api.ask, method, new) for method in ("GET", "HEAD")]
        held.release()
        answers = [future.result() for future in waiting]
    assert resource.not_modified == 1
    for answer in (*answers, api.get(new)):
        assert (answer.status, answer.fields["etag"]) == (200, f'"{old}.1"')
    assert (answers[0].body, answers[1].body, api.get(new).body) == (BODY, b"", BODY)
    later = f"{request}/response/v/29991231T000000000000Z/content"
    assert problem(api.get(later)) == (404, "version_unknown")


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["longer", "gone", "other"])
def test_a_damaged_content_is_not_served(api: Api, origin: Origin, damage: str) -> None:
    """Of a small one every byte is looked at; and from then on nobody gets it."""
    body = blob(1000, seed=len(damage))
    origin.serve("/f", Resource(body))
    path = api.store(origin.url("/f"))
    origin.serve("/f", Resource(BODY))  # it is fetched anew, perhaps at once: that is another version
    place = api.served.folder / "content" / hashlib.sha256(body).hexdigest()
    place.chmod(0o600)
    match damage:
        case "longer":
            place.write_bytes(body + b"x")
        case "gone":
            place.unlink()
        case "other":
            place.write_bytes(bytes(1000))
    assert problem(api.get(path)) == (500, "content_rotten")
    assert problem(api.get(path)) == (500, "content_rotten")
    version = api.json("GET", path.removesuffix("/content"))
    assert (version["status"], version["download_stats"]["error_code"]) == ("failed", "content_rotten")


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs Linux: drops a part of a file from memory")
def test_a_content_of_which_a_part_is_in_memory_is_not_damaged(api: Api, origin: Origin) -> None:
    """The rest is read from the disk."""
    body = blob(60_001)
    origin.serve("/f", Resource(body))
    path = api.store(origin.url("/f"))
    with (api.served.folder / "content" / hashlib.sha256(body).hexdigest()).open("rb") as file:
        os.posix_fadvise(file.fileno(), 32768, 0, os.POSIX_FADV_DONTNEED)
    answer = api.get(path)
    assert (answer.status, answer.body == body) == (200, True)


def test_what_is_fetched_again_is_sound_again(api: Api, origin: Origin) -> None:
    """The same version with the same ETag, also for who had the damaged one's fields in memory."""
    origin.serve("/f", Resource(BODY + b"!"))
    path = api.store(origin.url("/f"))
    place = api.served.folder / "content" / hashlib.sha256(BODY + b"!").hexdigest()
    place.chmod(0o600)
    place.write_bytes(b"?" * 1001)
    assert problem(api.get(path)) == (500, "content_rotten")
    api.fetch(path.split("/")[3])
    answer = api.get(path)
    assert (answer.status, answer.body) == (200, BODY + b"!")


# --- who asks, and how --------------------------------------------------------------------------------------


def test_what_is_not_known_is_not_found(api: Api, origin: Origin) -> None:
    """A Request, a version; and names that are neither."""
    origin.serve("/f", Resource(BODY))
    request = api.store(origin.url("/f")).partition("/response")[0]
    assert problem(api.get(f"/v1/request/{'0' * 32}/response/v/x/content")) == (404, "request_unknown")
    for version in ("x", "20200101T000000000000Z", "%00", "%FF", "..", "%2e%2e", "'", "x" * 5000):
        assert problem(api.get(f"{request}/response/v/{version}/content")) == (404, "version_unknown")
    head = api.ask("HEAD", f"{request}/response/v/x/content")
    assert (head.status, head.body) == (404, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO"])
def test_another_method_is_refused(api: Api, origin: Origin, method: str) -> None:
    """405 with the two that are there."""
    origin.serve("/f", Resource(BODY))
    path = api.store(origin.url("/f"))
    for target in (path, path.replace("/v/", "/v/0")):
        answer = api.ask(method, target, ("Content-Length", "2"), body=b"{}")
        assert problem(answer) == (405, "method_refused")
        assert answer.fields["allow"] == "GET, HEAD"


def test_a_get_may_bring_a_body_and_an_expectation(api: Api, origin: Origin) -> None:
    """Neither means anything (RFC 9110 sections 9.3.1 and 10.1.1), and the connection goes on."""
    origin.serve("/f", Resource(BODY))
    path = api.store(origin.url("/f"))
    for _ in range(2):
        assert api.ask("GET", path, ("Content-Length", "5"), body=b"hello").body == BODY
        assert api.ask("GET", path, ("Expect", "100-continue")).body == BODY
    with socket.create_connection(address_of(api.served.url), timeout=60) as sock:
        for pairs in ((("Content-Length", "5"), ("Expect", "100-continue")), ()):
            sock.sendall(request(api.served.url, "GET", path, pairs) + (b"hello" if pairs else b""))
            with http.client.HTTPResponse(sock, method="GET") as answer:
                answer.begin()
                assert answer.read() == BODY


def test_the_target_may_be_a_whole_url(api: Api, origin: Origin) -> None:
    """RFC 9112 section 3.2.2: a server MUST accept that."""
    origin.serve("/f", Resource(BODY))
    path = api.store(origin.url("/f"))
    assert api.get(api.served.url + path).body == BODY


def test_versions_1_0_and_1_1_get_the_same(api: Api, origin: Origin) -> None:
    """With a length, that of a small content and that of a large one."""
    for size in (1000, 1_000_000):
        origin.serve("/f", Resource(blob(size)))
        path = api.store(origin.url("/f?" + str(size)))
        answer = api.ask("GET", path, version="HTTP/1.0")
        assert (answer.status, answer.body) == (200, blob(size))
        assert answer.fields["content-length"] == str(size)


def test_no_secret_comes_back(api: Api, origin: Origin) -> None:
    """Those of a registered Request are in no field of its content, nor in the reason of a failure."""
    origin.serve("/f", Resource(lambda seen: seen.fields["authorization"].encode() * 0 + b"public"))
    secret = {"http_header_fields": {"Authorization": "Bearer s3cret"}, "http_query_params": {"api_key": "s3cret"}}
    path = api.store(origin.url("/f?token=s3cret"), **secret)
    answer = api.get(path)
    assert answer.body == b"public"
    assert "s3cret" not in repr(answer.fields.pairs)
    made = api.json("PUT", "/v1/request/", {"url": "http://127.0.0.1:1/x?token=s3cret", **secret})
    refused = api.send("POST", f"/v1/request/{made['id']}/fetch", {})
    latest = api.json("GET", f"/v1/request/{made['id']}/response/latest")
    failed = api.get(f"/v1/request/{made['id']}/response/v/{latest['version']}/content")
    missing = api.get(f"/v1/request/{made['id']}/response/v/20200101T000000000000Z/content")
    assert (failed.status, missing.status) == (504, 404)
    for answer in (refused, failed, missing):
        assert b"s3cret" not in answer.body
        assert "s3cret" not in repr(answer.fields.pairs)


def test_a_group_sees_its_own_versions_only(serve: Serve, origin: Origin, tmp_path: Path) -> None:
    """As if the others' were not there, also when they were asked for a moment ago; and no cache between shares
    what somebody may read."""
    with forebay.open(tmp_path / "served") as bay:
        secrets = {
            name: bay.tokens.add(name, ["read", "write"], group=name, now=unix_now())[1] for name in ("blue", "red")
        }
    served = serve()
    origin.serve("/f", Resource(BODY))
    blue, red, nobody = Api(served, secrets["blue"]), Api(served, secrets["red"]), Api(served)
    path = blue.store(origin.url("/f"))
    for _ in range(2):
        assert blue.get(path).body == BODY
        assert problem(red.get(path)) == (404, "request_unknown")
        assert problem(red.get(path.replace("/v/", "/v/0"))) == (404, "request_unknown")
        assert problem(nobody.get(path)) == (401, "token_missing")
    assert blue.get(path).fields["cache-control"] == "private, max-age=31536000, immutable"
    assert red.store(origin.url("/f")) != path
