"""The door, ``/r/<url>``: which URL is meant, which version goes out, and what is said of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import forebay
from forebay.clock import unix_now
from origin import Held, Origin, Redirect, Resource, Status, blob
from raw import Api, Whole, digest_field, problem

Serve = Callable[..., Any]
BODY = blob(1000)
DAY_S = 86_400.0


@pytest.fixture
def api(shared_server: Any) -> Api:
    return Api(shared_server)


def door(url: str) -> str:
    return f"/r/{url}"


def cache_status(answer: Whole) -> list[str]:
    """What Cache-Status says, without the seconds."""
    return [re.sub(r"^ttl=-?\d+$", "ttl=…", part) for part in answer.fields["cache-status"].split("; ")]


def request_of(answer: Whole) -> str:
    """The path of the Request whose content *answer* is."""
    return answer.fields["content-location"].partition("/response")[0]


# --- which URL is meant --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behind", "seen"),
    [
        ("{o}/a", "/a"),
        ("{o}", "/"),
        ("{o}/", "/"),
        ("{o}//a///b", "//a///b"),
        ("{o}/a/../b/./c", "/a/../b/./c"),
        ("{o}/a%2Fb%20c%25", "/a%2Fb%20c%25"),
        ("{o}/k%C3%A4se", "/k%C3%A4se"),
        ("{o}/käse", "/k%C3%A4se"),
        ("{o}/a;b=1,c!$'()*+@:~", "/a;b=1,c!$'()*+@:~"),
        ("{o}/http://other.example/x", "/http://other.example/x"),
        ("{mangled}/a//b", "/a//b"),
        ("{quoted}%2Fa%2520b", "/a%20b"),
        ("{quoted}%2Fa%20b", "/a%20b"),
        ("{quoted}%2Fa%3Fx%3D1%26y%3D%2526", "/a?x=1&y=%26"),
        ("{quoted}%2Fa%23part?x=1", "/a?x=1"),
        ("{o}/a?x=1&y=%26&&z", "/a?x=1&y=%26&&z"),
        ("{o}/a?q=http://h/?x", "/a?q=http://h/?x"),
        ("{o}/a?forebay-verified=1&x=1", "/a?x=1"),
        ("{o}/a?x=1&forebay-verified=1", "/a?x=1"),
        ("{o}/a?Forebay-Verified=1", "/a"),
        ("{quoted}%2Fa%3Fforebay-tag%3Dtheirs", "/a?forebay-tag=theirs"),
    ],
)
def test_the_origin_is_asked_for_the_url_that_is_meant(api: Api, origin: Origin, behind: str, seen: str) -> None:
    """``//``, ``..`` and percent-encoding are kept; what was mangled or quoted as a whole is mended."""
    origin.serve("*", Resource(BODY))
    base = origin.url("")
    target = behind.format(o=base, mangled=base.replace("//", "/"), quoted=quote(base, safe=""))
    answer = api.ask("GET", door(target).encode())
    assert (answer.status, answer.body) == (200, BODY)
    (asked,) = origin.requests()
    assert asked.path + ("?" + asked.query if asked.query else "") == seen


def test_all_ways_to_write_a_url_are_one_request(api: Api, origin: Origin) -> None:
    """One GET at the origin, one version."""
    origin.serve("/a", Resource(BODY))
    url = origin.url("/a")
    ways = [url, url.replace("//", "/"), quote(url, safe=""), quote(url), url.replace("http", "HTTP")]
    places = {api.get(door(way)).fields["content-location"] for way in ways}
    assert len(places) == 1
    assert len(origin.requests("/a")) == 1


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        ("", "only URLs that begin with http"),
        ("ftp://h/a", "only URLs that begin with http"),
        ("file:///etc/passwd", "only URLs that begin with http"),
        ("forebay://call/x", "only URLs that begin with http"),
        ("example.org/a", "only URLs that begin with http"),
        ("http://", "no host"),
        ("http://h:99999/a", "port"),
        ("http://h%20h/", "host"),
        ("http%3A%2F%2Fh%2F%FF", "UTF-8"),
        ("http://h/" + "a" * 9000, "longer than 8192"),
        ("http://user:s3cret@h/a", "user name or password"),
        ("http%3A%2F%2Fuser%3As3cret%40h%2Fa", "user name or password"),
        ("http://h/a%00\x7f", None),
    ],
)
def test_what_is_no_url_is_refused(api: Api, behind: str, reason: str | None) -> None:
    """422 that says what is wrong with it, and no secret; or 400 where it is not even HTTP."""
    answer = api.get(door(behind))
    if reason is None:
        assert answer.status in (400, 422)
        return
    assert problem(answer) == (422, "url_invalid")
    assert reason in json.loads(answer.body)["detail"]
    assert b"s3cret" not in answer.body


def test_the_gate_stands_behind_the_door(serve: Serve, origin: Origin) -> None:
    """An address of this machine is refused unless the operator allows it; nothing is dialled."""
    origin.serve("/a", Resource(BODY))
    answer = Api(serve(env={"FOREBAY_ALLOW_PRIVATE": "false"})).get(door(origin.url("/a")))
    assert problem(answer) == (403, "origin_refused")
    assert origin.connections == 0


# --- which version goes out --------------------------------------------------------------------------------


def test_a_cold_url_is_fetched_and_then_it_is_there(api: Api, origin: Origin) -> None:
    """One GET at the origin; how the answer was come by, how old it is and where it stays."""
    origin.serve("/a", Resource(BODY, media_type="text/csv"))
    first = api.get(door(origin.url("/a")))
    assert (first.status, first.body, first.fields["content-type"]) == (200, BODY, "text/csv")
    assert cache_status(first) == ["forebay", "fwd=uri-miss", "ttl=…", "stored"]
    assert (first.fields["age"], first.fields["cache-control"]) == ("0", "no-cache")
    assert first.fields["repr-digest"] == digest_field(BODY)
    for _ in range(3):
        again = api.get(door(origin.url("/a")))
        assert (again.status, again.body) == (200, BODY)
        assert cache_status(again) == ["forebay", "hit", "ttl=…"]
        assert again.fields["etag"] == first.fields["etag"]
    assert len(origin.requests("/a")) == 1
    place = api.get(first.fields["content-location"])
    assert (place.body, place.fields["etag"]) == (BODY, first.fields["etag"])


def test_a_cold_head_has_the_fields(api: Api, origin: Origin) -> None:
    """And the content is there for the next one."""
    origin.serve("/a", Resource(BODY))
    head = api.ask("HEAD", door(origin.url("/a")))
    assert (head.status, head.body, head.fields["content-length"]) == (200, b"", "1000")
    assert [seen.method for seen in origin.requests("/a")] == ["GET"]
    got = api.get(door(origin.url("/a")))
    assert (got.body, got.fields["etag"]) == (BODY, head.fields["etag"])
    assert len(origin.requests("/a")) == 1


def test_conditions_and_ranges_hold_at_the_door(api: Api, origin: Origin) -> None:
    """304 with what a cache needs (RFC 9110 section 15.4.5), 206, 412, 416."""
    origin.serve("/a", Resource(BODY))
    target = door(origin.url("/a"))
    etag = api.get(target).fields["etag"]
    known = api.get(target, ("If-None-Match", etag))
    assert (known.status, known.body) == (304, b"")
    assert {"etag", "cache-control", "content-location", "age", "cache-status", "date"} <= set(known.fields)
    assert "content-type" not in known.fields
    part = api.get(target, ("Range", "bytes=10-19"), ("If-Range", etag))
    assert (part.status, part.body) == (206, BODY[10:20])
    assert problem(api.get(target, ("If-Match", '"x"'))) == (412, "precondition_failed")
    assert problem(api.get(target, ("Range", "bytes=1000-"))) == (416, "range_not_satisfiable")


def test_what_is_stale_is_asked_for_again(api: Api, origin: Origin, let_pass: Callable[..., None]) -> None:
    """By its validator: 304 keeps the version and makes it fresh; a new content is a new version, with a link back."""
    resource = origin.serve("/a", Resource(b"old"))
    target = door(origin.url("/a"))
    first = api.get(target)
    let_pass(api.served, DAY_S)
    same = api.get(target)
    assert cache_status(same) == ["forebay", "fwd=stale", "fwd-status=304", "ttl=…"]
    assert (same.body, same.fields["etag"], resource.not_modified) == (b"old", first.fields["etag"], 1)
    assert same.fields["age"] == "0"
    assert cache_status(api.get(target)) == ["forebay", "hit", "ttl=…"]
    resource.change(b"new", etag='"v2"')
    let_pass(api.served, DAY_S)
    new = api.get(target)
    assert cache_status(new) == ["forebay", "fwd=stale", "ttl=…", "stored"]
    assert new.body == b"new"
    assert new.fields["etag"] != first.fields["etag"]


def test_the_age_is_that_of_the_last_word_of_the_origin(
    api: Api, origin: Origin, let_pass: Callable[..., None]
) -> None:
    """RFC 9111 section 5.1: seconds since it was fetched or confirmed; with what is left of its freshness."""
    origin.serve("/a", Resource(BODY))
    target = door(origin.url("/a"))
    api.get(target)
    let_pass(api.served, 3600)
    hit = api.get(target)
    age, ttl = int(hit.fields["age"]), int(hit.fields["cache-status"].partition("ttl=")[2])
    assert 3600 <= age < 3700
    assert age + ttl in (6 * 3600 - 1, 6 * 3600)


def test_when_the_origin_fails_the_last_good_version_goes_out(
    api: Api, origin: Origin, let_pass: Callable[..., None]
) -> None:
    """Marked as stale, with the reason; and the origin is asked again by the next one."""
    resource = Resource(BODY)
    origin.serve("/a", resource)
    target = door(origin.url("/a"))
    first = api.get(target)
    let_pass(api.served, DAY_S)
    origin.serve("/a", Status(500))
    for _ in range(2):
        stale = api.get(target)
        assert (stale.status, stale.body, stale.fields["etag"]) == (200, BODY, first.fields["etag"])
        assert cache_status(stale) == ["forebay", "hit", "ttl=…", "detail=origin_status"]
        assert int(stale.fields["cache-status"].partition("ttl=")[2].partition(";")[0]) < 0
        assert int(stale.fields["age"]) >= DAY_S
    origin.serve("/a", resource)
    assert cache_status(api.get(target))[1] == "fwd=stale"


def test_where_there_is_nothing_good_the_failure_goes_out(api: Api, origin: Origin) -> None:
    """502 when the origin answered badly, 504 when it did not; to HEAD without the body."""
    origin.serve("/a", Status(500, b"secret of the origin"))
    answer = api.get(door(origin.url("/a")))
    assert problem(answer) == (502, "origin_status")
    assert b"secret of the origin" not in answer.body
    assert problem(api.get(door("http://127.0.0.1:1/"))) == (504, "origin_unreachable")
    head = api.ask("HEAD", door(origin.url("/a")))
    assert (head.status, head.body) == (502, b"")


def test_a_redirect_is_followed(api: Api, origin: Origin) -> None:
    """The content is that of its end, under the URL that was asked for."""
    origin.serve("/a", Redirect("/b"))
    origin.serve("/b", Resource(BODY))
    assert api.get(door(origin.url("/a"))).body == BODY


def test_a_request_that_is_fetched_at_each_ask(api: Api, origin: Origin) -> None:
    """Its strategy says so: nothing is kept ready at the door."""
    resource = origin.serve("/a", Resource(b"0"))
    strategy = {"recaching_strategy": {"strategy_name": "when_requested"}}
    api.store(origin.url("/a"), cache_configuration=strategy)
    for number in range(1, 4):
        resource.change(b"%d" % number, etag=f'"{number}"')
        assert api.get(door(origin.url("/a"))).body == b"%d" % number
    assert api.get(door(origin.url("/a"))).fields["cache-status"].startswith("forebay; fwd=stale; fwd-status=304")


def test_a_fresh_version_goes_out_while_another_is_fetched(api: Api, origin: Origin) -> None:
    """Somebody else wants it newer; that is no reason to wait."""
    resource = Resource(b"old")
    origin.serve("/a", resource)
    target = door(origin.url("/a"))
    first = api.get(target)
    held = origin.serve("/a", Held(Resource(b"new", etag='"v2"')))
    api.json("POST", f"{request_of(first)}/refresh")
    held.arrived()
    for query in ("", "?forebay-verified=1"):
        hit = api.get(target + query)
        assert (hit.body, cache_status(hit)) == (b"old", ["forebay", "hit", "ttl=…"])
    held.release()


@pytest.mark.parametrize(
    ("size", "damaged"), [(1001, bytes(1001)), (1002, b"short"), (1003, None), (200_000, b"short"), (200_001, None)]
)
def test_a_damaged_content_is_fetched_anew(api: Api, origin: Origin, size: int, damaged: bytes | None) -> None:
    """Found when it is read for the first time: whoever reads gets the right bytes all the same, of the same
    version."""
    body = blob(size)
    resource = origin.serve("/a", Resource(body))
    version = api.store(origin.url("/a"))
    place = api.served.folder / "content" / hashlib.sha256(body).hexdigest()
    place.chmod(0o600)
    if damaged is None:
        place.unlink()
    else:
        place.write_bytes(damaged)
    for _ in range(2):
        answer = api.get(door(origin.url("/a")))
        assert (answer.status, answer.body, answer.fields["content-location"]) == (200, body, version)
    assert resource.gets == 2


def test_what_is_damaged_after_somebody_had_it_is_found_all_the_same(api: Api, origin: Origin) -> None:
    """What is known to be fresh is looked at each time it goes out."""
    body = blob(200_002)
    resource = origin.serve("/a", Resource(body))
    place = api.served.folder / "content" / hashlib.sha256(body).hexdigest()
    for _ in range(2):
        for _ in range(2):
            assert api.get(door(origin.url("/a"))).body == body
        place.unlink()
    assert api.get(door(origin.url("/a"))).body == body
    assert resource.gets == 3


# --- parameters of our own ----------------------------------------------------------------------------------


def test_versions_and_tags_are_had_by_name(api: Api, origin: Origin) -> None:
    """Nothing is fetched for them; what is not there is not found."""
    resource = origin.serve("/a", Resource(b"old"))
    target = door(origin.url("/a"))
    first = api.get(target)
    request = request_of(first)
    old = first.fields["content-location"].split("/")[-2]
    api.json("PUT", f"{request}/cache-config", {"max_cached_unpinned_versions": 9})
    api.json("PUT", f"{request}/response/v/{old}/tag", {"value": "good"})
    resource.change(b"new", etag='"v2"')
    api.fetch(request.rpartition("/")[2], refresh="always")
    gets = resource.gets
    assert api.get(target).body == b"new"
    for query in (f"?forebay-version={old}", "?forebay-tag=good", "?forebay-tag=good&forebay-tag=good"):
        named = api.get(target + query)
        assert (named.body, named.fields["etag"]) == (b"old", first.fields["etag"])
        assert named.fields["content-location"] == first.fields["content-location"]
        assert cache_status(named) == ["forebay", "hit"]
        assert 'rel="successor-version"' in named.fields["link"]
    # A name is one version for ever; what has a tag may be another one tomorrow.
    assert "immutable" in api.get(f"{target}?forebay-version={old}").fields["cache-control"]
    assert api.get(f"{target}?forebay-tag=good").fields["cache-control"] == "no-cache"
    for query in ("?forebay-version=20200101T000000000000Z", "?forebay-tag=other"):
        assert problem(api.get(target + query)) == (404, "version_unknown")
    assert problem(api.get(door(origin.url("/b?forebay-tag=good")))) == (404, "version_unknown")
    assert resource.gets == gets
    assert origin.requests("/b") == []
    api.json("DELETE", f"{request}/response/v/{old}")
    assert problem(api.get(f"{target}?forebay-tag=good")) == (404, "version_unknown")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("forebay-colour=1", "forebay-colour"),
        ("forebay-=1", "forebay-"),
        ("forebay-tag=x", "tag"),
        ("forebay-tag=a%20b", "tag"),
        ("forebay-tag=good&forebay-version=20200101T000000000000Z", "forebay-tag"),
        ("forebay-verified=yes", "forebay-verified"),
        ("forebay-verified", "forebay-verified"),
    ],
)
def test_a_parameter_that_means_nothing_is_refused(api: Api, origin: Origin, query: str, field: str) -> None:
    """422 that names it; nothing is fetched."""
    answer = api.get(door(origin.url(f"/a?{query}")))
    assert problem(answer) == (422, "value_invalid")
    assert json.loads(answer.body)["field"] == field
    assert origin.requests() == []


@pytest.mark.parametrize("query", ["forebay-colour=1", "forebay-tag=good", "forebay-verified=yes"])
def test_nor_is_it_taken_where_a_version_is(api: Api, origin: Origin, query: str) -> None:
    """Whether that is stored, was never there, or is asked for with what else; before anything is looked up."""
    origin.serve("/a", Resource(BODY))
    place = api.store(origin.url("/a"))
    for target in (place, place.replace("/v/", "/v/0")):
        for more in ("", "x=1&"):
            answer = api.get(f"{target}?{more}{query}")
            assert problem(answer) == (422, "value_invalid")
            assert json.loads(answer.body)["field"] == query.partition("=")[0]
    assert api.get(f"{place}?forebay-verified=1&x=1").body == BODY


def test_a_named_version_that_failed_says_why(api: Api, origin: Origin) -> None:
    """At the door as at its own place."""
    origin.serve("/f", Status(500, b""))
    made = api.json("PUT", "/v1/request/", {"url": origin.url("/f")})
    assert problem(api.get(door(origin.url("/f")))) == (502, "origin_status")
    version = api.json("GET", f"/v1/request/{made['id']}/response/latest")["version"]
    for target in (
        f"/v1/request/{made['id']}/response/v/{version}/content",
        door(origin.url(f"/f?forebay-version={version}")),
    ):
        assert problem(api.get(target)) == (502, "origin_status")


# --- who asks, and how ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO"])
def test_another_method_is_refused(api: Api, origin: Origin, method: str) -> None:
    """405 with the two that are there; nothing is fetched."""
    answer = api.ask(method, door(origin.url("/a")), ("Content-Length", "2"), body=b"{}")
    assert problem(answer) == (405, "method_refused")
    assert answer.fields["allow"] == "GET, HEAD"
    assert origin.requests() == []


@pytest.mark.parametrize(
    ("field", "status", "code"),
    [
        (("Sec-Fetch-Site", "cross-site"), 403, "cross_site_refused"),
        (("Sec-Fetch-Site", "same-site"), 403, "cross_site_refused"),
        (("Origin", "http://evil.example"), 403, "cross_site_refused"),
        (("Origin", "null"), 403, "cross_site_refused"),
        (("Host", "evil.example"), 421, "host_refused"),
        (("Sec-Fetch-Site", "none"), 200, ""),
        (("Sec-Fetch-Site", "same-origin"), 200, ""),
    ],
)
def test_a_page_of_another_site_gets_nothing_fetched(
    api: Api, origin: Origin, field: tuple[str, str], status: int, code: str
) -> None:
    """Not even what is stored; a URL that somebody typed is welcome."""
    origin.serve("/a", Resource(BODY))
    answer = api.get(door(origin.url("/a")), field)
    if status == 200:
        assert answer.status == 200
    else:
        assert problem(answer) == (status, code)
        assert origin.requests() == []


def test_each_group_has_a_door_of_its_own(serve: Serve, origin: Origin, tmp_path: Path) -> None:
    """A token registers in its group, and is never shown what another one has had fetched a moment ago."""
    with forebay.open(tmp_path / "served") as bay:
        secrets = {name: bay.tokens.add(name, ["read"], group=name, now=unix_now())[1] for name in ("blue", "red")}
        secrets["all"] = bay.tokens.add("all", ["read"], now=unix_now())[1]
    served = serve()
    origin.serve("/a", Resource(lambda seen: b"%d" % seen.number, etag=None))
    apis = {name: Api(served, secret) for name, secret in secrets.items()}
    bodies = [{name: api.get(door(origin.url("/a"))).body for name, api in apis.items()} for _ in range(3)]
    assert bodies[0] == {"blue": b"1", "red": b"2", "all": b"3"}
    assert bodies[1] == bodies[2] == bodies[0]
    assert problem(Api(served).get(door(origin.url("/a")))) == (401, "token_missing")
    tagged = door(origin.url("/a?forebay-tag=good"))
    assert {problem(api.get(tagged)) for api in apis.values()} == {(404, "version_unknown")}


def test_a_hundred_at_a_cold_door_cost_one_get(api: Api, origin: Origin) -> None:
    """Whoever comes while it is fetched waits for the same."""
    held = origin.serve("/a", Held(Resource(BODY)))
    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(api.get, door(origin.url("/a"))) for _ in range(100)]
        held.arrived()
        held.release()
        answers = [future.result() for future in asked]
    assert {(answer.status, answer.body) for answer in answers} == {(200, BODY)}
    assert len(origin.requests("/a")) == 1


def test_no_secret_of_a_url_comes_back(api: Api, origin: Origin) -> None:
    """Neither in a field nor in the reason of a failure."""
    origin.serve("/a", Resource(BODY))
    origin.serve("/b", Status(500))
    stored = api.get(door(origin.url("/a?token=s3cret")))
    failed = api.get(door(origin.url("/b?token=s3cret")))
    unknown = api.get(door(origin.url("/a?token=s3cret&forebay-tag=other")))
    assert (stored.status, failed.status, unknown.status) == (200, 502, 404)
    for answer in (stored, failed, unknown):
        assert b"s3cret" not in answer.body
        assert "s3cret" not in repr(answer.fields.pairs)
